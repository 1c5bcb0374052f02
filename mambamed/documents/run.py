"""The documents of a run: run.json, thresholds.json, calibration.json, metadata of checkpoints and models."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mambamed.documents.base import (
    Count,
    Document,
    Fraction,
    Model,
    NotNegative,
    Positive,
    Size,
    SparseDocument,
)
from mambamed.documents.prepared import Sha256
from mambamed.errors import MambamedError, ModelError

Number = Annotated[float, Field(allow_inf_nan=True)]  # NaN: undefined


class Provenance(Model):
    """Where a result comes from; see `runs.provenance`."""

    command: str
    versions: dict[str, str]
    """Package -> version."""
    git_commit: str | None
    platform: str
    cpu_cores: Size | None
    torch_threads: Size


class CostRecord(Model):
    """What a session took, training and validation."""

    device: str
    """Its kind: cpu, cuda or mps."""
    seconds: NotNegative
    """Wall time."""
    cpu_seconds: NotNegative
    """Of all threads of the process; of several processes, the first one."""
    processes: Size
    """One per GPU."""
    peak_gib: NotNegative | None = None
    """Largest memory of a GPU, or of the process on a CPU; None if unknown."""


class SessionRecord(Provenance):
    """One call of `train`: what was chosen, and why."""

    device: str
    precision: str
    scan_backend: str
    layout: str
    cudnn: str | None = None
    """Of a CUDA device; not recorded by mambamed 0.1.0."""
    compile: str
    augment: str | None = None
    """Where patches were augmented; not recorded by mambamed 0.2.0."""
    processes: str | None = None
    recipe: str | None = None
    """What of the recipe has changed since the run began."""
    from_step: Count
    deterministic: bool
    cost: CostRecord | None = None
    """None for a session that was killed, or of an earlier version."""


class ScoreRecord(Model):
    """The score that chooses the best epoch: a column of log.csv."""

    name: str
    higher_is_better: bool


class FoldRecord(Model):
    """The training of one fold."""

    seed: int | None = None
    prepared: str | None = None
    """Folder of the prepared dataset."""
    training_cases: Count | None = None
    """Number of cases that it is trained on; not recorded by mambamed 0.2.0, as the next."""
    training_subjects: Count | None = None
    steps: Count | None = None
    """Planned optimizer updates."""
    parameters: Count | None = None
    compiled: bool | None = None
    augment_on: Literal["cpu", "gpu"] | None = None
    """Where patches are augmented; not recorded by mambamed 0.2.0."""
    score: ScoreRecord | None = None
    """Not recorded by mambamed 0.1.0."""
    finished: bool | None = None
    """Whether the training has ended; recorded of a fold without validation cases, which has no scores."""
    sessions: tuple[SessionRecord, ...] = ()


class RunRecord(SparseDocument):
    """run.json of a run."""

    FAULT: ClassVar[type[MambamedError]] = ModelError
    REMEDY: ClassVar[str] = "Restore run.json from a copy of the run, or move it elsewhere."

    recipe: str = ""
    folds: dict[Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,4}|none)$")], FoldRecord] = Field(
        default_factory=dict
    )
    """Number of a fold, or "none" -> its training."""


class Thresholds(Document):
    """thresholds.json of a fold: the score from which a landmark counts as present."""

    FAULT: ClassVar[type[MambamedError]] = ModelError
    REMEDY: ClassVar[str] = "Validate the fold again."

    cases: Count
    """Number of validation cases on which the thresholds were chosen."""
    thresholds: dict[str, Fraction]
    """Landmark -> score; 0 if it is never absent."""


class Calibration(Document):
    """calibration.json of a fold, all of it chosen on its validation cases.

    Of masks it has the temperature alone, which is used for `predict --uncertainty`.
    """

    FAULT: ClassVar[type[MambamedError]] = ModelError
    REMEDY: ClassVar[str] = "Validate the fold again."

    temperature: Positive | None = None
    """Logits are divided by it; None if there was nothing to calibrate."""
    threshold: Fraction | None = None
    """For two classes: probability from which the positive one is predicted; None for more classes."""
    criterion: Literal["youden", "f1", "half"] = "half"
    """How the threshold was chosen."""
    cases: Count = 0
    """Number of validation cases."""


class CountersRecord(Model):
    """What a training counts; see `training.state.Counters`."""

    step: Count = 0
    steps: Count = 0
    asked: Count = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    budget_seconds: float | None = None
    cpu_time: bool = False
    planned: bool = False
    loss_sum: Number = 0.0
    loss_count: Count = 0
    skipped: Count = 0
    skipped_in_row: Count = 0
    rate_factor: Positive = 1.0
    rollbacks: Count = 0
    best_score: Number | None = None
    best_epoch: Count = 0
    history: tuple[dict[str, int | Number], ...] = ()
    """Rows of log.csv, one per epoch."""


class ScalerRecord(Model):
    """State of the loss scaling of fp16; empty without it."""

    scale: Positive | None = None
    growth_factor: Positive | None = None
    backoff_factor: Positive | None = None
    growth_interval: Size | None = None
    growth_tracker: Count | None = Field(default=None, alias="_growth_tracker")


class CheckpointFacts(SparseDocument):
    """The metadata of a checkpoint.

    `best` holds step, epoch and score; `last` holds counters and scaler, from which training resumes.
    """

    FAULT: ClassVar[type[MambamedError]] = ModelError
    REMEDY: ClassVar[str] = "Copy the checkpoint again, or train the fold again."

    step: Count | None = None
    epoch: Count | None = None
    score: Number | None = None
    counters: CountersRecord | None = None
    scaler: ScalerRecord | None = None
    imported_from: str | None = None
    axis_order: str | None = None
    exported: Literal["best", "last"] | None = None
    """Which checkpoint a model file was made from."""


class ModelMember(Model):
    """A file in a model file."""

    bytes: Count
    sha256: Sha256


class ModelIndex(Document):
    """model.json of a one-file model."""

    FAULT: ClassVar[type[MambamedError]] = ModelError
    REMEDY: ClassVar[str] = "Copy the file again."

    version: str
    """Of mambamed."""
    run: str
    members: dict[str, ModelMember]
    """Every other file of the model."""


class CompileTimes(Document):
    """compile.json in the user's cache folder: what torch.compile gains."""

    seconds: dict[str, tuple[Positive, Positive]] = Field(default_factory=dict)
    """Hash of network, patch and device -> seconds per step without and with it."""
