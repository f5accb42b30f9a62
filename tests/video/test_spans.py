"""Spans of a video give what one pass gives, over codecs and containers; what cannot be entered stays whole."""

import numpy as np
import pytest

from mdfpipe.video.decoders import Decoder
from tests import clips

FRAMES, LONGEST, STRIDE = 48, 13, 2
H264 = {"g": "8", "keyint_min": "8", "bf": "3", "b-pyramid": "normal", "sc_threshold": "0"}
X265 = "log-level=none:keyint=8:min-keyint=8:bframes=3:scenecut=0"
FIELDS = {"flags": "+ildct+ilme"}
MADE = {
    "h264, closed": ("libx264", "yuv420p", H264),
    "h264, open": ("libx264", "yuv420p", {**H264, "x264-params": "open-gop=1"}),
    "h264, open, three references": (
        "libx264",
        "yuv420p",
        {**H264, "refs": "3", "x264-params": "open-gop=1:bframes=5"},
    ),
    "h264, 10 bits": ("libx264", "gray10le", H264),
    "hevc, open": ("libx265", "yuv420p", {"x265-params": f"{X265}:open-gop=1"}),
    "hevc, closed, 12 bits": ("libx265", "gray12le", {"x265-params": f"{X265}:open-gop=0"}),
    "h264, interlaced": ("libx264", "yuv420p", {**H264, **FIELDS, "x264-params": "tff=1:open-gop=1"}),
    "ffv1": ("ffv1", "gray16le", {"level": "3", "g": "1", "slicecrc": "1"}),
    "mpeg4": ("mpeg4", "yuv420p", {"g": "8", "bf": "2"}),
    "mpeg4, without B": ("mpeg4", "yuv420p", {"g": "8", "bf": "0"}),
    "mpeg2, interlaced": ("mpeg2video", "yuv420p", {"g": "8", "bf": "2", **FIELDS}),
    "mpeg2": ("mpeg2video", "yuv420p", {"g": "8", "bf": "2"}),
    "mjpeg": ("mjpeg", "yuvj420p", {}),
    "vp9, alt-ref": ("libvpx-vp9", "yuv420p", {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "6", "cpu-used": "8"}),
    "vp8": ("libvpx", "yuv420p", {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "6", "cpu-used": "8"}),
    "png": ("png", "gray16be", {}),
}
KINDS = [
    *((made, "mkv") for made in MADE if made != "png"),
    *((made, "mp4") for made in MADE if made not in ("ffv1", "png", "vp8")),
    *((made, "ts") for made in ("h264, closed", "h264, open", "h264, interlaced", "hevc, open")),
    *((made, "ts") for made in ("mpeg2", "mpeg2, interlaced", "mpeg4")),
    *((made, "webm") for made in ("vp8", "vp9, alt-ref")),
    *((made, "avi") for made in ("mpeg4, without B", "mjpeg", "ffv1")),
    ("png", "mov"),
]


def taken(streams):
    """Everything that streams of frames give, as one: pixels, indices, times; and how many repeat the one before."""
    batches, same, last = [], 0, None
    for stream in streams:
        batches += list(stream)
        same += stream.duplicates + (last is not None and np.array_equal(last, stream.ends[0]))
        last = stream.ends[1]
    joined = (np.concatenate([getattr(b, name) for b in batches]) for name in ("pixels", "index", "pts_seconds"))
    return [*joined, np.array(same)]


def spans_of(decoder, path, longest=LONGEST, stride=STRIDE):
    """The stream of every span, the last one read first."""
    cuts = decoder.cuts(path)
    assert not cuts.whole
    spans = cuts.spans(longest)
    assert all(s.end - s.first <= longest for s in spans), spans
    assert cuts.frames == spans[-1].end
    return [decoder.frames(path, stride=stride, batch=5, part=(cuts, span)) for span in spans]


@pytest.mark.parametrize(("made", "suffix"), KINDS)
def test_a_span_gives_what_one_pass_gives(tmp_path, made, suffix):
    codec, pixel_format, options = MADE[made]
    path = clips.write_video(
        tmp_path / f"a.{suffix}", FRAMES, codec=codec, pixel_format=pixel_format, options=options, size=(96, 64)
    )
    decoder = Decoder.variant("pyav")()
    streams = spans_of(decoder, path)
    assert len(streams) >= FRAMES / LONGEST
    for a, b in zip(taken([decoder.frames(path, stride=STRIDE)]), taken(streams), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["folder", "tiff"])
def test_images_have_spans_of_any_length(tmp_path, name):
    images = [clips.grey16(number // 2) for number in range(9)]
    make = clips.write_images if name == "folder" else clips.write_tiff
    path = make(tmp_path / ("images" if name == "folder" else "a.tiff"), images)
    decoder = Decoder.variant("images")()
    one, spans = taken([decoder.frames(path)]), taken(spans_of(decoder, path, 3, stride=1))
    assert one[3] == 4, "repeated images are counted across the end of a span, too"
    for a, b in zip(one, spans, strict=True):
        np.testing.assert_array_equal(a, b)


def whole(tmp_path, kind):
    """A video that stays whole."""
    closed = {"frames": 24, "options": H264}
    if kind == "joined":
        parts = [clips.write_video(tmp_path / f"{n}.ts", **closed).read_bytes() for n in range(2)]
        (tmp_path / "joined.ts").write_bytes(b"".join(parts))
        return tmp_path / "joined.ts"
    if kind == "cut open":
        opened = {**H264, "x264-params": "open-gop=1"}
        return clips.cut_open(clips.write_video(tmp_path / "a.mkv", 24, options=opened), tmp_path / "cut.mkv", 2)
    if kind == "av1":
        return clips.write_video(tmp_path / "a.mkv", 24, codec="libsvtav1", options={"g": "8", "preset": "12"})
    if kind == "damaged":
        path = clips.write_video(tmp_path / "a.mkv", **closed)
        return clips.flipped(path, tmp_path / "damaged.mkv", [0.5])
    if kind == "short":
        return clips.truncated(clips.write_video(tmp_path / "a.mkv", **closed), tmp_path / "short.mkv", 0.7)
    if kind == "gif":
        return clips.write_video(tmp_path / "a.gif", 24, codec="gif", pixel_format="rgb8")
    if kind in ("avi with B frames", "asf with B frames"):
        return clips.write_video(tmp_path / f"a.{kind[:3]}", 24, codec="mpeg4", options={"g": "8", "bf": "2"})
    assert kind == "refreshed step by step"
    return clips.write_video(tmp_path / "a.ts", 24, options={"g": "8", "x264-params": "intra-refresh=1:bframes=0"})


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("joined", "packets are missing"),
        ("cut open", "before its first key picture"),
        ("damaged", "checksum"),
        ("short", "file"),
        ("gif", "codec is gif"),
        ("av1", "codec is libdav1d"),
        ("avi with B frames", "it has B frames"),
        ("asf with B frames", "it has B frames"),
        ("refreshed step by step", ""),
    ],
)
def test_a_video_in_which_seeking_may_differ_stays_whole(tmp_path, kind, why):
    cuts = Decoder.variant("pyav")().cuts(whole(tmp_path, kind))
    assert why in cuts.whole
    assert len(cuts.spans(8)) <= 1


EDITS = {  # (frames shown, the first of them; -1: nothing is shown)
    "a late start": ([(5, -1), (FRAMES, 0)], True),
    "from a key picture on": ([(32, 16)], True),
    "from within a group on": ([(38, 10)], False),
    "the first 20": ([(20, 0)], False),
    "a part left out": ([(16, 0), (16, 32)], False),
    "two parts that follow each other": ([(16, 0), (32, 16)], False),
    "the same twice": ([(24, 0), (24, 0)], False),
    "another order": ([(24, 24), (24, 0)], False),
    "a pause": ([(16, 0), (4, -1), (32, 16)], False),
}


@pytest.mark.parametrize("edits", EDITS)
def test_a_video_with_an_edit_list_has_exact_spans_or_stays_whole(tmp_path, edits):
    given, has_spans = EDITS[edits]
    path = clips.write_video(tmp_path / "a.mp4", FRAMES, options=H264, size=(96, 64))
    path = clips.edited(path, tmp_path / "edited.mp4", given)
    decoder = Decoder.variant("pyav")()
    cuts = decoder.cuts(path)
    assert cuts.whole == ("" if has_spans else "an edit list leaves out a part of it")
    one = taken([decoder.frames(path, stride=STRIDE)])
    if has_spans:
        assert len(one[1]) == sum(count for count, first in given if first >= 0) / STRIDE
        for a, b in zip(one, taken(spans_of(decoder, path)), strict=True):
            np.testing.assert_array_equal(a, b)
