"""Tables of a study on made-up vectors: by hand, refused protocols, fusion, thirds, galleries apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError, ProtocolError
from mdfpipe.evaluation.comparing import Entries
from mdfpipe.evaluation.measures.closed_set import closed_set
from mdfpipe.evaluation.measures.intervals import mcnemar, wilson
from mdfpipe.evaluation.search import search
from mdfpipe.evaluation.study import evaluate
from mdfpipe.evaluation.table import Table
from mdfpipe.evaluation.vectors import Evaluated, SystemVectors
from mdfpipe.protocol import Protocol
from mdfpipe.store.templates import unit

PROTOCOL = Protocol(name="p", gallery_domains=["VIS-500m"], probe_domains=["SWIR-30m", "LWIR-30m"], unlisted="test")
GALLERY, PROBES = "VIS-500m", ("SWIR-30m", "LWIR-30m")


def rows_of(
    subjects: Iterable[str],
    domains: Iterable[str],
    modalities: Iterable[str] = ("body",),
    crops: int = 2,
    split: str = "test",
) -> list[dict[str, Any]]:
    """`crops` crops of each subject in one video of each domain."""
    return [
        {
            "crop_id": f"{domain}/{subject}/{n:06d}/{'f' if modality == 'face' else ''}00",
            "subject_id": subject,
            "domain": domain,
            "modality": modality,
            "video_id": f"{domain}/{subject}",
            "session_id": "s",
            "frame": n,
            "split": split,
            "role": "none" if split != "test" else "gallery" if domain == GALLERY else "probe",
            "template_id": None,
            "box_height_px": 50.0,
        }
        for modality in modalities
        for domain in domains
        for subject in subjects
        for n in range(crops)
    ]


def system(
    name: str, rows: list[dict[str, Any]], vectors: dict[str, Any] | None = None, *, noise: float = 0.3, **more: Any
) -> SystemVectors:
    """Vectors near a direction of each subject's own; or those of `vectors`, by crop_id (None: there is none)."""
    table = pa.Table.from_pylist(rows)
    people = sorted(set(table["subject_id"].to_pylist()))
    generator = np.random.default_rng(len(name))
    made = np.eye(len(people) + 1, dtype=np.float32)[[people.index(r["subject_id"]) for r in rows]]
    made = made + noise * generator.standard_normal(made.shape).astype(np.float32)
    usable = np.ones(len(rows), bool)
    for n, row in enumerate(rows):
        if vectors is not None and row["crop_id"] in vectors:
            given = vectors[row["crop_id"]]
            usable[n] = given is not None
            if given is not None:
                made[n] = given
    modality = more.pop("modality", rows[0]["modality"])
    return SystemVectors(name, modality, "cosine", table, usable, lambda: iter([made[:3], made[3:]]), **more)


def done(tables: dict[str, Any], systems: list[SystemVectors], rows: list[dict[str, Any]], **more: Any) -> Evaluated:
    made = {name: validate(Table, settings, name) for name, settings in tables.items()}
    return evaluate(made, systems, pa.Table.from_pylist(rows), more.pop("protocol", PROTOCOL), **more)


def number(found: Evaluated, metric: str = "rank-1", **wanted: Any) -> dict[str, Any]:
    (row,) = [
        r for r in found.metrics if r["metric"] == metric and all(r[name] == value for name, value in wanted.items())
    ]
    return row


PEOPLE = [f"P{n}" for n in range(12)]
ROWS = rows_of(PEOPLE, (GALLERY, *PROBES))


# -- the numbers


def test_numbers_are_those_of_the_library_on_templates_made_by_hand() -> None:
    body = system("a", ROWS, noise=0.8)
    found = done({"t": {}}, [body], ROWS)
    vectors = np.concatenate(list(body.blocks()))
    for domain in PROBES:
        sides = []
        for side in (GALLERY, domain):
            mean = [
                np.mean([vectors[n] for n, r in enumerate(ROWS) if (r["subject_id"], r["domain"]) == (p, side)], axis=0)
                for p in sorted(PEOPLE)
            ]
            sides.append(np.array(mean, np.float32))
        ranking = search(Entries("gallery", sorted(PEOPLE), sides[0]), Entries("probes", sorted(PEOPLE), sides[1]))
        for metric in closed_set(ranking):
            row = number(found, metric.name, probe_domain=domain)
            assert (row["value"], row["k"], row["n"]) == (pytest.approx(metric.value), metric.k, metric.n)
        row = number(found, probe_domain=domain)
        assert (row["low"], row["high"], row["interval"]) == (*wilson(row["k"], 12), "wilson")
        assert row["chance"] == 1 / 12
        scores = unit(sides[1]) @ unit(sides[0]).T
        same = np.eye(12, dtype=bool)
        pairs = np.sign(scores[same][:, None] - scores[~same][None])
        assert number(found, "auc", probe_domain=domain)["value"] == pytest.approx((pairs.mean() + 1) / 2, abs=1e-6)
    ranks = [number(found, probe_domain=domain)["k"] for domain in PROBES]
    pooled = number(found, probe_domain="pooled")
    assert (pooled["k"], pooled["n"], pooled["interval"]) == (sum(ranks), 24, "bootstrap")
    assert pooled["low"] <= pooled["value"] <= pooled["high"]
    statuses = {(r["probe_domain"], r["rank"]) for r in found.searches}
    assert sum(rank == 1 for _, rank in [(r["probe_domain"], r["rank"]) for r in found.searches]) == sum(ranks)
    assert len(statuses) > 2
    cmc = [r for r in found.curves if r["curve"] == "cmc" and r["probe_domain"] == PROBES[0]]
    assert cmc[0]["y"] == ranks[0] / 12
    assert cmc[-1]["y"] == 1


def test_two_systems_are_compared_on_the_same_probes() -> None:
    good, bad = system("good", ROWS, noise=0.1), system("bad", ROWS, noise=3.0)
    found = done({"t": {"metrics": ["rank-1", "map"]}}, [good, bad], ROWS)
    for domain in PROBES:
        of = {(r["first"], r["metric"]): r for r in found.comparisons if r["probe_domain"] == domain}
        hits = {
            s: [r["rank"] == 1 for r in found.searches if r["system"] == s and r["probe_domain"] == domain]
            for s in ("good", "bad")
        }
        test = mcnemar(hits["good"], hits["bad"])
        row = of["good", "rank-1"]
        assert (row["p"], row["test"], row["n"], row["first_only"]) == (test.p, "mcnemar", 12, test.first_only)
        assert row["significant"] == (test.p < 0.05)
        row = of["good", "map"]
        assert row["difference"] == pytest.approx(row["first_value"] - row["second_value"])
        assert row["test"] == "bootstrap"
        assert row["significant"]


def test_verification_and_open_set_are_compared_with_the_first_system() -> None:
    rows = [r for r in ROWS if not (r["subject_id"] in ("P3", "P7") and r["domain"] == GALLERY)]
    systems = [system("good", rows, noise=0.1), system("bad", rows, noise=3.0), system("worse", rows, noise=9.0)]
    wanted = ["auc", "tar@far=1e-1", "eer", "fnir@fpir=0.5"]
    found = done({"t": {"metrics": wanted, "unmated": "exclude"}}, systems, rows)
    pairs = {(c["first"], c["second"], c["metric"]): c for c in found.comparisons if c["probe_domain"] == "SWIR-30m"}
    assert set(pairs) == {("good", other, metric) for other in ("bad", "worse") for metric in wanted}
    for (first, second, metric), row in pairs.items():
        values = [number(found, metric, probe_domain="SWIR-30m", system=s)["value"] for s in (first, second)]
        assert [row["first_value"], row["second_value"]] == values
        assert row["difference"] == pytest.approx(values[0] - values[1])
        assert row["low"] <= row["difference"] <= row["high"]
    assert pairs["good", "worse", "auc"]["significant"]
    same = [
        system("one", rows, noise=0.5),
        SystemVectors("two", **{n: v for n, v in vars(system("one", rows, noise=0.5)).items() if n != "name"}),
    ]
    again = done({"t": {"metrics": wanted, "unmated": "exclude"}}, same, rows)
    assert {(c["difference"], c["p"], c["significant"]) for c in again.comparisons} == {(0.0, 1.0, False)}


def test_more_pairs_than_can_be_held_are_verified_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers, without the intervals that would need all scores at once."""
    settings = {"t": {"metrics": ["rank-1", "auc", "tar@far=1e-1", "eer", "rocch-eer"]}}
    held = done(settings, [system("a", ROWS, noise=1.0), system("b", ROWS, noise=2.0)], ROWS)
    monkeypatch.setattr("mdfpipe.evaluation.case.MOST_PAIRS", 100)
    found = done(settings, [system("a", ROWS, noise=1.0), system("b", ROWS, noise=2.0)], ROWS)
    assert len(found.metrics) == len(held.metrics)
    for one, other in zip(found.metrics, held.metrics, strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=1e-12)
        assert (one["k"], one["n"]) == (other["k"], other["n"])
        assert (one["low"] is None) == (one["metric"] != "rank-1")
    assert {c["metric"] for c in held.comparisons} - {c["metric"] for c in found.comparisons} == {
        "auc",
        "tar@far=1e-1",
        "eer",
        "rocch-eer",
    }
    assert [r["y"] for r in found.curves] == [r["y"] for r in held.curves]


def test_nothing_depends_on_the_order_of_rows() -> None:
    first = done({"t": {}}, [system("a", ROWS)], ROWS)
    body = system("a", ROWS)
    vectors = np.concatenate(list(body.blocks()))
    order = np.random.default_rng(0).permutation(len(ROWS))
    shuffled = SystemVectors("a", "body", "cosine", body.rows.take(order), body.usable, lambda: iter([vectors[order]]))
    second = done({"t": {}}, [shuffled], [ROWS[n] for n in order])
    assert first.metrics == second.metrics
    assert first.searches == second.searches


# -- who is missing


def test_a_failure_to_enrol_is_a_miss_or_left_out_everywhere() -> None:
    """P0 has no usable body vector in SWIR, and P1 none in the gallery; P2 is seen by face only."""
    lost = {f"SWIR-30m/P0/{n:06d}/00": None for n in range(2)} | {f"VIS-500m/P1/{n:06d}/00": None for n in range(2)}
    faces = rows_of(["P2"], PROBES[:1], ["face"])
    rows = [r for r in ROWS if not (r["subject_id"] == "P2" and r["domain"] == "SWIR-30m")]
    perfect = system("a", rows, lost, noise=0.0)
    found = done({"t": {}}, [perfect], [*rows, *faces])
    row = number(found, probe_domain="SWIR-30m")
    assert (row["k"], row["n"], row["failed_probes"], row["failed_gallery"]) == (9, 12, 2, 1)
    statuses = {r["subject_id"]: r["status"] for r in found.searches if r["probe_domain"] == "SWIR-30m"}
    assert (statuses["P0"], statuses["P1"], statuses["P2"], statuses["P3"]) == (
        "no_probe",
        "no_mate",
        "no_probe",
        "searched",
    )
    other = system("b", rows, noise=0.0)
    found = done({"t": {"failure": "exclude"}}, [perfect, other], [*rows, *faces])
    for name, left_out in (("a", 0), ("b", 2)):
        row = number(found, probe_domain="SWIR-30m", system=name)
        assert (row["k"], row["n"], row["n_left_out"]) == (9, 9, left_out)
    apart = done({"t": {"failure": "exclude", "same_probes": False}}, [perfect, other], [*rows, *faces])
    assert number(apart, probe_domain="SWIR-30m", system="b")["n"] == 11


def test_a_system_without_a_number_is_named() -> None:
    """No face vector in LWIR is usable: the table says so, and the body's number stands."""
    rows = rows_of(PEOPLE, (GALLERY, *PROBES), ["body", "face"])
    own = {m: [r for r in rows if r["modality"] == m] for m in ("body", "face")}
    lost = {r["crop_id"]: None for r in own["face"] if r["domain"] == "LWIR-30m"}
    found = done({"t": {}}, [system("body", own["body"]), system("face", own["face"], lost)], rows)
    notes = found.tables["t"]["notes"]
    assert notes == ["VIS-500m > LWIR-30m: face has no number: it has no probe and mate to compare"]
    assert number(found, probe_domain="LWIR-30m", system="body")["n"] == 12


@pytest.mark.parametrize("lost", ["all of a system", "other people of each"])
def test_where_no_probe_is_common_no_system_has_a_number(lost: str) -> None:
    """Under `failure: exclude`: a pair of domains that one system lacks, or in which systems have different people."""
    rows = rows_of(PEOPLE, (GALLERY, *PROBES), ["body", "face"])
    without = {"face": PEOPLE, "body": []} if lost == "all of a system" else {"face": PEOPLE[:6], "body": PEOPLE[6:]}
    systems = []
    for name, who in without.items():
        own = [r for r in rows if r["modality"] == name]
        gone = {r["crop_id"]: None for r in own if r["domain"] == "LWIR-30m" and r["subject_id"] in who}
        systems.append(system(name, own, gone, noise=0.1))
    fused = {"fused": {"systems": ["body", "face"], "by": "feature"}}
    table = {"failure": "exclude", "metrics": ["rank-1"], "fusions": fused}
    found = done({"t": table}, systems, rows)
    assert {r["probe_domain"] for r in found.metrics} == {"SWIR-30m"}  # there is nothing to pool it with
    assert {r["n"] for r in found.metrics} == {12}
    (note,) = found.tables["t"]["notes"]
    why = "face, fused can compare none" if lost == "all of a system" else "fused can compare none"
    assert note == (
        f"VIS-500m > LWIR-30m: no system has a number, as no probe is common to all: {why}; same_probes: false scores "
        "each system on its own"
    )
    apart = done({"t": table | {"same_probes": False}}, systems, rows)
    counts = {r["system"]: r["n"] for r in apart.metrics if r["probe_domain"] == "LWIR-30m"}
    assert counts == ({"body": 12} if lost == "all of a system" else {"face": 6, "body": 6})
    none = done({"t": table | {"fusions": {}}}, systems[::-1], rows).tables["t"]["notes"]
    assert none == [note.replace(f": {why};", ": face can compare none;" if "face" in why else ";")]


def test_probes_without_a_mate_are_refused_excluded_or_missed() -> None:
    rows = [r for r in ROWS if not (r["subject_id"] in ("P3", "P7") and r["domain"] == GALLERY)]
    body = system("a", rows, noise=0.0)
    with pytest.raises(ProtocolError, match=r"table t: VIS-500m > SWIR-30m: 2 of 12 probes \(of P3, P7\) have no mate"):
        done({"t": {}}, [body], rows)
    row = number(done({"t": {"unmated": "exclude"}}, [body], rows), probe_domain="SWIR-30m")
    assert (row["k"], row["n"], row["n_unmated"]) == (10, 10, 2)
    row = number(done({"t": {"unmated": "miss"}}, [body], rows), probe_domain="SWIR-30m")
    assert (row["k"], row["n"]) == (10, 12)
    open_set = {"unmated": "exclude", "metrics": ["fnir@fpir=0.5", "dir@fpir=0.5"]}
    found = done({"t": open_set}, [body], rows)
    row = number(found, "fnir@fpir=0.5", probe_domain="SWIR-30m")
    assert (row["k"], row["n"], row["n_false"]) == (0, 10, 2)
    assert number(found, "dir@fpir=0.5", probe_domain="SWIR-30m")["k"] == 10
    assert {r["curve"] for r in found.curves} == {"cmc", "roc", "det"}


def test_galleries_apart_and_their_average() -> None:
    listed = {p: ["1" if n < 6 else "2"] for n, p in enumerate(PEOPLE)}
    settings = {"galleries": "apart", "metrics": ["rank-1", "fnir@fpir=0.1"]}
    found = done({"t": settings}, [system("a", ROWS, noise=0.5)], ROWS, galleries=listed)
    rows = [number(found, probe_domain="SWIR-30m", gallery=g) for g in ("1", "2")]
    assert [(r["n"], r["n_gallery"], r["n_unmated"]) for r in rows] == [(6, 6, 6), (6, 6, 6)]
    mean = number(found, probe_domain="SWIR-30m", gallery="average")
    assert (mean["value"], mean["n"]) == ((rows[0]["value"] + rows[1]["value"]) / 2, 12)
    assert number(found, "fnir@fpir=0.1", probe_domain="SWIR-30m", gallery="1")["n_false"] == 6


# -- which pairs


def test_every_domain_against_every_other() -> None:
    found = done({"t": {"pairs": "all", "metrics": ["rank-1"]}}, [system("a", ROWS)], ROWS)
    pairs = {(r["gallery_domain"], r["probe_domain"]) for r in found.metrics}
    names = (GALLERY, *PROBES)
    assert pairs == {(a, b) for a in names for b in names if a != b}


def in_sessions(crops: int = 2) -> list[dict[str, Any]]:
    """P0 to P7 in two or three sessions of VIS, two videos each; P8 to P11 in one. SWIR: one session each."""
    rows = []
    for n, subject in enumerate(PEOPLE):
        for session in range((2 + n % 2) if n < 8 else 1):
            for video in ("a", "b"):
                name = f"{GALLERY}/{subject}/s{session}{video}"
                rows += [
                    {**row, "video_id": name, "session_id": f"s{session}", "camera_id": video}
                    | {"crop_id": f"{name}/{row['crop_id']}"}
                    for row in rows_of([subject], [GALLERY], crops=crops)
                ]
    others = rows_of(PEOPLE, PROBES[:1], crops=crops)
    return [*rows, *({**row, "camera_id": "c", "session_id": f"s-{row['subject_id']}"} for row in others)]


def scalar_within(
    rows: list[dict[str, Any]], vectors: Any, apart: str, unit_of: str
) -> dict[tuple[str, str], tuple[int, float, float] | None]:
    """Rank, average precision and inverse penalty of each (subject, template) of VIS, one loop at a time."""
    where = [n for n, row in enumerate(rows) if row["domain"] == GALLERY]
    sums: dict[tuple[str, str], list[Any]] = {}
    session = {}
    for n in where:
        key = (rows[n]["subject_id"], rows[n][unit_of])
        sums.setdefault(key, []).append(vectors[n].astype(float))
        session[key] = rows[n][apart]
    means = {key: sum(v) / len(v) for key, v in sums.items()}
    found: dict[tuple[str, str], tuple[int, float, float] | None] = {}
    for probe, u in means.items():
        scores = []
        for key, v in means.items():
            if session[key] != session[probe]:
                scores.append((float(u @ v) / float((u @ u) ** 0.5 * (v @ v) ** 0.5), key[0] == probe[0]))
        scores.sort(key=lambda one: -one[0])
        places = [place for place, (_, same) in enumerate(scores, 1) if same]
        found[probe] = None
        if places:
            precision = sum((n + 1) / place for n, place in enumerate(places)) / len(places)
            found[probe] = places[0], precision, len(places) / places[-1]
    return found


@pytest.mark.parametrize(
    ("settings", "apart", "unit_of"),
    [
        ({}, "session_id", "session_id"),
        ({"apart": "video_id"}, "video_id", "video_id"),
        ({"apart": "camera_id"}, "camera_id", "camera_id"),
        ({"by": "sighting"}, "session_id", "video_id"),
        ({"by": "sighting", "sighting": "crop_id", "apart": "video_id"}, "video_id", "crop_id"),
    ],
)
def test_a_domain_is_searched_within_itself(settings: dict[str, Any], apart: str, unit_of: str) -> None:
    rows = in_sessions()
    body = system("a", rows, noise=0.9)
    found = done({"t": {"pairs": "within", "metrics": ["rank-1", "map", "minp", "auc"], **settings}}, [body], rows)
    wanted = scalar_within(rows, np.concatenate(list(body.blocks())), apart, unit_of)
    own = [r for r in found.searches if r["gallery_domain"] == GALLERY]
    assert {r["probe_domain"] for r in own} == {GALLERY}
    assert len(own) == len(wanted)
    for row in own:
        subject, _, item = row["template"].removesuffix("/test/gallery/body").partition(f"/{GALLERY}/")
        expected = wanted[subject, item]
        assert row["status"] == ("unmated" if expected is None else "searched")
        if expected is not None:
            assert (row["rank"], row["average_precision"]) == (expected[0], pytest.approx(expected[1]))
            assert row["inverse_penalty"] == pytest.approx(expected[2])
    line = number(found, gallery_domain=GALLERY)
    mated = [one for one in wanted.values() if one]
    assert (line["k"], line["n"]) == (sum(one[0] == 1 for one in mated), len(mated))
    assert (line["n_unmated"], line["unmated"]) == (len(wanted) - len(mated), "exclude")
    assert (line["rule"], line["templates"]) == (f"pairs of one {apart[:-3]}", unit_of.removesuffix("_id"))
    assert number(found, "map", gallery_domain=GALLERY)["value"] == pytest.approx(np.mean([one[1] for one in mated]))


def test_a_track_is_a_template_and_rows_of_no_track_are_counted() -> None:
    """Two tracks and a crop of no track in each video; faces have no track, and miss none of the bodies' tracks."""
    rows = rows_of(PEOPLE, (GALLERY, *PROBES), ("body", "face"), crops=5)
    rows = [r | {"track": (7, 7, 12, 12, None)[r["frame"]] if r["modality"] == "body" else None} for r in rows]
    by = [[r for r in rows if r["modality"] == one] for one in ("body", "face")]
    settings = {"by": "sighting", "sighting": "track", "metrics": ["rank-1"]}
    found = done({"t": settings}, [system("a", by[0]), system("f", by[1])], rows)
    body, face = (number(found, system=one, probe_domain=PROBES[0]) for one in ("a", "f"))
    assert (body["n"], body["n_gallery"], body["failed_probes"], body["templates"]) == (36, 36, 0, "track")
    assert (face["n"], face["n_gallery"], face["failed_probes"]) == (12, 12, 0)
    items = {r["template"].split("#")[1].split("/")[0] for r in found.searches if r["system"] == "a"}
    assert items == {"7", "12", ""}
    assert found.tables["t"]["notes"] == [
        "36 of 180 body rows are of no track: what a video has of them of a subject is one template, 36 in all",
        "180 of 180 face rows are of no track: what a video has of them of a subject is one template, 36 in all",
    ]
    apart = {"pairs": "within", "apart": "session_id", **settings}
    twice = [r | {"session_id": f"{n}", "video_id": f"{r['video_id']}/{n}"} for r in by[0] for n in range(2)]
    twice = [r | {"crop_id": f"{r['crop_id']}/{r['session_id']}"} for r in twice]
    within = number(done({"t": apart}, [system("a", twice)], twice), gallery_domain=GALLERY)
    assert (within["n"], within["n_unmated"], within["templates"]) == (72, 0, "track")
    without = [{**r, "track": None} for r in by[0]]
    for none in (without, ROWS):
        with pytest.raises(ProtocolError, match="table t: sighting: track: expected rows with a track, found none in"):
            done({"t": settings}, [system("a", none)], none)


def test_verification_within_a_domain_leaves_out_pairs_of_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = in_sessions()
    body, kept = system("a", rows, noise=0.9), []
    settings = {"pairs": "within", "metrics": ["auc", "eer", "fnir@fpir=0.5"], "splits": ["test"]}
    found = done({"t": settings}, [body], rows, keep=lambda *one: kept.append(one))
    searched = kept[0][3]
    scorer = searched.scorer
    names, people = scorer.gallery.item.tolist(), scorer.gallery.subject.tolist()
    u = unit(scorer.gallery.vectors).astype(float)
    pairs = [(i, j) for i in range(len(names)) for j in range(len(names)) if names[i] != names[j]]
    scores = {same: [u[i] @ u[j] for i, j in pairs if (people[i] == people[j]) is same] for same in (True, False)}
    wins = [(a > b) + (a == b) / 2 for a in scores[True] for b in scores[False]]
    row = number(found, "auc")
    assert (row["value"], row["n"]) == (pytest.approx(np.mean(wins), abs=1e-6), len(scores[True]))
    assert number(found, "fnir@fpir=0.5")["n_false"] == 4  # of P8 to P11
    monkeypatch.setattr("mdfpipe.evaluation.case.MOST_PAIRS", 10)
    blocks = done({"t": settings}, [body], rows)
    assert number(blocks, "auc")["value"] == pytest.approx(row["value"])


def test_fusion_within_a_domain_fits_on_training_subjects_of_other_sessions() -> None:
    test = [r for r in in_sessions() if r["domain"] == GALLERY]
    rows = [*test, *({**r, "subject_id": f"T{r['subject_id']}", "split": "train", "role": "none"} for r in test)]
    rows = [{**r, "crop_id": f"{r['split']}/{r['crop_id']}"} for r in rows]
    systems = [system("a", rows, noise=0.5), system("bb", rows, noise=0.5)]
    for how in ({"by": "feature"}, {"by": "score"}):
        settings = {"pairs": "within", "fusions": {"f": {"systems": ["a", "bb"], **how}}, "metrics": ["rank-1", "auc"]}
        found = done({"t": settings}, systems, rows)
        values = {s: number(found, "auc", system=s) for s in ("a", "bb", "f")}
        assert values["f"]["value"] > min(values["a"]["value"], values["bb"]["value"])
        assert len({one["n"] for one in values.values()}) == 1


def test_the_diagonal_of_all_pairs_is_each_domain_within_itself() -> None:
    rows = in_sessions()
    metrics = ["rank-1", "fnir@fpir=0.5"]
    found = done({"t": {"pairs": "all", "metrics": ["rank-1"]}}, [system("a", rows)], rows)
    within = done({"t": {"pairs": "within", "metrics": ["rank-1"]}}, [system("a", rows)], rows)
    pairs = {(r["gallery_domain"], r["probe_domain"]) for r in found.metrics}
    assert pairs == {(GALLERY, GALLERY), (GALLERY, "SWIR-30m"), ("SWIR-30m", GALLERY)}
    assert number(found, probe_domain=GALLERY, gallery_domain=GALLERY) == number(within)
    assert number(found, probe_domain="SWIR-30m")["templates"] == "subject"
    assert found.tables["t"]["notes"] == [
        "within VIS-500m: 8 of 12 subjects have a second session; probes of the others have no mate",
        "within a domain nothing is measured where no subject has a second session: SWIR-30m (12 subjects)",
    ]
    mated = [r for r in rows if r["domain"] == GALLERY and int(r["subject_id"][1:]) < 8]
    found = done({"t": {"pairs": "within", "metrics": metrics}}, [system("a", mated)], mated)
    assert {r["metric"] for r in found.metrics} == {"rank-1"}
    assert "fnir and dir have no number: every probe has a mate" in found.tables["t"]["notes"][-1]


def test_what_cannot_be_told_apart_is_no_number() -> None:
    rows = in_sessions()
    alone = [r for r in rows if r["domain"] != GALLERY]
    found = done({"t": {"pairs": "within"}}, [system("a", alone)], alone)
    assert not found.metrics
    assert found.nothing.endswith("where no subject has a second session: SWIR-30m (12 subjects)")
    unknown = [{**r, "session_id": None if r["video_id"].endswith("s1a") else r["session_id"]} for r in rows]
    found = done({"t": {"pairs": "within"}}, [system("a", unknown)], unknown)
    assert "within VIS-500m nothing is measured: 16 of 96 rows have no session_id; fill it in" in found.nothing
    few = [r for r in rows if r["subject_id"] == "P1" or (r["subject_id"], r["session_id"]) == ("P0", "s0")]
    few = [r for r in few if r["domain"] == GALLERY]
    found = done({"t": {"pairs": "within", "metrics": ["rank-1"]}}, [system("a", few)], few)
    assert "VIS-500m > VIS-500m: a: 1 probe has no other subject in their gallery" in found.tables["t"]["notes"]
    name = f"{GALLERY}/P0/s1a"
    twin = {name: "x", f"{GALLERY}/P0/s0a": "x"}
    with pytest.raises(ProtocolError, match="content x: expected one session_id, got s0 and s1"):
        done({"t": {"pairs": "within"}}, [system("a", rows)], rows, media=twin)
    templates = [{**r, "template_id": f"{r['subject_id']}-{r['domain']}"} for r in rows]
    refusal = r"template_id P\d+-VIS-500m: expected one session_id, got s0 and s\d: .*; choose another"
    with pytest.raises(ProtocolError, match=refusal):
        done({"t": {"pairs": "within", "by": "template_id"}}, [system("a", templates)], templates)


def test_one_domain_says_why_there_is_no_number() -> None:
    rows = rows_of(PEOPLE, ["VIS-500m"], crops=9)
    nobody = Protocol(name="no-roles", unlisted="test")
    found = done({"t": {}}, [system("a", rows)], rows, protocol=nobody)
    assert not found.metrics
    assert "protocol no-roles names no gallery and probe domains; the rows are of VIS-500m" in found.nothing
    thirds = {"pairs": "thirds", "allow_same_media": True}
    found = done({"t": thirds}, [system("a", rows, noise=0.0)], rows, protocol=nobody)
    row = number(found)
    assert (row["k"], row["n"]) == (12, 12)
    assert "say nothing about recognition" in found.tables["t"]["notes"][0]
    crops = {(t.role[n], int(t.crops[n])) for t in found.templates.values() for n in range(len(t))}
    assert crops == {("gallery", 3), ("probe", 3)}


def test_numbers_of_a_paper_stand_beside_ours() -> None:
    published = {"a": {"SWIR-30m": 38.1, "VIS-500m>LWIR-30m": {"map": 50}}}
    kept = Table(published=published).model_dump().keys()
    assert not kept & {"published_note", "per_track"}, "a run from before these settings is as it was"
    found = done({"t": {"published": published}}, [system("a", ROWS)], ROWS)
    assert number(found, probe_domain="SWIR-30m")["published"] == pytest.approx(0.381)
    assert number(found, "map", probe_domain="LWIR-30m")["published"] == 0.5
    assert number(found, "map", probe_domain="SWIR-30m")["published"] is None
    counts = {"a": {"SWIR-30m": 63, "VIS-500m>LWIR-30m": number(found, probe_domain="LWIR-30m")["n"]}}
    others = {"DEEN": {"NIR>VIS": {"rank-1": 62.5, "map": 65.8}}}
    printed = {
        "published": published,
        "published_n": counts,
        "also_published": others,
        "published_note": "of two networks",
    }
    found = done({"t": printed}, [system("a", ROWS)], ROWS)
    n = number(found, probe_domain="SWIR-30m")["n"]
    assert found.tables["t"]["notes"] == [
        "published numbers: of two networks",
        "published for DEEN, which has no system here: NIR>VIS rank-1 62.5, map 65.8",
        f"VIS-500m > SWIR-30m: a: the published number is of 63 probes, this one of {n}",
    ]


# -- fusion


def both() -> tuple[list[SystemVectors], list[dict[str, Any]]]:
    """A face system that knows half of the people, a body system that knows the others; training subjects, too."""
    people = [f"T{n}" for n in range(10)]
    rows = [*rows_of(PEOPLE, (GALLERY, *PROBES), ["body", "face"])]
    rows += rows_of(people, (GALLERY, *PROBES), ["body", "face"], split="train")
    systems = []
    for modality, knows in (("body", 0), ("face", 1)):
        own = [r for r in rows if r["modality"] == modality]
        blind = {r["crop_id"]: np.ones(23, np.float32) for r in own if int(r["subject_id"][1:]) % 2 != knows}
        systems.append(system(modality, own, blind, noise=0.02))
    return systems, rows


@pytest.mark.parametrize("how", [{"by": "feature"}, {"by": "score"}, {"by": "score", "weights": [1, 1]}])
def test_fusion_finds_what_either_finds(how: dict[str, Any]) -> None:
    systems, rows = both()
    settings = {"fusions": {"body+face": {"systems": ["body", "face"], **how}}, "metrics": ["rank-1", "auc"]}
    found = done({"t": settings}, systems, rows)
    for domain in PROBES:
        alone = [number(found, probe_domain=domain, system=s)["k"] for s in ("body", "face")]
        row = number(found, probe_domain=domain, system="body+face")
        assert row["modality"] == "fused"
        assert (row["n"], row["k"]) == (12, 12)
        assert max(alone) < 9


def test_weights_are_never_chosen_on_those_who_are_tested() -> None:
    rows = rows_of(PEOPLE, (GALLERY, *PROBES), ["body", "face"])
    systems = [system(m, [r for r in rows if r["modality"] == m]) for m in ("body", "face")]
    settings = {"fusions": {"f": {"systems": ["body", "face"], "by": "score"}}}
    with pytest.raises(ProtocolError, match="add train to the systems' splits, or give weights"):
        done({"t": settings}, systems, rows)


# -- what is refused


def test_subjects_of_the_training_are_refused() -> None:
    body = system("a", ROWS, trained=frozenset({"P4", "X"}))
    with pytest.raises(ProtocolError, match=r"a was trained on 1 of the subjects that it is tested on \(P4\)"):
        done({"t": {}}, [body], ROWS)
    assert done({"t": {"allow_trained_subjects": True}}, [body], ROWS).metrics


def test_one_video_on_both_sides_is_refused() -> None:
    same = {"VIS-500m/P1": "h", "SWIR-30m/P1": "h"}
    with pytest.raises(ProtocolError, match="VIS-500m/P1, which is SWIR-30m/P1 under another name"):
        done({"t": {}}, [system("a", ROWS)], ROWS, media=same)
    found = done({"t": {"allow_same_media": True}}, [system("a", ROWS)], ROWS, media=same)
    assert "say nothing about recognition" in found.tables["t"]["notes"][0]


def test_other_wrong_protocols_are_refused() -> None:
    alone = [r for r in ROWS if r["subject_id"] == "P0" or r["domain"] != GALLERY]
    with pytest.raises(ProtocolError, match="gallery: expected two subjects or more, got P0 alone"):
        done({"t": {"unmated": "exclude"}}, [system("a", alone)], alone)
    more = [*ROWS, *rows_of(["T"], (GALLERY, *PROBES), split="train")]
    with pytest.raises(ProtocolError, match=r"a has no vectors of split train: add it to systems\.a\.splits"):
        done({"t": {"splits": ["train", "test"]}}, [system("a", ROWS)], more)
    with pytest.raises(ProtocolError, match="no vectors of system b; there are a"):
        done({"t": {"systems": ["b"]}}, [system("a", ROWS)], ROWS)
    with pytest.raises(ProtocolError, match="open set: expected mated and non-mated searches, got 12 and 0"):
        done({"t": {"metrics": ["fnir@fpir=0.1"]}}, [system("a", ROWS)], ROWS)
    with pytest.raises(ProtocolError, match=r"table t: galleries: apart: .* the data set has 0"):
        done({"t": {"galleries": "apart"}}, [system("a", ROWS)], ROWS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ["rank1"]}, "no metric 'rank1'; expected rank-K, map, minp, eer, .*, fnir@fpir=SHARE"),
        ({"metrics": ["tar@far=2"]}, "with a SHARE of 0..1"),
        ({"metrics": ["tar@far=1.e-.3"]}, "no metric 'tar@far=1.e-.3'"),
        ({"published": {"a": {"SWIR-30m": {"r1": 3}}}}, "no metric 'r1'"),
        ({"pairs": "thirds"}, "allow_same_media: true"),
        ({"apart": "video_id"}, "apart: expected pairs: all or within in the same table, got roles"),
        ({"systems": ["a", "a"]}, "each name once"),
        ({"fusions": {"f": {"systems": ["a"]}}}, "systems"),
        ({"fusions": {"f": {"systems": ["a", "b"], "weights": [1]}}}, "one for each system"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(Table, settings, "t")
