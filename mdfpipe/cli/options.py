"""The application, and the options that several commands share."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mdfpipe.errors import one_line, unobeyed

app = typer.Typer(
    name="mdfpipe",
    help="Recognise people across spectral bands in video, by body and face.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _studies(incomplete: str) -> list[str]:
    """The shipped studies that a word may become; the shell continues with files where there is none."""
    from mdfpipe.store.shipped import study_names

    return [name for name in study_names() if name.startswith(incomplete)]


STUDY = typer.Argument(
    help="Study: a YAML file, or a name from `mdfpipe studies`.", show_default=False, autocompletion=_studies
)
StudyFile = Annotated[Path, STUDY]
Data = Annotated[Path, typer.Option(envvar="MDFPIPE_DATA", help="Folder that holds the data set.", show_default=False)]
RunFolder = Annotated[Path, typer.Option("--run", help="Run folder, where all results are stored.", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change one setting, e.g. detect.stride=2; repeatable."),
]
Only = Annotated[list[str] | None, typer.Option("--only", metavar="VIDEO", help="Process only this video; repeatable.")]
Workers = Annotated[int, typer.Option(min=1, help="Number of worker processes; each takes one video at a time.")]
RunWorkers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Number of worker processes; each takes one video at a time. Without it: 1, or --per-device for each GPU.",
        show_default=False,
    ),
]
PerDevice = Annotated[
    int | None,
    typer.Option(min=1, metavar="K", help="Workers for each GPU of --device. Without it: 1.", show_default=False),
]
On = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="Where units run: `slurm`, `ray`, or `workers`, processes of `mdfpipe work`. Without it: here.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1, help="With --on slurm or ray: number of jobs that work. Without it: that of the profile, or 1."
    ),
]
Slurm = Annotated[
    str,
    typer.Option(
        "--slurm", metavar="OPTIONS", help='Options of sbatch for each job, such as "--gres=gpu:1 -c 8 -t 4:00:00".'
    ),
]
ProfileFile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="YAML with a site's settings of Slurm. Without it: MDFPIPE_PROFILE, then ~/.config/mdfpipe/slurm.yaml.",
    ),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="With --on slurm: submit this command as a job, too, and return at once.")
]
Ray = Annotated[
    str,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="With --on ray: address of the cluster. Without it: RAY_ADDRESS, or this machine's.",
    ),
]
RayNeeds = Annotated[
    str,
    typer.Option(metavar="NEEDS", help='With --on ray: what each worker reserves, such as "num_gpus=1 num_cpus=8".'),
]
Connect = Annotated[
    str | None,
    typer.Option(
        metavar="HOW", help="With --on: reach workers by `tcp`, or by `files` of the run folder. Without it: tcp."
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads per process.")]
Batch = Annotated[int, typer.Option(min=1, help="Frames decoded and passed to the detector together.")]
Device = Annotated[
    str, typer.Option(metavar="DEVICE", help="Where networks run: cpu, cuda:0, several as cuda:0,cuda:1, or cuda:all.")
]
Deadline = Annotated[float, typer.Option(min=1, help="Kill a worker after this many seconds without progress.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List what would run and why, and run nothing.")]
Separate = Annotated[
    bool,
    typer.Option(
        "--separate",
        help="Run each stage on all videos before the next stage; detect and crop then decode each video twice.",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first failed video or unreadable crop.")]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Continue although some videos failed; list them in the result.")
]
DownloadWeights = Annotated[
    bool, typer.Option("--download-weights", help="Download missing detector weights (yolov10*.pt).")
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle", help="Load weights that need pickle. They can run any code: use only for files you trust."
    ),
]
Systems = Annotated[
    list[str] | None,
    typer.Option("--system", metavar="NAME", help="Run only this system and its parents; repeatable."),
]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write training metrics as TensorBoard event files.")
]
AllowStale = Annotated[
    bool, typer.Option("--allow-stale", help="Show numbers that are out of date; every output marks them.")
]
By = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Group probes by range, session, camera, height, sharpness, contrast, crops, or a column of --columns; "
        "NAME=EDGE,EDGE gives the edges of bins; repeatable.",
    ),
]
Columns = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="CSV or Parquet of groups, keyed by subject_id, video_id or template."),
]
AllowMixed = Annotated[
    bool, typer.Option("--allow-mixed", help="Allow two protocols in one table; every output marks it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def beside(made: Path | list[Path | None], text: str) -> None:
    """A line on what was made: on standard error where the thing itself went to standard output."""
    from mdfpipe.store.files import is_standard_output

    if any(out is not None and is_standard_output(out) for out in (made if isinstance(made, list) else [made])):
        sys.stderr.write(f"{one_line(text, 1000)}\n")
    else:
        say(text)


def given_besides(context: typer.Context, *names: str) -> list[str]:
    """The options on the command line other than these parameters."""
    sources = ((option, context.get_parameter_source(str(option.name))) for option in context.command.params)
    given = [option for option, source in sources if source is not None and source.name == "COMMANDLINE"]
    return [option.opts[0] for option in given if option.name not in names]


def say_json(value: Any, **more: Any) -> None:
    """A document on standard output: a value, or a dataclass with what is added to it."""
    document = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    say(json.dumps(document | more if more else document, indent=1, default=str))


def say(text: str) -> None:
    """A line, or a document, on standard output."""
    sys.stdout.write(unobeyed(text) + "\n")
