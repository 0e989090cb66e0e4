"""What each row starts from: the baseline, a named start, or what decisions took; and which run trains exactly that. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ablate.conditions import listed
from ablate.planning.outcomes import STOP, may_start_from_new
from ablate.study import REFERENCE, Run, Settings, Study
from db.records import DecisionRecord


def resolved(study: Study, run: Run, decisions: Mapping[str, DecisionRecord]) -> Settings | str:
    """The run's settings in full, or what they wait for."""
    start = unchosen(run) or start_settings(study, run, decisions)
    return start if isinstance(start, str) else {**start, **run.changes}


def start_settings(study: Study, run: Run, decisions: Mapping[str, DecisionRecord]) -> Settings | str:
    """The settings a run changes, or what they wait for."""
    if run.start.kind == "baseline":
        return study.settings
    if run.start.kind == "named":
        return {**study.settings, **study.starts[run.start.names[0]].changes}
    open_ = [name for name in run.start.names if not is_made(decisions.get(name))]
    if open_:
        return f"decision {' and '.join(open_)} {'is' if len(open_) == 1 else 'are'} open"
    settings, source = dict(study.settings), dict[str, str]()
    for name in run.start.names:
        decision = decisions[name]
        if decision.took == STOP:
            return f'decision {name} says stop: "{decision.because}"'
        for setting, value in decision.sets.items():
            if source.get(setting) and settings[setting] != value:
                return f"decisions {source[setting]} and {name} both set {setting}: overrule one of them"
            settings[setting], source[setting] = value, name
    return settings


def trainable(study: Study, row: Run, start: Settings | str) -> Settings | str:
    """The start of a row; or why nothing can be trained from it, where decisions brought together what the trainer refuses."""
    if isinstance(start, str) or row.start.kind != "winners" or study.conflict is None:
        return start
    said = study.conflict(start, {}) or study.conflict(start, row.changes)
    names = row.start.names
    one = "one of them" if len(names) > 1 else "it"
    return f"cannot be trained on what {listed(names)} took: {said}; overrule {one}" if said else start


def unchosen(row: Run) -> str:
    """What a row waits for that is tuned and has not chosen yet; "" for any other."""
    if row.search is None or row.chosen:
        return ""
    return f"its search among {row.search.trials} trials has not chosen yet"


def is_made(decision: DecisionRecord | None) -> bool:
    """Whether others may build on it; a skipped tree is settled too: the baseline stays."""
    return decision is not None and decision.status != "waiting"


def says_else(study: Study, one: DecisionRecord, other: DecisionRecord) -> bool:
    """Whether what rests on `one` would be another thing resting on `other`."""
    took = [study.aliases.get(record.took, record.took) for record in (one, other)]
    return (took[0], dict(one.sets)) != (took[1], dict(other.sets))


# ---------------------------------------------------------------- who trains a start


@dataclass(frozen=True)
class Starts:
    """What all rows start from, as these decisions have it."""

    settings: Mapping[str, Settings | str]
    """Row -> the settings it changes, or what they wait for."""
    added: Mapping[str, Run]
    """Reference runs: starts of rows that no row trains (or that may turn out so, while decisions are open)."""
    its_start: Mapping[str, str]
    """Row -> the run that trains exactly its start."""


def starts_of(study: Study, decisions: Mapping[str, DecisionRecord], once: bool) -> Starts:
    """once: what two rows have in common is trained once."""
    trains: dict[str, str] = {}
    baseline = _canonical(study.settings)
    for run in study.runs.values():
        own = resolved(study, run, decisions) if run.start.kind != "winners" else ""
        if not isinstance(own, str):
            trains.setdefault(_canonical(own), run.name)
    made = {name: record.sets for name, record in decisions.items() if is_made(record)}
    new = may_start_from_new(study, made, lambda sets: _canonical({**study.settings, **sets}) in trains) if once else study.runs
    settings: dict[str, Settings | str] = {}
    added: dict[str, Run] = {}
    its_start: dict[str, str] = {}
    for run in study.runs.values():
        start = settings[run.name] = start_settings(study, run, decisions)
        same = "" if isinstance(start, str) else baseline if start is study.settings else _canonical(start)
        if run.start.kind == "winners" and same not in trains and (same or run.name in new):
            added[run.name + REFERENCE] = Run(run.name + REFERENCE, start=run.start, line=run.line)
        if same:
            if run.start.kind == "winners":
                trains.setdefault(same, run.name + REFERENCE)
            if trains.get(same, run.name) != run.name:
                its_start[run.name] = trains[same]
    return Starts(settings, added, its_start)


_canonical = json.JSONEncoder(sort_keys=True).encode
