"""Quality-aware pooling and the limit of a track: transcriptions one crop at a time, refusals, what a study says."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from mdfpipe.errors import DataError, ProtocolError
from mdfpipe.evaluation import quality
from mdfpipe.evaluation.pooling import Pooling, Rule, lengths, pool
from mdfpipe.evaluation.quality import Learned, learn
from mdfpipe.evaluation.table import Table
from mdfpipe.evaluation.vectors import SystemVectors
from tests.evaluation.test_study import done, number

F64 = NDArray[np.float64]
DOMAINS = ("VIS-500m", "SWIR-30m", "LWIR-30m")
AWARE = Rule(pooling="quality_aware")
Rows = list[dict[str, Any]]


@cache
def drawn(train: int = 10, test: int = 10, crops: int = 7) -> tuple[Rows, NDArray[np.float32]]:
    """Crops whose vectors are the less noisy the higher and the surer they are; sharpness says nothing. Some have none.

    A video of each subject in each domain, in which the first four crops are track 0, the next track 1, the last none.
    """
    random = np.random.default_rng(3)
    rows, vectors = [], []
    shift = {domain: random.normal(size=24) for domain in DOMAINS}
    for n in range(train + test):
        direction = random.normal(size=24)
        for domain in DOMAINS:
            for frame in range(crops):
                height, score, sharp = random.normal(size=3)
                noise = 2.0 * math.exp(-0.7 * height - 0.5 * score)
                vectors.append((direction + shift[domain] + noise * random.normal(size=24)) * math.exp(random.normal()))
                rows.append(
                    {
                        "crop_id": f"{domain}/{n:02d}/{frame:06d}/00",
                        "subject_id": f"P{n:02d}",
                        "domain": domain,
                        "modality": "body",
                        "video_id": f"{domain}/{n:02d}",
                        "session_id": "s",
                        "frame": frame,
                        "track": 0 if frame < 4 else 1 if frame < 6 else None,
                        "split": "train" if n < train else "test",
                        "role": "none" if n < train else "gallery" if domain == "VIS-500m" else "probe",
                        "template_id": None,
                        "box_height_px": 100 * math.exp(0.5 * height),
                        "score": 1 / (1 + math.exp(-score)),
                        "sharpness": None if random.uniform() < 0.1 else 50 * math.exp(sharp),
                    }
                )
    return rows, np.array(vectors, np.float32)


def system(rows: Rows, vectors: NDArray[np.float32], name: str = "a", usable: Any = None) -> SystemVectors:
    here = np.ones(len(rows), bool) if usable is None else usable
    blocks = lambda: iter([vectors[:100], vectors[100:]])  # noqa: E731
    return SystemVectors(name, "body", "cosine", pa.Table.from_pylist(rows), here, blocks)


def learned_on(rows: Rows, vectors: NDArray[np.float32], rule: Rule = AWARE) -> Learned:
    here = [n for n, row in enumerate(rows) if row["split"] == "train"]
    own = vectors[here]
    table = pa.Table.from_pylist([rows[n] for n in here])
    return learn(table, lambda: iter([own]), lengths([own], np.ones(len(own), bool)), rule)


# -- an independent transcription


class Loops:
    """Margins and weights, one crop at a time. Every template has fewer crops than are looked at."""

    def __init__(self, rows: Rows, vectors: NDArray[np.float32], unit_of: str) -> None:
        self.crops: dict[tuple[str, str, str], list[tuple[list[float | None], F64]]] = defaultdict(list)
        sums: dict[tuple[str, str], F64] = defaultdict(lambda: np.zeros(vectors.shape[1]))
        for row, vector in zip(rows, vectors.astype(float), strict=True):
            if row["split"] != "train":
                continue
            norm = math.sqrt(sum(v * v for v in vector))
            values = [row["score"], row["sharpness"], row["box_height_px"], norm]
            logs = [None if v is None else math.log(v) for v in values]
            where = "" if unit_of == "subject" else f"{row['video_id']}#{row['track']}"
            self.crops[row["subject_id"], row["domain"], where].append((logs, vector / norm))
            sums[row["subject_id"], row["domain"]] += vector / norm
        self.centre = {key: one / np.linalg.norm(one) for key, one in sums.items()}
        self.people = sorted({subject for subject, _ in self.centre})
        self.crops = {key: own for key, own in self.crops.items() if len(own) > 1}  # type: ignore[assignment]
        every = [logs for own in self.crops.values() for logs, _ in own]
        self.average = [np.mean([logs[c] for logs in every if logs[c] is not None]) for c in range(4)]

    def filled(self, logs: list[float | None]) -> F64:
        return np.array([self.average[c] if one is None else one for c, one in enumerate(logs)])

    def margin(self, exponents: F64, people: list[str]) -> float:
        by_subject = defaultdict(list)
        for (subject, domain, _), own in self.crops.items():
            if subject not in people:
                continue
            weights = [math.exp(sum(exponents * self.filled(logs))) for logs, _ in own]
            pooled = sum(w * vector for w, (_, vector) in zip(weights, own, strict=True))
            pooled /= np.linalg.norm(pooled)
            parts = [
                pooled @ self.centre[subject, other]
                - np.mean([pooled @ self.centre[one, other] for one in self.people if one != subject])
                for other in DOMAINS
                if other != domain
            ]
            by_subject[subject].append(np.mean(parts))
        return float(np.mean([np.mean(parts) for parts in by_subject.values()]))

    def slope(self, exponents: F64, ridge: float, people: list[str]) -> F64:
        """Of the margin less the ridge, by differences: zero at a maximum."""
        apart = [
            self.filled(logs) - np.mean([self.filled(each) for each, _ in own], axis=0)
            for (subject, _, _), own in self.crops.items()
            if subject in people
            for logs, _ in own
        ]
        spread = np.mean(np.square(apart), axis=0)
        step = 1e-4 * np.eye(4)
        return np.array(
            [
                (self.margin(exponents + one, people) - self.margin(exponents - one, people)) / 2e-4
                - ridge * exponents[c] * spread[c]
                for c, one in enumerate(step)
            ]
        )


@pytest.mark.parametrize("unit_of", ["subject", "track"])
def test_exponents_are_those_of_a_transcription(unit_of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fit is where the transcribed margin less the ridge has no slope, and so are those of the five folds."""
    fits: list[F64] = []
    fit = quality._maximum
    monkeypatch.setattr(quality, "RIDGES", (0.01,))
    monkeypatch.setattr(quality, "_maximum", lambda sets, ridge: fits.append(fit(sets, ridge)) or fits[-1])
    rows, vectors = drawn()
    rule = AWARE if unit_of == "subject" else Rule("sighting", "quality_aware", sighting="track")
    found, loops = learned_on(rows, vectors, rule), Loops(rows, vectors, unit_of)
    assert [*found.exponents] == ["score", "sharpness", "box_height_px", "norm"]
    np.testing.assert_allclose([*found.exponents.values()], fits[-1], atol=5e-4)
    np.testing.assert_allclose([*found.average.values()], loops.average, atol=1e-6)
    crops = sum(map(len, loops.crops.values()))
    assert (found.subjects, found.templates, found.crops, found.ridge) == (10, len(loops.crops), crops, 0.01)
    assert np.abs(loops.slope(np.zeros(4), 0.01, loops.people)).max() > 0.02
    held = [loops.people[n::5] for n in range(5)]
    left = [[one for one in loops.people if one not in fold] for fold in held]
    for exponents, people in zip(fits, [*left, loops.people], strict=True):
        assert np.abs(loops.slope(exponents, 0.01, people)).max() < 1e-6
    margins = [loops.margin(exponents, fold) for exponents, fold in zip(fits, held, strict=False)]
    assert found.margin == pytest.approx(np.mean(margins), abs=1e-6)
    assert found.margin_of_mean == pytest.approx(np.mean([loops.margin(np.zeros(4), fold) for fold in held]), abs=1e-6)


def test_noise_is_learned_and_what_says_nothing_counts_little() -> None:
    found = learned_on(*drawn())
    assert found.exponents["box_height_px"] > 0.5 < found.exponents["score"]
    assert abs(found.exponents["sharpness"]) < 0.25
    assert abs(found.exponents["norm"]) < 0.25
    assert found.margin > found.margin_of_mean + 0.01


def test_templates_are_weighted_means_of_unit_vectors() -> None:
    rows, vectors = drawn()
    learned = learned_on(rows, vectors)
    table, norms = pa.Table.from_pylist(rows), lengths([vectors], np.ones(len(rows), bool))
    found = pool(table, [vectors], AWARE, log_weights=learned.log_weights(table, norms))
    loops = Loops(rows, vectors, "subject")
    for n in (0, 40, len(found) - 1):
        here = [i for i, r in enumerate(rows) if (r["subject_id"], r["domain"]) == (found.subject[n], found.domain[n])]
        weights = np.ones(len(here))
        for name, exponent in learned.exponents.items():
            mean = math.exp(loops.average[[*learned.exponents].index(name)])
            for k, i in enumerate(here):
                value = norms[i] if name == "norm" else rows[i][name]
                weights[k] *= (mean if value is None else value) ** exponent
        wanted = sum(w * vectors[i] / norms[i] for w, i in zip(weights, here, strict=True)) / weights.sum()
        np.testing.assert_allclose(found.vectors[n], wanted, rtol=1e-4, atol=1e-6)
    assert learned.lacking(table, norms)[0].endswith("have no sharpness: they count as an average training crop")


@pytest.mark.parametrize(
    ("norm", "height", "same"), [(0, 0, "mean"), (1, 0, "norm_weighted"), (0, 1, "quality_weighted")]
)
def test_other_poolings_are_special_cases(norm: float, height: float, same: Pooling) -> None:
    rows, vectors = drawn()
    table, norms = pa.Table.from_pylist(rows), lengths([vectors], np.ones(len(rows), bool))
    exponents = {"box_height_px": height, "norm": norm}
    weights = Learned(exponents, dict.fromkeys(exponents, 0.0), {}, 1, 1, 1, 1.0, 0, 0).log_weights(table, norms)
    found = pool(table, [vectors], AWARE, log_weights=weights)
    wanted = pool(table, [vectors], Rule(pooling=same, normalise_first=True))
    np.testing.assert_allclose(found.vectors, wanted.vectors, rtol=1e-5, atol=1e-6)


def test_order_of_rows_changes_nothing_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, vectors = drawn()
    once = learned_on(rows, vectors)
    order = np.random.default_rng(0).permutation(len(rows))
    assert learned_on([rows[n] for n in order], vectors[order]) == once
    monkeypatch.setattr(quality, "MOST_CROPS", 100)
    few = learned_on(rows, vectors)
    assert (few.templates, few.crops) == (15, 60)  # every second template, four crops each
    assert learned_on([rows[n] for n in order], vectors[order]) == few


def test_noise_alone_gives_equal_weights() -> None:
    """Where components say nothing, held-out subjects do not gain."""
    rows, _ = drawn()
    random = np.random.default_rng(8)
    vectors = random.normal(size=(len(rows), 24)).astype(np.float32)
    found = learned_on(rows, vectors)
    assert (found.ridge, set(found.exponents.values())) == (None, {0.0})
    assert "all crops have one weight" in found.lines[0]
    limited = {one: {"pooling": one, "per_track": 2, "normalise_first": True} for one in ("mean", "quality_aware")}
    of = {
        one: done({"t": table | {"metrics": ["rank-1"]}}, [system(rows, vectors)], rows)
        for one, table in limited.items()
    }
    assert of["mean"].templates["a"].vectors.tobytes() == of["quality_aware"].templates["a"].vectors.tobytes()
    assert of["mean"].tables["t"]["notes"][-1] == of["quality_aware"].tables["t"]["notes"][-1]  # evenly spread


def changed(what: str) -> tuple[Rows, NDArray[np.float32]]:
    rows, vectors = drawn()
    match what:
        case "unit":
            return rows, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        case "no column":
            return [{name: v for name, v in row.items() if name != "score"} for row in rows], vectors
        case "given boxes":
            return [{**row, "score": 1.0} for row in rows], vectors
    raise AssertionError(what)


@pytest.mark.parametrize(
    ("what", "name", "why"),
    [
        ("unit", "norm", "every vector has length 1"),
        ("no column", "score", "no training crop has it"),
        ("given boxes", "score", "it is the same in all crops of a template"),
    ],
)
def test_a_component_that_is_not_there_is_left_out_and_named(what: str, name: str, why: str) -> None:
    found = learned_on(*changed(what))
    assert (found.exponents[name], found.unused) == (0.0, {name: why})
    assert found.lines[1] == f"no weight by {name}: {why}"


# -- in a study


def test_a_study_says_what_was_learned_and_finds_more() -> None:
    rows, vectors = drawn()
    tables = {one: {"pooling": one, "metrics": ["auc"]} for one in ("mean", "quality_aware")}
    found = done(tables, [system(rows, vectors)], rows)
    value = {one: number(found, "auc", table=one, probe_domain="SWIR-30m")["value"] for one in tables}
    assert value["quality_aware"] > value["mean"]
    learned = learned_on(rows, vectors)
    assert found.tables["quality_aware"]["learned"] == {"a": learned.facts}
    assert "learned" not in found.tables["mean"]
    assert found.tables["quality_aware"]["notes"][0] == f"a: {learned.lines[0]}"
    assert "10 training subjects (30 templates, 210 crops; held-out margin 0." in learned.lines[0]
    assert found.tables["mean"]["fingerprint"] == found.tables["quality_aware"]["fingerprint"]


@pytest.mark.parametrize(
    ("settings", "what", "message"),
    [
        (
            {},
            "no training",
            "a has no vectors of training subjects, on which weights are learned: add train to systems.a",
        ),
        ({}, "few", "expected 5 or more training subjects with crops in two domains"),
        ({"splits": ["train", "test"]}, "", r"expected training subjects that are not tested, got 10 that are \(P00,"),
        ({}, "both", r"expected training subjects that are not tested, got 1 that are \(P15\)"),
    ],
)
def test_weights_are_learned_on_enough_training_subjects_alone(
    settings: dict[str, Any], what: str, message: str
) -> None:
    rows, vectors = drawn()
    if what in ("no training", "few"):
        last = 0 if what == "no training" else 4
        rows = [
            {**r, "split": "unused"} if "P00" <= r["subject_id"] < "P10" and int(r["subject_id"][1:]) >= last else r
            for r in rows
        ]
    elif what == "both":
        rows = [{**r, "split": "train"} if r["subject_id"] == "P15" and r["frame"] == 0 else r for r in rows]
    with pytest.raises(ProtocolError, match="table t: pooling: quality_aware: ") as error:
        done({"t": {"pooling": "quality_aware", **settings}}, [system(rows, vectors)], rows)
    assert error.match(message)


def test_weights_that_are_missing_or_no_numbers_are_refused() -> None:
    rows, vectors = drawn()
    table = pa.Table.from_pylist(rows)
    with pytest.raises(DataError, match="expected weights learned on training subjects, got none"):
        pool(table, [vectors], AWARE)
    with pytest.raises(DataError, match="log_weights: expected finite ones, got 1 that"):
        pool(table, [vectors], AWARE, log_weights=np.append(np.zeros(len(rows) - 1), np.nan))


# -- the limit of a track


def kept_by_loop(rows: Rows, weight: F64 | None, usable: Any, most: int) -> Iterator[int]:
    tracks = defaultdict(list)
    for n, row in enumerate(rows):
        if usable[n]:
            tracks[row["subject_id"], row["video_id"], row["track"]].append(n)
    for own in tracks.values():
        own.sort(key=lambda n: rows[n]["frame"])
        if len(own) <= most:
            yield from own
        elif weight is None:
            yield from (own[(2 * k + 1) * len(own) // (2 * most)] for k in range(most))
        else:
            yield from sorted(own, key=lambda n: -weight[n])[:most]


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("pooling", ["mean", "media_mean", "norm_weighted", "quality_weighted", "quality_aware"])
def test_at_most_so_many_crops_of_a_track(pooling: Pooling, most: int) -> None:
    rows, vectors = drawn()
    usable = np.arange(len(rows)) % 11 != 0
    norms = np.linalg.norm(vectors, axis=1)
    weight = {"norm_weighted": norms, "quality_weighted": np.array([r["box_height_px"] for r in rows])}.get(pooling)
    if pooling == "quality_aware":
        whole = [r for n, r in enumerate(rows) if usable[n]]
        weight = learned_on(whole, vectors[usable]).log_weights(pa.Table.from_pylist(rows), norms)
    found = done(
        {"t": {"pooling": pooling, "per_track": most, "metrics": ["rank-1"]}},
        [system(rows, vectors, usable=usable)],
        rows,
    )
    kept = {n for n in kept_by_loop(rows, weight, usable, most) if rows[n]["split"] == "test"}
    templates = found.templates["a"]
    assert templates.crops.sum() == len(kept)
    there = sum(bool(usable[n]) for n, r in enumerate(rows) if r["split"] == "test")
    assert templates.unusable.sum() == 210 - there
    how = "evenly spread in time" if weight is None else "those of the highest weight"
    assert found.tables["t"]["notes"][:1] == [
        "30 of 210 body rows are of no track: what a video has of them of a subject counts as one track, 30 in all"
    ]
    assert found.tables["t"]["notes"][-1] == (
        f"a: {there - len(kept)} of {there} crops excluded: at most {most} of a track are pooled, {how}"
    )
    assert {r["pooling"] for r in found.metrics} == {f"{pooling}, at most {most} a track"}
    if pooling == "mean":
        for n in (0, 17):
            mine = [
                k
                for k in kept
                if (rows[k]["subject_id"], rows[k]["domain"]) == (templates.subject[n], templates.domain[n])
            ]
            np.testing.assert_allclose(templates.vectors[n], vectors[mine].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_a_limit_needs_tracks_and_none_is_no_setting() -> None:
    rows, vectors = drawn()
    rows = [{**row, "track": None} for row in rows]
    with pytest.raises(
        ProtocolError, match="t: per_track: expected rows with a track, found none in 210 rows; give the"
    ):
        done({"t": {"per_track": 2}}, [system(rows, vectors)], rows)
    for parts in ({"by": "template_id"}, {"by": "sighting", "sighting": "crop_id"}):
        with pytest.raises(
            ValueError, match=f"per_track: {list(parts.values())[-1]} makes several templates of a track"
        ):
            Table(per_track=2, **parts)  # type: ignore[arg-type]
    assert "per_track" not in Table().model_dump(mode="json")
    assert Table(per_track=2).model_dump(mode="json")["per_track"] == 2


def test_an_unknown_column_and_wrong_weights_are_one_line_with_a_limit_too() -> None:
    rows, vectors = drawn()
    table = {"pooling": "quality_weighted", "per_track": 2, "metrics": ["rank-1"]}
    with pytest.raises(DataError, match="expected a column nonsense, got "):
        done({"t": {**table, "quality": "nonsense"}}, [system(rows, vectors)], rows)
    at = next(n for n, row in enumerate(rows) if row["split"] == "test")
    rows[at]["box_height_px"] = -1.0
    with pytest.raises(DataError, match="quality column box_height_px: expected weights, finite and 0 or more, got -1"):
        done({"t": table}, [system(rows, vectors)], rows)


def test_a_table_has_its_own_weights_beside_another() -> None:
    """Within a domain two tables may pool by the same rule; each has the weights that its own `by` gives."""
    rows, vectors = drawn()
    rows = [{**row, "video_id": f"{row['video_id']}-{n % 2}"} for n, row in enumerate(rows)]  # two of each subject
    ways = {
        name: {"pooling": "quality_aware", "pairs": "within", "apart": "video_id", "metrics": ["map"], **by}
        for name, by in (("a", {"by": "subject"}), ("b", {"by": "sighting", "sighting": "video_id"}))
    }
    both = done(ways, [system(rows, vectors)], rows)
    assert len({str(table["learned"]) for table in both.tables.values()}) == 2
    for name in ways:
        alone = done({name: ways[name]}, [system(rows, vectors)], rows)
        assert len(alone.metrics) > 0
        assert [r["value"] for r in alone.metrics] == [r["value"] for r in both.metrics if r["table"] == name]
