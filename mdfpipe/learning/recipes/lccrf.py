"""lccrf: enumerate angular triplets with a compactness term, cross-modality distillation, label-smoothed identity.

"Leaning compact and representative features for cross-modality person re-identification" (LCCRF; World Wide Web 2022,
no arXiv number), Table 1 and 2, of SYSU-MM01, all search, single-shot: 43.23 % Rank-1 and 43.09 % mAP; without
distillation 42.16 and 41.88, without non-local blocks 41.80 and 41.29, without both 40.17 and 40.11, and without the
angular loss, too, 21.14 and 18.52. Table 3, of RegDB: 80.97 and 79.92 from thermal to visible, 79.27 and 77.69 back.

**Differs.** `[cos(a, p)]_+` gives no gradient to a positive beyond a right angle, the one that needs it most: negatives
alone are clamped (`eat.clamp_positive: true` is eq. 15-16 as printed). Eq. 11 has a negative in the positive's place,
eq. 6 the same cosine twice: misprints, taken as eq. 16 has them. The margin is 1 in section 3.3 and 0.3 in 4.3; without
an outer hinge it is a factor of the loss and nothing else, so it is 1 (`eat.hinge: true` lets it matter). Eq. 18, the
compactness term, has no gradient, or a vanishing one, whichever cosine is meant, and sums up to 89,000: taken are the
columns of the last map against their mean, as a mean (ours); `eat.compactness: element` is the sentence about elements
and their mean, `literal` the equation, `none` the released code, which has no such term and yet converges. Eq. 5 is a
mean over elements, not a sum over some 800,000; `cmkd.of: pooled` compares GeM of the maps, which asks for no two crops
to agree pixel by pixel, and `cmkd.relative` divides by the mean of M^2 (both ours). `eat.form: released` is what the
code trains with: two of the four terms, a hinge, the exponential of the mean. The paper does not say what remains
without the angular loss; here the compactness term goes with it, and the identity loss (and distillation) stay. The
place of the non-local blocks is not stated: two, after stages 2 and 3 (ours); `non_local: {place: agw, inner: one,
norm: mean}` is the code's. `classifier_input: dropout_elu` is the code's, too. Where the paper says nothing, these are
the code's: images of 384x128, flip, a border of 10 pixels to crop from, GeM of power 3, V after the neck for angular
and identity losses, the length of the warm-up, weight decay, the rate of biases, and the walk over all visible images
as anchors. The code passes anchors, positives and negatives of each modality through the network one after the other,
so that each of the six has batch norms of its own, the neck's included, which takes out the shift between modalities
(`normalised: by_role`); here all 48 images are normalised together. Its erased rectangles have one colour, here noise.
On SYSU-MM01 its walk chooses the person alone, here the anchor, too. Its RegDB weights are the best of every 200 steps
on a split that is tested; here the last ones count. A tuple is of a subject with crops in every domain; its positive is
any other crop (the paper draws at random; `batches.evenly_over: videos`, ours, takes another video or camera where
there is one), and the subject of each negative is drawn before its crop, as the code does; subjects that lack a domain
give negatives only, unless `tuples: batch` (ours), which takes all positives and negatives of a batch, and draws by
`batches.sampler: random` where that is asked for. At test V is compared by Euclidean distance and not brought to unit
length (`normalise: true` does). For more domains: means over ordered pairs, times two (ours); distillation
leaves out pairs that share a stream. Crops of further manifests count for the identity loss alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from mdfpipe.config import Config
from mdfpipe.errors import ConfigError
from mdfpipe.learning.data.batches import ANCHOR, CropBatch, Sampler
from mdfpipe.learning.data.sampling import Tuples
from mdfpipe.learning.recipes import Losses, Network, Progress
from mdfpipe.learning.recipes._batches import Batches
from mdfpipe.learning.recipes._cross_modal import TINY, CrossModal, NonLocalBlocks
from mdfpipe.learning.streams import DomainPairs, is_visible
from mdfpipe.learning.train.schedule import Optimiser, Schedule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from mdfpipe.learning.data.crops import Crops
    from mdfpipe.learning.losses.lccrf import Triples

CROPS, ROLES = 2, 3


class Eat(Config):
    """The enumerate angular triplet loss, and the compactness term (eq. 15-19)."""

    weight: float = Field(1.0, ge=0, description="of the angular loss; 0 leaves compactness alone")
    form: Literal["enumerate", "released"] = Field("enumerate", description="the paper's, or the released code's expAT")
    margin: float = Field(1.0, ge=0, description="zeta")
    clamp_positive: bool = Field(False, description="cosines of positives not below 0, as printed")
    hinge: bool = Field(False, description="exponents not below 0 (ours); expAT has it anyway")
    compactness: Literal["map", "element", "literal", "none"] = Field(
        "map", description="C of the places of the last map (ours), of elements (ours), as printed, or none (released)"
    )
    compactness_weight: float = Field(1.0, gt=0, description="of C")

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.form == "released" and (self.clamp_positive or self.hinge):
            raise ValueError("form released has a hinge and unclamped positives: leave clamp_positive and hinge out")
        if not self.weight and self.compactness == "none":
            raise ValueError("weight 0 and compactness none leave no term: set eat to null")
        return self


class Cmkd(Config):
    """The cross-modality distillation loss (eq. 5)."""

    weight: float = Field(1.0, gt=0, description="of the loss")
    of: Literal["elements", "pooled"] = Field("elements", description="of whole maps, or of their GeM (ours)")
    relative: bool = Field(False, description="divided by the mean square of the maps (ours)")


class PlacedNonLocalBlocks(NonLocalBlocks):
    """The same, in one of two places."""

    place: Literal["two", "agw"] = Field("two", description="after stages 2 and 3 (ours); agw: AGW's five, within them")


class Lccrf(CrossModal):
    """Enumerate angular triplets and cross-modality distillation."""

    distance: ClassVar[Literal["cosine", "euclidean"]] = "euclidean"
    only_embedding: ClassVar[tuple[str, ...]] = ("flip_fusion", "normalise")
    below: ClassVar[tuple[str, ...]] = ("backbone.", "non_local.")
    tiny: ClassVar[dict[str, Any]] = {
        **TINY,
        "schedule": {"length": 2, "unit": "steps", "warm_up": 0, "milestones": []},
    }

    batches: Batches = Field(
        default=Batches(evenly_over="crops"),
        description="domain_aware: `subjects` tuples, an anchor, a positive and a negative of each domain (`crops` has "
        "no meaning); others as everywhere, with tuples: batch",
    )
    tuples: Literal["own", "batch"] = Field(
        "own", description="positives and negatives: of the anchor's own tuple, or all of the batch (ours)"
    )
    eat: Eat | None = Field(default=Eat(), description="angular loss and compactness (Table 1); null: none")
    non_local: PlacedNonLocalBlocks | None = Field(
        default=PlacedNonLocalBlocks(), description="attention between places (Table 1); null: none"
    )
    cmkd: Cmkd | None = Field(default=Cmkd(), description="cross-modality distillation (Table 1); null: none")
    smoothing: float = Field(0.1, ge=0, lt=1, description="of the identity labels")
    classifier_input: Literal["plain", "dropout_elu"] = Field(
        "plain", description="V, or V through dropout 0.5 and ELU (released); each process draws its own dropout"
    )
    normalised: Literal["together", "by_role"] = Field(
        "together",
        description="batch norm over all images of a batch, or over anchors, positives and negatives of each domain by "
        "themselves (released)",
    )
    normalise: bool = Field(False, description="embed V at unit length; false: as the paper's code compares it")
    bias_rate: float = Field(2.0, gt=0, description="rate of biases, times the others' (released)")
    bias_decay: float | None = Field(0.0, ge=0, description="weight decay of biases (released); null: as the others'")
    optimiser: Optimiser = Field(
        default=Optimiser(method="adam", rate=3e-4, weight_decay=5e-4), description="optimiser (weight decay: released)"
    )
    schedule: Schedule = Field(
        default=Schedule(
            length=30_000, unit="steps", shape="steps", warm_up=500, warm_up_from=1 / 3, milestones=[10_000, 20_000]
        ),
        description="length of the training and schedule of the learning rate (the warm-up is the released code's)",
    )

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.cmkd is not None and self.streams == "shared":
            raise ValueError(
                "cmkd compares what different streams give, and streams: shared has one: set cmkd to null, or streams "
                "to per_domain or vis_ir"
            )
        if self.tuples == "own" and self.batches.sampler != "domain_aware":
            raise ValueError(
                f"tuples: own needs batches of tuples, and batches.sampler: {self.batches.sampler} has none: set "
                "tuples to batch, or leave the sampler out"
            )
        if self.normalised == "by_role" and self.batches.sampler != "domain_aware":
            raise ValueError(
                f"normalised: by_role: expected batches of tuples, whose images have roles, got batches.sampler: "
                f"{self.batches.sampler}; set normalised to together, or leave the sampler out"
            )
        if self.batches.sampler == "domain_aware" and self.batches.crops != CROPS:
            raise ValueError(
                f"batches.crops: {self.batches.crops}: a tuple has an anchor, a positive and a negative of each "
                "domain; leave it out, and set batches.subjects to the number of tuples"
            )
        return self

    def model(self, classes: int, domains: Sequence[str]) -> nn.Module:
        """LccrfNet: streams, shared stages with non-local blocks, neck, classifier. Raises ConfigError."""
        from mdfpipe.learning.models.lccrf import LccrfNet

        pairs, streams = DomainPairs.of(domains, self.pairs), self.stream_of(domains)
        paired = self.eat is not None or self.cmkd is not None
        if classes and paired and not pairs.pairs:
            raise ConfigError(
                f"pairs: {self.pairs}: there is none among {', '.join(domains) or '(no domain)'}: train on more "
                "domains, or set pairs to all"
            )
        if classes and self.cmkd is not None and len(set(streams)) < 2:
            raise ConfigError(
                f"cmkd: {', '.join(domains)} share the stream {streams[0]}: set cmkd to null, or streams to per_domain"
            )
        attention = self.non_local or PlacedNonLocalBlocks()
        return LccrfNet(
            self.backbone,
            streams,
            pairs,
            classes,
            order=[_walked(domains).index(name) for name in domains],
            blocks=attention.place if self.non_local is not None else None,
            inner=attention.inner,
            norm=attention.norm,
        )

    def sampler(self, crops: Crops, seed: int) -> Sampler:
        """Tuples, or as `batches` says. Raises DataError."""
        if self.batches.sampler != "domain_aware":
            return super().sampler(crops, seed)
        sources = self.batches.sources_of(crops)
        there = np.unique(crops.domain[np.isin(crops.source, sources)]).tolist()
        domains = _walked([crops.domains[place] for place in there])
        evenly, tuples = self.batches.evenly_over or "crops", self.batches.subjects
        own = Tuples(crops, tuples=tuples, seed=seed, domains=domains, sources=sources, evenly_over=evenly)
        return self.batches.with_further(own, crops, seed)

    def forward(self, model: Network, batch: CropBatch) -> dict[str, Tensor]:
        """z (B, D) before the neck; map, what the streams give, as `cmkd` takes it; compactness (B,) of the last map.

        The maps are those that the backward pass keeps anyway: 3 MB an image at 384x128. Several processes hold those
        of the whole batch, 150 MB for 8 tuples of two domains.
        """
        found: dict[str, Tensor] = model(
            batch.images,
            batch.domain,
            maps=self.cmkd.of if self.cmkd is not None else None,
            compactness=self.eat is not None and self.eat.compactness == "map",
            part=self._part(batch),
        )
        return found

    def _part(self, batch: CropBatch) -> Tensor | None:
        """(B,) a number for each domain and role, where these are normalised by themselves."""
        return batch.domain * ROLES + batch.role if self.normalised == "by_role" else None

    def losses(self, model: Network, features: dict[str, Tensor], batch: CropBatch, progress: Progress) -> Losses:
        """L_ID, L_EAT and C, L_CMKD; figures: accuracy, cosines of positives and negatives, mean square of maps."""
        from torch.nn import functional

        from mdfpipe.learning.losses import lccrf
        from mdfpipe.learning.losses.identity import right
        from mdfpipe.learning.losses.ranking import precise

        v = model.necked(features["z"], self._part(batch))
        anchors = batch.role == ANCHOR
        given = v[anchors]
        if self.classifier_input == "dropout_elu":
            given = functional.elu(functional.dropout(given, 0.5))
        logits, subject = precise(model.classifier(given)), batch.subject[anchors]
        each = functional.cross_entropy(logits, subject, reduction="none", label_smoothing=self.smoothing)
        domains = len(model.backbone.stream)
        terms = {"identity": 2 * lccrf.mean_of_means(each, batch.domain[anchors], domains)}
        found = Losses(terms, {"accuracy": right(logits, subject)})
        number = lccrf.tuple_number(model.order[batch.domain], batch.role) if self.tuples == "own" else None
        matches = lccrf.matches(batch, model.pairs, number)
        if self.eat is not None:
            triples = lccrf.triples(batch, model.pairs, matches, number)
            self._angular(self.eat, found, v, features, batch, triples, domains)
        if self.cmkd is not None:
            stream = model.backbone.stream[batch.domain]
            apart = matches.only(stream[matches.anchor] != stream[matches.positive])  # pairs that have a stream each
            loss = lccrf.cross_modality_distillation(features["map"], apart, relative=self.cmkd.relative)
            found.terms["cmkd"] = self.cmkd.weight * loss
            found.figures["map_square"] = (float(lccrf.mean_square(features["map"])), 1.0)
        return found

    def _angular(
        self,
        eat: Eat,
        found: Losses,
        v: Tensor,
        features: dict[str, Tensor],
        batch: CropBatch,
        triples: Triples,
        domains: int,
    ) -> None:
        """Add L_EAT and C."""
        from mdfpipe.learning.losses import lccrf

        cosine = lccrf.cosines(v)
        if eat.form == "released":
            loss = lccrf.exponential_angular_triplet(cosine, triples, margin=eat.margin)
        else:
            loss = lccrf.enumerate_angular_triplet(
                cosine, triples, margin=eat.margin, clamp_positive=eat.clamp_positive, hinge=eat.hinge
            )
        if eat.weight:
            found.terms["eat"] = eat.weight * loss
        seen, count = cosine.detach(), float(len(triples.anchor))
        found.figures["cosine_positive"] = (float(seen[triples.anchor, triples.positive].sum()), count)
        found.figures["cosine_negative"] = (float(seen[triples.anchor, triples.negative].sum()), count)
        if eat.compactness == "none":
            return
        if eat.compactness == "map":
            each = features["compactness"]
        elif eat.compactness == "element":
            each = lccrf.compactness_of_elements(v)
        else:
            each = lccrf.compactness_as_printed(v)
        compact = lccrf.of_anchors(each, batch, domains, summed=eat.compactness == "literal")
        found.terms["compactness"] = eat.compactness_weight * compact

    def embed(self, model: Network, batch: CropBatch) -> Tensor:
        """V, after the neck (METHODS 4.4); at unit length where that is asked for."""
        from torch.nn.functional import normalize

        found = super().embed(model, batch)
        return normalize(found) if self.normalise else found

    def measure(self, model: Network, batches: Iterable[CropBatch]) -> dict[str, float]:
        """compactness of the test features of each subject: see `lccrf.spread`."""
        import torch

        from mdfpipe.learning.losses.lccrf import spread

        found = [(self.embed(model, batch), batch.subject) for batch in batches]
        value = spread(*(torch.cat(each) for each in zip(*found, strict=True)))
        return {} if value is None else {"compactness": value}


def _walked(domains: Sequence[str]) -> list[str]:
    """The domains as tuples have them, visible ones first: an epoch walks over the crops of the first (METHODS 4.2)."""
    return sorted(domains, key=lambda name: not is_visible(name))
