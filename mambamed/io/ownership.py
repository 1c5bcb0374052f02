"""What a command may write: a new folder, an empty one, or its own; a new file, or its own.

A command first checks without writing anything, then takes the lock, then begins the list of its files
(`ledger`). `atomic` and `append_text` ask that list before each write.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mambamed.errors import MambamedError, RecipeError
from mambamed.io.atomic import TEMPORARY, check_writable
from mambamed.io.ledger import LEDGER_NAME, Ledger, foreign_file, single
from mambamed.io.lock import LOCK_NAME, folder_lock
from mambamed.schema_errors import named

_LOCKS = re.compile(rf"{re.escape(LOCK_NAME)}(-.*)?")


@dataclass(frozen=True)
class Output:
    """An output folder of one kind.

    Attributes:
        folder: where.
        kind: what it holds, e.g. "prepared dataset". Commands of different kinds do not share a folder.
        inputs: files and folders that the command reads.
        source: what it is made from, if a folder of the same kind but another source is to be kept.
        overwrite: whether a folder of another source may be replaced.
        edited: names of files that people edit, e.g. `*.csv`. A complete command records their digests, and
            the next one does not replace a file that was changed since.
        signals: names of empty files by which a person tells the command something.
        older: finds the files that a version without lists wrote; none if it did not write the folder.
    """

    folder: Path
    kind: str
    inputs: Sequence[Path] = ()
    source: str = ""
    overwrite: bool = False
    older: Callable[[Path], Iterable[str]] = lambda folder: ()
    edited: tuple[str, ...] = ()
    signals: tuple[str, ...] = ()

    def check(self, names: Sequence[str] = ()) -> Ledger:
        """Reject a folder that is not ours, without writing anything; the list of its files.

        Args:
            names: files that will be written, relative to the folder.

        Raises:
            RecipeError: it is an input, holds something else, or one of the files is somebody else's.
            RunError: it cannot be written.
        """
        folder = self.folder
        if os.path.lexists(folder) and not folder.is_dir():
            raise RecipeError(f"-o {folder}: expected a folder, got a file. Give another -o.")
        _check_apart(folder, self.inputs)
        ledger = Ledger(folder).refresh()
        adopted = [] if ledger.kind else self._adopted()
        found = None if ledger.kind or adopted else _first_file(folder, self.signals)
        if found and not ledger.refresh().kind:  # another process may have begun the list meanwhile
            raise RecipeError(
                f"{folder}: holds files that mambamed did not write ({found}). Give another -o."
            )
        if not ledger.kind:
            if adopted and self.source and not self.overwrite:
                raise RecipeError(
                    f"{folder}: holds a {self.kind} of mambamed 0.1.0. Give another -o, or --overwrite."
                )
            ledger.names |= set(adopted)
        elif ledger.kind != self.kind:
            raise RecipeError(f"{folder}: holds a {named(ledger.kind)}, not a {self.kind}. Give another -o.")
        elif self.source != ledger.source and not self.overwrite:
            raise RecipeError(
                f"{folder}: holds a {self.kind} made from {named(ledger.source)}. "
                "Give another -o, or --overwrite."
            )
        for inner in {self.folder / Path(name).parts[0] for name in names if "/" in name}:
            if kind := Ledger(inner).refresh().kind:
                raise RecipeError(f"{inner}: holds a {kind}. Give another -o.")
        if path := ledger.foreign(names):
            raise foreign_file(path)
        if not self.overwrite and (path := ledger.changed()):
            raise RecipeError(f"{path}: was changed after mambamed wrote it. Move it, or give another -o.")
        check_writable(folder)
        return ledger

    def begin(self) -> Ledger:
        """Begin the list of files; call it while holding the folder's lock."""
        ledger = self.check()
        ledger.begin(self.kind, self.source, ledger.names)
        return ledger

    @contextmanager
    def locked(self, lock: Callable[[Path], AbstractContextManager[None]] = folder_lock) -> Iterator[Ledger]:
        """Check, lock, check again what may have changed meanwhile, and begin the list.

        If the block fails before it writes a file, what was made for it is removed again.
        """
        new = not self.check().kind
        made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        with lock(self.folder):
            ledger = self.begin()
            ledger.keep_digests(())  # a command that is killed leaves files without digests
            try:
                yield ledger
                ledger.keep_digests(self.edited)
                ledger.compact()
            except BaseException:
                with suppress(MambamedError):
                    ledger.keep_digests(self.edited)
                if new and not ledger.refresh().names:
                    with suppress(OSError):
                        for path in (ledger.path, self.folder / LOCK_NAME):
                            path.unlink(missing_ok=True)
                        for path in made:
                            path.rmdir()
                raise

    def _adopted(self) -> list[str]:
        names = dict.fromkeys(self.older(self.folder)) if self.folder.is_dir() else ()
        return [name for name in names if (self.folder / name).is_file()]


def _first_file(folder: Path, signals: Sequence[str]) -> str | None:
    """The name of something in a folder that is no lock, temporary file or signal."""
    if not folder.is_dir():
        return None
    for path in sorted(folder.iterdir()):
        ours = _LOCKS.fullmatch(path.name) or TEMPORARY.fullmatch(path.name) or path.name == LEDGER_NAME
        file = not path.is_symlink() and path.is_file()
        signal = file and path.name in signals and path.stat().st_size == 0
        if (
            not (file and ours) and not signal and os.path.lexists(path)
        ):  # a temporary file of another process may be gone
            return f"{path.name}/..." if path.is_dir() else path.name
    return None


@contextmanager
def own_file(path: Path, *, inputs: Sequence[Path] = (), replace: bool = False) -> Iterator[None]:
    """Check an output that is a single file; within the block it is no part of the folder it lies in.

    Args:
        path: the file.
        inputs: files and folders that the command reads.
        replace: whether a file with other content may be replaced: with `--overwrite`, or as this command's
            own earlier result.

    Raises:
        RecipeError: it is a folder or an input.
        RunError: its folder cannot be written.
    """
    if path.is_dir():
        raise RecipeError(f"-o {path}: expected a file, got a folder. Give another -o.")
    _check_apart(path, inputs)
    check_writable(path)
    with single(path, replace):
        yield


def _check_apart(output: Path, inputs: Sequence[Path]) -> None:
    for place in inputs:
        if output.exists() and place.exists() and output.samefile(place):
            raise RecipeError(f"-o {output}: is the input. Give another -o.")
