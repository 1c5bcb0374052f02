"""What one side of benchmarks/predict.py does, in a process of its own.

`measured` runs a stage and says what it took; `predicted` is nnU-Net's or MONAI's way from files to masks.
"""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from monai.transforms import LoadImage, NormalizeIntensity, Resize, SaveImage
from monai.transforms.utils import generate_spatial_bounding_box
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray
from predict_models import SETUPS, Setup
from torch import Tensor, nn
from torch.nn import functional

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan, per_case
from mambamed.geometry import orientation_of
from mambamed.io.images import Image
from mambamed.preparation.grid import CaseGeometry
from mambamed.preparation.prepare_image import prepare_image
from mambamed.run.device import keep_freed_memory
from mambamed.run.model import load_network
from mambamed.tasks.segmentation import Segmentation
from mambamed.volumes.restore import native_labels
from mambamed.volumes.sliding_window import Windows, window_slabs

CPU = torch.device("cpu")
NNUNET = version("nnunetv2")
VOLUMES = {"BraTS": ((240, 240, 155), 4, 4), "CT-B": ((273, 273, 267), 1, 14)}  # shape, channels, labels
CT_NATIVE, CT_AFFINE = (512, 512, 200), np.diag([0.8, 0.8, 2.0, 1.0])
EVERY = (slice(None, None, 5),) * 3  # voxels whose labels are compared


class Pointwise(nn.Module):
    """A network of one product of channels a voxel, which keeps count of its own time."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv3d(channels, outputs, 1)
        self.seconds = 0.0

    def forward(self, x: Tensor) -> Tensor:
        began = time.thread_time()
        y = self.head(x)
        self.seconds += time.thread_time() - began
        return y


class Clock:
    """CPU-seconds of this process since the start; its peak of memory beyond what it held then (Linux)."""

    def __init__(self) -> None:
        gc.collect()
        if (
            platform.libc_ver()[0] == "glibc"
        ):  # what was freed goes back, so that it is counted when taken anew
            ctypes.CDLL(None).malloc_trim(0)
        self._status = Path("/proc/self/status")
        if self._status.is_file():
            Path("/proc/self/clear_refs").write_text("5")
        self._before, self._began = self._held("VmRSS:"), time.process_time()

    def _held(self, key: str) -> float:
        if not self._status.is_file():
            return float("nan")
        return (
            int(next(x for x in self._status.read_text().splitlines() if x.startswith(key)).split()[1]) / 1024
        )

    def read(self) -> dict[str, float]:
        return {"cpu": time.process_time() - self._began, "peak": self._held("VmHWM:") - self._before}


def measured(part: str, side: str, kind: str, labels: Path) -> dict[str, float]:
    """One side of a stage; the labels that it found are written as .npy."""
    if side == "ours":  # as our command does
        keep_freed_memory()
    stage = {"accumulation": accumulation, "export": export}[part]
    stage(side, kind, small=True)  # libraries and compiled code are there from here on
    found, taken = stage(side, kind, small=False)
    np.save(labels, found)
    return taken


def smooth(channels: int, shape: tuple[int, int, int], coarse: int = 8) -> Tensor:
    """`(C, X, Y, Z)` noise of a grain of some voxels."""
    small = tuple(-(-n // coarse) for n in shape)
    noise = torch.randn(1, channels, *small, generator=torch.Generator().manual_seed(1))
    return functional.interpolate(noise, shape, mode="trilinear", align_corners=False)[0]


def accumulation(side: str, kind: str, small: bool) -> tuple[NDArray, dict[str, float]]:
    """Windows of 128^3, overlap one half, Gaussian, of a network that costs nothing beside its output."""
    shape, channels, outputs = VOLUMES[kind]
    patch = (16, 16, 16) if small else (128, 128, 128)
    image = smooth(channels, (24, 24, 24) if small else shape)
    network = Pointwise(channels, outputs).eval()
    if side == "nnU-Net":
        predictor = quiet_predictor(mirrored=False)
        labels = SimpleNamespace(num_segmentation_heads=outputs)
        plans: Any = SimpleNamespace(get_label_manager=lambda _: labels)
        configuration: Any = SimpleNamespace(patch_size=patch)
        predictor.manual_initialization(network, plans, configuration, None, {}, "", None)
    clock = Clock()
    sampled: list[Tensor] = []
    spent = 0.0
    if side == "ours":
        slabs = window_slabs([network], image, Windows(patch, overlap=0.5), device=CPU, axis=0)
        for slab in slabs:
            began = time.process_time()  # looking at the labels is no part of it
            planes = range(slab.start, slab.stop)
            chosen = [n for n, plane in enumerate(planes) if plane % 5 == 0]
            sampled.append(slab.planes[chosen][:, :, ::5, ::5].argmax(1))
            spent += time.process_time() - began
        taken = clock.read()
    else:
        with torch.inference_mode():
            if side == "nnU-Net":
                logits = predictor.predict_sliding_window_return_logits(image)
            else:
                logits = sliding_window_inference(
                    image[None], patch, 1, network, overlap=0.5, mode="gaussian", sigma_scale=0.125
                )[0]
            taken = clock.read()
            sampled.append(logits[(slice(None), *EVERY)].float().argmax(0))
    taken["cpu"] -= network.seconds + spent
    return torch.cat(sampled).to(torch.uint8).numpy(), taken


def export(side: str, kind: str, small: bool) -> tuple[NDArray, dict[str, float]]:
    """Logits on the prepared grid, float32, to labels on the file's."""
    shape, _, outputs = VOLUMES[kind]
    native = CT_NATIVE
    if small:
        shape, native = (20, 20, 20), (37, 37, 15)
    setup = SETUPS["memory"]
    logits = smooth(outputs, shape)
    if side == "nnU-Net":
        manager = PlansManager(setup.plans)
        turned = logits.permute(0, 3, 2, 1).contiguous().numpy()
        del logits
        properties = {
            "spacing": [2.0, 0.8, 0.8],
            "shape_before_cropping": native[::-1],
            "shape_after_cropping_and_before_resampling": native[::-1],
            "bbox_used_for_cropping": [[0, n] for n in native[::-1]],
        }
        arguments = (
            manager,
            manager.get_configuration("3d_fullres"),
            manager.get_label_manager(setup.dataset),
        )
        clock = Clock()
        found = convert_predicted_logits_to_segmentation_with_correct_shape(
            turned, *arguments, properties, num_threads_torch=1
        )
        return found.T[EVERY], clock.read()
    clock = Clock()
    if side == "MONAI":
        fine = Resize(native, mode="trilinear")(logits)
        labels = torch.as_tensor(fine).argmax(0).to(torch.uint8).numpy()
        return labels[EVERY], clock.read()
    rows = tuple(map(tuple, CT_AFFINE.tolist()))
    geometry = CaseGeometry(native, rows, orientation_of(CT_AFFINE), (0, 0, 0), native, shape)
    labels = native_labels(logits, geometry, Segmentation(setup.recipe, manifest_of(setup)))
    return labels[EVERY], clock.read()


def manifest_of(setup: Setup) -> DatasetManifest:
    return DatasetManifest(
        name="made", channels=dict.fromkeys(setup.channel_names, "mri"), labels=setup.names
    )


def quiet_predictor(mirrored: bool) -> nnUNetPredictor:
    return nnUNetPredictor(use_mirroring=mirrored, device=CPU, allow_tqdm=False)


def warm() -> None:
    """Compile what our command needs, once for the machine."""
    image = Image(np.random.default_rng(0).normal(size=(30, 30, 30)).astype(np.float32), np.eye(4))
    for dtype in (np.float32, np.int16):
        each = Image((image.array * 100).astype(dtype), image.affine)
        for spacing in (1.0, 1.5):
            for scheme in ("zscore", "zscore_nonzero"):
                plan = Plan(
                    spacing_mm=(spacing,) * 3,
                    shape_median=(30, 30, 30),
                    patch_size=(16, 16, 16),
                    batch_size=2,
                    crop="nonzero",
                    normalization=(per_case(scheme),),
                )
                prepare_image([each], plan)
    export("ours", "CT-B", small=True)


def predicted(side: str, name: str, folder: Path, output: Path) -> None:
    """Masks of all images of a folder, by nnU-Net's predictor or by MONAI's transforms and inferer."""
    setup = SETUPS[name]
    if side == "nnU-Net":
        predictor = quiet_predictor(setup.mirrored)
        predictor.initialize_from_trained_model_folder(str(folder / "nnunet"), (0,))
        output.mkdir(parents=True, exist_ok=True)
        predictor.predict_from_files_sequential(str(folder / "images"), str(output))
        return
    network, _ = load_network(folder / "run", 0)
    files = sorted((folder / "images").glob("*.nii.gz"))
    save = SaveImage(
        output,
        output_postfix="",
        separate_folder=False,
        output_dtype=np.uint8,
        print_log=False,
        resample=False,
    )
    for start in range(0, len(files), setup.channels):
        image = LoadImage(image_only=True, ensure_channel_first=True)(files[start : start + setup.channels])
        image = NormalizeIntensity(nonzero=setup.nonzero, channel_wise=True)(image)
        low, high = generate_spatial_bounding_box(image, select_fn=lambda x: x != 0)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        with torch.inference_mode():
            logits = sliding_window_inference(
                torch.as_tensor(image)[(slice(None), *box)][None],
                setup.patch_size,
                1,
                network,
                overlap=0.5,
                mode="gaussian",
                sigma_scale=0.125,
            )
        mask = image[:1] * 0
        mask[(0, *box)] = logits[0].argmax(0).to(mask.dtype)
        mask.meta["filename_or_obj"] = files[start].name.replace("_0000", "")
        save(mask)


def main(arguments: list[str]) -> None:
    """`PART SIDE KIND-OR-FOLDER OUTPUT`, as benchmarks/predict.py gives them."""
    torch.set_num_threads(1)
    part, side, what, output = arguments
    if part == "warm":
        warm()
    elif part in SETUPS:
        predicted(side, part, Path(what), Path(output))
    else:
        print(json.dumps(measured(part, side, what, Path(output))))
