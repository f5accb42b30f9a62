"""Generates formats.md, settings.md, recipes.md and cli.md in docs/ from the code, so that they cannot disagree.

And methods-on-drawn-people.md from the numbers that `scripts/ablations` keeps.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from enum import StrEnum
from pathlib import Path
from typing import Any

import ablations_page
import pyarrow as pa
import recipes_page
import typer

from mdfpipe.config import Config, Plugin
from mdfpipe.datasets import Dataset
from mdfpipe.datasets.reading.faces import AnomalyKind
from mdfpipe.datasets.reading.images import ImageAnomaly
from mdfpipe.learning.recipes import Recipe
from mdfpipe.running.scoring import ACCEPTED
from mdfpipe.stages.index import FaceAnomaly
from mdfpipe.store import tables
from mdfpipe.store.subjects import DOUBTFUL, NOBODY
from mdfpipe.video.detectors.precomputed import COLUMNS

METRICS = {
    "epoch": "epoch, from 0",
    "step": "steps done when it ended",
    "rate": "learning rate of its last step, of the first group",
    "loss/NAME": "mean of a loss term of the recipe, weighted as it is minimised",
    "NAME": "mean of a figure that the recipe logs: accuracy of `body`, of `dfw`, of `di2l`, of `idkl`, of `lccrf`; "
    "norm, norm_mean, norm_spread of `face`; apart_px, apart_hard_px (distance of the places that branches attend "
    "to, by the soft and the hard arg-max, pixels of the input), overlap_share (the penalty in the whole loss), "
    "spread/STAGE and strong/STAGE (of what is weakened: standard deviation over mean of the response f, and the share "
    "of places that reach the threshold) of `dfw`; "
    "focal_weight/DOMAIN (how much an image counts, (1 - p)^gamma), with_triplet (share of images) of `di2l`; "
    "accuracy_specific, discriminator_loss and confuser_loss with their chance_loss, mdr_paired (share of images) of "
    "`idkl`; cosine_positive, cosine_negative, map_square of `lccrf`",
    "mining": "what batch-hard mining chose, where it chose anything: anchors, skipped, pos_other, neg_same (shares of "
    "hardest positives in another domain, of hardest negatives in the same) with their chances pos_other_chance, "
    "neg_same_chance; d_pos, d_neg (mean distances); positive, negative: lists of anchor, mined, count, mean_distance",
    "validation/pos_other": "of `body`: as in mining, of 256 held-out crops as one batch, with its chance",
    "validation/neg_same": "of `body`: the same",
    "validation/apart": "of `dfw`: distance of the places that branches attend to, over the diagonal of the input",
    "validation/compactness": "of `lccrf`: distance of a feature to the mean of its subject's others, over the sum of "
    "that and the distance to the nearest mean of another subject; 1/2: no nearer to its own",
    "validation/attention_peak": "of `di2l`: greatest weight by which a stripe takes others; 1 / parts: all alike",
    "validation/rank-1": "Rank-1 of the held-out subjects, in the epochs that are validated",
    "validation/NAME": "a share that the recipe measures on 256 of their crops: part_match (local tokens that are "
    "nearest to their own band of the body, by what differs between images), part_attention (attention of a local "
    "token on its own band, bands of any height weighed alike), chance 1/3 for both, of `body`; "
    "domain_probe (images whose domain a new ridge regression finds in the test feature, fitted on the other half of "
    "the subjects, domains weighed alike, chance 1 / domains) of `idkl`",
    "images_per_second": "crops trained on a second, of all processes",
    "seconds": "how long the epoch took, or the rest of it after a resume",
}
"""Keys of a line of metrics.jsonl. All but the last two are also in the training table."""

PUBLIC = {
    "PASS": ("body, its ViT", "local tokens and positions included: upper, middle and lower half, not body parts"),
    "TransReID": (
        "body, its ViT",
        "sie_embed is left out, or loaded where `side_information` is set and its number of rows fits",
    ),
    "TransReID-SSL": ("body, its ViT", "also with the convolution stem of its ICS networks"),
    "DINO": ("body, its ViT", "of student and teacher the teacher; its projection is left out"),
    "timm ViT": ("body, its ViT", "distilled ones without their second token"),
    "SOLIDER": ("body, a Swin of timm", "its layout of Swin; the tensors of its semantic weight are left out"),
    "AdaFace": ("face", "Lightning checkpoints; takes BGR, the recipe's default"),
    "CVLFace": ("face", "takes RGB: set `augment.colour: rgb`, or it is refused"),
    "ImageNet ResNet": (
        "dfw, di2l, idkl, lccrf",
        "torchvision's names; fills every stream and branch; fc is left out",
    ),
}
"""Public checkpoints: which recipe takes them, and what to know."""

ENVIRONMENT = {
    "MDFPIPE_DATA": "Data folder if `--data` is not given.",
    "MDFPIPE_WEIGHTS": "Another folder to search for weights; `--download-weights` stores them there.",
    "MDFPIPE_VIDEO_CACHE": "Folder of fetched remote videos. The default is `mdfpipe/videos` in `XDG_CACHE_HOME`.",
    "RAY_ADDRESS": "Address of a Ray cluster if `--ray` is not given.",
    "RAY_USAGE_STATS_ENABLED": "Set to `0` with `--on ray`: no report to the makers of Ray.",
    "XDG_CONFIG_HOME": "Folder of settings, `~/.config` if not set: profiles of sites are in `mdfpipe/` there.",
    "XDG_CACHE_HOME": "Folder of caches, `~/.cache` if not set. Only fetched remote videos are there.",
    "MDFPIPE_VIDEO_CACHE_GB": "Size limit of that folder in GB. The default is 100.",
    "MDFPIPE_LARGEST_GB": "Largest memory in GB that the header of a file, or a batch of pictures, may ask for, such "
    "as `16`. The default is 2 GB or four times the size of the file.",
    "MDFPIPE_PROFILE": "Profile of Slurm if `--profile` is not given.",
    "MDFPIPE_HOST": "Another name for this machine in locks and temporary files; for tests.",
    "COLUMNS": "Width of help and progress bars; tables are as wide as their content.",
    "TMPDIR": "Scratch folder of ultralytics while it opens weights; it is empty after each command. torchrun leaves "
    "its own logs there.",
    "MPLCONFIGDIR": "Folder of matplotlib's font cache, the only file written below the home folder.",
    "RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT": "Set by `torchrun`: its processes "
    "train together. `LT_*`, the variables of Fabric, are ignored.",
    "SLURM_*, OMPI_COMM_WORLD_*, PMI_*, JSM_NAMESPACE_*": "Distinguish copies started by srun or mpirun, which are "
    "refused, from a single job; the lock of a run records the job number.",
    "ORT_DISABLE_TELEMETRY": "Set to `1` by the commands if not set: onnxruntime reports nothing to its maker.",
    "TORCHINDUCTOR_CACHE_DIR": "Set by the commands if not set, so that torch makes no folder in TMPDIR.",
    "OMP_NUM_THREADS, OPENBLAS_NUM_THREADS, MKL_NUM_THREADS, OMP_WAIT_POLICY": "Set in worker processes: `--threads`.",
    "YOLO_CONFIG_DIR, YOLO_OFFLINE": "Set while ultralytics opens weights, so that it uses no network and writes no "
    "settings.",
    "OPENCV_FFMPEG_LOGLEVEL, DECORD_EOF_RETRY_MAX": "Set for the decoders opencv and decord if not set.",
}
"""Variables of the environment that the package reads or sets."""

DOCS = Path(__file__).parents[1] / "docs"
HEAD = "<!-- Generated by scripts/docs. Change the code, then run it again. -->\n\n"

TABLES = {
    "videos": (tables.VIDEOS, "index/videos.parquet", "one row a video"),
    "faces": (tables.FACES, "index/faces/VIDEO.parquet", "one row an annotated face, by frame and face_no"),
    "images": (tables.IMAGES, "index/images/VIDEO.parquet", "of a benchmark of images: one row a file, by path"),
    "face sources": (tables.FACE_SOURCES, "index/face_sources.parquet", "one row a video with detected faces"),
    "subjects": (tables.SUBJECTS, "index/subjects.parquet", "one row a subject and gallery"),
    "anomalies": (tables.ANOMALIES, "index/anomalies.parquet", "one row a kind of unusual annotation row"),
    "bodies": (tables.BODIES, "detect/VIDEO.parquet", "one row a detection, by frame, the best first"),
    "tracks": (
        tables.TRACKS,
        "track/VIDEO.parquet",
        "of a study with tracks: one row a detection, in the order of bodies",
    ),
    "labels": (tables.LABELS, "label/VIDEO.parquet", "one row a detection, in the order of bodies"),
    "crops": (tables.CROPS, "crop/VIDEO.parquet", "one row a crop, by modality, frame and crop_id"),
    "manifest": (tables.MANIFEST, "manifest/manifest.parquet", "one row a usable crop, by video"),
    "training": (tables.TRAINING, "train/SYSTEM/training.parquet", "one row a figure of an epoch, by epoch"),
    "embeddings": (
        tables.embeddings(1),
        "embed/SYSTEM/VIDEO.parquet",
        "one row a crop of the manifest that the system embeds, by crop_id; D is the recipe's",
    ),
    "metrics": (
        tables.METRICS,
        "evaluate/metrics.parquet",
        "one row a number (`metrics.json`: the same as JSON, with verdicts)",
    ),
    "comparisons": (tables.COMPARISONS, "evaluate/comparisons.parquet", "one row a pair of systems and a metric"),
    "curves": (tables.CURVES, "evaluate/curves.parquet", "one row a point of a curve"),
    "searches": (
        tables.SEARCHES,
        "evaluate/searches.parquet",
        "one row a probe, by table, pair of domains and system (`lists.parquet`: of a benchmark's first trial)",
    ),
    "scores": (tables.SCORES, "evaluate/scores/TABLE.SYSTEM.parquet", "one row a comparison of two templates"),
    "templates": (tables.TEMPLATES, "evaluate/templates/SYSTEM.parquet", "one row a template"),
    "truth": (
        tables.TRUTH,
        "DATA/truth/bodies.parquet",
        "of synthetic data: a row for each person and frame; no stage reads it",
    ),
}


def formats() -> str:
    """Every table and column."""
    lines = [
        HEAD + "# Formats",
        "",
        "Every table is a Parquet file whose columns explain themselves: the text below is in the file, and",
        "`mdfpipe inspect FILE` prints it. `VIDEO` is the video_id with `/` written `__`. The footer of a part",
        "(key `mdfpipe`) holds its receipt as JSON: stage, version, the settings that were decisive, the content of",
        "what it was made from, facts, which of them later stages read, the files that belong to it (size, sha256),",
        "and its own content: the hash of rows, files and those facts. Pages have checksums. Between the last page and",
        "the footer are 44 bytes that Parquet's readers ignore: `mdfpipe\\x01`, the CRC-32 of the footer (little",
        "endian), the sha256 of all the file but these 32 bytes. Crops lie in uncompressed tars,",
        "`crop/VIDEO.body.tar` and `crop/VIDEO.face.tar`;",
        "a row's `shard`, `offset` and `size` give its bytes.",
    ]
    for name, (schema, place, rows) in TABLES.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"`{place}`: {rows}.",
            "",
            "| column | type | null | meaning |",
            "|---|---|---|---|",
        ]
        lines += [_column(field) for field in schema]
    for status in (tables.LabelStatus, tables.CropStatus, tables.EmbedStatus, tables.SearchStatus, tables.NumberNote):
        lines += ["", f"{status.__name__}: " + ", ".join(f"`{s}`" for s in status) + "."]
    return "\n".join([*lines, "", *_metrics(), "", *_checkpoint(), "", *_inputs(), "", *_benchmarks()]) + "\n"


def _inputs() -> list[str]:
    """What the tables that a user brings may look like, and what becomes of their rows."""
    nobody = ", ".join(f"`{text}`" for text in NOBODY if text)
    doubtful = ", ".join(f"`{text}`" for text in DOUBTFUL)
    return [
        "## input tables",
        "",
        "Face, gallery, domain and truth tables and box files are text in UTF-8, with or without BOM, with a",
        "header. Commas, semicolons, tabs or bars separate the columns, whichever finds most of the wanted",
        "headers; behind semicolons a number may have a decimal comma. A header is matched exactly, or else in",
        "any case, or else without blanks, `_`, `-` and `.`. Box files may also be Parquet.",
        "",
        "Paths are relative to the data root. `./a`, `a//b` and `a\\b` are `a`, `a/b` and `a/b`; `..`, absolute",
        "paths, drives and URLs are refused. A path that names no file gets the name of the file that it nearly",
        "names: another letter case, another encoding of accents, another suffix or folder. Symbolic links may",
        "lead out of the data root with `dataset.links: follow`; `real_path` of the videos table says where.",
        "With `dataset.remote`, tables may name videos by URLs ([remote videos](scale.md#remote-videos)).",
        "",
        "A cell has no name, or no number, if it is empty, blank, or one of these texts in upper or lower case:",
        f"{nobody}. Such a",
        "face keeps its row without a subject. `dataset.subject_names_kept` lists real names of this kind",
        "(protocols have the same setting), `dataset.subject_names_missing` lists further texts. Names",
        f"that probably mean a missing name are kept and reported: {doubtful}.",
        "",
        "Rows of face and gallery tables, and faces against the size of the decoded picture, are counted by kind:",
        "",
        "| kind | what |",
        "|---|---|",
        *(f"| {kind} | {meaning} |" for which in (AnomalyKind, FaceAnomaly) for kind, meaning in _commented(which)),
        "",
        "Boxes that cannot be of their picture fail their video, and the whole index where most videos have such",
        "faces: most boxes lie mostly outside, within 0..1, or have a side below 2 px; or sizes and edges are",
        "mistaken for each other. `check_boxes: false`, of the data set or of the detector, takes them as they",
        "are.",
        "",
        "A face table may say in a column `SOURCE` that a face is `detected`, as `mdfpipe faces` does:",
        "numbers that rest on such faces are marked. Without the column, or with any other text in it, faces are",
        "annotated. `mdfpipe faces` also writes `SCORE`, the confidence, and `FOUND_ID`, the id before any merge or",
        "split; only it reads these.",
        "",
        "### box files",
        "",
        "`detector: {use: precomputed, boxes: FILE}`: one row a body. Other columns are left alone.",
        "",
        "| column | headers that will do | meaning |",
        "|---|---|---|",
        *(f"| {name} | {', '.join(headers)} | {_BOX_COLUMNS[name]} |" for name, headers in COLUMNS.items()),
        "",
        "A video is written as its video_id, or as its path with or without its suffix.",
        "",
        "`detector: {use: mot, boxes: FILE}`: a text file of MOTChallenge for each video, a row `frame, id, left, top,",
        "width, height` and, where known, `confidence, class, visibility`. Frames begin at 1; in a folder of frames",
        "whose numbers have gaps, a file that continues behind the last one names these numbers. Rows with an id and",
        "confidence 0, and of other classes than `classes`, are left out and counted. `seqinfo.ini` in the folder of",
        "the file, or one above it, must say the size of the video's pictures.",
        "",
        "`detector: {use: coco, boxes: FILE}`: JSON with `images`, `annotations` and `categories`. An image belongs to",
        "a video of `videos` by `video_id` and `frame_id` (or `frame_index`, `frame_number`), or by `file_name`, whose",
        "folder is the video: the frame is the place of the file in it, or, of a video that is no folder, the last",
        "number of its name. A box is `bbox`, or the one around the polygons of",
        "`segmentation`; masks (RLE) alone are refused. `iscrowd` and other categories are left out and counted. The",
        "file is read as a whole (0.4 GB of memory for 500,000 boxes); MOTChallenge and Parquet are lighter.",
        "",
        "An id names a person of its video (`VIDEO:ID`), or with `ids: dataset` of all; a `subject_id` of COCO always",
        "does. A person has one box a frame. `mdfpipe export RUN --as mot` (or coco) writes files that are read so:",
        "the same boxes, bit for bit.",
        "",
        "### vectors made elsewhere",
        "",
        "`mdfpipe score FILE` and `mdfpipe.evaluate` take a row for each crop or template, as Parquet, NPZ (an array a",
        "column) or DataFrame. Other columns are not read.",
        "",
        "| column | meaning |",
        "|---|---|",
        *(f"| {name} | {meaning} |" for name, meaning in ACCEPTED.items()),
    ]


_BOX_COLUMNS = {
    "video_id": "the video; may be absent where there is a file for each video",
    "frame": "frame index, 0-based in presentation order, or from `frame_base`",
    "x1": "left edge, pixels of the decoded picture (`box: xyxy`)",
    "y1": "top edge (`box: xyxy`)",
    "x2": "right edge, exclusive (`box: xyxy`)",
    "y2": "bottom edge, exclusive (`box: xyxy`)",
    "x": "left edge (`box: xywh`)",
    "y": "top edge (`box: xywh`)",
    "width": "pixels (`box: xywh`)",
    "height": "pixels (`box: xywh`)",
    "score": "confidence, 0..1; 1 where the column is absent or empty",
    "subject_id": "the person, where known: label names the body so; may be absent, or empty in a row",
}


def _benchmarks() -> list[str]:
    """The layouts of the benchmarks of images, by their readers' own text."""
    lines = [
        "## benchmarks of images",
        "",
        "What `--data` has to hold for `dataset: {use: NAME}`, as these data sets are published. Their images are",
        "people already cut out, so nothing is detected, labelled or cut: a study has no such sections, and `crop`",
        "puts JPEG and PNG files into its shards byte for byte, other formats as PNG of the same pixels. A video is",
        "replaced by the images of one folder and camera (`cam1`, `nir/c06`, `query/c3`); a crop_id is the file's",
        "path under the data root; `subject_id` and `camera_id` are as folder and file names have them, cameras",
        "without leading zeros.",
        "`manifests/` holds a protocol of the same name for each (`sysu-296`: without the validation identities).",
        "`index` and `mdfpipe inspect` report counts that differ from the published ones; this is no error.",
        "Files left out, and files that index files name and the disk does not hold, are counted there, too:",
        "",
        "| kind | what |",
        "|---|---|",
        *(f"| {kind} | {meaning} |" for kind, meaning in _commented(ImageAnomaly)),
    ]
    for name in Dataset.choices():
        if Dataset.variant(name).holds_images:
            text = inspect.cleandoc(sys.modules[Dataset.variant(name).__module__].__doc__ or "")
            lines += ["", f"### {name}", "", text]
    return lines


def _commented(kinds: type[StrEnum]) -> list[tuple[str, str]]:
    """The values of an enumeration, each with the comment behind it."""
    said = re.findall(r"^    [A-Z_]+ = \"(\w+)\"  # (.+)$", inspect.getsource(kinds), re.MULTILINE)
    assert len(said) == len(kinds)
    return said


def _metrics() -> list[str]:
    return [
        "## metrics.jsonl",
        "",
        "`train/SYSTEM/metrics.jsonl`: one JSON object a line and epoch, written as it ends (until the training is",
        "done, to `state.jsonl` in the same folder). `--tensorboard` writes the same figures as event files, too.",
        "",
        "| key | meaning |",
        "|---|---|",
        *(f"| {key} | {meaning} |" for key, meaning in METRICS.items()),
    ]


def _checkpoint() -> list[str]:
    """The fields of a checkpoint, explained by the class's own text."""
    from mdfpipe.learning.train.checkpoint import FORMAT, Checkpoint

    text = " ".join(inspect.cleandoc(Checkpoint.__doc__ or "").partition("\n\n")[2].split())
    said = {"format": f"`{FORMAT}`", "system": "its name in the study"}
    for part in text.rstrip(".").split("; "):
        names, _, meaning = part.partition(": ")
        said |= dict.fromkeys(names.split(", "), meaning)
    types = {"format": "str", **{name: str(kind) for name, kind in Checkpoint.__annotations__.items()}}
    lines = [
        "## checkpoint",
        "",
        "`train/SYSTEM/last.pt`, and `best.pt` where there is a validation: a dictionary, written with `torch.save`,",
        "read with `weights_only=True`: tensors, numbers, text, lists and dictionaries. Opening it runs nothing.",
        "",
        "| field | type | meaning |",
        "|---|---|---|",
    ]
    return lines + [f"| {name} | {kind.replace('|', 'or')} | {said[name]} |" for name, kind in types.items()]


def _column(field: pa.Field) -> str:
    kind = str(field.type)
    if pa.types.is_dictionary(field.type):
        kind = f"{field.type.value_type} (dictionary)"
    elif pa.types.is_fixed_size_list(field.type):
        kind = "fixed_size_list<float32>[D]"
    return f"| {field.name} | {kind} | {'yes' if field.nullable else ''} | {field.metadata[b'meaning'].decode()} |"


def settings() -> str:
    """Every setting of a study, family by family."""
    from mdfpipe.study.study import Study

    lines = [
        HEAD + "# Settings",
        "",
        "A study is a YAML file with these sections; `--set detect.stride=2` changes one setting. A section with a",
        "`use` is a family: `use` names one of its variants, whose own settings are next to it. A decoder without",
        "`use` is `auto`. `NAME` is a name that you give. A section of a recipe that is given in part keeps the rest",
        "as the recipe has it. A key named `on`, `off`, `yes` or `no` needs quotes: YAML 1.1 reads it as true or",
        "false.",
        "`extends: OTHER.yaml`, or a list of files next to the study, takes their settings. The study's own settings",
        "replace them section by section.",
    ]
    _section("study", Study, lines, {}, {})
    return "\n".join(lines) + "\n"


def _section(
    path: str, config: type[Config], lines: list[str], left_out: dict[str, str], places: dict[type[Config], str]
) -> None:
    """A section, and those inside it. left_out: what its settings are here where a study does not give them, instead of
    the class's own defaults. places: where a class is explained, once.
    """
    first, own = places.setdefault(config, path), _defaults(config)
    inner: list[tuple[str, type[Config], dict[str, str]]] = []
    rows, others = [], []
    for name, field in config.model_fields.items():
        default, meaning = own[name], (field.description or "").replace("|", chr(92) + "|")
        for kind in _sections(field.annotation):
            here = ".".join([*([] if path == "study" else [path]), name, *["NAME"] * _is_dict(field.annotation)])
            inside = {n.removeprefix(f"{name}."): text for n, text in own.items() if n.startswith(f"{name}.")}
            there = here if _is_family(kind) else places.setdefault(kind, here)
            if there == here or inside.items() - _defaults(kind).items():
                inner.append((here, kind, inside))
            else:
                default = f"{default} (as `{there}`)".lstrip()
        rows.append(f"| {name} | {default} | {meaning} |")
        if left_out.get(name, own[name]) != own[name]:
            others.append(f"| {name} | {left_out[name]} | {meaning} |")
    doc = inspect.cleandoc(config.__doc__ or "").replace(">>>", "")
    lines += ["", f"## {path}", "", doc if first == path else f"As `{first}`."]
    head = ["", "| setting | default | meaning |", "|---|---|---|"]
    if rows and first == path:
        lines += [*head, *rows]
    if others:
        lines += ["", "Here, where the study does not give them:", *head, *others]
    for here, kind, inside in inner if first == path else []:
        if _is_family(kind):
            for choice in kind.choices():  # type: ignore[attr-defined]
                _section(f"{here} (use: {choice})", kind.variant(choice), lines, {}, places)  # type: ignore[attr-defined]
        else:
            _section(here, kind, lines, inside, places)


def _defaults(config: type[Config], made: Config | None = None) -> dict[str, str]:
    """Setting -> its default, as text (or what it is in `made`); those of the sections inside by dotted names."""
    found = {}
    for name, field in config.model_fields.items():
        if made is None and field.is_required():
            found[name] = "required"
            continue
        value = field.get_default(call_default_factory=True) if made is None else getattr(made, name)
        found[name] = _shown(value)
        if isinstance(value, Config):
            found |= {f"{name}.{inner}": text for inner, text in _defaults(type(value), value).items()}
    return found


def _is_family(kind: type[Config]) -> bool:
    return issubclass(kind, Plugin) and Plugin in kind.__bases__


def _is_dict(annotation: object) -> bool:
    return typing.get_origin(annotation) is dict


def _sections(annotation: object) -> list[type[Config]]:
    """The sections that an annotation names, however deep: `dict[str, System]`, `Lora | None`."""
    if inside := typing.get_args(annotation):
        return [found for part in inside for found in _sections(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, Config) else []


def _shown(value: object) -> str:
    if isinstance(value, Config):
        return ""
    return "none" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


TIMM = [
    "",
    "### Any ViT of timm",
    "",
    "`body` takes a vision transformer of timm as its backbone, by its name:",
    "",
    "```yaml",
    "systems:",
    "  dino:",
    "    weights: dinov2.safetensors",
    "    recipe:",
    "      use: body",
    "      backbone: {use: timm, name: vit_base_patch14_dinov2}",
    "      image_height_px: 378",
    "      image_width_px: 126",
    "```",
    "",
    "Nothing is downloaded: the weights come from a file, under the names of timm or of the network's authors, or are",
    "drawn at random. Local tokens are the means of three bands of the last feature map. The global token is the mean",
    "of the map, or with `global: token` the class token of the network. Image size and `augment.normalise` are those",
    "of timm's data config unless they are set. `fusion`, `neck`, `parts`, `lora`, `drop_path` and ONNX export work;",
    "`stem`, `positions`, `initialisation`, `blocks` and `part_alignment` are refused. `options` changes sizes:",
    "`depth`, `depths`, `embed_dim`, `mlp_ratio`, `num_heads`, `patch_size`, `window_size`. Tested with small members,",
    "drawn at random, of these families:",
    "",
    "| family | a name in timm | licence of the public weights |",
    "|---|---|---|",
    "| DINOv2 | `vit_base_patch14_reg4_dinov2` | Apache 2.0 |",
    "| DINOv3 | `vit_base_patch16_dinov3` | DINOv3 License: Meta's own, to be accepted before the download |",
    "| EVA-02 | `eva02_base_patch14_224` | MIT |",
    "| CLIP | `vit_base_patch16_clip_224.openai` | MIT; its model card does not recommend deployment |",
    "| SigLIP | `vit_base_patch16_siglip_224` | Apache 2.0 |",
    "| Swin | `swin_base_patch4_window7_224` | MIT |",
]
"""Lines of recipes.md on backbones of timm."""


VENDOR = [
    "",
    "### A vendor's network in the same table",
    "",
    "Any network that gives one vector an image is a system, from its ONNX file (extra `onnx`):",
    "",
    "```yaml",
    "systems:",
    "  vendor:",
    "    weights: net.onnx",
    "    recipe:",
    "      use: onnx",
    "      image_height_px: 256",
    "      image_width_px: 128",
    "      dimensions: 512",
    "      augment: {normalise: imagenet, colour: rgb}",
    "```",
    "",
    "Nothing is trained: the stage `train` checks the file and keeps its bytes in `last.pt`, the stage `embed` runs it",
    "under onnxruntime on the CPU, also with `--device cuda`. Layout and batch are the graph's; a size or a length of",
    "vectors that is not as set is an error that says what to set. `mean` and `std` take the place of",
    "`augment.normalise`, `output` names one of several outputs, `embeds: face` takes face crops. Vectors are compared",
    "by the cosine. Operators that onnxruntime does not bring are refused: no code of the file runs. In Python,",
    '`mdfpipe.Embedder("net.onnx", recipe={"use": "onnx"})` embeds images of your own.',
]
"""Lines of recipes.md on networks in ONNX files."""


def recipes() -> str:
    """Every recipe: its source, what differs, numbers, cost, defaults; and which public weights it takes."""
    lines = [
        HEAD + "# Recipes",
        "",
        "The training method of a system: `recipe: {use: NAME, ...}` in a study. Each is one file of",
        "`mdfpipe/learning/recipes/`, with its first lines below; [settings.md](settings.md) explains every setting.",
        "",
        *recipes_page.overview(),
        "",
        "## Public weights",
        "",
        "A system with `weights: FILE` starts from a checkpoint of ours or from a public one. A file that needs more",
        "than tensors and plain values is refused, unless `--trust-pickle` is given. Missing, resized and omitted",
        "tensors are reported; a tensor of another shape, or too little of the backbone (`min_coverage`), is an error.",
        "",
        "| checkpoint | recipe | to know |",
        "|---|---|---|",
        *(f"| {name} | {recipe} | {note} |" for name, (recipe, note) in PUBLIC.items()),
        "",
        "**None of these files was available.** Loading is tested on state dicts with the public key names and shapes,",
        "not on the files themselves.",
        *TIMM,
        *VENDOR,
    ]
    for choice in Recipe.methods():
        lines += _recipe(choice)
    return "\n".join(lines) + "\n"


def _recipe(choice: str) -> list[str]:
    kind: Any = Recipe.variant(choice)
    title, _, text = recipes_page.docstring(choice).partition("\n\n")
    made = kind()
    facts = f"Modality {kind.modality}; an embedding has {made.features} numbers; distance at test: {kind.distance}."
    rows = [f"| {name} | {value} |" for name, value in _defaults(kind).items() if value]
    head = ["", f'<a id="{choice}"></a>', "", f"## {title.rstrip('.')}", "", text, "", facts]
    return [*head, *recipes_page.numbers(choice), "", "| setting | default |", "|---|---|", *rows]


def commands() -> str:
    """Every command with its help."""
    from mdfpipe.cli.commands import app

    root = typer.main.get_command(app)
    lines = [
        HEAD + "# Commands",
        "",
        "Exit codes: 0 all done, 2 a usage or data error, 3 some units failed or wait, 4 an unexpected error, 130 "
        "Ctrl-C, 141 the reader of the output has gone, 143 SIGTERM or SIGHUP.",
        "",
        "`mdfpipe --install-completion` makes the shell complete commands, options and names of studies.",
    ]
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        lines += ["", f"## mdfpipe {name}", "", *(line.strip() for line in (command.help or "").splitlines())]
        rows = []
        for parameter in command.params:
            if parameter.name == "help":
                continue
            if parameter.param_type_name == "argument":
                rows.append(f"| `{parameter.name.upper()}` | {parameter.help or ''} | |")
            else:
                default = parameter.default if parameter.default not in (None, False, ()) else ""
                names = ", ".join(f"`{o}`" for o in parameter.opts)
                default = "required" if parameter.required else default
                rows.append(f"| {names} | {(parameter.help or '').replace('|', '/')} | {default} |")
        if rows:
            lines += ["", "| option | meaning | default |", "|---|---|---|", *rows]
    named = [
        f"| {', '.join(f'`{one}`' for one in names.split(', '))} | {text} |" for names, text in ENVIRONMENT.items()
    ]
    lines += ["", "## Environment", "", "| variable | meaning |", "|---|---|", *named]
    return "\n".join(lines) + "\n"


def drawn_people() -> str:
    """What each part of the recipes adds on drawn people."""
    return HEAD + ablations_page.page()


PAGES = {
    "formats.md": formats,
    "settings.md": settings,
    "recipes.md": recipes,
    "cli.md": commands,
    "methods-on-drawn-people.md": drawn_people,
}


def main() -> int:
    """Write the pages, or with --check compare them."""
    stale = []
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != text:
                stale.append(f"docs/{name}")
        else:
            path.write_text(text)
    if stale:
        print(f"{', '.join(stale)}: not as the code says; run scripts/docs")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
