"""train: what a system starts from, what it is trained on, what it writes, and one clear line for what cannot be."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.inspecting.things import describe_run
from mdfpipe.learning.attention import Watcher
from mdfpipe.learning.data.crops import from_folder
from mdfpipe.learning.models.backbones.semantic_vit import HALVES, PARTS
from mdfpipe.learning.recipes.body import UNNAMED
from mdfpipe.learning.train import checkpoint as files
from mdfpipe.learning.train.state import State
from mdfpipe.running.execution import Event
from mdfpipe.running.runner import Runner
from mdfpipe.store.run import Run
from mdfpipe.store.tables import TRAINING
from mdfpipe.study.study import Study
from tests.learning.made import picture, write_run
from tests.learning.published import pass_state
from tests.learning.trained import same, saving_always
from tests.runs import Said, call_here
from tests.systems import (
    FACE,
    ONE_THREAD,
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
    study,
    train,
    write_study,
)


def weights(home: Path, system: str, which: str = "last") -> dict[str, Tensor]:
    return checkpoint(home, system, which).model


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in state.items() if n.startswith("backbone.")}


# -- what it writes


def test_a_system_is_four_files_and_a_second_call_does_nothing(home: Path) -> None:
    systems = {"a.b-1": {"recipe": VIT, "validation": {"subjects": 1}, "train_on": ["further"]}}
    write_run(home / "further")
    systems["a.b-1"]["train_on"] = [str(home / "further")]
    outcome, ran = train(home, systems)
    assert outcome.complete, outcome
    assert ran == ["train/a.b-1/training", *(f"embed/a.b-1/{v}" for v in VIDEOS)]
    folder = home / "run" / "train" / "a.b-1"
    assert sorted(p.name for p in folder.iterdir()) == ["best.pt", "last.pt", "metrics.jsonl", "training.parquet"]
    rows = Run(home / "run").table("train/a.b-1", "training")
    assert rows.schema.equals(TRAINING)
    figures = set(rows["figure"].to_pylist())
    assert {"loss/identity", "loss/triplet", "rate", "accuracy", "validation/rank-1"} <= figures
    assert {"validation/part_match", "validation/part_attention"} <= figures
    assert any(name.startswith("mining/") for name in figures)
    assert np.isfinite(rows["value"].to_numpy()).all()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0]
    assert lines[0]["loss/identity"] == pytest.approx(
        rows.filter(rows["figure"].to_numpy(zero_copy_only=False) == "loss/identity")["value"][0].as_py()
    )
    found = checkpoint(home, "a.b-1")
    assert (found.system, found.epoch, found.step, len(found.subjects)) == ("a.b-1", 1, 3, 5)
    again, ran = train(home, systems)
    assert again.complete
    assert ran == []
    assert again.notes == again.warnings == []
    assert due(home, systems) == []


def test_the_same_study_gives_the_same_bytes(labelled: Path, tmp_path: Path) -> None:
    systems = {"a": {"recipe": STRIPED}, "b": {"recipe": VIT, "seed": 3}}
    one, two = copied(labelled, tmp_path / "one"), copied(labelled, tmp_path / "two")
    for home in (one, two):
        assert train(home, systems)[0].complete
    found = digests(one / "run", "train", "embed")
    assert found == digests(two / "run", "train", "embed")
    assert {f"train/a/{name}" for name in ("training.parquet", "last.pt", "metrics.jsonl")} <= found.keys()
    assert not same(weights(one, "a"), weights(one, "b"))


class Stopped(BaseException):
    """The machine goes."""


def stop_after_a_save(monkeypatch: pytest.MonkeyPatch) -> None:
    save = State.save

    def once(self: State) -> None:
        save(self)
        raise Stopped

    monkeypatch.setattr(State, "save", once)


def embedded(home: Path) -> list[Any]:
    return [Run(home / "run").table("embed/it", video)["vector"].to_pylist() for video in VIDEOS]


def test_precision_auto_is_what_the_device_is_fast_in_and_stays_that_on_another(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes = {name: copied(labelled, tmp_path / name) for name in ("auto", "bf16", "fp32")}
    systems = {name: {"it": {"recipe": STRIPED, "precision": name}} for name in homes}
    with monkeypatch.context() as with_bf16, saving_always():
        with_bf16.setattr("mdfpipe.stages.train.fastest_precision", lambda device: "bf16")
        stop_after_a_save(with_bf16)
        with pytest.raises(Stopped):
            train(homes["auto"], systems["auto"])
    monkeypatch.setattr("mdfpipe.stages.train.fastest_precision", lambda device: "fp32")
    for name, home in homes.items():
        outcome, _ = train(home, systems[name])
        assert outcome.complete, outcome
        assert any("precision auto: trained in bf16" in note for note in outcome.notes) == (name == "auto")
    made = {name: (facts(home, "it")["precision"], checkpoint(home, "it").precision) for name, home in homes.items()}
    assert made == {"auto": ("bf16", "bf16"), "bf16": ("bf16", "bf16"), "fp32": ("fp32", "fp32")}
    assert same(weights(homes["auto"], "it"), weights(homes["bf16"], "it"))
    assert not same(weights(homes["auto"], "it"), weights(homes["fp32"], "it"))
    vectors = {name: embedded(home) for name, home in homes.items()}
    assert vectors["auto"] == vectors["bf16"] != vectors["fp32"]
    shutil.rmtree(homes["auto"] / "run" / "train")
    assert train(homes["auto"], systems["auto"])[0].complete  # from its start, on the device that is here now
    assert same(weights(homes["auto"], "it"), weights(homes["fp32"], "it"))
    assert embedded(homes["auto"]) == vectors["fp32"]


def test_that_bf16_is_slow_here_is_said_before_a_training(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdfpipe.running.runner.fastest_precision", lambda device: "fp32")
    systems = {name: {"recipe": FACE, "precision": name} for name in ("fp32", "bf16", "auto")}
    made, heard = validate(Study, study(systems), "study"), list[Event]()
    it = Runner(made, Run(home / "run"), home / "data", ONE_THREAD)
    assert it.execute("train", "train", listen=heard.append).complete
    words = {event.stage: event.words for event in heard if event.kind == "stage"}
    assert words.pop("train/bf16").startswith("train/bf16: precision bf16: this processor has no instructions for it")
    assert words == {"train/fp32": "", "train/auto": ""}


# -- what it starts from


def test_it_starts_from_a_system_and_from_a_file_of_ours(home: Path) -> None:
    """A child that is not trained has its parent's backbone, whether it is named or given as a file."""
    systems = {
        "child": {"recipe": loaded(), "start_from": "parent"},
        "parent": {"recipe": STRIPED},
        "tuned": {"recipe": STRIPED, "start_from": "child", "seed": 9},
    }
    outcome, ran = train(home, systems)
    assert outcome.complete
    assert [unit for unit in ran if unit.startswith("train")] == [
        f"train/{name}/training" for name in ("parent", "child", "tuned")
    ]
    assert same(backbone(weights(home, "child")), backbone(weights(home, "parent")))
    assert not any(n.startswith("classifier.") for n in weights(home, "child"))
    assert not same(backbone(weights(home, "tuned")), backbone(weights(home, "child")))
    assert [entry["system"] for entry in checkpoint(home, "tuned").history] == ["parent", "child"]
    assert checkpoint(home, "tuned").all_subjects == {"s01", "s02"}
    assert checkpoint(home, "child").subjects == []
    assert checkpoint(home, "child").all_subjects == {"s01", "s02"}
    assert any("100.0% of the backbone" in line for line in facts(home, "child")["start"])
    shutil.copy(home / "run" / "train" / "parent" / "last.pt", home / "given.pt")
    outcome, _ = train(home, {"file": {"recipe": loaded(), "weights": str(home / "given.pt")}})
    assert outcome.complete
    assert same(weights(home, "file"), weights(home, "child"))
    assert facts(home, "file")["start"] == [facts(home, "child")["start"][0].replace("system parent", "given.pt")]


def test_a_pass_checkpoint_names_its_parts_and_others_do_not(home: Path) -> None:
    torch.manual_seed(0)
    state = pass_state(192, 6)  # of our smallest ViT's width
    torch.save(state, home / "pass.pth")
    systems = {
        "named": {"recipe": loaded(VIT), "weights": str(home / "pass.pth")},
        "tuned": {"recipe": VIT, "start_from": "named"},
        "unnamed": {"recipe": VIT},
        "of_unnamed": {"recipe": loaded(VIT), "start_from": "unnamed"},
    }
    outcome, _ = train(home, systems)
    assert outcome.complete, outcome
    qkv = weights(home, "named")["backbone.vit.blocks.3.attn.qkv.weight"]
    assert torch.equal(qkv, state["blocks.3.attn.qkv.weight"])
    assert checkpoint(home, "tuned").history[0] == {"system": "pass.pth", "format": "PASS"}
    notes = {name: facts(home, name)["notes"] for name in systems}
    assert notes == {"named": [], "tuned": [], "unnamed": [UNNAMED], "of_unnamed": [UNNAMED]}
    assert any(line.startswith("train/named: pass.pth: PASS, ") for line in outcome.notes)
    (home / "crops" / "P1").mkdir(parents=True)
    cv2.imwrite(str(home / "crops/P1/a.png"), np.zeros((96, 32, 3), np.uint8))
    for name, tokens in (("tuned", HALVES), ("unnamed", PARTS)):
        maps = Watcher(home / "run" / "train" / name / "last.pt").tokens(from_folder(home / "crops", source=0))
        assert maps is not None
        assert maps.names == ("global", *tokens)
    assert outcome.warnings == [f"train/{name}: {UNNAMED}" for name in ("unnamed", "of_unnamed")]


def test_lora_is_folded_in_and_leaves_the_rest_alone(home: Path) -> None:
    lora = body(VIT, lora={"rank": 2, "alpha": 64}, optimiser={"rate": 0.05})
    systems = {"base": {"recipe": loaded(VIT)}, "lora": {"recipe": lora, "start_from": "base"}}
    outcome, _ = train(home, systems)
    assert outcome.complete, outcome
    base, merged = backbone(weights(home, "base")), backbone(weights(home, "lora"))
    assert base.keys() == merged.keys()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed
    assert all(".attn." in name and name.endswith(".weight") for name in changed), changed
    for name in changed:  # of rank 2 in each of its (at most three) projections
        assert torch.linalg.matrix_rank((merged[name] - base[name]).double(), rtol=1e-4) <= 6
    for name in ("base", "lora"):
        assert (home / "run" / "embed" / name / "videos__VIS-500m_b.parquet").exists()


# -- what it is trained on


def test_further_crops_need_no_manifest_of_their_own_study(labelled: Path, tmp_path: Path) -> None:
    """A run folder of crops, and a folder of SUBJECT/IMAGE files; the study is only indexed."""
    home = tmp_path
    (home / "data").symlink_to(labelled / "data", target_is_directory=True)
    write_run(home / "further", subjects=4)
    for subject in range(3):
        (home / "folder" / f"p{subject}").mkdir(parents=True)
        for frame in range(4):
            image = picture(subject, 0, 0, frame, 80, 32)
            cv2.imwrite(str(home / "folder" / f"p{subject}" / f"{frame}.jpg"), image)
    uniform = body(batches={"sampler": "uniform"})
    systems = {
        "run": {"recipe": STRIPED, "train_on": [str(home / "further")]},
        "folder": {"recipe": uniform, "train_on": [str(home / "folder")]},
        "both": {"recipe": uniform, "train_on": [str(home / "folder"), str(home / "further")]},
    }
    make, executor = runner(home, systems)
    assert make.execute(None, "index").complete
    outcome = make.execute("train", "train")
    assert outcome.complete, outcome
    assert executor.ran[1:] == [f"train/{name}/training" for name in systems]
    found = {name: checkpoint(home, name) for name in systems}
    assert found["run"].subjects == [f"{home / 'further'}/{n:04d}" for n in range(1, 5)]
    assert found["folder"].subjects == [f"{home / 'folder'}/p{n}" for n in range(3)]
    assert found["folder"].trained_domains == ["VIS"]
    assert len(found["both"].subjects) == 7
    cv2.imwrite(str(home / "folder" / "p0" / "9.jpg"), picture(0, 0, 0, 9, 80, 32))
    lines = due(home, systems, "train")
    assert lines[:2] == [
        f"train/folder/training: crops/{home / 'folder'} changed",
        f"train/both/training: crops/{home / 'folder'} changed",
    ]


def test_fewer_subjects_and_domains(home: Path) -> None:
    write_run(home / "further", subjects=6)
    further = str(home / "further")
    systems = {
        "visible": {"recipe": STRIPED, "train_domains": ["VIS-500m"]},
        "fewer": {"recipe": body(batches={"sampler": "uniform"}), "train_on": ["run", further], "max_subjects": 2},
    }
    outcome, _ = train(home, systems)
    assert outcome.complete, outcome
    assert checkpoint(home, "visible").trained_domains == ["VIS-500m"]
    assert facts(home, "visible")["told"] == ["16 body crops of 2 subjects in VIS-500m"]
    assert len(checkpoint(home, "fewer").subjects) == 2 + 6  # of the study's own only
    assert facts(home, "fewer")["told"][-1] == "8 subjects chosen by max_subjects"


def test_subjects_left_out_of_domain_aware_batches_are_counted_wherever_the_training_is_shown(home: Path) -> None:
    five = ("VIS-500m", "SWIR-30m", "MWIR-30m", "LWIR-30m", "VIS-300m")
    lacking = {n: {"VIS-300m"} if n > 10 else {"VIS-300m", "VIS-500m"} for n in range(5, 21)}
    write_run(home / "many", 20, five, clips=1, frames=1, lacking=lacking)
    write_run(home / "some", 6, five, clips=1, frames=1, lacking={1: {"VIS-300m"}})
    recipe = body(schedule={"length": 1})
    systems = {
        "most": {"recipe": recipe, "train_on": [str(home / "many")], "splits": ["unused"]},
        "few": {"recipe": recipe, "train_on": [str(home / "some")], "splits": ["unused"]},
    }
    outcome, _ = train(home, systems)
    assert outcome.complete, outcome
    line = (
        "16 of 20 subjects left out of domain-aware batches, 4 take part: there is no crop in VIS-300m for 16, "
        "VIS-500m for 6"
    )
    little = "1 of 6 subjects left out of domain-aware batches, 5 take part: there is no crop in VIS-300m for 1"
    assert [facts(home, name)["told"][-1] for name in ("most", "few")] == [line, little]
    notes = [note for note in outcome.notes if "left out of domain-aware" in note]
    assert sorted(notes) == [f"train/few: {little}", f"train/most: {line}"]
    (warning,) = [said for said in outcome.warnings if "left out of domain-aware" in said]
    assert warning.startswith(f"train/most: {line}; name the domains of the study in manifest.protocol.domains or")
    assert set(notes) <= set(describe_run(home / "run").notes)


def test_the_best_weights_are_kept_and_embedded(home: Path) -> None:
    """A rate far too high spoils a good start: the first epoch stays the best."""
    write_run(home / "further", subjects=6)
    recipe = body(schedule={"length": 3, "unit": "epochs", "shape": "constant"}, optimiser={"rate": 0.02})
    systems = {
        name: {"recipe": recipe, "train_on": [str(home / "further")], "validation": {"subjects": 2}, "keep": name}
        for name in ("best", "last")
    }
    outcome, _ = train(home, systems)
    assert outcome.complete, outcome
    told = facts(home, "best")
    scores = [
        row["value"]
        for row in Run(home / "run").table("train/best", "training").to_pylist()
        if row["figure"] == "validation/rank-1"
    ]
    assert len(scores) == 3
    assert told["best_epoch"] == int(np.argmax(scores))
    best = checkpoint(home, "best", "best")
    assert best.epoch == told["best_epoch"] + 1
    assert best.figures["validation/rank-1"] == max(scores)
    assert len(best.subjects) == 4
    assert "2 subjects held out for validation" in told["told"]
    for which in ("best", "last"):  # both trained alike; they differ in what is embedded
        assert same(weights(home, "best", which), weights(home, "last", which))


def test_a_shard_none_of_whose_crops_decodes_is_refused(home: Path) -> None:
    write_run(home / "further", subjects=4, frames=2, damaged=2)
    recipe = body(batches={"sampler": "uniform"}, schedule={"length": 1, "unit": "epochs"})
    outcome, _ = train(home, {"a": {"recipe": recipe, "train_on": [str(home / "further")]}})
    [failure] = outcome.failures
    assert re.search(r"further/crop/\S+\.tar: none of its 2 crops decodes \(.* run crop again$", failure.message)


def test_bad_crops_are_named_counted_and_left_out(home: Path) -> None:
    write_run(home / "further", subjects=4, frames=4, damaged=3)
    recipe = body(batches={"sampler": "uniform"}, schedule={"length": 1, "unit": "epochs"})
    system = {"recipe": recipe, "train_on": [str(home / "further")]}
    outcome, _ = train(home, {"a": system})
    assert outcome.complete, outcome
    bad = facts(home, "a")["unreadable"]
    assert len(bad) == 3
    name, why = min(bad.items())
    assert why == "expected an image of 8 or 16 bits, found 135 bytes that do not decode"
    assert outcome.warnings == [f"train/a: 3 crops do not decode, left out ({name}: {why}), of {name[:-10]}"]
    assert due(home, {"a": {**system, "strict": True}}) == []  # what is done under the laxer rule stays done
    Run(home / "run").discard("train/a", "training")
    outcome, _ = train(home, {"a": {**system, "strict": True}})
    assert [f.stage for f in outcome.failures] == ["train/a"]
    assert f"crop {name.rpartition('/')[0][:-7]}" in outcome.failures[0].message
    assert outcome.failures[0].message.endswith(f"{why}; delete the shard and run crop again")


def test_a_truncated_shard_is_bad_crops_and_a_missing_one_is_said(home: Path) -> None:
    write_run(home / "further", subjects=4)
    shard = sorted((home / "further" / "crop").glob("*.tar"))[-1]
    shard.write_bytes(shard.read_bytes()[:3200])  # the first crop is whole
    recipe = body(batches={"sampler": "uniform"}, schedule={"length": 1, "unit": "epochs"})
    systems = {"a": {"recipe": recipe, "train_on": [str(home / "further")]}}
    assert train(home, systems)[0].complete
    assert len(facts(home, "a")["unreadable"]) == 1
    shard.unlink()
    (home / "run" / "train" / "a" / "training.parquet").unlink()
    outcome, _ = train(home, systems)
    assert [f.message for f in outcome.failures] == [
        f"{shard}: the shard cannot be opened: No such file or directory; run crop again"
    ]


# -- what cannot be


Spoil = Callable[[Path], dict[str, Any]]


def _other_model(home: Path) -> dict[str, Any]:
    torch.save(
        {"format": files.FORMAT, "system": "x", "recipe": {}, "model": {"backbone.w": torch.ones(3)}}, home / "w.pt"
    )
    return {"recipe": STRIPED, "weights": str(home / "w.pt")}


def _no_weights_at_all(home: Path) -> dict[str, Any]:
    (home / "w.pt").write_bytes(b"PK\x03\x04 what is this")
    return {"recipe": VIT, "weights": str(home / "w.pt")}


def _one_subject(home: Path) -> dict[str, Any]:
    write_run(home / "further", subjects=1)
    return {"recipe": STRIPED, "train_on": [str(home / "further")]}


def _no_faces(home: Path) -> dict[str, Any]:
    write_run(home / "further", subjects=3)
    return {"recipe": FACE, "train_on": [str(home / "further")]}


def _held_out(home: Path) -> dict[str, Any]:
    return {"recipe": STRIPED, "validation": {"subjects": 2}}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_other_model, "w.pt: covers 0.0% of the backbone, expected 90% or more; missing or of another shape: "),
        (
            _no_weights_at_all,
            "w.pt: expected a checkpoint of torch or safetensors, got a truncated or damaged zip: 17 ",
        ),
        (_one_subject, "train/a: expected at least 2 training subjects, got 1; "),
        (_no_faces, "expected crops with modality face, found none among 36 rows, which have body 36"),
        (_held_out, "validation.subjects: expected fewer than the 2 training subjects, got 2"),
        (
            lambda home: {"recipe": STRIPED, "train_domains": ["NIR-15m"]},
            "expected crops with domain NIR-15m, found none",
        ),
    ],
)
def test_a_training_that_cannot_be_fails_alone(home: Path, make: Spoil, said: str) -> None:
    """One line; the other systems go on, and only what starts from it waits."""
    systems = {"a": make(home), "b": {"recipe": loaded()}, "c": {"recipe": loaded(), "start_from": "a"}}
    if systems["a"]["recipe"]["use"] == "face" or systems["a"]["recipe"] is VIT:
        systems["c"]["recipe"] = loaded(systems["a"]["recipe"])
    outcome, ran = train(home, systems)
    assert not outcome.complete
    assert [f"{f.stage}/{f.key}" for f in outcome.failures] == ["train/a/training"]
    message = outcome.failures[0].message
    assert said in message, message
    assert "\n" not in message
    assert "unexpected error" not in message
    assert [unit for unit in ran if "/b" in unit] == ["train/b/training", *(f"embed/b/{v}" for v in VIDEOS)]
    assert not any("/c" in unit for unit in ran)
    assert {stage: t.note for stage, t in outcome.tallies.items() if t.note} == {
        "train/c": "waits for train/a",
        "embed/a": "waits for train/a",
        "embed/c": "waits for train/c",
    }
    assert not list((home / "run").rglob(".part-*"))


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ({"recipe": STRIPED, "train_on": ["nowhere"]}, "train/a: train_on 'nowhere' not found; looked at "),
        ({"recipe": STRIPED, "weights": "nowhere.pt"}, "train/a: weights 'nowhere.pt' not found; looked at "),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(labelled: Path, tmp_path: Path, system: Any, said: str) -> None:
    (tmp_path / "data").symlink_to(labelled / "data", target_is_directory=True)
    make, executor = runner(tmp_path, {"a": system, "b": {"recipe": loaded()}})
    with pytest.raises(ConfigError, match=said):
        make.execute()
    assert executor.ran == []
    assert not (tmp_path / "run").exists()
    make, executor = runner(tmp_path, {"a": system, "b": {"recipe": loaded()}}, ["b"])
    assert make.execute().complete  # nobody asked for what is missing
    assert make.execute("train").complete


def test_the_command_line_says_it_with_the_right_code(home: Path) -> None:
    """2 for what is wrong with the study, 3 for a training that failed; no traceback."""

    def said(systems: dict[str, Any], *more: str) -> Said:
        study = write_study(home / "study.yaml", systems)
        places = ("--data", home / "data", "--run", home / "run")
        return call_here("train", study, *places, "--threads", "1", *more).calm()

    missing = said({"a": {"recipe": STRIPED, "train_on": ["nowhere"]}})
    assert missing.line(2).startswith("mdfpipe: train/a: train_on 'nowhere' not found")
    both = {"a": {"recipe": STRIPED, "train_domains": ["NIR-15m"]}, "b": {"recipe": loaded()}}
    failed = said(both, "--json")
    assert failed.code == 3
    assert list(failed.failures) == ["train/a/training"]
    assert failed.json["tallies"]["embed/b"]["ran"] == 4
    assert failed.json["tallies"]["embed/a"]["note"] == "waits for train/a"
    unknown = said(both, "--system", "z")
    assert unknown.line(2) == "mdfpipe: --system z: no such system; the study has a, b"
    done = said(both, "--system", "b")
    assert done.code == 0
