"""The plain Python part of the module for 3D Slicer: the command, its events, and how it is stopped."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import sys
import time
from pathlib import Path

import pytest
import slicerio

from tests.answers.stubs import MANIFEST, blob, stub_run, write_nifti
from tests.test_docs import parse

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "tests" / "documents" / "samples" / "0.1.0"
_SPEC = importlib.util.spec_from_file_location(
    "slicer_process", ROOT / "integrations" / "slicer" / "MambamedLib" / "process.py"
)
assert _SPEC is not None and _SPEC.loader is not None
slicer = importlib.util.module_from_spec(_SPEC)
sys.modules["slicer_process"] = slicer
_SPEC.loader.exec_module(slicer)


def finished(process) -> object:
    end = time.monotonic() + 60
    while process.update():
        assert time.monotonic() < end
        time.sleep(0.02)
    return process.state


def python(code: str, *words: str):
    """A process that prints as mambamed does."""
    return slicer.Process([sys.executable, "-c", code, *words])


def test_a_volume_becomes_a_segmentation_with_names(tmp_path) -> None:
    run = stub_run(tmp_path / "run").root
    (image,) = slicer.image_files(tmp_path / "work", 1)
    write_nifti(image, blob())
    program = str(Path(sys.executable).with_name("mambamed"))
    process = slicer.Process(
        slicer.command_words(program, "predict", str(run), tmp_path / "work", device="cpu")
    )
    state = finished(process)
    assert process.succeeded and state.faults == []
    assert state.fraction == 1.0 and state.text.startswith("predicting 1/1 cases")
    assert any("device cpu" in message for message in state.messages)
    segmentation = slicerio.read_segmentation(slicer.result_file("predict", tmp_path / "work"))
    names = {segment["name"]: segment["labelValue"] for segment in segmentation["segments"]}
    assert names == {name: value for name, value in MANIFEST.labels.items() if value}
    assert len({tuple(segment["color"]) for segment in segmentation["segments"]}) == 2


@pytest.mark.parametrize(
    ("command", "name"), [("predict", "volume.seg.nrrd"), ("landmarks", "volume.mrk.json")]
)
def test_the_words_are_those_of_the_command_line(command, name, tmp_path) -> None:
    words = slicer.command_words("mambamed", command, "hf://org/name", tmp_path, device="cpu")
    asked = parse(shlex.join(words))
    assert (asked["input"], asked["output"]) == (tmp_path / "images", tmp_path / "results")
    assert asked["device"] == "cpu" and asked["overwrite"] and asked["json_lines"]
    assert asked.get("format") == "seg-nrrd" or asked["export"] == "mrk.json"
    assert slicer.result_file(command, tmp_path) == tmp_path / "results" / name


def test_other_commands_are_rejected(tmp_path) -> None:
    with pytest.raises(ValueError, match="classify: expected predict or landmarks"):
        slicer.command_words("mambamed", "classify", "model", tmp_path)


def test_task_and_channels_are_read_from_a_run_and_a_model_file(tmp_path) -> None:
    assert slicer.read_model(str(SAMPLES / "landmarks" / "run")) == slicer.Model("landmarks", ("MRI",))
    assert slicer.read_model(str(SAMPLES / "classification" / "run")).command == "classify"
    model = shutil.make_archive(str(tmp_path / "model"), "zip", SAMPLES / "segmentation" / "run")
    channels = json.loads((SAMPLES / "segmentation" / "run" / "dataset.json").read_text())["channels"]
    assert slicer.read_model(model) == slicer.Model("predict", tuple(channels))


@pytest.mark.parametrize("content", [None, "[]", "{", '{"channels": 1}'])
def test_a_model_that_cannot_be_read_is_not_described(content, tmp_path) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    assert slicer.read_model(str(tmp_path)) is None
    assert slicer.read_model("hf://org/name") is None


def test_faults_of_the_command_and_of_its_case_are_reported() -> None:
    error = {"event": "error", "error": {"kind": "ModelError", "messages": ["a: broken"], "exit_code": 2}}
    process = python("import sys; print(sys.argv[1]); sys.exit(2)", json.dumps(error))
    assert finished(process).faults == ["a: broken"] and not process.succeeded
    result = {"event": "result", "result": {"faults": ["volume: cut off"]}}
    process = python("import sys; print(sys.argv[1]); sys.exit(3)", json.dumps(result))
    assert finished(process).faults == ["volume: cut off"] and not process.succeeded


def test_a_process_that_dies_is_a_fault_with_its_last_lines() -> None:
    state = finished(python("print('a line of a library'); raise SystemError('no library')"))
    (fault,) = state.faults
    assert fault.startswith("mambamed ended with exit code 1\n") and "SystemError: no library" in fault
    assert state.messages == ["a line of a library"]


def test_cancelling_interrupts_the_process() -> None:
    event = '{"event": "message", "text": "ready"}'
    code = (
        f"import time\nprint({event!r}, flush=True)\n"
        "try: time.sleep(60)\nexcept KeyboardInterrupt: raise SystemExit(130)"
    )
    process = python(code)
    while not process.state.messages:
        process.update()
    process.cancel()
    state = finished(process)
    assert (process.cancelled, process.succeeded, state.faults) == (True, False, [])


STUBBORN = "import signal, time; signal.signal(2, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"


def test_a_process_that_ignores_the_interruption_is_ended_by_the_second() -> None:
    process = python(STUBBORN)
    while not process.state.messages:
        process.update()
    process.cancel()
    assert process.update()
    process.cancel()
    finished(process)
    assert not process.succeeded


def test_a_panel_that_closes_waits_for_the_end_of_its_process() -> None:
    process = python(STUBBORN)
    while not process.state.messages:
        process.update()
    process.end(patience=0.2)
    assert process._process.returncode is not None and not process.succeeded
    finished(process)
