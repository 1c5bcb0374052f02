"""`mambamed.predict` and the others: paths as text, one model or several, arguments checked."""

from __future__ import annotations

from pathlib import Path

import pytest

import mambamed
from mambamed.errors import RecipeError
from tests.answers.stubs import stub_run, write_blobs


@pytest.fixture
def folders(tmp_path):
    run = stub_run(tmp_path / "run")
    write_blobs(tmp_path / "images", 1)
    return run.root, tmp_path / "images", tmp_path / "out"


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_predict_takes_text_or_paths_and_one_model_or_several(folders, kind, several) -> None:
    run, images, output = map(kind, folders)
    summary = mambamed.predict([run] if several else run, images, output, device="cpu", tta="none")
    assert not summary.faults
    assert [path.name for path in sorted(folders[2].glob("*.nii.gz"))] == ["case_0.nii.gz"]


def test_an_argument_of_another_kind_is_named(folders) -> None:
    with pytest.raises(RecipeError, match=r"^predict\(\): tta: expected 'mirror' or 'none', got 'no'\."):
        mambamed.predict(*folders, tta="no")
    with pytest.raises(RecipeError, match=r"^predict\(\): output: expected a path, got 3"):
        mambamed.predict(folders[0], folders[1], 3)


def test_every_function_is_listed_and_can_be_looked_up() -> None:
    assert set(mambamed.__all__) <= set(dir(mambamed))
    for name in mambamed.__all__:
        assert getattr(mambamed, name).__doc__


def test_no_function_has_the_name_of_a_module() -> None:
    """`import mambamed.NAME` would otherwise replace the function `mambamed.NAME`."""
    package = Path(mambamed.__file__).parent
    modules = {path.stem for path in package.iterdir()} - {"__init__"}
    assert not modules & set(mambamed.__all__)
