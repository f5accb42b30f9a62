"""The application, and the options that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mdfpipe.errors import one_line, unobeyed

app = typer.Typer(
    name="mdfpipe",
    help="Cross-spectral person recognition from video: body and face, domain by domain.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _studies(incomplete: str) -> list[str]:
    """The shipped studies that a word may become; the shell goes on with files where there is none."""
    from mdfpipe.store.shipped import study_names

    return [name for name in study_names() if name.startswith(incomplete)]


STUDY = typer.Argument(
    help="The study: a YAML file, or a name of `mdfpipe studies`.", show_default=False, autocompletion=_studies
)
Study = Annotated[Path, STUDY]
Data = Annotated[Path, typer.Option(envvar="MDFPIPE_DATA", help="Folder that holds the data set.", show_default=False)]
RunFolder = Annotated[Path, typer.Option("--run", help="Folder for everything that is made.", show_default=False)]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting: detect.stride=2.")
]
Only = Annotated[list[str] | None, typer.Option("--only", metavar="VIDEO", help="Only this video; may be repeated.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes, each doing one video at a time.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each process.")]
Batch = Annotated[int, typer.Option(min=1, help="Frames decoded and detected together.")]
Device = Annotated[str, typer.Option(help="Where models run: cpu, cuda, cuda:1.")]
Deadline = Annotated[float, typer.Option(min=1, help="Seconds without progress after which a process is killed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what is due and why; do nothing.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first video that fails, and at a crop that does not decode.")
]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Make run-level tables without unfinished videos.")]
DownloadWeights = Annotated[
    bool, typer.Option("--download-weights", help="Fetch the detector's weights where they are missing (yolov10*.pt).")
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Open weights that are no mere tensors: runs whatever they say.")
]
Systems = Annotated[
    list[str] | None,
    typer.Option("--system", metavar="NAME", help="Only this system and what it starts from; may be repeated."),
]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write the trainings' figures as event files for TensorBoard.")
]
AllowMixed = Annotated[
    bool, typer.Option("--allow-mixed", help="Set runs side by side although a table has two protocols; stamp it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]


def beside(made: Path | list[Path | None], text: str) -> None:
    """A line on what was made: on standard error where the thing itself went to standard output."""
    from mdfpipe.store.outputs import is_standard_output

    if any(out is not None and is_standard_output(out) for out in (made if isinstance(made, list) else [made])):
        sys.stderr.write(f"{one_line(text, 1000)}\n")
    else:
        say(text)


def say(text: str) -> None:
    """A line, or a document, on standard output."""
    sys.stdout.write(unobeyed(text) + "\n")
