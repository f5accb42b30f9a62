"""Descriptions: of tables, shards, weights, videos and runs; and one clear line for everything else."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from mdfpipe.errors import ConfigError, DataError, MdfError, StoreError
from mdfpipe.inspecting.console import show_description
from mdfpipe.inspecting.inspection import inspect, inspect_and_write, to_csv
from mdfpipe.inspecting.things import Description
from mdfpipe.running.survey import survey
from mdfpipe.store.run import Failure, Run, read_table

VIDEO = "videos/VIS-500m_a"


def printed(found: Description) -> str:
    buffer = io.StringIO()
    show_description(found, Console(file=buffer, width=80, soft_wrap=True, highlight=False))
    return buffer.getvalue()


# -- runs


def test_a_run_counts_by_domain_subject_split_and_status(demo: Path) -> None:
    found = inspect(demo)
    assert found.kind == "run"
    assert found.facts["study"] == "drawn"
    assert found.facts["frames"] == 4 * 40
    assert [row["domain"] for row in found.funnel] == ["VIS-500m", "LWIR-30m"]
    assert sum(found.counts["bodies by status"].values()) == found.facts["bodies"]
    assert set(found.counts["labelled bodies by subject"]) == {"s01", "s02", "s03", "s04"}
    assert set(found.counts["crops by split"]) == {"train", "test"}
    assert "VIS-500m" in printed(found)


def test_failures_and_parts_out_of_date_are_said_and_not_counted(own: Path) -> None:
    run = Run(own)
    (own / "crop" / "videos__VIS-500m_b.body.tar").unlink()
    run.discard("detect", VIDEO)
    run.record_failure(Failure("detect", VIDEO, "DecodeError", "frame 3 does not decode"))
    found = inspect(own)
    assert found.failures == [
        {"stage": "detect", "key": VIDEO, "kind": "DecodeError", "reason": "frame 3 does not decode"}
    ]
    assert found.facts["detect: parts"] == 3
    assert found.facts["label: parts"] == 3
    assert found.facts["crop: parts"] == 2
    assert any("crop: 2 parts are out of date" in note for note in found.notes)
    assert any("manifest" in note for note in found.notes)
    assert "frame 3 does not decode" in printed(found)


def test_a_part_that_failed_later_is_out_of_date_and_its_rows_do_not_count(own: Path, tmp_path: Path) -> None:
    """After a changed setting the old part stays until the new one is made; where that fails, it is not the answer."""
    kept = yaml.safe_load((own / "pipeline.yaml").read_text())
    kept["detect"]["stride"] = 2
    (own / "pipeline.yaml").write_text(yaml.safe_dump(kept))
    Run(own).record_failure(Failure("detect", VIDEO, "DecodeError", "frame 3 does not decode"))
    found = inspect(own)
    assert [failure["reason"] for failure in found.failures] == ["frame 3 does not decode"]
    assert [found.facts[f"{stage}: parts"] for stage in ("detect", "label", "crop")] == [0, 0, 0]
    assert any("detect: 4 parts are out of date" in note for note in found.notes)
    assert any(note.startswith("manifest: out of date (detect/") for note in found.notes)
    part = inspect(Run(own).part("label", VIDEO))
    assert any("OUT OF DATE, not what its study gives now: detect/" in note for note in part.notes)
    video = survey(own).video(VIDEO)
    assert video.outdated == ["detect", "label", "crop"]
    assert video.remarks[0] == "detect failed: frame 3 does not decode"
    with pytest.raises(DataError, match="it failed: frame 3 does not decode"):
        inspect_and_write(own, video=VIDEO, frame=0, out=tmp_path / "a.png")


def test_a_later_stage_that_failed_leaves_the_parts_before_it(own: Path) -> None:
    Run(own).discard("label", VIDEO)
    Run(own).record_failure(Failure("label", VIDEO, "Review", "out of step"))
    found = inspect(own)
    assert [found.facts[f"{stage}: parts"] for stage in ("detect", "label", "crop")] == [4, 3, 3]
    assert [failure["stage"] for failure in found.failures] == ["label"]


def test_a_part_that_was_made_anew_counts_again(own: Path) -> None:
    run = Run(own)
    run.record_failure(Failure("detect", VIDEO, "DecodeError", "frame 3 does not decode"))
    receipt = run.receipt("detect", VIDEO)
    assert receipt is not None
    run.commit(receipt, run.table("detect", VIDEO), {})
    found = inspect(own)
    assert found.failures == []
    assert [found.facts[f"{stage}: parts"] for stage in ("detect", "label", "crop")] == [4, 4, 4]


def test_a_run_is_described_without_its_data_and_settings(own: Path) -> None:
    (own / "environment.json").unlink()
    (own / "pipeline.yaml").write_text("name: [")
    assert inspect(own).facts["data"] == "unknown"


def test_a_run_without_index(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text("name: x")
    with pytest.raises(DataError, match=r"expected a run folder with index/videos.parquet"):
        inspect(tmp_path)


# -- tables


def test_a_table_of_ours_has_meanings_and_its_receipt(demo: Path) -> None:
    found = inspect(demo / "label" / "videos__VIS-500m_a.parquet")
    assert found.what == f"the table labels of mdfpipe, made by the stage label for {VIDEO}"
    assert all(column.meaning for column in found.columns)
    assert found.receipt is not None
    assert found.receipt["settings"]["min_overlap"] == 0.5
    assert set(found.receipt["made from"]) == {"detect", "faces", "person"}
    assert found.observed["rows"] == found.counts["status"]
    assert "what became of it" in printed(found)


@pytest.mark.parametrize(
    "name", ["index/videos", "index/subjects", "index/faces/videos__VIS-500m_a", "manifest/manifest"]
)
def test_every_table_of_a_run_is_known(demo: Path, name: str) -> None:
    found = inspect(demo / f"{name}.parquet")
    assert "of mdfpipe" in found.what
    assert found.facts["rows"] > 0
    assert found.kind == ("manifest" if name.startswith("manifest") else "table")
    json.dumps(found.counts)


def test_a_foreign_table(tmp_path: Path) -> None:
    path = tmp_path / "foreign.data"
    table = pa.table(
        {
            "split": pa.array(["a", None, "[red]x\x00", "a"]).dictionary_encode(),
            "nested": [[1], [], None, [2]],
            "subject_id": pa.array([3, 3, 4, 5], pa.int64()),
            "x\ny": [1.0, 2.0, float("nan"), 4.0],
        }
    )
    pq.write_table(table, path)
    found = inspect(path)
    assert found.what == "a Parquet table that mdfpipe did not write"
    assert found.receipt is None
    assert found.counts["split"] == {"a": 2, "(null)": 1, "[red]x\\x00": 1}
    assert found.counts["subject_id"] == {"3": 2, "4": 1, "5": 1}
    assert "[red]x" in printed(found)


def test_a_table_with_a_column_twice(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], ["split", "mated", "mated"])
    pq.write_table(table, tmp_path / "t.parquet")
    assert inspect(tmp_path / "t.parquet").counts == {"split": {"a": 1}}


def test_an_empty_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"status": pa.array([], pa.string())}), tmp_path / "t.parquet")
    assert inspect(tmp_path / "t.parquet").facts["rows"] == 0


def test_a_large_table_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the counted columns are read, a batch at a time: the wide column never comes into memory."""
    path, rows = tmp_path / "large.parquet", 400_000
    status = pa.array([f"s{n % 7}" for n in range(rows)])
    blob = pa.array([b"x" * 100] * rows)
    pq.write_table(pa.table({"status": status, "blob": blob}), path, row_group_size=50_000)
    del status, blob

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the table was read whole")

    monkeypatch.setattr(pq, "read_table", refuse)
    monkeypatch.setattr(pq.ParquetFile, "read", refuse)
    before = pa.total_allocated_bytes()
    found = inspect(path)
    assert sum(found.counts["status"].values()) == rows
    assert pa.total_allocated_bytes() - before < 10_000_000


def test_a_column_with_very_many_values_is_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "many.parquet"
    pq.write_table(pa.table({"subject_id": [f"s{n}" for n in range(20_000)]}), path)
    found = inspect(path)
    assert not found.counts
    assert found.notes == ["subject_id has more than 10000 values, which are not counted"]


# -- CSV


def test_csv_of_any_table_is_the_same_rows(demo: Path, tmp_path: Path) -> None:
    import pyarrow.csv as pacsv

    source, out = demo / "manifest" / "manifest.parquet", tmp_path / "m.csv"
    assert to_csv(source, out) == read_table(source).num_rows
    back = pacsv.read_csv(out)
    assert back.column_names == read_table(source).column_names
    assert back["crop_id"].to_pylist() == read_table(source)["crop_id"].to_pylist()
    assert back["x1"].to_pylist() == pytest.approx(read_table(source)["x1"].to_pylist())


def test_csv_of_nested_and_binary_columns(tmp_path: Path) -> None:
    table = pa.table(
        {"v": pa.array([[1.0, 2.5], None], pa.list_(pa.float32(), 2)), "b": [b"\x00", None], "t": ["", None]}
    )
    pq.write_table(table, tmp_path / "v.parquet")
    to_csv(tmp_path / "v.parquet", tmp_path / "v.csv")
    assert (tmp_path / "v.csv").read_text().splitlines()[1].startswith('"[1.0, 2.5]"')


@pytest.mark.parametrize("evil", ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1"])
@pytest.mark.parametrize("encoded", [False, True])
def test_csv_holds_no_formula(tmp_path: Path, evil: str, encoded: bool) -> None:
    import csv

    names = pa.array([evil, "s=1", None, ""])
    table = pa.table(
        {"subject_id": names.dictionary_encode() if encoded else names, "x": [-1.5, 2.0, -3.0, 0.0], evil: [-1] * 4}
    )
    pq.write_table(table, tmp_path / "v.parquet")
    to_csv(tmp_path / "v.parquet", tmp_path / "v.csv")
    with (tmp_path / "v.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["subject_id", "x", "'" + evil.replace("\r", "\\r")],  # names of columns are printable
        [f"'{evil}", "-1.5", "-1"],
        ["s=1", "2", "-1"],
        ["", "-3", "-1"],
        ["", "0", "-1"],
    ]


def test_csv_on_a_terminal_is_not_obeyed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"a": ["\x1b]0;P\x07", "\u2066x"], "b": [1, 2]}), tmp_path / "v.parquet")
    to_csv(tmp_path / "v.parquet", Path("-"))
    said = capfd.readouterr().out
    assert said.splitlines() == ['"a","b"', '"\\x1b]0;P\\x07",1', '"\\u2066x",2']


def test_csv_that_cannot_be_written_leaves_nothing(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        to_csv(demo / "manifest" / "manifest.parquet", tmp_path / "no" / "m.csv")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="expected a Parquet table"):
        to_csv(tmp_path / "bad.parquet", tmp_path / "m.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.parquet"]


# -- shards


def test_a_shard_and_the_table_beside_it(demo: Path) -> None:
    found = inspect(demo / "crop" / "videos__LWIR-30m_a.face.tar")
    assert found.counts["suffix"] == {"png": found.facts["crops"]}
    assert found.counts["modality"] == {"face": found.facts["rows that point here"]}
    assert not found.notes


def test_a_shard_that_its_table_does_not_fit(own: Path) -> None:
    shard = own / "crop" / "videos__VIS-500m_a.body.tar"
    with tarfile.open(shard, "w") as tar:
        tar.addfile(tarfile.TarInfo("one.jpg"))
    notes = inspect(shard).notes
    assert "does not fit" in notes[0]
    assert notes[-1].endswith("`mdfpipe run` makes crop/videos/VIS-500m_a again")
    assert Run(own).failure("crop", "videos/VIS-500m_a").kind == "Damaged"  # type: ignore[union-attr]


def test_a_damaged_shard(demo: Path, tmp_path: Path) -> None:
    data = (demo / "crop" / "videos__VIS-500m_a.body.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2 + 100])
    with pytest.raises(DataError, match=r"cut.tar: expected an uncompressed tar"):
        inspect(tmp_path / "cut.tar")


# -- weights


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (_explode, ("unpickled",))


def _explode(word: str) -> None:
    raise AssertionError(word)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
def test_a_pickle_stays_closed(tmp_path: Path, suffix: str) -> None:
    bomb = pickle.dumps(_Bomb())
    path = tmp_path / f"zip{suffix}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", bomb)
        archive.writestr("model/data/0", b"\0" * 64)
    found = inspect(path)
    assert found.facts["largest members"] == {"model/data/0": 64, "model/data.pkl": len(bomb)}
    assert "nothing in it was opened: refused: opening it would run" in found.notes[0]
    (tmp_path / f"bare{suffix}").write_bytes(bomb)
    assert "pickle" in str(inspect(tmp_path / f"bare{suffix}").facts["format"])


def test_safetensors(tmp_path: Path) -> None:
    header = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"format": "pt"}}
    text = json.dumps(header).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 24)
    found = inspect(tmp_path / "m.safetensors")
    assert found.facts["parameters"] == 6
    assert found.facts["first tensors"] == {"w": "F32 (2, 3)"}
    assert len(found.facts["sha256"]) == 64


def test_onnx(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    weight = helper.make_tensor("w", kinds.FLOAT, [3, 2], [0.0] * 6)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kinds.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", kinds.FLOAT, ["batch", 2])],
        [weight],
    )
    onnx.save(helper.make_model(graph, producer_name="test"), str(tmp_path / "m.onnx"))
    facts = inspect(tmp_path / "m.onnx").facts
    assert facts["inputs"] == {"x": "float32 (batch, 3)"}
    assert facts["outputs"] == {"y": "float32 (batch, 2)"}
    assert (facts["parameters"], facts["operators"]) == (6, {"MatMul": 1})


# -- videos


def test_a_video_is_described_without_decoding(demo: Path) -> None:
    found = inspect(demo.parent / "data" / "videos" / "LWIR-30m_a.mkv")
    assert found.kind == "video"
    assert (found.facts["frames in the container"], found.facts["bits"]) == (40, 16)


# -- what it is not


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.parquet", b""),
        ("bad.parquet", b"PAR1" + b"x" * 100),
        ("short.safetensors", b"abc"),
        ("long.safetensors", struct.pack("<Q", 1 << 40) + b"{}"),
        ("list.safetensors", struct.pack("<Q", 2) + b"[]"),
        ("deep.safetensors", struct.pack("<Q", 90_000) + b'{"a":' * 18_000 + bytes(8)),
        ("cut.safetensors", struct.pack("<Q", 60) + b'{"w": {"dtype": "F32", "shape": [9], "data_offsets":[0,36]}}'),
        ("cut.onnx", b"\x08\x07\x12\x04test\x3a\xff\xff\x01" + bytes(50)),
        ("odd.onnx", b"\x08\x07\x12\x04\xff\xfe\xfd\xfc\x3a\x06\x12\x04\xff\xfe\xfd\xfc"),
        ("text.onnx", b"hello there, this is text"),
        ("empty.onnx", b""),
        ("zeros.onnx", bytes(100)),
        ("text.pt", b"hello"),
        ("empty.pth", b""),
        ("zip.pt", b"PK\x03\x04" + b"x" * 50),
        ("text.tar", b"hello"),
        ("text.mp4", b"hello"),
        ("empty.mkv", b""),
        ("letter.txt", b"Dear Sir"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=r"expected .* got ") as caught:
        inspect(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_nothing_there_and_a_folder_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found nothing there"):
        inspect(tmp_path / "nowhere")
    with pytest.raises(DataError, match="a folder with neither an index nor images"):
        inspect(tmp_path)


def test_options_that_do_not_fit_together(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no --frame and no --out"):
        inspect_and_write(demo, video=VIDEO)
    with pytest.raises(ConfigError, match="--html needs a run folder"):
        inspect_and_write(demo / "manifest" / "manifest.parquet", html=tmp_path / "a.html")
    with pytest.raises(MdfError, match="expected a Parquet table"):
        inspect_and_write(demo, csv=tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


def test_an_output_never_destroys_what_is_looked_at(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": [1]}), table)
    with pytest.raises(ConfigError, match="would overwrite what it inspects"):
        inspect_and_write(table, csv=table)
    assert pq.read_table(table).num_rows == 1


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(DataError, match="found a pipe, socket or device"):
        inspect(tmp_path / "pipe.mp4")
