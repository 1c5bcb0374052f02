"""SegMamba-V2 against the counts and names of its public code, and its blocks written out."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.cost import network_cost
from mambamed.networks.parts.segmamba_v2 import LargeKernelUnit, ThreeOrderMamba
from mambamed.networks.public_names import settle_options, translate
from tests.networks.public_layout import read_layout

# Names and shapes of the public state dict, of width C (48 in the paper).
LAYOUT = """
vit.downsample_layers.0.0                         conv(C, C, 3)
vit.downsample_layers.{i=1..3}.0                  conv(C * 2**i // 2, C * 2**i, 3)
vit.gscs.{i=0..3}.{0,1}.deep_path.0.block.0       conv(C * 2**i, C * 2**i, 5)
vit.gscs.{i=0..3}.{0,1}.deep_path.{1,2}.block.0   conv(C * 2**i, C * 2**i, 3)
vit.gscs.{i=0..3}.{0,1}.shortcut_path.0.block.0   conv(C * 2**i, C * 2**i, 3)
vit.gscs.{i=0..3}.{0,1}.shortcut_path.1.block.0   conv(C * 2**i, C * 2**i, 1)
vit.gscs.{i=0..3}.{0,1}.se.fc.0                   linear(C * 2**i, C * 2**i // 8)
vit.gscs.{i=0..3}.{0,1}.se.fc.2                   linear(C * 2**i // 8, C * 2**i)
vit.stages.{i=2..3}.{0,1}.norm                    norm(C * 2**i)
vit.stages.{i=2..3}.{0,1}.mamba                   mamba(C * 2**i)
vit.mlps.{i=0..3}.fc1                             conv(C * 2**i, 2 * C * 2**i, 1)
vit.mlps.{i=0..3}.fc2                             conv(2 * C * 2**i, C * 2**i, 1)
encoder1.layer.conv1.conv                         conv(inputs, C, 3, bias=False)
encoder1.layer.conv3.conv                         conv(inputs, C, 1, bias=False)
encoder{i=2..5}.layer.conv1.conv                  conv(C * 2**i // 4, C * 2**i // 2, 3, bias=False)
encoder{i=2..5}.layer.conv3.conv                  conv(C * 2**i // 4, C * 2**i // 2, 1, bias=False)
encoder{i=1..5}.layer.conv2.conv                  conv(C * 2**i // 2, C * 2**i // 2, 3, bias=False)
decoder{i=2..5}.transp_conv.conv                  transposed(C * 2**i // 2, C * 2**i // 4, 2, bias=False)
decoder{i=2..5}.conv_block.conv1.conv             conv(C * 2**i // 2, C * 2**i // 4, 3, bias=False)
decoder{i=2..5}.conv_block.conv2.conv             conv(C * 2**i // 4, C * 2**i // 4, 3, bias=False)
decoder{i=2..5}.conv_block.conv3.conv             conv(C * 2**i // 2, C * 2**i // 4, 1, bias=False)
decoder1.layer.conv{1,2}.conv                     conv(C, C, 3, bias=False)
out.conv.conv                                     conv(C, classes, 1)
"""


@pytest.mark.parametrize(
    ("inputs", "classes", "count"), [(4, 4, 138_776_824), (1, 13, 138_773_233), (1, 2, 138_772_694)]
)
def test_it_has_the_parameters_and_names_of_the_public_code(inputs, classes, count) -> None:
    layout = read_layout(LAYOUT, C=48, inputs=inputs, classes=classes)
    assert len(layout.shapes) == 215
    public = {f"module.{key}": torch.empty(shape, device="meta") for key, shape in layout.shapes.items()}
    with torch.device("meta"):
        network = build_network("segmamba", inputs, classes, version="v2")
    translation = translate("segmamba", network, public)
    assert translation.faults == []
    assert set(translation.weights) == set(network.state_dict())
    assert sum(p.numel() for p in network.parameters()) == layout.parameters == count


def test_it_has_the_operations_of_the_public_code() -> None:
    """1855.7 GMAC of convolutions, those before scans included, 8.9 of products; 12 scans, 0.19 G updates."""
    with torch.device("meta"):
        network = build_network("segmamba", 4, 4, version="v2")
    cost = network_cost(network, 4, (128, 128, 128))
    assert (round(cost.conv_gmacs, 1), round(cost.product_gmacs, 1)) == (1855.7, 8.9)
    assert (cost.scans, round(cost.scan_g, 2), cost.longest_sequence) == (12, 0.19, 4096)


def test_weights_of_zyx_arrays_answer_alike_on_the_transposed_volume() -> None:
    """Every kernel is transposed, and the three orders are those of the file's axes."""
    weights, answers = read_layout(LAYOUT, C=8, inputs=2, classes=3).tensors(), []
    # larger projections, so that another order changes the answer by more than its deviation
    weights = {key: 8 * tensor if "_proj.weight" in key else tensor for key, tensor in weights.items()}
    x = torch.randn(1, 2, 16, 32, 48)
    for order, volume in (("xyz", x), ("zyx", x.permute(0, 1, 4, 3, 2))):
        network = build_network("segmamba", 2, 3, channels=8, version="v2", axis_order=order).eval()
        network.load_state_dict(translate("segmamba", network, weights, order).weights)
        with torch.no_grad():
            answers.append(network(volume))
    torch.testing.assert_close(answers[1].permute(0, 1, 4, 3, 2), answers[0], rtol=1e-3, atol=1e-3)


def test_a_file_shows_that_it_is_version_2() -> None:
    public = {"vit.gscs.0.0.deep_path.0.block.0.weight": torch.zeros(48, 48, 5, 5, 5)}
    options, notes = settle_options("segmamba", {"version": "gsc"}, public)
    assert options == {"version": "v2"}
    assert notes == ("network.version: set to v2. The file has the large kernels of SegMamba-V2.",)
    assert settle_options("segmamba", {"version": "v2"}, public) == ({"version": "v2"}, ())


def normalized(x: Tensor) -> Tensor:
    mean, variance = x.mean((2, 3, 4), True), x.var((2, 3, 4), False, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def unit_of(convolution: nn.Sequential, x: Tensor, padding: int, dilation: int = 1) -> Tensor:
    weight, bias = convolution[0].weight, convolution[0].bias
    return normalized(functional.conv3d(x, weight, bias, padding=padding, dilation=dilation)).relu()


def test_the_identity_lies_inside_the_gate() -> None:
    torch.manual_seed(0)
    unit, x = LargeKernelUnit(8, "instance"), torch.randn(2, 8, 5, 6, 7)
    with torch.no_grad():
        deep = unit_of(unit.deep[2], unit_of(unit.deep[1], unit_of(unit.deep[0], x, 2), 1), 2, dilation=2)
        short = unit_of(unit.shortcut[1], unit_of(unit.shortcut[0], x, 1), 0)
        s = deep + short + x
        squeeze, _, excite, _ = unit.weigh
        assert squeeze.out_features == 1
        gate = torch.sigmoid(excite(squeeze(s.mean((2, 3, 4))).relu()))
        torch.testing.assert_close(unit(x), s * gate[:, :, None, None, None], rtol=1e-4, atol=1e-5)


def test_one_mamba_reads_three_orders_that_swap_axes() -> None:
    """x + M(d, h, w) + M(h, d, w) + M(w, h, d): the first axis is slowest, the last one fastest."""
    torch.manual_seed(0)
    layer, x = ThreeOrderMamba(4, (0, 1, 2)), torch.randn(2, 4, 2, 3, 5)
    with torch.no_grad():
        expected = x
        for order, back in (
            ((0, 2, 3, 4, 1), (0, 4, 1, 2, 3)),
            ((0, 3, 2, 4, 1), (0, 4, 2, 1, 3)),
            ((0, 4, 3, 2, 1), (0, 4, 3, 2, 1)),
        ):
            grid = x.permute(order)
            read = layer.mamba(layer.norm(grid.reshape(2, 30, 4)))
            expected = expected + read.reshape(grid.shape).permute(back)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    assert layer.norm.eps == 1e-5


def test_the_encoder_begins_at_the_finest_skip_and_scans_in_its_last_two_stages() -> None:
    network = build_network("segmamba", 2, 3, channels=4, depths=[1, 2, 2, 1], version="v2").eval()
    assert network.stages[0][0].in_channels == 4
    assert all(type(stage[0]) is nn.Conv3d and stage[0].stride == (2, 2, 2) for stage in network.stages)
    assert [len(stage[1]) for stage in network.stages] == [1, 2, 2, 1]
    assert [len(stage[2]) for stage in network.stages] == [0, 0, 2, 1]
    seen = []
    network.encoders[0].register_forward_hook(lambda *args: seen.append(args[2]))
    network.stages[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(1, 2, 32, 16, 16))
    assert seen[0] is seen[1]


def test_the_control_lacks_the_mamba_alone() -> None:
    full = build_network("segmamba", 2, 3, channels=4, version="v2").state_dict()
    control = build_network("segmamba", 2, 3, channels=4, version="v2", mixer="none").state_dict()
    assert set(full) - set(control) == {key for key in full if key.startswith(("stages.2.2.", "stages.3.2."))}
    assert set(control) <= set(full)


def test_it_trains_at_odd_shapes() -> None:
    """Two voxels must remain at the bottom, so that 16^3 is padded."""
    network = build_network("segmamba", 2, 3, channels=4, depths=[1] * 4, version="v2", deep_supervision=True)
    for shape in ((17, 20, 9), (16, 16, 16)):
        outputs = network(torch.randn(1, 2, *shape))
        assert tuple(outputs[0].shape) == (1, 3, *shape)
        sum(output.square().mean() for output in outputs).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("option", [{"nslices": [64, 32, 16, 8]}, {"residual": False}])
def test_options_of_the_earlier_versions_are_refused(option) -> None:
    with pytest.raises(RecipeError) as caught:
        build_network("segmamba", 1, 2, channels=4, version="v2", **option)
    assert str(caught.value) == f"network.{next(iter(option))}: version v2 has no such option. Remove it."
