"""detect, label and crop in one pass: against detect alone, and against the script that people write"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.by_hand import Crops, Faces, crops_by_hand, difference, names_of
from benchmarks.detect_parts import FPS, PRECISIONS, results_of_ultralytics, weights_of, yolo
from benchmarks.material import KEY, annotate, as_h264, do_unit, make_unit, walk
from benchmarks.measure import NO_BF16, Report, Times, by_thread, expect, in_turns, in_worker, profiled, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = "script by hand, fp32"
FILE, BOXES = "boxes from a file", "boxes.parquet"
GOALS = {"fp32": 1.3, "bf16": 2.5}  # times the script's speed
MOST = 1.15  # times the seconds of detect alone


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, default=96, help="of the drawn clip (96)")
    parser.add_argument("--size", type=int, nargs=2, default=[1280, 720], metavar=("W", "H"))
    parser.add_argument("--image-size", type=int, default=640, help="the network's input (640)")
    parser.add_argument("--weights", help="demo, or a .pt file (demo)")
    parser.add_argument("--min-score", type=float, default=0.25)
    parser.add_argument("--decoder", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the worker (1 2)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-network", action="store_true", help="with boxes from a file only, without the script")


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    width, height = options.size
    clip = walk(options.frames, width, height, FPS, facing=True)
    drawn = [clip.frame(number) for number in range(options.frames)]
    video = as_h264(folder / "clip.mp4", (picture for picture, _ in drawn), FPS)
    people = [(number, person) for number, (_, seen) in enumerate(drawn) for person in seen if person.face]
    _write_boxes(folder / BOXES, people)
    for threads in options.threads:
        found = in_worker(_measure, video, people, options, threads, threads=threads)
        _tell(report, f"{threads} thread{'s' * (threads > 1)}", found)
    report.notes += [
        f"{video.name}: {options.frames} frames of {width}x{height} H.264, four drawn people; batch "
        f"{options.batch}, image_size {options.image_size}",
        "one spawned worker, everything loaded before; our stages probe, decode, measure crops, hash and commit",
        "script by hand: ultralytics predict(stream=True, nms=False, classes=[person]) of the same batch, a loop over "
        "boxes that names each by the face in it, cv2.resize, cv2.imwrite: the same crops, without checks and tables",
    ]


@dataclass
class _Found:
    """What was measured. made: boxes, labels and crops by what was timed. shares: of crops that both sides have."""

    frames: int
    engine: str
    times: dict[str, Times] = field(default_factory=dict)
    made: dict[str, dict[str, int]] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    grey: float = 0.0
    profile: list[str] = field(default_factory=list)


def _tell(report: Report, tag: str, found: _Found) -> None:
    wall = {name: measured.wall for name, measured in found.times.items()}
    for name, measured in found.times.items():
        report.add(f"{tag}: {name}", measured.rate(found.frames), "frames/s")
    for name, measured in found.times.items():
        report.add(f"{tag}: {name}, all threads", 1000 * median(measured.cpu) / found.frames, "CPU ms a frame")
    for how in PRECISIONS if SCRIPT in wall else ():
        work = found.times[_all(how)].cpu
        report.add(f"{tag}: {_all(how)} / script, in CPU time", ratio(found.times[SCRIPT].cpu, work), "")
        report.aim(f"{tag}: {_all(how)} / script", ratio(wall[SCRIPT], wall[_all(how)]), ">=", GOALS[how])
        report.aim(f"{tag}: crops of {how} that the script has, too", found.shares[how], ">=", 0.95)
    for how in (how for how in (*PRECISIONS, FILE) if _all(how) in wall):
        cpu = ratio(found.times[_all(how)].cpu, found.times[_alone(how)].cpu)
        report.add(f"{tag}: seconds of {_all(how)} / detect alone, in CPU time", cpu, "")
        report.aim(
            f"{tag}: seconds of {_all(how)} / detect alone", ratio(wall[_all(how)], wall[_alone(how)]), "<=", MOST
        )
    for name, made in found.made.items():
        report.notes.append(f"{tag}: {name}: {', '.join(f'{count} {what}' for what, count in made.items())}")
    if SCRIPT in wall:
        grey = f"crops differ from the script's by {found.grey:.2g} grey levels"
        report.notes.append(f"{tag}: engine {found.engine}; {grey}{'' if 'bf16' in PRECISIONS else '; ' + NO_BF16}")
    report.profile += found.profile


def _all(how: str) -> str:
    return f"detect, label and crop, {how}"


def _alone(how: str) -> str:
    return f"detect alone, {how}"


def _measure(video: Path, people: list[tuple[int, Any]], options: argparse.Namespace, threads: int) -> _Found:
    from mdfpipe.machine.engines import is_present
    from mdfpipe.video.detectors import Detector

    folder, engine = video.parent, "openvino" if is_present("openvino") else "torch"
    weights, faces = weights_of(options, folder), _faces(people)
    given = Detector.variant("precomputed").model_validate({"boxes": str(folder / BOXES)})
    detectors = {FILE: given}
    if not options.no_network:
        detectors |= {how: yolo(options, weights, f"{engine} {how}", options.min_score) for how in PRECISIONS}
    units = {
        how: _Unit(one, folder / f"run-{threads}" / how, video, faces, options, threads)
        for how, one in detectors.items()
    }
    tasks, found = dict[str, Callable[[], Any]](), _Found(options.frames, engine)
    stored = dict[str, Crops]()
    for how, unit in units.items():
        found.made[_all(how)], stored[how] = unit.checked()
        tasks |= {_alone(how): unit.alone, _all(how): unit.all}
    if not options.no_network:
        import torch

        results = results_of_ultralytics(options, weights, options.min_score, folder)
        tasks[SCRIPT] = partial(crops_by_hand, results, video, _by_frame(faces), folder / f"by-hand-{threads}")
        tasks[SCRIPT]()  # the first call sets the number of threads
        torch.set_num_threads(threads)
        _compare(tasks[SCRIPT](), stored, found)
    found.times = in_turns(options.rounds, **tasks)
    if not options.no_network:
        expect("threads of torch at the end", torch.get_num_threads(), threads)
    for how, unit in units.items() if options.profile else ():
        found.profile += [f"{_all(how)}, {threads} threads:", *by_thread(unit.all), *profiled(unit.all)]
    return found


def _compare(by_hand: tuple[int, list[Path]], stored: dict[str, Crops], found: _Found) -> None:
    """Expect the script's boxes and crops and ours to be the same, but for rounding."""
    count, files = by_hand
    found.made[SCRIPT] = {"boxes": count, "crops": len(files)}
    names = names_of(files)
    for how in PRECISIONS:
        both = len(names & stored[how].keys())
        found.shares[how] = both / max(len(names), len(stored[how]), 1)
    found.grey = difference(files, stored["fp32"])
    boxes = found.made[_all("fp32")]["boxes"]
    expect("boxes as many as the script's, within 1 %", abs(boxes - count) <= 0.01 * count, True)
    expect("crops of fp32 as the script's, nine tenths at least", found.shares["fp32"] >= 0.9, True)
    expect("crops within 3 grey levels of the script's", found.grey < 3, True)


def _faces(people: list[tuple[int, Any]]) -> tuple[Any, Any, Any]:
    """Frame (n,), box (n, 4) and subject (n,) of the faces of drawn people."""
    import numpy as np

    names = sorted({person.subject_id for _, person in people})
    return (
        np.array([frame for frame, _ in people]),
        np.array([person.face for _, person in people], np.float32),
        np.array([names.index(person.subject_id) for _, person in people]),
    )


def _by_frame(faces: tuple[Any, Any, Any]) -> Faces:
    found: Faces = {}
    for frame, box, code in zip(*faces, strict=True):
        found.setdefault(int(frame), []).append((f"s{code:02d}", box))
    return found


def _write_boxes(place: Path, people: list[tuple[int, Any]]) -> None:
    """A file of the boxes of drawn people who show a face."""
    import pyarrow as pa

    from mdfpipe.store.parquet import write_table

    sides = zip(*(person.box for _, person in people), strict=True)
    columns = {"video_id": [KEY] * len(people), "frame": [frame for frame, _ in people]}
    write_table(place, pa.table(columns | dict(zip(("x1", "y1", "x2", "y2"), map(list, sides), strict=True))))


class _Unit:
    """One video under one detector: detect alone, and detect, label and crop in one pass, from nothing each time."""

    def __init__(
        self, detector: Any, home: Path, video: Path, faces: Any, options: argparse.Namespace, threads: int
    ) -> None:
        from mdfpipe.stages.crop import Crop
        from mdfpipe.stages.detect import Detect
        from mdfpipe.stages.label import Label
        from mdfpipe.store.run import Run
        from mdfpipe.video.decoders import Decoder

        self.run, self.how, self.frames = Run(home), {"batch": options.batch, "threads": threads}, options.frames
        annotated = annotate(self.run, *faces)
        stages = (Detect(detector=detector, decoder=Decoder.variant(options.decoder)()), Label(), Crop())
        self.detect, *self.then = (make_unit(stage, home, video, annotated=annotated) for stage in stages)

    def alone(self) -> None:
        self._again(self.detect)

    def all(self) -> None:
        self._again(replace(self.detect, then=tuple(self.then)))

    def _again(self, unit: Any) -> None:
        for stage in ("crop", "label", "detect"):
            self.run.discard(stage, KEY)
        do_unit(unit, **self.how)

    def checked(self) -> tuple[dict[str, int], Crops]:
        """What one pass makes, after a look at it: how many of each, and the bytes of the crops by name."""
        from mdfpipe.store.shards import read_crop

        with _decodings() as count:
            self.all()
        expect("times that the video was decoded", count[KEY], 1)
        labels = self.run.table("label", KEY)["status"].to_pylist()
        crops = self.run.table("crop", KEY).to_pylist()
        made = {
            "boxes": len(self.run.table("detect", KEY)),
            "labels": labels.count("labelled"),
            "crops": sum(row["status"] == "ok" for row in crops),
        }
        expect("rows of label, of detect", len(labels), made["boxes"])
        expect("body crops, and labels", sum(row["modality"] == "body" for row in crops), made["labels"])
        expect("crops that are whole", made["crops"], len(crops))
        expect("boxes and labels in half of the frames", min(made.values()) > self.frames // 2, True)
        return made, {
            (row["modality"], row["subject_id"], row["frame"]): read_crop(
                self.run.path / row["shard"], row["offset"], row["size"], row["crc32"]
            )
            for row in crops
        }


@contextmanager
def _decodings() -> Iterator[Counter[str]]:
    """How often each video is opened to be decoded."""
    from mdfpipe.video.decoders import Decoder

    count, original = Counter[str](), Decoder.frames

    def frames(self: Decoder, path: Path, **how: Any) -> Any:
        count[path.stem] += 1
        return original(self, path, **how)

    Decoder.frames = frames  # type: ignore[method-assign]
    try:
        yield count
    finally:
        Decoder.frames = original  # type: ignore[method-assign]
