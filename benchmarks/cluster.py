"""Cases in Dask workers: 65 hippocampi predicted by one and by two workers of this machine.

    pip install 'mambamed[cluster]'
    python benchmarks/cluster.py [--recipe NAME] [--turns N] [--write]

In each turn the same command runs in four ways, one after the other: in one process, without Dask; with
`--on local --jobs 1`; with `--on local --jobs 2`; and, for comparison, as two processes of half the cases
each (`--shard`), which is what two cores give without any scheduler. All masks are checked to be equal byte
for byte. Every process has one thread. Start-up (Python, torch, Dask, the models) is reported apart: the rate
is that of the second half of the cases, from the times at which their masks were written. CPU-seconds are
those of all processes; other programs on the machine lower the rates but hardly these.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sections import replace_section

from tests.real_data import DATA

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
CASES = 65
GOAL = 1.7
WAYS = {
    "one process": [()],
    "`--on local --jobs 1`": [("--on", "local", "--jobs", "1")],
    "`--on local --jobs 2`": [("--on", "local", "--jobs", "2")],
    "two processes, `--shard`": [("--shard", "1/2"), ("--shard", "2/2")],
}
ONE, TWO, SHARDS = list(WAYS)[1:]


@dataclass(frozen=True)
class Taken:
    """What one way took.

    Attributes:
        wall, cpu: seconds of the whole command, of all its processes.
        rate: cases per second in the second half of the cases.
    """

    wall: float
    cpu: float
    rate: float

    @property
    def start(self) -> float:
        """Seconds that are not explained by the rate: start and end of all processes."""
        return self.wall - CASES / self.rate


def run(arguments: Sequence[Sequence[str]], output: Path) -> Taken:
    """Predict with these commands at the same time."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    before, began = _children_cpu(), time.monotonic()
    commands = [
        subprocess.Popen([sys.executable, "-m", "mambamed", *words, "-q"], env=environment)
        for words in arguments
    ]
    if any([command.wait() for command in commands]):
        raise SystemExit("a command failed; see its message above")
    wall, cpu = time.monotonic() - began, _children_cpu() - before
    written = sorted(path.stat().st_mtime for path in output.glob("*.nii.gz"))
    later = written[CASES // 2 :]
    return Taken(wall, cpu, (len(later) - 1) / (later[-1] - later[0]))


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


def made_run(recipe: str, folder: Path) -> Path:
    """A run of a shipped recipe after a few steps: what a case takes does not depend on the weights."""
    few = ("--set", "training.epochs=1", "--set", "training.steps_per_epoch=12")
    for words in (
        ("prepare", str(DATA / "Task04_Hippocampus"), "-o", str(folder / "prepared")),
        ("train", recipe, "-d", str(folder / "prepared"), "-o", str(folder / "run"), *few),
    ):
        subprocess.run([sys.executable, "-m", "mambamed", *words, "--quiet"], check=True, capture_output=True)
    return folder / "run"


def measured(model: Path, images: Path, folder: Path, turns: int) -> dict[str, list[Taken]]:
    """Every way in every turn."""
    found: dict[str, list[Taken]] = {name: [] for name in WAYS}
    expected: dict[str, bytes] | None = None
    for turn in range(turns):
        for number, (name, ways) in enumerate(WAYS.items()):
            output = folder / f"masks_{turn}_{number}"
            words = ("predict", str(model), str(images), "-o", str(output), "--device", "cpu")
            taken = run([(*words, *way) for way in ways], output)
            here = masks(output)
            expected = expected or here
            if len(here) != CASES or here != expected:
                raise SystemExit(f"{name}: other masks than the first way")
            found[name].append(taken)
            print(
                f"turn {turn + 1}: {name}: {taken.wall:.1f} s, {taken.cpu:.1f} CPU-s, {taken.rate:.2f} "
                f"cases/s, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
            shutil.rmtree(output)
    return found


def section(found: dict[str, list[Taken]], recipe: str) -> list[str]:
    """The section of docs/benchmarks.md."""
    turns = len(found[ONE])

    def spread(values: Sequence[float], digits: int = 1) -> str:
        low, middle, high = min(values), statistics.median(values), max(values)
        return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"

    def ratios(read: Callable[[Taken], float], more: str) -> list[float]:
        return [read(two) / read(one) for one, two in zip(found[ONE], found[more], strict=True)]

    lines = [
        "## Cases in Dask workers",
        "",
        f"`python benchmarks/cluster.py --recipe {recipe} --turns {turns}`: {CASES} hippocampi (Task04) from "
        f"files to masks, one thread per process, on {os.cpu_count()} cores; median and range of the turns. "
        "All masks are equal byte for byte. *Start* is what the rate of the second half of the cases does "
        "not explain: Python, torch, Dask, loading of the models.",
        "",
        "| | cases per second | start, s | whole command, s | CPU-s |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, taken in found.items():
        columns = [spread([t.rate for t in taken], 2)]
        columns += [spread([read(t) for t in taken]) for read in (_start, _wall, _cpu)]
        lines.append(f"| {name} | {' | '.join(columns)} |")
    rate, bound = ratios(_rate, TWO), ratios(_rate, SHARDS)
    wall = [1 / ratio for ratio in ratios(_wall, TWO)]
    met = "met" if statistics.median(rate) >= GOAL else "**missed**"
    lines += [
        "",
        f"Two workers compared with one, by turn: throughput **{spread(rate, 2)}** (goal {GOAL}: {met}); "
        f"whole command {spread(wall, 2)}. Two processes of half the cases each, compared with one worker: "
        f"throughput {spread(bound, 2)}.",
    ]
    return lines


def _rate(taken: Taken) -> float:
    return taken.rate


def _start(taken: Taken) -> float:
    return taken.start


def _wall(taken: Taken) -> float:
    return taken.wall


def _cpu(taken: Taken) -> float:
    return taken.cpu


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="hippocampus_nnmamba")
    parser.add_argument("--model", type=Path, help="a trained run to use (default: made of the recipe)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the section of docs/benchmarks.md")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mambamed-benchmark-") as name:
        folder = Path(name)
        images = folder / "images"
        images.mkdir()
        files = sorted((DATA / "Task04_Hippocampus" / "imagesTr").glob("hippocampus*.nii.gz"))[:CASES]
        if len(files) < CASES:
            sys.exit(f"{DATA}: has no Task04_Hippocampus. Set MAMBAMED_TEST_DATA.")
        for file in files:
            (images / file.name).symlink_to(file)
        model = asked.model or made_run(asked.recipe, folder)
        lines = section(measured(model, images, folder, asked.turns), asked.recipe)
    print("\n".join(lines))
    if asked.write:
        replace_section(PAGE, "cluster", "cluster.py", lines)


if __name__ == "__main__":
    main()
