"""Vectors of one's own images: the network of a checkpoint over arrays, files or folders, without a run folder."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdfpipe.config import count_of, texts_of, validate
from mdfpipe.domains import Domain
from mdfpipe.errors import ConfigError, DataError, StoreError, counted, one_line, some
from mdfpipe.learning import gpus
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.train.checkpoint import Checkpoint
from mdfpipe.machine.devices import ALL, named, present
from mdfpipe.store.content import Kind, content_of
from mdfpipe.store.files import given_path, given_paths, refuse_loss
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.naming import IMAGE_SUFFIXES
from mdfpipe.store.owner import temporary
from mdfpipe.store.parquet import TableWriter, read_metadata
from mdfpipe.store.tables import EmbedStatus, coded

if TYPE_CHECKING:
    from mdfpipe.learning.pictures import PictureReader

Picture: TypeAlias = Any
"""An array (H, W), (H, W, 1) or (H, W, 3) of uint8 or uint16, RGB; the path of an image file; or an image of Pillow."""

_FOOTER: Final = b"mdfpipe.weights"  # names what the vectors of a file are of
_ROWS: Final = 4096  # images between two writes: memory does not grow with their number


class Embedder:
    """The network of a checkpoint. Called with images it returns their vectors.

    weights: a checkpoint of `mdfpipe train`, or a public one together with recipe, the settings of its network with
    `use` among them. domain: that of the images, which a network needs with a stream or side information of each
    domain. camera: that of the images, for a network with side information of cameras; those that it knows are in
    `cameras`. device, precision (fp32, bf16, fp16), threads: as for the stage embed; the vectors are those of that
    stage for the same crop. Images of a camera or domain that such a network was not trained on get the mean of all:
    see `means`.

    Raises ConfigError where the weights do not fit the recipe, there is no stream for the domain, or the network does
    not use the camera.
    """

    def __init__(
        self,
        weights: str | PathLike[str],
        *,
        recipe: Mapping[str, Any] | None = None,
        domain: str | None = None,
        camera: str | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        batch: int = 64,
        threads: int = 1,
        trust_pickle: bool = False,
    ) -> None:
        from mdfpipe.learning.embedders import TorchEmbedder
        from mdfpipe.learning.embedding import network_of

        path = given_path("weights", weights)
        if not path.is_file():
            got = "a folder" if path.is_dir() else "none"
            raise ConfigError(f"weights: {path}: expected a file, found {got}")
        self.weights = Path(os.path.abspath(path))  # noqa: PTH100 - a later chdir moves nothing; links as given
        if precision not in ("fp32", "bf16", "fp16"):
            raise ConfigError(f"precision: expected fp32, bf16 or fp16, got {one_line(precision, 40)}")
        self.batch, self.threads = count_of("batch", batch, 1), count_of("threads", threads, 1)
        place = _place(device)
        with self._own_threads():
            if Checkpoint.is_one(self.weights):
                found = Checkpoint.load(self.weights)
                self.recipe, network = network_of(found, self.weights, _recipe(recipe), place)
                self.trained: list[str] = found.domains
            elif recipe is None:
                raise ConfigError(_no_checkpoint(self.weights))
            else:
                self.recipe, network = _public(self.weights, recipe, trust_pickle, place)
                self.trained = []
        if self.recipe.native != "torch" and precision != "fp32":
            raise ConfigError(f"precision {precision}: recipe {self.recipe.use} runs as its file has it; leave it out")
        self.domain = _stream(self.recipe, self.trained, _known(domain, self.trained), self.weights)
        side: Any = network.side if self.recipe.uses_cameras else None
        self.cameras: list[str] = [] if side is None else side.cameras
        self.camera = camera
        self._refuse_camera([camera])
        self._run = TorchEmbedder(self.recipe, network, precision)

    def __repr__(self) -> str:
        return f"Embedder({self.recipe.use} of {self.weights.name}, {self.features} features)"

    @property
    def features(self) -> int:
        """D, the length of a vector."""
        return self.recipe.features

    def __call__(self, images: Picture, cameras: Sequence[str | None] | None = None) -> NDArray[np.float32]:
        """(B, D) vectors of several images, raw: their length may carry quality. One image alone gives (1, D).

        cameras: that of each image, None where it is not known; by default they are all of `camera`.
        A JPEG file of at least twice the network's size is decoded at a half or less, as crops are; an array is not.

        Raises DataError that names the first image that cannot be read.
        """
        from mdfpipe.learning.pictures import PictureReader

        given = _several(images)
        reader = PictureReader(given, self.recipe, self.domain, self._cameras(cameras, len(given)), strict=True)
        vectors = np.zeros((len(given), self.features), np.float32)
        with self._own_threads():
            for rows, found in self._embedded(reader):
                vectors[rows] = found
        return vectors

    def write(
        self,
        files: Sequence[str | PathLike[str]],
        names: Sequence[str],
        out: str | PathLike[str],
        progress: Callable[[int, int], None],
        cameras: Sequence[str | None] | None = None,
    ) -> tuple[int, dict[str, str]]:
        """Write path, status and vector of each file to the Parquet file `out`, which appears when it is whole.

        names: what the column path says; cameras: as of a call. Returns the number of vectors, and why others are
        missing, by name. Raises DataError where no file can be read, StoreError where `out` cannot be written.
        """
        paths, called = given_paths("files", files), texts_of("names", names, "a.jpg")
        if not paths:
            raise ConfigError("files: expected one image or more, got none")
        if len(called) != len(paths):
            raise ConfigError(f"names: expected one for each of {counted(len(paths), 'image')}, got {len(called)}")
        with self._own_threads():
            return self._write(paths, called, given_path("out", out), progress, cameras)

    def _write(
        self,
        files: list[Path],
        names: list[str],
        out: Path,
        progress: Callable[[int, int], None],
        cameras: Sequence[str | None] | None,
    ) -> tuple[int, dict[str, str]]:
        from mdfpipe.learning.pictures import PictureReader

        refuse_others(out, self.weights, *files)
        vector = pa.list_(pa.float32(), self.features)
        fields = [
            pa.field("path", pa.string(), nullable=False),
            pa.field("status", pa.dictionary(pa.int8(), pa.string()), nullable=False),
            pa.field("vector", vector),
        ]
        of = self._cameras(cameras, len(files))
        facts = self.facts() | ({"cameras": Counter(camera or "" for camera in of)} if self.recipe.uses_cameras else {})
        schema = pa.schema(fields, metadata={_FOOTER: json.dumps(facts).encode()})
        place = Path(os.path.realpath(out))  # a link stays
        done, bad, unfinished = 0, dict[str, str](), temporary(place)
        try:
            with TableWriter(unfinished, schema) as writer:
                for start in range(0, len(files), _ROWS):
                    part = files[start : start + _ROWS]
                    reader = PictureReader(part, self.recipe, self.domain, of[start : start + _ROWS])
                    vectors, good = np.zeros((len(part), self.features), np.float32), np.zeros(len(part), bool)
                    for rows, found in self._embedded(reader):
                        vectors[rows], good[rows] = found, True
                        progress(start + int(rows[-1]) + 1, len(files))
                    values = pa.FixedSizeListArray.from_arrays(
                        pa.array(vectors.ravel()), self.features, mask=pa.array(~good)
                    )
                    named = names[start : start + _ROWS]
                    columns = [pa.array(named, pa.string()), coded(~good, EmbedStatus), values]
                    writer.write(pa.table(columns, schema=schema))
                    done += int(good.sum())
                    bad |= {named[int(row)]: reader.bad[row] for row in sorted(reader.bad, key=int)}
            progress(len(files), len(files))
            if not done:
                name, why = next(iter(bad.items()))
                raise DataError(f"none of {counted(len(files), 'image')} can be read; {name}: {why}")
            unfinished.replace(place)
        except StoreError as error:
            raise StoreError(str(error).replace(str(unfinished), str(out))) from None
        finally:
            unfinished.unlink(missing_ok=True)
        return done, bad

    def facts(self) -> dict[str, Any]:
        """What the vectors are of: weights, their sha256, recipe, domain, size of the images."""
        return {
            "weights": self.weights.name,
            "sha256": file_sha256(self.weights),
            "recipe": self.recipe.use,
            "domain": self.domain,
            "height_px": self.recipe.image_height_px,
            "width_px": self.recipe.image_width_px,
            "precision": self._run.precision,
            "distance": type(self.recipe).distance,
        }

    def means(self, images: int, cameras: Sequence[str | None] | None = None) -> list[str]:
        """A line on each reason why so many images get the mean of all cameras or domains as their side information.

        cameras: as of a call.
        """
        lines = []
        if self.recipe.embedded_as(self.domain, self.trained) == -1:
            known = _some(self.trained)
            lines.append(f"{self.domain} is none of the domains trained on ({known}): the mean of theirs is taken")
        if not self.recipe.uses_cameras:
            return lines
        given = self._cameras(cameras, images)
        if lacking := given.count(None):
            lines.append(f"{counted(lacking, 'image')} without a camera: the mean of {_some(self.cameras)} is taken")
        if count := Counter(camera for camera in given if camera is not None and camera not in self.cameras):
            lines.append(
                f"{counted(count.total(), 'image')} of {counted(len(count), 'camera')} not trained on "
                f"({_some([*count])}): the mean of {_some(self.cameras)} is taken"
            )
        return lines

    def _cameras(self, given: Sequence[str | None] | None, images: int) -> list[str | None]:
        """The camera of each image. Raises ConfigError."""
        if given is None:
            return [self.camera] * images
        is_list = hasattr(given, "__len__") and not isinstance(given, str)
        if not is_list or len(given) != images:
            raise ConfigError(
                f"cameras: expected one for each of {counted(images, 'image')}, or None where it is not known, got "
                f"{len(given) if is_list else one_line(given, 40)}"
            )
        self._refuse_camera(given)
        return list(given)

    def _refuse_camera(self, cameras: Iterable[str | None]) -> None:
        for camera in cameras:
            if not isinstance(camera, str | None):
                raise ConfigError(f"camera: expected a text or None, got {one_line(repr(camera), 40)}")
        named = next((camera for camera in cameras if camera is not None), None)
        if named is not None and not self.recipe.uses_cameras:
            raise ConfigError(
                f"{self.weights}: camera {one_line(named, 40)}: its network uses no cameras; leave it out"
            )

    @contextmanager
    def _own_threads(self) -> Iterator[None]:
        """Torch's threads as asked for: the last bits of a vector depend on them. Then as many as the process had."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _embedded(self, reader: PictureReader) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        from mdfpipe.learning.embedding import embed

        for rows, found in embed(self._run, reader.crops, reader, self.trained, batch=self.batch, threads=self.threads):
            if not np.isfinite(found).all():
                raise DataError(f"{self.weights}: gives vectors that are no numbers; was it trained to its end?")
            yield rows, found


@dataclass(frozen=True)
class FoundImages:
    """Image files below folders. names: below their folder, sorted; others: files that are no images by suffix; again:
    images that are given twice; unnamed: images whose names are no text, which no table can hold.
    """

    files: list[Path]
    names: list[str]
    others: int
    again: int = 0
    unnamed: int = 0

    @classmethod
    def below(cls, places: Iterable[str | PathLike[str]]) -> FoundImages:
        """The images of these folders, all folders below them, and files; hidden ones are left out, links are followed.

        Raises DataError for a place that does not exist or cannot be read, or where there is no image.
        """
        given = [given_path("images", place) for place in places]
        found, others, again, unnamed = dict[str, Path](), 0, 0, 0
        for place in given:
            if not place.exists():
                raise DataError(f"{place}: expected a folder or an image, found nothing")
            try:
                below = [*_below(place)] if place.is_dir() else [place]
            except OSError as error:
                raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
            for path in below:
                inside = path.relative_to(place).parts
                name = "/".join(inside) if len(given) == 1 and inside else path.as_posix()
                if path.suffix.lower() not in IMAGE_SUFFIXES:
                    others += 1
                elif not _is_text(name):
                    unnamed += 1
                elif found.setdefault(name, path) is not path:
                    again += 1
        if not found:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            lacking = f"; {counted(unnamed, 'image has a name', 'images have names')} that are no UTF-8 text: rename"
            places = some([one_line(p, 120) for p in given], 3)
            raise DataError(f"{places}: expected images ({kinds}), found none{lacking if unnamed else ''}")
        return cls([*found.values()], [*found], others, again, unnamed)


def _below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All that is below a folder but folders and what is hidden, sorted; links that lead round are not followed."""
    real = Path(os.path.realpath(folder))
    if real in above:
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _below(path, (*above, real))
        else:
            yield path


def _is_text(name: str) -> bool:
    """Whether a name can be written: one of bytes that are no UTF-8 cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def refuse_others(out: Path, *sources: Path) -> None:
    """Raise ConfigError where vectors cannot be written to `out`, or would take the place of what is no such file."""
    refuse_loss(out, *sources)
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: expected a place in a folder that is there, found no {out.parent}; make it")
    if not out.is_file() or not out.stat().st_size:
        return
    try:
        is_ours = _FOOTER in read_metadata(out)[0]
    except (OSError, pa.ArrowException):
        is_ours = False
    if not is_ours:
        raise ConfigError(f"{out}: there is a file that `mdfpipe embed` did not write; name another, or move it")


def _some(names: Sequence[str]) -> str:
    return some([one_line(name, 40) for name in names], 6)


def _several(images: Any) -> list[Picture]:
    """The images, of one alone a list. Raises ConfigError for what is none, and for channels that come first."""
    if isinstance(images, (str, PathLike)) or hasattr(images, "convert"):
        return [images]
    shape = tuple(getattr(images, "shape", ()))  # of torch's tensors, too
    if len(shape) == 2 or (len(shape) == 3 and shape[2] <= 4):  # of 4: refused, and no stack of grey ones
        return [images]
    if len(shape) == 3 and shape[0] in (1, 3):  # as torchvision has it, or so many grey images: nobody can know
        raise ConfigError(
            f"images: expected an array (H, W) or (H, W, 3), got {shape}: put the channels last, or give a list of "
            "grey images"
        )
    try:
        several = iter(images)
    except TypeError:
        raise ConfigError(f"images: expected an image or several, got {type(images).__name__}") from None
    return list(several)


def _place(device: str) -> str:
    """The device, cpu or cuda:N as torch numbers it in this process. Raises ConfigError."""
    names = named(str(device))
    if len(names) > 1 or names == (ALL,):
        raise ConfigError(f"--device {device}: expected one device, got several; name one, such as cuda:0")
    return present(names, gpus.count)[0]


def _no_checkpoint(path: Path) -> str:
    """What a file is where a checkpoint was expected, and what to do."""
    content = content_of(path)
    recipe = "onnx" if content.kind is Kind.ONNX else "such as body or face"
    advice = f"with public weights name their recipe, {recipe}"
    return (
        f"{path}: expected a checkpoint of `mdfpipe train`, got {content.what}; "
        f"{content.advice if content.kind is Kind.OTHER else advice}"
    )


def _known(domain: object, trained: Sequence[str]) -> str | None:
    """A domain as data sets have it. Raises ConfigError for what is none."""
    if domain is None or domain in trained:
        return domain  # type: ignore[return-value]
    try:
        return str(Domain.parse(str(domain)))
    except DataError as error:
        raise ConfigError(f"--{error}") from None


def _recipe(given: Mapping[str, Any] | None) -> Recipe | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"recipe: expected settings with their `use`, such as {{'use': 'body'}}, got {one_line(repr(given), 40)}"
        )
    settings = dict(given)
    try:
        kind = Recipe.variant(str(settings.pop("use", "")))
    except ValueError as error:
        raise ConfigError(f"recipe: use: {error}") from None
    return validate(kind, settings, "recipe")


def _public(path: Path, given: Mapping[str, Any], trust_pickle: bool, device: str) -> tuple[Recipe, Any]:
    """The recipe and the network of a public checkpoint. Raises ConfigError."""
    import torch

    recipe = _recipe(given)
    assert recipe is not None
    model = recipe.model(0, [])
    recipe.load(model, recipe.read(path, None, trust_pickle=trust_pickle).tensors, str(path), 0.9)
    return recipe, model.to(device).to(memory_format=torch.channels_last).eval()


def _stream(recipe: Recipe, trained: Sequence[str], domain: str | None, weights: Path) -> str:
    """The domain of the images, "" where the network uses images alone. Raises ConfigError."""
    streams = {recipe.stream_at(place, trained) for place in range(len(trained))}
    if domain is None:
        if len(streams) > 1:
            raise ConfigError(
                f"{weights}: has a stream or side information for each of {', '.join(trained)}: name the domain of the "
                "images (--domain)"
            )
        return trained[0] if trained else ""
    if recipe.embedded_as(domain, trained) is None:
        raise ConfigError(f"{weights}: domain {domain}: expected one of {', '.join(trained)}")
    return domain
