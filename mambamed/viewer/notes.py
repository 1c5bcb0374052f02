"""Notes of a person about the cases, in a CSV table: case, mark, note."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mambamed.errors import DatasetError, RunError
from mambamed.io.lock import waiting_lock
from mambamed.io.ownership import own_file
from mambamed.io.tables import read_csv, unescaped, write_csv
from mambamed.schema_errors import named

MARKS = ("right", "wrong", "doubtful")
_HEADERS = ["case", "mark", "note"]
_LONGEST = 2000  # characters
# What a table loses at the ends of a cell, what UTF-8 cannot hold, and what would be taken for such a code.
_LOST = re.compile(r"^\s|\s$|^'(?=[=+\-@\t\r])|[\x00-\x1f\x7f\ud800-\udfff]|\\(?=u[0-9a-f]{4})")
_CODE = re.compile(r"\\u([0-9a-f]{4})")


class Notes:
    """The notes in a file, which is read again before each change, as a person may edit it, too.

    Raises:
        DatasetError: the file is not a table of notes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read()

    @classmethod
    @contextmanager
    def opened(cls, path: Path, inputs: Sequence[Path] = ()) -> Iterator[Notes]:
        """Notes that can be changed within the block.

        Raises:
            DatasetError: the file is not a table of notes.
            RecipeError: it is a folder, or an input.
            RunError: its folder cannot be written.
        """
        notes = cls(path)
        with own_file(path, inputs=inputs, replace=True):
            yield notes

    def entries(self) -> dict[str, dict[str, str]]:
        """Case -> its mark ("" for none) and note."""
        return {case: {"mark": mark, "note": note} for case, (mark, note) in self._read().items()}

    def put(self, case: str, mark: str, note: str) -> None:
        """Replace the note of a case; an empty mark and note remove it.

        Raises:
            RunError: another mark, too long a note, or the file cannot be written.
        """
        note = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", note).split())
        if mark not in {"", *MARKS}:
            raise RunError(f"notes: mark: expected one of {', '.join(MARKS)}, got {named(mark)}. Choose one.")
        if len(note) > _LONGEST:
            raise RunError(f"notes: {len(note)} characters, expected at most {_LONGEST}. Shorten the note.")
        with self._locked():
            changed = {**self._read(), case: (mark, note)}
            if not mark and not note:
                del changed[case]
            rows = [[_coded(name), *values] for name, values in sorted(changed.items())]
            write_csv(self.path, _HEADERS, rows)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all viewers of this file; the lock file is removed again."""
        name = f".{self.path.name}.lock"
        with waiting_lock(self.path.parent, name):
            try:
                yield
            finally:
                (self.path.parent / name).unlink()

    def _read(self) -> dict[str, tuple[str, str]]:
        path = self.path
        if not path.exists():
            return {}
        headers, rows = read_csv(path)
        if headers != _HEADERS:
            raise DatasetError(
                f"{path}: expected the columns {', '.join(_HEADERS)}, got {', '.join(headers)}. Move the "
                "file."
            )
        found: dict[str, tuple[str, str]] = {}
        for line, row in enumerate(rows, start=2):
            case, mark, note = (unescaped(row[name]) for name in _HEADERS)
            case = _CODE.sub(lambda code: chr(int(code[1], 16)), case)
            if mark not in {"", *MARKS} or not case or case in found:
                raise DatasetError(
                    f"{path}:{line}: expected each case once, marked {', '.join(MARKS)}. Correct the line."
                )
            found[case] = (mark, note)
        return found


def _coded(case: str) -> str:
    """A case as a cell from which exactly this case is read again.

    >>> _coded("a "), _coded("p01")
    ('a\\\\u0020', 'p01')
    """
    return _LOST.sub(lambda found: f"\\u{ord(found[0]):04x}", case)
