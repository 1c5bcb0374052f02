"""Training time of shipped recipes on this machine, by `mambamed train RECIPE --dry-run`.

    python benchmarks/how_long.py [RECIPE ...]

Writes a section of docs/how-long.md per device. Without a prepared dataset, the steps use random data of the
recipe's shape; the time of the validation, which depends on the dataset, is then not included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch
from sections import replace_section

PAGE = Path(__file__).resolve().parents[1] / "docs" / "how-long.md"
RECIPES = (
    "hippocampus_nnunet",
    "hippocampus_nnmamba",
    "hippocampus_points_nnmamba",
    "hippocampus_size_nnmamba",
    "brats_nnunet",
    "brats_nnmamba",
    "brats_segmamba",
)


def cost_of(recipe: str, device: str) -> dict[str, object]:
    """The cost of a training as the dry run reports it."""
    command = [sys.executable, "-m", "mambamed", "train", recipe, "--dry-run", "--json", "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["dry_run"]


def _plain(hours: float) -> str:
    """Hours with two significant digits, or whole ones."""
    return f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    asked = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = (
        torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores, {platform.machine()}"
    )
    lines = [
        f"`python benchmarks/how_long.py`, torch {torch.__version__}, {name}. Hours are those of all steps "
        "of the recipe, without the validation of whole volumes.",
        "",
        "| recipe | patch and batch | seconds per step | steps | hours | GiB of memory |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for recipe in asked.recipes:
        step = cost_of(recipe, device)
        cost = step["cost"]
        size = "x".join(map(str, step["patch_size"]))
        lines.append(
            f"| `{recipe}` | {size}, {step['batch_size']} | {cost['step_seconds']:.2g} | {cost['steps']} | "
            f"{_plain(cost['training_hours'])} | {step['peak_gib']:.1f} |"
        )
        print(lines[-1], flush=True)
    replace_section(PAGE, f"how-long-{device}", "how_long.py", [f"## Measured: {device}", "", *lines])


if __name__ == "__main__":
    main()
