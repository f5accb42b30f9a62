"""Export: PyTorch weights as one ONNX file, which is compared with them before it appears; boxes of a run (`boxes`).

A detector's file runs under the detector `onnx`, an embedder's wherever there is an onnxruntime: without torch, without
pickle, without mdfpipe.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mdfpipe.config import find_file
from mdfpipe.errors import ConfigError, MissingDependency
from mdfpipe.store.trust import trusting

if TYPE_CHECKING:
    from mdfpipe.export import detector, embedder


def export(
    thing: str,
    out: Path,
    *,
    data: Path = Path(),
    image_size: int | None = None,
    force: bool = False,
    trust_pickle: bool = False,
) -> detector.ExportedDetector | embedder.ExportedEmbedder:
    """Write the detector of a study (.yaml), its weights (.pt, or "demo"), or the embedder of a checkpoint of
    `mdfpipe train` (.pt) to the ONNX file `out`.

    image_size: of a detector, the side of the picture that is traced and compared, a multiple of 32, by default 640;
    the file takes other sizes as well. An embedder's is its recipe's.
    The file appears only if it gives what the weights give. The same weights give the same bytes, with the same
    versions of torch, ultralytics and onnx. Raises ConfigError (no such weights, a detector of another kind, `out` is
    there already), MissingDependency (no onnx, no onnxruntime) and StoreError (it cannot be written).
    """
    from mdfpipe.export import detector, embedder

    _check(out, force)
    checkpoint = _checkpoint(thing, data)
    if checkpoint is None:
        size = detector.IMAGE_SIZE if image_size is None else image_size
        with trusting(trust_pickle):
            return detector.export(thing, out, data=data, image_size=size)
    if image_size is not None:
        raise ConfigError(
            f"--image-size {image_size}: {thing} is a trained system, its recipe says which: leave it out"
        )
    return embedder.export(checkpoint, out)


def refuse_mixed(thing: str, form: str | None, *, of_onnx: bool, of_boxes: bool) -> None:
    """Raise ConfigError where a run folder has no form, a form has options of ONNX, or ONNX has those of boxes."""
    if form is None and Path(thing).is_dir():
        raise ConfigError(
            f"{thing}: expected a study, weights or a checkpoint, got a folder; boxes and labels of a run have a form: "
            "--as mot, coco, yolo or fiftyone"
        )
    if form is None and of_boxes:
        raise ConfigError("--every, --min-score, --val, --ids and --dry-run belong to boxes: give --as, too")
    if form is not None and of_onnx:
        raise ConfigError(
            "--image-size, --data, --trust-pickle and --force belong to ONNX files: leave them out with --as"
        )


def _checkpoint(thing: str, data: Path) -> Path | None:
    """Where the checkpoint of ours is, None where `thing` is something else or nowhere."""
    from mdfpipe.learning.train.checkpoint import Checkpoint

    if thing == "demo" or Path(thing).suffix.lower() in (".yaml", ".yml"):
        return None
    try:
        place = Path(thing) if Path(thing).is_file() else find_file(thing, data, "weights")
    except ConfigError:
        return None  # the detector says where weights are looked for
    return place if Checkpoint.is_one(place) else None


def _check(out: Path, force: bool) -> None:
    """Raise ConfigError where `out` is no name of an ONNX file, or is there and not to be written over;
    MissingDependency for what torch's exporter and the comparison need.
    """
    if out.suffix.lower() != ".onnx":
        raise ConfigError(f"--out {out}: expected a name that ends in .onnx")
    if out.exists() and not out.is_file():
        raise ConfigError(f"--out {out}: expected a file, found a folder, a pipe or a device; name another")
    if out.exists() and not force:
        raise ConfigError(f"--out {out}: is there already; give another name, or write over it with --force")
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingDependency(package, "mdfpipe export", extra="onnx")
