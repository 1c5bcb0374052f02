"""The documentation as a site: it builds without a warning, and its generated pages are those of the code."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import mambamed
from mambamed.cli.json_output import as_json
from mambamed.converters import convert
from mambamed.documents.foreign.jobqueue import read_site_queue
from mambamed.documents.study import read_study
from mambamed.recipe import Recipe, load_recipe
from mambamed.studies.plan import trained_rows
from tests.answers.stubs import stub_run, write_blobs, write_nifti
from tests.test_docs import PAGES, ROOT

DOCS = ROOT / "docs"
_GENERATOR = importlib.util.spec_from_file_location("list_keys", DOCS / "list_keys.py")
assert _GENERATOR is not None and _GENERATOR.loader is not None
list_keys = importlib.util.module_from_spec(_GENERATOR)
_GENERATOR.loader.exec_module(list_keys)
PYTHON_RUN_BY = {
    "README.md": "tests/test_docs.py",
    "scan.md": "tests/test_docs.py",
    "extending.md": "tests/test_extending.py",
    "python.md": "tests/test_python_page.py",
    "datasets.md": "tests/docs/test_pages.py",
    "deployment.md": "tests/programs/test_exporting.py",
    "other-programs.md": "tests/cli/test_json_output.py",
}


@pytest.mark.parametrize("name", sorted(list_keys.PAGES))
def test_a_generated_page_is_up_to_date(name) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == list_keys.page(name), "run: python docs/list_keys.py"


def test_the_generated_pages_hold_every_key_and_function() -> None:
    keys = (DOCS / "recipe-keys.md").read_text(encoding="utf-8")
    for section, field in Recipe.model_fields.items():
        assert f"`{section}" in keys or f"## {section}" in keys
        for key in getattr(field.annotation, "model_fields", {}):
            assert f"`{section}.{key}`" in keys
    assert "| `training.optimizer.lr` | number > 0 | `0.001` | Learning rate at the start" in keys
    assert "| `cases[].shape` | 3 x integer ≥ 1 | required |" in (DOCS / "files.md").read_text("utf-8")
    functions = (DOCS / "python-api.md").read_text(encoding="utf-8")
    assert "\n## predict\n" in functions and "    tta: Literal['mirror', 'none'] | None = None" in functions


def documented(name: str) -> set[str]:
    """The keys of a result on the page of the functions."""
    page = (DOCS / "python-api.md").read_text(encoding="utf-8")
    return set(
        re.findall(r"^\| `(\w+)` \|", page.partition(f"\n| `{name}` | value |")[2].partition("\n\n")[0], re.M)
    )


def test_the_keys_of_json_are_those_of_the_page(tmp_path) -> None:
    run = stub_run(tmp_path / "run").root
    write_blobs(tmp_path / "images", 1)
    results = [
        mambamed.predict(run, tmp_path / "images", tmp_path / "masks", device="cpu", tta="none"),
        mambamed.evaluate(tmp_path / "masks", tmp_path / "masks"),
        mambamed.runs(tmp_path),
        mambamed.recipes.show("hippocampus_nnmamba"),
    ]
    for result in results:
        assert set(as_json(result)) == documented(type(result).__name__) != set()
    assert set(as_json(results[2])["runs"][0]) >= {"run", "fold", "state"}


def test_the_site_builds_without_a_warning(tmp_path) -> None:
    """Every page is in the navigation, and every link and anchor leads somewhere."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not included in the" not in done.stderr
    pages = {path.stem for path in DOCS.glob("*.md")} - {"README"}
    assert pages <= {path.name for path in (tmp_path / "site").iterdir() if path.is_dir()}
    start = (tmp_path / "site" / "start" / "index.html").read_text(encoding="utf-8")
    assert "pip install" in start and 'href="../datasets/"' in start
    html = [path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")]
    assert not re.findall(r'<(?:script|img|link)[^>]* (?:src|href)="https?://[^"]*"', "".join(html))


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """The language and text of every code block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


BLOCKS = [
    (page.name, language, text)
    for page in PAGES
    if page.suffix == ".md"
    for language, text in blocks_of(page)
]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    """`text`, and blocks without a language, show file layouts and output: there is nothing to execute."""
    tested = {"sh", "python", "yaml", "json", "diff", "text", ""}
    assert {language for _, language, _ in BLOCKS} <= tested
    for page, language, _ in BLOCKS:
        if language == "python":
            assert (ROOT / PYTHON_RUN_BY[page]).is_file(), page
        if language == "diff":
            assert page == "extending.md"


@pytest.mark.parametrize(("page", "text"), [(p, text) for p, kind, text in BLOCKS if kind == "yaml"])
def test_a_recipe_of_a_page_is_valid(page, text, tmp_path) -> None:
    """A block without a network is completed by one; what it gives is in the recipe as it was read.

    A block with several recipes is a study, one of a site's batch system a file of dask-jobqueue.
    """
    given = yaml.safe_load(text)
    if "jobqueue" in given:
        (tmp_path / "jobqueue.yaml").write_text(text)
        found = read_site_queue("slurm", {"DASK_CONFIG": str(tmp_path)})
        assert (found.account, found.queue, found.job_script_prologue) == (
            "radiology",
            "gpu",
            ("module load cuda",),
        )
        return
    if "recipes" in given:
        (tmp_path / "study.yaml").write_text(text)
        assert trained_rows(read_study(tmp_path / "study.yaml")), page
        return
    complete = given if {"network", "extends"} & given.keys() else {"network": {"name": "nnmamba"}, **given}
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(complete))
    read = load_recipe(tmp_path / "page.yaml").model_dump(mode="json", exclude_unset=True)
    for section, values in given.items():
        if isinstance(values, dict):
            assert read[section].keys() >= values.keys(), page
        elif section != "extends":
            assert read[section] == values, page


@pytest.mark.parametrize(("page", "text"), [(p, text) for p, kind, text in BLOCKS if kind == "json"])
def test_a_json_document_of_a_page_is_valid(page, text) -> None:
    assert json.loads(text)


def test_the_script_of_the_datasets_page_makes_a_list_that_is_read(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for case in ("patient01", "patient02"):
        for name in ("t1", "t1ce", "t2", "flair", "seg"):
            write_nifti(Path("ms_lesions") / case / f"{case}_{name}.nii.gz", np.ones((4, 4, 4), np.int16))
    script = next(text for page, kind, text in BLOCKS if (page, kind) == ("datasets.md", "python"))
    exec(script, {})
    dataset = convert(Path("ms.csv"))
    assert [case.id for case in dataset.cases] == ["patient01", "patient02"]
    assert list(dataset.manifest.channels) == ["t1", "t1ce", "t2", "flair"]
