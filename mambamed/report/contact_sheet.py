"""Three planes per channel of a case, or of a patch, with labels outlined and landmarks as crosses.

Drawn with NumPy and Pillow, in milliseconds: of every case by `prepare`, of a few patches after each epoch.
"""

from __future__ import annotations

import functools
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from mambamed.io.atomic import write_text
from mambamed.report.planes import SIDES, across_and_up, color_of, gray_window, names_by_value

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_SIDE = 192  # pixels of the longest edge (in mm) of a case
_CHANNELS = 4
_COLORS = 192  # at most, beside at least 64 gray levels
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
    named = [(channels[k] if channels else f"channel {k}") for k in range(len(image[:_CHANNELS]))]
    marks = Marks(label, points or {})
    rows = [(name, channel, marks) for name, channel in zip(named, image, strict=False)]
    return _png(_drawn(rows, spacing_mm, labels, landmarks))


@dataclass(frozen=True)
class Marks:
    """What is drawn on an image.

    Attributes:
        label: `(X, Y, Z)`.
        points: name -> voxel.
        text: e.g. a class, above the image.
    """

    label: NDArray | None = None
    points: Mapping[str, NDArray] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class SeenPatch:
    """A patch with its reference and what a network made of it.

    Attributes:
        image: `(X, Y, Z)`, RAS+ axes.
    """

    case_id: str
    image: NDArray
    reference: Marks
    prediction: Marks


def sheet_of_patches(
    patches: Sequence[SeenPatch],
    spacing_mm: Sequence[float],
    labels: Mapping[str, int],
    landmarks: Sequence[str],
) -> bytes:
    """One picture of several patches as PNG, of each the reference and below it the prediction.

    Args:
        labels, landmarks: as in `sheet_of`.
    """
    from PIL import Image

    sheets = []
    for patch in patches:
        pairs = {"reference": patch.reference, "prediction": patch.prediction}
        rows = [(f"{patch.case_id} {name} {m.text}", patch.image, m) for name, m in pairs.items()]
        sheets.append(_drawn(rows, spacing_mm, labels, landmarks))
    whole = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)))
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return _png(whole)


def _drawn(
    rows: Sequence[tuple[str, NDArray, Marks]],
    spacing_mm: Sequence[float],
    labels: Mapping[str, int] | None,
    landmarks: Sequence[str],
) -> Picture:
    """Rows of a title, an image and its marks; planes and colors are the same in all rows."""
    from PIL import Image

    shape = np.array(rows[0][1].shape)
    place = _middle(rows[0][2].label, rows[0][1].shape, rows[0][2].points)
    edges = shape * np.asarray(spacing_mm, float)
    size = np.maximum(1, np.round(edges * (_SIDE / edges.max()))).astype(int)
    present = dict.fromkeys(name for _, _, marks in rows for name in marks.points)
    named = {name: color_of(k) for k, name in enumerate(landmarks or present) if name in present}
    found = {id(marks.label): np.unique(marks.label) for _, _, marks in rows if marks.label is not None}
    values = sorted({int(value) for unique in found.values() for value in unique if value > 0})
    names = names_by_value(labels)
    legend = [(names.get(value, f"label {value}"), color_of(value - 1)) for value in values]
    legend += named.items()
    palette = _Palette([color for _, color in legend])
    entry_of = np.zeros(max(values, default=0) + 1, np.uint8)
    entry_of[values] = [palette.entries[color_of(value - 1)] for value in values]
    planes = [(axis, *across_and_up(axis)) for axis in (2, 1, 0)]
    width = sum(int(size[across]) + _GAP for _, across, _ in planes)
    tallest = max(int(size[up]) for _, _, up in planes)
    lines = _wrapped(legend, width)
    height = len(rows) * (_LINE + tallest + _GAP) + len(lines) * _LINE
    sheet = np.full((height, width), palette.black, np.uint8)
    for row, (title, channel, marks) in enumerate(rows):
        top = row * (_LINE + tallest + _GAP)
        _write(sheet, palette, (2, top + 1), title)
        window, left = gray_window(channel), 0
        for axis, across, up in planes:
            grid = int(size[up]), int(size[across])
            picture = sheet[top + _LINE :, left:][: grid[0], : grid[1]]
            picture[:] = _enlarged(palette.grays(_seen(channel, axis, place), window), grid)
            if marks.label is not None:
                _outline(picture, _enlarged(_seen(marks.label, axis, place), grid), entry_of)
            for name, color in named.items():
                if name not in marks.points:
                    continue
                here = (marks.points[name] + 0.5) / shape
                column = here[across] if axis == 0 else 1 - here[across]
                _cross(picture, 1 - here[up], column, palette.entries[color])
            _letter_sides(sheet, palette, axis, (left, top + _LINE), grid)
            left += grid[1] + _GAP
    for number, line in enumerate(lines):
        y = height - (len(lines) - number) * _LINE
        for x, name, color in line:
            sheet[y + 3 : y + 13, x : x + 10] = palette.entries[color]
            _write(sheet, palette, (x + 13, y + 1), name)
    picture = Image.fromarray(sheet)
    picture.putpalette(palette.colors())
    return picture


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="png", compress_level=_COMPRESSION)
    return buffer.getvalue()


class _Palette:
    """Gray levels, then the colors of a legend, 256 in all: a third of the bytes of a picture in RGB.

    Beyond 192 colors the first ones recur.
    """

    black = 0

    def __init__(self, colors: Sequence[str]) -> None:
        self._distinct = list(dict.fromkeys(colors))
        self.white = 255 - min(len(self._distinct), _COLORS)
        free = 255 - self.white
        self.entries = {color: self.white + 1 + k % free for k, color in enumerate(self._distinct)}

    def grays(self, plane: NDArray, window: tuple[float, float]) -> NDArray[np.uint8]:
        """The gray levels of intensities in a window."""
        low, high = window
        levels = (np.asarray(plane, np.float32) - low) * (self.white / (high - low))
        return np.clip(levels, 0, self.white).astype(np.uint8)

    def colors(self) -> bytes:
        """Red, green and blue of every entry."""
        grays = np.linspace(0, 255, self.white + 1).round().astype(np.uint8)
        return grays.repeat(3).tobytes() + b"".join(bytes.fromhex(c[1:]) for c in self._distinct[:_COLORS])


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


def _seen(volume: NDArray, axis: int, place: Sequence[int]) -> NDArray:
    """Rows and columns of a plane: up on top; the patient's right on the left of axial and coronal planes."""
    plane = volume.take(place[axis], axis)
    return plane.T[::-1] if axis == 0 else plane.T[::-1, ::-1]


def _enlarged(plane: NDArray, grid: tuple[int, int]) -> NDArray:
    """Rows and columns of a grid, by the nearest pixel."""
    rows, columns = (_nearest(n, m) for n, m in zip(plane.shape, grid, strict=True))
    return plane.take(rows, 0).take(columns, 1)


@functools.lru_cache(maxsize=1000)
def _nearest(pixels: int, wanted: int) -> NDArray[np.intp]:
    return np.minimum((np.arange(wanted) + 0.5) * pixels // wanted, pixels - 1).astype(np.intp)


def _outline(picture: NDArray[np.uint8], labels: NDArray, entry_of: NDArray[np.uint8]) -> None:
    """Color the pixels of a label that touch another value or the edge."""
    rim = np.zeros(labels.shape, bool)
    for rims, values in ((rim, labels), (rim.T, labels.T)):
        differs = values[1:] != values[:-1]
        rims[1:] |= differs
        rims[:-1] |= differs
        rims[[0, -1]] = True
    rim &= labels > 0
    picture[rim] = entry_of[labels[rim]]


def _cross(picture: NDArray[np.uint8], down: float, across: float, entry: int) -> None:
    """A cross at a place, as a fraction of the height and of the width."""
    y, x = np.floor(np.array([down, across]) * picture.shape).astype(int)
    for dy, dx in ((0, 0), (-2, 0), (-1, 0), (1, 0), (2, 0), (0, -2), (0, -1), (0, 1), (0, 2)):
        if 0 <= x + dx < picture.shape[1] and 0 <= y + dy < picture.shape[0]:
            picture[y + dy, x + dx] = entry


def _letter_sides(
    sheet: NDArray[np.uint8], palette: _Palette, axis: int, corner: tuple[int, int], grid: tuple[int, int]
) -> None:
    (left, top), (height, width) = corner, grid
    middle, half = (left + width / 2, top + height / 2), _TEXT / 2 + 2
    places = (
        (left + half, middle[1]), (left + width - half, middle[1]),
        (middle[0], top + half), (middle[0], top + height - half),
    )  # fmt: skip
    for letter, place in zip(SIDES[axis], places, strict=True):
        _write(sheet, palette, place, letter, is_centered=True)


def _write(
    sheet: NDArray[np.uint8],
    palette: _Palette,
    place: tuple[float, float],
    text: str,
    *,
    is_centered: bool = False,
) -> None:
    """White text with its upper left corner, or its center, at a place; what is outside is cut off."""
    grays, covers, center = _stamp(text)
    x, y = (round(p - c * is_centered) for p, c in zip(place, center, strict=True))
    left, top = max(0, -x), max(0, -y)
    below = sheet[y + top :, x + left :][: grays.shape[0] - top, : grays.shape[1] - left]
    part = slice(top, top + below.shape[0]), slice(left, left + below.shape[1])
    np.copyto(below, (grays[part] * palette.white).astype(np.uint8), where=covers[part])


@functools.lru_cache(maxsize=1000)
def _stamp(text: str) -> tuple[NDArray[np.float32], NDArray[np.bool_], tuple[float, float]]:
    """Brightness (0 to 1) of a text with a black rim, the pixels that it covers, their center (x, y)."""
    from PIL import Image, ImageDraw

    image = Image.new("LA", (round(_font().getlength(text)) + 4, _LINE + 2))
    ImageDraw.Draw(image).text((0, 0), text, (255, 255), _font(), stroke_width=1, stroke_fill=(0, 255))
    gray, alpha = np.moveaxis(np.asarray(image), -1, 0)
    left, top, right, bottom = image.getchannel("A").getbbox() or (0, 0, 0, 0)
    return gray / np.float32(255), alpha > 127, ((left + right) / 2, (top + bottom) / 2)


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
