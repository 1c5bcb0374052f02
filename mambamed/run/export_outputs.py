"""The output files of `export`, whatever their format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mambamed.io.ledger import Ledger, foreign_file
from mambamed.io.lock import reading
from mambamed.io.ownership import own_file


@contextmanager
def export_outputs(
    run_folder: Path, output: Path, default: str, names: Sequence[str], overwrite: bool
) -> Iterator[bool]:
    """Keep a run from being written, and check the files that its export will write.

    At the default place in the run folder, an export replaces an earlier one.

    Args:
        output: the first file, which `-o` names.
        default: its name in the run folder by default.
        names: of all files, next to `output`.
        overwrite: whether other files may be replaced too.

    Yields: whether files with other content may be replaced.

    Raises RecipeError: a file is somebody else's; RunError: it cannot be written.
    """
    ledger = Ledger(run_folder).refresh()
    ours = bool(ledger.kind) and output.absolute() == (run_folder / default).absolute()
    with ExitStack() as held:
        held.enter_context(reading(run_folder))
        if ours and (foreign := ledger.foreign(names)):
            raise foreign_file(foreign)
        for name in () if ours else names:
            held.enter_context(own_file(output.with_name(name), replace=overwrite))
        yield ours or overwrite
