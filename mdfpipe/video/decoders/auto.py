"""auto: checks the file and picks the decoder that gives it whole, or says that it is not whole.

**Why PyAV and not decord for 8-bit video.** Of 30 copies of an H.264 clip with 400 damaged bytes each, decord gave
25 as sound with wrong pixels in them, PyAV 7. decord fails on sound files, too (transport streams with B frames, AV1),
and queues frames without bound ahead of a slow consumer (1 GB for 600 frames of 720p). Nothing is gained for it: both
reach 140 to 210 frames/s of 720p H.264 on one core, 500 to 740 of 768x432. decord stays one setting away,
`detect.decoder.use=decord`, with PyAV behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mdfpipe.video.decoders import Decoder, Pixels, Reading, Wanted
from mdfpipe.video.image_files import is_images


class Auto(Decoder):
    """The default: images for folders of frames and image files, pyav for every video."""

    def candidates(self, path: Path) -> list[Decoder]:
        """The decoder for `path`."""
        return [self.other("images" if is_images(path) else "pyav")]

    def read(self, path: Path, wanted: Wanted, threads: int) -> Reading | Iterator[tuple[Pixels | None, float]]:
        """What the decoder that was picked reads."""
        return self.candidates(path)[0].read(path, wanted, threads)
