"""A picture of every prepared case: three planes per channel, labels outlined, landmarks as crosses.

Drawn with NumPy alone, in milliseconds, by the processes of `prepare`.
"""

from __future__ import annotations

import html
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from mambamed.io.atomic import write_text

# Distinguishable for color-blind readers (Okabe & Ito 2008).
_COLORS = np.array([
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167),
], np.uint8)  # fmt: skip
_POINT = np.array([255, 60, 60], np.uint8)
_SIDE = 192  # pixels of the longest edge (in mm) of a case
_CHANNELS = 4
_GAP = 4
_PAGE = """<!doctype html><meta charset="utf-8"><title>{name}</title>
<style>body{{background:#111;color:#ddd;font:13px sans-serif}}figure{{display:inline-block;margin:6px}}
img{{display:block}}</style><h1>{name}: {count} cases</h1>
<p>Rows are channels; columns are axial, coronal and sagittal planes, the patient's right on the left.</p>
{figures}
"""


def sheet_of(
    image: NDArray,
    spacing_mm: Sequence[float],
    label: NDArray | None = None,
    points: Mapping[str, NDArray] | None = None,
) -> bytes:
    """The picture of one case as PNG; equal cases give equal bytes.

    Args:
        image: `(C, X, Y, Z)`, RAS+ axes; at most four channels are drawn.
        label: `(X, Y, Z)`; planes go through the slices with most foreground, else through the middle.
        points: name -> voxel; drawn on all planes, at any depth.
    """
    place = _middle(label, image.shape[1:], points)
    edges = np.array(image.shape[1:]) * np.asarray(spacing_mm, float)
    scale = _SIDE / edges.max()
    size = np.maximum(1, np.round(edges * scale)).astype(int)
    rows = []
    for channel in image[:_CHANNELS]:
        planes = []
        for axis in (2, 1, 0):
            gray = _gray(np.asarray(np.take(channel, place[axis], axis), np.float32))
            across, up = (a for a in range(3) if a != axis)
            picture = np.repeat(_enlarged(gray, size[across], size[up])[..., None], 3, axis=2)
            if label is not None:
                _outline(picture, _enlarged(np.take(label, place[axis], axis), size[across], size[up]))
            for point in (points or {}).values():
                _cross(picture, point[[across, up]], np.array(image.shape[1:])[[across, up]])
            # Up on top; the patient's right on the left of axial and coronal planes.
            picture = picture[:: -1 if axis != 0 else 1, ::-1]
            planes.append(np.swapaxes(picture, 0, 1))
        height = max(len(plane) for plane in planes)
        gaps = [((0, height + _GAP - len(plane)), (0, _GAP), (0, 0)) for plane in planes]
        rows.append(np.concatenate(list(map(np.pad, planes, gaps)), axis=1))
    return encode_png(np.concatenate(rows, axis=0))


def write_index(path: Path, name: str, lines: Mapping[str, Sequence[str]]) -> None:
    """Write an HTML page of the pictures in its folder; `lines` is case id -> lines under its picture."""
    figures = "\n".join(
        f'<figure><img loading="lazy" src="{quote(case_id)}.png"><figcaption>'
        + "<br>".join(html.escape(text) for text in (case_id, *texts))
        + "</figcaption></figure>"
        for case_id, texts in lines.items()
    )
    write_text(path, _PAGE.format(name=html.escape(name), count=len(lines), figures=figures))


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """`(height, width, 3)` as PNG (RFC 2083), without filters."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _middle(label: NDArray | None, shape: Sequence[int], points: Mapping[str, NDArray] | None) -> list[int]:
    """The voxel through which planes are cut."""
    if label is not None and label.any():
        mask = label > 0
        return [int(mask.sum(axis=tuple(b for b in range(3) if b != a)).argmax()) for a in range(3)]
    if points:
        center = np.rint(np.mean(list(points.values()), axis=0)).astype(int)
        return [int(np.clip(c, 0, n - 1)) for c, n in zip(center, shape, strict=True)]
    return [n // 2 for n in shape]


def _gray(plane: NDArray[np.float32]) -> NDArray[np.uint8]:
    low, high = np.percentile(plane, [1, 99.5])
    return np.clip((plane - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)


def _enlarged(plane: NDArray, width: int, height: int) -> NDArray:
    """`(width, height)` by the nearest pixel."""
    first, second = (
        np.minimum((np.arange(m) + 0.5) * n // m, n - 1).astype(int)
        for n, m in zip(plane.shape, (width, height), strict=True)
    )
    return plane[np.ix_(first, second)]


def _outline(picture: NDArray[np.uint8], labels: NDArray) -> None:
    """Color the pixels of a label that touch another value."""
    padded = np.pad(labels, 1)
    inner = padded[1:-1, 1:-1]
    rim = np.zeros(inner.shape, bool)
    for neighbor in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        rim |= neighbor != inner
    rim &= inner > 0
    picture[rim] = _COLORS[(inner[rim].astype(int) - 1) % len(_COLORS)]


def _cross(picture: NDArray[np.uint8], point: NDArray, shape: NDArray) -> None:
    x, y = np.floor((point + 0.5) / shape * picture.shape[:2]).astype(int)
    for dx, dy in ((0, 0), (-2, 0), (-1, 0), (1, 0), (2, 0), (0, -2), (0, -1), (0, 1), (0, 2)):
        if 0 <= x + dx < picture.shape[0] and 0 <= y + dy < picture.shape[1]:
            picture[x + dx, y + dy] = _POINT
