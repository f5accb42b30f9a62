"""What is measured: one video, as the stages are given it, and the parts that earlier stages would have made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEY = "clip"  # the video_id of the benches that have one video


def video_row(path: Path) -> dict[str, Any]:
    """The columns of the videos table that a stage reads."""
    from mdfpipe.store.hashing import stamp
    from mdfpipe.video.probe import probe

    info = probe(path)
    return {
        **{"sha256": None, "stamp": stamp(path)},
        **{"video_id": KEY, "path": path.name, "band": "VIS", "problem": None, "n_frames": info.frames_declared},
        **{"bit_depth": info.bit_depth, "width": info.width, "height": info.height, "fps": info.fps},
    }


def make_unit(
    stage: Any, run: Path, video: Path, row: dict[str, Any] | None = None, annotated: dict[str, str] | None = None
) -> Any:
    """A unit of the stage. annotated: what `annotate` gave."""
    from mdfpipe.running.execution import Unit
    from mdfpipe.stages import Inputs
    from mdfpipe.store.run import Receipt, Run

    receipt = Receipt(stage.name, stage.version, KEY, {}, {})
    return Unit(
        stage, receipt, Inputs(Run(run), video=row or video_row(video), annotated=annotated or {}), video.parent
    )


def do_unit(unit: Any, **resources: Any) -> Any:
    """One unit as a worker does it, its commit included: the event that ends it."""
    from mdfpipe.running.execution import run_unit
    from mdfpipe.stages import Resources

    event = run_unit(unit, Resources(**resources), lambda event: None)
    if event.failure is not None:
        raise SystemExit(f"scripts/bench: {unit}: {event.failure.message}\n{event.failure.traceback}")
    return event


def drawn_video(path: Path, frames: int, width: int, height: int, fps: int = 10) -> Path:
    """Four drawn people who walk, in colour, as H.264."""
    return as_h264(path, drawn_pictures(frames, width, height, fps)[0], fps)


def drawn_pictures(
    frames: int, width: int, height: int, fps: int, domain: str = "VIS-500m"
) -> tuple[Iterator[Any], Any]:
    """Pictures of the synthetic data set's own kind, before quantisation where they are thermal; and their optics."""
    clip = walk(frames, width, height, fps, domain)
    return (clip.frame(number)[0] for number in range(frames)), clip.optics


def walk(frames: int, width: int, height: int, fps: int, domain: str = "VIS-500m", *, facing: bool = False) -> Any:
    """A clip of four people. facing: all come towards the camera."""
    from mdfpipe.domains import Domain
    from mdfpipe.synth.people import draw_subject
    from mdfpipe.synth.scene import Clip

    place = Domain.parse(domain)
    scene = 2 if place.band.is_thermal else 1  # scene pixels across one sensor pixel
    people, size = [draw_subject(0, f"1000{n}") for n in range(1, 5)], (scene * height, scene * width)
    return Clip(people, place, frames, fps=fps, size=size, seed=[0], facing=facing)


def as_h264(path: Path, pictures: Iterator[Any], fps: int) -> Path:
    """8-bit pictures, (H, W, 3) RGB or (H, W), as a camera would write them: with CABAC and the deblocking filter.

    The synthetic data set's own files have neither and are quicker to decode.
    """
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "20", "bf": "0"})
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(pictures):
            if not number:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24" if image.ndim == 3 else "gray")
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
                    packet.pts, packet.dts = (packet.pts or 0) + offset, packet.dts + offset
                    end = max(end, packet.pts + (packet.duration or 0))
                    packet.stream = stream
                    output.mux(packet)
            offset = end
    return target


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

    from mdfpipe.stages.detect import Detect
    from mdfpipe.store.run import Receipt
    from mdfpipe.store.tables import BODIES

    number = np.arange(len(frame)) - np.searchsorted(frame, frame)
    body_id = [f"{KEY}/{f:06d}/{n:02d}" for f, n in zip(frame.tolist(), number.tolist(), strict=True)]
    planes = list(np.ascontiguousarray(bodies.T))
    columns = [body_id, [KEY] * len(frame), frame, frame / 10.0, *planes, np.full(len(frame), 0.9, np.float32)]
    columns.append([None] * len(frame))  # no file of boxes says who it is
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, BODIES, strict=True)], schema=BODIES)
    seen = {"width": width, "height": height, "delivered": int(frame[-1]) + 1, "decoder": decoder}
    facts = {**seen, "stride": 1, "window": None}
    run.commit(Receipt("detect", 1, KEY, {}, {}, facts=facts, tells=Detect.tells), table, {})
    return table


def annotate(run: Any, frame: Any, faces: Any, subject: Any) -> dict[str, str]:
    """Write the faces that the index would have listed; gives the digest of their table by its name."""
    import numpy as np
    import pyarrow as pa

    from mdfpipe.store.hashing import file_sha256
    from mdfpipe.store.run import faces_file, write_table
    from mdfpipe.store.tables import FACES

    planes, names = list(np.ascontiguousarray(faces.T)), [f"s{code:02d}" for code in subject.tolist()]
    columns = [[KEY] * len(frame), frame, subject, names, *planes]
    place = run.path / faces_file(KEY)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_table(place, pa.table([pa.array(c, f.type) for c, f in zip(columns, FACES, strict=True)], schema=FACES))
    return {faces_file(KEY): file_sha256(place)}
