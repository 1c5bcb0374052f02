"""`doctor` tells what is there, and for everything that is not, what to do or why nothing needs to be."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mambamed.cli.commands import make_app
from mambamed.run import doctor
from mambamed.run.doctor import EXTRAS, examine_machine
from mambamed.ssm.scan import BACKENDS, chosen_backend, why_unavailable

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")


def by_name(folder: Path = Path()) -> dict[str, doctor.Check]:
    return {check.name: check for check in examine_machine(folder).checks}


def test_everything_is_looked_at_and_every_limit_has_its_advice(tmp_path) -> None:
    examination = examine_machine(tmp_path)
    checks = {check.name: check for check in examination.checks}
    assert {"Python", "torch", "CUDA", "MPS", "chosen", "numba", "memory", "shared memory"} <= set(checks)
    assert {"disk of the folder", "disk of temporary files", "folder", "temporary folder"} <= set(checks)
    assert {f"scan: {name}" for name in BACKENDS} <= set(checks)
    assert {f"extra: {name}" for name in EXTRAS} <= set(checks)
    assert all(
        check.fact and (check.advice or check.state in {"good", "absent"}) for check in checks.values()
    )
    assert torch.__version__ in checks["torch"].fact and checks["folder"].state == "good"
    assert list(tmp_path.iterdir()) == [] and examination.usable


def test_each_backend_is_usable_or_says_why_not() -> None:
    checks = by_name()
    for name in BACKENDS:
        reason, check = why_unavailable(name), checks[f"scan: {name}"]
        assert check.fact == reason if reason else check.state == "good"
    assert "chosen on cpu" in checks[f"scan: {chosen_backend('cpu')[0]}"].fact


def test_the_extras_are_those_of_the_package() -> None:
    document = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())
    known = document["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(known) - {"docs", "test", "dev"}
    for extra, (modules, _) in EXTRAS.items():
        packages = " ".join(known[extra]).replace("-", "_")
        assert all(module in packages for module in modules)


def test_what_is_missing_is_told_with_the_way_to_get_it(monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pydicom" else find(name))
    check = by_name()["extra: dicom"]
    assert (check.state, "pydicom" in check.fact) == ("absent", True)
    assert "pip install 'mambamed[dicom]'" in check.advice


def test_small_disks_small_shared_memory_and_absent_folders_are_told(tmp_path, monkeypatch) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(2**26, 0, 2**26))
    examination = examine_machine(tmp_path / "absent")
    checks = {check.name: check for check in examination.checks}
    assert checks["disk of the folder"].state == "bad" and "64 MiB" in checks["disk of the folder"].fact
    assert checks["folder"].state == "bad" and "no such folder" in checks["folder"].fact
    if Path("/dev/shm").is_dir():
        assert "--shm-size" in checks["shared memory"].advice
    assert not examination.usable and not (tmp_path / "absent").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told(tmp_path) -> None:
    tmp_path.chmod(0o500)
    try:
        check = by_name(tmp_path)["folder"]
    finally:
        tmp_path.chmod(0o700)
    assert check.state == "bad" and "no permission" in check.fact


def test_a_look_that_breaks_is_a_line_of_its_own(monkeypatch) -> None:
    def _memory():
        raise OSError("no such thing here")

    monkeypatch.setattr(doctor, "_memory", _memory)
    check = by_name()["memory"]
    assert check.state == "bad" and "no such thing" in check.fact and check.advice


def test_the_command_shows_a_table_or_json(tmp_path) -> None:
    done = CliRunner().invoke(make_app(), ["doctor", str(tmp_path)])
    assert done.exit_code == 0 and "scan: cpu" in done.stdout and "torch" in done.stdout
    document = json.loads(CliRunner().invoke(make_app(), ["doctor", str(tmp_path), "--json"]).stdout)
    assert {"name", "state", "fact", "advice"} == set(document["checks"][0]) and document["version"]
