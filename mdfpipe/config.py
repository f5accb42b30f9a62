"""Strict settings: every section is a `Config`, every variant a `Plugin` picked by its file name.

A section of a YAML study is a frozen pydantic model that refuses what it does not know. A field whose
type is a *family* (`Detector`, `Decoder`, `Dataset`, ...) takes `{use: onnx, ...}`: `use` is the name of
a file in the family's folder, and the rest are the fields of the one class that the file defines.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from mdfpipe.errors import ConfigError, is_obeyed, one_line
from mdfpipe.store.content import stand_in


class Config(BaseModel):
    """A section of settings: frozen, and strict about what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _suits_its_kind(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name, given in value.items():
                shown(given, str(name))
                field = cls.model_fields.get(name)
                if isinstance(given, bool) and field is not None and _is_number(field.annotation):
                    raise ValueError(f"{name}: expected a number, got {str(given).lower()}")
        return value

    @model_validator(mode="after")
    def _holds_usual_numbers(self) -> Self:
        for name in type(self).model_fields:
            for where, value in _leaves(getattr(self, name), name):
                _usual(value, where)
        return self


def _is_number(annotation: Any) -> bool:
    """Whether a setting of that type is a number, or a number or nothing."""
    return annotation in (int, float, int | None, float | None)


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The values in lists and mappings, names of mappings among them, each with its place."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield where, name
            yield from _leaves(inner, f"{where}.{name}")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner, where)
    else:
        yield where, value


LARGEST_WHOLE, LARGEST_REAL = (1 << 31) - 1, 1e30
"""Magnitudes of a number in settings: what the libraries that it is handed to hold in 32 bits."""


def _usual(value: Any, where: str) -> None:
    """Raise ValueError for a number that is too large."""
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        raise ValueError(f"{where}: expected a whole number of at most {LARGEST_WHOLE}, got one of {_digits(value)}")
    if isinstance(value, float) and abs(value) > LARGEST_REAL:
        raise ValueError(f"{where}: expected a number of at most {LARGEST_REAL:g}, got {value:g}")


def _digits(value: int) -> str:
    return f"about {int(value.bit_length() * 0.30103) + 1} digits"  # of a very long one, Python writes none


NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$"
"""What a study, a system, a table, a fusion or a sweep may be called: the name of a file can be made of it."""


def shown(value: Any, where: str) -> None:
    """Raise ValueError where a text, or one in a list or a mapping, holds what a terminal or a page would obey."""
    for place, text in _leaves(value, where):
        if isinstance(text, str) and is_obeyed(text):
            raise ValueError(f"{place}: expected printable text, got '{one_line(text, 80)}'")


C = TypeVar("C", bound=Config)


class Plugin(Config):
    """One way to keep a family's contract; the file's name is the variant's name.

    A family is a direct subclass, defined in the `__init__` of its folder. A variant is a subclass of
    the family in a file of that folder: adding one edits nothing else.
    """

    family: ClassVar[str]  # the package that holds the variants, e.g. "mdfpipe.video.detectors"
    usual: ClassVar[str] = ""  # the variant that settings without `use` are of; without one `use` is required

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Plugin in cls.__bases__:
            cls.family = cls.__module__

    @property
    def use(self) -> str:
        """The name of the variant: the name of the file that defines it."""
        return type(self).__module__.rpartition(".")[2]

    @classmethod
    def choices(cls) -> list[str]:
        """The names of the family's variants, sorted: the files of its folder."""
        package = importlib.import_module(cls.family)
        found = pkgutil.iter_modules(package.__path__)
        return sorted(m.name for m in found if not (m.ispkg or m.name.startswith("_")))

    @classmethod
    def variant(cls, name: str) -> type[Self]:
        """The class that the file `name` of the family's folder defines. Raises ValueError."""
        known = cls.choices()
        if name not in known:
            raise ValueError(f"expected one of {', '.join(known)}, got {name!r:.80}{_closest(name, known)}")
        module = importlib.import_module(f"{cls.family}.{name}")
        own = (v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__)
        found = [v for v in own if issubclass(v, cls)]
        if len(found) != 1:
            raise TypeError(f"{module.__name__}: expected exactly one {cls.__name__}, found {len(found)}")
        return found[0]

    @model_validator(mode="wrap")
    @classmethod
    def _pick(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, dict) or Plugin not in cls.__bases__:
            return handler(value)
        settings = dict(value)
        use = settings.pop("use", cls.usual)
        if use == "":
            raise ValueError(f"expected `use:` with one of {', '.join(cls.choices())}")
        return cls.variant(str(use)).model_validate(settings)

    @model_serializer(mode="wrap")
    def _with_name(self, handler: Any) -> dict[str, Any]:
        return {"use": self.use, **handler(self)}


BY_CONTENT: dict[str, Any] = {"by_content": True}
"""`Field(json_schema_extra=BY_CONTENT)`: a file that enters a fingerprint by its content hash, not by its name."""

NOT_A_RESULT: dict[str, Any] = {"not_a_result": True}
"""`Field(json_schema_extra=NOT_A_RESULT)`: decides whether something is done at all, never what comes out of it."""

IF_SET: dict[str, Any] = {"if_set": True}
"""`Field(None, json_schema_extra=IF_SET)`: decides results where it is given; without it a run from before the setting
was there is as it was."""


def result_settings(config: Config) -> dict[str, Any]:
    """The settings that decide results, as JSON-like values: without fields marked BY_CONTENT or NOT_A_RESULT, and
    without those marked IF_SET that are not given.
    """
    settings: dict[str, Any] = {"use": config.use} if isinstance(config, Plugin) else {}
    plain = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value, marks = getattr(config, name), field.json_schema_extra
        if value is None and isinstance(marks, dict) and marks.get("if_set"):
            continue
        if isinstance(value, Config):
            settings[name] = result_settings(value)
        elif not (isinstance(marks, dict) and (marks.keys() & {"by_content", "not_a_result"})):
            settings[name] = plain[name]
    return settings


LARGEST_YAML = 4 << 20
"""Bytes of a file of settings; 4 MB hold some 100,000 lines."""

_MOST_VALUES = 200_000  # of a file of settings, once its aliases are followed: each alias may stand for many
_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML 1.2 of text, numbers, lists and mappings; no key may appear twice.

    PyYAML reads YAML 1.1, where `no` is false, 010 is 8, 1:30 is 90 and 1e-5 is text. Here a word is what the core
    schema of YAML 1.2 says, and a date is text.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - as PyYAML has it


class _Writer(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or YAML 1.2 would read as something else."""


for _tag, _pattern, _first in (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
    ("merge", "<<", ["<"]),
):
    for _kind in (_StrictLoader, _Writer):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _whole_number(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *name`: what stands beside it goes before what it brings
            continue
        key = loader.construct_object(key_node)
        if not isinstance(key, (str, int, float)):
            raise yaml.constructor.ConstructorError(None, None, "a key is no plain name", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


def _no_such_tag(loader: _StrictLoader, node: yaml.Node) -> Any:
    name = node.tag.removeprefix("tag:yaml.org,2002:")
    raise yaml.constructor.ConstructorError(
        None, None, f"expected text, a number, a list or a mapping, got the tag !{name}", node.start_mark
    )


_StrictLoader.yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _TAGS}
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_StrictLoader.add_constructor(None, _no_such_tag)


def parse_yaml(text: str) -> Any:
    """The value in a YAML text. Raises ValueError that says what is wrong, and where."""
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > _MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {_MOST_VALUES} values")
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except yaml.YAMLError as error:
        raise ValueError(one_line(error)) from None
    except (KeyError, TypeError, OverflowError) as error:  # `!!bool maybe`
        raise ValueError(f"a value does not suit its tag: {one_line(error, 80)}") from None


def yaml_text(value: Any, **how: Any) -> str:
    """Write a value as YAML, from which `parse_yaml` reads the same value. how: options of `yaml.dump`."""
    return str(yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True, **how))


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of values in a node, aliases followed."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError("an alias is inside the node that it names")
        return known[id(node)]
    known[id(node)] = 0
    inner = [n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else node.value
    known[id(node)] = 1 + sum(_values(n, known) for n in inner)
    return known[id(node)]


def read_yaml(path: Path, above: tuple[Path, ...] = (), read: dict[Path, Any] | None = None) -> dict[str, Any]:
    """The mapping in a YAML file, merged over the files next to it that it `extends` (later ones over earlier ones).

    above: files that extend this one; read: what was read so far. Raises ConfigError with file and line.
    """
    read = {} if read is None else read
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_YAML + 1)
        if len(content) > LARGEST_YAML:
            raise ConfigError(f"{path}: expected a file of settings, at most {LARGEST_YAML >> 20} MB, got a larger one")
        data = parse_yaml(content.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # a name with NUL in it, too
        raise ConfigError(f"{one_line(path)}: not valid YAML for settings: {one_line(error)}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected settings as `name: value` lines, got {type(data).__name__}")
    named = data.pop("extends", [])
    names = named if isinstance(named, list) else [named]
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: extends: expected a file, or a list of files, next to this one, got {named!r:.80}")
    found: dict[str, Any] = {}
    for other in (Path(os.path.normpath(path.parent / name)) for name in names):
        if other in (*above, path):
            raise ConfigError(f"{path}: extends: {other} extends itself")
        if other not in read:
            read[other] = read_yaml(other, (*above, path), read)
        found = _over(read[other], found)
    return _over(data, found)


def _over(own: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Settings over others, section by section; a section with another `use` replaces the other."""
    merged = {**others, **own}
    for name in own.keys() & others.keys():
        a, b = own[name], others[name]
        if isinstance(a, dict) and isinstance(b, dict) and a.get("use", b.get("use")) == b.get("use"):
            merged[name] = _over(a, b)
    return merged


def texts_of(name: str, values: object, example: str) -> list[str]:
    """A list of texts that a caller gives; None is an empty one. Raises ConfigError for one text, or for other things.

    >>> texts_of("only", ("a", "b"), "videos/a")
    ['a', 'b']
    """
    found = [] if values is None else values
    given: list[Any] = [None]
    if isinstance(found, Iterable) and not isinstance(found, str | bytes | Mapping):
        given = list(found)
    if not all(isinstance(one, str) for one in given):
        raise ConfigError(f"{name}: expected a list of texts, such as [{example!r}], got {one_line(repr(values), 80)}")
    return given


def count_of(name: str, value: object, least: int) -> int:
    """The whole number that a caller gives, one of numpy's too. Raises ConfigError for anything else, or below `least`.

    >>> count_of("--every", 2, least=1)
    2
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ConfigError(f"{name}: expected a whole number of {least} or more, got {one_line(repr(value), 40)}")
    return int(value)


def set_dotted(settings: dict[str, Any], assignment: str) -> None:
    """Apply `a.b.c=value` to nested settings, in place; the value is read as YAML.

    A section that YAML merges or aliases bring to several places is changed at this one. A name that is there may hold
    dots itself.

    >>> s = {"detect": {"stride": 1}, "systems": {"lora-0.5": {"seed": 0}}}
    >>> set_dotted(s, "detect.stride=2"); set_dotted(s, "systems.lora-0.5.seed=3"); s
    {'detect': {'stride': 2}, 'systems': {'lora-0.5': {'seed': 3}}}
    >>> set_dotted(s, "systems.lora-0.5={}"); s["systems"]
    {'lora-0.5': {}}
    """
    dotted, equals, text = assignment.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {assignment}: expected NAME=VALUE with a dotted name, such as detect.stride=2")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"--set {assignment}: the value is not valid YAML: {one_line(error)}") from None
    try:
        put(settings, keys, value)
    except ValueError as error:
        raise ConfigError(f"--set {assignment}: {error}") from None


def put(settings: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set a value in nested settings, in place; as `set_dotted`. Raises ValueError where a key is no section."""
    while len(keys) > 1 and ".".join(keys) not in settings:
        length = next((n for n in range(len(keys) - 1, 0, -1) if ".".join(keys[:n]) in settings), 1)
        key, keys = ".".join(keys[:length]), keys[length:]
        inner = settings.get(key)
        if not isinstance(inner, dict | None):
            raise ValueError(f"{key} is a value, not a section")
        settings[key] = settings = dict(inner or {})
    settings[".".join(keys)] = value


def validate(cls: type[C], settings: dict[str, Any], where: str) -> C:
    """`settings` as a `cls`. Raises ConfigError: one line that names the place and each wrong field."""
    try:
        return cls.model_validate(settings)
    except RecursionError:
        raise ConfigError(f"{where}: nested too deep") from None
    except ValidationError as error:
        problems = [_problem(cls, settings, detail) for detail in error.errors(include_url=False)]
        raise ConfigError(f"{where}: " + "; ".join(dict.fromkeys(problems))) from None


def _problem(cls: type[Config], settings: Any, detail: ErrorDetails) -> str:
    where = ".".join(str(part) for part in detail["loc"]) or "settings"
    if detail["type"] == "extra_forbidden":
        known = _fields_at(cls, settings, detail["loc"][:-1])
        return f"{where}: unknown setting{_closest(str(detail['loc'][-1]), known)}"
    message = detail["msg"].removeprefix("Value error, ")
    if message[1:2].islower():
        message = message[:1].lower() + message[1:]
    if detail["type"] in ("missing", "value_error", "assertion_error"):
        return f"{where}: {message}"
    return f"{where}: {message}, got {one_line(repr(detail['input']), 80)}"


def _fields_at(cls: type[Config], settings: Any, location: tuple[int | str, ...]) -> list[str]:
    """The names that a section of `settings` may have, of the variant that it names; none where that is not known."""
    kind: Any = cls
    for part in location:
        settings = settings.get(part) if isinstance(settings, dict) else None
        if get_origin(kind) is dict:
            kind = _section(get_args(kind)[1])
        else:
            field = kind.model_fields.get(str(part))
            kind = _section(field.annotation) if field else None
        if isinstance(kind, type) and issubclass(kind, Plugin) and isinstance(settings, dict):
            kind = kind.variant(settings["use"]) if settings.get("use") in kind.choices() else kind
        if kind is None:
            return []
    return list(getattr(kind, "model_fields", []))


def _section(annotation: Any) -> Any:
    """The section, or the mapping of sections, that a type allows; none where there is none."""
    if get_origin(annotation) is dict or (isinstance(annotation, type) and issubclass(annotation, Config)):
        return annotation
    return next((found for found in map(_section, get_args(annotation)) if found is not None), None)


def _closest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (known: {', '.join(known)})" if known else ""


@cache
def _weight_folders() -> tuple[Path, ...]:
    extra = os.environ.get("MDFPIPE_WEIGHTS")
    return (Path(extra),) if extra else ()


def download_folder(data: Path) -> Path:
    """Where weights that are fetched on request are put: `$MDFPIPE_WEIGHTS`, else `weights` in the data root."""
    return next(iter(_weight_folders()), data / "weights")


def find_file(
    name: str, data: Path, what: str, advice: str = "Put it there or set MDFPIPE_WEIGHTS to its folder"
) -> Path:
    """A file named by a setting, looked up without machine paths in the study.

    An absolute path is taken as it is; a relative one is looked for in `$MDFPIPE_WEIGHTS` (under the whole path, then
    under the name alone, as that variable may be the file's own folder), under the data root, next to the data root,
    and in the current folder, in that order. Raises ConfigError that lists the places, or says what is in one of
    them.
    """
    own = [folder / each for folder in _weight_folders() for each in (Path(name), Path(name).name)]
    places = [Path(name)] if Path(name).is_absolute() else [*own, *_places(name, data)]
    for place in places:
        if place.is_file():
            return place
    for place in places:
        if instead := stand_in(place):
            raise ConfigError(f"{what} {name!r}: {place} is {instead}")
    folder = next((f" ({place} is a folder)" for place in places if place.is_dir()), "")
    raise ConfigError(f"{what} {name!r} not found; looked at {_listed(places)}{folder}. {advice}")


def find_folder(name: str, data: Path, what: str, advice: str) -> Path:
    """A folder named by a setting: as `find_file`, without `$MDFPIPE_WEIGHTS`. Raises ConfigError."""
    places = _places(name, data)
    found = next((place for place in places if place.is_dir()), None)
    if found is not None:
        return found
    raise ConfigError(f"{what} {name!r} not found; looked at {_listed(places)}. {advice}")


def _places(name: str, data: Path) -> list[Path]:
    return [folder / name for folder in (data, data.parent, Path.cwd())]  # an absolute name stays as it is


def _listed(places: list[Path]) -> str:
    return ", ".join(str(place) for place in dict.fromkeys(places))
