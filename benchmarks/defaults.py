"""Which network a general recipe should have: networks compared for the same CPU time of training.

    export OMP_NUM_THREADS=1
    python benchmarks/defaults.py DATASET ... --minutes 5 [--work FOLDER] [--jobs 2] [--write]
    python benchmarks/defaults.py DATASET ... --logistic
    python benchmarks/defaults.py --write

For each dataset it makes the general recipe of each network (`mambamed recipes new --network`), as `mambamed
train -d` would, and trains all of them in one study (`mambamed study`): folds 1 and 2, three seeds, the same
CPU-minutes for every training, validation included. Fold 0 is kept for one look at the winner (`--folds 0
--networks ...`). An interrupted comparison continues with the same command and the same `--work`. Results are
kept in benchmarks/defaults/DATASET_MINUTES.json; `--write` makes the section of docs/benchmarks.md from all
of them. Classifications are also compared with a logistic regression (benchmarks/logistic.py); `--logistic`
prepares the data and scores only that.

Data are those of the tests (MAMBAMED_TEST_DATA), and phantoms, which it makes.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from logistic import LOGISTIC, against_networks, score_logistic
from sections import replace_section

from mambamed import api
from mambamed.demonstration.phantom import write_phantoms
from mambamed.documents.study import TWIN, StudyDifference, StudyRecord, StudyScore, read_study
from mambamed.networks import options_of
from mambamed.run.workplace import choose_workplace
from mambamed.tasks.proposals import NETWORKS_OF_TASKS
from tests.real_data import DATA

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "defaults"
CHOOSING = (1, 2)
SEEDS = 3
NETWORKS = {
    "segmentation": ("nnunet", "nnunet_resenc", "hybrid_unet", "nnmamba"),
    "landmarks": ("nnmamba", "resunet", "nnunet", "hybrid_unet"),
    "classification": ("nnmamba_classifier", "resnet", "densenet"),
}
# Task -> region of the table's rows over all structures, metric, its unit, and whether higher is better.
SCORES = {
    "segmentation": ("average", "dice", "Dice"),
    "landmarks": ("all", "error_mm", "mm"),
    "classification": ("all", "accuracy", "accuracy"),
}


@dataclass(frozen=True)
class Compared:
    """A dataset of the comparison.

    Attributes:
        source: makes its raw data in a folder, and returns what `prepare` reads.
        options: of `prepare`.
        keys: of the recipe, for all networks, where the general recipe cannot know them.
    """

    task: str
    source: Callable[[Path], Path]
    options: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)


def _phantoms(shape: tuple[int, int, int], spacing_mm: float, count: int) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        for seed in range(count):
            if not (folder / f"PHANTOM-{seed:04d}" / f"PHANTOM-{seed:04d}-seg.nii.gz").is_file():
                write_phantoms(folder, 1, first_seed=seed, shape=shape, spacing_mm=spacing_mm)
        return folder

    return made


def _listed(column: str) -> Callable[[Path], Path]:
    """The hippocampi as a list of cases, with their points or classes."""

    def made(folder: Path) -> Path:
        derived, images = DATA / "hippocampus_derived", DATA / "Task04_Hippocampus" / "imagesTr"
        with (derived / "classes.csv").open() as file:
            classes = {row["case"]: row["class"] for row in csv.DictReader(file)}
        answer = classes if column == "class" else dict.fromkeys(classes, str(derived / "points.csv"))
        rows = [f"{case},{images / case}.nii.gz,{answer[case]}" for case in sorted(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cases.csv").write_text("\n".join([f"case,image,{column}", *rows]))
        return folder / "cases.csv"

    return made


def _as_it_is(name: str) -> Callable[[Path], Path]:
    return lambda folder: DATA / name


# A training ends by its CPU time; the steps of a recipe are only the most that it may take.
_ENOUGH = {"training.epochs": 2000}
_ANY_POSE = {"training.augment.rotate": 1.0, "training.augment.rotate_degrees": 180}
DATASETS = {
    "hippocampus": Compared("segmentation", _as_it_is("Task04_Hippocampus")),
    "phantom": Compared("segmentation", _phantoms((64, 80, 64), 2.0, 40), {"format": "brats"}),
    "large_phantom": Compared("segmentation", _phantoms((128, 160, 128), 1.0, 30), {"format": "brats"}),
    "hippocampus_points": Compared("landmarks", _listed("points")),
    "mouse_skull": Compared(
        "landmarks", _as_it_is("mouse_skull_landmarks"), {"spacing": "0.6,0.6,0.6"}, _ANY_POSE
    ),
    "hippocampus_size": Compared("classification", _listed("class")),
    # The recipe keeps the empty space around a lesion, which shows the side.
    "stroke_side": Compared(
        "classification",
        _as_it_is("stroke_severity"),
        {"class_column": "side", "recipe": "stroke_side_nnmamba"},
    ),
    "mr_sequences": Compared("classification", _as_it_is("mr_sequences")),
}


def compare(name: str, minutes: float, asked: argparse.Namespace) -> None:
    """Train and score all networks on a dataset, and keep the study's record."""
    known = DATASETS[name]
    if asked.logistic and known.task != "classification":
        raise SystemExit(f"--logistic: {name} is no classification")
    folder = Path(asked.work).resolve() / name
    api.prepare(known.source(folder / "raw"), folder / "prepared", **known.options)
    if asked.logistic:
        print(f"{name}: {score_logistic(folder / 'prepared', asked.folds, folder / LOGISTIC)}")
        return
    networks = asked.networks or NETWORKS[known.task]
    place = folder / f"{minutes:g}_minutes"
    for network in networks:
        if not (recipe := place / "recipes" / f"{network}.yaml").is_file():
            recipe.parent.mkdir(parents=True, exist_ok=True)
            api.recipes_new(
                folder / "prepared",
                recipe,
                network=network,
                task=known.task,
                hours=minutes / 60,
                device="cpu",
            )
    study = {
        "datasets": {name: {"prepared": str(folder / "prepared")}},
        "recipes": {
            network: {
                "recipe": str(place / "recipes" / f"{network}.yaml"),
                "twin": "mixer" in options_of(network),
            }
            for network in networks
        },
        "set": {**_ENOUGH, **known.keys},
        "folds": asked.folds,
        "seeds": asked.seeds,
        "budget": {"cpu_minutes": minutes},
    }
    (place / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    api.study(place / "study.yaml", place / "study", device="cpu", jobs=asked.jobs)
    kept = {
        "command": command(name, minutes, asked),
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
        "machine": machine(),
        "recipes": {network: (place / "recipes" / f"{network}.yaml").read_text() for network in networks},
        "record": json.loads((place / "study" / "study.json").read_text()),
    }
    if known.task == "classification":
        tests = against_networks(read_study(place / "study.yaml"), name, place / "study")
        kept["logistic"] = json.loads(tests.model_dump_json())
    RESULTS.mkdir(exist_ok=True)
    ending = "" if tuple(asked.folds) == CHOOSING else "_folds_" + "_".join(map(str, asked.folds))
    text = json.dumps(kept, indent=1).replace(f"{folder}/", "")
    (RESULTS / f"{name}_{minutes:g}{ending}.json").write_text(text + "\n")


def command(name: str, minutes: float, asked: argparse.Namespace) -> str:
    """The command of this comparison, apart from its folders."""
    words = ["python", "benchmarks/defaults.py", name, "--minutes", f"{minutes:g}"]
    if asked.networks:
        words += ["--networks", *asked.networks]
    if tuple(asked.folds) != CHOOSING:
        words += ["--folds", *map(str, asked.folds)]
    return shlex.join([*words, "--seeds", str(asked.seeds), "--jobs", str(asked.jobs)])


def machine() -> str:
    """Name and number of the CPUs, and whether training is in bf16 by default."""
    _, lines = choose_workplace("cpu", "auto")
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores; {lines['precision']}"


def table(kept: dict[str, Any], file: str) -> list[str]:
    """Rows of one comparison: every network against the present network of the task, twins against theirs.

    Classifications also have a row of the logistic regression, and every network against it.
    """
    records = [
        StudyRecord.model_validate_json(json.dumps(kept[key]))
        for key in ("record", "logistic")
        if key in kept
    ]
    record = records[0]
    dataset = next(iter(record.study.datasets))
    region, metric, unit = SCORES[DATASETS[dataset].task]
    present = NETWORKS_OF_TASKS[DATASETS[dataset].task][0]
    scores = [s for each in records for s in each.scores if (s.region, s.metric) == (region, metric)]
    tests = [test for each in records for test in each.differences]
    names = {run.recipe for run in record.runs}
    steps = {name: round(fmean(run.steps for run in record.runs if run.recipe == name)) for name in names}
    assert record.study.budget is not None
    others = {present: present, "its twin": TWIN} | ({_shown(LOGISTIC): LOGISTIC} if records[1:] else {})
    columns = ["network", "steps", f"{unit} (95 % interval)", "SD of seeds"]
    columns += [column for other in others for column in (f"minus {other}", "p")]
    lines = [
        f"### {dataset}, {record.study.budget.cpu_minutes:g} CPU-minutes",
        "",
        f"`{kept['command']}`, {kept['date']}, {kept['machine']}; {scores[0].units} cases of folds "
        f"{', '.join(map(str, record.study.folds))}, {len(scores[0].seeds)} seeds; `{file}`.",
        "",
        f"| {' | '.join(columns)} |",
        f"|---|{'--:|' * (len(columns) - 1)}",
    ]
    for score in sorted(scores, key=lambda s: s.mean, reverse=metric != "error_mm"):
        low, high = score.interval
        against = [
            text
            for other in others.values()
            for text in difference_of(tests, score, f"{score.recipe}{TWIN}" if other == TWIN else other)
        ]
        cells = [
            _shown(score.recipe),
            steps.get(score.recipe, ""),
            f"{score.mean:.4f}" + ("" if math.isnan(low) else f" ({low:.4f} to {high:.4f})"),
            "" if math.isnan(score.sd) else f"{score.sd:.4f}",
        ]
        lines.append(f"| {' | '.join(map(str, [*cells, *against]))} |")
    if any(math.isnan(score.interval[0]) for score in scores):
        lines += ["", "There are too few subjects for intervals."]
    return [*lines, ""]


def _shown(row: str) -> str:
    return row.replace("_", " ") if row == LOGISTIC else row


def difference_of(tests: Sequence[StudyDifference], score: StudyScore, other: str) -> tuple[str, str]:
    """`score` minus that of another network, with its interval, and the corrected p; empty if not tested."""
    for test in tests:
        if (test.region, test.metric) != (score.region, score.metric):
            continue
        if {test.first, test.second} != {score.recipe, other}:
            continue
        sign = 1 if test.first == other else -1
        low, high = sorted(sign * limit for limit in test.interval)
        interval = "" if math.isnan(low) else f" ({low:+.4f} to {high:+.4f})"
        p = f"{test.permutation_holm:.3f}" if test.permutation_holm >= 0.001 else "<0.001"
        return f"{sign * test.difference:+.4f}{interval}", p
    return "", ""


def section() -> list[str]:
    """All comparisons that are kept."""
    lines = [
        "## Networks of general recipes",
        "",
        "`python benchmarks/defaults.py`. Every network has the general recipe that `mambamed recipes new "
        "--network` makes for the dataset and this time, and every training has the same CPU time, on one "
        "thread, with its validation. Means are over the seeds, intervals and tests over the subjects "
        "(permutation test, p by Holm's correction over all pairs of networks). `-none` is the same network "
        "without its Mamba layers.",
        "",
        "Classifications are also compared with a logistic regression (L2 penalty by cross-validation within "
        "the training cases) on simple features of each prepared image: its extent, the volume of the voxels "
        "that are not 0, their mean, SD, percentiles and histogram, and volume and mean of the two halves. "
        "Its p are corrected over the networks. It chooses nothing on the validation cases; networks choose "
        "their epoch and, for two classes, a threshold on them, so their accuracies are optimistic. "
        "`--logistic` scores it alone.",
        "",
    ]
    files = sorted(RESULTS.glob("*.json"))
    for file in files:
        lines += table(json.loads(file.read_text()), str(file.relative_to(ROOT)))
    return lines[:-1] if files else [*lines, "No comparison is kept yet."]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "datasets", nargs="*", choices=[[], *DATASETS], metavar="DATASET", help=", ".join(DATASETS)
    )
    parser.add_argument(
        "--minutes", type=float, action="append", help="CPU-minutes of a training (default: 5)"
    )
    parser.add_argument("--networks", nargs="+", help="instead of those of the task")
    parser.add_argument("--folds", type=int, nargs="+", default=list(CHOOSING))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--work", default="defaults", help="folder for data and runs")
    parser.add_argument(
        "--logistic", action="store_true", help="score only the logistic regression, of classifications"
    )
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    for minutes in asked.minutes or [5]:
        for name in asked.datasets:
            compare(name, minutes, asked)
    if asked.write:
        replace_section(PAGE, "defaults", "defaults.py", section())
    elif not asked.logistic:
        print("\n".join(section()))


if __name__ == "__main__":
    main()
