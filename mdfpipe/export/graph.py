"""A network as an ONNX graph, with its description there."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def trace(network: Any, shape: tuple[int, int, int, int], out: Path, *, output: str, free: dict[int, str]) -> None:
    """Trace a network on black images of this shape (B, 3, H, W) into an ONNX file: `images` to `output`.

    free: the input's axes that may have other sizes, and their names. Raises ConfigError where it cannot be expressed.
    """
    import torch

    from mdfpipe.tracing.graphs import TracedGraph, write_onnx

    axes = {"images": free, output: {0: "batch"}}
    write_onnx(TracedGraph(network, torch.zeros(*shape), (output,), axes), out)


def describe(file: Path, facts: dict[str, str]) -> None:
    """Put facts into the metadata of an ONNX file."""
    import onnx

    model = onnx.load(file)
    onnx.helper.set_model_props(model, facts)
    file.write_bytes(model.SerializeToString(deterministic=True))
