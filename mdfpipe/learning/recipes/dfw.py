"""dfw: strong answers of the shared stages weakened, two last stages that look at different places, hetero-centres.

"Dynamic Feature Weakening for Cross-Modality Person Re-Identification" (no arXiv number; Computers and Electrical
Engineering, manuscript D-23-00104R1). Table 1: 64.24 % Rank-1 and 62.04 % mAP on SYSU-MM01 (all-search), 93.18 and
89.83 % on RegDB (visible to thermal); its baseline 54.81 and 51.75, 85.46 and 77.63 %. Table 2, on RegDB and a 2080 Ti:
15.150 G FLOPs a pair of images and about 58 minutes of training; its baseline 10.301 and 45.

**Differs.** *What cannot be meant as printed.* Eq. 3, sigmoid(f M), has one channel where stages 3 and 4 need 512 and
1024: `weakening.form: mask` multiplies the map by M; gate, elementwise and literal (one channel for all) are options.
The mask leaves the sigmoid out, and where strong places are less than about twice the mean (at 0.5; five times at 0.2)
it turns their order round: on maps whose standard deviation is 0.2 of the mean, the rank correlation of f before and
after is -.38, by the gate +.9. The gate, F sigmoid(f M), is as in CBAM's spatial attention and fits the paper's small
gains; it saturates where f is large. Neither can be shown to be the paper's: both are rows of the studies of its Table
1, and the log has the standard deviation over the mean of f and the share of strong places of each stage (`spread`,
`strong`). A threshold in 0..1 (M_D2) is compared with the response brought to 0..1 in its image. The place of a maximum
has no gradient, so that eq. 5 could train nothing: a soft arg-max is penalised (`overlap.temperature`), the hard one
logged. Distances are in pixels of the input (S = 100 exceeds any on the map); S is for a height of 288 and scaled with
the input; eq. 5 is a mean over images. Two equal branches have no distance to follow, so that one gets a little noise
before the training (`tie_noise`). Eq. 6 lacks its hinges, and is a mean here, not a sum; negatives are the nearest
centres, not drawn at random as the reply to the reviewers has it. GeM runs over channels in eq. 4, over space for the
embedding. The slope of the soft arg-max is steep: at the start the gradient of the penalty on the last stages was some
eight times that of the triplet term (24 against 3, at height 64; steeper at 288), where the authors' arg-max had none.
The log has the share of the losses (`overlap_share`), not of gradients. `overlap.warm_up` lets its weight rise,
`overlap.weight` scales it. On drawn patterns results did not depend on it; on drawn people of two domains one training
of three did not get going while it was large (docs/methods-on-drawn-people.md).

*Unclear.* Algorithm 1 weakens behind stages 2 and 3, which is the default; the text and Fig. 2b have one weakened map,
behind stage 3 (`weakening.behind: [3]`). DFW has no weights here, and so nothing to "initialize randomly" (line 1) or
to "update by back-propagating" (line 10): a learned one, and one set of stage-4 weights that runs twice, would fit the
26.71 M parameters of Table 2 (2.97 M more than the baseline) and its operations, too. Two last stages, as the text has
them, have 38.71 M and fit the operations alone.

*What the paper does not give, and is ours:* the size of the input (288x144, and stages 0-1 for each stream: what its
parameters and FLOPs need), margins (0.3), p of GeM (3), the schedule (backbone at a tenth of the rate, warm-up of 10
epochs, a tenth at 20, a hundredth at 50), momentum, weight decay, padding (10 pixels at 288) and erasing (0.5), the
test feature (the branches' features side by side, before their necks; cosine; the released code of the hetero-centre
triplet embeds features before and after the necks, and its momentum is Nesterov's), weakening at test as in training
(`weakening.training_only`), the hetero-centre term only with two branches (`hc_triplet`), subjects in turns, so that
each comes up equally often. A subject's images of a domain are a plain sample, as in the paper; `batches.evenly_over:
videos` (ours) spreads them over videos or cameras.

*Settings of the paper.* The default is the best of its Fig. 3, M_D1 with 0.5; M_D3 is `weakening: {factor:
proportion}`, M_D2 `{threshold: 0.5, factor: proportion}`. RegDB: `batches: {subjects: 8, crops: 4}`, `weakening:
{factor: 0.2}`, `overlap: {weight: 1}`. Rows of Table 1: `weakening: null` leaves DFW out, `segmented: false` SLN,
`augment: {erasing: 0}` RE. More than two domains are ours: the positive of a centre is the farthest of its subject in
another domain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mdfpipe.config import Config
from mdfpipe.learning.data.augment import Augment
from mdfpipe.learning.data.batches import CropBatch
from mdfpipe.learning.recipes import Losses, Network, Progress
from mdfpipe.learning.recipes._batches import Batches
from mdfpipe.learning.recipes._cross_modal import IMAGENET, CrossModal
from mdfpipe.learning.streams import DomainPairs
from mdfpipe.learning.train.schedule import Optimiser, Schedule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from mdfpipe.learning.losses.ranking import Mined

HEIGHT_OF_S = 288
"""Pixels of the input that `separation_px` is given for."""
Share = Annotated[float, Field(ge=0, le=1)]


class Weaken(Config):
    """Dynamic feature weakening behind shared stages (DFW eq. 1-3).

    M_D1 is threshold mean and a number as factor, M_D2 a number and proportion, M_D3 mean and proportion.
    """

    threshold: Literal["mean"] | Share = Field(
        "mean", description="what is strong: the mean of the response, or beta, a share of its range (paper: .2 .5 .8)"
    )
    factor: Literal["proportion"] | Share = Field(
        0.5, description="alpha, times what is strong (SYSU .5, RegDB .2), or the proportion e of places that are"
    )
    form: Literal["mask", "gate", "elementwise", "literal"] = Field(
        "mask",
        description="F*M, without the sigmoid of eq. 3; F*sigmoid(f*M), as spatial attention has it; sigmoid(F*M); "
        "literal, eq. 3: sigmoid(f*M) for every channel",
    )
    behind: list[Literal[2, 3]] = Field(
        default=[2, 3], min_length=1, description="stages that it follows: both (Algorithm 1), or [3] (text, Fig. 2b)"
    )
    training_only: bool = Field(False, description="no weakening at test (ours: the paper does not say)")

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.behind != sorted(set(self.behind)):
            raise ValueError(f"behind: expected each stage once, in ascending order, got {self.behind}")
        return self


class Overlap(Config):
    """The penalty on branches that attend to the same place (DFW eq. 4-5)."""

    weight: float = Field(0.5, ge=0, description="lambda of eq. 7 (SYSU .5, RegDB 1)")
    separation_px: float = Field(100.0, ge=0, description="S, px of an input of height 288, scaled with the input")
    temperature: float = Field(0.05, gt=0, description="of the soft arg-max over a response of 0..1 (ours)")
    warm_up: float = Field(
        0.0, ge=0, le=1, description="share of the training during which its weight rises from 0 (ours)"
    )


class Dfw(CrossModal):
    """Dynamic feature weakening and a segmented learning network."""

    only_embedding: ClassVar[tuple[str, ...]] = ("test_feature", "flip_fusion")
    across: ClassVar[tuple[str, ...]] = ("hetero_centre",)

    image_height_px: int = Field(288, ge=16, le=2048, description="height of the network's input (ours)")
    image_width_px: int = Field(144, ge=16, le=2048, description="width of the network's input (ours)")
    optimiser: Optimiser = Field(
        default=Optimiser(rate=0.1, weight_decay=5e-4), description="optimiser (momentum and weight decay: ours)"
    )
    schedule: Schedule = Field(
        default=Schedule(length=60, shape="steps", warm_up=10, warm_up_from=0.1, milestones=[20, 50]),
        description="length of the training and schedule of the learning rate (ours, but for the length)",
    )
    augment: Augment = Field(
        default=IMAGENET.model_copy(update={"pad_px": 13}), description="augmentation of training crops"
    )
    batches: Batches = Field(
        default=Batches(subjects=6, crops=6, evenly_over="crops"), description="sampling of batches"
    )
    backbone_rate: float = Field(0.1, gt=0, description="rate of the backbone, times the schedule's (ours)")
    weakening: Weaken | None = Field(default=Weaken(), description="DFW; none: without")
    segmented: bool = Field(True, description="SLN: two last stages, else one")
    tie_noise: float = Field(
        0.01, ge=0, description="noise on one of two equal branches, times each weight's standard deviation (ours)"
    )
    overlap: Overlap = Field(default=Overlap(), description="overlap penalty, where segmented")
    hc_triplet: Literal["with_sln", "always", "never"] = Field(
        "with_sln", description="the hetero-centre triplet: where segmented (ours), always, never"
    )
    hc_margin: float = Field(0.3, ge=0, description="rho of the hetero-centre triplet (ours)")
    triplet_margin: float | Literal["soft"] = Field(0.3, description="of the triplet of each branch (ours)")
    gem_power: float = Field(3.0, gt=0, description="p of GeM, over space and over channels (ours)")
    test_feature: Literal["raw", "neck"] = Field("raw", description="embedded feature: before or after the necks")

    @property
    def features(self) -> int:
        """D of the embedding: of both branches."""
        return super().features * (2 if self.segmented else 1)

    def model(self, classes: int, domains: Sequence[str]) -> nn.Module:
        """SegmentedNet: trunk, weakening, a neck and a classifier for each branch."""
        from mdfpipe.learning.models.dfw import SegmentedNet, Weakening

        weaken = self.weakening
        return SegmentedNet(
            self.backbone,
            self.stream_of(domains),
            classes,
            segmented=self.segmented,
            weakening=None if weaken is None else Weakening(**weaken.model_dump(exclude={"behind"})),
            behind=() if weaken is None else weaken.behind,
            power=self.gem_power,
            pairs=DomainPairs.of(domains, self.pairs),
        )

    def before_training(self, model: Network) -> None:
        """Tell two equal branches apart."""
        model.break_tie(self.tie_noise)

    def losses(self, model: Network, features: dict[str, Tensor], batch: CropBatch, progress: Progress) -> Losses:
        """lambda L_op + L_hc + L_reid (eq. 7)."""
        import torch

        from mdfpipe.learning.losses.dfw import hetero_centre_triplet

        z = features["z"].float()
        terms, figures, mined = self._identify(model, z, batch)
        if self.hc_triplet == "always" or (self.hc_triplet == "with_sln" and self.segmented):
            terms["hetero_centre"] = hetero_centre_triplet(
                z.flatten(1), batch.subject, batch.domain, model.pairs, self.hc_margin
            )
        if self.segmented:
            penalty, distances = self._overlap(features["response"])
            figures |= distances
            if self.overlap.weight:
                warm = self.overlap.warm_up
                terms["overlap"] = self.overlap.weight * penalty * (min(progress.share / warm, 1.0) if warm else 1.0)
                whole = torch.stack(list(terms.values())).detach().sum()
                figures["overlap_share"] = (float(terms["overlap"].detach() / whole.clamp_min(1e-12)), 1.0)
        if "weakened" in features:
            count, sums = float(len(z)), features["weakened"].sum(0).tolist()
            for stage, (spread, strong) in zip(model.behind, sums, strict=True):
                figures |= {f"spread/stage{stage}": (spread, count), f"strong/stage{stage}": (strong, count)}
        return Losses(terms, figures, mined)

    def _identify(
        self, model: Network, z: Tensor, batch: CropBatch
    ) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]], Mined]:
        """L_reid: cross-entropy behind the neck and triplets before it, summed over branches. Mined: of the first."""
        import torch

        from mdfpipe.learning.losses import identity, ranking

        logits = [model.classifier[name](model.neck[name](z[:, n])) for n, name in enumerate(model.names)]
        mined = [ranking.mine(z[:, n], batch.subject) for n in range(len(model.names))]
        terms = {
            "identity": torch.stack([identity.cross_entropy(each, batch.subject) for each in logits]).sum(),
            "triplet": torch.stack([ranking.triplet(each, self.triplet_margin) for each in mined]).sum(),
        }
        right = identity.right(torch.cat(logits), batch.subject.repeat(len(logits)))
        return terms, {"accuracy": right}, mined[0]

    def _overlap(self, response: Tensor) -> tuple[Tensor, dict[str, tuple[float, float]]]:
        """L_op, and the distance of the branches' places by the soft and by the hard arg-max, px of the input."""
        from mdfpipe.learning.losses.dfw import apart, hard_centre, overlap, soft_centre

        height, width = response.shape[2:]
        cell = (self.image_height_px / height, self.image_width_px / width)
        first, second = (soft_centre(response[:, n], cell, self.overlap.temperature) for n in range(2))
        hard = apart(hard_centre(response[:, 0], cell), hard_centre(response[:, 1], cell))
        count = float(len(response))
        figures = {
            "apart_px": (float(apart(first, second).detach().sum()), count),
            "apart_hard_px": (float(hard.sum()), count),
        }
        return overlap(first, second, self.overlap.separation_px * self.image_height_px / HEIGHT_OF_S), figures

    def measure(self, model: Network, batches: Iterable[CropBatch]) -> dict[str, float]:
        """apart: the distance of the places that branches attend to, by the hard arg-max, over the input's diagonal."""
        import torch

        from mdfpipe.learning.losses.dfw import apart, hard_centre

        if not self.segmented:
            return {}
        found: list[Tensor] = []
        for batch in batches:
            response = model(batch.images, batch.domain)["response"]
            cell = (self.image_height_px / response.shape[2], self.image_width_px / response.shape[3])
            found.append(apart(hard_centre(response[:, 0], cell), hard_centre(response[:, 1], cell)))
        diagonal = math.hypot(self.image_height_px, self.image_width_px)
        return {"apart": float(torch.cat(found).mean()) / diagonal}

    def feature(self, model: Network, images: Tensor, domain: Tensor) -> Tensor:
        """(B, D) of all branches side by side."""
        import torch

        z: Tensor = model(images, domain)["z"].float()
        if self.test_feature == "raw":
            return z.flatten(1)
        return torch.cat([model.neck[name](z[:, n]) for n, name in enumerate(model.names)], dim=1)
