"""Reads runs.toml into a Study; every mistake in it is told by line, with what is allowed or near.

The first mistake found is raised. Sections are read in the order they rest on each other: file, profile, [study], [settings],
starts and rows, seeds, metrics, sweeps, blocks, the rest; what concerns several of them (cycles, order of blocks) comes last.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from ablate.conditions import (
    ITS_START,
    RESERVED,
    Compared,
    Condition,
    ConditionError,
    Otherwise,
    Took,
    atoms,
    listed,
    near,
    parse,
    parse_take,
    quoted,
)
from ablate.folders import is_kept_for_us
from ablate.measured import Pattern
from ablate.outcomes import contradiction
from ablate.positions import Node, Text, first_defined_twice, scan
from ablate.settings import Setting, SettingError, as_toml, referenced, schema_of_config, schema_of_values
from ablate.study import (
    BUDGET,
    LOCKED,
    NAME,
    TRIAL,
    Block,
    Confirm,
    Learn,
    Line,
    Metric,
    NamedStart,
    Range,
    Run,
    Search,
    Skip,
    Start,
    Study,
    Sweep,
    Take,
    Trainer,
    Tree,
    UserError,
    Value,
    runs_of_sweep,
    runs_of_tree,
)


def read_study(path: Path, profile: str = "") -> Study:
    """The study that the file at `path` declares, in one profile; "" and "full" mean the file as it stands.

    Raises UserError for the first mistake found: its place, what is wrong, what is allowed or near; below it the line itself.
    """
    data = _bytes(path)
    file = _parsed(path, data)
    return _Reader(file, profile or FULL, hashlib.sha256(data).hexdigest()).study()


def first_study() -> str:
    """A commented runs.toml to start from, for `ablate init`."""
    return Path(__file__).with_name("init.toml").read_text(encoding="utf-8")


FULL = "full"
"""The profile that changes nothing."""

_SECTIONS = (
    "study",
    "settings",
    "runs",
    "start",
    "search",
    "seeds",
    "evidence",
    "metrics",
    "blocks",
    "lock",
    "check",
    "not_swept",
    "figures",
    "profile",
)
_IN_PROFILE = ("study", "settings", "runs", "start", "search", "seeds", "evidence", "metrics", "lock")
_FIXED = ("name", "baseline", "config")
"""Keys of [study] that are the same in every profile."""

_STUDY = {
    one.name: one
    for one in (
        Setting("name", str),
        Setting("asks", str, ""),
        Setting("baseline", str),
        Setting("config", str, ""),
        Setting("stateless", list[str], []),
        Setting("gpus_per_run", int, least=1, most=4096),
        Setting("ranks_per_run", int, 0, least=1, most=4096),
        Setting("hours_per_run", float, above=0.0, most=100_000.0),
        Setting("usd_per_gpu_hour", float, 0.0, least=0.0, most=1_000_000.0),
        Setting("max_attempts", int, 3, least=1, most=100),
        Setting("wandb", bool, True),
        Setting("on_event", str, ""),
    )
}
_METRIC = {
    one.name: one
    for one in (
        Setting("better", Literal["lower", "higher"]),
        Setting("margin", float, above=0.0),
        Setting("noise", float | None, None, above=0.0),
        Setting("unit", str, ""),
        Setting("last", int, 1, least=1),
    )
}
_EVIDENCE = {
    one.name: one
    for one in (
        Setting("wrong_adoptions", float, 0.05, above=0.0, most=0.5),
        Setting("frozen_at", Literal["first launch"], "first launch"),
        Setting("looks", list[int], []),
        Setting("spending", Literal["obrien-fleming", "pocock"], "obrien-fleming"),
        Setting("mix_imported", str, ""),
        Setting("mix_steps", str, ""),
    )
}
_SEARCH = {
    one.name: one
    for one in (
        Setting("trials", int, 0, least=1, most=10_000),
        Setting("on", str, ""),
        Setting("by", Literal["tpe", "random"], "tpe"),
        Setting("halving", int, 3, least=0, most=100),
        Setting("grace", int, 1, least=1, most=10_000),
        Setting("first_seed", int, 1001, least=0, most=2**32 - 20_000),
    )
}
_BUDGET = ("trials", "on")
"""Keys of [search] that are settled row by row, or need the metrics."""
_RANGES: tuple[Literal["log", "uniform", "int", "choice"], ...] = ("log", "uniform", "int", "choice")
_IN_ROW = ("from", "search", "trials", "expects")
"""Keys of a row that are no settings."""
_SEED = Setting("a seed", int, least=0, most=2**32 - 1)
_PLACEHOLDERS = ("seed", "folder", "python", "resume_from")


# ---------------------------------------------------------------- the file


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file. `ablate init` writes a first one") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name the file in it: {path / 'runs.toml'}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


@dataclass(frozen=True)
class _File:
    """The text, its tree, and how a mistake in it is told."""

    text: Text
    root: Node

    def wrong(self, node: Node, message: str) -> UserError:
        return UserError(self.text.told(node.at, message))

    def wrong_in(self, node: Node, error: ConditionError) -> UserError:
        """A mistake inside a string, with its column."""
        at = self.text.inside(node, error.column - 1)
        return UserError(self.text.told(at, str(error), caret=True))

    def line(self, node: Node) -> int:
        return self.text.line(node.at)

    def cast(self, node: Node, setting: Setting) -> Any:
        try:
            return setting.cast(node.value)
        except SettingError as error:
            raise self.wrong(node, str(error)) from None

    def table(self, node: Node, what: str) -> Mapping[str, Node]:
        if node.table is None:
            raise self.wrong(node, f"{what} must be a table, not {as_toml(node.value)}")
        return node.table

    def items(self, node: Node, what: str) -> list[Node]:
        if node.items is None:
            raise self.wrong(node, f"{what} must be a list, not {as_toml(node.value)}")
        return node.items

    def string(self, node: Node, what: str) -> str:
        if not isinstance(node.value, str):
            raise self.wrong(node, f"{what} must be a string, not {as_toml(node.value)}")
        return node.value

    def known(self, node: Node, name: str, names: Collection[str], kind: str) -> str:
        if name not in names:
            guesses = near(name, names)
            hint = f". Did you mean {quoted(guesses)}?" if guesses else f"; {kind}s: {_some(names)}"
            raise self.wrong(node, f"there is no {kind} {as_toml(name)}{hint}")
        return name

    def key(self, node: Node, name: str, names: Collection[str], where: str) -> None:
        if name not in names:
            guesses = near(name, names)
            hint = f"Did you mean {quoted(guesses)}?" if guesses else f"There are: {_some(names)}"
            raise self.wrong(node, f'there is no key "{name}" in [{where}]. {hint}')

    def filled(self, node: Node, keys: Mapping[str, Setting], where: str, besides: tuple[str, ...] = ()) -> dict[str, Any]:
        """The values of a table with known keys, defaults filled in; `besides` are keys read elsewhere."""
        children = self.table(node, f"[{where}]")
        for name, child in children.items():
            self.key(child, name, (*keys, *besides), where)
        found = {
            name: self.cast(child, replace(keys[name], name=f"{where}.{name}"))
            for name, child in children.items()
            if name in keys
        }
        for name, setting in keys.items():
            if name not in found:
                if not setting.has_default:
                    raise self.wrong(node, f"[{where}] must say `{name}`")
                found[name] = setting.default
        return found

    def name(self, node: Node, name: str, what: str) -> str:
        """A name that becomes a folder's and a word of the conditions."""
        if not NAME.fullmatch(name) or ".." in name:
            allowed = 'letters, digits, ".", "_" and "-", at most 64, a letter or digit first, no ".."'
            raise self.wrong(node, f"{as_toml(name)} cannot name a {what}; a name is made of {allowed}")
        if name in RESERVED:
            raise self.wrong(node, f"{as_toml(name)} cannot name a {what}: it is a word of the conditions")
        if what == "run" and name.endswith(TRIAL):
            raise self.wrong(node, f"{as_toml(name)} cannot name a run: the trials of a search for LR2 are called LR2{TRIAL}")
        if what == "run" and name.endswith("-start"):
            raise self.wrong(node, f"{as_toml(name)} cannot name a run: what D1 is compared with is called D1-start")
        if what == "run" and name == LOCKED:
            raise self.wrong(node, f"{as_toml(name)} cannot name a run: the locked config is called that when it is confirmed")
        return name


def _parsed(path: Path, data: bytes) -> _File:
    try:
        content = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise UserError(f"{path}:{line}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8") from None
    text = Text(path, content)
    try:
        values = tomllib.loads(content)
    except RecursionError as error:
        raise UserError(f"{path}: brackets are nested too deep to be read; a study needs two or three levels") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(_not_toml(text, str(error))) from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: a value cannot be read: {error}") from error
    return _File(text, scan(content, values))


def _not_toml(text: Text, message: str) -> str:
    if message.startswith(("Cannot overwrite a value", "Duplicate inline table key", "Cannot mutate immutable namespace")):
        twice = first_defined_twice(text.text)
        if twice is not None:
            return text.told(twice.second, f'"{twice.name}" is defined twice, first in line {text.line(twice.first)}')
    said, _, place = message.partition(" (at ")
    found = re.match(r"line (\d+), column (\d+)", place)
    if found is None:
        return f"{text.path}:{text.text.rstrip().count(chr(10)) + 1}: not TOML: {said}, where the file ends"
    at = sum(len(line) + 1 for line in text.text.split("\n")[: int(found[1]) - 1]) + int(found[2]) - 1
    declared = re.match(r"Cannot declare \((.*?),?\) twice", said)
    if declared:
        name = ".".join(re.findall(r"'([^']*)'", declared[1]))
        return text.told(at, f"[{name}] is there twice; put both into one")
    return text.told(at, f"not TOML: {said}", caret=True)


def _some(names: Collection[str], most: int = 12) -> str:
    shown = [*names][:most]
    return ", ".join(shown) + (", ..." if len(names) > most else "") if names else "none"


def _assignments(node: Node, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """Each `name = value` below a table: the dotted key left of `=` is the name, all that stands right of it the value."""
    for key, child in node.keys.items():
        if child.whole or child.table is None:
            yield prefix + key, child
        else:
            yield from _assignments(child, f"{prefix}{key}.")


def _override(base: Node, over: Node) -> None:
    """`over` onto `base`, key by key; what stands right of an `=` replaces, never merges."""
    if base.table is None:
        base.table = {}
    for key, child in over.keys.items():
        below = base.table.get(key)
        if child.whole or below is None or below.table is None:
            base.table[key] = child
        else:
            _override(below, child)


# ---------------------------------------------------------------- the sections


_Flat = dict[str, Node]
"""Dotted name of a setting -> where its value stands."""


class _Reader:
    """One reading of one file in one profile. Attributes appear in the order of `study`."""

    def __init__(self, file: _File, profile: str, text_hash: str) -> None:
        self.file, self.root, self.profile, self.text_hash = file, file.root, profile, text_hash
        self.path = file.text.path

    def study(self) -> Study:
        self.sections()
        self.over = self.layers()
        for over in self.over:
            for name in ("study", "search", "seeds", "evidence", "metrics", "lock"):
                if name in over.keys:
                    _override(self.section(name), over.keys[name])
        self.read_study_keys()
        self.read_names()
        self.read_settings()
        self.read_starts()
        self.read_rows()
        self.check_rows()
        self.read_metrics()
        self.read_expects()
        self.read_sweeps()
        self.read_searches()
        study = self.assembled()
        self.check_sweeps(study)
        self.check_order(study)
        self.check_searches(study)
        self.check_configs(study)
        return study

    def assembled(self) -> Study:
        of_study = self.of_study
        blocks, seeds = self.read_blocks(), self.read_seeds()
        evidence = self.file.filled(self.section("evidence"), _EVIDENCE, "evidence")
        return Study(
            name=of_study["name"],
            profile=self.profile,
            asks=of_study["asks"],
            baseline=of_study["baseline"],
            trainer=self.trainer,
            settings=self.settings,
            stateful=self.stateful,
            runs=self.runs,
            aliases=self.aliases,
            starts=self.starts,
            seeds=seeds,
            metrics=self.metrics,
            sweeps=self.sweeps,
            blocks=blocks,
            lock_after=self.read_lock(blocks),
            wrong_adoptions=evidence["wrong_adoptions"],
            gpus_per_run=of_study["gpus_per_run"],
            ranks_per_run=of_study["ranks_per_run"] or of_study["gpus_per_run"],
            hours_per_run=of_study["hours_per_run"],
            usd_per_gpu_hour=of_study["usd_per_gpu_hour"],
            max_attempts=of_study["max_attempts"],
            not_swept=self.not_swept,
            figures=self.read_figures(),
            wandb=of_study["wandb"],
            path=self.path.resolve(),
            text_hash=self.text_hash,
            on_event=of_study["on_event"],
            short=self.read_short(),
            late=self.read_late(),
            confirm=self.read_confirm(seeds),
            looks=self.read_looks(tuple(evidence["looks"]), seeds),
            spending=evidence["spending"],
            mix_imported=evidence["mix_imported"],
            mix_steps=evidence["mix_steps"],
            conflict=self.schema.conflict,
        )

    # -------- [check]

    def read_short(self) -> dict[str, Value]:
        """Settings of a short run."""
        node = self.section("check")
        for name, child in node.keys.items():
            self.file.key(child, name, ("short", "late"), "check")
        if "short" not in node.keys:
            return {}
        self.file.table(node.keys["short"], "check.short")
        return self.typed(dict(_assignments(node.keys["short"])))

    def read_late(self) -> tuple[str, ...]:
        node = self.section("check").keys.get("late")
        items = [] if node is None else self.file.items(node, "check.late")
        names = [self.file.string(item, "a setting in check.late") for item in items]
        return tuple(
            self.file.known(item, name, self.schema.settings, "setting") for item, name in zip(items, names, strict=True)
        )

    # -------- sections and profiles

    def sections(self) -> None:
        for name, node in self.root.keys.items():
            if name not in _SECTIONS and not name.startswith("sweep"):
                guesses = near(name, _SECTIONS)
                hint = f"Did you mean {quoted(guesses)}?" if guesses else f"There are: {', '.join(_SECTIONS)}, and sweep..."
                raise self.file.wrong(node, f"there is no section [{name}]. {hint}")
            self.file.table(node, f"[{name}]")
        for name in ("study", "runs", "seeds"):
            if name not in self.root.keys:
                raise UserError(f"{self.path}: there is no [{name}]; `ablate init` shows what a study needs")

    def section(self, name: str) -> Node:
        """A section's table; empty when the file has none."""
        return self.root.keys.setdefault(name, _empty())

    def layers(self) -> list[Node]:
        """The tables of the profile and of those it is `like`, the most basic first."""
        profiles = self.section("profile").keys
        for name, node in profiles.items():
            self.check_profile(name, node, profiles)
        known = (FULL, *profiles)
        if self.profile not in known:
            guesses = near(self.profile, known)
            hint = f". Did you mean {quoted(guesses)}?" if guesses else f"; profiles: {', '.join(known)}"
            raise UserError(f'{self.path}: there is no profile "{self.profile}"{hint}')
        return [profiles[name] for name in reversed(_likes(self.profile, profiles))]

    def check_profile(self, name: str, node: Node, profiles: Mapping[str, Node]) -> None:
        self.file.name(node, name, "profile")
        if name == FULL:
            raise self.file.wrong(node, f"[profile.{FULL}] cannot be: `{FULL}` is the file as it stands")
        for key, child in self.file.table(node, f"[profile.{name}]").items():
            self.file.key(child, key, ("like", *_IN_PROFILE), f"profile.{name}")
            if key == "like":
                like = self.file.string(child, f"profile.{name}.like")
                self.file.known(child, like, (FULL, *profiles), "profile")
                chain = _likes(name, profiles)
                if len(set(chain)) < len(chain):
                    raise self.file.wrong(child, f"a cycle of profiles: {' is like '.join(chain)}")
            else:
                self.file.table(child, f"profile.{name}.{key}")
        for key, child in node.keys["study"].keys.items() if "study" in node.keys else ():
            if key in _FIXED:
                raise self.file.wrong(child, f"study.{key} is the same in every profile; take it out of [profile.{name}]")
        known = self.section("metrics").keys
        for key, child in node.keys["metrics"].keys.items() if "metrics" in node.keys else ():
            self.file.known(child, key, known, "metric")

    # -------- [study], [settings]

    def read_study_keys(self) -> None:
        node = self.section("study")
        self.of_study = self.file.filled(node, _STUDY, "study", besides=("trainer",))
        self.file.name(node.keys["name"], self.of_study["name"], "study")
        if "trainer" not in node.keys:
            raise self.file.wrong(node, "[study] must say `trainer`")
        ranks, gpus = self.of_study["ranks_per_run"], self.of_study["gpus_per_run"]
        if ranks > gpus:
            raise self.file.wrong(
                node.keys["ranks_per_run"],
                f"study.ranks_per_run = {ranks} is more than gpus_per_run = {gpus}: each rank takes a GPU of its own",
            )

    def read_settings(self) -> None:
        node, study = self.section("settings"), self.section("study").keys
        flat = dict(_assignments(node))
        try:
            spec = self.of_study["config"]
            given = {name: child.value for name, child in flat.items()}
            self.schema = schema_of_config(spec, self.path.parent) if spec else schema_of_values(given)
        except SettingError as error:
            raise self.file.wrong(study["config"], str(error)) from None
        for profile in self.section("profile").keys.values():
            self.typed(self.below(profile, "settings"))
        given = self.typed(flat) | self.typed(self.flat_of_layers("settings"))
        missing = [name for name, one in self.schema.settings.items() if not one.has_default and name not in given]
        if missing:
            raise self.file.wrong(node, f"[settings] must give {listed(missing)}: {self.of_study['config']} has no default")
        values = self.schema.defaults() | given
        self.settings: dict[str, Value] = {name: values[name] for name in self.schema.settings}
        stateless = set(self.of_study["stateless"])
        for name in stateless:
            self.file.known(study["stateless"], name, self.schema.settings, "setting")
        self.stateful = frozenset(name for name, one in self.schema.settings.items() if one.stateful) - stateless
        self.no_conflict({}, node, "[settings]")
        self.trainer = self.read_trainer(study["trainer"])

    def read_trainer(self, node: Node) -> Trainer:
        config = self.of_study["config"]
        if node.table is None:
            module = self.file.string(node, "study.trainer")
            if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", module):
                raise self.file.wrong(
                    node, f'study.trainer must be a module such as "trainer.train", or {{ command = ... }}, not {as_toml(module)}'
                )
            return Trainer(module=module, config=config)
        for key, child in node.table.items():
            self.file.key(child, key, ("command", "metrics"), "study.trainer")
        if "command" not in node.table or "metrics" not in node.table:
            raise self.file.wrong(node, "study.trainer must say `command` and `metrics = { stdout = ... }` or `{ file = ... }`")
        command, source = node.table["command"], node.table["metrics"]
        for name in re.findall(r"\{([A-Za-z_][\w.-]*)\}", self.file.string(command, "study.trainer.command")):
            self.file.known(command, name, (*self.schema.settings, *_PLACEHOLDERS), "setting")
        metrics = self.file.table(source, "study.trainer.metrics")
        for key, child in metrics.items():
            self.file.key(child, key, ("stdout", "file"), "study.trainer.metrics")
        if len(metrics) != 1:
            raise self.file.wrong(source, "study.trainer.metrics must say one of `stdout` and `file`")
        ((key, child),) = metrics.items()
        said = self.file.string(child, f"study.trainer.metrics.{key}")
        if key == "file":
            if Path(said).is_absolute() or ".." in Path(said).parts or not said:
                raise self.file.wrong(child, f"study.trainer.metrics.file must stay in the attempt's folder, not {as_toml(said)}")
            if is_kept_for_us(said):
                ours = f"{as_toml(said)}, which is a file of ours there; name another, such as log.jsonl"
                raise self.file.wrong(child, f"study.trainer.metrics.file must be a file of the script's own, not {ours}")
            return Trainer(command=command.value, metrics_file=said, config=config)
        try:
            pattern = Pattern(said)
        except re.error as error:
            raise self.file.wrong(child, f"study.trainer.metrics.stdout is no regular expression: {error}") from None
        if not pattern.metrics:
            raise self.file.wrong(
                child, "study.trainer.metrics.stdout has no named group for a metric, such as (?P<val_loss>...)"
            )
        return Trainer(command=command.value, stdout=said, config=config)

    def below(self, node: Node, *path: str) -> _Flat:
        """The settings given below node.path; none when that is not there."""
        for key in path:
            if key not in node.keys:
                return {}
            node = node.keys[key]
        return dict(_assignments(node))

    def flat_of_layers(self, *path: str) -> _Flat:
        return {name: node for over in self.over for name, node in self.below(over, *path).items()}

    def typed(self, flat: _Flat) -> dict[str, Value]:
        """Checked against the schema, and cast."""
        found: dict[str, Value] = {}
        for name, node in flat.items():
            try:
                setting = self.schema.setting(name)
                found[name] = setting.cast(node.value)
            except SettingError as error:
                raise self.file.wrong(node, str(error)) from None
            run = referenced(found[name])
            if run and (setting.reference or not self.of_study["config"]):
                self.file.known(node, run, self.names, "run")
        return found

    def no_conflict(self, changes: Mapping[str, Value], node: Node, whose: str) -> None:
        """As far as nothing else has been read; of rows see `check_configs`."""
        if self.schema.conflict and (said := self.schema.conflict(self.settings, changes)):
            raise self.file.wrong(node, f"{whose}: {said}")

    # -------- names, starts, rows

    def read_names(self) -> None:
        """Every name that others may use, before what uses it is read."""
        rows = self.section("runs").keys
        if not rows:
            raise self.file.wrong(self.section("runs"), "[runs] has no rows: nothing to study")
        for name, node in rows.items():
            self.file.name(node, name, "run")
        self.aliases: dict[str, str] = {}
        for name, node in rows.items():
            if isinstance(node.value, str):
                self.aliases[name] = self.file.known(node, node.value, rows, "run")
            elif node.table is None:
                raise self.file.wrong(
                    node, f"a row is {{ setting = value, ... }} or the name of another row, not {as_toml(node.value)}"
                )
        for name, other in self.aliases.items():
            if other in self.aliases:
                raise self.file.wrong(rows[name], f"{other} is itself another name for {rows[other].value}; name the row itself")
        self.names = {name: self.aliases.get(name, name) for name in rows}
        self.decisions: dict[str, Node] = {}
        for sweep, node in self.root.keys.items():
            if not sweep.startswith("sweep"):
                continue
            self.file.name(node, sweep, "sweep")
            for name, tree in (node.keys["decide"].keys if "decide" in node.keys else {}).items():
                self.file.name(tree, name, "decision")
                if name in self.decisions:
                    first = self.file.line(self.decisions[name])
                    raise self.file.wrong(tree, f'there are two decisions "{name}", the first in line {first}')
                if name in rows:
                    raise self.file.wrong(tree, f'"{name}" is a run already; give the decision another name')
                self.decisions[name] = tree

    def read_starts(self) -> None:
        nodes = self.section("start").keys
        for over in (*self.section("profile").keys.values(), *self.over):
            for name, node in (over.keys["start"].keys if "start" in over.keys else {}).items():
                self.file.known(node, name, nodes, "start")
                self.file.table(node, f'start."{name}"')
                self.typed(dict(_assignments(node)))
        self.starts: dict[str, NamedStart] = {}
        for name, node in nodes.items():
            if name in self.decisions or name in self.names:
                other = "decision" if name in self.decisions else "run"
                raise self.file.wrong(node, f'"{name}" is a {other} already; give the start another name')
            self.file.table(node, f'start."{name}"')
            changes = self.typed(dict(_assignments(node)) | self.flat_of_layers("start", name))
            self.starts[name] = NamedStart(name, changes, self.file.line(node))
            self.no_conflict(changes, node, f'the start "{name}"')

    def read_rows(self) -> None:
        rows = self.section("runs").keys
        for over in self.section("profile").keys.values():
            for name, node in (over.keys["runs"].keys if "runs" in over.keys else {}).items():
                self.file.known(node, name, rows, "run")
                if name in self.aliases or node.whole:
                    row = self.names[name]
                    raise self.file.wrong(node, f"a profile changes single settings of a row: runs.{row}.SETTING = ...")
                self.typed({key: child for key, child in _assignments(node) if key != "expects"})
        self.runs: dict[str, Run] = {}
        self.expects: dict[str, Node] = {}
        self.spaces: dict[str, dict[str, Range]] = {}
        for name, node in rows.items():
            if name in self.aliases:
                continue
            start = self.start_of(node.keys["from"]) if "from" in node.keys else Start()
            searches = "search" in node.keys and "search" not in self.schema.settings
            keys = _IN_ROW if searches else (_IN_ROW[0], _IN_ROW[-1])
            if "expects" in node.keys:
                self.expects[name] = node.keys["expects"]
            flat = {key: child for key, child in _assignments(node) if key.partition(".")[0] not in keys}
            for key, child in flat.items():
                if "." not in key and key not in self.schema.settings and near(key, _IN_ROW):
                    meant = near(key, _IN_ROW)[0]
                    if key == meant:
                        raise self.file.wrong(child, f"`{key}` in a row needs `search = {{ SETTING = {{ log = [1, 300] }} }}`")
                    raise self.file.wrong(child, f'there is no key "{key}" in a row. Did you mean "{meant}"?')
            if searches:
                self.spaces[name] = self.space(name, node.keys["search"], flat)
            if self.over:
                flat |= self.flat_of_layers("runs", name)
                if "expects" in flat:
                    self.expects[name] = flat.pop("expects")
            self.runs[name] = Run(name, self.typed(flat), start, self.file.line(node))

    def space(self, row: str, node: Node, changes: _Flat) -> dict[str, Range]:
        """Where a row's search may look, setting by setting."""
        if row == self.of_study["baseline"]:
            raise self.file.wrong(
                node,
                f"{row} is the baseline: its settings are [settings]. To compare with a tuned one, add a row with this search, "
                f"such as {row}-tuned",
            )
        self.file.table(node, f"runs.{row}.search")
        flat = dict(_assignments(node))
        if not flat:
            raise self.file.wrong(node, f"{row}: `search` must name a setting, such as {{ optim.lr = {{ log = [1e-6, 1e-3] }} }}")
        for name, child in flat.items():
            if name in changes:
                raise self.file.wrong(child, f"{row} gives {name} a value and searches it; take one of them out")
            if name in self.schema.settings and name not in self.stateful:
                raise self.file.wrong(child, f"{row} searches {name}, which cannot change a result (it is stateless)")
        return {name: self.range(name, child) for name, child in flat.items()}

    def range(self, name: str, node: Node) -> Range:
        """{ log = [1, 300] }, uniform, int or choice: checked against the setting."""
        forms = "{ log = [low, high] }, { uniform = [low, high] }, { int = [low, high] } or { choice = [value, ...] }"
        if node.table is None or len(node.table) != 1:
            raise self.file.wrong(node, f"{name} is searched in {forms}, not in {as_toml(node.value)}")
        ((kind, child),) = node.table.items()
        if kind not in _RANGES:
            guesses = near(kind, _RANGES)
            hint = f". Did you mean {quoted(guesses)}?" if guesses else f"; there are {forms}"
            raise self.file.wrong(child, f'{name}: there is no range "{kind}"{hint}')
        items = self.file.items(child, f"{name}.{kind}")
        values = tuple(self.typed({name: item})[name] for item in items)
        one = Range(kind, values)
        wrong = _wrong_range(one)
        if wrong:
            raise self.file.wrong(child, f"{name}: {wrong}, not {as_toml(child.value)}")
        return one

    def start_of(self, node: Node) -> Start:
        if node.items is not None:
            names = []
            for item in node.items:
                name = self.file.string(item, "a decision in `from`")
                names.append(self.file.known(item, name, self.decisions, "decision"))
            if not names or len(set(names)) < len(names):
                raise self.file.wrong(node, f"`from` must name decisions, each once, not {as_toml(node.value)}")
            return Start("winners", tuple(names))
        name = self.file.string(node, "`from`")
        if self.names.get(name) == self.of_study["baseline"]:
            return Start()
        if name in self.names:
            raise self.file.wrong(node, f"{name} is a row; a row starts from the baseline, a named start or [decisions]")
        if name in self.decisions:
            return Start("winners", (name,))
        self.file.known(node, name, (*self.starts, *self.decisions), "start")
        return Start("named", (name,))

    def differences(self, run: Run) -> dict[str, Value]:
        """What a run changes in the baseline, as far as that does not hang on decisions."""
        start = self.starts[run.start.names[0]].changes if run.start.kind == "named" else {}
        return {**start, **run.changes}

    def check_rows(self) -> None:
        rows = self.section("runs").keys
        study = self.section("study").keys
        baseline = self.of_study["baseline"]
        if baseline in self.aliases:
            other = self.aliases[baseline]
            raise self.file.wrong(study["baseline"], f'{baseline} is another name for {other}; write baseline = "{other}"')
        self.file.known(study["baseline"], baseline, self.runs, "run")
        if self.runs[baseline].changes or self.runs[baseline].start != Start():
            raise self.file.wrong(
                rows[baseline], f"{baseline} is the baseline: its row must be {{}}, its settings are [settings]"
            )
        self.read_not_swept()
        self.references = {name: value for name, value in self.settings.items() if referenced(value) in self.names}
        first_with: dict[str, str] = {}
        for name, run in self.runs.items():
            changes = self.differences(run)
            self.check_references(run, self.references | changes)
            self.check_swept(run)
            same = first_with.setdefault(self.identity(run, changes), name)
            if same != name:
                raise self.file.wrong(
                    rows[name],
                    f"{name} and {same} (line {self.runs[same].line}) are the same job; "
                    f'one of them is enough, and a second name for it is written {name} = "{same}"',
                )

    def identity(self, run: Run, changes: Mapping[str, Value]) -> str:
        """Equal for two rows that are the same job: how they differ from the baseline in what can change a result."""
        told = {name: value for name, value in changes.items() if name in self.stateful}
        space = {name: repr(one) for name, one in self.spaces.get(run.name, {}).items()}
        told |= {f"search of {name}": one for name, one in space.items()}
        if run.start.kind == "winners":
            return json.dumps([sorted(run.start.names), told], sort_keys=True)
        return json.dumps({name: value for name, value in told.items() if value != self.settings.get(name)}, sort_keys=True)

    def check_references(self, run: Run, settings: Mapping[str, Value]) -> None:
        """A value "as RUN" means RUN's own settings: known from the start, and not in turn "as" another's."""
        node = self.section("runs").keys[run.name]
        for setting, value in settings.items():
            name = referenced(value)
            if name not in self.names:
                continue
            target = self.runs[self.names[name]]
            if target.name == run.name:
                raise self.file.wrong(node, f'a cycle: {run.name} has {setting} = "as {name}", which is {run.name} itself')
            if target.name in self.spaces:
                raise self.file.wrong(node, f'{setting} = "as {name}": {name} searches its settings; name a run that does not')
            if target.start != Start():
                raise self.file.wrong(
                    node, f'{setting} = "as {name}": {name} does not start from the baseline; name a run that does'
                )
            others = {**self.references, **target.changes}
            nested = [one for one, other in others.items() if referenced(other) in self.names]
            if nested:
                chain = f'{setting} = "as {name}", and {name} has {nested[0]} = "{others[nested[0]]}"'
                raise self.file.wrong(node, f"a cycle or chain: {run.name} has {chain}; name a run with a value of its own")

    def read_not_swept(self) -> None:
        nodes = dict(_assignments(self.section("not_swept")))
        self.not_swept = {name: self.file.string(node, f"not_swept.{name}") for name, node in nodes.items()}

    def check_swept(self, run: Run) -> None:
        for setting in (*run.changes, *self.spaces.get(run.name, ())):
            for name in (setting, setting.rpartition(".")[2]):
                if name in self.not_swept:
                    raise self.file.wrong(
                        self.section("runs").keys[run.name],
                        f"{run.name} changes {setting}, which [not_swept] leaves alone: {self.not_swept[name]}",
                    )

    # -------- seeds, metrics

    def read_seeds(self) -> dict[str, tuple[int, ...]]:
        node = self.section("seeds")
        for key, child in node.keys.items():
            self.file.key(child, key, ("every", "extra"), "seeds")
        if "every" not in node.keys:
            raise self.file.wrong(node, "[seeds] must say `every`, such as every = [42]")
        every = self.seed_list(node.keys["every"], "seeds.every", ())
        if not every:
            raise self.file.wrong(node.keys["every"], "seeds.every must name at least one seed, such as [42]")
        seeds = dict.fromkeys(self.runs, every)
        extra = node.keys.get("extra", _empty())
        for name, child in self.file.table(extra, "seeds.extra").items():
            run = self.names[self.file.known(child, name, self.names, "run")]
            seeds[run] += self.seed_list(child, f"seeds.extra.{name}", seeds[run])
        return seeds

    def seed_list(self, node: Node, what: str, before: tuple[int, ...]) -> tuple[int, ...]:
        found: list[int] = []
        for item in self.file.items(node, what):
            seed = self.file.cast(item, _SEED)
            if seed in found or seed in before:
                raise self.file.wrong(item, f"{what} repeats the seed {seed}")
            found.append(seed)
        return tuple(found)

    def read_metrics(self) -> None:
        self.metrics: dict[str, Metric] = {}
        for name, node in self.section("metrics").keys.items():
            if not re.fullmatch(r"[^\s,]+", name) or name in RESERVED:
                raise self.file.wrong(
                    node, f"{as_toml(name)} cannot name a metric: no spaces, commas, or words of the conditions"
                )
            values = self.file.filled(node, _METRIC, f"metrics.{name}")
            self.metrics[name] = Metric(name, **values, line=self.file.line(node))

    def read_expects(self) -> None:
        """What rows' authors believe in: `expects = { val_loss = -0.05 }`, or "no worse"."""
        for run, node in self.expects.items():
            if run == self.of_study["baseline"]:
                raise self.file.wrong(node, f"{run} is the baseline: it has no start that it could be expected to differ from")
            found: dict[str, float | Literal["no worse"]] = {}
            for name, child in self.file.table(node, "`expects`").items():
                self.file.known(child, name, self.metrics, "metric")
                size = child.value
                if size == "no worse":
                    found[name] = "no worse"
                elif isinstance(size, int | float) and not isinstance(size, bool) and math.isfinite(size):
                    found[name] = float(size)
                else:
                    raise self.file.wrong(
                        child, f'what {run} is expected to shift {name} by is a number, or "no worse"; not {as_toml(size)}'
                    )
            self.runs[run] = replace(self.runs[run], expects=found)

    # -------- sweeps

    def read_sweeps(self) -> None:
        self.sweeps: dict[str, Sweep] = {}
        for name, node in self.root.keys.items():
            if name.startswith("sweep"):
                self.sweeps[name] = self.sweep(name, node)

    def sweep(self, name: str, node: Node) -> Sweep:
        file, keys = self.file, node.keys
        for key, child in keys.items():
            file.key(child, key, ("asks", "compare", "on", "skip", "decide", "learn"), name)
        on = file.string(keys["on"], f"{name}.on") if "on" in keys else ""
        if on:
            file.known(keys["on"], on, self.metrics, "metric")
        compare = self.run_names(keys["compare"], f"{name}.compare") if "compare" in keys else ()
        trees = file.table(keys["decide"], f"{name}.decide") if "decide" in keys else {}
        learn = file.items(keys["learn"], f"{name}.learn") if "learn" in keys else []
        if not trees and not learn:
            raise file.wrong(node, f"[{name}] has no `decide` tree and no `learn` lines: it asks nothing")
        return Sweep(
            name=name,
            asks=file.string(keys["asks"], f"{name}.asks") if "asks" in keys else "",
            compare=compare,
            on=on,
            trees=tuple(self.tree(name, tree, child, on) for tree, child in trees.items()),
            learn=tuple(self.learn_line(name, child, on) for child in learn),
            skip=self.skip(name, keys["skip"]) if "skip" in keys else None,
            line=file.line(node),
        )

    def run_names(self, node: Node, what: str) -> tuple[str, ...]:
        """Names of runs as the file has them, each run once."""
        found: dict[str, str] = {}
        for item in self.file.items(node, what):
            name = self.file.known(item, self.file.string(item, f"a run in {what}"), self.names, "run")
            if self.names[name] in found:
                also = f" ({name} is another name for it)" if name in self.aliases else ""
                raise self.file.wrong(item, f"{what} names {self.names[name]} twice{also}")
            found[self.names[name]] = name
        return tuple(found.values())

    def condition(self, node: Node, on: str) -> tuple[str, Condition]:
        text = self.file.string(node, "a condition")
        try:
            return text, parse(text, on=on, runs=self.names, metrics=self.metrics, decisions=self.decisions)
        except ConditionError as error:
            raise self.file.wrong_in(node, error) from None

    def strings(self, node: Node, parts: tuple[str, ...], what: str) -> list[Node]:
        """A line of a tree: so many strings."""
        items = self.file.items(node, f"a line of {what}")
        if len(items) != len(parts) or not all(isinstance(item.value, str) for item in items):
            form = ", ".join(f'"{part}"' for part in parts)
            raise self.file.wrong(node, f"a line of {what} is [{form}]")
        return items

    def tree(self, sweep: str, name: str, node: Node, on: str) -> Tree:
        what = f"{sweep}.decide.{name}"
        nodes = self.file.items(node, what)
        lines = tuple(self.tree_line(what, child, on) for child in nodes)
        ends = [number for number, line in enumerate(lines) if isinstance(line.condition, Otherwise)]
        if not ends:
            raise self.file.wrong(
                nodes[-1] if nodes else node,
                f'the tree {name} does not end in a line ["otherwise", "RUN", "why"]: nothing would be taken when no line holds',
            )
        if ends[0] != len(lines) - 1:
            raise self.file.wrong(
                nodes[ends[0]], '"otherwise" must be the last line of its tree: no line below it is ever reached'
            )
        return Tree(name, sweep, lines, self.file.line(node))

    def tree_line(self, what: str, node: Node, on: str) -> Line:
        condition, take, because = self.strings(node, ("condition", "take", "because"), what)
        text, parsed = self.condition(condition, on)
        try:
            kind, runs = parse_take(take.value, runs=self.names)
        except ConditionError as error:
            raise self.file.wrong_in(take, error) from None
        return Line(text, parsed, Take(kind, runs), because.value, self.file.line(node))

    def learn_line(self, sweep: str, node: Node, on: str) -> Learn:
        condition, say = self.strings(node, ("condition", "what it tells"), f"{sweep}.learn")
        text, parsed = self.condition(condition, on)
        if isinstance(parsed, Otherwise):
            raise self.file.wrong(node, '"otherwise" has no place in `learn`: its lines do not exclude each other')
        return Learn(text, parsed, say.value, self.file.line(node))

    def skip(self, sweep: str, node: Node) -> Skip:
        table = self.file.table(node, f"{sweep}.skip")
        for key, child in table.items():
            self.file.key(child, key, ("if", "because"), f"{sweep}.skip")
        if set(table) != {"if", "because"}:
            raise self.file.wrong(node, f'{sweep}.skip must be {{ if = "DECISION took RUN", because = "why" }}')
        text, parsed = self.condition(table["if"], "")
        if isinstance(parsed, Otherwise) or not all(isinstance(atom, Took) for atom in atoms(parsed)):
            raise self.file.wrong(
                table["if"], f'a sweep is skipped by what a decision took ("freeze took F1"), not by {as_toml(text)}'
            )
        return Skip(text, parsed, self.file.string(table["because"], f"{sweep}.skip.because"))

    # -------- blocks, lock, figures

    def read_blocks(self) -> tuple[Block, ...]:
        found: list[Block] = []
        block_of: dict[str, str] = {}
        for name, node in self.section("blocks").keys.items():
            self.file.name(node, name, "block")
            names = self.run_names(node, f"block {name}")
            runs = tuple(self.names[run] for run in names)
            for run, item in zip(runs, node.items or [], strict=True):
                if run in block_of:
                    also = f"{item.value} is {run}, which" if item.value != run else run
                    raise self.file.wrong(item, f"{also} is in block {block_of[run]} already; a run has one block")
                block_of[run] = name
            found.append(Block(name, runs))
        return tuple(found)

    def read_lock(self, blocks: tuple[Block, ...]) -> str:
        node = self.section("lock")
        for key, child in node.keys.items():
            self.file.key(child, key, ("after", "confirm"), "lock")
        if "after" not in node.keys:
            return ""
        after = node.keys["after"]
        if isinstance(after.value, bool) or not isinstance(after.value, int | str):
            raise self.file.wrong(after, f"lock.after must be a block, not {as_toml(after.value)}")
        return self.file.known(after, str(after.value), [block.name for block in blocks], "block")

    def read_confirm(self, seeds: Mapping[str, tuple[int, ...]]) -> Confirm | None:
        node = self.section("lock").keys.get("confirm")
        if node is None:
            return None
        table = self.file.table(node, "lock.confirm")
        for key, child in table.items():
            self.file.key(child, key, ("against", "seeds", "on"), "lock.confirm")
        if "against" not in table or "seeds" not in table:
            raise self.file.wrong(node, "lock.confirm must say `against` and `seeds`, such as seeds = [45, 46, 47]")
        if "after" not in self.section("lock").keys:
            raise self.file.wrong(node, "lock.confirm needs lock.after: without a lock there is nothing to confirm")
        baseline = self.of_study["baseline"]
        against = self.file.known(table["against"], self.file.string(table["against"], "lock.confirm.against"), self.names, "run")
        if self.names[against] != baseline:
            raise self.file.wrong(
                table["against"], f"lock.confirm.against must be the baseline {baseline}: the lock is that and what was decided"
            )
        found = self.seed_list(table["seeds"], "lock.confirm.seeds", ())
        if not found:
            raise self.file.wrong(table["seeds"], "lock.confirm.seeds must name at least one seed, such as [45, 46, 47]")
        used = {seed: run for run, of_run in seeds.items() for seed in of_run}
        for seed in found:
            if seed in used:
                raise self.file.wrong(
                    table["seeds"], f"lock.confirm.seeds must be fresh: {used[seed]} has been trained with seed {seed}"
                )
        return Confirm(baseline, found, self.confirm_on(table, node), self.file.line(node))

    def confirm_on(self, table: Mapping[str, Node], node: Node) -> str:
        """The metric: as declared, else that of the first sweep that decides something, else the first."""
        if "on" in table:
            name = self.file.string(table["on"], "lock.confirm.on")
            return self.file.known(table["on"], name, self.metrics, "metric")
        decided = [sweep.on for sweep in self.sweeps.values() if sweep.trees and sweep.on]
        if not (decided or self.metrics):
            raise self.file.wrong(node, "lock.confirm needs a metric: declare one in [metrics]")
        return [*decided, *self.metrics][0]

    def read_looks(self, looks: tuple[int, ...], seeds: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        node = self.section("evidence").keys.get("looks")
        if node is None or not looks:
            return ()
        if looks[0] < 1 or any(late <= early for early, late in pairwise(looks)):
            raise self.file.wrong(node, f"evidence.looks are seeds per run, growing, such as [3, 5]; not {as_toml([*looks])}")
        most = max(len(of_run) for of_run in seeds.values())
        if most != looks[-1]:
            run = next(name for name, of_run in seeds.items() if len(of_run) == most)
            raise self.file.wrong(
                node,
                f"evidence.looks ends at {looks[-1]} seeds, and the most any run has is {most} ({run}); give [seeds] those "
                f"of every look, or end at {most}",
            )
        return looks

    def read_figures(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for name, node in self.section("figures").keys.items():
            if node.value == "every run":
                found[name] = tuple(self.runs)
            elif node.items is None:
                raise self.file.wrong(node, f'a figure draws ["RUN", ...] or "every run", not {as_toml(node.value)}')
            else:
                found[name] = tuple(self.names[run] for run in self.run_names(node, f'figure "{name}"'))
        return found

    # -------- searches

    def read_searches(self) -> None:
        """Give every row with a space its budget: that of [search], for all arms the same, unless the row says otherwise."""
        node = self.section("search")
        besides = ("short",)
        of_all = self.file.filled(node, _SEARCH, "search", besides)
        if of_all["halving"] == 1:
            allowed = "0, for no trial to be stopped, or at least 2, not 1: the best 1/1 of the trials is all of them"
            raise self.file.wrong(node.keys["halving"], f"search.halving must be {allowed}")
        short_node = node.keys.get("short", _empty())
        self.file.table(short_node, "search.short")
        short_at = dict(_assignments(short_node))
        short = self.typed(short_at)
        for name, space in self.spaces.items():
            row = self.section("runs").keys[name]
            trials = of_all["trials"]
            if "trials" in row.keys:
                trials = self.file.cast(row.keys["trials"], replace(_SEARCH["trials"], name=f"runs.{name}.trials"))
            if not trials:
                raise self.file.wrong(row, f"{name} searches and has no budget: give [search] trials = 12, for all rows that do")
            for setting in space:
                if setting in short:
                    raise self.file.wrong(row, f"{name} searches {setting}, which [search] short sets; take it out of one")
            self.check_short(self.runs[name], short, short_at)
            search = Search(space, trials, self.search_on(node), short, *(of_all[key] for key in _SEARCH if key not in _BUDGET))
            self.runs[name] = replace(self.runs[name], search=search)

    def check_short(self, run: Run, short: Mapping[str, Value], at: Mapping[str, Node]) -> None:
        """No trial is longer than its row, as far as the row's length does not hang on decisions."""
        mine = run.changes if run.start.kind == "winners" else {**self.settings, **self.differences(run)}
        for name, value in short.items():
            whole = mine.get(name)
            numbers = isinstance(value, int | float) and isinstance(whole, int | float)
            if name.rsplit(".", 1)[-1] in BUDGET and numbers and value > whole:  # type: ignore[operator]  # numbers, as just seen
                raise self.file.wrong(
                    at[name],
                    f"[search] short has trials train with {name} = {as_toml(value)}, and {run.name} has {as_toml(whole)}: "
                    "a trial that is longer than its row saves nothing; lower it, or leave it out",
                )

    def search_on(self, node: Node) -> str:
        """The metric: as declared, else that of the first sweep that decides something, else the first."""
        if "on" in node.keys:
            return self.file.known(node.keys["on"], self.file.string(node.keys["on"], "search.on"), self.metrics, "metric")
        decided = [sweep.on for sweep in self.sweeps.values() if sweep.trees and sweep.on]
        if not (decided or self.metrics):
            raise self.file.wrong(node, "[search] needs a metric to choose by: declare one in [metrics]")
        return [*decided, *self.metrics][0]

    def check_searches(self, study: Study) -> None:
        """No seed of a trial is one that a comparison uses."""
        used = {seed: run for run, of_run in reversed([*study.seeds.items()]) for seed in of_run}
        used |= dict.fromkeys(study.confirm.seeds, "lock.confirm") if study.confirm else {}
        for row in study.searching:
            assert row.search is not None, "see searching"
            mine = range(row.search.first_seed, row.search.seed(row.search.trials) + 1)
            taken = next((seed for seed in used if seed in mine), None)
            if taken is not None:
                raise self.file.wrong(
                    self.section("runs").keys[row.name],
                    f"the trials of {row.name} train with seeds {mine[0]} to {mine[-1]}, and {used[taken]} is compared on "
                    f"{taken}; no value may be chosen on a seed it is judged by: give [search] another first_seed",
                )

    # -------- what concerns several sections

    def check_sweeps(self, study: Study) -> None:
        for name, sweep in study.sweeps.items():
            keys = self.root.keys[name].keys
            lines = keys["learn"].items or [] if "learn" in keys else []
            for learn, node in zip(sweep.learn, lines, strict=True):
                self.check_condition(study, learn.condition, node)
            for tree in sweep.trees:
                for line, node in zip(tree.lines, self.decisions[tree.name].items or [], strict=True):
                    self.check_condition(study, line.condition, node)
                    if line.take.kind == "its start":
                        self.check_its_start(study, tree, node)
                    else:
                        self.check_take(study, tree, line, node)
            if sweep.skip:
                self.check_condition(study, sweep.skip.condition, keys["skip"])

    def check_condition(self, study: Study, condition: Condition, node: Node) -> None:
        for atom in atoms(condition):
            match atom:
                case Compared(a=a, b=b) if b == ITS_START:
                    if a == study.baseline:
                        raise self.file.wrong(node, f"{a} is the baseline: it has no start to be compared with")
                case Compared(a=a, b=b):
                    if _common(study.runs[a].start) != _common(study.runs[b].start):
                        raise self.file.wrong(
                            node,
                            f"{a} and {b} do not share a start ({_start_words(study, a)}; {_start_words(study, b)}), so their "
                            f'difference has several causes; compare with a run of the same start, or with "{ITS_START}"',
                        )
                case Took(decision=decision, run=run):
                    takes = [line.take for line in study.trees[decision].lines]
                    can = list(dict.fromkeys(one for take in takes for one in take.runs))
                    if run not in can and "its start" not in {take.kind for take in takes}:
                        raise self.file.wrong(node, f"{decision} never takes {run}; it can take {listed(can, 'or')}")

    def check_configs(self, study: Study) -> None:
        """Nothing that may come to be trained has settings that contradict each other."""
        if found := contradiction(study):
            config, said = found
            node = self.section("lock").keys["confirm"] if config.row == LOCKED else self.section("runs").keys[config.row]
            raise self.file.wrong(node, said)

    def check_take(self, study: Study, tree: Tree, line: Line, node: Node) -> None:
        """What is taken adds to what its rows started from, so it must have started there too: it could not take that back."""
        atoms_of_tree = [atom for each in tree.lines for atom in atoms(each.condition)]
        rows = [study.run_named(atom.a) for atom in atoms_of_tree if isinstance(atom, Compared)]
        built = next((row for row in rows if row.start.kind == "winners"), None)
        for name in line.take.runs if built else ():
            if built and _common(study.run_named(name).start) != _common(built.start):
                took = f"what {listed(built.start.names)} took"
                raise self.file.wrong(
                    node,
                    f"{name} cannot be taken here: {built.name} starts from {took}, and {name} does not. Taking it would set "
                    f'what {name} changes and leave {took} as it is; to stay there, write "{ITS_START}"',
                )

    def check_its_start(self, study: Study, tree: Tree, node: Node) -> None:
        compared = {
            atom.a for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared) and atom.b == ITS_START
        }
        rows = compared or {run for line in tree.lines for run in line.take.runs}
        if len({_common(study.run_named(row).start) for row in rows}) != 1:
            named = f"this tree speaks of {listed(sorted(rows))}" if rows else "this tree names no run"
            raise self.file.wrong(node, f'"{ITS_START}" of which run? {named}; name the run to take instead')

    def check_order(self, study: Study) -> None:
        """No cycles, and no run in a block before one it needs."""
        needs = _needs(study)
        rows = self.section("runs").keys
        try:
            TopologicalSorter(needs).prepare()
        except CycleError as error:
            cycle = list(reversed(error.args[1]))  # graphlib names the needed one first
            run = min((name for kind, name in cycle if kind == "run"), key=list(study.runs).index, default="")
            first = cycle.index(("run", run)) if run else 0
            told = ", which needs ".join(name for _, name in [*cycle[first:-1], *cycle[:first], cycle[first]])
            told = told.replace(", which needs ", " needs ", 1)
            raise self.file.wrong(rows[run] if run else self.decisions[cycle[0][1]], f"a cycle: {told}") from None
        position = {run: number for number, block in enumerate(study.blocks) for run in block.runs}
        for number, block in enumerate(study.blocks):
            for run, node in zip(block.runs, self.section("blocks").keys[block.name].items or [], strict=True):
                for via, needed in _all_needs(needs, ("run", run)):
                    if position.get(needed, -1) > number:
                        later = study.blocks[position[needed]].name
                        raise self.file.wrong(
                            node,
                            f"{run} is in block {block.name} but needs {via}, which needs {needed} of block {later}, written "
                            f"below: blocks count in the order they are written. Write block {later} above block {block.name}, "
                            f"or put {run} into a block below it",
                        )


# ---------------------------------------------------------------- small parts


def _wrong_range(one: Range) -> str:
    """What is wrong with a range whose values are of its setting's type; "" if nothing is."""
    values = one.values
    if one.kind == "choice":
        distinct = len({json.dumps(value, sort_keys=True) for value in values})
        return "" if len(values) > 1 and distinct == len(values) else "a choice must name at least two values, each once"
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) != 2 or len(values) != 2 or numbers[0] >= numbers[1]:
        return f"`{one.kind}` must be two numbers, the lower first"
    whole = isinstance(numbers[0], int)
    if one.kind == "log" and numbers[0] <= 0:
        return "`log` must begin above 0"
    if one.kind == "int" and not whole:
        return "`int` is for settings that are whole numbers; write `uniform` or `log`"
    return "`uniform` is for settings that are no whole numbers; write `int`" if one.kind == "uniform" and whole else ""


_Need = tuple[Literal["run", "decision"], str]


def _needs(study: Study) -> dict[_Need, set[_Need]]:
    """What each run and decision waits for. Decisions wait for the runs they compare; rows for the decisions they start from,
    and those that may skip their sweep."""
    needs: dict[_Need, set[_Need]] = {
        ("run", run.name): {("decision", one) for one in run.start.names}
        for run in study.runs.values()
        if run.start.kind == "winners"
    }
    in_sweeps: dict[str, set[str]] = {}
    for sweep in study.sweeps.values():
        for run in runs_of_sweep(study, sweep):
            in_sweeps.setdefault(run, set()).add(sweep.name)
    for sweep in study.sweeps.values():
        gates: set[_Need] = {("decision", one) for one in _took(sweep.skip.condition)} if sweep.skip else set()
        for tree in sweep.trees:
            named = {study.aliases.get(run, run) for run in runs_of_tree(tree) - {ITS_START}}
            asked = {one for line in tree.lines for one in _took(line.condition)}
            needs[("decision", tree.name)] = {("run", run) for run in named} | {("decision", one) for one in asked} | gates
        for run in runs_of_sweep(study, sweep) if gates else ():
            if in_sweeps[run] == {sweep.name} and run != study.baseline:
                needs.setdefault(("run", run), set()).update(gates)
    return needs


def _took(condition: Condition) -> set[str]:
    return {atom.decision for atom in atoms(condition) if isinstance(atom, Took)}


def _all_needs(needs: Mapping[_Need, set[_Need]], start: _Need) -> Iterator[tuple[str, str]]:
    """Every run that `start` needs, however far, with the decision it is needed by."""
    todo, seen = [start], {start}
    while todo:
        here = todo.pop()
        for need in sorted(needs.get(here, ())):
            if need not in seen:
                seen.add(need)
                todo.append(need)
                if need[0] == "run":
                    yield here[1], need[1]


def _common(start: Start) -> tuple[str, frozenset[str]]:
    return start.kind, frozenset(start.names)


def _start_words(study: Study, run: str) -> str:
    start = study.runs[run].start
    if start.kind == "baseline":
        return f"{run} starts from {study.baseline}"
    return f"{run} from {quoted(start.names, 'and')}"


def _likes(name: str, profiles: Mapping[str, Node]) -> list[str]:
    """A profile and those it is like, up to `full` or the first that comes again."""
    chain: list[str] = []
    while name in profiles and name not in chain:
        chain.append(name)
        like = profiles[name].keys.get("like")
        name = like.value if like is not None and isinstance(like.value, str) else ""
    return [*chain, name] if name in chain else chain


def _empty() -> Node:
    node = Node(0)
    node.table = {}
    return node
