"""detect: the bodies in every frame of a video.

One thread decodes and prepares batches for the network, one runs the network, one reads its answers and stores them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny

from mdfpipe.errors import DataError, DecodeError, counted, one_line, some
from mdfpipe.machine.engines import EngineAsked
from mdfpipe.machine.threads import use_threads
from mdfpipe.stages import Context, Inputs, Made, Review, Stage
from mdfpipe.stages.kept_spans import FinishedSpan, KeptSpans, SpanFacts, digest_of, joined, tidy
from mdfpipe.store.run import Run
from mdfpipe.store.tables import BODIES, item_ids
from mdfpipe.synth.folder import rendered
from mdfpipe.video.ahead import ahead, in_turn
from mdfpipe.video.decoders import Decoder, FrameStream
from mdfpipe.video.decoders.auto import Auto
from mdfpipe.video.detectors import Detect as RunDetector
from mdfpipe.video.detectors import Detector, NetworkDetector
from mdfpipe.video.frames import Boxes, Frames
from mdfpipe.video.normalise import Normalise
from mdfpipe.video.packets import packets
from mdfpipe.video.placement import place
from mdfpipe.video.spans import Cuts, Span

T = TypeVar("T")
_TOLD = ("decoder", "decoder_settings", "delivered", "stride", "width", "height", "window")
_OF_DEEP = tuple(
    f"normalise.{name}" for name in ("policy", "sampled_frames", "low_percentile", "high_percentile", "low", "high")
)
MISPLACED = (
    "weights that were trained on rendered people only ran on videos that `mdfpipe synth` did not render: people may "
    "be missed there, and names are on wrong boxes; take published weights (detect.detector.weights), another "
    "detector as ONNX (use: onnx), or boxes made elsewhere (use: precomputed)"
)
"""Warning about demo weights on real videos: one clip had 0 of 123 people found, and 25 boxes under wrong names."""


@dataclass
class _Rows:
    """The boxes of consecutive frames, a batch at a time."""

    counts: list[int] = field(default_factory=list)  # boxes of each frame
    # Of each batch, since a million small arrays weigh; the empty one is there for a video without frames.
    xyxy: list[NDArray[np.float32]] = field(default_factory=lambda: [np.zeros((0, 4), np.float32)])
    score: list[NDArray[np.float32]] = field(default_factory=lambda: [np.zeros(0, np.float32)])
    index: list[NDArray[np.int64]] = field(default_factory=lambda: [np.zeros(0, np.int64)])
    pts: list[NDArray[np.float64]] = field(default_factory=lambda: [np.zeros(0)])
    subject: list[pa.Array] = field(default_factory=list)  # who each box is, where a file of boxes says so
    size: tuple[int, int] = (0, 0)
    deep: bool = False  # whether a frame had more than 8 bits

    def take(self, frames: Frames, boxes: list[Boxes]) -> None:
        """Keep the boxes of one batch of frames."""
        self.index.append(frames.index)
        self.pts.append(frames.pts_seconds)
        self.counts += [len(b) for b in boxes]
        self.xyxy.append(np.concatenate([b.xyxy for b in boxes]))
        self.score.append(np.concatenate([b.score for b in boxes]))
        self.subject.append(pa.concat_arrays([b.subjects for b in boxes]))


@dataclass
class _Found:
    """What one decoder's pass over the video gave."""

    decoder: Decoder
    rows: _Rows = field(default_factory=_Rows)
    window: tuple[float, float] | None = None
    stream: FrameStream | None = None
    trouble: str | None = None
    whole: FinishedSpan | None = None  # of a video that was done span by span, all of it
    spans: int = 0

    @property
    def delivered(self) -> int:
        """How many frames the decoder gave."""
        if self.whole is not None:
            return self.whole.facts.end
        return self.stream.delivered if self.stream else 0

    @property
    def left_out(self) -> dict[str, int]:
        """How many pictures the decoder left out, by reason."""
        return self.stream.told if self.stream else {}

    def table(self, key: str) -> pa.Table:
        """Rows of BODIES."""
        return _table(key, self.rows) if self.whole is None else self.whole.rows

    @property
    def facts(self) -> SpanFacts:
        """What all frames have in common."""
        if self.whole is not None:
            return self.whole.facts
        repeated = self.stream.duplicates if self.stream else 0
        return SpanFacts(0, self.delivered, repeated, ("", ""), self.rows.size, self.rows.deep)


class Detect(Stage):
    """Person boxes in every frame (or every `stride`-th)."""

    name: ClassVar[str] = "detect"
    version: ClassVar[int] = 4
    reads: ClassVar[tuple[str, ...]] = ("media",)
    schema: ClassVar[pa.Schema] = BODIES
    tells: ClassVar[tuple[str, ...]] = _TOLD

    detector: SerializeAsAny[Detector] = Field(description="detector of bodies")
    decoder: SerializeAsAny[Decoder] = Field(default=Auto(), description="decoder of videos")
    normalise: Normalise = Field(
        default=Normalise(), description="conversion of sources above 8 bits to 8 bits for the detector"
    )
    stride: int = Field(default=1, ge=1, description="detect in every n-th frame")
    span_frames: int = Field(
        default=1800,
        ge=1,
        description="a longer video is cut into spans of whole groups of pictures, of at most so many frames: a batch "
        "ends with a span, workers share a video by its spans, and a run that was killed resumes from them",
    )
    incomplete: Literal["fail", "keep"] = Field(
        default="fail",
        description="for a damaged or short video. fail: the video fails; keep: keep the frames before the damage",
    )

    def identity(self, data: Path, key: str) -> dict[str, str]:
        """The content of weights or box files."""
        return self.detector.identity(data, key)

    def identities(self, data: Path) -> Callable[[str], dict[str, str]]:
        """The same for many videos."""
        return self.detector.identities(data)

    def without_effect(self, facts: Mapping[str, Any]) -> tuple[str, ...]:
        """`incomplete` for a sound video; `normalise` for a video of 8 bits; the engine, where it is the one asked for
        or none is.
        """
        found = ("incomplete",) if facts.get("incomplete", "") is None else ()
        if self.engine_asked and self.engine_asked.suits(facts.get("engine")):
            found = (*found, "detector.engine")
        return found + (_OF_DEEP if facts.get("deep") is False else ())

    @property
    def engine_asked(self) -> EngineAsked | None:
        """The detector's, of one that is a network."""
        return self.detector.engine_asked if isinstance(self.detector, NetworkDetector) else None

    @property
    def precision_asked(self) -> str | None:
        """The detector's, of one that is a network and has a choice."""
        return getattr(self.detector, "precision", None)

    def under(self, engine: str) -> Self:
        """The same stage with its detector under this engine."""
        return self.model_copy(update={"detector": self.detector.model_copy(update={"engine": engine})})

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Decode and detect; a decoder that fails is followed by the next, from the first frame."""
        plan = self._planned(inputs, context)
        found, troubles = self._by_spans(plan, plan.spans), list[str]()
        for decoder in plan.decoders if found is None else ():
            found = self._pass(decoder, plan)
            found.trouble = found.trouble or self._short(found, plan.path, inputs.video["n_frames"])
            if found.trouble is None:
                break
            troubles.append(f"{decoder.use}: {found.trouble}")
        assert found is not None
        if found.trouble is not None and not (self.incomplete == "keep" and found.delivered):
            advice = "; keep the frames before it with detect.incomplete=keep" if found.delivered else ""
            raise DecodeError("; then ".join(troubles) + advice)
        beyond = self.detector.beyond(context.data, key, found.delivered)
        facts = {
            **self._facts(found, troubles, plan),
            **self._remarks(inputs.video["path"], context),
            "boxes_beyond_the_end": beyond,
            **({"rows_left_out": left_out} if (left_out := self.detector.left_out(context.data, key)) else {}),
            **({"boxes_named": self.detector.unnamed(context.data, key)} if beyond is None else {}),
            **plan.placement,
        }
        return Made(found.table(key), facts, spent=plan.kept.all())

    def shares(self, video: Mapping[str, Any]) -> int:
        """As many as there are spans, where the header tells; without one, any number: a share may be empty."""
        frames = video["n_frames"]
        return 1 << 20 if frames is None else max(-(-frames // self.span_frames), 1)

    def process_share(self, key: str, inputs: Inputs, context: Context, number: int, of: int) -> Made:
        """Do the spans of a share, and keep them. A video that stays whole has none, nor one with a bad span."""
        plan = self._planned(inputs, context)
        count = len(plan.spans)
        self._by_spans(plan, plan.spans[number * count // of : (number + 1) * count // of])
        return super().process_share(key, inputs, context, number, of)

    def tidy(self, run: Run) -> None:
        """Remove spans of videos that are done."""
        tidy(run)

    def _planned(self, inputs: Inputs, context: Context) -> _Planned:
        """How a video is to be read. Raises DataError where boxes or the video cannot be right."""
        video, resources = inputs.video, context.resources
        key = video["video_id"]
        if video["problem"]:
            raise DecodeError(video["problem"])
        path = inputs.media(context.data)
        use_threads(resources.threads)
        placement = self._placement(video, context.data)
        run = self.detector.open(context.data, key, device=resources.device, threads=resources.threads)
        decoders = [candidate.of_band(video["band"]) for candidate in self.decoder.candidates(path)]
        engine = self.detector.remarks(context.data, device=resources.device, threads=resources.threads).engine
        made_from = [self.version, self.decisive(), self.identity(context.data, key), engine]
        kept = KeptSpans(inputs.run, key, [*made_from, video["sha256"] or video["stamp"], resources.batch])
        plan = _Planned(path, decoders, run, video, context, placement, kept)
        is_long = video["n_frames"] is None or video["n_frames"] > self.span_frames
        if is_long or self.normalise.samples(video["bit_depth"] or 8, video["n_frames"]):
            try:
                plan.cuts = decoders[0].cuts(path)
            except DecodeError as error:  # the pass meets the same trouble, and the next decoder may not
                plan.cuts = Cuts(whole=one_line(error))
        if is_long and len(spans := plan.cuts.spans(self.span_frames)) > 1:
            plan.spans = spans
        return plan

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Say where header, boxes made elsewhere and delivered frames do not agree."""
        warnings = []
        more = {k: f for k, f in facts.items() if f["declared"] is not None and f["delivered"] > f["declared"]}
        if more:
            key, first = next(iter(more.items()))
            one = f"{key}: {first['delivered']} delivered, {first['declared']} declared"
            warnings.append(
                f"detect: {counted(len(more), 'video has', 'videos have')} more frames than the header declares ({one})"
            )
        said, stop = _boxes_said(facts)
        warnings += [*_left_out(facts), *said]
        notes = [*_repeats_said(facts), *_whole_said(facts), *_given_said(facts), *_rows_left_out_said(facts)]
        doubts: dict[str, list[str]] = {}
        for key, found in facts.items():
            for doubt in found.get("doubts", []):
                doubts.setdefault(doubt, []).append(key)
        for doubt, keys in doubts.items():
            warnings.append(f"detect: {doubt} ({len(keys)} of {len(facts)} videos: {some(keys, 3)})")
        lines = dict.fromkeys(line for found in facts.values() for line in found.get("weights", []))
        notes += [f"detect: {line}" for line in lines]
        several = self.engine_asked.several(self.name, "boxes", facts) if self.engine_asked else []
        return Review(warnings=warnings, notes=notes, stop=stop, lasting=several)

    def _remarks(self, path: str, context: Context) -> dict[str, Any]:
        """What is to be reported of the weights, in this video: lines to know, and doubts."""
        resources = context.resources
        found = self.detector.remarks(context.data, device=resources.device, threads=resources.threads)
        misplaced = [MISPLACED] if found.rendered_only and not rendered(context.data, path) else []
        engine = {"engine": found.engine} if found.engine else {}
        return {"weights": list(found.lines), "doubts": [*found.doubts, *misplaced], **engine}

    def _placement(self, video: Mapping[str, Any], data: Path) -> dict[str, Any]:
        """Whether boxes made elsewhere can be of this video's picture. Raises DataError where they cannot."""
        boxes = self.detector.known_boxes(data, video["video_id"])
        if boxes is None or not len(boxes) or not video["width"] or not video["height"]:
            return {}
        self._check_size(video, data)
        found = place(boxes, video["width"], video["height"], sized=getattr(self.detector, "box", "") == "xywh")
        if found.wrong and getattr(self.detector, "check_boxes", True):
            raise DataError(
                f"body boxes: {found.wrong}; correct the file, or take them as they are with "
                "detect.detector.check_boxes=false"
            )
        counts = {"outside the picture": found.outside.sum(), "with a side below 2 px": found.tiny.sum()}
        words = [f"{count} of {len(boxes)} body boxes {what}" for what, count in counts.items() if count]
        return {"boxes_odd": "; ".join([*filter(None, [found.wrong or found.doubt]), *words])}

    def _check_size(self, video: Mapping[str, Any], data: Path) -> None:
        """Raise DataError where boxes made elsewhere are of pictures of another size, as their file says."""
        size, own = self.detector.picture_size(data, video["video_id"]), (video["width"], video["height"])
        if size is not None and size != own and getattr(self.detector, "check_boxes", True):
            theirs, ours = (f"{width}x{height}" for width, height in (size, own))
            raise DataError(
                f"body boxes: expected boxes of pictures of {ours}, as the video has them, got {theirs} by their file; "
                "scale them, or take them as they are with detect.detector.check_boxes=false"
            )

    def _by_spans(self, plan: _Planned, spans: Sequence[Span]) -> _Found | None:
        """Do spans that are not kept yet, each for itself; None where one is not sound, so that one pass is needed.

        Where all spans of the video are asked for, what they are as one is in the result.
        """
        if not spans:
            return None
        found = _Found(plan.decoders[0], spans=len(plan.spans))
        known = {span: part for span in spans if (part := plan.kept.get(span)) is not None}
        try:
            found.window = plan.kept.window(lambda: self._window(plan.decoders[0], plan))
            if not known and len(spans) == len(plan.spans):  # else crop decodes the video itself
                self._begin(plan, plan.decoders[0], found.window)
            for span, part in self._finished(plan, [s for s in spans if s not in known], found.window):
                plan.kept.put(span, part)
                known[span] = part
        except DecodeError:
            return None
        found.whole = joined([known[span] for span in spans])
        if found.whole is None or (len(spans) == len(plan.spans) and self._short(found, plan.path, plan.declared)):
            return None
        return found

    def _finished(
        self, plan: _Planned, spans: list[Span], window: tuple[float, float] | None
    ) -> Iterator[tuple[Span, FinishedSpan]]:
        """The spans, one after the other; the next one is decoded while the detector is at the end of one."""
        resources = plan.context.resources

        def batches() -> Iterator[tuple[tuple[Span, FrameStream], Frames | None]]:
            for span in spans:
                stream = plan.decoders[0].frames(
                    plan.path,
                    stride=self.stride,
                    part=(plan.cuts, span),
                    batch=resources.batch,
                    threads=resources.threads,
                )
                for frames in stream:
                    yield (span, stream), frames
                yield (span, stream), None

        rows = _Rows()
        for (span, stream), frames, boxes in self._boxes(batches(), window, plan):
            if frames is not None:
                self._take(frames, boxes, rows, plan)
                continue
            ends = digest_of(stream.ends[0]), digest_of(stream.ends[1])
            facts = SpanFacts(span.first, span.first + stream.delivered, stream.duplicates, ends, rows.size, rows.deep)
            yield span, FinishedSpan(_table(plan.video["video_id"], rows), facts)
            rows = _Rows()

    def _boxes(
        self, batches: Iterable[tuple[T, Frames | None]], window: tuple[float, float] | None, plan: _Planned
    ) -> Iterator[tuple[T, Frames | None, list[Boxes]]]:
        """Batches with their boxes, in order; without, where there is no frame. The caller's thread reads answers."""

        def prepared() -> Iterator[tuple[T, Frames | None, Any]]:
            for belongs_to, frames in batches:
                if frames is None:
                    yield belongs_to, None, None
                else:
                    shown = self.normalise.apply(frames.pixels, *(window or (0.0, 255.0)))
                    yield belongs_to, frames, plan.run.prepare(replace(frames, pixels=shown))

        def answer(item: tuple[T, Frames | None, Any]) -> Any:
            return None if item[1] is None else plan.run.run(item[2])

        for (belongs_to, frames, _), found in in_turn(answer, ahead(prepared(), 2)):
            yield belongs_to, frames, [] if frames is None else plan.run.read(frames, found)

    def _take(self, frames: Frames, boxes: list[Boxes], rows: _Rows, plan: _Planned) -> None:
        """Keep the boxes of a batch. Raises DecodeError where frames are not of the size of those before."""
        size = (frames.pixels.shape[2], frames.pixels.shape[1])
        if rows.counts and size != rows.size:
            was, now = ("x".join(map(str, s)) for s in (rows.size, size))
            raise DecodeError(f"frame {frames.index[0]}: expected {was} pixels as before, got {now}")
        rows.size, rows.deep = size, rows.deep or frames.pixels.dtype != np.uint8
        rows.take(frames, boxes)
        if plan.context.shared:
            plan.context.shared.take(frames, boxes)
        plan.context.progress(int(frames.index[-1]) + 1, plan.declared)

    def _begin(self, plan: _Planned, decoder: Decoder, window: tuple[float, float] | None) -> None:
        """Frames are handed on from the first one, where crop shares the pass."""
        if plan.context.shared:
            plan.context.shared.begin(decoder, window, self.stride)

    def _pass(self, decoder: Decoder, plan: _Planned) -> _Found:
        """One pass by one decoder over the whole video; where it fails, what came before, and the trouble."""
        found, resources = _Found(decoder), plan.context.resources
        try:
            found.window = self._window(decoder, plan)
            self._begin(plan, decoder, found.window)
            found.stream = decoder.frames(
                plan.path, stride=self.stride, batch=resources.batch, threads=resources.threads
            )
            for _, frames, boxes in self._boxes(((None, frames) for frames in found.stream), found.window, plan):
                if frames is not None:
                    self._take(frames, boxes, found.rows, plan)
        except DecodeError as error:
            found.trouble = one_line(error)
        return found

    def _window(self, decoder: Decoder, plan: _Planned) -> tuple[float, float] | None:
        """The values of a video above 8 bits that become black and white; reads what the policy needs.

        None where it is delivered in 8 bits.
        """
        if (plan.video["bit_depth"] or 8) <= 8:
            return None
        if decoder is plan.decoders[0] and len(numbers := self.normalise.chosen(plan.cuts)):
            with suppress(DecodeError):  # one pass shows what is wrong
                return self._window_of(
                    decoder.stills(plan.path, plan.cuts, numbers, plan.context.resources.threads), plan
                )
        resources = plan.context.resources
        return self._window_of(
            decoder.frames(plan.path, stride=self.stride, batch=resources.batch, threads=resources.threads), plan
        )

    def _window_of(self, frames: Iterable[Frames], plan: _Planned) -> tuple[float, float] | None:
        batches = iter(frames)
        first = next(batches, None)
        if first is None:
            raise DecodeError("no frame delivered")
        if first.pixels.dtype == np.uint8:
            return None
        depth = 16 if first.pixels.shape[3] == 3 else plan.video["bit_depth"]  # colour is delivered in 16 bits

        def alive() -> Iterator[Frames]:
            with suppress(DecodeError):  # the pass that detects meets the same damage, and reports it
                for frames in chain([first], batches):
                    plan.context.progress(0, plan.declared)
                    yield frames

        return self.normalise.window(ahead(alive()), depth)

    @staticmethod
    def _short(found: _Found, path: Path, declared: int | None) -> str | None:
        delivered = found.delivered
        if delivered == 0:
            return "no frame delivered"
        known = delivered + found.left_out.get("leading", 0)
        if declared is not None and known < declared and known + packets(path, found.decoder.stream).hidden < declared:
            return f"short: {delivered} frames delivered of {declared} that the header declares"
        return None

    def _facts(self, found: _Found, troubles: list[str], plan: _Planned) -> dict[str, Any]:
        facts = found.facts
        return {
            "decoder": found.decoder.use,
            "decoder_settings": found.decoder.model_dump(mode="json"),
            "fallback": troubles,
            "declared": plan.declared,
            "delivered": found.delivered,
            "duplicates": facts.duplicates,
            "left_out": found.left_out,
            "stride": self.stride,
            "width": facts.size[0],
            "height": facts.size[1],
            "window": found.window,
            "deep": facts.deep or found.window is not None,
            "incomplete": found.trouble,
            "spans": found.spans,
            **({"whole": plan.why_whole(found)} if found.delivered > self.span_frames and not found.spans else {}),
            "rows": {"bodies": found.table(plan.video["video_id"]).num_rows},
            **_given(found.table(plan.video["video_id"])),
        }


@dataclass
class _Planned:
    """How one video is to be read. spans: none where it is read in one pass."""

    path: Path
    decoders: list[Decoder]
    run: RunDetector
    video: Mapping[str, Any]
    context: Context
    placement: dict[str, Any]
    kept: KeptSpans
    cuts: Cuts = field(default_factory=lambda: Cuts(whole="it declares fewer frames than a span has"))
    spans: tuple[Span, ...] = ()

    @property
    def declared(self) -> int | None:
        """How many frames the header declares."""
        declared: int | None = self.video["n_frames"]
        return declared

    def why_whole(self, found: _Found) -> str:
        """Why a long video was read in one pass."""
        if self.cuts.whole:
            return self.cuts.whole
        return "a span of it did not decode as its packets say" if self.spans else "it is one group of pictures"


_LEFT_OUT: Final = {
    "leading": "{begin} within a group of pictures: {refer}, as players do ({first}: {count})",
    "joins": "{consist} of several recordings one behind the other, with times that start again ({first}: {after}); "
    "frames are counted through",
    "jumps": "{are} with a counter that jumps before a key picture ({first}: {times}): segments were joined there, or "
    "whole pictures are missing",
}
"""Lines on what a decoder left out or doubts, in the order in which they are printed."""


def _left_out(facts: dict[str, dict[str, Any]]) -> list[str]:
    """Lines on videos that are not whole, or not one recording."""
    lines = []
    for name, words in _LEFT_OUT.items():
        counts = {key: f["left_out"][name] for key, f in facts.items() if f["left_out"].get(name)}
        if counts:
            first, count = next(iter(counts.items()))
            videos, pictures = len(counts), sum(counts.values())
            said = words.format(
                first=first,
                count=count,
                after=count + 1,
                times=counted(count, "time"),
                begin=counted(videos, "video begins", "videos begin"),
                consist=counted(videos, "video consists", "videos consist"),
                are=counted(videos, "video is a transport stream", "videos are transport streams"),
                refer=counted(
                    pictures,
                    "picture before the first frame refers to what was cut off and is left out",
                    "pictures before the first frame refer to what was cut off and are left out",
                ),
            )
            lines.append(f"detect: {said}")
    return lines


def _boxes_said(facts: dict[str, dict[str, Any]]) -> tuple[list[str], str | None]:
    """What boxes made elsewhere make one wonder at, and why the run must stop: they name none of the videos."""
    warnings, stop = [], None
    late = {k: f["boxes_beyond_the_end"] for k, f in facts.items() if f["boxes_beyond_the_end"]}
    if late:
        key, count = next(iter(late.items()))
        warnings.append(
            f"detect: {counted(len(late), 'video has', 'videos have')} boxes in frames after the last ({key}: "
            f"{counted(count, 'box')} from frame {facts[key]['delivered']} on); is detect.detector.frame_base right?"
        )
    odd = {k: f["boxes_odd"] for k, f in facts.items() if f.get("boxes_odd")}
    warnings += [f"detect: {k}: {words}" for k, words in list(odd.items())[:3]]
    if len(odd) > 3:
        warnings.append(f"detect: so are boxes of {counted(len(odd) - 3, 'other video')}")
    without = [k for k, f in facts.items() if f["boxes_beyond_the_end"] is None]
    if without:
        shown = some([one_line(k, 80) for k in without], 3)
        named = facts[without[0]].get("boxes_named", "")
        words = f"the boxes file does not name {counted(len(without), 'video')} ({shown}): no detections there"
        if named and len(without) == len(facts):
            stop = f"{words}; {named}; write the video_ids of this data set"
        else:
            warnings.append(f"detect: {words}" + (f"; {named}" if named else ""))
    return warnings, stop


def _given(bodies: pa.Table) -> dict[str, int]:
    """How many bodies are named by a file of boxes; nothing where none is."""
    count = bodies.num_rows - bodies["subject_id"].null_count
    return {"given": count} if count else {}


def _rows_left_out_said(facts: dict[str, dict[str, Any]]) -> list[str]:
    """How many rows of files of boxes were no box of a person, and why."""
    counts, videos = Counter[str](), 0
    for found in facts.values():
        counts.update(found.get("rows_left_out", {}))
        videos += "rows_left_out" in found
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    return [f"detect: left out of the files of boxes of {counted(videos, 'video')}: {reasons}"] if counts else []


def _given_said(facts: dict[str, dict[str, Any]]) -> list[str]:
    """How many bodies a file of boxes names, of all videos."""
    given = {key: found["given"] for key, found in facts.items() if found.get("given")}
    if not given:
        return []
    bodies = sum(facts[key]["rows"]["bodies"] for key in given)
    named = f"{sum(given.values())} of {counted(bodies, 'body')}"
    return [f"detect: the files of boxes name {named} in {counted(len(given), 'video')}"]


def _repeats_said(facts: dict[str, dict[str, Any]]) -> list[str]:
    """How many frames repeat the one before, of all videos."""
    same = {k: f["duplicates"] for k, f in facts.items() if f["duplicates"]}
    if not same:
        return []
    key = max(same, key=lambda k: same[k])
    return [
        f"detect: {counted(sum(same.values()), 'frame equals', 'frames equal')} the frame before, pixel by pixel, in "
        f"{counted(len(same), 'video')} (most in {key}: {same[key]} of {facts[key]['delivered']})"
    ]


def _whole_said(facts: dict[str, dict[str, Any]]) -> list[str]:
    """Which long videos were read whole, by one worker each, and why."""
    reasons: dict[str, list[str]] = {}
    for key, found in facts.items():
        if found.get("whole"):
            reasons.setdefault(found["whole"], []).append(key)
    return [
        f"detect: {len(keys)} long videos have no spans, so that one worker read each whole: {reason} ({some(keys, 3)})"
        for reason, keys in reasons.items()
    ]


def _table(key: str, found: _Rows) -> pa.Table:
    """Rows of BODIES, by frame, the detector's best first."""
    counts = np.array(found.counts, np.int64)
    index = np.repeat(np.concatenate(found.index), counts)
    pts = np.repeat(np.concatenate(found.pts), counts)
    number = np.concatenate([np.zeros(0, np.int64), *(np.arange(n) for n in found.counts)])
    boxes, score = np.concatenate(found.xyxy), np.concatenate(found.score)
    body_id, video_id = item_ids(key, index, number), pa.repeat(pa.scalar(key), len(index))
    columns = [body_id, video_id, index, pts, *boxes.T, score, pa.chunked_array(found.subject, pa.string())]
    return pa.table([np.ascontiguousarray(c) if isinstance(c, np.ndarray) else c for c in columns], schema=BODIES)
