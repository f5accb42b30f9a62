"""What a trained network attends to: crops with attention maps over them, as a picture and as a page."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from mdfpipe.domains import by_wavelength
from mdfpipe.drawing import pixels as figures
from mdfpipe.drawing.pixels import Picture
from mdfpipe.errors import DataError, MdfError, counted, one_line
from mdfpipe.inspecting.page import templates
from mdfpipe.inspecting.samples import spread
from mdfpipe.store.images import decode, recorded_window
from mdfpipe.store.naming import natural_key
from mdfpipe.store.run import Run
from mdfpipe.store.shards import read_crop

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdfpipe.learning.attention import TokenMaps, Watcher
    from mdfpipe.learning.data.crops import Crops

_SUBJECTS, _DOMAINS = 4, 6  # that are shown, a crop of each pair
_HEIGHT = {"body": 240, "face": 96}  # pixels; of bodies 80 or more wide, for the words above a panel
_ON_PAGE = 0.7  # pixels of a page for one of the picture
EVIDENCE = "evidence"
"""The panel with HiResCAM with respect to the similarity to a subject's other crops."""


@dataclass(frozen=True)
class Shown:
    """A crop on a page: the picture as a data URI, its size in pixels, which crop it is."""

    source: str
    width: int
    height: int
    title: str


@dataclass(frozen=True)
class Attended:
    """A crop, the same with an attention map over it, and with what each token of the network attends to.

    heated: none of a subject's only crop. tokens: (name of the token, share of its attention on its own band in words,
    or "", picture).
    """

    domain: str
    plain: Shown
    heated: Shown | None
    tokens: tuple[tuple[str, str, Shown], ...] = ()


@dataclass(frozen=True, eq=False)
class Panels:
    """One crop with its panels, at the size they are shown: the crop itself, evidence (or none), and its tokens."""

    crop_id: str
    subject: str
    domain: str
    plain: Picture
    evidence: Picture | None
    tokens: tuple[tuple[str, str, Picture], ...]
    maps: TokenMaps | None


@dataclass
class Attention:
    """What a checkpoint attends to in some crops. about: facts on it; notes: of the checkpoint, and what is not shown.

    shares: (token, domain or "all", shares of its attention on face, torso and lower body, crops).
    """

    name: str
    about: dict[str, str]
    panels: list[Panels]
    notes: list[str]
    shares: list[tuple[str, str, list[float], int]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For a terminal: what is shown, and which bands the tokens attend to."""
        subjects = sorted({one.subject for one in self.panels}, key=natural_key)
        found = [f"{counted(len(self.panels), 'crop')} of {', '.join(subjects)}"]
        found += [
            f"{token}: attention on {', '.join(f'{b} {100 * s:.0f} %' for b, s in zip(_bands(), shares, strict=True))}"
            for token, domain, shares, _ in self.shares
            if domain == "all"
        ]
        return found + self.notes


def attention_of(checkpoint: Path, crops: Path, show_people: bool = False) -> Attention:
    """What the network of a checkpoint attends to in crops of a few subjects, one of each domain.

    crops: a run folder with a manifest, or a folder of SUBJECT/IMAGE files. Raises ConfigError, DataError, StoreError.
    """
    from mdfpipe.learning.attention import Watcher
    from mdfpipe.learning.train.checkpoint import Checkpoint

    said = Checkpoint.load(checkpoint).describe()
    watcher = Watcher(checkpoint)
    chosen = _chosen(_read(crops, watcher.recipe.modality))
    if not len(chosen):
        raise DataError(f"{crops}: expected crops that are stored, found none")
    notes = list(said["notes"])
    if watcher.recipe.uses_cameras:
        notes.append("side information: every crop is shown with the mean of all cameras, whichever took it")
    wanted = _others(watcher, chosen, notes)
    panels, failed = [], list[str]()
    for row in range(len(chosen)):
        try:
            panels.append(_panels(watcher, chosen.take(np.array([row])), wanted.get(row), crops, show_people))
        except MdfError as error:
            failed.append(one_line(error))
    if not panels:
        raise DataError(f"{crops}: {counted(len(failed), 'crop')}, of which none can be shown: {failed[0]}")
    notes += failed
    if all(one.maps is None for one in panels):
        notes.append("no maps of tokens: this network has none that attend to patches")
    about = {
        "system": said["system"],
        "recipe": ", ".join(f"{name}: {value}" for name, value in _plain(said["recipe"]).items()),
        "domains": ", ".join(said["trained_domains"]) or "not trained",
    }
    return Attention(str(checkpoint.name), about, panels, notes, _shares(panels))


def _plain(recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings of a recipe that are no section."""
    return {name: value for name, value in recipe.items() if not isinstance(value, dict | list) and value is not None}


def _bands() -> tuple[str, ...]:
    from mdfpipe.learning.models.backbones.semantic_vit import PARTS

    return tuple(part.replace("_", " ") for part in PARTS)


# -- which crops


def _read(folder: Path, modality: str) -> Crops:
    """The stored crops of a run folder or of a folder of images; black and white of few videos are looked up."""
    from mdfpipe.learning.data.crops import from_folder, from_manifest

    run = Run(folder)
    if run.receipt("manifest", "manifest") is None:
        return from_folder(folder, source=1)
    table = run.table("manifest", "manifest")
    table = table.filter(pc.is_valid(table["shard"]))
    kept = _chosen(from_manifest(table, folder, modality=modality, splits=None))
    videos = set(kept.compact().videos)
    windows = {name: found for name in videos if (found := recorded_window(run, name))}
    return from_manifest(
        table.filter(pc.is_in(table["crop_id"], kept.crop_id)), folder, modality=modality, splits=None, windows=windows
    )


def _chosen(crops: Crops) -> Crops:
    """One crop of each domain, the middle one, of a few subjects: of those in every domain if there are any.

    Where there is one domain, two crops, so that they can be compared.
    """
    rows: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, (subject, domain) in enumerate(zip(crops.subject.tolist(), crops.domain.tolist(), strict=True)):
        rows[subject][crops.domains[domain]].append(row)
    domains = spread(sorted({name for own in rows.values() for name in own}, key=by_wavelength), _DOMAINS)
    most = max((sum(name in own for name in domains) for own in rows.values()), default=0)
    whole = [s for s in rows if sum(name in rows[s] for name in domains) == most]
    subjects = spread(sorted(whole, key=lambda s: natural_key(crops.subjects[s])), _SUBJECTS)
    each = 2 if len(domains) == 1 else 1
    found = [row for s in subjects for name in domains for row in spread(rows[s].get(name, []), each)]
    return crops.take(np.array(found, np.int64))


# -- panels


def _others(watcher: Watcher, crops: Crops, notes: list[str]) -> dict[int, NDArray[np.float32]]:
    """For each row the mean unit vector of its subject's other rows; nothing of a subject with one crop."""
    from mdfpipe.learning.data.loader import CropReader
    from mdfpipe.learning.embedders import TorchEmbedder
    from mdfpipe.learning.embedding import embed

    recipe = watcher.recipe
    reader = CropReader(crops, recipe.image_height_px, recipe.image_width_px, recipe.depth)
    try:
        found = [*embed(TorchEmbedder(recipe, watcher.model), crops, reader, watcher.domains)]
    finally:
        reader.close()
    units = {
        int(row): vector / max(float(np.linalg.norm(vector)), 1e-12)
        for rows, vectors in found
        for row, vector in zip(rows, vectors, strict=True)
    }
    count = Counter(crops.subject[list(units)].tolist())
    wanted = {}
    for row in units:
        own = [other for other in units if other != row and crops.subject[other] == crops.subject[row]]
        if own:
            wanted[row] = np.mean([units[other] for other in own], axis=0).astype(np.float32)
    alone = sorted(crops.subjects[s] for s, n in count.items() if n == 1)
    notes += [f"no evidence for {', '.join(alone)}: one crop cannot be compared with itself"] if alone else []
    return wanted


def _panels(
    watcher: Watcher, crop: Crops, wanted: NDArray[np.float32] | None, folder: Path, show_people: bool
) -> Panels:
    """crop: of one row. Raises DataError."""
    name, modality = crop.crop_id[0].as_py(), watcher.recipe.modality
    checksum = int(crop.crc32[0])
    data = read_crop(
        crop.shards[crop.shard[0]], int(crop.offset[0]), int(crop.size[0]), checksum if checksum >= 0 else None
    )
    image = decode(data, name)
    low, high = crop.window[0].tolist()
    picture, height = figures.to_display(image, (low, high)), _HEIGHT[modality]
    picture = figures.scaled_to(picture, max(round(height * image.shape[1] / image.shape[0]), 1), height)
    if not show_people:
        picture = figures.hidden_crop(picture, figures.BODY_BLOCKS if modality == "body" else figures.FACE_BLOCKS)
    heat, maps = watcher.look(crop, wanted) if wanted is not None else None, watcher.tokens(crop)
    return Panels(
        name,
        crop.subjects[crop.subject[0]],
        crop.domains[crop.domain[0]],
        picture,
        None if heat is None else figures.overlaid(picture, heat),
        tuple((token, own, figures.overlaid(picture, part)) for token, own, part in (maps.pictures() if maps else ())),
        maps,
    )


def _shares(panels: list[Panels]) -> list[tuple[str, str, list[float], int]]:
    """Means over all crops, and over those of each domain, of the shares of each token."""
    found = []
    maps = [(one.domain, one.maps) for one in panels if one.maps is not None]
    domains = sorted({domain for domain, _ in maps}, key=by_wavelength)
    for place, token in enumerate(maps[0][1].names if maps else ()):
        for asked in ("all", *(domains if len(domains) > 1 else ())):
            own = [each.shares[place] for domain, each in maps if asked in ("all", domain)]
            found.append((token.replace("_", " "), asked, np.mean(own, axis=0).tolist(), len(own)))
    return found


# -- the picture and the page


def attention_sheet(found: Attention) -> Picture:
    """A picture: for each domain a column, for each subject a row of panels, each with its name above it."""
    gap, by_domain, count = 6, dict[str, dict[tuple[str, int], Panels]](), Counter[tuple[str, str]]()
    for one in found.panels:
        by_domain.setdefault(one.domain, {})[one.subject, count[one.domain, one.subject]] = one
        count[one.domain, one.subject] += 1
    places = list(dict.fromkeys(place for own in by_domain.values() for place in own))
    widths = [one.plain.shape[1] for one in found.panels]
    wide, high = max(widths), found.panels[0].plain.shape[0]
    names = [EVIDENCE] if any(one.evidence is not None for one in found.panels) else []
    names += list(dict.fromkeys(token for one in found.panels for token, _, _ in one.tokens))
    blocks = []
    for domain in sorted(by_domain, key=by_wavelength):
        rows = []
        for place in places:
            own = by_domain[domain].get(place)
            shown: dict[str, tuple[str, Picture]] = {}
            if own is not None:
                shown = {"": (own.subject, own.plain)}
                shown |= {EVIDENCE: (EVIDENCE, own.evidence)} if own.evidence is not None else {}
                shown |= {token: (f"{_short(token)} {share}", picture) for token, share, picture in own.tokens}
            panels = []
            for name in ("", *names):
                words, picture = shown.get(name, ("", np.full((high, wide, 3), 235, np.uint8)))
                lacking = wide - picture.shape[1]
                padded = np.pad(picture, ((0, 0), (0, max(lacking, 0) + 2), (0, 0)), constant_values=255)
                panels.append(figures.headed(padded, words))
            rows.append(np.pad(np.concatenate(panels, axis=1), ((0, gap), (0, 0), (0, 0)), constant_values=255))
        block = figures.captioned(np.concatenate(rows), domain, [])
        blocks.append(np.pad(block, ((0, 0), (0, 2 * gap), (0, 0)), constant_values=255))
    return np.concatenate(blocks, axis=1)[:, : -2 * gap]


def _short(token: str) -> str:
    """The name of a token in a panel's width."""
    return token.removesuffix(" body")


def attention_page(found: Attention, show_people: bool) -> str:
    """One self-contained HTML page. The same checkpoint and crops give the same page."""
    shown: dict[str, list[Attended]] = {}
    for one in found.panels:
        of = (one.subject, one.domain, one.crop_id)
        shown.setdefault(one.subject, []).append(
            Attended(
                one.domain,
                _shown(one.plain, *of),
                None if one.evidence is None else _shown(one.evidence, *of),
                tuple((token, share, _shown(picture, *of)) for token, share, picture in one.tokens),
            )
        )
    content = {
        "name": found.name,
        "about": found.about,
        "notes": found.notes,
        "shares": found.shares,
        "bands": _bands(),
        "ramp": ", ".join(figures.RAMP),
        "people": shown,
        "show_people": show_people,
    }
    return str(templates().get_template("attention.html.j2").render(content)) + "\n"


def _shown(picture: Picture, *names: str) -> Shown:
    height, width = (round(_ON_PAGE * side) for side in picture.shape[:2])
    return Shown(figures.data_uri(picture), width, height, ", ".join(names))
