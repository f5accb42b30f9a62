"""Scores of other matchers: every layout that is read, what each gives, and one line for what is wrong."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdfpipe.errors import DataError, MdfError, ProtocolError
from mdfpipe.evaluation.comparing import Entries
from mdfpipe.evaluation.measures.closed_set import closed_set
from mdfpipe.evaluation.measures.verification import roc
from mdfpipe.evaluation.search import search_scores
from mdfpipe.running.score_lists import score_lists
from mdfpipe.store.results import Results
from mdfpipe.store.tables import CURVES, SCORES
from tests.real import ASSETS, needs_assets
from tests.runs import call_here

PROBES = [f"p{n}" for n in range(9)]
OF_PROBE = ["a", "b", "c", "d", "e", "f", "a", "b", "x"]  # x is not enrolled
GALLERY = ["a", "b", "c", "d", "e", "f"]
ROWS = list(product(range(9), range(6)))
MATRIX = np.random.default_rng(3).normal(size=(9, 6)).round(3)
MATRIX[[0, 1, 2, 3, 6], [0, 1, 2, 3, 0]] += 2
MATED = np.array([[probe == template for template in GALLERY] for probe in OF_PROBE])
QUICK = ("tables.scores.metrics=[rank-1,fnir@fpir=1,tar@far=0.1,eer,eer-hter,eer-fvc,rocch-eer,auc]",)


def write(path: Path, rows: list[list[object]], mark: str = " ") -> Path:
    path.write_text("".join(mark.join(map(str, row)) + "\n" for row in rows))
    return path


def layout(name: str, folder: Path) -> Path:
    """The same comparisons in one of the layouts."""
    names = [(f"{GALLERY[g]}", f"t/{GALLERY[g]}", OF_PROBE[p], PROBES[p], MATRIX[p, g]) for p, g in ROWS]
    header: list[object] = ["score", "gallery_subject", "gallery_template", "probe_subject", "probe"]
    if name == "bob4":
        return write(folder / "m.txt", [[c, real, probe, s] for c, _, real, probe, s in names])
    if name == "bob5":
        return write(folder / "m.txt", [list(row) for row in names])
    if name in "csv;\t":
        mark = {"csv": ","}.get(name, name)
        return write(folder / "m.csv", [header, *([s, c, t, real, probe] for c, t, real, probe, s in names)], mark)
    if name == "parquet":
        columns = {n: [row[at] for row in names] for at, n in ((1, "gallery_template"), (0, "gallery_subject"))}
        columns |= {n: [row[at] for row in names] for at, n in ((3, "probe"), (2, "probe_subject"), (4, "score"))}
        columns |= {n: [t] * len(names) for n, t in zip(SCORES.names[:3], ("VIS", "MWIR", "all"), strict=True)}
        pq.write_table(pa.table({n: columns[n] for n in SCORES.names}, schema=SCORES), folder / "m.parquet")
        return folder / "m.parquet"
    labelled: list[list[object]] = [[int(MATED[p, g]), MATRIX[p, g]] for p, g in ROWS]
    if name == "label,score":
        return write(folder / "m.txt", [[2 * int(label) - 1, s] for label, s in labelled])  # bob's -1
    if name == "score,label":
        return write(folder / "m.csv", [["score", "label"], *([s, label] for label, s in labelled)], ",")
    raise AssertionError(name)


def value(results: Results, metric: str, system: str = "m") -> float:
    (row,) = [row for row in results.metrics if row["metric"] == metric and row["system"] == system]
    return float(row["value"])


@pytest.mark.parametrize("name", ["bob4", "bob5", "csv", ";", "\t", "parquet", "label,score", "score,label"])
def test_every_layout_gives_the_same_numbers(name: str, tmp_path: Path) -> None:
    found = score_lists([layout(name, tmp_path)], settings=QUICK)
    curve = roc(MATRIX[MATED], MATRIX[~MATED], whole=True)
    for metric in (curve.tar_at(0.1), curve.eer(), curve.eer_hter(), curve.eer_fvc(), curve.rocch_eer(), curve.auc()):
        key = "tar@far=0.1" if metric.name.startswith("tar") else metric.name
        assert value(found, key) == pytest.approx(metric.value, abs=1e-6), metric
        (row,) = [row for row in found.metrics if row["metric"] == key]
        assert row["low"] <= row["value"] <= row["high"]
    if "label" in name:
        assert [row["metric"] for row in found.metrics] == QUICK[0][24:-1].split(",")[2:]
        assert "no rank-1, fnir@fpir=1: the list does not name" in found.tables["scores"]["notes"][0]
        assert "as if they were independent" in found.tables["scores"]["notes"][1]
        return
    sides = Entries("gallery", np.array(GALLERY)), Entries("probes", np.array(OF_PROBE))
    assert value(found, "rank-1") == closed_set(search_scores(MATRIX, *sides, unmated="exclude"), ["rank-1"])[0].value
    assert {(row["n"], row["n_false"]) for row in found.metrics if row["metric"].startswith("fnir")} == {(8, 1)}


def test_two_lists_distances_and_histograms(tmp_path: Path) -> None:
    """PyEER's: any number of columns, the score last; impostor scores as counts; distances."""
    genuine = write(tmp_path / "exp_true.txt", [["S1", "S1", s] for s in (3, 4, 4, 1)])
    impostor = write(tmp_path / "exp_false.txt", [[s] for s in (0, 0, 1, 2, 4)])
    counts = write(tmp_path / "counts.txt", [[n] for n in (2, 1, 1, 0, 1)])
    asked = ("tables.scores.metrics=[auc,eer]",)
    plain = score_lists(genuine=[genuine], impostor=[impostor], settings=asked)
    assert value(plain, "auc", "exp") == roc([3, 4, 4, 1], [0, 0, 1, 2, 4]).auc().value
    other = score_lists(genuine=[genuine], impostor=[counts], histogram=True, settings=asked)
    assert value(other, "auc", "exp_true") == value(plain, "auc", "exp")
    assert [r["low"] for r in other.metrics] == [r["low"] for r in plain.metrics]  # the draws are of equal weights
    away = score_lists(genuine=[genuine], impostor=[impostor], distances=True, settings=asked)
    assert value(away, "auc", "exp") == pytest.approx(1 - value(plain, "auc", "exp"))
    assert "were negated" in away.tables["scores"]["notes"][0]


def test_queries_and_templates_with_a_file_of_mates(tmp_path: Path) -> None:
    """PyEER's CMC: several templates may belong to a query."""
    scores = [["q1", "t1", 0.5], ["q1", "t2", 0.4], ["q1", "t3", 0.9]]
    scores += [["q2", "t1", 0.1], ["q2", "t2", 0.2], ["q2", "t3", 0.8]]
    file = write(tmp_path / "m.txt", [list(row) for row in scores])
    mates = write(tmp_path / "mates.txt", [["q1", "t1"], ["q1", "t2"], ["q2", "t3"]])
    found = score_lists([file], mates=mates, settings=("tables.scores.metrics=[rank-1,rank-2]",))
    assert [value(found, name) for name in ("rank-1", "rank-2")] == [0.5, 1.0]
    with pytest.raises(DataError, match="genuine query-template pairs by --mates"):
        score_lists([file])


def test_a_list_that_lacks_comparisons_has_pairs_only(tmp_path: Path) -> None:
    file = layout("bob5", tmp_path)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    found = score_lists([file], settings=QUICK)
    assert "1 of 9 probes x 6 gallery templates are missing, such as p0 with t/a" in found.tables["scores"]["notes"][0]
    assert "independent" not in str(found.tables["scores"]["notes"])  # subjects are drawn
    assert all(row["low"] <= row["value"] <= row["high"] for row in found.metrics)


def test_a_matcher_beside_the_scores_of_a_run(tmp_path: Path) -> None:
    """Where probes and gallery templates agree it is compared with the run; else a line says why not."""
    run = layout("parquet", tmp_path).rename(tmp_path / "own.parquet")
    beside = score_lists([layout("csv", tmp_path), run], settings=QUICK)
    assert {(row["gallery_domain"], row["probe_domain"]) for row in beside.metrics} == {("VIS", "MWIR")}
    assert {row["metric"] for row in beside.comparisons} >= {"rank-1", "auc"}
    assert all(row["difference"] == pytest.approx(0, abs=1e-6) for row in beside.comparisons)
    file = layout("csv", tmp_path)
    file.write_text(file.read_text().replace("p0", "q0"))
    apart = score_lists([file, run], settings=QUICK)
    assert not apart.comparisons
    said = "m: not compared with VIS > MWIR: 14 of its 15 probes and gallery templates are among the 15 there"
    assert said in apart.tables["scores"]["notes"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a score a line, got an empty file"),
        ("# only this\n\n", "got an empty file"),
        ("1 0.5\n\n0 inf\n", "line 3: expected a score, a finite number, got 'inf'; write nan for a comparison"),
        ("1 0.5\n0 high\n", "line 2: expected a score, a finite number, got 'high'"),
        ("1 0.5\n0 0.1 7\n", "line 2: expected 2 columns as in the first line, got 3: 0 0.1 7"),
        ("a b p1 0.5\na b 0.5\n", "line 2: expected 4 columns"),
        ("label,score\n1,0.5\n2,0.4\n", "line 3: expected a label, 1 (genuine) or 0 (impostor), got '2'"),
        ("label,score\n", "got a header alone"),
        ("label,points\n1,2\n", "column score: expected a header score"),
        ("probe,score\np,0.5\n", "expected a label, or probe_subject and gallery_subject"),
        ("1 0.5\n1 0.4\n", "expected comparisons of both kinds, got 2 that are all genuine (mated)"),
        ("a b p1 0.5\na b p2 0.5\n", "got 2 that are all impostor (non-mated)"),
        ("1 0\n0 1\n", "two columns of which either may be the label"),
        ("0.5\n0.4\n", "say which list it is by --genuine FILE --impostor FILE"),
        ("a t a p 1\nb t b p 1\n", "line 2: p is of subject b here and of a before"),
        ("label,probe_subject,gallery_subject,score\n1,a,b,1\n", "line 2: expected a label as the subjects say, got 1"),
        ("1 2 3 4 5 6\n", "line 1: expected 2 to 5 columns"),
        ("probe_subject,gallery_subject,score\na,a,1\n,b,2\n", "line 3: expected names of subject and template"),
        ("\xff\xfe", "expected scores as UTF-8 text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(MdfError) as error:
        score_lists([file])
    assert said in str(error.value)
    assert str(error.value).startswith(str(file))


def test_other_things_that_are_wrong(tmp_path: Path) -> None:
    file = layout("bob5", tmp_path)
    with pytest.raises(ProtocolError, match="expected a metric that the scores can give"):
        score_lists([layout("score,label", tmp_path)], settings=("tables.scores.metrics=[rank-1]",))
    with pytest.raises(ProtocolError, match="one list of gallery > probe by this name, got two"):
        score_lists([file, file], settings=QUICK)
    with pytest.raises(DataError, match="found none"):
        score_lists([tmp_path / "nothing.parquet"])
    write(tmp_path / "x.parquet", [["no", "table"]])
    with pytest.raises(MdfError, match=r"x\.parquet"):
        score_lists([tmp_path / "x.parquet"])


def test_the_command_writes_numbers_curves_and_the_page(tmp_path: Path) -> None:
    one, two = layout("bob5", tmp_path), layout("csv", tmp_path).rename(tmp_path / "other.csv")
    out = tmp_path / "out"
    said = call_here("score", one, two, "--out", out, "--set", QUICK[0], "--csv", tmp_path / "n.csv", "--json")
    assert said.code == 0, said.err
    assert {row["verdict"] for row in said.json["metrics"] if row["metric"] in ("rank-1", "auc")} == {"best"}
    assert len((tmp_path / "n.csv").read_text().splitlines()) == 1 + len(said.json["metrics"])
    curves = pq.read_table(out / "evaluate" / "curves.parquet", schema=CURVES)
    assert set(curves["curve"].to_pylist()) == {"cmc", "roc", "det"}
    page = (out / "evaluate" / "report" / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert not any(words in page for words in ("no funnel", "no crop", "Every crop is hidden"))
    pairs = call_here(
        "score", "--genuine", write(tmp_path / "g", [[1], [2]]), "--impostor", write(tmp_path / "i", [[0]])
    )
    assert pairs.code == 0, pairs.err
    assert "no subjects are named" in pairs.out
    assert "templates" not in pairs.out.replace("gallery templates", "")
    wrong = call_here("score", one, "--protocol", "market")
    assert wrong.code == 2
    assert "expected one file of vectors, --out" in wrong.err
    assert json.loads((out / "evaluate" / "metrics.json").read_text())["tables"]["scores"]["systems"] == ["m", "other"]


@needs_assets
def test_a_published_file_of_bob(tmp_path: Path) -> None:
    """dev-1 has 54 failures to acquire as nan: without them bob's half-total error at its own threshold."""
    file = ASSETS / "scores" / "bob_measure" / "dev-1.txt"
    found = score_lists([file], settings=("tables.scores.metrics=[eer-hter]", "tables.scores.failure=exclude"))
    assert value(found, "eer-hter", "dev-1") == (31 / 495 + 28 / 451) / 2
    assert any(
        "54 of 1000 comparisons failed and have no score, 28 of them mated" in n
        for n in found.tables["scores"]["notes"]
    )


def test_failed_comparisons_are_failures_to_acquire(tmp_path: Path) -> None:
    """A probe or template without any score failed to enrol. Where only some pairs failed the list has pairs alone."""
    names = [(f"s{g}", f"s{p}", p, g) for p in range(4) for g in range(4)]

    def written(lost: set[tuple[int, int]]) -> Path:
        lines = [f"{a} t{g} {b} p{p} {'nan' if (p, g) in lost else 1 + (a == b) + p / 9}" for a, b, p, g in names]
        (tmp_path / "m.txt").write_text("\n".join(lines))
        return tmp_path / "m.txt"

    def reached(lost: set[tuple[int, int]], policy: str) -> Results:
        asked = "tables.scores.metrics=[rank-1,tar@far=0.5]"
        return score_lists([written(lost)], settings=(asked, f"tables.scores.failure={policy}"))

    whole = {(3, g) for g in range(4)} | {(p, 2) for p in range(4)}  # probe 3 and template 2
    for policy, hits in (("miss", 2 / 4), ("exclude", 1.0)):
        found = reached(whole, policy)
        (row,) = [row for row in found.metrics if row["metric"] == "rank-1"]
        assert (row["value"], row["failed_probes"], row["failed_gallery"]) == (hits, 1, 1)
    for policy, share in (("miss", 3 / 4), ("exclude", 1.0)):
        found = reached({(0, 0), (1, 2)}, policy)
        assert [(row["metric"], row["value"]) for row in found.metrics] == [("tar@far=0.5", share)]
        notes = " ".join(found.tables["scores"]["notes"])
        assert "2 comparisons failed, of probes and templates that have other scores, such as p0 with t0" in notes
        assert "2 of 16 comparisons failed and have no score, 1 of them mated" in notes
