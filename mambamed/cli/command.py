"""A verb of `mambamed.api` as a command: the same parameters, plus the edge's own.

The edge adds `--json`, `-q` and `-v`, gives the verb a progress bar, prints its summary, and turns
faults into one line and an exit code: 0 done, 1 a fault while working, 2 a fault of usage, recipe or
model, 3 done but for some cases, 130 interrupted.
"""

from __future__ import annotations

import errno
import functools
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from mambamed.errors import MambamedError

EXIT_FAILED_AT_WORK = 1
EXIT_SOME_CASES_FAILED = 3
EXIT_INTERRUPTED = 130

# A file that is not written through io/ (a library's cache, a temporary file) meets the same disk.
_OF_THE_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
}

_EDGE = {
    "json_output": Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")],
    "quiet": Annotated[bool, typer.Option("-q", "--quiet", help="No progress, only the result.")],
    "verbose": Annotated[bool, typer.Option("-v", "--verbose", help="More talk, and tracebacks.")],
}


def command(verb: Callable[..., Any], show: Callable[[Any], None]) -> Callable[..., None]:
    """Make a Typer command of a verb.

    Args:
        verb: a function whose parameters carry Typer's annotations; `progress` is the edge's to give.
        show: prints the verb's result for people.

    Returns:
        The command; its signature is the verb's without `progress`, with the edge's options.
    """
    signature = inspect.signature(verb)
    scope = vars(sys.modules[verb.__module__])
    parameters = [
        parameter.replace(
            annotation=eval(parameter.annotation, scope)
        )  # the annotations of our own api module
        if isinstance(parameter.annotation, str)
        else parameter
        for name, parameter in signature.parameters.items()
        if name != "progress"
    ]
    edge = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in _EDGE.items()
    ]

    @functools.wraps(verb)
    def run(*, json_output: bool, quiet: bool, verbose: bool, **arguments: Any) -> None:
        _start_logging(quiet, verbose)
        try:
            if "progress" in signature.parameters:
                from mambamed.cli.progress import open_progress

                with open_progress(quiet or json_output) as progress:
                    result = verb(**arguments, progress=progress)
            else:
                result = verb(**arguments)
            if os.environ.get("RANK", "0") != "0":
                return  # one of several processes that train together: the first one speaks
            if json_output:
                print(json.dumps(as_json(result), indent=2, allow_nan=True))
            else:
                show(result)
            if sys.stdout is not None:  # closed by who started us
                sys.stdout.flush()
        except MambamedError as error:
            if verbose:
                raise
            complain(str(error))
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError:
            # The reader of our output left (`| head`); Python would complain again while closing it.
            sys.stdout = None  # type: ignore[assignment]
            raise typer.Exit(0) from None
        except OSError as error:
            if verbose or error.errno not in _OF_THE_MACHINE:
                raise
            where = f"{error.filename}: " if error.filename else ""
            complain(f"{where}{error.strerror}; free some space, or choose another folder")
            raise typer.Exit(EXIT_FAILED_AT_WORK) from error
        except KeyboardInterrupt:
            complain("interrupted; the same command goes on where it was stopped (train: add --resume)")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        faults = getattr(result, "faults", None)
        if faults:
            for fault in faults:
                complain(str(fault))
            raise typer.Exit(EXIT_SOME_CASES_FAILED)

    run.__signature__ = inspect.Signature([*parameters, *edge])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*parameters, *edge]}
    return run


def complain(lines: str) -> None:
    """Print a fault on stderr, one line a fault."""
    for line in lines.splitlines():
        print(f"mambamed: {line}", file=sys.stderr)


def as_json(value: Any) -> Any:
    """A summary as plain JSON values: dataclasses by field, paths and faults as text."""
    import dataclasses
    import math
    from pathlib import Path

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, (Path, BaseException)):
        return str(value)
    plain = getattr(value, "tolist", None)  # a NumPy array or scalar
    return as_json(plain()) if callable(plain) else value


def _start_logging(quiet: bool, verbose: bool) -> None:
    """Warnings of the readers as plain lines on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("mambamed: %(levelname)s: %(message)s"))
    logger = logging.getLogger("mambamed")
    # The level is the handler's: a warning is recorded with its case however quiet the terminal is.
    handler.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
