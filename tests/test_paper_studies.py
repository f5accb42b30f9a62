"""The studies of the paper's tables: against its text, what they share, and a tiny one from end to end."""

from __future__ import annotations

import json
import runpy
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from mdfpipe.config import read_yaml
from mdfpipe.errors import ConfigError, DataError
from mdfpipe.evaluation.study import evaluate
from mdfpipe.evaluation.vectors import SystemVectors
from mdfpipe.learning.system import System
from mdfpipe.learning.train.checkpoint import Checkpoint
from mdfpipe.running.runner import Runner
from mdfpipe.running.synthesis import synthesise
from mdfpipe.stages import Context, Inputs, Resources
from mdfpipe.stages.evaluate import _mined
from mdfpipe.stages.material import material
from mdfpipe.store.run import Receipt, Run, write_table
from mdfpipe.store.tables import CROPS, SUBJECTS, VIDEOS, chosen
from mdfpipe.study.study import Study
from mdfpipe.synth.presets import PRESETS
from tests.inline import Inline
from tests.runs import call_here

PIPELINES = Path(__file__).parents[1] / "pipelines"
IJBMDF = PIPELINES / "ijbmdf"
FILES = [f"table-{number}" for number in (1, 3, 4, 5, 6, 7)]
TABLES = ["table-1", "table-1-common", *FILES[1:]]
PRINTED = ("published", "published_n", "published_mining", "also_published", "published_note")
INFRARED = ("SWIR-30m", "MWIR-30m", "LWIR-30m")

# Copied by hand from the paper: Rank-1 in per cent, SWIR/MWIR/LWIR.
THREE_COLUMNS = {
    "table-1": {
        "face-pretrained": "87.50/0.00/3.12",
        "face-finetuned": "59.38/15.62/15.62",
        "body-pretrained": "38.10/9.52/11.11",
        "body-finetuned": "77.78/77.78/77.78",
    },
    "table-3": {
        "body-finetuned": "77.78/77.78/77.78",
        "body-no-upper": "76.19/73.02/69.84",  # the paper: no face
        "body-no-middle": "79.37/76.19/66.67",  # no torso
        "body-no-lower": "79.37/74.60/73.02",  # no lower body
    },
    "table-5": {
        "body-pretrained": "38.10/9.52/11.11",
        "body-vis-swir": "79.37/34.92/25.40",
        "body-finetuned": "77.78/77.78/77.78",
    },
    "table-6": {"body-random": "79.37/73.02/71.43", "body-finetuned": "77.78/77.78/77.78"},
}
WEIGHTED = {"face-pretrained-weighted", "face-finetuned-weighted"}
UNPUBLISHED = {"body-vis", *WEIGHTED}  # rows of ours in the paper's tables
TABLE_FOUR = """
VIS-500m  -,26.95,5.00,3.55
SWIR-30m  42.55,-,12.85,10.36
MWIR-30m  11.43,30.52,-,95.58
LWIR-30m  11.35,27.09,95.98,-
"""
TABLE_SEVEN = """
8   49.21/33.33/34.92 | 55.56/39.68/38.10
16  61.90/47.62/41.27 | 65.08/47.62/49.21
32  61.90/60.32/49.21 | 66.67/71.43/63.49
48  68.25/65.08/58.73 | 71.43/60.32/65.08
96  82.54/71.43/66.67 | 74.60/68.25/66.67
"""


def three(text: str) -> dict[str, float]:
    return dict(zip(INFRARED, map(float, text.split("/")), strict=True))


def published() -> dict[str, dict[str, dict[str, float]]]:
    """Every number of the paper, by table, system, and probe domain or pair."""
    found = {name: {s: three(text) for s, text in rows.items()} for name, rows in THREE_COLUMNS.items()}
    domains = ("VIS-500m", *INFRARED)
    matrix = {}
    for line in TABLE_FOUR.split("\n")[1:-1]:
        gallery, values = line.split()
        matrix |= {f"{gallery}>{p}": float(v) for p, v in zip(domains, values.split(","), strict=True) if v != "-"}
    found["table-4"] = {"body-pretrained": matrix}
    rows = [line.split(maxsplit=1) for line in TABLE_SEVEN.split("\n")[1:-1]]
    found["table-7"] = {
        f"body-{kind}{subjects}": three(text)
        for subjects, both in rows
        for kind, text in zip(("", "lora-"), both.split(" | "), strict=True)
    }
    return found


@pytest.fixture(scope="module")
def paper() -> Study:
    return Study.load(IJBMDF / "paper.yaml")


# -- against the paper


def test_every_published_number_stands_beside_its_own(paper: Study) -> None:
    tables = paper.evaluate.tables
    assert list(tables) == TABLES
    assert {name: table.published for name, table in tables.items() if table.published} == published()
    assert tables["table-1-common"].systems == tables["table-1"].systems
    for name, rows in published().items():
        assert {*tables[name].systems} - UNPUBLISHED == {*rows}
        for system, numbers in rows.items():
            for where, value in numbers.items():
                gallery, _, probe = where.rpartition(">")
                assert tables[name].paper(system, gallery or "VIS-500m", probe, "rank-1") == pytest.approx(value / 100)
                assert tables[name].paper(system, gallery or "VIS-500m", probe, "rank-5") is None


def test_the_published_numbers_are_whole_subjects() -> None:
    """k of 63 (body), 32 (face), and the n of each pair of Table IV: a slip of the pen would not be."""
    of_pair = {frozenset(("VIS", "SWIR")): 141, frozenset(("VIS", "MWIR")): 140, frozenset(("VIS", "LWIR")): 141}
    of_pair |= {frozenset(("SWIR", "MWIR")): 249, frozenset(("SWIR", "LWIR")): 251, frozenset(("MWIR", "LWIR")): 249}
    tables = Study.load(IJBMDF / "paper.yaml").evaluate.tables
    for name, rows in published().items():
        for system, numbers in rows.items():
            for where, value in numbers.items():
                pair = frozenset(part.partition("-")[0] for part in where.split(">"))
                n = of_pair[pair] if name == "table-4" else 32 if system.startswith("face") else 63
                assert any(abs(100 * k / n - value) < 0.0051 for k in range(n + 1)), (name, system, where)
                gallery, _, probe = where.rpartition(">")
                assert tables[name].other_n(system, gallery or "VIS-500m", probe, n) == []
                assert "is of" in tables[name].other_n(system, gallery or "VIS-500m", probe, n - 1)[0]


def test_tables_are_scored_as_the_paper_scores(paper: Study) -> None:
    for name, table in paper.evaluate.tables.items():
        assert (table.by, table.pooling, table.unmated, table.failure) == ("subject", "mean", "exclude", "exclude"), (
            name
        )
        assert table.same_probes == (name != "table-1")  # there the paper's face is k of 32 and its body k of 63
        assert not table.allow_trained_subjects
        whole = name == "table-4"
        assert (table.pairs, table.splits) == (("all", ["train", "test"]) if whole else ("roles", ["test"]))
        assert table.title.startswith("Table ")
    protocol = paper.manifest.protocol
    assert (protocol.gallery_domains, tuple(protocol.probe_domains)) == (["VIS-500m"], INFRARED)
    assert protocol.galleries == {"1": "train", "2": "test"}
    assert protocol.domains == ["VIS-500m", *INFRARED]


def test_what_the_systems_are(paper: Study) -> None:
    systems = paper.systems
    trained = sorted(name for name, system in systems.items() if system.trains)
    sizes = (8, 16, 32, 48, 96)
    small = [f"body-{kind}{n}" for n in sizes for kind in ("", "lora-")]
    assert trained == sorted(["face-finetuned", "body-finetuned", "body-vis", "body-vis-swir", "body-random", *small])
    weights = {name: system.weights for name, system in systems.items() if system.weights}
    assert weights == {
        "body-pretrained": "pass_vit_base_full.pth",
        "face-pretrained": "adaface_ir101_webface12m.ckpt",
    }
    assert sum(system.trains for system in paper.trainings.values()) == 5 + 3 * len(small)
    full = settings(systems["body-finetuned"])
    assert full["recipe"]["batches"]["sampler"] == "domain_aware"
    assert full["recipe"]["triplet"]["margin"] == 0
    for name, domains in (("body-vis", ["VIS-500m"]), ("body-vis-swir", ["VIS-500m", "SWIR-30m"])):
        crops = 8 // len(domains)  # so that batches are as large as those of four domains
        assert changed(full, systems[name]) == {"train_domains": domains, "recipe.batches.crops": crops}
    assert changed(full, systems["body-random"]) == {"recipe.batches.sampler": "random"}
    for left_out in ("upper", "middle", "lower"):
        system = systems[f"body-no-{left_out}"]
        assert (system.start_from, system.trains) == ("body-finetuned", False)
        assert system.recipe.model_dump()["parts"] == [p for p in ("upper", "middle", "lower") if p != left_out]
    plain = {"flip_fusion": False, "unit_length": True}
    for name in ("face-pretrained", "face-finetuned"):  # the paper's templates first, AdaFace's own beside them
        assert {key: getattr(systems[name].recipe, key) for key in plain} == plain
        weighted = systems[f"{name}-weighted"]
        assert (weighted.start_from, weighted.trains) == (name, False)
        assert changed(settings(systems[name])["recipe"], settings(weighted)["recipe"]) | {"schedule": 0} == {
            "flip_fusion": True,
            "unit_length": None,
            "schedule": 0,
        } | ({"schedule.length": 0, "schedule.warm_up": 0} if name == "face-finetuned" else {})
    for n in sizes:
        random = {"recipe.batches.sampler": "random", "max_subjects": n, "complete_first": True, "seeds": [0, 1, 2]}
        assert changed(full, systems[f"body-{n}"]) == random
        lora = {"recipe.lora": {"rank": 8, "alpha": 16, "dropout": 0}, "recipe.optimiser.rate": 0.004}
        assert changed(full, systems[f"body-lora-{n}"]) == random | lora


def test_what_lies_beside_the_four_domains_has_no_part(tmp_path: Path) -> None:
    """A further domain, whose subjects may be anybody: the same rows train and are searched as without it."""
    stage = Study.load(PIPELINES / "synthetic" / "paper.yaml").manifest
    made = {}
    for name, domains in (("four", ("VIS-500m", *INFRARED)), ("six", ("VIS-500m", *INFRARED, "NIR", "VIS-300m"))):
        run = filmed(tmp_path / name, {domain: 6 if domain == "NIR" else 4 for domain in domains})
        inputs = Inputs(run, videos=tuple(domains))
        made[name] = stage.process("manifest", inputs, Context(tmp_path, Resources(), lambda name: tmp_path / name))
    kept = [m.table.filter(pc.not_equal(m.table["split"].cast(pa.string()), "unused")) for m in made.values()]
    assert kept[0].num_rows == 16
    assert kept[0].to_pylist() == kept[1].to_pylist()
    assert [one["domain"] for one in made["six"].facts["outside"]] == ["NIR", "VIS-300m"]
    assert [one["rows"] for one in made["six"].facts["outside"]] == [6, 4]
    assert made["four"].facts["outside"] == []


def filmed(folder: Path, subjects: dict[str, int]) -> Run:
    """A run folder as `manifest` reads it: a video of each domain, with crops of so many subjects."""
    run = Run(folder)
    videos = [{"video_id": domain, "domain": domain, "band": domain.partition("-")[0]} for domain in subjects]
    run.commit(Receipt("index", 1, "videos", {}, {}), whole(VIDEOS, videos), {})
    listed = [{"subject_id": f"s{number}", "gallery": "1" if number % 2 else "2"} for number in range(4)]
    write_table(folder / "index" / "subjects.parquet", whole(SUBJECTS, listed))
    for domain, count in subjects.items():
        common = {"modality": "body", "video_id": domain, "status": "ok", "named_by": "face"}
        rows = [{"crop_id": f"{domain}/{n}", "subject_id": f"s{n}", **common} for n in range(count)]
        run.commit(Receipt("crop", 1, domain, {}, {}), whole(CROPS, rows), {})
    return run


def whole(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    """A table of texts, with "" and 0 where the rows say nothing."""
    columns = []
    for field in schema:
        text = pa.types.is_string(field.type) or pa.types.is_dictionary(field.type)
        values = pa.array([row.get(field.name, "" if text else 0) for row in rows])
        columns.append(values.cast(field.type))
    return pa.table(columns, schema=schema)


def settings(system: System) -> dict[str, Any]:
    return system.model_dump(mode="json")


def changed(usual: dict[str, Any], system: System | dict[str, Any], under: str = "") -> dict[str, Any]:
    """The settings of a system that are others than the usual, by dotted name."""
    own = settings(system) if isinstance(system, System) else system
    found: dict[str, Any] = {}
    for name in own.keys() | usual.keys():
        a, b = own.get(name), usual.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= changed(b, a, f"{under}{name}.")
        elif a != b:
            found[under + name] = a
    return found


# -- the whole paper on six made-up domains, against counts of our own


OTHERS = ("NIR-30m", "VIS-300m")
FOUR = ("VIS-500m", *INFRARED)


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory, paper: Study) -> tuple[Run, dict[tuple[str, str, str], Counter[str]]]:
    """A run up to the manifest, and the crops by (subject, domain, modality), counted by video.

    People are in one to three videos a domain, of unequal lengths; many lack a domain, and some are seen by one of face
    and body alone. Two domains are not the protocol's.
    """
    run, there = Run(tmp_path_factory.mktemp("six")), dict[tuple[str, str, str], Counter[str]]()
    rows: dict[str, list[dict[str, Any]]] = {}
    for d, domain in enumerate((*FOUR, *OTHERS)):
        for s in range(60):
            if (domain == "VIS-500m" and s % 3 == 1) or (domain == "MWIR-30m" and s % 7 == 2):
                continue
            for v in range(1 + (s + d) % 3):
                video = f"{domain}_{(s + v) % 5}"
                for modality in ("body", "face"):
                    lost = {"body": s % 11 == 5 and d == 1, "face": (s + 2 * d) % 5 == 0}[modality]
                    for n in range(0 if lost else 1 + (s + 2 * v + d) % (9 if d else 4)):
                        there.setdefault((f"s{s:02d}", domain, modality), Counter())[video] += 1
                        named = {"crop_id": f"{video}/{s}/{n}/{modality}", "subject_id": f"s{s:02d}", "video_id": video}
                        more = {
                            "modality": modality,
                            "status": "ok",
                            "named_by": "face",
                            "shard": "a.tar",
                            "codec": "jpeg",
                        }
                        rows.setdefault(video, []).append(named | more)
    videos = [{"video_id": v, "domain": v.rpartition("_")[0], "band": v.partition("-")[0]} for v in sorted(rows)]
    run.commit(Receipt("index", 1, "videos", {}, {}), whole(VIDEOS, videos), {})
    listed = [{"subject_id": f"s{s:02d}", "gallery": "1" if s % 2 else "2"} for s in range(60)]
    write_table(run.path / "index" / "subjects.parquet", whole(SUBJECTS, listed))
    for video, own in rows.items():
        run.commit(Receipt("crop", 1, video, {}, {}), whole(CROPS, own), {})
    context = Context(run.path, Resources(), lambda name: run.path / name)
    made = paper.manifest.process("manifest", Inputs(run, videos=tuple(sorted(rows))), context)
    settings = {"protocol": paper.manifest.protocol.model_dump(mode="json")}
    run.commit(Receipt("manifest", 1, "manifest", settings, {}), made.table, made.files)
    return run, there


def people(there: Any, modality: str, gallery: int | None = None) -> dict[str, dict[str, int]]:
    """subject -> domain of the protocol -> crops. gallery: 1 trains, 2 tests."""
    found: dict[str, dict[str, int]] = {}
    for (subject, domain, kind), videos in there.items():
        if kind == modality and domain in FOUR and gallery in (None, 1 if int(subject[1:]) % 2 else 2):
            found.setdefault(subject, {})[domain] = videos.total()
    return found


def test_every_training_has_the_batches_of_its_row(six: Any, paper: Study) -> None:
    run, there = six
    train = people(there, "body", 1)
    whole_ones = {name for name, of in train.items() if len(of) == 4}
    assert 10 < len(whole_ones) < len(train) == 30
    subsets: dict[int, set[str]] = {}
    for name, system in paper.systems.items():
        if not system.trains or system.recipe.modality == "face":
            continue
        domains = system.train_domains or FOUR
        for seed in (system.seeds or [0])[:2]:
            given = material(name, system.model_copy(update={"seed": seed, "seeds": None}), run, run.path)
            crops, subjects = given.crops, set(given.crops.subjects)
            own = {s: {d: n for d, n in of.items() if d in domains} for s, of in train.items()}
            own = {s: of for s, of in own.items() if of}
            if system.max_subjects:
                own = {s: own[s] for s in subjects}
                assert len(subjects) == min(system.max_subjects, 30)
                assert whole_ones <= subjects or subjects <= whole_ones
                if seed == 0:
                    subsets[system.max_subjects] = subjects
            assert Counter(crops.subjects[s] for s in crops.subject) == {s: sum(of.values()) for s, of in own.items()}
            sampler = system.recipe.sampler(crops, seed)
            aware = name in ("body-finetuned", "body-vis", "body-vis-swir")
            eligible = {s for s, of in own.items() if len(of) == len(domains)} if aware else set(own)
            total = sum(sum(own[s].values()) for s in eligible)
            draws = [draw.row for draw in sampler.epoch(0)]
            assert {len(rows) for rows in draws} == {64}, name
            assert len(draws) == -(-total // 64), name
            drawn = Counter[str]()
            for rows in draws:
                who = Counter(crops.subjects[s] for s in crops.subject[rows])
                where = Counter(crops.domains[d] for d in crops.domain[rows])
                assert set(who.values()) == {8}
                assert set(who) <= eligible
                if aware:
                    assert set(where.values()) == {64 // len(domains)}
                drawn += where
            if name == "body-random":  # as the subjects' crops have the domains, and not evenly
                wanted = [sum(of.get(d, 0) / sum(of.values()) for of in own.values()) / len(own) for d in crops.domains]
                many = [draw.row for epoch in range(1, 9) for draw in sampler.epoch(epoch)]
                found = np.bincount(crops.domain[np.concatenate(many)], minlength=4) / (64 * len(many))
                assert found == pytest.approx(wanted, abs=0.03)
                assert max(wanted) > 1.5 * min(wanted)
    assert subsets[8] < subsets[16] < subsets[32] == subsets[96]


def test_every_table_has_the_paper_s_rows_and_the_denominators_of_the_people(six: Any, paper: Study) -> None:
    run, there = six
    manifest = run.table("manifest", "manifest").sort_by([("video_id", "ascending"), ("crop_id", "ascending")])
    systems = []
    for number, (name, system) in enumerate(paper.systems.items()):
        rows = chosen(manifest, system.recipe.modality, system.splits)
        who = np.array([int(s[1:]) for s in rows["subject_id"].to_pylist()])
        vectors = np.random.default_rng(number).standard_normal((60, 5))[who].astype(np.float32)
        learned = frozenset(people(there, "body", 1)) if system.trains else frozenset()
        blocks = partial(iter, [vectors])
        systems.append(
            SystemVectors(name, system.recipe.modality, "cosine", rows, np.ones(len(who), bool), blocks, learned)
        )
    tables = {n: t.model_copy(update={"metrics": ["rank-1"]}) for n, t in paper.evaluate.tables.items()}
    found = evaluate(tables, systems, manifest, paper.manifest.protocol)
    body, face = people(there, "body", 2), people(there, "face", 2)

    def both(of: dict[str, dict[str, int]], a: str, b: str) -> set[str]:
        return {name for name, domains in of.items() if a in domains and b in domains}

    expected: dict[tuple[str, ...], int] = {}
    for name, table in tables.items():
        for system in [*table.systems, *table.fusions]:
            if name == "table-4":
                every = people(there, "body")
                expected |= {(name, system, a, b): len(both(every, a, b)) for a in FOUR for b in FOUR if a != b}
                continue
            for b in INFRARED:
                own = both(face if system.startswith("face") else body, "VIS-500m", b)
                if name == "table-1-common":
                    own = both(face, "VIS-500m", b) & both(body, "VIS-500m", b)
                expected[name, system, "VIS-500m", b] = len(own)
    numbers = {
        (r["table"], r["system"], r["gallery_domain"], r["probe_domain"]): r["n"]
        for r in found.metrics
        if r["probe_domain"] != "pooled"
    }
    assert numbers == expected
    assert len({n for (name, *_), n in expected.items() if name == "table-1"}) > 3  # face and body are of other probes
    for row in found.metrics:
        assert (row["published"] is not None) == (
            row["table"] != "table-1-common" and row["system"] not in UNPUBLISHED and row["probe_domain"] != "pooled"
        ), row
    said = [note for entry in found.tables.values() for note in entry["notes"] if "the published number is of" in note]
    counted = {f"{a} > {b}: {s}: the published number" for (t, s, a, b) in expected if t != "table-1-common"}
    assert {note.partition(" is of")[0] for note in said} <= counted
    assert "SWIR-30m > MWIR-30m: body-pretrained: the published number is of 249 probes, this one of " in "\n".join(
        said
    )


# -- what is shared


@pytest.mark.parametrize("name", FILES)
def test_a_table_alone_is_a_part_of_the_paper(name: str, paper: Study) -> None:
    """The same systems under the same settings, so that one run folder serves all; and no other is trained."""
    alone = Study.load(IJBMDF / f"{name}.yaml")
    own = [table for table in TABLES if table.startswith(name)]
    assert alone.evaluate.tables == {table: paper.evaluate.tables[table] for table in own}
    assert alone.systems.items() <= paper.systems.items()
    used = {*alone.evaluate.tables[name].systems}
    while more := {s.start_from for n, s in alone.systems.items() if n in used and s.start_from} - used:
        used |= more
    assert alone.systems.keys() == used
    assert (alone.dataset, alone.detect, alone.label, alone.crop) == (
        paper.dataset,
        paper.detect,
        paper.label,
        paper.crop,
    )
    assert len((IJBMDF / f"{name}.yaml").read_text().splitlines()) < 60


# -- the same study on rendered people


@pytest.mark.parametrize("name", ["paper", "tiny-paper"])
def test_the_synthetic_studies_have_the_tables_of_the_paper(name: str, paper: Study) -> None:
    """The same tables in the same manner, but for the number of subjects in VII; and nothing published beside them."""
    made = Study.load(PIPELINES / "synthetic" / f"{name}.yaml")
    assert list(made.evaluate.tables) == TABLES
    for key, table in made.evaluate.tables.items():
        own, usual = table.model_dump(), paper.evaluate.tables[key].model_dump()
        assert [own.pop(key, None) or {} for key in PRINTED] == [{}] * len(PRINTED)
        assert usual.pop("title").startswith(own.pop("title"))
        systems = own.pop("systems"), usual.pop("systems")
        assert own == {name: value for name, value in usual.items() if name not in PRINTED}, key
        assert key == "table-7" or len(systems[0]) == len({*systems[1]} - UNPUBLISHED)
    sizes = [made.systems[n].max_subjects for n in made.evaluate.tables["table-7"].systems]
    assert sizes == sorted(sizes, key=lambda n: n or 0)
    loras = ["lora" in n for n in made.evaluate.tables["table-7"].systems]
    assert loras == [False, True] * (len(sizes) // 2)


def test_the_synthetic_study_goes_on_from_the_smaller_one() -> None:
    """What both train is trained under the same settings: a run folder of `study` is a beginning of `paper`."""
    study, whole = (Study.load(PIPELINES / "synthetic" / f"{name}.yaml") for name in ("study", "paper"))
    for name in ("body-pretrained", "body-finetuned"):
        assert whole.systems[name].weight_settings() == study.systems[name].weight_settings(), name
    assert (whole.dataset, whole.detect, whole.label, whole.crop, whole.manifest) == (
        study.dataset,
        study.detect,
        study.label,
        study.crop,
        study.manifest,
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """HOME/data and HOME/run of the tiny study, and the units that ran."""
    home = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], frames=3))
        synthesise(home / "data", "tiny", crops=4, faces=4)
    return home, tiny_run(home)


def tiny_run(home: Path) -> list[str]:
    executor = Inline(Resources(threads=1))
    pipeline = Study.load(PIPELINES / "synthetic" / "tiny-paper.yaml")
    outcome = Runner(pipeline, Run(home / "run"), home / "data", executor.resources, executor).execute()
    assert outcome.complete, (outcome.failures, outcome.refused)
    return executor.ran


def test_every_table_gets_its_rows(tiny: tuple[Path, list[str]]) -> None:
    document = json.loads((tiny[0] / "run" / "evaluate" / "metrics.json").read_text())
    tables = Study.load(PIPELINES / "synthetic" / "tiny-paper.yaml").evaluate.tables
    found = Counter((r["table"], r["system"], r["gallery_domain"], r["probe_domain"]) for r in document["metrics"])
    domains = ("VIS-500m", *INFRARED)
    expected: dict[tuple[str, ...], int] = {}
    for name, table in tables.items():
        means = len([metric for metric in table.metrics if metric.startswith(("rank-", "map", "minp"))])
        for system in [*table.systems, *table.fusions]:
            if table.pairs == "all":
                expected |= {(name, system, a, b): len(table.metrics) for a in domains for b in domains}
            else:
                expected |= {(name, system, "VIS-500m", b): len(table.metrics) for b in INFRARED}
                expected[name, system, "VIS-500m", "pooled"] = means
    assert found == expected
    across = [r for r in document["metrics"] if r["gallery_domain"] != r["probe_domain"]]
    rank_one = [r for r in across if r["metric"] == "rank-1" and r["probe_domain"] != "pooled"]
    assert all(0 < r["n"] <= (8 if r["table"] == "table-4" else 4) for r in rank_one)
    assert any(r["n"] > 4 for r in rank_one)
    for name in {*tables} - {"table-1"}:  # the same probes for every system
        assert all(
            len({r["n"] for r in rank_one if (r["table"], r["probe_domain"]) == (name, d)}) == 1 for d in INFRARED
        )
    same = [r for r in rank_one if r["system"] == "body-finetuned" and r["table"] in ("table-3", "table-5", "table-6")]
    assert len(same) == 9
    assert len({(r["probe_domain"], r["value"], r["n"], r["k"]) for r in same}) == 3


def test_hard_mining_is_printed_with_the_paper_s(tiny: tuple[Path, list[str]]) -> None:
    """Shares of the first and the last epoch, from the log of the training."""
    table = Study.load(IJBMDF / "table-6.yaml").evaluate.tables["table-6"]
    log = Run(tiny[0] / "run").table("train/body-finetuned", "training").to_pylist()
    said = _mined(Inputs(Run(tiny[0] / "run")), "body-finetuned", table.published_mining["body-finetuned"])
    for name, published in (("pos_other", "92 and 88 %"), ("neg_same", "87 and 45 %")):
        own = [row["value"] for row in log if row["figure"] == f"mining/{name}" and row["anchor_domain"] is None]
        assert f"{100 * own[0]:.1f} and {100 * own[-1]:.1f} % (published {published})" in said
    other = _mined(Inputs(Run(tiny[0] / "run")), "body-no-face", table.published_mining["body-finetuned"])
    assert "unknown (published 92" in other


def test_what_tables_share_is_done_once_and_a_second_call_does_nothing(tiny: tuple[Path, list[str]]) -> None:
    home, ran = tiny
    assert len(set(ran)) == len(ran)
    stages = Counter(stage for unit in ran for stage in unit.split("/")[0].split("+"))
    systems = Study.load(PIPELINES / "synthetic" / "tiny-paper.yaml").systems
    videos = stages["detect"]
    assert stages == {
        "index": 1,
        **dict.fromkeys(("detect", "label", "crop"), videos),
        "manifest": 1,
        "train": len(systems),
        "embed": len(systems) * videos,
        "evaluate": 1,
    }
    assert tiny_run(home) == []


# -- side information, and ranges


def test_side_information_and_ranges(tiny: tuple[Path, list[str]], tmp_path: Path) -> None:
    """The tiny form runs on the same crops; the studies of IJB-MDF ask for the same tables."""
    shutil.copytree(tiny[0] / "run", tmp_path / "run", ignore=shutil.ignore_patterns("train", "embed", "evaluate"))
    study = Study.load(PIPELINES / "synthetic" / "tiny-side-information.yaml")
    executor = Inline(Resources(threads=1))
    outcome = Runner(study, Run(tmp_path / "run"), tiny[0] / "data", executor.resources, executor).execute()
    assert outcome.complete, (outcome.failures, outcome.refused)
    assert not any(unit.startswith(("detect", "crop")) for unit in executor.ran)
    document = json.loads((tmp_path / "run" / "evaluate" / "metrics.json").read_text())
    found = Counter((r["table"], r["system"]) for r in document["metrics"] if r["metric"] == "rank-1")
    systems = ("body-finetuned", "body-domain", "body-camera", "body-both")
    assert found == {("cross-range", "body-finetuned"): 16, **{("side-information", name): 4 for name in systems}}
    both = Checkpoint.load(tmp_path / "run" / "train" / "body-both" / "last.pt")
    named = sorted(name.removeprefix("side.") for name in both.model if name.startswith("side."))
    bands = ["LWIR", "MWIR", "SWIR", "VIS"]
    assert named == [f"camera.of {b}" for b in bands] + [f"domain.of {d}" for d in sorted(("VIS-500m", *INFRARED))]
    for name in ("side-information", "cross-range"):
        table = Study.load(IJBMDF / f"{name}.yaml").evaluate.tables[name]
        assert table.pairs == study.evaluate.tables[name].pairs
        assert name == "cross-range" or table.systems == study.evaluate.tables[name].systems


# -- the studies of ablations


def test_the_ablations_in_short_form_become_their_page(tiny: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Some rows with small pictures and two steps: trained, validated and compared by the command, then printed."""
    whole = read_yaml(PIPELINES / "synthetic" / "ablations.yaml")
    rows = {"idkl": ["pretrained", "idkl", "idkl-no-confusers"], "vit": ["vit"]}
    study = read_yaml(PIPELINES / "synthetic" / "tiny.yaml") | {"name": whole["name"]}
    study["systems"] = {name: shortened(whole["systems"][name]) for names in rows.values() for name in names}
    tables = whole["evaluate"]["tables"]
    study["evaluate"] = {"tables": {name: tables[name] | {"systems": own} for name, own in rows.items()}}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(study))
    shutil.copytree(tiny[0] / "run", tmp_path / "run", ignore=shutil.ignore_patterns("train", "embed", "evaluate"))
    run = ("run", tmp_path / "short.yaml", "--data", tiny[0] / "data", "--run", tmp_path / "run", "--threads", "1")
    assert call_here(*run, "--workers", "1").code == 0
    ours = runpy.run_path(str(PIPELINES.parent / "scripts" / "ablations_page.py"))
    forms = {whole["name"]: ours["read"](tmp_path / "run")}
    assert json.loads(ours["text"](forms)) == forms
    made = forms[whole["name"]]["tables"]
    assert {name: list(table) for name, table in made.items()} == rows
    assert len(made["vit"]["vit"]["figures"]["validation/part_match"]) == 2
    plain, without = (made["idkl"][name] for name in rows["idkl"][1:])
    assert [len(row["figures"]["validation/domain_probe"]) for row in (plain, without)] == [2, 2]
    for metric, against in without["against"].items():
        assert [*against] == [*INFRARED, "pooled"]
        for domain, found in against.items():
            value, usual = (row["numbers"][metric][domain]["value"] for row in (without, plain))
            assert found["difference"] == pytest.approx(value - usual, abs=2e-4)
            assert found["low"] <= found["difference"] <= found["high"]
            assert found["verdict"] == "untested", "four subjects are too few"
    kept = forms[whole["name"]]
    part = kept | {"tables": {"vit": made["vit"]}, "seconds": {"pretrained": 1, "vit-seed-0": 2}}
    both = ours["_with_kept"](part, kept, tmp_path)
    assert list(both["tables"]) == ["idkl", "vit"]
    assert both["seconds"] == kept["seconds"] | part["seconds"], "a start of several tables was trained once"
    with pytest.raises(DataError, match=r"subjects is 99, in the run of the other tables \d+: their numbers do not"):
        ours["_with_kept"](part | {"subjects": 99}, kept, tmp_path)
    with pytest.raises(DataError, match=r"expected a run of synthetic-ablations or .*, found one of synthetic-tiny"):
        ours["read"](tiny[0] / "run")
    page = ours["page"](forms)
    assert "| `idkl-no-confusers` | the confusers (L_C) |" in page
    follows = [about["follows"] for about in yaml.safe_load(ours["WORDS"].read_text())["methods"].values()]
    assert page.count("Not run yet.") == follows.count("") + 12, "five methods here, seven in two domains"


def shortened(system: dict[str, Any]) -> dict[str, Any]:
    """The same with small pictures, batches and trainings."""
    batches = {"subjects": 2, "crops": 2}
    batches |= {name: 2 for name in ("further_subjects", "further_crops") if name in system["recipe"]["batches"]}
    recipe = system["recipe"] | {"image_height_px": 64, "image_width_px": 32}
    recipe["batches"] = recipe["batches"] | batches
    recipe["schedule"] = recipe["schedule"] | {"length": 2, "warm_up": 0}
    short = {"seeds": [0, 1], "validation": {"subjects": 2, "every": 10000}} if "seeds" in system else {}
    return system | {"recipe": recipe} | short


# -- extends


def test_sections_go_over_those_of_the_files_that_are_extended(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.yaml").write_text("name: a\nx: {use: one, p: 1, q: 2}\ny: {use: one, p: 1}\nz: [1, 2]\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nname: b\nx: {p: 3}\n")
    (tmp_path / "deep" / "c.yaml").write_text(
        "extends: [../a.yaml, ../b.yaml]\nname: c\ny: {use: two}\nz: [3]\nx: {r: 4}\n"
    )
    assert read_yaml(tmp_path / "deep" / "c.yaml") == {
        "name": "c",
        "x": {"use": "one", "p": 3, "q": 2, "r": 4},
        "y": {"use": "two"},
        "z": [3],
    }


def test_what_cannot_be_extended_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: [a.yaml]\n")
    with pytest.raises(ConfigError, match=r"b\.yaml: extends: .*a\.yaml extends itself"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("extends: nowhere.yaml\n")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        read_yaml(tmp_path / "b.yaml")
    (tmp_path / "b.yaml").write_text("extends: {a: 1}\n")
    with pytest.raises(ConfigError, match=r"b\.yaml: extends: expected a file, or a list of files"):
        read_yaml(tmp_path / "b.yaml")
