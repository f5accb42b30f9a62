"""Searches worth a closer look, worst failures first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mdfpipe.store.naming import natural_key
from mdfpipe.store.results import KEY, STAGE
from mdfpipe.store.run import Run
from mdfpipe.store.tables import SEARCHES
from mdfpipe.store.templates import Templates

FILES: Final = ("evaluate/searches.parquet", "evaluate/lists.parquet")  # the second of benchmarks, where there are any
MOST_LISTS: Final = 60  # on a page
MOST_EACH: Final = 4  # of one system and pair of domains
TOP: Final = 5
ALWAYS: Final = 2  # a failure and a hit of each, whatever their number


@dataclass(frozen=True)
class Who:
    """A template: whose it is and where its crops are to be found. item: empty where it is all of a subject."""

    name: str
    subject: str
    domain: str
    item: str
    split: str
    role: str
    modality: str


@dataclass(frozen=True)
class Found:
    """A gallery template on a list."""

    who: Who
    score: float
    is_right: bool


@dataclass(frozen=True)
class Search:
    """One probe and the best of its gallery. rank: of its best mate, from 1; mated: the best mate's score."""

    probe: Who
    rank: int
    mated: float | None
    top: list[Found]
    source: str

    @property
    def is_right(self) -> bool:
        """Whether the first is a mate."""
        return self.rank == 1


@dataclass(frozen=True)
class Searches:
    """The lists of one system and pair of domains. counts: how many probes had each status; missed, of: at rank 1."""

    table: str
    system: str
    gallery_domain: str
    probe_domain: str
    gallery: str
    lists: list[Search]
    counts: dict[str, int]
    missed: int
    of: int


class People:
    """Whose each template is, by its name, of all systems; of a fused one, its body, else its face."""

    def __init__(self, sets: Iterable[Templates]) -> None:
        self._by_name: dict[str, Who] = {}
        self._by_key: dict[str, Who] = {}
        for one in sets:
            columns = (one.subject, one.domain, one.item, one.split, one.role, one.modality)
            for who in map(Who, one.name, *(column.tolist() for column in columns)):
                self._by_name[who.name] = who
                key = _key(who.name)
                if key not in self._by_key or who.modality == "body":
                    self._by_key[key] = who

    def __getitem__(self, name: str) -> Who:
        """Who it is; where no set of templates has the name, what the name itself says."""
        found = self._by_name.get(name) or self._by_key.get(_key(name))
        if found is not None:
            return found
        parts = name.rsplit("/", 4)
        subject, domain, split, role, modality = parts if len(parts) == 5 else (name, "", "", "", "")
        return Who(name, subject, domain, "", split, role, modality)


def _key(name: str) -> str:
    return name.rpartition("/")[0]


def choose(run: Path, people: People) -> list[Searches]:
    """Worst failures, then surest hits, of every system and pair of domains. Raises Damaged.

    A failure is the worse, the more the best stranger's score exceeds the best mate's.
    """
    columns = [name for name in _COLUMNS if name != "_row"]
    groups: dict[tuple[str, str, str, str, str], list[dict[str, Any]]] = {}
    for file in FILES:
        if not (run / file).is_file():
            continue
        for n, row in enumerate(Run(run).table_beside(STAGE, KEY, file, SEARCHES, columns).to_pylist()):
            case = (row["table"], row["system"], row["gallery_domain"], row["probe_domain"], row["gallery"])
            groups.setdefault(case, []).append(row | {"_row": f"{file}, row {n}"})
    each = min(max(MOST_LISTS // max(len(groups), 1), ALWAYS), MOST_EACH)
    found = []
    for case, rows in groups.items():
        searched = [row for row in rows if row["rank"] is not None]
        missed = sorted((row for row in searched if row["rank"] > 1), key=_badness)
        right = sorted((row for row in searched if row["rank"] == 1), key=_badness, reverse=True)
        shown = missed[: max(each - 1, 1)] if right else missed[:each]
        shown += right[: each - len(shown)]
        counts = Counter(str(row["status"]) for row in rows)
        lists = [_search(row, people) for row in shown]
        found.append(Searches(*case, lists, dict(counts), len(missed), len(searched)))
    return found


_COLUMNS: Final = (
    "table",
    "system",
    "gallery_domain",
    "probe_domain",
    "gallery",
    "template",
    "subject_id",
    "status",
    "rank",
    "mated_score",
    "nonmated_score",
    "top",
    "top_score",
)


def _badness(row: Mapping[str, Any]) -> tuple[float, int, Any]:
    margin = (row["mated_score"] or 0.0) - (row["nonmated_score"] or 0.0)
    return margin, -row["rank"], natural_key(row["template"])


def _search(row: Mapping[str, Any], people: People) -> Search:
    probe = people[row["template"]]
    top = [
        Found(who, score, who.subject == row["subject_id"])
        for who, score in zip((people[name] for name in row["top"][:TOP]), row["top_score"], strict=False)
    ]
    return Search(probe, row["rank"], row["mated_score"], top, row["_row"])
