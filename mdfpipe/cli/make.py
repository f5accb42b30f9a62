"""Commands that make something of a run, or the data that a run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mdfpipe.cli.options import (
    AllowMixed,
    AllowStale,
    By,
    Columns,
    Deadline,
    Json,
    Threads,
    TrustPickle,
    Workers,
    app,
    beside,
    given_besides,
    say,
    say_json,
)
from mdfpipe.errors import counted


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Evaluated run folder.", show_default=False)],
    compare: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Compare with this evaluated run; repeatable.")
    ] = None,
    by: By = None,
    columns: Columns = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; default RUN/evaluate/report.")] = None,
    show_people: Annotated[
        bool, typer.Option("--show-people", help="Show people; by default they are pixelated.")
    ] = False,
    latex_cells: Annotated[
        Literal["all", "value", "half", "count"],
        typer.Option(help="Cells of tables.tex: value with k/n and interval; value; value ± half-interval; k/n."),
    ] = "all",
    allow_mixed: AllowMixed = False,
    allow_stale: AllowStale = False,
) -> None:
    """Write the report of a run: HTML, Markdown, LaTeX, CSV.

    The HTML page holds every metric, curve and picture in one file.

    Example: mdfpipe report runs/study --compare runs/lora
    """
    from mdfpipe.reporting.report import report as write_report

    done = write_report(
        run,
        compare=compare or (),
        by=by or (),
        columns=columns,
        out=out,
        show_people=show_people,
        allow_mixed=allow_mixed,
        allow_stale=allow_stale,
        latex_cells=latex_cells,
    )
    say("\n".join([*done.lines, *(f"wrote {name}" for name in done.files)]))


@app.command()
def reached(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN", help="Evaluated run; several: their mean, such as RegDB's ten splits.", show_default=False
        ),
    ] = None,
    on: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the data set if the layout does not give it: IJB-MDF.")
    ] = "",
    table: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this table; repeatable.")] = None,
    system: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this system; repeatable.")] = None,
    note: Annotated[str, typer.Option(help="Note for readers of these numbers.")] = "",
    into: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of rows; default benchmarks/reached.yaml of a clone.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the rows and write nothing.")] = False,
    json_: Json = False,
) -> None:
    """Enter a run's numbers into benchmarks/reached.yaml.

    Each table, system and pair of domains gives one row with protocol, intervals, settings and training time. A run
    with stale numbers is refused. Without RUN: list the reached and the published numbers.

    Example: mdfpipe reached runs/di2l

    Example: mdfpipe reached runs/regdb-1 runs/regdb-2 runs/regdb-3 --note "three of the ten splits"

    Example: mdfpipe reached runs/ijbmdf --on IJB-MDF --system body-finetuned --dry-run
    """
    from mdfpipe.evaluation.published import FILE, rows
    from mdfpipe.reporting import reached as numbers

    if not runs:
        file = into or numbers.shipped_file()
        found = numbers.read(file)
        if json_:
            plain = {"reached": [row.model_dump(mode="json") for row in found]}
            say_json({"file": str(file), **plain, "published": [r.model_dump(mode="json") for r in rows()]})
        else:
            papers = f"{FILE} has {counted(len(rows()), 'row')} of papers"
            nothing = f"{file}: no rows yet; `mdfpipe reached RUN` enters them. {papers}"
            say("\n".join(numbers.lines(found)) or nothing)
        return
    file = into or numbers.own_file()
    found = numbers.rows_of(runs, on=on, tables=table or (), systems=system or (), note=note)
    new = numbers.enter(found, file, dry_run=dry_run)
    if json_:
        plain = {"reached": [row.model_dump(mode="json") for row in new]}
        about = {"file": str(file), "written": bool(new) and not dry_run, "known": len(found) - len(new)}
        say_json(about | plain)
        return
    known = f"; {len(found) - len(new)} are there already" if len(new) < len(found) else ""
    would = "would enter" if dry_run else "entered"
    beside(file, "\n".join([*numbers.lines(new), f"{file}: {would} {counted(len(new), 'row')}{known}"]))


@app.command()
def scores(
    table: Annotated[Path, typer.Argument(help="RUN/evaluate/scores/TABLE.SYSTEM.parquet", show_default=False)],
    out: Annotated[Path, typer.Option(help="Text file to write; - is standard output.", show_default=False)],
    columns: Annotated[
        int, typer.Option(min=4, max=5, help="Columns: 4, or 5 with the name of the gallery template.")
    ] = 5,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Keep only these rows: probe_domain=SWIR-30m, gallery_domain, gallery."
        ),
    ] = None,
) -> None:
    """Write scores as a text file in the format of bob.

    A line holds claimed identity, real identity, probe and score.

    Example: mdfpipe scores runs/study/evaluate/scores/t.body.parquet --out a.txt --where probe_domain=SWIR-30m
    """
    from mdfpipe.reporting.scores import to_bob

    chosen = dict(part.partition("=")[::2] for part in where or [])
    beside(out, f"wrote {out}: {counted(to_bob(table, out, 4 if columns == 4 else 5, chosen), 'line')}")


@app.command()
def export(
    context: typer.Context,
    thing: Annotated[
        str,
        typer.Argument(
            help="Detector: a study (.yaml), weights (.pt), or demo. Trained system: its checkpoint (.pt). With "
            "--as: a run folder.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="PLACE", help="ONNX file, or new folder.", show_default=False)],
    form: Annotated[
        Literal["mot", "coco", "yolo", "fiftyone"] | None,
        typer.Option("--as", help="Write bodies and labels of a run in this form."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="--as: each N-th frame of those that detect used.")] = 1,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="--as: least score of a box.")] = 0.0,
    val: Annotated[float, typer.Option(min=0, max=0.99, help="--as yolo: share of videos to validate on.")] = 0.2,
    ids: Annotated[
        Literal["subject", "track"], typer.Option(help="--as mot and coco: what ids of boxes are.")
    ] = "subject",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="--as: count and write nothing.")] = False,
    data: Annotated[Path, typer.Option(envvar="MDFPIPE_DATA", help="Another folder to search for weights.")] = Path(),
    image_size: Annotated[
        int | None, typer.Option(help="Detector only: side of the test picture in pixels; default 640.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    trust_pickle: TrustPickle = False,
) -> None:
    """Export a detector or network as ONNX, or a run's boxes.

    The boxes or vectors of the exported network are compared with the original before the file is written. An exported
    detector is used with `detector: {use: onnx}`.

    With --as, boxes, subjects and tracks of a run become files of MOTChallenge, COCO, YOLO (with pictures and
    data.yaml, to fine-tune a detector) or FiftyOne (with pictures).

    Example: mdfpipe export runs/study/train/body-finetuned/last.pt --out body.onnx

    Example: mdfpipe export runs/study --as yolo --every 10 --out yolo
    """
    from mdfpipe.export import export as write_onnx
    from mdfpipe.export import refuse_mixed

    of_boxes = dry_run or (every, min_score, val, ids) != (1, 0.0, 0.2, "subject")
    of_onnx = bool({*given_besides(context)} & {"--image-size", "--data", "--trust-pickle", "--force"})
    refuse_mixed(thing, form, of_onnx=of_onnx, of_boxes=of_boxes)
    if form is not None:
        from mdfpipe.export.boxes import export_boxes

        done = export_boxes(thing, out, form, every=every, min_score=min_score, val=val, ids=ids, dry_run=dry_run)
        say("\n".join(done.lines))
        return

    written = write_onnx(thing, out, data=data, image_size=image_size, force=force, trust_pickle=trust_pickle)
    say("\n".join(written.lines))


@app.command()
def embed(
    images: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Folder of images; several; or images.", show_default=False)
    ],
    weights: Annotated[
        Path, typer.Option(metavar="FILE", help="Checkpoint: RUN/train/SYSTEM/last.pt.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Parquet file to write.", show_default=False)],
    domain: Annotated[
        str | None, typer.Option(help="Domain of the images, if the network has a stream or side information of each.")
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Camera of the images, if the network has side information of it."),
    ] = None,
    camera_from: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX", help="Camera of each image: the first group, or the whole match, in its path below FOLDER."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME", help="Recipe of public weights: body, face, ...")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Setting of --recipe, e.g. image_height_px=256; repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Where the network runs: cpu or cuda:0.")] = "cpu",
    precision: Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="Precision of the network.")] = "fp32",
    batch: Annotated[int, typer.Option(min=1, help="Images of a batch on a GPU.")] = 64,
    threads: Threads = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the images and write nothing.")] = False,
    trust_pickle: TrustPickle = False,
    json_: Json = False,
) -> None:
    """Embed images of any folder with trained weights.

    The table has a row for each image: path, status and vector. Its footer names the weights.

    A network with side information of cameras takes the mean of its cameras for an image of another, or of none. The
    output counts these images.

    Example: mdfpipe embed photos --weights runs/study/train/body-finetuned/last.pt --out vectors.parquet

    Example: mdfpipe embed photos --weights last.pt --out vectors.parquet --camera-from '_c([0-9]+)_'
    """
    from mdfpipe.cli.display import Display
    from mdfpipe.running.own_images import embed_folders

    with Display() as display:
        done = embed_folders(
            images,
            weights,
            out,
            domain=domain,
            camera=camera,
            camera_from=camera_from,
            recipe=recipe,
            assignments=set_ or (),
            device=device,
            precision=precision,
            batch=batch,
            threads=threads,
            dry_run=dry_run,
            trust_pickle=trust_pickle,
            listen=display,
        )
    if json_:
        say_json(done)
    else:
        say("\n".join(done.lines()))


@app.command()
def faces(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder that holds the videos; with --merge or --split also a face table.", show_default=False
        ),
    ] = Path(),
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights of YuNet, face_detection_yunet_*.onnx.", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Face table; default DATA/faces.csv.")] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=ID", help="Change ids of the face table: 3=17 makes id 17 id 3; repeatable."),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID@FRAME",
            help="Cut a track: 17@57 is its id from frame 57 on; 17 undoes all its cuts and merges; repeatable.",
        ),
    ] = None,
    videos: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only these videos of DATA, such as clips/*.mp4; repeatable."),
    ] = None,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Least confidence of a face.")] = 0.6,
    stride: Annotated[int, typer.Option(min=1, help="Look at each N-th frame.")] = 1,
    workers: Workers = 1,
    threads: Threads = 1,
    deadline: Deadline = 300.0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a face table whose ids were changed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would run and why, and run nothing.")] = False,
    json_: Json = False,
) -> None:
    """Find faces in videos; write a face table.

    Faces are linked to tracks, and each track of a video gets an id of its own. Studies of `dataset: {use: ijb}` read
    the table. Every number that rests on it is marked as of detected faces. The same command resumes; its work is in
    the folder faces.run next to the table.

    Example: mdfpipe faces data --weights face_detection_yunet_2023mar.onnx

    Example: mdfpipe faces data --merge 3=17 --merge anna=3

    Example: mdfpipe faces data --split 17@57
    """
    from mdfpipe.cli.display import Display
    from mdfpipe.running import faces as finding
    from mdfpipe.stages import Resources

    if merge or split:
        finding.refuse_both(given_besides(context, "data", "out", "merge", "split", "json_"))
        made: list[str] = []
        changed = finding.merge_faces(out or data, merge or (), splits=split or (), say=made.append)
        if json_:
            say_json({"faces": changed, "already": made})
            return
        say("\n".join([*(f"{name}: {counted(count, 'face')}" for name, count in changed.items()), *made]))
        return
    with Display() as display:
        found = finding.find_faces(
            data,
            weights=finding.given_weights(weights),
            out=out,
            videos=videos or (),
            min_score=min_score,
            stride=stride,
            force=force,
            dry_run=dry_run,
            resources=Resources(workers, threads=threads, deadline_seconds=deadline),
            listen=display,
        )
    say_json(found, complete=found.complete) if json_ else say("\n".join(found.lines))
    if not found.complete:
        raise typer.Exit(3)


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Folder for the data set.", show_default=False)],
    preset: Annotated[str, typer.Option(help="Size: tiny, demo, study, away, bench (long videos).")] = "demo",
    subjects: Annotated[int | None, typer.Option(help="Subjects per gallery; default from the preset.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of people and places.")] = 0,
    crops: Annotated[
        int, typer.Option(min=0, help="Also draw visible crops of this many further subjects, as run folder OUT/crops.")
    ] = 0,
    faces: Annotated[
        int, typer.Option(min=0, help="Also draw visible face crops of this many of them, as run folder OUT/faces.")
    ] = 0,
    workers: Workers = 2,
    json_: Json = False,
) -> None:
    """Draw a synthetic data set: people in four bands.

    It has videos, face annotations and the true box of every body.

    Example: mdfpipe synth data/demo --preset demo
    """
    from mdfpipe.cli.display import Display, show_synthesis
    from mdfpipe.running.synthesis import synthesise

    with Display() as display:
        done = synthesise(
            out, preset, seed=seed, subjects=subjects, crops=crops, faces=faces, workers=workers, listen=display
        )
    if json_:
        say_json(done)
    else:
        show_synthesis(done)


@app.command()
def demo(
    run: Annotated[Path, typer.Option("--run", help="Folder for the data and the run of the demo.")] = Path("demo"),
    workers: Workers = 2,
    threads: Threads = 1,
) -> None:
    """Run the demo: synth, every stage, report, truth.

    Draw a synthetic data set, run every stage over it, and measure the run against the ground truth.

    Example: mdfpipe demo --run demo
    """
    from mdfpipe.audit.demo import demo as run_demo
    from mdfpipe.cli.display import Display, show_demo
    from mdfpipe.stages import Resources

    with Display() as display:
        done = run_demo(run, Resources(workers, threads=threads), display)
    show_demo(done)
    if not done.outcome.complete:
        raise typer.Exit(3)
