"""The files of a BIDS derivative dataset: names, descriptions, tables.

| task | files |
|---|---|
| segmentation | `sub-01/anat/sub-01_seg-LABEL_dseg.nii.gz` and `.json`; the table `seg-LABEL_dseg.tsv` |
| landmarks | the same: each is one voxel, and its place is in the `.json`, `AnatomicalLandmarkCoordinates` |
| classification | `sub-01/anat/sub-01_desc-LABEL_class.json`, not a file of BIDS: `.bidsignore` lists it |

Classes, and measures of landmarks, are columns of `participants.tsv`, or of `sub-01/sub-01_sessions.tsv` for
images of a session.

Source: the BIDS specification 1.10, "Common image-derived labels", "Modality agnostic files".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import mambamed
from mambamed.converters.bids_inputs import BidsImage, BidsSession
from mambamed.documents.foreign.bids import (
    Column,
    Columns,
    DerivativeDescription,
    Generator,
    Sidecar,
    SourceDescription,
)
from mambamed.documents.prediction import PointFile
from mambamed.errors import DatasetError
from mambamed.io.atomic import write_bytes, write_text
from mambamed.io.images import read_header, write_image
from mambamed.io.json_files import write_json
from mambamed.io.tables import cell_text, write_tsv
from mambamed.io.text_files import read_text
from mambamed.report.planes import color_of

BIDS_VERSION = "1.10.0"
DESCRIPTION, IGNORED, README = "dataset_description.json", ".bidsignore", "README"
_IGNORED_LINE = "*_class.json"
_RAW = "raw"  # name of the source in BIDS URIs


def label_of(name: str) -> str:
    """Letters and digits of a name, of which a label of BIDS consists.

    >>> label_of("hippocampus_nnmamba")
    'hippocampusnnmamba'
    """
    return re.sub(r"[^a-zA-Z0-9]", "", name) or "model"


def sidecar_of(file: str) -> str:
    """The JSON file next to a derivative; that of landmarks is one itself."""
    return file.replace("_dseg.nii.gz", "_dseg.json")


@dataclass(frozen=True)
class Derivatives:
    """The derivatives of one model in a dataset.

    Attributes:
        source: the dataset that was read.
        root: the folder of the derivatives.
        label: names the files of this model.
        made_by: what was run, for `GeneratedBy`.
        written: names of the files that were written and that nobody else should change.
    """

    source: Path
    root: Path
    label: str
    made_by: str
    written: list[str] = field(default_factory=list)

    def at(self, name: str) -> Path:
        """A file, relative to the root, that is about to be written."""
        self.written.append(name)
        return self.root / name

    def file(self, session: BidsSession, images: Sequence[BidsImage], task: str) -> str:
        """The derivative of a session, relative to the root; its entities are those that all images share."""
        first = images[0]
        shared = {
            key: label
            for key, label in first.entities.items()
            if all(image.entities.get(key) == label for image in images)
        }
        words = [f"{key}-{label}" for key, label in shared.items()]
        is_class = task == "classification"
        end = f"desc-{self.label}_class.json" if is_class else f"seg-{self.label}_dseg.nii.gz"
        folder = [session.subject, *([session.session] if session.session else []), first.path.parent.name]
        return "/".join([*folder, "_".join([*words, end])])

    def files_of_dataset(self, task: str) -> list[str]:
        """The files that are about all sessions, relative to the root."""
        return [DESCRIPTION, README, IGNORED if task == "classification" else f"seg-{self.label}_dseg.tsv"]

    def describe(self, described: SourceDescription | None) -> None:
        """Write `dataset_description.json` and `README`; what a person or another model added is kept."""
        path = self.root / DESCRIPTION
        generator = Generator(Name="mambamed", Version=mambamed.__version__, Description=self.made_by)
        doi = {"DOI": described.DatasetDOI} if described and described.DatasetDOI else {}
        link = Path(os.path.relpath(self.source.resolve(), self.root.resolve())).as_posix()
        known = DerivativeDescription.read(path) if path.is_file() else None
        generators = known.GeneratedBy if known else ()
        if generator not in generators:
            generators = (*generators, generator)
        sources = known.SourceDatasets if known else ()
        if doi and doi not in sources:
            sources = (*sources, doi)
        facts = {
            "GeneratedBy": [each.model_dump(exclude_none=True) for each in generators],
            **({"SourceDatasets": list(sources)} if sources else {}),
            "DatasetLinks": {**(known.DatasetLinks if known else {}), _RAW: link},
        }
        name = described.Name if described else self.source.resolve().name
        first = {
            "Name": f"mambamed: {name}",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            **({"License": described.License} if described and described.License else {}),
        }
        write_json(path, {**first, **(known.to_json() if known else {}), **facts})
        if not (self.root / README).exists():
            write_text(self.root / README, _README)

    def write_labels(self, names: Mapping[str, int]) -> None:
        """Write the table of labels, `seg-LABEL_dseg.tsv`, which holds for all masks of this model."""
        rows = [[value, name, color_of(value - 1).lower()] for name, value in names.items()]
        write_tsv(self.at(f"seg-{self.label}_dseg.tsv"), ["index", "name", "color"], rows)

    def write_mask(self, name: str, mask: Path, images: Iterable[BidsImage]) -> None:
        """Write a mask that `predict` wrote, and its sidecar."""
        target = self.at(name)
        if not target.is_file() or target.read_bytes() != mask.read_bytes():
            write_bytes(target, mask.read_bytes())
        self._sidecar(f"Labels predicted by {self.made_by}.", images).write(self.at(sidecar_of(name)))

    def write_landmarks(self, name: str, points: PointFile, images: Sequence[BidsImage]) -> None:
        """Write the landmarks of an image: a mask in which each is one voxel, and its sidecar."""
        like = read_header(images[0].path)
        labels = np.zeros(like.shape, np.uint16)
        for value, place in enumerate(points.voxels.values(), start=1):
            voxel = np.rint(place or (-1, -1, -1)).astype(int)
            if ((voxel >= 0) & (voxel < like.shape)).all():
                labels[tuple(voxel)] = value
        write_image(self.at(name), labels, like=like)
        sidecar = self._sidecar(f"Landmarks, placed by {self.made_by}; each is one voxel.", images).changed(
            AnatomicalLandmarkCoordinates={n: place for n, place in points.voxels.items() if place},
            LandmarkCoordinatesWorld={n: place for n, place in points.points.items() if place},
            LandmarkScores=points.scores,
            LandmarksAbsent=tuple(n for n, place in points.points.items() if place is None),
        )
        sidecar.write(self.at(sidecar_of(name)))

    def write_class(
        self, name: str, label: str, probabilities: Mapping[str, float], images: Iterable[BidsImage]
    ) -> None:
        """Write the class of a session."""
        sidecar = self._sidecar(f"Class predicted by {self.made_by}.", images).changed(
            Class=label, ClassProbabilities=dict(probabilities)
        )
        sidecar.write(self.at(name))
        known = read_text(self.root / IGNORED).splitlines() if (self.root / IGNORED).is_file() else []
        if _IGNORED_LINE not in known:
            write_text(self.root / IGNORED, "\n".join([*known, _IGNORED_LINE]) + "\n")

    def add_columns(
        self, session: BidsSession, values: Mapping[str, float | str | None], columns: Mapping[str, Column]
    ) -> None:
        """Add columns to the table of participants, or of sessions, and describe them; other cells are kept.

        Call it while holding a lock, since other processes add their own rows.

        Args:
            session: whose row is written.
            values: column -> value.
            columns: column -> its description; the names get the label of the model as their first word.
        """
        people, visits = self._tables(session)
        _put_row(people, "participant_id", session.subject, {})
        table, described, key, name = people, "participants.json", "participant_id", session.subject
        if visits is not None and session.session:
            table, described, key, name = visits, "sessions.json", "session_id", session.session
        _put_row(table, key, name, {f"{self.label}_{column}": values.get(column) for column in columns})
        path = self.root / described
        known = Columns.read(path).root if path.is_file() else {}
        new = {f"{self.label}_{column}": each for column, each in columns.items()}
        if {**known, **new} != known:
            write_json(path, {column: each.to_json() for column, each in {**known, **new}.items()})

    def check_tables(self, session: BidsSession) -> None:
        """Read the tables of a session, before any work.

        Raises DatasetError: somebody changed one so that no column can be added.
        """
        people, visits = self._tables(session)
        for path, key in ((people, "participant_id"), (visits, "session_id")):
            if path is not None and path.is_file():
                read_table(path, key)

    def _tables(self, session: BidsSession) -> tuple[Path, Path | None]:
        """The table of participants, and that of the sessions of this one."""
        visits = self.root / session.subject / f"{session.subject}_sessions.tsv"
        return self.root / "participants.tsv", visits if session.session else None

    def _sidecar(self, text: str, images: Iterable[BidsImage]) -> Sidecar:
        paths = (image.path.relative_to(self.source).as_posix() for image in images)
        sources = tuple(f"bids:{_RAW}:{path}" for path in paths)
        return Sidecar(Description=text, Sources=sources, SpatialReference=sources[0], Manual=False)


def _put_row(path: Path, key: str, name: str, values: Mapping[str, float | str | None]) -> None:
    """Set cells of one row of a table of BIDS; all others stay as they are, in their order."""
    known = path.is_file()
    headers, rows = read_table(path, key) if known else ([key], [])
    new = [header for header in values if header not in headers]
    rows = [[*row, *("n/a" for _ in new)] for row in rows]
    before, headers = [list(row) for row in rows], [*headers, *new]
    if not (own := [row for row in rows if row[headers.index(key)] == name]):
        own = [[name if header == key else "n/a" for header in headers]]
        rows += own
    for row in own:
        for header, value in values.items():
            row[headers.index(header)] = cell_text(value) or "n/a"
    if not known or new or rows != before:
        write_text(path, "".join("\t".join(line) + "\n" for line in (headers, *rows)))


def read_table(path: Path, key: str) -> tuple[list[str], list[list[str]]]:
    """The headers and rows of a table of BIDS, whose cells are kept as they are, also with quotes.

    Raises DatasetError: it has no column `key`, or a row of another length.
    """
    headers, *rows = [line.split("\t") for line in read_text(path).split("\n") if line.strip()] or [[]]
    if key not in headers:
        raise DatasetError(f"{path}: has no column {key}. Add it, or move the file.")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(headers):
            raise DatasetError(
                f"{path}: row {number}: expected {len(headers)} cells, got {len(row)}. Correct the row."
            )
    return headers, rows


_README = """Derivatives made by mambamed (research software, not a medical device).

dataset_description.json lists the models that ran (GeneratedBy) and where the images are (DatasetLinks).
*_dseg.nii.gz are label maps, or landmarks of one voxel each, whose places are in the .json next to them
(AnatomicalLandmarkCoordinates, in voxels of the image); *_dseg.tsv names the labels. *_class.json are
predicted classes. The folder .mambamed holds what mambamed needs to continue.
"""
