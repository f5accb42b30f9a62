"""Decoder: a video file, or a folder of numbered frames, as a stream of frames.

Each file of this folder is one way to decode, named after itself; `auto` picks among the others.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from mdfpipe.config import Plugin
from mdfpipe.domains import Band
from mdfpipe.errors import DecodeError, MdfError, one_line, refuse_lack_of_memory
from mdfpipe.store.limits import most
from mdfpipe.video.frames import Frames
from mdfpipe.video.image_files import is_images
from mdfpipe.video.probe import VideoInfo, probe
from mdfpipe.video.spans import Cuts, Span

Wanted: TypeAlias = Callable[[int], bool]
"""Whether the pixels of the frame with this index are asked for."""
Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
Orientation: TypeAlias = Literal["display", "stored"]
Reading: TypeAlias = Generator[tuple[Pixels | None, float], None, Mapping[str, int]]
"""What `Decoder.read` gives; at its end, how many pictures it left out, by reason."""


class Decoder(Plugin):
    """One way to turn a video into frames.

    A decoder never seeks by frame number and hides no loss that its library tells: where a frame does not decode it
    raises DecodeError at that frame, after having given every frame before it. How much a library tells differs:
    see `auto`.

    What a decoder gives is decided by its name and the settings below, which all decoders share. `as_recorded` gives
    back the decoder that a receipt recorded: a frame that is shown or cropped later is read exactly as `detect` did.
    """

    usual: ClassVar[str] = "auto"

    orientation: Orientation = Field(
        "display",
        description="display: turn pictures as the file says (display matrix, EXIF); stored: leave them as stored",
    )
    stream: int | None = Field(
        None,
        ge=0,
        description="video stream of a file with several, from 0; none: the default stream, else the largest",
    )

    colour_bits: Literal["band", 8, 16] = Field(
        "band",
        description="bits of colour video above 8 bits. 8: like other colour video; 16: keep all; band: 8 in VIS and "
        "NIR, 16 in other bands and for images. Grey above 8 bits always keeps its values",
    )

    def of_band(self, band: str) -> Decoder:
        """The same decoder, with what the band decides decided."""
        bits = (8 if band in (Band.VIS, Band.NIR) else 16) if self.colour_bits == "band" else self.colour_bits
        return self.model_copy(update={"colour_bits": bits})

    def other(self, name: str) -> Decoder:
        """The decoder of that name, with the settings that all decoders share as they are here."""
        return Decoder.variant(name)(**{field: getattr(self, field) for field in Decoder.model_fields})

    @staticmethod
    def as_recorded(facts: Mapping[str, Any]) -> Decoder:
        """The decoder that delivered a video to detect, by what detect observed: its name and its settings.

        Raises DecodeError where there is none of these settings.
        """
        settings = facts.get("decoder_settings") or {
            "use": facts["decoder"],
            "orientation": "stored",
            "colour_bits": 16,
        }
        try:
            return Decoder.model_validate(settings)
        except ValidationError:
            raise DecodeError(
                f"detect recorded {one_line(settings, 120)}, which is no decoder; run detect again"
            ) from None

    def candidates(self, path: Path) -> list[Decoder]:
        """The decoders to try on `path`, in order; each starts from the first frame.

        By default this one; for a folder of frames or an image file, which no video decoder reads, `images`.
        """
        return [self.other("images") if is_images(path) else self]

    @abstractmethod
    def read(self, path: Path, wanted: Wanted, threads: int) -> Reading | Iterator[tuple[Pixels | None, float]]:
        """Every frame of `path` in presentation order, as (pixels, pts_seconds).

        pixels: (H, W, C) as `Frames` has them; None for a frame that is not wanted, which is decoded but not
        converted. pts_seconds: NaN where there is none.
        Raises DecodeError, with the number of the frame, at the first frame that does not decode.
        A generator may return how many pictures players do not show either, by reason: `leading` are those at the start
        that refer to what was cut off, `joins` the places where one recording was put behind another, `jumps` those
        where the counter of a transport stream jumps before a key picture.
        """

    def cuts(self, path: Path) -> Cuts:
        """Where decoding can begin so that it gives what `read` gives; by default at the first frame only."""
        return Cuts(whole=f"the decoder {self.use} reads a video from its first frame on")

    def read_span(self, path: Path, cuts: Cuts, span: Span, wanted: Wanted, threads: int) -> Reading:
        """The frames of a span of `cuts`, as `read` gives them. Raises DecodeError where one does not come as it does.

        cuts: as this decoder's own `cuts` found them.
        """
        raise DecodeError(f"{path}: {cuts.whole}")

    def stills(self, path: Path, cuts: Cuts, numbers: Sequence[int], threads: int) -> Iterator[Frames]:
        """Single frames, by ascending numbers that are entries of `cuts`; their times are NaN. Raises DecodeError."""
        for number in numbers:
            span = Span(0, number, number + 1)
            for pixels, _ in self.read_span(path, cuts, span, lambda number: True, threads):
                if pixels is not None:
                    yield Frames(pixels[None], np.array([number]), np.array([np.nan]))

    def frames(
        self,
        path: Path,
        *,
        stride: int = 1,
        wanted: Wanted | None = None,
        part: tuple[Cuts, Span] | None = None,
        last: int | None = None,
        batch: int = 8,
        threads: int = 1,
        alive: Callable[[int], None] = lambda delivered: None,
    ) -> FrameStream:
        """The frames of `path`, `batch` at a time: every `stride`-th, or those whose index is `wanted`.

        part: one span of the video, in place of all. last: the frame after which nothing more is decoded. alive: called
        after each frame, wanted or not, with the number of frames delivered so far.
        """
        chosen = wanted or (lambda number: number % stride == 0)
        if part is None:
            return FrameStream(self.read(path, chosen, threads), path, batch, alive, last)
        cuts, span = part
        return FrameStream(self.read_span(path, cuts, span, chosen, threads), path, batch, alive, last, span.first)


@dataclass
class FrameStream:
    """An iterator of `Frames` that counts what the decoder delivered.

    delivered: frames decoded so far, including those that are not wanted. duplicates: frames given whose pixels equal
    those of the frame given before (a repeated shutter frame, a still). told: what `Decoder.read` returned at its end.
    first: the index of the first frame delivered. ends: the first and the last frame given, whose pixels decide whether
    the one repeats what came before, and what comes after the other.
    """

    source: Reading | Iterator[tuple[Pixels | None, float]]
    path: Path
    batch: int
    alive: Callable[[int], None]
    last: int | None = None
    first: int = 0
    delivered: int = 0
    duplicates: int = 0
    told: dict[str, int] = field(default_factory=dict)
    ends: tuple[Pixels | None, Pixels | None] = field(default=(None, None), repr=False)

    def __iter__(self) -> Iterator[Frames]:
        pixels: list[Pixels] = []
        index: list[int] = []
        pts: list[float] = []
        room, held = most(0), 0  # a batch of pictures may ask for no more memory than a file may
        try:
            for image, seconds in self._source():
                if image is not None:
                    if pixels and (image.shape != pixels[0].shape or held + image.nbytes > room):
                        yield self._take(pixels, index, pts)  # a stream may change size midway
                    held = image.nbytes + (held if pixels else 0)
                    self.duplicates += self._repeats(image)
                    pixels.append(image)
                    index.append(self.first + self.delivered)
                    pts.append(seconds)
                self.delivered += 1
                self.alive(self.delivered)
                if self.last is not None and self.first + self.delivered > self.last:
                    break
                if len(pixels) == self.batch:
                    yield self._take(pixels, index, pts)
        except Exception:
            if pixels:  # what came before the damage is given first, then the damage
                yield self._take(pixels, index, pts)
            raise
        if pixels:
            yield self._take(pixels, index, pts)

    def _source(self) -> Iterator[tuple[Pixels | None, float]]:
        """What the decoder gives; an unexpected error of its library is a failure of this file."""
        source: Any = self.source
        try:
            told = yield from source  # what a generator returns at its end
        except (MdfError, MemoryError):
            raise
        except Exception as error:
            refuse_lack_of_memory(error)
            why = f"unexpected error: {type(error).__name__}: {one_line(error)}"
            raise DecodeError(f"{self.path}: cannot be decoded: {why}") from error
        self.told = {reason: count for reason, count in (told or {}).items() if count}

    @staticmethod
    def _take(pixels: list[Pixels], index: list[int], pts: list[float]) -> Frames:
        stacked: Pixels = np.stack(pixels)  # type: ignore[assignment]
        frames = Frames(stacked, np.array(index, np.int64), np.array(pts, np.float64))
        for taken in (pixels, index, pts):
            taken.clear()
        return frames

    def _repeats(self, image: Pixels) -> bool:
        last, self.ends = self.ends[1], (image if self.ends[0] is None else self.ends[0], image)
        if last is None or last.shape != image.shape or not np.array_equal(last[::16], image[::16]):
            return False  # most frames differ in a few rows already
        return np.array_equal(last, image)


def refuse_deep(path: Path, decoder: Decoder) -> VideoInfo:
    """The header of a video, for a decoder that gives 8 bits only. Raises DecodeError where more are wanted."""
    info = probe(path, decoder.stream)
    if info.is_deep and (decoder.colour_bits != 8 or not info.is_colour):
        raise DecodeError(
            f"{path}: {decoder.use} gives 8 bits only and would narrow {info.pixel_format} ({info.bit_depth} bits) "
            "silently; use pyav"
        )
    return info
