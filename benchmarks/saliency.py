"""Whether saliency maps of `classify` show the place that decides, where that place is known.

    nice -n 10 python benchmarks/saliency.py

The question: is there a bright ball in the noise, or not? Volumes of 24^3 voxels, standard normal noise; a
ball of radius 3 at a random place is 3 brighter. Each network is trained on fresh volumes until it separates
80 others (AUC 1). A map hits if its highest voxel lies in the ball. Writes a section of
docs/classification.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sections import replace_section
from torch import Tensor, nn

from mambamed.answers.saliency import METHODS, Cam, on_native_grid
from mambamed.geometry import Orientation
from mambamed.metrics.classification import auc
from mambamed.networks import build_network
from mambamed.preparation.grid import CaseGeometry

PAGE = Path(__file__).resolve().parents[1] / "docs" / "classification.md"
SIZE, RADIUS, BRIGHTER = 24, 3, 3.0
NETWORKS = {
    "nnmamba_classifier": {"channels": 8, "dropout": 0.1},
    "resnet": {"channels": 8},
    "densenet": {"growth": 8, "blocks": (2, 2, 2, 2)},
}
BATCH, EVERY, LONGEST = 16, 50, 1000


def volume(random: np.random.Generator, with_ball: bool) -> tuple[Tensor, NDArray[np.bool_]]:
    """`(1, 24, 24, 24)` and where the ball is, or would be."""
    noise = random.normal(size=(SIZE,) * 3)
    center = random.uniform(RADIUS, SIZE - 1 - RADIUS, 3)
    ball = ((np.indices(noise.shape) - center[:, None, None, None]) ** 2).sum(0) <= RADIUS**2
    return torch.from_numpy((noise + BRIGHTER * with_ball * ball).astype(np.float32))[None], ball


def trained(name: str, cases: list[tuple[Tensor, NDArray[np.bool_]]]) -> tuple[nn.Module, int]:
    """A network in evaluation mode, and the steps after which its AUC over the cases was 1.

    Every second case has a ball.
    """
    torch.manual_seed(0)
    random, network = np.random.default_rng(0), build_network(name, 1, 2, **NETWORKS[name])
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    truth = torch.arange(BATCH) % 2
    for step in range(1, LONGEST + 1):
        patches = torch.stack([volume(random, bool(ball))[0] for ball in truth])
        optimizer.zero_grad()
        nn.functional.cross_entropy(network.train()(patches), truth).backward()
        optimizer.step()
        if step % EVERY == 0 and reached(network.eval(), cases) == 1:
            return network.requires_grad_(False), step
    raise SystemExit(f"{name}: AUC {reached(network.eval(), cases):.3f} after {LONGEST} steps")


@torch.no_grad()
def reached(network: nn.Module, cases: list[tuple[Tensor, NDArray[np.bool_]]]) -> float:
    """AUC over the cases, of which every second has a ball."""
    logits = torch.cat([network(image[None]) for image, _ in cases])
    return auc(np.arange(len(cases)) % 2, (logits[:, 1] - logits[:, 0]).numpy())


def hits(
    network: nn.Module,
    cases: list[tuple[Tensor, NDArray[np.bool_]]],
    method: Callable[[nn.Module, Tensor, int], Cam],
) -> tuple[int, float]:
    """In how many cases the highest voxel of the map lies in the ball, and seconds per case."""
    unit = tuple(tuple(row) for row in np.eye(4).tolist())
    shape = (SIZE,) * 3
    grid = CaseGeometry(shape, unit, Orientation((0, 1, 2), (False,) * 3), (0,) * 3, shape, shape)
    began, found = time.perf_counter(), 0
    for image, ball in cases:
        heat = on_native_grid(method(network, image, 1), grid, shape)
        found += bool(ball[np.unravel_index(int(heat.argmax()), shape)])
    return found, (time.perf_counter() - began) / len(cases)


def main() -> None:
    """Train the networks, measure the methods, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=40, help="cases with a ball (default: 40)")
    count = parser.parse_args().cases
    torch.set_num_threads(1)
    random = np.random.default_rng(1)
    cases = [volume(random, bool(k % 2)) for k in range(2 * count)]
    lines = [
        f"`python benchmarks/saliency.py`: noise of {SIZE}^3 voxels with or without a ball of radius "
        f"{RADIUS}; {count} cases with a ball, which no network was trained on. A map hits if its highest "
        "voxel lies in the ball.",
        "",
        f"| network | training steps | AUC | {' | '.join(METHODS)} |",
        f"|---|---|---|{'---|' * len(METHODS)}",
    ]
    for name in NETWORKS:
        network, steps = trained(name, cases)
        cells = []
        for method in METHODS.values():
            found, seconds = hits(network, cases[1::2], method)
            cells.append(f"{found} of {count} ({seconds:.2f} s per case)")
        lines.append(f"| `{name}` | {steps} | {reached(network, cases):.3f} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    replace_section(PAGE, "saliency", "saliency.py", lines)


if __name__ == "__main__":
    main()
