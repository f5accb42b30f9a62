"""Made-up face tables for the ijb reader, and what it read of them in plain rows; where its real inputs lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.config import validate
from mdfpipe.datasets import Dataset, Listing
from mdfpipe.store.tables import FACES

ASSETS = Path(os.environ.get("MDFPIPE_TEST_ASSETS") or Path(__file__).parents[3] / "shared/assets")
IJBC = "SUBJECT_ID,FILENAME,SIGHTING_ID,FRAME_NUM,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"
GOOD = "1,videos/a.mp4,1,0,1,2,3,4"

Root = Callable[..., Path]


def reader(**settings: Any) -> Dataset:
    return validate(Dataset, {"use": "ijb", "domain": {"constant": "VIS"}, **settings}, "index.dataset")


def ijbc(*rows: str) -> str:
    return "\n".join([IJBC, *rows]) + "\n"


def boxes(listing: Listing, video: str = "videos/a") -> list[tuple[Any, ...]]:
    table = listing.faces[video]
    assert table.schema.equals(FACES, check_metadata=True)
    table.validate(full=True)
    assert set(table["video_id"].to_pylist()) == {video}
    columns = [table[n].to_pylist() for n in ("frame", "face_no", "subject_id", "x1", "y1", "x2", "y2")]
    return list(zip(*columns, strict=True))


def kinds(listing: Listing) -> dict[str, int]:
    assert all(a.example.isprintable() and len(a.example) <= 300 for a in listing.anomalies)
    return {a.kind: a.count for a in listing.anomalies}


def domains(listing: Listing) -> dict[str, str]:
    return {v.video_id.removeprefix("videos/"): str(v.domain) for v in listing.videos}


def frames(home: Path, folder: str, names: list[str]) -> None:
    (home / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (home / folder / name).touch()


def needs(folder: str) -> Path:
    path = ASSETS / folder
    if not path.exists():
        pytest.skip(f"{path} is absent: set MDFPIPE_TEST_ASSETS to the folder of real inputs")
    return path
