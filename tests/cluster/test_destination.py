"""The options --on, --jobs and --job."""

from __future__ import annotations

import pytest

from mambamed.cluster.destination import Destination, seconds_of
from mambamed.errors import RecipeError


@pytest.mark.parametrize(
    ("on", "jobs", "job", "line"),
    [
        ("slrum", None, None, "--on slrum: no such place - did you mean 'slurm'?"),
        ("here", None, None, "--on here: no such place. Choose one of local, slurm, pbs"),
        ("slurm", 0, None, "--jobs 0: expected at least 1"),
        ("slurm", None, "gpus", "--job gpus=: expected a number from 1"),
        ("slurm", None, "gpus=many", "--job gpus=many: expected a number"),
        ("slurm", None, "mem=lots", "--job mem=lots: expected a size. Write e.g. mem=32G."),
        ("slurm", None, "time=soon", "--job time=soon: expected a time"),
        ("slurm", None, "time=0:00", "--job time=0:00: expected more than 0"),
        ("slurm", None, "time=1:00,time=2:00", "time is given twice"),
        ("slurm", None, "a b=1", "--job a b=1: expected KEY=VALUE"),
        ("slurm", None, "a=1\n#SBATCH", "expected KEY=VALUE"),
        ("tcp://a:1", 2, None, "its workers are there already"),
    ],
)
def test_what_cannot_be_understood_is_one_line(on, jobs, job, line) -> None:
    with pytest.raises(RecipeError) as caught:
        Destination.of(on, jobs, job)
    assert line in str(caught.value)


def test_sizes_and_times_are_read_as_slurm_reads_them() -> None:
    """Values of sbatch's manual page: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS."""
    expected = {"5": 300, "5:30": 330, "1:00:01": 3601, "1-0": 86400, "1-0:30": 88200, "1-2:03:04": 93784}
    assert {text: seconds_of(text) for text in expected} == expected
    sizes = {"1G": 2**30, "1.5GB": 3 * 2**29, "512MiB": 2**29, "100": 100}
    assert {text: Destination.of("slurm", job=f"mem={text}").memory_bytes for text in sizes} == sizes
    place = Destination.of("tcp://node7:8786")
    assert place.is_address and not place.is_batch and place.limit_seconds is None
