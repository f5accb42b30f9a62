"""Score lists: the comparison scores of a matcher that gives scores and no vectors, as text, CSV or Parquet.

| columns, without a header | layout |
|---|---|
| 1 | scores of one kind: a genuine or an impostor list (PyEER); with more columns the last is the score |
| 2 | label and score, in either order; a label is 1, or 0 (bob: -1) |
| 3 | query, template, score (PyEER's CMC); a file of genuine query-template pairs says who is whose mate |
| 4 | claimed subject, real subject, probe, score (bob) |
| 5 | claimed subject, gallery template, real subject, probe, score (bob) |

With a header, and in Parquet, columns go by name. A blank line and a line that begins with `#` are skipped. A score of
`nan` is a comparison that failed: a failure to acquire, as in bob.measure.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.errors import DataError, one_line
from mdfpipe.store.content import stand_in
from mdfpipe.store.limits import refuse_large_table
from mdfpipe.store.parquet import open_table
from mdfpipe.store.text_tables import find_columns

Kind = Literal["genuine", "impostor"]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
B8 = NDArray[np.bool_]

ROWS: Final = 1 << 15  # lines that are parsed at a time
MOST_COUNTED: Final = 1 << 26  # scores that a histogram stands for
PLACE: Final = ("gallery_domain", "probe_domain", "gallery")
ANYWHERE: Final = ("gallery", "probe", "all")
"""Domains and gallery of a list that names none."""
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "score": ("score", "similarity", "distance"),
    "label": ("label", "mated", "genuine", "match"),
    "probe": ("probe", "probe_template", "query"),
    "probe_subject": ("probe_subject", "real_id", "query_subject"),
    "template": ("gallery_template", "template", "model_label", "model"),
    "gallery_subject": ("gallery_subject", "claimed_id", "template_subject"),
}
BY_WIDTH: Final = {
    3: ("probe", "template", "score"),
    4: ("gallery_subject", "probe_subject", "probe", "score"),
    5: ("gallery_subject", "template", "probe_subject", "probe", "score"),
}
LABELS: Final = {"1": True, "0": False, "-1": False}


@dataclass(frozen=True, eq=False)
class Side:
    """Templates of one side of the comparisons. at: (n,) the place of each comparison's template; names: (T,) of one
    kind each; subjects: (T,).
    """

    at: I64
    names: list[str]
    subjects: list[str]


@dataclass(frozen=True, eq=False)
class ScoreList:
    """The comparisons of one matcher. score: (n,) greater is more alike, NaN where the comparison failed.

    mated: (n,) of one subject. probes, gallery: whose they are, where the file names them. place: gallery domain, probe
    domain and gallery.
    """

    name: str
    score: F64
    mated: B8
    probes: Side | None = None
    gallery: Side | None = None
    place: tuple[str, str, str] = ANYWHERE
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"ScoreList({self.name}, {int(self.mated.sum())} mated and {int((~self.mated).sum())} non-mated pairs)"

    def negated(self) -> ScoreList:
        """The same where the file gives distances."""
        note = "its scores are distances and were negated: so are thresholds"
        return replace(self, score=-self.score, notes=[*self.notes, note])


def read_lists(path: Path, *, mates: Path | None = None) -> list[ScoreList]:
    """The score lists of a file: one, or of a Parquet file of scores one for each pair of domains.

    mates: a file of genuine query-template pairs, for lists of three columns. Raises DataError with file and line.
    """
    columns = _of_parquet(path) if path.suffix == ".parquet" else _of_text(path)
    if columns.texts.keys() >= {"probe", "template"} and not columns.texts.keys() & {"probe_subject", "label"}:
        if mates is None:
            raise DataError(
                f"{path}: expected subjects or a label, got query, template and score: who is whose mate? Give the "
                "file of genuine query-template pairs by --mates"
            )
        columns = _with_mates(columns, mates)
    found = _lists(columns)
    for one in found:
        if one.mated.all() or not one.mated.any():
            only = "genuine (mated)" if one.mated.all() else "impostor (non-mated)"
            raise DataError(f"{path}: expected comparisons of both kinds, got {len(one.mated)} that are all {only}")
    return found


def read_two_lists(genuine: Path, impostor: Path, *, histogram: bool = False) -> ScoreList:
    """The genuine and the impostor list of one matcher. Raises DataError.

    histogram: line n of `impostor`, from 0, is how many impostor scores are n (PyEER).
    """
    high = _of_text(genuine, "genuine").score
    low = _of_text(impostor, "impostor").score
    if histogram:
        counts = low.astype(np.int64)
        if (counts != low).any() or (counts < 0).any() or not 0 < counts.sum() <= MOST_COUNTED:
            raise DataError(
                f"{impostor}: expected counts of scores, whole numbers of 0 or more, of at most {MOST_COUNTED} scores"
            )
        low = np.repeat(np.arange(len(counts), dtype=np.float64), counts)
    mated = np.repeat([True, False], [len(high), len(low)])
    return ScoreList(_joint_name(genuine.stem, impostor.stem), np.concatenate([high, low]), mated)


def _joint_name(genuine: str, impostor: str) -> str:
    """What two file names have in common, or the first.

    >>> _joint_name("exp1_true", "exp1_false"), _joint_name("genuine", "impostor")
    ('exp1', 'genuine')
    """
    same = next((n for n, (a, b) in enumerate(zip(genuine, impostor, strict=False)) if a != b), 0)
    return genuine[:same].rstrip("_-. ") or genuine


# -- columns


@dataclass(eq=False)
class _Columns:
    """Columns of a file. texts: by name the place of each cell, and the texts that there are. line: of each row."""

    path: Path
    score: F64
    texts: dict[str, tuple[I64, list[str]]]
    line: Callable[[int], str]


@dataclass(frozen=True)
class _Layout:
    """names: of the columns, "" of one that is not read. split: a line to cells. header: whether the first line is."""

    names: Sequence[str]
    split: Callable[[str], list[str]]
    header: bool = False


def _of_text(path: Path, kind: Kind | None = None) -> _Columns:
    lines = _lines_of(path)
    first = next(lines, None)
    if first is None:
        raise DataError(f"{path}: expected a score a line, got an empty file")
    layout = _layout(path, first, kind)
    rows = lines if layout.header else chain([first], lines)
    scores: list[F64] = []
    codes: dict[str, list[I64]] = {name: [] for name in layout.names if name not in ("", "score")}
    known: dict[str, dict[str, int]] = {name: {} for name in codes}
    numbers: list[I64] = []
    while chunk := list(islice(rows, ROWS)):
        cells = [layout.split(text) for _, text in chunk]
        for (number, text), row in zip(chunk, cells, strict=True):
            if len(row) != len(layout.names):
                raise DataError(
                    f"{path}, line {number}: expected {len(layout.names)} columns as in the first line, got "
                    f"{len(row)}: {one_line(text, 80)}"
                )
        columns = dict(zip(layout.names, zip(*cells, strict=True), strict=True))
        scores.append(_numbers(columns["score"], chunk, path))
        for name in codes:
            places = known[name]
            codes[name].append(np.array([places.setdefault(text, len(places)) for text in columns[name]]))
        numbers.append(np.array([number for number, _ in chunk]))
    if not scores:
        raise DataError(f"{path}: expected a row a comparison, got a header alone")
    at = np.concatenate(numbers)
    texts = {name: (np.concatenate(parts), list(known[name])) for name, parts in codes.items()}
    return _Columns(path, np.concatenate(scores), texts, lambda row: f"line {at[row]}")


def _lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and lines that hold something. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: expected a file of scores, found none")
    instead = stand_in(path)
    if instead is not None:
        raise DataError(f"{path}: expected scores as text, got {instead}")
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                text = line.strip()
                if text and not text.startswith("#"):
                    yield number, text
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected scores as UTF-8 text or as .parquet, got another kind of file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _layout(path: Path, first: tuple[int, str], kind: Kind | None) -> _Layout:
    """What the columns are, by the first line. Raises DataError."""
    text = first[1]
    blank, cells = str.split, text.split()
    split: Callable[[str], list[str]] = blank
    delimiter = next((mark for mark in ",;\t|" if mark in text), None)
    if delimiter is not None and (not _is_number(cells[-1]) or cells[0].endswith(delimiter)):
        split, cells = _splitter(delimiter), _splitter(delimiter)(text)
    if not _is_number(cells[-1]) and (kind is not None or not any(map(_is_number, cells))):
        places = find_columns(cells, COLUMNS, str(path), COLUMNS.keys() - {"score"})
        names = {at: name for name, at in places.items()}
        return _Layout([names.get(at, "") for at in range(len(cells))], split, header=True)
    if kind is not None:
        return _Layout([*[""] * (len(cells) - 1), "score"], split)
    if len(cells) == 1:
        raise DataError(
            f"{path}: expected a label or names with each score, got one score a line: say which list it is by "
            "--genuine FILE --impostor FILE"
        )
    if len(cells) == 2:
        return _Layout(_label_first(path, split), split)
    if len(cells) not in BY_WIDTH:
        raise DataError(
            f"{path}, line {first[0]}: expected 2 to 5 columns, or a header with a column score, got {len(cells)}: "
            f"{one_line(text, 80)}"
        )
    return _Layout(BY_WIDTH[len(cells)], split)


def _splitter(delimiter: str) -> Callable[[str], list[str]]:
    return lambda text: [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter))]


def _label_first(path: Path, split: Callable[[str], list[str]]) -> tuple[str, str]:
    """Which of two columns is the label: the first line in which one of them cannot be says so."""
    for _, text in _lines_of(path):
        are = [cell in LABELS for cell in split(text)]
        if are[:2] == [True, False]:
            return "label", "score"
        if are[:2] == [False, True]:
            return "score", "label"
    raise DataError(
        f"{path}: expected a label (1, 0 or -1) and a score, got two columns of which either may be the label; name "
        "them in a header: label,score"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(cells: Sequence[str], chunk: Sequence[tuple[int, str]], path: Path) -> F64:
    """Cells as finite numbers or NaN. Raises DataError with the line of the first that is neither."""
    try:
        found = np.array(cells).astype(np.float64)
        if not np.isinf(found).any():
            return found
    except ValueError:
        pass
    for (number, _), cell in zip(chunk, cells, strict=True):
        if not _is_number(cell) or np.isinf(float(cell)):
            raise DataError(
                f"{path}, line {number}: expected a score, a finite number, got '{one_line(cell, 40)}'; write nan for "
                "a comparison that failed"
            )
    raise DataError(f"{path}: expected scores, got cells that are no numbers")


def _of_parquet(path: Path) -> _Columns:
    if not path.is_file():
        raise DataError(f"{path}: expected a file of scores, found none")
    try:
        with open_table(path) as file:
            header = file.schema_arrow.names
            wanted = {**COLUMNS, **{name: (name,) for name in PLACE}}
            found = find_columns(header, wanted, str(path), wanted.keys() - {"score"})
            places = {name: header[at] for name, at in found.items()}
            refuse_large_table(file, path, list(places.values()))
        with open_table(path, read_dictionary=[places[n] for n in places if n != "score"]) as file:
            table = file.read(columns=list(places.values()))
        score = table[places["score"]].cast(pa.float64()).to_numpy(zero_copy_only=False)
        texts = {name: _coded(table[places[name]]) for name in places if name != "score"}
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: expected a table with a column score: {one_line(error)}") from None
    if not len(score):
        raise DataError(f"{path}: expected a row a comparison, found no row")
    wrong = np.flatnonzero(np.isinf(score))
    if len(wrong):
        raise DataError(f"{path}, row {wrong[0]}: expected a score, a finite number, got {score[wrong[0]]}")
    return _Columns(path, score, texts, lambda row: f"row {row}")


def _coded(column: pa.ChunkedArray) -> tuple[I64, list[str]]:
    """A column as places among its texts; a null is an empty text."""
    plain = pc.fill_null(column.cast(pa.string()), "").combine_chunks()
    coded = (plain.combine_chunks() if isinstance(plain, pa.ChunkedArray) else plain).dictionary_encode()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist()


# -- whose they are


def _lists(columns: _Columns) -> list[ScoreList]:
    """The lists of a file, one for each pair of domains that it names."""
    path, texts = columns.path, columns.texts
    sides = {name: _side(columns, f"{name}_subject", of) for name, of in (("probe", "probe"), ("gallery", "template"))}
    probes, gallery = sides["probe"], sides["gallery"]
    mated = None
    if probes is not None and gallery is not None:
        names = {name: n for n, name in enumerate(dict.fromkeys([*probes.subjects, *gallery.subjects]))}
        who = [np.array([names[s] for s in side.subjects])[side.at] for side in (probes, gallery)]
        mated = who[0] == who[1]
    if "label" in texts:
        said = _labels(columns)
        if mated is not None and (said != mated).any():
            row = int(np.flatnonzero(said != mated)[0])
            raise DataError(
                f"{path}, {columns.line(row)}: expected a label as the subjects say, got {int(said[row])}; correct one"
            )
        mated = said
    if mated is None:
        raise DataError(
            f"{path}: expected a label, or probe_subject and gallery_subject, with each score; got "
            f"{', '.join(['score', *texts])}"
        )
    places = [(code, names) for name in PLACE if name in texts for code, names in [texts[name]]]
    if len(places) < len(PLACE):
        return [ScoreList(path.stem, columns.score, mated, probes, gallery)]
    key = np.ravel_multi_index([code for code, _ in places], [len(names) for _, names in places])
    found = []
    for code in np.unique(key):
        rows = np.flatnonzero(key == code)
        place = tuple(names[codes[rows[0]]] for codes, names in places)
        a, b = (None if side is None else _only(side, rows) for side in (probes, gallery))
        found.append(ScoreList(path.stem, columns.score[rows], mated[rows], a, b, (place[0], place[1], place[2])))
    return found


def _side(columns: _Columns, of_subject: str, of_template: str) -> Side | None:
    """The templates of one side; where only subjects are named, a subject is a template. Raises DataError."""
    if of_subject not in columns.texts:
        return None
    codes, subjects = columns.texts[of_subject]
    at, names = columns.texts.get(of_template, (codes, subjects))
    for texts, code in ((subjects, codes), (names, at)):
        if "" in texts:
            row = int(np.flatnonzero(code == texts.index(""))[0])
            raise DataError(f"{columns.path}, {columns.line(row)}: expected names of subject and template, got none")
    whose = np.full(len(names), -1)
    whose[at[::-1]] = codes[::-1]  # of several rows the first stays
    other = np.flatnonzero(whose[at] != codes)
    if len(other):
        row = int(other[0])
        raise DataError(
            f"{columns.path}, {columns.line(row)}: {one_line(names[at[row]], 60)} is of subject "
            f"{one_line(subjects[codes[row]], 40)} here and of {one_line(subjects[whose[at[row]]], 40)} before"
        )
    return Side(at, names, [subjects[code] for code in whose.tolist()])


def _only(side: Side, rows: I64) -> Side:
    """The templates of some comparisons."""
    used, at = np.unique(side.at[rows], return_inverse=True)
    return Side(at.astype(np.int64), [side.names[n] for n in used], [side.subjects[n] for n in used])


def _labels(columns: _Columns) -> B8:
    codes, texts = columns.texts["label"]
    plain = [text.lower().removesuffix(".0") for text in texts]
    known = [{"true": "1", "false": "0"}.get(text, text) for text in plain]
    wrong = next((n for n, text in enumerate(known) if text not in LABELS), None)
    if wrong is not None:
        row = int(np.flatnonzero(codes == wrong)[0])
        raise DataError(
            f"{columns.path}, {columns.line(row)}: expected a label, 1 (genuine) or 0 (impostor), got "
            f"'{one_line(texts[wrong], 40)}'"
        )
    found: B8 = np.array([LABELS[text] for text in known])[codes]
    return found


def _with_mates(columns: _Columns, mates: Path) -> _Columns:
    """Query and template with subjects: those that the file of mates joins are one. Raises DataError."""
    pairs: list[tuple[str, str]] = []
    for number, text in _lines_of(mates):
        cells = text.split()
        if len(cells) != 2:
            raise DataError(f"{mates}, line {number}: expected a query and its template, got {one_line(text, 80)}")
        pairs.append((cells[0], cells[1]))
    subject: dict[str, str] = {}
    for query, template in pairs:
        one = subject.get(f"q {query}") or subject.get(f"t {template}") or template
        joined = {subject.get(f"q {query}", one), subject.get(f"t {template}", one)} - {one}
        subject |= {name: one for name, of in subject.items() if of in joined}
        subject |= {f"q {query}": one, f"t {template}": one}
    more: dict[str, tuple[I64, list[str]]] = {}
    for column, side, mark in (("probe", "probe_subject", "q"), ("template", "gallery_subject", "t")):
        at, names = columns.texts[column]
        whose = [subject.get(f"{mark} {name}", f"{mark} {name}") for name in names]
        texts = list(dict.fromkeys(whose))
        places: dict[str, Any] = {name: n for n, name in enumerate(texts)}
        more[side] = (np.array([places[name] for name in whose])[at], texts)
    return replace(columns, texts=columns.texts | more)
