"""CoTr against the counts of its public code, its names, and its attention written out."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.cost import network_cost
from mambamed.networks.cotr import DecoderUnit, DeformableAttention, Levels, StandardizedConv
from mambamed.networks.public_names import public_axis_order, settle_options, translate
from tests.networks.public_layout import read_layout
from tests.networks.small_networks import small, small_options


def on_meta(classes: int, **options):
    with torch.device("meta"):
        return build_network("cotr", 1, classes, **options)


def test_it_has_the_parameters_of_the_public_code() -> None:
    assert sum(p.numel() for p in on_meta(14).parameters()) == 41_872_504
    more = 64 + 64 + 192 + 384 + 4  # weights and biases of the four heads per class
    assert sum(p.numel() for p in on_meta(16).parameters()) == 41_872_504 + 2 * more


def test_it_needs_less_than_the_multiplications_of_the_public_code() -> None:
    """563 G there: its last head follows the upsampling, and the other heads run in evaluation too."""
    voxels = 48 * 192 * 192
    unneeded = 14 * voxels * (64 * 3 / 4 + 64 / 4 + 192 / 32 + 384 / 256) / 1e9
    assert round(network_cost(on_meta(14), 1, (48, 192, 192)).gmacs + unneeded) == 563


# Names and shapes of the public state dict with 1 channel and 14 classes.
LAYOUT = """
U_ResTran3D.backbone.conv1                         conv(1, 64, 7, bias=False)
U_ResTran3D.backbone.norm1                         norm(64)
U_ResTran3D.backbone.layer1.0.conv1                conv(64, 192, 3, bias=False)
U_ResTran3D.backbone.layer1.0.downsample.0         conv(64, 192, 1, bias=False)
U_ResTran3D.backbone.layer2.0.conv1                conv(192, 384, 3, bias=False)
U_ResTran3D.backbone.layer2.0.downsample.0         conv(192, 384, 1, bias=False)
U_ResTran3D.backbone.layer3.0.conv1                conv(384, 384, 3, bias=False)
U_ResTran3D.backbone.layer3.0.downsample.0         conv(384, 384, 1, bias=False)
U_ResTran3D.backbone.layer1.{1,2}.conv1            conv(192, 192, 3, bias=False)
U_ResTran3D.backbone.layer2.{1,2}.conv1            conv(384, 384, 3, bias=False)
U_ResTran3D.backbone.layer3.1.conv1                conv(384, 384, 3, bias=False)
U_ResTran3D.backbone.layer{i=1..3}.0.downsample.1  norm(min(192 * i, 384))
U_ResTran3D.backbone.layer{i=1..2}.{0..2}.norm1    norm(192 * i)
U_ResTran3D.backbone.layer3.{0,1}.norm1            norm(384)
U_ResTran3D.encoder_Detrans.level_embed            tensor(2, 384)
{layers}.{0..5}.self_attn.sampling_offsets         linear(384, 6 * 2 * 4 * 3)
{layers}.{0..5}.self_attn.attention_weights        linear(384, 6 * 2 * 4)
{layers}.{0..5}.self_attn.{value_proj,output_proj} linear(384, 384)
{layers}.{0..5}.linear1                            linear(384, 1536)
{layers}.{0..5}.linear2                            linear(1536, 384)
{layers}.{0..5}.{norm1,norm2}                      norm(384)
U_ResTran3D.transposeconv_stage2                   transposed(384, 384, 2, bias=False)
U_ResTran3D.transposeconv_stage1                   transposed(384, 192, 2, bias=False)
U_ResTran3D.transposeconv_stage0                   transposed(192, 64, 2, bias=False)
U_ResTran3D.stage2_de.resconv{1,2}.conv            conv(384, 384, 3, bias=False)
U_ResTran3D.stage1_de.resconv{1,2}.conv            conv(192, 192, 3, bias=False)
U_ResTran3D.stage0_de.resconv{1,2}.conv            conv(64, 64, 3, bias=False)
U_ResTran3D.stage2_de.resconv{1,2}.norm            norm(384)
U_ResTran3D.stage1_de.resconv{1,2}.norm            norm(192)
U_ResTran3D.stage0_de.resconv{1,2}.norm            norm(64)
U_ResTran3D.ds2_cls_conv                           conv(384, 14, 1)
U_ResTran3D.ds1_cls_conv                           conv(192, 14, 1)
U_ResTran3D.{ds0_cls_conv,cls_conv}                conv(64, 14, 1)
"""


def public_weights() -> dict[str, Tensor]:
    layout = read_layout(LAYOUT, layers="U_ResTran3D.encoder_Detrans.encoder.layers")
    assert layout.parameters == 41_872_504
    return {key: torch.empty(shape, device="meta") for key, shape in layout.shapes.items()}


@pytest.mark.parametrize("standardized", [False, True])
def test_the_public_names_are_those_of_every_parameter(standardized) -> None:
    network = on_meta(14, weight_standardization=standardized)
    translation = translate("cotr", network, public_weights(), public_axis_order("cotr"))
    assert translation.faults == []
    assert set(translation.weights) == set(network.state_dict())


def test_options_that_no_key_shows_are_those_of_the_authors_trainer() -> None:
    options, notes = settle_options("cotr", {}, public_weights())
    assert options == {"weight_standardization": False, "sampling": "public", "heads": 6}
    assert len(notes) == 3
    given = {"weight_standardization": True, "sampling": "aligned", "heads": 4}
    assert settle_options("cotr", given, public_weights()) == (given, ())


def attention_of(sampling: str, shape: tuple[int, int, int]) -> tuple[DeformableAttention, Levels]:
    """With tokens of width 6 and two heads, and the levels that the network makes for an input."""
    network = small("cotr", channels=1, heads=2, sampling=sampling).eval()
    given = []
    network.layers[0].register_forward_pre_hook(lambda _, inputs: given.append(inputs[1]))
    with torch.no_grad():
        network(torch.zeros(1, 2, *shape))
    return network.layers[0].attention, given[0]


def trilinear(grid: Tensor, d: float, h: float, w: float) -> Tensor:
    """`(C, D, H, W)` at a place in voxels, whose centers are whole numbers; zero outside."""
    total = torch.zeros(grid.shape[0])
    for corner in itertools.product((0, 1), repeat=3):
        share, at = 1.0, []
        for place, step in zip((d, h, w), corner, strict=True):
            low = math.floor(place)
            share *= place - low if step else 1 - (place - low)
            at.append(low + step)
        if all(0 <= i < size for i, size in zip(at, grid.shape[1:], strict=True)):
            total += share * grid[:, at[0], at[1], at[2]]
    return total


@pytest.mark.parametrize("sampling", ["public", "aligned"])
def test_the_attention_is_its_formula(sampling) -> None:
    """Token by token; in "public", the numbers listed as d, w, h are read as w, h, d."""
    shapes = [(4, 6, 2), (2, 3, 1)]
    attention, levels = attention_of(sampling, (16, 48, 16))
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    count = sum(math.prod(shape) for shape in shapes)
    tokens = torch.randn(1, count, 6)
    with torch.no_grad():
        answer = attention(tokens, levels)[0]
        query = tokens[0] + levels.positions
        offsets = attention.offsets(query).view(count, 2, 2, 4, 3)
        weights = attention.weights(query).view(count, 2, 8).softmax(-1).view(count, 2, 2, 4)
        values = attention.value(tokens[0]).split([48, 6])
        grids = [v.T.reshape(6, *shape) for v, shape in zip(values, shapes, strict=True)]
        centers = [
            ((d + 0.5) / shape[0], (h + 0.5) / shape[1], (w + 0.5) / shape[2])
            for shape in shapes
            for d, h, w in itertools.product(*map(range, shape))
        ]
        for token in range(count):
            d, h, w = centers[token]
            listed = (d, w, h) if sampling == "public" else (w, h, d)
            result = torch.zeros(6)
            for head, level, point in itertools.product(range(2), range(2), range(4)):
                D, H, W = shapes[level]
                sizes = (D, W, H) if sampling == "public" else (W, H, D)
                offset = offsets[token, head, level, point].tolist()
                x, y, z = (c + o / s for c, o, s in zip(listed, offset, sizes, strict=True))
                grid = grids[level][3 * head : 3 * head + 3]
                read = trilinear(grid, z * D - 0.5, y * H - 0.5, x * W - 0.5)
                result[3 * head : 3 * head + 3] += weights[token, head, level, point] * read
            torch.testing.assert_close(answer[token], attention.out(result), rtol=1e-4, atol=1e-5)


def test_tokens_look_at_transposed_places_unless_aligned() -> None:
    """In a cube, without offsets: the token (d, h, w) reads the voxel (h, w, d)."""
    for sampling in ("public", "aligned"):
        attention, levels = attention_of(sampling, (16, 32, 32))  # 4^3 and 2^3 tokens
        for layer in (attention.value, attention.out):
            layer.weight.data, layer.bias.data = torch.eye(6), torch.zeros(6)
        attention.offsets.bias.data.zero_()
        attention.weights.bias.data.view(2, 2, 4)[:, 1] = -100  # the first level alone is read
        tokens = torch.randn(1, 64 + 8, 6)
        with torch.no_grad():
            answer = attention(tokens, levels)[0, :64].view(4, 4, 4, 6)
        own = tokens[0, :64].view(4, 4, 4, 6)
        for d, h, w in itertools.product(range(4), repeat=3):
            read = own[h, w, d] if sampling == "public" else own[d, h, w]
            torch.testing.assert_close(answer[d, h, w], read, rtol=1e-4, atol=1e-5)


def test_offsets_begin_in_one_direction_per_head() -> None:
    bias = DeformableAttention(12, 6, 2, 4).offsets.bias.view(6, 2, 4, 3)
    for head, point in itertools.product(range(6), range(4)):
        t = 2 * math.pi * head / 6
        way = torch.tensor([math.cos(t), math.sin(t) * math.cos(t), math.sin(t) * math.sin(t)])
        expected = way / way.abs().max() * (point + 1)
        torch.testing.assert_close(bias[head, 0, point], expected)
        torch.testing.assert_close(bias[head, 1, point], expected)


def test_standardized_kernels_have_no_mean_and_unit_variance() -> None:
    torch.manual_seed(0)
    conv, x = StandardizedConv(2, 3, 3, bias=False), torch.randn(1, 2, 5, 5, 5)
    kernels = []
    for kernel in conv.weight.detach():
        centered = kernel - kernel.mean()
        kernels.append(centered / ((centered**2).sum() / (kernel.numel() - 1) + 1e-12).sqrt())
    torch.testing.assert_close(conv(x), functional.conv3d(x, torch.stack(kernels)), rtol=1e-4, atol=1e-5)


def test_all_convolutions_but_transposed_ones_and_heads_are_standardized() -> None:
    network = small("cotr", weight_standardization=True)
    others = [key for key, m in network.named_modules() if type(m) is torch.nn.Conv3d]
    assert others == ["head", "deep_heads.0", "deep_heads.1", "deep_heads.2"]
    assert isinstance(network.stages[0][0].shortcut[0], StandardizedConv)


def test_the_decoders_unit_ends_with_the_sum() -> None:
    unit, x = DecoderUnit(4, "instance", False), torch.randn(1, 4, 4, 4, 4)
    assert torch.equal(unit(x), x + unit.convs(x))
    assert (unit(x) < -0.5).any()


def test_depths_have_the_strides_of_the_networks_own_axes() -> None:
    """The first axis, which the stem does not halve, is the slice axis Z of a volume with zyx."""
    network = small("cotr", axis_order="zyx").train()
    assert network.divisor == (16, 16, 8)
    shapes = [tuple(y.shape[2:]) for y in network(torch.randn(1, 2, 32, 48, 16))]
    assert shapes == [(32, 48, 16), (16, 24, 16), (8, 12, 8), (4, 6, 4)]


def test_the_answer_is_upsampled_between_voxel_centers() -> None:
    """The 1x1x1 head commutes with the interpolation: before it here, after it in the public code."""
    network, x = small("cotr").eval(), torch.randn(1, 2, 16, 32, 32)
    seen = []
    network.units[2].register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        answer = network(x)
        larger = functional.interpolate(
            seen[0], scale_factor=(1, 2, 2), mode="trilinear", align_corners=False
        )
        torch.testing.assert_close(answer, network.head(larger), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ({"depths": [3, 3]}, "network.depths: expected three numbers, got [3, 3]. Give one per stage."),
        ({"heads": 5}, "network.heads: expected a divisor of 6 channels = 24, got 5. Change it."),
        ({"sampling": "own"}, "network.sampling: expected public, aligned, got 'own'. Choose one of them."),
    ],
)
def test_a_choice_that_it_does_not_have_is_refused(option, line) -> None:
    with pytest.raises(RecipeError) as caught:
        build_network("cotr", 1, 2, **(small_options("cotr") | option))
    assert str(caught.value) == line
