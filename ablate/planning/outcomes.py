"""What decisions may take together, and every config that may come to be trained because of it. Pure.

A trainer may refuse settings that are each fine alone. Which settings meet in a row that starts from decisions is known only when
those are made; which may meet is known as soon as the study is read, because all runs and trees are declared in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, product

from ablate.conditions import ITS_START, Answer, Atom, Condition, Took, atoms, evaluate, listed
from ablate.settings import as_toml
from ablate.study import LOCKED, Line, Run, Search, Settings, Skip, Study, Tree, Value, own_runs, sweeps_of_runs

STOP = "stop"
MOST = 1000
"""Configs of one row that are looked at: all there are, for four or five decisions of the usual size. Of more those come first
in which few decisions take something else than their `otherwise`."""

Taken = Mapping[str, str]
"""Decision -> the run it takes, "its start", "stop", or "" where it is skipped."""


@dataclass(frozen=True)
class Config:
    """Something that may be trained: the baseline, what a start and decisions set in it, and a row's own changes."""

    what: str
    """In words: "D1", "the start of D1"."""
    row: str
    """Whose it is: a row, or LOCKED."""
    taken: Taken
    """Of the decisions it starts from."""
    sets: Mapping[str, Settings]
    """Decision -> the settings that the run it took changes."""
    changes: Settings
    """All else that it changes in the baseline."""

    def without(self, decision: str = "") -> dict[str, Value]:
        """What it changes in the baseline; `decision` left out."""
        of_decisions = [sets for name, sets in self.sets.items() if name != decision]
        return {setting: value for sets in (*of_decisions, self.changes) for setting, value in sets.items()}


def contradiction(study: Study) -> tuple[Config, str] | None:
    """The first config that the trainer would refuse for settings that contradict each other, and that in words."""
    if study.conflict is None:
        return None
    refused = partial(study.conflict, study.settings)
    for config in configs(study):
        if said := refused(config.without()):
            return config, _told(config, said, _blamed(config, refused))
    return None


def _blamed(config: Config, refused: Callable[[Settings], str | None]) -> list[str]:
    """Those of its decisions without which it could be trained."""
    blamed = [name for name in config.sets if not refused(config.without(name))]
    if blamed or refused(config.changes):
        return blamed
    return [name for name, sets in config.sets.items() if sets]


def _told(config: Config, said: str, blamed: Sequence[str]) -> str:
    if not blamed:
        return f"{config.what}: {said}"
    led = listed([f"{name} takes {config.taken[name]} ({_settings(config.sets[name])})" for name in blamed])
    rule = " and ".join(f"{name} took {config.taken[name]}" for name in blamed)
    left_out = f'. To leave {config.row} out then: skip = {{ if = "{rule}", because = … }} in its sweep'
    return f"{config.what}, if {led}: {said}{left_out if config.row != LOCKED else ''}"


def _settings(sets: Settings) -> str:
    return ", ".join(f"{setting} = {as_toml(value)}" for setting, value in sets.items())


def configs(study: Study) -> Iterator[Config]:
    """Every config that may be trained: rows, the starts they are compared with, trials at the ends of their ranges, the lock."""
    skips = _skips(study)
    known: dict[tuple[Collection[str], Skip | None], list[_Base]] = {}
    for row in study.runs.values():
        names, skip = row.start.names if row.start.kind == "winners" else (), skips.get(row.name)
        if (names, skip) not in known:
            known[names, skip] = bases = _bases(study, names, skip)
            if names:
                yield from (Config(f"the start of {row.name}", row.name, *base, {}) for base in bases)
        forms = list(_forms(study, row))
        combined = ((base, form) for base in known[names, skip] for form in forms)
        yield from (Config(what, row.name, *base, changes) for base, (what, changes) in islice(combined, MOST))
    if study.confirm:
        yield from (Config("the lock", LOCKED, *base, {}) for base in _bases(study, tuple(study.trees), None))


def may_start_from_new(study: Study, made: Mapping[str, Settings], trained: Callable[[Settings], bool]) -> list[str]:
    """Rows that may come to start from what no row trains; of several that start from the same, the first.

    made: decision -> what it sets, of those that are made. trained: whether a row that starts from none trains the baseline with
    these changes.
    """
    rows = [run for run in study.runs.values() if run.start.kind == "winners" and not made.keys() >= {*run.start.names}]
    skips, found = _skips(study) if rows else {}, dict[tuple[str, ...], str]()
    for row in rows:
        names = row.start.names
        if names in found:
            continue
        inner = [other for other in study.runs.values() if other.start.kind == "winners" and {*other.start.names} <= {*names}]
        for taken, sets in _bases(study, names, skips.get(row.name)):
            known = {name: made.get(name, sets[name]) for name in names}
            start = _changes(study, known, names, {})
            training = [other for other in inner if _skipped(study, skips.get(other.name), taken) is False]
            configs = ((other.start.names, own) for other in training for own in _sets(study, other.name))
            if not trained(start) and not any(start == _changes(study, known, *config) for config in configs):
                found[names] = row.name
                break
    return list(found.values())


def _changes(study: Study, sets: Mapping[str, Settings], names: Collection[str], own: Settings) -> dict[str, Value]:
    """What these decisions, and a row's own changes, make of the baseline."""
    found = {setting: value for each in (*(sets[name] for name in names), own) for setting, value in each.items()}
    return {setting: value for setting, value in found.items() if value != study.settings.get(setting)}


_Base = tuple[Taken, Mapping[str, Settings]]
"""What decisions took, and what each of them sets."""


def _bases(study: Study, names: Collection[str], skip: Skip | None) -> list[_Base]:
    """What these decisions may come to, where that is something to train: none says stop, no two set one thing differently.

    skip: the rule of whoever starts from them: not when it holds.
    """
    asked = _took(skip.condition) if skip else set[str]()
    together = islice(outcomes(study, (*names, *asked)), MOST)
    some = [taken for taken in together if _skipped(study, skip, taken) is not True]
    distinct = dict.fromkeys(tuple(taken[name] for name in names) for taken in some)
    found: list[_Base] = []
    for runs in distinct:
        if STOP not in runs:
            every = product(*(_sets(study, run) for run in runs))
            fitting = (sets for sets in every if _agree(sets))
            taken = dict(zip(names, runs, strict=True))
            found += [(taken, dict(zip(names, sets, strict=True))) for sets in islice(fitting, MOST)]
    return found


def _agree(every: Sequence[Settings]) -> bool:
    """Whether no two of them set one thing differently."""
    found: dict[str, Value] = {}
    return all(found.setdefault(setting, value) == value for sets in every for setting, value in sets.items())


def _forms(study: Study, row: Run) -> Iterator[tuple[str, Settings]]:
    """What a row may be, and what it changes then in all but decisions: more than one thing where it searches."""
    start = study.starts[row.start.names[0]].changes if row.start.kind == "named" else {}
    for point in ends(row.search):
        changes = {**start, **row.changes, **point}
        yield f"{row.name} at an end of its search" if row.search else row.name, changes
        if row.search:
            yield f"a trial of {row.name} at an end of its search", {**changes, **row.search.short, **point}


def _sets(study: Study, took: str) -> list[dict[str, Value]]:
    """What a decision sets that took this: more than one where the run's settings are searched."""
    if took in ("", ITS_START):
        return [{}]
    row = study.run_named(took)
    return [{**row.changes, **point} for point in ends(row.search)]


def ends(search: Search | None) -> Iterator[dict[str, Value]]:
    """The corners of a search's space, with every value of a choice; one empty point where nothing is searched."""
    space = search.space if search else {}
    values = [one.values if one.kind == "choice" else (one.values[0], one.values[-1]) for one in space.values()]
    return (dict(zip(space, point, strict=True)) for point in islice(product(*values), MOST))


# ---------------------------------------------------------------- decisions


def outcomes(study: Study, decisions: Collection[str]) -> Iterator[Taken]:
    """What these decisions may take together by their own rules, each combination once, and what they ask of others besides.

    Those come first in which few of them take something else than their `otherwise`.
    """
    trees = study.trees
    order: dict[str, Tree] = {}

    def visit(name: str) -> None:
        for asked in sorted(_asked(study, trees[name]) - order.keys()):
            visit(asked)
        order[name] = trees[name]

    for name in decisions:
        visit(name)
    for others in range(len(order) + 1):
        yield from _together(study, tuple(order.values()), {}, others)


def _together(study: Study, trees: Sequence[Tree], taken: dict[str, str], others: int) -> Iterator[Taken]:
    """Of `trees`, in an order in which none asks about a later one, exactly so many take something else than `otherwise`."""
    if len(trees) < others:
        return
    if not trees:
        yield taken
        return
    *above, last = _may_take(study, trees[0], taken)
    yield from _together(study, trees[1:], {**taken, trees[0].name: last}, others)
    for run in above if others else ():
        yield from _together(study, trees[1:], {**taken, trees[0].name: run}, others - 1)


def _may_take(study: Study, tree: Tree, taken: Taken) -> list[str]:
    """What a tree may take when others took this, what its last line takes at the end."""
    skipped = _skipped(study, study.sweeps[tree.sweep].skip, taken)
    if skipped:
        return [""]
    found = [""] if skipped is None else []
    for line in tree.lines:
        holds = evaluate(line.condition, lambda atom: _fact(study, atom, taken))
        if holds is not False:
            found += _takes(line)
        if holds:
            break
    return [*reversed(dict.fromkeys(reversed(found)))]


def _takes(line: Line) -> tuple[str, ...]:
    return line.take.runs if line.take.kind in ("run", "best") else (line.take.kind,)


def _fact(study: Study, atom: Atom, taken: Taken) -> Answer:
    """Whether a decision took a run; None of anything else, which results will tell."""
    if not isinstance(atom, Took) or taken.get(atom.decision, ITS_START) == ITS_START:
        return None
    took = taken[atom.decision]
    return study.aliases.get(took, took) == study.aliases.get(atom.run, atom.run)


def _skipped(study: Study, skip: Skip | None, taken: Taken) -> Answer:
    return False if skip is None else evaluate(skip.condition, lambda atom: _fact(study, atom, taken))


def _skips(study: Study) -> dict[str, Skip]:
    """Row -> the rule that may skip it: that of the only sweep that asks for it."""
    sweeps = sweeps_of_runs(study)
    rules = [(sweep.name, sweep.skip) for sweep in study.sweeps.values() if sweep.skip]
    return {row: skip for sweep, skip in rules for row in own_runs(study, sweep, sweeps)}


def _asked(study: Study, tree: Tree) -> set[str]:
    """The decisions that a tree's lines and its sweep's skip rule ask about."""
    skip = study.sweeps[tree.sweep].skip
    conditions = [line.condition for line in tree.lines] + ([skip.condition] if skip else [])
    return {name for condition in conditions for name in _took(condition)}


def _took(condition: Condition) -> set[str]:
    return {atom.decision for atom in atoms(condition) if isinstance(atom, Took)}
