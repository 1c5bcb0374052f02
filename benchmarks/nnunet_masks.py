"""Masks of imported nnU-Net models compared with nnU-Net's own masks, voxel by voxel.

    pip install nnunetv2
    python benchmarks/nnunet_masks.py [ROW ...] [--work FOLDER] [--write FILE]

Per row, nnU-Net plans and preprocesses a small dataset, and its trainer writes the checkpoints, after some
steps of a simple training, so that the networks have opinions. Networks and patches are made small, to fit a
CPU. The model's folder is then imported with `import-weights`, without a recipe. Both sides predict the same
files in float32 on a CPU, with a step of half a window and Gaussian weights, with and without mirroring.

nnU-Net keeps the logits of its windows and of the volume in half precision, so that close logits tie. The
last column shows the agreement with nnU-Net if it keeps them in float32.

Data are those of the tests (MAMBAMED_TEST_DATA, see tests/real_data.py).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sections import replace_section

import mambamed
from tests.real_data import DATA

try:
    import nnunetv2.inference.predict_from_raw_data as prediction
    import torch
    from nnunetv2.experiment_planning import plan_and_preprocess_api as planning
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
except ModuleNotFoundError as fault:
    sys.exit(f"{fault}: this benchmark compares with nnU-Net; pip install nnunetv2")

CPU = torch.device("cpu")
Case = tuple[list[nib.Nifti1Image], np.ndarray]  # channels, and labels on their grid


@dataclass(frozen=True)
class Row:
    """A dataset, how nnU-Net plans it, and what is special about it.

    Attributes:
        cases: the training cases, which are predicted as well.
        labels: as in dataset.json, regions included.
        spacing: in the plans' order, if it is not that of nnU-Net's planner.
        patch: in the plans' order.
        mirrored: axes that the checkpoint allows, if they are not all.
    """

    what: str
    cases: Callable[[], list[Case]]
    channels: Sequence[str]
    labels: dict[str, Any]
    patch: tuple[int, int, int]
    order: Sequence[int] = ()
    reader: str = "SimpleITKIO"
    planner: str = "ExperimentPlanner"
    configuration: str = "3d_fullres"
    spacing: tuple[float, float, float] | None = None
    mirrored: tuple[int, ...] | None = (0, 1, 2)
    folds: Sequence[int | str] = (0,)
    steps: int = 80


def brats() -> list[Case]:
    """A part of a head in four channels, stored LPS."""
    folder = DATA / "brats_tcia" / "training" / "BraTS-GLI-90001-000"
    images = [nib.load(folder / f"{folder.name}-{name}.nii.gz") for name in ("t1n", "t1c", "t2w", "t2f")]
    labels, part = labels_of(folder / f"{folder.name}-seg.nii.gz"), np.s_[:, :, 50:110]
    return [([image.slicer[part] for image in images], labels[part])]


def turned_brats() -> list[Case]:
    """The same head with its axes in another order and one of them mirrored."""
    order = (2, 0, 1)
    return [
        ([turned(image, order) for image in images], turned_array(labels, order))
        for images, labels in brats()
    ]


def scaled_brats() -> list[Case]:
    """The same, the third channel from 0 to 3, the fourth one from 0 to 255."""
    ((images, labels),) = turned_brats()
    for number, largest in ((2, 3.0), (3, 255.0)):
        array = images[number].get_fdata()
        scaled = (array / np.percentile(array, 99.9)).clip(0, 1) * largest
        images[number] = nib.Nifti1Image(scaled.astype(np.float32), images[number].affine)
    return [(images, labels)]


def ct_organs(step: int, axis: int, spacing: float) -> list[Case]:
    """Every `step`th slice of a CT along one axis, finer within the slices."""
    image = nib.load(DATA / "ct_organs" / "example_ct_sm.nii.gz")
    organs = labels_of(DATA / "ct_organs" / "example_seg.nii.gz")
    bones = (organs >= 25) & (organs <= 50)
    labels = np.where(bones, 3, np.where((organs >= 10) & (organs <= 14), 2, np.where(organs == 5, 1, 0)))
    factors = [1 / step if k == axis else 3 / spacing for k in range(3)]
    array = ndimage.zoom(image.get_fdata().astype(np.float32), factors, order=1)
    labels = ndimage.zoom(labels.astype(np.uint8), factors, order=0)
    edges = [3.0 * step if k == axis else spacing for k in range(3)]
    return [([nib.Nifti1Image(array.astype(np.int16), np.diag([*edges, 1.0]))], labels)]


def oblique_mr() -> list[Case]:
    """An MR with its axes in another order, on an oblique grid; labels are ranges of intensity."""
    image = turned(nib.load(DATA / "ct_organs" / "example_mr_sm.nii.gz"), (2, 0, 1))
    array = image.get_fdata().astype(np.float32)
    labels = np.digitize(ndimage.gaussian_filter(array, 3.0), [80, 240]).astype(np.uint8)
    angle = np.deg2rad(17)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = image.affine.copy()
    affine[:3, :3] = rotation @ affine[:3, :3]
    return [([nib.Nifti1Image(array, affine)], labels)]


def hippocampi() -> list[Case]:
    """Images smaller than a window."""
    folder = DATA / "Task04_Hippocampus"
    names = [path.name for path in sorted((folder / "imagesTr").glob("*.nii.gz"))[:6]]
    return [([nib.load(folder / "imagesTr" / name)], labels_of(folder / "labelsTr" / name)) for name in names]


ORGANS = {"background": 0, "liver": 1, "lung": 2, "bone": 3}
ROWS = {
    "brats": Row(
        "4-channel MR, masked z-score",
        brats,
        ("T1", "T1c", "T2", "FLAIR"),
        {"background": 0, "NCR": 1, "ED": 2, "ET": 3},
        (64, 64, 64),
    ),
    "regions": Row(
        "the same in another order of axes, regions, residual encoder",
        turned_brats,
        ("T1", "T1c", "T2", "FLAIR"),
        {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": 3},
        (64, 64, 64),
        order=(2, 1, 3),
        planner="nnUNetPlannerResEncM",
        mirrored=(1, 2),
    ),
    "reoriented": Row(
        "labels, reader that reorients, channels scaled to 0-1, z-score, none, RGB",
        scaled_brats,
        ("rescale_to_0_1", "T1", "noNorm", "rgb_to_0_1"),
        {"background": 0, "NCR": 1, "ED": 2, "ET": 3},
        (64, 64, 64),
        reader="NibabelIOWithReorient",
    ),
    "ct axial": Row(
        "CT with 9 mm slices along z, prepared at 6 x 2 x 2 mm",
        lambda: ct_organs(3, 2, 1.5),
        ("CT",),
        ORGANS,
        (8, 80, 96),
        spacing=(6.0, 2.0, 2.0),
    ),
    "ct sagittal": Row(
        "CT with 12 mm slices along x, transposed by the plans, prepared at 9 x 2 x 2 mm",
        lambda: ct_organs(4, 0, 1.5),
        ("CT",),
        ORGANS,
        (16, 48, 64),
        spacing=(9.0, 2.0, 2.0),
        mirrored=(0, 2),
    ),
    "oblique mr": Row(
        "MR on an oblique grid, 3d_lowres",
        oblique_mr,
        ("MR",),
        {"background": 0, "dark": 1, "bright": 2},
        (24, 32, 24),
        configuration="3d_lowres",
        spacing=(4.1, 3.7, 4.3),
        steps=300,
    ),
    "hippocampi": Row(
        "six MR smaller than a window, folds 0, 1 and all",
        hippocampi,
        ("MR",),
        {"background": 0, "anterior": 1, "posterior": 2},
        (40, 56, 40),
        folds=(0, 1, "all"),
        mirrored=None,
    ),
}


def main(names: Sequence[str], work: Path, write: Path | None) -> None:
    """Print the table, and put it into a page."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(work / name)
        (work / name).mkdir(parents=True, exist_ok=True)
    head = (
        "| model | stored | windows | without mirroring | with mirroring | foreground | nnU-Net in float32 |"
    )
    lines = [head, "|---|---|--:|--:|--:|--:|--:|"]
    for number, (name, row) in enumerate(ROWS.items(), start=1):
        if not names or name in names:
            print(name, file=sys.stderr, flush=True)
            lines.append(compared(number, name.replace(" ", "_"), row, work))
            print(lines[-1], flush=True)
    text = [
        "## Masks of imported nnU-Net models",
        "",
        f"`python benchmarks/nnunet_masks.py`, torch {torch.__version__}, nnU-Net {version('nnunetv2')}, "
        "float32 on a CPU. nnU-Net planned, preprocessed and saved each model, with a small network that was "
        "trained for a few steps; mambamed imported its folder without a recipe. The numbers are the voxels "
        "with the same label. Foreground: of those that either side labels, the lower of both columns. "
        "nnU-Net keeps logits in half precision, so that close ones tie; the last column is without "
        "mirroring and with its logits in float32.",
    ]
    if write is not None:
        replace_section(write, "nnunet_masks", Path(__file__).name, [*text, "", *lines])
    print("\n".join(["", *lines]))


def compared(number: int, name: str, row: Row, work: Path) -> str:
    """One line of the table."""
    dataset = f"Dataset{number:03}_{name}"
    for part in ("raw", "preprocessed", "results"):
        shutil.rmtree(work / part / dataset, ignore_errors=True)
    images = raw_dataset(work / "raw" / dataset, row)
    with quiet():
        plans = planned(number, work / "preprocessed" / dataset, row)
        model = trained(work / "preprocessed" / dataset, plans, row)
    run = work / "runs" / name
    shutil.rmtree(run, ignore_errors=True)
    mambamed.import_weights(model, output=run)
    masks = work / "masks" / name
    shutil.rmtree(masks, ignore_errors=True)
    with quiet():
        predicted(model, images, masks / "plain", row, mirrored=False)
        windows = predicted(model, images, masks / "mirrored", row, mirrored=True)
        with float32_sums():
            predicted(model, images, masks / "float32", row, mirrored=False)
    for tta in ("none", "mirror"):
        mambamed.predict(run, images, masks / f"ours_{tta}", tta=tta, precision="fp32", device="cpu")
    plain = agreement(masks / "plain", masks / "ours_none")
    mirrored = agreement(masks / "mirrored", masks / "ours_mirror")
    exact = agreement(masks / "float32", masks / "ours_none")
    shares = (plain[0], mirrored[0], min(plain[1], mirrored[1]), exact[0])
    stored = "".join(nib.aff2axcodes(nib.load(next(images.glob("*"))).affine))
    return f"| {row.what} | {stored} | {windows} | {' | '.join(f'{share:.4f} %' for share in shares)} |"


def raw_dataset(folder: Path, row: Row) -> Path:
    """nnU-Net's raw dataset; returns the folder of its images."""
    images, labels = folder / "imagesTr", folder / "labelsTr"
    for path in (images, labels):
        path.mkdir(parents=True)
    cases = row.cases()
    for case, (channels, label) in enumerate(cases):
        for channel, image in enumerate(channels):
            nib.save(image, images / f"case{case}_{channel:04}.nii.gz")
        nib.save(nib.Nifti1Image(label, channels[0].affine), labels / f"case{case}.nii.gz")
    document: dict[str, Any] = {
        "channel_names": {str(k): name for k, name in enumerate(row.channels)},
        "labels": row.labels,
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": row.reader,
    }
    if row.order:
        document["regions_class_order"] = list(row.order)
    (folder / "dataset.json").write_text(json.dumps(document))
    return images


def planned(number: int, folder: Path, row: Row) -> dict[str, Any]:
    """nnU-Net's plans, with a small network, and the preprocessed cases."""
    planning.extract_fingerprint_dataset(number, num_processes=1)
    planning.plan_experiments([number], row.planner)
    (path,) = folder.glob("*Plans.json")
    plans, identifier = json.loads(path.read_text()), path.stem
    configurations = plans["configurations"]
    lowres = configurations.setdefault(row.configuration, dict(configurations["3d_fullres"]))
    lowres["data_identifier"] = f"{identifier}_{row.configuration}"
    lowres.pop("next_stage", None)
    lowres["patch_size"] = list(row.patch)
    if row.spacing is not None:
        lowres["spacing"] = list(row.spacing)
    options = lowres["architecture"]["arch_kwargs"]
    stages = min(options["n_stages"], 4)
    options["features_per_stage"] = [8, 16, 24, 32][:stages]
    for key in ("kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage"):
        if key in options:
            options[key] = options[key][:stages]
    options["n_stages"] = stages
    options["n_conv_per_stage_decoder"] = options["n_conv_per_stage_decoder"][: stages - 1]
    if "n_blocks_per_stage" in options:
        options["n_blocks_per_stage"] = [1, 2, 2, 1][:stages]
    path.write_text(json.dumps(plans))
    planning.preprocess([number], identifier, (row.configuration,), (1,))
    return plans


def trained(folder: Path, plans: dict[str, Any], row: Row) -> Path:
    """The folder of the model, with the checkpoints that nnU-Net's trainer writes."""
    document = json.loads((folder / "dataset.json").read_text())
    for fold in row.folds:
        torch.manual_seed(number_of(fold))
        trainer = nnUNetTrainer({**plans, "continue_training": False}, row.configuration, fold, document, CPU)
        trainer.initialize()
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        trainer.inference_allowed_mirroring_axes = row.mirrored
        train(trainer, row)
        trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    base = Path(trainer.output_folder_base)
    (base / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
    (base / "dataset.json").write_text(json.dumps(document))
    return base


def train(trainer: nnUNetTrainer, row: Row) -> None:
    """Some steps on random patches, half of them around the foreground, mirrored as the trainer allows."""
    folder = trainer.preprocessed_dataset_folder
    cases = trainer.dataset_class(folder)
    loaded = []
    for identifier in cases.identifiers:
        data, seg, *_ = cases.load_case(identifier)
        loaded.append((np.asarray(data[:], np.float32), np.asarray(seg[:], np.int64)[0].clip(0)))
    regions = trainer.label_manager.foreground_regions if trainer.label_manager.has_regions else None
    random = np.random.default_rng(number_of(trainer.fold))
    optimizer = torch.optim.AdamW(trainer.network.parameters(), 3e-3)
    patch = trainer.configuration_manager.patch_size
    for _ in range(row.steps):
        data, seg = loaded[random.integers(len(loaded))]
        x, y = a_patch(data, seg, patch, random)
        for axis in row.mirrored or ():
            if random.random() < 0.5:
                x, y = np.flip(x, axis + 1), np.flip(y, axis)
        logits = trainer.network(torch.from_numpy(x.copy())[None])[0]
        wanted = torch.from_numpy(y.copy())
        if regions is None:
            weight = torch.tensor([0.2, *[1.0] * (logits.shape[1] - 1)])
            loss = torch.nn.functional.cross_entropy(logits, wanted[None], weight)
        else:
            masks = torch.stack([torch.isin(wanted, torch.tensor(region)) for region in regions])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits[0], masks.float(), pos_weight=torch.tensor(3.0)
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def a_patch(
    data: np.ndarray, seg: np.ndarray, patch: Sequence[int], random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A patch of an image, padded with zeros if that is smaller, and its labels."""
    lacks = [max(p - n, 0) for p, n in zip(patch, seg.shape, strict=True)]
    pads = [(n // 2, n - n // 2) for n in lacks]
    data, seg = np.pad(data, [(0, 0), *pads]), np.pad(seg, pads)
    places = np.argwhere(seg) if random.random() < 0.5 else np.empty((0, 3), int)
    center = places[random.integers(len(places))] if len(places) else random.integers(0, seg.shape)
    box = [
        slice(start := int(np.clip(c - p // 2, 0, n - p)), start + p)
        for c, p, n in zip(center, patch, seg.shape, strict=True)
    ]
    return data[(slice(None), *box)], seg[tuple(box)]


def predicted(model: Path, images: Path, output: Path, row: Row, mirrored: bool) -> int:
    """nnU-Net's masks; returns the number of windows of the first image."""
    output.mkdir(parents=True)
    predictor = prediction.nnUNetPredictor(
        tile_step_size=0.5, use_gaussian=True, use_mirroring=mirrored, perform_everything_on_device=False,
        device=CPU, allow_tqdm=False,
    )  # fmt: skip
    predictor.initialize_from_trained_model_folder(str(model), tuple(row.folds))
    windows: list[int] = []
    plain = predictor._internal_get_sliding_window_slicers

    def counted(shape: tuple[int, ...]) -> list[Any]:
        windows.append(len(found := plain(shape)))
        return found

    predictor._internal_get_sliding_window_slicers = counted
    predictor.predict_from_files_sequential(str(images), str(output))
    return windows[0]


def agreement(theirs: Path, ours: Path) -> tuple[float, float]:
    """Percent of the voxels of all cases with the same label, and of those that are foreground to a side."""
    equal = inner = foreground = voxels = 0
    for path in sorted(ours.glob("*.nii.gz")):
        a, b = (labels_of(folder / path.name) for folder in (theirs, ours))
        either = (a > 0) | (b > 0)
        voxels += a.size
        equal += int((a == b).sum())
        foreground += int(either.sum())
        inner += int((a == b)[either].sum())
    return 100 * equal / voxels, 100 * inner / max(foreground, 1)


@contextlib.contextmanager
def float32_sums() -> Iterator[None]:
    """Let nnU-Net's predictor keep its sums in float32."""

    class Exact:
        half = torch.float32

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    kept = prediction.torch, prediction.compute_gaussian
    prediction.torch = Exact()
    prediction.compute_gaussian = lambda *given, **named: compute_gaussian(
        *given, **named, dtype=torch.float32
    )
    prediction.compute_gaussian.cache_clear = compute_gaussian.cache_clear  # type: ignore[attr-defined]
    try:
        yield
    finally:
        prediction.torch, prediction.compute_gaussian = kept


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what nnU-Net prints from the table."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            yield
        except BaseException:
            print(said.getvalue()[-3000:], file=sys.stderr)
            raise


def labels_of(path: Path) -> np.ndarray:
    return np.rint(np.asarray(nib.load(path).dataobj)).astype(np.uint8)


def turned_array(array: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Axes in another order, the second one mirrored."""
    return np.ascontiguousarray(array.transpose(order)[:, ::-1])


def turned(image: nib.Nifti1Image, order: Sequence[int]) -> nib.Nifti1Image:
    """The same image in the world, stored otherwise."""
    array = turned_array(np.asarray(image.dataobj), order)
    step = np.zeros((4, 4))
    for new, old in enumerate(order):
        step[old, new] = -1 if new == 1 else 1
        step[old, 3] = image.shape[old] - 1 if new == 1 else 0
    step[3, 3] = 1
    return nib.Nifti1Image(array, image.affine @ step)


def number_of(fold: int | str) -> int:
    return fold if isinstance(fold, int) else 99


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], metavar="ROW")
    work = Path(tempfile.gettempdir()) / "nnunet_masks"
    parser.add_argument("--work", type=Path, default=work, help=f"folder of all files (default: {work})")
    parser.add_argument("--write", type=Path, help="page whose section is replaced, e.g. docs/benchmarks.md")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    main(arguments.rows, arguments.work, arguments.write)
