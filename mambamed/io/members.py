"""Files that lie uncompressed in a zip, read where they are: nothing is unpacked.

The archive may come from a stranger: what it claims is compared with its size before anything of it is read.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mambamed.errors import ModelError

_LOCAL_HEADER = 30  # bytes before the name of a member, which stands before its content
# what zipfile raises of an archive that cannot be; RuntimeError: encrypted, packed in an unknown way
_DAMAGE = (zipfile.BadZipFile, EOFError, ValueError, RuntimeError)


@dataclass(frozen=True)
class Member:
    """A file in an archive; as text "ARCHIVE: NAME", for messages.

    Attributes:
        archive: the zip.
        name: of the member.
        start, size: where its content lies in the archive, bytes.
        crc: CRC-32 of the content, as the archive states it.
        stamp: of the archive when it was checked.
    """

    archive: Path
    name: str
    start: int
    size: int
    crc: int
    stamp: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.archive}: {self.name}"

    def read_bytes(self) -> bytes:
        """The content; errors are those of `opened`."""
        with opened(self) as (file, size):
            return file.read(size)


Source = Path | Member


@contextmanager
def opened(source: Source) -> Iterator[tuple[BinaryIO, int]]:
    """Open for reading: a file at the first byte of the content, and the number of its bytes.

    Raises:
        ModelError: a member whose archive was changed since it was checked.
        OSError: the file cannot be read.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size
        return
    with source.archive.open("rb") as file:
        if _stamp(file) != source.stamp:
            raise ModelError(f"{source.archive}: was changed while it was read. Run the command again.")
        file.seek(source.start)
        yield file, source.size


def members_of(archive: Path, kind: str, most: int, remedy: str) -> dict[str, Member]:
    """The members of a zip, by name, in its order.

    Args:
        archive: the file.
        kind: of file that it is to be, for messages.
        most: number of members that it may have.
        remedy: what to do with a file that is rejected; a full sentence.

    Raises:
        ModelError: it is no zip, or damaged, or a member is compressed, encrypted, a link, larger than the
            archive, or named twice.
    """
    try:
        with archive.open("rb") as file, zipfile.ZipFile(file) as content:
            infos, stamp = content.infolist(), _stamp(file)
            if len(infos) > most:
                raise ModelError(f"{archive}: has {len(infos)} members, expected at most {most}. {remedy}")
            members: dict[str, Member] = {}
            left = stamp[0]
            for info in infos:
                name = info.orig_filename
                start = _start(file, info.header_offset, left=stamp[0])
                left -= info.file_size
                if fact := _fault(info, start, left, stamp[0], name in members):
                    raise ModelError(f"{archive}: member {name!r} {fact}. {remedy}")
                members[name] = Member(archive, name, start, info.file_size, info.CRC, stamp)
            return members
    except OSError as error:
        raise ModelError(f"{archive}: cannot be read ({error.strerror or error}). Check the path.") from error
    except _DAMAGE as error:
        raise ModelError(f"{archive}: is not a complete {kind} ({error}). {remedy}") from error


def _fault(info: zipfile.ZipInfo, start: int, left: int, total: int, twice: bool) -> str:
    if twice:
        return "occurs twice"
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
        return "is compressed or encrypted"
    if info.external_attr >> 28 == 0xA:
        return "is a link"
    if info.file_size != info.compress_size or left < 0:
        return f"claims {info.file_size} bytes in a file of {total}"
    if start < 0 or start + info.file_size > total:
        return "does not lie in the file"
    return ""


def _start(file: BinaryIO, header: int, left: int) -> int:
    """Where the content of a member begins; -1 where no member is."""
    if not 0 <= header <= left - _LOCAL_HEADER:
        return -1
    file.seek(header)
    local = file.read(_LOCAL_HEADER)
    lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    return header + _LOCAL_HEADER + lengths if local[:4] == b"PK\3\4" else -1


def _stamp(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ino
