"""Which keys of a recipe apply only to one task, or only to one value of another key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

_SEGMENTATION, _LANDMARKS, _CLASSES = "segmentation", "landmarks", "classification"
_SEGMENTATION_LOSS = (
    "dice cross_entropy batch_dice smooth focal focal_gamma boundary class_weights depth_weights"
)

# Key or section -> the key that decides, and its values for which the first one has an effect.
APPLIES_TO = {
    "dataset.covariates": ("task", (_CLASSES,)),
    "landmarks": ("task", (_LANDMARKS,)),
    "landmarks.peak_weight": ("landmarks.loss", ("mse",)),
    "landmarks.top_k": ("landmarks.loss", ("bce",)),
    "measures": ("task", (_LANDMARKS,)),
    "training.foreground": ("task", (_SEGMENTATION, _LANDMARKS)),
    "training.validation_patches": ("task", (_SEGMENTATION, _LANDMARKS)),
    "training.optimizer.momentum": ("training.optimizer.name", ("sgd",)),
    "training.schedule.power": ("training.schedule.name", ("poly",)),
    **{f"training.loss.{key}": ("task", (_SEGMENTATION,)) for key in _SEGMENTATION_LOSS.split()},
    "training.loss.class_balance": ("task", (_CLASSES,)),
    "training.loss.label_smoothing": ("task", (_SEGMENTATION, _CLASSES)),
    "inference.overlap": ("task", (_SEGMENTATION, _LANDMARKS)),
    "inference.gaussian": ("task", (_SEGMENTATION, _LANDMARKS)),
    "inference.postprocess": ("task", (_SEGMENTATION,)),
    "evaluation.metrics": ("task", (_SEGMENTATION,)),
    "evaluation.hd95": ("task", (_SEGMENTATION,)),
    "evaluation.empty": ("task", (_SEGMENTATION,)),
    "evaluation.threshold": ("task", (_CLASSES,)),
    "evaluation.calibrate": ("task", (_SEGMENTATION, _CLASSES)),
    "evaluation.sdr_mm": ("task", (_LANDMARKS,)),
}


def without_effect(recipe: BaseModel) -> Iterator[tuple[tuple[str, ...], str]]:
    """The keys that were given, differ from their default and have no effect, each with the reason.

    Runs hold recipes with every default filled in; hence values equal to the default are accepted.
    """
    reported: set[tuple[str, ...]] = set()
    for key, (deciding, values) in APPLIES_TO.items():
        given = recipe
        for part in deciding.split("."):
            given = getattr(given, part)
        if given in values:
            continue
        for path in _changed(recipe, tuple(key.split("."))):
            if path not in reported:
                reported.add(path)
                only = " and ".join(values)
                yield path, f"applies only to {only}; this recipe's {deciding} is {given}. Remove it."


def _changed(model: BaseModel, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The paths under a key whose values were given and differ from the default."""
    name, rest = path[0], path[1:]
    if name not in model.model_fields_set:
        return
    value: Any = getattr(model, name)
    if isinstance(value, BaseModel):
        for part in [rest] if rest else [(field,) for field in value.model_fields_set]:
            yield from ((name, *below) for below in _changed(value, part))
    elif value != type(model).model_fields[name].get_default(call_default_factory=True):
        yield path
