"""What is due, and why: the receipts on disk against the receipts that the settings and data ask for.

Nothing here runs a stage or writes a file. A receipt's fingerprint depends on settings, versions and the content of
the parts upstream, which stands in their footers: no table is read, and none is hashed again. Of a part that is due
nobody knows the content yet: what is made from it is due, too, until it is made; the same content again makes nothing
due. A setting that had no effect on a unit, as its receipt tells, is not compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mdfpipe.errors import DataError, one_line
from mdfpipe.stages import Inputs, Stage
from mdfpipe.stages.index import Index
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.naming import file_name
from mdfpipe.store.run import DAMAGED, Failure, Receipt, Run, faces_file, fingerprint, images_file
from mdfpipe.store.shapes import lacking

_OF_INDEX = ("catalogue", "media", "faces", "images")  # what a stage may read of it
_TO_BE_MADE = "to be made"  # in the place of the content of a part that is due
_WITHOUT_CONTENT = "an earlier version of mdfpipe made it, which did not note its content"


@dataclass(frozen=True, eq=False)
class Item:
    """One unit of work and its state.

    reason: why it is due; None where it is done. blocked: which stage it waits for. problem: why it cannot even
    be tried (a file it needs is missing or damaged). damaged: whether it is due only because what was made is damaged.
    """

    stage: Stage
    expected: Receipt
    reason: str | None
    blocked: str | None = None
    problem: str | None = None
    found: Receipt | None = None  # the receipt on disk, where the unit is done
    damaged: bool = False

    @property
    def key(self) -> str:
        """The video_id, or the name of the run-level table."""
        return self.expected.key

    @property
    def content(self) -> str:
        """What the part holds, where it is done, as what is made from it knows it."""
        return self.found.content if self.found else _TO_BE_MADE

    def __str__(self) -> str:
        return f"{self.stage.name}/{self.key}: {self.reason or 'done'}"


@dataclass(eq=False)
class Plan:
    """The state of a run folder under given stages and data root, read once; `forget` what was run."""

    stages: tuple[Stage, ...]  # the first is Index
    run: Run
    data: Path
    allow_missing: bool = False
    retry: bool = False  # whether videos that could not be read make the index due again
    _items: dict[tuple[str, str], Item] = field(default_factory=dict)
    _failed: dict[str, frozenset[str]] = field(default_factory=dict)

    @cached_property
    def _settings(self) -> dict[str, dict[str, Any]]:
        return {stage.name: stage.decisive() for stage in self.stages}

    @cached_property
    def index(self) -> Item:
        """The index's own state."""
        stage = self.stages[0]
        assert isinstance(stage, Index)
        known = self.run.receipt(stage.name, stage.table)
        item = self._judge(stage, stage.table, stage.identity(self.data, stage.table, known), None)
        unreadable = item.found.facts["unreadable"] if item.found else []
        if (
            unreadable and self.retry
        ):  # nothing about the files changed, but a mount, a permission or a library may have
            return replace(item, reason=f"{len(unreadable)} videos could not be read")
        return item

    @cached_property
    def catalogue(self) -> dict[str, dict[str, Any]]:
        """The rows of the videos table by video_id; empty while there is no index."""
        if self.index.found is None:
            return {}
        rows = self.run.table("index", self.index.key).to_pylist()
        return {row["video_id"]: row for row in rows}

    @cached_property
    def annotated(self) -> dict[str, str]:
        """The digests of the tables beside the index, of faces and of images, by their names under the run folder."""
        return {name: digest for name, (_, digest) in self.index.found.files.items()} if self.index.found else {}

    def items(self, stage: Stage) -> list[Item]:
        """The state of every unit of a stage. The index must be done."""
        if stage.name == self.stages[0].name:
            return [self.index]
        if stage.per == "run":
            return [self.run_item(stage)]
        return [self.item(stage, video_id) for video_id in self.catalogue]

    def item(self, stage: Stage, video_id: str) -> Item:
        """The state of one video in a per-video stage."""
        known = self._items.get((stage.name, video_id))
        if known is None:
            known = self._items[stage.name, video_id] = self._video_item(stage, video_id)
        return known

    def _video_item(self, stage: Stage, video_id: str) -> Item:
        upstream: dict[str, str] = {}
        blocked = None
        for name in stage.reads:
            up = None if name in _OF_INDEX else self._named(name)
            if up is not None and up.per == "run":
                upstream[name], undone = self._of_run(stage, up, video_id)
            else:
                upstream[name], undone = self._upstream(name, video_id)
            blocked = blocked or undone
        try:
            upstream |= stage.identity(self.data, video_id)
        except DataError as error:  # this video's trouble; a ConfigError is everybody's
            expected = Receipt(stage.name, stage.version, video_id, self._settings[stage.name], upstream)
            return Item(stage, expected, one_line(error), blocked, one_line(error))
        return self._judge(stage, video_id, upstream, blocked)

    def forget(self, stage: Stage) -> None:
        """Look again at a stage, and at those after it, because something of it was run."""
        names = [s.name for s in self.stages]
        later = names[names.index(stage.name) :]
        self._items = {unit: item for unit, item in self._items.items() if unit[0] not in later}
        self._failed = {}
        if stage.name == self.stages[0].name:
            for name in ("index", "catalogue", "annotated"):
                self.__dict__.pop(name, None)

    def has_failed(self, stage: str, key: str) -> bool:
        """Whether there is a record that a unit failed, or that its part is damaged."""
        if stage not in self._failed:
            self._failed[stage] = self.run.failed(stage)
        return file_name(key) in self._failed[stage]

    def missing(self, stage: Stage) -> list[Item]:
        """The videos that a run-level stage waits for: the items upstream that are not done."""
        upstream = [self._named(name) for name in stage.reads if name != "catalogue"]
        return [item for up in upstream if up.per == "video" for item in self.items(up) if item.reason is not None]

    def waits(self, stage: Stage) -> Item | None:
        """The run-level table that a stage waits for, if there is one: no option goes on without it."""
        named = [self._named(name) for name in stage.reads if name not in _OF_INDEX]
        undone = (self.run_item(up) for up in named if up.per == "run" and up.name != self.stages[0].name)
        return next((item for item in undone if item.reason is not None), None)

    def run_item(self, stage: Stage) -> Item:
        """The state of a run-level stage."""
        known = self._items.get((stage.name, stage.key))
        if known is None:
            known = self._items[stage.name, stage.key] = self._run_item(stage)
        return known

    def inputs(self, item: Item) -> Inputs:
        """What the unit of `item` may read."""
        if item.stage.name == self.stages[0].name:
            return Inputs(self.run)
        if item.stage.per == "run":
            undone = frozenset((i.stage.name, i.key) for i in self.missing(item.stage))
            left_out = tuple(sorted({key for _, key in undone}))
            done = tuple(v for v in self.catalogue if v not in left_out)
            return Inputs(self.run, videos=done, missing=left_out, undone=undone, annotated=self.annotated)
        own = (faces_file(item.key), images_file(item.key))
        annotated = {name: self.annotated[name] for name in own if name in self.annotated}
        return Inputs(self.run, video=self.catalogue[item.key], annotated=annotated)

    def _upstream(self, name: str, video_id: str) -> tuple[str, str | None]:
        """The content of one thing that a video's stage reads, and the stage it waits for."""
        if name == "media":
            row = self.catalogue[video_id]
            return fingerprint(row["sha256"] or [row["stamp"], row["problem"]]), None
        if name == "faces":
            return self._content_of(faces_file(video_id)), None
        if name == "images":
            return self._content_of(images_file(video_id)), None
        item = self.item(self._named(name), video_id)
        return item.content, (None if item.reason is None else name)

    def _of_run(self, stage: Stage, up: Stage, key: str) -> tuple[str, str | None]:
        """The same of a run-level part: what of it decides the rows of `key`, where it is done."""
        item = self.run_item(up)
        if item.found is None:
            return item.content, up.name
        return stage.slice_of(item.found, self.run, key), None

    def _run_item(self, stage: Stage) -> Item:
        upstream = stage.identity(self.data, stage.key)
        missing = {item.key for item in self.missing(stage)}
        for name in stage.reads:
            if name == "catalogue":
                lasting = [
                    {k: v for k, v in row.items() if k not in ("stamp", "bytes", "real_path")}
                    for row in self.catalogue.values()
                ]
                upstream[name] = fingerprint([lasting, self._content_of(Index.subjects_file)])
                continue
            up = self._named(name)
            if up.per == "run":
                upstream[name], _ = self._of_run(stage, up, stage.key)
                continue
            for item in self.items(up):
                if not (self.allow_missing and item.key in missing):
                    upstream[f"{name}/{item.key}"] = item.content
        if self.allow_missing:  # who is annotated in a video that is left out decides whose mates are known
            upstream |= {f"faces/{key}": self._content_of(faces_file(key)) for key in missing}
        waits = self.waits(stage)
        blocked = waits.stage.name if waits else None if self.allow_missing or not missing else stage.reads[-1]
        return self._judge(stage, stage.key, upstream, blocked)

    def _content_of(self, name: str) -> str:
        files = self.index.found.files if self.index.found else {}
        return files.get(name, (0, "none"))[1]

    def _named(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def _judge(self, stage: Stage, key: str, upstream: dict[str, str], blocked: str | None) -> Item:
        expected = Receipt(stage.name, stage.version, key, self._settings[stage.name], upstream)
        found = self.run.receipt(stage.name, key)
        damage, other = self._damage(expected, found), self._reason(stage, expected, found)
        reason = other or (f"damaged, made again: {damage}" if damage else None)
        due = found if reason is None else None
        return Item(stage, expected, reason, blocked if reason else None, None, due, reason is not None and not other)

    def _reason(self, stage: Stage, expected: Receipt, found: Receipt | None) -> str | None:
        """Why a unit is due whose part is as it was made, or is not there."""
        if found is None:
            failure = self._failure(expected)
            if failure is not None and failure.kind != DAMAGED:
                return f"failed: {failure.message}"
            there = failure is not None or self.run.part(expected.stage, expected.key).exists()
            return None if there else "never made"
        if not found.content:
            return _WITHOUT_CONTENT
        before, now = stage.decided(found, found.facts), stage.decided(expected, found.facts)
        return None if before.fingerprint == now.fingerprint else explain(before, now)

    def _damage(self, expected: Receipt, found: Receipt | None) -> str | None:
        """What is known to be damaged of a part, or of the files that belong to it. No table is read for that."""
        noted = self._failure(expected)
        if noted is not None and noted.kind == DAMAGED:
            return noted.message
        if found is None:
            place = self.run.part(expected.stage, expected.key)
            return "its part cannot be read" if noted is None and place.exists() else None
        if found.content and (fact := lacking(found.stage, found.facts)):
            return f"its receipt does not say {fact}"
        return self.run.files_in_place(found) or self._other_content(found)

    def _failure(self, expected: Receipt) -> Failure | None:
        there = self.has_failed(expected.stage, expected.key)
        return self.run.failure(expected.stage, expected.key) if there else None

    def _other_content(self, found: Receipt) -> str | None:
        """Which files are no longer those that were made, though of their size, of those that `run` itself reads.

        Weights and the numbers that it prints; all other files, those that read them compare, or `mdfpipe verify`.
        """
        for name, (_, digest) in found.files.items():
            own = (".pt", "/metrics.json", "/comparisons.parquet")
            if name.endswith(own) and file_sha256(self.run.path / name) != digest:
                return f"{name} is not the file that was made: its content changed"
        return None


def explain(old: Receipt, new: Receipt, limit: int = 4) -> str:
    """Why `new` is not `old`, in a few words: "min_overlap 0.5 -> 0.7", "weights changed".

    >>> explain(Receipt("label", 1, "V", {"min_overlap": 0.5}, {}), Receipt("label", 1, "V", {"min_overlap": 0.7}, {}))
    'min_overlap 0.5 -> 0.7'
    """
    words = [f"version {old.version} -> {new.version}"] if old.version != new.version else []
    before, after = dict(_flat(old.settings)), dict(_flat(new.settings))
    names = sorted(before.keys() | after.keys())
    for other in [n for n in names if n.endswith(".use") and before.get(n) != after.get(n)]:
        names = [n for n in names if n == other or not n.startswith(other.removesuffix("use"))]  # says it all
    for name in names:
        a, b = before.get(name, "unset"), after.get(name, "unset")
        if a != b:
            words.append(f"{name} {_shown(a)} -> {_shown(b)}")
    for name in sorted(old.upstream.keys() | new.upstream.keys()):
        if name not in old.upstream:
            words.append(f"{name} added")
        elif name not in new.upstream:
            words.append(f"{name} removed")
        elif old.upstream[name] != new.upstream[name]:
            words.append(f"{name} {'is made again' if new.upstream[name] == _TO_BE_MADE else 'changed'}")
    more = [f"and {len(words) - limit} more"] if len(words) > limit else []
    return ", ".join(words[:limit] + more) or "its receipt differs"


def _shown(value: Any) -> str:
    """A setting as one writes it in a study.

    >>> _shown(["train", "test"]), _shown(None), _shown(True), _shown(0.5)
    ('[train, test]', 'none', 'true', '0.5')
    """
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
