"""Does a row do what it says, and nothing else? Each row against its start, by what a little training shows of both. Pure.

A few steps at toy size, the same seed and the same batches for all; the schedule is compressed to that horizon, so that its end
(minimal rate, length of the decay) is seen. What is seen of a config is its fingerprint: fingerprints.py. Two of one config
should be equal; the baseline is asked for twice or more, and what differs between those counts as scatter.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from ablate.preflight.fingerprints import CLAIMED, Config, Failed, Fingerprint, Observation, group, observed
from ablate.settings import as_toml
from ablate.study import Run, Settings, Study, Value

Verdict = Literal["baseline", "takes_effect", "also_changes", "not_seen", "never_read"]
Level = Literal["", "note", "flag", "error"]
Observe = Callable[[Sequence[Config]], Sequence[Fingerprint | Failed]]


@dataclass(frozen=True)
class Effect:
    """What a row was seen to do.

    baseline: it is its own start. takes_effect: something changed that its settings may change. also_changes: something else
    changed too (flag). not_seen: nothing changed so far, but the setting is read, or declared to act late, or none that so little
    training shows (note); also a row that does not train at all (error). never_read: nothing changed, nor with other values, or
    the trainer itself sees that the setting did not do what it says (error).
    """

    run: str
    verdict: Verdict
    level: Level
    against: str
    differences: tuple[str, ...]
    notes: tuple[str, ...] = ()


REPEATS, SCATTER = 5, 3.0
"""The baseline is trained twice; where those differ, REPEATS times, and a difference counts above SCATTER times their range.

Two trainings with normal noise are further apart than that in 1 case of 150; five times the gap of only two would be passed in
1 of 8 (simulated)."""
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
    (r"(.*\.)?lambda_\w+", frozenset({"cost"})),
    (r"(.*\.)?loss", frozenset({"tokens", "cost"})),
    (r"(.*\.)?(samples|flops|steps|epochs)", frozenset({"budget", "data", "tokens", "rates", "cost"})),
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
    stateful: frozenset[str] = frozenset()
    """Settings that can change a result."""
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> dict[str, Value]:
        """What is really different, and can show: a row may say what is so already."""
        changed = {name: value for name, value in self.run.changes.items() if self.start.get(name) != value}
        return {name: value for name, value in changed.items() if name in self.stateful}


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
    asked = [Config(row.against, row.start) for row in rows] + [_config(row) for row in rows]
    seeds = study.seeds[study.baseline]
    if isinstance(failed := judge.begin(baseline, asked, seeds[1] if len(seeds) > 1 else None), Failed):
        return failed
    mute = {name: f"{name} is declared to act late" for name in late} | judge.unseen
    first = [_first_look(judge, row, mute) for row in rows]
    judge.ask(
        [_other(row, name, value) for row in _unseen(rows, first) for name in row.changes for value in exaggerated(row, name)]
    )
    judge.ask([_without(row, name) for row in _several(rows, first) for name in row.changes])
    alone = [_alone(row, name) for row in _several(rows, first) for name in row.changes if _silent(judge, row, name)]
    judge.ask(alone)
    second = [_second_look(judge, row, effect, mute) for row, effect in zip(rows, first, strict=True)]
    third = [_as_promised(judge, row, effect) for row, effect in zip(rows, second, strict=True)]
    told = [_repeated(judge, study.baseline, effect) for effect in _twins(judge, rows, third)]
    return tuple(_seeded(judge, study.baseline, effect) for effect in told)


def _row(study: Study, run: Run, start: Settings | str) -> _Row:
    if run.name == study.baseline:
        return _Row(run, study.baseline, study.settings, study.settings, study.stateful)
    if isinstance(start, str):
        note = f"{start}: looked at as if the baseline stayed"
        return _Row(run, study.baseline, study.settings, {**study.settings, **run.changes}, study.stateful, (note,))
    against = study.baseline if start == study.settings else f"start {', '.join(run.start.names)}"
    return _Row(run, against, start, {**start, **run.changes}, study.stateful)


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
            found = [max(value, 1) * 7, max(value // 7, 1), max(value // 50, 1)]
        case float():
            found = [value * 30, value / 30, *([1 - value] if 0 <= value <= 1 else [])]
        case dict() if len(value) > 1:
            found = [dict(zip(value, [*list(value.values())[1:], next(iter(value.values()))], strict=True))]
        case list() if len(value) > 1:
            found = [list(reversed(value))]
        case _:
            pass
    return [other for at, other in enumerate(found) if other not in (value, start, *found[:at])]


# ---------------------------------------------------------------- looking


@dataclass
class _Judge:
    """Fingerprints asked for so far, and the baseline's scatter."""

    observe: Observe
    seen: dict[str, Fingerprint | Failed] = field(default_factory=dict)
    """By settings."""
    base: Fingerprint = field(default_factory=dict)
    repeats: list[Fingerprint] = field(default_factory=list)
    """Of the baseline, itself first."""
    reseeded: Fingerprint | Failed | None = None
    """Of the baseline on another seed; None where it has but one."""

    def begin(self, baseline: Config, configs: Sequence[Config], seed: int | None) -> Failed | None:
        """Ask for the baseline twice, more often where those two differ, once more on another seed, and for these."""
        asked = [config for config in _distinct(configs) if _key(config) != _key(baseline)]
        again = replace(baseline, name=f"{baseline.name} again")
        other = [] if seed is None else [replace(baseline, name=f"{baseline.name} on seed {seed}", seed=seed)]
        base, second, *rest = self.observe([baseline, again, *other, *asked])
        self.reseeded, rest = (rest[0] if other else None), rest[len(other) :]
        for found in (base, second):
            if isinstance(found, Failed):
                return replace(found, reason=f"the baseline does not train: {found.reason}")
        assert not isinstance(base, Failed)
        self._repeat(base, second)
        if self.wavering:
            self._repeat(*self.observe([again] * (REPEATS - 2)))
        self.base = base
        self.seen = {_key(baseline): base, **{_key(config): found for config, found in zip(asked, rest, strict=True)}}
        return None

    def _repeat(self, *found: Fingerprint | Failed) -> None:
        self.repeats += [one for one in found if not isinstance(one, Failed)]

    def ask(self, configs: Sequence[Config]) -> None:
        asked = [config for config in _distinct(configs) if _key(config) not in self.seen]
        if asked:
            self.seen |= {_key(config): found for config, found in zip(asked, self.observe(asked), strict=True)}

    def of(self, config: Config) -> Fingerprint | Failed:
        return self.seen[_key(config)]

    def differing(self, one: Fingerprint, other: Fingerprint) -> list[str]:
        """Names of observations that differ by more than the baseline's scatter; none, when it is only what is claimed."""
        names = [name for name in dict.fromkeys((*one, *other)) if observed(name)]
        found = [name for name in names if self._differs(name, one.get(name), other.get(name))]
        return [] if all(CLAIMED.fullmatch(name) for name in found) else found

    @property
    def unseen(self) -> dict[str, str]:
        """Settings that the trainer's fingerprints cannot show -> that, in words."""
        names = [name.partition("/")[2] for name in self.base if group(name) == "unseen"]
        return {name: f"{name} is one that the trainer's fingerprints do not show" for name in names}

    @property
    def wavering(self) -> dict[str, float]:
        """What trainings of the baseline differ in -> by how much; infinite for what is no number."""
        names = [name for name in dict.fromkeys(name for one in self.repeats for name in one) if observed(name)]
        found = {name: self._range(name) for name in names}
        return {name: most for name, most in found.items() if most}

    def _range(self, name: str) -> float:
        told = [one.get(name) for one in self.repeats]
        if all(one == told[0] for one in told):
            return 0.0
        numbers = [_series(one) for one in told if one is not None and _numbers(one)]
        if len(numbers) < len(told) or len({len(one) for one in numbers}) > 1:
            return math.inf
        return max(map(_spread, zip(*numbers, strict=True)))

    def broken(self, config: Config) -> dict[str, str]:
        """Setting -> what it did instead of what it says, as the trainer sees it."""
        seen = self.of(config)
        if isinstance(seen, Failed):
            return {}
        return {name.partition("/")[2]: str(said) for name, said in seen.items() if group(name) == "broken"}

    def _differs(self, name: str, one: Observation | None, other: Observation | None) -> bool:
        told = [repeat.get(name) for repeat in self.repeats]
        if one is None or other is None:
            return len({repeat is None for repeat in told}) == 1
        if not (_numbers(one) and _numbers(other)):
            return str(one) != str(other) and all(repeat == told[0] for repeat in told)
        floor = self.scatter if group(name) in ALWAYS else 0.0
        return _apart(_series(one), _series(other), [() if repeat is None else _series(repeat) for repeat in told], floor)

    @cached_property
    def scatter(self) -> float:
        """The widest range of what the baseline's trainings learned, as a share of its values."""
        names = [name for name, most in self.wavering.items() if math.isfinite(most) and group(name) in ALWAYS]
        told = [[_series(one[name]) for one in self.repeats] for name in names]
        return max((_scatter(repeats) / size for repeats in told if (size := sum(map(abs, repeats[0])))), default=0.0)


def _key(config: Config) -> str:
    return json.dumps(config.settings, sort_keys=True)


def _distinct(configs: Sequence[Config]) -> list[Config]:
    return list({_key(config): config for config in reversed(configs)}.values())[::-1]


def _numbers(observation: Observation) -> bool:
    return isinstance(observation, int | float | tuple)


def _series(observation: Observation) -> tuple[float, ...]:
    return observation if isinstance(observation, tuple) else (float(observation),)


def _apart(one: Sequence[float], other: Sequence[float], repeats: Sequence[Sequence[float]], floor: float) -> bool:
    """Whether two series differ by more than SCATTER times the baseline's own range, on average over the series.

    floor: the least that range can be, as a share of the values: a coarse metric, such as a share of hits, may be equal by luck.
    """
    if len({len(repeat) for repeat in repeats}) > 1:
        return False
    if len(one) != len(other):
        return True
    gaps = sum(_gap(p, q) for p, q in zip(one, other, strict=True))
    return gaps > SCATTER * max(_scatter(repeats), floor * sum(map(abs, repeats[0])))


def _scatter(repeats: Sequence[Sequence[float]]) -> float:
    return sum(_spread(at) for at in zip(*repeats, strict=True))


def _spread(values: Sequence[float]) -> float:
    return max(_gap(p, q) for p in values for q in values)


def _gap(one: float, other: float) -> float:
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    gap = abs(one - other)
    return gap if math.isfinite(gap) else math.inf


# ---------------------------------------------------------------- verdicts


def _first_look(judge: _Judge, row: _Row, mute: Mapping[str, str]) -> Effect:
    """By the row and its start alone; what shows nothing is `never_read` until other values were tried.

    mute: settings that so little training does not show -> why.
    """
    if not row.changes:
        return _equal_to_its_start(row)
    seen, start = judge.of(_config(row)), judge.of(Config(row.against, row.start))
    for who, one in ((row.run.name, seen), (row.against, start)):
        if isinstance(one, Failed):
            said = f"{who} does not train: {one.reason}" if one.looked else f"{who} was not looked at: {one.reason}"
            return Effect(row.run.name, "not_seen", "error" if one.looked else "flag", row.against, (said,), row.notes)
    assert not isinstance(seen, Failed)
    assert not isinstance(start, Failed)
    differing = judge.differing(start, seen)
    if not differing and (acting := [name for name in row.changes if name in mute]):
        return _effect(row, "not_seen", [], [mute[name] for name in acting])
    if not differing:
        return _effect(row, "never_read", [])
    diverged = seen.get("learning/outcome") == "diverged" != start.get("learning/outcome")
    allowed = may_change(row.changes)
    if allowed is not None and diverged:
        allowed |= CUT_SHORT
    beyond = [name for name in differing if allowed is not None and group(name) not in allowed]
    told = [_told(name, start, seen) for name in (*beyond, *(name for name in differing if name not in beyond))]
    notes = ["it diverged already"] if diverged else []
    if beyond:
        notes.append(f"nobody declared that it changes {', '.join(dict.fromkeys(map(group, beyond)))}")
    return _effect(row, "also_changes" if beyond else "takes_effect", told, notes)


def _equal_to_its_start(row: _Row) -> Effect:
    if row.run.changes and row.run.start.kind == "baseline":
        return _effect(row, "never_read", [], (f"what it sets is so already: it is {row.against} once more",))
    return _effect(row, "baseline", [])


def _second_look(judge: _Judge, row: _Row, effect: Effect, mute: Mapping[str, str]) -> Effect:
    """With the other values tried, and each of several settings taken alone."""
    if effect.verdict == "never_read" and row.changes:
        return _tried(judge, row, effect)
    if len(row.changes) < 2 or effect.verdict not in ("takes_effect", "also_changes"):
        return effect
    silent = [name for name in row.changes if name not in mute and _silent(judge, row, name)]
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
    if refused := [config for config in tried if isinstance(found := judge.of(config), Failed) and found.looked]:
        return _effect(row, "not_seen", [], (f"nothing changed, but {refused[0].name} does not train: somebody reads it",))
    if any(isinstance(judge.of(config), Failed) for config in tried):
        return _effect(row, "not_seen", [], ("nothing changed, and there was no time to try other values",))
    if not tried and judge.wavering:
        return _effect(row, "not_seen", [], ("nothing beyond what trainings of the baseline differ in",))
    also = f", nor with {', '.join(config.name.partition(' with ')[2] for config in tried)}" if tried else ""
    return replace(effect, differences=(f"nothing changed{also}",))


def _silent(judge: _Judge, row: _Row, name: str) -> bool:
    """Whether a row is the same without one of its settings; one that cannot be left out is not."""
    without = judge.of(_without(row, name))
    return not isinstance(without, Failed) and not _acts(judge, without, judge.of(_config(row)))


def _acts(judge: _Judge, one: Fingerprint | Failed, other: Fingerprint | Failed) -> bool:
    return not isinstance(one, Failed) and not isinstance(other, Failed) and bool(judge.differing(other, one))


def _as_promised(judge: _Judge, row: _Row, effect: Effect) -> Effect:
    """What the trainer itself saw a setting not do: of a row what is its own, of a baseline all."""
    found = judge.broken(_config(row))
    if effect.verdict != "baseline":
        start = judge.broken(Config(row.against, row.start))
        found = {name: said for name, said in found.items() if name in row.changes or name not in start}
    if not found:
        return effect
    said = tuple(f"{_said(row, name)}: {what}" for name, what in found.items())
    effect = replace(effect, level="error", differences=(*said, *effect.differences))
    if effect.verdict == "baseline":
        return effect
    if found.keys() & row.changes.keys():
        return replace(effect, verdict="never_read")
    return replace(effect, verdict="also_changes", level="flag")


def _said(row: _Row, name: str) -> str:
    return f"{name} = {as_toml(row.settings[name])}" if name in row.settings else name


def _repeated(judge: _Judge, baseline: str, effect: Effect) -> Effect:
    """The study's baseline with what its trainings differ in: numbers scatter (a note), anything else should not (a flag)."""
    wavering = judge.wavering
    if effect.run != baseline or not wavering:
        return effect
    numbers = {name: gap for name, gap in wavering.items() if math.isfinite(gap) and group(name) in ALWAYS | {"rates", "facts"}}
    told = [f"{name} by up to {gap:.3g}" for name, gap in sorted(numbers.items(), key=lambda pair: -pair[1])[:3]]
    notes = [f"trainings of it with one seed differ in {', '.join(told)}; less than {SCATTER:g} times that is not seen"]
    notes = notes if told else []
    level: Level = "note"
    if other := [name for name in wavering if name not in numbers]:
        notes.append(f"trainings of it with one seed differ in {', '.join(other)}: runs with one seed do not share that")
        level = "flag"
    return replace(effect, level=effect.level or level, notes=(*effect.notes, *notes))


def _seeded(judge: _Judge, baseline: str, effect: Effect) -> Effect:
    """The study's baseline with whether another seed made a difference; not known where one seed trains in several ways."""
    other = judge.reseeded
    if effect.run != baseline or other is None or isinstance(other, Failed):
        return effect
    if judge.wavering or judge.differing(judge.base, other):
        return effect
    note = "another seed made no difference: where a trainer does not use its seed several seeds are one, and nothing is shown"
    return replace(effect, level=effect.level or "flag", notes=(*effect.notes, note))


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
