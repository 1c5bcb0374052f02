"""What the viewer shows: a subject with a table of cases, and the volumes and points of each case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mambamed.cases import ChannelFile
from mambamed.io.images import Image, read_image
from mambamed.io.points import Point
from mambamed.report.planes import color_of

Role = Literal["image", "reference", "prediction", "saliency"]
Cell = str | float | int | None


@dataclass(frozen=True)
class Volume:
    """One volume of a case; it is read when the page asks for it.

    Attributes:
        name: of a channel or a mask, for people.
        read: the volume, on its own grid.
        kind: of the intensities of an image: "ct", "mri", or "" if it is not known.
        source: file, for people.
    """

    name: str
    role: Role
    read: Callable[[], Image]
    kind: str = ""
    source: str = ""


@dataclass(frozen=True)
class PointPair:
    """A landmark: world positions in mm, RAS+; None if it is absent, or has no file that names it."""

    name: str
    reference: Point | None
    prediction: Point | None


@dataclass(frozen=True)
class CaseView:
    """A case.

    Attributes:
        facts: name -> text or number, shown below the pictures.
        remarks: what cannot be shown, and why.
    """

    volumes: Sequence[Volume] = ()
    points: Sequence[PointPair] = ()
    facts: Mapping[str, Cell] = field(default_factory=dict)
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Column:
    """A column of the table of cases; `better` is the direction of a score, "" for others."""

    title: str
    better: Literal["higher", "lower", ""] = ""


@dataclass(frozen=True)
class Subject:
    """What is looked at.

    Attributes:
        title: its path.
        kind: e.g. "evaluation".
        ids: of the cases, in the order of `rows`.
        columns, rows: the table of cases without the column of ids.
        open_case: index of a case -> the case; called once per click.
        labels: name -> label, of masks; names that are unknown are left out.
        sort_by: index of the column by which the worst cases come first; None: as listed.
        folder: next to which notes are saved.
        report: report.html of an evaluation.
        training: the progress of a run, see `viewer.training`; called every few seconds.
        renew: the subject as it is now: the same cases, and then those that have been added.
        patches: number of a fold -> a picture of its last validation patches, as PNG.
        inputs: files and folders that are looked at, which notes must not replace.
        faults: what could not be read, one line each.
    """

    title: str
    kind: str
    ids: Sequence[str]
    open_case: Callable[[int], CaseView]
    folder: Path
    columns: Sequence[Column] = ()
    rows: Sequence[Sequence[Cell]] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    sort_by: int | None = None
    report: Path | None = None
    training: Callable[[], Mapping[str, Any]] | None = None
    renew: Callable[[], Subject] | None = None
    patches: Callable[[int], bytes | None] | None = None
    inputs: Sequence[Path] = ()
    faults: Sequence[str] = ()


def channel_volume(name: str, file: ChannelFile, kind: str = "") -> Volume:
    """A channel of a case, as an image to show."""

    def read() -> Image:
        return read_image(file.path, file.volume, files=file.files)

    return Volume(name, "image", read, kind, str(file.path))


def label_entries(labels: Mapping[str, int]) -> list[dict[str, Any]]:
    """Value, name and color of every label except the background; the colors are those of the pictures."""
    return [
        {"value": value, "name": name, "color": color_of(value - 1)}
        for name, value in sorted(labels.items(), key=lambda entry: entry[1])
        if value > 0
    ]
