"""The documents say what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from mdfpipe.cli import app
from mdfpipe.config import Plugin
from mdfpipe.datasets import Dataset
from mdfpipe.store import tables
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.detectors import Detector

ROOT = Path(__file__).parents[1]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_generated_pages_are_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, "scripts/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_an_example_and_a_place_in_the_readme(name: str) -> None:
    text = COMMANDS[name].help or ""
    assert len(text.split()) > 5
    assert f"Example: mdfpipe {name} " in text
    assert f"mdfpipe {name}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    for parameter in COMMANDS[name].params:
        assert parameter.help or parameter.name == "help", parameter.name


@pytest.mark.parametrize("family", [Dataset, Decoder, Detector])
def test_every_setting_of_every_variant_is_explained(family: type[Plugin]) -> None:
    for choice in family.choices():
        for name, field in family.variant(choice).model_fields.items():
            assert field.description, f"{choice}.{name}"


def test_every_column_is_explained() -> None:
    schemas = [v for n, v in vars(tables).items() if n.isupper() and type(v).__name__ == "Schema"]
    assert len(schemas) == 9
    for schema in schemas:
        for field in schema:
            assert len(field.metadata[b"meaning"]) > 5


def test_every_file_that_the_readme_names_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"`((?:pipelines|manifests|scripts|docs|mdfpipe)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\(((?!http)[\w./-]+)\)", text):
        assert (ROOT / name).exists(), name


def test_the_readme_holds_no_mark_to_be_filled_in() -> None:
    assert "@@" not in (ROOT / "README.md").read_text()


def test_the_package_holds_code_templates_and_one_weight_file() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    made = subprocess.run(["git", "ls-files", "mdfpipe"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = made.stdout.splitlines()
    assert "mdfpipe/cli.py" in names
    others = [name for name in names if Path(name).suffix not in (".py", ".j2")]
    assert others == ["mdfpipe/weights/yolov10n-synthetic.pt"]
    assert (ROOT / others[0]).stat().st_size < 6_000_000


def test_the_demo_weights_say_what_they_are_wherever_they_are_named() -> None:
    named = 0
    for place in [ROOT / "README.md", *(ROOT / "pipelines").rglob("*.yaml"), *(ROOT / "docs").glob("*.md")]:
        text = place.read_text()
        if "yolov10n-synthetic" in text or "weights: demo" in text or "demo weights" in text.lower():
            named += 1
            assert "synthetic data only" in text.replace("\n", " ").lower(), place
    assert named >= 4
    import torch

    content = torch.load(ROOT / "mdfpipe" / "weights" / "yolov10n-synthetic.pt", weights_only=True)
    assert content["note"].startswith("synthetic data only")


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
        "assert not {'pyarrow', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "for name in mdfpipe.__all__: assert getattr(mdfpipe, name) is not None, name\n"
        "assert 'torch' not in sys.modules\n"
    )
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
