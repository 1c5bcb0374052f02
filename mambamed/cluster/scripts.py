"""Job scripts: the directives of the batch system, what the site adds, and the one command that runs."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from mambamed.cluster.batch import SYSTEMS
from mambamed.cluster.destination import Destination
from mambamed.cluster.kubernetes import job_manifest
from mambamed.documents.foreign.jobqueue import SiteQueue
from mambamed.documents.jobs import JobRequest
from mambamed.io.atomic import write_text
from mambamed.io.json_files import write_json

_PREFIXES = {"slurm": "#SBATCH ", "pbs": "#PBS ", "sge": "#$ ", "lsf": "#BSUB ", "htcondor": ""}
_WITHIN_SPEC = {"pbs": "select", "sge": "h_vmem"}  # what `resource-spec` replaces


def write_script(folder: Path, request: JobRequest, place: Destination, site: SiteQueue) -> Path:
    """Write what is submitted for a job.

    Args:
        folder: of the jobs; the script refers to it by its absolute path.
        request: the job.
        place: a batch system, with the site's resources.
        site: what the site adds.

    Returns:
        The file to submit.

    Raises:
        RecipeError: a resource that the batch system does not have.
    """
    script, name = folder / f"{request.name}.sh", f"mambamed-{request.name}"
    if place.on == "kubernetes":
        write_json(manifest := folder / f"{request.name}.job.json", job_manifest(folder, request, place))
        return manifest
    lines = SYSTEMS[place.on].directives(name, folder / f"{request.name}.batch.log", place)
    extra = [f"{_PREFIXES[place.on]}{line}" for line in site.job_extra_directives or ()]
    if site.resource_spec and place.on in _WITHIN_SPEC:
        prefix = _PREFIXES[place.on]
        own = f"{prefix}-l {_WITHIN_SPEC[place.on]}="
        lines = [line for line in lines if not line.startswith(own)] + [f"{prefix}-l {site.resource_spec}"]
    lines = [
        line for line in lines if not any(skip in line for skip in site.job_directives_skip or ())
    ] + extra
    command = [site.python or sys.executable, "-m", "mambamed.cluster.step", str(folder), request.name]
    body = [
        *(site.job_script_prologue or ()),
        *(
            [f"export PYTHONPATH={shlex.quote(os.environ['PYTHONPATH'])}"]
            if os.environ.get("PYTHONPATH")
            else []
        ),
        f"cd {shlex.quote(request.folder)} || exit 1",
        f"exec {shlex.join(command)}",  # so that signals of the batch system reach Python
    ]
    directives = [] if place.on == "htcondor" else lines
    write_text(script, "\n".join(["#!/bin/bash", *directives, "", *body, ""]))
    if place.on != "htcondor":
        return script
    head = ["executable = /bin/bash", f'arguments = "{script}"']
    write_text(submit := folder / f"{request.name}.sub", "\n".join([*head, *lines, "queue", ""]))
    return submit
