"""A network from an ONNX file as a network of torch: its weights are the bytes of the file, onnxruntime runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdfpipe.errors import ConfigError, MdfError, one_line, refuse_lack_of_memory
from mdfpipe.machine.engines import open_session, reason_of

NEEDED_BY = "recipe onnx"
_KINDS: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}

_SAME = 0.01  # of the greatest magnitude: float16 rounds with the number of images

Layout: TypeAlias = Literal["auto", "nchw", "nhwc"]


@dataclass(frozen=True)
class Wanted:
    """What the settings say of a graph. size: height and width; output: its name, None: the only one."""

    size: tuple[int, int]
    features: int
    layout: Layout
    output: str | None


class OnnxNetwork(nn.Module):
    """Images (B, 3, H, W) to vectors (B, D), on the CPU, by a graph that is kept as bytes; no code is in it.

    Operators that onnxruntime does not bring are refused, and so are weights in a second file.
    """

    graph: Tensor

    def __init__(self, wanted: Wanted) -> None:
        super().__init__()
        self.wanted = wanted
        self.register_buffer("graph", torch.zeros(0, dtype=torch.uint8))
        self._opened: _Graph | None = None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if (given := state_dict.get(f"{prefix}graph")) is not None:
            self.graph, self._opened = torch.zeros_like(given), None  # files differ in length
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Any, recurse: bool = True) -> OnnxNetwork:
        return self  # bytes stay where they are, and as they are

    def opened(self, source: str) -> _Graph:
        """The graph, loaded once. source: the file, for messages. Raises ConfigError and MissingDependency."""
        if self._opened is None:
            self._opened = _Graph(self.graph.numpy().tobytes(), self.wanted, source)
        return self._opened

    def forward(self, images: Tensor) -> Tensor:
        """Vectors of images."""
        return torch.from_numpy(self.opened("ONNX network")(np.ascontiguousarray(images.float().cpu().numpy())))


class _Graph:
    """A session and how it is called. batch: images of a call; None: any number."""

    def __init__(self, content: bytes, wanted: Wanted, source: str) -> None:
        self.wanted, self.source = wanted, source
        try:
            self.session = open_session(content, torch.get_num_threads(), needed_by=NEEDED_BY)
        except MdfError:
            raise
        except Exception as error:  # onnxruntime's errors have no root of their own
            refuse_lack_of_memory(error)
            raise ConfigError(_unloadable(source, error)) from None
        self.input, self.kind, self.batch, self.channels_last = self._input()
        self.output = self._output()
        self._try()

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, D) vectors of images (B, 3, H, W)."""
        given = images.transpose(0, 2, 3, 1) if self.channels_last else images
        step, parts = self.batch or len(given), []
        for start in range(0, len(given), step):
            part = given[start : start + step]
            lacking = step - len(part)
            whole = np.concatenate([part, np.repeat(part[:1], lacking, axis=0)]) if lacking else part
            parts.append(self._run(whole)[: len(part)])
        return np.concatenate(parts)

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        given = np.ascontiguousarray(images, self.kind)
        try:
            found = np.asarray(self.session.run([self.output], {self.input: given})[0])
        except Exception as error:  # as above
            refuse_lack_of_memory(error)
            raise ConfigError(
                f"{self.source}: onnxruntime does not run the network on an input of {images.shape}: "
                f"{one_line(error, 160)}; export it again for this size"
            ) from None
        expected = (len(images), self.wanted.features)
        if found.ndim == 2 and len(found) == len(images) and found.shape != expected:
            raise ConfigError(
                f"{self.source}: expected vectors of {expected[1]} numbers, got {found.shape[1]}; set "
                f"recipe.dimensions to {found.shape[1]}"
            )
        if found.shape != expected or found.dtype.kind != "f":
            raise ConfigError(
                f"{self.source}: expected output {self.output} of shape (B, D), here {expected}, got {found.shape} of "
                f"{found.dtype}; name the output with the vectors in recipe.output, or export one vector an image"
            )
        return found.astype(np.float32)

    def _input(self) -> tuple[str, Any, int | None, bool]:
        """Name, type, batch and whether the channels come last, of the only input. Raises ConfigError."""
        inputs, wanted = self.session.get_inputs(), self.wanted
        got = one_line(", ".join(f"{i.name} {i.shape} {i.type}" for i in inputs), 160) or "none"
        axes = [axis if isinstance(axis, int) and axis > 0 else None for one in inputs[:1] for axis in one.shape or []]
        if len(inputs) != 1 or len(axes) != 4 or inputs[0].type not in _KINDS:
            raise ConfigError(
                f"{self.source}: expected one input of images, four axes of float32 or float16, got {got}; export the "
                "network without its preprocessing"
            )
        last = wanted.layout == "nhwc" or (wanted.layout == "auto" and axes[1] != 3 and axes[3] == 3)
        channels, size = (axes[3], axes[1:3]) if last else (axes[1], axes[2:])
        if channels not in (3, None):
            raise ConfigError(
                f"{self.source}: expected an input of 3 channels, got {channels} ({got}); set recipe.layout to "
                f"{'nchw' if last else 'nhwc'} if they are elsewhere"
            )
        for name, axis, given in zip(("height", "width"), size, wanted.size, strict=True):
            if axis not in (None, given):
                raise ConfigError(
                    f"{self.source}: expected images of {wanted.size[0]}x{wanted.size[1]} as set, got {got}; set "
                    f"recipe.image_{name}_px to {axis}"
                )
        return inputs[0].name, _KINDS[inputs[0].type], axes[0], last

    def _output(self) -> str:
        """The name of the output with the vectors. Raises ConfigError."""
        names = [output.name for output in self.session.get_outputs()]
        name = self.wanted.output or next(iter(names), "")
        if name not in names or (self.wanted.output is None and len(names) > 1):
            asked = f"one output, or recipe.output with one of {len(names)}" if names else "an output with vectors"
            if self.wanted.output is not None:
                asked = f"an output {self.wanted.output!r:.60}"
            raise ConfigError(
                f"{self.source}: expected {asked}, got {one_line(', '.join(names), 160) or 'none'}; set "
                "recipe.output to one of them, or export the network again"
            )
        return name

    def _try(self) -> None:
        """Embed two grey images, and a grey with a noisy one; where a free axis allows but one image at a time, note
        that. Raises ConfigError where vectors are no numbers, of different images the same, or of one image not.
        """
        images = np.zeros((2, 3, *self.wanted.size), np.float32)
        try:
            found = self(images)
        except ConfigError:
            if self.batch is not None:
                raise
            self.batch = 1  # many exports have a free axis and a reshape to one image behind it
            found = self(images)
        if not np.isfinite(found).all():
            raise ConfigError(
                f"{self.source}: gives vectors of a grey image that are no numbers (NaN or infinity); was it trained "
                "to its end, and exported in float32?"
            )
        images[1] = np.random.default_rng(0).uniform(-1, 1, images[1].shape)
        other = self(images)
        if not np.abs(other[0] - found[0]).max() <= _SAME * max(np.abs(found[0]).max(), 1e-6):
            raise ConfigError(
                f"{self.source}: gives an image another vector at another time, or beside another image; export the "
                "network in evaluation mode, without dropout and with the stored statistics of its batch norms"
            )
        if np.array_equal(*other) and np.array_equal(*self(127.5 * (images + 1))):  # the second: it may round
            raise ConfigError(
                f"{self.source}: gives a grey and a noisy image the same vector; name another output in recipe.output, "
                "or export the network again"
            )


def _unloadable(source: str, error: Exception) -> str:
    said = " ".join(str(error).split())
    if "xternal data" in said:
        return (
            f"{source}: expected an ONNX network in one file, got one whose weights lie in a second file; save it with "
            "its weights inside, with Python: onnx.save(onnx.load(FILE), NEW)"
        )
    if "INVALID_PROTOBUF" in said or "No graph" in said:
        return f"{source}: an ONNX network, truncated or damaged: onnxruntime cannot read it; get it again"
    return (
        f"{source}: expected an ONNX network of standard operators that this onnxruntime runs, it says: "
        f"{reason_of(error)}; export the network again"
    )
