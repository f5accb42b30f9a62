"""A network as an ONNX graph, with its description there."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from mdfpipe.errors import ConfigError, one_line

OPSET = 17  # the newest that the exporter by tracing knows well; has LayerNormalization


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
