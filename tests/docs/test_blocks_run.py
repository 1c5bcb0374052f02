"""The shell blocks of the pages, executed on small data in the layouts that they name.

Trainings are cut to one step of a narrow network on small patches, and imported weights a small patch. The
hub is a server of this process. Of a container, the command of its entry point is executed. Not executed:
`pip install`, `sh run ...` and `python -m pytest ...` (continuous integration runs them), builds of
containers, and what needs CUDA.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mambamed.io.images import read_image, write_image
from mambamed.preparation.store import PreparedDataset
from mambamed.recipe import load_recipe
from tests.answers.stubs import MANIFEST, blob, stub_run, write_nifti
from tests.faults.in_process import call
from tests.io.test_dicom import write_series
from tests.networks.public_layout import read_layout
from tests.run.hub_server import Hub, local_hub
from tests.test_docs import ROOT

SHAPE = (16, 16, 16)  # one window of the networks
SMALL = [
    part
    for key in (
        "training.epochs=1",
        "training.steps_per_epoch=1",
        "training.batch_size=1",
        "training.patch_size=[16,16,16]",
        "inference.tta=none",
    )
    for part in ("--set", key)
]
NARROW = ["--set", "network.channels=4"]
NOT_EXECUTED = (
    "pip install",
    "sh run",
    "python -m pytest",
    "TRITON_INTERPRET=1",
    "--scan cuda",
    "python benchmarks/gpu_check.py",
    "docker build",
    "apptainer build",
)
IN_A_CONTAINER = re.compile(r"(?:docker|apptainer) run .*?mambamed(?::\w+|\.sif) ")
RAS = np.eye(4)
LAYOUTS = ROOT / "tests" / "networks" / "public_layouts"


def image(path: Path, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> None:
    write_nifti(path, blob(shape, seed), RAS)


def labels(path: Path, *values: int) -> None:
    array = np.zeros(SHAPE, np.uint8)
    for number, value in enumerate(values):
        array[4 + 12 * number // len(values) : 16, 5:15, 5:13] = value
    write_nifti(path, array, RAS)


def table(path: Path, header: str, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows, ""]))


def brats(folder: Path, count: int) -> None:
    for number in range(count):
        case = f"BraTS-GLI-{number:05d}-000"
        for seed, name in enumerate(("t1n", "t1c", "t2w", "t2f")):
            image(folder / case / f"{case}-{name}.nii.gz", 10 * number + seed)
        labels(folder / case / f"{case}-seg.nii.gz", 1, 2, 3)


def decathlon(folder: Path, count: int = 6) -> None:
    training = []
    for number in range(count):
        name = f"hippocampus_{number:03d}.nii.gz"
        image(folder / "imagesTr" / name, number)
        labels(folder / "labelsTr" / name, 1, 2)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    image(folder / "imagesTs" / "hippocampus_100.nii.gz", 50)
    names = {"0": "background", "1": "Anterior", "2": "Posterior"}
    content = {"name": "Hippocampus", "modality": {"0": "MRI"}, "labels": names, "training": training}
    (folder / "dataset.json").write_text(json.dumps(content))


def markups(path: Path, names: list[str], seed: int) -> None:
    random = np.random.default_rng(seed)
    points = [
        {"label": name, "position": [-float(x) for x in random.uniform(5, 14, 2)] + [8.0]} for name in names
    ]
    content = {"markups": [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def own(folder: Path, name: str, count: int = 6) -> None:
    for number in range(1, count + 1):
        image(folder / "images" / f"case_{number}.nii.gz", number)
        labels(folder / "labels" / f"case_{number}.nii.gz", 1)
    rows = [f"case_{n},images/case_{n}.nii.gz,labels/case_{n}.nii.gz" for n in range(1, count + 1)]
    table(folder / name, "case,image,label", rows)


def readme(here: Path) -> None:
    brats(here / "BraTS2023-GLI-TrainingData", 10)
    brats(here / "BraTS2023-held-out", 1)
    decathlon(here / "Task04_Hippocampus")
    own(here / "MyData", "cases.csv")
    image(here / "NewImages" / "new.nii.gz")
    (here / "mine.yaml").write_text("extends: hippocampus_nnmamba\n")


def landmarks_page(here: Path) -> None:
    skulls = [f"skull_{number}" for number in range(6)]
    recipe = (ROOT / "recipes" / "mouse_skull_nnmamba.yaml").read_text(encoding="utf-8")
    assert "landmarks" in recipe
    names = re.findall(r"[\w.-]+", re.search(r"landmarks: \[(.*?)\]", recipe, re.DOTALL)[1])  # type: ignore[index]
    for seed, skull in enumerate(skulls):
        image(here / "mouse_skull_landmarks" / "images" / f"{skull}.nii.gz", seed)
        markups(here / "mouse_skull_landmarks" / "landmarks" / f"{skull}.mrk.json", names, seed)
        image(here / "new_images" / f"{skull}.nii.gz", seed)
    decathlon(here / "Task04_Hippocampus")
    four = ("anterior_tip", "anterior_center", "posterior_center", "posterior_tip")
    rows = [f"hippocampus_{n:03d},{name},{x},10,9" for n in range(6) for x, name in enumerate(four, 7)]
    table(here / "points.csv", "case,landmark,x,y,z", rows)
    fetal = (ROOT / "recipes" / "fetal_landmarks_nnmamba.yaml").read_text(encoding="utf-8")
    six = re.search(r"landmarks: \[(.*?)\]", fetal, re.DOTALL)[1].split(", ")  # type: ignore[index]
    for seed in (0, 1):
        for folder in ("fetal_points", "fetal_references"):
            markups(here / folder / f"fetus_{seed}.mrk.json", six, seed)


def stroke(folder: Path, count: int = 12) -> list[str]:
    names = [f"sub-{1000 + number}" for number in range(count)]
    for seed, name in enumerate(names):
        image(folder / "images" / f"{name}.nii.gz", seed)
    rows = [
        f"{name}\t{seed % 2}\t{('left', 'right')[seed % 2]}\t{50 + seed}\tM"
        for seed, name in enumerate(names)
    ]
    table(folder / "participants.tsv", "participant_id\tnihss_ge5\tside\tage\tsex", rows)
    return names


def classification_page(here: Path) -> None:
    names = stroke(here / "stroke_severity")
    sides = [f"{name},{('left', 'right')[seed % 2]}" for seed, name in enumerate(names)]
    (here / "participants.tsv").write_text("participant_id\tside\n" + "\n".join(sides).replace(",", "\t"))
    table(here / "classes.csv", "case,class", sides)
    for folder in ("images", "new_images"):
        (here / folder).symlink_to(here / "stroke_severity" / "images")
    call("prepare", "stroke_severity", "-o", "first", "--class-column", "side")
    for seed in range(3):
        call("train", "stroke_side_nnmamba", "-d", "first", "-o", f"runs/seed{seed}", *SMALL, *NARROW)
    answers = ("NC", "AD")
    table(here / "adni_classes.csv", "case,class", [f"{n},{answers[k % 2]}" for k, n in enumerate(names)])
    for seed in range(2):
        rows = [f"{n},{answers[(k + seed) % 3 % 2]},0.4,0.6,0.5,yes" for k, n in enumerate(names)]
        header = "case,label,probability_NC,probability_AD,threshold,calibrated"
        table(here / "adni_seeds" / f"seed{seed}.csv", header, rows)


def preparation_page(here: Path) -> None:
    own(here / "MyData", "cases.csv", 10)
    (here / "mine.yaml").write_text(
        "extends: hippocampus_nnmamba\ndataset:\n  channels: {image: mri}\n"
        "  labels: {background: 0, label_1: 1}\n  split: {train: 0.6, val: 0.2, test: 0.2}\n"
    )
    call("prepare", "MyData", "-o", "prepared/mine", "--recipe", "mine.yaml")
    call("train", "mine.yaml", "-d", "prepared/mine", "-o", "runs/mine", *SMALL, *NARROW)


def dry_run_page(here: Path) -> None:
    brats(here / "raw", 10)
    call("prepare", "raw", "-o", "prepared/brats", "--recipe", "brats_nnmamba")


def nnunet(folder: Path) -> None:
    for number in range(6):
        image(folder / "imagesTr" / f"p{number}_0000.nii.gz", number)
        labels(folder / "labelsTr" / f"p{number}.nii.gz", 1)
    content = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "lesion": 1},
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content | {"numTraining": 6}))


def amos(folder: Path) -> None:
    for number in (*range(1, 7), *range(501, 507)):
        image(folder / "imagesTr" / f"amos_{number:04d}.nii.gz", number)
        labels(folder / "labelsTr" / f"amos_{number:04d}.nii.gz", 1, 6)


def synapse(folder: Path) -> None:
    for number in range(1, 7):
        image(folder / "Training" / "img" / f"img{number:04d}.nii.gz", number)
        labels(folder / "Training" / "label" / f"label{number:04d}.nii.gz", 1, 6)
    image(folder / "Testing" / "img" / "img0061.nii.gz")


def acdc(folder: Path) -> None:
    for number in range(1, 7):
        patient = f"patient{number:03d}"
        for frame in (1, 9):
            image(folder / patient / f"{patient}_frame{frame:02d}.nii.gz", number + frame)
            labels(folder / patient / f"{patient}_frame{frame:02d}_gt.nii.gz", 1, 2, 3)
        image(folder / patient / f"{patient}_4d.nii.gz")
        (folder / patient / "Info.cfg").write_text("ED: 1\nES: 9\nGroup: NOR\nHeight: 184.0\nNbFrame: 30\n")


def bids(folder: Path) -> None:
    people = [f"sub-{number:02d}" for number in range(1, 13)]
    for seed, person in enumerate(people):
        image(folder / person / "anat" / f"{person}_T1w.nii.gz", seed)
    rows = [f"{person}\t{('NC', 'AD')[seed % 2]}\t{60 + seed}" for seed, person in enumerate(people)]
    table(folder / "participants.tsv", "participant_id\tdiagnosis\tage", rows)


def datasets_page(here: Path) -> None:
    own(here / "mine", "cases.csv")
    for seed, name in enumerate(stroke(here / "stroke_severity")):
        image(here / "mr_sequences" / "images" / f"{name}.nii.gz", seed)
    rows = [f"sub-{1000 + n},sub-{1000 + n},{('T1', 'T2')[n % 2]}" for n in range(12)]
    table(here / "mr_sequences" / "classes.csv", "case,subject,class", rows)
    brats(here / "TrainingData", 10)
    decathlon(here / "Task04_Hippocampus")
    nnunet(here / "Dataset001_Mine")
    amos(here / "amos22")
    synapse(here / "RawData")
    acdc(here / "ACDC" / "database" / "training")
    bids(here / "adni")
    for seed in range(6):
        image(here / "skulls" / "images" / f"s{seed}.nii.gz", seed)
        markups(here / "skulls" / "landmarks" / f"s{seed}.mrk.json", ["nose", "chin"], seed)
    rows = []
    for number in range(1, 7):
        person = here / f"p{number:02d}"
        write_series(person / "dicom", [3.0 * step for step in range(8)], number)
        ct = read_image(person / "dicom")
        organs = (ct.array > np.median(ct.array)).astype(np.uint8)
        write_image(person / "organs.nii.gz", organs, like=ct)
        rows.append(f"p{number:02d},p{number:02d}/dicom,p{number:02d}/organs.nii.gz")
    table(here / "cases.csv", "case,CT,label", rows)
    stub_run(here / "runs" / "organs")


def own_data_page(here: Path) -> None:
    own(here / "MyData", "cases.csv")
    image(here / "NewImages" / "new.nii.gz")


def networks_page(here: Path) -> None:
    files = [LAYOUTS / f"nnmamba_{part}.txt" for part in ("encoder", "decoder", "skips", "miccss")]
    listed = "\n".join(file.read_text(encoding="utf-8") for file in files)
    torch.save(read_layout(listed, channels=4, outputs=3, width=32).tensors(), here / "nnmamba_brats.pth")
    brats(here / "IMAGES", 1)


def bids_page(here: Path, run: str = "runs/brain") -> None:
    bids(here / "BIDS")
    for person in (here / "BIDS").glob("sub-[01][02-9]"):
        shutil.rmtree(person)
    image(here / "BIDS" / "sub-01" / "ses-baseline" / "anat" / "sub-01_ses-baseline_T1w.nii.gz")
    (here / "BIDS" / "dataset_description.json").write_text('{"Name": "b", "BIDSVersion": "1.10.0"}')
    stub_run(here / run, manifest=MANIFEST.changed(channels={"T1": "mri"}))


def sharing_page(here: Path) -> None:
    """The model for the hub has the network of the training that is initialized from it."""
    brats(here / "raw", 4)
    for name in ("t1n", "t1c", "t2w", "t2f"):
        image(here / "IMAGES" / "BraTS-GLI-00009-000" / f"BraTS-GLI-00009-000-{name}.nii.gz", 9, (16, 16, 16))
    call("prepare", "raw", "-o", "prepared/mine", "--recipe", "brats_nnmamba", "--split", "2:1:1")
    manifest = PreparedDataset.open(here / "prepared" / "mine").manifest
    network = load_recipe("brats_nnmamba", NARROW[1:]).network.model_dump()
    stub_run(here / "runs" / "brain", manifest=manifest, network=network)
    image(here / "images" / "new.nii.gz")
    bids_page(here, "runs/t1")
    call("export", "runs/t1", "-o", "model.mambamed")


PAGES = {
    "README.md": readme,
    "docs/bids.md": bids_page,
    "docs/sharing.md": sharing_page,
    "docs/landmarks.md": landmarks_page,
    "docs/classification.md": classification_page,
    "docs/datasets.md": datasets_page,
    "docs/own-data.md": own_data_page,
    "docs/preparation.md": preparation_page,
    "docs/how-long.md": dry_run_page,
    "docs/recipes.md": lambda here: None,
    "docs/networks.md": networks_page,
    "docs/scan.md": lambda here: None,
}


def lines_of(page: str) -> list[str]:
    """The commands of a page; a command of several lines is one."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in re.findall(r"^(?:\(.*?\) > \S+|\S.*?)$", block, re.M | re.S)]


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[type[Hub]]:
    with local_hub(monkeypatch, tmp_path / "home") as served:
        yield served


@pytest.mark.parametrize("page", PAGES)
def test_the_shell_blocks_of_a_page_run(page, tmp_path, monkeypatch, request) -> None:
    if page == "docs/sharing.md":
        request.getfixturevalue("hub")
    monkeypatch.chdir(tmp_path)
    PAGES[page](tmp_path)
    for line in lines_of(page):
        if line.startswith(NOT_EXECUTED):
            continue
        line = IN_A_CONTAINER.sub("mambamed ", line)
        if not line.startswith("mambamed "):
            subprocess.run(line, shell=True, check=True, cwd=tmp_path)
            continue
        words = shlex.split(line, comments=True)[1:]
        if words[0] == "train":
            words += SMALL + NARROW
        if words[0] == "import-weights":
            words += SMALL[-4:]
        done = call(*words)
        assert done.code == 0, (line, done)
