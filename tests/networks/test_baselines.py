"""MONAI's networks behind our table: its own counts and answers, and what is said where it is absent."""

import copy
import sys

import pytest
import torch
from monai.networks import nets
from torch import nn

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from tests.networks.small_networks import small

BASELINES = ["unetr", "swin_unetr", "segresnet", "mednext", "vnet", "vit"]
CUBE = (96, 96, 96)
# The networks' own defaults, 4 channels in and 4 out, made by MONAI
THEIRS = {
    ("unetr", ""): lambda: nets.UNETR(4, 4, CUBE),
    ("swin_unetr", ""): lambda: nets.SwinUNETR(4, 4, feature_size=48),
    ("swin_unetr", "v2"): lambda: nets.SwinUNETR(4, 4, feature_size=48, use_v2=True),
    ("segresnet", ""): lambda: nets.SegResNet(3, 32, 4, 4, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1)),
    ("mednext", "S"): lambda: nets.MedNeXtS(in_channels=4, out_channels=4),
    ("mednext", "B"): lambda: nets.MedNeXtB(in_channels=4, out_channels=4, deep_supervision=True),
    ("mednext", "M"): lambda: nets.MedNeXtM(in_channels=4, out_channels=4),
    ("mednext", "L"): lambda: nets.MedNeXtL(in_channels=4, out_channels=4, kernel_size=5),
    ("vnet", ""): lambda: nets.VNet(3, 4, 4),
    ("vit", ""): lambda: nets.ViT(4, CUBE, (16, 16, 16), classification=True, num_classes=4),
    ("vit", "token 8"): lambda: nets.ViT(4, CUBE, (8, 8, 8), classification=True, num_classes=4),
}
OURS = {
    "v2": {"v2": True},
    "S": {"size": "S", "deep_supervision": False},
    "M": {"size": "M", "deep_supervision": False},
    "L": {"size": "L", "kernel": 5, "deep_supervision": False},
    "token 8": {"token": 8},
}


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("name", "form"), THEIRS)
def test_parameters_are_those_that_monai_counts(name, form) -> None:
    """Less two numbers a channel in each transformer block: norms of a cross attention that is not there."""
    with torch.device("cpu" if name == "swin_unetr" else "meta"):
        theirs = THEIRS[name, form]()
    with torch.device("meta"):
        ours = build_network(name, 4, 4, **OURS.get(form, {}))
    idle = sum(p.numel() for key, p in theirs.named_parameters() if "norm_cross_attn" in key)
    assert idle == (12 * 2 * 768 if name in ("unetr", "vit") else 0)
    assert count(ours) == count(theirs) - idle


@pytest.mark.parametrize("name", BASELINES)
def test_without_monai_the_extra_is_named(name, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    with pytest.raises(RecipeError, match=r"pip install 'mambamed\[baselines\]'"):
        build_network(name, 1, 2)


@pytest.mark.parametrize("name", ["unetr", "vit"])
def test_an_input_larger_than_the_learned_positions_is_refused(name) -> None:
    with pytest.raises(RecipeError, match="built for 32 x 32 x 32 voxels, given 33 x 16 x 16"):
        small(name)(torch.zeros(1, 2, 33, 16, 16))


def test_logits_of_the_vision_transformer_have_no_bound() -> None:
    """MONAI's own head ends in a tanh."""
    network = small("vit").eval()
    with torch.no_grad():
        network.network.classification_head.bias.fill_(5.0)
        assert network(torch.zeros(1, 2, 32, 32, 32)).min() > 1


def test_the_vision_transformer_for_adni_has_3332_tokens_and_88_million_parameters() -> None:
    """MONAI's, 88.002 M, 112 x 136 x 112 voxels in cubes of 8^3; less the idle norms (above)."""
    with torch.device("meta"):
        network = build_network("vit", 1, 2, patch_size=[112, 136, 112], token=8)
    assert network.network.patch_embedding.position_embeddings.shape[1] == 3332
    assert round((count(network) + 12 * 2 * 768) / 1e6, 3) == 88.002


def test_attention_of_the_vision_transformer_is_monais_without_the_matrix_of_all_pairs() -> None:
    network, x = small("vit", token=8).eval(), torch.randn(2, 2, 32, 32, 32)
    with torch.no_grad():
        answer = network(x)
        for block in network.network.blocks:
            assert block.attn.use_flash_attention
            block.attn.use_flash_attention = False
        torch.testing.assert_close(answer, network(x))
    with_dropout = small("vit", dropout=0.5).eval()  # MONAI's fused attention would drop out here too
    with torch.no_grad():
        torch.testing.assert_close(with_dropout(x), with_dropout(x), rtol=0, atol=0)


def test_a_norm_that_is_asked_for_replaces_all() -> None:
    for name, own in (("segresnet", nn.GroupNorm), ("mednext", nn.GroupNorm), ("vnet", nn.BatchNorm3d)):
        assert any(isinstance(module, own) for module in small(name).modules())
        replaced = list(small(name, norm="instance").modules())
        assert not any(isinstance(module, own) for module in replaced)
        assert any(isinstance(module, nn.InstanceNorm3d) for module in replaced)


def test_a_copy_of_a_checkpointed_network_runs_its_own_weights() -> None:
    network = small("segresnet", gradient_checkpointing=True).eval()
    twin, x = copy.deepcopy(network), torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        expected = network(x)
        for parameter in network.parameters():
            parameter.zero_()
        torch.testing.assert_close(twin(x), expected)


@pytest.mark.parametrize("name", ["swin_unetr", "unetr", "vnet"])
def test_an_option_that_monai_cannot_use_is_a_fault_of_the_recipe(name) -> None:
    options = {"swin_unetr": {"channels": 7}, "unetr": {"heads": 7}, "vnet": {}}[name]
    with pytest.raises(RecipeError, match=f"network: {name} cannot be built"):
        build_network(name, 3, 2, **options)
