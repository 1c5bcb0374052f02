"""Kill a command at random moments, run it again, compare what it leaves: for every verb that must survive.

trials = outlive_kills(lambda out: ["prepare", str(raw), "-o", str(out)], tmp_path, count=20)
assert sum(trial.hit for trial in trials) >= 10
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPORARY = (".lock", ".tmp", ".mambamed-files")  # names that begin or end so are no result
_PATIENCE = 120.0


@dataclass(frozen=True)
class Trial:
    """One kill.

    Attributes:
        moment: seconds after the output appeared, up to its last file (negative: before it).
        signal: what was sent.
        hit: whether the command was still at work.
        complete: whether what it left was whole already.
    """

    moment: float
    signal: signal.Signals
    hit: bool
    complete: bool


def outlive_kills(
    command: Callable[[Path], Sequence[str]],
    folder: Path,
    count: int,
    *,
    again: Callable[[Path], Sequence[str]] | None = None,
    seed: int = 0,
    differ: Collection[str] = (),
    kinds: Sequence[signal.Signals] = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT),
) -> list[Trial]:
    """Assert that a command, killed and given again, ends with the bytes of an undisturbed one.

    Args:
        command: output folder -> arguments of `mambamed`.
        folder: an empty one to work in.
        count: kills, each on an output of its own; one in five falls before there is any output, the others
            after it.
        again: what goes on (`train --resume`); the same command where not given.
        seed: of the moments.
        differ: names of files that hold times or the like, and are only asked to be there.
        kinds: signals, in turn.

    Returns:
        What each kill met.

    Raises:
        AssertionError: an exit code, a process left behind, or a difference.
    """
    chance = random.Random(seed)
    whole = folder / "whole"
    began = time.monotonic()
    process = start(command(whole))
    appeared = appears(whole, process)
    assert process.wait(_PATIENCE) == 0, f"{command(whole)} failed undisturbed"
    last_file = max(path.stat().st_mtime for path in whole.rglob("*")) - time.time() + time.monotonic()
    before, during = appeared - began, max(last_file - appeared, 0.01)
    expected = contents(whole, differ)
    trials = []
    for number in range(count):
        out = folder / f"killed_{number}"
        kind = kinds[number % len(kinds)]
        process = start(command(out))
        if number % 5 == 4:
            moment = -chance.uniform(0.0, before)
            time.sleep(before + moment)
        else:
            moment = chance.uniform(0.0, during)
            appears(out, process)
            time.sleep(moment)
        hit = process.poll() is None
        process.send_signal(kind)
        code = process.wait(_PATIENCE)
        assert not hit or code != 0 or contents(out, differ) == expected
        assert _group_ends(process.pid), f"killed after {moment:.2f} s, it left processes behind"
        trials.append(Trial(moment, kind, hit, out.is_dir() and contents(out, differ) == expected))
        assert start((again or command)(out)).wait(_PATIENCE) == 0, f"{trials[-1]}: it does not go on"
        assert contents(out, differ) == expected, f"{trials[-1]}: other files or other bytes"
    return trials


def contents(folder: Path, differ: Collection[str] = ()) -> dict[str, str]:
    """Path -> digest of every file but those that say so by their name; of those in `differ`, none."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not (path.name.startswith(TEMPORARY) or path.name.endswith(TEMPORARY)):
            digest = "" if path.name in differ else hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = digest
    return found


def start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, that takes Ctrl-C even where these tests run behind `&`."""
    return subprocess.Popen(
        [sys.executable, "-m", "mambamed", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def appears(output: Path, process: subprocess.Popen[bytes]) -> float:
    """When the output is there (or the command has ended)."""
    while process.poll() is None and not output.exists():
        time.sleep(0.002)
    return time.monotonic()


def spawned_by(leader: int) -> list[int]:
    """Processes of Python that a process has spawned as its workers, on Linux."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            words = (entry / "cmdline").read_text()
        except OSError:
            continue
        if parent == leader and "spawn_main" in words:
            found.append(int(entry.name))
    return found


def _group_ends(group: int) -> bool:
    """Whether every process of the group is gone within a while."""
    limit = time.monotonic() + _PATIENCE
    while time.monotonic() < limit:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False
