"""Videos that were cut or joined without encoding them again: the frames that players show, and no damage called so."""

import av
import numpy as np
import pytest

from mdfpipe.store.films import films_behind
from mdfpipe.video.containers import breaks
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.probe import probe
from tests import clips
from tests.video.decoded import read

SIZE, FRAMES = (320, 240), 40
OPEN = "open-gop=1:keyint=8:min-keyint=8:bframes=3:b-adapt=0:scenecut=0"
CODECS = {
    "libx264": {"options": {"x264-params": OPEN}},
    "libx265": {"options": {"x265-params": f"log-level=none:{OPEN}"}},
    "mpeg2video": {"options": {"g": "8", "bf": "2"}, "fps": 25},
    "mpeg4": {"options": {"g": "8", "bf": "2"}},
}
INTERLACED = {"codec": "mpeg2video", "options": {"flags": "+ildct+ilme", "bf": "2"}, "fps": 25}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("joined")


@pytest.fixture(scope="module")
def opened(folder):
    """By codec: a video whose groups of pictures are open."""
    suffix = {"mpeg2video": "ts"}
    return {
        codec: clips.write_video(
            folder / f"{codec}.{suffix.get(codec, 'mp4')}", FRAMES, codec=codec, size=SIZE, **settings
        )
        for codec, settings in CODECS.items()
    }


def numbers(pixels):
    return [clips.number_of(image) for image in pixels]


@pytest.mark.parametrize("key", [1, 3])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize("codec", CODECS)
def test_cut_open(codec, suffix, key, opened, folder):
    """All frames from the first key picture on, in order; of what leads it nothing, counted."""
    if (suffix == "avi" and codec != "mpeg4") or (suffix == "ts" and codec in ("libx264", "mpeg4")):
        pytest.skip("not kept so, or without the parameters that a decoder needs")
    path = clips.cut_open(opened[codec], folder / f"{codec}-{key}.{suffix}", key)
    stream = Decoder.variant("pyav")().frames(path, batch=FRAMES)
    shown = [n for frames in stream for n in numbers(frames.pixels)]
    assert shown == list(range(shown[0], FRAMES)), "no frame is missing or comes twice"
    assert 6 * key < shown[0] < 12 * key
    assert set(stream.told) <= {"leading"}
    pixels, times, error = read("opencv", path)
    assert (numbers(pixels), error) == (shown, None)
    assert times == pytest.approx(read("pyav", path)[1])
    pixels, _, error = read("decord", path)
    assert numbers(pixels) == shown or error


def test_damage_behind_an_open_start_is_found(opened, folder):
    """H.264 is decoded without FFmpeg's strictness there; what is damaged still is no frame."""
    path = clips.cut_open(opened["libx264"], folder / "sound.mkv", 3)
    sound, _, _ = read("pyav", path)
    rng = np.random.default_rng(0)
    found = 0
    for place in rng.uniform(0.3, 0.9, 8):
        pixels, _, error = read("pyav", clips.flipped(path, folder / "damaged.mkv", [place]))
        assert all(np.array_equal(a, b) for a, b in zip(pixels, sound, strict=False))
        found += error is not None and f"frame {len(pixels)} does not decode" in error
    assert found >= 7


@pytest.mark.parametrize(
    ("suffix", "settings"),
    [
        ("ts", {"options": {"bf": "0"}}),
        ("ts", {"options": {"bf": "2"}}),
        ("ts", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
        ("ts", INTERLACED),
        ("h264", {"options": {"bf": "2"}}),
        ("mpg", {"codec": "mpeg2video", "fps": 25, "options": {"bf": "2"}}),
        ("m1v", {"codec": "mpeg1video", "fps": 25, "options": {"bf": "2"}}),
        ("mpg", {"codec": "mpeg1video", "fps": 25}),
    ],
)
def test_segments_put_together(suffix, settings, tmp_path):
    parts = [
        clips.write_video(tmp_path / f"{n}.{suffix}", 7, first=7 * n, size=SIZE, **settings).read_bytes()
        for n in range(3)
    ]
    path = tmp_path / f"all.{suffix}"
    path.write_bytes(b"".join(parts))
    for name in ("pyav", "opencv"):
        stream = Decoder.variant(name)().frames(path)
        if name == "opencv" and settings is INTERLACED:
            assert "is interlaced" in read(name, path)[2]
            continue
        shown = list(stream)
        assert [n for frames in shown for n in numbers(frames.pixels)] == list(range(21)), name
        assert stream.told.get("jumps", 0) == 0
    has_times = suffix in ("ts", "mpg")
    told = Decoder.variant("pyav")().frames(path)
    for _ in told:
        pass
    assert told.told == ({"joins": 2} if has_times else {})


def test_packets_that_are_missing(tmp_path):
    """A jump of the counter within a picture is damage, whatever the decoder makes of it."""
    path = clips.write_video(tmp_path / "a.ts", 20, size=SIZE, options={"bf": "2", "g": "5"})
    data = path.read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    video = [n for n, p in enumerate(packets) if (p[1] & 31) << 8 | p[2] == 256]
    inner = [n for n in video[20:-5] if not packets[n][1] & 64 and packets[n][3] >> 4 & 3 == 1]
    for gone in inner[:: len(inner) // 5]:
        path.write_bytes(b"".join(packets[:gone] + packets[gone + 1 :]))
        assert breaks(path, 256).inside or breaks(path, 256).between
        pixels, _, error = read("pyav", path)
        assert f"frame {len(pixels)} does not decode" in error


def test_a_segment_that_starts_right_behind_lost_pictures_is_told(tmp_path):
    """Nothing of what is there is damaged; that pictures may be missing before a key picture is said."""
    path = clips.write_video(tmp_path / "a.ts", 20, size=SIZE, options={"bf": "0", "g": "5", "sc_threshold": "0"})
    data = path.read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    starts = [n for n, p in enumerate(packets) if (p[1] & 31) << 8 | p[2] == 256 and p[1] & 64]
    path.write_bytes(b"".join(packets[: starts[9]] + packets[starts[10] :]))
    stream = Decoder.variant("pyav")().frames(path)
    shown = [n for frames in stream for n in numbers(frames.pixels)]
    assert shown == [*range(9), *range(10, 20)]
    assert stream.told == {"jumps": 1}


TOGETHER = {  # suffix: container, codec, pixel format, whether readers end with the first
    "mp4": ("mp4", "libx264", "yuv420p", True),
    "mov": ("mov", "mjpeg", "yuvj420p", True),
    "flv": ("flv", "flv", "yuv420p", True),
    "wmv": ("asf", "wmv2", "yuv420p", True),
    "y4m": ("yuv4mpegpipe", "wrapped_avframe", "yuv420p", True),
    "ivf": ("ivf", "libvpx", "yuv420p", True),
    "rm": ("rm", "rv10", "yuv420p", True),
    "apng": ("apng", "apng", "rgb24", True),
    "nut": ("nut", "mpeg4", "yuv420p", True),
    "avi": ("avi", "mpeg4", "yuv420p", False),
    "mkv": ("matroska", "libx264", "yuv420p", False),
    "gif": ("gif", "gif", "rgb8", False),
}


@pytest.mark.parametrize("suffix", TOGETHER)
def test_containers_put_together(suffix, tmp_path):
    """All frames, or what lies behind the first film is counted, and no decoder gives it."""
    container, codec, pixel_format, ends = TOGETHER[suffix]
    path = tmp_path / f"all.{suffix}"
    for n in range(2):
        with av.open(str(tmp_path / "one"), "w", format=container) as file:
            stream = file.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = clips.WIDTH, clips.HEIGHT, pixel_format
            for number in range(7 * n, 7 * n + 7):
                frame = av.VideoFrame.from_ndarray(clips.picture(number)).reformat(format=pixel_format)
                frame.pts = number - 7 * n
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        with path.open("ab") as whole:
            whole.write((tmp_path / "one").read_bytes())
        assert films_behind(path, probe(path).container) == (n if ends else 0)
    for decoder in ("pyav", "opencv", "decord"):
        pixels, _, error = read(decoder, path)
        found = numbers(pixels)[: 7 if suffix == "nut" and decoder == "opencv" else None]  # of the header, one more
        assert found == list(range(7 if ends else 14)) or error, decoder
        assert decoder == "decord" or not error or ends


@pytest.mark.parametrize("codec", ["mpeg2video", "libx265"])
def test_a_recording_that_begins_anywhere(codec, opened, tmp_path):
    """Pictures before the first key picture are left out and counted, be the first packet cut or not."""
    source = clips.cut_open(opened[codec], tmp_path / "whole.ts", 0)
    data, path = source.read_bytes(), tmp_path / "a.ts"
    packets = len(data) // 188
    path.write_bytes(data[packets // 4 * 188 + 77 :])
    stream = Decoder.variant("pyav")().frames(path)
    shown = [n for frames in stream for n in numbers(frames.pixels)]
    assert shown == list(range(shown[0], FRAMES))
    assert 5 < shown[0] < 20
    assert stream.told["leading"] > 0
    assert numbers(read("opencv", path)[0]) == shown
