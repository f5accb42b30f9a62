"""Who is nobody, in every reader of subject ids; names that differ in what one does not see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.protocol import Protocol, read_protocol
from mdfpipe.running.scoring import read_vectors
from mdfpipe.store.subjects import SubjectNames
from tests.datasets.made_ijb import GOOD, Root, boxes, ijbc, kinds, reader

NOBODY = [
    "",
    "NA",
    "na",
    "<NA>",
    "None",
    "null",
    "NULL",
    "NaN",
    "-nan",
    "#N/A",
    "N/A",
    "n/a",
    "NaT",
    "-",
    "?",
    ".",
    "\\N",
]


def row(subject: str, x: int = 9) -> str:
    return f"{subject},videos/a.mp4,1,0,{x},2,3,4"


@pytest.mark.parametrize("text", [*NOBODY, "  ", '" NA "', "\u00a0", "\u200b"])
def test_nobody_has_no_subject_and_is_counted(root: Root, text: str) -> None:
    listing = reader().read(root(faces_csv=ijbc(GOOD, row(text))))
    assert kinds(listing) == {"missing_subject": 1}
    assert listing.anomalies[0].example.startswith("faces.csv row 3: SUBJECT_ID=")
    assert [r[2] for r in boxes(listing)] == ["1", None]


def test_who_is_really_called_so(root: Root) -> None:
    home = root(
        faces_csv=ijbc(row("NA", 1), row("na", 2), row("unknown", 3), row("Nadia", 4)), g_csv="SUBJECT_ID\nNA\n5\n"
    )
    settings = {"subject_names_kept": ["NA"], "subject_names_missing": ["unknown"], "galleries": {"1": ["g.csv"]}}
    listing = reader(**settings).read(home)
    assert [r[2] for r in boxes(listing)] == ["NA", None, None, "Nadia"]
    assert listing.galleries == {"5": ["1"], "NA": ["1"]}
    assert kinds(listing) == {"missing_subject": 2}
    listing = reader(galleries={"1": ["g.csv"]}).read(home)
    assert listing.galleries == {"5": ["1"]}
    assert kinds(listing) == {"gallery_row_without_subject": 1, "missing_subject": 2, "subject_perhaps_nobody": 1}


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        (("Ana", "ana"), "'Ana' and 'ana'"),
        (("7", "007"), "'007' and '7'"),
        (("Zo\u00e9", "Zoe\u0301"), r"'Zoe\u0301' and 'Zo\xe9'"),
        (("S\u30001", "S 1"), ""),
        (("S\u31641", "S 1"), r"'S 1' and 'S\u31641'"),
    ],
)
def test_subjects_that_look_alike_are_said(root: Root, pair: tuple[str, str], told: str) -> None:
    home = root(faces_csv=ijbc(row(pair[0], 1), row(pair[1], 2)))
    if not told:
        with pytest.raises(DataError, match=r"expected a subject of .* printable characters, got 'S\\u30001'"):
            reader().read(home)
        return
    listing = reader().read(home)
    assert kinds(listing) == {"subjects_alike": 1}
    assert listing.anomalies[0].example == f"{told} are taken as different people"


@pytest.mark.parametrize(
    ("text", "shown"), [("1\u00a0", r"'1\\xa0'"), ("a\tb", r"'a\\tb'"), ("1\u200b", r"'1\\u200b'")]
)
def test_what_one_does_not_see_is_escaped(root: Root, text: str, shown: str) -> None:
    with pytest.raises(DataError, match=rf"faces.csv row 3, SUBJECT_ID: expected a subject .*, got {shown}"):
        reader().read(root(faces_csv=ijbc(GOOD, row(text))))
    with pytest.raises(DataError, match=r"FILENAME: .*got 'videos/a\\xa0b.mp4', which holds .*no-break space"):
        reader().read(root(faces_csv=ijbc(GOOD.replace("a.mp4", "a\u00a0b.mp4"))))


@pytest.mark.parametrize("text", ["NA", "None", ""])
def test_lists_of_protocols(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text("subjects: p.csv\n")
    (tmp_path / "p.csv").write_text(f"subject_id,split\n12.0,train\n{text},test\n")
    with pytest.raises(ConfigError, match=rf"p.csv: row 3: '{text}' means a missing name; .*subject_names_kept"):
        read_protocol(str(tmp_path / "p.yaml"), [])
    (tmp_path / "p.yaml").write_text("subjects: p.csv\nsubject_names_kept: [NA, None, '']\n")
    assert read_protocol(str(tmp_path / "p.yaml"), [])["subjects"] == {"12": "train", text: "test"}
    with pytest.raises(ValueError, match="means a missing name"):
        Protocol(name="p", subjects={text: "test"})
    (tmp_path / "p.csv").write_text("subject_id,split\n7,train\n07,test\n")
    with pytest.raises(ConfigError, match=r"p.csv: '07' and '7' are in two splits"):
        read_protocol(str(tmp_path / "p.yaml"), [])


def test_vectors_made_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "v.npz"
    np.savez(file, subject_id=["1.0", "NA"], domain=["VIS", "VIS"], vector=np.ones((2, 3), np.float32))
    with pytest.raises(DataError, match=r"v.npz: row 1: expected a subject_id, got 'NA', which means a missing name"):
        read_vectors(file)
    rows, _, _ = read_vectors(file, names=SubjectNames(kept=frozenset({"NA"})))
    assert rows["subject_id"].to_pylist() == ["1", "NA"]
