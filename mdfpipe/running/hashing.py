"""Hashing: the units that hash new videos before the index is made, and how far all of them are together."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from mdfpipe.running.execution import Event, Unit
from mdfpipe.stages import Inputs
from mdfpipe.stages.hashing import MEGABYTE, Hash, KeptHashes, ToHash, in_units, unit_of
from mdfpipe.stages.index import Index
from mdfpipe.store.run import Receipt, Run

ALL: Final = "MB of videos"
"""The key of the events of all units together, and what they count."""


class Hashing:
    """The videos of which an index needs the content, and the units that hash them; none where they are few.

    stamps: of the sources of the index, as its receipt has them.
    """

    def __init__(self, stage: Index, run: Run, data: Path, stamps: Mapping[str, str]) -> None:
        units = in_units(stage.to_hash(run, data, stamps))
        self.run = run
        self.videos: list[ToHash] = [video for videos in units for video in videos]
        self.bytes = sum(video.size for video in self.videos)
        self.units = [_unit(run, data, videos) for videos in units]

    def __str__(self) -> str:
        return f"videos to hash: {len(self.videos)}, {self.bytes / 1e9:.1f} GB"

    def events(self, events: Iterable[Event]) -> Iterator[Event]:
        """The events of the units, and after each the progress of all (`ALL`), which ends with the last one."""
        began, done = time.monotonic(), dict[str, int]()
        total = self.bytes // MEGABYTE
        yield Event("started", Hash.name, ALL)
        for event in events:
            if event.stage == Hash.name and event.kind == "progress":
                done[event.key] = max(event.done, done.get(event.key, 0))
                if event.seconds:
                    yield Event("finished", Hash.name, event.key, seconds=event.seconds, worker=event.worker)
                    continue
                yield event
                yield Event("progress", Hash.name, ALL, min(sum(done.values()), total), total)
            else:
                yield event
        seconds, kept = time.monotonic() - began, KeptHashes(self.run).all()
        count = sum(kept.get(video.path, ("",))[0] == video.stamp for video in self.videos)
        words = f"{self.bytes / 1e9:.1f} GB, {self.bytes / 1e6 / max(seconds, 1e-3):.0f} MB/s"
        yield Event("finished", Hash.name, ALL, rows=count, seconds=seconds, words=words)


def is_for_people(event: Event) -> bool:
    """Whether an event is more than one unit's own, of which there are many."""
    return event.stage != Hash.name or event.key == ALL or event.kind == "again"


def _unit(run: Run, data: Path, videos: list[ToHash]) -> Unit:
    row, stage = unit_of(videos), Hash()
    receipt = Receipt(stage.name, stage.version, row["video_id"], stage.decisive(), {})
    return Unit(stage, receipt, Inputs(run, video=row), data, share=(0, 1))
