"""Settings: which there are and of which type, their values in [settings], and those that [check] names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablate.conditions import listed
from ablate.planning.outcomes import contradiction
from ablate.runs_toml.file import File, Flat, flat
from ablate.runs_toml.names import Names
from ablate.runs_toml.positions import Node
from ablate.settings import Schema, SettingError, referenced, schema_of_config, schema_of_values
from ablate.study import LOCKED, Settings, Study, Value


@dataclass(frozen=True)
class Types:
    """What each setting may be, wherever the file gives it a value."""

    file: File
    schema: Schema
    runs: Mapping[str, str]
    """What a value "as RUN" may name."""
    declared: bool
    """By [study] config; otherwise [settings] shows them, and any text "as RUN" speaks of a run."""

    def cast(self, given: Flat) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for name, node in given.items():
            try:
                setting = self.schema.setting(name)
                found[name] = setting.cast(node.value)
            except SettingError as error:
                raise self.file.wrong(node, str(error)) from None
            run = referenced(found[name])
            if run and (setting.reference or not self.declared):
                self.file.known(node, run, self.runs, "run")
        return found


@dataclass(frozen=True)
class Baseline:
    """What rows change."""

    row: str
    """Its own, which changes nothing."""
    types: Types
    settings: Settings
    stateful: frozenset[str]
    """Settings that can change a result."""

    def check_conflict(self, changes: Settings, node: Node, whose: str) -> None:
        """As far as nothing else has been read; of rows see `check_configs`."""
        conflict = self.types.schema.conflict
        if conflict and (said := conflict(self.settings, changes)):
            raise self.types.file.wrong(node, f"{whose}: {said}")


def read_settings(file: File, names: Names, keys: Mapping[str, Any]) -> Baseline:
    """keys: of [study]."""
    node = file.section("settings")
    types = _types(file, flat(node), names, keys["config"])
    known = types.schema.settings
    for profile in file.profiles.values():
        types.cast(flat(profile, "settings"))
    given = types.cast(flat(node)) | types.cast(file.layered("settings"))
    missing = [name for name, one in known.items() if not one.has_default and name not in given]
    if missing:
        raise file.wrong(node, f"[settings] must give {listed(missing)}: {keys['config']} has no default")
    values = types.schema.defaults() | given
    for name in keys["stateless"]:
        file.known(file.section("study").keys["stateless"], name, known, "setting")
    stateful = frozenset(name for name, one in known.items() if one.stateful).difference(keys["stateless"])
    baseline = Baseline(keys["baseline"], types, {name: values[name] for name in known}, stateful)
    baseline.check_conflict({}, node, "[settings]")
    return baseline


def _types(file: File, given: Flat, names: Names, config: str) -> Types:
    values = {name: node.value for name, node in given.items()}
    try:
        schema = schema_of_config(config, file.text.path.parent) if config else schema_of_values(values)
    except SettingError as error:
        raise file.wrong(file.section("study").keys["config"], str(error)) from None
    return Types(file, schema, names.runs, bool(config))


def read_short(file: File, types: Types) -> dict[str, Value]:
    """[check] short: settings of a short run."""
    keys = file.only(file.section("check"), ("short", "late"), "check")
    if "short" in keys:
        file.table(keys["short"], "check.short")
    return types.cast(flat(file.section("check"), "short"))


def read_late(file: File, types: Types) -> tuple[str, ...]:
    """[check] late: settings that act later than a short run shows."""
    node = file.section("check").keys.get("late")
    items = file.items(node, "check.late") if node else []
    names = [file.string(item, "a setting in check.late") for item in items]
    return tuple(file.known(item, name, types.schema.settings, "setting") for item, name in zip(items, names, strict=True))


def check_configs(file: File, study: Study) -> None:
    """Nothing that may come to be trained has settings that contradict each other."""
    if found := contradiction(study):
        config, said = found
        node = file.section("lock").keys["confirm"] if config.row == LOCKED else file.section("runs").keys[config.row]
        raise file.wrong(node, said)
