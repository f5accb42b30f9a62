"""Every table that mdfpipe writes: one schema each, every column explained.

The explanation travels in the field metadata of the Parquet file, so that `mdfpipe inspect` can say
what a column means. `docs/formats.md` is generated from this file.
"""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa


class LabelStatus(StrEnum):
    """What became of a detection when faces named the bodies. A closed set."""

    LABELLED = "labelled"  # one face names it
    NO_FACE = "no_face"  # no annotated face touches it in this frame
    AMBIGUOUS = "ambiguous"  # faces of two or more subjects lie in it
    BELOW_MIN_OVERLAP = "below_min_overlap"  # its best face overlaps too little
    LOST_ASSIGNMENT = "lost_assignment"  # another body has the better claim to its face
    TOO_SMALL = "too_small"  # lower than label.min_height_px
    OFF_FRAME = "off_frame"  # more of it outside the frame than label.min_inside allows
    UNNAMED_FACE = "unnamed_face"  # its face is annotated without a subject


class EmbedStatus(StrEnum):
    """What became of a crop that was to be embedded. A closed set."""

    OK = "ok"
    UNREADABLE = "unreadable"  # its bytes do not decode


class CropStatus(StrEnum):
    """What became of a box that was to be cut out. A closed set."""

    OK = "ok"
    EMPTY = "empty"  # no pixel of the box lies in the frame
    TOO_LARGE = "too_large"  # the box is many times the frame: a damaged annotation


def _column(name: str, kind: pa.DataType, meaning: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"meaning": meaning})


def _box(of: str) -> list[pa.Field]:
    return [
        _column("x1", pa.float32(), f"left edge of the {of} box, pixels of the decoded frame"),
        _column("y1", pa.float32(), f"top edge of the {of} box, pixels"),
        _column("x2", pa.float32(), f"right edge of the {of} box, pixels, exclusive"),
        _column("y2", pa.float32(), f"bottom edge of the {of} box, pixels, exclusive"),
    ]


VIDEO_ID = _column("video_id", pa.string(), "path under the data root without its suffix, where that is unique")
FRAME = _column("frame", pa.int64(), "frame index, 0-based in presentation order")
BODY_ID = _column("body_id", pa.string(), "{video_id}/{frame:06d}/{n:02d}: names a body from detection to score")
CROP_ID = _column("crop_id", pa.string(), "body_id of a body; {video_id}/{frame:06d}/f{face_no:02d} of a face")
FACE_NO = _column("face_no", pa.int16(), "number of the face within its frame, in the order of the annotation")
MODALITY = _column("modality", pa.dictionary(pa.int8(), pa.string()), "body or face")
DOMAIN = _column("domain", pa.string(), "band and range, such as SWIR-30m")
BAND = _column("band", pa.string(), "spectral band: VIS, NIR, SWIR, MWIR, LWIR")
SESSION_ID = _column("session_id", pa.string(), "recording session, where the dataset names it", null=True)
CAMERA_ID = _column("camera_id", pa.string(), "camera, where the dataset names it", null=True)
SHARD = [
    _column("shard", pa.string(), "tar file, relative to the run folder", null=True),
    _column("offset", pa.int64(), "first byte of the encoded image in the shard", null=True),
    _column("size", pa.int64(), "bytes of the encoded image", null=True),
    _column("codec", pa.string(), "jpeg (q95 4:4:4, 8-bit sources) or png (16-bit sources)", null=True),
]
QUALITY = [
    _column("sharpness", pa.float32(), "variance of the Laplacian of the crop's grey values, in 0..255", null=True),
    _column("contrast", pa.float32(), "standard deviation of the crop's grey values, in 0..255", null=True),
    _column("box_height_px", pa.float32(), "height of the box in the frame, before resizing"),
]

VIDEOS = pa.schema(
    [
        VIDEO_ID,
        _column("path", pa.string(), "file or frame folder, relative to the data root"),
        DOMAIN,
        BAND,
        _column("range_m", pa.float64(), "distance to the subjects in metres", null=True),
        SESSION_ID,
        CAMERA_ID,
        _column("n_frames", pa.int64(), "frames that the header declares (a claim: detect counts)", null=True),
        _column("fps", pa.float64(), "mean frame rate that the header declares", null=True),
        _column("width", pa.int32(), "pixels", null=True),
        _column("height", pa.int32(), "pixels", null=True),
        _column("bit_depth", pa.int16(), "bits a sample", null=True),
        _column("bytes", pa.int64(), "size on disk", null=True),
        _column("stamp", pa.string(), "size and modification time when it was hashed", null=True),
        _column("sha256", pa.string(), "content hash; taken again when size or modification time change", null=True),
        _column("problem", pa.string(), "why the header could not be read", null=True),
    ]
)

FACES = pa.schema(
    [
        VIDEO_ID,
        FRAME,
        FACE_NO,
        _column("subject_id", pa.string(), "who it is; null where the annotation does not say", null=True),
        *_box("face"),
    ]
)

SUBJECTS = pa.schema(
    [
        _column("subject_id", pa.string(), "a subject that the dataset's gallery tables list"),
        _column("gallery", pa.string(), "the gallery that lists it"),
    ]
)

ANOMALIES = pa.schema(
    [
        _column("kind", pa.string(), "what was unusual about the annotation rows"),
        _column("count", pa.int64(), "how many rows"),
        _column("example", pa.string(), "the first one: file, row, values"),
    ]
)

BODIES = pa.schema(
    [
        BODY_ID,
        VIDEO_ID,
        FRAME,
        _column("pts_seconds", pa.float64(), "presentation time of the frame; NaN where the container has none"),
        *_box("body"),
        _column("score", pa.float32(), "confidence of the detector, 0..1"),
    ]
)

LABELS = pa.schema(
    [
        BODY_ID,
        FRAME,
        _column("subject_id", pa.string(), "who it is; null unless status is labelled", null=True),
        _column(
            "face_no",
            pa.int16(),
            "the face it was matched with: greatest overlap, or assigned; null where none touches",
            null=True,
        ),
        _column("overlap", pa.float32(), "overlap with that face, by label.measure"),
        _column("runner_up", pa.float32(), "greatest overlap with a face of any other subject"),
        _column("status", pa.dictionary(pa.int8(), pa.string()), "what became of it: " + ", ".join(LabelStatus)),
    ]
)

CROPS = pa.schema(
    [
        CROP_ID,
        VIDEO_ID,
        FRAME,
        MODALITY,
        _column("subject_id", pa.string(), "who it is"),
        *_box("source"),
        *SHARD,
        _column("width", pa.int32(), "pixels of the crop"),
        _column("height", pa.int32(), "pixels of the crop"),
        *QUALITY,
        _column(
            "status", pa.dictionary(pa.int8(), pa.string()), "ok, or why there is no crop: " + ", ".join(CropStatus)
        ),
    ]
)

MANIFEST = pa.schema(
    [
        CROP_ID,
        _column("subject_id", pa.string(), "who it is"),
        DOMAIN,
        BAND,
        MODALITY,
        VIDEO_ID,
        SESSION_ID,
        CAMERA_ID,
        FRAME,
        *_box("source"),
        _column("split", pa.dictionary(pa.int8(), pa.string()), "train, test, or unused (the protocol leaves it out)"),
        _column("role", pa.dictionary(pa.int8(), pa.string()), "gallery or probe in the test split, else none"),
        _column("mated", pa.bool_(), "of a probe: whether its subject has a gallery row of its modality", null=True),
        _column("template_id", pa.string(), "template that the dataset assigns, where it does", null=True),
        *SHARD,
        *QUALITY,
    ]
)

TRAINING = pa.schema(
    [
        _column("epoch", pa.int32(), "epoch, from 0"),
        _column("step", pa.int64(), "steps done when it was measured"),
        _column("figure", pa.string(), "what: loss/NAME, rate, accuracy, validation/rank-1, mining/NAME"),
        _column("anchor_domain", pa.string(), "of mined pairs: the anchor's domain", null=True),
        _column("mined_domain", pa.string(), "of mined pairs: the domain of what was mined for it", null=True),
        _column("value", pa.float64(), "its mean over the epoch"),
        _column("count", pa.int64(), "of mined pairs: how many", null=True),
    ]
)

TRUTH = pa.schema(
    [
        VIDEO_ID,
        DOMAIN,
        FRAME,
        _column("subject_id", pa.string(), "who it is"),
        *_box("visible body's"),
        _column("visible", pa.float32(), "share of the person's pixels that are in the frame and not hidden, 0..1"),
        _column("face_annotated", pa.bool_(), "whether the face tables hold this person's face in this frame"),
        _column("crowded", pa.bool_(), "whether the video was drawn as a crowd"),
    ]
)
"""Of synthetic data: where every body really is. No stage reads it."""


def embeddings(width: int) -> pa.Schema:
    """The schema of vectors of `width` numbers."""
    vector = pa.list_(pa.float32(), width)
    return pa.schema(
        [
            CROP_ID,
            _column("vector", vector, "the embedding, raw: its length may carry quality", null=True),
            _column("status", pa.dictionary(pa.int8(), pa.string()), "what became of it: " + ", ".join(EmbedStatus)),
        ]
    )
