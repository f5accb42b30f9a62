"""The network of IDKL: two branches over one trunk, of which the shared one alone embeds; adversaries, and a purifier.

Adversaries (eq. 2-4) are classifiers that tell the domain of a feature, which the specific branch is trained to help
and the shared one to deceive. They have BatchNorm and take the whole batch: they belong into a recipe's `losses`.

The IN-guided information purifier (eq. 7-9 and 12) takes the style out of a feature map and keeps what tells subjects
apart: the map as it is and its instance-normalised copy each make a mask, and both masks weigh the sum of the two maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mdfpipe.learning.losses.ranking import precise
from mdfpipe.learning.models.backbones.trunk import Kind, Trunk
from mdfpipe.learning.models.parts.heads import BNNeck, Classifier
from mdfpipe.learning.models.parts.layers import GeM, gem, uncast
from mdfpipe.learning.streams import DomainPairs

SPLIT = 3
"""The branches divide before stage 3: they share "the first three blocks" (IDKL eq. 1)."""


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse(x: Tensor, strength: float = 1.0) -> Tensor:
    """The same values, whose gradient is turned round and multiplied by `strength` (Ganin and Lempitsky 2015)."""
    found: Tensor = _Reversed.apply(x, strength)
    return found


def ramp(share: float) -> float:
    """How strong the reversal is when a share of the training is done, 0 to almost 1 (Ganin and Lempitsky 2015)."""
    return 2 / (1 + math.exp(-10 * share)) - 1


def balanced_cross_entropy(logits: Tensor, domain: Tensor) -> Tensor:
    """Cross-entropy in which every domain present weighs the same: a scalar. logits: (B, D); domain: (B,) int64.

    On a batch of equally many images of each it is the plain mean; on another the plain one would teach the confused
    branch to look like the prior (METHODS 5.5).
    """
    counts = torch.bincount(domain, minlength=logits.shape[1])
    weight = 1 / counts.clamp_min(1).to(logits.dtype)
    return functional.cross_entropy(precise(logits), domain, weight=precise(weight))


class DomainClassifier(nn.Sequential):
    """(B, width) to logits (B, domains): width - hidden - hidden - domains, with BN, ReLU and dropout in between.

    Each of several processes that see the same batch draws a dropout of its own.
    """

    def __init__(self, width: int, domains: int, *, hidden: int = 100, dropout: float = 0.5) -> None:
        layers: list[nn.Module] = []
        for given in (width, hidden):
            # no bias: the norm would take it out again
            layers += [nn.Linear(given, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(hidden, domains))


class DomainClassifiers(nn.ModuleDict):
    """One at each of several depths of a branch. widths: of the feature at each depth, by its name."""

    def __init__(self, widths: Mapping[str, int], domains: int, *, hidden: int = 100, dropout: float = 0.5) -> None:
        made = {
            name: DomainClassifier(width, domains, hidden=hidden, dropout=dropout) for name, width in widths.items()
        }
        super().__init__(made)

    def loss(self, features: Mapping[str, Tensor], domain: Tensor) -> Tensor:
        """The sum over depths of their cross-entropies (IDKL eq. 4): a scalar, near depths * ln D at chance.

        features: (B, width) at each depth; domain: (B,) int64.
        """
        return torch.stack([balanced_cross_entropy(head(features[name]), domain) for name, head in self.items()]).sum()


class Mask(nn.Module):
    """(B, C, h, w) to weights in 0..1: sigmoid(W2 relu(W1 g)), C to C / reduction to C, without biases (IDKL eq. 8).

    channel: g is GeM over space, one weight a channel, (B, C, 1, 1). It must not be the average: instance norm leaves
    every channel with mean zero, so that every image would get the same mask. full: g is the map itself, one weight a
    channel and place.
    """

    def __init__(self, channels: int, reduction: int, kind: Literal["channel", "full"], power: float) -> None:
        super().__init__()
        self.kind, self.power = kind, power
        inner = max(channels // reduction, 1)
        self.squeeze = nn.Conv2d(channels, inner, 1, bias=False)
        self.excite = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The weights, in float32 at least."""
        g = x if self.kind == "full" else gem(x, self.power)[:, :, None, None]
        return precise(self.excite(functional.relu(self.squeeze(g)))).sigmoid()


class Purifier(nn.Module):
    """(B, C, h, w) to pooled vectors (B, C), by name; no map leaves it. At least two places a map.

    instance: of F_in, the instance-normalised map (eq. 7); enhanced: of F_d = m_e F_sp; reduced: of F_m = m_r F_in (eq.
    9); purified: of F_p = m_e F_m + m_r F_d (eq. 12), computed as m_e m_r (F_sp + F_in), which is the same. specific:
    of F_sp itself. All pooled by GeM. affine: instance norm has a scale and a shift of each channel that are trained.

    Where a mask is one number a channel, it comes out of the mean: GeM(m F) = m GeM(F), but for GeM's floor of 1e-6.
    """

    def __init__(
        self,
        channels: int,
        *,
        mask: Literal["channel", "full"] = "channel",
        reduction: int = 16,
        affine: bool = False,
        power: float = 3.0,
    ) -> None:
        super().__init__()
        self.power = power
        self.norm = nn.InstanceNorm2d(channels, affine=affine)
        self.enhance = Mask(channels, reduction, mask, power)
        self.reduce = Mask(channels, reduction, mask, power)

    def forward(self, specific: Tensor) -> dict[str, Tensor]:
        """The five vectors of each image."""
        with uncast(specific):
            specific = precise(specific)
            instance = self.norm(specific)
        enhance, reduce = self.enhance(specific), self.reduce(instance)
        plain = {"specific": gem(specific, self.power), "instance": gem(instance, self.power)}
        if self.enhance.kind == "channel":
            both = gem(specific + instance, self.power)
            masks = {"enhanced": enhance, "reduced": reduce, "purified": enhance * reduce}
            pooled = {"enhanced": plain["specific"], "reduced": plain["instance"], "purified": both}
            return plain | {name: mask.flatten(1) * pooled[name] for name, mask in masks.items()}
        maps = {
            "enhanced": enhance * specific,
            "reduced": reduce * instance,
            "purified": enhance * reduce * (specific + instance),
        }
        return plain | {name: gem(x, self.power) for name, x in maps.items()}


class TrainingOnly(nn.Module):
    """What a network of IDKL has while it is trained: heads of the specific branch, purifier, adversaries.

    specific_neck: of the raw specific feature; purified_neck: of the purified one, where there is a purifier;
    classifier: C_sp, of both. discriminators (of the specific branch) and confusers (of the shared one): where they
    sit, at these depths or nowhere.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        groups: int,
        discriminators: Sequence[str],
        confusers: Sequence[str],
        purifier: Purifier | None,
        adversary: dict[str, Any],
    ) -> None:
        super().__init__()
        width = channels[-1]
        self.specific_neck = BNNeck(width)
        self.purified_neck = BNNeck(width) if purifier is not None else None
        self.classifier = Classifier(width, classes)
        self.purifier = purifier
        widths = {"stage3": channels[SPLIT], "stage4": width, "neck": width}
        self.discriminators, self.confusers = (
            DomainClassifiers({name: widths[name] for name in depths}, groups, **adversary)
            for depths in (discriminators, confusers)
        )


class IdklNet(nn.Module):
    """`forward` gives what one image alone decides: pooled vectors, no maps. Necks, classifiers and adversaries are for
    the losses.

    pairs: of domains, which the losses bring together, a visible one first; classes: 0 = the shared branch and its neck
    alone; discriminators, confusers: the depths of each, stage3, stage4 or neck; purifier, adversary: settings of
    `Purifier` (None: there is none) and `DomainClassifiers`.
    """

    def __init__(
        self,
        kind: Kind,
        pairs: DomainPairs,
        classes: int,
        *,
        discriminators: Sequence[str],
        confusers: Sequence[str],
        power: float,
        purifier: dict[str, Any] | None,
        adversary: dict[str, Any],
    ) -> None:
        super().__init__()
        branches = ("shared", "specific") if classes else ("shared",)
        self.backbone = Trunk(kind, ["all"], own=0, split=SPLIT, branches=branches)
        channels = self.backbone.channels
        self.pairs = pairs
        self.noted = {"specific": "stage3" in discriminators, "shared": "stage3" in confusers}
        self.pool = GeM(power)
        self.neck = BNNeck(channels[-1])
        self.classifier = Classifier(channels[-1], classes) if classes else None
        self.training_only = None
        if classes:
            made = None if purifier is None else Purifier(channels[-1], power=power, **purifier)
            self.training_only = TrainingOnly(
                channels, classes, pairs.groups, discriminators, confusers, made, adversary
            )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """shared (B, C); in training also specific, what a purifier gives (B, C), and, where adversaries sit there,
        shared_stage3 and specific_stage3 (B, C / 2).
        """
        x = self.backbone.go_on(images)
        found: dict[str, Tensor] = {}
        if self.training_only is None or not self.training:
            return {"shared": self.pool(self.backbone.branch("shared", x))}
        found["shared"] = self.pool(self._branch("shared", x, found))
        specific = self._branch("specific", x, found)
        purifier = self.training_only.purifier
        return found | ({"specific": self.pool(specific)} if purifier is None else purifier(specific))

    def _branch(self, name: str, x: Tensor, found: dict[str, Tensor]) -> Tensor:
        def note(behind: Tensor) -> Tensor:
            found[f"{name}_stage3"] = self.pool(behind)
            return behind

        return self.backbone.branch(name, x, {3: note} if self.noted[name] else None)


def without_running(neck: BNNeck, z: Tensor) -> Tensor:
    """The neck's output without a move of its running statistics: for passes besides the main one."""
    if not neck.training:
        found: Tensor = neck(z)
        return found
    z = z.to(neck.weight.dtype)
    return functional.batch_norm(z, None, None, neck.weight, neck.bias, training=True, eps=neck.eps)
