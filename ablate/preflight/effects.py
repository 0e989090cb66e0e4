"""Does a row do what it says, and nothing else? Each row against its start, by what a little training shows of both. Pure.

A *fingerprint* is what was seen of one config: named observations, "group/name" -> number, text or series. Fingerprints come from
short runs of any trainer (short_runs.py: its metrics and facts) or from a trainer that makes them itself, which sees more:

    python -m PACKAGE.fingerprint                      PACKAGE: the one that the trainer's module lies in; ours is `trainer`

        stdin:   a JSON list of {"run": "A1", "seed": 42, "settings": {nested}, "references": {"F3": {nested}}, "files": FOLDER}
        stdout:  one JSON object per config, in order, each on a line of its own; any of
                 {"parameters": {module: {"count": 1, "trainable": 1}}, "lr": {group: [over the whole, compressed horizon]},
                  "batch": {"samples": 24, "supervised_tokens": 310, "first_batches_hash": "…", "manifest_hash": "…"},
                  "losses": [per step], "grad_norm": {module: [per step]}, "shapes": {output: [2, 5, 64]}}
                 or {"error": "why this config cannot be built"}

A few steps at toy size, the same seed and the same batches for all; the schedule is compressed to that horizon, so that its end
(minimal rate, length of the decay) is seen. Two fingerprints of one config should be equal; the baseline is asked for twice, and
what differs between those two counts as scatter.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Literal

from ablate.settings import as_toml
from ablate.study import Run, Settings, Study, Value

Verdict = Literal["baseline", "takes_effect", "also_changes", "not_seen", "never_read"]
Level = Literal["", "note", "flag", "error"]
Observation = float | str | tuple[float, ...]
Fingerprint = Mapping[str, Observation]


@dataclass(frozen=True)
class Config:
    """What one fingerprint is asked of."""

    name: str
    settings: Settings


@dataclass(frozen=True)
class Failed:
    """A config that could not be observed, and why."""

    reason: str


Observe = Callable[[Sequence[Config]], Sequence[Fingerprint | Failed]]


@dataclass(frozen=True)
class Effect:
    """What a row was seen to do.

    baseline: it is its own start. takes_effect: something changed that its settings may change. also_changes: something else
    changed too (flag). not_seen: nothing changed so far, but the setting is read, or declared to act late (note); also a row that
    does not train at all (error). never_read: nothing changed, nor with other values (error).
    """

    run: str
    verdict: Verdict
    level: Level
    against: str
    differences: tuple[str, ...]
    notes: tuple[str, ...] = ()


SCATTER = 5.0
"""A difference counts above this many times the baseline's own."""
MOST_DIFFERENCES = 12
LEVELS: Mapping[Verdict, Level] = {
    "baseline": "",
    "takes_effect": "",
    "also_changes": "flag",
    "not_seen": "note",
    "never_read": "error",
}

ALWAYS = frozenset({"learning"})
"""Losses, gradient norms and the like: whatever takes effect may show there."""
MAY_CHANGE: tuple[tuple[str, frozenset[str]], ...] = (
    (r"model\..*", frozenset({"model", "weights", "rates", "cost"})),
    (r"optim\..*", frozenset({"rates"})),
    (r"data\..*", frozenset({"data", "tokens", "cost"})),
    (r"eval\..*", frozenset({"evaluation"})),
    (r"(.*\.)?loss", frozenset({"tokens", "cost"})),
    (r"(.*\.)?(samples|flops|steps|epochs)", frozenset({"budget", "data", "rates", "cost"})),
    (r"(.*\.)?(batch|batch_samples|batch_size)", frozenset({"batch", "budget", "data", "tokens", "rates"})),
    (r"train\..*", frozenset()),
)
"""Which groups of observations a setting is declared to change, besides ALWAYS; all rules that fit add up.

    model       parameters, shapes                        weights     the first weights' hash
    rates       learning rates over the horizon           cost        FLOPs and tokens per frame
    data        which samples, in which order             tokens      tokens supervised
    batch       samples per step                          budget      samples, steps
    evaluation  the validation set                        facts       whatever else a trainer says of itself: nobody declares it

A setting that no rule fits (another trainer's own words) may change anything.
"""

CUT_SHORT = frozenset({"budget", "cost", "rates"})
"""What differs, besides, when a run diverges and stops."""

CLOCK = re.compile(r"(^|[/_])(s|ms|sec|seconds|time|wall|hours|memory|gib|overhead)($|[/_])|per_s|progress")
"""Observations that clocks and other people's processes change."""


def may_change(changes: Mapping[str, Value]) -> frozenset[str] | None:
    """Groups that a row's settings are declared to change; None: any."""
    groups: set[str] = set(ALWAYS)
    for name in changes:
        fitting = [allowed for pattern, allowed in MAY_CHANGE if re.fullmatch(pattern, name)]
        if not fitting:
            return None
        groups |= frozenset().union(*fitting)
    return frozenset(groups)


# ---------------------------------------------------------------- the study's rows


@dataclass(frozen=True)
class _Row:
    run: Run
    against: str
    start: Settings
    settings: Settings
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> dict[str, Value]:
        """What is really different: a row may say what is so already."""
        return {name: value for name, value in self.run.changes.items() if self.start.get(name) != value}


def effects(
    study: Study, starts: Mapping[str, Settings | str], observe: Observe, late: Sequence[str] = ()
) -> tuple[Effect, ...] | Failed:
    """Every row against its start; Failed when the baseline itself does not train.

    starts: row -> the settings it changes, or (as text) the decisions they wait for; then the baseline's stand for them.
    late:   settings declared to act later than so little training shows.
    """
    rows = [_row(study, run, starts.get(run.name, study.settings)) for run in study.runs.values()]
    judge = _Judge(observe)
    baseline = Config(study.baseline, study.settings)
    if isinstance(
        failed := judge.begin(baseline, [Config(row.against, row.start) for row in rows] + [_config(row) for row in rows]), Failed
    ):
        return failed
    first = [_first_look(judge, row, late) for row in rows]
    judge.ask(
        [_other(row, name, value) for row in _unseen(rows, first) for name in row.changes for value in exaggerated(row, name)]
    )
    judge.ask([_without(row, name) for row in _several(rows, first) for name in row.changes])
    alone = [_alone(row, name) for row in _several(rows, first) for name in row.changes if _silent(judge, row, name)]
    judge.ask(alone)
    second = [_second_look(judge, row, effect) for row, effect in zip(rows, first, strict=True)]
    return tuple(_twins(judge, rows, second))


def _row(study: Study, run: Run, start: Settings | str) -> _Row:
    if run.name == study.baseline:
        return _Row(run, study.baseline, study.settings, study.settings)
    if isinstance(start, str):
        note = f"{start}: looked at as if the baseline stayed"
        return _Row(run, study.baseline, study.settings, {**study.settings, **run.changes}, (note,))
    against = study.baseline if start == study.settings else f"start {', '.join(run.start.names)}"
    return _Row(run, against, start, {**start, **run.changes})


def _config(row: _Row) -> Config:
    return Config(row.run.name, row.settings)


def _other(row: _Row, name: str, value: Value) -> Config:
    return Config(f"{row.run.name} with {name} = {as_toml(value)}", {**row.settings, name: value})


def _without(row: _Row, name: str) -> Config:
    return Config(f"{row.run.name} without {name}", {**row.settings, name: row.start[name]})


def _alone(row: _Row, name: str) -> Config:
    return Config(f"{row.against} with {name}", {**row.start, name: row.settings[name]})


def _unseen(rows: Sequence[_Row], looks: Sequence[Effect]) -> list[_Row]:
    return [row for row, look in zip(rows, looks, strict=True) if look.verdict == "never_read"]


def _several(rows: Sequence[_Row], looks: Sequence[Effect]) -> list[_Row]:
    """Rows that change more than one thing, and of which something was seen."""
    seen = ("takes_effect", "also_changes")
    return [row for row, look in zip(rows, looks, strict=True) if len(row.changes) > 1 and look.verdict in seen]


def exaggerated(row: _Row, name: str) -> list[Value]:
    """Other values, far from the row's and its start's, to tell a setting that nobody reads from one that acts late."""
    value, start = row.settings[name], row.start[name]
    found: list[Value] = []
    match value:
        case bool():
            pass
        case int():
            found = [max(value, 1) * 7, max(value // 7, 1)]
        case float():
            found = [value * 30, value / 30, *([1 - value] if 0 <= value <= 1 else [])]
        case dict() if len(value) > 1:
            found = [dict(zip(value, [*list(value.values())[1:], next(iter(value.values()))], strict=True))]
        case list() if len(value) > 1:
            found = [list(reversed(value))]
        case _:
            pass
    return [other for other in found if other not in (value, start)]


# ---------------------------------------------------------------- looking


@dataclass
class _Judge:
    """Fingerprints asked for so far, and the baseline's scatter."""

    observe: Observe
    seen: dict[str, Fingerprint | Failed] = field(default_factory=dict)
    """By settings."""
    base: Fingerprint = field(default_factory=dict)
    again: Fingerprint = field(default_factory=dict)

    def begin(self, baseline: Config, configs: Sequence[Config]) -> Failed | None:
        """Ask for the baseline twice, and for these."""
        asked = [config for config in _distinct(configs) if _key(config) != _key(baseline)]
        base, again, *rest = self.observe([baseline, replace(baseline, name=f"{baseline.name} again"), *asked])
        for found in (base, again):
            if isinstance(found, Failed):
                return Failed(f"the baseline does not train: {found.reason}")
        assert not isinstance(base, Failed)
        assert not isinstance(again, Failed)
        self.base, self.again = base, again
        self.seen = {_key(baseline): base, **{_key(config): found for config, found in zip(asked, rest, strict=True)}}
        return None

    def ask(self, configs: Sequence[Config]) -> None:
        asked = [config for config in _distinct(configs) if _key(config) not in self.seen]
        if asked:
            self.seen |= {_key(config): found for config, found in zip(asked, self.observe(asked), strict=True)}

    def of(self, config: Config) -> Fingerprint | Failed:
        return self.seen[_key(config)]

    def differing(self, one: Fingerprint, other: Fingerprint) -> list[str]:
        """Names of observations that differ by more than the baseline's scatter."""
        names = dict.fromkeys((*one, *other))
        return [name for name in names if not CLOCK.search(name) and self._differs(name, one.get(name), other.get(name))]

    def _differs(self, name: str, one: Observation | None, other: Observation | None) -> bool:
        first, second = self.base.get(name), self.again.get(name)
        if one is None or other is None:
            return (first is None) == (second is None)
        if not (_numbers(one) and _numbers(other)):
            return str(one) != str(other) and first == second
        return _apart(_series(one), _series(other), _series(first or ()), _series(second or ()))


def _key(config: Config) -> str:
    return json.dumps(config.settings, sort_keys=True)


def _distinct(configs: Sequence[Config]) -> list[Config]:
    return list({_key(config): config for config in reversed(configs)}.values())[::-1]


def _numbers(observation: Observation) -> bool:
    return isinstance(observation, int | float | tuple)


def _series(observation: Observation) -> tuple[float, ...]:
    return observation if isinstance(observation, tuple) else (float(observation),)


def _apart(one: Sequence[float], other: Sequence[float], base: Sequence[float], again: Sequence[float]) -> bool:
    """Whether two series differ by more than the baseline's two do.

    Where those are equal, any difference counts; after the first place where they are not, SCATTER times their own difference.
    """
    if len(base) != len(again):
        return False
    if len(one) != len(other):
        return True
    scatter = [_gap(p, q) for p, q in zip(base, again, strict=True)]
    exact = next((at for at, gap in enumerate(scatter) if gap), len(scatter) if base else len(one))
    gaps = [_gap(p, q) for p, q in zip(one, other, strict=True)]
    if any(gaps[:exact]) or exact >= len(scatter):
        return any(gaps)
    return median(gaps[exact:] or [0.0]) > SCATTER * median(scatter[exact:])


def _gap(one: float, other: float) -> float:
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    gap = abs(one - other)
    return gap if math.isfinite(gap) else math.inf


# ---------------------------------------------------------------- verdicts


def _first_look(judge: _Judge, row: _Row, late: Sequence[str]) -> Effect:
    """By the row and its start alone; what shows nothing is `never_read` until other values were tried."""
    if row.settings == row.start:
        return _equal_to_its_start(row)
    seen, start = judge.of(_config(row)), judge.of(Config(row.against, row.start))
    failed = next(
        (
            f"{who} does not train: {one.reason}"
            for who, one in ((row.run.name, seen), (row.against, start))
            if isinstance(one, Failed)
        ),
        "",
    )
    if failed:
        return Effect(row.run.name, "not_seen", "error", row.against, (failed,), row.notes)
    assert not isinstance(seen, Failed)
    assert not isinstance(start, Failed)
    differing = judge.differing(start, seen)
    if not differing and (acting := [name for name in row.changes if name in late]):
        return _effect(row, "not_seen", [], (f"{', '.join(acting)} is declared to act late",))
    if not differing:
        return _effect(row, "never_read", [])
    diverged = seen.get("learning/outcome") == "diverged" != start.get("learning/outcome")
    allowed = may_change(row.changes)
    if allowed is not None and diverged:
        allowed |= CUT_SHORT
    beyond = [name for name in differing if allowed is not None and name.partition("/")[0] not in allowed]
    told = [_told(name, start, seen) for name in (*beyond, *(name for name in differing if name not in beyond))]
    notes = ["it diverged already"] if diverged else []
    if beyond:
        notes.append(f"nobody declared that it changes {', '.join(dict.fromkeys(name.partition('/')[0] for name in beyond))}")
    return _effect(row, "also_changes" if beyond else "takes_effect", told, notes)


def _equal_to_its_start(row: _Row) -> Effect:
    if row.run.changes and row.run.start.kind == "baseline":
        return _effect(row, "never_read", [], (f"what it sets is so already: it is {row.against} once more",))
    return _effect(row, "baseline", [])


def _second_look(judge: _Judge, row: _Row, effect: Effect) -> Effect:
    """With the other values tried, and each of several settings taken alone."""
    if effect.verdict == "never_read" and row.changes:
        return _tried(judge, row, effect)
    if len(row.changes) < 2 or effect.verdict not in ("takes_effect", "also_changes"):
        return effect
    silent = [name for name in row.changes if _silent(judge, row, name)]
    dead = [name for name in silent if not _acts(judge, judge.of(_alone(row, name)), judge.of(Config(row.against, row.start)))]
    if dead:
        said = tuple(f"{name} = {as_toml(row.settings[name])}: nothing changes with or without it" for name in dead)
        return replace(effect, verdict="never_read", level="error", differences=said, notes=row.notes)
    beside = tuple(f"{name} changes nothing beside the row's other settings" for name in silent)
    return replace(effect, notes=(*effect.notes, *beside))


def _tried(judge: _Judge, row: _Row, effect: Effect) -> Effect:
    """A row that changed nothing: is it read at all?"""
    start = judge.of(Config(row.against, row.start))
    tried = [_other(row, name, value) for name in row.changes for value in exaggerated(row, name)]
    acting = [config for config in tried if _acts(judge, judge.of(config), start)]
    if acting:
        return _effect(row, "not_seen", [], (f"too small or too late to be seen; seen in {acting[0].name}",))
    if tried and all(isinstance(judge.of(config), Failed) for config in tried):
        return _effect(row, "not_seen", [], ("other values are refused, so somebody reads it",))
    also = f", nor with {', '.join(config.name.partition(' with ')[2] for config in tried)}" if tried else ""
    return replace(effect, differences=(f"nothing changed{also}",))


def _silent(judge: _Judge, row: _Row, name: str) -> bool:
    """Whether a row is the same without one of its settings; one that cannot be left out is not."""
    without = judge.of(_without(row, name))
    return not isinstance(without, Failed) and not _acts(judge, without, judge.of(_config(row)))


def _acts(judge: _Judge, one: Fingerprint | Failed, other: Fingerprint | Failed) -> bool:
    return not isinstance(one, Failed) and not isinstance(other, Failed) and bool(judge.differing(other, one))


def _twins(judge: _Judge, rows: Sequence[_Row], looks: Sequence[Effect]) -> Iterator[Effect]:
    """Rows that differ in what they say and in nothing else."""
    for at, (row, effect) in enumerate(zip(rows, looks, strict=True)):
        seen = judge.of(_config(row))
        twin = next(
            (
                other.run.name
                for other, its in zip(rows[:at], looks[:at], strict=True)
                if "never_read" not in (effect.verdict, its.verdict)
                and "baseline" not in (effect.verdict, its.verdict)
                and not isinstance(seen, Failed)
                and not isinstance(its_seen := judge.of(_config(other)), Failed)
                and other.settings != row.settings
                and not judge.differing(its_seen, seen)
            ),
            "",
        )
        if twin and effect.verdict != "not_seen":
            said = (f"acts exactly as {twin} does: the trainer makes the same of both",)
            yield replace(effect, verdict="never_read", level="error", differences=said)
        else:
            yield effect


def _effect(row: _Row, verdict: Verdict, differences: Sequence[str], notes: Sequence[str] = ()) -> Effect:
    more = len(differences) - MOST_DIFFERENCES
    told = (*differences[:MOST_DIFFERENCES], *([f"and {more} more"] if more > 0 else []))
    return Effect(row.run.name, verdict, LEVELS[verdict], row.against, told, (*row.notes, *notes))


def _told(name: str, start: Fingerprint, seen: Fingerprint) -> str:
    """ "batch/samples: 20 → 10"; of a series the first place that differs."""
    if name not in start or name not in seen:
        return f"{name}: " + " → ".join(_short(one[name]) if name in one else "not there" for one in (start, seen))
    one, other = start[name], seen[name]
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        at = next(at for at, (p, q) in enumerate(zip(one, other, strict=True)) if _gap(p, q))
        place = f" ({at + 1} of {len(one)})" if len(one) > 1 else ""
        return f"{name}{place}: {one[at]:.6g} → {other[at]:.6g}"
    return f"{name}: {_short(one)} → {_short(other)}"


def _short(observation: Observation) -> str:
    match observation:
        case tuple():
            return f"{len(observation)} values"
        case str():
            return observation[:24]
        case _:
            return f"{observation:.6g}"


# ---------------------------------------------------------------- what was seen


FACTS = {
    "manifest_hash": "data/manifest",
    "first_batches_hash": "data/first_batches",
    "initial_weights_hash": "weights/initial",
    "eval_hash": "evaluation/samples",
    "samples_planned": "budget/samples_planned",
    "steps_planned": "budget/steps_planned",
    "samples": "budget/samples",
    "flops": "cost/flops",
    "flops_per_sample": "cost/flops_per_sample",
    "flops_by_part": "cost/flops_by_part",
    "flops_of_measuring_coarse": "cost/flops_of_measuring_coarse",
    "tokens_per_frame": "cost/tokens_per_frame",
    "parameters": "model/parameters",
}
"""Facts of the folder contract -> the observations they are; any other is facts/NAME."""
UNTOLD = frozenset({"versions", "device", "world_size", "uninformed"})
"""Facts about the machine, and what follows from the data in ways nobody declares."""


def of_short_run(points: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], result: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint of an attempt: lines of metrics.jsonl, facts.json ({} if none), result.json."""
    series: dict[str, list[float]] = {}
    for point in points:
        for name, value in point["metrics"].items():
            series.setdefault(name, []).append(float(value))
    counted = series.pop("samples", [])
    found: dict[str, Observation] = {f"{_group_of_metric(name)}/{name}": tuple(values) for name, values in series.items()}
    if points:
        found["budget/steps"] = float(points[-1]["step"])
    if counted:
        found["batch/samples"] = counted[0]
    for name, value in {**facts, **result.get("facts", {})}.items():
        if name not in UNTOLD:
            found |= _flat(FACTS.get(name, f"facts/{name}"), value)
    return found | {"learning/outcome": str(result.get("outcome", ""))}


def of_document(document: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint that a trainer's own `fingerprint` module says: see the top of this file."""
    groups = {
        "parameters": "model/parameters",
        "shapes": "model/shapes",
        "lr": "rates",
        "losses": "learning/losses",
        "grad_norm": "learning/grad_norm",
    }
    found: dict[str, Observation] = {}
    for name, value in document.items():
        if name == "batch":
            for key, one in value.items():
                found |= _flat(f"{_group_in_batch(key)}/{key}", one)
        else:
            found |= _flat(groups.get(name, f"facts/{name}"), value)
    return found


def _group_of_metric(name: str) -> str:
    return "rates" if name == "lr" or name.startswith("lr/") else "learning"


def _group_in_batch(key: str) -> str:
    return "batch" if key == "samples" else "tokens" if "token" in key else "data"


def _flat(name: str, value: Any) -> dict[str, Observation]:
    """Numbers, texts and series below one name."""
    match value:
        case Mapping():
            return {key: one for below, item in value.items() for key, one in _flat(f"{name}/{below}", item).items()}
        case list() if all(isinstance(item, int | float) for item in value):
            return {name: tuple(float(item) for item in value)}
        case bool() | None:
            return {name: str(value)}
        case int() | float():
            return {name: float(value)}
        case _:
            return {name: value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)}
