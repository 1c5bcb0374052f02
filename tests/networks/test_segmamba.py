"""SegMamba against its public code's parameter counts, and the inter-slice order written out."""

import pytest
import torch
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.segmamba import GatedSpatialConv, MambaLayer, ResidualConv


@pytest.mark.parametrize(("version", "millions"), [("gsc", 67.4162), ("first", 56.9770)])
def test_it_has_the_parameters_of_the_public_code(version, millions) -> None:
    """Counted on the authors' nets of June 2024 and of January 2024, 4 channels in and out."""
    with torch.device("meta"):
        network = build_network("segmamba", 4, 4, version=version)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 4) == millions


def test_the_slice_order_reads_one_voxel_of_each_slice_in_turn() -> None:
    """architectures.md: position p holds voxel (p mod n) * (L / n) + p div n."""
    torch.manual_seed(0)
    layer = MambaLayer(4, "gsc", None)
    x = torch.randn(1, 4, 3, 2, 5)
    with torch.no_grad():
        mamba, tokens = layer.mamba, layer.norm(x.flatten(2).transpose(1, 2))
        n, length = 3, 30
        order = torch.tensor([(p % n) * (length // n) + p // n for p in range(length)])
        xz = mamba.in_proj(tokens)
        y = mamba._scan_sides(xz, ("", False))
        y = y + torch.flip(mamba._scan_sides(torch.flip(xz, (1,)), ("_b", False)), (1,))
        by_slice = torch.zeros_like(y)
        by_slice[:, order] = mamba._scan_sides(xz[:, order], ("_s", False))
        expected = x + mamba.out_proj(y + by_slice).transpose(1, 2).reshape(x.shape)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_the_papers_layer_is_equation_1() -> None:
    """z' = Mamba(LN(z)) + z; MLP(LN(z')) + z'. The public code of that time has two orders and 4 W inside."""
    torch.manual_seed(0)
    layer, x = MambaLayer(4, "paper", None), torch.randn(1, 4, 3, 2, 5)
    with torch.no_grad():
        z = x.flatten(2).transpose(1, 2)
        z = layer.mamba(layer.norm(z)) + z
        norm, wide, _, narrow = layer.mlp
        z = narrow(functional.gelu(wide(norm(z)))) + z
        torch.testing.assert_close(layer(x), z.transpose(1, 2).reshape(x.shape), rtol=1e-4, atol=1e-5)
    assert layer.mamba.directions == ("forward", "backward")
    assert wide.out_features == 16


def test_without_residual_the_layer_is_the_mamba_alone() -> None:
    """The code of 26 March to 4 June 2024: x = Mamba(LN(x)) in three orders; first: in two."""
    torch.manual_seed(0)
    x = torch.randn(1, 4, 3, 2, 5)
    for version, options in (("gsc", {"residual": False}), ("first", {})):
        network = build_network("segmamba", 1, 2, channels=4, version=version, **options)
        layer = network.stages[0][-1]
        with torch.no_grad():
            y = layer.mamba(layer.norm(x.flatten(2).transpose(1, 2)), nslices=3)
            torch.testing.assert_close(layer(x), y.transpose(1, 2).reshape(x.shape))
        with_residual = build_network("segmamba", 1, 2, channels=4, version=version, residual=True)
        with_residual.load_state_dict(network.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(with_residual.stages[0][-1](x), x + layer(x))


def test_fixed_slices_that_do_not_divide_a_stage_are_refused() -> None:
    network = build_network("segmamba", 1, 2, channels=2, depths=[1, 1, 1, 1], nslices=[64, 32, 16, 8])
    with pytest.raises(
        RecipeError, match=r"network\.nslices: expected a divisor of the 216 voxels .* got 16"
    ):
        network(torch.randn(1, 1, 48, 48, 48))


@pytest.mark.parametrize("version", ["gsc", "first", "paper"])
def test_the_control_lacks_the_mamba_alone(version) -> None:
    torch.manual_seed(0)
    network = build_network("segmamba", 1, 2, channels=4, version=version, mixer="none")
    layer, x = network.stages[0][-1], torch.randn(1, 4, 3, 2, 5)
    with torch.no_grad():
        expected = {"gsc": x, "first": functional.layer_norm(x.movedim(1, -1), (4,)).movedim(-1, 1)}
        if version == "paper":
            tokens = x.flatten(2).transpose(1, 2)
            expected["paper"] = (tokens + layer.mlp(tokens)).transpose(1, 2).reshape(x.shape)
        torch.testing.assert_close(layer(x), expected[version])


@pytest.mark.parametrize("version", ["first", "paper"])
def test_the_earlier_versions_train_at_odd_shapes(version) -> None:
    options = {"channels": 4, "depths": [1, 1, 1, 1], "version": version, "deep_supervision": True}
    network = build_network("segmamba", 1, 2, **options)
    outputs = network(torch.randn(1, 1, 17, 20, 9))
    assert [tuple(o.shape[2:]) for o in outputs] == [(17, 20, 9), (9, 10, 5), (5, 5, 3), (3, 3, 2)]
    sum(o.square().mean() for o in outputs).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(
    "option", [{"version": "v3"}, {"nslices": [4]}, {"nslices": 8}, {"depths": [2, 2]}, {"mixer": "miccss"}]
)
def test_a_choice_that_it_does_not_have_is_refused(option) -> None:
    with pytest.raises(RecipeError, match=rf"network\.{next(iter(option))}: "):
        build_network("segmamba", 1, 2, channels=4, **option)


def test_fixed_slices_are_those_of_the_public_code_at_its_own_patch() -> None:
    torch.manual_seed(0)
    automatic = build_network("segmamba", 1, 2, channels=2, depths=[1, 1, 1, 1]).eval()
    torch.manual_seed(0)
    fixed = build_network("segmamba", 1, 2, channels=2, depths=[1, 1, 1, 1], nslices=[16, 8, 4, 2]).eval()
    x = torch.randn(1, 1, 32, 32, 32)  # the stages' depths are 16, 8, 4, 2
    assert torch.equal(automatic(x), fixed(x))


def test_the_decoders_block_is_that_of_monai() -> None:
    from monai.networks.blocks.dynunet_block import UnetResBlock

    theirs, ours = UnetResBlock(3, 4, 6, 3, 1, "instance"), ResidualConv(4, 6, "instance")
    names = {"conv1": "conv1.conv", "conv2": "conv2.conv", "shortcut.0": "conv3.conv"}
    ours.load_state_dict({f"{a}.weight": theirs.state_dict()[f"{b}.weight"] for a, b in names.items()})
    x = torch.randn(2, 4, 5, 6, 7)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_the_gate_adds_and_then_fuses() -> None:
    """By hand: with the last norm's output at its mean the gated sum is x itself plus a ReLU of zero mean."""
    gsc, x = GatedSpatialConv(4, "instance"), torch.randn(1, 4, 4, 4, 4)
    with torch.no_grad():
        summed = gsc.spatial(x) + gsc.gate(x)
        conv = functional.conv3d(summed, gsc.fuse[0].weight, gsc.fuse[0].bias)
        centered = (conv - conv.mean((2, 3, 4), True)) / (
            conv.var((2, 3, 4), False, keepdim=True) + 1e-5
        ).sqrt()
        torch.testing.assert_close(gsc(x), x + centered.relu(), rtol=1e-4, atol=1e-5)
