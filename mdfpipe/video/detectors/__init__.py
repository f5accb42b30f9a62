"""Detector: frames in, person boxes out.

Each file of this folder is one detector, named after itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mdfpipe.config import Plugin
from mdfpipe.errors import ConfigError
from mdfpipe.video.frames import Boxes, Frames

Detect: TypeAlias = Callable[[Frames], list[Boxes]]
"""Frames (uint8 RGB, one batch) to one `Boxes` a frame, in pixels of the frame, best score first."""


RENDERED_ONLY = "synthetic data only"
"""Weights whose note begins so were trained on rendered people, and are of no use on real ones."""


@dataclass(frozen=True)
class Remarks:
    """What a reader of the boxes should know of the weights.

    lines: what was loaded, where that could have been something else; doubts: what may be unwanted; rendered_only:
    whether they were trained on rendered people only.
    """

    lines: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    rendered_only: bool = False


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

    def beyond(self, data: Path, video_id: str, delivered: int) -> int | None:
        """Count boxes made elsewhere for frames after the last delivered one; None where it has none
        for the video at all. A detector of frames returns 0.
        """
        return 0

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
        """A function from one batch of frames to one `Boxes` a frame. Models are cached within a process.

        device: "cpu", "cuda", "cuda:1", ...; threads: of this process; neither changes a result by more than rounding.
        """
