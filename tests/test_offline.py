"""No command looks anything up, connects to anything, or writes elsewhere than where it was told to.

The commands run under a C library that stands before the system's `connect`, `sendto` and look-ups, so that libraries
written in C are seen as well, in the process and in its workers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import runs, systems

ONE_AFTER_THE_OTHER = """
import sys
from mdfpipe.cli import main
for command in sys.stdin.read().split("\\n"):
    sys.argv = ["mdfpipe", *command.split("\\t")]
    try:
        main()
    except SystemExit as ended:
        print("CODE", ended.code or 0, command, flush=True)
"""


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that tells of every connection and look-up."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("NOT TESTED: that no command asks for the network needs a C compiler and Linux")
    made = tmp_path_factory.mktemp("trap") / "trap.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", made, Path(__file__).with_name("network_trap.c"), "-ldl"], check=True
    )
    return made


def caged(trap: Path, home: Path, *command: str, said: str = "") -> subprocess.CompletedProcess[str]:
    """Python with these words in an empty home; home/asked: what asked for the network."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("XDG", "PYTEST", "ORT_", "MPL", "MDFPIPE", "YOLO"))
    }
    own = {"HOME": str(home / "home"), "TMPDIR": str(home / "tmp"), "LD_PRELOAD": str(trap)}
    own |= {"NET_TRAP": str(home / "asked"), "PYTHONPATH": str(runs.ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("home", "tmp"):
        (home / name).mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, *command], env=kept | own, input=said, capture_output=True, text=True, check=False, timeout=300
    )


def test_the_trap_sees_what_python_and_onnxruntime_do(trap: Path, tmp_path: Path) -> None:
    look_up = "import socket; socket.getaddrinfo('example.org', 80)"
    caged(trap, tmp_path, "-c", look_up)
    connect = "import socket; socket.socket().connect(('192.0.2.1', 9))"
    caged(trap, tmp_path, "-c", connect)
    told = (tmp_path / "asked").read_text()
    assert "getaddrinfo example.org" in told
    assert "connect" in told


def test_no_command_asks_for_the_network_or_writes_elsewhere(trap: Path, labelled: Path, tmp_path: Path) -> None:
    home = systems.copied(labelled, tmp_path / "work")
    tiny = systems.loaded(systems.FACE)
    study = systems.write_study(home / "study.yaml", {"tiny": {"recipe": tiny}})
    where = ["--data", home / "data", "--run", home / "run", "--threads", "1"]
    shutil.rmtree(home / "run" / "detect")
    weights = home / "run" / "train" / "tiny" / "last.pt"
    commands: list[list[object]] = [
        ["run", study, *where],  # from detect on
        ["status", home / "run"],
        ["report", home / "run"],
        ["inspect", home / "run"],
        ["inspect", home / "run", "--html", home / "page.html"],
        ["inspect", home / "run" / "manifest" / "manifest.parquet", "--csv", home / "rows.csv"],
        ["export", weights, "--out", home / "tiny.onnx"],
        ["synth", home / "drawn", "--preset", "tiny", "--subjects", "2"],
        ["eval", "--embeddings", home / "run" / "v.parquet", "--protocol", "market", "--out", home / "scored"],
    ]
    lines = "\n".join("\t".join(map(str, command)) for command in commands)
    done = caged(trap, tmp_path, "-c", ONE_AFTER_THE_OTHER, said=lines)
    codes = [line.split()[1:3] for line in done.stdout.splitlines() if line.startswith("CODE ")]
    expected = [["0", str(command[0])] for command in commands[:-1]] + [["2", "eval"]]  # there are no such vectors
    assert codes == expected, done.stderr[-2000:]
    assert "onnxruntime" in done.stdout + done.stderr or (home / "tiny.onnx").is_file()
    asked = tmp_path / "asked"
    assert not asked.exists(), asked.read_text()
    left = [str(p.relative_to(tmp_path)) for folder in ("home", "tmp") for p in (tmp_path / folder).rglob("*")]
    assert [name for name in left if not name.startswith(("home/.cache", "home/.config"))] == []
    kept = [str(p.relative_to(tmp_path)) for p in map(tmp_path.joinpath, left) if p.is_file()]
    assert [name for name in kept if "/matplotlib/" not in name] == []  # its cache of fonts
    outside = {path.name for path in home.iterdir()}
    assert outside == {"data", "run", "study.yaml", "page.html", "rows.csv", "tiny.onnx", "drawn"}
