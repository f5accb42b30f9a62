"""Benchmarks of vectors made elsewhere, from the command line: scored, averaged over splits, set side by side."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mdfpipe.cli.commands import app
from mdfpipe.errors import ConfigError, DataError, ProtocolError
from mdfpipe.evaluation.benchmark import evaluate_benchmark
from mdfpipe.reporting.comparison import average_runs, side_by_side
from mdfpipe.reporting.numbers import number_lines
from mdfpipe.reporting.report import report
from mdfpipe.running.scoring import score
from mdfpipe.store.results import read_results
from tests.evaluation.made_images import INFRARED, VISIBLE, benchmark, permutations, rows_of, tree

SYSU = tree(3, 14, {"VIS": VISIBLE, "NIR": INFRARED}, 4, 0.1)
REGDB = tree(4, 9, {"VIS": (1,), "LWIR": (2,)}, 4, 0)


def vectors_of(images: Any, noise: float = 0.6, seed: int = 0) -> Any:
    generator = np.random.default_rng(seed)
    people = np.eye(40, dtype=np.float32)[[int(one[1]) for one in images]]
    return people + noise * generator.standard_normal(people.shape).astype(np.float32)


def write(path: Path, images: Any, vectors: Any, lost: tuple[int, ...] = ()) -> Path:
    rows = rows_of(images).drop_columns("session_id").rename_columns(["file", "subject_id", "domain", "camera_id"])
    listed = [None if n in lost else vector.tolist() for n, vector in enumerate(vectors)]
    pq.write_table(rows.append_column("vector", pa.array(listed, pa.list_(pa.float32()))), path)
    return path


def scored(folder: Path, name: str, protocol: str, images: Any, *settings: str, **more: Any) -> Path:
    file = write(folder / f"{name}.parquet", images, vectors_of(images, more.pop("noise", 0.6), more.pop("seed", 0)))
    score(file, protocol, folder / name, list(settings), **more)
    return folder / name


def test_a_file_of_images_is_scored_as_the_library_does(tmp_path: Path) -> None:
    permutations(tmp_path / "data/exp/rand_perm_cam.mat", SYSU)
    vectors = vectors_of(SYSU)
    file = write(tmp_path / "mine.parquet", SYSU, vectors, lost=(3,))
    arguments = ["eval", "--embeddings", str(file), "--protocol", "sysu-indoor", "--data", str(tmp_path / "data")]
    arguments += ["--out", str(tmp_path / "out"), "--set", "tables.recognition.benchmark.shots=10", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    usable = np.arange(len(SYSU)) != 3
    asked = benchmark(use="sysu", search="indoor", shots=10)
    (expected,) = evaluate_benchmark(asked, rows_of(SYSU), vectors, usable, data=tmp_path / "data")
    found = {row["metric"]: row for row in document["metrics"]}
    for metric in ("rank-1", "rank-20", "map", "minp"):
        assert found[metric]["value"] == pytest.approx(expected.of(metric).mean())
    assert found["map"]["protocol"] == "sysu indoor-search multi-shot (10), official galleries, 10 trials"
    raw = score(
        file, "sysu-all", tmp_path / "raw", ["tables.recognition.benchmark.galleries=seeded"], distance="euclidean"
    )
    assert {row["distance"] for row in raw.metrics} == {"euclidean"}
    shown = "\n".join(number_lines(read_results(tmp_path / "out")))
    assert "protocol: sysu indoor-search multi-shot (10), official galleries, 10 trials; its fingerprint: " in shown
    assert "distance: cosine" in shown
    n = f"n {found['map']['n']}"
    assert f"{100 * found['map']['value']:.1f} ({n}, ± {100 * found['map']['spread']:.1f}, " in shown.replace("§", "")


def test_npz_and_market(tmp_path: Path) -> None:
    images = [one for one in SYSU if one[2] == "VIS"]
    columns = rows_of(images).to_pydict()
    folders = ["query" if n % 3 == 0 else "bounding_box_test" for n in range(len(images))]
    path = tmp_path / "market.npz"
    given = {"subject_id": columns["subject_id"], "domain": columns["domain"], "crop_id": columns["crop_id"]}
    cameras = [int(one) for one in columns["camera_id"]]
    np.savez(path, vector=vectors_of(images), camera_id=cameras, session_id=folders, **given)
    found = score(path, "market", tmp_path / "out")
    assert {row["n_gallery"] for row in found.metrics} == {folders.count("bounding_box_test")}
    assert {row["spread"] for row in found.metrics} == {None}


def test_refused_files(tmp_path: Path) -> None:
    rows = pq.read_table(write(tmp_path / "a.parquet", SYSU, vectors_of(SYSU)))
    seeded = ["tables.recognition.benchmark.galleries=seeded"]
    for table, message in (
        (rows.drop_columns("file"), "a benchmark needs the path of each image, as a column file or crop_id"),
        (pa.concat_tables([rows, rows]), "expected each file once a system"),
        (rows.drop_columns("camera_id"), "sysu: expected camera_id of every row"),
    ):
        pq.write_table(table, tmp_path / "b.parquet")
        with pytest.raises((DataError, ProtocolError), match=message):
            score(tmp_path / "b.parquet", "sysu-all", tmp_path / "out", seeded)
    with pytest.raises(ConfigError, match=r"galleries 'exp/rand_perm_cam.mat' not found"):
        score(tmp_path / "a.parquet", "sysu-all", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no such protocol; known: .*; benchmarks: sysu-all, sysu-indoor, llcm_deen"):
        score(tmp_path / "a.parquet", "sysu-outdoor", tmp_path / "out")


# -- several runs


def regdb_runs(folder: Path, splits: tuple[int, ...], **more: Any) -> list[Path]:
    found = []
    for split in splits:
        (folder / f"s{split}").mkdir()
        file = write(folder / f"s{split}/mine.parquet", REGDB, vectors_of(REGDB, 0.9, split))
        score(file, "regdb", folder / f"s{split}/run{split}", [f"tables.recognition.benchmark.split={split}"], **more)
        found.append(folder / f"s{split}/run{split}")
    return found


def test_regdbs_splits_are_averaged(tmp_path: Path) -> None:
    runs = regdb_runs(tmp_path, (1, 2, 7))
    every = [json.loads((run / "evaluate/metrics.json").read_text())["metrics"] for run in runs]
    arguments = [word for run in runs for word in ("--average", str(run))]
    done = CliRunner().invoke(app, ["eval", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["metrics"]) == len(every[0]) == 12
    for n, row in enumerate(found["metrics"]):
        values = [rows[n]["value"] for rows in every]
        assert (row["value"], row["spread"]) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
        assert (row["trials"], row["n"]) == (3, sum(rows[n]["n"] for rows in every))
        assert row["protocol"] == "regdb splits 1, 2, 7 of 10, all images, mean of 3 runs"
    shown = CliRunner().invoke(app, ["eval", *arguments])
    assert "regdb splits 1, 2, 7 of 10, all images, mean of 3 runs" in shown.output.replace("\n", " ")
    assert " ± " in shown.output


def test_what_cannot_be_averaged(tmp_path: Path) -> None:
    one, two = regdb_runs(tmp_path, (1, 2))
    with pytest.raises(ConfigError, match="average: expected two evaluated runs or more, got"):
        average_runs([one])
    with pytest.raises(DataError, match="expected different runs"):
        average_runs([one, one])
    again = tmp_path / "again"
    score(tmp_path / "s2/mine.parquet", "regdb", again, ["tables.recognition.benchmark.split=2"])
    with pytest.raises(ProtocolError, match="table recognition: two runs are of split 2"):
        average_runs([one, two, again])
    settings = ["tables.recognition.benchmark.split=3", "tables.recognition.rerank.k1=5"]
    score(tmp_path / "s2/mine.parquet", "regdb", tmp_path / "reranked", settings)
    with pytest.raises(
        ProtocolError, match=r"run1 follows `regdb split 1 .*re-ranked.*but for the number of the split"
    ):
        average_runs([one, tmp_path / "reranked"])
    fewer = ["tables.recognition.benchmark.split=3", "tables.recognition.metrics=[map]"]
    score(tmp_path / "s2/mine.parquet", "regdb", tmp_path / "fewer", fewer)
    with pytest.raises(DataError, match="have other numbers: recognition, mine"):
        average_runs([one, tmp_path / "fewer"])
    refused = CliRunner().invoke(app, ["eval", "--average", str(one), "--run", str(two)])
    assert isinstance(refused.exception, ConfigError) or refused.exit_code == 2


def test_a_table_that_mixes_protocols_is_refused(tmp_path: Path) -> None:
    llcm = tree(5, 8, {"VIS": (1, 2, 3), "NIR": (1, 2)}, 3, 0.1)
    runs = {use: scored(tmp_path, use, use, llcm) for use in ("llcm_deen_paper", "llcm_testpy_v2i", "llcm_idkl_full")}
    message = "numbers of two protocols are about different tasks"
    for other in ("llcm_testpy_v2i", "llcm_idkl_full"):
        with pytest.raises(ProtocolError, match=message):
            side_by_side(runs["llcm_deen_paper"], [runs[other]])
    plain = ["--run", str(runs["llcm_idkl_full"]), "--compare", str(scored(tmp_path, "x", "llcm_idkl_full", llcm))]
    done = CliRunner().invoke(app, ["eval", *plain])
    assert done.exit_code == 0, done.output
    reranked = scored(tmp_path, "y", "llcm_idkl_full", llcm, "tables.recognition.rerank.k1=5")
    with pytest.raises(ProtocolError, match=message):
        side_by_side(runs["llcm_idkl_full"], [reranked])


def test_report_of_a_benchmark(tmp_path: Path) -> None:
    run = scored(tmp_path, "mine", "sysu-all", SYSU, "tables.recognition.benchmark.galleries=seeded")
    done = CliRunner().invoke(app, ["report", str(run), "--out", str(tmp_path / "page")])
    assert done.exit_code == 0, done.output
    page = next((tmp_path / "page").rglob("*.html")).read_text()
    number = next(
        row for row in json.loads((run / "evaluate/metrics.json").read_text())["metrics"] if row["metric"] == "map"
    )
    assert "sysu all-search single-shot, seeded galleries, 10 trials" in page
    assert f"± {100 * number['spread']:.1f}" in page
    assert "standard deviation over 10 trials" in page
    assert "the bands reach from the least to the greatest trial" in page
    assert "bands are Wilson" not in page
    lines = list(csv.DictReader(next((tmp_path / "page").rglob("*.csv")).read_text().splitlines()))
    row = next(line for line in lines if line["metric"] == "map")
    assert (row["percent"], row["spread"]) == (f"{100 * number['value']:.2f}", f"{100 * number['spread']:.2f}")
    assert row["trials"] == "10"
    report(run, out=tmp_path / "page", latex_cells="value")
    tex = next((tmp_path / "page").rglob("*.tex")).read_text()
    assert f"{100 * number['value']:.2f} $\\pm$ {100 * number['spread']:.2f}" in tex
