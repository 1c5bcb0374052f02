"""Cases on their way from file to mask: one is read ahead, one is written behind the working network."""

from __future__ import annotations

import errno
import logging
import math
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mambamed.answers.mask_files import Wanted, names_of, statistics
from mambamed.answers.postprocess import postprocess
from mambamed.cases import Case
from mambamed.errors import CaseError
from mambamed.io.atomic import cannot_write, open_atomic
from mambamed.io.dicom_seg import write_segmentation
from mambamed.io.images import Image, ImageHeader, doubt_about, read_image, write_image
from mambamed.io.json_files import write_json
from mambamed.jobs.record import Record
from mambamed.preparation.grid import CaseGeometry
from mambamed.preparation.prepare_image import prepare_image
from mambamed.progress import Progress
from mambamed.tasks.segmentation import Segmentation
from mambamed.volumes.ensemble import Ensemble
from mambamed.volumes.restore import labels_of_slabs
from mambamed.volumes.sliding_window import Slab

log = logging.getLogger("mambamed")
Item = TypeVar("Item")

_SLABS_WAITING = 2
_LOOK_UP_SECONDS = 0.2  # how long a thread waits for a slab before it asks whether any will come
_TOO_LARGE = "needs more memory than is free; free some, or cut the image"


@dataclass(frozen=True)
class Ready:
    """A case that was read and prepared.

    Attributes:
        like: what its mask is to look like.
        images: its channels as the files have them; none where they are not needed again.
        array: `(C, X, Y, Z)` on the prepared grid.
        seconds: that reading it took.
    """

    case: Case
    like: Image | ImageHeader
    images: tuple[Image, ...]
    array: NDArray[np.float32]
    geometry: CaseGeometry
    warnings: tuple[str, ...]
    seconds: float


def predict_cases(
    ensemble: Ensemble, cases: Sequence[Case], record: Record, progress: Progress, wanted: Wanted
) -> None:
    """Write the mask of every case, and tell the record.

    Three threads: a reader, this one for the networks, a finisher that brings logits to the native grid,
    compresses and writes. What waits between them is one case on either side, and few slabs.

    Raises:
        RunError: the output cannot be written; what is recorded until then holds.
    """
    belts: list[Belt[Slab]] = []
    with (
        ThreadPoolExecutor(1, "reader") as reader,
        ThreadPoolExecutor(1, "finisher") as finisher,
        _abandoned_on_error(belts),
    ):
        ahead: Future[Ready] | None = None
        behind: Future[None] | None = None
        for number, case in enumerate(cases):
            reading = ahead or reader.submit(read_case, case, ensemble, wanted.voxels)
            try:
                ready = reading.result()
            except CaseError as error:
                ready = None
                record.failed(case, error)
                progress.advance(1, case=case.id)
            following = cases[number + 1 : number + 2]
            ahead = reader.submit(read_case, following[0], ensemble, wanted.voxels) if following else None
            if ready is None:
                continue
            belt: Belt[Slab] = Belt(_SLABS_WAITING)
            belts[:] = [belt]
            with belt.filled():
                finishing = finisher.submit(_finish, ready, belt, ensemble, record, progress, wanted)
                told = _windows_told(progress, case)
                for slab in ensemble.slabs(ready.array, told, progress.say):
                    belt.put(slab)
            if behind is not None:
                behind.result()
            behind = finishing
            del ready
        if behind is not None:
            behind.result()


@contextmanager
def _abandoned_on_error(belts: Sequence[Belt[Slab]]) -> Iterator[None]:
    """A block in which Ctrl-C may come at any moment, also while a belt is given its end."""
    try:
        yield
    except BaseException:
        for belt in belts:
            belt.abandon()
        raise


class Belt(Generic[Item]):
    """A bounded queue from one thread to one other that comes to an end, or breaks.

    Args:
        size: items that may wait.
    """

    def __init__(self, size: int) -> None:
        self._queue: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(size)
        self._ended, self._abandoned = False, False

    def put(self, item: Item) -> None:
        """Hand over an item; waits while `size` are waiting."""
        self._queue.put((item, None))

    @contextmanager
    def filled(self) -> Iterator[None]:
        """The block that puts items; its end, or its error, reaches the other side.

        A CaseError is the other side's to tell and goes no further here.
        """
        broken: BaseException | None = None
        try:
            yield
        except CaseError as error:
            broken = error
        except BaseException as error:
            broken = error
            raise
        finally:
            self._queue.put((None, broken))

    def abandon(self) -> None:
        """Say that nothing comes behind what waits, not even the end; does not wait itself."""
        self._abandoned = True

    def _next(self) -> tuple[Item | None, BaseException | None]:
        while True:
            with suppress(queue.Empty):
                return self._queue.get(timeout=_LOOK_UP_SECONDS)
            if self._abandoned:
                return None, Abandoned()

    def __iter__(self) -> Iterator[Item]:
        while not self._ended:
            item, error = self._next()
            if item is not None:
                yield item
                continue
            self._ended = True
            if isinstance(error, CaseError):
                raise error
            if error is not None:
                raise Abandoned

    def drain(self) -> None:
        """Take what is left, so that the other side never waits for a reader that gave up."""
        while not self._ended:
            self._ended = self._next()[0] is None


class Abandoned(Exception):  # noqa: N818 - nobody's error: the other thread raises the cause
    """The thread that fills a belt stopped for a reason that it tells itself."""


def read_case(case: Case, ensemble: Ensemble, whole: bool) -> Ready:
    """Read a case and prepare it for an ensemble; `whole`: keep the images as the files have them.

    Raises:
        CaseError: a file cannot be used, or is larger than the memory.
    """
    if case.fault:
        raise CaseError(case.fault.removeprefix(f"{case.id}: "))
    try:
        return _read_case(case, ensemble, whole)
    except MemoryError as error:
        raise CaseError(_TOO_LARGE) from error


def _read_case(case: Case, ensemble: Ensemble, whole: bool) -> Ready:
    began = time.monotonic()
    with _warnings_heard() as warnings:
        images = [read_image(channel.path, channel.volume) for channel in case.channels]
        for channel, image in zip(case.channels, images, strict=True):
            doubt = doubt_about(image.array)
            if doubt:
                log.warning("%s: %s", channel.path, doubt)
        array, geometry = prepare_image(images, ensemble.run.plan)
    first = images[0]
    x, y, z = first.array.shape
    like = first if whole else ImageHeader((x, y, z), 1, first.affine, first.array.dtype, first.header)
    kept = tuple(images) if whole else ()
    return Ready(case, like, kept, array, geometry, tuple(warnings), time.monotonic() - began)


def _finish(
    ready: Ready, slabs: Belt[Slab], ensemble: Ensemble, record: Record, progress: Progress, wanted: Wanted
) -> None:
    began = time.monotonic()
    task = ensemble.task
    assert isinstance(task, Segmentation)
    mask = record.mask(ready.case)
    files = wanted.beside(ready.case, mask.parent)
    try:
        if "probabilities" in files:
            with probability_file(files["probabilities"], task, ready.geometry) as values:
                labels = labels_of_slabs(slabs, ready.geometry, task, values)
        else:
            labels = labels_of_slabs(slabs, ready.geometry, task)
        _postprocess(labels, ready.like.affine, ensemble)
        if "statistics" in files:
            found = statistics(labels, ready.images, ready.like.affine, ensemble.run.manifest)
            write_json(files["statistics"], found)
        if "preview" in files:
            _draw(files["preview"], ready.case.id, ready.images[0], labels, ensemble)
        if wanted.format == "nifti":
            write_image(mask, labels, like=ready.like)
        else:
            manifest = ensemble.run.manifest
            write_segmentation(mask, labels, ready.case.channels[0].path, manifest.labels, manifest.name)
        record.done(ready.case, ready.seconds + time.monotonic() - began, ready.warnings)
    except CaseError as error:
        record.failed(ready.case, error)
    except MemoryError:
        record.failed(ready.case, CaseError(_TOO_LARGE))
    except Abandoned:
        return
    finally:
        slabs.drain()
    progress.advance(1, case=ready.case.id)


@contextmanager
def probability_file(path: Path, task: Segmentation, geometry: CaseGeometry) -> Iterator[NDArray[np.float16]]:
    """An array `(K, X, Y, Z)` on the native grid to be filled; it appears as `.npz` when the block ends.

    It lies in a file that the system may page out, not in memory.
    """
    names = [*task.names] if task.by_regions else ["background", *task.names]
    shape = (task.outputs, *geometry.shape_native)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed below
    except OSError as error:
        raise cannot_write(path, error) from error
    with scratch:
        if hasattr(os, "posix_fallocate"):  # else a full disk would end the process by a signal
            try:
                os.posix_fallocate(scratch.fileno(), 0, 2 * math.prod(shape))
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some file systems cannot
                    raise cannot_write(path, error) from error
        values = np.memmap(scratch, np.float16, "w+", shape=shape)
        yield values
        with open_atomic(path) as file:
            np.savez_compressed(
                file, probabilities=values, names=names_of(names), affine=np.array(geometry.affine_native)
            )


def _postprocess(labels: NDArray, affine: NDArray, ensemble: Ensemble) -> None:
    settings = ensemble.run.recipe.inference.postprocess
    postprocess(labels, settings, ensemble.run.manifest, abs(float(np.linalg.det(affine[:3, :3]))))


def _windows_told(progress: Progress, case: Case) -> Callable[[int, int], None]:
    def told(done: int, total: int) -> None:
        progress.advance(0, case=case.id, windows=f"{done}/{total}")

    return told


@contextmanager
def _warnings_heard() -> Iterator[list[str]]:
    """Collect what the readers warn of in this thread."""
    listener = _Listener()
    logger = logging.getLogger("mambamed")
    logger.addHandler(listener)
    try:
        yield listener.lines
    finally:
        logger.removeHandler(listener)


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.lines.append(record.getMessage())


def _draw(path: Path, title: str, image: Image, labels: NDArray, ensemble: Ensemble) -> None:
    from mambamed.report.pictures import PicturedCase, draw_cases

    pictured = PicturedCase(title, image.array, image.affine, prediction=labels)
    draw_cases(path, [pictured], ensemble.run.manifest.labels)
