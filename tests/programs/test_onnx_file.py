"""Every network as ONNX computes what it computes in torch."""

import onnx
import pytest
import torch

from mambamed.networks import NETWORKS
from mambamed.programs import onnx_file
from mambamed.programs.exporting import write_checked
from tests.networks.small_networks import small

# One per family: convolutions, scans, attention over patches, classification.
QUICK = {"nnunet", "umamba", "vit_seg", "resnet"}
ALL = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]


@pytest.mark.parametrize("name", ALL)
def test_a_network_in_onnx_equals_torch_at_any_batch_size(name, tmp_path) -> None:
    network = small(name).eval().requires_grad_(False)
    (file,), difference = write_checked(network, (2, 16, 16, 16), tmp_path / "model.onnx", onnx_file)
    assert difference < 1e-5
    model = onnx.load(file)
    assert [each.domain for each in model.opset_import] == [""] and not model.functions
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    image = torch.randn(3, 2, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(image)
    found = torch.from_numpy(onnx_file.run_onnx(file, image))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
