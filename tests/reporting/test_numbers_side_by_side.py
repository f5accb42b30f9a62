"""Tables as views of METRICS: which cell stands where, what is best, what is level with it, where each came from."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.errors import DataError, ProtocolError
from mdfpipe.reporting.cells import cell_of, percent, told
from mdfpipe.reporting.comparison import side_by_side
from mdfpipe.reporting.grids import TableView, views
from mdfpipe.reporting.numbers import number_lines
from mdfpipe.reporting.results_page import ResultsPage, render
from mdfpipe.reporting.written import csv_of, file_stem, latex, markdown
from mdfpipe.store.results import Number, Verdict, read_results, source
from mdfpipe.store.tables import NumberNote
from tests.reporting.evaluated import GALLERY, PROBES, RATES, entry, evaluate, metric, roles_metrics


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(tmp_path_factory.mktemp("numbers") / "run")


def cells(view: TableView, grid: int = 0) -> dict[tuple[str, str], Number]:
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
    assert [percent(cell.value) for cell in found.values()] == ["75.0", "62.5", "50.0", "62.5", "0.0", "12.5"]
    assert list(found)[:3] == [("alpha", "SWIR-30m"), ("alpha", "LWIR-30m"), ("beta", "SWIR-30m")]
    one = found["alpha", "SWIR-30m"]
    assert cell_of(one).small == ["6/8", "70.0–80.0"]
    others = cells(view, 1)
    assert list(others)[:2] == [("alpha", "SWIR-30m EER"), ("alpha", "LWIR-30m EER")]


def test_the_best_is_bold_and_only_what_was_tested_and_is_level_is_marked(run: Path) -> None:
    view = views(read_results(run))[0]
    found = cells(view)
    swir, lwir = ([found[s, probe].verdict for s in ("alpha", "beta", "gamma")] for probe in PROBES)
    assert swir == [Verdict.BEST, Verdict.LEVEL, Verdict.WORSE]
    assert lwir == [Verdict.BEST, Verdict.BEST, Verdict.WORSE]  # two are best
    eer = cells(view, 1)
    best = [name for (name, head), cell in eer.items() if cell.verdict == "best" and head == "SWIR-30m EER"]
    assert best == ["alpha"]  # the least
    assert {cell.verdict for cell in eer.values()} == {Verdict.BEST, Verdict.UNTESTED}
    notes = " ".join(view.footnotes)
    assert "≈: not significantly different from the best" in notes
    assert "Not tested: 3 numbers, of EER." in notes


def test_one_system_alone_is_neither_best_nor_marked(run: Path) -> None:
    view = views(read_results(run))[1]
    assert not any(cell.verdict for grid in view.grids for cell in grid.cells)
    assert "Bold" not in " ".join(view.footnotes)


def test_many_pairs_of_domains_stand_as_a_matrix_by_wavelength(run: Path) -> None:
    view = views(read_results(run))[1]
    (grid,) = view.grids
    assert [name for name, _ in grid.rows] == [GALLERY, "SWIR-30m", "LWIR-30m"] == grid.groups[0][1]
    values = [[None if cell is None else cell.row["k"] for cell in row] for _, row in grid.rows]
    assert values == [[None, 3, 2], [5, None, 4], [0, 1, None]]  # rows: gallery; as matrix_metrics counts them


def test_every_cell_says_its_file_and_row(run: Path) -> None:
    for view in views(read_results(run)):
        for grid in [*view.grids, *view.more]:
            for cell in grid.cells:
                assert told(cell).endswith(f"evaluate/metrics.parquet, row {cell.row['_row']}")
    found = cells(views(read_results(run))[0])
    assert (
        "does not differ significantly from alpha (mcnemar, p 0.5, 8 probes that both have; "
        "evaluate/comparisons.parquet, row 0)"
    ) in told(found["beta", "SWIR-30m"])
    assert "not tested against" in told(cells(views(read_results(run))[0], 1)["gamma", "SWIR-30m EER"])
    assert "published 38.10" in told(found["alpha", "SWIR-30m"])


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


def second(folder: Path, **values: str) -> Path:
    rows = [metric("alpha", probe, value=0.9, protocol=values.get("protocol", "made-up 3")) for probe in PROBES]
    told = {"roles": entry("x", ["alpha"], **values)}
    return evaluate(folder, metrics=rows, tables=told, compared=[], drawn=[], sought=[])


def test_runs_stand_side_by_side_under_their_names(run: Path, tmp_path: Path) -> None:
    found = side_by_side(run, [second(tmp_path / "second")])
    view = views(found)[0]
    assert [name for name, _ in view.grids[0].rows] == ["run/alpha", "run/beta", "run/gamma", "second/alpha"]
    best = cells(view)["second/alpha", "SWIR-30m"]
    assert best.verdict is Verdict.BEST
    assert told(best).endswith("second/evaluate/metrics.parquet, row 0")
    others = {cell.verdict for (_, head), cell in cells(view).items() if head == "SWIR-30m" and cell is not best}
    assert others == {Verdict.UNTESTED}  # no search of the second is there
    assert not view.stamps
    with pytest.raises(DataError, match="one twice"):
        side_by_side(run, [run])


@pytest.mark.parametrize("values", [{"protocol": "other 1"}, {"fingerprint": "of another content"}])
def test_two_protocols_in_one_table_are_refused_by_their_content(run: Path, tmp_path: Path, values: Any) -> None:
    other = second(tmp_path / "second", **values)
    with pytest.raises(ProtocolError, match=r"table roles: 2 protocols.*--allow-mixed"):
        side_by_side(run, [other])
    found = side_by_side(run, [other], allow_mixed=True)
    (view, _), words = views(found), "numbers of two protocols are about different tasks"
    assert cells(view)["second/alpha", "SWIR-30m"].verdict is None  # alone under its protocol
    assert cells(view)["run/alpha", "SWIR-30m"].verdict is Verdict.BEST
    caption = next(line for line in latex(found, [view]).splitlines() if line.startswith("\\caption"))
    html = render(ResultsPage("run", found, [view], False, {}))
    for text in (caption, html, markdown(found, [view]), csv_of(view), "\n".join(number_lines(found))):
        assert words in text
    assert all(words in line["stamp"] for line in csv.DictReader(io.StringIO(csv_of(view))))
    assert words in found.document()["tables"]["roles"]["stamps"][0]


def test_one_protocol_of_two_names_is_one(run: Path, tmp_path: Path) -> None:
    own = evaluate(tmp_path / "own", tables={"roles": entry("", RATES, fingerprint="f")}, metrics=roles_metrics())
    found = side_by_side(own, [second(tmp_path / "second", protocol="renamed 1", fingerprint="f")])
    assert not found.tables["roles"]["stamps"]


def test_runs_of_one_name_are_told_apart_by_their_parents(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "elsewhere" / "run"))
    names = {row["_system"].rpartition("/")[0] for row in side_by_side(run, [other]).metrics}
    assert names == {f"{run.parent.name}/run", "elsewhere/run"}


def test_a_run_that_was_never_evaluated(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected an evaluated run"):
        read_results(tmp_path)


def test_a_table_that_is_gone_is_said(run: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(run, tmp_path / "run"))
    (own / "evaluate" / "comparisons.parquet").unlink()
    found = read_results(own)
    assert any("comparisons.parquet is not there" in note for note in found.notes)
    assert {cell.verdict for cell in cells(views(found)[0]).values()} == {Verdict.BEST, Verdict.UNTESTED}


def test_sources_are_short() -> None:
    assert source([{"_file": "f", "_row": n} for n in range(0, 40, 2)]) == "f, 20 rows from 0 to 38"


# -- files


def test_csv_has_a_line_a_number(run: Path) -> None:
    view = views(read_results(run))[0]
    lines = list(csv.DictReader(io.StringIO(csv_of(view))))
    assert len(lines) == 12
    first = lines[0]
    assert (first["system"], first["percent"], first["k"], first["n"]) == ("alpha", "75.00", "6", "8")
    assert (first["verdict"], first["published"], first["row"]) == ("best", "38.10", "0")
    marked = [line for line in lines if line["verdict"] == "level"]
    assert [(line["system"], line["probe_domain"], line["metric"]) for line in marked] == [
        ("beta", "SWIR-30m", "rank-1")
    ]


def test_markdown_and_latex_say_the_same(run: Path) -> None:
    found = read_results(run)
    text = markdown(found, views(found))
    assert "| alpha | **75.0** (6/8, 70.0–80.0) [published 38.1] | **62.5** (5/8, 57.5–67.5) |" in text
    assert "| beta | 50.0 ≈ (4/8, 45.0–55.0) |" in text
    assert "- rerank: off" in text
    tex = latex(found, views(found), "value")
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


def has_latex() -> bool:
    """Whether LaTeX is there, with booktabs."""
    if shutil.which("pdflatex") is None or shutil.which("kpsewhich") is None:
        return False
    return subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, check=False).returncode == 0


def marked() -> list[dict[str, Any]]:
    """Numbers with every note, in more columns than a page has room for; of one domain, of several seeds, hostile."""
    rows = [
        metric(system, probe, name, value=None if note == "unresolved" else 0.5, n_false=50, notes=[note], **bounds)
        for system, probe in product(("a_b", "seeds"), PROBES)
        for name, note in zip(
            (*[f"rank-{k}" for k in range(1, len(NumberNote))], "fnir@fpir=0.01"), reversed(NumberNote), strict=True
        )
        for bounds in [{"low": 0.4, "high": 0.6} if note.startswith(("few", "no_w", "lost")) else {}]
    ]
    for row in rows[len(rows) // 2 :]:
        row |= {"seeds": 2, "each": [0.4, 0.6], "spread": 0.1414} if row["value"] is not None else {}
    within = [metric("seeds", domain, table="same", gallery_domain=domain) for domain in PROBES]
    return rows + within


@pytest.mark.parametrize("cells", ["all", "value", "half", "count"])
def test_latex_fits_a_page_and_compiles(tmp_path: Path, cells: Any) -> None:
    tables = {"roles": entry(HOSTILE, ["a_b", "seeds"]), "same": entry("same", ["seeds"])}
    found = read_results(evaluate(tmp_path / "run", metrics=marked(), tables=tables, compared=[]))
    body = latex(found, views(found), cells)
    assert all(mark in body for mark in (r"\dagger", r"\ddagger", r"\S", "^{\\circ}"))
    whole = {line.count("&") for line in body.splitlines() if line.endswith(r" \\")}
    assert max(whole) < 16, "a table of 20 columns is cut"
    if not has_latex():
        pytest.skip("NO LATEX: whether tables.tex compiles is not tested here")
    (tmp_path / "a.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + body + "\\end{document}\n"
    )
    done = subprocess.run(["pdflatex", "-halt-on-error", "a.tex"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode("latin-1")[-600:]
    assert b"Overfull \\hbox" not in done.stdout
    assert b"Float too large" not in done.stdout
