"""Rules that tell a video's domain, session or camera: from a column, its path, a table, or a constant."""

from __future__ import annotations

import fnmatch
import re
import signal
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from mdfpipe.config import Config
from mdfpipe.datasets.reading.layout import is_pattern
from mdfpipe.domains import Domain
from mdfpipe.errors import DataError, one_line
from mdfpipe.store.naming import Links, inside, safe_relative
from mdfpipe.store.text_tables import first_row, read_blocks
from mdfpipe.store.urls import is_url

_Text = Annotated[str, Field(coerce_numbers_to_str=True)]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # `[[`: it may mean something else one day
            return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    except (OverflowError, RecursionError, MemoryError):
        raise ValueError(
            "a regular expression that is too large: it repeats too often, or is nested too deep"
        ) from None


SECONDS = 5.0
"""Longest search of one path: patterns such as (a+)+$ take for ever on some names."""


def _searched(pattern: str, path: str, setting: str) -> re.Match[str] | None:
    """Where the pattern is in a path. Raises DataError where that takes more than SECONDS (in the main thread)."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError

    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return re.search(pattern, path)
    before = signal.signal(signal.SIGALRM, stop)
    left, _ = signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return re.search(pattern, path)
    except TimeoutError:
        raise DataError(
            f"{setting}: the regular expression {one_line(pattern, 80)} has not come to an end within {SECONDS:g} s on "
            f"'{one_line(path, 80)}'; expected one without a repetition within a repetition, such as (a+)+"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, before)


def _exactly_one(rule: Config, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(rule, name) is not None]
    if len(given) != 1:
        raise ValueError(f"expected exactly one of {', '.join(names)}, got {', '.join(given) or 'none'}")


class TextRule(Config):
    """The source of a video's session or camera: exactly one of `column` and `regex`."""

    column: str | None = Field(None, description="header of the column of the face tables that holds it")
    regex: str | None = Field(
        None,
        description="regular expression, searched in the video's path; its first group, or without one the whole match",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        _exactly_one(self, ("column", "regex"))
        if self.regex is not None:
            _compiled(self.regex)
        return self

    def text(self, path: str, cell: str | None) -> str | None:
        """What the rule tells of the video at `path`, whose rows' column says `cell`; None where nothing."""
        if self.regex is None:
            return cell
        match = _searched(self.regex, path, "session or camera")
        if match is None:
            return None
        return match[1] if match.re.groups else match[0]


class DomainRule(Config):
    """The source of a video's domain: exactly one of `column`, `regex`, `table` and `constant`."""

    column: str | None = Field(None, description="header of the column of the face tables that holds it")
    regex: str | None = Field(
        None,
        description=(
            "regular expression, searched in the video's path, with a group named `domain`, "
            "or `band` and, where the name has it, `range` in metres: (?P<band>vis|swir)_(?P<range>[0-9]+)m"
        ),
    )
    table: str | None = Field(
        None,
        description=(
            "CSV under the data root with the columns `file` (a path, or a pattern with * and ?, where * also "
            "spans /) and `domain`; the first row that matches a video's path is used"
        ),
    )
    constant: str | None = Field(None, description="the one domain of every video, such as VIS-500m")
    map: dict[_Text, str] = Field(
        default_factory=dict,
        description="text of the column, regex or table -> domain: {cat7: SWIR-30m}; other texts are used as they are",
    )

    @field_validator("constant")
    @classmethod
    def _parses(cls, text: str | None) -> str | None:
        return None if text is None else _domain_setting(text)

    @field_validator("map")
    @classmethod
    def _all_parse(cls, names: dict[str, str]) -> dict[str, str]:
        return {said: _domain_setting(name) for said, name in names.items()}

    @field_validator("regex")
    @classmethod
    def _has_group(cls, pattern: str | None) -> str | None:
        if pattern is not None and not {"domain", "band"} & set(_compiled(pattern).groupindex):
            raise ValueError("expected a group (?P<domain>...) or (?P<band>...)")
        return pattern

    @model_validator(mode="after")
    def _check(self) -> Self:
        _exactly_one(self, ("column", "regex", "table", "constant"))
        return self

    def domains(self, root: Path, cells: Mapping[str, str | None], links: Links = Links.INSIDE) -> dict[str, Domain]:
        """path -> domain; cells: path -> what its rows' column says. Raises DataError where a video has none."""
        say = self.teller(root, links)
        found: dict[str, Domain] = {}
        without: list[str] = []
        for path, cell in cells.items():
            said = say(path, cell)
            try:
                found[path] = Domain.parse(self.map.get(said, said))
            except DataError:
                told = f"the rule says '{one_line(said, 60)}'" if said else "the rule says nothing"
                without.append(f"{path} ({told})")
        if without:
            raise DataError(
                f"domain: {len(without)} of {len(cells)} videos have no domain, the first is {without[0]}; "
                f"expected <BAND> or <BAND>-<RANGE>m such as SWIR-30m: change `domain`, or name those that do not "
                "belong in `leave_out`"
            )
        return found

    def teller(self, root: Path, links: Links = Links.INSIDE) -> Callable[[str, str | None], str]:
        """What the rule says of a path, given what its rows' column says; "" for nothing. Raises DataError."""
        table = _DomainTable()
        if self.table is not None:
            path = inside(root, self.table, "domain.table", links)
            for block in read_blocks(path, self.table, {"file": "file", "domain": "domain"}):
                cells = (block.cells[name].to_pylist() for name in ("file", "domain"))
                for file, domain in zip(*cells, strict=True):
                    plain = file if is_url(file) else safe_relative(file, first_row(block, "file", file))
                    table.add(plain, domain)
        return lambda path, cell: self._said(path, cell, table)

    def names(self, said: str) -> tuple[str, ...]:
        """Names of a given domain for `leave_out`: as written, and as parsed where it can be."""
        try:
            return said, str(Domain.parse(self.map.get(said, said)))
        except DataError:
            return (said,)

    def _said(self, path: str, cell: str | None, table: _DomainTable) -> str:
        if self.constant is not None:
            return self.constant
        if self.table is not None:
            return table.domain(path)
        if self.regex is None:
            return cell or ""
        match = _searched(self.regex, path, "domain")
        if match is None:
            return ""
        groups = match.groupdict()
        if groups.get("domain"):
            return str(groups["domain"])
        band, far = groups.get("band") or "", groups.get("range")
        return f"{band}-{far.removesuffix('m')}m" if far else band


class _DomainTable:
    """The rows of a domain table: paths are looked up, only patterns are tried one by one.

    >>> table = _DomainTable()
    >>> for file, domain in (("a.mp4", "VIS"), ("[ab]*", "NIR"), ("b.mp4", "SWIR")):
    ...     table.add(file, domain)
    >>> [table.domain(path) for path in ("a.mp4", "b.mp4", "c.mp4")]
    ['VIS', 'NIR', '']
    """

    def __init__(self) -> None:
        self._paths: dict[str, tuple[int, str]] = {}  # path -> row, domain
        self._patterns: dict[str, tuple[int, re.Pattern[str], str]] = {}
        self._rows = 0

    def add(self, file: str, domain: str) -> None:
        """Take the next row. What an earlier row names already stays as it is."""
        self._rows += 1
        if not is_pattern(file):
            self._paths.setdefault(file, (self._rows, domain))
        elif file not in self._patterns:
            self._patterns[file] = self._rows, re.compile(fnmatch.translate(file)), domain

    def domain(self, path: str) -> str:
        """What the first row that matches says; "" where none does."""
        row, told = self._paths.get(path, (self._rows + 1, ""))
        earlier = ((pattern, domain) for at, pattern, domain in self._patterns.values() if at < row)
        return next((domain for pattern, domain in earlier if pattern.match(path)), told)


def _domain_setting(text: str) -> str:
    try:
        return str(Domain.parse(text))
    except DataError as error:
        raise ValueError(str(error)) from None
