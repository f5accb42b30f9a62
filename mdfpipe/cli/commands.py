"""The application with all its commands, in the order in which `--help` lists them."""

from __future__ import annotations

from typing import Annotated

import typer

from mdfpipe.cli import evaluate, look, make, run  # noqa: F401 - they add their commands; `evaluate` imports `run`
from mdfpipe.cli.options import app, say

__all__ = ["app"]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an unexpected error; works after any command.")
    ] = False,
) -> None:
    if version:
        from mdfpipe import __version__

        say(f"mdfpipe {__version__}")
        raise typer.Exit
