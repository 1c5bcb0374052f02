"""Find the images behind the outlines of the report."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mambamed.cases import ChannelFile
from mambamed.converters import brats, dicom, prepared
from mambamed.errors import DatasetError, MambamedError
from mambamed.io.images import SUFFIXES, case_id_of, is_slicer_segmentation

_MOST_CHANNELS = 10  # of names such as CASE_0003
_MODALITIES = ("t2f", "t1c", "t2w", "t1n")  # the first that a BraTS case has
_NO_IMAGES = {"seg", "gtv", "dseg", "label", "labels", "mask", "segmentation"}
_LAYOUTS = (
    "CASE.nii.gz or CASE_0000.nii.gz (also in imagesTr or imagesTs), BraTS case folders, a folder per case, "
    "BIDS, or DICOM series"
)


@dataclass(frozen=True)
class Backgrounds:
    """Images of cases.

    Attributes:
        images: folder of `--images`; None: images are those that a prepared dataset was made from, or are
            searched next to the references.
        references: as given to `evaluate`.
        cases: ids of all cases, of which none is a part of another's name.
    """

    images: Path | None
    references: Path
    cases: frozenset[str]

    def check(self) -> list[str]:
        """The cases without an image in `images`; none if images were not given.

        Raises:
            DatasetError: no such folder, or it has no image of any case.
        """
        if self.images is None:
            return []
        if not self.images.is_dir():
            raise DatasetError(f"--images {self.images}: no such folder. Check the path.")
        missing = sorted(case for case in self.cases if self.find(case, self.references) is None)
        if len(missing) == len(self.cases):
            raise DatasetError(
                f"--images {self.images}: contains no image of the cases (e.g. {missing[0]}). "
                f"Expected {_LAYOUTS}."
            )
        return missing

    def find(self, case: str, reference: Path) -> Path | None:
        """The image of a case, or None; `reference` is its label map."""
        return next((path for path in self._candidates(case, reference) if path.exists()), None)

    def all(self, case: str, reference: Path) -> list[Path]:
        """All images of a case, e.g. one per channel; `reference` is its label map."""
        found = dict.fromkeys(path for path in self._candidates(case, reference) if path.exists())
        return list(found)

    def beside(self, case: str, reference: Path) -> list[Path]:
        """The images of a BraTS case in the folder of its reference."""
        return [] if reference.parent == self.references else _modalities(reference.parent, case)

    def _candidates(self, case: str, reference: Path) -> Iterator[Path]:
        if self.images is None:
            yield from map(_place, self._prepared.get(case, ()))
            yield from self.beside(case, reference)
            yield from self._by_name((reference.parent.parent / n for n in ("imagesTr", "imagesTs")), case)
            return
        yield from self._by_name((self.images, self.images / "imagesTr", self.images / "imagesTs"), case)
        yield from _modalities(self.images, case)
        yield from self._nested.get(case, ())
        if case in self._series:
            yield self._series[case]

    def _by_name(self, folders: Iterable[Path], case: str) -> Iterator[Path]:
        numbered = [f"_{n:04d}" for n in range(_MOST_CHANNELS) if f"{case}_{n:04d}" not in self.cases]
        for folder in folders:
            for middle in ("", *numbered):
                yield from (folder / f"{case}{middle}{end}" for end in SUFFIXES)

    @functools.cached_property
    def _prepared(self) -> dict[str, tuple[ChannelFile, ...]]:
        return prepared.images_of(self.references)

    @functools.cached_property
    def _nested(self) -> dict[str, list[Path]]:
        """Images at any depth whose name begins with the case, or that lie in a folder of its name."""
        found: dict[str, list[Path]] = {}
        assert self.images is not None
        for path in sorted(self.images.rglob("*")):
            name = case_id_of(path)
            if (
                name is None
                or is_slicer_segmentation(path)
                or name.replace("-", "_").rpartition("_")[2].lower() in _NO_IMAGES
            ):
                continue
            folders = path.relative_to(self.images).parts[:-1]
            begins = [c for c in self._beginnings(name) if c in self.cases]
            owners = begins[-1:] or [folder for folder in folders if folder in self.cases]
            for case in owners:
                found.setdefault(case, []).append(path)
        return found

    @staticmethod
    def _beginnings(name: str) -> list[str]:
        """The beginnings of a name that end before "_" or "-", the whole name last."""
        return [name[:k] for k, letter in enumerate(name) if letter in "_-"] + [name]

    @functools.cached_property
    def _series(self) -> dict[str, Path]:
        assert self.images is not None
        if not dicom.recognizes(self.images):
            return {}
        return {case.id: _place(case.channels[0]) for case, _ in dicom.series_cases(self.images)}


def _place(series: ChannelFile) -> Path:
    """A path that stands for a series: one of its files, or the folder that holds them all."""
    folders = {file.parent for file in series.files}
    return series.path if len(folders) < 2 else Path(os.path.commonpath(folders))


def _modalities(folder: Path, case: str) -> list[Path]:
    found: dict[str, Path] = {}
    with suppress(MambamedError):  # names that are no BraTS names
        found = brats.case_files(folder).get(case, {})
    return [found[name] for name in _MODALITIES if name in found]
