"""nnMamba v2 for classification against its specification; counts were made on the authors' code."""

import pytest
import torch

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.cost import network_cost


@pytest.mark.parametrize(("hierarchy", "millions"), [("sequence", 12.906), ("concat", 12.876)])
def test_it_has_the_parameters_of_the_public_code(hierarchy, millions) -> None:
    """Commit 1c17a49 has the sequence, commit 6fb35a3 has not."""
    with torch.device("meta"):
        network = build_network("nnmamba_classifier", 1, 1, hierarchy=hierarchy)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 3) == millions


def test_channel_c_of_stage_k_stands_in_row_c_div_2_to_the_k() -> None:
    """The rule of architectures.md, section 5, one channel at a time."""
    network = build_network("nnmamba_classifier", 1, 2, channels=4, mixer="none")  # q = p
    means = [torch.randn(2, 8 * 2**k) for k in range(3)]
    p = network.read_hierarchy(means)
    assert p.shape == (2, 8, 7)
    for k, first_column in enumerate((0, 1, 3)):
        for c in range(8 * 2**k):
            assert torch.equal(p[:, c // 2**k, first_column + c % 2**k], means[k][:, c])


def test_the_sequence_is_read_column_by_column_and_added() -> None:
    torch.manual_seed(0)
    network = build_network("nnmamba_classifier", 1, 2, channels=4)
    plain = build_network("nnmamba_classifier", 1, 2, channels=4, mixer="none")
    means = [torch.rand(1, 8 * 2**k) for k in range(3)]
    with torch.no_grad():
        columns = plain.read_hierarchy(means)
        read = network.sequence(torch.stack([columns[0, :, t] for t in range(7)])[None])[0]
        expected = columns + torch.stack(list(read), dim=1)
        torch.testing.assert_close(network.read_hierarchy(means), expected)


def test_concat_reads_the_means_of_one_stage_after_those_of_another() -> None:
    """The MLP adds its inputs with weights 1, 2, 3, ...; the maps of a stage have one value."""
    network = build_network("nnmamba_classifier", 1, 1, channels=2, hierarchy="concat").eval()
    first, last = network.mlp_of_means[0], network.mlp_of_means[3]
    with torch.no_grad():
        first.weight[:], first.bias[:], last.weight[:], last.bias[:] = torch.arange(1.0, 29), 0, 1, 0
    for stage, value in zip(network.stages, (5.0, 7.0, 11.0), strict=True):  # of 4, 8 and 16 channels
        stage.register_forward_hook(lambda *call, value=value: torch.full_like(call[-1], value))
    expected = 2 * (5 * sum(range(1, 5)) + 7 * sum(range(5, 13)) + 11 * sum(range(13, 29)))
    with torch.no_grad():
        assert network(torch.randn(1, 1, 32, 32, 32)).item() == expected


def test_weights_of_the_former_concat_do_not_load() -> None:
    """Up to version 0.2 its MLP was `mlp`, with interleaved inputs."""
    assert not any(
        key.startswith("mlp.")
        for key in build_network("nnmamba_classifier", 1, 2, channels=4, hierarchy="concat").state_dict()
    )


def test_the_stem_reads_once_and_the_hierarchy_once_as_counted() -> None:
    """architectures.md, table of costs: 2 scans, the longest over 64^3 tokens, 0.13 G state updates."""
    with torch.device("meta"):
        network = build_network("nnmamba_classifier", 1, 1)
    cost = network_cost(network, 1, (128, 128, 128))
    assert (cost.scans, cost.longest_sequence, round(cost.scan_g, 2)) == (2, 262144, 0.13)


def test_the_control_has_no_scan_at_either_place() -> None:
    with torch.device("meta"):
        cost = network_cost(build_network("nnmamba_classifier", 1, 1, mixer="none"), 1, (32, 32, 32))
    assert cost.scans == 0


def test_dropout_is_for_training_alone() -> None:
    torch.manual_seed(0)
    network = build_network("nnmamba_classifier", 1, 2, channels=8, norm="instance")
    x = torch.randn(1, 1, 37, 41, 33)
    assert torch.equal(network.eval()(x), network(x))
    network.train()
    assert len({network(x)[0, 0].item() for _ in range(5)}) > 1


@pytest.mark.parametrize("option", [{"hierarchy": "tree"}, {"mixer": "mamba"}])
def test_a_choice_that_it_does_not_have_is_refused(option) -> None:
    with pytest.raises(RecipeError, match=rf"network\.{next(iter(option))}: expected .* Choose one of them"):
        build_network("nnmamba_classifier", 1, 2, channels=4, **option)
