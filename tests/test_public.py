"""The front door: the page on Python, run as one session, shell and Python in turn."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mdfpipe
from mdfpipe.store.run import write_table
from tests.inline import Inline
from tests.runs import ROOT, call_here
from tests.systems import copied, loaded, write_study

PAGE = ROOT / "docs" / "python.md"
NOTEBOOK = ROOT / "examples" / "first_session.ipynb"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def session(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder in which the page's blocks ran, and the names that they left."""
    folder = copied(labelled, tmp_path_factory.mktemp("python"))
    (folder / "runs").mkdir()
    (folder / "run").rename(folder / "runs" / "demo")
    write_study(folder / "study.yaml", {"body": {"recipe": loaded()}})
    names: dict[str, Any] = {}
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) >= 12
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setattr("mdfpipe.running.runner.executor_of", Inline)
        patch.setenv("MPLBACKEND", "agg")
        for kind, text in blocks:
            if kind == "python":
                exec(compile(text, str(PAGE), "exec"), names)
                continue
            for line in text.splitlines():
                command, *arguments = shlex.split(line)
                assert command == "mdfpipe"
                said = call_here(*arguments, folder=folder)
                assert (said.code, "Traceback" in said.err) == (0, False), (line, said.err)
    return folder, names


def test_the_page_runs(session: tuple[Path, dict[str, Any]]) -> None:
    folder, names = session
    assert names["outcome"].complete
    assert (folder / "cmc.png").stat().st_size > 5_000
    assert (folder / "report" / "report.html").is_file()
    assert (folder / "scored" / "evaluate" / "report" / "report.html").is_file()
    both = names["both"].metrics.to_pandas()
    assert set(both["system"]) == {"scored/mine", "scored-again/mine"}
    assert set(both["verdict"].dropna()) == {"best"}  # of equal numbers
    assert names["both"].comparisons.num_rows
    assert set(names["by_crops"].groups["group"].to_pylist()) == {"3"}
    assert "no breakdown of tar@far=1e-2" in names["by_crops"].notes[0]
    with pytest.raises(mdfpipe.ConfigError, match="expected two evaluated runs or more, got"):
        mdfpipe.compare([folder / "scored"])


def test_the_notebook_runs(session: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    book = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in cells] == [[]] * len(cells)
    monkeypatch.setattr("mdfpipe.running.runner.executor_of", Inline)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(session[0])
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    assert names["frame"].ndim == 3
    assert names["found"].metrics.num_rows > 0
    assert names["axis"].get_legend_handles_labels()[1] == ["LWIR-30m", "VIS-500m"]


def test_a_run_is_opened(session: tuple[Path, dict[str, Any]]) -> None:
    run = mdfpipe.open(str(session[0] / "runs" / "demo"))
    assert run.tables == ["index", "detect", "label", "crop", "manifest", "train/body", "embed/body", "evaluate"]
    assert "evaluate" in repr(run)
    frame = run.frame("videos/VIS-500m_a", 3)
    row = run.videos.filter([name == "videos/VIS-500m_a" for name in run.videos["video_id"].to_pylist()]).to_pylist()[0]
    assert (frame.shape, frame.dtype) == ((row["height"], row["width"], 3), np.uint8)
    crops = run.crops(domain="LWIR-30m", modality="face", split="test")
    assert 0 < crops.num_rows < run.manifest.num_rows
    assert set(crops["domain"].to_pylist()) == {"LWIR-30m"}
    image = run.crop_image(crops["crop_id"][0].as_py())
    assert image.shape[2] in (1, 3)
    assert run.metrics.to_pandas()["value"].dropna().between(0, 1).all()
    for wrong, error in (
        (lambda: run.table("detects"), mdfpipe.ConfigError),
        (lambda: run.crop_image("nobody"), mdfpipe.DataError),
        (lambda: run.frame("nothing", 0), mdfpipe.DataError),
        (lambda: run.frame("videos/VIS-500m_a", 10_000), mdfpipe.DataError),
        (lambda: mdfpipe.open(session[0]), mdfpipe.DataError),
        (lambda: run.frame(run.videos["video_id"][0].as_py(), "0"), mdfpipe.DataError),
        (lambda: mdfpipe.run("synthetic/tiny", data="d", run="r", settings=["detect.strde=2"]), mdfpipe.ConfigError),
    ):
        with pytest.raises(error, match=r"expected|no crop|no video|with --set detect.strde=2: "):
            wrong()


def test_a_dataframe_gives_the_numbers_of_its_file(session: tuple[Path, dict[str, Any]]) -> None:
    folder, names = session
    scored = mdfpipe.read_table(folder / "scored" / "evaluate" / "metrics.parquet").to_pandas()
    found = names["found"].metrics.to_pandas()
    columns = [name for name in found.columns if name != "system"]
    assert found[columns].equals(scored[columns])
    for wrong, said in (
        (names["mine"].drop(columns="domain"), "expected subject_id, domain and vector"),
        (names["mine"].assign(vector=[[1.0]] * 53 + [[1.0, 2.0]]), "vectors of one width"),
        (names["mine"].assign(subject_id=[object()] * 54), "one type"),
    ):
        with pytest.raises(mdfpipe.DataError, match=said):
            mdfpipe.evaluate(wrong, "no-roles")


@pytest.mark.parametrize("wrong", [None, 3, {}])
def test_a_path_is_text_or_a_path(wrong: Any, tmp_path: Path) -> None:
    for call in (mdfpipe.open, mdfpipe.status, mdfpipe.verify, mdfpipe.inspect, mdfpipe.report, mdfpipe.read_table):
        with pytest.raises(mdfpipe.ConfigError, match="expected a path as text or Path, got"):
            call(wrong)
    for several in (
        lambda: mdfpipe.run(wrong, data=tmp_path, run=tmp_path),
        lambda: mdfpipe.run("synthetic/tiny", data=wrong, run=tmp_path / "run"),
        lambda: mdfpipe.compare([tmp_path, wrong]),
        lambda: mdfpipe.breakdown(wrong, ["crops"]),
        lambda: mdfpipe.score(wrong, "no-roles", tmp_path / "out"),
        lambda: mdfpipe.synthesise(wrong, "tiny"),
        lambda: mdfpipe.Run(wrong),
        lambda: mdfpipe.Checkpoint.load(wrong),
        lambda: mdfpipe.Study.load(wrong),
    ):
        with pytest.raises(mdfpipe.ConfigError, match="expected a path as text or Path, got"):
            several()


@pytest.mark.parametrize("wrong", ["detect.stride=2", 5, [5], [None], {"a": "b"}])
def test_a_list_of_texts_is_no_text_and_holds_nothing_else(wrong: Any, tmp_path: Path) -> None:
    """One text was taken letter by letter, or ended in a TypeError."""
    vectors = tmp_path / "none.parquet"
    for call in (
        lambda: mdfpipe.run("synthetic/tiny", data=tmp_path, run=tmp_path / "run", settings=wrong),
        lambda: mdfpipe.run("synthetic/tiny", data=tmp_path, run=tmp_path / "run", systems=wrong),
        lambda: mdfpipe.run("synthetic/tiny", data=tmp_path, run=tmp_path / "run", only=wrong),
        lambda: mdfpipe.Study.load("synthetic/tiny", wrong),
        lambda: mdfpipe.evaluate(vectors, "no-roles", settings=wrong),
        lambda: mdfpipe.score(vectors, "no-roles", tmp_path / "out", wrong),
        lambda: mdfpipe.merge_faces(tmp_path, wrong),
        lambda: mdfpipe.merge_faces(tmp_path, splits=wrong),
    ):
        with pytest.raises(mdfpipe.ConfigError, match=r"expected a list of texts, such as \["):
            call()
    if wrong != [5]:
        with pytest.raises(
            mdfpipe.ConfigError, match=r"compare: expected (a list of paths|a path as text|two evaluated)"
        ):
            mdfpipe.compare(wrong)


def test_what_a_view_reads_is_of_now_and_of_its_own_folder(
    session: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(session[0] / "runs" / "demo", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    view = mdfpipe.open("run")
    monkeypatch.chdir("/")
    crop = view.crops(modality="body")["crop_id"][0].as_py()
    assert view.crop_image(crop).shape == mdfpipe.open(tmp_path / "run").crop_image(crop).shape
    manifest = tmp_path / "run" / "manifest" / "manifest.parquet"
    receipt = mdfpipe.Run(tmp_path / "run").receipt("manifest", "manifest")
    assert receipt is not None
    write_table(manifest, view.manifest.slice(1), receipt)  # as a run that left it out
    with pytest.raises(mdfpipe.DataError, match="no crop"):
        view.crop_image(crop)
    for wrong in (lambda: view.crop_image([crop]), lambda: view.table(["detect"]), lambda: view.crops(domain=["VIS"])):
        with pytest.raises(mdfpipe.ConfigError, match=r"expected (a text|a stage|one text)"):
            wrong()


def test_a_column_that_is_not_there_is_no_empty_table(session: tuple[Path, dict[str, Any]]) -> None:
    run = mdfpipe.Run(session[0] / "runs" / "demo")
    manifest = run.part("manifest", "manifest")
    assert mdfpipe.read_table(manifest, ["crop_id"]).column_names == ["crop_id"]
    wrong: tuple[tuple[Any, str], ...] = (
        (["crop_id", "nope"], "expected a column 'nope', found"),
        ("crop_id", "expected a list of names"),
        ([5], "expected a list of names"),
        (5, "expected a list of names"),
    )
    for columns, said in wrong:
        with pytest.raises(mdfpipe.MdfError, match=said):
            mdfpipe.read_table(manifest, columns)
    with pytest.raises(mdfpipe.ConfigError, match="no column 'nope'; there are"):
        run.table("manifest", "manifest", ["nope"])


def test_a_protocol_may_be_an_object(session: tuple[Path, dict[str, Any]]) -> None:
    folder, names = session
    same = mdfpipe.Protocol(name="no-roles", unlisted="test")
    found = [mdfpipe.evaluate(names["mine"], one).metrics for one in ("no-roles", same)]
    assert found[0].equals(found[1])
    wrongs: list[Any] = [None, 5, {"name": "x"}]
    for wrong in wrongs:
        with pytest.raises(mdfpipe.ConfigError, match="protocol: expected a path as text or Path"):
            mdfpipe.evaluate(names["mine"], wrong)
    with pytest.raises(mdfpipe.ConfigError, match="expected by with it"):
        mdfpipe.report(folder / "runs" / "demo", columns="nope.csv")


def test_types_are_seen_from_outside(tmp_path: Path) -> None:
    """What an editor shows: every public name is typed, and none is Any."""
    names = [name for name in mdfpipe.__all__ if name.islower()]
    lines = ["import mdfpipe", *(f"reveal_type(mdfpipe.{name})" for name in names)]
    lines += ['reveal_type(mdfpipe.open("r").crop_image("c"))', 'reveal_type(mdfpipe.evaluate("v", "p").notes)']
    (tmp_path / "session.py").write_text("\n".join(lines))
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        str(tmp_path / "session.py"),
    ]
    made = subprocess.run(
        [*command, "--cache-dir", str(ROOT / ".mypy_cache")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    shown = re.findall(r'Revealed type is "(.*)"', made.stdout)
    assert len(shown) == len(lines) - 1, made.stdout
    assert [text for text in shown if text == "Any" or text.startswith("def (*")] == []
