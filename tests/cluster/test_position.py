"""Ranks and job arrays, from the variables that the manual pages name."""

from __future__ import annotations

import sys

import pytest

from mambamed.cluster.position import Position, position, without_position
from mambamed.errors import RecipeError


def slurm(index: int, first: int, last: int, count: int, step: int = 1) -> dict[str, str]:
    numbers = {"ID": index, "MIN": first, "MAX": last, "COUNT": count, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(number) for name, number in numbers.items()}


def sge(index: object, first: object, last: object, step: object) -> dict[str, str]:
    numbers = {"ID": index, "FIRST": first, "LAST": last, "STEPSIZE": step}
    return {f"SGE_TASK_{name}": str(number) for name, number in numbers.items()}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        # a batch script with --ntasks=4 that starts no step is one process
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, None),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}, (3, 4)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", **slurm(5, 3, 6, 4)}, (3, 4)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (2, 2)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        # two processes in each of three tasks: the second one of the third task
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", **slurm(3, 1, 3, 3)}, (6, 6)),
        ({"RANK": "0", "WORLD_SIZE": "2", **slurm(2, 1, 3, 3)}, (3, 6)),
        (slurm(0, 0, 3, 4), (1, 4)),
        (slurm(4, 1, 4, 4), (4, 4)),
        (slurm(6, 0, 9, 4, 3), (3, 4)),
        (slurm(7, 7, 7, 1), None),
        (sge(2, 1, 4, 1), (2, 4)),
        (sge("undefined", "undefined", "undefined", "undefined"), None),
        ({"LSB_JOBINDEX": "3", "LSB_JOBINDEX_END": "8", "LSB_JOBINDEX_STEP": "1"}, (3, 8)),
        ({"LSB_JOBINDEX": "0", "LSB_JOBINDEX_END": "0"}, None),
        ({}, None),
    ],
)
def test_a_position_is_that_of_a_step_or_an_array(environment, expected) -> None:
    found = position(environment)
    assert found == (expected and Position(*expected, array=found.array if found else ""))
    assert position(without_position(environment)) is None


@pytest.mark.parametrize(
    ("environment", "fact"),
    [
        (slurm(7, 1, 7, 3), "has gaps"),
        ({"PBS_ARRAY_INDEX": "3"}, r"--shard \$PBS_ARRAY_INDEX/4"),
        ({"PBS_ARRAYID": "3"}, "gives no number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2: expected less than WORLD_SIZE=2"),
    ],
)
def test_a_position_that_is_unknown_is_one_line(environment, fact) -> None:
    with pytest.raises(RecipeError, match=fact):
        position(environment)


@pytest.mark.skipif(sys.platform == "win32", reason="no sh")
def test_the_size_of_an_array_of_pbs_is_read_from_qstat(tmp_path, monkeypatch) -> None:
    """The output has the form of the PBS Professional Reference Guide."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program = tmp_path / "qstat"
    array = {"PBS_ARRAY_INDEX": "5", "PBS_JOBID": "1234[5].server"}
    for indices, expected in (("1-6", (5, 6)), ("1-9:2", (3, 5))):
        program.write_text(
            '#!/bin/sh\ntest "$*" = "-f 1234[].server" || exit 1\n'
            "echo 'Job Id: 1234[].server'\necho '    Job_Name = x'\n"
            f"echo '    array_indices_submitted = {indices}'\n"
        )
        program.chmod(0o755)
        assert position(array) == Position(*expected, array="PBS_ARRAY_INDEX")
        both = position({**array, "RANK": "1", "WORLD_SIZE": "2"})
        assert both == Position(2 * expected[0], 2 * expected[1], array="PBS_ARRAY_INDEX")
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(RecipeError, match=r"--shard \$PBS_ARRAY_INDEX/4"):
        position(array)


def test_a_command_that_does_all_its_work_knows_no_position() -> None:
    given = {**slurm(1, 1, 4, 4), "RANK": "0", "LOCAL_RANK": "0", "HOME": "/home/me", "SLURM_JOB_ID": "7"}
    assert without_position(given) == {"HOME": "/home/me", "SLURM_JOB_ID": "7"}
