"""Domain probe: how well a new linear classifier finds the domain of an embedded image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RIDGE = 0.1
"""Penalty of the ridge regression, times the mean square length of the centred vectors."""


def domain_probe(vectors: NDArray[Any], subject: NDArray[Any], domain: NDArray[Any]) -> float | None:
    """Share of images, 0..1, whose domain a ridge regression finds that was fitted on the other half of the subjects.

    Each half is asked once; domains weigh the same, in the fit and in the share, so that nothing better than chance is
    1 / domains. vectors: (N, D); subject, domain: (N,). None where the two halves have not the same two domains or
    more.
    """
    half = np.unique(subject, return_inverse=True)[1] % 2
    names, domain = np.unique(domain, return_inverse=True)
    if len(names) < 2 or any(len(set(domain[half == side])) < len(names) for side in (0, 1)):
        return None
    x = np.asarray(vectors, np.float64)
    return float(np.mean([_share(x, domain, half == side) for side in (0, 1)]))


def _share(x: NDArray[Any], domain: NDArray[Any], fit: NDArray[Any]) -> float:
    """Mean over domains of the share found among those that are not in `fit`."""
    count = np.bincount(domain[fit])
    weight = (fit.sum() / len(count) / count)[domain[fit], None]  # the mean is 1
    middle = (weight * x[fit]).mean(0)
    own, asked = np.sqrt(weight) * (x[fit] - middle), x[~fit] - middle
    wanted = np.sqrt(weight) * (np.eye(len(count))[domain[fit]] - 1 / len(count))
    penalty = RIDGE * max(float(np.square(own).sum(1).mean()), np.finfo(float).tiny)
    if len(own) < own.shape[1]:  # the same solution, by the smaller of two systems of equations
        weights = own.T @ np.linalg.solve(own @ own.T + penalty * np.eye(len(own)), wanted)
    else:
        weights = np.linalg.solve(own.T @ own + penalty * np.eye(own.shape[1]), own.T @ wanted)
    right = (asked @ weights).argmax(1) == domain[~fit]
    return float(np.mean([right[domain[~fit] == place].mean() for place in range(len(count))]))
