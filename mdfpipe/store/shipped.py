"""What is shipped with the code: studies, protocols, numbers of papers, the list of weights. Found by name."""

from __future__ import annotations

import difflib
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from mdfpipe.errors import ConfigError, one_line

_PACKAGE = Path(__file__).parents[1]
_PACKAGED = _PACKAGE / "shipped"
IS_CHECKOUT = not _PACKAGED.is_dir()
"""Whether this is a checkout, whose files are the user's to edit, and no installed package."""

SHIPPED = _PACKAGE.parent if IS_CHECKOUT else _PACKAGED
"""The folder that holds `pipelines/`, `manifests/` and `benchmarks/`: of the checkout, or of the installed package."""

_WEIGHTS = ("mdfpipe_synth_weights", "yolov10n-synthetic.pt")  # a package of its own, and its file

_SHORTEST = 30  # characters of what is said of a study: a first sentence may be a mere title


def demo_weights() -> Path:
    """Where the weights trained on synthetic data are, or would be: in the checkout, or in their own package."""
    package, file = _WEIGHTS
    place = SHIPPED / "weights" / package / file
    if not place.is_file() and (found := find_spec(package)) and found.origin:
        return Path(found.origin).parent / file
    return place


def study_names() -> list[str]:
    """The names of all shipped studies: paths below `pipelines/` without suffix, such as `sysu/di2l`."""
    folder = SHIPPED / "pipelines"
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def studies() -> dict[str, str]:
    """The first sentence of each shipped study, by its name."""
    return {name: _first_sentence(_place(name).read_text(encoding="utf-8")) for name in study_names()}


def find_study(given: Path) -> Path:
    """The file of a study: `given` itself, or the shipped study of that name.

    A file that is there goes before a name; a folder does not. Raises ConfigError where there is neither.
    """
    try:
        if given.exists() and not given.is_dir():
            return given
    except (OSError, ValueError):  # a name that no file system takes: the reader says why
        return given
    known, name = study_names(), given.as_posix()
    if name in known:
        return _place(name)
    bare = name.removesuffix(".yaml").removesuffix(".yml")
    ends = ["/".join(PurePosixPath(bare).parts[n:]) for n in range(len(PurePosixPath(bare).parts))]
    close = [end for end in ends if end in known] or difflib.get_close_matches(bare, known, n=1)
    got = "a folder" if given.is_dir() else "neither"
    raise ConfigError(
        f"study {one_line(name, 200)}: expected a YAML file, or the name of a study that mdfpipe brings, got {got}; "
        + (f"did you mean {close[0]}? " if close else "")
        + "`mdfpipe studies` lists the names"
    )


def _place(name: str) -> Path:
    return SHIPPED / "pipelines" / f"{name}.yaml"


def _first_sentence(text: str) -> str:
    """The first sentence of the comment at the head of a study, or more of it where that is a mere title.

    >>> _first_sentence("# Table I. One network,\\n# two domains. More.\\nname: a")
    'Table I. One network, two domains.'
    """
    words = list[str]()
    for line in text.splitlines():
        if not line.startswith("# "):
            break
        words += line[2:].split()
        found = " ".join(words)
        end = found.find(". ", _SHORTEST)
        if end > 0:
            return found[: end + 1]
    return " ".join(words)
