"""Cells: a number as text, in per cent. Console, page, Markdown, LaTeX and CSV only decorate what is made here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mdfpipe.errors import counted
from mdfpipe.store.results import NOTES, Number, Row, Verdict, counted_as, note_words, source

MARKS: Final = {Verdict.BEST: "", Verdict.LEVEL: "≈", Verdict.WORSE: "", Verdict.UNTESTED: "?", None: ""}
"""Marks after a number; the best ones are bold."""
LABELS: Final = {
    "map": "mAP",
    "minp": "mINP",
    "eer": "EER",
    "eer-hter": "EER (HTER)",
    "eer-fvc": "EER (FVC)",
    "rocch-eer": "EER (hull)",
    "auc": "AUC",
    "cllr": "Cllr",
    "mincllr": "min Cllr",
}


@dataclass(frozen=True)
class Cell:
    """A number as text. value: in per cent, or why there is none. marks: of its notes. count: k/n, or n of a mean.

    false: how many of those that could be one were a false alarm. spread: over trials. interval: its bounds, or why
    there are none. half: half of its width. paper: what is published. Each is empty where there is none.
    """

    value: str
    marks: str = ""
    count: str = ""
    false: str = ""
    spread: str = ""
    interval: str = ""
    half: str = ""
    paper: str = ""

    @property
    def small(self) -> list[str]:
        """What is known of the number, the count first."""
        return [text for text in (self.count, self.false, self.spread, self.interval) if text]

    def written(self, number: str) -> str:
        """The number, as it is decorated, with all that is known of it in one line.

        >>> Cell("75.0", "†", "6/8", interval="40.9–92.9", paper="published 70.0").written("**75.0**")
        '**75.0** (6/8, 40.9–92.9) [published 70.0]'
        """
        return (
            number + (f" ({', '.join(self.small)})" if self.small else "") + (f" [{self.paper}]" if self.paper else "")
        )


def cell_of(number: Number, decimals: int = 1) -> Cell:
    """The text of a number."""
    row = number.row
    paper = "" if row["published"] is None else f"published {percent(row['published'], decimals)}"
    if number.value is None:
        return Cell("; ".join(note_words(row)), paper=paper)
    known = [NOTES[note] for note in row.get("notes") or () if note in NOTES]
    spread, low, high = (row[name] for name in ("spread", "low", "high"))
    half, interval = "", next((words for _, words in known if spread is None and words.startswith("no interval")), "")
    if low is not None and high is not None:
        half, interval = (
            f"± {percent((high - low) / 2, decimals)}",
            f"{percent(low, decimals)}–{percent(high, decimals)}",
        )
    return Cell(
        percent(number.value, decimals),
        "".join(dict.fromkeys(mark for mark, _ in known)),
        f"{row['k']}/{row['n']}" if row["k"] is not None else f"n {row['n']}",
        _false(row),
        _spread(row, decimals),
        interval,
        half,
        paper,
    )


def _spread(row: Row, decimals: int) -> str:
    """The standard deviation over trials or seeds, with the number of each seed."""
    if row["spread"] is None:
        return ""
    each = [percent(value, decimals) for value in row.get("each") or ()]
    return f"± {percent(row['spread'], decimals)}" + (f" of {', '.join(each)}" if each else "")


def _false(row: Row) -> str:
    """The false alarms at an operating point; of a number of all thresholds, how many could be one."""
    if row["n_false"] is None:
        return ""
    return f"{row['n_false']} non-mated" if row["k_false"] is None else f"{row['k_false']}/{row['n_false']} false"


def percent(value: float, decimals: int = 1) -> str:
    """A share in per cent.

    >>> percent(0.7778), percent(0.7778, 2)
    ('77.8', '77.78')
    """
    return f"{100 * value:.{decimals}f}"


def label(metric: str) -> str:
    """A metric as a column is headed.

    >>> [label(name) for name in ("rank-5", "map", "tar@far=1e-2", "fnir@train=0.01")]
    ['Rank-5', 'mAP', 'TAR at FAR 1 %', 'FNIR at training FMR 1 %']
    """
    if metric in LABELS:
        return LABELS[metric]
    if metric.startswith("rank-"):
        return metric.capitalize()
    kind, _, share = metric.partition("@")
    name, _, number = share.partition("=")
    try:
        where = "training FMR" if name == "train" else name.upper()
        return f"{kind.upper()} at {where} {100 * float(number):g} %"
    except ValueError:
        return metric


# -- in words


def told(number: Number) -> str:
    """What is known of a number: of what it is, its interval, what it is against the best, where it was read."""
    words = [_described(number.row)]
    test = number.test
    if number.row.get("p") is not None:
        words.append(f"p {number.row['p']:.3g} against {number.best} ({number.row['test']}, corrected)")
    if number.verdict is Verdict.UNTESTED:
        words.append(f"not tested against {number.best}" + (f": {_untested(number)}" if test is not None else ""))
    elif test is not None:
        is_level = number.verdict is Verdict.LEVEL
        verdict = "does not differ significantly from" if is_level else "significantly worse than"
        read = source([test]) if "_file" in test else "taken from the searches of both runs"
        p = f"p {test['p']:.3g}, {test['n']} probes that both have"
        words.append(f"{verdict} {number.best} ({test['test']}, {p}; {read})")
    return "; ".join([*words, source([number.row])])


def _untested(number: Number) -> str:
    assert number.test is not None
    if number.test["p"] is None:
        return "too few subjects"
    return f"on the {number.test['n']} probes that both have, {number.row['_system']} is the better one"


def _described(row: Row) -> str:
    words = [f"{label(row['metric'])} of {row['_system']}, {row['gallery_domain']} to {row['probe_domain']}"]
    if "group" in row:
        words.append(f"{row['by']} {row['group']}, {counted(row['subjects'], 'subject')}")
    if row["k"] is not None:
        words.append(f"{row['k']} of {row['n']}")
    if row["trials"] is not None:
        words.append(f"mean of {row['trials']} trials, of {row['n']} queries each")
    if row["low"] is not None and row["high"] is not None:
        words.append(f"95 % interval {percent(row['low'], 2)} to {percent(row['high'], 2)} ({row['interval']})")
    if row["chance"] is not None:
        words.append(f"a guess {percent(row['chance'], 2)}")
    if row["threshold"] is not None:
        alarms = f", {row['k_false']} of {row['n_false']} false" if row["k_false"] is not None else ""
        words.append(f"threshold {row['threshold']:.4g}{alarms}")
    if row["n_false"] is not None:
        words.append(f"{row['n_false']} non-mated {counted_as(row['metric'])}")
    if row["published"] is not None:
        words.append(f"published {percent(row['published'], 2)}")
    return "; ".join([*words, *note_words(row)])
