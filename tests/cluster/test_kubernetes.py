"""Dask workers in pods: what is asked of Dask's operator, with a stand-in for dask-kubernetes."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

from mambamed.cases import Case
from mambamed.cluster.destination import Destination
from mambamed.cluster.kubernetes import workers_manifest
from mambamed.cluster.workers import open_workers
from mambamed.errors import RecipeError, RunError
from mambamed.preparation.pool import over_cases
from tests.cluster.dying import wait
from tests.told import Told

pytest.importorskip("distributed")
JOB = "image=lab/mambamed:1,pvc=data:/data,mem=2G,cpus=4,gpus=1"


def test_the_resource_of_the_operator() -> None:
    """Names of fields, ports and labels are those of `make_cluster_spec` of dask-kubernetes."""
    found = workers_manifest(
        "mine", "/data/work", Destination.of("kubernetes", 3, JOB), {"OMP_NUM_THREADS": "4"}
    )
    assert (found["apiVersion"], found["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")
    worker, scheduler = found["spec"]["worker"], found["spec"]["scheduler"]
    (container,), (leading,) = worker["spec"]["containers"], scheduler["spec"]["containers"]
    assert worker["replicas"] == 3 and container["name"] == "worker" and leading["name"] == "scheduler"
    assert container["command"][:4] == ["dask", "worker", "--name", "$(DASK_WORKER_NAME)"]
    assert container["resources"]["limits"] == {"cpu": "4", "memory": str(2 * 2**30), "nvidia.com/gpu": "1"}
    assert container["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]
    assert worker["spec"]["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    assert container["workingDir"] == "/data/work"
    assert container["env"] == [{"name": "OMP_NUM_THREADS", "value": "4"}]
    assert leading["resources"]["limits"] == {}
    assert {port["name"]: port["containerPort"] for port in leading["ports"]} == {
        "tcp-comm": 8786,
        "http-dashboard": 8787,
    }
    assert scheduler["service"]["selector"] == {
        "dask.org/cluster-name": "mine",
        "dask.org/component": "scheduler",
    }


@pytest.fixture
def operator(monkeypatch) -> SimpleNamespace:
    """dask_kubernetes.operator, whose KubeCluster starts the workers here, and kr8s, which it is built on."""
    from distributed import LocalCluster

    class KubeCluster(LocalCluster):
        asked: ClassVar[list[dict]] = []

        def __init__(self, custom_cluster_spec: dict, **_: object) -> None:
            self.asked.append(custom_cluster_spec)
            number = custom_cluster_spec["spec"]["worker"]["replicas"]
            options = {"n_workers": number, "threads_per_worker": 1, "dashboard_address": ":0"}
            super().__init__(**options, processes=False)

    module = SimpleNamespace(KubeCluster=KubeCluster)
    answering = SimpleNamespace(version=dict)
    monkeypatch.setitem(sys.modules, "kr8s", SimpleNamespace(api=lambda: answering))
    monkeypatch.setitem(sys.modules, "dask_kubernetes", ModuleType("dask_kubernetes"))
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", module)
    return module


def test_cases_go_to_workers_in_pods(operator) -> None:
    cases, told = [(Case(f"c{n}", ()),) for n in range(4)], Told()
    with open_workers(Destination.of("kubernetes", 2, JOB), progress=told) as pool:
        assert pool.number == 2
        found = [case.id for case, _ in over_cases(wait, cases, 2, told, pool)]
    assert sorted(found) == ["c0", "c1", "c2", "c3"] and "workers: kubernetes, 2" in told.lines
    (spec,) = operator.KubeCluster.asked
    assert spec["metadata"]["name"].startswith("mambamed-")


def test_what_is_missing_is_one_line(operator, monkeypatch) -> None:
    for job, line in (
        ("mem=1G", "needs an image with mambamed"),
        ("image=a,queue=b", "--job queue: Kubernetes has image, pvc, cpus, mem and gpus here"),
        ("image=a,pvc=b", "CLAIM:/PATH"),
    ):
        with pytest.raises(RecipeError, match=line), open_workers(Destination.of("kubernetes", 1, job)):
            pass

    def refused(**_: object) -> None:
        raise RuntimeError("Failed to create\nDaskCluster resource.")

    place = Destination.of("kubernetes", 1, JOB)
    monkeypatch.setattr(operator, "KubeCluster", refused)
    with pytest.raises(RunError, match="Failed to create DaskCluster resource"), open_workers(place):
        pass
    monkeypatch.delattr(operator, "KubeCluster")
    with pytest.raises(RecipeError, match=r"pip install 'mambamed\[kubernetes\]'"), open_workers(place):
        pass
