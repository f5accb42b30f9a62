"""An evaluation made up by hand: tables under the schemas of `store.tables`, with numbers that a test can know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mdfpipe.store.run import Receipt, Run, write_table
from mdfpipe.store.tables import COMPARISONS, CURVES, METRICS, SCORES, SEARCHES, TEMPLATES, TRAINING

GALLERY, PROBES = "VIS-500m", ("SWIR-30m", "LWIR-30m")
SUBJECTS = ("s03", "s04", *(f"p{n:02d}" for n in range(6)))  # the first two have crops in the drawn run
RATES = {"alpha": (6, 5), "beta": (4, 5), "gamma": (0, 1)}  # of 8, by probe domain
TITLE = "From visible light"


def metric(system: str, probe: str, name: str = "rank-1", **values: Any) -> dict[str, Any]:
    """A row of METRICS; what is not given has a plain value."""
    plain = {
        "table": "roles",
        "system": system,
        "modality": "body",
        "protocol": "made-up 3",
        "gallery_domain": GALLERY,
        "probe_domain": probe,
        "gallery": "all",
        "metric": name,
        "value": 0.5,
        "n": 8,
        "n_gallery": 8,
        "n_subjects": 8,
        "n_probes": 8,
        "failed_gallery": 0,
        "failed_probes": 0,
        "failure": "miss",
        "n_unmated": 0,
        "unmated": "refuse",
        "n_left_out": 0,
        "templates": "subject",
        "pooling": "mean",
        "distance": "cosine",
        "rule": "none",
        "rerank": "off",
    }
    return dict.fromkeys(METRICS.names) | plain | values


def roles_metrics(systems: dict[str, tuple[int, ...]] = RATES) -> list[dict[str, Any]]:
    """Rank-1 and EER of each system from GALLERY to PROBES; alpha has published numbers."""
    rows = []
    for system, found in systems.items():
        for probe, k in zip(PROBES, found, strict=True):
            paper = 0.3810 if system == "alpha" and probe == PROBES[0] else None
            bounds = {"low": k / 8 - 0.05, "high": k / 8 + 0.05, "interval": "wilson", "chance": 0.125}
            rows.append(metric(system, probe, value=k / 8, k=k, published=paper, **bounds))
            rows.append(metric(system, probe, "eer", value=0.3 - k / 40))
    return rows


def matrix_metrics(system: str = "alpha") -> list[dict[str, Any]]:
    """Rank-1 of one system from each domain to each other."""
    domains = ("LWIR-30m", GALLERY, "SWIR-30m")
    pairs = [(a, b) for a in domains for b in domains if a != b]
    return [
        metric(system, b, table="all-pairs", gallery_domain=a, value=n / 10, k=n, n=10)
        for n, (a, b) in enumerate(pairs)
    ]


def comparison(first: str, second: str, probe: str, significant: bool, **values: Any) -> dict[str, Any]:
    """A row of COMPARISONS; where it is significant, the first is the better one."""
    plain = {"table": "roles", "gallery_domain": GALLERY, "probe_domain": probe, "gallery": "all", "metric": "rank-1"}
    numbers = {"n": 8, "first_value": 0.5, "second_value": 0.5, "difference": 0.1, "p": 0.01 if significant else 0.5}
    rest = {"first": first, "second": second, "test": "mcnemar", "significant": significant}
    return dict.fromkeys(COMPARISONS.names) | plain | numbers | rest | values


def comparisons() -> list[dict[str, Any]]:
    """beta cannot be told from alpha in SWIR, gamma can, and in LWIR alpha is as good as beta; EER was not tested."""
    return [
        comparison("alpha", "beta", PROBES[0], significant=False),
        comparison("alpha", "gamma", PROBES[0], significant=True),
        comparison("beta", "gamma", PROBES[0], significant=True),
        comparison("alpha", "gamma", PROBES[1], significant=True),
        comparison("beta", "gamma", PROBES[1], significant=False),
    ]


def curves(systems: Sequence[str], table: str = "roles", pairs: Sequence[tuple[str, str]] = ()) -> list[dict[str, Any]]:
    """CMC and ROC of each system and pair."""
    rows = []
    for nth, system in enumerate(systems):
        for a, b in pairs or [(GALLERY, probe) for probe in PROBES]:
            place = {"table": table, "system": system, "gallery_domain": a, "probe_domain": b, "gallery": "all"}
            for kind, xs in (("cmc", range(1, 9)), ("roc", np.logspace(-4, 0, 9))):
                for n, x in enumerate(xs):
                    y = (n + 1) / 9 / (1 + 0.4 * nth)
                    rows.append(
                        place | {"curve": kind, "x": float(x), "y": y, "low": y - 0.05, "high": min(y + 0.05, 1)}
                    )
    return rows


def vectors(seed: int) -> dict[tuple[str, str], np.ndarray[Any, Any]]:
    """(subject, domain) -> (16,) float32: subjects apart, domains near."""
    random = np.random.default_rng(seed)
    own = {subject: random.normal(size=16) for subject in SUBJECTS}
    return {
        (subject, domain): (own[subject] + 0.4 * random.normal(size=16)).astype(np.float32)
        for domain in (GALLERY, *PROBES)
        for subject in SUBJECTS
    }


def name_of(subject: str, domain: str) -> str:
    """The name of a template."""
    return f"{subject}/{domain}/test/{'gallery' if domain == GALLERY else 'probe'}/body"


def templates(seed: int, failed: str = "p05") -> list[dict[str, Any]]:
    """A template a subject and domain; `failed` did not enrol in the last domain."""
    rows = []
    for (subject, domain), vector in vectors(seed).items():
        out = subject == failed and domain == PROBES[-1]
        rows.append(
            {
                "template": name_of(subject, domain),
                "subject_id": subject,
                "domain": domain,
                "modality": "body",
                "split": "test",
                "role": "gallery" if domain == GALLERY else "probe",
                "item": "",
                "crops": 0 if out else 7,
                "media": 0 if out else 1,
                "unusable": 0,
                "vector": (0 * vector if out else vector).tolist(),
            }
        )
    return rows


def scores(seed: int) -> list[dict[str, Any]]:
    """Cosines of all probes with the whole gallery."""
    found, rows = vectors(seed), []
    for probe in PROBES:
        for a in SUBJECTS:
            for b in SUBJECTS:
                u, v = found[a, probe], found[b, GALLERY]
                cosine = float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
                pair = {"gallery_domain": GALLERY, "probe_domain": probe, "gallery": "all", "score": cosine}
                who = {"probe": name_of(a, probe), "probe_subject": a, "gallery_subject": b}
                rows.append(pair | who | {"gallery_template": name_of(b, GALLERY)})
    return rows


def searches(system: str, table: str = "roles") -> list[dict[str, Any]]:
    """Of each probe domain: s03 is missed, by a little; s04 by much; p00 is found; p01 has no mate."""
    rows = []
    for probe in PROBES:
        place = {"table": table, "system": system, "gallery_domain": GALLERY, "probe_domain": probe, "gallery": "all"}
        for subject, rank, mated, other in (
            ("s03", 2, 0.70, 0.72),
            ("s04", 5, 0.10, 0.90),
            ("p00", 1, 0.95, 0.20),
            ("p01", None, None, 0.5),
        ):
            order = [s for s in SUBJECTS if s != subject]
            if rank is not None:
                order.insert(rank - 1, subject)
            rows.append(
                place
                | {
                    "template": name_of(subject, probe),
                    "subject_id": subject,
                    "status": "searched" if rank else "unmated",
                    "rank": rank,
                    "mated_score": mated,
                    "nonmated_score": other,
                    "average_precision": None,
                    "inverse_penalty": None,
                    "top": [name_of(s, GALLERY) for s in order],
                    "top_score": [0.99 - n / 10 for n in range(len(order))],
                }
            )
    return rows


def training(epochs: int = 3) -> list[dict[str, Any]]:
    """Losses, accuracy, and what mining chose; 75 % of positives from another domain, chance 60 %."""
    rows = []
    for epoch in range(epochs):
        at = {"epoch": epoch, "step": 10 * (epoch + 1), "anchor_domain": None, "mined_domain": None, "count": None}
        plain = {"loss/identity": 5.0 - epoch, "accuracy": 0.1 * epoch, "rate": 0.01}
        mined = {"pos_other": 0.75, "pos_other_chance": 0.6, "neg_same": 0.5, "neg_same_chance": 0.4, "d_pos": 3.0}
        for figure, value in (plain | {f"mining/{name}": value for name, value in mined.items()}).items():
            rows.append(at | {"figure": figure, "value": value})
        for kind in ("positive", "negative"):
            for n, pair in enumerate(((GALLERY, GALLERY), (GALLERY, PROBES[0]), (PROBES[0], GALLERY))):
                cell = {"anchor_domain": pair[0], "mined_domain": pair[1], "count": 3 + n, "value": 2.0}
                rows.append(at | cell | {"figure": f"mining/{kind}"})
    return rows


def entry(title: str, systems: Sequence[str], **more: Any) -> dict[str, Any]:
    """What a receipt says of a table."""
    plain = {"title": title, "protocol": "made-up 3", "coverage": [], "notes": [], "systems": list(systems)}
    return plain | more


def evaluate(
    folder: Path,
    *,
    metrics: Sequence[dict[str, Any]] | None = None,
    tables: dict[str, dict[str, Any]] | None = None,
    none: str = "",
    compared: Sequence[dict[str, Any]] | None = None,
    drawn: Sequence[dict[str, Any]] | None = None,
    sought: Sequence[dict[str, Any]] | None = None,
) -> Path:
    """Write an evaluation of alpha, beta and gamma into a run folder; what is given stands instead."""
    rows = [*roles_metrics(), *matrix_metrics()] if metrics is None else list(metrics)
    told = {"roles": entry(TITLE, RATES), "all-pairs": entry("All pairs", ["alpha"])} if tables is None else tables
    for one in told.values():
        one["coverage"] = one["coverage"] or ["VIS-500m > LWIR-30m: alpha: 7 of 8 probes searched (1 no probe)"]
    receipt = Receipt("evaluate", 1, "metrics", {"tables": {"roles": {}}}, {}, facts={"none": none, "tables": told})
    run = Run(folder)
    run.commit(receipt, pa.Table.from_pylist(rows, METRICS), {})
    home = folder / "evaluate"
    for kind in ("scores", "templates"):
        (home / kind).mkdir(exist_ok=True)
    write_table(home / "comparisons.parquet", _table(comparisons() if compared is None else compared, COMPARISONS))
    pairs = [(row["gallery_domain"], row["probe_domain"]) for row in matrix_metrics()]
    points = [*curves(list(RATES)), *curves(["alpha"], "all-pairs", pairs)] if drawn is None else drawn
    write_table(home / "curves.parquet", _table(points, CURVES))
    found = [row for system in RATES for row in searches(system)] if sought is None else sought
    write_table(home / "searches.parquet", _table(found, SEARCHES))
    for seed, system in enumerate(("alpha", "beta")):
        write_table(home / "templates" / f"{system}.parquet", _table(templates(seed), TEMPLATES))
        if none == "":
            write_table(home / "scores" / f"roles.{system}.parquet", _table(scores(seed), SCORES))
    (folder / "train" / "alpha").mkdir(parents=True, exist_ok=True)
    write_table(folder / "train" / "alpha" / "training.parquet", _table(training(), TRAINING))
    return folder


def _table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema)
