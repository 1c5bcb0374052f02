"""A case: one visit of one subject, and its id."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mambamed.errors import DatasetError

BACKGROUND = "background"
# What to do about two files or rows of one case: nothing of value may be lost.
TWO_OF_ONE_ID = "If they are two visits, give each its own id; if one is a copy, move it elsewhere."
ROWS_OF_ONE_ID = "If they are two visits, give each its own id; otherwise, merge the rows."
_FORMULA = ("=", "+", "@")  # "-" is allowed: tables are written with an apostrophe before it
_BIDS = re.compile(r"sub-[A-Za-z0-9]+(?=_|$)")
IGNORE = "ignore"  # voxels that nobody has labeled: neither learned nor scored


@dataclass(frozen=True)
class ChannelFile:
    """The file of one channel of a case.

    Attributes:
        path: an image; one file of a DICOM series, or its folder.
        volume: index along the fourth axis of a 4-D file.
        files: of a DICOM series all files, if they are known; they may lie in several folders.
    """

    path: Path
    volume: int | None = None
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class SegmentNames:
    """What the named segments of a segmentation are in a label map.

    Attributes:
        labels: label name -> value.
        regions: region name -> the labels it unites.
        spelled: name in a file -> name of the label or region, where the spelling differs.
    """

    labels: Mapping[str, int] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    spelled: Mapping[str, str] = field(default_factory=dict)

    def values_of(self, names: frozenset[str], among: frozenset[str]) -> list[int]:
        """The labels of voxels that are in these segments and in no other of the file.

        Args:
            names: the segments that hold the voxels.
            among: all segments of the file.

        >>> brats = SegmentNames({"NCR": 1, "ED": 2, "ET": 3}, {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)})
        >>> brats.values_of(frozenset({"WT", "TC"}), frozenset({"WT", "TC", "ET"}))
        [1]
        """
        names, among = (frozenset(self.spelled.get(n, n) for n in given) for given in (names, among))
        fitting = []
        for label, value in self.labels.items():
            members = {region for region, values in self.regions.items() if value in values}
            if label not in self.regions:
                members.add(label)
            if names <= members and members & among <= names:
                fitting.append(value)
        return fitting


@dataclass(frozen=True)
class Case:
    """One visit of one subject.

    Attributes:
        id: unique in its dataset; names the output files.
        channels: one file per channel, in the order of the manifest.
        label: label map, or a segmentation with named segments; None for prediction.
        segment_names: what the names of these segments are in a label map.
        points: landmark name -> world position, mm, RAS+, or None if the case lacks it; landmarks that are
            not annotated are left out. None without landmarks.
        class_name: None without classes.
        subject: the person; cases of one subject stay in one part of a split. Default: that of a BIDS id,
            else the id.
        covariates: name -> text, as in the table of the dataset, e.g. age: "71.5".
        fault: why the case cannot be used, if this is known before its images are read.
        missing: position -> name of the channels that have no file; `channels` are the others. If this is all
            that is wrong, `fault` says it.
    """

    id: str
    channels: tuple[ChannelFile, ...]
    label: Path | None = None
    points: Mapping[str, tuple[float, float, float] | None] | None = None
    class_name: str | None = None
    subject: str = ""
    covariates: Mapping[str, str] = field(default_factory=dict)
    fault: str | None = None
    segment_names: SegmentNames | None = None
    missing: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_case_id(self.id)
        if not self.subject:
            object.__setattr__(self, "subject", person_of(self.id))

    def named(self, channels: Iterable[str]) -> list[str]:
        """The names of the channels that have a file, in the order of `channels`; all are given."""
        return [name for k, name in enumerate(channels) if k not in self.missing]

    @classmethod
    def found(cls, name: str, channels: tuple[ChannelFile, ...], **known: Any) -> Case:
        """A case named by a folder or table; an invalid name is a fault of this case only.

        Its id is then the name without the invalid characters, plus a digest of the name.
        """
        try:
            check_case_id(name)
        except DatasetError as error:
            known["fault"] = str(error)
            harmless = "".join(c if c.isalnum() or c in "._" else "_" for c in name)[:100].lstrip("._")
            name = f"{harmless}_{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"
        return cls(name, channels, **known)


def person_of(case_id: str) -> str:
    """The person of a case with an id of BIDS or CAPS, else the case itself.

    >>> person_of("sub-01_ses-M00_T1w"), person_of("sub-01"), person_of("patient_1")
    ('sub-01', 'sub-01', 'patient_1')
    """
    match = _BIDS.match(case_id)
    return match[0] if match else case_id


def check_case_id(case_id: str) -> None:
    """Reject an id that is not a safe file name, log entry or table cell.

    Raises:
        DatasetError: the id is empty, too long, begins as a formula does, is a dot name, or has a path
            separator, a control character, or bytes that are not UTF-8.

    >>> check_case_id("BRATS_001")
    >>> check_case_id("../evil")
    Traceback (most recent call last):
    ...
    mambamed.errors.DatasetError: case id '../evil': holds a path separator. Rename the case.
    """
    fact = ""
    if not case_id or case_id in {".", ".."}:
        fact = "is not a file name"
    elif "/" in case_id or "\\" in case_id:
        fact = "holds a path separator"
    elif any("\ud800" <= letter <= "\udfff" for letter in case_id):
        fact = "is not UTF-8"
    elif not case_id.isprintable():
        fact = "holds a control character"
    elif len(case_id.encode("utf-8", "replace")) > 200:
        fact = "is longer than 200 bytes"
    elif case_id[0] in _FORMULA:
        fact = "is a formula to a spreadsheet"
    if fact:
        raise DatasetError(f"case id {case_id!r}: {fact}. Rename the case.")


def differ_in_case_alone(ids: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of ids that are the same file name on a case-insensitive file system.

    >>> differ_in_case_alone(["case1", "b", "CASE1"])
    [('case1', 'CASE1')]
    """
    first: dict[str, str] = {}
    pairs = []
    for case_id in ids:
        other = first.setdefault(case_id.casefold(), case_id)
        if other != case_id:
            pairs.append((other, case_id))
    return pairs
