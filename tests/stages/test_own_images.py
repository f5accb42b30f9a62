"""Vectors of one's own images: those of the stage embed for the same pixels, files of every kind, what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image

import mdfpipe
from mdfpipe.learning.data.crops import from_crops
from mdfpipe.learning.data.loader import CropReader
from mdfpipe.learning.embedders import TorchEmbedder
from mdfpipe.learning.embedding import embed, open_model
from mdfpipe.learning.own_images import FoundImages, _stream
from mdfpipe.learning.recipes import Recipe
from mdfpipe.running.own_images import embed_folders
from mdfpipe.store.run import Run
from mdfpipe.store.shards import read_crop
from tests.runs import call_here
from tests.systems import STRIPED, copied, train

VIDEOS = {"8 bits": "videos/VIS-500m_b", "16 bits": "videos/LWIR-30m_b"}


@pytest.fixture(scope="module")
def home(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a trained system `a`, and its crops of two videos as files of a folder."""
    home = copied(labelled, tmp_path_factory.mktemp("own") / "home")
    assert train(home, {"a": {"recipe": STRIPED}})[0].complete
    return home


@pytest.fixture(scope="module")
def weights(home: Path) -> Path:
    return home / "run" / "train" / "a" / "last.pt"


def crops_of(home: Path, video: str) -> Any:
    table = Run(home / "run").table("crop", video)
    return table.filter(pc.equal(table["modality"].cast("string"), "body")).slice(0, 5)


@pytest.mark.parametrize("kind", VIDEOS)
def test_vectors_are_those_of_the_stage(kind: str, home: Path, weights: Path, tmp_path: Path) -> None:
    """To the last bit: files of the same bytes, any number of images at a time; arrays of the same pixels."""
    rows = crops_of(home, VIDEOS[kind])
    recipe, network = open_model(weights)
    crops = from_crops(rows, home / "run", "VIS-500m")
    reader = CropReader(crops, recipe.image_height_px, recipe.image_width_px, recipe.depth)
    expected = np.concatenate([found for _, found in embed(TorchEmbedder(recipe, network), crops, reader)])
    files, arrays = [], []
    for row in rows.to_pylist():
        data = read_crop(home / "run" / row["shard"], row["offset"], row["size"], row["crc32"])
        files.append(tmp_path / f"{len(files)}.{row['codec']}")
        files[-1].write_bytes(data)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
        arrays.append(pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    embedder = mdfpipe.Embedder(weights)
    order = np.argsort(crops.crop_id.to_pylist())
    np.testing.assert_array_equal(embedder(files), expected[np.argsort(order)])
    # a JPEG of twice the network's size is decoded at half of it, as the stage does; an array is not
    apart = np.abs(embedder(arrays) - expected[np.argsort(order)]).max() / np.abs(expected).max()
    assert apart == 0 if kind == "16 bits" else 0 < apart < 0.1
    np.testing.assert_array_equal(embedder(str(files[0])), embedder(files)[:1])


def test_a_folder(home: Path, weights: Path, tmp_path: Path) -> None:
    """Every image has a row, in the order of the paths; others are counted."""
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, kind in (
        ("b/one.png", np.uint8),
        ("a.jpg", np.uint8),
        ("deep.tiff", np.uint16),
        (".hidden.png", np.uint8),
    ):
        cv2.imwrite(str(folder / name), generator.integers(0, 255, (90, 40, 3)).astype(kind))
    (folder / "torn.jpg").write_bytes((folder / "a.jpg").read_bytes()[:200])
    (folder / "notes.txt").write_text("no image")
    out = tmp_path / "v.parquet"
    said = call_here(
        "embed", str(folder), "--weights", str(weights), "--out", str(out), "--threads", "1", "--json", folder=tmp_path
    )
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert (told["images"], told["vectors"], told["others"], list(told["bad"])) == (4, 3, 1, ["torn.jpg"])
    table = mdfpipe.read_table(out)
    assert table["path"].to_pylist() == ["a.jpg", "b/one.png", "deep.tiff", "torn.jpg"]
    assert table["status"].to_pylist() == ["ok", "ok", "ok", "unreadable"]
    found = mdfpipe.Embedder(weights)([folder / "a.jpg", folder / "b" / "one.png", folder / "deep.tiff"])
    np.testing.assert_array_equal(np.stack(table["vector"].to_pylist()[:3]), found)
    facts = json.loads(table.schema.metadata[b"mdfpipe.weights"])
    assert (facts["weights"], facts["recipe"], len(facts["sha256"])) == ("last.pt", "body", 64)
    assert "which `mdfpipe embed` wrote" in call_here("inspect", str(out)).out.splitlines()[0]


def test_images_as_they_lie_about(home: Path, weights: Path, tmp_path: Path) -> None:
    """Links are followed, but not round; what cannot be read or named is counted; images given twice have one row."""
    folder = tmp_path / "photos"
    (folder / "real").mkdir(parents=True)
    cv2.imwrite(str(folder / "real" / "a.png"), np.zeros((9, 9, 3), np.uint8))
    (folder / "linked").symlink_to("real")
    (folder / "real" / "round").symlink_to("..")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "lfs.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n")
    shutil.copy(folder / "real" / "a.png", os.fsencode(folder) + b"/\xff.png")  # no UTF-8
    found = FoundImages.below([folder])
    assert found.names == ["gone.png", "lfs.png", "linked/a.png", "real/a.png"]
    assert (found.others, found.again, found.unnamed) == (0, 0, 1)
    assert FoundImages.below([folder, folder / "real" / "a.png"]).again == 1
    out = tmp_path / "v.parquet"
    done = embed_folders([folder], weights, out)
    assert (done.vectors, done.unnamed) == (2, 1)
    assert "a link to nowhere.png" in done.bad["gone.png"]
    assert "a Git LFS pointer" in done.bad["lfs.png"]
    assert "left out: 1 image whose name is no UTF-8 text; rename" in done.lines()
    grey = torch.zeros(9, 9, 3, dtype=torch.uint8)
    torn = tmp_path / "torn.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(torn)
    torn.write_bytes(torn.read_bytes()[:1500])
    embedder = mdfpipe.Embedder(weights)
    np.testing.assert_array_equal(embedder(grey), embedder(grey.numpy()))
    with pytest.raises(mdfpipe.MdfError, match="image 0: cannot be read: "):
        embedder(Image.open(torn))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda e: e(["missing.png"]), r"missing\.png: cannot be read: No such file"),
        (lambda e: e([np.zeros((4, 4), np.float32)]), "image 0: expected pixels of uint8 or uint16, got float32"),
        (lambda e: e(np.zeros((8, 6, 4), np.uint8)), r"image 0: .* got \(8, 6, 4\)"),  # and no eight images
        (lambda e: e(Image.new("I", (4, 4), 40000)), "expected pixels of uint8 or uint16, got int32"),
        (lambda e: e([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 2), np.uint8)]), r"image 1: .* got \(4, 4, 2\)"),
        (lambda e: mdfpipe.Embedder("missing.pt"), "missing.pt: expected a file, found none"),
        (lambda e: mdfpipe.Embedder(__file__), "expected a checkpoint of `mdfpipe train`, got a text that begins"),
        (lambda e: mdfpipe.Embedder(e.weights, recipe="body"), "expected settings with their `use`, .* got 'body'"),
        (lambda e: mdfpipe.Embedder(e.weights, domain="infrared"), "--domain: expected <BAND> or .* got 'infrared'"),
        (lambda e: e("a\0b"), "cannot be read: embedded null byte"),
        (lambda e: mdfpipe.Embedder(__file__, recipe={"use": "boddy"}), "expected one of body, .* got 'boddy'"),
        (lambda e: mdfpipe.Embedder(e.weights, device="gpu"), "--device gpu: expected cpu, cuda, cuda:N"),
        (lambda e: mdfpipe.Embedder(e.weights, device="cuda:0,cuda:1"), "expected one device, got several"),
        (lambda e: mdfpipe.Embedder(e.weights, device="cuda:99"), "no cuda:99 here"),
        (lambda e: mdfpipe.Embedder(e.weights, threads=0), "threads: expected a whole number of 1 or more, got 0"),
        (lambda e: mdfpipe.Embedder(e.weights, threads=1.5), "threads: expected a whole number of 1 or more, got 1.5"),
        (lambda e: mdfpipe.Embedder(e.weights, batch="a"), "batch: expected a whole number of 1 or more, got 'a'"),
        (lambda e: mdfpipe.Embedder(e.weights, batch=None), "batch: expected a whole number of 1 or more, got None"),
        (lambda e: mdfpipe.Embedder(e.weights, camera=5), "camera: expected a text or None, got 5"),
        (lambda e: e(None), "images: expected an image or several, got NoneType"),
        (lambda e: e(np.uint8(5)), "images: expected an image or several, got uint8"),
        (lambda e: e(np.zeros((3, 9, 8), np.uint8)), r"got \(3, 9, 8\): put the channels last, or give a list of grey"),
        (lambda e: e(torch.zeros(1, 9, 8, dtype=torch.uint8)), r"got \(1, 9, 8\): put the channels last"),
        (lambda e: e([np.zeros((9, 8), np.uint8)], cameras=5), "cameras: expected one for each of 1 image, .* got 5"),
        (lambda e: e([np.zeros((9, 8), np.uint8)], cameras=[5]), "camera: expected a text or None, got 5"),
        (lambda e: write(e, "one.png", ["a"]), "files: expected a list of paths, got 'one.png'"),
        (lambda e: write(e, ["one.png"], "a"), "names: expected a list of texts"),
        (lambda e: write(e, ["one.png"], ["a", "b"]), "names: expected one for each of 1 image, got 2"),
        (lambda e: write(e, [], []), "files: expected one image or more, got none"),
        (lambda e: mdfpipe.Embedder(e.weights, precision="int8"), "expected fp32, bf16 or fp16, got int8"),
    ],
)
def test_what_is_refused(given: Any, words: str, weights: Path) -> None:
    with pytest.raises(mdfpipe.MdfError, match=words):
        given(mdfpipe.Embedder(weights))


def write(embedder: mdfpipe.Embedder, files: Any, names: Any, out: Any = "o.parquet") -> int:
    return embedder.write(files, names, out, lambda done, total: None)[0]


def test_paths_are_text_too_and_the_weights_are_found_from_anywhere(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 20, 3), np.uint8))
    monkeypatch.chdir(weights.parent)
    embedder = mdfpipe.Embedder("last.pt")
    expected = embedder.facts()
    monkeypatch.chdir(tmp_path)
    assert write(embedder, ["a.png"], ["a"]) == 1
    assert mdfpipe.read_table("o.parquet")["path"].to_pylist() == ["a"]
    assert embedder.facts() == expected
    assert repr(embedder) == f"Embedder(body of last.pt, {embedder.features} features)"


def test_a_stack_of_grey_images_is_as_a_list_of_them(weights: Path) -> None:
    embedder = mdfpipe.Embedder(weights)
    stack = np.random.default_rng(0).integers(0, 255, (5, 40, 20)).astype(np.uint8)
    np.testing.assert_array_equal(embedder(stack), embedder(list(stack)))
    np.testing.assert_array_equal(embedder(list(stack[:3])), embedder(list(stack))[:3])


def test_the_threads_of_the_process_are_as_they_were(weights: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 20, 3), np.uint8))
    torch.set_num_threads(3)
    embedder, meanwhile = mdfpipe.Embedder(weights), list[int]()
    assert torch.get_num_threads() == 3
    embedder([tmp_path / "a.png"])
    assert torch.get_num_threads() == 3
    embedder.write(
        *([tmp_path / "a.png"], ["a"], tmp_path / "o.parquet"),
        progress=lambda done, total: meanwhile.append(torch.get_num_threads()),
    )
    assert (set(meanwhile), torch.get_num_threads()) == ({1}, 3)
    with pytest.raises(mdfpipe.DataError):
        embedder(["gone.png"])
    with pytest.raises(mdfpipe.ConfigError):
        mdfpipe.Embedder(__file__)
    assert torch.get_num_threads() == 3


def test_no_image_at_all(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("-")
    out = tmp_path / "v.parquet"
    call = ("--weights", str(weights), "--out", str(out))
    for place, words in ((tmp_path, "expected images"), (tmp_path / "no", "expected a folder or an image")):
        said = call_here("embed", str(place), *call, folder=tmp_path)
        assert said.code == 2
        assert words in said.err
    (tmp_path / "faces.csv").write_text("1,2")
    for name, got in (("faces.csv", ".csv"), ("", "a folder")):
        said = call_here("embed", str(tmp_path), *call[:3], str(tmp_path / name), folder=tmp_path)
        assert f"ends in .parquet, got {got}" in said.line()
    assert (tmp_path / "faces.csv").read_text() == "1,2"
    assert "found no " in call_here("embed", str(tmp_path), *call[:3], str(tmp_path / "no" / "v.parquet")).line()
    own = tmp_path / "own.parquet"
    own.write_bytes(b"PAR1")
    said = call_here("embed", str(tmp_path), *call[:3], str(own), folder=tmp_path)
    assert "there is a file that `mdfpipe embed` did not write" in said.line()
    assert own.read_bytes() == b"PAR1"
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    said = call_here("embed", str(tmp_path), *call, folder=tmp_path)
    assert "none of 1 image can be read; torn.png:" in said.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("recipe", "domain", "expected"),
    [
        ("body", None, "VIS-500m"),
        ("body", "NIR-5m", "NIR-5m"),
        ("di2l", "LWIR-30m", "LWIR-30m"),
        ("di2l", None, "has a stream or side information for each of VIS-500m, LWIR-30m: name the domain"),
        ("di2l", "NIR-5m", "domain NIR-5m: expected one of VIS-500m, LWIR-30m"),
    ],
)
def test_which_stream_embeds(recipe: str, domain: str | None, expected: str) -> None:
    """A network with a stream for each domain needs one of its domains; another takes any."""
    try:
        found = _stream(Recipe.variant(recipe)(), ["VIS-500m", "LWIR-30m"], domain, Path("last.pt"))
    except mdfpipe.ConfigError as error:
        found = str(error)
    assert expected in found


def test_a_table_does_not_take_the_place_of_an_image_or_of_the_weights(weights: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 20, 3), np.uint8))
    copy = tmp_path / "weights.parquet"
    shutil.copy(weights, copy)
    for out, words in (
        (tmp_path / "a.png", "expected a file whose name ends in .parquet"),
        (copy, "would destroy what it is made from"),
    ):
        before = out.read_bytes()
        said = call_here("embed", str(tmp_path), "--weights", str(copy), "--out", str(out), folder=tmp_path)
        assert words in said.err
        assert out.read_bytes() == before
