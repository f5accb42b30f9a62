"""train: one system of the study, from crops (or a checkpoint alone) to weights that describe themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from mdfpipe.config import find_file, find_folder
from mdfpipe.errors import ConfigError, DataError
from mdfpipe.learning.system import System, checkpoint_of, start
from mdfpipe.stages import Context, Inputs, Made, Review, Stage
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.run import Run, fingerprint, read_receipt
from mdfpipe.store.tables import TRAINING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mdfpipe.learning.crops import Crops
    from mdfpipe.learning.loader import CropReader
    from mdfpipe.learning.log import Log

STATE, LOG = "state.pt", "state.jsonl"  # what a killed training goes on from
BOARD = "tensorboard"  # event files, of those who ask for them; no part of what is made
CHECKPOINT = {"last": "last.pt", "best": "best.pt"}


class Train(Stage):
    """Weights of one system."""

    version: ClassVar[int] = 1
    schema: ClassVar[pa.Schema] = TRAINING
    per: ClassVar[Literal["video", "run"]] = "run"
    unit: ClassVar[str] = "steps"
    together: ClassVar[bool] = True

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
            found[f"crops/{name}"] = _identity(self._further(name, data))
        return found

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Train, or only load; write the checkpoints."""
        from mdfpipe.learning.log import once
        from mdfpipe.learning.state import Fitted
        from mdfpipe.learning.training import fit, seed_everything

        settings, recipe = self.settings, self.settings.recipe
        crops, held_out, told = self._crops(inputs, context) if settings.trains else (None, None, [])
        seed_everything(settings.seed, "weights")
        model = recipe.model(len(crops.subjects) if crops else 0, crops.domains if crops else ())
        begun = start(settings, model, *self._sources(inputs, context))
        log = context.scratch("metrics.jsonl")
        if crops is None:
            fitted = Fitted({n: t.contiguous() for n, t in model.state_dict().items()}, None, -1, [], 0, 0)
            log.write_text("")
            unreadable: dict[str, str] = {}
        else:
            state = inputs.run.path / "train" / self.system / STATE
            reader = self._reader(crops, context)
            validate = self._validation(held_out, inputs, context) if held_out else None
            recipe.before_training(model)
            job = self._job(model, crops, reader, validate, state, inputs, context)
            with _log(state, context) as job.log:
                fitted = fit(job)
            log.write_text(once(state.with_name(LOG)))
            unreadable = dict(sorted(reader.bad.items()))
        last = fitted.lines[-1] if fitted.lines else {}
        notes = recipe.notes(begun.history, _figures(last))
        files = {f"{self.name}/metrics.jsonl": log}
        best = next((line for line in fitted.lines if line["epoch"] == fitted.best_epoch), {})
        for which, weights, line in (("last", fitted.last, last), ("best", fitted.best, best)):
            if weights is not None:
                path = context.scratch(CHECKPOINT[which])
                about = self._about(crops, line, notes, context)
                model_state = self._finished(model, weights) if crops else weights
                checkpoint_of(self.system, settings, model_state, begun, **about).save(path)
                files[f"{self.name}/{CHECKPOINT[which]}"] = path
        facts = {
            "start": begun.lines,
            "told": told,
            "notes": notes,
            "unreadable": unreadable,
            "epochs": fitted.epoch,
            "steps": fitted.step,
            "stopped": fitted.stopped,
            "best_epoch": fitted.best_epoch,
            "last": _figures(last),
        }
        folder = inputs.run.path / "train" / self.system
        return Made(_table(fitted.lines), facts, files, spent=(folder / STATE, folder / LOG))

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Say what it started from, whom it left out, and where it ended."""
        notes, warnings = [], []
        for found in facts.values():
            notes += [f"{self.name}: {line}" for line in [*found["start"], *found["told"]]]
            if found["last"]:
                shown = ", ".join(f"{name} {value:.4g}" for name, value in found["last"].items())
                ended = f", ended early: {found['stopped']}" if found["stopped"] else ""
                notes.append(f"{self.name}: {found['steps']} steps, {found['epochs']} epochs{ended}; {shown}")
            warnings += [f"{self.name}: {line}" for line in found["notes"]]
            if found["unreadable"]:
                name, why = next(iter(found["unreadable"].items()))
                warnings.append(
                    f"{self.name}: {len(found['unreadable'])} crops do not decode, left out ({name}: {why})"
                )
        return Review(warnings=warnings, notes=notes)

    # -- what it is trained on

    def _further(self, name: str, data: Path) -> Path:
        advice = "Make it with `mdfpipe synth DATA --crops N`, or give a folder of SUBJECT/IMAGE files"
        return find_folder(name, data, f"{self.name}: train_on", advice)

    def _crops(self, inputs: Inputs, context: Context) -> tuple[Crops, Crops | None, list[str]]:
        """The training crops, the held-out ones, and what was left out. Raises DataError."""
        from mdfpipe.learning import crops as c

        settings, parts = self.settings, []
        modality = settings.recipe.modality
        if settings.on_own:
            parts.append(_own_crops(inputs, modality, ["train"], settings.train_domains))
        for number, name in enumerate(settings.further, start=1):
            folder = self._further(name, context.data)
            parts.append(_further_crops(folder, modality, number, f"{name}/"))
        crops = c.join(parts)
        told = [f"{len(crops)} {modality} crops of {len(crops.subjects)} subjects in {', '.join(crops.domains)}"]
        held_out = None
        if settings.validation.subjects:
            crops, held_out = c.hold_out(crops, settings.validation.subjects, settings.seed)
            told.append(f"{len(held_out.subjects)} subjects held out for validation")
        if settings.max_subjects is not None:
            crops = c.subset(crops, settings.max_subjects, settings.seed)
            told.append(f"{len(crops.subjects)} subjects chosen by max_subjects")
        crops = crops.compact()
        if len(crops.subjects) < 2:
            raise DataError(
                f"{self.name}: expected at least 2 training subjects, got {len(crops.subjects)}; nothing can be told "
                "apart; check the protocol's train split and max_subjects"
            )
        left_out = getattr(settings.recipe.sampler(crops, settings.seed), "left_out", {})
        if left_out:
            lacking = sorted({domain for domains in left_out.values() for domain in domains})
            told.append(f"{len(left_out)} subjects left out of domain-aware batches: no crop in {' or '.join(lacking)}")
        return crops, held_out, told

    def _sources(self, inputs: Inputs, context: Context) -> tuple[Path | None, Path | None]:
        """The checkpoint of `start_from`, and the file of `weights`."""
        settings = self.settings
        parent = checkpoint_path(inputs.run, settings.start_from, "last") if settings.start_from else None
        weights = find_file(settings.weights, context.data, f"{self.name}: weights") if settings.weights else None
        return parent, weights

    # -- the training

    def _reader(self, crops: Crops, context: Context) -> CropReader:
        from mdfpipe.learning.loader import CropReader
        from mdfpipe.learning.together import processes

        recipe = self.settings.recipe
        return CropReader(
            crops,
            recipe.image_height_px,
            recipe.image_width_px,
            recipe.depth,
            cache_bytes=context.resources.cache_bytes,
            strict=self.settings.strict or processes() > 1,  # every process must keep its share of a batch
        )

    def _job(
        self,
        model: nn.Module,
        crops: Crops,
        reader: CropReader,
        validate: Callable[[nn.Module], float] | None,
        state: Path,
        inputs: Inputs,
        context: Context,
    ) -> Any:
        from mdfpipe.learning.loader import Loader
        from mdfpipe.learning.state import Job

        settings, resources = self.settings, context.resources
        state.parent.mkdir(parents=True, exist_ok=True)
        mark = fingerprint([self.decisive(), crops.fingerprint(), self.identity(context.data, self.key)])
        _drop_other(state, mark)
        return Job(
            recipe=settings.recipe,
            model=model,
            crops=crops,
            loader=Loader(
                crops, reader, settings.recipe.augment, seed=settings.seed, threads=max(resources.threads, 1)
            ),
            seed=settings.seed,
            state=state,
            fingerprint=mark,
            precision=settings.precision,
            device=resources.device,
            threads=resources.threads,
            validate=validate,
            every=settings.validation.every,
            patience=settings.validation.patience,
            progress=context.progress,
        )

    def _validation(self, held_out: Crops, inputs: Inputs, context: Context) -> Callable[[nn.Module], float]:
        """Rank-1 of the held-out subjects, from the protocol's gallery domains to the others."""
        from mdfpipe.evaluation.recognition import rank_one
        from mdfpipe.learning.embedding import embed

        reader = self._reader(held_out, context)
        rows = held_out.rows()
        gallery = _gallery_domains(inputs) if self.settings.on_own else []

        def validate(model: nn.Module) -> float:
            recipe, threads = self.settings.recipe, context.resources.threads
            found = list(embed(recipe, model, held_out, reader, precision=self.settings.precision, threads=threads))
            at = np.concatenate([row for row, _ in found])
            return rank_one(rows.take(at), np.concatenate([v for _, v in found]), gallery, recipe.distance)

        return validate

    def _finished(self, model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights as a plain network of the recipe has them."""
        import copy

        network = copy.deepcopy(model).cpu()
        network.load_state_dict(weights)
        self.settings.recipe.after_training(network)
        return {name: value.detach().contiguous() for name, value in network.state_dict().items()}

    def _about(self, crops: Crops | None, line: dict[str, Any], notes: list[str], context: Context) -> dict[str, Any]:
        """What a checkpoint says of itself. line: of the epoch at whose end its weights stood."""
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


def checkpoint_path(run: Run, system: str, which: str) -> Path:
    """Where a system's weights lie."""
    return run.path / "train" / system / CHECKPOINT[which]


def _own_crops(inputs: Inputs, modality: str, splits: list[str], domains: list[str] | None) -> Crops:
    from mdfpipe.learning.crops import from_manifest

    table = inputs.table("manifest", "manifest")
    return from_manifest(
        table, inputs.run.path, modality=modality, splits=splits, domains=domains, windows=windows(inputs.run, table)
    )


def windows(run: Run, manifest: pa.Table) -> dict[str, tuple[float, float]]:
    """video_id -> the values that detect took for black and white, of videos above 8 bits."""
    found = {}
    deep = manifest.filter(pa.compute.equal(manifest["codec"], "png"))
    for video_id in deep["video_id"].unique().to_pylist():
        receipt = run.receipt("detect", video_id)
        if receipt is not None and receipt.facts.get("window"):
            low, high = receipt.facts["window"]
            found[video_id] = (float(low), float(high))
    return found


def _further_crops(folder: Path, modality: str, source: int, prefix: str) -> Crops:
    from mdfpipe.learning.crops import from_folder, from_manifest

    run = Run(folder)
    if run.receipt("manifest", "manifest") is not None:
        table = run.table("manifest", "manifest")
        return from_manifest(
            table, folder, modality=modality, source=source, prefix=prefix, windows=windows(run, table)
        )
    return from_folder(folder, source=source, prefix=prefix)


def _identity(folder: Path) -> str:
    """The fingerprint of a further manifest: its receipt, or names, sizes and times of a folder's images."""
    receipt = read_receipt(Run(folder).part("manifest", "manifest"))
    if receipt is not None:
        return receipt.fingerprint
    from mdfpipe.learning.crops import images_of

    listed = [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in images_of(folder)]
    return fingerprint(listed)


def _gallery_domains(inputs: Inputs) -> list[str]:
    table = inputs.table("manifest", "manifest", ["domain", "role"])
    chosen = table.filter(pa.compute.equal(table["role"].cast(pa.string()), "gallery"))
    return sorted(chosen["domain"].unique().to_pylist())


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
    from mdfpipe.learning.log import Log
    from mdfpipe.learning.together import rank

    board = state.with_name(BOARD) if context.resources.tensorboard and rank() == 0 else None
    return Log(state.with_name(LOG), board, anew=not state.exists())


def _drop_other(state: Path, mark: str) -> None:
    """Remove the state of a training under other settings or on other crops: it is no part of this one."""
    from mdfpipe.learning import checkpoint

    with suppress(ConfigError):  # there is none; or another process of `torchrun` dropped it just now
        if checkpoint.load(state).get("fingerprint") != mark:
            state.unlink(missing_ok=True)
    if not state.exists():
        state.with_name(LOG).unlink(missing_ok=True)
