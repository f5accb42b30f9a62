"""Reached: what users measured, as rows of `benchmarks/reached.yaml`. Rows are taken from runs, never typed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pydantic import Field, model_validator

from mdfpipe import __version__
from mdfpipe.config import NAME, Config, parse_yaml, read_yaml, validate, yaml_text
from mdfpipe.datasets import Dataset
from mdfpipe.errors import ConfigError, DataError, StoreError, cannot_write, counted
from mdfpipe.evaluation.measures.metrics import NUMBERS
from mdfpipe.evaluation.published import Percent
from mdfpipe.evaluation.published import rows as paper_rows
from mdfpipe.evaluation.table import MetricName
from mdfpipe.learning.recipes import Recipe
from mdfpipe.reporting.comparison import average_runs
from mdfpipe.running.plan import Currency, current
from mdfpipe.stages.index import Index
from mdfpipe.store.files import write_output
from mdfpipe.store.results import KEY, NOTES, PLACE, STAGE, Results, read_results
from mdfpipe.store.results import Row as Number
from mdfpipe.store.run import fingerprint
from mdfpipe.store.shipped import IS_CHECKOUT, SHIPPED
from mdfpipe.study.study import Study, open_run
from mdfpipe.synth.folder import DESCRIPTION

FILE: Final = Path("benchmarks") / "reached.yaml"
DRAWN: Final = "people drawn by mdfpipe synth"
"""The benchmark of a run on synthetic data."""
_RULES: Final = ("templates", "pooling", "failure", "unmated", "distance", "rule", "rerank")


class Figure(Config):
    """A number in per cent, its 95 % interval, and its standard deviation over trials or trainings."""

    value: Percent = Field(description="the number")
    low: Percent | None = Field(None, description="lower bound of its 95 % interval")
    high: Percent | None = Field(None, description="upper bound")
    spread: float | None = Field(None, ge=0, description="standard deviation over trials, or over trainings")

    @model_validator(mode="after")
    def _is_an_interval(self) -> Self:
        if (self.low is None) != (self.high is None) or (self.low or 0) > (self.high or 0):
            raise ValueError(f"expected low and high, the one not above the other, got {self.low} and {self.high}")
        return self


class ReachedRow(Config):
    """What one system reached in one table, from one gallery domain to one probe domain."""

    benchmark: str = Field(min_length=1, description="the data set")
    protocol: str = Field(min_length=1, description="its name with every choice, as it is printed with the numbers")
    gallery: str = Field(description="the gallery's domain")
    probes: str = Field(description="the probes' domain, or pooled")
    galleries: str = Field("all", description="which of the data set's lists of subjects is searched")
    rules: dict[str, str] = Field(default={}, description="templates, pooling, failures, unmated probes, distance, ...")
    splits: str = Field(description="the protocol of manifests/ that says who was trained on")
    study: str = Field(pattern=NAME, description="name of the study")
    table: str = Field(pattern=NAME, description="the study's table")
    system: str = Field(pattern=NAME, description="the study's system, or fusion of systems")
    recipe: str = Field("", description="the system's recipe; empty for a fusion")
    settings: dict[str, Any] = Field(
        default={}, description="settings of the recipe other than its defaults; all for a fusion"
    )
    system_settings: dict[str, Any] = Field(default={}, description="settings of the system other than its defaults")
    figures: dict[MetricName, Figure] = Field(min_length=1, description="each metric")
    published: dict[MetricName, Percent] = Field(
        default={}, description="what the paper prints under this very protocol, where the study names it"
    )
    n: int = Field(ge=0, description="probes that count; of several runs all together")
    trials: int | None = Field(None, ge=1, description="galleries, or trainings, that are averaged")
    runs: int = Field(1, ge=1, description="trainings")
    minutes: float | None = Field(None, ge=0, description="how long a training took, as its log says")
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\d$", description="when the row was entered")
    mdfpipe: str = Field(description="the version that entered it")
    source: str = Field(pattern=r"^[0-9a-f]{12,64}$", description="fingerprint of the numbers it was taken from")
    notes: list[str] = Field(default=[], description="what to know of the numbers")


class _Rows(Config):
    rows: list[ReachedRow]


def read(file: Path) -> list[ReachedRow]:
    """The rows of a file; none where there is no file. Raises ConfigError where it is not as it should be."""
    return list(_parsed(read_yaml(file), file)) if file.exists() else []


def _parsed(content: Any, file: Path) -> list[ReachedRow]:
    if isinstance(content, dict) and content.get("rows", ...) is None:
        content = content | {"rows": []}
    return validate(_Rows, content if isinstance(content, dict) else {}, str(file)).rows


def shipped_file() -> Path:
    """The file of rows that mdfpipe brings, to be read."""
    return SHIPPED / FILE


def own_file() -> Path:
    """The file that rows are written to without `--into`: the checkout's. Raises ConfigError elsewhere."""
    if not IS_CHECKOUT:
        raise ConfigError(
            f"--into: expected a file for the rows, got none, and {shipped_file()} belongs to the installed package; "
            "name a file of your own, such as --into reached.yaml, or work in a clone"
        )
    return shipped_file()


# -- from runs


def rows_of(
    runs: Sequence[Path], *, on: str = "", tables: Sequence[str] = (), systems: Sequence[str] = (), note: str = ""
) -> list[ReachedRow]:
    """A row for each table, system and pair of domains of an evaluated run; of several runs their mean.

    on: the data set; by default the one that the layout is of (SYSU-MM01, RegDB, LLCM, Market-1501). tables, systems:
    only these. Raises DataError where a run has no numbers, or numbers that its study would make again; ConfigError
    where the data set has to be named, or is named wrongly; ProtocolError where the runs follow different protocols.
    """
    opened = [_Opened.at(path) for path in runs]
    first = opened[0]
    benchmark = _benchmark(opened, on)
    if len(opened) > 1:
        for other in opened[1:]:
            if other.study.systems != first.study.systems:
                raise DataError(
                    f"{other.path}: expected the systems of {first.path}, trained again, got others: a mean over "
                    "different settings is of neither; enter the runs one by one"
                )
        results = average_runs(list(runs))
    else:
        results = first.results
    _known("--table", tables, results.tables)
    _known("--system", systems, {row["system"] for row in results.metrics})
    found: dict[tuple[str, ...], list[Number]] = {}
    for row in (row for row in results.metrics if row["value"] is not None):
        if (not tables or row["table"] in tables) and (not systems or row["system"] in systems):
            found.setdefault(_place(row), []).append(row)
    if not found:
        raise DataError(f"{first.path}: expected numbers of these tables and systems, found none; leave an option out")
    return [_row(opened, benchmark, own, results, note) for own in found.values()]


def _place(row: Number) -> tuple[str, ...]:
    return (row["system"], *(row[name] for name in PLACE))


@dataclass(frozen=True)
class _Opened:
    """An evaluated run. content: of its evaluation; doubts: why it was not compared with its study."""

    path: Path
    study: Study
    data: Path
    results: Results
    content: str
    doubts: list[str]
    differs: list[str]

    @classmethod
    def at(cls, path: Path) -> Self:
        study, run, data = open_run(path)
        results, receipt = read_results(path), run.receipt(STAGE, KEY)
        if receipt is None or not results.metrics:
            raise DataError(f"{path}: expected a run with numbers, found none: {results.none or 'evaluate it again'}")
        index = run.receipt(Index.name, Index.table)
        differs = list(index.facts.get("not_as_published") or []) if index else []
        missing = receipt.facts.get("missing") or []
        doubts = (
            [f"made without {counted(len(missing), 'video that is', 'videos that are')} not done"] if missing else []
        )
        doubts += dict.fromkeys(stamp for table in results.tables for stamp in results.stamps_of(table))
        doubts += _compared(path)
        return cls(path, study, data, results, receipt.content, doubts, differs)

    def minutes(self, system: str) -> float | None:
        """How long the system's training took by its log; None without one."""
        place = self.path / "train" / system / "metrics.jsonl"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            seconds = [float(json.loads(line)["seconds"]) for line in place.read_text().splitlines()]
            return round(sum(seconds) / 60, 1) if seconds else None
        return None


def _compared(path: Path) -> list[str]:
    """Refuse numbers that are out of date; what to note where that is unknown."""
    if current(path, STAGE, KEY, allow_stale=None).currency is Currency.UNKNOWN:  # why: may hold a path
        return ["entered where its data could not be read, so that nothing was compared with them"]
    return []


def _benchmark(opened: Sequence[_Opened], on: str) -> str:
    """What the runs are of. Raises ConfigError."""
    layouts = {one.study.dataset.use: one.study.dataset.published_name for one in opened}
    if len(layouts) > 1:
        raise ConfigError(f"expected runs on one data set, got {' and '.join(sorted(layouts))}; enter them one by one")
    ((use, name),) = layouts.items()
    own = {Dataset.variant(choice).published_name: choice for choice in Dataset.choices()}
    papers = {one.casefold(): one for one in (*own, *(row.benchmark for row in paper_rows())) if one}
    on = papers.get(on.strip().casefold(), on.strip())
    drawn = next((one.path for one in opened if (one.data / DESCRIPTION).is_file()), None)
    if drawn and on in papers.values():
        raise ConfigError(f"--on {on}: expected the data set of {drawn}, which is drawn: leave --on out")
    if on in papers.values() and on != name and (name or on in own):
        raise ConfigError(f"--on {on}: expected the data set of {opened[0].path}, whose layout is {use}: correct --on")
    differs = next(((one.path, one.differs) for one in opened if one.differs), None)
    if differs and (on in papers.values() or (name and not on)):
        place, found = differs
        raise ConfigError(
            f"{place}: expected {on or name} as it is published, got other counts ({found[0]}): these numbers are "
            "not of that benchmark; name the data by --on with a name of your own"
        )
    if on or name or drawn:
        return on or name or DRAWN
    raise ConfigError(
        f"{opened[0].path}: expected --on with the name of its data set, such as --on IJB-MDF, got none: a layout of "
        "videos does not tell it"
    )


def _known(option: str, asked: Sequence[str], there: Iterator[str] | Mapping[str, Any] | set[str]) -> None:
    names = sorted(there)
    for name in asked:
        if name not in names:
            raise ConfigError(f"{option} {name}: no such name among the numbers; there are {', '.join(names)}")


def _row(
    opened: Sequence[_Opened],
    benchmark: str,
    own: list[Number],
    results: Results,
    note: str,
) -> ReachedRow:
    one, study = own[0], opened[0].study
    system = study.systems.get(one["system"])
    fusion = study.evaluate.tables[one["table"]].fusions.get(one["system"])
    minutes = [m for m in (run.minutes(one["system"]) for run in opened) if m is not None]
    notes = [note] if note else []
    notes += [f"{row['metric']}: {NOTES[note][1]}" for row in own for note in NUMBERS if note in (row["notes"] or ())]
    notes += [text for run in opened for text in run.doubts] + list(results.tables[one["table"]].get("notes") or [])
    given: dict[str, Any] = {
        "benchmark": benchmark,
        "protocol": one["protocol"],
        "gallery": one["gallery_domain"],
        "probes": one["probe_domain"],
        "galleries": one["gallery"],
        "rules": {name: str(one[name]) for name in _RULES},
        "splits": study.manifest.protocol.name,
        "study": study.name,
        "table": one["table"],
        "system": one["system"],
        "recipe": system.recipe.use if system else "",
        "settings": _recipe_settings(system.recipe) if system else fusion.model_dump(mode="json") if fusion else {},
        "system_settings": _beside_defaults(system, {"recipe", "strict"}) if system else {},
        "figures": {row["metric"]: _figure(row) for row in own},
        "published": {row["metric"]: _percent(row["published"]) for row in own if row["published"] is not None},
        "n": one["n"],
        "trials": one["trials"],
        "runs": len(opened),
        "minutes": round(sum(minutes) / len(minutes), 1) if minutes else None,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "mdfpipe": __version__,
        "source": fingerprint([[run.content for run in opened], *_place(one)])[:16],
        "notes": list(dict.fromkeys(notes)),
    }
    return validate(ReachedRow, given, f"{opened[0].path}: table {one['table']}, system {one['system']}")


def _figure(row: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: _percent(row[name]) for name in ("value", "low", "high", "spread")}


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def _recipe_settings(recipe: Recipe) -> dict[str, Any]:
    """A recipe's settings other than its defaults, from which the same recipe is made."""
    found = _beside_defaults(recipe, {"use"})
    same = validate(type(recipe), found, "recipe") == recipe
    return found if same else recipe.model_dump(mode="json", exclude={"use"})


def _beside_defaults(config: Config, but: set[str]) -> dict[str, Any]:
    """The settings that differ from the class's defaults; of files the names alone, whose folders are a machine's."""
    found: dict[str, Any] = {}
    plain = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        usual = field.get_default(call_default_factory=True) if not field.is_required() else ...
        if name in but or value == usual:
            continue
        if isinstance(value, Config) and type(value) is type(usual):
            usually = usual.model_dump(mode="json")
            found[name] = {n: v for n, v in plain[name].items() if v != usually[n]}
        else:
            found[name] = _nameless(plain[name])
    return found


def _nameless(value: Any) -> Any:
    if isinstance(value, list):
        return [_nameless(one) for one in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


# -- into the file


def enter(found: Sequence[ReachedRow], file: Path, *, dry_run: bool = False) -> list[ReachedRow]:
    """Write the rows below those of a file; gives those that were not there. What is in the file stays.

    The file appears whole or not at all; two calls at once lose nothing. Raises ConfigError where the file is not as it
    should be, StoreError where it cannot be written.
    """
    with _alone(file) if not dry_run else contextlib.nullcontext():
        there = read(file)
        known = {row.source for row in there}
        new = [row for row in found if row.source not in known]
        if new and not dry_run:
            write_output(file, _text(file, there, new).encode())
    return new


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Wait until no other process writes a file of this folder, where the file system can tell."""
    try:
        folder = os.open(Path(os.path.realpath(file)).parent, os.O_RDONLY)
    except OSError as error:
        raise StoreError(cannot_write(file, error)) from None
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _text(file: Path, there: list[ReachedRow], new: list[ReachedRow]) -> str:
    """The file with further rows: its own lines and comments, and these below; or, in another layout, written again."""
    before = file.read_text(encoding="utf-8-sig") if file.exists() else "rows:\n"
    below = "".join(_as_yaml(row) for row in new)
    comment = [line for line in before.splitlines() if line.startswith("#")]
    anew = "\n".join([*comment, "", "rows:", ""]) + "".join(_as_yaml(row) for row in [*there, *new])
    for whole in (before.rstrip("\n") + "\n" + below, anew):
        with contextlib.suppress(ValueError, ConfigError):
            if _parsed(parse_yaml(whole), file) == [*there, *new]:
                return whole
    raise ConfigError(f"{file}: expected rows that can be written and read again, got other ones; nothing was written")


def _as_yaml(row: ReachedRow) -> str:
    """A row as an item of a list: a line a field, but for those that say nothing."""
    plain = row.model_dump(mode="json", exclude_defaults=True)
    figures = plain.pop("figures")
    lines = [f"{name}: {_flow(value)}" for name, value in plain.items()]
    lines += ["figures:", *(f"  {name}: {_flow(figure)}" for name, figure in figures.items())]
    return "".join(f"{'    ' if n else '  - '}{line}\n" for n, line in enumerate(lines))


def _flow(value: Any) -> str:
    text = yaml_text(value, default_flow_style=True, width=1 << 20)
    return text.removesuffix("...\n").strip()


# -- for people


def lines(found: Sequence[ReachedRow]) -> list[str]:
    """The rows by recipe and benchmark, below what the papers print there; each with its own protocol."""
    groups: dict[tuple[str, str], list[ReachedRow]] = {}
    for row in found:
        groups.setdefault((row.recipe, row.benchmark), []).append(row)
    said = list[str]()
    for (recipe, benchmark), own in sorted(groups.items()):
        said.append(f"{recipe or 'fusions'} on {benchmark}")
        for paper in paper_rows():
            if (paper.recipe, paper.benchmark) == (recipe, benchmark) and paper.figures:
                figures = ", ".join(f"{name} {value:.2f}" for name, value in paper.figures.items())
                said.append(f"  paper    table {paper.table}, {paper.row}; {paper.protocol}: {figures}")
        said += [line for row in own for line in _lines(row)]
    return said


def _lines(row: ReachedRow) -> Iterator[str]:
    figures = ", ".join(
        f"{name} {figure.value:.2f}"
        + (f" ({figure.low:.2f}..{figure.high:.2f})" if figure.low is not None else "")
        + (f" ± {figure.spread:.2f}" if figure.spread is not None else "")
        + (f" [paper {row.published[name]:.2f}]" if name in row.published else "")
        for name, figure in row.figures.items()
    )
    many = f"mean of {row.runs} runs, " if row.runs > 1 else ""
    yield f"  reached  {row.study}, {row.table}, {row.system}: {row.gallery} > {row.probes}, {row.protocol}"
    yield f"           {figures}; {many}n {row.n}; {row.date}, mdfpipe {row.mdfpipe}"
    yield from (f"           note: {note}" for note in row.notes)
