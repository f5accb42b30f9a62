"""A sweep on the page and as files beside it: every number, nothing cut off, hostile names stay words."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from mdfpipe.config import validate
from mdfpipe.drawing.plots import colour_of
from mdfpipe.reporting.report import report
from mdfpipe.reporting.sweep_sheets import csv_of, svg_of
from mdfpipe.reporting.sweeps import Swept, sweep_views
from mdfpipe.study.study import Study
from tests.chromium import browser, needs_chromium
from tests.reporting.evaluated import GALLERY, PROBES, entry, evaluate, metric
from tests.reporting.test_page import EVIL, Reader
from tests.reporting.test_results_page import ALLOWED, check_self_contained
from tests.reporting.test_sweeps import GAMMA, RANKS, only, rank_rows, read
from tests.systems import STRIPED, study


def test_the_table_beside_the_page_holds_every_number(tmp_path: Path) -> None:
    view = only(sweep_views(read(tmp_path, rank_rows()), [GAMMA]))
    rows = list(csv.DictReader(io.StringIO(csv_of(view))))
    assert len(rows) == 4 * 2 * 3
    assert [row["recipe.gamma"] for row in rows[::6]] == ["0", "2", "3", "5"]
    assert {row["system"] for row in rows if row["is_varied"] == "yes"} == {"di2l"}
    for row in rows:
        k = RANKS[row["system"]][PROBES.index(row["probe_domain"])]
        assert float(row["percent"]) == pytest.approx({"rank-1": k, "map": k / 2, "eer": 100 - k}[row["metric"]])
        assert (row["low"], row["k"]) == ((f"{k - 5:.2f}", str(k)) if row["metric"] == "rank-1" else (row["low"], ""))
    assert rows[0]["published"] == "61.00"


def test_the_sheet_stands_by_itself(tmp_path: Path) -> None:
    view = only(sweep_views(read(tmp_path, rank_rows()), [GAMMA]))
    text = svg_of(view)
    assert "var(" not in text
    root = ElementTree.fromstring(text)
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert len(ids) == len(set(ids)) > 0
    used = [node.get("{http://www.w3.org/1999/xlink}href", "")[1:] for node in root.iter() if node.tag.endswith("}use")]
    assert set(used) <= set(ids)
    words = [node.text for node in root.iter() if node.tag.endswith("}text")]
    assert words[:3] == ["The focus", "Table roles", "ringed: di2l; bands: 95 % intervals; dotted: published"]
    assert {"Rank-1", "mAP", "EER", f"{GALLERY} → {PROBES[1]}", "gamma", "Rank-1, %"} <= set(words)
    svgs = [node for node in root.iter() if node.tag.endswith("}svg")]
    assert len(svgs) == 1 + 3
    width, height = (float(part) for part in str(root.get("viewBox")).split()[2:])
    for one in svgs[1:]:
        assert float(one.get("x", "")) + float(one.get("width", "")) < width
        assert float(one.get("y", "")) + float(one.get("height", "")) < height
    strokes = {node.get("stroke") for node in root.iter() if node.get("stroke")}
    assert strokes == {colour_of(0), colour_of(1)}
    assert svg_of(view) == text


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    evil = Swept("=evil", EVIL, f"a{EVIL}", (f"recipe.{EVIL}",), (((EVIL,), f"a{EVIL}"), (("=1+1",), "=b")))
    rows = [
        metric(system, f"P{EVIL}", gallery_domain=EVIL, value=0.5, published=0.4, table=EVIL)
        for _, system in evil.points
    ]
    view = only(sweep_views(read(tmp_path, rows), [evil]))
    root = ElementTree.fromstring(svg_of(view))
    kinds = {node.tag.rpartition("}")[2] for node in root.iter()}
    assert kinds <= {"svg", "g", "path", "defs", "clipPath", "rect", "text", "use", "line"}
    assert not [name for node in root.iter() for name in node.attrib if name.startswith("on")]
    assert any(node.text and "<" in node.text for node in root.iter())
    first, second = list(csv.reader(io.StringIO(csv_of(view))))[1:]
    assert not [cell for cell in (*first, *second) if cell.startswith("=")]


def run_with_a_sweep(home: Path, title: str) -> Path:
    """A run folder of a study with a sweep of a rate, and a grid; its numbers are made up."""
    swept = {
        "rate": {"system": "a", "title": title, "values": {"recipe.optimiser.rate": [1e-5, 1e-4, 0.0004, 0.01]}},
        "grid": {"system": "a", "values": {"recipe.test_feature": ["raw", "neck"], "recipe.width": [8, 16, 24]}},
    }
    made = validate(Study, study({"a": {"recipe": STRIPED}}, sweeps=swept), "study")
    rows = [
        metric(system, probe, name, value=v, low=v - 0.1, high=v + 0.1, published=0.4)
        for n, system in enumerate(made.systems)
        for probe, v in zip(PROBES, (0.3 + 0.05 * n, 0.7 - 0.03 * n), strict=True)
        for name in ("rank-1", "map", "minp")
    ]
    evaluate(home, metrics=rows, tables={"roles": entry("T", list(made.systems))}, compared=[], drawn=[], sought=[])
    for folder in ("templates", "scores"):  # the sweeps need neither, and maps take their time
        shutil.rmtree(home / "evaluate" / folder)
    (home / "pipeline.yaml").write_text(made.to_yaml())
    return home


def test_the_page_and_the_files(tmp_path: Path) -> None:
    run = run_with_a_sweep(tmp_path / "run", EVIL)
    made = report(run, out=tmp_path / "out")
    names = [Path(name).relative_to(tmp_path / "out").as_posix() for name in made.files]
    assert names[4:] == ["sweeps/rate.csv", "sweeps/rate.svg", "sweeps/grid.csv", "sweeps/grid.svg"]
    text = (tmp_path / "out" / "report.html").read_text()
    found = Reader(text)
    assert found.tags <= ALLOWED
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    words = " ".join(" ".join(found.text).split())
    assert '<a href="#sweeps">' in text
    assert " ".join(EVIL.split()) in words
    assert "best at optimiser.rate 0.01, " in words
    assert "a, recipe.test_feature by recipe.width" in words
    assert "The bands are 95 % intervals." in words
    check_self_contained(text.replace("http://evil.example", ""))
    again = report(run, out=tmp_path / "again")
    for one, other in zip(made.files, again.files, strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes(), one


def test_a_study_that_cannot_be_read_leaves_a_note(tmp_path: Path) -> None:
    run = run_with_a_sweep(tmp_path / "run", "R")
    (run / "pipeline.yaml").write_text("name: x\ndataset: {use: nothing}\n")
    made = report(run, out=tmp_path / "out")
    assert any("pipeline.yaml" in line for line in made.lines)
    assert "sweeps/" not in " ".join(made.files)
    assert 'id="sweeps"' not in (tmp_path / "out" / "report.html").read_text()


@needs_chromium
def test_words_of_the_drawings_are_neither_cut_nor_over_each_other(tmp_path: Path) -> None:
    report(run_with_a_sweep(tmp_path / "run", "A rate"), out=tmp_path / "out")
    with browser(tmp_path) as chromium:
        for width, dark in ((390, True), (1280, False)):
            chromium.open(tmp_path / "out" / "report.html", width, dark=dark)
            chromium.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert chromium.ask("document.documentElement.scrollWidth") <= width
            bad = chromium.ask(
                """[...document.querySelectorAll('.plot svg')].flatMap(svg => {
                const all = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
                const f = svg.getBoundingClientRect();
                return all.flatMap(([a, p], i) => [
                  ...(p.left < f.left - 1 || p.right > f.right + 1 || p.bottom > f.bottom + 1 ? [['cut', a]] : []),
                  ...all.slice(i + 1).filter(([b, q]) => Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1
                    && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 2.5).map(([b]) => [a, b])]); })"""
            )
            assert bad == []
            assert chromium.ask("document.querySelectorAll('section:has(#sweeps) .plot svg').length") == 3 + 6
            ring = chromium.photograph(".plot svg").astype(int)
            colour = [int(colour_of(0)[n : n + 2], 16) for n in (1, 3, 5)]
            assert (np.abs(ring - colour).sum(axis=2) < 60).sum() > 80
        chromium.open(tmp_path / "out" / "sweeps" / "rate.svg", 800)
        sheet = chromium.photograph("svg")
        assert (sheet.reshape(-1, 3).min(axis=1) > 250).mean() > 0.6  # on white
        assert chromium.said == []
