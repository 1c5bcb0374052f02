"""`prepare`: a raw dataset becomes one that can be trained on.

Two passes over the cases: every one is examined before anything is written, then every one is stored. Both
run in processes of one thread each. dataset.json is written last: a folder without it is not finished.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mambamed.cases import Case, DatasetManifest, RawDataset
from mambamed.errors import CaseError, DatasetError, RecipeError
from mambamed.io.atomic import flush_all
from mambamed.io.documents import write_json
from mambamed.io.lock import folder_lock
from mambamed.preparation.examine import Examined, examine, summary_of
from mambamed.preparation.examine_answers import faults_of_classes
from mambamed.preparation.plan import Plan
from mambamed.preparation.planning import make_plan
from mambamed.preparation.splits import make_splits
from mambamed.preparation.store import FORMAT, memory_bytes
from mambamed.preparation.store_case import store_case
from mambamed.progress import Progress, Silence
from mambamed.recipe import Preprocess, Recipe, Split

Answer = TypeVar("Answer")
_WORTH_PROCESSES = 64 * 2**20  # a second of work; a process takes about that to start
_ENDS = (".b2nd", ".label.b2nd", ".foreground.npy", ".json", ".nii.gz")


@dataclass(frozen=True)
class PreparedSummary:
    """What `prepare` did.

    Attributes:
        output: the prepared dataset.
        manifest: channels, labels, regions.
        plan: spacing, patch, normalization; None where only a check was asked for.
        cases: how many can be trained on.
        warnings: what is doubtful, a line each.
        faults: what is wrong, a line each; such cases are left out.
        seconds: wall time.
        next_command: what to do next.
    """

    output: Path
    manifest: DatasetManifest
    plan: Plan | None
    cases: int
    warnings: tuple[str, ...]
    faults: tuple[str, ...]
    seconds: float
    next_command: str


def prepare(
    raw: RawDataset,
    output: Path,
    *,
    recipe: Recipe | None = None,
    spacing: str | None = None,
    workers: int = 0,
    max_ram: str | None = None,
    check_only: bool = False,
    skip_faulty: bool = False,
    progress: Progress | None = None,
) -> PreparedSummary:
    """Verify, crop, normalize, resample, plan, split and store a dataset.

    Args:
        raw: what a converter found.
        output: the prepared dataset; a former, interrupted preparation of the same is gone on with.
        recipe: gives the preprocess section, the split, and regions.
        spacing: "median", "keep" or "x,y,z" in mm; goes before the recipe's.
        workers: processes; 0 = one a core, as far as `max_ram` allows; just this one where the files are so
            few that starting others would take longer.
        max_ram: memory that all may use together, as in "8G"; half of the machine's where not given.
        check_only: verify, write nothing.
        skip_faulty: leave faulty cases out and go on, instead of stopping before any work.
        progress: hears how far the work is.

    Raises:
        DatasetError: cases are faulty (a line each), or none is left.
        RecipeError: an option or the recipe does not fit the dataset.
        RunError: the folder is in use, or the disk full.
    """
    began, progress = time.monotonic(), progress or Silence()
    settings = preprocess_settings(recipe, spacing)
    manifest = _manifest(raw.manifest, recipe)
    memory = parse_bytes(max_ram) if max_ram else memory_bytes() // 2
    count = workers or (_cores() if _bytes_of(raw.cases) > _WORTH_PROCESSES else 1)

    progress.start("checking", len(raw.cases), "cases")
    examined: dict[str, Examined] = {}
    for case, seen in _over_cases(examine, [(c, manifest) for c in raw.cases], count, progress):
        examined[case.id] = seen if isinstance(seen, Examined) else Examined(case.id, (str(seen),))
    examined = dict(sorted(examined.items()))
    faults = [fault for seen in examined.values() for fault in seen.faults]
    warnings = [line for seen in examined.values() for line in seen.warnings] + _twins(examined)
    good = [case for case in raw.cases if not examined[case.id].faults]
    alike = faults_of_classes(manifest, [case.class_name for case in good]) if good else []
    for line in warnings:
        progress.say(f"warning: {line}")
    following = f"mambamed train RECIPE -d {output}"
    faults += alike
    if check_only:
        seconds = time.monotonic() - began
        return PreparedSummary(
            output, manifest, None, len(good), tuple(warnings), tuple(faults), seconds, following
        )
    if faults and (alike or not (skip_faulty and good)):
        raise DatasetError("\n".join(faults))

    plan = make_plan(manifest, [examined[case.id] for case in good], settings)
    splits = make_splits(
        {case.id: case.subject for case in good}, recipe.dataset.split if recipe else Split()
    )
    heaviest = max(examined[case.id].bytes_peak for case in good)
    count = max(1, min(count, int(memory // max(heaviest, 1))))
    with folder_lock(output):
        (output / "dataset.json").unlink(missing_ok=True)
        for folder in ("cases", "references"):
            (output / folder).mkdir(exist_ok=True)
        progress.start("preparing", len(good), "cases")
        entries: dict[str, dict[str, Any]] = {}
        for case, entry in _over_cases(store_case, [(c, plan, output) for c in good], count, progress):
            if isinstance(entry, CaseError):
                faults.append(str(entry))
            else:
                entries[case.id] = entry
        if not entries:
            raise DatasetError("\n".join(faults))
        for folder in (output / "cases", output / "references"):
            _remove_others(folder, set(entries))
        kept = [{part: [i for i in ids if i in entries] for part, ids in fold.items()} for fold in splits]
        write_json(output / "fingerprint.json", [summary_of(examined[case.id]) for case in good])
        write_json(output / "plan.json", plan.to_json())
        write_json(output / "splits.json", kept)
        flush_all()
        cases = [entries[case_id] for case_id in sorted(entries)]
        document = {**manifest.to_json(), "prepared_format": FORMAT, "cases": cases}
        write_json(output / "dataset.json", document)
    seconds = time.monotonic() - began
    return PreparedSummary(
        output, manifest, plan, len(entries), tuple(warnings), tuple(faults), seconds, following
    )


def preprocess_settings(recipe: Recipe | None, spacing: str | None) -> Preprocess:
    """The recipe's preprocess section with `--spacing` in it.

    Raises:
        RecipeError: a spacing that cannot be read.

    >>> preprocess_settings(None, "1,1,2.5").spacing
    (1.0, 1.0, 2.5)
    """
    settings = recipe.preprocess if recipe else Preprocess()
    if spacing is None:
        return settings
    if spacing in {"median", "keep"}:
        return settings.model_copy(update={"spacing": spacing})
    try:
        x, y, z = (float(part) for part in spacing.split(","))
        if min(x, y, z) <= 0:
            raise ValueError
    except ValueError as error:
        raise RecipeError(f"--spacing {spacing}: give median, keep, or mm as in 1,1,1") from error
    return settings.model_copy(update={"spacing": (x, y, z)})


def parse_bytes(text: str) -> int:
    """Bytes of a size as people write it.

    Raises:
        RecipeError: it is none.

    >>> parse_bytes("8G"), parse_bytes("500M")
    (8589934592, 524288000)
    """
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    try:
        return int(float(number) * (units[unit] if unit else 1))
    except (KeyError, ValueError) as error:
        raise RecipeError(f"--max-ram {text}: not a size; write it as in 8G") from error


def _bytes_of(cases: Sequence[Case]) -> int:
    """Size of all image files."""
    paths = {channel.path for case in cases for channel in case.channels}
    return sum(path.stat().st_size for path in paths if path.is_file())


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _manifest(manifest: DatasetManifest, recipe: Recipe | None) -> DatasetManifest:
    """The dataset's manifest, with the recipe's regions; both must speak of the same channels and labels."""
    if recipe is None:
        return manifest
    wanted = recipe.dataset
    if wanted.channels is not None and dict(wanted.channels) != dict(manifest.channels):
        raise RecipeError(
            f"recipe {recipe.name}: dataset.channels {dict(wanted.channels)} are not those found, "
            f"{dict(manifest.channels)}; correct one of the two"
        )
    if wanted.labels is not None and dict(wanted.labels) != dict(manifest.labels):
        raise RecipeError(
            f"recipe {recipe.name}: dataset.labels {dict(wanted.labels)} are not those found, "
            f"{dict(manifest.labels)}; correct one of the two"
        )
    for key, found in (("landmarks", manifest.landmarks), ("classes", manifest.classes)):
        asked = getattr(wanted, key)
        # The recipe may ask for some of them, in an order of its own: that of the network's outputs.
        unknown = [name for name in asked or () if name not in found]
        if unknown:
            raise RecipeError(
                f"recipe {recipe.name}: dataset.{key} {unknown} are not among those found, {list(found)}; "
                "correct one of the two"
            )
    if wanted.regions is None:
        return manifest
    return dataclasses.replace(manifest, regions={name: tuple(m) for name, m in wanted.regions.items()})


def _twins(examined: dict[str, Examined]) -> list[str]:
    """A line for every image that stands under two ids."""
    first: dict[str, str] = {}
    lines = []
    for case_id, seen in examined.items():
        if seen.content and seen.content in first:
            lines.append(f"{case_id}: holds the same image as {first[seen.content]}: a duplicate")
        first.setdefault(seen.content, case_id)
    return lines


def _remove_others(folder: Path, case_ids: set[str]) -> None:
    """Delete files of cases that are no longer part of the dataset."""
    wanted = {f"{i}{end}" for i in case_ids for end in _ENDS}
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()


def _over_cases(
    work: Callable[..., Answer], arguments: Sequence[tuple[Any, ...]], workers: int, progress: Progress
) -> Iterator[tuple[Case, Answer | CaseError]]:
    """Do the work for every case, in processes; a case whose process dies is tried once more, alone.

    Yields:
        The case and the answer, or the CaseError that it met, in the order in which they are done.
    """
    if workers == 1 or len(arguments) == 1:
        for each in arguments:
            yield each[0], _attempt(work, each)
            progress.advance(1, case=each[0].id)
        return
    died: list[tuple[Any, ...]] = []
    for each, answer in _in_processes(work, arguments, workers):
        if isinstance(answer, BrokenProcessPool):
            died.append(each)
            continue
        yield each[0], answer
        progress.advance(1, case=each[0].id)
    for each in died:
        for _, answer in _in_processes(work, [each], 1):
            if isinstance(answer, BrokenProcessPool):
                answer = CaseError(
                    f"{each[0].id}: its process was killed twice, perhaps out of memory; "
                    "use fewer --workers or leave the case out"
                )
            yield each[0], answer
            progress.advance(1, case=each[0].id)


def _attempt(work: Callable[..., Answer], arguments: tuple[Any, ...]) -> Answer | CaseError:
    try:
        return work(*arguments)
    except CaseError as error:
        return error


def _in_processes(
    work: Callable[..., Answer], arguments: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[tuple[tuple[Any, ...], Answer | CaseError | BrokenProcessPool]]:
    """Spawned processes of one thread each; few cases wait in the queue, so that memory stays bounded."""
    context = multiprocessing.get_context("spawn")
    waiting = iter(arguments)
    running: dict[Future[Answer | CaseError], tuple[Any, ...]] = {}
    with _one_thread_each(), ProcessPoolExecutor(min(workers, len(arguments)), mp_context=context) as pool:
        while True:
            while len(running) < 2 * workers and (each := next(waiting, None)) is not None:
                try:
                    running[pool.submit(_attempt, work, each)] = each
                except BrokenProcessPool as error:  # noqa: PERF203 - each case is to be told of
                    yield each, error
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                each = running.pop(future)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    yield each, error
                else:
                    yield each, future.result()


class _one_thread_each:  # noqa: N801 - used as a word in a with statement
    """Processes started within inherit an environment that keeps numerical libraries to one thread."""

    _NAMES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

    def __enter__(self) -> None:
        self._former = {name: os.environ.get(name) for name in self._NAMES}
        os.environ.update(dict.fromkeys(self._NAMES, "1"))

    def __exit__(self, *_: object) -> None:
        for name, value in self._former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
