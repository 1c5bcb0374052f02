"""UniMiSS's network against the counts of its public code, its names, and its blocks written out."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.cost import network_cost
from mambamed.networks.public_names import public_axis_order, settle_options, translate
from mambamed.networks.unimiss import Block, Transformer
from tests.networks.public_layout import read_layout
from tests.networks.small_networks import small, small_options


def on_meta(channels: int, classes: int, patch: list[int], **options):
    with torch.device("meta"):
        return build_network("unimiss", channels, classes, patch_size=patch, **options)


@pytest.mark.parametrize(
    ("channels", "classes", "patch", "millions"),
    [(4, 4, [128, 128, 128], 45.0754), (1, 14, [48, 192, 192], 43.6446)],
)
def test_it_has_the_parameters_of_the_public_code(channels, classes, patch, millions) -> None:
    """They depend on the patch through the learned positions."""
    network = on_meta(channels, classes, patch)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 4) == millions


def test_it_needs_less_than_the_multiplications_of_the_public_code() -> None:
    """80.2 G there: its last head follows the upsampling, and the other heads run in evaluation too."""
    voxels = 128**3
    unneeded = 4 * voxels * (32 * 3 / 4 + 32 / 4 + 48 / 32 + 128 / 256 + 256 / 2048) / 1e9
    cost = network_cost(on_meta(4, 4, [128, 128, 128]), 4, (128, 128, 128))
    assert round(cost.gmacs + unneeded, 1) == 80.2


# Names and shapes of the public state dict of the small variant with 2 channels, 5 classes and 16 x 96 x 64.
BLOCK = """
{at}.{norm1,norm2}  norm({C})
{at}.attn.q         linear({C}, {C}, bias={bias})
{at}.attn.kv        linear({C}, 2 * {C}, bias={bias})
{at}.attn.proj      linear({C}, {C})
{at}.mlp.fc1        linear({C}, 4 * {C})
{at}.mlp.fc2        linear(4 * {C}, {C})
"""
REDUCED = """
{at}.attn.sr        conv({C}, {C}, {r})
{at}.attn.norm      norm({C})
"""
REST = """
model.transformer.patch_embed0.conv       conv(2, 32, 7, bias=False)
model.transformer.patch_embed1.proj.conv  conv(32, 48, 3, bias=False)
model.transformer.patch_embed2.proj.conv  conv(48, 128, 3, bias=False)
model.transformer.patch_embed3.proj.conv  conv(128, 256, 3, bias=False)
model.transformer.patch_embed4.proj.conv  conv(256, 512, 3, bias=False)
model.transformer.patch_embed0.norm       norm(32)
model.transformer.patch_embed1.proj.norm  norm(48)
model.transformer.patch_embed2.proj.norm  norm(128)
model.transformer.patch_embed3.proj.norm  norm(256)
model.transformer.patch_embed4.proj.norm  norm(512)
model.{transformer.pos_embed1,DecPosEmbed2}  tensor(1, 8 * 24 * 16, 48)
model.{transformer.pos_embed2,DecPosEmbed1}  tensor(1, 4 * 12 * 8, 128)
model.{transformer.pos_embed3,DecPosEmbed0}  tensor(1, 2 * 6 * 4, 256)
model.transformer.pos_embed4              tensor(1, 1 * 3 * 2, 512)
model.DecEmbed0.proj                      transposed(512, 256, 2)
model.DecEmbed1.proj                      transposed(256, 128, 2)
model.DecEmbed2.proj                      transposed(128, 48, 2)
model.norm                                norm(48)
model.transposeconv_stage3                transposed(48, 32, 2)
model.stage3_de.conv                      conv(32, 32, 3, bias=False)
model.stage3_de.norm                      norm(32)
model.ds0_cls_conv                        conv(256, 5, 1)
model.ds1_cls_conv                        conv(128, 5, 1)
model.ds2_cls_conv                        conv(48, 5, 1)
model.{ds3_cls_conv,cls_conv}             conv(32, 5, 1)
"""
BLOCKS = [  # key, width, reduction, blocks
    ("model.transformer.block1", 48, 6, 2),
    ("model.transformer.block2", 128, 4, 3),
    ("model.transformer.block3", 256, 2, 4),
    ("model.transformer.block4", 512, 1, 3),
    ("model.Decblock0", 256, 2, 3),
    ("model.Decblock1", 128, 4, 4),
    ("model.Decblock2", 48, 6, 3),
]


def public_weights() -> dict[str, Tensor]:
    text = REST
    for key, width, reduction, count in BLOCKS:
        for j in range(count):
            lines = BLOCK + (REDUCED if reduction > 1 else "")
            for name, value in (("at", f"{key}.{j}"), ("C", width), ("r", reduction)):
                lines = lines.replace(f"{{{name}}}", str(value))
            text += lines.replace("{bias}", str("transformer" in key))
    return {key: torch.empty(shape, device="meta") for key, shape in read_layout(text).shapes.items()}


def test_the_public_names_are_those_of_every_parameter() -> None:
    network, public = on_meta(2, 5, [16, 96, 64]), public_weights()
    for prefix in ("", "model."):  # of files saved with the wrapper of the public code, and without
        given = {key.removeprefix(prefix): tensor for key, tensor in public.items()}
        translation = translate("unimiss", network, given, public_axis_order("unimiss"))
        assert translation.faults == []
        assert set(translation.weights) == set(network.state_dict())


def test_a_file_shows_its_variant() -> None:
    public = public_weights()
    assert settle_options("unimiss", {}, public) == ({}, ())
    options, notes = settle_options("unimiss", {"variant": "tiny"}, public)
    assert options == {"variant": "small"}
    assert notes == ("network.variant: set to small. The first stage of the file has several blocks.",)
    tiny = {key: tensor for key, tensor in public.items() if "block1.1" not in key}
    assert settle_options("unimiss", {}, tiny)[0] == {"variant": "tiny"}


def test_a_block_is_its_formula() -> None:
    """Keys and values of a 5 x 4 x 4 grid at reduction 2 are those of its first 4 x 4 x 4 voxels."""
    torch.manual_seed(0)
    block = Block(width=6, heads=3, reduction=2, bias=True, eps=1e-6)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, attention = torch.randn(2, 80, 6), block.attention
    with torch.no_grad():
        y = block.norm1(x)
        grid = y.transpose(1, 2).reshape(2, 6, 5, 4, 4)[:, :, :4]
        smaller = functional.conv3d(grid, attention.reduce.weight, attention.reduce.bias, stride=2)
        read = attention.norm(smaller.reshape(2, 6, 8).transpose(1, 2))
        q, kv = attention.q(y).view(2, 80, 3, 2), attention.kv(read).view(2, 8, 2, 3, 2)
        scores = torch.einsum("blhd,bmhd->bhlm", q, kv[:, :, 0]) / math.sqrt(2)
        mixed = torch.einsum("bhlm,bmhd->blhd", scores.softmax(-1), kv[:, :, 1]).reshape(2, 80, 6)
        expected = x + attention.proj(mixed)
        first, _, last = block.mlp
        expected = expected + last(functional.gelu(first(block.norm2(expected))))
        torch.testing.assert_close(block(x, (5, 4, 4)), expected, rtol=1e-4, atol=1e-5)


def test_heads_norms_and_biases_are_those_of_each_side() -> None:
    network = on_meta(1, 2, [32, 32, 32])
    for side, heads, eps in ((network.encoders, [1, 2, 4, 8], 1e-6), (network.decoders, [8, 4, 2], 1e-5)):
        assert [stage.blocks[0].attention.heads for stage in side] == heads
        for stage in side:
            for block in stage.blocks:
                assert block.norm1.eps == block.norm2.eps == eps
                assert (block.attention.q.bias is not None) == (eps == 1e-6)
                assert block.attention.norm is None or block.attention.norm.eps == 1e-5
    norms = [stage.norm for stage in (*network.encoders, *network.decoders)]
    assert [isinstance(norm, torch.nn.LayerNorm) for norm in norms] == [False] * 6 + [True]
    assert norms[-1].eps == 1e-5


def test_a_stage_adds_its_positions_and_ends_with_its_norm() -> None:
    stage, x = (
        Transformer(4, (2, 2, 3), 0, 1, 1, encoder=False, recomputed=False, last=True),
        torch.randn(1, 4, 2, 2, 3),
    )
    tokens = x.reshape(4, 12).T + stage.positions[0]
    expected = functional.layer_norm(tokens, (4,)).T.reshape(1, 4, 2, 2, 3)
    torch.testing.assert_close(stage(x), expected)


def test_depths_have_the_strides_of_the_networks_own_axes() -> None:
    """The first axis, which the stem does not halve, is the slice axis Z of a volume with zyx."""
    network = small("unimiss", axis_order="zyx", patch_size=[16, 64, 32]).train()
    assert network.divisor == (32, 64, 16)
    shapes = [tuple(y.shape[2:]) for y in network(torch.randn(1, 2, 32, 64, 16))]
    assert shapes == [(32, 64, 16), (16, 32, 16), (8, 16, 8), (4, 8, 4), (2, 4, 2)]


def test_the_answer_is_upsampled_between_voxel_centers() -> None:
    """The 1x1x1 head commutes with the interpolation: before it here, after it in the public code."""
    network, x = small("unimiss").eval(), torch.randn(1, 2, 32, 32, 32)
    seen = []
    network.last.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        answer = network(x)
        larger = functional.interpolate(
            seen[0], scale_factor=(1, 2, 2), mode="trilinear", align_corners=False
        )
        torch.testing.assert_close(answer, network.head(larger), rtol=1e-4, atol=1e-5)


def test_the_tiny_variant_has_one_block_per_stage() -> None:
    network = on_meta(1, 2, [32, 32, 32], variant="tiny")
    assert [len(stage.blocks) for stage in (*network.encoders, *network.decoders)] == [1] * 7


def test_a_patch_is_rounded_up_and_larger_inputs_are_refused() -> None:
    network = small("unimiss", patch_size=[17, 20, 40])
    assert network.divisor == (32, 32, 64)
    with pytest.raises(RecipeError, match="built for 32 x 32 x 64 voxels, given 33 x 8 x 8"):
        network(torch.zeros(1, 2, 33, 8, 8))


def test_the_smallest_patch_leaves_two_voxels_to_normalize() -> None:
    """One more multiple along the first axis; of a single voxel, instance norm fails in training."""
    network = small("unimiss", patch_size=[3, 5, 1])
    assert network.divisor == (32, 32, 32)
    network.train()(torch.randn(1, 2, 3, 5, 1))


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ({"variant": "base"}, "network.variant: expected small, tiny, got 'base'. Choose one of them."),
        ({"channels": 5}, "network.channels: expected an even number, got 5. Change it."),
    ],
)
def test_a_choice_that_it_does_not_have_is_refused(option, line) -> None:
    with pytest.raises(RecipeError) as caught:
        build_network("unimiss", 1, 2, **(small_options("unimiss") | option))
    assert str(caught.value) == line
