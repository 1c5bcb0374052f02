"""What reaches a terminal: text of files and libraries escaped, and nothing lost where a stream is closed."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mambamed.io.images import Image, write_image
from mambamed.terminal import printable

ROOT = Path(__file__).resolve().parents[1]
TITLE, CLEAR, C1, TURNED = "\x1b]0;owned\x07", "\x1b[2J", "\x9b2J", "\u202egnp.\u2066"
EVIL = f"{TITLE}{CLEAR}{C1}{TURNED}[bold]:heart:[/bold][link=http://x]"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b2J\u202egnp.\u2066[bold]:heart:[/bold][link=http://x]"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "400"}
# Commands, one after the other in a process; its exit code is the last one that is not 0.
COMMANDS = """
import os, sys
from mambamed.cli import main
ended = 0
for number, words in enumerate({commands!r}):
    os.environ.update({environments!r}[number])
    sys.argv = ["mambamed", *words]
    try:
        main()
    except SystemExit as end:
        ended = end.code or ended
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # each command guards them itself
    print("{end}", flush=True)
sys.exit(ended)
"""
END = "end of a command"


def code_of(*commands: tuple[str | Path, ...], environments: Sequence[dict[str, str]] = ()) -> str:
    """The program of these commands, each with its variables."""
    words = [[str(word) for word in command] for command in commands]
    return COMMANDS.format(commands=words, environments=list(environments) or [{}] * len(words), end=END)


def on_terminal(*arguments: str | Path) -> str:
    """What a command of this Python writes to a terminal, on stdout and stderr together."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)], stdin=slave, stdout=slave, stderr=slave, env=ENVIRONMENT
    )
    os.close(slave)
    read = b""
    while True:
        try:
            piece = os.read(master, 2**16)
        except OSError:  # Linux: nobody holds the other end any more
            break
        if not piece:
            break
        read += piece
    os.close(master)
    process.wait()
    return read.decode()


def dataset(folder: Path, label: str) -> Path:
    """Three cases of one label, as nnU-Net stores them; the last one has a label that is not declared."""
    rng = np.random.default_rng(1)
    for number in range(3):
        mask = np.zeros((12, 12, 12), np.uint8)
        mask[4:8, 4:8, 4:8] = 1
        image = rng.normal(size=mask.shape).astype(np.float32)
        like = Image(image, np.eye(4))
        write_image(folder / "imagesTr" / f"c{number}_0000.nii.gz", image, like)
        write_image(folder / "labelsTr" / f"c{number}.nii.gz", mask, like)
    document = {"channel_names": {"0": f"MR{label}"}, "labels": {"background": 0, label: 1}}
    (folder / "dataset.json").write_text(json.dumps({**document, "file_ending": ".nii.gz", "numTraining": 3}))
    return folder


def test_what_a_stranger_wrote_is_shown_escaped(tmp_path) -> None:
    raw = dataset(tmp_path / "raw", EVIL)
    commands = (
        ("prepare", raw, "-o", tmp_path / "out"),
        ("recipes", "check", f"no{EVIL}"),
        ("evaluate", raw, raw, EVIL),
    )
    *each, rest = on_terminal("-c", code_of(*commands)).split(END)
    assert len(each) == 3 and not rest.strip()
    for shown in each:
        assert SHOWN in re.sub(r"\x1b\[[\d;]*m", "", shown)  # without colors
        assert not any(sequence in shown for sequence in (TITLE, CLEAR, C1, "\u202e"))


def test_a_width_that_no_terminal_has_is_not_believed() -> None:
    widths = [{"COLUMNS": columns} for columns in ("0", "1", "x", "99999999")]
    code = code_of(*[("recipes", "list")] * len(widths), environments=widths)
    *each, rest = on_terminal("-c", code).split(END)
    assert len(each) == 4 and not rest.strip()
    for shown in each:
        assert "description" in shown and max(map(len, shown.splitlines())) < 1000


def test_markup_in_names_is_shown_and_has_no_effect(tmp_path) -> None:
    label = r"[bold]:heart:[/bold][link=http://x]\[red]b\\[/]"
    raw = dataset(tmp_path / "raw", label)
    commands = (
        ("prepare", raw, "-o", tmp_path / "out", "--folds", "2"),
        ("evaluate", raw / "labelsTr", raw / "labelsTr"),
    )
    prepared, evaluated, _ = on_terminal("-c", code_of(*commands)).split(END)
    assert label in prepared and label in evaluated
    assert "\x1b]8" not in prepared + evaluated  # the sequence of a link


PRINTS = """
import logging, sys, warnings
from mambamed.terminal import guard_streams
guard_streams()
from mambamed.cli.command import _start_logging
from mambamed.cli.progress import open_progress
evil = {evil!r}
_start_logging(False, False)
with open_progress(False) as progress:
    progress.start("stage" + evil, 2, "cases" + evil)
    progress.advance(1, case=evil)
    progress.say("said" + evil)
    logging.getLogger("mambamed.io").warning("logged" + evil)
    logging.getLogger("foreign").warning("library" + evil)
    warnings.warn("warned" + evil)
    print("printed" + evil)
    progress.advance(1, case=evil)
logging.getLogger("mambamed.io").warning("later" + evil)
raise ValueError("raised" + evil)
"""


def test_progress_logging_warnings_and_tracebacks_are_escaped() -> None:
    terminal = on_terminal("-c", PRINTS.format(evil=EVIL))
    piped = subprocess.run(
        [sys.executable, "-c", PRINTS.format(evil=EVIL)], env=ENVIRONMENT, capture_output=True, text=True
    )
    for shown in (terminal, piped.stdout + piped.stderr):
        for word in ("said", "logged", "library", "warned", "printed", "later", "raised"):
            assert word + SHOWN in shown.replace("\r\n", "\n"), word
        assert not any(sequence in shown for sequence in (TITLE, CLEAR, C1, "\u202e"))


def test_lines_of_a_worker_process_are_escaped(tmp_path) -> None:
    code = (
        "import sys\n"
        "from mambamed.cases import Case\n"
        "from mambamed.preparation.pool import over_cases\n"
        "from mambamed.progress import Silence\n"
        "from tests.test_terminal import prints\n"
        "if __name__ == '__main__':\n"
        "    list(over_cases(prints, [(Case('a', ()),), (Case('b', ()),)], 2, Silence()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stderr.count(SHOWN) == 2 and "\x1b" not in done.stderr


def prints(case) -> None:
    sys.stderr.write(f"{case.id}{EVIL}\n")


@pytest.mark.parametrize(
    "character", [*map(chr, range(32)), "\x7f", "\x80", "\x9f", "\u2028", "\u2069", "\udcff"]
)
def test_no_character_that_moves_the_cursor_or_the_text_is_left(character) -> None:
    if character not in "\n\t":
        assert printable(character).isprintable()
    assert printable(f"é{character}日").startswith("é")


def mambamed(*arguments: str, shell: str) -> subprocess.CompletedProcess[str]:
    """A command, with redirections of a shell behind it."""
    command = f'exec "{sys.executable}" -m mambamed "$@" {shell}'
    return subprocess.run(
        ["bash", "-c", command, "bash", *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )


def test_with_a_closed_stderr_faults_do_not_go_to_stdout() -> None:
    done = mambamed("recipes", "check", "nothing", shell="2>&-")
    assert (done.returncode, done.stdout) == (2, "")


def test_with_a_closed_stdout_the_work_is_done_and_no_file_takes_its_place(tmp_path) -> None:
    raw = dataset(tmp_path / "raw", "a")
    done = mambamed(
        "evaluate", f"{raw}/labelsTr", f"{raw}/labelsTr", "-o", f"{tmp_path}/out", shell=">&- 2>&-"
    )
    assert done.returncode == 0
    assert (tmp_path / "out" / "cases.csv").read_text().startswith("case")


@pytest.mark.parametrize("json_output", [[], ["--json"]])
def test_a_reader_that_has_gone_ends_a_command_quietly(json_output) -> None:
    command = f'"{sys.executable}" -m mambamed "$@" | true; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", command, "bash", "recipes", "list", *json_output],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&1 | true"])
def test_messages_that_cannot_be_written_end_no_work(redirection, tmp_path) -> None:
    raw = dataset(tmp_path / "raw", "a")
    mambamed("prepare", str(raw), "-o", f"{tmp_path}/out", "--folds", "2", shell=redirection)
    assert (tmp_path / "out" / "dataset.json").is_file()


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONWARNINGS": "error"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "COLUMNS": "0"},
        {"HOME": "/nonexistent", "XDG_CACHE_HOME": "", "MPLCONFIGDIR": ""},
        {"TMPDIR": "/nonexistent", "COLUMNS": "x"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_an_odd_environment_ends_in_no_traceback(environment, tmp_path) -> None:
    raw = dataset(tmp_path / "raw", "é")
    masks = raw / "labelsTr"
    commands = (
        ("prepare", raw, "-o", tmp_path / "out", "--folds", "2"),
        ("evaluate", masks, masks, "-o", tmp_path / "scores", "--report"),
    )
    done = subprocess.run(
        [sys.executable, "-c", code_of(*commands)],
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "out" / "dataset.json").is_file()
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "é" in (tmp_path / "scores" / "cases.csv").read_text(encoding="utf-8")
