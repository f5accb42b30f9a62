"""Every table that mdfpipe writes: one schema each, every column explained.

The explanation travels in the field metadata of the Parquet file, so that `mdfpipe inspect` can say
what a column means. `docs/formats.md` is generated from this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.errors import DataError


class LabelStatus(StrEnum):
    """What became of a detection when faces named the bodies. A closed set."""

    LABELLED = "labelled"  # one face names it, or its id is given: with its box, or by a video of one person
    NO_FACE = "no_face"  # no annotated face touches it in this frame
    AMBIGUOUS = "ambiguous"  # faces of two or more subjects lie in it
    BELOW_MIN_OVERLAP = "below_min_overlap"  # its best face overlaps too little
    LOST_ASSIGNMENT = "lost_assignment"  # another body has the better claim to its face, or to the person of its video
    TOO_SMALL = "too_small"  # lower than label.min_height_px
    OFF_FRAME = "off_frame"  # more of it outside the frame than label.min_inside allows
    UNNAMED_FACE = "unnamed_face"  # its face is annotated without a subject
    LABELLED_BY_TRACK = "labelled_by_track"  # no face of the frame names it; faces of its track in other frames do
    TRACK_CONFLICT = "track_conflict"  # its track has faces of several subjects, or another body has the better claim


NAMED: Final = (LabelStatus.LABELLED, LabelStatus.LABELLED_BY_TRACK)
"""The statuses of bodies that have a subject."""


class NamedBy(StrEnum):
    """Where the subject of a crop is from. A closed set."""

    FACE = "face"  # an annotated face in its frame
    TRACK = "track"  # annotated faces of its track, in other frames
    GIVEN = "given"  # the file of boxes names the body
    IMAGE = "image"  # the data set names the person of the image


class EmbedStatus(StrEnum):
    """What became of a crop that was to be embedded. A closed set."""

    OK = "ok"
    UNREADABLE = "unreadable"  # its bytes do not decode


class SearchStatus(StrEnum):
    """What became of a probe. A closed set."""

    SEARCHED = "searched"  # it was searched and has a mate in the gallery
    UNMATED = "unmated"  # the protocol enrols nobody of its subject
    NO_PROBE = "no_probe"  # the probe failed to enrol
    NO_MATE = "no_mate"  # every gallery template of its subject failed to enrol
    LEFT_OUT = "left_out"  # another system of the table does not have it


class NumberNote(StrEnum):
    """What to know of a number of METRICS. A closed set; `store.results.NOTES` has the words."""

    UNRESOLVED = "unresolved"  # no number: its share of false alarms is less than one of those that could be one
    UNDER_30 = "under_30"  # fewer than 30 errors are expected at the operating point
    TRIVIAL = "trivial"  # every system reaches it: rank-k of k gallery templates or fewer, a false accept rate of 1
    AT_CHANCE = "at_chance"  # the interval, or the number where it has none, reaches down to what a guess finds
    FEW_SUBJECTS = "few_subjects"  # its interval is a bootstrap over fewer than six subjects
    NO_WIDTH = "no_width"  # every sample of its bootstrap gave the same number
    LOST_SAMPLES = "lost_samples"  # over 1 % of the samples of its bootstrap had nothing to count: left out
    ONE_SUBJECT = "one_subject"  # no interval: one subject says nothing about others
    FAILURES = "failures"  # no interval: failures to enrol count as misses and have no score that could be drawn
    MANY_SCORES = "many_scores"  # no interval: too many scores for a bootstrap
    MEAN = "mean"  # no interval: a mean over galleries or runs
    DETECTED_FACES = "detected_faces"  # names of people are from faces that a detector found, not from annotation


class CropStatus(StrEnum):
    """What became of a box that was to be cut out. A closed set."""

    OK = "ok"
    EMPTY = "empty"  # no pixel of the box lies in the frame
    TOO_LARGE = "too_large"  # the box is many times the frame: a damaged annotation
    UNREADABLE = "unreadable"  # of a data set of images: the file's bytes do not decode
    TOO_SMALL = "too_small"  # lower than crop.min_height_px or crop.min_face_height_px
    SKIPPED_FRAME = "skipped_frame"  # between each crop.every-th frame of its subject
    OVER_LIMIT = "over_limit"  # its subject has crop.per_subject other crops


def coded(codes: Any, values: Iterable[str]) -> pa.Array:
    """Text (n,) of a closed set, from the position (n,) of each in `values`."""
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), pa.array([str(value) for value in values]))


def boxes_of(table: pa.Table) -> NDArray[np.float32]:
    """The boxes (n, 4) xyxy of a table with columns x1, y1, x2, y2."""
    return np.stack([table[name].to_numpy() for name in CORNERS], axis=1)


CORNERS: Final = ("x1", "y1", "x2", "y2")


def item_ids(video_id: str, frame: NDArray[Any], number: NDArray[Any], mark: str = "") -> pa.Array:
    """VIDEO/FRAME/NUMBER (n,) as body_id and crop_id are made, with a mark before the number."""
    padded = [pc.utf8_lpad(pa.array(n).cast(pa.string()), width, padding="0") for n, width in ((frame, 6), (number, 2))]
    return pc.binary_join_element_wise(video_id, padded[0], pc.binary_join_element_wise(mark, padded[1], ""), "/")


def chosen(rows: pa.Table, modality: str, splits: Sequence[str]) -> pa.Table:
    """The rows of a manifest of one modality and some splits."""
    asked = pa.array(splits, pa.string())
    here = pc.is_in(rows["split"].cast(pa.string()), asked)
    return rows.filter(pc.and_(pc.equal(rows["modality"].cast(pa.string()), modality), here))


def _column(kind: pa.DataType, name: str, meaning: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"meaning": meaning})


_text, _coded = partial(_column, pa.string()), partial(_column, pa.dictionary(pa.int8(), pa.string()))
_small, _whole = partial(_column, pa.int16()), partial(_column, pa.int64())
_single, _real = partial(_column, pa.float32()), partial(_column, pa.float64())


def _box(of: str) -> list[pa.Field]:
    return [
        _single("x1", f"left edge of the {of} box, pixels of the decoded frame"),
        _single("y1", f"top edge of the {of} box, pixels"),
        _single("x2", f"right edge of the {of} box, pixels, exclusive"),
        _single("y2", f"bottom edge of the {of} box, pixels, exclusive"),
    ]


VIDEO_ID = _text("video_id", "path under the data root without its suffix, where that is unique")
FRAME = _whole("frame", "frame index, 0-based in presentation order")
BODY_ID = _text("body_id", "{video_id}/{frame:06d}/{n:02d}: names a body from detection to score")
CROP_ID = _text(
    "crop_id",
    "body_id of a body; {video_id}/{frame:06d}/f{face_no:02d} of a face; in a data set of images the file's path there",
)
TRACK = _column(pa.int32(), "track", "number of its track within the video; null where it has none", null=True)
NAMED_BY = _coded("named_by", "where subject_id is from: " + ", ".join(NamedBy), null=True)
FACE_NO = _small("face_no", "number of the face within its frame, in the order of the annotation")
MODALITY = _coded("modality", "body or face")
DOMAIN = _text("domain", "band and range, such as SWIR-30m")
BAND = _text("band", "spectral band: VIS, NIR, SWIR, MWIR, LWIR")
SESSION_ID = _text("session_id", "recording session, where the dataset names it", null=True)
CAMERA_ID = _text("camera_id", "camera, where the dataset names it", null=True)
SHARD = [
    _text("shard", "tar file, relative to the run folder", null=True),
    _whole("offset", "first byte of the encoded image in the shard", null=True),
    _whole("size", "bytes of the encoded image", null=True),
    _column(pa.uint32(), "crc32", "CRC-32 of those bytes, verified whenever they are read", null=True),
    _text("codec", "jpeg (q95 4:4:4, 8-bit sources) or png (16-bit sources); images as they are", null=True),
]
QUALITY = [
    _single("sharpness", "variance of the Laplacian of the crop's grey values, in 0..255", null=True),
    _single("contrast", "standard deviation of the crop's grey values, in 0..255", null=True),
    _single("box_height_px", "height of the box in the frame, before resizing"),
]

VIDEOS = pa.schema(
    [
        VIDEO_ID,
        _text("path", "file or frame folder, relative to the data root; or a URL"),
        _text("subject_id", "the one person of the video, where the data set names one", null=True),
        _text("real_path", "where a symbolic link on the way to it leads; null without one", null=True),
        DOMAIN,
        BAND,
        _real("range_m", "distance to the subjects in metres", null=True),
        SESSION_ID,
        CAMERA_ID,
        _whole("n_frames", "frames that the header declares (a claim: detect counts); images", null=True),
        _real("fps", "mean frame rate that the header declares", null=True),
        _column(pa.int32(), "width", "pixels of a frame as it is decoded", null=True),
        _column(pa.int32(), "height", "pixels of a frame as it is decoded", null=True),
        _small("bit_depth", "bits a sample", null=True),
        _column(
            pa.int8(),
            "orientation",
            "how the file says that its pictures are turned to be shown, 1 (as stored) to 8 as EXIF counts; "
            "detect.decoder.orientation decides whether they are",
            null=True,
        ),
        _single("pixel_aspect", "width of a decoded pixel over its height: 1 where square", null=True),
        _small("stream", "which of the file's video streams is taken, from 0", null=True),
        _text("other_streams", "the video streams that are not, in words", null=True),
        _small("films_behind", "films behind the first in the file, which nothing reads", null=True),
        _whole("bytes", "size on disk", null=True),
        _text("stamp", "size and modification time when it was hashed", null=True),
        _text("sha256", "content hash; taken again when size or modification time change", null=True),
        _text(
            "problem", "why it cannot be used: no readable header, or faces that cannot be of its picture", null=True
        ),
    ]
)

FACES = pa.schema(
    [
        VIDEO_ID,
        FRAME,
        FACE_NO,
        _text("subject_id", "who it is; null where the annotation does not say", null=True),
        *_box("face"),
    ]
)

IMAGES = pa.schema(
    [
        VIDEO_ID,
        FRAME,
        _text("path", "the image file, relative to the data root"),
        _text("subject_id", "who it shows, as the data set names its folder or file"),
    ]
)
"""Files of one `video` of a data set of images, each a person already cut out: those of a folder and camera."""

SUBJECTS = pa.schema(
    [
        _text("subject_id", "a subject that the dataset's gallery tables list"),
        _text("gallery", "the gallery that lists it"),
    ]
)

FACE_SOURCES = pa.schema(
    [
        VIDEO_ID,
        _text("source", "detected: a face detector found them, and they are not annotated"),
        _whole("faces", "how many"),
    ]
)
"""Faces that are not annotated, by video; there is no table where all are."""

NOT_AS_PUBLISHED = "not_as_published"  # the kind of an anomaly: a benchmark's count that differs from the published one

ANOMALIES = pa.schema(
    [
        _text("kind", "what was unusual about the annotation rows"),
        _whole("count", "how many rows"),
        _text("example", "the first one: file, row, values"),
    ]
)

BODIES = pa.schema(
    [
        BODY_ID,
        VIDEO_ID,
        FRAME,
        _real("pts_seconds", "presentation time of the frame; NaN where the container has none"),
        *_box("body"),
        _single("score", "confidence of the detector, 0..1"),
        _text("subject_id", "who it is, where a file of boxes says so", null=True),
    ]
)

TRACKS = pa.schema(
    [
        BODY_ID,
        FRAME,
        _column(
            pa.int32(),
            "track",
            "track of the body, numbered from 0 within the video in the order of first boxes; null where it has none",
            null=True,
        ),
    ]
)

LABELS = pa.schema(
    [
        BODY_ID,
        FRAME,
        _text("subject_id", "who it is; null unless status is labelled or labelled_by_track", null=True),
        _small(
            "face_no",
            "the face it was matched with: greatest overlap, or assigned; null where none touches, or its id is given",
            null=True,
        ),
        _single("overlap", "overlap with that face, by label.measure"),
        _single("runner_up", "greatest overlap with a face of any other subject"),
        _coded("status", "what became of it: " + ", ".join(LabelStatus)),
        TRACK,
        _column(
            pa.int32(),
            "face_distance",
            "frames to the nearest body of its track that a face or a given id names; 0: a face of this frame names "
            "it; null without a name, and where its id is given",
            null=True,
        ),
    ]
)

CROPS = pa.schema(
    [
        CROP_ID,
        VIDEO_ID,
        FRAME,
        MODALITY,
        _text("subject_id", "who it is"),
        *_box("source"),
        *SHARD,
        _column(pa.int32(), "width", "pixels of the crop"),
        _column(pa.int32(), "height", "pixels of the crop"),
        *QUALITY,
        _coded("status", "ok, or why there is no crop: " + ", ".join(CropStatus)),
        TRACK,
        NAMED_BY,
    ]
)

MANIFEST = pa.schema(
    [
        CROP_ID,
        _text("subject_id", "who it is"),
        DOMAIN,
        BAND,
        MODALITY,
        VIDEO_ID,
        SESSION_ID,
        CAMERA_ID,
        FRAME,
        *_box("source"),
        _coded("split", "train, test, or unused (the protocol leaves it out)"),
        _coded("role", "gallery or probe in the test split, else none"),
        _column(pa.bool_(), "mated", "of a probe: whether its subject has a gallery row of its modality", null=True),
        _text("template_id", "template that the dataset assigns, where it does", null=True),
        *SHARD,
        *QUALITY,
        TRACK,
        NAMED_BY,
    ]
)

TRAINING = pa.schema(
    [
        _column(pa.int32(), "epoch", "epoch, from 0"),
        _whole("step", "steps done when it was measured"),
        _text("figure", "what: loss/NAME, rate, accuracy, validation/NAME, mining/NAME"),
        _text("anchor_domain", "of mined pairs: the anchor's domain", null=True),
        _text("mined_domain", "of mined pairs: the domain of what was mined for it", null=True),
        _real("value", "its mean over the epoch"),
        _whole("count", "of mined pairs: how many", null=True),
    ]
)

_TABLE = _text("table", "the table of the study, by its name in evaluate.tables")
_SYSTEM = _text("system", "the system, or the fusion of several")
_PAIR = [
    _text("gallery_domain", "the domain of the gallery templates"),
    _text("probe_domain", "the domain of the probes; `pooled`: all of the protocol's"),
    _text("gallery", "which of the data set's galleries is enrolled; `all`; `average` of those apart"),
]
_TEMPLATE = _text("template", "subject/domain[/item]/split/role/modality: names a template")

METRICS = pa.schema(
    [
        _TABLE,
        _SYSTEM,
        _text("modality", "body, face or fused; scores where a matcher gave those alone"),
        _text("protocol", "the protocol's name and version; of a benchmark, its name with every choice"),
        *_PAIR,
        _text("metric", "rank-1, map, minp, fnir@fpir=0.01, tar@far=1e-3, eer, auc, ..."),
        _real("value", "the number, 0..1; of trials or seeds their mean; null where notes say unresolved", null=True),
        _real("spread", "standard deviation over the trials or seeds, of a sample", null=True),
        _whole("trials", "trials of a benchmark that are averaged", null=True),
        _whole("seeds", "trainings with other seeds that are averaged; null of one training", null=True),
        _column(pa.list_(pa.float64()), "each", "number of each of those trainings, by seed", null=True),
        _text("seed_of", "system whose mean this training is part of; null of a line", null=True),
        _whole("k", "of a rate, how many; null of a mean or an area", null=True),
        _whole("n", "probes, or mated pairs, that it is about"),
        _real("low", "lower bound of the 95 % interval", null=True),
        _real("high", "upper bound", null=True),
        _text("interval", "wilson, or bootstrap (over subjects); null: notes say why", null=True),
        _real("chance", "of rank-k: what a guess would reach", null=True),
        _real("threshold", "score from which a comparison counts, at an operating point", null=True),
        _whole("k_false", "false alarms or accepts there", null=True),
        _whole("n_false", "searches or pairs that could have been one", null=True),
        _whole("n_gallery", "gallery templates that were enrolled"),
        _whole("n_subjects", "subjects enrolled"),
        _whole("n_probes", "probe templates of the protocol, before anything is left out"),
        _whole("failed_gallery", "gallery templates that failed to enrol"),
        _whole("failed_probes", "probe templates that failed to enrol"),
        _whole("unusable_gallery", "crops of the gallery templates that have no vector", null=True),
        _whole("unusable_probes", "crops of the probe templates that have none", null=True),
        _text("failure", "what a failure to enrol counts as: miss, or exclude"),
        _whole("n_unmated", "probes whose subject the protocol does not enrol"),
        _text("unmated", "what those count as: refuse, exclude or miss"),
        _whole("n_left_out", "probes left out because another system of the table does not have them"),
        _text("templates", "what a template is: subject, template_id, a sighting; of a benchmark an image"),
        _text("pooling", "how its vectors are pooled"),
        _text("distance", "cosine, or euclidean (of vectors as they are); or fused scores"),
        _text("rule", "pairs that the search leaves out; none where it leaves out none"),
        _text("rerank", "off, or the re-ranking that was used"),
        _real("published", "the number of the paper, 0..1, where the study names one", null=True),
        _column(pa.list_(pa.string()), "notes", "what to know of the number, as NumberNote; often nothing", null=True),
    ]
)
"""One row a number: everything printed or drawn is a view of it."""

COMPARISONS = pa.schema(
    [
        _TABLE,
        *_PAIR,
        _text("metric", "as in metrics"),
        _text("first", "a system"),
        _text("second", "another one"),
        _whole("n", "probes that both have"),
        _real("first_value", "the first one's number on those, 0..1"),
        _real("second_value", "the second one's"),
        _real("difference", "first minus second"),
        _real("low", "lower bound of its 95 % interval", null=True),
        _real("high", "upper bound", null=True),
        _whole("first_only", "rank-1: probes that only the first finds", null=True),
        _whole("second_only", "rank-1: probes that only the second finds", null=True),
        _real("p", "two-sided; null where there are too few subjects for a test", null=True),
        _text("test", "mcnemar (exact) or bootstrap (paired, over subjects); null: untested", null=True),
        _column(pa.bool_(), "significant", "whether p is below 0.05; null where there is no p", null=True),
    ]
)

CURVES = pa.schema(
    [
        _TABLE,
        _SYSTEM,
        *_PAIR,
        _text("curve", "cmc (rank, found), roc (FAR, TAR), det (FPIR, FNIR), edc:QUALITY (rejected, FNMR)"),
        _real("x", "rank, or a share of false alarms"),
        _real("y", "share of the probes or mated pairs"),
        _real("low", "lower bound of Wilson's 95 % interval of y; of a benchmark the least of its trials"),
        _real("high", "upper bound, or the greatest of the trials"),
    ]
)

SEARCHES = pa.schema(
    [
        _TABLE,
        _SYSTEM,
        *_PAIR,
        _TEMPLATE,
        _text("subject_id", "who it is"),
        _coded("status", "what became of the probe: " + ", ".join(SearchStatus)),
        _whole("rank", "place of the best mate, from 1; ties count against the system", null=True),
        _real("mated_score", "the best mate's score", null=True),
        _real("nonmated_score", "the best score of anyone else", null=True),
        _real("average_precision", "over all its mates", null=True),
        _real("inverse_penalty", "mates by place of the worst mate", null=True),
        _column(pa.list_(pa.string()), "top", "the best gallery templates, best first"),
        _column(pa.list_(pa.float64()), "top_score", "their scores"),
    ]
)

SCORES = pa.schema(
    [
        *_PAIR,
        _text("probe", "the probe's template"),
        _text("probe_subject", "whose it is"),
        _text("gallery_template", "the gallery's template"),
        _text("gallery_subject", "whose that is"),
        _single("score", "similarity: greater is more alike"),
    ]
)

TEMPLATES = pa.schema(
    [
        _TEMPLATE,
        _text("subject_id", "who it is"),
        DOMAIN,
        MODALITY,
        _text("split", "of the protocol"),
        _text("role", "of the protocol"),
        _text("item", "template_id or sighting; empty where a template is all of a subject"),
        _whole("crops", "vectors that were pooled; 0: it failed to enrol"),
        _whole("media", "videos they are from"),
        _whole("unusable", "crops without a usable vector"),
        _column(pa.list_(pa.float32()), "vector", "pooled, of any length; zeros where it failed to enrol"),
    ]
)

TRUTH = pa.schema(
    [
        VIDEO_ID,
        DOMAIN,
        FRAME,
        _text("subject_id", "who it is"),
        *_box("visible body's"),
        _single("visible", "share of the person's pixels that are in the frame and not hidden, 0..1"),
        _column(pa.bool_(), "face_annotated", "whether the face tables hold this person's face in this frame"),
        _column(pa.bool_(), "crowded", "whether the video was drawn as a crowd"),
    ]
)
"""Places of all bodies in synthetic data. No stage reads it."""


def embeddings(width: int) -> pa.Schema:
    """The schema of vectors of `width` numbers."""
    vector = pa.list_(pa.float32(), width)
    return pa.schema(
        [
            CROP_ID,
            _column(vector, "vector", "the embedding, raw: its length may carry quality", null=True),
            _coded("status", "what became of it: " + ", ".join(EmbedStatus)),
        ]
    )


# -- whether a table is one of ours

PARTS: Final = {
    "index": VIDEOS,
    "detect": BODIES,
    "track": TRACKS,
    "label": LABELS,
    "crop": CROPS,
    "manifest": MANIFEST,
    "train": TRAINING,
    "embed": embeddings(1),
    "evaluate": METRICS,
}
"""The schema of the parts of each stage; of vectors, of any width."""
_LATER: Final = "crc32"  # its readers know tables without it


def as_ours(table: pa.Table, ours: pa.Schema, wanted: Sequence[str] | None = None) -> pa.Table:
    """The table, where its columns (wanted: only these) are of the kinds that `ours` has, each once.

    Those that may be null and are missing, as in tables of earlier versions, are null. Raises ValueError that says what
    differs: a column, its kind, a row without a value, a text that is none.
    """
    for field in ours:
        if wanted is not None and field.name not in wanted:
            continue
        count = table.column_names.count(field.name)
        if count > 1:
            raise ValueError(f"expected one column {field.name}, got {count}")
        if not count and not field.nullable:
            raise ValueError(f"expected a column {field.name}, found none")
        if not count and field.name != _LATER:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        if count:
            _check_column(table[field.name], field)
    return table


def kind_of(kind: pa.DataType) -> str:
    """What values of a type are, regardless of their width: text, whole number, number, or the type's own name.

    >>> kind_of(pa.dictionary(pa.int8(), pa.string())), kind_of(pa.int16()), kind_of(pa.list_(pa.float32(), 8))
    ('text', 'whole number', 'list of number')
    """
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        return f"list of {kind_of(kind.value_type)}"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_integer(kind):
        return "whole number"
    return "number" if pa.types.is_floating(kind) else str(kind)


def _check_column(column: pa.ChunkedArray, field: pa.Field) -> None:
    expected, got = kind_of(field.type), kind_of(column.type)
    if expected != got:
        raise ValueError(f"column {field.name}: expected {expected}, got {got}")
    if column.null_count and not field.nullable:
        raise ValueError(f"column {field.name}: expected a value in every row, got {column.null_count} rows without")
    if "text" in expected:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            raise ValueError(f"column {field.name}: expected text in UTF-8, got other bytes") from None
    if pa.types.is_list(column.type) and any(chunk.flatten().null_count for chunk in column.chunks):
        raise ValueError(f"column {field.name}: expected lists of values, got some without")


Column: TypeAlias = pa.Array | pa.ChunkedArray


def joined(table: pa.Table, ids: Column, by: str, part: Path, of: str, *, others: bool = False) -> pa.Table:
    """The rows of `table` for each of `ids`, in their order; as `places`, `by` being the column that holds its ids."""
    if _unchunked(table[by]).equals(_unchunked(ids)):
        _refuse_twice(_unchunked(ids), str(part), part)
        return table
    return table.take(pa.array(places(table[by], ids, part, of, others=others)))


def places(known: Column, ids: Column, part: Path, of: str, *, others: bool = False) -> NDArray[np.int64]:
    """(n,) the position in `known`, the ids of a part, of each of n `ids`, those of what it is joined with.

    part: its file. of: what `ids` are of, for people. others: whether it may hold further ids. Raises DataError
    where an id is missing, unknown, or is listed twice: values would go to another's row.
    """
    known, ids = _unchunked(known), _unchunked(ids)
    _refuse_twice(known, str(part), part)
    _refuse_twice(ids, f"{part}: {of}", part)
    found = pc.index_in(ids, value_set=known)
    missing = ids.filter(found.is_null())
    unknown = known.filter(pc.invert(pc.is_in(known, value_set=ids))) if not others else known[:0]
    if len(missing) or len(unknown):
        got = [f"none for {len(missing)} of them ({missing[0]})"] if len(missing) else []
        got += [f"{len(unknown)} that these do not have ({unknown[0]})"] if len(unknown) else []
        raise DataError(
            f"{part}: expected a row for each of the {len(ids)} ids of {of}, got {' and '.join(got)}; {_advice(part)}"
        )
    at: NDArray[np.int64] = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return at


def _unchunked(column: Column) -> pa.Array:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _refuse_twice(ids: pa.Array, where: str, part: Path) -> None:
    if pc.count_distinct(ids, mode="all").as_py() < len(ids):
        counted = ids.value_counts()
        twice = counted.field("values").filter(pc.greater(counted.field("counts"), 1))[0]
        raise DataError(f"{where}: expected each id once, got {twice} several times; {_advice(part)}")


def _advice(part: Path) -> str:
    return f"the two were not made of each other: remove {part.name} and give the same command again"
