"""The commands as Python functions: each is also a command with the same name, parameters and help.

Every function takes paths and returns a summary. Its `faults` list the cases that failed; the command line
prints the summary and exits with code 3 if there are any. Torch and the file readers are imported inside the
functions, so that `--help` stays fast. `progress` is an optional callback that receives progress updates; the
command line passes a progress bar.
"""

from __future__ import annotations

# pyright: reportArgumentType=false
# The arguments arrive converted, see `arguments`.
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from mambamed.converters import CONVERTERS
from mambamed.errors import RecipeError, RunError
from mambamed.terminal import command_line

if TYPE_CHECKING:
    from mambamed.answers.bids import BidsSummary
    from mambamed.answers.classification import ClassifySummary
    from mambamed.answers.landmarks import LandmarksSummary
    from mambamed.answers.segmentation import PredictSummary
    from mambamed.converters.convert_points import ConvertSummary
    from mambamed.demonstration import DemoSummary
    from mambamed.documents.schemas import Kind
    from mambamed.evaluation.compare import Comparison
    from mambamed.evaluation.result import Evaluation
    from mambamed.jobs.job import JobOptions
    from mambamed.jobs.listing import JobList
    from mambamed.preparation.pool import Workers
    from mambamed.preparation.prepare import PreparedSummary
    from mambamed.progress import Progress
    from mambamed.recipe import RecipeLine
    from mambamed.run.cost import RecipeCost
    from mambamed.run.doctor import Examination
    from mambamed.run.export import ExportSummary
    from mambamed.run.import_weights import ImportSummary
    from mambamed.run.listing import RunList
    from mambamed.selection.best import BestSummary
    from mambamed.studies.running import StudySummary
    from mambamed.training import TrainSummary
    from mambamed.training.general import NewRecipe
    from mambamed.training.seeds import SeedsSummary
    from mambamed.viewer import ViewSummary
    from mambamed.volumes.ensemble import Serving

    # What a call from Python may give; `arguments` converts it to what stands below.
    AnyPath = str | Path
    AnyPaths = AnyPath | Sequence[AnyPath]
    AnyRecipe = str | Path
    AnyRecipes = AnyRecipe | Sequence[AnyRecipe]
    Items = str | float | Sequence[str | float]  # "0,2" on the command line
    Texts = str | Sequence[str]
    Format = str
else:
    AnyPath, AnyPaths, AnyRecipe, AnyRecipes, Items, Texts = Path, list[Path], str, list[str], str, list[str]
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

Checkpoint = Literal["best", "last"]
Part = Literal["train", "val", "test"]
Tta = Literal["mirror", "none"]
Missing = Literal["reject", "zero"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
Scan = Literal["auto", "reference", "chunked", "cpu", "triton", "cuda"]
_Kind = TypeVar("_Kind")


def prepare(
    source: AnyPath,
    output: AnyPath | None = None,
    format: Format = "auto",
    class_column: str | None = None,
    recipe: AnyRecipe | None = None,
    spacing: Items | None = None,
    folds: int | None = None,
    split: str | None = None,
    splits: AnyPath | None = None,
    group_by: str | None = None,
    stratify: str | None = None,
    test_cases: Items | None = None,
    seed: int | None = None,
    fix_geometry: FixGeometry = "none",
    qc: bool = True,
    workers: int = 0,
    max_ram: str | None = None,
    check_only: bool = False,
    skip_faulty: bool = False,
    overwrite: bool = False,
    on: str | None = None,
    jobs: int | None = None,
    job: str | None = None,
    progress: Progress | None = None,
) -> PreparedSummary:
    """Prepare a dataset for training: check, crop, resample, normalize, plan and split.

    If it is interrupted, run the same command again to continue; the resulting files are the same.

    Args:
        source: Dataset folder as downloaded, or a list of cases (CSV, TSV or JSON).
        output: Output folder (default: prepared/<source>).
        format: Layout of SOURCE; auto detects it.
        class_column: Column with the class of each case, in the case list or participants.tsv.
        recipe: Recipe whose dataset and preprocess sections are used.
        spacing: Voxel spacing: median, keep, or x,y,z in mm (default: from the recipe, else median).
        folds: Number of cross-validation folds (default: 5).
        split: Use a single train/validation/test split instead of cross-validation, e.g. 7:1:2.
        splits: JSON file with custom splits, in the format of nnU-Net's splits_final.json.
        group_by: Keep cases with the same value on the same side of every split: subject (default), case, or
            a column name.
        stratify: Balance this attribute across the splits: class (default for classification), labels, a
            column name, or none.
        test_cases: Fixed test set: case ids separated by commas, or a text file with one id per line.
        seed: Random seed for the split (default: 12345, the same as nnU-Net).
        fix_geometry: How to handle channels and labels whose grid differs from the first channel: report an
            error (none), reorder axes, or resample.
        qc: Write a quality-control picture of every case to qc/.
        workers: Number of processes on this machine; 0 = one per CPU core, as far as --max-ram allows.
        max_ram: Maximum memory of all processes together, e.g. 8G.
        check_only: Only check the dataset and report its faults; write nothing.
        skip_faulty: Skip faulty cases instead of stopping.
        overwrite: Replace a prepared dataset that was made from another source.
    """
    from mambamed import converters
    from mambamed.preparation.options import with_options
    from mambamed.recipe import Split, load_recipe
    from mambamed.tasks.proposals import estimate

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
    from mambamed.preparation.prepare import prepare

    with _workers(on, jobs, job, progress) as elsewhere:
        summary = prepare(
            raw,
            output or Path("prepared") / _name_of(Path(source)),
            recipe=asked,
            recipe_named=recipe,
            spacing=spacing,
            split=wanted,
            splits=splits,
            fix_geometry=fix_geometry,
            qc=qc,
            workers=workers,
            max_ram=max_ram,
            check_only=check_only,
            skip_faulty=skip_faulty,
            overwrite=overwrite,
            progress=progress,
            elsewhere=elsewhere,
        )
    return summary if summary.plan is None or asked else replace(summary, estimate=estimate(summary.output))


def _name_of(source: Path) -> str:
    return source.stem if source.is_file() else source.resolve().name


def train(
    recipe: AnyRecipe | None = None,
    data: AnyPath | None = None,
    output: AnyPath | None = None,
    fold: Items = "0",
    seeds: Items | None = None,
    set: Texts | None = None,
    resume: bool = False,
    init_from: AnyPath | None = None,
    init_strict: bool = False,
    device: Device = "auto",
    precision: Precision | None = None,
    scan: Scan = "auto",
    deterministic: bool = False,
    max_hours: float | None = None,
    max_cpu_minutes: float | None = None,
    fit: str | None = None,
    dry_run: bool = False,
    gpus: int = 1,
    log: Texts | None = None,
    on: str | None = None,
    jobs: int | None = None,
    job: str | None = None,
    progress: Progress | None = None,
) -> TrainSummary | SeedsSummary:
    """Train the network of a recipe and validate it on whole volumes.

    Without RECIPE, a general recipe is made for the dataset of -d, the device and --max-hours; its choices
    are reported with their reasons. The first steps are measured to report how long the training will take.

    Training can be stopped at any time, with Ctrl-C or by creating a file named STOP in the run folder;
    --resume continues it. With --seeds, the output folder holds one run per seed: seed_0, seed_1, ...

    Args (the others are described in `predict`):
        recipe: Recipe file, or name of a shipped recipe (default: made for the dataset, or that of the run).
        data: Prepared dataset; overrides the recipe.
        output: Run folder (default: runs/<recipe>, or runs/<dataset> without a recipe).
        fold: Fold to train: a number, all, or none. none trains on all cases except a test part, without
            validation.
        seeds: Train once per seed: a count (3 means seeds 0, 1 and 2) or a list of seeds, e.g. 4,7.
        set: Override a recipe key, e.g. training.epochs=100.
        resume: Continue an interrupted run.
        init_from: Run folder, model file, or hf://org/name[@revision] on the Hugging Face Hub, whose weights
            initialize the network.
        init_strict: Fail if any tensor of the --init-from checkpoint does not match the network.
        deterministic: Use deterministic algorithms: results are reproducible on the same machine.
        max_hours: Limit training, including the final validation, to this many hours; the learning-rate
            schedule is shortened to match.
        max_cpu_minutes: The same limit in minutes of CPU time of the process, which other programs on the
            machine do not change; for training in one process on a CPU.
        fit: Choose patch size and batch size to fit into this much memory, e.g. 24GB; auto uses the device's
            free memory.
        dry_run: Measure some training steps, report the cost of the whole training, and write nothing.
        gpus: Number of GPUs (one process per GPU). Can also be launched with torchrun.
        log: Also log training curves to tensorboard or wandb.
    """
    given = dict(locals())
    from mambamed.recipe import load_recipe

    if recipe is None and data is None:
        raise RecipeError("train: nothing to train on. Give -d PREPARED, RECIPE, or both.")
    asked = load_recipe(recipe, set or ()) if recipe is not None else None
    known = asked.dataset.prepared if asked and not dry_run else None
    if data is not None or known:
        _check_prepared(Path(data or known or ""))
    if init_from is not None:
        (init_from,) = _local_models([init_from])
    from mambamed.run.workplace import scan_option
    from mambamed.training import train
    from mambamed.training.general import recipe_to_train
    from mambamed.training.launch import launch, launched, words_of
    from mambamed.training.limit import TimeLimit
    from mambamed.training.ranks import leave_ranks
    from mambamed.training.seeds import train_seeds

    if on is None and (jobs is not None or job is not None):
        raise RecipeError("--jobs, --job: need --on. Give e.g. --on slurm.")
    if on is not None:
        from mambamed.cluster.destination import Destination
        from mambamed.training.spread import train_on

        if asked is None:
            raise RecipeError("train --on: no recipe. Make one: mambamed recipes new -d PREPARED -o x.yaml")
        return train_on(asked, given, Destination.of(on, jobs, job), progress)
    with scan_option(scan):
        if launched(gpus):
            if dry_run:
                raise RecipeError("train: dry_run: measures one GPU. Set gpus to 1.")
            if code := launch(gpus, words_of(given)):
                raise RunError(
                    f"train: {gpus} processes ended with exit code {code}. Read their messages above."
                )
            from mambamed.training.spread import trained_summary

            return trained_summary(asked or recipe_to_train(cast(Path, data), output)[0], given)
        limit, notes, measured = TimeLimit.of(max_hours, max_cpu_minutes), (), False
        if asked is None:
            if max_cpu_minutes is not None:
                raise RecipeError(
                    "--max-cpu-minutes: needs a recipe. Make one: mambamed recipes new -d PREPARED -o x.yaml"
                )
            asked, notes, measured = recipe_to_train(
                cast(Path, data),
                output,
                fold=fold,
                seeds=seeds,
                overrides=set or (),
                device=device,
                precision=precision,
                max_hours=max_hours,
                fit=fit,
                progress=progress,
            )
            fit = None  # respected by that recipe
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
            "limit": limit,
            "fit": fit,
            "log": log or (),
            "notes": notes,
            "measured": measured,
            "progress": progress,
        }
        if seeds is not None and not dry_run:
            summary = train_seeds(asked, seeds, **options)
        else:
            summary = train(asked, dry_run=dry_run, **options)
    leave_ranks()
    return summary


def extend(
    run: AnyPath,
    epochs: int,
    fold: Items = "all",
    data: AnyPath | None = None,
    device: Device = "auto",
    precision: Precision | None = None,
    scan: Scan = "auto",
    max_hours: float | None = None,
    progress: Progress | None = None,
) -> TrainSummary:
    """Train an existing run for more epochs; if interrupted, run the same command again to continue.

    Args (the others are described in `predict`):
        run: Run folder.
        epochs: Total number of epochs, including those already trained.
        fold: Fold: a number, none, or all trained folds.
        data: Prepared dataset (default: the one used before).
        max_hours: Limit the remaining training to this many hours.
    """
    _check_models(run)
    if data is not None:
        _check_prepared(Path(data))
    from mambamed.run.workplace import scan_option
    from mambamed.training.extend import extend
    from mambamed.training.ranks import leave_ranks

    with scan_option(scan):
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


def runs(folder: AnyPath = Path("runs")) -> RunList:
    """List runs: progress, best score and state of every fold.

    Args:
        folder: Folder that contains run folders, or a single run folder.
    """
    if folder != Path("runs"):
        _check_input(Path(folder))
    from mambamed.run.listing import list_runs

    return list_runs(folder)


def jobs(folder: AnyPath, cancel: bool = False) -> JobList:
    """List jobs and cases: what is done, runs, waits or failed, by name, and the time left.

    All of it is read from the records that commands with --on, predict, landmarks and classify write.

    Args:
        folder: Output folder of such a command, or a folder of several.
        cancel: Cancel the jobs of the batch system, and start no job again.
    """
    _check_input(
        Path(folder) if Path(folder).exists() else Path(folder).with_name(f"{Path(folder).name}.jobs")
    )
    from mambamed.jobs.listing import list_jobs

    return list_jobs(Path(folder), cancel)


def export(
    run: AnyPath,
    output: AnyPath | None = None,
    format: Literal["mambamed", "onnx", "torch-export"] = "mambamed",
    folds: Items = "all",
    checkpoint: Checkpoint = "best",
    dataset_name: str | None = None,
    overwrite: bool = False,
    push: str | None = None,
    license: str | None = None,
    progress: Progress | None = None,
) -> ExportSummary:
    """Export a run as one file: a model file of mambamed for sharing, or a program that runs without it.

    Args (the others are described in `predict`):
        run: Run folder.
        output: Output file, *.mambamed, *.onnx or *.pt2 (default: in the run folder).
        format: mambamed: weights, recipe, plan and model card with checksums, no code; onnx or torch-export:
            the network as a program, and a JSON file that describes its use.
        folds: Folds to include: all trained folds, or a list, e.g. 0,2.
        dataset_name: Name of the training data in a model file (default: only the recipe's name is kept).
        overwrite: Replace an output file that has other content.
        push: Also upload the model with a model card to the Hugging Face Hub: hf://org/name, or
            hf://org/name@branch. A new repository is private.
        license: License of the model for its card, as the hub spells it, e.g. cc-by-4.0.
    """
    _check_models(run)
    if format != "mambamed":
        if dataset_name is not None:
            raise RecipeError("--dataset-name: applies only to --format mambamed. Remove the option.")
        if push is not None:
            raise RecipeError("--push: applies only to --format mambamed. Remove the option.")
    if license is not None and push is None:
        raise RecipeError("--license: applies only to the card of --push. Remove the option.")
    if format != "mambamed":
        from mambamed.programs.exporting import export_program

        return export_program(
            run, output, kind=format, folds=folds, checkpoint=checkpoint, overwrite=overwrite
        )
    from mambamed.progress import Silence
    from mambamed.run.export import export_model

    return export_model(
        run,
        output,
        folds=folds,
        checkpoint=checkpoint,
        dataset_name=dataset_name,
        overwrite=overwrite,
        push=push,
        license=license,
        say=(progress or Silence()).say,
    )


def predict(
    model: AnyPaths,
    input: AnyPath,
    output: AnyPath,
    folds: Items = "all",
    checkpoint: Checkpoint = "best",
    overlap: float | None = None,
    tta: Tta | None = None,
    device: Device = "auto",
    precision: Precision | None = None,
    scan: Scan = "auto",
    resume: bool = False,
    overwrite: bool = False,
    preview: bool = False,
    save_probabilities: bool = False,
    statistics: bool = False,
    uncertainty: bool = False,
    format: Literal["nifti", "seg-nrrd", "dicom-seg", "rtstruct"] = "nifti",
    part: Part | None = None,
    missing: Missing = "reject",
    shard: str | None = None,
    max_ram: str | None = None,
    max_windows: int = 100_000,
    max_vram: str | None = None,
    gpus: int = 1,
    on: str | None = None,
    jobs: int | None = None,
    job: str | None = None,
    progress: Progress | None = None,
) -> PredictSummary:
    """Segment images: write one mask per case, on the grid of the input image.

    Args:
        model: Run folder, exported model file, or hf://org/name[@revision] on the Hugging Face Hub; several
            form an ensemble.
        input: Image, folder of images or DICOM series, list of cases, or, with --part, a prepared dataset.
        output: Output folder for the masks; for a single case also the file of its mask, e.g. mask.nii.gz.
        folds: Folds to average: all trained folds, or a list, e.g. 0,2.
        checkpoint: Checkpoint to use from each fold.
        overlap: Sliding-window overlap, as a fraction of the window size (default: from the recipe).
        tta: Test-time augmentation: average over mirrored copies of the image (default: from the recipe).
        device: Device to compute on; auto prefers a GPU.
        precision: Numeric precision; overrides the recipe.
        scan: Backend of the selective scan, see docs/scan.md; auto is MAMBAMED_SCAN if that is set, else the
            fastest one for the device.
        resume: Skip cases that are already done.
        overwrite: Process every case again and replace existing results.
        preview: Also write a preview picture of every case.
        save_probabilities: Also write the probability maps (float16, .npz).
        statistics: Also write volume and mean intensity of every structure, as JSON.
        uncertainty: Also write maps of entropy and of the disagreement of folds, mirrored copies and windows,
            and a table with the expected Dice and the uncertainty of every structure.
        format: File format of the predicted masks; seg-nrrd is for 3D Slicer; dicom-seg and rtstruct
            require DICOM input.
        part: Predict this part of the split of a prepared dataset, which is then INPUT; the images are those
            that it was prepared from.
        missing: How to handle cases without a file of some channel: report a fault (reject), or use zeros,
            for models that were trained with training.augment.drop_channel.
        shard: Process only one of N parts of the cases, e.g. 1/4 (default: the rank in torchrun, a step of
            srun, or a job array; 1/1 for all cases).
        max_ram: Maximum memory to use, e.g. 6G.
        max_windows: Reject images that need more sliding windows than this.
        max_vram: Maximum GPU memory to use, e.g. 6G.
        gpus: Number of GPUs of this machine, each with a process of its own.
        on: Where the work is done: local, slurm, pbs, sge, lsf, htcondor, kubernetes, or the address of a
            Dask scheduler, e.g. tcp://node7:8786 (default: in this process); see docs/cluster.md.
        jobs: Number of workers or jobs at a time.
        job: Resources of each, e.g. gpus=1,time=4:00:00,mem=32G; other keys are those of the batch system.
    """
    model = _local_models(model)
    _check_input(Path(input))
    from mambamed.answers.mask_files import MaskOptions
    from mambamed.answers.segmentation import predict
    from mambamed.run.workplace import scan_option

    asked, serving = _options(locals())
    options = MaskOptions(preview, save_probabilities, statistics, uncertainty, format)
    pool = _workers(on, jobs, job, progress, gpus, device, threads=None)
    with scan_option(scan, here=on is None), pool as workers:
        return predict(model, input, output, serving, asked, options, progress, workers)


def classify(
    model: AnyPaths,
    input: AnyPath,
    output: AnyPath,
    threshold: float | None = None,
    covariates: AnyPath | None = None,
    saliency: bool = False,
    saliency_method: Literal["gradients", "grad-cam"] = "gradients",
    folds: Items = "all",
    checkpoint: Checkpoint = "best",
    tta: Tta | None = None,
    device: Device = "auto",
    precision: Precision | None = None,
    scan: Scan = "auto",
    resume: bool = False,
    overwrite: bool = False,
    part: Part | None = None,
    missing: Missing = "reject",
    shard: str | None = None,
    max_ram: str | None = None,
    max_vram: str | None = None,
    gpus: int = 1,
    on: str | None = None,
    jobs: int | None = None,
    job: str | None = None,
    progress: Progress | None = None,
) -> ClassifySummary:
    """Classify images: write a table with one row per case and the probability of every class.

    Args (the others are described in `predict`):
        output: Output table, e.g. preds.csv.
        threshold: For two classes: predict the second (positive) class if its probability is at least this
            value (default: chosen on the validation cases).
        covariates: CSV or TSV file with the covariates that the model expects (e.g. age, sex) and a column
            named case.
        saliency: Also write one map per case of what speaks for the predicted class.
        saliency_method: Method of the saliency maps: integrated gradients, or Grad-CAM.
    """
    model = _local_models(model)
    _check_input(Path(input))
    from mambamed.answers.classification import ClassOptions, classify
    from mambamed.run.workplace import scan_option

    asked, serving = _options(locals())
    options = ClassOptions(threshold, covariates, saliency, saliency_method)
    pool = _workers(on, jobs, job, progress, gpus, device, threads=None)
    with scan_option(scan, here=on is None), pool as workers:
        return classify(model, input, output, serving, asked, options, progress, workers)


def landmarks(
    model: AnyPaths,
    input: AnyPath,
    output: AnyPath,
    export: Items | None = None,
    threshold: float | None = None,
    folds: Items = "all",
    checkpoint: Checkpoint = "best",
    overlap: float | None = None,
    tta: Tta | None = None,
    device: Device = "auto",
    precision: Precision | None = None,
    scan: Scan = "auto",
    resume: bool = False,
    overwrite: bool = False,
    preview: bool = False,
    part: Part | None = None,
    missing: Missing = "reject",
    shard: str | None = None,
    max_ram: str | None = None,
    max_windows: int = 100_000,
    max_vram: str | None = None,
    gpus: int = 1,
    on: str | None = None,
    jobs: int | None = None,
    job: str | None = None,
    progress: Progress | None = None,
) -> LandmarksSummary:
    """Detect landmarks: write one JSON file per case and tables over all cases.

    Positions are in world coordinates (mm), with a score per landmark and the measures of the recipe.

    Args (the others are described in `predict`):
        output: Output folder for the points; for a single case also their file, e.g. points.json.
        export: Also write the points of each case in these formats: mrk.json, fcsv, csv (separated by
            commas).
        threshold: Report a landmark as absent if its score is below this value (default: chosen on the
            validation cases).
    """
    model = _local_models(model)
    _check_input(Path(input))
    from mambamed.answers.landmarks import PointOptions, landmarks
    from mambamed.run.workplace import scan_option

    asked, serving = _options(locals())
    kinds = [kind.strip().removeprefix(".") for kind in str(export).split(",")] if export else []
    options = PointOptions(tuple(kind for kind in kinds if kind != "json"), threshold, preview)
    pool = _workers(on, jobs, job, progress, gpus, device, threads=None)
    with scan_option(scan, here=on is None), pool as workers:
        return landmarks(model, input, output, serving, asked, options, progress, workers)


def bids(
    bids_dir: AnyPath,
    output_dir: AnyPath,
    analysis_level: Literal["participant"],
    model: AnyPaths,
    participant_label: Texts | None = None,
    session_label: Texts | None = None,
    filter: str | None = None,
    channels: str | None = None,
    label: str | None = None,
    skip_bids_validation: bool = False,
    folds: Items = "all",
    checkpoint: Checkpoint = "best",
    overlap: float | None = None,
    tta: Tta | None = None,
    device: Device = "auto",
    precision: Precision | None = None,
    scan: Scan = "auto",
    overwrite: bool = False,
    missing: Missing = "reject",
    max_ram: str | None = None,
    max_windows: int = 100_000,
    max_vram: str | None = None,
    progress: Progress | None = None,
) -> BidsSummary:
    """Run a model on a BIDS dataset as a BIDS App: masks, landmarks or classes as BIDS derivatives.

    Every session with images is a case. The images are chosen by the names of the model's channels; several
    that fit are reported. Several processes may do other participants in the same output folder.

    Args (the others are described in `predict`):
        bids_dir: BIDS dataset.
        output_dir: Output folder for the derivatives, e.g. BIDS_DIR/derivatives/mambamed.
        analysis_level: Level of the analysis; there is only participant.
        model: Run folder or exported model file; several form an ensemble.
        participant_label: Only these participants, e.g. 01 02, with or without sub- (default: all).
        session_label: Only these sessions, e.g. baseline, with or without ses- (default: all).
        filter: Entities of the images to use, e.g. acq=highres,run=1; run=none means images without the
            entity.
        channels: Images of the channels, e.g. T1c=ce-*_T1w,FLAIR=FLAIR (default: by the names of the
            channels).
        label: Label in the names of the derivatives (default: from the name of the recipe).
        skip_bids_validation: Do not require a valid dataset_description.json.
    """
    model = _local_models(model)
    from mambamed.answers.bids import BidsOptions, run_bids
    from mambamed.run.workplace import scan_option

    job, serving = _options({"shard": "1/1", "resume": False, "part": None, **locals()})
    options = BidsOptions(
        participant_label, session_label, filter, channels, label, skip_validation=skip_bids_validation
    )
    with scan_option(scan):
        return run_bids(model, bids_dir, output_dir, serving, job, options, progress)


def _check_models(*models: AnyPath) -> None:
    """Check that these are run folders or files, before anything is imported that takes seconds."""
    from mambamed.run.folder import Run

    for model in map(Path, models):
        if not model.is_file():
            Run.open(model)


def _local_models(models: AnyPaths) -> list[Path]:
    """The run folders or files of models, some of which may be on the hub; checked."""
    given = list(map(Path, cast("list[Path]", models)))
    if any(str(model).startswith("hf:") for model in given):
        from mambamed.run.hub import local_model

        given = [local_model(model) for model in given]
    _check_models(*given)
    return given


def _check_prepared(folder: Path) -> None:
    """The same for a prepared dataset."""
    from mambamed.preparation.store import check_prepared

    check_prepared(folder)


def _check_input(path: Path) -> None:
    """The same for any file or folder."""
    from mambamed.errors import DatasetError

    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder. Check the path.")


@contextmanager
def _workers(
    on: str | None,
    jobs: int | None,
    job: str | None,
    progress: Progress | None,
    gpus: int = 1,
    device: str = "auto",
    threads: int | None = 1,
) -> Iterator[Workers | None]:
    """The workers that the options ask for, with so many threads each; None for this process."""
    if on is None and (jobs is not None or job is not None):
        raise RecipeError(f"{'--jobs' if jobs is not None else '--job'}: needs --on. Give e.g. --on local.")
    if on is not None and gpus > 1:
        raise RecipeError("--gpus: of this machine, not of --on. Give --jobs and --job gpus=1.")
    if on is None and gpus == 1:
        yield None
        return
    from mambamed.preparation.pool import Workers

    if on is None:
        from mambamed.jobs.gpus import GpuPool

        yield Workers(GpuPool(gpus, device), gpus)
        return
    from mambamed.cluster.destination import Destination
    from mambamed.cluster.workers import open_workers

    place = Destination.of(on, jobs, job)
    with open_workers(place, threads, progress) as pool:
        yield Workers(pool, jobs or pool.number)


def _options(given: dict[str, Any]) -> tuple[JobOptions, Serving]:
    """The options that all commands with models share, from the arguments of one."""
    from mambamed.jobs.job import JobOptions
    from mambamed.volumes.ensemble import Serving

    return _taken(JobOptions, given), _taken(Serving, given)


def _taken(kind: type[_Kind], given: dict[str, Any], **others: Any) -> _Kind:
    """An object whose fields are the arguments with their names, and `others`."""
    from dataclasses import fields

    taken = {field.name: given[field.name] for field in fields(cast(Any, kind)) if field.name in given}
    return kind(**taken | others)


def convert_points(
    source: AnyPath,
    output: AnyPath,
    to: Literal["mrk.json", "fcsv", "csv", "json"] | None = None,
    images: AnyPath | None = None,
    overwrite: bool = False,
) -> ConvertSummary:
    """Convert point files between formats: 3D Slicer Markups and fcsv, CSV tables, JSON.

    Args:
        source: Point file, folder of point files, table of cases, or prepared dataset.
        output: Output file, whose suffix selects the format, or output folder.
        to: Format of the files in the output folder (one per case).
        images: Image or folder of images; needed if SOURCE holds voxel coordinates.
        overwrite: Replace an output file that has other content.
    """
    from mambamed.converters.convert_points import convert_points

    return convert_points(source, output, to=to, images=images, overwrite=overwrite)


def evaluate(
    predictions: AnyPath,
    references: AnyPath,
    output: AnyPath | None = None,
    recipe: AnyRecipe | None = None,
    regions: str | None = None,
    metrics: Items | None = None,
    hd95: HD95 | None = None,
    empty: Empty | None = None,
    protocol: Protocol | None = None,
    penalty: float | None = None,
    ci: float = 0.95,
    only_predicted: bool = False,
    part: Part | None = None,
    resample: bool = False,
    report: bool = True,
    worst: int = 10,
    images: AnyPath | None = None,
    table: Literal["brats", "classification", "landmarks"] | None = None,
    workers: int = 0,
    on: str | None = None,
    jobs: int | None = None,
    job: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate predictions against references: scores per case and structure, as tables and a report.

    Masks are scored by Dice, HD95 and other metrics. The structures are taken from --regions, else from the
    recipe, else from a dataset.json in the folder of the files. Points are scored by mean radial error (mm),
    success detection rates and misses; tables of class probabilities (one, or a folder of several for the
    same classes) are scored against a table of classes.

    Args:
        predictions: Folder of predicted masks or point files, or a table of points or class probabilities.
        references: Folder of reference masks, point files or BraTS cases, or a table of points or classes.
        output: Output folder for the tables.
        recipe: Recipe whose labels, regions and evaluation section are used.
        regions: Structures to score, e.g. liver=1,tumor=2+3.
        metrics: Metrics separated by commas, e.g. dice,hd95,nsd@1,assd,lesion_dice.
        hd95: Definition of HD95 to use; see docs/metrics.md.
        empty: How to score a structure that is empty in both masks: exclude it, or use the BraTS rule.
        protocol: Use the exact evaluation rules of a paper or challenge, including known flaws.
        penalty: Distance in mm assigned when a structure is missed (default: the image diagonal).
        ci: Confidence level of the intervals.
        only_predicted: Ignore references without a prediction.
        part: Score only this part of the split of a prepared dataset, which is then REFERENCES.
        resample: Resample predicted masks to the grid of their reference.
        report: Also write report.html (requires -o).
        worst: Number of cases shown as pictures in the report.
        images: Folder of the images shown behind the masks in the report.
        table: Also make a table in the layout used in papers (default: if the recipe has a paper's results).
        workers: Number of threads; 0 = one per CPU core.
    """
    from mambamed.evaluation import evaluate
    from mambamed.evaluation.options import EvaluateOptions
    from mambamed.recipe import load_recipe

    asked = load_recipe(recipe) if recipe else None
    given = locals()
    with _workers(on, jobs, job, progress) as elsewhere:
        options = _taken(EvaluateOptions, given, recipe=asked, level=ci, on=elsewhere)
        return evaluate(predictions, references, options)


def compare(
    evaluations: AnyPaths,
    output: AnyPath | None = None,
    common: bool = False,
    ci: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Test whether models differ: paired tests on the same cases, corrected, with intervals and ranks.

    Args:
        evaluations: Two or more output folders of evaluate.
        output: Output folder for the tables.
        common: Compare only the cases that all evaluations have in common.
        ci: Confidence level of the intervals.
        seed: Random seed of the bootstrap and the permutation tests.
    """
    from mambamed.evaluation.compare import compare
    from mambamed.evaluation.options import check_level

    check_level(ci)
    return compare(evaluations, common=common, level=ci, seed=seed, output=output)


def view(
    what: AnyPaths,
    images: AnyPath | None = None,
    references: AnyPath | None = None,
    port: int = 0,
    browser: bool = True,
    notes: bool = False,
    progress: Progress | None = None,
) -> ViewSummary:
    """Show cases in a web browser: images, masks, landmarks, saliency maps, scores, and training curves.

    The page is served on this machine only (127.0.0.1), under an address with a random part, until Ctrl-C.
    Nothing is written, except for the notes of --notes.

    Args:
        what: Evaluation, run, prepared dataset, predictions (several folders are compared), dataset or image.
        images: Image, folder of the images, or prepared dataset (default: the images next to the references,
            or those the dataset was prepared from).
        references: Reference masks, points or classes to show with predictions, as for evaluate.
        port: Port of the page (default: any free one).
        browser: Open the page in the default web browser.
        notes: Let a person mark each case as right, wrong or doubtful and write a note; saved as
            <WHAT>.notes.csv next to WHAT.
    """
    from mambamed.viewer import view

    return view(
        cast(Any, what), images=images, references=references, port=port, browser=browser, notes=notes,
        progress=progress,
    )  # fmt: skip


def best(
    runs: AnyPaths,
    output: AnyPath = Path("best"),
    data: AnyPath | None = None,
    metric: str | None = None,
    alpha: float = 0.05,
    common: bool = False,
    device: Device = "auto",
    scan: Scan = "auto",
    progress: Progress | None = None,
) -> BestSummary:
    """Choose among runs, averages of runs, weights and postprocessing, and write an ensemble file.

    Every validation case is predicted by the network of its fold. A run, an average, a weight, or a step of
    postprocessing (largest component, minimum volume, hole filling, threshold of a region) is taken only if a
    paired test shows that it raises the score beyond chance. predict takes the ensemble file as its model.

    Args (the others are described in `predict`):
        runs: Run folders of the same dataset and folds, the preferred one first.
        output: Output folder, for the ensemble file, the predictions and the tests.
        data: Prepared dataset (default: the one that the runs were trained on).
        metric: Metric to raise, e.g. dice or hd95 (default: the first one of the recipe).
        alpha: Largest probability of taking an option that is not better.
        common: Use only the folds that all runs have.
    """
    _check_models(*cast("list[Path]", runs))
    from mambamed.run.workplace import scan_option
    from mambamed.selection.best import best

    with scan_option(scan):
        return best(
            runs,
            output,
            data=data,
            metric=metric,
            alpha=alpha,
            common=common,
            device=device,
            progress=progress,
        )


def study(
    study: AnyPath,
    output: AnyPath | None = None,
    device: Device = "auto",
    jobs: int | None = None,
    on: str = "local",
    job: str | None = None,
    dry_run: bool = False,
    report_only: bool = False,
    progress: Progress | None = None,
) -> StudySummary:
    """Train recipes on datasets with several folds and seeds under one budget, and make a paper's tables.

    The report has means and spread over the seeds, confidence intervals, paired tests, ranks, costs and the
    numbers of the papers. If it is interrupted, run the same command again to continue; the study may also be
    extended by recipes, datasets, folds and seeds.

    Args (the others are described in `predict`):
        study: Study file (YAML), or name of a shipped study.
        output: Output folder (default: studies/<name of the file>).
        jobs: Number of trainings that run at a time (default: 1 on this machine, all on a batch system).
        on: Where the trainings run: local, slurm, pbs, sge, lsf, htcondor or kubernetes.
        job: Resources of each job on a batch system, e.g. gpus=1,time=4:00:00,mem=32G.
        dry_run: Report the number of trainings and what they cost, and write nothing.
        report_only: Train nothing; write the report of what is finished.
    """
    from mambamed.cluster.destination import Destination
    from mambamed.studies.running import run_study

    return run_study(
        Path(study),
        Path(output) if output is not None else Path("studies") / Path(study).stem,
        device=device,
        place=Destination.of(on, jobs, job),
        dry_run=dry_run,
        report_only=report_only,
        progress=progress,
    )


def import_weights(
    weights: AnyPath,
    recipe: AnyRecipe | None = None,
    output: AnyPath = Path("runs/imported"),
    data: AnyPath | None = None,
    set: Texts | None = None,
    axis_order: Literal["zyx", "xyz"] | None = None,
    fold: int | None = None,
) -> ImportSummary:
    """Convert published weights into a run folder that can be used for prediction.

    Supports the networks with public names in docs/networks.md, and nnU-Net checkpoints. No code in the file
    is executed. Loading is strict: every missing, unexpected or mismatched key is reported.

    A model of nnU-Net 2 needs no recipe: network, preprocessing, labels, regions and mirroring are read from
    the checkpoint, or from plans.json and dataset.json in the model folder.

    Args:
        weights: Published state dict (.safetensors, .pth), nnU-Net checkpoint, or nnU-Net model folder, of
            which all folds are converted.
        recipe: Recipe that describes the network as it was trained (not needed for nnU-Net).
        output: Output run folder.
        data: Prepared dataset, for settings that the recipe does not specify.
        set: Override a recipe key, e.g. network.head=paper.
        axis_order: Axis order of the training arrays: zyx if read with SimpleITK, xyz with nibabel (default:
            as the authors of the network read them).
        fold: Fold number to store the weights under (default: that of the nnU-Net checkpoint, else 0).
    """
    from mambamed.errors import RecipeError
    from mambamed.recipe import load_recipe

    if recipe is None:
        for option, value in (("-d", data), ("--set", set), ("--axis-order", axis_order)):
            if value is not None:
                raise RecipeError(f"{option}: needs --recipe. Remove it, or give the recipe of the network.")
        _check_input(Path(weights))
        from mambamed.run.import_nnunet import import_nnunet

        return import_nnunet(Path(weights), Path(output), fold)
    asked = load_recipe(recipe, set or ())
    _check_input(Path(weights))
    if data is not None:
        _check_prepared(Path(data))
    from mambamed.run.import_weights import import_weights

    return import_weights(weights, asked, output, prepared=data, axis_order=axis_order, fold=fold or 0)


def demo(
    output: AnyPath = Path("demo"), minutes: float = 3.5, progress: Progress | None = None
) -> DemoSummary:
    """Run the whole workflow on generated brain-tumor phantoms: prepare, train, predict and evaluate.

    If it is interrupted, run the same command again to continue.

    Args:
        output: Output folder.
        minutes: Training time in minutes, including validation. Extended on a machine that is too slow.
    """
    from mambamed.demonstration import demo

    return demo(output, minutes=minutes, progress=progress)


def doctor(folder: AnyPath = Path()) -> Examination:
    """Check this machine: Python, torch, GPUs, scan backends, memory, disks, folders, optional packages.

    Reports what is available, why something is not, and what to do about it. Nothing is changed.

    Args:
        folder: Folder to check for free space and write access.
    """
    from mambamed.run.doctor import examine_machine

    return examine_machine(folder)


def recipes_list(
    task: str | None = None, data: str | None = None, network: str | None = None
) -> list[RecipeLine]:
    """List the shipped recipes.

    Args:
        task: Only recipes of this task: segmentation, landmarks or classification.
        data: Only recipes for this dataset, e.g. hippocampus.
        network: Only recipes of this network, e.g. nnmamba.
    """
    from mambamed.recipe import describe_recipes, select_recipes

    return select_recipes(describe_recipes(), task=task, data=data, network=network)


def recipes_show(
    recipe: AnyRecipe,
    data: AnyPath | None = None,
    set: Texts | None = None,
    device: Device = "auto",
    progress: Progress | None = None,
) -> RecipeCost:
    """Show a recipe with all defaults filled in, and the cost of its network.

    With -d, some training steps are measured on this device, and the cost of the whole training is shown.

    Args (the others are described in `predict`):
        recipe: Recipe file, or name of a shipped recipe.
        data: Prepared dataset on which the cost of the training is measured.
        set: Override a recipe key, e.g. training.epochs=100.
    """
    from mambamed.recipe import load_recipe

    asked = load_recipe(recipe, set or ())
    if data is None:
        from mambamed.run.cost import recipe_cost

        cost = recipe_cost(asked)
    else:
        _check_prepared(Path(data))
        from mambamed.training.measured import measured_recipe

        cost = measured_recipe(asked, data, device, progress)
    return replace(cost, next_command=command_line("train", recipe, "-d", data or "PREPARED"))


def recipes_new(
    data: AnyPath,
    output: AnyPath | None = None,
    network: str | None = None,
    task: str | None = None,
    hours: float | None = None,
    fit: str | None = None,
    device: Device = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> NewRecipe:
    """Make a recipe for a prepared dataset, with comments that give the reason for each value.

    It is the recipe that 'mambamed train -d' uses. Width and patch follow from steps measured on this device.

    Args (the others are described in `predict`):
        data: Prepared dataset.
        output: Output file, *.yaml (default: print the recipe).
        network: Network (default: chosen for the task); see docs/networks.md.
        task: segmentation, landmarks or classification (default: the first one the dataset has references
            for).
        hours: Time for training and validation on this device (default: 8 on a CPU, 24 on a GPU).
        fit: Memory for a training step, e.g. 24GB (default: the free memory of the device).
        overwrite: Replace an output file that has other content.
    """
    _check_prepared(Path(data))
    from mambamed.training.general import new_recipe

    return new_recipe(
        data,
        output,
        network=network,
        task=task,
        hours=hours,
        fit=fit,
        device=device,
        overwrite=overwrite,
        progress=progress,
    )


def recipes_check(
    recipe: AnyRecipes,
) -> list[str]:
    """Check recipes: all keys, values and network options; report the faults of all files.

    Args:
        recipe: Recipe files, or names of shipped recipes.
    """
    from mambamed.recipe import recipe_and_faults

    files, faults = cast("list[str]", recipe), []
    for each in files:
        found: tuple[str, ...] = ()
        try:
            asked, found = recipe_and_faults(each)
            faults += found
            if asked is not None:
                from mambamed.run.cost import recipe_cost

                recipe_cost(asked)
        except RecipeError as error:
            if not (found and "missing" in str(error)):  # a faulty key was left out
                line = str(error)
                faults.append(line if line.startswith((str(each), "recipe ")) else f"{each}: {line}")
    if faults:
        raise RecipeError("\n".join(faults))
    return files


def recipes_schema() -> dict[str, Any]:
    """Print the JSON Schema of recipes, for editors."""
    from mambamed.recipe import recipe_schema

    return recipe_schema()


def schema(kind: str | None = None) -> dict[str, Any] | list[Kind]:
    """Print the JSON Schema of a kind of document, or list the kinds.

    Args:
        kind: Kind of document, e.g. plan; without it, the kinds are listed.
    """
    from mambamed.documents.schemas import kinds, schema_of

    return kinds() if kind is None else schema_of(kind)
