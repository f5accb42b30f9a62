"""Frames a second of the detect stage with 1, 2 and 4 workers on one device. A step of `scripts/gpu-check`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import expect, mdfpipe
from benchmarks.noop import many_videos

STUDY = "study.yaml"


def main(device: str, videos: int) -> None:
    rows: list[tuple[str, float, str]] = []
    with tempfile.TemporaryDirectory(prefix="mdfpipe-workers-") as name:
        folder = Path(name)
        many_videos(folder / "data", max(videos, 4))
        text = (Path(__file__).parents[1] / "tests" / "drawn" / STUDY).read_text()
        (folder / STUDY).write_text(text.replace("{use: precomputed, boxes: boxes.csv}", "{use: yolo, weights: demo}"))
        for workers in (1, 2, 4)[: 2 if videos < 10 else 3]:
            run = folder / f"run{workers}"
            ways = ["--device", "cuda:0", "--per-device"] if device == "cuda" else ["--device", "cpu", "--workers"]
            call: list[str | Path] = [
                "detect",
                folder / STUDY,
                "--data",
                folder / "data",
                "--run",
                run,
                "--threads",
                "1",
            ]
            started = time.perf_counter()
            mdfpipe(*call, *ways, str(workers), "--json")
            seconds = time.perf_counter() - started
            events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
            done = [e for e in events if e["event"] == "finished" and e["stage"] == "detect"]
            expect("videos", len(done), max(videos, 4))
            rows.append(
                (f"{workers} workers on a device: frames a second, start-up included", 6 * len(done) / seconds, "")
            )
    notes = [f"{max(videos, 4)} drawn videos of 6 frames, the demo detector, {os.cpu_count()} cores"]
    print(json.dumps({"rows": rows, "targets": [], "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
