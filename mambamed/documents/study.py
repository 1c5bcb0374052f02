"""STUDY.yaml, which a person writes: datasets, recipes, folds, seeds, budget; and study.json, its results.

Faults name the line of the file, as those of recipes do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import to_json

from mambamed.documents.base import Count, Document, Model, NotNegative, Positive, Size
from mambamed.documents.evaluation import Interval, Number
from mambamed.errors import MambamedError, RecipeError
from mambamed.io.text_files import read_text
from mambamed.recipe.document import KeyPath, Origin, parse_document
from mambamed.schema_errors import did_you_mean, fact_of, keys_at, named

TWIN = "-none"  # end of the name of the control without a mixer

# Names become names of folders.
StudyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]


class Budget(Model):
    """What every training may take; exactly one of the keys."""

    hours: Positive | None = None
    """Wall time of each training, with the validation of whole volumes; the schedule is shortened to it."""
    cpu_minutes: Positive | None = None
    """The same in minutes of CPU time, which other programs on the machine do not change."""
    steps: Size | None = None
    """Optimizer steps of each training, in place of `training.epochs` and `training.steps_per_epoch`."""

    @model_validator(mode="after")
    def _is_one(self) -> Budget:
        if [self.hours, self.cpu_minutes, self.steps].count(None) != 2:
            raise ValueError("expected one of hours, cpu_minutes and steps. Give one of them.")
        return self

    @property
    def limit_hours(self) -> float | None:
        """The time of a training, of whichever clock."""
        return self.hours if self.cpu_minutes is None else self.cpu_minutes / 60

    @property
    def words(self) -> tuple[str, ...]:
        """The option of `train` that limits the time."""
        if self.hours is not None:
            return "--max-hours", f"{self.hours:g}"
        return () if self.cpu_minutes is None else ("--max-cpu-minutes", f"{self.cpu_minutes:g}")

    @property
    def clock(self) -> tuple[str, float]:
        """The unit of the time that it limits, and its seconds; ("", 0) if it limits none."""
        if self.steps is not None:
            return "", 0.0
        return ("hours", 3600.0) if self.hours is not None else ("minutes of CPU time", 60.0)

    @property
    def title(self) -> str:
        """For people."""
        if self.steps is not None:
            return f"{self.steps} steps per training"
        if self.hours is not None:
            return f"{self.hours:g} hours per training"
        return f"{self.cpu_minutes:g} minutes of CPU time per training"


class StudyDataset(Model):
    """A prepared dataset."""

    prepared: str
    """Its folder."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Recipe key -> value, for all recipes on this dataset."""
    part: Literal["val", "test"] = "val"
    """The cases that are scored: the validation cases of each fold, or the test part."""


class StudyRecipe(Model):
    """A recipe, as one row of the tables."""

    recipe: str
    """Recipe file, or name of a shipped recipe; {dataset} stands for the name of each dataset."""
    datasets: tuple[StudyName, ...] | None = None
    """The datasets that it is trained on (default: all)."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Recipe key -> value, e.g. {network.channels: 16}."""
    init_from: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")] | None = None
    """DATASET/ROW: start from the weights of this row's run with the same seed, which is trained first."""
    twin: bool | None = None
    """Also train it with network.mixer: none, as a row of its own (default: `twins`)."""


class Study(Model):
    """STUDY.yaml."""

    FAULT: ClassVar[type[MambamedError]] = RecipeError

    name: str = ""
    """Title of the report (default: the name of the file)."""
    datasets: Annotated[dict[StudyName, StudyDataset], Field(min_length=1)]
    """Name -> dataset."""
    recipes: Annotated[dict[StudyName, StudyRecipe], Field(min_length=1)]
    """Name -> recipe, in the order of the tables."""
    twins: bool = False
    """Also train every recipe whose network has a mixer with network.mixer: none, as a row NAME-none."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Recipe key -> value, for all runs; those of a dataset and of a recipe override it."""
    folds: tuple[Count, ...] | Literal["all"] = (0,)
    """The folds to train, or all."""
    seeds: Annotated[tuple[Count, ...], Field(min_length=1)] | Size = 1
    """The seeds of each training, or their number: 3 stands for 0, 1 and 2."""
    budget: Budget | None = None
    """What every run may take (default: as the recipes say)."""
    compare_with: StudyName | None = None
    """The recipe with which the others are compared in the tests (default: every pair is tested)."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence level of the intervals."""

    @model_validator(mode="after")
    def _names_agree(self) -> Study:
        for name, recipe in self.recipes.items():
            if recipe.init_from is not None:
                self._check_start(name, *recipe.init_from.split("/"))
            if unknown := [each for each in recipe.datasets or () if each not in self.datasets]:
                hint = did_you_mean(unknown[0], self.datasets) or "."
                raise ValueError(f"recipes: {name}: {unknown[0]} is not among the datasets{hint}")
        if self.compare_with is not None and self.compare_with not in self.recipes:
            hint = did_you_mean(self.compare_with, self.recipes) or "."
            raise ValueError(f"compare_with: {self.compare_with} is not among the recipes{hint}")
        return self

    def _check_start(self, name: str, dataset: str, row: str) -> None:
        source = self.recipes.get(row) or self.recipes.get(row.removesuffix(TWIN))
        if dataset not in self.datasets or source is None:
            raise ValueError(f"recipes: {name}: init_from: the study has no row {row} on {dataset}.")
        if source.init_from is not None:
            raise ValueError(f"recipes: {name}: init_from: {row} itself starts from other weights.")


def read_study(path: Path) -> Study:
    """Read and check STUDY.yaml.

    Raises:
        RecipeError: one line per fault: `file:line: key: fact. What to do.`
    """
    values, origins = parse_document(read_text(path), str(path))
    try:
        return Study.model_validate_json(to_json(values))
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise RecipeError("\n".join(_fault_lines(faults, origins, str(path)))) from error


def _fault_lines(faults: Sequence[Any], origins: Mapping[KeyPath, Origin], file: str) -> list[str]:
    """One line per key; of the alternatives of a key, the first one is named."""
    lines: dict[KeyPath, str] = {}
    for fault in faults:
        location = tuple(fault["loc"])
        known = location
        while known and known not in origins:
            known = known[:-1]
        missing = fault["type"] in {"missing", "extra_forbidden"}
        shown = location if missing else known
        fact = fact_of(fault, keys_at(Study, location[:-1]))
        if fault["type"] == "missing":
            fact = "missing. Add it"
        elif fact.startswith("expected") and "." not in fact[-2:]:
            fact += ". Correct the value"
        elif "should match pattern" in fact:
            fact = f"{location[-2]!r}: expected letters, digits and _ . -. Rename it"
        key = ".".join(map(named, shown)) or "study"
        at = origins.get(known, Origin(file, 1))
        lines.setdefault(shown, f"{at}: {key}: {fact}{'' if fact.endswith(('.', '?')) else '.'}")
    return list(lines.values())


class StudyRun(Model):
    """A recipe trained on a dataset with one seed."""

    dataset: StudyName
    recipe: StudyName
    seed: Count
    command: str
    """The command of its first fold, without its folders."""
    folds: tuple[int, ...]
    finished: bool
    hours: NotNegative | None = None
    """GPU-hours, or CPU-hours on a CPU; None if nothing was recorded."""
    complete: bool = True
    """Whether `hours` has all sessions; one that was killed is not recorded."""
    device: str = ""
    peak_gib: NotNegative | None = None
    parameters: Count | None = None
    steps: Count | None = None


class StudyScore(Model):
    """A metric of a recipe on a dataset."""

    dataset: StudyName
    recipe: StudyName
    region: str
    metric: str
    seeds: dict[str, Number]
    """Seed -> mean over the units of the dataset."""
    mean: Number
    sd: Number
    """Over the seeds, with n - 1."""
    interval: Interval
    """Confidence interval of the mean, over subjects."""
    rank: Number
    """Mean rank among the recipes, 1 = best."""
    units: Count
    """Number of cases (or points)."""
    paper: Number | None = None
    """As reported, in the unit of `mean`."""


class StudyDifference(Model):
    """A paired test of two recipes."""

    dataset: StudyName
    region: str
    metric: str
    first: StudyName
    second: StudyName
    subjects: Count
    difference: Number
    """Second minus first: of the means over the seeds."""
    seeds: dict[str, Number] = Field(default_factory=dict)
    """Seed that both have -> difference of their means."""
    interval: Interval
    """Over subjects; that seeds would differ is not in it."""
    wilcoxon_holm: Number
    permutation_holm: Number
    delong_holm: Number


class StudyRecord(Document):
    """study.json: what was trained, and the results."""

    REMEDY: ClassVar[str] = "Remove it, and run the same 'mambamed study' command again."

    study: Study
    runs: tuple[StudyRun, ...]
    scores: tuple[StudyScore, ...] = ()
    differences: tuple[StudyDifference, ...] = ()
