"""What a header says, what the packets say, and files that are no video."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from mdfpipe.errors import DecodeError
from mdfpipe.video.containers import missing_end
from mdfpipe.video.image_files import numbered_frames, page_count
from mdfpipe.video.packets import packets
from mdfpipe.video.probe import probe
from tests import clips

FASTSTART = {"movflags": "+faststart"}
B_FRAMES = {"bf": "2", "b_strategy": "0"}


def test_header_of_a_video(tmp_path):
    info = probe(clips.write_video(tmp_path / "a.mp4", 12))
    assert (info.frames_declared, info.fps, info.width, info.height) == (12, 10.0, clips.WIDTH, clips.HEIGHT)
    assert (info.bit_depth, info.codec, info.pixel_format, info.is_deep) == (8, "h264", "yuv420p", False)


@pytest.mark.parametrize(("pixel_format", "depth"), [("gray", 8), ("gray10le", 10), ("gray14le", 14), ("gray16le", 16)])
def test_depth(tmp_path, pixel_format, depth):
    info = probe(clips.write_video(tmp_path / "a.mkv", 2, codec="ffv1", pixel_format=pixel_format))
    assert (info.bit_depth, info.pixel_format, info.is_deep) == (depth, pixel_format, depth > 8)


def test_header_of_images(tmp_path):
    folder = clips.write_images(tmp_path / "f", [clips.grey16(n) for n in range(3)])
    assert probe(folder).frames_declared == 3
    assert (probe(folder).bit_depth, probe(folder).fps, probe(folder).codec) == (16, None, "png")
    tiff = clips.write_tiff(tmp_path / "t.tiff", [clips.grey16(n) for n in range(4)])
    assert (probe(tiff).frames_declared, probe(tiff).bit_depth, page_count(tiff)) == (4, 16, 4)


def test_packet_times_are_sorted_and_true(tmp_path):
    times = [500, 607, 728, 900, 1400, 1500, 1501, 2000]
    for name in ("a.mp4", "a.mkv"):
        path = clips.write_video(tmp_path / name, 8, times=times, options=B_FRAMES)
        assert packets(path).times * 1000 == pytest.approx(times), name


def test_packet_times_count_what_is_there(tmp_path):
    sound = clips.write_video(tmp_path / "a.mp4", 40, mux=FASTSTART)
    liar = clips.overreporting(sound, tmp_path / "liar.mp4", 400)
    assert (probe(liar).frames_declared, len(packets(liar).times)) == (400, 40)
    short = clips.truncated(sound, tmp_path / "short.mp4", 0.6)
    assert probe(short).frames_declared == 40
    assert 10 < len(packets(short).times) < 40


def test_vp8_alternate_references_are_no_frames(tmp_path):
    options = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "b": "200k"}
    path = clips.write_video(tmp_path / "a.webm", 60, codec="libvpx", options=options)
    assert len(packets(path).times) == 60


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_missing_end(tmp_path, name):
    path = clips.write_video(tmp_path / name, 10, mux=FASTSTART if name == "a.mp4" else None)
    assert missing_end(path, probe(path).container) is None
    why = missing_end(clips.truncated(path, tmp_path / f"short-{name}", 0.903), probe(path).container)
    assert why is not None
    assert "before its container does" in why


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"frame,subject\n1,2\n" * 50, "cannot open"),
        (b"#EXTM3U\n#EXTINF:1,\nother.ts\n", "cannot open"),
        (b"\0" * 4096, "cannot open"),
        (bytes(range(256)) * 40, "cannot open"),
    ],
)
def test_no_video(tmp_path, content, expected):
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DecodeError, match=expected) as caught:
        probe(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sound_without_pictures(tmp_path):
    import wave

    path = tmp_path / "a.avi"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", "NONE"))
        file.writeframes(b"\0\0" * 8000)
    with pytest.raises(DecodeError, match=r"cannot open|expected a video stream, found"):
        probe(path)


def test_mp4_without_its_index(tmp_path):
    path = clips.write_video(tmp_path / "a.mp4", 20)
    with pytest.raises(DecodeError, match="cannot open"):
        probe(clips.truncated(path, tmp_path / "b.mp4", 0.5))


def test_names_with_a_colon_are_files(tmp_path, monkeypatch):
    clips.write_video(tmp_path / "a.mp4", 3).rename(tmp_path / "http:100%d.mp4")
    monkeypatch.chdir(tmp_path)
    assert probe(Path("http:100%d.mp4")).frames_declared == 3


def test_numbered_frames_in_the_order_of_their_numbers(tmp_path):
    image = np.zeros((4, 4), np.uint8)
    folder = clips.write_images(tmp_path / "f", [image] * 4, "im{}.png", numbers=[2, 10, 1, 100])
    (folder / ".hidden3.png").write_bytes(b"x")
    (folder / "notes5.txt").write_bytes(b"x")
    assert [p.name for p in numbered_frames(folder)] == ["im1.png", "im2.png", "im10.png", "im100.png"]


def test_folders_that_are_refused(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    with pytest.raises(DecodeError, match="found none"):
        numbered_frames(folder)
    cv2.imwrite(str(folder / "1.png"), np.zeros((4, 4), np.uint8))
    (folder / "cover.png").write_bytes(b"x")
    with pytest.raises(DecodeError, match=r"cover.png: expected a number in every frame's file name"):
        numbered_frames(folder)
    (folder / "cover.png").rename(folder / "01.png")
    with pytest.raises(DecodeError, match=r"01.png and 1.png are both frame number 1 "):
        numbered_frames(folder)
    (folder / "01.png").unlink()
    with pytest.raises(DecodeError, match="cannot be listed"):
        numbered_frames(tmp_path / "absent")


def test_one_image_needs_no_number(tmp_path):
    folder = clips.write_images(tmp_path / "f", [clips.grey16(0)], "radiometric.tiff")
    assert probe(folder).frames_declared == 1


def test_an_edit_list_hides_packets_and_a_sound_file_is_not_short(tmp_path):
    """Cut without encoding again, an mp4 keeps frames that its edit list says not to show."""
    whole, cut = clips.write_video(tmp_path / "whole.mp4", 20), tmp_path / "cut.mp4"
    assert packets(whole).hidden == 0
    with av.open(str(whole)) as source, av.open(str(cut), "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is None:
                continue
            packet.stream = stream
            packet.pts -= 5 * packet.duration
            packet.dts -= 5 * packet.duration
            sink.mux(packet)
    assert probe(cut).frames_declared == 20
    shown = len(packets(cut).times)
    assert shown < 20
    assert shown + packets(cut).hidden == 20
