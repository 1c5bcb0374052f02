"""The cases and networks of benchmarks/predict.py: one set of weights, as nnU-Net keeps it and as ours.

A network of nnU-Net's own class is trained for a minute, so that it has opinions, which an untrained one has
not; then it is written as a trained model of nnU-Net, and imported into a run of ours. Files are stored in
RAS+ order, for nnU-Net reads an image in the order of its file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from mambamed.documents.plan import Plan, per_case
from mambamed.geometry import orientation_of, to_ras
from mambamed.io.images import Image, read_image, write_image
from mambamed.preparation.prepare_image import prepare_image, prepare_label
from mambamed.recipe import Recipe
from mambamed.run.import_weights import import_weights
from mambamed.training.shallow import make_shallow_safe

DATA = Path(os.environ.get("MAMBAMED_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@dataclass(frozen=True)
class Setup:
    """A network and its cases.

    Attributes:
        patch_size: of prediction; of training it is `training_size`.
        widths: channels of the stages.
        mirrored: whether both sides average over the eight mirrored copies.
        nonzero: whether statistics are of the voxels that are not zero.
        steps: of training.
    """

    channels: int
    labels: int
    patch_size: tuple[int, int, int]
    training_size: tuple[int, int, int]
    widths: tuple[int, ...]
    spacing_mm: float = 1.0
    mirrored: bool = False
    nonzero: bool = False
    steps: int = 60

    @property
    def names(self) -> dict[str, int]:
        return {"background": 0, **{f"label_{n}": n for n in range(1, self.labels)}}

    @property
    def channel_names(self) -> list[str]:
        return [f"channel_{n}" for n in range(self.channels)]

    @property
    def architecture(self) -> dict[str, Any]:
        """nnU-Net's plain U-Net as its plans describe it."""
        count = len(self.widths)
        return {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": count,
                "features_per_stage": list(self.widths),
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * count,
                "strides": [[1, 1, 1]] + [[2, 2, 2]] * (count - 1),
                "n_conv_per_stage": [2] * count,
                "n_conv_per_stage_decoder": [2] * (count - 1),
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }

    @property
    def plans(self) -> dict[str, Any]:
        """nnU-Net's plans.json, with its own functions for all that is resampled."""
        resampling = {"force_separate_z": None}
        seg = {"is_seg": True, "order": 1, "order_z": 0, **resampling}
        values = {"is_seg": False, "order": 3, "order_z": 0, **resampling}
        configuration = {
            "data_identifier": "made",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": list(self.patch_size[::-1]),
            "median_image_size_in_voxels": list(self.patch_size[::-1]),
            "spacing": [self.spacing_mm] * 3,
            "normalization_schemes": ["ZScoreNormalization"] * self.channels,
            "use_mask_for_norm": [self.nonzero] * self.channels,
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": values,
            "resampling_fn_seg_kwargs": seg,
            "resampling_fn_probabilities_kwargs": {**values, "order": 1},
            "architecture": self.architecture,
            "batch_dice": False,
        }
        return {
            "dataset_name": "made",
            "plans_name": "nnUNetPlans",
            "original_median_spacing_after_transp": [self.spacing_mm] * 3,
            "original_median_shape_after_transp": list(self.patch_size[::-1]),
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {"3d_fullres": configuration},
            "experiment_planner_used": "ExperimentPlanner",
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {str(n): {} for n in range(self.channels)},
        }

    @property
    def dataset(self) -> dict[str, Any]:
        """nnU-Net's dataset.json."""
        return {
            "channel_names": {str(n): name for n, name in enumerate(self.channel_names)},
            "labels": self.names,
            "numTraining": 1,
            "file_ending": ".nii.gz",
        }

    @property
    def recipe(self) -> Recipe:
        """The same for us."""
        mirror = ["x", "y", "z"] if self.mirrored else []
        document = {
            "name": "made",
            "dataset": {"channels": dict.fromkeys(self.channel_names, "mri"), "labels": self.names},
            "preprocess": {
                "spacing": [self.spacing_mm] * 3,
                "crop": "nonzero",
                "normalize": "zscore_nonzero" if self.nonzero else "zscore",
            },
            "network": {
                "name": "nnunet",
                "channels": self.widths[0],
                "max_channels": max(self.widths),
                "stages": len(self.widths),
            },
            "training": {"patch_size": list(self.patch_size), "augment": {"mirror": mirror}},
            "inference": {"overlap": 0.5, "gaussian": True, "tta": "mirror" if self.mirrored else "none"},
        }
        return Recipe.model_validate(document)


SETUPS = {
    "case": Setup(4, 4, (128, 128, 128), (64, 64, 64), (32, 64, 128, 256, 320, 320), nonzero=True),
    "small": Setup(1, 3, (40, 56, 40), (40, 56, 40), (32, 64, 128, 256), steps=120),
    "memory": Setup(1, 14, (128, 128, 128), (96, 96, 96), (8, 16, 32), spacing_mm=1.5, steps=400),
}


def make(name: str, folder: Path) -> None:
    """Cases, nnU-Net's model and our run, in a folder; what is there already is kept.

    `folder/images`, `folder/nnunet`, `folder/run`.
    """
    setup = SETUPS[name]
    if (folder / "whole").is_file():
        return
    cases = list(CASES[name]())
    for number, (channels, affine, label) in enumerate(cases):
        for channel, array in enumerate(channels):
            path = folder / "images" / f"case_{number:02}_{channel:04}.nii.gz"
            write_image(path, array, like=Image(array, affine))
        del label
    network = trained(setup, cases)
    nnunet = folder / "nnunet"
    (nnunet / "fold_0").mkdir(parents=True, exist_ok=True)
    (nnunet / "plans.json").write_text(json.dumps(setup.plans))
    (nnunet / "dataset.json").write_text(json.dumps(setup.dataset))
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2) if setup.mirrored else None,
    }
    torch.save(checkpoint, nnunet / "fold_0" / "checkpoint_final.pth")
    import_weights(nnunet / "fold_0" / "checkpoint_final.pth", setup.recipe, folder / "run")
    (folder / "whole").touch()


Case = tuple[list[NDArray], NDArray, NDArray]  # channels, affine, label


def brats() -> Iterator[Case]:
    """A real case where there is one, else noise in a hollow ball."""
    folders = sorted((DATA / "brats_tcia" / "training").glob("*"))
    if folders:
        files = [next(folders[0].glob(f"*-{name}.nii.gz")) for name in ("t1n", "t1c", "t2w", "t2f", "seg")]
        *channels, label = [in_ras(read_image(file)) for file in files]
        yield channels, np.eye(4), label.astype(np.uint8)
        return
    shape, rng = (240, 240, 155), np.random.default_rng(1)
    grid = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    distance = np.sqrt(sum((axis / edge) ** 2 for axis, edge in zip(grid, (0.55, 0.7, 0.9), strict=True)))
    label = ((distance < 0.8).astype(np.uint8) + (distance < 0.4) + (distance < 0.2)).astype(np.uint8)
    noise = [rng.integers(1, 300, shape) for _ in range(4)]
    channels = [np.where(distance < 1, each + 150 * label, 0).astype(np.int16) for each in noise]
    yield channels, np.eye(4), label


def hippocampi() -> Iterator[Case]:
    """65 cases of the Decathlon's Task04 where it is, else balls in noise."""
    folder = DATA / "Task04_Hippocampus"
    files = sorted((folder / "imagesTr").glob("hippocampus*.nii.gz"))[:65]
    for file in files:
        image, label = read_image(file), read_image(folder / "labelsTr" / file.name)
        yield [in_ras(image).astype(np.float32)], np.eye(4), in_ras(label).astype(np.uint8)
    rng = np.random.default_rng(2)
    for _ in range(65 - len(files)):
        shape = tuple(int(n) for n in rng.integers((31, 46, 28), (42, 58, 44)))
        grid = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
        inside = sum(axis**2 for axis in grid) < 0.4
        label = (inside * (1 + (grid[1] > 0))).astype(np.uint8)
        yield [(rng.normal(100, 20, shape) + 30 * label).astype(np.float32)], np.eye(4), label


def organs() -> Iterator[Case]:
    """A CT of 512 x 512 x 200 at 0.8 x 0.8 x 2 mm with 13 organs, each of its own density."""
    shape, rng = (512, 512, 200), np.random.default_rng(0)
    label = np.zeros(shape, np.uint8)
    grid = np.ogrid[tuple(slice(0, 1, n * 1j) for n in shape)]
    for organ in range(1, 14):
        center, radius = rng.uniform(0.2, 0.8, 3), rng.uniform(0.05, 0.14, 3)
        inside = sum(((a - c) / r) ** 2 for a, c, r in zip(grid, center, radius, strict=True)) < 1
        label[inside] = organ
    tissue = scipy.ndimage.zoom(rng.normal(0, 30, (64, 64, 25)).astype(np.float32), 8, order=1)
    density = rng.permutation(14).astype(np.float32)[label] * 60
    image = density + tissue + rng.normal(0, 10, shape).astype(np.float32)
    yield [np.rint(image).astype(np.int16)], np.diag([0.8, 0.8, 2.0, 1.0]), label


CASES = {"case": brats, "small": hippocampi, "memory": organs}


def in_ras(image: Image) -> NDArray:
    return np.ascontiguousarray(to_ras(image.array, orientation_of(image.affine)))


def trained(setup: Setup, cases: list[Case]) -> nn.Module:
    """nnU-Net's network after a few steps of AdamW, in float32, on `(z, y, x)` arrays."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    described = setup.architecture
    network: Any = get_network_from_plans(
        described["network_class_name"],
        described["arch_kwargs"],
        described["_kw_requires_import"],
        setup.channels,
        setup.labels,
        deep_supervision=False,
    )
    scheme = "zscore_nonzero" if setup.nonzero else "zscore"
    spacing = (setup.spacing_mm,) * 3
    plan = Plan(
        spacing_mm=spacing,
        shape_median=setup.patch_size,
        patch_size=setup.patch_size,
        batch_size=2,
        crop="nonzero",
        normalization=(per_case(scheme),) * setup.channels,
    )
    prepared = []
    for channels, affine, label in cases[:20]:
        image, geometry = prepare_image([Image(each, affine) for each in channels], plan)
        prepared.append((image, prepare_label(Image(label, affine), geometry)))
    network.train().to(memory_format=torch.channels_last_3d)
    make_shallow_safe(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for step in range(setup.steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 10) * (1 - step / setup.steps)
        image, label = prepared[rng.integers(len(prepared))]
        patch, target = random_patch(image, label, setup.training_size, rng)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(patch.to(memory_format=torch.channels_last_3d))
        loss = functional.cross_entropy(logits.float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval().to(memory_format=torch.contiguous_format)


def random_patch(
    image: NDArray, label: NDArray, size: tuple[int, int, int], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A patch around a labeled voxel, or any one; zeros beyond the image."""
    inside = np.argwhere(label[::4, ::4, ::4] > 0) * 4
    center = inside[rng.integers(len(inside))] if len(inside) and rng.random() < 0.7 else None
    cut_image = np.zeros((len(image), *size), np.float32)
    cut_label = np.zeros(size, np.int64)
    here, there = [], []
    for axis, edge in enumerate(size):
        length = label.shape[axis]
        start = int(rng.integers(length)) if center is None else int(center[axis])
        start = max(0, min(start - edge // 2, length - edge))
        stop = min(start + edge, length)
        here.append(slice(start, stop))
        there.append(slice(0, stop - start))
    cut_image[(slice(None), *there)] = image[(slice(None), *here)]
    cut_label[tuple(there)] = label[tuple(here)]
    turned = np.ascontiguousarray(cut_image.transpose(0, 3, 2, 1))
    return torch.from_numpy(turned)[None], torch.from_numpy(np.ascontiguousarray(cut_label.T))[None]
