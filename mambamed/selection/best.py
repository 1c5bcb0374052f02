"""`best`: predicts the validation cases of runs, chooses, and writes ensemble.json for `predict`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mambamed.documents.ensemble import Choice, EnsembleFile, EnsembleMember, MaskPostprocess
from mambamed.errors import RecipeError
from mambamed.io.images import read_image
from mambamed.io.lock import reading
from mambamed.io.ownership import Output
from mambamed.metrics import METRICS, parse_metric
from mambamed.metrics.rules import rules_for
from mambamed.progress import Progress, Silence
from mambamed.report.tables import Table, shown, shown_interval, write_table
from mambamed.run.provenance import sha256_of
from mambamed.selection.climb import climb, fewest_for
from mambamed.selection.held_out import HeldOut, predict_held_out
from mambamed.selection.options import Setting, ensembles, postprocessings, scores_of, weightings
from mambamed.terminal import command_line

FILE = "ensemble.json"


@dataclass(frozen=True)
class BestSummary:
    """The result of `best`.

    Attributes:
        output: folder of the results.
        ensemble: the file for `predict`.
        table: every option that was tested.
        chosen: names of the runs that are averaged, with their weights.
    """

    output: Path
    ensemble: Path
    table: Table
    chosen: tuple[str, ...]
    next_command: str


def best(
    models: Sequence[Path],
    output: Path,
    *,
    data: Path | None = None,
    metric: str | None = None,
    alpha: float = 0.05,
    common: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> BestSummary:
    """Choose among runs, averages of runs, weights and postprocessing; see `climb`.

    Args:
        models: run folders, the preferred one first: others are taken only if they are significantly better.
        data: the prepared dataset (default: the one that the runs record).
        metric: that is to be raised (default: the first one of the first run's recipe).
        alpha: probability of an error, for each of the three stages.
        common: use only the folds that all runs have.

    Raises:
        ModelError, RecipeError: see `predict_held_out`; an unknown metric.
    """
    progress = progress or Silence()
    place = Output(output, "choice of an ensemble", [*models, *([data] if data else [])])
    place.check()
    with place.locked(), reading(*models):
        held = predict_held_out(models, output, data, device, common, progress)
        rules_of_run = held.runs[0].recipe.evaluation
        try:
            chosen_metric = parse_metric(metric or rules_of_run.metrics[0], rules_of_run.hd95)
        except ValueError as error:
            raise RecipeError(f"--metric {metric}: {error}") from error
        if not (better := METRICS[chosen_metric.kind].better):
            raise RecipeError(
                f"--metric {chosen_metric.name}: neither high nor low is better. Use e.g. dice."
            )
        rules = rules_for(None, "exclude", None, None)
        subjects = [held.subjects[case] for case in held.fold_of]
        if len(set(subjects)) < fewest_for(alpha):
            progress.say(
                f"{len(set(subjects))} subjects: no test can reach {alpha:g} with fewer than "
                f"{fewest_for(alpha)}; the first run is kept as it is"
            )
        names = _names(models)
        absent = 1.0 if better == "higher" else 0.0

        def scored(settings):
            progress.start(f"scoring {len(settings)} options", 1, "rounds")
            found = scores_of(settings, held, chosen_metric, rules)
            progress.advance(1)
            return found

        own = held.runs[0].recipe.inference.postprocess
        start = MaskPostprocess.of(own)
        groups = {
            name: Setting(setting.weights, start) for name, setting in ensembles(len(models), names).items()
        }
        setting, tested = climb(
            "runs",
            groups[names[0]],
            lambda now: {name: other for name, other in groups.items() if other != now},
            scored,
            subjects,
            absent,
            alpha,
        )
        setting, more = climb(
            "weights", setting, lambda now: weightings(now, names), scored, subjects, absent, alpha
        )
        tested += more
        volumes = _volumes(held)
        setting, more = climb(
            "postprocessing",
            setting,
            lambda now: postprocessings(now, held.task, volumes),
            scored,
            subjects,
            absent,
            alpha,
        )
        tested += more
        file = _written(output, models, held, setting, chosen_metric.name, tested)
        table = choice_table(tested, chosen_metric.title, better == "lower", alpha)
        write_table(output / "choices", table)
    chosen = tuple(f"{names[k]} x {weight:g}" for k, weight in setting.weights.items())
    following = command_line("predict", file, "IMAGES", "-o", "masks")
    return BestSummary(output, file, table, chosen, following)


def _names(models: Sequence[Path]) -> list[str]:
    """The names of the run folders; their paths, where names are alike."""
    short = [model.resolve().name for model in models]
    return [str(m) if short.count(name) > 1 else name for m, name in zip(models, short, strict=True)]


def _volumes(held: HeldOut) -> dict[str, float]:
    """Structure -> median volume in the references of the cases that have it, mm3."""
    manifest, found = held.runs[0].manifest, {name: [] for name in held.task.names}
    for case in held.fold_of:
        image = read_image(held.prepared / "references" / f"{case}.nii.gz")
        truth = np.rint(image.array)
        for name, volumes in found.items():
            if count := int(np.isin(truth, manifest.foreground[name]).sum()):
                volumes.append(count * float(np.prod(image.spacing)))
    return {name: float(np.median(volumes)) for name, volumes in found.items() if volumes}


def _written(
    output: Path,
    models: Sequence[Path],
    held: HeldOut,
    setting: Setting,
    metric: str,
    tested: Sequence[Choice],
) -> Path:
    members = []
    for number, weight in setting.weights.items():
        run = held.runs[number]
        digests = {f"fold_{fold}": sha256_of(run.weights(fold)) for fold in held.folds}
        where = os.path.relpath(models[number], output)
        members.append(EnsembleMember(model=Path(where).as_posix(), weight=weight, checkpoints=digests))
    path = output / FILE
    EnsembleFile(
        members=tuple(members),
        postprocess=setting.postprocess,
        thresholds=dict(setting.thresholds),
        metric=metric,
        choices=tuple(tested),
    ).write(path)
    return path


def choice_table(tested: Sequence[Choice], title: str, lower: bool, alpha: float) -> Table:
    """Every option that was tested; of distances with their own sign."""
    sign = -1.0 if lower else 1.0
    rows = []
    for choice in tested:
        low, high = (sign * end for end in choice.interval)
        interval = (low, high) if low <= high or math.isnan(low) else (high, low)
        p = "<0.001" if choice.p < 0.001 else f"{choice.p:.3f}"
        means = [shown(sign * choice.before), shown(sign * choice.after)]
        rows.append(
            [choice.option, choice.stage, *means, shown_interval(interval), p, "yes" if choice.taken else ""]
        )
    subjects = max((choice.subjects for choice in tested), default=0)
    headers = ["option", "stage", f"{title} without", "with", "95% CI of the difference", "p (Holm)", "taken"]
    notes = [
        f"{subjects} subjects, each predicted by the network of the fold in which it is a validation case; "
        "mean over the structures of each case",
        f"permutation test, paired by subject; an option is taken if it is better and p is at most {alpha:g}",
        "the scores of what was chosen are optimistically biased: test it on other cases",
    ]
    return Table("Options", headers, rows, notes)
