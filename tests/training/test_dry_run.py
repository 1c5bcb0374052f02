"""What a dry run says before it takes its step."""

from pathlib import Path

import pytest
import torch

from mambamed import memory
from mambamed.errors import RecipeError, RunError
from mambamed.progress import Silence
from mambamed.recipe import load_recipe
from mambamed.run.folder import planned_run
from mambamed.run.workplace import Workplace
from mambamed.training import dry_run, train
from mambamed.training.fit import probe_step
from mambamed.training.imagined import ImaginedDataset
from tests.exhausted import ERRORS, every_library, fails
from tests.training.small_run import small_recipe


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


def test_the_estimate_is_that_of_fit_on_a_cpu(tmp_path, recipe) -> None:
    """With loss, target and the average of the weights: 4 bytes per parameter, by hand."""
    place = Workplace(torch.device("cpu"), "fp32", torch.contiguous_format)
    found = []
    for ema in (0.0, 0.9):
        training = recipe.training.model_copy(update={"ema": ema})
        asked = recipe.model_copy(update={"training": training})
        dataset = ImaginedDataset(asked)
        run = planned_run(asked, dataset.plan, dataset.manifest, tmp_path / str(ema))
        found.append(dry_run.step_gib(run))
        sizes = run.plan.patch_size, run.plan.batch_size
        assert found[-1] == probe_step(asked, run.manifest, *sizes, place)
        weights = sum(p.numel() for p in dry_run.without_numbers(run).parameters())
    assert (found[1] - found[0]) * 2**30 == pytest.approx(4 * weights, rel=1e-6)


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
    free = memory.free_memory_bytes()
    assert free is None or 2**20 < free <= memory.memory_bytes()


@every_library
def test_exhausted_memory_names_what_a_step_takes_and_what_to_change(error, words, recipe) -> None:
    dataset = ImaginedDataset(recipe)
    run = planned_run(recipe, dataset.plan, dataset.manifest, Path("run"))
    with pytest.raises(RunError) as raised, dry_run.shortage_named(run):
        raise error
    line = str(raised.value)
    assert words in line and "2 patches of 64x64x64 takes about 0.3 GiB. Use a smaller training" in line


@pytest.mark.parametrize(
    ("one_step", "library"), [(True, "torch CPU"), (False, "cuDNN")], ids=["dry run", "training"]
)
def test_a_training_that_exhausts_the_memory_ends_in_that_line(
    one_step, library, prepared, tmp_path, monkeypatch
) -> None:
    error, _ = ERRORS[library]
    backward = torch.Tensor.backward

    def exhausted(tensor: torch.Tensor, *arguments, **options) -> None:
        if tensor.device.type == "meta":  # the estimate, which takes no memory
            return backward(tensor, *arguments, **options)
        return fails(error)()

    monkeypatch.setattr(torch.Tensor, "backward", exhausted)
    with pytest.raises(RunError, match=r"recipe small: the training needs.* A step of 2 patches"):
        train(small_recipe(), prepared=prepared, output=tmp_path / "run", device="cpu", dry_run=one_step)


def test_the_log_names_the_pairs_once_and_why_nothing_is_mirrored_across_x(recipe) -> None:
    for labels, line in (
        ({"background": 0, "left": 1, "right": 2}, "mirrored across x, which swaps left and right"),
        ({"background": 0, "left": 1, "x": 2}, "not mirrored across x: left: no partner on the other side"),
    ):
        heard = Heard()
        dataset = recipe.dataset.model_copy(update={"labels": labels})
        augment = recipe.training.augment.model_copy(update={"mirror": ("x", "y")})
        training = recipe.training.model_copy(update={"patch_size": (16, 16, 16), "augment": augment})
        changed = recipe.model_copy(update={"dataset": dataset, "training": training})
        train(changed, dry_run=True, device="cpu", progress=heard)
        assert sum("mirrored" in each for each in heard.lines) == 1
        assert any(each.startswith(line) for each in heard.lines)


@pytest.mark.parametrize("name", ["hippocampus_points_nnmamba", "stroke_side_nnmamba"])
def test_a_dry_run_without_data_takes_a_step_of_the_other_tasks(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["training.patch_size=[16,16,16]", "network.channels=4"]
    step = train(load_recipe(name, small), dry_run=True, device="cpu").dry_run
    assert step is not None and step.loss > 0
