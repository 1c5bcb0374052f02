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
from mambamed.documents.base import Document, fault_lines
from mambamed.errors import DatasetError, RecipeError
from mambamed.recipe import Recipe
from mambamed.recipe.schema import ChannelKind
from mambamed.schema_errors import repeated
from mambamed.terminal import printable


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
    landmarks: Names = ()
    """Names of the landmarks, in the network's output order."""
    classes: Names = ()
    """Names of the classes, in the network's output order."""

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
            if unknown := [m for m in members if m not in values]:
                raise ValueError(
                    f"regions: {region} names labels {unknown} that are not among {sorted(values)}"
                )
        return self

    @property
    def foreground(self) -> dict[str, tuple[int, ...]]:
        """Structure -> labels: the regions, or else every label except the background."""
        if self.regions:
            return dict(self.regions)
        return {name: (value,) for name, value in self.labels.items() if value != 0 and name != IGNORE}


@dataclass(frozen=True)
class RawDataset:
    """A dataset as a converter found it: its manifest and its cases, sorted by id."""

    manifest: DatasetManifest
    cases: Sequence[Case]
    source: Path | None = None
    """Folder or list that was read."""


def agreed_manifest(manifest: DatasetManifest, recipe: Recipe | None, *, choose: bool) -> DatasetManifest:
    """The dataset's manifest with the recipe's regions, after checking that both describe the same data.

    Args:
        recipe: may select some of the classes or landmarks, in its own order.
        choose: keep only the selected classes and landmarks, in the recipe's order.

    Raises:
        RecipeError: channels (names, order, kinds) or labels differ, or a class or landmark is unknown.
    """
    if recipe is None:
        return manifest
    wanted = recipe.dataset
    changes: dict[str, Any] = {}
    for key in ("channels", "labels"):
        asked, found = getattr(wanted, key), getattr(manifest, key)
        if asked is not None and (asked != found or (key == "channels" and list(asked) != list(found))):
            raise _differs(recipe, manifest, f"{key} {asked} are not those", found)
    for key in ("landmarks", "classes"):
        asked, found = getattr(wanted, key), getattr(manifest, key)
        if unknown := [name for name in asked or () if name not in found]:
            raise _differs(recipe, manifest, f"{key} {unknown} are not among those", list(found))
        if choose and asked is not None:
            changes[key] = asked
    if wanted.regions is not None:
        changes["regions"] = wanted.regions
    return manifest.changed(**changes)


def _differs(recipe: Recipe, manifest: DatasetManifest, fact: str, found: Any) -> RecipeError:
    return RecipeError(
        f"recipe {recipe.name}: dataset.{fact} of {manifest.name}, {found}. "
        "Correct the recipe or use another dataset."
    )
