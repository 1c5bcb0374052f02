"""The one-file model: a run's networks and what a prediction needs to know, to be handed to others.

```
model.mambamed   a zip whose members are stored as they are (no compression, so no bomb)
  model.json     format, version, and the sha256 and size of every other member
  card.md        what the model is, for people
  recipe.yaml  plan.json  dataset.json
  fold_0/ checkpoint_best.safetensors  thresholds.json  calibration.json
```

It may come from a stranger: nothing in it is code, names are checked against this list, sizes before anything
is read, digests before anything is used.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mambamed
from mambamed.documents.run import Calibration, ModelIndex, ModelMember, Thresholds
from mambamed.documents.splits import FoldName
from mambamed.errors import ModelError
from mambamed.io.atomic import open_atomic
from mambamed.io.json_text import json_text
from mambamed.io.members import Member, members_of
from mambamed.recipe import Recipe, Split, dump_recipe
from mambamed.run import calibration, thresholds
from mambamed.run.checkpoint import Checkpoint, encode_checkpoint, read_checkpoint
from mambamed.run.export_outputs import export_outputs
from mambamed.run.folder import Run
from mambamed.run.hub import Reference, push_model
from mambamed.run.hub_card import hub_card
from mambamed.run.provenance import sha256_of
from mambamed.terminal import command_line

SUFFIX = ".mambamed"

_INDEX = "model.json"
_NEEDED = ("recipe.yaml", "plan.json", "dataset.json")
_WEIGHTS = "checkpoint_best.safetensors"
_TAUGHT = {thresholds.NAME: Thresholds, calibration.NAME: Calibration}
_FACTS = ("step", "epoch", "score", "axis_order")  # of a checkpoint, which go along
_FOLD = r"fold_(?:0|[1-9][0-9]{0,3}|none)"
_DOCUMENT = re.compile(
    r"model\.json|card\.md|recipe\.yaml|plan\.json|dataset\.json"
    rf"|{_FOLD}/({'|'.join(map(re.escape, _TAUGHT))})"
)
_TENSORS = re.compile(rf"{_FOLD}/{re.escape(_WEIGHTS)}")
_LARGEST_DOCUMENT = 2**22
_MOST_MEMBERS = 1000
_STAMP = (1980, 1, 1, 0, 0, 0)  # the same run gives the same bytes


@dataclass(frozen=True)
class ExportSummary:
    """What `export_model` wrote.

    Attributes:
        output: the file.
        folds: whose networks are in it.
        bytes: its size.
        sha256: of the whole file.
        next_command: what to do next.
    """

    output: Path
    folds: tuple[FoldName, ...]
    bytes: int
    sha256: str
    next_command: str


def export_model(
    run_folder: Path,
    output: Path | None = None,
    *,
    folds: str = "all",
    checkpoint: str = "best",
    dataset_name: str | None = None,
    overwrite: bool = False,
    push: str | None = None,
    license: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> ExportSummary:
    """Write a run as one file that predicts as the run does, bit for bit.

    Nothing in the file names a case, a folder, a machine or a person, unless the recipe's name, the names of
    channels and of what is predicted, or `dataset_name` do.

    Args:
        run_folder: what `train` wrote.
        output: the file, `*.mambamed` (default: `model.mambamed` in the run folder).
        folds: "all" that are trained, or numbers, e.g. "0,2".
        checkpoint: "best" or "last"; the file contains one per fold. Of a run with a moving average of the
            weights, the average is written.
        dataset_name: what the file says of the training data (default: only the recipe's name).
        overwrite: replace an output file with other content.
        push: also upload the file, with a card, to this repository of the hub; see `hub.push_model`.
        license: of the model, for that card.
        say: receives a line about what was decided.

    Raises:
        RecipeError: the output is somebody else's.
        ModelError: no such run, fold or checkpoint, or another suffix.
        RunError: the file cannot be written.
    """
    if push and Reference.of(push) is None:
        raise ModelError(f"--push {push}: expected hf://org/name or hf://org/name@branch. Correct the name.")
    run = Run.open(run_folder)
    default = f"model{SUFFIX}"
    output = output or run_folder / default
    if output.suffix != SUFFIX:
        raise ModelError(f"{output}: the name of a model file ends in {SUFFIX}. Use -o model{SUFFIX}.")
    with export_outputs(run_folder, output, default, [output.name], overwrite):
        numbers = run.chosen_folds(folds)
        members: dict[str, ModelMember] = {}
        with open_atomic(output) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

            def put(name: str, data: bytes) -> None:
                members[name] = ModelMember(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
                _put(archive, name, data)

            put("recipe.yaml", dump_recipe(_published(run.recipe)).encode())
            put("plan.json", json_text(run.plan.to_json()).encode())
            manifest = run.manifest.changed(name=dataset_name or run.recipe.name)
            put("dataset.json", json_text(manifest.to_json()).encode())
            lines = []
            for fold in numbers:  # one at a time in memory
                content = read_checkpoint(run.checkpoint(fold, checkpoint), parts=("network", "ema"))
                lines.append(_card_line(fold, content))
                put(f"fold_{fold}/{_WEIGHTS}", _weights(content, checkpoint))
                for name, kind in _TAUGHT.items():
                    if (found := run.find(f"fold_{fold}/{name}")) is not None:
                        put(f"fold_{fold}/{name}", json_text(kind.read(found).to_json()).encode())
            card = _card(run, dataset_name, lines)
            put("card.md", card.encode())
            index = ModelIndex(version=mambamed.__version__, run=run.recipe.name, members=members)
            _put(archive, _INDEX, json_text(index.to_json()).encode())
    pushed = (
        push_model(push, output, hub_card(run, numbers, card, dataset_name, license), say) if push else None
    )
    return ExportSummary(
        output=output,
        folds=tuple(numbers),
        bytes=output.stat().st_size,
        sha256=sha256_of(output),
        next_command=command_line(run.task.verb, pushed or output, "IMAGES"),
    )


def open_model(model: Path) -> Run:
    """A run folder, or a one-file model, as a `Run`.

    The members of a file are checked, and read where they are: nothing is unpacked.

    Raises:
        ModelError: it is neither, or it is damaged.
    """
    return Run.open(model, _members(model) if model.is_file() else None)


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    with archive.open(zipfile.ZipInfo(name, _STAMP), "w", force_zip64=len(data) >= 2**31) as member:
        member.write(data)


def _members(path: Path) -> dict[str, Member]:
    """The members of a model file whose names, sizes and digests are those that `export_model` wrote.

    Raises:
        ModelError: they are not.
    """
    members = members_of(
        path, "model file", _MOST_MEMBERS, "Give a run folder, or copy the model file again."
    )
    if any(name.endswith("/data.pkl") for name in members):
        raise ModelError(f"{path}: holds weights of PyTorch alone. Use 'mambamed import-weights' first.")
    for name, member in members.items():
        fact = ""
        if not (_DOCUMENT.fullmatch(name) or _TENSORS.fullmatch(name)):
            fact = "is not part of a model"
        elif _DOCUMENT.fullmatch(name) and member.size > _LARGEST_DOCUMENT:
            fact = f"is a document of {member.size} bytes"
        if fact:
            raise ModelError(f"{path}: member {name!r} {fact}. Do not trust this file.")
    if absent := [name for name in (_INDEX, *_NEEDED) if name not in members]:
        raise ModelError(
            f"{path}: is not a model file of mambamed: no {absent[0]}. Give a file that 'export' wrote."
        )
    index = ModelIndex.read(members.pop(_INDEX))
    if {name: member.size for name, member in members.items()} != {
        name: member.bytes for name, member in index.members.items()
    }:
        raise ModelError(f"{path}: members: expected those listed in {_INDEX}. Copy the file again.")
    for name, member in members.items():
        if sha256_of(member) != index.members[name].sha256:
            raise ModelError(
                f"{member}: corrupt: its sha256 differs from the recorded one. Copy the file again."
            )
    return members


def _weights(content: Checkpoint, checkpoint: str) -> bytes:
    """The weights that prediction would load, and how they came to be."""
    weights = content.part("ema") or content.part("network")
    facts = {**{key: content.facts[key] for key in _FACTS if key in content.facts}, "exported": checkpoint}
    return encode_checkpoint({f"network.{name}": tensor for name, tensor in weights.items()}, facts)


def _published(recipe: Recipe) -> Recipe:
    """The recipe without what says where its author's data lies and how its cases are called."""
    own = recipe.dataset.split
    split = Split(folds=own.folds, train=own.train, val=own.val, test=own.test, seed=own.seed)
    dataset = recipe.dataset.model_copy(update={"prepared": None, "split": split})
    return recipe.model_copy(update={"dataset": dataset})


def _card(run: Run, dataset_name: str | None, folds: Sequence[str]) -> str:
    recipe, manifest, plan = run.recipe, run.manifest, run.plan
    answers = manifest.foreground or manifest.landmarks or manifest.classes
    spacing = " × ".join(f"{edge:g}" for edge in plan.spacing_mm)
    lines = [
        f"# {recipe.name}",
        "",
        f"- task: {recipe.task}",
        f"- network: {recipe.network.name}",
        *([f"- trained on: {dataset_name}"] if dataset_name else []),
        f"- reads: {', '.join(f'{name} ({kind})' for name, kind in manifest.channels.items())}",
        f"- answers: {', '.join(answers)}",
        f"- grid: {'the spacing of each case' if plan.keep_spacing else f'{spacing} mm'}, "
        f"windows of {' × '.join(map(str, plan.patch_size))} voxels",
        "",
        "| fold | million weights | epoch | score on validation patches |",
        "|---|---|---|---|",
        *folds,
        "",
        f"Use: `mambamed {run.task.verb} model{SUFFIX} IMAGES -o OUT`. Written by mambamed "
        f"{mambamed.__version__}. For research; not a medical device.",
        "",
    ]
    return "\n".join(lines)


def _card_line(fold: FoldName, content: Checkpoint) -> str:
    count = sum(tensor.numel() for tensor in content.part("network").values())
    counters = content.facts.get("counters", {})  # of a checkpoint "last"
    facts = {"epoch": counters.get("best_epoch"), "score": counters.get("best_score"), **content.facts}
    return f"| {fold} | {count / 1e6:.2f} | {_shown(facts['epoch'])} | {_shown(facts['score'])} |"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else "-"
