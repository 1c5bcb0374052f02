"""The manifest of a dataset: what its cases have in common.

Converters find it; the dataset.json of prepared datasets and runs holds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from mambamed.cases import BACKGROUND, IGNORE, Case
from mambamed.documents.account import Account
from mambamed.documents.agreement import (
    Naming,
    disagreement,
    names_only_a_kind,
    names_only_a_number,
    special,
    spelling,
)
from mambamed.documents.base import Document, Finite, fault_lines
from mambamed.errors import DatasetError, RecipeError
from mambamed.recipe import Recipe
from mambamed.recipe.schema import ChannelKind
from mambamed.schema_errors import repeated, shortened, some_of
from mambamed.terminal import printable

_REMEDY = "Correct the recipe or use another dataset."


def _printable(name: str) -> str:
    if not name or not name.isprintable():
        raise ValueError(f"expected printable text, got {name!r}")
    return name


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := repeated(names):
        raise ValueError(f"expected each name once, got {twice!r} {names.count(twice)} times")
    return names


Name = Annotated[str, AfterValidator(_printable)]
Names = Annotated[tuple[Name, ...], AfterValidator(_unique)]


class DatasetManifest(Document):
    """What the cases of a dataset have in common."""

    REMEDY: ClassVar[str] = "Correct the description of the dataset."

    name: str
    """The dataset's name, for people."""
    channels: dict[Name, ChannelKind]
    """Channel name -> kind of intensity: "ct" (Hounsfield units) or "mri" (arbitrary units)."""
    labels: dict[Name, Annotated[int, Field(ge=0, le=65535)]] = Field(default_factory=dict)
    """Label name -> integer class; holds "background": 0 if there are labels at all."""
    regions: dict[Name, Annotated[tuple[int, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Region name -> the labels it unites; may overlap ("WT": (1, 2, 3)). Empty: labels exclude each other
    and are predicted by softmax."""
    region_values: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = ()
    """Label that each region writes into a mask, later regions over earlier ones, as nnU-Net's
    `regions_class_order`. Empty: regions with fewer labels are written over those with more."""
    landmarks: Names = ()
    """Names of the landmarks, in the network's output order."""
    classes: Names = ()
    """Names of the classes, in the network's output order."""
    covariate_ranges: dict[str, tuple[Finite, Finite]] = Field(default_factory=dict)
    """Only of a model: covariate that is a number -> its smallest and largest value in the dataset."""

    @classmethod
    def of(cls, name: str, source: Path | None = None, **fields: Any) -> DatasetManifest:
        """The manifest found by a converter; `source` is named in faults (default: the dataset's name).

        Raises:
            DatasetError: it contradicts itself.
        """
        try:
            return cls(name=printable(name), **fields)
        except ValidationError as error:
            raise DatasetError("\n".join(fault_lines(error, cls, str(source or name), cls.REMEDY))) from error

    @model_validator(mode="after")
    def _labels_agree(self) -> DatasetManifest:
        values = list(self.labels.values())
        if self.labels and self.labels.get(BACKGROUND) != 0:
            raise ValueError(f'labels: no background label: expected "background": 0 in {self.labels}')
        for value, count in Counter(values).items():
            if count > 1:
                names = [name for name, v in self.labels.items() if v == value]
                raise ValueError(f"labels: {names} share the value {value}: expected one value per label")
        for region, members in self.regions.items():
            if self.labels.get(IGNORE) in members:
                raise ValueError(f"regions: {region} holds the label {IGNORE}, {self.labels[IGNORE]}")
            if unknown := [m for m in members if m not in values]:
                raise ValueError(
                    f"regions: {region} names labels {unknown} that are not among {sorted(values)}"
                )
        if self.region_values and len(self.region_values) != len(self.regions):
            raise ValueError(
                f"region_values: expected one per region, {len(self.regions)}, got {len(self.region_values)}"
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, without empty `region_values`."""
        return {key: value for key, value in super().to_json().items() if value or key != "region_values"}

    @property
    def foreground(self) -> dict[str, tuple[int, ...]]:
        """Structure -> labels: the regions, or else every label except the background."""
        if self.regions:
            return dict(self.regions)
        return {name: (value,) for name, value in self.labels.items() if value != 0 and name != IGNORE}

    def difference(self, other: DatasetManifest) -> str | None:
        """The first key, apart from the name, in which another manifest differs, with both values."""
        for key in ("channels", "labels", "regions", "region_values", "landmarks", "classes"):
            mine, theirs = getattr(self, key), getattr(other, key)
            in_order = key in {"channels", "regions"}  # that of the network's inputs and outputs
            if mine != theirs or (in_order and list(mine) != list(theirs)):
                return f"{key}: {shortened(mine, 200)} | {shortened(theirs, 200)}"
        return None


@dataclass(frozen=True)
class RawDataset:
    """A dataset as a converter found it: its manifest and its cases, sorted by id."""

    manifest: DatasetManifest
    cases: Sequence[Case]
    source: Path | None = None
    """Folder or list that was read."""
    warnings: tuple[str, ...] = ()
    """What is doubtful about all cases together."""
    documents: tuple[Path, ...] = ()
    """Tables, documents and point files that were read."""
    account: Account | None = None
    """Which files of the source were read."""


def agreed_manifest(
    manifest: DatasetManifest, recipe: Recipe | None, *, choose: bool, source: Path | None = None
) -> DatasetManifest:
    """The dataset's manifest with the recipe's regions and spelling, after checking that both agree.

    Args:
        recipe: may select some of the classes or landmarks, in its own order.
        choose: keep only the selected classes and landmarks, in the recipe's order.
        source: of the dataset, for messages.

    Raises:
        RecipeError: channels (names, order, kinds), labels or regions differ in what they mean, or a class or
            landmark is unknown; both sides are shown.
    """
    if recipe is None:
        return manifest
    wanted = recipe.dataset
    changes: dict[str, Any] = {}
    ours, theirs = f"recipe {recipe.name}", f"dataset {source or manifest.name}"
    if wanted.channels is not None:
        _check_channels(recipe, manifest, theirs)
        changes["channels"] = wanted.channels
    for key, names in (("labels", wanted.labels), ("regions", wanted.regions)):
        for name in names or ():
            if special(name) != name or (key == "regions" and name == IGNORE):
                fact = f"{shortened(name)} is spelled {special(name)}, and is a label of one value"
                raise RecipeError(f"{ours}: dataset.{key}: {fact}. Correct the recipe.")
    asked = Naming.of(ours, wanted.labels, wanted.regions)
    if line := disagreement(asked, Naming.of(theirs, manifest.labels, manifest.regions)):
        raise RecipeError(f"{ours}: dataset.labels: names disagree: {line}. {_REMEDY}")
    if wanted.labels is not None:
        if sorted(wanted.labels.values()) != sorted(manifest.labels.values()):
            fact = f"labels {wanted.labels} are not those"
            raise _differs(recipe, manifest, fact, manifest.labels)
        changes["labels"] = wanted.labels
    for key in ("landmarks", "classes"):
        chosen, found = getattr(wanted, key), getattr(manifest, key)
        if unknown := [name for name in chosen or () if name not in found]:
            raise _differs(recipe, manifest, f"{key} {unknown} are not among those", list(found))
        if choose and chosen is not None:
            changes[key] = chosen
    if wanted.regions is not None and list(wanted.regions.items()) != list(manifest.regions.items()):
        changes |= {"regions": wanted.regions, "region_values": ()}
    if choose:
        numbers = [name for name, kind in wanted.covariates.items() if kind == "number"]
        ranges = manifest.covariate_ranges
        changes["covariate_ranges"] = {name: ranges[name] for name in numbers if name in ranges}
    return manifest.changed(**changes)


def named_by_recipe_alone(manifest: DatasetManifest, recipe: Recipe | None) -> str | None:
    """A line about labels that only the recipe names, as the dataset has numbers; None if there are none."""
    wanted = {value: name for name, value in ((recipe and recipe.dataset.labels) or {}).items()}
    lines = [
        f"{value} {wanted[value]}"
        for name, value in manifest.labels.items()
        if value and names_only_a_number(name, value) and wanted.get(value, name) != name
    ]
    if recipe is None or not lines:
        return None
    where = f"recipe {recipe.name}"
    return f"labels are named by {where} alone, the dataset only has their numbers: {some_of(lines)}"


def _check_channels(recipe: Recipe, manifest: DatasetManifest, theirs: str) -> None:
    """Raise `RecipeError` if the channels differ in number, order, kind or name.

    The only channel of a dataset may have a name that says no more than its kind, e.g. MRI.
    """
    asked, found = recipe.dataset.channels or {}, manifest.channels
    alone = len(asked) == len(found) == 1 and any(map(names_only_a_kind, (*asked, *found)))
    same = alone or list(map(spelling, asked)) == list(map(spelling, found))
    if not same or list(asked.values()) != list(found.values()):
        sides = (", ".join(f"{name} ({kind})" for name, kind in each.items()) for each in (asked, found))
        one, other = sides
        raise RecipeError(
            f"recipe {recipe.name}: dataset.channels: names, order or kinds disagree: {one} "
            f"(recipe {recipe.name}) | {other} ({theirs}). {_REMEDY}"
        )


def _differs(recipe: Recipe, manifest: DatasetManifest, fact: str, found: Any) -> RecipeError:
    return RecipeError(f"recipe {recipe.name}: dataset.{fact} of {manifest.name}, {found}. {_REMEDY}")
