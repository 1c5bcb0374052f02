import torch

from mambamed.networks import build_network
from mambamed.networks.hybrid_unet import ResidualMamba


def test_only_the_deepest_stages_have_mamba_layers() -> None:
    network = build_network("hybrid_unet", 1, 2, channels=4, stages=4, mamba_stages=2)
    layers = [[type(m).__name__ for m in stage.modules()].count("ResidualMamba") for stage in network.stages]
    assert layers == [0, 0, 1, 1]


def test_training_starts_from_the_network_without_mamba_layers() -> None:
    network = build_network("hybrid_unet", 1, 2, channels=4, strides=[1, 2, 2], deep_supervision=False)
    x = torch.randn(1, 1, 8, 8, 8)
    before = network(x)
    for stage in network.stages[1:]:
        stage[1] = torch.nn.Identity()
    torch.testing.assert_close(before, network(x), rtol=0, atol=0)


def test_the_bottom_reads_the_whole_patch() -> None:
    """A voxel of one corner changes the features of the opposite one, which no convolution here reaches."""
    torch.manual_seed(0)
    layer = ResidualMamba(4, 16, (0, 1, 2))
    torch.nn.init.normal_(layer.mamba.out_proj.weight)
    x = torch.randn(1, 4, 6, 6, 6, requires_grad=True)
    layer(x)[0, :, 0, 0, 0].sum().backward()
    assert x.grad is not None
    assert float(x.grad[0, :, -1, -1, -1].abs().max()) > 0
