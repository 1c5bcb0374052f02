"""Names and colors of the labels of masks, in files that other viewers load.

NIfTI has no place for them.

Sources: ITK-SNAP, Logic/Common/ColorLabelTable.cxx (label descriptions); 3D Slicer,
https://slicer.readthedocs.io/en/latest/developer_guide/modules/colors.html (color table, `.ctbl`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mambamed.io.atomic import write_text
from mambamed.report.planes import color_of

ITK_SNAP, SLICER = "labels_itksnap.txt", "labels_slicer.ctbl"


def write_label_tables(folder: Path, labels: Mapping[str, int], stem: str = "") -> None:
    """Write both files, atomically; the colors are those of mambamed's pictures.

    Args:
        labels: name -> label; 0 is the background.
        stem: beginning of the names of the files, e.g. "mask_".
    """
    entries = sorted((value, name) for name, value in labels.items() if value > 0)
    write_text(folder / f"{stem}{ITK_SNAP}", _itk_snap(entries))
    write_text(folder / f"{stem}{SLICER}", _slicer(entries))


def _itk_snap(entries: list[tuple[int, str]]) -> str:
    lines = ["# ITK-SnAP Label Description File", "# IDX -R- -G- -B- -A- VIS MSH LABEL"]
    lines.append('0 0 0 0 0 0 0 "Clear Label"')
    for value, name in entries:
        quoted = name.replace('"', "'")  # the format has no escape
        lines.append(f'{value} {_rgb(value)} 1 1 1 "{quoted}"')
    return "\n".join(lines) + "\n"


def _slicer(entries: list[tuple[int, str]]) -> str:
    lines = ["# Color table file", f"# {len(entries) + 1} values", "0 background 0 0 0 0"]
    for value, name in entries:
        word = "_".join(name.split())  # a space would end the name
        lines.append(f"{value} {word} {_rgb(value)} 255")
    return "\n".join(lines) + "\n"


def _rgb(value: int) -> str:
    """Red, green and blue from 0 to 255."""
    return " ".join(str(part) for part in bytes.fromhex(color_of(value - 1).lstrip("#")))
