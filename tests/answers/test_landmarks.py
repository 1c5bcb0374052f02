"""From images to points: trained blobs, placed in the world; their files say the same; resuming; faults."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
import torch
from torch import nn

from mambamed.answers.located import Located, learned_thresholds
from mambamed.api import landmarks, predict
from mambamed.cases import Case, ChannelFile
from mambamed.converters import convert
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.documents.point_files import read_points
from mambamed.errors import ModelError, RecipeError
from mambamed.evaluation.points import evaluate_points
from mambamed.io.json_files import read_json
from mambamed.preparation.prepare import prepare
from mambamed.preparation.store import PreparedDataset
from mambamed.recipe import Recipe, load_recipe
from mambamed.run.folder import Run
from mambamed.run.thresholds import read_thresholds
from mambamed.training import train
from mambamed.training.validate import read_scores
from mambamed.volumes.sliding_window import Windows, window_logits
from tests.real_data import DATA

SHAPE = (16, 16, 12)
CASES = 16
# Three grids: as nibabel makes them, Slicer's LPS, and axes in another order with coarse slices.
AFFINES = (
    np.diag([1.0, 1.0, 1.0, 1.0]),
    np.diag([-1.0, -1.0, 1.0, 1.0]),
    np.array([[0, 0, 1.5, -7], [-1.0, 0, 0, 30], [0, 1.0, 0, 4], [0, 0, 0, 1]]),
)


def recipe() -> Recipe:
    return Recipe.model_validate(
        {
            "task": "landmarks",
            "name": "blobs",
            "dataset": {
                "landmarks": ["bright", "dark"],
                "split": {"train": 0.5, "val": 0.5, "test": 0.0, "seed": 3},
            },
            "preprocess": {"spacing": [1, 1, 1], "crop": "none", "normalize": "none"},
            "network": {
                "name": "nnmamba", "channels": 8, "mixer": "none", "norm": "instance",
                "head": "wide", "deep_supervision": False,
            },
            "landmarks": {"sigma_mm": 1.5},
            "measures": {"gap": ["bright", "dark"]},
            "training": {
                "epochs": 1, "steps_per_epoch": 150, "batch_size": 2, "patch_size": [32, 16, 16],
                "optimizer": {"lr": 1e-2}, "schedule": {"name": "cosine"}, "precision": "fp32",
                "augment": {"mirror": ["x"], "rotate": 0, "scale": 0, "noise": 0, "blur": 0, "gamma": 0,
                            "brightness": 0, "contrast": 0, "low_resolution": 0},
                "foreground": 0, "validation_patches": 2,
            },
            "inference": {"tta": "none"},
        }
    )  # fmt: skip


def blob_image(number: int) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[float, ...] | None]]:
    """Noise with a bright and mostly a dark blob, as a file stores it; and where they are in the world."""
    random = np.random.default_rng(number)
    affine = AFFINES[number % 3]
    image = random.normal(0, 0.05, SHAPE)
    points = {}
    for name, height in (("bright", 3.0), ("dark", -3.0)):
        if name == "dark" and number % 5 == 0:
            points[name] = None
            continue
        voxel = random.uniform(3, np.array(SHAPE) - 4)
        squares = sum((i - c) ** 2 for i, c in zip(np.indices(SHAPE), voxel, strict=True))
        image += height * np.exp(-squares / (2 * 1.5**2))
        points[name] = tuple(float(v) for v in nib.affines.apply_affine(affine, voxel))
    return image.astype(np.float32), affine, points


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("blobs")
    (root / "images").mkdir()
    cases = []
    for number in range(CASES):
        image, affine, points = blob_image(number)
        path = root / "images" / f"c{number:02}.nii.gz"
        nib.save(nib.Nifti1Image(image, affine), path)
        cases.append(Case(path.name[:3], (ChannelFile(path),), points=points))
    manifest = DatasetManifest(name="blobs", channels={"MRI": "mri"}, landmarks=("bright", "dark"))
    prepare(RawDataset(manifest, cases), root / "prepared", recipe=recipe(), workers=1)
    train(recipe(), prepared=root / "prepared", output=root / "run", device="cpu")
    return root


@pytest.fixture(scope="module")
def placed(world) -> Path:
    """The points of six images, three of each grid."""
    folder = world / "some"
    folder.mkdir()
    for number in range(6):
        (folder / f"c{number:02}.nii.gz").symlink_to(world / "images" / f"c{number:02}.nii.gz")
    landmarks([world / "run"], folder, world / "out", export="mrk.json,fcsv", preview=True, device="cpu")
    return world / "out"


def test_a_training_places_landmarks_near_where_they_are(world) -> None:
    run = Run.open(world / "run")
    fold = run.fold_folder(0)
    known = read_scores(run, 0)
    assert known is not None
    assert set(known.scores) == {"bright", "dark"}
    assert max(known.scores.values()) < 1.0  # mm; untrained, it is about 9
    names = {path.name for path in fold.iterdir()}
    assert names >= {"validation", "thresholds.json", "cases.csv", "summary.csv", "summary.json"}
    thresholds = read_thresholds(run, 0)
    assert thresholds is not None
    assert thresholds["bright"] == 0  # is never absent
    assert 0 < thresholds["dark"] < 1
    summary = read_json(fold / "summary.json")
    assert summary["overall"]["spurious"] == 0  # absent landmarks have lower scores than all others
    # log.csv speaks of millimeters, and so does the history of epochs.
    assert "error_mm" in (fold / "log.csv").read_text().splitlines()[0]


def test_json_markups_and_fcsv_say_the_same_points(world, placed) -> None:
    """Judged by nibabel (RAS), and by SimpleITK (LPS) from the voxels alone."""
    for number in range(6):
        case = f"c{number:02}"
        document = read_json(placed / f"{case}.json")
        there = {name: point for name, point in document["points"].items() if point is not None}
        image = world / "images" / f"{case}.nii.gz"
        affine, itk = nib.load(image).affine, sitk.ReadImage(str(image))
        markups = read_json(placed / f"{case}.mrk.json")["markups"][0]
        assert markups["coordinateSystem"] == "LPS"
        by_name = {p["label"]: p for p in markups["controlPoints"] if p["positionStatus"] == "defined"}
        lines = (placed / f"{case}.fcsv").read_text().splitlines()
        rows = {row[11]: row for row in csv.reader(line for line in lines if not line.startswith("#"))}
        assert set(by_name) == set(rows) == set(there)
        for name, point in there.items():
            voxel = document["voxels"][name]
            np.testing.assert_allclose(nib.affines.apply_affine(affine, voxel), point, atol=1e-3)
            lps = itk.TransformContinuousIndexToPhysicalPoint(voxel)
            np.testing.assert_allclose(by_name[name]["position"], lps, atol=1e-3)
            np.testing.assert_allclose([float(v) for v in rows[name][1:4]], point, atol=1e-3)


def test_absent_landmarks_are_null_with_a_score(placed) -> None:
    for number in range(6):
        document = read_json(placed / f"c{number:02}.json")
        absent = number % 5 == 0
        assert (document["points"]["dark"] is None) == absent
        assert (document["scores"]["dark"] < document["thresholds"]["dark"]) == absent
        assert (document["measures"]["gap"]["value"] is None) == absent


def test_measures_are_distances_in_the_world(placed) -> None:
    with (placed / "measures.csv").open() as file:
        rows = {row["case"]: row["gap_mm"] for row in csv.DictReader(file)}
    assert len(rows) == 6
    for number in (1, 2, 3, 4):
        points = read_points(placed / f"c{number:02}.json")
        gap = np.linalg.norm(np.subtract(points["bright"], points["dark"]))
        assert float(rows[f"c{number:02}"]) == pytest.approx(gap, abs=1e-3)
    assert rows["c00"] == ""


def test_every_case_has_its_picture_and_a_row_a_landmark(placed) -> None:
    for number in range(6):
        assert (placed / f"c{number:02}_preview.png").read_bytes()[:4] == b"\x89PNG"
    table = (placed / "landmarks.csv").read_text().splitlines()
    assert table[0] == "case,landmark,x,y,z,score"
    assert len(table) == 1 + 2 * 6


def test_evaluation_reads_what_landmarks_wrote(world, placed) -> None:
    evaluation = evaluate_points(placed, world / "prepared", only_predicted=True)
    assert len(evaluation.cases) == 6
    errors = []
    for number in range(6):
        _, _, truth = blob_image(number)
        found = read_points(placed / f"c{number:02}.json")
        errors += [np.linalg.norm(np.subtract(truth[name], found[name])) for name in found if found[name]]
    assert evaluation.summaries[-1].values["mre_mm"] == pytest.approx(np.mean(errors))
    assert (evaluation.summaries[-1].expected, evaluation.summaries[-1].spurious) == (10, 0)


def test_finished_cases_are_kept_and_get_the_exports_that_are_asked_for_later(world, placed) -> None:
    before = (placed / "c01.json").stat().st_mtime_ns
    again = landmarks([world / "run"], world / "some", placed, export="csv", device="cpu")
    assert again.kept == 6
    assert again.absent == 2
    assert (placed / "c01.json").stat().st_mtime_ns == before
    np.testing.assert_allclose(
        read_points(placed / "c01.csv")["bright"], read_points(placed / "c01.json")["bright"]
    )
    with pytest.raises(RecipeError, match="holds predictions of other models or settings"):
        landmarks([world / "run"], world / "some", placed, threshold=0.9, device="cpu")


def test_a_bad_image_is_told_and_the_others_go_on(world, tmp_path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.nii.gz").write_bytes(b"no image")
    (images / "b.nii.gz").symlink_to(world / "images" / "c01.nii.gz")
    (images / "c.nii.gz").write_bytes(b"no image either")
    summary = landmarks([world / "run"], images, tmp_path / "out", device="cpu")
    assert summary.cases == ("b",)
    assert [fault.partition(":")[0] for fault in summary.faults] == ["a", "c"]
    assert not (tmp_path / "out" / "a.json").exists()


def test_a_case_that_would_overwrite_the_record_is_refused(world, tmp_path) -> None:
    (tmp_path / "run.nii.gz").symlink_to(world / "images" / "c01.nii.gz")
    with pytest.raises(RecipeError, match="a case named run would overwrite"):
        landmarks([world / "run"], tmp_path, tmp_path / "out", device="cpu")


def test_one_image_and_a_file_name_make_that_file(world, placed, tmp_path) -> None:
    image, target = world / "some" / "c01.nii.gz", tmp_path / "points.json"
    summary = landmarks([world / "run"], image, target, export="fcsv", device="cpu")
    assert summary.output == target and summary.faults == ()
    written = {path.name for path in tmp_path.glob("[!.]*")}
    assert written == {"points.json", "points.fcsv", "points.run.json"}
    assert read_points(target) == read_points(placed / "c01.json")
    target.write_text("mine")
    with pytest.raises(RecipeError, match="was changed after mambamed wrote it"):
        landmarks([world / "run"], image, target, device="cpu")
    with pytest.raises(RecipeError, match="input has 6 cases"):
        landmarks([world / "run"], world / "some", tmp_path / "p.json", device="cpu")
    with pytest.raises(RecipeError, match="points are written as"):
        landmarks([world / "run"], image, tmp_path / "points.mrk.json", device="cpu")


def test_options_that_make_no_sense_are_refused(world, tmp_path) -> None:
    with pytest.raises(RecipeError, match="--threshold 2: a score is from 0 to 1"):
        landmarks([world / "run"], world / "some", tmp_path / "out", threshold=2, device="cpu")
    with pytest.raises(RecipeError, match=r"--export ply: is not among json, mrk\.json"):
        landmarks([world / "run"], world / "some", tmp_path / "out", export="ply", device="cpu")
    with pytest.raises(ModelError, match=r"which predict cannot run\. Use 'mambamed landmarks'"):
        predict([world / "run"], world / "some", tmp_path / "out", device="cpu")


def test_a_threshold_is_learned_only_where_a_landmark_is_absent() -> None:
    def located(*scores: float) -> Located:
        nowhere = np.zeros((len(scores), 3))
        return Located(("a", "b"), nowhere, nowhere, np.array(scores))

    place = (0.0, 0.0, 0.0)
    both, one = {"a": place, "b": place}, {"a": place, "b": None}
    found = [located(0.1, 0.9), located(0.2, 0.6), located(0.3, 0.2), located(0.4, 0.1)]
    learned = learned_thresholds(found, [both, both, one, {"a": place}])  # not annotated in the last one
    # Half way between the score of the case that lacks it and the lowest of those that have it.
    assert learned == pytest.approx({"a": 0.0, "b": (0.6 + 0.2) / 2})


def test_left_and_right_change_channels_in_mirrored_copies() -> None:
    class Sides(nn.Module):
        """Channel 0 is high on the left half, channel 1 on the right, whatever the image shows."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left = torch.zeros_like(x)
            left[:, :, : x.shape[2] // 2] = 1
            return torch.cat([left, 1 - left], dim=1)

    image = torch.zeros(1, 8, 8, 8)
    image[0, 0, 0, 0] = 1
    for order, expected in (((1, 0), 1.0), (None, 0.5)):
        windows = Windows((8, 8, 8), mirror_axes=(0,), mirror_order=order)
        logits = window_logits([Sides()], image, windows, device=torch.device("cpu"))
        assert float(logits[0, 0, 4, 4]) == pytest.approx(expected)


@pytest.mark.data
def test_a_list_of_hippocampi_made_as_the_page_says_is_prepared(tmp_path) -> None:
    """docs/landmarks.md: `case,image,points`, the points of all cases in one table beside the list."""
    if not (DATA / "hippocampus_derived").is_dir():
        pytest.skip(f"{DATA}: no hippocampus_derived")
    (tmp_path / "points.csv").symlink_to(DATA / "hippocampus_derived" / "points.csv")
    rows, images = [], sorted((DATA / "Task04_Hippocampus" / "imagesTr").glob("hippocampus_*.nii.gz"))[:6]
    with (tmp_path / "points.csv").open() as file:
        table = {(row["case"], row["landmark"]): row for row in csv.DictReader(file)}
    kept = {path.name[:-7] for path in images}
    lines = ["case,landmark,x,y,z"] + [",".join(row.values()) for (c, _), row in table.items() if c in kept]
    (tmp_path / "some.csv").write_text("\n".join(lines))
    for path in images:
        (tmp_path / path.name).symlink_to(path)
        rows.append(f"{path.name[:-7]},{path.name},some.csv")
    (tmp_path / "hippocampus_points.csv").write_text("\n".join(["case,image,points", *rows]))
    raw = convert(tmp_path / "hippocampus_points.csv", channels={"MRI": "mri"})
    prepare(raw, tmp_path / "prepared", recipe=load_recipe("hippocampus_points_nnmamba"), workers=1)
    dataset = PreparedDataset.open(tmp_path / "prepared")
    assert dataset.case_ids == sorted(kept)
    assert dataset.manifest.landmarks == (
        "anterior_tip",
        "anterior_center",
        "posterior_center",
        "posterior_tip",
    )
    for path in images:
        case = dataset.case(path.name[:-7])
        image = nib.load(path)
        for name, voxel in case.points_voxel.items():
            row = table[case.id, name]
            native = nib.affines.apply_affine(
                np.linalg.inv(image.affine), [float(row[axis]) for axis in "xyz"]
            )
            # Both grids cover the same box of 1.5 and 1 mm voxels; the images are stored RAS.
            ratio = np.array(image.shape) / np.array(case.shape)
            np.testing.assert_allclose((voxel + 0.5) * ratio - 0.5, native, atol=1e-3)
