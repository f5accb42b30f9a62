"""`mdfpipe synth`: write a synthetic data set, and crops to pre-train on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mdfpipe.config import count_of
from mdfpipe.errors import ConfigError, DataError, one_line
from mdfpipe.running.crew import each
from mdfpipe.running.execution import Event
from mdfpipe.stages.crop import Crop
from mdfpipe.store import images
from mdfpipe.store.files import given_path
from mdfpipe.synth.crops import write_crops
from mdfpipe.synth.write import Written, write_dataset
from mdfpipe.video import cropping

_USUAL: Final = Crop()
Cut: TypeAlias = tuple[bytes, float, float]


@dataclass(frozen=True)
class Synthesis:
    """What was written: the data set, and the run folders with crops and faces (None where none were asked for)."""

    dataset: Written
    crops: Path | None = None
    crop_subjects: int = 0
    crop_count: int = 0
    faces: Path | None = None
    face_subjects: int = 0
    face_count: int = 0


def synthesise(
    out: str | PathLike[str],
    preset: str,
    *,
    seed: int = 0,
    subjects: int | None = None,
    crops: int = 0,
    faces: int = 0,
    workers: int = 1,
    listen: Callable[[Event], None] = lambda event: None,
) -> Synthesis:
    """Write the data set `preset` into `out`, visible crops of `crops` further subjects into `out`/crops, and face
    crops of `faces` of them into `out`/faces. Raises what `write_dataset` and `write_crops` raise.
    """
    out = given_path("out", out)
    if not isinstance(preset, str):
        raise ConfigError(f"--preset: expected a text, got {one_line(repr(preset), 40)}")
    seed, workers = count_of("--seed", seed, 0), count_of("--workers", workers, 1)
    subjects = None if subjects is None else count_of("--subjects", subjects, 2)
    crops, faces = count_of("--crops", crops, 0), count_of("--faces", faces, 0)
    for option, wanted in (("--crops", crops), ("--faces", faces)):
        if wanted == 1:
            raise ConfigError(f"{option} 1: expected 0, or at least 2 subjects")
    share = partial(each, workers=workers)
    written = write_dataset(out, preset, seed=seed, subjects=subjects, share=share, progress=_teller("frames", listen))
    done = Synthesis(written)
    if crops:
        folder, tell = out / "crops", _teller("crop subjects", listen)
        count = write_crops(folder, crops, cut=cut_out, seed=seed, share=share, progress=tell)
        done = replace(done, crops=folder, crop_subjects=crops, crop_count=count)
    if faces:
        folder, tell = out / "faces", _teller("face subjects", listen)
        count = write_crops(folder, faces, cut=cut_out_face, modality="face", seed=seed, share=share, progress=tell)
        done = replace(done, faces=folder, face_subjects=faces, face_count=count)
    return done


def _teller(what: str, listen: Callable[[Event], None]) -> Callable[[int, int], None]:
    """Progress as events; the first call says where it starts. Silent where there is nothing to do."""
    began: float | None = None

    def tell(done: int, total: int) -> None:
        nonlocal began
        if not total:
            return
        if began is None:
            began = time.monotonic()
            listen(Event("stage", "synth", "", total=1))
            listen(Event("started", "synth", what))
        if done:
            listen(Event("progress", "synth", what, done, total))
        if done == total:
            listen(Event("finished", "synth", what, rows=total, seconds=time.monotonic() - began))

    return tell


def cut_out(frame: NDArray[Any], box: NDArray[np.float32]) -> Cut:
    """Cut a body out of a frame (H, W, 3) uint8 as the crop stage does. box: (4,) xyxy in pixels.

    Returns (JPEG, sharpness, contrast). Raises DataError where the box is outside the frame.
    """
    whole = cropping.pixel_box(box, frame.shape[1], frame.shape[0])
    if whole is None:
        raise DataError(f"box {box.tolist()}: expected one that touches the frame of {frame.shape[1]}x{frame.shape[0]}")
    return _stored(cropping.cut(frame, whole), _USUAL.body_width_px, _USUAL.body_height_px)


def cut_out_face(frame: NDArray[Any], box: NDArray[np.float32]) -> Cut:
    """Cut a face out as the crop stage does: a square with a margin. Otherwise as `cut_out`."""
    square = cropping.square_box(box, _USUAL.face_margin)
    return _stored(cropping.cut(frame, square), _USUAL.face_size_px, _USUAL.face_size_px)


def _stored(pixels: NDArray[Any], width: int, height: int) -> Cut:
    crop = images.resize(pixels, width, height)
    return (images.encode(crop)[0], *cropping.quality(crop, images.EIGHT_BITS))
