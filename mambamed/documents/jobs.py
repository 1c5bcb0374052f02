"""The documents of a job, a whole command that runs somewhere: what was asked for, and what became of it.

Each file has one writer: NAME.json the command that submits, NAME.state.json the job itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mambamed.documents.base import Document, Model, NotNegative, Size
from mambamed.errors import MambamedError, RunError

JobName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
Ending = Literal["done", "failed", "interrupted"]


class JobRequest(Document):
    """NAME.json: a command and how it is run."""

    FAULT: ClassVar[type[MambamedError]] = RunError
    REMEDY: ClassVar[str] = "Remove the folder of jobs and run the command again."

    name: JobName
    words: Annotated[tuple[str, ...], Field(min_length=1)]
    """Arguments of mambamed."""
    again: tuple[str, ...] = ()
    """Further arguments from the second start on, e.g. `--resume`."""
    folder: str
    """Working folder."""
    on: str
    """`local`, a batch system, or the address of a Dask scheduler."""
    resources: dict[str, str] = Field(default_factory=dict)
    """What `--job` asked for."""
    limit_seconds: NotNegative | None = None
    """Time limit of one start; before it, the command saves and stops."""
    submissions: tuple[str, ...] = ()
    """Ids of the batch system, in order."""


class Start(Model):
    """One start of a job."""

    host: str
    process: Size
    id: str = ""
    """Of the batch system."""
    began: NotNegative
    """Seconds since 1970, like `seen` and `ended`."""
    seen: NotNegative
    """When the job last reported that it runs."""
    ended: NotNegative | None = None
    ending: Ending | None = None
    """None while it runs, and for ever if it was killed."""
    exit_code: int | None = None
    fault: str = ""
    """The last line that a failed command printed."""


class JobState(Document):
    """NAME.state.json: the starts of a job, in order."""

    FAULT: ClassVar[type[MambamedError]] = RunError
    REMEDY: ClassVar[str] = "Remove the folder of jobs and run the command again."

    starts: tuple[Start, ...] = ()

    @classmethod
    def of(cls, folder: Path, name: str) -> JobState:
        """The record of a job in its folder; empty before the first start."""
        path = folder / f"{name}.state.json"
        return cls.read(path) if path.is_file() else cls()

    @property
    def ending(self) -> Ending | None:
        """How the last start ended."""
        return self.starts[-1].ending if self.starts else None
