import pytest

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.umamba import ChannelMamba, VoxelMamba


def test_the_bottom_of_enc_reads_channels_where_voxels_are_few() -> None:
    network = build_network("umamba", 1, 2, variant="enc", channels=4, stages=4, patch_size=[16, 16, 16])
    layers = [stage[1] for stage in network.stages]
    # 16^3, 8^3, 4^3 and 2^3 voxels against 4, 8, 16 and 32 channels
    assert [type(layer) for layer in layers] == [VoxelMamba, VoxelMamba, VoxelMamba, ChannelMamba]
    with pytest.raises(RecipeError, match=r"network\.patch_size"):
        build_network("umamba", 1, 2, variant="enc")
