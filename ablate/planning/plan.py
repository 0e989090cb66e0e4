"""What may start, what waits and for what, what is skipped and why: from the study, its attempts and its decisions. Pure.

What rows start from: starts.py. What keeps a job from starting: gates.py. What its attempts make of it: states.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ablate.planning.gates import Gate, Held, asked_for, gates_of, held_back, look_at, skipped_sweeps, until
from ablate.planning.search import change_text, drawn, searched, trial_text, with_chosen
from ablate.planning.starts import Starts, starts_of, trainable, unchosen
from ablate.planning.states import STARTABLE, state_of
from ablate.settings import as_toml
from ablate.study import (
    LOCKED,
    REFERENCE,
    TRIAL,
    JobState,
    Run,
    Settings,
    Study,
    hash_of,
    job_key,
    job_keys,
    run_of,
    sweeps_of_runs,
)
from db.records import AttemptRecord, DecisionRecord, JobRecord, LockRecord

Attempts = Mapping[str, tuple[AttemptRecord, ...]]
"""Job key -> its attempts, oldest first."""


@dataclass(frozen=True)
class PlannedJob:
    """One job as it stands today."""

    id: str
    """"D1-s42": known before its settings are."""
    key: str | None
    """None until the decisions it starts from are made."""
    run: str
    seed: int
    settings: Settings | None
    state: JobState
    reason: str
    """Why it is in this state, in words."""
    block: str
    sweeps: tuple[str, ...]
    change: str
    """What it changes in its start."""
    gpus: int
    attempt: int
    """Attempts so far."""
    added: bool = False
    """A reference job that the planner added: somebody's start that no row trains."""
    stale: bool = False
    """It would train anew what was trained, or skipped, when a decision said something else: see stale.py."""
    confirms: bool = False
    """On a fresh seed, to confirm the lock: no decision may see it."""
    look: int = 1
    """The declared look its seed belongs to."""
    held_for_look: bool = False
    """Its look has not been asked for."""
    trial: int = 0
    """Its number among the trials of its row's search, whose scores are selected and no evidence; 0: it is none."""
    gate: Gate | None = None
    """None: it may start."""


@dataclass(frozen=True)
class Plan:
    """Every job of the study, in the order they would be started."""

    jobs: tuple[PlannedJob, ...]
    its_start: Mapping[str, str]
    """Row -> the run it is compared with by "its start"; absent while that is not known."""
    skipped_sweeps: Mapping[str, str]
    """Sweep -> why."""
    orphans: tuple[str, ...]
    """Keys of jobs with results that today's file and decisions no longer ask for: stale, kept, unused."""
    same: Mapping[str, str] = field(default_factory=dict)
    """Id of a job that would train what another one does, with the same seed -> id of that one: its result counts for both."""
    decisions: Mapping[str, DecisionRecord] = field(default_factory=dict)
    """The decisions that stand."""
    fallen: Mapping[str, str] = field(default_factory=dict)
    """Decision that was taken and stands no more -> why: it is open again, and what starts from it waits."""

    def of_run(self, run: str) -> tuple[PlannedJob, ...]:
        """The jobs that the study compares; the baseline's fresh seeds, which only confirm the lock, are not among them."""
        shared = {owner for id, owner in self.same.items() if run_of(id) == run}
        own = (job for job in self.jobs if job.run == run or job.id in shared)
        return tuple(job for job in own if run == LOCKED or not job.confirms)

    def startable(self) -> tuple[PlannedJob, ...]:
        return tuple(job for job in self.jobs if job.state in STARTABLE)


def make_plan(
    study: Study,
    attempts: Attempts,
    decisions: Mapping[str, DecisionRecord],
    *,
    history: Sequence[DecisionRecord] = (),
    redo_stale: bool = False,
    lock: LockRecord | None = None,
    trials: Collection[JobRecord] = (),
    once: bool = True,
) -> Plan:
    """Sort every job by what may happen to it next.

    attempts:   job key -> its attempts, oldest first.
    decisions:  tree -> its current decision.
    history:    every decision record, superseded ones too: what was trained or skipped under one of those is held back,
    redo_stale: unless a person asked for it.
    lock:       the one that holds; confirming it is planned from the start and can begin when it is there.
    trials:     jobs of trials that were begun: a trial has no settings, and no key, until its point is drawn.
    once:       what two rows have in common is trained once.

    A decision that rests on jobs which are not in the plan any more is open again. Two calls with the same values give the same
    plan.
    """
    plan = _plan_on(study, attempts, decisions, history, redo_stale, lock, trials, once)
    fallen = _fallen(study, plan)
    if not fallen:
        return plan
    standing = {name: record for name, record in decisions.items() if name not in fallen}
    plan = make_plan(study, attempts, standing, history=history, redo_stale=redo_stale, lock=lock, trials=trials, once=once)
    return replace(plan, fallen={**fallen, **plan.fallen})


def _fallen(study: Study, plan: Plan) -> dict[str, str]:
    """Decisions of a rule that rest on what the plan made from them does not hold -> what that is."""
    found = {}
    planned = {job.key for job in plan.jobs} if plan.decisions else set[str | None]()
    for name, tree in study.trees.items():
        record = plan.decisions.get(name)
        if record is None or record.status not in ("decided", "skipped"):
            continue
        gone = [key for key in record.jobs if key not in planned]
        if record.status == "skipped" and tree.sweep not in plan.skipped_sweeps:
            found[name] = f"{tree.sweep} was skipped: {record.because}; nothing says so any more"
        elif gone:
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            found[name] = f"it took {record.took} by {gone[0]}{more}, which the study of today does not ask for any more"
    return found


def tried_again(study: Study, job: PlannedJob, tried: tuple[AttemptRecord, ...]) -> PlannedJob:
    """A planned job after one of its attempts began, ended or was amended: as a new plan has it, if no decision has changed."""
    state, reason = state_of(study, tried, job.gate)
    return replace(job, state=state, reason=reason, attempt=len(tried), stale=False, held_for_look=False)


def row_of(job: PlannedJob) -> str:
    """The row of runs.toml a job is for: its run, or the row whose reference or trial it is."""
    if job.trial:
        return job.run.removesuffix(TRIAL)
    return job.run.removesuffix(REFERENCE) if job.added else job.run


def nothing_adopted(study: Study, lock: LockRecord) -> bool:
    """Whether the locked config is the baseline, in what can change a result."""
    return all(study.settings.get(name) == value for name, value in lock.settings.items() if name in study.stateful)


# ---------------------------------------------------------------- every job


@dataclass(frozen=True)
class _Given:
    """What every job is planned from."""

    study: Study
    attempts: Attempts
    gates: Mapping[str, Gate]
    """Row -> what its sweep puts between it and its start."""
    sweeps_of: Mapping[str, tuple[str, ...]]
    """Row -> the sweeps that need it."""
    held: Held
    asked: frozenset[str]
    """Keys of jobs of later looks that were asked for."""


def _plan_on(
    study: Study,
    attempts: Attempts,
    decisions: Mapping[str, DecisionRecord],
    history: Sequence[DecisionRecord],
    redo_stale: bool,
    lock: LockRecord | None,
    trials: Collection[JobRecord],
    once: bool,
) -> Plan:
    """The plan if all these decisions stand."""
    study = with_chosen(study, decisions)
    skipped, sweeps_of = skipped_sweeps(study, decisions), sweeps_of_runs(study)
    starts = starts_of(study, decisions, once)
    held = Held.none() if redo_stale else held_back(study, attempts, decisions, history, sweeps_of)
    given = _Given(study, attempts, gates_of(study, sweeps_of, skipped, decisions), sweeps_of, held, asked_for(decisions))
    jobs = _in_order(given, starts, trials)
    same = _trained_once(study, jobs) if once else {}
    jobs = [*(job for job in jobs if job.id not in same), *_confirmation(given, lock)]
    planned = {job.key for job in jobs if job.key}
    return Plan(
        jobs=tuple(jobs),
        its_start={row: _in_place_of(study, run, same) for row, run in starts.its_start.items()},
        skipped_sweeps=skipped,
        orphans=tuple(key for key in attempts if key not in planned),
        same=same,
        decisions=decisions,
    )


def _in_order(given: _Given, starts: Starts, trials: Collection[JobRecord]) -> list[PlannedJob]:
    """By block, then by seed, then by row; trials before all seeds, a reference job before the one of the row it is for."""
    study, begun = given.study, dict[str, list[JobRecord]]()
    for trial in trials:
        begun.setdefault(trial.run, []).append(trial)
    blocks = {run: at for at, block in enumerate(study.blocks) for run in block.runs}
    at: dict[tuple[int, int], list[PlannedJob]] = {}  # block, place of the seed
    for row in study.runs.values():
        block = blocks.get(row.name, len(study.blocks))
        start = trainable(study, row, starts.settings[row.name])
        of_search = [*_trials_of(given, row, start, begun.get(row.name + TRIAL, ()))] if row.search else []
        at.setdefault((block, -1), []).extend(of_search)
        reference = starts.added.get(row.name + REFERENCE)
        if reference and start is starts.settings[row.name]:
            for place, job in enumerate(_jobs_of(given, row, reference, start)):
                at.setdefault((block, place), []).append(job)
        for place, job in enumerate(_jobs_of(given, row, row, _choice_of(row, of_search) or start)):
            at.setdefault((block, place), []).append(job)
    return [job for place in sorted(at) for job in at[place]]


# ---------------------------------------------------------------- the jobs of a row


def _jobs_of(given: _Given, row: Run, run: Run, start: Settings | str) -> Iterator[PlannedJob]:
    """One job per seed of `row`; `run` is the row itself, or the reference run added for it."""
    study, sweeps = given.study, given.sweeps_of.get(row.name, ())
    settings = None if isinstance(start, str) else {**start, **run.changes}
    added = run is not row
    waits_for = start if isinstance(start, str) else ""
    if added and waits_for:
        waits_for += ": only needed if they take a combination that no row trains"
    gate = given.gates.get(row.name) or until(waits_for)
    change = f"the start of {row.name}, which no row trains" if added else _change(study, run)
    seeds = study.seeds[row.name]
    keys = job_keys(study, run.name, seeds, settings) if settings is not None else [None] * len(seeds)
    for place, (seed, key) in enumerate(zip(seeds, keys, strict=True)):
        tried = given.attempts.get(key, ()) if key else ()
        state, reason, stale = _standing(given, row, run, seed, key, tried, gate)
        look = look_at(study.looks, place) if study.looks else 1
        later = look > 1 and not tried and key not in given.asked and state != "skipped"
        if later:
            settle = f"`ablate launch --settle {sweeps[0]}`" if sweeps else "a sweep that needs it"
            state, reason = "skipped", f"held back for look {look} ({study.looks[look - 1]} seeds), until {settle} asks for it"
        yield PlannedJob(
            id=f"{run.name}-s{seed}",
            key=key,
            run=run.name,
            seed=seed,
            settings=settings,
            state=state,
            reason=reason,
            block=study.block_of(row.name),
            sweeps=sweeps,
            change=change,
            gpus=study.gpus_per_run,
            attempt=len(tried),
            added=added,
            stale=stale,
            look=look,
            held_for_look=later,
            gate=gate,
        )


def _trials_of(given: _Given, row: Run, start: Settings | str, trials: Collection[JobRecord]) -> Iterator[PlannedJob]:
    """One job per trial of a row's search; those that have not begun have no point yet, and may begin in any order."""
    study, search = given.study, searched(row)
    begun = {} if isinstance(start, str) else drawn(study, row, start, trials)
    gate = given.gates.get(row.name) or until(start if isinstance(start, str) else "")
    run = replace(row, name=row.name + TRIAL)
    for number in range(1, search.trials + 1):
        job, seed = begun.get(number), search.seed(number)
        tried = given.attempts.get(job.key, ()) if job else ()
        state, reason, stale = _standing(given, row, run, seed, "its point", tried, gate)
        yield PlannedJob(
            id=f"{run.name}-s{seed}",
            key=job.key if job else None,
            run=run.name,
            seed=seed,
            settings=job.settings if job else None,
            state=state,
            reason=reason,
            block=study.block_of(row.name),
            sweeps=given.sweeps_of.get(row.name, ()),
            change=trial_text(row, number, job.settings if job else None),
            gpus=study.gpus_per_run,
            attempt=len(tried),
            stale=stale,
            trial=number,
            gate=gate,
        )


def _standing(
    given: _Given, row: Run, run: Run, seed: int, key: str | None, tried: tuple[AttemptRecord, ...], gate: Gate | None
) -> tuple[JobState, str, bool]:
    """Its state, why, and whether that is because it is stale."""
    state, reason = state_of(given.study, tried, gate)
    stale = given.held.reason(row, run, seed, key) if state == "ready" and not tried else ""
    return ("waiting", stale, True) if stale else (state, reason, False)


def _choice_of(row: Run, trials: Sequence[PlannedJob]) -> str:
    """What a row waits for that is tuned and has not chosen yet; "" for any other."""
    waits = unchosen(row)
    if waits and trials and all(job.state in ("stopped", "diverged", "failed") for job in trials):
        return f"none of the {len(trials)} trials of its search came to its end: search elsewhere, or mend what failed"
    return waits


def _change(study: Study, run: Run) -> str:
    if run.name == study.baseline:
        return "the baseline"
    if run.search:
        return change_text(run)
    return (
        ", ".join(
            f"{name} = {f'{value:g}' if isinstance(value, float) else as_toml(value)}" for name, value in run.changes.items()
        )
        or "nothing"
    )


# ---------------------------------------------------------------- trained once


def _trained_once(study: Study, jobs: Sequence[PlannedJob]) -> dict[str, str]:
    """Job that would train the same config with the same seed as another -> that one. What was tried already stays by itself."""
    hashes = Counter(hash_of(job.key) for job in jobs if job.key)
    alike: dict[tuple[str, int, int], list[PlannedJob]] = {}
    for job in jobs:
        if job.key and hashes[hash_of(job.key)] > 1 and not job.trial and job.state != "skipped":
            alike.setdefault((hash_of(job.key), job.seed, job.look), []).append(job)
    same: dict[str, str] = {}
    for group in alike.values():
        first = min(group, key=_trains_first)
        others = (job for job in group if job is not first and not job.attempt)
        same |= {job.id: first.id for job in others if _config(study, job) == _config(study, first)}
    return same


def _trains_first(job: PlannedJob) -> tuple[bool, bool, bool]:
    return not job.attempt, job.state == "waiting", job.added


def _config(study: Study, job: PlannedJob) -> Settings:
    """What can change its result."""
    return {name: value for name, value in (job.settings or {}).items() if name in study.stateful}


def _in_place_of(study: Study, run: str, same: Mapping[str, str]) -> str:
    """The run that trains a row's start: where that was a reference run, and a row trains all it would, that row."""
    if run in study.runs:
        return run
    ids = [f"{run}-s{seed}" for seed in study.seeds[run.removesuffix(REFERENCE)]]
    found = {run_of(same.get(id, id)) for id in ids}
    return found.pop() if len(found) == 1 else run


# ---------------------------------------------------------------- the lock, confirmed


CONFIRMS = "confirmation"
"""The block of the jobs that confirm the lock."""


def _confirmation(given: _Given, lock: LockRecord | None) -> Iterator[PlannedJob]:
    """The locked config and the baseline, a job per fresh seed each."""
    study = given.study
    if study.confirm is None:
        return
    held = lock if lock and not lock.lifted_at else None
    waits_for = "" if held else "the lock is not there yet"
    if held and held.conflicts:
        waits_for = f"the lock has conflicts: {'; '.join(held.conflicts)}"
    gate = until(waits_for)
    for run in (LOCKED, study.confirm.against):
        settings = (dict(held.settings) if held else None) if run == LOCKED else study.settings
        for seed in study.confirm.seeds:
            key = job_key(study, run, seed, settings) if settings is not None else None
            tried = given.attempts.get(key, ()) if key else ()
            state, reason = state_of(study, tried, gate)
            if held and nothing_adopted(study, held) and not tried:
                state, reason = "skipped", "the lock is the baseline: there is nothing to confirm"
            yield PlannedJob(
                id=f"{run}-s{seed}",
                key=key,
                run=run,
                seed=seed,
                settings=settings,
                state=state,
                reason=reason,
                block=CONFIRMS,
                sweeps=(),
                change="the locked config, on a fresh seed" if run == LOCKED else "the baseline, on a fresh seed",
                gpus=study.gpus_per_run,
                attempt=len(tried),
                confirms=True,
                gate=gate,
            )
