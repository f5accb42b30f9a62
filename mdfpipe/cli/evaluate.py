"""Commands that make numbers: of a study, of several runs, of vectors made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mdfpipe.cli import options
from mdfpipe.cli.options import app, beside, say, say_json
from mdfpipe.cli.run import run_stages
from mdfpipe.errors import ConfigError

if TYPE_CHECKING:
    from mdfpipe.evaluation.comparing import Measure
    from mdfpipe.store.results import Results

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Evaluated run folders.", show_default=False)]
Distance = Annotated[Literal["cosine", "euclidean"], typer.Option(help="Measure between vectors that are given.")]
Vectors = (
    "Parquet or NPZ with subject_id, domain, vector, and video_id and more where known (docs/formats.md; a benchmark "
    "needs camera_id, and file or crop_id)."
)
Protocols = (
    "a protocol name, a YAML file, or a benchmark: sysu-all, sysu-indoor, regdb, llcm_deen_paper, llcm_testpy_v2i, "
    "llcm_idkl_full, market."
)


@app.command("eval")
def evaluate(
    ctx: typer.Context,
    study: Annotated[Path | None, options.STUDY] = None,
    data: Annotated[Path | None, typer.Option(envvar="MDFPIPE_DATA", help="Folder that holds the data set.")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder, where all results are stored.")] = None,
    system: options.Systems = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Compare --run with RUN, as `mdfpipe compare` does; repeatable."),
    ] = None,
    allow_mixed: options.AllowMixed = False,
    allow_stale: options.AllowStale = False,
    average: Annotated[list[Path] | None, typer.Option(metavar="RUN", help="As `mdfpipe average`; repeatable.")] = None,
    embeddings: Annotated[Path | None, typer.Option(metavar="FILE", help="As `mdfpipe score FILE`.")] = None,
    protocol: Annotated[str | None, typer.Option(help=f"With --embeddings: {Protocols}")] = None,
    distance: Distance = "cosine",
    out: Annotated[Path | None, typer.Option(help="With --embeddings: output folder.")] = None,
    set_: options.Set = None,
    only: options.Only = None,
    workers: options.RunWorkers = None,
    threads: options.Threads = 2,
    batch: options.Batch = 8,
    device: options.Device = "cpu",
    per_device: options.PerDevice = None,
    deadline: options.Deadline = 300.0,
    dry_run: options.DryRun = False,
    strict: options.Strict = False,
    allow_missing: options.AllowMissing = False,
    trust_pickle: options.TrustPickle = False,
    json_: options.Json = False,
) -> None:
    """Evaluate a study: make its tables of numbers.

    `--compare`, `--average` and `--embeddings` do what the commands compare, average and score do.

    Example: mdfpipe eval pipelines/synthetic/study.yaml --data data/study --run runs/study

    Example: mdfpipe eval --run runs/lora --compare runs/full
    """
    if embeddings:
        if not protocol or not out or study:
            raise ConfigError("eval --embeddings FILE: expected --protocol NAME and --out FOLDER with it, and no study")
        _score(embeddings, protocol, out, set_, data, distance, json_)
    elif average:
        if study or run or compare:
            raise ConfigError("eval --average RUN --average RUN: expected only runs, got a study, --run or --compare")
        average_runs(average, allow_stale, json_)
    elif compare and study is None:
        if run is None:
            raise ConfigError("eval --compare RUN: expected --run, the run to compare with")
        compare_runs([run, *compare], allow_mixed, allow_stale, json_)
    else:
        for name, given in (("STUDY", study), ("--data", data), ("--run", run)):
            if given is None:
                raise ConfigError(f"expected {name}; see --help")
        run_stages("evaluate", "evaluate", ctx.params)
        if compare and run is not None:
            compare_runs([run, *compare], allow_mixed, allow_stale, json_)


@app.command("compare")
def compare_runs(
    runs: Runs,
    allow_mixed: options.AllowMixed = False,
    allow_stale: options.AllowStale = False,
    json_: options.Json = False,
) -> None:
    """Set evaluated runs side by side and test differences.

    Example: mdfpipe compare runs/lora runs/full
    """
    from mdfpipe.reporting.comparison import several, side_by_side

    first, *others = several("compare", runs)
    _show(side_by_side(first, others, allow_mixed=allow_mixed, allow_stale=allow_stale), json_)


@app.command("average")
def average_runs(runs: Runs, allow_stale: options.AllowStale = False, json_: options.Json = False) -> None:
    """Mean and spread over evaluated runs, such as splits.

    Example: mdfpipe average runs/regdb-1 runs/regdb-2 runs/regdb-3
    """
    from mdfpipe.reporting.comparison import average_runs as mean_of

    _show(mean_of(runs, allow_stale=allow_stale), json_)


@app.command()
def breakdown(
    run: Annotated[Path, typer.Argument(help="Evaluated run folder.", show_default=False)],
    by: options.By = None,
    columns: options.Columns = None,
    allow_stale: options.AllowStale = False,
    json_: options.Json = False,
) -> None:
    """Numbers by group of probes: camera, range, clothing.

    Nothing is searched again. `mdfpipe report` with the same options writes the groups into its page and tables.

    Example: mdfpipe breakdown runs/study --by range --by height=50,100

    Example: mdfpipe breakdown runs/study --by clothing --columns clothing.csv
    """
    from mdfpipe.reporting.breakdown import break_down, document, lines
    from mdfpipe.reporting.comparison import side_by_side

    views = break_down(side_by_side(run, allow_stale=allow_stale), by or (), columns)
    if json_:
        say_json(document(views))
    else:
        say("\n".join(lines(views)))


@app.command()
def score(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE...", help=f"Scores; or {Vectors}", show_default=False)
    ] = None,
    protocol: Annotated[str | None, typer.Option(help=f"Vectors: {Protocols}", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder, which `mdfpipe report` reads.", show_default=False)
    ] = None,
    genuine: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Scores of mated pairs, last in each line; repeatable, with --impostor."),
    ] = None,
    impostor: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Scores of non-mated pairs; repeatable, with --genuine.")
    ] = None,
    mates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Genuine query-template pairs, for scores as query, template, score."),
    ] = None,
    histogram: Annotated[
        bool, typer.Option("--histogram", help="Line n of --impostor, from 0, counts scores of n.")
    ] = False,
    distances: Annotated[bool, typer.Option("--distances", help="Scores are distances: less is more alike.")] = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Scores: write the numbers as CSV; - is standard output.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(envvar="MDFPIPE_DATA", help="Folder that holds the data set of a benchmark.")
    ] = None,
    distance: Distance = "cosine",
    set_: options.Set = None,
    json_: options.Json = False,
) -> None:
    """Evaluate scores or vectors that were made elsewhere.

    With --protocol, FILE holds vectors. Without it, each FILE holds the scores of a matcher: text of label and score,
    bob's four or five columns, query, template and score with --mates, CSV or Parquet with a header (score, and label
    or probe, probe_subject, gallery_template, gallery_subject), or RUN/evaluate/scores/*.parquet. With --out, the
    report is written as well.

    Example: mdfpipe score --genuine genuine.txt --impostor impostor.txt

    Example: mdfpipe score matcher-a.csv matcher-b.csv --out scored

    Example: mdfpipe score vectors.parquet --protocol ijbmdf-vis500-to-ir30 --out scored --set protocol.unlisted=test

    Example: mdfpipe score sysu.parquet --protocol sysu-all --data SYSU-MM01 --out scored

    Example: mdfpipe score sysu.parquet --protocol sysu-all --out scored --set
    tables.recognition.benchmark.galleries=seeded
    """
    given = files or []
    if protocol is not None:
        if len(given) != 1 or out is None or genuine or impostor or mates or csv or histogram or distances:
            raise ConfigError("score --protocol NAME: expected one file of vectors, --out, and no option of scores")
        _score(given[0], protocol, out, set_, data, distance, json_)
        return
    from mdfpipe.reporting.report import report
    from mdfpipe.running.score_lists import score_lists

    results = score_lists(
        given,
        out,
        genuine=genuine or [],
        impostor=impostor or [],
        mates=mates,
        histogram=histogram,
        distances=distances,
        settings=set_ or [],
    )
    made = report(out) if out is not None else None
    if csv is not None:
        from mdfpipe.reporting.grids import views
        from mdfpipe.reporting.written import csv_of
        from mdfpipe.store.files import write_output

        write_output(csv, "".join(map(csv_of, views(results))).encode(), *given, *(genuine or []), *(impostor or []))
    if csv is None or str(csv) != "-":
        _show(results, json_)
    if made is not None and not json_:
        beside([csv], "\n".join([*made.lines, *(f"wrote {name}" for name in made.files)]))


def _score(
    file: Path,
    protocol: str,
    out: Path,
    settings: list[str] | None,
    data: Path | None,
    distance: Measure,
    as_json: bool,
) -> None:
    from mdfpipe.running.scoring import score as write_numbers
    from mdfpipe.store.results import read_results

    done = write_numbers(file, protocol, out, settings, data=data, distance=distance)
    _show(read_results(done.folder), as_json)


def _show(results: Results, as_json: bool) -> None:
    """Numbers on standard output."""
    from mdfpipe.cli.display import show_numbers

    if as_json:
        say_json(results.document())
    else:
        show_numbers(results)
