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
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.learning.data.batches import ANCHOR, AUXILIARY, NEGATIVE, PLAIN, POSITIVE, Draw, Sampler
from mdfpipe.learning.data.cells import Cells, Places, Pools, turns

Evenly: TypeAlias = Literal["crops", "videos"]
"""What of a subject the crops of a batch are drawn evenly over."""


class Labelled(Protocol):
    """Input of a sampler: (n,) int64 codes of the crops, and the names behind the codes."""

    @property
    def subject(self) -> Places: ...  # noqa: D102
    @property
    def domain(self) -> Places: ...  # noqa: D102
    @property
    def video(self) -> Places: ...  # noqa: D102
    @property
    def source(self) -> Places: ...  # noqa: D102
    @property
    def subjects(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def domains(self) -> Sequence[str]: ...  # noqa: D102


class _ByIdentity:
    """P subjects a batch, each with `parts` cells of crops; a subject's cells follow one another."""

    def __init__(self, cells: Cells | Pools, parts: int, subjects: int, seed: int) -> None:
        self._cells, self._parts, self._subjects, self._seed = cells, parts, subjects, seed
        self._count, self._size = cells.count // parts, subjects * parts * cells.each

    def __len__(self) -> int:
        return math.ceil(len(self._cells.rows) / self._size)

    def claims(self) -> dict[str, int]:
        """What an epoch holds: batches, crops_a_batch, subjects, and the fewest and most visits to one of them."""
        visits = len(self) * self._subjects
        return {
            "batches": len(self),
            "crops_a_batch": self._size,
            "subjects": self._count,
            "fewest_visits": visits // self._count,
            "most_visits": -(-visits // self._count),
        }

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
        crops: Labelled,
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
        crops: Labelled,
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

    The incomplete last batch is dropped, or kept (`keep_last`); a single crop that is left over then joins the batch
    before it, for nothing is learned from a batch of one. Raises DataError for one subject, and for too few crops.
    """

    def __init__(
        self,
        crops: Labelled,
        *,
        size: int,
        seed: int,
        keep_last: bool = False,
        sources: Sequence[int] | None = None,
    ) -> None:
        if size < 2:
            raise ConfigError(f"sampler: expected batches of at least 2 crops, got {size}")
        self._rows = _rows_of(crops, sources)
        _check_counts(len(np.unique(crops.subject[self._rows])), 2, 1, "subjects")
        count = len(self._rows)
        if count < size and not keep_last:
            raise DataError(f"sampler: expected at least {size} crops for a batch, got {count}: lower its size")
        self._cuts = [*range(size, count + 1, size)]
        left = count % size
        if keep_last and left:
            self._cuts[-1 if left == 1 and self._cuts else len(self._cuts) :] = [count]
        self._size, self._seed = size, seed

    def __len__(self) -> int:
        return len(self._cuts)

    def claims(self) -> dict[str, int]:
        """What an epoch holds: batches, crops_a_batch (in a full one), crops, and those dropped."""
        drawn = self._cuts[-1]
        return {
            "batches": len(self),
            "crops_a_batch": self._size,
            "crops": drawn,
            "dropped": len(self._rows) - drawn,
        }

    def epoch(self, number: int) -> Iterator[Draw]:
        """The batches of epoch `number`, from 0."""
        rows = _generator(self._seed, number).permutation(self._rows)
        return (Draw.plain(rows[begin:end]) for begin, end in zip([0, *self._cuts], self._cuts, strict=False))


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
            yield _concatenated(own, further)

    def _round(self, first: int) -> Iterator[Draw]:
        number, skipped = divmod(first, len(self._further))
        while True:
            yield from islice(self._further.epoch(number), skipped, None)
            number, skipped = number + 1, 0


class Tuples:
    """LCCRF's tuples (METHODS 4.2): anchor, positive and negative in each domain in use, 3 D rows a tuple.

    Anchor and positive are of one subject that has crops in every domain: different crops, evenly over videos also of
    different ones where there are, and the same crop only where the subject has no other in the domain. Each domain's
    negative is of a subject drawn by itself, from all others that have crops there. Rows are ordered by tuple, domain
    (as in `domains`), role; `Draw.role` says which. An epoch walks over all crops of the first domain as anchors; its
    last batch is filled up from the walk's beginning.

    tuples: of a batch. eligible, left_out: as in `DomainAware`. Raises DataError for fewer than two such subjects or
    domains.
    """

    def __init__(
        self,
        crops: Labelled,
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

    def claims(self) -> dict[str, int]:
        """What an epoch holds: batches, crops_a_batch, subjects, and anchors: crops of the first domain."""
        return {
            "batches": len(self),
            "crops_a_batch": 3 * self._domains * self._tuples,
            "subjects": len(self.eligible),
            "anchors": len(self._walk),
        }

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


def with_auxiliary(sampler: Sampler, domain: Places, of: Collection[int]) -> Sampler:
    """The sampler, with a second view of each drawn row of some domains (DI2L 3.1: of visible light).

    domain: (n,) of all crops; of: the domains' codes. Each stands right behind its own row, with its role, so that the
    shares of several processes hold as many of them as the batch's subjects do.
    """
    return _Auxiliary(sampler, np.isin(domain, sorted(of)))


class _Auxiliary:
    def __init__(self, sampler: Sampler, twice: NDArray[np.bool_]) -> None:
        self._sampler, self._twice = sampler, twice
        self.left_out: dict[str, list[str]] = getattr(sampler, "left_out", {})

    def __len__(self) -> int:
        return len(self._sampler)

    def epoch(self, number: int) -> Iterator[Draw]:
        for draw in self._sampler.epoch(number):
            views = 1 + (self._twice[draw.row] & (draw.view == PLAIN))
            view = draw.view.repeat(views)
            view[(np.cumsum(views) - 1)[views == 2]] = AUXILIARY
            yield Draw(draw.row.repeat(views), view, draw.role.repeat(views))


def _concatenated(first: Draw, second: Draw) -> Draw:
    return Draw(
        np.concatenate([first.row, second.row]),
        np.concatenate([first.view, second.view]),
        np.concatenate([first.role, second.role]),
    )


def _generator(seed: int, epoch: int) -> np.random.Generator:
    """The epoch is a key of its own, not a summand: seed 0's epoch 1 must not be seed 1's epoch 0."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))


def _drawn_from(crops: Labelled, rows: Places, cell: Places, each: int, evenly_over: Evenly) -> Cells | Pools:
    return Cells(rows, cell, crops.video[rows], each) if evenly_over == "videos" else Pools(rows, cell, each)


def _rows_of(crops: Labelled, sources: Sequence[int] | None) -> Places:
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
            f"sampler: expected at least {subjects} {what}, got {found}: set the sampler's subjects to {found} or less"
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
    def of(cls, crops: Labelled, domains: Sequence[str] | None, sources: Sequence[int] | None) -> _Complete:
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


def _domains_in_use(crops: Labelled, rows: Places, domains: Sequence[str] | None) -> Places:
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
