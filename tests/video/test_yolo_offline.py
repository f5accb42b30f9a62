"""The detector yolo reaches for no network and leaves nothing in the user's home, though ultralytics would do both."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.store.hashing import bytes_sha256
from mdfpipe.store.run import Run
from mdfpipe.video import ultralytics as quarantine
from mdfpipe.video.detectors.yolo import DEMO, PUBLISHED, Yolo
from mdfpipe.weightfiles.listed import Weights, listed
from tests.runs import ROOT, DataSet, call_here

from . import yolos

TRAP = """
import os, socket

def caught(*given, **_):
    with open(os.environ["TRAP"], "a") as file:
        file.write(f"{given}\\n")
    raise OSError("a test forbids the network")

for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "create_connection"):
    setattr(socket, name, caught)

class Socket(socket.socket):
    def connect(self, address):
        return caught(address) if self.family != socket.AF_UNIX else super().connect(address)

    def connect_ex(self, address):
        return caught(address) if self.family != socket.AF_UNIX else super().connect_ex(address)

    def sendto(self, *given):
        return caught(*given)

socket.socket = Socket
"""


class Cage:
    """An empty home, an empty folder for temporary files, and a list of everything that asked for the network."""

    def __init__(self, folder: Path) -> None:
        self.home, self.temporary, self.asked = folder / "home", folder / "tmp", folder / "asked.txt"
        for place in (self.home, self.temporary, folder / "trap"):
            place.mkdir(parents=True)
        (folder / "trap" / "sitecustomize.py").write_text(TRAP)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO", "ULTRALYTICS", "XDG", "PYTEST"))}
        self.environment = kept | {
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(folder / "trap"),
            "TRAP": str(self.asked),
        }

    def run(self, *command: object, apart: bool = False) -> subprocess.CompletedProcess[str]:
        """Run python with these arguments; apart: in a network of its own, which leads nowhere."""
        words = [*(["unshare", "-rn"] if apart else []), sys.executable, *map(str, command)]
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=240, check=False)

    @property
    def left(self) -> list[str]:
        """What lies in the home and among the temporary files."""
        return sorted(str(p.relative_to(self.home.parent)) for f in (self.home, self.temporary) for p in f.rglob("*"))


def test_the_cage_catches_what_ultralytics_does_by_itself(tmp_path):
    cage = Cage(tmp_path)
    done = cage.run("-c", "import ultralytics")
    assert done.returncode == 0, done.stderr
    assert "one.one.one.one" in cage.asked.read_text()
    assert any("settings.json" in name for name in cage.left)


@pytest.mark.parametrize(
    ("form", "apart"), [pytest.param("state_dict", False, marks=pytest.mark.slow), ("checkpoint", True)]
)
def test_detection_asks_for_no_network_and_leaves_the_home_empty(tmp_path, form, apart):
    if apart and subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: this machine does not permit `unshare -rn`, an empty network for the command")
    data = DataSet(tmp_path / "data")
    data.good("one.mkv")
    network = yolos.network().half()
    yolos.save(data.root / "a.pt", network.state_dict() if form == "state_dict" else {"model": network})
    detector = {"use": "yolo", "weights": "a.pt", "image_size": 96, "min_score": 0.05}
    study = data.write(detect={"detector": detector})
    cage, folder = Cage(tmp_path / "cage"), tmp_path / "run"
    command = ("-m", "mdfpipe", "detect", study, "--data", data.root, "--run", folder, "--threads", "1")
    done = cage.run(*command, apart=apart)
    assert done.returncode == 0, done.stderr
    assert Run(folder).table("detect", "videos/one").num_rows > 0
    assert not cage.asked.exists(), cage.asked.read_text()
    assert cage.left == []


def test_missing_weights_are_no_download(tmp_path):
    data = DataSet(tmp_path / "data")
    data.good("one.mkv")
    study = data.write(detect={"detector": {"use": "yolo", "weights": "yolov10n.pt"}})
    cage = Cage(tmp_path / "cage")
    done = cage.run("-m", "mdfpipe", "detect", study, "--data", data.root, "--run", tmp_path / "run")
    assert done.returncode == 2
    assert "'yolov10n.pt' not found" in done.stderr
    assert "--download-weights" in done.stderr
    assert not cage.asked.exists()
    assert cage.left == []
    done = cage.run(
        *("-m", "mdfpipe", "detect", study, "--data", data.root, "--run", tmp_path / "run", "--download-weights")
    )
    assert done.returncode == 2
    assert "fetching yolov10n.pt from https://github.com/ultralytics/assets" in done.stderr
    assert "yolov10n.pt could not be fetched: " in done.stderr.splitlines()[-1]
    assert "github.com" in cage.asked.read_text()  # only now


def test_the_process_is_as_it_was(tmp_path):
    """What ultralytics changes for the whole process when it is imported is put back."""
    code = """
import os, warnings, cv2, numpy as np, torch
from PIL import Image
cv2.setNumThreads(3)
os.environ.pop("OMP_NUM_THREADS", None)
before = dict(os.environ), np.get_printoptions(), str(torch.rand(3, 3) * 0), torch.save, Image.open, warnings.filters[:]
from mdfpipe.video import ultralytics as quarantine
quarantine._library()
after = dict(os.environ), np.get_printoptions(), str(torch.rand(3, 3) * 0), torch.save, Image.open, warnings.filters[:]
assert after[0].items() - before[0].items() == quarantine.QUIET.items(), after[0].items() - before[0].items()
assert before[1:] == after[1:]
assert cv2.getNumThreads() == 3
from ultralytics import settings
from ultralytics.utils import ONLINE
assert not settings["sync"] and not ONLINE
settings.update(runs_dir="x")
"""
    cage = Cage(tmp_path)
    done = cage.run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    assert cage.left == []


# --- fetching, without a network ---


@pytest.fixture
def downloads(monkeypatch):
    """ultralytics' downloader, which would reach for the network, replaced; gives the paths that were asked for."""
    module, asked = quarantine._library("ultralytics.utils.downloads"), []

    def fetched(url, file, min_bytes, **_):
        asked.append((url, str(file)))
        torch.save(yolos.network().state_dict(), file)

    monkeypatch.setattr(module, "safe_download", fetched)
    assert set(PUBLISHED) == {name for name in module.GITHUB_ASSETS_NAMES if name.startswith("yolov10")}
    return asked


def test_weights_are_fetched_when_asked_for(tmp_path, downloads):
    said = []
    Yolo(weights="yolov10n.pt").download(tmp_path, said.append)
    place = tmp_path / "weights" / "yolov10n.pt"
    url = "https://github.com/ultralytics/assets/releases/download/v8.4.0/yolov10n.pt"
    ((asked, fetched),) = downloads
    assert (asked, Path(fetched).name) == (url, place.name)
    assert said[0] == f"fetching yolov10n.pt from {url}"
    digest = bytes_sha256(place)
    assert said[1].startswith(f"fetched {place}: {place.stat().st_size} bytes, sha256 {digest}, not verified: no check")
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    assert Yolo(weights="yolov10n.pt").find(tmp_path) == place
    Yolo(weights="yolov10n.pt").download(tmp_path, said.append)
    assert len(downloads) == 1  # it is there


@pytest.mark.parametrize(("listed", "said"), [(64, ", as listed"), (8, ", begins as listed"), (None, "it is not kept")])
def test_a_fetched_file_is_compared_with_the_list(tmp_path, downloads, monkeypatch, listed, said):
    made = tmp_path / "made.pt"
    torch.save(yolos.network().state_dict(), made)
    monkeypatch.setattr(
        quarantine._library("ultralytics.utils.downloads"),
        "safe_download",
        lambda url, file, min_bytes, **_: Path(file).write_bytes(made.read_bytes()),
    )
    digest = bytes_sha256(made)[:listed] if listed else "0" * 64
    row = Weights(name="N", file="yolov10n.pt", source="here", sha256=digest)
    monkeypatch.setattr(quarantine, "listed_as", {row.file: row}.get)
    lines = []
    if listed is None:
        with pytest.raises(ConfigError, match=rf"expected sha256 0{{64}}, as `mdfpipe weights` .*{said}"):
            Yolo(weights=row.file).download(tmp_path, lines.append)
        assert list((tmp_path / "weights").iterdir()) == []
    else:
        Yolo(weights=row.file).download(tmp_path, lines.append)
        assert lines[1].endswith(said)


def test_every_file_that_can_be_fetched_or_that_a_study_names_is_listed():
    known = {one.file for one in listed()}
    assert set(PUBLISHED) <= known
    named = re.findall(
        r"weights: ([\w./-]+\.\w+)", "".join(p.read_text() for p in (ROOT / "pipelines").rglob("*.yaml"))
    )
    assert {Path(name).name for name in named} <= known
    assert len(named) > 20
    assert len(known) == len(listed())


def test_weights_are_listed_and_those_here_compared(tmp_path):
    text = call_here("weights").out
    assert "YOLOv10-X: yolov10x.pt" in text
    assert "sha256   unknown, not verified" in text
    (demo,) = (
        one for one in call_here("weights", "--data", tmp_path, "--json").json if one["verified"] and one["here"]
    )
    assert (demo["file"], demo["here"]["is"], demo["here"]["sha256"]) == (DEMO.name, "as listed", demo["sha256"])
    (tmp_path / "resnet50-0676ba61.pth").write_bytes(b"another")
    (tmp_path / "yolov10x.pt").write_bytes(b"who knows")
    said = call_here("weights", "--data", tmp_path)
    assert (said.code, said.err) == (3, "")
    assert said.out.count(": another file") == said.out.count(": no checksum is known") == 1


@pytest.mark.parametrize(
    "row", [{"sha256": "12"}, {"sha256": "X" * 64}, {"verified": True}, {"verified": True, "sha256": "0123abcd"}]
)
def test_a_row_that_claims_too_much_is_refused(row):
    with pytest.raises(ConfigError):
        validate(Weights, {"name": "a", "file": "a.pt", "source": "b", **row}, "weights.yaml")


def test_a_download_that_fails(tmp_path, downloads, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(quarantine._library("ultralytics.utils.downloads"), "safe_download", refuse)
    with pytest.raises(
        ConfigError, match=r"yolov10n\.pt could not be fetched: no network; get it by hand and put it at"
    ):
        Yolo(weights="yolov10n.pt").download(tmp_path, print)
