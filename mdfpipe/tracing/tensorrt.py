"""TensorRT: NVIDIA's engine, for a network from an ONNX file on a GPU.

Written against the API of TensorRT 10 and never run by us: no machine of ours has it. The tests check the calls alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import ConfigError, DataError, not_loaded, one_line
from mdfpipe.machine.engines import Outputs

MEMORY = 1 << 30  # bytes that it may work with while it builds


class TensorRT:
    """A network under TensorRT, built for each shape of its input, in minutes.

    model: an ONNX file, in bytes; outputs: their names; where: its weights; setting: what asks for it.
    """

    def __init__(
        self, model: bytes, outputs: Sequence[str], precision: str, gpu: int | None, where: str, setting: str
    ) -> None:
        """Raises MissingDependency, and ConfigError without a GPU or for a file that it does not read."""
        if gpu is None:
            raise ConfigError(f"{setting} tensorrt: runs on a GPU, got --device cpu; give --device cuda")
        try:
            self.library = importlib.import_module("tensorrt")
        except ImportError as error:
            raise not_loaded(error, "tensorrt", "the engine tensorrt") from None
        self.model, self.outputs, self.precision = model, tuple(outputs), precision
        self.device, self.where = f"cuda:{gpu}", where
        self.logger = self.library.Logger(self.library.Logger.ERROR)
        self.contexts: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def __call__(self, images: NDArray[Any]) -> Outputs:
        """The outputs of an input. Raises DataError where the network does not run on it."""
        import torch

        if images.shape not in self.contexts:
            engine = self._built(images.shape)
            self.contexts[images.shape] = engine, engine.create_execution_context()
        engine, context = self.contexts[images.shape]
        given = torch.from_numpy(images).to(self.device)
        context.set_input_shape("images", images.shape)
        context.set_tensor_address("images", given.data_ptr())
        outputs = []
        for name in self.outputs:
            outputs.append(torch.empty(tuple(context.get_tensor_shape(name)), dtype=torch.float32, device=self.device))
            context.set_tensor_address(name, outputs[-1].data_ptr())
        stream = torch.cuda.current_stream(self.device)
        if not context.execute_async_v3(stream.cuda_stream):
            raise DataError(f"{self.where}: TensorRT does not run the network on an input of {images.shape}")
        stream.synchronize()
        return [np.asarray(output.cpu().numpy()) for output in outputs]

    def _built(self, shape: tuple[int, ...]) -> Any:
        """The engine for one shape of the input. Raises ConfigError."""
        trt = self.library
        builder = trt.Builder(self.logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse(self.model):
            why = one_line(parser.get_error(0), 160) if parser.num_errors else "no reason"
            raise ConfigError(f"{self.where}: TensorRT does not read the exported network: {why}; take engine torch")
        settings = builder.create_builder_config()
        settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, MEMORY)
        settings.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32, as on a CPU
        if self.precision != "fp32":
            settings.set_flag({"bf16": trt.BuilderFlag.BF16, "fp16": trt.BuilderFlag.FP16}[self.precision])
        profile = builder.create_optimization_profile()
        profile.set_shape("images", shape, shape, shape)
        settings.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, settings)
        if plan is None:
            raise ConfigError(f"{self.where}: TensorRT cannot build the network for {shape}; take engine torch")
        return trt.Runtime(self.logger).deserialize_cuda_engine(plan)
