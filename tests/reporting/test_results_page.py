"""The report of an evaluated run: self-contained, escaped, the same each time, traced, nobody shown unasked."""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.learning.attention import TokenMaps
from mdfpipe.reporting.report import report
from mdfpipe.store.run import read_table, write_table
from mdfpipe.store.tables import SEARCHES, TEMPLATES
from tests.reporting.evaluated import PROBES, RATES, SUBJECTS, curves, entry, evaluate, metric, searches, templates
from tests.reporting.test_page import EVIL, Reader, detail

DATA = r"data:image/(?:webp|png);base64,[A-Za-z0-9+/=]+"
_TAGS = """html head meta title style body main header h1 h2 h3 h4 p strong nav a div b span section table thead tbody
tr th td ul li i figure img figcaption article svg line g text path use defs clippath rect details summary pre dl dt dd
small sup"""
ALLOWED = set(_TAGS.split())


@pytest.fixture(scope="module")
def run(_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn run with an evaluation made up by hand; to be read only."""
    folder = Path(shutil.copytree(_made, tmp_path_factory.mktemp("report") / "run"))
    return evaluate(folder)


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("out")
    report(run, out=out)
    return (out / "report.html").read_text()


def check_self_contained(text: str) -> Reader:
    found = Reader(text)
    assert found.tags <= ALLOWED, found.tags - ALLOWED
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    for name, value in found.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "action", "data", "srcset"):
            assert re.fullmatch(DATA, value), value[:80]
        if name in ("href", "xlink:href"):
            assert value.startswith("#"), value[:80]
            assert value[1:] in ids, value
        for target in re.findall(r"url\(([^)]*)\)", value):
            assert target.startswith("#"), target
            assert target[1:] in ids, target
    outside = re.sub(DATA, "", text)
    assert "@import" not in outside
    assert "http" not in outside.replace("http-equiv", "")
    return found


def test_the_page_is_self_contained_and_holds_its_sections(page: str) -> None:
    found = check_self_contained(page)
    words = " ".join(" ".join(found.text).split())
    for wanted in (
        "From visible light",
        "made-up 3",
        "CMC",
        "ROC",
        "DET",
        "Scores",
        "Similarity",
        "Searches",
        "rerank",
    ):
        assert wanted in words
    for wanted in ("Map of the embeddings", "Training", "alpha: failed to enrol", "LWIR-30m", "min_overlap", "numpy"):
        assert wanted in words
    assert "75.0 % chance 60.0 %" in words  # of mining
    assert "7 of 8 probes searched" in words
    assert "published 38.1" in words


def test_every_number_of_a_table_says_where_it_stands(page: str) -> None:
    cells = re.findall(r"<td title=\"([^\"]*)\">", page)
    assert len(cells) == 12 + 6 + 2 * 4  # two tables; and what mining chose
    assert all(re.search(r"\.parquet(, row \d+)?$", cell) for cell in cells)
    assert page.count('<div class="search" title="evaluate/searches.parquet, row ') == len(
        re.findall('class="search"', page)
    )
    assert all(".parquet" in source for source in re.findall(r'<figcaption class="from">([^<]*)<', page))


def test_the_same_run_gives_the_same_files_wherever_it_lies(run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(run, tmp_path / "else" / "run"))
    first, second = report(run, out=tmp_path / "a"), report(moved, out=tmp_path / "b")
    names = [Path(file).relative_to(tmp_path / "a").as_posix() for file in first.files]
    assert names == ["report.html", "tables.md", "tables.tex", "tables/roles.csv", "tables/all-pairs.csv"]
    assert len(second.files) == len(names)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_it_lies_in_the_run_by_default_and_can_be_made_again(own: Path) -> None:
    evaluate(own, drawn=[])
    for _ in range(2):
        made = report(own)
    assert made.files[0] == str(own / "evaluate" / "report" / "report.html")
    assert "24 numbers" in made.lines[0] or "18 numbers" in made.lines[0]
    (own / "evaluate" / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a folder, got a file"):
        report(own, out=own / "evaluate" / "file")


# -- people


def crops(text: str) -> list[NDArray[np.uint8]]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for data in found]


def test_people_are_hidden_unless_asked_for(run: Path, page: str, tmp_path: Path) -> None:
    report(run, out=tmp_path, show_people=True)
    shown_page = (tmp_path / "report.html").read_text()
    hidden, shown = crops(page), crops(shown_page)
    assert len(hidden) == len(shown) > 10
    assert all(detail(picture) < 0.12 for picture in hidden)
    assert np.mean([detail(p) for p in shown]) > 2 * np.mean([detail(p) for p in hidden])
    assert "People are shown" in shown_page
    assert "People are shown" not in page


def test_the_picture_of_a_template_is_the_middle_of_its_crops(run: Path, page: str) -> None:
    rows = read_table(run / "manifest" / "manifest.parquet").to_pylist()
    own = [r for r in rows if (r["subject_id"], r["domain"], r["modality"]) == ("s04", "LWIR-30m", "body")]
    assert own[0]["role"] == "probe"
    assert f'alt="s04/LWIR-30m/test/probe/body" title="{own[len(own) // 2]["crop_id"]}"' in page
    assert 'title="p00/SWIR-30m/test/probe/body">no picture</span>' in page


def test_the_worst_failures_come_first_and_the_mate_is_framed(page: str) -> None:
    lists = re.findall(r'<article class="card retrieval">(.*?)</article>', page, re.DOTALL)
    assert len(lists) == len(RATES) * len(PROBES)
    for one in lists:
        assert re.findall(r"mate at rank (\d)", one) == ["5", "2"]
        assert "2 of 3 searches did not find their mate first; 1 unmated" in one
        frames = re.findall(r'<figure class="(right|wrong)" title="([^/]+)/', one)
        assert [kind for kind, _ in frames[:5]] == ["wrong"] * 4 + ["right"]  # s04, at rank 5
        assert frames[4] == ("right", "s04")
        assert frames[5 + 1] == ("right", "s03")
        assert frames[10] == ("right", "p00")


class Top:
    """A watcher that says that the upper left of everything counts."""

    def __init__(self, *_: object) -> None: ...

    def look(self, crops: object, wanted: NDArray[np.float32]) -> NDArray[np.float32]:
        assert wanted.any()
        return np.array([[1, 0], [0, 0]], np.float32)

    def tokens(self, crops: object) -> TokenMaps:
        maps = np.array([[[0, 0], [0.2, 0.8]], [[0.5, 0.5], [0, 0]]], np.float32)
        return TokenMaps(("global", "lower_body"), maps, np.array([[0, 0, 1], [0.5, 0.1, 0.4]], np.float32), (None, 2))


@pytest.mark.parametrize("show_people", [False, True])
def test_what_a_network_looks_at_lies_over_its_crop(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, show_people: bool
) -> None:
    evaluate(own, drawn=[], sought=[])
    (own / "train" / "alpha" / "last.pt").write_bytes(b"weights")
    monkeypatch.setattr("mdfpipe.learning.attention.Watcher", Top)
    report(own, out=tmp_path, show_people=show_people)
    text = (tmp_path / "report.html").read_text()
    check_self_contained(text)
    section = text[text.index('id="attention"') : text.index('id="training"')]
    captions = re.findall('<figcaption class="from">([^<]*)<', section)
    assert captions == ["s03, VIS-500m", "s03, LWIR-30m", "s04, VIS-500m", "s04, LWIR-30m"]
    pictures = crops(section)
    assert len(pictures) == 16
    assert re.findall("<small>([^<]*)</small>", section)[:5] == ["crop", "evidence", "global", "lower body", "40%"]
    for plain, heated, whole, local in zip(*(pictures[n::4] for n in range(4)), strict=True):
        half = len(plain) // 2
        assert (local[:half].astype(int) - whole[:half])[..., 1].mean() > 40  # above its own map is warm, below not
        warm = heated[..., 1].astype(int) - plain[..., 1]
        height, width = warm.shape
        assert warm[: height // 4, : width // 4].mean() > warm[3 * height // 4 :, 3 * width // 4 :].mean() + 40
    hidden = [detail(picture) for picture in pictures[::4]]
    assert (max(hidden) < 0.12) is not show_people


def test_weights_that_cannot_be_opened_leave_a_note(own: Path, tmp_path: Path) -> None:
    evaluate(own, drawn=[], sought=[])
    (own / "train" / "alpha" / "last.pt").write_bytes(b"no weights")
    made = report(own, out=tmp_path)
    assert any(line.startswith("attention of alpha is not shown: ") and "last.pt" in line for line in made.lines)
    assert 'id="attention"' not in (tmp_path / "report.html").read_text()


# -- what the heat maps and maps are of


def test_heat_maps_have_the_subjects_in_one_order(run: Path) -> None:
    from mdfpipe.reporting.similarity import heat_map, painted
    from mdfpipe.store.templates import read_templates

    found = heat_map("alpha", read_templates(run / "evaluate" / "templates" / "alpha.parquet"), "f")
    assert found is not None
    assert found.domains == ["VIS-500m", "SWIR-30m", "LWIR-30m"]
    assert found.subjects == sorted(set(SUBJECTS) - {"p05"}, key=lambda s: (s[0], s))  # p05 is not in every domain
    rows = {(r["subject_id"], r["domain"]): np.array(r["vector"]) for r in templates(0)}
    panel = found.panels[0][2]
    for i, a in enumerate(found.subjects):
        for j, b in enumerate(found.subjects):
            u, v = rows[a, "VIS-500m"], rows[b, "LWIR-30m"]
            assert panel.values[i, j] == pytest.approx(u @ v / np.linalg.norm(u) / np.linalg.norm(v), abs=1e-4)
    assert panel.same is not None
    assert panel.other is not None
    assert panel.same > 0.6 > panel.other + 0.3
    picture = painted(panel, found.low, found.high)
    yellow = picture[..., 0].astype(int) + picture[..., 1]
    assert np.diagonal(yellow).mean() > yellow.mean() + 50


def test_the_map_puts_a_subjects_domains_together() -> None:
    from mdfpipe.reporting.atlas import project

    random = np.random.default_rng(0)
    own = random.normal(size=(10, 16))
    vectors = np.repeat(own, 3, axis=0) + 0.1 * random.normal(size=(30, 16))
    places = project(vectors.astype(np.float32))
    assert np.array_equal(places, project(vectors.astype(np.float32)))
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert ((apart.argmin(axis=1) // 3) == np.arange(30) // 3).mean() > 0.9


# -- runs with less


def test_a_run_of_one_domain_says_why_it_has_no_table(own: Path, tmp_path: Path) -> None:
    reason = "no identification across domains; there are 1 domains (VIS-500m)"
    evaluate(
        own,
        metrics=[],
        tables={"roles": entry("", ["alpha"], notes=[reason])},
        none=reason,
        compared=[],
        drawn=[],
        sought=[],
    )
    made = report(own, out=tmp_path)
    text = (tmp_path / "report.html").read_text()
    words = " ".join(" ".join(check_self_contained(text).text).split())
    assert f"No table of numbers: {reason}" in words
    assert f"no table of numbers: {reason}" in made.lines
    assert "Similarity" in words
    assert "From videos to templates" in words
    assert "Rank-1" not in words
    assert f"No table of numbers: {reason}" in (tmp_path / "tables.md").read_text()
    assert not (tmp_path / "tables").exists()


def test_what_is_gone_leaves_a_note(own: Path, tmp_path: Path) -> None:
    evaluate(own, drawn=[])
    for shard in own.glob("crop/*.body.tar"):
        shard.write_bytes(bytes(shard.stat().st_size))
    (own / "evaluate" / "templates" / "beta.parquet").write_bytes(b"not a table")
    (own / "train" / "alpha" / "training.parquet").write_bytes(b"nor this")
    report(own, out=tmp_path / "a")
    text = (tmp_path / "a" / "report.html").read_text()
    assert "is not the file that was made" in text
    assert "beta.parquet: cannot be read" in text
    assert "training.parquet: cannot be read" in text
    shutil.rmtree(own / "index")
    shutil.rmtree(own / "manifest")
    report(own, out=tmp_path / "b")
    text = (tmp_path / "b" / "report.html").read_text()
    assert "no funnel and no settings" in text
    assert "no crop is shown" in text
    with pytest.raises(DataError, match="expected an evaluated run"):
        report(tmp_path)


def test_a_domain_searched_in_itself_is_no_headline(tmp_path: Path) -> None:
    rows = [metric("alpha", "VIS-500m", gallery_domain="VIS-500m", value=1.0, k=8)]
    run = evaluate(tmp_path / "run", metrics=rows, tables={"roles": entry("", ["alpha"])}, drawn=[], sought=[])
    report(run, out=tmp_path / "a")
    assert "card tile" not in (tmp_path / "a" / "report.html").read_text()
    rows.append(metric("alpha", "SWIR-30m", value=0.5, k=4))
    report(evaluate(run, metrics=rows, drawn=[], sought=[]), out=tmp_path / "b")
    assert (tmp_path / "b" / "report.html").read_text().count("card tile") == 1


def test_runs_side_by_side_have_one_page(run: Path, tmp_path: Path) -> None:
    rows = [metric("delta", p, value=0.9, k=7) for p in PROBES]
    other = evaluate(tmp_path / "second", metrics=rows, compared=[], drawn=curves(["delta"]))
    report(run, compare=[other], out=tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    check_self_contained(text)
    assert "The results of 2 runs" in text
    assert text.count("<td>second/delta</td>") == 2  # Rank-1, and the others
    assert "second/evaluate/metrics.parquet, row 0" in text
    assert text.count("<span>second/delta</span>") == 3  # the legends of CMC, ROC and DET


def test_hostile_names_stay_words(own: Path, tmp_path: Path) -> None:
    rows = [
        metric(EVIL, EVIL, protocol=EVIL, gallery_domain=EVIL, rule=EVIL, table=EVIL),
        metric(EVIL + "2", EVIL, table=EVIL),
    ]
    evil_searches = [
        row | {"template": EVIL, "subject_id": EVIL, "top": [EVIL] * len(row["top"]), "probe_domain": EVIL}
        for row in searches(EVIL, EVIL)
    ]
    told = {EVIL: entry(EVIL, [EVIL], notes=[EVIL], coverage=[EVIL])}
    drawn = [
        {"table": EVIL, "system": name, "gallery_domain": EVIL, "probe_domain": EVIL, "gallery": EVIL, "curve": kind}
        | {"x": 1.0, "y": 0.5, "low": 0.4, "high": 0.6}
        for kind in ("cmc", "roc", "det")
        for name in (EVIL, EVIL + "2")
    ]
    evaluate(own, metrics=rows, tables=told, compared=[], drawn=drawn, sought=evil_searches)
    marked = [row | {"subject_id": f"{EVIL}{row['subject_id']}", "template": EVIL} for row in templates(0)]
    write_table(own / "evaluate" / "templates" / "alpha.parquet", pa.Table.from_pylist(marked, TEMPLATES))
    made = report(own, out=tmp_path)
    text = (tmp_path / "report.html").read_text()
    quiet = EVIL.replace("http", "")
    found = check_self_contained(text.replace("http:", ":"))
    assert "script" not in found.tags
    assert "<script" not in text
    assert "49" not in re.findall(r">49<", text)
    assert sum(quiet in words for words in found.text) > 20
    assert {Path(file).parent for file in made.files} == {tmp_path, tmp_path / "tables"}
    assert read_table(own / "evaluate" / "searches.parquet").schema.names == SEARCHES.names
