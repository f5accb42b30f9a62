"""Scorer: the two sides of a search, compared by vectors or by the fused scores of several systems."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np

from mdfpipe.errors import ProtocolError
from mdfpipe.evaluation.comparing import (
    F64,
    I64,
    Affine,
    Array,
    Entries,
    Flags,
    GivenScores,
    Measure,
    Pairing,
    Removal,
    Scores,
    vector_scores,
)
from mdfpipe.evaluation.fusion import Scale, ScoreFusion, common, fit_score_fusion
from mdfpipe.evaluation.measures.calibration import PairCounts, count_at_least, tally
from mdfpipe.evaluation.measures.verification import Roc, verify, verify_scores
from mdfpipe.evaluation.search import Ranking, search, search_scores
from mdfpipe.evaluation.within import Sessions
from mdfpipe.store.templates import Templates

MOST_PAIRS: Final = 1 << 24  # of scores that are held at a time: for fusion, for intervals of verification, to be kept


@dataclass(frozen=True, eq=False)
class Scorer:
    """gallery, probes: every template that should be there, failures among them. trained: the system's training "
    "subjects.

    given: (gallery places, probe places) -> (P, G) scores, where they do not come from the templates' own vectors.
    sessions: where both sides are one domain. affine: of all templates, a norm or calibration of the scores.
    thresholds: scores at which false matches of training subjects have a share, by that share. n_learned: how many
    non-mated training pairs they are from.
    """

    modality: str
    gallery: Templates
    probes: Templates
    measure: Measure
    trained: frozenset[str] | None = None
    given: Callable[[I64, I64], Array] | None = None
    sessions: Sessions | None = None
    affine: Affine | None = None
    thresholds: Mapping[float, float] = field(default_factory=dict)
    n_learned: int = 0

    @property
    def removal(self) -> Removal | None:
        """The rule on pairs that are left out."""
        return self.sessions.removal if self.sessions else None

    def compared(self, gallery: I64, probes: I64) -> Flags:
        """(P, G) which pairs are compared; (1, 1) where all are."""
        if self.sessions is None:
            return np.ones((1, 1), bool)
        return ~self.sessions.removal.matches(self.sessions.codes[probes][:, None], self.sessions.codes[gallery][None])

    def mated(self, among: Flags) -> Flags:
        """(P,) whether each probe has a mate among some of the gallery's templates, (G,)."""
        if self.sessions is None:
            return np.isin(self.probes.subject, self.gallery.subject[among])
        _, who = np.unique(self.gallery.subject, return_inverse=True)
        _, where = np.unique(np.stack([who, self.sessions.codes]), axis=1, return_inverse=True)
        of_subject, of_session = (np.bincount(x.reshape(-1), among)[x.reshape(-1)] for x in (who, where))
        found: Flags = of_subject > of_session
        return found

    def entries(self, gallery: I64, probes: I64) -> tuple[Entries, Entries]:
        """Both sides of a search, by places."""
        with_vectors = self.given is None
        sides = ((self.gallery, gallery), (self.probes, probes))
        subjects = [side.subject[places] for side, places in sides]
        vectors = [side.vectors[places] if with_vectors else None for side, places in sides]
        codes = [self.sessions.codes[places] if self.sessions else None for _, places in sides]
        one, other = zip(subjects, vectors, codes, strict=True)
        return Entries("gallery", *one), Entries("probes", *other)

    def search(self, gallery: I64, probes: I64, top: int) -> Ranking:
        """Search these probes among these gallery templates; those without a mate are searched, too."""
        sides = self.entries(gallery, probes)
        if self.given is None:
            affine = self.affine.at(gallery, probes) if self.affine else None
            return search(*sides, self.measure, unmated="exclude", removal=self.removal, affine=affine, top=top)
        return search_scores(self.given(gallery, probes), *sides, unmated="exclude", removal=self.removal, top=top)

    def verify(self, gallery: I64, probes: I64, failed: int) -> Roc:
        """The ROC of every pair, block by block where the scores come from vectors."""
        sides = self.entries(gallery, probes)
        if self.given is None:
            affine = self.affine.at(gallery, probes) if self.affine else None
            return verify(*sides, self.measure, removal=self.removal, affine=affine, failed=failed)
        return verify_scores(self.matrix(gallery, probes), *sides, removal=self.removal, failed=failed)

    def matrix(self, gallery: I64, probes: I64) -> Array:
        """(P, G) scores, at most MOST_PAIRS of them. Raises ProtocolError."""
        if len(gallery) * len(probes) > MOST_PAIRS:
            raise ProtocolError(
                f"expected at most {MOST_PAIRS} pairs where all scores are held at once, got {len(probes)} probes x "
                f"{len(gallery)} gallery templates; choose fewer, or larger templates"
            )
        if self.given is not None:
            return self.given(gallery, probes)
        scores = self.scores(gallery, probes)
        found = np.empty(scores.shape, np.float32)
        for first in range(0, len(found), scores.block_rows):
            last = min(first + scores.block_rows, len(found))
            found[first:last] = scores.block(first, last)
        return found

    def scores(self, gallery: I64, probes: I64) -> Scores:
        """The scores of these templates, block by block."""
        if self.given is not None:
            return GivenScores(self.matrix(gallery, probes))
        affine = self.affine.at(gallery, probes) if self.affine else None
        return vector_scores(*self.entries(gallery, probes), self.measure, affine)

    def tally(self, gallery: I64, probes: I64) -> PairCounts:
        """The scores of every pair of them, counted in bounded memory."""
        return tally(self.scores(gallery, probes), Pairing(*self.entries(gallery, probes), self.removal))

    def mates(self, gallery: I64, probes: I64) -> tuple[Array, I64, I64]:
        """The scores of all mated pairs of them, and the places of their gallery templates and probes."""
        scores, pairing = self.scores(gallery, probes), Pairing(*self.entries(gallery, probes), self.removal)
        found: list[Array] = []
        places: list[Array] = []
        for first in range(0, scores.shape[0], scores.block_rows):
            last = min(first + scores.block_rows, scores.shape[0])
            mates = pairing.mates(first, last)
            found.append(scores.block(first, last)[mates.row, mates.column])
            places.append(np.stack([gallery[mates.column], probes[mates.row + first]]))
        at = np.concatenate(places, axis=1)
        return np.concatenate(found), at[0], at[1]

    def false_matches(self, gallery: I64, probes: I64, threshold: float) -> tuple[int, int]:
        """Non-mated pairs of them at or above a threshold, and all of them."""
        pairing = Pairing(*self.entries(gallery, probes), self.removal)
        return count_at_least(self.scores(gallery, probes), pairing, threshold)


def fused_scorer(
    parts: Mapping[str, Scorer], training: Mapping[str, Scorer], scale: Scale, weights: Sequence[float] | None
) -> Scorer:
    """The weighted mean of the systems' normalised scores, of what is enrolled in all of them.

    training: the same systems on training subjects, from which scales and, without `weights`, weights are taken; where
    weights are given it may be empty, and scales are 1. Raises ProtocolError, DataError.
    """
    gallery, gallery_at = _shared({name: part.gallery for name, part in parts.items()})
    probes, probes_at = _shared({name: part.probes for name, part in parts.items()})
    fusion = _fit(parts, training, scale, weights)

    def given(g: I64, p: I64) -> F64:
        return fusion({n: part.matrix(gallery_at[n][g], probes_at[n][p]) for n, part in parts.items()})

    trained = [part.trained for part in parts.values() if part.trained is not None]
    known = frozenset().union(*trained) if trained else None
    return Scorer("fused", gallery, probes, "cosine", known, given, next(iter(parts.values())).sessions)


def _fit(
    parts: Mapping[str, Scorer], training: Mapping[str, Scorer], scale: Scale, weights: Sequence[float] | None
) -> Callable[[Mapping[str, Array]], F64]:
    if weights is not None:
        return partial(_weighted, dict(zip(parts, weights, strict=True)))
    gallery, gallery_at = _shared({name: part.gallery for name, part in training.items()})
    probes, probes_at = _shared({name: part.probes for name, part in training.items()})
    whole = Scorer("fused", gallery, probes, "cosine", sessions=next(iter(training.values())).sessions)
    g, p = np.flatnonzero(gallery.enrolled), np.flatnonzero(probes.enrolled & whole.mated(gallery.enrolled))
    if len(g) < 2 or not len(p):
        raise ProtocolError(
            "fusion by score: expected training subjects with vectors of every system, to choose weights on; add train "
            "to the systems' splits, or give weights"
        )
    codes = [whole.sessions.codes[places] if whole.sessions else None for places in (g, p)]
    entries = (
        Entries("gallery", gallery.subject[g], codes=codes[0]),
        Entries("probes", probes.subject[p], codes=codes[1]),
    )
    compared = whole.compared(g, p)

    def found(scores: F64) -> float:
        ranking = search_scores(np.where(compared, scores, 0), *entries, unmated="exclude", removal=whole.removal)
        return float((ranking.rank[ranking.counted] == 1).mean())

    fitted: ScoreFusion = fit_score_fusion(
        {
            n: np.where(compared, part.matrix(gallery_at[n][g], probes_at[n][p]), -np.inf)
            for n, part in training.items()
        },
        found,
        training_subjects=[*gallery.subject[g].tolist(), *probes.subject[p].tolist()],
        test_subjects=next(iter(parts.values())).probes.subject.tolist(),
        scale=scale,
    )
    return fitted


def _weighted(weights: Mapping[str, float], scores: Mapping[str, Array]) -> F64:
    total = sum(weights.values())
    mean: F64 = np.sum([weights[n] / total * np.asarray(s, np.float64) for n, s in scores.items()], axis=0)
    return mean


def _shared(sides: Mapping[str, Templates]) -> tuple[Templates, dict[str, I64]]:
    """Every key of any part, as templates that are enrolled where all parts are; and where each part has them.

    (A key that a part lacks is at place 0 there, and never looked at.)
    """
    both = common({name: side.take(side.enrolled).key for name, side in sides.items()})
    first = next(iter(sides.values()))
    keys = np.array(first.key, np.str_)
    if any(set(side.key) != set(first.key) for side in sides.values()):
        raise ProtocolError("fusion: expected the same templates of every system; embed the same splits with each")
    enrolled = np.isin(keys, np.array(both.keys, np.str_))
    at = {name: _places(side, keys) for name, side in sides.items()}
    nothing = np.zeros((len(keys), 1), np.float32)
    crops = np.where(enrolled, first.crops, 0)
    return replace(first, vectors=nothing, crops=crops, modality=np.full(len(keys), "fused")), at


def _places(side: Templates, keys: Array) -> I64:
    known = np.array(side.key, np.str_)
    order = np.argsort(known)
    found: I64 = order[np.searchsorted(known[order], keys)]
    return found
