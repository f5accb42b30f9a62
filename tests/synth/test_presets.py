"""Who walks in which video: every subject in every domain, no subject in both galleries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from mdfpipe.domains import Band, Domain, by_wavelength
from mdfpipe.errors import DataError
from mdfpipe.synth.presets import DOMAINS, GALLERIES, PRESETS, casts, seed_of, subject_ids


@pytest.mark.parametrize("name", ["tiny", "demo", "study", "away"])
def test_each_subject_walks_once_in_each_session_of_each_domain(name: str) -> None:
    preset = PRESETS[name]
    videos = list(casts(preset, seed=3))
    walked = Counter((c.domain, s, c.name.rsplit("-", 1)[1][0]) for c in videos if not c.crowded for s in c.subjects)
    assert set(walked.values()) == {1}
    assert len(walked) == len(DOMAINS) * len(GALLERIES) * preset.subjects * preset.sessions
    assert len({c.name for c in videos}) == len(videos)
    assert all(len(set(c.subjects)) == len(c.subjects) for c in videos)


def test_the_galleries_share_nobody() -> None:
    for cast in casts(PRESETS["demo"], seed=0):
        assert set(cast.subjects) <= set(subject_ids(cast.gallery, 24))
    assert not set(subject_ids(1, 9999)) & set(subject_ids(2, 9999))


def test_the_demo_has_the_size_it_is_meant_to_have() -> None:
    frames = sum(c.frames for c in casts(PRESETS["demo"], seed=0))
    assert 1400 <= frames <= 1600
    assert any(c.crowded for c in casts(PRESETS["demo"], seed=0))


def test_only_thermal_videos_are_deep_and_half_of_those_are() -> None:
    deep = Counter((c.domain.band, c.deep) for c in casts(PRESETS["study"], seed=0))
    assert deep[Band.VIS, True] == deep[Band.SWIR, True] == 0
    assert deep[Band.MWIR, True] == deep[Band.MWIR, False] > 0


def test_another_seed_draws_other_groups_and_the_same_seed_the_same() -> None:
    assert list(casts(PRESETS["demo"], 1)) == list(casts(PRESETS["demo"], 1))
    assert [c.subjects for c in casts(PRESETS["demo"], 1)] != [c.subjects for c in casts(PRESETS["demo"], 2)]
    assert seed_of(1, "a", "b") != seed_of(1, "a", "c")


def test_sightings_are_numbered_without_gap() -> None:
    number = 1
    for cast in casts(PRESETS["demo"], 0):
        assert cast.sighting == number
        number += len(cast.subjects)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        *((lambda w=wrong: Domain.parse(w), "domain: expected <BAND> or ") for wrong in (None, 5, b"VIS")),
        (lambda: Domain("nope", 5), "domain: expected a band of VIS, .* got 'nope'"),
        (lambda: Domain("VIS", -5), "domain: expected a range of 0 to 999999 m, or None, got -5"),
        (lambda: Domain("VIS", "30"), "domain: expected a range of .* got '30'"),
        (lambda: Domain.parse(f"VIS-{'9' * 400}m"), "domain: expected a range of 0 to 999999 m, or None, got inf"),
        (lambda: Domain("VIS").may_be("nope"), "domain: expected <BAND> or .* got 'nope'"),
    ],
)
def test_what_is_no_domain_is_one_line(given: Callable[[], object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        given()


def test_a_domain_is_the_same_however_it_is_made() -> None:
    made = Domain("VIS", 30)  # type: ignore[arg-type]
    assert (made, repr(made), hash(made)) == (parsed := Domain.parse("VIS-30m"), "Domain('VIS-30m')", hash(parsed))
    assert Domain.parse(parsed) is parsed
    assert Domain.parse("VIS").may_be("VIS-30m")
    names = ["LWIR-30m", "VIS", "VIS-0m", "VIS-30m", "SWIR", "VIS-500m"]
    wanted = ["VIS-500m", "VIS-30m", "VIS-0m", "VIS", "SWIR", "LWIR-30m"]
    assert [str(domain) for domain in sorted(map(Domain.parse, names))] == wanted
    assert sorted(names, key=by_wavelength) == wanted
