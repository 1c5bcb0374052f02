"""Where a command writes: names of the files, locks, and what must not be overwritten."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from os.path import realpath  # unlike Path.resolve, it raises no error for links in a circle
from pathlib import Path

from mambamed.cases import Case
from mambamed.documents.prediction import PredictionRecord, record_files
from mambamed.errors import MambamedError, RecipeError
from mambamed.io.ledger import foreign_file
from mambamed.io.lock import LOCK_NAME, waiting_lock
from mambamed.io.ownership import Output, own_file
from mambamed.jobs.shard import Shard

FURTHER = (
    *("_preview.png", "_probabilities.npz", "_statistics.json"),
    *("_entropy.nii.gz", "_disagreement.nii.gz"),
)


@dataclass(frozen=True)
class OutputFolder:
    """A folder that one command, or several processes of it, write.

    Attributes:
        path: the folder.
        kind: what the folder holds, e.g. "folder of masks"; empty if the command writes a table into somebody
            else's folder.
        suffixes: ends of the files of a case, e.g. ".nii.gz"; the first is the one whose digest the record
            keeps. Empty: the results of the cases are in the record alone.
        tables: names of the files over all cases; of a single file, those that may lie next to it.
        record: name of the record without ".json"; "run" if the whole folder belongs to the command.
        only: name of the file of the only case, if the output is that file and not a folder.
    """

    path: Path
    kind: str
    suffixes: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    record: str = "run"
    only: str = ""

    @classmethod
    def of_file(cls, output: Path, suffixes: Sequence[str], further: Sequence[str] = ()) -> OutputFolder:
        """The output of a command whose `-o` names the file of the only case, not a folder.

        Args:
            suffixes: ends of the files of the case; the name of `output` has the first.
            further: ends of its optional files.
        """
        stem = output.name[: -len(suffixes[0])]
        tables = tuple(f"{stem}{end}" for end in (*suffixes[1:], *further))
        return cls(output.parent, "", (suffixes[0],), tables, f"{stem}.run", output.name)

    @property
    def target(self) -> Path:
        """What `-o` names."""
        return self.path / self.only if self.only else self.path

    def named(self, cases: Sequence[Case]) -> list[Case]:
        """The cases, under the names of their files.

        Raises:
            RecipeError: the output is a single file, and there are several cases.
        """
        if not self.only:
            return list(cases)
        if len(cases) != 1:
            raise RecipeError(
                f"-o {self.target}: is the name of one file, but the input has {len(cases)} cases. "
                "Give a folder."
            )
        return [replace(cases[0], id=self.only[: -len(self.suffixes[0])])]

    def file(self, case: Case) -> Path | None:
        """The first file of a case."""
        return self.path / f"{case.id}{self.suffixes[0]}" if self.suffixes else None

    def record_path(self, shard: Shard) -> Path:
        """The record of the whole folder, or of a part."""
        return self.path / f"{self.record}{shard.suffix}.json"

    def records(self) -> list[Path]:
        """All records that exist, the whole folder's last."""
        return record_files(self.path, self.record)

    @property
    def _lock(self) -> str:
        return LOCK_NAME if self.record == "run" else f"{LOCK_NAME}-{self.record}"

    def check(self, inputs: Sequence[Path], overwrite: bool) -> None:
        """Reject an output that is not this command's, before any work; nothing is written.

        Raises:
            RecipeError: it is an input, or somebody else's.
            RunError: it cannot be written.
        """
        if self.kind:
            self._owned(inputs).check()
        with ExitStack() as files:
            for name in () if self.kind else filter(None, (self.only, *self.tables)):
                files.enter_context(own_file(self.path / name, inputs=inputs, replace=overwrite))

    def _owned(self, inputs: Sequence[Path] = ()) -> Output:
        return Output(self.path, self.kind, inputs, older=self._files_of_version_0_1)

    def _files_of_version_0_1(self, folder: Path) -> list[str]:
        """What mambamed 0.1.0, which kept no list of its files, wrote into the folder."""
        try:
            cases = [case_id for path in self.records() for case_id in PredictionRecord.read(path).cases]
        except MambamedError:
            return []
        names = [f"{case_id}{end}" for case_id in cases for end in (*self.suffixes, *FURTHER)]
        return [*names, *self.tables, *(path.name for path in self.records())]

    def check_cases(self, cases: Sequence[Case]) -> None:
        """Reject an output in which a result would replace an input image or a file of the folder itself.

        Raises:
            RecipeError: it would.
        """
        images = {realpath(channel.path): channel.path for case in cases for channel in case.channels}
        own = re.compile(rf"{re.escape(self.record)}(_\d+_of_\d+)?\.json")
        for name in self.tables:
            if realpath(self.path / name) in images:
                raise RecipeError(f"{self.path / name}: is an input image. Give another -o.")
        for case in cases:
            names = [f"{case.id}{suffix}" for suffix in self.suffixes]
            if any(own.fullmatch(name) or name in self.tables for name in names):
                raise RecipeError(
                    f"{case.channels[0].path}: a case named {case.id} would overwrite a table or the record "
                    "of the output folder. Rename it."
                )
            for name in names:
                if (image := realpath(self.path / name)) in images:
                    raise RecipeError(f"{images[image]}: its result would overwrite it. Give another -o.")

    @contextmanager
    def locked(self, shard: Shard, cases: Sequence[Case]) -> Iterator[None]:
        """Hold the folder, or a part of it, for writing; see `Shard.lock`.

        Raises:
            RecipeError: a file of one of the cases exists and is somebody else's.
        """
        with ExitStack() as held:
            held.enter_context(shard.lock(self.path, self._lock))
            if self.kind:
                names = [f"{case.id}{suffix}" for case in cases for suffix in self.suffixes]
                if path := self._owned().begin().foreign([*names, *self.tables]):
                    raise foreign_file(path)
            else:
                names = filter(None, (self.only, *self.tables))
                for path in (self.record_path(shard), *(self.path / name for name in names)):
                    held.enter_context(own_file(path, replace=True))
            yield

    @contextmanager
    def tables_locked(self, shard: Shard) -> Iterator[None]:
        """Hold the tables for writing; waits for other parts of the folder."""
        if shard.count == 1:
            yield
            return
        with waiting_lock(self.path, f"{self._lock}-tables"):
            yield
