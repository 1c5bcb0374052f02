"""Ways to end a training."""

from __future__ import annotations

import os
import queue
import signal

import pytest

from mambamed.training.stopping import StopRequests


def test_a_stop_file_is_found_once_and_removed(tmp_path):
    with StopRequests(tmp_path) as stop:
        assert stop.reason() is None
        (tmp_path / "STOP").touch()
        assert stop.reason() == "STOP file found"
        assert stop.reason() is None and not stop.interrupted
    assert not (tmp_path / "STOP").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_wait_for_the_step_and_a_further_ctrl_c_does_not(tmp_path, number):
    """Batch systems send SIGTERM to every process of a job, which then gets it twice."""
    with StopRequests(tmp_path) as stop:
        os.kill(os.getpid(), number)
        assert stop.reason() == "interrupted" and stop.interrupted
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.reason() == "interrupted"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_is_answered_at_once_and_a_second_one_too(tmp_path):
    """In another thread: Python calls the handler only when the present operation ends."""
    lines: queue.Queue[str] = queue.Queue()
    with StopRequests(tmp_path, say=lines.put):
        os.kill(os.getpid(), signal.SIGINT)
        assert lines.get(timeout=5) == "stopping after this step; press Ctrl-C again to stop at once"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert lines.get(timeout=5).startswith("stopping; waiting")
    assert lines.empty()


def test_work_that_can_be_done_again_ends_at_the_first_signal(tmp_path):
    with StopRequests(tmp_path) as stop:
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            raise AssertionError("the signal came before")
        assert stop.interrupted


def test_an_ignored_signal_stays_ignored(tmp_path):
    """`nohup mambamed train` goes on when its terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests(tmp_path) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.reason() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_former_handlers_come_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with StopRequests(tmp_path):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
