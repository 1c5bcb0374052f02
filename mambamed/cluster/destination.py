"""Where work is done: the options `--on`, `--jobs` and `--job`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mambamed.errors import RecipeError
from mambamed.schema_errors import did_you_mean

BATCH_SYSTEMS = ("slurm", "pbs", "sge", "lsf", "htcondor", "kubernetes")
PORTABLE = ("time", "mem", "cpus", "gpus", "queue", "account")  # keys of --job that every system knows
_ADDRESS = re.compile(r"(tcp|tls|ws|wss)://\S+")
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Destination:
    """Where work is done.

    Attributes:
        on: "local", one of `BATCH_SYSTEMS`, or the address of a Dask scheduler, e.g. "tcp://node7:8786".
        jobs: how many at a time; None: not given.
        resources: of each job: keys of `PORTABLE`, and others that the batch system itself knows.
    """

    on: str = "local"
    jobs: int | None = None
    resources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, on: str, jobs: int | None = None, job: str | None = None) -> Destination:
        """From the options.

        Raises:
            RecipeError: one of them cannot be understood.

        >>> Destination.of("slurm", 4, "gres=gpu:1,time=4:00:00,mem=32G").resources
        {'gres': 'gpu:1', 'time': '4:00:00', 'mem': '32G'}
        """
        if on != "local" and on not in BATCH_SYSTEMS and not _ADDRESS.fullmatch(on):
            known = ("local", *BATCH_SYSTEMS)
            hint = did_you_mean(on, known) or f". Choose one of {', '.join(known)}, or give tcp://HOST:PORT."
            raise RecipeError(f"--on {on}: no such place{hint}")
        if jobs is not None and jobs < 1:
            raise RecipeError(f"--jobs {jobs}: expected at least 1. Correct the number.")
        place = cls(on, jobs, _resources(job or ""))
        if place.is_address and (place.resources or jobs is not None):
            raise RecipeError(
                f"--on {on}: its workers are there already, with their resources. Remove --jobs and --job."
            )
        _ = place.limit_seconds, place.memory_bytes, place.count("cpus"), place.count("gpus")  # checked
        return place

    @property
    def is_batch(self) -> bool:
        """Whether a batch system runs the jobs."""
        return self.on in BATCH_SYSTEMS

    @property
    def is_address(self) -> bool:
        """Whether this is a Dask scheduler that somebody started."""
        return self.on != "local" and not self.is_batch

    @property
    def limit_seconds(self) -> float | None:
        """The time limit of a job."""
        return seconds_of(self.resources["time"]) if "time" in self.resources else None

    @property
    def memory_bytes(self) -> int | None:
        """The memory of a job."""
        if (text := self.resources.get("mem")) is None:
            return None
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?B)?", text, re.IGNORECASE)
        if not found or not float(found[1]):
            raise RecipeError(f"--job mem={text}: expected a size. Write e.g. mem=32G.")
        return int(float(found[1]) * _UNITS[found[2].upper()])

    def count(self, key: str) -> int | None:
        """The number of "cpus" or "gpus"."""
        if (text := self.resources.get(key)) is None:
            return None
        if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
            raise RecipeError(f"--job {key}={text}: expected a number from 1. Write e.g. {key}=1.")
        return int(text)


def _resources(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        key, equals, value = (each.strip() for each in part.partition("="))
        key = key.lstrip("-")
        if not _KEY.fullmatch(key) or (equals and not value) or not value.isprintable():
            raise RecipeError(
                f"--job {part}: expected KEY=VALUE. Write e.g. --job gpus=1,time=4:00:00,mem=32G."
            )
        if key in found:
            raise RecipeError(f"--job {text}: {key} is given twice. Keep one.")
        found[key] = value
    return found


def seconds_of(text: str) -> float:
    """A time limit in seconds, as SLURM reads it.

    >>> seconds_of("4:00:00"), seconds_of("90"), seconds_of("1-12"), seconds_of("30:00"), seconds_of("2h")
    (14400.0, 5400.0, 129600.0, 1800.0, 7200.0)

    Raises:
        RecipeError: it is not one of minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS, or a number with s,
            m, h or d.
    """
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
    elif found := re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text):
        days, *parts = found.groups()
        numbers = [float(part) for part in parts if part is not None]
        units = {1: (60,), 2: (60, 1), 3: (3600, 60, 1)}[len(numbers)] if days is None else (3600, 60, 1)
        seconds = float(days or 0) * 86400 + sum(n * u for n, u in zip(numbers, units, strict=False))
    else:
        raise RecipeError(f"--job time={text}: expected a time. Write e.g. time=4:00:00, 1-12:00:00 or 2h.")
    if not seconds:
        raise RecipeError(f"--job time={text}: expected more than 0. Write e.g. time=4:00:00.")
    return seconds


def clock(seconds: float) -> str:
    """Seconds as HH:MM:SS, which every batch system reads.

    >>> clock(129600), clock(61)
    ('36:00:00', '00:01:01')
    """
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
