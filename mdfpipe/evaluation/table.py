"""Table: what is set side by side: which systems, on which domains, whose templates, by which rules."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from mdfpipe.config import IF_SET, NAME, Config
from mdfpipe.evaluation.benchmarks import Benchmark
from mdfpipe.evaluation.fusion import Scale
from mdfpipe.evaluation.measures.closed_set import CLOSED_SET
from mdfpipe.evaluation.measures.metrics import share_of
from mdfpipe.evaluation.pooling import Apart, By, FailurePolicy, Pooling, Rule, Sighting
from mdfpipe.evaluation.rerank import Rerank
from mdfpipe.evaluation.search import Unmated
from mdfpipe.protocol import Protocol, Split
from mdfpipe.store.run import fingerprint

DEFAULT_METRICS = (*CLOSED_SET, "tar@far=1e-2", "auc")
PLAIN = ("map", "minp", "eer", "eer-hter", "eer-fvc", "rocch-eer", "auc", "cllr", "mincllr")
AT_TRAINING = ("fmr@train", "fnmr@train", "fpir@train", "fnir@train")
AT_A_SHARE = ("fnir@fpir", "dir@fpir", "tar@far", *AT_TRAINING)
Norm = Literal["none", "z", "t", "s"]


def _known(name: str) -> str:
    """A metric's name. Raises ValueError for any other."""
    kind, _, share = name.partition("=")
    if name in PLAIN or re.fullmatch(r"rank-[1-9]\d*", name):
        return name
    if kind in AT_A_SHARE and re.fullmatch(r"[0-9.]+(e-?[0-9]+)?", share) and 0 <= float(share) <= 1:
        return name
    wanted = ", ".join(["rank-K", *PLAIN, *(f"{one}=SHARE" for one in AT_A_SHARE)])
    raise ValueError(f"no metric {name!r}; expected {wanted}, with a SHARE of 0..1 such as 1e-3")


MetricName = Annotated[str, AfterValidator(_known)]
SPLIT_AT = ">"
"""Between the gallery's domain and the probe's, in the names of published numbers."""
OF_TEMPLATES = (
    *("fusions", "pairs", "galleries", "by", "sighting", "pooling", "normalise_first", "quality", "failure"),
    *("unmated", "same_probes", "norm", "calibrate", "allow_same_media", "per_track"),
)
"""Settings of probes, galleries and their templates."""
WITHIN = ("all", "within")
"""The choices of `pairs` that search domains within themselves."""
OF_METHOD = ("fusions", "pooling", "normalise_first", "quality", "per_track", "same_probes", "norm", "calibrate")
"""Those of them that are a method's own: numbers that differ in them may be compared."""


class Fusion(Config):
    """The fusion of several systems."""

    systems: list[str] = Field(min_length=2, description="the systems, by name")
    by: Literal["feature", "score"] = Field(
        "feature", description="feature: unit vectors side by side; score: weighted mean of normalised scores"
    )
    scale: Scale = Field("z-norm", description="of scores, fitted on training subjects")
    weights: list[float] | None = Field(
        None, description="of each system; none: equal by feature; by score the best of a grid on training subjects"
    )

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.systems):
            raise ValueError(f"weights: expected {len(self.systems)}, one for each system, got {len(self.weights)}")
        return self


class Table(Config):
    """One table of numbers."""

    title: str = Field("", description="title above the table")
    systems: list[str] = Field(default=[], description="systems of the table, by name; none: all")
    fusions: dict[Annotated[str, Field(pattern=NAME)], Fusion] = Field(
        default={}, description="fusions of several systems, by their own name"
    )
    pairs: Literal["roles", "all", "within", "thirds"] = Field(
        "roles",
        description="roles: from the protocol's gallery domains to its probe domains; all: each domain to each other, "
        "and within itself; within: each domain within itself, among other sessions (see apart); thirds: the first "
        "third of each video to its last third (no test of recognition: needs allow_same_media)",
    )
    apart: Apart = Field(
        "session_id", description="within a domain, each template is searched among those of other sessions or so"
    )
    splits: list[Split] = Field(default=["test"], min_length=1, description="splits whose templates are compared")
    galleries: Literal["together", "apart"] = Field(
        "together", description="apart: each gallery of the data set alone, and their average (IJB-C)"
    )
    metrics: list[MetricName] = Field(
        default=list(DEFAULT_METRICS), min_length=1, description="rank-1, map, fnir@fpir=0.01, tar@far=1e-3, eer, ..."
    )
    by: By = Field("subject", description="a template is all of a subject in a domain, a template_id, or a sighting")
    sighting: Sighting = Field(
        "video_id", description="what a sighting is: a video, track, session, camera or single crop"
    )
    pooling: Pooling = Field(
        "mean",
        description="pooling of the vectors of a template: mean, media_mean (each video first), norm_weighted, "
        "quality_weighted (by one column), quality_aware (weights learned on training subjects)",
    )
    normalise_first: bool = Field(False, description="scale crops to length 1 before pooling")
    quality: str = Field("box_height_px", description="the manifest's column for quality_weighted")
    per_track: int | None = Field(
        None,
        ge=1,
        json_schema_extra=IF_SET,
        description="most crops of a subject in a track that are pooled: those of the highest weight, or with mean and "
        "media_mean evenly spread over the track; none: all",
    )
    failure: FailurePolicy = Field("miss", description="treatment of a template without any usable vector")
    unmated: Unmated = Field("refuse", description="treatment of a probe whose subject is not enrolled")
    same_probes: bool = Field(True, description="evaluate every system on the probes that all systems have")
    norm: Norm = Field(
        "none",
        description="z, t or s: normalise scores by those with templates of training subjects (Z-, T- or S-norm)",
    )
    calibrate: float | None = Field(
        None, gt=0, lt=1, description="scores as log-likelihood ratios, learned on training subjects at this prior"
    )
    allow_same_media: bool = Field(False, description="allow gallery and probe from one video")
    allow_trained_subjects: bool = Field(False, description="allow test subjects from a system's own training")
    benchmark: SerializeAsAny[Benchmark] | None = Field(
        None, description="a published protocol, which defines queries and galleries image by image"
    )
    rerank: Rerank | None = Field(
        None, description="k-reciprocal re-ranking of a benchmark: {k1, k2, lambda}; off: none, as a table is either"
    )
    published: dict[str, dict[str, float | dict[MetricName, float]]] = Field(
        default={},
        description="numbers of a paper, %: by system, by probe domain or GALLERY>PROBE, rank-1 or by metric",
    )
    published_n: dict[str, int | dict[str, int]] = Field(
        default={},
        description="probes that those numbers are of: by system, or by system and GALLERY>PROBE or probe domain; a "
        "note says where a table has others",
    )
    also_published: dict[str, dict[str, dict[MetricName, float]]] = Field(
        default={},
        description="rows of the paper without a system here, %: by name, pair and metric; printed as notes",
    )
    published_note: str | None = Field(
        None,
        json_schema_extra=IF_SET,
        description="what one has to know to compare ours with the published numbers; printed as a note",
    )
    published_mining: dict[str, dict[Literal["pos_other", "neg_same"], tuple[float, float]]] = Field(
        default={},
        description="hardest positives from another domain, hardest negatives from the same, first and last, % (the "
        "paper's): by system; a note prints both",
    )
    published_protocol: str = Field(
        "", description="of a benchmark: the full name of the protocol that the paper's numbers were measured under"
    )

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the settings marked IF_SET a table is as it was before them, and so is what was made of it."""
        found: dict[str, Any] = plain(self)
        if_set = [name for name, field in type(self).model_fields.items() if field.json_schema_extra == IF_SET]
        return {name: value for name, value in found.items() if name not in if_set or value is not None}

    @property
    def pooled_as(self) -> str:
        """How crops are pooled, in words."""
        first = ", crops normalised first" if self.normalise_first else ""
        return self.pooling + first + (f", at most {self.per_track} a track" if self.per_track else "")

    @property
    def rule(self) -> Rule:
        """How crops become templates."""
        return Rule(self.by, self.pooling, self.normalise_first, self.quality, self.sighting)

    @property
    def rule_within(self) -> Rule:
        """The same within a domain: what would be all of a subject is all of it in one session."""
        return replace(self.rule, by="sighting", sighting=self.apart) if self.by == "subject" else self.rule

    @property
    def protocol(self) -> str:
        """Name of the benchmark with every choice, such as re-ranking; else empty."""
        return "" if self.benchmark is None else self.benchmark.label + self._reranked

    def task(self, protocol: Protocol) -> str:
        """The fingerprint of what is asked: numbers of one task may be compared, under any name.

        For a benchmark its choices and re-ranking; else the content of the protocol, gallery and probes.
        """
        if self.benchmark is not None:
            rerank = self.rerank.model_dump(mode="json") if self.rerank else None
            return fingerprint([self.benchmark.model_dump(mode="json"), rerank, sorted(self.splits)])
        own = self.model_dump(mode="json", include=set(OF_TEMPLATES) - set(OF_METHOD))
        own |= {"apart": self.apart} if self.pairs in WITHIN else {}
        return fingerprint([protocol.content, own, sorted(self.splits)])

    @property
    def _reranked(self) -> str:
        return f", re-ranked ({self.rerank})" if self.rerank else ""

    @field_validator("rerank", mode="before")
    @classmethod
    def _may_be_off(cls, value: Any) -> Any:
        return None if value is False or value == "off" else value  # YAML takes a bare `off` for false

    @model_validator(mode="before")
    @classmethod
    def _metrics_of_a_benchmark(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("benchmark") is not None and "metrics" not in value:
            return {**value, "metrics": list(CLOSED_SET)}
        return value

    @model_validator(mode="after")
    def _is_a_whole_benchmark(self) -> Self:
        if self.benchmark is None:
            if self.rerank or self.published_protocol:
                raise ValueError("rerank and published_protocol: expected `benchmark:` in the same table, found none")
            return self
        fields = type(self).model_fields
        for name in OF_TEMPLATES:
            if getattr(self, name) != fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name}: has no meaning with `benchmark:`, which defines the search")
        others = [name for name in self.metrics if depth_of(name) is None and name not in ("map", "minp")]
        if others or any((depth_of(name) or 0) > 20 for name in self.metrics):
            raise ValueError(f"metrics: a benchmark has rank-1 to rank-20, map and minp, got {', '.join(self.metrics)}")
        allowed = [name + self._reranked for name in self.benchmark.published_as]
        if self.published and self.published_protocol not in allowed:
            said = repr(self.published_protocol) if self.published_protocol else "none"
            raise ValueError(
                f"published_protocol: expected {' or '.join(map(repr, allowed))}, as the table measures, got {said}: "
                "numbers of two protocols are never set side by side"
            )
        return self

    @property
    def adjusted(self) -> str:
        """What is done to scores, in words that follow their name."""
        norm = "" if self.norm == "none" else f", {self.norm.upper()}-norm"
        return norm + ("" if self.calibrate is None else f", calibrated at prior {self.calibrate:g}")

    @property
    def shares(self) -> list[float]:
        """The shares of false matches of training subjects that thresholds are asked for."""
        return sorted({share_of(metric) for metric in self.metrics if metric.startswith(AT_TRAINING)})

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if "cllr" in self.metrics and self.calibrate is None:
            raise ValueError("cllr: expected `calibrate: PRIOR`, as only log-likelihood ratios have a cost; or mincllr")
        if self.pairs == "thirds" and not self.allow_same_media:
            raise ValueError(
                "pairs: thirds compares a video with itself, which says nothing about recognition: set "
                "allow_same_media: true to look at it all the same"
            )
        if self.per_track and (self.by == "template_id" or (self.by, self.sighting) == ("sighting", "crop_id")):
            raise ValueError(
                f"per_track: {self.by if self.by != 'sighting' else self.sighting} makes several templates of a track, "
                "and the limit would leave some without a crop; take per_track out, or choose another `by`"
            )
        if self.apart != "session_id" and self.pairs not in WITHIN:
            raise ValueError(f"apart: expected pairs: {' or '.join(WITHIN)} in the same table, got {self.pairs}")
        if len(set(self.systems)) < len(self.systems) or set(self.systems) & set(self.fusions):
            raise ValueError("systems and fusions: expected each name once")
        return self

    def other_n(self, system: str, gallery: str, probe: str, n: int) -> list[str]:
        """A line where a number is of another count of probes than the published one."""
        found = self.published_n.get(system)
        if isinstance(found, dict):
            found = found.get(f"{gallery}{SPLIT_AT}{probe}", found.get(probe))
        told = f"{gallery} > {probe}: {system}: the published number is of {found} probes, this one of {n}"
        return [] if found is None or found == n else [told]

    @property
    def about_published(self) -> list[str]:
        """What is to be known of the published numbers, and a line for each published row without a system."""
        found = [f"published numbers: {self.published_note}"] if self.published_note else []
        for name, pairs in self.also_published.items():
            numbers = "; ".join(
                f"{pair} " + ", ".join(f"{metric} {value:g}" for metric, value in of.items())
                for pair, of in pairs.items()
            )
            found.append(f"published for {name}, which has no system here: {numbers}")
        return found

    def paper(self, system: str, gallery: str, probe: str, metric: str) -> float | None:
        """The published number, 0..1, where there is one."""
        of_system = self.published.get(system, {})
        found = of_system.get(f"{gallery}{SPLIT_AT}{probe}", of_system.get(probe))
        if isinstance(found, dict):
            found = found.get(metric)
        elif metric != "rank-1":
            found = None
        return None if found is None else found / 100


def is_of_searches(metric: str) -> bool:
    """Whether a metric counts searches without a mate.

    >>> is_of_searches("dir@fpir=0.1"), is_of_searches("fpir@train=0.1"), is_of_searches("fmr@train=0.1")
    (True, True, False)
    """
    return "@fpir" in metric or metric.startswith(("fpir@", "fnir@"))


def depth_of(metric: str) -> int | None:
    """k of rank-k; None of anything else.

    >>> depth_of("rank-10"), depth_of("map")
    (10, None)
    """
    found = re.fullmatch(r"rank-(\d+)", metric)
    return int(found[1]) if found else None
