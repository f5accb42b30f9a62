"""The folder of a synthetic data set: whose it is, who works in it, and what of it is there.

A video counts as drawn where it and the two tables of its rows are whole. The rows know how many bytes their video
has. Everything is written under a temporary name, synced and renamed; the rows come first, the video last.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import pyarrow as pa

from mdfpipe.errors import ConfigError, MdfError, StoreError, one_line
from mdfpipe.store.files import refuse_folder, write_atomically
from mdfpipe.store.lock import Lease, Lock, is_of_lock
from mdfpipe.store.naming import file_name, inside
from mdfpipe.store.owner import TEMPORARY, temporary
from mdfpipe.store.parquet import read_metadata, write_table

DESCRIPTION = "synth.json"
NOTE = "rendered people, not real ones: nothing measured here says how well real people are recognised"
VIDEO_BYTES = b"video_bytes"  # in the footer of a table of rows: the size of their video

Share: TypeAlias = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]], Callable[[int], None]], Iterator[Any]]
"""share(function, units, tell): the results of `function(*unit, tell)`, as they come, in any processes."""


def here(function: Callable[..., Any], units: Iterable[tuple[Any, ...]], tell: Callable[[int], None]) -> Iterator[Any]:
    """A Share that does all units in this process."""
    return (function(*unit, tell) for unit in units)


def counting(total: int, progress: Callable[[int, int], None], check: Callable[[], object]) -> Callable[[int], None]:
    """tell(count): add up, check that the folder is still held, report (done, total); 0 is reported at once."""
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        check()
        progress(done, total)

    tell(0)
    return tell


@contextlib.contextmanager
def drawing(what: str) -> Iterator[None]:
    """Within, OpenCV has one thread, and an error that is not expected becomes an MdfError of one line about `what`."""
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    except (OSError, MdfError):
        raise
    except MemoryError:
        raise MdfError(f"{what}: out of memory; try fewer --workers") from None
    except Exception as error:
        problem = f"unexpected error: {type(error).__name__}: {one_line(error)}"
        raise MdfError(f"{what}: cannot be drawn: {problem}") from error
    finally:
        cv2.setNumThreads(threads)


@contextlib.contextmanager
def claimed(out: Path, what: dict[str, Any], folders: Iterable[str]) -> Iterator[Lease]:
    """Hold `out` as the data set that `what` describes; a dead owner holds nothing. Clears what a killed one left.

    folders: under `out`, those that are written to. Raises ConfigError where `out` holds other files or another data
    set, DataError where one of `folders` is a symlink that leads out, StoreError where another process works in it or
    it cannot be written. Gives the lease, to be checked now and then.
    """
    places, lock = [out, *(out / name for name in folders)], Lock(out, "name another folder")
    with writing(out):
        _check(out, what)  # before anything is written into a folder that may not be ours
        out.mkdir(parents=True, exist_ok=True)
        lease = lock.take()
    try:
        for name in folders:
            inside(out, name, str(out))
        try:
            with writing(out):
                lock.clear(_unfinished(places))
                if _check(out, what) is None:
                    write_atomically(out / DESCRIPTION, described(what, complete=False))
            yield lease
        finally:
            with contextlib.suppress(OSError):
                lock.clear(_unfinished(places))
    finally:
        lock.release()


def described(what: dict[str, Any], complete: bool) -> bytes:
    """The contents of DESCRIPTION."""
    return json.dumps({**what, "note": NOTE, "complete": complete}, indent=1).encode()


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """An OSError within becomes a StoreError of one line."""
    try:
        yield
    except OSError as error:
        advice = "once that is mended, give the same command again: what is drawn is kept"
        why = error.strerror or one_line(error)
        raise StoreError(f"{out}: cannot be written: {why}; {advice}") from error


def _check(out: Path, what: dict[str, Any]) -> dict[str, Any] | None:
    """What `out` is described as; None where it is empty or not there. Raises ConfigError where it is not `what`."""
    place = out / DESCRIPTION
    refuse_folder(out)
    if not place.exists():
        if out.exists() and any(not is_of_lock(p.name) and not p.name.startswith(TEMPORARY) for p in out.iterdir()):
            raise ConfigError(f"{out}: holds files that are no synthetic data set; name a new folder")
        return None
    found = _description(place)
    if found is None:
        raise ConfigError(f"{place}: expected the description of a synthetic data set; name a new folder")
    other = [
        f"{name} {found.get(name)!r:.40}, not {value!r}" for name, value in what.items() if found.get(name) != value
    ]
    if other:
        raise ConfigError(f"{out}: holds a data set with {'; '.join(other)}; name a new folder")
    return found


def _unfinished(places: Iterable[Path]) -> Iterator[Path]:
    """Temporary files of these folders (not of folders below: those may be another's at work)."""
    for place in places:
        yield from place.glob(f"{TEMPORARY}*")


# --- one video -----------------------------------------------------------------------------------------------------


def parts(out: Path, name: str) -> tuple[Path, Path]:
    """Paths of the body rows and the face lines of the video `name`; a killed call continues from them."""
    stem = out / "truth" / "parts" / file_name(name)
    return stem.with_name(f"{stem.name}.bodies.parquet"), stem.with_name(f"{stem.name}.faces.parquet")


def drawn(out: Path, name: str, video: str) -> bool:
    """Whether the video `name` is there, in the file `video`, and its rows are."""
    try:
        size = (out / video).stat().st_size
        known = [read_metadata(part)[0].get(VIDEO_BYTES, size) for part in parts(out, name)]
    except MemoryError:  # Arrow's is one of its errors, too
        raise
    except (OSError, ValueError, pa.ArrowException):
        return False
    return size > 0 and all(int(expected) == size for expected in known)


def rendered(root: Path, video: str) -> bool:
    """Whether the file `video` below `root` is one that `mdfpipe synth` drew: in its data set, and of the size drawn.

    A data set may be `root` or a folder on the way to the video. One without its truth is believed.
    """
    path = PurePosixPath(video)
    for above in path.parents:
        out, inner = root / above, path.relative_to(above)
        found = _description(out / DESCRIPTION)
        if found and found.get("note") == NOTE:
            untold = not (out / "truth" / "parts").is_dir()
            if untold or drawn(out, str(inner.with_suffix("")), str(inner)):
                return True
    return False


def _description(place: Path) -> dict[str, Any] | None:
    try:
        found: Any = json.loads(place.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


@contextlib.contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A temporary path next to `place`: synced and renamed to it after success, else removed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = temporary(place)
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(place)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def keep_rows(out: Path, name: str, bodies: pa.Table, faces: pa.Table, video_bytes: int) -> None:
    """Write the rows of the video `name`, whose file has `video_bytes`. Raises OSError."""
    for place, table in zip(parts(out, name), (bodies, faces), strict=True):
        with beside(place) as unfinished:
            write_table(unfinished, table.replace_schema_metadata(None), {VIDEO_BYTES: str(video_bytes).encode()})
