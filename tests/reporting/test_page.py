"""The page: self-contained, escaped, the same each time, and nobody on it unless that is asked for."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from mdfpipe.drawing import pixels
from mdfpipe.errors import Damaged, DataError, StoreError
from mdfpipe.inspecting.inspection import draw_frame, inspect, write_page
from mdfpipe.inspecting.pictures import WrittenPage, draw_sheet
from mdfpipe.inspecting.samples import Limits
from mdfpipe.store.run import Failure, Receipt, Run, read_receipt, read_table, write_table
from mdfpipe.store.tables import ANOMALIES, BODIES, CROPS, FACES, LABELS, VIDEOS

VIDEO = "videos/VIS-500m_a"
_TAGS = """html head meta title style body main header h1 h2 h3 p strong nav a div b span section table thead tbody bdi
tr th td ul li i figure img figcaption article svg line g path use defs clippath rect text
details summary pre dl dt dd footer"""
ALLOWED = set(_TAGS.split())


class Reader(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def check_self_contained(text: str) -> Reader:
    page = Reader(text)
    assert page.tags <= ALLOWED
    for name, value in page.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert value.startswith(("data:image/webp;base64,", "#")), value[:80]
    outside_images = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", text)
    assert "url(" not in outside_images.replace("url(#", "")
    assert "@import" not in outside_images
    return page


@pytest.fixture(scope="module")
def usual(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> WrittenPage:
    """The page of the demo as it is without options."""
    return write_page(demo, tmp_path_factory.mktemp("usual") / "a.html")


def test_the_page_is_self_contained_and_says_what_it_must(usual: WrittenPage) -> None:
    text = Path(usual.path).read_text()
    page = check_self_contained(text)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text).replace("http-equiv", "")
    words = " ".join(page.text)
    for wanted in ("VIS-500m", "LWIR-30m", "ambiguous", "labelled", "min_overlap", "sharpness", "s01", "numpy"):
        assert wanted in words
    assert "ioa_face above 0.75" in words
    opened = re.findall(r'class="open" href="#([^"]+)"', text)
    assert len(opened) == usual.frames > 0
    assert set(opened) <= set(re.findall(r'<figure class="card frame" id="([^"]+)"', text))
    assert (usual.bytes, usual.notes) == (len(text.encode()), [])
    assert usual.bytes < 3_000_000


def test_ambiguous_frames_come_first(usual: WrittenPage) -> None:
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", Path(usual.path).read_text(), re.DOTALL)
    found = ["ambiguous" in caption for caption in captions[: len(captions) // 2]]
    assert found == sorted(found, reverse=True)
    assert found[0]


def test_the_same_run_gives_the_same_page_wherever_it_lies(usual: WrittenPage, demo: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(demo, tmp_path / "else" / "run"))
    write_page(moved, tmp_path / "b.html")
    assert Path(usual.path).read_bytes() == (tmp_path / "b.html").read_bytes()


def pictures(page: Path) -> list[NDArray[np.uint8]]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', page.read_text())
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for data in found]


def detail(picture: NDArray[np.uint8]) -> float:
    """The share of neighbouring pixels that differ clearly."""
    grey = picture.astype(np.int32).sum(axis=2)
    return float((np.abs(np.diff(grey, axis=1)) > 12).mean())


def test_people_are_hidden_unless_asked_for(usual: WrittenPage, demo: Path, tmp_path: Path) -> None:
    write_page(demo, tmp_path / "shown.html", show_people=True)
    hidden, shown = pictures(Path(usual.path)), pictures(tmp_path / "shown.html")
    assert len(hidden) == len(shown) > 20
    crops = [(h, s) for h, s in zip(hidden, shown, strict=True) if h.shape[1] < 200]
    assert crops
    assert all(detail(h) < 0.12 for h, _ in crops)
    assert np.mean([detail(s) for _, s in crops]) > 2 * np.mean([detail(h) for h, _ in crops])
    assert "People are shown" in (tmp_path / "shown.html").read_text()
    assert "People are shown" not in Path(usual.path).read_text()


def test_limits_are_kept_and_stated(demo: Path, tmp_path: Path) -> None:
    limits = Limits(frames=6, subjects=4, bodies=2, faces=1, reach_frames=10)
    written = write_page(demo, tmp_path / "a.html", limits=limits)
    text = (tmp_path / "a.html").read_text()
    assert (written.frames, written.crops) == (6, 2 * 4 * 3)
    assert "3 frames (at most 3)" in text
    assert "4 of 4 subjects (at most 4" in text
    assert "Nothing later than frame 10" in text
    assert all(int(n) < 10 for n in re.findall(r"· frame (\d+)</span>", text))


def test_a_page_without_its_data_or_shards_says_so(own: Path, tmp_path: Path) -> None:
    environment = json.loads((own / "environment.json").read_text())
    (own / "environment.json").write_text(json.dumps(environment | {"data": "/gone"}))
    shard = own / "crop" / "videos__VIS-500m_a.face.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    written = write_page(own, tmp_path / "a.html")
    assert written.frames == 0
    assert any("/gone" in note for note in written.notes)
    assert any("is not the file that was made" in note for note in written.notes)
    assert "/gone" in (tmp_path / "a.html").read_text()


def test_a_page_that_cannot_be_written(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        write_page(demo, tmp_path / "no" / "a.html")


# -- hostile names

EVIL = "\"'><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>{{7*7}}</style>"


def hostile_run(home: Path) -> Path:
    """A run by hand whose every text is hostile; its video does not exist."""
    run = Run(home / "<b>run&")
    run.path.mkdir(parents=True)
    video = dict.fromkeys(VIDEOS.names) | {"video_id": EVIL, "path": "v.mp4", "domain": EVIL, "band": EVIL}
    other = video | {"video_id": EVIL + "2"}
    index = Receipt("index", 1, "videos", {EVIL: EVIL}, {}, facts={EVIL: EVIL})
    run.commit(index, pa.Table.from_pylist([video, other], VIDEOS), {})
    write_table(run.path / "index" / "anomalies.parquet", pa.Table.from_pylist([_all(ANOMALIES, count=1)], ANOMALIES))
    seen = {"decoder": "pyav", "delivered": 9, "stride": 1, "window": None, "fallback": [EVIL], "rows": {"bodies": 1}}
    seen["incomplete"] = EVIL
    detect = Receipt("detect", 1, EVIL, {EVIL: EVIL}, {}, facts=seen)
    box = {"x1": 0.0, "y1": 0.0, "x2": 9.0, "y2": 9.0}
    body = {"body_id": "v/000000/00", "video_id": EVIL, "frame": 0, "pts_seconds": 0.0, **box, "score": 0.5}
    detect = run.commit(detect, pa.Table.from_pylist([body], BODIES), {})
    alignment = {"verdict": EVIL, "offset": None, "pairs": 0, "overlap": {}, "detrended_overlap": {}, "advice": EVIL}
    facts = {"rows": {"labelled": 1}, "subjects": {EVIL: 1}, "alignment": alignment}
    label = Receipt("label", 1, EVIL, {"measure": EVIL}, {"detect": detect.content}, facts=facts)
    row = {"body_id": "v/000000/00", "frame": 0, "subject_id": EVIL, "face_no": 0, "overlap": 1.0, "runner_up": 0.0}
    label = run.commit(label, pa.Table.from_pylist([row | {"status": "labelled"}], LABELS), {})
    crop = Receipt("crop", 1, EVIL, {}, {"label": label.content}, facts={"rows": {EVIL: 1}})
    image = _all(
        CROPS,
        frame=0,
        track=0,
        **box,
        offset=0,
        size=5,
        crc32=0,
        width=1,
        height=1,
        sharpness=1.0,
        contrast=1.0,
        box_height_px=9.0,
    )
    run.commit(
        crop, pa.Table.from_pylist([image | {"modality": "body", "status": "ok", "shard": "../x.tar"}], CROPS), {}
    )
    run.record_failure(Failure("detect", EVIL + "2", EVIL, EVIL))
    (run.path / "environment.json").write_text(
        json.dumps({"mdfpipe": EVIL, "packages": [f"numpy=={EVIL}"], "argv": [EVIL]})
    )
    return run.path


def _all(schema: pa.Schema, **values: object) -> dict[str, object]:
    return {name: values.get(name, EVIL) for name in schema.names}


def test_hostile_names_stay_words(tmp_path: Path) -> None:
    run = hostile_run(tmp_path)
    written = write_page(run, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    page = check_self_contained(text)
    assert "script" not in page.tags
    assert "<script" not in text
    assert "49" not in re.findall(r"\{\{.*?\}\}|>49<", text)
    assert text.count("<img") == 0
    assert any(EVIL in words for words in page.text)
    assert any("outside" in note or ".." in note for note in written.notes)
    assert inspect(run).facts["bodies"] == 1


def test_hostile_subjects_stay_words_beside_their_pictures(own: Path, tmp_path: Path) -> None:
    run = Run(own)
    names = ["videos__VIS-500m_a", "videos__LWIR-30m_b"]
    for path in [own / stage / f"{name}.parquet" for name in names for stage in ("label", "crop")]:
        table, receipt = read_table(path), read_receipt(path)
        place = table.schema.get_field_index("subject_id")
        evil = pa.array([f"{EVIL}{s}" if s else None for s in table["subject_id"].to_pylist()], pa.string())
        write_table(path, table.set_column(place, table.schema.field(place), evil), receipt)
    written = write_page(run.path, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    page = check_self_contained(text)
    assert written.frames == 24
    assert any(f"{EVIL}s01" in words for words in page.text)
    assert any(EVIL in value for name, value in page.attributes if name == "alt")
    assert "<script" not in text
    lines = draw_frame(own, VIDEO, 0, tmp_path / "a.png")
    assert any("<script>" in line for line in lines)


def test_a_video_path_that_climbs_out_is_refused(own: Path, tmp_path: Path) -> None:
    run = Run(own)
    table = run.table("index", "videos")
    paths = pa.array(["../../etc/passwd"] * table.num_rows)
    receipt = run.receipt("index", "videos")
    write_table(run.part("index", "videos"), table.set_column(1, VIDEOS.field("path"), paths), receipt)
    with pytest.raises(DataError, match="climbs out"):
        draw_frame(own, VIDEO, 3, tmp_path / "a.png")


# -- one frame


def test_a_frame_is_drawn_with_reasons(demo: Path, tmp_path: Path) -> None:
    lines = draw_frame(demo, VIDEO, 36, tmp_path / "a.png")
    assert lines[0].startswith("#0 ambiguous: the faces of s01 (1.00) and s02 (1.00) lie in it")
    assert lines[1].startswith("#1 s02: ioa_face 1.00 with s02")
    hidden = np.asarray(Image.open(tmp_path / "a.png"))
    assert hidden.shape[1] == 960
    draw_frame(demo, VIDEO, 36, tmp_path / "b.png", show_people=True)
    shown = np.asarray(Image.open(tmp_path / "b.png"))
    body = (slice(330, 600), slice(455, 580))  # within the box, below the strips, scaled from 320 to 960 pixels
    assert detail(hidden[body]) < detail(shown[body])
    assert np.abs(hidden[body].astype(int) - shown[body]).max() > 40


def test_the_frame_that_is_drawn_is_the_frame_that_was_asked_for(demo: Path, tmp_path: Path) -> None:
    """Of two frames decoded by draw_frame, each equals what a plain decode gives at that place."""
    import av

    from mdfpipe.drawing.pixels import fitted

    with av.open(str(demo.parent / "data" / "videos" / "VIS-500m_a.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for number in (0, 17, 39):
        draw_frame(demo, VIDEO, number, tmp_path / "a.png", show_people=True)
        drawn = np.asarray(Image.open(tmp_path / "a.png"))[: 3 * 240]
        distance = [np.abs(fitted(frame, 960, 1920)[0].astype(int) - drawn).mean() for frame in frames]
        assert int(np.argmin(distance)) == number


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "A.PNG"])
def test_the_suffix_picks_the_format(demo: Path, tmp_path: Path, name: str) -> None:
    draw_frame(demo, "videos/LWIR-30m_b", 0, tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        assert picture.size[0] == 960


def test_what_cannot_be_drawn_is_one_clear_line(demo: Path, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    with pytest.raises(
        DataError, match=r"--video 'videos/nobody': expected a video of the index, which has videos/LWIR"
    ):
        draw_frame(demo, "videos/nobody", 0, out)
    with pytest.raises(DataError, match=r"--frame 40: expected 0..39, the frames that \w+ delivered"):
        draw_frame(demo, VIDEO, 40, out)
    with pytest.raises(DataError, match=r"--frame -1: expected 0..39"):
        draw_frame(demo, VIDEO, -1, out)
    Run(own).discard("detect", VIDEO)
    with pytest.raises(DataError, match="expected detect to be done, but it has not run"):
        draw_frame(own, VIDEO, 0, out)
    with pytest.raises(DataError, match="found none"):
        draw_frame(tmp_path, VIDEO, 0, out)
    assert not out.exists()


def test_a_face_without_a_body_is_hidden_with_the_body_that_it_must_have(own: Path, tmp_path: Path) -> None:
    run = Run(own)
    detect, label = run.receipt("detect", VIDEO), run.receipt("label", VIDEO)
    assert detect is not None
    assert label is not None
    write_table(run.part("detect", VIDEO), BODIES.empty_table(), detect)
    write_table(run.part("label", VIDEO), LABELS.empty_table(), label)
    assert draw_frame(own, VIDEO, 4, tmp_path / "a.png") == ["no body was detected in this frame"]
    draw_frame(own, VIDEO, 4, tmp_path / "b.png", show_people=True)
    hidden, shown = (np.asarray(Image.open(tmp_path / name)).astype(int)[:720] for name in ("a.png", "b.png"))
    changed = np.abs(hidden - shown).sum(axis=2) > 30
    rows = np.flatnonzero(changed.any(axis=1))
    assert rows[-1] - rows[0] > 300  # a whole person, not only the face


def test_faces_beyond_what_is_known_do_not_matter(own: Path, tmp_path: Path) -> None:
    path = own / "index" / "faces" / "videos__VIS-500m_a.parquet"
    path.unlink()
    lines = draw_frame(own, VIDEO, 4, tmp_path / "a.png")
    assert any("no face" in line for line in lines)
    write_table(path, FACES.empty_table())
    with pytest.raises(Damaged, match="is not the file that was made"):
        draw_frame(own, VIDEO, 4, tmp_path / "a.png")


def test_a_sheet_names_its_people(demo: Path, tmp_path: Path) -> None:
    rows, *lines = draw_sheet(demo, tmp_path / "sheet.png", subjects=2)
    names = rows.removeprefix("rows: ").partition(";")[0].split(", ")
    assert [line.partition(",")[0] for line in lines] == names * 2
    tile = r"videos/\S+ frame \d+ labelled"
    assert all(re.fullmatch(rf"\w+, \S+: {tile}; {tile}; {tile}", line) for line in lines)
    named, blank = (pixels.headed(np.zeros((5, 168, 3), np.uint8), words) for words in (names[0], ""))
    assert named.shape == (23, 168, 3)
    assert not np.array_equal(named, blank)


def test_a_drawn_frame_says_who_is_not_hidden(demo: Path, tmp_path: Path) -> None:
    for name, shown in (("hidden", False), ("shown", True)):
        draw_frame(demo, VIDEO, 0, tmp_path / f"{name}.png", show_people=shown)
    drawn = [io.BytesIO((tmp_path / f"{name}.png").read_bytes()) for name in ("hidden", "shown")]
    hidden, whole = (Image.open(file).height for file in drawn)
    assert hidden > whole
