"""Numbers by group of probes: transcribed one loop at a time, in every output; tables that do not fit."""

from __future__ import annotations

import json
import tracemalloc
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import fisher_exact

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.evaluation.case import generator_of
from mdfpipe.evaluation.measures.groups import group_numbers, holm
from mdfpipe.evaluation.measures.intervals import wilson
from mdfpipe.reporting.breakdown import break_down, document, lines
from mdfpipe.reporting.comparison import side_by_side
from mdfpipe.reporting.report import PageCrops, report
from mdfpipe.reporting.retrieval import Who
from mdfpipe.running.scoring import score
from mdfpipe.stages.evaluate import metrics_table
from mdfpipe.store.results import Verdict
from mdfpipe.store.run import Receipt, Run, write_table
from mdfpipe.store.tables import MANIFEST, SEARCHES
from tests.evaluation.test_calibration import both
from tests.evaluation.test_seeds import evaluated
from tests.evaluation.test_study import PROBES, done
from tests.runs import call_here

PEOPLE = [f"S{n:02d}" for n in range(40)]
DOMAINS = ("VIS-500m", "SWIR-15m", "SWIR-30m")
CLOTHES = {subject: ("coat", "shirt", "shirt", "vest")[n % 4] for n, subject in enumerate(PEOPLE)}
HARD = {"coat": 0.1, "shirt": 2.5, "vest": 0.4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scored vectors with a manifest: two videos of each subject in each domain, in one session; coats are easy."""
    folder = tmp_path_factory.mktemp("groups")
    random = np.random.default_rng(0)
    rows = [
        {
            "subject_id": subject,
            "domain": domain,
            "video_id": f"{domain}/{subject}/{video}",
            "session_id": f"day{n % 2}",
            "camera_id": "left" if video else "right",
            "track": video or None,
            "box_height_px": float(20 + 3 * n + 30 * video),
            "vector": (
                np.eye(40)[n] + (domain != "VIS-500m") * HARD[CLOTHES[subject]] * random.normal(size=40)
            ).tolist(),
        }
        for n, subject in enumerate(PEOPLE)
        for domain in DOMAINS
        for video in range(2)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    (folder / "p.yaml").write_text(
        json.dumps({"gallery_domains": ["VIS-500m"], "probe_domains": list(DOMAINS[1:]), "unlisted": "test"})
    )
    by_video = ["tables.recognition.title=t", "tables.videos.by=sighting"]
    by_video += ["tables.tracks={by: sighting, sighting: track, metrics: [rank-1]}"]
    score(folder / "a.parquet", str(folder / "p.yaml"), folder / "run", by_video)
    manifest = [
        {name: value for name, value in row.items() if name != "vector"}
        | {"crop_id": f"{n}", "modality": "body", "split": "test", "sharpness": 1.0, "contrast": None}
        | {"template_id": None, "role": "gallery" if row["domain"] == "VIS-500m" else "probe"}
        for n, row in enumerate(rows)
    ]
    table = pa.Table.from_pylist(manifest)
    at = table.column_names.index("contrast")
    table = table.set_column(at, "contrast", pa.nulls(len(rows), pa.float32()))
    at = table.column_names.index("template_id")
    table = table.set_column(at, "template_id", pa.nulls(len(rows), pa.string()))
    Run(folder / "run").commit(Receipt("manifest", 1, "manifest", {}, {}), table, {})
    (folder / "clothes.csv").write_text(
        "subject_id;clothing;age\n" + "".join(f"{s};{c};{20 + n}\n" for n, (s, c) in enumerate(CLOTHES.items()))
    )
    return folder / "run"


def broken(run: Path, by: str, columns: Path | None = None) -> list[dict[str, Any]]:
    return document(break_down(side_by_side(run), [by], columns))


def searches(run: Path, table: str, domain: str) -> list[dict[str, Any]]:
    rows = pq.read_table(run / "evaluate/searches.parquet").to_pylist()
    return [row for row in rows if (row["table"], row["probe_domain"]) == (table, domain)]


def test_shares_of_one_probe_a_subject_are_transcribed(run: Path) -> None:
    found = broken(run, "clothing", run.parent / "clothes.csv")[0]
    assert found["table"] == "recognition"
    for domain in DOMAINS[1:]:
        own = {g["group"]: g for g in found["groups"] if (g["probe_domain"], g["metric"]) == (domain, "rank-1")}
        assert list(own) == ["coat", "shirt", "vest"]
        counts: dict[str, list[int]] = {name: [0, 0] for name in own}
        for row in searches(run, "recognition", domain):
            counts[CLOTHES[row["subject_id"]]][0] += row["rank"] == 1
            counts[CLOTHES[row["subject_id"]]][1] += 1
        for name, (k, n) in counts.items():
            assert (own[name]["k"], own[name]["n"], own[name]["value"]) == (k, n, k / n)
            assert (own[name]["low"], own[name]["high"], own[name]["interval"]) == (*wilson(k, n), "wilson")
            assert own[name]["few"] is (n < 30)
        pairs = list(combinations(own, 2))
        p = [fisher_exact([[counts[x][0], counts[x][1] - counts[x][0]] for x in pair])[1] for pair in pairs]
        order, most = sorted(range(3), key=lambda n: p[n]), 0.0
        for ahead, at in enumerate(order):
            most = max(most, min(1.0, (3 - ahead) * p[at]))
            if pairs[at] == ("coat", "shirt"):
                assert own["shirt"]["p"] == pytest.approx(most, rel=1e-6)
                assert (own["shirt"]["best"], own["shirt"]["test"]) == ("coat", "fisher")
        assert own["coat"]["verdict"] == Verdict.BEST
        assert own["shirt"]["verdict"] == Verdict.WORSE


@pytest.mark.parametrize("trainings", [1, 3])
def test_bootstraps_are_transcribed(trainings: int) -> None:
    """Two probes a subject, subjects in both groups; sample by sample. Of several trainings all but one are drawn."""
    random = np.random.default_rng(1)
    subject = np.array([f"s{n}" for n in range(9)] * 2)
    group, values = np.array([0] * 9 + [1] * 9), random.random((trainings, 18)) * [[1], [1.3], [0.6]][:trainings]
    given = values[0] if trainings == 1 else values
    found = group_numbers({"rank-1": np.round(given), "map": given}, subject, group, generator_of("seed"))["map"]
    generator = generator_of("seed")
    seeds = [[0]] * 2000 if trainings == 1 else generator.integers(0, 3, (2000, 2)).tolist()
    means = []
    for times, drawn in zip(seeds, generator.integers(0, 9, (2000, 9)).tolist(), strict=True):
        both = []
        for g in (0, 1):
            of = [n for s in drawn for n in range(18) if subject[n] == f"s{s}" and group[n] == g]
            own = [values[seed][n] for seed in times for n in of]
            both.append(sum(own) / len(own))
        means.append(both)
    for g in (0, 1):
        low, high = np.quantile([one[g] for one in means], [0.025, 0.975])
        assert (found[g].low, found[g].high) == (pytest.approx(low), pytest.approx(high))
        assert found[g].value == pytest.approx(values[:, group == g].mean())
    apart = [a - b for a, b in means]
    side = min(sum(d <= 1e-15 for d in apart), sum(d >= -1e-15 for d in apart))
    worse = min(found, key=lambda one: one.value)
    assert worse.p == pytest.approx(min(1, 2 * (side + 1) / 2001))
    assert (worse.test, worse.n, worse.subjects, worse.k) == ("bootstrap", 9, 9, None)


def test_no_group_is_ranked_without_a_test() -> None:
    subject = np.array([f"s{n}" for n in range(17)])
    group = np.array([0] * 8 + [1] * 8 + [2])
    found = group_numbers({"rank-1": (group != 1) * 1.0}, subject, group, generator_of(""))["rank-1"]
    assert [one.verdict for one in found] == [Verdict.BEST, Verdict.WORSE, Verdict.BEST]
    few = np.array([0] * 5 + [1] * 12)
    found = group_numbers({"rank-1": (few == 0) * 1.0}, subject, few, generator_of(""))["rank-1"]
    assert [(one.verdict, one.p) for one in found] == [(Verdict.UNTESTED, None)] * 2
    alone = group_numbers({"rank-1": np.ones(17)}, subject, np.zeros(17, np.int64), generator_of(""))["rank-1"]
    assert [(one.verdict, one.few) for one in alone] == [(None, True)]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("by", "table", "groups"),
    [
        ("range", "recognition", {"15 m": 40, "30 m": 40}),
        ("session", "recognition", {"day0": 20, "day1": 20}),
        ("camera", "recognition", {"several": 40}),
        ("camera", "videos", {"left": 40, "right": 40}),
        ("camera", "tracks", {"left": 40, "right": 40}),
        ("height=50,100", "videos", {"below 50": 10, "50 to 100": 33, "100 or more": 37}),
        ("height", "recognition", {"below 64.25": 10, "64.25 to 93.5": 10, "93.5 to 122.8": 10, "122.8 or more": 10}),
        ("sharpness", "recognition", {"1": 40}),
        ("crops", "recognition", {"2": 40}),
        ("age", "recognition", {"below 29.75": 10, "29.75 to 39.5": 10, "39.5 to 49.25": 10, "49.25 or more": 10}),
    ],
)
def test_groups_of_each_kind(run: Path, by: str, table: str, groups: dict[str, int]) -> None:
    every = broken(run, by, run.parent / "clothes.csv" if by == "age" else None)
    (found,) = [one for one in every if one["table"] == table]
    first = found["groups"][0]
    own = [g for g in found["groups"] if (g["metric"], g["probe_domain"]) == ("rank-1", first["probe_domain"])]
    if "height" in by and table == "videos":  # two videos each, 30 px apart
        heights = [20 + 3 * n + 30 * video for n in range(40) for video in range(2)]
        bins = [sum(h < 50 for h in heights), sum(50 <= h < 100 for h in heights), sum(h >= 100 for h in heights)]
        groups = dict(zip(groups, bins, strict=True))
    assert {g["group"]: g["n"] for g in own} == groups
    if by == "range":
        assert first["probe_domain"] == "SWIR"
        hits = [sum(r["rank"] == 1 for r in searches(run, table, d)) for d in DOMAINS[1:]]
        assert [g["k"] for g in own] == hits


def test_a_table_keyed_by_video_or_template(run: Path, tmp_path: Path) -> None:
    videos = {f"{d}/{s}/{v}": f"take{v}" for d in DOMAINS[1:] for s in PEOPLE for v in range(2)}
    (tmp_path / "v.csv").write_text("video_id,take\n" + "".join(f"{v},{t}\n" for v, t in videos.items()))
    by_table = {one["table"]: one for one in broken(run, "take", tmp_path / "v.csv")}
    assert {g["group"] for g in by_table["videos"]["groups"]} == {"take0", "take1"}
    assert {g["group"] for g in by_table["recognition"]["groups"]} == {"several"}
    names = [r["template"] for r in searches(run, "recognition", "SWIR-15m")]
    pq.write_table(pa.table({"template": names, "odd": [n % 2 for n in range(40)]}), tmp_path / "t.parquet")
    found = broken(run, "odd", tmp_path / "t.parquet")[0]
    assert {(g["probe_domain"], g["group"], g["n"]) for g in found["groups"]} == {
        ("SWIR-15m", "0", 20),
        ("SWIR-15m", "1", 20),
    }
    assert any("SWIR-30m: 40 of 40 probes have no odd and are in no group" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("text", "by", "message"),
    [
        (
            "subject_id,x\nS00,a\nS00,b\n",
            "x",
            "expected each subject_id once, got S00 in rows 1 and 2 below the header",
        ),
        ("subject_id,x\nS00,a\n", "y", "expected a column y, got x; --by takes one of these, or range, session"),
        ("name,x\nS00,a\n", "x", "expected a column template or probe or video_id or subject_id, got name, x"),
        (
            "subject_id,x\nother,a\n",
            "x",
            "--by x: expected a value for some of the probes, found none: .* has subject_id such as other, "
            "the probes such as S00",
        ),
        ("subject_id,x\nS00,a\n", "x=1,2", "--by x: expected numbers to put into bins, got such as \\['a'\\]"),
        ("subject_id,x\nS00,a\n", "x=2,1", "expected NAME or NAME=EDGE,EDGE with ascending numbers"),
        ("", "x", "found a single line of 0 bytes"),
        (None, "x", "expected a CSV or Parquet table, found no such file"),
        ("subject_id,x\n" + "".join(f"S{n:02d}{m},v{n}{m}\n" for n in range(40) for m in " ab"), "x", None),
    ],
)
def test_tables_that_do_not_fit_are_one_line(
    run: Path, tmp_path: Path, text: str | None, by: str, message: str | None
) -> None:
    if text is not None:
        (tmp_path / "x.csv").write_text(text)
    if message is None:  # forty groups of one subject each: numbers without a test
        found = broken(run, by, tmp_path / "x.csv")[0]
        assert {(g["verdict"], g["subjects"], g["few"]) for g in found["groups"]} == {(Verdict.UNTESTED, 1, True)}
        return
    with pytest.raises((DataError, ConfigError), match=message) as caught:
        broken(run, by, tmp_path / "x.csv")
    assert str(caught.value).isprintable()


def test_what_a_run_does_not_know_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--by nothing: expected range, session, .* or a column of the table of"):
        broken(run, "nothing")
    score(run.parent / "a.parquet", str(run.parent / "p.yaml"), tmp_path / "bare")
    with pytest.raises(DataError, match="expected a manifest, which says what each crop is; found none"):
        broken(tmp_path / "bare", "height")
    with pytest.raises(DataError, match=r"--by contrast: expected a value .*, found none: the run knows none of them"):
        broken(run, "contrast")
    assert "expected --by NAME: range" in call_here("breakdown", run).calm().line(2)


def test_every_output_has_the_groups(run: Path, tmp_path: Path) -> None:
    clothes = run.parent / "clothes.csv"
    said = call_here("breakdown", run, "--by", "clothing", "--columns", clothes).calm()
    assert said.code == 0, said
    assert "coat, 10 subjects (few)   100.0 * (10/10, 72.2–100.0)" in said.out
    assert "no breakdown of tar@far=1e-2, auc: only numbers of searches" in said.out
    as_json = call_here("breakdown", run, "--by", "clothing", "--columns", clothes, "--json").json
    assert as_json == json.loads(json.dumps(broken(run, "clothing", clothes)))
    made = report(run, by=["clothing"], columns=clothes, out=tmp_path)
    texts = {Path(name).name: Path(name).read_text() for name in made.files}
    assert "recognition.clothing.csv" in texts
    for name in ("report.html", "tables.md", "tables.tex"):
        assert "by clothing" in texts[name], name
        assert "coat, 10 subjects (few)" in texts[name].replace("\\", ""), name
        assert "under 30 probes or 6 subjects" in texts[name].replace("\\", ""), name
        assert "Holm" in texts[name], name
    rows = texts["recognition.clothing.csv"].splitlines()
    assert rows[0].split(",")[-1] == "group"
    assert sum(row.endswith(",shirt") for row in rows) > 3


OPEN = ["rank-1", "fnir@fpir=0.2", "dir@fpir=0.2", "fnir@fpir=0.001"]


def test_groups_at_the_operating_point_of_the_table(run: Path, tmp_path: Path) -> None:
    """The gallery lacks every fifth subject. The groups' errors add up to the table's."""
    table = pq.read_table(run.parent / "a.parquet").to_pylist()
    rows = [r for r in table if r["domain"] != "VIS-500m" or int(r["subject_id"][1:]) % 5]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    asked = ["tables.recognition.unmated=exclude", f"tables.recognition.metrics={json.dumps(OPEN)}"]
    score(tmp_path / "a.parquet", str(run.parent / "p.yaml"), tmp_path / "run", asked)
    clothes = run.parent / "clothes.csv"
    (found,) = broken(tmp_path / "run", "clothing", clothes)
    whole = pq.read_table(tmp_path / "run/evaluate/metrics.parquet").to_pylist()
    for domain in DOMAINS[1:]:
        own = {(g["metric"], g["group"]): g for g in found["groups"] if g["probe_domain"] == domain}
        for metric in OPEN[:3]:
            of_all = next(m for m in whole if (m["metric"], m["probe_domain"]) == (metric, domain))
            parts = [own[metric, name] for name in HARD]
            assert (sum(p["k"] for p in parts), sum(p["n"] for p in parts)) == (of_all["k"], of_all["n"])
            if metric != "rank-1":
                assert {(p["threshold"], p["k_false"], p["n_false"]) for p in parts} == {
                    (of_all["threshold"], of_all["k_false"], 8)
                }
        fnir, found_again = own["fnir@fpir=0.2", "shirt"], own["dir@fpir=0.2", "shirt"]
        missed = [
            r["rank"] != 1 or r["mated_score"] < fnir["threshold"]
            for r in searches(tmp_path / "run", "recognition", domain)
            if r["status"] != "unmated" and CLOTHES[r["subject_id"]] == "shirt"
        ]
        assert (fnir["k"], fnir["n"], found_again["k"]) == (sum(missed), len(missed), len(missed) - sum(missed))
        assert own["fnir@fpir=0.001", "shirt"]["value"] is None
        assert own["fnir@fpir=0.001", "shirt"]["words"] == ["needs at least 1000 non-mated searches, has 8"]
        best = min((own["fnir@fpir=0.2", name] for name in HARD), key=lambda one: one["value"])
        assert best["verdict"] == Verdict.BEST
    said = call_here("breakdown", tmp_path / "run", "--by", "clothing", "--columns", clothes).calm()
    assert "needs at least 1000 non-mated searches, has 8" in said.out
    assert "protocol: " in said.out
    assert "at the table's threshold" in said.out


def test_groups_at_a_threshold_from_training_subjects(tmp_path: Path) -> None:
    """Probe by probe; a failure to enrol is an error of its group. The training pairs are few: numbers have a mark."""
    lost = {f"{domain}/s2/{n:06d}/00": None for domain in PROBES for n in range(2)}
    made, rows = both(vectors=lost)
    asked = {"metrics": ["fnir@train=0.1", "fpir@train=0.1"], "unmated": "exclude"}
    found = done({"t": asked}, [made], rows)
    committed(tmp_path, found)
    odd = ("s1", "s3", "s5", "x")
    people = sorted({row["subject_id"] for row in found.searches})
    (tmp_path / "c.csv").write_text(
        "subject_id,x\n" + "".join(f"{p},{'odd' if p in odd else 'even'}\n" for p in people)
    )
    (broken_down,) = broken(tmp_path, "x", tmp_path / "c.csv")
    own = {(g["metric"], g["probe_domain"], g["group"]): g for g in broken_down["groups"]}
    assert len(own) == 8
    for (metric, domain, name), group in own.items():
        whole = next(r for r in found.metrics if (r["metric"], r["probe_domain"]) == (metric, domain))
        errors = []
        for row in found.searches:
            if row["probe_domain"] != domain or (row["subject_id"] in odd) != (name == "odd"):
                continue
            is_stranger = row["subject_id"] in ("x", "y")
            if metric == "fpir@train=0.1" and is_stranger:
                errors.append(row["nonmated_score"] >= whole["threshold"])
            if metric == "fnir@train=0.1" and not is_stranger:
                errors.append(row["rank"] != 1 or row["mated_score"] < whole["threshold"])
        assert (group["k"], group["n"], group["threshold"]) == (sum(errors), len(errors), whole["threshold"])
        assert group["notes"][0] == "under_30"
    assert [row["status"] for row in found.searches if row["subject_id"] == "s2"] == ["no_probe"] * 2
    assert {own["fnir@train=0.1", domain, "even"]["n"] for domain in PROBES} == {5}


def committed(folder: Path, found: Any) -> None:
    """Write what an evaluation found into a run folder."""
    facts = {"none": "", "tables": found.tables, "missing": []}
    Run(folder).commit(Receipt("evaluate", 1, "metrics", {}, {}, facts=facts), metrics_table(found), {})
    write_table(folder / "evaluate/searches.parquet", pa.Table.from_pylist(found.searches, SEARCHES))


def test_a_system_of_several_seeds_has_the_mean_of_its_trainings(run: Path, tmp_path: Path) -> None:
    found = evaluated({"a": ["a-seed-0", "a-seed-10"]}, {"a-seed-0": 0.6, "other": 1.5, "a-seed-10": 1.2})
    committed(tmp_path, found)
    people = sorted({row["subject_id"] for row in found.searches})
    (tmp_path / "c.csv").write_text("subject_id,x\n" + "".join(f"{p},{n % 2}\n" for n, p in enumerate(people)))
    (broken_down,) = broken(tmp_path, "x", tmp_path / "c.csv")
    own = [g for g in broken_down["groups"] if (g["system"], g["metric"], g["group"]) == ("a", "rank-1", "0")]
    for one in own:
        hits = [
            [
                r["rank"] == 1
                for r in found.searches
                if r["system"] == name
                and r["probe_domain"] == one["probe_domain"]
                and people.index(r["subject_id"]) % 2 == 0
            ]
            for name in ("a-seed-0", "a-seed-10")
        ]
        assert one["each"] == [float(np.mean(h)) for h in hits]
        assert (one["value"], one["k"], one["interval"]) == (pytest.approx(np.mean(one["each"])), None, "bootstrap")
    assert {g["system"] for g in broken_down["groups"]} == {"a", "other"}
    assert any("means over trainings of a (2)" in note for note in broken_down["notes"])


def test_twenty_thousand_probes_take_little_memory() -> None:
    count = 20_000
    random = np.random.default_rng(0)
    subject = np.array([f"s{n % 5000}" for n in range(count)])
    values = {"rank-1": (random.random(count) < 0.5) * 1.0, "map": random.random(count)}
    tracemalloc.start()
    found = group_numbers(values, subject, random.integers(0, 20, count), generator_of("x"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found["map"]) == 20
    assert peak < 200 << 20
    assert len(list(lines([]))) == 2


def test_the_report_shows_a_track_by_a_crop_of_it(tmp_path: Path) -> None:
    """The middle crop of track 0, of track 3, and of what is of no track; none of a track that is not there."""
    columns = {"subject_id": "s1", "domain": "VIS-5m", "modality": "body", "split": "test", "role": "probe"}
    columns |= {"video_id": "v", "shard": "s", "band": "VIS", "codec": "jpeg"}
    kinds = {one.name: one.type.value_type if pa.types.is_dictionary(one.type) else one.type for one in MANIFEST}
    texts = {name for name, kind in kinds.items() if pa.types.is_string(kind)}
    made = {name: pa.array([columns.get(name, "" if name in texts else False)] * 5) for name in kinds}
    made = {name: column if name in texts else column.cast(kinds[name]) for name, column in made.items()}
    made |= {"crop_id": pa.array([*"01234"]), "track": pa.array([None, 0, 0, 0, 3], pa.int32())}
    Run(tmp_path).commit(Receipt("manifest", 1, "manifest", {}, {}), pa.table(made).cast(MANIFEST), {})
    crops = PageCrops(tmp_path, False, [])
    for item, crop in {"v#": "0", "v#0": "2", "v#3": "4", "v#9": None}.items():
        row = crops.row(Who("", "s1", "VIS-5m", item, "test", "probe", "body"))
        assert (row and row["crop_id"]) == crop
