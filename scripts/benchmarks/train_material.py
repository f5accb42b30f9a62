"""Crops for the benchmarks of the learning wing: textures in one shard, as many rows of them as are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdfpipe.store.shards import Place

DOMAINS = ("VIS-500m", "SWIR-30m", "MWIR-30m", "LWIR-30m")
VIDEOS = 3  # of each subject and domain
SIZES = {"body": (384, 128), "face": (112, 112)}  # as the crop stage stores them
GRAIN = 1.5  # noise with which a body's JPEG has the 24 kB that a rendered person's has


def pictures(shard: Path, size: tuple[int, int], count: int = 96) -> list[Place]:
    """Write so many pictures of (height, width) to a tar, as the crop stage stores them; gives the place of each:
    soft colours with a grain, JPEG at quality 95.
    """
    import cv2
    import numpy as np

    from mdfpipe.store import images
    from mdfpipe.store.shards import ShardWriter

    height, width = size
    generator, found = np.random.default_rng(0), []
    with ShardWriter(shard) as writer:
        for number in range(count):
            coarse = generator.uniform(20, 235, (height // 16 + 1, width // 16 + 1, 3)).astype(np.float32)
            soft = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
            grain = generator.normal(0, GRAIN, (height, width, 1))
            data, _ = images.encode(np.clip(soft + grain, 0, 255).astype(np.uint8))
            found.append(writer.add(f"{number:06d}", "jpg", data))
    return found


def crops_of(shard: Path, places: list[Place], count: int, subjects: int, domains: tuple[str, ...] = DOMAINS) -> Any:
    """`Crops` of `count` rows over these pictures, again and again: subjects and domains in turn, a camera a video of
    each.
    """
    import numpy as np
    import pyarrow as pa

    from mdfpipe.learning.data.crops import Crops
    from mdfpipe.store.images import EIGHT_BITS

    row = np.arange(count)
    subject, domain = row % subjects, row // subjects % len(domains)
    cell = subject * len(domains) + domain
    videos = tuple(f"{n:09d}" for n in range(subjects * len(domains) * VIDEOS))
    place = np.array(places, np.int64)[row % len(places)]
    return Crops(
        crop_id=pa.array([f"{n:09d}" for n in range(count)], pa.string()),
        subject=subject,
        domain=domain,
        video=cell * VIDEOS + row // (subjects * len(domains)) % VIDEOS,
        shard=np.zeros(count, np.int64),
        offset=np.ascontiguousarray(place[:, 0]),
        size=np.ascontiguousarray(place[:, 1]),
        crc32=np.ascontiguousarray(place[:, 2]),
        source=np.zeros(count, np.int64),
        window=np.tile(np.array(EIGHT_BITS, np.float32), (count, 1)),
        subjects=tuple(f"{n:06d}" for n in range(subjects)),
        domains=domains,
        videos=videos,
        shards=(shard,),
        camera={video: f"c{n % VIDEOS}" for n, video in enumerate(videos)},
    )
