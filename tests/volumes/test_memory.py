"""`--max-ram`: what fits is done within it, what does not is refused for that case alone."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from mambamed.api import predict
from mambamed.errors import CaseError, RecipeError
from mambamed.volumes.memory import resident_bytes
from mambamed.volumes.sliding_window import Windows, slab_axis, window_slabs
from tests.answers.stubs import stub_run, write_blobs

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
manifest = DatasetManifest("body", {"ct": "ct"}, organs)
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
