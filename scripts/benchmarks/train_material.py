"""Crops for the benchmarks of the learning wing: rendered people in one shard, as many rows of them as are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DOMAINS = ("VIS-500m", "SWIR-30m", "MWIR-30m", "LWIR-30m")
VIDEOS = 3  # of each subject and domain
DRAWN = 8  # subjects that are rendered, 12 pictures each


def pictures(shard: Path, modality: str, drawn: int = DRAWN) -> list[tuple[int, int]]:
    """Write the crops of some rendered people to a tar, as the crop stage stores them (bodies 384x128, faces 112x112,
    JPEG); gives (offset, size) of each. A face is the upper third of a body: as large a file as any.
    """
    from mdfpipe.store.run import Run
    from mdfpipe.store.shards import ShardWriter, read_crop
    from mdfpipe.synth.crops import write_crops
    from mdfpipe.synthesis import cut_out

    folder = shard.with_suffix("")
    write_crops(folder, drawn, cut=cut_out)
    rows = Run(folder).table("manifest", "manifest").to_pylist()
    found = []
    with ShardWriter(shard) as writer:
        for row in rows:
            data = read_crop(folder / row["shard"], row["offset"], row["size"])
            found.append(writer.add(row["crop_id"], "jpg", data if modality == "body" else _head(data)))
    return found


def _head(body: bytes) -> bytes:
    import cv2
    import numpy as np

    from mdfpipe.video import cropping

    image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    return bytes(cropping.encode(cropping.resize(np.ascontiguousarray(image[:128]), 112, 112))[0])


def crops_of(shard: Path, places: list[tuple[int, int]], count: int, subjects: int) -> Any:
    """`Crops` of `count` rows over these pictures, again and again: subjects and domains in turn."""
    import numpy as np
    import pyarrow as pa

    from mdfpipe.learning.crops import EIGHT_BITS, Crops

    row = np.arange(count)
    subject, domain = row % subjects, row // subjects % len(DOMAINS)
    cell = subject * len(DOMAINS) + domain
    video = cell * VIDEOS + row // (subjects * len(DOMAINS)) % VIDEOS
    place = np.array(places, np.int64)[row % len(places)]
    return Crops(
        crop_id=pa.array([f"{n:09d}" for n in range(count)], pa.string()),
        subject=subject,
        domain=domain,
        video=video,
        shard=np.zeros(count, np.int64),
        offset=np.ascontiguousarray(place[:, 0]),
        size=np.ascontiguousarray(place[:, 1]),
        source=np.zeros(count, np.int64),
        window=np.tile(np.array(EIGHT_BITS, np.float32), (count, 1)),
        subjects=tuple(f"{n:06d}" for n in range(subjects)),
        domains=DOMAINS,
        videos=tuple(f"{n:09d}" for n in range(subjects * len(DOMAINS) * VIDEOS)),
        shards=(shard,),
    )
