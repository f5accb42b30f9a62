"""`mdfpipe faces`: faces that a detector finds, their table, its mending, and the numbers that rest on it."""

from __future__ import annotations

import csv
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import mdfpipe
from mdfpipe.datasets.ijb import Ijb
from mdfpipe.datasets.reading import found_faces
from mdfpipe.errors import DataError
from mdfpipe.inspecting import face_page
from mdfpipe.inspecting.face_ids import FaceIds
from mdfpipe.inspecting.face_page import FaceLimits, describe_faces, write_face_page
from mdfpipe.inspecting.things import Description
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.system import Start, System, checkpoint_of
from mdfpipe.running.runner import Runner
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study
from mdfpipe.video.decoders.auto import Auto
from mdfpipe.video.trackers import Tracker
from tests import clips
from tests.real import ASSETS, needs_assets
from tests.reporting.test_page import Reader, check_self_contained, detail, pictures
from tests.runs import Said, call_here
from tests.video.crowds import crowd
from tests.video.test_trackers import boxes_of

WEIGHTS = ASSETS / "weights" / "face_detection_yunet_2023mar.onnx"
WALK = ASSETS / "real-walk" / "videos" / "face-demographics-walking.gif"
HEADER = "SUBJECT_ID,FILENAME,FRAME_NUM,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT,SCORE,FOUND_ID,SOURCE"


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def find(data: Path, *more: str | Path) -> Said:
    return call_here("faces", data, "--weights", WEIGHTS, "--threads", "1", *more)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """A folder with the walkers, a clip of nobody, sixteen-bit pages of the walkers, and a file that is no video."""
    data = tmp_path_factory.mktemp("faces")
    shutil.copy(WALK, data / "walk.gif")
    clips.write_video(data / "empty.mp4", 6)
    (data / "broken.mp4").write_bytes(b"\0" * 4096)
    grey = [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for batch in Auto().frames(WALK) for one in batch.pixels]
    assert cv2.imwritemulti(str(data / "deep.tiff"), [one.astype(np.uint16) * 20 + 6000 for one in grey[-6:]])
    return data, find(data)


@needs_assets
def test_the_faces_of_a_folder_are_a_table(found: tuple[Path, Said]) -> None:
    data, said = found
    assert said.code == 3, said
    assert "failed: broken: " in said.out
    assert "no face found in 1 video: empty" in said.out
    assert (data / "faces.csv").read_text().splitlines()[0] == HEADER
    rows = rows_of(data / "faces.csv")
    assert {row["SOURCE"] for row in rows} == {"detected"}
    counts = Counter((row["FILENAME"], row["SUBJECT_ID"]) for row in rows)
    assert counts == {("deep.tiff", "1"): 6, ("deep.tiff", "2"): 6, ("walk.gif", "3"): 35, ("walk.gif", "4"): 35}
    annotated = rows_of(ASSETS / "real-walk" / "faces.csv")
    centres = {(r["FRAME_NUM"], r["SUBJECT_ID"]): float(r["FACE_X"]) + float(r["FACE_WIDTH"]) / 2 for r in annotated}
    pairs: Counter[tuple[str, str]] = Counter()
    for row in (row for row in rows if row["FILENAME"] == "walk.gif"):
        middle = float(row["FACE_X"]) + float(row["FACE_WIDTH"]) / 2
        pairs[row["SUBJECT_ID"], min("12", key=lambda s: abs(centres[row["FRAME_NUM"], s] - middle))] += 1
    assert sorted(pairs.values()) == [35, 35]


@needs_assets
def test_the_same_command_goes_on_and_gives_the_same_bytes(found: tuple[Path, Said]) -> None:
    data, _ = found
    before = (data / "faces.csv").read_bytes()
    (data / "faces.csv").unlink()
    said = find(data, "--json")
    assert said.code == 3, said
    assert (data / "faces.csv").read_bytes() == before
    told = said.json
    assert told["warnings"] == []
    assert (told["faces"], told["ids"], told["source"], list(told["failed"])) == (82, 4, "detected", ["broken"])


@needs_assets
def test_ids_are_merged_and_what_was_merged_is_not_lost(found: tuple[Path, Said], tmp_path: Path) -> None:
    data, _ = found
    table = tmp_path / "faces.csv"
    shutil.copy(data / "faces.csv", table)
    said = call_here("faces", table, "--merge", "3=1", "--merge", "anna=3")
    assert (said.code, said.out) == (0, "anna: 41 faces\n")
    assert Counter(row["SUBJECT_ID"] for row in rows_of(table)) == {"anna": 41, "2": 6, "4": 35}
    assert [row["FOUND_ID"] for row in rows_of(table)] == [row["FOUND_ID"] for row in rows_of(data / "faces.csv")]
    assert "ids in it were changed" in find(data, "--out", table).line()
    for merge, words in {
        "2=99": "no id '99'; it has anna, 2, 4",
        "2=3": "no id '3'; its faces have the id 'anna' now",
        "4=anna": "4 would be two faces of frame",
        "4": "expected two ids, as in 3=17",
        "nan=4": "expected a name",
    }.items():
        before = table.read_bytes()
        assert words in call_here("faces", table, "--merge", merge).line()
        assert table.read_bytes() == before


@needs_assets
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--weights", ASSETS / "weights" / "yolox_nano_416.onnx"), "expected YuNet's weights"),
        (("--weights", __file__), "expected YuNet's weights"),
        (("--weights", "nowhere.onnx"), "not found"),
        ((), "expected --weights FILE"),
        (("--weights", WEIGHTS, "--videos", "*.avi"), "expected videos that match *.avi, found none"),
        (("--weights", WEIGHTS, "--merge", "1=2"), "leave --weights out"),
        (("--weights", WEIGHTS, "--out", "faces.run"), "expected a name for the face table"),
        (("--weights", WEIGHTS, "--out", ASSETS / "real-walk" / "faces.csv", "--force"), "is never overwritten"),
    ],
)
def test_what_cannot_be_is_one_line(more: tuple[str | Path, ...], words: str, tmp_path: Path) -> None:
    clips.write_video(tmp_path / "a.mp4", 2)
    assert words in call_here("faces", tmp_path, *more).line()


def test_a_folder_without_videos_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "w.onnx").write_bytes(b"")
    said = call_here("faces", tmp_path, "--weights", tmp_path / "w.onnx")
    assert "expected videos, found none" in said.line()


def test_the_table_says_which_faces_are_detected(tmp_path: Path) -> None:
    """A table without the column is annotated; so is a row of another source."""
    rows = "1,a.mp4,0,1,2,3,4,0.9,1,detected\n,a.mp4,1,1,2,3,4,0.9,,detected\n2,b.mp4,0,1,2,3,4,,,hand\n"
    (tmp_path / "faces.csv").write_text(f"{HEADER}\n{rows}")
    reader: Any = Ijb(domain={"constant": "VIS"})  # type: ignore[arg-type]
    assert reader.read(tmp_path).detected == {"a": 2}
    plain = "\n".join(line.rsplit(",", 1)[0] for line in (HEADER + "\n" + rows).splitlines()) + "\n"
    (tmp_path / "faces.csv").write_text(plain)
    assert reader.read(tmp_path).detected == {}


@needs_assets
def test_from_a_clip_to_a_report_in_three_commands(
    tmp_path: Path,
) -> None:
    """And every output says that people are named by detected faces."""
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    shutil.copy(WALK, data)
    assert find(data).code == 0
    weights = f"detect.detector.weights={ASSETS / 'weights' / 'yolox_nano_416.onnx'}"
    said = call_here("run", "real-walk", "--data", data, "--run", run, "--threads", "1", "--set", weights)
    assert said.code == 0, said
    assert "source: detected: a face detector found 70 of 70 faces" in said.out
    assert call_here("report", run).code == 0
    words = "source: detected; people are named by faces that a detector found"
    folder = run / "evaluate" / "report"
    made = [said.out, *((folder / n).read_text() for n in ("report.html", "tables.md", "tables.tex"))]
    made += [(folder / "tables" / "same-clip.csv").read_text(), (run / "evaluate" / "metrics.json").read_text()]
    assert [words in text for text in made] == [True] * 6
    assert Run(run).table("evaluate", "metrics")["notes"].to_pylist() == [["at_chance", "detected_faces"]]
    labels = Run(run).table("label", WALK.stem)["subject_id"].to_pylist()
    assert Counter(labels) == {"1": 35, "2": 35}


@needs_assets
def test_python_gives_the_same(tmp_path: Path) -> None:
    shutil.copy(WALK, tmp_path)
    done = mdfpipe.find_faces(tmp_path, weights=WEIGHTS, stride=5, resources=mdfpipe.Resources(threads=1))
    assert (done.faces, done.ids, done.complete, done.table) == (14, 2, True, tmp_path / "faces.csv")
    assert mdfpipe.merge_faces(tmp_path, ["left=1"]) == {"left": 7}
    assert mdfpipe.merge_faces(tmp_path, ["left=2@20"], splits=["1@20", "2@20"]) == {"left": 7, "1@20": 3}


# -- ids that may be wrong

Walks = dict[str, list[tuple[int, float, float, float]]]


def table_of(place: Path, walks: Walks) -> Path:
    """A face table by hand: of each track, (frame, x, y, height) of its faces, in the video `<a>&.mp4`."""
    rows = [
        f"{name},<a>&.mp4,{frame},{x},{y},{0.8 * height},{height},0.9,{name},detected"
        for name, faces in walks.items()
        for frame, x, y, height in faces
    ]
    place.write_text("\n".join([HEADER, *rows]) + "\n")
    return place


def walk(frames: range, x: float, height: float = 30, speed: float = 3) -> list[tuple[int, float, float, float]]:
    return [(frame, x + speed * (frame - frames[0]), 50 + frame % 2, height + frame % 3) for frame in frames]


WRONG: dict[str, tuple[Walks, str]] = {
    "nothing": ({"1": walk(range(40), 0), "2": walk(range(40), 400)}, ""),
    "a pause": ({"1": walk(range(20), 0), "2": walk(range(30, 50), 90)}, "--merge 1=2"),
    "a longer second half": ({"1": walk(range(9), 0), "2": walk(range(9, 50), 30)}, "--merge 2=1"),
    "too late": ({"1": walk(range(20), 0), "2": walk(range(200, 220), 60)}, ""),
    "too far": ({"1": walk(range(20), 0), "2": walk(range(22, 50), 400)}, ""),
    "another size": ({"1": walk(range(20), 0), "2": walk(range(22, 50), 60, height=60)}, ""),
    "both in a frame": ({"1": walk(range(20), 0) + walk(range(30, 32), 900), "2": walk(range(31, 50), 960)}, ""),
    "a jump": ({"1": walk(range(20), 0) + walk(range(20, 40), 300)}, "--split 1@20"),
    "a growth": ({"1": walk(range(20), 0) + walk(range(20, 40), 60, height=60)}, "--split 1@20"),
    "a fast walk": ({"1": walk(range(40), 0, speed=25)}, ""),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_sign_of_a_wrong_id_is_gone_once_it_is_mended(case: str, tmp_path: Path) -> None:
    walks, mend = WRONG[case]
    table = table_of(tmp_path / "faces.csv", walks)
    ids = FaceIds(table)
    doubts = [*ids.doubles(), *ids.mixtures()] if case != "both in a frame" else ids.doubles()
    assert [" ".join(doubt.mend) for doubt in doubts] == [mend] * bool(mend)
    if mend:
        assert call_here("faces", tmp_path, *doubts[0].mend).code == 0
        assert not FaceIds(table).doubles() + FaceIds(table).mixtures()
    in_order = [one.name for one in ids.ids(9, 2, doubts)]
    assert sorted(in_order) == sorted(walks)
    assert in_order[0] in (doubts[0].ids if mend else max(walks, key=lambda name: len(walks[name])))


def test_ids_of_several_videos(tmp_path: Path) -> None:
    """Each video's ids with their best faces; pairs across videos by similarity, none that merges before it made."""
    rows = [
        f"{who},{video}.mp4,{frame},10,10,20,20,{0.5 + 0.01 * frame},{who},detected"
        for video, people in (("b", "12"), ("a", "3"), ("c", "45"))
        for who in people
        for frame in range(9 - int(who))
    ]
    table = tmp_path / "faces.csv"
    table.write_text("\n".join([HEADER, *rows]) + "\n")
    ids = FaceIds(table)
    words = (
        "no id is in two of the 3 videos: ids of different videos are different people until `mdfpipe faces --merge`"
    )
    assert any(note.startswith(words) for note in describe_faces(table).notes)
    found = ids.by_video(2, 1, reach=4)
    assert [(one.path, one.left, [(n, f.frame, of) for n, f, of in one.ids]) for one in found] == [
        ("a.mp4", 0, [("3", 3, 1)]),
        ("b.mp4", 1, [("1", 3, 1)]),
    ]
    towards = {"1": 0, "3": 10, "4": 30, "2": 31, "5": 100}  # degrees
    vectors = {who: np.array([np.cos(np.radians(d)), np.sin(np.radians(d))]) for who, d in towards.items()}
    pairs = ids.alike(ids.ids(9, 3, []), vectors, 9)
    # 1 and 2, and 4 and 5, share frames, so that no more of them are joined than these
    assert [" ".join(one.mend) for one in pairs] == ["--merge 2=4", "--merge 1=3", "--merge 3=5"]
    assert pairs[0].words == "ids 2 and 4 have the similarity 1.00"
    assert [(name, len(faces)) for name, faces in pairs[0].sides] == [("2", 3), ("4", 3)]
    assert call_here("faces", table, "--merge", "1=3").code == 0
    assert FaceIds(table).shared == 1
    said = call_here("faces", table, "--merge", "3=5")  # the next one, in a call of its own
    assert said.out == "1: 18 faces\n3: its faces have the id 1 now, which is given\n"
    assert describe_faces(table).facts["ids in several videos"] == 1
    assert not any("no id is in two" in note for note in describe_faces(table).notes)
    one_video = FaceIds(table_of(tmp_path / "one.csv", {"1": walk(range(9), 0), "2": walk(range(9), 99)}))
    assert (one_video.by_video(9, 9, 9), one_video.alike(one_video.ids(9, 3, []), vectors, 9)) == ([], [])


def test_a_cut_leaves_other_cuts_and_names_as_they_are(tmp_path: Path) -> None:
    """A track of three people is mended by what is advised, in any order of cuts."""
    jumps = walk(range(20), 0) + walk(range(20, 40), 300) + walk(range(40, 60), 900)
    table = table_of(tmp_path / "faces.csv", {"1": jumps, "2": walk(range(60), 2000)})
    advised = []
    while (doubts := FaceIds(table).mixtures()) and len(advised) < 4:
        advised.append(doubts[0].mend[1])
        assert call_here("faces", table, *doubts[0].mend).out == f"{advised[-1]}: 20 faces\n"
    assert advised == ["1@40", "1@20"]
    assert call_here("faces", table, "--merge", "anna=1@40", "--merge", "1=1@20").code == 0
    assert call_here("faces", table, "--split", "1@30", "--split", "1@10").out == "1@10: 20 faces\n1@30: 10 faces\n"
    counts = Counter(row["SUBJECT_ID"] for row in rows_of(table))
    assert counts == {"1": 10, "1@10": 20, "1@30": 10, "anna": 20, "2": 60}
    assert call_here("faces", table, "--split", "1").out == "1: 60 faces\n"  # undoes all of it
    assert Counter(row["SUBJECT_ID"] for row in rows_of(table)) == {"1": 60, "2": 60}


def test_a_change_of_ids_that_was_made_before_changes_nothing(tmp_path: Path) -> None:
    """Repeated, a cut does not undo the merge behind it; a list of changes can be given again."""
    table = table_of(
        tmp_path / "faces.csv", {"1": walk(range(20), 0) + walk(range(25, 40), 75), "2": walk(range(9), 9)}
    )
    changes = ("--split", "1@22", "--merge", "anna=1@22", "--merge", "bob=2")
    assert call_here("faces", table, *changes[:2]).out == "1@22: 15 faces\n"
    with_cut, states = "(id 1 before it, id {} from frame 25 on); nothing changed", []
    for who, given in (("1@22", changes[:2]), ("anna", changes)):
        if given == changes:
            assert call_here("faces", table, *changes).out.startswith(
                "anna: 15 faces\nbob: 9 faces\n1@22: the track 1 is"
            )
        states.append(table.stat().st_mtime_ns)
        said = call_here("faces", table, *given)
        assert (said.code, with_cut.format(who) in said.out, len(said.out.splitlines())) == (0, True, len(given) // 2)
        assert call_here("faces", table, *given, "--json").json == {"faces": {}, "already": said.out.splitlines()}
        assert table.stat().st_mtime_ns == states[-1]  # it was not written
    assert said.out.splitlines()[1:] == [
        "1@22: its faces have the id anna already; nothing changed",
        "2: its faces have the id bob already; nothing changed",
    ]
    for frame in (22, 23, 25):
        assert with_cut.format("anna") in call_here("faces", table, "--split", f"1@{frame}").out
        assert table.stat().st_mtime_ns == states[-1]
    assert "id 'anna' now" in call_here("faces", table, "--merge", "carl=1@22").line()
    assert call_here("faces", table, "--split", "1", "--split", "1@9").out == "1: 9 faces\n1@9: 26 faces\n"
    assert call_here("faces", table, "--split", "1").out == "1: 35 faces\n"
    assert call_here("faces", table, "--split", "1").out == "1: has its own id already; nothing changed\n"


def test_signs_are_few_and_mostly_right_in_a_crowd(tmp_path: Path) -> None:
    """Tracks of crowds with known people: which ids are of several people, and which pairs are one person."""
    counted = Counter[str]()
    tracker = Tracker.model_validate({"use": "bytetrack", "high_score": 0.6, "new_score": 0.6})
    for seed in range(3):
        found = crowd(seed, 600, 20, missed=0.2, speed=5)
        track = tracker.link(boxes_of(found, fps=25.0), tmp_path, "v", lambda done, total: None).track
        walks: Walks = {}
        people: dict[str, Counter[int]] = {}
        rows = zip(found.frame.tolist(), found.xyxy.tolist(), track.tolist(), found.person.tolist(), strict=True)
        for frame, (x1, y1, _, y2), number, who in rows:
            if number >= 0:
                walks.setdefault(str(number), []).append((frame, x1, y1, y2 - y1))
                people.setdefault(str(number), Counter())[who] += 1
        ids = FaceIds(table_of(tmp_path / "faces.csv", walks))
        mixed = {name for name, counts in people.items() if sum(n >= 5 for n in counts.values()) > 1}
        doubted = {doubt.ids[0] for doubt in ids.mixtures()}
        main = {name: counts.most_common(1)[0][0] for name, counts in people.items()}
        one = [main[doubt.ids[0]] == main[doubt.ids[1]] for doubt in ids.doubles()]
        counted += Counter(mixed=len(mixed), right=len(doubted & mixed), wrong=len(doubted - mixed))
        counted += Counter(pairs=len(one), one=sum(one))
    assert counted == {"mixed": 5, "right": 4, "pairs": 4, "one": 3}  # and no other id is doubted


def mixed_up(table: Path) -> None:
    """Make wrong ids in the table: a pause of one walker and another id behind it, then an exchange."""
    lines = table.read_text().splitlines()
    kept = [lines[0]]
    for row in (line.split(",") for line in lines[1:]):
        who, frame = row[0], int(row[2])
        if row[1] == "walk.gif" and not (who == "3" and 12 <= frame < 15):
            name = {"3": "3" if frame < 12 else "5" if frame < 25 else "4", "4": "4" if frame < 25 else "6"}[who]
            kept.append(",".join([name, *row[1:8], name, row[9]]))
        elif row[1] != "walk.gif":
            kept.append(",".join(row).replace("deep.tiff", "gone.tiff"))
    table.write_text("\n".join(kept) + "\n")


@needs_assets
def test_the_page_of_ids_shows_what_is_wrong_and_how_to_mend_it(found: tuple[Path, Said], tmp_path: Path) -> None:
    data = Path(shutil.copytree(found[0], tmp_path / "data"))
    assert "--html ids.html --show-people` shows which ids may be wrong" in found[1].out
    mixed_up(data / "faces.csv")
    evil = "<script>'&"
    assert call_here("faces", data, "--merge", f"{evil}=4").code == 0
    page = tmp_path / "ids.html"
    said = call_here("inspect", data, "--html", page)
    assert (said.code, said.out.splitlines()[1:3]) == (
        0,
        ["gone.tiff: no pictures: it is no video of faces.run", "6 ids: 1 likely double, 1 likely mixture"],
    )
    read = check_self_contained(page.read_text())
    words = " ".join(read.text)
    assert f"mdfpipe faces {data} --merge 3=5" in words
    assert f"mdfpipe faces {data} --split 4@25" in words
    assert evil in words
    assert "script" not in read.tags
    hidden = pictures(page)
    assert call_here("inspect", data / "faces.csv", "--html", page, "--show-people").code == 0
    shown = pictures(page)
    assert len(shown) == len(hidden) == 2 * 6 + 4 * 8 + 4
    assert np.mean([detail(one) for one in shown]) > 2 * np.mean([detail(one) for one in hidden])
    few = FaceLimits(doubles=0, mixtures=0, videos=0, ids=2, faces=3, reach_frames=20)
    write_face_page(data / "faces.csv", page, show_people=True, limits=few)
    words = " ".join(Reader(page.read_text()).text)
    assert len(pictures(page)) < 6
    assert all(one in words for one in ("2 of 6 ids", "1 more are not shown", "after frame 20 of a video: no picture"))
    plain = call_here("inspect", data / "faces.run" / ".." / "faces.csv", "--json").json["description"]["facts"]
    assert (plain["faces"], plain["ids"], plain["likely two people with one id"]) == (79, 6, 1)
    table, link = data / "faces.csv", tmp_path / "link.html"
    for thing, source in ((data, table), (data / "faces.run", table), (data, found[0] / "walk.gif")):
        before = source.read_bytes()
        link.unlink(missing_ok=True)
        link.symlink_to(source)
        for out in (source, link):
            assert "would" in call_here("inspect", thing, "--html", out).line()
            assert source.read_bytes() == before
    shutil.rmtree(data / "faces.run")
    assert "in faces.run next to it" in call_here("inspect", data, "--html", page).line()
    shutil.copy(ASSETS / "real-walk" / "faces.csv", data)
    assert "needs a run folder with an index, or a face table" in call_here("inspect", data, "--html", page).line()


@needs_assets
def test_a_study_of_ids_that_are_in_one_video_each_is_warned(found: tuple[Path, Said], tmp_path: Path) -> None:
    data = Path(shutil.copytree(found[0], tmp_path / "data"))
    words = "index: none of the 4 ids of found faces is in two videos, so that one person in two videos is two subjects"
    for warned in (True, False):
        runner = Runner(Study.load(Path("pipelines/real-walk.yaml")), Run(tmp_path / "run"), data)
        lines = runner.execute("index", "index").warnings
        assert any(line.startswith(words) for line in lines) == warned, lines
        assert call_here("faces", data, "--merge", "1=3").code == 0


@needs_assets
def test_a_face_network_ranks_ids_across_videos(found: tuple[Path, Said], tmp_path: Path) -> None:
    """Two people in two videos: two pairs, whichever; each with its command."""
    for use in ("face", "body"):
        system = System(recipe={"use": use, **Recipe.variant(use).tiny})
        state = system.recipe.model(0, ["VIS"]).state_dict()
        who = {"subjects": ["a"], "trained_domains": ["VIS"]}
        checkpoint_of(use, system, state, Start(), **who).save(tmp_path / f"{use}.pt")
    page = tmp_path / "ids.html"
    said = call_here("inspect", found[0], "--html", page, "--weights", tmp_path / "face.pt")
    assert said.code == 0, said
    assert "2 pairs ranked across videos" in said.out
    assert "no id is in two of the 2 videos" in said.out
    words = " ".join(Reader(page.read_text()).text)
    assert words.count("have the similarity") == 2
    assert "by the network face.pt" in words
    for more, line in (
        (("--weights", tmp_path / "face.pt"), "--weights needs --html PAGE and a face table"),
        (("--html", page, "--weights", tmp_path / "body.pt"), "expected a network of faces, got one of bodies"),
    ):
        assert line in call_here("inspect", found[0], *more).line()


@pytest.mark.parametrize("change", [("--merge", "1=2"), ("--split", "1@9")])
def test_what_a_change_of_ids_would_not_heed_is_refused(change: tuple[str, str], tmp_path: Path) -> None:
    table = table_of(tmp_path / "faces.csv", {"1": walk(range(20), 0), "2": walk(range(30, 50), 90)})
    before = table.read_bytes()
    for more in (("--dry-run",), ("--force",), ("--stride", "1"), ("--workers", "2"), ("--videos", "a")):
        assert f"leave {more[0]} out" in call_here("faces", tmp_path, *change, *more).line()
        assert table.read_bytes() == before
    changed = call_here("faces", ".", *change, "--out", table, "--json").json["faces"]
    assert list(changed) == [{"1=2": "1"}.get(change[1], "1@9")]


def test_a_file_of_one_long_line_is_no_face_table(tmp_path: Path) -> None:
    """It is not read as a whole to know that."""
    for start in ("", HEADER, '"'):
        with (tmp_path / "long").open("wb") as file:
            file.write(start.encode())
            file.truncate(1 << 28)
        tracemalloc.start()
        assert not found_faces.is_found(tmp_path / "long")
        with pytest.raises(DataError, match="first line above 4096 characters"):
            found_faces.change(tmp_path / "long", {"a": "b"}, {})
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
        tracemalloc.stop()


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_table_that_a_spreadsheet_saved_is_asked_for_with_commas(mark: str, tmp_path: Path) -> None:
    table = table_of(tmp_path / "faces.csv", {"1": walk(range(9), 0)})
    table.write_text("\ufeff" + table.read_text().replace(",", mark))
    before = table.read_bytes()
    for call in (("faces", ".", "--merge", "1=2", "--out", table), ("inspect", table)):
        said = call_here(*call, folder=tmp_path).line()
        assert f"expected commas between its columns, got {mark!r}; save it as CSV with commas" in said
    assert table.read_bytes() == before


def test_signs_go_by_the_frame_rates_of_the_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without a page; a rate that is not known is a note."""
    table = table_of(tmp_path / "faces.csv", {"1": walk(range(20), 0), "2": walk(range(170, 190), 40)})
    found: dict[float | None, Description] = {None: describe_faces(table)}
    for fps in (50.0, 25.0):
        video = SimpleNamespace(row={"path": "<a>&.mp4"}, facts={"track": {"fps": fps}}.__getitem__)
        monkeypatch.setattr(face_page, "survey", lambda run, video=video: SimpleNamespace(videos=[video]))
        found[fps] = describe_faces(table)
    assert [one.facts["likely one person with two ids"] for one in found.values()] == [0, 1, 0]
    assert [one.notes[1:] for one in found.values()] == [
        ["1 video without a frame rate in faces.run: pauses are measured at 25 frames a second"],
        [],
        [],
    ]


def test_any_folder_is_asked_for_a_face_table(tmp_path: Path) -> None:
    (tmp_path / ".run").mkdir()
    for place in (".", "/", "..", ".run"):
        assert "a folder with neither an index nor images" in call_here("inspect", place, folder=tmp_path).line()
    table_of(tmp_path / "faces.csv", {"1": walk(range(9), 0)})
    assert call_here("inspect", ".", "--json", folder=tmp_path).json["description"]["facts"]["ids"] == 1


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("FACE_X", "nan", "row 6, FACE_X: expected a place in pixels, got nan; correct it"),
        ("FACE_HEIGHT", "inf", "expected a size in pixels, got inf"),
        ("FACE_WIDTH", "-2", "expected a size in pixels, got -2"),
        ("FRAME_NUM", "-3", "expected a frame from 0 on, got -3"),
        ("FRAME_NUM", str(2**62), "expected a frame from 0 on"),
        ("SCORE", "nan", "expected a score in 0..1"),
    ],
)
def test_a_face_that_is_no_face_is_one_line(column: str, value: str, words: str, tmp_path: Path) -> None:
    table = table_of(tmp_path / "faces.csv", {"1": walk(range(9), 0)})
    rows = [line.split(",") for line in table.read_text().splitlines()]
    rows[5][rows[0].index(column)] = value
    table.write_text("\n".join(map(",".join, rows)) + "\n")
    assert words in call_here("inspect", table).line()


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("@1", "expected an id and a frame"),
        ("7", "expected a track of the column FOUND_ID"),
        ("1@x", "expected an id"),
        ("7@3", "of the track 7"),
        ("1@0", "found none on one side"),
    ],
)
def test_a_split_that_cannot_be_is_one_line(split: str, words: str, tmp_path: Path) -> None:
    table = table_of(tmp_path / "faces.csv", {"1": walk(range(9), 0)})
    before = table.read_bytes()
    assert words in call_here("faces", table, "--split", split).line()
    assert table.read_bytes() == before
