"""Dataset folders as their documentation describes them. Files are empty: a converter reads no voxel."""

import json
from pathlib import Path


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def document(folder: Path, content: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def msd(folder: Path, cases=("b", "a"), **changes) -> Path:
    pairs = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases]
    content = {"name": "Task", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior"}}
    document(folder, content | {"training": pairs} | changes)
    return touch(folder, *[f"{side}Tr/{c}.nii.gz" for side in ("images", "labels") for c in cases])


def nnunet(folder: Path, **changes) -> Path:
    content = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "liver": 1}}
    document(folder, content | changes)
    return touch(folder, *[f"imagesTr/c1_000{i}.nii.gz" for i in (0, 1)], "labelsTr/c1.nii.gz")


def brats(folder: Path, case: str, names: str, separator: str) -> Path:
    return touch(folder, *[f"{case}/{case}{separator}{name}.nii.gz" for name in names.split()])


def acdc(folder: Path, patient: str, group: str, es: int) -> None:
    """As the challenge's readme and folders have it."""
    names = [f"{patient}_frame{frame:02d}{end}.nii.gz" for frame in (1, es) for end in ("", "_gt")]
    touch(folder / patient, *names, f"{patient}_4d.nii.gz")
    facts = f"ED: 1\nES: {es}\nGroup: {group}\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"
    (folder / patient / "Info.cfg").write_text(facts)
