"""A network of torch as a graph: of OpenVINO, or an ONNX file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mdfpipe.errors import ConfigError, MissingDependency, one_line
from mdfpipe.machine import engines

OPSET: Final = 17  # the newest that the exporter by tracing knows well; has LayerNormalization
INPUT: Final = "images"
_TYPES: Final = {torch.uint8: "u8", torch.float32: "f32"}


@dataclass(frozen=True, eq=False)
class TracedGraph:
    """A network, and what it is traced with.

    module: in eval mode on the CPU, of one input; example: such an input; outputs: their names; free: for the input
    ("images") and each output, the axes that may have other sizes than in the example, and their names.
    """

    module: Any
    example: Tensor
    outputs: tuple[str, ...]
    free: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def openvino_model(graph: TracedGraph) -> Any:
    """The network as an openvino.Model. Raises MissingDependency, and ConfigError where it cannot be expressed."""
    ov = engines.openvino()
    free = graph.free.get(INPUT, {})
    shape = [-1 if axis in free else size for axis, size in enumerate(graph.example.shape)]
    with _quietly():
        run: Any = torch.jit.trace(graph.module, graph.example, check_trace=False)  # type: ignore[no-untyped-call]
        try:
            return ov.convert_model(run, input=[(tuple(shape), getattr(ov.Type, _TYPES[graph.example.dtype]))])
        except Exception as error:  # its errors have no root of their own
            raise ConfigError(f"OpenVINO cannot express this network: {one_line(error, 160)}; take torch") from None


def onnx_model(graph: TracedGraph) -> bytes:
    """The network as an ONNX file, in bytes. Raises MissingDependency: torch's exporter needs the package onnx."""
    if not engines.is_present("onnx"):
        raise MissingDependency("onnx", "running weights of torch under onnxruntime or TensorRT", extra="onnx")
    file = io.BytesIO()
    write_onnx(graph, file)
    return file.getvalue()


def write_onnx(graph: TracedGraph, out: Path | io.BytesIO) -> None:
    """Trace a network into an ONNX file: `images` to its outputs. Raises ConfigError where it cannot be expressed."""
    with _quietly():
        try:
            torch.onnx.export(
                graph.module,
                (graph.example,),
                str(out) if isinstance(out, Path) else out,  # type: ignore[arg-type]
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(graph.outputs),
                dynamic_axes={name: dict(axes) for name, axes in graph.free.items()},
                dynamo=False,
            )
        except torch.onnx.OnnxExporterError as error:
            said = one_line(error, 160)
            raise ConfigError(f"torch cannot express this network in ONNX (opset {OPSET}): {said}") from None


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warning that tracing is to be removed (the other exporter needs the package onnxscript), and without
    the whole graph, which torch prints where it cannot express one.
    """
    prints: Any = torch._C
    before = prints._jit_onnx_log
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        prints._jit_onnx_log = lambda *words: None
        try:
            yield
        finally:
            prints._jit_onnx_log = before
