"""What a dry run says before it takes its step."""

import pytest

from mambamed.errors import RecipeError
from mambamed.progress import Silence
from mambamed.recipe import load_recipe
from mambamed.training import dry_run, train


class Heard(Silence):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A step needs 0.3 GiB for its two patches, about half for one."""
    monkeypatch.chdir(tmp_path)
    return load_recipe("hippocampus_nnunet", ["dataset.prepared=nowhere", "training.patch_size=[64,64,64]"])


def test_where_memory_lacks_the_step_is_taken_with_fewer_patches_and_says_so(monkeypatch, recipe) -> None:
    monkeypatch.setattr(dry_run, "free_memory_bytes", lambda: int(0.2 * 2**30))
    heard = Heard()
    step = train(recipe, dry_run=True, device="cpu", progress=heard).dry_run
    assert step is not None and step.batch_size == 1 and step.patch_size == (64, 64, 64)
    assert any(
        "needs about 0.3 GiB, 0.2 are free here: taken with 1 of 2 patches" in line for line in heard.lines
    )


def test_a_step_that_fits_is_taken_whole(monkeypatch, recipe) -> None:
    monkeypatch.setattr(dry_run, "free_memory_bytes", lambda: 2**30)
    heard = Heard()
    step = train(recipe, dry_run=True, device="cpu", progress=heard).dry_run
    assert step is not None and step.batch_size == 2
    assert not any("are free here" in line for line in heard.lines)


def test_a_step_of_which_not_one_patch_fits_is_refused_before_it_is_taken(monkeypatch, recipe) -> None:
    monkeypatch.setattr(dry_run, "free_memory_bytes", lambda: 2**26)
    with pytest.raises(
        RecipeError, match=r"one patch with gradient checkpointing needs about 0\.\d GiB, 0\.1 are"
    ):
        train(recipe, dry_run=True, device="cpu")


def test_free_memory_is_some_of_this_machines() -> None:
    free = dry_run.free_memory_bytes()
    assert free is None or 2**20 < free <= dry_run.memory_bytes()
