"""Frames of a folder: which files they are, and in which order.

The readers (which frame is number 12?) and the decoder of image folders (which frame comes twelfth?) must agree on
both, so `frame_files` is written once, here. Times and counts in names that do not sort as they are written (p.m.,
month names, a year that is last) are brought to a form that sorts, or refused.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

from mdfpipe.errors import DataError, one_line
from mdfpipe.store.naming import IMAGE_SUFFIXES, PICTURE_SUFFIXES, Links, inside, is_folder, natural_key

_UNFINISHED = frozenset(
    {".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp", ".gz", ".bz2", ".xz", ".zst", ".dvc"}
)
_IN_FRAMES = PICTURE_SUFFIXES | _UNFINISHED
_NUMBER = re.compile(r"[0-9]+")
_EPOCH = re.compile(r"(?<![0-9])[0-9]{9,10}[._-](?:[0-9]{9}|[0-9]{6}|[0-9]{3})(?![0-9])")  # seconds, and a fraction
_CALENDAR = re.compile(  # 2021-01-07T12-30-45.250, 20210107_123045, with any or no signs between
    r"(?<![0-9])(?:19|20)[0-9]{2}[-_.: ]?(?:0[1-9]|1[0-2])[-_.: ]?(?:0[1-9]|[12][0-9]|3[01])[-_.:Tt ]{0,3}"
    r"(?:[01][0-9]|2[0-3])[-_.:h ]?[0-5][0-9][-_.:m ]?[0-6][0-9](?:[-_.:,s ]?[0-9]{1,9})?(?![0-9])"
)
_TIME_OF_DAY = re.compile(  # 13-05-59, 9.05.59.250
    r"(?<![0-9])(?:[01]?[0-9]|2[0-3])[-_.:h][0-5][0-9][-_.:m][0-5][0-9](?:[-_.:,s][0-9]{1,9})?(?![0-9])"
)

_SEPARATED = r"[-_.,\s]"
_NAMES = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = (
    r"(?<![a-z])(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)(?![a-z])"
)
_YEAR, _DAY = r"(?P<year>(?:19|20)[0-9]{2})", r"(?P<day>[0-3]?[0-9])(?:st|nd|rd|th)?"
_WEEKDAY = rf"(?:(?<![a-z])(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*{_SEPARATED}+)?"
_WITH_MONTHS = tuple(
    re.compile(_WEEKDAY + form, re.IGNORECASE)
    for form in (
        rf"(?<![0-9]){_DAY}{_SEPARATED}*{_MONTH}{_SEPARATED}*{_YEAR}(?![0-9])",
        rf"{_MONTH}{_SEPARATED}*{_DAY}{_SEPARATED}+{_YEAR}(?![0-9])",
        rf"(?<![0-9]){_YEAR}{_SEPARATED}*{_MONTH}{_SEPARATED}*{_DAY}(?![0-9])",
    )
)
_ANY_MONTH = re.compile(_MONTH, re.IGNORECASE)
_YEAR_LAST = (
    re.compile(rf"(?<![0-9])(?P<a>[0-3]?[0-9])(?P<s>[-_.])(?P<b>[0-3]?[0-9])(?P=s){_YEAR}(?![0-9])"),
    re.compile(rf"(?<![0-9])(?P<a>[0-3][0-9])(?P<b>[0-3][0-9]){_YEAR}(?=(?:[0-9]{{6}})?(?![0-9]))"),
)

_MARK = re.compile(r"[0-9][\s_.-]?(?P<mark>[ap])\.?\s?m\.?(?![a-z0-9])", re.IGNORECASE)
_CLOCK = re.compile(  # behind a date, maybe, that is taken first: its day is no hour
    r"(?<![0-9])(?P<date>(?:19|20)[0-9]{2}(?P<d>[-_.]?)[01][0-9](?P=d)[0-3][0-9](?:[-_.,T\s]{0,3}|\sat\s))?"
    r"(?P<hour>[01]?[0-9]|2[0-3])(?:(?P<s>[-_.:h\s]?)(?P<rest>[0-5][0-9](?:(?P=s)[0-5][0-9](?:[.,_-][0-9]{3,9})?)?))?"
    r"[\s_.-]?(?P<mark>[ap])\.?\s?m\.?(?![a-z0-9])",
    re.IGNORECASE,
)
_FRONT = re.compile(
    r"(?:(?P<am>上午|午前|오전|(?<![a-z])am)|(?P<pm>下午|午後|오후|(?<![a-z])pm))[\s_.-]?"
    r"(?P<time>[0-9]{1,2}(?:(?P<s>[-_.:])[0-9]{2}(?:(?P=s)[0-9]{2})?|[0-9]{2}(?:[0-9]{2})?)?)(?![0-9])",
    re.IGNORECASE,
)
_ALONE = re.compile(r"(?<![0-9])([01]?[0-9]|2[0-3])([-_.:])([0-5][0-9])\2([0-5][0-9])(?![0-9])")
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve first second third fourth fifth sixth seventh "
    "eighth ninth tenth monday tuesday wednesday thursday friday saturday sunday"
)
_WRITE = "write the time of each as 20210107T130000, by 24 hours and with all digits"


class FrameRule(StrEnum):
    """What a folder's frames are ordered by."""

    NUMBER = "number"
    TIME = "time stamp"
    NAME = "name"


def frame_numbers(names: Sequence[str]) -> list[int] | None:
    """The number of each frame by its name, ascending; None where one has none, or they do not ascend.

    names: in presentation order; time stamps, for one, do not ascend in the fractions of their seconds. Among several
    numbers in a name it is the one that differs from name to name where only one does, else the last.

    >>> frame_numbers(["left_7_640x480.png", "left_8_640x480.png"]), frame_numbers(["a1.png", "b.png"])
    ([7, 8], None)
    """
    found = [None if number is None else int(number) for number in _counting(names)]
    numbers = [number for number in found if number is not None]
    return numbers if len(numbers) == len(names) and all(a < b for a, b in pairwise(numbers)) else None


def frame_files(folder: Path, root: Path | None = None, links: Links | None = None) -> list[str]:
    """The names of a folder's frames in presentation order: its image files, hidden ones left out.

    A frame's index is its position in this list, which `in_order` explains. Raises DataError where the folder cannot be
    listed, where the order would be a guess, and, with `root`, where a frame is a symlink that leads out of it against
    `links`.
    """
    try:
        with os.scandir(folder) as entries:
            pictures = [e for e in entries if _suffix(e.name) in _IN_FRAMES and e.name[0] != "."]
            named = [e.name for e in pictures if not is_folder(e)]  # a broken link stays: else the rest would move up
    except OSError as error:
        raise DataError(f"{folder}: the folder of frames cannot be listed: {error.strerror}") from None
    if root is not None:
        check_links(folder, root, links)
    names = [name for name in named if _suffix(name) in IMAGE_SUFFIXES]
    if len(names) < len(named):
        _refuse_other_pictures(folder, names, [name for name in named if _suffix(name) not in IMAGE_SUFFIXES])
    return in_order(names, str(folder))[0]


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - pathlib takes as long as all else together


def _refuse_other_pictures(folder: Path, names: list[str], others: list[str]) -> None:
    """Raise DataError where files that are not read are frames: named as these are, and no copy of one."""
    stems, whole = {_stem(name) for name in names}, set(names)
    forms = {_NUMBER.sub("0", stem) for stem in stems}
    for name in sorted(others):
        inner = _stem(name)
        if _suffix(name) in _UNFINISHED:
            if _suffix(inner) in PICTURE_SUFFIXES and inner not in whole:
                raise DataError(
                    f"{folder}: a frame is not whole, or packed ({one_line(name, 80)}); finish, unpack or fetch it, or "
                    "move it elsewhere"
                )
        elif not names or (inner not in stems and _NUMBER.sub("0", inner) in forms):
            raise DataError(
                f"{folder}: a picture among the frames is of a kind that is not read ({one_line(name, 80)}); convert "
                "such pictures to PNG or TIFF, or move them elsewhere"
            )


def check_links(folder: Path, root: Path, links: Links | None = None) -> None:
    """Raise DataError where an image of a folder is a symbolic link that leads out of `root` against `links`."""
    if links is Links.FOLLOW or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        linked = [e.name for e in entries if e.is_symlink() and Path(e.name).suffix.lower() in IMAGE_SUFFIXES]
    for name in sorted(linked, key=natural_key):
        inside(root, (folder / name).relative_to(root).as_posix(), "frame", links)


def in_order(names: Collection[str], folder: str) -> tuple[list[str], FrameRule]:
    """The frames in presentation order, and what tells it.

    They go by `frame_numbers`, if the natural order of the names is the same. If it is not, time stamps of one form
    that fill their digits (seconds.nanoseconds, 20210107T123045.250, 13-05-59) go by time; names without any number go
    by name. Times that do not sort as they are written (1-05-59 PM, 7-Jan-2021) are read first, see `_sortable`.
    Everything else would be a guess: raises DataError, with an example.
    """
    stems = [_stem(name) for name in names]
    try:
        forms = _sortable(stems)
    except DataError as error:
        raise DataError(f"{folder}{error}") from None
    if forms != stems:
        named = [(f"{form}{name[len(stem) :]}", name) for form, stem, name in zip(forms, stems, names, strict=True)]
        read = sorted(named, key=lambda pair: _by_name(pair[0]))
        _order([form for form, _ in read], folder)
        return [name for _, name in read], FrameRule.TIME
    ordered = sorted(names, key=_by_name)
    if not any(_numbers(name) for name in ordered):
        if _counted_in_letters(stems):
            raise DataError(
                f"{folder}: {one_line(ordered[0])} and the other frames are counted in letters or words, and these do "
                "not sort; rename them with numbers (000001.png, 000002.png)"
            )
        return sorted(ordered, key=natural_key), FrameRule.NAME
    return ordered, _order(ordered, folder)


def _order(ordered: Sequence[str], folder: str) -> FrameRule:
    """What puts names in this, their natural, order. Raises DataError where it would be a guess."""
    if frame_numbers(ordered) is not None:
        return FrameRule.NUMBER
    if _are_stamped(ordered):
        return FrameRule.TIME
    raise DataError(f"{folder}{_guess(ordered)}")


def _guess(ordered: Sequence[str]) -> str:
    """Why the order of these names would be a guess."""
    counting = dict(zip(ordered, _counting(ordered), strict=True))
    bare = [name for name, number in counting.items() if number is None]
    if bare:
        return (
            f"/{one_line(bare[0])}: expected a number in every frame's file name, as {len(ordered) - len(bare)} of "
            f"{len(ordered)} images of the folder have one; rename it or move it elsewhere"
        )
    first: dict[int, str] = {}
    for name, number in counting.items():
        other = first.setdefault(int(number or 0), name)
        if other != name:
            return (
                f": {one_line(other)} and {one_line(name)} are both frame number {int(number or 0)} (the last number "
                "in the name), so that their order would be a guess; rename or move one"
            )
    before, after = next((a, b) for a, b in pairwise(ordered) if int(counting[a] or 0) > int(counting[b] or 0))
    return (
        f": {one_line(before)} comes before {one_line(after)} by the whole name, and after it by the last number in "
        "the name, so that their order would be a guess; rename the files so that one number counts the frames "
        "(000001.png, 000002.png), or write all digits of a time stamp (1610000000.050000000.png)"
    )


def _numbers(name: str) -> list[str]:
    """The runs of digits in a name without its suffix."""
    return _NUMBER.findall(_stem(name))


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name  # pathlib takes as long as all else together


def _by_name(name: str) -> tuple[object, str]:
    """The natural order of names, without case and suffix."""
    return natural_key(_stem(name).casefold())[0], name


def _counting(names: Sequence[str]) -> list[str | None]:
    """Number that counts the frames, as written in each name; None without one."""
    numbers = [_numbers(name) for name in names]
    if len({_NUMBER.sub("0", _stem(name)) for name in names}) == 1:
        differs = [n for n, column in enumerate(zip(*numbers, strict=True)) if len(set(map(int, column))) > 1]
        if len(differs) == 1:
            return [found[differs[0]] for found in numbers]
    return [found[-1] if found else None for found in numbers]


def _are_stamped(names: Sequence[str]) -> bool:
    """Whether all names hold a time stamp of one form, all else in them is the same, and no two are of one time."""
    for pattern in (_EPOCH, _CALENDAR, _TIME_OF_DAY):
        found = [pattern.search(_stem(name)) for name in names]
        stamps = [match for match in found if match is not None]
        if len(stamps) < len(names) or len({match[0] for match in stamps}) < len(names):
            continue
        around = {(m.string[: m.start()], m.string[m.end() :]) for m in stamps}
        # the first number, of seconds or of a year, may gain a digit; the others are fractions, of one width
        forms = {re.sub(r"[0-9]", "0", m[0])[9 if pattern is _EPOCH else 0 :].lstrip("0") for m in stamps}
        widths = {len(m[0]) - len(_NUMBER.findall(m[0])[0]) for m in stamps}
        if len(around) == len(forms) == len(widths) == 1:
            return True
    return False


# --- times in names ---


def _sortable(stems: Sequence[str]) -> list[str]:
    """Each name, without its suffix, in a form whose natural order is the order in time.

    Raises DataError, which says what to do, where the time would be a guess.
    """
    skeletons = {_NUMBER.sub("0", stem) for stem in stems}
    found = list(stems)
    if any(_ANY_MONTH.search(one) for one in skeletons):
        found = _with_numbered_months(found)
    if any(re.search(r"0[-_.]0[-_.]0", one) for one in skeletons) or (found and _YEAR_LAST[1].search(found[0])):
        found = _with_years_first(found)
    if any(_FRONT.search(one) for one in skeletons):
        found = [_FRONT.sub(lambda m: f"{m['time']} {'am' if m['am'] else 'pm'}", stem) for stem in found]
    if any(_MARK.search(stem) for stem in ({_NUMBER.sub("0", stem) for stem in found})):
        found = _by_24_hours(found)
    _refuse_midnight(found)
    return found


def _counted_in_letters(stems: Sequence[str]) -> bool:
    """Whether names without any number are counted in words, Roman numbers or letters (z, aa), which do not sort.

    >>> _counted_in_letters(["one", "two"]), _counted_in_letters(["z", "aa"]), _counted_in_letters(["left", "right"])
    (True, True, False)
    """
    tokens = Counter(token for stem in stems for token in set(re.findall(r"[^\W\d_]+", stem.lower())))
    changing = {token for token, count in tokens.items() if count < len(stems)}
    if len(changing) < 2:
        return False
    if changing <= set(_WORDS.split()):
        return True
    is_short = all(len(token) < 3 or re.fullmatch("[ivxlcdm]+", token) for token in changing)
    return is_short and len({len(token) for token in changing}) > 1


def _with_numbered_months(stems: list[str]) -> list[str]:
    for form in _WITH_MONTHS:
        dates = [date for stem in stems if (date := form.search(stem))]
        if len(dates) == len(stems) and len({date[0] for date in dates}) > 1:
            return [_dated(date, date["day"], _number_of(date["month"])) for date in dates]
    named = {_number_of(month[1]): stem for stem in stems for month in _ANY_MONTH.finditer(stem)}
    if len(named) > 1:
        first, second = (one_line(stem) for stem in list(named.values())[:2])
        raise DataError(f": {first} and {second} name months, and these do not sort; {_WRITE}")
    return stems


def _with_years_first(stems: list[str]) -> list[str]:
    for form in _YEAR_LAST:
        dates = [date for stem in stems if (date := form.search(stem)) and _is_date(date)]
        if len(dates) < len(stems) or len({date[0] for date in dates}) < 2:
            continue
        first, second = max(int(date["a"]) for date in dates), max(int(date["b"]) for date in dates)
        if first > 12 and second > 12:
            continue  # no dates
        if first <= 12 and second <= 12:
            raise DataError(
                f": {one_line(dates[0].string)} holds a date whose year is last, and whether the day or the month is "
                f"first would be a guess; {_WRITE}"
            )
        day, month = ("a", "b") if first > 12 else ("b", "a")
        return [_dated(date, date[day], int(date[month])) for date in dates]
    return stems


def _is_date(date: re.Match[str]) -> bool:
    low, high = sorted((int(date["a"]), int(date["b"])))
    return 1 <= low <= 12 and high <= 31


def _by_24_hours(stems: list[str]) -> list[str]:
    clocks = [_CLOCK.search(stem) for stem in stems]
    marks = {mark["mark"].lower() for stem in stems if (mark := _MARK.search(stem))}
    if not all(clocks):
        bare = [stem for stem in stems if not _MARK.search(stem)]
        if len(marks) < 2 and not bare:
            return stems  # an afternoon's frames, counted
        odd = bare[0] if bare else next(s for s, clock in zip(stems, clocks, strict=True) if clock is None)
        raise DataError(
            f": some names say a.m. or p.m. behind a time, {one_line(odd)} does not, so that their order would be a "
            f"guess; {_WRITE}"
        )
    found = [clock for clock in clocks if clock]
    by_24 = [_replaced(clock, f"{clock['date'] or ''}{_hour(clock)}") for clock in found]
    if len(marks) < 2 and not any(clock["rest"] for clock in found) and any(int(c["hour"]) == 12 for c in found):
        raise DataError(
            f": whether {one_line(stems[0])} is numbered or says an hour by a 12-hour clock would be a guess; {_WRITE}"
        )
    return by_24


def _hour(clock: re.Match[str]) -> str:
    """The time of day by 24 hours, as it was separated; with seconds where minutes are separated from hours."""
    hour = int(clock["hour"])
    if hour <= 12:
        hour = hour % 12 + 12 * (clock["mark"].lower() == "p")
    seconds = f"{clock['s']}00" if clock["s"] and len(clock["rest"]) == 2 else ""
    return f"{hour:02d}{clock['s'] or ''}{clock['rest'] or ''}{seconds}"


def _refuse_midnight(stems: Sequence[str]) -> None:
    """Raise DataError where times of day, without a date, lie at both ends of a day and nowhere between."""
    times = [time for stem in stems if (time := _ALONE.search(stem))]
    if not times or len(times) < len(stems):
        return
    if len({(time.string[: time.start()], time.string[time.end() :]) for time in times}) > 1:
        return  # a date, or a number behind it
    seconds = sorted(int(time[1]) * 3600 + int(time[3]) * 60 + int(time[4]) for time in times)
    if any(b - a > 12 * 3600 for a, b in pairwise(seconds)):
        raise DataError(
            f": the times of day in the names, such as {one_line(stems[0])}, lie at both ends of a day: they may go "
            f"across midnight; {_WRITE}"
        )


def _number_of(month: str) -> int:
    return _NAMES.index(month[:3].lower()) + 1


def _dated(date: re.Match[str], day: str, month: int) -> str:
    return _replaced(date, f"{date['year']}-{month:02d}-{int(day):02d}")


def _replaced(found: re.Match[str], by: str) -> str:
    return found.string[: found.start()] + by + found.string[found.end() :]
