"""`predict` killed at random moments, and given again with --resume."""

import pytest

from tests.answers.stubs import stub_run, write_blobs
from tests.kills import outlive_kills


def trials(folder, cases: int, kills: int):
    run = stub_run(folder / "run")
    write_blobs(folder / "images", cases)
    asked = ["--device", "cpu", "--precision", "fp32", "--tta", "none", "--statistics"]

    def command(out):
        return ["predict", str(run.root), str(folder / "images"), "-o", str(out), *asked]

    return outlive_kills(
        command, folder, kills, again=lambda out: [*command(out), "--resume"], differ={"run.json"}
    )


@pytest.mark.slow
def test_predict_killed_at_20_moments_is_completed_by_resume(tmp_path) -> None:
    found = trials(tmp_path, 12, 20)
    assert sum(trial.hit for trial in found) >= 10
    assert sum(not trial.complete for trial in found) >= 5
