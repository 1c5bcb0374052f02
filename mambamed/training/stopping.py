"""Ways to end a training without loss: Ctrl-C, SIGTERM, a closed terminal, a file STOP in the run folder."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

# Windows has no SIGHUP, which a terminal sends when it is closed.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopRequests:
    """Listens while a `with` block lasts; the loop asks `reason` after every step.

    A signal that is ignored stays ignored, e.g. SIGHUP under `nohup`. Each signal is answered by a message at
    once, although Python handles it only when the present operation ends.

    A second Ctrl-C does not wait for the step: it raises KeyboardInterrupt, and `--resume` goes on from the
    last checkpoint. Of the other signals, several count as one: a batch system may send SIGTERM to every
    process of a job, and the process that started this one passes its own on.

    Args:
        run_folder: where a file STOP is looked for; it is removed when found, so that `--resume` works.
        reads_file: whether it is this process that looks for it.
        say: optional callback that receives the messages, in another thread.
    """

    def __init__(
        self, run_folder: Path, reads_file: bool = True, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self._reads_file, self._say = reads_file, say
        self._file = run_folder / "STOP"
        self._signal: int | None = None
        # Signals, and those of Ctrl-C; several that come during one operation reach the handler as one.
        self._arrived, self._interrupts = 0, 0
        self._waits = True
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        # Only the main thread may listen to signals; elsewhere the STOP file remains.
        if threading.current_thread() is threading.main_thread():
            numbers = [n for n in STOP_SIGNALS if signal.getsignal(n) != signal.SIG_IGN]
            self._heard_by, self._sent_by = socket.socketpair()
            self._sent_by.setblocking(False)
            self._former_fd = signal.set_wakeup_fd(self._sent_by.fileno(), warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._answer, args=(numbers,), daemon=True)
            self._thread.start()
            for number in numbers:
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._former:
            signal.set_wakeup_fd(self._former_fd)
            self._sent_by.close()  # which ends the thread
            self._thread.join()
            self._heard_by.close()
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _answer(self, numbers: list[int]) -> None:
        """Answer the signals, whose numbers the system writes into the socket as they come."""
        while received := self._heard_by.recv(1):
            if received[0] not in numbers:
                continue
            self._arrived += 1
            self._interrupts += received[0] == signal.SIGINT
            if self._arrived > 1 or not self._waits:
                self._say("stopping; waiting for the present operation to end")
            else:
                again = "; press Ctrl-C again to stop at once" if received[0] == signal.SIGINT else ""
                self._say(f"stopping after this step{again}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        repeated = number == signal.SIGINT and (self._signal is not None or self._interrupts > 1)
        self._signal = number
        if repeated or not self._waits:
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block, whose work can be done again, the first signal raises KeyboardInterrupt."""
        if self._signal is not None:
            raise KeyboardInterrupt
        self._waits = False
        try:
            yield
        finally:
            self._waits = True

    @property
    def interrupted(self) -> bool:
        """Whether a signal came: the whole command is to end, not this fold alone."""
        return self._signal is not None

    def reason(self) -> str | None:
        """Why to stop, or None."""
        if self._signal is not None:
            return "interrupted"
        if self._reads_file and self._file.is_file():
            self._file.unlink()
            return f"{self._file.name} file found"
        return None
