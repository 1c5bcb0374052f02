"""Cases in Dask workers: of this machine, of a batch system, or of a scheduler that somebody started.

Dask is imported here alone, when `--on` asks for it. Only descriptions of cases (ids, paths, settings) and
small results pass its scheduler; images, models and results lie on a file system that all machines share.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import mambamed
from mambamed.cluster.batch import SYSTEMS
from mambamed.cluster.destination import PORTABLE, Destination, clock
from mambamed.cluster.kubernetes import dask_cluster
from mambamed.cluster.site import with_site
from mambamed.cores import THREADS, cores
from mambamed.errors import MambamedError, RecipeError, RunError
from mambamed.progress import Progress, Silence

_CLUSTERS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
}
_FAILURES = 1  # times that a case is tried again in another worker before it is tried alone
# Dask's web server cannot be left out: on a free port, for this machine alone.
_WEB = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
_CONNECT_SECONDS = 30
_STARTS = 3  # attempts to start the workers of this machine
_ENDED = "Nanny failed to start worker process"  # Dask's error if the process of a worker ends at its start
_CLOSE_SECONDS = 300  # before its time limit a worker takes no more cases


class WorkerPool:
    """The workers of a Dask scheduler; see `preparation.pool.Pool`."""

    queue, breaks, worker = 2, False, "worker"

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def number(self) -> int:
        """Cases that the workers do at a time; at least 1."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return max(1, sum(each["nthreads"] for each in workers))

    @contextmanager
    def open(self, number: int) -> Iterator[Executor]:
        yield _ClientExecutor(self._client)

    def remedy(self) -> str:
        return "possibly for lack of memory. Give more with --job mem=..., or leave the case out."


class _ClientExecutor(Executor):
    """Tasks of a Dask client as futures; a case whose workers died raises BrokenExecutor.

    Dask's own executor never ends a future whose result is lost with its worker and whose repetition fails.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._place = os.getcwd(), mambamed.__version__  # noqa: PTH109 - as text

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def finish(done: Any) -> None:
            try:
                future.set_result(done.result())
            except BaseException as error:
                future.set_exception(self._translated(error))

        try:
            task = self._client.submit(_in_worker, self._place, fn, args, kwargs, pure=False)
        except Exception as error:
            raise self._translated(error) from error
        task.add_done_callback(finish)
        return future

    def _translated(self, error: BaseException) -> BaseException:
        if type(error).__name__ == "KilledWorker":
            return BrokenExecutor(str(error))
        if not isinstance(error, MambamedError) and self._client.status != "running":
            remedy = "Start it, and run the same command again: finished cases are kept."
            return RunError(f"--on: the connection to the Dask scheduler was lost. {remedy}")
        return error


def _in_worker(place: tuple[str, str], fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a function as it would be called where the command runs."""
    folder, version = place
    if version != mambamed.__version__:
        raise RunError(
            f"a worker has mambamed {mambamed.__version__}, this command {version}. Install the same."
        )
    try:
        if os.getcwd() != folder:  # noqa: PTH109
            os.chdir(folder)
    except OSError as error:
        raise RunError(f"{folder}: a worker does not see this folder. Use a shared file system.") from error
    return fn(*args, **kwargs)


@contextmanager
def open_workers(
    place: Destination, threads: int | None = 1, progress: Progress | None = None
) -> Iterator[WorkerPool]:
    """Start workers, or find those of a scheduler.

    Args:
        place: where.
        threads: of each worker's numerical libraries, if neither `--job cpus` nor OMP_NUM_THREADS gives it;
            None: a share of the cores.
        progress: receives messages.

    Raises:
        RecipeError: Dask is not installed, or an option is missing.
        RunError: the scheduler, the batch system or its workers cannot be reached.
    """
    progress = progress or Silence()
    try:
        from dask import config
        from distributed import Client
        from distributed.security import Security

        if place.on in _CLUSTERS:
            importlib.import_module("dask_jobqueue")  # its settings
    except ImportError as error:
        raise RecipeError(f"--on: needs Dask ({error}). Run: pip install 'mambamed[cluster]'") from error
    for name in ("distributed", "distributed.client"):  # faults are reported by case
        logging.getLogger(name).setLevel(logging.CRITICAL)
    settings = {
        "distributed.scheduler.allowed-failures": _FAILURES,
        "distributed.admin.tick.limit": "1h",
        "distributed.worker.profile.enabled": False,  # it looks at every worker 100 times a second
        # A worker of a busy machine may need longer than Dask's 15 s to start again, and would be given up.
        "distributed.deploy.lost-worker-timeout": "1d" if place.on == "local" else "2m",
    }
    if place.on in _CLUSTERS:
        # `with_site` has read them, and dask-jobqueue would let them override `--job`.
        settings |= {f"jobqueue.{place.on}.{key}": None for key in ("job-extra", "header-skip", "env-extra")}
        if with_site(place)[0].limit_seconds is None:
            settings[f"jobqueue.{place.on}.walltime"] = None  # of the queue, not dask-jobqueue's 30 minutes
    with ExitStack() as opened:
        opened.enter_context(config.set(settings))
        if place.is_address:
            try:
                client = opened.enter_context(
                    Client(place.on, timeout=_CONNECT_SECONDS, set_as_default=False)
                )
                client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
            except (OSError, TimeoutError) as error:
                raise RunError(f"--on {place.on}: no scheduler with workers answers. Start them.") from error
        else:
            if place.on != "local" and place.jobs is None:
                raise RecipeError(f"--on {place.on}: the number of workers is missing. Give --jobs N.")
            makers = {"local": _local_cluster, "kubernetes": _pods}
            # Without certificates every user of these machines could run code through the scheduler.
            try:
                made = makers.get(place.on, _batch_cluster)(place, threads, Security.temporary())
                cluster = opened.enter_context(made)
                client = opened.enter_context(Client(cluster, set_as_default=False))
            except ImportError as error:
                raise RecipeError(f"--on: {error}. Run: pip install 'mambamed[cluster]'") from error
        pool = WorkerPool(client)
        progress.say(f"workers: {place.on}, {place.jobs or pool.number}")
        yield pool


def _local_cluster(place: Destination, threads: int | None, security: Any) -> Any:
    from distributed import LocalCluster

    number = place.jobs or cores()
    each = threads or max(1, cores() // number)
    options: dict[str, Any] = {
        "n_workers": number,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": _WEB["dashboard_address"],
        "scheduler_kwargs": _WEB,
        "memory_limit": place.memory_bytes or 0,
        "security": security,
        "env": _environment(place, each),
    }
    return _started(lambda: LocalCluster(**options), _STARTS)


def _started(make: Callable[[], Any], attempts: int) -> Any:
    """A cluster; Dask replaces a worker that is killed, but not while the cluster starts."""
    try:
        return make()
    except RuntimeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if str(cause) != _ENDED:
            text = " ".join(str(cause).split())
            raise RunError(f"--on local: the workers cannot be started: {text}. Correct this.") from error
        if attempts == 1:
            remedy = "If memory is short, use fewer --jobs. A script needs: if __name__ == '__main__'."
            raise RunError(f"--on local: a worker ended while it started. {remedy}") from error
        return _started(make, attempts - 1)


def _environment(place: Destination, threads: int) -> dict[str, str]:
    """The numbers of threads: those of `--job cpus`, else of the environment, else `threads`.

    OMP_NUM_THREADS counts for every library that the environment does not name: torch takes MKL_NUM_THREADS
    first, and two threads that wait for each other on one core are many times slower than one.
    """
    cpus, own = place.count("cpus"), os.environ.get("OMP_NUM_THREADS", threads)
    return {name: str(cpus or os.environ.get(name, own)) for name in THREADS}


def _pods(place: Destination, threads: int | None, _: Any) -> Any:
    """Pods have no certificates: Dask's operator does not support them."""
    return dask_cluster(place, _environment(place, threads or 1))


@contextmanager
def _batch_cluster(place: Destination, threads: int | None, security: Any) -> Iterator[Any]:
    kind, options = batch_cluster(place, threads)
    with kind(**options, security=security) as cluster:
        cluster.adapt(minimum_jobs=place.jobs, maximum_jobs=place.jobs)  # a job that is lost is replaced
        yield cluster


def batch_cluster(place: Destination, threads: int | None) -> tuple[type[Any], dict[str, Any]]:
    """The class of dask-jobqueue, and its arguments, for workers in jobs of a batch system.

    Raises:
        RecipeError: an option is missing.
        RunError: the commands of the batch system are not found.
    """
    for name in (SYSTEMS[place.on].submit[0], SYSTEMS[place.on].cancel[0]):
        if not any((Path(folder) / name).is_file() for folder in os.get_exec_path()):
            raise RunError(f"{name}: no such command. Run this on a login node of the cluster.")
    place, site = with_site(place)
    named = {key: place.resources.get(key) for key in PORTABLE}
    others = [(key, value) for key, value in place.resources.items() if key not in PORTABLE]
    if named["mem"] is None:
        raise RecipeError(f"--on {place.on}: the memory of a worker is missing. Give e.g. --job mem=16G.")
    cpus, gpus = place.count("cpus") or threads or 1, place.count("gpus")
    exports = [f"export {name}={value}" for name, value in _environment(place, cpus).items()]
    exports += [f"export PYTHONPATH={os.environ['PYTHONPATH']}"] if os.environ.get("PYTHONPATH") else []
    seconds = place.limit_seconds
    arguments = ["--nthreads", "1", "--no-dashboard"]  # the last ones count
    if seconds and seconds > 2 * _CLOSE_SECONDS:
        arguments += ["--lifetime", f"{seconds - _CLOSE_SECONDS:.0f}s", "--lifetime-stagger", "60s"]
    options: dict[str, Any] = {
        "cores": cpus,
        "processes": 1,
        "memory": f"{place.memory_bytes}B",
        "job_name": "mambamed",
        "job_script_prologue": [*(site.job_script_prologue or ()), *exports],
        "worker_extra_args": arguments,
        "shared_temp_directory": os.getcwd(),  # noqa: PTH109
        "scheduler_options": _WEB,
        # Also if it is empty: dask-jobqueue would read that of the site's file again.
        "job_directives_skip": [*(site.job_directives_skip or ())],
    }
    if place.on == "slurm":
        options |= {"job_cpu": cpus, "job_mem": f"{math.ceil((place.memory_bytes or 0) / 2**20)}M"}
    if place.on == "lsf":
        options |= {"ncpus": cpus, "mem": place.memory_bytes}
    if place.on == "htcondor":
        wanted = {
            "request_gpus": gpus,
            "allowed_job_duration": int(seconds or 0),
            "accounting_group": named["account"],
        }
        own = {key: value for key, value in wanted.items() if value}
        lines = (line.partition("=") for line in site.job_extra_directives or ())
        directives = {key.strip(): value.strip() for key, _, value in lines}
        options |= {"disk": site.disk or "1GB", "job_extra_directives": directives | dict(others) | own}
    else:
        spec = _resources(place, cpus, gpus, site.resource_spec)
        others = [(key, value) for key, value in others if f"{key}={value}" != spec]
        asked = SYSTEMS[place.on].directives("x", Path("x"), Destination(place.on, resources=dict(others)))
        prefix = len(asked[0].split()[0]) + 1
        plain = SYSTEMS[place.on].directives("x", Path("x"), Destination(place.on))
        extra = [line[prefix:] for line in asked if line not in plain]
        account = "project" if place.on in ("sge", "lsf") else "account"
        options |= {"queue": named["queue"], account: named["account"]}
        options |= {"resource_spec": spec} if spec else {}
        options["walltime"] = clock(seconds) if seconds else None
        if seconds and place.on == "lsf":
            options["walltime"] = f"{math.ceil(seconds / 60)}"
        own = _directives(place.on, cpus, gpus)
        options["job_extra_directives"] = [*(site.job_extra_directives or ()), *extra, *own]
    kind = getattr(importlib.import_module("dask_jobqueue"), _CLUSTERS[place.on])
    return kind, {key: value for key, value in options.items() if value is not None}


def _resources(place: Destination, cpus: int, gpus: int | None, site: str | None) -> str | None:
    """The `resource_spec` of PBS and SGE: of `--job`, else of the site, else made of cores, memory and GPUs.

    Dask itself asks for no GPUs within PBS's select, and for no memory of SGE, which is per core.
    """
    mib = math.ceil((place.memory_bytes or 0) / 2**20)
    key = {"pbs": "select", "sge": "h_vmem"}.get(place.on)
    if key is None:
        return None
    if key in place.resources:
        return f"{key}={place.resources[key]}"
    own = f"select=1:ncpus={cpus}:mem={mib}mb" + f":ngpus={gpus}" * bool(gpus)
    return site or (own if place.on == "pbs" else f"h_vmem={math.ceil(mib / cpus)}M")


def _directives(on: str, cpus: int, gpus: int | None) -> list[str]:
    """The same as directives of their own."""
    cores = [f"-pe smp {cpus}"] if on == "sge" and cpus > 1 else []
    devices = {"slurm": f"--gres=gpu:{gpus}", "sge": f"-l gpu={gpus}", "lsf": f'-gpu "num={gpus}"'}
    return [*cores, *([devices[on]] if gpus and on in devices else [])]
