"""A dataset of random numbers with the shapes that a recipe implies: for a dry run without prepared data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan, per_case
from mambamed.errors import RecipeError
from mambamed.recipe import Recipe
from mambamed.run.cost import manifest_of

_BATCH = 2
Box = tuple[Sequence[int], Sequence[int]]


class ImaginedCase:
    """A case of the size of a patch with random content; read like a `PreparedCase`.

    `covariates` are name -> a number, or one of its words; `points_voxel` landmark name -> voxels;
    `foreground` has one row [label, x, y, z] per label.
    """

    def __init__(self, recipe: Recipe, manifest: DatasetManifest, plan: Plan, number: int) -> None:
        random = np.random.default_rng(number)
        self.id, self.shape = f"random_{number}", plan.patch_size
        values = sorted(manifest.labels.values()) or [0]
        self._image = random.standard_normal((len(manifest.channels), *self.shape), np.float32)
        self._label = random.choice(np.array(values, np.int16), self.shape)
        classes = manifest.classes
        self.class_name = classes[number % len(classes)] if classes else None
        wanted = recipe.dataset.covariates
        self.covariates: dict[str, Any] = {
            name: number if kind == "number" else kind[number % len(kind)] for name, kind in wanted.items()
        }
        last = np.array(self.shape) - 1
        self.points_voxel: dict[str, NDArray] = {name: random.uniform(0, last) for name in manifest.landmarks}
        self.points, self.absent_points = self.points_voxel, ()
        places = random.integers(0, self.shape, (len(values), 3))
        self.foreground: NDArray = np.column_stack([values, places]).astype(np.int32)[1:]

    def image(self, box: Box | None = None) -> NDArray:
        """`(C, X, Y, Z)` of a box; None: of the whole case."""
        return self._image if box is None else self._image[(..., *_slices(box))]

    def label(self, box: Box | None = None) -> NDArray:
        """`(X, Y, Z)` of a box; None: of the whole case."""
        return self._label if box is None else self._label[_slices(box)]


class ImaginedDataset:
    """Replaces `PreparedDataset` in a training session: as many cases as a batch, or as classes.

    `manifest` None: that of the recipe; RecipeError if the recipe takes channels or targets from the dataset,
    or if it has no patch size.
    """

    def __init__(self, recipe: Recipe, manifest: DatasetManifest | None = None) -> None:
        patch = recipe.training.patch_size
        if patch is None:
            raise RecipeError(
                f"recipe {recipe.name}: training.patch_size is left to the dataset, and none is prepared; "
                "add --set training.patch_size=[X,Y,Z], or -d PREPARED"
            )
        self.root = Path("random numbers")
        self.manifest = manifest or manifest_of(recipe)
        spacing, kind = recipe.preprocess.spacing, recipe.preprocess.normalize
        self.plan = Plan(
            spacing_mm=spacing if isinstance(spacing, tuple) else (1.0, 1.0, 1.0),
            shape_median=patch,
            patch_size=patch,
            batch_size=recipe.training.batch_size or _BATCH,
            crop=recipe.preprocess.crop,
            normalization=(per_case("zscore" if kind in ("auto", "ct") else kind),)
            * len(self.manifest.channels),
        )
        count = max(self.plan.batch_size, len(self.manifest.classes))
        made = [ImaginedCase(recipe, self.manifest, self.plan, number) for number in range(count)]
        self._cases = {case.id: case for case in made}
        self.splits = [{"train": list(self._cases), "val": []}]

    def case(self, case_id: str) -> ImaginedCase:
        """The case of this id."""
        return self._cases[case_id]


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(*box, strict=True))
