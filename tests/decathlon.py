"""Some of the real hippocampus cases as a small task of the Decathlon."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mambamed.io.json_files import read_json
from tests.real_data import DATA

SOURCE = DATA / "Task04_Hippocampus"


def link_hippocampus(root: Path, seen: int) -> Sequence[dict[str, Any]]:
    """Make `root` a task of the first `seen` cases; the entries of the others. Skips without the data."""
    if not SOURCE.is_dir():
        pytest.skip(f"no {SOURCE}; see MAMBAMED_TEST_DATA")
    document = read_json(SOURCE / "dataset.json")
    entries = document["training"]
    for entry in entries[:seen]:
        for kind in ("image", "label"):
            file = root / entry[kind]
            file.parent.mkdir(exist_ok=True)
            file.symlink_to((SOURCE / entry[kind]).resolve())
    document["training"], document["numTraining"] = entries[:seen], seen
    (root / "dataset.json").write_text(json.dumps(document))
    return entries[seen:]
