"""`export --format onnx`: the program, its description, and the program of docs/deployment.md."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mambamed.api import export, predict
from mambamed.documents.plan import Ct, ZScore
from mambamed.documents.program import Program
from mambamed.errors import ModelError, RecipeError
from mambamed.io import atomic
from mambamed.io.lock import is_locked
from mambamed.programs import exporting
from mambamed.run.provenance import sha256_of
from tests.answers.stubs import MANIFEST, blob, stub_run, write_nifti
from tests.faults.in_process import call
from tests.test_docs import commands_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"
SPACING = (1.5, 1.25, 1.0)
NETWORK = {"name": "nnunet", "channels": 4, "stages": 2, "blocks": 1}  # whose export takes seconds


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("programs") / "runs" / "hippocampus_nnmamba"
    return stub_run(place, spacing=SPACING, network=NETWORK)


def execute(run, kind: str) -> None:
    """The command of the page that exports this format."""
    (line,) = (line for line in commands_of(PAGE) if f"--format {kind}" in line)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.root.parents[1])
        done = call(*shlex.split(line, comments=True)[1:])
    assert done.code == 0, done.lines


@pytest.fixture(scope="module")
def model(run):
    """Exported to its default place."""
    execute(run, "onnx")
    return run.root / "model.onnx"


def test_a_program_is_described(run, model) -> None:
    found = Program.read(run.root / "model.onnx.json")
    assert found.folds == (0,) and found.largest_difference < 1e-5
    assert [(each.name, each.sha256) for each in found.files] == [("model.onnx", sha256_of(model))]
    assert found.preparation.spacing_mm == SPACING and found.windows.patch_size == (16, 16, 16)
    assert found.windows.mirror_axes == (0, 1, 2) and found.windows.overlap == 0.5
    assert found.masks is not None and found.masks.labels == {"background": 0, "one": 1, "two": 5}
    assert found.masks.values == (0, 1, 5) and found.outputs == 3
    assert found.points is None and found.classes is None


def test_the_command_of_the_page_writes_a_program_that_torch_loads(run) -> None:
    execute(run, "torch-export")
    found = Program.read(run.root / "model.pt2.json")
    program = torch.export.load(run.root / "model.pt2").module()
    assert program(torch.zeros(2, 1, *found.windows.patch_size)).shape == (2, 3, 16, 16, 16)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    page = PAGE.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert f"It has {len(lines)} lines" in page
    imported = set(re.findall(r"^(?:import|from) (.*?)(?: import.*| as .*)?$", code, re.MULTILINE))
    assert imported == {"gzip, itertools, json, sys", "pathlib", "numpy", "onnxruntime"}
    path = tmp_path_factory.mktemp("page") / "segment.py"
    path.write_text(code)
    return path


def check_masks(program, model, run, cases: dict[str, list[Path]], folder, values: set[int]) -> None:
    """The masks of the page's program are those of `predict`."""
    predict([run.root], folder / "images", folder / "masks", device="cpu", precision="fp32")
    for name, channels in cases.items():
        call = [sys.executable, str(program), str(model), f"own_{name}", *map(str, channels)]
        subprocess.run(call, check=True, cwd=folder)
        ours, theirs = nib.load(folder / "masks" / name), nib.load(folder / f"own_{name}")
        assert np.allclose(ours.affine, theirs.affine, atol=1e-5)
        one, other = np.asarray(ours.dataobj), np.asarray(theirs.dataobj)
        assert set(np.unique(one)) == values
        assert (one == other).mean() >= 0.999


def test_the_program_of_the_page_segments_as_predict_does(run, model, program, tmp_path) -> None:
    # oblique axes in another order, another spacing
    turn = np.array([[0, 0.28, -0.96], [-1, 0, 0], [0, 0.96, 0.28]])
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3] = np.c_[turn * [1.1, 1.3, 2.0], [9, 5, -3]]
    images = {
        "a.nii.gz": (blob((24, 22, 18)), affine),
        "b.nii.gz": (blob((17, 30, 12), 1), np.diag([*SPACING, 1])),
    }
    cases = {name: [tmp_path / "images" / name] for name in images}
    for name, image in images.items():
        write_nifti(tmp_path / "images" / name, *image)
    check_masks(program, model, run, cases, tmp_path, {0, 1, 5})


def test_the_program_of_the_page_rejects_an_image_without_an_sform(model, program, tmp_path) -> None:
    image = nib.Nifti1Image(blob(), None)
    image.set_qform(np.diag([*SPACING, 1]), code=1)
    nib.save(image, tmp_path / "a.nii.gz")
    call = [sys.executable, str(program), str(model), "mask.nii.gz", "a.nii.gz"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and done.stderr == "a.nii.gz: expected little-endian NIfTI-1 with an sform\n"
    assert not (tmp_path / "mask.nii.gz").exists()


@pytest.mark.slow
def test_the_program_of_the_page_knows_regions_channels_ct_and_coarse_axes(program, tmp_path) -> None:
    """The images of one case have a coarse axis, and those of the other one get it."""
    manifest = MANIFEST.changed(channels={"a": "ct", "b": "mri"}, regions={"both": (1, 5), "two": (5,)})
    options = {"spacing": (1.0, 1.2, 4.5), "patch_size": (16, 16, 8), "network": NETWORK}
    run = stub_run(tmp_path / "run", manifest=manifest, **options)
    ct = Ct(low=100.0, high=650.0, mean=380.0, std=170.0)
    run.plan.changed(normalization=(ct, ZScore()), crop="none").write(run.root / "plan.json")
    model = export(run.root, format="onnx").output
    cases = {}
    for name, axes, shape in (("c", (1.1, 1.3, 1.0), (20, 18, 24)), ("d", (5.0, 1.0, 1.0), (8, 22, 20))):
        channels = [tmp_path / "images" / f"{name}_000{number}.nii.gz" for number in (0, 1)]
        for seed, path in enumerate(channels):
            write_nifti(path, blob(shape, seed), np.diag([*axes, 1]))
        cases[f"{name}.nii.gz"] = channels
    check_masks(program, model, run, cases, tmp_path, {0, 1, 5})


@pytest.mark.slow
def test_a_second_export_writes_the_same_bytes(run, model) -> None:
    before = {path: path.read_bytes() for path in run.root.glob("model.onnx*")}
    assert len(before) == 2
    export(run.root, format="onnx")
    assert {path: path.read_bytes() for path in run.root.glob("model.onnx*")} == before


def test_a_file_of_somebody_else_is_kept(run, tmp_path) -> None:
    mine = tmp_path / "model.onnx"
    mine.write_text("mine")
    with pytest.raises(RecipeError, match="already exists, and is not a program"):
        export(run.root, mine, format="onnx")
    assert mine.read_text() == "mine" and list(tmp_path.iterdir()) == [mine]


@pytest.fixture
def quickly(monkeypatch):
    """Exports whose program is a text that names the folds."""

    def write(network, shape, path, format_module):
        path.write_text(f"a program of {type(network).__name__}")
        return [path], 0.0

    monkeypatch.setattr(exporting, "write_checked", write)


@pytest.mark.parametrize("renames", [0, 1])
def test_an_export_that_is_killed_is_completed_by_the_same_command(
    run, quickly, tmp_path, monkeypatch, renames
) -> None:
    output, left = tmp_path / "model.onnx", iter([True] * renames)

    def killed(path, new):
        if not next(left, False):
            raise KeyboardInterrupt
        return True

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(atomic, "may_replace", killed)
        export(run.root, output, format="onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx.json"] * renames
    export(run.root, output, format="onnx")
    found = Program.read(tmp_path / "model.onnx.json")
    assert found.files[0].sha256 == sha256_of(output)
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.json"}


def test_no_other_export_writes_between_a_program_and_its_description(
    run, quickly, tmp_path, monkeypatch
) -> None:
    output, locked = tmp_path / "model.onnx", []
    opened = exporting.open_atomic

    def observed(path):
        locked.append(is_locked(tmp_path, ".lock-model.onnx"))
        return opened(path)

    monkeypatch.setattr(exporting, "open_atomic", observed)
    export(run.root, output, format="onnx")
    assert locked == [True] and not is_locked(tmp_path, ".lock-model.onnx")


def test_what_does_not_fit_is_reported(run, tmp_path) -> None:
    with pytest.raises(ModelError, match=r"ends in \.onnx\. Use -o model\.onnx\."):
        export(run.root, tmp_path / "model.mambamed", format="onnx")
    with pytest.raises(RecipeError, match="--dataset-name: applies only to --format mambamed"):
        export(run.root, format="torch-export", dataset_name="x")
    for kind in ("mambamed", "onnx"):
        with pytest.raises(RecipeError, match="--license: applies only to the card of --push"):
            export(run.root, format=kind, license="mit")
