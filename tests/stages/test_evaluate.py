"""The evaluate stage on a drawn data set: numbers from the vectors that lie there, resumed, refused, traced."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mdfpipe
from mdfpipe.errors import ConfigError, DataError
from mdfpipe.evaluation import quality
from mdfpipe.inspecting.run_view import open as open_run_view
from mdfpipe.reporting.report import report
from mdfpipe.running.plan import Currency, Standing, current, standing
from mdfpipe.store.run import Run
from mdfpipe.store.tables import COMPARISONS, CURVES, METRICS, SCORES, SEARCHES, TEMPLATES
from tests.drawn import CAST, VIDEOS, draw
from tests.runs import Said, call_here, write_rows
from tests.stages.test_embed import commit_spoilt
from tests.systems import FACE, STRIPED, copied, digests, loaded, runner, train, vectors, write_study

SYSTEMS: dict[str, Any] = {
    "a": {"recipe": loaded()},
    "b": {"recipe": loaded(), "seed": 1},
    "f": {"recipe": loaded(FACE)},
}
TABLES = {
    "tables": {
        "bodies": {"systems": ["a", "b"], "unmated": "exclude", "metrics": ["rank-1", "map", "auc", "eer"]},
        "all": {
            "unmated": "exclude",
            "pairs": "all",
            "metrics": ["rank-1"],
            "fusions": {"a+f": {"systems": ["a", "f"]}},
            "published": {"a": {"LWIR-30m": 77.78}},
        },
    }
}


@pytest.fixture(scope="module")
def evaluated(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose run is evaluated, which nobody changes."""
    home = copied(labelled, tmp_path_factory.mktemp("evaluated") / "home")
    outcome, _ = train(home, SYSTEMS, evaluate=TABLES)
    assert outcome.complete, outcome
    assert evaluate(home)[0].complete
    return home


def evaluate(home: Path, systems: dict[str, Any] = SYSTEMS, tables: dict[str, Any] = TABLES) -> tuple[Any, list[str]]:
    make, executor = runner(home, systems, evaluate=tables)
    return make.execute("evaluate"), executor.ran


def test_every_file_is_there_and_under_its_schema(evaluated: Path) -> None:
    folder = evaluated / "run" / "evaluate"
    for name, schema in (
        ("metrics", METRICS),
        ("comparisons", COMPARISONS),
        ("curves", CURVES),
        ("searches", SEARCHES),
        ("scores/bodies.a", SCORES),
        ("scores/all.a+f", SCORES),
        ("templates/f", TEMPLATES),
    ):
        table = pq.read_table(folder / f"{name}.parquet")
        assert table.schema.remove_metadata().equals(schema.remove_metadata()), name
        assert table.num_rows
    document = json.loads((folder / "metrics.json").read_text())
    assert len(document["metrics"]) == pq.read_metadata(folder / "metrics.parquet").num_rows
    assert document["tables"]["bodies"]["systems"] == ["a", "b"]
    paper = [r for r in document["metrics"] if r["published"] is not None]
    assert {(r["table"], r["system"], r["probe_domain"], r["published"]) for r in paper} == {
        ("all", "a", "LWIR-30m", 0.7778)
    }


def test_templates_and_scores_are_those_of_the_vectors(evaluated: Path) -> None:
    """Means over the crops of each subject, and their cosines, taken here."""
    run = Run(evaluated / "run")
    manifest = {r["crop_id"]: r for r in run.table("manifest", "manifest").to_pylist() if r["split"] == "test"}
    of: dict[tuple[str, str], list[Any]] = {}
    for video in {r["video_id"] for r in manifest.values()}:
        for crop, vector in zip(*vectors(evaluated, "a", video), strict=True):
            if crop in manifest:
                of.setdefault((manifest[crop]["subject_id"], manifest[crop]["domain"]), []).append(vector)
    means = {key: np.mean(np.array(found, np.float64), axis=0) for key, found in of.items()}
    templates = pq.read_table(run.path / "evaluate" / "templates" / "a.parquet").to_pylist()
    assert {(t["subject_id"], t["domain"]) for t in templates if t["crops"]} == set(means)
    for t in templates:
        np.testing.assert_allclose(t["vector"], means[t["subject_id"], t["domain"]], rtol=1e-4, atol=1e-4)
    scores = pq.read_table(run.path / "evaluate" / "scores" / "bodies.a.parquet").to_pylist()
    assert len(scores) == 4
    for s in scores:
        p, g = means[s["probe_subject"], s["probe_domain"]], means[s["gallery_subject"], s["gallery_domain"]]
        assert s["score"] == pytest.approx(p @ g / np.linalg.norm(p) / np.linalg.norm(g), abs=1e-5)
    searches = pq.read_table(run.path / "evaluate" / "searches.parquet").to_pylist()
    for s in (s for s in searches if s["system"] == "a" and s["table"] == "bodies"):
        own = sorted((x["score"], x["gallery_subject"]) for x in scores if x["probe"] == s["template"])[::-1]
        assert s["top_score"] == pytest.approx([score for score, _ in own], abs=1e-5)
        assert s["rank"] == 1 + [subject for _, subject in own].index(s["subject_id"])


def test_it_is_done_once_and_again_where_something_changed(evaluated: Path, tmp_path: Path) -> None:
    home = copied(evaluated, tmp_path / "home")
    before = digests(home / "run", "evaluate")
    assert evaluate(home)[1] == []
    assert runner(home, SYSTEMS, evaluate=TABLES)[0].due("evaluate", None) == []
    changed = json.loads(json.dumps(TABLES))
    changed["tables"]["bodies"]["pooling"] = "media_mean"
    (line,) = runner(home, SYSTEMS, evaluate=changed)[0].due("evaluate", None)
    assert line == "evaluate/metrics: tables.bodies.pooling mean -> media_mean"
    (home / "run" / "evaluate" / "comparisons.parquet").write_text("half of")
    said = call_here("eval", "--run", home / "run", "--compare", tmp_path / "other").calm()
    assert "comparisons.parquet: is not the file that was made" in said.line(2)
    (home / "run" / "evaluate" / "curves.parquet").unlink()
    assert evaluate(home)[1] == ["evaluate/metrics"]
    assert digests(home / "run", "evaluate") == before


def test_only_the_systems_that_were_asked_for(evaluated: Path, tmp_path: Path) -> None:
    home = copied(evaluated, tmp_path / "home")
    study = write_study(home / "study.yaml", {**SYSTEMS, "never": {"recipe": STRIPED}}, evaluate=TABLES)
    said = call_here(
        "eval", study, "--data", home / "data", "--run", home / "run", "--system", "a", "--system", "b", "--json"
    )
    assert said.code == 0, said
    assert set(said.json["numbers"]["tables"]) == {"bodies"}
    some = standing(home / "run", "evaluate", "metrics")
    without = "evaluated without f, never, which the study also names"
    assert (some.currency, some.why) == (Currency.CURRENT, without)
    shown = call_here("report", home / "run", "--out", tmp_path / "page").calm()
    assert shown.code == 0, shown
    assert without in (tmp_path / "page" / "report.html").read_text()
    waits = call_here("eval", study, "--data", home / "data", "--run", home / "run")
    assert waits.code == 3
    assert "evaluate: waits for train/never, which is due: never made" in waits.out


def test_the_command_prints_the_tables(evaluated: Path, tmp_path: Path) -> None:
    home = copied(evaluated, tmp_path / "home")
    study = write_study(home / "study.yaml", SYSTEMS, evaluate=TABLES)
    said = call_here("eval", study, "--data", home / "data", "--run", home / "run").calm()
    assert said.code == 0
    assert "a failure counts as: miss); without a mate: nobody (setting: exclude); " in said.out
    assert "a template is: subject; pooling: mean; filter rule: none; rerank: off" in said.out
    assert re.search(r"  \d+\.\d\S* [*=<?] \([012]/2, \d+\.\d–\d+\.\d\)", said.out), said.out
    heads = " ".join(line for line in said.out.splitlines() if line.startswith("  system"))
    assert [name in heads for name in ("Rank-1", "mAP", "AUC", "EER")] == [True] * 4


def test_numbers_whose_templates_lost_crops_carry_their_count(evaluated: Path, tmp_path: Path) -> None:
    """In the metrics, on the console, and in every table of the report."""
    home = copied(evaluated, tmp_path / "home")
    run, video = Run(home / "run"), "videos/LWIR-30m_b"
    row = next(r for r in run.table("crop", video).to_pylist() if r["modality"] == "body" and r["status"] == "ok")
    commit_spoilt(run, video, {row["crop_id"]})
    assert runner(home, SYSTEMS, evaluate=TABLES)[0].execute("manifest", "embed").complete
    outcome, ran = evaluate(home)
    assert (outcome.complete, ran) == (True, ["evaluate/metrics"])
    note = f"embed/a: 1 crop does not decode, left without a vector ({row['crop_id']}: the numbers rest on the other "
    found = json.loads((run.path / "evaluate" / "metrics.json").read_text())
    for table in ("bodies", "all"):
        assert sum(line.startswith(note) for line in found["tables"][table]["notes"]) == 1
        assert {m["unusable_gallery"] + m["unusable_probes"] for m in found["metrics"] if m["system"] == "f"} <= {0}
    own = [m for m in found["metrics"] if m["table"] == "bodies" and m["system"] == "a"]
    assert {m["unusable_probes"] for m in own if m["probe_domain"] == "LWIR-30m"} == {1}
    again, ran = evaluate(home)
    assert ran == []
    assert sum(w.startswith("embed/a: 1 crop does not decode") for w in again.warnings) == 1
    study = write_study(home / "study.yaml", SYSTEMS, evaluate=TABLES)
    said = call_here("eval", study, "--data", home / "data", "--run", home / "run").calm()
    assert note in " ".join(said.out.split())
    reported = call_here("report", home / "run", "--out", tmp_path / "report").calm()
    assert reported.code == 0, reported
    for name in ("report.html", "tables.md", "tables.tex"):
        assert "1 crop does not decode, left without a vector" in (tmp_path / "report" / name).read_text()
    rows = list(csv.DictReader((tmp_path / "report" / "tables" / "bodies.csv").read_text().splitlines()))
    assert {r["crops_without_vector"] for r in rows if (r["system"], r["probe_domain"]) == ("a", "LWIR-30m")} == {"1"}


def test_weights_of_crops_are_learned_and_shown(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Confidence is read from the boxes; a table that does not ask for it has the receipt that it had."""
    home = copied(evaluated, tmp_path / "home")
    before = Run(home / "run").receipt("evaluate", "metrics")
    assert before is not None
    assert not [name for name in before.upstream if name.startswith("detect/")]
    table = {"systems": ["a"], "unmated": "exclude", "metrics": ["rank-1"], "pooling": "quality_aware"}
    tables = {"tables": {"bodies": table}}
    few = evaluate(home, tables=tables)[0].failures[0].message
    assert "table bodies: pooling: quality_aware: expected 5 or more training subjects" in few
    monkeypatch.setattr(quality, "FOLDS", 2)
    assert evaluate(home, tables=tables)[0].complete
    receipt = Run(home / "run").receipt("evaluate", "metrics")
    assert receipt is not None
    rows = [r for r in Run(home / "run").table("manifest", "manifest").to_pylist() if r["modality"] == "body"]
    videos = {row["video_id"] for row in rows}
    assert {f"detect/{video}" for video in videos} == {n for n in receipt.upstream if n.startswith("detect/")}
    learned = receipt.facts["tables"]["bodies"]["learned"]["a"]
    assert learned["unused"]["score"] == "it is the same in all crops of a template"  # 0.9 in the file of boxes
    document = json.loads((home / "run" / "evaluate" / "metrics.json").read_text())
    assert document["tables"]["bodies"]["learned"] == {"a": learned}
    report(home / "run", out=home / "page")
    assert f"learned on {learned['subjects']} training subjects" in (home / "page" / "report.html").read_text()


def test_who_was_trained_on_is_not_tested(labelled: Path, tmp_path: Path) -> None:
    home = copied(labelled, tmp_path / "home")
    systems = {"a": {"recipe": STRIPED}, "b": {"start_from": "a", "recipe": loaded()}}
    assert train(home, systems)[0].complete
    for name in systems:  # b itself is not trained; what it starts from is
        both = {"tables": {"t": {"systems": [name], "splits": ["train", "test"], "unmated": "exclude"}}}
        outcome, _ = evaluate(home, systems, both)
        assert not outcome.complete
        assert f"table t: {name} was trained on" in outcome.failures[0].message
        assert "allow_trained_subjects: true" in outcome.failures[0].message


def test_a_table_of_unknown_systems_is_refused_before_anything_is_done(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.tables\.t: no system 'x'; there are a, b, f"):
        runner(tmp_path, SYSTEMS, evaluate={"tables": {"t": {"systems": ["x"]}}})


# -- several runs


def test_runs_stand_side_by_side(evaluated: Path, tmp_path: Path) -> None:
    """The systems of a second run beside the first one's: differences are those of one run that holds them all."""
    home = copied(evaluated, tmp_path / "home")
    other = tmp_path / "home" / "other"
    (home / "run").rename(home / "first")
    systems = {"a": SYSTEMS["b"], "f": SYSTEMS["f"]}
    shutil.copytree(home / "first", home / "run")
    only = {"tables": {"bodies": {**TABLES["tables"]["bodies"], "systems": ["a"]}}}
    assert train(home, systems, evaluate=only)[0].complete
    assert evaluate(home, systems, only)[0].complete
    (home / "run").rename(other)
    said = call_here("eval", "--run", home / "first", "--compare", other, "--json").calm()
    assert said.code == 0, said
    assert set(said.json["tables"]["bodies"]["systems"]) == {"first/a", "first/b", "other/a"}
    rows = {(c["first"], c["second"], c["metric"]): c for c in said.json["comparisons"] if c["table"] == "bodies"}
    for metric in ("rank-1", "map"):
        own, between = rows["first/a", "first/b", metric], rows["first/a", "other/a", metric]
        assert {n: v for n, v in own.items() if n != "second"} == {n: v for n, v in between.items() if n != "second"}
        assert rows["first/b", "other/a", metric]["difference"] == 0
    plain = call_here("eval", "--run", home / "first", "--compare", other).calm()
    assert "other/a" in plain.out
    assert "expected an evaluated run" in call_here("eval", "--run", other, "--compare", tmp_path).calm().line(2)
    assert "expected --run, the run to compare with" in call_here("eval", "--compare", other).calm().line(2)
    assert "expected different runs" in call_here("eval", "--run", other, "--compare", other).calm().line(2)


# -- numbers that are out of date


def with_study(home: Path, **changed: Any) -> Path:
    """The run of a home that keeps another study now, as a partial run leaves it."""
    pipeline = runner(home, changed.pop("systems", SYSTEMS), **({"evaluate": TABLES} | changed))[0].study
    (home / "run" / "pipeline.yaml").write_text(pipeline.to_yaml())
    return home / "run"


def without_data(run: Path) -> Path:
    """The same run where its data are not."""
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(environment | {"data": str(run / "gone")}))
    return run


LABELS = {"label": {"min_overlap": 0.7}}
ONE_TABLE = {"evaluate": {"tables": {"bodies": TABLES["tables"]["bodies"]}}}


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        (LABELS, "label/videos/LWIR-30m_a: min_overlap 0.5 -> 0.7"),
        (ONE_TABLE, "evaluate/metrics: tables.all"),
        ({"systems": {name: SYSTEMS[name] for name in "ab"}, **ONE_TABLE}, "systems [a, b, f] -> [a, b]"),
        ({"systems": {**SYSTEMS, "a": {"recipe": STRIPED}}}, "train/a/training: "),
        ({"systems": {**SYSTEMS, "never": {"recipe": STRIPED}}}, ""),  # the numbers of the others are what they were
    ],
)
def test_what_is_out_of_date_says_why(
    evaluated: Path, tmp_path: Path, changed: dict[str, Any], cause: str, data: bool
) -> None:
    """What the receipts and the study alone show is seen without the data, too."""
    run = with_study(copied(evaluated, tmp_path / "home"), **changed)
    found = standing(run if data else without_data(run), "evaluate", "metrics")
    if not cause:
        assert found.currency is (Currency.CURRENT if data else Currency.UNKNOWN)
        return
    assert found.currency is Currency.STALE
    assert cause in found.why
    for stamped in (current(run, "evaluate", "metrics", allow_stale=True).stamp, str(found.stamp)):
        assert stamped.startswith("run: OUT OF DATE")


def test_what_is_out_of_date_is_refused_or_stamped_everywhere(evaluated: Path, tmp_path: Path) -> None:
    run = with_study(copied(evaluated, tmp_path / "home"), **LABELS)
    other = copied(evaluated, tmp_path / "other") / "run"
    for command in (
        ("report", run, "--out", tmp_path / "page"),
        ("report", other, "--compare", run, "--out", tmp_path / "page"),
        ("eval", "--run", other, "--compare", run),
        ("eval", "--average", other, "--average", run, "--json"),
        ("scores", run / "evaluate" / "scores" / "bodies.a.parquet", "--out", tmp_path / "scores.txt"),
    ):
        assert "found it out of date: label/videos/LWIR-30m_a: min_overlap" in call_here(*command).calm().line(2)
    assert not (tmp_path / "page").exists()
    assert not (tmp_path / "scores.txt").exists()
    with pytest.raises(DataError, match="out of date"):
        _ = open_run_view(run).metrics
    said = call_here("eval", "--run", other, "--compare", run, "--allow-stale").calm()
    assert "!! run: OUT OF DATE" in said.out
    document = call_here("eval", "--average", other, "--average", run, "--json", "--allow-stale").calm().json
    assert any("OUT OF DATE" in stamp for stamp in document["stamps"])
    made = call_here("report", run, "--out", tmp_path / "page", "--allow-stale").calm()
    assert "OUT OF DATE" in made.out
    for name in ("report.html", "tables.md", "tables.tex", "tables/bodies.csv", "tables/all.csv"):
        assert "OUT OF DATE" in (tmp_path / "page" / name).read_text(), name
    rows = list(csv.DictReader((tmp_path / "page" / "tables" / "bodies.csv").read_text().splitlines()))
    assert all("OUT OF DATE" in row["stamp"] for row in rows)
    captions = [line for line in (tmp_path / "page" / "tables.tex").read_text().splitlines() if "caption" in line]
    assert all("OUT OF DATE" in line for line in captions)


def test_what_is_current_has_no_stamp_and_without_its_data_a_doubt(evaluated: Path, tmp_path: Path) -> None:
    home = copied(evaluated, tmp_path / "home")
    assert standing(home / "run", "evaluate", "metrics") == Standing("run", Currency.CURRENT)
    assert standing(home / "run", "crop", "videos/LWIR-30m_a").currency is Currency.CURRENT
    found = standing(without_data(home / "run"), "evaluate", "metrics")
    assert (found.currency, found.why) == (Currency.UNKNOWN, f"the data are not at {home / 'run' / 'gone'}")
    assert call_here("report", home / "run", "--out", tmp_path / "b").calm().code == 0
    for name in ("report.html", "tables.md", "tables.tex", "tables/bodies.csv"):
        assert "whether this is up to date is unknown" in (tmp_path / "b" / name).read_text(), name


NO_COLUMN = {"tables": {"bodies": {**TABLES["tables"]["bodies"], "pooling": "quality_weighted", "quality": "none"}}}


@pytest.mark.parametrize(
    ("changed", "said", "cause"),
    [
        ({"evaluate": NO_COLUMN}, "evaluate/metrics: ", "evaluate/metrics: "),  # it fails
        (LABELS, "waits for ", "label/videos/LWIR-30m_a: min_overlap 0.5 -> 0.7"),  # it is not even tried
    ],
)
def test_a_run_that_ends_early_prints_no_old_numbers(
    evaluated: Path, tmp_path: Path, changed: dict[str, Any], said: str, cause: str
) -> None:
    home = copied(evaluated, tmp_path / "home")
    study = write_study(home / "study.yaml", SYSTEMS, **{"evaluate": TABLES, **changed})
    call = ("eval", study, "--data", home / "data", "--run", home / "run")
    failed = call_here(*call).calm()
    assert failed.code == 3
    assert said in failed.out
    assert "Rank-1" not in failed.out
    assert "Numbers" not in failed.out
    assert f"those in {home / 'run' / 'evaluate'} are out of date, and are not shown" in failed.out
    assert call_here(*call, "--json").json["numbers"] is None
    assert cause in call_here("report", home / "run").calm().line(2)


def test_numbers_by_group_of_a_run(evaluated: Path) -> None:
    """Of bodies, faces and fusions, across domains and within them."""
    by = ["height", "crops", "range"]
    said = call_here("breakdown", evaluated / "run", *(x for n in by for x in ("--by", n)), "--json").calm()
    assert said.code == 0, said
    groups = [group for table in said.json for group in table["groups"] if table["table"] == "all"]
    assert {g["by"] for g in groups} == {*by}
    assert {g["system"] for g in groups if g["by"] == "crops"} == {"a", "b", "f"}  # templates of fusions are not kept
    assert {g["system"] for g in groups if g["by"] == "height"} == {"a", "b", "f", "a+f"}


# -- vectors that were made elsewhere


def outside(path: Path, kind: str, **changes: Any) -> Path:
    """Vectors of ten subjects in two domains, two videos each; LWIR as noisy as it is bright."""
    generator = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {"subject_id": [], "domain": [], "video_id": []}
    made = []
    for subject in range(10):
        for domain in ("VIS-500m", "SWIR-30m", "MWIR-30m", "LWIR-30m"):
            for video in range(2):
                rows["subject_id"].append(f"S{subject}")
                rows["domain"].append(domain)
                rows["video_id"].append(f"{domain}/{subject}/{video}")
                made.append(np.eye(10)[subject] + (domain == "LWIR-30m") * generator.normal(0, 2, 10))
    rows |= {name: values for name, values in changes.items() if name != "vector"}
    vector = changes.get("vector", np.array(made, np.float32))
    if kind == "npz":
        np.savez(path, vector=vector, **{name: np.array(values) for name, values in rows.items()})
    else:
        pq.write_table(pa.table(rows | {"vector": vector.tolist()}), path)
    return path


def protocol(folder: Path, **changes: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(
        json.dumps(
            {"gallery_domains": ["VIS-500m"], "probe_domains": ["SWIR-30m", "LWIR-30m"], "unlisted": "test", **changes}
        )
    )
    return path


def score(folder: Path, file: Path, *more: Any, **changes: Any) -> Said:
    command = ["eval", "--embeddings", file, "--protocol", protocol(folder, **changes), "--out", folder / "out", *more]
    return call_here(*command).calm()


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_vectors_of_others_are_scored(tmp_path: Path, kind: str) -> None:
    said = score(
        tmp_path, outside(tmp_path / f"theirs.{kind}", kind), "--json", "--set", "tables.t.metrics=[rank-1, auc]"
    )
    assert said.code == 0, said
    numbers = {(r["probe_domain"], r["metric"]): r for r in said.json["metrics"]}
    assert (numbers["SWIR-30m", "rank-1"]["k"], numbers["SWIR-30m", "rank-1"]["n"]) == (10, 10)
    assert numbers["LWIR-30m", "rank-1"]["k"] < 10
    assert numbers["SWIR-30m", "auc"]["value"] == 1
    assert numbers["SWIR-30m", "rank-1"]["system"] == "theirs"
    plain = score(tmp_path, tmp_path / f"theirs.{kind}")
    assert "theirs  body      VIS-500m  SWIR-30m" in plain.out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vector": np.full((80, 4), np.nan, np.float32)}, "row 0: expected numbers that float32 holds, got NaN"),
        ({"vector": np.eye(80, 4, dtype=np.float32)}, "row 4: the vector is zero"),
        ({"domain": ["XIR-1m"] * 80}, "XIR-1m"),
        ({"subject_id": ["S0"] * 80}, "gallery: expected two subjects or more, got S0 alone"),
    ],
)
def test_wrong_vectors_of_others_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    said = score(tmp_path, outside(tmp_path / "theirs.parquet", "parquet", **changes))
    assert message in said.line(2)


@pytest.mark.parametrize("missing", ["all", "some", "none"])
def test_unknown_media_are_said_in_every_output(tmp_path: Path, missing: str) -> None:
    videos: Any = {"all": [None] * 80, "some": [None, "", *(f"v{n}" for n in range(78))], "none": None}
    changes = {} if videos[missing] is None else {"video_id": pa.array(videos[missing], pa.string())}
    file = outside(tmp_path / "theirs.parquet", "parquet", **changes)
    count = {"all": "no row has", "some": "2 of 80 rows have no", "none": ""}[missing]
    stamp = f"media unknown ({count} video_id): not checked that gallery and probe are of different videos"
    said = score(tmp_path, file)
    made = report(tmp_path / "out", out=tmp_path / "page")
    outputs = {Path(name).name: Path(name).read_text() for name in made.files}
    outputs |= {"console": said.out, "report": "\n".join(made.lines)}
    outputs["metrics.json"] = (tmp_path / "out/evaluate/metrics.json").read_text()
    outputs["json"] = call_here(
        "score", file, "--protocol", tmp_path / "mine.yaml", "--out", tmp_path / "o", "--json"
    ).out
    outputs["python"] = " ".join(mdfpipe.evaluate(pq.read_table(file), str(tmp_path / "mine.yaml")).stamps)
    two = mdfpipe.compare([tmp_path / "out", tmp_path / "o"])
    outputs["compared"] = " ".join(two.stamps)
    assert len(outputs) == 10
    for name, text in outputs.items():
        plain = text.replace("\\_", "_")
        assert (stamp in plain) is (missing != "none"), (name, plain[:2000])


def test_videos_that_are_unknown_tell_nothing_apart(tmp_path: Path) -> None:
    file = outside(
        tmp_path / "theirs.parquet", "parquet", video_id=pa.nulls(80, pa.string()), session_id=["a", "b"] * 40
    )
    within = "tables.t.pairs=within"
    said = score(tmp_path, file, "--set", within, "--set", "tables.t.apart=video_id")
    assert "within VIS-500m nothing is measured: 20 of 20 rows have no video_id" in said.out
    said = score(tmp_path, file, "--set", within)
    assert re.search(r"VIS-500m  VIS-500m  .*  100\.0\S* \(20/20, ", said.out)
    assert "filter rule: pairs of one session" in said.out
    said = score(tmp_path, file, "--set", "tables.t.pairs=all")
    assert "a template is: subject; within one domain: session" in said.out
    report(tmp_path / "out", out=tmp_path / "page")
    page = (tmp_path / "page/report.html").read_text()
    tiles = re.findall(r'class="card tile" title="Rank-1 of theirs, (\S+) to (\S+?);', page)
    assert tiles
    assert all(gallery != probes for gallery, probes in tiles)


def test_what_eval_needs(tmp_path: Path) -> None:
    file = outside(tmp_path / "theirs.parquet", "parquet")
    assert "expected --protocol NAME and --out FOLDER" in call_here("eval", "--embeddings", file).calm().line(2)
    assert "expected STUDY; see --help" in call_here("eval").calm().line(2)
    assert "found no such file" in score(tmp_path, tmp_path / "none.parquet").line(2)
    (tmp_path / "text.parquet").write_text("no")
    assert "expected a Parquet or NPZ file of vectors" in score(tmp_path, tmp_path / "text.parquet").line(2)
    said = score(tmp_path, file, unlisted="refuse")
    assert "subject S0 of" in said.line(2)
    assert "protocol.unlisted=test (--set)" in said.line(2)
    assert score(tmp_path, file, "--set", "protocol.unlisted=test", unlisted="refuse").code == 0
    assert "expected a setting of it" in score(tmp_path, file, "--set", "protocol=test").line(2)
    assert "with --set protocol.unlist: unlist: unknown" in score(tmp_path, file, "--set", "protocol.unlist=test").line(
        2
    )
    market = ["score", file, "--protocol", "market", "--out", tmp_path / "m", "--set", "protocol.unlisted=test"]
    assert "protocol.unlisted: the protocol of a benchmark has no settings" in call_here(*market).line(2)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, vector=np.array([{"a": 1}], object), subject_id=np.array(["a"]), domain=np.array(["VIS-500m"]))
    assert "expected a Parquet or NPZ file of vectors" in score(tmp_path, pickled).line(2)


def test_numbers_are_marked_where_detected_faces_name_their_crops(tmp_path: Path) -> None:
    """Bodies of given ids rest on no face: their numbers have no mark, those of faces and of a fusion have it."""
    draw(tmp_path / "data", frames=8)
    faces = (tmp_path / "data/faces.csv").read_text().splitlines()
    lines = [f"{faces[0]},SOURCE", *(f"{line},detected" for line in faces[1:])]
    (tmp_path / "data/faces.csv").write_text("\n".join(lines) + "\n")
    boxes = [
        [f"videos/{video}", frame, *person.box(frame), 0.9, person.subject_id]
        for video, _, names in VIDEOS
        for person in (one for one in CAST if one.subject_id in names)
        for frame in range(8)
    ]
    write_rows(tmp_path / "data/boxes.csv", "video_id,frame,x1,y1,x2,y2,score,subject_id", boxes)
    systems = {name: SYSTEMS[name] for name in ("a", "f")}
    tables = {"all": {**TABLES["tables"]["all"], "published": {}}}
    make, _ = runner(tmp_path, systems, evaluate={"tables": tables})
    assert make.execute().complete
    marked: dict[str, set[bool]] = {}
    for row in Run(tmp_path / "run").table("evaluate", "metrics").to_pylist():
        marked.setdefault(row["system"], set()).add("detected_faces" in (row["notes"] or []))
    assert marked == {"a": {False}, "f": {True}, "a+f": {True}}
