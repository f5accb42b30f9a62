"""How large a synthetic data set is, and who walks with whom in which video."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
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
    scale: of the frames, 1 = 640x360 in VIS and SWIR, 256x144 in MWIR and LWIR.
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


PRESETS = {
    "tiny": Preset(subjects=4, sessions=2, frames=6, crowds=0),
    "demo": Preset(subjects=24, sessions=2, frames=11),
    "study": Preset(subjects=100, sessions=4, frames=10, crowds=4, crowd_frames=12),
    "bench": Preset(subjects=6, sessions=1, frames=900, group=6, crowds=0, fps=25, scale=2),
}


@dataclass(frozen=True)
class Cast:
    """One video before it is drawn. deep: in 16 bits (thermal only). facing: all come towards the camera (the first
    session, so that every subject shows a face in every domain). sighting: number of its first person."""

    name: str  # path under the data root, without suffix
    domain: Domain
    gallery: int
    subjects: tuple[str, ...]
    frames: int
    deep: bool
    crowded: bool
    facing: bool
    sighting: int


def subject_ids(gallery: int, count: int) -> list[str]:
    """The subjects of a gallery: the first digit says which.

    >>> subject_ids(2, 2)
    ['20001', '20002']
    """
    return [f"{gallery}{number:04d}" for number in range(1, count + 1)]


def seed_of(seed: int, *names: object) -> list[int]:
    """A sequence of integers of its own for whatever is named, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return [seed, *np.frombuffer(digest[:16], "<u4").tolist()]


def casts(preset: Preset, seed: int) -> Iterator[Cast]:
    """Every video of a data set. Each subject walks once in each session of each domain; groups are drawn anew."""
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
                    yield Cast(name, domain, gallery, group, preset.frames, deep, False, session == 0, sighting)
                    sighting += len(group)
            for number in range(1, preset.crowds + 1):
                generator = np.random.default_rng(seed_of(seed, "crowd", domain, gallery, number))
                chosen = generator.permutation(len(ids))[: preset.crowd]
                crowd = tuple(ids[i] for i in chosen)
                name = f"videos/{domain}/G{gallery}-crowd{number:02d}"
                deep = domain.band.is_thermal and number % 2 == 0
                yield Cast(name, domain, gallery, crowd, preset.crowd_frames, deep, True, False, sighting)
                sighting += len(crowd)
