"""The queue between the threads of a prediction ends, wherever the filling side is interrupted."""

from __future__ import annotations

import subprocess
import sys
import threading

from mambamed.jobs.stream import Abandoned, Stream
from tests.answers.stubs import stub_run, write_blobs


def taken_from(stream: Stream[int]) -> tuple[list[int], list[BaseException]]:
    """All that another thread takes from it, within ten seconds."""
    items: list[int] = []
    errors: list[BaseException] = []

    def take() -> None:
        try:
            items.extend(stream)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it still waits"
    return items, errors


def test_a_stream_without_an_end_ends_when_it_is_abandoned() -> None:
    stream: Stream[int] = Stream(3)
    stream.put(1)
    stream.put(2)
    stream.abandon()
    items, errors = taken_from(stream)
    assert items == [1, 2] and isinstance(errors[0], Abandoned)
    stream.drain()


def test_a_filled_stream_ends_by_itself() -> None:
    stream: Stream[int] = Stream(3)
    with stream.filled():
        stream.put(7)
    assert taken_from(stream) == ([7], [])


# Ctrl-C falls into the very call that hands over the end: then there is none.
INTERRUPTED = """
import queue, sys
whole = queue.Queue.put
def put(self, item, *rest, **named):
    if isinstance(item, tuple) and item[0] is None:
        raise KeyboardInterrupt
    whole(self, item, *rest, **named)
queue.Queue.put = put
from mambamed.cli import main
main()
"""


def test_a_prediction_interrupted_while_a_case_ends_does_not_hang(tmp_path) -> None:
    run = stub_run(tmp_path / "run", patch_size=(8, 8, 8))
    write_blobs(tmp_path / "images", 1)
    arguments = ["predict", run.root, tmp_path / "images", "-o", tmp_path / "out"]
    quick = ["--device", "cpu", "--precision", "fp32", "--tta", "none", "-q"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *map(str, arguments), *quick],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 130, done
    assert not list((tmp_path / "out").glob("*.nii.gz"))
