"""Engines: the libraries that run a network. One network gives the same answers in each, up to rounding.

An engine is loaded when it is asked for. None of them reports to its maker from here: OpenVINO's telemetry is a package
of its own, which is kept from being imported, and onnxruntime's is switched off.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import ConfigError, DataError, MissingDependency, not_loaded, one_line, refuse_lack_of_memory, some

EXTRAS: Final = {"onnxruntime": "onnx", "openvino": "openvino"}
"""The extra of mdfpipe that brings an engine; torch is always there, and TensorRT comes from NVIDIA."""
TELEMETRY: Final = "openvino_telemetry"
HINTS: Final = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}  # OpenVINO's names of precisions
NEEDED: Final = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}  # and of what a processor can do
CHUNK: Final = 4
"""Images that an engine is given at a time, the last ones padded: its last bits cannot depend on the batch.

Between 2 and 8 the speed differs by a tenth, either way; and the next ones are prepared while it works.
"""

_LONGEST_REASON: Final = 300  # characters of onnxruntime's own words
Outputs = list[NDArray[np.float32]]


@dataclass(frozen=True)
class EngineAsked:
    """The engine that a network is asked to run under.

    name: `auto`, or the one that is asked for; native: the one that it has where no other is; setting: where a study
    asks for it; native_for: what needs the native one.
    """

    name: str
    native: str
    setting: str
    native_for: str

    def suits(self, made_by: Mapping[str, str] | None) -> bool:
        """Whether rows are by the engine that is asked for. made_by: as a receipt has it; None: of an earlier version,
        which had the native one alone.
        """
        return self.name in ("auto", (made_by or {}).get("name", self.native))

    def on(self, gpu: int | None) -> str:
        """The engine that runs the network on a GPU of this number, or the CPU. Raises MissingDependency, and
        ConfigError for a GPU that it cannot use.
        """
        name = self.native if self.name == "auto" else self.name
        if gpu is not None and name == "openvino":
            raise ConfigError(
                f"{self.setting} openvino: runs on the CPU here, got --device cuda:{gpu}; give --device cpu, or engine "
                f"{self.native}"
            )
        refuse_absent(name, self.needed_by)
        return name

    @property
    def needed_by(self) -> str:
        """What needs the engine, as a message says it."""
        return self.native_for if self.name in ("auto", self.native) else f"{self.setting} {self.name}"

    def several(self, stage: str, rows: str, facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """That the parts of a stage were made by several engines, or versions of one, where they were."""
        by: dict[str, list[str]] = {}
        for key, found in facts.items():
            if engine := found.get("engine"):
                by.setdefault(" ".join(engine.values()), []).append(key)
        if len(by) < 2:
            return []
        each = "; ".join(f"{name}: {len(keys)} ({some(keys, 2)})" for name, keys in sorted(by.items()))
        return [
            f"{stage}: several engines made the {rows}, which differ between them by rounding: {each}; name one in "
            f"{self.setting} to have one, or delete the parts of the others"
        ]


def is_present(engine: str) -> bool:
    """Whether the package of an engine can be imported, without importing it."""
    return find_spec(engine) is not None


def refuse_absent(engine: str, needed_by: str) -> None:
    """Raise MissingDependency, which names the extra, where the package of an engine is not installed."""
    if not is_present(engine):
        raise MissingDependency(engine, needed_by, EXTRAS.get(engine))


def made_by(engine: str, precision: str) -> dict[str, str]:
    """What a receipt says of the engine that made a part."""
    try:
        which = _installed(engine)
    except PackageNotFoundError:  # onnxruntime-gpu, say
        which = str(getattr(sys.modules.get(engine), "__version__", "")) or "unknown"
    return {"name": engine, "version": which, "precision": precision}


@cache
def _installed(engine: str) -> str:
    """The version of a package. Its metadata are parsed for that, which takes 2 ms."""
    return version(engine)


# --- OpenVINO --------------------------------------------------------------------------------------------------------


@cache
def openvino() -> Any:
    """The package openvino, without its telemetry. Raises MissingDependency.

    Its converter imports the package `openvino_telemetry`, which asks an address of its maker; where that does not
    import, OpenVINO takes a stub of its own, which does nothing.
    """
    before = sys.modules.get(TELEMETRY)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # its import fails
    try:
        package = importlib.import_module("openvino")
        importlib.import_module("openvino.tools.ovc")
    except ImportError as error:
        raise not_loaded(error, "openvino", "the engine openvino", extra="openvino") from None
    finally:
        del sys.modules[TELEMETRY]
        if before is not None:
            sys.modules[TELEMETRY] = before
    return package


class OpenVino:
    """A network under OpenVINO on the CPU. model: an openvino.Model; it is compiled for each shape of its input."""

    def __init__(self, model: Any, precision: str, threads: int, where: str) -> None:
        """Raises ConfigError for a precision that this processor does not compute in."""
        self.model, self.where = model, where
        core = _core()
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if NEEDED[precision] not in able:
            raise ConfigError(
                f"precision {precision}: OpenVINO does not compute in it on this processor (it has {', '.join(able)}); "
                "take precision fp32, or engine torch"
            )
        self.settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # many workers would be pinned to the same cores
        }
        self.compiled: dict[tuple[int, ...], Any] = {}

    def __call__(self, images: NDArray[Any]) -> Outputs:
        """The outputs of an input. Raises DataError where the network does not run on it."""
        request = self.compiled.get(images.shape)
        try:
            if request is None:
                fixed = self.model.clone()
                fixed.reshape(list(images.shape))
                request = _core().compile_model(fixed, "CPU", self.settings).create_infer_request()
                self.compiled[images.shape] = request
            found = request.infer({0: images}, share_inputs=True)
            return [np.array(found[place]) for place in range(len(found))]
        except (RuntimeError, TypeError, ValueError) as error:  # its errors have no root of their own
            refuse_lack_of_memory(error)
            raise DataError(
                f"{self.where}: OpenVINO does not run the network on an input of {images.shape}: "
                f"{one_line(error, 160)}; try engine torch or onnxruntime"
            ) from None


@cache
def _core() -> Any:
    return openvino().Core()


# --- onnxruntime -----------------------------------------------------------------------------------------------------


def onnxruntime(needed_by: str = "the engine onnxruntime") -> Any:
    """The package onnxruntime, without its telemetry. Raises MissingDependency."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at its import; what it has to be told afterwards comes too late
    try:
        package = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise not_loaded(error, "onnxruntime", needed_by, extra="onnx") from None
    package.set_default_logger_severity(4)
    package.disable_telemetry_events()
    return package


def open_session(
    model: Path | bytes, threads: int, providers: Sequence[Any] = ("CPUExecutionProvider",), needed_by: str = ""
) -> Any:
    """An onnxruntime session of a model. Raises MissingDependency, and what onnxruntime raises.

    From bytes: what is loaded is what was hashed. A second file with the weights is refused, wherever it is.
    """
    ort = onnxruntime(*filter(None, [needed_by]))
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves the core to the decoder, or torch
    options.log_severity_level = 4  # errors arrive as exceptions
    # of bytes, onnxruntime takes a second file from the working folder, if one of that name is there
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    content = model if isinstance(model, bytes) else model.read_bytes()
    return ort.InferenceSession(content, options, providers=list(providers))


def reason_of(error: Exception) -> str:
    """Why onnxruntime does not take a model, in its own words: whole sentences, without the place in its source."""
    said = " ".join(str(error).split())
    words = re.sub(r"^\[ONNXRuntimeError\][ :\d]+[A-Z_]+ : (\S+:\d+ .*?\) (?=[A-Z]))?", "", said)
    whole = [words[: m.end()] for m in re.finditer(r"[.;](?= |$)|$", words) if m.end() <= _LONGEST_REASON]
    return one_line((whole or [type(error).__name__])[-1].rstrip(".; "))


def providers(gpu: int | None, needed_by: str) -> list[Any]:
    """Where onnxruntime runs a network: on the CPU, or on a GPU. Raises ConfigError where it has no CUDA."""
    ort = onnxruntime(needed_by)
    if gpu is None:
        return ["CPUExecutionProvider"]
    available = ort.get_available_providers()
    if "CUDAExecutionProvider" not in available:
        raise ConfigError(
            f"device cuda:{gpu}: this onnxruntime has no CUDA (it has {', '.join(available)}); "
            "install onnxruntime-gpu in its place, or ask for --device cpu"
        )
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()  # finds CUDA and cuDNN where pip put them
    fp32 = {"device_id": str(gpu), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    return [("CUDAExecutionProvider", fp32), "CPUExecutionProvider"]


class OnnxRuntime:
    """A network under onnxruntime. model: an ONNX file, in bytes."""

    def __init__(self, model: bytes, threads: int, providers: Sequence[Any], where: str) -> None:
        self.session, self.where = open_session(model, threads, providers), where
        self.input = self.session.get_inputs()[0].name

    def __call__(self, images: NDArray[Any]) -> Outputs:
        """The outputs of an input. Raises DataError where the network does not run on it."""
        try:
            return [np.asarray(output) for output in self.session.run(None, {self.input: images})]
        except Exception as error:  # onnxruntime's errors have no root of their own
            refuse_lack_of_memory(error)
            raise DataError(
                f"{self.where}: onnxruntime does not run the network on an input of {images.shape}: "
                f"{one_line(error, 160)}; try engine torch"
            ) from None
