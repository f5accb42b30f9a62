"""Persons by YOLOv10: the NMS-free, one-to-one head, fused, in batches of rectangular inputs.

    weights -> network -> DFL distributions (B, 64, A), class logits (B, C, A) -> boxes of the person class

A, the number of anchors, is the number of cells of the grids of stride 8, 16 and 32. Sources: Wang et al. 2024,
"YOLOv10: Real-Time End-to-End Object Detection"; ultralytics 8.4.190, `nn/modules/head.py` (v10Detect, DFL,
`dist2bbox`), whose network runs here and whose head is read before it decodes.
**Differs:** ultralytics takes the 300 best of all classes, and then the persons among them; here every person above
the score counts, and only those are decoded. In bfloat16 the boxes are decoded in float32: a step of a
bfloat16 number is 2 pixels at the right edge of a 640-pixel input.

The network runs under torch, or is traced there and runs under another engine, from uint8 pixels to the head's answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.config import BY_CONTENT, IF_SET, NOT_A_RESULT, download_folder, find_file
from mdfpipe.errors import ConfigError, DataError, not_loaded, one_line, refuse_lack_of_memory
from mdfpipe.machine.engines import CHUNK, EngineAsked, Outputs, made_by
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.shipped import demo_weights
from mdfpipe.store.trust import is_trusted
from mdfpipe.video.detectors import ENGINE, RENDERED_ONLY, Detect, NetworkDetector, Remarks, rgb_of
from mdfpipe.video.frames import Boxes, Frames
from mdfpipe.video.geometry import ranking
from mdfpipe.video.letterbox import STRIDE, Letterbox, Pictures, cells, fitting_input

if TYPE_CHECKING:
    from mdfpipe.tracing.graphs import TracedGraph

PUBLISHED = tuple(f"yolov10{variant}.pt" for variant in "nsmblx")  # by ultralytics, on GitHub
DEMO = demo_weights()
SIDES = (64, 96)  # of the input that is traced: any will do, both are free afterwards


class Yolo(NetworkDetector):
    """Person boxes by YOLOv10 from a PyTorch file (.pt): a checkpoint of ultralytics, or a state_dict.

    The boxes of a frame come best score first, in pixels of the frame, not clipped to it.
    """

    weights: str = Field(
        "yolov10x.pt",
        json_schema_extra=BY_CONTENT,
        description="the .pt file; its content is part of the fingerprint; demo: a small network, trained on "
        "synthetic data only",
    )
    weights_entry: str | None = Field(
        None,
        json_schema_extra=IF_SET,
        description="set of weights to take from a file with several, such as `model`; averaged: the moving average; "
        "none: `ema`, else `model`, as ultralytics does",
    )
    model: Literal["auto", "n", "s", "m", "b", "l", "x"] = Field(
        "auto",
        json_schema_extra=NOT_A_RESULT,  # only one of them fits
        description="YOLOv10 variant of the weights; auto: from the checkpoint or the shapes of its tensors",
    )
    image_size: int = Field(
        640, ge=STRIDE, multiple_of=STRIDE, description="longer side of the frame in the input, pixels"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="bf16: about twice as fast on processors that support it, fp16: on GPUs; boxes move slightly",
    )
    native: ClassVar[str] = "torch"

    engine: Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt"] = Field("auto", description=ENGINE)

    def find(self, data: Path) -> Path:
        """The weight file. Raises ConfigError that says where it is looked for and how to get it."""
        if self.weights == "demo":
            if not DEMO.is_file():
                raise ConfigError(
                    f"weights 'demo': expected {DEMO.name} of the package mdfpipe-synth-weights, found no such file: "
                    "in a clone of mdfpipe `pip install ./weights`, or install its wheel"
                )
            return DEMO
        fetched = download_folder(data) / self.weights
        try:
            return find_file(self.weights, data, "weights")
        except ConfigError as error:
            if fetched.is_file():
                return fetched
            if self.weights in PUBLISHED:
                raise ConfigError(
                    f"{error}, or let --download-weights fetch it into {fetched.parent}; without a network: "
                    "{use: onnx, weights: FILE} runs a YOLOv10, YOLOX or YOLOv8 that was exported elsewhere, "
                    "{use: precomputed, boxes: FILE} takes boxes that were made elsewhere"
                ) from None
            raise

    def download(self, data: Path, say: Callable[[str], object]) -> None:
        """Fetch the weights where they are missing. Raises ConfigError if no weights of that name are published."""
        try:
            self.find(data)
        except ConfigError as error:
            if self.weights not in PUBLISHED:
                raise ConfigError(f"{error}. --download-weights knows {', '.join(PUBLISHED)} only") from None
            _quarantine().fetch(self.weights, download_folder(data), say)

    def open(self, data: Path, video_id: str, *, device: str, threads: int) -> Detect:
        """The network as a function. Raises ConfigError: no such file, no YOLOv10, unsafe to open, no such device."""
        network = self._loaded(data, device, threads)
        self.refuse_class(network.path, network.head.classes)
        import torch

        torch.set_num_threads(threads)
        return _Persons(self, network)

    def remarks(self, data: Path, *, device: str, threads: int) -> Remarks:
        """Which of several sets of weights it is, and whether they were trained on rendered people only."""
        network = self._loaded(data, device, threads)
        return replace(network.remarks, engine=made_by(network.engine, self.precision))

    def _loaded(self, data: Path, device: str, threads: int) -> _Network | _Traced:
        path, engine = self.find(data).absolute(), self.engine_on(device)
        how = self.model, self.weights_entry, self.precision, is_trusted()
        if engine == "torch":
            return _network(path, file_sha256(path), how, self.gpu(device))
        return _traced(path, file_sha256(path), how, self.gpu(device), self.engine_asked, threads)


# --- the network -----------------------------------------------------------------------------------------------------


Candidates: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""The few anchors of a batch that may pass: image (K,), anchor (K,), logit and distributions (K, 1 + 4 bins)."""


@dataclass(frozen=True)
class _Head:
    """What decodes the answers of a network's head. strides: of its levels; bins: of a side's distribution."""

    path: Path
    strides: tuple[int, ...]
    classes: int
    bins: int

    def persons(
        self, found: Candidates, size: tuple[int, int], min_score: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Every person among candidates: which image (K,), xyxy in its pixels (K, 4), score (K,).

        size: (height, width) of the images. Raises ConfigError for a network that gives no numbers.
        """
        # In float64: float32 functions differ in the last bit with a number's place in its array, so that a frame's
        # place in its batch would show.
        number, cell, values = found
        if not np.isfinite(values).all():
            raise ConfigError(f"{self.path}: expected scores and boxes, got NaN or infinity; get the weights again")
        score = (1 / (1 + np.exp(-values[:, 0]))).astype(np.float32)
        bins = values[:, 1:].reshape(-1, 4, self.bins)
        weight = np.exp(bins - bins.max(axis=2, keepdims=True))
        side = (weight * np.arange(self.bins)).sum(axis=2) / weight.sum(axis=2)  # left, top, right, bottom, in cells
        levels = tuple((size[0] // stride, size[1] // stride) for stride in self.strides)
        place = cells(levels, self.strides)[cell]
        centre, stride = place[:, :2] + 0.5, place[:, 2:]
        xyxy = np.concatenate([centre - side[:, :2], centre + side[:, 2:]], axis=1) * stride
        keep = score >= min_score
        return number[keep], xyxy[keep].astype(np.float32), score[keep]


def _least(min_score: float) -> float:
    """The logit below which no anchor passes, with room for rounding."""
    return math.log(min_score / (1 - min_score)) - 0.01 if 0 < min_score < 1 else -math.inf


@dataclass(frozen=True, eq=False)
class _Network:
    """A network under torch whose head answers with {"boxes": (B, 4 * bins, A), "scores": (B, C, A), ...}."""

    head: _Head
    module: Any
    device: str
    dtype: Any
    remarks: Remarks
    engine: ClassVar[str] = "torch"

    @property
    def path(self) -> Path:
        """The weight file."""
        return self.head.path

    def inputs(self, pictures: Pictures, pixels: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """What it is given for frames of any number."""
        return [pictures.of(pixels, max(2, len(pixels)))]  # a batch of one differs from others in the last bits

    def candidates(self, inputs: list[NDArray[Any]], person: int, min_score: float) -> Candidates:
        """The candidates of `inputs`. Raises DataError where it cannot run (out of memory, say)."""
        import torch

        (images,) = inputs
        with torch.inference_mode():
            try:
                planes = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)  # a view: channels_last
                raw = self.module(planes.to(self.dtype).div_(255))
            except RuntimeError as error:
                refuse_lack_of_memory(error)
                raise DataError(
                    f"{self.path}: the network does not run on an input of {images.shape}: {one_line(error, 160)}; "
                    "try a smaller --batch or image_size"
                ) from None
            logit = raw["scores"][:, person].float()  # (B, A)
            image, anchor = (~(logit < _least(min_score))).nonzero(as_tuple=True)  # not: NaN as well
            found = torch.cat([logit[image, anchor][:, None], raw["boxes"][image, :, anchor].float()], 1)
            return image.cpu().numpy(), anchor.cpu().numpy(), found.cpu().numpy().astype(np.float64)


@dataclass(frozen=True, eq=False)
class _Traced:
    """The same network under another engine. run: images (CHUNK, H, W, 3) uint8 to boxes and scores, as the head's."""

    head: _Head
    run: Callable[[NDArray[Any]], Outputs]
    remarks: Remarks
    engine: str

    @property
    def path(self) -> Path:
        """The weight file."""
        return self.head.path

    def inputs(self, pictures: Pictures, pixels: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """What it is given for frames of any number."""
        return [pictures.of(pixels[at : at + CHUNK], CHUNK) for at in range(0, len(pixels), CHUNK)]

    def candidates(self, inputs: list[NDArray[Any]], person: int, min_score: float) -> Candidates:
        """The candidates of `inputs`. Raises DataError where it cannot run (out of memory, say)."""
        parts = []
        for start, images in zip(range(0, len(inputs) * CHUNK, CHUNK), inputs, strict=True):
            boxes, scores = self.run(images)
            logit = scores[:, person].astype(np.float32, copy=False)
            image, anchor = (~(logit < _least(min_score))).nonzero()
            values = np.concatenate([logit[image, anchor][:, None], boxes[image, :, anchor]], axis=1)
            parts.append((image + start, anchor, values.astype(np.float64)))
        number, anchors, values = (np.concatenate(part) for part in zip(*parts, strict=True))
        return number, anchors, values


@cache
def _network(path: Path, sha256: str, how: tuple[str, str | None, str, bool], gpu: int | None) -> _Network:
    """Load a network once a process; its hash is in the key so that a replaced file is loaded again."""
    quarantine = _quarantine()
    import torch

    device = "cpu" if gpu is None else f"cuda:{gpu}"
    if gpu is not None:
        if gpu >= torch.cuda.device_count():
            raise ConfigError(
                f"device {device}: torch {torch.__version__} sees {torch.cuda.device_count()} such devices; check the "
                "driver, or ask for --device cpu"
            )
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, as on a CPU
    model, entry, precision, trust_pickle = how
    loaded = quarantine.load(path, model, entry, trust_pickle=trust_pickle)
    module = quarantine.one_to_one(loaded.network)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    head = module.model[-1]
    strides = tuple(int(stride) for stride in head.stride)
    module = module.to(device, dtype, memory_format=torch.channels_last)
    remarks = Remarks(loaded.lines, loaded.doubts, loaded.note.startswith(RENDERED_ONLY))
    return _Network(_Head(path, strides, int(head.nc), int(head.reg_max)), module, device, dtype, remarks)


@cache
def _traced(
    path: Path, sha256: str, how: tuple[str, str | None, str, bool], gpu: int | None, asked: EngineAsked, threads: int
) -> _Traced:
    """The network of `_network`, traced on the CPU in fp32 and given to an engine that runs it in its precision."""
    from mdfpipe.tracing import refuse_precision, traced

    model, entry, precision, trust_pickle = how
    refuse_precision(asked.name, precision, asked)  # before it is loaded
    network = _network.__wrapped__(path, sha256, (model, entry, "fp32", trust_pickle), None)
    graph = _graph(network.module)
    run = traced(graph, asked.name, precision, threads=threads, gpu=gpu, where=str(path), asked=asked)
    return _Traced(network.head, run, network.remarks, asked.name)


def _graph(module: Any) -> TracedGraph:
    """The network as one of uint8 RGB images (B, H, W, 3), so that the engine scales them, to boxes and scores."""
    import torch

    from mdfpipe.tracing.graphs import TracedGraph

    class FromPixels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, images: Any) -> Any:
            answer = self.network(images.permute(0, 3, 1, 2).to(torch.float32) / 255)
            return answer["boxes"], answer["scores"]

    images = torch.zeros(2, *SIDES, 3, dtype=torch.uint8)
    free = {0: "batch", 2: "anchors"}
    axes = {"images": {0: "batch", 1: "height", 2: "width"}, "boxes": free, "scores": free}
    return TracedGraph(FromPixels().eval(), images, ("boxes", "scores"), axes)


def _quarantine() -> Any:
    try:
        from mdfpipe.video import ultralytics
    except ImportError as error:
        raise not_loaded(error, "torch", "the detector yolo") from None
    return ultralytics


# --- frames in, boxes out --------------------------------------------------------------------------------------------


_Prepared: TypeAlias = tuple[Pictures, list[NDArray[Any]]]


class _Persons(Detect):
    """What `Yolo.open` gives. Its memory is of a frame size and used again."""

    def __init__(self, detector: Yolo, network: _Network | _Traced) -> None:
        self.detector, self.network = detector, network
        self.pictures: Pictures | None = None

    def prepare(self, frames: Frames) -> _Prepared | None:
        """The letterboxed frames; None for no frame."""
        pixels = rgb_of(frames)
        if not len(frames):
            return None
        size = (pixels.shape[1], pixels.shape[2])
        if self.pictures is None or self.pictures.letterbox.frame != size:
            letterbox = Letterbox.fit(size, fitting_input(size, self.detector.image_size), centred=True)
            self.pictures = Pictures(letterbox)
        return self.pictures, self.network.inputs(self.pictures, pixels)

    def run(self, prepared: _Prepared | None) -> tuple[Letterbox, Candidates] | None:
        """The candidates of all frames."""
        if prepared is None:
            return None
        pictures, inputs = prepared
        found = self.network.candidates(inputs, self.detector.person_class, self.detector.min_score)
        for images in inputs:
            pictures.take_back(images)
        return pictures.letterbox, found

    def read(self, frames: Frames, answer: tuple[Letterbox, Candidates] | None) -> list[Boxes]:
        """The boxes of each frame."""
        if answer is None:
            return []
        letterbox, found = answer
        image, xyxy, score = self.network.head.persons(found, letterbox.input, self.detector.min_score)
        xyxy = letterbox.to_frame(xyxy)
        boxes = []
        for number in range(len(frames)):
            mine = np.flatnonzero(image == number)
            best = mine[ranking(xyxy[mine], score[mine])][: self.detector.max_detections]
            boxes.append(Boxes(xyxy[best], score[best]))
        return boxes
