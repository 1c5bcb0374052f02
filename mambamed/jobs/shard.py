"""One folder of cases, several processes: who does what."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mambamed.cases import Case
from mambamed.errors import RecipeError, RunError
from mambamed.io.lock import folder_lock, is_locked, shared_lock

_RANKS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 1.

    >>> Shard(2, 3).record_name, Shard(1, 1).record_name
    ('run_2_of_3.json', 'run.json')
    """

    index: int = 1
    count: int = 1

    @property
    def record_name(self) -> str:
        """Name of this part's own run.json."""
        return f"run_{self.index}_of_{self.count}.json" if self.count > 1 else "run.json"

    def cases(self, cases: Sequence[Case]) -> list[Case]:
        """Every `count`-th case."""
        return list(cases[self.index - 1 :: self.count])

    @contextmanager
    def lock(self, folder: Path) -> Iterator[None]:
        """Hold this part of an output folder for writing: other parts of the same whole may write beside it.

        Raises:
            RunError: another process writes the whole folder, this part of it, or parts cut otherwise.
        """
        if self.count == 1:
            with folder_lock(folder):
                others = [name for name in _lock_names(folder) if is_locked(folder, name)]
                if others:  # only where the system knows no shared locks
                    raise RunError(f"{folder}: a part of it is being written ({others[0]}); wait for it")
                yield
            return
        own = f".lock-{self.index}-of-{self.count}"
        with shared_lock(folder), folder_lock(folder, own, leftovers=False):
            for name in _lock_names(folder):
                if not name.endswith(f"-of-{self.count}") and is_locked(folder, name):
                    raise RunError(
                        f"{folder}: is being written in other parts ({name.removeprefix('.lock-')}); "
                        "wait, or give the same number of parts"
                    )
            yield


def chosen_shard(asked: str | None, environment: Mapping[str, str] | None = None) -> Shard:
    """What is asked for, else what torchrun or SLURM say that this process is, else everything.

    >>> chosen_shard("2/4", {})
    Shard(index=2, count=4)
    >>> chosen_shard(None, {"RANK": "0", "WORLD_SIZE": "2"})
    Shard(index=1, count=2)

    Raises:
        RecipeError: the words are no part of a whole.
    """
    environment = os.environ if environment is None else environment
    if asked is None:
        for rank, size in _RANKS:
            texts = environment.get(rank, ""), environment.get(size, "")
            if all(text.isdigit() for text in texts) and int(texts[0]) < int(texts[1]):
                return Shard(int(texts[0]) + 1, int(texts[1]))
        return Shard()
    found = re.fullmatch(r"(\d+)/(\d+)", asked.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise RecipeError(f"--shard {asked}: give part/parts, e.g. 1/4, 2/4, 3/4 and 4/4")
    return Shard(int(found[1]), int(found[2]))


def _lock_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".lock-*-of-*"))
