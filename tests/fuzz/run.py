"""Give the readers hostile inputs, and tell what they made of them.

    python -m tests.fuzz.run --inputs 100000            all readers, each with so many
    python -m tests.fuzz.run --target nifti --only 4711 one input again, with its traceback

An input that ends in anything but our own error classes, in an error that names no file (or `--set`) or is
long, in a warning of Python's, or that takes more than ten seconds of the processor, is written to the folder
of --failures; put it into tests/fuzz/seeds.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from mambamed.errors import MambamedError
from tests.fuzz.targets import TARGETS, Target

SLOW_SECONDS = 10.0
_TOLD_EVERY = 5000
_MOST_LINES = 21  # one per fault of a document
_LONGEST_LINE = 2000


def fuzz(target: Target, numbers: range, folder: Path, seed: int = 0) -> tuple[Counter[str], dict[int, str]]:
    """Give a target inputs by their numbers.

    Returns:
        How many were read, and refused by which error; number -> traceback of those that we must mend.
    """
    met: Counter[str] = Counter()
    failures: dict[int, str] = {}
    for number in numbers:
        began = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                target.attempt(target.input(number, seed), folder)
            met["read"] += 1
        except MambamedError as error:
            met[type(error).__name__] += 1
            if fault := _fault_of_message(str(error), folder):
                failures[number] = f"{fault}: {error!s:.3000}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            met["FAILED"] += 1
            failures[number] = traceback.format_exc(limit=-4)
        if time.process_time() - began > SLOW_SECONDS:
            failures[number] = f"took {time.process_time() - began:.1f} s"
    return met, failures


def _fault_of_message(message: str, folder: Path) -> str:
    """What is wrong with the lines of an error; empty if nothing is."""
    lines = message.split("\n")
    if len(lines) > _MOST_LINES:
        return f"{len(lines)} lines"
    for line in lines:
        if len(line) > _LONGEST_LINE:
            return f"a line of {len(line)} characters"
        if str(folder) not in line and not line.startswith("--set "):
            return "a line that names neither the file nor the option"
    return ""


def main() -> int:
    """Parse, fuzz, print; 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="of each reader")
    parser.add_argument("--target", choices=TARGETS, action="append", help="one reader; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one input, by its number")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"))
    asked = parser.parse_args()
    logging.getLogger("mambamed").addHandler(logging.NullHandler())
    logging.getLogger("mambamed").propagate = False
    failed = 0
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        for name in asked.target or TARGETS:
            target, began = TARGETS[name](), time.monotonic()
            numbers = range(asked.inputs) if asked.only is None else range(asked.only, asked.only + 1)
            met: Counter[str] = Counter()
            failures: dict[int, str] = {}
            for first in range(0, len(numbers), _TOLD_EVERY):
                met_now, failed_now = fuzz(
                    target, numbers[first : first + _TOLD_EVERY], Path(folder), asked.seed
                )
                met += met_now
                failures |= failed_now
                counts = ", ".join(f"{count} {what}" for what, count in met.most_common())
                seconds = time.monotonic() - began
                print(f"{name}: {met.total()} inputs in {seconds:.0f} s: {counts}", flush=True)
            for number, text in list(failures.items())[:20]:
                asked.failures.mkdir(exist_ok=True)
                (asked.failures / f"{name}_{number}").write_bytes(target.input(number, asked.seed))
                print(f"--- {name} {number}\n{text}", flush=True)
            failed += len(failures)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
