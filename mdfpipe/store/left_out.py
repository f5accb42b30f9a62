"""Left out: what a study keeps out of its index and of its protocol, in words, from what the receipts hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def of_index(facts: Mapping[str, Any]) -> list[str]:
    """A line for each rule of `dataset.leave_out` that matched something, and one for the annotation rows of these.

    facts: of the receipt of an index.
    """
    found = [
        f"dataset.leave_out, {one['rule']}: {_counted(facts, one['count'])} left out, such as {one['example']}"
        for one in facts.get("left_out", [])
        if one["count"]
    ]
    rows = facts.get("left_out_rows", 0)
    return [*found, *([f"dataset.leave_out: {rows} annotation rows left out with their videos"] if rows else [])]


def of_nothing(facts: Mapping[str, Any]) -> list[str]:
    """A line for each rule of `dataset.leave_out` that matched nothing. facts: of the receipt of an index."""
    return [
        f"dataset.leave_out, {one['rule']}: matches nothing here"
        + (f", where there is {one['example']}" if one["example"] else "")
        + "; check its spelling, or take it out"
        for one in facts.get("left_out", [])
        if not one["count"]
    ]


def _counted(facts: Mapping[str, Any], count: int) -> str:
    return f"{count} {'image' if 'images' in facts else 'video'}{'' if count == 1 else 's'}"
