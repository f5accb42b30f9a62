"""Small run folders of crops: a pattern for each subject, a tone for each domain."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from mdfpipe.store.run import Receipt, Run
from mdfpipe.store.shards import ShardWriter
from mdfpipe.store.tables import MANIFEST

DOMAINS = ("VIS-500m", "SWIR-30m", "MWIR-30m")


def picture(subject: int, domain: int, clip: int, frame: int, height: int = 64, width: int = 32) -> np.ndarray:
    """(height, width, 3) uint8: stripes whose rhythm is the subject's, in the domain's tone, with noise of its own."""
    generator = np.random.default_rng([subject, domain, clip, frame])
    y, x = np.mgrid[0:height, 0:width]
    wave = np.sin(y * (0.15 + 0.07 * subject) + 0.3 * clip) * np.cos(x * (0.1 + 0.05 * (subject % 5)))
    sign = -1 if domain == 2 else 1
    tone = np.array([90 + 30 * domain, 120, 150 - 30 * domain])
    values = tone + sign * 70 * wave[..., None] + generator.normal(0, 8, (height, width, 3))
    return np.clip(values, 0, 255).astype(np.uint8)


def write_run(
    folder: Path,
    subjects: int = 6,
    domains: tuple[str, ...] = DOMAINS,
    clips: int = 2,
    frames: int = 2,
    *,
    modality: str = "body",
    lacking: dict[int, set[str]] | None = None,
    first: int = 1,
    size: tuple[int, int] = (64, 32),
    damaged: int = 0,
) -> Run:
    """A run folder with a manifest of training crops. lacking: subject -> domains it has no crop in; damaged: so many
    crops, from the first on, whose bytes are no image.
    """
    run = Run(folder)
    rows = []
    for number, domain in enumerate(domains):
        for subject in range(first, first + subjects):
            if domain in (lacking or {}).get(subject, set()):
                continue
            for clip in range(clips):
                video = f"videos/{domain}/{subject}-{clip}"
                shard = f"crop/{video.replace('/', '__')}.{modality}.tar"
                path = folder / shard
                path.parent.mkdir(parents=True, exist_ok=True)
                with ShardWriter(path) as writer:
                    for frame in range(frames):
                        image = picture(subject, number, clip, frame, *size)
                        data = cv2.imencode(".jpg", image)[1].tobytes()
                        if len(rows) < damaged:
                            data = b"no image at all" * 9
                        place = writer.add(f"{video}/{frame:06d}/00", "jpg", data)
                        rows.append(
                            {
                                "crop_id": f"{video}/{frame:06d}/00",
                                "subject_id": f"{subject:04d}",
                                "domain": domain,
                                "band": domain.partition("-")[0],
                                "modality": modality,
                                "video_id": video,
                                "frame": frame,
                                "x1": 0.0,
                                "y1": 0.0,
                                "x2": float(size[1]),
                                "y2": float(size[0]),
                                "split": "train",
                                "role": "none",
                                "shard": shard,
                                **place._asdict(),
                                "codec": "jpeg",
                                "box_height_px": float(size[0]),
                            }
                        )
    columns = []
    for field in MANIFEST:
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        values = pa.array([row.get(field.name) for row in rows], plain)
        columns.append(values.dictionary_encode().cast(field.type) if plain != field.type else values)
    run.commit(Receipt("manifest", 1, "manifest", {"made": subjects}, {}), pa.table(columns, schema=MANIFEST), {})
    return run
