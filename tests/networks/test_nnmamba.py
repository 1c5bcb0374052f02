"""nnMamba v2 against its specification: parameter counts, and Algorithm 1 written out loop by loop."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mambamed.networks import build_network
from mambamed.networks.nnmamba import MambaInConvolution, SkipScaling
from mambamed.ssm import Mamba


def parameters(in_channels: int, out_channels: int, **options) -> int:
    with torch.device("meta"):
        network = build_network("nnmamba", in_channels, out_channels, **options)
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("in_channels", "out_channels", "millions"), [(1, 16, 15.960), (4, 4, 15.945)])
def test_it_has_the_parameters_of_the_public_code(in_channels, out_channels, millions) -> None:
    """Counted on the authors' nnMamba.py (commit 6fb35a3); the paper's 15.55 M do not see Mamba's own."""
    count = parameters(in_channels, out_channels, head="paper", deep_supervision=False)
    assert round(count / 1e6, 3) == millions


def test_the_form_of_the_released_trainers_has_their_parameters() -> None:
    """nnunet/network_architecture/nnMamba.py: no second convolution, heads of deep supervision."""
    count = parameters(1, 16, head="paper", mixer="plain")
    assert round(count / 1e6, 3) == 15.876


def test_the_linear_head_lacks_the_last_norm_alone() -> None:
    """Batch norm of K = 4 channels has 8 parameters."""
    paper = parameters(4, 4, head="paper", deep_supervision=False)
    assert paper - parameters(4, 4, deep_supervision=False) == 8


def test_the_control_lacks_the_scans_alone() -> None:
    """architectures.md gives 32 640 parameters for a Mamba of width 64; widths 64, 128, 256 are used once."""
    mambas = sum(p.numel() for width in (64, 128, 256) for p in Mamba(width).parameters())
    assert sum(p.numel() for p in Mamba(64).parameters()) == 32_640
    assert parameters(4, 4) - parameters(4, 4, mixer="none") == mambas


def scanned_by_hand(mamba: Mamba, tokens: Tensor) -> Tensor:
    """One pass of a Mamba over (L, C), one step at a time (Gu & Dao 2023, algorithm 2)."""
    D, N, r = mamba.d_inner, mamba.d_state, mamba.dt_rank
    u, z = (tokens @ mamba.in_proj.weight.T).split(D, dim=1)
    kernel, length = mamba.conv1d.weight[:, 0], len(tokens)
    padded = torch.cat([torch.zeros(3, D), u])
    u = torch.stack([(padded[t : t + 4].T * kernel).sum(1) for t in range(length)]) + mamba.conv1d.bias
    u = u * torch.sigmoid(u)
    A, h, out = -torch.exp(mamba.A_log), torch.zeros(D, N), []
    for t in range(length):
        step, B, C = (mamba.x_proj.weight @ u[t]).split([r, N, N])
        delta = torch.log1p(torch.exp(mamba.dt_proj.weight @ step + mamba.dt_proj.bias))
        h = torch.exp(delta[:, None] * A) * h + (delta * u[t])[:, None] * B
        out.append((h * C).sum(1) + mamba.D * u[t])
    return (torch.stack(out) * z * torch.sigmoid(z)) @ mamba.out_proj.weight.T


def test_miccss_is_algorithm_1_written_out() -> None:
    torch.manual_seed(0)
    layer = MambaInConvolution(6, "miccss", "instance", d_state=4)
    x = torch.randn(1, 6, 3, 2, 4)
    with torch.no_grad():
        a = layer.conv_in(x)
        tokens = a[0].reshape(6, 24).T  # (L, C), the last axis fastest
        total = torch.zeros(24, 6)
        for dims in ((), (0,), (1,), (0, 1)):
            total += torch.flip(scanned_by_hand(layer.mamba, torch.flip(tokens, dims)), dims)
        expected = layer.conv_out((total / 4).T.reshape(1, 6, 3, 2, 4) + a)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_mic_is_one_reading_and_none_is_no_reading() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, 3, 2, 4)
    with torch.no_grad():
        layer = MambaInConvolution(6, "mic", "instance", d_state=4)
        a = layer.conv_in(x)
        read = scanned_by_hand(layer.mamba, a[0].reshape(6, 24).T).T.reshape(1, 6, 3, 2, 4)
        torch.testing.assert_close(layer(x), layer.conv_out(read + a), rtol=1e-4, atol=1e-5)
        plain = MambaInConvolution(6, "plain", "instance", d_state=4)
        a = plain.conv_in(x)
        read = scanned_by_hand(plain.mamba, a[0].reshape(6, 24).T).T.reshape(1, 6, 3, 2, 4)
        torch.testing.assert_close(plain(x), read, rtol=1e-4, atol=1e-5)
        control = MambaInConvolution(6, "none", "instance")
        torch.testing.assert_close(control(x), control.conv_out(control.conv_in(x)))


def test_blocks_2_and_3_share_one_miccss_unless_told_not_to() -> None:
    network = build_network("nnmamba", 1, 2, channels=8)
    assert network.stages[0][1].mixer is network.stages[0][2].mixer
    assert network.stages[0][0].mixer is None
    network = build_network("nnmamba", 1, 2, channels=8, share_mamba=False)
    assert network.stages[0][1].mixer is not network.stages[0][2].mixer


def test_skips_are_scaled_channel_by_channel_between_0_and_1() -> None:
    c = torch.rand(1, 32, 4, 4, 4) + 0.5
    ratio = SkipScaling(32)(c) / c
    assert torch.all((ratio > 0) & (ratio < 1))
    torch.testing.assert_close(ratio.amax((2, 3, 4)), ratio.amin((2, 3, 4)))


def test_the_wide_head_reads_half_of_the_channels_and_not_k_of_them() -> None:
    # by hand, C = 8: conv3 8 -> 4 with bias 868, norm 8, conv1 4 -> 3 with bias 15
    head = build_network("nnmamba", 1, 3, channels=8, head="wide").decoder.head
    assert sum(p.numel() for p in head.parameters()) == 868 + 8 + 15


def test_logits_of_the_papers_head_are_never_negative_and_ours_may_be() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 16, 16, 32)
    assert build_network("nnmamba", 1, 2, channels=8, head="paper").eval()(x).min() >= 0
    assert build_network("nnmamba", 1, 2, channels=8).eval()(x).min() < 0


def test_symmetric_padding_has_its_larger_half_at_the_end() -> None:
    """TamingMambas' copy: 28 voxels become 32 by 2 and 2, 14 become 16 by 1 and 1, 13 by 1 and 2."""
    torch.manual_seed(0)
    network = build_network("nnmamba", 1, 2, channels=2, mixer="plain", padding="symmetric").eval()
    x = torch.randn(1, 1, 28, 14, 13)
    with torch.no_grad():
        padded = network(functional.pad(x, (1, 2, 1, 1, 2, 2)))
        assert torch.equal(network(x), padded[:, :, 2:30, 1:15, 1:14])
        at_the_end = build_network("nnmamba", 1, 2, channels=2, mixer="plain").eval()
        at_the_end.load_state_dict(network.state_dict())
        assert torch.equal(
            at_the_end(x), at_the_end(functional.pad(x, (0, 3, 0, 2, 0, 4)))[:, :, :28, :14, :13]
        )


def test_symmetric_padding_crops_the_coarser_logits_at_their_stride() -> None:
    network = build_network("nnmamba", 1, 2, channels=2, padding="symmetric").train()
    outputs = network(torch.randn(2, 1, 28, 14, 13))
    assert [tuple(y.shape[2:]) for y in outputs] == [(28, 14, 13), (14, 7, 7), (7, 4, 4), (4, 2, 2)]
