"""The command line: parse, call the library, print. The only place with exit codes.

Exit codes: 0 all done; 2 a usage, settings or data error (one line says which); 3 some units failed or wait;
130 interrupted, 141 the reader of the output has gone. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from mdfpipe.cli import stages, things  # noqa: F401 - they add their commands, in this order
from mdfpipe.cli.options import app, say
from mdfpipe.errors import MdfError


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from mdfpipe import __version__

        say(f"mdfpipe {__version__}")
        raise typer.Exit


def main() -> None:
    """The entry point: one clear line and exit code 2 for every foreseen error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show ends nothing
    try:
        app()
    except MdfError as error:
        from mdfpipe.display import show_error

        show_error(str(error))
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == 130:  # typer's way to say Ctrl-C
            sys.stderr.write("mdfpipe: interrupted; the same command goes on from here\n")
        raise
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        sys.stderr.write(f"mdfpipe: output: {error.strerror}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
