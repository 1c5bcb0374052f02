"""The command line: parses arguments, calls `mambamed.api`, prints results (stdout) and messages (stderr)."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `mambamed` command."""
    import sys

    from mambamed.terminal import guard_streams

    guard_streams()  # before anything is imported that may warn
    from mambamed.cli.commands import run_app

    run_app(sys.argv[1:])
