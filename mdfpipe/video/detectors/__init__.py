"""Detector: frames in, person boxes out.

Each file of this folder is one detector, named after itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.config import BY_CONTENT, Plugin, find_file
from mdfpipe.errors import ConfigError
from mdfpipe.machine.engines import EngineAsked
from mdfpipe.store.hashing import file_sha256
from mdfpipe.video.frames import Boxes, Frames


class Detect(ABC):
    """Frames (uint8 RGB, one batch) to one `Boxes` a frame, in pixels of the frame, best score first.

    In three steps, each of which may have a thread of its own, so that a batch is prepared and another one read while
    the network runs on a third.
    """

    def prepare(self, frames: Frames) -> Any:
        """What the network is given for a batch; it is given to `run` once."""
        return None

    def run(self, prepared: Any) -> Any:
        """The answer of the network."""
        return None

    @abstractmethod
    def read(self, frames: Frames, answer: Any) -> list[Boxes]:
        """The boxes of a batch in the answer; of the frames, the index and the size count."""

    def __call__(self, frames: Frames) -> list[Boxes]:
        """The boxes of one batch, one step after the other."""
        return self.read(frames, self.run(self.prepare(frames)))


RENDERED_ONLY = "synthetic data only"
"""Weights whose note begins so were trained on rendered people, and are of no use on real ones."""


ENGINE = (
    "library that runs the network; the boxes are the same up to rounding. auto: on a CPU OpenVINO, where it is "
    "installed (extra `openvino`) and its boxes on a test picture agree; what the parts of a run have is kept"
)


@dataclass(frozen=True)
class Remarks:
    """What a reader of the boxes should know of the weights.

    lines: what was loaded, where that could have been something else; doubts: what may be unwanted; rendered_only:
    whether they were trained on rendered people only; engine: what runs them: name, version, precision.
    """

    lines: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    rendered_only: bool = False
    engine: dict[str, str] = field(default_factory=dict)


class Detector(Plugin):
    """One way to find persons in frames. Settings only: `open` gives the function that runs."""

    def check(self, data: Path) -> None:
        """Raise ConfigError where a file that every video needs is missing or cannot be used.

        Called before the first video is hashed, which may take hours.
        """

    def download(self, data: Path, say: Callable[[str], object]) -> None:
        """Fetch the weights where they are missing, since the user asks for it; `say` what, from where, how much.

        Raises ConfigError where that cannot be.
        """
        raise ConfigError(
            f"--download-weights: there are no published weights for the detector {self.use}; leave it out"
        )

    @abstractmethod
    def identity(self, data: Path, video_id: str) -> dict[str, str]:
        """What, besides the settings, decides the boxes of `video_id`: content hashes by name, such as the weights'.

        It enters the fingerprint, so that a changed file runs again and a moved one does not. Raises ConfigError
        where a file is missing.
        """

    def identities(self, data: Path) -> Callable[[str], dict[str, str]]:
        """`identity` by video_id, for many videos at one time: it may look up once what they share."""
        return partial(self.identity, data)

    def beyond(self, data: Path, video_id: str, delivered: int) -> int | None:
        """Count boxes made elsewhere for frames after the last delivered one; None where it has none
        for the video at all. A detector of frames returns 0.
        """
        return 0

    def left_out(self, data: Path, video_id: str) -> dict[str, int]:
        """How many rows of boxes made elsewhere are no box of a person, by reason."""
        return {}

    def picture_size(self, data: Path, video_id: str) -> tuple[int, int] | None:
        """Width and height of the pictures that boxes made elsewhere are of, where their file says so."""
        return None

    def remarks(self, data: Path, *, device: str, threads: int) -> Remarks:
        """What is to be reported of the weights that `open` loads for the same device and threads."""
        return Remarks()

    def unnamed(self, data: Path, video_id: str) -> str:
        """Describe the videos that boxes made elsewhere name, if this one is missing; else ""."""
        return ""

    def known_boxes(self, data: Path, video_id: str) -> NDArray[np.float32] | None:
        """All boxes made elsewhere for the video, (n, 4) xyxy; None if they come from the frames."""
        return None

    @abstractmethod
    def open(self, data: Path, video_id: str, *, device: str, threads: int) -> Detect:
        """What finds the boxes of one batch of frames after the other. Models are cached within a process.

        device: "cpu", "cuda", "cuda:1", ...; threads: of this process; neither changes a result by more than rounding.
        """


class NetworkDetector(Detector):
    """Person boxes by a network from a weight file. A box counts as a person by its person score alone.

    native: the engine that it runs under where no other is asked for. engine: "auto", or the one that is asked for; a
    run decides which one `auto` is, for all units of the stage, wherever they run; `open` takes the native one.
    """

    native: ClassVar[str]
    engine: str

    weights: str = Field(json_schema_extra=BY_CONTENT, description="the file; its content is part of the fingerprint")
    min_score: float = Field(0.25, ge=0, le=1, description="least detector confidence; boxes below it are dropped")
    person_class: int = Field(0, ge=0, description="class number of a person (COCO: 0)")
    max_detections: int = Field(300, ge=1, description="largest number of boxes per frame; the best ones are kept")

    def find(self, data: Path) -> Path:
        """The weight file. Raises ConfigError where it is missing."""
        return find_file(self.weights, data, "weights")

    def check(self, data: Path) -> None:
        """Raise ConfigError where the weights are missing."""
        self.find(data)

    def identity(self, data: Path, video_id: str) -> dict[str, str]:
        """The hash of the weights. Raises ConfigError where they are missing."""
        return {"weights": file_sha256(self.find(data))}

    def identities(self, data: Path) -> Callable[[str], dict[str, str]]:
        """The same for every video."""
        found = cache(partial(self.identity, data, ""))
        return lambda video_id: found()

    @property
    def engine_asked(self) -> EngineAsked:
        """The engine that is asked for."""
        return EngineAsked(self.engine, self.native, "detect.detector.engine", f"the detector {self.use}")

    def engine_on(self, device: str) -> str:
        """The engine that runs the network. Raises MissingDependency, and ConfigError for a GPU that it cannot use."""
        return self.engine_asked.on(self.gpu(device))

    def refuse_class(self, path: Path, classes: int) -> None:
        """Raise ConfigError where a network has no class of this number."""
        if self.person_class >= classes:
            raise ConfigError(
                f"detector.person_class: {path} has {classes} classes, numbered from 0, got {self.person_class}"
            )

    def gpu(self, device: str) -> int | None:
        """The number of a CUDA device; None for the CPU. Raises ConfigError for any other device."""
        name, _, number = device.partition(":")
        if device != "cpu" and (name != "cuda" or not (number or "0").isdecimal()):
            raise ConfigError(f"device {device!r:.40}: the detector {self.use} runs on cpu, cuda or cuda:N")
        return None if device == "cpu" else int(number or 0)


def rgb_of(frames: Frames) -> NDArray[np.uint8]:
    """(N, H, W, 3) uint8 pixels of frames. Raises ValueError for others."""
    if frames.pixels.dtype != np.uint8:
        raise ValueError(f"expected uint8 RGB frames, got {frames.pixels.dtype} {frames.pixels.shape}")
    return frames.pixels.astype(np.uint8, copy=False)
