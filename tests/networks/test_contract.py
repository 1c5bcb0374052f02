"""What every network promises, whatever it is: run over the whole table."""

import inspect

import pytest
import torch

from mambamed.errors import RecipeError
from mambamed.networks import NETWORKS, build_network
from mambamed.networks.parts.blocks import strided_shape
from mambamed.run.shallow import make_shallow_safe
from tests.networks.small_networks import MONAIS_SLOWLY, ODD, small


@pytest.mark.parametrize("name", NETWORKS)
class TestEveryNetwork:
    def test_the_answer_lies_on_the_inputs_grid_at_odd_sizes(self, name) -> None:
        network = small(name).eval()
        for shape in (ODD, (16, 16, 16)):
            dense = hasattr(network, "deep_supervision_strides")
            answer = (1, 3, *shape) if dense else (1, 3)
            assert network(torch.randn(1, 2, *shape)).shape == answer

    def test_every_parameter_gets_a_finite_gradient(self, name) -> None:
        network = small(name).train()
        outputs = network(torch.randn(2, 2, *ODD))
        depths = outputs if isinstance(outputs, list) else [outputs]
        sum((depth**2).mean() for depth in depths).backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, f"{key} is not used"
            assert torch.isfinite(parameter.grad).all(), key

    def test_depths_have_the_strides_that_are_said(self, name) -> None:
        network = small(name)
        if "deep_supervision" not in inspect.signature(type(network)).parameters:
            pytest.skip(f"{name} has no deep supervision")
        network = small(name, deep_supervision=True).train()
        outputs = network(torch.randn(2, 2, *ODD))
        assert len(outputs) == len(network.deep_supervision_strides)
        for depth, stride in zip(outputs, network.deep_supervision_strides, strict=True):
            assert tuple(depth.shape[2:]) == strided_shape(ODD, stride)
        single = small(name, deep_supervision=False).train()(torch.randn(2, 2, *ODD))
        assert isinstance(single, torch.Tensor)

    def test_mixer_none_has_no_scan(self, name) -> None:
        """Where there is no scan, mixer none is the network as it is."""
        keys = list(small(name, mixer="none").state_dict())
        assert not [key for key in keys if "A_log" in key or "mamba" in key]
        has_mixer = "mixer" in inspect.signature(type(small(name))).parameters
        assert has_mixer == any("A_log" in key for key in small(name).state_dict())

    def test_it_can_be_built_without_norms(self, name) -> None:
        network = small(name)
        if "norm" not in inspect.signature(type(network)).parameters:
            pytest.skip(f"{name} has no choice of norms")
        kinds = {type(module).__name__ for module in small(name, norm="none").modules()}
        assert not [kind for kind in kinds if kind.startswith(("BatchNorm", "InstanceNorm"))]

    def test_an_option_it_does_not_have_is_refused(self, name) -> None:
        with pytest.raises(RecipeError, match=rf"network\.chanels: unknown option of {name}\b"):
            small(name, chanels=3)


@pytest.mark.parametrize("name", MONAIS_SLOWLY)
class TestEveryNetworkAtLength:
    def test_evaluation_is_deterministic(self, name) -> None:
        network, x = small(name).eval(), torch.randn(1, 2, *ODD)
        assert torch.equal(network(x), network(x))

    def test_weights_survive_a_round_trip(self, name) -> None:
        network, x = small(name).eval(), torch.randn(1, 2, *ODD)
        other = small(name).eval()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1)
        other.load_state_dict(network.state_dict())
        assert torch.equal(network(x), other(x))

    def test_it_takes_any_norm_at_small_shapes(self, name) -> None:
        """Instance norm cannot normalize one voxel, nor batch norm one voxel of one patch."""
        has_norm = "norm" in inspect.signature(type(small(name))).parameters
        for options in ({"norm": "instance"}, {"norm": "batch"}) if has_norm else ({},):
            network = small(name, **options).train()
            for shape in ((16, 16, 16), (5, 3, 7)):
                outputs = network(torch.randn(1, 2, *shape))
                finest = outputs[0] if isinstance(outputs, list) else outputs
                assert torch.isfinite(finest).all()

    def test_checkpointing_changes_memory_and_not_the_numbers(self, name) -> None:
        """Neither gradients nor the running statistics of batch norms."""
        if "gradient_checkpointing" not in inspect.signature(type(small(name))).parameters:
            pytest.skip(f"{name} has no checkpointing")
        gradients, buffers, x = [], [], torch.randn(2, 2, 16, 16, 32)
        for wanted in (False, True):
            network = small(name, gradient_checkpointing=wanted).train()
            outputs = network(x)
            (outputs[0] if isinstance(outputs, list) else outputs).square().mean().backward()
            gradients.append({k: p.grad for k, p in network.named_parameters() if p.grad is not None})
            buffers.append(dict(network.named_buffers()))
        assert gradients[0].keys() == gradients[1].keys()
        for plain, checkpointed in (gradients, buffers):
            for key, expected in plain.items():
                torch.testing.assert_close(checkpointed[key], expected, rtol=1e-4, atol=1e-6)

    def test_bfloat16_autocast_stays_near_float32(self, name) -> None:
        network, x = small(name).eval(), torch.randn(1, 2, *ODD)
        exact = network(x)
        make_shallow_safe(network)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(x).float()
        assert torch.isfinite(rounded).all()
        assert (rounded - exact).norm() < 0.1 * exact.norm()


def test_a_network_that_does_not_exist_is_refused() -> None:
    with pytest.raises(RecipeError, match="did you mean 'nnmamba'"):
        build_network("nnmanba", 1, 2)
