"""The quarantine of ultralytics: the only file that imports it. It loads weights, and fetches them when asked to.

ultralytics (8.4.190) does on import, unless its environment says otherwise: a DNS look-up, a file in the user's home,
switches for telemetry and for installing packages, OpenCV without threads, other print options, `torch.save` and
`PIL.Image.open` replaced. Here it is configured before the import, and what it changed is put back after it.

Weights are pickles, and a pickle can run anything. A file of any form is opened by
`torch.load(weights_only=True)`: tensors, and for a whole checkpoint the classes of torch and ultralytics that its own
allow-list names (`torch_safe_load(safe_only=True)`). What needs more is refused, unless the user trusts the file.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from mdfpipe.errors import ConfigError, not_loaded, one_line
from mdfpipe.store.hashing import bytes_sha256
from mdfpipe.store.owner import TEMPORARY
from mdfpipe.weightfiles import refuse_unusable, take
from mdfpipe.weightfiles.listed import Checksum, listed_as

VARIANTS = "nsmblx"
ORDER = ("ema", "model", "state_dict")
"""Entries of a checkpoint under which a network is looked for; ultralytics, too, runs the averaged one."""
QUIET = {
    "YOLO_OFFLINE": "true",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_VERBOSE": "false",
    "ULTRALYTICS_SAFE_LOAD": "1",
}


@cache
def _library(module: str = "ultralytics.nn.tasks") -> Any:
    """A module of ultralytics, imported in quarantine. Raises MissingDependency."""
    with _as_before(), TemporaryDirectory(prefix="mdfpipe-") as folder:
        os.environ.update(QUIET, YOLO_CONFIG_DIR=folder)
        try:
            settings = importlib.import_module("ultralytics").settings
            settings.file_path = Path(os.devnull)  # what changes later is written nowhere: the folder is gone by then
            settings.update(sync=False)
            return importlib.import_module(module)
        except ImportError as error:
            raise not_loaded(error, "ultralytics", "the detector yolo") from None


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Put back what ultralytics changes for the whole process when it is imported; keep what makes it quiet."""
    import cv2
    from PIL import Image

    environment, shown, threads = dict(os.environ), np.get_printoptions(), cv2.getNumThreads()
    opened, saved = Image.open, torch.save
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment | QUIET)
        np.set_printoptions(**shown)
        torch.set_printoptions(profile="default")  # type: ignore[no-untyped-call]
        cv2.setNumThreads(threads)
        Image.open, torch.save = opened, saved


# --- loading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network, and what is to be reported of its weights. lines: which of several sets it was; doubts: where averaged
    ones were left; note: what the file declares.
    """

    network: nn.Module
    lines: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    note: str = ""


def load(path: Path, variant: str = "auto", entry: str | None = None, *, trust_pickle: bool = False) -> Loaded:
    """The YOLOv10 network in a weight file: fp32, in evaluation mode, with both of its heads, on the CPU.

    path: a state_dict, a dictionary with one under "model", or a whole checkpoint of ultralytics (its "ema", else its
    "model", or `entry`); fp16 becomes fp32. variant: one of VARIANTS; "auto": a checkpoint says, or the shapes of the
    tensors. trust_pickle: open with pickle, which runs what the file says, where the allow-list does not do. Raises
    ConfigError.
    """
    taken = take(path, entry, order=ORDER, trust_pickle=trust_pickle, load=_open)
    network, state = taken.module.float() if taken.module else None, taken.tensors
    try:
        refuse_unusable(state)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    fits = _variant(state)
    if variant != "auto" and fits != variant:
        got = f"those of yolov10{fits}" if fits else "tensors of none of its kind"
        raise ConfigError(f"{path}: detector.model is {variant}: expected the tensors of yolov10{variant}, got {got}")
    if network is None:
        network = _built(path, state, fits)
    head = getattr(network, "model", [None])[-1]
    if any(getattr(head, name, None) is None for name in ("one2one_cv2", "one2one_cv3", "cv2", "cv3")):
        raise ConfigError(
            f"{path}: expected a YOLOv10 network with both of its heads, got a {type(head).__name__} without; "
            "export it to ONNX and use the detector onnx"
        )
    for module in network.modules():  # as ultralytics' own load_checkpoint does, for checkpoints of older versions
        if isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None
    return Loaded(network.eval().requires_grad_(False), taken.lines, taken.doubts, taken.note)


def _open(path: Path, safe: bool) -> Any:
    """What torch saved in a file, by ultralytics' loader. safe: tensors, plain values and its own classes only."""
    tasks = _library()
    # Under a name that ultralytics takes as it is: it looks for files with a quote or of YOLOv5 elsewhere, and online.
    with TemporaryDirectory(prefix="mdfpipe-") as folder:
        link = Path(folder) / "weights.pt"
        link.symlink_to(path.absolute())
        return tasks.torch_safe_load(link, safe_only=safe)[0]


def _variant(state: Mapping[str, Any]) -> str | None:
    """Which YOLOv10 has tensors of these shapes; None where none has.

    The width of the first convolution and the depth of the second C2f tell, by ultralytics' own scales.
    """
    tasks = _library()
    first = state.get("model.0.conv.weight")
    width = 0 if first is None or first.ndim != 4 else int(first.shape[0])
    depth = len({name.split(".")[3] for name in state if name.startswith("model.4.m.")})
    for variant in VARIANTS:
        by_depth, by_width, _ = tasks.yaml_model_load(f"yolov10{variant}.yaml")["scales"][variant]
        if (width, depth) == (math.ceil(64 * by_width / 8) * 8, max(round(6 * by_depth), 1)):
            return variant
    return None


def _built(path: Path, state: Mapping[str, Any], variant: str | None) -> nn.Module:
    """A network with these tensors, all of them and no other. Raises ConfigError."""
    scores = next((v for k, v in state.items() if re.fullmatch(r"model\.\d+\.one2one_cv3\.0\.2\.bias", k)), None)
    if variant is None or scores is None:
        shown = ", ".join(list(state)[:2])
        raise ConfigError(
            f"{path}: expected the tensors of a YOLOv10 with both of its heads, not yet fused, got {len(state)} others "
            f"({one_line(shown, 80)}, ...); give the whole checkpoint, or export to ONNX and use the detector onnx"
        )
    with torch.random.fork_rng(devices=[]):  # it is drawn at random before it is filled
        network: nn.Module = _library().DetectionModel(f"yolov10{variant}.yaml", nc=len(scores), verbose=False)
    counters = {n: t for n, t in network.state_dict().items() if n.endswith("num_batches_tracked")}
    state = {**counters, **state}  # nothing depends on them, and not everybody keeps them
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
    if wrong:
        name = wrong[0]
        raise ConfigError(
            f"{path}: expected the tensors of yolov10{variant} with {len(scores)} classes, {len(wrong)} differ: {name} "
            f"is {got.get(name, 'missing')}, expected {expected.get(name, 'none')}; get the weights again"
        )
    network.load_state_dict(dict(state), strict=True)
    return network


def one_to_one(network: nn.Module) -> nn.Module:
    """The network fused, with the one-to-one head alone, which answers before it decodes.

    The answer to (B, 3, H, W) in 0..1: {"boxes": (B, 4 * bins, A), "scores": (B, C, A) logits, "feats": the inputs of
    the head, one for each stride}. The network is changed; sides of its input are multiples of 32.
    """
    model: Any = network
    head = model.model[-1]
    head.end2end = True  # before fuse(), which deletes the head that is not chosen
    model.fuse(verbose=False)
    head.forward = lambda features: head.forward_head(features, **head.one2one)
    return network


# --- fetching --------------------------------------------------------------------------------------------------------


def fetch(name: str, folder: Path, say: Callable[[str], object]) -> Path:
    """Fetch published weights by ultralytics' own downloader; says what, from where and how large. Raises ConfigError.

    Only at the user's request: nothing else in this package reaches for the network.
    """
    target = folder.absolute() / name
    if "'" in str(target):
        raise ConfigError(f"--download-weights: {target}: ultralytics cannot write to a path with a quote in it")
    downloads = _library("ultralytics.utils.downloads")
    release = inspect.signature(downloads.attempt_download_asset).parameters["release"].default
    say(f"fetching {name} from https://github.com/{downloads.GITHUB_ASSETS_REPO}/releases/download/{release}/{name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["YOLO_OFFLINE"] = "false"  # else it gives up at the first trouble
        # Into a folder of its own: what is not whole, or not the listed file, never lies where weights are looked for.
        with TemporaryDirectory(prefix=TEMPORARY, dir=folder.absolute()) as apart:
            fetched = Path(apart) / name
            with contextlib.redirect_stdout(sys.stderr):  # its bar is not our output
                downloads.attempt_download_asset(str(fetched))
            size, found = fetched.stat().st_size, _checked(name, bytes_sha256(fetched))
            fetched.replace(target)
    except ConfigError:
        raise
    except Exception as error:  # requests, urllib3, the disk: no root of their own
        raise ConfigError(
            f"--download-weights: {name} could not be fetched: {one_line(error, 200)}; get it by hand and put it at "
            f"{target}"
        ) from None
    finally:
        os.environ.update(QUIET)
    say(f"fetched {target}: {size} bytes, {found}")
    return target


def _checked(name: str, sha256: str) -> str:
    """What comparing a fetched file with the list of weights says. Raises ConfigError where it is another one."""
    row = listed_as(name)
    said = Checksum.UNKNOWN if row is None else row.compare(sha256)
    if row is not None and said is Checksum.ANOTHER:
        raise ConfigError(
            f"--download-weights: {name}: expected sha256 {row.sha256}, as `mdfpipe weights` lists it, got {sha256}: "
            "it is not kept; fetch it again, or correct the list if its makers changed the file"
        )
    if said is Checksum.UNKNOWN:
        return f"sha256 {sha256}, not verified: no checksum of it is known; compare it with its makers'"
    return f"sha256 {sha256}, {said}"
