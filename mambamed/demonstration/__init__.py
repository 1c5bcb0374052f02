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
from mambamed.recipe import load_recipe
from mambamed.report.pictures import PicturedCase, draw_cases
from mambamed.terminal import command_line
from mambamed.training import train
from mambamed.training.limit import TimeLimit

TRAINING_CASES = 24
TEST_CASES = 6
PICTURED_CASES = 3


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
        minutes: wall time for training, including its validation.
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
    limit = ("--max-hours", f"{minutes / 60:.3f}")
    progress.say(f"3/6 {command_line('train', 'phantom_nnmamba', '-d', prepared, '-o', run, *limit)}")
    limited = TimeLimit.of(minutes / 60)
    train(recipe, prepared=prepared, output=run, fold="0", resume=True, limit=limited, progress=progress)
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
