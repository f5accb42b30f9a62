"""Protocol: who is in which split, which domain is the gallery and which the probe.

A protocol is a small YAML file in `manifests/`, named in a study by `manifest.protocol`. Its content, not its
name, becomes part of the study when that is loaded, so that a run folder says for itself what it followed.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mdfpipe.config import Config, read_yaml
from mdfpipe.domains import Domain
from mdfpipe.errors import ConfigError, DataError, one_line
from mdfpipe.store.subjects import SubjectNames, alike, told_apart

Split = Literal["train", "test", "unused"]


class Protocol(Config):
    """Splits by subject, roles by domain."""

    name: str = Field(description="printed with every number")
    version: int = Field(default=1, description="version; raise it if the same name gets another meaning")
    description: str = Field(default="", description="what it is, and its source")
    domains: list[str] = Field(
        default=[], description="domains in use: rows of others are in split unused, and counted; none: all"
    )
    gallery_domains: list[str] = Field(default=[], description="domains whose test rows are gallery; none: no roles")
    probe_domains: list[str] = Field(default=[], description="domains whose test rows are probes")
    galleries: dict[str, Split] = Field(default={}, description="the dataset's gallery -> split of its subjects")
    subjects: dict[str, Split] = Field(default={}, description="subject_id -> split; or a CSV next to the protocol")
    subject_names_kept: list[str] = Field(
        default=[], description="names such as NA, None or null that are real subjects, in exactly this spelling"
    )
    unlisted: Split | Literal["refuse"] = Field(
        default="refuse", description="split of subjects in neither galleries nor subjects"
    )
    unknown_mates: Literal["refuse", "unmated"] = Field(
        default="refuse",
        description="for probes whose only gallery video was left out. refuse: stop; unmated: treat them as unmated",
    )

    @field_validator("domains", "gallery_domains", "probe_domains")
    @classmethod
    def _are_domains(cls, names: list[str]) -> list[str]:
        try:
            return [str(Domain.parse(name)) for name in names]
        except DataError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _is_sound(self) -> Protocol:
        nobody = next((text for text in self.subjects if self.names.subject_id(text) is None), None)
        if nobody is not None:
            raise ValueError(f"subjects: {_nobody(nobody)}")
        both = sorted(set(self.gallery_domains) & set(self.probe_domains))
        if both:
            raise ValueError(f"{both[0]} is in gallery_domains and in probe_domains; a domain has one role")
        out = sorted(
            {*self.gallery_domains, *self.probe_domains}
            - set(self.domains or self.gallery_domains + self.probe_domains)
        )
        if out:
            raise ValueError(f"{out[0]} has a role, but is not in domains: {', '.join(self.domains)}")
        if bool(self.gallery_domains) != bool(self.probe_domains):
            raise ValueError("expected both gallery_domains and probe_domains, or neither (no roles)")
        return self

    @property
    def names(self) -> SubjectNames:
        """How cells name subjects."""
        return SubjectNames(frozenset(self.subject_names_kept))

    @property
    def content(self) -> dict[str, Any]:
        """What it says, without what it is called: two protocols with the same content are one."""
        found = self.model_dump(mode="json", exclude={"name", "version", "description"})
        return {key: sorted(value) if isinstance(value, list) else value for key, value in found.items()}

    @property
    def has_roles(self) -> bool:
        """Whether there is a gallery and a probe side."""
        return bool(self.gallery_domains)

    def uses(self, domain: str) -> bool:
        """Whether a domain is in use."""
        return not self.domains or domain in self.domains

    def role(self, domain: str) -> str:
        """gallery, probe or none, of test rows of a domain."""
        if domain in self.gallery_domains:
            return "gallery"
        return "probe" if domain in self.probe_domains else "none"


def read_protocol(name: str, folders: list[Path], also: str = "") -> dict[str, Any]:
    """The settings of a protocol, its subject table read in. Raises ConfigError.

    name: a protocol of one of `folders`, without suffix, or the path of a YAML file. also: other names that a caller
    takes, for the message about an unknown one.
    """
    given = Path(name)
    places = [given] if given.suffix in (".yaml", ".yml") else [folder / f"{name}.yaml" for folder in folders]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        known = sorted({p.stem for folder in folders if folder.is_dir() for p in folder.glob("*.yaml")})
        raise ConfigError(f"manifest.protocol {name!r}: no such protocol; known: {', '.join(known) or 'none'}{also}")
    settings = read_yaml(path)
    settings.setdefault("name", path.stem)
    if isinstance(settings.get("subjects"), str):
        kept = settings.get("subject_names_kept", [])
        names = SubjectNames(frozenset(map(str, kept if isinstance(kept, list) else [])))
        settings["subjects"] = _read_subjects(path.parent / settings["subjects"], names)
    return settings


def _nobody(text: str) -> str:
    return (
        f"'{one_line(text, 40)}' means a missing name; leave it out, or list it in subject_names_kept if it is a "
        "real name"
    )


def _read_subjects(path: Path, names: SubjectNames) -> dict[str, str]:
    """subject_id -> split from a CSV with these two columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if not rows or not {"subject_id", "split"} <= rows[0].keys():
        raise ConfigError(f"{path}: expected the columns subject_id and split, and at least one row")
    splits: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        text = (row["subject_id"] or "").strip()
        subject = names.subject_id(text)
        if subject is None:
            raise ConfigError(f"{path}: row {number}: {_nobody(text)}")
        if splits.setdefault(subject, row["split"]) != row["split"]:
            raise ConfigError(f"{path}: row {number}: subject {subject!r} is in {splits[subject]} and {row['split']}")
    for same in alike(splits):
        if len({splits[name] for name in same}) > 1:
            raise ConfigError(f"{path}: {told_apart(same)} are in two splits; write a subject in one way only")
    return splits
