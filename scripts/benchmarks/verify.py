"""seconds per GB of `mdfpipe verify`, and what checksums cost whoever reads a table"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.material import KEY, annotate, commit_detections, make_unit, three_a_frame
from benchmarks.measure import Report, Times, expect, in_turns, in_worker

WITH, WITHOUT = "with checksums", "without"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bodies", type=int, default=600_000)
    parser.add_argument("--shard-mb", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=9)


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    size, times = in_worker(_measure, folder, options)
    seconds = median(times["verify"].wall)
    report.add(f"verify: tables and a shard, {size / 1e9:.2f} GB", seconds, "s")
    report.aim("verify", seconds / (size / 1e9), "<=", 5, "s/GB")
    report.add("reading a table with checksums against without", _ratio(times, "read"), "times")
    report.aim("the whole label stage, with checksums against without", _ratio(times, "label"), "<=", 1.02)
    report.notes.append(
        f"{options.bodies} bodies, one core, {options.rounds} rounds in turns; medians of paired ratios"
    )


def _ratio(times: dict[str, Times], what: str) -> float:
    """The median over the rounds of one against the other, in processor time."""
    pairs = zip(times[f"{what} {WITH}"].cpu, times[f"{what} {WITHOUT}"].cpu, strict=True)
    return median(one / other for one, other in pairs)


def _measure(folder: Path, options: argparse.Namespace) -> tuple[int, dict[str, Times]]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    from mdfpipe.audit.integrity import verify
    from mdfpipe.stages import Context, Resources
    from mdfpipe.stages.label import Label
    from mdfpipe.store import parquet
    from mdfpipe.store.run import Receipt, Run

    frame, bodies, faces, subject = three_a_frame(options.bodies // 3, 1920, 1080)
    run = Run(folder / "run")
    commit_detections(run, frame, bodies, 1920, 1080)
    annotated = annotate(run, frame, faces, subject)
    shard = run.scratch("crop", "shard")
    shard.write_bytes(np.random.default_rng(0).bytes(options.shard_mb << 20))
    run.commit(Receipt("crop", 1, KEY, {}, {}), pa.table({"n": [1]}), {"crop/shard.tar": shard})
    unit = make_unit(Label(), run.path, folder / "none", {"video_id": KEY}, annotated)
    context = Context(folder, Resources(), lambda name: run.scratch("label", name))
    part, sound = run.part("detect", KEY), parquet.open_table

    def read() -> Any:
        return parquet.read_table(part)

    def label() -> Any:
        made = unit.stage.process(KEY, unit.inputs, context).table
        expect("most bodies have a name", len(made) - made["subject_id"].null_count > 0.8 * len(frame), True)
        return run.commit(unit.receipt, made, {})

    def unchecked(path: Path, read_dictionary: Sequence[str] = ()) -> pq.ParquetFile:
        return pq.ParquetFile(path, read_dictionary=list(read_dictionary) or None)

    def without(task: Any) -> Any:
        parquet.open_table = unchecked  # as it was before there were checksums
        try:
            return task()
        finally:
            parquet.open_table = sound

    times = in_turns(
        options.rounds,
        **{
            "verify": lambda: verify(run.path),
            f"read {WITH}": read,
            f"read {WITHOUT}": lambda: without(read),
            f"label {WITH}": label,
            f"label {WITHOUT}": lambda: without(label),
        },
    )
    return verify(run.path).bytes, times
