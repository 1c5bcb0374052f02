"""A BIDS App: derivatives that the official validator accepts, and whose content is what `predict` writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mambamed import bids, predict
from mambamed.answers.bids_derivatives import Derivatives
from mambamed.converters.bids_inputs import find_sessions
from mambamed.documents.foreign.bids import Column
from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import DatasetError, RecipeError
from mambamed.io.tables import read_csv
from tests.answers.stubs import MANIFEST, blob, stub_run, write_nifti
from tests.faults.in_process import call
from tests.faults.small_jobs import untrained_run

QUICK = {"device": "cpu", "precision": "fp32", "tta": "none"}
T1 = MANIFEST.changed(channels={"T1": "mri"})


def write_dataset(root: Path, names: list[str]) -> Path:
    """A BIDS dataset with an image of each name, e.g. sub-01_ses-a_T1w."""
    for number, name in enumerate(names):
        parts = [word for word in name.split("_") if word.startswith(("sub-", "ses-"))]
        write_nifti(root.joinpath(*parts, "anat", f"{name}.nii.gz"), blob(seed=number))
    description = {"Name": "made", "BIDSVersion": "1.10.0", "DatasetDOI": "doi:10.0/x", "License": "CC0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


def errors_of(dataset: Path) -> list[str]:
    """What the BIDS validator finds wrong; it is installed with the extra `test`."""
    beside = Path(sys.executable).parent
    program = shutil.which("bids-validator-deno", path=str(beside)) or shutil.which("bids-validator-deno")
    if program is None:
        pytest.skip("bids-validator-deno is not installed (pip install bids-validator-deno)")
    done = subprocess.run([program, str(dataset), "--format", "json"], capture_output=True, text=True)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert any(issue["severity"] == "warning" for issue in issues), "it has looked at the dataset"
    return [f"{i['code']} {i.get('location', '')}" for i in issues if i["severity"] == "error"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return stub_run(tmp_path_factory.mktemp("bids") / "run", manifest=T1).root


def test_masks_are_derivatives_that_the_validator_accepts(model, tmp_path) -> None:
    raw = write_dataset(
        tmp_path / "raw", ["sub-01_ses-a_acq-hi_T1w", "sub-01_ses-b_acq-hi_T1w", "sub-02_T1w"]
    )
    out = raw / "derivatives" / "mambamed"
    summary = bids(raw, out, "participant", model, **QUICK)
    assert summary.cases == ("sub-01_ses-a", "sub-01_ses-b", "sub-02") and summary.channels == {"T1": "T1w"}
    mask = out / "sub-01" / "ses-b" / "anat" / "sub-01_ses-b_acq-hi_seg-stub_dseg.nii.gz"
    image = raw / "sub-01" / "ses-b" / "anat" / "sub-01_ses-b_acq-hi_T1w.nii.gz"
    predict(model, image, tmp_path / "alone.nii.gz", **QUICK)
    same = [np.asarray(nib.load(path).dataobj) for path in (mask, tmp_path / "alone.nii.gz")]
    assert np.array_equal(*same) and set(np.unique(same[0])) == {0, 1, 5}
    assert (out / "seg-stub_dseg.tsv").read_text().splitlines()[:2] == [
        "index\tname\tcolor",
        "1\tone\t#e69f00",
    ]
    sidecar = json.loads(mask.with_name("sub-01_ses-b_acq-hi_seg-stub_dseg.json").read_text())
    assert sidecar["Sources"] == ["bids:raw:sub-01/ses-b/anat/sub-01_ses-b_acq-hi_T1w.nii.gz"]
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["SourceDatasets"] == [{"DOI": "doi:10.0/x"}]
    assert description["DatasetLinks"] == {"raw": "../.."}
    assert description["GeneratedBy"][0]["Name"] == "mambamed"
    assert errors_of(out) == [] and errors_of(raw) == []
    with (out / "sub-02" / "x_dseg.nii.gz").open(
        "wb"
    ) as file:  # the validator does find names that are wrong
        file.write(mask.read_bytes())
    assert any("x_dseg" in line for line in errors_of(out))


def test_participants_are_done_one_after_the_other_and_nothing_a_person_changed_is_lost(
    model, tmp_path
) -> None:
    raw = write_dataset(tmp_path / "raw", ["sub-01_T1w", "sub-02_T1w"])
    out = tmp_path / "out"
    words = ["bids", str(raw), str(out), "participant", "--model", str(model), "--device", "cpu", "-q"]
    assert call(*words, "--participant_label", "sub-01").code == 0
    assert not (out / "sub-02").exists()
    description = json.loads((out / "dataset_description.json").read_text())
    (out / "dataset_description.json").write_text(json.dumps({**description, "Authors": ["A. Person"]}))
    assert call(*words, "--participant-label", "01", "--participant-label", "02").code == 0
    assert json.loads((out / "dataset_description.json").read_text())["Authors"] == ["A. Person"]
    mask = out / "sub-01" / "anat" / "sub-01_seg-stub_dseg.nii.gz"
    edited = nib.Nifti1Image(np.zeros((20, 22, 18), np.uint8), nib.load(mask).affine)
    nib.save(edited, mask)
    before = mask.read_bytes()
    answer = call(*words)
    assert answer.code == 3 and answer.line_with(mask.name, "was changed after mambamed wrote it")
    assert mask.read_bytes() == before
    assert call(*words, "--overwrite").code == 0 and mask.read_bytes() != before
    (out / "seg-stub_dseg.tsv").write_text("index\tname\n1\tmine\n")
    assert call(*words).code == 2


def test_images_that_cannot_be_told_apart_are_faults_that_name_them(model, tmp_path) -> None:
    raw = write_dataset(
        tmp_path / "raw", ["sub-01_run-1_T1w", "sub-01_run-2_T1w", "sub-02_T1w", "sub-03_FLAIR"]
    )
    summary = bids(raw, tmp_path / "out", "participant", model, **QUICK)
    assert summary.cases == ("sub-02",)
    several, missing = summary.faults
    assert "2 images are T1w (sub-01_run-1_T1w.nii.gz, sub-01_run-2_T1w.nii.gz)" in several
    assert "e.g. --filter run=1" in several
    assert missing.startswith("sub-03: no image of T1 (T1w); there are sub-03_FLAIR.nii.gz")
    chosen = bids(
        raw, tmp_path / "out", "participant", model, participant_label="01", filter="run=2", **QUICK
    )
    assert chosen.cases == ("sub-01",)
    assert (tmp_path / "out/sub-01/anat/sub-01_run-2_seg-stub_dseg.nii.gz").is_file()
    by_hand = bids(raw, tmp_path / "out2", "participant", model, channels="T1=FLAIR", **QUICK)
    assert by_hand.cases == ("sub-03",)


def test_links_of_datalad_are_read_by_the_names_of_the_dataset(model, tmp_path) -> None:
    """Git-annex may store a file under its key alone, and the link of a file not fetched has no target."""
    raw = write_dataset(tmp_path / "raw", ["sub-01_T1w", "sub-02_T1w"])
    here, gone = (raw / f"sub-0{k}" / "anat" / f"sub-0{k}_T1w.nii.gz" for k in (1, 2))
    here.rename(raw / "MD5-s20240--0a1b")
    here.symlink_to("../../MD5-s20240--0a1b")
    gone.unlink()
    gone.symlink_to("../../MD5-s20240--9c9d")
    summary = bids(raw, tmp_path / "out", "participant", model, **QUICK)
    assert summary.cases == ("sub-01",)
    (fault,) = summary.faults
    assert fault.startswith(f"sub-02: {gone}: is a broken link")


def test_what_is_no_bids_dataset_is_refused(model, tmp_path) -> None:
    raw = write_dataset(tmp_path / "raw", ["sub-01_T1w"])
    with pytest.raises(DatasetError, match=r"--participant-label: no folder sub-9; there are sub-01"):
        bids(raw, tmp_path / "out", "participant", model, participant_label=["9"])
    write_nifti(raw / "sub-2" / "func" / "sub-2_task-rest_bold.nii.gz", blob())
    with pytest.raises(DatasetError, match=r"--participant-label: no images of sub-2: looked for "):
        bids(raw, tmp_path / "out", "participant", model, participant_label=["01", "2"])
    (raw / "dataset_description.json").unlink()
    with pytest.raises(DatasetError, match=r"no dataset_description\.json"):
        bids(raw, tmp_path / "out", "participant", model)
    with pytest.raises(RecipeError, match="is the input"):
        bids(raw, raw, "participant", model, skip_bids_validation=True)
    assert not (tmp_path / "out").exists()


def test_landmarks_are_voxels_with_coordinates_and_measures_are_columns(tmp_path) -> None:
    asked = {
        "task": "landmarks",
        "dataset": {"landmarks": ["tip", "tail"]},
        "network": {"name": "nnmamba"},
        "measures": {"length": ["tip", "tail"]},
    }
    manifest = DatasetManifest(name="tips", channels={"T1": "mri"}, landmarks=("tip", "tail"))
    run = untrained_run(tmp_path / "run", asked, manifest)
    raw = write_dataset(tmp_path / "raw", ["sub-01_ses-a_T1w", "sub-01_ses-b_T1w"])
    bids(raw, tmp_path / "out", "participant", run, **QUICK)
    base = tmp_path / "out/sub-01/ses-a/anat/sub-01_ses-a_seg-untrained_dseg"
    found = json.loads(base.with_suffix(".json").read_text())
    place = np.array(found["AnatomicalLandmarkCoordinates"]["tip"])
    mask = nib.load(base.with_suffix(".nii.gz"))
    assert np.allclose(
        nib.affines.apply_affine(mask.affine, place), found["LandmarkCoordinatesWorld"]["tip"], atol=1e-3
    )
    assert np.argwhere(np.asarray(mask.dataobj) == 2).shape == (1, 3)  # the second landmark, one voxel
    headers, rows = read_csv(tmp_path / "out/sub-01/sub-01_sessions.tsv")
    assert headers == ["session_id", "untrained_length_mm"]
    assert [row["session_id"] for row in rows] == ["ses-a", "ses-b"]
    ends = [np.array(found["LandmarkCoordinatesWorld"][name]) for name in ("tip", "tail")]
    assert float(rows[0]["untrained_length_mm"]) == pytest.approx(np.linalg.norm(ends[0] - ends[1]), abs=1e-3)
    assert errors_of(tmp_path / "out") == []


def test_classes_are_columns_of_the_participants_and_cells_of_a_person_are_kept(tmp_path) -> None:
    asked = {
        "task": "classification",
        "dataset": {"classes": ["well", "ill"], "covariates": {"age": "number"}},
        "network": {"name": "nnmamba_classifier"},
    }
    manifest = DatasetManifest(
        name="ills", channels={"T1": "mri"}, classes=("well", "ill"), covariate_ranges={"age": (40.0, 90.0)}
    )
    run = untrained_run(tmp_path / "run", asked, manifest)
    raw = write_dataset(tmp_path / "raw", ["sub-01_T1w", "sub-02_T1w"])
    (raw / "participants.tsv").write_text("participant_id\tage\nsub-01\t50\nsub-02\t60\n")
    out = tmp_path / "out"
    for label in ("01", "02"):  # two commands; the table holds the results of both
        bids(raw, out, "participant", run, participant_label=label, label="ill ness", **QUICK)
        if label == "01":
            (out / "participants.tsv").write_text(
                (out / "participants.tsv").read_text().replace("\n", "\tseen\n", 1).replace("\n", "\tyes\n")
                .replace("seen\tyes", "seen")
            )  # fmt: skip
    headers, rows = read_csv(out / "participants.tsv")
    names = ["illness_class", "illness_probability_well", "illness_probability_ill"]
    assert headers == ["participant_id", *names, "seen"]
    assert [(row["participant_id"], row["seen"]) for row in rows] == [("sub-01", "yes"), ("sub-02", "n/a")]
    assert sum(float(rows[1][name]) for name in names[1:]) == pytest.approx(1)
    found = json.loads((out / "sub-02/anat/sub-02_desc-illness_class.json").read_text())
    assert found["Class"] == rows[1]["illness_class"] and found["Class"] in found["ClassProbabilities"]
    record = json.loads((out / ".mambamed/illness/sub-02/classes.run.json").read_text())
    assert record["cases"]["sub-02"]["covariates"] == {"age": "60"}
    assert errors_of(out) == []


def test_cells_of_a_person_stay_as_they_are_in_their_order(tmp_path) -> None:
    """Also those that a spreadsheet would take for a formula, quotes, and rows of one name."""
    (session,) = find_sessions(write_dataset(tmp_path / "raw", ["sub-02_T1w"]))
    to = Derivatives(tmp_path / "raw", tmp_path / "out", "m", "m")
    table = tmp_path / "out" / "participants.tsv"
    table.parent.mkdir()
    table.write_text('score\tparticipant_id\n-0.5\tsub-09\n "a"\tsub-02\n=1\tsub-01\n')
    for value in (-1.5, -2.5):
        to.add_columns(session, {"x": value}, {"x": Column(Description="A number.")})
    rows = ["score\tparticipant_id\tm_x", "-0.5\tsub-09\tn/a", ' "a"\tsub-02\t-2.5', "=1\tsub-01\tn/a"]
    assert table.read_text().splitlines() == rows
    table.write_text("score\n-0.5\n")
    with pytest.raises(DatasetError, match=r"participants\.tsv: has no column participant_id\. Add it"):
        to.check_tables(session)
    table.write_text("participant_id\tscore\nsub-01\n")
    with pytest.raises(DatasetError, match=r"participants\.tsv: row 2: expected 2 cells, got 1"):
        to.check_tables(session)
