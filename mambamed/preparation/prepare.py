"""`prepare`: a raw dataset becomes one that can be trained on.

Two passes over the cases: every one is examined before anything is written, then every one is stored. Both
run in processes of one thread each. dataset.json is written last: a folder without it is not finished.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mambamed.cases import Case, ChannelFile, differ_in_case_alone
from mambamed.cores import cores
from mambamed.documents.account import Account
from mambamed.documents.manifest import DatasetManifest, RawDataset, agreed_manifest, named_by_recipe_alone
from mambamed.documents.plan import Plan
from mambamed.documents.prepared import CaseEntry, CaseRecord, Fingerprint, ImageFile, PreparedIndex
from mambamed.documents.segment_names import with_segment_names
from mambamed.documents.splits import Splits
from mambamed.errors import CaseError, DatasetError, MambamedError, RecipeError
from mambamed.io.atomic import flush_all, remove_leftovers
from mambamed.io.ledger import foreign_file
from mambamed.io.ownership import Output
from mambamed.io.write_errors import check_space
from mambamed.memory import memory_bytes
from mambamed.preparation.examine import Examined, bytes_needed, examine, summary_of
from mambamed.preparation.examine_answers import faults_of_classes
from mambamed.preparation.losses import warning_of_losses, write_losses
from mambamed.preparation.options import parse_bytes, preprocess_settings
from mambamed.preparation.planning import make_plan, planned_spacing
from mambamed.preparation.pool import Pool, Workers, over_cases
from mambamed.preparation.reading import FixGeometry
from mambamed.preparation.resample import fitting_shape, resampled_shape
from mambamed.preparation.splits import (
    Fold,
    Member,
    classes_absent,
    groups_of,
    make_splits,
    stratified,
)
from mambamed.preparation.store import FORMAT
from mambamed.preparation.store_case import store_case
from mambamed.progress import Progress, Silence
from mambamed.recipe import Preprocess, Recipe, Split, shipped_recipes
from mambamed.report.contact_sheet import write_index
from mambamed.report.planes import color_of
from mambamed.terminal import command_line

_WORTH_PROCESSES = 64 * 2**20  # a second of work; a process takes about that to start
_ENDS = {
    "cases": (".b2nd", ".label.b2nd", ".foreground.npy", ".json"),
    "references": (".nii.gz",),
    "qc": (".png",),
}
_ALL_CASES = {"qc": ("index.html", "losses.csv")}
_DOCUMENTS = ("dataset.json", "plan.json", "splits.json", "fingerprint.json")


@dataclass(frozen=True)
class Finding:
    """One line about one case.

    Attributes:
        case: its id; the dataset's name for what concerns all of them.
        kind: "fault" forbids its use, "warning" does not.
        line: file, fact, and what to do.
    """

    case: str
    kind: str
    line: str


@dataclass(frozen=True)
class PreparedSummary:
    """What `prepare` did.

    Attributes:
        output: the prepared dataset.
        manifest: channels, labels, regions.
        plan: spacing, patch, normalization; None where only a check was asked for.
        cases: number of cases that can be used.
        test_cases: number of these that are in a test part.
        findings: all that was found, of every case.
        faults: what is wrong, a line each; such cases are left out.
        seconds: wall time.
        next_command: what to do next.
        recipe_command: makes a recipe for the dataset; empty if it was prepared with one.
        estimate: of the cost of a training, one line; may be empty.
        account: which files of the source were read.
    """

    output: Path
    manifest: DatasetManifest
    plan: Plan | None
    cases: int
    test_cases: int
    findings: tuple[Finding, ...]
    faults: tuple[str, ...]
    seconds: float
    next_command: str
    recipe_command: str = ""
    estimate: str = ""
    account: Account | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful, a line each."""
        return tuple(found.line for found in self.findings if found.kind == "warning")


def prepare(
    raw: RawDataset,
    output: Path,
    *,
    recipe: Recipe | None = None,
    recipe_named: str | None = None,
    spacing: str | None = None,
    split: Split | None = None,
    splits: Path | None = None,
    fix_geometry: FixGeometry = "none",
    qc: bool = True,
    workers: int = 0,
    max_ram: str | None = None,
    check_only: bool = False,
    skip_faulty: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    elsewhere: Workers | None = None,
) -> PreparedSummary:
    """Verify, crop, normalize, resample, plan, split and store a dataset.

    Args:
        raw: what a converter found.
        output: the prepared dataset; an earlier preparation of the same source is continued or updated.
        recipe: gives the preprocess section, the split, and regions.
        recipe_named: how commands name it, for the next one.
        spacing: "median", "keep" or "x,y,z" in mm; overrides the recipe.
        split: how to split the cases; overrides the recipe.
        splits: a file of splits (nnU-Net's format); overrides both, so that only `split.group_by` counts.
        fix_geometry: what may be done with channels and labels on another grid than their first channel.
        qc: draw every case into qc/.
        workers: number of processes; 0 = one per core, as far as `max_ram` allows, or none but this one if
            there are so few files that starting others would take longer.
        max_ram: memory for all processes together, e.g. "8G" (default: half of the machine's).
        check_only: verify, write nothing.
        skip_faulty: leave faulty cases out and go on, instead of stopping before any work.
        overwrite: replace the prepared dataset of another source.
        progress: optional callback that receives progress updates.
        elsewhere: where the cases are done (default: in processes of this machine).

    Raises:
        DatasetError: cases are faulty (a line each), or none is left; a split that cannot be.
        RecipeError: an option or the recipe does not fit the dataset.
        RunError: the folder is in use, or the disk full.
    """
    began, progress = time.monotonic(), progress or Silence()
    settings = preprocess_settings(recipe, spacing)
    manifest = agreed_manifest(raw.manifest, recipe, choose=False, source=raw.source)
    split = split or (recipe.dataset.split if recipe else Split())
    split = stratified(split, manifest, recipe.task if recipe else None)
    if line := named_by_recipe_alone(raw.manifest, recipe):
        progress.say(f"{manifest.name}: {line}")
    raw = replace(raw, cases=with_segment_names(raw.cases, manifest))
    if workers < 0:
        raise RecipeError(f"--workers {workers}: expected a number of processes, or 0 for one per core.")
    memory = parse_bytes(max_ram) if max_ram else memory_bytes() // 2
    count = workers or (cores() if _bytes_of(raw.cases) > _WORTH_PROCESSES else 1)
    pool = elsewhere.pool if elsewhere else None
    if elsewhere:
        count = elsewhere.number
    elif max_ram or count > 1:
        count = _within(memory, count, raw.cases, progress)

    place = Output(
        output,
        "prepared dataset",
        inputs=[raw.source] if raw.source else [],
        source=str(raw.source.resolve()) if raw.source else "",
        overwrite=overwrite,
        older=_files_of_version_0_1,
        edited=_DOCUMENTS,
    )

    def summary(
        plan: Plan | None, cases: int, findings: list[Finding], faults: list[str], test_cases: int = 0
    ) -> PreparedSummary:
        following = command_line("train", "-d", output, "-o", Path("runs") / output.name)
        if recipe is not None:
            named = recipe_named or (recipe.name if recipe.name in shipped_recipes() else "RECIPE")
            following = command_line("train", named, "-d", output)
        new = "" if recipe else command_line("recipes", "new", "-d", output, "-o", f"{output.name}.yaml")
        seconds, found = time.monotonic() - began, tuple(findings)
        numbers = (cases, test_cases, found, tuple(faults), seconds)
        return PreparedSummary(output, manifest, plan, *numbers, following, new, account=raw.account)

    if raw.account and raw.account.line:
        progress.say(f"{raw.source}: {raw.account.line}")
    with nullcontext() if check_only else place.locked() as ledger:
        examined = _examine_all(raw.cases, manifest, fix_geometry, count, progress, pool)
        if settings.spacing != "keep":
            most = memory if max_ram else memory_bytes()
            examined = _with_sizes_checked(examined, raw.cases, settings, most)
        good = [case for case in raw.cases if not examined[case.id].faults]
        alike = faults_of_classes(manifest, [case.class_name for case in good]) if good else []
        findings = [*_findings(examined), *(Finding(manifest.name, "warning", line) for line in raw.warnings)]
        findings += [*(Finding(manifest.name, "fault", line) for line in alike)]
        faults = [found.line for found in findings if found.kind == "fault"]
        if ledger is None:
            return summary(None, len(good), findings, faults)
        if faults and (alike or not (skip_faulty and good)):
            _tell(findings, progress)
            raise DatasetError("\n".join(faults))

        plan = make_plan(manifest, [examined[case.id] for case in good], settings)
        stored = sum(path.stat().st_size for path in (output / "cases").glob("*.b2nd"))
        check_space(output, _least_bytes(good, examined, plan) - stored, "the prepared cases")
        members = {case.id: _member(case, examined[case.id]) for case in good}
        folds = (
            Splits.read_for(splits, groups_of(members, split.group_by), split.group_by)
            if splits
            else make_splits(members, split)
        )
        lines = [] if splits else _less_than_asked(folds, split)
        lines += classes_absent(folds, members, _classes_of(manifest, recipe))
        findings += [Finding(manifest.name, "warning", f"{manifest.name}: {line}") for line in lines]
        if line := _about_persons(members):
            progress.say(f"{manifest.name}: {line}")
        _tell(findings, progress)
        folders = ("cases", "references", *(["qc"] if qc else []))
        if path := ledger.foreign(_files_of(folders, examined)):
            raise foreign_file(path)
        ledger.add(_files_of(folders, [case.id for case in good]))
        ledger.made_from(place.source)
        ledger.remove("dataset.json")
        for name in folders:
            (output / name).mkdir(exist_ok=True)
            remove_leftovers(output / name)
        progress.start("preparing", len(good), "cases")
        records: dict[str, CaseRecord] = {}
        work = [(case, plan, output, fix_geometry, manifest if qc else None) for case in good]
        for case, record in over_cases(store_case, work, count, progress, pool):
            if isinstance(record, CaseError):
                faults.append(str(record))
                findings.append(Finding(case.id, "fault", str(record)))
            else:
                records[case.id] = record
        entries = {case_id: record.entry for case_id, record in records.items()}
        if not entries:
            raise DatasetError("\n".join(faults))
        wanted = _files_of(folders, entries)
        for name in sorted(ledger.refresh().names - wanted):
            if name.partition("/")[0] in folders:  # of a case that is no longer part of the dataset
                ledger.remove(name)
        if qc:
            _write_index(output / "qc" / "index.html", manifest, entries, examined)
            write_losses(output / "qc" / "losses.csv", manifest, records)
        spacings = {case_id: seen.spacing_mm for case_id, seen in examined.items()}
        if line := warning_of_losses(manifest, records, spacings):
            findings.append(Finding(manifest.name, "warning", f"{manifest.name}: {line}"))
            _tell(findings[-1:], progress)
        kept = [{part: [i for i in ids if i in entries] for part, ids in fold.items()} for fold in folds]
        Fingerprint(cases=tuple(summary_of(examined[case.id]) for case in good)).write(
            output / "fingerprint.json"
        )
        plan.write(output / "plan.json")
        Splits.of(kept, output / "splits.json").write(output / "splits.json")
        flush_all()
        cases = tuple(entries[case_id] for case_id in sorted(entries))
        fields: dict[str, Any] = {name: getattr(manifest, name) for name in DatasetManifest.model_fields}
        images = {case.id: tuple(map(_image_file, case.channels)) for case in good if case.id in entries}
        fields |= {"prepared_format": FORMAT, "group_by": split.group_by, "cases": cases, "images": images}
        fields |= {"account": raw.account} if raw.account else {}
        index = PreparedIndex(**fields)
        index.write(output / "dataset.json")
    test = {case_id for fold in kept for case_id in fold.get("test", ())}
    return summary(plan, len(entries), findings, faults, len(test))


def _image_file(channel: ChannelFile) -> ImageFile:
    """Of a DICOM series in one folder, one file stands for all."""
    image = ImageFile(path=str(channel.path.absolute()), volume=channel.volume)
    if len({file.parent for file in channel.files}) < 2:
        return image
    files = tuple(str(file.absolute()) for file in channel.files)
    return ImageFile(path=image.path, volume=image.volume, files=files)


def _within(memory: int, workers: int, cases: Sequence[Case], progress: Progress) -> int:
    """Number of workers that can each hold the largest case; warns if not even one can."""
    needed, case_id = max(((bytes_needed(case), case.id) for case in cases), default=(0, ""))
    if needed > memory:
        gib = f"{needed / 2**30:.2g} GiB of memory, more than the {memory / 2**30:.2g} allowed"
        progress.say(f"warning: {case_id}: takes about {gib}; one case at a time is prepared")
    return max(1, min(workers, memory // max(needed, 1)))


def _examine_all(
    cases: Sequence[Case],
    manifest: DatasetManifest,
    fix: FixGeometry,
    workers: int,
    progress: Progress,
    pool: Pool | None,
) -> dict[str, Examined]:
    """Case id -> what a look at it found, sorted by id."""
    progress.start("checking", len(cases), "cases")
    examined: dict[str, Examined] = {}
    work = [(case, manifest, fix) for case in cases]
    for case, seen in over_cases(examine, work, workers, progress, pool):
        examined[case.id] = seen if isinstance(seen, Examined) else Examined(case.id, (str(seen),))
    return dict(sorted(examined.items()))


def _with_sizes_checked(
    examined: Mapping[str, Examined], cases: Sequence[Case], settings: Preprocess, memory: int
) -> dict[str, Examined]:
    """What was found, and a fault of each case whose resampled image the memory does not hold."""
    good = [seen for seen in examined.values() if not seen.faults]
    spacing = planned_spacing(good, settings) if good else (1.0, 1.0, 1.0)
    channels = {case.id: case.channels for case in cases}
    checked = dict(examined)
    for seen in good:
        files = channels[seen.case_id]
        try:
            fitting_shape(seen.shape_cropped, seen.spacing_mm, spacing, len(files), memory)
        except CaseError as error:
            checked[seen.case_id] = replace(seen, faults=(f"{files[0].path}: {error}",))
    return checked


def _findings(examined: Mapping[str, Examined]) -> list[Finding]:
    """Every line about every case, one image under two ids among them."""
    faults = [Finding(i, "fault", line) for i, seen in examined.items() for line in seen.faults]
    warnings = [Finding(i, "warning", line) for i, seen in examined.items() for line in seen.warnings]
    first: dict[str, str] = {}
    for case_id, seen in examined.items():
        if seen.content and seen.content in first:
            line = f"{case_id}: holds the same image as {first[seen.content]}: a duplicate"
            warnings.append(Finding(case_id, "warning", line))
        first.setdefault(seen.content, case_id)
    for one, other in differ_in_case_alone(examined):
        line = f"{other}: differs from {one} only in capital letters, which some systems ignore. Rename one."
        warnings.append(Finding(other, "warning", line))
    return [*faults, *warnings]


def _tell(findings: Sequence[Finding], progress: Progress) -> None:
    for found in findings:
        if found.kind == "warning":
            progress.say(f"warning: {found.line}")


def _less_than_asked(folds: Sequence[Fold], split: Split) -> list[str]:
    """What of the split the subjects were too few for."""
    if split.train is None and len(folds) < split.folds:
        return [f"too few subjects for {split.folds} folds: only {len(folds)} are made"]
    if split.test and not folds[0].get("test"):
        return [f"too few subjects for {split.test:g} of them in a test part; there is none"]
    return []


def _classes_of(manifest: DatasetManifest, recipe: Recipe | None) -> tuple[str, ...]:
    """The classes that are learned, if this is known."""
    if recipe is not None:
        return (recipe.dataset.classes or manifest.classes) if recipe.task == "classification" else ()
    return () if manifest.labels or manifest.landmarks else manifest.classes


def _about_persons(members: Mapping[str, Member]) -> str | None:
    count = len({member.subject for member in members.values()})
    return f"{len(members)} cases of {count} subjects" if count < len(members) else None


def _member(case: Case, seen: Examined) -> Member:
    labels = tuple(value for value, voxels in seen.voxels.items() if voxels)
    return Member(case.subject, case.class_name, labels, case.covariates)


def _write_index(
    path: Path,
    manifest: DatasetManifest,
    entries: Mapping[str, CaseEntry],
    examined: Mapping[str, Examined],
) -> None:
    lines = {}
    for case_id in sorted(entries):
        shape = " x ".join(str(n) for n in entries[case_id].shape)
        name = entries[case_id].class_name
        lines[case_id] = [shape, *([f"class {name}"] if name else []), *examined[case_id].warnings]
    legend = {name: color_of(value - 1) for name, value in manifest.labels.items() if value}
    legend |= {name: color_of(number) for number, name in enumerate(manifest.landmarks)}
    write_index(path, manifest.name, lines, legend)


def _bytes_of(cases: Sequence[Case]) -> int:
    """Size of all image files."""
    paths = {path for case in cases for channel in case.channels for path in channel.files or (channel.path,)}
    total = 0
    for path in paths:
        with suppress(OSError):
            total += path.stat().st_size
    return total


def _least_bytes(cases: Sequence[Case], examined: Mapping[str, Examined], plan: Plan) -> int:
    """Size that the prepared images will have at least: float16, compressed to a fifth."""
    seen = ((examined[case.id], len(case.channels)) for case in cases)
    return sum(
        math.prod(resampled_shape(each.shape_cropped, each.spacing_mm, plan.spacing_mm)) * channels * 2 // 5
        for each, channels in seen
    )


def _files_of(folders: Sequence[str], case_ids: Iterable[str]) -> set[str]:
    """Names of all files that the cases may have in these folders."""
    return {
        f"{folder}/{name}"
        for folder, ends in _ENDS.items()
        if folder in folders
        for name in [
            *(f"{case_id}{end}" for case_id in case_ids for end in ends),
            *_ALL_CASES.get(folder, ()),
        ]
    }


def _files_of_version_0_1(folder: Path) -> list[str]:
    """What mambamed 0.1.0, which kept no list of its files, wrote into a prepared dataset."""
    try:
        index = PreparedIndex.read(folder / "dataset.json")
    except MambamedError:
        return []
    return [*_DOCUMENTS, *_files_of(tuple(_ENDS), [case.id for case in index.cases])]
