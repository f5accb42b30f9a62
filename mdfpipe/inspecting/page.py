"""One self-contained HTML page about a run: figures first, then frames, people, distributions, videos, settings.

The template escapes everything that it is given. No script, no network, no clock: the same run gives the same page.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mdfpipe.drawing import pixels as figures
from mdfpipe.drawing.pixels import COLOURS, FACE_COLOUR, Picture
from mdfpipe.drawing.plots import BAR, Bars, histograms
from mdfpipe.drawing.plots import Picture as Drawing
from mdfpipe.errors import one_line
from mdfpipe.inspecting.frames import FrameView
from mdfpipe.inspecting.samples import PLAIN, CropChoice, DomainSample, Limits, Scale, SubjectSample
from mdfpipe.inspecting.things import funnel_row
from mdfpipe.running.survey import Survey, VideoState, anomalies
from mdfpipe.store.naming import natural_key
from mdfpipe.store.tables import NAMED, NOT_AS_PUBLISHED

MEANINGS: Final = {
    "labelled": "one face, or a given id, names it",
    "no_face": "no face touches it",
    "ambiguous": "faces of two or more subjects lie in it",
    "below_min_overlap": "its best face overlaps too little",
    "lost_assignment": "another body has the better claim to its face, or is the one person of the video",
    "too_small": "lower than label.min_height_px",
    "off_frame": "mostly outside the frame",
    "unnamed_face": "its face has no subject",
    "labelled_by_track": "faces of its track in other frames name it",
    "track_conflict": "its track has faces of several subjects, or another body of the frame has the better claim",
}
_PACKAGES: Final = ("av", "decord", "numpy", "onnxruntime", "opencv-python", "pyarrow", "scipy", "torch", "ultralytics")
_COLOURS: Final = {status.value: colour for status, colour in COLOURS.items()}


@dataclass(frozen=True)
class DrawnFrame:
    """A frame on the page: what is in it, its picture in the text, and the picture that opens, (H, W, 3) each."""

    view: FrameView
    small: Picture
    full: Picture


@dataclass
class Page:
    """What one page shows. frames, people: by domain, in the order of the page; crops have their modality."""

    title: str
    survey: Survey
    samples: dict[str, DomainSample]
    limits: Limits
    show_people: bool
    environment: dict[str, Any]
    notes: list[str]
    frames: dict[str, list[DrawnFrame]]
    people: dict[str, list[tuple[SubjectSample, list[tuple[str, CropChoice, Picture]]]]]


def render(page: Page) -> str:
    """The page as HTML."""
    return str(templates().get_template("run.html.j2").render(_content(page))) + "\n"


def templates() -> Any:
    """The jinja environment of all pages: escapes everything, knows `count`, `words` and `embedded`."""
    import jinja2

    folder = resources.files("mdfpipe.drawing") / "templates"
    loader = jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": _count,
        "words": lambda name: str(name).replace("_", " "),
        "embedded": figures.data_uri,
    }
    return environment


def _count(value: float) -> str:
    """A number as a person reads it: 12 480."""
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else f"{value:.3g}"


def _content(page: Page) -> dict[str, Any]:
    survey, limits = page.survey, page.limits
    statuses, count = survey.statuses(), len(survey.domains)
    order = sorted(survey.videos, key=lambda v: (not v.failures, not v.remarks, natural_key(v.video_id)))
    rows = {name: funnel_row(domain) for name, domain in survey.domains.items()}
    settings = {stage: json.dumps(one, indent=1, ensure_ascii=False) for stage, one in survey.settings().items()}
    return {
        "name": page.title,
        "show_people": page.show_people,
        "of_images": survey.of_images,
        "not_as_published": NOT_AS_PUBLISHED,
        "tiles": _tiles(survey),
        "legend": [(s, colour, MEANINGS[s], statuses[s]) for s, colour in _COLOURS.items() if statuses[s]],
        "face_colour": FACE_COLOUR,
        "funnel": [
            {"domain": domain.domain, "row": rows[name], "bar": _bar(domain.by_status)}
            for name, domain in survey.domains.items()
        ],
        "steps": list(dict.fromkeys(step for row in rows.values() for step in row if step != "domain")),
        "failures": survey.failures[: limits.failures],
        "failures_left": max(len(survey.failures) - limits.failures, 0),
        "notes": [*survey.notes, *page.notes],
        "anomalies": anomalies(survey.run),
        "domains": [
            {
                "name": name,
                "anchor": f"domain-{place}",
                "frames": page.frames.get(name, []),
                "beyond": {status: n for status, n in page.samples[name].beyond.items() if n},
                "people": page.people.get(name, []),
                "subjects": len(page.samples[name].subjects),
            }
            for place, name in enumerate(survey.domains)
        ],
        "charts": _charts(page.samples),
        "videos": [_video(video) for video in order[: limits.videos]],
        "videos_left": max(len(order) - limits.videos, 0),
        "settings": settings,
        "versions": versions(page.environment),
        "limits": limits,
        "frames_each": limits.frames_each(count),
        "subjects_each": limits.subjects_each(count),
    }


def _tiles(survey: Survey) -> list[tuple[str, str, str]]:
    """(figure, what it is, what it is of) at the head of the page."""
    bodies, failed = survey.total("bodies"), len(survey.failures)
    labelled = sum(survey.statuses()[status] for status in NAMED)
    crops = sum(domain.crops[f"{m} ok"] for domain in survey.domains.values() for m in ("body", "face"))
    domains, subjects = _many(len(survey.domains), "domain"), _many(len(survey.subjects()), "subject")
    frames = _count(survey.total("frames"))
    found = [(_count(crops), "crops", subjects)]
    if survey.of_images:
        found = [(frames, "images", domains), *found]
    else:
        share = f"{100 * labelled / bodies:.0f} % of {_count(bodies)} bodies" if bodies else "no body was detected"
        found = [
            (_count(len(survey.videos)), "videos", domains),
            (frames, "frames", f"{_count(survey.total('annotated'))} with a face"),
            (_count(labelled), "labelled bodies", share),
            *found,
        ]
    failures = "failure" if failed == 1 else "failures"
    return [*found, (_count(failed), failures, "listed below" if failed else "nothing failed")]


def _many(count: int, noun: str) -> str:
    return f"{_count(count)} {noun}" + ("" if count == 1 else "s")


def _bar(by_status: Counter[str]) -> list[tuple[str, str, int, float]]:
    """(status, colour, bodies, per cent of all bodies) of the statuses that occur."""
    total = max(by_status.total(), 1)
    return [
        (status, colour, by_status[status], 100 * by_status[status] / total)
        for status, colour in reversed(_COLOURS.items())
        if by_status[status]
    ]


def _video(video: VideoState) -> dict[str, Any]:
    seen = video.facts("detect")
    alignment = video.facts("label").get("alignment") or {}
    return {
        "video_id": video.video_id,
        "domain": video.domain,
        "decoder": seen.get("decoder", ""),
        "declared": seen.get("declared", video.row.get("n_frames")),
        "delivered": seen.get("delivered"),
        "annotated": video.annotated if video.facts("label") else None,
        "duplicates": seen.get("duplicates"),
        "alignment": alignment.get("verdict", ""),
        "window": f"{video.window[0]:g}..{video.window[1]:g}" if video.window and seen.get("window") else "",
        "remarks": video.remarks,
    }


def versions(environment: dict[str, Any]) -> dict[str, str]:
    """What a run was made with, of its environment.json: the packages that decide numbers, and the last command."""
    found: dict[str, str] = {
        name: str(environment[name]) for name in ("mdfpipe", "python", "machine") if name in environment
    }
    packages = environment.get("packages")
    for package in packages if isinstance(packages, list) else ():
        name, _, version = str(package).partition("==")
        if name.lower() in _PACKAGES:
            found[name] = version
    if isinstance(environment.get("argv"), list):
        found["last command"] = one_line(" ".join(str(word) for word in environment["argv"]), 400)
    return found


# -- distributions


def _charts(samples: dict[str, DomainSample]) -> list[Drawing]:
    """One drawing a quantity, one row a domain, all rows on one scale."""
    charts = []
    for name in next(iter(samples.values())).histograms if samples else ():
        rows = {domain: one.histograms[name] for domain, one in samples.items() if one.histograms[name].total.any()}
        if not rows:
            continue
        scale = next(iter(rows.values())).scale
        shown = _span(scale, np.flatnonzero(sum(histogram.bars() for histogram in rows.values())))
        edges = np.array(scale.bars[shown.start : shown.stop + 1])
        bars = []
        for domain, histogram in rows.items():
            most = histogram.bars().max()
            layers = [
                (histogram.bars(layer)[shown] / most, colour)
                for layer, colour in [*reversed(_COLOURS.items()), (PLAIN, BAR)]
                if layer in histogram.layers
            ]
            said = f"{_count(int(histogram.total.sum()))}, median {histogram.median:.3g}"
            bars.append(Bars(domain, edges, layers, said, histogram.median))
        svg = histograms(f"histogram/{name}", bars, stacked=True, log=scale.is_log)
        charts.append(Drawing(name, svg, scale.meaning))
    return charts


def _span(scale: Scale, occupied: NDArray[np.intp]) -> slice:
    """The bars that are drawn: a share shows its whole range, anything else what is occupied and a little more."""
    bars, first, last = len(scale.bars) - 1, int(occupied[0]), int(occupied[-1]) + 1
    if scale.edges[-1] == 1.0:
        return slice(0, bars)
    grow = max(12 - (last - first), 2)
    return slice(max(first - grow // 2, 0), min(last + grow - grow // 2, bars))
