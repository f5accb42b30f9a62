"""Files of vectors made elsewhere: whatever is wrong with them is one line that says where; nothing is made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mdfpipe.cli.commands import app
from mdfpipe.errors import ConfigError, DataError, MdfError, ProtocolError
from mdfpipe.running.scoring import read_vectors, score
from tests.runs import call_here

SEEDED = "tables.recognition.benchmark.galleries=seeded"
ROWS = [
    (f"cam{camera}/{person:04d}/{n:04d}.jpg", f"{person:04d}", "NIR" if camera in (3, 6) else "VIS", camera)
    for camera in (1, 2, 3, 6)
    for person in range(1, 5)
    for n in (1, 2)
]
VECTORS = np.random.default_rng(0).standard_normal((len(ROWS), 6)).astype(np.float32)
NAMES = ("file", "subject_id", "domain", "camera_id")
COLUMNS: dict[str, list[Any]] = {name: [row[n] for row in ROWS] for n, name in enumerate(NAMES)}
Change = Callable[[list[Any]], Any]


def parquet(path: Path, **changed: Any) -> Path:
    pq.write_table(pa.table(given({**COLUMNS, "vector": VECTORS.tolist()}, changed)), path)
    return path


def npz(path: Path, **changed: Any) -> Path:
    columns: dict[str, Any] = {name: np.array(values) for name, values in COLUMNS.items()}
    columns["crop_id"] = columns.pop("file")  # np.savez has an argument of its own named file
    np.savez(path, **given({**columns, "vector": VECTORS}, changed))
    return path


def given(columns: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """With columns changed by a function, set, or (None) left out."""
    for name, value in changed.items():
        columns[name] = value(columns[name]) if callable(value) else value
    return {name: values for name, values in columns.items() if values is not None}


def first(value: Any) -> Change:
    """The column with another first value."""
    return lambda values: [value, *values[1:]]


def every(value: Any, kind: pa.DataType | None = None) -> Any:
    return pa.array([value] * len(ROWS), kind)


def refusal(file: Path, protocol: str = "sysu-all", **more: Any) -> str:
    settings = [SEEDED] if protocol.startswith("sysu") else []
    with pytest.raises(MdfError) as caught:
        score(file, protocol, file.parent / "out", settings, **more)
    assert str(caught.value).isprintable()
    assert not (file.parent / "out/evaluate").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"subject_id": first(None)}, "row 0 has no subject_id"),
        ({"subject_id": first("")}, "row 0 has no subject_id"),
        ({"subject_id": lambda values: [[one] for one in values]}, "column subject_id: expected string, got list"),
        ({"domain": first(None)}, "row 0 has no domain"),
        ({"domain": lambda values: [*values[:3], "XIR", *values[4:]]}, "row 3: domain: expected <BAND>"),
        ({"domain": None}, "expected subject_id, domain and vector (N, D), a row each; got file, subject_id"),
        ({"file": first(None)}, "row 0 has no file"),
        ({"file": lambda values: [values[1], *values[1:]]}, "row 1: expected each file once a system, got 'cam1/0001/"),
        ({"file": lambda values: [[one] for one in values]}, "column file: expected string, got list"),
        ({"file": None}, "a benchmark needs the path of each image"),
        ({"camera_id": lambda values: [[one] for one in values]}, "column camera_id: expected string, got list"),
        ({"modality": every(None, pa.string())}, "row 0 has no modality"),
        ({"modality": ["body"] + [None] * (len(ROWS) - 1)}, "row 1 has no modality"),
        ({"modality": ["face"] + ["body"] * (len(ROWS) - 1)}, "expected vectors of one modality, got body, face"),
        ({"system": [None] + ["a"] * (len(ROWS) - 1)}, "row 0 has no system"),
        (
            {"system": every("x\x1b[31m")},
            "row 0: system: expected printable text of at most 200 characters, got 'x",
        ),
        ({"subject_id": first("s" * 201)}, "(201 characters); rename it"),
        ({"system": every(["a"])}, "column system: expected string, got list"),
        ({"frame": every("a")}, "column frame: expected int64, got string"),
        ({"box_height_px": every("a")}, "column box_height_px: expected double, got string"),
        ({"vector": every("a")}, "column vector: expected a list of numbers in each row, got string"),
        ({"vector": every(1.0)}, "column vector: expected a list of numbers in each row, got double"),
        ({"vector": every(["a"])}, "vector: expected real numbers, got object"),
        ({"vector": every([True])}, "vector: expected real numbers, got bool"),
        ({"vector": every([[1.0]])}, "vector: expected real numbers, got object"),
        ({"vector": every([1e300])}, "row 0: expected numbers that float32 holds"),
        ({"vector": every(None, pa.list_(pa.float32()))}, f"no row of {len(ROWS)} has one"),
        ({"vector": first([1.0])}, "expected vectors of one width, got [1, 6]"),
        ({"vector": first([0.0] * 6)}, "row 0: the vector is zero"),
        ({"vector": first([None] * 6)}, "row 0: expected numbers that float32 holds, got NaN"),
        ({"vector": None}, "expected a column vector, got file"),
    ],
)
def test_wrong_columns_of_a_parquet_file(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    assert said in refusal(parquet(tmp_path / "a.parquet", **changed))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"subject_id": np.array([{"a": 1}] * len(ROWS), object)}, "Object arrays cannot be loaded"),
        ({"vector": VECTORS.astype(object)}, "Object arrays cannot be loaded"),
        ({"vector": VECTORS.astype(complex)}, "vector: expected real numbers, got complex128"),
        ({"vector": VECTORS.astype(str)}, "vector: expected real numbers, got <U"),
        ({"vector": VECTORS.astype(np.float64) * 1e300}, "row 0: expected numbers that float32 holds"),
        ({"vector": np.where(np.arange(len(ROWS))[:, None] == 5, np.nan, VECTORS)}, "row 5: expected numbers that"),
        (
            {"vector": VECTORS[:, 0]},
            f"a row each; got subject_id, domain, camera_id, crop_id and vector ({len(ROWS)},)",
        ),
        ({"vector": np.float32(3)}, "and vector (1,)"),
        ({"vector": None}, "and vector (0,)"),
        ({"epoch": np.int64(3)}, "Column 4 named epoch expected length 32 but got length 1"),
        (dict.fromkeys(("crop_id", *NAMES[1:]), lambda values: values[:0]) | {"vector": VECTORS[:0]}, "found no row"),
    ],
)
def test_wrong_arrays_of_an_npz_file(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    assert said in refusal(npz(tmp_path / "a.npz", **changed))


@pytest.mark.parametrize("make", [parquet, npz])
def test_damaged_files(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Cut off anywhere, or with bytes changed: refused, or right, never another error."""
    file = make(tmp_path / f"a.{make.__name__}")
    whole, chance, refused = file.read_bytes(), np.random.default_rng(1), 0
    for number in range(60):
        data = bytearray(whole if number % 3 else whole[: chance.integers(len(whole))])
        for place in chance.integers(0, len(data), 8 if number % 3 else 0):
            data[place] = chance.integers(256)
        file.write_bytes(data)
        try:
            read_vectors(file, images=True)
        except DataError as error:
            said, refused = str(error), refused + 1
            assert_line(said, file)
    assert refused > 20


def assert_line(said: str, file: Path) -> None:
    assert said.startswith(f"{file}: ")
    assert said.isprintable()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for place in (tmp_path / "a.parquet", tmp_path):
        assert "expected a Parquet or NPZ file of vectors, found no such file" in refusal(place)


NEEDS = {
    "sysu-all": ("NIR", True),
    "sysu-indoor": ("NIR", True),
    "regdb": ("LWIR", False),
    "llcm_deen_paper": ("NIR", True),
    "llcm_testpy_v2i": ("NIR", True),
    "llcm_idkl_full": ("NIR", False),
    "market": ("VIS", True),
}


def file_for(protocol: str, path: Path, **changed: Any) -> Path:
    """A file that fits a protocol, but for what is changed. LLCM has no near-infrared camera 3."""
    other, _ = NEEDS[protocol]
    sessions = ["query" if n % 3 == 0 else "bounding_box_test" for n in range(len(ROWS))]
    more: dict[str, Any] = {
        "domain": [other if one == "NIR" else one for one in COLUMNS["domain"]],
        "camera_id": [2 if n == 3 and protocol.startswith("llcm") else n for n in COLUMNS["camera_id"]],
    }
    return parquet(path, **(more | ({"session_id": sessions} if protocol == "market" else {}) | changed))


@pytest.mark.parametrize("protocol", NEEDS)
def test_what_a_protocol_needs_of_its_rows(tmp_path: Path, protocol: str) -> None:
    path, (other, cameras) = tmp_path / "a.parquet", NEEDS[protocol]
    name = protocol.split("-")[0]
    settings = [SEEDED] if name == "sysu" else []
    assert score(file_for(protocol, path), protocol, tmp_path / "good", settings).metrics
    if cameras:
        assert f"{name}: expected camera_id of every row" in refusal(file_for(protocol, path, camera_id=None), protocol)
        one = file_for(protocol, path, camera_id=[None, *COLUMNS["camera_id"][1:]])
        assert "1 of 32 have none (such as one of subject 0001)" in refusal(one, protocol)
    left = file_for(protocol, path, camera_id=["left", *map(str, COLUMNS["camera_id"][1:])])
    assert "camera_id: expected a number such as 3 or cam3, got 'left'" in refusal(left, protocol)
    for band in {"VIS", other}:
        lone = file_for(protocol, path, domain=["MWIR" if band == other == "VIS" else band] * len(ROWS))
        missing = "VIS" if band == other else other
        assert f"{name}: expected rows of band {missing}, got " in refusal(lone, protocol)
    alone = file_for(protocol, path, subject_id=["0017"] * len(ROWS))
    assert "expected two people or more in the gallery, got 0017 alone" in refusal(alone, protocol)
    strangers = file_for(protocol, path, subject_id=[str(n) for n in range(len(ROWS))])
    assert "no query has a mate in the gallery" in refusal(strangers, protocol)
    if protocol == "market":
        for sessions in (None, every(None, pa.string()), every("query")):
            file = file_for(protocol, path, session_id=sessions)
            assert "expected rows of session_id query and bounding_box_test, got" in refusal(file, protocol)


def test_the_command_says_one_line(tmp_path: Path) -> None:
    file = npz(tmp_path / "a.npz", vector=VECTORS.astype(object))
    words = ["eval", "--embeddings", str(file), "--protocol", "sysu-all", "--out", str(tmp_path / "out")]
    assert "Object arrays cannot be loaded" in call_here(*words, "--set", SEEDED).calm().line()
    for arguments, error in (
        (["--protocol", "sysu-outdoor"], ConfigError),
        (["--set", "tables.recognition.benchmark.shots=3"], ConfigError),
    ):
        parquet(tmp_path / "b.parquet")
        done = CliRunner().invoke(app, [*words[:2], str(tmp_path / "b.parquet"), *words[3:], *arguments])
        assert isinstance(done.exception, error) or done.exit_code == 2, done.output


def test_no_name_leads_out_of_the_folder_and_no_run_is_written_over(tmp_path: Path) -> None:
    out = tmp_path / "a/b/out"
    made = score(parquet(tmp_path / "v.parquet", system=every("x/../../../../P")), "sysu-all", out, [SEEDED])
    assert {row["system"] for row in made.metrics} == {"x/../../../../P"}
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(out)]
    assert outside == [tmp_path / "v.parquet"]
    (out / "pipeline.yaml").touch()
    with pytest.raises(ConfigError, match="expected a folder of its own, got a run folder"):
        score(tmp_path / "v.parquet", "sysu-all", out, [SEEDED])


def test_official_galleries_that_are_not_there(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"galleries 'exp/rand_perm_cam.mat' not found"):
        score(file, "sysu-all", tmp_path / "out", data=tmp_path)
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp/rand_perm_cam.mat").write_bytes(b"MATLAB 5.0".ljust(126) + b"IM" + bytes(5))
    with pytest.raises((ConfigError, ProtocolError), match=r"expected the published rand_perm_cam.mat"):
        score(file, "sysu-all", tmp_path / "out", data=tmp_path)
