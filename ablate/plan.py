"""What may start, what waits and for what, what is skipped and why: from the study, its attempts and its decisions. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ablate.conditions import ITS_START, Answer, Atom, Took, atoms, evaluate, listed
from ablate.failures import FailureClass, named, tries_left
from ablate.outcomes import may_start_from_new
from ablate.search import GIVEN_UP, change_text, drawn, searched, trial_text, with_chosen
from ablate.settings import as_toml
from ablate.study import (
    LOCKED,
    REFERENCE,
    TRIAL,
    JobState,
    Run,
    Settings,
    Study,
    Tree,
    job_key,
    job_keys,
    own_runs,
    run_of,
    runs_of_tree,
    sweeps_of_runs,
)
from db.records import AttemptRecord, DecisionRecord, JobRecord, LockRecord

STARTABLE: frozenset[JobState] = frozenset({"ready", "interrupted"})
COMING: frozenset[JobState] = STARTABLE | {"waiting", "running"}

FAILURE, FORGIVEN, HELD, LOST_GPU_S = "failure", "forgiven", "held", "lost_gpu_s"
"""Facts of an attempt that launching adds: its failure's class, who asked to try again, who stopped it, what a crash cost."""


@dataclass(frozen=True)
class Gate:
    """What stands between a job and its start, whatever its attempts say: decisions that skip it, or that are open."""

    skipped: bool
    reason: str


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
    attempts: Mapping[str, tuple[AttemptRecord, ...]],
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
    planned = {job.key for job in plan.jobs}
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


def _plan_on(
    study: Study,
    attempts: Mapping[str, tuple[AttemptRecord, ...]],
    decisions: Mapping[str, DecisionRecord],
    history: Sequence[DecisionRecord],
    redo_stale: bool,
    lock: LockRecord | None,
    trials: Collection[JobRecord],
    once: bool,
) -> Plan:
    """The plan if all these decisions stand."""
    study = with_chosen(study, decisions)
    skipped = skipped_sweeps(study, decisions)
    sweeps_of = sweeps_of_runs(study)
    gates = _gates(study, sweeps_of, skipped, decisions)
    starts = _starts(study, decisions, once)
    held = _Held.none() if redo_stale else _held(study, attempts, decisions, history, sweeps_of)
    asked = asked_for(decisions)
    begun: dict[str, list[JobRecord]] = {}
    for trial in trials:
        begun.setdefault(trial.run, []).append(trial)
    jobs: list[PlannedJob] = []
    for row in study.runs.values():
        start = _trainable(study, row, starts.settings[row.name])
        reference = starts.added.get(row.name + REFERENCE) if start is starts.settings[row.name] else None
        mine, sweeps = begun.get(row.name + TRIAL, ()), sweeps_of.get(row.name, ())
        of_search = [*_trials_of(study, row, start, mine, attempts, gates.get(row.name), sweeps, held)] if row.search else []
        jobs += of_search
        for run in (row, reference):
            if run:
                jobs += _jobs_of(
                    study,
                    row,
                    run,
                    _unchosen(row, of_search) or start if run is row else start,
                    attempts,
                    gates.get(row.name),
                    sweeps,
                    held,
                    asked,
                )
    jobs = sorted(jobs, key=_order(study))
    same = _trained_once(study, jobs) if once else {}
    jobs = [*(job for job in jobs if job.id not in same), *_confirmation(study, lock, attempts)]
    planned = {job.key for job in jobs if job.key}
    return Plan(
        jobs=tuple(jobs),
        its_start={row: _in_place_of(study, run, same) for row, run in starts.its_start.items()},
        skipped_sweeps=skipped,
        orphans=tuple(key for key in attempts if key not in planned),
        same=same,
        decisions=decisions,
    )


def _trained_once(study: Study, jobs: Sequence[PlannedJob]) -> dict[str, str]:
    """Job that would train the same config with the same seed as another -> that one. What was tried already stays by itself."""
    alike: dict[tuple[str, int, int], list[PlannedJob]] = {}
    for job in jobs:
        if job.key and not job.trial and job.state != "skipped":
            alike.setdefault((job.key.rsplit("-", 1)[-1], job.seed, job.look), []).append(job)
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


def _jobs_of(
    study: Study,
    row: Run,
    run: Run,
    start: Settings | str,
    attempts: Mapping[str, tuple[AttemptRecord, ...]],
    gate: Gate | None,
    sweeps: tuple[str, ...],
    held: _Held,
    asked: frozenset[str],
) -> Iterator[PlannedJob]:
    """One job per seed of `row`; `run` is the row itself, or the reference run added for it."""
    settings = None if isinstance(start, str) else {**start, **run.changes}
    added = run is not row
    waits_for = start if isinstance(start, str) else ""
    if added and waits_for:
        waits_for += ": only needed if they take a combination that no row trains"
    gate = gate or _until(waits_for)
    change = f"the start of {row.name}, which no row trains" if added else _change(study, run)
    seeds = study.seeds[row.name]
    keys = job_keys(study, run.name, seeds, settings) if settings is not None else [None] * len(seeds)
    for place, (seed, key) in enumerate(zip(seeds, keys, strict=True)):
        tried = attempts.get(key, ()) if key else ()
        state, reason = _state(study, tried, gate)
        stale = held.reason(row, run, seed, key) if state == "ready" and not tried else ""
        if stale:
            state, reason = "waiting", stale
        look = _look_at(study.looks, place)
        later = look > 1 and not tried and key not in asked and state != "skipped"
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
            stale=bool(stale),
            look=look,
            held_for_look=later,
            gate=gate,
        )


def _trials_of(
    study: Study,
    row: Run,
    start: Settings | str,
    trials: Collection[JobRecord],
    attempts: Mapping[str, tuple[AttemptRecord, ...]],
    gate: Gate | None,
    sweeps: tuple[str, ...],
    held: _Held,
) -> Iterator[PlannedJob]:
    """One job per trial of a row's search; those that have not begun have no point yet, and may begin in any order."""
    search = searched(row)
    begun = {} if isinstance(start, str) else drawn(study, row, start, trials)
    gate = gate or _until(start if isinstance(start, str) else "")
    run = replace(row, name=row.name + TRIAL)
    for number in range(1, search.trials + 1):
        job, seed = begun.get(number), search.seed(number)
        tried = attempts.get(job.key, ()) if job else ()
        state, reason = _state(study, tried, gate)
        stale = held.reason(row, run, seed, "its point") if state == "ready" and not tried else ""
        if stale:
            state, reason = "waiting", stale
        yield PlannedJob(
            id=f"{run.name}-s{seed}",
            key=job.key if job else None,
            run=run.name,
            seed=seed,
            settings=job.settings if job else None,
            state=state,
            reason=reason,
            block=study.block_of(row.name),
            sweeps=sweeps,
            change=trial_text(row, number, job.settings if job else None),
            gpus=study.gpus_per_run,
            attempt=len(tried),
            stale=bool(stale),
            trial=number,
            gate=gate,
        )


def _unchosen(row: Run, trials: Sequence[PlannedJob] = ()) -> str:
    """What a row waits for that is tuned and has not chosen yet; "" for any other."""
    if row.search is None or row.chosen:
        return ""
    if trials and all(job.state in ("stopped", "diverged", "failed") for job in trials):
        return f"none of the {len(trials)} trials of its search came to its end: search elsewhere, or mend what failed"
    return f"its search among {row.search.trials} trials has not chosen yet"


def tried_again(study: Study, job: PlannedJob, tried: tuple[AttemptRecord, ...]) -> PlannedJob:
    """A planned job after one of its attempts began, ended or was amended: as a new plan has it, if no decision has changed."""
    state, reason = _state(study, tried, job.gate)
    return replace(job, state=state, reason=reason, attempt=len(tried), stale=False, held_for_look=False)


LOOK_OF = "look of "
"""A record among the decisions whose name begins so says which seeds of a later look a person asked for, for which sweep."""


def asked_for(decisions: Mapping[str, DecisionRecord], sweep: str = "") -> frozenset[str]:
    """Keys of the jobs of later looks that were asked for, to settle this sweep; "" for any."""
    records = [record for name, record in decisions.items() if name.startswith(LOOK_OF) and sweep in ("", record.sweep)]
    return frozenset(key for record in records for key in record.jobs)


def _look_at(looks: Sequence[int], place: int) -> int:
    """The look that a seed belongs to, by its place among the run's seeds."""
    return next((number for number, most in enumerate(looks, 1) if place < most), max(len(looks), 1))


CONFIRMS = "confirmation"
"""The block of the jobs that confirm the lock."""


def _confirmation(
    study: Study, lock: LockRecord | None, attempts: Mapping[str, tuple[AttemptRecord, ...]]
) -> Iterator[PlannedJob]:
    """The locked config and the baseline, a job per fresh seed each."""
    if study.confirm is None:
        return
    held = lock if lock and not lock.lifted_at else None
    waits_for = "" if held else "the lock is not there yet"
    if held and held.conflicts:
        waits_for = f"the lock has conflicts: {'; '.join(held.conflicts)}"
    for run in (LOCKED, study.confirm.against):
        settings = (dict(held.settings) if held else None) if run == LOCKED else study.settings
        for seed in study.confirm.seeds:
            key = job_key(study, run, seed, settings) if settings is not None else None
            tried = attempts.get(key, ()) if key else ()
            state, reason = _state(study, tried, _until(waits_for))
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
                gate=_until(waits_for),
            )


def nothing_adopted(study: Study, lock: LockRecord) -> bool:
    """Whether the locked config is the baseline, in what can change a result."""
    return all(study.settings.get(name) == value for name, value in lock.settings.items() if name in study.stateful)


def resolved(study: Study, run: Run, decisions: Mapping[str, DecisionRecord]) -> Settings | str:
    """The run's settings in full, or what they wait for."""
    start = _unchosen(run) or start_settings(study, run, decisions)
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
        if decision.took == "stop":
            return f'decision {name} says stop: "{decision.because}"'
        for setting, value in decision.sets.items():
            if source.get(setting) and settings[setting] != value:
                return f"decisions {source[setting]} and {name} both set {setting}: overrule one of them"
            settings[setting], source[setting] = value, name
    return settings


def _trainable(study: Study, row: Run, start: Settings | str) -> Settings | str:
    """The start of a row; or why nothing can be trained from it, where decisions brought together what the trainer refuses."""
    if isinstance(start, str) or row.start.kind != "winners" or study.conflict is None:
        return start
    said = study.conflict(start, {}) or study.conflict(start, row.changes)
    names = row.start.names
    one = "one of them" if len(names) > 1 else "it"
    return f"cannot be trained on what {listed(names)} took: {said}; overrule {one}" if said else start


def is_made(decision: DecisionRecord | None) -> bool:
    """Whether others may build on it; a skipped tree is settled too: the baseline stays."""
    return decision is not None and decision.status != "waiting"


def says_else(study: Study, one: DecisionRecord, other: DecisionRecord) -> bool:
    """Whether what rests on `one` would be another thing resting on `other`."""
    took = [study.aliases.get(record.took, record.took) for record in (one, other)]
    return (took[0], dict(one.sets)) != (took[1], dict(other.sets))


def skipped_sweeps(study: Study, decisions: Mapping[str, DecisionRecord]) -> dict[str, str]:
    """Sweep -> why it is skipped."""
    out = {}
    for sweep in study.sweeps.values():
        if sweep.skip and evaluate(sweep.skip.condition, lambda atom: took(study, atom, decisions)):
            out[sweep.name] = f"{sweep.skip.text}: {sweep.skip.because}"
    return out


def took(study: Study, atom: Atom, decisions: Mapping[str, DecisionRecord]) -> Answer:
    """Whether a decision took a run; None while it is open. Only `took` may stand in a skip rule."""
    assert isinstance(atom, Took), f"a skip rule may only ask what a decision took, not {atom}"
    decision = decisions.get(atom.decision)
    if decision is None or not is_made(decision):
        return None
    return study.aliases.get(decision.took, decision.took) == study.aliases.get(atom.run, atom.run)


def needs_of_tree(study: Study, tree: Tree, its_start: Mapping[str, str]) -> tuple[str, ...] | None:
    """The runs whose jobs a tree needs, "its start" included; None while that is not known."""
    named = runs_of_tree(tree)
    rows = [study.aliases.get(name, name) for name in named if name != ITS_START]
    if ITS_START in named:
        starting = [row for row in rows if study.runs[row].start.kind == "winners"]
        if any(row not in its_start for row in starting):
            return None
        rows += [its_start[row] for row in starting]
    return tuple(dict.fromkeys(sorted(rows)))


def askers(study: Study) -> dict[str, set[str]]:
    """Run or decision -> the sweeps whose trees may say something else when it has ended, or has changed."""
    found: dict[str, set[str]] = {}
    for sweep in study.sweeps.values():
        runs = {study.aliases.get(name, name) for tree in sweep.trees for name in runs_of_tree(tree)} & study.runs.keys()
        starts = {name for run in runs if study.runs[run].start.kind == "winners" for name in study.runs[run].start.names}
        conditions = [line.condition for tree in sweep.trees for line in tree.lines]
        conditions += [sweep.skip.condition] if sweep.skip else []
        took = {atom.decision for condition in conditions for atom in atoms(condition) if isinstance(atom, Took)}
        for what in (*runs, *starts, *took):
            found.setdefault(what, set()).add(sweep.name)
    return found


def needed_jobs(study: Study, plan: Plan) -> dict[str, tuple[str, ...]]:
    """Job id -> ids of the jobs that must end before it may start (through the decisions between them)."""
    ids: dict[str, list[str]] = {}
    for job in plan.jobs:
        if not job.confirms:
            ids.setdefault(job.run, []).append(job.id)
    for id, owner in plan.same.items():
        ids.setdefault(run_of(id), []).append(owner)
    tree_jobs = {}
    for tree in study.trees.values():
        runs = {study.aliases.get(name, name) for name in runs_of_tree(tree) - {ITS_START}}
        tree_jobs[tree.name] = [id for run in sorted(runs) for id in ids.get(run, [])]
    sweeps_of = sweeps_of_runs(study)
    waits: dict[str, set[str]] = {}
    for run in study.runs.values():
        waits[run.name] = set(run.start.names) if run.start.kind == "winners" else set()
    for sweep in study.sweeps.values():
        if sweep.skip:
            decisions = {atom.decision for atom in atoms(sweep.skip.condition) if isinstance(atom, Took)}
            for name in own_runs(study, sweep.name, sweeps_of):
                waits[name] |= decisions
    tuned = {run.name: ids.get(run.name + TRIAL, []) for run in study.searching}
    out = {}
    every = tuple(dict.fromkeys(id for of_tree in tree_jobs.values() for id in of_tree))
    for job in plan.jobs:
        if job.confirms:
            out[job.id] = tuple(id for id in every if id != job.id)
            continue
        needed = {id for name in waits[row_of(job)] for id in tree_jobs.get(name, []) if id != job.id}
        out[job.id] = tuple(sorted(needed.union(tuned.get(job.run, ()))))
    return out


@dataclass(frozen=True)
class _Starts:
    settings: Mapping[str, Settings | str]
    """Row -> the settings it changes, or what they wait for."""
    added: Mapping[str, Run]
    """Reference runs: starts of rows that no row trains (or that may turn out so, while decisions are open)."""
    its_start: Mapping[str, str]
    """Row -> the run that trains exactly its start."""


def _starts(study: Study, decisions: Mapping[str, DecisionRecord], once: bool) -> _Starts:
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
    return _Starts(settings, added, its_start)


@dataclass(frozen=True)
class _Held:
    """What is not trained by itself, because a decision turned after something was built on it."""

    rows: Mapping[str, str]
    """Row that starts from a decision that turned -> which one, in words."""
    skipped: Mapping[str, str]
    """Row of a sweep that was skipped and is not any more -> why."""
    trained: frozenset[str]
    """Ids of jobs that have a result, under whatever key: "D1-s42"."""

    @staticmethod
    def none() -> _Held:
        return _Held({}, {}, frozenset())

    def reason(self, row: Run, run: Run, seed: int, key: str | None) -> str:
        if row.name in self.skipped:
            return f"stale: {self.skipped[row.name]}; `ablate launch --redo-stale` trains it"
        if key and row.name in self.rows and f"{run.name}-s{seed}" in self.trained:
            return f"stale: trained before {self.rows[row.name]}; `ablate launch --redo-stale` trains it anew"
        return ""


def _held(
    study: Study,
    attempts: Mapping[str, tuple[AttemptRecord, ...]],
    decisions: Mapping[str, DecisionRecord],
    history: Sequence[DecisionRecord],
    sweeps_of: Mapping[str, tuple[str, ...]],
) -> _Held:
    turned = {
        name: f"{name} took {now.took or 'nothing'}"
        for name, now in decisions.items()
        if any(old.name == name and is_made(old) and says_else(study, old, now) for old in history)
    }
    if not turned:
        return _Held.none()
    rows = {
        run.name: " and ".join(turned[name] for name in run.start.names if name in turned)
        for run in study.runs.values()
        if run.start.kind == "winners" and turned.keys() & set(run.start.names)
    }
    skipped: dict[str, str] = {}
    for sweep in study.sweeps.values():
        asked = {atom.decision for atom in atoms(sweep.skip.condition) if isinstance(atom, Took)} if sweep.skip else set()
        was = any(old.sweep == sweep.name and old.status == "skipped" for old in history)
        if was and asked & turned.keys():
            why = f"{sweep.name} was skipped before {' and '.join(turned[name] for name in sorted(asked & turned.keys()))}"
            skipped |= dict.fromkeys(own_runs(study, sweep.name, sweeps_of), why)
    trained = frozenset(key.rsplit("-", 1)[0] for key, tried in attempts.items() if tried[-1].state in ("done", "diverged"))
    return _Held(rows, skipped, trained)


_canonical = json.JSONEncoder(sort_keys=True).encode


def row_of(job: PlannedJob) -> str:
    """The row of runs.toml a job is for: its run, or the row whose reference or trial it is."""
    if job.trial:
        return job.run.removesuffix(TRIAL)
    return job.run.removesuffix(REFERENCE) if job.added else job.run


def _until(waits_for: str) -> Gate | None:
    return Gate(False, waits_for) if waits_for else None


def _gates(
    study: Study, sweeps_of: Mapping[str, tuple[str, ...]], skipped: Mapping[str, str], decisions: Mapping[str, DecisionRecord]
) -> dict[str, Gate]:
    """Run -> its sweep's rule between it and its start: skipped, or not known yet."""
    gates = {}
    for sweep in study.sweeps.values():
        if not sweep.skip:
            continue
        if sweep.name in skipped:
            gate = Gate(True, f"{sweep.name} is skipped: {skipped[sweep.name]}")
        else:
            asked = [atom.decision for atom in atoms(sweep.skip.condition) if isinstance(atom, Took)]
            open_ = [name for name in asked if not is_made(decisions.get(name))]
            if not open_:
                continue
            gate = Gate(False, f"decision {' and '.join(open_)} is open: it may skip {sweep.name}")
        gates.update(dict.fromkeys(own_runs(study, sweep.name, sweeps_of), gate))
    return gates


def _state(study: Study, tried: tuple[AttemptRecord, ...], gate: Gate | None) -> tuple[JobState, str]:
    """A job's state and why. What has ended stays ended, whatever was decided since."""
    last = tried[-1] if tried else None
    if last and last.state in ("done", "diverged"):
        return ("done" if last.state == "done" else "diverged"), last.reason
    if last and last.state == "running":
        return "running", f"attempt {last.number} on {last.host or 'this machine'}"
    if last and last.facts.get(GIVEN_UP):
        return "stopped", str(last.facts[GIVEN_UP])
    if gate and gate.skipped:
        return "skipped", gate.reason
    failures = [attempt for attempt in tried if attempt.state in ("failed", "lost") and not attempt.facts.get(FORGIVEN)]
    kinds = [named(attempt.facts.get(FAILURE)) for attempt in failures]
    left = tries_left(kinds, study.max_attempts)
    if left <= 0:
        return "failed", _for_good(kinds, study.max_attempts, failures[-1].reason)
    if gate:
        return "waiting", gate.reason
    if last and last.facts.get(HELD):
        return "waiting", f"stopped by {last.facts[HELD]}; `ablate retry` lets it go on from its last checkpoint"
    if last and last.state == "interrupted":
        return "interrupted", f"attempt {last.number} was interrupted; goes on from its last checkpoint"
    if last and not failures:
        return "ready", f"tried again as {last.facts.get(FORGIVEN)} asked"
    if last:
        tries = f"{left} {'try' if left == 1 else 'tries'} left"
        return "ready", f"attempt {last.number} {last.state}{_class(last)}: {last.reason}; {tries}"
    return "ready", "nothing is missing"


def _for_good(kinds: list[FailureClass], max_attempts: int, reason: str) -> str:
    """Why a job is not tried any more."""
    tried = f"{len(kinds)} attempt{'' if len(kinds) == 1 else 's'} failed"
    if len(kinds) >= max_attempts:
        return f"{tried}, the last one: {reason}"
    what = "a code error" if kinds[-1] == "code error" else f"{kinds[-1]} twice"
    return f"{tried}, {what} is not tried again (`ablate retry` does), the last one: {reason}"


def _class(attempt: AttemptRecord) -> str:
    """How it failed, in brackets, where that was recognised."""
    kind = attempt.facts.get(FAILURE)
    return f" ({kind})" if kind else ""


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


def _order(study: Study) -> Callable[[PlannedJob], tuple[int, int, int, int]]:
    """Sort key: block, then seed, then row; trials before all seeds, a reference job before the row it is for."""
    blocks = {run: at for at, block in enumerate(study.blocks) for run in block.runs}
    rows = {run: at for at, run in enumerate(study.runs)}
    places = {run: {seed: at for at, seed in enumerate(seeds)} for run, seeds in study.seeds.items()}

    def key(job: PlannedJob) -> tuple[int, int, int, int]:
        row = row_of(job)
        block = blocks.get(row, len(study.blocks))
        return (block, -1, rows[row], job.trial) if job.trial else (block, places[row][job.seed], rows[row], not job.added)

    return key
