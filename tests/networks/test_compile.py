"""torch.export and torch.compile take every network whole, the scans as one operator each."""

import pytest
import torch

from mambamed.networks import NETWORKS
from tests.networks.small_networks import MONAIS_SLOWLY, ODD, small


@pytest.mark.parametrize("name", MONAIS_SLOWLY)
def test_it_can_be_exported(name) -> None:
    network, x = small(name).eval(), torch.randn(1, 2, *ODD)
    with torch.no_grad():
        program = torch.export.export(network, (x,))
        torch.testing.assert_close(program.module()(x), network(x), rtol=1e-4, atol=1e-5)
    scans = [node for node in program.graph.nodes if "mambamed.selective_scan" in str(node.target)]
    assert bool(scans) == any(key.endswith("A_log") for key in network.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_it_compiles_without_a_break_for_prediction_and_training(name) -> None:
    network, x = small(name), torch.randn(2, 2, *ODD)
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    network.eval()
    torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-5)
    network.train()
    outputs = compiled(x)
    depths = outputs if isinstance(outputs, list) else [outputs]
    sum(depth.square().mean() for depth in depths).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
