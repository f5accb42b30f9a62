"""The reader of folders: what paths say, what it refuses, and what it remarks on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdfpipe.datasets import Listing
from mdfpipe.datasets.folders import Folders
from mdfpipe.errors import DataError


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def read(root: Path, **settings: Any) -> Listing:
    return Folders(**({"domain": {"constant": "VIS"}} | settings)).read(root)


def told(listing: Listing) -> dict[str, tuple[str | None, ...]]:
    return {v.video_id: (v.subject_id, str(v.domain), v.session_id, v.camera_id) for v in listing.videos}


def test_a_pattern_names_subject_domain_session_and_camera(tmp_path: Path) -> None:
    make(
        tmp_path, "anna/VIS-5m/day1_c2.mp4", "anna/VIS-5m/notes.txt", "bo/ir/day2_c.1/0001.png", "bo/ir/day2_c.1/2.png"
    )
    found = read(tmp_path, folders="{subject}/{domain}/{session}_{camera}", domain=None, domains={"ir": "LWIR-30m"})
    assert told(found) == {
        "anna/VIS-5m/day1_c2": ("anna", "VIS-5m", "day1", "c2"),
        "bo/ir/day2_c.1": ("bo", "LWIR-30m", "day2", "c.1"),
    }
    assert found.remarks == []  # neither of a text beside the videos nor of the frames of one


@pytest.mark.parametrize(
    ("folders", "path", "expected"),
    [
        ("{subject}/*", "anna/a/b/c.mp4", ("anna", "VIS", None, None)),
        ("{subject}/*", "a.mp4", (None, "VIS", None, None)),
        ("{subject}-*-{camera}", "001-nm-01.avi", ("001", "VIS", None, "01")),
        ("set/*/{subject}", "set/x/7/clip.mp4", ("7", "VIS", None, None)),
        ("{subject}-x", "a/b-x/c.mp4", (None, "VIS", None, None)),
        ("*", "anna/c.mp4", (None, "VIS", None, None)),
    ],
)
def test_how_a_pattern_matches(tmp_path: Path, folders: str, path: str, expected: tuple[str | None, ...]) -> None:
    assert list(told(read(make(tmp_path, path), folders=folders)).values()) == [expected]


def test_band_and_range(tmp_path: Path) -> None:
    make(tmp_path, "swir_30m/a/x.mp4")
    found = read(tmp_path, folders="{band}_{range}/{subject}", domain=None)
    assert told(found)["swir_30m/a/x"][:2] == ("a", "SWIR-30m")


def test_what_it_remarks_on(tmp_path: Path) -> None:
    make(tmp_path, "Anna/a.mp4", "anna/b.mp4", "anna/thumb.png", "unknown/c.mp4", "NA/d.mp4", "e.mp4")
    found = read(tmp_path)
    assert [v.video_id for v in found.videos] == ["Anna/a", "NA/d", "anna/b", "e", "unknown/c"]
    assert [line.split(";")[0][:70] for line in found.remarks] == [
        "2 of 5 videos have no subject by dataset.folders '{subject}/*' (NA/d.m",
        "subjects_alike: 'Anna' and 'anna' are taken as different people",
        "'unknown' is taken as a person's name",
        "1 folder holds videos and pictures (anna): their pictures are passed o",
        "videos: **/* passes over anna/thumb.png: single pictures are no videos",
    ]
    kept = read(tmp_path, subject_names_kept=["NA"], subject_names_missing=["unknown"])
    assert [v.subject_id for v in kept.videos] == ["Anna", "NA", "anna", None, None]


def test_frames_of_a_folder_are_no_films_by_their_first_bytes(tmp_path: Path) -> None:
    """A PNG begins as an APNG does."""
    make(tmp_path, "anna/walk/0.png", "anna/walk/1.png")
    for frame in (tmp_path / "anna" / "walk").iterdir():
        frame.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(99))
    assert read(tmp_path).remarks == []


def test_leave_out_by_domain_and_path(tmp_path: Path) -> None:
    make(tmp_path, "a/VIS/x.mp4", "a/NIR/x.mp4", "b/VIS/x.mp4")
    settings: dict[str, Any] = {"folders": "{subject}/{domain}", "domain": None}
    found = read(tmp_path, **settings, leave_out={"domains": ["NIR"], "paths": ["b"]})
    assert [v.video_id for v in found.videos] == ["a/VIS/x"]
    with pytest.raises(DataError, match="leaves no video"):
        read(tmp_path, **settings, leave_out={"paths": ["*"]})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"folders": "{person}/*"}, r"expected \{subject\}, .* got \{person\}"),
        ({"folders": "{subject}/{subject}"}, "got one of them twice"),
        ({"folders": "../{subject}"}, "folders"),
        ({"folders": "{domain}/{band}", "domain": None}, "got both"),
        ({"folders": "{domain}/*"}, "got both"),
        ({"domain": None}, "got neither"),
        ({"domain": {"column": "d"}}, "there are no tables"),
        ({"domains": {"a": "VIS"}}, "a rule has `domain.map`"),
        ({"videos": ["/x"]}, "videos"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(tmp_path, **settings)


def test_a_domain_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"domain: 1 of 1 videos have no domain, the first is a/x/v\.mp4 \(.*'x'"):
        read(make(tmp_path, "a/x/v.mp4"), folders="{subject}/{domain}", domain=None)


@pytest.mark.parametrize("videos", [["**/*"], ["bo/x.mp4"]])
def test_a_link_that_leads_out_is_refused_unless_it_is_allowed(tmp_path: Path, videos: list[str]) -> None:
    make(tmp_path, "data/anna/a.mp4", "elsewhere/x.mp4")
    (tmp_path / "data/bo").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"bo/x\.mp4 is a symlink to .* outside the data root"):
        read(tmp_path / "data", videos=videos)
    assert told(read(tmp_path / "data", videos=videos, links="follow"))["bo/x"][0] == "bo"
