"""The verbs. Each is a function here and a command of the same name, parameters and help.

Every verb takes paths, does its work through one station of the house, and returns a summary whose
`faults` name the cases that could not be done; the command line prints it and turns faults into
exit code 3. Torch and the readers are imported inside the verbs, so that `--help` stays quick.
`progress`, where a verb takes it, hears how far the work is; the command line passes a progress bar.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from mambamed.converters import CONVERTERS

if TYPE_CHECKING:
    from mambamed.answers.classification import ClassifySummary
    from mambamed.answers.landmarks import LandmarksSummary
    from mambamed.answers.segmentation import PredictSummary
    from mambamed.converters.convert_points import ConvertSummary
    from mambamed.demo import DemoSummary
    from mambamed.evaluation.classification import ClassEvaluation
    from mambamed.evaluation.compare import Comparison
    from mambamed.evaluation.masks import Evaluation
    from mambamed.evaluation.points import PointEvaluation
    from mambamed.preparation.prepare import PreparedSummary
    from mambamed.progress import Progress
    from mambamed.recipe import RecipeLine
    from mambamed.runs.cost import RecipeCost
    from mambamed.runs.doctor import Examination
    from mambamed.runs.export import ExportSummary
    from mambamed.runs.import_weights import ImportSummary
    from mambamed.runs.listing import RunList
    from mambamed.training import TrainSummary
    from mambamed.training.seeds import SeedsSummary

    Format = str
else:
    Format = Literal[("auto", *CONVERTERS)]

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
FixGeometry = Literal["none", "reorient", "resample"]
HD95 = Literal["pooled", "max-directed", "surface-area"]
Empty = Literal["exclude", "brats"]
Protocol = Literal[
    "mambamed",
    "brats2023",
    "brats2023-men",
    "brats2023-met",
    "brats-legacy",
    "segmamba",
    "tamingmambas",
    "nnunet",
]


def prepare(
    source: Annotated[Path, Argument(help="Folder of the dataset as downloaded, or a list of cases.")],
    output: Annotated[
        Path | None, Option("-o", "--output", help="Folder to write; prepared/<source>.")
    ] = None,
    format: Annotated[Format, Option(help="Layout of SOURCE; auto looks for itself.")] = "auto",
    class_column: Annotated[
        str | None, Option(help="Column of the list or of participants.tsv that holds the class.")
    ] = None,
    recipe: Annotated[str | None, Option(help="Use its dataset and preprocess sections.")] = None,
    spacing: Annotated[str | None, Option(help="median, keep, or x,y,z in mm.")] = None,
    folds: Annotated[int | None, Option(help="Parts for cross-validation; 5.")] = None,
    split: Annotated[str | None, Option(help="One split instead: train:val:test, as in 7:1:2.")] = None,
    splits: Annotated[Path | None, Option(help="File of your own splits, as nnU-Net's.")] = None,
    group_by: Annotated[str | None, Option(help="Never torn apart: subject, case, or a column.")] = None,
    stratify: Annotated[str | None, Option(help="Spread evenly: class, labels, or a column.")] = None,
    test_cases: Annotated[
        str | None, Option(help="Fixed test set: ids with commas, or a file of one id a line.")
    ] = None,
    seed: Annotated[int | None, Option(help="Of the split; 12345, as nnU-Net's.")] = None,
    fix_geometry: Annotated[
        FixGeometry, Option(help="What may be done with images on another grid than their first channel.")
    ] = "none",
    qc: Annotated[bool, Option(help="Draw every case into qc/.")] = True,
    workers: Annotated[int, Option(help="Processes; 0 = one a core, as far as --max-ram allows.")] = 0,
    max_ram: Annotated[str | None, Option(help="Memory for all processes, as in 8G.")] = None,
    check_only: Annotated[bool, Option("--check-only", help="Only verify, print what is wrong.")] = False,
    skip_faulty: Annotated[bool, Option("--skip-faulty", help="Go on without faulty cases.")] = False,
    progress: Progress | None = None,
) -> PreparedSummary:
    """Turn a dataset into one that can be trained on: verify, crop, resample, normalize, plan, split.

    Killed at any moment, the same command finishes with the same files.
    """
    from mambamed import converters
    from mambamed.preparation.prepare import prepare
    from mambamed.preparation.split_options import with_options
    from mambamed.recipe import Split, load_recipe

    asked = load_recipe(recipe) if recipe else None
    wanted = with_options(
        asked.dataset.split if asked else Split(),
        folds=folds,
        fractions=split,
        group_by=group_by,
        stratify=stratify,
        test_cases=test_cases,
        seed=seed,
    )
    expected = asked.dataset if asked else None
    raw = converters.convert(
        source,
        format=format,
        channels=expected.channels if expected else None,
        labels=expected.labels if expected else None,
        class_column=class_column,
        progress=progress,
    )
    return prepare(
        raw,
        output or Path("prepared") / (source.stem if source.is_file() else source.resolve().name),
        recipe=asked,
        spacing=spacing,
        split=wanted,
        splits=splits,
        fix_geometry=fix_geometry,
        qc=qc,
        workers=workers,
        max_ram=max_ram,
        check_only=check_only,
        skip_faulty=skip_faulty,
        progress=progress,
    )


def train(
    recipe: Annotated[str, Argument(help="A recipe file, or the name of a shipped recipe.")],
    data: Annotated[
        Path | None, Option("-d", "--data", help="Prepared dataset; goes before the recipe's.")
    ] = None,
    output: Annotated[Path | None, Option("-o", "--output", help="Run folder; runs/<recipe>.")] = None,
    fold: Annotated[str, Option("-f", "--fold", help="Number of the fold, or all.")] = "0",
    seeds: Annotated[
        str | None, Option(help="Train several times: 3 for seeds 0 to 2, or which, as in 4,7.")
    ] = None,
    set: Annotated[list[str] | None, Option("--set", help="Override, as in training.epochs=100.")] = None,
    resume: Annotated[bool, Option("--resume", help="Go on where the run was stopped.")] = False,
    init_from: Annotated[Path | None, Option(help="Run folder whose weights to start from.")] = None,
    init_strict: Annotated[bool, Option("--init-strict", help="Refuse them unless all fit.")] = False,
    device: Annotated[Device, Option(help="Where to compute.")] = "auto",
    precision: Annotated[Precision | None, Option(help="Goes before the recipe's.")] = None,
    deterministic: Annotated[
        bool, Option("--deterministic", help="The same bits each time, on the same machine.")
    ] = False,
    max_hours: Annotated[float | None, Option(help="Fit schedule and validation into this time.")] = None,
    fit: Annotated[
        str | None, Option(help="Choose patch and batch for a memory, as in 24GB; auto: the device's.")
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Take one step, show the cost.")] = False,
    gpus: Annotated[int, Option(help="Processes, one a GPU; torchrun may start them as well.")] = 1,
    log: Annotated[
        list[str] | None, Option("--log", help="Show the curves there too: tensorboard, wandb.")
    ] = None,
    progress: Progress | None = None,
) -> TrainSummary | SeedsSummary:
    """Train a network as a recipe says, validate it on whole volumes.

    Ctrl-C, a kill, or a file named STOP in the run folder ends it without loss; --resume goes on.
    With --seeds, the folder holds a run for each: seed_0, seed_1, ...
    """
    from mambamed.recipe import load_recipe
    from mambamed.training import train
    from mambamed.training.launch import launch, launched
    from mambamed.training.ranks import leave_ranks
    from mambamed.training.seeds import train_seeds

    if launched(gpus):
        raise SystemExit(launch(gpus, sys.argv[1:]))
    options: dict[str, Any] = {
        "prepared": data,
        "output": output,
        "fold": fold,
        "resume": resume,
        "init_from": init_from,
        "init_strict": init_strict,
        "device": device,
        "precision": precision,
        "deterministic": deterministic,
        "max_hours": max_hours,
        "fit": fit,
        "log": log or (),
        "progress": progress,
    }
    asked = load_recipe(recipe, set or ())
    if seeds is not None and not dry_run:
        summary = train_seeds(asked, seeds, **options)
    else:
        summary = train(asked, dry_run=dry_run, **options)
    leave_ranks()
    return summary


def extend(
    run: Annotated[Path, Argument(help="Run folder.")],
    epochs: Annotated[int, Option(help="Epochs of the whole run, those that it has included.")],
    fold: Annotated[str, Option("-f", "--fold", help="Number of a fold, or all that are trained.")] = "all",
    data: Annotated[
        Path | None, Option("-d", "--data", help="Prepared dataset; where it was, if not given.")
    ] = None,
    device: Annotated[Device, Option(help="Where to compute.")] = "auto",
    precision: Annotated[Precision | None, Option(help="Goes before the recipe's.")] = None,
    max_hours: Annotated[float | None, Option(help="Fit what is left into this time.")] = None,
    progress: Progress | None = None,
) -> TrainSummary:
    """Train a run longer than its recipe said; killed, the same command goes on."""
    from mambamed.training.extend import extend
    from mambamed.training.ranks import leave_ranks

    summary = extend(
        run,
        epochs,
        fold=fold,
        prepared=data,
        device=device,
        precision=precision,
        max_hours=max_hours,
        progress=progress,
    )
    leave_ranks()
    return summary


def runs(
    folder: Annotated[Path, Argument(help="Folder that holds run folders, or a run.")] = Path("runs"),
) -> RunList:
    """List runs: how far each fold is, its best score, whether it is training now."""
    from mambamed.runs.listing import list_runs

    return list_runs(folder)


def export(
    run: Annotated[Path, Argument(help="Run folder.")],
    output: Annotated[
        Path | None, Option("-o", "--output", help="File to write, *.mambamed; in the run folder.")
    ] = None,
    folds: Annotated[str, Option(help="Folds to take: all that are trained, or as in 0,2.")] = "all",
    checkpoint: Annotated[Literal["best", "last"], Option(help="Which checkpoint of a fold.")] = "best",
) -> ExportSummary:
    """Write a run as one file to hand on: weights, recipe, plan, card, with their digests and no code."""
    from mambamed.runs.export import export_model

    return export_model(run, output, folds=folds, checkpoint=checkpoint)


def predict(
    model: Annotated[list[Path], Argument(help="Run folder or model file; several make an ensemble.")],
    input: Annotated[Path, Argument(help="An image, a folder of images or DICOM, or a list of cases.")],
    output: Annotated[Path, Option("-o", "--output", help="Folder for the masks.")],
    folds: Annotated[str, Option(help="Folds to average: all that are trained, or as in 0,2.")] = "all",
    checkpoint: Annotated[Literal["best", "last"], Option(help="Which checkpoint of a fold.")] = "best",
    overlap: Annotated[float | None, Option(help="Share that neighboring windows have in common.")] = None,
    tta: Annotated[Literal["mirror", "none"] | None, Option(help="Average over mirrored copies.")] = None,
    device: Annotated[Device, Option(help="Where to compute.")] = "auto",
    precision: Annotated[Precision | None, Option(help="Goes before the recipe's.")] = None,
    resume: Annotated[bool, Option("--resume", help="Keep the cases that are already done.")] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Do every case again.")] = False,
    preview: Annotated[bool, Option("--preview", help="Also write a picture of every case.")] = False,
    save_probabilities: Annotated[
        bool, Option("--save-probabilities", help="Also write float16 probabilities, .npz.")
    ] = False,
    statistics: Annotated[
        bool, Option("--statistics", help="Also write volumes and mean intensities, JSON.")
    ] = False,
    format: Annotated[
        Literal["nifti", "dicom-seg"], Option(help="Of the masks; dicom-seg for DICOM images.")
    ] = "nifti",
    shard: Annotated[
        str | None, Option(help="Do one part of the cases, as in 1/4; torchrun's or SLURM's rank.")
    ] = None,
    max_ram: Annotated[str | None, Option(help="Memory that may be taken, as in 6G.")] = None,
    max_vram: Annotated[str | None, Option(help="The same of the GPU.")] = None,
    progress: Progress | None = None,
) -> PredictSummary:
    """Segment images: one mask a case, on the grid of its own file."""
    from mambamed.answers.segmentation import predict

    return predict(
        model,
        input,
        output,
        folds=folds,
        checkpoint=checkpoint,
        overlap=overlap,
        tta=tta,
        device=device,
        precision=precision,
        resume=resume,
        overwrite=overwrite,
        preview=preview,
        save_probabilities=save_probabilities,
        statistics=statistics,
        format=format,
        shard=shard,
        max_ram=max_ram,
        max_vram=max_vram,
        progress=progress,
    )


def classify(
    model: Annotated[list[Path], Argument(help="Run folder or model file; several make an ensemble.")],
    input: Annotated[Path, Argument(help="An image, a folder of images or DICOM, or a list of cases.")],
    output: Annotated[Path, Option("-o", "--output", help="Table to write, as in preds.csv.")],
    threshold: Annotated[
        float | None, Option(help="Answer the second of two classes from this probability on.")
    ] = None,
    covariates: Annotated[
        Path | None, Option(help="Table of age, sex, ... for a model that reads them; a column case.")
    ] = None,
    saliency: Annotated[
        bool, Option("--saliency", help="Also write where the network looked (Grad-CAM), a map a case.")
    ] = False,
    folds: Annotated[str, Option(help="Folds to average: all that are trained, or as in 0,2.")] = "all",
    checkpoint: Annotated[Literal["best", "last"], Option(help="Which checkpoint of a fold.")] = "best",
    tta: Annotated[Literal["mirror", "none"] | None, Option(help="Average over mirrored copies.")] = None,
    device: Annotated[Device, Option(help="Where to compute.")] = "auto",
    precision: Annotated[Precision | None, Option(help="Goes before the recipe's.")] = None,
    progress: Progress | None = None,
) -> ClassifySummary:
    """Classify images: a table with the probability of every class, a row a case."""
    from mambamed.answers.classification import classify

    return classify(
        model,
        input,
        output,
        threshold=threshold,
        covariates=covariates,
        saliency=saliency,
        folds=folds,
        checkpoint=checkpoint,
        tta=tta,
        device=device,
        precision=precision,
        progress=progress,
    )


def landmarks(
    model: Annotated[list[Path], Argument(help="Run folder or model file; several make an ensemble.")],
    input: Annotated[Path, Argument(help="An image, a folder of images or DICOM, or a list of cases.")],
    output: Annotated[Path, Option("-o", "--output", help="Folder for the points.")],
    export: Annotated[
        str | None, Option(help="Also write, for each case, these kinds: mrk.json,fcsv,csv.")
    ] = None,
    threshold: Annotated[
        float | None, Option(help="Score below which a landmark is absent; what validation taught.")
    ] = None,
    folds: Annotated[str, Option(help="Folds to average: all that are trained, or as in 0,2.")] = "all",
    checkpoint: Annotated[Literal["best", "last"], Option(help="Which checkpoint of a fold.")] = "best",
    overlap: Annotated[float | None, Option(help="Share that neighboring windows have in common.")] = None,
    tta: Annotated[Literal["mirror", "none"] | None, Option(help="Average over mirrored copies.")] = None,
    device: Annotated[Device, Option(help="Where to compute.")] = "auto",
    precision: Annotated[Precision | None, Option(help="Goes before the recipe's.")] = None,
    resume: Annotated[bool, Option("--resume", help="Keep the cases that are already done.")] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Do every case again.")] = False,
    preview: Annotated[bool, Option("--preview", help="Also write a picture of every case.")] = False,
    progress: Progress | None = None,
) -> LandmarksSummary:
    """Place landmarks in images: a JSON file a case, in world mm, with scores and measures; tables of all."""
    from mambamed.answers.landmarks import landmarks

    return landmarks(
        model,
        input,
        output,
        export=[kind.strip().removeprefix(".") for kind in export.split(",")] if export else (),
        threshold=threshold,
        folds=folds,
        checkpoint=checkpoint,
        overlap=overlap,
        tta=tta,
        device=device,
        precision=precision,
        resume=resume,
        overwrite=overwrite,
        preview=preview,
        progress=progress,
    )


def convert_points(
    source: Annotated[
        Path, Argument(help="A point file, a folder of them, a table of cases, or a prepared dataset.")
    ],
    output: Annotated[Path, Option("-o", "--output", help="File; its suffix says the kind. Or a folder.")],
    to: Annotated[
        Literal["mrk.json", "fcsv", "csv", "json"] | None,
        Option(help="Kind of the files in the folder, one a case."),
    ] = None,
    images: Annotated[
        Path | None, Option(help="Image, or folder of images, where SOURCE counts in voxels.")
    ] = None,
) -> ConvertSummary:
    """Turn point files into another kind: 3D Slicer's Markups and fcsv, tables, JSON."""
    from mambamed.converters.convert_points import convert_points

    return convert_points(source, output, to=to, images=images)


def evaluate(
    predictions: Annotated[
        Path,
        Argument(
            help="Folder of predicted masks, or of point files; or a table of class probabilities or points."
        ),
    ],
    references: Annotated[
        Path,
        Argument(help="Folder of reference masks, points or BraTS cases; or a table of classes or points."),
    ],
    output: Annotated[Path | None, Option("-o", "--output", help="Folder for the tables.")] = None,
    recipe: Annotated[str | None, Option(help="Use its labels, regions and evaluation section.")] = None,
    regions: Annotated[str | None, Option(help="What to score, as in liver=1,tumor=2+3.")] = None,
    metrics: Annotated[str | None, Option(help="As in dice,hd95,nsd@1,assd,lesion_dice.")] = None,
    hd95: Annotated[HD95 | None, Option(help="Which of the distances of this name.")] = None,
    empty: Annotated[Empty | None, Option(help="Rule where both masks are empty.")] = None,
    protocol: Annotated[
        Protocol | None, Option(help="All conventions of a paper or challenge, its faults included.")
    ] = None,
    penalty: Annotated[float | None, Option(help="mm for an infinite distance; image diagonal.")] = None,
    ci: Annotated[float, Option(help="Level of the confidence intervals.")] = 0.95,
    only_predicted: Annotated[
        bool, Option("--only-predicted", help="Leave out references without a prediction.")
    ] = False,
    resample: Annotated[bool, Option("--resample", help="Bring masks to their reference's grid.")] = False,
    report: Annotated[bool, Option(help="With -o: also write report.html.")] = True,
    worst: Annotated[int, Option(help="Cases the report shows as pictures.")] = 10,
    images: Annotated[Path | None, Option(help="Folder of the images behind those pictures.")] = None,
    table: Annotated[
        Literal["brats", "classification", "landmarks"] | None,
        Option(help="Also make the table of the papers."),
    ] = None,
    workers: Annotated[int, Option(help="Threads; 0 = one a core.")] = 0,
    progress: Progress | None = None,
) -> Evaluation | ClassEvaluation | PointEvaluation:
    """Compare masks with references: Dice, HD95 and more per case and region, as tables and a report.

    What is scored: --regions, else the recipe's, else that of a dataset.json beside the files. Tables of
    class probabilities, one or several of one question, are scored against a table of classes; points
    against points: mean radial error in mm, success detection rates, misses.
    """
    from mambamed.converters.point_sets import holds_points
    from mambamed.evaluation.classification import evaluate_probabilities, holds_probabilities
    from mambamed.evaluation.masks import evaluate
    from mambamed.evaluation.options import check_level, check_options
    from mambamed.evaluation.pairing import read_regions
    from mambamed.evaluation.points import evaluate_points
    from mambamed.recipe import Evaluation, load_recipe

    check_level(ci)
    asked = load_recipe(recipe) if recipe else None
    of_masks = {
        "--regions": regions,
        "--metrics": metrics,
        "--hd95": hd95,
        "--empty": empty,
        "--protocol": protocol,
        "--penalty": penalty,
        "--resample": resample,
        "--images": images,
    }
    if holds_probabilities(predictions):
        check_options("classes", table, of_masks)
        return evaluate_probabilities(
            predictions,
            references,
            level=ci,
            only_predicted=only_predicted,
            output=output,
            table=table,
            paper=asked.paper if asked else None,
        )
    rules = asked.evaluation if asked else Evaluation()
    if holds_points(predictions):
        check_options("landmarks", table, of_masks)
        return evaluate_points(
            predictions,
            references,
            landmarks=asked.dataset.landmarks if asked else None,
            distances_mm=rules.sdr_mm,
            level=ci,
            only_predicted=only_predicted,
            output=output,
            report=report,
            worst=worst,
            table=table,
            paper=asked.paper if asked else None,
        )
    check_options("masks", table, of_masks)
    return evaluate(
        predictions,
        references,
        labels=asked.dataset.labels if asked and not regions else None,
        regions=read_regions(regions) if regions else asked.dataset.regions if asked else None,
        metrics=tuple(metrics.split(",")) if metrics else None if protocol else rules.metrics,
        hd95=hd95 or rules.hd95,
        empty=empty or rules.empty,
        protocol=protocol,
        penalty_mm=penalty,
        level=ci,
        cases="predicted" if only_predicted else None,
        resample=resample,
        output=output,
        report=report,
        worst=worst,
        images=images,
        table="brats" if table == "brats" else None,
        paper=asked.paper if asked else None,
        workers=workers,
        progress=progress,
    )


def compare(
    evaluations: Annotated[list[Path], Argument(help="Folders that evaluate -o wrote; two or more.")],
    output: Annotated[Path | None, Option("-o", "--output", help="Folder for the tables.")] = None,
    common: Annotated[bool, Option("--common", help="Where cases differ, take those all have.")] = False,
    ci: Annotated[float, Option(help="Level of the confidence intervals.")] = 0.95,
    seed: Annotated[int, Option(help="Of bootstrap and permutation.")] = 0,
) -> Comparison:
    """Tell whether models differ: paired tests on the same cases, corrected, with intervals and ranks."""
    from mambamed.evaluation.compare import compare
    from mambamed.evaluation.options import check_level

    check_level(ci)
    return compare(evaluations, common=common, level=ci, seed=seed, output=output)


def import_weights(
    weights: Annotated[
        Path, Argument(help="A published state dict: .safetensors, .pth, or nnU-Net's checkpoint.")
    ],
    recipe: Annotated[str, Option(help="Recipe of the network as it was trained.")],
    output: Annotated[Path, Option("-o", "--output", help="Run folder to write.")],
    data: Annotated[
        Path | None, Option("-d", "--data", help="Prepared dataset, for what the recipe leaves open.")
    ] = None,
    set: Annotated[list[str] | None, Option("--set", help="Override, as in network.head=paper.")] = None,
    axis_order: Annotated[
        Literal["zyx", "xyz"],
        Option(help="Of the arrays it was trained on: zyx through SimpleITK, xyz nibabel."),
    ] = "zyx",
    fold: Annotated[int, Option("-f", "--fold", help="Fold of the run that the weights become.")] = 0,
) -> ImportSummary:
    """Make a run that predicts of published weights: nnMamba, SegMamba, U-Mamba, TamingMambas, nnU-Net.

    The file is read without running anything in it. A key that does not fit is never passed over: all are
    named at once.
    """
    from mambamed.recipe import load_recipe
    from mambamed.runs.import_weights import import_weights

    return import_weights(
        weights, load_recipe(recipe, set or ()), output, prepared=data, axis_order=axis_order, fold=fold
    )


def demo(
    output: Annotated[Path, Option("-o", "--output", help="Folder for everything.")] = Path("demo"),
    minutes: Annotated[float, Option(help="Time for training, its validation included.")] = 3.5,
    progress: Progress | None = None,
) -> DemoSummary:
    """Make tumor phantoms, then prepare, train, predict, evaluate, and draw three cases.

    Interrupted, the same command goes on where it was stopped.
    """
    from mambamed.demo import demo

    return demo(output, minutes=minutes, progress=progress)


def doctor(
    folder: Annotated[Path, Argument(help="Folder in which you mean to work.")] = Path(),
) -> Examination:
    """Look at this machine: Python, torch, GPUs, scan backends, memory, disks, folders, optional packages.

    Tells what is there, why something is not, and what to do about it; nothing is changed.
    """
    from mambamed.runs.doctor import examine_machine

    return examine_machine(folder)


def recipes_list() -> list[RecipeLine]:
    """List the shipped recipes."""
    from mambamed.recipe import describe_recipes

    return describe_recipes()


def recipes_show(
    recipe: Annotated[str, Argument(help="A recipe file, or the name of a shipped recipe.")],
    set: Annotated[list[str] | None, Option("--set", help="Override, as in training.epochs=100.")] = None,
) -> RecipeCost:
    """Show a recipe with every default filled in, and what its network costs."""
    from mambamed.recipe import load_recipe
    from mambamed.runs.cost import recipe_cost

    return recipe_cost(load_recipe(recipe, set or ()))


def recipes_check(
    recipe: Annotated[list[str], Argument(help="Recipe files, or names of shipped recipes.")],
) -> list[str]:
    """Check recipes: every key, value and network option."""
    from mambamed.recipe import load_recipe
    from mambamed.runs.cost import recipe_cost

    for each in recipe:
        recipe_cost(load_recipe(each))
    return recipe


def recipes_schema() -> dict[str, Any]:
    """Print the JSON Schema of a recipe, for editors."""
    from mambamed.recipe import recipe_schema

    return recipe_schema()
