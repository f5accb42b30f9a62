"""Score lists: numbers of matchers that give scores alone, by the same tables as a study's own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path

from mdfpipe.config import set_dotted, texts_of, validate
from mdfpipe.errors import ConfigError
from mdfpipe.evaluation.given import METRICS, evaluate_lists
from mdfpipe.evaluation.study import Keep
from mdfpipe.evaluation.vectors import Evaluated
from mdfpipe.running.plan import current
from mdfpipe.stages.evaluate import Evaluate, ScoreFiles, Tables, metrics_table, write_beside
from mdfpipe.store.files import refuse_folder
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.results import KEY, STAGE, Results, read_results, results_of
from mdfpipe.store.run import Receipt, Run
from mdfpipe.store.score_lists import ScoreList, read_lists, read_two_lists

TABLE = "scores"
Paths = Sequence[str | PathLike[str]]


def score_lists(
    files: Paths = (),
    out: str | PathLike[str] | None = None,
    *,
    genuine: Paths = (),
    impostor: Paths = (),
    mates: str | PathLike[str] | None = None,
    histogram: bool = False,
    distances: bool = False,
    settings: Sequence[str] = (),
) -> Results:
    """Evaluate the scores of matchers side by side; write `out`/evaluate as a run has it, if it is given.

    files: a matcher each, or of `mdfpipe eval`'s own scores one for each pair of domains. genuine, impostor: two files
    a matcher, in the same order. mates: genuine query-template pairs of files of three columns. histogram: `impostor`
    counts scores of 0, 1, 2. distances: less is more alike. settings: NAME=VALUE of tables, such as
    tables.scores.metrics=[eer,auc]. Raises ConfigError, DataError, ProtocolError, StoreError.
    """
    asked = _tables(settings)
    if len(genuine) != len(impostor):
        raise ConfigError(
            f"--genuine and --impostor: expected one of each for a matcher, got {len(genuine)} and {len(impostor)}"
        )
    if not files and not genuine:
        raise ConfigError("expected files of scores, or --genuine FILE --impostor FILE, got none")
    lists: list[ScoreList] = []
    for path in map(Path, files):
        _refuse_stale(path)
        lists += read_lists(path, mates=None if mates is None else Path(mates))
    pairs = zip(genuine, impostor, strict=True)
    lists += [read_two_lists(Path(g), Path(i), histogram=histogram) for g, i in pairs]
    lists = [one.negated() for one in lists] if distances else lists
    if out is None:
        found = _evaluated(lists, asked, None)
        results = results_of(found.tables, found.metrics, found.comparisons)
        results.metrics = [row | {"_run": "", "_file": "", "_row": n} for n, row in enumerate(results.metrics)]
        return results
    refuse_folder(Path(out))
    run = Run(Path(out))
    place = partial(run.scratch, STAGE)
    with run.lock():
        with ScoreFiles(place) as scores:
            found = _evaluated(lists, asked, scores.keep)
        written = write_beside(found, scores, place)
        facts = {"none": found.nothing, "tables": found.tables, "missing": []}
        upstream = {f"scores/{n}": file_sha256(Path(path)) for n, path in enumerate((*files, *genuine, *impostor))}
        receipt = Receipt(STAGE, Evaluate.version, KEY, asked.model_dump(mode="json"), upstream, facts=facts)
        run.commit(receipt, metrics_table(found), written)
    return read_results(Path(out))


def _tables(settings: Sequence[str]) -> Tables:
    """The one table. Raises ConfigError."""
    asked = {"tables": {TABLE: {"metrics": list(METRICS), "unmated": "exclude"}}}
    for assignment in texts_of("settings", settings, "tables.recognition.pairs=all"):
        set_dotted(asked, assignment)
    tables = validate(Tables, asked, "--set")
    if list(tables.tables) != [TABLE] or tables.tables[TABLE].benchmark is not None:
        raise ConfigError(f"--set: expected settings of tables.{TABLE} without a benchmark, got {list(tables.tables)}")
    return tables


def _evaluated(lists: Sequence[ScoreList], asked: Tables, keep: Keep | None) -> Evaluated:
    return evaluate_lists(TABLE, asked.tables[TABLE], lists, keep)


def _refuse_stale(path: Path) -> None:
    """Raise DataError where a file is a run's own and out of date."""
    folder = path.resolve().parent
    if (folder.parent.name, folder.name) == (STAGE, "scores"):
        current(folder.parent.parent, STAGE, KEY, allow_stale=None)
