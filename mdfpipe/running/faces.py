"""`mdfpipe faces`: find the faces of videos, link them to tracks, and write them as a face table.

Stages do the work, in a run folder next to the table: index, detect (with `use: yunet`) and track. So a call that was
killed resumes, workers share videos by their spans, and a video that fails does not stop the others.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mdfpipe.config import find_file, texts_of, validate
from mdfpipe.datasets.reading import found_faces
from mdfpipe.errors import ConfigError, DataError, counted, some
from mdfpipe.running.execution import Event
from mdfpipe.running.runner import Outcome, Runner
from mdfpipe.stages import Resources
from mdfpipe.store.files import given_path
from mdfpipe.store.run import Run
from mdfpipe.store.tables import BODIES
from mdfpipe.study.study import KEPT, Study

TABLE = "faces.csv"
_LAST = "track"


@dataclass
class FoundFaces:
    """What was found. table: the file written, None of a dry run. videos, faces, ids: counts; nameless: faces of no
    track, which have no id. without: videos without a face. failed: why a video has none, by video_id. due: of a dry
    run, a line for each unit of work. warnings: of the stages.
    """

    table: Path | None
    run: Path
    videos: int = 0
    faces: int = 0
    ids: int = 0
    nameless: int = 0
    without: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    source: str = found_faces.DETECTED
    due: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every video was searched."""
        return not self.failed

    @property
    def lines(self) -> list[str]:
        """The same for a person."""
        if self.table is None:
            return self.due or ["nothing is due"]
        nameless = f", {counted(self.nameless, 'face')} of no track without an id" if self.nameless else ""
        said = [
            f"wrote {self.table}: {counted(self.faces, 'face')} in {counted(self.videos, 'video')}, "
            f"{counted(self.ids, 'id')}{nameless}; source: {self.source}"
        ]
        if self.without:
            said.append(f"no face found in {counted(len(self.without), 'video')}: {some(self.without, 5)}")
        said += [f"warning {line}" for line in self.warnings]
        said += [f"failed: {key}: {why}" for key, why in self.failed.items()]
        if self.ids > 1:
            place = shlex.quote(str(self.table))
            more = ", so one person in two videos is two subjects" if self.videos - len(self.without) > 1 else ""
            said.append(
                f"one id a track and video{more}; if ids A and B are one person, "
                f"`mdfpipe faces --merge A=B {place}` makes id B id A"
            )
            said.append(f"`mdfpipe inspect {place} --html ids.html --show-people` shows which ids may be wrong")
        return said


def find_faces(
    data: str | PathLike[str],
    *,
    weights: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    videos: Sequence[str] = (),
    min_score: float = 0.6,
    stride: int = 1,
    force: bool = False,
    dry_run: bool = False,
    resources: Resources = Resources(),  # noqa: B008 - frozen
    listen: Callable[[Event], None] = lambda event: None,
) -> FoundFaces:
    """Write the faces of all videos below `data` into the face table `out`, `data`/faces.csv where none is named.

    weights: YuNet's. videos: paths or patterns under `data`; without them, all that are there. stride: look at each
    n-th frame. force: overwrite a table whose ids were merged since. dry_run: say what is to be done, and write
    nothing. Raises MdfError where nothing can be done, or where the table is one that it did not write.
    """
    root = given_path("data", data)
    if not root.is_dir():
        raise DataError(
            f"{root}: expected the folder that holds the videos, got {'a file' if root.exists() else 'nothing there'}"
        )
    table = given_path("out", out) if out is not None else root / TABLE
    found_faces.refuse_annotated(table, force=force)
    file = find_file(str(given_path("weights", weights)), root, "weights").absolute()
    run = Run(table.with_suffix(".run"))
    if run.path == table:
        raise ConfigError(f"--out {table}: expected a name for the face table, got that of its work; name a .csv")
    videos = texts_of("videos", videos, "videos/*.mp4")
    study = _study(root, file, videos, min_score, stride, run.path)
    if not study.dataset.present(root):
        asked = f"videos that match {', '.join(videos)}" if videos else "videos"
        raise DataError(f"{root}: expected {asked}, found none; name the folder that holds them, or --videos PATTERN")
    runner = Runner(study, run, root, resources)
    if dry_run:
        return FoundFaces(None, run.path, due=runner.due(None, _LAST))
    return _written(table, run, runner.execute(None, _LAST, listen=listen))


def merge_faces(
    table: str | PathLike[str],
    merges: Sequence[str] = (),
    *,
    splits: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Mapping[str, int]:
    """Make ids of a face table of `find_faces` one: "3=17" gives the faces of id 17 the id 3, "anna=17" that name.

    splits: "17@57" gives the faces of the track 17, as it was found, the id "17@57" from frame 57 on, up to the next
    face that has another id already; "17" gives its faces the id 17 again, without its cuts and merges; merges come
    after that. say: gets a line on each change that was made before. Returns the number of faces of each id that is
    new or changed. All changes are made, or none. `find_faces(..., force=True)` undoes them.
    """
    path, asked, cuts = given_path("table", table), dict[str, str](), dict[str, list[int]]()
    merges, splits = texts_of("merges", merges, "3=17"), texts_of("splits", splits, "17@57")
    undone = dict.fromkeys(name for text in splits if (name := str(text).strip()) and "@" not in name)
    for text in splits:
        name, at, frame = (part.strip() for part in str(text).rpartition("@"))
        if not at and frame in undone:
            continue
        if not name or not frame.isdecimal() or len(frame) > 18:
            raise ConfigError(
                f"--split {text!r:.60}: expected an id and a frame, as in 17@57: from frame 57 on; or an id alone, 17, "
                "which undoes the cuts and merges of its track"
            )
        cuts.setdefault(name, []).append(int(frame))
    for text in merges:
        name, equals, old = (part.strip() for part in str(text).partition("="))
        if not (name and equals and old) or name == old:
            raise ConfigError(f"--merge {text!r:.60}: expected two ids, as in 3=17: id 17 becomes 3")
        if asked.setdefault(old, name) != name:
            raise ConfigError(f"--merge: id {old} cannot become {asked[old]} and {name}; give one of them")
    for old, name in asked.items():  # 3=17 with 17=20: 20 becomes 3, too
        seen = {old}
        while name in asked:
            if name in seen:
                raise ConfigError(f"--merge: {some(sorted(seen), 5)} become one another in a circle; leave one out")
            seen.add(name)
            name = asked[name]
        asked[old] = name
    counts, made = found_faces.change(path / TABLE if path.is_dir() else path, asked, cuts, undone)
    for line in made:
        say(line)
    return counts


def given_weights(weights: Path | None) -> Path:
    """The weights of a call. Raises ConfigError where it names none."""
    if weights is None:
        raise ConfigError(
            "mdfpipe faces: expected --weights FILE (YuNet's, face_detection_yunet_*.onnx of OpenCV's model zoo), or "
            "--merge 3=17 or --split 17@57 to change ids of a face table"
        )
    return weights


def refuse_both(others: Sequence[str]) -> None:
    """Raise ConfigError where a call that changes ids has options of one that finds faces."""
    if others:
        raise ConfigError(f"--merge and --split change a face table that is there; leave {some(others, 9)} out")


def _study(root: Path, weights: Path, videos: Sequence[str], min_score: float, stride: int, own: Path) -> Study:
    """The study whose stages find the faces, in the run folder `own`. The domain of its videos is never used."""
    everywhere = ["videos/**/*"] if (root / "videos").is_dir() else ["**/*"]
    there = {path.parent for path in root.rglob(KEPT)} - {root, own} if not videos else set()
    runs = sorted(path.relative_to(root).as_posix() for path in there)
    settings: dict[str, Any] = {
        "name": "faces",
        "dataset": {
            "use": "ijb",
            "faces": [],
            "videos": list(videos) or everywhere,
            "domain": {"constant": "VIS"},
            "leave_out": {"paths": runs},
        },
        "detect": {
            "detector": {"use": "yunet", "weights": str(weights), "min_score": min_score},
            "stride": stride,
        },
        "track": {"use": "bytetrack", "high_score": min_score, "new_score": min_score},
    }
    return validate(Study, settings, "faces")


def _written(table: Path, run: Run, outcome: Outcome) -> FoundFaces:
    """Write the table of a run whose stages are done."""
    catalogue = {row["video_id"]: row["path"] for row in run.table("index", "videos").to_pylist()}
    failed = {f.key: f.message for f in outcome.failures if f.key in catalogue}
    others = [f"{f.stage}/{f.key}: {f.message}" for f in outcome.failures if f.key not in catalogue]
    if others or (failed and len(failed) == len(catalogue)):
        raise DataError(f"no face table is written: {(others or [f'{k}: {why}' for k, why in failed.items()])[0]}")
    found = FoundFaces(table, run.path, len(catalogue) - len(failed), failed=failed)
    found.warnings = [line for line in outcome.warnings if "dataset.leave_out" not in line]  # no rule of the caller

    def rows() -> Iterator[Sequence[str]]:
        for key, path in sorted(catalogue.items()):
            if key not in failed:
                yield from _of_video(key, path, run, found)

    found_faces.write(table, rows())
    return found


def _of_video(key: str, path: str, run: Run, found: FoundFaces) -> Iterator[Sequence[str]]:
    """The rows of one video, which are counted. Ids continue those of the videos before it."""
    faces: pa.Table = run.table("detect", key, [*BODIES.names])
    track = run.table("track", key)["track"]
    first = found.ids + 1
    ids = ["" if number is None else str(first + number) for number in track.to_pylist()]
    found.faces += len(ids)
    found.nameless += ids.count("")
    found.ids += (pc.max(track).as_py() + 1) if pc.max(track).as_py() is not None else 0
    found.without += [key] * (not ids)
    return found_faces.lines_of(path, faces, ids)
