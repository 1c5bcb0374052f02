"""Kubernetes: a Job per training, and Dask workers for cases, which Dask's operator runs.

Pods see the data on a volume, under the path that it has here. Sources: the Kubernetes documentation, "Jobs";
the DaskCluster resource of dask-kubernetes (kubernetes.dask.org), "Custom Resources".
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mambamed.cluster.destination import Destination
from mambamed.documents.jobs import JobRequest
from mambamed.errors import RecipeError, RunError

_KEYS = ("image", "pvc", "cpus", "mem", "gpus")
_PORTS = {"tcp-comm": 8786, "http-dashboard": 8787}  # names and numbers that the operator looks for
_START_SECONDS = 600  # an image of several GB is downloaded first


def job_manifest(folder: Path, request: JobRequest, place: Destination) -> dict[str, Any]:
    """A Job that runs one training of the folder of jobs.

    Raises:
        RecipeError: a resource that Kubernetes does not have, or no image.
    """
    command = ["python", "-m", "mambamed.cluster.step", str(folder), request.name]
    pod = _pod("mambamed", command, request.folder, place, (*_KEYS, "time"))
    # In lower case, letters, digits and "-" alone.
    name = "".join(letter if letter.isalnum() else "-" for letter in f"mambamed-{request.name}".lower())
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 120, **pod}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": f"{name[:50]}-"},
        "spec": {"backoffLimit": 100, "template": {"spec": spec}},
    }


def workers_manifest(
    name: str, folder: str, place: Destination, environment: Mapping[str, str]
) -> dict[str, Any]:
    """A DaskCluster: a scheduler and `place.jobs` workers of one thread, in the same image.

    Args:
        name: of the resource, in lower case.
        folder: in which the workers start.
        place: their number and resources.
        environment: of the workers.

    Raises:
        RecipeError: a resource that Kubernetes does not have, or no image.
    """
    command = ["dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--nthreads", "1", "--no-dashboard"]
    worker = _pod("worker", command, folder, place, _KEYS)
    (container,) = worker["containers"]
    container["env"] = [{"name": key, "value": value} for key, value in environment.items()]
    plain = Destination(place.on, resources={"image": place.resources["image"]})
    scheduler = _pod("scheduler", ["dask", "scheduler", "--host", "0.0.0.0"], "/", plain, _KEYS)
    scheduler["containers"][0] |= {
        "ports": [{"name": key, "containerPort": port} for key, port in _PORTS.items()],
        "readinessProbe": {"httpGet": {"port": "http-dashboard", "path": "/health"}, "periodSeconds": 1},
    }
    service = {
        "type": "ClusterIP",
        "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
        "ports": [{"name": key, "port": port, "targetPort": key} for key, port in _PORTS.items()],
    }
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": name},
        "spec": {
            "worker": {"replicas": place.jobs, "spec": worker},
            "scheduler": {"spec": scheduler, "service": service},
        },
    }


@contextmanager
def dask_cluster(place: Destination, environment: Mapping[str, str]) -> Iterator[Any]:
    """Workers in pods while the block runs; the operator replaces those that are lost.

    Raises:
        RecipeError: dask-kubernetes is not installed, or an option is missing.
        RunError: Kubernetes or Dask's operator does not start them.
    """
    spec = workers_manifest(f"mambamed-{secrets.token_hex(4)}", os.getcwd(), place, environment)  # noqa: PTH109
    try:
        import kr8s
        from dask_kubernetes.operator import KubeCluster
    except ImportError as error:
        raise RecipeError(
            f"--on kubernetes: needs dask-kubernetes ({error}). Run: pip install 'mambamed[kubernetes]'"
        ) from error
    try:
        kr8s.api().version()  # without credentials Dask would also report the cluster that it cannot remove
        cluster = KubeCluster(custom_cluster_spec=spec, resource_timeout=_START_SECONDS, quiet=True)
    except Exception as error:  # of kr8s, httpx, the operator
        text = " ".join(str(error).split()) or type(error).__name__
        raise RunError(
            f"--on kubernetes: the workers cannot be started: {text}. "
            "Check `kubectl get pods`, and that Dask's operator is installed."
        ) from error
    with cluster:
        yield cluster


def _pod(
    name: str, command: Sequence[str], folder: str, place: Destination, known: Sequence[str]
) -> dict[str, Any]:
    """A pod of one container, with the volume of `--job pvc=`."""
    given = place.resources
    if unknown := [key for key in given if key not in known]:
        names = f"{', '.join(known[:-1])} and {known[-1]}"
        raise RecipeError(f"--job {unknown[0]}: Kubernetes has {names} here. Remove it.")
    if not given.get("image"):
        raise RecipeError(
            "--job: Kubernetes needs an image with mambamed. Give e.g. image=registry/mambamed:1."
        )
    claim, _, mount = given.get("pvc", "").partition(":")
    if "pvc" in given and not (claim and mount.startswith("/")):
        raise RecipeError(f"--job pvc={given['pvc']}: expected CLAIM:/PATH, where all machines see the data.")
    memory = place.memory_bytes
    asked = {"cpu": given.get("cpus"), "memory": memory and str(memory), "nvidia.com/gpu": given.get("gpus")}
    container: dict[str, Any] = {
        "name": name,
        "image": given["image"],
        "command": list(command),
        "workingDir": folder,
        "resources": {"limits": {key: value for key, value in asked.items() if value}},
    }
    if not claim:
        return {"containers": [container]}
    container["volumeMounts"] = [{"name": "data", "mountPath": mount}]
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": claim}}
    return {"volumes": [volume], "containers": [container]}
