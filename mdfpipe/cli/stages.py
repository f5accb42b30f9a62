"""Commands that run stages: from the videos to the numbers."""

from __future__ import annotations

import json
import sys
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdfpipe.cli.options import (
    STUDY,
    AllowMissing,
    AllowMixed,
    AllowStale,
    Batch,
    Data,
    Deadline,
    Device,
    DownloadWeights,
    DryRun,
    Json,
    Only,
    RunFolder,
    Set,
    Strict,
    Study,
    Systems,
    Tensorboard,
    Threads,
    TrustPickle,
    Workers,
    app,
    say,
)
from mdfpipe.errors import ConfigError

if TYPE_CHECKING:
    from mdfpipe.store.results import Results


def _stages(first: str | None, last: str | None, study: Path, data: Path, run: Path, o: dict[str, Any]) -> None:
    """Run the stages of a verb and print the outcome."""
    from mdfpipe.cli.display import Display, plain, show_numbers, show_outcome
    from mdfpipe.running.runner import Runner
    from mdfpipe.stages import Resources
    from mdfpipe.store.results import read_results
    from mdfpipe.store.run import Run
    from mdfpipe.study.pipeline import Pipeline

    resources = Resources(
        workers=o["workers"],
        device=o["device"],
        threads=o["threads"],
        batch=o["batch"],
        deadline_seconds=o["deadline"],
        trust_pickle=o["trust_pickle"],
        tensorboard=o.get("tensorboard", False),
    )
    pipeline = Pipeline.load(study, o["set_"] or [])
    if o["strict"]:
        pipeline = pipeline.strict()
    runner = Runner(pipeline, Run(run), data, resources, systems=o.get("system"))
    if o["trust_pickle"]:
        sys.stderr.write("mdfpipe: --trust-pickle: these weights can run any code; use it only for files you trust\n")
    if o.get("download_weights") and not o["dry_run"] and pipeline.detect is not None:
        pipeline.detect.detector.download(runner.data, lambda line: sys.stderr.write(f"mdfpipe: {line}\n"))
    if o["dry_run"]:
        lines = runner.due(first, last, o["only"])
        say(json.dumps(lines, indent=1) if o["json_"] else "\n".join(lines) or "nothing is due")
        return
    with Display() as display:
        outcome = runner.execute(
            first, last, only=o["only"], strict=o["strict"], allow_missing=o["allow_missing"], listen=display
        )
    if not runner.leads:
        return
    if o["json_"]:
        numbers = read_results(runner.run.path).document() if outcome.is_made("evaluate") else None
        say(json.dumps(plain(outcome) | {"complete": outcome.complete, "numbers": numbers}, indent=1))
    else:
        show_outcome(outcome)
        if outcome.is_made("evaluate"):
            show_numbers(read_results(runner.run.path))
        elif "evaluate" in outcome.tallies and runner.run.part("evaluate", "metrics").exists():
            say(f"\nno numbers: those in {runner.run.path / 'evaluate'} are out of date, and are not shown")
    if not outcome.complete:
        raise typer.Exit(3)


def _stage_verb(name: str, begin: str | None, end: str | None, explanation: str, **more: Any) -> None:
    """Add a verb that runs the stages from `begin` to `end`. more: its own options besides the shared ones."""

    def verb(**given: Any) -> None:
        if given.get("embeddings"):
            _score(given)
            return
        if given.get("average"):
            _average(given)
            return
        given.pop("average", None)
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
    **dict.fromkeys(("tensorboard", "json_", "allow_mixed", "allow_stale"), False),
    **{"workers": 1, "threads": 2, "batch": 8, "device": "cpu", "deadline": 300.0},
}

_stage_verb(
    "run",
    None,
    None,
    """Run every stage that is due, from videos to metrics.

    Example: mdfpipe run pipelines/real-walk.yaml --data DATA --run runs/walk --until manifest

    Example: mdfpipe run sysu/di2l --data SYSU-MM01 --run runs/di2l
    """,
    first=Annotated[str | None, typer.Option("--from", metavar="STAGE", help="First stage to run.")],
    last=Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Last stage to run.")],
    system=Systems,
    download_weights=DownloadWeights,
    tensorboard=Tensorboard,
)
_stage_verb(
    "detect",
    "index",
    "detect",
    """Index the data set and detect bodies in every video.

    Example: mdfpipe detect pipelines/real-walk.yaml --data DATA --run runs/walk --set detect.stride=2
    """,
    download_weights=DownloadWeights,
)
_stage_verb(
    "label",
    "label",
    "manifest",
    """Label bodies by faces, crop both, write the manifest.

    Example: mdfpipe label pipelines/real-walk.yaml --data DATA --run runs/walk --set label.min_overlap=0.7
    """,
)
_stage_verb(
    "train",
    "train",
    "embed",
    """Train the systems of a study and embed crops with each.

    Training resumes after a kill. Under `torchrun`, all processes train together.

    Example: mdfpipe train pipelines/synthetic/study.yaml --data data/study --run runs/study --system body-finetuned
    """,
    system=Systems,
    tensorboard=Tensorboard,
)
_stage_verb(
    "eval",
    "evaluate",
    "evaluate",
    """Evaluate a study, or vectors of another system.

    `--compare` sets evaluated runs side by side; `--average` gives mean and spread over runs; `--embeddings` evaluates
    a file of vectors under a protocol.

    Example: mdfpipe eval pipelines/synthetic/study.yaml --data data/study --run runs/study

    Example: mdfpipe eval --run runs/lora --compare runs/full

    Example: mdfpipe eval --average runs/regdb-1 --average runs/regdb-2 --average runs/regdb-3

    Example: mdfpipe eval --embeddings vectors.parquet --protocol ijbmdf-vis500-to-ir30 --out scored

    Example: mdfpipe eval --embeddings sysu.parquet --protocol sysu-all --data SYSU-MM01 --out scored

    Example: mdfpipe eval --embeddings sysu.parquet --protocol sysu-all --out scored --set
    tables.recognition.benchmark.galleries=seeded
    """,
    study=Annotated[Path | None, STUDY],
    data=Annotated[Path | None, typer.Option(envvar="MDFPIPE_DATA", help="Folder that holds the data set.")],
    run=Annotated[Path | None, typer.Option("--run", help="Run folder, where all results are stored.")],
    system=Systems,
    compare=Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Compare --run with this evaluated run; repeatable.")
    ],
    allow_mixed=AllowMixed,
    allow_stale=AllowStale,
    average=Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN", help="Mean and spread over these evaluated runs, such as RegDB's splits; repeatable."
        ),
    ],
    embeddings=Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Evaluate these vectors: Parquet or NPZ with subject_id, domain, vector (for a benchmark also "
            "camera_id, and file or crop_id).",
        ),
    ],
    protocol=Annotated[
        str | None,
        typer.Option(
            help="With --embeddings: a protocol name, a YAML file, or a benchmark: sysu-all, sysu-indoor, "
            "regdb, llcm_deen_paper, llcm_testpy_v2i, llcm_idkl_full, market."
        ),
    ],
    distance=Annotated[str | None, typer.Option(help="With --embeddings: cosine (default) or euclidean.")],
    out=Annotated[Path | None, typer.Option(help="With --embeddings: output folder.")],
)


def _compare(o: dict[str, Any], others: list[Path]) -> None:
    """`eval --compare`."""
    from mdfpipe.reporting.comparison import side_by_side

    if o["run"] is None:
        raise ConfigError("eval --compare RUN: expected --run, the run to compare with")
    found = side_by_side(o["run"], others, allow_mixed=o["allow_mixed"], allow_stale=o["allow_stale"])
    _show(found, o["json_"])


def _average(o: dict[str, Any]) -> None:
    """`eval --average`."""
    from mdfpipe.reporting.comparison import average_runs

    if o["study"] or o["run"] or o["compare"]:
        raise ConfigError(
            "eval --average RUN --average RUN: expected nothing but runs, got a study, --run or --compare"
        )
    _show(average_runs(o["average"], allow_stale=o["allow_stale"]), o["json_"])


def _show(results: Results, as_json: bool) -> None:
    """Numbers on standard output."""
    from mdfpipe.cli.display import show_numbers

    if as_json:
        say(json.dumps(results.document(), indent=1))
    else:
        show_numbers(results)


def _score(o: dict[str, Any]) -> None:
    """`eval --embeddings`."""
    from mdfpipe.running.scoring import score
    from mdfpipe.store.results import read_results

    if not o["protocol"] or not o["out"] or o["study"]:
        raise ConfigError("eval --embeddings FILE: expected --protocol NAME and --out FOLDER with it, and no study")
    distance: Any = o["distance"] or "cosine"
    if distance not in ("cosine", "euclidean"):
        raise ConfigError(f"--distance: expected cosine or euclidean, got {distance}")
    done = score(o["embeddings"], o["protocol"], o["out"], o["set_"], data=o["data"], distance=distance)
    _show(read_results(done.folder), o["json_"])
