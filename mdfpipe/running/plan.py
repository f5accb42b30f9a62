"""What is due, and why: receipts on disk compared with the receipts that settings and data ask for.

Nothing here runs a stage or reads a table: receipts are in the footers of parts, and `Ledger` has them together. The
content of a part that is due is unknown, so what is made from it is due, too, until it is made. A setting that had no
effect on a unit, by its receipt, is not compared. `Plan` alone decides whether a part is current: see `standing`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from mdfpipe.errors import Damaged, DataError, MdfError, counted, one_line
from mdfpipe.stages import TO_BE_MADE, Inputs, Stage
from mdfpipe.stages.evaluate import Evaluate
from mdfpipe.stages.index import Index
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.ledger import Ledger
from mdfpipe.store.naming import file_name
from mdfpipe.store.receipts import lacking
from mdfpipe.store.results import KEY
from mdfpipe.store.run import DAMAGED, Failure, Receipt, Run, faces_file, fingerprint, images_file
from mdfpipe.study.study import KEPT, Study, open_run

OF_INDEX = ("catalogue", "media", "person", "faces", "images")
"""What a stage may read of the index, as receipts name it upstream."""

_WITHOUT_CONTENT = "an earlier version of mdfpipe made it, which did not note its content"


@dataclass(frozen=True, eq=False)
class Item:
    """One unit of work and its state.

    reason: why it is due; None if it is done. blocked: the stage that it waits for. problem: why it cannot be tried (a
    file that it needs is missing or damaged). damaged: whether it is due only because its part is damaged.
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
        return self.found.content if self.found else TO_BE_MADE

    def __str__(self) -> str:
        return f"{self.stage.name}/{self.key}: {self.reason or 'done'}"


@contextmanager
def _without_collection() -> Iterator[None]:
    """Nothing is searched for garbage inside: what is made of 100,000 videos stays. It saves a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True, eq=False)
class _Pair:
    """Settings of two receipts, and whether they are the same. While it is kept, no others have their `id`."""

    one: dict[str, Any]
    other: dict[str, Any]
    same: bool


@dataclass(eq=False)
class Plan:
    """The state of a run folder under given stages and data root, read once; `forget` what was run."""

    stages: tuple[Stage, ...]  # the first is Index
    run: Run
    data: Path
    allow_missing: bool = False
    retry: bool = False  # whether videos that could not be read make the index due again
    offline: bool = False  # what lies outside the run folder cannot be read: it is taken to be as the receipts say
    _items: dict[tuple[str, str], Item] = field(default_factory=dict)
    _alike: dict[tuple[int, int, tuple[str, ...]], _Pair] = field(default_factory=dict)
    _failed: dict[str, frozenset[str]] = field(default_factory=dict)

    @cached_property
    def receipts(self) -> Ledger:
        """The receipts on disk. Plans of one run may share them."""
        return Ledger(self.run)

    @cached_property
    def _settings(self) -> dict[str, dict[str, Any]]:
        return {stage.name: stage.decisive() for stage in self.stages}

    @cached_property
    def _identities(self) -> dict[str, Callable[[str], dict[str, str]]]:
        """What else each stage was made from, by key: what all videos share is looked up once."""
        return {stage.name: stage.identities(self.data) for stage in self.stages}

    @cached_property
    def index(self) -> Item:
        """The index's own state."""
        stage = self.stages[0]
        assert isinstance(stage, Index)
        known = self.receipts(stage.name, stage.table)
        before = known.upstream if known else {}
        sources = before if self.offline else stage.identity(self.data, stage.table, known)
        item = self._judge(stage, stage.table, sources, None)
        if self.offline and item.damaged and known is not None:  # what was made from a file is no other without it
            item = replace(item, reason=None, found=known)
        unreadable = item.found.facts["unreadable"] if item.found else []
        if unreadable and self.retry:  # no file changed, but a mount, a permission or a library may have
            return replace(item, reason=f"{counted(len(unreadable), 'video')} could not be read")
        return item

    @cached_property
    def catalogue(self) -> dict[str, dict[str, Any]]:
        """The rows of the videos table by video_id; empty while there is no index."""
        if self.index.found is None:
            return {}
        return {row["video_id"]: row for row in self.run.table("index", self.index.key).to_pylist()}

    @cached_property
    def annotated(self) -> dict[str, str]:
        """Digests of the tables of the index, of faces and of images, by their names under the run folder."""
        return {name: digest for name, (_, digest) in self.index.found.files.items()} if self.index.found else {}

    def items(self, stage: Stage) -> list[Item]:
        """The state of every unit of a stage. The index must be done."""
        if stage.name == self.stages[0].name:
            return [self.index]
        if stage.per == "run":
            return [self.run_item(stage)]
        with _without_collection():
            return [self.item(stage, video_id) for video_id in self.catalogue]

    def item(self, stage: Stage, key: str) -> Item:
        """The state of one unit: of a video in a per-video stage, or of a run-level stage."""
        known = self._items.get((stage.name, key))
        if known is None:
            known = self._run_item(stage) if stage.per == "run" else self._video_item(stage, key)
            self._items[stage.name, key] = known
        return known

    def run_item(self, stage: Stage) -> Item:
        """The state of a run-level stage."""
        return self.item(stage, stage.key)

    def _video_item(self, stage: Stage, video_id: str) -> Item:
        upstream: dict[str, str] = {}
        blocked = None
        for name in stage.reads:
            upstream[name], undone = self._upstream(stage, name, video_id)
            blocked = blocked or undone
        try:
            upstream |= self._identity(stage, video_id)
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
        self.receipts.forget(*later)
        self.__dict__.pop("_identities", None)
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
        """The run-level table that a stage waits for, if there is one: no option continues without it."""
        named = [self._named(name) for name in stage.reads if name not in OF_INDEX]
        undone = (self.run_item(up) for up in named if up.per == "run" and up.name != self.stages[0].name)
        return next((item for item in undone if item.reason is not None), None)

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

    def _upstream(self, stage: Stage, name: str, key: str) -> tuple[str, str | None]:
        """The content of one thing that a unit reads, and the stage that it waits for."""
        if name == "media":
            row = self.catalogue[key]
            return fingerprint(row["sha256"] or [row["stamp"], row["problem"]]), None
        if name == "person":
            return fingerprint(self.catalogue[key]["subject_id"]), None
        if name in ("faces", "images"):
            return self._content_of((faces_file if name == "faces" else images_file)(key)), None
        up = self._named(name)
        if up.per == "video":
            item = self.item(up, key)
            return item.content, (None if item.reason is None else name)
        item = self.run_item(up)
        return (item.content, name) if item.found is None else (stage.slice_of(item.found, self.run, key), None)

    def _run_item(self, stage: Stage) -> Item:
        upstream = self._identity(stage, stage.key)
        missing = {item.key for item in self.missing(stage)}
        for name in stage.reads:
            if name == "catalogue":
                lasting = [
                    {k: v for k, v in row.items() if k not in ("stamp", "bytes", "real_path")}
                    for row in self.catalogue.values()
                ]
                sources = [self._content_of(Index.sources_file)] * (Index.sources_file in self.annotated)
                upstream[name] = fingerprint([lasting, self._content_of(Index.subjects_file), *sources])
                continue
            up = self._named(name)
            if up.per == "run":
                upstream[name], _ = self._upstream(stage, name, stage.key)
                continue
            for item in self.items(up):
                if not (self.allow_missing and item.key in missing):
                    upstream[f"{name}/{item.key}"] = item.content
        if self.allow_missing:  # who is annotated in a video that is left out decides whose mates are known
            upstream |= {f"faces/{key}": self._content_of(faces_file(key)) for key in missing}
        waits = self.waits(stage)
        blocked = waits.stage.name if waits else None if self.allow_missing or not missing else stage.reads[-1]
        return self._judge(stage, stage.key, upstream, blocked)

    def _identity(self, stage: Stage, key: str) -> dict[str, str]:
        """What else a stage was made from: files and settings outside the run folder."""
        try:
            return self._identities[stage.name](key)
        except MdfError:
            if not self.offline:
                raise
            found, read = self.receipts(stage.name, key), (*stage.reads, "faces")
            known = found.upstream if found else {}
            return {n: v for n, v in known.items() if not any(f"{n}/".startswith(f"{r}/") for r in read)}

    def cause(self, item: Item) -> Item:
        """The first unit because of which a unit is due: one that it was made from, or the unit itself."""
        for up in (self._named(name) for name in item.stage.reads if name not in OF_INDEX):
            all_of_it = up.per == "run" or item.stage.per == "run"
            units = self.items(up) if all_of_it else [self.item(up, item.key)]
            for unit in units:
                names = (up.name, f"{up.name}/{unit.key}")
                if unit.reason is not None and TO_BE_MADE in (item.expected.upstream.get(name) for name in names):
                    return self.cause(unit)
        found = self.receipts(item.stage.name, item.key) if self.allow_missing and item.stage.per == "run" else None
        known = found.facts.get("missing") or [] if found else []
        lost = (unit for unit in self.missing(item.stage) if unit.key not in known) if found else ()
        return next((self.cause(unit) for unit in lost), item)

    def _content_of(self, name: str) -> str:
        files = self.index.found.files if self.index.found else {}
        return files.get(name, (0, "none"))[1]

    def _named(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def _judge(self, stage: Stage, key: str, upstream: dict[str, str], blocked: str | None) -> Item:
        expected = Receipt(stage.name, stage.version, key, self._settings[stage.name], upstream)
        found = self.receipts(stage.name, key)
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
        if found.made_as(expected) and self._same_settings(stage, found, expected):
            return None
        return explain(stage.decided(found, found.facts), stage.decided(expected, found.facts))

    def _same_settings(self, stage: Stage, found: Receipt, expected: Receipt) -> bool:
        """Whether the decisive settings of receipts that were made alike are the same; each pair is compared once."""
        pair = (id(found.settings), id(expected.settings), stage.without_effect(found.facts))
        known = self._alike.get(pair)
        if known is None:
            same = stage.decided(found, found.facts).decides_as(stage.decided(expected, found.facts))
            known = self._alike[pair] = _Pair(found.settings, expected.settings, same)
        return known.same

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
        """Which file that `run` itself reads (weights, printed numbers) is not what was made, though of its size.

        All other files are compared where they are read, and by `mdfpipe verify`.
        """
        own = (".pt", "/metrics.json", "/comparisons.parquet")
        for name, (_, digest) in found.files.items():
            if name.endswith(own) and file_sha256(self.run.path / name) != digest:
                return f"{name} is not the file that was made: its content changed"
        return None


# -- whether what lies there is current


class Currency(StrEnum):
    """Whether a part is what the study of its run asks for. unknown: not everything that decides it can be read."""

    CURRENT = "current"
    STALE = "stale"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Standing:
    """The currency of a part of a run. why: what differs, what cannot be read, or what a reader should know."""

    run: str
    currency: Currency
    why: str = ""

    @property
    def words(self) -> str:
        """The currency, and why."""
        return f"{self.currency.replace('stale', 'out of date')}{f': {self.why}' if self.why else ''}"

    @property
    def stamp(self) -> str:
        """Note to print with everything from the part; "" where it is current."""
        if self.currency is Currency.CURRENT:
            return ""
        if self.currency is Currency.STALE:
            return f"{self.run}: OUT OF DATE, not what its study gives now: {self.why}"
        return f"{self.run}: whether this is up to date is unknown: its data or its study cannot be read here"


def standing(path: Path, stage: str, key: str) -> Standing:
    """Whether a part of the run folder `path` is current under the study that the folder keeps.

    Without the data, only receipts and study are compared: stale by these is stale, anything else unknown. Videos that
    a part was made without, by its own receipt, are no reason. A folder of `mdfpipe score` has no study: its numbers
    are current as long as this version would make the same. Raises Damaged.
    """
    run, name = Run(path), path.resolve().name
    if not (path / KEPT).exists() and not _has_index(path):
        found = run.receipt(stage, key)
        if found is None or found.version == Evaluate.version:
            return Standing(name, Currency.CURRENT)
        why = f"version {found.version} -> {Evaluate.version}; score the vectors again"
        return Standing(name, Currency.STALE, why)
    try:
        study, run, data = open_run(path)
    except MdfError as error:
        return Standing(name, Currency.UNKNOWN, str(error))
    stages, more = _asked_for(study, run, stage, key)
    unread = "" if data.is_dir() else f"the data are not at {data}"
    for offline in (False, True) if not unread else (True,):
        try:
            stale = _stale(Plan(stages, run, data, made_without(run), offline=offline), stage, key)
        except Damaged:
            raise
        except MdfError as error:
            unread = unread or str(error)
            continue
        if stale:
            return Standing(name, Currency.STALE, stale)
        return Standing(name, Currency.UNKNOWN, unread) if offline else Standing(name, Currency.CURRENT, more)
    return Standing(name, Currency.UNKNOWN, unread)


def _has_index(path: Path) -> bool:
    """Whether a folder holds anything of an index. The record of a failure, which is in `failed`, is nothing of it."""
    return any(place.name != "failed" for place in (path / "index").glob("*"))


def made_without(run: Run) -> bool:
    """Whether videos were left out of what a run folder holds, by --allow-missing."""
    receipts = (run.receipt(*part) for part in (("manifest", "manifest"), (Evaluate.name, KEY)))
    return any(found is not None and bool(found.facts.get("missing")) for found in receipts)


class Judge:
    """Compares the receipts of a run folder with the study that it keeps, without the data.

    unread: why no study can be read; then nothing is compared. receipts: those that it compares.
    """

    def __init__(self, path: Path) -> None:
        self.unread, self._plan, self.receipts = "", None, Ledger(Run(path))
        self._failed: dict[str, frozenset[str]] = {}
        try:
            study, run, data = open_run(path)
            self._plan = Plan(study.stages, run, data, made_without(run), offline=True)
            self._plan.receipts = self.receipts
        except MdfError as error:
            self.unread = str(error)

    def __call__(self, stage: str, key: str) -> str:
        """Why the part of a stage for a key is not current; "" where it is."""
        return "" if self._plan is None else _stale(self._plan, stage, key)

    def failure(self, stage: str, key: str) -> Failure | None:
        """Why a unit failed when it was last tried; the records of a stage are listed once."""
        run = self.receipts.run
        if stage not in self._failed:
            self._failed[stage] = run.failed(stage)
        return run.failure(stage, key) if file_name(key) in self._failed[stage] else None


def _asked_for(study: Study, run: Run, stage: str, key: str) -> tuple[tuple[Stage, ...], str]:
    """The stages of a study, its evaluation as far as the one that is there goes; and what that is without."""
    found = run.receipt(stage, key) if stage == Evaluate.name else None
    if found is None:
        return study.stages, ""
    systems = found.settings.get("systems", [])
    without = [name for name in study.trainings if name not in systems]
    rest = (one for one in study.stages if not isinstance(one, Evaluate))
    more = f"evaluated without {', '.join(without)}, which the study also names" if without else ""
    return (*rest, *study.evaluating(systems)), more


def _stale(plan: Plan, stage: str, key: str) -> str:
    """Why a part is not current; "" where it is. Raises MdfError where what decides it cannot be read."""
    asked = next((one for one in plan.stages if one.name == stage), None)
    if asked is None:
        return f"the study has no {stage}" + (" of these systems and tables" if stage == Evaluate.name else "")
    if plan.index.reason is not None:
        return str(plan.index)
    if stage == plan.index.stage.name:
        return ""
    if asked.per == "video" and key not in plan.catalogue:
        return f"the index has no video {one_line(key, 80)}"
    item = plan.run_item(asked) if asked.per == "run" else plan.item(asked, key)
    return "" if item.reason is None else str(plan.cause(item))


def current(path: Path, stage: str, key: str, *, allow_stale: bool | None = False) -> Standing:
    """The standing of a part that is about to be shown. Raises DataError if it is stale, unless that is allowed.

    allow_stale: None where an output has no place for a stamp, and so no such option.
    """
    found = standing(path, stage, key)
    if found.currency is Currency.STALE and not allow_stale:
        advice = "" if allow_stale is None else ", --allow-stale shows it as it is with a stamp"
        raise DataError(
            f"{path}: expected {stage}/{key} as the study of the run gives it now, found it out of date: {found.why}; "
            f"`mdfpipe run` makes it again{advice}"
        )
    return found


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
            words.append(f"{name} {'is made again' if new.upstream[name] == TO_BE_MADE else 'changed'}")
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
