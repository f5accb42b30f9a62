"""Run folders of somebody else: receipts that name files of others, links, shards and texts that want harm."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from damage.hostile_names import told
from damage.small import Small

from mdfpipe.store.run import read_receipt

COMMANDS = ("status", "report", "inspect", "verify")
_OUTSIDE = ("../../P", "detect/../../../P")
LOCK = json.dumps({"host": "NAME", "machine": "", "boot": "x", "space": "", "pid": 1, "began": "", "job": "NAME"})
LOCK = LOCK.replace('"NAME"', "NAME")  # which becomes the case's
DEEP = "[" * 100_000


def resealed(path: Path, change: Callable[[dict[str, Any]], object], rows: Callable[..., Any] | None = None) -> None:
    """Change the receipt (and the rows) of a part, and say that it fits."""
    from mdfpipe.store.parquet import write_table
    from mdfpipe.store.run import fingerprint

    table = pq.read_table(io.BytesIO(path.read_bytes()))
    metadata = dict(table.schema.metadata or {})
    receipt = json.loads(metadata[b"mdfpipe"])
    change(receipt)
    decisive = [receipt.get(name) for name in ("stage", "version", "key", "settings", "upstream")]
    receipt["fingerprint"] = fingerprint(decisive)
    path.unlink()
    table = (rows(table) if rows else table).replace_schema_metadata({})
    write_table(path, table, {**metadata, b"mdfpipe": json.dumps(receipt).encode()})


def of_run(change: Callable[[Path, str], object]) -> Callable[[Small, Path, str], object]:
    """A run of which something is changed, looked at by a command, and run again."""

    def tried(small: Small, folder: Path, name: str) -> object:
        run = small.copy(place=folder / "run")
        change(run, name)
        told(random.Random(name).choice(COMMANDS), run)  # noqa: S311 - to be drawn again
        for stage in ("embed", "evaluate"):  # so that something of it is read and written again
            place = run / stage
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
        return told("run", small.study, "--data", small.data, "--run", run, "--threads", 1)

    return tried


def names_file(stage: str, target: str) -> Callable[[Path, str], object]:
    """A receipt names a file of others as its own; it is due, so that what it names would be removed."""

    def change(run: Path, name: str) -> None:
        part = next(path for path in sorted((run / stage).rglob("*.parquet")) if read_receipt(path))

        def wants(receipt: dict[str, Any]) -> None:
            receipt["files"][target] = [16, "0" * 64]
            receipt["settings"]["x"] = 1

        resealed(part, wants)

    return change


def linked(place: str, to: str) -> Callable[[Path, str], object]:
    """A file or folder of the run is a link to one outside."""

    def change(run: Path, name: str) -> None:
        target = run / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        target.symlink_to(run.parent.parent / to)

    return change


def deep(place: str) -> Callable[[Path, str], object]:
    """A file is JSON whose brackets have no end."""

    def change(run: Path, name: str) -> None:
        (run / place).parent.mkdir(parents=True, exist_ok=True)
        (run / place).unlink(missing_ok=True)
        (run / place).write_text(DEEP)

    return change


def said(path: str, text: str) -> Callable[[Path, str], object]:
    """A file of the run holds this; NAME in it is the case's."""

    def change(run: Path, name: str) -> None:
        (run / path).parent.mkdir(parents=True, exist_ok=True)
        (run / path).unlink(missing_ok=True)
        (run / path).write_text(text.replace("NAME", json.dumps(name)))

    return change


def _receipt_of_everything(run: Path, name: str) -> None:
    """Settings, facts and upstream of a receipt are that text."""

    def change(receipt: dict[str, Any]) -> None:
        receipt["facts"] = {**receipt["facts"], name: name, "notes": [name], "told": name}
        receipt["settings"] = {name: {name: name}}
        receipt["upstream"] = {name: name, "../../P": name}

    for path in sorted((run / "detect").glob("*.parquet")):
        resealed(path, change)


def _shard_of_names(run: Path, name: str) -> None:
    """A shard whose members climb out."""
    shard = next(run.glob("crop/*.body.tar"))
    shard.unlink()
    with tarfile.open(shard, "w") as archive:
        for member in ("../../../P", "/P", name or "x"):
            head = tarfile.TarInfo(member[:90])
            head.size = 4
            archive.addfile(head, io.BytesIO(b"harm"))
    told("inspect", shard)


def _crops(column: str, value: int) -> Callable[[Path, str], object]:
    """The table of crops, and the manifest, place a crop at impossible bytes."""

    def rows(table: pa.Table) -> pa.Table:
        field = table.schema.field(column)
        return table.set_column(
            table.column_names.index(column), field, pa.array([value] * len(table)).cast(field.type, safe=False)
        )

    def change(run: Path, name: str) -> None:
        for path in (*run.glob("crop/*.parquet"), run / "manifest/manifest.parquet"):
            resealed(path, lambda receipt: None, rows)

    return change


def _shards_elsewhere(run: Path, name: str) -> None:
    """The table of crops names a shard outside."""

    def rows(table: pa.Table) -> pa.Table:
        at = table.column_names.index("shard")
        return table.set_column(at, table.schema.field("shard"), pa.array(["../../../P"] * len(table)))

    for path in (*run.glob("crop/*.parquet"), run / "manifest/manifest.parquet"):
        resealed(path, lambda receipt: None, rows)


def _numbers(run: Path, name: str) -> None:
    """Names of tables, systems and domains in the numbers."""
    path = run / "evaluate/metrics.json"
    found = json.loads(path.read_text())
    text = json.dumps(found).replace('"body"', json.dumps(name)).replace('"recognition"', json.dumps(f"t {name}"))
    path.unlink()
    path.write_text(text)


def _device(place: str) -> Callable[[Path, str], object]:
    """A file is a link to what has no end."""

    def change(run: Path, name: str) -> None:
        (run / place).parent.mkdir(parents=True, exist_ok=True)
        (run / place).unlink(missing_ok=True)
        (run / place).symlink_to("/dev/zero")

    return change


def _pipe(place: str) -> Callable[[Path, str], object]:
    """A file is a pipe that nobody writes to."""

    def change(run: Path, name: str) -> None:
        (run / place).parent.mkdir(parents=True, exist_ok=True)
        (run / place).unlink(missing_ok=True)
        os.mkfifo(run / place)

    return change


_READ = ("environment.json", "events.jsonl", "evaluate/metrics.json", "train/body/metrics.jsonl", "label/failed/x.json")

KINDS: dict[str, Callable[[Small, Path, str], object]] = {
    **{
        f"receipt that names {target}": of_run(names_file("detect", target))
        for target in ("../../P", "detect/../../../P")
    },
    "receipt that names /": of_run(lambda run, name: names_file("embed/body", f"{run.parent.parent}/P")(run, name)),
    "receipt of weights that names others": of_run(names_file("train/body", "train/body/../../../../P")),
    "receipt of numbers that names others": of_run(names_file("evaluate", "../../P")),
    "receipt of the index that names others": of_run(names_file("index", "index/../../../P.parquet")),
    "receipt of orders": of_run(_receipt_of_everything),
    "link for the log": of_run(linked("events.jsonl", "P")),
    "link for the environment": of_run(linked("environment.json", "P")),
    "link for the study": of_run(linked("pipeline.yaml", "P")),
    "link for a traceback": of_run(linked("traceback.txt", "P")),
    "link for the lock": of_run(linked(".lock", "P")),
    "link for a stage": of_run(linked("embed", "theirs")),
    "link for numbers": of_run(linked("evaluate", "theirs")),
    "link for the report": of_run(linked("evaluate/report/report.html", "P")),
    "link for a folder of reports": of_run(linked("evaluate/report", "theirs")),
    "link for failures": of_run(linked("detect/failed", "theirs")),
    "link for a part": of_run(linked("evaluate/metrics.parquet", "P.parquet")),
    "link for a state": of_run(linked("train/body/state.pt", "P")),
    "link in a circle": of_run(linked("train", "b/run/train")),
    **{f"brackets in {place}": of_run(deep(place)) for place in _READ},
    **{
        f"device for {place}": of_run(_device(place)) for place in (*_READ, "pipeline.yaml", "evaluate/metrics.parquet")
    },
    **{f"pipe for {place}": of_run(_pipe(place)) for place in (*_READ, "pipeline.yaml", "evaluate/metrics.parquet")},
    "brackets in a lock": of_run(deep(".lock-000009")),
    "lock of a process of another machine": of_run(said(".lock-000009", LOCK)),
    "study of a run that extends /etc/passwd": of_run(said("pipeline.yaml", "extends: [/etc/passwd]\nname: NAME\n")),
    "environment of orders": of_run(
        said("environment.json", '{"data": NAME, "argv": [NAME], "version": NAME, "packages": {"x": NAME}}')
    ),
    "shard whose members climb out": of_run(_shard_of_names),
    "crops of a terabyte": of_run(_crops("size", 1 << 40)),
    "crops before the start": of_run(_crops("offset", -(1 << 40))),
    "crops of shards outside": of_run(_shards_elsewhere),
    "numbers of orders": of_run(_numbers),
}
