"""a run with nothing due over many videos, and one video added"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
from pathlib import Path
from statistics import median

from benchmarks.measure import ROOT, Report, mdfpipe, top_of


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=7)


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    data, run = folder / "data", folder / "run"
    many_videos(data, options.videos)
    study = ROOT / "tests" / "drawn" / "study.yaml"
    call: list[str | Path] = ["run", study, "--data", data, "--run", run, "--workers", "2", "--threads", "1"]
    report.add("the first run: every stage of every video, 2 workers", mdfpipe(*call)[0], "s")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    again = [mdfpipe(*call)[0] for _ in range(options.rounds)]
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime) / options.rounds
    report.add("nothing due, shortest", min(again), "s")
    report.add("nothing due, longest", max(again), "s")
    report.add("of it mdfpipe --help (start-up)", median(mdfpipe("--help")[0] for _ in range(3)), "s")
    report.add("--dry-run with nothing due", median(mdfpipe(*call, "--dry-run")[0] for _ in range(3)), "s")
    report.aim("nothing due, processor time of a call", cpu, "<=", 1, "s")
    report.aim("nothing due, median", median(again), "<=", 2, "s")
    if options.profile:
        mdfpipe(*call, profile=folder / "profile")
        report.profile = top_of(str(folder / "profile"), 30)
    add_video(data, "VIS-500m_a-new")
    planned = json.loads(mdfpipe(*call, "--dry-run", "--json")[1])
    seconds, output = mdfpipe(*call, "--json")
    ran = {stage: tally["ran"] for stage, tally in json.loads(output)["tallies"].items()}
    report.add("the run after one video was added", seconds, "s")
    report.notes += [
        f"{options.videos} videos of 6 frames (links to four drawn clips), {study.name}, {options.rounds} calls",
        "one added, --dry-run: " + "; ".join(planned[:6]),
        f"one added, units that ran: {ran}",
    ]


def many_videos(data: Path, count: int) -> None:
    """The drawn data set with each video `count` / 4 times, under names of their own."""
    from tests.drawn import draw

    draw(data, frames=6)
    originals = sorted((data / "videos").iterdir())
    faces, boxes = ((data / name).read_text().splitlines() for name in ("faces.csv", "boxes.csv"))
    for number in range(count - len(originals)):
        video = originals[number % len(originals)]
        name = f"{video.stem}-{number:04d}"
        os.link(video, video.with_name(name + video.suffix))
        faces += [r.replace(video.name, name + video.suffix) for r in faces if f"/{video.name}," in r]
        boxes += [r.replace(video.stem, name, 1) for r in boxes if f"/{video.stem}," in r]
    (data / "faces.csv").write_text("\n".join(faces) + "\n")
    (data / "boxes.csv").write_text("\n".join(boxes) + "\n")


def add_video(data: Path, name: str) -> None:
    """One more video, a copy of the first by the name's beginning, with its faces and boxes."""
    old = name.partition("-new")[0]
    shutil.copy(data / "videos" / f"{old}.mp4", data / "videos" / f"{name}.mp4")
    for table, ending in (("faces.csv", ".mp4,"), ("boxes.csv", ",")):
        rows = (data / table).read_text().splitlines()
        more = [r.replace(f"/{old}{ending}", f"/{name}{ending}") for r in rows if f"/{old}{ending}" in r]
        (data / table).write_text("\n".join(rows + more) + "\n")
