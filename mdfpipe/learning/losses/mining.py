"""What hard mining picks: how often it crosses domains, at which distances, what chance would pick (METHODS 1.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdfpipe.errors import DataError
from mdfpipe.learning.losses.ranking import Mined, mine

KINDS = ("positive", "negative")
STATE = {*KINDS, "skipped", "pos_other_chance", "neg_same_chance"}

Cells = dict[tuple[int, int], tuple[int, float]]
"""(anchor domain, mined domain) -> (pairs, sum of their distances)."""


def shares(features: Tensor, subject: Tensor, domain: Tensor) -> dict[str, float]:
    """pos_other and neg_same with their chances, as `MiningStatistics.result`, of all these images as one batch.

    Empty where no image has both a positive and a negative.
    """
    statistics = MiningStatistics()
    statistics.add(mine(features, subject), domain, subject)
    found = statistics.result([""] * (1 + int(domain.max())))
    names = (name + end for name in ("pos_other", "neg_same") for end in ("", "_chance"))
    return {name: found[name] for name in names if found[name] is not None}


class MiningStatistics:
    """Adds up the mined pairs of an epoch. An anchor counts where it has both a positive and a negative.

    The order of batches changes nothing but the last bits of float64 sums.
    """

    def __init__(self) -> None:
        self._cells: dict[str, Cells] = {kind: {} for kind in KINDS}
        self._skipped = 0
        self._pos_other_chance = 0.0
        self._neg_same_chance = 0.0

    def add(self, mined: Mined, domain: Tensor, subject: Tensor) -> None:
        """Count a batch. domain: (B,) int64 position in the domains in use; subject: (B,) int64 class."""
        columns = [mined.valid, mined.positive, mined.negative, mined.d_positive, mined.d_negative, domain, subject]
        # one transfer, so that the device is waited for once
        rows = torch.stack([column.detach().double() for column in columns]).cpu().numpy()
        valid = rows[0].astype(bool)
        positive, negative, domains, subjects = (rows[i].astype(np.int64) for i in (1, 2, 5, 6))
        self._count("positive", domains[valid], domains[positive[valid]], rows[3][valid])
        self._count("negative", domains[valid], domains[negative[valid]], rows[4][valid])
        self._skipped += int((~valid).sum())
        pos_other, neg_same = chances(domains, subjects)
        self._pos_other_chance += float(pos_other[valid].sum())
        self._neg_same_chance += float(neg_same[valid].sum())

    def _count(self, kind: str, anchor: NDArray[np.int64], mined: NDArray[np.int64], distance: Any) -> None:
        pairs, place = np.unique(np.stack([anchor, mined], 1), axis=0, return_inverse=True)
        counts = np.bincount(place.ravel(), minlength=len(pairs))
        sums = np.bincount(place.ravel(), weights=distance, minlength=len(pairs))
        cells = self._cells[kind]
        for (a, m), count, total in zip(pairs.tolist(), counts.tolist(), sums.tolist(), strict=True):
            old_count, old_total = cells.get((a, m), (0, 0.0))
            cells[a, m] = (old_count + count, old_total + total)

    def result(self, domains: Sequence[str]) -> dict[str, Any]:
        """The epoch's figures, ready for JSON. domains: names, in the order of the positions that were added.

        anchors, skipped: counts. pos_other: share of hardest positives in another domain than their anchor; neg_same:
        share of hardest negatives in their anchor's domain; d_pos, d_neg: mean distances. pos_other_chance,
        neg_same_chance: what a random choice among each anchor's possible ones gives in the batches that were drawn.
        These six are none where there was no anchor. positive, negative: rows of anchor and mined domain, count, and
        mean_distance, in order; pairs of domains that never occurred are left out. Raises DataError for too few names.
        """
        known = {place for cells in self._cells.values() for pair in cells for place in pair}
        if known and max(known) >= len(domains):
            raise DataError(
                f"mining statistics: expected names of at least {max(known) + 1} domains, got {len(domains)}: "
                "give the domains that the batches were numbered by"
            )
        anchors = sum(count for count, _ in self._cells["positive"].values())

        def share(total: float) -> float | None:
            return total / anchors if anchors else None

        positive, negative = self._cells["positive"], self._cells["negative"]
        return {
            "anchors": anchors,
            "skipped": self._skipped,
            "pos_other": share(sum(count for (a, m), (count, _) in positive.items() if a != m)),
            "pos_other_chance": share(self._pos_other_chance),
            "neg_same": share(sum(count for (a, m), (count, _) in negative.items() if a == m)),
            "neg_same_chance": share(self._neg_same_chance),
            "d_pos": share(math.fsum(total for _, total in positive.values())),
            "d_neg": share(math.fsum(total for _, total in negative.values())),
            **{kind: _table(self._cells[kind], domains) for kind in KINDS},
        }

    def state(self) -> dict[str, Any]:
        """Numbers and lists for a checkpoint: rows of (anchor, mined, count, sum of distances), and the sums."""
        return {
            **{kind: [[a, m, n, total] for (a, m), (n, total) in sorted(self._cells[kind].items())] for kind in KINDS},
            "skipped": self._skipped,
            "pos_other_chance": self._pos_other_chance,
            "neg_same_chance": self._neg_same_chance,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Become what `state` gave; what was added so far is gone. Raises DataError for another thing."""
        if set(state) != STATE:
            raise DataError(
                f"mining statistics: expected a state of {', '.join(sorted(STATE))}, got {', '.join(sorted(state))}: "
                "the checkpoint is another version's"
            )
        self._cells = {kind: {(int(a), int(m)): (int(n), float(d)) for a, m, n, d in state[kind]} for kind in KINDS}
        self._skipped = int(state["skipped"])
        self._pos_other_chance = float(state["pos_other_chance"])
        self._neg_same_chance = float(state["neg_same_chance"])


def chances(domain: NDArray[np.int64], subject: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of each anchor's possible positives in another domain, and of its negatives in its own.

    Both (B,), 0 where there are none to choose from. For P subjects x D domains x K images they are (D-1)K / (DK-1) and
    1 / D of every anchor.
    """
    same_subject = subject[:, None] == subject[None, :]
    same_domain = domain[:, None] == domain[None, :]
    mates, others = same_subject.sum(1) - 1, (~same_subject).sum(1)
    pos_other = (same_subject & ~same_domain).sum(1) / np.maximum(mates, 1)
    neg_same = (~same_subject & same_domain).sum(1) / np.maximum(others, 1)
    return pos_other, neg_same


def _table(cells: Cells, domains: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"anchor": domains[a], "mined": domains[m], "count": count, "mean_distance": total / count}
        for (a, m), (count, total) in sorted(cells.items())
    ]
