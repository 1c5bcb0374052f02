"""What the command line gives overrides the site's file, whichever option of the batch system says it.

Expected lines are written by hand from the manual pages of the batch systems.
"""

from __future__ import annotations

import pytest

from mambamed.cluster.destination import Destination
from mambamed.cluster.scripts import write_script
from mambamed.cluster.site import with_site
from mambamed.documents.jobs import JobRequest
from mambamed.errors import RecipeError


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """Of `--on`, `--job` and the site's section: the directives of the job of a training."""
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "jobqueue.yaml"))

    def of(on: str, job: str, site: str) -> list[str]:
        (tmp_path / "jobqueue.yaml").write_text(f"jobqueue:\n  {on}: {{{site}}}\n")
        place, found = with_site(Destination.of(on, job=job))
        request = JobRequest(name="a", words=("train",), folder="/data", on=on)
        text = write_script(tmp_path, request, place, found).read_text()
        return [line.partition(" ")[2] if line.startswith("#") else line for line in text.splitlines()]

    return of


@pytest.mark.parametrize(
    ("on", "site", "job", "present", "absent"),
    [
        ("slurm", "job-mem: 4GB, job-cpu: 2", "", "--mem=4096M|--cpus-per-task=2", ""),
        ("slurm", "job-mem: 4096, memory: 1GB", "", "--mem=4096M", ""),  # without a unit: MB
        ("slurm", "job-mem: 4GB, job-cpu: 2", "mem=8G,cpus=4", "--mem=8192M|--cpus-per-task=4", "4096|=2"),
        (
            "slurm",
            'job-extra-directives: ["--mem-per-cpu=1G", "-p slow", "-t 60", "--gres=gpu:1", "-C old", "-O"]',
            "mem=8G,queue=gpu,time=2h,gpus=2,constraint=new",
            "--mem=8192M|--partition=gpu|--time=02:00:00|--gres=gpu:2|--constraint=new|-O",
            "per-cpu|slow|-t 60|gpu:1|old",
        ),
        ("slurm", "memory: 16GB, queue: slow", "mem-per-cpu=2G,p=gpu", "--mem-per-cpu=2G|--p=gpu", "slow"),
        ("slurm", 'job-directives-skip: ["--mem", "-A"]', "mem=8G", "--mem=8192M", ""),
        ("slurm", 'job-directives-skip: ["--mem"], memory: 16GB', "cpus=2", "--cpus-per-task=2", "--mem"),
        ("slurm", 'job-extra: ["--gres=gpu:1"]', "", "--gres=gpu:1", ""),
        (
            "pbs",
            'resource-spec: "select=1:ncpus=24:mem=90gb:ngpus=1:arch=x86,place=excl"',
            "mem=16G",
            "-l select=1:ncpus=24:mem=16384mb:ngpus=1:arch=x86|-l place=excl",
            "90gb",
        ),
        ("pbs", 'resource-spec: "select=1:ncpus=2,walltime=1:0"', "time=2h", "-l walltime=02:00:00", "=1:0"),
        (
            "pbs",
            'resource-spec: "nodes=1:ppn=4,file=1gb"',
            "cpus=2",
            "-l select=1:ncpus=2|-l file=1gb",
            "ppn",
        ),
        (
            "pbs",
            'job-extra-directives: ["-A x", "-l walltime=9"]',
            "account=lab,time=1h",
            "-A lab",
            "-A x|=9",
        ),
        ("sge", 'resource-spec: "m_mem_free=4G,os=x"', "mem=8G,cpus=2", "-l h_vmem=4096M|-l os=x", "free"),
        ("sge", 'resource-spec: "m_mem_free=4G,gpu=1"', "gpus=2", "-l m_mem_free=4G|-l gpu=2", "gpu=1"),
        ("lsf", "ncpus: 2, mem: 4000000000", "mem=8G", "-n 2|-M 8192MB", "3815"),
        (
            "htcondor",
            "job-extra-directives: {Request_Memory: 1GB, requirements: Old, rank: Memory}",
            "mem=8G,requirements=New",
            "request_memory = 8192MB|requirements = New|rank = Memory",
            "1GB|Old",
        ),
    ],
)
def test_the_command_overrides_the_site(on, site, job, present, absent, lines) -> None:
    found = lines(on, job, site)
    assert {*present.split("|")} <= {*found}
    assert not [line for line in found for part in absent.split("|") if part and part in line]


@pytest.mark.parametrize(
    ("on", "job", "fact"),
    [
        ("slurm", "gpus=1,gres=gpu:2", "--job: gpus and gres both set gpus of slurm. Keep one."),
        ("slurm", "mem-per-cpu=1G,mem=4G", "mem-per-cpu and mem both set mem"),
        ("htcondor", "mem=1G,request_memory=2G", "both set mem of htcondor"),
        ("pbs", "ncpus=4", "--job ncpus: is part of a chunk of PBS. Write cpus=4."),
        ("pbs", "cpus=4", r"select=1:ncpus=2\+2:ncpus=1\) has several chunks.*Give --job select="),
    ],
)
def test_a_contradiction_that_cannot_be_resolved_is_one_line(on, job, fact, lines) -> None:
    with pytest.raises(RecipeError, match=fact):
        lines(on, job, 'resource-spec: "select=1:ncpus=2+2:ncpus=1"' if on == "pbs" else "")
