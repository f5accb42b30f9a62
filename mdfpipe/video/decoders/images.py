"""A folder of numbered images, or one image file (a multi-page TIFF has many frames), 8 to 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from mdfpipe.errors import DecodeError
from mdfpipe.video.decoders import Decoder, Pixels, Reading, Wanted
from mdfpipe.video.image_files import Image, is_images, numbered_frames, page_count, read_frames
from mdfpipe.video.spans import Cuts, Span


class Images(Decoder):
    """Images in the order of their numbers; a frame's index is its place in that order, and there is no time.

    A file that does not decode whole, or has another size, depth or number of channels than the first, raises
    DecodeError that names it. Frames that are not wanted are not opened.
    """

    def of_band(self, band: str) -> Decoder:
        """The same decoder; colour above 8 bits keeps its values in every band, unless `colour_bits` says 8.

        A camera's 10 bits are a default of its codec; who writes images of 16 bits chose to.
        """
        return self.model_copy(update={"colour_bits": 8 if self.colour_bits == 8 else 16})

    def read(self, path: Path, wanted: Wanted, threads: int) -> Iterator[tuple[Pixels | None, float]]:
        """Every image, as `Decoder.read` promises; pts_seconds is always NaN."""
        return self._read(path, wanted, 0, None)

    def cuts(self, path: Path) -> Cuts:
        """Before each image."""
        _refuse_video(path)
        return Cuts.of_images(len(numbered_frames(path)) if path.is_dir() else page_count(path))

    def read_span(self, path: Path, cuts: Cuts, span: Span, wanted: Wanted, threads: int) -> Reading:
        """The images of a span; the first image of all is read, too, since the others have to be of its kind."""
        yield from self._read(
            path, lambda number: number == 0 or (number >= span.first and wanted(number)), span.first, span.end
        )
        return {}

    def _read(self, path: Path, wanted: Wanted, begin: int, end: int | None) -> Iterator[tuple[Pixels | None, float]]:
        _refuse_video(path)
        first = ""
        for number, (file, image) in islice(enumerate(read_frames(path, wanted)), end):
            if number < begin:
                first = first or (self._turned(image).kind if image else "")
                continue
            if image is None:
                yield None, np.nan
                continue
            image = self._turned(image)
            first = first or image.kind
            if image.kind != first:
                raise DecodeError(f"{file}: frame {number}: expected {first} as in the first frame, got {image.kind}")
            yield image.narrowed().pixels if self.colour_bits == 8 else image.pixels, np.nan

    def _turned(self, image: Image) -> Image:
        return image.shown() if self.orientation == "display" else image


def _refuse_video(path: Path) -> None:
    if not is_images(path):
        raise DecodeError(f"{path}: expected a folder of images or an image file; use auto or pyav for a video")
