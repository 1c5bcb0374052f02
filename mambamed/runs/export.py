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

import atexit
import hashlib
import re
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mambamed
from mambamed.documents.run import ModelIndex, ModelMember
from mambamed.errors import DatasetError, ModelError
from mambamed.io.atomic import open_atomic
from mambamed.io.json_files import json_text, parse_json
from mambamed.recipe import Recipe, dump_recipe
from mambamed.runs import calibration, thresholds
from mambamed.runs.checkpoint import Checkpoint, encode_checkpoint, read_checkpoint
from mambamed.runs.folder import Run

SUFFIX = ".mambamed"

_INDEX = "model.json"
_NEEDED = ("recipe.yaml", "plan.json", "dataset.json")
_WEIGHTS = "checkpoint_best.safetensors"
_TAUGHT = (thresholds.NAME, calibration.NAME)
_DOCUMENT = re.compile(
    r"model\.json|card\.md|recipe\.yaml|plan\.json|dataset\.json"
    rf"|fold_\d{{1,4}}/({'|'.join(map(re.escape, _TAUGHT))})"
)
_TENSORS = re.compile(r"fold_\d{1,4}/checkpoint_best\.safetensors")
_LARGEST_DOCUMENT = 2**22
_MOST_MEMBERS = 1000
_BLOCK = 2**20
_STAMP = (1980, 1, 1, 0, 0, 0)  # the same run gives the same bytes
# what zipfile raises of an archive that cannot be; RuntimeError: encrypted, packed in an unknown way
_DAMAGE = (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError)


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
    folds: tuple[int, ...]
    bytes: int
    sha256: str
    next_command: str


def export_model(
    run_folder: Path, output: Path | None = None, *, folds: str = "all", checkpoint: str = "best"
) -> ExportSummary:
    """Write a run as one file that predicts as the run does, bit for bit.

    Args:
        run_folder: what `train` wrote.
        output: the file, `*.mambamed` (default: `model.mambamed` in the run folder).
        folds: "all" that are trained, or numbers, e.g. "0,2".
        checkpoint: "best" or "last"; the file contains one per fold. Of a run with a moving average of the
            weights, the average is written.

    Raises:
        ModelError: no such run, fold or checkpoint, or another suffix.
        RunError: the file cannot be written.
    """
    run = Run.open(run_folder)
    output = output or run_folder / f"model{SUFFIX}"
    if output.suffix != SUFFIX:
        raise ModelError(f"{output}: the name of a model file ends in {SUFFIX}. Use -o model{SUFFIX}.")
    numbers = run.chosen_folds(folds)
    members: dict[str, ModelMember] = {}
    with open_atomic(output) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def put(name: str, data: bytes) -> None:
            members[name] = ModelMember(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            _put(archive, name, data)

        put("recipe.yaml", dump_recipe(_published(run.recipe)).encode())
        put("plan.json", json_text(run.plan.to_json()).encode())
        put("dataset.json", json_text(run.manifest.to_json()).encode())
        lines = []
        for fold in numbers:  # one at a time in memory
            content = read_checkpoint(run.checkpoint(fold, checkpoint), parts=("network", "ema"))
            lines.append(_card_line(fold, content))
            put(f"fold_{fold}/{_WEIGHTS}", _weights(content, checkpoint))
            for name in _TAUGHT:
                path = run.fold_folder(fold) / name
                if path.is_file():
                    put(f"fold_{fold}/{name}", path.read_bytes())
        put("card.md", _card(run, lines).encode())
        index = ModelIndex(version=mambamed.__version__, run=run.recipe.name, members=members)
        _put(archive, _INDEX, json_text(index.to_json()).encode())
    digest = hashlib.sha256()
    with output.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return ExportSummary(
        output=output,
        folds=tuple(numbers),
        bytes=output.stat().st_size,
        sha256=digest.hexdigest(),
        next_command=f"mambamed {run.task.verb} {output} IMAGES",
    )


def open_model(model: Path) -> Run:
    """A run folder, or a one-file model, as a `Run`.

    The members of a file are checked and unpacked into a folder of this process, which goes with it.

    Raises:
        ModelError: it is neither, or it is damaged.
    """
    if not model.is_file():
        return Run.open(model)
    folder = _unpacked(model)
    try:
        return Run.open(folder)
    except BaseException:
        shutil.rmtree(folder.parent, ignore_errors=True)
        raise


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    with archive.open(zipfile.ZipInfo(name, _STAMP), "w", force_zip64=len(data) >= 2**31) as member:
        member.write(data)


def _unpacked(path: Path) -> Path:
    root = Path(tempfile.mkdtemp(prefix="mambamed-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    folder = root / (path.stem or "model")
    try:
        with path.open("rb") as file, _archive(file, path) as archive:
            index = _index(archive, path)
            for info in archive.infolist():
                target = folder.joinpath(*info.filename.split("/"))  # a name of the fixed list
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as out:
                    _copy(archive, info, index, path, out)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    return folder


def _archive(file: Any, path: Path) -> zipfile.ZipFile:
    """The zip, if its list of members is one that `export_model` could have written."""
    try:
        archive = zipfile.ZipFile(file)
    except _DAMAGE as error:
        raise ModelError(
            f"{path}: is not a complete model file ({error}). Give a run folder or copy the file again."
        ) from error
    infos, total = archive.infolist(), path.stat().st_size
    if len(infos) > _MOST_MEMBERS:
        raise ModelError(f"{path}: has {len(infos)} members, so it is not a model file of mambamed.")
    seen: set[str] = set()
    for info in infos:
        name = info.orig_filename
        fact = ""
        if not (_DOCUMENT.fullmatch(name) or _TENSORS.fullmatch(name)):
            fact = "is not part of a model"
        elif name in seen:
            fact = "occurs twice"
        elif info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
            fact = "is compressed or encrypted"
        elif info.file_size != info.compress_size or info.file_size > total:
            fact = f"claims {info.file_size} bytes in a file of {total}"
        elif _DOCUMENT.fullmatch(name) and info.file_size > _LARGEST_DOCUMENT:
            fact = f"is a document of {info.file_size} bytes"
        elif info.external_attr >> 28 == 0xA:
            fact = "is a link"
        if fact:
            raise ModelError(f"{path}: member {name!r} {fact}. Do not trust this file.")
        seen.add(name)
    absent = [name for name in (_INDEX, *_NEEDED) if name not in seen]
    if absent:
        raise ModelError(
            f"{path}: is not a model file of mambamed: no {absent[0]}. Give a file that 'export' wrote."
        )
    return archive


def _index(archive: zipfile.ZipFile, path: Path) -> ModelIndex:
    try:
        index = ModelIndex.checked(parse_json(archive.read(_INDEX).decode(), path), path / _INDEX)
    except (*_DAMAGE, DatasetError) as error:
        raise ModelError(f"{path}: {_INDEX} cannot be read ({error}). Copy the file again.") from error
    there = {info.filename: info.file_size for info in archive.infolist() if info.filename != _INDEX}
    if there != {name: member.bytes for name, member in index.members.items()}:
        raise ModelError(f"{path}: members: expected those listed in {_INDEX}. Copy the file again.")
    return index


def _copy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, index: ModelIndex, path: Path, out: Any) -> None:
    digest = hashlib.sha256()
    try:
        with archive.open(info) as member:
            while block := member.read(_BLOCK):
                digest.update(block)
                out.write(block)
    except _DAMAGE as error:
        raise ModelError(f"{path}: {info.filename}: corrupt ({error}). Copy the file again.") from error
    if info.filename != _INDEX and digest.hexdigest() != index.members[info.filename].sha256:
        raise ModelError(
            f"{path}: {info.filename}: its sha256 differs from the recorded one. Copy the file again."
        )


def _weights(content: Checkpoint, checkpoint: str) -> bytes:
    """The weights that prediction would load, and how they came to be."""
    weights = content.part("ema") or content.part("network")
    facts = {**content.facts, "exported": checkpoint}
    return encode_checkpoint({f"network.{name}": tensor for name, tensor in weights.items()}, facts)


def _published(recipe: Recipe) -> Recipe:
    """The recipe without the place of the training data on its author's disk."""
    return recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"prepared": None})})


def _card(run: Run, folds: Sequence[str]) -> str:
    recipe, manifest, plan = run.recipe, run.manifest, run.plan
    answers = manifest.foreground or manifest.landmarks or manifest.classes
    spacing = " × ".join(f"{edge:g}" for edge in plan.spacing_mm)
    lines = [
        f"# {recipe.name}",
        "",
        f"- task: {recipe.task}",
        f"- network: {recipe.network.name}",
        f"- trained on: {manifest.name}",
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


def _card_line(fold: int, content: Checkpoint) -> str:
    count = sum(tensor.numel() for tensor in content.part("network").values())
    counters = content.facts.get("counters", {})  # of a checkpoint "last"
    facts = {"epoch": counters.get("best_epoch"), "score": counters.get("best_score"), **content.facts}
    return f"| {fold} | {count / 1e6:.2f} | {_shown(facts['epoch'])} | {_shown(facts['score'])} |"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else "-"
