"""embed: vectors of the right crops by the right weights, the same whatever the machine does, and made once."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import weakref
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch

from mdfpipe.inspecting.things import describe_run
from mdfpipe.learning.data.batches import CropBatch
from mdfpipe.learning.data.crops import from_crops
from mdfpipe.learning.data.loader import CropReader
from mdfpipe.learning.embedders import CPU_BATCH, TorchEmbedder
from mdfpipe.learning.embedding import embed, open_model
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.recipes.body import UNNAMED, Body
from mdfpipe.running.plan import Plan
from mdfpipe.running.status import status
from mdfpipe.store.run import Run
from mdfpipe.store.shards import ShardWriter
from mdfpipe.store.tables import embeddings
from tests.runs import call_here
from tests.systems import (
    FACE,
    STRIPED,
    VIDEOS,
    VIT,
    body,
    checkpoint,
    copied,
    digests,
    due,
    facts,
    loaded,
    runner,
    train,
    vectors,
    write_study,
)

TEST, DEEP = "videos/VIS-500m_b", "videos/LWIR-30m_b"


@pytest.fixture(scope="module")
def embedded(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and embedded body system `a`, and a face system `f`, which nobody changes."""
    home = copied(labelled, tmp_path_factory.mktemp("embedded") / "home")
    assert train(home, SYSTEMS)[0].complete
    return home


SYSTEMS: dict[str, Any] = {"a": {"recipe": STRIPED}, "f": {"recipe": loaded(FACE), "splits": ["test"]}}


# -- what is embedded


def test_every_crop_of_the_split_has_a_vector(embedded: Path) -> None:
    run = Run(embedded / "run")
    manifest = run.table("manifest", "manifest").to_pylist()
    for system, modality, width, splits in (("a", "body", 64, ("train", "test")), ("f", "face", 512, ("test",))):
        for video in VIDEOS:
            rows = run.table(f"embed/{system}", video)
            assert rows.schema.equals(embeddings(width))
            wanted = [r["crop_id"] for r in manifest if r["video_id"] == video and r["modality"] == modality]
            wanted = [
                c
                for c, r in zip(wanted, (r for r in manifest if r["crop_id"] in set(wanted)), strict=True)
                if r["split"] in splits
            ]
            assert rows["crop_id"].to_pylist() == sorted(wanted)
            assert set(rows["status"].to_pylist()) <= {"ok"}
    assert run.table("embed/f", "videos/VIS-500m_a").num_rows == 0
    assert run.table("embed/f", TEST).num_rows == 16


def test_vectors_are_those_of_the_network_on_the_crop(embedded: Path) -> None:
    """Read, resized, normalised and embedded here, one crop at a time; 8 bits and 16."""
    run = Run(embedded / "run")
    recipe, model = open_model(embedded / "run" / "train" / "a" / "last.pt")
    torch.set_num_threads(1)
    for video in (TEST, DEEP):
        table = run.table("crop", video)
        table = table.filter(pa.compute.equal(table["modality"].cast(pa.string()), "body"))
        names, found = vectors(embedded, "a", video)
        facts = run.receipt("detect", video).facts  # type: ignore[union-attr]
        windows = {video: tuple(facts["window"])} if facts.get("window") else None
        assert (windows is None) == (video == TEST)
        crops = from_crops(table, run.path, video.split("/")[1][:-2], windows=windows)
        reader = CropReader(crops, 80, 32, recipe.depth)
        place = {name: n for n, name in enumerate(crops.crop_id.to_pylist())}
        for name, vector in zip(names[:4], found[:4], strict=True):
            pixels = torch.from_numpy(reader.read(place[name]).copy()).permute(2, 0, 1)[None]  # type: ignore[union-attr]
            images = (pixels / 255 - 0.5) / 0.5  # PASS
            with torch.inference_mode():
                expected = model.backbone(images)[0].numpy()  # type: ignore[operator, union-attr]
            np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_bad_crops_have_no_vector_and_are_named(home: Path) -> None:
    """Those that were stored so: no run of crop would give others."""
    run = Run(home / "run")
    table = run.table("crop", TEST).to_pylist()
    bad = next(r for r in table if r["modality"] == "body" and r["status"] == "ok")
    shard = home / "run" / bad["shard"]
    commit_spoilt(run, TEST, {bad["crop_id"]})
    system = {"recipe": loaded(), "splits": ["test"]}
    outcome = runner(home, {"a": system})[0].execute("manifest", "embed")
    assert outcome.complete
    rows = run.table("embed/a", TEST).to_pylist()
    assert [r["crop_id"] for r in rows if r["vector"] is None] == [bad["crop_id"]]
    assert [r["crop_id"] for r in rows if r["status"] != "ok"] == [bad["crop_id"]]
    facts = run.receipt("embed/a", TEST).facts  # type: ignore[union-attr]
    assert facts["rows"] == {"ok": len(rows) - 1, "unreadable": 1}
    why = f"expected an image of 8 or 16 bits, found {bad['size']} bytes that do not decode"
    warned = f"embed/a: 1 crop does not decode, left without a vector ({bad['crop_id']}: {why}), of {TEST}"
    assert warned in outcome.warnings
    outcome, _ = train(home, {"a": system})  # nothing is due, and it is said again
    assert outcome.tallies["embed/a"].ran == 0
    assert outcome.warnings.count(warned) == 1
    assert status(home / "run").unreadable == [warned]
    assert warned in describe_run(home / "run").notes
    run.discard("embed/a", TEST)
    outcome, _ = train(home, {"a": {**system, "strict": True}})
    assert [f"{f.stage}/{f.key}" for f in outcome.failures] == [f"embed/a/{TEST}"]
    assert bad["crop_id"] in outcome.failures[0].message
    commit_spoilt(run, TEST, {row["crop_id"] for row in table})
    outcome = runner(home, {"a": system})[0].execute("manifest", "embed")
    [failure] = outcome.failures
    assert failure.message.startswith(
        f"none of the {len(rows)} crops of {shard.name} decodes ({rows[0]['crop_id']}: expected an image"
    )
    assert failure.message.endswith("delete the shard and run crop again")


def commit_spoilt(run: Run, video: str, crops: set[str]) -> None:
    """Crop's part of a video, as if these crops had been stored as zeros."""
    receipt, table = run.receipt("crop", video), run.table("crop", video)
    assert receipt is not None
    files = {}
    for name in receipt.files:
        data, files[name] = bytearray((run.path / name).read_bytes()), run.scratch("crop", name)
        for row in table.to_pylist():
            if row["shard"] == name and row["crop_id"] in crops:
                data[row["offset"] : row["offset"] + row["size"]] = bytes(row["size"])
        files[name].write_bytes(data)
    sums = [
        zlib.crc32(bytes(row["size"])) if row["shard"] and row["crop_id"] in crops else row["crc32"]
        for row in table.to_pylist()
    ]
    at = table.column_names.index("crc32")
    run.commit(receipt, table.set_column(at, table.schema.field(at), pa.array(sums, pa.uint32())), files)


@pytest.mark.parametrize("kind", ["crop", "header", "all", "half", "gone"])
def test_a_shard_that_is_not_what_was_made_is_made_again_by_the_command_that_reads_it(
    embedded: Path, tmp_path: Path, kind: str
) -> None:
    """And no vector is missing; a damaged byte outside of every crop concerns nobody."""
    home = copied(embedded, tmp_path / "home")
    golden, run = digests(home / "run", "crop", "embed"), Run(home / "run")
    rows = run.table("crop", TEST).to_pylist()
    row = next(r for r in rows if r["modality"] == "body" and r["status"] == "ok")
    shard = home / "run" / row["shard"]
    data = shard.read_bytes()
    at = 3 if kind == "header" else row["offset"] + row["size"] // 2
    flipped = data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]
    damaged = {"all": bytes(len(data)), "half": data[: len(data) // 2]}.get(kind, flipped)
    shard.write_bytes(damaged)
    if kind == "gone":
        shard.unlink()
    run.discard("embed/a", TEST)
    outcome, ran = train(home, SYSTEMS)
    assert outcome.complete, outcome
    assert outcome.mended == ([] if kind == "header" else [f"crop/{TEST}"])
    assert ran.count(f"crop/{TEST}") == (kind != "header")
    assert outcome.tallies["embed/a"].ran == 1
    assert not [line for line in outcome.warnings if "decode" in line]
    if kind == "header":
        shard.write_bytes(data)
    assert digests(home / "run", "crop", "embed") == golden
    assert train(home, SYSTEMS)[1] == []


@pytest.mark.parametrize("which", ["last", "parent"])
def test_damaged_weights_are_made_again_by_the_command_that_reads_them(
    embedded: Path, tmp_path: Path, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copied(embedded, tmp_path / "home")
    systems = SYSTEMS if which == "last" else {**SYSTEMS, "child": {"recipe": loaded(), "start_from": "a"}}
    golden, path = digests(home / "run", "train/a", "embed/a"), home / "run" / "train" / "a" / "last.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(Plan, "_other_content", lambda self, found: None)  # damaged after the plan looked
    if which == "last":
        Run(home / "run").discard("embed/a", TEST)
    outcome = runner(home, systems)[0].execute("embed" if which == "last" else "train", "embed")
    assert outcome.complete, outcome
    assert outcome.mended == ["train/a/training"]
    assert digests(home / "run", "train/a", "embed/a") == golden


def test_parts_left_out_are_systems_that_share_their_weights(home: Path) -> None:
    """And the note that nothing names the parts goes with their numbers."""
    chosen = {"all": ["face", "torso", "lower_body"], "torso": ["torso"], "none": []}
    systems: dict[str, Any] = {"base": {"recipe": VIT, "splits": ["test"]}}
    for name, parts in chosen.items():
        recipe = loaded(VIT)
        recipe["parts"] = parts
        systems[name] = {"recipe": recipe, "start_from": "base", "splits": ["test"]}
    outcome, _ = train(home, systems)
    assert outcome.complete, outcome
    states = {name: checkpoint(home, name).model for name in systems}
    for name in chosen:
        shared = {n: t for n, t in states["base"].items() if not n.startswith("classifier.")}
        assert states[name].keys() == shared.keys()
        assert all(torch.equal(states[name][n], t) for n, t in shared.items())
    found = {name: vectors(home, name, TEST)[1] for name in systems}
    np.testing.assert_array_equal(found["base"], found["all"])
    whole, local = found["all"][:, :192], found["all"][:, 192:]
    assert np.abs(local).max() > 0.1
    np.testing.assert_array_equal(found["torso"][:, :192], whole)
    assert np.abs(found["torso"][:, 192:] - local).max() > 1e-3
    assert not found["none"][:, 192:].any()
    assert all(facts(home, name)["notes"] == [UNNAMED] for name in systems)


def test_flip_fusion_is_the_mean_of_both_and_trains_nothing(embedded: Path, tmp_path: Path) -> None:
    home = copied(embedded, tmp_path / "home")
    before = digests(home / "run", "train")
    systems = {**SYSTEMS, "a": {"recipe": body(flip_fusion=True)}}
    plain = vectors(home, "a", TEST)[1]
    outcome, ran = train(home, systems)
    assert outcome.complete
    assert ran == [f"embed/a/{v}" for v in VIDEOS]
    assert digests(home / "run", "train") == before
    both = vectors(home, "a", TEST)[1]
    assert np.abs(both - plain).max() > 1e-3
    recipe, model = open_model(home / "run" / "train" / "a" / "last.pt")
    assert not recipe.flip_fusion  # type: ignore[attr-defined]
    kind: Any = Recipe
    fused, model = open_model(home / "run" / "train" / "a" / "last.pt", kind.model_validate(body(flip_fusion=True)))
    images = torch.randn(3, 3, 80, 32)
    batch = CropBatch(images, *(torch.zeros(3, dtype=torch.int64) for _ in range(6)))
    with torch.inference_mode():
        mean = (model.backbone(images) + model.backbone(images.flip(3))) / 2  # type: ignore[operator, union-attr]
        torch.testing.assert_close(fused.embed(model, batch), mean)


def test_the_network_is_told_the_place_of_the_domain_in_its_training(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two trained domains; of one, which lets the other be embedded or not."""
    home, plain = copied(embedded, tmp_path / "home"), Body.embed
    assert checkpoint(home, "a").trained_domains == ["LWIR-30m", "VIS-500m"]
    before = {video: vectors(home, "a", video)[1] for video in VIDEOS}
    monkeypatch.setattr(Body, "embed", lambda self, m, b: plain(self, m, b) + 100 * b.domain[:, None])
    shutil.rmtree(home / "run" / "embed" / "a")
    assert train(home, SYSTEMS)[0].complete
    for video in VIDEOS:
        place = 100 * video.startswith("videos/VIS")
        np.testing.assert_allclose(vectors(home, "a", video)[1], before[video] + place, atol=1e-4)
    visible = {"v": {"recipe": STRIPED, "train_domains": ["VIS-500m"]}}
    assert train(home, visible)[0].complete
    assert np.abs(vectors(home, "v", "videos/LWIR-30m_a")[1]).max() < 50
    monkeypatch.setattr(Body, "embedded_as", lambda self, name, trained: {"VIS-500m": 0}.get(name))
    shutil.rmtree(home / "run" / "embed" / "v")
    outcome, _ = train(home, visible)
    assert {f"{f.stage}/{f.key}": f.kind for f in outcome.failures} == {
        f"embed/v/{video}": "DataError" for video in VIDEOS if "LWIR" in video
    }
    said = "domain LWIR-30m: expected one that the streams of body were trained for, which are VIS-500m; train on it"
    assert all(f.message.startswith(said) for f in outcome.failures)
    assert len(vectors(home, "v", TEST)[0]) == 16


# -- what is due


def test_a_new_video_is_embedded_and_nothing_else_is_made(labelled: Path, tmp_path: Path) -> None:
    """Of a test subject. One more of a training subject changes the training rows: everything is due."""
    home = copied(labelled, tmp_path / "home", data=True)
    systems = {"a": {"recipe": STRIPED}, "b": {"recipe": loaded(), "start_from": "a", "splits": ["test"]}}
    assert train(home, systems)[0].complete
    before = digests(home / "run", "train", "embed")

    def add(name: str, like: str) -> None:
        shutil.copy(home / "data" / "videos" / like, home / "data" / "videos" / name)
        old, new = like.rpartition(".")[0], name.rpartition(".")[0]
        for table in ("faces.csv", "boxes.csv"):
            lines = (home / "data" / table).read_text().splitlines()
            more = [line.replace(f"videos/{old}", f"videos/{new}") for line in lines if f"videos/{old}" in line]
            (home / "data" / table).write_text("\n".join([*lines, *more]) + "\n")

    add("VIS-500m_c.mp4", "VIS-500m_b.mp4")
    make, executor = runner(home, systems)
    assert make.execute().complete
    assert [unit for unit in executor.ran if unit.startswith(("train", "embed"))] == [
        "embed/a/videos/VIS-500m_c",
        "embed/b/videos/VIS-500m_c",
    ]
    after = digests(home / "run", "train", "embed")
    assert {name: after[name] for name in before} == before
    add("VIS-500m_d.mp4", "VIS-500m_a.mp4")
    assert make.execute(None, "manifest").complete
    lines = due(home, systems, "train")
    assert lines[:2] == [
        "train/a/training: manifest changed",
        "train/b/training: train/a is made again (after train/a)",
    ]
    assert len(lines) == 2 + 2 * 6


# -- the same bytes


@pytest.mark.parametrize("recipe", [STRIPED, VIT, {**FACE}], ids=["striped", "vit", "face"])
def test_vectors_do_not_depend_on_the_batch(embedded: Path, recipe: dict[str, Any]) -> None:
    """CPU, fp32, one thread: to the last bit, for any batch, also of one crop."""
    torch.set_num_threads(1)
    kind: Any = Recipe
    made = kind.model_validate(recipe)
    torch.manual_seed(1)
    model = made.model(0, ()).to(memory_format=torch.channels_last).eval()
    run = Run(embedded / "run")
    table = run.table("crop", TEST)
    table = table.filter(pa.compute.equal(table["modality"].cast(pa.string()), made.modality))
    crops = from_crops(table, run.path, "VIS-500m")
    reader = CropReader(crops, made.image_height_px, made.image_width_px, made.depth)
    assert len(crops) == 16
    expected = None
    for batch in (16, 64, 7, 5, 2, 1, 15):
        found = np.concatenate([v for _, v in embed(TorchEmbedder(made, model), crops, reader, batch=batch)])
        expected = found if expected is None else expected
        assert found.tobytes() == expected.tobytes(), batch


def test_vectors_do_not_depend_on_workers_or_the_batch_option(embedded: Path, tmp_path: Path) -> None:
    before = digests(embedded / "run", "embed")
    for name in ("workers", "batch"):
        home = copied(embedded, tmp_path / name)
        shutil.rmtree(home / "run" / "embed")
        if name == "workers":
            assert command(home, "--workers", "2").wait(240) == 0
        else:
            assert call_here(*arguments(home), "--batch", "1").code == 0
        assert digests(home / "run", "embed") == before


def arguments(home: Path) -> list[str | Path]:
    """Of `mdfpipe train` over a home."""
    study = write_study(home / "study.yaml", SYSTEMS)
    return ["train", study, "--data", home / "data", "--run", home / "run", "--threads", "1"]


def command(home: Path, *more: str) -> subprocess.Popen[bytes]:
    """The same in a process and a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mdfpipe", *map(str, arguments(home)), *more],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.slow
def test_killed_while_it_embeds_it_ends_with_the_same_bytes(embedded: Path, tmp_path: Path) -> None:
    """Killed as soon as a part is there, again and again: one more each time."""
    before = digests(embedded / "run", "train", "embed")
    home = copied(embedded, tmp_path / "home")
    shutil.rmtree(home / "run" / "embed")
    kills = 0
    for _ in range(2):
        parts = len(list((home / "run" / "embed").rglob("*.parquet")))
        process = command(home)
        ends = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < ends:
            if len(list((home / "run" / "embed").rglob("videos__*.parquet"))) > parts:
                break
            time.sleep(0.002)
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills > 0
    assert command(home).wait(240) == 0
    assert digests(home / "run", "train", "embed") == before
    assert not list((home / "run").rglob(".part-*"))


# -- memory


def test_memory_does_not_grow_with_the_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of one crop, told 300 or 1500 times: as many pictures live at a time."""
    (tmp_path / "crop").mkdir()
    with ShardWriter(tmp_path / "crop" / "a.tar") as writer:
        encoded = cv2.imencode(".jpg", np.full((80, 32, 3), 90, np.uint8))[1].tobytes()
        place = writer.add("a", "jpg", encoded)
    kind: Any = Recipe
    recipe = kind.model_validate(STRIPED)
    model = recipe.model(0, ()).eval()
    stored = {
        "subject_id": "s",
        "video_id": "v",
        "shard": "crop/a.tar",
        **place._asdict(),
        "codec": "jpeg",
    }

    empty, made = torch.empty, list[weakref.ref[torch.Tensor]]()

    def counted(*shape: Any, **options: Any) -> torch.Tensor:
        tensor = empty(*shape, **options)
        if tensor.shape[1:] == (3, 80, 32):
            made.append(weakref.ref(tensor))
        return tensor

    def pictures() -> int:
        return sum(len(alive) for one in made if (alive := one()) is not None)

    monkeypatch.setattr(torch, "empty", counted)

    def most(count: int) -> int:
        """The greatest number of pictures that are alive when a batch is given."""
        table = pa.Table.from_pylist([{**stored, "crop_id": f"v/{n:06d}/00"} for n in range(count)])
        crops = from_crops(table, tmp_path, "VIS-500m")
        reader = CropReader(crops, 80, 32, recipe.depth)
        largest = seen = 0
        for rows, found in embed(TorchEmbedder(recipe, model), crops, reader):
            largest, seen = max(largest, pictures()), seen + len(rows)
            assert found.shape == (len(rows), 64)
        assert seen == count
        return largest

    few = most(300)
    assert few >= CPU_BATCH
    assert max(few, most(1500)) <= 6 * 64  # `ahead` batches of 64 are under way, and one is at work


def test_the_network_is_always_given_as_many_images(embedded: Path) -> None:
    """Its last bits depend on their number; the padding comes to nobody."""
    run = Run(embedded / "run")
    recipe, model = open_model(embedded / "run" / "train" / "a" / "last.pt")
    sizes = []
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    table = run.table("crop", TEST)
    table = table.filter(pa.compute.equal(table["modality"].cast(pa.string()), "body")).slice(0, 9)
    crops = from_crops(table, run.path, "VIS-500m")
    found = list(embed(TorchEmbedder(recipe, model), crops, CropReader(crops, 80, 32, recipe.depth), batch=2))
    assert sizes == [CPU_BATCH, CPU_BATCH]
    assert [rows.tolist() for rows, _ in found] == [list(range(8)), [8]]
    assert [v.shape for _, v in found] == [(8, 64), (1, 64)]
