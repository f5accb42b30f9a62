"""Training and embedding by their parts: what the benchmarks `train` and `embed` take turns with."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.train_material import DOMAINS as DOMAIN_NAMES
from benchmarks.train_material import SIZES, crops_of

if TYPE_CHECKING:
    from mdfpipe.store.shards import Place

CROPS_EACH, DOMAINS = 2, len(DOMAIN_NAMES)  # of a domain-aware batch: K, D
VITS = ("mini", "tiny", "small", "base")
NETWORKS = ("striped", *VITS, "face")
BATCH = {"striped": 96, "mini": 64, "tiny": 64, "small": 32, "base": 32, "face": 64}
FACE = {"layers": 18, "width": 32}  # on a CPU; AdaFace's own is IR-101 of width 64
SMALL = {"body": {"image_height_px": 96, "image_width_px": 32}, "face": {"image_height_px": 32, "image_width_px": 32}}
STRIPED = {"image_height_px": 144, "image_width_px": 48}  # of pipelines/synthetic/study.yaml
RICH = {"low_resolution": 0.3, "jitter": 0.8, "polarity": 0.5, "rotation": 4, "shift_x": 0.12}  # it, too, in short
FULL_FACE = {"layers": 101, "width": 64}
CACHE = 4 << 30  # as a training's

LOADER = {"decoding": 0, "from memory": CACHE}
"""What the crops come from: their JPEGs, as in the first epoch, or the cache of decoded crops, as in the others."""


def modality(network: str) -> str:
    return "face" if network == "face" else "body"


def recipe_of(network: str, batch: int, steps: int = 1, *, small: bool = False, full_face: bool = False) -> Any:
    """The recipe of a network, with batches of about so many crops. small: of a toy's size."""
    from mdfpipe.config import validate
    from mdfpipe.learning.recipes import Recipe

    given: dict[str, Any] = {"schedule": {"length": steps, "unit": "steps", "warm_up": 0}}
    if network == "face":
        given |= {"batch": batch, **(FULL_FACE if full_face else FACE)}
        given |= {"width": 8} if small else {}
    else:
        subjects = max(batch // (CROPS_EACH * DOMAINS), 2)
        given |= {"backbone": network, "batches": {"subjects": subjects, "crops": CROPS_EACH}}
        given |= {**STRIPED, "augment": RICH} if network == "striped" else {}
        given |= {"width": 8} if small and network == "striped" else {}
    given |= SMALL[modality(network)] if small else {}
    return validate(Recipe.variant(modality(network)), given, network)


def stored_size(network: str, small: bool) -> tuple[int, int]:
    """(height, width) of the crops in their shard."""
    chosen = SMALL[modality(network)]
    return (chosen["image_height_px"], chosen["image_width_px"]) if small else SIZES[modality(network)]


def keep_to(cores: int) -> None:
    """Let this process use so many cores, so that loader and network share them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


class Held:
    """Batches in memory, in the place of a loader."""

    def __init__(self, batches: list[Any]) -> None:
        self.held = batches

    def batches(self, draws: Any, epoch: int, first: int | None = None) -> Iterator[Any]:
        yield from self.held


class Training:
    """One network's training, whole and by its parts. Draws are those of epoch 0, `steps` of them."""

    def __init__(
        self,
        recipe: Any,
        shard: Path,
        places: list[Place],
        steps: int,
        threads: int,
        precision: str,
        domains: tuple[str, ...] = DOMAIN_NAMES,
    ) -> None:
        import torch

        from mdfpipe.learning.train.loop import seed_everything

        torch.set_num_threads(threads)
        self.recipe, self.steps, self.threads, self.precision = recipe, steps, threads, precision
        batch = _size(recipe, len(domains))
        crops = recipe.batches.crops if recipe.use != "face" else CROPS_EACH
        subjects = max(batch // (crops * len(domains)), 2) * 2
        self.crops = crops_of(shard, places, max(steps * batch, subjects * len(domains) * crops), subjects, domains)
        self.draws = [draw for draw, _ in zip(recipe.sampler(self.crops, 0).epoch(0), range(steps), strict=False)]
        self.images = sum(map(len, self.draws))
        self.state = shard.with_name(f"state-{os.getpid()}.pt")
        seed_everything(0)
        self.model = recipe.network(self.crops)

    def loader(self, cache: int) -> Any:
        from mdfpipe.learning.data.loader import CropReader, Loader

        recipe = self.recipe
        reader = CropReader(self.crops, recipe.image_height_px, recipe.image_width_px, recipe.depth, cache_bytes=cache)
        return Loader(self.crops, reader, recipe.augment, seed=0, threads=self.threads)

    def read(self, loader: Any) -> list[Any]:
        """All batches."""
        return list(loader.batches(iter(self.draws), 0, 0))

    def drain(self, loader: Any) -> None:
        """Read all batches, and keep none."""
        for _ in loader.batches(iter(self.draws), 0, 0):
            pass

    def fit(self, loader: Any, device: str = "cpu") -> float:
        """The loop of `mdfpipe train`, `steps` of it; gives images/s without its beginning and its state file."""
        from mdfpipe.learning.train.loop import fit
        from mdfpipe.learning.train.state import Job

        self.state.unlink(missing_ok=True)
        lines: list[dict[str, Any]] = []
        job = Job(
            recipe=self.recipe,
            model=copy.deepcopy(self.model),
            crops=self.crops,
            loader=loader,
            seed=0,
            state=self.state,
            fingerprint="benchmark",
            precision=self.precision,
            device=device,
            threads=self.threads,
            log=lines.append,
        )
        fit(job)
        self.state.unlink(missing_ok=True)
        steps = [after["step"] - before["step"] for before, after in zip([{"step": 0}, *lines], lines, strict=False)]
        return self.images / sum(_seconds(line, n * len(self.draws[0])) for line, n in zip(lines, steps, strict=True))

    def network_alone(self, batches: list[Any], device: str = "cpu", *, compiled: bool = False) -> Callable[[], None]:
        """Forward, losses, backward and step of batches in memory, without the loop."""
        import torch

        from mdfpipe.learning.recipes import Progress

        recipe, model = self.recipe, copy.deepcopy(self.model).to(device).to(memory_format=torch.channels_last).train()
        optimizer = recipe.optimiser.make(recipe.parameter_groups(model))
        run = torch.compile(model) if compiled else model
        given = [batch.to(torch.device(device)) for batch in batches]

        def task() -> None:
            for step, batch in enumerate(given):
                with casting(device, self.precision):
                    features = recipe.forward(run, batch)
                    losses = recipe.losses(model, features, batch, Progress(step, len(given), 0, 1))
                torch.autograd.backward(torch.stack(list(losses.terms.values())).sum())
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            wait(device)

        return task


def casting(device: str, precision: str) -> Any:
    """As the loop and `embed` cast."""
    import torch

    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in types:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, types[precision])


def wait(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


def _seconds(line: dict[str, Any], images: int) -> float:
    """How long an epoch took: of its two rounded figures, the one that says it better."""
    return float(line["seconds"]) if line["seconds"] > 1 else images / line["images_per_second"]


def _size(recipe: Any, domains: int) -> int:
    if recipe.use == "face":
        return int(recipe.batch)
    return int(recipe.batches.subjects * recipe.batches.crops * domains)


class Embedding:
    """Embedding of `count` crops, whole and by its parts."""

    def __init__(
        self,
        recipe: Any,
        shard: Path,
        places: list[Place],
        count: int,
        batch: int,
        threads: int,
        precision: str,
        device: str = "cpu",
    ) -> None:
        import torch

        from mdfpipe.learning.data.loader import CropReader
        from mdfpipe.learning.train.loop import seed_everything

        torch.set_num_threads(threads)
        self.recipe, self.count, self.batch = recipe, count, batch
        self.threads, self.precision, self.device = threads, precision, device
        self.crops = crops_of(shard, places, count, min(count, 100))
        self.reader = CropReader(self.crops, recipe.image_height_px, recipe.image_width_px, recipe.depth)
        seed_everything(0)
        self.model = recipe.network(self.crops).to(device).to(memory_format=torch.channels_last).eval()

    def read(self) -> Iterator[Any]:
        """The batches, as `embed` reads them."""
        from mdfpipe.learning.data.loader import read_plain

        return read_plain(self.crops, self.reader, self.recipe.augment, rows_per_batch=self.batch, threads=self.threads)

    def drain(self) -> None:
        """Read all batches, and keep none."""
        for _ in self.read():
            pass

    def under(self, engine: str) -> Any:
        """The network as a stage runs it under this engine."""
        from mdfpipe.learning.embedders import TorchEmbedder, TracedEmbedder
        from mdfpipe.machine.engines import EngineAsked

        if engine == "torch":
            return TorchEmbedder(self.recipe, self.model, self.precision)
        asked = EngineAsked(engine, "torch", "engine", "the benchmark")
        given = (self.recipe, self.model, DOMAIN_NAMES, engine, self.precision, asked, "the benchmark")
        return TracedEmbedder(*given, threads=self.threads)

    def embed(self, embedder: Any = None) -> int:
        """All vectors, none kept; gives how many there were."""
        return sum(len(found) for found in self.vectors(embedder))

    def vectors(self, embedder: Any = None) -> Iterator[Any]:
        """All vectors, some at a time; by default under torch."""
        from mdfpipe.learning.embedding import embed

        network = embedder or self.under("torch")
        for _, found in embed(network, self.crops, self.reader, batch=self.batch, threads=self.threads):
            yield found

    def held(self, embedder: Any) -> Callable[[], None]:
        """The network on batches in memory, as large as it is always given, and as many as there are crops."""
        from mdfpipe.learning.embedders import batch_of, drawn_images

        images = batch_of(drawn_images(self.recipe), 0)

        def task() -> None:
            for _ in range(-(-self.count // len(images))):
                embedder(images)

        return task

    def bare(self) -> Callable[[], None]:
        """timm's own ViT of the size of the body's, with registers for its local tokens, on batches as `held`."""
        import torch
        from timm.models.vision_transformer import VisionTransformer

        from mdfpipe.learning.embedders import drawn_images
        from mdfpipe.learning.models.backbones.semantic_vit import PARTS, SIZES

        recipe, size = self.recipe, SIZES[self.recipe.backbone]
        images = drawn_images(recipe).contiguous(memory_format=torch.channels_last)
        network = VisionTransformer(
            img_size=(recipe.image_height_px, recipe.image_width_px),
            patch_size=recipe.patch_px,
            embed_dim=size.width,
            depth=size.depth,
            num_heads=size.heads,
            reg_tokens=len(PARTS),
            num_classes=0,
            global_pool="",
        )
        network = network.to(memory_format=torch.channels_last).eval()

        def task() -> None:
            for _ in range(-(-self.count // len(images))):
                with torch.inference_mode(), casting("cpu", self.precision):
                    network(images)

        return task

    def network_alone(self, *, compiled: bool = False) -> Callable[[], None]:
        """The network on batches in memory, as many as there are crops."""
        import torch

        run = torch.compile(self.model) if compiled else self.model
        batches = zip(self.read(), range(4), strict=False)
        held = [_channels_last(batch.to(torch.device(self.device))) for batch, _ in batches]

        def task() -> None:
            for number in range(-(-self.count // self.batch)):
                with torch.inference_mode(), casting(self.device, self.precision):
                    self.recipe.embed(run, held[number % len(held)])
            wait(self.device)

        return task


def _channels_last(batch: Any) -> Any:
    import torch

    return replace(batch, images=batch.images.contiguous(memory_format=torch.channels_last))
