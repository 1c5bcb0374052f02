"""The commands as Python functions: each is also a command with the same name, parameters and help.

Every function takes paths and returns a summary. Its `faults` list the cases that failed; the command line
prints the summary and exits with code 3 if there are any. Torch and the file readers are imported inside the
functions, so that `--help` stays fast. `progress` is an optional callback that receives progress updates; the
command line passes a progress bar.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from mambamed.converters import CONVERTERS
from mambamed.errors import RecipeError

if TYPE_CHECKING:
    from mambamed.answers.classification import ClassifySummary
    from mambamed.answers.landmarks import LandmarksSummary
    from mambamed.answers.segmentation import PredictSummary
    from mambamed.converters.convert_points import ConvertSummary
    from mambamed.demo import DemoSummary
    from mambamed.evaluation.compare import Comparison
    from mambamed.evaluation.result import Evaluation
    from mambamed.jobs.job import JobOptions
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
    from mambamed.volumes.ensemble import Serving

    Format = str
else:
    Format = Literal[("auto", *CONVERTERS)]

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

# Options that several commands share.
Models = Annotated[list[Path], Argument(help="Run folder or exported model file; several form an ensemble.")]
Input = Annotated[Path, Argument(help="Image, folder of images or DICOM series, or a list of cases.")]
Folds = Annotated[str, Option(help="Folds to average: all trained folds, or a list, e.g. 0,2.")]
Checkpoint = Annotated[Literal["best", "last"], Option(help="Checkpoint to use from each fold.")]
Overlap = Annotated[
    float | None,
    Option(help="Sliding-window overlap, as a fraction of the window size (default: from the recipe)."),
]
Tta = Annotated[
    Literal["mirror", "none"] | None,
    Option(
        help="Test-time augmentation: average over mirrored copies of the image (default: from the recipe)."
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], Option(help="Device to compute on; auto prefers a GPU.")
]
Precision = Annotated[
    Literal["auto", "bf16", "fp16", "fp32"] | None, Option(help="Numeric precision; overrides the recipe.")
]
Shard = Annotated[
    str | None,
    Option(help="Process only one of N parts of the cases, e.g. 1/4 (default: the torchrun or SLURM rank)."),
]
MaxRam = Annotated[str | None, Option(help="Maximum memory to use, e.g. 6G.")]
MaxVram = Annotated[str | None, Option(help="Maximum GPU memory to use, e.g. 6G.")]
Resume = Annotated[bool, Option("--resume", help="Skip cases that are already done.")]
Overwrite = Annotated[
    bool, Option("--overwrite", help="Process every case again and replace existing results.")
]
Preview = Annotated[bool, Option("--preview", help="Also write a preview picture of every case.")]


def prepare(
    source: Annotated[
        Path, Argument(help="Dataset folder as downloaded, or a list of cases (CSV, TSV or JSON).")
    ],
    output: Annotated[
        Path | None, Option("-o", "--output", help="Output folder (default: prepared/<source>).")
    ] = None,
    format: Annotated[Format, Option(help="Layout of SOURCE; auto detects it.")] = "auto",
    class_column: Annotated[
        str | None, Option(help="Column with the class of each case, in the case list or participants.tsv.")
    ] = None,
    recipe: Annotated[
        str | None, Option(help="Recipe whose dataset and preprocess sections are used.")
    ] = None,
    spacing: Annotated[
        str | None,
        Option(help="Voxel spacing: median, keep, or x,y,z in mm (default: from the recipe, else median)."),
    ] = None,
    folds: Annotated[int | None, Option(help="Number of cross-validation folds (default: 5).")] = None,
    split: Annotated[
        str | None,
        Option(help="Use a single train/validation/test split instead of cross-validation, e.g. 7:1:2."),
    ] = None,
    splits: Annotated[
        Path | None,
        Option(help="JSON file with custom splits, in the format of nnU-Net's splits_final.json."),
    ] = None,
    group_by: Annotated[
        str | None,
        Option(
            help="Keep cases with the same value on the same side of every split: subject (default), case, "
            "or a column name."
        ),
    ] = None,
    stratify: Annotated[
        str | None, Option(help="Balance this attribute across the splits: class, labels, or a column name.")
    ] = None,
    test_cases: Annotated[
        str | None,
        Option(help="Fixed test set: case ids separated by commas, or a text file with one id per line."),
    ] = None,
    seed: Annotated[
        int | None, Option(help="Random seed for the split (default: 12345, the same as nnU-Net).")
    ] = None,
    fix_geometry: Annotated[
        FixGeometry,
        Option(
            help="How to handle channels and labels whose grid differs from the first channel: report "
            "an error (none), reorder axes, or resample."
        ),
    ] = "none",
    qc: Annotated[bool, Option(help="Write a quality-control picture of every case to qc/.")] = True,
    workers: Annotated[
        int, Option(help="Number of processes; 0 = one per CPU core, as far as --max-ram allows.")
    ] = 0,
    max_ram: Annotated[str | None, Option(help="Maximum memory of all processes together, e.g. 8G.")] = None,
    check_only: Annotated[
        bool, Option("--check-only", help="Only check the dataset and report its faults; write nothing.")
    ] = False,
    skip_faulty: Annotated[
        bool, Option("--skip-faulty", help="Skip faulty cases instead of stopping.")
    ] = False,
    progress: Progress | None = None,
) -> PreparedSummary:
    """Prepare a dataset for training: check, crop, resample, normalize, plan and split.

    If it is interrupted, run the same command again to continue; the resulting files are the same.
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
    recipe: Annotated[str, Argument(help="Recipe file, or name of a shipped recipe.")],
    data: Annotated[
        Path | None, Option("-d", "--data", help="Prepared dataset; overrides the recipe.")
    ] = None,
    output: Annotated[
        Path | None, Option("-o", "--output", help="Run folder (default: runs/<recipe>).")
    ] = None,
    fold: Annotated[str, Option("-f", "--fold", help="Number of the fold to train, or all.")] = "0",
    seeds: Annotated[
        str | None,
        Option(help="Train once per seed: a count (3 means seeds 0, 1 and 2) or a list of seeds, e.g. 4,7."),
    ] = None,
    set: Annotated[
        list[str] | None, Option("--set", help="Override a recipe key, e.g. training.epochs=100.")
    ] = None,
    resume: Annotated[bool, Option("--resume", help="Continue an interrupted run.")] = False,
    init_from: Annotated[
        Path | None, Option(help="Run folder or model file whose weights initialize the network.")
    ] = None,
    init_strict: Annotated[
        bool,
        Option(
            "--init-strict",
            help="Fail if any tensor of the --init-from checkpoint does not match the network.",
        ),
    ] = False,
    device: Device = "auto",
    precision: Precision = None,
    deterministic: Annotated[
        bool,
        Option(
            "--deterministic",
            help="Use deterministic algorithms: results are reproducible on the same machine.",
        ),
    ] = False,
    max_hours: Annotated[
        float | None,
        Option(
            help="Limit training, including the final validation, to this many hours; the learning-rate "
            "schedule is shortened to match."
        ),
    ] = None,
    fit: Annotated[
        str | None,
        Option(
            help="Choose patch size and batch size to fit into this much memory, e.g. 24GB; auto uses "
            "the device's free memory."
        ),
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Run a single training step and report its cost; write nothing.")
    ] = False,
    gpus: Annotated[
        int, Option(help="Number of GPUs (one process per GPU). Can also be launched with torchrun.")
    ] = 1,
    log: Annotated[
        list[str] | None, Option("--log", help="Also log training curves to tensorboard or wandb.")
    ] = None,
    progress: Progress | None = None,
) -> TrainSummary | SeedsSummary:
    """Train the network of a recipe and validate it on whole volumes.

    Training can be stopped at any time, with Ctrl-C or by creating a file named STOP in the run folder;
    --resume continues it. With --seeds, the output folder holds one run per seed: seed_0, seed_1, ...
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
    epochs: Annotated[int, Option(help="Total number of epochs, including those already trained.")],
    fold: Annotated[str, Option("-f", "--fold", help="Number of the fold, or all trained folds.")] = "all",
    data: Annotated[
        Path | None, Option("-d", "--data", help="Prepared dataset (default: the one used before).")
    ] = None,
    device: Device = "auto",
    precision: Precision = None,
    max_hours: Annotated[
        float | None, Option(help="Limit the remaining training to this many hours.")
    ] = None,
    progress: Progress | None = None,
) -> TrainSummary:
    """Train an existing run for more epochs; if interrupted, run the same command again to continue."""
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
    folder: Annotated[
        Path, Argument(help="Folder that contains run folders, or a single run folder.")
    ] = Path("runs"),
) -> RunList:
    """List runs: progress, best score and state of every fold."""
    from mambamed.runs.listing import list_runs

    return list_runs(folder)


def export(
    run: Annotated[Path, Argument(help="Run folder.")],
    output: Annotated[
        Path | None, Option("-o", "--output", help="Output file, *.mambamed (default: in the run folder).")
    ] = None,
    folds: Annotated[str, Option(help="Folds to include: all trained folds, or a list, e.g. 0,2.")] = "all",
    checkpoint: Checkpoint = "best",
    dataset_name: Annotated[
        str | None,
        Option(help="Name of the training data in the file (default: only the recipe's name is kept)."),
    ] = None,
) -> ExportSummary:
    """Export a run as one file for sharing: weights, recipe, plan and model card with checksums; no code."""
    from mambamed.runs.export import export_model

    return export_model(run, output, folds=folds, checkpoint=checkpoint, dataset_name=dataset_name)


def predict(
    model: Models,
    input: Input,
    output: Annotated[Path, Option("-o", "--output", help="Output folder for the masks.")],
    folds: Folds = "all",
    checkpoint: Checkpoint = "best",
    overlap: Overlap = None,
    tta: Tta = None,
    device: Device = "auto",
    precision: Precision = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    preview: Preview = False,
    save_probabilities: Annotated[
        bool, Option("--save-probabilities", help="Also write the probability maps (float16, .npz).")
    ] = False,
    statistics: Annotated[
        bool, Option("--statistics", help="Also write volume and mean intensity of every structure, as JSON.")
    ] = False,
    format: Annotated[
        Literal["nifti", "dicom-seg"],
        Option(help="File format of the predicted masks; dicom-seg requires DICOM input."),
    ] = "nifti",
    shard: Shard = None,
    max_ram: MaxRam = None,
    max_vram: MaxVram = None,
    progress: Progress | None = None,
) -> PredictSummary:
    """Segment images: write one mask per case, on the grid of the input image."""
    from mambamed.answers.mask_files import MaskOptions
    from mambamed.answers.segmentation import predict

    job, serving = _options(locals())
    options = MaskOptions(preview, save_probabilities, statistics, format)
    return predict(model, input, output, serving, job, options, progress)


def classify(
    model: Models,
    input: Input,
    output: Annotated[Path, Option("-o", "--output", help="Output table, e.g. preds.csv.")],
    threshold: Annotated[
        float | None,
        Option(
            help="For two classes: predict the second (positive) class if its probability is at least "
            "this value (default: chosen on the validation cases)."
        ),
    ] = None,
    covariates: Annotated[
        Path | None,
        Option(
            help="CSV or TSV file with the covariates that the model expects (e.g. age, sex) and a "
            "column named case."
        ),
    ] = None,
    saliency: Annotated[
        bool, Option("--saliency", help="Also write one Grad-CAM saliency map per case.")
    ] = False,
    folds: Folds = "all",
    checkpoint: Checkpoint = "best",
    tta: Tta = None,
    device: Device = "auto",
    precision: Precision = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    shard: Shard = None,
    max_ram: MaxRam = None,
    max_vram: MaxVram = None,
    progress: Progress | None = None,
) -> ClassifySummary:
    """Classify images: write a table with one row per case and the probability of every class."""
    from mambamed.answers.classification import ClassOptions, classify

    job, serving = _options(locals())
    options = ClassOptions(threshold, covariates, saliency)
    return classify(model, input, output, serving, job, options, progress)


def landmarks(
    model: Models,
    input: Input,
    output: Annotated[Path, Option("-o", "--output", help="Output folder for the points.")],
    export: Annotated[
        str | None,
        Option(
            help="Also write the points of each case in these formats: mrk.json, fcsv, csv (separated "
            "by commas)."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        Option(
            help="Report a landmark as absent if its score is below this value (default: chosen on the "
            "validation cases)."
        ),
    ] = None,
    folds: Folds = "all",
    checkpoint: Checkpoint = "best",
    overlap: Overlap = None,
    tta: Tta = None,
    device: Device = "auto",
    precision: Precision = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    preview: Preview = False,
    shard: Shard = None,
    max_ram: MaxRam = None,
    max_vram: MaxVram = None,
    progress: Progress | None = None,
) -> LandmarksSummary:
    """Detect landmarks: write one JSON file per case and tables over all cases.

    Positions are in world coordinates (mm), with a score per landmark and the measures of the recipe.
    """
    from mambamed.answers.landmarks import PointOptions, landmarks

    job, serving = _options(locals())
    kinds = [kind.strip().removeprefix(".") for kind in export.split(",")] if export else []
    options = PointOptions(tuple(kind for kind in kinds if kind != "json"), threshold, preview)
    return landmarks(model, input, output, serving, job, options, progress)


def _options(given: dict[str, Any]) -> tuple[JobOptions, Serving]:
    """The options that all commands with models share, from the arguments of one."""
    from dataclasses import fields

    from mambamed.jobs.job import JobOptions
    from mambamed.volumes.ensemble import Serving

    job, serving = (
        {field.name: given[field.name] for field in fields(kind) if field.name in given}
        for kind in (JobOptions, Serving)
    )
    return JobOptions(**job), Serving(**serving)


def convert_points(
    source: Annotated[
        Path, Argument(help="Point file, folder of point files, table of cases, or prepared dataset.")
    ],
    output: Annotated[
        Path, Option("-o", "--output", help="Output file, whose suffix selects the format, or output folder.")
    ],
    to: Annotated[
        Literal["mrk.json", "fcsv", "csv", "json"] | None,
        Option(help="Format of the files in the output folder (one per case)."),
    ] = None,
    images: Annotated[
        Path | None, Option(help="Image or folder of images; needed if SOURCE holds voxel coordinates.")
    ] = None,
) -> ConvertSummary:
    """Convert point files between formats: 3D Slicer Markups and fcsv, CSV tables, JSON."""
    from mambamed.converters.convert_points import convert_points

    return convert_points(source, output, to=to, images=images)


def evaluate(
    predictions: Annotated[
        Path,
        Argument(
            help="Folder of predicted masks or point files, or a table of points or class probabilities."
        ),
    ],
    references: Annotated[
        Path,
        Argument(
            help="Folder of reference masks, point files or BraTS cases, or a table of points or classes."
        ),
    ],
    output: Annotated[Path | None, Option("-o", "--output", help="Output folder for the tables.")] = None,
    recipe: Annotated[
        str | None, Option(help="Recipe whose labels, regions and evaluation section are used.")
    ] = None,
    regions: Annotated[str | None, Option(help="Structures to score, e.g. liver=1,tumor=2+3.")] = None,
    metrics: Annotated[
        str | None, Option(help="Metrics separated by commas, e.g. dice,hd95,nsd@1,assd,lesion_dice.")
    ] = None,
    hd95: Annotated[HD95 | None, Option(help="Definition of HD95 to use; see docs/metrics.md.")] = None,
    empty: Annotated[
        Empty | None,
        Option(
            help="How to score a structure that is empty in both masks: exclude it, or use the BraTS rule."
        ),
    ] = None,
    protocol: Annotated[
        Protocol | None,
        Option(help="Use the exact evaluation rules of a paper or challenge, including known flaws."),
    ] = None,
    penalty: Annotated[
        float | None,
        Option(help="Distance in mm assigned when a structure is missed (default: the image diagonal)."),
    ] = None,
    ci: Annotated[float, Option(help="Confidence level of the intervals.")] = 0.95,
    only_predicted: Annotated[
        bool, Option("--only-predicted", help="Ignore references without a prediction.")
    ] = False,
    resample: Annotated[
        bool, Option("--resample", help="Resample predicted masks to the grid of their reference.")
    ] = False,
    report: Annotated[bool, Option(help="Also write report.html (requires -o).")] = True,
    worst: Annotated[int, Option(help="Number of cases shown as pictures in the report.")] = 10,
    images: Annotated[
        Path | None, Option(help="Folder of the images shown behind the masks in the report.")
    ] = None,
    table: Annotated[
        Literal["brats", "classification", "landmarks"] | None,
        Option(help="Also make a table in the layout used in papers."),
    ] = None,
    workers: Annotated[int, Option(help="Number of threads; 0 = one per CPU core.")] = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate predictions against references: scores per case and structure, as tables and a report.

    Masks are scored by Dice, HD95 and other metrics. The structures are taken from --regions, else from the
    recipe, else from a dataset.json in the folder of the files. Points are scored by mean radial error (mm),
    success detection rates and misses; tables of class probabilities (one, or a folder of several for the
    same classes) are scored against a table of classes.
    """
    from mambamed.evaluation import evaluate
    from mambamed.evaluation.options import EvaluateOptions
    from mambamed.recipe import load_recipe

    options = EvaluateOptions(
        recipe=load_recipe(recipe) if recipe else None,
        regions=regions,
        metrics=metrics,
        hd95=hd95,
        empty=empty,
        protocol=protocol,
        penalty=penalty,
        resample=resample,
        images=images,
        level=ci,
        only_predicted=only_predicted,
        output=output,
        report=report,
        worst=worst,
        table=table,
        workers=workers,
        progress=progress,
    )
    return evaluate(predictions, references, options)


def compare(
    evaluations: Annotated[list[Path], Argument(help="Two or more output folders of evaluate.")],
    output: Annotated[Path | None, Option("-o", "--output", help="Output folder for the tables.")] = None,
    common: Annotated[
        bool, Option("--common", help="Compare only the cases that all evaluations have in common.")
    ] = False,
    ci: Annotated[float, Option(help="Confidence level of the intervals.")] = 0.95,
    seed: Annotated[int, Option(help="Random seed of the bootstrap and the permutation tests.")] = 0,
) -> Comparison:
    """Test whether models differ: paired tests on the same cases, corrected, with intervals and ranks."""
    from mambamed.evaluation.compare import compare
    from mambamed.evaluation.options import check_level

    check_level(ci)
    return compare(evaluations, common=common, level=ci, seed=seed, output=output)


def import_weights(
    weights: Annotated[
        Path, Argument(help="Published state dict (.safetensors, .pth) or nnU-Net checkpoint.")
    ],
    recipe: Annotated[str, Option(help="Recipe that describes the network as it was trained.")],
    output: Annotated[Path, Option("-o", "--output", help="Output run folder.")],
    data: Annotated[
        Path | None,
        Option("-d", "--data", help="Prepared dataset, for settings that the recipe does not specify."),
    ] = None,
    set: Annotated[
        list[str] | None, Option("--set", help="Override a recipe key, e.g. network.head=paper.")
    ] = None,
    axis_order: Annotated[
        Literal["zyx", "xyz"],
        Option(help="Axis order of the training arrays: zyx if read with SimpleITK, xyz with nibabel."),
    ] = "zyx",
    fold: Annotated[int, Option("-f", "--fold", help="Fold number to store the weights under.")] = 0,
) -> ImportSummary:
    """Convert published weights into a run folder that can be used for prediction.

    Supports nnMamba, SegMamba, U-Mamba, TamingMambas and nnU-Net. No code in the file is executed. Loading is
    strict: every missing, unexpected or mismatched key is reported.
    """
    from mambamed.recipe import load_recipe
    from mambamed.runs.import_weights import import_weights

    return import_weights(
        weights, load_recipe(recipe, set or ()), output, prepared=data, axis_order=axis_order, fold=fold
    )


def demo(
    output: Annotated[Path, Option("-o", "--output", help="Output folder.")] = Path("demo"),
    minutes: Annotated[float, Option(help="Training time in minutes, including validation.")] = 3.5,
    progress: Progress | None = None,
) -> DemoSummary:
    """Run the whole workflow on generated brain-tumor phantoms: prepare, train, predict and evaluate.

    If it is interrupted, run the same command again to continue.
    """
    from mambamed.demo import demo

    return demo(output, minutes=minutes, progress=progress)


def doctor(
    folder: Annotated[Path, Argument(help="Folder to check for free space and write access.")] = Path(),
) -> Examination:
    """Check this machine: Python, torch, GPUs, scan backends, memory, disks, folders, optional packages.

    Reports what is available, why something is not, and what to do about it. Nothing is changed.
    """
    from mambamed.runs.doctor import examine_machine

    return examine_machine(folder)


def recipes_list() -> list[RecipeLine]:
    """List the shipped recipes."""
    from mambamed.recipe import describe_recipes

    return describe_recipes()


def recipes_show(
    recipe: Annotated[str, Argument(help="Recipe file, or name of a shipped recipe.")],
    set: Annotated[
        list[str] | None, Option("--set", help="Override a recipe key, e.g. training.epochs=100.")
    ] = None,
) -> RecipeCost:
    """Show a recipe with all defaults filled in, and the cost of its network."""
    from mambamed.recipe import load_recipe
    from mambamed.runs.cost import recipe_cost

    return recipe_cost(load_recipe(recipe, set or ()))


def recipes_check(
    recipe: Annotated[list[str], Argument(help="Recipe files, or names of shipped recipes.")],
) -> list[str]:
    """Check recipes: all keys, values and network options; report the faults of all files."""
    from mambamed.runs.cost import check_recipe

    if faults := [fault for each in recipe for fault in check_recipe(each)]:
        raise RecipeError("\n".join(faults))
    return recipe


def recipes_schema() -> dict[str, Any]:
    """Print the JSON Schema of recipes, for editors."""
    from mambamed.recipe import recipe_schema

    return recipe_schema()
