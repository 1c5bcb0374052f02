"""Every reader of foreign files, on hostile inputs: it reads them or refuses them by our own errors.

These are the first inputs of `python -m tests.fuzz.run`, which gives each reader 100 000.
"""

import numpy as np
import pytest

from tests.fuzz.mutations import mutated
from tests.fuzz.run import fuzz
from tests.fuzz.targets import TARGETS

INPUTS = {"nifti": 400, "points": 400, "recipe": 200, "checkpoint": 300, "model": 150}
INPUTS = dict.fromkeys(TARGETS, 150) | INPUTS


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_inputs_are_read_or_refused_by_our_own_errors(name, tmp_path) -> None:
    met, failures = fuzz(TARGETS[name](), range(INPUTS[name]), tmp_path)
    assert not failures, "\n".join(f"{number}: {text}" for number, text in failures.items())
    refused = sum(count for what, count in met.items() if what.endswith("Error"))
    assert met["read"] > 0 and refused > INPUTS[name] // 20, f"{met}: the inputs test one side alone"


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_100_000_hostile_inputs_are_read_or_refused_by_our_own_errors(name, tmp_path) -> None:
    met, failures = fuzz(TARGETS[name](), range(100_000), tmp_path)
    assert not failures, "\n".join(f"{number}: {text}" for number, text in list(failures.items())[:20])
    assert met.total() == 100_000


def test_a_number_gives_the_same_input_again() -> None:
    seeds = [b"network: {name: a}", b"0123456789" * 20]
    first, again, other = (mutated(seeds[1], seeds, np.random.default_rng([0, n])) for n in (5, 5, 6))
    assert first == again != other
