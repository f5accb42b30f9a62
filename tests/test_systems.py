"""Systems of a study: their order, what is due and why, how far they are, and what a thing of theirs is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.inspecting.inspection import inspect
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.system import System, ordered, with_ancestors
from mdfpipe.running.runner import Runner
from mdfpipe.running.status import status
from mdfpipe.stages import Resources
from mdfpipe.stages.embed import Embed
from mdfpipe.stages.train import Train
from mdfpipe.store.run import Failure, Run
from mdfpipe.study.study import Study
from tests.runs import call
from tests.systems import FACE, STRIPED, VIT, body, copied, digests, due, loaded, runner, study, train

VIDEOS = ["videos/LWIR-30m_a", "videos/LWIR-30m_b", "videos/VIS-500m_a", "videos/VIS-500m_b"]


def pipeline(systems: dict[str, Any]) -> Study:
    return validate(Study, study(systems), "study")


# -- order and names


def test_a_system_comes_after_the_one_it_starts_from() -> None:
    systems = {
        "c": {"recipe": loaded(), "start_from": "b"},
        "x": {"recipe": loaded(FACE)},
        "b": {"recipe": loaded(), "start_from": "a"},
        "a": {"recipe": loaded()},
        "d": {"recipe": loaded(), "start_from": "a"},
    }
    made = pipeline(systems)
    assert ordered(made.systems) == ["a", "b", "c", "x", "d"]
    assert [stage.name for stage in made.stages[5:]] == [
        *(f"train/{name}" for name in ("a", "b", "c", "x", "d")),
        *(f"embed/{name}" for name in ("a", "b", "c", "x", "d")),
        "evaluate",
    ]
    assert with_ancestors(made.systems, ["c", "x"]) == {"a", "b", "c", "x"}
    with pytest.raises(ConfigError, match="--system y: no such system; the study has c, x, b, a, d"):
        with_ancestors(made.systems, ["y"])


@pytest.mark.parametrize(
    ("systems", "said"),
    [
        (
            {"a": {"recipe": STRIPED, "start_from": "z"}},
            "systems.a.start_from: no system 'z'; there are a",
        ),
        (
            {
                "x": {"recipe": STRIPED, "start_from": "a"},
                "a": {"recipe": STRIPED, "start_from": "b"},
                "b": {"recipe": STRIPED, "start_from": "a"},
            },
            "systems.b.start_from: starts from itself: a -> b -> a",
        ),
        (
            {"a": {"recipe": STRIPED}, "f": {"recipe": FACE, "start_from": "a"}},
            "systems.f.start_from: a face system cannot start from a, whose recipe is for body",
        ),
        ({"a": {"recipe": STRIPED, "keep": "best"}}, "systems.a: keep: best needs validation.subjects, and a "),
        (
            {"a": {"recipe": loaded(), "keep": "best", "validation": {"subjects": 2}}},
            "systems.a: keep: best needs validation.subjects, and a recipe.schedule.length above 0",
        ),
        ({"a": {"recipe": STRIPED, "start_from": "b", "weights": "w"}}, "systems.a: expected start_from or weights"),
        ({"a": {"recipe": STRIPED, "train_on": []}}, "systems.a: train_on is empty; "),
        ({"a": {"recipe": STRIPED, "train_on": ["run", "run"]}}, "systems.a: train_on names a manifest twice"),
        ({"a": {"recipe": body(batchs=3)}}, "systems.a.recipe.batchs: unknown setting"),
        ({"a": {"recipe": {"use": "boddy"}}}, "systems.a.recipe: expected one of body, "),
        ({"../a": {"recipe": STRIPED}}, "systems.../a.[key]: string should match pattern"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(systems: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline(systems)
    assert said in str(caught.value), caught.value
    assert "\n" not in str(caught.value)


# -- what decides weights, and what only vectors


@pytest.mark.parametrize("name", Recipe.methods())
def test_fields_that_only_embedding_looks_at_exist_and_train_nothing(name: str) -> None:
    kind = Recipe.variant(name)
    assert set(kind.only_embedding) <= kind.model_fields.keys()
    recipe = validate(kind, dict(kind.tiny), name)
    plain = System(recipe=recipe)
    for field in kind.only_embedding:
        other = {"raw": "neck", "neck": "raw", True: False, False: True, None: True}[getattr(recipe, field)]
        changed = System(recipe=recipe.model_copy(update={field: other}))
        assert Train(system="a", settings=changed).decisive() == Train(system="a", settings=plain).decisive()
        assert Embed(system="a", settings=changed).decisive() != Embed(system="a", settings=plain).decisive()
        watched = changed.model_copy(update={"validation": {"subjects": 2}})  # then it decides which weights are best
        watched = System.model_validate({**changed.model_dump(), "validation": {"subjects": 2}})
        before = System.model_validate({**plain.model_dump(), "validation": {"subjects": 2}})
        assert Train(system="a", settings=watched).decisive() != Train(system="a", settings=before).decisive()


def test_flip_fusion_does_not_touch_a_training(labelled: Path, tmp_path: Path) -> None:
    """What is left out of the fingerprint must not be in the weights."""
    states = []
    for fused in (False, True):
        home = copied(labelled, tmp_path / str(fused))
        changes = {"flip_fusion": fused, "test_feature": "neck" if fused else "raw"}
        make, _ = runner(home, {"a": {"recipe": body(**changes)}})
        assert make.execute("train", "train").complete
        states.append(json.dumps(digest_of_weights(home)))
    assert states[0] == states[1]


def digest_of_weights(home: Path) -> dict[str, str]:
    import hashlib

    from tests.systems import checkpoint

    return {n: hashlib.sha256(t.numpy().tobytes()).hexdigest() for n, t in checkpoint(home, "a").model.items()}


# -- what is due, and why

SYSTEMS: dict[str, Any] = {
    "a": {"recipe": STRIPED},
    "b": {"recipe": loaded(), "start_from": "a", "splits": ["test"]},
    "f": {"recipe": loaded(FACE), "splits": ["test"]},
}


@pytest.fixture(scope="module")
def finished(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = copied(labelled, tmp_path_factory.mktemp("finished") / "home")
    assert train(home, SYSTEMS)[0].complete
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    return copied(finished, tmp_path / "home")


def changed(name: str, **settings: Any) -> dict[str, Any]:
    return {**SYSTEMS, name: {**SYSTEMS[name], **settings}}


def every(system: str, reason: str) -> list[str]:
    return [f"embed/{system}/{video}: {reason}" for video in VIDEOS]


def test_nothing_is_due_after_a_run(finished: Path) -> None:
    assert due(finished, SYSTEMS) == []
    make, executor = runner(finished, SYSTEMS)
    make.resources = executor.resources = Resources(workers=3, threads=2, batch=1, cache_bytes=0)
    assert make.due(None, "embed") == []
    assert make.due(None, None) == ["evaluate/metrics: never made"]


def test_a_changed_recipe_trains_and_embeds_and_so_do_its_children(finished: Path) -> None:
    systems = changed("a", recipe=body(optimiser={"rate": 0.01}))
    said = "recipe.optimiser.rate 0.0004 -> 0.01"
    assert due(finished, systems) == [
        f"train/a/training: {said}",
        "train/b/training: train/a is made again (after train/a)",
        *every("a", f"{said}, train/a is made again (after train/a)"),
        *every("b", "train/b is made again (after train/b)"),
    ]
    lines = runner(finished, systems, ["f"])[0].due("train", "embed")
    assert lines == []


def test_another_recipe_is_said_in_three_words(finished: Path) -> None:
    systems = changed("a", recipe=loaded(VIT))
    del systems["b"]
    assert due(finished, systems)[0] == (
        "train/a/training: recipe.backbone striped -> mini, recipe.image_height_px 80 -> 64, "
        "recipe.schedule.length 3.0 -> 0.0, recipe.width 8 -> 32, and 1 more"
    )
    systems = {"a": {"recipe": loaded(FACE)}}
    assert due(finished, systems)[0] == "train/a/training: recipe.use body -> face, manifest removed"


def test_what_only_embedding_looks_at_trains_nothing(finished: Path) -> None:
    said = "recipe.test_feature raw -> neck"
    assert due(finished, changed("a", recipe=body(test_feature="neck"))) == every("a", said)
    said = "recipe.flip_fusion true -> false"
    assert due(finished, changed("f", recipe=loaded(FACE, flip_fusion=False))) == every("f", said)
    said = "splits [train, test] -> [test]"
    assert due(finished, changed("a", splits=["test"])) == [
        line + (", manifest changed" if "_a: " in line else "") for line in every("a", said)
    ]


def test_parts_decide_weights_too(finished: Path) -> None:
    lines = due(finished, {"a": {"recipe": VIT}})
    assert lines[0].startswith("train/a/training: recipe.backbone")
    one, two = (
        Train(system="a", settings=System.model_validate({"recipe": {**VIT, "parts": p}})) for p in ([], ["face"])
    )
    assert one.decisive() != two.decisive()


def test_other_boxes_make_everything_due_in_its_order(finished: Path) -> None:
    settings = study({})
    lines = due(finished, SYSTEMS, detect={**settings["detect"], "stride": 2})
    assert [line for line in lines if line.startswith(("manifest", "train", "embed/b"))] == [
        "manifest/manifest: "
        + ", ".join(f"crop/videos/{v} is made again" for v in ("LWIR-30m_a", "LWIR-30m_b", "VIS-500m_a", "VIS-500m_b"))
        + " (after crop)",
        "train/a/training: manifest is made again (after manifest)",
        "train/b/training: train/a is made again (after train/a)",
        *every("b", "crop is made again, manifest is made again, train/b is made again (after crop)"),
    ]
    assert not [line for line in lines if line.startswith("train/f")]


def test_a_lost_checkpoint_is_made_again_and_with_the_same_bytes_nothing_else(home: Path) -> None:
    before = digests(home / "run", "train", "embed")
    (home / "run" / "train" / "a" / "last.pt").unlink()
    lines = due(home, SYSTEMS)
    assert lines[:2] == [
        "train/a/training: damaged, made again: train/a/last.pt is missing",
        "train/b/training: train/a is made again (after train/a)",
    ]
    outcome, ran = train(home, SYSTEMS)
    assert outcome.complete
    assert ran == ["train/a/training"]
    assert digests(home / "run", "train", "embed") == before


def test_an_edited_checkpoint_is_not_taken_for_what_was_made(home: Path) -> None:
    """Of its size: another system's file put in its place, say."""
    path = home / "run" / "train" / "a" / "last.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert (
        due(home, SYSTEMS)[0]
        == "train/a/training: damaged, made again: train/a/last.pt is not the file that was made: its content changed"
    )
    assert train(home, SYSTEMS)[1] == ["train/a/training"]
    path.write_bytes(bytes(data) + b"more")
    size = len(data)
    assert (
        due(home, SYSTEMS)[0]
        == f"train/a/training: damaged, made again: train/a/last.pt has {size + 4} bytes, expected {size}"
    )


def test_a_system_that_is_asked_for_brings_what_it_starts_from(labelled: Path, tmp_path: Path) -> None:
    home = copied(labelled, tmp_path / "home")
    make, executor = runner(home, SYSTEMS, ["b"])
    assert make.execute("train").complete
    assert [unit for unit in executor.ran if unit.startswith("train")] == ["train/a/training", "train/b/training"]
    assert not (home / "run" / "train" / "f").exists()
    assert [line.partition(":")[0] for line in due(home, SYSTEMS)] == [
        "train/f/training",
        *(f"embed/f/{video}" for video in VIDEOS),
    ]


def test_what_waits_is_said_once(finished: Path, tmp_path: Path) -> None:
    """A video that failed: the manifest is refused with a reason, the systems wait for it, and keep what they have."""
    home = copied(finished, tmp_path / "home", data=True)
    run, video = Run(home / "run"), home / "data" / "videos" / "VIS-500m_b.mp4"
    video.write_bytes(video.read_bytes()[:-2000])
    make, _ = runner(home, {**SYSTEMS, "alone": {"recipe": loaded()}})
    outcome = make.execute()
    assert [f"{f.stage}/{f.key}" for f in outcome.failures] == ["detect/videos/VIS-500m_b"]
    assert len(outcome.refused) == 1
    assert outcome.refused[0].startswith("manifest: not made, because 1 of 4 videos are not done (videos/VIS-500m_b)")
    assert {stage: tally.note for stage, tally in outcome.tallies.items() if tally.note} == {
        "manifest": "refused",
        "train/a": "waits for manifest",
        "train/b": "waits for train/a",
        "embed/a": "waits for manifest",
        "embed/b": "waits for manifest",
        "embed/f": "waits for manifest",
        "embed/alone": "waits for manifest",
        "evaluate": "waits for manifest",
    }
    assert outcome.tallies["train/alone"].ran == 1  # it needs nobody's crops
    later = make.execute("train")
    assert later.tallies["train/a"].note.startswith("waits for manifest, which is due: ")
    assert run.receipt("train/a", "training") is not None


# -- how far they are, and what they are


def test_status_and_inspection_of_what_is_done_failed_and_waits(home: Path) -> None:
    systems = {
        **SYSTEMS,
        "bad": {"recipe": body(), "train_domains": ["NIR-15m"]},
        "child": {"recipe": loaded(), "start_from": "bad"},
    }
    outcome, _ = train(home, systems)
    assert not outcome.complete
    for gone in (False, True):
        if gone:  # the receipts alone tell
            (home / "data").unlink()
        found = {s.stage: (s.total, s.done, s.due, s.failed) for s in status(home / "run").stages}
        assert {name: found[name] for name in found if "/" in name} == {
            "train/a": (1, 1, 0, 0),
            "train/b": (1, 1, 0, 0),
            "train/f": (1, 1, 0, 0),
            "train/bad": (1, 0, 0, 1),
            "train/child": (1, 0, 1, 0),
            "embed/a": (4, 4, 0, 0),
            "embed/b": (4, 4, 0, 0),
            "embed/f": (4, 4, 0, 0),
            "embed/bad": (4, 0, 4, 0),
            "embed/child": (4, 0, 4, 0),
        }
        assert found["manifest"] == (1, 1, 0, 0)
    failures = status(home / "run").failures
    assert [(f["stage"], f["key"]) for f in failures] == [("train/bad", "training")]
    said = inspect(home / "run")
    assert {name: value for name, value in said.facts.items() if name.startswith("system ")} == {
        "system a": "trained for 3 steps; 64 vectors in 4 of 4 videos",
        "system b": "loaded, not trained; 32 vectors in 4 of 4 videos",
        "system bad": "failed; 0 vectors in 0 of 4 videos",
        "system f": "loaded, not trained; 32 vectors in 4 of 4 videos",
    }
    assert [f["stage"] for f in said.failures] == ["train/bad"]
    Run(home / "run").discard("embed/a", VIDEOS[0])
    Run(home / "run").record_failure(Failure("embed/a", VIDEOS[0], "DataError", "no"))
    said = inspect(home / "run")
    assert said.facts["system a"] == "trained for 3 steps; 48 vectors in 3 of 4 videos"
    assert said.facts["failed"] == 0  # of videos up to their crops
    shutil.rmtree(home / "run" / "train" / "a")
    assert inspect(home / "run").facts["system a"] == "not trained; 0 vectors in 0 of 4 videos"
    for command in (["status"], ["inspect"]):
        done = call(*command, home / "run").calm()
        assert done.code == 0, done
        assert "train/bad" in done.out


def test_inspection_of_a_training_a_part_of_vectors_and_a_checkpoint(finished: Path) -> None:
    train_a = finished / "run" / "train" / "a"
    table = inspect(train_a / "training.parquet")
    assert table.what == "the table training of mdfpipe, made by the stage train/a for training"
    assert table.counts["figure"]["loss/identity"] == 1
    assert table.observed["steps"] == 3
    part = inspect(finished / "run" / "embed" / "a" / "videos__VIS-500m_b.parquet")
    assert part.what == "the table embeddings of mdfpipe, made by the stage embed/a for videos/VIS-500m_b"
    assert part.counts["status"] == {"ok": 16}
    assert {column.name: column.meaning for column in part.columns}["vector"].startswith("the embedding, raw")
    found = inspect(finished / "run" / "train" / "b" / "last.pt")
    assert found.kind == "weights"
    assert found.what == "a checkpoint of mdfpipe: the system b, recipe body"
    facts = found.facts
    assert (facts["system"], facts["starts from"], facts["trained"]) == ("b", "a", "not: only loaded")
    assert (facts["subjects"], facts["subjects here and before"]) == (0, 2)
    found = inspect(train_a / "last.pt")
    assert found.facts["trained"] == "1 epochs, 3 steps"
    assert found.facts["subjects"] == 2
    assert found.facts["starts from"] == "random weights"
    assert "loss/identity" in found.facts["figures"]
    assert call("inspect", train_a / "last.pt").calm().out.startswith(f"{train_a / 'last.pt'}  a checkpoint of mdfpipe")


def test_a_foreign_weight_file_is_not_opened(tmp_path: Path) -> None:
    """Only one that says it is ours is read, and what that says cannot run."""
    import torch

    class Evil:
        def __reduce__(self) -> tuple[Any, Any]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Evil()}, tmp_path / "foreign.pt")
    found = inspect(tmp_path / "foreign.pt")
    assert any("nothing in it was opened: refused" in note for note in found.notes), found.notes
    torch.save(
        {"format": "mdfpipe checkpoint 1", "system": "a", "recipe": {}, "model": {}, "x": Evil()}, tmp_path / "a.pt"
    )
    with pytest.raises(Exception, match="cannot be read as a checkpoint"):
        inspect(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_a_system_needs_a_study_that_has_some(labelled: Path) -> None:
    make: Runner = runner(labelled, {})[0]
    with pytest.raises(ConfigError, match="the study names no systems"):
        make.execute("train")


def test_systems_of_no_whole_table_are_told_what_it_needs_besides(labelled: Path, tmp_path: Path) -> None:
    """The table is the one that has the most of them, and not one that is smaller."""
    systems = {name: {"recipe": loaded()} for name in ("a", "b", "c", "d")}
    tables = {"one": {"title": "One", "systems": ["d"]}, "all": {"title": "All", "systems": ["a", "b", "c"]}}
    home = copied(labelled, tmp_path, data=True)
    make: Runner = runner(home, systems, only=["a"], evaluate={"tables": tables})[0]
    with pytest.raises(ConfigError, match="--system: table all also needs b, c; name all of a table, or leave"):
        make.span("evaluate", "evaluate")
    assert "evaluate: nothing to compare: table all also needs b, c" in make.execute().notes
