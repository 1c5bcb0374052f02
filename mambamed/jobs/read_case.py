"""Read a case and prepare it for the networks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mambamed.cases import Case
from mambamed.documents.plan import Plan
from mambamed.errors import CaseError
from mambamed.io.images import Image, ImageHeader, doubt_about, read_image
from mambamed.memory import case_too_large
from mambamed.preparation.grid import CaseGeometry
from mambamed.preparation.prepare_image import prepare_image

log = logging.getLogger("mambamed")


@dataclass(frozen=True)
class Ready:
    """A case that was read and prepared.

    Attributes:
        like: the image, or its header, whose grid and format the results take.
        images: the channels as stored; empty if they are not needed again.
        array: `(C, X, Y, Z)` on the prepared grid.
        warnings: lines of the readers.
        seconds: time that reading took.
    """

    case: Case
    like: Image | ImageHeader
    images: tuple[Image, ...]
    array: NDArray[np.float32]
    geometry: CaseGeometry
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0


def read_case(case: Case, plan: Plan, keep_images: bool) -> Ready:
    """Read a case and prepare it as a plan says.

    Args:
        case: which files.
        plan: spacing, crop and normalization.
        keep_images: keep the images as stored.

    Raises:
        CaseError: a file cannot be used, or is larger than the memory.
    """
    if case.fault:
        raise CaseError(case.fault.removeprefix(f"{case.id}: "))
    return _read_case(case, plan, keep_images)


@case_too_large()
def _read_case(case: Case, plan: Plan, keep_images: bool) -> Ready:
    began = time.monotonic()
    with _collected_warnings() as warnings:
        images = [read_image(each.path, each.volume, files=each.files) for each in case.channels]
        for channel, image in zip(case.channels, images, strict=True):
            doubt = doubt_about(image.array)
            if doubt:
                log.warning("%s: %s", channel.path, doubt)
        try:
            array, geometry = prepare_image(images, plan, missing=case.missing)
        except CaseError as error:
            raise CaseError(f"{case.channels[0].path}: {error}") from error
    first = images[0]
    x, y, z = first.array.shape
    like = first if keep_images else ImageHeader((x, y, z), 1, first.affine, first.array.dtype, first.header)
    kept = tuple(images) if keep_images else ()
    return Ready(case, like, kept, array, geometry, tuple(warnings), time.monotonic() - began)


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Collect the warnings that are logged in this thread."""
    handler = _Collector()
    logger = logging.getLogger("mambamed")
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.lines.append(record.getMessage())
