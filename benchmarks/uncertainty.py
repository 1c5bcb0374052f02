"""Whether `predict --uncertainty` ranks real cases by their true Dice better than chance.

    OMP_NUM_THREADS=1 python benchmarks/uncertainty.py [--model RUN ...] [--folds 0] [--data PREPARED]
        [--write]

Predicts and evaluates the validation cases of folds of Task04_Hippocampus; several runs, e.g. of different
seeds, are averaged. For each structure, and for the mean of the structures, it reports Spearman's correlation
of each number with the true Dice over the cases, and a one-sided permutation test.
Data are those of the tests (MAMBAMED_TEST_DATA).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sections import replace_section

import mambamed
from mambamed.documents.run import RunRecord
from mambamed.io.tables import read_csv
from mambamed.report.canvas import new_figure, plain_style, png_of

DATA = Path(os.environ.get("MAMBAMED_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURE = "uncertainty.png"
RECIPE, FOLD, SEED, CPU_MINUTES = "hippocampus_nnmamba", 0, 0, 11
MEAN = "mean of both"
# name -> what it is called, and the sign of the correlation if it works
NUMBERS = {
    "expected_dice": ("expected Dice", 1),
    "entropy": ("entropy", -1),
    "disagreement": ("disagreement", -1),
    "voxels": ("for comparison: voxels of the mask", 1),
}
RESAMPLES = 99_999

Values = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Rank:
    """How a number ranks cases by their true Dice.

    Attributes:
        rho: Spearman's.
        interval: 95 %, of `rho`.
        p: that chance reaches a correlation of the wanted sign as strong.
    """

    rho: float
    interval: tuple[float, float]
    p: float


def ranked(
    number: NDArray[np.float64], dice: NDArray[np.float64], sign: int, folds: NDArray[np.int64] | None = None
) -> Rank:
    """Spearman's rho, its interval by Fisher's z (Bonett and Wright 2000), and a permutation test.

    Each fold takes 3 degrees of freedom from the interval.

    Args:
        folds: of the cases, whose networks differ: ranks are those within a fold, and only cases of the same
            fold change places in the test.
    """
    strata = np.zeros(len(dice), int) if folds is None else folds
    first, second = (_within(values, strata) for values in (number, dice))
    rho = float((first * second).mean())
    width = stats.norm.ppf(0.975) * np.sqrt((1 + rho**2 / 2) / (len(dice) - 3 * len(np.unique(strata))))
    low, high = np.tanh(np.arctanh(np.clip(rho, -1 + 1e-9, 1 - 1e-9)) + np.array([-width, width]))
    rng, totals = np.random.default_rng(0), np.zeros(RESAMPLES)
    for fold in np.unique(strata):
        here = strata == fold
        permuted = rng.permuted(np.tile(first[here], (RESAMPLES, 1)), axis=1)
        totals += permuted @ second[here]
    as_strong = int((sign * totals >= sign * (first * second).sum() - 1e-9).sum())
    return Rank(rho, (float(low), float(high)), (as_strong + 1) / (RESAMPLES + 1))


def _within(values: NDArray[np.float64], strata: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ranks within each stratum, of mean 0 and standard deviation 1."""
    ranks = np.empty(len(values))
    for stratum in np.unique(strata):
        own = stats.rankdata(values[strata == stratum])
        ranks[strata == stratum] = (own - own.mean()) / own.std()
    return ranks


def measured(models: Sequence[Path], folds: Sequence[int], prepared: Path, folder: Path) -> dict[str, Values]:
    """Structure -> its true Dice ("dice") and each of `NUMBERS` of the cases where the mask has it.

    `MEAN` -> the means over the structures, of the cases where the mask has all of them.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}  # structure -> case -> number
    for fold in folds:
        masks, scores = folder / f"masks_{fold}", folder / f"scores_{fold}"
        mambamed.predict(
            models, prepared, masks, part="val", folds=str(fold), tta="mirror", uncertainty=True, device="cpu"
        )
        mambamed.evaluate(
            masks, prepared, scores, part="val", only_predicted=True, metrics=["dice"], report=False
        )
        true = {(row["case"], row["region"]): row for row in read_csv(scores / "cases.csv")[1]}
        for row in read_csv(masks / "uncertainty.csv")[1]:
            known = true[row["case"], row["structure"]]
            if row["expected_dice"]:
                numbers = {name: float(row[name]) for name in NUMBERS if name in row}
                voxels = float(known["tp"]) + float(known["fp"])
                both = {**numbers, "voxels": voxels, "dice": float(known["dice"]), "fold": fold}
                found.setdefault(row["structure"], {})[row["case"]] = both
    structures = list(found.values())
    whole = [case for case in structures[0] if all(case in each for each in structures)]
    found[MEAN] = {
        case: {
            name: float(np.mean([each[case][name] for each in structures])) for name in structures[0][case]
        }
        for case in whole
    }
    return {
        structure: {
            name: np.array([row[name] for row in rows.values()]) for name in next(iter(rows.values()))
        }
        for structure, rows in found.items()
    }


def section(
    models: Sequence[Path],
    folds: Sequence[int],
    found: Mapping[str, Values],
    ranks: Mapping[str, Mapping[str, Rank]],
) -> list[str]:
    """The text and the table."""
    trained = [RunRecord.read(model / "run.json") for model in models]
    told = [document.folds[str(fold)] for document in trained for fold in folds]
    minutes = [sum(one.cost.cpu_seconds for one in each.sessions if one.cost) / 60 for each in told]
    seeds = sorted({each.seed for each in told})
    steps = sorted(each.steps for each in told)
    lines = [
        "## Uncertainty of masks",
        "",
        f"`python benchmarks/uncertainty.py --folds {' '.join(map(str, folds))}`: Task04_Hippocampus, "
        f"validation cases of these folds, predicted by `{trained[0].recipe}`, the average of seed "
        f"{', '.join(map(str, seeds))}, each trained for {_range(steps, 'd')} steps in "
        f"{_range(minutes, '.1f')} CPU-minutes, with `predict --uncertainty --tta mirror`. Unless `--model` "
        f"gives runs, one is trained by `mambamed train {RECIPE} --set training.seed={SEED} "
        f"--max-cpu-minutes {CPU_MINUTES}`. Rho is "
        "Spearman's correlation with the true Dice over the cases, by their ranks within a fold. p is from a "
        f"one-sided test by {RESAMPLES + 1:,} permutations within the folds: the expected Dice should rise "
        "with the true one, entropy and disagreement should fall. The p-values are not corrected for the "
        "number of tests. Training chose its checkpoint and its temperature on the same cases.",
        "",
        "| structure | cases | mean true Dice | mean expected Dice | number | rho (95 % interval) | p |",
        "|---|--:|--:|--:|---|--:|--:|",
    ]
    for structure, values in found.items():
        means = f"{values['dice'].mean():.3f} | {values['expected_dice'].mean():.3f}"
        for name, rank in ranks[structure].items():
            low, high = rank.interval
            lines.append(
                f"| {structure} | {len(values['dice'])} | {means} | {NUMBERS[name][0]} | "
                f"{rank.rho:.2f} ({low:.2f} to {high:.2f}) | {rank.p:.5f} |"
            )
    return [*lines, "", f"![True Dice over disagreement and expected Dice, one point per case]({PICTURE})"]


def _range(values: Sequence[float], form: str) -> str:
    low, high = (format(each, form) for each in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


@plain_style()
def picture(found: Mapping[str, Values], ranks: Mapping[str, Mapping[str, Rank]]) -> bytes:
    """True Dice over the disagreement and over the expected Dice, one column per structure."""
    figure = new_figure(figsize=(4 * len(found), 7), dpi=100)
    panels = figure.subplots(2, len(found), sharex="row", sharey=True, squeeze=False)
    for column, (structure, values) in enumerate(found.items()):
        for axes, name in zip(panels[:, column], ("disagreement", "expected_dice"), strict=True):
            axes.plot(values[name], values["dice"], "o", ms=4, alpha=0.7)
            axes.set_title(f"{structure}: rho {ranks[structure][name].rho:.2f}, {len(values['dice'])} cases")
            axes.set_xlabel(NUMBERS[name][0])
            axes.grid(alpha=0.3)
        low = min(np.min(values["dice"]), np.min(values["expected_dice"]))
        panels[1, column].axline((low, low), slope=1, ls="--", color="gray", lw=1)
    for axes in panels[:, 0]:
        axes.set_ylabel("true Dice")
    return png_of(figure)


def main() -> None:
    """Train if needed, measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model",
        type=Path,
        nargs="+",
        help="runs trained on the folds, which are averaged (default: train one)",
    )
    parser.add_argument("--folds", type=int, nargs="+", default=[FOLD], help="whose validation cases")
    parser.add_argument("--data", type=Path, help="the prepared dataset (default: prepare it)")
    parser.add_argument("--write", action="store_true", help="write the section of docs/benchmarks.md")
    asked = parser.parse_args()
    source = DATA / "Task04_Hippocampus"
    if not asked.data and not source.is_dir():
        sys.exit(f"{source}: not found. Set MAMBAMED_TEST_DATA, or give --data.")
    with tempfile.TemporaryDirectory(prefix="mambamed-benchmark-") as name:
        folder = Path(name)
        prepared, models = asked.data or folder / "prepared", asked.model or [folder / "run"]
        if not asked.data:
            mambamed.prepare(source, prepared, qc=False)
        if not asked.model:
            mambamed.train(
                RECIPE, prepared, models[0], fold=",".join(map(str, asked.folds)),
                set=[f"training.seed={SEED}"], device="cpu", max_cpu_minutes=CPU_MINUTES,
            )  # fmt: skip
        found = measured(models, asked.folds, prepared, folder)
        ranks = {
            structure: {
                name: ranked(values[name], values["dice"], sign, values["fold"].astype(int))
                for name, (_, sign) in NUMBERS.items()
            }
            for structure, values in found.items()
        }
        lines = section(models, asked.folds, found, ranks)
    print("\n".join(lines))
    if asked.write:
        (DOCS / PICTURE).write_bytes(picture(found, ranks))
        replace_section(DOCS / "benchmarks.md", "uncertainty", "uncertainty.py", lines)


if __name__ == "__main__":
    main()
