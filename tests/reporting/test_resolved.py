"""Operating points: what the data do not resolve is no number, in every output; what they hardly resolve has a mark."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mdfpipe
from mdfpipe.evaluation.measures.metrics import mean_of_rows
from mdfpipe.reporting.grids import views
from mdfpipe.reporting.written import latex
from mdfpipe.store.results import Results, read_results
from tests.runs import Said, call_here

MATED = 10
METRICS = "rank-1, rank-10, fnir@fpir=0.01, dir@fpir=0.01, tar@far=1e-4, tar@far=0, auc"
SETTINGS = (f"tables.t.metrics=[{METRICS}, eer]", "tables.t.unmated=exclude")


def vectors(strangers: int) -> pa.Table:
    """A subject enrolled and searched, MATED times, near its own direction; strangers are searched, too."""
    generator = np.random.default_rng(0)
    who = [*range(MATED), *range(MATED), *range(MATED, MATED + strangers)]
    made = 0.16 * generator.standard_normal((len(who), 40)).astype(np.float32)
    made[np.arange(2 * MATED), who[: 2 * MATED]] += 1
    domains = ["VIS-500m"] * MATED + ["SWIR-30m"] * (MATED + strangers)
    return pa.table({"subject_id": [f"S{n:04d}" for n in who], "domain": domains, "vector": made.tolist()})


def protocol(folder: Path) -> Path:
    path = folder / "mine.yaml"
    roles = {"gallery_domains": ["VIS-500m"], "probe_domains": ["SWIR-30m"], "unlisted": "test"}
    path.write_text(json.dumps(roles))
    return path


def written(folder: Path, strangers: int) -> dict[str, str]:
    """What each output says of the vectors: console, JSON, page, Markdown, LaTeX, CSV."""
    file, out = folder / "theirs.parquet", folder / "out"
    pq.write_table(vectors(strangers), file)
    command: list[str | Path] = ["score", file, "--protocol", protocol(folder), "--out", out]
    asked = (f"tables.t.metrics=[{METRICS}]", SETTINGS[1]) if strangers > 30 else SETTINGS  # a slow one is left out
    settings = [part for one in asked for part in ("--set", one)]
    said: Said = call_here(*command, *settings).calm()
    assert said.code == 0, said
    made = call_here("report", out, "--latex-cells", "all").calm()
    assert made.code == 0, made
    home = out / "evaluate" / "report"
    found = {name: (home / f"tables.{name}").read_text() for name in ("md", "tex")}
    found |= {"html": html.unescape((home / "report.html").read_text()), "csv": (home / "tables" / "t.csv").read_text()}
    return found | {"console": said.out, "json": (out / "evaluate" / "metrics.json").read_text()}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("scored")
    pq.write_table(vectors(1), folder / "theirs.parquet")
    mdfpipe.score(folder / "theirs.parquet", str(protocol(folder)), folder / "out", SETTINGS)
    return read_results(folder / "out")


def plain(text: str) -> str:
    """A text of Markdown or LaTeX without what those add."""
    for mark, tex in (("†", "dagger"), ("‡", "ddagger"), ("°", "circ"), ("§", "S")):
        text = re.sub(rf"\$\^\{{\\{tex}\}}\$", mark, text)
    return text.replace("\\", "").replace("**", "").replace("--", "–")


@pytest.mark.parametrize("strangers", [1, 30, 3000])
def test_what_the_data_do_not_resolve_is_no_number_in_any_output(
    tmp_path: Path, strangers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdfpipe.reporting.atlas.LEAST_POINTS", 1 << 20)  # no map of so many templates, which is slow
    texts = {name: plain(text) for name, text in written(tmp_path, strangers).items()}
    rows = {row["metric"]: row for row in json.loads(texts["json"])["metrics"]}
    lines = {line["metric"]: line for line in csv.DictReader(texts["csv"].splitlines())}
    readable = [texts[name] for name in ("console", "html", "md", "tex")]
    pairs = MATED * (MATED - 1 + strangers)
    needs = {
        "fnir@fpir=0.01": f"needs at least 100 non-mated searches, has {strangers}",
        "tar@far=1e-4": f"needs at least 10000 non-mated pairs, has {pairs}",
        "tar@far=0": f"a share of 0 needs infinitely many non-mated pairs, has {pairs}",
    }
    if strangers == 3000:
        del needs["fnir@fpir=0.01"], needs["tar@far=1e-4"]
    for metric, words in needs.items():
        row = rows[metric]
        nothing = ("value", "k", "low", "high", "interval", "threshold", "k_false", "verdict")
        assert [row[name] for name in nothing] == [None] * len(nothing)
        assert (row["notes"], row["words"]) == (["unresolved"], [words])
        assert (lines[metric]["percent"], lines[metric]["notes"]) == ("", words)
        assert all(words in text for text in readable)
    few = "fewer than 30 errors are expected at the operating point"
    if strangers == 3000:
        row, n = rows["fnir@fpir=0.01"], MATED
        assert (row["notes"], row["n_false"], row["k_false"] <= 30) == ([], 3000, True)
        cell = f"{100 * row['value']:.1f} ({row['k']}/{n}, {row['k_false']}/3000 false, "
        assert cell + f"{100 * row['low']:.1f}–{100 * row['high']:.1f})" in texts["console"]
        assert cell in texts["md"]
        assert f"{100 * row['value']:.2f} {{scriptsize ({row['k']}/{n}, {row['k_false']}/3000 false, " in texts["tex"]
        small = f"<small>{row['k']}/{n}</small><small>{row['k_false']}/3000 false</small>"
        assert f"{100 * row['value']:.1f}{small}" in texts["html"]
        assert (lines[row["metric"]]["k_false"], lines[row["metric"]]["n_false"]) == (str(row["k_false"]), "3000")
        assert "under_30" in rows["tar@far=1e-4"]["notes"]  # three false accepts are expected
        assert f"{100 * rows['tar@far=1e-4']['value']:.1f}†" in texts["console"]
    doubtful = "tar@far=1e-4" if strangers == 3000 else "eer"
    assert "under_30" in rows[doubtful]["notes"]
    assert all(f"† {few}" in text for text in readable)
    assert few in lines[doubtful]["notes"]
    # of every output alike: the rank that every system reaches, n of what could be false, the protocol
    trivial = "every system reaches it, whatever it recognises"
    assert (rows["rank-10"]["value"], rows["rank-10"]["notes"], rows["rank-10"]["words"]) == (1, ["trivial"], [trivial])
    assert all("100.0‡" in text or "100.00‡" in text or "<sup" in text for text in readable)
    assert all(f"‡ {trivial} (Rank-10)" in text for text in readable)
    assert lines["rank-10"]["notes"] == trivial
    fingerprint = json.loads(texts["json"])["tables"]["t"]["fingerprint"]
    assert all(f"fingerprint: {fingerprint[:12]}" in text for text in (texts["console"], texts["md"], texts["tex"]))
    assert f"<dd>{fingerprint[:12]}</dd>" in texts["html"]
    assert lines["auc"]["fingerprint"] == fingerprint
    assert all(f"SWIR-30m {pairs} pairs" in text and f"SWIR-30m {strangers} searches" in text for text in readable)
    assert all(f"{pairs} non-mated" in text for text in readable)  # in the cell of AUC


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ("all", r"100.00\$\^{\\ddagger}\$ {\\scriptsize \(10/10, 72.25--100.00\)}"),
        ("value", r"100.00\$\^{\\ddagger}\$ (&|\\\\)"),
        ("half", r"100.00\$\^{\\ddagger}\$ \$\\pm\$ 13.88"),
        ("count", r"10/10\$\^{\\ddagger}\$"),
    ],
)
def test_a_cell_of_latex_is_what_was_asked_for(scored: Results, cells: Any, expected: str) -> None:
    """What a choice leaves out is in comments above the table."""
    text = latex(scored, views(scored), cells)
    assert re.search(expected, text), text
    assert ("% theirs: " in text) is (cells != "all")
    assert "100.00‡ (10/10, 72.25–100.00)" in text or cells == "all"


def test_curves_begin_at_one_false_alarm(tmp_path: Path) -> None:
    found = mdfpipe.evaluate(vectors(30), str(protocol(tmp_path)), settings=SETTINGS)
    for kind, n in (("roc", MATED * (MATED - 1 + 30)), ("det", 30)):
        x = [row["x"] for row in found.curves.to_pylist() if row["curve"] == kind]
        assert x[0] == 1 / n
        assert x == sorted(set(x))
        assert x[-1] == 1


@pytest.mark.parametrize(
    ("people", "lost", "notes"),
    [
        (12, False, []),
        (4, False, ["few_subjects", "lost_samples"]),
        (12, True, ["failures"]),
    ],
)
def test_a_number_without_an_interval_says_why(tmp_path: Path, people: int, lost: bool, notes: list[str]) -> None:
    generator = np.random.default_rng(0)
    who = [n % people for n in range(2 * people)]
    made = generator.standard_normal((2 * people, 8)) + np.eye(people, 8)[who]
    domains = ["VIS-500m"] * people + ["SWIR-30m"] * people
    table = pa.table({"subject_id": [f"S{n}" for n in who], "domain": domains, "vector": made.tolist()})
    if lost:  # by face it is there, by body not
        table = table.append_column("modality", pa.array(["body"] * len(who)))
        face = table.slice(0, 1).set_column(0, "subject_id", [["late"]]).set_column(3, "modality", [["face"]])
        both = [face, face.set_column(1, "domain", [["SWIR-30m"]])]
        table = pa.concat_tables([table, *both]).append_column(
            "system", pa.array(["body"] * len(who) + ["face", "face"])
        )
    settings = ["tables.t.metrics=[auc]", *(["tables.t.systems=[body]"] if lost else [])]
    found = mdfpipe.evaluate(table, str(protocol(tmp_path)), settings=settings)
    (row,) = found.metrics.to_pylist()
    assert row["notes"] == notes
    assert (row["low"] is None) is lost


def test_a_mean_with_a_part_that_is_no_number_is_none() -> None:
    part = {"value": 0.5, "notes": ["under_30", "no_width"]}
    assert mean_of_rows([part, part]) == {"value": 0.5, "notes": ["under_30", "mean"]}
    assert mean_of_rows([part, {"value": None, "notes": ["unresolved"]}]) == {"value": None, "notes": ["unresolved"]}
