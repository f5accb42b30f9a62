"""Which crops make a batch: domain-aware, by identity, one by one, tuples, and two samplers side by side.

Every sampler is a function of (seed, epoch): an epoch's order depends on nothing that was asked for before, and a
training that resumes gets the same batches. Rows are positions in the whole `Crops`, also where `sources` (0 the
study's own manifest, 1.. further ones) leaves some out.

`evenly_over` says how the crops of a subject, or of a subject in a domain, are drawn. crops: each is as likely as any
other, as the samplers of the papers draw. videos: by a video first, then a frame of it, as far as there are several, or
the longest video would own the training (METHODS 1.3). A video has one domain: over a whole subject, evenly over videos
is evenly over domains as well, where each has as many videos.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.learning.data.batches import ANCHOR, AUXILIARY, NEGATIVE, PLAIN, POSITIVE, Draw, Sampler

if TYPE_CHECKING:
    from mdfpipe.learning.data.crops import Crops

Places: TypeAlias = NDArray[np.int64]
Evenly: TypeAlias = Literal["crops", "videos"]
"""What of a subject the crops of a batch are drawn evenly over."""


# -- what comes when a cell is visited: a subject's crops in a domain, say


class Cells:
    """Crops by cell and, within a cell, by video; gives `each` crops of a cell at a visit.

    A visit goes over the videos of its cell in rounds: every video gives one crop, then every video that has a second
    one, and so on; once a cell is used up, it begins again. Which videos give in the last, incomplete round is drawn.
    So what the complete rounds take from each video is the same at every visit, and known beforehand.

    rows, cell: (n,) sorted by cell and video; cells are numbered from 0 without gaps.
    """

    def __init__(self, rows: Places, cell: Places, video: Places, each: int) -> None:
        order = np.lexsort((video, cell))
        self.rows: Places = rows[order]
        self.cell: Places = cell[order]
        video = video[order]
        new = np.ones(len(rows), bool)
        new[1:] = (self.cell[1:] != self.cell[:-1]) | (video[1:] != video[:-1])
        start = np.flatnonzero(new)
        size = np.diff(start, append=len(rows))
        # the largest videos of a cell first: who takes part in a round are the first so many
        largest_first = np.lexsort((-size, self.cell[start]))
        self._start: Places = start[largest_first]
        self._size: Places = size[largest_first]
        number = np.empty_like(largest_first)
        number[largest_first] = np.arange(len(start))
        self._run = np.cumsum(new) - 1
        self._video = number[self._run]
        self._first = np.searchsorted(self.cell[start], np.arange(self.cell[-1] + 2))
        self.count, self.each = len(self._first) - 1, each
        self._plan()

    def _plan(self) -> None:
        """_full: (cells, each) videos that give in complete rounds, before column _fixed; _among: how many videos, from
        the cell's first on, the rest is drawn from."""
        first, each = self._first[:-1], self.each
        owner = np.repeat(np.arange(len(first)), np.diff(self._first))
        holding = np.bincount(owner * each + np.minimum(self._size, each) - 1, minlength=len(first) * each)
        # (cells, each + 1): how many videos have more than so many crops
        deep = np.pad(holding.reshape(-1, each)[:, ::-1].cumsum(axis=1)[:, ::-1], ((0, 0), (0, 1)))
        cells = np.arange(len(first))
        depth, turn = np.zeros_like(cells), np.zeros_like(cells)
        self._full = np.empty((len(cells), each), np.int64)
        for column in range(each):
            self._full[:, column] = first + turn
            turn += 1
            over = turn == deep[cells, depth]
            turn[over] = 0
            depth[over] += 1
            depth[deep[cells, depth] == 0] = 0
        self._fixed, self._among = each - turn, deep[cells, depth]

    def draw(self, generator: np.random.Generator, visits: Places) -> Places:
        """(M, each) rows for M visited cells, in random order; a video's frames come up equally often in all."""
        fixed = self._fixed[visits][:, None]
        drawn = self._first[visits][:, None] + _distinct(generator, self._among[visits], self.each)
        column = np.arange(self.each)
        drawn = np.take_along_axis(drawn, np.maximum(column - fixed, 0), axis=1)
        videos = generator.permuted(np.where(column < fixed, self._full[visits], drawn), axis=1)
        return self._frames(generator, videos.ravel()).reshape(videos.shape)

    def _frames(self, generator: np.random.Generator, videos: Places) -> Places:
        """(m,) a row of each of these videos: each video's rows shuffled, then one after the other, round and round."""
        shuffled = generator.permutation(len(self.rows))
        shuffled = self.rows[shuffled[np.argsort(self._run[shuffled], kind="stable")]]
        order = np.argsort(videos, kind="stable")
        count = np.bincount(videos, minlength=len(self._start))
        turn = np.empty_like(videos)
        turn[order] = np.arange(len(videos)) - np.repeat(np.cumsum(count) - count, count)
        found: Places = shuffled[self._start[videos] + turn % self._size[videos]]
        return found

    def other(self, generator: np.random.Generator, places: Places) -> Places:
        """(m,) rows of the cells of the crops at `places` (positions in `rows`): of another video, else another crop of
        the only one, else the same crop."""
        own, cell = self._video[places], self.cell[places]
        first, count = self._first[cell], np.diff(self._first)[cell]
        drawn = first + generator.integers(0, np.maximum(count - 1, 1))
        video: Places = np.where(count > 1, drawn + (drawn >= own), own)
        start, size = self._start[video], self._size[video]
        within = (count == 1) & (size > 1)
        frame: Places = start + generator.integers(0, size - within)
        found: Places = self.rows[frame + (within & (frame >= places))]
        return found


class Pools:
    """Crops by cell, from any video; gives `each` crops of a cell at a visit.

    The visits of an epoch go over the cell's crops in rounds, each round in an order of its own, so that a visit is a
    plain draw without replacement: every choice of `each` crops is as likely as any other. A cell of fewer crops gives
    all of them at each visit, as often as it takes.

    rows, cell: (n,); cells are numbered from 0 without gaps.
    """

    def __init__(self, rows: Places, cell: Places, each: int) -> None:
        order = np.argsort(cell, kind="stable")
        self.rows: Places = rows[order]
        self._first = np.searchsorted(cell[order], np.arange(cell.max() + 2))
        self.count, self.each = len(self._first) - 1, each

    def draw(self, generator: np.random.Generator, visits: Places) -> Places:
        """(M, each) rows for M visited cells, in random order; a cell's crops come up equally often in all."""
        found = np.empty((len(visits), self.each), np.int64)
        order = np.argsort(visits, kind="stable")
        ends = np.searchsorted(visits[order], np.arange(self.count + 1))
        for cell in np.flatnonzero(np.diff(ends)).tolist():
            at, size = order[ends[cell] : ends[cell + 1]], int(self._first[cell + 1] - self._first[cell])
            whole, rest = divmod(self.each, size)
            drawn = np.tile(np.arange(size), (len(at), whole))
            if rest:
                drawn = np.hstack([drawn, turns(generator, size, len(at), rest).reshape(len(at), rest)])
            found[at] = self.rows[self._first[cell] + generator.permuted(drawn, axis=1)]
        return found


def turns(generator: np.random.Generator, count: int, batches: int, size: int) -> Places:
    """(batches * size,) numbers below count: shuffled rounds of all of them, none twice in a batch."""
    rounds = -(-batches * size // count)
    found = generator.permuted(np.tile(np.arange(count), (rounds, 1)), axis=1)
    for number in range(1, rounds):
        if begun := number * count % size:  # the round begins inside a batch
            _keep_apart(found[number], found[number - 1, -begun:], size - begun)
    return found.ravel()[: batches * size]


def _keep_apart(numbers: Places, taken: Places, head: int) -> None:
    """Reorder a shuffled round in place, so that its first `head` are none of `taken`; else the order stays."""
    if np.isin(numbers[:head], taken).any():
        first = np.zeros(len(numbers), bool)
        first[np.flatnonzero(~np.isin(numbers, taken))[:head]] = True
        numbers[:] = np.concatenate([numbers[first], numbers[~first]])


def _distinct(generator: np.random.Generator, among: Places, count: int) -> Places:
    """(m, count) numbers below among (m,), drawn without replacement; columns from `among` on mean nothing."""
    drawn = np.empty((len(among), count), np.int64)
    for column in range(count):
        number = generator.integers(0, np.maximum(among - column, 1))
        for earlier in np.sort(drawn[:, :column], axis=1).T:
            number += number >= earlier
        drawn[:, column] = number
    return drawn


# -- samplers


class _ByIdentity:
    """P subjects a batch, each with `parts` cells of crops; a subject's cells follow one another."""

    def __init__(self, cells: Cells | Pools, parts: int, subjects: int, seed: int) -> None:
        self._cells, self._parts, self._subjects, self._seed = cells, parts, subjects, seed
        self._count, self._size = cells.count // parts, subjects * parts * cells.each

    def __len__(self) -> int:
        return math.ceil(len(self._cells.rows) / self._size)

    def epoch(self, number: int) -> Iterator[Draw]:
        """The batches of epoch `number`, from 0."""
        generator = _generator(self._seed, number)
        who = turns(generator, self._count, len(self), self._subjects)
        cell = who[:, None] * self._parts + np.arange(self._parts)
        rows = self._cells.draw(generator, cell.ravel()).reshape(len(self), self._size)
        return (Draw.plain(row) for row in rows)


class DomainAware(_ByIdentity):
    """P subjects x D domains x K crops, of subjects that have crops in every domain in use ([P] IV-C, METHODS 1.3).

    crops: labels; subjects: P; crops_each: K; domains: names of those in use, by default all that the crops have.
    A batch is ordered by subject (as drawn), domain (as in `domains`), draw. Subjects are drawn without replacement
    until all have been used, and never twice for one batch. The K crops of a subject and domain are distinct wherever
    there are K; evenly over videos, they come from different ones as far as there are, and a video's frames come up
    equally often in an epoch. An epoch draws as many crops as the eligible subjects have: ceil(their crops / (P D K))
    batches.

    eligible: codes of these subjects; left_out: names of the others, with the domains that they lack.
    Raises DataError for fewer than P or than two of them, and for a domain without crops.
    """

    def __init__(
        self,
        crops: Crops,
        *,
        subjects: int,
        crops_each: int,
        seed: int,
        domains: Sequence[str] | None = None,
        sources: Sequence[int] | None = (0,),
        evenly_over: Evenly = "videos",
    ) -> None:
        whole = _Complete.of(crops, domains, sources)
        _check_counts(len(whole.eligible), subjects, crops_each, whole.subjects)
        self.eligible, self.left_out = whole.eligible, whole.left_out
        cells = _drawn_from(crops, whole.rows, whole.cell, crops_each, evenly_over)
        super().__init__(cells, whole.domains, subjects, seed)


class RandomIdentity(_ByIdentity):
    """P subjects x K' crops of any domain: subjects that lack a domain take part ([O] METHODS 1.3).

    crops: labels; subjects: P; crops_each: K' (D K for the batch size of `DomainAware`). A visit to a subject is a
    plain draw of K' of its crops, so that its domains come up as its crops have them; each crop comes up equally often
    in an epoch. Everything else as there: turns of subjects, ceil(crops / (P K')) batches. Raises DataError for fewer
    than P subjects.
    """

    def __init__(
        self,
        crops: Crops,
        *,
        subjects: int,
        crops_each: int,
        seed: int,
        sources: Sequence[int] | None = None,
        evenly_over: Evenly = "crops",
    ) -> None:
        rows = _rows_of(crops, sources)
        self.eligible, who = np.unique(crops.subject[rows], return_inverse=True)
        _check_counts(len(self.eligible), subjects, crops_each, "subjects")
        super().__init__(_drawn_from(crops, rows, who, crops_each, evenly_over), 1, subjects, seed)


class Uniform:
    """Every crop once an epoch, shuffled, `size` at a time; many anchors have no positive then.

    The incomplete last batch is dropped. Raises DataError for one subject, and for too few crops.
    """

    def __init__(self, crops: Crops, *, size: int, seed: int, sources: Sequence[int] | None = None) -> None:
        if size < 2:
            raise ConfigError(f"sampler: expected batches of at least 2 crops, got {size}")
        self._rows = _rows_of(crops, sources)
        _check_counts(len(np.unique(crops.subject[self._rows])), 2, 1, "subjects")
        count = len(self._rows)
        if count < size:
            raise DataError(f"sampler: expected at least {size} crops for a batch, got {count}: lower its size")
        self._size, self._seed = size, seed

    def __len__(self) -> int:
        return len(self._rows) // self._size

    def epoch(self, number: int) -> Iterator[Draw]:
        """The batches of epoch `number`, from 0."""
        rows = _generator(self._seed, number).permutation(self._rows)
        return (Draw.plain(batch) for batch in rows[: len(self) * self._size].reshape(len(self), self._size))


class Joint:
    """A draw of one sampler followed by a draw of another, as one batch (SYNTH 9: four-band and visible-only crops).

    The epochs are `own`'s; `further` goes round: batch b of epoch e takes its draw e len(own) + b, counted through its
    epochs, so nothing of it is skipped where its epochs are longer.
    """

    def __init__(self, own: Sampler, further: Sampler) -> None:
        self._own, self._further = own, further
        self.left_out: dict[str, list[str]] = getattr(own, "left_out", {})

    def __len__(self) -> int:
        return len(self._own)

    def epoch(self, number: int) -> Iterator[Draw]:
        """The batches of epoch `number`, from 0."""
        for own, further in zip(self._own.epoch(number), self._round(number * len(self._own)), strict=False):
            yield Draw(*(np.concatenate([getattr(own, n), getattr(further, n)]) for n in ("row", "view", "role")))

    def _round(self, first: int) -> Iterator[Draw]:
        number, skipped = divmod(first, len(self._further))
        while True:
            yield from islice(self._further.epoch(number), skipped, None)
            number, skipped = number + 1, 0


class Tuples:
    """LCCRF's tuples (METHODS 4.2): anchor, positive and negative in each domain in use, 3 D rows a tuple.

    Anchor and positive are of one subject that has crops in every domain: different crops, evenly over videos also of
    different ones where there are, and the same crop only where the subject has no other in the domain. Each domain's
    negative is of a subject drawn alone, from all others that have crops there. Rows are ordered by tuple, domain
    (as in `domains`), role; `Draw.role` says which. An epoch walks over all crops of the first domain as anchors; its
    last batch is filled up from the walk's beginning.

    tuples: of a batch. eligible, left_out: as in `DomainAware`. Raises DataError for fewer than two such subjects or
    domains.
    """

    def __init__(
        self,
        crops: Crops,
        *,
        tuples: int,
        seed: int,
        domains: Sequence[str] | None = None,
        sources: Sequence[int] | None = (0,),
        evenly_over: Evenly = "crops",
    ) -> None:
        whole = _Complete.of(crops, domains, sources)
        if whole.domains < 2:
            raise DataError(f"tuples: expected at least 2 domains, got {whole.names}: positives are of another domain")
        if tuples < 1:
            raise ConfigError(f"sampler: expected at least 1 tuple a batch, got {tuples}")
        _check_counts(len(whole.eligible), 2, 1, whole.subjects)
        self.eligible, self.left_out = whole.eligible, whole.left_out
        video = crops.video if evenly_over == "videos" else np.zeros_like(crops.video)
        self._own = Cells(whole.rows, whole.cell, video[whole.rows], 2)
        self._walk = np.flatnonzero(self._own.cell % whole.domains == 0)
        # negatives may be of any subject: their cells are numbered by domain, then subject
        key = whole.everyone_domain * len(crops.subjects) + crops.subject[whole.everyone]
        known, cell = np.unique(key, return_inverse=True)
        self._others = Cells(whole.everyone, cell, video[whole.everyone], 1)
        edges = np.arange(whole.domains + 1) * len(crops.subjects)
        self._edges = np.searchsorted(known, edges)
        self._self = np.searchsorted(known, edges[:-1] + self.eligible[:, None])
        self._domains, self._tuples, self._seed = whole.domains, tuples, seed

    def __len__(self) -> int:
        return -(-len(self._walk) // self._tuples)

    def epoch(self, number: int) -> Iterator[Draw]:
        """The batches of epoch `number`, from 0."""
        generator, d = _generator(self._seed, number), self._domains
        walk = np.resize(generator.permutation(self._walk), len(self) * self._tuples)
        who = self._own.cell[walk] // d
        rows = np.empty((len(walk), d, 3), np.int64)
        rows[:, 0, ANCHOR] = self._own.rows[walk]
        rows[:, 0, POSITIVE] = self._own.other(generator, walk)
        cell = who[:, None] * d + np.arange(1, d)
        rows[:, 1:, :NEGATIVE] = self._own.draw(generator, cell.ravel()).reshape(len(walk), d - 1, 2)
        # one subject fewer is drawn from; those from the anchor's own place on move up
        subject = generator.integers(self._edges[:-1], self._edges[1:] - 1, (len(walk), d))
        subject += subject >= self._self[who]
        rows[:, :, NEGATIVE] = self._others.draw(generator, subject.ravel()).reshape(len(walk), d)
        role = np.tile(np.array([ANCHOR, POSITIVE, NEGATIVE], np.int8), d * self._tuples)
        return (Draw(row, np.full(len(row), PLAIN, np.int8), role) for row in rows.reshape(len(self), -1))


class WithAuxiliary:
    """A sampler, with a second view of each drawn row of some domains (DI2L 3.1: of visible light).

    domain: (n,) of all crops; of: the domains' codes. Each follows its own row, with its role, so that the
    shares of several processes hold as many of them as the batch's subjects do.
    """

    def __init__(self, sampler: Sampler, domain: Places, of: Collection[int]) -> None:
        self._sampler, self._twice = sampler, np.isin(domain, sorted(of))
        self.left_out: dict[str, list[str]] = getattr(sampler, "left_out", {})

    def __len__(self) -> int:
        return len(self._sampler)

    def epoch(self, number: int) -> Iterator[Draw]:
        """The batches of epoch `number`, from 0."""
        for draw in self._sampler.epoch(number):
            views = 1 + (self._twice[draw.row] & (draw.view == PLAIN))
            view = draw.view.repeat(views)
            view[(np.cumsum(views) - 1)[views == 2]] = AUXILIARY
            yield Draw(draw.row.repeat(views), view, draw.role.repeat(views))


def _generator(seed: int, epoch: int) -> np.random.Generator:
    """The epoch is a key of its own, not a summand: seed 0's epoch 1 must not be seed 1's epoch 0."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))


def _drawn_from(crops: Crops, rows: Places, cell: Places, each: int, evenly_over: Evenly) -> Cells | Pools:
    return Cells(rows, cell, crops.video[rows], each) if evenly_over == "videos" else Pools(rows, cell, each)


def _rows_of(crops: Crops, sources: Sequence[int] | None) -> Places:
    """(n,) positions of the crops of these sources; None: of all. Raises DataError for none."""
    rows = np.arange(len(crops.subject)) if sources is None else np.flatnonzero(np.isin(crops.source, list(sources)))
    if not len(rows):
        named = "" if sources is None else f" of source {', '.join(map(str, sources)) or '(none named)'}"
        raise DataError(
            f"sampler: expected crops{named}, got none among {len(crops.subject)} (source 0: the study's own manifest, "
            "1 and up: further ones): check the manifests and the protocol's training subjects"
        )
    return rows


def _check_counts(found: int, subjects: int, crops_each: int, what: str) -> None:
    if subjects < 2 or crops_each < 1:
        raise ConfigError(f"sampler: expected at least 2 subjects and 1 crop each, got {subjects} and {crops_each}")
    if found < 2:
        raise DataError(
            f"sampler: expected at least 2 {what}, got {found}: one subject alone cannot be distinguished from others"
        )
    if found < subjects:
        raise DataError(
            f"sampler: expected at least {subjects} {what}, got {found}: set batches.subjects to {found} or less"
        )


@dataclass(frozen=True, eq=False)
class _Complete:
    """The crops of subjects that have all domains in use.

    rows: (n,) of them in these domains; cell: (n,) = place in `eligible` * domains + place of the domain. everyone: the
    rows of all subjects in these domains, everyone_domain: places of their domains. names: of the domains.
    """

    rows: Places
    cell: Places
    eligible: Places
    left_out: dict[str, list[str]]
    everyone: Places
    everyone_domain: Places
    domains: int
    names: str

    @property
    def subjects(self) -> str:
        return f"subjects with crops in all of {self.names} ({len(self.left_out)} lack some)"

    @classmethod
    def of(cls, crops: Crops, domains: Sequence[str] | None, sources: Sequence[int] | None) -> _Complete:
        rows = _rows_of(crops, sources)
        used = _domains_in_use(crops, rows, domains)
        place = np.full(len(crops.domains), -1)
        place[used] = np.arange(len(used))
        takes_part = np.unique(crops.subject[rows])
        everyone = rows[place[crops.domain[rows]] >= 0]
        where = place[crops.domain[everyone]]
        has = np.zeros((len(crops.subjects), len(used)), bool)
        has[crops.subject[everyone], where] = True
        lacking = takes_part[~has[takes_part].all(axis=1)]
        left_out = {
            str(crops.subjects[s]): [str(crops.domains[used[d]]) for d in np.flatnonzero(~has[s])] for s in lacking
        }
        eligible = np.flatnonzero(has.all(axis=1))
        names = ", ".join(str(crops.domains[d]) for d in used)
        if not len(eligible):
            lacks = (~has[takes_part]).sum(axis=0)
            missing = ", ".join(f"{crops.domains[d]} for {n}" for d, n in zip(used, lacks, strict=True) if n)
            raise DataError(
                f"sampler: expected subjects with crops in all of {names}, got none of {len(takes_part)}: missing are "
                f"{missing}; leave a domain out, or draw without regard to domain"
            )
        number = np.full(len(crops.subjects), -1)
        number[eligible] = np.arange(len(eligible))
        chosen = number[crops.subject[everyone]] >= 0
        cell = number[crops.subject[everyone[chosen]]] * len(used) + where[chosen]
        return cls(everyone[chosen], cell, eligible, left_out, everyone, where, len(used), names)


def _domains_in_use(crops: Crops, rows: Places, domains: Sequence[str] | None) -> Places:
    """(D,) codes, in the order asked for. Raises DataError for a domain without crops."""
    present = np.unique(crops.domain[rows])
    if domains is None:
        return present
    code = {str(name): number for number, name in enumerate(crops.domains)}
    asked = list(dict.fromkeys(map(str, domains)))
    empty = [name for name in asked if code.get(name) not in present.tolist()]
    if empty or not asked:
        raise DataError(
            f"sampler: expected crops in every domain in use, got none in {', '.join(empty) or '(no domain named)'}; "
            f"there are some in {', '.join(str(crops.domains[d]) for d in present)}"
        )
    return np.array([code[name] for name in asked])
