"""Folders of 3D Slicer: images and their segmentations, without a description of the dataset.

```
scans/  p01.nrrd  p01.seg.nrrd  p02.nii.gz  p02.seg.nrrd      (or images/p01.nrrd  labels/p01.seg.nrrd)
scans/  p01/CT.nrrd  p01/Segmentation.seg.nrrd                 (one image and one segmentation per folder)
```

The names of the segments are the labels.
"""

from __future__ import annotations

from pathlib import Path

from mambamed.cases import Case, ChannelFile
from mambamed.converters.nnunet import channel_files
from mambamed.converters.options import ConvertOptions, kind_of_channel
from mambamed.converters.segmented import named_labels
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.io.images import images_by_id, is_slicer_segmentation, labels_by_id

_FOLDERS = (("images", "labels"), ("imagesTr", "labelsTr"), ("images", "segmentations"))


def recognizes(source: Path) -> bool:
    """Whether there are segmentations in the folder, next to images or in a folder per case."""
    return source.is_dir() and (_folders(source) is not None or bool(_case_folders(source)))


def convert(source: Path, options: ConvertOptions) -> RawDataset:
    """The images and segmentations of one name, or of one folder.

    Raises DatasetError: two files of one case, or segments of different cases contradict each other.
    """
    places = _folders(source)
    cases = _by_name(*places) if places else [_of_folder(folder) for folder in _case_folders(source)]
    width = max((len(case.channels) for case in cases), default=1)
    names = ["image"] if width < 2 else [f"channel_{number}" for number in range(width)]
    wanted = dict(options.channels or {})
    channels = wanted if len(wanted) == len(names) else {name: kind_of_channel(name) for name in names}
    labels, regions = dict(options.labels or {}), {}
    if not labels:
        labels, regions = named_labels([case for case in cases if not case.fault], options.progress)
    manifest = DatasetManifest.of(
        name=source.resolve().name, source=source, channels=channels, labels=labels, regions=regions
    )
    return RawDataset(manifest, sorted(cases, key=lambda case: case.id))


def _folders(source: Path) -> tuple[Path, Path] | None:
    """The folders of images and of segmentations, which may be the same."""
    pairs = [(source / images, source / labels) for images, labels in _FOLDERS]
    for images, labels in [*pairs, (source, source)]:
        if images.is_dir() and labels.is_dir() and any(map(is_slicer_segmentation, labels.iterdir())):
            return images, labels
    return None


def _case_folders(source: Path) -> list[Path]:
    folders = (path for path in sorted(source.iterdir()) if path.is_dir() and not path.name.startswith("."))
    return [folder for folder in folders if any(map(is_slicer_segmentation, folder.iterdir()))]


def _by_name(images: Path, labels: Path) -> list[Case]:
    found = channel_files(images)
    own = labels.iterdir() if images != labels else filter(is_slicer_segmentation, labels.iterdir())
    masks = labels_by_id(own, labels)
    width = max((max(files) + 1 for files in found.values()), default=1)
    cases = []
    for case_id, files in sorted(found.items()):
        fault = None
        if missing := [f"{case_id}_{number:04d}" for number in range(width) if number not in files]:
            fault = f"{case_id}: channel {', '.join(missing)} is missing in {images}. Add it."
        order = tuple(ChannelFile(path) for _, path in sorted(files.items()))
        cases.append(Case.found(case_id, order, label=masks.get(case_id), fault=fault))
    for case_id, path in masks.items():
        if case_id not in found:
            fault = f"{case_id}: no image for the label {path}. Add it."
            cases.append(Case.found(case_id, (), label=path, fault=fault))
    return cases


def _of_folder(folder: Path) -> Case:
    images = list(images_by_id(folder.iterdir(), folder).values())
    masks = sorted(filter(is_slicer_segmentation, folder.iterdir()))
    fault = None
    if len(images) != 1 or len(masks) != 1:
        fault = (
            f"{folder}: {len(images)} images and {len(masks)} segmentations, expected one of each. Name both "
            "by case, or write a list of cases."
        )
    return Case.found(folder.name, tuple(map(ChannelFile, images[:1])), label=masks[0], fault=fault)
