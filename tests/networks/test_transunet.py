"""TransUNet against the counts, names and formulas of its public code (architectures2.md, section 24)."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.cost import network_cost
from mambamed.networks.public_names import settle_options, translate
from mambamed.networks.transunet import BottomTransformer
from tests.networks.public_layout import read_layout
from tests.networks.small_networks import small

SYNAPSE = {"patch_size": [48, 192, 192], "strides": [1, [1, 2, 2], 2, 2, 2, [1, 2, 2]]}
BRATS = {"patch_size": [128, 128, 128]}
# The reference array of the public code has another patch, and thus 2 x 2 x 3 positions.
PARITY = SYNAPSE | {"patch_size": [16, 64, 96]}


def on_meta(inputs: int, outputs: int, **options):
    with torch.device("meta"):
        return build_network("transunet", inputs, outputs, **options)


def count(network) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("inputs", "outputs", "options", "millions"),
    [(1, 14, SYNAPSE, "116.520"), (4, 4, BRATS, "116.815")],
)
def test_parameters_are_those_of_the_public_code(inputs, outputs, options, millions) -> None:
    """Counted there with layer scale: 2 x 768 numbers per block."""
    public = count(on_meta(inputs, outputs, **options, layer_scale="residual"))
    assert f"{public / 1e6:.3f}" == millions
    assert public - count(on_meta(inputs, outputs, **options)) == 12 * 2 * 768


def test_parameters_are_those_of_the_reference_array() -> None:
    assert count(on_meta(1, 14, **PARITY, layer_scale="residual")) == 116_362_848


@pytest.mark.parametrize(
    ("inputs", "outputs", "patch", "options", "gmacs"),
    [(1, 14, (48, 192, 192), SYNAPSE, 625.5), (4, 4, (128, 128, 128), BRATS, 488.4)],
)
def test_it_costs_what_the_public_code_costs(inputs, outputs, patch, options, gmacs) -> None:
    """The public code computes all heads in evaluation too; ours computes the finest alone."""
    network = on_meta(inputs, outputs, **options)
    heads, strides = list(network.heads)[:-1], network.deep_supervision_strides[:0:-1]
    voxels = [math.prod(patch) / math.prod(stride) for stride in strides]
    coarse = sum(head.in_channels * outputs * n for head, n in zip(heads, voxels, strict=True))
    found = network_cost(network, inputs, patch).gmacs + coarse / 1e9
    assert round(found, 1) == gmacs


@pytest.mark.parametrize(
    ("inputs", "outputs", "options", "depth", "decoder", "both"),
    [(1, 14, SYNAPSE, 12, "32.78", "118.52"), (4, 4, BRATS, 1, "33.19", "40.83")],
)
def test_parameters_with_queries_are_those_of_the_public_code(
    inputs, outputs, options, depth, decoder, both
) -> None:
    """There with layer scale, heads of the U-Net, and a projection (64 -> 192, norm) of an unread level."""
    unused = outputs * (320 + 256 + 128 + 64 + 32) + 64 * 192 + 3 * 192
    options = options | {"queries": 20, "query_layer_scale": True}
    for wanted, form in (
        (decoder, {"vit_depth": 0}),
        (both, {"vit_depth": depth, "layer_scale": "residual"}),
    ):
        assert f"{(count(on_meta(inputs, outputs, **options, **form)) + unused) / 1e6:.2f}" == wanted


def test_the_default_is_the_published_size() -> None:
    assert count(on_meta(4, 4)) == count(on_meta(4, 4, **BRATS, vit_depth=12))


# The network of the reference array: 1 channel, 14 classes; {j} is the second of two conv units.
UNET = """
conv_blocks_context.0.blocks.{j=0..1}.conv        conv(max(1, 32 * j), 32, 3)
conv_blocks_context.{d=1..3}.blocks.{j=0..1}.conv conv(2 ** (4 + d + j), 2 ** (5 + d), 3)
conv_blocks_context.4.blocks.{j=0..1}.conv        conv(256 + 64 * j, 320, 3)
conv_blocks_context.5.{0..1}.blocks.0.conv        conv(320, 320, 3)
conv_blocks_context.{d=0..4}.blocks.{0..1}.instnorm           norm(min(2 ** (5 + d), 320))
conv_blocks_context.5.{0..1}.blocks.0.instnorm                norm(320)
conv_blocks_localization.0.{j=0..1}.blocks.0.conv             conv(640 - 320 * j, 320, 3)
conv_blocks_localization.{u=1..4}.{j=0..1}.blocks.0.conv      conv(2 ** (10 - u - j), 2 ** (9 - u), 3)
conv_blocks_localization.{u=0..4}.{0..1}.blocks.0.instnorm    norm(min(2 ** (9 - u), 320))
tu.0                 transposed(320, 320, (1, 2, 2), bias=False)
tu.1                 transposed(320, 256, 2, bias=False)
tu.{u=2..3}          transposed(2 ** (10 - u), 2 ** (9 - u), 2, bias=False)
tu.4                 transposed(64, 32, (1, 2, 2), bias=False)
"""
HEADS = """
seg_outputs.{u=0..4} conv(min(2 ** (9 - u), 320), 14, 1, bias=False)
"""
TRANSFORMER = """
transformer.embeddings.patch_embeddings               conv(320, 768, 1)
transformer.embeddings.position_embeddings            tensor(1, 12, 768)
transformer.encoder.layer.{0..11}.attention_norm      norm(768)
transformer.encoder.layer.{0..11}.ffn_norm            norm(768)
transformer.encoder.layer.{0..11}.attn.{query,key,value,out} linear(768, 768)
transformer.encoder.layer.{0..11}.ffn.fc1             linear(768, 3072)
transformer.encoder.layer.{0..11}.ffn.fc2             linear(3072, 768)
transformer.encoder.encoder_norm                      norm(768)
conv_more                                             conv(768, 320, 1)
"""
LAYER_SCALE = """
transformer.encoder.layer.{0..11}.ls{1,2}.gamma       tensor(768)
"""
QUERIES = """
input_proj.{i=0..2}.0                                 conv(2 ** (8 - i), 192, 1)
input_proj.{0..2}.1                                   norm(192)
linear_mask_features                                  conv(32, 192, 1)
predictor.query_{feat,embed}.weight                   tensor(20, 192)
predictor.level_embed.weight                          tensor(3, 192)
predictor.transformer_cross_attention_layers.{0,1}.multihead_attn.in_proj_weight  tensor(576, 192)
predictor.transformer_cross_attention_layers.{0,1}.multihead_attn.in_proj_bias    tensor(576)
predictor.transformer_cross_attention_layers.{0,1}.multihead_attn.out_proj        linear(192, 192)
predictor.transformer_cross_attention_layers.{0,1}.norm                           norm(192)
predictor.transformer_self_attention_layers.{0,1}.self_attn.in_proj_weight        tensor(576, 192)
predictor.transformer_self_attention_layers.{0,1}.self_attn.in_proj_bias          tensor(576)
predictor.transformer_self_attention_layers.{0,1}.self_attn.out_proj              linear(192, 192)
predictor.transformer_self_attention_layers.{0,1}.norm                            norm(192)
predictor.transformer_ffn_layers.{0,1}.linear1        linear(192, 1536)
predictor.transformer_ffn_layers.{0,1}.linear2        linear(1536, 192)
predictor.transformer_ffn_layers.{0,1}.norm           norm(192)
predictor.decoder_norm                                norm(192)
predictor.class_embed                                 linear(192, 15)
predictor.mask_embed.layers.{0..2}                    linear(192, 192)
"""
QUERY_SCALE = """
predictor.transformer_{self_attention,ffn}_layers.{0,1}.ls1.gamma  tensor(192)
"""


def faults_of(network, *parts: str) -> list[str]:
    """What does not fit, also tensors of ours that the public state dict lacks."""
    shapes = read_layout("".join(parts)).shapes
    public = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    return translate("transunet", network, public).faults


@pytest.mark.parametrize("layer_scale", ["residual", "branch", "none"])
def test_the_public_names_are_those_of_every_tensor(layer_scale) -> None:
    network = on_meta(1, 14, **PARITY, axis_order="zyx", layer_scale=layer_scale)
    scales = "" if layer_scale == "none" else LAYER_SCALE
    assert faults_of(network, UNET, HEADS, TRANSFORMER, scales) == []
    assert read_layout(UNET + HEADS + TRANSFORMER + scales).parameters == count(network)
    assert len(faults_of(network, UNET, HEADS, TRANSFORMER, "" if scales else LAYER_SCALE)) == 24


def public_file(*parts: str) -> dict[str, Tensor]:
    return {
        key: torch.empty(shape, device="meta") for key, shape in read_layout("".join(parts)).shapes.items()
    }


def test_options_that_no_key_shows_are_those_of_the_authors() -> None:
    """Layer scale of branch and residual has the same keys; without its keys there is none."""
    scaled, plain = public_file(UNET, TRANSFORMER, LAYER_SCALE), public_file(UNET, TRANSFORMER)
    options, notes = settle_options("transunet", {}, scaled)
    assert (options, len(notes)) == ({"heads": 12, "layer_scale": "residual"}, 2)
    assert settle_options("transunet", {}, plain)[0] == {"heads": 12}
    assert settle_options("transunet", {"heads": 6, "layer_scale": "branch"}, scaled)[1] == ()
    assert settle_options("transunet", {}, {"tu.0.weight": torch.empty(0)}) == ({}, ())


def test_the_file_shows_the_form() -> None:
    """12 blocks, or none with 20 queries, whose decoder has layer scale of its own."""
    decoder = public_file(UNET, HEADS, QUERIES, QUERY_SCALE)
    options, notes = settle_options("transunet", {"query_layers": 5}, decoder)
    wanted = {"vit_depth": 0, "queries": 20, "query_layers": 2, "query_layer_scale": True}
    assert (options, len(notes)) == (wanted, 4)
    encoder = public_file(UNET, HEADS, TRANSFORMER)
    assert settle_options("transunet", wanted, encoder)[0] == wanted | {
        "vit_depth": 12,
        "queries": 0,
        "heads": 12,
    }
    both = settle_options("transunet", {}, public_file(UNET, TRANSFORMER, QUERIES))[0]
    assert both == {"heads": 12, "queries": 20}


def test_the_public_names_of_queries_leave_out_what_is_not_used() -> None:
    network = on_meta(1, 14, **PARITY, queries=20)
    assert faults_of(network, UNET, HEADS, TRANSFORMER, QUERIES) == []
    unused = 14 * 800 + 64 * 192 + 3 * 192
    assert read_layout(UNET + HEADS + TRANSFORMER + QUERIES).parameters == count(network) + unused
    network = on_meta(1, 14, **PARITY, vit_depth=0, queries=20, query_layer_scale=True)
    assert faults_of(network, UNET, HEADS, QUERIES, QUERY_SCALE) == []


def literal_transformer(x: Tensor, w: dict[str, Tensor], heads: int, scale: str) -> Tensor:
    """The transformer written out, over one patch `(1, C, D, H, W)`."""

    def norm(t: Tensor, name: str) -> Tensor:
        mean, variance = t.mean(-1, keepdim=True), t.var(-1, keepdim=True, unbiased=False)
        return (t - mean) / (variance + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def dense(t: Tensor, name: str) -> Tensor:
        return t @ w[f"{name}.weight"].flatten(1).T + w[f"{name}.bias"]

    def total(t: Tensor, branch: Tensor, gamma: str) -> Tensor:
        if scale == "none":
            return t + branch
        return w[gamma] * t + branch if scale == "residual" else t + w[gamma] * branch

    t = dense(x[0].flatten(1).T, "embed") + w["positions"][0]
    for i in range(2):
        of, n = f"blocks.{i}", norm(t, f"blocks.{i}.norm1")
        q, k, v = (dense(n, f"{of}.attention.{part}") for part in ("query", "key", "value"))
        size, parts = q.shape[1] // heads, []
        for h in range(heads):
            a = slice(h * size, (h + 1) * size)
            parts.append((q[:, a] @ k[:, a].T / size**0.5).softmax(1) @ v[:, a])
        t = total(t, dense(torch.cat(parts, 1), f"{of}.attention.out"), f"{of}.scale1")
        hidden = dense(norm(t, f"{of}.norm2"), f"{of}.fc1")
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        t = total(t, dense(hidden, f"{of}.fc2"), f"{of}.scale2")
    return dense(norm(t, "norm"), "project").T.reshape(x.shape)


@pytest.mark.parametrize("scale", ["none", "branch", "residual"])
def test_the_transformer_is_its_formulas(scale) -> None:
    """At features small enough for the eps of the norms to matter."""
    torch.manual_seed(0)
    part = BottomTransformer(5, (2, 3, 2), 2, 12, 16, 3, 0.1, scale, False).double().eval()
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.normal_(std=0.3)
        part.embed.weight.mul_(1e-3), part.embed.bias.zero_(), part.positions.mul_(1e-3)
        x = torch.randn(1, 5, 2, 3, 2, dtype=torch.float64)
        expected = literal_transformer(x, part.state_dict(), 3, scale)
        torch.testing.assert_close(part(x), expected, rtol=1e-9, atol=1e-12)


def test_layer_scale_starts_at_1e_5_and_cuts_the_residual() -> None:
    """With branches that give zero, "residual" leaves 1e-10 of a block's input, the other forms all of it."""
    for scale, share in (("none", 1.0), ("branch", 1.0), ("residual", 1e-10)):
        block = small("transunet", layer_scale=scale).transformer.blocks[0]
        x = torch.randn(1, 4, 24)
        with torch.no_grad():
            for layer in (block.attention.out, block.fc2):
                layer.weight.zero_(), layer.bias.zero_()
            torch.testing.assert_close(block(x), share * x, rtol=1e-5, atol=0)


def test_the_transformer_replaces_the_bottom() -> None:
    """Without its last layer nothing of the bottom stage is left."""
    network, x = small("transunet").eval(), torch.randn(1, 2, 32, 32, 32)
    with torch.no_grad():
        network.transformer.project.weight.zero_()
        before = network(x)
        for parameter in network.stages[-1].parameters():
            parameter.add_(1)
        assert torch.equal(network(x), before)


def test_without_a_transformer_it_is_nnunet() -> None:
    """Same outputs for the same weights; the biases that it lacks are zero at the start of nnU-Net."""
    plan = {"channels": 4, "stages": 3}
    ours, theirs = small("transunet", vit_depth=0), build_network("nnunet", 2, 3, **plan)
    rest = theirs.load_state_dict(ours.state_dict(), strict=False)
    lacked = [*(f"steps.{i}.up.bias" for i in range(2)), *(f"heads.{i}.bias" for i in range(2))]
    assert rest.unexpected_keys == [] and sorted(rest.missing_keys) == sorted(lacked)
    x = torch.randn(1, 2, 17, 20, 37)  # any shape
    for given, expected in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_it_starts_as_the_public_code_does() -> None:
    torch.manual_seed(0)
    network = build_network("transunet", 1, 2, patch_size=[32, 32, 32], vit_depth=1, hidden=96, mlp=96)
    transformer, block = network.transformer, network.transformer.blocks[0]
    assert not transformer.positions.any()
    assert transformer.embed.bias.any()  # PyTorch's default, not nnU-Net's zeros
    assert 0 < block.fc1.bias.abs().max() < 1e-5
    limit = (6 / (96 + 96)) ** 0.5  # Xavier uniform
    assert 0.98 * limit < block.fc1.weight.abs().max() <= limit
    conv = network.stages[1][1][0]  # He of slope 0.01 over 27 x 64 inputs
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (1 + 1e-4) / (27 * 64)) ** 0.5, rel=0.02)
    assert not conv.bias.any()


def test_a_patch_is_rounded_up_to_what_the_strides_need() -> None:
    network = build_network("transunet", 1, 2, **(PARITY | {"patch_size": [15, 60, 90]}), vit_depth=1)
    assert network.divisor == (16, 64, 96)
    turned = small("transunet", patch_size=[16, 32, 64], axis_order="zyx")
    assert turned.divisor == (64, 32, 16)
    with pytest.raises(RecipeError, match="built for 64 x 32 x 16 voxels, given 16 x 32 x 64"):
        turned(torch.zeros(1, 2, 16, 32, 64))


def test_the_axis_order_turns_the_volume() -> None:
    options = {"patch_size": [8, 16, 32], "strides": [1, [1, 2, 2], 2], "deep_supervision": True}
    network, turned = small("transunet", **options), small("transunet", **options, axis_order="zyx")
    x = torch.randn(1, 2, 8, 16, 32)
    for given, expected in zip(turned(x.permute(0, 1, 4, 3, 2)), network(x), strict=True):
        torch.testing.assert_close(given.permute(0, 1, 4, 3, 2), expected)
    assert turned.deep_supervision_strides == [(1, 1, 1), (2, 2, 1)]


QUERIED = {"queries": 5, "stages": 4}


@pytest.mark.parametrize("form", [{"vit_depth": 0}, {"vit_depth": 1}])
def test_queries_train_with_the_losses_of_all_networks(form) -> None:
    network, x = small("transunet", **QUERIED, **form).train(), torch.randn(2, 2, 17, 20, 9)
    outputs = network(x)
    assert [tuple(y.shape) for y in outputs] == [(2, 3, 17, 20, 9)] * 3
    assert network.deep_supervision_strides == [(1, 1, 1)] * 3
    sum(functional.cross_entropy(y, torch.ones(2, 17, 20, 9).long()) for y in outputs).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
    single = small("transunet", **QUERIED, **form, deep_supervision=False).train()(x)
    torch.testing.assert_close(single, outputs[0])


def test_queries_read_the_three_levels_before_the_finest() -> None:
    """Four stages: the bottom, 1/4 and 1/2. Two layers leave the last of them unread."""
    network = small("transunet", **QUERIED).eval()
    seen = []
    network.queries.register_forward_hook(lambda _, given, out: seen.append((given[0], given[1])))
    with torch.no_grad():
        network(torch.zeros(1, 2, 32, 32, 32))
    ((levels, finest),) = seen
    assert [tuple(x.shape[1:]) for x in levels] == [(32, 4, 4, 4), (16, 8, 8, 8), (8, 16, 16, 16)]
    assert tuple(finest.shape[1:]) == (4, 32, 32, 32)


def test_queries_compute_in_float32_under_autocast() -> None:
    network, x = small("transunet", **QUERIED).eval(), torch.randn(1, 2, 17, 20, 9)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = network(x)
    assert rounded.dtype == torch.float32
    with torch.no_grad():
        exact = network(x)
    assert (rounded - exact).norm() < 0.1 * exact.norm()


def test_a_network_with_queries_can_be_exported() -> None:
    network, x = small("transunet", **QUERIED).eval(), torch.randn(1, 2, 17, 20, 9)
    with torch.no_grad():
        program = torch.export.export(network, (x,))
        torch.testing.assert_close(program.module()(x), network(x), rtol=1e-4, atol=1e-5)


def test_queries_need_four_stages() -> None:
    with pytest.raises(
        RecipeError, match=r"network\.queries: expected 0 with 3 stages, got 5\. Give 0, or at"
    ):
        small("transunet", queries=5)


@pytest.mark.parametrize("option", [{"layer_scale": "all"}, {"heads": 5}])
def test_a_choice_that_it_does_not_have_is_refused(option) -> None:
    with pytest.raises(RecipeError, match=rf"network\.{next(iter(option))}: expected "):
        small("transunet", **option)
