"""Rows that are tuned before they are trained: the points their trials tried, the one that was chosen, what it cost. Pure.

A row with `search = { setting = { log = [1, 300] } }` first has trials, a job each: the row at another point, made cheap by
`short`, on a seed of its own. tune.py draws the points and says which trials to give up; when all have ended the best point is
recorded like a decision, becomes part of the row's changes, and the row is trained anew on the seeds of the comparison. What a
trial scored was selected among many, so it is no evidence: no comparison ever sees a trial.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ablate.planning.freeze import content_hash, search_content
from ablate.settings import as_toml
from ablate.study import BUDGET, LOCKED, TRIAL, JobState, Range, Run, Search, Settings, Study, Value, job_key
from db.records import DecisionRecord, JobRecord

SEARCH_OF = "search of "
"""A record among the decisions whose name begins so says which point a row's trials chose; with a space, so that no tree can."""
GIVEN_UP, TUNED = "given_up", "tuned"
"""Facts of an attempt that launching adds: why its search gave the trial up; with how many trials its run was tuned."""
DIGITS = 6
"""Of a number that a search chose: 31.6228, not 31.622776601683793."""


@dataclass(frozen=True)
class Tried:
    """One trial that has ended."""

    number: int
    key: str
    code_hash: str
    point: Settings
    state: JobState
    score: float | None
    """On the search's metric, if it came to its end."""
    curve: tuple[float, ...] = ()
    """The metric at each of its evaluations."""


# ---------------------------------------------------------------- points


def drawn(study: Study, row: Run, start: Settings, jobs: Iterable[JobRecord]) -> dict[int, JobRecord]:
    """Trial -> its job, of those `jobs` that today's file would still make, the first of each.

    start: the settings the row changes. A trial of another space, budget or start has another key, and is not used.
    """
    search = searched(row)
    found: dict[int, JobRecord] = {}
    for job in jobs:
        number = job.seed - search.first_seed + 1
        if job.run != row.name + TRIAL or not 1 <= number <= search.trials or number in found:
            continue
        point = {name: job.settings[name] for name in search.space if name in job.settings}
        inside = len(point) == len(search.space) and all(holds(search.space[name], value) for name, value in point.items())
        if inside and job.key == job_key(study, job.run, job.seed, trial_settings(row, start, point)):
            found[number] = job
    return found


def trial_settings(row: Run, start: Settings, point: Settings) -> Settings:
    """What a trial at this point trains with."""
    return {**start, **row.changes, **searched(row).short, **point}


def searched(row: Run) -> Search:
    assert row.search is not None, f"{row.name} declares no search"
    return row.search


def holds(one: Range, value: Any) -> bool:
    """Whether a value lies in the range."""
    if one.kind == "choice":
        return value in one.values
    low, high = bounds(one)
    return isinstance(value, int | float) and low <= value <= high


def bounds(one: Range) -> tuple[float, float]:
    """Of a range of numbers."""
    low, high = one.values
    assert isinstance(low, int | float), one
    assert isinstance(high, int | float), one
    return low, high


def rounded(one: Range, value: float) -> Value:
    """A number as the file would write it, still within the range."""
    low, high = bounds(one)
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


# ---------------------------------------------------------------- the choice


def choose(study: Study, row: Run, tried: Sequence[Tried], declared: str, now: str) -> DecisionRecord | None:
    """The record of a search whose trials have all ended: the best score of those that came to their end.

    declared: see `declaration`. None when no trial has a score.
    """
    search = searched(row)
    scored = [one for one in tried if one.score is not None]
    if not scored:
        return None
    lower = study.metrics[search.on].better == "lower"
    best = min(scored, key=lambda one: (_score(one) if lower else -_score(one), one.number))
    states = Counter(one.state for one in tried)
    others = [f"{states[state]} {state}" for state in ("stopped", "diverged", "failed") if states[state]]
    return DecisionRecord(
        name=f"{SEARCH_OF}{row.name}",
        sweep="",
        status="decided",
        took=f"{row.name}{TRIAL}-s{search.seed(best.number)}",
        line=f"the {'lowest' if lower else 'highest'} {search.on} of {search.trials} trials",
        sets=dict(best.point),
        because=f"selected, not evidence: trial {best.number} of {search.trials} scored {_score(best):.4g} on {search.on}"
        f" ({', '.join([f'{len(scored)} came to their end', *others])})",
        by="rule",
        at=now,
        comparisons=tuple(
            {"trial": one.number, "job": one.key, "point": dict(one.point), "state": one.state, "score": one.score}
            for one in tried
        ),
        jobs={one.key: one.code_hash for one in tried},
        tree_hash=declared,
    )


def _score(one: Tried) -> float:
    assert one.score is not None, one
    return one.score


def is_search(record: DecisionRecord) -> bool:
    """Whether a record says what a search chose; its `comparisons` are trials then, and no evidence."""
    return record.name.startswith(SEARCH_OF)


def declaration(study: Study, row: Run, decisions: Mapping[str, DecisionRecord]) -> str:
    """Hash of all that a search's outcome hangs on: space, budget, row, start. A choice made for another one is void."""
    search = searched(row)
    start = study.starts[row.start.names[0]].changes if row.start.kind == "named" else {}
    taken = [dict(decisions[name].sets) for name in row.start.names if name in decisions] if row.start.kind == "winners" else []
    settings = {name: value for name, value in {**study.settings, **start}.items() if name in study.stateful}
    changes = {name: value for name, value in row.changes.items() if name not in search.space}
    return content_hash({"search": search_content(search), "from": settings, "taken": taken, "changes": changes})


def with_chosen(study: Study, decisions: Mapping[str, DecisionRecord]) -> Study:
    """The study with what its searches chose among the changes of their rows."""
    found = {}
    for row in study.searching:
        record = decisions.get(f"{SEARCH_OF}{row.name}")
        declared = {name: value for name, value in row.changes.items() if name not in searched(row).space}
        plain = replace(row, changes=declared, chosen="")
        if record is not None and record.tree_hash == declaration(study, plain, decisions):
            plain = replace(plain, changes={**declared, **record.sets}, chosen=record.because)
        if plain != row:
            found[row.name] = plain
    return replace(study, runs={**study.runs, **found}) if found else study


def with_examples(study: Study) -> Study:
    """The study as if no row searched, for who looks before anything ran: one that has not chosen has a point of its space."""
    found = {}
    for row in study.searching:
        point = {} if row.chosen else _example(searched(row), study.settings)
        found[row.name] = replace(row, changes={**row.changes, **point}, search=None, chosen="")
    return replace(study, runs={**study.runs, **found}) if found else study


def _example(search: Search, baseline: Settings) -> dict[str, Value]:
    """The middle of a search's space; an end of it, where the middle is what the baseline has: a row must differ to be seen."""
    middle = {name: _middle(one) for name, one in search.space.items()}
    return {name: search.space[name].values[-1] if value == baseline.get(name) else value for name, value in middle.items()}


def _middle(one: Range) -> Value:
    if one.kind == "choice":
        return one.values[len(one.values) // 2]
    low, high = bounds(one)
    middle = math.sqrt(low * high) if one.kind == "log" else (low + high) / 2
    return round(middle) if isinstance(low, int) and isinstance(high, int) else rounded(one, middle)


# ---------------------------------------------------------------- what is told


def tuned(study: Study, run: str, decisions: Mapping[str, DecisionRecord]) -> dict[str, str]:
    """The fact that tells how a run was tuned, for the ledger of fairness; {} for a run that was not."""
    names = adopted_searches(study, decisions) if run == LOCKED else (f"{SEARCH_OF}{run}",)
    found = [budget(searched(row)) for row in study.searching if f"{SEARCH_OF}{row.name}" in names]
    return {TUNED: " and ".join(dict.fromkeys(found))} if found else {}


def adopted_searches(study: Study, decisions: Mapping[str, DecisionRecord]) -> tuple[str, ...]:
    """Names of the records of the searches whose rows the trees have taken: what the lock rests on besides the trees."""
    taken = {study.aliases.get(decisions[name].took, decisions[name].took) for name in study.trees if name in decisions}
    return tuple(name for row in study.searching if row.name in taken and (name := f"{SEARCH_OF}{row.name}") in decisions)


def budget(search: Search) -> str:
    """What was spent on looking, in words: "12 trials at train.samples = 100000"."""
    short = ", ".join(f"{name} = {as_toml(value)}" for name, value in search.short.items())
    return f"{search.trials} trials{f' at {short}' if short else ''}"


def change_text(row: Run) -> str:
    """What a row that searches changes, in words."""
    search = searched(row)
    told = [f"{name} = {_value(value)}" for name, value in row.changes.items()]
    if row.chosen:
        return f"{', '.join(told)} (selected by {search.trials} trials)"
    space = [f"{name} = {range_text(one)}" for name, one in search.space.items()]
    return f"{', '.join([*told, *space])}, to be selected by {search.trials} trials"


def trial_text(row: Run, number: int, settings: Settings | None) -> str:
    """What a trial is."""
    search = searched(row)
    of = f"trial {number} of {search.trials} for {row.name}"
    point = ", ".join(f"{name} = {_value(settings[name])}" for name in search.space) if settings else "its point is not drawn yet"
    return f"{of}: {point}"


def range_text(one: Range) -> str:
    """ "1 … 300 (log)"."""
    if one.kind == "choice":
        return " or ".join(map(as_toml, one.values))
    return f"{' … '.join(map(_value, one.values))}{' (log)' if one.kind == 'log' else ''}"


def _value(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else as_toml(value)


def share(study: Study, row: Run) -> float:
    """How long a trial is beside a whole job of its row, by what the file says of their budgets; at most 1."""
    settings = {**study.settings, **row.changes}
    found = 1.0
    for name, value in searched(row).short.items():
        whole = settings.get(name)
        numbers = isinstance(value, int | float) and isinstance(whole, int | float)
        if name.rsplit(".", 1)[-1] in BUDGET and numbers and whole:
            found = min(found, float(value) / float(whole))  # type: ignore[arg-type]  # numbers, as just seen
    return found
