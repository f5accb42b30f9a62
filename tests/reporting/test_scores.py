"""Scores as bob's text: what a reader of it gets back, names with blanks, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdfpipe.errors import DataError, StoreError
from mdfpipe.evaluation.comparing import Entries
from mdfpipe.evaluation.measures.closed_set import cmc
from mdfpipe.evaluation.measures.verification import roc
from mdfpipe.evaluation.search import search_scores
from mdfpipe.reporting import scores
from mdfpipe.reporting.scores import plain, to_bob
from mdfpipe.store.tables import SCORES
from tests.evaluation.hdf5 import read_hdf5
from tests.real import ASSETS, needs_assets

Row = tuple[str, str, str, str, float]  # probe, probe_subject, gallery_template, gallery_subject, score
ROWS: list[Row] = [
    ("p one/SWIR-30m", "one", "g one/VIS-500m", "one", 0.9),
    ("p one/SWIR-30m", "one", "g two/VIS-500m", "t\two", 1 / 3),
    ("p two/SWIR-30m", "t\two", "g one/VIS-500m", "one", -1e-9),
    ("p two/SWIR-30m", "t\two", "g two/VIS-500m", "t\two", 0.1),
]


def write(
    path: Path, rows: list[Row], pair: tuple[str, str, str] = ("VIS-500m", "SWIR-30m", "all"), **more: Any
) -> Path:
    names = ("probe", "probe_subject", "gallery_template", "gallery_subject", "score")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    found += [row | more for row in found] if more else []
    usual = dict(zip(("gallery_domain", "probe_domain", "gallery"), pair, strict=True))
    pq.write_table(pa.Table.from_pylist([usual | row for row in found], schema=SCORES), path)
    return path


def read(path: Path) -> list[list[str]]:
    """The lines as bob reads them: cut at blanks."""
    return [line.split() for line in path.read_text().splitlines()]


def test_four_and_five_columns(tmp_path: Path) -> None:
    table = write(tmp_path / "t.parquet", ROWS)
    assert to_bob(table, tmp_path / "4.txt", 4) == to_bob(table, tmp_path / "5.txt") == 4
    assert (tmp_path / "4.txt").read_text() == (
        "one one p%20one/SWIR-30m 0.9\n"
        "t%09wo one p%20one/SWIR-30m 0.33333334\n"
        "one t%09wo p%20two/SWIR-30m -1e-9\n"
        "t%09wo t%09wo p%20two/SWIR-30m 0.1\n"
    )
    five = read(tmp_path / "5.txt")
    assert [[row[0], *row[2:]] for row in five] == read(tmp_path / "4.txt")
    assert [row[1] for row in five] == ["g%20one/VIS-500m", "g%20two/VIS-500m"] * 2
    assert [np.float32(row[-1]) for row in five] == [np.float32(row[-1]) for row in ROWS]  # to the last bit


def test_different_names_stay_different() -> None:
    names = ["a b", "a%20b", "a\u00a0b", "a\u2003b", "a#b", "a_b", "a\nb", "a\u0085b"]
    found = [plain(name) for name in names]
    assert len(set(found)) == len(names)
    assert all(len(name.split()) == 1 and name.isprintable() and "#" not in name for name in found)
    assert plain("subject/VIS-500m/2/body_ä") == "subject/VIS-500m/2/body_ä"


def test_the_size_of_a_batch_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write(tmp_path / "t.parquet", ROWS * 3)
    to_bob(table, tmp_path / "whole.txt")
    monkeypatch.setattr(scores, "ROWS", 5)
    to_bob(table, tmp_path / "parts.txt")
    assert (tmp_path / "parts.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()


def test_probes_of_several_galleries_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    table = write(tmp_path / "t.parquet", ROWS, gallery_domain="LWIR-30m", score=0.5)
    with pytest.raises(DataError, match=r"several galleries.*LWIR-30m > SWIR-30m \(gallery all\), VIS-500m > SWIR"):
        to_bob(table, tmp_path / "t.txt")
    assert not list(tmp_path.glob("*.txt"))
    assert to_bob(table, tmp_path / "t.txt", 4, {"gallery_domain": "LWIR-30m"}) == 4
    assert {row[-1] for row in read(tmp_path / "t.txt")} == {"0.5"}
    with pytest.raises(DataError, match=r"no scores of \{'gallery': '2'\}; it holds"):
        to_bob(table, tmp_path / "t.txt", 4, {"gallery": "2"})


def test_probes_of_several_domains_are_one_file(tmp_path: Path) -> None:
    table = write(tmp_path / "t.parquet", ROWS, probe_domain="MWIR-30m")
    assert to_bob(table, tmp_path / "t.txt") == 8


def test_what_is_no_table_of_scores_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no")
    pq.write_table(pa.table({"score": [1.0]}), tmp_path / "other.parquet")
    empty = SCORES.empty_table()
    pq.write_table(empty.append_column("score", empty["score"]), tmp_path / "twice.parquet")
    for name, message in (
        ("text", "does not read"),
        ("other", "expected a column gallery_domain"),
        ("twice", "expected one column score, got 2"),
        ("none", "found no such file"),
    ):
        with pytest.raises(DataError, match=message):
            to_bob(tmp_path / f"{name}.parquet", tmp_path / "t.txt")
    table = write(tmp_path / "t.parquet", [("", *ROWS[0][1:])])
    with pytest.raises(DataError, match="an empty one"):
        to_bob(table, tmp_path / "t.txt")
    with pytest.raises(DataError, match="expected 4 or 5 columns"):
        to_bob(table, tmp_path / "t.txt", 3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="a choice of gallery_domain"):
        to_bob(table, tmp_path / "t.txt", 4, {"domain": "VIS-500m"})
    with pytest.raises(StoreError):
        to_bob(write(tmp_path / "t.parquet", ROWS), tmp_path / "nowhere" / "t.txt")
    assert not list(tmp_path.glob("**/*.txt"))


# -- published answers, after a round through the text


@needs_assets
@pytest.mark.parametrize("columns", [4, 5])
def test_published_verification(columns: Any, tmp_path: Path) -> None:
    folder = ASSETS / "scores" / "bob_measure"
    sides = [read_hdf5(folder / f"nonsep-{side}.hdf5")["array"] for side in ("positives", "negatives")]
    rows: list[Row] = []
    for claimed, side in zip(("a", "b"), sides, strict=True):
        assert side is not None
        rows += [(f"probe {n} of {claimed}", "a", f"{claimed}/1", claimed, score) for n, score in enumerate(side)]
    to_bob(write(tmp_path / "t.parquet", rows), tmp_path / "t.txt", columns)
    lines = read(tmp_path / "t.txt")
    assert {len(line) for line in lines} == {columns}
    mated, others = (
        np.array([float(line[-1]) for line in lines if (line[0] == line[-3]) == same]) for same in (True, False)
    )
    curve = roc(mated, others)
    assert curve.auc().value == 0.9326
    assert curve.rocch_eer().value == pytest.approx(0.116363636, abs=1e-9)


@needs_assets
def test_published_identification(tmp_path: Path) -> None:
    """As bob makes a CMC of four columns: the lines of a probe label, its mates where claimed and real id are equal."""
    found = read_hdf5(ASSETS / "scores" / "bob_measure" / "test-cmc.hdf5")
    others, mated = found["data-neg"], found["data-pos"]
    assert others is not None
    assert mated is not None
    rows: list[Row] = []
    for n, (rest, own) in enumerate(zip(others, mated, strict=True)):
        rows += [(f"probe {n}", "me", f"o{i}", f"other {i}", score) for i, score in enumerate(rest)]
        rows += [(f"probe {n}", "me", "mine", "me", score) for score in np.atleast_1d(own)]
    to_bob(write(tmp_path / "t.parquet", rows), tmp_path / "t.txt", 4)
    of_probe: dict[str, list[list[str]]] = {}
    for line in read(tmp_path / "t.txt"):
        of_probe.setdefault(line[2], []).append(line)
    shares = np.zeros(4)
    for lines in of_probe.values():
        gallery = Entries("gallery", np.array([line[0] for line in lines]))
        probe = Entries("probes", np.array([lines[0][1]]))
        shares += cmc(search_scores([[float(line[3]) for line in lines]], gallery, probe), depth=4).share
    assert (shares / len(of_probe)).round(9).tolist() == [0.76, 0.89, 0.96, 0.98]
