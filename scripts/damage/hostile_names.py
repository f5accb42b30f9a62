"""Hostile names and texts: what becomes a file, a line of a terminal, a cell of a table or a page."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from damage.small import Small, command

from mdfpipe.errors import is_obeyed

NAMES = (
    *("../../../P", "x/../../../P", "/P", "../P", "a\0b", "\x1b]0;P\a", "\x1b[2J", "\u202egnp.P", "\u2066x\u2069"),
    *("C:\\P", "~/P", "con", "." * 300, "", "..", ".", " ", "\n\n", "x\r\ny", "<script>alert(1)</script>", "\u0085"),
    *("[red]x[/red]", "{{7*7}}", "$(touch P)", "`id`", "\\input{/etc/passwd}", "=1+1", "x" * 100_000, "é" * 150),
    *("\u200b", "\ufeffx", "%s%n", "--out=P", "-rf", "a\tb", "\ud800".encode(errors="surrogatepass").decode("latin-1")),
)
PROTOCOL = (
    "{name: p, unlisted: test, domains: [VIS-500m, SWIR-30m], gallery_domains: [VIS-500m], probe_domains: [SWIR-30m]}"
)


def load() -> None:
    """Import what the commands of this file import."""
    import mdfpipe.inspecting.inspection
    import mdfpipe.reporting.report
    import mdfpipe.running.scoring  # noqa: F401


def told(*words: object) -> str:
    """What a command prints; it must be of a documented end, with nothing that a terminal obeys. Raises."""
    code, said = command(*words, both=True)
    if code not in (0, 2, 3) or "Traceback" in said or "unexpected error" in said:
        raise RuntimeError(f"exit {code}: {said[-1200:]}")
    if is_obeyed(said):
        raise RuntimeError(f"a terminal obeys {said!r:.600}")
    if len(said) > 2_000_000:
        raise RuntimeError(f"{len(said)} characters were printed")
    return said


def in_vectors(column: str) -> Callable[[Small, Path, str], object]:
    """That name in a column of a file of vectors, which is evaluated, reported and compared."""

    def tried(small: Small, folder: Path, name: str) -> object:
        rows = {"subject_id": ["a", "b"] * 2, "domain": ["VIS-500m"] * 2 + ["SWIR-30m"] * 2, "system": ["s"] * 4}
        rows |= {"video_id": ["v1", "v2", "v3", "v4"], "template_id": ["t1", "t2", "t3", "t4"]}
        rows[column] = [name] * 4 if column == "system" else [name, *rows[column][1:]]
        table = pa.table({**rows, "vector": np.eye(4, dtype=np.float32).tolist()})
        pq.write_table(table, folder / "v.parquet")
        (folder / "p.yaml").write_text(PROTOCOL)
        base = ("eval", "--embeddings", folder / "v.parquet", "--protocol", folder / "p.yaml")
        told(*base, "--out", folder / "out", "--set", "tables.t.unmated=exclude")
        if (folder / "out").is_dir():
            told("report", folder / "out")
        return told("inspect", folder / "v.parquet")

    return tried


def in_npz(small: Small, folder: Path, name: str) -> object:
    """Members of an archive of that name, and texts of its arrays."""
    rows = {"subject_id": np.array([name, "b", name, "b"]), "vector": np.eye(4, dtype=np.float32)}
    rows |= {"domain": np.array(["VIS-500m"] * 2 + ["SWIR-30m"] * 2)}
    np.savez(folder / "v.npz", allow_pickle=False, **rows)
    with zipfile.ZipFile(folder / "v.npz", "a") as archive:
        archive.writestr(name or "x", b"x")
    (folder / "p.yaml").write_text(PROTOCOL)
    base = ("eval", "--embeddings", folder / "v.npz", "--protocol", folder / "p.yaml")
    return told(*base, "--out", folder / "out", "--set", "tables.t.unmated=exclude")


def in_data(column: int) -> Callable[[Small, Path, str], object]:
    """That text in a cell of the faces' table, of subjects, videos and numbers."""

    def tried(small: Small, folder: Path, name: str) -> object:
        data = folder / "data"
        shutil_link(small.data, data)
        place = next(path for path in data.rglob("*.csv") if "face" in path.name)
        with place.open(newline="") as file:
            rows = list(csv.reader(file))
        rows[2][column] = name
        place.unlink()
        with place.open("w", newline="", errors="surrogatepass") as file:
            csv.writer(file).writerows(rows)
        return told("index", small.study, "--data", data, "--run", folder / "run")

    return tried


def shutil_link(source: Path, target: Path) -> None:
    """A copy whose files are links."""
    import os
    import shutil

    shutil.copytree(source, target, copy_function=os.link)


def in_study(text: str) -> Callable[[Small, Path, str], object]:
    """That name in a study. text: what stands behind the study's own, with NAME in it."""

    def tried(small: Small, folder: Path, name: str) -> object:
        quoted = json.dumps(name)
        (folder / "s.yaml").write_text(f"extends: {small.study}\n" + text.replace("NAME", quoted) + "\n")
        return told("run", folder / "s.yaml", "--data", small.data, "--run", folder / "run", "--dry-run")

    return tried


def in_video_name(small: Small, folder: Path, name: str) -> object:
    """A video of that file name, of which an inspection is asked for; and a folder with one."""
    safe = name.replace("/", "_").replace("\0", "_")[:60] or "x"
    place = folder / "data" / f"{safe}.mp4"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"no video")
    told("inspect", place)
    return told("inspect", place.parent)


def in_page(small: Small, folder: Path, name: str) -> object:
    """A title and a column of that name on the page of a table, and a file's metadata."""
    table = pa.table({name: [name, "x"], "y": [1.0, 2.0]}).replace_schema_metadata({name.encode("utf-8"): name})
    pq.write_table(table, folder / "t.parquet")
    told("inspect", folder / "t.parquet")
    told("inspect", folder / "t.parquet", "--csv", folder / "t.csv")
    return told("inspect", folder / "t.parquet", "--html", folder / "t.html")


def in_checkpoint(small: Small, folder: Path, name: str) -> object:
    """Entries and tensors of that name in weights."""
    import torch
    from safetensors.torch import save_file

    torch.save({name: torch.ones(2), "epoch": name, "arch": {name: name}}, folder / "w.pt")
    save_file({name or "x": torch.ones(2)}, folder / "w.safetensors", {name or "x": name})
    told("inspect", folder / "w.pt", "--html", folder / "w.html")
    return told("inspect", folder / "w.safetensors")


def in_events(small: Small, folder: Path, name: str) -> object:
    """Lines of a run's log, of its failures and of its environment with that text."""
    run = small.copy(place=folder / "run")
    event = {"time": 1.0, "event": "failed", "stage": "detect", "key": name, "kind": name, "message": name}
    (run / "events.jsonl").write_text((run / "events.jsonl").read_text() + json.dumps(event) + "\n")
    (run / "detect" / "failed").mkdir()
    failed = {"stage": "detect", "key": name, "kind": name, "message": name, "traceback": name}
    (run / "detect" / "failed" / "x.json").write_text(json.dumps(failed))
    part = next((run / "detect").glob("*.parquet"))
    (run / "detect" / "failed" / f"{part.stem}.json").write_text(json.dumps(failed))
    told("status", run)
    return told("report", run)


KINDS = {
    **{f"vectors, {name}": in_vectors(name) for name in ("subject_id", "domain", "system", "video_id", "template_id")},
    "vectors of NPZ": in_npz,
    "subject of the data": in_data(0),
    "video of the data": in_data(1),
    "number of the data": in_data(2),
    "name of a study": in_study("name: NAME"),
    "name of a system in a study": in_study("systems: {NAME: {recipe: {use: body}}}"),
    "name of a sweep in a study": in_study("sweeps: {NAME: {system: body, values: {seed: [1, 2]}}}"),
    "name of a table in a study": in_study("evaluate: {tables: {NAME: {unmated: exclude}}}"),
    "name of a fusion in a study": in_study("evaluate: {fusions: {NAME: {systems: [body, body]}}}"),
    "protocol of a study": in_study("manifest: {protocol: NAME}"),
    "weights of a study": in_study("detect: {detector: {use: yolo, weights: NAME}}"),
    "videos of a study": in_study("dataset: {videos: [NAME]}"),
    "name of a video": in_video_name,
    "names of a table's columns": in_page,
    "names in weights": in_checkpoint,
    "texts of a run": in_events,
}
