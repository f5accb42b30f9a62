"""Sound files of every kind that a command reads, each with the code that reads it."""

from __future__ import annotations

import os
import random
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from damage.changes import (
    changed,
    of,
    other_cell,
    other_entry,
    other_json,
    other_json_line,
    other_receipt,
    other_yaml,
)
from damage.small import Small

Change = Callable[[bytes, random.Random], bytes]
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Reader:
    """files: name -> where its sound content lies; read: what a command does with a changed one, and which it is."""

    files: dict[str, Path]
    read: Callable[[Path, str], object]
    change: Change | None = None

    def draw(self, chance: random.Random) -> tuple[str, bytes]:
        """One of the files, and its content."""
        name = chance.choice(sorted(self.files))
        return name, self.files[name].read_bytes()

    def sound(self, folder: Path) -> None:
        """Read the first file as it is."""
        name, place = sorted(self.files.items())[0]
        path = folder / Path(name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place.read_bytes())
        self.read(path, name)


def _one(path: Path, read: Callable[[Path], object], *kinds: Change) -> Reader:
    return Reader({path.name: path}, lambda changed_path, name: read(changed_path), of(changed, *kinds))


# -- files that people hand over


def of_inputs(made: Path) -> dict[str, Reader]:
    """Every kind of file that comes from elsewhere, made below `made`."""
    made.mkdir(parents=True, exist_ok=True)
    found = _of_settings(made) | _of_vectors(made) | _of_boxes(made) | _of_benchmarks(made) | _of_weights(made)
    for suffix in (".jpg", ".png", ".tiff", ".bmp", ".webp", ".ppm"):
        path = made / f"p{suffix}"
        grey = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
        path.write_bytes(cv2.imencode(suffix, grey)[1].tobytes())
        found[f"picture {suffix}"] = _one(path, _picture)
    return found


def _picture(path: Path) -> object:
    from mdfpipe.video.decoders import Decoder
    from mdfpipe.video.probe import probe

    probe(path)
    return list(Decoder.variant("images")().frames(path))


def _of_settings(made: Path) -> dict[str, Reader]:
    from mdfpipe.config import read_yaml, validate
    from mdfpipe.protocol import Protocol, read_protocol
    from mdfpipe.study.study import Study

    (made / "beside").mkdir(exist_ok=True)
    base, study = ROOT / "pipelines/synthetic/study.yaml", made / "extends.yaml"
    study.write_text(f"extends: [{base}]\nname: more\ndetect: {{stride: 2}}\n")

    def extended(path: Path) -> object:
        """The changed file is extended by another one."""
        (path.parent / "over.yaml").write_text(f"extends: {path.name}\nname: over\n")
        return Study.load(path.parent / "over.yaml")

    def protocol(path: Path) -> object:
        return validate(Protocol, read_protocol(str(path), []), str(path))

    manifests = sorted((ROOT / "manifests").glob("*.yaml"))[:3]
    return {
        "study": _one(base, Study.load, other_yaml),
        "study that extends": _one(study, Study.load, other_yaml),
        "study that is extended": _one(base, extended, other_yaml),
        "settings": _one(base, read_yaml, other_yaml),
        "protocol": Reader(
            {path.name: path for path in manifests}, lambda path, name: protocol(path), of(changed, other_yaml)
        ),
    }


def _of_vectors(made: Path) -> dict[str, Reader]:
    from mdfpipe.running.scoring import read_vectors, score

    names = {"subject_id": ["a", "b", "a", "b"], "domain": ["VIS-500m", "VIS-500m", "SWIR-30m", "SWIR-30m"]}
    names |= {"system": ["x"] * 4, "video_id": ["v/1", "v/2", "v/3", "v/4"]}
    pq.write_table(pa.table({**names, "vector": np.eye(4, dtype=np.float32).tolist()}), made / "v.parquet")
    np.savez(
        made / "v.npz",
        allow_pickle=False,
        vector=np.eye(4, dtype=np.float32),
        **{n: np.array(v) for n, v in names.items()},
    )
    coded = {n: np.array([text.encode() for text in v]) for n, v in names.items()}
    np.savez_compressed(made / "coded.npz", allow_pickle=False, vector=np.eye(4, dtype=np.float16), **coded)

    protocol = made / "protocol.yaml"
    protocol.write_text("{name: p, gallery_domains: [VIS-500m], probe_domains: [SWIR-30m], unlisted: test}")

    def scored(path: Path) -> object:
        tables = ["tables.recognition.unmated=exclude"]
        return score(path, str(protocol), path.parent / "out", tables)

    return {
        "vectors of Parquet": _one(made / "v.parquet", read_vectors, other_cell),
        "vectors of NPZ": _one(made / "v.npz", read_vectors),
        "vectors of NPZ, coded": _one(made / "coded.npz", read_vectors),
        "vectors, scored": _one(made / "v.parquet", scored, other_cell),
    }


def _of_boxes(made: Path) -> dict[str, Reader]:
    from mdfpipe.video.detectors.precomputed import Precomputed

    rows: dict[str, list[Any]] = {
        "video": ["v1"] * 3 + ["v2"] * 2,
        "frame": [0, 1, 2, 0, 1],
        "x1": [1.0] * 5,
        "y1": [2.0] * 5,
    }
    rows |= {"x2": [30.0] * 5, "y2": [40.5] * 5, "score": [0.5, 0.25, 1.0, 0.75, 0.1]}
    pq.write_table(pa.table(rows), made / "b.parquet")
    cells = [",".join(rows), *(",".join(str(column[n]) for column in rows.values()) for n in range(5))]
    (made / "b.csv").write_text("\n".join(cells) + "\n")

    def boxes(path: Path) -> object:
        detector = Precomputed(boxes=path.name)
        detector.check(path.parent)
        said = [detector.unnamed(path.parent, "v3"), detector.beyond(path.parent, "v1", 1)]
        return said, [detector.identity(path.parent, video) for video in ("v1", "v2", "v3")]

    return {
        "boxes of Parquet": _one(made / "b.parquet", boxes, other_cell),
        "boxes of CSV": _one(made / "b.csv", boxes),
    }


def _of_benchmarks(made: Path) -> dict[str, Reader]:
    """Index files of the published benchmarks, in folders that hold one image of each place."""
    from scipy.io import savemat

    from mdfpipe.datasets import Dataset
    from mdfpipe.evaluation.benchmarks import sysu
    from mdfpipe.store.matlab import read_matlab

    savemat(made / "m.mat", {"ids": np.arange(9), "cells": np.array([[1, 2]], dtype=object)})
    savemat(made / "z.mat", {"id": np.arange(1, 4, dtype=np.uint16)[None]}, do_compression=True)
    (made / "ids.txt").write_text("1,2,3\n")
    (made / "list.txt").write_text("".join(f"Visible/{n}/a_{n}.bmp {n}\n" for n in range(3)))
    (made / "test_vis.txt").write_text("".join(f"test_vis/cam1/{n:04d}/{n}_c1_1.jpg {n}\n" for n in range(3)))
    _ = sysu

    def within(use: str, name: str, others: Sequence[tuple[str, str]], images: Sequence[str], **more: Any) -> Any:
        def read(path: Path) -> object:
            root = path.parent / "tree"
            for place in images:
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                (root / place).write_bytes(b"x")
            for place, text in others:
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                (root / place).write_text(text)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, root / name)
            return Dataset.variant(use)(**more).read(root)

        return read

    seen = [f"cam{c}/{n:04d}/0001.jpg" for c in range(1, 7) for n in range(1, 4)]
    three = [(f"exp/{part}_id.txt", "1,2,3") for part in ("train", "val", "test")]
    pictures = [f"{band}/{n}/a_{n}.bmp" for band in ("Visible", "Thermal") for n in range(3)]
    lists = [
        (f"idx/{part}_{side}_1.txt", "".join(f"{side.capitalize()}/{n}/a_{n}.bmp {n}\n" for n in numbers))
        for part, numbers in (("train", (0,)), ("test", (1, 2)))
        for side in ("visible", "thermal")
    ]
    return {
        "MATLAB": _one(made / "m.mat", lambda path: read_matlab(path, "m.mat")),
        "ids of SYSU, .mat": _one(made / "z.mat", within("sysu", "exp/test_id.mat", three[:2], seen)),
        "ids of SYSU, .txt": _one(made / "ids.txt", within("sysu", "exp/test_id.txt", three[:2], seen)),
        "list of RegDB": _one(made / "list.txt", within("regdb", "idx/train_visible_1.txt", lists, pictures, split=1)),
    }


def _of_weights(made: Path) -> dict[str, Reader]:
    import onnx
    import torch
    from onnx import TensorProto, helper
    from safetensors.torch import save_file

    from mdfpipe.inspecting.inspection import inspect
    from mdfpipe.learning.models.weights.loading import read_state
    from mdfpipe.video.detectors.onnx import Onnx

    state = {"conv.weight": torch.ones(4, 3, 1, 1), "fc.weight": torch.ones(2, 4)}
    save_file(state, made / "w.safetensors", {"made": "here"})
    torch.save({"state_dict": state, "epoch": 3, "arch": "x"}, made / "w.pth")
    torch.save(state, made / "old.pth", _use_new_zipfile_serialization=False)
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["b", 3, 64, 64])
    boxes = helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 1, 6])
    row = helper.make_tensor("rows", TensorProto.FLOAT, [1, 1, 6], [1.0, 2, 30, 40, 0.9, 0])
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["boxes"], value=row), helper.make_node("Identity", ["images"], ["same"])],
        "g",
        [image],
        [boxes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, made / "d.onnx")
    with tarfile.open(made / "weights.tar", "w") as file:
        file.add(made / "w.pth", "w.pth")

    def detects(path: Path) -> object:
        detector = Onnx(weights=path.name)
        detector.check(path.parent)
        return detector.identity(path.parent, "v")

    found = {f"weights {name}": _one(made / name, read_state) for name in ("w.safetensors", "w.pth", "old.pth")}
    found["weights w.pth"] = _one(made / "w.pth", read_state, other_entry)
    names = ("w.safetensors", "w.pth", "old.pth", "d.onnx", "weights.tar")
    found |= {f"inspect {name}": _one(made / name, inspect) for name in names}
    return found | {"detector of ONNX": _one(made / "d.onnx", detects)}


# -- files of a run folder, and of the data set that it is of


def of_runs(small: Small) -> dict[str, Reader]:
    """Every file of a run, as each command that looks at one reads it."""
    from mdfpipe.inspecting.inspection import inspect
    from mdfpipe.learning.embedding import open_model
    from mdfpipe.learning.models.weights.loading import read_state
    from mdfpipe.learning.train.checkpoint import Checkpoint
    from mdfpipe.store.run import read_receipt, read_table

    done = small.done
    last, part = done / "train/body/last.pt", done / "manifest/manifest.parquet"
    found = {
        "checkpoint": _one(last, Checkpoint.load, other_entry),
        "checkpoint, described": _one(last, lambda path: Checkpoint.load(path).describe(), other_entry),
        "network of a checkpoint": _one(last, open_model, other_entry),
        "weights of a checkpoint": _one(last, read_state, other_entry),
        "inspect a checkpoint": _one(last, inspect, other_entry),
        "receipt": _one(part, read_receipt, other_receipt),
        "table": _one(part, read_table, other_cell),
        "inspect a table": _one(part, inspect, other_receipt, other_cell),
        "inspect a shard": _one(next(done.glob("crop/*.body.tar")), inspect),
        "CSV of a table": _one(part, _csv, other_cell),
    }
    return found | _of_commands(small) | _of_data(small)


def _csv(path: Path) -> object:
    from mdfpipe.inspecting.export import to_csv

    return to_csv(path, path.with_suffix(".csv"))


def _of_commands(small: Small) -> dict[str, Reader]:
    """A command on a run of which one file is changed."""
    from dataclasses import asdict

    from mdfpipe.inspecting.inspection import inspect, inspect_and_write
    from mdfpipe.reporting.comparison import average_runs, side_by_side
    from mdfpipe.reporting.numbers import number_lines
    from mdfpipe.reporting.report import report
    from mdfpipe.reporting.scores import to_bob
    from mdfpipe.running.runner import Runner
    from mdfpipe.running.status import status
    from mdfpipe.store.results import read_results
    from mdfpipe.store.run import Run
    from mdfpipe.study.study import Study, open_run

    done = small.done
    other = small.folder / "other"
    shutil.copytree(done, other, dirs_exist_ok=True)

    def within(read: Callable[[Path], object]) -> Callable[[Path, str], object]:
        def read_there(path: Path, name: str) -> object:
            run = small.copy()
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).unlink(missing_ok=True)
            shutil.copyfile(path, run / name)
            return read(run)

        return read_there

    def truth(run: Path) -> object:
        from mdfpipe.audit.trivial import guard
        from mdfpipe.audit.truth import assignments, measure

        return measure(Run(run), small.data).lines(), assignments(Run(run), small.data), guard(Run(run)).plain()

    def due(run: Path) -> object:
        return Runner(Study.load(small.study), Run(run), small.data).due(None, None)

    def shown(run: Path) -> object:
        return asdict(status(run)), asdict(inspect(run)), open_run(run)

    def scores(run: Path) -> object:
        return to_bob(next((run / "evaluate/scores").iterdir()), run / "scores.txt")

    def numbers(run: Path) -> object:
        return number_lines(read_results(run))

    failed = small.folder / "failed.json"
    failed.write_text('{"stage": "label", "key": "x", "kind": "DataError", "message": "m", "traceback": ""}')
    parts = {path.relative_to(done).as_posix(): path for path in sorted(done.rglob("*.parquet"))}
    failures = {f"{Path(n).parent}/failed/{Path(n).stem}.json": failed for n in parts if n.startswith(("detect", "la"))}
    yaml, environment = {"pipeline.yaml": done / "pipeline.yaml"}, {"environment.json": done / "environment.json"}
    evaluated = {name: path for name, path in parts.items() if name.startswith("evaluate")}
    every = {path.relative_to(done).as_posix(): path for path in sorted(done.rglob("*")) if _is_kept(path)}
    trained = {"train/body/metrics.jsonl": done / "train/body/metrics.jsonl"}
    html = small.folder / "page.html"
    return {
        "pipeline.yaml": Reader(yaml, within(shown), of(changed, other_yaml)),
        "environment.json": Reader(environment, within(shown), of(changed, other_json)),
        "events.jsonl": Reader({"events.jsonl": done / "events.jsonl"}, within(shown), of(changed, other_json_line)),
        "failed/*.json": Reader(failures, within(shown), of(changed, other_json)),
        "numbers": Reader(evaluated, within(numbers), of(changed, other_receipt, other_cell)),
        "status": Reader(parts, within(shown), of(changed, other_receipt, other_cell)),
        "due": Reader(parts, within(due), of(changed, other_receipt, other_cell)),
        "report, a table": Reader(evaluated, within(report), of(changed, other_receipt, other_cell)),
        "report, metrics.jsonl": Reader(trained, within(report), of(changed, other_json_line)),
        "report, any file": Reader(every, within(report)),
        "page, a table": Reader(
            parts, within(partial(inspect_and_write, html=html)), of(changed, other_receipt, other_cell)
        ),
        "compare": Reader(
            evaluated, within(lambda run: side_by_side(run, [other])), of(changed, other_receipt, other_cell)
        ),
        "average": Reader(evaluated, within(lambda run: _mean(average_runs, run, other)), of(changed, other_cell)),
        "scores": Reader({n: p for n, p in parts.items() if "/scores/" in n}, within(scores), of(changed, other_cell)),
        "truth": Reader(parts, within(truth), of(changed, other_receipt, other_cell)),
    }


def _mean(average_runs: Callable[[Sequence[Path]], object], run: Path, other: Path) -> object:
    from mdfpipe.errors import ProtocolError

    try:
        return average_runs([run, other])
    except ProtocolError:  # two runs of one split
        return None


def _is_kept(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _of_data(small: Small) -> dict[str, Reader]:
    from mdfpipe.study.study import Study

    def of_table(name: str) -> Reader:
        def within(path: Path) -> object:
            data = small.folder / "fuzz-data"
            shutil.rmtree(data, ignore_errors=True)
            shutil.copytree(small.data, data, copy_function=os.link)
            (data / name).unlink()
            shutil.copyfile(path, data / name)
            return Study.load(small.study).dataset.read(data)

        return _one(small.data / name, within)

    def of_video(path: Path) -> object:
        from mdfpipe.video.decoders import Decoder
        from mdfpipe.video.probe import probe

        probe(path)
        return [f.index for f in Decoder.variant("pyav")().frames(path)]

    tables = sorted(path.relative_to(small.data).as_posix() for path in small.data.rglob("*.csv"))
    found = {f"table of the data set {Path(name).name}": of_table(name) for name in tables}
    videos = sorted(path for path in small.data.rglob("*-a01.*") if path.suffix in (".mkv", ".mp4"))
    return found | {f"video {path.suffix} {path.parent.name}": _one(path, of_video) for path in videos[::2]}
