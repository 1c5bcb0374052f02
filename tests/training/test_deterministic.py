"""`--deterministic` does what it says."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mambamed.errors import RecipeError
from mambamed.networks import NETWORKS
from mambamed.networks.parts import averaging, doubling
from mambamed.run.folder import Run
from mambamed.tasks.segmentation import Segmentation
from mambamed.training import train
from mambamed.training.deterministic import deterministic, keep_threads
from mambamed.training.limit import TimeLimit
from mambamed.training.validation_patches import ValidationPatches
from tests.networks.small_networks import MONAIS, small
from tests.training.small_run import CONVOLUTIONS, small_recipe
from tests.training.tiny import MANIFEST, tiny_recipe


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
    with pytest.raises(RecipeError, match=r"--deterministic: .*Remove --max-hours"):
        train(recipe, limit=TimeLimit.of(1.0), **options)
    train(recipe, **options)
    assert seen == [True] and not torch.are_deterministic_algorithms_enabled()
    assert Run.open(tmp_path).recorded(0)["sessions"][0]["deterministic"] is True


# Those of the documentation of torch.use_deterministic_algorithms (2.13) that are rejected on CUDA.
REJECTED = (
    "avg_pool3d_backward", "adaptive_avg_pool2d_backward", "adaptive_avg_pool3d_backward",
    "max_pool3d_with_indices_backward", "adaptive_max_pool2d_backward", "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d", "upsample_linear1d_backward",
    "upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "upsample_trilinear3d_backward",
    "reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward",
    "replication_pad1d_backward", "replication_pad2d_backward", "replication_pad3d_backward",
    "nll_loss2d_forward", "_ctc_loss", "_embedding_bag_dense_backward", "put_", "histc", "bincount",
    "kthvalue", "median", "grid_sampler_2d_backward", "grid_sampler_3d_backward", "cumsum",
    "scatter_reduce", "resize_",
)  # fmt: skip
# docs/gpus.md: networks that --deterministic rejects on CUDA, by name of the operation.
NOT_EXACT = {
    "cotr": {"grid_sampler_3d_backward"},
    "densenet": {"avg_pool3d_backward", "max_pool3d_with_indices_backward"},
    "resnet": {"max_pool3d_with_indices_backward"},
    "segresnet": {"upsample_trilinear3d_backward"},
}


class Operators(TorchDispatchMode):
    """Notes the names of all operators."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name().removeprefix("aten::").partition(".")[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_uses_no_operation_that_torch_rejects_on_cuda(monkeypatch, name):
    """Forward and backward pass on the meta device, with the forms of CUDA."""
    if name in MONAIS:
        pytest.importorskip("monai")
    monkeypatch.setattr(averaging, "_is_rejected", lambda device: True)
    monkeypatch.setattr(doubling, "_sums_atomically", lambda device: True)
    shape = (24, 24, 32) if name in ("vitpose", "crate") else (32, 32, 32)
    with torch.device("meta"):
        network = small(name).train()
        image = torch.zeros(2, 2, *shape)
    with Operators() as seen:
        outputs = network(image)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        torch.autograd.backward(outputs, [torch.empty_like(each) for each in outputs])
    assert seen.names & set(REJECTED) == NOT_EXACT.get(name, set())
    assert "convolution_backward" in seen.names or "addmm" in seen.names  # something was seen


@pytest.mark.parametrize("regions", [{}, {"both": (1, 2), "two": (2,)}], ids=["labels", "regions"])
def test_the_losses_of_masks_use_no_operation_that_torch_rejects_on_cuda(regions):
    loss = {"focal": 1.0, "boundary": 0.1, "label_smoothing": 0.1, "class_weights": None}
    manifest = MANIFEST.model_copy(update={"regions": regions})
    task = Segmentation(tiny_recipe(loss=loss), manifest)
    logits = torch.randn(2, task.outputs, 8, 8, 8, requires_grad=True)
    target = task.encode(torch.randint(0, 3, (2, 8, 8, 8)))
    with Operators() as seen:
        task.loss([logits, logits[..., ::2, ::2, ::2]], target).backward()
    assert not seen.names & set(REJECTED) and logits.grad is not None
