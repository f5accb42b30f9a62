"""what a call with nothing due costs, over a run folder with made-up receipts of many videos"""

from __future__ import annotations

import argparse
import hashlib
import json
import pstats
import resource
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks.measure import ROOT, Report, expect, mdfpipe, top_of

from mdfpipe.store.parquet import MARK

FACES = "SUBJECT_ID,FILENAME,FRAME_NUM,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT\n"
FACTS: dict[str, dict[str, Any]] = {
    "index": {"anomalies": {}, "unusual": [], "unreadable": [], "remarks": []},
    "detect": {
        **{"decoder": "pyav", "declared": 6, "delivered": 6, "duplicates": 0, "left_out": {}, "stride": 1},
        **{"width": 320, "height": 240, "window": None, "deep": False, "incomplete": None, "rows": {"bodies": 0}},
        "boxes_beyond_the_end": None,
    },
    "label": {"rows": {}, "faces": 0, "frames_annotated": 0, "subjects": {}},
    "crop": {"rows": {}},
}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", type=int, default=10_000, help="(10000)")
    parser.add_argument("--rounds", type=int, default=2)


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    study, data, run = made_up(folder, options.videos)
    time.sleep(3)  # younger parts get no entry in an index
    call: list[str | Path] = ["run", study, "--data", data, "--run", run, "--until", "crop", "--json"]
    report.add("without an index of receipts, processor time", _call(call, options.videos), "s")
    times = [_call(call, options.videos) for _ in range(options.rounds)]
    report.add("index files", sum(file.stat().st_size for file in (run / ".receipts").glob("*")) / 1e6, "MB")
    report.add("of a call, each 1,000 videos", 1e3 * median(times) / options.videos, "s")
    limit = 30.0 if options.videos > 10_000 else 4.0 if options.videos > 800 else 1.0
    report.aim("nothing due, processor time of a call", median(times), "<=", limit, "s")
    looks = (("run --dry-run", [*call[:-1], "--dry-run"]), ("status", ["status", run, "--json"]))
    for name, other in looks:
        before = _of_children()
        _, output = mdfpipe(*other)
        seconds = _of_children() - before
        if name == "status":
            done = {one["stage"]: one["done"] for one in json.loads(output)["stages"]}
            expect("units done", [done[stage] for stage in FACTS], [1, *[options.videos] * 3])
        else:
            expect("what is due", output.strip(), "nothing is due")
        report.add(f"mdfpipe {name}, processor time", seconds, "s")
    for what, number in looked_up(call, run, folder).items():
        report.add(f"a call: {what}", number, "")
    report.notes.append(f"{options.videos} made-up videos, from index to crop; {options.rounds} calls")
    if options.profile:
        mdfpipe(*call, profile=folder / "profile")
        report.profile = top_of(str(folder / "profile"), 40)


def _call(call: list[str | Path], videos: int) -> float:
    """Processor seconds of a call. Ends here unless it found everything done."""
    before = _of_children()
    _, output = mdfpipe(*call)
    seconds = _of_children() - before
    tallies = json.loads(output)["tallies"]
    expect("units already done", [t["already"] for t in tallies.values()], [1, videos, videos, videos])
    return seconds


def _of_children() -> float:
    """Processor seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def looked_up(call: Sequence[str | Path], run: Path, folder: Path) -> dict[str, int]:
    """What a call with nothing due asks of the file system, Python's own files included."""
    mdfpipe(*call, profile=folder / "looks")
    figures: dict[tuple[str, int, str], tuple[int, ...]] = vars(pstats.Stats(str(folder / "looks")))["stats"]
    calls = {name: found[1] for (_, _, name), found in figures.items()}
    kinds = [f"<built-in method posix.{name}>" for name in ("stat", "lstat")]
    kinds.append("<method 'stat' of 'posix.DirEntry' objects>")
    index = [*(run / ".receipts").glob("*"), *(run / "index").glob("*.parquet")]
    return {
        "stat calls": sum(calls.get(kind, 0) for kind in kinds),
        "files opened": calls.get("<built-in method posix.open>", 0) + calls.get("<built-in method io.open>", 0),
        "bytes of index files": sum(file.stat().st_size for file in index),
    }


def made_up(folder: Path, videos: int) -> tuple[Path, Path, Path]:
    """A study, a data root and a run folder in which index, detect, label and crop of so many videos are done.

    The videos are empty files, and no part has a row. The receipts are those that the plan asks for.
    """
    from mdfpipe.running.plan import Plan
    from mdfpipe.stages.index import Index
    from mdfpipe.store.hashing import stamp
    from mdfpipe.store.run import Receipt, Run, write_table
    from mdfpipe.store.tables import VIDEOS
    from mdfpipe.study.study import Study

    data, run, file = folder / "data", Run(folder / "run"), ROOT / "tests" / "drawn" / "study.yaml"
    study, names = Study.load(file, []), [f"VIS-500m_{number:06d}" for number in range(videos)]
    for place in (data / "videos", data / "galleries", *(run.path / stage for stage in FACTS)):
        place.mkdir(parents=True)
    for name in names:
        (data / "videos" / f"{name}.mp4").touch()
    for place in (data / "faces.csv", *(data / "galleries" / f"gallery_G{n}.csv" for n in (1, 2))):
        place.write_text(FACES if place.name == "faces.csv" else "SUBJECT_ID\n")
    (data / "boxes.csv").write_text(
        "video_id,frame,x1,y1,x2,y2,score\n" + "".join(f"videos/{n},0,1,2,30,40,0.5\n" for n in names)
    )
    index = study.stages[0]
    assert isinstance(index, Index)
    rows = [
        {"video_id": f"videos/{name}", "path": f"videos/{name}.mp4", "domain": "VIS-500m", "band": "VIS"}
        | {"range_m": 500.0, "n_frames": 6, "bytes": 0, "sha256": f"{n:064x}"}
        | {"stamp": stamp(data / "videos" / f"{name}.mp4")}
        for n, name in enumerate(names)
    ]
    upstream = index.identity(data, index.table)
    made = Receipt("index", index.version, index.table, index.decisive(), upstream, facts=FACTS["index"], content="c")
    with _without_sync():
        import pyarrow as pa

        write_table(run.part("index", index.table), pa.Table.from_pylist(rows, VIDEOS), made)
        plan = Plan(study.stages, run, data)
        for stage in study.stages[1:4]:
            first = b""
            for n, name in enumerate(names):
                expected = plan.item(stage, f"videos/{name}").expected
                receipt = replace(
                    stage.decided(expected, FACTS[stage.name]), facts=FACTS[stage.name], content=f"{n:032}"
                )
                part = run.part(stage.name, receipt.key)
                if not first:
                    write_table(part, stage.schema.empty_table(), receipt)
                    whole, first = part.read_bytes(), receipt.to_bytes()
                part.write_bytes(_with_receipt(whole, first, receipt.to_bytes()))
            plan.forget(stage)
    return file, data, run.path


def _with_receipt(whole: bytes, old: bytes, new: bytes) -> bytes:
    """The bytes of a part with another receipt of the same length, sealed; 30 times as fast as writing a table."""
    expect("the length of a receipt", len(new), len(old))
    size = int.from_bytes(whole[-8:-4], "little")
    start = len(whole) - size - 8 - len(MARK) - 36
    expect("seals", whole[start : start + len(MARK)], MARK)
    footer = whole[-size - 8 : -8].replace(old, new)
    head = whole[:start] + MARK + zlib.crc32(footer).to_bytes(4, "little")
    tail = footer + whole[-8:]
    return head + hashlib.sha256(head + tail).digest() + tail


@contextmanager
def _without_sync() -> Iterator[None]:
    """Nothing is synced: made-up parts may be lost."""
    with patch("os.fsync"):
        yield
