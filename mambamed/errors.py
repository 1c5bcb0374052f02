"""Every fault that is the user's to mend, as one line: file, fact, way out.

The command line prints such an error without a traceback and exits with its `exit_code`;
any other exception is a bug of mambamed and keeps its traceback.
"""

from __future__ import annotations


class MambamedError(Exception):
    """A fault with one clear line: `file: fact; way out`."""

    exit_code = 2


class RecipeError(MambamedError):
    """A recipe, override or option cannot be used; may hold several lines, one a fault."""


class DatasetError(MambamedError):
    """A dataset as a whole cannot be used: no images, a broken manifest, two files of one case."""


class CaseError(MambamedError):
    """One case cannot be used; in a batch the others go on and the exit code is 3."""


class ModelError(MambamedError):
    """A run folder, checkpoint or model file cannot be used."""


class RunError(MambamedError):
    """A run failed while working: a full disk, a loss that stays non-finite, a folder in use."""

    exit_code = 1
