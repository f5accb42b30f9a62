"""Identity losses: a classifier over the training subjects. Cross-entropy, focal; AdaFace with a margin by quality."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mdfpipe.learning.losses.ranking import precise

SHORTEST, LONGEST = 0.001, 100.0
"""Feature lengths are clipped to these before they count as quality (AdaFace's released code)."""


def cross_entropy(logits: Tensor, subject: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean of -log softmax(logits)[subject]: a scalar. logits: (B, C); subject: (B,) int64, 0..C-1.

    Eq. 5 of the body paper, whose denominator has to run over classes (METHODS 1.2). smoothing: share of each label
    that is spread evenly over all C classes.
    """
    return functional.cross_entropy(precise(logits), subject, label_smoothing=smoothing)


def right(logits: Tensor, subject: Tensor) -> tuple[float, float]:
    """For the log: how many images have their subject as the likeliest class, and of how many. (B, C), (B,) int64."""
    return float((logits.argmax(dim=1) == subject).sum()), float(len(subject))


def focal_weight(logits: Tensor, subject: Tensor, gamma: float = 2.0) -> Tensor:
    """(B,) of each image, (1 - p)^gamma, p the probability of its subject: what `focal` multiplies by. 1 where gamma
    is 0. logits: (B, C); subject: (B,) int64, 0..C-1.
    """
    return _unsure(_log_probability(logits).gather(1, subject[:, None]).squeeze(1), gamma)


def focal(logits: Tensor, subject: Tensor, gamma: float = 2.0, over: Literal["subject", "all"] = "subject") -> Tensor:
    """Mean of -(1 - p)^gamma log p, p the probability of an image's subject: a scalar (DI2L eq. 5, Lin et al. 2017).

    Images that are recognised already count less; gamma 0 is the cross-entropy. over: all adds up -(1 - p)^gamma log p
    over every class, as the equation is printed, which pushes every probability up (METHODS 3.2).
    """
    log_p = _log_probability(logits)
    if over == "subject":
        log_p = log_p.gather(1, subject[:, None])
    return -(_unsure(log_p, gamma) * log_p).sum(1).mean()


def _log_probability(logits: Tensor) -> Tensor:
    return functional.log_softmax(precise(logits), dim=1)


def _unsure(log_p: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma; of p = 1 with a finite slope, also where gamma is below 1."""
    return (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny).pow(gamma)


class AdaFace(nn.Module):
    """Cross-entropy over cosines with a margin that follows the quality q of an image (Kim et al. 2022; METHODS 2).

    q in -1..1 is the length of the raw feature, normalised by a running mean and deviation. The subject's own cosine
    becomes cos(theta - margin q) - margin (1 + q): ArcFace at q = -1, CosFace at q = 0, and towards q = 1 its slope
    grows with theta, which stresses hard images. No gradient passes through lengths.

    weight: (C, features), one row a class; its direction alone matters. mean, spread: scalars that a checkpoint holds.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        margin: float = 0.4,
        quality: float = 0.333,
        scale: float = 64.0,
        average: float = 0.01,
        eps: float = 1e-3,
    ) -> None:
        super().__init__()
        self.margin, self.reach, self.scale, self.average, self.eps = margin, quality, scale, average, eps
        # of length about 1: the step of a direction falls with the square of its length
        self.weight = nn.Parameter(torch.randn(classes, features) / math.sqrt(features))
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("spread", torch.tensor(100.0))
        self._lengths: Tensor | None = None

    def forward(self, embedding: Tensor, subject: Tensor) -> Tensor:
        """The loss, a scalar. embedding: (B, features), raw; subject: (B,) int64. Give it the batch of all processes.

        In training the running mean and deviation take in the batch first. The deviation is that of a sample (n - 1),
        as in the released code, and has no value in a batch of one, which is left out.
        """
        self._lengths = _lengths(precise(embedding))
        if self.training and len(embedding) > 1:
            self.mean.lerp_(self._lengths.mean().to(self.mean), self.average)
            self.spread.lerp_(self._lengths.std().to(self.spread), self.average)
        return cross_entropy(self.logits(embedding, subject), subject)

    def logits(self, embedding: Tensor, subject: Tensor) -> Tensor:
        """(B, C): scale times each cosine, the subject's own with its margin. Takes the running state as it is."""
        with torch.autocast(embedding.device.type, enabled=False):
            raw, weight = precise(embedding), precise(self.weight)
            unit, classes = functional.normalize(raw), functional.normalize(weight)
            cosine = (unit @ classes.T).clamp(-1 + self.eps, 1 - self.eps)
            quality = ((_lengths(raw) - self.mean) / (self.spread + self.eps) * self.reach).clamp(-1, 1)
            own = subject[:, None]
            theta = cosine.gather(1, own).squeeze(1).arccos() - self.margin * quality
            angular = theta.clamp(self.eps, math.pi - self.eps).cos()
            return self.scale * cosine.scatter(1, own, (angular - self.margin * (1 + quality))[:, None])

    def figures(self) -> dict[str, tuple[float, float]]:
        """For the log, name -> (sum, count): length of the last batch's features; the running mean and deviation."""
        lengths = self._lengths
        last = {} if lengths is None else {"norm": (float(lengths.sum()), float(len(lengths)))}
        return {**last, "norm_mean": (float(self.mean), 1.0), "norm_spread": (float(self.spread), 1.0)}


def _lengths(raw: Tensor) -> Tensor:
    """(B,) clipped lengths, without a gradient."""
    lengths: Tensor = torch.linalg.vector_norm(raw.detach(), dim=1)
    return lengths.clamp(SHORTEST, LONGEST)
