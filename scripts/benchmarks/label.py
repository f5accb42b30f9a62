"""the labelling kernel on one core, and the whole label stage"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.material import KEY, annotate, commit_detections, make_unit, three_a_frame
from benchmarks.measure import Report, Times, expect, in_turns, in_worker, profiled

KERNEL = "kernel (per_detection, arrays in and out)"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bodies", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    times, profile = in_worker(_label, folder, options)
    n = options.bodies
    for name, measured in times.items():
        report.add(name, measured.rate(n), "bodies/s")
    report.aim("kernel on one core", times[KERNEL].rate(n), ">=", 1e6, "bodies/s")
    report.notes.append(f"{n} bodies, 3 bodies and 3 faces a frame, one core, {options.rounds} rounds")
    report.profile = profile


def _label(folder: Path, options: argparse.Namespace) -> tuple[dict[str, Times], list[str]]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import numpy as np
    import pyarrow as pa

    pa.set_cpu_count(1)
    from mdfpipe.stages import Context, Resources
    from mdfpipe.stages.label import Label
    from mdfpipe.store.run import Run
    from mdfpipe.store.tables import LabelStatus
    from mdfpipe.video.labelling import LabelRules, label_bodies

    frame, bodies, faces, subject = three_a_frame(options.bodies // 3, 1920, 1080)
    run = Run(folder / "run")
    commit_detections(run, frame, bodies, 1920, 1080)
    annotated = annotate(run, frame, faces, subject)
    unit = make_unit(Label(), run.path, folder / "none", {"video_id": KEY}, annotated)
    context = Context(folder, Resources(), lambda name: run.scratch("label", name))
    unaligned = Label(check_alignment=False)
    made = unit.stage.process(KEY, unit.inputs, context)
    kernel_in = (frame, np.ascontiguousarray(bodies), frame, np.ascontiguousarray(faces), subject)
    named = len(frame) - made.table["subject_id"].null_count
    kernel = label_bodies(*kernel_in, rules=LabelRules())
    expect("bodies that the stage names, against the kernel", named, kernel.counts()[LabelStatus.LABELLED])
    expect("most bodies have a name", named > 0.8 * len(frame), True)

    def stage() -> None:
        run.commit(unit.receipt, unit.stage.process(KEY, unit.inputs, context).table, {})

    times = in_turns(
        options.rounds,
        **{
            KERNEL: lambda: label_bodies(*kernel_in, rules=LabelRules()),
            "stage (Parquet in, Parquet out)": stage,
            "of it: process without the check of alignment": lambda: unaligned.process(KEY, unit.inputs, context),
            "of it: reading bodies and faces": lambda: (unit.inputs.table("detect"), unit.inputs.faces()),
            "of it: commit": lambda: run.commit(unit.receipt, made.table, {}),
        },
    )
    return times, profiled(stage) if options.profile else []
