"""Left out: what an index, crops, a manifest and a training do without, in words, from what their receipts hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from mdfpipe.errors import counted
from mdfpipe.store.naming import told_path
from mdfpipe.store.tables import CropStatus

CROPS_LEFT_OUT: Final = {
    CropStatus.TOO_SMALL: "crop.min_height_px, crop.min_face_height_px",
    CropStatus.SKIPPED_FRAME: "crop.every",
    CropStatus.OVER_LIMIT: "crop.per_subject",
}
"""The statuses of crops that settings leave out, and these settings."""

_NAMED: Final = 3  # videos of a line


def of_index(facts: Mapping[str, Any]) -> list[str]:
    """A line for each rule of `dataset.leave_out` that matched something, and one for the annotation rows of these.

    facts: of the receipt of an index.
    """
    found = [
        f"dataset.leave_out, {one['rule']}: {_counted(facts, one['count'])} left out, such as {one['example']}"
        for one in facts.get("left_out", [])
        if one["count"]
    ]
    rows = facts.get("left_out_rows", 0)
    return [
        *found,
        *([f"dataset.leave_out: {counted(rows, 'annotation row')} left out with the videos"] if rows else []),
    ]


def of_nothing(facts: Mapping[str, Any]) -> list[str]:
    """A line for each rule of `dataset.leave_out` that matched nothing. facts: of the receipt of an index."""
    return [
        f"dataset.leave_out, {one['rule']}: matches nothing here"
        + (f", where there is {told_path(one['example'], one['rule'].partition(': ')[2])}" if one["example"] else "")
        + (f" ({one['why']})" if one.get("why") else "")
        + "; check its spelling, or take it out"
        for one in facts.get("left_out", [])
        if not one["count"]
    ]


def of_crops(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for the crops that settings leave out, if there are any. facts: of the receipts of crop, by video."""
    rows = Counter[str]()
    for one in facts.values():
        for name, count in one.get("rows", {}).items():
            rows[name.rpartition(" ")[2]] += count
    found = [f"{rows[status]} {status} ({by})" for status, by in CROPS_LEFT_OUT.items() if rows[status]]
    left_out = sum(rows[status] for status in CROPS_LEFT_OUT)
    crops = counted(rows.total(), "crop")
    return [f"crop: {left_out} of {crops} left out by settings: {', '.join(found)}"] if found else []


def without_crops(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each modality in which those settings left no crop of a subject in a video. facts: as of `of_crops`.

    >>> without_crops({"a": {"left_without": {"body": ["s01"], "face": []}}})
    ['crop: every body of s01 in a is too_small; a subject without any crop is in no number']
    """
    lines = []
    for modality in ("body", "face"):
        lost = [f"{s} in {key}" for key, one in facts.items() for s in one.get("left_without", {}).get(modality, [])]
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        who = f"{', '.join(lost[:_NAMED])}{more}"
        if lost:
            lines.append(f"crop: every {modality} of {who} is too_small; a subject without any crop is in no number")
    return lines


def outside_of(facts: Mapping[str, Any]) -> list[str]:
    """A line for each domain that the protocol does not use. facts: of the receipt of a manifest."""
    return [
        f"{one['domain']} is outside protocol {facts.get('protocol', '')}: {of_rows(one)} unused; "
        "dataset.leave_out.domains keeps such videos from being decoded"
        for one in facts.get("outside", [])
    ]


def by_track(facts: Mapping[str, Any]) -> list[str]:
    """A line for the crops whose names are carried along tracks, if there are any. facts: of the receipt of a manifest.

    >>> by_track({"named_by": {"face": 6, "track": 2}, "track_labels_left_out": {"probe": 1}})
    ['2 of 8 rows are named by their track; manifest.track_labels leaves out 1 of probe']
    """
    rows = facts.get("named_by", {})
    without = ", ".join(f"{count} of {use}" for use, count in facts.get("track_labels_left_out", {}).items())
    more = f"; manifest.track_labels leaves out {without}" if without else ""
    carried = rows.get("track", 0)
    return [f"{carried} of {sum(rows.values())} rows are named by their track{more}"] if carried else []


def of_rows(counts: Mapping[str, Any]) -> str:
    """The rows, subjects and videos of a receipt in words.

    >>> of_rows({"rows": 12, "subjects": 2, "videos": 1})
    '12 rows of 2 subjects in 1 video'
    """
    rows, subjects, videos = (counted(counts[f"{one}s"], one) for one in ("row", "subject", "video"))
    return f"{rows} of {subjects} in {videos}"


def of_training(facts: Mapping[str, Any]) -> list[str]:
    """A line for the subjects that domain-aware batches leave out, if there are any. facts: of a training's receipt."""
    found = facts.get("left_out")
    if not found or not found.keys() >= {"subjects", "of", "without"}:
        return []
    without = ", ".join(f"{domain} for {count}" for domain, count in found["without"].items())
    return [
        f"{found['subjects']} of {found['of']} subjects left out of domain-aware batches, "
        f"{found['of'] - found['subjects']} take part: there is no crop in {without}"
    ]


def most_left_out(facts: Mapping[str, Any]) -> list[str]:
    """The same with advice, where more subjects are left out than take part."""
    return [
        f"{line}; name the domains of the study in manifest.protocol.domains or train_domains, or draw without regard "
        "to domain (recipe.batches.sampler: random)"
        for line in of_training(facts)
        if 2 * facts["left_out"]["subjects"] > facts["left_out"]["of"]
    ]


def of_unreadable(stage: str, found: Mapping[str, str], without: str) -> list[str]:
    """A line for the crops that a stage could not read, if there are any: how many, why, and of which videos.

    found: crop_id -> why. without: what they are without.
    """
    if not found:
        return []
    crop, why = min(found.items())
    videos = sorted({name.rpartition("/")[0].rpartition("/")[0] or name for name in found})
    more = f" and {len(videos) - _NAMED} more" if len(videos) > _NAMED else ""
    return [
        f"{stage}: {counted(len(found), 'crop does', 'crops do')} not decode{without} ({crop}: {why}), of "
        f"{', '.join(videos[:_NAMED])}{more}"
    ]


def of_stage(stage: str, facts: Mapping[str, Any]) -> list[str]:
    """The same, of the receipts of a stage. facts: by unit."""
    kind = stage.partition("/")[0]
    fact = {"crop": "bad", "embed": "bad", "train": "unreadable"}.get(kind)
    found = {crop: why for one in facts.values() for crop, why in one.get(fact, {}).items()} if fact else {}
    if kind == "crop" and found:  # of a data set of images
        path, why = min(found.items())
        one, many = "image does not decode and is left out", "images do not decode and are left out"
        return [f"crop: {counted(len(found), one, many)} ({path}: {why})"]
    return of_unreadable(stage, found, ", left out" if kind == "train" else ", left without a vector")


def _counted(facts: Mapping[str, Any], count: int) -> str:
    return counted(count, "image" if "images" in facts else "video")
