"""Inputs as people have them, each of a kind that tools get wrong: what becomes of it, from the index to the manifest.

A study of one subject. The number of each frame is written into the body as 8 black or white blocks, and the body has a
head and a strip on its left, so that frame, orientation and values are read back from its crop.
"""

from __future__ import annotations

import csv
import io
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from mdfpipe.learning.train.checkpoint import Checkpoint
from mdfpipe.store.run import Run
from mdfpipe.store.shards import read_crop
from tests.runs import Said, call_here
from tests.video.tiffs import tiff

Picture = NDArray[Any]

WIDTH, HEIGHT, COUNT = 320, 240, 6
BODY_WIDTH, BODY_HEIGHT = 64, 168
TORSO, HEAD, STRIP, GROUND = (190, 60, 40), (210, 170, 130), (30, 60, 220), (40, 90, 60)


def box(frame: int) -> list[float]:
    """x1, y1, x2, y2 of the body."""
    x, y = 20 + 6 * frame + (7 if frame % 3 == 1 else 0), 40 + (frame * 5) % 17
    return [x, y, x + BODY_WIDTH, y + BODY_HEIGHT]


def face(frame: int) -> list[float]:
    """x, y, width and height of the face."""
    return [box(frame)[0] + 14, box(frame)[1] + 2, 36, 28]


def picture(frame: int) -> Picture:
    """(HEIGHT, WIDTH, 3) uint8 RGB."""
    drawn = np.full((HEIGHT, WIDTH, 3), GROUND, np.uint8)
    x1, y1, x2, y2 = map(int, box(frame))
    drawn[y1:y2, x1:x2] = TORSO
    drawn[y1 : y1 + 32, x1:x2] = HEAD
    drawn[y1:y2, x1 : x1 + 12] = STRIP
    for bit in range(8):
        row, column = divmod(bit, 2)
        y, x = y1 + 40 + row * 20, x1 + 18 + column * 20
        drawn[y : y + 16, x : x + 16] = 255 if frame >> bit & 1 else 0
    return drawn


def thermal(frame: int) -> Picture:
    """(HEIGHT, WIDTH) uint16: the same as counts of a sensor of 12 bits."""
    return (picture(frame).astype(float).mean(2) * 10 + 750).astype(np.uint16)


def number_of(crop: Picture) -> int:
    """The frame number that a crop of the body shows."""
    height, width = crop.shape[:2]
    grey, number = crop.astype(float).reshape(height, width, -1).mean(2), 0
    middle = (grey.min() + grey.max()) / 2
    for bit in range(8):
        row, column = divmod(bit, 2)
        y, x = int((48 + row * 20) / BODY_HEIGHT * height), int((26 + column * 20) / BODY_WIDTH * width)
        number |= int(grey[y - 4 : y + 5, x - 4 : x + 5].mean() > middle) << bit
    return number


def is_right(crop: Picture, exact: bool) -> bool:
    """Whether head, torso and strip lie where they do in the picture, with the values that they have there."""
    height, width = crop.shape[:2]
    for x, y, colour in ((40, 16, HEAD), (40, 145, TORSO), (6, 100, STRIP)):
        found = crop[int(y / BODY_HEIGHT * height), int(x / BODY_WIDTH * width)].astype(int)
        scale = 1 if crop.dtype == np.uint8 else 257
        expected = np.array(colour) * scale if crop.ndim == 3 else np.floor(np.mean(colour) * 10 + 750)
        if np.abs(found - expected).max() > (0 if exact else 40 * scale):
            return False
    return True


# -- making inputs


@dataclass
class Lab:
    """A data root that is being made, and what its study sets."""

    home: Path
    study: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The data root."""
        return self.home / "data"

    def video(self, name: str) -> Path:
        """Where a video, or a folder of frames, goes."""
        path = self.data / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def annotate(
        self,
        *names: str,
        count: int = COUNT,
        subject: Callable[[int], str] = lambda frame: "7",
        faces: Callable[[int], Sequence[float]] = face,
        boxes: Callable[[int], Sequence[float]] = box,
        ids: Sequence[str] = (),
    ) -> None:
        """faces.csv and boxes.csv of these videos. ids: their names, where these are not their paths less a suffix."""
        self.data.mkdir(exist_ok=True)
        frames = range(count)
        rows = [[subject(i), f"videos/{name}", 10, i, *faces(i)] for name in names for i in frames]
        head = "SUBJECT_ID,FILENAME,SIGHTING_ID,FRAME_NUM,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"
        write_csv(self.data / "faces.csv", head, rows)
        named = ids or [f"videos/{name.rpartition('.')[0] or name}" for name in names]
        found = [[name, i, *boxes(i), 0.9] for name in named for i in frames]
        write_csv(self.data / "boxes.csv", "video_id,frame,x1,y1,x2,y2,score", found)

    def run(self, *more: str) -> Said:
        """`mdfpipe run` up to the manifest, or as `more` says."""
        study: dict[str, Any] = {
            "name": "lab",
            "dataset": {"use": "ijb", "preset": "ijbc", "domain": {"constant": "VIS"}},
            "detect": {"detector": {"use": "precomputed", "boxes": "boxes.csv"}},
            "label": {"check_alignment": False},
            "manifest": {"protocol": "no-roles"},
        }
        for section, values in self.study.items():
            study[section] = {**study.get(section, {}), **values}
        path = self.home / "study.yaml"
        path.write_text(yaml.safe_dump(study), encoding="utf-8")
        base = ("run", path, "--data", self.data, "--run", self.home / "run", "--workers", "1", "--threads", "1")
        return call_here(*base, *(more or ("--until", "manifest")))

    def crops(self) -> dict[str, dict[int, Picture]]:
        """The crops of labelled bodies by video and frame, as they are stored; colour is RGB."""
        run = Run(self.home / "run")
        found: dict[str, dict[int, Picture]] = {}
        for row in run.table("manifest", "manifest").to_pylist():
            if row["modality"] == "body":
                data = read_crop(run.path / row["shard"], row["offset"], row["size"], row["crc32"])
                crop = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
                assert crop is not None
                found.setdefault(row["video_id"], {})[row["frame"]] = crop[..., ::-1] if crop.ndim == 3 else crop
        return found

    def subjects(self) -> set[str]:
        """Who is in the manifest."""
        return set(Run(self.home / "run").table("manifest", "manifest")["subject_id"].to_pylist())


def write_csv(path: Path, head: str, rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(f"{head}\n{text.getvalue()}", encoding="utf-8")


def encode(
    path: Path,
    numbers: Iterable[int] = range(COUNT),
    codec: str = "libx264",
    pixels: str = "yuv444p",
    shape: Callable[[Picture], Picture] = lambda drawn: drawn,
    matrix: Sequence[int] | None = None,
    interlaced: bool = False,
    **options: str,
) -> Path:
    """A video of these pictures, nearly without loss. matrix: how a player turns it."""
    pictures = [np.ascontiguousarray(shape(picture(number))) for number in numbers]
    settings = {"preset": "ultrafast", "crf": "4", "threads": "1", **options}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=settings)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], pixels
        if matrix is not None:
            stream.set_display_matrix([value << 16 for value in matrix])
        if interlaced:
            stream.codec_context.flags |= av.codec.context.Flags.interlaced_dct | av.codec.context.Flags.interlaced_me
        for at, drawn in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(drawn, format="rgb24").reformat(format=pixels)
            frame.pts = at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def as_folder(lab: Lab, write: Callable[[Path, int], object], names: Sequence[str], **annotation: Any) -> None:
    """videos/a, a folder of so many frames."""
    lab.annotate("a", count=len(names), **annotation)
    lab.video("a").mkdir()
    for number, name in enumerate(names):
        write(lab.video("a") / name, number)


def image(path: Path, number: int) -> None:
    """A picture as OpenCV writes it."""
    assert cv2.imwrite(str(path), np.ascontiguousarray(picture(number)[..., ::-1]))


def of_tiff(values: Callable[[int], Picture], **kind: Any) -> Callable[[Path, int], object]:
    """What writes the TIFF of a frame."""
    return lambda path, number: path.write_bytes(tiff([values(number)], **kind))


TIFFS = [f"{number:04d}.tif" for number in range(3)]


def jpeg_frames(lab: Lab) -> None:
    as_folder(lab, image, [f"{number:04d}.jpg" for number in range(COUNT)])


def rotated(lab: Lab) -> None:
    lab.annotate("a.mp4")
    turned = (0, 1, 0, -1, 0, 0, 0, 0, 1 << 14)
    encode(lab.video("a.mp4"), shape=lambda drawn: np.rot90(drawn, 1), matrix=turned)


def scaled(faces: float = 1, boxes: float = 1) -> Callable[[Lab], None]:
    """Annotation of a picture of another size, or in shares of it."""

    def make(lab: Lab) -> None:
        of = {"faces": lambda i: [v * faces for v in face(i)], "boxes": lambda i: [v * boxes for v in box(i)]}
        lab.annotate("a.mp4", **of)  # type: ignore[arg-type]
        encode(lab.video("a.mp4"))

    return make


def ros_names(lab: Lab) -> None:
    stamps = [f"{1610000000 + n * 350 // 1000}.{n * 350 % 1000 * 1000000:09d}.png" for n in range(10)]
    as_folder(lab, image, stamps)


def iso_names(lab: Lab) -> None:
    stamps = [f"2021-01-07T06-13-{20 + n * 350 // 1000}.{n * 350 % 1000:03d}Z.png" for n in range(10)]
    as_folder(lab, image, stamps)


def exif_frames(lab: Lab) -> None:
    """JPEGs as a phone writes them: lying, and EXIF says how they are turned to be shown."""

    def write(path: Path, number: int) -> None:
        data = cv2.imencode(".jpg", np.ascontiguousarray(np.rot90(picture(number), 1)[..., ::-1]))[1].tobytes()
        entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
        exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
        path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])

    as_folder(lab, write, [f"{number:04d}.jpg" for number in range(3)])


def twelve_bits(lab: Lab) -> None:
    as_folder(lab, of_tiff(thermal, bits=12, order=">"), TIFFS)


def planar(lab: Lab) -> None:
    as_folder(lab, of_tiff(lambda n: picture(n).astype(np.uint16) * 257, photometric=2, planar=2), TIFFS)


def float32(lab: Lab) -> None:
    as_folder(lab, of_tiff(lambda n: thermal(n) / 100 - 20, bits=32, kind=3), TIFFS)


def pages(big: bool) -> Callable[[Lab], None]:
    def make(lab: Lab) -> None:
        lab.annotate("a.tif", count=3, ids=["videos/a.tif"])
        lab.study["dataset"] = {"videos": ["videos/a.tif"]}
        lab.video("a.tif").write_bytes(tiff([thermal(number) for number in range(3)], big=big))

    return make


def cut_open(lab: Lab) -> None:
    """Packets from the second key frame on, as `-c copy` cuts: frames before it in time refer to what is gone."""
    lab.annotate("a.mp4", count=16, boxes=lambda frame: box(frame + 8), faces=lambda frame: face(frame + 8))
    whole = encode(
        lab.home / "whole.mkv",
        range(24),
        pixels="yuv420p",
        preset="medium",
        **{"x264-params": "open-gop=1:keyint=8:min-keyint=8:bframes=3:b-adapt=0:scenecut=0"},
    )
    with av.open(str(whole)) as source, av.open(str(lab.video("a.mp4")), "w") as container:
        stream = source.streams.video[0]
        copy, keys = container.add_stream_from_template(stream), 0
        for packet in source.demux(stream):
            keys += packet.is_keyframe
            if packet.dts is not None and keys >= 2:
                packet.stream = copy
                container.mux(packet)


def joined(lab: Lab) -> None:
    lab.annotate("a.ts", count=12)
    parts = [encode(lab.home / f"{n}.ts", range(n, n + 6), pixels="yuv420p", bf="0") for n in (0, 6)]
    lab.video("a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))


def interlaced(decoder: str) -> Callable[[Lab], None]:
    def make(lab: Lab) -> None:
        lab.annotate("a.ts")
        lab.study["detect"] = {"decoder": {"use": decoder}}
        encode(lab.video("a.ts"), pixels="yuv420p", interlaced=True, **{"x264-params": "tff=1"})

    return make


NOBODY = ["NA", "<NA>", "None", "null", "NULL", "NaN", "#N/A", ""]


def nobody(lab: Lab) -> None:
    """As R, pandas and Excel write a subject that is not known; one row has one."""
    lab.annotate("a.mp4", count=9, subject=lambda frame: [*NOBODY, "7"][frame])
    encode(lab.video("a.mp4"), range(9))


def links(setting: str) -> Callable[[Lab], None]:
    def make(lab: Lab) -> None:
        lab.annotate("a.mp4")
        lab.study["dataset"] = {"links": setting}
        (lab.home / "disk2").mkdir()
        lab.video("a.mp4").symlink_to(encode(lab.home / "disk2" / "a.mp4"))

    return make


def deep_colour(lab: Lab) -> None:
    lab.annotate("a.mp4")
    lab.study["detect"] = {"decoder": {"use": "auto", "colour_bits": 16}}
    encode(lab.video("a.mp4"), codec="libx265", pixels="yuv444p10le", **{"x265-params": "log-level=none"})


def two_depths(lab: Lab) -> None:
    lab.annotate("v8.mp4", "v10.mp4")
    encode(lab.video("v8.mp4"))
    encode(lab.video("v10.mp4"), codec="libx265", pixels="yuv444p10le", **{"x265-params": "log-level=none"})


# -- what is right


@dataclass(frozen=True)
class Right:
    """code: of the command. says: patterns of what it prints. shows: by video and frame, the number that its crop
    shows; there are no other crops. dtype: of the crops, as stored; exact: whether they have the source's very values.
    """

    make: Callable[[Lab], None]
    code: int = 0
    says: tuple[str, ...] = ()
    shows: dict[str, dict[int, int]] = field(default_factory=dict)
    dtype: type[np.generic] = np.uint8
    exact: bool = False


def each(count: int = COUNT, first: int = 0) -> dict[int, int]:
    """So many frames, which show the numbers from `first` on."""
    return {frame: frame + first for frame in range(count)}


KINDS = {
    "jpeg-frames": Right(jpeg_frames, shows={"videos/a": each()}),
    "rotated-mp4": Right(rotated, shows={"videos/a": each()}),
    "exif-frames": Right(exif_frames, shows={"videos/a": each(3)}),
    "names-iso": Right(iso_names, shows={"videos/a": each(10)}),
    "names-ros": Right(ros_names, shows={"videos/a": each(10)}),
    "tiff-12-bit": Right(twelve_bits, shows={"videos/a": each(3)}, dtype=np.uint16, exact=True),
    "tiff-planar-rgb16": Right(planar, shows={"videos/a": each(3)}, dtype=np.uint16, exact=True),
    "tiff-float32": Right(float32, 3, (r"expected whole numbers from 0 to 65535, got float32 from .*; convert",)),
    "tiff-many-pages": Right(pages(big=False), shows={"videos/a.tif": each(3)}, dtype=np.uint16, exact=True),
    "tiff-big": Right(pages(big=True), shows={"videos/a.tif": each(3)}, dtype=np.uint16, exact=True),
    "cut-open-gop": Right(cut_open, shows={"videos/a": each(16, first=8)}),
    "joined-ts": Right(joined, says=(r"several recordings .*videos/a: 2",), shows={"videos/a": each(12)}),
    "interlaced-pyav": Right(interlaced("pyav"), shows={"videos/a": each()}),
    "interlaced-opencv": Right(interlaced("opencv"), 3, (r"a\.ts: is interlaced, .* use pyav",)),
    "subject-na": Right(nobody, says=(r"8 missing_subject",), shows={"videos/a": {8: 8}}),
    "links-inside": Right(links("inside"), 2, (r"symlink to .*; put .* dataset\.links=follow",)),
    "links-follow": Right(links("follow"), shows={"videos/a": each()}),
    "faces-of-4k-video": Right(scaled(faces=2), says=(r"videos/a.*no labelled body",)),
    "faces-in-0-1": Right(scaled(faces=1 / 320), 2, (r"0\.\.1",)),
    "boxes-in-0-1": Right(scaled(boxes=1 / 320), 3, (r"0\.\.1",)),
    "visible-10-bits-as-16": Right(deep_colour, shows={"videos/a": each()}, dtype=np.uint16),
    "visible-8-and-10-bits": Right(two_depths, shows={"videos/v8": each(), "videos/v10": each()}),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_becomes_of_it(name: str, tmp_path: Path) -> None:
    right, lab = KINDS[name], Lab(tmp_path)
    right.make(lab)
    said = lab.run().calm()
    assert said.code == right.code, said
    for pattern in right.says:
        assert re.search(pattern, said.out + said.err), said
    if said.code:
        return
    crops = lab.crops()
    assert {video: sorted(found) for video, found in crops.items()} == {v: sorted(f) for v, f in right.shows.items()}
    for video, found in crops.items():
        assert {frame: number_of(crop) for frame, crop in found.items()} == right.shows[video]
        assert {crop.dtype for crop in found.values()} == {np.dtype(right.dtype)}
        assert all(is_right(crop, right.exact) for crop in found.values())
    assert lab.subjects() == {"7"}


def test_checkpoints_as_people_have_them(tmp_path: Path) -> None:
    """NumPy's arrays and scalars beside the tensors need no trust; averaged weights beside the raw ones are told."""
    import torch

    from mdfpipe.learning.models.face import FaceModel

    lab = Lab(tmp_path)
    as_folder(lab, image, ["0.png", "1.png"])
    net = FaceModel(18, 8, 32, 2, {"margin": 0.4, "quality": 0.333, "scale": 64.0, "average": 0.01})
    state = {f"model.{name}": value for name, value in net.backbone.state_dict().items()}
    moved = {name: value + 0.01 * value.is_floating_point() for name, value in state.items()}
    files = {
        "agw.t": {"net": state, "cmc": np.linspace(0, 1, 20), "mAP": np.float64(0.5), "epoch": 12},
        "ema.pth": {"state_dict": moved, "state_dict_ema": state},
    }
    for name, content in files.items():
        torch.save(content, lab.data / name)
    recipe = {"use": "face", "layers": 18, "width": 8, "image_height_px": 32, "image_width_px": 32}
    recipe["schedule"] = {"length": 0, "warm_up": 0}  # type: ignore[assignment]
    lab.study["systems"] = {name.partition(".")[0]: {"weights": name, "recipe": recipe} for name in files}
    said = lab.run("--until", "train").calm()
    assert said.code == 0, said
    assert re.search(
        r"ema\.pth: took `state_dict`; the file also has averaged weights, `state_dict_ema`", said.out + said.err
    )
    taken = Checkpoint.load(lab.home / "run" / "train" / "agw" / "last.pt").model
    first = next(name for name in taken if name.startswith("backbone."))
    assert torch.equal(taken[first], state["model." + first.removeprefix("backbone.")])
