"""TransBTS against the counts and keys of its public code, and its parts against literal formulas.

Those are from architectures2.md, section 29.
"""

import pytest
import torch
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.cost import network_cost
from mambamed.networks.public_names import public_axis_order, settle_options, translate
from mambamed.networks.transbts import Layer, Unit, UpStep
from tests.networks.public_layout import read_layout
from tests.networks.small_networks import small

USED = """
Unet.InitConv.conv                              conv(4, 16, 3)
Unet.EnDown{i=1..3}.conv                        conv(8 * 2**i, 16 * 2**i, 3)
Unet.EnBlock1.conv{1,2}                         conv(16, 16, 3)
Unet.EnBlock1.bn{1,2}                           norm(16)
Unet.EnBlock{i=2..3}_{1..2}.conv{1,2}           conv(8 * 2**i, 8 * 2**i, 3)
Unet.EnBlock{i=2..3}_{1..2}.bn{1,2}             norm(8 * 2**i)
Unet.EnBlock4_{1..4}.conv{1,2}                  conv(128, 128, 3)
Unet.EnBlock4_{1..4}.bn{1,2}                    norm(128)
bn                                              batch_norm(128)
conv_x                                          conv(128, 512, 3)
position_encoding.position_embeddings           tensor(1, 4096, 512)
transformer.net.{i=0..7}.fn.norm                norm(512)
transformer.net.{0,2,4,6}.fn.fn.qkv             linear(512, 1536, bias=False)
transformer.net.{0,2,4,6}.fn.fn.proj            linear(512, 512)
transformer.net.{1,3,5,7}.fn.fn.net.0           linear(512, 4096)
transformer.net.{1,3,5,7}.fn.fn.net.3           linear(4096, 512)
Enblock8_1.conv1                                conv(512, 128, 3)
Enblock8_1.conv2                                conv(128, 128, 3)
Enblock8_2.conv{1,2}                            conv(128, 128, 3)
Enblock8_{1,2}.bn{1,2}                          batch_norm(128)
DeUp{i=2..4}.conv1                              conv(8 * 2**i, 4 * 2**i, 1)
DeUp{i=2..4}.conv2                              transposed(4 * 2**i, 4 * 2**i, 2)
DeUp{i=2..4}.conv3                              conv(8 * 2**i, 4 * 2**i, 1)
DeBlock{i=2..4}.conv{1,2}                       conv(4 * 2**i, 4 * 2**i, 3)
DeBlock{i=2..4}.bn{1,2}                         batch_norm(4 * 2**i)
endconv                                         conv(16, 4, 1)
"""
IDLE = """
linear_encoding                                 linear(512, 512)
pre_head_ln                                     norm(512)
"""


def on_meta(**options) -> torch.nn.Module:
    with torch.device("meta"):
        return build_network("transbts", 4, 4, **options)


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_it_has_the_parameters_of_the_public_code_without_two_idle_layers() -> None:
    network = on_meta()
    assert round(count(network) / 1e6, 3) == 32.724
    assert round((count(network) + read_layout(IDLE).parameters) / 1e6, 3) == 32.988


def test_it_costs_what_the_public_code_costs() -> None:
    assert round(network_cost(on_meta(), 4, (128, 128, 128), 1).gmacs, 1) == 325.4


def test_the_public_keys_fit_and_those_of_idle_layers_are_ignored() -> None:
    layout = read_layout(USED + IDLE)
    public = {key: torch.empty(shape, device="meta") for key, shape in layout.shapes.items()}
    network = on_meta()
    assert translate("transbts", network, public, "xyz").faults == []
    assert read_layout(USED).parameters == count(network)
    assert public_axis_order("transbts") == "xyz"


def test_heads_and_patch_of_public_weights_are_assumed() -> None:
    """The keys of 4096 tokens are those of 128^3 voxels, but also of other patches."""
    options, notes = settle_options("transbts", {}, read_layout(USED).tensors())
    assert options == {"heads": 8, "patch_size": [128, 128, 128]}
    assert len(notes) == 2
    given = {"heads": 8, "patch_size": [64, 128, 256]}
    assert settle_options("transbts", given, read_layout(USED).tensors()) == (given, ())


def test_positions_of_another_patch_are_a_fault() -> None:
    layout = read_layout(USED)
    public = {key: torch.empty(shape, device="meta") for key, shape in layout.shapes.items()}
    faults = translate("transbts", on_meta(patch_size=[128, 128, 64]), public, "xyz").faults
    shapes = "(1, 4096, 512) instead of (1, 2048, 512)"
    assert faults == [f"shape position_encoding.position_embeddings -> positions: {shapes}"]


def test_weights_get_to_the_part_that_the_public_name_states() -> None:
    public = {key: torch.empty(shape) for key, shape in read_layout(USED).shapes.items()}
    for number, tensor in enumerate(public.values()):
        tensor.fill_(number)
    order = {key: number for number, key in enumerate(public)}
    network = build_network("transbts", 4, 4)
    network.load_state_dict(translate("transbts", network, public, "xyz").weights)
    places = {
        "Unet.EnBlock1.bn2.bias": network.stages[0][0].norm2.bias,
        "Unet.EnBlock4_3.conv1.bias": network.stages[3][2].conv1.bias,
        "Unet.EnDown2.conv.weight": network.downs[1].weight,
        "transformer.net.4.fn.norm.weight": network.layers[2].norm1.weight,
        "transformer.net.5.fn.norm.weight": network.layers[2].norm2.weight,
        "transformer.net.6.fn.fn.proj.bias": network.layers[3].proj.bias,
        "transformer.net.3.fn.fn.net.3.bias": network.layers[1].mlp[3].bias,
        "Enblock8_1.bn2.running_mean": network.bottom[0][4].running_mean,
        "Enblock8_2.conv2.bias": network.bottom[1][3].bias,
        "DeUp4.conv1.weight": network.steps[0].narrow.weight,
        "DeUp3.conv2.bias": network.steps[1].up.bias,
        "DeUp2.conv3.bias": network.steps[2].fuse.bias,
        "DeBlock2.bn1.running_var": network.steps[2].convolve[1].running_var,
        "endconv.bias": network.head.bias,
    }
    for key, tensor in places.items():
        assert (tensor == order[key]).all(), key


def test_a_unit_of_the_encoder_norms_in_eight_groups_before_each_convolution() -> None:
    torch.manual_seed(0)
    unit, x = Unit(16), torch.randn(2, 16, 4, 5, 6)
    with torch.no_grad():
        y = x
        for norm, conv in ((unit.norm1, unit.conv1), (unit.norm2, unit.conv2)):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-1, 1)
            groups = y.unflatten(1, (8, 2))
            mean = groups.mean((2, 3, 4, 5), keepdim=True)
            variance = groups.var((2, 3, 4, 5), unbiased=False, keepdim=True)
            y = ((groups - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
            y = (y * norm.weight.view(-1, 1, 1, 1) + norm.bias.view(-1, 1, 1, 1)).clamp(min=0)
            y = functional.conv3d(y, conv.weight, conv.bias, padding=1)
        torch.testing.assert_close(unit(x), x + y, rtol=1e-4, atol=1e-5)


def test_a_layer_is_attention_and_mlp_after_norms() -> None:
    torch.manual_seed(0)
    layer, x = Layer(12, 20, 3, 0.5).eval(), torch.randn(1, 7, 12)
    with torch.no_grad():
        queries, keys, values = layer.qkv(layer.norm1(x))[0].split(12, dim=1)
        heads = [
            (queries[:, part] @ keys[:, part].T / 2).softmax(1) @ values[:, part]  # of 4 channels
            for part in (slice(0, 4), slice(4, 8), slice(8, 12))
        ]
        y = x + layer.proj(torch.cat(heads, 1))
        wide, narrow = layer.mlp[0], layer.mlp[3]
        expected = y + narrow(functional.gelu(wide(layer.norm2(y))))
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_a_step_up_puts_the_skip_before_what_comes_from_below() -> None:
    step, x, skip = UpStep(4, "batch").eval(), torch.randn(1, 4, 2, 2, 2), torch.randn(1, 2, 4, 4, 4)
    fused = []
    step.fuse.register_forward_hook(lambda *args: fused.append((args[1][0], args[2])))
    with torch.no_grad():
        answer = step(x, skip)
        (given, y), convolve = fused[0], step.convolve
        assert torch.equal(given[:, :2], skip)
        torch.testing.assert_close(given[:, 2:], step.up(step.narrow(x)))
        z = functional.relu(convolve[1](convolve[0](y)))
        torch.testing.assert_close(answer, y + functional.relu(convolve[4](convolve[3](z))))


def test_tokens_reach_the_decoder_without_a_last_norm() -> None:
    """Positions are 0 at first. Far larger ones make tokens that a norm would bring back to 1."""
    network = small("transbts").eval()
    assert (network.positions == 0).all()
    seen = []
    network.bottom.register_forward_hook(lambda *args: seen.append(args[1][0]))
    with torch.no_grad():
        network(torch.zeros(1, 2, 32, 32, 32))
        network.positions.copy_(1000 * torch.arange(64).view(1, 64, 1))
        network(torch.zeros(1, 2, 32, 32, 32))
    added = (seen[1] - seen[0])[0].mean(0).flatten()
    torch.testing.assert_close(added, 1000.0 * torch.arange(64), rtol=1e-3, atol=50)


def test_channels_are_dropped_in_training_alone() -> None:
    """The public code drops them in evaluation, too."""
    network, x = small("transbts", channel_dropout=0.5), torch.randn(4, 2, 32, 32, 32)
    seen = []
    network.stem.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        network.train()(x)
        network.eval()(x)
        network(x)
    dropped = (seen[0] == 0).flatten(2).all(2)
    assert 0 < dropped.sum() < 32
    torch.testing.assert_close(seen[0][~dropped], 2 * seen[1][~dropped])
    assert torch.equal(seen[1], seen[2])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"channels": 12}, "network.channels: expected a multiple of 8, got 12. "),
        ({"heads": 7}, "network.heads: expected a divisor of 512, got 7. "),
        ({"patch_size": [64, 64]}, "network.patch_size: expected three numbers, got [64, 64]. "),
    ],
)
def test_an_option_out_of_range_is_rejected_by_name(options, line) -> None:
    with pytest.raises(RecipeError) as caught:
        on_meta(**options)
    assert str(caught.value).startswith(line)


def test_zyx_computes_on_the_volume_with_its_axes_reversed() -> None:
    options = {"patch_size": [16, 24, 32]}
    network = small("transbts", **options).eval()
    turned = small("transbts", **options, axis_order="zyx").eval()
    turned.load_state_dict(network.state_dict())
    x = torch.randn(1, 2, 16, 24, 32)
    with torch.no_grad():
        expected, found = network(x), turned(x.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(found, expected)
