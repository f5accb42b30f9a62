"""The numbers of the studies of ablations, read from their runs, and the page methods-on-drawn-people.md of them.

`scripts/ablations RUN ...` writes the numbers to docs/methods-on-drawn-people.json. The page is made of that file and
of the words in ablations.yaml.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from mdfpipe.errors import DataError, MdfError, one_line
from mdfpipe.evaluation import published
from mdfpipe.reporting.comparison import side_by_side
from mdfpipe.store.results import POOLED, Results, Row, Verdict, judged
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study, open_run

ROOT = Path(__file__).parents[1]
NUMBERS = ROOT / "docs" / "methods-on-drawn-people.json"
WORDS = Path(__file__).with_name("ablations.yaml")
METRICS: Final = {"rank-1": "Rank-1", "map": "mAP"}
FIGURES: Final = ("validation/", "mining/")

Form = dict[str, Any]
"""What is kept of runs of a study: people, seconds by training, and by table and system the numbers, differences and
figures.
"""


# -- from the runs


def read(path: Path) -> Form:
    """The numbers of an evaluated run. Raises DataError where it was not evaluated, or is out of date."""
    results, (study, run, data) = side_by_side(path), open_run(path)
    known = yaml.safe_load(WORDS.read_text())["forms"]
    if study.name not in known:
        raise DataError(f"{path}: expected a run of {' or '.join(known)}, found one of {study.name}")
    made = _from_json(data / "synth.json")
    rows = [row for row in results.metrics if row["metric"] in METRICS]
    entries = results.tables.values()
    trainings = {own for entry in entries for name in entry["systems"] for own in _trainings(entry, name)}
    return {
        "study": study.name,
        "preset": made.get("preset", ""),
        "gallery": sorted({row["gallery_domain"] for row in rows}),
        "probes": list(dict.fromkeys(row["probe_domain"] for row in rows if row["probe_domain"] != POOLED)),
        "subjects": max(row["n_subjects"] for row in rows),
        "seconds": {own: _seconds(path / "train" / own / "metrics.jsonl") for own in sorted(trainings)},
        "tables": {name: _table(name, results, study, run) for name in results.tables},
    }


def _trainings(entry: Mapping[str, Any], system: str) -> list[str]:
    found: list[str] = entry.get("seeds", {}).get(system, [system])
    return found


def _seconds(log: Path) -> int:
    lines = log.read_text().splitlines() if log.is_file() else []
    return round(sum(float(json.loads(line).get("seconds", 0)) for line in lines))


def _table(name: str, results: Results, study: Study, run: Run) -> dict[str, Any]:
    """By system: steps, numbers by metric and domain, differences to the plain row, figures of the trainings' ends."""
    entry = results.tables[name]
    rows = {
        (row["system"], row["metric"], row["probe_domain"]): row
        for row in results.of(results.metrics, name)
        if row["metric"] in METRICS
    }
    found: dict[str, Any] = {}
    for system in dict.fromkeys(key[0] for key in rows):
        numbers: dict[str, Any] = {}
        against: dict[str, Any] = {}
        for (own, metric, domain), row in rows.items():
            if own != system:
                continue
            numbers.setdefault(metric, {})[domain] = _number(row)
            plain = rows.get((name, metric, domain))
            if plain is not None and system != name:
                against.setdefault(metric, {})[domain] = _against(plain, row, results.of(results.comparisons, name))
        found[system] = {
            "steps": study.systems[system].recipe.schedule.length,
            "numbers": numbers,
            "against": against,
            "figures": _figures(run, _trainings(entry, system)),
        }
    return found


def _number(row: Row) -> dict[str, Any]:
    names = ("value", "low", "high")
    found = {name: _rounded(row[name]) for name in names} | {"n": row["n"]}
    return found | ({"each": [_rounded(value) for value in row["each"]]} if row.get("each") else {})


def _against(plain: Row, row: Row, comparisons: Sequence[Row]) -> dict[str, Any]:
    """The difference of a row to the plain one, its interval, p, and what the row is against it: see `_verdict`."""
    names = {plain["system"], row["system"]}
    place = [(n, row[n]) for n in ("gallery_domain", "probe_domain", "gallery", "metric")]
    tests = [
        test
        for test in comparisons
        if {test["first"], test["second"]} == names and all(test[name] == value for name, value in place)
    ]
    made: dict[str, Any] = {"difference": None, "low": None, "high": None, "p": None}
    for test in tests:
        low, high = (test["low"], test["high"])
        turned = test["first"] == plain["system"]
        if turned and low is not None:
            low, high = -high, -low
        made = {
            "difference": _rounded(-test["difference"] if turned else test["difference"]),
            "low": _rounded(low),
            "high": _rounded(high),
            "p": _rounded(test["p"]),
        }
    return made | {"verdict": _verdict(plain, row, tests)}


def _verdict(plain: Row, row: Row, tests: Sequence[Row]) -> str:
    """What a row is against the plain one alone: worse; best (the plain one is worse); level; untested."""
    first, second = judged([plain, row], tests)
    if second.verdict is not Verdict.BEST or first.verdict is None:
        return str(second.verdict or "")
    if all(test["p"] is None for test in tests):
        return str(Verdict.UNTESTED)
    return str(Verdict.BEST if first.verdict is Verdict.WORSE else Verdict.LEVEL)


def _figures(run: Run, trainings: Sequence[str]) -> dict[str, list[float]]:
    """Of each training, in the order of its seeds, the last value of each figure of FIGURES."""
    found: dict[str, list[float]] = {}
    for own in trainings:
        last: dict[str, float] = {}
        for row in run.table(f"train/{own}", "training").to_pylist():
            if row["figure"].startswith(FIGURES) and row["anchor_domain"] is None:
                last[row["figure"]] = row["value"]
        for name, value in last.items():
            found.setdefault(name, []).append(round(value, 4))
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4) + 0.0  # no -0.0


# -- the page


def page(forms: Mapping[str, Form] | None = None, words: Mapping[str, Any] | None = None) -> str:
    """The page. forms: numbers by the study's name, by default those that are kept; words: those of ablations.yaml."""
    forms = _kept() if forms is None else forms
    words = yaml.safe_load(WORDS.read_text()) if words is None else words
    lines = ["# Methods on drawn people", "", words["about"].strip(), "", *_made(forms, words)]
    for method, about in words["methods"].items():
        lines += ["", f"## {about['title']}", "", about["about"].strip()]
        for study, form in words["forms"].items():
            lines += ["", f"### {about['title']}: {form['title']}", ""]
            run = forms.get(study, {"tables": {}})
            lines += _rows(method, about, run) if method in run["tables"] else ["Not run yet."]
        lines += ["", f"**What follows.** {(about.get('follows') or 'Not run yet.').strip()}"]
    return "\n".join(lines) + "\n"


def _kept() -> dict[str, Form]:
    return _from_json(NUMBERS)


def _from_json(path: Path) -> dict[str, Any]:
    """What a file holds, {} where there is none. Raises DataError."""
    try:
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected JSON: {one_line(error)}") from None
    return found


def _made(forms: Mapping[str, Form], words: Mapping[str, Any]) -> list[str]:
    lines = ["## How it was made", "", words["made"].strip("\n"), ""]
    lines += _head("study|data|gallery|probes|subjects tested|trainings|hours of training")
    for study, about in words["forms"].items():
        form = forms.get(study)
        if form is None:
            lines.append(_line(f"`{about['file']}`", *["not run yet"] * 6))
            continue
        where = (f"`{form['preset']}`", ", ".join(form["gallery"]), ", ".join(form["probes"]), str(form["subjects"]))
        seconds = form["seconds"].values()
        lines.append(_line(f"`{about['file']}`", *where, str(len(seconds)), f"{sum(seconds) / 3600:.1f}"))
    return lines


def _rows(method: str, about: Mapping[str, Any], form: Form) -> list[str]:
    """The table of pooled numbers (of the one probe domain, where there is one), and that of Rank-1 by domain."""
    table, probes = form["tables"][method], form["probes"]
    place = POOLED if len(probes) > 1 else probes[0]
    figures = about.get("figures", {})
    columns = ["row", "without", *METRICS.values(), *(f"{name} against `{method}`" for name in METRICS.values())]
    lines = _head("|".join([*columns, "paper", *figures.values()]))
    for system in dict.fromkeys([*table, *about["rows"]]):
        told = about["rows"].get(system, {})
        cells = [f"`{system}`", told.get("without", "")]
        if row := table.get(system):
            cells += [_share(row["numbers"].get(metric, {}).get(place)) for metric in METRICS]
            cells += [_difference(row["against"].get(metric, {}).get(place)) for metric in METRICS]
        else:
            cells += ["not run yet", *[""] * 3]
        measured = row["figures"] if row else {}
        cells += [_paper(about["recipe"], told.get("paper")), *(_figure(measured.get(name)) for name in figures)]
        lines.append(_line(*cells))
    steps = sorted({row["steps"] for name, row in table.items() if not name.endswith("pretrained")})
    numbers = [row["numbers"]["rank-1"][place] for row in table.values()]
    count, seeds = max(one["n"] for one in numbers), max(len(one.get("each", [1])) for one in numbers)
    length = ", ".join(f"{step:g}" for step in steps)
    guess = f"a guess finds {100 / form['subjects']:.1f} % at rank 1"
    lines += ["", f"Per cent; {count} probes, {seeds} seeds, {length} steps; {guess}."]
    if len(probes) > 1:
        lines += ["", *_head("|".join(["Rank-1", *probes]))]
        for system, row in table.items():
            own = row["numbers"]["rank-1"]
            lines.append(_line(f"`{system}`", *(_share(own.get(probe)) for probe in probes)))
    return lines


def _share(number: Mapping[str, Any] | None) -> str:
    """A number with its interval, in per cent."""
    if number is None or number["value"] is None:
        return "-"
    interval = "" if number["low"] is None else f" ({100 * number['low']:.1f} to {100 * number['high']:.1f})"
    return f"{100 * number['value']:.1f}{interval}"


def _difference(found: Mapping[str, Any] | None) -> str:
    """A difference with its interval, in points, and the verdict."""
    if found is None or found["difference"] is None:
        return "" if found is None else found["verdict"]
    interval = "" if found["low"] is None else f" ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"
    return f"{100 * found['difference']:+.1f}{interval}, {found['verdict']}"


def _figure(values: Sequence[float] | None) -> str:
    return "-" if not values else f"{sum(values) / len(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _paper(recipe: str, told: Mapping[str, str] | None) -> str:
    """What the paper's own ablation of this part changes: Rank-1 and mAP with it and without it, and where."""
    if told is None:
        return "-"
    rows = {(row.benchmark, row.row): row for row in reversed(published.of(recipe)) if row.figures}
    kept, left = (rows[told["benchmark"], told[name]] for name in ("with", "without"))
    names = [name for name in kept.figures if name.split()[0] in METRICS.values()]  # Rank-1 may be of a domain
    changes = [f"{name} {left.figures[name] - kept.figures[name]:+.2f}" for name in names]
    return f"{', '.join(changes)} ({left.row} against {kept.row}; {left.benchmark}, table {left.table})"


def _head(columns: str) -> list[str]:
    names = columns.split("|")
    return [_line(*names), "|---" * len(names) + "|"]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main(paths: Sequence[str]) -> int:
    """Read these runs, and keep their numbers; those of another study, and of tables that a run does not have, stay."""
    if not paths:
        print("scripts/ablations RUN ...: expected the folder of an evaluated run, got none")
        return 2
    try:
        forms = _kept()
        for path in paths:
            form = read(Path(path))
            print(f"{path}: {form['study']}, {', '.join(form['tables'])}")
            forms[form["study"]] = _with_kept(form, forms.get(form["study"]), Path(path))
    except MdfError as error:
        print(f"scripts/ablations: {error}", file=sys.stderr)
        return 2
    NUMBERS.write_text(text(forms))
    return 0


def _with_kept(form: Form, kept: Form | None, path: Path) -> Form:
    """A form with the tables that other runs of its study gave. Raises DataError where these are of other people."""
    if kept is None:
        return form
    people = ("preset", "gallery", "probes", "subjects")
    if kept["tables"].keys() - form["tables"].keys() and (odd := [n for n in people if form[n] != kept[n]]):
        raise DataError(
            f"{path}: {odd[0]} is {form[odd[0]]}, in the run of the other tables {kept[odd[0]]}: their numbers do not "
            "belong on one page; run all tables on one data set"
        )
    return form | {name: kept[name] | form[name] for name in ("seconds", "tables")}


def text(forms: Mapping[str, Form]) -> str:
    """As JSON with a line for each row of a table."""
    parts = []
    for study, form in sorted(forms.items()):
        head = json.dumps({name: value for name, value in form.items() if name != "tables"})[:-1]
        tables = ",\n".join(
            f"  {json.dumps(name)}: {{\n"
            + ",\n".join(f"   {json.dumps(s)}: {json.dumps(row)}" for s, row in rows.items())
            + "\n  }"
            for name, rows in form["tables"].items()
        )
        parts.append(f' {json.dumps(study)}: {head}, "tables": {{\n{tables}\n }}}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
