"""evaluation: search against a plain loop, a large search, SYSU's trials, pooling, the bootstrap; results are equal"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Report, Times, in_turns, in_worker, profiled, ratio
from benchmarks.memory import peak_mb

from benchmarks import eval_protocols

MATES = 4  # gallery entries, and probes, of a subject
BLOCK = 2048  # vectors that pooling is given at a time
CHECKED = 200  # probes of the large search that are looked at one by one
SEARCH, LOOP, LEAN = "search", "loop of research codes", "loop at its leanest"

Spent = tuple[float, float]
"""Seconds on the wall, and of all threads on the processor: on a busy machine the second tells more."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--given", type=int, default=4000, help="probes, and gallery entries, of given scores (4000)")
    parser.add_argument("--size", type=int, default=20_000, help="probes, and gallery entries, of vectors (20000)")
    parser.add_argument("--width", type=int, default=512, help="of those vectors (512)")
    parser.add_argument("--queries", type=int, default=3803, help="of SYSU-MM01 (3803)")
    parser.add_argument("--crops", type=int, default=1_000_000, help="vectors that are pooled (1000000)")
    parser.add_argument("--features", type=int, default=1536, help="of those vectors (1536)")
    parser.add_argument("--subjects", type=int, default=250, help="of the study that is drawn again (250)")
    parser.add_argument("--samples", type=int, default=2000, help="of the bootstrap (2000)")
    parser.add_argument("--rounds", type=int, default=3)


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    _given(options, report, *in_worker(_search_given, options, threads=cores))
    _large(options, report, *in_worker(_search_large, options, threads=cores))
    _trials(options, report, *in_worker(eval_protocols.trials, options, threads=cores))
    _pooled(options, report, *in_worker(_pool, options, threads=cores))
    _drawn(options, report, *in_worker(_bootstrap, options, threads=cores))
    report.notes += [
        f"{cores} threads; {MATES} gallery entries and {MATES} probes a subject; peaks are VmHWM of a fresh process, "
        "libraries included",
        f"{LOOP}: as AGW and torchreid evaluate, probe by probe, the precision place by place; {LEAN}: one sort and "
        "some sums of arrays for each probe; both in one thread",
        f"results equal: every rank and average precision of the loops; {CHECKED} probes of the large search, anew in "
        "float64; every trial of SYSU by the loop; 5 templates, "
        "anew in float64; 10 samples of each statistic, drawn out",
    ]


# -- given scores


def _given(options: argparse.Namespace, report: Report, times: dict[str, Times], profile: list[str]) -> None:
    n = options.given
    for name, measured in times.items():
        report.add(f"scores {n:,} x {n:,}: {name}", measured.rate(n), "probes/s")
    for name in (LOOP, LEAN):
        tag = f"scores {n:,} x {n:,}: search / {name}"
        report.add(f"{tag}, by processor time", ratio(times[name].cpu, times[SEARCH].cpu), "times")
        if name == LEAN:
            report.add(tag, ratio(times[name].wall, times[SEARCH].wall), "times")
        else:
            report.aim(tag, ratio(times[name].wall, times[SEARCH].wall), ">=", 50, "times")
    report.profile += profile


def _search_given(options: argparse.Namespace) -> tuple[dict[str, Times], list[str]]:
    import numpy as np

    from mdfpipe.evaluation.comparing import Entries
    from mdfpipe.evaluation.search import Ranking, search_scores

    subjects = _subjects(options.given)
    generator = np.random.default_rng(0)
    likely = generator.standard_normal((options.given, options.given)) + 2 * (subjects[:, None] == subjects)
    scores = (likely.argsort(axis=1).argsort(axis=1) / options.given).astype(np.float32)  # no two of a row are equal
    sides = Entries("gallery", subjects), Entries("probes", subjects)
    found: dict[str, Any] = {}

    def search() -> None:
        found[SEARCH] = search_scores(scores, *sides)

    def loop(name: str, task: Callable[..., Any]) -> Callable[[], None]:
        return lambda: found.update({name: task(scores, subjects, subjects)})

    loops = {LOOP: loop(LOOP, place_by_place), LEAN: loop(LEAN, plain_loop)}
    times = in_turns(options.rounds, **{SEARCH: search}, **loops)
    ranking: Ranking = found[SEARCH]
    for name in loops:
        _same("ranks of given scores", ranking.rank, found[name][0])
        _same("average precision of given scores", ranking.average_precision, found[name][1], 1e-12)
    return times, profiled(search) if options.profile else []


def plain_loop(scores: Any, gallery: Any, probes: Any) -> tuple[Any, Any]:
    """The place of the best mate, and average precision, probe by probe; of the precisions only arrays are made."""
    import numpy as np

    rank, precision = np.zeros(len(scores), np.int64), np.zeros(len(scores))
    for number, row in enumerate(scores):
        order = np.argsort(-row)
        hit = (gallery[order] == probes[number]).astype(np.int64)
        before = hit.cumsum()
        rank[number] = int(np.argmax(hit)) + 1
        precision[number] = (before / np.arange(1, len(hit) + 1) * hit).sum() / hit.sum()
    return rank, precision


def place_by_place(scores: Any, gallery: Any, probes: Any) -> tuple[Any, Any]:
    """The same as the evaluators of AGW and torchreid do it: a rule that removes pairs, a curve for each probe, and the
    precision of each place as a number of Python's.
    """
    import numpy as np

    camera_of_gallery, camera_of_probe = np.zeros(len(gallery), np.int64), 1
    indices = np.argsort(-scores, axis=1)
    curves, precision = [], []
    for number, subject in enumerate(probes):
        order = indices[number]
        removed = (gallery[order] == subject) & (camera_of_gallery[order] == camera_of_probe)
        hit = (gallery[order] == subject)[~removed].astype(np.int64)
        curve = hit.cumsum()
        curve[curve > 1] = 1
        curves.append(curve)
        shares = np.asarray([hits / (place + 1.0) for place, hits in enumerate(hit.cumsum())])
        precision.append((shares * hit).sum() / hit.sum())
    return 1 + (np.array(curves) == 0).sum(axis=1), np.array(precision)


# -- many vectors


def _large(options: argparse.Namespace, report: Report, spent: Spent, peak: float, profile: list[str]) -> None:
    tag = f"vectors {options.size:,} x {options.size:,} x {options.width}"
    report.add(f"{tag}: product, CMC, mAP", options.size / spent[0], "probes/s")
    report.add(f"{tag}: processor time", spent[1], "s")
    report.aim(f"{tag}: whole", spent[0], "<=", 20, "s")
    report.aim(f"{tag}: peak", peak, "<=", 2000, "MB")
    report.profile += profile


def _search_large(options: argparse.Namespace) -> tuple[Spent, float, list[str]]:
    import numpy as np

    from mdfpipe.evaluation.comparing import Entries
    from mdfpipe.evaluation.measures.closed_set import closed_set, cmc
    from mdfpipe.evaluation.search import search

    subjects = _subjects(options.size)
    generator = np.random.default_rng(1)
    centres = generator.standard_normal((subjects.max() + 1, options.width), np.float32)
    gallery, probes = (
        centres[subjects] + 3 * generator.standard_normal((options.size, options.width), np.float32) for _ in range(2)
    )
    sides = Entries("gallery", subjects, gallery), Entries("probes", subjects, probes)
    found: dict[str, Any] = {}

    def whole() -> None:
        found["ranking"] = search(*sides)
        found["curve"], found["metrics"] = cmc(found["ranking"], 50), closed_set(found["ranking"])

    spent, peak = timed(whole), peak_mb()
    some = np.linspace(0, options.size - 1, min(CHECKED, options.size)).astype(np.int64)
    wide = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (probes[some].astype(float), gallery.astype(float))]
    rank, precision = plain_loop(wide[0] @ wide[1].T, subjects, subjects[some])
    _same("ranks of vectors", found["ranking"].rank[some], rank)
    _same("average precision of vectors", found["ranking"].average_precision[some], precision, 1e-12)
    return spent, peak, profiled(whole) if options.profile else []


# -- SYSU-MM01's trials


def _trials(
    options: argparse.Namespace, report: Report, times: dict[str, Times], queries: int, profile: list[str]
) -> None:
    ours, loop = times[eval_protocols.OURS], times[eval_protocols.LOOP]
    tag = f"sysu, {queries:,} queries x 301 x {eval_protocols.WIDTH}"
    report.add(f"{tag}: {eval_protocols.LOOP}", median(loop.wall), "s")
    report.add(f"{tag}: processor time", median(ours.cpu), "s")
    report.add(f"{tag}: loop / ours", ratio(loop.wall, ours.wall), "times")
    report.aim(f"{tag}: {eval_protocols.OURS}", median(ours.wall), "<=", 0.4, "s")
    report.profile += profile


# -- pooling


def _pooled(options: argparse.Namespace, report: Report, spent: Spent, peak: float, templates: int) -> None:
    tag = f"pooling {options.crops:,} vectors of {options.features} into {templates:,} templates"
    report.add(tag, options.crops / spent[0], "vectors/s")
    report.add(f"{tag}: processor time", spent[1], "s")
    report.aim(f"{tag}: peak", peak, "<=", 1000, "MB")


def _pool(options: argparse.Namespace) -> tuple[Spent, float, int]:
    import numpy as np
    import pyarrow as pa

    from mdfpipe.evaluation.pooling import pool

    n, domains = options.crops, 4
    generator = np.random.default_rng(2)
    subject = generator.integers(0, options.subjects, n)
    domain = np.arange(n) % domains
    video = subject * domains + domain

    def named(codes: Any, prefix: str) -> Any:
        names = pa.array([f"{prefix}{code}" for code in range(int(codes.max()) + 1)])
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), names)

    same = {name: named(np.zeros(n, np.int64), name) for name in ("modality", "split", "role")}
    rows = pa.table(
        {"subject_id": named(subject, "s"), "domain": named(domain, "d"), "video_id": named(video, "v"), **same}
    )
    base = generator.standard_normal((BLOCK, options.features), np.float32)

    def blocks() -> Iterator[Any]:
        for number, first in enumerate(range(0, n, BLOCK)):
            yield np.roll(base, number, axis=0)[: min(BLOCK, n - first)]

    found: list[Any] = []
    spent, peak = timed(lambda: found.append(pool(rows, blocks()))), peak_mb()
    made = found[0]
    for at in np.linspace(0, len(made) - 1, min(5, len(made))).astype(int):
        own = (subject == int(made.subject[at][1:])) & (domain == int(made.domain[at][1:]))
        places = np.flatnonzero(own)
        from_base = (places % BLOCK - places // BLOCK) % BLOCK
        _same("a template", made.vectors[at], base[from_base].astype(np.float64).mean(axis=0), 1e-6)
    return spent, peak, len(made)


# -- the bootstrap


def _drawn(options: argparse.Namespace, report: Report, spent: dict[str, Spent], profile: list[str]) -> None:
    tag = f"{options.samples:,} samples of {options.subjects} subjects"
    for name, (wall, _) in spent.items():
        report.add(f"{tag}: {name}", wall, "s")
    report.add(f"{tag}: processor time of all of these", sum(cpu for _, cpu in spent.values()), "s")
    report.aim(f"{tag}: all of these", sum(wall for wall, _ in spent.values()), "<=", 5, "s")
    report.profile += profile


def _bootstrap(options: argparse.Namespace) -> tuple[dict[str, Spent], list[str]]:
    """A probe and a gallery template a subject: every pair of them is a comparison."""
    import numpy as np

    from mdfpipe.evaluation.measures.intervals import bootstrap, mean_of, paired_bootstrap, subject_draws
    from mdfpipe.evaluation.measures.separation import Separation

    n, far = options.subjects, 0.01
    generator = np.random.default_rng(3)
    scores = generator.standard_normal((n, n)) + 2 * np.eye(n)
    codes = np.arange(n)
    rank = 1 + (scores > scores.diagonal()[:, None]).sum(axis=1)
    other = ~np.eye(n, dtype=bool)
    of_low = np.argwhere(other)
    pairs = Separation(scores.diagonal(), scores[other], codes, of_low, n)
    first, second = mean_of(rank == 1, codes, n), mean_of(1 / rank, codes, n)
    tar, auc = pairs.rate_at(far), pairs.auc()
    tasks: dict[str, Callable[[], Any]] = {
        "rank-1": lambda: bootstrap(first, n, np.random.default_rng(0), options.samples),
        "map": lambda: bootstrap(second, n, np.random.default_rng(0), options.samples),
        f"tar@far={far:g}, all pairs": lambda: bootstrap(tar, n, np.random.default_rng(0), options.samples),
        "auc, all pairs": lambda: bootstrap(auc, n, np.random.default_rng(0), options.samples),
        "rank-1, two systems": lambda: paired_bootstrap(first, second, n, np.random.default_rng(0), options.samples),
    }
    spent = {name: timed(task) for name, task in tasks.items()}
    for counts in next(subject_draws(n, 10, np.random.default_rng(4))):
        who = np.repeat(codes, counts.astype(int))
        high, low = scores[who, who], scores[np.ix_(who, who)][who[:, None] != who]
        low.sort()
        beaten = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
        passed = len(low) - np.searchsorted(low, high, "left") <= far * len(low)
        drawn = {first: (rank[who] == 1).mean(), second: (1 / rank[who]).mean(), tar: passed.mean()}
        for statistic, value in (drawn | {auc: beaten.mean() / 2 / len(low)}).items():
            _same("a sample", statistic(counts[None])[0], value, 1e-9)
    return spent, profiled(tasks["auc, all pairs"]) if options.profile else []


# -- all of them


def timed(task: Callable[[], Any]) -> Spent:
    """What one call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    task()
    return time.perf_counter() - wall, time.process_time() - cpu


def _subjects(count: int) -> Any:
    import numpy as np

    return np.arange(count) // MATES


def _same(what: str, ours: Any, others: Any, within: float = 0) -> None:
    """Stop where two results differ: a speed with another result says nothing."""
    import numpy as np

    if not np.allclose(ours, others, rtol=0, atol=within):
        worst = np.abs(np.asarray(ours, float) - others).max()
        raise SystemExit(f"scripts/bench: {what}: expected equal results, they differ by up to {worst:g}")
