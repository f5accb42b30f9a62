"""train: one system of the study, from crops (or a checkpoint alone) to weights that describe themselves."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from mdfpipe.config import find_file
from mdfpipe.errors import ConfigError, DataError, StoreError, one_line
from mdfpipe.learning.gpus import fastest_precision
from mdfpipe.learning.system import AUTO, Start, System, checkpoint_of, predecessor, start
from mdfpipe.learning.train import together
from mdfpipe.stages import Context, Inputs, Made, Review, Stage
from mdfpipe.stages.material import (
    TrainingMaterial,
    further_folder,
    further_identity,
    gallery_domains,
    material,
    refuse_untrained_domains,
    training_rows,
)
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.left_out import most_left_out, of_stage
from mdfpipe.store.run import Receipt, Run, fingerprint
from mdfpipe.store.tables import TRAINING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mdfpipe.learning.data.batches import CropBatch
    from mdfpipe.learning.data.crops import Crops
    from mdfpipe.learning.data.loader import CropReader, Loader
    from mdfpipe.learning.train.log import Log
    from mdfpipe.learning.train.state import Job

STATE: Final = "state.pt"  # what a killed training goes on from
LOG: Final = "state.jsonl"
BOARD = "tensorboard"  # event files, of those who ask for them; no part of what is made
MEASURED = 256  # held-out crops of which a recipe measures what its network does
CHECKPOINT = {"last": "last.pt", "best": "best.pt"}


class Train(Stage):
    """Weights of one system."""

    version: ClassVar[int] = 1
    schema: ClassVar[pa.Schema] = TRAINING
    per: ClassVar[Literal["video", "run"]] = "run"
    unit: ClassVar[str] = "steps"
    together: ClassVar[bool] = True
    tells: ClassVar[tuple[str, ...]] = ("subjects", "notes", "left_out")

    system: str = Field(description="its name in the study")
    settings: System = Field(description="its settings")

    @property
    def name(self) -> str:  # type: ignore[override]
        """train/SYSTEM: a folder of its own."""
        return f"train/{self.system}"

    @property
    def key(self) -> str:
        """The part's name."""
        return "training"

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """The manifest where it is trained on it, and the system it starts from."""
        begun = (f"train/{self.settings.start_from}",) if self.settings.start_from else ()
        return (("manifest",) if self.settings.on_own else ()) + begun

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the weights."""
        return self.settings.weight_settings()

    def identity(self, data: Path, key: str) -> dict[str, str]:
        """The content of the checkpoint it starts from, and of further manifests."""
        found = {}
        if self.settings.weights is not None:
            found["weights"] = file_sha256(find_file(self.settings.weights, data, f"{self.name}: weights"))
        for name in self.settings.further:
            found[f"crops/{name}"] = further_identity(further_folder(self.name, name, data))
        return found

    @property
    def precision_asked(self) -> str | None:
        """The system's; None where nothing is trained."""
        return self.settings.precision if self.settings.trains else None

    def slice_of(self, upstream: Receipt, run: Run, key: str) -> str:
        """Training crops of the manifest (and enrolled subjects, to validate); last weights of a system."""
        if upstream.stage != "manifest":
            return weights_of(upstream, "last")
        settings = self.settings
        recipe = settings.recipe
        rows = training_rows(run, upstream, recipe.modality, settings.train_domains, cameras=recipe.uses_cameras)
        return fingerprint([rows, gallery_domains(upstream)]) if settings.validation.subjects else rows

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Train, or only load; write the checkpoints."""
        from mdfpipe.learning.train.log import check_board, once
        from mdfpipe.learning.train.loop import fit
        from mdfpipe.learning.train.state import Fitted

        if context.resources.tensorboard:
            check_board()
        settings, recipe = self.settings, self.settings.recipe
        given = material(self.name, settings, inputs.run, context.data) if settings.trains else None
        crops = given.crops if given else None
        model, begun = self._begin(crops, inputs, context)
        inputs.run.place(self.name, f"{self.name}/{BOARD}/x", change=True)  # no link there leads elsewhere
        folder, log = inputs.run.path / "train" / self.system, context.scratch("metrics.jsonl")
        unreadable: dict[str, str] = {}
        precision: str = "fp32" if settings.precision == AUTO else settings.precision  # where nothing is trained
        if given is None:
            fitted = Fitted({n: t.contiguous() for n, t in model.state_dict().items()}, None, -1, [], 0, 0)
            log.write_text("")
        else:
            recipe.before_training(model)
            readers = [self._reader(part, context) for part in (given.crops, given.held_out) if part]
            for reader in readers:
                reader.refuse_dead_shards(lambda: context.progress(0, None))
            job = self._job(model, given, readers, folder / STATE, inputs, context)
            precision = job.precision
            with _log(folder / STATE, context) as job.log:
                fitted = fit(job)
            log.write_text(once(folder / LOG, fitted.lines))
            unreadable = {crop: why for reader in readers for crop, why in sorted(reader.bad.items())}
        last = fitted.lines[-1] if fitted.lines else {}
        notes = [*begun.doubts, *recipe.notes(begun.history, _figures(last))]
        files = {f"{self.name}/metrics.jsonl": log}
        best = next((line for line in fitted.lines if line["epoch"] == fitted.best_epoch), {})
        for which, weights, line in (("last", fitted.last, last), ("best", fitted.best, best)):
            if weights is not None:
                path = context.scratch(CHECKPOINT[which])
                about = self._about(crops, line, notes, context) | {"precision": precision}
                model_state = self._finished(model, weights) if crops else weights
                checkpoint_of(self.system, settings, model_state, begun, **about).save(path)
                files[f"{self.name}/{CHECKPOINT[which]}"] = path
        before = {subject for entry in begun.history for subject in entry.get("subjects", [])}
        facts = {
            "start": begun.lines,
            "told": [*(given.told if given else []), *self._chosen_precision(precision, context)],
            "precision": precision,
            "left_out": given.left_out if given else {},
            "subjects": sorted({*(crops.subjects if crops else ()), *before}),
            "notes": notes,
            "doubts": begun.doubts,
            "unreadable": unreadable,
            "epochs": fitted.epoch,
            "steps": fitted.step,
            "stopped": fitted.stopped,
            "set_aside": fitted.notes,
            "best_epoch": fitted.best_epoch,
            "last": _figures(last),
        }
        return Made(_table(fitted.lines), facts, files, spent=(folder / STATE, folder / LOG))

    def tidy(self, run: Run) -> None:
        """Remove the state that the training went on from, if it ended between its commit and that."""
        for name in (STATE, LOG):
            with suppress(OSError, StoreError):
                run.place(self.name, f"{self.name}/{name}", change=True).unlink(missing_ok=True)

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Report its parent, the subjects left out, and its end."""
        notes, warnings = [], []
        for found in facts.values():
            notes += [f"{self.name}: {line}" for line in [*found["start"], *found["told"]]]
            if found["last"]:
                shown = ", ".join(f"{name} {value:.4g}" for name, value in found["last"].items())
                ended = f", ended early: {found['stopped']}" if found["stopped"] else ""
                notes.append(f"{self.name}: {found['steps']} steps, {found['epochs']} epochs{ended}; {shown}")
            said = [*most_left_out(found), *found["notes"], *found.get("set_aside", [])]
            warnings += [f"{self.name}: {line}" for line in said]
        return Review(warnings=warnings, lasting=of_stage(self.name, facts), notes=notes)

    def _begin(self, crops: Crops | None, inputs: Inputs, context: Context) -> tuple[nn.Module, Start]:
        """The network, and what it starts from, which is loaded into it."""
        from mdfpipe.learning.train.loop import seed_everything

        settings = self.settings
        parent = checkpoint_of_run(inputs.run, settings.start_from, "last") if settings.start_from else None
        weights = find_file(settings.weights, context.data, f"{self.name}: weights") if settings.weights else None
        before = predecessor(parent, weights)
        seed_everything(settings.seed, "weights")
        if crops:
            refuse_untrained_domains(self.name, settings, inputs.run, crops.domains)
            model = settings.recipe.network(crops)
        else:
            model = settings.recipe.model(0, before.domains if before else ())
        return model, start(settings, model, before, weights)

    def _made_from(self, run: Run, data: Path) -> dict[str, str]:
        """What besides the settings decides the weights, as the plan has it."""
        found = self.identity(data, self.key)
        for name in self.reads:
            receipt = run.receipt(name, "manifest" if name == "manifest" else self.key)
            found[name] = self.slice_of(receipt, run, self.key) if receipt else ""
        return found

    # -- the training

    def _reader(self, crops: Crops, context: Context) -> CropReader:
        from mdfpipe.learning.data.loader import CropReader

        recipe = self.settings.recipe
        return CropReader(
            crops,
            recipe.image_height_px,
            recipe.image_width_px,
            recipe.depth,
            cache_bytes=context.resources.cache_bytes,
            strict=self.settings.strict or together.processes() > 1,  # every process must keep its share of a batch
        )

    def _job(
        self,
        model: nn.Module,
        given: TrainingMaterial,
        readers: list[CropReader],
        state: Path,
        inputs: Inputs,
        context: Context,
    ) -> Job:
        """readers: of the training crops, and of the held-out ones."""
        from mdfpipe.learning.data.loader import Loader
        from mdfpipe.learning.train.state import Job

        settings, resources = self.settings, context.resources
        state.parent.mkdir(parents=True, exist_ok=True)
        mark = fingerprint([self.version, self.decisive(), self._made_from(inputs.run, context.data)])
        begun_in, notes = _own_state(state, mark)
        precision: str = settings.precision
        if precision == AUTO:  # a training goes on as it began, also on another machine
            precision = begun_in or fastest_precision(resources.device)
        threads = max(resources.threads, 1)
        loader = Loader(given.crops, readers[0], settings.recipe.augment, seed=settings.seed, threads=threads)
        living: Any = _Living(loader, context.progress)
        enrolled = gallery_domains(inputs.run.receipt("manifest", "manifest")) if settings.on_own else []
        held_out = (given, readers[-1], enrolled, precision, living, context)
        validate = self._validation(*held_out) if given.held_out else None
        return Job(
            recipe=settings.recipe,
            model=model,
            crops=given.crops,
            loader=living,
            seed=settings.seed,
            state=state,
            fingerprint=mark,
            precision=precision,
            device=resources.device,
            threads=resources.threads,
            validate=validate,
            measure=self._measuring(given, readers[1], living, context) if given.held_out else lambda model: {},
            every=settings.validation.every,
            patience=settings.validation.patience,
            notes=notes,
            progress=living.steps,
        )

    def _validation(
        self,
        given: TrainingMaterial,
        reader: CropReader,
        enrolled: list[str],
        precision: str,
        living: _Living,
        context: Context,
    ) -> Callable[[nn.Module], float]:
        """Rank-1 of the held-out subjects, from the enrolled domains to the others."""
        from mdfpipe.evaluation.measures.recognition import rank_one
        from mdfpipe.learning.embedders import TorchEmbedder
        from mdfpipe.learning.embedding import embed

        held_out, recipe, resources = reader.crops, self.settings.recipe, context.resources
        rows = held_out.rows()

        def validate(model: nn.Module) -> float:
            found = embed(
                TorchEmbedder(recipe, model, precision),
                held_out,
                reader,
                given.crops.domains,
                threads=resources.threads,
                progress=living.alive,
            )
            parts = list(found)
            if not parts:
                raise DataError(
                    f"{self.name}: none of the {len(held_out)} held-out crops decodes; delete their shards and run "
                    "crop again"
                )
            at = np.concatenate([row for row, _ in parts])
            return rank_one(rows.take(at), np.concatenate([v for _, v in parts]), enrolled, recipe.distance)

        return validate

    def _measuring(
        self, given: TrainingMaterial, reader: CropReader, living: _Living, context: Context
    ) -> Callable[[nn.Module], dict[str, float]]:
        """What the recipe measures on MEASURED held-out crops, evenly spread."""
        import torch

        from mdfpipe.learning.embedders import CPU_BATCH
        from mdfpipe.learning.embedding import as_embedded

        count, recipe, resources = len(reader.crops), self.settings.recipe, context.resources
        crops = reader.crops.take(np.unique(np.linspace(0, count - 1, min(count, MEASURED)).astype(np.int64)))

        def measure(model: nn.Module) -> dict[str, float]:
            device = next(model.parameters()).device
            own = self._reader(crops, context)
            with torch.inference_mode(), closing(own):
                batches = as_embedded(
                    recipe, crops, own, given.crops.domains, batch=CPU_BATCH, threads=max(resources.threads, 1)
                )
                there = (batch.to(device) for batch in living.each(batches))
                first = next(there, None)
                return {} if first is None else recipe.measure(model, chain([first], there))

        return measure

    def _finished(self, model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights as a plain network of the recipe has them."""
        import copy

        network = copy.deepcopy(model).cpu()
        network.load_state_dict(weights)
        self.settings.recipe.after_training(network)
        return {name: value.detach().contiguous() for name, value in network.state_dict().items()}

    def _chosen_precision(self, precision: str, context: Context) -> list[str]:
        """What `precision: auto` was, and why."""
        if self.settings.precision != AUTO or not self.settings.trains:
            return []
        lacks = fastest_precision(context.resources.device) == "fp32"
        why = "; the device has no instructions for bf16" if lacks else ""
        return [f"precision auto: trained in {precision}{why}"]

    def _about(self, crops: Crops | None, line: dict[str, Any], notes: list[str], context: Context) -> dict[str, Any]:
        """What a checkpoint declares. line: of the epoch at whose end its weights stood."""
        return {
            "subjects": list(crops.subjects) if crops else [],
            "trained_domains": list(crops.domains) if crops else [],
            "crops": crops.fingerprint() if crops else "",
            "epoch": line.get("epoch", -1) + 1,
            "step": line.get("step", 0),
            "threads": context.resources.threads,
            "device": context.resources.device,
            "figures": _figures(line),
            "notes": notes,
        }


class _Living:
    """A loader that shows signs of life: each batch is one, because one step may take a minute without an accelerator.

    A sign repeats the last count of steps while something between two steps takes long.
    """

    def __init__(self, loader: Loader, tell: Callable[[int, int | None], None]) -> None:
        self.loader, self.tell = loader, tell
        self.at: tuple[int, int | None] = (0, None)

    def steps(self, done: int, total: int) -> None:
        """So many steps are done."""
        self.at = done, total
        self.tell(done, total)

    def alive(self, done: int = 0) -> None:
        """Something else is, `done` of it."""
        self.tell(*self.at)

    def batches(self, *given: Any) -> Generator[CropBatch, None, None]:
        """As the loader's."""
        with closing(self.loader.batches(*given)) as found:
            yield from self.each(found)

    def each(self, batches: Iterable[CropBatch]) -> Generator[CropBatch, None, None]:
        """These batches, each of them a sign of life."""
        for batch in batches:
            self.alive()
            yield batch


def checkpoint_path(run: Run, system: str, which: str) -> Path:
    """Where a system's weights lie."""
    return run.path / "train" / system / CHECKPOINT[which]


def checkpoint_of_run(run: Run, system: str, which: str) -> Path:
    """The same, where it is what the training made. Raises Damaged, after noting it."""
    return run.beside(f"train/{system}", "training", f"train/{system}/{CHECKPOINT[which]}")


def weights_of(training: Receipt, which: str) -> str:
    """The content hash of a training's weights; a word where it has none of these."""
    return training.files.get(f"{training.stage}/{CHECKPOINT[which]}", (0, f"no {which} weights"))[1]


# -- figures


def _figures(line: dict[str, Any]) -> dict[str, float]:
    """The plain figures of an epoch."""
    return {name: value for name, value in line.items() if isinstance(value, float)}


def _table(lines: list[dict[str, Any]]) -> pa.Table:
    """Rows of TRAINING."""
    return pa.Table.from_pylist([row for line in lines for row in _rows(line)], schema=TRAINING)


def _rows(line: dict[str, Any]) -> Iterator[dict[str, Any]]:
    at = {"epoch": line["epoch"], "step": line["step"]}
    for name, value in line.items():
        if name == "mining":
            for kind, figure in value.items():
                if figure is None:  # no anchor had a pair
                    continue
                if isinstance(figure, (int, float)):
                    yield at | {"figure": f"mining/{kind}", "value": float(figure)}
                else:
                    for cell in figure:
                        domains = {"anchor_domain": cell["anchor"], "mined_domain": cell["mined"]}
                        pairs = {"value": cell["mean_distance"], "count": cell["count"]}
                        yield at | {"figure": f"mining/{kind}", **domains, **pairs}
        elif name not in at:
            yield at | {"figure": name, "value": float(value)}


def _log(state: Path, context: Context) -> Log:
    """What takes the lines of a training; one process's event files are enough."""
    from mdfpipe.learning.train.log import Log

    board = state.with_name(BOARD) if context.resources.tensorboard and together.rank() == 0 else None
    return Log(state.with_name(LOG), board, anew=not state.exists())


def _own_state(state: Path, mark: str) -> tuple[str, tuple[str, ...]]:
    """The precision of the state that a training resumes from, "" where there is none; and lines to report.

    Removes the state of a training under other settings or on other crops, and sets a damaged one aside, with a line.
    """
    from mdfpipe.learning.train import checkpoint
    from mdfpipe.learning.train.state import set_aside

    precision, notes = "", tuple[str, ...]()
    try:
        found = checkpoint.load(state)
        if found.get("fingerprint") == mark:
            precision = str(found.get("precision", ""))
        else:
            state.unlink(missing_ok=True)
    except ConfigError:  # there is none; or another process of `torchrun` dropped it just now
        pass
    except DataError as error:
        notes = (set_aside(state, one_line(error).removeprefix(f"{state}: ")),)
    if not state.exists():
        state.with_name(LOG).unlink(missing_ok=True)
    return precision, notes
