"""Names of metrics, and the contract that every line of the table keeps."""

import subprocess
import sys

import numpy as np
import pytest

from mambamed.metrics import METRICS, parse_metric, parse_metrics
from mambamed.metrics.rules import PROTOCOLS, rules_for
from mambamed.metrics.segmentation import score_case


def named(kind):
    return parse_metric(kind.replace("nsd", "nsd@1"))


@pytest.mark.parametrize("kind", METRICS)
def test_a_metric_is_found_is_best_when_perfect_and_keeps_its_unit(kind) -> None:
    metric, line = named(kind), METRICS[kind]
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2:7, 2:7, 2:7] = 1
    value = score_case(mask, mask, (1, 1, 1), {"a": (1,)}, [metric])["a"].values[metric.name]
    if line.better == "higher":
        assert value == 1
    elif line.unit == "mm":
        assert value == 0
    assert callable(line.function())
    assert parse_metric(metric.name) == metric


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("dicee", r"unknown metric 'dicee' - did you mean 'dice'\? Known metrics: dice, iou,"),
        ("hd95:mean", r"unknown metric 'hd95:mean' - did you mean 'hd95:"),
        ("a b", r"unknown metric 'a b'\. Known metrics: dice, iou,"),
        ("", r"unknown metric ''\. Known metrics"),
        ("nsd", r"'nsd' needs a tolerance in mm\. Append it, e\.g\. nsd@1\."),
        ("dice@1", r"'dice@1' takes no tolerance; only nsd does\. Remove @1\."),
        ("hd95@2", r"'hd95@2' takes no tolerance"),
    ],
)
def test_an_unknown_metric_is_rejected_with_a_suggestion_and_the_known_ones(text, fact) -> None:
    with pytest.raises(ValueError, match=fact):
        parse_metric(text)


def test_at_least_one_metric_is_needed() -> None:
    with pytest.raises(ValueError, match="no metric given"):
        parse_metrics([])


def test_names_are_parsed_without_numpy_and_torch() -> None:
    """The schema of recipes calls this before anything heavy is imported."""
    code = "import sys; from mambamed.metrics import parse_metric; parse_metric('nsd@1')\n"
    code += "assert not {'numpy', 'torch', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_metrics_named_twice_are_computed_once() -> None:
    assert [m.name for m in parse_metrics(["hd95", "dice", "hd95:max-directed"])] == [
        "hd95:max-directed",
        "dice",
    ]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_names_its_source_and_its_metrics_exist(name) -> None:
    rules = rules_for(name)
    assert rules.name == name
    assert rules.source
    assert parse_metrics(rules.metrics, rules.hd95)
    assert "empty/empty" in rules.describe()


def test_unknown_rules_are_refused() -> None:
    for wrong in ({"protocol": "brats1999"}, {"empty": "zero"}):
        with pytest.raises(ValueError, match="known"):
            rules_for(**wrong)
