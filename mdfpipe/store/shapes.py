"""Shapes of what a run declares: receipts, the facts in them, failures and events. Their one check.

Others may have written these files, and disks damage them. What has another shape is none of ours: a receipt of another
shape belongs to no part, which is then made again, and an event or a failure of another shape says nothing. Who reads
past this check may rely on the types below. A name that is not listed is not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Final

from annotated_types import Ge, Len
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

Count = Annotated[int, Ge(0)]
Counts = dict[str, Count]
Texts = list[str]
Window = Annotated[list[float], Len(2, 2)]


class _Receipt(BaseModel):
    """The footer of a part: see `store.run.Receipt`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    fingerprint: str
    stage: str
    version: int
    key: str
    settings: dict[str, Any]
    upstream: dict[str, str]
    files: dict[str, Annotated[tuple[Count, Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]], Field(strict=False)]]
    facts: dict[str, Any]
    tells: Annotated[tuple[str, ...], Field(strict=False)] = ()
    content: str = ""


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


# -- facts: what the stages write down, by stage


class _LeftOutRule(TypedDict):
    rule: str
    count: Count
    example: str


class _OfIndex(TypedDict, total=False):
    frame_base: int
    anomalies: Counts
    left_out: list[_LeftOutRule]
    left_out_rows: Count
    unusual: Texts
    unreadable: Texts
    remarks: Texts
    images: Count
    not_as_published: Texts


class _OfDetect(TypedDict, total=False):
    decoder: str
    decoder_settings: dict[str, Any] | None
    fallback: Texts
    declared: int | None
    delivered: Count
    duplicates: Count
    left_out: Counts
    stride: Annotated[int, Ge(1)]
    width: Count
    height: Count
    window: Window | None
    deep: bool
    incomplete: str | None
    rows: Counts
    boxes_beyond_the_end: Count | None
    boxes_named: str
    boxes_odd: str
    doubts: Texts
    weights: Texts


class _Alignment(TypedDict):
    verdict: str
    offset: int | None
    pairs: Count
    overlap: dict[str, float]
    detrended_overlap: dict[str, float]
    advice: str


class _OfLabel(TypedDict, total=False):
    rows: Counts
    faces: Count
    faces_beyond_the_end: Count
    frames_annotated: Count
    subjects: Counts
    nobody: str
    alignment: _Alignment


class _OfCrop(TypedDict, total=False):
    rows: Counts
    window: Window | None
    subjects: Counts
    bad: dict[str, str]
    encoded_anew: Count
    turned: Count


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


class _OfManifest(TypedDict, total=False):
    protocol: str
    missing: Texts
    counts: list[_Cell]
    outside: list[_Outside]
    no_role: Counts
    domains_without_videos: Texts
    domains_without_rows: Texts
    failed: list[_Unreadable]


class _LeftOut(TypedDict, total=False):
    subjects: Count
    of: Count
    without: Counts


class _OfTrain(TypedDict, total=False):
    start: Texts
    told: Texts
    left_out: _LeftOut
    subjects: Texts
    notes: Texts
    doubts: Texts
    unreadable: dict[str, str]
    epochs: int
    steps: int
    stopped: str
    set_aside: Texts
    best_epoch: int | None
    last: dict[str, float]


class _OfEmbed(TypedDict, total=False):
    rows: Counts
    bad: dict[str, str]


class _Table(TypedDict):
    systems: Texts
    title: str
    protocol: str | None
    coverage: Texts
    notes: Texts


class _OfEvaluate(TypedDict, total=False):
    none: str
    tables: dict[str, _Table]
    missing: Texts


_FACTS: Final[dict[str, Any]] = {
    "index": _OfIndex,
    "detect": _OfDetect,
    "label": _OfLabel,
    "crop": _OfCrop,
    "manifest": _OfManifest,
    "train": _OfTrain,
    "embed": _OfEmbed,
    "evaluate": _OfEvaluate,
}
_ALWAYS: Final[dict[str, frozenset[str]]] = {
    "index": frozenset(("anomalies", "unusual", "unreadable", "remarks")),
    "detect": frozenset(
        (
            *("decoder", "declared", "delivered", "duplicates", "left_out", "stride", "width", "height", "window"),
            *("incomplete", "rows", "boxes_beyond_the_end"),
        )
    ),
    "label": frozenset(("rows", "faces", "frames_annotated", "subjects")),
    "crop": frozenset(("rows",)),
    "manifest": frozenset(
        ("protocol", "missing", "counts", "domains_without_rows", "domains_without_videos", "no_role")
    ),
    "train": frozenset(("start", "told", "notes", "steps", "epochs", "stopped", "last")),
    "embed": frozenset(("rows",)),
    "evaluate": frozenset(("none", "tables", "missing")),
}
"""The facts that each part has, so that the stage's review may rely on them."""


@cache
def _facts_of(stage: str) -> TypeAdapter[Any] | None:
    kind = _FACTS.get(stage.partition("/")[0])
    return TypeAdapter(kind) if kind is not None else None


def checked_receipt(data: bytes) -> dict[str, Any]:
    """The fields of a receipt, and its `fingerprint`, whose facts are of its stage. Raises ValueError."""
    fields = _checked(_Receipt, data)
    facts, stage = fields["facts"], fields["stage"].partition("/")[0]
    adapter = _facts_of(stage)
    if adapter is not None:
        try:
            adapter.validate_python(facts, strict=True)
        except ValidationError as error:
            raise ValueError(_in_words(error)) from None
    return fields


def lacking(stage: str, facts: Mapping[str, Any]) -> str:
    """The first of the facts that a part of a stage has and this one does not; "" where it has all."""
    return min(_ALWAYS.get(stage.partition("/")[0], frozenset()) - facts.keys(), default="")


def checked_failure(data: bytes) -> dict[str, str]:
    """The fields of a failure. Raises ValueError."""
    return _checked(_Failure, data)


def checked_event(line: bytes) -> dict[str, Any]:
    """A line of events.jsonl, with all that it holds. Raises ValueError."""
    found = _parsed(line)
    try:
        _Event.model_validate(found)
    except ValidationError as error:
        raise ValueError(_in_words(error)) from None
    return dict(found)


def _checked(model: type[BaseModel], data: bytes) -> dict[str, Any]:
    try:
        return dict(model.model_validate(_parsed(data)))
    except ValidationError as error:
        raise ValueError(_in_words(error)) from None


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _in_words(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(place) for place in first['loc'])}: {first['msg']}"
