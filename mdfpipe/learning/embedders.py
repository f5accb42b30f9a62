"""A recipe's network as a function from images to vectors, under torch or under another engine."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdfpipe.errors import ConfigError
from mdfpipe.learning.data.batches import CropBatch
from mdfpipe.machine.engines import EngineAsked
from mdfpipe.tracing import Run, traced
from mdfpipe.tracing.graphs import TracedGraph

if TYPE_CHECKING:
    from mdfpipe.learning.recipes import Recipe

CPU_BATCH: Final = 8
"""Images that a network on a CPU, or under another engine than torch, is given at a time."""
MOST_GRAPHS: Final = 16
"""Graphs that are kept: of streams, or of cameras."""
_TYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


class ImagesToVectors(Protocol):
    """Images to vectors. fixed: how many it is always given, because its last bits depend on it; None: any number."""

    @property
    def recipe(self) -> Recipe:
        """The recipe of the network."""

    @property
    def fixed(self) -> int | None:
        """See above."""

    def __call__(self, batch: CropBatch) -> NDArray[np.float32]:
        """(B, D) vectors of a batch."""


@dataclass(frozen=True, eq=False)
class TorchEmbedder:
    """A network under torch, on the device where it is. It must be in eval mode."""

    recipe: Recipe
    network: nn.Module
    precision: str = "fp32"

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(chain(self.network.parameters(), self.network.buffers())).device

    @property
    def fixed(self) -> int | None:
        """On a CPU alone: its last bits depend on how many images it is given (2 and 3 differ from 4 and more)."""
        return CPU_BATCH if self.device.type == "cpu" else None

    def __call__(self, batch: CropBatch) -> NDArray[np.float32]:
        """(B, D) vectors of a batch."""
        given = batch.to(self.device)
        images = given.images.contiguous(memory_format=torch.channels_last)
        casting: Any = contextlib.nullcontext()
        if self.precision in _TYPES:
            casting = torch.autocast(self.device.type, _TYPES[self.precision])
        with torch.inference_mode(), casting:
            vectors = self.recipe.embed(self.network, replace(given, images=images))
        return np.asarray(vectors.float().cpu().numpy())


@dataclass(frozen=True, eq=False)
class TracedEmbedder:
    """A network, on the CPU, under another engine: a graph for each stream of domains, made when a crop needs it.

    domains: those that the network was made for; engine: its name; where: the checkpoint, for messages.
    """

    recipe: Recipe
    network: nn.Module
    domains: Sequence[str]
    engine: str
    precision: str
    asked: EngineAsked
    where: str
    threads: int = 1
    gpu: int | None = None
    runs: dict[tuple[int, int], Run] = field(default_factory=dict)

    @property
    def fixed(self) -> int | None:
        """A graph is of so many images."""
        return CPU_BATCH

    def __call__(self, batch: CropBatch) -> NDArray[np.float32]:
        """(B, D) vectors of a batch, each image through the stream of its domain. Raises ConfigError."""
        images = batch.images.contiguous().numpy()
        streams = np.array([self.recipe.stream_at(place, self.domains) for place in batch.domain.tolist()])
        cameras = batch.camera.numpy() if self.recipe.uses_cameras else np.full(len(images), -1)
        vectors = np.empty((len(images), self.recipe.features), np.float32)
        for stream, camera in sorted({*zip(streams.tolist(), cameras.tolist(), strict=True)}):
            (found,) = self.of_stream(stream, camera)(images)
            if found.shape != vectors.shape:
                raise ConfigError(
                    f"{self.where}: expected vectors of {vectors.shape} from {self.engine}, got {found.shape}: the "
                    f"network of {self.recipe.use} cannot be traced; take engine torch"
                )
            own = (streams == stream) & (cameras == camera)
            vectors[own] = found[own]
        return vectors

    def of_stream(self, stream: int, camera: int = -1) -> Run:
        """The graph of a stream, for a camera. Raises ConfigError and MissingDependency."""
        if (stream, camera) not in self.runs:
            if len(self.runs) >= MOST_GRAPHS:  # cameras may be many; a video has one
                self.runs.clear()
            size = (self.recipe.image_height_px, self.recipe.image_width_px)
            module = EmbeddingNetwork(self.recipe, self.network, stream, camera).eval()
            graph = TracedGraph(module, torch.zeros(CPU_BATCH, 3, *size), ("vectors",))
            self.runs[stream, camera] = traced(
                graph,
                self.engine,
                self.precision,
                threads=self.threads,
                gpu=self.gpu,
                where=self.where,
                asked=self.asked,
            )
        return self.runs[stream, camera]


class EmbeddingNetwork(nn.Module):
    """A recipe's `embed` as a network: images (B, 3, H, W) to vectors (B, D). domain, camera: as in a CropBatch."""

    def __init__(self, recipe: Recipe, network: nn.Module, domain: int = 0, camera: int = -1) -> None:
        super().__init__()
        self.recipe, self.network, self.domain, self.camera = recipe, network, domain, camera

    def forward(self, images: Tensor) -> Tensor:
        """Vectors of images."""
        return self.recipe.embed(self.network, batch_of(images, self.domain, self.camera))


def batch_of(images: Tensor, domain: int, camera: int = -1) -> CropBatch:
    """Images as a batch of crops of one domain and camera."""
    none = torch.zeros(images.shape[0], dtype=torch.int64)
    return CropBatch(images, none, none + domain, none, none, none, none, none + camera)


def drawn_images(recipe: Recipe) -> Tensor:
    """(CPU_BATCH, 3, H, W) drawn people of different proportions before patterns, as a network is given crops."""
    height, width = recipe.image_height_px, recipe.image_width_px
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    images = torch.empty(CPU_BATCH, 3, height, width)
    for number in range(CPU_BATCH):
        part = number / CPU_BATCH
        drawn = np.stack([x, (x * (number + 2) + y * (number + 3)) % 1.0, 1 - y * part], axis=2) * 200
        body = (np.abs(x - 0.5) < 0.15 + 0.2 * part) & (np.abs(y - 0.55) < 0.2 + 0.2 * part)
        drawn[body] = (40 + 150 * part, 60, 200 - 120 * part)
        drawn[body & (y > 0.6)] = (30, 40 + 100 * part, 50)
        drawn[(x - 0.5) ** 2 + (y - 0.2 + 0.1 * part) ** 2 < 0.01] = (190 - 100 * part, 150 - 80 * part, 130)
        recipe.augment.plain(np.ascontiguousarray(drawn.astype(np.uint8)), images[number].numpy())
    return images


def agreement(found: NDArray[np.float32], expected: NDArray[np.float32]) -> tuple[float, float]:
    """(least cosine of two vectors of the same image, greatest difference of their lengths as a share)."""
    one, other = found.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (one * other).sum(1) / (lengths[0] * lengths[1])
        apart = np.abs(lengths[0] / lengths[1] - 1)
    same = (one == other).all(axis=1)  # vectors of zeros, too
    return float(np.where(same, 1.0, cosine).min(initial=1.0)), float(np.where(same, 0.0, apart).max(initial=0.0))
