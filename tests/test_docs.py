"""The documents say what the code says."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import typer

import mdfpipe
from mdfpipe.cli.commands import app
from mdfpipe.config import Config, Plugin, validate
from mdfpipe.datasets import Dataset
from mdfpipe.evaluation import published
from mdfpipe.evaluation.table import AT_A_SHARE, PLAIN
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.system import System
from mdfpipe.store import tables
from mdfpipe.store.results import NOTES
from mdfpipe.store.shipped import demo_weights
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.detectors import Detector
from tests.drawn import draw
from tests.learning.made import write_run
from tests.runs import call_here

ROOT = Path(__file__).parents[1]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_generated_pages_are_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, "scripts/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_is_not_cut_off_an_example_and_a_place_on_the_page(name: str) -> None:
    text = COMMANDS[name].help or ""
    assert len(text.split()) > 5
    assert len(text.splitlines()[0]) <= 60, "mdfpipe --help cuts it off"
    assert f"Example: mdfpipe {name} " in text
    assert f"mdfpipe {name}" in (ROOT / "docs" / "cli.md").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    for parameter in COMMANDS[name].params:
        assert parameter.help or parameter.name == "help", parameter.name


def test_every_variable_of_the_environment_is_on_the_page() -> None:
    """Those that the source names, ours or others'."""
    source = "".join(path.read_text() for path in (ROOT / "mdfpipe").rglob("*.py"))
    read = re.findall(r"environ(?:\.get|\.setdefault)?[(\[]\"([A-Z]\w+)\"", source)
    found = {*read, *re.findall(r"\bMDFPIPE_[A-Z_]+\b", source)}
    assert {"MDFPIPE_DATA", "MDFPIPE_WEIGHTS", "ORT_DISABLE_TELEMETRY"} <= found
    page = (ROOT / "docs" / "cli.md").read_text().partition("## Environment")[2]
    assert {name for name in found if f"`{name}`" not in page} == set()
    ours = set(re.findall(r"`(MDFPIPE_\w+)`", page))
    assert ours <= found, "no longer read"


def below(config: type[Config]) -> set[type[Config]]:
    """A section and all that are in it; of a family, its variants."""
    if issubclass(config, Plugin) and Plugin in config.__bases__:
        return set().union(*(below(config.variant(choice)) for choice in config.choices()))
    found, waiting = {config}, [field.annotation for field in config.model_fields.values()]
    while waiting:
        kind = waiting.pop()
        waiting += typing.get_args(kind)
        if isinstance(kind, type) and issubclass(kind, Config):
            found |= below(kind)
    return found


@pytest.mark.parametrize("family", [Dataset, Decoder, Detector, Recipe, System])
def test_every_setting_is_explained_in_the_code_and_on_the_page(family: type[Config]) -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    sections = below(family)
    assert len(sections) > (5 if family is Recipe else 0)
    for section in sections:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            assert f"| {field.description.replace('|', chr(92) + '|')} |" in page, f"{section.__name__}.{name}"


def test_a_section_given_in_part_keeps_the_rest_and_the_page_says_what_that_is() -> None:
    kind: Any = Recipe.variant("face")
    assert kind().augment.colour == "bgr"
    found = validate(kind, {"augment": {"flip": 0.0}}, "here").augment
    assert (found.flip, found.colour, found.erasing) == (0.0, "bgr", 0.0)
    page = (ROOT / "docs" / "settings.md").read_text()
    section = page.partition("## systems.NAME.recipe (use: face).augment")[2].partition("\n## ")[0]
    assert "| colour | `bgr` |" in section
    whole = page.partition("## systems.NAME.recipe (use: body).augment")[2].partition("\n## ")[0]
    assert "| colour | `rgb` |" in whole


def test_every_recipe_has_a_section_with_its_source_and_its_defaults() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    overview, _, *sections = page.split("\n## ")[1:]
    assert [section.partition(":")[0] for section in sections] == Recipe.methods()
    for section, choice in zip(sections, Recipe.methods(), strict=True):
        assert "**Differs" in section
        for name in Recipe.variant(choice).model_fields:
            assert f"| {name} |" in section or f"| {name}." in section, f"{choice}.{name}"
        assert f"| [{choice}](#{choice}) |" in overview
        assert f'<a id="{choice}"></a>' in page


def test_numbers_on_the_page_are_the_published_ones() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    overview, _, *sections = page.split("\n## ")[1:]
    for section, choice in zip(sections, Recipe.methods(), strict=True):
        lines = [line.split(" | ") for line in section.splitlines() if line.count("|") == 7][2:]
        rows = published.of(choice)
        assert len(lines) == len(rows)
        for cells, row in zip(lines, rows, strict=True):
            assert cells[0] == f"| {row.table}"
            figures = ", ".join(f"{name} {value:.2f}" for name, value in row.figures.items())
            assert cells[5] == f"{figures} |"
    table = [line.split(" | ") for line in overview.splitlines() if line.startswith("| [")]
    costs = {cells[0].split("]")[0][3:]: cells[5:8] for cells in table}
    assert costs["dfw"] == ["38.71", "7.551", "15.101"]
    assert "a multiplication with its addition counts as one" in overview


def test_the_public_weights_on_the_page_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text().partition("## Public weights")[2].partition("\n### ")[0]
    named = re.findall(r"^\| ([\w -]+?) \|", page, re.MULTILINE)[1:]
    weights = ROOT / "mdfpipe" / "learning" / "models" / "weights"
    code = "".join((weights / f"{name}.py").read_text() for name in ("public", "timm_layouts"))
    assert len(named) == 9
    assert [name for name in named if f'"{name}"' not in code] == []


@pytest.mark.parametrize("choice", Recipe.methods())
def test_every_key_of_a_line_of_metrics_is_explained(choice: str, tmp_path: Path) -> None:
    import torch

    from mdfpipe.learning.data.crops import from_manifest
    from mdfpipe.learning.data.loader import CropReader, Loader
    from mdfpipe.learning.embedding import as_embedded
    from mdfpipe.learning.train.loop import fit
    from mdfpipe.learning.train.state import Job

    kind: Any = Recipe.variant(choice)
    recipe = validate(kind, kind.tiny | {"schedule": {"length": 1, "unit": "steps", "warm_up": 0}}, choice)
    run = write_run(tmp_path, modality=recipe.modality, size=(recipe.image_height_px, recipe.image_width_px))
    crops = from_manifest(run.table("manifest", "manifest"), tmp_path, modality=recipe.modality)
    reader = CropReader(crops, recipe.image_height_px, recipe.image_width_px, recipe.depth)
    loader = Loader(crops, reader, recipe.augment, seed=0, threads=1)
    model = recipe.model(len(crops.subjects), crops.domains)
    lines: list[dict[str, Any]] = []
    batches = as_embedded(recipe, crops, reader, crops.domains, batch=8, threads=1)
    more = {"validate": lambda model: 0.5, "every": 1, "log": lines.append}
    more["measure"] = torch.no_grad()(lambda model: recipe.measure(model, batches))
    fit(Job(recipe, model, crops, loader, 0, tmp_path / "state.pt", "f", **more))
    page = (ROOT / "docs" / "formats.md").read_text().partition("## metrics.jsonl")[2].partition("\n## ")[0]
    meaning = dict(re.findall(r"^\| ([\w/-]+) \| (.*) \|$", page, re.MULTILINE))
    (line,) = lines
    validated = {name for name in line if name.startswith("validation/")}
    measured = {name.removesuffix("_chance") for name in validated} - meaning.keys()
    assert {
        n for n in measured if not re.search(rf"\b{n[11:]}\b[^;]*of `{choice}`", meaning["validation/NAME"])
    } == set()
    assert all(0 <= line[name] <= 1 for name in validated)
    own = {n.partition("/")[0] for n in line.keys() - meaning.keys() - validated if not n.startswith("loss/")}
    assert own == {name for name in own if re.search(rf"\b{name}\b[^;]*of `{choice}`", meaning["NAME"])}
    assert {name for name in line.get("mining", {}) if name not in meaning["mining"]} == set()
    assert {"epoch", "step", "rate", "validation/rank-1", "images_per_second", "seconds"} <= line.keys()
    assert ("mining" in line) == (choice != "lccrf")  # tuples are drawn, not mined


def test_every_column_is_explained() -> None:
    schemas = [v for n, v in vars(tables).items() if n.isupper() and type(v).__name__ == "Schema"]
    assert len(schemas) == 19
    page = (ROOT / "docs" / "formats.md").read_text()
    assert "| vector | fixed_size_list<float32>[D] | yes |" in page
    for schema in [*schemas, tables.embeddings(4)]:
        for field in schema:
            assert len(field.metadata[b"meaning"]) > 5


def test_every_metric_column_and_note_is_defined_on_its_page() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = {
        name
        for line in page.splitlines()
        if line.startswith("| `")
        for name in re.findall("`([^`]+)`", line.split("|")[1])
    }
    asked = {"rank-K", *PLAIN, *(f"{kind}=A" for kind in AT_A_SHARE)}
    assert asked <= rows
    assert set(tables.METRICS.names) <= rows
    assert set(tables.NumberNote) == {*NOTES} <= rows
    bold = re.findall(r"^- \*\*(`.+?`)\*\*", page, re.MULTILINE)
    assert asked <= {name for names in bold for name in re.findall("`([^`]+)`", names)}


def test_every_file_that_the_readme_names_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"`((?:pipelines|manifests|scripts|docs|mdfpipe)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\(((?!http)[\w./-]+)\)", text):
        assert (ROOT / name).exists(), name


def test_every_source_file_that_a_page_names_is_there() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+\.py)`", page.read_text()))
        assert sorted(name for name in named if not any((ROOT / at / name).exists() for at in ("", "mdfpipe"))) == []


def test_the_readme_holds_no_mark_to_be_filled_in() -> None:
    assert "@@" not in (ROOT / "README.md").read_text()


def test_the_package_holds_code_and_templates_and_its_weights_are_a_package_of_their_own() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    made = subprocess.run(["git", "ls-files", "mdfpipe"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = made.stdout.splitlines()
    assert "mdfpipe/cli/__init__.py" in names
    assert [name for name in names if Path(name).suffix not in (".py", ".pyi", ".typed", ".j2", ".css")] == []
    assert demo_weights().is_relative_to(ROOT / "weights")
    assert demo_weights().stat().st_size < 6_000_000


def test_the_demo_weights_say_what_they_are_wherever_they_are_named() -> None:
    named = 0
    for place in [ROOT / "README.md", *(ROOT / "pipelines").rglob("*.yaml"), *(ROOT / "docs").glob("*.md")]:
        text = place.read_text()
        if "yolov10n-synthetic" in text or "weights: demo" in text or "demo weights" in text.lower():
            named += 1
            assert "synthetic data only" in text.replace("\n", " ").lower(), place
    assert named >= 4
    import torch

    content = torch.load(demo_weights(), weights_only=True)
    assert content["note"].startswith("synthetic data only")


SMALL = "backbone: mini, image_height_px: 96, image_width_px: 48, schedule: {length: 1, warm_up: 0}"


def test_the_study_of_the_tutorial_goes_from_videos_to_numbers(tmp_path: Path) -> None:
    """As it is written, but for names, boxes and the size of its network: two of four drawn people train."""
    draw(tmp_path / "data")
    text = re.findall(r"```yaml\n(name: mine\n.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.DOTALL)[0]
    for written, here in (
        ("subjects: {ann: train, bob: train}", "subjects: {s01: train, s02: train}"),
        ("use: yolo, weights: yolov10x.pt", "use: precomputed, boxes: boxes.csv"),
        ('videos: ["videos/*/*"]', 'videos: ["videos/*"]'),
        ("[0-9]+m)/", "[0-9]+m)_"),
        (
            "{use: body, ",
            "{use: body, backbone: mini, image_height_px: 96, image_width_px: 48, schedule: {length: 1, warm_up: 0}, ",
        ),
    ):
        assert text.count(written) == 1, written
        text = text.replace(written, here)
    (tmp_path / "mine.yaml").write_text(text)
    said = call_here("run", tmp_path / "mine.yaml", "--data", tmp_path / "data", "--run", tmp_path / "run")
    assert said.code == 0, said
    assert mdfpipe.open(tmp_path / "run").metrics.num_rows > 0


def test_help_is_quick_and_light() -> None:
    """No heavy library is loaded to print help. (How quick: scripts/bench help.)"""
    script = (
        "import sys; sys.argv = ['mdfpipe', '--help']\n"
        "from mdfpipe.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'cv2', 'pandas', 'pyarrow', 'scipy', 'matplotlib', 'numpy', 'av'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert "Example" not in made.stdout
    assert "Usage: " in made.stdout


def test_the_public_names_are_there_and_light() -> None:
    script = (
        "import mdfpipe, sys\n"
        "assert not {'pyarrow', 'numpy', 'pydantic', 'pandas'} & set(sys.modules)\n"
        "for name in mdfpipe.__all__: assert getattr(mdfpipe, name) is not None, name\n"
        "assert 'torch' not in sys.modules\n"
    )
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


def test_the_site_builds_offline_without_dead_links(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    made = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        assert not re.search(r"""<(script|link|img|iframe)[^>]+(src|href)=["']?(https?:)?//""", page.read_text()), page


def test_words_to_avoid_are_found_with_their_line_and_not_in_code() -> None:
    script = ROOT / "scripts" / "words.py"
    found = runpy.run_path(str(script))["findings"]("page.md", "Good.\nIt begins anew.\n\n    anew\n`anew`\n")
    assert list(found) == ["page.md:2: 'anew'; better: again"]
    source = 'def f():\n    """Good, `anew`.\n\n    anew: it begins anew.\n\n    >>> anew\n    """\n    return "anew"\n'
    found = runpy.run_path(str(script))["findings"]("module.py", source)
    assert list(found) == ["module.py:4: 'anew'; better: again"]
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout
