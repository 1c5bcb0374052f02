"""Prediction beside MONAI's sliding_window_inference.

    pip install 'mambamed[baselines]'
    python benchmarks/predict.py [--turns 2] [--size 120] [--write docs/benchmarks.md]

The same network with the same weights, the same image in memory, the same window positions and the same
Gaussian width. Two networks: one that answers at once (what remains is accumulation and export), and nnMamba.
Export is the way from logits to labels on a native grid of other spacing; theirs is MONAI's way, torch's
interpolation of all logits and an argmax. Each peer's turn follows ours, the least time of all turns counts;
memory is the peak beyond what the process held before, a process a measurement.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mambamed.cases import DatasetManifest
from mambamed.geometry import orientation_of
from mambamed.inference.restore import labels_of_slabs
from mambamed.inference.sliding_window import Windows, window_slabs
from mambamed.networks import build_network
from mambamed.preparation.grid import CaseGeometry
from mambamed.recipe import Recipe
from mambamed.tasks.segmentation import Segmentation

try:
    from monai.inferers.utils import sliding_window_inference
except ModuleNotFoundError as error:
    sys.exit(f"{error}: this benchmark compares with MONAI; pip install monai")

MARK = "<!-- predict: written by benchmarks/predict.py -->", "<!-- predict: end -->"
CPU = torch.device("cpu")
PATCH = (48, 48, 48)


class Linear(nn.Module):
    """A network that costs nothing beside its own output: one product of channels a voxel."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.head = nn.Conv3d(channels, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def make(kind: str, channels: int, outputs: int) -> nn.Module:
    """A network with the weights of seed 0."""
    torch.manual_seed(0)
    if kind == "instant":
        return Linear(channels, outputs).eval()
    return build_network("nnmamba", channels, outputs, channels=8).eval()


def sides(kind: str, size: int, outputs: int) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
    """Ours and theirs: image in memory -> labels on a native grid 1.25 times as fine."""
    network, native = make(kind, 4, outputs), tuple(round(1.25 * n) for n in (size, size, size))
    image = torch.randn(4, size, size, size, generator=torch.Generator().manual_seed(1))
    image = functional.avg_pool3d(image, 5, 1, 2)
    affine = np.diag([0.8, 0.8, 0.8, 1.0])
    rows = tuple(map(tuple, affine.tolist()))
    geometry = CaseGeometry(native, rows, orientation_of(affine), (0, 0, 0), native, (size, size, size))
    labels = {"background": 0, **{f"label_{n}": n for n in range(1, outputs)}}
    manifest = DatasetManifest("made", dict.fromkeys("abcd", "mri"), labels)
    task = Segmentation(Recipe.model_validate({"network": {"name": "nnmamba"}}), manifest)
    windows = Windows(PATCH, overlap=0.5)

    def ours() -> np.ndarray:
        return labels_of_slabs(window_slabs([network], image, windows, device=CPU), geometry, task)

    def theirs() -> np.ndarray:
        with torch.inference_mode():
            logits = sliding_window_inference(
                image[None], PATCH, 1, network, overlap=0.5, mode="gaussian", sigma_scale=0.125
            )
            assert isinstance(logits, Tensor)
            fine = functional.interpolate(logits, native, mode="trilinear", align_corners=False)
            return fine[0].argmax(0).to(torch.uint8).numpy()

    return ours, theirs


def measured(kind: str, size: int, outputs: int, turns: int) -> dict[str, float]:
    """Seconds of both, and the share of voxels with the same label."""
    ours, theirs = sides(kind, size, outputs)
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    answers = {}
    for turn in range(turns + 1):
        for name, side in (("ours", ours), ("theirs", theirs)):
            began = time.perf_counter()
            answers[name] = side()
            if turn:  # the first one warms up
                times[name].append(time.perf_counter() - began)
    same = float((answers["ours"] == answers["theirs"]).mean())
    return {"ours": min(times["ours"]), "theirs": min(times["theirs"]), "same": same}


def peak(kind: str, size: int, outputs: int, side: str) -> float:
    """MiB that one side takes beyond what its process held before, in a process of its own."""
    command = [sys.executable, __file__, "--peak", side, kind, str(size), str(outputs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def table(size: int, turns: int) -> str:
    """The section of the document."""
    lines = [
        "## Prediction",
        "",
        f"`python benchmarks/predict.py --size {size} --turns {turns}`, torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread(s). An image of 4 x {size}^3 in memory, windows of {PATCH[0]}^3, "
        "overlap one half, Gaussian; to labels on a grid 1.25 times as fine. MONAI: its inferer, then "
        "torch's interpolation of all logits, argmax. `instant`: a network of one product a voxel, so that "
        "accumulation and export remain.",
        "",
        "| network, labels | ours, s | MONAI, s | MONAI / ours | same label | extra MiB: ours | MONAI |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, outputs in (("instant", 4), ("instant", 14), ("nnmamba", 4)):
        found = measured(kind, size, outputs, turns)
        memory = [peak(kind, size, outputs, side) for side in ("ours", "theirs")]
        lines.append(
            f"| {kind}, {outputs} | {found['ours']:.2f} | {found['theirs']:.2f} | "
            f"{found['theirs'] / found['ours']:.2f} | {100 * found['same']:.3f} % | "
            f"{memory[0]:.0f} | {memory[1]:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--size", type=int, default=120)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.peak:
        side, kind, size, outputs = asked.peak
        ours, theirs = sides(kind, int(size), int(outputs))
        small = sides(kind, 48, int(outputs))
        small[side != "ours"]()  # libraries and compiled code are there already
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (ours if side == "ours" else theirs)()
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        return
    text = table(asked.size, asked.turns)
    print(text)
    if asked.write:
        document = asked.write.read_text(encoding="utf-8")
        block = f"{MARK[0]}\n{text}\n{MARK[1]}"
        if MARK[0] in document:
            head, _, rest = document.partition(MARK[0])
            document = head + block + rest.partition(MARK[1])[2]
        else:
            document = f"{document.rstrip()}\n\n{block}\n"
        asked.write.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()
