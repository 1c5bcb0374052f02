"""What a site's jobqueue.yaml adds to `--job`, which overrides it.

Sources: manual pages of sbatch (SLURM), qsub and pbs_resources (PBS), qsub (SGE), bsub (LSF) and
condor_submit (HTCondor), for the options that say the same; dask-jobqueue 0.9, for the keys of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from mambamed.cluster.batch import SYSTEMS
from mambamed.cluster.destination import Destination
from mambamed.documents.foreign.jobqueue import SiteQueue, read_site_queue
from mambamed.errors import RecipeError

# Options of each system that say what a portable key of `--job` says.
_SAME: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "slurm": {
        "time": ("t",),
        "mem": ("mem-per-cpu", "mem-per-gpu"),
        "cpus": ("cpus-per-task", "c", "cpus-per-gpu"),
        "gpus": ("gres", "G", "gpus-per-node", "gpus-per-task", "gpus-per-socket"),
        "queue": ("partition", "p"),
        "account": ("A",),
    },
    "pbs": {
        "time": ("walltime",),
        "mem": ("select", "nodes", "vmem", "pmem", "pvmem"),
        "cpus": ("select", "nodes", "ncpus"),
        "gpus": ("select", "nodes", "ngpus"),
        "queue": ("q",),
        "account": ("A",),
    },
    "sge": {
        "time": ("h_rt",),
        "mem": ("h_vmem", "mem_free", "m_mem_free", "mem_req", "virtual_free", "ram_free", "h_rss"),
        "cpus": ("pe",),
        "gpus": ("gpu",),
        "queue": ("q",),
        "account": ("P",),
    },
    "lsf": {
        "time": ("W",),
        "mem": ("M", "rusage[mem"),
        "cpus": ("n",),
        "gpus": ("gpu",),
        "queue": ("q",),
        "account": ("P",),
    },
    "htcondor": {
        "time": ("allowedjobduration",),
        "mem": ("requestmemory",),
        "cpus": ("requestcpus",),
        "gpus": ("requestgpus",),
        "account": ("accountinggroup",),
    },
}
# Short options of SLURM, for those that are no portable key.
_SHORT = {"C": "constraint", "G": "gpus", "L": "licenses", "N": "nodes", "n": "ntasks", "q": "qos"}
_SHORT |= {"w": "nodelist", "x": "exclude", "F": "nodefile", "D": "chdir", "M": "clusters"}
_REQUESTS = ("select", "h_vmem")  # what is asked for, where `mem` and `cpus` are what a worker uses
_OF_A_CHUNK = {"ncpus": "cpus", "ngpus": "gpus"}


def with_site(place: Destination) -> tuple[Destination, SiteQueue]:
    """The destination with the site's resources where `--job` gives none, and what else the site adds.

    Nothing is left of the site's file that contradicts `--job`.

    Raises:
        RecipeError: two keys of `--job` say the same, or one does not fit the site's chunks of PBS.
    """
    if place.on not in _SAME:
        return place, SiteQueue()
    _check_once(place)
    site, asked = read_site_queue(place.on), asked_by(place)
    memory = site.job_mem or site.mem or site.memory
    known = {
        "time": site.walltime,
        "mem": f"{memory}M" if memory and site.job_mem and memory.isdecimal() else memory,
        "cpus": site.job_cpu or site.ncpus or site.cores,
        "queue": site.queue,
        "account": site.account or site.project,
    }
    resources = {key: value for key, value in known.items() if value and key not in asked}
    whole = replace(place, resources=resources | dict(place.resources))
    spec, parts = _without(place.on, site.resource_spec, asked, whole)
    lines = [*parts, *(site.job_extra_directives or site.job_extra or ())]
    left = [line for given in lines for line in _kept(place.on, given, asked)]
    typed = [*_typed(place)]
    skip = [
        each
        for each in site.job_directives_skip or site.header_skip or ()
        if not any(each in line for line in typed) and not asked & meanings(place.on, each)
    ]
    changes = {"resource_spec": spec, "job_extra_directives": (*left,), "job_directives_skip": (*skip,)}
    changes["job_script_prologue"] = site.job_script_prologue or site.env_extra
    return whole, site.model_copy(update=changes)


def asked_by(place: Destination) -> set[str]:
    """What `--job` decides: portable keys, and the options of the batch system that it names.

    >>> sorted(asked_by(Destination.of("slurm", job="gres=gpu:2,constraint=a100")))
    ['constraint', 'gpus', 'gres']
    """
    return {meaning for key in place.resources for meaning in meanings(place.on, key)}


def meanings(on: str, option: str) -> set[str]:
    """An option of a batch system, and the portable keys of `--job` that say the same.

    >>> sorted(meanings("slurm", "p")), sorted(meanings("pbs", "ncpus"))
    (['p', 'queue'], ['cpus', 'ncpus'])
    """
    if on == "htcondor":
        option = option.replace("_", "").lower()
    name = _SHORT.get(option, option) if on == "slurm" else option
    same = _SAME.get(on, {})
    return {name} | {key for key, names in same.items() if option in names}


def _check_once(place: Destination) -> None:
    for key in _OF_A_CHUNK if place.on == "pbs" else ():
        if key in place.resources:
            own = _OF_A_CHUNK[key]
            raise RecipeError(f"--job {key}: is part of a chunk of PBS. Write {own}={place.resources[key]}.")
    for key in _SAME[place.on]:
        found = [each for each in place.resources if key in meanings(place.on, each)]
        if len(found) > 1 and not set(_REQUESTS) & set(found):
            raise RecipeError(f"--job: {' and '.join(found)} both set {key} of {place.on}. Keep one.")


def _kept(on: str, line: str, asked: set[str]) -> Iterator[str]:
    """A directive of the site without what `--job` decides; nothing if that is all of it."""
    flag, _, rest = line.strip().partition(" ")
    if flag == "-l":
        parts = [part.strip() for part in rest.split(",")]
        left = [part for part in parts if part and not meanings(on, part.partition("=")[0]) & asked]
        if left:
            yield line if left == parts else f"-l {','.join(left)}"
    elif flag == "-R":
        if not meanings(on, rest.strip("\"' ").partition("=")[0]) & asked:
            yield line
    elif not meanings(on, re.split(r"[=\s]", line.strip().lstrip("-"), maxsplit=1)[0]) & asked:
        yield line


def _without(on: str, spec: str | None, asked: set[str], whole: Destination) -> tuple[str | None, list[str]]:
    """The site's `resource-spec` with the numbers of `--job`, or what is left of it as further directives."""
    if spec is None:
        return None, []
    decided = {"mem"} if on == "sge" else {"mem", "cpus", "gpus"}
    if not decided & asked:
        left = [*_kept(on, f"-l {spec}", asked)]
        return (left[0].removeprefix("-l ") if left else None), []
    parts = [part.strip() for part in spec.split(",")]
    chunk = next((part for part in parts if part.startswith("select=")), None)
    others = [*_kept(on, f"-l {','.join(part for part in parts if part != chunk)}", asked | decided)]
    if chunk is None or "select" in asked:
        return None, others
    return _chunk(chunk, asked, whole), others


def _chunk(chunk: str, asked: set[str], whole: Destination) -> str:
    """A chunk of PBS with the numbers of `--job` in place of the site's."""
    if "+" in chunk:
        raise RecipeError(
            f"--job: the site's resource-spec ({chunk}) has several chunks, and it is unclear which one is "
            "meant. Give --job select=..."
        )
    mib = -(-(whole.memory_bytes or 0) // 2**20)
    own = {
        "cpus": ("ncpus", whole.count("cpus")),
        "mem": ("mem", f"{mib}mb"),
        "gpus": ("ngpus", whole.count("gpus")),
    }
    given = {name: value for key, (name, value) in own.items() if key in asked and key in whole.resources}
    first, *parts = chunk.split(":")
    kept = {name: value for name, _, value in (part.partition("=") for part in parts)}
    return ":".join([first, *(f"{name}={value}" for name, value in (kept | given).items())])


def _typed(place: Destination) -> Iterator[str]:
    """The directives of `--job` alone, also in the short form that dask-jobqueue writes for SLURM."""
    if place.on == "htcondor":
        return
    write = SYSTEMS[place.on].directives
    plain = write("", Path(), Destination(place.on))
    short = {"partition": "p", "account": "A", "time": "t"}
    for line in write("", Path(), place):
        if line in plain:
            continue
        yield line
        option, _, value = line.removeprefix("#SBATCH --").partition("=")
        if place.on == "slurm" and option in short:
            yield f"#SBATCH -{short[option]} {value}"
