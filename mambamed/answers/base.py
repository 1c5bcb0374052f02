"""What the answers of several tasks have in common, and the check that a model belongs to a command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mambamed.cases import Case
from mambamed.errors import ModelError
from mambamed.jobs.read_case import Ready
from mambamed.progress import Progress
from mambamed.tasks.base import task_class
from mambamed.volumes.ensemble import Ensemble


class BaseAnswer:
    """The defaults of an `Answer`: a dense output, all cases, no covariates, no optional files, no tables."""

    @property
    def covariates(self) -> Sequence[str]:
        return ()

    @property
    def keeps_images(self) -> bool:
        return False

    @property
    def least_bytes_per_voxel(self) -> float:
        return 0.0

    @property
    def names(self) -> Mapping[str, Any]:
        return {}

    def accept(self, cases: Sequence[Case], progress: Progress) -> list[Case]:
        return list(cases)

    def work(self, ready: Ready, ensemble: Ensemble, progress: Progress) -> Iterator[Any]:
        return ensemble.slabs_of_case(ready.case.id, ready.array, progress)

    def is_complete(self, case: Case, folder: Path) -> bool:
        return True

    def gather(self, cases: Sequence[Case], finished: Mapping[str, Mapping[str, Any]], folder: Path) -> Any:
        return None


def check_task(ensemble: Ensemble, task: str) -> None:
    """Raise `ModelError` if the models are of another task; the message names the command to use."""
    found = ensemble.run.recipe.task
    if found != task:
        verb, right = task_class(task).verb, task_class(found).verb
        raise ModelError(
            f"{ensemble.run.root}: is a {found} model, which {verb} cannot run. Use 'mambamed {right}'."
        )
