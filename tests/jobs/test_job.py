"""The three commands over cases share one engine: killed, in parts, locked, limited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mambamed.io.lock import folder_lock
from tests.answers.stubs import write_blobs
from tests.faults.in_process import call
from tests.faults.small_jobs import JOBS, output_of
from tests.kills import ROOT, contents, outlive_kills

VERBS = ("predict", "landmarks", "classify")
DIFFER = {"run.json", "preds.run.json"}
CASES = 5


@pytest.fixture(scope="module", params=VERBS)
def job(request, tmp_path_factory) -> tuple[str, list[str], dict[str, str]]:
    """Name and arguments of a command over five cases, and the digests of what it writes."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    arguments = JOBS[request.param](folder, CASES)
    place = folder / "whole"
    assert call(*arguments, "-o", output_of(request.param, place)).code == 0
    return request.param, arguments, contents(place, DIFFER)


def record_in(place: Path) -> dict:
    (path,) = [path for path in place.rglob("*run.json") if not path.name.startswith(".")]
    return json.loads(path.read_text())


def finished(place: Path) -> int:
    try:
        return sum(entry["status"] == "done" for entry in record_in(place)["cases"].values())
    except ValueError:  # no record yet
        return 0


def test_a_killed_command_is_continued_by_the_same_one(job, tmp_path) -> None:
    verb, arguments, expected = job
    place = tmp_path / "killed"
    output = output_of(verb, place)
    with subprocess.Popen(
        [sys.executable, "-m", "mambamed", *arguments, "-o", str(output)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 100
        while finished(tmp_path) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
    before = {case for case, entry in record_in(tmp_path)["cases"].items() if entry["status"] == "done"}
    assert 2 <= len(before) < CASES
    done = call(*arguments, "-o", output, "--resume", "--json")
    assert json.loads(done.stdout)["kept"] == len(before)
    assert contents(place, DIFFER) == expected


def test_two_shards_are_the_whole(job, tmp_path) -> None:
    verb, arguments, expected = job
    place = tmp_path / "parts"
    for part in ("1/2", "2/2"):
        assert call(*arguments, "-o", output_of(verb, place), "--shard", part).code == 0
    found, whole = (
        {name: digest for name, digest in files.items() if Path(name).suffix != ".json" or digest}
        for files in (contents(place, DIFFER), expected)
    )
    assert {name: digest for name, digest in found.items() if "_of_2.json" not in name} == whole


def test_a_second_process_is_rejected(job, tmp_path) -> None:
    verb, arguments, _ = job
    output = output_of(verb, tmp_path)
    if verb == "classify":
        lock = folder_lock(tmp_path, ".lock-preds.run", leftovers=False)
    else:
        lock = folder_lock(output)
    with lock:
        refused = call(*arguments, "-o", output)
    assert refused.code == 1 and len(refused.lines) == 1
    assert f"process {os.getpid()} is writing there" in refused.lines[0]


def test_other_settings_need_overwrite(job, tmp_path) -> None:
    verb, arguments, _ = job
    output = output_of(verb, tmp_path)
    mirrored = [word for word in arguments if word not in {"--tta", "none"}]
    assert call(*arguments, "-o", output).code == 0
    refused = call(*mirrored, "-o", output, "--tta", "mirror")
    assert refused.code == 2 and "Give --overwrite or another -o" in refused.lines[0]
    done = call(*mirrored, "-o", output, "--tta", "mirror", "--overwrite", "--json")
    assert json.loads(done.stdout)["kept"] == 0


def test_a_case_beyond_max_ram_is_one_line(job, tmp_path) -> None:
    verb, arguments, _ = job
    done = call(*arguments, "-o", output_of(verb, tmp_path), "--max-ram", "10M")
    assert done.code == 3 and len(done.lines) == CASES
    assert all("--max-ram allows" in line for line in done.lines)


def test_a_table_of_something_else_is_not_overwritten(tmp_path) -> None:
    for verb, table in (("landmarks", "out/landmarks.csv"), ("classify", "preds.csv")):
        arguments = JOBS[verb](tmp_path / verb, 1)
        own = tmp_path / verb / table
        own.parent.mkdir(exist_ok=True)
        own.write_text("case,label,probability_a,probability_b\nx,a,0.9,0.1\n")
        refused = call(*arguments, "-o", output_of(verb, tmp_path / verb))
        assert refused.code == 2 and "already exists" in refused.lines[0]
        assert own.read_text().endswith("0.1\n")


def test_changed_covariates_are_changed_input(tmp_path) -> None:
    from mambamed.cases import Case, ChannelFile
    from mambamed.jobs.output import OutputFolder
    from mambamed.jobs.record import Record

    write_blobs(tmp_path / "images", 1)
    channel = ChannelFile(tmp_path / "images" / "case_0.nii.gz")
    young, old = (Case("case_0", (channel,), covariates={"age": age}) for age in ("40", "80"))
    place = OutputFolder(tmp_path, "", (), ("preds.csv",), "preds.run")
    first = Record(place, {}, (), [young], False, covariates=("age",))
    first.done(young, 1.0, (), {"probabilities": [0.25, 0.75]})
    first.flush()
    again = Record(place, {}, (), [young], False, covariates=("age",))
    assert again.holds(young) and not again.holds(old)
    assert again.finished([young])["case_0"]["probabilities"] == [0.25, 0.75]


@pytest.mark.slow
def test_twenty_kills_lose_nothing(job, tmp_path) -> None:
    verb, arguments, _ = job

    def command(out: Path) -> list[str]:
        return [*arguments, "-o", str(out / "preds.csv" if verb == "classify" else out)]

    trials = outlive_kills(command, tmp_path, 20, differ=DIFFER)
    assert sum(trial.hit for trial in trials) >= 10


def test_what_somebody_changed_is_not_replaced(job, tmp_path) -> None:
    verb, arguments, _ = job
    out = output_of(verb, tmp_path)
    assert call(*arguments, "-o", out).code == 0
    files = (
        [out] if verb == "classify" else sorted(path for path in out.glob("[!.]*") if path.name != "run.json")
    )
    kept = [
        path for path in files if path.suffix in {".csv", ".gz", ".json", ".fcsv"} and "stat" not in path.name
    ]
    assert len(kept) >= (1 if verb == "classify" else 2)
    for path in kept:
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        refused = call(*arguments, "-o", out)
        assert refused.code == 2 and f"{path}: was changed after mambamed wrote it" in refused.lines[0]
        assert path.read_bytes() == before + b"\n"
        path.write_bytes(before)
    assert call(*arguments, "-o", out).code == 0


def test_a_corrected_result_is_kept_when_its_image_is_touched(tmp_path) -> None:
    arguments = JOBS["predict"](tmp_path, 1)
    assert call(*arguments, "-o", tmp_path / "out").code == 0
    mask, image = tmp_path / "out" / "case_0.nii.gz", tmp_path / "images" / "case_0.nii.gz"
    mask.write_bytes(image.read_bytes())
    image.touch()
    assert call(*arguments, "-o", tmp_path / "out").code == 2
    assert mask.read_bytes() == image.read_bytes()
