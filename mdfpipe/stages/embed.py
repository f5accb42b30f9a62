"""embed: the crops of one video to vectors, by the weights of one system."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from mdfpipe.config import result_settings
from mdfpipe.errors import DataError
from mdfpipe.learning.data import crops as c
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.system import System
from mdfpipe.stages import Context, Inputs, Made, Review, Stage
from mdfpipe.stages.train import checkpoint_of_run, weights_of
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.images import recorded_window
from mdfpipe.store.left_out import of_stage
from mdfpipe.store.run import Receipt, Run, fingerprint
from mdfpipe.store.tables import EmbedStatus, chosen, coded, embeddings, joined

if TYPE_CHECKING:
    from torch import nn

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

    def decisive(self) -> dict[str, Any]:
        """Settings that decide the vectors, besides the weights."""
        kept = ("recipe", "precision", "keep", "splits")
        return {name: value for name, value in result_settings(self.settings).items() if name in kept}

    def slice_of(self, upstream: Receipt, run: Run, key: str) -> str:
        """Crops of this video in the manifest that are embedded, and its domain, which may decide the stream;
        of the training, the weights' content.
        """
        if upstream.stage == "manifest":
            domain, crops = self._wanted(run, upstream, key)
            return fingerprint([domain, crops.to_pylist()])
        return weights_of(upstream, self.settings.keep)

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Embed what the manifest holds of this video, in the order of its crop_id."""
        from mdfpipe.learning.data.loader import CropReader
        from mdfpipe.learning.embedding import embed

        settings, resources, run = self.settings, context.resources, inputs.run
        domain, wanted = self._wanted(run, run.receipt("manifest", "manifest"), key)
        if not len(wanted):
            return Made(self.schema.empty_table(), {"rows": {}})
        path = checkpoint_of_run(run, self.system, settings.keep)
        asked = json.dumps(settings.recipe.model_dump(mode="json"), sort_keys=True)
        recipe, model, domains = _open(path, file_sha256(path), asked, resources.device, resources.threads)
        rows = inputs.table("crop", key)
        rows = joined(rows, wanted, "crop_id", run.part("crop", key), "the manifest", others=True)
        deep = recorded_window(run, key)  # as crop tells it
        crops = c.from_crops(rows, run.path, domain, windows={key: deep} if deep else None)
        reader = CropReader(crops, recipe.image_height_px, recipe.image_width_px, recipe.depth, strict=settings.strict)
        vectors = np.zeros((len(crops), recipe.features), np.float32)
        usable = np.zeros(len(crops), bool)
        for at, found in embed(
            recipe,
            model,
            crops,
            reader,
            domains,
            precision=settings.precision,
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
        return Made(self._table(crops.crop_id, vectors, usable), {"rows": _counts(usable), "bad": reader.bad})

    def _wanted(self, run: Run, manifest: Receipt | None, key: str) -> tuple[str, pa.Array]:
        """The domain of a video, and its crops that are embedded, sorted."""
        mark, settings = manifest.content if manifest else "", self.settings
        found = _chosen(run.path, mark, settings.recipe.modality, tuple(settings.splits))
        return found.get(key, ("", pa.array([], pa.string())))

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Say which crops gave no vector."""
        return Review(lasting=of_stage(self.name, facts))

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


@lru_cache(maxsize=1)
def _open(path: Path, content: str, recipe: str, device: str, threads: int) -> tuple[Recipe, nn.Module, list[str]]:
    """Recipe, network and its domains, opened once a process. content: sha256 of the checkpoint; recipe: its JSON."""
    import torch

    from mdfpipe.learning.embedding import network_of
    from mdfpipe.learning.train.checkpoint import Checkpoint

    family: Any = Recipe  # abstract: validating picks the variant
    torch.set_num_threads(threads)
    found = Checkpoint.load(path)
    return *network_of(found, path, family.model_validate(json.loads(recipe)), device), found.domains
