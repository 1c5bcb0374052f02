"""Steps a second and memory of whole recipes on a GPU; `benchmarks/train.py --part gpu`.

The step is that of the training loop, on random numbers of the recipe's shapes. Without a GPU the same
runs on the CPU, where only `--shape 32` or so makes sense.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import torch

from mambamed.preparation.store import PreparedDataset
from mambamed.progress import Silence
from mambamed.recipe import load_recipe
from mambamed.run.folder import create_run, planned_run
from mambamed.ssm import set_backend
from mambamed.training.imagined import ImaginedDataset
from mambamed.training.journal import SilentJournal
from mambamed.training.session import Session, choose_workplace

RECIPES = (
    "brats_nnmamba",
    "brats_segmamba",
    "msd_braintumor_mamba_multi",
    "brats_umamba_bot",
    "brats_nnunet",
)
WARM_STEPS, STEPS = 5, 10


def measure(result: Path, edge: int) -> None:
    """Every recipe at 2 x 4 x edge^3, bf16, plain and compiled, into a JSON file that grows."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread"
    backends = ["auto", "chunked"] if device.type == "cuda" else ["auto"]
    document: dict[str, Any] = {"device": name, "torch": torch.__version__, "edge": edge, "rows": []}
    for recipe in RECIPES:
        for backend in backends if "nnunet" not in recipe else ["auto"]:
            for compiled in (False, True):
                row = {"recipe": recipe, "backend": backend, "compiled": compiled}
                try:
                    row |= one(recipe, edge, device, backend, compiled)
                except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
                    row["fault"] = str(error).splitlines()[0][:100]
                document["rows"].append(row)
                result.write_text(json.dumps(document, indent=1))
                print(row, flush=True)


def one(recipe_name: str, edge: int, device: torch.device, backend: str, compiled: bool) -> dict[str, Any]:
    """Steps a second and peak memory of one recipe."""
    overrides = [f"training.patch_size=[{edge},{edge},{edge}]", "training.batch_size=2"]
    recipe = load_recipe(recipe_name, [*overrides, "training.precision=bf16"])
    place, reasons = choose_workplace(recipe, str(device), None)
    dataset = ImaginedDataset(recipe)
    set_backend(backend)
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(planned_run(recipe, dataset.plan, dataset.manifest, Path(folder) / "run"))
        session = Session(run, cast(PreparedDataset, dataset), 0, place, Silence())
        state, batch = session.fresh_state(), session.first_batch()
        loop = session._loop(state, SilentJournal())
        if compiled:
            state.network.forward = torch.compile(state.network.forward)  # the modules' names stay

        def steps(count: int) -> float:
            began = time.perf_counter()
            for _ in range(count):
                loop._take_step(batch)
                state.counters.step += 1
            if device.type == "cuda":
                torch.cuda.synchronize()
            return (time.perf_counter() - began) / count

        steps(WARM_STEPS if device.type == "cuda" else 1)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = steps(STEPS if device.type == "cuda" else 2)
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {"steps_a_second": 1 / seconds, "peak_gib": peak, "scan": reasons["scan_backend"]}
