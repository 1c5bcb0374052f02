"""Maps of numbers over an image: saliency of `classify`, uncertainty of `predict`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mambamed.io.images import Image, read_image
from mambamed.viewer.content import Volume


def saliency_volumes(case: str, places: Iterable[Path], table: str) -> list[Volume]:
    """The maps of a case, one per method.

    Args:
        places: folders in which the table may lie.
        table: its name without the suffix, e.g. "preds".
    """
    for place in places:
        folders = sorted(place.glob(f"{_literal(table)}_saliency*"))
        maps = [path for folder in folders if (path := folder / f"{case}.nii.gz").is_file()]
        if maps:
            return [_volume(path) for path in maps]
    return []


def uncertainty_volumes(case: str, predictions: Path) -> list[Volume]:
    """The maps that `predict --uncertainty` wrote."""
    kinds = ("entropy", "disagreement")
    paths = {kind: predictions / "uncertainty" / f"{case}_{kind}.nii.gz" for kind in kinds}
    return [_volume(path, kind) for kind, path in paths.items() if path.is_file()]


def _volume(path: Path, name: str = "") -> Volume:
    def read() -> Image:
        return read_image(path)

    _, _, method = path.parent.name.rpartition("_saliency")
    return Volume(name or method.strip("_") or "saliency", "saliency", read, source=str(path))


def _literal(text: str) -> str:
    """A name for `glob`, whose special characters stand for themselves."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)
