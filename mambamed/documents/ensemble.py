"""ensemble.json, which `best` writes and `predict` reads: runs with weights, and their postprocessing."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mambamed.documents.base import Count, Document, Fraction, Model, Positive
from mambamed.documents.evaluation import Interval, Number
from mambamed.documents.prepared import Sha256
from mambamed.errors import MambamedError, ModelError
from mambamed.recipe.schema import Postprocess


class EnsembleMember(Model):
    """A run."""

    model: str
    """Run folder or model file, relative to the folder of this file, or absolute."""
    weight: Positive = 1.0
    """Of each of its networks, relative to those of other runs."""
    checkpoints: dict[Annotated[str, Field(pattern="^fold_(0|[1-9][0-9]{0,4})$")], Sha256]
    """The folds that are averaged, with the digests of their checkpoints."""


class MaskPostprocess(Model):
    """As `inference.postprocess` of a recipe."""

    fill_holes: tuple[str, ...] = ()
    largest_component: tuple[str, ...] = ()
    min_mm3: dict[str, Positive] = Field(default_factory=dict)

    @classmethod
    def of(cls, settings: Postprocess) -> MaskPostprocess:
        """Those of a recipe."""
        return cls.checked(settings.model_dump(mode="json"), "recipe.yaml")


class Choice(Model):
    """An option that was tested against what was chosen until then, on the same cases."""

    stage: Literal["runs", "weights", "postprocessing"]
    option: str
    subjects: Count
    before: Number
    after: Number
    """Means of the score without and with the option."""
    interval: Interval
    """Confidence interval of the difference, over subjects."""
    p: Number
    """Permutation test, corrected by Holm's method for all options that were tested with it."""
    taken: bool


class EnsembleFile(Document):
    """ensemble.json."""

    FAULT: ClassVar[type[MambamedError]] = ModelError
    REMEDY: ClassVar[str] = "Run 'mambamed best' again."

    members: Annotated[tuple[EnsembleMember, ...], Field(min_length=1)]
    checkpoint: Literal["best", "last"] = "best"
    postprocess: MaskPostprocess = Field(default_factory=MaskPostprocess)
    """In place of that of the recipes."""
    thresholds: dict[str, Annotated[Fraction, Field(gt=0, lt=1)]] = Field(default_factory=dict)
    """Region -> probability above which a voxel belongs to it (default: 0.5)."""
    metric: str = ""
    """The score by which it was chosen."""
    choices: tuple[Choice, ...] = ()
    """What was tested."""
