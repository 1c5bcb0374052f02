"""What is written beside the mask, by one process or several."""

import json
import multiprocessing
import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from mambamed.answers.mask_files import MaskOptions
from mambamed.answers.postprocess import postprocess
from mambamed.answers.segmentation import SegmentationAnswer
from mambamed.api import predict
from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import ModelError, RecipeError, RunError
from mambamed.io.lock import folder_lock
from mambamed.jobs.shard import Shard, chosen_shard
from mambamed.recipe import dump_recipe
from mambamed.recipe.schema import Postprocess
from mambamed.volumes.ensemble import Serving, load_ensemble
from tests.answers.stubs import MANIFEST, blob, stub_run, write_blobs, write_nifti


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return stub_run(tmp_path_factory.mktemp("outputs") / "run", spacing=(1.3, 1.0, 1.0))


def go(run, images, output, **options):
    return predict([run.root], images, output, device="cpu", precision="fp32", tta="none", **options)


def mask_of(path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_the_saved_probabilities_decide_as_the_mask_does(run, tmp_path) -> None:
    """On the native grid, in the file's own axis order; float16 alone may turn a near tie."""
    affine = np.array([[0, -1.0, 0, 3], [0, 0, 1.5, 4], [1.0, 0, 0, 5], [0, 0, 0, 1]])
    write_nifti(tmp_path / "images" / "case.nii.gz", blob(), affine)
    go(run, tmp_path / "images", tmp_path / "out", save_probabilities=True)
    with np.load(tmp_path / "out" / "case_probabilities.npz") as file:
        values, names, written = file["probabilities"], file["names"], file["affine"]
    mask = mask_of(tmp_path / "out" / "case.nii.gz")
    assert values.dtype == np.float16 and values.shape == (3, *mask.shape)
    assert names.tolist() == ["background", "one", "two"]
    np.testing.assert_allclose(written, affine, atol=1e-5)
    np.testing.assert_allclose(values.astype(np.float32).sum(axis=0), 1, atol=2e-3)
    decided = np.array([0, 1, 5])[values.argmax(axis=0)]
    assert (decided == mask).mean() > 0.999 and len(np.unique(mask)) == 3


def test_a_disk_that_is_too_small_is_found_before_the_first_case(run, tmp_path, monkeypatch) -> None:
    """Four cases of 10^6 voxels and three outputs of 2 bytes, of which two percent are counted at least."""
    for number in range(4):
        write_nifti(tmp_path / "images" / f"case_{number}.nii.gz", np.ones((100, 100, 100), np.uint8))
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(400_000, 0, 400_000))
    with pytest.raises(RunError, match=r"out: the files of 4 cases need about .* free on this disk"):
        go(run, tmp_path / "images", tmp_path / "out", save_probabilities=True)
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_what_is_counted_of_the_disk_is_less_than_what_is_written(run, tmp_path) -> None:
    write_blobs(tmp_path / "images", 1)
    go(run, tmp_path / "images", tmp_path / "out", save_probabilities=True)
    options = MaskOptions(probabilities=True)
    answer = SegmentationAnswer.of(load_ensemble([run.root], Serving(device="cpu")), options)
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("case_0*"))
    assert 0 < blob().size * answer.least_bytes_per_voxel < written


def test_statistics_are_those_that_numpy_finds(run, tmp_path) -> None:
    write_nifti(tmp_path / "images" / "case.nii.gz", blob(), np.diag([1.3, 1.0, 1.2, 1.0]))
    go(run, tmp_path / "images", tmp_path / "out", statistics=True)
    found = json.loads((tmp_path / "out" / "case_statistics.json").read_text())
    mask = mask_of(tmp_path / "out" / "case.nii.gz")
    for name, value in (("one", 1), ("two", 5)):
        inside = mask == value
        assert found[name]["voxels"] == inside.sum()
        assert found[name]["volume_ml"] == pytest.approx(inside.sum() * 1.56 / 1000)
        mean = blob()[inside].mean() if inside.any() else None
        assert found[name]["mean"]["a"] == (mean if mean is None else pytest.approx(mean))
    assert mask.any()
    (tmp_path / "out" / "case_statistics.json").unlink()
    assert go(run, tmp_path / "images", tmp_path / "out", statistics=True).kept == 0


def test_parts_of_a_folder_are_the_whole_and_never_meet(run, tmp_path) -> None:
    write_blobs(tmp_path / "images", 4)
    go(run, tmp_path / "images", tmp_path / "whole")
    first = go(run, tmp_path / "images", tmp_path / "out", shard="1/2")
    assert first.cases == ("case_0", "case_2")
    assert go(run, tmp_path / "images", tmp_path / "out", shard="2/2").cases == ("case_1", "case_3")
    for path in (tmp_path / "whole").glob("*.nii.gz"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    # cut otherwise, or given as a whole, nothing is done twice
    assert go(run, tmp_path / "images", tmp_path / "out", shard="3/3").kept == 1
    assert go(run, tmp_path / "images", tmp_path / "out").kept == 4
    with pytest.raises(RecipeError, match="other models or settings"):
        go(run, tmp_path / "images", tmp_path / "out", shard="1/2", overlap=0.25)


def test_parts_lock_out_the_whole_the_same_part_and_other_cuts(tmp_path) -> None:
    with Shard(1, 2).lock(tmp_path):
        with Shard(2, 2).lock(tmp_path):
            pass
        for other in (Shard(), Shard(1, 2), Shard(2, 3)):
            with pytest.raises(RunError), other.lock(tmp_path):
                pass
    with Shard().lock(tmp_path), pytest.raises(RunError), Shard(1, 2).lock(tmp_path):
        pass
    with folder_lock(tmp_path):
        pass


def _write_numbered(root, images, output, shard) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    go(type("Found", (), {"root": root}), images, output, shard=shard)


@pytest.mark.slow
def test_two_processes_on_one_folder_write_each_case_once(run, tmp_path) -> None:
    write_blobs(tmp_path / "images", 8)
    context = multiprocessing.get_context("spawn")
    arguments = (run.root, tmp_path / "images", tmp_path / "out")
    both = [context.Process(target=_write_numbered, args=(*arguments, f"{n}/2")) for n in (1, 2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert [each.exitcode for each in both] == [0, 0]
    assert go(run, tmp_path / "images", tmp_path / "out").kept == 8


def test_ranks_of_torchrun_and_slurm_choose_the_part() -> None:
    assert chosen_shard(None, {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}) == Shard(4, 4)
    assert chosen_shard(None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == Shard()
    assert chosen_shard("1/2", {"RANK": "1", "WORLD_SIZE": "2"}) == Shard(1, 2)
    for words in ("0/2", "3/2", "x", "1/0"):
        with pytest.raises(RecipeError, match="--shard"):
            chosen_shard(words, {})


def test_more_processes_than_cases_is_no_fault(run, tmp_path) -> None:
    write_blobs(tmp_path / "images", 1)
    summary = go(run, tmp_path / "images", tmp_path / "out", shard="3/3")
    assert summary.cases == summary.faults == ()
    assert go(run, tmp_path / "images", tmp_path / "out", shard="1/3").cases == ("case_0",)


def test_small_parts_go_and_holes_are_filled() -> None:
    """By hand: two parts of 8 and 1 voxels of 2 mm3, and a ring with a hole of one voxel."""
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[1:3, 1:3, 1:3] = 1
    labels[8, 8, 8] = 1
    labels[4:7, 4:7, 4:7] = 5
    labels[5, 5, 5] = 0
    largest = postprocess(labels.copy(), Postprocess(largest_component=("one",)), MANIFEST, 2.0)
    assert largest[8, 8, 8] == 0 and (largest == 1).sum() == 8 and (largest == 5).sum() == 26
    exactly = postprocess(labels.copy(), Postprocess(min_mm3={"one": 2.0}), MANIFEST, 2.0)
    np.testing.assert_array_equal(exactly, labels)
    small = postprocess(labels.copy(), Postprocess(min_mm3={"one": 2.1}), MANIFEST, 2.0)
    assert small[8, 8, 8] == 0 and (small == 1).sum() == 8
    filled = postprocess(labels.copy(), Postprocess(fill_holes=("two",)), MANIFEST, 2.0)
    assert filled[5, 5, 5] == 5 and (filled != labels).sum() == 1


def test_a_voxel_that_leaves_a_region_becomes_what_is_around() -> None:
    """BraTS: WT = 1+2+3, TC = 1+3, ET = 3: a lone piece of ET in edema becomes necrosis, of TC edema."""
    manifest = DatasetManifest(
        name="b",
        channels={"a": "mri"},
        labels={"background": 0, "NCR": 1, "ED": 2, "ET": 3},
        regions={"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)},
    )
    labels = np.full((9, 9, 9), 2, np.uint8)
    labels[1:4, 1:4, 1:4] = 3
    labels[7, 7, 7] = 3
    only_et = postprocess(labels.copy(), Postprocess(largest_component=("ET",)), manifest, 1.0)
    assert only_et[7, 7, 7] == 1 and (only_et == 3).sum() == 27
    only_tc = postprocess(labels.copy(), Postprocess(largest_component=("TC",)), manifest, 1.0)
    assert only_tc[7, 7, 7] == 2 and (only_tc == 3).sum() == 27


def test_the_recipe_says_what_is_done_to_the_mask(tmp_path) -> None:
    run = stub_run(tmp_path / "run")
    write_blobs(tmp_path / "images", 1)
    go(run, tmp_path / "images", tmp_path / "plain")
    for settings, name in (({"largest_component": ("one",)}, "one"), ({"min_mm3": {"nose": 1.0}}, "nose")):
        inference = run.recipe.inference.model_copy(update={"postprocess": Postprocess(**settings)})
        changed = run.recipe.model_copy(update={"inference": inference})
        (run.root / "recipe.yaml").write_text(dump_recipe(changed))
        if name == "nose":
            with pytest.raises(ModelError, match="'nose' is not predicted; expected one of one, two"):
                go(run, tmp_path / "images", tmp_path / "out2")
            continue
        go(run, tmp_path / "images", tmp_path / "out")
        plain, mask = (mask_of(tmp_path / f / "case_0.nii.gz") for f in ("plain", "out"))
        expected = postprocess(plain.copy(), Postprocess(**settings), MANIFEST, 1.0)
        np.testing.assert_array_equal(mask, expected)
