"""Odd containers through the stages: the crops are of the right frame and upright, and what is odd is said."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mdfpipe.store.images import decode
from mdfpipe.store.shards import read_crop
from mdfpipe.video.orientation import turned
from tests import clips
from tests.inline import runner
from tests.video.test_decoders_contract import write, write_streams
from tests.video.test_orientation import DIRECTIONS, matrix_of

WIDTH, HEIGHT, FRAMES = 320, 240, 6
STUDY = """
dataset: {use: ijb, preset: ijbc, domain: {constant: VIS}}
detect: {detector: {use: precomputed, boxes: boxes.csv}}
label: {check_alignment: false}
crop: {body_height_px: 240, body_width_px: 320, faces: false}
manifest: {protocol: no-roles}
"""
HEAD = "SUBJECT_ID,FILENAME,SIGHTING_ID,FRAME_NUM,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[dict[str, object]]]:
    """The run over five odd videos whose only body is the whole picture; warnings; rows of the index."""
    home = tmp_path_factory.mktemp("odd")
    videos = home / "data/videos"
    videos.mkdir(parents=True)
    with av.open(str(videos / "rotated.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.set_display_matrix(matrix_of(*DIRECTIONS[6]).tolist())
        for number in range(FRAMES):
            stored = turned(clips.picture(number, HEIGHT, WIDTH), 8)
            frame = av.VideoFrame.from_ndarray(stored).reformat(format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    parts = [clips.write_video(home / f"{n}.ts", 3, first=3 * n, size=(WIDTH, HEIGHT)).read_bytes() for n in (0, 1)]
    (videos / "joined.ts").write_bytes(b"".join(parts))
    write_streams(videos / "two.mkv", [(160, 120), (WIDTH, HEIGHT)])
    write(videos / "deep.mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none:bframes=0", "crf": "8"})
    with av.open(str(videos / "oblong.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(clips.picture(number, HEIGHT, WIDTH)).reformat(format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    counts = {"rotated.mp4": FRAMES, "joined.ts": FRAMES, "two.mkv": 3, "deep.mp4": 2, "oblong.mkv": FRAMES}
    faces, boxes = [HEAD], ["video_id,frame,x1,y1,x2,y2,score"]
    for name, count in counts.items():
        scale = 2 if name == "deep.mp4" else 1
        for n in range(count):
            faces.append(f"7,videos/{name},10,{n},{100 * scale},{20 * scale},{40 * scale},{40 * scale}")
            boxes.append(f"videos/{Path(name).stem},{n},0,0,{WIDTH * scale},{HEIGHT * scale},0.9")
    (home / "data/faces.csv").write_text("\n".join(faces) + "\n")
    (home / "data/boxes.csv").write_text("\n".join(boxes) + "\n")
    (home / "odd.yaml").write_text(STUDY)
    make, _ = runner(home / "data", home / "run", study=home / "odd.yaml")
    outcome = make.execute()
    assert outcome.complete, outcome.failures
    return home / "run", outcome.warnings, make.run.table("index", "videos").to_pylist()


def test_crops_are_of_their_frame_and_upright(made: tuple[Path, list[str], list[dict[str, object]]]) -> None:
    from mdfpipe.store.run import Run

    run, _, rows = made
    for row in rows:
        crops = [c for c in Run(run).table("crop", row["video_id"]).to_pylist() if c["shard"]]
        assert crops
        for crop in crops:
            image = decode(read_crop(run / crop["shard"], crop["offset"], crop["size"], crop["crc32"]), crop["crop_id"])
            assert (image.dtype, image.shape) == (np.uint8, (HEIGHT, WIDTH, 3)), row["video_id"]
            if row["video_id"] != "videos/deep":
                assert clips.number_of(image) == crop["frame"], row["video_id"]
                drawn = clips.picture(crop["frame"], HEIGHT, WIDTH).astype(int)
                assert np.abs(image - drawn).mean() < 8, row["video_id"]


def test_what_is_odd_is_recorded_and_said(made: tuple[Path, list[str], list[dict[str, object]]]) -> None:
    _, warnings, rows = made
    by_id = {row["video_id"]: row for row in rows}
    rotated = by_id["videos/rotated"]
    assert (rotated["width"], rotated["height"], rotated["orientation"]) == (WIDTH, HEIGHT, 6)
    two = by_id["videos/two"]
    assert (two["width"], two["stream"], two["other_streams"]) == (WIDTH, 1, "0 (h264, 160x120)")
    assert by_id["videos/deep"]["bit_depth"] == 10
    assert by_id["videos/oblong"]["pixel_aspect"] == pytest.approx(4 / 3, abs=0.01)
    said = "\n".join(warnings)
    for expected in (
        "1 video holds several video streams",
        "1 video has pixels that are not square (videos/oblong: 1.33 times as wide as high)",
        "1 video consists of several recordings one behind the other, with times that start again (videos/joined: 2)",
    ):
        assert expected in said
