"""DiT's blocks for segmentation against the text (architectures2.md, section 26)."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.cost import network_cost
from mambamed.networks.dit_seg import places
from mambamed.networks.public_names import translate
from tests.networks.public_layout import read_layout
from tests.networks.small_networks import small
from tests.networks.test_vit_seg import UP, literal_decoder

ENCODER = """
embed                       conv(4, 768, 16)
blocks.{0..11}.modulation   tensor(6, 768)
blocks.{0..11}.qkv          linear(768, 2304)
blocks.{0..11}.proj         linear(768, 768)
blocks.{0..11}.fc1          linear(768, 3072)
blocks.{0..11}.fc2          linear(3072, 768)
modulation                  tensor(2, 768)
"""


def on_meta(**options):
    with torch.device("meta"):
        return build_network("dit_seg", 4, 4, **options)


def test_it_has_the_parameters_and_the_cost_of_the_specification() -> None:
    network = on_meta()
    assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.3f}" == "101.927"
    assert round(network_cost(network, 4, (128, 128, 128)).gmacs, 1) == 172.1


def test_the_public_names_are_those_of_every_tensor() -> None:
    network, layout = on_meta(), read_layout(ENCODER + UP)
    public = {key: torch.empty(shape, device="meta") for key, shape in layout.shapes.items()}
    assert translate("dit_seg", network, public, "xyz").faults == []
    assert layout.parameters == sum(p.numel() for p in network.parameters())


def place(n: int, k: int, width: int) -> float:
    """Number k of an axis with width / 3 numbers, of voxel n."""
    each = width // 6
    angle = n * 10000 ** (-(k % each) / each)
    return math.sin(angle) if k < each else math.cos(angle)


def test_positions_are_sines_then_cosines_of_each_axis() -> None:
    """In float64: a place far from the start is exact."""
    shape, width = (2, 3, 400), 24
    table = places(shape, width, torch.device("cpu"))
    assert table.dtype == torch.float64
    for d, h, w in itertools.product(range(2), range(3), (0, 1, 399)):
        expected = [place(n, k, width) for n in (d, h, w) for k in range(8)]
        assert table[(d * 3 + h) * 400 + w].tolist() == pytest.approx(expected, abs=1e-12)


def literal(x: Tensor, w: dict[str, Tensor], heads: int, layers: int) -> Tensor:
    """The network written out, over one patch `(C, D, H, W)`."""
    width = w["modulation"].shape[1]

    def dense(t: Tensor, name: str) -> Tensor:
        return t @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(t: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        mean, variance = t.mean(1, keepdim=True), t.var(1, keepdim=True, unbiased=False)
        return (t - mean) / (variance + 1e-6).sqrt() * (1 + scale) + shift

    grid = [size // 16 for size in x.shape[1:]]
    rows = []
    for d, h, v in itertools.product(*map(range, grid)):
        cube = x[:, 16 * d : 16 * d + 16, 16 * h : 16 * h + 16, 16 * v : 16 * v + 16]
        row = w["embed.weight"].flatten(1) @ cube.flatten() + w["embed.bias"]
        sines = [place(n, k, width) for n in (d, h, v) for k in range(width // 3)]
        rows.append(row + torch.tensor(sines, dtype=row.dtype))
    t = torch.stack(rows)
    for i in range(layers):
        b1, g1, a1, b2, g2, a2 = w[f"blocks.{i}.modulation"]
        q, k, v = dense(norm(t, b1, g1), f"blocks.{i}.qkv").chunk(3, 1)
        parts = []
        for head in range(heads):
            own = slice(head * width // heads, (head + 1) * width // heads)
            scores = q[:, own] @ k[:, own].T / math.sqrt(width // heads)
            parts.append(scores.softmax(1) @ v[:, own])
        t = t + a1 * dense(torch.cat(parts, 1), f"blocks.{i}.proj")
        hidden = dense(norm(t, b2, g2), f"blocks.{i}.fc1")
        tanh = torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3))
        t = t + a2 * dense(hidden * (1 + tanh) / 2, f"blocks.{i}.fc2")
    t = norm(t, *w["modulation"])
    decoder = {key.removeprefix("decoder."): value for key, value in w.items()}
    features = literal_decoder(t.T.reshape(1, width, *grid), decoder)[-1]
    head, bias = w["decoder.head.weight"].flatten(1), w["decoder.head.bias"]
    return torch.einsum("kc,cdhw->kdhw", head, features[0]) + bias.view(-1, 1, 1, 1)


def test_it_is_its_formulas() -> None:
    torch.manual_seed(0)
    network, x = small("dit_seg").double().eval(), torch.randn(1, 2, 32, 16, 48, dtype=torch.float64)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        expected = literal(x[0], network.state_dict(), heads=4, layers=2)
        torch.testing.assert_close(network(x)[0], expected, rtol=1e-8, atol=1e-8)


def test_a_block_changes_nothing_at_the_start() -> None:
    """adaLN-Zero: gates of zero. The norm at the end has neither scale nor shift yet."""
    network, tokens = small("dit_seg"), torch.randn(1, 5, 24)
    assert torch.equal(network.blocks[0](tokens), tokens)
    assert not network.modulation.any()


def test_it_starts_as_the_specification_says() -> None:
    torch.manual_seed(0)
    network = small("dit_seg", hidden=96, heads=4)
    embed, qkv = network.embed, network.blocks[0].qkv
    for weight, inputs, outputs in ((embed.weight, 2 * 16**3, 96), (qkv.weight, 96, 288)):
        limit = math.sqrt(6 / (inputs + outputs))  # Xavier uniform
        assert 0.98 * limit < weight.abs().max() <= limit
    assert not embed.bias.any() and not qkv.bias.any()
    conv = network.decoder.steps[0].conv  # He of slope 0.01 over 27 x 32 inputs
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (1 + 1e-4) / (27 * 32)) ** 0.5, rel=0.02)


def test_any_multiple_of_16_is_computed_without_padding() -> None:
    network = small("dit_seg").eval()
    assert network.divisor == (16, 16, 16) and network.grid is None
    assert network(torch.zeros(1, 2, 48, 16, 32)).shape == (1, 3, 48, 16, 32)


@pytest.mark.parametrize("option", [{"hidden": 32}, {"heads": 5}])
def test_a_choice_that_it_does_not_have_is_refused(option) -> None:
    with pytest.raises(RecipeError, match=rf"network\.{next(iter(option))}: expected "):
        small("dit_seg", **option)
