"""Every network as ONNX computes what it computes in torch."""

import onnx
import pytest
import torch

from mambamed.networks import NETWORKS
from mambamed.programs import onnx_file
from mambamed.programs.exporting import write_checked
from tests.networks.small_networks import difference_of, randomized, small, varied_images


def check(network, shape, tmp_path) -> None:
    """The file has the operators of ONNX alone, any batch size, and the network's outputs."""
    (file,), _ = write_checked(network, (2, *shape), tmp_path / "model.onnx", onnx_file)
    model = onnx.load(file)
    assert [each.domain for each in model.opset_import] == [""] and not model.functions
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    images = varied_images(shape)
    with torch.no_grad():
        expected = network(images)
    found = torch.from_numpy(onnx_file.run_onnx(file, images))
    assert difference_of(found, expected) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_onnx_equals_torch_at_any_batch_size(name, tmp_path) -> None:
    network = randomized(small(name))
    check(network, getattr(network, "grid", None) or (16, 16, 16), tmp_path)


def test_convolutions_and_a_scan_in_onnx_equal_torch(tmp_path) -> None:
    """In two stages, so that it takes seconds."""
    check(randomized(small("umamba", stages=2, channels=4)), (8, 8, 8), tmp_path)
