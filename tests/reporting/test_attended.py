"""`inspect CHECKPOINT --crops CROPS`: what a network attends to in crops of a run, or of a folder of images."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.inspecting.attended import attention_of
from mdfpipe.inspecting.inspection import inspect_and_write
from mdfpipe.learning.system import Start, System, checkpoint_of
from tests.learning.made import DOMAINS, picture, write_run
from tests.reporting.test_results_page import check_self_contained
from tests.runs import call_here

VIT = {"use": "body", "backbone": "mini", "blocks": 2, "image_height_px": 64, "image_width_px": 32}
BANDS = VIT | {"stem": "resnet", "local": "band", "global": "mean", "fusion": "four"}
KINDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "tokens": (VIT, ["global", "face", "torso", "lower body"]),
    "bands": (BANDS, ["face", "torso", "lower body"]),
    "two halves": (VIT | {"parts": ["upper", "lower"]}, ["global", "upper", "lower"]),
    "global only": (VIT | {"parts": []}, ["global"]),
    "striped": ({"use": "body", "backbone": "striped", "width": 8, "image_height_px": 96, "image_width_px": 32}, []),
}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    write_run(folder, 6, lacking={1: {DOMAINS[2]}}, clips=1)
    return folder


def checkpoint(folder: Path, recipe: dict[str, Any], domains: tuple[str, ...] = DOMAINS) -> Path:
    torch.manual_seed(0)
    system = System(recipe=recipe, train_on=["run"])
    state = system.recipe.model(3, domains).state_dict()
    about = {"subjects": ["a", "b", "c"], "trained_domains": list(domains), "notes": ["it was never trained"]}
    checkpoint_of("drawn", system, state, Start(), **about).save(folder / "last.pt")
    return folder / "last.pt"


@pytest.mark.parametrize("kind", KINDS)
def test_a_panel_for_each_token(kind: str, crops: Path, tmp_path: Path) -> None:
    recipe, names = KINDS[kind]
    path = checkpoint(tmp_path, recipe)
    page, sheet = tmp_path / "a.html", tmp_path / "a.png"
    done = inspect_and_write(path, crops=crops, html=page, sheet=sheet)
    assert done.files == [str(sheet), str(page)]
    text = page.read_text()
    check_self_contained(text)
    figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    assert len(figures) == 4 * 3  # four of the five subjects in every domain, spread; a crop of each
    for figure in figures:
        panels = re.findall(r'<span class="panel"><img src="([^"]*)".*?<small>([^<]*)</small>', figure, re.DOTALL)
        assert [name for _, name in panels] == ["crop", "evidence", *names]
        assert len({source for source, _ in panels}) == len(panels)
    assert "<h3>0001</h3>" not in text
    assert "it was never trained" in text
    assert ("no maps of tokens" in text) == (not names)
    for name in names:
        (line,) = (line for line in done.lines if line.startswith(f"{name}: attention on "))
        own = {"face": "face 100 %", "torso": "torso 100 %", "lower body": "lower body 100 %"}.get(name)
        assert (own is not None and own in line) == (kind == "bands")
    pixels = np.asarray(Image.open(io.BytesIO(sheet.read_bytes())))
    assert pixels.shape[1] == 3 * ((120 + 2) * (2 + len(names)) + 12) - 12
    again = tmp_path / "b.html"
    inspect_and_write(path, crops=crops, html=again)
    assert again.read_bytes() == page.read_bytes()


def test_maps_are_those_of_the_network(crops: Path, tmp_path: Path) -> None:
    """Its tokens attend to what `SemanticViT.attended` says; people are hidden unless they are asked for."""
    path = checkpoint(tmp_path, VIT)
    found = attention_of(path, crops, show_people=True)
    for one in found.panels:
        assert one.maps is not None
        np.testing.assert_allclose(one.maps.maps.sum((1, 2)), 1, atol=1e-5)
        subject, domain = int(one.subject), DOMAINS.index(one.domain)
        whole = cv2.resize(picture(subject, domain, 0, 1), (120, 240), interpolation=cv2.INTER_CUBIC)
        assert np.abs(one.plain.astype(int) - whole[..., ::-1]).mean() < 12  # of the first clip the second frame
    hidden = attention_of(path, crops).panels[0].plain
    assert len(np.unique(hidden.reshape(-1, 3), axis=0)) < 0.1 * len(
        np.unique(found.panels[0].plain.reshape(-1, 3), axis=0)
    )


def test_a_folder_of_images(tmp_path: Path) -> None:
    for subject, frames in (("ann", 1), ("bob", 3)):
        (tmp_path / "images" / subject).mkdir(parents=True)
        for frame in range(frames):
            cv2.imwrite(str(tmp_path / "images" / subject / f"{frame}.png"), picture(len(subject), 0, 0, frame))
    (tmp_path / "images" / "bob" / "3.png").write_bytes(b"no image")
    path = checkpoint(tmp_path, VIT, ("VIS",))
    outputs = ("--html", tmp_path / "a.html", "--sheet", tmp_path / "a.png")
    said = call_here("inspect", path, "--crops", tmp_path / "images", *outputs)
    assert said.code == 0, said.err
    printed = said.out + said.err
    assert "2 crops of ann, bob" in printed  # of one domain two of each subject, and one of bob's does not decode
    assert "no evidence for ann, bob: one crop cannot be compared with itself" in printed
    assert printed.count("bob/3.png") == 1
    crop = tmp_path / "images" / "ann" / "0.png"
    before = crop.read_bytes()
    said = call_here("inspect", path, "--crops", tmp_path / "images", "--sheet", crop)
    assert "would overwrite a crop; name another file" in said.line()
    assert crop.read_bytes() == before


def test_crops_of_which_none_decodes_are_one_line(tmp_path: Path) -> None:
    for subject in ("ann", "bob"):
        (tmp_path / "images" / subject).mkdir(parents=True)
        (tmp_path / "images" / subject / "0.png").write_bytes(b"no image")
    path = checkpoint(tmp_path, VIT, ("VIS",))
    for output in (tmp_path / "a.html", tmp_path / "a.png"):
        option = "--html" if output.suffix == ".html" else "--sheet"
        said = call_here("inspect", path, "--crops", tmp_path / "images", option, output)
        assert "2 crops, of which none can be shown: " in said.line()
        assert not output.exists()


def test_what_cannot_be_shown(crops: Path, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, VIT)
    (tmp_path / "none").mkdir()
    for thing, given, words in (
        (crops, {"html": tmp_path / "a.html"}, "expected a checkpoint of mdfpipe"),
        (path, {}, "expected --sheet PICTURE or --html PAGE"),
        (path, {"html": tmp_path / "a.html", "csv": tmp_path / "a.csv"}, "and no other output"),
        (path, {"sheet": tmp_path / "a.gif"}, "expected a name that ends in .png"),
        (path, {"html": path}, "would overwrite what it inspects"),
    ):
        with pytest.raises(ConfigError, match=words):
            inspect_and_write(thing, crops=crops, **given)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="expected a run folder with a manifest, or SUBJECT/IMAGE files, found neither"):
        inspect_and_write(path, crops=tmp_path / "none", html=tmp_path / "a.html")
