"""The files below a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def files_below(source: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """The files in a folder and its subfolders, folder by folder, sorted by name.

    Hidden files and folders are left out. Links to folders are followed; a folder that is reached twice is
    listed once. `on_error` receives the error of a folder that cannot be listed.
    """
    waiting, seen = [Path(source)], {os.path.realpath(source)}
    while waiting:
        folder = waiting.pop()
        folders = []
        try:
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            if on_error is not None:
                on_error(error)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                if real not in seen:
                    seen.add(real)
                    folders.append(folder / entry.name)
            else:
                yield folder / entry.name
        waiting += reversed(folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False
