"""Pictures of elsewhere (arrays, files, images of Pillow) read as crops are."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdfpipe.errors import DataError, one_line
from mdfpipe.learning.data.crops import UNKNOWN, Crops
from mdfpipe.learning.data.loader import CropReader
from mdfpipe.learning.recipes import Recipe
from mdfpipe.store.content import stand_in
from mdfpipe.store.files import bytes_of
from mdfpipe.store.images import SIXTEEN_BITS, decode_at
from mdfpipe.store.shards import Spoilt


class PictureReader(CropReader):
    """Reads arrays, files and images of Pillow as a CropReader reads crops. crop_id: the place in `pictures`. cameras:
    that of each, None where it is not known.
    """

    def __init__(
        self,
        pictures: Sequence[Any],
        recipe: Recipe,
        domain: str,
        cameras: Sequence[str | None],
        *,
        strict: bool = False,
    ) -> None:
        n, zeros = len(pictures), np.zeros(len(pictures), np.int64)
        place = {camera: number for number, camera in enumerate(dict.fromkeys([None, *cameras]))}  # a video each
        self.pictures = pictures
        crops = Crops(
            crop_id=pa.array([str(number) for number in range(n)], pa.string()),
            subject=zeros,
            domain=zeros,
            video=np.array([place[camera] for camera in cameras], np.int64),
            shard=zeros,
            offset=zeros,
            size=zeros,
            crc32=np.full(n, UNKNOWN, np.int64),
            source=np.ones(n, np.int64),  # none of a run folder
            window=np.tile(np.array([SIXTEEN_BITS], np.float32), (n, 1)),
            subjects=("",),
            domains=(domain,),
            videos=tuple(map(str, place.values())),
            shards=(Path(),),
            camera={str(number): camera for camera, number in place.items() if camera is not None},
        )
        super().__init__(crops, recipe.image_height_px, recipe.image_width_px, recipe.depth)
        self._refuses = strict

    def stored(self, row: int) -> NDArray[Any]:
        """As CropReader.stored. Raises Spoilt, or DataError where it is strict."""
        picture = self.pictures[row]
        try:
            if isinstance(picture, (str, PathLike)):
                return self._of_file(Path(picture))
            return as_stored(picture)
        except Spoilt as error:
            if not self._refuses:
                raise
            name = picture if isinstance(picture, (str, PathLike)) else f"image {row}"
            raise DataError(f"{name}: {error}") from None

    def _of_file(self, path: Path) -> NDArray[Any]:
        try:
            return decode_at(bytes_of(path), self.height, self.width)
        except (OSError, ValueError) as error:  # ValueError: no name of a file
            if (instead := stand_in(path)) is not None:
                raise Spoilt(f"expected an image, got {instead}") from None
            raise Spoilt(f"cannot be read: {getattr(error, 'strerror', None) or one_line(error)}") from None
        except Spoilt as error:
            raise Spoilt(f"expected an image, got {instead}" if (instead := stand_in(path)) else str(error)) from None


def as_stored(picture: Any) -> NDArray[Any]:
    """(H, W, 3) BGR of uint8, or (H, W) or (H, W, 3) of uint16, from RGB or an image of Pillow. Raises Spoilt."""
    mode = str(getattr(picture, "mode", "L")) if hasattr(picture, "convert") else "L"
    try:
        if mode not in ("L", "RGB") and mode[0] not in "IF":  # the conversion clips pixels of more than 8 bits
            picture = picture.convert("RGB")
        pixels = np.asarray(picture)
    except (OSError, ValueError, TypeError, SyntaxError) as error:  # a file that Pillow reads only now, a GPU's tensor
        raise Spoilt(f"cannot be read: {one_line(error, 120)}") from None
    if pixels.dtype not in (np.uint8, np.uint16):
        raise Spoilt(f"expected pixels of uint8 or uint16, got {pixels.dtype}; scale them first")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        raise Spoilt(f"expected an image of (H, W) or (H, W, 3), got {pixels.shape}")
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2) if pixels.dtype == np.uint8 else np.ascontiguousarray(pixels)
    return np.ascontiguousarray(pixels[..., ::-1])
