"""Receipts, the facts in them, failures and events: what a run declares, and the one check of its shape.

Others may have written these files, and disks damage them. What has another shape is none of ours: a receipt of another
shape belongs to no part, which is then made again, and an event or a failure of another shape says nothing. Who reads
past this check may rely on the types below. A fact that is not listed is not looked at.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from typing import Annotated, Any, Final, NotRequired, Self

from annotated_types import Ge, Len
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json
from typing_extensions import TypedDict

from mdfpipe.store.hashing import fingerprint

Count = Annotated[int, Ge(0)]
Counts = dict[str, Count]
Texts = list[str]
Window = Annotated[list[float], Len(2, 2)]


@dataclass(frozen=True)
class Receipt:
    """What a part was made from; kept in its footer.

    settings: those that were decisive. upstream: name -> content of everything it was made from. files: path under the
    run folder -> (size in bytes, sha256; "" of a log) of what belongs to the part. facts: what the stage observed
    (frames delivered, thresholds found, rows by status, ...): reported, never part of the fingerprint. tells: the names
    of the facts that later stages read. content: the hash of what those find here, of rows, files, and the facts that
    it tells; "" where it was not taken: before the commit, and in a part of an earlier version.
    """

    stage: str
    version: int
    key: str
    settings: dict[str, Any]
    upstream: dict[str, str]
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    tells: tuple[str, ...] = ()
    content: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """The hash of what decides the rows: stage, version, key, settings, upstream."""
        return fingerprint([self.stage, self.version, self.key, self.settings, self.upstream])

    def decides_as(self, other: Self) -> bool:
        """Whether both have one fingerprint; no hash is taken."""
        if not self.made_as(other):
            return False
        return self.settings is other.settings or _text(self.settings) == _text(other.settings)

    def made_as(self, other: Self) -> bool:
        """Whether both have the same stage, version, key, and content of what they are made from."""
        mine, theirs = ((r.stage, r.version, r.key, r.upstream) for r in (self, other))
        return mine == theirs

    def without(self, names: Iterable[str]) -> Self:
        """The same, but for the settings of these dotted names.

        >>> Receipt("detect", 1, "V", {"stride": 1, "normalise": {"low": 0, "clahe": False}}, {}).without(
        ...     ["stride", "normalise.low"]
        ... ).settings
        {'normalise': {'clahe': False}}
        """
        return replace(self, settings=_without(self.settings, set(names)))

    def to_bytes(self) -> bytes:
        """The receipt as it is in the footer."""
        # vars, because asdict copies deeply, which takes ten times as long
        return json.dumps({**vars(self), "fingerprint": self.fingerprint}, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Receipt":
        """The receipt in a footer. Raises ValueError where it is not one, or was edited."""
        receipt, claimed = _shaped(_parsed(data))
        if receipt.fingerprint != claimed:
            raise ValueError("the receipt does not match its own fingerprint")
        return receipt


def from_index(settings: str, rest: str) -> Receipt | None:
    """A receipt that was read from a footer before, given as two texts of JSON; None where they are none.

    Receipts with the same settings share them. Its fingerprint was compared when it was read.
    """
    try:
        shared, parsed = _parsed_once(settings), from_json(rest)
        if not (isinstance(shared, dict) and isinstance(parsed, dict)):
            return None
        return _shaped(parsed | {"settings": {}}, shared)[0]
    except (TypeError, ValueError):
        return None


def _shaped(parsed: Any, settings: dict[str, Any] | None = None) -> tuple[Receipt, str]:
    """A receipt of the right shape, and the fingerprint that it claims; settings: instead of its own.

    Raises ValueError.
    """
    fields = _checked(_Receipt, parsed)
    claimed = fields.pop("fingerprint")
    fields["settings"] = fields["settings"] if settings is None else settings  # as they are: validation copies
    receipt = Receipt(**fields)
    kind = _FACTS.get(receipt.stage.partition("/")[0])
    if kind is not None:
        _checked(kind, receipt.facts, facts=True)
    return receipt, claimed


@dataclass(frozen=True)
class Failure:
    """Why a unit of work failed: kind is the error's class; traceback only for an unexpected error."""

    stage: str
    key: str
    kind: str
    message: str
    traceback: str = ""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The failure in a record. Raises ValueError where it is none."""
        return cls(**dict(_checked(_Failure, _parsed(data))))


class _Receipt(TypedDict):  # and no model: of 100,000 receipts, three times as fast
    """A Receipt as the footer of a part has it."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]

    fingerprint: str
    stage: str
    version: int
    key: str
    settings: dict[str, Any]
    upstream: dict[str, str]
    files: dict[str, Annotated[tuple[Count, Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]], Field(strict=False)]]
    facts: dict[str, Any]
    tells: NotRequired[Annotated[tuple[str, ...], Field(strict=False)]]
    content: NotRequired[str]


class _Failure(BaseModel):
    """The record of a unit that failed, or of a part that is damaged."""

    model_config = ConfigDict(strict=True, extra="forbid")

    stage: str
    key: str
    kind: str
    message: str
    traceback: str = ""


class _Event(BaseModel):
    """A line of events.jsonl, as far as anything reads it."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    time: float
    event: str
    stage: str = ""
    key: str = ""
    done: Count | None = None
    total: Count | None = None
    seconds: Annotated[float, Ge(0)] = 0.0
    device: str = ""
    worker: str = ""
    words: str = ""


# -- facts: what the stages write down, by stage


class _LeftOutRule(TypedDict):
    rule: str
    count: Count
    example: str


class _OfIndex(TypedDict):
    frame_base: NotRequired[int]
    anomalies: Counts
    left_out: NotRequired[list[_LeftOutRule]]
    left_out_rows: NotRequired[Count]
    detected_faces: NotRequired[Count]
    unusual: Texts
    unreadable: Texts
    remarks: Texts
    images: NotRequired[Count]
    not_as_published: NotRequired[Texts]


class _Engine(TypedDict):
    name: str
    version: str
    precision: str


class _OfDetect(TypedDict):
    decoder: str
    decoder_settings: NotRequired[dict[str, Any] | None]
    fallback: NotRequired[Texts]
    declared: int | None
    delivered: Count
    duplicates: Count
    left_out: Counts
    stride: Annotated[int, Ge(1)]
    width: Count
    height: Count
    window: Window | None
    deep: NotRequired[bool]
    incomplete: str | None
    rows: Counts
    boxes_beyond_the_end: Count | None
    boxes_named: NotRequired[str]
    boxes_odd: NotRequired[str]
    spans: NotRequired[Count]
    whole: NotRequired[str]
    doubts: NotRequired[Texts]
    weights: NotRequired[Texts]
    engine: NotRequired[_Engine]


class _OfTrack(TypedDict):
    tracks: Count
    longest: Count
    rows: Counts
    fps: float | None
    remarks: NotRequired[Texts]
    file: NotRequired[Counts]


class _Alignment(TypedDict):
    verdict: str
    offset: int | None
    pairs: Count
    overlap: dict[str, float]
    detrended_overlap: dict[str, float]
    advice: str


class _OfLabel(TypedDict):
    rows: Counts
    faces: Count
    faces_beyond_the_end: NotRequired[Count]
    frames_annotated: Count
    subjects: Counts
    nobody: NotRequired[str]
    alignment: NotRequired[_Alignment]


class _OfCrop(TypedDict):
    rows: Counts
    window: NotRequired[Window | None]
    subjects: NotRequired[Counts]
    left_without: NotRequired[dict[str, Texts]]
    bad: NotRequired[dict[str, str]]
    encoded_anew: NotRequired[Count]
    turned: NotRequired[Count]


class _Cell(TypedDict):
    split: str
    role: str
    domain: str
    modality: str
    rows: Count
    subjects: Count
    videos: Count


class _Outside(TypedDict):
    domain: str
    rows: Count
    subjects: Count
    videos: Count


class _Unreadable(TypedDict):
    rows: Count
    domain: str
    split: str
    status: str


class _OfManifest(TypedDict):
    protocol: str
    missing: Texts
    counts: list[_Cell]
    outside: NotRequired[list[_Outside]]
    no_role: Counts
    domains_without_videos: Texts
    domains_without_rows: Texts
    failed: NotRequired[list[_Unreadable]]


class _LeftOut(TypedDict, total=False):
    subjects: Count
    of: Count
    without: Counts


class _OfTrain(TypedDict):
    start: Texts
    told: Texts
    left_out: NotRequired[_LeftOut]
    subjects: NotRequired[Texts]
    notes: Texts
    doubts: NotRequired[Texts]
    unreadable: NotRequired[dict[str, str]]
    epochs: int
    steps: int
    stopped: str
    set_aside: NotRequired[Texts]
    best_epoch: NotRequired[int | None]
    last: dict[str, float]


class _OfEmbed(TypedDict):
    rows: Counts
    engine: NotRequired[_Engine]
    bad: NotRequired[dict[str, str]]


class _Table(TypedDict):
    systems: Texts
    title: str
    protocol: str | None
    coverage: Texts
    notes: Texts


class _OfEvaluate(TypedDict):
    none: str
    tables: dict[str, _Table]
    missing: Texts


_FACTS: Final[dict[str, Any]] = {
    "index": _OfIndex,
    "detect": _OfDetect,
    "track": _OfTrack,
    "label": _OfLabel,
    "crop": _OfCrop,
    "manifest": _OfManifest,
    "train": _OfTrain,
    "embed": _OfEmbed,
    "evaluate": _OfEvaluate,
}


def lacking(stage: str, facts: Mapping[str, Any]) -> str:
    """The first of the facts that every part of a stage has and this one does not; "" where it has all."""
    kind = _FACTS.get(stage.partition("/")[0])
    if kind is None or kind.__required_keys__ <= facts.keys():
        return ""
    return str(min(kind.__required_keys__ - facts.keys()))


def checked_event(line: bytes) -> dict[str, Any]:
    """A line of events.jsonl, with all that it holds. Raises ValueError."""
    found = _parsed(line)
    _checked(_Event, found)
    return dict(found)


_text = json.JSONEncoder(sort_keys=True, default=str).encode  # as `fingerprint` has it: 1 is neither 1.0 nor True


def _without(settings: dict[str, Any], names: set[str]) -> dict[str, Any]:
    kept = {}
    for name, value in settings.items():
        inner = {dotted.removeprefix(f"{name}.") for dotted in names if dotted.startswith(f"{name}.")}
        if name not in names:
            kept[name] = _without(value, inner) if inner and isinstance(value, dict) else value
    return kept


@cache
def _validator(kind: Any) -> Any:
    return TypeAdapter(kind).validator.validate_python


def _checked(kind: Any, found: Any, *, facts: bool = False) -> Any:
    """What was found, validated. facts: strictly, and names of its own may be missing. Raises ValueError."""
    try:
        return _validator(kind)(found, strict=facts or None)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)
    for one in errors:
        if not (facts and one["type"] == "missing" and len(one["loc"]) == 1):
            raise ValueError(f"{'.'.join(map(str, one['loc']))}: {one['msg']}")
    return found


@lru_cache(maxsize=64)
def _parsed_once(text: str) -> Any:
    return _parsed(text)


def _parsed(data: bytes | str) -> Any:
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
