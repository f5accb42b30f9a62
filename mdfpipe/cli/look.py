"""Commands that look at what is there, and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdfpipe.cli.options import Json, TrustPickle, app, beside, say, say_json
from mdfpipe.errors import DataError


@app.command()
def studies(json_: Json = False) -> None:
    """List the studies that are shipped with mdfpipe.

    Every command that takes a study accepts these names.

    Example: mdfpipe studies --json
    """
    from mdfpipe.store.shipped import studies as shipped

    found = shipped()
    width = max(map(len, found))
    if json_:
        say_json(found)
    else:
        say("\n".join(f"{name:{width}}  {text}" for name, text in found.items()))


@app.command()
def weights(
    data: Annotated[
        Path | None, typer.Option(envvar="MDFPIPE_DATA", help="Also find the files, as studies on this data do.")
    ] = None,
    json_: Json = False,
) -> None:
    """List the weight files that mdfpipe knows.

    Print name, file, source, sha256, licence, and whether the sha256 was verified. With --data, compare existing files
    with it; the exit code is 3 if a file differs.

    Example: mdfpipe weights --data DATA
    """
    from mdfpipe.weightfiles.listed import Checksum, listed

    if data is not None and not data.is_dir():
        found_there = "a file" if data.is_file() else "no such folder"
        raise DataError(f"--data {data}: expected the folder that holds the data set, found {found_there}")
    rows, wrong = list[dict[str, object]](), 0
    for one in listed():
        row: dict[str, object] = one.model_dump(mode="json")
        if data is not None:
            here = one.here(data)
            found = one.compare(here[1]) if here else None
            wrong += found is Checksum.ANOTHER
            row["here"] = {"path": str(here[0]), "sha256": here[1], "is": found} if here else None
        rows.append(row)
    if json_:
        say_json(rows)
    else:
        for one, row in zip(listed(), rows, strict=True):
            checked = "verified" if one.verified else "not verified"
            say(f"{one.name}: {one.file}\n  from     {one.source}\n  sha256   {one.sha256}, {checked}")
            say(f"  licence  {one.licence}")
            match row.get("here"):
                case {"path": path, "sha256": sha256, "is": found}:
                    say(f"  here     {path}, sha256 {sha256}: {found}")
    if wrong:
        raise typer.Exit(3)


@app.command()
def status(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    json_: Json = False,
) -> None:
    """Show the progress of a run: stages, rows, failures.

    Example: mdfpipe status runs/walk
    """
    from mdfpipe.cli.display import show_status
    from mdfpipe.running.status import status as read_status

    found = read_status(run)
    if json_:
        say_json(found)
    else:
        show_status(found)


@app.command()
def inspect(
    thing: Annotated[
        Path,
        typer.Argument(
            help="Run folder, table, manifest, face table, shard, video or weight file.", show_default=False
        ),
    ],
    video: Annotated[str | None, typer.Option(metavar="VIDEO", help="Run: the video of --frame.")] = None,
    frame: Annotated[int | None, typer.Option(min=0, help="Run: draw this frame into --out.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="PICTURE", help="Picture for --frame: .png or .jpg.")] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="PICTURE", help="Run: a picture of crops of six subjects, one column per domain."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="PAGE", help="Run, or table of `mdfpipe faces`: write one self-contained HTML page."),
    ] = None,
    crops: Annotated[
        Path | None,
        typer.Option(
            metavar="CROPS",
            help="Checkpoint: --sheet or --html shows what it attends to in these crops: a run folder, or a folder of "
            "SUBJECT/IMAGE files.",
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Table: write its rows as CSV; - is standard output.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Face table: --html ranks pairs of ids across videos by this face network, a checkpoint or weights of "
            "recipe face.",
        ),
    ] = None,
    trust_pickle: TrustPickle = False,
    show_people: Annotated[
        bool, typer.Option("--show-people", help="Show people; by default they are pixelated.")
    ] = False,
    json_: Json = False,
) -> None:
    """Describe a run, table, shard, video or weight file.

    Print counts, columns, receipt and failures; or draw a frame, a sheet of crops, a page; or write a CSV.

    Example: mdfpipe inspect runs/walk --html walk.html

    Example: mdfpipe inspect data/faces.csv --html ids.html --show-people

    Example: mdfpipe inspect data/faces.csv --html ids.html --show-people --weights runs/study/train/face/last.pt
    """
    from mdfpipe.cli.display import out as console
    from mdfpipe.inspecting.inspection import inspect_and_write

    done = inspect_and_write(
        thing,
        video=video,
        frame=frame,
        out=out,
        sheet=sheet,
        html=html,
        csv=csv,
        crops=crops,
        weights=weights,
        trust_pickle=trust_pickle,
        show_people=show_people,
        describe=json_,
    )
    if json_:
        say_json(done)
    elif done.description is None:
        beside([html, csv], "\n".join([*done.lines, *(f"wrote {name}" for name in done.files)]))
    else:
        from mdfpipe.inspecting.console import show_description

        show_description(done.description, console)


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    json_: Json = False,
) -> None:
    """Check every file of a run against its checksums.

    List damaged, missing and foreign files. `mdfpipe run` then remakes what is damaged. The exit code is 3 if anything
    is wrong.

    Example: mdfpipe verify runs/walk
    """
    from mdfpipe.audit.integrity import verify as read_all
    from mdfpipe.cli.display import Display

    with Display() as display:
        found = read_all(run, display)
    if json_:
        say_json(found, sound=found.sound)
    else:
        say("\n".join(found.lines()))
    if not found.sound:
        raise typer.Exit(3)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    url: Annotated[str, typer.Argument(help="Folder to copy to: s3://..., sftp://..., or a path.", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare, and write nothing.")] = False,
    json_: Json = False,
) -> None:
    """Copy the finished parts of a run to another place.

    A file that is there is never replaced: an equal one is skipped, another one is refused. The same command resumes.
    The exit code is 3 if anything is refused.

    Example: mdfpipe push runs/walk s3://bucket/walk
    """
    from mdfpipe.cli.display import Display
    from mdfpipe.running.pushing import push as copy

    with Display() as display:
        done = copy(run, url, dry_run=dry_run, listen=display)
    if json_:
        say_json(done, complete=done.complete)
    else:
        say("\n".join(done.lines()))
    if not done.complete:
        raise typer.Exit(3)


@app.command()
def truth(
    run: Annotated[Path, typer.Argument(help="Run folder on data with known people.", show_default=False)],
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth",
            help="Table of the true bodies, Parquet or CSV: video_id, frame, subject_id, x1, y1, x2, y2. "
            "Default: truth/bodies.parquet of the data, as `mdfpipe synth` writes it.",
            show_default=False,
        ),
    ] = None,
    gallery: Annotated[
        str | None,
        typer.Option(
            help="Gallery domain of the trivial features; default VIS-500m, or the first.", show_default=False
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Measure a run against known people.

    Recall and precision of bodies, share of correct names by face and by track, what each assignment would name, and
    how far trivial image features get (a sanity check on the data; it needs a manifest of two domains).

    Example: mdfpipe truth demo/run
    """
    from mdfpipe.audit.trivial import USUAL, guard
    from mdfpipe.audit.truth import SCENES, assignments, measure
    from mdfpipe.cli.display import show_truth
    from mdfpipe.store.run import Run
    from mdfpipe.study.study import open_run

    data = open_run(run)[2]
    found, ways = measure(Run(run), data, truth), assignments(Run(run), data, truth)
    domains = [name for name in found.rows if name not in SCENES]
    looks = None
    if gallery is not None or (len(domains) > 1 and Run(run).receipt("manifest", "manifest") is not None):
        looks = guard(Run(run), gallery or (USUAL if USUAL in domains else domains[0]))
    if json_:
        of_looks = looks.plain() if looks else None
        document = {"truth": found.plain(), "assignments": [w.plain() for w in ways], "guard": of_looks}
        say_json(document)
    else:
        show_truth(found, ways, looks)
