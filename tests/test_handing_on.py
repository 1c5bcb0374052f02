"""Files for containers, citation and issues: what can be checked without a container daemon."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

import mambamed

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


APPTAINER = (ROOT / "apptainer.def").read_text(encoding="utf-8")


def stages() -> dict[str, str]:
    parts = re.split(r"^FROM (\S+ AS \w+)$", DOCKERFILE, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_images_run_as_a_user_without_rights_with_compiled_kernels_and_the_command() -> None:
    """The image for CUDA is the other one with Triton, which needs a C compiler, and the same kernels."""
    cpu, cuda = stages()["python:3.12-slim AS cpu"], stages()["cpu AS cuda"]
    texts = ("pip install", "USER 1000:1000", "mambamed demo", "chmod -R a+rwX", 'ENTRYPOINT ["mambamed"]')
    assert sorted(texts, key=cpu.index) == list(texts)
    for cache in re.findall(r"=(/opt/mambamed/\w+)", cpu):  # of all users
        assert f" {cache}" in cpu[cpu.index("RUN mkdir") : cpu.index("chmod -R a+rwX /opt/mambamed")]
    assert {"NUMBA_CACHE_DIR", "TRITON_CACHE_DIR"} <= set(re.findall(r"(\w+)=/opt", cpu))
    assert cuda.index("gcc libc6-dev") < cuda.index("mambamed[triton]") < cuda.index("USER 1000:1000")
    assert "demo" not in cuda and '".' not in cuda  # installed again, its kernels would be compiled again


def test_the_first_run_of_the_read_only_image_copies_the_compiled_kernels(tmp_path) -> None:
    post, script = APPTAINER.partition("%post")[2].partition("%test")[0], APPTAINER.partition("%runscript")[2]
    assert re.search(r"NUMBA_CACHE_DIR=/opt/mambamed/numba .*mambamed demo", post) and "gcc libc6-dev" in post
    (tmp_path / "image" / "numba").mkdir(parents=True)
    (tmp_path / "image" / "numba" / "kernel.nbc").write_text("compiled")
    (tmp_path / "mambamed").write_text('#!/bin/sh\necho "$1 $NUMBA_CACHE_DIR $TRITON_CACHE_DIR"\n')
    (tmp_path / "mambamed").chmod(0o755)
    place = {"HOME": str(tmp_path / "home"), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    # cp makes a folder named as its source is
    script = script.replace("/opt/mambamed/numba", str(tmp_path / "image" / "numba"))
    words = ["sh", "-eu", "-c", script, "run", "demo"]
    caches = tmp_path / "home" / ".cache" / "mambamed"
    for _ in range(2):  # the second one finds the copy
        done = subprocess.run(words, env=place, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["demo", f"{caches}/numba", f"{caches}/triton"]
        assert [path.name for path in caches.rglob("*")] == ["numba", "kernel.nbc"]


def test_what_the_images_copy_exists_and_is_sent_to_the_builder() -> None:
    copied = {word for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M) for word in line.split()}
    sent = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.M))
    apptainer = APPTAINER.partition("%files")[2].partition("%")[0]
    assert copied == sent == {line.split()[0] for line in apptainer.strip().splitlines()}
    assert all((ROOT / name).exists() for name in copied)


def test_the_citation_has_the_version_and_the_templates_are_yaml() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == mambamed.__version__ and citation["cff-version"] == "1.2.0"
    # schema 1.2.0 of the Citation File Format: what it requires, and the keys that it knows
    assert {"authors", "cff-version", "message", "title"} <= set(citation)
    known = "abstract authors cff-version date-released identifiers keywords license message repository-code"
    assert set(citation) <= {*known.split(), "title", "type", "url", "version"}
    assert citation["type"] in ("software", "dataset")
    assert all(
        set(author) <= {"name", "family-names", "given-names", "orcid"} for author in citation["authors"]
    )
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert {"name", "description", "body"} <= set(yaml.safe_load(path.read_text("utf-8")))


EXTRAS = (
    "huggingface_hub httpx deno slicer onnx onnxscript onnx_ir onnxruntime "
    "dask distributed dask_jobqueue dask_kubernetes kr8s"
)


def test_extras_are_not_imported_by_a_plain_installation() -> None:
    modules = [
        "api",
        "run.export",
        "answers.bids",
        "answers.segmentation",
        "viewer.server",
        "cluster.workers",
    ]
    imports = ", ".join(f"mambamed.{name}" for name in [*modules, "programs.exporting"])
    code = f"import sys, {imports}; print(*(set(sys.modules) & set({EXTRAS.split()})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
