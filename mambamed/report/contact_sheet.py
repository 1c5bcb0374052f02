"""A picture of every prepared case: three planes per channel, labels outlined, landmarks as crosses.

Drawn with NumPy and Pillow, in milliseconds, by the processes of `prepare`.
"""

from __future__ import annotations

import functools
import html
import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from mambamed.io.atomic import write_text
from mambamed.report.planes import SIDES, across_and_up, color_of, gray_window, names_by_value

_SIDE = 192  # pixels of the longest edge (in mm) of a case
_CHANNELS = 4
_GAP = 4
_TEXT = 11  # height of the letters, pixels
_LINE = 16  # of a line of text
_COMPRESSION = 3  # of zlib: half the time of its default, and files a tenth larger
_PAGE = """<!doctype html><meta charset="utf-8"><title>{name}</title>
<style>body{{background:#111;color:#ddd;font:13px sans-serif}}figure{{display:inline-block;margin:6px}}
img{{display:block}}li{{display:inline-block;margin-right:14px}}ul{{padding:0}}</style>
<h1>{name}: {count} cases</h1>
<p>Rows are channels; columns are axial, coronal and sagittal planes, the patient's right on the left.</p>
{legend}
{figures}
"""


def sheet_of(
    image: NDArray,
    spacing_mm: Sequence[float],
    label: NDArray | None = None,
    points: Mapping[str, NDArray] | None = None,
    *,
    channels: Sequence[str] = (),
    labels: Mapping[str, int] | None = None,
    landmarks: Sequence[str] = (),
) -> bytes:
    """The picture of one case as PNG; equal cases give equal bytes.

    Args:
        image: `(C, X, Y, Z)`, RAS+ axes; at most four channels are drawn.
        label: `(X, Y, Z)`; planes go through the slices with most foreground, else through the middle.
        points: name -> voxel; drawn on all planes, at any depth.
        channels: names of the channels, above their rows.
        labels: name -> value, for the legend.
        landmarks: names of all landmarks, in the order of their colors (default: those of `points`).
    """
    from PIL import Image, ImageDraw

    points = points or {}
    place = _middle(label, image.shape[1:], points)
    edges = np.array(image.shape[1:]) * np.asarray(spacing_mm, float)
    size = np.maximum(1, np.round(edges * (_SIDE / edges.max()))).astype(int)
    named = {name: color_of(k) for k, name in enumerate(landmarks or points) if name in points}
    values = [] if label is None else [int(value) for value in np.unique(label) if value > 0]
    names = names_by_value(labels)
    legend = [(names.get(value, f"label {value}"), color_of(value - 1)) for value in values]
    legend += named.items()
    planes = [(axis, *across_and_up(axis)) for axis in (2, 1, 0)]
    width = sum(int(size[across]) + _GAP for _, across, _ in planes)
    tallest = max(int(size[up]) for _, _, up in planes)
    lines = _wrapped(legend, width)
    shown = image[:_CHANNELS]
    height = len(shown) * (_LINE + tallest + _GAP) + len(lines) * _LINE
    sheet = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(sheet)
    for row, channel in enumerate(shown):
        top = row * (_LINE + tallest + _GAP)
        _write(sheet, (2, top + 1), channels[row] if channels else f"channel {row}")
        window, left = gray_window(channel), 0
        for axis, across, up in planes:
            picture = _gray(np.take(channel, place[axis], axis), window, size[across], size[up])
            if label is not None:
                _outline(picture, _enlarged(np.take(label, place[axis], axis), size[across], size[up]))
            for name, color in named.items():
                here = points[name][[across, up]], np.array(image.shape[1:])[[across, up]]
                _cross(picture, *here, color)
            # Up on top; the patient's right on the left of axial and coronal planes.
            picture = picture[:: -1 if axis != 0 else 1, ::-1]
            pixels = np.ascontiguousarray(np.swapaxes(picture, 0, 1))
            sheet.paste(Image.fromarray(pixels), (left, top + _LINE))
            _letter_sides(sheet, axis, (left, top + _LINE), (int(size[across]), int(size[up])))
            left += int(size[across]) + _GAP
    for number, line in enumerate(lines):
        y = height - (len(lines) - number) * _LINE
        for x, name, color in line:
            draw.rectangle((x, y + 3, x + 9, y + 12), fill=color)
            _write(sheet, (x + 13, y + 1), name, color)
    buffer = io.BytesIO()
    sheet.save(buffer, format="png", compress_level=_COMPRESSION)
    return buffer.getvalue()


def write_index(
    path: Path, name: str, lines: Mapping[str, Sequence[str]], legend: Mapping[str, str] | None = None
) -> None:
    """Write an HTML page of the pictures in its folder.

    Args:
        lines: case id -> lines under its picture.
        legend: name of each label or landmark -> its color.
    """
    figures = "\n".join(
        f'<figure><img loading="lazy" src="{quote(case_id)}.png"><figcaption>'
        + "<br>".join(html.escape(text) for text in (case_id, *texts))
        + "</figcaption></figure>"
        for case_id, texts in lines.items()
    )
    items = "".join(
        f'<li><span style="color:{color}">&#9632;</span> {html.escape(text)}</li>'
        for text, color in (legend or {}).items()
    )
    page = _PAGE.format(
        name=html.escape(name), count=len(lines), legend=f"<ul>{items}</ul>" * bool(items), figures=figures
    )
    write_text(path, page)


def _middle(label: NDArray | None, shape: Sequence[int], points: Mapping[str, NDArray] | None) -> list[int]:
    """The voxel through which planes are cut."""
    if label is not None and label.any():
        mask = label > 0
        return [int(mask.sum(axis=tuple(b for b in range(3) if b != a)).argmax()) for a in range(3)]
    if points:
        center = np.rint(np.mean(list(points.values()), axis=0)).astype(int)
        return [int(np.clip(c, 0, n - 1)) for c, n in zip(center, shape, strict=True)]
    return [n // 2 for n in shape]


def _gray(plane: NDArray, window: tuple[float, float], width: int, height: int) -> NDArray[np.uint8]:
    """`(width, height, 3)`."""
    low, high = window
    gray = np.clip((np.asarray(plane, np.float32) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    return np.repeat(_enlarged(gray, width, height)[..., None], 3, axis=2)


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
    for value in np.unique(inner[rim]):
        picture[rim & (inner == value)] = _rgb(color_of(int(value) - 1))


def _cross(picture: NDArray[np.uint8], point: NDArray, shape: NDArray, color: str) -> None:
    x, y = np.floor((point + 0.5) / shape * picture.shape[:2]).astype(int)
    for dx, dy in ((0, 0), (-2, 0), (-1, 0), (1, 0), (2, 0), (0, -2), (0, -1), (0, 1), (0, 2)):
        if 0 <= x + dx < picture.shape[0] and 0 <= y + dy < picture.shape[1]:
            picture[x + dx, y + dy] = _rgb(color)


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue


def _letter_sides(sheet: Any, axis: int, corner: tuple[int, int], size: tuple[int, int]) -> None:
    (left, top), (width, height) = corner, size
    middle, half = (left + width / 2, top + height / 2), _TEXT / 2 + 2
    places = (
        (left + half, middle[1]), (left + width - half, middle[1]),
        (middle[0], top + half), (middle[0], top + height - half),
    )  # fmt: skip
    for letter, place in zip(SIDES[axis], places, strict=True):
        _write(sheet, place, letter, is_centered=True)


def _write(
    sheet: Any, place: tuple[float, float], text: str, color: str = "white", *, is_centered: bool = False
) -> None:
    """Text with its upper left corner, or its center, at a place."""
    stamp = _stamp(text, color)
    x, y = place
    if is_centered:
        left, top, right, bottom = stamp.getbbox() or (0, 0, 0, 0)
        x, y = x - (left + right) / 2, y - (top + bottom) / 2
    sheet.paste(stamp, (round(x), round(y)), stamp)


@functools.lru_cache(maxsize=1000)
def _stamp(text: str, color: str) -> Any:
    """A text with a black rim on a transparent image; names recur in every case."""
    from PIL import Image, ImageDraw

    image = Image.new("RGBA", (round(_font().getlength(text)) + 4, _LINE + 2))
    ImageDraw.Draw(image).text((0, 0), text, color, _font(), stroke_width=1, stroke_fill="black")
    return image


@functools.cache
def _font() -> Any:
    from PIL import ImageFont

    package = find_spec("matplotlib")  # its font, without importing it
    assert package is not None and package.origin is not None
    folder = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / "DejaVuSans.ttf"), _TEXT)


def _wrapped(entries: Sequence[tuple[str, str]], width: int) -> list[list[tuple[int, str, str]]]:
    """Lines of a legend: left edge, name and color of each entry."""
    lines: list[list[tuple[int, str, str]]] = []
    x = width
    for name, color in entries:
        needed = 13 + round(_font().getlength(name)) + 12
        if x + needed > width:
            lines.append([])
            x = 2
        lines[-1].append((x, name, color))
        x += needed
    return lines
