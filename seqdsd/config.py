"""Settings: frozen dataclass <-> TOML. Order of precedence: the dataclass's defaults < file < command line.

Values only; which class a choice stands for is decided in code: of a union of dataclasses, ``kind``, a ``Literal`` in
each, picks one. Checking a value is the dataclass's ``__post_init__``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tomli_w

Config = TypeVar("Config")

PROVENANCE = "provenance"
"""The table of a run's ``config.toml`` that says how it came about; it is no setting."""
MAX_DEPTH = 32
"""Tables and arrays within each other; no settings have more than three."""


LARGEST = 2**1023
"""Of whole numbers that pass for others; beyond it there are none."""

_TOML_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "Path": "a path",
}


class ConfigError(ValueError):
    """A settings file that cannot be used; the message names file, key and remedy."""


def read_config(path: Path, base: Config) -> Config:
    """``base`` with the values that the TOML file sets.

    Raises:
        ConfigError: If the file cannot be read or parsed, or a key or a value is not one of ``base``'s class.
    """
    values = read_values(path)
    values.pop(PROVENANCE, None)
    return with_values(base, values, f"{path}: ")


def with_values(base: Config, values: Mapping[str, Any], where: str) -> Config:
    """``base`` with nested values, as ``to_values`` makes them.

    Args:
        base: Settings for what is not among the values.
        values: As they were read.
        where: What messages begin with.

    Raises:
        ConfigError: If a key or a value is not one of ``base``'s class.
    """
    return _merge(base, values, where)


def read_provenance(path: Path) -> Any:
    """How the run came about whose ``config.toml`` this is, unchecked; empty where the file does not say.

    Raises:
        ConfigError: If the file cannot be read or parsed.
    """
    return read_values(path).get(PROVENANCE, {})


def read_values(path: Path) -> dict[str, Any]:
    """What a TOML file holds, unchecked.

    Raises:
        ConfigError: If the file cannot be read or parsed.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: an integer of 5,000 digits, too
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from error
    if _is_deeper(values, MAX_DEPTH):
        raise ConfigError(f"{path}: more than {MAX_DEPTH} tables or arrays within each other")
    return values


def kinds(config_class: type[Any]) -> dict[str, dict[str, type[Any]]]:
    """The settings that are one of several dataclasses, each with the class of every ``kind``."""
    hints = get_type_hints(config_class)
    return {field.name: found for field in fields(config_class) if (found := _kinds(hints[field.name]))}


def of_kind(current: Any, kind: Any, classes: Mapping[str, type[Any]], where: str) -> Any:
    """``current`` where its class has this kind, too; otherwise that kind's own defaults.

    Args:
        current: One of ``classes``.
        kind: As asked for.
        classes: By kind (see ``kinds``).
        where: The setting, as the message is to name it.

    Raises:
        ConfigError: If there is no such kind.
    """
    if not isinstance(kind, str) or kind not in classes:
        raise ConfigError(f"{where}kind: expected {' or '.join(map(repr, classes))}, got {kind!r}")
    return replace(current if isinstance(current, classes[kind]) else classes[kind](), kind=kind)


def to_values(config: Any, *, said: Callable[[Path], str] = str) -> dict[str, Any]:
    """The nested values of a config as TOML can hold them; None is left out, paths are as ``said``."""
    return {
        field.name: _plain(getattr(config, field.name), said)
        for field in fields(config)
        if getattr(config, field.name) is not None
    }


def to_toml(config: Any, provenance: dict[str, Any] | None = None) -> str:
    """The config as a TOML file that ``read_config`` reads back to an equal one."""
    values = to_values(config)
    return tomli_w.dumps(values if provenance is None else {**values, PROVENANCE: provenance})


def flat_values(config: Any) -> dict[str, Any]:
    """The same without nesting: ``optimizer.momentum`` and its value."""
    return _flat(to_values(config))


def differences(one: Any, other: Any) -> list[str]:
    """The settings in which two configs differ, as ``name: one -> other``."""
    flat_one, flat_other = flat_values(one), flat_values(other)
    names = [*flat_one, *(name for name in flat_other if name not in flat_one)]
    return [
        f"{name}: {flat_one.get(name)} -> {flat_other.get(name)}"
        for name in names
        if flat_one.get(name) != flat_other.get(name)
    ]


def _plain(value: Any, said: Callable[[Path], str]) -> Any:
    if is_dataclass(value):
        return to_values(value, said=said)
    if isinstance(value, Path):
        return said(value)
    return list(value) if isinstance(value, tuple) else value


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(one, levels - 1) for one in inner)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        )
    return flat


def _merge(base: Config, values: Mapping[str, Any], where: str) -> Config:
    hints = get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            close = get_close_matches(key, hints, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(hints)}"
            raise ConfigError(f"{where}unknown setting {key!r}{hint}")
        current = getattr(base, key)
        if is_dataclass(current) and isinstance(value, dict):
            changes[key] = _merge_kind(current, value, _kinds(hints[key]), f"{where}{key}.")
        else:
            changes[key] = _convert(value, hints[key], f"{where}{key}")
    try:
        return replace(base, **changes)  # type: ignore[type-var]
    except ValueError as error:
        raise ConfigError(f"{where}{error}") from error


def _merge_kind(current: Any, values: dict[str, Any], classes: Mapping[str, type[Any]], where: str) -> Any:
    """The same for a setting that may be one of several classes, of which ``values`` may name another."""
    if classes and "kind" in values:
        current = of_kind(current, values["kind"], classes, where)
    for key in values:
        if classes and not hasattr(current, key):
            knowing = [kind for kind, one in classes.items() if key in get_type_hints(one)]
            if knowing:
                said = " and ".join(map(repr, knowing))
                raise ConfigError(f"{where}{key}: not a setting of kind {current.kind!r} but of {said}")
    return _merge(current, values, where)


def _kinds(hint: Any) -> dict[str, type[Any]]:
    """The dataclasses of a union by the values of their ``kind``; none where it is no such union."""
    options = [one for one in get_args(hint) if isinstance(one, type) and is_dataclass(one)]
    if len(options) < 2:
        return {}
    return {kind: option for option in options for kind in get_args(get_type_hints(option)["kind"])}


def _convert(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the annotated type; an int passes for a float, a string for a path, an array for a tuple."""
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected {_name(hint)}, got {value!r}")
        return tuple(_convert(one, get_args(hint)[0], f"{where}[{i}]") for i, one in enumerate(value))
    options = [option for option in get_args(hint) or (hint,) if option is not type(None)]
    if isinstance(value, str) and Path in options and "\0" not in value:
        return Path(value)
    if type(value) is int and float in options and int not in options and abs(value) <= LARGEST:
        return float(value)
    literals = [option for option in options if not isinstance(option, type)]
    if value in literals or type(value) in options:
        return value
    raise ConfigError(f"{where}: expected {_name(hint)}, got {value!r}")


def _name(hint: Any) -> str:
    """A type as a user of TOML would say it."""
    if get_origin(hint) is tuple:
        return f"an array of {_name(get_args(hint)[0])}"
    if get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    names = [option.__name__ for option in get_args(hint) or (hint,) if option is not type(None)]
    return " or ".join(_TOML_NAMES.get(name, name) for name in names)
