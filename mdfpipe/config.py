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
from functools import cache
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

from mdfpipe.errors import ConfigError, one_line


class Config(BaseModel):
    """A section of settings: frozen, and strict about what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name, given in value.items():
                field = cls.model_fields.get(name)
                if isinstance(given, bool) and field is not None and field.annotation in (int, float):
                    raise ValueError(f"{name}: expected a number, got {str(given).lower()}")
        return value


C = TypeVar("C", bound=Config)


class Plugin(Config):
    """One way to keep a family's contract; the file's name is the variant's name.

    A family is a direct subclass, defined in the `__init__` of its folder. A variant is a subclass of
    the family in a file of that folder: adding one edits nothing else.
    """

    family: ClassVar[str]  # the package that holds the variants, e.g. "mdfpipe.video.detectors"

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
        return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))

    @classmethod
    def variant(cls, name: str) -> type[Self]:
        """The class that the file `name` of the family's folder defines. Raises ConfigError."""
        if name not in cls.choices():
            raise ValueError(
                f"expected one of {', '.join(cls.choices())}, got {name!r:.80}{_closest(name, cls.choices())}"
            )
        module = importlib.import_module(f"{cls.family}.{name}")
        own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
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
        if "use" not in settings:
            raise ValueError(f"expected `use:` with one of {', '.join(cls.choices())}")
        return cls.variant(str(settings.pop("use"))).model_validate(settings)

    @model_serializer(mode="wrap")
    def _with_name(self, handler: Any) -> dict[str, Any]:
        return {"use": self.use, **handler(self)}


BY_CONTENT: dict[str, Any] = {"by_content": True}
"""`Field(json_schema_extra=BY_CONTENT)`: a file that enters a fingerprint by its content hash, not by its name."""

NOT_A_RESULT: dict[str, Any] = {"not_a_result": True}
"""`Field(json_schema_extra=NOT_A_RESULT)`: decides whether something is done at all, never what comes out of it."""


def result_settings(config: Config) -> dict[str, Any]:
    """The settings that decide results, as JSON-like values: all but the fields marked BY_CONTENT or NOT_A_RESULT."""
    settings: dict[str, Any] = {"use": config.use} if isinstance(config, Plugin) else {}
    plain = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value, marks = getattr(config, name), field.json_schema_extra
        if isinstance(value, Config):
            settings[name] = result_settings(value)
        elif not (isinstance(marks, dict) and (marks.keys() & {"by_content", "not_a_result"})):
            settings[name] = plain[name]
    return settings


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, which plain YAML silently lets win."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *name`: what stands beside it goes before what it brings
            continue
        key = loader.construct_object(key_node)
        if not isinstance(key, (str, int, float)):
            raise yaml.constructor.ConstructorError(None, None, "a key is no plain name", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, over those of the files beside it that it `extends`: one, or a list of which the
    later go over the earlier. above: files that extend this one. Raises ConfigError with file and line.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {one_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid YAML for settings: nested too deep") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected settings as `name: value` lines, got {type(data).__name__}")
    named = data.pop("extends", [])
    names = named if isinstance(named, list) else [named]
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: extends: expected a file, or a list of files, beside this one, got {named!r:.80}")
    found: dict[str, Any] = {}
    for other in (Path(os.path.normpath(path.parent / name)) for name in names):
        if other in (*above, path):
            raise ConfigError(f"{path}: extends: {other} extends itself")
        found = _over(read_yaml(other, (*above, path)), found)
    return _over(data, found)


def _over(own: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Settings over others, section by section; a section with another `use` is another thing, and stands alone."""
    merged = {**others, **own}
    for name in own.keys() & others.keys():
        a, b = own[name], others[name]
        if isinstance(a, dict) and isinstance(b, dict) and a.get("use", b.get("use")) == b.get("use"):
            merged[name] = _over(a, b)
    return merged


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
        value = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"--set {assignment}: the value is not valid YAML: {one_line(error)}") from None
    while len(keys) > 1 and ".".join(keys) not in settings:
        known = (n for n in range(len(keys) - 1, 0, -1) if ".".join(keys[:n]) in settings)
        length = next(known, 1)
        key, keys = ".".join(keys[:length]), keys[length:]
        inner = settings.get(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {assignment}: {key} is a value, not a section")
        settings[key] = settings = dict(inner)
    settings[".".join(keys)] = value


def validate(cls: type[C], settings: dict[str, Any], where: str) -> C:
    """`settings` as a `cls`. Raises ConfigError: one line that names the place and each wrong field."""
    try:
        return cls.model_validate(settings)
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

    An absolute path is taken as it is; a relative one is looked for in `$MDFPIPE_WEIGHTS`, under the
    data root, beside the data root, and in the current folder, in that order. Raises ConfigError that lists the places.
    """
    places = _places(name, data, _weight_folders())
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(f"{what} {name!r} not found; looked at {_listed(places)}. {advice}")


def find_folder(name: str, data: Path, what: str, advice: str) -> Path:
    """A folder named by a setting: as `find_file`, without `$MDFPIPE_WEIGHTS`. Raises ConfigError."""
    places = _places(name, data, ())
    for place in places:
        if place.is_dir():
            return place
    raise ConfigError(f"{what} {name!r} not found; looked at {_listed(places)}. {advice}")


def _places(name: str, data: Path, first: tuple[Path, ...]) -> list[Path]:
    path = Path(name)
    return [path] if path.is_absolute() else [f / path for f in (*first, data, data.parent, Path.cwd())]


def _listed(places: list[Path]) -> str:
    return ", ".join(str(place) for place in dict.fromkeys(places))
