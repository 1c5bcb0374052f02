"""Which files of an input folder were read, and which were not."""

from __future__ import annotations

from mambamed.documents.base import Count, Model, Size
from mambamed.schema_errors import some_of

_KINDS_SHOWN = 8


class OtherFiles(Model):
    """Files of one kind that were not read."""

    kind: str
    """A suffix, e.g. ".txt", or what the files are, e.g. "unreadable DICOM"."""
    count: Size
    files: tuple[str, ...] = ()
    """The first of them, relative to the folder, if they look like data."""

    @property
    def text(self) -> str:
        """E.g. "11 .txt", "1 unreadable DICOM x.dcm"."""
        names = [*self.files, *[""] * (self.count - len(self.files))] if self.files else []
        plural = (
            "s" if self.count > 1 and self.kind.endswith(("image", "file", "link", "segmentation")) else ""
        )
        return f"{self.count} {self.kind}{plural}" + (f" {some_of(names, most=2)}" if names else "")


class Account(Model):
    """All files below an input folder, without hidden ones and those that mambamed wrote."""

    files_read: Count
    """Number of files that were read, or are named in the fault of a case."""
    other: tuple[OtherFiles, ...] = ()
    """Files that were not read, the most frequent kind first."""

    @property
    def line(self) -> str:
        """What was not read, e.g. "12 other files: 11 .txt, 1 unreadable DICOM x.dcm"; empty if nothing."""
        if not self.other:
            return ""
        count = sum(each.count for each in self.other)
        kinds = some_of((each.text for each in self.other), most=_KINDS_SHOWN)
        return f"{count} other file{'s' * (count > 1)}: {kinds}"
