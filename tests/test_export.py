"""mdfpipe export: the ONNX file gives the boxes of the weights, by the one-to-one head."""

import re

import pytest

from mdfpipe.errors import ConfigError
from mdfpipe.export import export
from mdfpipe.video.detectors.onnx import Onnx

from .runs import call_here
from .video import yolos


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    network = yolos.network()
    yolos.save(folder / "a.pt", network.state_dict())
    return folder, network, export(str(folder / "a.pt"), folder / "a.onnx", image_size=128)


def test_the_file_gives_the_boxes_of_the_one_to_one_head(made):
    folder, network, done = made
    assert done.compared == 100
    assert done.box < 0.2
    assert done.score < 1e-3
    for size in ((128, 192), (192, 256)):  # other sizes than the traced one, other batches
        given = yolos.patches(3, size)
        answers = yolos.by_hand(network, yolos.as_input(given))
        least = yolos.threshold(answers)
        detector = Onnx(weights="a.onnx", min_score=least, image_size=max(size))
        found = detector.open(folder, "v", device="cpu", threads=1)(given)
        for boxes, answer in zip(found, answers, strict=True):
            yolos.assert_same_boxes(boxes, answer, least, within_px=0.3, within=2e-4)


@pytest.mark.parametrize(
    ("size", "says"), [(96, "300 boxes, and a smaller picture has fewer"), (200, "multiple of 32")]
)
def test_a_size_that_does_not_do(made, size, says):
    folder, _, _ = made
    with pytest.raises(ConfigError, match=says):
        export(str(folder / "a.pt"), folder / "c.onnx", image_size=size)


def test_what_cannot_be_exported(made, tmp_path):
    folder, _, _ = made
    with pytest.raises(ConfigError, match=r"ends in \.onnx"):
        export(str(folder / "a.pt"), folder / "c.pt")
    with pytest.raises(ConfigError, match="expected a study whose detector is yolo, got onnx"):
        export("pipelines/real-walk.yaml", folder / "c.onnx")
    with pytest.raises(ConfigError, match=r"weights 'nowhere\.pt' not found"):
        export("nowhere.pt", folder / "c.onnx")
    said = call_here("export", folder / "a.pt", "--out", tmp_path / "none" / "c.onnx", "--image-size", "128")
    assert "cannot be written" in said.line()


def test_a_file_that_is_there_is_kept_and_the_command_writes_over_it_the_same_bytes_again(made, tmp_path):
    folder, _, _ = made
    mine = tmp_path / "c.onnx"
    mine.write_bytes(b"mine")
    command = ("export", folder / "a.pt", "--out", mine, "--image-size", "128")
    assert re.search(r"c\.onnx: is there already; .*--force", call_here(*command).line())
    assert mine.read_bytes() == b"mine"
    said = call_here(*command, "--force")
    assert said.code == 0, said.err
    assert said.out.startswith(f"wrote {mine}: ")
    assert "its 100 best boxes on a test picture are those of the weights" in said.out
    assert mine.read_bytes() == (folder / "a.onnx").read_bytes()
    assert not list(tmp_path.glob(".*"))
