"""Verdicts, worked by hand; and the same number with the same verdict wherever it is written."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdfpipe.evaluation.case import Case
from mdfpipe.evaluation.measures.differences import Cases, Counted, compare_two
from mdfpipe.reporting.grids import views
from mdfpipe.reporting.numbers import number_lines
from mdfpipe.reporting.results_page import ResultsPage, render
from mdfpipe.reporting.written import csv_of, latex, markdown
from mdfpipe.store.results import AVERAGE, POOLED, Verdict, judged, read_results, results_of
from tests.reporting.evaluated import GALLERY, PROBES, comparison, entry, evaluate, metric

BEST, LEVEL, WORSE, UNTESTED = Verdict
FIRST, SECOND = (Case(GALLERY, probe, "all") for probe in PROBES)


def found(case: Case, hits: str) -> dict[Case, Counted]:
    """A probe a subject, of which 1 are found and 0 are not."""
    values = np.array([float(hit) for hit in hits])
    keys = [f"P{n}/{case.probe_domain}/{case.gallery}" for n in range(len(hits))]
    return {case: Counted(keys, np.array([f"P{n}" for n in range(len(hits))]), {"rank-1": values, "map": values})}


def compared(at: Case, first: Cases, second: Cases, name: str = "rank-1") -> dict[str, Any]:
    """The row of COMPARISONS, and the verdicts of both systems' numbers."""
    (row,) = compare_two("t", at, ("a", first), ("b", second), [name])
    values = {"a": row["first_value"], "b": row["second_value"]}
    rows = [metric(s, at.probe_domain, name, table="t", gallery=at.gallery, value=v) for s, v in values.items()]
    made = results_of({"t": {"systems": ["a", "b"]}}, rows, [row])
    return row | {"verdicts": [number.verdict for number in made.numbers]}


@pytest.mark.parametrize(
    ("a", "b", "p", "verdicts"),
    [
        ("11110000", "11110000", 1.0, [BEST, BEST]),  # equal
        ("11111111", "00000000", 2 / 2**8, [BEST, WORSE]),  # 8 of 8 disagree alike: 2 (1/2)^8
        ("00000000", "11111111", 2 / 2**8, [WORSE, BEST]),
        ("11111111", "00011111", 0.25, [BEST, LEVEL]),  # 3 of 3 disagree alike: 2 (1/2)^3
        ("11111", "00000", 2 / 2**5, [BEST, LEVEL]),  # with five subjects nothing is significant
    ],
)
def test_one_probe_a_subject_is_mcnemars(a: str, b: str, p: float, verdicts: list[Verdict]) -> None:
    row = compared(FIRST, found(FIRST, a), found(FIRST, b))
    assert (row["test"], row["p"], row["verdicts"]) == ("mcnemar", pytest.approx(p), verdicts)
    assert row["n"] == len(a)


@pytest.mark.parametrize(
    ("a", "b", "p", "verdicts"),
    [
        ("11110000", "11110000", 1.0, [BEST, BEST]),
        ("11111111", "00000000", 2 / 2001, [BEST, WORSE]),  # every one of 2000 samples of subjects says the same
        ("00000000", "11111111", 2 / 2001, [WORSE, BEST]),
        ("11110000", "11100001", 1.0, [BEST, BEST]),  # one each
        ("11111", "00000", None, [BEST, UNTESTED]),  # too few subjects, however they agree
        ("1", "0", None, [BEST, UNTESTED]),
    ],
)
@pytest.mark.parametrize("at", [Case(GALLERY, POOLED, "all"), Case(GALLERY, PROBES[0], AVERAGE)])
def test_pooled_and_averaged_numbers_are_compared_like_any_other(
    at: Case, a: str, b: str, p: float | None, verdicts: list[Verdict]
) -> None:
    cases = (
        (FIRST, SECOND) if at.probe_domain == POOLED else (Case(*vars(FIRST).values()), Case(GALLERY, PROBES[0], "2"))
    )
    one, two = ({case: counted for c in cases for case, counted in found(c, hits).items()} for hits in (a, b))
    row = compared(at, one, two)
    assert (row["p"], row["verdicts"], row["n"]) == (
        p if p is None else pytest.approx(p, abs=0.05),
        verdicts,
        2 * len(a),
    )
    assert row["test"] == (None if p is None else "bootstrap")
    assert row["significant"] is (None if p is None else p < 0.05)


def test_a_mean_is_of_what_both_have() -> None:
    one, other = found(FIRST, "11111111"), found(SECOND, "00000000")
    pooled = Case(GALLERY, POOLED, "all")
    assert compared(pooled, one | other, one | other)["first_value"] == 0.5
    assert compared(pooled, one | other, one)["n"] == 8
    assert not list(compare_two("t", pooled, ("a", one), ("b", other), ["rank-1"]))  # no probe that both have


# -- the same through console, page, Markdown, LaTeX, CSV, JSON


VALUES = {"alpha": 0.75, "twin": 0.75, "beta": 0.5, "gamma": 0.25, "delta": 0.125}
TOLD = {"alpha": BEST, "twin": BEST, "beta": LEVEL, "gamma": WORSE, "delta": UNTESTED}


@pytest.fixture(scope="module", params=[*PROBES, POOLED])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of five systems: two that are best, and one of each other verdict."""
    rows = [metric(system, request.param, value=value, k=int(8 * value)) for system, value in VALUES.items()]
    tests = [
        comparison("twin", "beta", request.param, False),
        comparison("gamma", "alpha", request.param, True, difference=-0.5),
        comparison("alpha", "delta", request.param, False) | {"p": None, "significant": None, "test": None},
    ]
    tables = {"roles": entry("Five", list(VALUES))}
    return evaluate(tmp_path_factory.mktemp("verdicts") / "run", metrics=rows, tables=tables, compared=tests, drawn=[])


def test_a_number_says_the_same_wherever_it_is_written(run: Path) -> None:
    results = read_results(run)
    assert {n.row["system"]: n.verdict for n in results.numbers} == TOLD
    shown = views(results)
    rows = {line["system"]: line for line in csv.DictReader(csv_of(shown[0]).splitlines())}
    assert {system: row["verdict"] for system, row in rows.items()} == {s: str(v) for s, v in TOLD.items()}
    document = json.loads(json.dumps(results.document()))
    assert {row["system"]: row["verdict"] for row in document["metrics"]} == {s: str(v) for s, v in TOLD.items()}
    console = {words[0]: words for line in number_lines(results) if (words := line.split()) and words[0] in VALUES}
    marks = {BEST: "*", LEVEL: "=", WORSE: "<", UNTESTED: "?"}
    assert {system: words[6] for system, words in console.items()} == {
        system: marks[verdict] for system, verdict in TOLD.items()
    }
    html = render(ResultsPage("run", results, shown, False, {}))
    cells = dict(re.findall(r"<tr><td>(\w+)</td>\s*<td title=\"[^\"]*\">(.*?)\s*<small>", html))
    assert cells == {
        "alpha": "<strong>75.0</strong>",
        "twin": "<strong>75.0</strong>",
        "beta": '50.0<sup class="level">≈</sup>',
        "gamma": "25.0",
        "delta": '12.5<sup class="level">?</sup>',
    }
    text, tex = markdown(results, shown), latex(results, shown, "value")
    for system, in_text, in_tex in (
        ("alpha", "**75.0**", r"\textbf{75.00}"),
        ("twin", "**75.0**", r"\textbf{75.00}"),
        ("beta", "50.0 ≈", r"50.00$^{\approx}$"),
        ("gamma", "25.0", "25.00"),
        ("delta", "12.5 ?", "12.50$^{?}$"),
    ):
        assert f"| {system} | {in_text} (" in text
        assert f"{system} & {in_tex} \\\\" in tex
    assert "?: not tested against the best" in " ".join(shown[0].footnotes)


def test_less_is_better_of_an_error_and_a_test_the_other_way_says_nothing() -> None:
    rows = [metric("a", PROBES[0], "eer", value=0.1), metric("b", PROBES[0], "eer", value=0.3)]
    for difference, verdict in ((-0.2, WORSE), (0.2, UNTESTED)):  # on the probes that both have, the other one leads
        test = comparison("a", "b", PROBES[0], True, metric="eer", difference=difference)
        assert [n.verdict for n in results_of({}, rows, [test]).numbers] == [BEST, verdict]


def test_one_alone_has_no_verdict_and_two_protocols_are_two_columns() -> None:
    rows = [
        metric(s, PROBES[0], value=v) | {"_system": s, "_protocol": p} for s, v, p in (("a", 0.5, "x"), ("b", 0.9, "y"))
    ]
    assert [number.verdict for number in judged(rows, [])] == [None, None]
    assert [number.verdict for number in judged([row | {"_protocol": "x"} for row in rows], [])] == [UNTESTED, BEST]
