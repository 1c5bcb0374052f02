"""No verb changes or removes a file of a person, whether the folder is its output or its input."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.answers.stubs import stub_run, write_blobs
from tests.faults.fault_files import LABEL, packed
from tests.faults.in_process import call
from tests.faults.small_jobs import QUICK, classify_job, evaluate_job, landmarks_job, prepare_job

POINTS = "landmark,x,y,z\ntip,1,2,3\n"
# Names of everything that mambamed itself writes, with content of a person.
FILES = {
    "dataset.json": "{}",
    "plan.json": "my plan",
    "splits.json": "[]",
    "fingerprint.json": "[]",
    "run.json": "{}",
    "recipe.yaml": "task: cooking\n",
    "summary.json": "{}",
    "comparison.json": "{}",
    "cases.csv": "case,age\na,7\n",
    "summary.csv": "a,b\n1,2\n",
    "landmarks.csv": POINTS,
    "measures.csv": POINTS,
    "preds.csv": "case,label,probability_ill,probability_well\na,ill,0.9,0.1\n",
    "preds.run.json": "{}",
    "report.html": "<p>mine</p>",
    "demo.png": "png",
    "points.json": '{"tip": [1, 2, 3]}',
    "points.mrk.json": "{}",
    "model.mambamed": "mine",
    "STOP": "mine",
    ".tmp-notes": "mine",
    ".hidden": "mine",
    "cases/a.b2nd": "mine",
    "cases/a.json": "{}",
    "cases/c0.json": "{}",
    "references/c0.nii.gz": "mine",
    "qc/index.html": "mine",
    "qc/c0.png": "mine",
    "fold_0/checkpoint_last.safetensors": "mine",
    "fold_0/checkpoint_best.safetensors": "mine",
    "fold_0/log.csv": "mine",
    "fold_0/train.log": "mine",
    "fold_0/progress.png": "mine",
    "fold_0/summary.json": "{}",
    "fold_0/validation/case_0.nii.gz": "mine",
    "seed_0/recipe.yaml": "mine",
    "preds_saliency/case_0.nii.gz": "mine",
    "data/training/notes.txt": "mine",
    "prepared/notes.txt": "mine",
}


def persons_folder(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in ("case_0", "case_0_0000", "c0"):
        (folder / f"{name}.nii.gz").write_bytes(packed(LABEL))
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def commands(mine: Path, other: Path) -> dict[str, list[object]]:
    """Every verb that reads or writes files, with a person's folder in each place where a path is given."""
    run, new = stub_run(other / "run", patch_size=(8, 8, 8)).root, other / "new"
    write_blobs(other / "images", 1)
    images = other / "images"
    prepare, classify = prepare_job(other / "prepare"), classify_job(other / "classify", 1)
    landmarks = landmarks_job(other / "landmarks", 1)
    train, prepared = ["train", "hippocampus_nnunet", "-q"], other / "prepared"
    return {
        "prepare -o": [*prepare, "-o", mine],
        "prepare -o --overwrite": [*prepare, "-o", mine, "--overwrite"],
        "prepare SOURCE -o SOURCE": ["prepare", mine, "-o", mine, "-q"],
        "prepare SOURCE": ["prepare", mine, "-o", new, "-q"],
        "prepare --check-only": ["prepare", mine, "--check-only", "-q"],
        "train -o": [*train, "-d", prepared, "-o", mine],
        "train -o --resume": [*train, "-d", prepared, "-o", mine, "--resume"],
        "train -d": [*train, "-d", mine, "-o", new],
        "train --seeds": [*train, "-d", prepared, "-o", mine, "--seeds", "1"],
        "train --init-from": [*train, "-d", prepared, "-o", new, "--init-from", mine],
        "extend": ["extend", mine, "--epochs", "9", "-q"],
        "runs": ["runs", mine],
        "export RUN": ["export", mine, "-q"],
        "export -o": ["export", run, "-o", mine / "model.mambamed", "-q"],
        "predict -o": ["predict", run, images, "-o", mine, *QUICK],
        "predict -o --overwrite": ["predict", run, images, "-o", mine, "--overwrite", *QUICK],
        "predict MODEL": ["predict", mine, images, "-o", new, *QUICK],
        "predict IMAGES": ["predict", run, mine, "-o", other / "masks", *QUICK],
        "predict IMAGES -o IMAGES": ["predict", run, mine, "-o", mine, *QUICK],
        "landmarks -o": [*landmarks, "-o", mine],
        "landmarks -o --overwrite": [*landmarks, "-o", mine, "--overwrite"],
        "classify -o": [*classify, "-o", mine / "preds.csv"],
        "classify -o --overwrite": [*classify, "-o", mine / "preds.csv", "--overwrite"],
        "classify -o cases": [*classify, "-o", mine / "cases.csv", "--overwrite"],
        "evaluate -o": ["evaluate", images, images, "--regions", "one=1", "-o", mine, "-q"],
        "evaluate PREDICTIONS": ["evaluate", mine, images, "--regions", "one=1", "-q"],
        "evaluate PREDICTIONS -o PREDICTIONS": [
            "evaluate",
            mine,
            mine,
            "--regions",
            "one=1",
            "-o",
            mine,
            "-q",
        ],
        "compare -o": ["compare", mine, mine, "-o", mine, "-q"],
        "convert-points -o": ["convert-points", mine / "landmarks.csv", "-o", mine / "points.json", "-q"],
        "convert-points -o itself": [
            "convert-points",
            mine / "landmarks.csv",
            "-o",
            mine / "landmarks.csv",
            "-q",
        ],
        "convert-points --to": ["convert-points", mine / "landmarks.csv", "--to", "csv", "-o", mine, "-q"],
        "import-weights -o": [
            *("import-weights", run / "fold_0" / "checkpoint_best.safetensors"),
            *("--recipe", "hippocampus_nnunet", "-o", mine, "-q"),
        ],
        "demo": ["demo", "-o", mine, "--minutes", "0.1", "-q"],
        "doctor": ["doctor", mine, "-q"],
    }


def test_no_verb_touches_a_file_of_a_person(tmp_path) -> None:
    mine = persons_folder(tmp_path / "mine")
    tried = commands(mine, tmp_path / "other")
    prepared = call(*prepare_job(tmp_path / "raw"), "-o", tmp_path / "other" / "prepared")
    assert prepared.code == 0
    before = digests(mine)
    for name, command in tried.items():
        done = call(*map(str, command))
        assert digests(mine) == before, name
        writes = "-o" in command and Path(str(command[command.index("-o") + 1])).is_relative_to(mine)
        assert done.code != 0 or not writes, f"{name}: {done}"
        assert done.code in {0, 2, 3}, f"{name}: {done}"


@pytest.mark.parametrize("name", ["references/notes.txt", "qc/mine.png", "cases/old/x.b2nd"])
def test_prepare_keeps_what_somebody_put_into_its_own_folder(name, tmp_path) -> None:
    job = [*prepare_job(tmp_path), "-o", tmp_path / "out"]
    assert call(*job).code == 0
    own = tmp_path / "out" / name
    own.parent.mkdir(exist_ok=True)
    own.write_text("mine")
    assert call(*job).code == 0 and own.read_text() == "mine"


@pytest.mark.parametrize(
    ("verb", "file"),
    [
        ("prepare", "splits.json"),
        ("evaluate", "cases.csv"),
        ("landmarks", "case_0.mrk.json"),
        ("landmarks", "landmarks.csv"),
        ("convert-points", "landmarks.mrk.json"),
        ("compare", "comparison.csv"),
    ],
)
def test_a_file_that_was_edited_is_not_replaced_by_the_same_command(verb, file, tmp_path) -> None:
    out = tmp_path / "out"
    table = tmp_path / "landmarks.csv"
    table.write_text(POINTS)
    if verb == "compare":
        assert call(*evaluate_job(tmp_path), "-o", tmp_path / "one").code == 0
        shutil.copytree(tmp_path / "one", tmp_path / "two")
    jobs = {"prepare": prepare_job, "evaluate": evaluate_job, "landmarks": landmarks_job}
    others = {
        "convert-points": ["convert-points", str(table), "--to", "mrk.json", "-q"],
        "compare": ["compare", str(tmp_path / "one"), str(tmp_path / "two"), "-q"],
    }
    job = [*(others[verb] if verb in others else jobs[verb](tmp_path / "job")), "-o", out]
    for _ in range(2):
        assert call(*map(str, job)).code == 0
    (out / file).write_text((out / file).read_text() + " ")
    before = digests(out)
    done = call(*map(str, job))
    assert done.code == 2, done
    done.line_with(f"{file}: was changed after mambamed wrote it.")
    assert digests(out) == before
