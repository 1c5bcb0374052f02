"""Which part of the cases a process works on, where several share an output folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mambamed.cases import Case
from mambamed.errors import RecipeError, RunError
from mambamed.io.lock import LOCK_NAME, folder_lock, is_locked, shared_lock
from mambamed.numerals import is_whole

_RANKS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 1.

    >>> Shard(2, 3).suffix, Shard(1, 1).suffix
    ('_2_of_3', '')
    """

    index: int = 1
    count: int = 1

    @property
    def suffix(self) -> str:
        """What the names of this part's own files end in."""
        return f"_{self.index}_of_{self.count}" if self.count > 1 else ""

    def cases(self, cases: Sequence[Case]) -> list[Case]:
        """Every `count`-th case."""
        return list(cases[self.index - 1 :: self.count])

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
    """The part that is asked for, else the rank that torchrun or SLURM set, else the whole.

    >>> chosen_shard("2/4", {})
    Shard(index=2, count=4)
    >>> chosen_shard(None, {"RANK": "0", "WORLD_SIZE": "2"})
    Shard(index=1, count=2)

    Raises:
        RecipeError: `asked` is not of the form part/parts.
    """
    environment = os.environ if environment is None else environment
    if asked is None:
        for rank, size in _RANKS:
            texts = environment.get(rank, ""), environment.get(size, "")
            if all(map(is_whole, texts)) and int(texts[0]) < int(texts[1]):
                return Shard(int(texts[0]) + 1, int(texts[1]))
        return Shard()
    found = re.fullmatch(r"(\d+)/(\d+)", asked.strip())
    if not found or not all(map(is_whole, found.groups())) or not 1 <= int(found[1]) <= int(found[2]):
        raise RecipeError(f"--shard {asked}: expected part/parts, e.g. 1/4 for the first of four")
    return Shard(int(found[1]), int(found[2]))


def _part_locks(folder: Path, name: str) -> list[str]:
    ours = re.compile(rf"{re.escape(name)}-\d+-of-\d+")
    return sorted(path.name for path in folder.glob(".*") if ours.fullmatch(path.name))
