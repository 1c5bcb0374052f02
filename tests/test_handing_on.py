"""Files for containers, citation and issues: what can be checked without a container daemon."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import mambamed

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def stages() -> dict[str, str]:
    parts = re.split(r"^FROM (\S+) AS (\w+)$", DOCKERFILE, flags=re.M)
    return {name: body for _, name, body in zip(*[iter(parts[1:])] * 3, strict=True)}


def test_images_run_as_a_user_without_rights_with_compiled_kernels_and_the_command() -> None:
    found = stages()
    assert set(found) == {"base", "cpu", "cuda"}
    for name in ("cpu", "cuda"):
        user, warm, entry = (found[name].index(text) for text in ("USER 1000", "mambamed demo", "ENTRYPOINT"))
        assert user < warm < entry and 'ENTRYPOINT ["mambamed"]' in found[name]
    assert "NUMBA_CACHE_DIR=" in found["base"]


def test_what_the_images_copy_exists_and_is_sent_to_the_builder() -> None:
    copied = {word for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M) for word in line.split()}
    sent = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.M))
    apptainer = (ROOT / "apptainer.def").read_text("utf-8").partition("%files")[2].partition("%")[0]
    assert copied == sent == {line.split()[0] for line in apptainer.strip().splitlines()}
    assert all((ROOT / name).exists() for name in copied)


def test_the_citation_has_the_version_and_the_templates_are_yaml() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == mambamed.__version__ and citation["cff-version"] == "1.2.0"
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert {"name", "description", "body"} <= set(yaml.safe_load(path.read_text("utf-8")))


@pytest.mark.parametrize("module", ["mambamed.api", "mambamed.run.export", "mambamed.answers.bids"])
def test_extras_are_not_imported_by_a_plain_installation(module) -> None:
    code = (
        f"import sys, {module}; print(*(set(sys.modules) & {{'huggingface_hub', 'httpx', 'deno', 'slicer'}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
