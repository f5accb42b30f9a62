"""The report as a browser draws it: nothing cut off, nothing over each other, readable in light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mdfpipe.drawing.plots import PALETTE
from mdfpipe.reporting.report import report
from tests.chromium import Browser, browser, needs_chromium
from tests.reporting.evaluated import evaluate

pytestmark = needs_chromium
PHONE, DESK = 390, 1280
VIEWS = [(PHONE, False), (PHONE, True), (DESK, False), (DESK, True)]


@pytest.fixture(scope="module")
def page(_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("drawn-report")
    run = evaluate(Path(shutil.copytree(_made, home / "run")))
    report(run, out=home, show_people=True)
    return home / "report.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


def near(picture: NDArray[np.uint8], colour: str, most: int = 40) -> NDArray[np.bool_]:
    """(H, W) which pixels have about this colour."""
    wanted = np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)])
    close: NDArray[np.bool_] = np.abs(picture.astype(int) - wanted).sum(axis=2) < most
    return close


@pytest.mark.parametrize(("width", "dark"), VIEWS)
def test_nothing_is_cut_off_and_nothing_is_asked_of_a_network(
    chromium: Browser, page: Path, width: int, dark: bool
) -> None:
    chromium.asked_for.clear()
    chromium.open(page, width, dark=dark)
    assert chromium.ask("document.documentElement.scrollWidth") <= width
    beyond = chromium.ask(
        """[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, pre, svg'))
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert beyond == []
    chromium.photograph()
    assert chromium.ask("[...document.images].filter(i => !i.naturalWidth).length") == 0
    asked = [url for url in chromium.asked_for if not url.startswith("data:")]
    assert asked == [page.resolve().as_uri()]
    assert chromium.said == []


@pytest.mark.parametrize("dark", [False, True])
def test_words_can_be_read_on_their_ground(chromium: Browser, page: Path, dark: bool) -> None:
    chromium.open(page, PHONE, dark=dark)
    ground = chromium.photograph("h2").reshape(-1, 3).astype(int).sum(axis=1)
    assert bool(np.median(ground) < 120) is dark
    colours = chromium.ask(
        """[...document.querySelectorAll('p, td, th, dd, figcaption, .plot text, .from, small')].map(e => {
        const s = getComputedStyle(e); return e.tagName === 'text' ? s.fill : s.color })"""
    )
    back = 26 if dark else 255  # of a card
    for colour in set(colours):
        red, green, blue = (int(float(part)) for part in colour.strip("rgba()").split(",")[:3])
        grey = 0.3 * red + 0.59 * green + 0.11 * blue
        assert abs(grey - back) > 75, colour
    sizes = chromium.ask("[...document.querySelectorAll('.plot text')].map(e => e.getBoundingClientRect().height)")
    assert min(sizes) > 8


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_words_of_a_drawing_do_not_lie_over_each_other(chromium: Browser, page: Path, width: int) -> None:
    chromium.open(page, width)
    chromium.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = chromium.ask(
        """[...document.querySelectorAll('.plot svg')].flatMap(svg => {
        const all = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
        const frame = svg.getBoundingClientRect(), bad = [];
        all.forEach(([a, p], i) => {
          if (p.left < frame.left - 1 || p.right > frame.right + 1 || p.bottom > frame.bottom + 1) bad.push(['cut', a]);
          all.slice(i + 1).forEach(([b, q]) => {
            const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
            const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
            if (across > 1 && down > 2.5) bad.push([a, b]);
          });
        });
        return bad; })"""
    )
    assert found == []
    assert chromium.ask("document.querySelectorAll('.plot svg').length") > 15


@pytest.mark.parametrize("dark", [False, True])
def test_curves_are_drawn_in_the_colours_of_the_legend(chromium: Browser, page: Path, dark: bool) -> None:
    chromium.open(page, DESK, dark=dark)
    drawing = chromium.photograph(".chart .plot svg")
    assert drawing.shape[1] > 250
    assert [int(near(drawing, colour).sum()) > 60 for colour in (*PALETTE[:3], PALETTE[5])] == [True] * 3 + [False]
    keys = chromium.photograph(".table .legend")
    assert all(near(keys, colour).sum() > 20 for colour in PALETTE[:3])


def test_the_diagonal_of_a_heat_map_shines(chromium: Browser, page: Path) -> None:
    chromium.open(page, PHONE)
    panel = chromium.photograph(".heat .panels > div:nth-of-type(3) img")  # visible to long-wave
    side = panel.shape[0]
    assert 40 < side == panel.shape[1]
    cells = 7  # subjects in every domain
    centres = ((np.arange(cells) + 0.5) * side / cells).astype(int)
    light = panel[np.ix_(centres, centres)].astype(int)[..., :2].sum(axis=2)
    assert np.array_equal(light.argmax(axis=1), np.arange(cells))


def test_right_and_wrong_are_framed(chromium: Browser, page: Path) -> None:
    chromium.open(page, DESK)
    frames = {}
    for kind in ("right", "wrong"):
        figures = "[...document.querySelectorAll('.search figure')]"
        of_kind = f"f => f.className == '{kind}' && f.querySelector('img')"
        chromium.ask(f"{figures}.find({of_kind}).id = 'look-at-{kind}'")
        edge = chromium.photograph(f"#look-at-{kind} > img")
        frames[kind] = edge[edge.shape[0] // 2, 1].astype(int)
    assert frames["right"][1] > frames["right"][0] + 50
    assert frames["wrong"][0] > frames["wrong"][1] + 50


def test_the_map_has_a_shape_a_domain(chromium: Browser, page: Path) -> None:
    chromium.open(page, PHONE)
    drawing = chromium.photograph(".map").astype(int)
    assert drawing.shape[0] == pytest.approx(drawing.shape[1], abs=1)
    vivid = drawing.max(axis=2) - drawing.min(axis=2) > 60
    assert 23 * 20 < vivid.sum() < 0.3 * vivid.size  # 23 templates
    assert chromium.ask("document.querySelectorAll('.map')[0].querySelectorAll('path').length") == 23
    assert chromium.ask("document.querySelectorAll('.map')[0].parentElement.querySelectorAll('.shape').length") == 3


def test_the_first_column_stays_while_a_wide_table_scrolls(chromium: Browser, page: Path) -> None:
    chromium.open(page, PHONE)
    wide = "document.querySelectorAll('.numbers')[2]"
    assert chromium.ask(f"{wide}.scrollWidth > {wide}.clientWidth")
    left = f"{wide}.querySelector('tbody td').getBoundingClientRect().left"
    before = chromium.ask(left)
    chromium.ask(f"{wide}.scrollLeft = 60")
    assert chromium.ask(left) == pytest.approx(before, abs=1)
