"""How fast `mambamed view` shows a BraTS case, and opens a folder of 2000 cases.

    python benchmarks/viewer.py [--turns 5] [--write docs/benchmarks.md]

Needs Chromium and the BraTS cases of the tests (MAMBAMED_TEST_DATA). The command runs as its own process; the
browser is headless and draws without a graphics card. The time of a picture ends when all drawing commands
are executed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sections import replace_section

from mambamed.io.images import Image, write_image
from tests.real_data import DATA
from tests.viewer.browser import Browser, find_browser

BRATS = DATA / "brats_tcia"
CASES = 2000
# Milliseconds from the choice of a case until its image and masks are drawn.
CHOOSE = """new Promise((done) => {
  const { scene, table, state } = mambamed;
  const began = performance.now();
  const look = () => {
    if (state.id !== %(case)s || !mambamed.shown || scene.waiting) return requestAnimationFrame(look);
    const { gl } = scene.nv;
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
    done(performance.now() - began);
  };
  table.choose(mambamed.subject.ids.indexOf(%(case)s));
  look();
})"""


@dataclass(frozen=True)
class Viewing:
    """A running command: its address, the seconds until it printed it, and its process."""

    url: str
    seconds: float
    process: int

    def peak_mb(self) -> float:
        """Most memory of the process so far."""
        status = Path(f"/proc/{self.process}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


@dataclass(frozen=True)
class Turn:
    """A measurement: seconds on the clock, and CPU-seconds of the command and the browser."""

    wall: float
    cpu: float


@contextmanager
def viewing(*arguments: str | Path) -> Iterator[Viewing]:
    """Run `mambamed view` without opening a browser."""
    command = [sys.executable, "-m", "mambamed", "view", *map(str, arguments), "--no-browser"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        line = next((line for line in process.stdout if "open http" in line), None)
        if line is None:
            raise SystemExit(f"{' '.join(command)}: ended without an address")
        address = line.partition("open ")[2].strip()
        yield Viewing(address, time.perf_counter() - began, process.pid)
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(*roots: int) -> float:
    """CPU time of processes and all that they have started."""
    parent_of, seconds_of = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            process = int(stat.parent.name)
            parent_of[process] = int(fields[1])
            seconds_of[process] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def belongs(process: int) -> bool:
        return process in roots or (process in parent_of and belongs(parent_of[process]))

    return sum(seconds for process, seconds in seconds_of.items() if belongs(process))


def brats_turns(browser: Browser, turns: int) -> tuple[list[Turn], float]:
    """From the choice of a case until it is drawn; and the peak memory of the command in MB."""
    predictions = sorted((BRATS / "algorithms").iterdir())[0]
    training = BRATS / "training"
    with viewing(predictions, "--images", training, "--references", training) as server:
        browser.open(server.url)
        browser.wait("window.mambamed?.shown", 300)
        ids = browser.run("mambamed.subject.ids")
        found = []
        for _ in range(turns):
            other = next(case for case in ids if case != browser.run("mambamed.state.id"))
            before = cpu_seconds(browser.process, server.process)
            wall = browser.run(CHOOSE % {"case": repr(other)}) / 1000
            found.append(Turn(wall, cpu_seconds(browser.process, server.process) - before))
            print(f"BraTS: {found[-1]}", flush=True)
        return found, server.peak_mb()


def folder_turns(browser: Browser, folder: Path, turns: int) -> tuple[list[Turn], list[Turn], float]:
    """Until the command prints its address, and until the page lists the cases; and the peak memory in MB."""
    volume = Image(np.arange(64**3, dtype=np.int16).reshape(64, 64, 64), np.eye(4))
    first = folder / "case_0000.nii.gz"
    write_image(first, volume.array, like=volume)
    for number in range(1, CASES):
        os.link(first, folder / f"case_{number:04d}.nii.gz")
    started, listed, peak = [], [], 0.0
    for _ in range(turns):
        browser.open("about:blank")
        with viewing(folder, "--images", folder) as server:
            used = cpu_seconds(server.process)
            started.append(Turn(server.seconds, used))
            before, began = used + cpu_seconds(browser.process), time.perf_counter()
            browser.open(server.url)
            browser.wait(f"document.getElementById('count')?.textContent === '{CASES} cases'")
            wall = time.perf_counter() - began
            listed.append(Turn(wall, cpu_seconds(browser.process, server.process) - before))
            browser.wait("window.mambamed?.shown", 120)
            peak = max(peak, server.peak_mb())
        print(f"{CASES} cases: {started[-1]}, {listed[-1]}", flush=True)
    return started, listed, peak


def row(what: str, turns: Sequence[Turn], goal: str, peak_mb: float) -> str:
    """A line of the table."""
    walls, least = [turn.wall for turn in turns], min(turn.cpu for turn in turns)
    times = f"{min(walls):.1f} | {statistics.median(walls):.1f} | {least:.1f}"
    return f"| {what} | {times} | {goal} | {peak_mb:.0f} |"


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--write", type=Path, help="Markdown file that gets the section")
    options = parser.parse_args()
    if find_browser() is None or not BRATS.is_dir():
        raise SystemExit(f"needs chromium, and BraTS cases in {BRATS}")
    load = os.getloadavg()[0]
    browser = Browser()
    try:
        brats, brats_mb = brats_turns(browser, options.turns)
        with tempfile.TemporaryDirectory() as folder:
            started, listed, many_mb = folder_turns(browser, Path(folder), options.turns)
    finally:
        browser.close()
    lines = [
        "## The viewer",
        "",
        f"`python benchmarks/viewer.py --turns {options.turns}`: {os.cpu_count()} cores, load {load:.1f} at "
        "the start, Chromium without a graphics card. CPU-seconds are those of the command and the browser, "
        "the least of all turns. A BraTS case has 240x240x155 voxels; one channel and two masks are loaded. "
        "Memory is the peak of the command (goal: 300 MB).",
        "",
        "| what | best, s | median, s | CPU-seconds | goal, s | MB |",
        "|---|--:|--:|--:|--:|--:|",
        row("BraTS: from the click to the picture with reference and prediction", brats, "5", brats_mb),
        row(f"{CASES} cases: from the command to its address", started, "", many_mb),
        row(f"{CASES} cases: from there to the table in the browser", listed, "2", many_mb),
    ]
    print("\n".join(lines))
    if options.write:
        replace_section(options.write, "viewer", "viewer.py", lines)


if __name__ == "__main__":
    main()
