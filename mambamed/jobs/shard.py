"""Which part of the cases a process works on, where several share an output folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mambamed.cases import Case
from mambamed.cluster.position import position
from mambamed.errors import RecipeError, RunError
from mambamed.io.lock import LOCK_NAME, folder_lock, is_locked, shared_lock
from mambamed.numerals import is_whole


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 1.

    Attributes:
        array: the variable of a job array that says so, if one does.

    >>> Shard(2, 3).suffix, Shard(1, 1).suffix
    ('_2_of_3', '')
    """

    index: int = 1
    count: int = 1
    array: str = field(default="", compare=False, repr=False)

    @property
    def suffix(self) -> str:
        """What the names of this part's own files end in."""
        return f"_{self.index}_of_{self.count}" if self.count > 1 else ""

    def cases(self, cases: Sequence[Case]) -> list[Case]:
        """Every `count`-th case."""
        return list(cases[self.index - 1 :: self.count])

    def described(self, cases: Sequence[Case]) -> str:
        """Which part of the cases this is; empty for all of them.

        Raises:
            RecipeError: no case is left for the task of a job array: each may be meant to have its own.
        """
        own = len(self.cases(cases))
        if self.array and not own:
            raise RecipeError(
                f"{self.array}: this is task {self.index} of {self.count} of a job array, which share the "
                f"cases, and the input has {len(cases)}. Start fewer tasks, or give --shard 1/1 if every "
                "task has cases of its own."
            )
        part = f"part {self.index} of {self.count}: {own} of {len(cases)} cases"
        return part if self.count > 1 else ""

    @contextmanager
    def lock(self, folder: Path, name: str = LOCK_NAME) -> Iterator[None]:
        """Hold this part of an output folder for writing; other parts with the same count may be written too.

        Args:
            folder: is made.
            name: of the lock file of the whole folder.

        Raises:
            RunError: another process writes the whole folder, this part of it, or parts of another count.
        """
        if self.count == 1:
            with folder_lock(folder, name, leftovers=name == LOCK_NAME):
                others = [part for part in _part_locks(folder, name) if is_locked(folder, part)]
                if others:  # only where the system has no shared locks
                    raise RunError(f"{folder}: a part of it is being written ({others[0]}). Wait for it.")
                yield
            return
        own = f"{name}-{self.index}-of-{self.count}"
        with shared_lock(folder, name), folder_lock(folder, own, leftovers=False):
            for part in _part_locks(folder, name):
                if not part.endswith(f"-of-{self.count}") and is_locked(folder, part):
                    raise RunError(
                        f"{folder}: is being written in other parts ({part.removeprefix(f'{name}-')}). "
                        "Wait, or use the same number of parts."
                    )
            yield


def chosen_shard(asked: str | None, environment: Mapping[str, str] | None = None) -> Shard:
    """The part that is asked for, else the rank in torchrun, a step of srun or a job array, else the whole.

    >>> chosen_shard("2/4", {})
    Shard(index=2, count=4)
    >>> chosen_shard(None, {"RANK": "0", "WORLD_SIZE": "2"})
    Shard(index=1, count=2)

    Raises:
        RecipeError: `asked` is not of the form part/parts, or the size of the job array is not known.
    """
    environment = os.environ if environment is None else environment
    if asked is None:
        place = position(environment)
        return Shard() if place is None else Shard(place.index, place.count, place.array)
    found = re.fullmatch(r"(\d+)/(\d+)", asked.strip())
    if not found or not all(map(is_whole, found.groups())) or not 1 <= int(found[1]) <= int(found[2]):
        raise RecipeError(f"--shard {asked}: expected part/parts, e.g. 1/4 for the first of four")
    return Shard(int(found[1]), int(found[2]))


def _part_locks(folder: Path, name: str) -> list[str]:
    ours = re.compile(rf"{re.escape(name)}-\d+-of-\d+")
    return sorted(path.name for path in folder.glob(".*") if ours.fullmatch(path.name))
