"""`--max-ram`, and memory that runs out: what fits is done, what does not is refused for that case alone."""

import errno
import subprocess
import sys

import pytest
import torch
from torch import nn

from mambamed.api import predict
from mambamed.errors import CaseError, RecipeError
from mambamed.jobs import read_case
from mambamed.memory import is_out_of_memory, resident_bytes, shortage
from mambamed.preparation import store_case
from mambamed.preparation.store import PreparedDataset
from mambamed.volumes.ensemble import Ensemble
from mambamed.volumes.sliding_window import Windows, slab_axis, window_slabs
from tests.answers.stubs import stub_run, write_blobs
from tests.exhausted import ERRORS, every_library, fails
from tests.faults.in_process import call
from tests.faults.small_jobs import QUICK, classify_job, landmarks_job, predict_job, prepare_job

WHOLE_BODY = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from mambamed.documents.manifest import DatasetManifest
from mambamed.geometry import orientation_of
from mambamed.volumes.restore import labels_of_slabs
from mambamed.volumes.sliding_window import Windows, slab_axis, window_slabs
from mambamed.io.images import Image, write_image
from mambamed.preparation.grid import CaseGeometry
from mambamed.recipe import Recipe
from mambamed.tasks.segmentation import Segmentation

torch.set_num_threads(1)
class Stub(nn.Module):
    def forward(self, x):
        out = x.new_zeros(len(x), 117, *x.shape[2:])
        out[:, 7] = x[:, 0]
        return out

native, prepared = (512, 512, 600), (270, 270, 600)
affine = np.diag([0.8, 0.8, 1.5, 1.0])
rows, turned = tuple(map(tuple, affine)), orientation_of(affine)
geometry = CaseGeometry(native, rows, turned, (0, 0, 0), native, prepared)
organs = {"background": 0, **{f"organ_{n}": n for n in range(1, 117)}}
manifest = DatasetManifest(name="body", channels={"ct": "ct"}, labels=organs)
task = Segmentation(Recipe.model_validate({"network": {"name": "nnmamba"}}), manifest)
image = torch.zeros(1, *prepared)
image[:, 100:200, 50:200, 100:500] = 1
windows = Windows((96, 96, 96), overlap=0.0)
axis = slab_axis(prepared, windows.patch_size, thrifty=True)
slabs = window_slabs([Stub()], image, windows, device=torch.device("cpu"), axis=axis, max_ram=6 * 2**30)
labels = labels_of_slabs(slabs, geometry, task)
assert set(np.unique(labels[:, :, ::50])) == {0, 7} and labels.shape == native
write_image(Path(sys.argv[1]), labels, like=Image(labels, affine))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_117_classes_of_a_whole_body_take_less_than_6_gib(tmp_path) -> None:
    """512 x 512 x 600 voxels of 0.8 x 0.8 x 1.5 mm on a grid of 1.5 mm: all logits would be 19 GiB."""
    command = [sys.executable, "-c", WHOLE_BODY, str(tmp_path / "labels.nii.gz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 6 * 2**30
    assert (tmp_path / "labels.nii.gz").is_file()


class Twice(nn.Module):
    def forward(self, x):
        return torch.cat([x, -x], dim=1)


def test_a_sum_that_does_not_fit_is_refused_before_it_is_made() -> None:
    image = torch.rand(1, 20, 20, 40)
    windows = Windows((16, 16, 16))
    before = resident_bytes()
    assert before > 2**20
    # less than any process takes: what others left free in this one is given back, and may be much
    slabs = window_slabs([Twice()], image, windows, device=torch.device("cpu"), max_ram=2**20)
    with pytest.raises(CaseError, match="--max-ram allows"):
        list(slabs)
    plenty = window_slabs([Twice()], image, windows, device=torch.device("cpu"), max_ram=before + 2**32)
    assert sum(len(slab.planes) for slab in plenty) in image.shape


def test_with_bounded_memory_the_thriftiest_axis_is_taken() -> None:
    """A window of 96 is 0.53 of 180 planes, 0.48 of 200, 0.51 of 190."""
    assert slab_axis((180, 200, 190), (96, 96, 96)) == 0
    assert slab_axis((180, 200, 190), (96, 96, 96), thrifty=True) == 1


def test_predict_takes_the_bound_and_names_the_case_that_passes_it(tmp_path) -> None:
    run = stub_run(tmp_path / "run")
    write_blobs(tmp_path / "images", 1)
    asked = {"device": "cpu", "precision": "fp32", "tta": "none"}
    summary = predict([run.root], tmp_path / "images", tmp_path / "out", max_ram="10M", **asked)
    assert summary.cases == () and "--max-ram allows" in summary.faults[0]
    assert predict([run.root], tmp_path / "images", tmp_path / "out", max_ram="64G", **asked).faults == ()
    with pytest.raises(RecipeError, match="--max-vram: the device is cpu"):
        predict([run.root], tmp_path / "images", tmp_path / "out", max_vram="1G", **asked)


@every_library
def test_exhausted_memory_is_recognized_and_says_what_is_known(error, words) -> None:
    assert is_out_of_memory(error)
    assert words in shortage(error) and "\n" not in shortage(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Sizes of tensors must match except in dimension 1"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if ..."),
        OSError(errno.ENOSPC, "No space left on device"),
        CaseError("a.nii.gz: not enough memory"),
        ValueError("out of memory"),
    ],
)
def test_another_error_is_not_taken_for_it(error) -> None:
    assert not is_out_of_memory(error)


@every_library
def test_a_case_that_exhausts_the_memory_is_a_fault_and_the_others_are_done(
    error, words, tmp_path, monkeypatch
) -> None:
    run = stub_run(tmp_path / "run", patch_size=(8, 8, 8))
    write_blobs(tmp_path / "images", 3)
    slabs, asked = Ensemble.slabs, []

    def second_fails(*arguments, **options):
        asked.append(1)
        if len(asked) == 2:
            raise error
        return slabs(*arguments, **options)

    monkeypatch.setattr(Ensemble, "slabs", second_fails)
    done = call("predict", run.root, tmp_path / "images", "-o", tmp_path / "out", *QUICK, "--tta", "none")
    assert done.code == 3 and words in done.line_with("case_1", "memory")
    assert "crop the image" in done.line_with("case_1", "memory")
    masks = {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
    assert masks == {"case_0.nii.gz", "case_2.nii.gz"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit is not known")
def test_a_limit_of_the_shell_is_what_is_free() -> None:
    """`ulimit -v`, as batch systems set it."""
    code = (
        "import resource\n"
        "from pathlib import Path\n"
        "from mambamed.memory import free_memory_bytes\n"
        "held = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (held + 2**27, resource.RLIM_INFINITY))\n"
        "print(free_memory_bytes())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**26 < int(done.stdout) <= 2**27


@pytest.mark.parametrize("job", [predict_job, landmarks_job, classify_job])
@pytest.mark.parametrize("stage", ["reading", "computing"])
def test_so_it_is_in_every_verb_and_at_every_stage(job, stage, tmp_path, monkeypatch) -> None:
    error, words = ERRORS["torch CPU"]
    place, name = (read_case, "prepare_image") if stage == "reading" else (torch, "from_numpy")
    whole, asked = getattr(place, name), []

    def first_fails(*arguments, **options):
        asked.append(1)
        if len(asked) == 1:
            raise error
        return whole(*arguments, **options)

    arguments, out = job(tmp_path), tmp_path / ("out.csv" if job is classify_job else "out")
    monkeypatch.setattr(place, name, first_fails)
    done = call(*arguments, "-o", out)
    assert done.code == 3 and words in done.line_with("case_0", "memory")


@every_library
def test_prepare_names_the_case_and_goes_on_without_it(error, words, tmp_path, monkeypatch) -> None:
    prepared, asked = store_case.prepare_image, []

    def second_fails(*arguments, **options):
        asked.append(1)
        if len(asked) == 2:
            raise error
        return prepared(*arguments, **options)

    monkeypatch.setattr(store_case, "prepare_image", second_fails)
    done = call(*prepare_job(tmp_path), "-o", tmp_path / "out")
    assert done.code == 3 and words in done.line_with("c1: ", "memory")
    assert PreparedDataset.open(tmp_path / "out").case_ids == ["c0", "c2"]


@every_library
def test_any_other_command_ends_in_one_line(error, words, monkeypatch) -> None:
    monkeypatch.setattr("mambamed.recipe.load_recipe", fails(error))
    done = call("recipes", "show", "hippocampus_nnunet")
    assert done.code == 1 and words in done.line_with("out of memory: ")
