"""Pooling: the vectors of many crops become one template.

Rows of a manifest say what each vector is of; the vectors come in blocks, in the order of the rows, and none is kept.
Every way of pooling is a weighted mean, so that sums are all that stays in memory: 16 bytes for a value of a template.

**The same bytes for any order of rows and size of blocks.** Floating-point sums depend on their order, so the
terms are first made to fit a grid: each is cut into a coarse part, a multiple of 2**-14, and a fine part, a multiple of
2**-44. Sums of either are exact in float64, hence independent of order (pre-rounding: Demmel and Nguyen 2013), as long
as no value exceeds 2**13 and no template has more than 2**24 crops; both are checked. A term loses 2**-45 at most,
which is why vectors shorter than 2**-14 are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.errors import DataError, counted
from mdfpipe.store.templates import B8, F32, I64, Templates, Text, items_of

By = Literal["subject", "template_id", "sighting"]
Sighting = Literal["video_id", "track", "session_id", "camera_id", "crop_id"]
Apart = Literal["session_id", "video_id", "camera_id"]
Pooling = Literal["mean", "media_mean", "norm_weighted", "quality_weighted", "quality_aware"]
FailurePolicy = Literal["miss", "exclude"]

LARGEST: Final = 2.0**13  # value of a vector
SHORTEST: Final = 2.0**-14  # length of a vector
MOST_CROPS: Final = 1 << 24  # of one template
CHUNK_BYTES: Final = 1 << 20  # of float64 vectors at a time: what a cache holds
_TO_COARSE: Final = 1.5 * 2.0 ** (52 - 14)  # adding and taking off again rounds to a multiple of 2**-14
_TO_FINE: Final = 1.5 * 2.0 ** (52 - 44)

F64 = NDArray[np.float64]

_KEY = ("subject", "domain", "modality", "split", "role")
_COLUMNS = ("subject_id", *_KEY[1:])


@dataclass(frozen=True)
class Rule:
    """How crops become templates. A template never mixes modalities, splits or roles.

    by: one per `subject`, domain and modality (the paper's subject-specific modelling); per `template_id` of the data
    set; or per `sighting`: what one video (or track, session, camera, crop) shows of a subject in a domain. Rows of no
    track are together one template of their video.
    pooling: `mean` of the crops (the paper); `media_mean`: the mean of each video, then over videos (IJB-B, IJB-C);
    `norm_weighted`: the sum of norm times unit vector over the sum of norms (AdaFace, whose norm tells quality; of
    vectors as they come from the network it points where `mean` does); `quality_weighted`: by a column of the manifest;
    `quality_aware`: by several quality components, learned on training subjects (`quality.py`).
    normalise_first: crops to length 1 before `mean`, `media_mean`, `quality_weighted`; the others always do.
    quality: the column for `quality_weighted`. sighting: what a sighting is.
    """

    by: By = "subject"
    pooling: Pooling = "mean"
    normalise_first: bool = False
    quality: str = "box_height_px"
    sighting: Sighting = "video_id"

    @property
    def column(self) -> str:
        """The column that tells a subject's templates in a domain apart, or nothing."""
        return {"subject": "", "template_id": "template_id", "sighting": self.sighting}[self.by]

    @property
    def unit(self) -> str:
        """What a template is, in a word."""
        return self.by if self.by != "sighting" else self.sighting.removesuffix("_id")


def pool(
    rows: pa.Table,
    blocks: Iterable[F32],
    rule: Rule = Rule(),
    *,
    usable: B8 | None = None,
    norms: F32 | None = None,
    log_weights: F64 | None = None,
    expected: pa.Table | None = None,
) -> Templates:
    """Templates of vectors that come in blocks of any size, (b, D) float32, in the order of `rows`. Raises DataError.

    rows: columns of the manifest: subject_id, domain, modality, split, role, video_id, and what the rule asks for.
    usable: (N,) whether a row has a vector; what the others bring is not looked at. norms: (N,) for `norm_weighted`,
    the lengths of vectors that were stored with length 1. log_weights: (N,) for `quality_aware`, logarithms of the
    weights. expected: rows of what should exist, with the same key columns: a template without a usable vector failed
    to enrol.
    """
    quality = [rule.quality] if rule.pooling == "quality_weighted" else []
    _check_columns(rows, [*_key_columns(rule), "video_id", *quality])
    if expected is not None:
        _check_columns(expected, _key_columns(rule))
    group, templates = _grouped(rows, expected, rule)
    is_usable = np.ones(rows.num_rows, bool) if usable is None else _per_row("usable", usable, rows).astype(bool)
    media = _media(rows, group, is_usable)
    if rule.pooling == "quality_aware":
        weight = _of_logarithms(log_weights, rows, group, is_usable)
    else:
        weight = _weights(rows, rule, group, media, is_usable, norms)
    sums, lengths = _summed(blocks, group, is_usable, weight, rule, norms is not None, len(templates))
    if rule.pooling == "norm_weighted" and norms is None:
        weight = lengths
        _refuse_equal_lengths(lengths[is_usable])
    total = _in_order(group, np.where(is_usable, weight, 0), len(templates))
    crops = np.bincount(group[is_usable], minlength=len(templates))
    vectors = (sums / np.where(total > 0, total, 1)[:, None]).astype(np.float32)
    cancelled = np.flatnonzero((crops > 0) & ~vectors.any(axis=1))
    if len(cancelled):
        name = templates.name[cancelled[0]]
        raise DataError(f"template {name}: its vectors add up to zero, which has no direction; are they embeddings?")
    return replace(
        templates,
        vectors=vectors,
        crops=crops,
        media=np.bincount(group[media.first], minlength=len(templates)),
        unusable=np.bincount(group[~is_usable], minlength=len(templates)),
    )


# -- which rows make which template


def members(rows: pa.Table, rule: Rule) -> tuple[I64, list[str]]:
    """The template that each row belongs to, by place among the names of all templates."""
    group, templates = _grouped(rows, None, rule)
    return group, templates.name


def _key_columns(rule: Rule) -> list[str]:
    return [*_COLUMNS, rule.column] if rule.column else [*_COLUMNS]


def evenly(rows: pa.Table, group: I64, most: int) -> tuple[I64, B8]:
    """(N,) rows sorted by group and time; and in that order, which are the `most` of each group that are evenly spread
    over its crops, or all where there are no more.
    """
    order = np.lexsort((_codes(rows, "crop_id"), rows["frame"].to_numpy(), _codes(rows, "video_id"), group))
    return order, _spread(group[order], most)


def best(rows: pa.Table, group: I64, most: int, quality: F64) -> tuple[I64, B8]:
    """The same with the crops of the highest quality (N,) first, of which each group keeps `most`."""
    order = np.lexsort((_codes(rows, "crop_id"), rows["frame"].to_numpy(), -quality, group))
    place, _ = _places(group[order])
    return order, place < most


def tracks(rows: pa.Table) -> I64:
    """(N,) the track of each row and who it shows in it, a number. What a video has of a subject of no track is one."""
    names = (*_COLUMNS, "video_id")
    coded = [_codes(rows, name) for name in names]
    track = pc.fill_null(rows["track"], -1).to_numpy().astype(np.int64)
    found: I64 = np.unique(np.stack([*coded, track], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    return found


def _places(group: I64) -> tuple[I64, I64]:
    """(N,) the place of each row in its group, from 0, and the group's size. group: ascending."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(np.append(starts, len(group)))
    return np.arange(len(group)) - np.repeat(starts, sizes), np.repeat(sizes, sizes)


def _spread(group: I64, most: int) -> B8:
    """Whether a row is in the middle of one of `most` equal shares of its group, or the group has no more."""
    place, size = _places(group)
    share = -((size - 2 * place * most) // (2 * size))  # the first one whose middle is not before this place
    kept: B8 = (size <= most) | (2 * size * share < 2 * (place + 1) * most - size)
    return kept


def without_track(rows: pa.Table, modality: str, what: str) -> str:
    """A line that counts the rows of a modality that are of no track, if there are any. what: they are in a video."""
    own = rows.filter(pc.equal(rows["modality"].cast(pa.string()), modality))
    nowhere = own.filter(pc.is_null(own["track"]))
    if not nowhere.num_rows:
        return ""
    people = nowhere.select(["subject_id", "domain", "video_id"]).group_by(["subject_id", "domain", "video_id"])
    return (
        f"{nowhere.num_rows} of {counted(own.num_rows, f'{modality} row')} are of no track: what a video has of them "
        f"of a subject {what}, {people.aggregate([]).num_rows} in all"
    )


def column_weights(rows: pa.Table, column: str) -> F64:
    """(N,) the weights of rows with vectors by one column. Raises DataError."""
    _check_columns(rows, [column])
    given: F64 = rows[column].to_numpy().astype(np.float64)
    _refuse_wrong_weights(f"quality column {column}", given)
    return given


def _check_columns(rows: pa.Table, wanted: list[str]) -> None:
    for name in wanted:
        if name not in rows.column_names:
            known = ", ".join(rows.column_names)
            raise DataError(f"templates: expected a column {name}, got {known}; give rows of a manifest")
        if (empty := rows[name].null_count) and name != "track":
            raise DataError(
                f"templates: {name} is empty in {empty} of {rows.num_rows} rows, and the rule needs it; fill it in, or "
                "choose another rule"
            )


def _grouped(rows: pa.Table, expected: pa.Table | None, rule: Rule) -> tuple[I64, Templates]:
    """The template of each row, and the templates without vectors. Those of `expected` are there even without a row."""
    names = _key_columns(rule)
    tables = [rows] if expected is None else [rows, expected]
    coded = [_coded([items_of(table, name) for table in tables]) for name in names]
    order = [2, 1, 4, 3, 0, *range(5, len(names))]  # modality, domain, role, split, subject, item
    sizes = [max(len(coded[position][0]), 1) for position in order]
    joined = np.ravel_multi_index([coded[position][1] for position in order], sizes)
    _, first, number = np.unique(joined, return_index=True, return_inverse=True)
    columns = {name: values[codes[first]] for name, (values, codes) in zip((*_KEY, "item"), coded, strict=False)}
    nothing = np.zeros(len(first), np.int64)
    columns.setdefault("item", np.full(len(first), ""))
    made = Templates(np.zeros((len(first), 0), np.float32), **columns, crops=nothing, media=nothing, unusable=nothing)
    if rule.by == "template_id":
        _refuse_mixed(made)
    return number.reshape(-1)[: rows.num_rows].astype(np.int64), made


def _refuse_mixed(templates: Templates) -> None:
    """Raise DataError where the rows of one template_id and modality differ in subject, domain, split or role."""
    _, of, times = np.unique(
        np.stack([templates.item, templates.modality], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    twice = np.flatnonzero(times[of.reshape(-1)] > 1)
    if len(twice):
        names = [templates.name[at] for at in twice if templates.item[at] == templates.item[twice[0]]]
        raise DataError(
            f"template_id {templates.item[twice[0]]}: expected one subject, domain, split and role, got "
            f"{' and '.join(names[:3])}; mend the template table"
        )


def _codes(rows: pa.Table, name: str) -> I64:
    """(N,) numbers that sort as the texts of a column do."""
    ranks = pc.rank(rows[name].cast(pa.string()), sort_keys="ascending", tiebreaker="dense")
    codes: I64 = ranks.to_numpy().astype(np.int64)
    return codes


def _coded(columns: list[pa.ChunkedArray]) -> tuple[Text, I64]:
    """Sorted values, and the code of every row of all columns: codes do not depend on the order of rows."""
    plain = [column.cast(pa.string()) for column in columns]
    encoded = pa.chunked_array([chunk for column in plain for chunk in column.chunks], pa.string()).combine_chunks()
    encoded = encoded.dictionary_encode()
    values = np.array(encoded.dictionary.to_pylist(), np.str_)
    order = np.argsort(values)
    place = np.empty(len(values), np.int64)
    place[order] = np.arange(len(values))
    return values[order], place[encoded.indices.to_numpy(zero_copy_only=False)]


@dataclass(frozen=True)
class _Media:
    """first: a usable row of each medium of a template. size: (N,) usable rows of the row's medium in its template."""

    first: I64
    size: I64


def _media(rows: pa.Table, group: I64, usable: B8) -> _Media:
    videos, video = _coded([rows["video_id"]])
    medium = group * max(len(videos), 1) + video
    at = np.flatnonzero(usable)
    _, first, number, times = np.unique(medium[at], return_index=True, return_inverse=True, return_counts=True)
    size = np.ones(len(group), np.int64)
    size[at] = times[number.reshape(-1)]
    return _Media(at[first], size)


# -- the weighted sums


def _weights(rows: pa.Table, rule: Rule, group: I64, media: _Media, usable: B8, norms: F32 | None) -> F64:
    """(N,) what each unit or plain vector counts for, at most 1; 1 for `norm_weighted`, whose norms come on the way."""
    if rule.pooling == "media_mean":
        return 1 / media.size.astype(np.float64)
    if rule.pooling == "quality_weighted":
        given = rows[rule.quality].to_numpy().astype(np.float64)
        return _scaled(f"quality column {rule.quality}", given, group, usable)
    if rule.pooling == "norm_weighted" and norms is not None:
        return _scaled("norms", _per_row("norms", norms, rows).astype(np.float64), group, usable)
    return np.ones(len(group))


def _of_logarithms(given: F64 | None, rows: pa.Table, group: I64, usable: B8) -> F64:
    """The weights of these logarithms, over the greatest of their template."""
    if given is None:
        raise DataError("templates: quality_aware: expected weights learned on training subjects, got none; pass them")
    wrong = (usable & ~np.isfinite(_per_row("log_weights", given, rows))).sum()
    if wrong:
        raise DataError(f"templates: log_weights: expected finite ones, got {wrong} that are not; leave those rows out")
    logs = np.where(usable, given, -np.inf)
    greatest = np.full(group.max(initial=0) + 1, -np.inf)
    np.maximum.at(greatest, group, logs)
    weight: F64 = np.exp(logs - np.where(np.isfinite(greatest), greatest, 0)[group])
    return weight


def _scaled(what: str, given: F64, group: I64, usable: B8) -> F64:
    """Weights over the greatest of their template; equal weights in a template where all are 0."""
    _refuse_wrong_weights(what, given[usable])
    weight = np.where(usable, given, 0)
    greatest = np.zeros(group.max(initial=0) + 1)
    np.maximum.at(greatest, group, weight)
    of_row = greatest[group]
    scaled: F64 = np.divide(weight, of_row, out=np.ones(len(group)), where=of_row > 0)
    return scaled


def _refuse_wrong_weights(what: str, given: F64) -> None:
    wrong = given[~(np.isfinite(given) & (given >= 0))]
    if len(wrong):
        raise DataError(
            f"templates: {what}: expected weights, finite and 0 or more, got {wrong[0]} ({len(wrong)} rows)"
        )


def _summed(
    blocks: Iterable[F32], group: I64, usable: B8, weight: F64, rule: Rule, has_norms: bool, templates: int
) -> tuple[F64, F64]:
    """The weighted sum of each template, (T, D), exact on the grid; and the length of each row's vector."""
    if len(group) and np.bincount(group).max() > MOST_CROPS:
        raise DataError(f"templates: a template of more than {MOST_CROPS} crops; pool by sighting, or thin the frames")
    to_unit = has_norms if rule.pooling == "norm_weighted" else rule.normalise_first or rule.pooling == "quality_aware"
    coarse, fine = np.zeros((templates, 0)), np.zeros((templates, 0))
    lengths, done = np.zeros(len(group)), 0
    for block in blocks:
        if block.ndim != 2 or (done and block.shape[1] != coarse.shape[1]) or done + len(block) > len(group):
            raise DataError(
                f"templates: expected blocks (b, D), {len(group)} vectors of one size in all, got {block.shape} "
                f"after {done} vectors of {coarse.shape[1]}; do vectors and rows belong together?"
            )
        if coarse.shape[1] != block.shape[1]:
            coarse, fine = np.zeros((templates, block.shape[1])), np.zeros((templates, block.shape[1]))
        step = max(1, CHUNK_BYTES // (8 * max(block.shape[1], 1)))
        for start in range(0, len(block), step):
            at = np.arange(done + start, done + min(start + step, len(block)))
            at = at[usable[at]]
            at = at[np.argsort(group[at], kind="stable")]
            if len(at):
                terms = block[at - done].astype(np.float64)
                lengths[at] = _lengths(terms, at)
                _add(terms, weight[at] / (lengths[at] if to_unit else 1), group[at], coarse, fine)
        done += len(block)
    if done != len(group):
        raise DataError(f"templates: expected {len(group)} vectors, one a row, got {done}; do they belong together?")
    coarse += fine
    return coarse, lengths


def lengths(blocks: Iterable[F32], usable: B8) -> F64:
    """(N,) the lengths of vectors that come in blocks; 0 of rows that are not usable. Raises DataError."""
    found, done = np.zeros(len(usable)), 0
    for block in blocks:
        at = np.flatnonzero(usable[done : done + len(block)])
        found[done + at] = _lengths(block[at].astype(np.float64), done + at)
        done += len(block)
    return found


def _lengths(vectors: F64, rows: I64) -> F64:
    """(b,) the Euclidean lengths. Raises DataError on a vector that is no embedding."""
    square = (vectors * vectors).sum(axis=1)
    largest = np.maximum(vectors.max(axis=1), -vectors.min(axis=1))
    length: F64 = np.sqrt(square)
    wrong = np.flatnonzero(~((length >= SHORTEST) & (largest <= LARGEST)))
    if len(wrong):
        raise DataError(
            f"templates: the vector of row {rows[wrong[0]]} has length {length[wrong[0]]:g} and values up to "
            f"{largest[wrong[0]]:g}: expected {SHORTEST:g} or more, and at most {LARGEST:g}; is it an embedding? "
            "Mark rows without one as unusable"
        )
    return length


def _add(terms: F64, weight: F64, group: I64, coarse: F64, fine: F64) -> None:
    """Add weighted terms, (b, D) sorted by group, to both sums. terms are used up."""
    terms *= weight[:, None]
    part = terms + _TO_COARSE
    part -= _TO_COARSE
    terms -= part  # exact
    terms += _TO_FINE
    terms -= _TO_FINE
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    coarse[group[starts]] += np.add.reduceat(part, starts, axis=0)
    fine[group[starts]] += np.add.reduceat(terms, starts, axis=0)


def _in_order(group: I64, weight: F64, templates: int) -> F64:
    """(T,) the sum of weights of each template, added in the order of their size, for any order of rows."""
    order = np.lexsort((weight, group))
    total: F64 = np.bincount(group[order], weight[order], templates).astype(np.float64)
    return total


def _refuse_equal_lengths(lengths: F64) -> None:
    if len(lengths) and np.abs(lengths - 1).max() < 1e-3:
        raise DataError(
            "templates: norm_weighted needs the lengths of the vectors, and all are 1; store them as they come from "
            "the network, pass their norms, or pool by mean"
        )


def _per_row(name: str, values: NDArray[Any], rows: pa.Table) -> NDArray[Any]:
    if np.shape(values) != (rows.num_rows,):
        raise DataError(
            f"templates: {name}: expected one value for each of {rows.num_rows} rows, got {np.shape(values)}"
        )
    return np.asarray(values)
