"""The run folder: what was asked, on what, and where each fold's results lie. No torch.

```
RUN/ recipe.yaml     the recipe, every default filled in     plan.json   the plan, no "auto" left
     dataset.json    the dataset's manifest                  run.json    versions, seeds, backend, device
     fold_0/ log.csv progress.png train.log checkpoint_last.safetensors checkpoint_best.safetensors
             validation_patches.png validation/CASE.nii.gz cases.csv summary.json
```
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambamed.documents.manifest import DatasetManifest, agreed_manifest
from mambamed.documents.plan import Plan
from mambamed.documents.prepared import check_channels
from mambamed.documents.run import FoldRecord, RunRecord
from mambamed.documents.splits import NO_FOLD, FoldName
from mambamed.errors import DatasetError, MambamedError, ModelError, RecipeError, RunError
from mambamed.io.atomic import remove_leftovers, write_text
from mambamed.io.lock import folder_lock, is_locked, waiting_lock
from mambamed.io.members import Member, Source
from mambamed.io.ownership import Output
from mambamed.io.text_files import read_text
from mambamed.numerals import is_whole
from mambamed.recipe import Recipe, dump_recipe, parse_recipe_of_run
from mambamed.schema_errors import shortened
from mambamed.tasks.sides import answers_of, decided_mirroring

if TYPE_CHECKING:
    from mambamed.tasks.base import Task

CHECKPOINTS = ("best", "last")
PATCHES = "validation_patches.png"
_CHECKPOINT = re.compile(rf"fold_(0|[1-9][0-9]*|{NO_FOLD})/checkpoint_({'|'.join(CHECKPOINTS)})\.safetensors")
_DOCUMENTS = ("recipe.yaml", "plan.json", "dataset.json", "run.json")
_FOLD_FILES = (
    *(f"checkpoint_{name}.safetensors" for name in CHECKPOINTS),
    *("log.csv", "train.log", "progress.png", PATCHES, "cases.csv", "summary.csv", "summary.json"),
)
_AFTER_TRAINING = {"evaluation", "inference", "paper"}  # sections that do not change what is learned


@dataclass(frozen=True)
class Run:
    """One training of a recipe, on disk.

    Attributes:
        root: its folder, or its model file.
        recipe: what was asked, every default filled in.
        plan: the prepared dataset's plan with the recipe's patch and batch size in it.
        manifest: what the cases have: channels, labels, regions.
        members: of a model file, by their names in a run folder; None for a folder.
    """

    root: Path
    recipe: Recipe
    plan: Plan
    manifest: DatasetManifest
    members: Mapping[str, Member] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def open(cls, root: Path, members: Mapping[str, Member] | None = None) -> Run:
        """Read a run folder, or the members of a model file.

        Raises:
            ModelError: it is not one, or one of its files cannot be read.
        """
        found = [_source(root, members, name) for name in ("recipe.yaml", "plan.json", "dataset.json")]
        recipe_file, plan_file, manifest_file = found
        if recipe_file is None or plan_file is None or manifest_file is None:
            absent = ("recipe.yaml", "plan.json", "dataset.json")[found.index(None)]
            raise ModelError(f"{root}: {_what_instead(root, absent)}")
        try:
            recipe = parse_recipe_of_run(read_text(recipe_file), str(recipe_file))
        except RecipeError as error:
            line = str(error).rstrip(".")
            raise ModelError(f"{line}. Use the version of mambamed that wrote the run.") from error
        except DatasetError as error:
            raise ModelError(str(error)) from error
        try:
            plan, manifest = Plan.read(plan_file), DatasetManifest.read(manifest_file)
        except DatasetError as error:
            raise ModelError(str(error)) from error
        check_channels(plan, manifest, plan_file, ModelError)
        _check_answers(recipe, manifest, manifest_file)
        _check_names(recipe, manifest, str(recipe_file), ModelError)
        return cls(root, recipe, plan, manifest, members)

    @cached_property
    def task(self) -> Task:
        """The task of the recipe, for the labels, landmarks or classes of the manifest; imports torch."""
        from mambamed.tasks.base import task_for

        return task_for(self.recipe, self.manifest, self.plan.spacing_mm)

    @property
    def folds(self) -> list[FoldName]:
        """The folds that have a checkpoint, sorted; "none", if it is among them, last."""
        names = self.members
        if names is None:
            names = [path.relative_to(self.root).as_posix() for path in self.root.glob("fold_*/checkpoint_*")]
        found = {match[1] for name in names if (match := _CHECKPOINT.fullmatch(name))}
        numbers: list[FoldName] = sorted(int(name) for name in found if name != NO_FOLD)
        return [*numbers, NO_FOLD] if NO_FOLD in found else numbers

    def chosen_folds(self, folds: str) -> list[FoldName]:
        """Trained folds.

        Args:
            folds: "all" that are trained, or names, e.g. "0,2" or "none".

        Raises:
            ModelError: nothing is trained, or one of them is not.
            RecipeError: other words.
        """
        trained = self.folds
        if not trained:
            raise ModelError(f"{self.root}: has no trained fold. Train it first.")
        if folds == "all":
            return trained
        asked = [part.strip() for part in folds.split(",")]
        if not all(is_whole(part) or part == NO_FOLD for part in asked):
            raise RecipeError(f"--folds {folds}: expected all, none or numbers. Write e.g. 0,2.")
        chosen = {NO_FOLD if part == NO_FOLD else int(part) for part in asked}
        if missing := [fold for fold in chosen if fold not in trained]:
            known = ", ".join(map(str, trained))
            raise ModelError(f"{self.root}: fold {missing[0]} is not trained. Trained folds: {known}.")
        return [fold for fold in trained if fold in chosen]

    def fold_folder(self, fold: FoldName) -> Path:
        """Where the results of a fold lie."""
        return self.root / f"fold_{fold}"

    def checkpoint(self, fold: FoldName, name: str = "best") -> Path:
        """The file of a fold's checkpoint, "best" or "last"; it need not exist."""
        return self.fold_folder(fold) / _file(name)

    def find(self, name: str) -> Source | None:
        """A file of the run to be read, e.g. "fold_0/thresholds.json"; None if there is none."""
        return _source(self.root, self.members, name)

    def weights(self, fold: FoldName, checkpoint: str = "best") -> Source:
        """A fold's checkpoint to be read.

        Raises:
            ModelError: there is none.
        """
        name = f"fold_{fold}/{_file(checkpoint)}"
        found = self.find(name)
        if found is None:
            there = ", ".join(f"fold {each}" for each in self.folds) or "no fold"
            where = self.root / name if self.members is None else f"{self.root}: {name}"
            one = "" if self.members is None else " A model file has one checkpoint per fold: use best."
            raise ModelError(f"{where}: no such checkpoint. {self.root} has {there}.{one}")
        return found

    def is_validated(self, fold: FoldName) -> bool:
        """Whether whole cases are scored: after the best checkpoint was written, by the recipe as it is."""
        summary, best = self.fold_folder(fold) / "summary.json", self.checkpoint(fold, "best")
        if not summary.is_file() or not best.is_file():
            return False
        before = max(path.stat().st_mtime_ns for path in (best, self.root / "recipe.yaml"))
        return summary.stat().st_mtime_ns >= before

    def is_finished(self, fold: FoldName) -> bool:
        """Whether the fold is trained to the end, and validated if it has validation cases."""
        return self.is_validated(fold) or bool(self.recorded(fold).get("finished"))

    def record(self, fold: FoldName, facts: Mapping[str, Any]) -> None:
        """Write the facts of one fold's training into run.json, and keep those of the other folds."""
        path = self.root / "run.json"
        with waiting_lock(self.root):  # other processes may train other folds
            folds = {**self._known().folds, str(fold): FoldRecord.checked(dict(facts), path)}
            RunRecord(recipe=self.recipe.name, folds=dict(sorted(folds.items()))).write(path)

    def recorded(self, fold: FoldName) -> dict[str, Any]:
        """What `record` wrote of this fold; empty if nothing was.

        Raises:
            ModelError: run.json has faults.
        """
        known = self._known().folds.get(str(fold))
        return known.model_dump(mode="json", exclude_unset=True) if known else {}

    def _known(self) -> RunRecord:
        path = self.root / "run.json"
        return RunRecord.read(path) if path.is_file() else RunRecord()


def _what_instead(root: Path, absent: str) -> str:
    """What a path is that is not a run, and what to give."""
    if not root.exists():
        return "no such run folder or model file. Check the path."
    if root.name.startswith("fold_") and (root.parent / "recipe.yaml").is_file():
        number = root.name.removeprefix("fold_")
        return f"is one fold of a run. Give the run, {root.parent}; --folds {number} chooses the fold."
    if inner := sorted(path.parent for path in root.glob("*/recipe.yaml")):
        return f"is not a run folder, but contains {len(inner)}. Give one of them, e.g. {inner[0]}."
    return f"is not a run folder: no {absent}. Give a folder that 'train' wrote."


def planned_run(
    recipe: Recipe, plan: Plan, manifest: DatasetManifest, root: Path, *, as_trained: bool = False
) -> Run:
    """The run that a recipe means on a prepared dataset; nothing is written.

    Args:
        recipe: the recipe; its patch and batch size override the plan's.
        plan: the prepared dataset's.
        manifest: the prepared dataset's; the recipe's labels and channels must agree with it, its regions
            replace the dataset's.
        root: the folder that the run will have. What a run that is already there does in mirrored images
            stays as it is.
        as_trained: whether the recipe says all that mirrored images change, so that no pairs are looked for.

    Raises:
        RecipeError: recipe and dataset do not agree.
    """
    plan = plan.changed(
        patch_size=recipe.training.patch_size or plan.patch_size,
        batch_size=recipe.training.batch_size or plan.batch_size,
    )
    agreed = agreed_manifest(manifest, recipe, choose=True)
    _check_names(recipe, agreed, f"recipe {recipe.name}", RecipeError)
    if not as_trained and not _mirrors_as_before(recipe, root):
        recipe = decided_mirroring(recipe, agreed)[0]
    return Run(root, recipe, plan, agreed)


def _mirrors_as_before(recipe: Recipe, root: Path) -> bool:
    """Whether a run is there that treats mirrored images as a recipe says, word for word."""
    if not (root / "recipe.yaml").is_file():
        return False
    try:
        known = Run.open(root).recipe
    except ModelError:
        return False
    return (known.dataset.mirror_pairs, known.training.augment.mirror) == (
        recipe.dataset.mirror_pairs,
        recipe.training.augment.mirror,
    )


def check_writing(root: Path, folds: Sequence[FoldName], inputs: Sequence[Path] = ()) -> Output:
    """Check that folds of a run, which may be new, can be written; errors are those of `writing`."""
    place = Output(root, "run", inputs, older=_files_of_version_0_1, signals=("STOP",))
    place.check([*_DOCUMENTS, *(f"fold_{fold}/{name}" for fold in folds for name in _FOLD_FILES)])
    return place


@contextmanager
def writing(root: Path, folds: Sequence[FoldName], inputs: Sequence[Path] = ()) -> Iterator[None]:
    """Hold folds of a run, which may be new, for writing; other processes may train its other folds.

    Raises:
        RecipeError: the folder is not a run, or a file in the way is somebody else's.
        RunError: another process writes one of the folds, or the folder cannot be written.
    """
    place = check_writing(root, folds, inputs)
    with ExitStack() as locks:
        with waiting_lock(root):
            place.begin()
            remove_leftovers(root)
        for fold in folds:
            locks.enter_context(folder_lock(root / f"fold_{fold}"))
        yield


def _files_of_version_0_1(root: Path) -> list[str]:
    """What mambamed 0.1.0, which kept no list of its files, wrote into a run."""
    try:
        Run.open(root)
    except MambamedError:
        return []
    of_folds = (path for path in root.glob("fold_*/**/*") if path.is_file())
    return [*_DOCUMENTS, "model.mambamed", *(path.relative_to(root).as_posix() for path in of_folds)]


def create_run(
    run: Run,
    say: Callable[[str], None] | None = None,
    extend: bool = False,
    folds: Sequence[FoldName] = (),
    notes: Sequence[str] = (),
) -> Run:
    """Write a planned run's documents, or find that they exist; see `writing`.

    The sections of the recipe that training does not read may have changed; recipe.yaml is then updated.

    Args:
        run: from `planned_run`.
        say: optional callback that receives a line about such a change.
        extend: whether the number of epochs may have changed.
        folds: that this process holds.
        notes: lines about a new recipe, which become comments in recipe.yaml.

    Raises:
        RecipeError: the folder holds another run.
        RunError: the recipe changes while another process trains another fold.
    """
    with waiting_lock(run.root):
        return _written(run, say, extend, {run.fold_folder(fold) for fold in folds}, notes)


def _written(
    run: Run, say: Callable[[str], None] | None, extend: bool, held: Container[Path], notes: Sequence[str]
) -> Run:
    root, recipe, plan, manifest = run.root, run.recipe, run.plan, run.manifest
    if (root / "recipe.yaml").is_file():
        other = Run.open(root)
        changed = _changed_keys(other.recipe.model_dump(), recipe.model_dump())
        free = {*_AFTER_TRAINING, *(["training.epochs"] if extend else [])}
        trained = [key for key in changed if not {key, key.partition(".")[0]} & free]
        if other.plan != plan:
            trained.append("the plan")
        if other.manifest.name != manifest.name:
            trained.append("the dataset's name")
        if difference := other.manifest.difference(manifest):
            trained.append(f"the dataset's {difference}")
        if trained:
            raise RecipeError(
                f"{root}: holds another run, which differs in {', '.join(trained[:5])}. Give another -o."
            )
        for folder in root.glob("fold_*") if changed else ():
            if folder not in held and is_locked(folder):
                raise RunError(f"{folder}: is being trained. Wait for it before the recipe is changed.")
        if changed:
            write_text(root / "recipe.yaml", dump_recipe(recipe))
            if say:
                say(f"recipe {', '.join(changed)}: changed since the run began; recipe.yaml is updated")
        return run
    plan.write(root / "plan.json")
    manifest.write(root / "dataset.json")
    # the last one: it makes the folder a run
    write_text(root / "recipe.yaml", "".join(f"# {line}\n" for line in notes) + dump_recipe(recipe))
    return run


def _check_answers(recipe: Recipe, manifest: DatasetManifest, path: Source) -> None:
    """Check that the manifest has what the recipe says and what its task answers.

    Raises:
        ModelError: it has not.
    """
    for key in ("channels", "labels", "regions", "landmarks", "classes"):
        asked, found = getattr(recipe.dataset, key), getattr(manifest, key)
        in_order = key in {"channels", "regions"} and list(asked or ()) != list(found)
        if asked is not None and (asked != found or in_order):
            fact = f"expected those of the recipe, {shortened(asked)}, got {shortened(found)}"
            raise ModelError(f"{path}: {key}: {fact}. Copy the run again.")
    answers = {
        "segmentation": ("labels", 1, manifest.foreground),
        "landmarks": ("landmarks", 1, manifest.landmarks),
        "classification": ("classes", 2, manifest.classes),
    }
    key, least, found = answers.get(recipe.task, ("", 0, ()))
    if len(found) < least:
        fact = f"expected at least {least} for the task {recipe.task}, got {len(found)}"
        raise ModelError(f"{path}: {key}: {fact}. Copy the run again.")


def _check_names(recipe: Recipe, manifest: DatasetManifest, where: str, kind: type[MambamedError]) -> None:
    """Check that what the recipe postprocesses or pairs is predicted; raises `kind` if a name is unknown."""
    named: dict[str, tuple[Iterable[str], Iterable[str]]] = {
        f"inference.postprocess.{key}": (names, manifest.foreground)
        for key, names in recipe.inference.postprocess
    }
    known = {*answers_of(recipe, manifest), *(manifest.labels if recipe.task == "segmentation" else ())}
    named["dataset.mirror_pairs"] = chain(*recipe.dataset.mirror_pairs), known
    for key, (names, known) in named.items():
        if unknown := [name for name in names if name not in known]:
            fact = f"{shortened(unknown[0])} is not predicted; expected one of {', '.join(known)}"
            raise kind(f"{where}: {key}: {fact}. Correct the name.")


def _source(root: Path, members: Mapping[str, Member] | None, name: str) -> Source | None:
    if members is not None:
        return members.get(name)
    return path if (path := root / name).is_file() else None


def _file(checkpoint: str) -> str:
    if checkpoint not in CHECKPOINTS:
        raise ValueError(f"{checkpoint!r}: a checkpoint is one of {', '.join(CHECKPOINTS)}")
    return f"checkpoint_{checkpoint}.safetensors"


def _changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    changed: list[str] = []
    for key in [*old, *(key for key in new if key not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            changed += _changed_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            changed.append(f"{prefix}{key}")
    return changed
