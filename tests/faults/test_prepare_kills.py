"""`prepare` killed at random moments, by itself and with processes, and given again."""

import pytest

from tests.kills import outlive_kills
from tests.preparation.test_prepare import make_dataset


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_prepare_killed_at_20_moments_ends_with_the_same_bytes(tmp_path, workers) -> None:
    raw = make_dataset(tmp_path / "raw", cases=40, channels=2)
    arguments = ["--workers", workers, "--folds", "3"]
    trials = outlive_kills(
        lambda out: ["prepare", str(raw), "-o", str(out), *arguments], tmp_path, 20, seed=int(workers)
    )
    assert sum(trial.hit for trial in trials) >= 10
    assert sum(not trial.complete for trial in trials) >= 5
