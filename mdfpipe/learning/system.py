"""System: a named line of a study's table: a recipe, the weights it starts from, the crops it is trained on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from mdfpipe import __version__
from mdfpipe.config import BY_CONTENT, IF_SET, NOT_A_RESULT, Config, result_settings
from mdfpipe.errors import ConfigError, some
from mdfpipe.learning.recipes import Recipe
from mdfpipe.store.environment import commit
from mdfpipe.store.trust import is_trusted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mdfpipe.learning.train.checkpoint import Checkpoint

ONLY_EMBEDDING = ("keep", "splits", "engine")  # settings of a system that decide no weight
ENGINE = (
    "library that embeds, in torch's place: the vectors are the same up to rounding. auto: on a CPU OpenVINO, where it "
    "is installed (extra `openvino`), its vectors of drawn pictures agree and there are 1,000 crops or more; what the "
    "parts of a run have is kept; training runs under torch"
)
AUTO: Final = "auto"
"""In `precision`: what the device is fast in."""
OWN = "run"
"""In `train_on`: the study's own manifest."""


class Validation(Config):
    """Rank-1 across domains on training subjects that are held out."""

    subjects: int = Field(0, ge=0, description="training subjects held out; 0: no validation")
    every: int = Field(1, ge=1, description="epochs between two validations")
    patience: int = Field(0, ge=0, description="validations without a rise before training ends; 0: never")


class System(Config):
    """A recipe, its parent, its training data, and what it embeds."""

    recipe: SerializeAsAny[Recipe] = Field(description="the method and its hyper-parameters")
    start_from: str | None = Field(None, description="parent: another system of this study, from its last weights")
    weights: str | None = Field(
        None, description="parent: a checkpoint file, public or our own", json_schema_extra=BY_CONTENT
    )
    weights_entry: str | None = Field(
        None,
        json_schema_extra=IF_SET,
        description="set of weights to take from a file with several, such as `state_dict_ema`; averaged: the moving "
        "average under any name; none: the usual one, which the training reports",
    )
    min_coverage: float = Field(0.9, ge=0, le=1, description="share of the backbone that those weights must cover")
    train_on: list[str] = Field(
        default=[OWN], description="manifests: `run` is the study's own; others by folder, such as crops of `synth`"
    )
    train_domains: list[str] | None = Field(None, description="domains of the study's own crops; none: all")
    max_subjects: int | None = Field(
        None, ge=2, description="largest number of training subjects, a seeded, nested choice"
    )
    complete_first: bool | None = Field(
        None,
        json_schema_extra=IF_SET,
        description="with max_subjects: choose subjects with crops in every domain before the others; none: regardless",
    )
    validation: Validation = Field(default=Validation(), description="validation on held-out subjects")
    keep: Literal["last", "best"] = Field("last", description="weights for embedding")
    precision: Literal["fp32", "bf16", "fp16", "auto"] = Field(
        "fp32",
        description="precision of training and embedding; auto: trained in bf16 where the device has instructions for "
        "it, else in fp32, and embedded as trained",
    )
    engine: Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt"] = Field("auto", description=ENGINE)
    seed: int = Field(0, ge=0, description="random seed of weights, batches and augmentation")
    seeds: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        min_length=2,
        json_schema_extra=IF_SET,
        description="in place of seed: several, a training for each; tables show their mean, their spread and each",
    )
    splits: list[Literal["train", "test", "unused"]] = Field(
        default=["train", "test"], description="splits whose crops are embedded"
    )
    strict: bool = Field(
        False,
        description="stop at a crop that does not decode, instead of leaving it out (`--strict` sets it)",
        json_schema_extra=NOT_A_RESULT,
    )

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.start_from is not None and self.weights is not None:
            raise ValueError("expected start_from or weights, got both")
        if self.weights_entry is not None and self.weights is None:
            raise ValueError("weights_entry needs weights: it says which of the file's entries to take")
        if self.keep == "best" and not (self.validation.subjects and self.trains):
            raise ValueError("keep: best needs validation.subjects, and a recipe.schedule.length above 0")
        if self.engine == "onnxruntime" and self.precision not in ("fp32", "auto"):
            raise ValueError(
                f"engine onnxruntime embeds in fp32, got precision {self.precision}; take engine torch or openvino"
            )
        if self.recipe.native != "torch":
            self._refuse_other_than_embedding()
        if self.complete_first and self.max_subjects is None:
            raise ValueError("complete_first needs max_subjects: it says which subjects come first")
        if not self.train_on:
            raise ValueError("train_on is empty; for a system that is not trained set recipe.schedule.length to 0")
        if len(set(self.train_on)) < len(self.train_on):
            raise ValueError("train_on names a manifest twice")
        if self.seeds is not None and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: expected different ones, got {self.seeds}")
        if self.seeds is not None and not self.trains and self.weights is not None:
            raise ValueError(
                "seeds: nothing is trained or drawn here: every seed would give the same numbers; leave it out"
            )
        return self

    def _refuse_other_than_embedding(self) -> None:
        """Raise ValueError for a network that is not torch's, where settings want more than its vectors."""
        what = f"recipe {self.recipe.use}"
        if self.weights is None:
            raise ValueError(f"{what}: expected weights, the file of the network, got none")
        if self.engine != "auto":
            raise ValueError(f"{what}: runs under {self.recipe.native}, got engine {self.engine}; leave engine out")
        if self.precision != "fp32":
            raise ValueError(f"{what}: runs as its file has it, got precision {self.precision}; leave precision out")

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return self.recipe.schedule.length > 0

    @property
    def on_own(self) -> bool:
        """Whether it is trained on the study's own crops."""
        return self.trains and OWN in self.train_on

    @property
    def further(self) -> list[str]:
        """Manifests besides the study's own."""
        return [name for name in self.train_on if name != OWN] if self.trains else []

    def weight_settings(self) -> dict[str, Any]:
        """The settings that decide the weights: all but those that only decide how, and whose crops, are embedded."""
        found = {name: value for name, value in result_settings(self).items() if name not in ONLY_EMBEDDING}
        if not self.validation.subjects:  # a validation embeds, and decides which weights are best
            of_recipe = found["recipe"].items()
            found["recipe"] = {name: v for name, v in of_recipe if name not in self.recipe.only_embedding}
        return found


def ordered(systems: Mapping[str, System]) -> list[str]:
    """The systems' names, each after the one that it starts from. Raises ValueError where that cannot be."""
    done: list[str] = []
    for name, system in systems.items():
        chain = [name]
        while (before := systems[chain[-1]].start_from) is not None:
            where = f"systems.{chain[-1]}.start_from"
            if before not in systems:
                raise ValueError(f"{where}: no system {before!r}; there are {', '.join(systems)}")
            if before in chain:
                circle = " -> ".join([*chain[chain.index(before) :], before])
                raise ValueError(f"{where}: starts from itself: {circle}")
            if systems[before].recipe.modality != system.recipe.modality:
                raise ValueError(
                    f"{where}: a {system.recipe.modality} system cannot start from {before}, whose recipe is for "
                    f"{systems[before].recipe.modality}"
                )
            chain.append(before)
        done += [link for link in reversed(chain) if link not in done]
    return done


def with_ancestors(systems: Mapping[str, System], names: Iterable[str], seeded: Iterable[str] = ()) -> set[str]:
    """Those systems and all they start from. seeded: names of systems with seeds, for the error. Raises ConfigError."""
    found: set[str] = set()
    for name in names:
        if name not in systems:
            known = [*seeded, *systems]
            close = difflib.get_close_matches(name, known, n=3)
            there = f"did you mean {', '.join(close)}?" if close else f"the study has {some(known, 9) or 'none'}"
            raise ConfigError(f"--system {name}: no such system; {there}")
        link: str | None = name
        while link is not None:
            found.add(link)
            link = systems[link].start_from
    return found


@dataclass(eq=False)
class Start:
    """What a system starts from.

    history: every system or file before it; lines: what was loaded, for people; doubts: what of it may be unwanted.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def predecessor(parent: Path | None, weights: Path | None) -> Checkpoint | None:
    """The checkpoint of ours that a system starts from: of `start_from`, or in the file of `weights`; None: of neither.

    Raises ConfigError, DataError.
    """
    from mdfpipe.learning.train.checkpoint import Checkpoint

    if parent is None and weights is not None and Checkpoint.is_one(weights):
        parent = weights
    return None if parent is None else Checkpoint.load(parent)


def start(system: System, model: nn.Module, before: Checkpoint | None, weights: Path | None) -> Start:
    """Load what the system starts from into its network: its `predecessor`, or a public file. Raises ConfigError."""
    if before is not None:
        if system.weights_entry is not None:
            raise ConfigError(
                f"{weights}: weights_entry {system.weights_entry!r:.60}: a checkpoint of mdfpipe has one set of "
                "weights; leave it out"
            )
        if system.recipe.native != "torch":
            raise ConfigError(
                f"{weights}: recipe {system.recipe.use}: expected the file of a network, got a checkpoint of mdfpipe; "
                f"name the file that system {before.system} was made of"
            )
        return _take_over(system, model, before, weights.name if weights else f"system {before.system}")
    if weights is None:
        return Start(lines=["random weights"])
    taken = system.recipe.read(weights, system.weights_entry, trust_pickle=is_trusted())
    report = system.recipe.load(model, taken.tensors, weights.name, system.min_coverage)
    several = {"entry": taken.entry} if taken.lines or taken.doubts else {}
    begun = {"system": weights.name, "format": report.format, **several}
    return Start([begun], [*report.lines(), *taken.lines], list(taken.doubts))


def _take_over(system: System, model: nn.Module, found: Checkpoint, what: str) -> Start:
    """Every weight but those of the classes, by name and shape."""
    from mdfpipe.learning.models.weights.loading import fit_stems, named, refuse_missing_statistics
    from mdfpipe.weightfiles import refuse_unusable

    fit_stems(model, found.model)
    given = system.recipe.adopt(model, found.model)
    own, heads = model.state_dict(), system.recipe.head
    wanted = {name for name in own if not name.startswith(heads)}
    same = {n: t for n, t in given.items() if n in wanted and t.shape == own[n].shape}
    backbone = [name for name in wanted if name.startswith("backbone.")]
    covered = sum(own[name].numel() for name in backbone if name in same)
    coverage = covered / max(sum(own[name].numel() for name in backbone), 1)
    lacking = sorted(wanted - same.keys())
    if coverage < system.min_coverage:
        raise ConfigError(
            f"{what}: covers {coverage:.1%} of the backbone, expected {system.min_coverage:.0%} or more; missing or of "
            f"another shape: {', '.join(lacking[:3])}; is it a checkpoint of another model?"
        )
    with named(what):
        refuse_missing_statistics(wanted, same)
        refuse_unusable(same)
    model.load_state_dict(same, strict=False)
    line = f"{len(same)} tensors of {what}, {coverage:.1%} of the backbone"
    more = f"; random: {', '.join(lacking[:3])}{' and more' if len(lacking) > 3 else ''}" if lacking else ""
    return Start([*found.history, found.entry()], [line + more])


def checkpoint_of(name: str, system: System, model: dict[str, Tensor], begun: Start, **more: Any) -> Checkpoint:
    """The checkpoint of a system: `more` are the fields that only a training knows."""
    from mdfpipe.learning.train.checkpoint import Checkpoint

    return Checkpoint(
        system=name,
        recipe=system.recipe.model_dump(mode="json"),
        model=model,
        history=begun.history,
        version=__version__,
        commit=commit(),
        **{"precision": system.precision} | more,
    )
