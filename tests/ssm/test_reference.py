"""The definition, against sources that are not ours."""

import numpy as np
import pytest
import scipy.signal
import torch

from mambamed.ssm import reference
from mambamed.ssm.reference import selective_scan_loop
from tests.ssm.scan_inputs import scan_inputs


def test_two_tokens_agree_with_a_calculation_by_hand() -> None:
    # one channel, one state: h0 = dt0 B0 u0, h1 = exp(dt1 A) h0 + dt1 B1 u1, y = C h + D u, out = y silu(z)
    def t(*numbers):
        return torch.tensor([[numbers]], dtype=torch.float64)

    out = selective_scan_loop(
        u=t(2.0, 3.0), delta=t(0.5, 1.0), A=torch.tensor([[-2.0]]).double(), B=t(1.0, 4.0), C=t(3.0, 0.5),
        D=torch.tensor([10.0]).double(), z=t(0.0, 1.0), delta_bias=torch.tensor([0.5]).double(),
    )  # fmt: skip
    h0 = 1.0 * 1.0 * 2.0
    h1 = np.exp(1.5 * -2.0) * h0 + 1.5 * 4.0 * 3.0
    y1 = 0.5 * h1 + 10.0 * 3.0
    np.testing.assert_allclose(out.flatten().numpy(), [0.0, y1 * 1.0 / (1 + np.exp(-1.0))], rtol=1e-14)


def test_constant_coefficients_make_the_recursive_filter_of_scipy() -> None:
    u, step, rate = np.random.default_rng(0).normal(size=50), 0.3, -0.7
    wanted = scipy.signal.lfilter([step], [1.0, -np.exp(step * rate)], u)
    one = torch.ones(1, 1, 50, dtype=torch.float64)
    out = selective_scan_loop(torch.from_numpy(u)[None, None], one * step, torch.tensor([[rate]]), one, one)
    np.testing.assert_allclose(out[0, 0].numpy(), wanted, rtol=1e-6)


def test_the_states_are_those_of_mambapy() -> None:
    pscan = pytest.importorskip("mambapy.pscan").pscan
    u, delta, A, B, C, *_ = scan_inputs(2, 3, 16, 4, dtype=torch.float64, extras=False)
    step = torch.nn.functional.softplus(delta).transpose(1, 2)  # (B, L, D)
    decay = torch.exp(step[..., None] * A)
    entering = (step * u.transpose(1, 2))[..., None] * B.transpose(1, 2)[:, :, None]
    states = pscan(decay, entering)  # (B, L, D, N)
    wanted = (states * C.transpose(1, 2)[:, :, None]).sum(-1).transpose(1, 2)
    torch.testing.assert_close(selective_scan_loop(u, delta, A, B, C, delta_softplus=True), wanted)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("extras", [False, True])
def test_the_written_chain_rule_is_that_of_torch(reverse, extras) -> None:
    inputs = scan_inputs(2, 3, 9, 4, dtype=torch.float64, extras=extras)
    given = [t for t in inputs if t is not None]
    for t in given:
        t.requires_grad_()
    out = selective_scan_loop(*inputs, delta_softplus=True, reverse=reverse)
    grad = torch.randn_like(out)
    wanted = torch.autograd.grad(out, given, grad)
    with torch.no_grad():
        ours = reference.scan_backward(grad, None, *inputs, True, reverse)
    for gradient, expected in zip([g for g in ours if g is not None], wanted, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_reverse_is_the_flipped_scan_of_the_flipped_sequence() -> None:
    u, delta, A, B, C, D, z, bias = scan_inputs(2, 3, 11, 4, dtype=torch.float64)
    flipped = selective_scan_loop(u.flip(2), delta.flip(2), A, B.flip(2), C.flip(2), D, z.flip(2), bias).flip(
        2
    )
    torch.testing.assert_close(selective_scan_loop(u, delta, A, B, C, D, z, bias, reverse=True), flipped)
