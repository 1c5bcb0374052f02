"""A queued training step reads no number of the device, for which the CPU would wait.

On a CPU the same operations are dispatched, so that they can be looked at without a GPU. The boundary loss is
not here: it computes distances on the CPU, and waits for the labels.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mambamed.documents.manifest import DatasetManifest
from mambamed.recipe import Recipe
from mambamed.tasks.classification import Classification
from mambamed.tasks.landmarks import Landmarks
from tests.training.tiny import tiny_loop, tiny_recipe

READING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim"}


class Reads(TorchDispatchMode):
    """Notes the operations whose result, or its shape, is a number that the device computes."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.found = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().partition("::")[2].partition(".")[0]
        self.count += 1
        masks = name in {"index", "index_put", "index_put_", "_index_put_impl_"} and any(
            isinstance(t, torch.Tensor) and t.dtype == torch.bool for t in tree_leaves(args[1])
        )
        if name in READING or masks:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def test_what_reads_is_found() -> None:
    x = torch.arange(3.0)
    for read in (lambda: x.sum().item(), lambda: x[x > 1], lambda: x.nonzero(), lambda: bool(x[0] > 1)):
        with Reads() as reads:
            read()
        assert reads.found


LOSSES: list[dict[str, Any]] = [
    {"batch_dice": True, "label_smoothing": 0.1},
    {"cross_entropy": 0.0, "focal": 1.0},
    {"class_weights": {"one": 2.0}, "dice": 0.0},
]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("optimizer", "loss"),
    [*((name, {}) for name in ("adam", "adamw", "sgd")), *(("adamw", loss) for loss in LOSSES)],
)
def test_a_queued_step_reads_nothing(tmp_path, optimizer, loss, precision) -> None:
    recipe = tiny_recipe(optimizer={"name": optimizer}, loss=loss, accumulate=2)
    loop = tiny_loop(tmp_path, recipe, precision, queued=True)
    sampler = loop.patches.sampler(0)
    batches = iter([loop.patches.reader.batch(sampler.requests(k)) for k in range(4)])
    loop._steps.take(batches, 0)  # SGD's first step is not queued
    assert loop._steps._decides_later()
    with Reads() as reads:
        outcome = loop._steps.take(batches, 1)
    assert reads.count > 100
    assert not reads.found
    assert all(map(torch.isfinite, torch.tensor(outcome.read()[:2])))


def recipe_of(**settings: Any) -> Recipe:
    return Recipe.model_validate({"name": "tiny", "network": {"name": "tiny"}, **settings})


@pytest.mark.parametrize(
    "settings", [{"loss": "softmax", "offsets": True}, {"loss": "mse"}, {"loss": "bce", "target": "ball"}]
)
def test_losses_of_landmarks_read_nothing(settings) -> None:
    manifest = DatasetManifest(name="points", channels={"a": "mri"}, landmarks=("tip", "base"))
    task = Landmarks(recipe_of(task="landmarks", landmarks=settings), manifest)
    inside, missing = [2.0, 3.0, 4.0], [float("inf")] * 3
    target = task.encode(torch.tensor([[inside, missing], [inside, [float("nan")] * 3]]), (8, 8, 8))
    outputs = torch.randn(2, task.outputs, 8, 8, 8, requires_grad=True)
    with Reads() as reads:
        task.loss([outputs, outputs[..., ::2, ::2, ::2]], target).backward()
    assert reads.count > 20
    assert not reads.found


def test_the_loss_of_classes_reads_nothing() -> None:
    manifest = DatasetManifest(name="classes", channels={"a": "mri"}, classes=("ill", "well"))
    task = Classification(recipe_of(task="classification"), manifest)
    outputs = torch.randn(2, task.outputs, requires_grad=True)
    with Reads() as reads:
        task.loss(outputs, task.encode(torch.tensor([0, 1]))).backward()
    assert reads.count > 2
    assert not reads.found
