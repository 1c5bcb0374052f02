"""Metrics compared with MONAI, MedPy and surface-distance: agreement, speed, memory; in this process.

    pip install monai medpy surface-distance
    python benchmarks/metrics.py [--turns 3] [--small] [--write docs/benchmarks.md]

Every side is given the same masks in the same memory, one thread each, the peers already as the arrays they
want: binary masks, which ours makes of the label maps itself. Answers are compared before anything is timed;
then all are run in turns, so that whatever else the machine does falls on all. Times are CPU-seconds
(median), a ratio is that of the medians, memory is the peak beyond what the process held before. The BraTS
case is real where the data of the tests is there, else a made-up one; the CT is the test data's organ labels
enlarged to 512 x 512 x 300, or made up; the predicted organs are the same with their surfaces perturbed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import ndimage
from sections import replace_section

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mambamed.io.images import read_image
from mambamed.metrics import parse_metrics
from mambamed.metrics.kernels import Loops, loops
from mambamed.metrics.segmentation import score_case

warnings.filterwarnings("ignore")
try:
    import medpy
    import monai
    import torch
    from medpy.metric import binary as medpy_binary
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )
    from surface_distance import metrics as surface_distance
except ModuleNotFoundError as error:
    sys.exit(f"{error}: this benchmark compares with peers; pip install monai medpy surface-distance")

DATA = Path(os.environ.get("MAMBAMED_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
CASE = "BraTS-GLI-90001-000"
FULL = ("dice", "hd95:max-directed", "assd:pooled", "nsd@1:voxel")
# MONAI keeps distances in float32 and interpolates between two of them.
TOLERANCE = {"MONAI": 1e-5, "MedPy": 1e-6, "surface-distance": 1e-6, "ours": 1e-12}
ORGANS = 15


@dataclass(frozen=True)
class Question:
    """One comparison.

    Attributes:
        title: of its rows.
        sides: name -> function that returns metric -> value; "ours" first.
        turns: how often each is run.
    """

    title: str
    sides: Mapping[str, Callable[[], Mapping[str, float]]]
    turns: int


@dataclass(frozen=True)
class Pair:
    """Two label maps and what is asked of them."""

    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    regions: Mapping[str, tuple[int, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5, help="how often each side is run; the CT once")
    parser.add_argument("--small", action="store_true", help="without the CT")
    parser.add_argument("--write", type=Path, help="Markdown file that gets the section")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["| task | side | CPU seconds | times ours | peak memory |", "|---|---|--:|--:|--:|"]
    for question in questions(options.turns, options.small):
        print(f"{question.title}: comparing answers", file=sys.stderr, flush=True)
        lines += measured(question)
    print("\n".join(lines))
    if options.write:
        write_section(options.write, lines)


def questions(turns: int, small: bool) -> list[Question]:
    """What is measured."""
    brats = brats_pair()
    one = Pair(brats.reference, brats.prediction, brats.spacing, {"WT": brats.regions["WT"]})
    where = "{}x{}x{}".format(*brats.reference.shape)
    asked = [
        Question(
            f"HD95 of one region, {where}",
            {
                "ours": lambda: ours(one, ("hd95:max-directed", "hd95:pooled")),
                "ours, without numba": lambda: ours(
                    one, ("hd95:max-directed", "hd95:pooled"), loops("numpy")
                ),
                "MONAI": with_masks(one, monai_hd95),
                "MedPy": with_masks(one, medpy_hd95),
            },
            turns,
        ),
        Question(
            f"HD95 and NSD by surface area of one region, {where}",
            {
                "ours": lambda: ours(one, ("hd95:surface-area", "nsd@1:surface-area")),
                "ours, without numba": lambda: ours(
                    one, ("hd95:surface-area", "nsd@1:surface-area"), loops("numpy")
                ),
                "surface-distance": with_masks(one, deepmind),
            },
            turns,
        ),
        Question(
            f"Dice, HD95, ASSD, NSD of WT, TC, ET, {where}",
            {
                "ours": lambda: ours(brats, FULL),
                "ours, without numba": lambda: ours(brats, FULL, loops("numpy")),
                "MONAI": with_masks(brats, monai_all),
            },
            turns,
        ),
    ]
    if not small:
        ct = ct_pair()
        where = f"{'{}x{}x{}'.format(*ct.reference.shape)}, {len(ct.regions)} organs"
        largest = max(ct.regions, key=lambda name: int(np.sum(ct.reference == ct.regions[name][0])))
        alone = Pair(ct.reference, ct.prediction, ct.spacing, {largest: ct.regions[largest]})
        asked += [
            Question(
                f"HD95 of the largest organ, {'{}x{}x{}'.format(*ct.reference.shape)}",
                {
                    "ours": lambda: ours(alone, ("hd95:max-directed", "hd95:pooled")),
                    "MONAI": with_masks(alone, monai_hd95),
                    "MedPy": with_masks(alone, medpy_hd95),
                },
                1,
            ),
            Question(
                f"Dice, HD95, ASSD, NSD, {where}",
                {
                    "ours": lambda: ours(ct, FULL),
                    "ours, without numba": lambda: ours(ct, FULL, loops("numpy")),
                    "MONAI": with_masks(ct, monai_all),
                },
                1,
            ),
        ]
    return asked


def ours(pair: Pair, metrics: tuple[str, ...], compute: Loops | None = None) -> dict[str, float]:
    """Our values, region and metric -> value."""
    scores = score_case(
        pair.reference,
        pair.prediction,
        pair.spacing,
        pair.regions,
        parse_metrics(metrics),
        compute=compute or loops("numba"),
    )
    return {f"{region} {name}": v for region, s in scores.items() for name, v in s.values.items()}


def with_masks(pair: Pair, peer: Callable) -> Callable[[], dict[str, float]]:
    """A peer over all regions, one mask at a time as the memory of a many-organ CT demands."""

    def run() -> dict[str, float]:
        values: dict[str, float] = {}
        for region, members in pair.regions.items():
            masks = [np.isin(labels, members) for labels in (pair.reference, pair.prediction)]
            values |= {f"{region} {name}": v for name, v in peer(*masks, pair.spacing).items()}
        return values

    return run


def monai_hd95(reference: NDArray, prediction: NDArray, spacing: tuple[float, ...]) -> dict[str, float]:
    pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    value = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=list(spacing))
    return {"hd95:max-directed": float(value)}


def monai_all(reference: NDArray, prediction: NDArray, spacing: tuple[float, ...]) -> dict[str, float]:
    pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": list(spacing)}
    return {
        "dice": float(compute_dice(*pair, include_background=True)),
        "hd95:max-directed": float(compute_hausdorff_distance(*pair, percentile=95, **options)),
        "assd:pooled": float(compute_average_surface_distance(*pair, symmetric=True, **options)),
        "nsd@1:voxel": float(compute_surface_dice(*pair, class_thresholds=[1.0], **options)),
    }


def medpy_hd95(reference: NDArray, prediction: NDArray, spacing: tuple[float, ...]) -> dict[str, float]:
    return {"hd95:pooled": float(medpy_binary.hd95(prediction, reference, spacing))}


def deepmind(reference: NDArray, prediction: NDArray, spacing: tuple[float, ...]) -> dict[str, float]:
    distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
    return {
        "hd95:surface-area": float(surface_distance.compute_robust_hausdorff(distances, 95)),
        "nsd@1:surface-area": float(surface_distance.compute_surface_dice_at_tolerance(distances, 1.0)),
    }


def measured(question: Question) -> list[str]:
    """Compare the answers, then run all in turns; the rows of the table."""
    answers, peaks = {}, {}
    for name, side in question.sides.items():
        side() if name.startswith("ours") else None  # numba compiles once
        answers[name], peaks[name] = peak_of(side)
    expected = answers["ours"]
    for name, values in answers.items():
        tolerance = TOLERANCE[name.partition(",")[0]]
        for key, value in values.items():
            if not np.isclose(value, expected[key], rtol=tolerance, atol=1e-12):
                sys.exit(f"{question.title}: {key}: ours {expected[key]!r}, {name} {value!r}")
    seconds: dict[str, list[float]] = {name: [] for name in question.sides}
    for _ in range(question.turns):
        for name, side in question.sides.items():
            gc.collect()
            # A side that is done in a moment is run until there is something to measure.
            runs, began = 0, time.process_time()
            while runs == 0 or time.process_time() - began < 0.2:
                side()
                runs += 1
            seconds[name].append((time.process_time() - began) / runs)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = []
    for name, median in medians.items():
        ratio = f"{median / medians['ours']:.1f}"
        rows.append(f"| {question.title} | {name} | {median:.4g} | {ratio} | {peaks[name]} |")
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def peak_of(side: Callable) -> tuple[Mapping[str, float], str]:
    """The answer, and the peak of resident memory while it was computed, beyond what was held before."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return side(), "-"
    gc.collect()
    if sys.platform == "linux":  # what was freed before must not pass for room that was there
        ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")
    before = _kilobytes(status, "VmRSS")
    answer = side()
    return answer, f"{max(0, _kilobytes(status, 'VmHWM') - before) / 1024:.0f} MB"


def _kilobytes(status: Path, key: str) -> int:
    return next(
        int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{key}:")
    )


def brats_pair() -> Pair:
    """A real tumor and what an algorithm made of it, else blobs of the same size."""
    regions = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    folder = DATA / "brats_tcia"
    if folder.is_dir():
        reference = read_image(folder / "training" / CASE / f"{CASE}-seg.nii.gz").array
        prediction = read_image(folder / "algorithms" / "isen-20" / f"{CASE}.nii.gz").array
        return Pair(reference, prediction, (1.0, 1.0, 1.0), regions)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (240, 240, 155)], indexing="ij"), axis=-1)
    radius = np.linalg.norm((grid - (90, 120, 80)) / (1.0, 0.8, 0.9), axis=-1)
    noise = smooth_noise(radius.shape, 3.0)
    maps = [np.digitize(radius + shift * noise, (12, 16, 28)) for shift in (3.0, 4.5)]
    reference, prediction = (np.choose(labels, (1, 3, 2, 0)).astype(np.uint8) for labels in maps)
    return Pair(reference, prediction, (1.0, 1.0, 1.0), regions)


def ct_pair() -> Pair:
    """Fifteen organs in 512 x 512 x 300, and the same with their surfaces perturbed."""
    shape, spacing = (512, 512, 300), (0.75, 0.75, 1.0)
    path = DATA / "ct_organs" / "example_seg.nii.gz"
    if path.is_file():
        coarse = read_image(path).array.astype(np.uint8)
        counts = np.bincount(coarse.ravel())
        counts[0] = 0
        kept = np.argsort(-counts)[:ORGANS]
        remap = np.zeros(256, np.uint8)
        remap[kept] = np.arange(1, ORGANS + 1)
        coarse = remap[coarse]
    else:
        noise = smooth_noise((128, 128, 75), 6.0)
        coarse = np.digitize(noise, np.linspace(0.4, 2.5, ORGANS + 1)).astype(np.uint8) % (ORGANS + 1)
    places = [np.arange(n) * m // n for n, m in zip(shape, coarse.shape, strict=True)]
    moved = [
        np.clip(np.round(p + 0.35 * np.sin(np.arange(p.size) / 17)), 0, m - 1).astype(int)
        for p, m in zip([np.arange(n) * m / n for n, m in zip(shape, coarse.shape, strict=True)],
                        coarse.shape, strict=True)
    ]  # fmt: skip
    reference = np.asfortranarray(coarse[np.ix_(*places)])
    prediction = np.asfortranarray(coarse[np.ix_(*moved)])
    regions = {f"organ {k}": (k,) for k in range(1, ORGANS + 1)}
    return Pair(reference, prediction, spacing, regions)


def smooth_noise(shape: tuple[int, ...], sigma: float) -> NDArray:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape).astype(np.float32), sigma)
    return noise / noise.std()


def write_section(path: Path, lines: list[str]) -> None:
    """Put the table between its marks."""
    versions = (
        f"MONAI {monai.__version__}, MedPy {getattr(medpy, '__version__', '0.5')}, surface-distance 0.1, "
        f"numpy {np.__version__}, scipy {scipy.__version__}, Python {platform.python_version()}"
    )
    lead = (
        f"Measured with `python benchmarks/metrics.py`: one thread each, {versions}, "
        f"{platform.machine()}. All results were checked to be equal before timing: within 1e-6 of MedPy and "
        "surface-distance, and within 1e-5 of MONAI, which computes in float32. "
        "Peak memory is in addition to the label maps."
    )
    title = "## Metrics compared with MONAI, MedPy and surface-distance"
    replace_section(path, "metrics", "metrics.py", [title, "", lead, "", *lines])


if __name__ == "__main__":
    main()
