"""Preparation beside nnU-Net 2's own functions: speed, agreement, memory; on this machine, in this process.

    pip install nnunetv2
    python benchmarks/prepare.py [--turns 3] [--small] [--write docs/benchmarks.md]

Every stage is given the same voxels in the same memory, one thread each side. Answers are compared before
anything is timed; then ours and theirs are run in turns, so that whatever else the machine does falls on
both. Times are CPU-seconds, the least of all turns; memory is the peak beyond what the process held before.
The BraTS case is real where the data of the tests is there, else made up; the CT cases are made up: smooth
noise with 13 organs.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from sections import replace_section

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mambamed.documents.plan import Ct, Plan, ZScoreNonzero
from mambamed.io.images import Image, read_image
from mambamed.preparation.fingerprint import Histogram
from mambamed.preparation.prepare_image import prepare_image, prepare_label
from mambamed.preparation.resample import coarse_axis, resample_label, resample_volume, resampled_shape
from mambamed.preparation.store import encode_array, read_array

try:
    import torch
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
        CTNormalization,
        ZScoreNormalization,
    )
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from threadpoolctl import threadpool_limits
except ModuleNotFoundError as error:
    sys.exit(f"{error}: this benchmark compares with nnU-Net; pip install nnunetv2")

DATA = Path(os.environ.get("MAMBAMED_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
TARGET = (1.5, 1.5, 1.5)
CT = Ct(mean=60.0, std=180.0, low=-500.0, high=700.0)


@dataclass(frozen=True)
class Stage:
    """One comparison: what it is, both ways, and how far the answers are apart."""

    name: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    agreement: Callable[[Any, Any], str]


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a quarter of the CT's length along each axis")
    parser.add_argument("--only", default="", help="only stages whose name holds this")
    parser.add_argument(
        "--write", type=Path, help="Markdown file whose section of this benchmark is replaced"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| stage | nnU-Net 2, CPU-s | ours, CPU-s | ratio | memory, MB | agreement |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    with threadpool_limits(1):
        for stage in stages(options.small):
            if options.only in stage.name:
                lines.append(measured(stage, options.turns))
                print(lines[-1], flush=True)
    if options.write:
        write_section(options.write, lines)


def stages(small: bool) -> list[Stage]:
    """All comparisons."""
    factor = 4 if small else 1
    found = []
    for name, shape, spacing in (
        ("CT-A 512x512x100 at 0.8x0.8x5", (512, 512, 100), (0.8, 0.8, 5.0)),
        ("CT-B 512x512x200 at 0.8x0.8x2", (512, 512, 200), (0.8, 0.8, 2.0)),
    ):
        image, label = made_up_ct(tuple(n // factor for n in shape))
        found += ct_stages(name, image, label, spacing)
    return found + brats_stages(*brats_case())


def ct_stages(name: str, image: NDArray, label: NDArray, spacing: tuple[float, float, float]) -> list[Stage]:
    """Resampling alone, and a whole case. Ours sees `(X, Y, Z)`, theirs the same memory as `(Z, Y, X)`."""
    shape = resampled_shape(image.shape, spacing, TARGET)
    coarse = coarse_axis(spacing, TARGET)
    level = np.asfortranarray((np.clip(image, CT.low, CT.high) - CT.mean) / CT.std, np.float32)
    plan = Plan(
        spacing_mm=TARGET,
        shape_median=shape,
        patch_size=(128, 128, 128),
        batch_size=2,
        crop="nonzero",
        normalization=(CT,),
    )
    affine = np.diag([*spacing, 1.0])
    properties = {"mean": CT.mean, "std": CT.std, "percentile_00_5": CT.low, "percentile_99_5": CT.high}

    def theirs_resampled(array: NDArray, is_label: bool) -> NDArray:
        order = 1 if is_label else 3
        return resample_data_or_seg_to_shape(
            array.T[None], shape[::-1], spacing[::-1], TARGET, is_label, order, 0, None
        )[0].T

    def ours_whole() -> tuple[NDArray, NDArray]:
        array, geometry = prepare_image([Image(image, affine)], plan)
        return array[0], prepare_label(Image(label, affine), geometry)

    def ours_resampled() -> NDArray:
        out = np.empty(shape, np.float32)
        resample_volume(level, out, coarse=coarse)
        return out

    def theirs_whole() -> tuple[NDArray, NDArray]:
        data, seg, _ = crop_to_nonzero(image.T[None].astype(np.float32), label.T[None].astype(np.int8))
        data[0] = CTNormalization(False, properties).run(data[0], seg[0])
        arguments = (shape[::-1], spacing[::-1], TARGET)
        array = resample_data_or_seg_to_shape(data, *arguments, False, 3, 0, None)
        return array[0].T, resample_data_or_seg_to_shape(seg, *arguments, True, 1, 0, None)[0].T

    return [
        Stage(
            f"resample image, {name}",
            ours_resampled,
            lambda: theirs_resampled(level, False),
            of_images,
        ),
        Stage(
            f"resample label, {name}",
            lambda: resample_label(label, shape, coarse=coarse),
            lambda: theirs_resampled(label.astype(np.int8, order="F"), True),
            of_labels,
        ),
        Stage(
            f"whole case, {name}",
            ours_whole,
            theirs_whole,
            lambda a, b: f"{of_images(a[0], b[0])}, {of_labels(a[1], np.maximum(b[1], 0))}",
        ),
        Stage(
            f"foreground statistics, {name}",
            lambda: quantiles_of(Histogram.of(image, label)),
            lambda: quantiles_of_voxels(image.T[label.T > 0]),
            lambda a, b: f"image {np.abs(np.subtract(a, b)).max():.1e}",
        ),
    ]


def brats_stages(images: list[Image], label: NDArray) -> list[Stage]:
    """Crop and z-score of four channels, and a patch read from the store."""
    plan = Plan(
        spacing_mm=(1.0, 1.0, 1.0),
        shape_median=(140, 170, 140),
        patch_size=(128,) * 3,
        batch_size=2,
        crop="nonzero",
        normalization=(ZScoreNonzero(),) * 4,
    )
    flipped = [Image(image.array, np.diag([1.0, 1.0, 1.0, 1.0])) for image in images]
    stacked = np.stack([image.array.T for image in images])

    def theirs() -> NDArray:
        data, seg, _ = crop_to_nonzero(stacked.astype(np.float32), label.T[None].astype(np.int8))
        for channel in range(4):
            data[channel] = ZScoreNormalization(True, {}).run(data[channel], seg[0])
        return data.transpose(0, 3, 2, 1)

    def ours() -> NDArray:
        return prepare_image(flipped, plan, dtype=np.float16)[0]  # as stored; nnU-Net keeps float32

    folder = tempfile.TemporaryDirectory()
    array = ours()
    ours_file, theirs_file = Path(folder.name) / "ours.b2nd", Path(folder.name) / "theirs.b2nd"
    ours_file.write_bytes(encode_array(array))
    theirs_dataset = nnunet_store(theirs_file, array.astype(np.float32))
    rng = np.random.default_rng(0)
    starts = [[int(rng.integers(0, n - 127)) for n in array.shape[1:]] for _ in range(10)]

    def ours_read() -> float:
        for start in starts:
            patch = read_array(ours_file, (start, [a + 128 for a in start]))
        return float(patch[0, 0, 0, 0]) + 0 * len(folder.name)  # the folder lives as long as this does

    def theirs_read() -> float:
        for start in starts:
            patch = theirs_dataset()[(slice(None), *(slice(a, a + 128) for a in start))]
        return float(patch[0, 0, 0, 0])

    return [
        Stage("crop and z-score, BraTS 4x240x240x155", ours, theirs, of_halves),
        Stage(
            "ten patches of 4x128x128x128 from the store", ours_read, theirs_read, lambda a, b: f"{a - b:.1e}"
        ),
    ]


def nnunet_store(file: Path, array: NDArray[np.float32]) -> Callable[[], Any]:
    """A case as nnU-Net 2 stores it: float32, its own chunks and codec; how it opens it for each patch."""
    import blosc2
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

    blocks, chunks = comp_blosc2_params(array.shape, (128, 128, 128), array.itemsize)
    nnUNetDatasetBlosc2.save_case(
        array,
        np.zeros((1, *array.shape[1:]), np.int8),
        {},
        str(file.with_suffix("")),
        chunks=chunks,
        blocks=blocks,
    )
    return lambda: blosc2.open(urlpath=str(file), mode="r", dparams={"nthreads": 1}, mmap_mode="r")


def measured(stage: Stage, turns: int) -> str:
    """A row of the table."""
    agreement = stage.agreement(stage.ours(), stage.theirs())
    peaks = [peak_mb(way) for way in (stage.theirs, stage.ours)]
    pairs = [(cpu_seconds(stage.theirs), cpu_seconds(stage.ours)) for _ in range(turns)]
    theirs, ours = (min(times) for times in zip(*pairs, strict=True))
    return (
        f"| {stage.name} | {theirs:.3f} | {ours:.3f} | {theirs / ours:.0f} | {peaks[0]:.0f} → {peaks[1]:.0f} "
        f"| {agreement} |"
    )


def cpu_seconds(function: Callable[[], Any]) -> float:
    """CPU time of one run, with nothing to collect from before."""
    gc.collect()
    began = time.process_time()
    function()
    return time.process_time() - began


def peak_mb(function: Callable[[], Any]) -> float:
    """Memory that one run takes beyond what the process held (Linux; nan elsewhere)."""
    gc.collect()
    if (
        sys.platform == "linux"
    ):  # what was freed goes back to the system, so that it is counted when taken anew
        ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    Path("/proc/self/clear_refs").write_text("5")

    def held(key: str) -> int:
        return int(next(line for line in status.read_text().splitlines() if line.startswith(key)).split()[1])

    before = held("VmRSS:")
    function()
    return (held("VmHWM:") - before) / 1024


def of_images(ours: NDArray, theirs: NDArray) -> str:
    """Largest difference in units of normalized intensity; refuses more than 1e-4."""
    gap = float(np.abs(ours.astype(np.float64) - theirs).max())
    if gap > 1e-4:
        sys.exit(f"images differ by {gap:.2e}, more than 1e-4")
    return f"image {gap:.1e}"


def of_halves(ours: NDArray, theirs: NDArray) -> str:
    """As `of_images`, ours being float16: no more than 1e-4 beside the rounding to 11 bits."""
    gap = np.abs(ours.astype(np.float64) - theirs) - np.abs(theirs) * 2.0**-11
    if gap.max() > 1e-4:
        sys.exit(f"images differ by {gap.max():.2e} more than float16 rounds")
    return f"image {max(0.0, float(gap.max())):.1e} in addition to float16 rounding"


def of_labels(ours: NDArray, theirs: NDArray) -> str:
    """Share of equal voxels. Where they differ, nnU-Net must have left background between three labels."""
    share = float((ours == theirs).mean())
    holes = float((theirs[ours != theirs] == 0).mean()) if share < 1 else 1.0
    if share < 0.9999:
        sys.exit(f"labels agree in {share:.4%}; {holes:.1%} of the rest is background to nnU-Net")
    return f"labels {share:.4%}"


def quantiles_of(histogram: Histogram) -> list[float]:
    return [
        *histogram.mean_and_std(),
        histogram.quantile(0.005),
        histogram.quantile(0.5),
        histogram.quantile(0.995),
    ]


def quantiles_of_voxels(voxels: NDArray) -> list[float]:
    """The statistics of nnU-Net's fingerprint, over all foreground voxels."""
    low, middle, high = np.percentile(voxels, [0.5, 50, 99.5])
    return [float(voxels.mean(dtype=np.float64)), float(voxels.std(dtype=np.float64)), low, middle, high]


def made_up_ct(shape: tuple[int, ...]) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Smooth tissue and 13 organs, Fortran-ordered as a file gives it."""
    rng = np.random.default_rng(0)
    coarse = tuple(max(2, n // 8) for n in shape)
    tissue = scipy.ndimage.gaussian_filter(rng.normal(size=coarse), 1.5)
    grown = scipy.ndimage.zoom(tissue, [n / m for n, m in zip(shape, coarse, strict=True)], order=1)
    image = np.rint(grown / grown.std() * 150 + rng.normal(0, 15, shape)).astype(np.int16)
    label = np.zeros(shape, np.uint8)
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    for organ in range(1, 14):
        center = [rng.uniform(0.2, 0.8) * n for n in shape]
        radius = [rng.uniform(0.05, 0.14) * n for n in shape]
        parts = zip(grid, center, radius, strict=True)
        label[sum(((axis - c) / r) ** 2 for axis, c, r in parts) < 1] = organ
    return np.asfortranarray(image), np.asfortranarray(label)


def brats_case() -> tuple[list[Image], NDArray]:
    """The first real case, or noise in a hollow ball."""
    folders = sorted((DATA / "brats_tcia" / "training").glob("*"))
    if folders:
        files = [next(folders[0].glob(f"*-{name}.nii.gz")) for name in ("t1n", "t1c", "t2w", "t2f", "seg")]
        *images, label = (read_image(file) for file in files)
        return images, np.asfortranarray(label.array.astype(np.uint8))
    shape, rng = (240, 240, 155), np.random.default_rng(1)
    grid = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    distance = np.sqrt(sum(axis**2 for axis in grid))
    inside = (distance < 0.7) & (distance > 0.1)
    arrays = [np.where(inside, rng.integers(20, 900, shape), 0).astype(np.int16, order="F") for _ in range(4)]
    label = np.asfortranarray((distance < 0.3).astype(np.uint8))
    return [Image(array, np.eye(4)) for array in arrays], label


def write_section(file: Path, lines: list[str]) -> None:
    """Replace this benchmark's part of the file, between its marks."""
    lead = (
        "Measured with `python benchmarks/prepare.py`: nnU-Net 2's own functions and those of mambamed, in "
        "one process, one thread each, alternating; minimum CPU-seconds; memory in addition to what the "
        "process already held. Labels differ only where two labels have equal shares and rounding decides, "
        "or where three labels meet and nnU-Net assigns background."
    )
    title = "## Preparation compared with nnU-Net 2"
    replace_section(file, "prepare", "prepare.py", [title, "", lead, "", *lines])


if __name__ == "__main__":
    main()
