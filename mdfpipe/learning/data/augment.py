"""Augment: what is done to a crop on its way into a network, in training and at test.

In this order: the auxiliary view (one colour channel for all three), flip, shift, scale and crop in one resampling, a
copy of lower resolution, colour jitter and grey, polarity, normalisation, erasing. Defaults are PASS's (flip 0.5, pad
10 and crop, erasing 0.5 with a noise of its own for each pixel), except the erased area; what carries from visible to
infrared bands (SYNTH 9) is off by default. What is drawn comes from the generator alone: `generator_of` makes it depend
on (seed, epoch, crop).
"""

from __future__ import annotations

import hashlib
import math
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.config import IF_SET, Config
from mdfpipe.learning.data.batches import AUXILIARY, PLAIN

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

REFERENCE_HEIGHT = 384  # pixels of the input that `pad_px` is given for (PASS: 10 at 384x128)
IMAGENET_MEAN, IMAGENET_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of red, green, blue in 0..1
CLIP_MEAN, CLIP_SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # likewise
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV's grey
ERASED_AREA, ERASED_ASPECT = (0.02, 0.4), (0.3, 3.3)  # Zhong et al., "Random Erasing Data Augmentation", section 4
ERASING_TRIES = 10
COARSER = (1.5, 3.0)  # SYNTH 9: a low-resolution copy is this much smaller
COARSE_NOISE = 0.04  # greatest spread of its noise, of black to white (SYNTH 4: thermal sensors .035)
NOISE_BANK = 1 << 20
JITTER = 0.4  # brightness, contrast, saturation: factors 1 +- this much
WAVE, WAVE_RATE = (0.0, 1.2), (1.0, 3.0)  # SYNTH 9: a and f of a*sin(f*g+p)
FEET = (0.06, 0.32)  # SYNTH 5: the lowest 10 to 45 of 192 rows
SLOPE, OFFSET = (0.7, 2.0), (-0.7, 0.7)  # of the sigmoid of the polarity; ours: contrast kept, few pixels saturated


class Augment(Config):
    """Augmentation of training crops; `normalise` and `colour` also apply at test.

    Probabilities are of a crop, drawn independently. further_*: of crops of further manifests; none: as the study's.
    """

    flip: float = Field(0.5, ge=0, le=1, description="probability of mirroring left and right")
    pad_px: int = Field(10, ge=0, description="black border to crop from, at 384 pixels height; scaled with the input")
    uncropped: float = Field(0.0, ge=0, le=1, description="probability of not padding and cropping (DI2L: 0.5)")
    erasing: float = Field(0.5, ge=0, le=1, description="probability of replacing a rectangle by noise")
    erased_up_to: float | None = Field(
        None,
        gt=ERASED_AREA[0],
        le=1,
        json_schema_extra=IF_SET,
        description="largest share of the area that erasing takes (timm, PASS: 1/3); none: 0.4 (Zhong et al.)",
    )
    shift_x: float = Field(0.0, ge=0, lt=1, description="sideways by up to this share of the width")
    shift_y: float = Field(0.0, ge=0, lt=1, description="up or down by up to this share of the height")
    scale: float = Field(0.0, ge=0, lt=1, description="larger or smaller by up to this share")
    aspect: float = Field(0.0, ge=0, lt=1, description="wider or taller by up to this share")
    rotation: float = Field(0.0, ge=0, lt=45, description="standard deviation of a turn, degrees")
    low_resolution: float = Field(
        0.0, ge=0, le=1, description="probability of a copy of 1.5 to 3 times fewer pixels a side, with noise"
    )
    jitter: float = Field(0.0, ge=0, le=1, description="probability of another brightness, contrast, saturation")
    further_jitter: float | None = Field(None, ge=0, le=1, description="the same, of further manifests")
    grey: float = Field(0.0, ge=0, le=1, description="probability of grey instead of colour")
    further_grey: float | None = Field(None, ge=0, le=1, description="the same, of further manifests")
    polarity: float = Field(
        0.0, ge=0, le=1, description="probability of a random signed mix of the channels under a random tone curve"
    )
    further_polarity: float | None = Field(None, ge=0, le=1, description="the same, of further manifests")
    blur: float = Field(0.0, ge=0, le=1, description="probability of blurring a crop before its polarity changes")
    further_blur: float | None = Field(None, ge=0, le=1, description="the same, of further manifests")
    fourier: float = Field(
        0.0, ge=0, le=1, description="probability that polarity maps colours to grey by random waves, not by a mix"
    )
    further_fourier: float | None = Field(None, ge=0, le=1, description="the same, of further manifests")
    shade: float = Field(0.0, ge=0, le=2, description="uneven light or warmth, in half of the crops: greatest strength")
    further_shade: float | None = Field(None, ge=0, le=2, description="the same, of further manifests")
    noise: float = Field(0.0, ge=0, le=1, description="greatest spread of pixel noise after a change of polarity")
    feet: float = Field(0.0, ge=0, le=1, description="probability of hiding the lowest 6 to 32 % of a crop")
    auxiliary_last: bool = Field(
        False, description="an auxiliary view gets one channel for all last, normalised and erased (CAJ), not first"
    )
    normalise: Literal["half", "imagenet", "clip", "standardise"] = Field(
        "half", description="half: 0..255 to -1..1; imagenet, clip: its mean and spread; standardise: each crop's own"
    )
    colour: Literal["rgb", "bgr"] = Field("rgb", description="order of the channels (AdaFace: bgr)")

    def plain(self, picture: U8 | F32, out: F32 | None = None) -> F32:
        """(3, h, w) float32 of an (h, w, 3) RGB crop, or of one channel (h, w), in 0..255, as at test: normalised only.

        out: where to write it.
        """
        import cv2

        made = np.empty((3, *picture.shape[:2]), np.float32) if out is None else out
        if self.normalise == "half":
            factors, terms = [1 / 127.5] * 3, [-1.0] * 3
        elif self.normalise in ("imagenet", "clip"):
            usual = (IMAGENET_MEAN, IMAGENET_SPREAD) if self.normalise == "imagenet" else (CLIP_MEAN, CLIP_SPREAD)
            factors = [1 / (255 * spread) for spread in usual[1]]
            terms = [-mean / spread for mean, spread in zip(*usual, strict=True)]
        else:
            mean, spread = _moments(picture)
            factors, terms = [1 / max(spread, 1.0)] * 3, [-mean / max(spread, 1.0)] * 3
        planes = cv2.split(picture) if picture.ndim == 3 else [picture] * 3
        for place, c in enumerate(range(3) if self.colour == "rgb" else range(2, -1, -1)):
            if picture.dtype == np.uint8:  # a table takes half the time of arithmetic
                table = (np.arange(256) * factors[c] + terms[c]).astype(np.float32)
                cv2.LUT(planes[c], table, dst=made[place])
            else:
                np.multiply(planes[c], np.float32(factors[c]), out=made[place])
                made[place] += np.float32(terms[c])
        return made

    def training(
        self, image: U8, generator: np.random.Generator, *, view: int = PLAIN, source: int = 0, out: F32 | None = None
    ) -> F32:
        """(3, h, w) float32 of an (h, w, 3) uint8 RGB crop, changed at random, normalised.

        view: AUXILIARY copies red, green or blue to all three channels, first (DI2L eq. 1, METHODS 3.1) or last.
        source: 0 is the study's own manifest. out: where to write it.
        """
        channel = int(generator.integers(3)) if view == AUXILIARY else None
        if channel is not None and not self.auxiliary_last:
            image = np.repeat(image[..., channel, None], 3, axis=2)
        image = self._moved(image, generator)
        if generator.random() < self.low_resolution:
            image = _coarser(image, generator)
        shade = _of(source, self.shade, self.further_shade)
        shade = shade * generator.random() if shade and generator.random() < 0.5 else 0.0
        picture: U8 | F32
        if generator.random() < _of(source, self.polarity, self.further_polarity):
            blurs = generator.random() < _of(source, self.blur, self.further_blur)
            waves = generator.random() < _of(source, self.fourier, self.further_fourier)
            picture = _polarity(image, generator, shade, self.noise, blurs=blurs, waves=waves)
        else:
            picture = self._tinted(image, generator, source)
            if shade:
                picture = picture * np.exp(_field(image.shape, shade, generator))[..., None]
        if generator.random() < self.feet:
            picture = _without_feet(picture, generator)
        made = self.plain(picture, out)
        if generator.random() < self.erasing:
            _erase(made, generator, self.erased_up_to or ERASED_AREA[1])
        if channel is not None and self.auxiliary_last:
            made[:] = made[channel].copy()
        return made

    def _moved(self, image: U8, generator: np.random.Generator) -> U8:
        """Flip, shift, scale, and pad and crop, in one resampling (bilinear; exact where it moves by whole pixels).

        The border of `pad_px` is black, as PASS's. With a shift or scale, which imitate the errors of a detector, the
        edge is repeated instead: there the picture would have gone on.
        """
        import cv2

        height, width = image.shape[:2]
        pad = round(self.pad_px * height / REFERENCE_HEIGHT)
        mirror = -1.0 if generator.random() < self.flip else 1.0
        right, down = (int(n) for n in generator.integers(-pad, pad + 1, 2)) if pad else (0, 0)
        if self.uncropped and generator.random() < self.uncropped:
            right = down = 0
        x, y = (float(n) for n in generator.uniform(-1, 1, 2) * (self.shift_x * width, self.shift_y * height))
        zoom = float(generator.uniform(1 - self.scale, 1 + self.scale)) if self.scale else 1.0
        wider = float(np.exp(generator.uniform(-self.aspect, self.aspect))) if self.aspect else 1.0
        turn = float(np.radians(self.rotation) * generator.standard_normal()) if self.rotation else 0.0
        x, y = x + right, y + down
        if mirror > 0 and zoom == 1 and wider == 1 and not (x or y or turn):
            return image
        middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
        # where each pixel comes from, as WARP_INVERSE_MAP takes it
        cosine, sine = math.cos(turn), math.sin(turn)
        columns = [mirror / (zoom * wider) * cosine, -sine / (zoom * wider)]
        rows = [mirror * wider / zoom * sine, wider / zoom * cosine]
        columns.append(middle_x - columns[0] * (middle_x + x) - columns[1] * (middle_y + y))
        rows.append(middle_y - rows[0] * (middle_x + x) - rows[1] * (middle_y + y))
        repeats = self.shift_x or self.shift_y or self.scale or self.aspect or self.rotation
        moved = cv2.warpAffine(
            image,
            np.array([columns, rows]),
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE if repeats else cv2.BORDER_CONSTANT,
        )
        return moved.astype(np.uint8, copy=False)

    def _tinted(self, image: U8, generator: np.random.Generator, source: int) -> U8:
        """Brightness, contrast about the mean grey, saturation, each by 1 +- JITTER, and grey, as one matrix."""
        import cv2

        jitters = generator.random() < _of(source, self.jitter, self.further_jitter)
        is_grey = generator.random() < _of(source, self.grey, self.further_grey)
        if not (jitters or is_grey):
            return image
        brightness, contrast, saturation = generator.uniform(1 - JITTER, 1 + JITTER, 3) if jitters else (1.0, 1.0, 1.0)
        saturation = 0.0 if is_grey else float(saturation)
        matrix = np.empty((3, 4))
        matrix[:, :3] = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * np.array(LUMA))
        matrix[:, 3] = brightness * (1 - contrast) * np.dot(cv2.mean(image)[:3], LUMA)
        return cv2.transform(image, matrix).astype(np.uint8, copy=False)


def generator_of(seed: int, epoch: int, crop_id: str, repeat: int = 0, *more: int) -> np.random.Generator:
    """The generator of one crop in one epoch: the same wherever and whenever the crop is augmented.

    >>> generator_of(0, 3, "v/000001/00").integers(100, size=3).tolist()
    [52, 41, 68]
    """
    name = "/".join(map(str, (seed, epoch, repeat, *more, crop_id)))
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def _of(source: int, own: float, further: float | None) -> float:
    return own if source == 0 or further is None else further


def _moments(picture: U8 | F32) -> tuple[float, float]:
    """Mean and spread over pixels and channels."""
    import cv2

    means, spreads = cv2.meanStdDev(picture)
    mean = float(means.mean())
    return mean, float(np.sqrt(np.mean(spreads**2 + (means - mean) ** 2)))


def _coarser(image: U8, generator: np.random.Generator) -> U8:
    """The crop with 1.5 to 3 times fewer pixels a side and noise, at its own size again."""
    import cv2

    height, width = image.shape[:2]
    factor = generator.uniform(*COARSER)
    size = (max(round(width / factor), 1), max(round(height / factor), 1))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    spread = np.float32(255 * COARSE_NOISE * generator.random())
    noisy = cv2.add(small, spread * _noise(small.shape, generator), dtype=cv2.CV_8U)  # rounds, and stays in 0..255
    return cv2.resize(noisy, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def _polarity(
    image: U8, generator: np.random.Generator, shade: float, noise: float, *, blurs: bool, waves: bool
) -> F32:
    """(h, w) float32 in 0..255: how the crop might look in a band of unknown reflectance or emission (SYNTH 9).

    A signed mix of the channels (waves: a sum of random waves over the colour cube, after Rahimi and Recht 2007, which
    sends colours to grey values in no order at all), standardised; uneven warmth; half the time a wave is added, so
    that the tone curve may turn; either sign; a sigmoid; noise.
    """
    import cv2

    given = image.astype(np.float32)
    if blurs:
        given = cv2.GaussianBlur(given, (0, 0), 0.4 + 1.2 * generator.random()).astype(np.float32, copy=False)
    if waves:
        mean, spread = _moments(given)
        given = (given - np.float32(mean)) / np.float32(max(spread, 1.0))
        rates = generator.standard_normal((3, 3)) * (0.3 + 0.6 * generator.random())
        phases, heights = generator.uniform(0, 2 * np.pi, 3), generator.standard_normal(3)
        turned = np.sin(cv2.transform(given, np.column_stack([rates, phases]))).astype(np.float32)
        mixed = 255 * cv2.transform(turned, heights[None]).astype(np.float32, copy=False)
    else:
        weights = generator.standard_normal(3)
        mixed = cv2.transform(given, weights[None] / np.abs(weights).sum()).astype(np.float32, copy=False)
    mean, spread = _moments(mixed)
    g: F32 = (mixed - np.float32(mean)) / np.float32(max(spread, 1.0))  # channels that cancel out are no picture
    if shade:
        g += _field(image.shape, shade, generator)
    if generator.random() < 0.5:
        a, f, p = generator.uniform(*WAVE), generator.uniform(*WAVE_RATE), generator.uniform(0, 2 * np.pi)
        g += np.float32(a) * np.sin(np.float32(f) * g + np.float32(p))
    sign = 1.0 if generator.random() < 0.5 else -1.0
    slope, offset = generator.uniform(*SLOPE), generator.uniform(*OFFSET)
    toned: F32 = np.float32(255) / (1 + np.exp(-np.float32(sign * slope) * g - np.float32(offset)))
    if noise:
        toned += np.float32(255 * noise * generator.random() ** 2) * _noise(toned.shape, generator)
    return toned


def _field(shape: tuple[int, ...], strength: float, generator: np.random.Generator) -> F32:
    """(h, w) float32: a smooth random field, more uneven from top to bottom than sideways."""
    import cv2

    coarse = generator.standard_normal((5, 3)) + 1.2 * generator.standard_normal((5, 1))
    wide = cv2.resize(coarse.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    field: F32 = wide * np.float32(strength)
    return field


def _without_feet(picture: U8 | F32, generator: np.random.Generator) -> F32:
    """The crop with its lowest 6 to 32 % hidden by something of one value."""
    hidden: F32 = picture.astype(np.float32)
    rows = round(picture.shape[0] * generator.uniform(*FEET))
    if rows:
        hidden[-rows:] = generator.uniform(0, 255)
    return hidden


def _noise(shape: tuple[int, ...], generator: np.random.Generator) -> F32:
    """Standard normal numbers: a stretch, from a random place, of a bank of NOISE_BANK that are drawn once.

    Drawing them again for each crop took 20 times as long, and a third of the whole augmentation.
    """
    count = math.prod(shape)
    if count >= NOISE_BANK:
        return generator.standard_normal(shape, np.float32)
    first = int(generator.integers(NOISE_BANK - count))
    return _noise_bank()[first : first + count].reshape(shape)


@cache
def _noise_bank() -> F32:
    bank = np.random.Generator(np.random.Philox(key=0)).standard_normal(NOISE_BANK, np.float32)
    bank.flags.writeable = False
    return bank


def _erase(made: F32, generator: np.random.Generator, most: float) -> None:
    """Standard normal noise in place of a rectangle of a normalised (3, h, w) crop, in place.

    Its share of the area is uniform between the least of ERASED_AREA and `most`, its height by width uniform in the
    logarithm in ERASED_ASPECT; one that does not fit is drawn again, ERASING_TRIES times at most.
    """
    height, width = made.shape[1:]
    for _ in range(ERASING_TRIES):
        area = generator.uniform(ERASED_AREA[0], most) * height * width
        aspect = np.exp(generator.uniform(*np.log(ERASED_ASPECT)))
        h, w = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < h <= height and 0 < w <= width:
            y, x = (int(generator.integers(n + 1)) for n in (height - h, width - w))
            made[:, y : y + h, x : x + w] = _noise((3, h, w), generator)
            return
