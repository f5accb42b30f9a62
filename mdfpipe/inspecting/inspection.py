"""Everything that `mdfpipe inspect` does: decide by content what a thing is, describe it, or draw it by `pictures`."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdfpipe.errors import ConfigError, DataError, MdfError, counted, one_line
from mdfpipe.inspecting.export import to_csv
from mdfpipe.inspecting.face_page import describe_faces, face_table, write_face_page
from mdfpipe.inspecting.pictures import draw_frame, draw_sheet, picture_kind, write_page
from mdfpipe.inspecting.things import Description, describe_run, describe_shard, describe_table, describe_weight_file
from mdfpipe.inspecting.weights import SUFFIXES
from mdfpipe.running.plan import standing
from mdfpipe.store.content import Kind, content_of, stand_in
from mdfpipe.store.environment import read_environment
from mdfpipe.store.files import given_path, is_standard_output, write_output
from mdfpipe.store.films import films_behind
from mdfpipe.store.frames import frame_files, in_order
from mdfpipe.store.naming import IMAGE_SUFFIXES
from mdfpipe.store.results import KEY, STAGE
from mdfpipe.store.run import refuse_damaged
from mdfpipe.study.study import open_run

if TYPE_CHECKING:
    from mdfpipe.learning.own_images import Embedder

__all__ = ["Inspected", "draw_frame", "inspect", "inspect_and_write", "to_csv", "write_page"]

KINDS = (
    "a run folder, a Parquet table, a face table of mdfpipe faces, a shard (.tar), a video or folder of frames, or "
    "weights (.onnx, .pt, .safetensors)"
)


@dataclass(frozen=True)
class Inspected:
    """What one call of `mdfpipe inspect` found and made.

    description: None if files were made and it was not asked for. files: paths that were written. lines: words on them.
    """

    description: Description | None
    files: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def inspect_and_write(
    thing: Path,
    *,
    video: str | None = None,
    frame: int | None = None,
    out: Path | None = None,
    sheet: Path | None = None,
    html: Path | None = None,
    csv: Path | None = None,
    crops: Path | None = None,
    weights: Path | None = None,
    trust_pickle: bool = False,
    show_people: bool = False,
    describe: bool = False,
) -> Inspected:
    """Make the picture, the page, the CSV that are asked for; else describe the thing.

    crops: of a checkpoint; the picture and the page then show what its network attends to in them. weights: of a face
    network, which ranks ids of a face table across videos.

    Raises ConfigError for options that do not fit together, DataError, StoreError.
    """
    drawing = {"--video": video, "--frame": frame, "--out": out}
    absent = [name for name, value in drawing.items() if value is None]
    if absent and len(absent) < len(drawing):
        raise ConfigError(
            f"inspect: expected --video, --frame and --out together, got no {' and no '.join(absent)}; add it"
        )
    if crops is not None:
        return _attention(thing, crops, [out, csv], sheet, html, show_people, describe)
    found = face_table(thing)
    if weights is not None and (found is None or html is None):
        raise ConfigError(
            f"inspect {thing}: --weights needs --html PAGE and a face table of `mdfpipe faces`; leave it out"
        )
    if (out or sheet or (html and not found)) and not is_run(thing):
        option = "--frame" if out else "--sheet" if sheet else "--html"
        faces = ", or a face table of `mdfpipe faces`" if option == "--html" else ""
        with_crops = option != "--frame" and thing.is_file() and _is_ours(thing)
        also = ", or --crops with a checkpoint" if with_crops else ""
        raise ConfigError(f"inspect {thing}: {option} needs a run folder with an index{faces}{also}; name one")
    for made in (out, sheet, html, csv):
        if made is not None and not is_standard_output(made):
            _refuse_overwriting(thing, made)
            if found is not None:
                _refuse_overwriting(found, made)
    files, lines = [], []
    if out is not None and video is not None and frame is not None:
        lines += draw_frame(thing, video, frame, out, show_people)
        files.append(str(out))
    if sheet is not None:
        lines += draw_sheet(thing, sheet, show_people=show_people)
        files.append(str(sheet))
    if html is not None and found is not None:
        embedder = None if weights is None else _face_network(weights, trust_pickle)
        lines += write_face_page(found, html, show_people, embedder=embedder)
        files.append(str(html))
    elif html is not None:
        written = write_page(thing, html, show_people)
        lines += [
            *written.notes,
            f"{counted(written.frames, 'frame')} and {counted(written.crops, 'crop')} in {written.bytes / 1e6:.1f} MB",
        ]
        files.append(str(html))
    if csv is not None:
        lines.append(counted(to_csv(thing, csv), "row"))
        lines += [note for note in inspect(thing).notes if "OUT OF DATE" in note]
        files.append(str(csv))
    return Inspected(inspect(thing) if describe or not files else None, files, lines)


def _face_network(weights: Path, trust_pickle: bool) -> Embedder:
    """A network of faces: a checkpoint of `mdfpipe train`, or public weights of the recipe face. Raises ConfigError."""
    from mdfpipe.learning.own_images import Embedder

    recipe = None if weights.is_file() and _is_ours(weights) else {"use": "face"}
    found = Embedder(weights, recipe=recipe, threads=os.cpu_count() or 1, trust_pickle=trust_pickle)
    if found.recipe.modality != "face":
        raise ConfigError(f"--weights {weights}: expected a network of faces, got one of bodies; name another")
    return found


def _attention(
    checkpoint: Path,
    crops: Path,
    others: list[Path | None],
    sheet: Path | None,
    html: Path | None,
    show_people: bool,
    describe: bool,
) -> Inspected:
    """Write what the network of a checkpoint attends to in some crops."""
    from mdfpipe.drawing.pixels import encoded
    from mdfpipe.inspecting.attended import attention_of, attention_page, attention_sheet
    from mdfpipe.learning.data.crops import images_of

    where = f"inspect {checkpoint}: --crops"
    if not checkpoint.is_file() or not _is_ours(checkpoint):
        got = content_of(checkpoint).what
        raise ConfigError(
            f"{where}: expected a checkpoint of mdfpipe, such as RUN/train/SYSTEM/last.pt, got {got}; name one"
        )
    if (sheet is None and html is None) or any(others):
        raise ConfigError(f"{where}: expected --sheet PICTURE or --html PAGE, or both, and no other output; add one")
    kind = picture_kind(sheet, "--sheet") if sheet is not None else ""
    for made in (sheet, html):
        if made is not None and not is_standard_output(made):
            _refuse_overwriting(checkpoint, made)
            _refuse_overwriting(crops, made)
            if made.exists() and any(made.samefile(image) for image in images_of(crops)):
                raise ConfigError(f"{where}: writing {made} would overwrite a crop; name another file")
    found = attention_of(checkpoint, given_path("crops", crops), show_people)
    if sheet is not None:
        write_output(sheet, encoded(attention_sheet(found), kind, quality=92))
    if html is not None:
        write_output(html, attention_page(found, show_people).encode())
    files = [str(made) for made in (sheet, html) if made is not None]
    return Inspected(inspect(checkpoint) if describe else None, files, found.lines())


def _refuse_overwriting(thing: Path, made: Path) -> None:
    """Raise ConfigError if the output is what is inspected, or a file of the run."""
    of_run = is_run(thing) and made.exists() and made.resolve().is_relative_to(thing.resolve())
    if made.resolve() == thing.resolve() or (of_run and made.suffix.lower() not in (".html", ".png", ".jpg", ".jpeg")):
        raise ConfigError(f"inspect {thing}: writing {made} would overwrite what it inspects; name another file")


# -- what a thing is


def inspect(thing: str | PathLike[str]) -> Description:
    """Describe a run folder, table, shard, video or weight file. Raises DataError if `thing` is unknown or damaged."""
    thing = given_path("thing", thing)
    if not thing.exists():
        found = stand_in(thing) or "nothing there; check the path"
        raise DataError(f"{thing}: expected {KINDS}, found {found}")
    try:
        if thing.is_dir():
            return _inspect_folder(thing)
        if not thing.is_file():  # opening a pipe would wait for ever
            raise DataError(f"{thing}: expected {KINDS}, found a pipe, socket or device")
        with thing.open("rb") as file:
            start = file.read(4)
        suffix = thing.suffix.lower()
        if face_table(thing):
            return describe_faces(thing)
        if start == b"PAR1" or suffix == ".parquet":
            return _with_standing(describe_table(thing), thing)
        weights = content_of(thing).kind not in (Kind.OTHER, Kind.PICKLE)
        if suffix == ".tar" and not weights:
            return describe_shard(thing)
        if weights or suffix in SUFFIXES:
            return _inspect_checkpoint(thing) if _is_ours(thing) else describe_weight_file(thing)
        return _inspect_video(thing)
    except OSError as error:
        raise DataError(f"{thing}: cannot be read: {error.strerror or one_line(error)}") from None


def _with_standing(found: Description, table: Path) -> Description:
    """Add a note if the table is of a run and not what its study gives now."""
    run = next((folder for folder in table.resolve().parents if (folder / "pipeline.yaml").is_file()), None)
    if run is None:
        return found
    stage, _, name = table.resolve().relative_to(run).as_posix().partition("/")
    part = (found.receipt or {}).get("stage"), (found.receipt or {}).get("key")
    if stage == STAGE:  # the other files of evaluate belong to its numbers
        part = STAGE, KEY
    if all(part) and name:
        made = standing(run, *map(str, part))
        found.notes.extend([made.stamp] if made.stamp else [])
    return found


def _is_ours(path: Path) -> bool:
    """Whether a weight file declares itself a checkpoint of mdfpipe, by its bytes: nothing in it is opened."""
    from mdfpipe.learning.train.checkpoint import FORMAT

    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(FORMAT.encode() in archive.read(name) for name in pickles)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _inspect_checkpoint(path: Path) -> Description:
    """A checkpoint of `mdfpipe train`: read as tensors, numbers and text; nothing of it can run."""
    from mdfpipe.learning.train.checkpoint import Checkpoint

    try:
        found = Checkpoint.load(path)
    except DataError:
        refuse_damaged(path)  # of a run: it is then made again
        raise
    plain = describe_weight_file(path).facts
    said = found.describe()
    before = [entry.get("system", "?") for entry in said["history"]]
    facts: dict[str, Any] = {
        "system": said["system"],
        "recipe": said["recipe"],
        "starts from": " -> ".join(before) or "random weights",
        "trained": f"{said['epoch']} epochs, {said['step']} steps" if said["step"] else "not: only loaded",
        "subjects": said["subjects"],
        "domains": said["trained_domains"],
        "subjects here and before": len(found.all_subjects),
        "parameters": said["weights"],
        "figures": {name: round(value, 5) for name, value in said["figures"].items()},
        "computed with": {name: said[name] for name in ("precision", "device", "threads", "version", "commit")},
        "bytes": plain["bytes"],
        "sha256": plain["sha256"],
    }
    what = f"a checkpoint of mdfpipe: the system {said['system']}, recipe {said['recipe'].get('use', '?')}"
    return Description("weights", str(path), what, facts, notes=list(said["notes"]))


def _inspect_folder(folder: Path) -> Description:
    if is_run(folder):
        found, environment = describe_run(folder), read_environment(folder)
        try:
            study = open_run(folder)[0].name
        except MdfError as error:
            study = f"unknown ({one_line(error, 160)})"
        data = str(environment.data) if environment else "unknown"
        found.facts = {"study": study, "data": data} | found.facts
        return found
    if (table := face_table(folder)) is not None:
        return describe_faces(table)
    if any(f.suffix.lower() in IMAGE_SUFFIXES for f in folder.iterdir()):
        return _inspect_video(folder)
    raise DataError(f"{folder}: expected {KINDS}, got a folder with neither an index nor images; name one of these")


def is_run(folder: Path) -> bool:
    """Whether a folder has the files of a run folder."""
    return any((folder / name).exists() for name in ("index/videos.parquet", "pipeline.yaml", "environment.json"))


def _inspect_video(path: Path) -> Description:
    from mdfpipe.video.containers import missing_end
    from mdfpipe.video.image_files import is_images
    from mdfpipe.video.orientation import AS_STORED, in_words
    from mdfpipe.video.packets import packets
    from mdfpipe.video.probe import probe

    try:
        info = probe(path)
        facts: dict[str, Any] = {
            "frames declared": info.frames_declared,
            "frames per second": info.fps and round(info.fps, 3),
        }
        facts |= {"width": info.width, "height": info.height, "bits": info.bit_depth}
        facts |= {"codec": info.codec, "pixel format": info.pixel_format}
        if info.orientation != AS_STORED:
            facts["shown"] = "at an angle" if info.orientation is None else in_words(info.orientation)
        notes = []
        if info.is_interlaced:
            notes.append("interlaced: both fields of a frame are in one picture")
        if not 0.99 < info.pixel_aspect < 1.01:
            notes.append(f"pixels are {info.pixel_aspect:.3g} times as wide as high; frames are not stretched")
        if info.others:
            notes.append(f"of several video streams {info.stream} is taken; others: {'; '.join(info.others)}")
        if behind := films_behind(path, info.container):
            notes.append(f"{behind} films lie behind the first in the file, which no decoder reads")
        if path.is_dir():
            names, rule = in_order(frame_files(path), str(path))
            facts |= {"first frame": names[0], "last frame": names[-1], "frames go by": rule.value}
        if not is_images(path):
            times = packets(path).times
            finite = times[times == times]
            facts |= {"frames in the container": len(times)}
            if len(finite) > 1:
                steps = finite[1:] - finite[:-1]
                facts |= {"seconds": round(float(finite[-1] - finite[0]), 3)}
                facts |= {"steps between frames, seconds": f"{steps.min():.4f}..{steps.max():.4f}"}
            end = missing_end(path, info.container)
            notes += [end] if end else []
            if info.frames_declared not in (None, len(times)):
                notes.append(f"the header declares {info.frames_declared} frames, the container holds {len(times)}")
    except DataError as error:
        words = one_line(error).removeprefix(f"{path}: ")
        raise DataError(f"{path}: expected {KINDS}, got none of these; as a video: {words}") from None
    what = "a folder of frames" if path.is_dir() else "a video"
    return Description("video", str(path), f"{what}; no more than its first frame was decoded", facts, notes=notes)
