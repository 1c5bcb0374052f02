"""The fused kernels of a Mamba block are the block: on a GPU, else in Triton's interpreter (see below).

TRITON_INTERPRET=1 python -m pytest -m "slow or not slow" tests/ssm/test_fused.py
"""

import copy

import pytest
import torch

from mambamed.ssm import BidirectionalMamba, Mamba, fused, launch, scan, set_backend, triton
from tests.ssm.scan_inputs import relative_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def small(monkeypatch) -> None:
    """Small chunks and tiles, so that a tiny block crosses every border."""
    if reason := scan.why_unavailable("triton"):
        pytest.skip(f"{reason}; TRITON_INTERPRET=1 interprets the kernels")
    if triton.interpreted():
        from mambamed.ssm import triton_carry, triton_inner

        for module, sizes in (
            (launch, {"CHANNELS": 16, "SHORTEST_CHUNK": 16, "STRETCH": 8}),
            (triton_carry, {"CHUNKS": 4}),
            (triton_inner, {"TOKENS": 8, "RUN": 16, "BLOCK": 16, "COLUMNS": 32}),
        ):
            for name, size in sizes.items():
                monkeypatch.setattr(module, name, size)
        _multiply_bfloat16_as_numbers(monkeypatch)


def _multiply_bfloat16_as_numbers(monkeypatch) -> None:
    """Triton 3.7's interpreter holds bfloat16 in 16-bit integers, and its tl.dot multiplies these."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    dot = InterpreterBuilder.create_dot

    def dot_of_numbers(self, a, b, *others):
        a, b = (self.cast_impl(t, tl.float32) if t.dtype.scalar == tl.bfloat16 else t for t in (a, b))
        return dot(self, a, b, *others)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", dot_of_numbers)


def answers(block: torch.nn.Module, x: torch.Tensor, backend: str, **options) -> list[torch.Tensor]:
    """Output and gradients of the input and of all parameters."""
    set_backend(backend)
    try:
        assert fused.serves(torch.zeros(1, 1, 2, device=x.device), 4, 2, 16) == (backend == "triton")
        leaves = [x.detach().requires_grad_(), *block.parameters()]
        y = block(leaves[0], **options)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
        return [y.detach(), *torch.autograd.grad(y, leaves, grad)]
    finally:
        set_backend("auto")


CASES = [  # one direction with odd sizes; both directions, in the middle of a third stretch
    (lambda: Mamba(12, d_state=5, d_conv=2, conv_bias=False), 1, 11, {"reverse": True}),
    (lambda: BidirectionalMamba(16, d_state=8), 1, 19, {}),
    (lambda: BidirectionalMamba(8, d_state=16, dt_rank=18), 2, 34, {}),
    (lambda: Mamba(8, d_state=64), 1, 17, {"flip_channels": True}),
]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("make", "batch", "length", "options"), CASES)
def test_all_gradients_are_those_of_the_separate_operations(make, batch, length, options) -> None:
    torch.manual_seed(0)
    block = make().to(DEVICE)
    x = torch.randn(batch, length, block.d_model).to(DEVICE)
    wanted, found = (answers(block, x, backend, **options) for backend in ("reference", "triton"))
    errors = [relative_error(ours, theirs) for ours, theirs in zip(found, wanted, strict=True)]
    assert errors[0] < 1e-5
    assert max(errors) < 1e-4


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_errors_are_those_of_the_separate_operations(dtype) -> None:
    """Both compared with float64; half as many digits leave room for another order of roundings."""
    torch.manual_seed(0)
    block, x = BidirectionalMamba(16, d_state=8).to(DEVICE), torch.randn(1, 35, 16).to(DEVICE)
    exact = answers(copy.deepcopy(block).double(), x.double(), "reference")
    with torch.autocast(DEVICE, dtype):
        both = [answers(block, x, backend) for backend in ("reference", "triton")]
    separate, fused_ones = ([relative_error(a, b) for a, b in zip(ours, exact, strict=True)] for ours in both)
    digit = torch.finfo(dtype).eps
    assert all(ours < 1.5 * theirs + digit for ours, theirs in zip(fused_ones, separate, strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_both_directions_in_one_call_are_the_readings_of_miccss() -> None:
    torch.manual_seed(0)
    block, x = Mamba(8, d_state=4), torch.randn(1, 18, 8)
    set_backend("triton")
    try:
        with torch.no_grad():
            ours = block.to(DEVICE).readings(x.to(DEVICE)).cpu()
    finally:
        set_backend("auto")
    sides = [block.cpu()(x, reverse, flip) for reverse in (False, True) for flip in (False, True)]
    assert relative_error(ours, torch.stack(sides).mean(0)) < 1e-5


def test_sizes_that_are_not_supported_are_named(monkeypatch, caplog) -> None:
    monkeypatch.setattr(fused, "resolve_backend", lambda *_: "triton")
    fused._say.cache_clear()
    xz = torch.zeros(1, 3, 4)
    assert fused.serves(xz, 8, 128, 256)
    for sizes in ((9, 128, 256), (8, 129, 256), (8, 128, 257)):
        caplog.clear()
        assert not fused.serves(xz, *sizes)
        assert "{} taps, a step size of rank {} and {} states".format(*sizes) in caplog.text


def test_matrix_products_have_as_many_channels_as_they_need() -> None:
    """`step_gradients` multiplies by the backward pass's channels; tl.dot needs 16 along every axis."""
    assert min(launch.tiles(states, True)["BLOCK"] for states in range(1, fused.MOST_STATES + 1)) == 16


def test_the_cpu_is_not_served_by_fused_kernels() -> None:
    assert not fused.serves(torch.zeros(1, 3, 4), 4, 2, 16)
