"""nnMamba v1 against its specification, whose counts were made on the authors' code (commit d269b03)."""

import pytest
import torch
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.nnmamba_v1 import ResidualMamba

PAPER = {"head": "paper"}


@pytest.mark.parametrize(
    ("name", "in_channels", "out_channels", "options", "millions"),
    [
        ("nnmamba_v1", 1, 16, PAPER, 15.784),
        ("nnmamba_v1", 4, 4, PAPER, 15.769),
        ("nnmamba_v1", 1, 6, PAPER | {"mamba_at": "stem"}, 15.191),
        ("nnmamba_v1_classifier", 1, 1, {}, 12.870),
    ],
)
def test_it_has_the_parameters_of_the_public_code(name, in_channels, out_channels, options, millions) -> None:
    with torch.device("meta"):
        network = build_network(name, in_channels, out_channels, **options)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 3) == millions


def test_a_mamba_is_added_to_what_it_reads_along_the_last_axis_first() -> None:
    torch.manual_seed(0)
    layer, x = ResidualMamba(4), torch.randn(1, 4, 2, 3, 5)
    with torch.no_grad():
        tokens = torch.stack([x[0, :, i, j, k] for i in range(2) for j in range(3) for k in range(5)])
        read = layer.mamba(functional.layer_norm(tokens, (4,))[None])[0]
        expected = (tokens + read).T.reshape(1, 4, 2, 3, 5)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_skips_are_the_features_before_their_mamba() -> None:
    """Written out from architectures.md, section 2."""
    torch.manual_seed(0)
    network = build_network("nnmamba_v1", 1, 2, channels=4).eval()
    x = torch.randn(1, 1, 16, 32, 16)
    up = torch.nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False)
    with torch.no_grad():
        c1 = network.stem(x)
        c2 = network.stages[0](c1)
        c3 = network.stages[1](network.readers[1](c2))
        c4 = network.stages[2](network.readers[2](c3))
        y = network.readers[3](c4)
        for step, skip in zip(network.decoder.steps, (c3, c2, c1), strict=True):
            y = step.convs(torch.cat([up(y), skip], dim=1))
        torch.testing.assert_close(network(x), network.decoder.head.convs(up(y)))


def test_for_landmarks_only_the_stem_has_a_mamba() -> None:
    keys = build_network("nnmamba_v1", 1, 6, channels=4, mamba_at="stem").state_dict()
    assert [key for key in keys if key.endswith("A_log")] == ["readers.0.mamba.A_log"]


@pytest.mark.parametrize("option", [{"mamba_at": "stern"}, {"mixer": "miccss"}, {"head": "liner"}])
def test_a_choice_that_it_does_not_have_is_refused(option) -> None:
    with pytest.raises(RecipeError, match=rf"network\.{next(iter(option))}: expected .* Choose one of them"):
        build_network("nnmamba_v1", 1, 2, channels=4, **option)
