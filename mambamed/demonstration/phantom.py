"""Brain-tumor phantoms: four-channel MR-like volumes with nested regions, for the demo and for tests.

A skull-stripped head with folded cortex, white matter and ventricles; a glioma-like lesion with an
edema (ED), an enhancing rim (ET) and a necrotic core (NCR); channel contrasts in the order of T1,
contrast-enhanced T1, T2 and FLAIR; a smooth bias field and Rician noise. The anatomy is not
realistic, and each case depends only on its seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from mambamed.io.images import Image, write_image

CHANNELS = ("t1n", "t1c", "t2w", "t2f")
LABELS = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}

# Relative signal of each tissue in t1n, t1c, t2w, t2f: the order of brightness seen in glioma MR
# (CSF dark on T1 and FLAIR, edema bright on T2 and FLAIR, the rim bright on contrast-enhanced T1 only).
_SIGNAL = {
    "csf": (0.25, 0.25, 1.00, 0.20),
    "gray": (0.60, 0.62, 0.65, 0.62),
    "white": (0.85, 0.88, 0.45, 0.48),
    "ED": (0.58, 0.62, 0.88, 0.98),
    "ET": (0.62, 1.25, 0.78, 0.86),
    "NCR": (0.34, 0.38, 0.92, 0.60),
}


@dataclass(frozen=True)
class Phantom:
    """One case.

    Attributes:
        image: `(4, X, Y, Z)` float32, channels as in `CHANNELS`, zero outside the head.
        label: `(X, Y, Z)` uint8, values as in `LABELS`.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    spacing_mm: float


def make_phantom(seed: int, shape: tuple[int, int, int] = (64, 80, 64), spacing_mm: float = 2.0) -> Phantom:
    """Make one case of `(X, Y, Z)` voxels; the same seed gives the same voxels.

    >>> phantom = make_phantom(0, shape=(32, 40, 32), spacing_mm=4.0)
    >>> phantom.image.shape, sorted(np.unique(phantom.label).tolist())
    ((4, 32, 40, 32), [0, 1, 2, 3])
    """
    rng = np.random.default_rng([seed, 20240203])
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    folds = _smooth_noise(rng, shape, 5.0 / spacing_mm)
    waves = _smooth_noise(rng, shape, 16.0 / spacing_mm)
    head = np.array([0.80, 0.86, 0.80]) * rng.uniform(0.95, 1.05, 3)
    depth = 1 - np.sqrt(np.sum((grid / head[:, None, None, None]) ** 2, axis=0)) + 0.03 * waves

    brain = depth > 0
    tissue = np.full(shape, "csf", dtype="<U5")
    tissue[depth > 0.04 + 0.06 * folds] = "gray"
    tissue[depth > 0.20 + 0.13 * folds] = "white"
    tissue[np.abs(grid[0]) < 0.03 + 0.01 * waves] = "csf"
    for side in (-1, 1):
        center = np.array([0.16 * side, 0.02, 0.08]) + rng.normal(0, 0.02, 3)
        tissue[_blob(grid, center, np.array([0.09, 0.36, 0.14]), 0.15 * waves)] = "csf"

    label = _lesion(rng, grid, depth, spacing_mm)
    for name in ("ED", "NCR", "ET"):
        tissue[label == LABELS[name]] = name
    image = np.zeros((len(CHANNELS), *shape), np.float32)
    for channel, volume in enumerate(image):
        for name, signal in _SIGNAL.items():
            volume[tissue == name] = signal[channel] * rng.uniform(0.94, 1.06)
        volume *= 1 + 0.06 * folds
        volume[:] = scipy.ndimage.gaussian_filter(volume, 1.2 / spacing_mm)
        volume *= np.exp(0.18 * _smooth_noise(rng, shape, 60.0 / spacing_mm))
        real, imaginary = rng.normal(0, 0.035, (2, *shape))
        volume[:] = np.hypot(volume + real, imaginary) * rng.uniform(600, 1400)
        volume[~brain] = 0
    label[~brain] = 0
    return Phantom(image, label, spacing_mm)


def write_phantoms(
    folder: Path, count: int, first_seed: int = 0, labels: bool = True, **options: Any
) -> list[Path]:
    """Write phantoms as BraTS 2023 case folders: `PHANTOM-0000/PHANTOM-0000-t1n.nii.gz`, ..., `-seg.nii.gz`.

    Returns the case folders; the seeds are consecutive, the options are those of `make_phantom`.
    """
    cases = []
    for seed in range(first_seed, first_seed + count):
        phantom = make_phantom(seed, **options)
        affine = np.diag([phantom.spacing_mm] * 3 + [1.0])
        affine[:3, 3] = -0.5 * phantom.spacing_mm * np.array(phantom.label.shape)
        case = folder / f"PHANTOM-{seed:04d}"
        case.mkdir(parents=True, exist_ok=True)
        for name, volume in zip(CHANNELS, phantom.image, strict=True):
            array = np.rint(volume).astype(np.int16)
            write_image(case / f"{case.name}-{name}.nii.gz", array, like=Image(array, affine))
        if labels:
            write_image(case / f"{case.name}-seg.nii.gz", phantom.label, like=Image(phantom.label, affine))
        cases.append(case)
    return cases


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], sigma: float) -> NDArray[np.float32]:
    """Gaussian noise smoothed by `sigma` voxels, scaled to unit standard deviation."""
    noise = rng.normal(size=shape).astype(np.float32)
    smooth = scipy.ndimage.gaussian_filter(noise, min(sigma, min(shape) / 4), mode="reflect")
    return (smooth - smooth.mean()) / smooth.std()


def _blob(
    grid: NDArray[np.float64],
    center: NDArray[np.float64],
    radii: NDArray[np.float64],
    bumps: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """An ellipsoid with a bumpy surface."""
    offset = (grid - center[:, None, None, None]) / radii[:, None, None, None]
    return np.sqrt(np.sum(offset**2, axis=0)) < 1 + bumps


def _lesion(
    rng: np.random.Generator, grid: NDArray[np.float64], depth: NDArray[np.float64], spacing_mm: float
) -> NDArray[np.uint8]:
    """The label map: an edema around an enhancing rim around a necrotic core, inside the head."""
    shape = (depth.shape[0], depth.shape[1], depth.shape[2])
    bumps = _smooth_noise(rng, shape, 9.0 / spacing_mm)
    direction = rng.normal(size=3)
    center = direction / np.linalg.norm(direction) * rng.uniform(0.25, 0.42)
    radii = rng.uniform(0.26, 0.40) * rng.uniform(0.85, 1.15, 3)
    whole = _blob(grid, center, radii, 0.22 * bumps) & (depth > 0.06)
    inner = center + rng.normal(0, 0.03, 3)
    core = _blob(grid, inner, 0.62 * radii, 0.16 * bumps) & whole
    necrosis = _blob(grid, inner, rng.uniform(0.32, 0.44) * radii, 0.16 * bumps) & core
    label = np.zeros(shape, np.uint8)
    label[whole] = LABELS["ED"]
    label[core] = LABELS["ET"]
    label[necrosis] = LABELS["NCR"]
    return label
