"""Networks of torch under other engines: traced once, in the form that the engine reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from mdfpipe.errors import ConfigError
from mdfpipe.machine.engines import EngineAsked, OnnxRuntime, OpenVino, Outputs, providers
from mdfpipe.tracing.graphs import TracedGraph, onnx_model, openvino_model
from mdfpipe.tracing.tensorrt import TensorRT

Run = Callable[[NDArray[Any]], Outputs]
"""An input, in the type of the graph's example, to the outputs."""


def traced(
    graph: TracedGraph, engine: str, precision: str, *, threads: int, gpu: int | None, where: str, asked: EngineAsked
) -> Run:
    """The network of a graph under an engine other than torch. where: its weights, for messages.

    Raises ConfigError for a precision or a device that the engine lacks, and MissingDependency.
    """
    refuse_precision(engine, precision, asked)
    if engine == "openvino":
        return OpenVino(openvino_model(graph), precision, threads, where)
    if engine == "onnxruntime":
        return OnnxRuntime(onnx_model(graph), threads, providers(gpu, asked.needed_by), where)
    return TensorRT(onnx_model(graph), graph.outputs, precision, gpu, where, asked.setting)


def refuse_precision(engine: str, precision: str, asked: EngineAsked) -> None:
    """Raise ConfigError where an engine does not run a network of torch in this precision."""
    if engine == "onnxruntime" and precision != "fp32":
        raise ConfigError(
            f"{asked.setting.removesuffix('engine')}precision {precision}: engine onnxruntime runs this network in "
            "fp32; take engine torch or openvino, or precision fp32"
        )
