"""Checksums in packets: no flipped bit passes without a word, under any decoder, and the sound frames come first."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import av
import pytest

from mdfpipe.video.packets import check_of, ffv1_damage
from tests import clips
from tests.video.decoded import read

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import video_damage as table

sys.path.pop(0)

FRAMES, BROKEN = 4, 2
KINDS = {
    "ffv1-16": ("a.mkv", "ffv1", "gray16le", {"level": "3", "slicecrc": "1"}, "slice", ("auto", "pyav")),
    "ffv1-8": ("a.avi", "ffv1", "yuv420p", {"level": "3", "slices": "9"}, "slice", ("auto", "opencv", "decord")),
    "png-8": ("a.avi", "png", "rgb24", {}, "chunk", ("auto", "opencv", "decord")),
    "png-16": ("a.mov", "png", "gray16be", {}, "chunk", ("auto", "pyav")),
    "apng": ("a.apng", "apng", "rgb24", {}, "chunk", ("auto", "opencv")),
    "mkv": ("a.mkv", "libx264", "yuv420p", {"preset": "ultrafast"}, "cluster", ("auto", "opencv", "decord")),
    "ogg": ("a.ogg", "libvpx", "yuv420p", {"deadline": "realtime"}, "Ogg page", ("auto", "opencv")),
    "hevc": ("a.mp4", "libx265", "yuv420p", {"x265-params": "log-level=none:hash=1"}, "Invalid data", ("auto",)),
}


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def flipped(path: Path, number: int, chance: random.Random) -> Path:
    """A copy with one bit of the packet `number` flipped, in its second half: all headers are before."""
    data, packet = bytearray(path.read_bytes()), packets_of(path)[number]
    data[data.index(packet) + chance.randrange(len(packet) // 2, len(packet) - 8)] ^= 1 << chance.randrange(8)
    copy = path.with_stem("damaged")
    copy.write_bytes(data)
    return copy


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_damage_under_every_decoder(kind: str, tmp_path: Path) -> None:
    name, codec, pixel_format, options, words, decoders = KINDS[kind]
    size = (table.WIDTH, table.HEIGHT)
    path = clips.write_video(
        tmp_path / name, FRAMES, codec=codec, pixel_format=pixel_format, options=options, size=size
    )
    chance = random.Random(kind)
    damaged = flipped(path, BROKEN, chance)
    for decoder in decoders:
        sound, _, error = read(decoder, path)
        assert (len(sound), error) == (FRAMES, None), decoder
        pixels, _, error = read(decoder, damaged)
        refuses = decoder == "decord" and words != "cluster"  # before its first frame: its own thread reads ahead
        at = BROKEN if refuses else len(pixels)
        assert f"frame {at} does not decode: " in str(error), decoder
        assert words in str(error)
        expected = {"cluster": (0,), "Ogg page": range(BROKEN + 1), "Invalid data": (BROKEN - 1, BROKEN)}
        assert len(pixels) in ((0,) if refuses else expected.get(words, (BROKEN,)))
        assert all((a == b).all() for a, b in zip(pixels, sound, strict=False))


@pytest.mark.parametrize("level", ["1", "3"])
def test_ffv1_without_checksums_is_read(level: str, tmp_path: Path) -> None:
    path = clips.write_video(
        tmp_path / "a.mkv", 2, codec="ffv1", pixel_format="gray16le", options={"level": level, "slicecrc": "0"}
    )
    packets = packets_of(path)
    assert check_of("ffv1", packets, b"\1" if level == "3" else b"") is None
    assert read("auto", path)[2] is None


@pytest.mark.parametrize(
    "mux", [{"write_crc32": "0"}, {"live": "1", "write_crc32": "0"}, {"cluster_time_limit": "100"}]
)
def test_matroska_without_checksums_live_and_of_many_clusters(mux: dict[str, str], tmp_path: Path) -> None:
    path = clips.write_video(tmp_path / "a.mkv", 12, options={"preset": "ultrafast", "g": "1"}, mux=mux)
    assert (len(read("auto", path)[0]), read("auto", path)[2]) == (12, None)
    pixels, _, error = read("auto", flipped(path, 7, random.Random(1)))
    assert "cluster_time_limit" not in mux or (5 <= len(pixels) <= 7 and "cluster" in str(error))
    pixels, _, error = read("auto", clips.truncated(path, tmp_path / "cut.mkv", 0.6))
    assert len(pixels) > 4, "what is cut is told by its end, not by a checksum that is not there"
    assert "cluster" not in str(error)


def test_a_damaged_header_of_tracks_is_said(tmp_path: Path) -> None:
    path = clips.write_video(tmp_path / "a.mkv", 2)
    data = bytearray(path.read_bytes())
    data[data.index(b"\x73\xc5\x88") + 5] ^= 1  # the track's UID, which no decoder reads
    path.write_bytes(data)
    for decoder in ("auto", "opencv", "decord"):
        assert "the checksum of the header of tracks" in str(read(decoder, path)[2])


def test_where_every_packet_is_damaged_ffv1_still_has_its_checksums(tmp_path: Path) -> None:
    path = clips.write_video(tmp_path / "a.mkv", 1, codec="ffv1", pixel_format="gray16le", options={"level": "3"})
    (packet,) = packets_of(path)
    for bad in (packet[:-7] + b"\xff" + packet[-6:], packet[:-1], packet[: len(packet) // 2]):
        assert check_of("ffv1", [bad], b"extradata") is ffv1_damage
        assert ffv1_damage(bad)


@pytest.mark.parametrize("codec", [name for name, codec in table.CODECS.items() if codec.checked])
def test_no_flip_in_packets_with_checksums_passes(codec: str) -> None:
    ((_, counts),) = table.table([codec], flips=8, frames=2)
    assert counts["silent"] == 0
    assert counts["found"] >= 7, "a bit that no decoder reads, at most"


@pytest.mark.slow
def test_the_page_on_damage_is_as_the_decoders_do() -> None:
    """Other builds of FFmpeg and other processors may differ by a few flips, never where there are checksums."""
    rows = [line.strip("| ").split(" | ") for line in table.PAGE.read_text().splitlines() if line.startswith("| ")]
    written = {row[0]: int(row[4]) for row in rows[1:]}
    found = dict(table.table(list(table.CODECS)))
    assert written.keys() == found.keys()
    for name, counts in found.items():
        assert abs(counts["silent"] - written[name]) <= (0 if table.CODECS[name].checked else table.FLIPS // 4), name
