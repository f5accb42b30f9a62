"""`mdfpipe train` over a drawn data set: what it makes, what it makes again and why, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mdfpipe.learning.train.checkpoint import Checkpoint
from mdfpipe.store.run import Run
from mdfpipe.store.tables import TRAINING, embeddings
from tests.drawn import draw
from tests.learning.made import write_run
from tests.runs import Said, call_here

STUDY = Path(__file__).parent / "drawn" / "study.yaml"
TINY = {
    "use": "body",
    "backbone": "mini",
    "image_height_px": 64,
    "image_width_px": 32,
    "batches": {"subjects": 2, "crops": 2},
    "schedule": {"length": 4, "unit": "steps", "warm_up": 1},
}
SYSTEMS: dict[str, Any] = {
    "visible": {"train_on": ["crops"], "recipe": {**TINY, "batches": {"sampler": "random", "subjects": 2, "crops": 2}}},
    "tuned": {
        "start_from": "visible",
        "train_on": ["run", "crops"],
        "recipe": {**TINY, "batches": {"subjects": 2, "crops": 2, "further_subjects": 2, "further_crops": 2}},
    },
    "no-face": {
        "start_from": "tuned",
        "recipe": {**TINY, "parts": ["torso", "lower_body"], "schedule": {"length": 0, "warm_up": 0}},
    },
    "low-rank": {"start_from": "visible", "recipe": {**TINY, "lora": {"rank": 2, "alpha": 4}}},
    "face": {
        "recipe": {
            "use": "face",
            "image_height_px": 32,
            "image_width_px": 32,
            "layers": 18,
            "width": 8,
            "batch": 16,
            "schedule": {"length": 3, "unit": "steps", "warm_up": 0},
        }
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, the study `systems.yaml`, and a run that ended well."""
    folder = tmp_path_factory.mktemp("train")
    draw(folder / "data", frames=12)
    write_run(folder / "data" / "crops", subjects=4, domains=("VIS-500m",), first=300)
    study = yaml.safe_load(STUDY.read_text())
    (folder / "systems.yaml").write_text(yaml.safe_dump(study | {"systems": SYSTEMS}))
    said = again(folder, "--json", "--threads", "1", verb="run")
    assert said.code == 0, said
    (folder / "said.json").write_text(said.out)
    return folder


def again(folder: Path, *more: str | Path, verb: str = "train", run: str = "run") -> Said:
    return call_here(verb, folder / "systems.yaml", "--data", folder / "data", "--run", folder / run, *more)


def due(folder: Path, *more: str) -> list[str]:
    said = again(folder, "--dry-run", *more, verb="run")
    assert said.code == 0, said
    return [] if said.out == "nothing is due\n" else said.out.splitlines()


def test_every_system_has_weights_figures_and_vectors(made: Path) -> None:
    run = Run(made / "run")
    manifest = run.table("manifest", "manifest")
    for name, system in SYSTEMS.items():
        rows = run.table(f"train/{name}", "training")
        assert rows.schema.equals(TRAINING)
        trained = system["recipe"]["schedule"]["length"] > 0
        assert (rows.num_rows > 0) == trained
        lines = (made / "run" / "train" / name / "metrics.jsonl").read_text().splitlines()
        assert (len(lines) > 0) == trained
        if trained:
            assert {"rate", "images_per_second", "mining"} <= json.loads(lines[-1]).keys()
        modality = system["recipe"]["use"]
        wanted = {r["crop_id"] for r in manifest.to_pylist() if r["modality"] == modality and r["split"] != "unused"}
        width = 512 if modality == "face" else 384
        found = set()
        for part in sorted((made / "run" / "embed" / name).glob("*.parquet")):
            table = run.table(f"embed/{name}", part.stem.replace("__", "/"))
            assert table.schema.equals(embeddings(width))
            assert set(table["status"].to_pylist()) <= {"ok"}
            vectors = np.array(table["vector"].to_pylist(), np.float32)
            assert np.isfinite(vectors).all()
            found |= set(table["crop_id"].to_pylist())
        assert found == wanted
        assert not list((made / "run" / "train" / name).glob("state*"))


def test_checkpoints_say_what_they_are(made: Path) -> None:
    tuned = Checkpoint.load(made / "run" / "train" / "tuned" / "last.pt")
    assert tuned.subjects == ["crops/0300", "crops/0301", "crops/0302", "crops/0303", "s01", "s02"]
    assert [entry["system"] for entry in tuned.history] == ["visible"]
    assert tuned.trained_domains == ["LWIR-30m", "VIS-500m"]
    assert tuned.step == 4
    low_rank = Checkpoint.load(made / "run" / "train" / "low-rank" / "last.pt")
    assert not [name for name in low_rank.model if "lora" in name]
    assert low_rank.model.keys() == tuned.model.keys()
    start = Checkpoint.load(made / "run" / "train" / "visible" / "last.pt")
    same = [n for n, t in low_rank.model.items() if n.startswith("backbone.") and t.equal(start.model[n])]
    attention = [n for n in low_rank.model if ".attn." in n and n.endswith("weight")]
    assert not set(attention) & set(same)
    assert len(same) == len([n for n in low_rank.model if n.startswith("backbone.")]) - len(attention)


def test_parts_in_use_change_the_vectors_of_the_same_weights(made: Path) -> None:
    run = Run(made / "run")
    whole, without = (
        run.table(f"embed/{name}", "videos/VIS-500m_b")["vector"].to_pylist() for name in ("tuned", "no-face")
    )
    a, b = np.array(whole, np.float32), np.array(without, np.float32)
    np.testing.assert_array_equal(a[:, :192], b[:, :192])  # the global token
    assert np.abs(a[:, 192:] - b[:, 192:]).max() > 1e-3
    receipt = run.receipt("train/no-face", "training")
    assert receipt is not None
    assert any("unnamed" in note for note in receipt.facts["notes"])


def test_a_second_call_does_nothing(made: Path) -> None:
    assert due(made) == []
    said = again(made, "--json")
    assert set(said.tally("ran").values()) == {0}


@pytest.mark.parametrize(
    ("setting", "first", "systems"),
    [
        (
            "systems.tuned.recipe.triplet.margin=0.3",
            "train/tuned/training: recipe.triplet.margin 0.0 -> 0.3",
            {"tuned", "no-face"},
        ),
        ("systems.face.splits=[test]", "embed/face/videos/LWIR-30m_a: ", {"face"}),
        ("crop.face_margin=0.2", "crop/videos/LWIR-30m_a: face_margin 0.1 -> 0.2", set()),
    ],
)
def test_what_is_due_and_why(made: Path, setting: str, first: str, systems: set[str]) -> None:
    lines = due(made, "--set", setting)
    assert lines[0].startswith(first), lines
    touched = {line.split("/")[1] for line in lines if line.startswith(("train/", "embed/"))}
    assert systems <= touched
    assert not ({"visible", "low-rank"} & touched) or not systems


def test_a_lost_or_changed_checkpoint_is_due_again(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "run", tmp_path / "run")
    shutil.copy(made / "systems.yaml", tmp_path)
    (tmp_path / "data").symlink_to(made / "data")
    (tmp_path / "run" / "train" / "face" / "last.pt").unlink()
    lines = due(tmp_path)
    assert lines[0] == "train/face/training: damaged, made again: train/face/last.pt is missing"
    others = {line for line in lines if not line.startswith(("train/face/", "embed/face/"))}
    assert {line.partition(":")[0] for line in others} == {"evaluate/metrics"}
    said = again(tmp_path, "--system", "face", "--threads", "1")
    assert said.code == 0, said
    assert due(tmp_path) == []
    for name in ("train/face/last.pt", "embed/face/videos__VIS-500m_a.parquet"):
        assert (tmp_path / "run" / name).read_bytes() == (made / "run" / name).read_bytes()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("systems.visible.train_on=[nowhere]", "train_on 'nowhere' not found"),
        ("systems.tuned.start_from=nobody", "no system 'nobody'"),
        ("systems.visible.start_from=tuned", "starts from itself"),
        ("systems.visible.weights=none.pth", "weights 'none.pth' not found"),
        ("systems.face.recipe.use=head", "expected one of body, dfw"),
        ("systems.tuned.recipe.backbone=striped", "belongs to a ViT"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(made: Path, setting: str, words: str) -> None:
    more = ["--set", "systems.tuned.recipe.patch_px=32"] if "striped" in setting else []
    assert words in again(made, "--set", setting, *more, verb="run").line()


def test_a_system_that_fails_lets_the_others_go_on(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "run", tmp_path / "run")
    shutil.copy(made / "systems.yaml", tmp_path)
    (tmp_path / "data").symlink_to(made / "data")
    said = again(
        tmp_path,
        "--json",
        "--threads",
        "1",
        "--set",
        "systems.visible.recipe.optimiser.rate=1e30",
        "--set",
        "systems.face.recipe.batch=8",
    ).calm()
    assert said.code == 3
    assert set(said.failures) == {"train/visible/training"}
    assert "is no" in said.failures["train/visible/training"] or "is nan" in said.failures["train/visible/training"]
    assert said.tally("ran")["train/face"] == 1
    assert said.tally("blocked")["train/tuned"] == 1
    assert said.tally("blocked")["embed/no-face"] == 4


def test_trainings_that_wait_for_nothing_run_at_once(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "home"
    shutil.copytree(made, folder)
    alone = {path.relative_to(folder): path.read_bytes() for path in sorted((folder / "run").glob("train/*/*.pt"))}
    for stage in ("train", "embed"):
        shutil.rmtree(folder / "run" / stage)
    (folder / "run" / "events.jsonl").unlink()
    said = again(folder, "--system", "tuned", "--system", "face", "--workers", "2", "--threads", "1", "--json")
    assert said.code == 0, said
    events = [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()]
    order = [
        (e["event"], e["stage"]) for e in events if e["event"] in ("started", "finished") and "train" in e["stage"]
    ]
    assert {stage for _, stage in order[:2]} == {"train/visible", "train/face"}
    assert [kind for kind, _ in order[:2]] == ["started", "started"]
    assert order[4:] == [("started", "train/tuned"), ("finished", "train/tuned")]  # after what it starts from
    now = {path.relative_to(folder): path.read_bytes() for path in sorted((folder / "run").glob("train/*/*.pt"))}
    assert len(now) == 3
    assert now.items() <= alone.items()
    assert {said.tally("ran")[f"train/{name}"] for name in ("visible", "tuned", "face")} == {1}
    assert again(folder, "--system", "tuned", "--system", "face", "--dry-run").out == "nothing is due\n"


def test_one_subject_is_no_training(made: Path) -> None:
    """s01 alone: nothing can be told apart."""
    alone = [
        "--set",
        "manifest.protocol.galleries={'2': test}",
        "--set",
        "manifest.protocol.subjects={s01: train, s02: unused}",
    ]
    said = again(made, "--json", "--system", "face", *alone, verb="run", run="other").calm()
    assert said.code == 3
    assert "expected at least 2 training subjects, got 1" in said.failures["train/face/training"]
