"""Decoders: one contract for every file of the folder, exact pixels and times, and what each says of broken files."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from mdfpipe.errors import DecodeError
from mdfpipe.video.ahead import ahead, in_turn
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.packets import packets
from tests import clips
from tests.video.decoded import ASSETS, needs_assets, read

WALK = ASSETS / "real-walk" / "videos"

VIDEO = [name for name in Decoder.choices() if name != "images"]
FASTSTART = {"movflags": "+faststart"}
B_FRAMES = {"bf": "2", "b_strategy": "0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def sound(folder):
    """An mp4 with B frames and its index first, 40 frames."""
    return clips.write_video(folder / "sound.mp4", 40, options=B_FRAMES, mux=FASTSTART)


@pytest.mark.parametrize("name", Decoder.choices())
def test_contract(name, sound, folder):
    path = sound
    if name == "images":
        path = clips.write_images(folder / "numbered", [clips.picture(n) for n in range(40)])
    decoder = Decoder.variant(name)()
    assert decoder.use == name
    stream = decoder.frames(path, stride=3, batch=4)
    batches = list(stream)
    index = np.concatenate([b.index for b in batches])
    assert index.tolist() == list(range(0, 40, 3))
    assert stream.delivered == 40
    pixels = np.concatenate([b.pixels for b in batches])
    assert pixels.shape == (14, clips.HEIGHT, clips.WIDTH, 3)
    assert [clips.number_of(image) for image in pixels] == index.tolist()
    pts = np.concatenate([b.pts_seconds for b in batches])
    assert np.isnan(pts).all() if name == "images" else np.allclose(pts, index / 10)
    everything, _, error = read(name, path)
    assert error is None
    assert np.array_equal(np.stack(everything)[::3], pixels), "a stride changes no pixel"
    for broken in (folder / "nothing.mp4", folder / "nothing"):
        assert read(name, broken)[2]


@pytest.mark.parametrize("name", VIDEO)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("a.mkv", {"options": B_FRAMES}),
        ("a.avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
        ("hevc.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
        ("grey.mkv", {"codec": "ffv1", "pixel_format": "gray"}),
        ("times.mp4", {"times": [500, 607, 728, 900, 1400, 1500, 1501, 2000, 2001, 3000], "options": B_FRAMES}),
        ("times.mkv", {"times": [500, 607, 728, 900, 1400, 1500, 1501, 2000, 2001, 3000]}),
        ("vp8.webm", {"codec": "libvpx"}),
        ("wide.mp4", {"size": (102, 66), "options": B_FRAMES}),
    ],
)
def test_all_give_the_same_pixels_and_times(name, threads, file, settings, folder):
    path = folder / file
    if not path.exists():
        clips.write_video(path, 10, **settings)
    expected, times, _ = read("pyav", path)
    pixels, seconds, error = read(name, path, threads=threads)
    assert error is None
    assert len(pixels) == 10
    assert np.array_equal(np.stack(pixels), np.stack(expected))
    assert seconds == pytest.approx(times)
    assert times * 1000 == pytest.approx(settings.get("times", range(0, 1000, 100)))


@pytest.mark.parametrize("name", ["pyav", "opencv"])
def test_transport_stream(name, folder):
    """decord 0.6 does not get through a sound ts: it raises, and its next candidate takes over."""
    path = clips.write_video(folder / "a.ts", 20, options=B_FRAMES)
    pixels, times, error = read(name, path)
    assert (len(pixels), error) == (20, None)
    assert times[0] > 0, "the first time of a ts is not 0"
    assert [clips.number_of(p) for p in pixels] == list(range(20))
    assert read("decord", path)[2] is not None


def test_b_frames_in_avi(folder):
    """avi holds no presentation times; those that FFmpeg makes up come in decoding order."""
    path = clips.write_video(folder / "b.avi", 20, options=B_FRAMES)
    for name in VIDEO:
        pixels, times, error = read(name, path)
        assert error is None
        assert [clips.number_of(p) for p in pixels] == list(range(20)), name
        assert np.diff(times) == pytest.approx(0.1), name


@pytest.mark.parametrize("suffix", ["mkv", "ts", "mp4"])
def test_cut_open_at_a_key_frame(folder, suffix):
    """The frames that lead the first key frame and refer to what was cut off are no loss."""
    settings = "log-level=none:keyint=20:min-keyint=20:open-gop=1:bframes=3:b-adapt=0"
    source = clips.write_video(folder / "open.mkv", 60, codec="libx265", options={"x265-params": settings})
    path = clips.cut_open(source, folder / f"cut.{suffix}")
    pixels, _, error = read("pyav", path)
    assert error is None
    numbers = [clips.number_of(p) for p in pixels]
    assert numbers[0] in (20, 40), "the key frame that x265 chose"
    assert numbers == list(range(numbers[0], 60))
    assert suffix == "mp4" or len(packets(path).times) > len(numbers), "there are leading frames"


def test_interlaced(folder):
    path = clips.write_video(folder / "i.ts", 20, codec="mpeg2video", fps=25, options={"flags": "+ildct+ilme"})
    pixels, _, error = read("pyav", path)
    assert (len(pixels), error) == (20, None)


def test_grey_is_the_plane_itself(folder):
    path = clips.write_video(folder / "grey8.mkv", 3, codec="ffv1", pixel_format="gray")
    for name in VIDEO:
        pixels, _, _ = read(name, path)
        assert np.array_equal(pixels[2], np.repeat(clips.grey8(2)[..., None], 3, axis=2)), name


@pytest.mark.parametrize("file", ["a.mkv", "a.avi", "be.nut"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("width", [96, 102])
def test_deep_grey_is_exact(tmp_path, file, bits, width):
    settings = {"codec": "ffv1", "pixel_format": f"gray{bits}le"}
    if file == "be.nut":
        if bits != 16:
            pytest.skip("raw big-endian grey has a tag for 16 bits only")
        settings = {"codec": "rawvideo", "pixel_format": "gray16be"}
    path = clips.write_video(tmp_path / file, 4, size=(width, 62), **settings)
    for name in ("pyav", "auto"):
        pixels, _, error = read(name, path)
        assert error is None
        assert len(pixels) == 4
        for number, image in enumerate(pixels):
            assert (image.dtype, image.shape) == (np.uint16, (62, width, 1))
            assert np.array_equal(image[..., 0], clips.grey16(number, 62, width, bits))
    for name in ("decord", "opencv"):
        pixels, _, error = read(name, path)
        assert pixels == []
        assert "use pyav" in error


def test_deep_colour(tmp_path):
    path = clips.write_video(tmp_path / "a.mkv", 3, pixel_format="yuv420p10le")
    pixels, _, error = read("auto", path)
    assert error is None
    assert (pixels[0].dtype, pixels[0].shape) == (np.uint16, (clips.HEIGHT, clips.WIDTH, 3))
    assert np.abs((pixels[0] >> 8).astype(int) - clips.picture(0)).mean() < 10
    assert "use pyav" in read("decord", path)[2]


@pytest.mark.parametrize(("fails_at", "words"), [(9, "of the source"), (2, "of the work")])
def test_in_turn_gives_what_comes_before_an_error_of_either_side(fails_at, words):
    def source():
        yield from range(3)
        raise DecodeError("of the source")

    def work(item):
        if item == fails_at:
            raise DecodeError("of the work")
        return 10 * item

    found = []
    with pytest.raises(DecodeError, match=words):
        found.extend(in_turn(work, source()))
    assert found == [(item, 10 * item) for item in range(min(fails_at, 3))]
    assert list(in_turn(work, [])) == []


def test_ahead_keeps_the_order_gives_an_error_in_its_place_and_ends():
    made = []

    def source(fails_at):
        try:
            for n in range(10**9):
                if n == fails_at:
                    raise DecodeError("frame 4")
                made.append(n)
                yield n
        finally:
            made.append("closed")

    items, given = ahead(source(4)), []
    with pytest.raises(DecodeError, match="frame 4"):
        given.extend(items)
    endless = ahead(source(None))
    assert [next(endless), next(endless)] == [0, 1]
    endless.close()
    assert given == [0, 1, 2, 3]
    assert (made[-1], len(made) < 14) == ("closed", True), "a few items ahead, no more"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode-ahead")]


def test_candidates(sound, folder):
    def names(path):
        return [d.use for d in Decoder.variant("auto")().candidates(path)]

    assert names(sound) == ["pyav"]
    assert [d.use for d in Decoder.variant("decord")().candidates(sound)] == ["decord", "pyav"]
    assert names(clips.write_video(folder / "a.gif", 5, codec="gif", pixel_format="rgb8")) == ["pyav"]
    assert names(clips.write_video(folder / "deep.mkv", 2, codec="ffv1", pixel_format="gray16le")) == ["pyav"]
    assert names(clips.write_images(folder / "seq", [clips.picture(0)])) == ["images"]
    assert names(clips.overreporting(clips.write_video(folder / "o.mp4", 9), folder / "liar.mp4", 900)) == ["pyav"]


def test_header_that_lies(folder):
    """The packets are all there and decode: pyav and OpenCV give them, decord (which may hang) is not even asked."""
    path = clips.overreporting(clips.write_video(folder / "p.mp4", 12), folder / "liar2.mp4", 1200)
    assert len(packets(path).times) == 12
    for name in ("pyav", "auto", "opencv"):
        pixels, _, error = read(name, path)
        assert (len(pixels), error) == (12, None), name
    assert "declares 1200 frames, the container holds 12" in read("decord", path)[2]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("file", ["t.mp4", "t.mkv", "t.ts", "t.avi"])
def test_truncated(file, threads, folder):
    settings = {"codec": "mjpeg", "pixel_format": "yuvj420p"} if file == "t.avi" else {"options": B_FRAMES}
    whole = clips.write_video(folder / file, 40, mux=FASTSTART if file == "t.mp4" else None, **settings)
    reference, times, _ = read("pyav", whole)
    short = clips.truncated(whole, folder / f"short-{file}", 0.603)
    pixels, seconds, error = read("pyav", short, threads=threads)
    assert 10 < len(pixels) < 40
    assert f"frame {len(pixels)} " in error
    assert all(np.array_equal(a, b) for a, b in zip(pixels, reference, strict=False))
    assert np.array_equal(seconds, times[: len(seconds)])
    for name in VIDEO:
        assert read(name, short)[2], f"{name} hides that the file is cut"


@pytest.mark.parametrize("threads", [1, 2])
def test_damaged(threads, folder):
    """pyav gives the frames before the damage, and no other. decord and OpenCV cannot tell: FFmpeg patches it up."""
    # The damage hits the same bits each time only where the video has the same bytes: x264 needs ultrafast for that.
    sound = clips.write_video(folder / "same.mp4", 40, options={"preset": "ultrafast"}, mux=FASTSTART)
    reference, _, _ = read("pyav", sound)
    damaged = clips.flipped(sound, folder / "damaged.mp4", [0.6, 0.65, 0.7, 0.8])
    pixels, _, error = read("pyav", damaged, threads=threads)
    assert 5 < len(pixels) < 40
    assert f"frame {len(pixels)} does not decode" in error
    assert all(np.array_equal(a, b) for a, b in zip(pixels, reference, strict=False))
    stream = Decoder.variant("pyav")().frames(damaged, batch=1000, threads=threads)
    batches = iter(stream)
    assert len(next(batches)) == stream.delivered == len(pixels), "a batch begun is given before the error"
    with pytest.raises(DecodeError):
        next(batches)


@pytest.mark.parametrize("codec", ["mjpeg", "libx264"])
def test_a_frame_that_vanishes_is_noticed(codec, tmp_path):
    """Zeros over the whole of one frame's data."""
    settings = {"codec": codec, "pixel_format": "yuvj420p"} if codec == "mjpeg" else {"options": {"g": "1"}}
    path = clips.write_video(tmp_path / "a.avi", 20, **settings)
    data = bytearray(path.read_bytes())
    at = [i for i in range(data.index(b"movi"), len(data) - 4) if data[i : i + 4] == b"00dc"][10]
    length = int.from_bytes(data[at + 4 : at + 8], "little")
    data[at + 8 : at + 8 + length] = bytes(length)
    path.write_bytes(data)
    pixels, _, error = read("pyav", path)
    assert len(pixels) == 10
    assert "frame 10 " in error


def test_decord_leaves_opencv_whole(sound):
    """In a process that decodes with decord first, OpenCV still reads and writes PNG (its zlib must load first)."""
    script = """
import sys; from pathlib import Path
from mdfpipe.video.decoders import Decoder
next(Decoder.variant("decord")().read(Path(sys.argv[1]), lambda number: True, 1))
import cv2, numpy as np
image = np.arange(4096, dtype=np.uint16).reshape(64, 64)
assert np.array_equal(cv2.imdecode(cv2.imencode(".png", image)[1], -1), image)
"""
    subprocess.run([sys.executable, "-c", script, str(sound)], check=True)


@needs_assets
@pytest.mark.parametrize("name", ["auto", "pyav", "opencv"])
def test_real_gif(name):
    pixels, times, error = read(name, WALK / "face-demographics-walking.gif", stride=5)
    assert error is None
    assert len(pixels) == 35
    assert pixels[30].shape == (270, 480, 3)
    assert np.diff(times) == pytest.approx(1 / 12.5, abs=0.02)


@needs_assets
@pytest.mark.parametrize("name", VIDEO)
def test_real_mp4(name):
    path = WALK / "one-by-one-person-detection.mp4"
    pixels, times, error = read(name, path, stride=100)
    assert error is None
    assert len(pixels) == 1394
    assert (pixels[1300].shape, pixels[1].__class__) == ((432, 768, 3), type(None))
    assert times[[0, 1, -1]] == pytest.approx([0, 0.1, 139.3])
