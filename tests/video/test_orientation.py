"""Rotated and mirrored videos: every decoder gives them as they are shown, or as they are stored."""

import av
import numpy as np
import pytest

from mdfpipe.errors import DecodeError
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.orientation import AS_STORED, of_matrix, turned
from mdfpipe.video.probe import probe
from tests import clips

WIDTH, HEIGHT, FRAMES = 640, 480, 2
DIRECTIONS = {  # where right and down of the stored picture point when it is shown
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


def matrix_of(right_x, right_y, down_x, down_y):
    return np.array([right_x, right_y, 0, down_x, down_y, 0, 0, 0, 1 << 14], np.int32) * (1 << 16)


def write_rotated(path, matrix):
    """Two frames of 640x480 whose container says the display matrix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.set_display_matrix(np.asarray(matrix, np.int64).tolist())
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(clips.picture(number, HEIGHT, WIDTH)).reformat(format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def given(name, path, **settings):
    """The frames that the candidates of a decoder give, as detect tries them."""
    trouble = None
    for decoder in Decoder.variant(name)(**settings).candidates(path):
        try:
            return np.concatenate([frames.pixels for frames in decoder.frames(path)]), decoder
        except DecodeError as error:
            trouble = error
    raise trouble


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_as_shown_under_every_decoder(orientation, suffix, tmp_path):
    path = write_rotated(tmp_path / f"a.{suffix}", matrix_of(*DIRECTIONS[orientation]))
    info = probe(path)
    assert (info.orientation, info.width, info.height) == (orientation, WIDTH, HEIGHT)
    assert info.size("stored", path) == (WIDTH, HEIGHT)
    assert info.size("display", path) == ((HEIGHT, WIDTH) if orientation >= 5 else (WIDTH, HEIGHT))
    for name in ("auto", "pyav", "opencv", "decord"):
        for wanted, expected in (("display", orientation), ("stored", AS_STORED)):
            pixels, decoder = given(name, path, orientation=wanted)
            assert pixels.shape[0] == FRAMES
            assert decoder.orientation == wanted
            for number, image in enumerate(pixels):
                shown = turned(clips.picture(number, HEIGHT, WIDTH), expected)
                assert image.shape == shown.shape, (name, wanted)
                assert np.abs(image.astype(int) - shown).mean() < 6, (name, wanted)


def test_a_decoder_that_a_receipt_recorded(tmp_path):
    path = write_rotated(tmp_path / "a.mp4", matrix_of(*DIRECTIONS[6]))
    for wanted in ("display", "stored"):
        _, decoder = given("decord", path, orientation=wanted)
        facts = {"decoder": decoder.use, "decoder_settings": decoder.model_dump(mode="json")}
        assert Decoder.as_recorded(facts) == decoder
    assert Decoder.as_recorded({"decoder": "pyav"}).orientation == "stored", "before orientation was recorded"


def test_an_angle_that_is_no_quarter_turn(tmp_path):
    matrix = np.array([0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, 16384]) * 65536
    path = write_rotated(tmp_path / "a.mp4", matrix)
    for name in ("pyav", "opencv", "decord"):
        with pytest.raises(DecodeError, match=r"expected a display matrix of quarter turns.*orientation=stored"):
            given(name, path)
        assert given(name, path, orientation="stored")[0].shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert of_matrix(np.zeros(9, np.int32).tobytes()) is None


def test_a_scale_in_the_matrix_is_left_aside():
    assert (
        of_matrix((matrix_of(*DIRECTIONS[8]) * np.array([2, 2, 1, 1, 1, 1, 1, 1, 1])).astype(np.int32).tobytes()) == 8
    )
