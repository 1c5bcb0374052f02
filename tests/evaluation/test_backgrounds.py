"""Images behind the outlines are found in every layout that `evaluate --images` names."""

from __future__ import annotations

from pathlib import Path

import pytest

from mambamed.converters import convert
from mambamed.errors import DatasetError
from mambamed.evaluation.backgrounds import Backgrounds
from mambamed.preparation.prepare import prepare
from tests.preparation.test_prepare import make_dataset

CASES = frozenset({"p1", "p10", "BraTS-GLI-00001-000", "sub-01", "sub-02_ses-1"})


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("case", "files", "found"),
    [
        ("p1", ["p1.nii.gz", "p10.nii.gz"], "p1.nii.gz"),
        ("p1", ["imagesTs/p1_0001.nii.gz", "imagesTs/p1_0000.nii.gz"], "imagesTs/p1_0000.nii.gz"),
        ("p1", ["p1/seg.nii.gz", "p1/t1.nii.gz", "p10/flair.nii.gz"], "p1/t1.nii.gz"),
        ("p1", ["p10_T1.nii.gz", "deep/er/p1_T1.mha", "p1_label.nii.gz"], "deep/er/p1_T1.mha"),
        (
            "BraTS-GLI-00001-000",
            [f"BraTS-GLI-00001-000/BraTS-GLI-00001-000-{end}.nii.gz" for end in ("seg", "t1n", "t2f")],
            "BraTS-GLI-00001-000/BraTS-GLI-00001-000-t2f.nii.gz",
        ),
        ("sub-01", ["sub-01/anat/sub-01_T1w.nii.gz"], "sub-01/anat/sub-01_T1w.nii.gz"),
        (
            "sub-02_ses-1",
            ["sub-02/ses-1/anat/sub-02_ses-1_T1w.nii", "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii"],
            "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii",
        ),
        ("p1", ["p10.nii.gz", "other.nii.gz", "p1.txt", "p1-seg.nii.gz"], None),
    ],
)
def test_the_image_of_a_case_is_found(tmp_path, case, files, found) -> None:
    touch(tmp_path, *files)
    image = Backgrounds(tmp_path, tmp_path / "references", CASES).find(case, tmp_path / "x" / "r.nii.gz")
    assert image == (tmp_path / found if found else None)


def test_a_folder_without_any_image_of_the_cases_is_rejected(tmp_path) -> None:
    touch(tmp_path, "other.nii.gz")
    with pytest.raises(DatasetError, match=r"contains no image of the cases \(e\.g\. BraTS.*Expected CASE"):
        Backgrounds(tmp_path, tmp_path, CASES).check()
    with pytest.raises(DatasetError, match="no such folder"):
        Backgrounds(tmp_path / "absent", tmp_path, CASES).check()
    touch(tmp_path, "p1.nii.gz")
    assert Backgrounds(tmp_path, tmp_path, CASES).check() == sorted(CASES - {"p1"})
    assert Backgrounds(None, tmp_path, CASES).check() == []


def test_the_images_of_a_prepared_dataset_are_those_that_were_prepared(tmp_path) -> None:
    raw = make_dataset(tmp_path / "raw", cases=2)
    prepare(convert(raw), tmp_path / "prepared", workers=1, qc=False)
    reference = next((tmp_path / "prepared" / "references").iterdir())
    case = reference.name.removesuffix(".nii.gz")
    image = Backgrounds(None, tmp_path / "prepared", frozenset([case])).find(case, reference)
    assert image == raw / "imagesTr" / f"{case}_0000.nii.gz"


def test_images_in_the_folder_of_a_brats_reference_belong_to_its_case(tmp_path) -> None:
    case = "BraTS-GLI-00001-000"
    names = [f"{case}/{case}-{end}.nii.gz" for end in ("seg", "t1n", "t1c", "t2w", "t2f")]
    touch(tmp_path, *names, f"{case}/notes.txt")
    beside = Backgrounds(None, tmp_path, CASES).beside(case, tmp_path / names[0])
    assert {path.name for path in beside} == {Path(name).name for name in names[1:]}
