"""`Info.cfg` of ACDC: one `key: value` per line.

Source: Bernard et al. 2018, IEEE Trans. Med. Imaging 37:2514; the challenge's readme.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mambamed.documents.base import ForeignDocument
from mambamed.errors import DatasetError
from mambamed.io.members import Source
from mambamed.io.text_files import read_text
from mambamed.numerals import is_whole
from mambamed.schema_errors import shortened


class AcdcInfo(ForeignDocument):
    """What is known of a patient; all values are text."""

    ED: str = ""
    """Frame at the end of diastole."""
    ES: str = ""
    """Frame at the end of systole."""
    Group: str = ""
    Height: str | None = None
    Weight: str | None = None

    @classmethod
    def read(cls, path: Source) -> AcdcInfo:
        """Read the file."""
        lines = read_text(path, errors="replace").splitlines()
        pairs = (line.partition(":") for line in lines if ":" in line)
        return cls.checked({key.strip(): value.strip() for key, _, value in pairs}, path)

    def frame(self, phase: Literal["ED", "ES"], path: Path) -> int:
        """The number of a phase's frame.

        Raises:
            DatasetError: it is missing or invalid.
        """
        given = self.ED if phase == "ED" else self.ES
        if not is_whole(given):
            fact = f"expected the number of a frame, got {shortened(given)}" if given else "missing"
            raise DatasetError(f"{path}: {phase}: {fact}. Correct the file.")
        return int(given)
