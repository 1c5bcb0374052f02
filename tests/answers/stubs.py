"""A run that answers at once: a network of one layer with known weights, and images to be segmented."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import nn

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan, ZScore
from mambamed.networks import build_network
from mambamed.recipe import Recipe
from mambamed.run.checkpoint import write_checkpoint
from mambamed.run.folder import Run, create_run, planned_run

OPTIONS = {"channels": 4, "mixer": "none"}
NETWORK = {"name": "nnmamba", **OPTIONS}
MANIFEST = DatasetManifest(name="blobs", channels={"a": "mri"}, labels={"background": 0, "one": 1, "two": 5})


def stub_run(
    root: Path,
    *,
    folds: tuple[int, ...] = (0,),
    manifest: DatasetManifest = MANIFEST,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    patch_size: tuple[int, int, int] = (16, 16, 16),
    network: Mapping[str, Any] = NETWORK,
) -> Run:
    """A run folder whose folds hold an untrained network, each of its own seed."""
    recipe = Recipe.model_validate({"name": "stub", "network": network})
    plan = Plan(
        spacing_mm=spacing,
        shape_median=(20, 22, 18),
        patch_size=patch_size,
        batch_size=2,
        crop="nonzero",
        normalization=(ZScore(),) * len(manifest.channels),
    )
    run = create_run(planned_run(recipe, plan, manifest, root))
    for fold in folds:
        outputs = len(manifest.regions) or len(manifest.labels)
        made = lively_network(len(manifest.channels), outputs, fold, network)
        weights = {f"network.{name}": tensor for name, tensor in made.state_dict().items()}
        run.fold_folder(fold).mkdir(exist_ok=True)
        write_checkpoint(run.checkpoint(fold), weights, {"step": 1})
    return run


def lively_network(channels: int, outputs: int, seed: int, options: Mapping[str, Any] = NETWORK) -> nn.Module:
    """An untrained network whose logits vary about zero, so that every label is seen."""
    image = torch.from_numpy(blob()[2:18, 3:19, 1:17] / 250.0 - 1.0).float()
    for attempt in itertools.count(1000 * seed):
        torch.manual_seed(attempt)
        network = build_network(in_channels=channels, out_channels=outputs, **options)
        network = network.eval().requires_grad_(False)
        logits = network(image.expand(1, channels, *image.shape))
        spread = logits.std((0, 2, 3, 4))
        if spread.min() > 1e-3:  # else the rectifier before the head is dead
            break
    weight, bias = [p for name, p in network.named_parameters() if "deep" not in name][-2:]
    bias.copy_((bias - logits.mean((0, 2, 3, 4))) / spread)
    weight /= spread.view(-1, 1, 1, 1, 1)
    return network


def blob(shape: tuple[int, int, int] = (20, 22, 18), seed: int = 0) -> np.ndarray:
    """An image of a bright ellipsoid in noise, int16, zero around it."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    inside = (grid**2).sum(axis=0) < 0.8
    return ((random.normal(300, 40, shape) + 400 * (grid[0] > 0.2)) * inside).astype(np.int16)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Write with nibabel, both forms set."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) if affine is None else affine
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def write_blobs(folder: Path, count: int) -> None:
    """Images `case_0.nii.gz` ... of slightly different shapes."""
    for number in range(count):
        write_nifti(folder / f"case_{number}.nii.gz", blob((20 + number, 22, 18), number))
