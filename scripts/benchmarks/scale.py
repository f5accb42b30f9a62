"""what the crew costs a unit, how well simulated clusters are used, and a plan for 10,000 hours of video"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from multiprocessing.connection import wait
from pathlib import Path
from statistics import mean, median

import numpy as np
from benchmarks.measure import ROOT, Report, expect, mdfpipe
from benchmarks.noop import many_videos

from mdfpipe.running.crew import Crew
from mdfpipe.running.execution import Event, Unit, run_unit, wanted_shares
from mdfpipe.running.leading import EXPECTED
from mdfpipe.running.runner import Runner
from mdfpipe.running.workers import Step, UnitReport
from mdfpipe.running.workers.channels import TcpChannel
from mdfpipe.running.workers.joined import JoinedWorker
from mdfpipe.running.workers.messages import of_event, to_unit
from mdfpipe.running.workers.spawned import Spawned
from mdfpipe.stages import Resources
from mdfpipe.stages.detect import Detect
from mdfpipe.store.owner import Owner
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study

VIDEOS, HOURS, FPS = 157, 161.0, 30.0  # of IJB-MDF; FPS: frames a second
SIGMA = 0.6  # of the logarithms of the lengths
SPAN_FRAMES = int(Detect.model_fields["span_frames"].default)
STAGES = ("detect", "label", "crop")
PLANNED = (20, 120)  # made-up videos, whose difference is that of a video


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--units", type=int, default=2000, help="units that do nothing, for the cost of a unit (2000)")
    parser.add_argument("--videos", type=int, default=40, help="drawn videos that real workers do (40)")
    parser.add_argument("--draws", type=int, default=50, help="draws of lengths (50)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--hours", type=float, default=10_000.0, help="of video, of the plan (10000)")
    parser.add_argument("--gpu-fps", type=float, default=300.0, help="assumed: frames a second of a GPU (300)")
    parser.add_argument("--gpu-price", type=float, default=2.0, help="assumed: price of an hour of a GPU (2)")
    parser.add_argument("--gigabytes-an-hour", type=float, default=2.25, help="assumed: of video, 5 Mbit/s (2.25)")
    parser.add_argument("--bodies", type=float, default=1.5, help="assumed: bodies in a frame (1.5)")
    parser.add_argument("--crop-bytes", type=float, default=12_000.0, help="assumed: of a stored crop (12000)")
    parser.add_argument("--read-mb", type=float, default=500.0, help="assumed: MB/s that the videos' disk gives (500)")
    parser.add_argument("--crop-every", type=int, default=1, help="crop.every of the plan (1)")


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    empty = _spawned(options.units)
    report.aim("spawned worker, a unit that does nothing", 1e3 * empty, "<=", 1.0, "ms")
    many_videos(folder / "data", options.videos)
    costs = {way: _of_real_units(folder, way, options.videos) for way in ("spawned", "joined")}
    wall, processor = _joined(folder / "spawned", options.units)
    report.aim("joined worker, a unit that does nothing", 1e3 * wall, "<=", 5.0, "ms")
    report.add("joined worker, a unit that does nothing: processor time of both sides", 1e3 * processor, "ms")
    report.add("spawned worker, between two real units", 1e3 * costs["spawned"], "ms")
    report.aim("joined worker, between two real units", 1e3 * costs["joined"], "<=", 5.0, "ms")
    rate = options.gpu_fps
    for videos, hours in ((VIDEOS, HOURS), (800, HOURS * 800 / VIDEOS)):
        for workers in options.workers:
            found = _efficiencies(videos, hours, workers, options.draws, costs["joined"], rate)
            for order, value in found.items():
                what = f"{videos} videos, {workers} workers, {order}: efficiency"
                if (videos, workers, order) == (VIDEOS, 64, "spans"):
                    report.aim(what, value, ">=", 0.95)
                else:
                    report.add(what, value, "")
    _plan(options, report, costs["joined"])
    _reads(options, report, folder)
    report.notes += [
        f"{options.units} empty units; {options.videos} drawn videos of 6 frames by one worker, detect, label and crop",
        f"simulated: lognormal lengths, {options.draws} draws, {FPS:g} frames/s of video, "
        f"{rate:g} frames/s a worker, spans of {SPAN_FRAMES} frames; nothing ran on several machines",
        f"assumed: {HOURS:g} hours in {VIDEOS} videos, and a sigma of {SIGMA:g} of the logarithms of their lengths, "
        "which was fitted to the efficiencies of the design (64 workers: .51 in order, .63 longest first), no lengths",
    ]


def _nothing(number: int, tell: object) -> int:
    return number


def _spawned(units: int) -> float:
    """Seconds that the crew takes for a unit that does nothing, with one spawned worker."""
    with Crew(Spawned(1)) as crew:
        list(crew.run(_nothing, [(0,)]))
        started = time.perf_counter()
        done = [report.value for report in crew.run(_nothing, [(n,) for n in range(units)]) if report.kind is Step.DONE]
        seconds = time.perf_counter() - started
    expect("units", done, list(range(units)))
    return seconds / units


class _Alone:
    """A joined worker that is there from the beginning."""

    tries = 1
    sources = ()
    poll_seconds = 0.5

    def __init__(self, worker: JoinedWorker) -> None:
        self.present = [worker]

    def look(self, wanted: int) -> Sequence[UnitReport]:
        return ()

    def close(self) -> None:
        self.present[0].channel.close()


def _joined(run_folder: Path, units: int) -> tuple[float, float]:
    """Seconds, and seconds of a processor, of a unit that is sent to a joined worker and reported as done."""
    study, run = Study.kept(run_folder), Run(run_folder)
    runner = Runner(study, run, run_folder.parent / "data")
    plan = runner.plan()
    item = plan.items(next(stage for stage in study.stages if stage.name == "detect"))[0]
    unit = Unit(item.stage, item.expected, plan.inputs(item), runner.data)
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = TcpChannel(socket.create_connection(server.getsockname()))
        worker = JoinedWorker(TcpChannel(server.accept()[0]), "bench", Owner.new(), "cpu", run)

    def work() -> None:
        with suppress(EOFError):
            while True:
                wait([there.source])
                for message in there.receive():
                    made = to_unit(message, study, run, runner.data)
                    there.send({"ended": message["unit"], "event": of_event(Event("finished", "detect", made.key))})

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with Crew(_Alone(worker)) as crew:
        wall, processor = time.perf_counter(), time.process_time()
        reports = list(crew.run(run_unit, [(unit, Resources())] * units))
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    thread.join(10)
    expect("units", sum(report.kind is Step.DONE for report in reports), units)
    return wall / units, processor / units


def _of_real_units(folder: Path, way: str, videos: int) -> float:
    """Seconds of one worker between two units: medians, and their mean over three stages."""
    run, study = folder / way, ROOT / "tests" / "drawn" / "study.yaml"
    call: list[str | Path] = [
        "run",
        study,
        "--data",
        folder / "data",
        "--run",
        run,
        "--until",
        "crop",
        "--threads",
        "1",
        "--separate",  # else units end within units
    ]
    if way == "joined":
        work = [sys.executable, "-m", "mdfpipe", "work", "--run", str(run), "--wait", "120", "--threads", "1"]
        worker = subprocess.Popen(work, stdout=subprocess.DEVNULL, cwd=ROOT)
        try:
            mdfpipe(*call, "--on", "workers")
            expect("the worker's exit code", worker.wait(60), 0)
        finally:
            worker.kill()
    else:
        mdfpipe(*call, "--workers", "1")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    gaps = []
    for stage in STAGES:
        own = [event for event in events if event.get("stage") == stage]
        ended = [event for event in own if event["event"] == "finished"]
        expect(f"{way}: units of {stage} that finished", len(ended), videos)
        after = sorted(ended, key=lambda event: float(event["time"]))
        # from one end to the next, without what the unit itself took: the first unit also loads libraries
        pairs = pairwise(after)
        gaps.append(median(last["time"] - before["time"] - last["seconds"] for before, last in pairs))
    return float(mean(gaps))


def _efficiencies(
    videos: int, hours: float, workers: int, draws: int, overhead: float, rate: float
) -> dict[str, float]:
    """Share of the workers' time that is work, by the order in which videos are given; means over the draws."""
    random = np.random.default_rng(videos)
    found: dict[str, list[float]] = {"in order": [], "longest first": [], "spans": []}
    for _ in range(draws):
        lengths = random.lognormal(0.0, SIGMA, videos)
        lengths *= 3600 * hours / lengths.sum()
        seconds = (lengths * FPS / rate).tolist()
        for order, units in (
            ("in order", seconds),
            ("longest first", sorted(seconds, reverse=True)),
            ("spans", sorted(_shares((lengths * FPS).tolist(), rate), reverse=True)),
        ):
            found[order].append(sum(seconds) / (workers * _makespan(units, workers, overhead)))
    return {order: mean(values) for order, values in found.items()}


def _shares(frames: Sequence[float], rate: float) -> list[float]:
    """Seconds of the shares into which a leader cuts detect of videos of so many frames."""
    wanted = wanted_shares(frames, EXPECTED)
    counts = [min(n, math.ceil(of / SPAN_FRAMES)) for n, of in zip(wanted, frames, strict=True)]
    return [of / n / rate for n, of in zip(counts, frames, strict=True) for _ in range(n)]


def _makespan(units: Sequence[float], workers: int, overhead: float) -> float:
    """Seconds until the last of the units, given in this order to the worker that is free first, has ended."""
    free = [0.0] * workers
    for seconds in units:
        heapq.heapreplace(free, free[0] + seconds + overhead)
    return max(free)


def _plan(options: argparse.Namespace, report: Report, overhead: float) -> None:
    """What so many hours of video take, by the assumptions of the options."""
    frames = options.hours * 3600 * FPS
    gpu_hours = frames / options.gpu_fps / 3600
    units = _videos_in(options.hours) * len(STAGES)
    crops = frames * options.bodies / options.crop_every
    tag = f"{options.hours:,.0f} hours"
    report.add(f"{tag}: GPU hours", gpu_hours, "h")
    report.add(f"{tag}: days with 64 GPUs at an efficiency of .95", gpu_hours / 64 / 0.95 / 24, "days")
    report.add(f"{tag}: videos to read over the network, once", options.hours * options.gigabytes_an_hour / 1e3, "TB")
    rate = options.gigabytes_an_hour * 8 * 64 * 0.95 * options.gpu_fps / FPS / 3600
    report.add(f"{tag}: network of 64 GPUs at work", rate, "Gbit/s")
    report.add(f"{tag}: crops", crops * options.crop_bytes / 1e12, "TB")
    report.add(f"{tag}: the crew's own time", units * overhead / 3600, "h")
    report.add(f"{tag}: price of an hour of video", gpu_hours * options.gpu_price / options.hours, "")


def _videos_in(hours: float) -> float:
    """How many videos that is, at the mean length of IJB-MDF's."""
    return hours * VIDEOS / HOURS


def _reads(options: argparse.Namespace, report: Report, folder: Path) -> None:
    """What so many hours of video make the index and a plan with nothing due read. The plan is of made-up receipts."""
    from benchmarks.plan import looked_up, made_up

    from mdfpipe.store.hashing import bytes_sha256

    tag, gigabytes = f"{options.hours:,.0f} hours", options.hours * options.gigabytes_an_hour
    file = folder / "hashed"
    file.write_bytes(bytes(1 << 28))
    bytes_sha256(file)
    began = time.process_time()
    bytes_sha256(file)
    speed = file.stat().st_size / 1e6 / (time.process_time() - began)
    report.add("sha256 of a file in memory, one thread", speed, "MB/s")
    report.add(f"{tag}: read to hash new videos, once", gigabytes, "GB")
    report.add(f"{tag}: processor time of that", gigabytes * 1e3 / speed / 3600, "h")
    report.add(f"{tag}: time of that at {options.read_mb:g} MB/s", gigabytes * 1e3 / options.read_mb / 3600, "h")
    made = []
    for number in PLANNED:
        place = folder / f"plan{number}"
        place.mkdir()
        study, data, run = made_up(place, number)
        time.sleep(3)  # younger parts get no entry in an index
        call: list[str | Path] = ["run", study, "--data", data, "--run", run, "--until", "crop", "--json"]
        mdfpipe(*call)
        made.append(looked_up(call, run, place))
    videos = _videos_in(options.hours)
    for what in made[0]:
        slope = (made[1][what] - made[0][what]) / (PLANNED[1] - PLANNED[0])
        report.add(f"{tag}: {videos:,.0f} videos, a call with nothing due: {what}", made[0][what] + slope * videos, "")
