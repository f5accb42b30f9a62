"""Two tables are brought together by their ids, and ids that differ are refused by name."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from mdfpipe.errors import DataError
from mdfpipe.store.tables import joined, places

PART = Path("run/label/v.parquet")


def labels(*ids: str) -> pa.Table:
    return pa.table({"body_id": pa.array(ids, pa.string()), "name": [f"name of {i}" for i in ids]})


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_rows_come_in_the_order_of_the_ids(order: str) -> None:
    ids = pa.chunked_array([["a"], ["b", "c"]])
    assert joined(labels(*order), ids, "body_id", PART, "detect").equals(labels("a", "b", "c"))


def test_others_may_be_there_where_that_is_said() -> None:
    ids = pa.array(["c", "a"])
    assert joined(labels(*"abc"), ids, "body_id", PART, "detect", others=True).equals(labels("c", "a"))
    assert places(pa.array([], pa.string()), pa.array([], pa.string()), PART, "detect").tolist() == []


@pytest.mark.parametrize(
    ("here", "others", "said"),
    [
        ("ab", False, "for each of the 3 ids of detect, got none for 1 of them (c); "),
        ("abcd", False, "for each of the 3 ids of detect, got 1 that these do not have (d); "),
        (
            "abd",
            False,
            "for each of the 3 ids of detect, got none for 1 of them (c) and 1 that these do not have (d); ",
        ),
        ("ab", True, "got none for 1 of them (c); "),
        ("abcc", False, "expected each id once, got c several times; "),
        ("", False, "got none for 3 of them (a); "),
    ],
)
def test_ids_that_differ_are_refused_by_name(here: str, others: bool, said: str) -> None:
    with pytest.raises(DataError) as caught:
        joined(labels(*here), pa.array(["a", "b", "c"]), "body_id", PART, "detect", others=others)
    assert str(caught.value).startswith("run/label/v.parquet: expected ")
    assert said in str(caught.value)
    assert str(caught.value).endswith("remove v.parquet and give the same command again")


def test_an_id_that_stands_twice_on_both_sides_is_refused() -> None:
    with pytest.raises(DataError, match="expected each id once, got b several times"):
        joined(labels(*"abb"), pa.array(["a", "b", "b"]), "body_id", PART, "detect")
