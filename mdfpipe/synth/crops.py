"""Visible-light crops of people who are in no gallery, to pre-train on.

    OUT/crops/crop/<block>.parquet, <block>.body.tar   SUBJECTS_A_BLOCK subjects each
    OUT/crops/manifest/manifest.parquet                every crop: domain VIS-500m, split train
    OUT/faces/...                                      the same of faces, of clips in which all come towards the camera

Both are run folders without videos. The box of a body is not the person's exact extent: as a detector has habits, each
clip has its own scale, aspect and offset, and each frame a little more of each. A face is annotated as in the videos.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdfpipe.errors import ConfigError
from mdfpipe.store.parquet import is_whole, read_table
from mdfpipe.store.run import Receipt, Run
from mdfpipe.store.shards import ShardWriter
from mdfpipe.store.tables import MANIFEST
from mdfpipe.synth.folder import Share, counting, drawing, here
from mdfpipe.synth.people import draw_subject
from mdfpipe.synth.presets import DOMAINS, seed_of

SUBJECTS_A_BLOCK = 50
BLOCK = "block-"  # how keys of parts begin that hold crops
CLIPS, FRAMES = 4, 3  # of each subject
Modality: TypeAlias = Literal["body", "face"]
FIRST_SUBJECT = 300_000  # no gallery counts so far
VERSION = 2
SCENE = (360, 260)  # height, width: one person and the ground around

Cut: TypeAlias = Callable[[NDArray[Any], NDArray[np.float32]], tuple[bytes, float, float]]
"""A frame (H, W, 3) uint8 and a box (4,) xyxy to (JPEG of the crop, sharpness, contrast)."""


def write_crops(
    out: Path,
    subjects: int,
    *,
    cut: Cut,
    modality: Modality = "body",
    seed: int = 0,
    share: Share = here,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write CLIPS x FRAMES crops of each of `subjects` people into the run folder `out`; return the number of crops.

    A frame without enough of the subject, or without a face, gives none. cut: a function of a module (it goes to
    other processes). share: draws the blocks. progress(done, of so many): subjects that this call draws. Raises
    ConfigError, StoreError where the folder cannot be written or is in use, MdfError where a subject cannot be drawn.
    """
    if subjects < 2:
        option = "--crops" if modality == "body" else "--faces"
        raise ConfigError(f"{option} {subjects}: expected at least 2 subjects")
    if seed < 0:
        raise ConfigError(f"--seed {seed}: expected 0 or more")
    run = Run(out)
    blocks = range(0, subjects, SUBJECTS_A_BLOCK)
    wanted = {start: _receipt(start, min(SUBJECTS_A_BLOCK, subjects - start), seed, modality) for start in blocks}
    with run.lock():
        missing = [r for r in wanted.values() if not _made(run, r)]
        tell = counting(sum(receipt.settings["subjects"] for receipt in missing), progress, run.check_lock)
        for _ in share(_block, [(run, receipt, cut) for receipt in missing], tell):
            pass
        rows = pa.concat_tables(read_table(run.part("crop", receipt.key)) for receipt in wanted.values())
        made = {receipt.key: run.receipt("crop", receipt.key) for receipt in wanted.values()}
        upstream = {key: receipt.content for key, receipt in made.items() if receipt}
        settings = {"subjects": subjects, "seed": seed} | _mark(modality)
        whole = Receipt("manifest", VERSION, "manifest", settings, upstream)
        if missing or not _made(run, whole):
            run.commit(whole, rows, {})
    return int(rows.num_rows)


def _receipt(start: int, count: int, seed: int, modality: Modality) -> Receipt:
    drawn = {"first": FIRST_SUBJECT + start, "subjects": count, "seed": seed, "clips": CLIPS, "frames": FRAMES}
    return Receipt("crop", VERSION, f"{BLOCK}{start // SUBJECTS_A_BLOCK:04d}", drawn | _mark(modality), {})


def _mark(modality: Modality) -> dict[str, str]:
    """What receipts say of faces; those of bodies are older than faces."""
    return {} if modality == "body" else {"modality": modality}


def _made(run: Run, receipt: Receipt) -> bool:
    """Whether the part exists with these settings and is not damaged."""
    found = run.receipt(receipt.stage, receipt.key)
    if found is None or not found.content or run.files_in_place(found) is not None:
        return False
    return found.fingerprint == receipt.fingerprint and is_whole(run.part(receipt.stage, receipt.key)) is not False


def _block(run: Run, receipt: Receipt, cut: Cut, tell: Callable[[int], None]) -> None:
    """Draw and commit the crops of one block of subjects; `tell` is called with 1 after each. Raises MdfError."""
    settings = receipt.settings
    modality: Modality = settings.get("modality", "body")
    shard, scratch = f"crop/{receipt.key}.{modality}.tar", run.scratch("crop", f"{receipt.key}.tar")
    rows: list[dict[str, Any]] = []
    try:
        with drawing(f"{run.path}: {receipt.key}"):
            with ShardWriter(scratch) as writer:
                for number in range(settings["first"], settings["first"] + settings["subjects"]):
                    for row, data in _crops_of(str(number), settings["seed"], cut, modality):
                        place = writer.add(row["crop_id"], "jpeg", data)
                        rows.append({**row, "shard": shard, **place._asdict()})
                    tell(1)
            run.commit(receipt, pa.Table.from_pylist(rows, MANIFEST), {shard: scratch})
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def _crops_of(subject_id: str, seed: int, cut: Cut, modality: Modality) -> list[tuple[dict[str, Any], bytes]]:
    """(row of a manifest, JPEG) of each crop of one subject."""
    from mdfpipe.synth.scene import Clip

    subject = draw_subject(seed, subject_id)
    found = []
    for clip_number in range(CLIPS):
        video_id = f"{'crops' if modality == 'body' else 'faces'}/{subject_id}-{chr(97 + clip_number)}"
        own = seed_of(seed, video_id)
        clip = Clip([subject], DOMAINS[0], FRAMES, fps=1.0, size=SCENE, seed=own, facing=modality == "face")
        generator = np.random.default_rng([*own, 0])
        habit = _habit(generator)
        for frame in range(FRAMES):
            picture, seen = clip.frame(frame)
            if not seen or seen[0].visible < 0.4 or (modality == "face" and seen[0].face is None):
                continue
            if modality == "face":
                box = np.array(seen[0].face, np.float32)
            else:
                box = _as_detected(np.array(seen[0].box, np.float32), habit, generator)
            data, sharpness, contrast = cut(picture, box)
            row = {
                "crop_id": f"{video_id}/{frame:06d}/{'00' if modality == 'body' else 'f00'}",
                "subject_id": subject_id,
                "domain": str(DOMAINS[0]),
                "band": DOMAINS[0].band.value,
                "modality": modality,
                "video_id": video_id,
                "frame": frame,
                **dict(zip(("x1", "y1", "x2", "y2"), box.tolist(), strict=True)),
                "split": "train",
                "role": "none",
                "codec": "jpeg",
                "sharpness": sharpness,
                "contrast": contrast,
                "box_height_px": float(box[3] - box[1]),
            }
            found.append((row, data))
    return found


def _habit(generator: np.random.Generator) -> NDArray[np.float64]:
    """How a detector errs in one clip: (scale, aspect, x, y)."""
    return np.array(
        [generator.uniform(1.0, 1.14), np.exp(generator.uniform(-0.08, 0.08)), *generator.uniform(-0.03, 0.03, 2)]
    )


def _as_detected(
    box: NDArray[np.float32], habit: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.float32]:
    """The box that a detector with this habit would give for a true box, (4,) xyxy."""
    scale, aspect, x, y = habit * [generator.uniform(0.97, 1.03), 1, 1, 1] + [0, 0, *generator.normal(0, 0.01, 2)]
    centre, extent = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    centre = centre + extent * np.array([x, y])
    half = extent * scale * np.array([np.sqrt(aspect), 1 / np.sqrt(aspect)]) / 2
    return np.concatenate([centre - half, centre + half]).astype(np.float32)
