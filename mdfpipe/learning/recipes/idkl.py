"""idkl: a shared branch that learns from a specific one: adversaries, a purifier, and two kinds of distillation.

"Implicit Discriminative Knowledge Learning for Visible-Infrared Person Re-Identification" (arXiv 2403.11708), Table 1:
SYSU-MM01 all-search, single-shot 81.42 % Rank-1 and 79.85 % mAP; Table 2: RegDB visible to thermal 94.72 and 90.19;
Table 3: LLCM visible to infrared 72.22 and 66.43. Its released evaluation has k-reciprocal re-ranking switched on, so
that these are likely numbers with it. Table 4 switches terms, here by their weights: L_b 67.60 / 66.47; + tgsa 68.38 /
67.30; + ip + tgsa 76.40 / 74.83; + ip + csa 76.28 / 74.34; + ip + mdr 77.04 / 75.66. L_b + ip, which it lacks, is
`tgsa.weight`, `csa.weight` and `mdr.weight` 0. Without ip (`ip.weight: 0`) f_sp takes the place of f_p everywhere.

**Differs.** Readings, where the print cannot be meant: t log p of eq. 2 and 3 would count one modality, cross-entropy
over domains is taken; h of eq. 10 is the entropy; eq. 15 would give the farthest image the largest share, so the
distance is negated (`affinity.sign: 1` is as printed), between features of unit length; eq. 16, 19 and 20 are means
instead of sums, over distributions instead of logits; column i is left out of all three matrices. f_sp and Z_sp of eq.
17-19 are the purified ones; no table of the paper has a row without L_D and L_C. The masks of eq. 8 pool by GeM: of an
instance-normalised map the average is 0. Ours, for the paper does not say: the depth of the adversaries (behind the
neck), their size and rate, the strength of the reversal (0.1), the margin, the temperature, GeM's power, a BN neck of
its own for the raw f_sp (behind which both entropies of eq. 10 are taken), detached references in eq. 10 and 11, unit
length in eq. 11; flip, a border of 10 pixels to crop from, erasing; subjects in turns, so that each comes up equally
often. A subject's images of a domain are a plain sample; `batches.evenly_over: videos` (ours) spreads them over videos
or cameras. In a batch of unequally many images of each domain, adversaries weigh domains alike. What has no counterpart
under `mdr.pairing: index` (a crop whose pair does not decode, or one of a further manifest) is left out of MDR;
`mdr_paired` of the log is the share that is not. L_D weighs 0.1, not 1 as in eq. 5 (see below).

The paper's rate (3e-5, by 0.1 at 60 and 100) comes without a number of epochs and without a weight decay; 160 and 5e-3
are the released code's. `configuration: released` takes its rate and milestones (3.5e-4, 55 and 95), in our view the
safer start from ImageNet weights. `pipelines/sysu/idkl-released.yaml` has all that the code does
differently, each an option here: margin 1.3, images 384x144, `ip: {mask: full, affine: true, enhancing: released, unit:
false, hinge: relu, detach: false}`, `specific_identity: purified`, eq. 15 as it is printed (`affinity: {temperature: 1,
sign: 1, unit: false}`), divergences both ways (`kl: symmetric` of tgsa, csa and mdr), `tgsa.cross: false`, and
`adversary: {discriminators: 1, discriminate: purified, confuser: shuffled, dropout: 0.5, rate: 1}`: its confuser has no
turned gradient, but labels of which half are false, so that its 81.42 % say nothing for one. Not taken from it: weights
that follow the batch size, a cross matrix of concatenated halves, a softmax along the samples, a third classifier for
eq. 10 that nothing else trains, and grey borders and black rectangles (here black and noise). `mdr.pairing: class` is
ours. Its evaluation normalises the feature on SYSU-MM01, and not on RegDB and LLCM; this recipe's distance is the
cosine.

**What the adversaries do.** Their own loss at chance does not mean that the shared feature hides its domain: heads that
learn more slowly than the features are deceived, and a new head is not. `validation/domain_probe`, of a training with
`validation.subjects`, measures it: the share of images whose domain a new ridge regression finds, to be compared with
that of `adversary: {depths: []}`. Here are probe and Rank-1 in per cent of L_b alone on drawn patterns of two domains.
MLP: means over four seeds of 100 steps; ResNet: ResNet-18 of half width, one seed, 120 steps. A Rank-1 is known to some
6 on either side. *Slow heads* are `{dropout: 0.5, rate: 1, strength: 1, discriminators: 1}`.

| adversary | MLP | ResNet |
|---|---|---|
| none | 71.7, 51.5 | 68.9, 21.1 |
| slow heads behind stage 3, stage 4 and the neck (the default once) | 81.8, 47.3 (165 steps) | 80.8, 17.2 |
| slow heads behind the neck | 79.0, 52.5 (one seed) | 81.4, 17.8 |
| `{strength: 1, discriminators: 1}` | 77.5, 50.5 (one seed) | 74.7, 21.7 |
| `{strength: 0.3, discriminators: 1}` | 75.4, 49.4 | |
| `{discriminators: 1}` | 73.0, 50.0 | |
| default | 70.3, 48.4 | 68.6, 18.9 |

So heads that keep up, a weak reversal and little weight on the discriminators, which reach the shared trunk, do not let
the domain become easier to find. Nothing here made it hard to find, or raised Rank-1, in so few steps. Heads behind
stage 4 and the neck are the same family of functions: both together weigh f_sh twice. On real data, compare
`domain_probe` and Rank-1 of the rows with and without adversaries before anything is concluded.

Any number of domains: adversaries of as many outputs; L_r and MDR are means over pairs, the visible domain first; TGSA
and CSA means over domains, times 2, which is the paper's sum where there are two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mdfpipe.config import Config
from mdfpipe.errors import ConfigError
from mdfpipe.learning.data.batches import CropBatch
from mdfpipe.learning.probe import domain_probe
from mdfpipe.learning.recipes import Losses, Network, Progress
from mdfpipe.learning.recipes._batches import Batches
from mdfpipe.learning.recipes._cross_modal import CrossModal
from mdfpipe.learning.streams import DomainPairs, is_visible
from mdfpipe.learning.train.schedule import Optimiser, Schedule

if TYPE_CHECKING:
    from torch import Tensor, nn


Place = Literal["stage3", "stage4", "neck"]
BothWays = Literal["paper", "symmetric"]
ADVERSARIES = ("discriminators", "confusers")


def _configuration(rate: float, milestones: list[float]) -> dict[str, Any]:
    optimiser = Optimiser(method="adam", rate=rate, weight_decay=5e-3)
    schedule = Schedule(length=160, shape="steps", warm_up=0, milestones=milestones)
    return {"optimiser": optimiser, "schedule": schedule}


CONFIGURATIONS = {"paper": _configuration(3e-5, [60, 100]), "released": _configuration(3.5e-4, [55, 95])}
"""Optimiser and schedule of each (METHODS 5.3)."""


class Purification(Config):
    """The IN-guided purifier and what supervises it: L_ip = L_e + L_r + L_reid(f_p), eq. 13. Weight 0: none."""

    weight: float = Field(0.1, ge=0, description="lambda_1")
    mask: Literal["channel", "full"] = Field("channel", description="a mask's number for a channel, or for each place")
    reduction: int = Field(16, ge=1, description="r of eq. 8")
    affine: bool = Field(False, description="scale and shift in the instance norm (ours: without)")
    enhancing: Literal["softplus", "released"] = Field(
        "softplus",
        description="eq. 10, of entropies behind the neck of the raw feature; released: exp(relu(x)) - 1, of none",
    )
    unit: bool = Field(True, description="centres of eq. 11 of unit-length features (ours)")
    hinge: Literal["softplus", "relu"] = Field("softplus", description="of eq. 11; released code: relu")
    detach: bool = Field(
        True, description="no gradient to the references of eq. 10 and 11 (ours; released code: false)"
    )


class Adversary(Config):
    """Discriminators on the specific branch, confusers on the shared one (eq. 2-4)."""

    depths: list[Place] = Field(
        default=["neck"], description="where they sit; empty: none (ours, the paper has K of each; released code: neck)"
    )
    discriminators: float = Field(
        0.1, ge=0, description="weight of their term L_D (ours; eq. 5 and released: 1); 0: none"
    )
    confusers: float = Field(1.0, ge=0, description="weight of their term L_C (eq. 6); 0: none")
    discriminate: Literal["raw", "purified"] = Field(
        "raw", description="specific feature that discriminators take (eq. 3); released code: the purified one"
    )
    hidden: int = Field(100, ge=1, description="width of their two inner layers (ours)")
    dropout: float = Field(0.0, ge=0, lt=1, description="in them (ours; released: 0.5)")
    rate: float = Field(10.0, gt=0, description="rate of their weights, times the schedule's (ours; released: 1)")
    confuser: Literal["reversal", "shuffled"] = Field(
        "reversal", description="turned gradients (eq. 2), or the released code's: labels shuffled over the batch"
    )
    strength: float = Field(0.1, gt=0, description="of the reversal (ours)")
    ramp: bool = Field(False, description="increase the reversal from 0 to its strength during the training")

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if len(set(self.depths)) < len(self.depths):
            raise ValueError(f"depths: expected each once, got {', '.join(self.depths)}")
        if self.discriminate == "purified" and "stage3" in self.depths:
            raise ValueError(
                "discriminate purified: there is no purified feature behind stage3; leave it out of depths"
            )
        return self

    @property
    def sits(self) -> dict[str, list[Place]]:
        """The depths of discriminators and of confusers: none where their weight is 0."""
        return {name: self.depths if getattr(self, name) else [] for name in ADVERSARIES}


class Affinity(Config):
    """The matrices of eq. 15, in tgsa and mdr."""

    temperature: float = Field(0.1, gt=0, description="of the softmax (ours; as printed: 1)")
    sign: Literal[-1, 1] = Field(-1, description="before the distance; 1: as printed, the farthest weighs most")
    unit: bool = Field(True, description="features at unit length (ours; as printed and released: false)")

    @property
    def settings(self) -> tuple[float, Literal[-1, 1], bool]:
        """Those of a matrix, in the order in which losses take them."""
        return self.temperature, self.sign, self.unit


class Graph(Config):
    """TGSA: neighbourhoods of the shared features as of the purified ones (eq. 16 and 17). Weight 0: off."""

    weight: float = Field(0.6, ge=0, description="lambda_2")
    cross: bool = Field(True, description="all three matrices; false: those within a branch only (released code)")
    kl: BothWays = Field("paper", description="divergences as printed, or both ways, added (released code)")


class Semantic(Config):
    """CSA: classes of the shared features as of the purified ones (eq. 19). Weight 0: off."""

    weight: float = Field(0.8, ge=0, description="lambda_3")
    kl: Literal["paper", "teacher_first", "symmetric"] = Field(
        "paper", description="the shared branch first, as printed; the purified one; both ways, added (released code)"
    )
    detach_teacher: bool = Field(False, description="no gradient to the purified branch")


class Discrepancy(Config):
    """MDR: neighbourhoods and classes alike in two domains of the shared branch (eq. 20). Weight 0: off."""

    weight: float = Field(1.0, ge=0, description="weight of the term; the paper: 1")
    pairing: Literal["index", "class"] = Field(
        "index", description="the k-th images of a subject belong together, or whole subjects, for any counts"
    )
    kl: BothWays = Field("paper", description="divergences as printed, or both ways, added (released code)")


class Idkl(CrossModal):
    """Implicit discriminative knowledge learning."""

    head: ClassVar[tuple[str, ...]] = (
        "classifier.",
        "training_only.classifier.",
        "training_only.discriminators.",
        "training_only.confusers.",
    )
    across: ClassVar[tuple[str, ...]] = ("reducing", "mdr")

    configuration: Literal["paper", "released"] = Field(
        "paper", description="whose optimiser and schedule, where they are not given"
    )
    streams: Literal["shared"] = Field("shared", description="all images go through the same weights")
    batches: Batches = Field(
        default=Batches(subjects=12, crops=5, evenly_over="crops"), description="sampling of batches"
    )
    optimiser: Optimiser = Field(default=CONFIGURATIONS["paper"]["optimiser"], description="optimiser")
    schedule: Schedule = Field(
        default=CONFIGURATIONS["paper"]["schedule"],
        description="length of the training and schedule of the learning rate (length: released)",
    )
    power: float = Field(3.0, ge=1, description="of GeM (ours)")
    margin: float | Literal["soft"] = Field(0.3, description="of the triplet terms, or soft (ours)")
    specific_identity: Literal["both", "purified"] = Field(
        "both",
        description="identity and triplet terms on the raw and the purified specific feature (eq. 5 and 13); or on the "
        "purified one alone, with weight 1",
    )
    adversary: Adversary = Field(default=Adversary(), description="discriminators and confusers")
    ip: Purification = Field(default=Purification(), description="the purifier")
    affinity: Affinity = Field(default=Affinity(), description="matrices of tgsa and mdr")
    tgsa: Graph = Field(default=Graph(), description="triplet graph structure alignment")
    csa: Semantic = Field(default=Semantic(), description="class semantic alignment")
    mdr: Discrepancy = Field(default=Discrepancy(), description="modality discrepancy reduction")

    @model_validator(mode="before")
    @classmethod
    def _take_the_configuration(cls, value: Any) -> Any:
        """Optimiser and schedule of the named configuration, but for what is given."""
        chosen = CONFIGURATIONS.get(str(value.get("configuration", "paper"))) if isinstance(value, dict) else None
        if chosen is None:
            return value
        merged = dict(value)
        for name, usual in chosen.items():
            given = value.get(name, {})
            if isinstance(given, dict):
                merged[name] = usual.model_dump() | given
        return merged

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        told = self.optimiser.rate, self.schedule.milestones
        for name, usual in CONFIGURATIONS.items():
            if name != self.configuration and told == (usual["optimiser"].rate, usual["schedule"].milestones):
                raise ValueError(
                    f"configuration {self.configuration}: optimiser.rate {told[0]:g} and schedule.milestones {told[1]} "
                    f"are those of {name}; leave them out, and instead of a sweep, which gives every setting, name a "
                    "system for each configuration"
                )
        purified = {"specific_identity": self.specific_identity, "adversary.discriminate": self.adversary.discriminate}
        for name, value in purified.items():
            if value == "purified" and not self.ip.weight:
                raise ValueError(f"{name} purified: there is no purified feature where ip.weight is 0")
        if self.mdr.weight and self.mdr.pairing == "index" and self.batches.sampler != "domain_aware":
            raise ValueError(
                "mdr.pairing index: expected equally many crops of a subject in each domain, which batches.sampler "
                f"{self.batches.sampler} does not draw; set mdr.pairing to class"
            )
        return self

    def model(self, classes: int, domains: Sequence[str]) -> nn.Module:
        """IdklNet. Raises ConfigError where groups of unequally many domains are to be paired by index."""
        from mdfpipe.learning.models.idkl import IdklNet

        pairs = self._pairs(domains)
        members = [pairs.group.count(number) for number in range(pairs.groups)]
        if classes and self.mdr.weight and self.mdr.pairing == "index" and len(set(members)) > 1:
            raise ConfigError(
                f"mdr.pairing index: expected groups of equally many domains, got {members} under pairs {self.pairs}; "
                "set mdr.pairing to class"
            )
        network = IdklNet(
            self.backbone,
            pairs,
            classes,
            **self.adversary.sits,
            power=self.power,
            purifier=self.ip.model_dump(include={"mask", "reduction", "affine"}) if self.ip.weight else None,
            adversary=self.adversary.model_dump(include={"hidden", "dropout"}),
        )
        only = network.training_only
        if only is not None and not self._needs_the_raw_neck():
            only.specific_neck.requires_grad_(False)  # several processes would wait for its gradient
        return network

    def _needs_the_raw_neck(self) -> bool:
        """Whether a term depends on the neck of the raw specific feature."""
        discriminated = self.adversary.discriminate == "raw" and "neck" in self.adversary.sits["discriminators"]
        identified = self.specific_identity == "both" or not self.ip.weight
        return identified or discriminated or self.ip.enhancing == "softplus"

    def _pairs(self, domains: Sequence[str]) -> DomainPairs:
        """Those of the setting, a visible domain before an infrared one: MDR is not the same in both orders."""
        found = DomainPairs.of(domains, self.pairs)
        visible = {number for number, name in zip(found.group, domains, strict=True) if is_visible(name)}
        turned = ((b, a) if b in visible and a not in visible else (a, b) for a, b in found.pairs)
        return replace(found, pairs=tuple(turned))

    def forward(self, model: Network, batch: CropBatch) -> dict[str, Tensor]:
        """Pooled vectors (B, ...) of both branches, regardless of the domain."""
        found: dict[str, Tensor] = model(batch.images)
        return found

    def losses(self, model: Network, features: dict[str, Tensor], batch: CropBatch, progress: Progress) -> Losses:
        """L_b + lambda_1 L_ip + lambda_2 L_tgsa + lambda_3 L_csa + L_mdr (eq. 21), where L_b is eq. 6."""
        from mdfpipe.learning.losses import ranking
        from mdfpipe.learning.losses.identity import cross_entropy, right

        features = {name: ranking.precise(value) for name, value in features.items()}
        only, subject = model.training_only, batch.subject
        group = model.pairs.of_images(batch.domain)
        raw, shared = features["specific"], features["shared"]
        h_shared, h_raw = model.neck(shared), only.specific_neck(raw)
        z_shared, z_raw = model.classifier(h_shared), only.classifier(h_raw)
        purified, h_purified, z_purified = raw, h_raw, z_raw
        if only.purifier is not None:
            purified = features["purified"]
            h_purified = only.purified_neck(purified)
            z_purified = only.classifier(h_purified)
        mined = ranking.mine(shared, subject)
        terms = {"identity": cross_entropy(z_shared, subject), "triplet": ranking.triplet(mined, self.margin)}
        for name, weight, feature, logits in self._specific(raw, z_raw, purified, z_purified):
            terms[f"{name}_identity"] = weight * cross_entropy(logits, subject)
            terms[f"{name}_triplet"] = weight * ranking.triplet(ranking.mine(feature, subject), self.margin)
        figures = {"accuracy": right(z_shared, subject), "accuracy_specific": right(z_purified, subject)}
        known: dict[str, dict[str, Tensor]] = {
            "specific": {"stage4": raw, "neck": h_raw},
            "shared": {"stage4": shared, "neck": h_shared},
        }
        for name, vectors in known.items():
            vectors |= {"stage3": features[f"{name}_stage3"]} if f"{name}_stage3" in features else {}
        if self.adversary.discriminate == "purified":
            known["specific"] = {"stage4": purified, "neck": h_purified}
        adversaries = self._adversaries(only, known["specific"], known["shared"], group, progress)
        for name, loss in adversaries.items():
            terms[name] = loss * getattr(self.adversary, name)
            # of a head, and what it is where nothing distinguishes domains: not what a new head would find
            figures[f"{name[:-1]}_loss"] = (float(loss.detach()) / len(self.adversary.depths), 1.0)
            figures["chance_loss"] = (math.log(model.pairs.groups), 1.0)
        if only.purifier is not None:
            terms |= self._purification(model, features, z_raw, subject, group)
        terms |= self._distillation((shared, purified), (z_shared, z_purified), group)
        if self.mdr.weight:
            discrepancy, figures["mdr_paired"] = self._discrepancy(model.pairs, shared, z_shared, subject, group)
            terms["mdr"] = self.mdr.weight * discrepancy
        return Losses(terms, figures, mined)

    def _specific(
        self, raw: Tensor, z_raw: Tensor, purified: Tensor, z_purified: Tensor
    ) -> list[tuple[str, float, Tensor, Tensor]]:
        """Name, weight, feature and logits of the identity and triplet terms of the specific branch."""
        if self.specific_identity == "purified":
            return [("purified", 1.0, purified, z_purified)]
        found = [("specific", 1.0, raw, z_raw)]
        return found + ([("purified", self.ip.weight, purified, z_purified)] if self.ip.weight else [])

    def _adversaries(
        self, only: Network, specific: dict[str, Tensor], shared: dict[str, Tensor], group: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """L_D and L_C (eq. 4), those that have heads. specific, shared: vectors by depth."""
        import torch

        from mdfpipe.learning.models.idkl import ramp, reverse

        settings, told, found = self.adversary, group, {}
        if len(only.discriminators):
            found["discriminators"] = only.discriminators.loss(specific, group)
        if not len(only.confusers):
            return found
        if settings.confuser == "shuffled":
            told = group[torch.randperm(len(group)).to(group.device)]
        else:
            strength = settings.strength * (ramp(progress.share) if settings.ramp else 1.0)
            shared = {name: reverse(value, strength) for name, value in shared.items()}
        return found | {"confusers": only.confusers.loss(shared, told)}

    def _purification(
        self, model: Network, features: dict[str, Tensor], z_raw: Tensor, subject: Tensor, group: Tensor
    ) -> dict[str, Tensor]:
        """lambda_1 L_e and lambda_1 L_r (eq. 10 and 11). Both entropies of L_e are behind the raw feature's neck, or,
        as released, behind none.
        """
        from mdfpipe.learning.losses.idkl import discrepancy_reducing, discrimination_enhancing
        from mdfpipe.learning.models.idkl import without_running

        only, ip = model.training_only, self.ip
        enhanced, pairs = features["enhanced"], model.pairs.pairs
        if ip.enhancing == "released":
            z_raw = only.classifier(features["specific"])
        else:
            enhanced = without_running(only.specific_neck, enhanced)
        enhancing = discrimination_enhancing(only.classifier(enhanced), z_raw, detach=ip.detach, form=ip.enhancing)
        vectors = features["reduced"], features["instance"]
        reducing = discrepancy_reducing(*vectors, subject, group, pairs, unit=ip.unit, hinge=ip.hinge, detach=ip.detach)
        return {"enhancing": ip.weight * enhancing, "reducing": ip.weight * reducing}

    def _distillation(
        self, features: tuple[Tensor, Tensor], logits: tuple[Tensor, Tensor], group: Tensor
    ) -> dict[str, Tensor]:
        """lambda_2 L_tgsa and lambda_3 L_csa (eq. 17 and 19): twice the mean over domains. features, logits: of the
        shared branch and of what it learns from.
        """
        from mdfpipe.learning.losses.idkl import class_semantic_alignment, structure

        shared, taught = features
        rows = [group == number for number in _present(group)]
        terms = {}
        if self.tgsa.weight:
            settings = *self.affinity.settings, self.tgsa.kl
            enough = [of for of in rows if int(of.sum()) > 1]
            found = [structure(taught[of], shared[of], *settings, cross=self.tgsa.cross) for of in enough]
            terms["tgsa"] = 2 * self.tgsa.weight * _mean(found, shared)
        if self.csa.weight:
            own, other = logits
            kind = self.csa.kl, self.csa.detach_teacher
            found = [class_semantic_alignment(own[of], other[of], *kind) for of in rows]
            terms["csa"] = 2 * self.csa.weight * _mean(found, shared)
        return terms

    def _discrepancy(
        self, pairs: DomainPairs, shared: Tensor, logits: Tensor, subject: Tensor, group: Tensor
    ) -> tuple[Tensor, tuple[float, float]]:
        """L_mdr (eq. 20), the mean over pairs of domains with subjects in common; images that take part, and all."""
        from mdfpipe.learning.losses.idkl import modality_discrepancy

        settings = self.mdr.pairing, *self.affinity.settings, self.mdr.kl
        found, paired, asked = [], 0, 0
        for pair in pairs.within(_present(group)):
            of_a, of_b = (group == number for number in pair)
            x, z, who = ((value[of_a], value[of_b]) for value in (shared, logits, subject))
            made = modality_discrepancy(x, z, who, *settings)
            asked += int(of_a.sum() + of_b.sum())
            if made is not None:
                found.append(made[0])
                paired += made[1]
        return _mean(found, shared), (float(paired), float(asked))

    def measure(self, model: Network, batches: Iterable[CropBatch]) -> dict[str, float]:
        """domain_probe: whether the shared feature hides the domain, which its own adversaries' loss does not say."""
        import torch

        seen = [(self.feature(model, each.images, each.domain), each.subject, each.domain) for each in batches]
        vectors, subject, domain = (torch.cat(each).detach().cpu().numpy() for each in zip(*seen, strict=True))
        found = domain_probe(vectors, subject, domain)
        return {} if found is None else {"domain_probe": found}

    def rates(self) -> dict[str, float]:
        """Discriminators and confusers learn at a rate of their own."""
        if self.adversary.rate == 1:
            return {}
        return {f"training_only.{name}.": self.adversary.rate for name in ADVERSARIES}

    def feature(self, model: Network, images: Tensor, domain: Tensor) -> Tensor:
        """BN(f_sh), regardless of the domain."""
        found: Tensor = model.neck(model(images)["shared"].float())
        return found


def _present(group: Tensor) -> list[int]:
    import torch

    found: list[int] = torch.unique(group).tolist()
    return found


def _mean(found: list[Tensor], graph: Tensor) -> Tensor:
    """The mean; of none a zero that one can differentiate."""
    import torch

    return torch.stack(found).mean() if found else graph.sum() * 0
