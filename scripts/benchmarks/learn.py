"""networks trained for the same processor time on the same drawn crops: mAP and Rank-1 in each domain, over seeds"""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, Report, mdfpipe

NETWORKS = Path(__file__).with_name("networks.yaml")
STUDY = ROOT / "pipelines" / "synthetic" / "study.yaml"
FEW, MORE = 8, 48  # steps of the two trainings whose difference is the cost of a step
LEAST_STEPS = 10


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", help="names in --list (all)")
    parser.add_argument("--list", type=Path, default=NETWORKS, help="YAML: settings of the recipe, by name")
    parser.add_argument("--seconds", type=float, default=300, help="processor seconds of each training (300)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each network (3)")
    parser.add_argument("--preset", default="study", help="drawn people (study)")
    parser.add_argument("--people", type=int, default=2000, help="further people in visible light (2000)")
    parser.add_argument("--workers", type=int, default=2, help="trainings at once, each with one thread (2)")
    parser.add_argument("--folder", type=Path, help="work in this folder, and go on there with what it has")


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    known = _read(options.list)
    names = options.networks or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"scripts/bench learn: {unknown[0]}: expected networks of {options.list}: {', '.join(known)}")
    folder = (options.folder or folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    data, run, workers = folder / "data", folder / "run", ["--workers", str(options.workers)]
    mdfpipe("synth", data, "--preset", options.preset, "--crops", str(options.people), *workers)
    study = _written(folder / "manifest.yaml", {}, 0, {})
    mdfpipe("run", study, "--data", data, "--run", run, "--until", "manifest", *workers)
    costs = _costs(folder, {name: known[name] for name in names}, data, run)
    steps = {name: max(round(options.seconds / costs[name]), LEAST_STEPS) for name in names}
    for name in names:
        report.add(f"{name}: processor time of a step", 1000 * costs[name], "ms")
        report.add(f"{name}: steps", steps[name], "")
    compared = _written(folder / "learn.yaml", {name: known[name] for name in names}, options.seeds, steps)
    mdfpipe("run", compared, "--data", data, "--run", run, *workers, "--threads", "1")
    _add_rows(report, run)
    said = mdfpipe("eval", compared, "--data", data, "--run", run)[1]
    report.notes += [
        f"{options.preset}: trained on gallery 1 in four bands and {options.people} people in visible light, "
        "tested on gallery 2",
        f"{options.seeds} seeds; {options.seconds:g} processor seconds each, from the cost of a step of {MORE - FEW}",
        *said.splitlines(),
    ]


def _read(path: Path) -> dict[str, dict[str, Any]]:
    from mdfpipe.config import read_yaml

    return read_yaml(path)


def _written(path: Path, networks: dict[str, dict[str, Any]], seeds: int, steps: dict[str, int]) -> Path:
    """A study of these networks, next to what it needs, with schedules of so many steps."""
    import yaml

    from mdfpipe.config import read_yaml

    study = read_yaml(STUDY)
    base = study["systems"]["body-finetuned"]
    study["systems"] = {
        name: {
            **{key: value for key, value in base.items() if key != "start_from"},
            **({"seeds": list(range(seeds))} if seeds > 1 else {}),
            "recipe": _over(base["recipe"], given, steps[name]),
        }
        for name, given in networks.items()
    }
    study["evaluate"] = {"tables": {"learn": {"unmated": "exclude", "metrics": ["map", "rank-1"]}}}
    if not networks:
        study = {name: value for name, value in study.items() if name not in ("systems", "evaluate")}
    path.write_text(yaml.safe_dump({**study, "name": "learn"}, sort_keys=False))
    return path


def _over(recipe: dict[str, Any], given: dict[str, Any], steps: int) -> dict[str, Any]:
    merged = {**recipe, **given}
    for name, value in given.items():
        if isinstance(value, dict) and isinstance(recipe.get(name), dict):
            merged[name] = {**recipe[name], **value}
    warm_up = max(round(steps / 20), 1)
    merged["schedule"] = {**recipe["schedule"], "length": steps, "unit": "steps", "warm_up": warm_up}
    return merged


def _costs(folder: Path, networks: dict[str, dict[str, Any]], data: Path, run: Path) -> dict[str, float]:
    """Processor seconds of a step of each network; those that an earlier call found in this folder stay."""
    place = folder / "costs.json"
    known: dict[str, float] = json.loads(place.read_text()) if place.exists() else {}
    for name, given in networks.items():
        if name not in known:
            known[name] = _cost_of_a_step(folder, {name: given}, data, run)
            place.write_text(json.dumps(known, indent=1))
    return known


def _cost_of_a_step(folder: Path, network: dict[str, dict[str, Any]], data: Path, run: Path) -> float:
    """Processor seconds: the difference of two short trainings, which both start, read and save."""
    (name,) = network
    used = []
    for steps in (FEW, MORE):
        study = _written(folder / f"cost-{name}-{steps}.yaml", network, 1, {name: steps})
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        mdfpipe("run", study, "--data", data, "--run", run, "--until", "train", "--workers", "1", "--threads", "1")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return max(used[1] - used[0], 1e-3) / (MORE - FEW)


def _add_rows(report: Report, run: Path) -> None:
    import mdfpipe as package

    found = package.open(run).metrics.to_pandas()
    lines = found[found["seed_of"].isna()]
    if not len(lines):
        raise SystemExit("scripts/bench learn: no number of any network")
    for row in lines.itertuples():
        report.add(f"{row.system}: {row.metric}, {row.probe_domain}", 100 * row.value, "%")
