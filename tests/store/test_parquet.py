"""Tables that tell their own damage, whichever byte of the file it hits; and tables of elsewhere, without a seal."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdfpipe.errors import Damaged, StoreError
from mdfpipe.store import parquet

TABLE = pa.table({"n": list(range(500)), "name": [f"s{n % 7}" for n in range(500)], "x": [n / 3 for n in range(500)]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    parquet.write_table(tmp_path / "t.parquet", TABLE, {b"mdfpipe": b"receipt"})
    return tmp_path / "t.parquet"


def test_others_read_it_as_any_parquet(path: Path) -> None:
    assert pq.read_table(path).equals(TABLE)
    assert parquet.read_table(path, ["x"]).equals(TABLE.select(["x"]))
    assert parquet.read_metadata(path)[0][b"mdfpipe"] == b"receipt"
    assert parquet.is_whole(path) is True


@pytest.mark.parametrize("seed", range(4))
def test_no_flipped_bit_gives_other_rows_and_each_is_found(path: Path, seed: int) -> None:
    data, chance = path.read_bytes(), random.Random(seed)
    ends = [*range(8), *range(len(data) - 400, len(data))]  # the magic words, seal and footer
    for place in (*ends[seed::4], *(chance.randrange(len(data)) for _ in range(100))):
        bit = chance.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        try:
            whole = parquet.is_whole(path)
        except OSError:
            whole = False
        assert not whole, (place, bit)
        with contextlib.suppress(Damaged):
            assert parquet.read_table(path).equals(TABLE), (place, bit)


@pytest.mark.parametrize("damage", ["half", "zeros", "empty", "tail of zeros"])
def test_what_a_power_cut_leaves_is_damaged(path: Path, damage: str) -> None:
    data = path.read_bytes()
    left = {
        "half": data[: len(data) // 2],
        "zeros": bytes(len(data)),
        "empty": b"",
        "tail of zeros": data[:-99] + bytes(99),
    }
    path.write_bytes(left[damage])
    with pytest.raises(Damaged, match=f"{path}: cannot be read as a Parquet table"):
        parquet.read_table(path)


def test_a_table_that_is_not_there_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file") as caught:
        parquet.read_table(tmp_path / "none.parquet")
    assert not isinstance(caught.value, Damaged)


def test_a_table_of_elsewhere_has_no_seal_and_its_pages_are_verified(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(TABLE, path, write_page_checksum=True, compression="none")
    assert parquet.read_table(path).equals(TABLE)
    assert parquet.is_whole(path) is None
    data = bytearray(path.read_bytes())
    data[data.index(b"s3")] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match=r"(?i)crc|checksum"):
        parquet.read_table(path)


def test_a_footer_larger_than_one_look_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(path, TABLE, {b"mdfpipe": b"x" * 200_000})
    assert parquet.read_metadata(path) == ({b"mdfpipe": b"x" * 200_000} | parquet.read_metadata(path)[0], True)
    assert parquet.is_whole(path) is True


def test_tables_written_piece_by_piece_are_sealed_where_all_goes_well(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with parquet.TableWriter(path, TABLE.schema) as writer:
        for start in range(0, 500, 100):
            writer.write(TABLE.slice(start, 100))
    assert parquet.is_whole(path) is True
    assert parquet.read_table(path).equals(TABLE)
    failing = parquet.TableWriter(path, TABLE.schema)
    with pytest.raises(ZeroDivisionError), failing:
        failing.write(pa.table({"n": [1 // 0]}))
    assert parquet.is_whole(path) is None
