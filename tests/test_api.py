"""A wrong path or recipe is reported before anything is imported that takes seconds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mambamed
from mambamed.errors import MambamedError
from tests.answers.stubs import stub_run, write_blobs

ROOT = Path(__file__).resolve().parents[1]
WRONG = [
    ["prepare", "absent"],
    ["prepare", "here", "--recipe", "absent"],
    ["train", "absent.yaml"],
    ["train", "hippocampus_nnmamba", "-d", "absent"],
    ["extend", "absent", "--epochs", "3"],
    ["runs", "absent"],
    ["export", "absent"],
    ["predict", "absent", "here", "-o", "x"],
    ["predict", "run", "absent", "-o", "x"],
    ["landmarks", "absent", "here", "-o", "x"],
    ["classify", "absent", "here", "-o", "x.csv"],
    ["evaluate", "absent", "absent"],
    ["evaluate", "here", "here", "--recipe", "absent"],
    ["compare", "absent", "absent_too"],
    ["convert-points", "absent", "-o", "x.csv"],
    ["import-weights", "here", "--recipe", "absent", "-o", "x"],
    ["import-weights", "absent", "--recipe", "hippocampus_nnmamba", "-o", "x"],
    ["schema", "absent"],
    ["recipes", "show", "absent"],
    ["recipes", "check", "absent"],
]


def test_a_wrong_path_or_recipe_is_reported_without_torch(tmp_path) -> None:
    stub_run(tmp_path / "run")
    (tmp_path / "here").mkdir()
    code = (
        "import sys\n"
        "from mambamed.cli import main\n"
        f"for arguments in {WRONG!r}:\n"
        "    sys.argv = ['mambamed', *arguments]\n"
        "    try:\n        main()\n"
        "    except SystemExit as end:\n        assert end.code == 2, arguments\n"
        "    heavy = {'torch', 'numba', 'matplotlib', 'dask', 'distributed'} & set(sys.modules)\n"
        "    assert not heavy, (arguments, heavy)\n"
        "sys.argv, sys.stdout = ['mambamed', 'predict', '--help'], open('help.txt', 'w')\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'numba', 'matplotlib', 'dask', 'distributed'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "--on" in (tmp_path / "help.txt").read_text()
    lines = done.stderr.splitlines()
    assert len(lines) == len(WRONG)
    assert [line for line in lines if not re.match("mambamed: .*absent", line)] == []


@pytest.mark.parametrize(
    ("given", "fact"),
    [
        (
            "runs/a/fold_0",
            r"fold_0: is one fold of a run\. Give the run, .*runs/a; --folds 0 chooses the fold\.",
        ),
        ("runs", r"runs: is not a run folder, but contains 1\. Give one of them, e\.g\. .*runs/a\."),
        ("images", r"images: is not a run folder: no recipe\.yaml\. Give a folder that 'train' wrote\."),
    ],
)
def test_a_folder_that_is_no_run_is_named_with_what_to_give(tmp_path, given, fact) -> None:
    stub_run(tmp_path / "runs" / "a")
    write_blobs(tmp_path / "images", 1)
    with pytest.raises(MambamedError, match=fact):
        mambamed.predict(tmp_path / given, tmp_path / "images", tmp_path / "out")


def test_a_folder_of_masks_is_not_compared(tmp_path) -> None:
    write_blobs(tmp_path / "masks", 1)
    with pytest.raises(
        MambamedError, match=r"masks: is not an output folder of evaluate: no summary\.json\. "
    ):
        mambamed.compare([tmp_path / "masks", tmp_path / "masks"])
