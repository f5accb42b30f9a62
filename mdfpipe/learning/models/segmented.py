"""A trunk whose last stage divides into branches that look at different places (DFW's segmented learning network)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from mdfpipe.learning.models.backbones.trunk import Kind, Trunk
from mdfpipe.learning.models.parts.heads import BNNeck, Classifier
from mdfpipe.learning.models.parts.pooling import GeM, gem
from mdfpipe.learning.models.parts.weakening import Weakening
from mdfpipe.learning.streams import DomainPairs

BRANCHES: Final = ("first", "second")
WHOLE: Final = "whole"
OWN_STAGES: Final = 2
"""Stages 0 and 1 are each stream's own: it follows from the printed parameters and FLOPs (METHODS 6.1)."""


class SegmentedNet(nn.Module):
    """Stages 0-1 a stream, 2-3 shared with a weakening behind each, stage 4 once a branch, GeM, a BN neck each.

    segmented: two branches (METHODS 6.1); else one stage 4. weakening: None = without. power: p of GeM. classes: 0 = no
    classifiers. Necks, classifiers and `pairs` (of its domains) are for the losses, which see the whole batch.
    """

    def __init__(
        self,
        kind: Kind,
        stream_of: Sequence[str],
        classes: int,
        *,
        segmented: bool = True,
        weakening: Weakening | None = None,
        power: float = 3.0,
        pairs: DomainPairs | None = None,
    ) -> None:
        super().__init__()
        self.names = BRANCHES if segmented else (WHOLE,)
        split, branches = (4, BRANCHES) if segmented else (5, ())
        self.backbone = Trunk(kind, stream_of, own=OWN_STAGES, split=split, branches=branches)
        self.weakening, self.pairs = weakening, pairs
        self.pool, self.power = GeM(power), power
        width = self.backbone.channels[-1]
        self.neck = nn.ModuleDict({name: BNNeck(width) for name in self.names})
        self.classifier = nn.ModuleDict({name: Classifier(width, classes) for name in self.names}) if classes else None

    def forward(self, images: Tensor, domain: Tensor) -> dict[str, Tensor]:
        """z (B, S, D): the feature of each of S branches; response (B, S, h, w): GeM of its map over channels (eq. 4).

        images: (B, 3, H, W); domain: (B,) places.
        """
        after = {} if self.weakening is None else {2: self.weakening, 3: self.weakening}
        x = self.backbone.go_on(self.backbone.begin(images, domain), after)
        divided = len(self.names) > 1
        maps = [self.backbone.branch(name, x) for name in self.names] if divided else [x]
        return {
            "z": torch.stack([self.pool(each) for each in maps], dim=1),
            "response": torch.stack([gem(each, self.power, dim=1) for each in maps], dim=1),
        }

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
