"""Batch systems: the directives of a job script, and the commands that submit, list and cancel jobs.

Sources: manual pages of sbatch, squeue and scontrol (SLURM), qsub and qselect (PBS), qsub (SGE), bsub and
bjobs (LSF), condor_submit (HTCondor), and the Kubernetes documentation, "Jobs".
"""

from __future__ import annotations

import getpass
import math
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mambamed.cluster.destination import PORTABLE, Destination, clock
from mambamed.errors import RecipeError, RunError

AGAIN = 99  # exit code of a job that is to be run again: that of SGE; given to LSF and HTCondor
LEAD_SECONDS = (
    120  # a command gets the signal to save this long before the time limit; also requested of SLURM
)
_PATIENCE = 120  # seconds for a command of the batch system


@dataclass(frozen=True)
class BatchSystem:
    """The directives, commands and outputs of one batch system.

    Attributes:
        directives: job name, file for the system's own messages, destination -> lines of the script.
        submit: words before the script.
        submitted: finds the id in what `submit` prints.
        listing: words that list the jobs of this user that have not ended; USER stands for the name.
        listed: finds the id in each line of that.
        cancel: words before an id.
        variable: environment variable in which a job finds its id, if there is one.
        restart: words with which a job puts itself back, with ID and SCRIPT; without, it exits with `AGAIN`.
        stdin: whether the script is given to `submit` as input.
    """

    directives: Callable[[str, Path, Destination], list[str]]
    submit: tuple[str, ...]
    submitted: str
    listing: tuple[str, ...]
    listed: str
    cancel: tuple[str, ...]
    variable: str
    restart: tuple[str, ...] = ()
    stdin: bool = False

    def submit_script(self, script: Path) -> str:
        """Submit a script and return the id of the job.

        Raises:
            RunError: it was not accepted.
        """
        words = [*self.submit, *([] if self.stdin else [str(script)])]
        text = _said(words, script.read_text("utf-8") if self.stdin else None)
        if (found := re.search(self.submitted, text, re.MULTILINE)) is None:
            raise RunError(f"{words[0]}: printed no id of a job ({text.strip()[:200]!r}). Check the system.")
        return found[1]

    def active(self) -> set[str] | None:
        """The ids of this user's jobs that have not ended; None if the system does not answer now."""
        words = [getpass.getuser() if word == "USER" else word for word in self.listing]
        try:
            return set(re.findall(self.listed, _said(words), re.MULTILINE))
        except RunError:
            return None

    def cancel_job(self, job: str) -> None:
        """Cancel a job; RunError if the system refuses."""
        _said([*self.cancel, job])


def _said(words: Sequence[str], given: str | None = None) -> str:
    """What a command prints; RunError if it fails or is not installed."""
    try:
        done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=_PATIENCE)
    except FileNotFoundError as error:
        raise RunError(
            f"{words[0]}: no such command. Run this where the batch system is installed."
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"{words[0]}: does not answer ({error}). Try again later.") from error
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())[:500]
        raise RunError(f"{words[0]}: exit code {done.returncode}: {reason}. Correct --job, or ask the site.")
    return done.stdout


def _parts(place: Destination) -> tuple[dict[str, str], str, int, int, dict[str, str]]:
    """Portable texts, memory in MiB as text ("" if not given), cpus, gpus (0 if not given), other keys."""
    memory = place.memory_bytes
    others = {key: value for key, value in place.resources.items() if key not in PORTABLE}
    named = {key: place.resources.get(key, "") for key in ("queue", "account")}
    named["time"] = clock(place.limit_seconds) if place.limit_seconds else ""
    mib = "" if memory is None else str(math.ceil(memory / 2**20))
    return named, mib, place.count("cpus") or 0, place.count("gpus") or 0, others


def _slurm(name: str, log: Path, place: Destination) -> list[str]:
    named, memory, cpus, gpus, others = _parts(place)
    wanted: dict[str, object] = {
        "job-name": name,
        "output": log,
        "open-mode": "append",
        "signal": f"B:TERM@{LEAD_SECONDS}" if named["time"] else "",
        "partition": named["queue"],
        "account": named["account"],
        "time": named["time"],
        "mem": memory and f"{memory}M",
        "cpus-per-task": cpus,
        "gres": gpus and f"gpu:{gpus}",
    }
    lines = [f"--{key}={value}" for key, value in wanted.items() if value]
    return ["#SBATCH --requeue", *(f"#SBATCH {line}" for line in [*lines, *_flags(others)])]


def _flags(others: Mapping[str, str]) -> list[str]:
    return [f"--{key}={value}" if value else f"--{key}" for key, value in others.items()]


def _pbs(name: str, log: Path, place: Destination) -> list[str]:
    named, memory, cpus, gpus, others = _parts(place)
    chunk = [
        f"ncpus={cpus or 1}",
        *([f"mem={memory}mb"] if memory else []),
        *([f"ngpus={gpus}"] if gpus else []),
    ]
    lines = [f"-N {name}", "-j oe", f"-o {log}", "-r y"]
    lines += [f"-q {named['queue']}"] if named["queue"] else []
    lines += [f"-A {named['account']}"] if named["account"] else []
    lines += [] if "select" in others else [f"-l select=1:{':'.join(chunk)}"]
    lines += [f"-l walltime={named['time']}"] if named["time"] else []
    return [f"#PBS {line}" for line in [*lines, *(f"-l {_pair(*each)}" for each in others.items())]]


def _sge(name: str, log: Path, place: Destination) -> list[str]:
    named, memory, cpus, gpus, others = _parts(place)
    lines = [f"-N {name}", "-j y", f"-o {log}", "-r y", "-S /bin/bash"]
    lines += [f"-q {named['queue']}"] if named["queue"] else []
    lines += [f"-P {named['account']}"] if named["account"] else []
    lines += [f"-pe smp {cpus}"] if cpus else []
    lines += [f"-l h_rt={named['time']}"] if named["time"] else []
    if memory and "h_vmem" not in others:
        lines += [f"-l h_vmem={math.ceil(int(memory) / (cpus or 1))}M"]  # of each core
    lines += [f"-l gpu={gpus}"] if gpus else []
    return [f"#$ {line}" for line in [*lines, *(f"-l {_pair(*each)}" for each in others.items())]]


def _lsf(name: str, log: Path, place: Destination) -> list[str]:
    named, memory, cpus, gpus, others = _parts(place)
    lines = [f"-J {name}", f"-o {log}", "-r", f'-Q "{AGAIN}"']
    lines += [f"-q {named['queue']}"] if named["queue"] else []
    lines += [f"-P {named['account']}"] if named["account"] else []
    lines += [f"-n {cpus}", '-R "span[hosts=1]"'] if cpus else []
    lines += [f"-W {math.ceil(place.limit_seconds / 60)}"] if place.limit_seconds else []
    lines += [f"-M {memory}MB", f'-R "rusage[mem={memory}MB]"'] if memory else []
    lines += [f'-gpu "num={gpus}"'] if gpus else []
    return [
        f"#BSUB {line}" for line in [*lines, *(f"-{key} {value}".rstrip() for key, value in others.items())]
    ]


def _pair(key: str, value: str) -> str:
    return f"{key}={value}" if value else key


def _htcondor(name: str, log: Path, place: Destination) -> list[str]:
    named, memory, cpus, gpus, others = _parts(place)
    if named["queue"]:
        raise RecipeError(
            "--job queue: HTCondor has no queues. Remove it; requirements=... chooses machines."
        )
    seconds = int(place.limit_seconds or 0)
    wanted: dict[str, object] = {
        "batch_name": name,
        "output": f"{log}.out",
        "error": f"{log}.err",
        "log": f"{log}.condor",
        "getenv": "True",
        "request_cpus": cpus or 1,
        "request_memory": memory and f"{memory}MB",
        "request_gpus": gpus,
        "allowed_job_duration": seconds,
        "accounting_group": named["account"],
        "on_exit_remove": f"(ExitCode =!= {AGAIN})",
        **others,
    }
    return [f"{key} = {value}" for key, value in wanted.items() if value]


def _none(name: str, log: Path, place: Destination) -> list[str]:
    return []  # Kubernetes has a manifest


SYSTEMS = {
    "slurm": BatchSystem(
        _slurm,
        ("sbatch", "--parsable"),
        r"^(\d+)",
        ("squeue", "--noheader", "--format=%i", "--user", "USER"),
        r"^\s*(\d+)",
        ("scancel",),
        "SLURM_JOB_ID",
        ("scontrol", "requeue", "ID"),
    ),
    "pbs": BatchSystem(
        _pbs,
        ("qsub",),
        r"^(\S+)",
        ("qselect", "-u", "USER", "-s", "EHQRTW"),
        r"^(\S+)",
        ("qdel",),
        "PBS_JOBID",
        ("qsub", "SCRIPT"),
    ),
    "sge": BatchSystem(
        _sge,
        ("qsub", "-terse"),
        r"^(\d+)",
        ("qstat", "-u", "USER"),
        r"^\s*(\d+)",
        ("qdel",),
        "JOB_ID",
    ),
    "lsf": BatchSystem(
        _lsf,
        ("bsub",),
        r"Job <(\d+)>",
        ("bjobs", "-noheader", "-o", "jobid"),
        r"^\s*(\d+)",
        ("bkill",),
        "LSB_JOBID",
        stdin=True,
    ),
    "htcondor": BatchSystem(
        _htcondor,
        ("condor_submit",),
        r"submitted to cluster (\d+)",
        ("condor_q", "-autoformat", "ClusterId"),
        r"^(\d+)",
        ("condor_rm",),
        "_CONDOR_CLUSTER",
    ),
    "kubernetes": BatchSystem(
        _none,
        ("kubectl", "create", "-f"),
        r"job\.batch/(\S+) created",
        (
            "kubectl",
            "get",
            "jobs",
            "--no-headers",
            "--output",
            "custom-columns=N:.metadata.name,C:.status.conditions[*].type",
        ),
        r"^(\S+)\s+(?!.*(?:Complete|Failed))",
        ("kubectl", "delete", "job"),
        "",
    ),
}
