"""The size of a synthetic data set, and the groups of people in its videos."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mdfpipe.domains import Domain

DOMAINS = tuple(Domain.parse(name) for name in ("VIS-500m", "SWIR-30m", "MWIR-30m", "LWIR-30m"))
GALLERIES = (1, 2)
LARGEST_GALLERY = 9999


@dataclass(frozen=True)
class Preset:
    """subjects: of each gallery. Each walks in `sessions` videos of each domain, `group` people in a video of `frames`.

    crowds: further videos of each domain and gallery, with `crowd` people close together in `crowd_frames` frames.
    scale: of the frames, 1 = 640x360 in VIS and SWIR, 256x144 in MWIR and LWIR. away: all come towards the camera, turn
    round before the middle of a video, and walk away from it.
    """

    subjects: int
    sessions: int
    frames: int
    group: int = 3
    crowds: int = 1
    crowd: int = 8
    crowd_frames: int = 8
    fps: int = 6
    scale: int = 1
    away: bool = False


PRESETS = {
    "tiny": Preset(subjects=4, sessions=2, frames=6, crowds=0),
    "demo": Preset(subjects=24, sessions=2, frames=11),
    "study": Preset(subjects=100, sessions=4, frames=10, crowds=4, crowd_frames=12),
    "away": Preset(subjects=24, sessions=2, frames=20, crowd_frames=16, fps=10, away=True),
    "bench": Preset(subjects=6, sessions=1, frames=900, group=6, crowds=0, fps=25, scale=2),
}


@dataclass(frozen=True)
class Cast:
    """One video before it is drawn. deep: in 16 bits (thermal only). sighting: number of its first person.

    facing: all come towards the camera (the first session, so that every subject shows a face in every domain). away:
    all turn round before the middle.
    """

    name: str  # path under the data root, without suffix
    domain: Domain
    gallery: int
    subjects: tuple[str, ...]
    frames: int
    deep: bool
    crowded: bool
    facing: bool
    sighting: int
    away: bool = False

    @property
    def path(self) -> str:
        """Path of the video under the data root."""
        return self.name + (".mkv" if self.deep else ".mp4")

    def scene_size(self, scale: int = 1) -> tuple[int, int]:
        """(height, width) of the scene that is drawn; thermal sensors deliver half of it."""
        return (288 * scale, 512 * scale) if self.domain.band.is_thermal else (360 * scale, 640 * scale)


def subject_ids(gallery: int, count: int) -> list[str]:
    """The subjects of a gallery; the first digit is its number.

    >>> subject_ids(2, 2)
    ['20001', '20002']
    """
    return [f"{gallery}{number:04d}" for number in range(1, count + 1)]


def seed_of(seed: int, *names: object) -> list[int]:
    """A sequence of integers for these names, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return [seed, *np.frombuffer(digest[:16], "<u4").tolist()]


def uniform(generator: np.random.Generator) -> Callable[[float, float], float]:
    """between(low, high): numbers drawn evenly by a generator."""
    return lambda low, high: float(generator.uniform(low, high))


def casts(preset: Preset, seed: int) -> Iterator[Cast]:
    """Every video of a data set. Each subject walks once in each session of each domain; the groups differ."""
    sighting = 1
    for domain in DOMAINS:
        for gallery in GALLERIES:
            ids = subject_ids(gallery, preset.subjects)
            for session in range(preset.sessions):
                generator = np.random.default_rng(seed_of(seed, "groups", domain, gallery, session))
                order = [ids[i] for i in generator.permutation(len(ids))]
                count = max(round(len(ids) / preset.group), 1)
                groups = [tuple(order[k::count]) for k in range(count)]
                for number, group in enumerate(groups, start=1):
                    name = f"videos/{domain}/G{gallery}-{chr(97 + session)}{number:02d}"
                    deep = domain.band.is_thermal and session % 2 == 0
                    yield Cast(
                        name, domain, gallery, group, preset.frames, deep, False, session == 0, sighting, preset.away
                    )
                    sighting += len(group)
            for number in range(1, preset.crowds + 1):
                generator = np.random.default_rng(seed_of(seed, "crowd", domain, gallery, number))
                chosen = generator.permutation(len(ids))[: preset.crowd]
                crowd = tuple(ids[i] for i in chosen)
                name = f"videos/{domain}/G{gallery}-crowd{number:02d}"
                deep = domain.band.is_thermal and number % 2 == 0
                yield Cast(name, domain, gallery, crowd, preset.crowd_frames, deep, True, False, sighting, preset.away)
                sighting += len(crowd)
