"""Subjects in cells: which texts name no subject, and which names differ only in invisible ways.

Every reader of subject ids asks here: face tables and gallery tables, lists of protocols, vectors made elsewhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from mdfpipe.errors import is_visible, one_line

NOBODY = (
    # nothing; R, Excel, pandas, NumPy, Python, SQL and JSON, MySQL, MATLAB, SAS and Stata; by hand
    *("", "na", "n/a", "n.a.", "#n/a", "#na", "#n/a n/a", "#null!", "#value!", "#ref!", "#name?", "#num!", "#div/0!"),
    *("<na>", "nan", "-nan", "nan(ind)", "-nan(ind)", "nat", "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind"),
    # of Excel in other languages
    *("#n/d", "#nv", "#n/disp", "#i/t", "#yok", "#brak", "#brak!", "#saknas!", "#puuttuu!", "#н/д", "#знач!"),
    *("#ссылка!", "#wert!", "#bezug!", "#zahl!", "#valeur!", "#valor!", "#¡valor!", "#valore!", "#¡ref!", "#rif!"),
    *("#nom?", "#nome?"),
    *("none", "null", "<null>", "(null)", "\\n", "<missing>", "<undefined>", ".", "-", "--", "?"),
)
"""Texts that programs write where there is no value; in any case, spaces around. Such a cell names no subject."""

DOUBTFUL = (
    *("-1", "-1.0", "unknown", "unk", "undefined", "unidentified", "unnamed", "unlabelled", "unlabeled", "missing"),
    *("nobody", "no_subject", "nil", "background"),
)
"""Texts that may mean no subject and may be a name. They are taken as names, and reported."""


def is_missing(text: str) -> bool:
    """Whether a cell holds no value.

    >>> [is_missing(text) for text in ("NA", " <na> ", "\\u00a0", "None", "#N/A", "0", "Nadia")]
    [True, True, True, True, True, False, False]
    """
    return text.strip().lower() in NOBODY or not any(is_visible(c) for c in text)


@dataclass(frozen=True)
class SubjectNames:
    """How cells become subject ids. kept: texts that are names although they look like no value; missing: the reverse.

    Both hold for exactly the text that they name, case and all.
    """

    kept: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()

    def subject_id(self, text: str) -> str | None:
        """The subject that a cell names, if any. `12.0` is 12, as pandas writes whole numbers with gaps."""
        if text in self.kept:
            return text
        if text in self.missing or is_missing(text):
            return None
        return re.sub(r"\A(-?\d+)\.0+\Z", r"\1", text)

    def is_doubtful(self, text: str) -> bool:
        """Whether a name may mean no subject, and no setting keeps it as a name."""
        return text.lower() in DOUBTFUL and text not in self.kept and text not in self.missing


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names that differ only in letter case, in how an accent is encoded, in characters that one does not
    see, or in leading zeros: sorted, each with at least two.

    >>> alike(["Ana", "ana", "7", "007", "8"])
    [('007', '7'), ('Ana', 'ana')]
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(_key(name), []).append(name)
    return sorted(tuple(group) for group in groups.values() if len(group) > 1)


def _key(name: str) -> str:
    plain = unicodedata.normalize("NFKC", "".join(c if is_visible(c) else " " for c in name)).casefold()
    words = unicodedata.normalize("NFKC", " ".join(plain.split()))
    return (words.lstrip("0") or "0") if words.isdecimal() else words


def told_apart(names: Iterable[str]) -> str:
    """Names that are alike, for a message: escaped where they would look the same.

    >>> told_apart(("Ana", "ana")), told_apart(("\\u00e9", "e\\u0301"))
    ("'Ana' and 'ana'", "'\\\\xe9' and 'e\\\\u0301'")
    """
    names = list(names)
    same = len({unicodedata.normalize("NFKC", name) for name in names}) < len(names)
    return " and ".join(ascii(name[:60]) if same else f"'{one_line(name, 60)}'" for name in names)
