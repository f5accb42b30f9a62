"""Study: the settings of a study, one field per stage."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SerializeAsAny, model_validator

from mdfpipe.config import NAME, Config, read_yaml, set_dotted, texts_of, validate, yaml_text
from mdfpipe.datasets import Dataset
from mdfpipe.errors import ConfigError, DataError, one_line, some
from mdfpipe.evaluation.table import Table
from mdfpipe.learning.system import System, ordered
from mdfpipe.protocol import read_protocol
from mdfpipe.stages import Stage
from mdfpipe.stages.crop import Crop
from mdfpipe.stages.detect import Detect
from mdfpipe.stages.embed import Embed
from mdfpipe.stages.evaluate import Evaluate, Tables
from mdfpipe.stages.gather import Gather
from mdfpipe.stages.index import Index
from mdfpipe.stages.label import Label
from mdfpipe.stages.manifest import Manifest
from mdfpipe.stages.track import Track
from mdfpipe.stages.train import Train
from mdfpipe.store.environment import FILE, read_environment
from mdfpipe.store.files import given_path
from mdfpipe.store.run import Run
from mdfpipe.store.shipped import SHIPPED, find_study
from mdfpipe.study import seeds
from mdfpipe.study.sweep import Point, Sweep, made_for, points, spelled_out, with_points
from mdfpipe.video.decoders.auto import Auto
from mdfpipe.video.trackers import Tracker

KEPT = "pipeline.yaml"
"""The study as a run folder keeps it."""

_OF_VIDEOS = ("detect", "track", "label", "crop")
_TRUST = "trust_pickle"


class Study(Config):
    """The settings of a study. The stages, in the order they run, are its fields."""

    name: str = Field(pattern=NAME, description="name of the study")
    dataset: SerializeAsAny[Dataset] = Field(description="data set: videos, faces and subjects")
    detect: Detect | None = Field(default=None, description="detection of bodies; required for a data set of videos")
    track: SerializeAsAny[Tracker] | None = Field(
        default=None, description="tracks of bodies; without this section none are made; videos only"
    )
    label: Label = Field(default=Label(), description="labelling of bodies by faces; videos only")
    crop: Crop = Field(default=Crop(), description="crops and their sizes; videos only")
    manifest: Manifest = Field(default=Manifest(), description="splits of subjects and roles of domains")
    systems: dict[Annotated[str, Field(pattern=NAME)], System] = Field(
        default={}, description="systems to train and embed, by name"
    )
    sweeps: dict[Annotated[str, Field(pattern=NAME)], Sweep] = Field(
        default={}, description="sweeps over settings of a system, by name"
    )
    evaluate: Tables = Field(default=Tables(), description="tables of metrics")

    @model_validator(mode="before")
    @classmethod
    def _points_are_systems(cls, value: Any) -> Any:
        return with_points(value)

    @model_validator(mode="before")
    @classmethod
    def _benchmarks_take_the_data_sets_split(cls, value: Any) -> Any:
        """Where they name none, so that `dataset.split` alone decides which of several splits a study is of."""
        match value:
            case {"dataset": {"use": use, "split": split}, "evaluate": {"tables": dict(tables)}}:
                pass
            case _:
                return value
        found = dict(tables)
        for name, table in tables.items():
            match table:
                case {"benchmark": {"use": named, **rest} as benchmark} if named == use and "split" not in rest:
                    found[name] = {**table, "benchmark": {**benchmark, "split": split}}
        return {**value, "evaluate": {**value["evaluate"], "tables": found}}

    @model_validator(mode="after")
    def _stages_suit_the_data(self) -> Self:
        if not self.dataset.holds_images:
            if self.detect is None:
                raise ValueError(f"detect: field required: the data set {self.dataset.use} holds videos")
            return self
        given = [name for name in _OF_VIDEOS if name in self.model_fields_set and getattr(self, name) is not None]
        if given:
            raise ValueError(
                f"{', '.join(given)}: the data set {self.dataset.use} holds images of one person each, in which "
                "nothing is detected, labelled or cut out; leave these sections out"
            )
        return self

    @model_validator(mode="after")
    def _carried_labels_have_tracks(self) -> Self:
        if self.label.carries and self.track is None:
            raise ValueError(
                "label.tracks: carry names bodies along tracks: expected the section track, found none; add it, or set "
                "label.tracks to none"
            )
        return self

    @model_validator(mode="after")
    def _order_is_possible(self) -> Self:
        ordered(self.trainings)
        return self

    @model_validator(mode="after")
    def _tables_are_of_its_systems(self) -> Self:
        there = {*self.systems, *self.trainings}
        for name, table in self.tables.items():
            for system in _needed(table):
                if system not in there:
                    known = ", ".join([*self.systems, *self.sweeps]) or "none"
                    raise ValueError(f"evaluate.tables.{name}: no system {system!r}; there are {known}")
            try:
                seeds.spelled_out(table, self.seeds)
            except ValueError as error:
                raise ValueError(f"evaluate.tables.{name}.{error}") from None
        return self

    @model_validator(mode="after")
    def _split_is_the_data_sets(self) -> Self:
        split = getattr(self.dataset, "split", None)
        for name, table in self.evaluate.tables.items():
            asked = getattr(table.benchmark, "split", None)
            if table.benchmark and self.dataset.use == table.benchmark.use and asked != split:
                raise ValueError(
                    f"evaluate.tables.{name}.benchmark: is of split {asked}, but dataset.split is {split}: expected one"
                )
        return self

    def strict(self) -> Study:
        """The same study, whose systems stop at a crop that does not decode."""
        systems = {name: system.model_copy(update={"strict": True}) for name, system in self.systems.items()}
        return self.model_copy(update={"systems": systems})

    @property
    def trainings(self) -> dict[str, System]:
        """The systems that are trained and embedded, by name: one for each seed of a system with seeds."""
        return seeds.trainings(self.systems)

    @property
    def seeds(self) -> dict[str, list[str]]:
        """The trainings of each system with seeds."""
        return seeds.groups_of(self.systems)

    @property
    def swept(self) -> dict[str, list[Point]]:
        """The points of each sweep."""
        return {name: points(name, sweep, self.systems) for name, sweep in self.sweeps.items()}

    @property
    def tables(self) -> dict[str, Table]:
        """The tables, with the points of a sweep in the place of its name."""
        swept, given = self.swept, self.evaluate.tables
        return {n: t.model_copy(update={"systems": spelled_out(t.systems, swept)}) for n, t in given.items()}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Every stage, in the order they run."""
        gather = Gather(orientation=getattr(self.dataset, "orientation", "display"))  # of a data set of images
        tracks = (Track(tracker=self.track),) if self.track is not None else ()
        crops = (self.detect, *tracks, self.label, self.crop) if self.detect is not None else (gather,)
        systems = self.trainings
        order = ordered(systems)
        training = (Train(system=name, settings=systems[name]) for name in order)
        embedding = (Embed(system=name, settings=systems[name]) for name in order)
        return (
            Index(dataset=self.dataset, decoder=self.detect.decoder if self.detect else Auto()),
            *crops,
            self.manifest,
            *training,
            *embedding,
            *self.evaluating(systems),
        )

    def evaluating(self, systems: Iterable[str]) -> tuple[Evaluate, ...]:
        """The evaluation of these trainings: of the tables that name none but them. None without a system."""
        wanted = set(systems)
        chosen = {name: system for name, system in self.trainings.items() if name in wanted}
        tables, groups = dict[str, Table](), dict[str, list[str]]()
        for name, given in self.tables.items():
            table, found = seeds.spelled_out(given, self.seeds)
            if chosen.keys() >= {*_needed(table)}:
                tables[name] = table
                groups |= {system: own for system, own in found.items() if chosen.keys() >= {*own} - {*table.fusions}}
        if not chosen or not tables:
            return ()
        settings = self.evaluate.model_copy(update={"tables": tables})
        boxes = self.detect is not None and settings.weigh_by_quality
        protocol = self.manifest.protocol
        return (Evaluate(settings=settings, systems=chosen, protocol=protocol, seeds=groups, reads_boxes=boxes),)

    def lacking(self, systems: Iterable[str]) -> str:
        """What the table that has the most of these trainings needs besides them, in words."""
        there, lacks = set(systems), dict[str, list[str]]()
        nearest = list[tuple[int, int, str]]()
        for name, table in self.tables.items():
            needed = list(dict.fromkeys(_needed(table)))
            lacks[name] = [one for one in needed if not there.issuperset(self.seeds.get(one, [one]))]
            nearest.append((len(lacks[name]) - len(needed), len(lacks[name]), name))
        table_name = min(nearest)[2]
        return f"table {table_name} also needs {some(lacks[table_name], 9)}"

    @classmethod
    def load(cls, study: str | PathLike[str], overrides: list[str] | None = None) -> Study:
        """The study in a YAML file, or the shipped one of that name, with `a.b=value` overrides. Raises ConfigError."""
        return cls._load(find_study(given_path("study", study)), overrides)

    @classmethod
    def kept(cls, run: str | PathLike[str]) -> Study:
        """The study that a run folder keeps, to look at it. Raises ConfigError."""
        run = given_path("run", run)
        if (run / KEPT).exists() and not (run / KEPT).is_file():  # reading a pipe would wait for ever
            raise ConfigError(f"{run / KEPT}: expected the study that a run keeps, got a folder, pipe or device")
        return cls._load(run / KEPT, [], keeps=True)

    @classmethod
    def _load(cls, path: Path, overrides: list[str] | None, *, keeps: bool = False) -> Study:
        settings = read_yaml(path)
        settings.setdefault("name", path.stem)
        overrides = texts_of("settings", overrides, "detect.stride=2")
        for assignment in overrides:
            set_dotted(settings, assignment)
        _without_trust(settings, str(path), keeps)
        manifest = settings.get("manifest")
        if isinstance(manifest, dict) and isinstance(manifest.get("protocol"), str):
            folders = [path.parent / "manifests", path.parent.parent / "manifests", SHIPPED / "manifests"]
            manifest["protocol"] = read_protocol(manifest["protocol"], folders)
        given = f" with --set {', '.join(map(one_line, overrides))}" if overrides else ""
        return validate(cls, settings, f"{path}{given}")

    def to_yaml(self) -> str:
        """Every setting, defaults written out."""
        return yaml_text(self._settings())

    def _settings(self) -> dict[str, Any]:
        """Every setting that the study may name; of a sweep the values, and not the systems that are made of them."""
        found = self.model_dump(mode="json", exclude=set(_OF_VIDEOS) if self.dataset.holds_images else None)
        if self.track is None:  # as before there were tracks
            found.pop("track", None)
        made = made_for(self.swept, self.sweeps)
        return found | {"systems": {name: one for name, one in found["systems"].items() if name not in made}}


def _needed(table: Table) -> list[str]:
    """The systems that a table names, also in its fusions."""
    return [*table.systems, *(system for fusion in table.fusions.values() for system in fusion.systems)]


def _without_trust(settings: dict[str, Any], where: str, keeps: bool) -> None:
    """Drop `trust_pickle`, once a setting, from the sections that had it. Raises ConfigError where it is asked for.

    keeps: the settings are those of a run folder, which may hold `--trust-pickle` of an earlier version.
    """
    detect, systems = settings.get("detect"), settings.get("systems")
    places = [("detect.detector", detect.get("detector"))] if isinstance(detect, dict) else []
    places += [(f"systems.{name}", system) for name, system in systems.items()] if isinstance(systems, dict) else []
    for name, section in places:
        asked = section.pop(_TRUST, False) if isinstance(section, dict) else False
        if asked is not False and not keeps:
            raise ConfigError(
                f"{where}: {name}.{_TRUST}: no setting: a study cannot say that weights may run what they say; remove "
                "the line, and, if you trust who made the weights, give --trust-pickle with each call"
            )


def open_run(path: Path) -> tuple[Study, Run, Path]:
    """The study, run folder and data root of an existing run. Raises DataError where `path` is not a run folder."""
    found = read_environment(path)
    if found is None:
        raise DataError(
            f"{path}: expected a run folder (with pipeline.yaml and environment.json), found none; give the folder "
            "that --run named"
            if not (path / FILE).exists()
            else f"{path / FILE}: expected what a call of mdfpipe wrote, found something else; the next `run` of the "
            "study with this --run folder writes it again"
        )
    return Study.kept(path), Run(path), found.data
