"""ACDC: both ventricles and the myocardium in cine MRI, two phases of the heart per patient.

```
training/ patient001/ Info.cfg  patient001_frame01.nii.gz  patient001_frame01_gt.nii.gz  patient001_frame12...
```

`Info.cfg` contains the frames of end-diastole (ED) and end-systole (ES) and the patient's group. Each phase
is a case, `patient001_frame01`; the patient is its subject, the group its class.

Source: Bernard et al. 2018, IEEE Trans. Med. Imaging 37:2514; the challenge's readme.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mambamed.cases import Case, ChannelFile
from mambamed.converters.options import ConvertOptions
from mambamed.documents.foreign.acdc import AcdcInfo
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.errors import DatasetError
from mambamed.io.images import SUFFIXES

_DOCUMENT = "Info.cfg"
_PHASES: tuple[Literal["ED", "ES"], ...] = ("ED", "ES")
_LABELS = {"background": 0, "RV": 1, "MLV": 2, "LVC": 3}


def recognizes(source: Path) -> bool:
    """Whether there are folders of patients with an `Info.cfg`."""
    return bool(_patients(source))


def convert(source: Path, options: ConvertOptions) -> RawDataset:
    """Both phases of every patient, only of `training` if there is such a folder."""
    cases = [case for folder in _patients(source) for case in _phases(folder)]
    groups = tuple(sorted({case.class_name for case in cases if case.class_name}))
    manifest = DatasetManifest.of(
        name=source.resolve().name,
        source=source,
        channels=options.one_channel("cineMRI", "mri"),
        labels=_LABELS,
        # The group is the class if every patient has one.
        classes=groups if all(case.class_name for case in cases) and len(groups) > 1 else (),
    )
    documents = tuple(folder / _DOCUMENT for folder in _patients(source))
    return RawDataset(manifest, sorted(cases, key=lambda case: case.id), documents=documents)


def _patients(source: Path) -> list[Path]:
    for folder in (source / "training", source / "database" / "training", source):
        found = sorted(file.parent for file in folder.glob(f"*/{_DOCUMENT}"))
        if found:
            return found
    return []


def _phases(folder: Path) -> list[Case]:
    patient, file = folder.name, folder / _DOCUMENT
    cases = []
    for phase in _PHASES:
        try:
            info = AcdcInfo.read(file)
            case_id = f"{patient}_frame{info.frame(phase, file):02d}"
        except DatasetError as error:
            cases.append(Case(f"{patient}_{phase}", (), subject=patient, fault=f"{patient}: {error}"))
            continue
        image, label = _file(folder, case_id), _file(folder, f"{case_id}_gt")
        lacking = [name for name, path in ((case_id, image), (f"{case_id}_gt", label)) if path is None]
        sizes = {"height": info.Height, "weight": info.Weight}
        cases.append(
            Case(
                case_id,
                (ChannelFile(image),) if image else (),
                label,
                class_name=info.Group or None,
                subject=patient,
                covariates={"phase": phase} | {key: text for key, text in sizes.items() if text is not None},
                fault=f"{case_id}: {', '.join(lacking)} is missing in {folder}. Add it." if lacking else None,
            )
        )
    return cases


def _file(folder: Path, name: str) -> Path | None:
    paths = (folder / (name + suffix) for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)
