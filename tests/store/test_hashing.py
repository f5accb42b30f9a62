"""Content hashes of files and tables."""

import os

import pyarrow as pa
import pytest

from mdfpipe.errors import DataError
from mdfpipe.store.hashing import file_sha256, table_sha256
from mdfpipe.store.run import read_table, write_table


def test_file_sha256(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    stamp = path.stat().st_mtime_ns
    path.write_bytes(b"abd")
    os.utime(path, ns=(stamp + 1, stamp + 1))
    assert file_sha256(path) != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(DataError, match="cannot be read: No such file"):
        file_sha256(tmp_path / "b")


KINDS = {
    "text": pa.array(["a", None, "", "ä", "b"]),
    "bytes": pa.array([b"a", None, b"", b"\x00", b"b"]),
    "float": pa.array([1.0, None, float("nan"), -0.0, 0.0], pa.float32()),
    "integer": pa.array([1, None, 0, -1, 2], pa.int16()),
    "truth": pa.array([True, None, False, True, False]),
    "dictionary": pa.array(["u", None, "w", "u", "v"]).dictionary_encode(),
    "list": pa.array([["x"], None, [], ["y", None], ["z", "x"]]),
    "vector": pa.array([[1.0, 2.0], None, [3.0, 4.0], [0.0, -0.0], [5.0, 6.0]], pa.list_(pa.float32(), 2)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_known_by_its_values(kind, tmp_path):
    """However it is chunked, sliced, and stored; not with another value, a null, another order, name or type."""
    table = pa.table({"x": KINDS[kind]})
    known = table_sha256(table)
    for cut in range(6):
        assert table_sha256(pa.concat_tables([table[:cut], table[cut:]])) == known
    assert table_sha256(pa.concat_tables([table[3:], table])[2:]) == known
    assert table_sha256(table.replace_schema_metadata({"a": "b"})) == known
    write_table(tmp_path / "x", table)
    assert table_sha256(read_table(tmp_path / "x")) == known
    others = [table.take([0, 1, 2, 4, 3]), table[:4], table.rename_columns(["y"]), table[:0]]
    others += [pa.concat_tables([table[:1], other, table[2:]]) for other in (table[:1], table[2:3])]  # for the null
    assert len({known, *map(table_sha256, others)}) == len(others) + 1


def test_what_lies_under_a_null_does_not_count():
    under = pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(bytes([7] * 16))])
    assert table_sha256(pa.table({"x": under})) == table_sha256(pa.table({"x": pa.array([under[0].as_py(), None])}))


def test_the_order_of_a_dictionary_does_not_count():
    one = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array(["a", "b"]))
    two = pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int8()), pa.array(["b", "a"]))
    assert table_sha256(pa.table({"x": one})) == table_sha256(pa.table({"x": two}))
