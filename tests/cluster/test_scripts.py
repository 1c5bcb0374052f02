"""The text of job scripts, written by hand from the manual pages of the batch systems."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mambamed.cluster.batch import SYSTEMS
from mambamed.cluster.destination import Destination
from mambamed.cluster.scripts import write_script
from mambamed.cluster.site import with_site
from mambamed.documents.foreign.jobqueue import read_site_queue
from mambamed.documents.jobs import JobRequest
from mambamed.errors import RecipeError

JOB = "gpus=1,time=4:00:00,mem=32G,cpus=8,queue=gpu,account=lab,{own}"
# What --job adds that only this system knows, and the lines of the script.
EXPECTED = {
    "slurm": (
        "constraint=a100,exclusive",
        """#SBATCH --requeue
        #SBATCH --job-name=mambamed-fold_0
        #SBATCH --output=FOLDER/fold_0.batch.log
        #SBATCH --open-mode=append
        #SBATCH --signal=B:TERM@120
        #SBATCH --partition=gpu
        #SBATCH --account=lab
        #SBATCH --time=04:00:00
        #SBATCH --mem=32768M
        #SBATCH --cpus-per-task=8
        #SBATCH --gres=gpu:1
        #SBATCH --constraint=a100
        #SBATCH --exclusive""",
    ),
    "pbs": (
        "place=scatter",
        """#PBS -N mambamed-fold_0
        #PBS -j oe
        #PBS -o FOLDER/fold_0.batch.log
        #PBS -r y
        #PBS -q gpu
        #PBS -A lab
        #PBS -l select=1:ncpus=8:mem=32768mb:ngpus=1
        #PBS -l walltime=04:00:00
        #PBS -l place=scatter""",
    ),
    "sge": (
        "gpu_type=a100",
        """#$ -N mambamed-fold_0
        #$ -j y
        #$ -o FOLDER/fold_0.batch.log
        #$ -r y
        #$ -S /bin/bash
        #$ -q gpu
        #$ -P lab
        #$ -pe smp 8
        #$ -l h_rt=04:00:00
        #$ -l h_vmem=4096M
        #$ -l gpu=1
        #$ -l gpu_type=a100""",
    ),
    "lsf": (
        "m=node7",
        """#BSUB -J mambamed-fold_0
        #BSUB -o FOLDER/fold_0.batch.log
        #BSUB -r
        #BSUB -Q "99"
        #BSUB -q gpu
        #BSUB -P lab
        #BSUB -n 8
        #BSUB -R "span[hosts=1]"
        #BSUB -W 240
        #BSUB -M 32768MB
        #BSUB -R "rusage[mem=32768MB]"
        #BSUB -gpu "num=1"
        #BSUB -m node7""",
    ),
}


@pytest.fixture(autouse=True)
def no_site(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DASK_ROOT_CONFIG", str(tmp_path / "etc"))
    monkeypatch.delenv("DASK_CONFIG", raising=False)
    monkeypatch.setenv("PYTHONPATH", "/my code")


def script(on: str, job: str, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    place, site = with_site(Destination.of(on, job=job))
    request = JobRequest(name="fold_0", words=("train",), folder="/the data", on=on)
    return write_script(folder, request, place, site).read_text()


@pytest.mark.parametrize("on", EXPECTED)
def test_a_script_asks_for_its_resources_and_runs_the_job(on, tmp_path) -> None:
    own, lines = EXPECTED[on]
    directives = [line.strip().replace("FOLDER", str(tmp_path)) for line in lines.splitlines()]
    text = script(on, JOB.format(own=own), tmp_path)
    assert text.splitlines() == [
        "#!/bin/bash",
        *directives,
        "",
        "export PYTHONPATH='/my code'",
        "cd '/the data' || exit 1",
        f"exec {sys.executable} -m mambamed.cluster.step {tmp_path} fold_0",
    ]
    if bash := shutil.which("bash"):
        assert subprocess.run([bash, "-n"], input=text, text=True, check=False).returncode == 0


def test_without_resources_a_script_leaves_them_to_the_site(tmp_path) -> None:
    for on in ("slurm", "sge", "lsf"):
        text = script(on, "", tmp_path)
        for word in ("time", "mem=", "gres", "h_rt", "-W", "-M", "rusage", "-q ", "partition", "signal"):
            assert word not in text, (on, word)
    assert "#PBS -l select=1:ncpus=1\n" in script("pbs", "", tmp_path)


def test_condor_gets_a_submit_file_that_runs_the_script(tmp_path) -> None:
    text = script("htcondor", "gpus=1,time=4:00:00,mem=32G,cpus=8,account=lab,requirements=HasGPU", tmp_path)
    assert text.splitlines() == [
        "executable = /bin/bash",
        f'arguments = "{tmp_path}/fold_0.sh"',
        "batch_name = mambamed-fold_0",
        f"output = {tmp_path}/fold_0.batch.log.out",
        f"error = {tmp_path}/fold_0.batch.log.err",
        f"log = {tmp_path}/fold_0.batch.log.condor",
        "getenv = True",
        "request_cpus = 8",
        "request_memory = 32768MB",
        "request_gpus = 1",
        "allowed_job_duration = 14400",
        "accounting_group = lab",
        "on_exit_remove = (ExitCode =!= 99)",
        "requirements = HasGPU",
        "queue",
    ]
    assert (tmp_path / "fold_0.sh").read_text().splitlines()[0] == "#!/bin/bash"
    with pytest.raises(RecipeError, match="HTCondor has no queues"):
        script("htcondor", "queue=gpu", tmp_path)


def test_kubernetes_gets_a_job_with_a_volume(tmp_path) -> None:
    job = json.loads(script("kubernetes", "image=lab/mambamed:1,pvc=data:/the data,gpus=2,mem=1G", tmp_path))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert job["metadata"]["generateName"] == "mambamed-fold-0-"
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "Never" and container["image"] == "lab/mambamed:1"
    assert container["resources"]["limits"] == {"memory": str(2**30), "nvidia.com/gpu": "2"}
    assert container["volumeMounts"] == [{"name": "data", "mountPath": "/the data"}]
    assert pod["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    assert container["command"][-2:] == [str(tmp_path), "fold_0"]
    for wrong, fact in (("", "needs an image"), ("image=a,pvc=x", "CLAIM:/PATH"), ("queue=a", "queue")):
        with pytest.raises(RecipeError, match=fact):
            script("kubernetes", wrong, tmp_path)


def test_the_file_of_the_site_is_honored(tmp_path) -> None:
    """Keys of dask-jobqueue's own jobqueue.yaml."""
    place = tmp_path / "home" / ".config" / "dask" / "jobqueue.yaml"
    place.parent.mkdir(parents=True)
    place.write_text(
        "jobqueue:\n"
        "  slurm:\n"
        "    cores: 4\n    memory: 16GB\n    walltime: 01:30:00\n    queue: normal\n    project: lab\n"
        "    interface: ib0\n"
        "    job-extra-directives: ['--constraint=avx512']\n"
        "    job-directives-skip: ['--mem']\n"
        "    job_script_prologue: ['module load cuda', 'source env.sh']\n"
        "    python: /site/python\n"
        "  pbs: {queue: workq}\n"
    )
    lines = script("slurm", "time=2:00:00", tmp_path).splitlines()
    assert {"#SBATCH --time=02:00:00", "#SBATCH --cpus-per-task=4", "#SBATCH --partition=normal"} < {*lines}
    assert {"#SBATCH --account=lab", "#SBATCH --constraint=avx512"} < {*lines}
    assert not [line for line in lines if "--mem" in line]
    assert lines.index("module load cuda") < lines.index("source env.sh") < len(lines) - 1
    assert lines[-1].startswith("exec /site/python -m mambamed.cluster.step ")
    assert read_site_queue("pbs").queue == "workq" and read_site_queue("lsf").queue is None
    place.write_text("# jobqueue:\n#   slurm:\n#     queue: normal\n")  # as Dask writes it
    assert read_site_queue("slurm").queue is None
    place.write_text("jobqueue:\n  slurm:\n    job-extra-directives: 7\n")
    with pytest.raises(RecipeError, match=r"jobqueue\.yaml: jobqueue\.slurm: job-extra-directives"):
        script("slurm", "", tmp_path)


@pytest.mark.parametrize(
    ("on", "printed", "listed"),
    [
        ("slurm", "4711;cluster\n", "  4711\n4712_3\n"),
        ("pbs", "4711.server\n", "4711.server\n4712.server\n"),
        ("sge", "4711\n", "job-ID prior\n------\n   4711 0.5 mambamed u r\n   4712 0.5 x u qw\n"),
        ("lsf", "Job <4711> is submitted to queue <gpu>.\n", "4711\n4712\n"),
        ("htcondor", "Submitting job(s).\n1 job(s) submitted to cluster 4711.\n", "4711\n4712\n"),
    ],
)
def test_ids_are_found_in_what_the_systems_print(on, printed, listed, tmp_path, monkeypatch) -> None:
    """The outputs are those of the manual pages."""
    for name, text in ((SYSTEMS[on].submit[0], printed), (SYSTEMS[on].listing[0], listed)):
        (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'EOF'\n{text}EOF\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "script").write_text("")
    job = SYSTEMS[on].submit_script(tmp_path / "script")
    assert job.partition(".")[0] == "4711"
    active = SYSTEMS[on].active()
    assert active is not None and job in active and len(active) == 2
