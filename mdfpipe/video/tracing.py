"""A detector's network, traced under torch, in the form that another engine reads."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mdfpipe.errors import MissingDependency
from mdfpipe.machine import engines

OPSET = 17
SIDES = (64, 96)  # of the input that is traced: any will do, both are free afterwards


def _from_pixels(module: Any) -> Any:
    """The network as one of uint8 RGB images (B, H, W, 3), so that the engine scales them, to boxes and scores."""
    import torch

    class FromPixels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, images: Any) -> Any:
            answer = self.network(images.permute(0, 3, 1, 2).to(torch.float32) / 255)
            return answer["boxes"], answer["scores"]

    return FromPixels().eval()


@contextmanager
def _quietly() -> Iterator[Any]:
    """The images to trace with, without the warning that tracing is to be removed."""
    import torch

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        yield torch.zeros(2, *SIDES, 3, dtype=torch.uint8)


def openvino_model(module: Any) -> Any:
    """The network as an openvino.Model with free axes. Raises MissingDependency."""
    ov = engines.openvino()
    import torch

    with _quietly() as images:
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            _from_pixels(module), images, check_trace=False
        )
        return ov.convert_model(traced, input=[((-1, -1, -1, 3), ov.Type.u8)])


def onnx_model(module: Any) -> bytes:
    """The network as an ONNX file with free axes. Raises MissingDependency: torch's exporter needs the package onnx."""
    if not engines.is_present("onnx"):
        raise MissingDependency("onnx", "running weights of torch under onnxruntime or TensorRT", extra="onnx")
    import torch

    file = io.BytesIO()
    free = {0: "batch", 2: "anchors"}
    with _quietly() as images:
        torch.onnx.export(
            _from_pixels(module),
            (images,),
            file,  # type: ignore[arg-type]
            opset_version=OPSET,
            input_names=["images"],
            output_names=["boxes", "scores"],
            dynamic_axes={"images": {0: "batch", 1: "height", 2: "width"}, "boxes": free, "scores": free},
            dynamo=False,
        )
    return file.getvalue()
