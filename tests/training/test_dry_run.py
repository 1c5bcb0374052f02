"""What a dry run says before it takes its step."""

import pytest

from mambamed.errors import RecipeError
from mambamed.recipe import load_recipe
from mambamed.training import dry_run, train


def test_a_step_that_cannot_fit_is_refused_before_it_is_taken(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run, "free_memory_bytes", lambda: 2**27)
    recipe = load_recipe("hippocampus_nnunet", ["dataset.prepared=nowhere", "training.patch_size=[64,64,64]"])
    with pytest.raises(RecipeError, match=r"needs about 0\.3 GiB, 0\.1 are free.*batch_size=1"):
        train(recipe, dry_run=True, device="cpu")


def test_free_memory_is_some_of_this_machines() -> None:
    free = dry_run.free_memory_bytes()
    assert free is None or 2**20 < free <= dry_run.memory_bytes()
