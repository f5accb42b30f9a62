"""Vectors of folders of one's own images as a file: `mdfpipe embed`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

from mdfpipe.config import set_dotted, validate
from mdfpipe.datasets.reading.rules import TextRule
from mdfpipe.errors import ConfigError, counted, one_line
from mdfpipe.running.execution import Event
from mdfpipe.store.files import given_path

if TYPE_CHECKING:
    from mdfpipe.learning.own_images import FoundImages

SHOWN = 5  # files that gave no vector, in words; the table and --json have them all


@dataclass
class EmbeddedImages:
    """Result of `embed_folders`. vectors: written; bad: why others have none, by path; others: files of other kinds;
    again: images given twice; unnamed: images whose names are no text; notes: what a reader of the vectors should know.
    """

    out: str
    images: int
    features: int
    vectors: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    others: int = 0
    again: int = 0
    unnamed: int = 0
    notes: list[str] = field(default_factory=list)
    dry_run: bool = False

    def lines(self) -> list[str]:
        """The result in words."""
        verb = (
            "would be embedded" if self.dry_run else f"-> {counted(self.vectors, 'vector')} of {self.features} numbers"
        )
        found = [f"{self.out}: {counted(self.images, 'image')} {verb}"]
        found += [f"no vector: {one_line(name, 120)}: {why}" for name, why in list(self.bad.items())[:SHOWN]]
        if len(self.bad) > SHOWN:
            found.append(f"no vector: {len(self.bad) - SHOWN} more; column status names them")
        if self.unnamed:
            found.append(f"left out: {counted(self.unnamed, 'image')} whose name is no UTF-8 text; rename")
        if self.again:
            found.append(f"left out: {counted(self.again, 'image')} given twice")
        found += [f"note: {note}" for note in self.notes]
        if self.others:
            found.append(f"left out: {counted(self.others, 'file that is no image', 'files that are no images')}")
        return found


def embed_folders(
    images: Sequence[str | PathLike[str]],
    weights: str | PathLike[str],
    out: str | PathLike[str],
    *,
    recipe: str | None = None,
    assignments: Sequence[str] = (),
    camera_from: str | None = None,
    dry_run: bool = False,
    listen: Callable[[Event], None] = lambda event: None,
    **settings: Any,
) -> EmbeddedImages:
    """Embed the images of folders, and write path, status and vector of each to a Parquet file.

    recipe: the name of that of public weights; assignments: NAME=VALUE, settings of it; camera_from: a regular
    expression that is searched in the path of each image below its folder, and whose first group, or whole match, is
    its camera; settings: those of Embedder.
    Raises ConfigError, DataError where there is no image, or none can be read, StoreError.
    """
    from mdfpipe.learning.own_images import Embedder, FoundImages, refuse_others

    if assignments and recipe is None:
        raise ConfigError("--set changes settings of public weights: name their recipe with --recipe")
    given: dict[str, Any] | None = None if recipe is None else {"use": recipe}
    for assignment in assignments:
        set_dotted(given or {}, assignment)
    place = given_path("out", out)
    if place.suffix.lower() != ".parquet" or place.is_dir():
        got = "a folder" if place.is_dir() else one_line(place.suffix, 40) or "no suffix"
        raise ConfigError(f"--out {place}: expected a file whose name ends in .parquet, got {got}; name another")
    refuse_others(place, given_path("weights", weights))
    cameras: list[str | None] | None = None
    rule = None if camera_from is None else validate(TextRule, {"regex": camera_from}, "--camera-from")
    if rule and settings.get("camera") is not None:
        raise ConfigError("--camera is that of all images, --camera-from has one for each: give one of them")
    found: FoundImages = FoundImages.below(images)
    if rule:
        cameras = [rule.text(name, None) for name in found.names]
    embedder = Embedder(weights, recipe=given, **settings)
    means = embedder.means(len(found.files), cameras)
    if means and cameras is None and embedder.camera is None and embedder.cameras:
        means[-1] += "; name it with --camera or --camera-from"
    done = EmbeddedImages(str(place), len(found.files), embedder.features, dry_run=dry_run, notes=means)
    done.others, done.again, done.unnamed = found.others, found.again, found.unnamed
    if dry_run:
        return done
    began = time.monotonic()
    listen(Event("stage", "embed", "", total=1))
    listen(Event("started", "embed", "images"))
    done.vectors, done.bad = embedder.write(
        found.files,
        found.names,
        place,
        lambda at, total: listen(Event("progress", "embed", "images", at, total)),
        cameras,
    )
    listen(Event("finished", "embed", "images", rows=done.vectors, seconds=time.monotonic() - began))
    return done
