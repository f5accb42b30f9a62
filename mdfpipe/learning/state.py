"""Where a training stands: what it was asked, what it has added up, and the file that a killed one goes on from."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.learning import checkpoint
from mdfpipe.learning.losses.mining import MiningStatistics
from mdfpipe.learning.recipes import Recipe

if TYPE_CHECKING:
    from mdfpipe.learning.crops import Crops
    from mdfpipe.learning.loader import Loader


_REMEDY = "lower optimiser.rate, clip with optimiser.clip_norm, or train in fp32; the last state was kept"


@dataclass(eq=False)
class Job:
    """One training. state: file that a killed training goes on from; fingerprint: what decides the result.

    validate: gives Rank-1 (or any figure that should be large) of the network as it is; every, patience: epochs between
    two validations (there is one at the end, too), and how many of them in a row may bring nothing better (0: no early
    stop). save_seconds: between two states.
    """

    recipe: Recipe
    model: nn.Module
    crops: Crops
    loader: Loader
    seed: int
    state: Path
    fingerprint: str
    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 1
    validate: Callable[[nn.Module], float] | None = None
    every: int = 0
    patience: int = 0
    save_seconds: float = 120.0
    progress: Callable[[int, int], None] = lambda done, total: None
    log: Callable[[dict[str, Any]], None] = lambda line: None


@dataclass(eq=False)
class Fitted:
    """What a training gives. last, best: state dicts (best: None without validation); lines: one an epoch, without
    speeds; epoch, step: how far it came; stopped: why it ended early, or "".
    """

    last: dict[str, Tensor]
    best: dict[str, Tensor] | None
    best_epoch: int
    lines: list[dict[str, Any]]
    epoch: int
    step: int
    stopped: str = ""


@dataclass(eq=False)
class Books:
    """What is summed up over an epoch. sums: name -> [sum, count]."""

    sums: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    mining: MiningStatistics = field(default_factory=MiningStatistics)
    waiting: list[tuple[int, list[str], Tensor]] = field(default_factory=list)  # (step, names, values) on the device

    def add_step(self, step: int, terms: dict[str, Tensor], figures: dict[str, tuple[float, float]]) -> None:
        """Take in the terms and figures of one batch."""
        self.waiting.append((step, list(terms), torch.stack([term.detach().float() for term in terms.values()])))
        for name, (total, count) in figures.items():
            self.sums[name][0] += float(total)
            self.sums[name][1] += float(count)

    def settle(self) -> None:
        """Look at the losses so far. Raises DataError at the first that is no number."""
        for step, names, values in self.waiting:
            for name, value in zip(names, values.tolist(), strict=True):
                if not math.isfinite(value):
                    raise DataError(f"step {step}: the loss term {name} is {value}; {_REMEDY}")
                self.sums[f"loss/{name}"][0] += value
                self.sums[f"loss/{name}"][1] += 1
        self.waiting.clear()

    def means(self) -> dict[str, float]:
        """Name -> mean so far."""
        return {name: total / count for name, (total, count) in sorted(self.sums.items()) if count}


@dataclass(eq=False)
class State:
    """How far a training is: all that a later process needs to end it with the same bits."""

    job: Job
    fabric: Fabric
    network: nn.Module
    optimizer: Any
    step: int = 0
    books: Books = field(default_factory=Books)
    lines: list[dict[str, Any]] = field(default_factory=list)
    ema: dict[str, Tensor] | None = None
    best: dict[str, Tensor] | None = None
    best_score: float = -math.inf
    best_epoch: int = -1
    stopped: str = ""

    @classmethod
    def begin(cls, job: Job, fabric: Fabric, network: nn.Module, optimizer: Any) -> State:
        """A fresh one, or the one in the file. Raises ConfigError where that belongs to another training."""
        state = cls(job, fabric, network, optimizer)
        if job.recipe.optimiser.ema is not None:
            state.ema = {name: value.detach().clone() for name, value in network.state_dict().items()}
        if job.state.exists():
            state._take_up(checkpoint.load(job.state))
        return state

    def average(self, network: nn.Module, decay: float | None) -> None:
        """Move the averaged weights towards the present ones."""
        if self.ema is not None and decay is not None:
            for name, value in network.state_dict().items():
                if value.is_floating_point():
                    self.ema[name].lerp_(value.detach(), 1 - decay)
                else:
                    self.ema[name].copy_(value)

    def settle(self) -> None:
        """Look at the losses and the weights so far. Raises DataError at the first that is no number."""
        self.books.settle()
        finite = [value.detach().isfinite().all() for value in self.network.parameters()]
        if not torch.stack(finite).all():  # found now: no state must hold them
            names = (name for name, _ in self.network.named_parameters())
            name = next(name for name, sound in zip(names, finite, strict=True) if not sound)
            raise DataError(
                f"step {self.step - 1}: the weight {name} is no number after it, its gradient was none; {_REMEDY}"
            )

    def kept(self) -> dict[str, Tensor]:
        """The weights as they would be used now."""
        now = self.network.state_dict() if self.ema is None else self.ema
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in now.items()}

    def end_epoch(self, epoch: int, rate: float, speed: dict[str, float], last: bool) -> None:
        """Write the epoch's line, validate, keep the best, save. last: nothing follows, so that it is validated."""
        job = self.job
        self.settle()
        line: dict[str, Any] = {"epoch": epoch, "step": self.step, "rate": rate, **self.books.means()}
        mining = self.books.mining.result(job.crops.domains)
        if mining.get("anchors"):
            line["mining"] = mining
        if job.validate is not None and job.every and (last or (epoch + 1) % job.every == 0):
            line["validation/rank-1"] = self._validate(epoch, last)
        self.lines.append(line)
        self.books = Books()
        if self.fabric.is_global_zero:
            job.log({**line, **speed})
        self.save()

    def _validate(self, epoch: int, last: bool) -> float:
        job, score = self.job, torch.zeros(1, dtype=torch.float64)
        assert job.validate is not None
        if self.fabric.is_global_zero:
            self.network.eval()
            with _Swapped(self.network, self.ema):
                score[0] = job.validate(self.network)
            self.network.train()
        value = float(self.fabric.broadcast(score).item())
        if value > self.best_score:
            self.best_score, self.best_epoch, self.best = value, epoch, self.kept()
        elif job.patience and not last and epoch - self.best_epoch >= job.patience * job.every:
            self.stopped = f"validation has not risen since epoch {self.best_epoch}"
        return value

    def save(self) -> None:
        """Write the state file. Raises OSError."""
        if not self.fabric.is_global_zero:
            return
        job = self.job
        checkpoint.save(
            job.state,
            {
                **self._identity(),
                "fingerprint": job.fingerprint,
                "step": self.step,
                "model": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "precision_state": self.fabric.strategy.precision.state_dict(),
                "ema": self.ema,
                "best": self.best,
                "score": [self.best_score, self.best_epoch],
                "stopped": self.stopped,
                "lines": json.dumps(self.lines),
                "sums": {name: list(pair) for name, pair in self.books.sums.items()},
                "mining": self.books.mining.state(),
            },
        )

    def _identity(self) -> dict[str, Any]:
        job = self.job
        return {
            "subjects": list(job.crops.subjects),
            "threads": job.threads,
            "precision": job.precision,
            "world": self.fabric.world_size,
            "device": job.device.partition(":")[0],
        }

    def _take_up(self, found: dict[str, Any]) -> None:
        where, ours = self.job.state, self._identity()
        advice = f"give the former setting again, or remove {where.name} to start anew"
        if found.get("subjects") != ours["subjects"]:
            raise ConfigError(
                f"{where}: was trained on {len(found.get('subjects', []))} subjects, now there are "
                f"{len(ours['subjects'])}, or others: its classes are not these people; remove it to start anew"
            )
        options = {"threads": "--threads", "world": "processes", "precision": "precision", "device": "--device"}
        for name, option in options.items():
            if found.get(name, ours[name]) != ours[name]:
                raise ConfigError(
                    f"{where}: was computed with {option} {found[name]}, now it is {ours[name]}: the result would "
                    f"not be the same to the last bit; {advice}"
                )
        if found.get("fingerprint") != self.job.fingerprint:
            raise ConfigError(f"{where}: belongs to other settings or data; {advice}")
        self.network.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.fabric.strategy.precision.load_state_dict(found["precision_state"])
        self.step, self.best, self.stopped = found["step"], found["best"], found["stopped"]
        if self.ema is not None:
            own = self.network.state_dict()
            self.ema = {name: value.to(own[name].device) for name, value in found["ema"].items()}
        self.best_score, self.best_epoch = found["score"]
        self.lines = json.loads(found["lines"])
        self.books.sums.update({name: list(pair) for name, pair in found["sums"].items()})
        self.books.mining.load_state(found["mining"])

    def finish(self, epoch_steps: int) -> Fitted:
        """What came of it."""
        epoch = math.ceil(self.step / epoch_steps)
        return Fitted(self.kept(), self.best, self.best_epoch, self.lines, epoch, self.step, self.stopped)


class _Swapped:
    """The network with other weights for a while; None: its own."""

    def __init__(self, network: nn.Module, other: dict[str, Tensor] | None) -> None:
        self.network, self.other = network, other
        self.own: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        if self.other is not None:
            self.own = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
            self.network.load_state_dict(self.other)

    def __exit__(self, *error: object) -> None:
        if self.other is not None:
            self.network.load_state_dict(self.own)
