"""What a run says of itself, in another shape: no receipt, no event and no failure of ours; a table that is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mdfpipe.errors import Damaged, refuse_lack_of_memory
from mdfpipe.store.receipts import checked_event, lacking
from mdfpipe.store.run import Failure, Receipt, Run, read_receipt, write_table
from mdfpipe.store.tables import CROPS, FACES, LABELS, SEARCHES, as_ours

RECEIPT = Receipt("label", 1, "v", {"measure": "iou"}, {"faces": "f"}, {"label/x": (1, "")}, {"rows": {"labelled": 1}})


def edited(**changes: Any) -> bytes:
    """A receipt with other fields that says that it fits."""
    fields = json.loads(RECEIPT.to_bytes()) | changes
    decisive = [fields.get(name) for name in ("stage", "version", "key", "settings", "upstream")]
    from mdfpipe.store.run import fingerprint

    return json.dumps(fields | {"fingerprint": fingerprint(decisive)}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        *({"settings": value} for value in ("x", [], None, 3)),
        *({"upstream": value} for value in ("x", {"a": 1}, [["a", "b"]])),
        *({"files": value} for value in ([], {"a": 1}, {"a": [1]}, {"a": [-1, ""]}, {"a": [1, "x"]}, {"a": ["1", ""]})),
        *({"facts": value} for value in ("x", {"rows": 3}, {"rows": {"a": -1}}, {"rows": {"a": "1"}}, {"faces": True})),
        *({"facts": {"alignment": value}} for value in (3, {}, {"verdict": "x"})),
        *({"stage": "detect", "facts": {"window": value}} for value in ([1], "ab", [1, 2, 3], 3)),
        *({"stage": "index", "facts": {"left_out": value}} for value in ([3], [{}], {})),
        *({"stage": "train/a", "facts": {"left_out": value}} for value in ([], {"without": 3})),
        *({"stage": "evaluate", "facts": {"tables": value}} for value in ([], {"t": {}}, {"t": {"systems": "a"}})),
        *({name: value} for name in ("stage", "key", "version", "tells", "content") for value in (None, 1.5, {})),
        {"more": 1},
    ],
)
def test_a_receipt_of_another_shape_is_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r": "):
        Receipt.from_bytes(edited(**changes))
    path = tmp_path / "a.parquet"
    table = pa.table({"a": [1]}).replace_schema_metadata({b"mdfpipe": edited(**changes)})
    write_table(path, table)
    assert read_receipt(path) is None


@pytest.mark.parametrize("data", [b"[]", b"3", b"null", b"{", b"", b"\xff", b"[" * 100_000, b'"x"'])
def test_what_is_no_receipt_at_all_is_none(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's words, or ours
        Receipt.from_bytes(data)


def test_a_receipt_stays_what_it_is() -> None:
    assert Receipt.from_bytes(edited()) == RECEIPT
    whole = replace(RECEIPT, facts={"rows": {}, "faces": 1, "frames_annotated": 1, "subjects": {}, "mine": [1]})
    assert Receipt.from_bytes(whole.to_bytes()) == whole
    assert (lacking("label", whole.facts), lacking("label", RECEIPT.facts)) == ("", "faces")


@pytest.mark.parametrize("text", ["[]", "{", "3", '{"stage": 3}', '{"message": null}', "[" * 99_999])
def test_a_failure_of_another_shape_is_one(tmp_path: Path, text: str) -> None:
    run = Run(tmp_path)
    run.record_failure(Failure("label", "v", "DataError", "said\x1b[31m"))
    assert run.failure("label", "v").message == "said\\x1b[31m"  # type: ignore[union-attr]
    run.failure_path("label", "v").write_text(text)
    assert run.failure("label", "v") == Failure("label", "v", "unknown", "its failure record cannot be read")


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": 10**400},
        {"seconds": float("nan")},
        {"seconds": "1"},
        {"done": "\x1b[31m"},
        {"total": -1},
        {"time": None},
        {"stage": 3},
        {"key": []},
        {"event": None},
    ],
)
def test_an_event_of_another_shape_is_none(change: dict[str, Any]) -> None:
    event: dict[str, Any] = {"time": 1.5, "event": "finished", "stage": "label", "key": "v", "seconds": 1}
    assert checked_event(json.dumps(event).encode()) == event
    with pytest.raises(ValueError, match=r": "):
        checked_event(json.dumps(event | change).encode())


FACE = {
    "video_id": ["v"],
    "frame": [0],
    "face_no": [0],
    "subject_id": ["a"],
    **{name: [1.0] for name in ("x1", "y1", "x2", "y2")},
}
NO_TEXT = pa.StringArray.from_buffers(1, *pa.array([b"\xff"], pa.binary()).buffers()[1:])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"frame": None}, "expected a column frame, found none"),
        ({"frame": pa.array(["0"])}, "column frame: expected whole number, got text"),
        ({"x1": pa.array([True])}, "column x1: expected number, got bool"),
        ({"x1": pa.array([None], pa.float32())}, "column x1: expected a value in every row, got 1 rows without"),
        ({"subject_id": NO_TEXT}, "column subject_id: expected text in UTF-8, got other bytes"),
        ({"subject_id": pa.nulls(1)}, "column subject_id: expected text, got null"),
    ],
)
def test_a_table_that_is_not_the_one_that_was_made_is_said_and_due(
    tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    """The table of faces; each kind of a column that is another."""
    run, name = Run(tmp_path), "index/faces/v.parquet"
    made = {key: value for key, value in (FACE | columns).items() if value is not None}
    scratch = run.scratch("index", "v")
    write_table(scratch, pa.table(made))
    run.commit(Receipt("index", 1, "videos", {}, {}), pa.table({"video_id": ["v"]}), {name: scratch})
    with pytest.raises(Damaged, match=said):
        run.table_beside("index", "videos", name, FACES)
    assert run.failure("index", "videos").kind == "Damaged"  # type: ignore[union-attr]
    with pytest.raises(Damaged, match="expected a column path, found none"):
        run.table("index", "videos")


def test_columns_that_stand_twice_and_those_of_later_versions() -> None:
    faces = pa.table(FACE)
    with pytest.raises(ValueError, match="expected one column frame, got 2"):
        as_ours(faces.append_column("frame", pa.array([1])), FACES)
    assert as_ours(faces.drop_columns(["subject_id"]), FACES)["subject_id"].to_pylist() == [None]
    assert as_ours(faces, FACES, ["frame"]).equals(faces)
    for ours in (CROPS, LABELS, SEARCHES):
        assert as_ours(ours.empty_table(), ours).equals(ours.empty_table())
    assert "crc32" not in as_ours(CROPS.empty_table().drop_columns(["crc32"]), CROPS).column_names


@pytest.mark.parametrize("said", ["std::bad_alloc", "CUDA out of memory.", "malloc: Cannot allocate memory"])
def test_lack_of_memory_is_that_whatever_a_library_calls_it(said: str) -> None:
    refuse_lack_of_memory(RuntimeError("a network of another shape"))
    with pytest.raises(MemoryError):
        refuse_lack_of_memory(RuntimeError(said))


@pytest.mark.parametrize("reader", ["table", "inspect", "csv", "scores", "truth"])
def test_a_sound_table_is_not_blamed_where_memory_ran_out(
    tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mdfpipe.audit import truth
    from mdfpipe.inspecting.export import to_csv
    from mdfpipe.inspecting.things import describe_table
    from mdfpipe.reporting.scores import to_bob
    from mdfpipe.store import parquet

    def none_left(*_: object, **__: object) -> None:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    write_table(tmp_path / "a.parquet", pa.table(FACE))
    monkeypatch.setattr(parquet.pq, "ParquetFile", none_left)
    readers: dict[str, Any] = {
        "table": parquet.read_table,
        "inspect": describe_table,
        "csv": lambda path: to_csv(path, tmp_path / "a.csv"),
        "scores": lambda path: to_bob(path, tmp_path / "a.txt"),
        "truth": truth._read_truth,
    }
    with pytest.raises(MemoryError):
        readers[reader](tmp_path / "a.parquet")
