"""`jobqueue.yaml` of dask-jobqueue: how a site's batch system wants its jobs.

Source: dask-jobqueue 0.9, `jobqueue.yaml`; Dask's documentation, "Configuration", for the places.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, ConfigDict

from mambamed.documents.base import ForeignDocument
from mambamed.documents.foreign.values import Text
from mambamed.errors import MambamedError, RecipeError
from mambamed.io.text_files import read_text
from mambamed.recipe.document import parse_document

_SECTION = re.compile(r"^jobqueue\s*:", re.MULTILINE)
NumberOrText = Annotated[
    str | None, BeforeValidator(lambda v: str(v) if isinstance(v, (int, float)) and v is not True else v)
]
Lines = tuple[Text, ...] | None


def _lines(value: object) -> object:
    """Lines of directives; HTCondor has keys with values."""
    if isinstance(value, dict):
        return tuple(f"{key} = {each}" for key, each in value.items())
    return tuple(value) if isinstance(value, list) else value


class SiteQueue(ForeignDocument):
    """The section of one batch system; keys that concern Dask's workers are ignored."""

    model_config = ConfigDict(alias_generator=lambda name: name.replace("_", "-"))

    FAULT: ClassVar[type[MambamedError]] = RecipeError

    queue: NumberOrText = None
    account: NumberOrText = None
    project: NumberOrText = None
    walltime: NumberOrText = None
    memory: NumberOrText = None
    cores: NumberOrText = None
    python: NumberOrText = None
    disk: NumberOrText = None
    resource_spec: NumberOrText = None
    job_extra_directives: Annotated[Lines, BeforeValidator(_lines)] = None
    job_script_prologue: Lines = None
    job_directives_skip: Lines = None
    job_cpu: NumberOrText = None
    """Of SLURM; `cores` are those of the worker."""
    job_mem: NumberOrText = None
    ncpus: NumberOrText = None
    """Of LSF."""
    mem: NumberOrText = None
    job_extra: Annotated[Lines, BeforeValidator(_lines)] = None
    """Former names of `job-extra-directives`, `job-directives-skip` and `job-script-prologue`."""
    header_skip: Lines = None
    env_extra: Lines = None


def read_site_queue(system: str, environment: Mapping[str, str] | None = None) -> SiteQueue:
    """What the site says of a batch system, e.g. "slurm".

    The file is looked for where Dask does: in `DASK_CONFIG` (a file or folder), `~/.config/dask`,
    `/etc/dask`; the first one that has the section counts.

    Raises:
        RecipeError: a file cannot be parsed, or a value has another type.
    """
    environment = os.environ if environment is None else environment
    home = Path(environment.get("HOME") or Path.home())
    own = [Path(environment["DASK_CONFIG"])] if environment.get("DASK_CONFIG") else []
    for place in (*own, home / ".config" / "dask", Path(environment.get("DASK_ROOT_CONFIG", "/etc/dask"))):
        for path in sorted(place.glob("*.y*ml")) if place.is_dir() else [place]:
            # Dask itself writes one in which everything is a comment.
            if not path.is_file() or not _SECTION.search(text := read_text(path)):
                continue
            found = parse_document(text, str(path))[0].get("jobqueue")
            if isinstance(found, dict) and isinstance(section := found.get(system), dict):
                known = {key.replace("_", "-"): value for key, value in section.items()}
                return SiteQueue.checked(known, f"{path}: jobqueue.{system}")
    return SiteQueue()
