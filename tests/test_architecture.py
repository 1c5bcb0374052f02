"""The rules of the package's structure: layers, the cost of `--help`, files and tables, the wheel."""

import importlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mambamed"

# name of a table -> the module that holds it
TABLES = {
    "SCORERS": "mambamed.evaluation",
    "NETWORKS": "mambamed.networks",
    "CONVERTERS": "mambamed.converters",
    "TASKS": "mambamed.tasks.base",
    "BACKENDS": "mambamed.ssm.scan",
}


# Tests that are about no single module, and why.
CROSS_CUTTING = {
    "answers/test_single_file": "a file that -o names, from the options to the record",
    "answers/test_uncertain_masks": "predict --uncertainty, from the networks to the table",
    "cluster/test_worker_scripts": "job scripts of Dask workers, as dask-jobqueue writes them",
    "documents/foreign/test_mutations": "every field of every foreign document, damaged in turn",
    "documents/test_mutations": "every field of every document, damaged in turn",
    "documents/test_samples": "files that earlier versions wrote, read by every document",
    "networks/test_compile": "every network under torch.export and torch.compile",
    "networks/test_contract": "what every network guarantees, over the whole table",
    "networks/test_networks_page": "docs/networks.md against the networks",
    "networks/test_public_layout": "the notation in which tests list published keys and shapes",
    "networks/test_published_plans": "several networks at the plans of their papers",
    "preparation/test_round_trip": "real label maps to the prepared grid and back",
    "run/test_public_layouts": "every public layout through import-weights",
    "selection/test_choice": "best from trained runs to the masks that predict makes by its file",
    "ssm/test_agreement": "all backends against one float64 reference",
    "ssm/test_real_case": "one checkpoint, every backend, the same masks",
    "ssm/test_triton_kernels": "forward and backward kernels, in one process with the interpreter",
    "training/test_switches": "settings of the recipe, each with its effect on the loop",
    "training/test_waiting": "no operation of a queued step waits for the device",
    "viewer/test_page": "the page in a real browser, with all its scripts",
    "volumes/test_orientation": "one case stored in every orientation, through the whole prediction",
}


def test_a_test_file_has_the_name_of_its_module() -> None:
    """tests/<folder>/test_<module>.py; a folder's own table and functions are in test_<folder>.py.

    tests/faults and tests/fuzz have no folder in the package: they test hostile inputs and interruptions.
    """
    unnamed = set()
    for folder in (path for path in PACKAGE.rglob("*") if (path / "__init__.py").is_file()):
        known = {file.stem for file in folder.glob("*.py")} | {folder.name}
        for file in (ROOT / "tests" / folder.relative_to(PACKAGE)).glob("test_*.py"):
            if file.stem.removeprefix("test_") not in known:
                unnamed.add(file.relative_to(ROOT / "tests").with_suffix("").as_posix())
    assert unnamed == set(CROSS_CUTTING)


def test_layers_import_only_from_below() -> None:
    # In a process of its own: it disables the loggers that exist.
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def imported_by(arguments: list[str]) -> set[str]:
    code = (
        "import sys\n"
        f"sys.argv = ['mambamed', *{arguments!r}]\n"
        "from mambamed.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "print('imported:', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("imported:")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments) -> None:
    imported = imported_by(arguments)
    assert "typer" in imported
    heavy = {"torch", "numpy", "nibabel", "scipy", "SimpleITK", "matplotlib", "numba", "blosc2", "yaml"}
    if "train" not in arguments:  # for the help of one command, Typer imports pydantic itself
        heavy |= {"pydantic"}
    assert not imported & heavy


def test_only_the_command_line_prints() -> None:
    """What it prints is escaped (mambamed/terminal.py)."""
    printing = {
        file.relative_to(PACKAGE).parts[0]
        for file in PACKAGE.rglob("*.py")
        if re.search(r"\bprint\(|sys\.(stdout|stderr|__std\w+__)\.(buffer|write)", file.read_text("utf-8"))
    }
    assert printing == {"cli"}


def test_the_package_imports_without_torch() -> None:
    code = "import sys, mambamed; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", TABLES)
def test_every_line_of_a_table_is_a_file(name) -> None:
    table = getattr(importlib.import_module(TABLES[name]), name)
    assert table
    for name, target in table.items():
        module = target.partition(":")[0]
        assert re.fullmatch(r"mambamed(\.\w+)+", module), f"{name}: {target}"
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), f"{name}: {target}"


def test_every_network_file_has_a_line_in_the_table() -> None:
    from mambamed.networks import NETWORKS

    targets = {target.partition(":")[0].rpartition(".")[2] for target in NETWORKS.values()}
    files = {file.stem for file in (PACKAGE / "networks").glob("*.py")}
    assert files - targets == {"__init__", "cost", "public_names"}, "a network without a line in NETWORKS"


def test_few_places_outside_the_tasks_ask_for_a_tasks_name() -> None:
    """A task says what it needs by attributes; see docs/extending.md."""
    asked = re.compile(r"task\b[^#\n]*(?:==|!=)[^#\n]*(?:segmentation|landmarks|classification)\b")
    owners = (PACKAGE / "tasks", PACKAGE / "answers")
    found = [
        f"{file.relative_to(PACKAGE)}: {line.strip()}"
        for file in PACKAGE.rglob("*.py")
        if not any(owner in file.parents for owner in owners)
        for line in file.read_text(encoding="utf-8").splitlines()
        if asked.search(line)
    ]
    assert len(found) <= 5, found


def test_no_file_is_empty_or_named_for_nothing() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert file.read_text().strip(), f"{file} is empty"
        assert file.stem not in {"utils", "helpers", "misc", "common"}, file


def test_no_module_reads_what_could_run_code() -> None:
    forbidden = re.compile(
        r"pickle\.load|torch\.load|yaml\.load\(|weights_only=False|allow_pickle=True|\bexec\("
    )
    assert [str(file) for file in PACKAGE.rglob("*.py") if forbidden.search(file.read_text())] == []


def test_a_wheel_has_the_recipes_and_the_marker_of_type_hints(tmp_path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert (tmp_path / "site" / "mambamed" / "py.typed").is_file()
    code = "from mambamed.recipe import load_recipe, shipped_recipes; print(*shipped_recipes());" + (
        "print(load_recipe('hippocampus_nnmamba').network.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", check=True, capture_output=True, text=True
    )
    names, network = done.stdout.split("\n")[:2]
    assert set(names.split()) == {file.stem for file in (ROOT / "recipes").glob("*.yaml")}
    assert network == "nnmamba"
