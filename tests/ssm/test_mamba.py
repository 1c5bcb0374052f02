"""The blocks: names, shapes and draws of the public code, and its formula written out again."""

import math

import pytest
import torch

from mambamed.ssm import BidirectionalMamba, Mamba, set_backend
from mambamed.ssm.reference import selective_scan_loop
from tests.ssm.scan_inputs import relative_error


def plain(block, xz, suffix=""):
    """conv -> x_proj -> dt_proj -> scan -> gate in torch's own operators, as `mamba_ssm.Mamba.forward`
    spells it.
    """
    u, z = xz.transpose(1, 2).chunk(2, 1)
    length = u.shape[2]
    u = torch.nn.functional.silu(getattr(block, f"conv1d{suffix}")(u)[..., :length])
    projected = getattr(block, f"x_proj{suffix}")(u.transpose(1, 2))
    step, B, C = projected.split([block.dt_rank, block.d_state, block.d_state], 2)
    proj = getattr(block, f"dt_proj{suffix}")
    delta = (step @ proj.weight.T).transpose(1, 2)
    A, D = -torch.exp(getattr(block, f"A{suffix}_log")), getattr(block, f"D{suffix}")
    out = selective_scan_loop(u, delta, A, B.transpose(1, 2), C.transpose(1, 2), D, z, proj.bias, True)
    return out.transpose(1, 2)


def test_a_block_of_width_64_has_the_parameters_of_the_public_one() -> None:
    # names, order, shapes and total of mamba_ssm.Mamba(64) 2.3.2
    shapes = {name: tuple(p.shape) for name, p in Mamba(64).state_dict().items()}
    assert shapes == {
        "A_log": (128, 16), "D": (128,), "in_proj.weight": (256, 64), "conv1d.weight": (128, 1, 4),
        "conv1d.bias": (128,), "x_proj.weight": (36, 128), "dt_proj.weight": (128, 4), "dt_proj.bias": (128,),
        "out_proj.weight": (64, 128),
    }  # fmt: skip
    assert list(shapes)[:3] == ["A_log", "D", "in_proj.weight"]
    assert sum(p.numel() for p in Mamba(64).parameters()) == 32640


def test_a_seed_draws_the_weights_of_the_public_code() -> None:
    """The draws of mamba_ssm.Mamba.__init__ in their order, written out."""
    torch.manual_seed(7)
    ours = Mamba(32)
    torch.manual_seed(7)
    in_proj = torch.nn.Linear(32, 128, bias=False)
    conv = torch.nn.Conv1d(64, 64, 4, groups=64, padding=3)
    x_proj = torch.nn.Linear(64, 2 + 32, bias=False)
    dt_proj = torch.nn.Linear(2, 64)
    torch.nn.init.uniform_(dt_proj.weight, -(2**-0.5), 2**-0.5)
    dt = torch.exp(torch.rand(64) * (math.log(0.1) - math.log(0.001)) + math.log(0.001)).clamp(min=1e-4)
    out_proj = torch.nn.Linear(64, 32, bias=False)
    for layer, name in ((in_proj, "in_proj"), (conv, "conv1d"), (x_proj, "x_proj"), (out_proj, "out_proj")):
        assert torch.equal(getattr(ours, name).weight, layer.weight)
    assert torch.equal(ours.dt_proj.weight, dt_proj.weight)
    torch.testing.assert_close(torch.nn.functional.softplus(ours.dt_proj.bias), dt, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.A_log.exp(), torch.arange(1.0, 17).repeat(64, 1))
    assert ours.A_log._no_weight_decay
    assert ours.D._no_weight_decay


@pytest.mark.parametrize("bias", [False, True])
def test_the_block_is_its_formula(bias) -> None:
    torch.manual_seed(0)
    block, x = Mamba(16, bias=bias), torch.randn(2, 37, 16)
    wanted = block.out_proj(plain(block, block.in_proj(x)))
    assert relative_error(block(x), wanted) < 2e-6
    with torch.no_grad():
        assert relative_error(block(x), wanted) < 2e-6


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_flags_equal_flips(gradients, bias) -> None:
    torch.manual_seed(0)
    block, x = Mamba(16, bias=bias), torch.randn(2, 37, 16)
    with torch.set_grad_enabled(gradients):
        for reverse in (False, True):
            for flip_channels in (False, True):
                axes = [1] * reverse + [2] * flip_channels
                wanted = block(x.flip(axes)).flip(axes)
                assert relative_error(block(x, reverse, flip_channels), wanted) < 1e-5


@pytest.mark.parametrize("bias", [False, True])
def test_readings_are_the_mean_of_four_flips_with_their_gradients(bias) -> None:
    torch.manual_seed(0)
    block, x = Mamba(16, bias=bias), torch.randn(2, 37, 16, requires_grad=True)
    wanted = sum(block(x.flip(axes)).flip(axes) for axes in ([], [1], [2], [1, 2])) / 4
    ours = block.readings(x)
    assert relative_error(ours, wanted) < 1e-5
    leaves, grad = [x, *block.parameters()], torch.randn_like(wanted)
    for g, w in zip(
        torch.autograd.grad(ours, leaves, grad), torch.autograd.grad(wanted, leaves, grad), strict=True
    ):
        assert relative_error(g, w) < 1e-4
    with torch.no_grad():
        assert relative_error(block.readings(x), wanted) < 1e-5


def test_long_sequences_without_gradients_equal_those_with() -> None:
    # without gradients the block is streamed in tiles
    torch.manual_seed(0)
    block, x = Mamba(16), torch.randn(1, 9001, 16)
    for reverse in (False, True):
        with torch.no_grad():
            streamed = block(x, reverse)
        assert relative_error(streamed, block(x, reverse)) < 2e-6
    with torch.no_grad():
        streamed = block.readings(x)
    assert relative_error(streamed, block.readings(x)) < 2e-6


@pytest.mark.parametrize("backend", ["auto", "chunked"])
def test_autocast_keeps_the_scan_in_float32(backend) -> None:
    torch.manual_seed(0)
    block, x = Mamba(16), torch.randn(1, 50, 16, requires_grad=True)
    set_backend(backend)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            out, mean = block(x), block.readings(x)
        assert out.dtype == mean.dtype == torch.bfloat16
        assert relative_error(out, block(x)) < 0.02  # the projections' bfloat16, 2^-8 each
        (out.float().sum() + mean.float().sum()).backward()
        assert x.grad.isfinite().all()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert relative_error(block(x), out) < 0.02
    finally:
        set_backend("auto")


def test_a_state_dict_trained_on_one_backend_gives_the_same_on_another() -> None:
    torch.manual_seed(0)
    block, x = Mamba(16), torch.randn(1, 200, 16)
    wanted = block(x)
    for backend in ("reference", "chunked"):
        set_backend(backend)
        try:
            assert relative_error(block(x), wanted) < 1e-5
        finally:
            set_backend("auto")


def test_three_directions_are_their_formula() -> None:
    """SegMamba's fork, v3: sum of the directions, one output projection; slices interleaved as in its
    forward.
    """
    torch.manual_seed(0)
    block, x = (
        BidirectionalMamba(16, directions=("forward", "backward", "slice"), nslices=4),
        torch.randn(2, 24, 16),
    )
    xz = block.in_proj(x)
    backward = plain(block, xz.flip(1), "_b").flip(1)
    chunks = torch.stack(xz.chunk(4, 1), dim=2).flatten(1, 2)
    slices = plain(block, chunks, "_s").unflatten(1, (6, 4)).transpose(1, 2).flatten(1, 2)
    wanted = block.out_proj(plain(block, xz) + backward + slices)
    assert relative_error(block(x), wanted) < 2e-6
    assert relative_error(block(x, nslices=4), wanted) < 2e-6
    assert relative_error(block(x, nslices=2), wanted) > 1e-3


def test_directions_have_the_names_of_the_fork() -> None:
    names = set(BidirectionalMamba(16, directions=("forward", "backward", "slice")).state_dict())
    per_direction = (
        "A{}_log",
        "D{}",
        "conv1d{}.weight",
        "conv1d{}.bias",
        "x_proj{}.weight",
        "dt_proj{}.weight",
        "dt_proj{}.bias",
    )
    wanted = {name.format(s) for name in per_direction for s in ("", "_b", "_s")}
    assert names == wanted | {"in_proj.weight", "out_proj.weight"}


def test_impossible_directions_and_slices_are_refused() -> None:
    with pytest.raises(ValueError, match="begin with 'forward'"):
        BidirectionalMamba(16, directions=("backward",))
    with pytest.raises(ValueError, match="unknown directions"):
        BidirectionalMamba(16, directions=("forward", "sideways"))
    block = BidirectionalMamba(16, directions=("forward", "slice"))
    with pytest.raises(ValueError, match="needs nslices"):
        block(torch.zeros(1, 6, 16))
    with pytest.raises(ValueError, match="nslices 4 does not divide the sequence length 6"):
        block(torch.zeros(1, 6, 16), nslices=4)
