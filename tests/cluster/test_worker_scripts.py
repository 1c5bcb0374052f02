"""Job scripts of Dask workers: the directives that dask-jobqueue writes for `--job` and the site's file.

Expected lines are written by hand from the manual pages of the batch systems.
"""

from __future__ import annotations

import pytest

from mambamed.cluster.batch import SYSTEMS
from mambamed.cluster.destination import Destination
from mambamed.cluster.workers import batch_cluster, open_workers
from mambamed.errors import RunError

pytest.importorskip("dask_jobqueue")
SITE = """jobqueue:
  pbs: {resource-spec: "select=1:ncpus=24:mem=90gb", memory: 90GB, cores: 24, queue: workq}
  sge: {resource-spec: "m_mem_free=4G", memory: 32GB, cores: 8}
  htcondor: {disk: 7GB, memory: 8GB, job-extra-directives: {requirements: HasGPU, rank: Memory}}
  slurm:
    {job-extra-directives: ["--constraint=avx512"], job-directives-skip: ["-n 1"], walltime: "02:00:00"}
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Of `--on`, `--job` and the site's file: the directives of the job of a worker."""
    from dask import config

    home = tmp_path / "site"
    home.mkdir()
    monkeypatch.setenv("DASK_CONFIG", str(home))
    monkeypatch.chdir(tmp_path)
    for system in SYSTEMS.values():
        for name in (system.submit[0], system.cancel[0]):
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def of(on: str, job: str, site: str = "") -> list[str]:
        (home / "jobqueue.yaml").write_text(site)
        config.refresh(paths=[str(home)])
        kind, options = batch_cluster(Destination.of(on, 1, job), 1)
        for key in ("shared_temp_directory", "scheduler_options"):  # of the cluster, which is not started
            del options[key]
        lines = kind.job_cls("tcp://node1:8786", "w", **options).job_script().splitlines()
        return [line.partition(" ")[2] if line.startswith("#") else line for line in lines[1:]]

    yield of
    config.refresh()


JOB = "gpus=2,time=4:00:00,mem=32G,cpus=8,account=lab"


def asked(lines: list[str]) -> list[str]:
    """Without the name of the job, whose option differs."""
    return [line for line in lines if line.startswith("-") and line[:3] not in ("-J ", "-N ")]


@pytest.mark.parametrize(
    ("on", "more", "lines"),
    [
        (
            "slurm",
            "queue=gpu,constraint=a100",
            "-p gpu|-A lab|-n 1|--cpus-per-task=8|--mem=32768M|-t 04:00:00|--constraint=a100|--gres=gpu:2",
        ),
        (
            "pbs",
            "queue=gpu,place=scatter",
            "-q gpu|-A lab|-l select=1:ncpus=8:mem=32768mb:ngpus=2|-l walltime=04:00:00|-l place=scatter",
        ),
        (
            "sge",
            "queue=gpu,gpu_type=a100",
            "-q gpu|-P lab|-l h_vmem=4096M|-l h_rt=04:00:00|-cwd|-j y|-l gpu_type=a100|-pe smp 8|-l gpu=2",
        ),
        (
            "lsf",
            "queue=gpu,m=node7",
            '-q gpu|-P "lab"|-n 8|-R "span[hosts=1]"|-M 34359739|-W 240|-m node7|-gpu "num=2"',  # KB
        ),
    ],
)
def test_the_job_of_a_worker_asks_for_its_resources(script, on, more, lines) -> None:
    assert asked(script(on, f"{JOB},{more}")) == lines.split("|")


def test_a_job_of_condor_asks_for_its_resources(script) -> None:
    lines = script("htcondor", f"{JOB},requirements=HasGPU")
    assert {
        "RequestCpus = MY.DaskWorkerCores",
        "MY.DaskWorkerCores = 8",
        f"MY.DaskWorkerMemory = {32 * 2**30}",
        "requirements = HasGPU",
        "request_gpus = 2",
        "allowed_job_duration = 14400",
        "accounting_group = lab",
    } < {*lines}


@pytest.mark.parametrize(
    ("on", "site", "job", "present", "absent"),
    [
        (
            "slurm",
            'job-mem: 4GB, job-cpu: 2, job-directives-skip: ["--mem"]',
            "mem=32G,cpus=8,gpus=2",
            "--mem=32768M|--cpus-per-task=8|--gres=gpu:2",
            "--mem=4|task=2",
        ),
        (
            "slurm",
            "job-mem: 4096, job-cpu: 2, memory: 1GB, cores: 1",
            "",
            "--mem=4096M|--cpus-per-task=2",
            "",
        ),
        ("lsf", "ncpus: 2, mem: 4000000000", "mem=32G,cpus=8", "-n 8|-M 34359739", "-n 2|-M 4000000"),
        ("lsf", "ncpus: 2, mem: 4000000000", "", "-n 2|-M 4000000", ""),
        (
            "lsf",
            """job-extra-directives: ['-R "rusage[mem=1000]"', '-gpu "num=1"', "-x"]""",
            "mem=1G,gpus=2",
            '-gpu "num=2"|-x',
            "rusage|num=1",
        ),
        (
            "sge",
            'job-extra-directives: ["-pe mpi 4", "-l gpu=1,m_mem_free=1G,os=linux", "-q all.q"]',
            "mem=8G,cpus=2,gpus=2,queue=gpu.q",
            "-pe smp 2|-l gpu=2|-l os=linux|-q gpu.q|-l h_vmem=4096M",
            "mpi|m_mem_free|gpu=1|all.q",
        ),
    ],
)
def test_no_key_of_the_site_contradicts_the_command(on, site, job, present, absent, script) -> None:
    """Also not the keys that dask-jobqueue itself reads."""
    lines = asked(script(on, job, f"jobqueue:\n  {on}: {{{site}}}\n"))
    assert {*present.split("|")} <= {*lines}
    assert not [line for line in lines for part in absent.split("|") if part and part in line]


def test_a_chunk_of_pbs_that_is_given_is_asked_for_once(script) -> None:
    lines = asked(script("pbs", "mem=4G,select=2:ncpus=1:mem=4gb"))
    assert [line for line in lines if "select" in line] == ["-l select=2:ncpus=1:mem=4gb"]
    lines = asked(script("sge", "mem=4G,h_vmem=5G"))
    assert [line for line in lines if "h_vmem" in line] == ["-l h_vmem=5G"]


def test_without_a_time_the_queue_decides_and_not_dask(monkeypatch, tmp_path) -> None:
    """dask-jobqueue's own default is 30 minutes. Former names of keys are hidden from it."""
    from dask import config

    monkeypatch.setenv("DASK_CONFIG", str(tmp_path))
    found = []

    def cluster(*_: object) -> None:
        found.append(config.get("jobqueue.slurm.walltime"))
        assert config.get("jobqueue.slurm.job-extra") is None
        raise RunError("not started")

    monkeypatch.setattr("mambamed.cluster.workers._batch_cluster", cluster)
    for job in ("mem=1G", "mem=1G,time=60"):
        with (
            config.set({"jobqueue.slurm.job-extra": ["--mem=4G"]}),
            pytest.raises(RunError),
            open_workers(Destination.of("slurm", 1, job)),
        ):
            pass
    assert found == [None, "00:30:00"] and config.get("jobqueue.slurm.walltime") == "00:30:00"


def test_the_file_of_the_site_counts_unless_the_command_overrides_it(script) -> None:
    lines = asked(script("pbs", "queue=long", SITE))
    assert "-q long" in lines and [line for line in lines if "select" in line] == [
        "-l select=1:ncpus=24:mem=90gb"
    ]
    assert "-l select=1:ncpus=24:mem=16384mb" in asked(script("pbs", "mem=16G", SITE))
    lines = asked(script("sge", "", SITE))
    assert "-l m_mem_free=4G" in lines and not [line for line in lines if "h_vmem" in line]
    assert {"-l h_vmem=1024M", "-pe smp 8"} < {*asked(script("sge", "mem=8G", SITE))}
    lines = script("htcondor", "rank=0", SITE)
    assert {"requirements = HasGPU", "rank = 0", f"MY.DaskWorkerDisk = {7 * 10**9}"} < {*lines}
    lines = asked(script("slurm", "mem=1G", SITE))
    assert {"--constraint=avx512", "-t 02:00:00", "--mem=1024M"} < {*lines} and "-n 1" not in lines
