"""SharedPass: one pass over a video for detect and for crop. What will be cut out is cut while its frame is there.

The label of a body depends on the boxes and faces of its own frame alone, so `detect` hands its frames on, with their
boxes, and they are labelled and cut at once. The three stages then make their parts from their inputs as ever: `label`
from the part of detect, `crop` from both. Only where `crop` finds that exactly the boxes that it wants were cut, from
the frames that it would decode, does it take these crops; else it decodes the video itself, and `again` says why. So no
error here is a failure: a stage of its own comes across the same trouble and reports it.

Labels and crops are made in a thread of their own, so that the detector need not wait for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mdfpipe.errors import one_line
from mdfpipe.stages import Context, Inputs
from mdfpipe.stages.crop import Crop, Cutouts
from mdfpipe.stages.cutter import Cutter
from mdfpipe.stages.label import Label
from mdfpipe.store import images
from mdfpipe.store.tables import CORNERS, item_ids
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.frames import Boxes, Frames

BEFORE: Final = "all or some of their boxes were made before, by other workers or by one that was lost"
"""Why crop decodes a video again that did not come here from its first frame on: no trouble."""


class SharedPass:
    """Crops that are cut while `detect` decodes a video. Use as a context: what `crop` left is removed at its end."""

    def __init__(self, key: str, label: Label, crop: Crop, inputs: Inputs, context: Context) -> None:
        """label, crop: the stages that follow. inputs: of crop. context: gives places for its files."""
        self.key, self.label, self.crop, self.inputs, self.context = key, label, crop, inputs, context
        self.again = BEFORE  # why crop decodes the video itself; "" where it need not
        self._files: dict[str, Path] = {}  # the shards by modality
        self._seen: dict[str, Any] = {}  # of the frames, as crop finds it in the part of detect
        self._cuts: list[Cutouts] = []  # of each batch, in the order in which they were cut
        self._cutter: Cutter | None = None
        self._open = ExitStack()
        self._faces: pa.Table | None = None  # in the order of their frames
        self._thread = ThreadPoolExecutor(1, "shared-pass")
        self._at_work: Future[None] | None = None  # the batch that is labelled and cut

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._drop()
        self._thread.shutdown()

    def begin(self, decoder: Decoder, window: tuple[float, float] | None, stride: int) -> None:
        """A decoder begins with the first frame; what was cut of frames of another one is dropped.

        window: the values of a video above 8 bits that are black and white. stride: every n-th frame comes.
        """
        self._drop()
        self._seen = {"decoder_settings": decoder.model_dump(mode="json"), "stride": stride, "window": window}
        self.again = ""
        try:
            if self._faces is None:
                faces = self.inputs.faces()
                self._faces = faces.take(pc.sort_indices(faces["frame"]))  # stable: rows of a frame keep their order
            self._files = {m: self.context.scratch(f"{self.key}.{m}.tar") for m in self.crop.sizes}
            cutter = self.crop.cutter(self._files, window or images.EIGHT_BITS, self.context.resources)
            self._cutter = self._open.enter_context(cutter)
        except Exception as error:
            self._give_up(error)

    def take(self, frames: Frames, boxes: list[Boxes]) -> None:
        """Cut what will be wanted out of a batch of frames, after the batch before it. boxes: those of each frame."""
        try:
            self._wait()
        except Exception as error:
            self._give_up(error)
        if self._cutter is not None:
            self._at_work = self._thread.submit(self._cut_out, self._cutter, frames, boxes)

    def _cut_out(self, cutter: Cutter, frames: Frames, boxes: list[Boxes]) -> None:
        cuts = self._wanted(frames, boxes)
        self._cuts.append(cuts)
        by_frame = cuts.by_frame()
        for number, image in zip(frames.index.tolist(), frames.pixels, strict=True):
            if number in by_frame:
                cuts.hand(cutter, image, by_frame[number])

    def _wait(self) -> None:
        """Wait for the batch at work. Raises what went wrong with it."""
        at_work, self._at_work = self._at_work, None
        if at_work is not None:
            at_work.result()

    def cut(self, cuts: Cutouts, seen: Mapping[str, Any]) -> dict[str, Path] | None:
        """The shards by modality, where these boxes were cut; what became of each is then in `cuts`. None otherwise.

        seen: what detect tells of the video.
        """
        try:
            self._wait()
            if self._cutter is None:
                return None
            stored = self._cutter.finish()
            self._open.close()
        except Exception as error:
            self._give_up(error)
            return None
        self._cutter = None
        as_seen = all(seen[name] == value for name, value in self._as_told().items())
        if not (as_seen and cuts.are_those_of(self._cuts)):
            self.again = "what was cut while detect ran is not what crop wants; please report this"
            return None
        cuts.stored[cuts.in_order()] = stored
        return self._files

    def _as_told(self) -> dict[str, Any]:
        """What detect tells of frames like those that came here, as its receipt has it."""
        window = self._seen["window"]
        return self._seen | {"window": None if window is None else list(window)}

    def _wanted(self, frames: Frames, boxes: list[Boxes]) -> Cutouts:
        """What crop will want of a batch of frames, by the labels of its bodies."""
        assert self._faces is not None
        first, last = int(frames.index[0]), int(frames.index[-1])
        counts = [len(found) for found in boxes]
        frame = np.repeat(frames.index, counts)
        number = np.concatenate([np.arange(count) for count in counts])
        corners = np.concatenate([found.xyxy for found in boxes]).T
        bodies = pa.table(
            {
                "body_id": item_ids(self.key, frame, number),
                "frame": frame,
                **{name: np.ascontiguousarray(plane) for name, plane in zip(CORNERS, corners, strict=True)},
                "score": np.concatenate([found.score for found in boxes]),
                "subject_id": pa.concat_arrays([found.subjects for found in boxes]),
            }
        )
        start, end = np.searchsorted(self._faces["frame"].to_numpy(), [first, last + 1])
        faces = self._faces.slice(start, end - start)
        person = self.inputs.video.get("subject_id")
        labels = self.label.rows_of(bodies, faces, frames.pixels.shape[2], frames.pixels.shape[1], person)
        seen = {"delivered": last + 1, "stride": self._seen["stride"]}
        cuts, _ = self.crop.wanted(self.key, bodies, labels, faces, seen)
        self.crop.leave_out(cuts, frames.pixels.shape[2], frames.pixels.shape[1])
        return cuts

    def _give_up(self, error: Exception) -> None:
        why = one_line(error, 160)
        self.again = f"cutting while detect ran failed: {type(error).__name__}{f': {why}' if why else ''}"
        self._drop()

    def _drop(self) -> None:
        """Forget what was cut, and remove it."""
        with suppress(Exception):
            self._wait()
        if self._cutter is not None:
            with suppress(Exception):
                self._open.__exit__(InterruptedError, InterruptedError(), None)  # its shards need not be whole
        self._cutter, self._cuts, self._open = None, [], ExitStack()
        for path in self._files.values():
            path.unlink(missing_ok=True)
        self._files = {}
