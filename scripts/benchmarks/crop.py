"""the crop stage against decoding alone"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.material import (
    KEY,
    annotate,
    commit_detections,
    do_unit,
    drawn_video,
    make_unit,
    remuxed,
    three_a_frame,
    video_row,
)
from benchmarks.measure import Report, expect, in_turns, in_worker, profiled, ratio

CUT = "cut, resize, encode, measure alone"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--video", type=Path, help="cut from this clip instead of the drawn one")
    parser.add_argument("--frames", type=int, default=200, help="frames of the drawn clip (200)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the worker (1 2)")
    parser.add_argument("--rounds", type=int, default=5)


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    if options.video is None:
        source = drawn_video(folder / "clip.mp4", options.frames, 1280, 720)
    else:
        source = remuxed(options.video, folder / f"clip{options.video.suffix}")
    for threads in options.threads:
        frames, crops, times, profile = in_worker(_crop, source, folder, options, threads, threads=threads)
        tag = f"{threads} thread{'s' * (threads > 1)}"
        for name, measured in times.items():
            report.add(f"{tag}: {name}", measured.rate(frames), "frames/s")
        report.add(f"{tag}: crop stage", times["crop stage"].rate(crops), "crops/s")
        report.add(f"{tag}: stage / decode alone", ratio(times["decode alone"].wall, times["crop stage"].wall), "")
        report.add(f"{tag}: stage / cutting alone", ratio(times[CUT].wall, times["crop stage"].wall), "")
        report.profile += profile
    what = options.video.name if options.video else "drawn clip at 1280x720"
    report.notes.append(f"{what}: {frames} frames, {crops} crops (3 bodies 384x128 and 3 faces 112x112 a frame)")


def _crop(video: Path, folder: Path, options: argparse.Namespace, threads: int) -> Any:
    from mdfpipe.stages.crop import Crop
    from mdfpipe.stages.label import Label
    from mdfpipe.store import images
    from mdfpipe.store.run import Run
    from mdfpipe.video import cropping
    from mdfpipe.video.ahead import ahead
    from mdfpipe.video.decoders.auto import Auto

    decoder, row, run = Auto().candidates(video)[0], video_row(video), Run(folder / "run")
    count = sum(len(batch) for batch in decoder.frames(video, threads=threads))
    frame, bodies, faces, subject = three_a_frame(count, row["width"], row["height"])
    commit_detections(run, frame, bodies, row["width"], row["height"], decoder.use)
    annotated = annotate(run, frame, faces, subject)
    do_unit(make_unit(Label(check_alignment=False), run.path, video, annotated=annotated))
    unit = make_unit(Crop(), run.path, video, annotated=annotated)
    rows = do_unit(unit, threads=threads).rows
    made = run.table("crop", KEY, ["status"])["status"].to_pylist()
    expect("crops that are whole, 3 bodies and 3 faces a frame", made.count("ok"), 6 * count)
    held = next(iter(decoder.frames(video)))

    def cut_all() -> None:
        for number in range(count):
            image = held.pixels[number % len(held)]
            for n in range(3 * number, 3 * number + 3):
                box = cropping.pixel_box(bodies[n], image.shape[1], image.shape[0])
                assert box is not None
                crop = images.resize(cropping.cut(image, box), 128, 384)
                face = images.resize(cropping.cut(image, cropping.square_box(faces[n], 0.1)), 112, 112)
                for each in (crop, face):
                    images.encode(each)
                    cropping.quality(each, (0.0, 255.0))

    times = in_turns(
        options.rounds,
        **{
            "decode alone": lambda: [len(batch) for batch in decoder.frames(video, threads=threads)],
            "decode alone, in the decode-ahead thread": lambda: [
                len(batch) for batch in ahead(decoder.frames(video, threads=threads))
            ],
            CUT: cut_all,
            "crop stage": lambda: do_unit(unit, threads=threads),
        },
    )
    return count, rows, times, profiled(lambda: do_unit(unit, threads=threads)) if options.profile else []
