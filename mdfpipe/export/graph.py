"""What every export does: check the name, trace, describe."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mdfpipe.errors import ConfigError, MissingDependency, one_line

OPSET = 17  # the newest that the exporter by tracing knows well; has LayerNormalization


def check_name(out: Path, force: bool) -> None:
    """Raises ConfigError where `out` is no name of an ONNX file, or is there already and is not to be written over."""
    if out.suffix.lower() != ".onnx":
        raise ConfigError(f"--out {out}: expected a name that ends in .onnx")
    if out.exists() and not out.is_file():
        raise ConfigError(f"--out {out}: expected a file, found a folder, a pipe or a device; name another")
    if out.exists() and not force:
        raise ConfigError(f"--out {out}: is there already; give another name, or write over it with --force")


def check_packages() -> None:
    """Raises MissingDependency for what torch's exporter and the comparison need."""
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingDependency(package, "mdfpipe export", extra="onnx")


def trace(network: Any, shape: tuple[int, int, int, int], out: Path, *, output: str, free: dict[int, str]) -> None:
    """Trace a network on black images of this shape (B, 3, H, W) into an ONNX file: `images` to `output`.

    free: the input's axes that may have other sizes, and their names. Raises ConfigError where it cannot be expressed.
    """
    import torch

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter by tracing is to go one day; the other needs onnxscript
        try:
            torch.onnx.export(
                network,
                (torch.zeros(*shape),),
                str(out),
                opset_version=OPSET,
                input_names=["images"],
                output_names=[output],
                dynamic_axes={"images": free, output: {0: "batch"}},
                dynamo=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ConfigError(f"torch cannot express this network in ONNX (opset {OPSET}): {one_line(error)}") from None


def describe(file: Path, facts: dict[str, str]) -> None:
    """Put facts into the metadata of an ONNX file."""
    import onnx

    model = onnx.load(file)
    onnx.helper.set_model_props(model, facts)
    file.write_bytes(model.SerializeToString(deterministic=True))
