"""Whether every decision and the lock still follow from what the database holds; what does not, and why.

Each decision that stands is taken again by the same code (decide.decide_sweep) from the rows of today, with the *evidence it
names*: the jobs it rests on, those its noise was pooled from, and the decisions that were there before it. Seeds trained later,
and noise known better since (evidence.decide lets a decision stand for all that), are therefore no reason to fall; they are told
beside it as what `today` would say. What is a reason:

    a number, a state, a code hash or a fact of one of its jobs that is another now (the metrics.jsonl beside it says who changed)
    a margin, a level or the tree's text that is another now
    a row of the decision that is not what its file under outputs/ says
    an earlier decision it was built on that says something else now

`follows`: nothing of that. `moved`: something changed, and the same line is taken still. `fell`: another line would be taken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ablate.deciding.confirm import judge
from ablate.deciding.decide import decide_sweep
from ablate.deciding.lock import CONFIRMATION, NotYet, make_lock
from ablate.deciding.pooled import looked_in
from ablate.desk import Desk, measured_hours
from ablate.evidence import edits_since_frozen, job_results, trained_runs, undeclared_looks
from ablate.folders import read_json_table
from ablate.launching import collect
from ablate.launching.trials import trials_of
from ablate.planning.cost import hours_of
from ablate.planning.freeze import content_hash, tree_hash
from ablate.planning.outcomes import STOP
from ablate.planning.plan import Plan, make_plan
from ablate.planning.search import SEARCH_OF, choose, declaration, is_search
from ablate.planning.stale import turned_below
from ablate.study import ENDED, LOCKED, JobResult, with_shared
from db.records import DecisionRecord, LockRecord

Verdict = Literal["follows", "moved", "fell"]
LOCK = "lock"
CLOSE = 1e-9
"""Relative difference up to which two numbers are the same one."""


@dataclass(frozen=True)
class Finding:
    """A decision, or the lock, taken again."""

    name: str
    verdict: Verdict
    problems: tuple[str, ...]
    record: DecisionRecord | LockRecord
    again: DecisionRecord | LockRecord | None
    """What follows from the rows; None where it cannot be taken again."""
    today: DecisionRecord | None = None
    """What everything known today says; None for the lock."""


def audit(desk: Desk) -> tuple[Finding, ...]:
    """Take every standing decision again, in the order they were taken, and then the lock."""
    standing = sorted(desk.store.decisions().values(), key=lambda record: record.number)
    plan, trees = desk.plan(), desk.study.trees
    known = _today(desk, plan)
    found = [replace(examine(desk, plan, record), today=known.get(record.name)) for record in standing if record.name in trees]
    gone = [record for record in standing if record.name not in trees and not _is_note(record)]
    found += [Finding(record.name, "fell", ("the file has no such tree any more",), record, None) for record in gone]
    found += [_examine_search(desk, record) for record in standing if is_search(record)]
    held = desk.store.lock()
    if held is None:
        return tuple(found)
    return (*found, _examine_lock(desk, held, found), *_examine_confirmation(desk, held))


def examine(desk: Desk, plan: Plan, record: DecisionRecord) -> Finding:
    """Take one decision of a tree again from the rows, with the evidence it names."""
    study = desk.study
    tree = study.trees[record.name]
    problems = [*_unlike_file(desk, record)]
    if record.tree_hash and record.tree_hash != tree_hash(study, tree):
        problems.append("its tree reads differently now than when it was taken")
    problems += _superseded_below(desk, record)
    if why := plan.fallen.get(record.name):
        return Finding(record.name, "fell", (*problems, f"it is open again: {why}"), record, None)
    if record.status == "overruled":
        return _overruled(desk, record, problems)
    keys = evidence_keys(desk, record)
    missing = sorted(keys - desk.store.jobs().keys())
    if missing:
        problems.append(f"it rests on {', '.join(missing)}, not in the database (`ablate rebuild` reads the folders again)")
    again = again_from(desk, record, keys)
    problems += [*_changed_numbers(desk, record, again, keys), *_unlike_before(desk, record)]
    same = _conclusion(again) == _conclusion(record)
    if not same:
        problems.append(f"it says {_said(record)}; from these numbers follows {_said(again)}")
    verdict: Verdict = "fell" if missing or not same else "moved" if problems else "follows"
    return Finding(record.name, verdict, tuple(problems), record, again)


def evidence_keys(desk: Desk, record: DecisionRecord) -> set[str]:
    """Every job a decision rests on: those it compared, and those its noise was looked for in."""
    return {*record.jobs, *looked_in(record, desk.store.all_decisions())}


def again_from(desk: Desk, record: DecisionRecord, keys: Collection[str]) -> DecisionRecord:
    """The decision as today's rows of those jobs have it, with the decisions that were taken before it."""
    study, store = desk.study, desk.store
    before = {each.name: each for each in store.all_decisions() if each.number < record.number and each.name != record.name}
    plan = make_plan(study, store.attempts(), before)
    hours = measured_hours(desk)
    sweep = study.sweeps[study.trees[record.name].sweep]
    answer = decide_sweep(
        study,
        sweep,
        with_shared(study, recorded_results(desk, keys), plan.same),
        before,
        plan.its_start,
        now=record.at,
        hours_of=lambda run: hours_of(study, run, hours)[0],
        undeclared=undeclared_looks(desk),
        edits=edits_since_frozen(desk),
    )
    return next(made for made in answer.decisions if made.name == record.name)


def recorded_results(desk: Desk, keys: Collection[str]) -> dict[str, list[JobResult]]:
    """Run -> what its jobs among `keys` scored, as the rows of today say, whatever the file asks for now."""
    jobs, attempts = desk.store.jobs(), desk.store.attempts()
    finals = desk.store.finals(list(keys), {name: metric.last for name, metric in desk.study.metrics.items()})
    found: dict[str, list[JobResult]] = {}
    for key, job in jobs.items():
        if key in keys and key in attempts:
            last = attempts[key][-1]
            state = "failed" if last.state == "lost" else last.state
            scored = finals.get(key, {}) if state in ENDED else {}
            values = {name: final.value for name, final in scored.items()}
            steps = {name: final.step for name, final in scored.items()}
            found.setdefault(job.run, []).append(
                JobResult(key, job.run, job.seed, state, values, job.settings, last.facts, last.code_hash, steps)
            )
    order = {run: place for place, run in enumerate(desk.study.runs)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0].removesuffix("-start"), len(order))))


def _examine_search(desk: Desk, record: DecisionRecord) -> Finding:
    """What a search chose, chosen again from the rows of its trials."""
    bare = replace(record, comparisons=())  # those are trials
    row = desk.study.runs.get(record.name.removeprefix(SEARCH_OF))
    before = {each.name: each for each in desk.store.all_decisions() if each.number < record.number}
    if row is None or row.search is None or declaration(desk.study, row, before) != record.tree_hash:
        return Finding(record.name, "fell", ("the file searches elsewhere, or with another budget, than then",), bare, None)
    again = choose(desk.study, row, trials_of(desk, desk.plan(), row), record.tree_hash, record.at)
    if again is None or (again.took, again.sets) != (record.took, dict(record.sets)):
        follows = f"{again.took}: {again.because}" if again else "nothing"
        problem = f"it took {record.took}: {record.because}; from these numbers follows {follows}"
        return Finding(record.name, "fell", (problem,), bare, again and replace(again, comparisons=()))
    problems = [*_unlike_file(desk, record)]
    problems += [
        f"{old['job']} scored {old['score']}, the database says {new['score']}"
        for old, new in zip(record.comparisons, again.comparisons, strict=False)
        if (old["job"], old["score"]) != (new["job"], new["score"])
    ]
    return Finding(record.name, "moved" if problems else "follows", tuple(problems), bare, replace(again, comparisons=()))


# ---------------------------------------------------------------- what changed


def _changed_numbers(desk: Desk, record: DecisionRecord, again: DecisionRecord, keys: Collection[str]) -> list[str]:
    """Every number of the evidence that the rows do not give any more; where one of a job is off, what its own file says."""
    made = {(one["a"], one["b"], one["metric"]): one for one in again.comparisons}
    told: list[str] = []
    for one in record.comparisons:
        new = made.get((one["a"], one["b"], one["metric"]))
        if new is None:
            continue
        values = [*_values(desk, one, new)]
        noise = [] if _same(one["noise"]["sd"], new["noise"]["sd"]) else [*_lenders(desk, one["metric"], keys)]
        told += [*values, *noise, *_summary(one, new, explained=bool(values))]
    for key, code in record.jobs.items():
        if key in again.jobs and again.jobs[key] != code:
            told.append(f"{key} was trained with code {code or 'unknown'}; the database says {again.jobs[key] or 'unknown'}")
    return list(dict.fromkeys(told))


def _values(desk: Desk, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Values by seed that are others now."""
    for run, side in ((old["a"], "values_a"), (old["b"], "values_b")):
        for seed in sorted({*old[side], *new[side]}, key=int):
            before, now = old[side].get(seed), new[side].get(seed)
            if not _same(before, now):
                beside = _in_file(desk, run, int(seed), old["metric"], now)
                name = desk.study.aliases.get(run, run)
                yield f"{name}@{seed} {old['metric']}: taken at {_number(before)}, the database says {_number(now)}{beside}"


def _unlike_before(desk: Desk, record: DecisionRecord) -> Iterator[str]:
    """What earlier records of the tree were taken at, where the same job has another result now: it was trained once more."""
    earlier = [each for each in desk.store.all_decisions() if each.name == record.name and each.number < record.number]
    results = recorded_results(desk, {key for each in earlier for key in each.jobs})
    jobs = {job.key: job for of_run in results.values() for job in of_run}
    for each in earlier:
        now = {f"{jobs[key].run}@{jobs[key].seed}": jobs[key] for key in each.jobs if key in jobs}
        sides = [(one, side) for one in each.comparisons for side in ("a", "b")]
        taken = [
            (f"{desk.study.aliases.get(one[side], one[side])}@{seed}", one["metric"], value)
            for one, side in sides
            for seed, value in one[f"values_{side}"].items()
        ]
        for name, metric, before in dict.fromkeys(taken):
            value = now[name].values.get(metric) if name in now else before
            if not _same(before, value):
                said = f"record {each.number} was taken at {_number(before)}, the database says {_number(value)}"
                yield f"{name} {metric}: {said}: another result of the same job"


def _summary(old: Mapping[str, Any], new: Mapping[str, Any], explained: bool) -> Iterator[str]:
    """What the file declares, what is computed, what holds. explained: values by seed have changed, so the computed ones must."""
    what = f"{old['a']} − {old['b']} on {old['metric']}"
    noise = not _same(old["noise"]["sd"], new["noise"]["sd"])
    computed = () if explained or noise else ("delta", "low", "high", "tost_low", "tost_high")
    for name in ("margin", "level", *computed):
        if not _same(old[name], new[name]):
            yield f"{what}: {name} was {_number(old[name])}, now {_number(new[name])}"
    if noise and not explained:
        yield f"{what}: noise between seeds was {_number(old['noise']['sd'])}, now {_number(new['noise']['sd'])}"
    if list(old["holds"]) != list(new["holds"]):
        yield f"{what}: held {', '.join(old['holds']) or 'nothing'}, now {', '.join(new['holds']) or new['reason'] or 'nothing'}"
    equal = {check["check"]: check["ok"] for check in old["fairness"]}
    changed = [now["check"] for now in new["fairness"] if equal.get(now["check"], now["ok"]) != now["ok"]]
    if changed:
        yield f"{what}: equal or not is another now: {', '.join(changed)}"


def _lenders(desk: Desk, metric: str, keys: Collection[str]) -> Iterator[str]:
    """Jobs that lend their noise whose value in the database is not the one in their folder."""
    results = recorded_results(desk, keys)
    for job in (job for of_run in results.values() for job in of_run if job.state == "done"):
        value = job.values.get(metric)
        if beside := _in_file(desk, job.run, job.seed, metric, value, job.key):
            yield f"{job.run}@{job.seed} {metric}: the database says {_number(value)}{beside}"


def _in_file(desk: Desk, run: str, seed: int, metric: str, stored: float | None, key: str = "") -> str:
    """What a job's own metrics.jsonl says, where that is not what the database says; "" where it agrees or is not there."""
    name = desk.study.aliases.get(run, run)
    keys = [key] if key else [each for each, job in desk.store.jobs().items() if (job.run, job.seed) == (name, seed)]
    last = desk.study.metrics[metric].last
    for each in keys:
        steps: dict[int, float] = {}
        for number in desk.folders.attempt_numbers(each):
            folder, offset = desk.folders.attempt(each, number), 0
            while (reading := collect.read_points(folder, each, number, offset)).offset != offset:
                offset = reading.offset
                steps |= {point.step: point.value for point in reading.points if point.name == metric}
        if steps:
            values = [steps[step] for step in sorted(steps, reverse=True)[:last]]
            written = sum(values) / len(values)
            if not _same(written, stored):
                return f", its metrics.jsonl {_number(written)}"
    return ""


def _unlike_file(desk: Desk, record: DecisionRecord) -> Iterator[str]:
    """A row that was changed after it was written: its file keeps what was decided."""
    path = desk.folders.decision(record.number, record.name)
    if not path.exists():
        return
    written = read_json_table(path)
    stored = json.loads(json.dumps(vars(record), default=dict))
    changed = [name for name in stored if name in written and stored[name] != written[name]]
    if changed:
        yield f"its row in the database is not what {path.name} says: {', '.join(changed)}"


def _superseded_below(desk: Desk, record: DecisionRecord) -> Iterator[str]:
    """Earlier decisions it was built on that say something else now."""
    history = desk.store.all_decisions()
    before = {each.name: each for each in history if each.number < record.number}
    standing = {each.name: each for each in history}
    for name in turned_below(desk.study, record, history):
        then, now = before[name], standing[name]
        yield f"stale: it was built on {name} = {then.took or then.status} (record {then.number}); now {now.took or now.status}"


def _overruled(desk: Desk, record: DecisionRecord, problems: list[str]) -> Finding:
    """A person's decision follows from that person; what it sets must still be what the run taken changes."""
    run = desk.study.runs.get(desk.study.aliases.get(record.took, record.took))
    if run is None and record.took not in ("", STOP) and not record.took.endswith("-start"):
        return Finding(record.name, "fell", (*problems, f"it takes {record.took}, which the file has no more"), record, None)
    wanted = dict(run.changes) if run and record.sets else dict(record.sets)
    if wanted != dict(record.sets):
        problems.append(f"{record.took} changes {wanted} now; the decision sets {dict(record.sets)}")
        return Finding(record.name, "fell", tuple(problems), record, replace(record, sets=wanted))
    return Finding(record.name, "moved" if problems else "follows", tuple(problems), record, record)


# ---------------------------------------------------------------- the lock


def _examine_lock(desk: Desk, held: LockRecord, found: Sequence[Finding]) -> Finding:
    fallen = [one.name for one in found if one.verdict == "fell" and one.name in held.decisions]
    problems = [f"it rests on {name}, which fell" for name in fallen]
    if content_hash(held.settings) != held.hash:
        problems.append(f"its settings are not those it was locked with: their hash is not {held.hash[:12]}")
    if desk.folders.lock.exists():
        written = read_json_table(desk.folders.lock)
        fields = ("settings", "sources", "decisions", "hash")
        changed = [name for name in fields if written.get(name) != _plain(getattr(held, name))]
        if changed:
            problems.append(f"its row in the database is not what {desk.folders.lock.name} says: {', '.join(changed)}")
    plan = desk.plan()
    made = make_lock(desk.study, plan.decisions, trained_runs(plan), Plan((), {}, {}, ()), held.at)
    if isinstance(made, NotYet):
        return Finding(LOCK, "fell", (*problems, *made.reasons), held, None)
    problems += [
        f"{name}: locked {held.settings.get(name)!r} ({held.sources.get(name, 'nowhere')}), now {value!r} ({made.sources[name]})"
        for name, value in made.settings.items()
        if held.settings.get(name) != value
    ]
    same = dict(made.settings) == dict(held.settings) and not fallen
    return Finding(LOCK, "fell" if not same else "moved" if problems else "follows", tuple(problems), held, made)


def _examine_confirmation(desk: Desk, held: LockRecord) -> Iterator[Finding]:
    """The record that confirms this lock, judged again on the jobs it names."""
    record = desk.store.decisions().get(CONFIRMATION)
    if record is None or record.tree_hash != held.hash or desk.study.confirm is None:
        return
    keys = evidence_keys(desk, record)
    fresh = recorded_results(desk, record.jobs)
    others = recorded_results(desk, keys - record.jobs.keys())
    if not {LOCKED, desk.study.confirm.against} <= fresh.keys():
        yield Finding(CONFIRMATION, "fell", ("jobs it rests on are not in the database",), record, None)
        return
    again = judge(desk.study, held, fresh, others, desk.store.decisions(), record.at)
    problems = [*_unlike_file(desk, record), *_changed_numbers(desk, record, again, keys)]
    if again.took != record.took:
        problems.append(f"it says {record.because.partition(':')[0]}; from these numbers follows {again.because}")
    verdict: Verdict = "fell" if again.took != record.took else "moved" if problems else "follows"
    yield Finding(CONFIRMATION, verdict, tuple(problems), record, again)


# ---------------------------------------------------------------- small things


def _today(desk: Desk, plan: Plan) -> dict[str, DecisionRecord]:
    """Tree -> what all that is known now says of it."""
    hours = measured_hours(desk)
    ruled = {name: record for name, record in plan.decisions.items() if record.status != "overruled"}
    made: dict[str, DecisionRecord] = {}
    for sweep in desk.study.sweeps.values():
        results = job_results(desk, plan, sweep.name)
        answer = decide_sweep(
            desk.study, sweep, results, ruled, plan.its_start, now="", hours_of=lambda run: hours_of(desk.study, run, hours)[0]
        )
        made |= {record.name: record for record in answer.decisions}
    return made


def _is_note(record: DecisionRecord) -> bool:
    """Records that no tree took: a look that was asked for, a confirmation."""
    return " " in record.name


def _conclusion(record: DecisionRecord) -> tuple[Any, ...]:
    return record.status, record.took, record.line, dict(record.sets)


def _said(record: DecisionRecord) -> str:
    if record.took:
        return f"{record.took} by the line {record.line!r}" if record.line else record.took
    return f"{record.status} ({record.because})"


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None or math.isnan(one) or math.isnan(other):
        return (one is None or math.isnan(one)) and (other is None or math.isnan(other))
    return math.isclose(one, other, rel_tol=CLOSE, abs_tol=1e-12)


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.6g}"


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
