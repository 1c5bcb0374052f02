"""U-Mamba and the Mamba U-Nets at the plans of their papers.

Parameter counts are those that architectures.md reports of the public code.
"""

import pytest

from mambamed.networks.cost import network_cost
from tests.networks.published_plans import PLANS, millions, planned


@pytest.mark.parametrize(
    ("name", "options", "synapse", "brats"),
    [
        ("mamba_unet", {"directions": "uni"}, 60.8010, 61.3798),
        ("mamba_unet", {"directions": "bi"}, 64.4456, 65.0244),
        ("mamba_unet", {"directions": "multi"}, 77.6537, 78.2325),
        ("umamba", {"variant": "bot"}, 41.9452, 42.125),
        ("umamba", {"variant": "enc"}, 42.8591, 42.755),
    ],
)
def test_parameters_are_those_of_the_public_code(name, options, synapse, brats) -> None:
    assert millions(planned(name, "synapse", **options)) == pytest.approx(synapse, abs=5e-5)
    digits = 5e-5 if name == "mamba_unet" else 5e-4
    assert millions(planned(name, "brats", **options)) == pytest.approx(brats, abs=digits)


@pytest.mark.parametrize(
    ("name", "options", "plan", "scan_g", "longest"),
    [
        ("mamba_unet", {"directions": "uni"}, "synapse", 10.14, 1769472),
        ("mamba_unet", {"directions": "bi"}, "brats", 16.29, 2097152),
        ("mamba_unet", {"directions": "multi"}, "brats", 57.10, 2097152),
        ("umamba", {"variant": "enc"}, "synapse", 3.0, 1769472),
    ],
)
def test_scans_are_as_long_as_the_specification_counts(name, options, plan, scan_g, longest) -> None:
    _, inputs, _, patch = PLANS[plan]
    cost = network_cost(planned(name, plan, **options), inputs, patch)
    assert cost.scan_g == pytest.approx(scan_g, abs=0.05)
    assert cost.longest_sequence == longest
