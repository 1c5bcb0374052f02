"""The whole verb on small folders made here: findings, resumption, kills, byte-identical results."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mambamed.cases import Case, ChannelFile
from mambamed.converters import convert
from mambamed.documents.plan import Plan, ZScore
from mambamed.errors import DatasetError, RecipeError, RunError
from mambamed.io.images import Image, write_image
from mambamed.io.lock import folder_lock, reading
from mambamed.preparation.options import parse_bytes, preprocess_settings
from mambamed.preparation.pool import over_cases
from mambamed.preparation.prepare import prepare
from mambamed.preparation.store import PreparedDataset
from mambamed.preparation.store_case import settings_of
from mambamed.progress import Silence
from mambamed.recipe import Split, load_recipe

AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])


def make_dataset(folder: Path, cases: int = 6, channels: int = 1) -> Path:
    rng = np.random.default_rng(3)
    names = {str(i): f"ch{i}" for i in range(channels)}
    for number in range(cases):
        shape = (14 + number, 12, 10)
        label = np.zeros(shape, np.uint8)
        label[4:8, 4:8, 4:8], label[5:7, 5:7, 5:7] = 1, 2
        for channel in range(channels):
            image = (rng.normal(100, 9, shape) + 40 * label).astype(np.int16)
            path = folder / "imagesTr" / f"c{number}_{channel:04d}.nii.gz"
            write_image(path, image, Image(image, AFFINE))
        write_image(folder / "labelsTr" / f"c{number}.nii.gz", label, Image(label, AFFINE))
    labels = {"background": 0, "shell": 1, "core": 2}
    (folder / "dataset.json").write_text(json.dumps({"channel_names": names, "labels": labels}))
    return folder


class Heard(Silence):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def contents(folder: Path) -> dict[str, str]:
    files = sorted(
        p for p in folder.rglob("*") if p.is_file() and not p.name.startswith((".lock", ".mambamed"))
    )
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_prepared_dataset_holds_what_went_in(tmp_path) -> None:
    summary = prepare(convert(make_dataset(tmp_path / "raw", channels=2)), tmp_path / "out", workers=1)
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.case_ids == [f"c{i}" for i in range(6)]
    assert summary.cases == 6
    assert summary.plan == dataset.plan
    assert dataset.plan.patch_size == (16, 16, 16)  # 14 to 19 x 12 x 10: 16 at least
    case = dataset.case("c2")
    assert case.image().shape == (2, 16, 12, 10)
    np.testing.assert_allclose(case.image().astype(float).mean((1, 2, 3)), 0, atol=1e-2)
    np.testing.assert_allclose(case.image().astype(float).std((1, 2, 3)), 1, atol=1e-2)
    label = case.label()
    assert (label == 1).sum() == 4**3 - 2**3
    assert (label == 2).sum() == 2**3
    rows = case.foreground
    assert set(map(tuple, rows[rows[:, 0] == 2, 1:])) == set(map(tuple, np.argwhere(label == 2)))
    box = ((3, -2, 4), (9, 7, 99))
    np.testing.assert_array_equal(case.label(box), label[3:9, :7, 4:])


def test_processes_and_one_process_give_the_same_bytes_and_a_second_run_keeps_them(tmp_path) -> None:
    raw = convert(make_dataset(tmp_path / "raw"))
    prepare(raw, tmp_path / "one", workers=1)
    prepare(raw, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "one" / "cases").iterdir()}
    prepare(raw, tmp_path / "one", workers=1)
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "one" / "cases").iterdir()}


def test_a_damaged_or_changed_case_is_prepared_again(tmp_path) -> None:
    folder = make_dataset(tmp_path / "raw")
    prepare(convert(folder), tmp_path / "out", workers=1)
    before = contents(tmp_path / "out")
    with (tmp_path / "out" / "cases" / "c1.b2nd").open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    prepare(convert(folder), tmp_path / "out", workers=1)
    assert contents(tmp_path / "out") == before
    prepare(convert(folder), tmp_path / "out", spacing="2,2,2", workers=1)
    assert PreparedDataset.open(tmp_path / "out").case("c0").shape == (7, 6, 5)


RUN = "from pathlib import Path; from mambamed import converters\n"
RUN += "from mambamed.preparation.prepare import prepare\n"
RUN += "if __name__ == '__main__':\n"
RUN += "    import sys; prepare(converters.convert(Path(sys.argv[1])), Path(sys.argv[2]), workers=1)\n"


def test_killed_at_any_moment_it_finishes_with_the_same_bytes(tmp_path) -> None:
    folder = make_dataset(tmp_path / "raw", cases=12)
    prepare(convert(folder), tmp_path / "whole", workers=1)
    expected, interrupted = contents(tmp_path / "whole"), 0
    for moment in (0, 1, 4, 9, 20, 30):
        out = tmp_path / f"killed_{moment}"
        with subprocess.Popen([sys.executable, "-c", RUN, str(folder), str(out)]) as process:
            while process.poll() is None and len(list(out.glob("cases/*"))) <= moment:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        interrupted += not (out / "dataset.json").is_file()
        if not (out / "dataset.json").is_file():
            with pytest.raises(DatasetError, match="Run 'mambamed prepare'"):
                PreparedDataset.open(out)
        prepare(convert(folder), out, workers=1)
        assert contents(out) == expected
    assert interrupted >= 2, "the kills came too late to test anything"


def damage(folder: Path, what: str) -> str:
    """Spoil one case of the dataset; what the line must say."""
    label = folder / "labelsTr" / "c1.nii.gz"
    array = np.zeros((15, 12, 10), np.float32)
    if what == "shape":
        write_image(label, array[:-1], Image(array[:-1], AFFINE))
        return "shape"
    if what == "origin":
        moved = AFFINE.copy()
        moved[1, 3] = 10
        write_image(label, array, Image(array, moved))
        return "origin"
    if what == "orientation":
        write_image(label, array, Image(array, AFFINE @ np.diag([-1, 1, 1, 1])))
        return "orientation"
    if what == "unknown label":
        array[3, 3, 3] = 255
        write_image(label, array, Image(array, AFFINE))
        return "255"
    if what == "interpolated label":
        array[3, 3, 3] = 0.5
        write_image(label, array, Image(array, AFFINE))
        return "0.5"
    if what == "image as label":
        array[:] = np.random.default_rng(0).normal(size=array.shape)
        write_image(label, array, Image(array, AFFINE))
        return "Give the label map, not the image."
    if what == "truncated":
        image = folder / "imagesTr" / "c1_0000.nii.gz"
        image.write_bytes(image.read_bytes()[:-40])
        return "truncated"
    raise ValueError(what)


@pytest.mark.parametrize(
    "what",
    ["shape", "origin", "orientation", "unknown label", "interpolated label", "image as label", "truncated"],
)
def test_a_faulty_case_stops_all_before_any_work_or_is_skipped_when_told(tmp_path, what) -> None:
    folder = make_dataset(tmp_path / "raw", cases=3)
    word = damage(folder, what)
    with pytest.raises(DatasetError) as caught:
        prepare(convert(folder), tmp_path / "out", workers=1)
    (line,) = str(caught.value).splitlines()
    assert word in line
    assert "c1" in line
    assert not (tmp_path / "out").exists()
    summary = prepare(convert(folder), tmp_path / "out", workers=1, skip_faulty=True)
    assert (summary.cases, summary.faults) == (2, (line,))


def test_all_findings_are_told_at_once(tmp_path) -> None:
    folder = make_dataset(tmp_path / "raw", cases=4)
    damage(folder, "shape")
    (folder / "imagesTr" / "c3_0000.nii.gz").write_bytes(b"")
    summary = prepare(convert(folder), tmp_path / "out", workers=1, check_only=True)
    assert len(summary.faults) == 2
    assert not (tmp_path / "out").exists()


def test_doubts_are_warnings(tmp_path) -> None:
    folder = make_dataset(tmp_path / "raw", cases=4)
    constant, empty = np.full((14, 12, 10), 7, np.int16), np.zeros((15, 12, 10), np.uint8)
    write_image(folder / "imagesTr" / "c0_0000.nii.gz", constant, Image(constant, AFFINE))
    write_image(folder / "labelsTr" / "c1.nii.gz", empty, Image(empty, AFFINE))
    (folder / "imagesTr" / "c9_0000.nii.gz").write_bytes(
        (folder / "imagesTr" / "c3_0000.nii.gz").read_bytes()
    )
    (folder / "labelsTr" / "c9.nii.gz").write_bytes((folder / "labelsTr" / "c3.nii.gz").read_bytes())
    outlier = np.random.default_rng(0).normal(100, 9, (16, 12, 10)).astype(np.float32)
    outlier[3, 3, 3] = 1e9
    write_image(folder / "imagesTr" / "c2_0000.nii.gz", outlier, Image(outlier, AFFINE))
    warnings = "\n".join(prepare(convert(folder), tmp_path / "out", workers=1).warnings)
    assert "c2_0000.nii.gz: channel ch0 has a range of" in warnings
    assert "because of a single voxel" in warnings
    assert "channel ch0 is constant" in warnings
    assert "c1.nii.gz: has no foreground" in warnings
    assert "c9: holds the same image as c3" in warnings


def test_cases_are_duplicates_where_all_channels_are_the_same_not_where_one_is(tmp_path) -> None:
    images = make_dataset(tmp_path / "raw", channels=2) / "imagesTr"
    labels = tmp_path / "raw" / "labelsTr"
    for other in ("c7", "c8"):
        shutil.copy(labels / "c3.nii.gz", labels / f"{other}.nii.gz")
        for channel in ("0000", "0001"):
            shutil.copy(images / f"c3_{channel}.nii.gz", images / f"{other}_{channel}.nii.gz")
    second = nib.load(images / "c8_0001.nii.gz")
    changed = np.asarray(second.dataobj).copy()
    changed[5, 5, 5] += 1
    nib.save(nib.Nifti1Image(changed, second.affine), images / "c8_0001.nii.gz")
    warnings = prepare(convert(tmp_path / "raw"), tmp_path / "out", workers=1, check_only=True).warnings
    assert [line for line in warnings if "duplicate" in line] == [
        "c7: holds the same image as c3: a duplicate"
    ]


@pytest.mark.parametrize(("max_ram", "expected"), [("1G", 4), ("300K", 2), ("90K", 1)])
def test_both_passes_keep_within_the_memory_allowed(tmp_path, monkeypatch, max_ram, expected) -> None:
    """By hand: the largest case has 19 x 12 x 10 voxels of two channels, 48 bytes each: 107 KiB."""
    used = []

    def noted(work, arguments, workers, progress, pool=None):
        used.append((work.__name__, workers))
        return over_cases(work, arguments, 1, progress, pool)

    monkeypatch.setattr("mambamed.preparation.prepare.over_cases", noted)
    heard = Heard()
    raw = convert(make_dataset(tmp_path / "raw", channels=2))
    prepare(raw, tmp_path / "out", workers=4, max_ram=max_ram, qc=False, progress=heard)
    assert used == [("examine", expected), ("store_case", expected)]
    assert any("c5: takes about" in line for line in heard.lines) == (max_ram == "90K")


@pytest.mark.parametrize(
    ("split", "line"),
    [
        (Split(folds=8), "too few subjects for 8 folds: only 6 are made"),
        (Split(train=0.9, val=0.05, test=0.05), "too few subjects for 0.05 of them in a test part"),
        (Split(train=0.5, val=0.25, test=0.25), ""),
    ],
)
def test_a_split_that_has_less_than_was_asked_for_is_told(tmp_path, split, line) -> None:
    heard = Heard()
    raw = convert(make_dataset(tmp_path / "raw"))
    summary = prepare(raw, tmp_path / "out", split=split, workers=1, qc=False, progress=heard)
    assert any(line in each for each in summary.warnings) == bool(line)
    assert any(f"warning: raw: {line}" in each for each in heard.lines) == bool(line)


def test_a_slice_that_was_changed_in_its_folder_is_noticed(tmp_path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    for name in ("1.dcm", "2.dcm"):
        (folder / name).write_bytes(b"first")
    plan = Plan(
        spacing_mm=(1.0, 1.0, 1.0),
        shape_median=(8, 8, 8),
        patch_size=(8, 8, 8),
        batch_size=2,
        crop="none",
        normalization=(ZScore(),),
    )
    for path in (folder, folder / "1.dcm"):
        case = Case("a", (ChannelFile(path),))
        before = settings_of(case, plan, "none")
        assert settings_of(case, plan, "none") == before
        (folder / "2.dcm").write_bytes(b"changed" + path.name.encode())
        assert settings_of(case, plan, "none") != before


def test_ct_is_normalized_by_the_foreground_of_all_cases(tmp_path) -> None:
    """Percentiles, mean and deviation by NumPy over all foreground voxels of all cases."""
    folder = make_dataset(tmp_path / "raw", cases=4)
    names = json.loads((folder / "dataset.json").read_text()) | {"channel_names": {"0": "CT"}}
    (folder / "dataset.json").write_text(json.dumps(names))
    prepare(convert(folder), tmp_path / "out", workers=1)
    import nibabel as nib

    inside = np.concatenate(
        [
            np.asanyarray(nib.load(folder / "imagesTr" / f"c{i}_0000.nii.gz").dataobj)[
                np.asanyarray(nib.load(folder / "labelsTr" / f"c{i}.nii.gz").dataobj) > 0
            ]
            for i in range(4)
        ]
    )
    (ct,) = PreparedDataset.open(tmp_path / "out").plan.normalization
    assert ct.scheme == "ct"
    np.testing.assert_allclose([ct.low, ct.high], np.percentile(inside, [0.5, 99.5]))
    np.testing.assert_allclose([ct.mean, ct.std], [inside.mean(), inside.std()], rtol=1e-6)


def test_a_recipe_must_speak_of_the_datasets_channels_and_labels(tmp_path) -> None:
    folder = make_dataset(tmp_path / "raw", cases=2)
    (tmp_path / "r.yaml").write_text("network: {name: nnmamba}\ndataset: {labels: {background: 0, x: 1}}\n")
    with pytest.raises(RecipeError, match=r"dataset\.labels"):
        prepare(convert(folder), tmp_path / "out", recipe=load_recipe(tmp_path / "r.yaml"))


def test_the_next_command_names_the_recipe_that_was_given_or_needs_none(tmp_path) -> None:
    raw = convert(make_dataset(tmp_path / "raw"))
    plain = load_recipe("hippocampus_nnmamba")
    wanted = plain.dataset.model_copy(update={"channels": None, "labels": None, "regions": None})
    recipe = plain.model_copy(update={"dataset": wanted})
    out = tmp_path / "out"
    for named, shown in ((None, "hippocampus_nnmamba"), ("mine.yaml", "mine.yaml")):
        summary = prepare(raw, out, recipe=recipe, recipe_named=named, workers=1, check_only=True)
        assert summary.next_command == f"mambamed train {shown} -d {out}" and not summary.recipe_command
    summary = prepare(raw, out, workers=1, check_only=True)
    assert summary.next_command == f"mambamed train -d {out} -o runs/out"
    assert summary.recipe_command == f"mambamed recipes new -d {out} -o out.yaml"


def test_options_that_cannot_be_are_one_line() -> None:
    with pytest.raises(RecipeError, match="--max-ram lots"):
        parse_bytes("lots")
    with pytest.raises(RecipeError, match="--spacing 1,2"):
        preprocess_settings(None, "1,2")


def test_a_negative_number_of_processes_is_refused(tmp_path) -> None:
    raw = convert(make_dataset(tmp_path / "raw", cases=2))
    with pytest.raises(RecipeError, match="--workers -1: expected a number"):
        prepare(raw, tmp_path / "out", workers=-1)


def test_a_second_command_on_the_folder_is_refused(tmp_path) -> None:
    raw = convert(make_dataset(tmp_path / "raw", cases=2))
    with folder_lock(tmp_path / "out"), pytest.raises(RunError, match=f"process {os.getpid()}"):
        prepare(raw, tmp_path / "out", workers=1)


def test_a_prepared_dataset_of_another_source_is_replaced_only_when_asked(tmp_path) -> None:
    first, second = (
        convert(make_dataset(tmp_path / name, cases=count)) for name, count in (("a", 2), ("b", 3))
    )
    out = tmp_path / "out"
    prepare(first, out, workers=1)
    before = contents(out)
    with pytest.raises(RecipeError, match=r"made from .*a\. Give another -o, or --overwrite"):
        prepare(second, out, workers=1)
    assert contents(out) == before
    with reading(out), pytest.raises(RunError, match="another command is reading it"):  # as a training does
        prepare(second, out, workers=1, overwrite=True)
    assert contents(out) == before
    prepare(second, out, workers=1, overwrite=True)
    assert PreparedDataset.open(out).case_ids == sorted(case.id for case in second.cases)


def test_a_raw_dataset_is_not_its_own_output(tmp_path) -> None:
    raw = convert(make_dataset(tmp_path / "raw", cases=2))
    before = contents(tmp_path / "raw")
    with pytest.raises(RecipeError, match="is the input"):
        prepare(raw, tmp_path / "raw", workers=1, overwrite=True)
    assert contents(tmp_path / "raw") == before and not (tmp_path / "raw" / ".lock").exists()


def test_a_disk_that_is_too_small_is_found_before_cases_are_written(tmp_path, monkeypatch) -> None:
    dataset = convert(make_dataset(tmp_path / "raw"))
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 0, 10))
    with pytest.raises(RunError, match=r"out: the prepared cases need about .* MiB, and 0\.0 MiB are free"):
        prepare(dataset, tmp_path / "out", workers=1)
    assert not list((tmp_path / "out").glob("cases/*"))


def test_a_fold_without_a_class_is_told_at_once_and_persons_are_counted(tmp_path) -> None:
    rows = []
    for number in range(8):
        case = f"sub-{number // 2}_ses-{number % 2}"
        image = np.random.default_rng(number).normal(100, 9, (6, 6, 6)).astype(np.int16)
        write_image(tmp_path / "images" / f"{case}.nii.gz", image, Image(image, AFFINE))
        rows.append(f"sub-{number // 2},ses-{number % 2},{'AD' if number < 2 else 'NC'}")
    (tmp_path / "cases.csv").write_text("participant_id,session_id,class\n" + "\n".join(rows))
    heard = Heard()
    summary = prepare(convert(tmp_path), tmp_path / "out", split=Split(folds=2), workers=1, progress=heard)
    assert f"{tmp_path.name}: 8 cases of 4 subjects" in heard.lines
    folds = PreparedDataset.open(tmp_path / "out").splits
    for fold in folds:  # one person has the class AD: both visits validate or both train
        assert {case[:5] for case in fold["val"]} & {case[:5] for case in fold["train"]} == set()
    told = [line for line in summary.warnings if "of class AD" in line]
    assert len(told) == 2 and "no train case of class AD: it cannot be trained" in "".join(told)
