"""auto: looks at the file and picks the decoder that gives it whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mdfpipe.video.decoders import Decoder, Pixels
from mdfpipe.video.probe import is_images, packet_times, probe

EIGHT_BIT = ("decord", "pyav")  # in this order


class Auto(Decoder):
    """The default: images for images, decord and then pyav for 8-bit video, pyav for everything else."""

    def candidates(self, path: Path) -> list[Decoder]:
        """The decoders to try on `path`, in order. Raises DecodeError where the file does not even open."""
        return [Decoder.variant(name)() for name in _names(path)]

    def read(self, path: Path, stride: int, threads: int) -> Iterator[tuple[Pixels | None, float]]:
        """What the first candidate reads; the caller tries the next one, from the first frame, where it fails."""
        yield from self.candidates(path)[0].read(path, stride, threads)


def _names(path: Path) -> tuple[str, ...]:
    if is_images(path):
        return ("images",)
    info = probe(path)
    if info.is_deep or info.codec == "gif":  # decord narrows to 8 bits without a word, and opens no GIF
        return ("pyav",)
    if info.frames_declared not in (None, len(packet_times(path))):
        return ("pyav",)  # decord may hang in native code on a header that lies
    return EIGHT_BIT
