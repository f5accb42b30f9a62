"""Heads between the feature z and the identity loss: BN necks, and the classifier over training subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mdfpipe.errors import ConfigError

LOCALS = 3
"""Local tokens of the body model."""


class BNNeck(nn.BatchNorm1d):
    """BatchNorm1d whose bias is frozen at 0 (Luo et al. 2019; METHODS 0). (B, D) to (B, D) in the weights' precision.

    Ranking losses take the feature before it, the classifier the one after it. In training a batch needs two images.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.bias.requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        """Standardised by the batch in training, which moves the running statistics; by those in evaluation."""
        return super().forward(z.to(self.weight.dtype))


class Classifier(nn.Linear):
    """Logits (B, C) of h (B, D): linear, no bias, drawn from N(0, 0.001^2) (METHODS 0)."""

    def __init__(self, width: int, classes: int) -> None:
        if classes < 1:
            raise ConfigError(f"classifier: expected at least one training subject, got {classes}")
        super().__init__(width, classes, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights again."""
        nn.init.normal_(self.weight, std=0.001)


class Neck(nn.Module):
    """h (B, W) of the feature z (B, W), for the classifier (METHODS 1.1).

    multi: [BN_g(z_g) ; mean_k BN_k(z_k)] over the local tokens in use, from the tokens themselves (PASS's MULTI_NECK);
    single: BN(z); plain: z, as eq. 5 reads.

    width: W; token_width: d of a token, None for a backbone or a fusion whose z is not made of tokens; local: the
    places of the local tokens in use; apart: z is [z_g ; z_1 ; z_2 ; z_3], and so is h, with 0 for tokens out of use.
    Every token has its BN, in use or not (`norms`: global, local 1..3), so that the state has the same names for any
    choice of parts; those of tokens out of use are frozen. Raises ConfigError.
    """

    def __init__(
        self,
        kind: Literal["multi", "single", "plain"],
        width: int,
        token_width: int | None = None,
        local: Sequence[int] = range(LOCALS),
        *,
        apart: bool = False,
    ) -> None:
        super().__init__()
        if kind not in ("multi", "single", "plain"):
            raise ConfigError(f"neck: expected multi, single or plain, got {kind!r}")
        if kind == "multi" and token_width is None:
            raise ConfigError("neck multi: expected a ViT's tokens, fused by cat, got neither: take single or plain")
        tokens = 1 + LOCALS if apart else 2
        if kind == "multi" and width != tokens * (token_width or 0):
            raise ConfigError(
                f"neck multi: expected a feature of {tokens} tokens of {token_width}, got {width}: take single"
            )
        if not set(local) <= set(range(LOCALS)):
            raise ConfigError(f"neck: expected local tokens of 0..{LOCALS - 1}, got {list(local)}")
        self.kind, self.local, self.apart = kind, tuple(sorted(set(local))), apart
        widths = {"multi": [token_width or 0] * (1 + LOCALS), "single": [width], "plain": []}[kind]
        self.norms = nn.ModuleList(BNNeck(each) for each in widths)
        for place, norm in enumerate(self.norms):
            if kind == "multi" and place and place - 1 not in self.local:
                norm.requires_grad_(False)  # it gets no gradient, for which several processes would wait

    def forward(self, z: Tensor, tokens: Tensor | None = None) -> Tensor:
        """z: (B, W); tokens: (B, 4, d), global and local, which multi needs. Raises ConfigError where it has none.

        With no local token in use, multi has 0 for their mean, as `SemanticViT.fuse`.
        """
        if self.kind == "plain":
            return z
        if self.kind == "single":
            single: Tensor = self.norms[0](z)
            return self._of_those_in_use(single) if self.apart else single
        if tokens is None or tokens.shape[1] != 1 + LOCALS:
            got = "none" if tokens is None else tokens.shape[1]
            raise ConfigError(
                f"neck multi: expected {1 + LOCALS} tokens of each image, got {got}: take single or plain"
            )
        whole = self.norms[0](tokens[:, 0])
        if self.apart:
            none = torch.zeros_like(whole)
            kept = [self.norms[1 + k](tokens[:, 1 + k]) if k in self.local else none for k in range(LOCALS)]
            return torch.cat([whole, *kept], dim=1)
        parts = [self.norms[1 + k](tokens[:, 1 + k]) for k in self.local]
        return torch.cat([whole, torch.stack(parts).mean(0) if parts else torch.zeros_like(whole)], dim=1)

    def _of_those_in_use(self, h: Tensor) -> Tensor:
        """h (B, 4 d) with 0 for tokens out of use: one BN makes a constant of their 0."""
        used = torch.tensor([1.0, *(float(k in self.local) for k in range(LOCALS))], device=h.device, dtype=h.dtype)
        return h * used.repeat_interleave(h.shape[1] // (1 + LOCALS))
