"""Training beside nnU-Net 2: a step, augmentation, patches from disk; and what the same CPU time learns.

    pip install nnunetv2
    python benchmarks/train.py --part all --write docs/benchmarks.md
    python benchmarks/train.py --part accuracy --side nnmamba     # likewise the other sides, each on its own
    python benchmarks/train.py --part accuracy --side draw --write docs/benchmarks.md

Each side of a speed comparison is a process of one thread, its memory handled as that side handles it; they
work in turns, so that whatever else the machine does falls on both. Times are CPU-seconds, the mean of all
turns, because augmentation is a matter of chance. Both sides read the very same voxels, each from its own
store. Needs Task04_Hippocampus of the Medical Segmentation Decathlon (`--source`); the larger images are
made up, in BraTS' shape.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import training_accuracy
import training_nnunet
import training_patches
from training_report import write_accuracy, write_speed

from mambamed.converters import convert
from mambamed.preparation.prepare import prepare
from mambamed.preparation.store import PreparedDataset
from mambamed.progress import Silence
from mambamed.recipe import load_recipe
from mambamed.run.device import keep_freed_memory
from mambamed.run.folder import create_run, planned_run
from mambamed.run.workplace import choose_workplace
from mambamed.training.journal import SilentJournal
from mambamed.training.session import Session

DATA = Path(os.environ.get("MAMBAMED_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SPEED_PARTS = ("step", "augment", "loader")
Work = Callable[[], Any]


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=(*SPEED_PARTS, "all", "accuracy"), default="all")
    parser.add_argument("--source", type=Path, default=DATA / "Task04_Hippocampus")
    parser.add_argument(
        "--folder", type=Path, default=Path("benchmark_train"), help="of datasets, runs and results"
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--side", choices=(*training_accuracy.SIDES, "draw"), help="accuracy: one side, or the table"
    )
    parser.add_argument("--minutes", type=float, default=15, help="accuracy: CPU time of a training")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="accuracy: override of a recipe of ours")
    parser.add_argument(
        "--result", type=Path, help="accuracy: JSON file in the place of FOLDER/accuracy/SIDE"
    )
    parser.add_argument(
        "--write", type=Path, help="Markdown file whose sections of this benchmark are replaced"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.part == "accuracy":
        measure_accuracy(options)
        return
    prepared = prepared_dataset(options.source, options.folder / "prepared")
    for part in SPEED_PARTS if options.part == "all" else (options.part,):
        measure_part(part, options, prepared)
    if options.write:
        write_speed(options.write, [options.folder / f"{part}.json" for part in SPEED_PARTS])


def measure_accuracy(options: argparse.Namespace) -> None:
    """One side's training, or all of them one after the other; then the table."""
    results = options.folder / "accuracy"
    prepared = prepared_dataset(options.source, options.folder / "prepared")
    for side in (
        [] if options.side == "draw" else [options.side] if options.side else list(training_accuracy.SIDES)
    ):
        conditions = training_accuracy.Conditions(
            prepared, options.source, options.folder, options.fold, options.minutes * 60
        )
        training_accuracy.train_one(side, conditions, options.set, options.result or results / f"{side}.json")
    if options.write:
        write_accuracy(options.write, results)


def prepared_dataset(source: Path, folder: Path) -> Path:
    """The dataset as `mambamed prepare` leaves it; kept where it is there already."""
    if not source.is_dir():
        sys.exit(f"{source}: is not there; give --source the folder of Task04_Hippocampus")
    if not (folder / "dataset.json").is_file():
        prepare(convert(source), folder, qc=False, workers=1, progress=Silence())
    return folder


# --- two sides in turns ------------------------------------------------------------------------------------


class Helper:
    """A process of one thread that does one piece of work whenever it is told to."""

    def __init__(self, make: Callable[..., Work], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, arguments), daemon=True)
        self._process.start()
        self.facts: dict[str, Any] = self._pipe.recv()

    def seconds(self, count: int) -> float:
        """CPU time of one piece of work, the mean of `count`."""
        self._pipe.send(count)
        return self._pipe.recv()

    def close(self) -> None:
        """End the process."""
        self._pipe.send(0)
        self._process.join()


def _serve(pipe: Connection, make: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    work = make(*arguments)
    pipe.send(getattr(work, "facts", {}))
    while count := pipe.recv():
        began = time.process_time()
        for _ in range(count):
            work()
        pipe.send((time.process_time() - began) / count)


def in_turns(ours: Helper, theirs: Helper, turns: int, count: int) -> tuple[float, float]:
    """Mean CPU-seconds of ours and theirs, `count` pieces of work a turn; the first turn does not count."""
    pairs = [(theirs.seconds(count), ours.seconds(count)) for _ in range(turns + 1)][1:]
    theirs.close()
    ours.close()
    found = [statistics.mean(times) for times in zip(*pairs, strict=True)]
    return found[1], found[0]


def measure_part(part: str, options: argparse.Namespace, prepared: Path) -> None:
    """The rows of one part of the speed table, into FOLDER/PART.json, which grows."""
    rows = []
    for name, theirs, ours, count in comparisons(part, options, prepared):
        left, right = Helper(*theirs), Helper(*ours)
        check = agreement(left.facts, right.facts)
        mine, peer = in_turns(right, left, options.turns, count)
        rows.append({"what": name, "ours": mine, "theirs": peer, "check": check})
        (options.folder / f"{part}.json").write_text(json.dumps(rows, indent=1))
        print(f"{name}: nnU-Net {peer:.4f}, ours {mine:.4f} CPU-s, {peer / mine:.2f}x", flush=True)


def agreement(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """That both sides do the same work; refuses what differs."""
    if theirs.get("parameters") != ours.get("parameters"):
        sys.exit(f"not the same network: {theirs} and {ours}")
    if "parameters" in ours:
        return f"{ours['parameters']} parameters each"
    means = [np.array(side["mean_std"]) for side in (theirs, ours)]
    gap = np.abs(means[0] - means[1]).max()
    if theirs["shape"] != ours["shape"] or gap > 0.1:
        sys.exit(f"not the same patches: {theirs} and {ours}")
    return (
        f"mean, std of patches: {means[0][0]:.2f}, {means[0][1]:.2f} and {means[1][0]:.2f}, {means[1][1]:.2f}"
    )


def comparisons(
    part: str, options: argparse.Namespace, prepared: Path
) -> list[tuple[str, tuple, tuple, int]]:
    """Name, their work, our work, pieces of work a turn."""
    folder = options.folder
    if part == "step":
        training_nnunet.prepare_dataset(
            options.source, folder / "nnunet", PreparedDataset.open(prepared).splits
        )
        return [
            (
                "training step, PlainConv of nnU-Net's plan, 2 x 40x56x40",
                (their_step, folder / "nnunet", options.fold),
                (our_step, prepared, options.fold, folder),
                3,
            )
        ]
    small, large = (40, 56, 40), (128, 128, 128)
    made = training_patches.made_up_brats(folder / "made_up", prepared_dataset)
    augment = (training_patches.their_augmentation, training_patches.our_augmentation)
    read = (training_patches.their_loader, training_patches.our_loader)
    from_disk = (training_patches.their_loader, training_patches.our_disk_loader)
    wanted = (
        ("augment", "augment a patch in memory, 40x56x40", prepared, small, augment, 60),
        ("augment", "augment a patch in memory, 4 x 128^3", made, large, augment, 15),
        ("loader", "augmented patch as a training gets it, 40x56x40", prepared, small, read, 60),
        ("loader", "augmented patch from disk each time, 40x56x40", prepared, small, from_disk, 60),
        ("loader", "augmented patch from disk each time, 4 x 128^3", made, large, from_disk, 15),
    )
    found = []
    for of_part, name, dataset, size, (theirs, ours), count in wanted:
        if of_part == part:
            store = training_patches.nnunet_store(dataset, size)
            found.append((name, (theirs, dataset, store, size), (ours, dataset, size), count))
    return found


# --- a training step ---------------------------------------------------------------------------------------


def their_step(folder: Path, fold: int) -> Work:
    """nnU-Net's `train_step` on one batch of its own loader: its plan, its network, float32 on the CPU."""
    trainer = training_nnunet.make_trainer(folder, fold, batch_size=2)
    batch = next(training_nnunet.make_loader(trainer))
    trainer.network.train()
    if tuple(batch["data"].shape) != (2, 1, 40, 56, 40):
        sys.exit(f"nnU-Net plans another patch than 40x56x40: {tuple(batch['data'].shape)}")

    def work() -> None:
        trainer.train_step(batch)

    work.facts = {"parameters": sum(p.numel() for p in trainer.network.parameters())}  # type: ignore[attr-defined]
    return work


def our_step(prepared: Path, fold: int, folder: Path) -> Work:
    """A step of our loop: the recipe hippocampus_nnunet at the width of nnU-Net's plan, its moving average
    of the weights included, in the precision that is chosen for this CPU."""
    keep_freed_memory()
    recipe = load_recipe("hippocampus_nnunet", ["network.channels=32"])
    dataset = PreparedDataset.open(prepared)
    root = folder / "runs" / f"step_{time.time_ns()}"
    run = create_run(planned_run(recipe, dataset.plan, dataset.manifest, root))
    place, _ = choose_workplace("cpu", recipe.training.precision)
    session = Session(run, dataset, fold, place, Silence())
    state, batch = session.fresh_state(), session.first_batch()
    if tuple(batch.image.shape) != (2, 1, 40, 56, 40):
        sys.exit(f"the recipe has another patch than 40x56x40: {tuple(batch.image.shape)}")
    loop = session._loop(state, SilentJournal())

    def work() -> None:
        loop._take_step(iter([batch]))
        state.counters.step += 1

    work.facts = {"parameters": sum(p.numel() for p in state.network.parameters())}  # type: ignore[attr-defined]
    return work


if __name__ == "__main__":
    main()
