"""[start] and [runs]: what each row changes, and in what; no two rows are the same job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ablate.conditions import near
from ablate.runs_toml.file import EMPTY, File, Flat, flat
from ablate.runs_toml.names import Names
from ablate.runs_toml.positions import Node
from ablate.runs_toml.settings import Baseline
from ablate.runs_toml.spaces import read_space
from ablate.settings import as_toml, referenced
from ablate.study import NamedStart, Range, Run, Settings, Start, Value

IN_ROW = ("from", "search", "trials", "expects")
"""Keys of a row that are no settings."""


@dataclass(frozen=True)
class Rows:
    starts: Mapping[str, NamedStart]
    runs: Mapping[str, Run]
    spaces: Mapping[str, Mapping[str, Range]]
    """Where the rows that search may look."""
    expects: Mapping[str, Node]
    """Where it stands what a row is expected to do; read when the metrics are known."""

    def differences(self, run: Run) -> dict[str, Value]:
        """What a run changes in the baseline, as far as that does not hang on decisions."""
        start = self.starts[run.start.names[0]].changes if run.start.kind == "named" else {}
        return {**start, **run.changes}


def read_rows(file: File, names: Names, baseline: Baseline) -> Rows:
    starts = _starts(file, names, baseline)
    _check_profiles(file, names, baseline)
    runs: dict[str, Run] = {}
    spaces: dict[str, Mapping[str, Range]] = {}
    expects: dict[str, Node] = {}
    for name, node in file.section("runs").keys.items():
        if name in names.aliases:
            continue
        start = _start_of(file, node.keys["from"], names, starts, baseline.row) if "from" in node.keys else Start()
        searches = "search" in node.keys and "search" not in baseline.types.schema.settings
        changes = _changes(file, node, baseline, searches)
        if searches:
            spaces[name] = read_space(file, name, node.keys["search"], baseline, changes)
        changes |= file.layered("runs", name)
        said = changes.pop("expects", node.keys.get("expects"))
        if said:
            expects[name] = said
        runs[name] = Run(name, baseline.types.cast(changes), start, file.line(node))
    return Rows(starts, runs, spaces, expects)


# ---------------------------------------------------------------- what a row starts from


def _starts(file: File, names: Names, baseline: Baseline) -> dict[str, NamedStart]:
    nodes = file.section("start").keys
    for profile in file.profiles.values():
        for name, node in profile.keys.get("start", EMPTY).keys.items():
            file.known(node, name, nodes, "start")
            file.table(node, f'start."{name}"')
            baseline.types.cast(flat(node))
    starts: dict[str, NamedStart] = {}
    for name, node in nodes.items():
        if name in names.decisions or name in names.runs:
            other = "decision" if name in names.decisions else "run"
            raise file.wrong(node, f'"{name}" is a {other} already; give the start another name')
        file.table(node, f'start."{name}"')
        changes = baseline.types.cast(flat(node) | file.layered("start", name))
        starts[name] = NamedStart(name, changes, file.line(node))
        baseline.check_conflict(changes, node, f'the start "{name}"')
    return starts


def _start_of(file: File, node: Node, names: Names, starts: Mapping[str, NamedStart], baseline: str) -> Start:
    if node.items is not None:
        found = [file.known_string(item, "a decision in `from`", names.decisions, "decision") for item in node.items]
        if not found or len(set(found)) < len(found):
            raise file.wrong(node, f"`from` must name decisions, each once, not {as_toml(node.value)}")
        return Start("winners", tuple(found))
    name = file.string(node, "`from`")
    if names.runs.get(name) == baseline:
        return Start()
    if name in names.runs:
        raise file.wrong(node, f"{name} is a row; a row starts from the baseline, a named start or [decisions]")
    if name in names.decisions:
        return Start("winners", (name,))
    file.known(node, name, (*starts, *names.decisions), "start")
    return Start("named", (name,))


# ---------------------------------------------------------------- what it changes


def _check_profiles(file: File, names: Names, baseline: Baseline) -> None:
    """What any profile says of rows: single settings of them."""
    for profile in file.profiles.values():
        for name, node in profile.keys.get("runs", EMPTY).keys.items():
            file.known(node, name, names.runs, "run")
            if name in names.aliases or node.whole:
                row = names.runs[name]
                raise file.wrong(node, f"a profile changes single settings of a row: runs.{row}.SETTING = ...")
            baseline.types.cast({key: child for key, child in flat(node).items() if key != "expects"})


def _changes(file: File, row: Node, baseline: Baseline, searches: bool) -> Flat:
    """The settings of a row as the file stands."""
    keys = IN_ROW if searches else ("from", "expects")
    found = {name: node for name, node in flat(row).items() if name.partition(".")[0] not in keys}
    for name, node in found.items():
        guesses = near(name, IN_ROW) if "." not in name and name not in baseline.types.schema.settings else ()
        if guesses and name == guesses[0]:
            raise file.wrong(node, f"`{name}` in a row needs `search = {{ SETTING = {{ log = [1, 300] }} }}`")
        if guesses:
            raise file.wrong(node, f'there is no key "{name}" in a row. Did you mean "{guesses[0]}"?')
    return found


# ---------------------------------------------------------------- rows against each other


def check_baseline(file: File, names: Names, row: str, runs: Mapping[str, Run]) -> None:
    """Its row is the one that changes nothing."""
    said = file.section("study").keys["baseline"]
    if row in names.aliases:
        other = names.aliases[row]
        raise file.wrong(said, f'{row} is another name for {other}; write baseline = "{other}"')
    file.known(said, row, runs, "run")
    if runs[row].changes or runs[row].start != Start():
        node = file.section("runs").keys[row]
        raise file.wrong(node, f"{row} is the baseline: its row must be {{}}, its settings are [settings]")


def read_not_swept(file: File) -> dict[str, str]:
    return {name: file.string(node, f"not_swept.{name}") for name, node in flat(file.section("not_swept")).items()}


def check_rows(file: File, names: Names, baseline: Baseline, rows: Rows, not_swept: Mapping[str, str]) -> None:
    references = {name: value for name, value in baseline.settings.items() if referenced(value) in names.runs}
    first_with: dict[str, str] = {}
    for name, run in rows.runs.items():
        node = file.section("runs").keys[name]
        _check_references(file, node, names, rows, run, references)
        _check_swept(file, node, run, rows, not_swept)
        same = first_with.setdefault(_identity(run, rows, baseline), name)
        if same != name:
            raise file.wrong(
                node,
                f"{name} and {same} (line {rows.runs[same].line}) are the same job; "
                f'one of them is enough, and a second name for it is written {name} = "{same}"',
            )


def _check_swept(file: File, node: Node, run: Run, rows: Rows, not_swept: Mapping[str, str]) -> None:
    for setting in (*run.changes, *rows.spaces.get(run.name, ())):
        for name in (setting, setting.rpartition(".")[2]):
            if name in not_swept:
                raise file.wrong(node, f"{run.name} changes {setting}, which [not_swept] leaves alone: {not_swept[name]}")


def _identity(run: Run, rows: Rows, baseline: Baseline) -> str:
    """Equal for two rows that are the same job: how they differ from the baseline in what can change a result."""
    told = {name: value for name, value in rows.differences(run).items() if name in baseline.stateful}
    told |= {f"search of {name}": repr(one) for name, one in rows.spaces.get(run.name, {}).items()}
    if run.start.kind == "winners":
        return json.dumps([sorted(run.start.names), told], sort_keys=True)
    return json.dumps({name: value for name, value in told.items() if value != baseline.settings.get(name)}, sort_keys=True)


def _check_references(file: File, node: Node, names: Names, rows: Rows, run: Run, of_settings: Settings) -> None:
    """A value "as RUN" means RUN's own settings: known from the start, and not in turn "as" another's.

    of_settings: such values in [settings].
    """
    for setting, value in {**of_settings, **rows.differences(run)}.items():
        name = referenced(value)
        if name not in names.runs:
            continue
        target = rows.runs[names.runs[name]]
        if target.name == run.name:
            raise file.wrong(node, f'a cycle: {run.name} has {setting} = "as {name}", which is {run.name} itself')
        if target.name in rows.spaces:
            raise file.wrong(node, f'{setting} = "as {name}": {name} searches its settings; name a run that does not')
        if target.start != Start():
            raise file.wrong(node, f'{setting} = "as {name}": {name} does not start from the baseline; name a run that does')
        others = {**of_settings, **target.changes}
        nested = [one for one, other in others.items() if referenced(other) in names.runs]
        if nested:
            chain = f'{setting} = "as {name}", and {name} has {nested[0]} = "{others[nested[0]]}"'
            raise file.wrong(node, f"a cycle or chain: {run.name} has {chain}; name a run with a value of its own")
