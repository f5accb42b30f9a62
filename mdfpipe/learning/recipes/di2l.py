"""di2l: a further image of one colour channel, attending stripes, focal identity loss, weighted triplets.

"Person Re-Identification Method Based on Information-Balanced Identity Learning" (DI2L; no arXiv number), Table 2, of
SYSU-MM01, all search, single-shot: 70.42 % Rank-1 and 68.32 % mAP; without the focal loss 71.46 and 68.18; without part
aggregation, too (which is CAJ), 69.88 and 66.89. Table 1, of RegDB: 87.24 and 81.76.

**Differs.** The paper's gamma <= 0 would stress easy images, while its best is 2: gamma is 0 or more. Eq. 5 adds up
over all identities, which would raise every probability: the image's own subject is meant (`focal_over: all` is the
printed form). "x_i = alpha_i . z(x_i)" multiplies p weights into one part and fits no shape: the sum over parts is
meant. A positive of eq. 6 is never the anchor itself (`positive_itself`: CAJ keeps it); anchors without a positive or a
negative are left out; the weights take part in the gradient. "Aggregated together" are GeM of the map and the stripes
under learned gates. Ours, where the paper says nothing: three parts, u and v of a quarter of the width, scaled by its
root (`scaled: false`: as printed), no bias in u, v, z; stage 0 as what each stream has for itself, GeM of power 3,
weight decay, momentum, warm-up and ten times the rate for neck and classifier (all as CAJ has them); a border of 10
pixels to crop from, which is `pad_px: 13` at 384 rows; erasing with noise; the feature after the neck and its cosine at
test; subjects in turns, so that each comes up equally often. A subject's images of a domain are a plain sample, as in
the paper; `batches.evenly_over: videos` (ours) spreads them over videos or cameras. A crop is cropped with probability
0.5 (`augment.uncropped`), as printed. The auxiliary image takes its channel before normalisation
(`augment.auxiliary_last`: CAJ's after); CAJ's grey one, and its operation on infrared images, are not here. AGW's and
CAJ's code divides the weights of eq. 6 by a sum + 1e-6 (`epsilon: 1e-6`): with distances of 14 or more, which
unnormalised features have, those of negatives add up to less than 1, and the loss jumps; here it is eq. 6. The
non-local blocks are two, after stages 2 and 3; `non_local: {inner: one, norm: mean}` is what AGW's released code
computes in each of its five. "No additional learnable parameters" is not so: the parts have 6.3 million. The running
text has other numbers than the tables, which are taken. CAJ's numbers, which are the table's first row, come with the
feature averaged with that of the mirrored image (`flip_fusion`), by the test command of its README, and its epoch was
picked on the test set; what DI2L's own rows were measured by is not said. The last weights count here. An epoch counts
the crops of all domains: 534 batches of SYSU-MM01, where AGW and CAJ count 696, by the larger of the two domains, so
that 120 epochs are 64,080 steps and not 83,520. Their length is `schedule: {length: 156, warm_up: 13, milestones: [26,
65]}`; RegDB has 65 batches by both. For more than two domains: a stream each or as `streams` says, auxiliary images of
every visible domain, further visible-only manifests included, in the stream of their own; the losses need labels only,
so `pairs` is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mdfpipe.learning.data.augment import Augment
from mdfpipe.learning.data.batches import AUXILIARY, CropBatch, Sampler
from mdfpipe.learning.data.sampling import WithAuxiliary
from mdfpipe.learning.recipes import Losses, Network, Progress
from mdfpipe.learning.recipes._batches import Batches
from mdfpipe.learning.recipes._cross_modal import TINY, CrossModal, NonLocalBlocks
from mdfpipe.learning.streams import is_visible
from mdfpipe.learning.train.schedule import Optimiser, Schedule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from mdfpipe.learning.data.crops import Crops

SHRINKS = 16
"""How many rows of an image are one of the last map."""


class DI2L(CrossModal):
    """Information-balanced identity learning."""

    tiny: ClassVar[dict[str, Any]] = {**TINY, "parts": 2}
    below: ClassVar[tuple[str, ...]] = ("backbone.", "non_local.", "aggregation.")

    image_height_px: int = Field(288, ge=16, le=2048, description="height of the network's input")
    image_width_px: int = Field(144, ge=16, le=2048, description="width of the network's input")
    batches: Batches = Field(
        default=Batches(subjects=8, crops=4, evenly_over="crops"), description="sampling of batches"
    )
    channel_augmentation: bool = Field(
        True, description="a further image of each visible one, with one of its channels for all three"
    )
    non_local: NonLocalBlocks | None = Field(
        default=NonLocalBlocks(), description="attention between places, after stages 2 and 3; null: none"
    )
    dpa: bool = Field(True, description="part aggregation (Table 2: Baseline + DPA)")
    parts: int = Field(3, ge=2, description="horizontal stripes of it (ours)")
    scaled: bool = Field(True, description="its products divided by the root of their width (ours; false: as printed)")
    gem_power: float = Field(3.0, gt=0, description="p of the pooling (ours)")
    focal: bool = Field(True, description="focal identity loss (Table 2: + I2L); false: cross-entropy")
    gamma: float = Field(2.0, ge=0, description="how much less a recognised image counts (Fig. 2b)")
    focal_over: Literal["subject", "all"] = Field(
        "subject", description="the image's own subject, or every one (eq. 5 as printed)"
    )
    phi: Literal["square", "identity"] = Field("square", description="of a triplet's gap x: sign(x) x^2, or x (AGW)")
    positive_itself: bool = Field(False, description="an image is a positive of its own in triplets (CAJ)")
    epsilon: float = Field(
        0.0, ge=0, le=1, description="added to the sums that the weights of triplets are divided by (AGW, CAJ: 1e-6)"
    )
    backbone_rate: float = Field(
        0.1, gt=0, description="rate of all but neck and classifier, times the schedule's (paper: 0.01; the rest CAJ's)"
    )
    optimiser: Optimiser = Field(
        default=Optimiser(rate=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        description="optimiser (paper: SGD; the rest CAJ's)",
    )
    schedule: Schedule = Field(
        default=Schedule(length=120, shape="steps", warm_up=10, warm_up_from=0.1, milestones=[20, 50]),
        description="length of the training and schedule of the learning rate (the warm-up is CAJ's)",
    )
    augment: Augment = Field(
        default=Augment(pad_px=13, uncropped=0.5, erasing=0.5, normalise="imagenet"),
        description="augmentation of training crops",
    )

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        rows = -(-self.image_height_px // SHRINKS)
        if self.dpa and rows % self.parts:
            raise ValueError(
                f"parts: {self.parts} do not divide the {rows} rows of the last map ({SHRINKS} pixels each); change "
                "parts or image_height_px"
            )
        if self.pairs != "all":
            raise ValueError(f"pairs: {self.pairs} changes nothing: the losses need subjects alone; leave it out")
        return self

    def model(self, classes: int, domains: Sequence[str]) -> nn.Module:
        """DI2LModel: backbone, blocks, aggregation, neck, classifier."""
        from mdfpipe.learning.models.di2l import DI2LModel

        return DI2LModel(
            self.backbone,
            domains,
            self.stream_of(domains),
            classes,
            attention=(self.non_local.inner, self.non_local.norm) if self.non_local is not None else None,
            parts=self.parts if self.dpa else 0,
            scaled=self.scaled,
            power=self.gem_power,
        )

    def sampler(self, crops: Crops, seed: int) -> Sampler:
        """P subjects x D domains x K crops, an auxiliary image behind each of visible light."""
        drawn = super().sampler(crops, seed)
        if not self.channel_augmentation:
            return drawn
        visible = [place for place, name in enumerate(crops.domains) if is_visible(name)]
        return WithAuxiliary(drawn, crops.domain, visible)

    def losses(self, model: Network, features: dict[str, Tensor], batch: CropBatch, progress: Progress) -> Losses:
        """L_focal + L_WRT; figures: accuracy, share of images with a triplet, (1 - p)^gamma by domain."""
        from mdfpipe.learning.losses import identity, ranking

        z = features["z"]
        logits = model.classifier(model.neck(z))
        if self.focal:
            terms = {"focal": identity.focal(logits, batch.subject, self.gamma, self.focal_over)}
        else:
            terms = {"identity": identity.cross_entropy(logits, batch.subject)}
        mined = ranking.mine(z, batch.subject)
        terms["triplet"] = ranking.weighted_triplet(
            mined.distance, batch.subject, self.phi, itself=self.positive_itself, epsilon=self.epsilon
        )
        figures = {
            "accuracy": identity.right(logits, batch.subject),
            "with_triplet": (float(mined.valid.sum()), float(len(logits))),
        }
        weight = identity.focal_weight(logits.detach(), batch.subject, self.gamma)
        return Losses(terms, figures | _by_domain(weight, batch, model.domains), mined)

    def measure(self, model: Network, batches: Iterable[CropBatch]) -> dict[str, float]:
        """attention_peak: the greatest of the weights by which a stripe takes others; 1 / parts where all are alike."""
        import torch
        from torch.nn.functional import adaptive_avg_pool2d

        if not self.dpa:
            return {}
        found: list[Tensor] = []

        def keep(aggregation: Any, given: tuple[Tensor, ...]) -> None:
            found.append(aggregation.attention(adaptive_avg_pool2d(given[0], (self.parts, 1))).amax(2).mean(1))

        hook = model.aggregation.register_forward_pre_hook(keep)
        try:
            for batch in batches:
                self.feature(model, batch.images, batch.domain)
        finally:
            hook.remove()
        return {"attention_peak": float(torch.cat(found).mean())}


def _by_domain(weight: Tensor, batch: CropBatch, domains: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The focal weights of each domain that the batch holds, its auxiliary images apart: (sum, count).

    The direct check of the paper's claim that infrared images are the hard ones (METHODS 3.5).
    """
    import torch

    names = [*domains, "auxiliary"]
    of = torch.where(batch.view == AUXILIARY, len(domains), batch.domain)
    sums = torch.zeros(len(names), dtype=weight.dtype, device=weight.device).index_add_(0, of, weight).tolist()
    counts = torch.bincount(of, minlength=len(names)).tolist()
    return {
        f"focal_weight/{name}": (total, float(count))
        for name, total, count in zip(names, sums, counts, strict=True)
        if count
    }
