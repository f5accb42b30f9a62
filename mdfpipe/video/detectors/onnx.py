"""Persons by an ONNX network of the YOLO family: YOLOv10 (end to end), YOLOX or YOLOv8 (raw).

It runs under onnxruntime or OpenVINO. What a network wants and gives is read from its own shapes, or set:

    yolov10   (B, N, 6)       x1, y1, x2, y2, score, class; no NMS    fed RGB 0..1, centred
    yolox     (B, A, 5 + C)   grid offsets, log sizes, object, class  fed BGR 0..255, top left
    yolov8    (B, 4 + C, A)   centre, size, class scores              fed RGB 0..1, centred

A, the number of anchors, is the number of cells of the grids of stride 8, 16 and 32. Sources: YOLOX
(Megvii, `demo/ONNXRuntime`), YOLOv8 and YOLOv10 (ultralytics, `engine/exporter.py`).
*Differs:* a box counts as a person by its person score alone, also where another class scores higher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from mdfpipe.config import IF_SET
from mdfpipe.errors import ConfigError, DataError, one_line, refuse_lack_of_memory
from mdfpipe.machine import engines
from mdfpipe.machine.engines import CHUNK
from mdfpipe.store.content import Kind, content_of
from mdfpipe.store.hashing import file_sha256
from mdfpipe.video.detectors import ENGINE, RENDERED_ONLY, Detect, NetworkDetector, Remarks, rgb_of
from mdfpipe.video.frames import Boxes, Frames
from mdfpipe.video.geometry import ranking, suppress
from mdfpipe.video.letterbox import STRIDE, Letterbox, NetworkInputs, cells, fitting_input

Format: TypeAlias = Literal["yolov10", "yolox", "yolov8"]
Size: TypeAlias = tuple[int, int]  # height, width
Floats: TypeAlias = NDArray[np.float32]

STRIDES = (8, 16, 32)
NOTE = "note"  # in a file's metadata: what its weights say of themselves
DEFAULT_SIZE = 640
LARGEST_LOG_SIZE = 12.0  # exp(12) cells are no box: such values are pixels already


def _side(pixels: int) -> int:
    if pixels < STRIDE or pixels % STRIDE:
        raise ValueError(f"expected a multiple of {STRIDE}, got {pixels}")
    return pixels


Side: TypeAlias = Annotated[int, AfterValidator(_side)]


class Onnx(NetworkDetector):
    """Person boxes from an ONNX file (.onnx, weights inside).

    The boxes of a frame come best score first, in pixels of the frame, not clipped to it.
    """

    native: ClassVar[str] = "onnxruntime"

    engine: Literal["auto", "onnxruntime", "openvino"] = Field("auto", description=ENGINE)
    precision: Literal["bf16", "fp16"] | None = Field(
        None, json_schema_extra=IF_SET, description="of the computation, with engine openvino; none: fp32"
    )
    format: Literal["auto", "yolov10", "yolox", "yolov8"] = Field("auto", description="auto: from the output's shape")
    nms_iou: float = Field(
        0.45, ge=0, le=1, description="IoU with a better box above which a box is suppressed (not yolov10)"
    )
    image_size: Side | tuple[Side, Side] | None = Field(
        None, description="for free input axes: the longer side (640), or height and width; fixed axes are kept"
    )
    colour: Literal["auto", "rgb", "bgr"] = Field("auto", description="order of the input's channels")
    values: Literal["auto", "0..1", "0..255"] = Field("auto", description="range of the input's values")
    align: Literal["auto", "centre", "top_left"] = Field("auto", description="position of the frame in the input")
    decoded: bool = Field(False, description="yolox: the graph decodes its boxes (--decode_in_inference)")

    def open(self, data: Path, video_id: str, *, device: str, threads: int) -> Detect:
        """The network as a function. Raises ConfigError (no such file, no ONNX model, no such device)."""
        return _Persons(self, self._loaded(data, device, threads))

    def remarks(self, data: Path, *, device: str, threads: int) -> Remarks:
        """Whether its weights were trained on rendered people only, as `mdfpipe export` of the demo's says."""
        network = self._loaded(data, device, threads)
        made = engines.made_by(network.engine, self.precision or "fp32")
        return Remarks(rendered_only=network.note.startswith(RENDERED_ONLY), engine=made)

    def _loaded(self, data: Path, device: str, threads: int) -> _Network:
        path, engine = self.find(data).absolute(), self.engine_on(device)
        if self.precision and engine != "openvino":
            raise ConfigError(
                f"detector.precision {self.precision}: {engine} runs an ONNX network as its file has it; set "
                "detector.engine to openvino, or leave precision out"
            )
        return _network(path, file_sha256(path), self.gpu(device), threads, engine, self.precision or "fp32")


# --- the network ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Network:
    """A loaded model. batch, height, width: None where the axis is free."""

    path: Path
    answer: Callable[[NDArray[Any]], NDArray[Any]]  # the first output for an input
    engine: str
    dtype: type[np.floating[Any]]
    batch: int | None
    height: int | None
    width: int | None
    note: str = ""

    def run(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """The first output for an input (B, 3, H, W). Raises ConfigError for an input that the model does not take,
        DataError where it fails on this one (out of memory, say).
        """
        try:
            output = self.answer(tensor)
        except Exception as error:  # onnxruntime's errors have no root of their own
            refuse_lack_of_memory(error)
            kind = ConfigError if "INVALID_ARGUMENT" in str(error) or "dimension" in str(error).lower() else DataError
            raise kind(
                f"{self.path}: the model does not run on an input of {tensor.shape}: {one_line(error, 160)}; "
                "check the export, or set detector.image_size"
            ) from None
        return np.asarray(output)


@cache
def _network(path: Path, sha256: str, gpu: int | None, threads: int, engine: str, precision: str) -> _Network:
    """Load a model once a process; its hash is in the key so that a replaced file is loaded again.

    OpenVINO's, too, is described by onnxruntime, and refused as it would be there.
    """
    try:
        session = engines.open_session(path, threads, engines.providers(gpu, "the detector onnx"), "the detector onnx")
    except Exception as error:  # onnxruntime's errors have no root of their own
        refuse_lack_of_memory(error)
        raise _unloadable(path, error) from None
    if gpu is not None and session.get_providers()[:1] != ["CUDAExecutionProvider"]:
        raise ConfigError(
            f"device cuda:{gpu}: onnxruntime could not start CUDA and would run on the CPU; check that the driver, "
            "CUDA and cuDNN match onnxruntime-gpu, or ask for --device cpu"
        )
    described = _described(path, session)
    if engine != "openvino":
        return described
    model = engines.openvino().Core().read_model(path.read_bytes(), b"")
    run = engines.OpenVino(model, precision, threads, str(path))
    return replace(described, answer=lambda tensor: run(tensor)[0], engine=engine)


def _unloadable(path: Path, error: Exception) -> ConfigError:
    """Why a file is no model: another kind of file, weights in a second one, damaged, or beyond this onnxruntime."""
    content, said = content_of(path), " ".join(str(error).split())
    if content.kind is not Kind.ONNX:
        advice = content.advice if content.kind is Kind.OTHER else "export the detector to ONNX"
        return ConfigError(f"{path}: expected an ONNX model, got {content.what}; {advice}")
    if "xternal data" in said:
        return ConfigError(
            f"{path}: expected an ONNX model in one file, got one whose weights lie in a second file; save it with its "
            "weights inside, with Python: onnx.save(onnx.load(FILE), NEW)"
        )
    if "INVALID_PROTOBUF" in said or "No graph" in said:
        return ConfigError(
            f"{path}: an ONNX model, truncated or damaged: onnxruntime cannot read its {path.stat().st_size} bytes; "
            "get it again"
        )
    return ConfigError(
        f"{path}: expected an ONNX model that this onnxruntime runs, it says: {engines.reason_of(error)}; "
        "export the detector again with a lower opset and the standard operators, or install a newer onnxruntime"
    )


def _described(path: Path, session: Any) -> _Network:
    inputs = session.get_inputs()
    kinds: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    axes = [axis if isinstance(axis, int) and axis > 0 else None for axis in inputs[0].shape or []] if inputs else []
    if len(inputs) != 1 or len(axes) != 4 or axes[1] not in (3, None) or inputs[0].type not in kinds:
        got = ", ".join(f"{i.name} {i.shape} {i.type}" for i in inputs)
        raise ConfigError(
            f"{path}: expected one input of images (B, 3, H, W) in float32 or float16, got {one_line(got, 120)}; "
            "this is no detector of the YOLO family, or its export carries its own preprocessing"
        )
    note = str(session.get_modelmeta().custom_metadata_map.get(NOTE, ""))

    def answer(tensor: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(session.run(None, {inputs[0].name: tensor})[0])

    return _Network(path, answer, "onnxruntime", kinds[inputs[0].type], axes[0], axes[2], axes[3], note)


# --- the formats ---------------------------------------------------------------------------------------------------


def fitting_formats(output: tuple[int, ...], size: Size) -> list[Format]:
    """The formats whose output has this shape, for an input of `size` (height, width)."""
    if len(output) != 3:
        return []
    _, rows, columns = output
    anchors = sum((size[0] // stride) * (size[1] // stride) for stride in STRIDES)
    fits: dict[Format, bool] = {
        "yolov10": columns == 6,
        "yolox": rows == anchors and columns >= 6,
        "yolov8": columns == anchors and rows >= 5,
    }
    return [name for name, fit in fits.items() if fit]


def _corners(centre: Floats, extent: Floats) -> Floats:
    return np.concatenate([centre - extent / 2, centre + extent / 2], axis=1)


def _yolov10(raw: NDArray[Any], detector: Onnx, grid: Floats) -> tuple[Floats, Floats]:
    score = _checked(raw[:, 4])
    keep = (score >= detector.min_score) & (np.rint(raw[:, 5]) == detector.person_class)
    return raw[keep, :4].astype(np.float32), score[keep]


def _yolox(raw: NDArray[Any], detector: Onnx, grid: Floats) -> tuple[Floats, Floats]:
    is_object = _checked(raw[:, 4])
    maybe = np.flatnonzero(is_object >= detector.min_score)  # few: the class only lowers the score
    score = is_object[maybe] * _checked(raw[maybe, 5 + detector.person_class])
    keep, score = maybe[score >= detector.min_score], score[score >= detector.min_score]
    kept, cell = raw[keep, :4].astype(np.float32), grid[keep]
    if detector.decoded:
        return _corners(kept[:, :2], kept[:, 2:]), score
    if kept[:, 2:].size and kept[:, 2:].max() > LARGEST_LOG_SIZE:
        raise ValueError("its box sizes are pixels, not logarithms: set detector.decoded to true")
    return _corners((kept[:, :2] + cell[:, :2]) * cell[:, 2:], np.exp(kept[:, 2:]) * cell[:, 2:]), score


def _yolov8(raw: NDArray[Any], detector: Onnx, grid: Floats) -> tuple[Floats, Floats]:
    score = _checked(raw[4 + detector.person_class])
    keep = np.flatnonzero(score >= detector.min_score)
    kept = raw[:4, keep].T.astype(np.float32)
    return _corners(kept[:, :2], kept[:, 2:]), score[keep]


def _checked(score: NDArray[Any]) -> Floats:
    score = np.ascontiguousarray(score, np.float32)
    low, high = (float(score.min()), float(score.max())) if len(score) else (0.0, 0.0)
    if not (low >= -1e-3 and high <= 1.001):  # not: NaN as well
        raise ValueError(f"expected scores in 0..1, got {low:.4g}..{high:.4g}: set detector.format, or export again")
    return score


@dataclass(frozen=True)
class _Kind:
    """How a format is fed and read. read: one frame's raw output to (xyxy in input pixels, score), above min_score."""

    bgr: bool
    unit: bool
    centred: bool
    nms: bool
    read: Callable[[NDArray[Any], Onnx, Floats], tuple[Floats, Floats]]


_KINDS: dict[Format, _Kind] = {
    "yolov10": _Kind(bgr=False, unit=True, centred=True, nms=False, read=_yolov10),
    "yolox": _Kind(bgr=True, unit=False, centred=False, nms=True, read=_yolox),
    "yolov8": _Kind(bgr=False, unit=True, centred=True, nms=True, read=_yolov8),
}


# --- frames in, boxes out ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Fitted:
    """How frames of one size are given to the network, and its answers read."""

    frame: Size
    kind: _Kind
    inputs: NetworkInputs
    grid: Floats

    @property
    def letterbox(self) -> Letterbox:
        """Where a frame is in the input."""
        return self.inputs.letterbox


_Prepared: TypeAlias = tuple[_Fitted, list[NDArray[Any]]]


class _Persons(Detect):
    """What `Onnx.open` gives. Its memory is of a frame size and used again."""

    def __init__(self, detector: Onnx, network: _Network) -> None:
        self.detector, self.network = detector, network
        self.fitted: _Fitted | None = None
        self.formats: dict[Size, Format] = {}  # of the input sizes that were tried

    def prepare(self, frames: Frames) -> _Prepared | None:
        """The inputs of the network; None for no frame."""
        pixels = rgb_of(frames)
        if not len(frames):
            return None
        frame = (pixels.shape[1], pixels.shape[2])
        if self.fitted is None or self.fitted.frame != frame:
            self.fitted = self._fit(frame)
        # A batch of one differs from others in the last bits: it is run as two where the network lets it.
        size = self.network.batch or (CHUNK if self.network.engine == "openvino" else max(2, len(frames)))
        parts = [pixels[at : at + size] for at in range(0, len(frames), size)]
        return self.fitted, [self.fitted.inputs.of(part, size) for part in parts]

    def run(self, prepared: _Prepared | None) -> tuple[_Fitted, list[NDArray[Any]]] | None:
        """The raw output of each input."""
        if prepared is None:
            return None
        fitted, inputs = prepared
        outputs = [self.network.run(tensor) for tensor in inputs]
        for tensor in inputs:
            fitted.inputs.take_back(tensor)
        return fitted, outputs

    def read(self, frames: Frames, answer: tuple[_Fitted, list[NDArray[Any]]] | None) -> list[Boxes]:
        """The boxes of each frame."""
        if answer is None:
            return []
        fitted, outputs = answer
        rows = (raw for output in outputs for raw in output)
        return [self._boxes(raw, frame, fitted) for raw, frame in zip(rows, frames.index.tolist(), strict=False)]

    def _fit(self, frame: Size) -> _Fitted:
        detector, size = self.detector, self._input_size(frame)
        if size not in self.formats:
            self.formats[size] = self._format(size)
        kind = _KINDS[self.formats[size]]
        bgr = kind.bgr if detector.colour == "auto" else detector.colour == "bgr"
        unit = kind.unit if detector.values == "auto" else detector.values == "0..1"
        centred = kind.centred if detector.align == "auto" else detector.align == "centre"
        inputs = NetworkInputs(Letterbox.fit(frame, size, centred=centred), self.network.dtype, bgr=bgr, unit=unit)
        levels = tuple((size[0] // stride, size[1] // stride) for stride in STRIDES)
        return _Fitted(frame, kind, inputs, cells(levels, STRIDES).astype(np.float32))

    def _input_size(self, frame: Size) -> Size:
        wanted, fixed = self.detector.image_size, (self.network.height, self.network.width)
        if isinstance(wanted, tuple):
            free: Size = wanted
        elif None in fixed and any(fixed):  # one axis is fixed: the other is square with it
            free = (wanted or fixed[0] or fixed[1] or DEFAULT_SIZE,) * 2
        else:
            free = fitting_input(frame, wanted or DEFAULT_SIZE)
        size = (fixed[0] or free[0], fixed[1] or free[1])
        asked = wanted if isinstance(wanted, tuple) else (wanted, wanted)
        if wanted is not None and any(f not in (None, a) for f, a in zip(fixed, asked, strict=True)):
            raise ConfigError(
                f"detector.image_size: {self.network.path} takes inputs of {size[0]}x{size[1]} (H x W) only, "
                f"got {wanted}; leave image_size out, or export with free axes"
            )
        return size

    def _format(self, size: Size) -> Format:
        """The format for this input size. Raises ConfigError where the output's shape does not tell, or contradicts."""
        network, wanted = self.network, self.detector.format
        blank = np.zeros((network.batch or 2, 3, *size), network.dtype)
        shape = network.run(blank).shape
        fits = fitting_formats(shape, size)
        if wanted != "auto":
            fits = [name for name in fits if name == wanted]
        if len(fits) == 1 and shape[0] != len(blank):
            raise ConfigError(
                f"{network.path}: expected boxes of every image, got an output of {shape} for an input of "
                f"{blank.shape}; export it with a free batch axis, or with a batch of 1 on both sides"
            )
        if len(fits) != 1:
            known = "yolov10 (B, N, 6), yolox (B, A, 5 + classes) or yolov8 (B, 4 + classes, A)"
            what = f"both {' and '.join(fits)} fit" if len(fits) > 1 else "expected " + (wanted if fits else known)
            do = "name it in detector.format" if len(fits) > 1 else "export it in one of these formats"
            raise ConfigError(
                f"{network.path}: the output is {shape} for an input of {blank.shape} "
                f"and detector.format is {wanted}: {what}; {do}"
            )
        classes = {"yolov10": None, "yolox": shape[2] - 5, "yolov8": shape[1] - 4}[fits[0]]
        if classes is not None:
            self.detector.refuse_class(network.path, classes)
        return fits[0]

    def _boxes(self, raw: NDArray[Any], frame: int, fitted: _Fitted) -> Boxes:
        detector = self.detector
        try:
            xyxy, score = fitted.kind.read(raw, detector, fitted.grid)
        except ValueError as error:
            raise ConfigError(f"{self.network.path}: frame {frame}: {error}") from None
        xyxy = fitted.letterbox.to_frame(xyxy)
        if not np.isfinite(xyxy).all():
            raise DataError(
                f"{self.network.path}: frame {frame}: expected finite boxes, got NaN or infinity; export again"
            )
        order = suppress(xyxy, score, detector.nms_iou) if fitted.kind.nms else ranking(xyxy, score)
        order = order[: detector.max_detections]
        return Boxes(xyxy[order], score[order])
