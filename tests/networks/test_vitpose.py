"""ViTPose in 3D against the authors' counts and names, and against its formula written out."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.cost import network_cost
from mambamed.networks.public_names import public_axis_order, settle_options, translate
from tests.networks.public_layout import read_layout

# The names that the specification lists; n: tokens, k: landmarks
LAYOUT = """
    pos_embed                      tensor(1, n + 1, 64)
    patch_embed.proj               conv(1, 64, 8)
    blocks.{0..5}.{norm1,norm2}    norm(64)
    blocks.{0..5}.attn.qkv         linear(64, 180, bias=False)
    blocks.{0..5}.attn.proj        linear(60, 64)
    blocks.{0..5}.mlp.fc1          linear(64, 256)
    blocks.{0..5}.mlp.fc2          linear(256, 64)
    last_norm                      norm(64)
    conv{5,6}.conv.{0,3}           conv(64, 64, 3)
    conv{5,6}.conv.{1,4}           batch_norm(64)
    conv7.conv.0                   conv(64, k, 3)
    conv7.conv.3                   conv(k, k, 3)
    conv7.conv.{1,4}               batch_norm(k)
"""


def count(**options) -> int:
    with torch.device("meta"):
        network = build_network("vitpose", 1, 6, **options)
    return sum(p.numel() for p in network.parameters())


def test_it_has_the_parameters_of_the_public_code() -> None:
    """LFC's ViTPose3D for six landmarks: 1.0423 M at 128^3, 784 240 at 32^3."""
    assert round(count(head="paper") / 1e6, 4) == 1.0423
    assert count(head="paper", patch_size=[32, 32, 32]) == 784_240
    # two conv3 of 64 and their norms in place of those of 6, and a pointwise convolution
    narrow = 27 * 64 * 6 + 27 * 6 * 6 + 6 * 6
    assert count() - count(head="paper") == 2 * (27 * 64 * 64 + 64 + 128) + 65 * 6 - narrow


def test_its_operations_are_those_of_the_public_code() -> None:
    with torch.device("meta"):
        network = build_network("vitpose", 1, 6, head="paper")
    assert round(network_cost(network, 1, (128, 128, 128)).gmacs, 1) == 102.4


def test_the_public_names_are_those_of_every_tensor() -> None:
    layout = read_layout(LAYOUT, n=2 * 3 * 4, k=6)
    network = build_network("vitpose", 1, 6, head="paper", patch_size=[16, 24, 32])
    assert layout.parameters == sum(p.numel() for p in network.parameters())
    translation = translate("vitpose", network, layout.tensors(), public_axis_order("vitpose"))
    assert translation.faults == []
    assert set(translation.weights) == set(network.state_dict())


def test_the_head_of_public_weights_is_the_papers() -> None:
    public = read_layout(LAYOUT, n=1, k=6).tensors()
    options, notes = settle_options("vitpose", {}, public)
    assert options == {"head": "paper", "heads": 6}
    assert notes[0] == "network.head: set to paper. The file has norms of the heatmaps."
    assert notes[1].startswith("network.heads: assumed 6, because no key of the file shows it.")


def written_out(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The public network on `(B, 1, D, H, W)`, by its own names."""

    def layer_norm(name: str, t: Tensor) -> Tensor:
        return functional.layer_norm(t, (64,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(name: str, t: Tensor) -> Tensor:
        return functional.linear(t, state[f"{name}.weight"], state.get(f"{name}.bias"))

    grid = functional.conv3d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=8)
    t = grid.flatten(2).transpose(1, 2) + state["pos_embed"][:, 1:] + state["pos_embed"][:, :1]
    for i in range(6):
        qkv = linear(f"blocks.{i}.attn.qkv", layer_norm(f"blocks.{i}.norm1", t))
        heads = []
        for h in range(6):  # 10 channels per head: q of all heads, then k, then v
            q, k, v = (qkv[..., 60 * part + 10 * h :][..., :10] for part in range(3))
            heads.append(torch.softmax(q @ k.transpose(1, 2) * 10**-0.5, dim=-1) @ v)
        t = t + linear(f"blocks.{i}.attn.proj", torch.cat(heads, dim=-1))
        inner = functional.gelu(linear(f"blocks.{i}.mlp.fc1", layer_norm(f"blocks.{i}.norm2", t)))
        t = t + linear(f"blocks.{i}.mlp.fc2", inner)
    y = layer_norm("last_norm", t).transpose(1, 2).reshape(grid.shape)
    for step in (5, 6, 7):
        y = functional.interpolate(y, scale_factor=2, mode="trilinear", align_corners=False)
        for conv, norm in ((0, 1), (3, 4)):
            y = functional.conv3d(
                y, state[f"conv{step}.conv.{conv}.weight"], state[f"conv{step}.conv.{conv}.bias"], padding=1
            )
            named = (state[f"conv{step}.conv.{norm}.{key}"] for key in ("running_mean", "running_var"))
            weights = (state[f"conv{step}.conv.{norm}.{key}"] for key in ("weight", "bias"))
            y = functional.relu(functional.batch_norm(y, *named, *weights))
    return y


@pytest.mark.parametrize("axis_order", ["xyz", "zyx"])
def test_public_weights_give_what_the_formula_gives(axis_order) -> None:
    """On (z, y, x) arrays the volume is permuted, and the kernels stay."""
    layout = read_layout(LAYOUT, n=2 * 3 * 4, k=6)
    state = layout.balanced()
    options = {"head": "paper", "patch_size": [16, 24, 32], "axis_order": axis_order}
    network = build_network("vitpose", 1, 6, **options).eval()
    network.load_state_dict(translate("vitpose", network, state, axis_order).weights)
    array = torch.randn(2, 1, 16, 24, 32)
    with torch.no_grad():
        expected = written_out(state, array)
        if axis_order == "zyx":
            answer = network(array.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
        else:
            answer = network(array)
    assert expected.min() == 0  # batch norm and ReLU at the end
    assert (answer - expected).abs().max() < 1e-5 * expected.max()


def test_heatmaps_of_the_linear_head_can_be_negative() -> None:
    torch.manual_seed(0)
    network = build_network("vitpose", 1, 6, patch_size=[16, 16, 16]).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, 16, 16, 16)).min() < 0


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"heads": 65}, r"network\.heads: expected at most network\.width \(64\), got 65\."),
        ({"head": "wide"}, r"network\.head: expected linear, paper, got 'wide'\."),
        ({"patch_size": [32, 32]}, r"network\.patch_size: expected three numbers, got \[32, 32\]\."),
        ({"axis_order": "yxz"}, r"network\.axis_order: expected xyz, zyx"),
    ],
)
def test_an_invalid_option_is_a_fault_of_the_recipe(options, fault) -> None:
    with pytest.raises(RecipeError, match=fault), torch.device("meta"):
        build_network("vitpose", 1, 6, **options)


def test_an_input_larger_than_the_learned_positions_is_refused() -> None:
    network = build_network("vitpose", 1, 6, patch_size=[16, 16, 10])  # rounded up to 16
    assert network(torch.zeros(1, 1, 16, 9, 16)).shape == (1, 6, 16, 9, 16)
    with pytest.raises(RecipeError, match="built for 16 x 16 x 16 voxels, given 17 x 16 x 16"):
        network(torch.zeros(1, 1, 17, 16, 16))
