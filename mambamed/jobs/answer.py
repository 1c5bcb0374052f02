"""What the engine asks of a task: results of cases, their files, and the tables over all cases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from mambamed.cases import Case
from mambamed.jobs.read_case import Ready
from mambamed.progress import Progress
from mambamed.volumes.ensemble import Ensemble


class Answer(Protocol):
    """How the results of one task are computed and written.

    It holds no network, so that `write` can run in another process.

    Attributes:
        stage: what the progress bar shows, e.g. "predicting".
        settings: what determines the results in addition to input and models, for the record; JSON-ready.
        names: names of what the results contain, for the record.
        covariates: names of the covariates that the networks read.
        keeps_images: whether `write` needs the images as stored.
        least_bytes_per_voxel: what the files of a case take on the disk at least.
    """

    stage: ClassVar[str]

    @property
    def settings(self) -> dict[str, Any]: ...

    @property
    def covariates(self) -> Sequence[str]: ...

    @property
    def names(self) -> Mapping[str, Any]: ...

    @property
    def keeps_images(self) -> bool: ...

    @property
    def least_bytes_per_voxel(self) -> float: ...

    def accept(self, cases: Sequence[Case], progress: Progress) -> list[Case]:
        """Check the cases before any work, and add what is known of them from elsewhere."""
        ...

    def work(self, ready: Ready, ensemble: Ensemble, progress: Progress) -> Iterator[Any]:
        """Run the networks on a case, in the engine's main thread.

        Yields:
            The parts of the result in order. `write` takes them as they come, so that memory holds few.

        Raises:
            CaseError: this case has no result; the others continue.
        """
        ...

    def write(self, ready: Ready, parts: Iterable[Any], folder: Path) -> dict[str, Any]:
        """Write the files of a case, in a thread or process other than the networks'.

        Returns:
            JSON-ready results that the record keeps with the case.
        """
        ...

    def is_complete(self, case: Case, folder: Path) -> bool:
        """Whether the optional files of a finished case exist."""
        ...

    def gather(self, cases: Sequence[Case], finished: Mapping[str, Mapping[str, Any]], folder: Path) -> Any:
        """Write the tables over all finished cases, from files and record alone.

        Args:
            cases: in the order of the input.
            finished: case id -> its entry in the record.
            folder: of the output.

        Returns:
            What the command's summary needs.
        """
        ...
