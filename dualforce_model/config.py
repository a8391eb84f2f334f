"""Strict configuration: dataclasses filled from YAML and `a.b=c` overrides; an unknown key is an error with near misses."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


class ConfigError(ValueError):
    """A key or value in a configuration is wrong; the message names it and what would be accepted."""


def near_misses(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x' or 'y'?"`, or the list of what exists when nothing is near."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    # a dotted key is often right but for its room: `min_face_px` for `quality.min_face_px`
    close += [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2] and k not in close]
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close[:3]) + "?"
    return "; known: " + ", ".join(sorted(known))


def build(cls: type[T], values: Mapping[str, Any] | None, where: str = "") -> T:
    """Make dataclass `cls` from nested mappings. Raises ConfigError for unknown keys and values of the wrong type."""
    values = spelled_out(cls, values or {}, where or cls.__name__)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or cls.__name__}: expected a mapping of keys, got {values!r}")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    out = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in names:
            raise ConfigError(f"unknown key {path!r}{near_misses(str(key), names)}")
        out[key] = _value(hints[key], value, path)
    try:
        return cls(**out)
    except TypeError as error:
        raise ConfigError(f"{where or cls.__name__}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}" if where else str(error)) from error


def spelled_out(kind: Any, value: Any, path: str) -> Any:
    """The mapping that a section means: itself, or one that its class ships under a name in its folder `SHIPPED`.

    `train: small` is `<SHIPPED>/small.yaml`; `train: {like: small, steps: 5}` is the same with changes.
    """
    folder: Path | None = getattr(_section(kind), "SHIPPED", None)
    if folder is not None and isinstance(value, str):
        value = {"like": value}
    if folder is None or not isinstance(value, Mapping) or "like" not in value:
        return value
    files = {file.stem: file for file in folder.glob("*.yaml")}
    name = value["like"]
    if name not in files:
        raise ConfigError(f"{path}: nothing is shipped under the name {name!r}{near_misses(str(name), files)}")
    base = spelled_out(kind, yaml.safe_load(files[name].read_text(encoding="utf-8")) or {}, path)
    return _laid_over(base, {key: part for key, part in value.items() if key != "like"})


def _laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _laid_over(out[key], value) if both else value
    return out


def _section(kind: Any) -> type | None:
    """The dataclass of a section, also of one that may be null; None for a plain value."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(a for a in typing.get_args(kind) if a is not type(None))
    return kind if dataclasses.is_dataclass(kind) and isinstance(kind, type) else None


def _value(kind: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _value(next(a for a in args if a is not type(None)), value, path)
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{path}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if dataclasses.is_dataclass(kind):
        return build(kind, value, path)  # type: ignore[arg-type]
    if origin in (list, tuple):
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ConfigError(f"{path}: expected a list, got {value!r}")
        if origin is tuple and args[-1] is not Ellipsis:
            value = list(value)
            if len(value) != len(args):
                raise ConfigError(f"{path}: expected {len(args)} values, got {len(value)}")
            return tuple(_value(a, v, path) for a, v in zip(args, value, strict=True))
        return origin(_value(args[0], v, path) for v in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected a mapping, got {value!r}")
        return {_value(args[0], k, path): _value(args[1], v, path) for k, v in value.items()}
    if kind is Any:
        return value
    if kind is bool and isinstance(value, bool):
        return value
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError as error:
            raise ConfigError(f"{path}: expected a number, got {value!r}") from error
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str):
        return value
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    raise ConfigError(f"{path}: expected {getattr(kind, '__name__', kind)}, got {value!r}")


def keys(cls: type, prefix: str = "") -> list[str]:
    """Every dotted key that `cls` accepts."""
    hints, found = typing.get_type_hints(cls), []
    for field in dataclasses.fields(cls):
        section = _section(hints[field.name])
        if section is not None:
            found += keys(section, f"{prefix}{field.name}.")
        else:
            found.append(prefix + field.name)
    return found


def override(values: dict[str, Any], assignments: Iterable[str], cls: type) -> dict[str, Any]:
    """A copy of nested `values` with `a.b=c` assignments applied; c is read as YAML. Unknown keys are errors.

    A whole section may be assigned too: `train=small` (a name that is shipped), `train_video=null`.
    """
    known = keys(cls)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"expected KEY=VALUE, got {assignment!r}")
        if name not in known and not any(name.startswith(k + ".") or k.startswith(name + ".") for k in known):
            raise ConfigError(f"unknown key {name!r}{near_misses(name, known)}")
        *rooms, last = name.split(".")
        values = dict(values)
        here, kind = values, cls
        for room in rooms:
            kind = typing.get_type_hints(_section(kind)).get(room, Any) if _section(kind) else Any
            here[room] = dict(spelled_out(kind, here.get(room) or {}, room))
            here = here[room]
        here[last] = yaml.safe_load(text)
    return values


def load(cls: type[T], path: Path | None, assignments: Iterable[str] = ()) -> T:
    """Read `cls` from a YAML file, a name that it ships, or all defaults (None), with overrides. Raises ConfigError."""
    values: Any = {}
    if path is not None and hasattr(cls, "SHIPPED") and path.parent == Path() and not path.exists():
        values = spelled_out(cls, path.name, str(path))
    elif path is not None:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read config {path}: {error}") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: expected keys and values at the top, got {type(values).__name__}")
    return build(cls, override(values, assignments, cls))


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested data of a config dataclass, ready for JSON or YAML (paths as text, tuples as lists)."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return typing.cast("dict[str, Any]", plain(config))


def quoted(text: str) -> str:
    """`text` as a YAML scalar, for the right side of an `a.b=c` override that must stay text."""
    return yaml.safe_dump(text, width=1 << 20, allow_unicode=True, default_style='"').strip()
