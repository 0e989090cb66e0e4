"""What settings a trainer takes: names, types, ranges; and a value checked and cast against them. Pure but for one import."""

from __future__ import annotations

import importlib
import json
import re
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from datetime import date, time
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ablate.conditions import near, quoted
from ablate.study import Settings, Value


class SettingError(Exception):
    """A setting that does not exist, or a value it cannot have."""


REQUIRED = object()
"""The default of a setting that has none."""


@dataclass(frozen=True)
class Setting:
    """One name on the left of `=`, and what may stand right of it."""

    name: str
    hint: Any
    """A type as dataclasses write it: bool, int, float, str, Literal[...], list[T], Mapping[str, T], T | U, Any."""
    default: Any = REQUIRED
    least: float | None = None
    above: float | None = None
    most: float | None = None
    stateful: bool = True
    reference: bool = False
    """Its default or "as RUN", nothing else."""

    @property
    def has_default(self) -> bool:
        return self.default is not REQUIRED

    def cast(self, value: Any) -> Value:
        """`value` as this setting's type: 10 -> 10.0 where a float is due, so that a job's key does not hang on spelling.

        Raises SettingError: wrong type, not finite, out of range, not among the choices.
        """
        cast: Value = _cast(self.name, self.hint, value)
        if self.reference and cast != self.default and not referenced(cast):
            raise SettingError(f'{self.name} must be {as_toml(self.default)} or "as RUN", such as "as F3", not {value!r}')
        if isinstance(cast, int | float) and not isinstance(cast, bool) and not self._in_range(cast):
            raise SettingError(f"{self.name} must be {self._range()}, not {as_toml(value)}")
        return cast

    def _in_range(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
        )

    def _range(self) -> str:
        low = f"above {_short(self.above)}" if self.above is not None else ""
        if self.least is not None:
            low = f"at least {_short(self.least)}"
        high = f"at most {_short(self.most)}" if self.most is not None else ""
        return " and ".join(part for part in (low, high) if part)


@dataclass(frozen=True)
class Schema:
    """Every setting of a trainer, by its dotted name."""

    settings: Mapping[str, Setting]
    conflict: Callable[[Settings, Settings], str | None] | None = None
    """What is impossible about full settings plus changes, when each is fine alone; None: there are no such rules."""

    def setting(self, name: str) -> Setting:
        """Raises SettingError when there is none of this name."""
        found = self.settings.get(name)
        if found is None:
            raise SettingError(self._unknown(name))
        return found

    def defaults(self) -> dict[str, Value]:
        """Of the settings that have one."""
        return {name: one.cast(one.default) for name, one in self.settings.items() if one.has_default}

    def _unknown(self, name: str) -> str:
        below = [known for known in self.settings if known.startswith(f"{name}.")]
        if below:
            return f'"{name}" is a group of settings; write each on its own: {below[0]} = ...'
        parent = name.rpartition(".")[0]
        if parent in self.settings:
            return f'"{parent}" is one setting and is given whole: {parent} = {{ ... }}'
        hint = _hint(name, self.settings)
        if not self.settings:
            hint = " There are none: each needs its value at the baseline in [settings]"
        elif not hint:
            group = f"{name.partition('.')[0]}."
            known = [one for one in self.settings if one.startswith(group)]
            known = known or list(dict.fromkeys(re.sub(r"\..*", ".*", one) for one in self.settings))
            hint = f" There are: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"
        return f'there is no setting "{name}".{hint}'


def referenced(value: Any) -> str:
    """The run that a value "as RUN" names; "" for any other value."""
    if not isinstance(value, str) or not value.startswith("as "):
        return ""
    found = re.fullmatch(r"as ([A-Za-z0-9][A-Za-z0-9._-]*)", value)
    return found[1] if found else ""


# ---------------------------------------------------------------- where a schema comes from


def schema_of_values(values: Settings) -> Schema:
    """The schema of a study that names no config: the names and types of its [settings]."""
    hints: dict[type, Any] = {dict: Mapping[str, Any], list: list[Any]}
    return Schema({name: Setting(name, hints.get(type(value), type(value)), value) for name, value in values.items()})


def schema_of_config(spec: str, folder: Path) -> Schema:
    """The schema that "package.module:Dataclass" describes; `folder` is looked in first. Raises SettingError."""
    module_name, _, class_name = spec.partition(":")
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", spec):
        raise SettingError(f'config must be "package.module:Dataclass", not {as_toml(spec)}')
    module = _imported(module_name, str(folder.resolve()))
    config = getattr(module, class_name, None)
    if config is None:
        classes = [name for name, one in vars(module).items() if isinstance(one, type) and is_dataclass(one)]
        raise SettingError(f"module {module_name} has no {as_toml(class_name)}.{_hint(class_name, classes)}")
    if not (isinstance(config, type) and is_dataclass(config)):
        raise SettingError(f"{spec} is no dataclass")
    found = {one.name: one for one in _settings_of(config, "")}
    conflict: Callable[[Any], str | None] | None = getattr(module, "conflict", None)
    return Schema(found, _Conflict(config, conflict) if conflict or _checks_itself(config) else None)


def _imported(name: str, folder: str) -> types.ModuleType:
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingError(f"config module {as_toml(name)} cannot be imported: {error}") from error
    finally:
        sys.path.remove(folder)


def _settings_of(config: type, prefix: str) -> list[Setting]:
    hints = get_type_hints(config)
    found = []
    for one in fields(config):
        name, hint = f"{prefix}{one.name}", hints[one.name]
        if isinstance(hint, type) and is_dataclass(hint):
            found += _settings_of(hint, f"{name}.")
        else:
            found.append(_setting(name, hint, one))
    return found


def _setting(name: str, hint: Any, one: Field[Any]) -> Setting:
    default = one.default if one.default_factory is MISSING else one.default_factory()
    default = REQUIRED if default is MISSING else default
    known = {key: one.metadata.get(key) for key in ("least", "above", "most")}
    stateful, reference = one.metadata.get("stateful", True), one.metadata.get("reference", False)
    return Setting(name, hint, default, **known, stateful=stateful, reference=reference)


def _checks_itself(config: type) -> bool:
    """Whether the dataclass, or one of its groups, looks at its fields when it is made."""
    groups = [hint for hint in get_type_hints(config).values() if isinstance(hint, type) and is_dataclass(hint)]
    return hasattr(config, "__post_init__") or any(map(_checks_itself, groups))


class _Conflict:
    """A config module's `conflict(config)` for flat settings, and what its dataclasses refuse with a ValueError.

    Only the parts that a row changes are built anew.
    """

    def __init__(self, config: type, conflict: Callable[[Any], str | None] | None) -> None:
        self.config, self.conflict = config, conflict
        self.base: Settings = {}
        self.fields: _Group = _Group()
        self.made: dict[str, Any] = {}

    def __call__(self, base: Settings, changes: Settings) -> str | None:
        if base is not self.base:
            self.base, self.fields, self.made = base, _grouped(base), {}
        touched = {part: _merged(self.fields[part], values) for part, values in _grouped(changes).items()}
        try:
            unmade = {part: values for part, values in self.fields.items() if part not in touched and part not in self.made}
            self.made |= _made(self.config, unmade)
            config = self.config(**self.made | _made(self.config, touched))
        except ValueError as error:
            return " ".join(str(error).split()) or f"{self.config.__name__} refuses them"
        return self.conflict(config) if self.conflict else None


class _Group(dict[str, Any]):
    """Settings below one name; a plain dict is a value."""


def _grouped(settings: Settings) -> _Group:
    tree = _Group()
    for name, value in settings.items():
        *path, leaf = name.split(".")
        at = tree
        for part in path:
            at = at.setdefault(part, _Group())
        at[leaf] = value
    return tree


def _merged(base: Any, changed: Any) -> Any:
    if not isinstance(changed, _Group):
        return changed
    return _Group({**base, **{name: _merged(base[name], value) for name, value in changed.items()}})


def _made(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Field -> value of a dataclass; its groups become the dataclasses they stand for."""
    hints = _hints(config)
    return {
        name: hints[name](**_made(hints[name], value)) if isinstance(value, _Group) else value for name, value in values.items()
    }


@cache
def _hints(config: type) -> dict[str, Any]:
    return get_type_hints(config)


# ---------------------------------------------------------------- a value against a type


def _cast(name: str, hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return _plain(name, value)
    if origin in (Union, types.UnionType):
        return _cast_union(name, hint, value)
    if origin is Literal:
        return _choice(name, get_args(hint), value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not isfinite(value):
            raise SettingError(f"{name} must be a finite number, not {value}")
        return float(value)
    if hint in (bool, int, str) and type(value) is hint:
        return value
    if _is_table(hint) and isinstance(value, dict):
        inner = get_args(hint)[1] if get_args(hint) else Any
        return {key: _cast(f"{name}.{key}", inner, one) for key, one in value.items()}
    if _is_list(hint) and isinstance(value, list | tuple):
        inner = get_args(hint)[0] if get_args(hint) else Any
        return [_cast(f"{name}[{number}]", inner, one) for number, one in enumerate(value)]
    if isinstance(hint, type) and issubclass(hint, date | time):
        return _plain(name, value)
    raise SettingError(f"{name} must be {_type_words(hint)}, not {as_toml(value)}")


def _plain(name: str, value: Any) -> Any:
    """A value of any TOML type but dates, finite all through."""
    if isinstance(value, dict):
        return {key: _plain(f"{name}.{key}", one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(f"{name}[{number}]", one) for number, one in enumerate(value)]
    if isinstance(value, float) and not isfinite(value):
        raise SettingError(f"{name} must be a finite number, not {value}")
    if not isinstance(value, bool | int | float | str):
        raise SettingError(f"{name} must not be a date or a time; write it as a string")
    return value


def _cast_union(name: str, hint: Any, value: Any) -> Any:
    options = [one for one in get_args(hint) if one is not type(None)]
    if value is None and len(options) < len(get_args(hint)):
        return None
    for one in options:
        try:
            return _cast(name, one, value)
        except SettingError as error:
            last = error
    if len(options) == 1:
        raise last
    raise SettingError(f"{name} must be {' or '.join(_type_words(one) for one in options)}, not {as_toml(value)}")


def _choice(name: str, choices: Sequence[Any], value: Any) -> Any:
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return value
    allowed = " or ".join(part for part in (", ".join(map(as_toml, choices[:-1])), as_toml(choices[-1])) if part)
    words = [choice for choice in choices if isinstance(choice, str)]
    raise SettingError(f"{name} must be {allowed}, not {as_toml(value)}.{_hint(value, words)}".removesuffix("."))


def _is_table(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_list(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and origin is not str and issubclass(origin, Sequence)


def _type_words(hint: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
    if hint in words:
        return words[hint]
    if get_origin(hint) is Literal:
        return " or ".join(as_toml(choice) for choice in get_args(hint))
    return "a table" if _is_table(hint) else "a list" if _is_list(hint) else str(hint)


def as_toml(value: Any) -> str:
    """A value as the file writes it, cut to a line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {as_toml(item)}" for key, item in value.items()) + " }"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
    if isinstance(value, date | time):
        text = value.isoformat()
    return text if len(text) <= 60 else f"{text[:57]}..."


def _short(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


def _hint(word: Any, known: Collection[str]) -> str:
    """` Did you mean "x"?`, or what there is to choose from when that is short, or nothing."""
    guesses = near(word, known) if isinstance(word, str) else ()
    return f" Did you mean {quoted(guesses[:1])}?" if guesses else ""
