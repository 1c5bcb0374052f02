"""Ways to end a training without loss: Ctrl-C, SIGTERM, a closed terminal, a file STOP in the run folder."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

# Windows has no SIGHUP, which a terminal sends when it is closed.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopRequests:
    """Listens while a `with` block lasts; the loop asks `reason` after every step.

    A signal that is ignored stays ignored, e.g. SIGHUP under `nohup`.

    A second Ctrl-C does not wait for the step: it raises KeyboardInterrupt at once, and `--resume` goes on
    from the last epoch.

    Args:
        run_folder: where a file STOP is looked for; it is removed when found, so that `--resume` works.
        reads_file: whether it is this process that looks for it.
    """

    def __init__(self, run_folder: Path, reads_file: bool = True) -> None:
        self._reads_file = reads_file
        self._file = run_folder / "STOP"
        self._signal: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        # Only the main thread may listen to signals; elsewhere the STOP file remains.
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number

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
