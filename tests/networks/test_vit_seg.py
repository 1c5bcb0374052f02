"""ViT for segmentation against MONAI's, and its decoder against the text (architectures2.md, section 26)."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.cost import network_cost
from mambamed.networks.public_names import public_axis_order, translate
from tests.networks.public_layout import read_layout
from tests.networks.small_networks import small

BRATS = {"patch_size": [128, 128, 128]}
NORMS = 12 * 2 * 768  # of MONAI's blocks, for a cross-attention that they do not have

ENCODER = """
{prefix}patch_embedding.patch_embeddings                conv(4, 768, 16)
{prefix}patch_embedding.position_embeddings             tensor(1, 512, 768)
{prefix}blocks.{0..11}.{norm1,norm2,norm_cross_attn}    norm(768)
{prefix}blocks.{0..11}.attn.qkv                         linear(768, 2304, bias=False)
{prefix}blocks.{0..11}.attn.out_proj                    linear(768, 768)
{prefix}blocks.{0..11}.mlp.linear1                      linear(768, 3072)
{prefix}blocks.{0..11}.mlp.linear2                      linear(3072, 768)
{prefix}norm                                            norm(768)
"""
UP = """
up.steps.0.transposed           transposed(768, 256, 2)
up.steps.{j=1..3}.transposed    transposed(512 // 2 ** j, 256 // 2 ** j, 2)
up.steps.{j=0..3}.conv          conv(256 // 2 ** j, 256 // 2 ** j, 3, bias=False)
up.steps.{j=0..3}.norm          norm(256 // 2 ** j)
up.head                         conv(32, 4, 1)
"""
LINEAR = """
conv3d_transpose                transposed(768, 16, 4)
conv3d_transpose_1              transposed(16, 4, 4)
"""


def on_meta(**options):
    with torch.device("meta"):
        return build_network("vit_seg", 4, 4, **options)


def count(network) -> int:
    return sum(p.numel() for p in network.parameters())


def test_it_has_the_parameters_and_the_cost_of_the_specification() -> None:
    network = on_meta(**BRATS)
    assert f"{count(network) / 1e6:.3f}" == "102.274"
    assert round(network_cost(network, 4, (128, 128, 128)).gmacs, 1) == 172.1


def test_the_linear_head_has_the_parameters_of_monais_autoencoder() -> None:
    """98.81 M there, with the norms that it does not use."""
    assert f"{(count(on_meta(**BRATS, head='linear')) + NORMS) / 1e6:.2f}" == "98.81"


@pytest.mark.parametrize(
    ("head", "prefix", "decoder"), [("up", "vit.", UP), ("linear", "", LINEAR), ("linear", "vit.", LINEAR)]
)
def test_the_public_names_are_those_of_every_tensor(head, prefix, decoder) -> None:
    network = on_meta(**BRATS, head=head)
    layout = read_layout(ENCODER + decoder, prefix=prefix)
    public = {key: torch.empty(shape, device="meta") for key, shape in layout.shapes.items()}
    assert translate("vit_seg", network, public, public_axis_order("vit_seg")).faults == []
    assert layout.parameters == count(network) + NORMS


@pytest.mark.parametrize("head", ["up", "linear"])
def test_with_monais_weights_the_encoder_and_the_linear_head_are_monais(head) -> None:
    from monai.networks.nets.vit import ViT
    from monai.networks.nets.vitautoenc import ViTAutoEnc

    torch.manual_seed(0)
    sizes = dict(hidden_size=24, mlp_dim=32, num_layers=2, num_heads=4)
    if head == "up":
        theirs = ViT(2, (32, 16, 48), (16, 16, 16), **sizes, proj_type="conv", pos_embed_type="learnable")
    else:
        theirs = ViTAutoEnc(2, (32, 16, 48), (16, 16, 16), out_channels=3, **sizes, proj_type="conv")
    ours = small("vit_seg", patch_size=[32, 16, 48], head=head).eval()
    public, x = theirs.state_dict(), torch.randn(2, 2, 32, 16, 48)
    if head == "up":
        public |= {f"up.{key}": tensor for key, tensor in ours.decoder.state_dict().items()}
    translation = translate("vit_seg", ours, public, "xyz")
    assert translation.faults == []
    ours.load_state_dict(translation.weights)
    with torch.no_grad():
        expected = theirs.eval()(x)[0]
        if head == "up":
            grid = expected.transpose(1, 2).unflatten(2, (2, 1, 3))
            (expected,) = ours.decoder(grid, every=False)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)


def literal_decoder(x: Tensor, w: dict[str, Tensor]) -> list[Tensor]:
    """Features of the four steps."""
    features = []
    for j in range(4):
        at = f"steps.{j}"
        x = functional.conv_transpose3d(x, w[f"{at}.transposed.weight"], w[f"{at}.transposed.bias"], stride=2)
        x = functional.conv3d(x, w[f"{at}.conv.weight"], padding=1)
        mean = x.mean((2, 3, 4), keepdim=True)
        variance = x.var((2, 3, 4), keepdim=True, unbiased=False)
        weight, bias = (w[f"{at}.norm.{part}"].view(1, -1, 1, 1, 1) for part in ("weight", "bias"))
        x = (x - mean) / (variance + 1e-5).sqrt() * weight + bias
        x = torch.where(x > 0, x, 0.01 * x)
        features.append(x)
    return features


def test_the_decoder_is_that_of_the_specification() -> None:
    """Widths 8 c, 4 c, 2 c, c; outputs of deep supervision at strides 1, 2, 4, 8."""
    network = small("vit_seg", deep_supervision=True)
    decoder, x = network.decoder, torch.randn(1, 24, 2, 1, 2)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        features = literal_decoder(x, decoder.state_dict())
        assert [f.shape[1] for f in features] == [32, 16, 8, 4]
        heads = [decoder.head, *decoder.deep_heads]
        found = decoder(x, every=True)
        for logits, head, f in zip(found, heads, features[::-1], strict=True):
            expected = functional.conv3d(f, head.weight, head.bias)
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert network.deep_supervision_strides == [(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8)]


def test_a_patch_is_rounded_up_to_multiples_of_16() -> None:
    network = small("vit_seg", patch_size=[30, 17, 16], axis_order="zyx")
    assert network.divisor == (16, 32, 32)
    with pytest.raises(RecipeError, match="built for 16 x 32 x 32 voxels, given 32 x 32 x 32"):
        network(torch.zeros(1, 2, 32, 32, 32))


@pytest.mark.parametrize(
    "option", [{"head": "wide"}, {"heads": 5}, {"deep_supervision": True, "head": "linear"}]
)
def test_a_choice_that_it_does_not_have_is_refused(option) -> None:
    with pytest.raises(RecipeError, match=rf"network\.{next(iter(option))}: expected "):
        small("vit_seg", **option)
