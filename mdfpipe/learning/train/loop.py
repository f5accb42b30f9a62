"""The one training loop. It knows recipes, batches and processes; it does not know which recipe it runs.

Same settings, crops, seed and thread count, same weights, bit for bit (CPU, fp32): batches depend on (seed, epoch),
pixels on (seed, epoch, crop), what is random in the network on (seed, step); a state that is taken up continues there.
Under `torchrun` every process computes its share of each batch; what `forward` gives is gathered with its gradient, so
that mining and BN necks see the whole batch. For a network whose `forward` uses one image at a time (a ViT without
stochastic depth) the loss curve is then that of one process, but for rounding; BatchNorm inside a backbone (striped
ResNet, IResNet) standardises by its process's share, and there the curve depends on the number of processes.
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.learning.data.batches import CropBatch, Draw, Sampler
from mdfpipe.learning.recipes import Progress
from mdfpipe.learning.train.fabric import make_fabric
from mdfpipe.learning.train.state import Fitted, Job, State
from mdfpipe.machine import stopping

CHECK_STEPS = 25  # losses are looked at, and an accelerator waited for, once in so many steps


def fit(job: Job) -> Fitted:
    """Train `job.model` in place, from its state if there is one. Raises ConfigError, DataError."""
    torch.set_num_threads(job.threads)
    fabric = make_fabric(job.device, job.precision)
    recipe, sampler = job.recipe, job.recipe.sampler(job.crops, job.seed)
    accumulate = recipe.optimiser.accumulate
    if len(sampler) < accumulate:
        raise ConfigError(
            f"optimiser.accumulate: expected at most the {len(sampler)} batches of an epoch, got {accumulate}; lower it"
        )
    epoch_steps = len(sampler) // accumulate
    total = recipe.schedule.steps(epoch_steps)
    network = job.model.to(memory_format=torch.channels_last)
    optimizer = recipe.optimiser.make(recipe.parameter_groups(network))
    wrapped, optimizer = fabric.setup(network, optimizer)
    run = State.begin(job, fabric, network, optimizer)
    with stopping.deferred() as asked:
        _loop(run, wrapped, sampler, epoch_steps, total, asked)
    return run.finish(epoch_steps)


def _loop(
    run: State, wrapped: Any, sampler: Sampler, epoch_steps: int, total: int, asked: Callable[[], int | None]
) -> None:
    """All steps that are left. asked: gives a stop signal that came; the state is then saved. Raises Stopped."""
    job, fabric, network, recipe, optimizer = run.job, run.fabric, run.network, run.job.recipe, run.optimizer
    accumulate = recipe.optimiser.accumulate
    watch, begun = _Watch(), run.step
    job.progress(run.step, total)  # where it goes on
    while run.step < total and not run.stopped:
        epoch, first = divmod(run.step, epoch_steps)
        begin = first * accumulate
        network.train()
        with closing(job.loader.batches(_shares(fabric, sampler, epoch, begin), epoch, begin)) as batches:
            for step in range(run.step, min((epoch + 1) * epoch_steps, total)):
                torch.manual_seed(_seed(job.seed, step, fabric.global_rank))
                where = Progress(step, total, epoch, math.ceil(total / epoch_steps))
                for part in range(accumulate):
                    with fabric.no_backward_sync(wrapped, enabled=part < accumulate - 1 and fabric.world_size > 1):
                        watch.images += _add_gradient(run, wrapped, next(batches), where, accumulate)
                if step == begun and fabric.world_size > 1:
                    _check_gradients(network)
                _update(run, wrapped, optimizer, recipe.schedule.share(step, epoch_steps))
                ends = run.step % epoch_steps == 0 or run.step == total
                if run.step % CHECK_STEPS == 0 or ends:
                    run.settle()
                    job.progress(run.step, total)
                    if not ends and watch.due(job.save_seconds):
                        run.save()
                if not ends:
                    _heed(run, asked())
        run.end_epoch(epoch, optimizer.param_groups[0]["lr"], watch.lap(), last=run.step == total)
        _heed(run, asked(), saved=True)
        watch = _Watch()


def _heed(run: State, signal: int | None, saved: bool = False) -> None:
    """Save the state and raise Stopped after a stop signal. The first of several processes decides."""
    if signal is None or not run.fabric.is_global_zero:
        return
    if not saved:
        run.settle()
        run.save()
    raise stopping.Stopped(signal)


def _add_gradient(run: State, wrapped: Any, share: CropBatch, where: Progress, parts: int) -> int:
    """Add one batch's gradient, of `parts` for the step, and put its losses down. Gives the crops of all processes."""
    fabric, recipe, network = run.fabric, run.job.recipe, run.network
    batch = share.to(fabric.device)
    features = {name: _gather(fabric, value) for name, value in recipe.forward(wrapped, batch).items()}
    labels = _gather_labels(fabric, batch)
    if len(labels) < 2:
        raise DataError(
            f"step {where.step}: one crop is left of a batch, the others do not decode; delete their shards and run "
            "crop again"
        )
    losses = recipe.losses(network, features, labels, where)
    fabric.backward(torch.stack(list(losses.terms.values())).sum() / parts)
    run.books.add_step(where.step, losses.terms, losses.figures)
    if losses.mined is not None:
        run.books.mining.add(losses.mined, labels.domain, labels.subject)
    return len(labels)


def _update(run: State, wrapped: Any, optimizer: Any, share: float) -> None:
    """One step at this share of the rates, after the gradients of all its batches."""
    settings = run.job.recipe.optimiser
    for group in optimizer.param_groups:
        group["lr"] = settings.rate * group["scale"] * share
    if settings.clip_norm is not None:  # `settle` reports a gradient that is not a number
        run.fabric.clip_gradients(wrapped, optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    run.step += 1
    run.average()


def _check_gradients(network: nn.Module) -> None:
    """Raise ConfigError where a weight to be trained has no gradient: processes would wait for it."""
    idle = [name for name, value in network.named_parameters() if value.requires_grad and value.grad is None]
    if idle:
        raise ConfigError(
            f"{', '.join(idle[:3])}{' and more' if len(idle) > 3 else ''}: no loss depends on it, which several "
            "processes cannot train; train in one process, or let the recipe freeze it"
        )


def _shares(fabric: Fabric, sampler: Sampler, epoch: int, first: int) -> Iterator[Draw]:
    """This process's share of the batches of an epoch, from batch `first` on. Raises ConfigError."""
    for number, draw in enumerate(sampler.epoch(epoch)):
        if len(draw) % fabric.world_size:
            raise ConfigError(
                f"a batch of {len(draw)} crops cannot be shared by {fabric.world_size} processes alike; change the "
                "recipe's batch, or the number of processes"
            )
        if number >= first:
            yield draw.share(fabric.global_rank, fabric.world_size)


def _seed(*names: object) -> int:
    return int.from_bytes(hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=7).digest(), "big")


def _gather(fabric: Fabric, value: Tensor) -> Tensor:
    """(B, ...) of all processes, in the order of the batch, with the gradient of each."""
    if fabric.world_size == 1:
        return value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # lightning-fabric calls what torch is about to rename
        gathered: Any = fabric.all_gather(value, sync_grads=value.requires_grad)
    whole: Tensor = gathered.flatten(0, 1)
    return whole


def _gather_labels(fabric: Fabric, batch: CropBatch) -> CropBatch:
    if fabric.world_size == 1:
        return batch
    labels = {name: _gather(fabric, value) for name, value in vars(batch).items() if name != "images"}
    return replace(batch, images=batch.images[:0], **labels)


@dataclass(eq=False)
class _Watch:
    """Seconds and images since the epoch began, seconds since the last state."""

    images: int = 0
    began: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)

    def due(self, seconds: float) -> bool:
        """Whether the last state is that old; a new count begins where it is."""
        now = time.monotonic()
        if now - self.saved < seconds:
            return False
        self.saved = now
        return True

    def lap(self) -> dict[str, float]:
        """Images/s and seconds of the epoch (or of what was left of it)."""
        seconds = time.monotonic() - self.began
        return {"images_per_second": round(self.images / max(seconds, 1e-9), 1), "seconds": round(seconds, 2)}


def seed_everything(seed: int, *names: object) -> None:
    """Seed torch's and NumPy's global generators from (seed, names): for weights that are drawn."""
    torch.manual_seed(_seed(seed, *names))
    np.random.seed(_seed(seed, *names) % 2**32)
