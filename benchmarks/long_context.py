"""When a Mamba pays: a made dataset whose labels depend on a marker far from the labelled voxels.

    OMP_NUM_THREADS=1 python benchmarks/long_context.py [--distances 32,128] [--seeds 3] [--steps 400]

A volume holds four rods along z. Each rod has a marker at one end, bright or dark, and a blob farther along
it. All blobs look the same; the class of a blob is the kind of the marker of its rod. Half of the markers of
a volume are bright, so that their number says nothing, and chance is 50 %. Each distance is a dataset of its
own. U-Mamba, `hybrid_unet` and their twins without scans are trained by `mambamed study`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from scipy import ndimage
from sections import replace_section
from torch import Tensor, nn

import mambamed
from mambamed.io.images import Image, read_image, write_image
from mambamed.networks import build_network
from mambamed.networks.parts.instance_norm import InstanceNorm
from mambamed.report.canvas import new_figure, plain_style, png_of

DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURE = "long_context.png"
LABELS = {"background": 0, "dark": 1, "bright": 2}
RODS, CELL = (2, 2), 8  # rods along x and y; voxels between them
RADIUS = 2  # of markers and blobs
MARGIN = 8  # from the ends of the volume to the centers of markers and blobs, before they are shifted
ROD, BLOB, DARK, BRIGHT, NOISE = 1.0, 2.0, -2.0, 4.0, 0.3  # intensities, and a standard deviation
TRAINING, VALIDATION = 128, 32  # cases
CHANNELS, LR, BATCH = 8, 3e-3, 2
# Statistics of instance norms would carry the kind of a marker through the whole patch.
PLAN = {"norm": "batch", "strides": [1, 2, 2, 2]}
NETWORKS: dict[str, dict[str, Any]] = {
    "umamba": {"name": "umamba", "variant": "bot", **PLAN},
    "hybrid_unet": {"name": "hybrid_unet", **PLAN},
}
ROWS = {
    "umamba": "U-Mamba, one scan at the bottom",
    "umamba-none": "its twin without the scan (`mixer: none`)",
    "hybrid_unet": "`hybrid_unet`, two scans in each of the two deepest stages",
    "hybrid_unet-none": "its twin without the scans",
}
OFF = ("rotate", "scale", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma")

Results = Mapping[tuple[str, int], Sequence[float]]


class Rods(NamedTuple):
    """One case.

    Attributes:
        image: `(X, Y, Z)` float32.
        label: `(X, Y, Z)` uint8, values as in `LABELS`.
        kinds: per rod, 1 or 2: the label of its blob. The rods are in the order of x, then y.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    kinds: NDArray[np.uint8]


def shape_of(distance: int) -> tuple[int, int, int]:
    """Voxels of a volume, a multiple of 16 along each axis if the distance is."""
    return RODS[0] * CELL, RODS[1] * CELL, 2 * MARGIN + 2 * CELL + distance


def make_rods(seed: int, distance: int) -> Rods:
    """Make a case; the same seed and distance give the same voxels.

    Args:
        seed: number of the case.
        distance: voxels along z between the last voxel of a marker and the first one of its blob.
    """
    rng = np.random.default_rng([seed, distance])
    count, shape = math.prod(RODS), shape_of(distance)
    kinds = rng.permutation(np.arange(count) % 2 + 1).astype(np.uint8)
    image, label = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    x, y, z = np.indices(shape)
    for kind, cell in zip(kinds, np.ndindex(*RODS), strict=True):
        at_x, at_y = np.array(cell) * CELL + CELL // 2 + rng.integers(-1, 2, 2)
        at_z = MARGIN + rng.integers(-2, 3)
        from_rod = (x - at_x) ** 2 + (y - at_y) ** 2
        marker = from_rod + (z - at_z) ** 2 <= RADIUS**2 + 1
        blob = from_rod + (z - at_z - distance - 2 * RADIUS - 1) ** 2 <= RADIUS**2 + 1
        image[from_rod == 0] = ROD
        image[marker] = DARK if kind == LABELS["dark"] else BRIGHT
        image[blob] = BLOB
        label[blob] = kind
    return Rods(image + rng.normal(0, NOISE, shape).astype(np.float32), label, kinds)


def write_dataset(folder: Path, distance: int, cases: int) -> None:
    """Write cases with the seeds 0, 1, ... in the raw format of nnU-Net."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for seed in range(cases):
        rods = make_rods(seed, distance)
        image = np.rint(100 * rods.image).astype(np.int16)
        like = Image(image, np.eye(4))
        write_image(folder / "imagesTr" / f"{_case(seed)}_0000.nii.gz", image, like=like)
        write_image(folder / "labelsTr" / f"{_case(seed)}.nii.gz", rods.label, like=like)
    told = {
        "channel_names": {"0": "rods"},
        "labels": LABELS,
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(told), encoding="utf-8")


def _case(seed: int) -> str:
    return f"rods{seed:03d}"


def prepare_dataset(folder: Path, distance: int) -> Path:
    """The prepared dataset of a distance, with one fold."""
    raw, prepared = folder / f"raw_{distance}", folder / "prepared" / f"rods_{distance}"
    if not (prepared / "plan.json").is_file():
        cases = [_case(seed) for seed in range(TRAINING + VALIDATION)]
        if not raw.is_dir():
            write_dataset(raw, distance, len(cases))
        splits = folder / "splits.json"
        fold = {"train": cases[:TRAINING], "val": cases[TRAINING:]}
        splits.write_text(json.dumps([fold]), encoding="utf-8")
        mambamed.prepare(raw, prepared, splits=splits, qc=False, workers=1)
    return prepared


def recipe_of(row: str, steps: int) -> dict[str, Any]:
    """The recipe of a network; the patch is the whole volume, which the study sets for each dataset.

    It has one epoch, so that no checkpoint is chosen on the validation cases.
    """
    return {
        "task": "segmentation",
        "dataset": {"channels": {"rods": "mri"}, "labels": LABELS},
        "network": {"channels": CHANNELS, **NETWORKS[row]},
        "training": {
            "epochs": 1,
            "steps_per_epoch": steps,
            "batch_size": BATCH,
            "optimizer": {"name": "adamw", "lr": LR, "weight_decay": 1e-2},
            "schedule": {"name": "cosine", "warmup_steps": min(40, steps // 4)},
            "augment": {"mirror": ["x", "y"], **dict.fromkeys(OFF, 0)},
            "ema": 0.98,
            "validation_patches": 4,
        },
        "inference": {"tta": "none"},
        "evaluation": {"metrics": ["dice"]},
    }


def run_study(
    folder: Path, distances: Sequence[int], seeds: int, steps: int, jobs: int, report_only: bool
) -> Path:
    """Train what is not finished, unless `report_only`; returns the folder of the runs."""
    for row in NETWORKS:
        content = yaml.safe_dump(recipe_of(row, steps), sort_keys=False)
        (folder / f"{row}.yaml").write_text(content, encoding="utf-8")
    datasets = {
        f"rods_{distance}": {
            "prepared": str(prepare_dataset(folder, distance)),
            "set": {"training.patch_size": list(shape_of(distance))},
        }
        for distance in distances
    }
    recipes = {row: {"recipe": str(folder / f"{row}.yaml"), "twin": True} for row in NETWORKS}
    study = {
        "name": "Labels that depend on something far away",
        "datasets": datasets,
        "recipes": recipes,
        "seeds": seeds,
        "budget": {"steps": steps},
    }
    file = folder / "long_context.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    summary = mambamed.study(file, folder / "study", device="cpu", jobs=jobs, report_only=report_only)
    print(*summary.faults, sep="\n")
    return summary.output / "runs"


def share_right(run: Path, distance: int) -> float:
    """Share of the blobs of the validation cases that have the right class; see `blobs_right`."""
    right = []
    for seed in range(TRAINING, TRAINING + VALIDATION):
        mask = read_image(run / "fold_0" / "validation" / f"{_case(seed)}.nii.gz").array
        right += blobs_right(mask, make_rods(seed, distance).label)
    return float(np.mean(right))


def blobs_right(mask: NDArray[Any], reference: NDArray[Any]) -> list[bool]:
    """Per blob of the reference, whether most labelled voxels of the mask in it have its label.

    A blob without labelled voxels is wrong, and so is a tie.
    """
    blobs = np.empty(reference.shape, np.int32)
    ndimage.label(reference, output=blobs)
    found = []
    for number in range(1, int(blobs.max()) + 1):
        own = blobs == number
        wanted = int(reference[own][0])
        inside = mask[own]
        found.append(bool((inside == wanted).sum() > (inside == 3 - wanted).sum()))
    return found


def reach(network: nn.Module, start: int = 64) -> int:
    """The largest distance along z from an output voxel to an input voxel that can influence it.

    The weights are overwritten by positive numbers, so that no gradients cancel and no ReLU is closed: a
    voxel can influence the output exactly if the gradient is not zero. Norms are left out, because through
    their statistics all voxels have a small influence on each other.

    Args:
        network: a network with one input channel, whose `divisor` is its largest stride.
        start: length of the first input; it is doubled until the reach ends within it.
    """
    network = network.double().eval()
    for part in list(network.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, (InstanceNorm, nn.BatchNorm3d)):
                setattr(part, name, nn.Identity())
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(1 / weight[0].numel() if weight.ndim > 1 else 0)
    edges: tuple[int, int, int] = getattr(network, "divisor", (1, 1, 1))
    farthest, length = start, start
    while farthest + edges[2] >= length // 2:
        length *= 2
        shape = (2 * edges[0], 2 * edges[1], length)
        outputs = range(length // 2, length // 2 + edges[2])  # one of each place in the coarsest voxel
        farthest = max(_reach_of(network, shape, output) for output in outputs)
    return farthest


def _reach_of(network: nn.Module, shape: tuple[int, int, int], z: int) -> int:
    image = torch.ones(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    logits: Tensor = network(image)
    logits[0, :, shape[0] // 2, shape[1] // 2, z].sum().backward()
    assert image.grad is not None
    reached = torch.nonzero(image.grad[0, 0].sum((0, 1)))[:, 0]
    return max(z - int(reached[0]), int(reached[-1]) - z)


def reaches() -> dict[str, int]:
    """Reach of the twins, which have no scan; it does not depend on the width."""
    found = {}
    for row, options in NETWORKS.items():
        plan = {**options, "deep_supervision": False, "mixer": "none", "channels": 1}
        found[f"{row}-none"] = reach(build_network(plan.pop("name"), 1, len(LABELS), **plan))
    return found


def section(results: Results, far: Mapping[str, int], steps: int, command: str) -> list[str]:
    """The text and the table."""
    distances = sorted({distance for _, distance in results})
    seeds = max(map(len, results.values()))
    blobs = VALIDATION * math.prod(RODS)
    spread = 1.96 * math.sqrt(0.25 / blobs)
    lines = [
        "## Labels that depend on something far away",
        "",
        f"`{command}`: made volumes of {RODS[0] * CELL}x{RODS[1] * CELL} voxels across, with four rods along "
        "z. Each rod has a marker at one end, bright or dark, and a blob at the given distance from it "
        "(voxels between both). All blobs look the same, and the class of a blob is the kind of the marker "
        "of its own rod. Half of the markers of each volume are bright, so that their number does not show "
        f"the class. {TRAINING} training and {VALIDATION} validation volumes "
        f"per distance; {CHANNELS} channels, patches of a whole volume, {steps} steps of batches of {BATCH}, "
        "the same optimizer and batch norm for all, no choice of a checkpoint. The scan meets a marker "
        "before its blob. A blob is right if most of its labelled voxels have the right class. "
        f"Chance is 50 %: of the {blobs} blobs of a training, 95 % of all guesses are within "
        f"{100 * spread:.0f} points of it. "
        + (f"Mean over {seeds} seeds (lowest to highest). " if seeds > 1 else "One seed. ")
        + "–: not measured. The reach is the theoretical receptive field to one side, from the gradient of "
        "an output voxel without norms.",
        "",
        f"| blobs with the right class, % | reach, voxels | {' | '.join(f'{d} away' for d in distances)} |",
        f"|---|--:|{'--:|' * len(distances)}",
    ]
    for row, title in ROWS.items():
        if cells := [_cell(results.get((row, distance), ())) for distance in distances]:
            lines.append(f"| {title} | {far.get(row, 'the volume')} | {' | '.join(cells)} |")
    if len(distances) > 1:
        lines += ["", f"![Blobs with the right class over the distance, one line per network]({PICTURE})"]
    return lines


def _cell(shares: Sequence[float]) -> str:
    if not shares:
        return "–"
    low, high = 100 * min(shares), 100 * max(shares)
    mean = f"{100 * np.mean(shares):.1f}"
    return f"{mean} ({low:.1f} to {high:.1f})" if len(shares) > 1 else mean


@plain_style()
def picture(results: Results, far: Mapping[str, int]) -> bytes:
    """Share of right blobs over the distance, one line per network, and the reach of those without a scan."""
    figure = new_figure(figsize=(8, 4), dpi=100)
    axes = figure.subplots()
    axes.axhline(50, ls=":", color="gray", lw=1)
    for number, (row, title) in enumerate(ROWS.items()):
        own = sorted((distance, shares) for (name, distance), shares in results.items() if name == row)
        if not own:
            continue
        places = [distance for distance, _ in own]
        color = f"C{number}"
        axes.plot(places, [100 * np.mean(shares) for _, shares in own], "o-", color=color, label=title)
        low, high = ([100 * pick(shares) for _, shares in own] for pick in (min, max))
        axes.fill_between(places, low, high, color=color, alpha=0.2, lw=0)
        if row in far:
            axes.axvline(far[row], ls="--", color=color, lw=1, label=f"reach: {far[row]} voxels")
    axes.set_xscale("log", base=2)
    ticks = sorted({distance for _, distance in results})
    axes.set_xticks(ticks, [str(distance) for distance in ticks])
    axes.set_ylim(0, 103)
    axes.set_xlabel("voxels between marker and blob")
    axes.set_ylabel("blobs with the right class, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize="small")
    return png_of(figure)


def main() -> None:
    """Train, measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--distances", default="16,32,80,128", help="voxels between marker and blob")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds of each training")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of each training")
    parser.add_argument("--jobs", type=int, default=1, help="number of trainings that run at a time")
    parser.add_argument("--folder", type=Path, help="keep the runs here, and continue those that are there")
    parser.add_argument(
        "--report-only", action="store_true", help="train nothing, and report what is finished"
    )
    parser.add_argument("--write", action="store_true", help="write the section of docs/benchmarks.md")
    asked = parser.parse_args()
    distances = [int(distance) for distance in asked.distances.split(",")]
    with tempfile.TemporaryDirectory(prefix="mambamed-benchmark-") as name:
        folder = asked.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        runs = run_study(folder, distances, asked.seeds, asked.steps, asked.jobs, asked.report_only)
        results = {}
        for row, distance in itertools.product(ROWS, distances):
            own = [runs / f"rods_{distance}" / row / f"seed_{seed}" for seed in range(asked.seeds)]
            if finished := [run for run in own if (run / "fold_0" / "summary.json").is_file()]:
                results[row, distance] = [share_right(run, distance) for run in finished]
    far = reaches()
    command = "python benchmarks/long_context.py"
    command += f" --distances {asked.distances} --seeds {asked.seeds} --steps {asked.steps}"
    lines = section(results, far, asked.steps, command)
    print("\n".join(lines))
    if asked.write:
        if len(distances) > 1:
            (DOCS / PICTURE).write_bytes(picture(results, far))
        replace_section(DOCS / "benchmarks.md", "long_context", "long_context.py", lines)


if __name__ == "__main__":
    main()
