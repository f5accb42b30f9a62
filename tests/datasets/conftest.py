"""What the tests of the ijb reader share: a data root to write tables in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datasets.made_ijb import Root


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Writes files under a data root: name -> text or bytes; `None` makes an empty file."""

    def write(**files: str | bytes | None) -> Path:
        home = tmp_path / "data"
        for name, content in files.items():
            path = home / name.replace("__", "/").replace("_csv", ".csv").replace("_tsv", ".tsv")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content or b"")
        (home / "videos").mkdir(parents=True, exist_ok=True)
        for video in ("a.mp4", "b.mp4"):
            (home / "videos" / video).touch()
        return home

    return write
