"""Hostile tables, studies and weights, and folders that cannot be written: one line, and nothing written elsewhere."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdfpipe.cli.display import out
from mdfpipe.running.scoring import score
from mdfpipe.store.results import read_results

from . import clips, runs
from .video import yolos

LONG = "x" * 10_000_000


@pytest.fixture
def data(tmp_path: Path, clip: Path) -> runs.DataSet:
    """Two sound videos, in a folder with nothing beside them."""
    made = runs.DataSet(tmp_path / "data").copies(clip, "good_a.mp4", "good_b.mp4")
    made.write()
    return made


def refused(data: runs.DataSet, *more: str) -> str:
    """The one line of a call that is refused, and that left nothing outside its run folder."""
    run, home = data.root.parent / "run", data.root.parent
    before = runs.tree(home)
    line = runs.run(data.root, run, *more).line()
    made = {p for p in runs.tree(home) if p not in before and not p.startswith(f"{run}/")}
    assert not made
    assert not list(run.rglob("detect")) or not list((run / "detect").glob("*.parquet"))
    assert len(line) < 1000
    return line


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("../outside.mp4", "got '../outside.mp4', which climbs out with '..'"),
        ("/etc/passwd", "got '/etc/passwd', which is absolute"),
        ("videos/a\0b.mp4", r"got 'videos/a\x00b.mp4', which holds a control"),
        ("videos/\x1b[31mred.mp4", r"got 'videos/\x1b[31mred.mp4', which holds a control"),
        (f"videos/{LONG}", "FILENAME holds 10000007 characters"),
    ],
    ids=["up", "absolute", "nul", "escape", "10 MB"],
)
def test_a_hostile_video_name_is_refused_by_table_row_and_column(data: runs.DataSet, cell: str, why: str) -> None:
    data.faces.append(["s1", cell, 3, 1, 1, 9, 9])
    data.write()
    line = refused(data)
    assert "faces.csv row 26" in line
    assert "FILENAME" in line
    assert why in line


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("two\nlines", r"at most 200 printable characters, got 'two"),
        (LONG, "SUBJECT_ID holds 10000000 characters"),
    ],
    ids=["newline", "10 MB"],
)
def test_a_hostile_subject_is_refused_by_table_row_and_column(data: runs.DataSet, cell: str, why: str) -> None:
    data.faces[4][0] = cell
    data.write()
    line = refused(data)
    assert "faces.csv row 6" in line
    assert "SUBJECT_ID" in line
    assert why in line


def test_markup_and_paths_are_only_names_to_subjects_and_to_boxes(data: runs.DataSet, tmp_path: Path) -> None:
    """A subject, and a video_id of the boxes table, is compared and printed; neither becomes a path or markup."""
    subjects = ("<script>alert(1)</script>", "../../s", "[red]x")
    for number, row in enumerate(data.faces):
        row[0] = subjects[number % 3]
    for cell in ("../outside", "/etc/passwd", "videos/a\0b", "\x1b[31mred", "<script>"):
        data.boxes.append([cell, *data.boxes[0][1:]])
    data.write()
    before = runs.tree(tmp_path)
    said = runs.run(data.root, tmp_path / "run").calm()
    assert said.code == 0
    assert "\x1b" not in said.out + said.err
    assert all(p.startswith(f"{tmp_path}/run/") for p in runs.tree(tmp_path) if p not in before)
    assert runs.facts(tmp_path / "run", "label", "videos/good_a")["subjects"] == dict.fromkeys(sorted(subjects), 4)


def test_a_hostile_number_in_the_boxes_fails_its_video_only(data: runs.DataSet) -> None:
    data.boxes[2][3] = "1\0\x1b[31m"
    data.write()
    said = runs.run(data.root, data.root.parent / "run", "--json").calm()
    assert said.code == 3
    assert list(said.failures) == ["detect/videos/good_a"]
    assert "boxes.csv: data row 3, column y1: expected a number, got" in said.failures["detect/videos/good_a"]
    assert said.failures["detect/videos/good_a"].isprintable()


def test_10_megabytes_in_a_cell_of_the_boxes_are_refused_by_name(data: runs.DataSet) -> None:
    data.boxes[2][0] = LONG
    data.write()
    said = runs.run(data.root, data.root.parent / "run", "--json").calm()
    assert said.code in (2, 3)
    text = said.err + said.out
    assert len(text) < 10_000
    assert "boxes.csv" in text
    assert "boxes.csv row 4: video_id" in text
    assert "straddling" not in text  # pyarrow's word for it helps nobody


def link_out(data: runs.DataSet, to: Path) -> None:
    data.video("out.mp4").symlink_to(to)
    data.annotate("out.mp4")
    data.write()


def test_a_link_out_of_the_root_is_refused(data: runs.DataSet, clip: Path) -> None:
    link_out(data, clip)
    line = refused(data)
    assert "videos/out.mp4 is a symlink to" in line
    assert "outside the data root" in line


def test_a_frame_that_is_a_link_out_of_the_root_fails_its_video(data: runs.DataSet, clip: Path) -> None:
    folder = clips.write_images(data.video("folder"), [clips.picture(n) for n in range(3)])
    (folder / "frame_3.png").symlink_to(clip)
    data.annotate("folder", 4)
    data.write()
    said = runs.run(data.root, data.root.parent / "run", "--json").calm()
    assert said.code == 3
    assert list(said.failures) == ["detect/videos/folder"]
    assert "outside the data root" in said.failures["detect/videos/folder"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("!!python/object/apply:os.system ['touch pwned']", "a number, a list or a mapping, got the tag"),
        ("name: a\nname: b\n", "the key 'name' is given twice"),
        ("? [a, b]\n: 1\n", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("- a\n", "expected settings as `name: value` lines, got list"),
    ],
    ids=["call", "twice", "list as key", "deep", "list"],
)
def test_a_hostile_study_is_refused(data: runs.DataSet, text: str, why: str) -> None:
    (data.root / "study.yaml").write_text(text)
    line = refused(data)
    assert f"{data.root / 'study.yaml'}: " in line
    assert why in line
    assert not (runs.ROOT / "pwned").exists()
    assert not (data.root.parent / "run").exists()


class Touch:
    """What a hostile pickle does when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ["pickle", "text"])
def test_weights_that_are_none_stop_the_run_and_are_not_run(data: runs.DataSet, kind: str, tmp_path: Path) -> None:
    content = {"pickle": pickle.dumps(Touch(tmp_path / "pwned")), "text": b"weights"}[kind]
    (data.root / "net.onnx").write_bytes(content)
    data.write(detect={"detector": {"use": "onnx", "weights": "net.onnx"}})
    said = runs.run(data.root, tmp_path / "run").calm()
    assert not (tmp_path / "pwned").exists()
    (line,) = [text for text in said.err.splitlines() if text.startswith("mdfpipe: ")]  # not a line for each video
    assert said.code == 2
    assert "net.onnx: expected an ONNX model" in line


# --- text that a terminal would obey ---


def test_no_text_of_a_file_reaches_the_terminal_as_an_order(tmp_path: Path) -> None:
    """ESC in the columns, cells and metadata of a table that is inspected, in a run's notes, in a protocol."""
    order = "\x1b]0;owned\x07\u202e\x9b31m"
    cells = {"subject_id": [order, "b"], f"column {order}": [order, order], "domain": ["VIS-500m"] * 2}
    table = pa.table(cells).replace_schema_metadata({order: order})
    pq.write_table(table, tmp_path / "t.parquet")
    (tmp_path / f"p{order}.yaml").write_text("subjects: {a: train}")
    (tmp_path / "p.yaml").write_text('name: p\nsubjects: {"a\\e[31m": train}\n')
    vectors = pa.table({"subject_id": [order], "domain": ["VIS-500m"], "vector": [[1.0]]})
    pq.write_table(vectors, tmp_path / "v.parquet")
    to = ("--out", tmp_path / "out")
    for call in (
        ("inspect", tmp_path / "t.parquet"),
        ("inspect", tmp_path / "t.parquet", "--json"),
        ("inspect", tmp_path / order),
        ("eval", "--embeddings", tmp_path / "v.parquet", "--protocol", "market", *to),
        ("eval", "--embeddings", tmp_path / "v.parquet", "--protocol", tmp_path / "p.yaml", *to),
        ("eval", "--embeddings", tmp_path / "v.parquet", "--protocol", tmp_path / f"p{order}.yaml", *to),
    ):
        said = runs.call_here(*call)
        for sign in ("\x1b", "\x07", "\u202e", "\x9b"):
            assert sign not in said.out + said.err, call
    out.print(order, markup=False)  # the second fence, whoever forgot the first


def test_names_of_systems_stay_below_the_folder(tmp_path: Path) -> None:
    """Whatever a file of vectors calls its system, up to 200 letters."""
    protocol = tmp_path / "p.yaml"
    protocol.write_text(
        "{name: p, unlisted: test, domains: [VIS-500m, SWIR-30m], gallery_domains: [VIS-500m], "
        "probe_domains: [SWIR-30m]}"
    )
    for number, name in enumerate(("x/../../../P", "../P", "/P", "..", "a" * 200, "\u4e00" * 200)):
        pq.write_table(systems_of(name), tmp_path / "v.parquet")
        home = tmp_path / "home" / str(number)
        done = score(tmp_path / "v.parquet", str(protocol), home / "a" / "out", ["tables.t.unmated=exclude"])
        assert done.metrics[0]["system"] == name
        assert [path.name for path in home.iterdir()] == ["a"]
        assert [path.name for path in (home / "a").iterdir()] == ["out"]
        assert list(read_results(done.folder).score_files) == [("t", name)]


def systems_of(name: str) -> pa.Table:
    rows = {"subject_id": ["a", "b"] * 2, "domain": ["VIS-500m"] * 2 + ["SWIR-30m"] * 2, "system": [name] * 4}
    return pa.table({**rows, "vector": np.eye(4).tolist()})


# --- trust in weights is an option of the call ---


def test_trust_in_weights_is_given_by_the_call_and_by_nothing_that_is_handed_over(
    data: runs.DataSet, tmp_path: Path
) -> None:
    torch, run, marker = pytest.importorskip("torch"), tmp_path / "run", tmp_path / "ran"
    weights = {"model": yolos.network().half().state_dict(), "note": Touch(marker)}
    torch.save(weights, data.root / "a.pt")
    detector = {"use": "yolo", "weights": "a.pt", "image_size": 96}
    study = data.write(detect={"detector": detector | {"trust_pickle": True}})
    command = ("detect", study, "--data", data.root, "--run", run)
    said = runs.call_here(*command)
    assert said.code == 2
    assert "detect.detector.trust_pickle: no setting" in said.line()
    assert "give --trust-pickle with each call" in said.line()
    data.write(detect={"detector": detector | {"trust_pickle": False}})  # as an earlier version wrote it out
    assert "refused: opening it would run posix.system" in runs.call_here(*command).err
    assert not marker.exists()
    assert runs.call_here(*command, "--trust-pickle").code == 0
    assert marker.exists()
    marker.unlink()
    for name in ("pipeline.yaml", "detect/videos__good_a.parquet"):
        assert b"trust_pickle" not in (run / name).read_bytes()
    kept = run / "pipeline.yaml"
    kept.write_text(kept.read_text().replace("    use: yolo\n", "    use: yolo\n    trust_pickle: true\n"))
    assert "trust_pickle: true" in kept.read_text()
    assert runs.call_here("status", run).code == 0  # of a run that an earlier version made with --trust-pickle
    assert "no setting" in runs.call_here("run", kept, "--data", data.root, "--run", run).line()
    assert runs.call_here(*command).code == 0  # and nothing is due
    assert not marker.exists()
