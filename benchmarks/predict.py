"""Prediction beside nnU-Net 2's predictor and MONAI's sliding_window_inference.

    pip install 'mambamed[baselines]' nnunetv2
    python benchmarks/predict.py [--part accumulation export case small memory] [--all] [--write FILE]

The same network with the same weights, the same windows, one thread each; every side in a process of its
own, one after the other. Times are CPU-seconds. Of the stages `accumulation` (the network's own time taken
off) and `export`, memory is the peak beyond what the process held before; of the others, which go from files
to masks, both are the whole process's, imports included, of ours the command that a user gives. nnU-Net has
two rows there: its predictor in one process, which is its cheapest way, and its own command with the workers
that it starts by default, on all cores; there CPU-seconds are of all processes, the peak is of the largest.
The network is nnU-Net's plain U-Net, trained for a minute (see predict_models.py), run by nnU-Net's class
there and by ours here. Where data of the tests is found (MAMBAMED_TEST_DATA) the cases are real, else made
up.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from mambamed.io.images import read_image
from mambamed.run.device import choose_precision

try:
    import monai
    import predict_models
    import predict_sides
except ModuleNotFoundError as fault:
    sys.exit(f"{fault}: this benchmark compares with MONAI and nnU-Net; pip install monai nnunetv2")

ROOT = Path(__file__).resolve().parents[1]
MARK = "<!-- predict: written by benchmarks/predict.py -->", "<!-- predict: end -->"
PARTS = ("accumulation", "export", "case", "small", "memory")


@dataclass(frozen=True)
class Side:
    """What one side took, and the labels that it found, by case.

    Attributes:
        cpu: seconds, of all its processes.
        peak: MB, of its largest process.
        wall: seconds; 0 for a stage, where it is not told.
    """

    cpu: float
    peak: float
    labels: dict[str, np.ndarray]
    wall: float = 0.0


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        goal: in words.
        others: nnU-Net, and MONAI where it has a part in it.
    """

    name: str
    goal: str
    ours: Side
    others: dict[str, Side]

    def __str__(self) -> str:
        seconds, ratios, same, peaks = [f"{self.ours.cpu:.2f}"], [], [], [f"{self.ours.peak:.0f}"]
        for name in ("nnU-Net", "MONAI"):
            other = self.others.get(name)
            seconds.append(f"{other.cpu:.2f}" if other else "")
            ratios.append(f"**{other.cpu / self.ours.cpu:.1f}**" if other else "")
            same.append(f"{100 * agreement(self.ours, other):.3f} %" if other else "")
            peaks.append(f"{other.peak:.0f}" if other else "")
        peer = self.others["nnU-Net"]
        walls = [f"{side.wall:.1f}" if side.wall else "" for side in (self.ours, peer)]
        cells = [self.name, *seconds, *ratios, self.goal, *same, *peaks, *walls]
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| | ours, CPU-s | nnU-Net | MONAI | nnU-Net / ours | MONAI / ours | goal vs nnU-Net "
    "| same label as nnU-Net | as MONAI | peak MB: ours | nnU-Net | MONAI | wall s: ours | nnU-Net |\n"
    + "|---" * 14
    + "|"
)


def agreement(one: Side, other: Side) -> float:
    """Share of voxels with the same label, over all cases together."""
    assert one.labels.keys() == other.labels.keys(), f"{sorted(one.labels)} and {sorted(other.labels)}"
    equal = sum(int((labels == other.labels[name]).sum()) for name, labels in one.labels.items())
    return equal / sum(labels.size for labels in one.labels.values())


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--turns", type=int, default=1, help="of each side; the least time counts")
    parser.add_argument("--all", action="store_true", help="also ours in float32, and MONAI's way from files")
    parser.add_argument("--folder", type=Path, help="for models and cases; they are kept for the next run")
    parser.add_argument("--write", type=Path, help="document whose rows of these parts are replaced")
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        predict_sides.main(asked.side)
        return
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="mambamed-benchmark-"))
    print(HEAD, flush=True)
    rows = []
    try:
        child(by_side("warm", "ours", "", ""))
        for part in asked.part:
            made = stages(part, folder, asked.turns) if part in STAGES else None
            for row in made or wholes(part, folder, asked.turns, asked.all):
                print(row, flush=True)
                rows.append(str(row))
    finally:
        if not asked.folder:
            shutil.rmtree(folder)
    if asked.write:
        write_section(asked.write, rows)


STAGES = {
    "accumulation": {
        "BraTS": ("accumulation, 4 x 240x240x155 -> 4 labels", "15"),
        "CT-B": ("accumulation, 273x273x267 -> 14 labels", "6"),
    },
    "export": {"CT-B": ("logits 14 x 273x273x267 -> labels 512x512x200", "20")},
}


def stages(part: str, folder: Path, turns: int) -> list[Row]:
    """A stage by all three sides."""
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    for kind, (name, goal) in STAGES[part].items():
        sides = {}
        for side in ("ours", "nnU-Net", "MONAI"):
            file = folder / "labels.npy"
            taken = [json.loads(child(by_side(part, side, kind, str(file)))[0]) for _ in range(turns)]
            least = min(taken, key=lambda each: each["cpu"])
            sides[side] = Side(least["cpu"], least["peak"], {kind: np.load(file)})
        rows.append(Row(name, goal, sides.pop("ours"), sides))
    return rows


WHOLES = {
    "case": ("4 x 240x240x155, files to mask", "2.5", ("nnU-Net", "MONAI")),
    "small": ("65 hippocampi, files to masks", "4", ("nnU-Net",)),
    "memory": ("512x512x200, 14 labels, file to mask", "memory 1/3", ("nnU-Net",)),
}


def wholes(part: str, folder: Path, turns: int, every: bool) -> list[Row]:
    """From files to masks: our command in the precision that it chooses, and theirs."""
    name, goal, others = WHOLES[part]
    place = folder / part
    torch.set_num_threads(1)
    predict_models.make(part, place)
    chosen, _ = choose_precision("auto", torch.device("cpu"))
    sides = {}
    for precision in dict.fromkeys((chosen, "fp32") if every else (chosen,)):
        arguments = ["predict", place / "run", place / "images", "-o", place / "ours", "--overwrite"]
        command = ["-m", "mambamed", *map(str, arguments), "--device", "cpu", "--precision", precision]
        sides[precision] = whole(command, place / "ours", turns)
    theirs = {}
    for side in others if every else ("nnU-Net",):
        output = place / side
        theirs[side] = whole(by_side(part, side, str(place), str(output)), output, turns)
    rows = [Row(f"{name}, {precision}", goal, side, theirs) for precision, side in sides.items()]
    output = place / "command"
    workers = whole(nnunets_command(part, place, output), output, turns)
    command = f"{name}, {chosen}, compared with {COMMAND}"
    return [*rows, Row(command, goal, sides[chosen], {"nnU-Net": workers})]


COMMAND = "nnUNetv2_predict"


def nnunets_command(part: str, place: Path, output: Path) -> list[str]:
    """What a user of nnU-Net gives: the twin of nnUNetv2_predict that takes a folder, its defaults kept.

    Three processes read and three write; on a CPU it has torch use all cores, whatever is asked for.
    """
    script = Path(sys.executable).with_name(f"{COMMAND}_from_modelfolder")
    mirroring = [] if predict_models.SETUPS[part].mirrored else ["--disable_tta"]
    folders = ["-i", place / "images", "-o", output, "-m", place / "nnunet"]
    return [*map(str, (script, *folders)), "-f", "0", "-device", "cpu", *mirroring]


def whole(command: Sequence[str], output: Path, turns: int) -> Side:
    """A command's CPU-seconds and peak, and the masks that it leaves."""
    taken = []
    for _ in range(turns):
        shutil.rmtree(output, ignore_errors=True)
        taken.append(child(command)[1:])
    labels = {file.name: read_image(file).array for file in sorted(output.glob("*.nii.gz"))}
    cpu, peak, wall = min(taken)
    return Side(cpu, peak, labels, wall)


def by_side(*arguments: str) -> list[str]:
    """The command that has one side do its part."""
    return [__file__, "--side", *arguments]


# Linux counts what the starting process holds into the peak of the started one: so a small one starts it.
LAUNCHER = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
sys.exit(status != 0)
"""


def child(command: Sequence[str]) -> tuple[str, float, float, float]:
    """Run this Python, on one thread: the last line of its output, CPU-seconds, peak in MB, wall seconds.

    CPU-seconds are of its own children too, the peak is the largest process's.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        launched = [sys.executable, "-c", LAUNCHER, sys.executable, *command]
        code = subprocess.run(launched, stdout=output, stderr=errors, env=environment, check=False).returncode
        wall = time.monotonic() - began
        output.seek(0)
        errors.seek(0)
        if code:
            sys.exit(f"{' '.join(command)}: failed\n{errors.read()[-3000:]}")
        *lines, usage = output.read().splitlines()
    cpu, peak = json.loads(usage)
    return lines[-1] if lines else "", cpu, peak, wall


def write_section(file: Path, rows: Sequence[str]) -> None:
    """Replace the rows of the same names in this benchmark's block, or add them."""
    begin, end = MARK
    text = file.read_text(encoding="utf-8")
    head, _, rest = text.partition(begin)
    block, _, tail = rest.partition(end)
    known = {line.split(" | ")[0]: line for line in re.findall(r"^\| [^|\n]+ \| [\d.]+ \|.*$", block, re.M)}
    known |= {row.split(" | ")[0]: row for row in rows}
    order = [*(n for kinds in STAGES.values() for n, _ in kinds.values()), *(n for n, *_ in WHOLES.values())]
    place = {name: number for number, name in enumerate(order)}
    lines = sorted(
        (line for name, line in known.items() if any(name[2:].startswith(each) for each in order)),
        key=lambda line: next(place[each] for each in order if line[2:].startswith(each)),
    )
    lead = (
        f"`python benchmarks/predict.py`, {time.strftime('%Y-%m-%d')}, torch {torch.__version__}, MONAI "
        f"{monai.__version__}, nnU-Net {predict_sides.NNUNET}; one thread each, CPU-seconds. All use the "
        "same network and weights, windows of 128x128x128 (hippocampi: 40x56x40), overlap 0.5, Gaussian "
        "weights and no mirroring. Stages exclude the time of the network; memory is the peak in addition to "
        'what the process already held. "Files to masks" is the whole process, including imports. nnU-Net is '
        "measured in one process without workers, its cheapest mode, and then with "
        f"`{COMMAND}_from_modelfolder`, with its default of six workers on all cores (CPU-seconds of all "
        "processes, peak of the largest; mambamed on one thread as before). Networks: 240x240x155, the full "
        "network (32 to 320 channels, six stages); hippocampi, 32 to 256 channels; 512x512x200, 8 to 32 "
        "channels, to measure memory."
    )
    section = "\n".join([begin, "## Prediction", "", lead, "", HEAD, *lines, end])
    file.write_text(head + section + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
