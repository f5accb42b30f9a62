"""Every decoder at a real size: depths, ranges, matrices, interlacing, several streams; the same pixels, or refused."""

import subprocess
import sys

import av
import numpy as np
import pytest

from mdfpipe.errors import DecodeError
from mdfpipe.video.containers import missing_end
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.packets import packets
from mdfpipe.video.probe import probe
from tests import clips
from tests.video.decoded import read

WIDTH, HEIGHT, FRAMES = 640, 480, 2
FAST = {"preset": "ultrafast", "crf": "8"}
# x265 reads a time of decoding it never set where a clip is shorter than its delay for B frames: no B frames here.
QUIET = {"preset": "ultrafast", "crf": "8", "x265-params": "log-level=none:bframes=0"}


def write(path, codec, pixel_format, options=None, colour_range=None, matrix=None):
    """Two frames of `clips.picture` at 640x480, with the tags of a colour range and a matrix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        tags = {"dst_colorspace": matrix, "dst_color_range": colour_range}
        if colour_range:
            stream.codec_context.color_range = colour_range
        if matrix:
            stream.codec_context.colorspace = matrix
        for number in range(FRAMES):
            picture = av.VideoFrame.from_ndarray(clips.picture(number, HEIGHT, WIDTH))
            frame = picture.reformat(format=pixel_format, **tags)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def given(name, path, **settings):
    frames = Decoder.variant(name)(**settings).frames(path)
    return np.concatenate([batch.pixels for batch in frames])


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format", "rest"),
    [
        ("mp4", "libx264", "yuv420p", {"options": FAST}),
        ("mp4", "libx264", "yuv444p", {"options": FAST}),
        ("mp4", "libx264", "yuvj420p", {"options": FAST, "colour_range": 2}),
        ("mp4", "libx264", "yuv420p", {"options": FAST, "colour_range": 2}),
        ("mp4", "libx264", "yuv420p", {"options": FAST, "colour_range": 1, "matrix": 1}),
        ("mp4", "libx264", "yuv420p", {"options": FAST, "colour_range": 1, "matrix": 5}),
        ("mp4", "libx265", "yuv420p", {"options": QUIET}),
        ("avi", "mjpeg", "yuvj422p", {}),
        ("mkv", "mpeg2video", "yuv420p", {"options": {"qmax": "4"}}),
        ("mkv", "ffv1", "bgr0", {}),
        ("avi", "rawvideo", "yuv420p", {}),
    ],
)
def test_eight_bits(suffix, codec, pixel_format, rest, tmp_path):
    """Full and limited range, BT.601 and BT.709: every decoder gives the same pixels, near those that were drawn."""
    path = write(tmp_path / f"a.{suffix}", codec, pixel_format, **rest)
    expected = given("pyav", path)
    drawn = np.stack([clips.picture(n, HEIGHT, WIDTH) for n in range(FRAMES)]).astype(int)
    assert np.abs(expected - drawn).mean() < 5
    for name in ("auto", "opencv", "decord"):
        assert np.array_equal(given(name, path), expected), name


@pytest.mark.parametrize(
    ("codec", "pixel_format", "options"),
    [
        ("libx265", "yuv420p10le", QUIET),
        ("libx265", "yuv444p12le", QUIET),
        ("libx264", "yuv420p10le", FAST),
        ("ffv1", "yuv422p10le", {}),
        ("ffv1", "gbrp10le", {}),
    ],
)
def test_colour_above_eight_bits(codec, pixel_format, options, tmp_path):
    """8 bits in VIS and NIR, like the same video of 8 bits; 16 beyond, or where it is asked."""
    path = write(tmp_path / "a.mkv", codec, pixel_format, options)
    drawn = np.stack([clips.picture(n, HEIGHT, WIDTH) for n in range(FRAMES)]).astype(int)
    for name in ("auto", "pyav", "opencv", "decord"):
        decoder = Decoder.variant(name)()
        assert (decoder.of_band("VIS").colour_bits, decoder.of_band("LWIR").colour_bits) == (8, 16)
        narrow = given(name, path, colour_bits=8)
        assert narrow.dtype == np.uint8
        assert np.abs(narrow - drawn).mean() < 5, "chroma of 4:2:0 is spread in other ways, mean 1.5 apart at most"
    wide = given("pyav", path, colour_bits=16)
    assert wide.dtype == np.uint16
    assert np.abs(np.rint(wide / 257) - given("pyav", path, colour_bits=8)).mean() < 1.5
    for name in ("opencv", "decord"):
        with pytest.raises(DecodeError, match="use pyav"):
            given(name, path, colour_bits=16)


@pytest.mark.parametrize("pixel_format", ["gray10le", "gray12le", "gray16le"])
def test_grey_above_eight_bits_keeps_its_values(pixel_format, tmp_path):
    size = (WIDTH, HEIGHT)
    path = clips.write_video(tmp_path / "a.mkv", FRAMES, codec="ffv1", pixel_format=pixel_format, size=size)
    for bits in (8, 16, "band"):
        pixels = given("auto", path, colour_bits=bits)
        assert np.array_equal(pixels[1, ..., 0], clips.grey16(1, HEIGHT, WIDTH, int(pixel_format[4:6])))
        for name in ("opencv", "decord"):
            with pytest.raises(DecodeError, match="use pyav"):
                given(name, path, colour_bits=bits)


INTERLACED = [
    ("ts", "libx264", {**FAST, "flags": "+ildct+ilme", "x264-params": "tff=1"}),
    ("mp4", "libx264", {**FAST, "flags": "+ildct+ilme", "x264-params": "bff=1"}),
    ("mpg", "mpeg2video", {"flags": "+ildct+ilme", "qmax": "4"}),
    ("mkv", "mpeg4", {"flags": "+ildct+ilme", "qmax": "4"}),
]


@pytest.mark.parametrize(("suffix", "codec", "options"), INTERLACED)
def test_interlaced(suffix, codec, options, tmp_path):
    """The frames as they are coded, both fields in one; OpenCV, which gives black for them, refuses them."""
    path = write(tmp_path / f"a.{suffix}", codec, "yuv420p", options)
    drawn = np.stack([clips.picture(n, HEIGHT, WIDTH) for n in range(FRAMES)]).astype(int)
    assert np.abs(given("pyav", path) - drawn).mean() < 6
    assert probe(path).is_interlaced
    assert "is interlaced" in read("opencv", path)[2]
    pixels, _, error = read("decord", path)
    assert error or np.abs(np.stack(pixels) - drawn).mean() < 6


def test_interlaced_from_some_frame_on(tmp_path):
    """OpenCV then gives the frame before once more: refused at that frame."""
    calm = clips.write_video(tmp_path / "a.h264", 4, size=(320, 240))
    lines = clips.write_video(
        tmp_path / "b.h264", 4, first=4, size=(320, 240), options={"flags": "+ildct+ilme", "x264-params": "tff=1"}
    )
    path = tmp_path / "both.h264"
    path.write_bytes(calm.read_bytes() + lines.read_bytes())
    assert [clips.number_of(p) for p in read("pyav", path)[0]] == list(range(8))
    pixels, _, error = read("opencv", path)
    assert [clips.number_of(p) for p in pixels] == list(range(len(pixels)))
    assert f"frame {len(pixels)}: is interlaced" in error


def write_streams(path, sizes, default=None):
    """A video with a stream of each size; `default` is the only one marked so."""
    marks = av.stream.Disposition
    with av.open(str(path), "w") as container:
        streams = []
        for width, height in sizes:
            stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        for place, stream in enumerate(streams):
            if default is not None:
                stream.disposition = marks.default if place == default else marks(0)
        for number in range(3):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(clips.picture(number, stream.height, stream.width))
                frame = frame.reformat(format="yuv420p")
                frame.pts = number
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("suffix", "default", "expected"),
    [("mkv", None, 1), ("mkv", 0, 0), ("mp4", 2, 2), ("ts", None, 1), ("avi", None, 1)],
)
def test_several_streams(suffix, default, expected, tmp_path):
    sizes = [(160, 120), (320, 240), (96, 64)]
    path = write_streams(tmp_path / f"a.{suffix}", sizes, default)
    info = probe(path)
    assert (info.stream, info.streams, len(info.others)) == (expected, 3, 2)
    for which in (None, 0, 1, 2):
        width, height = sizes[expected if which is None else which]
        assert given("auto", path, stream=which).shape == (3, height, width, 3)
        assert len(packets(path, which).times) == 3
    for name in ("opencv", "decord"):
        for which in (None, 0):
            if name == "opencv" and (expected if which is None else which) == 0:
                assert given(name, path, stream=which).shape[2] == sizes[0][0]
                continue
            with pytest.raises(DecodeError, match="use pyav"):
                given(name, path, stream=which)
    with pytest.raises(DecodeError, match=r"expected a video stream 3 .*: 0 \(h264, 160x120\), 1 .*choose one"):
        given("auto", path, stream=3)


def test_a_gif_with_the_marks_of_a_transport_stream(tmp_path):
    """Its byte 188 is 0x47, as is its first: what it is says the container that FFmpeg opened."""
    path = clips.write_video(tmp_path / "a.gif", 5, codec="gif", pixel_format="rgb8")
    data = bytearray(path.read_bytes())
    assert data[10] & 0x80, "byte 188 is in the palette"
    data[188] = 0x47
    path.write_bytes(data)
    assert missing_end(path, probe(path).container) is None
    for name in ("auto", "opencv", "decord"):
        pixels, _, error = read(name, path)
        assert (len(pixels), error) == (5, None) or name == "decord"


def test_no_library_writes_to_the_screen(tmp_path):
    """FFmpeg inside OpenCV and decord has words for what it meets: they would come from every worker."""
    calm = clips.write_video(tmp_path / "a.mp4", 20, options={"bf": "2"}, mux={"movflags": "+faststart"})
    bad = [
        clips.flipped(calm, tmp_path / "flipped.mp4", [0.6, 0.65, 0.7, 0.8]),
        clips.truncated(calm, tmp_path / "short.mp4", 0.6),
        clips.write_video(tmp_path / "i.ts", 4, codec="mpeg2video", fps=25, options={"flags": "+ildct+ilme"}),
        tmp_path / "nothing.mp4",
    ]
    script = """
import sys; from pathlib import Path
from mdfpipe.errors import DecodeError
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.decoders.opencv import _open, _retrieve
for path in map(Path, sys.argv[1:]):
    for name in ("pyav", "opencv", "decord"):
        try:
            for _ in Decoder.variant(name)().read(path, lambda number: True, 2): pass
        except DecodeError: pass
    try:
        capture = _open(path, 1)
        while capture.grab(): _retrieve(capture, path, 0)
    except DecodeError: pass
"""
    done = subprocess.run([sys.executable, "-c", script, *map(str, bad)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
