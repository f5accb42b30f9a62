"""Damage at rest of every file that a run leaves: a flipped bit; half, zeros or nothing after a power cut; gone."""

from __future__ import annotations

import random
from collections.abc import Callable

from damage.small import Case, Small, Verdict, flipped

KINDS = ("flip", "flip", "flip", "flip", "half", "zeros", "empty", "gone")


def cases(small: Small) -> Callable[[random.Random], Case]:
    """One file of the run, one damage; then the same command."""
    names = sorted(
        path.relative_to(small.done).as_posix()
        for path in small.done.rglob("*")
        if path.is_file() and path.name[0] != "."
    )

    def draw(chance: random.Random) -> Case:
        name, kind, seed = chance.choice(names), chance.choice(KINDS), chance.random()

        def run() -> Verdict:
            place = small.copy()
            path = place / name
            content = path.read_bytes()
            path.unlink()
            if kind != "gone":
                path.write_bytes(
                    {
                        "flip": flipped(content, random.Random(seed)),  # noqa: S311 - to be drawn again
                        "half": content[: len(content) // 2],
                        "zeros": bytes(len(content)),
                        "empty": b"",
                    }[kind]
                )
            return small.judge(place)

        return Case(kind, name, run)

    return draw
