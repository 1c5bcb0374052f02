"""The whole workflow in one command: phantoms, prepare, train, predict, evaluate, picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mambamed import converters
from mambamed.answers.segmentation import predict
from mambamed.demonstration.phantom import LABELS, write_phantoms
from mambamed.evaluation.masks import evaluate
from mambamed.evaluation.result import Evaluation
from mambamed.io.images import read_image
from mambamed.io.ownership import Output
from mambamed.preparation.prepare import prepare
from mambamed.progress import Progress, Silence
from mambamed.recipe import Recipe, load_recipe
from mambamed.report.pictures import PicturedCase, draw_cases
from mambamed.terminal import command_line
from mambamed.training import train
from mambamed.training.costs import TimeLimitError
from mambamed.training.limit import TimeLimit

TRAINING_CASES = 24
TEST_CASES = 6
PICTURED_CASES = 3
_FEWEST_STEPS = 5


@dataclass(frozen=True)
class DemoSummary:
    """Paths and scores of the demo.

    Attributes:
        data: phantoms as BraTS case folders: `training/` and `test/`.
        predictions: one mask per test case.
        evaluation: Dice and HD95 of the test cases, and the tables' folder.
        picture: three test cases with the outlines of reference and prediction.
    """

    data: Path
    prepared: Path
    run: Path
    predictions: Path
    evaluation: Evaluation
    picture: Path


def demo(output: Path, *, minutes: float = 3.5, progress: Progress | None = None) -> DemoSummary:
    """Run the whole workflow on phantoms; finished parts of an interrupted demo are kept.

    Args:
        minutes: wall time for training, including its validation. A machine that is too slow
            for it takes the time that a few steps and the validation need.
        progress: optional callback that receives progress updates.
    """
    with Output(output, "demo").locked():
        return _demo(output, minutes, progress or Silence())


def _demo(output: Path, minutes: float, progress: Progress) -> DemoSummary:
    data, prepared, run = output / "data", output / "prepared", output / "run"
    predictions, tables = output / "predictions", output / "evaluation"
    recipe = load_recipe("phantom_nnmamba")

    progress.say(f"1/6 phantoms: {TRAINING_CASES} for training, {TEST_CASES} for testing -> {data}")
    progress.start("phantoms", TRAINING_CASES + TEST_CASES, "cases")
    for seed in range(TRAINING_CASES + TEST_CASES):
        folder = data / ("training" if seed < TRAINING_CASES else "test")
        if not (folder / f"PHANTOM-{seed:04d}" / f"PHANTOM-{seed:04d}-seg.nii.gz").is_file():
            write_phantoms(folder, 1, first_seed=seed)  # the label map is written last
        progress.advance()
    layout = ("--format", "brats", "--recipe", "phantom_nnmamba")
    progress.say(f"2/6 {command_line('prepare', data / 'training', '-o', prepared, *layout)}")
    raw = converters.convert(data / "training", format="brats")
    prepare(raw, prepared, recipe=recipe, progress=progress)
    _train(recipe, prepared, run, minutes, progress)
    progress.say(f"4/6 {command_line('predict', run, data / 'test', '-o', predictions)}")
    predict([run], data / "test", predictions, progress=progress)
    scored = ("-o", tables, "--recipe", "phantom_nnmamba")
    progress.say(f"5/6 {command_line('evaluate', predictions, data / 'test', *scored)}")
    evaluation = evaluate(
        predictions,
        data / "test",
        labels=recipe.dataset.labels,
        regions=recipe.dataset.regions,
        metrics=recipe.evaluation.metrics,
        hd95=recipe.evaluation.hd95,
        empty=recipe.evaluation.empty,
        output=tables,
        progress=progress,
    )
    progress.say(f"6/6 picture -> {output / 'demo.png'}")
    picture = _draw(data / "test", predictions, output / "demo.png")
    return DemoSummary(data, prepared, run, predictions, evaluation, picture)


def _train(recipe: Recipe, prepared: Path, run: Path, minutes: float, progress: Progress) -> None:
    """Train in this time; on a machine that is too slow for it, take a few steps."""

    def limited(hours: float, measured: bool) -> None:
        options = ("-d", prepared, "-o", run, "--max-hours", f"{hours:.2g}")
        progress.say(f"3/6 {command_line('train', 'phantom_nnmamba', *options)}")
        limit = TimeLimit.of(hours)
        train(
            recipe,
            prepared=prepared,
            output=run,
            fold="0",
            resume=True,
            limit=limit,
            measured=measured,
            progress=progress,
        )

    try:
        limited(minutes / 60, measured=False)
    except TimeLimitError as error:
        pace = error.pace
        seconds = pace.training_seconds(_FEWEST_STEPS, _FEWEST_STEPS) + pace.validation_seconds
        progress.say(
            f"This machine is too slow for a training of {minutes:g} minutes: one step takes "
            f"{pace.step_seconds:.1f} s. Training is extended to {seconds / 60:.1f} minutes, which is enough "
            "for a few steps. The scores will be low."
        )
        limited(seconds / 3600, measured=True)


def _draw(images: Path, predictions: Path, picture: Path) -> Path:
    """Three test cases on their FLAIR image, reference and prediction outlined."""
    cases = []
    for folder in sorted(images.iterdir())[:PICTURED_CASES]:
        image = read_image(folder / f"{folder.name}-t2f.nii.gz")
        reference = read_image(folder / f"{folder.name}-seg.nii.gz").array
        prediction = read_image(predictions / f"{folder.name}.nii.gz").array
        cases.append(PicturedCase(folder.name, image.array, image.affine, reference, prediction))
    draw_cases(picture, cases, LABELS)
    return picture
