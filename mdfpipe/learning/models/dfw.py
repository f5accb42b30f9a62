"""The network of DFW: strong answers weakened, and a last stage once for each of two branches (METHODS 6.1-6.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

from mdfpipe.learning.losses.ranking import precise
from mdfpipe.learning.models.backbones.trunk import Kind, Trunk
from mdfpipe.learning.models.parts.heads import BNNeck, Classifier
from mdfpipe.learning.models.parts.layers import GeM, gem
from mdfpipe.learning.streams import DomainPairs

Form: TypeAlias = Literal["mask", "gate", "elementwise", "literal"]
TOLERANCE = 1e-6
"""Relative: a constant map equals its own mean, except for round-off (METHODS 8)."""
BRANCHES: Final = ("first", "second")
WHOLE: Final = "whole"
BEHIND: Final = (2, 3)
OWN_STAGES: Final = 2
"""Stages 0 and 1 are each stream's own: it follows from the printed parameters and FLOPs (METHODS 6.1)."""


class Weakening(nn.Module):
    """(B, C, H, W) to the same shape, what a map answers to most strongly turned down, so that other cues are learned,
    too (DFW section 3.2, METHODS 6.2). No parameters.

    threshold: mean of the response, or a share of its range; factor: of what reaches it, or `proportion`, the share e
    of places that do. M_D1 is mean and a number, M_D2 a number and proportion, M_D3 mean and proportion (DFW eq. 2).
    form: what is made of the map F, its response f and the matrix M: mask F M; gate F sigmoid(f M); elementwise
    sigmoid(F M); literal sigmoid(f M) for every channel (eq. 3). training_only: identity in evaluation.
    """

    def __init__(
        self,
        threshold: Literal["mean"] | float = "mean",
        factor: Literal["proportion"] | float = 0.5,
        form: Form = "mask",
        *,
        training_only: bool = False,
    ) -> None:
        super().__init__()
        self.threshold, self.factor, self.form, self.training_only = threshold, factor, form, training_only

    def forward(self, x: Tensor) -> Tensor:
        """The weakened map."""
        if self.training_only and not self.training:
            return x
        f = response(x)
        m = matrix(f.detach(), self.threshold, self.factor)
        if self.form == "mask":
            return x * m.to(x.dtype)
        if self.form == "elementwise":
            return (x * m.to(x.dtype)).sigmoid()
        gate = (f * m).sigmoid().to(x.dtype)
        return x * gate if self.form == "gate" else gate.expand_as(x)

    @torch.no_grad()
    def facts(self, x: Tensor) -> Tensor:
        """(B, 2): standard deviation over mean of the response to a map, and the share of places that are strong.

        Where the strong places are less than 1 / factor times the weak ones, `mask` turns their order round.
        """
        f = response(x)
        high = strong(f, self.threshold).to(f.dtype).mean((1, 2, 3))
        return torch.stack([f.std((1, 2, 3), correction=0) / f.mean((1, 2, 3)).clamp_min(TOLERANCE), high], dim=1)


def response(x: Tensor) -> Tensor:
    """f (B, 1, H, W), in float32 at least: mean and maximum over channels, added (DFW eq. 1)."""
    x = precise(x)
    return x.mean(1, keepdim=True) + x.amax(1, keepdim=True)


def matrix(f: Tensor, threshold: Literal["mean"] | float, factor: Literal["proportion"] | float) -> Tensor:
    """M (B, 1, H, W) of the response f (DFW eq. 2): `factor` where f reaches the threshold of its image, 1 elsewhere.

    A threshold in 0..1 is compared with f brought to 0..1 in its image, for f has no upper end (METHODS 6.2).
    """
    high = strong(f, threshold)
    share = high.to(f.dtype).mean((2, 3), keepdim=True)
    weak = share if factor == "proportion" else torch.full_like(share, factor)
    return torch.where(high, weak, 1.0)


def strong(f: Tensor, threshold: Literal["mean"] | float) -> Tensor:
    """(B, 1, H, W) bool: where the response f reaches the threshold of its image."""
    if threshold == "mean":
        value, least = f, f.mean((2, 3), keepdim=True)
    else:
        low, high = f.amin((2, 3), keepdim=True), f.amax((2, 3), keepdim=True)
        value = (f - low) / (high - low).clamp_min(torch.finfo(f.dtype).tiny)
        least = torch.full_like(low, threshold)
    return value >= least - TOLERANCE * least.abs()


class SegmentedNet(nn.Module):
    """Stages 0-1 a stream, 2-3 shared with a weakening behind them, stage 4 once a branch, GeM, a BN neck each.

    segmented: two branches (METHODS 6.1); else one stage 4. weakening: None = without; behind: the stages of 2 and 3
    that it follows. power: p of GeM. classes: 0 = no classifiers. Necks, classifiers and `pairs` (of its domains) are
    for the losses, which see the whole batch.
    """

    def __init__(
        self,
        kind: Kind,
        stream_of: Sequence[str],
        classes: int,
        *,
        segmented: bool = True,
        weakening: Weakening | None = None,
        behind: Sequence[int] = BEHIND,
        power: float = 3.0,
        pairs: DomainPairs | None = None,
    ) -> None:
        super().__init__()
        self.names = BRANCHES if segmented else (WHOLE,)
        split, branches = (4, BRANCHES) if segmented else (5, ())
        self.backbone = Trunk(kind, stream_of, own=OWN_STAGES, split=split, branches=branches)
        self.weakening, self.behind, self.pairs = weakening, tuple(behind), pairs
        self.pool, self.power = GeM(power), power
        width = self.backbone.channels[-1]
        self.neck = nn.ModuleDict({name: BNNeck(width) for name in self.names})
        self.classifier = nn.ModuleDict({name: Classifier(width, classes) for name in self.names}) if classes else None

    def forward(self, images: Tensor, domain: Tensor) -> dict[str, Tensor]:
        """z (B, S, D): the feature of each of S branches; response (B, S, h, w): GeM of its map over channels (eq. 4);
        in training weakened (B, stages, 2), `facts` of each stage that a weakening follows, where there is one.

        images: (B, 3, H, W); domain: (B,) places.
        """
        facts: list[Tensor] = []

        def weaken(x: Tensor) -> Tensor:
            if self.weakening is None:
                return x
            if self.training:
                facts.append(self.weakening.facts(x))
            weakened: Tensor = self.weakening(x)
            return weakened

        x = self.backbone.go_on(self.backbone.begin(images, domain), dict.fromkeys(self.behind, weaken))
        divided = len(self.names) > 1
        maps = [self.backbone.branch(name, x) for name in self.names] if divided else [x]
        found = {
            "z": torch.stack([self.pool(each) for each in maps], dim=1),
            "response": torch.stack([gem(each, self.power, dim=1) for each in maps], dim=1),
        }
        return found | ({"weakened": torch.stack(facts, dim=1)} if facts else {})

    @torch.no_grad()
    def break_tie(self, share: float) -> bool:
        """Add noise to the second branch if it equals the first: of `share` times each tensor's standard deviation.

        Branches that start from the same weights look at the same place, and their distance has no slope (METHODS
        6.3). From torch's generator. Whether there was a tie.
        """
        if len(self.names) == 1:
            return False
        first, second = (list(self.backbone.branches[name].parameters()) for name in self.names)
        if not all(torch.equal(a, b) for a, b in zip(first, second, strict=True)):
            return False
        for value in second:
            if value.numel() > 1:
                value.add_(torch.randn_like(value) * (share * value.std()))
        return True
