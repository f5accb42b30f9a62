"""Commands that run stages: from the videos to the vectors."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdfpipe.cli import jobs as slurm_jobs
from mdfpipe.cli import options
from mdfpipe.cli.options import app, say, say_json
from mdfpipe.errors import ConfigError, one_line, unobeyed

if TYPE_CHECKING:
    from mdfpipe.running.execution import Executor
    from mdfpipe.running.slurm.script import Asked
    from mdfpipe.stages import Resources
    from mdfpipe.store.run import Run


def run_stages(first: str | None, last: str | None, o: dict[str, Any], *, tracks: bool = False) -> None:
    """Run the stages of a verb and print the outcome. o: the options of its call, by name.

    tracks: whether the verb begins with the stage `track`, where the study has it.
    """
    from mdfpipe.machine import arrow

    arrow.leave_pandas_out()
    from mdfpipe.cli.display import Display, show_numbers, show_outcome
    from mdfpipe.running.runner import Runner
    from mdfpipe.stages import Resources
    from mdfpipe.store.results import read_results
    from mdfpipe.store.run import Run
    from mdfpipe.store.video_cache import VideoCache
    from mdfpipe.study.study import Study

    resources = Resources(
        workers=o["workers"],
        device=o["device"],
        per_device=o["per_device"],
        threads=o["threads"],
        batch=o["batch"],
        deadline_seconds=o["deadline"],
        trust_pickle=o["trust_pickle"],
        tensorboard=o.get("tensorboard", False),
        separate=o.get("separate", False),
    )
    study = Study.load(o["study"], o["set_"] or [])
    if o["strict"]:
        study = study.strict()
    first = "track" if tracks and study.track is not None else first
    run = Run(o["run"])
    asked = slurm_jobs.asked_of(run, resources, o) if o.get("on") == "slurm" else None
    executor = _elsewhere(run, resources, asked, o)
    runner = Runner(study, run, o["data"], resources, executor, systems=o.get("system"))
    if o["trust_pickle"]:
        sys.stderr.write("mdfpipe: --trust-pickle: these weights can run any code; use it only for files you trust\n")
    if o.get("download_weights") and not o["dry_run"] and study.detect is not None:
        study.detect.detector.download(runner.data, lambda line: sys.stderr.write(f"mdfpipe: {line}\n"))
    if (allowed := getattr(study.dataset, "remote", None)) and not o["dry_run"]:
        cache = VideoCache()
        sys.stderr.write(
            f"mdfpipe: dataset.remote allows {', '.join(allowed)}: videos that URLs name are fetched into "
            f"{cache.folder} (at most {cache.limit / 1e9:g} GB)\n"
        )
    if o["dry_run"]:
        lines = runner.due(first, last, o["only"])
        texts = slurm_jobs.scripts(asked, runner.span(first, last), detach=o["detach"]) if asked is not None else {}
        if o["json_"]:
            say_json({"due": lines, "sbatch": texts} if texts else lines)
        else:
            say("\n".join(lines) or "nothing is due")
            for name, text in texts.items():
                say(f"\n# sbatch, {name}\n{text}")
        return
    if asked is not None and o["detach"]:
        say(slurm_jobs.submit_leader(asked))
        return
    with Display() as display:
        outcome = runner.execute(
            first, last, only=o["only"], strict=o["strict"], allow_missing=o["allow_missing"], listen=display
        )
    if not runner.leads:
        return
    if o["json_"]:
        numbers = read_results(runner.run.path).document() if outcome.is_made("evaluate") else None
        say_json(outcome, complete=outcome.complete, numbers=numbers)
    else:
        show_outcome(outcome)
        if outcome.is_made("evaluate"):
            show_numbers(read_results(runner.run.path))
        elif "evaluate" in outcome.tallies and runner.run.part("evaluate", "metrics").exists():
            say(f"\nno numbers: those in {runner.run.path / 'evaluate'} are out of date, and are not shown")
    if not outcome.complete:
        raise typer.Exit(3)


def _elsewhere(run: Run, resources: Resources, asked: Asked | None, o: dict[str, Any]) -> Executor | None:
    """What runs units on workers that join this command; None where they run here."""
    on, connect = o.get("on"), o.get("connect")
    if connect is not None and on is None:
        raise ConfigError(f"--connect {connect}: expected --on beside it; without --on nothing connects")
    if connect not in (None, "tcp", "files"):
        raise ConfigError(f"--connect {one_line(connect, 40)}: expected tcp or files")
    slurm_jobs.refuse_others(o)
    if asked is not None:
        return slurm_jobs.slurm_executor(run, asked, resources, o["data"], connect or "tcp")
    if on is None:
        return None
    if on not in ("ray", "workers"):
        raise ConfigError(f"--on {one_line(on, 40)}: expected slurm, ray or workers")
    from mdfpipe.running.leading import JoinedExecutor
    from mdfpipe.running.workers.joined import Joined, Terms

    terms = Terms(Path(os.path.abspath(o["data"])), resources.trust_pickle, resources.tensorboard)  # noqa: PTH100
    if on == "ray":
        from mdfpipe.running.workers.ray import OnRay, RayWorkers

        wish = OnRay.parse(o["jobs"] or 1, o["ray"], o["ray_needs"])
        return JoinedExecutor(resources, RayWorkers(run, terms, connect or "tcp", wish, resources), on)
    return JoinedExecutor(resources, Joined(run, terms, connect or "tcp"))


@app.command("run")
def run_all(
    ctx: typer.Context,
    study: options.StudyFile,
    data: options.Data,
    run: options.RunFolder,
    first: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="First stage to run.")] = None,
    last: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Last stage to run.")] = None,
    system: options.Systems = None,
    download_weights: options.DownloadWeights = False,
    tensorboard: options.Tensorboard = False,
    set_: options.Set = None,
    only: options.Only = None,
    workers: options.RunWorkers = None,
    threads: options.Threads = 2,
    batch: options.Batch = 8,
    device: options.Device = "cpu",
    per_device: options.PerDevice = None,
    on: options.On = None,
    connect: options.Connect = None,
    ray: options.Ray = "",
    ray_needs: options.RayNeeds = "",
    jobs: options.Jobs = None,
    slurm: options.Slurm = "",
    profile: options.ProfileFile = None,
    detach: options.Detach = False,
    deadline: options.Deadline = 300.0,
    dry_run: options.DryRun = False,
    separate: options.Separate = False,
    strict: options.Strict = False,
    allow_missing: options.AllowMissing = False,
    trust_pickle: options.TrustPickle = False,
    json_: options.Json = False,
) -> None:
    """Run every stage that is due, from videos to metrics.

    Example: mdfpipe run pipelines/real-walk.yaml --data DATA --run runs/walk --until manifest

    Example: mdfpipe run sysu/di2l --data SYSU-MM01 --run runs/di2l

    Example: mdfpipe run STUDY --data DATA --run runs/walk --device cuda --on slurm --jobs 16 --slurm "--gres=gpu:1"
    """
    run_stages(first, last, ctx.params)


@app.command()
def detect(
    ctx: typer.Context,
    study: options.StudyFile,
    data: options.Data,
    run: options.RunFolder,
    download_weights: options.DownloadWeights = False,
    set_: options.Set = None,
    only: options.Only = None,
    workers: options.RunWorkers = None,
    threads: options.Threads = 2,
    batch: options.Batch = 8,
    device: options.Device = "cpu",
    per_device: options.PerDevice = None,
    on: options.On = None,
    connect: options.Connect = None,
    ray: options.Ray = "",
    ray_needs: options.RayNeeds = "",
    jobs: options.Jobs = None,
    slurm: options.Slurm = "",
    profile: options.ProfileFile = None,
    detach: options.Detach = False,
    deadline: options.Deadline = 300.0,
    dry_run: options.DryRun = False,
    strict: options.Strict = False,
    allow_missing: options.AllowMissing = False,
    trust_pickle: options.TrustPickle = False,
    json_: options.Json = False,
) -> None:
    """Index the data set and detect bodies in every video.

    Example: mdfpipe detect pipelines/real-walk.yaml --data DATA --run runs/walk --set detect.stride=2
    """
    run_stages("index", "detect", ctx.params)


@app.command()
def label(
    ctx: typer.Context,
    study: options.StudyFile,
    data: options.Data,
    run: options.RunFolder,
    set_: options.Set = None,
    only: options.Only = None,
    workers: options.RunWorkers = None,
    threads: options.Threads = 2,
    batch: options.Batch = 8,
    device: options.Device = "cpu",
    per_device: options.PerDevice = None,
    on: options.On = None,
    connect: options.Connect = None,
    ray: options.Ray = "",
    ray_needs: options.RayNeeds = "",
    jobs: options.Jobs = None,
    slurm: options.Slurm = "",
    profile: options.ProfileFile = None,
    detach: options.Detach = False,
    deadline: options.Deadline = 300.0,
    dry_run: options.DryRun = False,
    strict: options.Strict = False,
    allow_missing: options.AllowMissing = False,
    trust_pickle: options.TrustPickle = False,
    json_: options.Json = False,
) -> None:
    """Label bodies by faces, crop both, write the manifest.

    It begins with the tracks of a study that has a section `track`.

    Example: mdfpipe label pipelines/real-walk.yaml --data DATA --run runs/walk --set label.min_overlap=0.7
    """
    run_stages("label", "manifest", ctx.params, tracks=True)


@app.command()
def train(
    ctx: typer.Context,
    study: options.StudyFile,
    data: options.Data,
    run: options.RunFolder,
    system: options.Systems = None,
    tensorboard: options.Tensorboard = False,
    set_: options.Set = None,
    only: options.Only = None,
    workers: options.RunWorkers = None,
    threads: options.Threads = 2,
    batch: options.Batch = 8,
    device: options.Device = "cpu",
    per_device: options.PerDevice = None,
    on: options.On = None,
    connect: options.Connect = None,
    ray: options.Ray = "",
    ray_needs: options.RayNeeds = "",
    jobs: options.Jobs = None,
    slurm: options.Slurm = "",
    profile: options.ProfileFile = None,
    detach: options.Detach = False,
    deadline: options.Deadline = 300.0,
    dry_run: options.DryRun = False,
    strict: options.Strict = False,
    allow_missing: options.AllowMissing = False,
    trust_pickle: options.TrustPickle = False,
    json_: options.Json = False,
) -> None:
    """Train the systems of a study and embed crops with each.

    Training resumes after a kill. Under `torchrun`, all processes train together.

    Example: mdfpipe train pipelines/synthetic/study.yaml --data data/study --run runs/study --system body-finetuned
    """
    run_stages("train", "embed", ctx.params)


@app.command("work")
def work(
    run: options.RunFolder,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder that holds the data set on this machine. Without it: that of the leader."),
    ] = None,
    workers: options.RunWorkers = None,
    threads: options.Threads = 2,
    batch: options.Batch = 8,
    device: options.Device = "cpu",
    per_device: options.PerDevice = None,
    wait: Annotated[float, typer.Option(min=0, help="Wait this many seconds for a leader to start.")] = 60.0,
) -> None:
    """Work for a command that runs with --on, on any machine.

    It ends when that command ends. Without a leader it waits --wait seconds and then ends with an error.

    Example: mdfpipe work --run runs/walk --device cuda:all --wait 600
    """
    from mdfpipe.running.workers.relay import work as join
    from mdfpipe.stages import Resources

    resources = Resources(workers=workers, device=device, per_device=per_device, threads=threads, batch=batch)
    join(
        run,
        resources=resources,
        data=data,
        wait_seconds=wait,
        say=lambda line: print(f"mdfpipe: {unobeyed(line)}", file=sys.stderr, flush=True),  # noqa: T201 - unbuffered
    )
