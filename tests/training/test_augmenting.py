"""Where patches are augmented: as the recipe says, else by the number of cores per GPU."""

from __future__ import annotations

import pytest
import torch

from mambamed.errors import RecipeError
from mambamed.training import augmenting
from mambamed.training.augmenting import choose_augment

GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("cores", "processes", "where"), [(4, 1, "gpu"), (16, 1, "cpu"), (16, 2, "gpu"), (80, 8, "cpu")]
)
def test_few_cores_per_gpu_leave_augmentation_to_it(monkeypatch, cores, processes, where):
    monkeypatch.setattr(augmenting, "cores", lambda: cores)
    chosen, line = choose_augment("auto", GPU, processes)
    assert chosen is (where == "gpu")
    assert line.startswith(f"augmentation {where}: {cores // processes} cores for this GPU")


def test_the_choice_of_the_first_session_and_of_the_recipe_are_kept(monkeypatch):
    monkeypatch.setattr(augmenting, "cores", lambda: 64)
    assert choose_augment("auto", GPU, known="gpu") == (
        True, "augmentation gpu: as in the first session of this fold",
    )  # fmt: skip
    assert choose_augment("gpu", GPU, known="cpu")[0] and not choose_augment("cpu", GPU, known="gpu")[0]


def test_only_a_cuda_device_augments():
    assert not choose_augment("auto", torch.device("mps"))[0]
    with pytest.raises(RecipeError, match=r"training\.augment_on: gpu: the device is cpu"):
        choose_augment("gpu", torch.device("cpu"))
