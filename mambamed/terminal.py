"""The streams that people read: text from files and libraries reaches them escaped, and they never fail.

Names in a dataset, a model or a header may hold sequences that set the title of a terminal, clear it, or show
letters in another order. `guard_streams` replaces stdout and stderr of a process, so that nothing that
prints has to know of this. What draws on the terminal itself (progress bar, tables) writes to
`unescaped(stream)` and passes the text through `printable`.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

# Control characters except newline and tab; marks that change the direction of text; separators of lines that
# `str.splitlines` knows; bytes of a file name that are not UTF-8.
_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def command_line(*words: object) -> str:
    """A command of mambamed as a shell takes it: words with spaces are quoted.

    >>> command_line("train", "-d", "my data", "-f", 0)
    "mambamed train -d 'my data' -f 0"
    """
    return shlex.join(["mambamed", *map(str, words)])


def printable(text: str) -> str:
    r"""The text with everything escaped that a terminal would act on.

    >>> printable("a\x1b[2Jb\u202ec")
    'a\\x1b[2Jb\\u202ec'
    >>> printable("Größe\t7\n")
    'Größe\t7\n'
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


class _Stream:
    """A text stream on top of another one; what it does not change is the other one's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)


class Escaped(_Stream):
    """Escapes what is written to it, except by consoles of rich, which find the stream below it."""

    @property
    def rich_proxied_file(self) -> TextIO:
        """The stream below."""
        return self._stream

    def write(self, text: str) -> int:
        self._stream.write(printable(text))
        return len(text)


class _Unfailing(_Stream):
    """Messages: no work ends because its terminal was closed or the disk of its log is full."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def unescaped(stream: TextIO) -> TextIO:
    """The stream below an escaped one, for what draws on the terminal."""
    return stream.rich_proxied_file if isinstance(stream, Escaped) else stream


def guard_streams() -> None:
    """Make stdout and stderr of this process UTF-8 and escaped, and warnings of libraries one line each.

    A stream that the parent process closed is replaced by the null device: its messages would go to the other
    one, or into the next file that is opened.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name) or Path(os.devnull).open("w")  # noqa: SIM115
        if isinstance(stream, io.TextIOWrapper):  # whatever the code page of the terminal
            stream.reconfigure(encoding="utf-8", errors="replace")
        setattr(sys, name, Escaped(stream if name == "stdout" else cast(TextIO, _Unfailing(stream))))
    if not re.fullmatch(r"[4-9]\d|[1-4]\d\d", os.environ.get("COLUMNS", "80")):
        del os.environ["COLUMNS"]  # no table fits into 0 columns, and a line of 10^8 ends nothing
    warnings.formatwarning = lambda message, category, *_, **__: f"mambamed: {category.__name__}: {message}\n"
    if any(option.startswith("e") for option in sys.warnoptions):  # e.g. PYTHONWARNINGS=error
        sys.warnoptions.clear()
        os.environ.pop("PYTHONWARNINGS", None)
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)


def close_stdout() -> None:
    """Print nothing more: whoever read it has gone (e.g. `| head`), and Python would report that at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
