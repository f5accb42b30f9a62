"""Decoders: one contract for every file of the folder, exact pixels and times, and what each says of broken files."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mdfpipe.errors import DecodeError
from mdfpipe.video import probe
from mdfpipe.video.decoders import Decoder, images
from mdfpipe.video.probe import packet_times
from tests import clips

ASSETS = Path(
    os.environ.get("MDFPIPE_TEST_ASSETS") or Path(__file__).parents[2].parent / "shared" / "assets"
)  # real inputs, no part of the repository
needs_assets = pytest.mark.skipif(not (ASSETS / "real-walk").is_dir(), reason=f"the real inputs are not at {ASSETS}")
WALK = ASSETS / "real-walk" / "videos"

VIDEO = [name for name in Decoder.choices() if name != "images"]
FASTSTART = {"movflags": "+faststart"}
B_FRAMES = {"bf": "2", "b_strategy": "0"}


def read(name, path, stride=1, threads=1):
    """Everything that a decoder gives before it ends or raises: (pixels, times, error)."""
    pixels, times, error = [], [], None
    try:
        for image, seconds in Decoder.variant(name)().read(path, lambda number: number % stride == 0, threads):
            pixels.append(image)
            times.append(seconds)
    except DecodeError as e:
        error = str(e)
        assert "\n" not in error
    return pixels, np.array(times), error


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
    assert suffix == "mp4" or len(packet_times(path)) > len(numbers), "there are leading frames"


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
    assert len(packet_times(path)) == 12
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


def test_images_deep_and_grey(tmp_path):
    grey = [clips.grey16(n) for n in range(3)]
    for path in (
        clips.write_images(tmp_path / "png", grey, "{}v.png", [1800, 1801, 1810]),
        clips.write_images(tmp_path / "tif", grey, "{}.tif", [9, 10, 11]),
        clips.write_tiff(tmp_path / "pages.tiff", grey),
    ):
        pixels, times, error = read("auto", path)
        assert error is None
        assert np.isnan(times).all()
        assert np.array_equal(np.stack(pixels), np.stack(grey)[..., None])
    colour = [np.stack([g, g + 1, g + 2], axis=2) for g in grey]
    assert np.array_equal(np.stack(read("images", clips.write_images(tmp_path / "c", colour))[0]), np.stack(colour))
    narrow = [clips.grey8(0)]
    assert read("images", clips.write_images(tmp_path / "g", narrow))[0][0].shape == (clips.HEIGHT, clips.WIDTH, 3)
    with_alpha = np.dstack([clips.picture(1), np.full((clips.HEIGHT, clips.WIDTH), 7, np.uint8)])
    folder = clips.write_images(tmp_path / "a", [with_alpha[..., [3, 0, 1, 2]]])  # written reversed: BGR and alpha
    assert np.array_equal(read("images", folder)[0][0], clips.picture(1))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_image_cut_short(tmp_path, suffix):
    images = [clips.picture(n) for n in range(3)]
    folder = clips.write_images(tmp_path / "f", images, "{}." + suffix)
    clips.truncated(folder / f"1.{suffix}", folder / f"1.{suffix}", 0.6)
    pixels, _, error = read("images", folder)
    assert len(pixels) == 1
    assert f"1.{suffix}: frame 1 does not decode" in error


PAGES = 60


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """A TIFF of many pages of one strip each, read 16 at a time, and the calls of imreadmulti: (start, count)."""
    import cv2

    path = clips.write_tiff(tmp_path / "pages.tiff", [clips.grey16(n) for n in range(PAGES)])
    calls, imreadmulti = [], cv2.imreadmulti

    def spy(name, start, count, flags):
        calls.append((start, count))
        return imreadmulti(name, start=start, count=count, flags=flags)

    monkeypatch.setattr(cv2, "imreadmulti", spy)
    monkeypatch.setattr(images, "_BLOCK_PAGES", 16)
    return path, calls


@pytest.mark.parametrize("stride", [1, 3, 11, 100])
def test_pages_are_read_in_blocks(pages, stride):
    path, calls = pages
    pixels, _, error = read("images", path, stride=stride)
    assert error is None
    assert len(pixels) == PAGES
    for number, image in enumerate(pixels):
        if number % stride:
            assert image is None
        else:
            assert np.array_equal(image[..., 0], clips.grey16(number))
    assert all(count <= 16 for _, count in calls)
    assert len(calls) == {1: 5, 3: 5, 11: 6, 100: 1}[stride], "one for the first page, which tells how many to read"


def test_few_large_pages_are_read_at_once(pages, monkeypatch):
    path, calls = pages
    monkeypatch.setattr(images, "_BLOCK_BYTES", 2 * clips.grey16(0).nbytes)
    assert read("images", path)[2] is None
    assert {count for _, count in calls} == {1, 2}


@pytest.mark.parametrize("bad", [0, 1, 25, PAGES - 1])
def test_a_damaged_page_costs_no_page_before_it(pages, bad):
    path, _ = pages
    data = bytearray(path.read_bytes())
    with path.open("rb") as file:
        at = list(probe._directories(file, "<", big=False))[bad]
    entries = int.from_bytes(data[at : at + 2], "little")
    tags = {int.from_bytes(data[e : e + 2], "little"): e for e in range(at + 2, at + 2 + 12 * entries, 12)}
    data[tags[259] + 8] = 99  # compression: there is no such
    path.write_bytes(data)
    pixels, _, error = read("images", path)
    assert f"{path}: frame {bad} does not decode" in error
    assert len(pixels) == bad
    assert all(np.array_equal(image[..., 0], clips.grey16(n)) for n, image in enumerate(pixels))
    if bad == 25:
        pixels, _, error = read("images", path, stride=2)
        assert (len(pixels), error) == (PAGES, None), "a damaged page that is not wanted is no matter"


def test_image_with_a_flipped_bit(tmp_path):
    folder = clips.write_images(tmp_path / "f", [clips.picture(0), clips.picture(1)])
    clips.flipped(folder / "frame_1.png", folder / "frame_1.png", [0.7])
    assert "checksum" in read("images", folder)[2]


def test_images_that_change_midway(tmp_path):
    for other in (clips.picture(1, 32, 48), clips.grey16(1)):
        pixels, _, error = read("images", clips.write_images(tmp_path / "f", [clips.picture(0), other]))
        assert len(pixels) == 1
        assert "as in the first frame" in error


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


@needs_assets
def test_real_images():
    thermal = ASSETS / "thermal16" / "flirpy_example_radiometric.tiff"
    pixels, _, error = read("auto", thermal)
    assert (len(pixels), error) == (1, None)
    assert (pixels[0].shape, int(pixels[0].min()), int(pixels[0].max())) == ((512, 640, 1), 6743, 7077)
    for band in ("visual", "thermal"):
        pixels, _, error = read("auto", ASSETS / "tno-nato-camp" / band)
        assert (len(pixels), error) == (32, None)
        assert pixels[0].shape == (270, 360, 3)
