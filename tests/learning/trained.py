"""Trainings of a second: jobs over small crops, in this process or in processes that can be killed.

`Toy` is a recipe whose every step one can follow by hand. Processes are forked from a server that has imported torch
and computed nothing, so that each is a fresh one, and starts in no time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mdfpipe.config import validate
from mdfpipe.errors import MdfError
from mdfpipe.learning.data.augment import Augment
from mdfpipe.learning.data.crops import Crops, from_manifest
from mdfpipe.learning.data.loader import CropReader, Loader
from mdfpipe.learning.data.sampling import Uniform
from mdfpipe.learning.losses.identity import cross_entropy
from mdfpipe.learning.losses.ranking import mine
from mdfpipe.learning.recipes import Losses, Recipe
from mdfpipe.learning.train import checkpoint
from mdfpipe.learning.train import loop as training
from mdfpipe.learning.train.loop import seed_everything
from mdfpipe.learning.train.schedule import Group, Optimiser, Schedule
from mdfpipe.learning.train.state import Fitted, Job
from mdfpipe.store.run import Receipt, Run
from tests.learning.made import DOMAINS, write_run
from tests.started import hearing_signals


class ToyNet(nn.Module):
    """Two linear maps of the pixels."""

    def __init__(self, pixels: int, classes: int, idle: bool = False) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(2)) if idle else None
        self.backbone = nn.Linear(pixels, 6)
        self.classifier = nn.Linear(6, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images.flatten(1))


class Toy(Recipe):
    """Cross-entropy without BN: a mean over images. Nothing is random but the batches."""

    image_height_px: int = 16
    image_width_px: int = 16
    batch: int = 12
    head_rate: float = 1.0
    head_decay: float | None = None
    idle: bool = False  # whether it has a weight that no loss depends on
    ill: int = -1  # the step whose loss is no number
    steep: int = -1  # the step whose loss is a number, and its gradient none
    optimiser: Optimiser = Optimiser(rate=0.01)
    schedule: Schedule = Schedule(length=2, warm_up=0)
    augment: Augment = Augment(flip=0, pad_px=0, erasing=0)

    seen: ClassVar[list[Any]] = []  # what the losses were given: (progress, type of the features, rows)

    @property
    def features(self) -> int:
        return 6

    def model(self, classes: int, domains: Sequence[str]) -> nn.Module:
        return ToyNet(3 * self.image_height_px * self.image_width_px, classes, self.idle)

    def load(self, *arguments: Any) -> Any:
        raise NotImplementedError

    def sampler(self, crops: Crops, seed: int) -> Any:
        return Uniform(crops, size=self.batch, seed=seed)

    def forward(self, model: Any, batch: Any) -> dict[str, Tensor]:
        return {"z": model(batch.images)}

    def losses(self, model: Any, features: dict[str, Tensor], batch: Any, progress: Any) -> Losses:
        z = features["z"]
        Toy.seen.append((progress, z.dtype, batch.row.tolist()))
        loss = cross_entropy(model.classifier(z), batch.subject)
        if progress.step == self.ill:
            loss = loss * torch.nan
        if progress.step == self.steep:
            loss = loss + (z - z.detach()).abs().sqrt().sum()  # 0, with an infinite slope
        right = float((model.classifier(z).argmax(1) == batch.subject).sum())
        return Losses({"identity": loss}, {"accuracy": (right, len(z))}, mine(z.detach(), batch.subject))

    def embed(self, model: Any, batch: Any) -> Tensor:
        return model(batch.images)

    def parameter_groups(self, model: Any) -> list[Group]:
        backbone, head = list(model.backbone.parameters()), list(model.classifier.parameters())
        idle = [model.idle] if self.idle else []
        return [Group(backbone + idle), Group(head, self.head_rate, self.head_decay, "head")]


def tiny(name: str, **settings: Any) -> Recipe:
    """The recipe `name` (or toy) with its tiny settings, and these."""
    if name == "toy":
        return validate(Toy, settings, name)
    kind = Recipe.variant(name)
    return validate(kind, merged(dict(kind.tiny), settings), name)


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    inner = {k: merged(base.get(k, {}), v) if isinstance(v, dict) else v for k, v in more.items()}
    return base | inner


def crops_in(folder: Path, recipe: Recipe, **made: Any) -> Crops:
    """Crops of the recipe's size, written below `folder` where there are none."""
    if not folder.exists():
        size = (recipe.image_height_px, recipe.image_width_px)
        write_run(folder, modality=recipe.modality, size=size, **made)
    return from_manifest(Run(folder).table("manifest", "manifest"), folder, modality=recipe.modality)


def study_in(folder: Path, recipe: Recipe, **made: Any) -> Run:
    """A run folder whose manifest also says what the protocol enrols, as the stages expect it."""
    run = write_run(folder, modality=recipe.modality, size=(recipe.image_height_px, recipe.image_width_px), **made)
    protocol = {"gallery_domains": [DOMAINS[0]]}
    run.commit(Receipt("manifest", 1, "manifest", {"protocol": protocol}, {}), run.table("manifest", "manifest"), {})
    return run


def job(crops: Crops, recipe: Recipe, state: Path, *, loader_threads: int = 1, cache: int = 0, **more: Any) -> Job:
    """A training of `recipe` from weights drawn by seed 0."""
    seed_everything(more.get("seed", 0), "weights")
    model = recipe.model(len(crops.subjects), crops.domains)
    reader = CropReader(crops, recipe.image_height_px, recipe.image_width_px, recipe.depth, cache_bytes=cache)
    seed = more.pop("seed", 0)
    loader = Loader(crops, reader, recipe.augment, seed=seed, threads=loader_threads)
    return Job(recipe, model, crops, loader, seed, state, **{"fingerprint": "f", **more})


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two state dicts hold the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def result(fitted: Fitted) -> dict[str, Any]:
    """What a training gave, as plain values that compare."""

    def plain(state: dict[str, Tensor] | None) -> Any:
        return state and {name: value.numpy().tobytes() for name, value in state.items()}

    return {**vars(fitted), "last": plain(fitted.last), "best": plain(fitted.best)}


# -- processes


class Interrupted(Exception):  # noqa: N818
    """A training is left."""


@contextlib.contextmanager
def saving_always(states: bool = True) -> Iterator[None]:
    """A state (or, without `states`, a sign of progress only) after each step.

    Without states a step takes a quarter of a second: progress is told ten times a second at most, and a fast
    processor does all steps in less.
    """
    steps, due = training.CHECK_STEPS, training._Watch.due

    def each_step(self: training._Watch, seconds: float) -> bool:
        if not states:
            time.sleep(0.25)
        return states

    training.CHECK_STEPS, training._Watch.due = 1, each_step  # type: ignore[method-assign]
    try:
        yield
    finally:
        training.CHECK_STEPS, training._Watch.due = steps, due  # type: ignore[method-assign]


def die_in_write(number: int, half: bool) -> None:
    """End this process by SIGKILL in its state number `number`: half written, or whole and not yet in its place."""
    sync, count = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal count
        count += 1
        if count == number:
            if half:
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    checkpoint.os.fsync = fsync  # type: ignore[attr-defined]


def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.learning.trained", "mdfpipe.stages.train", "mdfpipe.running.execution"])
    return context


class Child:
    """`work(say, *arguments)` in a process of its own; `say(value)` sends something here."""

    def __init__(self, work: Callable[..., Any], *arguments: Any, env: dict[str, str] | None = None) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = _server().Process(target=_child, args=(theirs, work, arguments, env or {}), daemon=True)
        self.process.start()
        theirs.close()
        self.heard: list[Any] = []

    def hear(self) -> Iterator[Any]:
        """What it says, until it ends."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                self.heard.append(self.pipe.recv())
                yield self.heard[-1]

    def kill(self) -> int:
        """SIGKILL; its exit code."""
        self.process.kill()
        return self.end()

    def end(self) -> int:
        """Wait for it; its exit code."""
        for _ in self.hear():
            pass
        self.process.join(120)
        code = self.process.exitcode
        assert code is not None
        return code


def _child(pipe: Any, work: Callable[..., Any], arguments: Sequence[Any], env: dict[str, str]) -> None:
    os.environ.update(env)
    hearing_signals()
    torch.set_num_threads(1)
    try:
        work(pipe.send, *arguments)
    except MdfError as error:
        pipe.send(error)
        os._exit(2)


def together(work: Callable[..., Any], *arguments: Any, world: int = 2) -> list[Child]:
    """`work` in `world` processes that meet as under `torchrun`."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "OMP_NUM_THREADS": "1"}
    return [Child(work, *arguments, env={**shared, "RANK": str(n), "LOCAL_RANK": str(n)}) for n in range(world)]
