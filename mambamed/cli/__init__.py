"""The command line: parse -> api -> print. It alone prints; results on stdout, talk on stderr."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `mambamed` command."""
    from mambamed.cli.commands import app, run_app

    run_app(app)
