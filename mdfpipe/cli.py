"""The command line: parse, call the library, print. The only place with exit codes.

Exit codes: 0 all done; 2 a usage, settings or data error (one line says which); 3 some units failed or wait;
130 interrupted, 141 the reader of the output has gone. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import io
import json
import os
import sys
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer

from mdfpipe.errors import ConfigError, MdfError

app = typer.Typer(
    name="mdfpipe",
    help="Cross-spectral person recognition from video: body and face, domain by domain.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Study = Annotated[Path, typer.Argument(help="The study, a YAML file of pipelines/.", show_default=False)]
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
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first video that fails.")]
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
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from mdfpipe import __version__

        _print(f"mdfpipe {__version__}")
        raise typer.Exit


def _stages(first: str | None, last: str | None, study: Path, data: Path, run: Path, o: dict[str, Any]) -> None:
    """What every stage verb does."""
    from mdfpipe.display import Display, plain, show_numbers, show_outcome
    from mdfpipe.pipeline import Pipeline, Runner
    from mdfpipe.report.numbers import numbers_of
    from mdfpipe.stages import Resources
    from mdfpipe.store.run import Run

    resources = Resources(
        o["workers"], o["device"], o["threads"], o["batch"], o["deadline"], tensorboard=o.get("tensorboard", False)
    )
    pipeline = Pipeline.load(study, o["set_"] or [])
    if o["trust_pickle"]:
        pipeline = pipeline.trusting()
    runner = Runner(pipeline, Run(run), data, resources, systems=o.get("system"))
    if o["trust_pickle"]:
        sys.stderr.write("mdfpipe: --trust-pickle: if the weights ask for it, whatever they say is run\n")
    if o.get("download_weights") and not o["dry_run"]:
        pipeline.detect.detector.download(runner.data, lambda line: sys.stderr.write(f"mdfpipe: {line}\n"))
    if o["dry_run"]:
        lines = runner.due(first, last, o["only"])
        _print(json.dumps(lines, indent=1) if o["json_"] else "\n".join(lines) or "nothing is due")
        return
    with Display() as display:
        outcome = runner.execute(
            first, last, only=o["only"], strict=o["strict"], allow_missing=o["allow_missing"], listen=display
        )
    if not runner.leads:
        return
    if o["json_"]:
        more = {
            "complete": outcome.complete,
            "numbers": numbers_of(runner.run) if "evaluate" in outcome.tallies else None,
        }
        _print(json.dumps(plain(outcome) | more, indent=1))
    else:
        show_outcome(outcome)
        if "evaluate" in outcome.tallies:
            show_numbers(runner.run.path)
    if not outcome.complete:
        raise typer.Exit(3)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _stage_verb(name: str, begin: str | None, end: str | None, explanation: str, **more: Any) -> None:
    """A verb that runs the stages from `begin` to `end`. more: its options beside those of every stage verb."""

    def verb(**given: Any) -> None:
        if given.get("embeddings"):
            _score(given)
            return
        compare = given.pop("compare", None)
        if compare and given["study"] is None:
            _compare(given, compare)
            return
        for needed in ("study", "data", "run"):
            if given[needed] is None:
                raise ConfigError(f"expected {needed.upper() if needed == 'study' else f'--{needed}'}; see --help")
        span = given.pop("first", begin), given.pop("last", end)
        _stages(*span, given.pop("study"), given.pop("data"), run := given.pop("run"), given)
        if compare:
            _compare(given | {"run": run}, compare)

    options = {"study": Study, "data": Data, "run": RunFolder} | more
    options |= {"set_": Set, "only": Only, "workers": Workers, "threads": Threads, "batch": Batch, "device": Device}
    options |= {"deadline": Deadline, "dry_run": DryRun, "strict": Strict, "allow_missing": AllowMissing}
    options |= {"trust_pickle": TrustPickle, "json_": Json}
    verb.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(
                n, Parameter.KEYWORD_ONLY, annotation=kind, default=_DEFAULTS.get(n, None if n in more else _NEEDED)
            )
            for n, kind in options.items()
        ]
    )
    app.command(name, help=explanation)(verb)


_NEEDED = Parameter.empty
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("first", "last", "set_", "only", "system")),
    **dict.fromkeys(("dry_run", "strict", "allow_missing", "download_weights", "trust_pickle"), False),
    **dict.fromkeys(("tensorboard", "json_"), False),
    **{"workers": 1, "threads": 2, "batch": 8, "device": "cpu", "deadline": 300.0},
}

_stage_verb(
    "run",
    None,
    None,
    """Run all that is due, from the videos to the numbers.

    Example: mdfpipe run pipelines/real-walk.yaml --data DATA --run runs/walk --until manifest
    """,
    first=Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Start at this stage.")],
    last=Annotated[str | None, typer.Option("--until", metavar="STAGE", help="End with this stage.")],
    system=Systems,
    download_weights=DownloadWeights,
    tensorboard=Tensorboard,
)
_stage_verb(
    "detect",
    "index",
    "detect",
    """Index the data set and find the bodies in every video.

    Example: mdfpipe detect pipelines/real-walk.yaml --data DATA --run runs/walk --set detect.stride=2
    """,
    download_weights=DownloadWeights,
)
_stage_verb(
    "label",
    "label",
    "manifest",
    """Name the bodies by the faces, cut both out, and write the manifest.

    Example: mdfpipe label pipelines/real-walk.yaml --data DATA --run runs/walk --set label.min_overlap=0.7
    """,
)
_stage_verb(
    "train",
    "train",
    "embed",
    """Train the systems of a study, one after the other, and embed with each.

    A killed training goes on where it was. Under `torchrun` all its processes train together.

    Example: mdfpipe train pipelines/synthetic/study.yaml --data data/study --run runs/study --system body-finetuned
    """,
    system=Systems,
    tensorboard=Tensorboard,
)
_stage_verb(
    "eval",
    "evaluate",
    "evaluate",
    """Make the study's tables of numbers from its vectors; or the same tables of vectors that were made elsewhere.

    Example: mdfpipe eval pipelines/synthetic/study.yaml --data data/study --run runs/study

    Example: mdfpipe eval --run runs/lora --compare runs/full

    Example: mdfpipe eval --embeddings vectors.parquet --protocol ijbmdf-vis500-to-ir30 --out scored
    """,
    study=Annotated[Path | None, typer.Argument(help="The study, a YAML file of pipelines/.", show_default=False)],
    data=Annotated[Path | None, typer.Option(envvar="MDFPIPE_DATA", help="Folder that holds the data set.")],
    run=Annotated[Path | None, typer.Option("--run", help="Folder for everything that is made.")],
    system=Systems,
    compare=Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Set this evaluated run beside --run; may be repeated.")
    ],
    embeddings=Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Parquet or NPZ with subject_id, domain, vector: instead of a study."),
    ],
    protocol=Annotated[str | None, typer.Option(help="Of --embeddings: a protocol of manifests/, or a YAML file.")],
    out=Annotated[Path | None, typer.Option(help="Of --embeddings: folder for the tables.")],
)


def _compare(o: dict[str, Any], others: list[Path]) -> None:
    """`eval --compare`."""
    from mdfpipe.comparison import compare_runs
    from mdfpipe.display import show_comparison

    if o["run"] is None:
        raise ConfigError("eval --compare RUN: expected --run beside it, the run that it is set beside")
    numbers = compare_runs([o["run"], *others])
    if o["json_"]:
        _print(json.dumps(numbers, indent=1))
    else:
        show_comparison(numbers)


def _score(o: dict[str, Any]) -> None:
    """`eval --embeddings`."""
    from mdfpipe.display import show_numbers
    from mdfpipe.scoring import score

    if not o["protocol"] or not o["out"] or o["study"]:
        raise ConfigError("eval --embeddings FILE: expected --protocol NAME and --out FOLDER beside it, and no study")
    done = score(o["embeddings"], o["protocol"], o["out"], o["set_"])
    if o["json_"]:
        _print((done.folder / "evaluate" / "metrics.json").read_text())
    else:
        show_numbers(done.folder)


@app.command()
def status(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    json_: Json = False,
) -> None:
    """Show how far a run is: stages, rows by status, time, failures.

    Example: mdfpipe status runs/walk
    """
    from mdfpipe.display import plain, show_status
    from mdfpipe.status import status as read_status

    found = read_status(run)
    if json_:
        _print(json.dumps(plain(found), indent=1))
    else:
        show_status(found)


@app.command()
def export(
    thing: Annotated[
        str,
        typer.Argument(
            help="Of a detector: a study (.yaml), weights (.pt), or demo. Of a trained system: its checkpoint (.pt).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="ONNX", help="The file to write.", show_default=False)],
    data: Annotated[Path, typer.Option(envvar="MDFPIPE_DATA", help="Where weights are looked for, too.")] = Path(),
    image_size: Annotated[
        int | None, typer.Option(help="Of a detector: side of the picture on which it is compared (640).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    trust_pickle: TrustPickle = False,
) -> None:
    """Write a detector, or the embedding network of a trained system, as one ONNX file that gives the same.

    The file of a detector is for the detector onnx. Boxes, or vectors, are compared before the file appears.

    Example: mdfpipe export runs/study/train/body-finetuned/last.pt --out body.onnx
    """
    from mdfpipe.export import export as write_onnx

    done = write_onnx(thing, out, data=data, image_size=image_size, force=force, trust_pickle=trust_pickle)
    _print("\n".join(done.lines))


@app.command()
def inspect(
    thing: Annotated[
        Path, typer.Argument(help="A run folder, table, manifest, shard, video or weight file.", show_default=False)
    ],
    video: Annotated[str | None, typer.Option(metavar="VIDEO", help="Of a run: the video of --frame.")] = None,
    frame: Annotated[int | None, typer.Option(min=0, help="Of a run: draw this frame into --out.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="PICTURE", help="Where --frame is drawn: .png or .jpg.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Of a run: crops of six subjects, a column for each domain.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="PAGE", help="Of a run: write one self-contained page.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="CSV", help="Of a table: write its rows as CSV.")] = None,
    show_people: Annotated[bool, typer.Option("--show-people", help="Do not hide people in pictures.")] = False,
    json_: Json = False,
) -> None:
    """Say what a thing is: counts, columns, receipt, failures; or draw a frame, a page, a CSV of it.

    Example: mdfpipe inspect runs/walk --html walk.html
    """
    from mdfpipe.display import out as console
    from mdfpipe.display import plain
    from mdfpipe.inspection import inspect_and_write

    done = inspect_and_write(
        thing,
        video=video,
        frame=frame,
        out=out,
        sheet=sheet,
        html=html,
        csv=csv,
        show_people=show_people,
        describe=json_,
    )
    if json_:
        _print(json.dumps(plain(done), indent=1, default=str))
    elif done.description is None:
        _print("\n".join([*done.lines, *(f"wrote {name}" for name in done.files)]))
    else:
        from mdfpipe.report.console import show_description

        show_description(done.description, console)


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Folder for the data set.", show_default=False)],
    preset: Annotated[str, typer.Option(help="How large: tiny, demo, study, bench (long videos).")] = "demo",
    subjects: Annotated[int | None, typer.Option(help="Subjects of each gallery, instead of the preset's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other people and places.")] = 0,
    crops: Annotated[
        int, typer.Option(min=0, help="Also visible crops of so many further subjects, a run folder OUT/crops.")
    ] = 0,
    faces: Annotated[
        int, typer.Option(min=0, help="Also visible face crops of so many of them, a run folder OUT/faces.")
    ] = 0,
    workers: Workers = 2,
    json_: Json = False,
) -> None:
    """Draw a synthetic data set: people in four bands, their faces, and where every body really is.

    Example: mdfpipe synth data/demo --preset demo
    """
    from mdfpipe.display import Display, plain, show_synthesis
    from mdfpipe.synthesis import synthesise

    with Display() as display:
        done = synthesise(
            out, preset, seed=seed, subjects=subjects, crops=crops, faces=faces, workers=workers, listen=display
        )
    if json_:
        _print(json.dumps(plain(done), indent=1, default=str))
    else:
        show_synthesis(done)


@app.command()
def truth(
    run: Annotated[Path, typer.Argument(help="A run folder, on data of `mdfpipe synth`.", show_default=False)],
    json_: Json = False,
) -> None:
    """Of a run on synthetic data: how right its bodies and names are, and what trivial looks recognise.

    Example: mdfpipe truth demo/run
    """
    from mdfpipe.baselines import guard
    from mdfpipe.display import show_truth
    from mdfpipe.pipeline import open_run
    from mdfpipe.store.run import Run
    from mdfpipe.truth import assignments, measure

    data = open_run(run)[2]
    found, ways, looks = measure(Run(run), data), assignments(Run(run), data), guard(Run(run))
    if json_:
        document = {"truth": found.plain(), "assignments": [w.plain() for w in ways], "guard": looks.plain()}
        _print(json.dumps(document, indent=1))
    else:
        show_truth(found, ways, looks)


@app.command()
def demo(
    run: Annotated[Path, typer.Option("--run", help="Folder for the demo's data and run.")] = Path("demo"),
    workers: Workers = 2,
    threads: Threads = 1,
) -> None:
    """Draw a synthetic data set, run every stage over it, and measure the run against the truth.

    Example: mdfpipe demo --run demo
    """
    from mdfpipe.demo import demo as run_demo
    from mdfpipe.display import Display, show_demo
    from mdfpipe.stages import Resources

    with Display() as display:
        done = run_demo(run, Resources(workers, threads=threads), display)
    show_demo(done)
    if not done.outcome.complete:
        raise typer.Exit(3)


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
