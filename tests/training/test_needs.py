"""Memory and disk are checked before a training starts."""

import math
import shutil

import pytest

from mambamed.errors import RecipeError, RunError
from mambamed.recipe import load_recipe
from mambamed.run.folder import Run, planned_run
from mambamed.run.workplace import choose_workplace
from mambamed.training import needs, train
from mambamed.training.imagined import ImaginedDataset
from mambamed.training.needs import check_needs, checkpoint_bytes
from tests.training.small_run import CONVOLUTIONS, small_recipe


@pytest.fixture
def run(tmp_path):
    recipe = load_recipe("hippocampus_nnunet", ["training.patch_size=[32,32,32]"])
    dataset = ImaginedDataset(recipe)
    return planned_run(recipe, dataset.plan, dataset.manifest, tmp_path / "run")


def test_a_step_that_the_memory_does_not_hold_is_rejected(run, monkeypatch) -> None:
    place, _ = choose_workplace("cpu", "fp32")
    check_needs(run, [0], place)
    monkeypatch.setattr(needs, "free_memory_bytes", lambda: 2**20)
    with pytest.raises(
        RecipeError, match=r"a training step needs about 0\.\d GiB, 0\.0 are free\. Use --fit"
    ):
        check_needs(run, [0], place)


def test_checkpoints_that_the_disk_does_not_hold_are_rejected(run, monkeypatch) -> None:
    place, _ = choose_workplace("cpu", "fp32")
    usage = type(shutil.disk_usage("/"))
    free = 2 * checkpoint_bytes(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(free, 0, free))
    check_needs(run, [0, 1], place)
    with pytest.raises(RunError, match=r"run: the checkpoints need about .* Free disk space"):
        check_needs(run, [0, 1, 2], place)
    assert not run.root.exists()


def test_the_estimate_is_what_a_training_writes(prepared, tmp_path) -> None:
    """Measured: the two files of a finished fold, and one more `last` while it is replaced."""
    train(small_recipe(CONVOLUTIONS), prepared=prepared, output=tmp_path / "run", device="cpu")
    run = Run.open(tmp_path / "run")
    best, last = (run.checkpoint(0, name).stat().st_size for name in ("best", "last"))
    assert math.isclose(checkpoint_bytes(run), best + 2 * last, rel_tol=0.25)


def test_names_that_are_not_of_the_dataset_are_found_before_the_training(prepared, tmp_path) -> None:
    """The recipe lists no labels, so that only the dataset can say which there are."""
    recipe = small_recipe(CONVOLUTIONS)
    postprocess = recipe.inference.postprocess.model_copy(update={"fill_holes": ("liver",)})
    inference = recipe.inference.model_copy(update={"postprocess": postprocess})
    faulty = recipe.model_copy(update={"inference": inference})
    with pytest.raises(
        RecipeError, match=r"recipe small: inference\.postprocess\.fill_holes: 'liver' is not"
    ):
        train(faulty, prepared=prepared, output=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
