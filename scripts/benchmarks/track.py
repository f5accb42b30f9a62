"""boxes linked to tracks on one core, in crowds and few, and the whole track stage"""

from __future__ import annotations

import argparse
import os
import resource
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.material import KEY, commit_detections, make_unit
from benchmarks.measure import Report, Times, expect, in_turns, in_worker, profiled

CROWD = "30 people a frame"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--boxes", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    times, counts, grown, profile = in_worker(_track, folder, options)
    for name, measured in times.items():
        report.add(name, measured.rate(counts[name]), "boxes/s")
    report.aim(f"{CROWD}, one core", times[CROWD].rate(counts[CROWD]), ">=", 50_000, "boxes/s")
    report.add(f"memory that linking {counts[CROWD]:,} boxes took", grown, "MB")
    report.notes.append(f"ByteTrack, drawn walkers, one box in 20 missed, {options.rounds} rounds")
    report.profile = profile


def walkers(boxes: int, people: int) -> tuple[Any, Any, Any]:
    """frame (n,), xyxy (n, 4), score (n,) of people who walk and turn in a picture of 1920x1080."""
    import numpy as np

    chance = np.random.default_rng(people)
    frames = max(boxes // people, 2)
    start, speed = chance.uniform([0, 0], [1700, 800], (people, 2)), chance.normal(0, 3, (people, 2))
    place = start + speed * np.arange(frames)[:, None, None]
    turn = np.array([1700, 800])
    place = np.abs((place + turn) % (2 * turn) - turn)
    tall = chance.uniform(120, 220, people)
    xyxy = np.concatenate([place, place + np.stack([0.4 * tall, tall], axis=1)], axis=2)
    xyxy = (xyxy + chance.normal(0, 1.5, xyxy.shape)).astype(np.float32)
    score, seen = chance.beta(5, 1.5, (frames, people)), chance.random((frames, people)) > 0.05
    frame = np.repeat(np.arange(frames), people)
    return frame[seen.ravel()], xyxy[seen], score[seen].astype(np.float32)


def _track(folder: Path, options: argparse.Namespace) -> tuple[dict[str, Times], dict[str, int], float, list[str]]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import pyarrow as pa

    pa.set_cpu_count(1)
    from mdfpipe.running.execution import run_unit
    from mdfpipe.stages import Resources
    from mdfpipe.stages.track import Track
    from mdfpipe.store.run import Run
    from mdfpipe.video.trackers import Tracker
    from mdfpipe.video.tracking import TrackRules, link

    inputs = {
        f"{people} people a frame": walkers(options.boxes * min(people, 10) // 10, people) for people in (30, 100)
    }
    inputs |= {f"{people} a frame": walkers(options.boxes // 10 * people, people) for people in (3, 1)}
    import scipy.optimize  # noqa: F401 - no part of what linking needs

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    track = link(*inputs[CROWD], TrackRules())
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    expect("most boxes have a track", (track >= 0).mean() > 0.7, True)
    frame, xyxy, _ = inputs[CROWD]
    run = Run(folder / "run")
    commit_detections(run, frame, xyxy, 1920, 1080)
    unit = make_unit(
        Track(tracker=Tracker.model_validate({"use": "bytetrack"})), run.path, folder / "none", {"video_id": KEY}
    )

    def stage() -> None:
        event = run_unit(unit, Resources(), lambda event: None)
        expect("the stage", event.failure, None)

    tasks = {name: partial(link, *given, TrackRules()) for name, given in inputs.items()}
    whole = f"stage, {CROWD} (Parquet in, Parquet out)"
    times = in_turns(options.rounds, **tasks, **{whole: stage})
    counts = {name: len(given[0]) for name, given in inputs.items()} | {whole: len(frame)}
    return times, counts, grown, profiled(tasks[CROWD]) if options.profile else []
