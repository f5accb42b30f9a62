"""leave_out: which videos and images stay out, before anything of them is read, and how it is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdfpipe.config import validate
from mdfpipe.datasets import Dataset, LeaveOut, Listing
from mdfpipe.datasets.reading.leaving_out import Sieve
from mdfpipe.errors import DataError
from mdfpipe.inspecting.things import describe_run
from mdfpipe.store.left_out import of_nothing
from mdfpipe.store.run import Run
from tests.datasets import made_benchmarks as made
from tests.datasets.made_ijb import Root, frames, ijbc, kinds, reader
from tests.inline import runner
from tests.runs import DataSet, digests

DOMAINS = {"regex": "^(videos/|)(?P<domain>[A-Z]+-[0-9]+m)"}
FOLDERS = ("VIS-500m", "VIS-300m", "SWIR-30m")


@pytest.fixture
def home(root: Root) -> Path:
    """Two videos in each of three domains, annotated, and one without a domain that a table names."""
    names = [f"videos/{domain}/{name}.mp4" for domain in FOLDERS for name in ("a", "b")] + ["videos/uav/c.mp4"]
    made = root(faces_csv=ijbc(*(f"1,{name},1,{frame},1,2,3,4" for name in names for frame in (0, -1))))
    for name in names:
        frames(made, str(Path(name).parent), [Path(name).name])
    for name in ("a.mp4", "b.mp4"):
        (made / "videos" / name).unlink()
    return made


def listing(home: Path, *, uav: bool = False, **rules: Any) -> Listing:
    if not uav:
        rules["paths"] = [*rules.get("paths", []), "videos/uav"]
    return reader(domain=DOMAINS, videos=["videos/*/*"], leave_out=rules).read(home)


def stay(found: Listing) -> set[str]:
    return {video.video_id.removeprefix("videos/") for video in found.videos}


ALL = {f"{domain}/{name}" for domain in FOLDERS for name in ("a", "b")}
RULES: list[tuple[dict[str, Any], set[str]]] = [
    ({"domains": ["VIS-300m"]}, {"VIS-300m/a", "VIS-300m/b"}),
    ({"domains": ["vis-300m"]}, {"VIS-300m/a", "VIS-300m/b"}),
    ({"domains": ["VIS-*"]}, {"VIS-300m/a", "VIS-300m/b", "VIS-500m/a", "VIS-500m/b"}),
    ({"domains_other_than": ["VIS-500m", "swir-30m"]}, {"VIS-300m/a", "VIS-300m/b"}),
    ({"domains_other_than": ["VIS-*"]}, {"SWIR-30m/a", "SWIR-30m/b"}),
    ({"paths": ["videos/VIS-300m/a.mp4"]}, {"VIS-300m/a"}),
    ({"paths": ["./videos/VIS-300m/a"]}, {"VIS-300m/a"}),
    ({"paths": ["videos/VIS-300m/"]}, {"VIS-300m/a", "VIS-300m/b"}),
    ({"paths": ["*/b.mp4"]}, {"VIS-300m/b", "VIS-500m/b", "SWIR-30m/b"}),
    ({"paths": ["videos/VIS-[35]00m/a*"]}, {"VIS-300m/a", "VIS-500m/a"}),
    ({"file": "out.txt"}, {"SWIR-30m/a", "VIS-300m/a", "VIS-300m/b"}),
    ({"domains": ["VIS-300m"], "paths": ["*/a.mp4"]}, {"VIS-300m/a", "VIS-300m/b", "VIS-500m/a", "SWIR-30m/a"}),
]


@pytest.mark.parametrize(("rules", "out"), RULES)
def test_what_a_rule_names_stays_out_and_is_counted(home: Path, rules: dict[str, Any], out: set[str]) -> None:
    (home / "out.txt").write_text("# bad\r\nvideos/SWIR-30m/a\r\n\r\nvideos/VIS-300m/*\n")
    found = listing(home, **rules)
    assert stay(found) == ALL - out
    assert {name.removeprefix("videos/") for name in found.faces} == ALL - out
    assert kinds(found) == {"negative_frame": len(ALL - out)}
    assert found.left_out_rows == 2 * len(out | {"uav"})
    assert all(one.count for one in found.left_out)
    assert {v.video_id for v in found.videos} <= {v.video_id for v in listing(home).videos}


def test_a_video_without_a_domain_is_left_out_by_what_its_rule_says(home: Path) -> None:
    rule = {"regex": "videos/(?P<domain>[^/]+)/"}
    with pytest.raises(
        DataError, match=r"1 of 7 videos .* first is videos/uav/c.mp4 .*'uav'.*name those .* `leave_out`"
    ):
        reader(domain=rule, videos=["videos/*/*"]).read(home)
    found = reader(domain=rule, videos=["videos/*/*"], leave_out={"domains": ["uav"]}).read(home)
    assert stay(found) == ALL
    assert [(one.rule, one.count, one.example) for one in found.left_out] == [("domains: uav", 1, "videos/uav/c.mp4")]
    four = {"domains_other_than": list(FOLDERS)}
    assert stay(reader(domain=rule, videos=["videos/*/*"], leave_out=four).read(home)) == ALL
    with pytest.raises(
        DataError, match=r"1 of 7 videos .*\(the rule says nothing\)"
    ):  # which may be a slip of the rule
        reader(domain=DOMAINS, videos=["videos/*/*"], leave_out=four).read(home)


def test_a_domain_that_only_a_row_tells(root: Root) -> None:
    head, *lines = ijbc(*(f"1,videos/{v}.mp4,1,0,1,2,3,4" for v in "abc")).splitlines()
    cells = ("SWIR-30m", "LWIR-30m", "drone")
    made = root(faces_csv="\n".join([f"{head},CAT", *(f"{a},{b}" for a, b in zip(lines, cells, strict=True))]) + "\n")
    found = reader(domain={"column": "CAT"}, leave_out={"domains": ["LWIR-30m", "drone"]}).read(made)
    assert (stay(found), set(found.faces), found.left_out_rows) == ({"a"}, {"videos/a"}, 2)
    assert kinds(found) == {}  # c.mp4 is not there, and nobody wants it


def test_rules_that_match_nothing_and_rules_that_leave_nothing(home: Path) -> None:
    (home / "out.txt").write_text("videos/VIS-300m\nvideos/typo\nvideos/other typo\n")
    found = listing(home, domains=["NIR"], file="out.txt")
    assert {one.rule: one.count for one in found.left_out} == {
        "domains: NIR": 0,
        "paths: videos/uav": 1,
        "file: out.txt": 2,
        "file: out.txt: 2 of 3 lines, such as 'videos/typo'": 0,
    }
    with pytest.raises(DataError, match=r"leaves no video: all 7 match its rules, by paths: videos/\* \(7\)"):
        listing(home, paths=["videos/*"])
    with pytest.raises(DataError, match=r"leave_out.file: none.txt names no file"):
        reader(domain=DOMAINS, leave_out={"file": "none.txt"}).sources(home)


def test_leaving_a_video_out_renames_no_other(root: Root) -> None:
    made = root(videos__a_avi=None, faces_csv=ijbc())
    (made / "videos/a_avi").rename(made / "videos/a.avi")
    assert stay(reader(videos=["videos/*"]).read(made)) == {"a.avi", "a.mp4", "b"}
    assert stay(reader(videos=["videos/*"], leave_out={"paths": ["*.avi"]}).read(made)) == {"a.mp4", "b"}
    (made / "videos/elsewhere.mp4").symlink_to("/etc/hostname")  # what is left out is not looked at
    assert stay(reader(videos=["videos/*"], leave_out={"paths": ["*/else*"]}).read(made)) == {"a.avi", "a.mp4", "b"}


def test_frames_in_folders(root: Root) -> None:
    made = root(faces_csv=ijbc(*(f"1,{folder}/{n}.png,1,,1,2,3,4" for folder in ("p", "q") for n in (1, 2))))
    for folder in ("p", "q"):
        frames(made, folder, ["1.png", "2.png"])
    (made / "q/x.png").touch()  # its order would be a guess, which stops the index where q belongs
    found = reader(frames_in="folder", videos=["p", "q"], leave_out={"paths": ["q"]}).read(made)
    assert ([v.video_id for v in found.videos], found.left_out_rows, kinds(found)) == (["p"], 2, {})


@pytest.mark.parametrize(
    ("rules", "units", "images"),
    [
        ({"domains": ["NIR"]}, {"cam1", "cam2", "cam4", "cam5"}, 24),
        ({"paths": ["cam3", "cam6"]}, {"cam1", "cam2", "cam4", "cam5"}, 24),
        ({"paths": ["cam*/0001/*", "cam1/0002/0001.jpg"]}, {f"cam{n}" for n in range(1, 7)}, 13),
    ],
)
def test_images_of_a_benchmark(tmp_path: Path, rules: dict[str, Any], units: set[str], images: int) -> None:
    made.write_sysu(tmp_path, train=2, val=1, test=3, images=2)
    found = Dataset.model_validate({"use": "sysu", "leave_out": rules}).read(tmp_path)
    assert {video.video_id for video in found.videos} == units
    left = sum(table.num_rows for table in found.images.values())
    assert left == 72 - sum(one.count for one in found.left_out)
    assert all(one.count for one in found.left_out)
    with pytest.raises(DataError, match=r"dataset\.leave_out leaves no image: all 72"):
        Dataset.model_validate({"use": "sysu", "leave_out": {"paths": ["*"]}}).read(tmp_path)


def test_settings_that_mean_nothing_are_refused() -> None:
    for rules in ({"domains": [" "]}, {"paths": [""]}):
        with pytest.raises(Exception, match="got an empty one"):
            validate(Dataset, {"use": "market", "leave_out": rules}, "dataset")


# -- in a run


def test_leaving_out_makes_only_the_index_due_and_no_video_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = DataSet(tmp_path / "data"), tmp_path / "run"
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        data.good(name)
    study = data.write()
    first, _ = runner(data.root, run, study=study)
    assert first.execute().complete
    before = digests(run, "videos/a", "videos/b")
    data.bad("d.mp4", lambda path: path.write_bytes(b"no video"))
    hashed: list[str] = []
    monkeypatch.setattr("mdfpipe.stages.index._measure", lambda path: hashed.append(path.name) or {})
    out = "dataset.leave_out={paths: [videos/d, 'videos/[cx].mp4', typo]}"
    again, executor = runner(data.root, run, out, study=data.write())
    done = again.execute()
    assert done.complete, (done.failures, done.refused)
    assert executor.ran == ["index/videos", "manifest/manifest"]
    assert hashed == []
    assert digests(run, "videos/a", "videos/b") == before
    assert Run(run).table("index", "videos")["video_id"].to_pylist() == ["videos/a", "videos/b"]
    assert set(Run(run).table("manifest", "manifest")["video_id"].to_pylist()) == {"videos/a", "videos/b"}
    lines = [
        "dataset.leave_out, paths: videos/d: 1 video left out, such as videos/d.mp4",
        "dataset.leave_out, paths: videos/[cx].mp4: 1 video left out, such as videos/c.mp4",
        "dataset.leave_out: 24 annotation rows left out with the videos",
    ]
    assert [f"index: {line}" for line in lines] == [note for note in done.notes if note.startswith("index: ")]
    odd = "dataset.leave_out, paths: typo: matches nothing here, where there is videos/a.mp4; check its spelling"
    assert any(f"index: {odd}" in warning for warning in done.warnings)
    told = describe_run(run).notes
    assert set(lines) <= set(told)
    assert any(odd in note for note in told)
    (data.root / "videos/d.mp4").write_bytes(b"another")  # nobody looks at it
    unchanged, executor = runner(data.root, run, out, study=study)
    assert unchanged.execute().complete
    assert executor.ran == []
    monkeypatch.undo()
    back, executor = runner(data.root, run, "dataset.leave_out={paths: [videos/d]}", study=study)
    assert back.execute().complete
    assert executor.ran == ["index/videos", "manifest/manifest"]
    assert digests(run, "videos/a", "videos/b") == before


@pytest.mark.parametrize(
    ("rules", "there", "hint"),
    [
        ({"paths": ["Videos/B.MP4"]}, "videos/b.mp4", "letter case differs"),
        ({"paths": ["videos/B"]}, "videos/b", "letter case differs"),
        ({"paths": ["*_TEST.mp4"]}, "videos/x_test.mp4", "letter case differs"),
        ({"paths": ["x_test.mp4"]}, "videos/x_test.mp4", "it is in a folder"),
        ({"paths": ["videos/b.mkv"]}, "videos/b.mp4", "its suffix differs"),
        ({"paths": ["videos/Re\u0301my*"]}, "videos/R\\xe9my.mp4", "its accents are encoded in another way"),
        ({"paths": ["videos/Re\u0301my.mp4"]}, "videos/R\\xe9my.mp4", "its accents are encoded in another way"),
        ({"domains": ["vis*"]}, "VIS-500m", "letter case differs"),
        ({"domains_other_than": ["VIS-500m", "nir*"]}, "NIR-500m", "letter case differs"),
    ],
)
def test_a_rule_that_matches_nothing_names_what_it_nearly_is(
    rules: dict[str, Any], there: str, hint: str | None, tmp_path: Path
) -> None:
    sieve = Sieve.of(LeaveOut(**rules), tmp_path)
    for path in ("videos/a.mp4", "videos/b.mp4", "videos/x_test.mp4", "videos/R\u00e9my.mp4"):
        sieve.drops(path, domain=("NIR-500m" if "a" in path else "VIS-500m",))
    line = of_nothing({"left_out": [vars(one) for one in sieve.listed()]})[0]
    assert f"matches nothing here, where there is {there}" in line.replace("R\u00e9my", "R\\xe9my"), line
    assert hint is None or f"({hint})" in line
