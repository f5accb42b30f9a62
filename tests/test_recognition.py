"""What each system of a run recognises, from vectors that the test wrote."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mdfpipe.config import validate
from mdfpipe.pipeline import Pipeline
from mdfpipe.recognition import Recognised, recognise, recognition_lines
from mdfpipe.stages.embed import Embed
from mdfpipe.stages.train import Train
from mdfpipe.store.run import Receipt, Run
from mdfpipe.store.tables import CROPS, MANIFEST, TRAINING, embeddings
from tests.evaluation.test_recognition import written_out
from tests.systems import FACE, STRIPED, loaded, study

DOMAINS = ("VIS-500m", "SWIR-30m", "LWIR-30m")
PROTOCOL = {"name": "p", "gallery_domains": ["VIS-500m"], "probe_domains": ["SWIR-30m", "LWIR-30m"]}
Row = tuple[str, str, str]


class Made:
    """A run folder with a manifest, and the vectors of its systems."""

    def __init__(self, path: Path, systems: dict[str, Any], subjects: int = 5, crops: int = 3) -> None:
        self.run = Run(path)
        self.pipeline = validate(Pipeline, study(systems, manifest={"protocol": PROTOCOL}), "study")
        self.rows: dict[str, list[str]] = {}  # video_id -> crop_ids
        rows = []
        for domain in DOMAINS:
            for subject in range(subjects):
                if (domain, subject) == ("VIS-500m", 0):
                    continue  # its probes have no mate
                video = f"videos/{domain}/{subject}"
                self.rows[video] = [f"{video}/{n:06d}/00" for n in range(crops)]
                role = "gallery" if domain == "VIS-500m" else "probe"
                for number, crop_id in enumerate(self.rows[video]):
                    rows.append(self._row(crop_id, video, f"s{subject}", domain, role, number))
                receipt = Receipt("crop", 1, video, {}, {"label": "x"})
                self.run.commit(receipt, CROPS.empty_table(), {})
        columns = []
        for field in MANIFEST:
            plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            values = pa.array([row.get(field.name) for row in rows], plain)
            columns.append(values.dictionary_encode().cast(field.type) if plain != field.type else values)
        self.run.commit(Receipt("manifest", 1, "manifest", {}, {}), pa.table(columns, schema=MANIFEST), {})

    @staticmethod
    def _row(crop_id: str, video: str, subject: str, domain: str, role: str, frame: int) -> dict[str, Any]:
        known = {"crop_id": crop_id, "subject_id": subject, "domain": domain, "video_id": video, "role": role}
        band = domain.partition("-")[0]
        box = {"x1": 0.0, "y1": 0.0, "x2": 9.0, "y2": 9.0, "box_height_px": 9.0}
        return known | box | {"band": band, "frame": frame, "modality": "body", "split": "test"}

    def train(self, system: str, weights: bytes = b"weights", **facts: Any) -> Receipt:
        """A training whose checkpoint holds these bytes."""
        stage = Train(system=system, settings=self.pipeline.systems[system])
        path = self.run.scratch(stage.name, "last.pt")
        path.write_bytes(weights)
        receipt = Receipt(stage.name, 1, "training", stage.decisive(), {}, facts=facts)
        return self.run.commit(receipt, TRAINING.empty_table(), {f"{stage.name}/last.pt": path})

    def embed(self, system: str, video: str, vectors: np.ndarray[Any, Any], usable: list[bool]) -> None:
        """The vectors of a video, by the weights that lie there now."""
        stage = Embed(system=system, settings=self.pipeline.systems[system])
        training = self.run.receipt(f"train/{system}", "training")
        crop = self.run.receipt("crop", video)
        assert training is not None
        assert crop is not None
        upstream = {
            "crop": crop.fingerprint,
            "manifest": "m",
            training.stage: stage.slice_of(training, self.run, video),
        }
        schema = embeddings(vectors.shape[1])
        found = [v if good else None for v, good in zip(vectors.tolist(), usable, strict=True)]
        status = (
            pa.array(["ok" if good else "unreadable" for good in usable]).dictionary_encode().cast(schema.field(2).type)
        )
        table = pa.table([pa.array(self.rows[video]), pa.array(found, schema.field(1).type), status], schema=schema)
        self.run.commit(Receipt(stage.name, 1, video, stage.decisive(), upstream), table, {})


@pytest.fixture
def made(tmp_path: Path) -> tuple[Made, list[Row], np.ndarray[Any, Any], list[bool]]:
    """A system `a` with vectors of every video; `f` and `none` have none."""
    systems = {"a": {"recipe": STRIPED}, "f": {"recipe": loaded(FACE)}, "none": {"recipe": loaded()}}
    run = Made(tmp_path / "run", systems)
    run.train("a", notes=["a note"])
    run.train("f")
    generator = np.random.default_rng(5)
    rows: list[Row] = []
    every, flags = [], []
    for video, crops in run.rows.items():
        _, domain, subject = video.split("/")
        own = np.zeros(8)
        own[int(subject)] = 1.5
        vectors = (own + generator.normal(0, 1, (len(crops), 8))).astype(np.float32)
        usable = (generator.random(len(crops)) > 0.2).tolist()
        run.embed("a", video, vectors, usable)
        rows += [(f"s{subject}", domain, video)] * len(crops)
        every.append(vectors)
        flags += usable
    return run, rows, np.concatenate(every), flags


def test_it_is_what_is_written_out(made: Any) -> None:
    run, rows, vectors, usable = made
    (one,) = recognise(run.run, run.pipeline)
    assert (one.system, one.modality, one.crops, one.notes) == ("a", "body", sum(usable), ("a note",))
    expected = [written_out(rows, vectors, usable, "VIS-500m", probe, "cosine") for probe in DOMAINS[1:]]
    assert [(h.k, h.n, h.unmated, h.enrolled) for h in one.hits[:2]] == expected
    assert all(h.unmated == 1 for h in one.hits[:2])
    assert (one.hits[2].probe, one.hits[2].n) == ("pooled", sum(e[1] for e in expected))
    between = written_out(rows, vectors, usable, "SWIR-30m", "LWIR-30m", "cosine")
    assert [(h.gallery, h.probe, h.k, h.n, h.unmated, h.enrolled) for h in one.between] == [
        ("SWIR-30m", "LWIR-30m", *between)
    ]
    assert json.loads(json.dumps(one.plain()))["hits"][0]["enrolled"] == 4


def test_vectors_of_other_weights_settings_or_crops_do_not_count(made: Any) -> None:
    """A mixture of old and new vectors would give a number of no system at all."""
    run, rows, vectors, usable = made
    video = "videos/LWIR-30m/3"
    receipt = run.run.receipt("embed/a", video)
    table = run.run.table("embed/a", video)
    spoiled = [
        replace(receipt, settings={**receipt.settings, "splits": ["test"]}),
        replace(receipt, upstream={**receipt.upstream, "train/a": "others"}),
        replace(receipt, upstream={**receipt.upstream, "crop": "others"}),
    ]
    kept = [n for n, row in enumerate(rows) if row[2] != video]
    for other in spoiled:
        run.run.commit(other, table, {})
        (one,) = recognise(run.run, run.pipeline)
        assert one.notes == ("a note", "1 of 14 test videos have no vectors of these weights and settings")
        assert one.crops == sum(usable[n] for n in kept)
        expected = written_out(
            [rows[n] for n in kept], vectors[kept], [usable[n] for n in kept], "VIS-500m", "LWIR-30m", "cosine"
        )
        assert (one.hits[1].k, one.hits[1].n, one.hits[1].unmated, one.hits[1].enrolled) == expected
    run.train("a", b"other weights")
    assert recognise(run.run, run.pipeline) == []


def test_lines_stand_in_columns(made: Any) -> None:
    run, *_ = made
    (one,) = recognise(run.run, run.pipeline)
    long = replace(one, system="a-name-that-is-longer-than-most-of-them")
    empty = replace(one, system="x", hits=(replace(one.hits[0], k=0, n=0, enrolled=0),), between=(), notes=())
    lines = recognition_lines([one, long, empty])
    ends = {len(line) for line in lines if "note: " not in line}
    assert len(ends) == 1
    assert lines[0].split() == ["system", "modality", "gallery", "probes", "rank-1", "95", "%", "chance", "unmated"]
    assert lines[1].split()[:5] == ["a", "body", "VIS-500m", "SWIR-30m", f"{one.hits[0].k}/{one.hits[0].n}"]
    assert lines[-1].split() == ["x", "body", "VIS-500m", "SWIR-30m", "0/0", "-", "-", "-", "1"]
    assert sum("note: a note" in line for line in lines) == 2


def test_nothing_without_roles_or_a_manifest(made: Any, tmp_path: Path) -> None:
    run, *_ = made
    systems = {"a": {"recipe": STRIPED}}
    assert (
        recognise(run.run, validate(Pipeline, study(systems, manifest={"protocol": {"name": "no-roles"}}), "s")) == []
    )
    assert recognise(Run(tmp_path / "nothing"), run.pipeline) == []
    found: list[Recognised] = []
    assert len(recognition_lines(found)) == 1


def test_vectors_are_read_video_by_video(tmp_path: Path) -> None:
    """Memory holds the vectors of one video, however many there are."""

    def peak(path: Path, crops: int) -> int:
        run = Made(path, {"a": {"recipe": STRIPED}}, subjects=6, crops=crops)
        run.train("a")
        generator = np.random.default_rng(0)
        for video in run.rows:
            run.embed("a", video, generator.normal(0, 1, (crops, 512)).astype(np.float32), [True] * crops)
        pa.default_memory_pool().release_unused()
        tracemalloc.start()
        recognise(run.run, run.pipeline)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few, many = peak(tmp_path / "few", 40), peak(tmp_path / "many", 400)
    one_video = 400 * 512 * 4
    assert many - few < 4 * one_video  # 17 videos of it: 14 MB
