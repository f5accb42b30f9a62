"""Quality-aware pooling: weights of crops from their quality components, learned on training subjects.

    weight = score ** a * sharpness ** b * box_height_px ** c * norm ** d

score: confidence of the detector; norm: length of the vector. A template is the weighted mean of unit vectors, so that
exponents of 0 are their mean, and an exponent of 1 of the norm alone is `norm_weighted`. A factor that all crops of a
template share has no effect: levels of sharpness that differ by domain need no correction.

**What is learned.** The margin of a training template is the mean, over the other domains that show its subject, of its
cosine with the subject's centre there less its mean cosine with the centres of the other subjects there. The exponents
maximise the mean margin over training subjects less a ridge. The ridge is the one with the best margin of subjects that
were held out, in folds. Unless these gain two standard errors over equal weights, all exponents are 0.

A weighted mean whose weights are a softmax over the set is that of NAN (Yang et al., CVPR 2017); the few components,
and the fit, are ours. The norm tells quality in MagFace (Meng et al., CVPR 2021) and AdaFace (Kim et al., CVPR 2022);
Schlett et al. (ACM Computing Surveys 2022) list the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mdfpipe.errors import ProtocolError, counted
from mdfpipe.evaluation.comparing import F64, I64
from mdfpipe.evaluation.pooling import SHORTEST, Rule, evenly, members, pool
from mdfpipe.store.templates import B8, F32, Templates, unit

NORM: Final = "norm"
LEAST: Final = {"score": 0.01, "sharpness": 1.0, "box_height_px": 1.0, NORM: SHORTEST}
"""The components, and the value that lower ones count as: logarithms of 0 would decide everything."""
FOLDS: Final = 5
RIDGES: Final = (0.1, 0.01, 0.001)
ERRORS: Final = 2  # standard errors by which held-out subjects must gain, or crops have one weight
CROPS_A_TEMPLATE: Final = 32  # that are learned from, evenly spread in time
FEWEST_A_TEMPLATE: Final = 4  # where there are too many templates for so many
MOST_VALUES: Final = 1 << 25  # of vectors that are held
MOST_CROPS: Final = 1 << 17  # the same, where vectors are short
DECIMALS: Final = 3  # of exponents: more than the data tell, and few enough that no machine's last bits show


@dataclass(frozen=True)
class Learned:
    """What was learned on training subjects.

    exponents: by component, 0 where it is unused. average: the mean logarithm of each, for crops that lack it. unused:
    why, by component. subjects, templates, crops: how many it was learned on. ridge: None where all exponents are 0.
    margin, margin_of_mean: mean margins of held-out training subjects, with these weights and with equal ones.
    """

    exponents: dict[str, float]
    average: dict[str, float]
    unused: dict[str, str]
    subjects: int
    templates: int
    crops: int
    ridge: float | None
    margin: float
    margin_of_mean: float

    @property
    def facts(self) -> dict[str, Any]:
        """The numbers, as results keep them."""
        return {**vars(self), "margin": round(self.margin, 6), "margin_of_mean": round(self.margin_of_mean, 6)}

    @property
    def lines(self) -> list[str]:
        """What a reader of the numbers should know."""
        used = [f"{name}^{value:g}" for name, value in self.exponents.items() if value]
        what = f"weight of a crop: {' '.join(used)}" if used else "all crops have one weight"
        better = f"held-out margin {self.margin:.3f}, {self.margin_of_mean:.3f} by mean"
        if not used:
            better = f"no exponents clearly raise the margin of held-out subjects, {self.margin_of_mean:.3f}"
        on = ", ".join(counted(n, w) for n, w in ((self.templates, "template"), (self.crops, "crop")))
        learned = f"{what}, learned on {counted(self.subjects, 'training subject')} ({on}; {better})"
        return [learned, *(f"no weight by {name}: {why}" for name, why in self.unused.items())]

    def log_weights(self, rows: pa.Table, norms: F64) -> F64:
        """(N,) logarithms of the weights of rows, whose vectors have these lengths (N,)."""
        total = np.zeros(rows.num_rows)
        for name, exponent in self.exponents.items():
            if exponent:
                values = component(rows, norms, name)
                total += exponent * np.where(np.isnan(values), self.average[name], values)
        return total

    def lacking(self, rows: pa.Table, norms: F64) -> list[str]:
        """A line for each used component that rows lack."""
        found = {name: int(np.isnan(component(rows, norms, name)).sum()) for name, e in self.exponents.items() if e}
        return [
            f"{n} of {counted(rows.num_rows, 'crop')} have no {name}: they count as an average training crop"
            for name, n in found.items()
            if n
        ]


def component(rows: pa.Table, norms: F64, name: str) -> F64:
    """(N,) logarithms of a component; NaN where a row lacks it."""
    if name == NORM:
        values = norms
    elif name not in rows.column_names:
        return np.full(rows.num_rows, np.nan)
    else:
        values = pc.fill_null(rows[name].cast(pa.float64()), np.nan).to_numpy()
    found: F64 = np.log(np.maximum(np.where(np.isfinite(values), values, np.nan), LEAST[name]))
    return found


def learn(rows: pa.Table, blocks: Callable[[], Iterable[F32]], norms: F64, rule: Rule) -> Learned:
    """Learn the exponents on training subjects. Raises ProtocolError where there are too few.

    rows: of the manifest, those of training subjects with a vector alone. blocks: gives their vectors in that order.
    norms: (N,) the lengths. rule: how crops become templates.
    """
    centres = pool(rows, blocks(), Rule(normalise_first=True))
    group, names = members(rows, rule)
    first = rows.take(pa.array(np.unique(group, return_index=True)[1]))
    subject, domain = (_text(first, name) for name in ("subject_id", "domain"))
    counts = np.bincount(group)
    wanted = [f"{a}\n{b}" for a, b in zip(subject, domain, strict=True)]
    target = _targets(centres, dict.fromkeys(wanted))
    fit = np.array([n > 1 and name in target for n, name in zip(counts.tolist(), wanted, strict=True)], bool)
    people = np.unique(subject[fit])
    if len(people) < FOLDS:
        raise ProtocolError(
            f"pooling: quality_aware: expected {FOLDS} or more training subjects with crops in two domains and two in "
            f"one of {counted(len(names), 'template')}, got {len(people)}; take more training subjects, or pool by "
            "mean or norm_weighted"
        )
    at = _sample(rows, group, np.flatnonzero(fit), centres.vectors.shape[1])
    vectors = _held(blocks(), at, rows.num_rows, centres.vectors.shape[1])
    vectors /= norms[at, None].astype(np.float32)
    who = np.unique(subject[group[at]], return_inverse=True)[1]
    own = rows.take(pa.array(at))
    logs = {name: component(own, norms[at], name) for name in LEAST}
    unused = {name: why for name, values in logs.items() if (why := _unused(name, values, group[at], norms[at]))}
    used = [name for name in LEAST if name not in unused]
    average = {name: round(float(np.nanmean(logs[name])), 6) for name in used}
    filled = np.array([np.where(np.isnan(logs[n]), average[n], logs[n]) for n in used]).reshape(len(used), -1).T
    found = _fitted(_Sets.of(group[at], who, vectors, [target[wanted[one]] for one in np.unique(group[at])], filled))
    exponents = dict(zip(used, found.exponents.tolist(), strict=True))
    return Learned(
        {name: exponents.get(name, 0.0) for name in LEAST},
        average,
        unused,
        int(who.max()) + 1,
        len(np.unique(group[at])),
        len(at),
        found.ridge,
        found.margin,
        found.margin_of_mean,
    )


def _text(rows: pa.Table, name: str) -> Any:
    return np.array(rows[name].cast(pa.string()).to_pylist(), np.str_)


def _targets(centres: Templates, wanted: Iterable[str]) -> dict[str, F64]:
    """What a unit template of SUBJECT\\nDOMAIN has its margin with, (D,), by that name; left out where nothing is."""
    vectors = unit(centres.vectors).astype(np.float64)
    domains = np.unique(centres.domain)
    contrast: dict[str, dict[str, F64]] = {}
    for domain in domains.tolist():
        here = np.flatnonzero(centres.domain == domain)
        if len(here) < 2:  # nobody to tell the subject from
            continue
        others = (vectors[here].sum(axis=0) - vectors[here]) / (len(here) - 1)
        for row, other in zip(here.tolist(), others, strict=True):
            contrast.setdefault(str(centres.subject[row]), {})[domain] = vectors[row] - other
    found = {}
    for name in wanted:
        subject, domain = name.split("\n")
        apart = [values for where, values in contrast.get(subject, {}).items() if where != domain]
        if apart:
            found[name] = np.mean(apart, axis=0)
    return found


def _sample(rows: pa.Table, group: I64, fit: I64, width: int) -> I64:
    """The rows that are held, sorted by template and time: evenly spread in time, of all templates or of evenly many.

    fit: the templates that can be learned from.
    """
    most = min(MOST_VALUES // max(width, 1), MOST_CROPS)
    each = min(CROPS_A_TEMPLATE, max(most // max(len(fit), 1), FEWEST_A_TEMPLATE))
    step = -(-len(fit) * each // most)
    at = np.flatnonzero(np.isin(group, fit[::step]))
    order, kept = evenly(rows.take(pa.array(at)), group[at], each)
    return at[order[kept]]


def _held(blocks: Iterable[F32], at: I64, count: int, width: int) -> F32:
    """(n, D) the vectors of the rows `at`, in that order."""
    place, held, done = np.full(count, -1), np.zeros((len(at), width), np.float32), 0
    place[at] = np.arange(len(at))
    for block in blocks:
        own = place[done : done + len(block)]
        held[own[own >= 0]] = block[own >= 0]
        done += len(block)
    return held


def _unused(name: str, values: F64, group: I64, norms: F64) -> str:
    """Why a component cannot be learned from, or nothing."""
    if np.isnan(values).all():
        return "no training crop has it"
    if name == NORM and np.abs(norms - 1).max() < 1e-3:
        return "every vector has length 1"
    order = np.lexsort((values, group))  # NaN last
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    low, high = np.fmin.reduceat(values[order], starts), np.fmax.reduceat(values[order], starts)
    return "" if np.nanmax(high - low) > 1e-6 else "it is the same in all crops of a template"


@dataclass(frozen=True)
class _Sets:
    """T templates of at most K crops. Sums over vectors are all that a margin needs of them.

    z: (T, K, C) components. there: (T, K) whether there is a crop. towards: (T, K) product of its unit vector with the
    template's target. gram: (T, K, K) products of unit vectors. who: (T,) the subject, a number.
    """

    z: F64
    there: B8
    towards: F64
    gram: F64
    who: I64

    @classmethod
    def of(cls, group: I64, who: I64, vectors: F32, targets: list[F64], z: F64) -> _Sets:
        """The sets of rows that are sorted by template. vectors: (N, D) of length 1; targets: (D,) of each template."""
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        sizes = np.diff(np.append(starts, len(group)))
        row, place = np.repeat(np.arange(len(starts)), sizes), np.arange(len(group)) - np.repeat(starts, sizes)
        shape = (len(starts), int(sizes.max()))
        empty = (np.zeros(shape, bool), np.zeros(shape), np.zeros((*shape, shape[1])))
        made = cls(np.zeros((*shape, z.shape[1])), *empty, who[starts])
        made.z[row, place], made.there[row, place] = z, True
        for n, (start, size, target) in enumerate(zip(starts.tolist(), sizes.tolist(), targets, strict=True)):
            own = vectors[start : start + size].astype(np.float64)
            made.towards[n, :size], made.gram[n, :size, :size] = own @ target, own @ own.T
        return made

    def of_subjects(self, chosen: B8) -> _Sets:
        """The sets of some subjects. chosen: (S,) by number."""
        here = chosen[self.who]
        return _Sets(self.z[here], self.there[here], self.towards[here], self.gram[here], self.who[here])

    @property
    def spread(self) -> F64:
        """(C,) standard deviation of each component within templates."""
        n = self.there.sum(axis=1)
        mean = self.z.sum(axis=1) / n[:, None]
        apart = np.where(self.there[..., None], self.z - mean[:, None], 0)
        found: F64 = np.sqrt((apart**2).sum(axis=(0, 1)) / n.sum())
        return found

    def margins(self, exponents: F64) -> tuple[F64, F64]:
        """The mean margin of the templates of each subject, (S,), and its gradient (S, C)."""
        score = np.where(self.there, self.z @ exponents, -np.inf)
        weight = np.exp(score - score.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        pooled = np.einsum("tkl,tl->tk", self.gram, weight)  # product of each unit vector with the weighted mean
        length = np.sqrt(np.maximum(np.einsum("tk,tk->t", pooled, weight), 1e-20))  # of two opposite vectors
        product = np.einsum("tk,tk->t", self.towards, weight)
        slope = self.towards / length[:, None] - (product / length**3)[:, None] * pooled
        slope -= np.einsum("tk,tk->t", slope, weight)[:, None]
        gradient = np.einsum("tk,tkc->tc", weight * slope, self.z)
        _, number, times = np.unique(self.who, return_inverse=True, return_counts=True)
        means = np.zeros((len(times), 1 + gradient.shape[1]))
        np.add.at(means, number, np.column_stack([product / length, gradient]) / times[number, None])
        return means[:, 0], means[:, 1:]


@dataclass(frozen=True)
class _Fit:
    exponents: F64
    ridge: float | None
    margin: float
    margin_of_mean: float


def _fitted(sets: _Sets) -> _Fit:
    """Exponents with the ridge that is best for held-out subjects; each fold is every FOLDS-th subject."""
    people = np.arange(sets.who.max() + 1)
    folds = [(sets.of_subjects(people % FOLDS != n), sets.of_subjects(people % FOLDS == n)) for n in range(FOLDS)]
    nothing = np.zeros(sets.z.shape[2])
    of_mean = np.concatenate([held.margins(nothing)[0] for _, held in folds])
    best = _Fit(nothing, None, float(of_mean.mean()), float(of_mean.mean()))
    for ridge in RIDGES if len(nothing) else ():
        reached = np.concatenate([held.margins(_maximum(rest, ridge))[0] for rest, held in folds])
        error = (reached - of_mean).std(ddof=1) / np.sqrt(len(people))
        if (reached - of_mean).mean() > ERRORS * error and reached.mean() > best.margin:
            best = _Fit(nothing, ridge, float(reached.mean()), best.margin_of_mean)
    return best if best.ridge is None else replace(best, exponents=_maximum(sets, best.ridge).round(DECIMALS))


def _maximum(sets: _Sets, ridge: float) -> F64:
    """(C,) the exponents of the greatest margin less ridge / 2 times the squared length of exponents, in units of one
    standard deviation within templates; from 0 on.
    """
    from scipy.optimize import minimize

    spread = sets.spread
    spread = np.where(spread > 0, spread, 1)

    def cost(standard: F64) -> tuple[float, F64]:
        value, gradient = (found.mean(axis=0) for found in sets.margins(standard / spread))
        return ridge / 2 * float(standard @ standard) - float(value), ridge * standard - gradient / spread

    found = minimize(cost, np.zeros(len(spread)), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 200})
    exponents: F64 = found.x / spread
    return exponents
