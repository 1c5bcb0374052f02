"""A folder in, masks out: what they look like, which case fails, what a kill leaves, what is kept."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from mambamed.answers import mask_files
from mambamed.api import predict
from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import CaseError, DatasetError, ModelError, RecipeError, RunError
from mambamed.io.lock import folder_lock
from mambamed.jobs import read_case
from mambamed.progress import Silence
from mambamed.volumes.ensemble import Ensemble
from tests.answers.stubs import MANIFEST, blob, stub_run, write_blobs, write_nifti


@pytest.fixture
def run(tmp_path):
    return stub_run(tmp_path / "run")


@pytest.fixture
def images(tmp_path):
    write_blobs(tmp_path / "images", 3)
    return tmp_path / "images"


def masks_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.nii.gz"))}


def record_of(folder) -> dict:
    return json.loads((folder / "run.json").read_text())


def go(run, images, output, **options):
    return predict(
        [run.root], images, output, device="cpu", **{"precision": "fp32", "tta": "none", **options}
    )


def failing(number: int, fault: BaseException):
    """`Ensemble.slabs` whose call of this number fails after its first slab."""
    slabs, calls = Ensemble.slabs, iter(range(1000))

    def sometimes(self, image, on_progress, on_message):
        this = next(calls)
        for slab in slabs(self, image, on_progress, on_message):
            yield slab
            if this == number:
                raise fault

    return sometimes


def test_a_mask_has_the_grid_codes_and_units_of_its_image(run, images, tmp_path) -> None:
    summary = go(run, images, tmp_path / "out")
    assert summary.cases == ("case_0", "case_1", "case_2") and summary.faults == () and summary.kept == 0
    for path in images.iterdir():
        image, mask = nib.load(path), nib.load(tmp_path / "out" / path.name)
        assert mask.shape == image.shape and mask.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(mask.affine, image.affine)
        for field in ("sform_code", "qform_code", "xyzt_units", "pixdim"):
            np.testing.assert_array_equal(mask.header[field], image.header[field])
        found = np.unique(np.asanyarray(mask.dataobj))
        assert set(found) <= {0, 1, 5} and len(found) > 1
        theirs = sitk.ReadImage(str(tmp_path / "out" / path.name))
        ours = sitk.ReadImage(str(path))
        np.testing.assert_allclose(theirs.GetOrigin(), ours.GetOrigin())
        np.testing.assert_allclose(theirs.GetDirection(), ours.GetDirection())
    record = record_of(tmp_path / "out")
    assert {facts["status"] for facts in record["cases"].values()} == {"done"}
    assert record["labels"] == run.manifest.labels
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith(".")) == [
        "case_0.nii.gz",
        "case_1.nii.gz",
        "case_2.nii.gz",
        "labels_itksnap.txt",
        "labels_slicer.ctbl",
        "run.json",
    ]


def test_a_bad_case_is_named_and_the_rest_is_done(run, images, tmp_path) -> None:
    whole = (images / "case_1.nii.gz").read_bytes()
    (images / "case_1.nii.gz").write_bytes(whole[: len(whole) // 2])
    write_nifti(images / "case_3.nii.gz", np.stack([blob()] * 2, axis=-1))
    (images / "case_4.nii.gz").symlink_to(tmp_path / "nowhere")
    summary = go(run, images, tmp_path / "out")
    assert summary.cases == ("case_0", "case_2")
    assert [fault.split(":")[0] for fault in summary.faults] == ["case_1", "case_3", "case_4"]
    assert "truncated" in summary.faults[0] and "4D" in summary.faults[1]
    record = record_of(tmp_path / "out")["cases"]
    assert record["case_1"]["status"] == "failed" and "truncated" in record["case_1"]["fault"]
    assert sorted(masks_of(tmp_path / "out")) == ["case_0.nii.gz", "case_2.nii.gz"]
    (images / "case_1.nii.gz").write_bytes(whole)  # mended, only this one is done
    again = go(run, images, tmp_path / "out")
    assert again.kept == 2 and again.cases == ("case_0", "case_1", "case_2")


def test_a_case_that_the_network_cannot_answer_does_not_stop_the_rest(
    run, images, tmp_path, monkeypatch
) -> None:
    fault = CaseError("the network answers NaN or Inf")
    monkeypatch.setattr(Ensemble, "slabs", failing(1, fault))
    summary = go(run, images, tmp_path / "out")
    assert summary.cases == ("case_0", "case_2")
    assert summary.faults == ("case_1: the network answers NaN or Inf",)


def test_doubts_about_an_image_are_recorded_with_its_case(run, images, tmp_path, caplog) -> None:
    write_nifti(images / "case_9.nii.gz", np.full((18, 18, 18), 7, np.int16))
    assert go(run, images, tmp_path / "out").faults == ()
    record = record_of(tmp_path / "out")["cases"]
    assert record["case_0"]["warnings"] == []
    assert "constant" in record["case_9"]["warnings"][0]
    assert any("case_9.nii.gz" in r.getMessage() for r in caplog.records)


def test_a_case_that_memory_does_not_hold_is_named_and_the_rest_is_done(
    run, images, tmp_path, monkeypatch
) -> None:
    read = read_case.prepare_image

    def sometimes(found, plan, **further):
        if found[0].array.shape[0] == 21:  # case_1
            raise MemoryError("Unable to allocate 90. GiB")
        return read(found, plan, **further)

    monkeypatch.setattr(read_case, "prepare_image", sometimes)
    summary = go(run, images, tmp_path / "out")
    assert summary.cases == ("case_0", "case_2")
    assert summary.faults[0].startswith("case_1: needs 90.0 GiB more memory")


def test_a_case_with_a_channel_too_many_is_told_and_the_others_go_on(run, images, tmp_path) -> None:
    for path in sorted(images.iterdir()):
        path.rename(images / path.name.replace(".nii.gz", "_0000.nii.gz"))
    (images / "case_1_0001.nii.gz").write_bytes((images / "case_1_0000.nii.gz").read_bytes())
    summary = go(run, images, tmp_path / "out")
    assert summary.cases == ("case_0", "case_2")
    assert summary.faults == (
        f"case_1: case_1_0001.nii.gz: the model reads no such channel. Move it out of {images}.",
    )
    assert record_of(tmp_path / "out")["cases"]["case_1"]["status"] == "failed"


def test_finished_cases_are_kept_and_changed_ones_are_not(run, images, tmp_path) -> None:
    output = tmp_path / "out"
    go(run, images, output)
    before = masks_of(output)
    assert go(run, images, output, resume=True).kept == 3
    (output / "case_0.nii.gz").unlink()
    write_nifti(images / "case_1.nii.gz", blob((21, 22, 18), 77))  # another input
    assert go(run, images, output).kept == 1
    after = masks_of(output)
    assert after["case_0.nii.gz"] == before["case_0.nii.gz"]
    assert after["case_1.nii.gz"] != before["case_1.nii.gz"]
    assert go(run, images, output, overwrite=True).kept == 0
    assert masks_of(output) == after


def test_a_mask_that_somebody_corrected_is_not_replaced(run, images, tmp_path) -> None:
    output = tmp_path / "out"
    go(run, images, output)
    corrected = output / "case_1.nii.gz"
    write_nifti(corrected, blob())
    before = masks_of(output)
    with pytest.raises(RecipeError, match=r"case_1\.nii\.gz: was changed after mambamed wrote it"):
        go(run, images, output)
    assert masks_of(output) == before
    go(run, images, output, overwrite=True)
    assert masks_of(output) != before


def test_other_settings_are_refused_in_the_same_folder(run, images, tmp_path) -> None:
    go(run, images, tmp_path / "out")
    with pytest.raises(RecipeError, match=r"other models or settings\. Give --overwrite"):
        go(run, images, tmp_path / "out", overlap=0.25)
    assert go(run, images, tmp_path / "out", overlap=0.25, overwrite=True).kept == 0


@pytest.mark.parametrize(
    ("file", "old", "new"), [("plan.json", "zscore", "minmax"), ("dataset.json", "mri", "ct")]
)
def test_a_run_whose_documents_were_edited_is_another_model(file, old, new, run, images, tmp_path) -> None:
    go(run, images, tmp_path / "out")
    path = run.root / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(RecipeError, match=r"other models or settings\. Give --overwrite"):
        go(run, images, tmp_path / "out")


def test_files_of_somebody_else_are_never_written_over(run, images, tmp_path) -> None:
    with pytest.raises(RecipeError, match="is the input"):
        go(run, images, images)
    write_nifti(tmp_path / "labels" / "case_1.nii.gz", blob())
    before = masks_of(tmp_path / "labels")
    with pytest.raises(RecipeError, match=r"files that mambamed did not write \(case_1\.nii\.gz\)"):
        go(run, images, tmp_path / "labels", overwrite=True)
    assert masks_of(tmp_path / "labels") == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"did not write \(run\.json\)"):
        go(run, images, tmp_path / "other", overwrite=True)


def test_nothing_to_do_and_nothing_to_do_it_with_are_told(run, images, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no images"):
        go(run, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ModelError, match="not a run folder"):
        predict([tmp_path / "empty"], images, tmp_path / "out")
    with pytest.raises(ModelError, match="fold 3 is not trained"):
        go(run, images, tmp_path / "out", folds="3")
    with pytest.raises(RecipeError, match="--folds x"):
        go(run, images, tmp_path / "out", folds="x")
    with pytest.raises(RecipeError, match="--overlap 1"):
        go(run, images, tmp_path / "out", overlap=1)
    assert not (tmp_path / "out").exists()


def test_a_second_command_on_the_folder_is_refused(run, images, tmp_path) -> None:
    with folder_lock(tmp_path / "out"), pytest.raises(RunError, match=f"process {os.getpid()} is writing"):
        go(run, images, tmp_path / "out")


def test_an_output_that_cannot_be_written_ends_the_command(run, images, tmp_path, monkeypatch) -> None:
    def full(path, *_, **__):
        raise RunError(f"{path}: cannot be written: the disk is full")

    monkeypatch.setattr(mask_files, "write_image", full)
    with pytest.raises(RunError, match="disk is full"):
        go(run, images, tmp_path / "out")
    assert masks_of(tmp_path / "out") == {}


def test_ctrl_c_ends_the_command_and_keeps_what_is_done(run, images, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Ensemble, "slabs", failing(2, KeyboardInterrupt()))
        go(run, images, tmp_path / "out")
    assert sorted(masks_of(tmp_path / "out")) == ["case_0.nii.gz", "case_1.nii.gz"]
    assert go(run, images, tmp_path / "out").kept == 2


def test_an_ensemble_of_folds_and_runs_answers_together(images, tmp_path) -> None:
    one = stub_run(tmp_path / "one", folds=(0, 1))
    two = stub_run(tmp_path / "two", folds=(2,), patch_size=(24, 16, 8))
    together = tmp_path / "together"
    predict([one.root, two.root], images, together, device="cpu", precision="fp32", tta="none")
    go(one, images, tmp_path / "zero", folds="0")
    go(one, images, tmp_path / "both")
    answers = {name: masks_of(tmp_path / name) for name in ("together", "zero", "both")}
    assert answers["zero"] != answers["both"] != answers["together"]
    settings = record_of(together)["settings"]["members"]
    assert [sorted(member["checkpoints"]) for member in settings] == [["fold_0", "fold_1"], ["fold_2"]]
    other = stub_run(tmp_path / "three", spacing=(2.0, 1.0, 1.0))
    with pytest.raises(ModelError, match=r"differs from .* in preparation"):
        predict([one.root, other.root], images, tmp_path / "no", device="cpu")


def test_mirroring_is_the_recipes_unless_asked_otherwise(run, images, tmp_path) -> None:
    go(run, images, tmp_path / "plain")
    go(run, images, tmp_path / "mirrored", tta=None)
    assert record_of(tmp_path / "mirrored")["settings"]["members"][0]["mirror_axes"] == [0, 1, 2]
    assert masks_of(tmp_path / "plain") != masks_of(tmp_path / "mirrored")


def test_regions_nest_in_the_written_mask(images, tmp_path) -> None:
    manifest = MANIFEST.changed(
        labels={"background": 0, "one": 1, "two": 2}, regions={"WT": (1, 2), "ET": (2,)}
    )
    go(stub_run(tmp_path / "regions", manifest=manifest), images, tmp_path / "out")
    for path in (tmp_path / "out").glob("*.nii.gz"):
        assert set(np.unique(np.asanyarray(nib.load(path).dataobj))) <= {0, 1, 2}


def test_channels_are_matched_by_their_numbers(tmp_path) -> None:
    manifest = DatasetManifest(
        name="two", channels={"a": "mri", "b": "mri"}, labels={"background": 0, "one": 1}
    )
    run = stub_run(tmp_path / "run", manifest=manifest)
    for number in range(2):
        write_nifti(tmp_path / "images" / f"case_000{number}.nii.gz", blob(seed=number))
    assert go(run, tmp_path / "images", tmp_path / "out").cases == ("case",)
    write_nifti(tmp_path / "images" / "case_0001.nii.gz", blob((9, 9, 9)))
    summary = go(run, tmp_path / "images", tmp_path / "out")
    assert summary.cases == () and "shape" in summary.faults[0]


def test_a_missing_channel_is_zeros_for_a_model_that_knows_them(tmp_path) -> None:
    run = stub_run(tmp_path / "run", manifest=MANIFEST.changed(channels={"T1": "mri", "T2": "mri"}))
    write_nifti(tmp_path / "in" / "a_0000.nii.gz", blob())
    write_nifti(tmp_path / "in" / "a_0001.nii.gz", blob(seed=1))
    write_nifti(tmp_path / "in" / "b_0001.nii.gz", blob(seed=2))
    with pytest.raises(RecipeError, match=r"--missing zero: run was trained with .*drop_channel 0"):
        go(run, tmp_path / "in", tmp_path / "out", missing="zero")
    assert not (tmp_path / "out").exists()
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("drop_channel: 0.0", "drop_channel: 0.3"))
    options, heard = {"missing": "zero", "preview": True, "statistics": True}, Said()
    summary = go(run, tmp_path / "in", tmp_path / "out", progress=heard, **options)
    assert summary.cases == ("a", "b") and summary.faults == ()
    assert "b: no file of the channel T1: zeros in its place" in heard.lines
    entries = record_of(tmp_path / "out")["cases"]
    assert entries["b"]["missing"] == ["T1"] and "missing" not in entries["a"]
    measured = json.loads((tmp_path / "out" / "b_statistics.json").read_text())
    assert list(measured["one"]["mean"]) == ["T2"]
    assert go(run, tmp_path / "in", tmp_path / "out", **options).kept == 2
    rejected = go(run, tmp_path / "in", tmp_path / "rejected")
    assert rejected.cases == ("a",) and "channel 0000 (T1) is missing" in rejected.faults[0]
    # Given later, the channel is used.
    write_nifti(tmp_path / "in" / "b_0000.nii.gz", blob(seed=3))
    assert go(run, tmp_path / "in", tmp_path / "out", **options).kept == 1
    assert "missing" not in record_of(tmp_path / "out")["cases"]["b"]


def test_a_model_of_one_channel_has_none_that_could_be_missing(run, images, tmp_path) -> None:
    with pytest.raises(RecipeError, match="--missing zero: run reads one channel, which cannot be missing"):
        go(run, images, tmp_path / "out", missing="zero")


class Said(Silence):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_a_picture_is_drawn_where_it_is_asked_for(run, images, tmp_path) -> None:
    go(run, images / "case_0.nii.gz", tmp_path / "out", preview=True)
    assert (tmp_path / "out" / "case_0_preview.png").read_bytes().startswith(b"\x89PNG")


def test_windows_and_cases_are_told_as_they_go(run, images, tmp_path) -> None:
    class Told(Silence):
        def __init__(self) -> None:
            self.count, self.windows, self.lines = 0, [], []

        def advance(self, count=1, **facts) -> None:
            self.count += count
            self.windows += [facts["windows"]] if "windows" in facts else []

        def say(self, line) -> None:
            self.lines.append(line)

    told = Told()
    go(run, images / "case_0.nii.gz", tmp_path / "out", progress=told)
    total = len(told.windows)
    assert told.count == 1 and total > 1
    assert told.windows == [f"{n}/{total}" for n in range(1, total + 1)]
    assert [line.split()[0] for line in told.lines] == ["device", "precision", "scan"]


@pytest.mark.parametrize(
    "columns", [(0, 1, 2), (2, 0, 1), (1, 0, 2)], ids=["as it is", "axes turned", "axes swapped"]
)
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)], ids=["straight", "mirrored"])
def test_the_mask_does_not_depend_on_how_the_file_stores_the_volume(tmp_path, columns, signs) -> None:
    """The same voxels at the same places, stored otherwise: nibabel brings both masks to one order."""
    run = stub_run(tmp_path / "run", spacing=(1.5, 1.0, 2.0))
    affine = np.array([[1.0, 0.1, 0, -3], [-0.1, 1.0, 0, 5], [0, 0, 1.6, 9], [0, 0, 0, 1]])
    image = nib.Nifti1Image(blob(), affine)
    stored = image.as_reoriented(np.array([[axis, sign] for axis, sign in zip(columns, signs, strict=True)]))
    for name, each in (("plain", image), ("stored", stored)):
        write_nifti(tmp_path / name / "case.nii.gz", np.asanyarray(each.dataobj), each.affine)
        go(run, tmp_path / name, tmp_path / f"{name}_out")
    plain, other = (
        nib.as_closest_canonical(nib.load(tmp_path / f"{name}_out" / "case.nii.gz"))
        for name in ("plain", "stored")
    )
    np.testing.assert_allclose(plain.affine, other.affine, atol=1e-4)
    assert np.asanyarray(plain.dataobj).any()
    np.testing.assert_array_equal(np.asanyarray(plain.dataobj), np.asanyarray(other.dataobj))


COMMAND = """
import sys
from pathlib import Path
from mambamed.api import predict
print("ready", flush=True)
predict([Path(sys.argv[1])], Path(sys.argv[2]), Path(sys.argv[3]), device="cpu", precision="fp32", tta="none")
"""


def killed_after(seconds: float, *arguments) -> bool:
    """Start the command and kill it; whether it was still at work."""
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


def recorded(output) -> list[str]:
    """The cases that run.json lists as done; it is replaced whole, so that it can be read at any moment."""
    path = output / "run.json"
    cases = json.loads(path.read_text())["cases"] if path.is_file() else {}
    return [case for case, entry in cases.items() if entry["status"] == "done"]


def test_a_killed_command_is_finished_by_the_same_one(run, tmp_path) -> None:
    """The first masks are there, then SIGKILL: no torn file, and in the end the undisturbed run's bytes."""
    images, output = tmp_path / "images", tmp_path / "out"
    write_blobs(images, 12)
    command = [sys.executable, "-c", COMMAND, run.root, images, output]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while len(recorded(output)) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
    left, kept = masks_of(output), recorded(output)
    assert 2 <= len(kept) <= len(left) < 12
    for data in left.values():
        gzip.decompress(data)
    summary = go(run, images, output)
    assert summary.faults == () and summary.kept == len(kept)
    go(run, images, tmp_path / "undisturbed")
    assert masks_of(output) == masks_of(tmp_path / "undisturbed")
    assert not list(output.glob(".tmp-*"))


@pytest.mark.slow
def test_twenty_kills_at_random_moments_lose_nothing(run, tmp_path) -> None:
    images, output = tmp_path / "images", tmp_path / "out"
    write_blobs(images, 30)
    go(run, images, tmp_path / "undisturbed")
    whole = masks_of(tmp_path / "undisturbed")
    moments = random.Random(0)
    for _ in range(20):
        killed_after(moments.uniform(0, 1.5), run.root, images, output)
        for name, data in masks_of(output).items():
            assert data == whole[name]
    go(run, images, output)
    assert masks_of(output) == whole
