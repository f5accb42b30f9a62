"""Times and counts in the names of frames that do not sort as they are written: p.m., month names, a year that is last.

`sortable` brings times to a form that sorts, or refuses them. Names without such times stay as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from mdfpipe.errors import DataError, one_line

_DIGITS = re.compile(r"[0-9]+")
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


def sortable(stems: Sequence[str]) -> list[str]:
    """Each name, without its suffix, in a form whose natural order is the order in time.

    Raises DataError, which says what to do, where the time would be a guess.
    """
    skeletons = {_DIGITS.sub("0", stem) for stem in stems}
    found = list(stems)
    if any(_ANY_MONTH.search(one) for one in skeletons):
        found = _with_numbered_months(found)
    if any(re.search(r"0[-_.]0[-_.]0", one) for one in skeletons) or (found and _YEAR_LAST[1].search(found[0])):
        found = _with_years_first(found)
    if any(_FRONT.search(one) for one in skeletons):
        found = [_FRONT.sub(lambda m: f"{m['time']} {'am' if m['am'] else 'pm'}", stem) for stem in found]
    if any(_MARK.search(stem) for stem in ({_DIGITS.sub("0", stem) for stem in found})):
        found = _by_24_hours(found)
    _refuse_midnight(found)
    return found


def counted_in_letters(stems: Sequence[str]) -> bool:
    """Whether names without any number are counted in words, Roman numbers or letters (z, aa), which do not sort.

    >>> counted_in_letters(["one", "two"]), counted_in_letters(["z", "aa"]), counted_in_letters(["left", "right"])
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
            return [_replaced(date, _iso(date, date["day"], _number(date["month"]))) for date in dates]
    named = {_number(month[1]): stem for stem in stems for month in _ANY_MONTH.finditer(stem)}
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
        return [_replaced(date, _iso(date, date[day], int(date[month]))) for date in dates]
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


def _number(month: str) -> int:
    return _NAMES.index(month[:3].lower()) + 1


def _iso(date: re.Match[str], day: str, month: int) -> str:
    return f"{date['year']}-{month:02d}-{int(day):02d}"


def _replaced(found: re.Match[str], by: str) -> str:
    return found.string[: found.start()] + by + found.string[found.end() :]
