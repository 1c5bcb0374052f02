"""Makes commands of the functions of `mambamed.api`: the same parameters, plus the common options.

Every command has `--json`, `--json-lines`, `-q` and `-v`, shows a progress bar, prints the summary, and
reports errors in one line each with an exit code: 0 done, 1 failed while running, 2 invalid usage, recipe or
model, 3 some cases failed, 130 interrupted.
"""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from mambamed.cli.json_output import (
    Form,
    JsonLines,
    is_first_process,
    print_fault,
    print_message,
    print_result,
)
from mambamed.errors import MambamedError
from mambamed.memory import is_of_device, is_out_of_memory, shortage
from mambamed.progress import Progress, Silence
from mambamed.terminal import close_stdout

_LONGEST_LINE = 2000  # characters of a message
_FAULTS_SHOWN = 5  # of cases
EXIT_FAILED = 1
EXIT_SOME_CASES_FAILED = 3
EXIT_INTERRUPTED = 130

# Errors of the disk or the system, raised for files that are not written by `io` (e.g. a library's cache).
_SYSTEM_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENAMETOOLONG,
}

# Commands that keep what is finished when they are run again.
_CONTINUED = ("prepare", "extend", "predict", "landmarks", "classify", "bids", "study", "best", "demo")

_COMMON = {
    "json_output": Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")],
    "json_lines": Annotated[
        bool,
        typer.Option(
            "--json-lines",
            help="Print progress, messages and the result on stdout, as one JSON object per line.",
        ),
    ],
    "quiet": Annotated[bool, typer.Option("-q", "--quiet", help="Show only the result, no progress.")],
    "verbose": Annotated[bool, typer.Option("-v", "--verbose", help="Show more messages and tracebacks.")],
}


def command(function: Callable[..., Any], show: Callable[[Any], None]) -> Callable[..., None]:
    """Make a Typer command of a function.

    Args:
        function: its parameters carry Typer's annotations; `progress` is passed by the command.
        show: prints the result.

    Returns:
        The command; its signature is that of the function without `progress`, plus the common options.
    """
    signature = inspect.signature(function)
    scope = vars(sys.modules[function.__module__])
    parameters = [
        parameter.replace(annotation=eval(parameter.annotation, scope))  # annotations of mambamed.api
        if isinstance(parameter.annotation, str)
        else parameter
        for name, parameter in signature.parameters.items()
        if name != "progress"
    ]
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in _COMMON.items()
    ]

    @functools.wraps(function)
    def run(*, json_output: bool, json_lines: bool, quiet: bool, verbose: bool, **arguments: Any) -> None:
        form: Form = "lines" if json_lines else "json" if json_output else "text"
        _start_logging(quiet, verbose, form)
        try:
            if function.__name__ == "train" and arguments["gpus"] > 1 and arguments["on"] is None:
                from mambamed.training.launch import launch, launched

                if launched(arguments["gpus"]):
                    raise SystemExit(launch(arguments["gpus"], sys.argv[1:]))
            if "progress" in signature.parameters:
                with _progress(quiet, form) as progress:
                    result = function(**arguments, progress=progress)
            else:
                result = function(**arguments)
            if form != "text":
                print_result(result, form)
            elif is_first_process():
                try:
                    show(result)
                    sys.stdout.flush()
                except BrokenPipeError:
                    close_stdout()
        except MambamedError as error:
            raise _failed(type(error).__name__, str(error), error.exit_code, form, verbose) from error
        except Exception as error:
            fault = _fault_of_machine(error, function.__name__)
            if fault is None:
                if form != "text":
                    print_fault("InternalError", f"{type(error).__name__}: {error}", EXIT_FAILED, form)
                raise
            raise _failed("MachineError", fault, EXIT_FAILED, form, verbose) from error
        except KeyboardInterrupt as interruption:
            fact = f": {interruption}" if str(interruption) else ""
            line = f"Interrupted{fact}. {after_interruption(function.__name__, arguments)}"
            raise _failed("Interrupted", line, EXIT_INTERRUPTED, form) from None
        faults = getattr(result, "faults", None)
        if faults:
            shown = len(faults) if verbose or len(faults) <= _FAULTS_SHOWN + 1 else _FAULTS_SHOWN
            for fault in faults[:shown]:
                complain(str(fault))
            if left := len(faults) - shown:
                complain(
                    f"and {left} more faults, {len(faults)} in all. Use --verbose or --json to list all."
                )
            raise typer.Exit(EXIT_SOME_CASES_FAILED)

    run.__signature__ = inspect.Signature([*parameters, *common])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*parameters, *common]}
    return run


def _failed(kind: str, lines: str, code: int, form: Form, verbose: bool = False) -> typer.Exit:
    """Report a fault, with the traceback of the current exception if asked; returns the exit to raise."""
    if verbose:
        traceback.print_exc()
    complain(lines)
    if form != "text":
        print_fault(kind, lines, code, form)
    return typer.Exit(code)


@contextmanager
def _progress(quiet: bool, form: Form) -> Iterator[Progress]:
    """The progress output that suits the form of the result."""
    if form == "text":
        from mambamed.cli.progress import open_progress

        with open_progress(quiet) as progress:
            yield progress
    else:
        yield Silence() if quiet or form == "json" else JsonLines()


def _fault_of_machine(error: Exception, verb: str) -> str | None:
    """The line for an error of the disk or the memory; None for any other, which is a bug."""
    if is_out_of_memory(error):
        remedy = "Use --workers 1 or a smaller --max-ram." if verb == "prepare" else "Close other programs."
        remedy = "Use --device cpu." if is_of_device(error) else remedy
        return f"out of memory: {verb} {shortage(error)}. {remedy}"
    if not isinstance(error, OSError) or error.errno not in _SYSTEM_ERRORS:
        return None
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENAMETOOLONG:
        return f"{where}{error.strerror}. Shorten the name."
    return f"{where}{error.strerror}. Check free space and permissions, or use another folder."


def after_interruption(name: str, arguments: Mapping[str, Any]) -> str:
    """What to do after Ctrl-C in a command."""
    if name == "train" and arguments.get("on"):
        return "Jobs of a batch system go on; run the same command again to follow them."
    if name == "train":
        return "Run the same command with --resume to continue."
    if name not in _CONTINUED:
        return "Run the same command again; it starts from the beginning."
    if arguments.get("overwrite"):
        return "Run the same command without --overwrite to continue."
    return "Run the same command again to continue."


def complain(lines: str) -> None:
    """Print errors on stderr, one per line; what is too long to be read is left out."""
    for line in lines.split("\n"):
        line = line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 300]} ... {line[-290:]}"
        print(f"mambamed: {line}", file=sys.stderr)


class _Lines(logging.Handler):
    """Prints to the stderr of the moment, which a progress bar replaces while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


class _Events(logging.Handler):
    """Prints message events."""

    def emit(self, record: logging.LogRecord) -> None:
        print_message(self.format(record))


def _start_logging(quiet: bool, verbose: bool, form: Form = "text") -> None:
    """Show log messages as plain lines on stderr, or as events."""
    if form == "lines":
        handler: logging.Handler = _Events()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    else:
        handler = _Lines()
        handler.setFormatter(logging.Formatter("mambamed: %(levelname)s: %(message)s"))
    logger = logging.getLogger("mambamed")
    # Only the handler has this level: with --quiet, warnings are still recorded with their cases.
    handler.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
