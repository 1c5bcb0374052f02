"""What `benchmarks/train.py` found, as sections of a Markdown file and a picture of the learning curves."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sections import replace_section

PICTURE = "training_curves.png"
GOALS = {
    "training step, PlainConv of nnU-Net's plan, 2 x 40x56x40": 1.9,
    "augment a patch in memory, 40x56x40": 6,
    "augment a patch in memory, 4 x 128^3": 4,
    "augmented patch as a training gets it, 40x56x40": 8,
    "augmented patch from disk each time, 40x56x40": 8,
    "augmented patch from disk each time, 4 x 128^3": 4,
}
NAMES = {
    "nnmamba": "`hippocampus_nnmamba`",
    "none": "its `mixer: none` twin",
    "nnunet": "`hippocampus_nnunet`",
    "peer": "nnU-Net 2.8 `3d_fullres`, its plan",
    "peer_batch2": "nnU-Net 2.8 `3d_fullres`, batch 2",
}


def write_speed(file: Path, parts: Sequence[Path]) -> None:
    """The table of steps and patches."""
    rows = [row for part in parts if part.is_file() for row in json.loads(part.read_text())]
    lines = [
        "`python benchmarks/train.py --part all` "
        f"(torch {torch.__version__}, Python {platform.python_version()}, nnU-Net 2.8.1, batchgeneratorsv2 "
        "0.3.6): one thread each, alternating, mean CPU-seconds. Step: the network of nnU-Net's plan (32 to "
        "256 channels). nnU-Net uses its unmodified CPU trainer in float32; mambamed uses the recipe "
        "`hippocampus_nnunet` with `--set network.channels=32`, in bf16, reusing freed memory and including "
        "the moving average of the weights. Patches: nnU-Net's loader and training transforms, one patch per "
        "batch, without its deep supervision targets; mambamed with the same probabilities and ranges. "
        "nnU-Net reads every patch from disk; mambamed keeps a dataset in memory if it takes less than a "
        "quarter of it, so both cases are measured. Both networks have the same number of parameters, and "
        "the patches of both have the same mean and standard deviation to within 0.1.",
        "",
        "| | nnU-Net, CPU-s | ours, CPU-s | ratio | goal | |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        ratio, goal = row["theirs"] / row["ours"], GOALS[row["what"]]
        verdict = "met" if ratio >= goal else "**missed**"
        lines.append(
            f"| {row['what']} | {row['theirs']:.4f} | {row['ours']:.4f} | {ratio:.3f} | "
            f"{goal:g} | {verdict} |"
        )
    replace_section(
        file, "train-speed", "train.py", ["## Training speed compared with nnU-Net 2", "", *lines]
    )


def write_accuracy(file: Path, results: Path) -> None:
    """The table of trainings, and the picture of their curves beside the file."""
    known = {
        name: json.loads(path.read_text()) for name in NAMES if (path := results / f"{name}.json").is_file()
    }
    known = {name: document for name, document in known.items() if "mirrored" in document}
    draw_curves(known, file.parent / PICTURE)
    first = next(iter(known.values()))
    minutes = first["budget_seconds"] / 60
    lines = [
        f"`python benchmarks/train.py --part accuracy`: Task04_Hippocampus, fold {first['fold']}, "
        f"{minutes:g} minutes of training each, **measured as CPU time of a process with one thread**, "
        "without validation. The number of steps was estimated from a few discarded steps and updated at "
        "eight points during training, by the same rule for all; every learning-rate schedule ended with the "
        "last step. nnU-Net uses its own planner, preprocessing, trainer, loss, augmentation and predictor, "
        "with two changes: its learning rate decreases with each iteration instead of each 250, and where "
        "stated its batch size is 2, which gives it more iterations. mambamed uses its recipes unchanged. "
        "All have the same training and validation cases. Scores are the mean Dice over "
        f"{first['cases']} unseen cases on their native grids; the curve uses every third of them, without "
        "mirroring.",
        "",
        "| | steps x patches | parameters | CPU-min | Anterior | Posterior | **mean** | mean, mirrored |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, document in known.items():
        plain, mirrored = document["plain"], document["mirrored"]
        lines.append(
            f"| {NAMES[name]} ({document['precision']}) | {document['steps']} x {document['batch']} | "
            f"{document['parameters'] / 1e6:.1f} M | {document['seconds'] / 60:.1f} | "
            f"{plain['Anterior']:.3f} | {plain['Posterior']:.3f} | "
            f"**{mean(plain):.4f}** | {mean(mirrored):.4f} |"
        )
    lines += [
        "",
        "Mirrored: averaged over mirrored copies, nnU-Net's default for prediction (nnU-Net: three axes; "
        "mambamed: the axes that the recipe mirrors in training).",
        "",
        f"![Mean Dice over CPU time]({PICTURE})",
    ]
    title = "## Accuracy for the same CPU time of training"
    replace_section(file, "train-accuracy", "train.py", [title, "", *lines])


def draw_curves(known: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Mean Dice of the two structures over the CPU minutes of training."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, document in known.items():
        minutes = [row["seconds"] / 60 for row in document["curve"]]
        values = [mean(row["dice"]) for row in document["curve"]]
        style = "--" if name.startswith("peer") else "-"
        axes.plot(minutes, values, style, marker="o", ms=4, label=NAMES[name].replace("`", ""))
    axes.set_xlabel("CPU minutes of training, one thread")
    axes.set_ylabel("mean Dice of whole validation volumes")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path)


def mean(dice: Mapping[str, float]) -> float:
    """Of the structures."""
    return sum(dice.values()) / len(dice)
