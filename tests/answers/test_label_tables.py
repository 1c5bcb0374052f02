"""Names and colors of labels for other viewers: written with the masks, kept when `predict` resumes."""

import pytest

from mambamed.answers.label_tables import write_label_tables
from mambamed.api import evaluate, predict
from mambamed.errors import RecipeError
from tests.answers.stubs import blob, stub_run, write_blobs, write_nifti

# #E69F00 and #56B4E9 (Okabe & Ito 2008), the first two colors of the pictures, and #0072B2, the fifth
ITK_SNAP = """\
# ITK-SnAP Label Description File
# IDX -R- -G- -B- -A- VIS MSH LABEL
0 0 0 0 0 0 0 "Clear Label"
1 230 159 0 1 1 1 "one"
5 0 114 178 1 1 1 "two"
"""
SLICER = """\
# Color table file
# 3 values
0 background 0 0 0 0
1 one 230 159 0 255
5 two 0 114 178 255
"""


def go(run, images, output, **options):
    return predict([run.root], images, output, device="cpu", precision="fp32", tta="none", **options)


def tables_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("labels_*")}


def test_a_folder_of_nifti_masks_has_the_names_and_colors_of_its_labels(tmp_path) -> None:
    run = stub_run(tmp_path / "run")
    write_blobs(tmp_path / "images", 2)
    out = tmp_path / "out"
    go(run, tmp_path / "images", out)
    expected = {"labels_itksnap.txt": ITK_SNAP.encode(), "labels_slicer.ctbl": SLICER.encode()}
    assert tables_of(out) == expected
    assert set(expected) <= set((out / ".mambamed-files").read_text().split('"'))

    write_nifti(tmp_path / "images" / "case_2.nii.gz", blob())
    assert go(run, tmp_path / "images", out).kept == 2 and tables_of(out) == expected
    (out / "labels_slicer.ctbl").unlink()  # e.g. of an output of version 0.1.0
    assert go(run, tmp_path / "images", out).kept == 3 and tables_of(out) == expected
    assert evaluate(out, out).faults == ()

    (out / "labels_itksnap.txt").write_text(ITK_SNAP.replace("one", "mine"))
    with pytest.raises(RecipeError, match=r"labels_itksnap.txt: was changed after mambamed wrote it"):
        go(run, tmp_path / "images", out)


def test_no_label_files_where_a_mask_names_its_segments(tmp_path) -> None:
    run = stub_run(tmp_path / "run")
    write_nifti(tmp_path / "images" / "case.nii.gz", blob())
    go(run, tmp_path / "images", tmp_path / "segmentations", format="seg-nrrd")
    assert not tables_of(tmp_path / "segmentations")


def test_names_fit_into_formats_without_an_escape(tmp_path) -> None:
    """ITK-SNAP reads a name up to the next quotation mark, 3D Slicer up to the next space."""
    write_label_tables(tmp_path, {"background": 0, 'left "big"  lobe': 2, "grün": 1})
    assert (tmp_path / "labels_itksnap.txt").read_text(encoding="utf-8").splitlines()[3:] == [
        '1 230 159 0 1 1 1 "grün"',
        "2 86 180 233 1 1 1 \"left 'big'  lobe\"",
    ]
    assert (tmp_path / "labels_slicer.ctbl").read_text(encoding="utf-8").splitlines()[3:] == [
        "1 grün 230 159 0 255",
        '2 left_"big"_lobe 86 180 233 255',
    ]
