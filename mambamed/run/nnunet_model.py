"""A model of nnU-Net 2 as it lies on disk: one checkpoint, or the folder of all folds.

```
nnUNetTrainer__nnUNetPlans__3d_fullres/   the folder of a model
  plans.json  dataset.json
  fold_0/checkpoint_final.pth             weights, and both documents once more (init_args)
```
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mambamed.documents.foreign.nnunet_plans import Configuration, ModelDataset, Plans
from mambamed.documents.splits import NO_FOLD, FoldName
from mambamed.errors import DatasetError, ModelError
from mambamed.io.json_files import read_json
from mambamed.numerals import is_whole
from mambamed.run.tensors import read_tensors
from mambamed.run.torch_files import TorchFile, open_torch_file
from mambamed.schema_errors import shortened

_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")  # nnU-Net predicts with the first
_DOCUMENTS = ("plans.json", "dataset.json")
_MIRRORED = "inference_allowed_mirroring_axes"


@dataclass(frozen=True)
class NnunetCheckpoint:
    """What a checkpoint of a fold says, apart from its documents.

    Attributes:
        path: the file.
        fold: its number; "none" of a training on all cases; None if the file does not name it.
        trainer: name of the trainer's class.
        mirrored: axes, in the order of the plans, along which prediction may mirror.
        configuration: name of the configuration; empty if the file does not name it.
    """

    path: Path
    fold: FoldName | None
    trainer: str
    mirrored: tuple[int, ...]
    configuration: str

    def weights(self) -> dict[str, Tensor]:
        """The public state dict."""
        file = _opened(self.path)
        return read_tensors(self.path)[1] if file is None else file.weights()


@dataclass(frozen=True)
class NnunetModel:
    """One or several folds of a model, and its documents.

    Attributes:
        where, of_dataset: the places of the two documents, for messages.
    """

    checkpoints: tuple[NnunetCheckpoint, ...]
    plans: Plans
    dataset: ModelDataset
    configuration: Configuration
    name: str  # of the configuration
    where: str
    of_dataset: str


def open_nnunet(path: Path) -> NnunetModel:
    """Read the documents of a model of nnU-Net 2, but not its weights.

    Args:
        path: a checkpoint, whose documents lie in it, next to it or above its fold, in this order; or a
            model's folder, whose own documents are read, as nnU-Net does.

    Raises:
        ModelError: it is neither, a document is absent or has faults, or folds do not belong together.
    """
    files = _checkpoints_in(path) if path.is_dir() else [path]
    opened = [_opened(file) for file in files]
    checkpoints = tuple(map(_described, files, opened))
    first = checkpoints[0]
    for other in checkpoints[1:]:
        for key in ("trainer", "configuration", "mirrored"):
            one, two = getattr(first, key), getattr(other, key)
            if one != two:
                fact = f"{key}: expected that of {first.path.parent.name}, {one}, got {two}"
                raise ModelError(f"{other.path}: {fact}. Import the folds one by one, into different runs.")
    documents = [_document(path, files[0], opened[0], name) for name in _DOCUMENTS]
    (plans, where), (dataset, of_dataset) = documents
    plans = Plans.checked(plans, where)
    name = first.configuration or _configuration_of(files[0])
    return NnunetModel(
        checkpoints,
        plans,
        ModelDataset.checked(dataset, of_dataset),
        plans.configuration(name, where),
        name,
        where,
        of_dataset,
    )


def mirrored_axes(path: Path) -> tuple[int, ...] | None:
    """The axes of (z, y, x) along which a checkpoint allows mirroring; None if the file does not say.

    Raises:
        ModelError: the file cannot be read, or names something else.
    """
    file = _opened(path)
    if file is None or not isinstance(file.content, dict) or _MIRRORED not in file.content:
        return None
    return _described(path, file).mirrored


def _checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of all folds that have the first of `_CHECKPOINTS`, else of those with the second."""
    for name in _CHECKPOINTS:
        found = [path for path in folder.glob(f"fold_*/{name}") if _fold_named(path.parent.name) is not None]
        if found:
            return sorted(found, key=lambda path: (len(path.parent.name), path.parent.name))
    inner = sorted({path.parents[1] for path in folder.glob(f"*/fold_*/{_CHECKPOINTS[0]}")})
    if inner:
        fact = f"is not the folder of a model, but contains {len(inner)}"
        raise ModelError(f"{folder}: {fact}. Give one of them, e.g. {inner[0]}.")
    raise ModelError(f"{folder}: has no fold_*/{_CHECKPOINTS[0]}. Give a checkpoint, or a model's folder.")


def _opened(path: Path) -> TorchFile | None:
    """None for safetensors, which holds nothing but tensors."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file. Give a checkpoint of nnU-Net, or a model's folder.")
    return None if path.suffix == ".safetensors" else open_torch_file(path)


def _described(path: Path, file: TorchFile | None) -> NnunetCheckpoint:
    values: dict[str, Any] = {}
    if file is not None:
        keys = (("trainer_name",), ("init_args", "configuration"), ("init_args", "fold"), (_MIRRORED,))
        values = {key[-1]: file.value(*key) for key in keys}
    trainer, configuration = values.get("trainer_name"), values.get("configuration")
    for key, value in (("trainer_name", trainer), ("init_args.configuration", configuration)):
        if value is not None and not isinstance(value, str):
            raise ModelError(f"{path}: {key}: expected a name, got {shortened(value)}. Copy the file again.")
    axes = values.get(_MIRRORED) or []
    if not isinstance(axes, list) or any(type(a) is not int or a not in range(3) for a in axes):
        fact = f"expected some of 0, 1 and 2, got {shortened(axes)}"
        raise ModelError(f"{path}: {_MIRRORED}: {fact}. Copy the file again.")
    fold = _fold_named(f"fold_{values.get('fold')}")
    if fold is None:
        fold = _fold_named(path.parent.name)
    return NnunetCheckpoint(path, fold, trainer or "", tuple(sorted(set(axes))), configuration or "")


def _fold_named(name: str) -> FoldName | None:
    """The fold of a folder's name; that of all cases is "none".

    >>> _fold_named("fold_3"), _fold_named("fold_all"), _fold_named("folder")
    (3, 'none', None)
    """
    word = name.removeprefix("fold_")
    if word == name or not (word == "all" or (is_whole(word) and len(word) <= 4)):
        return None
    return NO_FOLD if word == "all" else int(word)


def _document(given: Path, file: Path, opened: TorchFile | None, name: str) -> tuple[Any, str]:
    """A document and its place; see `open_nnunet`."""
    key = {"plans.json": "plans", "dataset.json": "dataset_json"}[name]
    inner = opened.value("init_args", key) if opened is not None else None
    within = (inner, f"{file}: init_args.{key}")
    if inner is not None and not given.is_dir():
        return within
    for folder in (given,) if given.is_dir() else (file.parent, file.parent.parent):
        if (folder / name).is_file():
            try:
                return read_json(folder / name), str(folder / name)
            except DatasetError as error:
                raise ModelError(str(error)) from error
    if inner is not None:
        return within
    raise ModelError(
        f"{file}: is not a checkpoint of nnU-Net 2: no init_args.{key} in it, and no {name} next to it. "
        "Give the recipe of its network with --recipe."
    )


def _configuration_of(file: Path) -> str:
    """The last part of trainer__plans__configuration, the name of a model's folder."""
    parts = file.absolute().parents[1].name.split("__")
    if len(parts) != 3:
        raise ModelError(
            f"{file}: init_args.configuration: missing, and its folder is not named "
            "TRAINER__PLANS__CONFIGURATION. Give the checkpoint that nnU-Net wrote."
        )
    return parts[2]
