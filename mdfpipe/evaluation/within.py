"""Within: one domain searched in itself, each template among those of other sessions (or videos, or cameras)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mdfpipe.errors import ProtocolError, counted
from mdfpipe.evaluation.comparing import I64, Removal
from mdfpipe.evaluation.pooling import Apart, Rule
from mdfpipe.evaluation.vectors import MEDIA_KNOWN
from mdfpipe.store.templates import Templates, items_of


@dataclass(frozen=True, eq=False)
class Sessions:
    """Sessions of the templates of one domain, which are gallery and probes at once.

    noun: session, video or camera. codes: (T,) one number a session. Pairs of one session are left out of each search.
    """

    noun: str
    codes: I64

    @property
    def removal(self) -> Removal:
        """The rule, as a search takes it."""
        return Removal(f"pairs of one {self.noun}", "everyone")


def domains_within(rows: pa.Table, apart: Apart) -> tuple[list[str], list[str]]:
    """Domains in which somebody has a second session, and a line on the others and on who has one session only."""
    noun = apart.removesuffix("_id")
    there = rows[apart] if apart in rows.column_names else pa.nulls(rows.num_rows, pa.string())
    if apart == "video_id" and MEDIA_KNOWN in rows.column_names:
        there = pc.if_else(rows[MEDIA_KNOWN], there, None)
    plain = pa.table({"domain": rows["domain"], "subject": rows["subject_id"], "session": there.cast(pa.string())})
    found, lines, nobody = list[str](), list[str](), list[str]()
    for domain in dict.fromkeys(plain["domain"].to_pylist()):
        own = plain.filter(pc.equal(plain["domain"], domain))
        if own["session"].null_count:
            lines.append(
                f"within {domain} nothing is measured: {own['session'].null_count} of {own.num_rows} rows have no "
                f"{apart}; fill it in, or set apart to a column that is whole"
            )
            continue
        each = own.group_by(["subject", "session"]).aggregate([]).group_by("subject").aggregate([([], "count_all")])
        people, several = each.num_rows, pc.sum(pc.greater(each["count_all"], 1)).as_py() or 0
        if not several:
            nobody.append(f"{domain} ({counted(people, 'subject')})")
            continue
        found.append(domain)
        if several < people:
            lines.append(
                f"within {domain}: {several} of {people} subjects have a second {noun}; probes of the others have no "
                "mate"
            )
    if nobody:
        lines.append(f"within a domain nothing is measured where no subject has a second {noun}: {', '.join(nobody)}")
    return found, lines


def sessions_of(templates: Templates, rows: pa.Table, rule: Rule, apart: Apart) -> Sessions:
    """Sessions of templates of one domain. Raises ProtocolError where a template is of two."""
    session = _sessions(rows, rule.column, apart, "choose another `by` or `apart`") if rule.column != apart else {}
    names = [session.get(item, item) for item in templates.item.tolist()]
    codes = np.unique(np.array(names, np.str_), return_inverse=True)[1].reshape(-1)
    return Sessions(apart.removesuffix("_id"), codes.astype(np.int64))


def refuse_media_of_two(rows: pa.Table, media: Mapping[str, str], apart: Apart) -> None:
    """Raise ProtocolError where one file is of two sessions, such as a video under two names."""
    content = pa.array([media.get(video) or video for video in rows["video_id"].to_pylist()], pa.string())
    advice = "correct the data set, or set allow_same_media: true"
    _sessions(rows.append_column("content", content), "content", apart, advice)


def _sessions(rows: pa.Table, column: str, apart: Apart, advice: str) -> dict[str, str]:
    """The one session of each value of a column."""
    named = pa.table({name: items_of(rows, name) for name in dict.fromkeys((column, apart))})
    found: dict[str, str] = {}
    for row in named.group_by(named.column_names).aggregate([]).to_pylist():
        if found.setdefault(row[column], row[apart]) != row[apart]:
            first, second = sorted((found[row[column]], row[apart]))
            raise ProtocolError(
                f"{column} {row[column]}: expected one {apart}, got {first} and {second}: it would be gallery "
                f"and probe; {advice}"
            )
    return found
