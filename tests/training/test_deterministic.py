"""`--deterministic` does what it says."""

from __future__ import annotations

import pytest
import torch

from mambamed.errors import RecipeError
from mambamed.run.folder import Run
from mambamed.training import train
from mambamed.training.deterministic import deterministic, keep_threads
from mambamed.training.validation_patches import ValidationPatches
from tests.training.small_run import CONVOLUTIONS, small_recipe


def test_torch_is_exact_within_and_as_before_after():
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = True
    try:
        with pytest.raises(KeyError), deterministic(True):
            assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
            raise KeyError
        assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = False


def test_an_operation_without_an_exact_form_is_named():
    with (
        pytest.raises(RecipeError, match="--deterministic: put_ is not exact on this device"),
        deterministic(True),
    ):
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1), accumulate=False)  # torch's own refusal
    with pytest.raises(RuntimeError, match="size"), deterministic(True):  # other faults stay what they are
        torch.zeros(2) + torch.zeros(3)


def test_a_fold_goes_on_with_as_many_threads_as_it_began():
    threads = torch.get_num_threads()
    try:
        assert keep_threads({}) is None
        assert keep_threads({"sessions": [{"torch_threads": threads}]}) is None
        line = keep_threads({"sessions": [{"torch_threads": threads + 1}, {"torch_threads": threads}]})
        assert torch.get_num_threads() == threads + 1 and line and f"threads {threads + 1}" in line
    finally:
        torch.set_num_threads(threads)


def test_a_training_is_exact_throughout_and_says_so(prepared, tmp_path, monkeypatch):
    seen, score = [], ValidationPatches.score

    def looked_at(*arguments):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return score(*arguments)

    monkeypatch.setattr(ValidationPatches, "score", looked_at)
    recipe = small_recipe(CONVOLUTIONS, epochs=1)
    options = {"prepared": prepared, "output": tmp_path, "device": "cpu", "deterministic": True}
    with pytest.raises(RecipeError, match=r"--deterministic: .*no --max-hours"):
        train(recipe, max_hours=1.0, **options)
    train(recipe, **options)
    assert seen == [True] and not torch.are_deterministic_algorithms_enabled()
    assert Run.open(tmp_path).recorded(0)["sessions"][0]["deterministic"] is True
