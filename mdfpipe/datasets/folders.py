"""Folders: videos whose folders and file names say who and what they show. No table annotates them.

    data/anna/VIS-5m/walk1.mp4      dataset: {use: folders, folders: "{subject}/{domain}/*"}
    data/anna/LWIR-5m/walk1/0001.png, 0002.png, ...      a folder of frames is a video, too

All that a pattern finds holds for the video as a whole. Its subject is the one person that label names in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Self

from pydantic import Field, field_validator, model_validator

from mdfpipe.datasets import Dataset, Listing, VideoEntry, name_videos
from mdfpipe.datasets.reading.layout import check_root, find_tables, find_videos, is_pattern, pattern_remarks
from mdfpipe.datasets.reading.leaving_out import Sieve
from mdfpipe.datasets.reading.rules import DomainRule
from mdfpipe.errors import DataError, counted, one_line, some
from mdfpipe.store.naming import LONGEST_NAME, VIDEO_SUFFIXES, is_name, safe_relative
from mdfpipe.store.subjects import SubjectNames, alike, told_apart

NAMES: Final = ("subject", "domain", "band", "range", "session", "camera")
"""What a pattern may name."""
_Text = Annotated[str, Field(coerce_numbers_to_str=True)]
_PART = re.compile(r"\{([^{}]*)\}|(\*)")


class Folders(Dataset):
    """Videos in folders, a person each: `SUBJECT/clip.mp4`, or folders of frames; boxes or a detector, no faces."""

    folders: str = Field(
        "{subject}/*",
        description="how a path begins: {subject}, {domain} or {band} and {range} in metres, {session}, {camera}, each "
        "within one folder or file name, * for the rest of one; a file's suffix and deeper folders do not count. "
        "Without {subject}, no video has a subject",
    )
    videos: list[str] = Field(
        ["**/*"],
        description="paths or glob patterns of the videos: files with a video suffix, TIFFs of many pages, and folders "
        "that hold images; a path without * ? [ is taken as it is",
    )
    domain: DomainRule | None = Field(
        None, description="how to find a video's domain if the pattern does not: {constant: VIS}, or regex, table"
    )
    domains: dict[_Text, str] = Field(
        default_factory=dict,
        description="text that the pattern finds as {domain} or {band} -> domain: {ir: LWIR}; others are used as found",
    )
    subject_names_kept: list[_Text] = Field(
        default_factory=list,
        description="names such as NA or none that are real subjects, in exactly this spelling; by default they count "
        "as missing",
    )
    subject_names_missing: list[_Text] = Field(
        default_factory=list,
        description="further names that mean no subject, in exactly this spelling: [unknown, empty]",
    )

    @field_validator("folders")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        _compiled(value)
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        told = bool({"domain", "band"} & set(self._pattern.groupindex))
        if told == (self.domain is not None):
            raise ValueError(
                "domain: expected either {domain} or {band} in `folders`, or a rule as `domain`, got "
                + ("both" if told else "neither: domain: {constant: VIS} is one of all videos")
            )
        if self.domain is not None and self.domain.column is not None:
            raise ValueError("domain.column: there are no tables to read it from; use regex, table or constant")
        if self.domains and not told:
            raise ValueError("domains: belongs to {domain} or {band} in `folders`; a rule has `domain.map`")
        for path in self.videos:
            try:
                safe_relative(path, "videos")
            except DataError as error:
                raise ValueError(str(error)) from None
        return self

    @property
    def _pattern(self) -> re.Pattern[str]:
        return _compiled(self.folders)

    @property
    def _rule(self) -> DomainRule:
        return self.domain or DomainRule(column="{domain}", map=self.domains)

    def sources(self, root: Path) -> list[Path]:
        """The tables and the videos. Raises DataError where there is no video."""
        tables, videos = self.tables(root), self.present(root)
        if not videos:
            raise DataError(f"{root}: expected videos, found none that {', '.join(self.videos)} names")
        return [*tables, *videos]

    def tables(self, root: Path) -> list[Path]:
        """The domain table and the list of what is left out."""
        check_root(root)
        single = {"domain.table": self._rule.table, "leave_out.file": self.leave_out.file}
        named = {what: [table] for what, table in single.items() if table is not None}
        found = [path for what, paths in named.items() for path in find_tables(root, paths, what, self.links)]
        return [root / path for path in dict.fromkeys(found)]

    def present(self, root: Path) -> list[Path]:
        """The videos that `videos` finds, but for those that are left out."""
        return [root / path for path in self._found(root, self._sieve(root)).videos]

    def read(self, root: Path) -> Listing:
        """The listing of the data under `root`. Raises DataError."""
        check_root(root)
        sieve = self._sieve(root)
        found = self._found(root, sieve)
        if not found.videos:
            sieve.refuse_all(root)
            raise DataError(f"{root}: expected videos, found none that {', '.join(self.videos)} names")
        names = name_videos(found.videos, sieve.dropped)
        told = {path: self._told(path) for path in found.videos}
        domains = self._rule.domains(root, {path: _domain(of) for path, of in told.items()}, self.links)
        subjects = {path: self._subject(path, of) for path, of in told.items()}
        entries = [
            VideoEntry(names[p], p, domains[p], of.get("session"), of.get("camera"), subjects[p])
            for p, of in told.items()
        ]
        usual = type(self).model_fields["videos"].default
        drops = found.without(sieve)
        return Listing(
            sorted(entries, key=lambda entry: entry.video_id),
            faces={},
            left_out=sieve.listed(),
            remarks=[
                *self._remarks(subjects),
                *found.remarks,
                *pattern_remarks(root, self.videos, drops, self.links, usual, found.videos),
            ],
        )

    def _sieve(self, root: Path) -> Sieve:
        """What `leave_out` keeps out by path and by domain."""
        rule = self._rule
        say = rule.teller(root, self.links) if self.leave_out.by_domain else lambda path, cell: ""
        return Sieve.of(self.leave_out, root, lambda path: rule.names(say(path, _domain(self._told(path)))))

    def _found(self, root: Path, sieve: Sieve) -> _Found:
        """The videos under the root; a folder that holds videos and pictures is none itself."""
        check_root(root)
        found = find_videos(root, self.videos, sieve.drops, self.links)
        above = {str(folder) for path in found for folder in PurePosixPath(path).parents}
        wild = all(map(is_pattern, self.videos))  # a folder that is named is taken
        return _Found([p for p in found if not (wild and p in above)], [p for p in found if wild and p in above])

    def _told(self, path: str) -> Mapping[str, str]:
        """What the pattern finds in the path of a video, by name; nothing where it does not match."""
        pure = PurePosixPath(path)
        stem = str(pure.with_suffix("")) if pure.suffix.lower() in VIDEO_SUFFIXES else path
        match = self._pattern.match(stem)
        return {} if match is None else match.groupdict()

    def _subject(self, path: str, told: Mapping[str, str]) -> str | None:
        """The subject of a video. Raises DataError for one that cannot be a name."""
        names = SubjectNames(frozenset(self.subject_names_kept), frozenset(self.subject_names_missing))
        found = names.subject_id(told["subject"]) if "subject" in told else None
        if found is not None and not is_name(found):
            raise DataError(
                f"{path}: expected a subject of at most {LONGEST_NAME} printable characters, got "
                f"'{one_line(found, 80)}'; rename it"
            )
        return found

    def _remarks(self, subjects: Mapping[str, str | None]) -> list[str]:
        """What one should know of the subjects, a line each."""
        if "subject" not in self._pattern.groupindex:
            return []
        nameless = [path for path, subject in subjects.items() if subject is None]
        people = {subject for subject in subjects.values() if subject is not None}
        lines = []
        if nameless:
            lines.append(
                f"{len(nameless)} of {len(subjects)} videos have no subject by dataset.folders '{self.folders}' "
                f"({some([one_line(path, 60) for path in nameless], 3)}): their bodies are not named"
            )
        lines += [f"subjects_alike: {told_apart(group)} are taken as different people" for group in alike(people)]
        names = SubjectNames(frozenset(self.subject_names_kept), frozenset(self.subject_names_missing))
        lines += [
            f"'{one_line(subject, 60)}' is taken as a person's name; if it is none: dataset.subject_names_missing"
            for subject in sorted(people)
            if names.is_doubtful(subject)
        ]
        return lines


@dataclass(frozen=True)
class _Found:
    """The videos, and folders of pictures that are none, since videos are in them too."""

    videos: list[str]
    mixed: list[str] = field(default_factory=list)

    def without(self, sieve: Sieve) -> _Drops:
        """What `pattern_remarks` is to pass over."""
        return _Drops(frozenset(self.mixed), sieve)

    @property
    def remarks(self) -> list[str]:
        """That pictures are passed over, where they are."""
        if not self.mixed:
            return []
        shown = some([one_line(path, 60) for path in self.mixed], 3)
        hold = counted(len(self.mixed), "folder holds", "folders hold")
        return [f"{hold} videos and pictures ({shown}): their pictures are passed over"]


@dataclass(frozen=True)
class _Drops:
    """Whether a path is passed over."""

    paths: frozenset[str]
    sieve: Sieve

    def __call__(self, path: str) -> bool:
        return path in self.paths or self.sieve.drops(path)


def _domain(told: Mapping[str, str]) -> str:
    """The domain as the pattern finds it.

    >>> _domain({"band": "swir", "range": "30m"}), _domain({"domain": "VIS"}), _domain({})
    ('swir-30m', 'VIS', '')
    """
    if told.get("domain"):
        return told["domain"]
    band, far = told.get("band") or "", told.get("range")
    return f"{band}-{far.removesuffix('m')}m" if far else band


@lru_cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of folders as a regular expression of a path without suffix. Raises ValueError.

    >>> _compiled("{subject}/*_{camera}").match("anna/day1_c2/frames").groupdict()
    {'subject': 'anna', 'camera': 'c2'}
    """
    found, at = list[str](), 0
    names = [match[1] for match in _PART.finditer(pattern) if match[1] is not None]
    unknown = [name for name in names if name not in NAMES]
    if unknown or len(names) > len(set(names)):
        wrong = f"{{{unknown[0]}}}" if unknown else "one of them twice"
        raise ValueError(f"expected {', '.join(f'{{{name}}}' for name in NAMES)}, each once at most, got {wrong}")
    try:
        plain = safe_relative(_PART.sub("x", pattern), "folders")
    except DataError as error:
        raise ValueError(str(error)) from None
    if plain.count("/") != pattern.strip("/").count("/"):
        raise ValueError(f"expected a path under the data root, got '{one_line(pattern, 80)}'")
    if "domain" in names and {"band", "range"} & set(names):
        raise ValueError("expected {domain}, or {band} and {range}, got both")
    for match in _PART.finditer(pattern):
        found.append(re.escape(pattern[at : match.start()]))
        found.append("[^/]*?" if match[2] else f"(?P<{match[1]}>[^/]+?)")
        at = match.end()
    return re.compile(f"{''.join(found)}{re.escape(pattern[at:])}(?:/.*)?$", re.DOTALL)
