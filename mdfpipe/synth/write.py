"""A synthetic data set on disk: videos, faces and galleries in the style of IJB, and the truth beside them.

    OUT/synth.json                what it is: preset, seed, version; `complete` once it is
    OUT/videos/<domain>/*.mp4     H.264; of MWIR and LWIR every other session is 16-bit FFV1 in .mkv
    OUT/faces.csv                 one row for each face that can be seen
    OUT/galleries/gallery_G1.csv  subjects of a gallery; no subject stands in both
    OUT/truth/bodies.parquet      where every body really is: no stage reads it

The same seed gives the same bytes, with any number of workers. Kill it anywhere: the same command goes on.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdfpipe.errors import ConfigError, StoreError
from mdfpipe.processes import die_with_parent
from mdfpipe.store.naming import file_name
from mdfpipe.store.run import TEMPORARY, cannot_write, read_table, write_atomically, write_table
from mdfpipe.store.tables import TRUTH
from mdfpipe.synth.people import Subject, draw_subject
from mdfpipe.synth.presets import GALLERIES, LARGEST_GALLERY, PRESETS, Cast, Preset, casts, seed_of, subject_ids

VERSION = 1  # raise it when the same seed gives other pixels or rows
NOTE = "rendered people, not real ones: nothing measured here says how well real people are recognised"
FACES_HEADER = "SUBJECT_ID,FILENAME,SIGHTING_ID,FRAME_NUM,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT,YAW"
_FACES = pa.schema([("line", pa.string())])

Progress: TypeAlias = Callable[[int, int], None]  # frames done, of so many


@dataclass(frozen=True)
class Written:
    """What lies in the folder: counts of a finished data set. drawn: videos that this call drew."""

    folder: Path
    subjects: int
    videos: int
    frames: int
    bodies: int
    faces: int
    drawn: int


def write_dataset(
    out: Path,
    preset: str,
    *,
    seed: int = 0,
    subjects: int | None = None,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> Written:
    """Write the data set `preset` of PRESETS into `out`, or what is missing of it there.

    subjects: of each gallery, instead of the preset's. Raises ConfigError where `out` holds anything else,
    StoreError where it cannot be written.
    """
    chosen = _preset(preset, subjects)
    what = {"preset": preset, **asdict(chosen), "seed": seed, "version": VERSION}
    videos = list(casts(chosen, seed))
    _claim(out, what)
    try:
        missing = [cast for cast in videos if not _drawn(out, cast)]
        total = sum(cast.frames for cast in videos)
        done = total - sum(cast.frames for cast in missing)
        progress(done, total)
        for cast in _draw_all(out, missing, chosen, seed, workers):
            done += cast.frames
            progress(done, total)
        bodies, faces = _write_tables(out, videos, chosen)
        write_atomically(out / "synth.json", _described(what, complete=True))
    except OSError as error:
        raise StoreError(cannot_write(out, error)) from error
    return Written(out, len(GALLERIES) * chosen.subjects, len(videos), total, bodies, faces, len(missing))


def _preset(name: str, subjects: int | None) -> Preset:
    if name not in PRESETS:
        raise ConfigError(f"--preset {name!r:.40}: expected one of {', '.join(PRESETS)}")
    if subjects is None:
        return PRESETS[name]
    if not 2 <= subjects <= LARGEST_GALLERY:
        raise ConfigError(f"--subjects {subjects}: expected 2 to {LARGEST_GALLERY} in each gallery")
    return replace(PRESETS[name], subjects=subjects)


def _described(what: dict[str, Any], complete: bool) -> bytes:
    return json.dumps({**what, "note": NOTE, "complete": complete}, indent=1).encode()


def _claim(out: Path, what: dict[str, Any]) -> None:
    """Make `out` ours. Raises ConfigError where it holds other files, or another synthetic data set."""
    place = out / "synth.json"
    try:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out}: expected a folder, found a file; name a new folder")
        if not place.exists():
            if out.exists() and any(p for p in out.iterdir() if not p.name.startswith(TEMPORARY)):
                raise ConfigError(f"{out}: holds files that are no synthetic data set; name a new folder")
            out.mkdir(parents=True, exist_ok=True)
            write_atomically(place, _described(what, complete=False))
        found = json.loads(place.read_text())
        other = [
            f"{name} {found.get(name)!r:.40}, not {value!r}" for name, value in what.items() if found.get(name) != value
        ]
    except (OSError, ValueError, AttributeError) as error:
        if isinstance(error, OSError):
            raise StoreError(cannot_write(place, error)) from error
        raise ConfigError(f"{place}: expected the description of a synthetic data set; name a new folder") from None
    if other:
        raise ConfigError(f"{out}: holds a data set with {'; '.join(other)}; name a new folder")


# --- one video -----------------------------------------------------------------------------------------------------


def video_path(cast: Cast) -> str:
    """Where a video lies under the data root."""
    return cast.name + (".mkv" if cast.deep else ".mp4")


def _parts(out: Path, cast: Cast) -> tuple[Path, Path]:
    """The truth and face rows of one video, kept so that a killed call can be continued."""
    return tuple(out / "truth" / "parts" / f"{file_name(cast.name)}.{kind}.parquet" for kind in ("bodies", "faces"))  # type: ignore[return-value]


def _drawn(out: Path, cast: Cast) -> bool:
    return (out / video_path(cast)).exists() and all(part.exists() for part in _parts(out, cast))


def _draw_all(out: Path, missing: list[Cast], preset: Preset, seed: int, workers: int) -> Iterator[Cast]:
    """Draw videos in processes of their own, the longest first; gives each when it is done."""
    if workers == 1 or len(missing) < 2:
        for cast in missing:
            yield _draw_video(out, cast, preset, seed)
        return
    initial = (os.getpid(),)
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=die_with_parent, initargs=initial) as pool:
        jobs = [pool.submit(_draw_video, out, cast, preset, seed) for cast in missing]
        try:
            for job in as_completed(jobs):
                yield job.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _draw_video(out: Path, cast: Cast, preset: Preset, seed: int) -> Cast:
    """Draw one video and its rows: the rows first, then the video, each renamed into place."""
    import cv2

    cv2.setNumThreads(1)
    from mdfpipe.synth.scene import Clip, Seen

    height, width = scene_size(cast, preset.scale)
    clip = Clip(
        [_subject(seed, subject) for subject in cast.subjects],
        cast.domain,
        cast.frames,
        fps=preset.fps,
        size=(height, width),
        seed=seed_of(seed, cast.name),
        crowded=cast.crowded,
    )
    rows: list[tuple[int, Seen]] = []

    def pictures() -> Iterator[NDArray[Any]]:
        for number in range(cast.frames):
            picture, seen = clip.frame(number)
            rows.extend((number, person) for person in seen)
            yield picture

    target = out / video_path(cast)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")
    encode(temporary, quantised(pictures(), clip.optics, cast.deep), preset.fps)
    bodies, faces = _parts(out, cast)
    bodies.parent.mkdir(parents=True, exist_ok=True)
    for place, table in ((bodies, _truth(cast, rows)), (faces, _face_lines(cast, rows))):
        beside = place.with_name(f"{TEMPORARY}{os.getpid()}-{place.name}")
        write_table(beside, table)
        beside.replace(place)
    temporary.replace(target)
    return cast


@cache
def _subject(seed: int, subject_id: str) -> Subject:
    return draw_subject(seed, subject_id)


def scene_size(cast: Cast, scale: int = 1) -> tuple[int, int]:
    """(height, width) of the scene that is drawn; thermal sensors deliver half of it."""
    height, width = (288, 512) if cast.domain.band.is_thermal else (360, 640)
    return height * scale, width * scale


def quantised(pictures: Iterable[NDArray[Any]], optics: Any, deep: bool) -> Iterator[NDArray[Any]]:
    """Pictures as a camera delivers them: (H, W, 3) or (H, W) uint8; deep: (H, W) uint16.

    The 8-bit window of a grey camera is set by the clip's first picture.
    """
    from mdfpipe.synth.bands import agc_window, to_8bit, to_16bit

    for picture in pictures:
        if picture.dtype == np.uint8:
            yield picture
        elif deep:
            yield to_16bit(picture, optics)
        else:
            if optics.window is None:
                optics = replace(optics, window=agc_window(picture))
            yield to_8bit(picture, optics)


def _truth(cast: Cast, rows: list[Any]) -> pa.Table:
    columns = {
        "video_id": [cast.name] * len(rows),
        "domain": [str(cast.domain)] * len(rows),
        "frame": [number for number, _ in rows],
        "subject_id": [seen.subject_id for _, seen in rows],
        **{name: [seen.box[k] for _, seen in rows] for k, name in enumerate(("x1", "y1", "x2", "y2"))},
        "visible": [seen.visible for _, seen in rows],
        "face_annotated": [seen.face is not None for _, seen in rows],
        "crowded": [cast.crowded] * len(rows),
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in TRUTH], schema=TRUTH)


def _face_lines(cast: Cast, rows: list[Any]) -> pa.Table:
    """The lines of faces.csv that belong to one video."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, seen in rows:
        if seen.face is None:
            continue
        x1, y1, x2, y2 = seen.face
        sighting = cast.sighting + cast.subjects.index(seen.subject_id)
        box = (f"{value:.2f}" for value in (x1, y1, x2 - x1, y2 - y1))
        writer.writerow([seen.subject_id, video_path(cast), sighting, number, *box, f"{seen.yaw_degrees:.1f}"])
    return pa.table([text.getvalue().splitlines()], schema=_FACES)


def encode(path: Path, pictures: Iterator[NDArray[Any]], fps: int) -> None:
    """Write pictures as H.264 (uint8) or FFV1 (uint16), the same bytes for the same pictures.

    That takes one thread, `bitexact`, yuv420p, and x264's ultrafast preset: at medium, 8 encodings of 24 frames in
    one process gave 3 to 5 different files (PyAV 18.1), at ultrafast always the same.
    """
    import av
    from av.video.stream import VideoStream

    first = next(pictures)
    deep, kind = first.dtype == np.uint16, "rgb24" if first.ndim == 3 else "gray"
    container_format = "matroska" if deep else "mp4"
    with av.open(str(path), "w", format=container_format, container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1" if deep else "libx264", rate=fps)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "gray16le" if deep else "yuv420p"
        stream.codec_context.thread_count = 1
        if not deep:
            stream.options = {"crf": "18", "preset": "ultrafast"}
        for pixels in _chain(first, pictures):
            picture = av.VideoFrame.from_ndarray(pixels, format="gray16le" if deep else kind)
            container.mux(stream.encode(picture if deep else picture.reformat(format="yuv420p")))
        container.mux(stream.encode())


def _chain(first: NDArray[Any], rest: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    yield first
    yield from rest


# --- the tables ----------------------------------------------------------------------------------------------------


def _write_tables(out: Path, videos: list[Cast], preset: Preset) -> tuple[int, int]:
    """faces.csv, the galleries and the truth; gives how many bodies and faces they hold."""
    lines = [FACES_HEADER]
    truth = []
    for cast in videos:
        bodies, faces = _parts(out, cast)
        truth.append(read_table(bodies))
        lines += read_table(faces)["line"].to_pylist()
    (out / "galleries").mkdir(exist_ok=True)
    for gallery in GALLERIES:
        members = [f"{n},{subject}" for n, subject in enumerate(subject_ids(gallery, preset.subjects), start=1)]
        text = "\n".join(["TEMPLATE_ID,SUBJECT_ID", *members, ""])
        write_atomically(out / "galleries" / f"gallery_G{gallery}.csv", text.encode())
    table = pa.concat_tables(truth)
    temporary = out / "truth" / f"{TEMPORARY}{os.getpid()}-bodies.parquet"
    write_table(temporary, table)
    temporary.replace(out / "truth" / "bodies.parquet")
    write_atomically(out / "faces.csv", "\n".join([*lines, ""]).encode())
    return table.num_rows, len(lines) - 1
