"""Baselines: how far trivial features of body crops recognise people across domains. A sanity check on the data.

If mean colours or thumbnails found people from visible to thermal light, a data set, or a leak in it, would do the work
that is credited to a network. A crop becomes a short vector; the vectors of a subject in a domain are averaged to a
template; each template of a probe domain is searched among the templates of the gallery domain, within its split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.domains import Domain, by_wavelength
from mdfpipe.errors import DataError
from mdfpipe.evaluation.measures.intervals import wilson
from mdfpipe.store.images import decode_at, scaled
from mdfpipe.store.run import Run
from mdfpipe.store.shards import CHECKSUM, Spoilt, read_crop

HEIGHT, WIDTH = 128, 64  # pixels of every baseline's input
BLOCK = 32  # crops at a time: with 256, HOG took six times as long, out of the cache
CELL, BINS = 16, 9  # of HOG: pixels of a cell's side, orientations in half a turn
TIMES_CHANCE: Final = 3.0
CONFIDENCE: Final = 0.95
POOLED: Final = "pooled"
USUAL: Final = "VIS-500m"  # the gallery domain of synthetic data

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


# -- a crop as a vector: (B, HEIGHT, WIDTH, 3) float32 in 0..1 -> (B, D)


def brightness(pictures: F32) -> F32:
    """The mean grey value: (B, 1)."""
    means: F32 = _grey(pictures).mean(axis=(1, 2))
    return means[:, None]


def mean_colour(pictures: F32) -> F32:
    """The mean of red, green and blue: (B, 3); of a grey band three times the same."""
    means: F32 = pictures.mean(axis=(1, 2))
    return means


def thumbnail(rows: int, columns: int) -> Callable[[F32], F32]:
    """A baseline: rows x columns grey values, standardised: (B, rows * columns)."""

    def describe(pictures: F32) -> F32:
        grey = _grey(pictures).reshape(-1, rows, HEIGHT // rows, columns, WIDTH // columns)
        flat: F32 = grey.mean(axis=(2, 4)).reshape(len(pictures), -1)
        flat -= flat.mean(axis=1, keepdims=True)
        flat /= np.maximum(flat.std(axis=1, keepdims=True), np.float32(1e-6))  # a picture of one value: zeros
        return flat

    return describe


def hog(pictures: F32) -> F32:
    """Histograms of unsigned gradient orientation in cells of CELL pixels, blocks of 2x2 cells normalised: (B, 756).

    Votes are shared between the two nearest orientations; not between cells.
    """
    import cv2

    grey = _grey(pictures)
    count, rows, columns = len(grey), HEIGHT // CELL, WIDTH // CELL
    dx, dy = np.zeros_like(grey), np.zeros_like(grey)
    dx[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    dy[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    length, angle = cv2.cartToPolar(dx.ravel(), dy.ravel())  # 0..2 pi
    length = length.reshape(grey.shape)
    at: F32 = angle.reshape(grey.shape) * np.float32(BINS / np.pi) + np.float32(BINS - 0.5)  # bin centres are whole
    below = at.astype(np.int32)
    at -= below
    upper = length * at
    length -= upper
    below %= BINS
    cell = np.arange(HEIGHT)[:, None] // CELL * columns + np.arange(WIDTH)[None] // CELL
    place = (np.arange(count)[:, None, None] * (rows * columns) + cell) * (BINS + 1) + below
    size = count * rows * columns * (BINS + 1)
    votes = np.bincount(place.ravel(), length.ravel(), size)
    votes[1:] += np.bincount(place.ravel(), upper.ravel(), size)[:-1]
    cells = votes.reshape(count, rows, columns, BINS + 1)
    cells[..., 0] += cells[..., BINS]  # beyond the last orientation is the first
    cells = cells[..., :BINS]
    blocks = np.concatenate([cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:]], axis=3)
    blocks /= np.sqrt((blocks**2).sum(axis=3, keepdims=True)) + 1e-3
    return blocks.reshape(count, -1).astype(np.float32)


def _grey(pictures: F32) -> F32:
    grey: F32 = pictures @ np.array([0.299, 0.587, 0.114], np.float32)
    return grey


# -- templates against templates: (g, D), (p, D) -> (p,) position of the nearest in the gallery


def plain(gallery: F64, probes: F64) -> I64:
    """The greatest cosine; of equal ones the first."""
    nearest: I64 = (_unit(probes) @ _unit(gallery).T).argmax(axis=1)
    return nearest


def centred(gallery: F64, probes: F64) -> I64:
    """The greatest cosine once each domain's mean template is taken off."""
    return plain(gallery - gallery.mean(axis=0), probes - probes.mean(axis=0))


def distance(gallery: F64, probes: F64) -> I64:
    """The least Euclidean distance once each domain is centred, and scaled to unit spread."""
    g, p = (_unit((t - t.mean(axis=0)).reshape(1, -1)).reshape(t.shape) * np.sqrt(len(t)) for t in (gallery, probes))
    nearest: I64 = ((p[:, None] - g[None]) ** 2).sum(axis=2).argmin(axis=1)
    return nearest


def _unit(vectors: F64) -> F64:
    """Rows of length 1; a row without length stays as it is."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 1e-12, length, 1)


Search = Callable[[F64, F64], I64]
COSINES: Final[tuple[Search, ...]] = (plain, centred)
BASELINES: Final[dict[str, tuple[Callable[[F32], F32], tuple[Search, ...]]]] = {
    "brightness": (brightness, (distance,)),  # one number has no angle
    "mean colour": (mean_colour, COSINES),
    "8x8 thumbnail": (thumbnail(8, 8), COSINES),
    "16x8 thumbnail": (thumbnail(16, 8), COSINES),
    "HOG": (hog, COSINES),
}
"""Name -> how a crop becomes a vector, and the ways to search.

`brightness` is needed besides mean colour, which cannot fail the guard in a grey band: centred grey templates have two
directions only, so that cosine names at most two people, however well brightness would separate them.
"""
GUARDED: Final = ("brightness", "mean colour", "8x8 thumbnail")
"""These must stay near chance from the gallery domain to every thermal one. The others are reported, not judged."""


def upper_bound(k: int, n: int, confidence: float = CONFIDENCE) -> float:
    """The exact binomial (Clopper-Pearson) upper bound of a share k of n, one-sided; 1 where n is 0.

    >>> round(upper_bound(0, 10), 3)
    0.259
    """
    from scipy.special import betaincinv

    return 1.0 if k >= n else float(betaincinv(k + 1, n - k, confidence))


@dataclass(frozen=True)
class TrivialRow:
    """Rank-1 of one baseline from the gallery domain to a probe domain, in one split or POOLED over all.

    n: probe templates with a mate. unmated: those without, not searched. expected: how many a guess would find, each 1
    in the gallery's size. found: by way of searching, how many found their mate.
    """

    baseline: str
    probe_domain: str
    split: str
    n: int
    unmated: int
    expected: float
    found: dict[str, int]

    @property
    def k(self) -> int:
        """Found by the best way of searching."""
        return max(self.found.values())

    @property
    def ratio(self) -> float:
        """k against what a guess would find; 0 where nothing was searched."""
        return self.k / self.expected if self.expected else 0.0

    def plain(self) -> dict[str, Any]:
        """The same for JSON."""
        share, chance = (self.k / self.n, self.expected / self.n) if self.n else (None, None)
        more = {"k": self.k, "rank1": share, "chance": chance, "times_chance": self.ratio}
        bounds = {"wilson": list(wilson(self.k, self.n)), "upper": upper_bound(self.k, self.n)}
        return vars(self) | more | bounds


@dataclass(frozen=True)
class Guard:
    """Rank-1 of trivial features. rows: by baseline, probe domain and split, each POOLED after its splits."""

    gallery_domain: str
    crops: int
    rows: tuple[TrivialRow, ...]

    @property
    def judged(self) -> tuple[TrivialRow, ...]:
        """The pooled rows that must stay below TIMES_CHANCE: GUARDED baselines in thermal domains."""
        pooled = (row for row in self.rows if row.split == POOLED and row.baseline in GUARDED and row.n)
        return tuple(row for row in pooled if Domain.parse(row.probe_domain).band.is_thermal)

    @property
    def holds(self) -> bool:
        """Whether every judged row is below TIMES_CHANCE; False where there is none to judge."""
        return bool(self.judged) and all(row.k < TIMES_CHANCE * row.expected for row in self.judged)

    def plain(self) -> dict[str, Any]:
        """The same for JSON."""
        facts = {"gallery_domain": self.gallery_domain, "crops": self.crops, "holds": self.holds}
        return facts | {"rows": [row.plain() for row in self.rows]}

    def lines(self, splits: bool = True) -> list[str]:
        """The same as a table of text, and the verdict. splits: a row for each, not only for all pooled."""
        head = f"{'baseline':15}{'probes':10}{'split':8}{'rank-1':>9}{'':8}{'95 % (Wilson)':>15}"
        lines = [f"{head}{'at most':>9}{'chance':>8}{'times':>7}  {'by way of searching'}"]
        for row in self.rows:
            if not splits and row.split != POOLED:
                continue
            low, high = wilson(row.k, row.n)
            share, chance = (f"{100 * v / row.n:.1f} %" if row.n else "-" for v in (row.k, row.expected))
            ways = ", ".join(f"{name} {k}" for name, k in row.found.items())
            lines.append(
                f"{row.baseline:15}{row.probe_domain:10}{row.split:8}{f'{row.k}/{row.n}':>9}{share:>8}"
                f"{f'{100 * low:.1f}..{100 * high:.1f} %':>15}{f'{100 * upper_bound(row.k, row.n):.1f} %':>9}"
                f"{chance:>8}{row.ratio:>7.2f}  {ways}"
            )
        return [*lines, self.verdict]

    @property
    def verdict(self) -> str:
        """One line: whether the guard holds, and what breaks it."""
        rule = f"below {TIMES_CHANCE:g} times chance from {self.gallery_domain} to MWIR and LWIR, splits pooled"
        if not self.judged:
            return f"the guard has nothing to judge: no mated thermal probe ({rule})"
        broken = [row for row in self.judged if row.k >= TIMES_CHANCE * row.expected]
        words = ", ".join(f"{r.baseline} to {r.probe_domain} {r.k}/{r.n}, {r.ratio:.1f} times" for r in broken)
        return f"the guard is broken: {words} ({rule})" if broken else f"the guard holds: {', '.join(GUARDED)} {rule}"


def guard(run: Run, gallery_domain: str = USUAL) -> Guard:
    """What the baselines recognise among the body crops of the run's manifest, in the splits train and test.

    A gallery is the templates of one split in `gallery_domain`; every other domain is searched in it. Raises DataError
    where there is no manifest, no body crop in that domain, or a crop that does not decode; StoreError.
    """
    rows = _body_rows(run, gallery_domain)
    names = {name: rows[name].unique().to_pylist() for name in ("split", "domain", "subject_id")}
    sizes = tuple(len(values) for values in names.values())
    codes = [_codes(rows[name], values) for name, values in names.items()]
    group = np.ravel_multi_index(tuple(codes), sizes)  # one template each
    count = np.bincount(group, minlength=int(np.prod(sizes))).reshape(sizes)
    templates: dict[str, F64] = {}
    for start, pictures in _pictures(run.path, rows):
        for name, (describe, _) in BASELINES.items():
            vectors = describe(pictures)
            sums = templates.setdefault(name, np.zeros((count.size, vectors.shape[1])))
            np.add.at(sums, group[start : start + len(vectors)], vectors)
    found = []
    for name, (_, ways) in BASELINES.items():
        means = (templates[name] / np.maximum(count, 1).reshape(-1, 1)).reshape(*sizes, -1)
        for domain in sorted(set(names["domain"]) - {gallery_domain}, key=by_wavelength):
            at = names["domain"].index(gallery_domain), names["domain"].index(domain)
            by_split = [
                _search(name, domain, split, ways, means[s][list(at)], count[s][list(at)] > 0)
                for s, split in enumerate(names["split"])
            ]
            found += [row for row in by_split if row.n or row.unmated] + [_pooled(by_split)]
    return Guard(gallery_domain, rows.num_rows, tuple(found))


def _body_rows(run: Run, gallery_domain: str) -> pa.Table:
    """The body crops of train and test in an order of their own, subjects sorted: rows may come in any order."""
    none = f"{run.path}: expected a run folder with a manifest, found none; run `mdfpipe run` first"
    run.needed("manifest", "manifest", none)
    wanted = ["crop_id", "subject_id", "domain", "modality", "split", "shard", "offset", "size", CHECKSUM, "codec"]
    rows = run.table("manifest", "manifest", wanted)
    for name in ("modality", "split"):
        rows = rows.set_column(rows.column_names.index(name), name, rows[name].cast(pa.string()))
    chosen = pc.and_(pc.equal(rows["modality"], "body"), pc.is_in(rows["split"], pa.array(["train", "test"])))
    rows = rows.filter(chosen)
    domains = sorted(rows["domain"].unique().to_pylist())
    if gallery_domain not in domains:
        raise DataError(
            f"{run.part('manifest', 'manifest')}: expected body crops of train or test in the gallery domain "
            f"{gallery_domain}, got the domains {', '.join(domains) or 'none'}; name one of these"
        )
    order = [("split", "ascending"), ("subject_id", "ascending"), ("crop_id", "ascending")]
    return rows.take(pc.sort_indices(rows, order))


def _codes(column: pa.ChunkedArray, values: list[str]) -> I64:
    found: I64 = pc.index_in(column, value_set=pa.array(values)).to_numpy().astype(np.int64)
    return found


def _search(
    baseline: str, domain: str, split: str, ways: tuple[Search, ...], means: F64, present: NDArray[np.bool_]
) -> TrivialRow:
    """Search probes in a gallery. means: (2, subjects, D) of gallery and probes; present: (2, subjects)."""
    enrolled, mated = np.flatnonzero(present[0]), np.flatnonzero(present.all(axis=0))
    unmated = int(present[1].sum()) - len(mated)
    found = dict.fromkeys((way.__name__ for way in ways), 0)
    if len(mated):
        for way in ways:
            best = enrolled[way(means[0, enrolled], means[1, mated])]
            found[way.__name__] = int((best == mated).sum())
    return TrivialRow(baseline, domain, split, len(mated), unmated, len(mated) / max(len(enrolled), 1), found)


def _pooled(rows: list[TrivialRow]) -> TrivialRow:
    """The sum over splits: each way for itself, so that the best way is one and the same in all of them."""
    one = rows[0]
    found = {way: sum(row.found[way] for row in rows) for way in one.found}
    n, unmated = sum(row.n for row in rows), sum(row.unmated for row in rows)
    return TrivialRow(one.baseline, one.probe_domain, POOLED, n, unmated, sum(row.expected for row in rows), found)


# -- reading


def _pictures(folder: Path, rows: pa.Table) -> Iterator[tuple[int, F32]]:
    """(first row, (b, HEIGHT, WIDTH, 3) float32 in 0..1) of BLOCK crops at a time."""
    for start in range(0, rows.num_rows, BLOCK):
        block = rows.slice(start, BLOCK).to_pylist()
        yield start, np.stack([_picture(folder, row) for row in block])


def _picture(folder: Path, row: dict[str, Any]) -> F32:
    """One crop, as input of every baseline. Values above 8 bits: the 1st to 99th percentile of the crop to 0..1."""
    import cv2

    shard = folder / row["shard"]
    data = read_crop(shard, row["offset"], row["size"], row.get(CHECKSUM))
    try:
        image = decode_at(data, HEIGHT, WIDTH)
    except Spoilt as error:
        raise DataError(f"{shard}: crop {row['crop_id']}: {error}; delete the shard and run crop again") from None
    low, high = np.percentile(image, (1, 99)) if image.dtype != np.uint8 else (0.0, 255.0)
    shown = cv2.resize(scaled(image, low, high, 1), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    small = np.clip(shown, 0, 1).astype(np.float32)
    rgb: F32 = np.repeat(small[..., None], 3, axis=2) if small.ndim == 2 else small[..., ::-1]
    return rgb
