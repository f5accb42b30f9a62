"""The drawings of a sweep: their numbers are those of METRICS; what is said of the best value; the axis."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies

from mdfpipe.drawing.plots import Line
from mdfpipe.reporting import sweeps
from mdfpipe.reporting.cells import cell_of
from mdfpipe.reporting.sweep_sheets import csv_of
from mdfpipe.reporting.sweeps import Axis, SweepView, Swept, Value, bounds, sweep_views
from mdfpipe.store.results import Results, read_results
from tests.reporting.evaluated import GALLERY, PROBES, comparison, entry, evaluate, metric

GAMMA = Swept(
    "gamma", "The focus", "di2l", ("recipe.gamma",), (((0,), "g0"), ((2.0,), "di2l"), ((3,), "g3"), ((5,), "g5"))
)
RANKS = {  # of 100: rank-1 in the first probe domain, in the second
    "g0": (60, 20),
    "di2l": (70, 25),
    "g3": (72, 25),
    "g5": (50, 40),
}
GRID = Swept(
    "grid",
    "",
    "di2l",
    ("recipe.threshold", "recipe.factor"),
    tuple(((t, f), f"{t}{f}" if (t, f) != ("mean", 0.5) else "di2l") for t in ("mean", "median") for f in (0.2, 0.5)),
)


def rank_rows(systems: Iterable[str] = RANKS, **more: Any) -> list[dict[str, Any]]:
    """Rank-1 with bounds of 5 %, mAP without, EER as 1 less Rank-1; the paper has 1 % more in the first domain."""
    rows = []
    for system in systems:
        for n, (probe, k) in enumerate(zip(PROBES, RANKS[system], strict=True)):
            around: dict[str, Any] = {"low": k / 100 - 0.05, "high": k / 100 + 0.05, "interval": "wilson", "k": k}
            paper = k / 100 + 0.01 if n == 0 and system != "g5" else None
            rows.append(metric(system, probe, value=k / 100, published=paper, n=100, **around | more))
            rows.append(metric(system, probe, "map", value=k / 200))
            rows.append(metric(system, probe, "eer", value=1 - k / 100, low=0.95 - k / 100, high=1.05 - k / 100))
    return rows


def read(home: Path, rows: Sequence[dict[str, Any]], compared: Sequence[dict[str, Any]] = ()) -> Results:
    systems = list(dict.fromkeys(row["system"] for row in rows))
    tables = {name: entry(f"Table {name}", systems) for name in dict.fromkeys(row["table"] for row in rows)}
    evaluate(home, metrics=rows, tables=tables, compared=compared, drawn=[], sought=[])
    return read_results(home)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[list[Line], dict[str, Any]]]:
    """What is handed to the plots, by the drawing's name."""
    found: dict[str, tuple[list[Line], dict[str, Any]]] = {}

    def lines_plot(name: str, lines: Iterable[Line], **more: Any) -> str:
        assert name not in found
        found[name] = list(lines), more
        return '<svg viewBox="0 0 244.8 180"></svg>'

    monkeypatch.setattr(sweeps, "lines_plot", lines_plot)
    return found


def only(views: list[SweepView]) -> SweepView:
    (view,) = views
    return view


# -- one setting


def test_a_line_holds_the_numbers_of_its_pair_of_domains(tmp_path: Path, drawn: dict[str, Any]) -> None:
    only(sweep_views(read(tmp_path, rank_rows()), [GAMMA]))
    assert [name.split("/")[3] for name in drawn] == ["rank-1", "map", "eer"]
    lines, said = next(iter(drawn.values()))
    assert said["x_label"] == "gamma"
    assert said["ticks"] == [(0.0, "0"), (2.0, "2"), (3.0, "3"), (5.0, "5")]
    plain, dotted = ([line for line in lines if line.dotted is kind] for kind in (False, True))
    assert [line.name for line in plain] == [f"{GALLERY} → {probe}" for probe in PROBES]
    for n, line in enumerate(plain):
        wanted = np.array([RANKS[system][n] / 100 for system in ("g0", "di2l", "g3", "g5")])
        np.testing.assert_array_equal(line.x, [0, 2, 3, 5])
        np.testing.assert_allclose(line.y, wanted)
        np.testing.assert_allclose(line.low, wanted - 0.05)
        np.testing.assert_allclose(line.high, wanted + 0.05)
        assert line.dots
        assert line.ring == 1  # di2l
    (paper,) = dotted
    assert paper.place == plain[0].place
    np.testing.assert_array_equal(paper.x, [0, 2, 3])
    np.testing.assert_allclose(paper.y, [0.61, 0.71, 0.73])
    without = next(lines for name, (lines, _) in drawn.items() if "/map/" in name)
    assert all(len(line.low) == 0 for line in without)


def test_what_is_no_number_is_not_drawn(tmp_path: Path, drawn: dict[str, Any]) -> None:
    """One point of the sweep in one pair of domains, and every point of mAP."""
    rows = rank_rows()
    for row in rows:
        if row["metric"] == "map" or (row["system"], row["metric"], row["probe_domain"]) == ("g3", "rank-1", PROBES[0]):
            row |= {"value": None, "k": None, "low": None, "high": None, "published": None, "notes": ["unresolved"]}
    view = only(sweep_views(read(tmp_path, rows), [GAMMA]))
    assert [name.split("/")[3] for name in drawn] == ["rank-1", "eer"]
    lines, _ = next(iter(drawn.values()))
    assert [line.x.tolist() for line in lines if not line.dotted] == [[0, 2, 5], [0, 2, 3, 5]]
    assert "no number: a part of the mean has none" in {cell_of(n).value for n in view.tables[0].grids[0].cells}
    line = next(one for one in csv_of(view).splitlines() if "no number" in one)
    assert ",,,," in line


def test_bands_are_intervals_or_the_spread_of_trials() -> None:
    row = {"value": 0.5, "low": None, "high": None}
    assert bounds(row) is None
    assert bounds(row | {"spread": None}) is None
    assert bounds(row | {"spread": 0.1}) == pytest.approx((0.4, 0.6))
    assert bounds(row | {"value": 0.95, "spread": 0.1}) == pytest.approx((0.85, 1.0))
    assert bounds(row | {"spread": 0.1, "low": 0.2, "high": 0.7}) == (0.2, 0.7)


def test_what_has_an_interval_at_some_points_only_has_no_band(tmp_path: Path, drawn: dict[str, Any]) -> None:
    rows = [*rank_rows(["g0", "di2l"]), *rank_rows(["g3"], low=None, high=None)]
    view = only(sweep_views(read(tmp_path, rows), [GAMMA]))
    lines, _ = next(iter(drawn.values()))
    assert all(len(line.low) == 0 for line in lines)
    assert view.tables[0].missing == ["g5"]
    assert view.tables[0].bands == "95 % intervals"


@pytest.mark.parametrize("has_spread", [False, True])
def test_the_spread_of_trials_is_said_and_drawn(tmp_path: Path, drawn: dict[str, Any], has_spread: bool) -> None:
    results = read(tmp_path, rank_rows(["di2l", "g3"], low=None, high=None))
    results.metrics = [row for row in results.metrics if row["metric"] == "rank-1"]
    for row in results.metrics:
        row |= {"spread": 0.03, "trials": 10} if has_spread else {}
    (table,) = only(sweep_views(results, [GAMMA])).tables
    line = next(iter(drawn.values()))[0][0]
    first = table.first[0].said[0]
    if has_spread:
        np.testing.assert_allclose(line.low, line.y - 0.03)
        assert table.bands == "the spread (one standard deviation) of the trials"
        assert first.endswith(
            "best at gamma 3, 72.0 % (± 3.0 over 10 trials); di2l (gamma 2) has 70.0 % (± 3.0 over 10 trials): the "
            "spreads overlap, a difference is not shown."
        )
    else:
        assert (len(line.low), table.bands) == (0, "")
        assert first.endswith(
            "72.0 %; di2l (gamma 2) has 70.0 %: without intervals, nothing is known of the difference."
        )


# -- what is said


def sentences(home: Path, rows: list[dict[str, Any]], compared: Sequence[dict[str, Any]] = ()) -> list[list[str]]:
    (table,) = only(sweep_views(read(home, rows, compared), [GAMMA])).tables
    return [[line.partition(": ")[2] for line in drawing.said] for drawing in (*table.first, *table.more)]


def test_where_intervals_overlap_a_difference_is_not_shown(tmp_path: Path) -> None:
    ranks, _, errors = sentences(tmp_path, rank_rows())
    assert ranks == [
        "best at gamma 3, 72.0 % (67.0–77.0); di2l (gamma 2) has 70.0 % (65.0–75.0): the intervals overlap, a "
        "difference is not shown.",
        "best at gamma 5, 40.0 % (35.0–45.0); di2l (gamma 2) has 25.0 % (20.0–30.0): the intervals do not overlap.",
    ]
    assert errors[1].startswith("best at gamma 5, 60.0 % (55.0–65.0); di2l (gamma 2) has 75.0 %")  # the least


@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("significant", [False, True])
def test_a_test_of_the_two_goes_before_their_intervals(tmp_path: Path, is_first: bool, significant: bool) -> None:
    pair = ("di2l", "g5") if is_first else ("g5", "di2l")
    ranks, means, _ = sentences(
        tmp_path,
        rank_rows(),
        [comparison(*pair, PROBES[1], significant=significant, difference=-0.1 if is_first else 0.1)],
    )
    verdict = (
        "a difference is shown (mcnemar, p 0.01)." if significant else "a difference is not shown (mcnemar, p 0.5)."
    )
    assert ranks[1].endswith(f"has 25.0 % (20.0–30.0): {verdict}")
    assert ranks[0].endswith("the intervals overlap, a difference is not shown.")  # of the other domain
    assert "mcnemar" not in means[1]  # of another metric


def test_the_best_may_be_several_or_the_system_itself(tmp_path: Path) -> None:
    ranks, *_ = sentences(tmp_path / "a", rank_rows(["g0", "di2l", "g3"]))
    assert ranks[1] == "best at gamma 2 and gamma 3, 25.0 % (20.0–30.0); di2l itself is one of these."
    ranks, *_ = sentences(tmp_path / "b", rank_rows(["g0", "di2l"]))
    assert ranks[0] == "best at gamma 2, 70.0 % (65.0–75.0); di2l itself."
    ranks, *_ = sentences(tmp_path / "c", rank_rows(["g0", "g3"]))
    assert ranks[0].endswith("; di2l, which is varied, is not among the points.")


# -- two settings, many pairs, several tables


def test_of_two_settings_each_pair_has_a_drawing_and_each_second_value_a_line(
    tmp_path: Path, drawn: dict[str, Any]
) -> None:
    values = {system: 0.1 * n + 0.2 for n, (_, system) in enumerate(GRID.points)}
    rows = [metric(system, probe, value=value) for system, value in values.items() for probe in PROBES]
    (table,) = only(sweep_views(read(tmp_path, rows), [GRID])).tables
    assert [one.picture.title for one in table.first] == [f"Rank-1, {GALLERY} → {probe}" for probe in PROBES]
    assert [key.name for key in table.first[0].picture.keys] == ["factor 0.2", "factor 0.5"]
    lines, said = next(iter(drawn.values()))
    assert (said["x_label"], said["ticks"]) == ("threshold", [(0.0, "mean"), (1.0, "median")])
    for line, systems in zip(lines, (("mean0.2", "median0.2"), ("di2l", "median0.5")), strict=True):
        np.testing.assert_allclose(line.y, [values[system] for system in systems])
    assert [line.ring for line in lines] == [None, 0]
    assert (
        table.first[0]
        .said[0]
        .startswith(f"{GALLERY} → {PROBES[0]}: best at threshold median, factor 0.5, 50.0 %; di2l (")
    )
    (grid,) = table.grids
    assert [name for name, _ in grid.rows] == ["mean, 0.2", "mean, 0.5 (di2l)", "median, 0.2", "median, 0.5"]
    assert [[cell.value for cell in cells if cell] for _, cells in grid.rows] == [[v] * 2 for v in values.values()]
    verdicts = [[cell.verdict for cell in cells if cell] for _, cells in grid.rows]
    assert verdicts == [["untested"] * 2] * 3 + [["best"] * 2]


def test_many_pairs_of_domains_have_a_drawing_for_each_gallery(tmp_path: Path, drawn: dict[str, Any]) -> None:
    domains = ("VIS-1m", "NIR-1m", "SWIR-1m", "LWIR-1m")
    rows = [
        metric(system, b, gallery_domain=a, value=0.5)
        for system in ("di2l", "g3")
        for a in domains
        for b in domains
        if a != b
    ]
    (table,) = only(sweep_views(read(tmp_path, rows), [GAMMA])).tables
    assert [one.picture.title for one in table.first] == [f"Rank-1, from {domain}" for domain in domains]
    assert [len([line for line in lines if not line.dotted]) for lines, _ in drawn.values()] == [3] * 4
    assert table.left_out == 0


def test_re_ranked_numbers_are_another_line(tmp_path: Path, drawn: dict[str, Any]) -> None:
    rows = [metric(s, PROBES[0], rerank=again, value=0.5) for s in ("di2l", "g3") for again in ("off", "k-reciprocal")]
    only(sweep_views(read(tmp_path, rows), [GAMMA]))
    names = [line.name for line in next(iter(drawn.values()))[0]]
    assert names == [f"{GALLERY} → {PROBES[0]}, re-ranking {how}" for how in ("off", "k-reciprocal")]


def test_tables_with_two_points_are_drawn_and_other_runs_are_not(tmp_path: Path, drawn: dict[str, Any]) -> None:
    rows = [
        *rank_rows(["di2l", "g3"]),
        *[row | {"table": "second"} for row in rank_rows(["g0", "g5"])],
        *[row | {"table": "third"} for row in rank_rows(["g5"])],
    ]
    results = read(tmp_path, rows)
    view = only(sweep_views(results, [GAMMA, Swept("x", "", "y", ("s",), (((1,), "y"),))]))
    assert [table.title for table in view.tables] == ["Table roles", "Table second"]
    assert len(drawn) == 6
    assert {row["system"] for row in csv.DictReader(io.StringIO(csv_of(view)))} == {"di2l", "g3", "g0", "g5"}
    for row in results.metrics:
        row["_run"] = "another"
    assert sweep_views(results, [GAMMA]) == []


# -- the axis


@pytest.mark.parametrize(
    ("values", "places", "manner"),
    [
        ([0, 0.5, 1, 2, 3, 5], [0, 0.5, 1, 2, 3, 5], ""),
        ([3, 1, 2], [3, 1, 2], ""),
        ([0.001, 0.01, 0.1, 1], [-3, -2, -1, 0], ", logarithmic"),
        ([0, 0.001, 1, 0.1], [0, 1, 3, 2], ", not to scale"),
        ([100, 1, 1.001, 50], [3, 0, 1, 2], ", not to scale"),
        (["mean", "median", "fixed"], [0, 1, 2], ""),
        ([8, 16, None], [0, 1, 2], ""),
        ([True, False], [0, 1], ""),
        ([7], [7], ""),
    ],
)
def test_values_stand_to_scale_where_that_can_be_read(values: list[Value], places: list[float], manner: str) -> None:
    axis = Axis(values)
    assert [axis.at[value] for value in values] == pytest.approx(places)
    assert axis.manner == manner


@given(strategies.lists(strategies.floats(-1e4, 1e4).map(lambda x: round(x, 3)), min_size=1, max_size=12, unique=True))
def test_words_along_the_axis_have_room(values: list[float]) -> None:
    axis = Axis(values)
    order = sorted(values)
    assert [axis.at[value] for value in order] == sorted(axis.at.values())
    places = dict(axis.ticks)
    assert len(places) == len(axis.ticks)
    assert all(f"{value:.10g}" == places[axis.at[value]] for value in values if axis.at[value] in places)
    reach = max(axis.at.values()) - min(axis.at.values())
    for (a, one), (b, other) in zip(axis.ticks, axis.ticks[1:], strict=False):
        assert 46 * (b - a) / reach >= (len(one) + len(other)) / 2


def test_long_words_are_cut() -> None:
    ticks = Axis(["cosine-annealing-with-restarts", "step", "polynomial", "x" * 50]).ticks
    assert [text for _, text in ticks] == ["cosine-an…", "step", "polynomial", "xxxxxxxxx…"]
