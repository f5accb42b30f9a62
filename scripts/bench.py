"""Benchmarks: figures and ratios of one run. Nothing here fails because a machine is slow; a target is only printed.

What is compared is measured in turns, several rounds, in one fresh process: figures are medians, ratios are medians of
the ratios of each round, so that a neighbour who takes a core for a while spoils neither.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
ASSETS = Path(os.environ.get("MDFPIPE_TEST_ASSETS", ROOT.parent / "shared" / "assets"))
PACKAGES = ("numpy", "pyarrow", "av", "decord", "opencv-python", "onnxruntime")
HEAVY = ("torch", "cv2", "pandas", "pyarrow", "scipy", "matplotlib")
KEY = "clip"  # the video_id of the benches that have one video


@dataclass
class Report:
    """rows: (what, value, unit). targets: (what, value, the target in words, whether it is met)."""

    title: str
    rows: list[tuple[str, float, str]] = field(default_factory=list)
    targets: list[tuple[str, float, str, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    profile: list[str] = field(default_factory=list)

    def add(self, what: str, value: float, unit: str) -> None:
        self.rows.append((what, value, unit))

    def aim(self, what: str, value: float, sign: str, limit: float, unit: str = "") -> None:
        met = value >= limit if sign == ">=" else value <= limit
        self.targets.append((what, value, f"{sign} {limit:g} {unit}".rstrip(), met))


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": model,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def in_worker(task: Callable[..., Any], *arguments: Any, threads: int = 1) -> Any:
    """Call `task` in a fresh spawned process, with the thread counts that the runner gives its workers."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


def in_turns(rounds: int, **tasks: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds of each task in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(above: list[float], below: list[float]) -> float:
    return median(a / b for a, b in zip(above, below, strict=True))


def profiled(task: Callable[[], Any], lines: int = 14) -> list[str]:
    """Where the time goes: the functions that take most of it themselves."""
    import cProfile

    profiler = cProfile.Profile()
    profiler.runcall(task)
    return top_of(profiler, lines)


def top_of(source: Any, lines: int = 14) -> list[str]:
    import io
    import pstats

    text = io.StringIO()
    stats = pstats.Stats(source, stream=text).strip_dirs()
    stats.sort_stats("tottime").print_stats(lines)
    stats.sort_stats("cumtime").print_stats("mdfpipe|pipeline|plan|run.py|label|crop|detect|index", lines)
    return [line for line in text.getvalue().splitlines() if line.strip()]


# --- one video and its parts ---------------------------------------------------------------------------------------


def video_row(path: Path) -> dict[str, Any]:
    """The columns of the videos table that a stage reads."""
    from mdfpipe.video.probe import probe

    info = probe(path)
    return {
        **{"video_id": KEY, "path": path.name, "problem": None, "n_frames": info.frames_declared},
        **{"bit_depth": info.bit_depth, "width": info.width, "height": info.height, "fps": info.fps},
    }


def make_unit(stage: Any, run: Path, video: Path, row: dict[str, Any] | None = None) -> Any:
    from mdfpipe.execution import Unit
    from mdfpipe.stages import Inputs
    from mdfpipe.store.run import Receipt, Run

    receipt = Receipt(stage.name, stage.version, KEY, {}, {})
    return Unit(stage, receipt, Inputs(Run(run), video=row or video_row(video)), video.parent)


def do_unit(unit: Any, **resources: Any) -> Any:
    """One unit as a worker does it, its commit included: the event that ends it."""
    from mdfpipe.execution import run_unit
    from mdfpipe.stages import Resources

    event = run_unit(unit, Resources(**resources), lambda event: None)
    if event.failure is not None:
        raise SystemExit(f"scripts/bench: {unit}: {event.failure.message}\n{event.failure.traceback}")
    return event


def drawn_video(path: Path, frames: int, width: int, height: int) -> Path:
    """The drawn clip with three people, enlarged, as H.264."""
    import av
    import cv2

    from mdfpipe.synth import clip

    people = [person for person in clip.CAST if person.subject_id in ("s03", "s04", "s05")]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "veryfast", "crf": "20", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in clip._frames(people, False, frames, 0):
            frame = av.VideoFrame.from_ndarray(cv2.resize(image, (width, height)), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    return path


def remuxed(source: Path, target: Path, *, seconds: float = float("inf"), copies: int = 1) -> Path:
    """The first `seconds` of a video, `copies` times one after the other, without encoding anything."""
    import av

    with av.open(str(target), "w") as output:
        stream, offset = None, 0
        for _ in range(copies):
            end = offset
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                for packet in container.demux(video):
                    if packet.dts is None or float(packet.dts * packet.time_base) >= seconds:
                        continue
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    end = max(end, packet.pts + packet.duration)
                    packet.stream = stream
                    output.mux(packet)
            offset = end
    return target


# --- detect --------------------------------------------------------------------------------------------------------


def bench_detect(options: argparse.Namespace, report: Report, folder: Path) -> None:
    if not (options.video.is_file() and options.weights.is_file()):
        raise SystemExit(
            f"scripts/bench: {options.video} or {options.weights} is missing; name them, or fetch the assets"
        )
    video = remuxed(options.video, folder / f"clip{options.video.suffix}", seconds=options.seconds)
    for threads in options.threads:
        frames, seconds, profile = in_worker(_detect, video, folder, options, threads, threads=threads)
        tag = f"{threads} thread{'s' * (threads > 1)}"
        for name, values in seconds.items():
            report.add(f"{tag}: {name}", frames / median(values), "frames/s")
        bare, stage, decode = (seconds[name] for name in ("bare detector", "detect stage", "decode alone"))
        bound = median(b / (b + d) for b, d in zip(bare, decode, strict=True))
        report.add(f"{tag}: bound if decoding shares the detector's cores, 1/(1/decode + 1/bare)", bound, "of bare")
        report.aim(f"{tag}: stage / bare", ratio(bare, stage), ">=", 0.9)
        report.profile += profile
    report.notes += [
        f"{options.video.name}, {frames} frames, batch {options.batch}, {options.weights.name}, one spawned worker",
        "the model is loaded before on both sides; the stage's time holds probing, counting packets, decoding, commit",
        "bare detector: letterbox, network and boxes of frames held in memory; network alone: prepared tensors",
    ]


def _detect(video: Path, folder: Path, options: argparse.Namespace, threads: int) -> tuple[int, Any, list[str]]:
    from mdfpipe.stages.detect import Detect
    from mdfpipe.video.detectors import Detector

    detector = Detector.variant("onnx")(weights=str(options.weights.absolute()))
    unit = make_unit(Detect(detector=detector), folder / "run", video)
    decoder = unit.stage.decoder.candidates(video)[0]
    run = detector.open(folder, KEY, device="cpu", threads=threads)
    held = list(decoder.frames(video, batch=options.batch, threads=threads))
    run(held[0])
    network: Any = run.network  # type: ignore[attr-defined]
    tensors = [run.inputs.of(b.pixels, network.batch or len(b)).copy() for b in held[:1]]  # type: ignore[attr-defined]
    calls = sum(-(-len(b) // (network.batch or len(b))) for b in held)

    def stage() -> None:
        do_unit(unit, batch=options.batch, threads=threads)

    seconds = in_turns(
        options.rounds,
        **{
            "bare detector": lambda: [run(batch) for batch in held],
            "detect stage": stage,
            "decode alone": lambda: [len(b) for b in decoder.frames(video, batch=options.batch, threads=threads)],
            "network alone": lambda: [network.run(tensors[0]) for _ in range(calls)],
        },
    )
    return sum(map(len, held)), seconds, profiled(stage) if options.profile else []


# --- label ---------------------------------------------------------------------------------------------------------


def bench_label(options: argparse.Namespace, report: Report, folder: Path) -> None:
    seconds, profile = in_worker(_label, folder, options)
    n = options.bodies
    for name, values in seconds.items():
        report.add(name, n / median(values), "bodies/s")
    report.aim(
        "kernel on one core", n / median(seconds["kernel (per_detection, arrays in and out)"]), ">=", 1e6, "bodies/s"
    )
    report.notes.append(f"{n} bodies, 3 bodies and 3 faces a frame, one core, {options.rounds} rounds")
    report.profile = profile


def _label(folder: Path, options: argparse.Namespace) -> tuple[dict[str, list[float]], list[str]]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import numpy as np
    import pyarrow as pa

    pa.set_cpu_count(1)
    from mdfpipe.stages import Context, Resources
    from mdfpipe.stages.index import Index
    from mdfpipe.stages.label import Label
    from mdfpipe.store.run import Run, write_table
    from mdfpipe.video.labelling import LabelRules, label_bodies

    frame, bodies, faces, subject = three_a_frame(options.bodies // 3, 1920, 1080)
    run = Run(folder / "run")
    commit_detections(run, frame, bodies, 1920, 1080)
    place = run.path / Index.faces_file(KEY)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_table(place, faces_table(frame, faces, subject))
    unit = make_unit(Label(), run.path, folder / "none", {"video_id": KEY})
    context = Context(folder, Resources(), lambda name: run.scratch("label", name))
    made = unit.stage.process(KEY, unit.inputs, context)
    kernel_in = (frame, np.ascontiguousarray(bodies), frame, np.ascontiguousarray(faces), subject)

    def stage() -> None:
        run.commit(unit.receipt, unit.stage.process(KEY, unit.inputs, context).table, {})

    seconds = in_turns(
        options.rounds,
        **{
            "kernel (per_detection, arrays in and out)": lambda: label_bodies(*kernel_in, rules=LabelRules()),
            "stage (Parquet in, Parquet out)": stage,
            "of it: process without the check of alignment": lambda: unit.stage.model_copy(
                update={"check_alignment": False}
            ).process(KEY, unit.inputs, context),
            "of it: reading bodies and faces": lambda: (
                unit.inputs.table("detect"),
                unit.stage._faces(KEY, unit.inputs),
            ),
            "of it: commit": lambda: run.commit(unit.receipt, made.table, {}),
        },
    )
    return seconds, profiled(stage) if options.profile else []


def three_a_frame(frames: int, width: int, height: int) -> tuple[Any, Any, Any, Any]:
    """Three people who walk, three faces in them: frame (n,), bodies (n, 4), faces (n, 4), subject (n,)."""
    import numpy as np

    generator = np.random.default_rng(0)
    frame, person = np.repeat(np.arange(frames), 3), np.tile(np.arange(3), frames)
    tall = height * (0.35 + 0.1 * person)
    x = width * (0.15 + 0.7 * ((0.31 * person + 0.0023 * (person + 1) * frame) % 1)) + generator.normal(
        0, 2, len(frame)
    )
    y = height * 0.95 - 20 * person
    bodies = np.stack([x - 0.17 * tall, y - tall, x + 0.17 * tall, y], axis=1).astype(np.float32)
    faces = np.stack([x - 0.05 * tall, y - 0.97 * tall, x + 0.05 * tall, y - 0.86 * tall], axis=1).astype(np.float32)
    return frame, bodies, faces, person


def commit_detections(run: Any, frame: Any, bodies: Any, width: int, height: int, decoder: str = "decord") -> Any:
    """The part that detect would have made of these boxes."""
    import numpy as np
    import pyarrow as pa

    from mdfpipe.store.run import Receipt
    from mdfpipe.store.tables import BODIES

    number = np.arange(len(frame)) - np.searchsorted(frame, frame)
    body_id = [f"{KEY}/{f:06d}/{n:02d}" for f, n in zip(frame.tolist(), number.tolist(), strict=True)]
    planes = list(np.ascontiguousarray(bodies.T))
    columns = [body_id, [KEY] * len(frame), frame, frame / 10.0, *planes, np.full(len(frame), 0.9, np.float32)]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, BODIES, strict=True)], schema=BODIES)
    seen = {"width": width, "height": height, "delivered": int(frame[-1]) + 1, "decoder": decoder}
    facts = {**seen, "stride": 1, "window": None}
    run.commit(Receipt("detect", 1, KEY, {}, {}, facts=facts), table, {})
    return table


def faces_table(frame: Any, faces: Any, subject: Any) -> Any:
    import numpy as np
    import pyarrow as pa

    from mdfpipe.store.tables import FACES

    planes, names = list(np.ascontiguousarray(faces.T)), [f"s{code:02d}" for code in subject.tolist()]
    columns = [[KEY] * len(frame), frame, subject, names, *planes]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, FACES, strict=True)], schema=FACES)


# --- crop ----------------------------------------------------------------------------------------------------------


def bench_crop(options: argparse.Namespace, report: Report, folder: Path) -> None:
    if options.video is None:
        source = drawn_video(folder / "clip.mp4", options.frames, 1280, 720)
    else:
        source = remuxed(options.video, folder / f"clip{options.video.suffix}")
    for threads in options.threads:
        frames, crops, seconds, profile = in_worker(_crop, source, folder, options, threads, threads=threads)
        tag = f"{threads} thread{'s' * (threads > 1)}"
        for name, values in seconds.items():
            report.add(f"{tag}: {name}", frames / median(values), "frames/s")
        report.add(f"{tag}: crop stage", crops / median(seconds["crop stage"]), "crops/s")
        report.add(f"{tag}: stage / decode alone", ratio(seconds["decode alone"], seconds["crop stage"]), "")
        report.profile += profile
    what = options.video.name if options.video else "drawn clip at 1280x720"
    report.notes.append(f"{what}: {frames} frames, {crops} crops (3 bodies 384x128 and 3 faces 112x112 a frame)")


def _crop(video: Path, folder: Path, options: argparse.Namespace, threads: int) -> Any:
    from mdfpipe.stages.crop import Crop
    from mdfpipe.stages.index import Index
    from mdfpipe.stages.label import Label
    from mdfpipe.store.run import Run, write_table
    from mdfpipe.video import cropping
    from mdfpipe.video.ahead import ahead
    from mdfpipe.video.decoders.auto import Auto

    decoder, row, run = Auto().candidates(video)[0], video_row(video), Run(folder / "run")
    count = sum(len(batch) for batch in decoder.frames(video, threads=threads))
    frame, bodies, faces, subject = three_a_frame(count, row["width"], row["height"])
    commit_detections(run, frame, bodies, row["width"], row["height"], decoder.use)
    place = run.path / Index.faces_file(KEY)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_table(place, faces_table(frame, faces, subject))
    do_unit(make_unit(Label(check_alignment=False), run.path, video))
    unit = make_unit(Crop(), run.path, video)
    rows = do_unit(unit, threads=threads).rows
    held = next(iter(decoder.frames(video)))

    def cut_all() -> None:
        for number in range(count):
            image = held.pixels[number % len(held)]
            for n in range(3 * number, 3 * number + 3):
                box = cropping.pixel_box(bodies[n], image.shape[1], image.shape[0])
                crop = cropping.resize(cropping.cut(image, box), 128, 384)
                face = cropping.resize(cropping.cut(image, cropping.square_box(faces[n], 0.1)), 112, 112)
                for each in (crop, face):
                    cropping.encode(each)
                    cropping.quality(each, cropping.Window())

    seconds = in_turns(
        options.rounds,
        **{
            "decode alone": lambda: [len(batch) for batch in decoder.frames(video, threads=threads)],
            "decode alone, in the decode-ahead thread": lambda: [
                len(batch) for batch in ahead(decoder.frames(video, threads=threads))
            ],
            "cut, resize, encode, measure alone (frames in memory)": cut_all,
            "crop stage": lambda: do_unit(unit, threads=threads),
        },
    )
    return count, rows, seconds, profiled(lambda: do_unit(unit, threads=threads)) if options.profile else []


# --- memory --------------------------------------------------------------------------------------------------------


def bench_memory(options: argparse.Namespace, report: Report, folder: Path) -> None:
    minute = drawn_video(folder / "minute.mp4", 600, 320, 180)
    lengths = (options.minutes, 10 * options.minutes)
    videos = {n: remuxed(minute, folder / f"clip{n}.mp4", copies=n) for n in lengths}
    three_boxes_onnx(folder / "three.onnx")
    for detector in options.detector:
        for decoder in options.decoder:
            peaks = {}
            for minutes, video in videos.items():
                rows, before, peak, wall = in_worker(_peak, video, folder, detector, decoder, 600 * minutes)
                peaks[minutes] = peak
                tag = f"{detector}, {decoder}, {minutes} minutes"
                report.add(f"{tag}: peak of the worker", peak, "MB")
                report.notes.append(f"{tag}: {rows} rows, {before:.0f} MB with libraries loaded, {wall:.1f} s")
            growth = peaks[lengths[1]] - peaks[lengths[0]]
            report.aim(f"{detector}, {decoder}: growth", growth, "<=", 100, "MB")
    report.notes.append(
        "320x180 at 10 frames/s, 3 boxes a frame; peak: VmHWM of a fresh worker after process and commit"
    )


def _peak(video: Path, folder: Path, detector: str, decoder: str, frames: int) -> tuple[int, float, float, float]:
    from mdfpipe.stages.detect import Detect
    from mdfpipe.video.decoders import Decoder
    from mdfpipe.video.detectors import Detector

    if detector == "onnx":
        made = Detector.variant("onnx")(weights=str(folder / "three.onnx"))
    else:
        boxes = folder / f"boxes{frames}.csv"
        if not boxes.exists():
            line = "{0},20.5,30.5,80.5,170.5,0.91\n{0},120.5,30.5,180.5,170.5,0.92\n{0},220.5,30.5,280.5,170.5,0.93\n"
            boxes.write_text("frame,x1,y1,x2,y2,score\n" + "".join(line.format(n) for n in range(frames)))
        made = Detector.variant("precomputed")(boxes=str(boxes))
    stage = Detect(detector=made, decoder=Decoder.variant(decoder)())
    unit = make_unit(stage, folder / "run", video)
    import decord  # noqa: F401

    before, started = peak_mb(), time.perf_counter()
    event = do_unit(unit)
    if (event.rows, event.facts["delivered"]) != (3 * frames, frames):
        raise SystemExit(f"scripts/bench: expected {frames} frames with 3 boxes each, got {event}")
    return event.rows, before, peak_mb(), time.perf_counter() - started


def peak_mb() -> float:
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def three_boxes_onnx(path: Path) -> None:
    """A network of YOLOv10's shape that sees the same three people in every picture."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    boxes = np.array([[[20 + 50 * n, 10, 50 + 50 * n, 85, 0.9, 0] for n in range(3)]], np.float32)
    constants = {"boxes": boxes, "start": np.array([0]), "end": np.array([1]), "shape": np.array([3, 6])}
    nodes = [
        helper.make_node("Shape", ["images"], ["size"]),
        helper.make_node("Slice", ["size", "start", "end"], ["batch"]),
        helper.make_node("Concat", ["batch", "shape"], ["wanted"], axis=0),
        helper.make_node("Expand", ["boxes", "wanted"], ["output"]),
    ]
    ends = [("images", ["B", 3, 96, 160]), ("output", ["B", 3, 6])]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in ends]
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "three", values[:1], values[1:], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


# --- noop, help ----------------------------------------------------------------------------------------------------


def mdfpipe(*arguments: str | Path, profile: Path | None = None) -> tuple[float, str]:
    """Wall seconds and standard output of one call of the command line."""
    program = [sys.executable, "-m", "cProfile", "-o", profile, "-m", "mdfpipe.cli"] if profile else [_command()]
    started = time.perf_counter()
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, cwd=ROOT, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"scripts/bench: mdfpipe {arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return seconds, done.stdout


def _command() -> Path:
    return Path(sys.executable).parent / "mdfpipe"


def bench_noop(options: argparse.Namespace, report: Report, folder: Path) -> None:
    data, run = folder / "data", folder / "run"
    many_videos(data, options.videos)
    call = ["run", ROOT / "pipelines" / "demo.yaml", "--data", data, "--run", run, "--workers", "2", "--threads", "1"]
    report.add("the first run: every stage of every video, 2 workers", mdfpipe(*call)[0], "s")
    again = [mdfpipe(*call)[0] for _ in range(options.rounds)]
    report.add("nothing due, longest", max(again), "s")
    report.add("of it mdfpipe --help (start-up)", median(mdfpipe("--help")[0] for _ in range(3)), "s")
    report.add("--dry-run with nothing due", median(mdfpipe(*call, "--dry-run")[0] for _ in range(3)), "s")
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
        f"{options.videos} videos of 6 frames (hard links to four drawn clips), pipelines/demo.yaml, {options.rounds} calls",
        "one added, --dry-run: " + "; ".join(planned[:6]),
        f"one added, units that ran: {ran}",
    ]


def many_videos(data: Path, count: int) -> None:
    """The drawn data set with each video `count` / 4 times, under names of their own."""
    from mdfpipe.synth.clip import draw

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


def bench_help(options: argparse.Namespace, report: Report, folder: Path) -> None:
    seconds = [mdfpipe("--help")[0] for _ in range(options.rounds)]
    asks = "import sys; from mdfpipe.cli import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, cwd=folder, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    report.add("mdfpipe --help, longest", max(seconds), "s")
    report.add("modules loaded", len(done.stdout.splitlines()[-1].split()), "")
    report.aim("mdfpipe --help, median", median(seconds), "<=", 0.5, "s")
    report.aim(f"of {', '.join(HEAVY)} loaded", len(loaded & set(HEAVY)), "<=", 0)
    report.notes.append(f"{options.rounds} calls; loaded of the heavy ones: {sorted(loaded & set(HEAVY)) or 'none'}")


# --- the command line ----------------------------------------------------------------------------------------------

BENCHES: dict[str, tuple[Callable[[argparse.Namespace, Report, Path], None], str, int]] = {
    "detect": (bench_detect, "the detect stage against the bare detector on the same frames", 5),
    "label": (bench_label, "the labelling kernel on one core, and the whole label stage", 5),
    "crop": (bench_crop, "the crop stage against decoding alone", 5),
    "memory": (bench_memory, "peak memory of a detect worker, a video against one ten times as long", 1),
    "noop": (bench_noop, "a run with nothing due over many videos, and one video added", 7),
    "help": (bench_help, "mdfpipe --help: wall time and what it loads", 10),
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="scripts/bench", description="Figures and ratios of one run; it never fails.")
    commands = top.add_subparsers(dest="bench", required=True, metavar="BENCH")
    made = {}
    for name, (_, explanation, rounds) in BENCHES.items():
        made[name] = commands.add_parser(name, help=explanation, description=explanation)
        made[name].add_argument("--json", action="store_true", help="one JSON document")
        made[name].add_argument("--profile", action="store_true", help="also show where the time goes")
        made[name].add_argument("--rounds", type=int, default=rounds, help=f"rounds that count ({rounds})")
        made[name].add_argument("--keep", type=Path, help="work in this folder and leave it there")
    clip = ASSETS / "real-walk" / "videos" / "one-by-one-person-detection.mp4"
    made["detect"].add_argument("--video", type=Path, default=clip)
    made["detect"].add_argument("--weights", type=Path, default=ASSETS / "weights" / "yolox_nano_416.onnx")
    made["detect"].add_argument("--seconds", type=float, default=30.0, help="of the video (30)")
    made["detect"].add_argument("--batch", type=int, default=8)
    made["crop"].add_argument("--video", type=Path, help="cut from this clip instead of the drawn one")
    made["crop"].add_argument("--frames", type=int, default=200, help="frames of the drawn clip (200)")
    for name in ("detect", "crop"):
        made[name].add_argument("--threads", type=int, nargs="+", default=[1, 2])
    made["label"].add_argument("--bodies", type=int, default=1_000_000)
    made["memory"].add_argument("--minutes", type=int, default=10, help="length of the shorter video (10)")
    made["memory"].add_argument("--decoder", nargs="+", default=["decord", "pyav"])
    made["memory"].add_argument("--detector", nargs="+", default=["onnx", "precomputed"])
    made["noop"].add_argument("--videos", type=int, default=800)
    return top


def show(report: Report) -> Iterator[str]:
    yield report.title
    width = max(len(row[0]) for row in [*report.rows, *report.targets])
    for what, value, unit in report.rows:
        yield f"  {what:<{width}}  {_figure(value):>11} {unit}".rstrip()
    for what, value, target, met in report.targets:
        yield f"  {what:<{width}}  {_figure(value):>11}  target {target}: {'met' if met else 'MISSED'}"
    yield from (f"  {note}" for note in report.notes)
    yield "  " + ", ".join(f"{name} {value}" for name, value in machine().items())
    yield from report.profile


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    bench, explanation, _ = BENCHES[options.bench]
    report = Report(f"{options.bench}: {explanation}")
    if options.keep:
        options.keep.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="mdfpipe-bench-") as folder:
        bench(options, report, (options.keep or Path(folder)).absolute())
    print(json.dumps(asdict(report) | {"machine": machine()}, indent=1) if options.json else "\n".join(show(report)))


if __name__ == "__main__":
    main()
