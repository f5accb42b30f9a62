"""A synthetic data set on disk: videos, faces and galleries in the style of IJB, and the truth.

    OUT/synth.json                what it is: preset, seed, version; `complete` once it is
    OUT/videos/<domain>/*.mp4     H.264; of MWIR and LWIR every other session is 16-bit FFV1 in .mkv
    OUT/faces.csv                 one row for each face that can be seen
    OUT/galleries/gallery_G1.csv  subjects of a gallery; no subject is in both
    OUT/truth/bodies.parquet      where every body really is: no stage reads it

The same seed gives the same bytes, with any number of workers. After a kill, the same command continues.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdfpipe.errors import ConfigError
from mdfpipe.store.files import write_atomically
from mdfpipe.store.parquet import write_table
from mdfpipe.store.run import read_table
from mdfpipe.store.tables import TRUTH
from mdfpipe.synth import folder
from mdfpipe.synth.folder import Share, here
from mdfpipe.synth.people import draw_subject
from mdfpipe.synth.presets import (
    DOMAINS,
    GALLERIES,
    LARGEST_GALLERY,
    PRESETS,
    Cast,
    Preset,
    casts,
    seed_of,
    subject_ids,
)

if TYPE_CHECKING:
    from mdfpipe.synth.scene import Seen

VERSION = 1  # raise it when the same seed gives other pixels or rows
FACES_HEADER = "SUBJECT_ID,FILENAME,SIGHTING_ID,FRAME_NUM,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT,YAW"
_FACES = pa.schema([("line", pa.string())])

FOLDERS = (*(f"videos/{domain}" for domain in DOMAINS), "galleries", "truth/parts", "truth")


@dataclass(frozen=True)
class Written:
    """Counts of a finished data set in its folder. drawn: videos that this call drew."""

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
    share: Share = here,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write the data set `preset` of PRESETS into `out`, or what is missing of it there.

    subjects: of each gallery, instead of the preset's. seed: 0 or more. share: draws the videos. progress(done,
    total): frames that this call draws. Raises ConfigError where `out` holds anything else, DataError where a folder in
    it leads out of it, StoreError where it cannot be written or another call is writing it, MdfError where a video
    cannot be drawn.
    """
    chosen = _preset(preset, subjects)
    if seed < 0:
        raise ConfigError(f"--seed {seed}: expected 0 or more")
    what = {"preset": preset, **asdict(chosen), "seed": seed, "version": VERSION}
    if not chosen.away:  # as before there was such a preset
        del what["away"]
    videos = list(casts(chosen, seed))
    with folder.claimed(out, what, FOLDERS) as lease, folder.writing(out):
        missing = [cast for cast in videos if not folder.drawn(out, cast.name, cast.path)]
        if missing:
            write_atomically(out / folder.DESCRIPTION, folder.described(what, complete=False))

        tell = folder.counting(sum(cast.frames for cast in missing), progress, lease.check)
        longest_first = sorted(missing, key=lambda cast: -cast.frames * len(cast.subjects))
        for _ in share(_draw_video, [(out, cast, chosen, seed) for cast in longest_first], tell):
            pass
        lease.check(now=True)
        bodies, faces = _write_tables(out, videos, chosen)
        write_atomically(out / folder.DESCRIPTION, folder.described(what, complete=True))
    frames = sum(cast.frames for cast in videos)
    return Written(out, len(GALLERIES) * chosen.subjects, len(videos), frames, bodies, faces, len(missing))


def _preset(name: str, subjects: int | None) -> Preset:
    if name not in PRESETS:
        raise ConfigError(f"--preset {name!r:.40}: expected one of {', '.join(PRESETS)}")
    if subjects is None:
        return PRESETS[name]
    if not 2 <= subjects <= LARGEST_GALLERY:
        raise ConfigError(f"--subjects {subjects}: expected 2 to {LARGEST_GALLERY} in each gallery")
    return replace(PRESETS[name], subjects=subjects)


# --- one video -----------------------------------------------------------------------------------------------------


def _draw_video(out: Path, cast: Cast, preset: Preset, seed: int, tell: Callable[[int], None]) -> None:
    """Draw one video and its rows. Raises OSError, MdfError; `tell` is called with 1 after each frame."""
    from mdfpipe.synth.scene import Clip

    rows: list[tuple[int, Seen]] = []
    with folder.drawing(str(out / cast.path)), folder.beside(out / cast.path) as temporary:
        people = [_subject(seed, subject) for subject in cast.subjects]
        clip = Clip(
            people,
            cast.domain,
            cast.frames,
            fps=preset.fps,
            size=cast.scene_size(preset.scale),
            seed=seed_of(seed, cast.name),
            crowded=cast.crowded,
            facing=cast.facing,
            away=cast.away,
        )

        def pictures() -> Iterator[NDArray[Any]]:
            for number in range(cast.frames):
                picture, seen = clip.frame(number)
                rows.extend((number, person) for person in seen)
                yield picture
                tell(1)

        encode(temporary, quantised(pictures(), clip.optics, cast.deep), preset.fps)
        folder.keep_rows(out, cast.name, _truth(cast, rows), _face_lines(cast, rows), temporary.stat().st_size)


_subject = cache(draw_subject)


def quantised(pictures: Iterable[NDArray[Any]], optics: Any, deep: bool) -> Iterator[NDArray[Any]]:
    """Pictures as a camera delivers them: (H, W, 3) or (H, W) uint8; deep: (H, W) uint16.

    The 8-bit window of a grey camera is set by the clip's first picture.
    """
    from mdfpipe.synth.bands import agc_window, to_8bit, to_16bit

    for picture in pictures:
        if picture.dtype == np.uint8:
            yield picture
        elif deep:
            yield to_16bit(picture)
        else:
            if optics.window is None:
                optics = replace(optics, window=agc_window(picture))
            yield to_8bit(picture, optics)


def _truth(cast: Cast, rows: list[tuple[int, Seen]]) -> pa.Table:
    fixed = {"video_id": cast.name, "domain": str(cast.domain), "crowded": cast.crowded}
    found = [
        dict(zip(("x1", "y1", "x2", "y2"), seen.box, strict=True))
        | {"frame": n, "subject_id": seen.subject_id, "visible": seen.visible, "face_annotated": seen.face is not None}
        | fixed
        for n, seen in rows
    ]
    return pa.Table.from_pylist(found, TRUTH)


def _face_lines(cast: Cast, rows: list[tuple[int, Seen]]) -> pa.Table:
    """The lines of faces.csv that belong to one video."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, seen in rows:
        if seen.face is None:
            continue
        x1, y1, x2, y2 = seen.face
        sighting = cast.sighting + cast.subjects.index(seen.subject_id)
        box = (f"{value:.2f}" for value in (x1, y1, x2 - x1, y2 - y1))
        writer.writerow([seen.subject_id, cast.path, sighting, number, *box, f"{seen.yaw_degrees:.1f}"])
    return pa.table([text.getvalue().splitlines()], schema=_FACES)


def encode(path: Path, pictures: Iterator[NDArray[Any]], fps: int) -> None:
    """Write pictures as H.264 (uint8) or FFV1 of level 3 with checksums (uint16), the same bytes for the same pictures.

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
        # without a level, FFmpeg chooses one
        stream.options = {"level": "3", "slicecrc": "1"} if deep else {"crf": "18", "preset": "ultrafast"}
        for pixels in chain([first], pictures):
            picture = av.VideoFrame.from_ndarray(pixels, format="gray16le" if deep else kind)
            container.mux(stream.encode(picture if deep else picture.reformat(format="yuv420p")))
        container.mux(stream.encode())


# --- the tables ----------------------------------------------------------------------------------------------------


def _write_tables(out: Path, videos: list[Cast], preset: Preset) -> tuple[int, int]:
    """Write faces.csv, the galleries and the truth; return the numbers of bodies and faces."""
    lines = [FACES_HEADER]
    truth = []
    for cast in videos:
        bodies, faces = folder.parts(out, cast.name)
        truth.append(read_table(bodies).replace_schema_metadata(None))
        lines += read_table(faces)["line"].to_pylist()
    for gallery in GALLERIES:
        members = [f"{n},{subject}" for n, subject in enumerate(subject_ids(gallery, preset.subjects), start=1)]
        text = "\n".join(["TEMPLATE_ID,SUBJECT_ID", *members, ""])
        (out / "galleries").mkdir(exist_ok=True)
        _keep(out / "galleries" / f"gallery_G{gallery}.csv", text.encode())
    table = pa.concat_tables(truth)
    with folder.beside(out / "truth" / "bodies.parquet") as temporary:
        write_table(temporary, table)
    _keep(out / "faces.csv", "\n".join([*lines, ""]).encode())
    return table.num_rows, len(lines) - 1


def _keep(place: Path, data: bytes) -> None:
    """Write a table unless it is there: a table with a new time would have every run indexed again."""
    if not place.exists() or place.read_bytes() != data:
        write_atomically(place, data)
