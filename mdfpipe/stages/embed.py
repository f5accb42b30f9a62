"""embed: the crops of one video to vectors, by the weights of one system."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from pydantic import Field

from mdfpipe.config import result_settings
from mdfpipe.errors import DataError
from mdfpipe.learning.data import crops as c
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.system import AUTO, System
from mdfpipe.machine.devices import gpu_of
from mdfpipe.machine.engines import EngineAsked, made_by
from mdfpipe.stages import Context, Inputs, Made, Resources, Review, Stage
from mdfpipe.stages.train import checkpoint_of_run, weights_of
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.images import recorded_window
from mdfpipe.store.left_out import of_stage
from mdfpipe.store.run import Receipt, Run, fingerprint
from mdfpipe.store.tables import EmbedStatus, chosen, coded, embeddings, joined

if TYPE_CHECKING:
    from mdfpipe.learning.embedders import ImagesToVectors

NATIVE = "torch"
MANIFEST = ("manifest", "manifest")  # the stage and the key of its part
CROPS_A_FRAME = 8  # of --batch: a crop is much smaller than a frame


class Embed(Stage):
    """Vectors of one system."""

    version: ClassVar[int] = 1
    unit: ClassVar[str] = "crops"

    system: str = Field(description="its name in the study")
    settings: System = Field(description="its settings")

    @property
    def name(self) -> str:  # type: ignore[override]
        """embed/SYSTEM: a folder of its own."""
        return f"embed/{self.system}"

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """The video's crops, whose they are, and the weights."""
        return ("crop", "manifest", f"train/{self.system}")

    @property
    def schema(self) -> pa.Schema:
        """Vectors as wide as the recipe's."""
        return embeddings(self.settings.recipe.features)

    @property
    def engine_asked(self) -> EngineAsked | None:
        """The system's; none where its recipe's network runs under one library only."""
        if self.settings.recipe.native != NATIVE:
            return None
        return EngineAsked(self.settings.engine, NATIVE, f"systems.{self.system}.engine", self.name)

    @property
    def precision_asked(self) -> str | None:
        """The system's."""
        return self.settings.precision

    def under(self, engine: str) -> Self:
        """The same stage with its network under this engine."""
        return self.model_copy(update={"settings": self.settings.model_copy(update={"engine": engine})})

    def without_effect(self, facts: Mapping[str, Any]) -> tuple[str, ...]:
        """The engine, where it is the one asked for, or none is, or there is nothing to embed."""
        asked = self.engine_asked
        unused = not facts.get("rows", True) or (asked and asked.suits(facts.get("engine")))
        return ("engine",) if unused else ()

    def decisive(self) -> dict[str, Any]:
        """Settings that decide the vectors, besides the weights."""
        kept = ("recipe", "precision", "keep", "splits", "engine")
        return {name: value for name, value in result_settings(self.settings).items() if name in kept}

    def slice_of(self, upstream: Receipt, run: Run, key: str) -> str:
        """Crops of this video in the manifest that are embedded, and its domain, which may decide the stream;
        of the training, the weights' content.
        """
        if upstream.stage == "manifest":
            domain, crops = self._wanted(run, upstream, key)
            return fingerprint([domain, crops.to_pylist(), *self._camera(run, upstream, key).values()])
        return weights_of(upstream, self.settings.keep)

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Embed what the manifest holds of this video, in the order of its crop_id."""
        from mdfpipe.learning.data.loader import CropReader
        from mdfpipe.learning.embedding import embed

        settings, resources, run = self.settings, context.resources, inputs.run
        domain, wanted = self._wanted(run, run.shared_receipt(*MANIFEST), key)
        if not len(wanted):
            return Made(self.schema.empty_table(), {"rows": {}})
        path, embedder, domains = self._opened(run, resources)
        recipe = embedder.recipe
        rows = inputs.table("crop", key)
        rows = joined(rows, wanted, "crop_id", run.part("crop", key), "the manifest", others=True)
        deep = recorded_window(run, key)  # as crop tells it
        camera = self._camera(run, run.shared_receipt(*MANIFEST), key)
        crops = c.from_crops(rows, run.path, domain, windows={key: deep} if deep else None, camera=camera)
        reader = CropReader(crops, recipe.image_height_px, recipe.image_width_px, recipe.depth, strict=settings.strict)
        vectors = np.zeros((len(crops), recipe.features), np.float32)
        usable = np.zeros(len(crops), bool)
        for at, found in embed(
            embedder,
            crops,
            reader,
            domains,
            batch=CROPS_A_FRAME * resources.batch,
            threads=resources.threads,
            progress=lambda done: context.progress(done, len(crops)),
        ):
            vectors[at], usable[at] = found, True
        reader.close()
        if not usable.any():
            crop_id, why = min(reader.bad.items())
            shards = ", ".join(path.name for path in crops.shards)
            none = f"none of the {len(crops)} crops of {shards} decodes ({crop_id}: {why})"
            raise DataError(f"{none}; delete the shard and run crop again")
        if not np.isfinite(vectors).all():
            raise DataError(f"{path}: gives vectors that are no numbers; was it trained to its end?")
        engine = settings.engine if settings.engine != "auto" else recipe.native
        made = made_by(engine, self.precision_in(run))
        facts = {"rows": _counts(usable), "bad": reader.bad, "engine": made}
        return Made(self._table(crops.crop_id, vectors, usable), facts)

    def count(self, run: Run) -> int:
        """How many crops of all videos are embedded."""
        found = self._chosen(run, run.receipt(*MANIFEST))
        return sum(len(crops) for _, crops in found.values())

    def vectors_of_drawn(self, run: Run, resources: Resources) -> np.ndarray[Any, Any]:
        """(n, D) vectors of drawn pictures, through the stream of each domain that is embedded."""
        from mdfpipe.learning.embedders import batch_of, drawn_images

        _, embedder, domains = self._opened(run, resources)
        recipe, named = embedder.recipe, {domain for domain, _ in self._chosen(run, run.receipt(*MANIFEST)).values()}
        places = {recipe.embedded_as(name, domains) for name in named}  # None: the units say that it has no stream
        streams = sorted({recipe.stream_at(place, domains) for place in places if place is not None})
        images = drawn_images(recipe)
        found = [embedder(batch_of(images, stream)) for stream in streams]
        return np.concatenate([np.zeros((0, recipe.features), np.float32), *found])

    def _opened(self, run: Run, resources: Resources) -> tuple[Path, ImagesToVectors, list[str]]:
        """The checkpoint, the network under its engine, and the domains that it was made for."""
        path = checkpoint_of_run(run, self.system, self.settings.keep)
        how = self.settings.model_dump(mode="json", include={"recipe", "engine"})
        how["precision"] = self.precision_in(run)
        asked = json.dumps([self.system, how], sort_keys=True)
        return path, *_open(path, file_sha256(path), asked, resources.device, resources.threads)

    def precision_in(self, run: Run) -> str:
        """The precision of its vectors: with `auto`, that of the training, which onnxruntime does not have."""
        if self.settings.precision != AUTO:
            return self.settings.precision
        training = run.shared_receipt(f"train/{self.system}", "training")
        trained = str(training.facts.get("precision", "")) if training else ""
        return "fp32" if self.settings.engine == "onnxruntime" else trained or "fp32"

    def _wanted(self, run: Run, manifest: Receipt | None, key: str) -> tuple[str, pa.Array]:
        """The domain of a video, and its crops that are embedded, sorted."""
        return self._chosen(run, manifest).get(key, ("", pa.array([], pa.string())))

    def _camera(self, run: Run, manifest: Receipt | None, key: str) -> dict[str, str]:
        """The video's camera, where the network uses it and the data set names it."""
        if not self.settings.recipe.uses_cameras or manifest is None:
            return {}
        camera = _cameras(run.path, manifest.content).get(key)
        return {key: camera} if camera is not None else {}

    def _chosen(self, run: Run, manifest: Receipt | None) -> dict[str, tuple[str, pa.Array]]:
        """As `_wanted`, of each video."""
        mark, settings = manifest.content if manifest else "", self.settings
        return _chosen(run.path, mark, settings.recipe.modality, tuple(settings.splits))

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Say which crops gave no vector, and that several engines made the others, where they did."""
        several = self.engine_asked.several(self.name, "vectors", facts) if self.engine_asked else []
        return Review(lasting=[*of_stage(self.name, facts), *several])

    def _table(self, crop_id: pa.Array, vectors: np.ndarray[Any, Any], usable: np.ndarray[Any, Any]) -> pa.Table:
        width = vectors.shape[1]
        values = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.ravel()), width, mask=pa.array(~usable) if not usable.all() else None
        )
        return pa.table([crop_id, values, coded(~usable, EmbedStatus)], schema=self.schema)


def _counts(usable: np.ndarray[Any, Any]) -> dict[str, int]:
    found = {EmbedStatus.OK.value: int(usable.sum()), EmbedStatus.UNREADABLE.value: int((~usable).sum())}
    return {name: count for name, count in found.items() if count}


@lru_cache(maxsize=8)
def _chosen(run: Path, manifest: str, modality: str, splits: tuple[str, ...]) -> dict[str, tuple[str, pa.Array]]:
    """video_id -> its domain, and its crops that are embedded, sorted. manifest: its content, read once for each."""
    table = Run(run).table("manifest", "manifest", ["crop_id", "video_id", "domain", "modality", "split"])
    rows = chosen(table, modality, splits).select(["video_id", "crop_id", "domain"])
    rows = rows.sort_by([("video_id", "ascending"), ("crop_id", "ascending")]).combine_chunks()
    videos = rows["video_id"].combine_chunks().dictionary_encode()
    crops, domains = rows["crop_id"].combine_chunks(), rows["domain"].combine_chunks()
    ends = np.cumsum(np.bincount(videos.indices.to_numpy(), minlength=len(videos.dictionary))).tolist()
    parts = zip(videos.dictionary.to_pylist(), [0, *ends], ends, strict=False)
    return {name: (domains[begin].as_py(), crops[begin:end]) for name, begin, end in parts}


@lru_cache(maxsize=8)
def _cameras(run: Path, manifest: str) -> dict[str, str]:
    """video_id -> its camera, where there is one. manifest: its content, read once for each."""
    pairs = Run(run).table("manifest", "manifest", ["video_id", "camera_id"]).group_by(["video_id", "camera_id"])
    rows = pairs.aggregate([]).to_pylist()
    return {row["video_id"]: row["camera_id"] for row in rows if row["camera_id"] is not None}


@lru_cache(maxsize=1)
def _open(path: Path, content: str, how: str, device: str, threads: int) -> tuple[ImagesToVectors, list[str]]:
    """The network under its engine, and the domains that it was made for; opened once a process.

    content: sha256 of the checkpoint; how: the system, its recipe, engine and precision as JSON.
    """
    import torch

    from mdfpipe.learning.embedders import TorchEmbedder, TracedEmbedder
    from mdfpipe.learning.embedding import network_of
    from mdfpipe.learning.train.checkpoint import Checkpoint
    from mdfpipe.tracing import refuse_precision

    family: Any = Recipe  # abstract: validating picks the variant
    system, given = json.loads(how)
    precision, gpu = given["precision"], gpu_of(device)
    asked = EngineAsked(given["engine"], NATIVE, f"systems.{system}.engine", f"embed/{system}")
    engine = asked.on(gpu)
    refuse_precision(engine, precision, asked)
    torch.set_num_threads(threads)
    found = Checkpoint.load(path)
    place = device if engine == NATIVE else "cpu"
    recipe, network = network_of(found, path, family.model_validate(given["recipe"]), place)
    if engine == NATIVE:
        return TorchEmbedder(recipe, network, precision), found.domains
    traced = TracedEmbedder(
        recipe, network, found.domains, engine, precision, asked, str(path), threads=threads, gpu=gpu
    )
    return traced, found.domains
