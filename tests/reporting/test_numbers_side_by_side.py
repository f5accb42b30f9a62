"""Tables as views of METRICS: which cell stands where, what is best, what is level with it, where each came from."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from mdfpipe.errors import DataError
from mdfpipe.reporting.grids import Cell, TableView, views
from mdfpipe.reporting.written import csv_of, file_stem, latex, markdown
from mdfpipe.store.results import read_results, side_by_side, source
from tests.reporting.evaluated import GALLERY, PROBES, entry, evaluate, metric, roles_metrics


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(tmp_path_factory.mktemp("numbers") / "run")


def cells(view: TableView, grid: int = 0) -> dict[tuple[str, str], Cell]:
    one = [*view.grids, *view.more][grid]
    heads = [
        (f"{group} " if group and not one.title else "") + column for group, names in one.groups for column in names
    ]
    return {
        (name, head): cell for name, row in one.rows for head, cell in zip(heads, row, strict=True) if cell is not None
    }


def test_a_line_a_system_and_a_column_a_probe_domain(run: Path) -> None:
    view = views(read_results(run))[0]
    assert (view.name, view.title) == ("roles", "From visible light")
    found = cells(view)
    assert [cell.text for cell in found.values()] == ["75.0", "62.5", "50.0", "62.5", "0.0", "12.5"]
    assert list(found)[:3] == [("alpha", "SWIR-30m"), ("alpha", "LWIR-30m"), ("beta", "SWIR-30m")]
    one = found["alpha", "SWIR-30m"]
    assert (one.count, one.bounds, one.published) == ("6/8", "70.0–80.0", 0.381)
    others = cells(view, 1)
    assert list(others)[:2] == [("alpha", "SWIR-30m EER"), ("alpha", "LWIR-30m EER")]


def test_the_best_is_bold_and_only_what_was_tested_and_is_level_is_marked(run: Path) -> None:
    view = views(read_results(run))[0]
    found = cells(view)
    swir = {
        system: (found[system, "SWIR-30m"].is_best, found[system, "SWIR-30m"].is_level)
        for system in ["alpha", "beta", "gamma"]
    }
    assert swir == {"alpha": (True, False), "beta": (False, True), "gamma": (False, False)}
    lwir = {
        system: (found[system, "LWIR-30m"].is_best, found[system, "LWIR-30m"].is_level)
        for system in ["alpha", "beta", "gamma"]
    }
    assert lwir == {"alpha": (True, False), "beta": (True, False), "gamma": (False, False)}  # two are best
    eer = cells(view, 1)
    assert [name for (name, head), cell in eer.items() if cell.is_best and head == "SWIR-30m EER"] == [
        "alpha"
    ]  # the least
    assert not any(cell.is_level for cell in eer.values())
    notes = " ".join(view.footnotes)
    assert "≈: not significantly different from the best" in notes
    assert "what was not has no mark: EER" in notes


def test_one_system_alone_is_neither_best_nor_marked(run: Path) -> None:
    view = views(read_results(run))[1]
    assert not any(cell.is_best or cell.is_level for grid in view.grids for cell in grid.cells)
    assert "Bold" not in " ".join(view.footnotes)


def test_many_pairs_of_domains_stand_as_a_matrix_by_wavelength(run: Path) -> None:
    view = views(read_results(run))[1]
    (grid,) = view.grids
    assert [name for name, _ in grid.rows] == [GALLERY, "SWIR-30m", "LWIR-30m"] == grid.groups[0][1]
    values = [[None if cell is None else cell.k for cell in row] for _, row in grid.rows]
    assert values == [[None, 3, 2], [5, None, 4], [0, 1, None]]  # rows: gallery; as matrix_metrics counts them


def test_every_cell_says_its_file_and_row(run: Path) -> None:
    for view in views(read_results(run)):
        for grid in [*view.grids, *view.more]:
            for cell in grid.cells:
                assert cell.title.endswith(f"evaluate/metrics.parquet, row {cell.row['_row']}")
    found = cells(views(read_results(run))[0])
    assert (
        "does not differ significantly from alpha (mcnemar, p 0.5; evaluate/comparisons.parquet, row 0)"
        in found["beta", "SWIR-30m"].title
    )
    assert "published 38.10" in found["alpha", "SWIR-30m"].title


def test_the_protocol_is_told_once_or_by_system(tmp_path: Path) -> None:
    rows = roles_metrics({"alpha": (1, 2), "beta": (3, 4)})
    for row in rows:
        if row["system"] == "beta":
            row |= {"rerank": "k-reciprocal", "failed_probes": 2, "n_unmated": 1, "unmated": "exclude"}
    run = evaluate(tmp_path / "run", metrics=rows, tables={"roles": entry("", ["alpha", "beta"])})
    (view,) = views(read_results(run))
    about = dict(view.about)
    assert view.title == "roles"
    assert about["protocol"] == "made-up 3"
    assert about["gallery"] == "VIS-500m 8 templates of 8 subjects"
    assert about["probes"] == "8 templates in each of SWIR-30m, LWIR-30m"
    assert about["failed to enrol"] == "0 to 2 probes in each of SWIR-30m, LWIR-30m (a failure counts as: miss)"
    assert about["without a mate"].startswith("0 to 1 probes in each")
    assert (about["pooling"], about["filter rule"]) == ("mean", "none")
    assert about["rerank"] == "off (alpha); k-reciprocal (beta)"


def test_galleries_apart_have_columns_of_their_own(tmp_path: Path) -> None:
    rows = [metric("alpha", PROBES[0], gallery=name, value=v) for name, v in (("1", 0.1), ("2", 0.3), ("average", 0.2))]
    run = evaluate(tmp_path / "run", metrics=rows, tables={"roles": entry("", ["alpha"])})
    (view,) = views(read_results(run))
    assert [head for _, head in cells(view)] == [f"SWIR-30m, gallery {name}" for name in ("1", "2", "average")]
    assert "average" not in dict(view.about)["gallery"]


def test_runs_stand_side_by_side_under_their_names(run: Path, tmp_path: Path) -> None:
    rows = [metric("alpha", probe, value=0.9, protocol="other 1") for probe in PROBES]
    second = evaluate(
        tmp_path / "second",
        metrics=rows,
        tables={"roles": entry("x", ["alpha"], protocol="other 1")},
        compared=[],
        drawn=[],
    )
    found = side_by_side(run, [second])
    view = views(found)[0]
    assert [name for name, _ in view.grids[0].rows] == ["run: alpha", "run: beta", "run: gamma", "second: alpha"]
    best = cells(view)["second: alpha", "SWIR-30m"]
    assert best.is_best
    assert best.title.endswith("second/evaluate/metrics.parquet, row 0")
    assert not any(cell.is_level for (_, head), cell in cells(view).items() if head == "SWIR-30m")  # never tested
    assert any("Systems of different runs were not compared" in line for line in view.footnotes)
    assert any("different protocols" in line for line in view.notes)
    with pytest.raises(DataError, match="one twice"):
        side_by_side(run, [run])


def test_runs_of_one_name_are_told_apart_by_their_parents(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "elsewhere" / "run"))
    names = {row["_system"].partition(": ")[0] for row in side_by_side(run, [other]).metrics}
    assert names == {f"{run.parent.name}/run", "elsewhere/run"}


def test_a_run_that_was_never_evaluated(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected an evaluated run"):
        read_results(tmp_path)


def test_a_table_that_is_gone_is_said(run: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(run, tmp_path / "run"))
    (own / "evaluate" / "comparisons.parquet").unlink()
    found = read_results(own)
    assert any("comparisons.parquet is not there" in note for note in found.notes)
    assert not any(cell.is_level for cell in cells(views(found)[0]).values())


def test_sources_are_short() -> None:
    assert source([{"_file": "f", "_row": n} for n in range(0, 40, 2)]) == "f, 20 rows from 0 to 38"


# -- files


def test_csv_has_a_line_a_number(run: Path) -> None:
    view = views(read_results(run))[0]
    lines = list(csv.DictReader(io.StringIO(csv_of(view))))
    assert len(lines) == 12
    first = lines[0]
    assert (first["system"], first["percent"], first["k"], first["n"]) == ("alpha", "75.00", "6", "8")
    assert (first["is_best"], first["published"], first["row"]) == ("yes", "38.10", "0")
    marked = [line for line in lines if line["not_significantly_different_from_best"] == "yes"]
    assert [(line["system"], line["probe_domain"], line["metric"]) for line in marked] == [
        ("beta", "SWIR-30m", "rank-1")
    ]


def test_markdown_and_latex_say_the_same(run: Path) -> None:
    found = read_results(run)
    text = markdown(found, views(found))
    assert "| alpha | **75.0** (6/8, 70.0–80.0) [published 38.1] | **62.5** (5/8, 57.5–67.5) |" in text
    assert "| beta | 50.0 ≈ (4/8, 45.0–55.0) |" in text
    assert "- rerank: off" in text
    tex = latex(found, views(found))
    assert r"alpha & \textbf{75.00} & \textbf{62.50} \\" in tex
    assert r"beta & 50.00$^{\approx}$ & \textbf{62.50} \\" in tex
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 3


HOSTILE = r"\input{x}&_%$#{}~^|*`<b>"


def test_hostile_names_stay_words(tmp_path: Path) -> None:
    rows = [metric(HOSTILE, PROBES[0], protocol="=1+1"), metric("=cmd()", PROBES[0])]
    run = evaluate(tmp_path / "run", metrics=rows, tables={"roles": entry(HOSTILE, [HOSTILE, "=cmd()"])}, compared=[])
    found = read_results(run)
    tex = latex(found, views(found))
    assert r"\input" not in tex
    assert "<b>" not in markdown(found, views(found)).replace(r"\<b\>", "")
    lines = list(csv.reader(io.StringIO(csv_of(views(found)[0]))))
    assert all(not field.startswith("=") for line in lines for field in line)
    assert file_stem("../../etc") == ".._.._etc"
    assert "/" not in file_stem(HOSTILE + "/")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="NO LATEX: whether tables.tex compiles is not tested here")
def test_latex_compiles(run: Path, tmp_path: Path) -> None:
    found = read_results(run)
    body = latex(found, views(found))
    (tmp_path / "a.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + body + "\\end{document}\n"
    )
    subprocess.run(["pdflatex", "-halt-on-error", "a.tex"], cwd=tmp_path, check=True, capture_output=True)
