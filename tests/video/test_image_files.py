"""Every format of images that is read, at a real size and from real encoders: pixels, depth, and what is refused."""

import io
import random
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from mdfpipe.errors import DataError, DecodeError
from mdfpipe.store.images import damage_of, orientation_of
from mdfpipe.store.naming import IMAGE_SUFFIXES
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.image_files import decode
from mdfpipe.video.probe import probe
from tests.video.decoded import read
from tests.video.tiffs import tiff

HEIGHT, WIDTH = 480, 640
NOISE = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
NARROW = (NOISE >> 8).astype(np.uint8)
SMOOTH = np.stack(np.meshgrid(np.arange(WIDTH) % 256, np.arange(HEIGHT) // 2, indexing="xy") * 2, 2)[..., :3]
SMOOTH = SMOOTH.astype(np.uint8)


def by_pillow(pixels, name, mode=None, **options):
    image, file = Image.fromarray(pixels), io.BytesIO()
    (image.convert(mode) if mode else image).save(file, name, **options)
    return file.getvalue()


def by_opencv(pixels, suffix, options=()):
    stored = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    return cv2.imencode(suffix, np.ascontiguousarray(stored), list(options))[1].tobytes()


# -- the contract of every suffix


def encoded(suffix):
    """(bytes, exact pixels or None) of noise, as such a file holds it."""
    if suffix in (".jpg", ".jpeg", ".jpe"):
        return by_opencv(NARROW, ".jpg"), None
    if suffix == ".pbm":
        black = NARROW[..., 0] > 127
        data = f"P4\n{WIDTH} {HEIGHT}\n".encode() + np.packbits(black, axis=1).tobytes()
        return data, np.repeat(np.where(black, 0, 255)[..., None], 3, axis=2)
    if suffix == ".pgm":
        return by_opencv(NOISE[..., 0], ".pgm"), NOISE[..., :1]
    if suffix == ".webp":
        return by_opencv(NARROW, ".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]), NARROW
    wide = suffix in (".png", ".tif", ".tiff", ".ppm", ".pnm")
    return by_opencv(NOISE if wide else NARROW, suffix), NOISE if wide else NARROW


USUAL = {".btf": ".tif", ".tf8": ".tif", **dict.fromkeys((".jfif", ".jfi", ".jif", ".pjpeg", ".pjp"), ".jpg")}
"""What other names of the same formats are usually called."""


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_at_a_real_size(tmp_path, suffix):
    """One image file, a folder of them, and the first frame as the header has it: all three agree, under `auto`."""
    data, expected = encoded(USUAL.get(suffix, suffix))
    assert len(data) > 30_000
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number:04d}{suffix.upper() if number else suffix}").write_bytes(data)
    alone = folder / f"0000{suffix}"
    for path, count in ((folder, 2), (alone, 1)):
        info = probe(path)
        assert (info.frames_declared, info.width, info.height, info.fps) == (count, WIDTH, HEIGHT, None)
        pixels, _, error = read("auto", path)
        assert (len(pixels), error) == (count, None)
        assert info.bit_depth == 8 * pixels[0].dtype.itemsize
        if expected is None:
            truth = np.asarray(Image.open(io.BytesIO(data)), int)
            assert np.abs(pixels[-1].astype(int) - truth).mean() < 2
        else:
            assert np.array_equal(pixels[-1], expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp", ".webp", ".pgm"])
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_every_format_cut_short(suffix, share):
    data, _ = encoded(suffix)
    with pytest.raises(DataError):
        decode(data[: int(share * len(data))])


def test_a_wrong_suffix_is_no_matter_and_other_files_are_named(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(by_opencv(NOISE, ".png"))
    assert (probe(path).codec, probe(path).bit_depth) == ("png", 16)
    assert np.array_equal(read("auto", path)[0][0], NOISE)
    for data, words in (
        (by_pillow(SMOOTH, "GIF"), "expected an image .PNG, JPEG, TIFF, BMP, WebP, PNM., got a GIF"),
        (b"<!DOCTYPE html><html>not found</html>", "got a web page"),
        (b"\0\0\0\x1cftypheic" + bytes(99), "got a HEIF"),
        (bytes(4096), "4096 bytes of none of these"),
    ):
        path.write_bytes(data)
        with pytest.raises(DecodeError, match=words):
            probe(path)
        assert words.split("got ")[-1].strip(".") in read("images", path)[2]


# -- JPEG


def jpegs():
    plain = by_pillow(SMOOTH, "JPEG", quality=95)
    segments = b"".join(b"\xff" + bytes([m]) + (4 + 2).to_bytes(2, "big") + b"\xff\xd9ab" for m in (0xE2, 0xED, 0xFE))
    thumbnail = b"\xff\xe1" + (2 + len(plain[:9000]) + 2).to_bytes(2, "big") + plain[:9000] + b"\xff\xd9"
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"
    return {
        "baseline": plain,
        "progressive": by_pillow(SMOOTH, "JPEG", quality=95, progressive=True),
        "restarts": by_opencv(SMOOTH, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_RST_INTERVAL, 4]),
        "4:2:0": by_pillow(SMOOTH, "JPEG", quality=95, subsampling=2),
        "icc": by_pillow(SMOOTH, "JPEG", quality=95, icc_profile=bytes(70_000)),
        "segments in front": plain[:2] + segments + adobe + plain[2:],
        "thumbnail": plain[:2] + thumbnail + plain[2:],
        "trailer": plain + bytes(20_000),  # as phones put a film behind a photograph
        "cmyk": by_pillow(SMOOTH, "JPEG", mode="CMYK", quality=95),
    }


@pytest.mark.parametrize("kind", jpegs())
def test_jpegs(kind):
    data = jpegs()[kind]
    image = decode(data)
    assert (image.format, image.bit_depth, image.orientation) == ("JPEG", 8, 1)
    assert np.abs(image.pixels.astype(int) - SMOOTH).mean() < 3
    whole = data.removesuffix(bytes(20_000))
    for share in (0.9, 0.999):  # a thumbnail within has an end, which is not the picture's
        assert "without an end" in str(damage_of(whole[: int(share * len(whole))]))


def test_a_grey_jpeg():
    pixels = decode(by_pillow(SMOOTH[..., 0], "JPEG", quality=95)).pixels
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(int) - SMOOTH[..., :1]).mean() < 2


# -- PNG, PNM, WebP


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pngs(mode):
    data = by_pillow(SMOOTH, "PNG", mode=mode)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    image = decode(data)
    assert np.array_equal(image.pixels, expected)
    assert (image.bit_depth, damage_of(data)) == (8, None)


def chunk(kind, body):
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def png(pixels, colour_type, *more, interlaced=False):
    """A PNG of 16 bits of our own: interlaced ones, and grey with alpha, no library here writes."""
    height, width = pixels.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, interlaced)
    passes = (
        [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
        if interlaced
        else [(0, 0, 1, 1)]
    )
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for y, x, dy, dx in passes for row in pixels[y::dy, x::dx])
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + b"".join(more) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def test_pngs_of_16_bits():
    assert np.array_equal(decode(png(NOISE[..., 0], 0, interlaced=True)).pixels, NOISE[..., :1])
    assert np.array_equal(decode(png(NOISE[..., :2], 4)).pixels, NOISE[..., :1]), "grey with alpha is grey"
    with pytest.raises(DataError, match="animated"):
        decode(png(NOISE[..., 0], 0, chunk(b"acTL", struct.pack(">II", 7, 0))))


@pytest.mark.parametrize(("most", "depth"), [(255, 8), (100, 8), (1023, 10), (4095, 12), (4000, 16), (65535, 16)])
def test_pnms(most, depth):
    values = NOISE.astype(np.uint32) * most // 65535
    stored = values.astype(">u2" if most > 255 else "u1")
    image = decode(f"P5\n# by a camera\n{WIDTH} {HEIGHT}\n{most}\n".encode() + stored[..., 0].tobytes())
    assert image.bit_depth == depth
    expected = values[..., :1] if most > 255 else (values[..., [0, 0, 0]] * 255 + most // 2) // most
    assert np.array_equal(image.pixels, expected), "grey keeps its values; 8 bits fill their range"
    image = decode(f"P6 {WIDTH} {HEIGHT} {most} ".encode() + stored.tobytes())
    full = 255 if most < 256 else 65535
    assert np.abs(image.pixels.astype(float) - values * (full / most)).max() < 0.5001
    with pytest.raises(DataError, match="more behind it"):
        decode(2 * (f"P6 {WIDTH} {HEIGHT} {most} ".encode() + stored.tobytes()))


def test_an_animated_webp():
    image, file = Image.fromarray(SMOOTH), io.BytesIO()
    image.save(file, "WEBP", save_all=True, append_images=[Image.fromarray(255 - SMOOTH)])
    with pytest.raises(DataError, match="animated"):
        decode(file.getvalue())


# -- TIFF

COLOUR, COLOUR8 = NOISE[:120, :160], NARROW[:120, :160]  # a page has many kinds, and a size of its own elsewhere
GREY = COLOUR[..., 0]
PALETTE = np.random.default_rng(1).integers(0, 256, (256, 3))


def ramp(bits):
    return GREY >> (16 - bits)


TIFFS = {  # name -> (options of the writer, values written, pixels expected, depth)
    "grey16": ({}, GREY, GREY, 16),
    "grey16 white is zero": ({"photometric": 0}, GREY, 65535 - GREY, 16),
    "grey8 white is zero": ({"photometric": 0, "bits": 8}, ramp(8), 255 - ramp(8), 8),
    "grey10": ({"bits": 10}, ramp(10), ramp(10), 10),
    "grey12": ({"bits": 12}, ramp(12), ramp(12), 12),
    "grey12 white is zero": ({"bits": 12, "photometric": 0}, ramp(12), 4095 - ramp(12), 12),
    "grey14 strips": ({"bits": 14, "rows": 7}, ramp(14), ramp(14), 14),
    "grey4": ({"bits": 4}, ramp(4), ramp(4) * 17, 8),
    "grey1": ({"bits": 1}, ramp(1), ramp(1) * 255, 8),
    "signed16 not negative": ({"kind": 2}, GREY >> 1, GREY >> 1, 16),
    "unsigned32": ({"bits": 32}, GREY, GREY, 16),
    "signed32": ({"bits": 32, "kind": 2}, GREY, GREY, 16),
    "rgb16": ({"photometric": 2}, COLOUR, COLOUR, 16),
    "rgb16 planar": ({"photometric": 2, "planar": 2}, COLOUR, COLOUR, 16),
    "rgb8 planar": ({"photometric": 2, "planar": 2, "bits": 8}, COLOUR8, COLOUR8, 8),
    "rgb12": ({"photometric": 2, "bits": 12}, COLOUR >> 4, (COLOUR >> 4 << 4) | (COLOUR >> 12), 16),
    "rgba8 not multiplied": (
        {"photometric": 2, "bits": 8, "extra": 2},
        np.dstack([COLOUR8, COLOUR8[..., 0]]),
        COLOUR8,
        8,
    ),
    "rgba16": ({"photometric": 2, "extra": 1}, np.dstack([COLOUR, GREY]), COLOUR, 16),
    "grey16 and alpha": ({"extra": 2}, COLOUR[..., :2], GREY, 16),
    "palette": ({"photometric": 3, "bits": 8, "palette": PALETTE * 257}, ramp(8), PALETTE[ramp(8)], 8),
    "palette in 8 bits": ({"photometric": 3, "bits": 8, "palette": PALETTE}, ramp(8), PALETTE[ramp(8)], 8),
    "palette of 16": (
        {"photometric": 3, "bits": 4, "palette": PALETTE[:16] * 257},
        ramp(4),
        PALETTE[ramp(4)],
        8,
    ),
    "tiles": ({"tile": 64}, GREY, GREY, 16),
    "tiles of 12 bits": ({"tile": 64, "bits": 12}, ramp(12), ramp(12), 12),
    "deflate": ({"compression": 8, "rows": 16}, GREY, GREY, 16),
    "deflate, predictor": ({"compression": 8, "rows": 16, "predictor": 2}, GREY, GREY, 16),
    "deflate, predictor, rgb8 tiles": (
        {"compression": 8, "tile": 128, "predictor": 2, "photometric": 2, "bits": 8},
        COLOUR8,
        COLOUR8,
        8,
    ),
    "deflate, predictor, planar": (
        {"compression": 8, "predictor": 2, "photometric": 2, "planar": 2},
        COLOUR,
        COLOUR,
        16,
    ),
    "bits from the right": ({"bits": 1, "fill_order": 2}, ramp(1), ramp(1) * 255, 8),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", TIFFS)
def test_tiffs(name, order):
    options, values, expected, depth = TIFFS[name]
    image = decode(tiff([values], order=order, big=order == ">", **options))
    got = image.pixels[..., 0] if expected.ndim == 2 else image.pixels
    assert np.array_equal(got, expected)
    assert (image.bit_depth, image.orientation) == (depth, 1)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg", "group4", "raw"])
def test_tiffs_of_pillow(compression):
    mode = "1" if compression == "group4" else "RGB"
    data = by_pillow(SMOOTH, "TIFF", mode=mode, compression=compression)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    got = decode(data).pixels
    assert np.abs(got.astype(int) - expected).mean() < (2 if compression == "jpeg" else 1e-9)


CELSIUS = (GREY.astype(np.float32) / 1000 - 20).astype(np.float32)
REFUSED = {
    "float32": ({"bits": 32, "kind": 3}, CELSIUS, r"got float32 from -\S+ to \S+; convert all frames once, by one"),
    "float32 of whole numbers": ({"bits": 32, "kind": 3}, GREY % 2, "got float32 from 0 to 1; convert all frames"),
    "float64": ({"bits": 64, "kind": 3}, CELSIUS, "got float64 from -"),
    "float with nan": ({"bits": 32, "kind": 3}, np.where(GREY > 9, np.nan, 1), "got float32 from 1 to 1"),
    "float predictor": ({"bits": 32, "kind": 3, "predictor": 3}, CELSIUS, "got float32; convert"),
    "signed16": ({"kind": 2}, GREY.astype(int) - 300, "got int16 from -300 to 65235|got int16 from -3"),
    "unsigned32": ({"bits": 32}, GREY.astype(int) * 2, "got uint32 from \\d+ to 131\\d+; convert it to uint16"),
    "cmyk": ({"photometric": 5, "bits": 8}, np.dstack([COLOUR8, COLOUR8[..., 0]]), "got CMYK .Photometric"),
    "lab": ({"photometric": 8, "bits": 8}, COLOUR8, r"got L\*a\*b\*"),
    "raw": ({"photometric": 32803}, GREY, "got raw sensor data"),
    "many channels": ({}, COLOUR, "got 3 channels; keep the one to use|expected grey or RGB"),
    "two bands": ({"extra": 0}, COLOUR[..., :2], "got 2 channels; keep the one to use"),
    "lerc": ({"compression": 34887}, GREY, "compression LERC of TIFF is not read"),
    "unknown": ({"compression": 12345}, GREY, "compression number 12345 of TIFF is not read"),
    "damaged": ({"compression": 5}, GREY, "compression: LZW. are damaged"),
    "reduced": ({"subfile": 1}, GREY, "a reduced copy of another one"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tiffs_that_are_refused(name, capfd):
    options, values, words = REFUSED[name]
    if name == "signed16":
        values = values.astype(np.int16)
    if name == "many channels":
        options = {"photometric": 1}
    with pytest.raises(DataError, match=words) as caught:
        decode(tiff([values], **options))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("big", [False, True])
def test_pages_are_frames(tmp_path, big):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff([ramp(12) + 0 * n if n else GREY >> 4 for n in range(3)], bits=12, big=big))
    info = probe(path)
    assert (info.frames_declared, info.bit_depth, info.width) == (3, 12, 160)
    pixels, _, error = read("auto", path)
    assert (len(pixels), error) == (3, None)
    assert np.array_equal(pixels[2][..., 0], ramp(12))
    (tmp_path / "frames").mkdir()
    path.rename(tmp_path / "frames/0.tif")
    with pytest.raises(DecodeError, match=r"0.tif: frame 0 does not decode: expected one image, got a TIFF of 3 pages"):
        probe(tmp_path / "frames")


def test_a_stack_of_imagej_is_not_taken_for_one_page():
    with pytest.raises(DataError, match="a stack of 12 pictures of ImageJ"):
        decode(tiff([GREY], description="ImageJ=1.53t\nimages=12\nslices=12\n"))
    assert decode(tiff([GREY], description="ImageJ=1.53t\nimages=1\n")).bit_depth == 16


def test_damage_anywhere_is_one_line():
    """Bytes changed, left out and put in: an image or a DataError, and nothing else."""
    chance, small = random.Random(3), NOISE[:32, :48]
    lying = oriented("JPEG behind JFIF, both byte orders", 6)
    images = [
        tiff([small[..., 0] >> 4], bits=12, tile=16, order=">"),
        tiff([small], photometric=2, planar=2, big=True),
        tiff([small], photometric=2, compression=8, predictor=2, rows=5),
        tiff([small[..., 0] >> 8], bits=8, photometric=3, palette=PALETTE * 257, orientation=6),
        *(lying, oriented("PNG", 6), oriented("WEBP", 6), by_opencv(small[..., 0], ".pgm")),
    ]
    messages = [damaged(chance, chance.choice(images)) for _ in range(400)]
    assert 50 < messages.count("") < 350
    assert not any("\n" in message for message in messages)


def damaged(chance, data):
    """What `decode` says of a damaged copy; nothing where it is decoded all the same."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 2, 8))):
        at = chance.choice((chance.randrange(len(data)), chance.randrange(60), -1 - chance.randrange(60)))
        data[at] = chance.choice((0, 255, 127, chance.randrange(256)))
    if chance.random() < 0.2:
        del data[chance.randrange(len(data)) :]
    try:
        assert decode(bytes(data)).shown().pixels.ndim == 3
    except DataError as error:
        return str(error)
    return ""


# -- orientation

LYING = SMOOTH[:64, :96]


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


def oriented(name, orientation):
    """(bytes, exact pixels as stored) of an image that says how it is turned."""
    if name == "TIFF":
        return tiff([LYING.astype(int) * 257], photometric=2, orientation=orientation)
    if name == "JPEG behind JFIF, both byte orders":
        block = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation, 0, 0]) + bytes(4)
        plain = by_pillow(LYING, "JPEG", quality=100, subsampling=0)
        return plain[:20] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + plain[20:]
    lossless = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}}[name]
    return by_pillow(LYING, name, exif=exif(orientation), **lossless)


@pytest.mark.parametrize("name", ["JPEG", "JPEG behind JFIF, both byte orders", "PNG", "WEBP", "TIFF"])
def test_images_are_decoded_as_they_are_shown(tmp_path, name):
    """EXIF orientation 1 to 8 against Pillow's own turning, and as stored where that is asked for."""
    for orientation in range(1, 9):
        data = oriented(name, orientation)
        path = tmp_path / f"{orientation}.png"
        path.write_bytes(data)
        turned = Image.fromarray(LYING)
        turned.getexif()[0x0112] = orientation
        expected = np.asarray(ImageOps.exif_transpose(turned), int)
        info = probe(path)
        assert (info.orientation, orientation_of(data)) == (orientation, orientation)
        for setting, truth in (("display", expected), ("stored", LYING.astype(int))):
            pixels = next(Decoder.variant("images")(orientation=setting).read(path, lambda n: True, 1))[0]
            assert info.size(setting, path) == truth.shape[1::-1]
            shown = pixels.astype(int) // (257 if pixels.dtype == np.uint16 else 1)
            assert shown.shape == truth.shape
            assert np.abs(shown - truth).mean() < 2


@pytest.mark.parametrize("name", ["auto", "decord", "images", "opencv", "pyav"])
def test_every_decoder_leaves_images_to_the_one_that_reads_them(tmp_path, name):
    for setting in ("display", "stored"):
        for path in (tmp_path, *(tmp_path / f"a{suffix}" for suffix in IMAGE_SUFFIXES)):
            (chosen,) = Decoder.variant(name)(orientation=setting).candidates(path)
            assert (chosen.use, chosen.orientation) == ("images", setting)


def test_colour_above_8_bits_is_8_bits_where_that_is_wanted(tmp_path):
    for name, pixels in (("colour.png", NOISE), ("grey.png", NOISE[..., 0])):
        (tmp_path / name).write_bytes(by_opencv(pixels, ".png"))
    for bits in (8, 16):
        colour, grey = (
            next(Decoder.variant("images")(colour_bits=bits).read(tmp_path / name, lambda n: True, 1))[0]
            for name in ("colour.png", "grey.png")
        )
        assert np.array_equal(colour, np.rint(NOISE / 257) if bits == 8 else NOISE)
        assert np.array_equal(grey[..., 0], NOISE[..., 0])
        chosen = Decoder.variant("images")(colour_bits=bits).of_band("VIS")
        assert chosen.colour_bits == bits
    assert Decoder.variant("images")().of_band("VIS").colour_bits == 16, "images keep what they hold"


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_means_nothing(orientation):
    data = oriented("JPEG behind JFIF, both byte orders", orientation)
    assert (orientation_of(data), orientation_of(data[:40])) == (1, 1)
