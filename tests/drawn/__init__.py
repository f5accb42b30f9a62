"""A small drawn data set: four people, two domains, with faces, body boxes and galleries.

It shows every status that labelling can give and lets every command run without licensed data. It is a
drawing, not a model of anything: nothing measured on it says how well people are recognised.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, FRAMES, FPS = 320, 240, 48, 12
HEAD_SHARE = 1 / 7  # the head's share of a person's height


@dataclass(frozen=True)
class Person:
    """How one subject looks and walks. Positions are pixels; speed is pixels a frame."""

    subject_id: str
    gallery: str
    height: float
    cloth: tuple[int, int, int]  # RGB in VIS; its mean sets the warmth in LWIR
    trousers: tuple[int, int, int]
    start: float
    speed: float
    ground: float
    faces_camera: bool = True

    def box(self, frame: int) -> tuple[float, float, float, float]:
        """The body's box, (x1, y1, x2, y2)."""
        x = self.start + self.speed * frame + 3 * np.sin(frame / 2.5)
        y = self.ground + 2 * np.sin(frame / 1.3)
        half = self.height * 0.17
        return (x - half, y - self.height, x + half, y)

    def face(self, frame: int) -> tuple[float, float, float, float]:
        """The face's box within the head."""
        x1, y1, x2, _ = self.box(frame)
        head, centre = self.height * HEAD_SHARE, (x1 + x2) / 2
        return (centre - head * 0.36, y1 + head * 0.2, centre + head * 0.36, y1 + head)


CAST = (
    Person("s01", "1", 150, (196, 60, 50), (40, 50, 90), 40, 3.6, 225),
    Person("s02", "1", 118, (60, 140, 70), (90, 80, 70), 290, -3.4, 205),
    Person("s03", "2", 140, (70, 90, 190), (60, 60, 60), 80, 3.0, 220),
    Person("s04", "2", 112, (220, 190, 80), (110, 60, 40), 230, -2.2, 200),
    Person("s05", "2", 96, (150, 150, 155), (70, 90, 110), 160, 0.8, 190, faces_camera=False),
)
VIDEOS = (
    ("VIS-500m_a", "VIS-500m", ("s01", "s02")),
    ("VIS-500m_b", "VIS-500m", ("s03", "s04", "s05")),
    ("LWIR-30m_a", "LWIR-30m", ("s01", "s02")),
    ("LWIR-30m_b", "LWIR-30m", ("s03", "s04", "s05")),
)


def draw(folder: Path, frames: int = FRAMES) -> None:
    """Write the data set into `folder`: videos/, faces.csv, boxes.csv, galleries/. The same bytes every time.

    VIS is H.264 in mp4; LWIR is 16-bit FFV1 in mkv.
    """
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    (folder / "galleries").mkdir(exist_ok=True)
    faces: list[list[Any]] = []
    boxes: list[list[Any]] = []
    for seed, (name, domain, cast) in enumerate(VIDEOS):
        people = [p for p in CAST if p.subject_id in cast]
        thermal = domain.startswith("LWIR")
        path = folder / "videos" / f"{name}{'.mkv' if thermal else '.mp4'}"
        _encode(path, _frames(people, thermal, frames, seed), "ffv1" if thermal else "libx264")
        for frame in range(frames):
            for person in people:
                x1, y1, x2, y2 = person.box(frame)
                if x2 < 8 or x1 > WIDTH - 8:
                    continue  # out of the picture
                boxes.append([f"videos/{name}", frame, *(f"{v:.2f}" for v in (x1, y1, x2, y2)), "0.900"])
                if person.faces_camera and x1 > 0 and x2 < WIDTH:
                    fx1, fy1, fx2, fy2 = person.face(frame)
                    size = (f"{v:.2f}" for v in (fx1, fy1, fx2 - fx1, fy2 - fy1))
                    faces.append([person.subject_id, f"videos/{path.name}", seed + 1, frame, *size])
    face_header = "SUBJECT_ID,FILENAME,SIGHTING_ID,FRAME_NUM,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"
    _write_csv(folder / "faces.csv", face_header, faces)
    _write_csv(folder / "boxes.csv", "video_id,frame,x1,y1,x2,y2,score", boxes)
    for gallery in ("1", "2"):
        members = [[i, p.subject_id] for i, p in enumerate(CAST, start=1) if p.gallery == gallery]
        _write_csv(folder / "galleries" / f"gallery_G{gallery}.csv", "TEMPLATE_ID,SUBJECT_ID", members)


def _write_csv(path: Path, header: str, rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(header + "\n")
        csv.writer(file, lineterminator="\n").writerows(rows)


def _frames(people: list[Person], thermal: bool, count: int, seed: int) -> Iterator[NDArray[Any]]:
    """The pictures of one video: (H, W, 3) uint8 in VIS, (H, W) uint16 around 7000 in LWIR."""
    import cv2

    generator = np.random.default_rng(seed)
    ramp = np.linspace(150, 90, HEIGHT)[:, None] + 12 * np.sin(np.arange(WIDTH) / 23.0)[None, :]
    for frame in range(count):
        canvas = np.repeat(ramp[..., None], 3, axis=2) * (0.35 if thermal else 1.0)
        for person in sorted(people, key=lambda p: p.ground):
            _paint(canvas, person, frame, thermal)
        canvas = cv2.GaussianBlur(canvas, (0, 0), 0.8) + generator.normal(0, 3.0, (HEIGHT, WIDTH, 1))
        shown = np.clip(canvas, 0, 255)
        yield (6700 + shown[..., 0] * 2.5).astype(np.uint16) if thermal else shown.astype(np.uint8)


def _paint(canvas: NDArray[np.float64], person: Person, frame: int, thermal: bool) -> None:
    """Head, arms, torso and two walking legs, into `canvas` (H, W, 3)."""
    import cv2

    def colour(rgb: tuple[int, int, int], warmth: float) -> tuple[float, ...]:
        return (warmth + 0.15 * float(np.mean(rgb)),) * 3 if thermal else tuple(float(c) for c in rgb)

    def at(x: float, y: float) -> tuple[int, int]:
        return round(x), round(y)

    x1, y1, x2, y2 = person.box(frame)
    head, centre, height = person.height * HEAD_SHARE, (x1 + x2) / 2, person.height
    cloth, trousers = colour(person.cloth, 110), colour(person.trousers, 90)
    skin = colour((222, 184, 150), 205) if person.faces_camera else colour((70, 50, 40), 120)
    swing, leg = 0.11 * height * np.sin(frame / 1.3), max(2, round(0.075 * height))
    for side in (-1, 1):
        hip, foot = at(centre + side * 0.05 * height, y1 + 0.52 * height), at(centre + side * swing, y2 - leg / 2)
        cv2.line(canvas, hip, foot, trousers, leg, cv2.LINE_AA)
        shoulder = at(centre + side * 0.1 * height, y1 + 0.2 * height)
        cv2.line(canvas, shoulder, at(centre + side * 0.13 * height, y1 + 0.48 * height), cloth, leg, cv2.LINE_AA)
    chest = at(centre + 0.1 * height, y1 + 0.55 * height)
    cv2.rectangle(canvas, at(centre - 0.1 * height, y1 + head), chest, cloth, -1)
    cv2.ellipse(canvas, at(centre, y1 + head / 2), at(head * 0.38, head * 0.5), 0, 0, 360, skin, -1, cv2.LINE_AA)


def _encode(path: Path, frames: Iterator[NDArray[Any]], codec: Literal["libx264", "ffv1"]) -> None:
    """Write frames as H.264 (yuv420p) or FFV1 (gray16le), so that the same frames give the same bytes.

    That takes one thread, `bitexact`, and x264's ultrafast preset: at medium, 8 encodings of 24 frames in one
    process gave 3 to 5 different files (PyAV 18.1), at ultrafast always the same.
    """
    import av
    from av.video.stream import VideoStream

    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=FPS)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "gray16le" if codec == "ffv1" else "yuv420p"
        stream.codec_context.thread_count = 1
        if codec == "libx264":
            stream.options = {"crf": "18", "preset": "ultrafast"}
        for pixels in frames:
            deep = pixels.dtype == np.uint16
            picture = av.VideoFrame.from_ndarray(pixels, format="gray16le" if deep else "rgb24")
            container.mux(stream.encode(picture if deep else picture.reformat(format="yuv420p")))
        container.mux(stream.encode())
