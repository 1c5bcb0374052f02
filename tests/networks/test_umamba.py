import pytest
import torch

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.umamba import ChannelMamba, NearestUp, VoxelMamba


def test_the_bottom_of_enc_reads_channels_where_voxels_are_few() -> None:
    network = build_network("umamba", 1, 2, variant="enc", channels=4, stages=4, patch_size=[16, 16, 16])
    layers = [stage[1] for stage in network.stages]
    # 16^3, 8^3, 4^3 and 2^3 voxels against 4, 8, 16 and 32 channels
    assert [type(layer) for layer in layers] == [VoxelMamba, VoxelMamba, VoxelMamba, ChannelMamba]
    with pytest.raises(RecipeError, match=r"network\.patch_size"):
        build_network("umamba", 1, 2, variant="enc")


def test_a_decoder_step_repeats_voxels_and_convolves() -> None:
    """As the public code orders it: repeat each voxel by the stride, then weigh the channels."""
    up, x = NearestUp(3, 2, (1, 2, 2)), torch.randn(1, 3, 2, 3, 4)
    repeated = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
    expected = torch.einsum("kc,bcxyz->bkxyz", up.conv.weight[:, :, 0, 0, 0], repeated)
    torch.testing.assert_close(up(x), expected + up.conv.bias[:, None, None, None])
