"""The list of files that mambamed wrote into an output folder.

A file `.mambamed-files` in the folder holds JSON lines: first the kind of the output, then the name of each
file before it is written (`"fold_0/log.csv"`), and of each file that is removed again (`{"removed": NAME}`).
When a command completes, the digests of files that people edit are added (`{"digests": {NAME: SHA256}}`).
Every file outside this list belongs to somebody else and is neither replaced nor removed.
"""

from __future__ import annotations

import errno
import filecmp
import fnmatch
import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, TypeAdapter, WithJsonSchema

from mambamed.errors import DatasetError, RecipeError, RunError
from mambamed.io.json_text import json_line, parse_json
from mambamed.io.text_files import MAX_BYTES
from mambamed.io.write_errors import cannot_write

LEDGER_NAME = ".mambamed-files"
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # no such flag on Windows
_FORMAT = 1


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _safe(name: Any) -> str:
    parts = _text(name).split("/")
    drive = os.name == "nt" and (":" in name or "\\" in name)
    if ".." in parts or "" in parts or "\0" in name or drive:
        raise ValueError(name)
    os.fsencode(name)  # UnicodeEncodeError, a ValueError, for what no file can be called
    return name


# not pydantic's text, which refuses names that are not UTF-8
_Name = Annotated[str, PlainValidator(_safe), WithJsonSchema({"type": "string", "minLength": 1})]
_Text = Annotated[str, PlainValidator(_text), WithJsonSchema({"type": "string"})]


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Head(Entry):
    format: Annotated[int, Field(ge=1, le=_FORMAT)]
    """Version of the list."""
    kind: Annotated[str, Field(min_length=1)]
    """What the folder holds."""
    source: _Text = ""
    """What it was made from."""


class NewSource(Entry):
    source: _Text
    """What the folder is now made from."""


class Removed(Entry):
    removed: _Name
    """File that was removed again."""


class Digests(Entry):
    digests: dict[_Name, _Text]
    """File -> SHA-256, as the last complete command left it; empty while a command writes."""


Line = Head | NewSource | Removed | Digests | _Name
_HEAD, _LATER = TypeAdapter[Head](Head), TypeAdapter[Any](NewSource | Removed | Digests | _Name)


@dataclass
class Ledger:
    """The list of one output folder; `names` and `kind` are as of the last `refresh`.

    Attributes:
        root: the folder.
        kind: what the folder holds, e.g. "prepared dataset"; empty if there is no list yet.
        source: what it was made from, if that distinguishes outputs of the same kind.
        names: files of the list, relative to the folder, with "/".
        digests: SHA-256 of some of these files, by which a change by a person is noticed.
    """

    root: Path
    kind: str = ""
    source: str = ""
    names: set[str] = field(default_factory=set)
    digests: dict[str, str] = field(default_factory=dict)
    _read: int = 0  # bytes of the list that are in `names`
    _inode: int = 0
    _guard: threading.RLock = field(default_factory=threading.RLock)  # a second thread writes results

    @property
    def path(self) -> Path:
        return self.root / LEDGER_NAME

    @cached_property
    def _path(self) -> str:
        return str(self.path)

    def refresh(self) -> Ledger:
        """Read what other processes have added.

        Raises:
            RunError: the list is damaged, or was written by a newer version.
        """
        with self._guard:
            try:
                state = os.lstat(self._path)
                size, inode = state.st_size, state.st_ino
            except OSError:
                size = inode = 0
            if size < self._read or inode != self._inode:
                self.kind, self.source, self.names, self._read, self._inode = "", "", set(), 0, inode
                self.digests = {}
            if size > MAX_BYTES:
                raise RunError(f"{self.path}: larger than {MAX_BYTES >> 20} MB. Give another -o.")
            if size > self._read:
                with _locked(self.path, os.O_RDONLY) as file:
                    file.seek(self._read)
                    self._take(file.read())
            return self

    def _take(self, data: bytes) -> None:
        whole = data[: data.rfind(b"\n") + 1]  # a power failure may leave part of a line
        try:
            for line in whole.decode().split("\n")[:-1]:
                self._take_entry(parse_json(line, self.path))
        except (DatasetError, TypeError, ValueError) as error:
            raise RunError(f"{self.path}: is damaged. Give another -o.") from error
        self._read += len(whole)

    def _take_entry(self, entry: Any) -> None:
        if not self.kind:
            number = entry.get("format") if isinstance(entry, dict) else None
            if type(number) is int and number > _FORMAT:
                raise RunError(f"{self.path}: a newer version of mambamed wrote this file. Update mambamed.")
            head = _HEAD.validate_python(entry)
            self.kind, self.source = head.kind, head.source
        elif isinstance(line := _LATER.validate_python(entry), str):
            self.names.add(line)
        elif isinstance(line, NewSource):
            self.source = line.source
        elif isinstance(line, Digests):
            self.digests = line.digests
        else:
            self.names.discard(line.removed)

    def begin(self, kind: str, source: str, names: Iterable[str]) -> None:
        """Write the first line, and `names` of files that exist already, unless there is a list."""
        _known[_absolute(self.root)] = self
        _above.clear()
        if not self.refresh().kind:
            self._append([_head(kind, source), *sorted(names)], first=True)

    def made_from(self, source: str) -> None:
        """Record that the files are from now on made from another source."""
        if source != self.refresh().source:
            self._append([{"source": source}])

    def keep_digests(self, patterns: Iterable[str]) -> None:
        """Record the digests of the listed files with these names, e.g. `*.csv`; drop all others."""
        names = {name for pattern in patterns for name in fnmatch.filter(self.refresh().names, pattern)}
        self._put_digests({name: digest for name in sorted(names) if (digest := self._digest(name))})

    def add_digests(self, names: Iterable[str]) -> None:
        """Record the digests of some files, and keep those of the others; call it while holding a lock."""
        new = {name: digest for name in names if (digest := self._digest(name))}
        self._put_digests(dict(sorted((self.refresh().digests | new).items())))

    def _put_digests(self, digests: dict[str, str]) -> None:
        if digests != self.digests:
            self._append([{"digests": digests}])

    def changed(self) -> Path | None:
        """The first file that differs from its recorded digest."""
        return next((self.root / name for name in self.refresh().digests if self.is_changed(name)), None)

    def is_changed(self, name: str) -> bool:
        """Whether a file differs from its recorded digest."""
        return name in self.digests and self._digest(name) not in (None, self.digests[name])

    def _digest(self, name: str) -> str | None:
        path = self.root / name
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

    def add(self, names: Iterable[str]) -> None:
        """Add the names of many files at once, which is faster than one before each write."""
        with self._guard:
            if missing := sorted(set(names) - self.refresh().names):
                self._append(missing)

    def remove(self, name: str) -> None:
        """Delete a file, if it is on the list."""
        if name in self.refresh().names and self.foreign([name]) is None:
            try:
                (self.root / name).unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(self.root / name, error) from error
            self._append([{"removed": name}])

    def foreign(self, names: Iterable[str]) -> Path | None:
        """The first of these files that exists and is not on the list, or what is in place of its folder."""
        self.refresh()
        names = list(names)
        parents = {name[:end] for name in names for end, letter in enumerate(name) if letter == "/"}
        folders = [f"{self.root}/{parent}" for parent in sorted(parents)]
        paths = [f"{self.root}/{name}" for name in names if name not in self.names]
        for found in (*filter(_is_no_folder, folders), *filter(os.path.lexists, paths)):
            return Path(found)
        return None

    def _append(self, entries: Iterable[Any], first: bool = False) -> None:
        text = _lines(entries)
        with _locked(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if file.read(1) not in (b"", b"\n"):  # part of a line, after a power failure
                file.seek(0)
                size = file.truncate(file.read().rfind(b"\n") + 1)
            if not (first and size) and file.write(data := text.encode()) != len(data):
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.refresh()

    def compact(self) -> None:
        """Rewrite the list, sorted and without deleted files; no other process may write meanwhile."""
        self.refresh()
        lines = [
            _head(self.kind, self.source),
            *(name for name in sorted(self.names) if os.path.lexists(self.root / name)),
            *([{"digests": self.digests}] if self.digests else []),
        ]
        temporary = self.path.with_name(f".tmp-{os.getpid()}-{os.urandom(4).hex()}")
        try:
            temporary.write_text(_lines(lines), encoding="utf-8")
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise cannot_write(self.path, error) from error

    def may_write(self, name: str) -> None:
        """Put a file on the list before it is written.

        Raises:
            RecipeError: it exists and is not on the list, or a link would lead out of the folder.
        """
        with self._guard:
            if (path := self.foreign([name])) is not None:
                raise foreign_file(path)
            if name not in self.names:
                self._append([name])


def _head(kind: str, source: str) -> dict[str, Any]:
    return {"format": _FORMAT, "kind": kind, **({"source": source} if source else {})}


def _lines(entries: Iterable[Any]) -> str:
    return "".join(f"{json_line(entry)}\n" for entry in entries)


def _is_no_folder(path: str) -> bool:
    try:
        return not stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def foreign_file(path: Path) -> RecipeError:
    """The error for a file of somebody else, or a link, that is in the way."""
    if path.is_symlink():
        return RecipeError(f"{path}: is a link, which is not followed. Replace it, or give another -o.")
    return RecipeError(f"{path}: mambamed did not write this file. Move it, or give another -o.")


def ledger_above(path: Path) -> tuple[Ledger, str] | None:
    """The nearest list above a file, and the file's name in it; None if no folder above has one."""
    text = _absolute(path)
    folder, _, name = text.rpartition(os.sep)
    ledger, inner = _above.get(folder, (None, ""))
    if ledger is None or not ledger.refresh().kind:
        roots = (root for root in Path(text).parents if (root / LEDGER_NAME).is_file())
        if (root := next(roots, None)) is None:
            return None
        ledger, inner = _known.setdefault(str(root), Ledger(root)), Path(folder).relative_to(root).as_posix()
        _above[folder] = ledger, inner
    return ledger, name if inner == "." else f"{inner}/{name}"


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - `resolve` would follow links


# Of absolute paths as text: this code runs before each write.
_known: dict[str, Ledger] = {}
_above: dict[str, tuple[Ledger, str]] = {}  # folder of a file -> the list above it, its name in that list
_single: dict[str, bool] = {}  # files that are no part of the folder they lie in -> may they be replaced?


@contextmanager
def single(path: Path, replace: bool) -> Iterator[None]:
    """Within the block, a file is an output of its own, whatever folder it lies in.

    Args:
        path: the file.
        replace: whether a file with other content may be replaced.
    """
    _single[_absolute(path)] = replace
    try:
        yield
    finally:
        del _single[_absolute(path)]


def may_replace(path: Path, new: Path) -> bool:
    """Whether a complete new file takes the place of `path`; not needed if both are equal.

    Raises:
        RecipeError: `path` is a single output with other content, which is to be kept.
    """
    if not _single or _single.get(_absolute(path), True) or not os.path.lexists(path):
        return True
    if path.is_file() and not path.is_symlink() and filecmp.cmp(path, new, shallow=False):
        return False
    raise RecipeError(f"{path}: already exists with other content. Give another -o, or --overwrite.")


def enter(path: Path) -> None:
    """Put a file on the list of the output folder it lies in, if there is one; call it before each write.

    Raises:
        RecipeError: the file belongs to somebody else.
    """
    if not (_single and _absolute(path) in _single) and (found := ledger_above(path)):
        found[0].may_write(found[1])


def refuse_links(folder: Path) -> None:
    """Check a folder in an output folder into which another package writes.

    Raises:
        RecipeError: it, or a folder above it in the output folder, is a link.
    """
    if (found := ledger_above(folder)) and (link := found[0].foreign([f"{found[1]}/any"])):
        raise foreign_file(link)


def remove(path: Path) -> None:
    """Delete a file, if it is on the list of the output folder it lies in."""
    if found := ledger_above(path):
        found[0].remove(found[1])


@contextmanager
def _locked(path: Path, flags: int) -> Iterator[BinaryIO]:
    """The list, opened while no other process writes it."""
    try:
        descriptor = os.open(path, flags | NO_LINK, 0o666)
        mode = "rb" if flags == os.O_RDONLY else "r+b"
        with os.fdopen(descriptor, mode, buffering=0) as file:
            with suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(file, fcntl.LOCK_SH if flags == os.O_RDONLY else fcntl.LOCK_EX)
            yield file
    except OSError as error:
        raise cannot_write(path, error) from error
