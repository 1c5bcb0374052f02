"""3D UX-Net against the counts and keys of its public code, and its block against a literal formula.

Those are from architectures2.md, section 23.
"""

import pytest
import torch
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.cost import network_cost
from mambamed.networks.public_names import public_axis_order, translate
from mambamed.networks.uxnet import Block
from tests.networks.public_layout import read_layout
from tests.networks.small_networks import small

KEYS = """
uxnet_3d.downsample_layers.0.0                  conv(inputs, 48, 7)
uxnet_3d.downsample_layers.0.1                  norm(48)
uxnet_3d.downsample_layers.{i=1..3}.0           norm(24 * 2**i)
uxnet_3d.downsample_layers.{i=1..3}.1           conv(24 * 2**i, 48 * 2**i, 2)
uxnet_3d.stages.{i=0..3}.{0..1}.gamma           tensor(48 * 2**i)
uxnet_3d.stages.{i=0..3}.{0..1}.dwconv          conv(48 * 2**i, 48 * 2**i, 7, groups=48 * 2**i)
uxnet_3d.stages.{i=0..3}.{0..1}.norm            norm(48 * 2**i)
uxnet_3d.stages.{i=0..3}.{0..1}.pwconv1         conv(48 * 2**i, 192 * 2**i, 1, groups=48 * 2**i)
uxnet_3d.stages.{i=0..3}.{0..1}.pwconv2         conv(192 * 2**i, 48 * 2**i, 1, groups=48 * 2**i)
uxnet_3d.norm{i=0..3}                           norm(48 * 2**i)
encoder1.layer.conv1.conv                       conv(inputs, 48, 3, bias=False)
encoder1.layer.conv2.conv                       conv(48, 48, 3, bias=False)
encoder1.layer.conv3.conv                       conv(inputs, 48, 1, bias=False)
encoder{n=2..5}.layer.conv1.conv                conv(12 * 2**n, 24 * 2**n, 3, bias=False)
encoder{n=2..5}.layer.conv2.conv                conv(24 * 2**n, 24 * 2**n, 3, bias=False)
encoder{n=2..5}.layer.conv3.conv                conv(12 * 2**n, 24 * 2**n, 1, bias=False)
decoder{n=2..5}.transp_conv.conv                transposed(24 * 2**n, 12 * 2**n, 2, bias=False)
decoder{n=2..5}.conv_block.conv1.conv           conv(24 * 2**n, 12 * 2**n, 3, bias=False)
decoder{n=2..5}.conv_block.conv2.conv           conv(12 * 2**n, 12 * 2**n, 3, bias=False)
decoder{n=2..5}.conv_block.conv3.conv           conv(24 * 2**n, 12 * 2**n, 1, bias=False)
decoder1.layer.conv{1,2}.conv                   conv(48, 48, 3, bias=False)
out.conv.conv                                   conv(48, outputs, 1)
"""


def on_meta(inputs: int, outputs: int) -> torch.nn.Module:
    with torch.device("meta"):
        return build_network("uxnet", inputs, outputs)


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_it_has_the_parameters_of_the_public_code() -> None:
    assert count(on_meta(4, 4)) == 53_059_444
    assert round(count(on_meta(1, 14)) / 1e6, 4) == 53.0065


@pytest.mark.parametrize(("channels", "size", "gmacs"), [((4, 4), 128, 1390.0), ((1, 14), 96, 577.8)])
def test_it_costs_what_the_public_code_costs(channels, size, gmacs) -> None:
    cost = network_cost(on_meta(*channels), channels[0], (size, size, size), 1)
    assert round(cost.gmacs, 1) == gmacs


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (1, 14)])
def test_the_public_keys_fit(inputs, outputs) -> None:
    """No norm of the decoder has weights, and only the last convolution of it has a bias."""
    layout = read_layout(KEYS, inputs=inputs, outputs=outputs)
    public = {key: torch.empty(shape, device="meta") for key, shape in layout.shapes.items()}
    network = on_meta(inputs, outputs)
    assert translate("uxnet", network, public, "xyz").faults == []
    assert layout.parameters == count(network)
    assert public_axis_order("uxnet") == "xyz"


def test_weights_get_to_the_part_that_the_public_name_states() -> None:
    public = {key: torch.empty(shape) for key, shape in read_layout(KEYS, inputs=1, outputs=2).shapes.items()}
    for number, tensor in enumerate(public.values()):
        tensor.fill_(number)
    order = {key: number for number, key in enumerate(public)}
    network = build_network("uxnet", 1, 2)
    network.load_state_dict(translate("uxnet", network, public, "xyz").weights)
    places = {
        "uxnet_3d.downsample_layers.0.1.bias": network.downs[0][1].norm.bias,
        "uxnet_3d.downsample_layers.2.0.weight": network.downs[2][0].norm.weight,
        "uxnet_3d.downsample_layers.2.1.weight": network.downs[2][1].weight,
        "uxnet_3d.stages.3.1.gamma": network.stages[3][1].gamma,
        "uxnet_3d.stages.3.1.dwconv.bias": network.stages[3][1].conv.bias,
        "uxnet_3d.stages.1.0.norm.bias": network.stages[1][0].norm.norm.bias,
        "uxnet_3d.stages.1.0.pwconv2.bias": network.stages[1][0].mlp[2].bias,
        "uxnet_3d.norm2.weight": network.outputs[2].norm.weight,
        "encoder1.layer.conv3.conv.weight": network.encoders[0].shortcut[0].weight,
        "encoder5.layer.conv1.conv.weight": network.encoders[4].conv1.weight,
        "decoder5.transp_conv.conv.weight": network.decoders[0].up.weight,
        "decoder2.conv_block.conv2.conv.weight": network.decoders[3].block.conv2.weight,
        "decoder1.layer.conv2.conv.weight": network.last.conv2.weight,
        "out.conv.conv.bias": network.head.bias,
    }
    for key, tensor in places.items():
        assert (tensor == order[key]).all(), key


def test_a_block_has_one_mlp_per_channel() -> None:
    """x + gamma * sum_k w2_k GELU(w1_k y + b1_k) + b2 with four k of each channel; the norm has eps 1e-6."""
    torch.manual_seed(0)
    channels = 3
    block, x = Block(channels), torch.randn(2, channels, 5, 6, 7) / 1000  # eps is no longer negligible
    block.gamma.data.uniform_(0.5, 1.5)
    with torch.no_grad():
        kernels, biases = block.conv.weight, block.conv.bias
        conv = [
            functional.conv3d(x[:, k : k + 1], kernels[k : k + 1], biases[k : k + 1] / 1000, padding=3)
            for k in range(channels)
        ]
        block.conv.bias.div_(1000)
        y = torch.cat(conv, 1)
        mean, variance = y.mean(1, keepdim=True), y.var(1, unbiased=False, keepdim=True)
        y = (y - mean) / (variance + 1e-6).sqrt()
        expected = x.clone()
        for c in range(channels):
            inner = sum(
                block.mlp[2].weight[c, k, 0, 0, 0]
                * functional.gelu(
                    block.mlp[0].weight[4 * c + k, 0, 0, 0, 0] * y[:, c] + block.mlp[0].bias[4 * c + k]
                )
                for k in range(4)
            )
            expected[:, c] += block.gamma[c] * (inner + block.mlp[2].bias[c])
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_a_new_block_is_almost_the_identity() -> None:
    block, x = Block(4), torch.randn(1, 4, 6, 6, 6)
    assert (block.gamma == 1e-6).all()
    assert 0 < (block(x) - x).abs().max() < 1e-5


def test_the_norm_of_an_output_is_not_on_the_path_to_the_next_stage() -> None:
    network, x = small("uxnet").eval(), torch.randn(1, 2, 32, 32, 32)
    seen = []
    network.stages[1].register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        before = network(x)
        network.outputs[0].norm.weight.mul_(-2)
        after = network(x)
    assert torch.equal(*seen)
    assert not torch.allclose(before, after)


def test_other_numbers_of_depths_are_rejected() -> None:
    with pytest.raises(RecipeError, match=r"network\.depths: expected four numbers, got \[2, 2\]\. Give one"):
        build_network("uxnet", 1, 2, depths=[2, 2])


def test_zyx_computes_on_the_volume_with_its_axes_reversed() -> None:
    network, turned = small("uxnet").eval(), small("uxnet", axis_order="zyx").eval()
    turned.load_state_dict(network.state_dict())
    x = torch.randn(1, 2, 16, 32, 48)
    with torch.no_grad():
        expected, found = network(x), turned(x.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(found, expected)
