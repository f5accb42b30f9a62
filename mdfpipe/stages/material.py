"""Material: the crops a system is trained on, of the study's own manifest, of other run folders, of plain folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mdfpipe.config import find_folder
from mdfpipe.errors import DataError, counted, one_line
from mdfpipe.learning.data import crops as c
from mdfpipe.learning.data.crops import Crops
from mdfpipe.learning.system import System
from mdfpipe.store.images import recorded_window
from mdfpipe.store.left_out import of_training
from mdfpipe.store.run import Receipt, Run, fingerprint, read_receipt
from mdfpipe.store.shards import UNVERIFIED
from mdfpipe.store.tables import chosen

_ADVICE = "Make it with `mdfpipe synth DATA --crops N` (--faces N for faces), or give a folder of SUBJECT/IMAGE files"


class TrainingMaterial(NamedTuple):
    """Material of a training. held_out: None without validation. told: lines on what was chosen and left out. left_out:
    subjects that its batches leave out, as `of_training` of `store.left_out` reads it; empty if there are none.
    """

    crops: Crops
    held_out: Crops | None
    told: list[str]
    left_out: dict[str, Any]


def material(name: str, settings: System, run: Run, data: Path) -> TrainingMaterial:
    """The crops of the training `name`. Raises ConfigError, DataError where they allow no training."""
    parts, modality = [], settings.recipe.modality
    if settings.on_own:
        parts.append(_own(run, modality, settings.train_domains))
    for number, folder in enumerate(settings.further, start=1):
        parts.append(_further(further_folder(name, folder, data), modality, number, f"{folder}/"))
    crops = c.join(parts)
    unverified = _unverified(parts, settings.further)
    told = [
        f"{counted(len(crops), f'{modality} crop')} of {counted(len(crops.subjects), 'subject')} in "
        f"{', '.join(crops.domains)}"
    ]
    told += unverified
    held_out = None
    if settings.validation.subjects:
        crops, held_out = c.hold_out(crops, settings.validation.subjects, settings.seed)
        told.append(f"{counted(len(held_out.subjects), 'subject')} held out for validation")
    if settings.max_subjects is not None:
        first = bool(settings.complete_first)
        crops = c.subset(crops, settings.max_subjects, settings.seed, complete_first=first)
        told.append(f"{counted(len(crops.subjects), 'subject')} chosen by max_subjects")
    crops = crops.compact()
    if len(crops.subjects) < 2:
        raise DataError(
            f"{name}: expected at least 2 training subjects, got {len(crops.subjects)}; nothing can be "
            "distinguished; check the protocol's train split, validation.subjects and max_subjects"
        )
    sampler = settings.recipe.sampler(crops, settings.seed)
    left_out = _left_out(crops, getattr(sampler, "left_out", {}))
    return TrainingMaterial(crops, held_out, told + of_training({"left_out": left_out}), left_out)


def _unverified(parts: Sequence[Crops], further: Sequence[str]) -> list[str]:
    """A line for each further run folder whose crops have no checksums. parts: crops, those of `further` last."""
    found = []
    for folder, crops in zip(further, parts[len(parts) - len(further) :], strict=True):
        count = int((crops.crc32 == c.UNKNOWN).sum())
        if count and crops.shards[0].suffix == ".tar":  # plain images have none
            found.append(f"{counted(count, 'crop')} of {folder} without checksum: {UNVERIFIED}")
    return found


def _left_out(crops: Crops, lacking: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """How many subjects domain-aware batches leave out, of how many, and how many of them lack which domain."""
    if not lacking:
        return {}
    own = crops.source == 0
    without = Counter(domain for domains in lacking.values() for domain in domains)
    subjects = len(set((crops.subject[own] if own.any() else crops.subject).tolist()))
    return {"subjects": len(lacking), "of": subjects, "without": dict(sorted(without.items()))}


# -- the study's own crops


def training_rows(
    run: Run, manifest: Receipt, modality: str, domains: list[str] | None, *, cameras: bool = False
) -> str:
    """A fingerprint of the manifest's training crops, their pixels by the content of the crop parts they lie in.

    cameras: whether they count, too.
    """
    named = None if domains is None else tuple(domains)
    return _training_rows(run.path, manifest.fingerprint, modality, named, cameras)


@lru_cache(maxsize=16)
def _training_rows(run: Path, manifest: str, modality: str, domains: tuple[str, ...] | None, cameras: bool) -> str:
    receipt = Run(run).receipt("manifest", "manifest")
    try:
        crops = _own(Run(run), modality, domains)
    except DataError as error:  # the training itself will say so
        return fingerprint([manifest, one_line(error)])
    made_from = receipt.upstream if receipt else {}
    more = [dict(sorted(crops.camera.items()))] if cameras else []
    return fingerprint([crops.fingerprint(), {video: made_from.get(f"crop/{video}") for video in crops.videos}, *more])


def gallery_domains(manifest: Receipt | None) -> list[str]:
    """The domains that the protocol enrols."""
    protocol = manifest.settings.get("protocol", {}) if manifest else {}
    return list(protocol.get("gallery_domains", ()))


def _own(run: Run, modality: str, domains: Sequence[str] | None) -> Crops:
    return _of_run(run, modality, splits=["train"], domains=domains)


def _of_run(run: Run, modality: str, **asked: Any) -> Crops:
    """Crops of the manifest of a run folder. asked: as `from_manifest` takes it."""
    table = run.table("manifest", "manifest")
    return c.from_manifest(table, run.path, modality=modality, windows=_windows(run, table), **asked)


def _windows(run: Run, manifest: pa.Table) -> dict[str, tuple[float, float]]:
    """video_id -> the values that detect took for black and white, of videos above 8 bits."""
    deep = manifest.filter(pc.equal(manifest["codec"], "png"))
    found = ((video_id, recorded_window(run, video_id)) for video_id in deep["video_id"].unique().to_pylist())
    return {video_id: pair for video_id, pair in found if pair is not None}


def refuse_untrained_domains(name: str, system: System, run: Run, trained: Sequence[str]) -> None:
    """Raise DataError, before hours are spent, where the study embeds crops that no stream is trained for."""
    recipe = system.recipe
    if run.receipt("manifest", "manifest") is None:
        return
    rows = run.table("manifest", "manifest", ["domain", "modality", "split"])
    there = sorted(chosen(rows, recipe.modality, system.splits)["domain"].unique().to_pylist())
    untrained = [domain for domain in there if recipe.embedded_as(domain, trained) is None]
    if untrained:
        raise DataError(
            f"{name}: the study embeds crops of {', '.join(untrained)}, for which {recipe.use} has no trained stream: "
            f"it is trained on {', '.join(trained)}; train on those, too, or let domains share a stream "
            "(recipe.streams: vis_ir or shared)"
        )


# -- further crops


def further_folder(name: str, folder: str, data: Path) -> Path:
    """Where the further crops `folder` of the training `name` lie. Raises ConfigError."""
    return find_folder(folder, data, f"{name}: train_on", _ADVICE)


def further_identity(folder: Path) -> str:
    """What is known of its manifest: rows, and the crops that it was made from; of a folder names, sizes and times."""
    receipt = read_receipt(Run(folder).part("manifest", "manifest"))
    if receipt is not None:
        return fingerprint([receipt.fingerprint, receipt.content])
    return fingerprint(
        [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in c.images_of(folder)]
    )


def _further(folder: Path, modality: str, source: int, prefix: str) -> Crops:
    if Run(folder).receipt("manifest", "manifest") is None:
        return c.from_folder(folder, source=source, prefix=prefix)
    return _of_run(Run(folder), modality, source=source, prefix=prefix)
