"""detect: the bodies in every frame of a video. Decodes ahead while the detector works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny

from mdfpipe.errors import DataError, DecodeError, one_line, some
from mdfpipe.machine.threads import use_threads
from mdfpipe.stages import Context, Inputs, Made, Review, Stage
from mdfpipe.store.tables import BODIES, item_ids
from mdfpipe.synth.folder import rendered
from mdfpipe.video.ahead import ahead
from mdfpipe.video.decoders import Decoder, FrameStream
from mdfpipe.video.decoders.auto import Auto
from mdfpipe.video.detectors import Detect as RunDetector
from mdfpipe.video.detectors import Detector
from mdfpipe.video.frames import Boxes, Frames
from mdfpipe.video.normalise import Normalise
from mdfpipe.video.packets import packets
from mdfpipe.video.placement import place

_TOLD = ("decoder", "decoder_settings", "delivered", "stride", "width", "height", "window")
_OF_DEEP = tuple(f"normalise.{name}" for name in ("policy", "low_percentile", "high_percentile", "low", "high"))
MISPLACED = (
    "weights that were trained on rendered people only ran on videos that `mdfpipe synth` did not render: people may "
    "be missed there, and names are on wrong boxes; take published weights (detect.detector.weights), another "
    "detector as ONNX (use: onnx), or boxes made elsewhere (use: precomputed)"
)
"""Warning about demo weights on real videos: one clip had 0 of 123 people found, and 25 boxes under wrong names."""


@dataclass
class _Found:
    """What one decoder's pass over the video gave."""

    decoder: Decoder
    counts: list[int] = field(default_factory=list)  # boxes of each frame
    # Of each batch, since a million small arrays weigh; the empty one is there for a video without frames.
    xyxy: list[NDArray[np.float32]] = field(default_factory=lambda: [np.zeros((0, 4), np.float32)])
    score: list[NDArray[np.float32]] = field(default_factory=lambda: [np.zeros(0, np.float32)])
    index: list[NDArray[np.int64]] = field(default_factory=lambda: [np.zeros(0, np.int64)])
    pts: list[NDArray[np.float64]] = field(default_factory=lambda: [np.zeros(0)])
    size: tuple[int, int] = (0, 0)
    window: tuple[float, float] | None = None
    deep: bool = False  # whether a frame had more than 8 bits
    stream: FrameStream | None = None
    trouble: str | None = None

    def take(self, frames: Frames, boxes: list[Boxes]) -> None:
        """Keep the boxes of one batch of frames."""
        self.size = (frames.pixels.shape[2], frames.pixels.shape[1])
        self.index.append(frames.index)
        self.pts.append(frames.pts_seconds)
        self.counts += [len(b) for b in boxes]
        self.xyxy.append(np.concatenate([b.xyxy for b in boxes]))
        self.score.append(np.concatenate([b.score for b in boxes]))


class Detect(Stage):
    """Person boxes in every frame (or every `stride`-th)."""

    name: ClassVar[str] = "detect"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("media",)
    schema: ClassVar[pa.Schema] = BODIES
    tells: ClassVar[tuple[str, ...]] = _TOLD

    detector: SerializeAsAny[Detector] = Field(description="detector of bodies")
    decoder: SerializeAsAny[Decoder] = Field(default=Auto(), description="decoder of videos")
    normalise: Normalise = Field(
        default=Normalise(), description="conversion of sources above 8 bits to 8 bits for the detector"
    )
    stride: int = Field(default=1, ge=1, description="detect in every n-th frame")
    incomplete: Literal["fail", "keep"] = Field(
        default="fail",
        description="for a damaged or short video. fail: the video fails; keep: keep the frames before the damage",
    )

    def identity(self, data: Path, key: str) -> dict[str, str]:
        """The content of weights or box files."""
        return self.detector.identity(data, key)

    def without_effect(self, facts: Mapping[str, Any]) -> tuple[str, ...]:
        """`incomplete` for a sound video; `normalise` for a video of 8 bits."""
        found = ("incomplete",) if facts.get("incomplete", "") is None else ()
        return found + (_OF_DEEP if facts.get("deep") is False else ())

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Decode and detect; a decoder that fails is followed by the next, from the first frame."""
        if inputs.video["problem"]:
            raise DecodeError(inputs.video["problem"])
        path, resources = inputs.media(context.data), context.resources
        use_threads(resources.threads)
        placement = self._placement(inputs.video, context.data)
        run = self.detector.open(context.data, key, device=resources.device, threads=resources.threads)
        troubles: list[str] = []
        for decoder in (candidate.of_band(inputs.video["band"]) for candidate in self.decoder.candidates(path)):
            found = self._pass(decoder, path, run, inputs.video, context)
            found.trouble = found.trouble or self._short(found, path, inputs.video["n_frames"])
            if found.trouble is None:
                break
            troubles.append(f"{decoder.use}: {found.trouble}")
        delivered = found.stream.delivered if found.stream else 0
        if found.trouble is not None and not (self.incomplete == "keep" and delivered):
            advice = "; keep the frames before it with detect.incomplete=keep" if delivered else ""
            raise DecodeError("; then ".join(troubles) + advice)
        beyond = self.detector.beyond(context.data, key, delivered)
        facts = {
            **self._facts(found, troubles, inputs.video),
            **self._remarks(inputs.video["path"], context),
            "boxes_beyond_the_end": beyond,
            **({"boxes_named": self.detector.unnamed(context.data, key)} if beyond is None else {}),
            **placement,
        }
        return Made(_table(key, found), facts)

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Say where header, boxes made elsewhere and delivered frames do not agree."""
        warnings = []
        more = {k: f for k, f in facts.items() if f["declared"] is not None and f["delivered"] > f["declared"]}
        if more:
            key, first = next(iter(more.items()))
            one = f"{key}: {first['delivered']} delivered, {first['declared']} declared"
            warnings.append(f"detect: {len(more)} videos have more frames than their header declares ({one})")
        said, stop = _boxes_said(facts)
        warnings += [*_left_out(facts), *said]
        notes = _repeats_said(facts)
        doubts: dict[str, list[str]] = {}
        for key, found in facts.items():
            for doubt in found.get("doubts", []):
                doubts.setdefault(doubt, []).append(key)
        for doubt, keys in doubts.items():
            warnings.append(f"detect: {doubt} ({len(keys)} of {len(facts)} videos: {some(keys, 3)})")
        lines = dict.fromkeys(line for found in facts.values() for line in found.get("weights", []))
        notes += [f"detect: {line}" for line in lines]
        return Review(warnings=warnings, notes=notes, stop=stop)

    def _remarks(self, path: str, context: Context) -> dict[str, Any]:
        """What is to be reported of the weights, in this video: lines to know, and doubts."""
        resources = context.resources
        found = self.detector.remarks(context.data, device=resources.device, threads=resources.threads)
        misplaced = [MISPLACED] if found.rendered_only and not rendered(context.data, path) else []
        return {"weights": list(found.lines), "doubts": [*found.doubts, *misplaced]}

    def _placement(self, video: Mapping[str, Any], data: Path) -> dict[str, Any]:
        """Whether boxes made elsewhere can be of this video's picture. Raises DataError where they cannot."""
        boxes = self.detector.known_boxes(data, video["video_id"])
        if boxes is None or not len(boxes) or not video["width"] or not video["height"]:
            return {}
        found = place(boxes, video["width"], video["height"], sized=getattr(self.detector, "box", "") == "xywh")
        if found.wrong and getattr(self.detector, "check_boxes", True):
            raise DataError(
                f"body boxes: {found.wrong}; correct the file, or take them as they are with "
                "detect.detector.check_boxes=false"
            )
        counts = {"outside the picture": found.outside.sum(), "with a side below 2 px": found.tiny.sum()}
        words = [f"{count} of {len(boxes)} body boxes {what}" for what, count in counts.items() if count]
        return {"boxes_odd": "; ".join([*filter(None, [found.wrong or found.doubt]), *words])}

    def _pass(
        self, decoder: Decoder, path: Path, run: RunDetector, video: Mapping[str, Any], context: Context
    ) -> _Found:
        """One pass by one decoder; where it fails, what came before, and the trouble."""
        found, resources = _Found(decoder), context.resources

        def stream() -> FrameStream:
            return decoder.frames(path, stride=self.stride, batch=resources.batch, threads=resources.threads)

        try:
            if (video["bit_depth"] or 8) > 8:
                found.window = self._window(stream(), video, context)
            found.stream = stream()
            frames: Frames
            for frames in ahead(found.stream):
                size = (frames.pixels.shape[2], frames.pixels.shape[1])
                if found.counts and size != found.size:
                    was, now = ("x".join(map(str, s)) for s in (found.size, size))
                    raise DecodeError(f"frame {frames.index[0]}: expected {was} pixels as before, got {now}")
                found.deep = found.deep or frames.pixels.dtype != np.uint8
                shown = self.normalise.apply(frames.pixels, *(found.window or (0.0, 255.0)))
                found.take(frames, run(replace(frames, pixels=shown)))
                context.progress(int(frames.index[-1]) + 1, video["n_frames"])
        except DecodeError as error:
            found.trouble = one_line(error)
        return found

    def _window(self, stream: FrameStream, video: Mapping[str, Any], context: Context) -> tuple[float, float] | None:
        """The values of a video above 8 bits that become black and white; reads it once where the policy needs it.

        None where it is delivered in 8 bits.
        """
        batches = iter(stream)
        first = next(batches, None)
        if first is None:
            raise DecodeError("no frame delivered")
        if first.pixels.dtype == np.uint8:
            return None
        depth = 16 if first.pixels.shape[3] == 3 else video["bit_depth"]  # colour is delivered in 16 bits

        def alive() -> Iterator[Frames]:
            with suppress(DecodeError):  # the pass that detects meets the same damage, and reports it
                for frames in chain([first], batches):
                    context.progress(0, video["n_frames"])
                    yield frames

        return self.normalise.window(ahead(alive()), depth)

    @staticmethod
    def _short(found: _Found, path: Path, declared: int | None) -> str | None:
        delivered = found.stream.delivered if found.stream else 0
        if delivered == 0:
            return "no frame delivered"
        known = delivered + (found.stream.told.get("leading", 0) if found.stream else 0)
        if declared is not None and known < declared and known + packets(path, found.decoder.stream).hidden < declared:
            return f"short: {delivered} frames delivered of {declared} that the header declares"
        return None

    def _facts(self, found: _Found, troubles: list[str], video: Mapping[str, Any]) -> dict[str, Any]:
        assert found.stream is not None
        return {
            "decoder": found.decoder.use,
            "decoder_settings": found.decoder.model_dump(mode="json"),
            "fallback": troubles,
            "declared": video["n_frames"],
            "delivered": found.stream.delivered,
            "duplicates": found.stream.duplicates,
            "left_out": found.stream.told,
            "stride": self.stride,
            "width": found.size[0],
            "height": found.size[1],
            "window": found.window,
            "deep": found.deep or found.window is not None,
            "incomplete": found.trouble,
            "rows": {"bodies": sum(found.counts)},
        }


_LEFT_OUT: Final = {
    "leading": "{videos} videos begin within a group of pictures: {all} pictures before the first frame refer to what "
    "was cut off and are left out, as players do ({first}: {count})",
    "joins": "{videos} videos are several recordings one behind the other, with times that start again ({first}: "
    "{after}); their frames are counted through",
    "jumps": "{videos} videos are transport streams whose counter jumps before a key picture ({first}: {count} times): "
    "segments were joined there, or whole pictures are missing",
}
"""Lines on what a decoder left out or doubts, in the order in which they are printed."""


def _left_out(facts: dict[str, dict[str, Any]]) -> list[str]:
    """Lines on videos that are not whole, or not one recording."""
    lines = []
    for name, words in _LEFT_OUT.items():
        counts = {key: f["left_out"][name] for key, f in facts.items() if f["left_out"].get(name)}
        if counts:
            first, count = next(iter(counts.items()))
            said = words.format(videos=len(counts), all=sum(counts.values()), first=first, count=count, after=count + 1)
            lines.append(f"detect: {said}")
    return lines


def _boxes_said(facts: dict[str, dict[str, Any]]) -> tuple[list[str], str | None]:
    """What boxes made elsewhere make one wonder at, and why the run must stop: they name none of the videos."""
    warnings, stop = [], None
    late = {k: f["boxes_beyond_the_end"] for k, f in facts.items() if f["boxes_beyond_the_end"]}
    if late:
        key, count = next(iter(late.items()))
        warnings.append(
            f"detect: {len(late)} videos have boxes in frames after their last ({key}: {count} boxes from frame "
            f"{facts[key]['delivered']} on); is detect.detector.frame_base right?"
        )
    odd = {k: f["boxes_odd"] for k, f in facts.items() if f.get("boxes_odd")}
    warnings += [f"detect: {k}: {words}" for k, words in list(odd.items())[:3]]
    if len(odd) > 3:
        warnings.append(f"detect: so are boxes of {len(odd) - 3} other videos")
    without = [k for k, f in facts.items() if f["boxes_beyond_the_end"] is None]
    if without:
        shown = some([one_line(k, 80) for k in without], 3)
        named = facts[without[0]].get("boxes_named", "")
        words = f"the boxes file names {len(without)} videos not at all ({shown}): no detections there"
        if named and len(without) == len(facts):
            stop = f"{words}; {named}; write the video_ids of this data set"
        else:
            warnings.append(f"detect: {words}" + (f"; {named}" if named else ""))
    return warnings, stop


def _repeats_said(facts: dict[str, dict[str, Any]]) -> list[str]:
    """How many frames repeat the one before, of all videos."""
    same = {k: f["duplicates"] for k, f in facts.items() if f["duplicates"]}
    if not same:
        return []
    key = max(same, key=lambda k: same[k])
    return [
        f"detect: {sum(same.values())} frames of {len(same)} videos equal the frame before, pixel by pixel "
        f"(most in {key}: {same[key]} of {facts[key]['delivered']})"
    ]


def _table(key: str, found: _Found) -> pa.Table:
    """Rows of BODIES, by frame, the detector's best first."""
    counts = np.array(found.counts, np.int64)
    index = np.repeat(np.concatenate(found.index), counts)
    pts = np.repeat(np.concatenate(found.pts), counts)
    number = np.concatenate([np.zeros(0, np.int64), *(np.arange(n) for n in found.counts)])
    boxes, score = np.concatenate(found.xyxy), np.concatenate(found.score)
    body_id, video_id = item_ids(key, index, number), pa.repeat(pa.scalar(key), len(index))
    columns = [body_id, video_id, index, pts, *boxes.T, score]
    return pa.table(
        [c if isinstance(c, pa.Array) else pa.array(np.ascontiguousarray(c)) for c in columns], schema=BODIES
    )
