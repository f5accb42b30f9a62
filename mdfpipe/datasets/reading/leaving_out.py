"""Leaving out: which videos of a data set are kept out before anything of them is read, and by which rule."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pydantic import Field, field_validator

from mdfpipe.config import Config
from mdfpipe.datasets.reading.layout import is_pattern
from mdfpipe.domains import Domain
from mdfpipe.errors import DataError, one_line
from mdfpipe.store.naming import VIDEO_SUFFIXES, near_name, near_pattern, safe_relative
from mdfpipe.store.urls import is_url, name_of


class LeaveOut(Config):
    """Videos that do not belong to the study; in a data set of images, images. Each rule may name several.

    They are neither decoded nor hashed, and the rows that annotate them do not count; how many each rule left out is
    reported. A rule that matches nothing is a warning; rules that leave nothing are an error.
    """

    domains: list[str] = Field(
        [],
        description="domains, or patterns with * and ?: [VIS-300m, 'NIR*']; compared with the parsed domain and "
        "with the text of the domain rule",
    )
    domains_other_than: list[str] = Field(
        [],
        description="domains of the study, or patterns: videos of other domains are left out, but not those for "
        "which the domain rule finds nothing",
    )
    paths: list[str] = Field(
        [],
        description="videos by path under the data root or by video_id, folders that hold them, or patterns with * "
        "and ?, where * also spans /: [videos/old, '*_test.mp4']",
    )
    file: str | None = Field(
        None,
        description="text file under the data root: one path, video_id or pattern a line; # begins a comment",
    )

    @field_validator("domains", "domains_other_than", "paths")
    @classmethod
    def _filled(cls, texts: list[str]) -> list[str]:
        if not all(text.strip() for text in texts):
            raise ValueError("expected names or patterns, got an empty one, which would match nothing")
        return texts

    @field_validator("domains", "domains_other_than")
    @classmethod
    def _as_printed(cls, names: list[str]) -> list[str]:
        return [_domain_name(name.strip()) for name in names]

    @property
    def by_domain(self) -> bool:
        """Whether a rule asks for domains."""
        return bool(self.domains or self.domains_other_than)


@dataclass(frozen=True)
class LeftOut:
    """A rule of `leave_out`, how many videos (or images) it matched, and one of them.

    Name the closest match of a rule that matches none and their difference; else an existing name.
    """

    rule: str
    count: int
    example: str
    why: str = ""


@dataclass(eq=False)
class Sieve:
    """What the rules leave out, asked path by path, and remembered.

    domain: what a path alone says of its domain, as it is written and as it is parsed; empty where only a table knows.
    """

    rules: list[_Rule]
    domain: Callable[[str], tuple[str, ...]] = lambda path: ()
    dropped: dict[str, None] = field(default_factory=dict)
    _kept: dict[str, None] = field(default_factory=dict)
    _domains: dict[str, None] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: LeaveOut, root: Path, domain: Callable[[str], tuple[str, ...]] = lambda path: ()) -> Sieve:
        """The rules of a study. Raises DataError for a file that cannot be read."""
        rules = [_Rule(f"domains: {text}", text, of_domains=True) for text in dict.fromkeys(settings.domains)]
        if settings.domains_other_than:
            text = ", ".join(settings.domains_other_than)
            kept = [_Rule(f"domains_other_than: {name}", name, of_domains=True) for name in settings.domains_other_than]
            rules.append(_Rule(f"domains_other_than: {text}", text, of_domains=True, kept=kept))
        rules += [_Rule(f"paths: {text}", text) for text in dict.fromkeys(settings.paths)]
        if settings.file is not None:
            rules += [_Rule(f"{settings.file}: {text}", text, of_file=settings.file) for text in _lines(root, settings)]
        return cls(rules, domain) if settings.by_domain else cls(rules)

    def drops(self, path: str, name: str | None = None, domain: tuple[str, ...] | None = None) -> bool:
        """Whether the video or image at `path` is left out. name: what it is also called; domain: as `domain` says."""
        if path in self.dropped:
            return True
        if not self.rules or (path in self._kept and domain is None):
            return False
        names = _names(path) + ([name] if name else [])
        domains = self.domain(path) if domain is None else domain
        self._domains |= dict.fromkeys(domains)
        matching = [rule for rule in self.rules if rule.matches(domains if rule.of_domains else names)]
        for rule in matching:
            rule.count += 1
            rule.example = rule.example or path
        (self.dropped if matching else self._kept)[path] = None
        if matching:
            self._kept.pop(path, None)
        return bool(matching)

    def listed(self) -> list[LeftOut]:
        """Each rule and what it matched; of a file, the lines that match in one and those that do not in another."""
        told = [rule for rule in self.rules if rule.of_file is None]
        told += [kept for rule in self.rules for kept in rule.kept if not kept.count]
        found = [self._said(rule.shown, rule) for rule in told]
        lines = [rule for rule in self.rules if rule.of_file is not None]
        used, unused = [r for r in lines if r.count], [r for r in lines if not r.count]
        if used:
            count = sum(rule.count for rule in used)
            found.append(LeftOut(f"file: {used[0].of_file}", count, one_line(used[0].example, 120)))
        if unused:
            which = f"{len(unused)} of {len(lines)} lines, such as '{one_line(unused[0].text, 60)}'"
            found.append(self._said(f"file: {unused[0].of_file}: {which}", unused[0]))
        return found

    def _said(self, shown: str, rule: _Rule) -> LeftOut:
        """What one rule matched; where nothing, what it nearly is."""
        if rule.count:
            return LeftOut(shown, rule.count, one_line(rule.example, 120))
        there = [*self._kept, *self.dropped]
        names = dict.fromkeys(name for path in there for name in _names(path))
        near, why = rule.nearly(list(self._domains if rule.of_domains else names))
        return LeftOut(shown, 0, one_line(near or next(iter(there), ""), 120), why)

    def refuse_all(self, root: Path, what: str = "video") -> None:
        """Raise DataError: the rules left nothing."""
        if self.dropped:
            rules = "; ".join(f"{one.rule} ({one.count})" for one in self.listed() if one.count)
            raise DataError(
                f"{root}: dataset.leave_out leaves no {what}: all {len(self.dropped)} match its rules, by {rules}; "
                "expected some to stay: take a rule out"
            )


@dataclass(eq=False)
class _Rule:
    """A name or pattern. of_file: the file that holds it. kept: it means what none of these mean."""

    shown: str
    text: str
    of_domains: bool = False
    of_file: str | None = None
    kept: list[_Rule] = field(default_factory=list)
    count: int = 0
    example: str = ""

    def __post_init__(self) -> None:
        plain = self.text.removeprefix("./").rstrip("/")
        self._plain = plain
        self._pattern = re.compile(fnmatch.translate(plain)) if is_pattern(plain) else None

    def matches(self, names: tuple[str, ...] | list[str]) -> bool:
        """Whether one of the names is meant."""
        if self.kept:
            hits = [rule for rule in self.kept if rule.matches(names)]
            for rule in hits:
                rule.count += 1
            return any(names) and not hits
        if self._plain in names:
            return True
        return self._pattern is not None and any(self._pattern.match(name) for name in names)

    def nearly(self, names: list[str]) -> tuple[str | None, str]:
        """The name that is nearly meant, and in what it differs; None where none is."""
        found, why = near_name(self._plain, names) if self._pattern is None else (None, "")
        return (found, why) if found else near_pattern(self._plain, names)


def _names(path: str) -> list[str]:
    """What a rule may call a video: its path, that without a video's suffix, and the folders that it is in.

    >>> _names("videos/day 1/a.mp4")
    ['videos/day 1/a.mp4', 'videos/day 1/a', 'videos/day 1', 'videos']
    """
    if is_url(path):
        return [path, *_names(name_of(path))]
    pure = PurePosixPath(path)
    bare = [str(pure.with_suffix(""))] if pure.suffix.lower() in VIDEO_SUFFIXES else []
    return [path, *bare, *(str(parent) for parent in pure.parents if str(parent) != ".")]


def _lines(root: Path, settings: LeaveOut) -> list[str]:
    name = str(settings.file)
    try:
        text = (root / safe_relative(name, "leave_out.file")).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"leave_out.file: {name} cannot be read as text: {one_line(error, 120)}") from None
    lines = dict.fromkeys(line.strip() for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def _domain_name(text: str) -> str:
    try:
        return str(Domain.parse(text))
    except DataError:  # a pattern, or what the domain rule says of videos that have no domain
        return text
