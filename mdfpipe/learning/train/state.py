"""State of a training: its job, what it has added up so far, and the file from which a killed one resumes."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mdfpipe.errors import ConfigError, DataError, one_line
from mdfpipe.learning.losses.mining import MiningStatistics
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.train import checkpoint

if TYPE_CHECKING:
    from mdfpipe.learning.data.crops import Crops
    from mdfpipe.learning.data.loader import Loader


_REMEDY = "lower optimiser.rate, clip with optimiser.clip_norm, or train in fp32; the last state was kept"


@dataclass(eq=False)
class Job:
    """One training. state: file that a killed training continues from; fingerprint: what decides the result.

    validate: gives Rank-1 (or any figure that should be large) of the network as it is; measure: further shares for the
    log, name -> value, each time it is validated; every, patience: epochs between
    two validations (there is one at the end, too), and how many of them in a row may bring nothing better (0: no early
    stop). save_seconds: between two states. notes: what to know of it, before it begins.
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
    measure: Callable[[nn.Module], dict[str, float]] = lambda model: {}
    every: int = 0
    patience: int = 0
    save_seconds: float = 120.0
    notes: tuple[str, ...] = ()
    progress: Callable[[int, int], None] = lambda done, total: None
    log: Callable[[dict[str, Any]], None] = lambda line: None


@dataclass(eq=False)
class Fitted:
    """What a training gives. last, best: state dicts (best: None without validation); lines: one an epoch, without
    speeds; epoch, step: how far it came; stopped: why it ended early, or ""; notes: what to know of how it went.
    """

    last: dict[str, Tensor]
    best: dict[str, Tensor] | None
    best_epoch: int
    lines: list[dict[str, Any]]
    epoch: int
    step: int
    stopped: str = ""
    notes: list[str] = field(default_factory=list)


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
    notes: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, job: Job, fabric: Fabric, network: nn.Module, optimizer: Any) -> State:
        """A fresh one, or the one in the file. Raises ConfigError where that belongs to another training.

        A file that holds no state of this training's shape is set aside.
        """
        state = cls(job, fabric, network, optimizer, notes=list(job.notes))
        if job.recipe.optimiser.ema is not None:
            state.ema = {name: value.detach().clone() for name, value in network.state_dict().items()}
        if job.state.exists():
            state._go_on()
        return state

    def _go_on(self) -> None:
        """Take up the state in the file, or set that aside. Raises ConfigError."""
        where = self.job.state
        try:
            found = checkpoint.load(where)
        except DataError as error:
            self.notes.append(set_aside(where, one_line(error).removeprefix(f"{where}: ")))
            return
        wrong = [name for name, kind in _STATE.items() if not isinstance(found.get(name), kind)]
        if not wrong:
            self._refuse_other(found)
        if odd := f"expected {', '.join(wrong)} as a state has them" if wrong else self._odd(found):
            self.notes.append(set_aside(where, odd))
        else:
            self._take_up(found)

    def _odd(self, found: dict[str, Any]) -> str:
        """What in a document is not as a state of this training has it, in a few words; "" where all is."""
        own = {name: value.shape for name, value in self.network.state_dict().items()}
        for name in ("model", "ema", "best"):
            given = found.get(name)
            if given is not None and {n: getattr(v, "shape", None) for n, v in given.items()} != own:
                return f"{name}: expected the weights of the recipe's network"
        if self.ema is not None and found.get("ema") is None:
            return "expected averaged weights"
        groups = self.optimizer.state_dict()["param_groups"]
        if _shape(found["optimizer"].get("param_groups")) != _shape(groups):
            return "optimizer: expected the groups of the recipe's parameters"
        return ""

    def average(self) -> None:
        """Move the averaged weights towards the present ones; what only counts is as it is now."""
        decay = self.job.recipe.optimiser.ema
        if self.ema is None or decay is None:
            return
        now = self.network.state_dict()
        real = [name for name, value in now.items() if value.is_floating_point()]
        # not AveragedModel: it begins at the weights after the first step, and averages counters, too
        move: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        move([self.ema[name] for name in real], [now[name] for name in real], 0)
        for name in now.keys() - real:
            self.ema[name].copy_(now[name])

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
            line |= {f"validation/{name}": value for name, value in self._validate(epoch, last).items()}
        self.lines.append(line)
        self.books = Books()
        if self.fabric.is_global_zero:
            job.log({**line, **speed})
        self.save()

    def _validate(self, epoch: int, last: bool) -> dict[str, float]:
        """rank-1, and, in the process that writes the log, what the job measures."""
        job, score, measured = self.job, torch.zeros(1, dtype=torch.float64), dict[str, float]()
        assert job.validate is not None
        if self.fabric.is_global_zero:
            self.network.eval()
            with _swapped(self.network, self.ema):
                score[0] = job.validate(self.network)
                measured = job.measure(self.network)
            self.network.train()
        value = float(self.fabric.broadcast(score).item())
        if value > self.best_score:
            self.best_score, self.best_epoch, self.best = value, epoch, self.kept()
        elif job.patience and not last and epoch - self.best_epoch >= job.patience * job.every:
            self.stopped = f"validation has not risen since epoch {self.best_epoch}"
        return {"rank-1": value, **measured}

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
                "notes": self.notes,
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

    def _refuse_other(self, found: dict[str, Any]) -> None:
        """Raise ConfigError where it is a state of another training."""
        where, ours = self.job.state, self._identity()
        advice = f"give the former setting again, or remove {where.name} to start again"
        if found.get("subjects") != ours["subjects"]:
            raise ConfigError(
                f"{where}: was trained on {len(found.get('subjects', []))} subjects, now there are "
                f"{len(ours['subjects'])}, or others: its classes are not these people; remove it to start again"
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

    def _take_up(self, found: dict[str, Any]) -> None:
        self.network.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.fabric.strategy.precision.load_state_dict(found["precision_state"])
        self.step, self.best, self.stopped = found["step"], found["best"], found["stopped"]
        if self.ema is not None:
            own = self.network.state_dict()
            self.ema = {name: value.to(own[name].device) for name, value in found["ema"].items()}
        self.best_score, self.best_epoch = found["score"]
        self.notes += [note for note in found.get("notes", []) if note not in self.notes]
        self.lines = json.loads(found["lines"])
        self.books.sums.update({name: list(pair) for name, pair in found["sums"].items()})
        self.books.mining.load_state(found["mining"])

    def finish(self, epoch_steps: int) -> Fitted:
        """What came of it."""
        epoch = math.ceil(self.step / epoch_steps)
        return Fitted(self.kept(), self.best, self.best_epoch, self.lines, epoch, self.step, self.stopped, self.notes)


def set_aside(state: Path, why: str) -> str:
    """Rename a state that cannot be gone on from, so that the training starts again. Gives a line that says so."""
    aside = state.with_name(f"{state.name}.damaged")
    with suppress(FileNotFoundError):  # another process of `torchrun` was faster
        state.replace(aside)
    state.with_suffix(".jsonl").unlink(missing_ok=True)
    return (
        f"the state of a training that was cut off could not be used and was set aside as {aside.name}; it started "
        f"again, with the same result ({why})"
    )


_STATE: Final[dict[str, type | tuple[type, ...]]] = {
    **dict.fromkeys(("model", "optimizer", "precision_state", "sums", "mining"), dict),
    **dict.fromkeys(("lines", "stopped", "fingerprint"), str),
    **dict.fromkeys(("subjects", "score"), list),
    "step": int,
    "ema": (dict, type(None)),
    "best": (dict, type(None)),
}


def _shape(groups: Any) -> list[Any]:
    """How many parameters each group has."""
    return [len(group["params"]) for group in groups] if isinstance(groups, list) else []


@contextmanager
def _swapped(network: nn.Module, other: dict[str, Tensor] | None) -> Iterator[None]:
    """The network with other weights for a while; None: its own."""
    if other is None:
        yield
        return
    own = {name: value.detach().clone() for name, value in network.state_dict().items()}
    network.load_state_dict(other)
    try:
        yield
    finally:
        network.load_state_dict(own)
