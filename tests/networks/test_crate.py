"""CRATE in 3D against the authors' counts and names, and against its formula written out."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.cost import network_cost
from mambamed.networks.public_names import public_axis_order, settle_options, translate
from tests.networks.public_layout import read_layout

# The names that the specification lists; n: tokens, c: channels, k: outputs
LAYOUT = """
    pos_embedding                            tensor(1, n + 1, 576)
    cls_token                                tensor(1, 1, 576)
    to_patch_embedding.1                     norm(512 * c)
    to_patch_embedding.2                     linear(512 * c, 576)
    to_patch_embedding.3                     norm(576)
    transformer.layers.{0..11}.{0,1}.norm    norm(576)
    transformer.layers.{0..11}.0.fn.qkv      linear(576, 576, bias=False)
    transformer.layers.{0..11}.0.fn.to_out.0 linear(576, 576)
    transformer.layers.{0..11}.1.fn.weight   tensor(576, 576)
    mlp_head.0                               norm(576)
    mlp_head.1                               linear(576, 1000)
    mlp_head.2                               linear(1000, k)
"""


@pytest.mark.parametrize(
    ("patch", "parameters"),
    [((104, 128, 104), 14_413_969), ((112, 136, 112), 14_775_697), ((32, 40, 32), 12_902_545)],
)
def test_it_has_the_parameters_of_the_public_code(patch, parameters) -> None:
    """CRATE_small_3D with one logit: 14.414 M, 14.776 M, and the count of the parity file at 32x40x32.

    Both are 12 902 545 + 576 * (tokens - 80).
    """
    with torch.device("meta"):
        network = build_network("crate", 1, 1, patch_size=patch)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_its_operations_are_those_of_the_public_code_less_one_product_per_layer() -> None:
    """155.8 GMAC in the public code, which multiplies the 2705 tokens three times with D, not twice."""
    with torch.device("meta"):
        network = build_network("crate", 1, 1)
    saved = 12 * 2705 * 576**2 / 1e9
    assert round(network_cost(network, 1, (104, 128, 104)).gmacs + saved, 1) == 155.8


def test_the_public_names_are_those_of_every_tensor() -> None:
    layout = read_layout(LAYOUT, n=2 * 3 * 1, c=2, k=1)
    network = build_network("crate", 2, 1, patch_size=[16, 24, 8])
    assert layout.parameters == sum(p.numel() for p in network.parameters())
    translation = translate("crate", network, layout.tensors(), public_axis_order("crate"))
    assert translation.faults == []
    assert set(translation.weights) == set(network.state_dict())


def test_heads_and_patch_of_public_weights_are_assumed() -> None:
    """104 x 128 x 104 voxels have 2704 tokens; other patches with as many have the same keys."""
    public = read_layout(LAYOUT, n=2704, c=1, k=1).tensors()
    options, notes = settle_options("crate", {}, public)
    assert options == {"heads": 12, "patch_size": [104, 128, 104]}
    assert len(notes) == 2
    assert settle_options("crate", {"heads": 12}, read_layout(LAYOUT, n=6, c=1, k=1).tensors())[1] == ()


def written_out(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The public network on `(B, C, D, H, W)`, by its own names, without its sigmoid."""

    def layer_norm(name: str, t: Tensor) -> Tensor:
        return functional.layer_norm(t, t.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(name: str, t: Tensor) -> Tensor:
        return functional.linear(t, state[f"{name}.weight"], state.get(f"{name}.bias"))

    d, h, w = (size // 8 for size in x.shape[2:])
    cubes = [
        x[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8, 8 * k : 8 * k + 8].movedim(1, -1).flatten(1)
        for i in range(d)
        for j in range(h)
        for k in range(w)
    ]
    t = linear("to_patch_embedding.2", layer_norm("to_patch_embedding.1", torch.stack(cubes, dim=1)))
    t = layer_norm("to_patch_embedding.3", t)
    t = torch.cat([state["cls_token"].expand(len(x), -1, -1), t], dim=1) + state["pos_embedding"]
    for i in range(12):
        name = f"transformer.layers.{i}"
        u = linear(f"{name}.0.fn.qkv", layer_norm(f"{name}.0.norm", t)).split(48, dim=-1)
        heads = [torch.softmax(head @ head.transpose(1, 2) * 48**-0.5, dim=-1) @ head for head in u]
        t = t + linear(f"{name}.0.fn.to_out.0", torch.cat(heads, dim=-1))
        z, D = layer_norm(f"{name}.1.norm", t), state[f"{name}.1.fn.weight"]
        t = torch.relu(z + 0.1 * (z @ D - (z @ D.T) @ D) - 0.1 * 0.1)
    return linear("mlp_head.2", linear("mlp_head.1", layer_norm("mlp_head.0", t[:, 0])))


@pytest.mark.parametrize("axis_order", ["xyz", "zyx"])
def test_public_weights_give_what_the_formula_gives(axis_order) -> None:
    layout = read_layout(LAYOUT, n=2 * 3 * 1, c=2, k=1)
    state = layout.balanced()
    network = build_network("crate", 2, 1, patch_size=[16, 24, 8], axis_order=axis_order).eval()
    network.load_state_dict(translate("crate", network, state, axis_order).weights)
    array = torch.randn(2, 2, 16, 24, 8)
    with torch.no_grad():
        expected = written_out(state, array)
        answer = network(array if axis_order == "xyz" else array.permute(0, 1, 4, 3, 2))
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)


def test_the_dictionary_starts_he_uniform_and_the_positions_normal() -> None:
    torch.manual_seed(0)
    network = build_network("crate", 1, 2, patch_size=[32, 32, 32], depth=1)
    state = network.state_dict()
    bound = (6 / 576) ** 0.5
    assert 0.99 * bound < state["layers.0.dictionary"].abs().max() <= bound
    assert state["positions"].std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"heads": 7}, r"network\.heads: expected a divisor of network\.width \(576\), got 7\."),
        ({"patch_size": [32]}, r"network\.patch_size: expected three numbers, got \[32\]\."),
        ({"axis_order": "yxz"}, r"network\.axis_order: expected xyz, zyx"),
    ],
)
def test_an_invalid_option_is_a_fault_of_the_recipe(options, fault) -> None:
    with pytest.raises(RecipeError, match=fault), torch.device("meta"):
        build_network("crate", 1, 2, **options)


def test_an_input_larger_than_the_learned_positions_is_refused() -> None:
    network = build_network("crate", 1, 2, patch_size=[16, 8, 8], axis_order="zyx", depth=1)
    assert network(torch.zeros(3, 1, 8, 8, 16)).shape == (3, 2)
    with pytest.raises(RecipeError, match="built for 8 x 8 x 16 voxels, given 16 x 8 x 8"):
        network(torch.zeros(1, 1, 16, 8, 8))
