"""Any two runs of one start, compared because somebody asks: what `ablate compare` and `ablate.compare_runs` answer.

It decides nothing and spends nothing of the study's error budget, so every comparison is labelled exploratory; where a decision
rests on the same pair, that decision and the level it was judged at are named beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ablate.conditions import ITS_START, near, quoted
from ablate.deciding.comparison import Comparison
from ablate.deciding.facts import LEARN_LEVEL, compare_pair, refusal
from ablate.desk import Desk
from ablate.evidence import edits_since_frozen, job_results, undeclared_looks
from ablate.planning.plan import Plan
from ablate.planning.search import is_search
from ablate.samples import SampleEvidence, SampleLosses, last_losses, paired
from ablate.study import ENDED, UserError, run_of

BY_HAND = "exploratory: asked by hand, outside the error budget; it decides nothing"


@dataclass(frozen=True)
class Pair:
    """Two runs side by side."""

    a: str
    b: str
    comparisons: tuple[Comparison, ...]
    """One per metric; none while a run has no job that ended."""
    samples: Mapping[str, SampleEvidence]
    """Metric -> what the validation samples say of these checkpoints, where the trainer keeps losses by sample."""
    open: tuple[str, ...]
    """Jobs that are not in it yet, in words."""
    rests: Mapping[str, tuple[str, ...]]
    """Metric -> decisions that rest on this pair, with the level each was judged at."""


def compare_two(desk: Desk, a: str, b: str, metrics: Sequence[str] = (), level: float = LEARN_LEVEL) -> Pair:
    """Compare two runs with the jobs that have ended.

    b: may be "its start". metrics: none named means every declared one that both have measured.

    UserError for a run or metric that the study does not have, and for two runs that do not share a start.
    """
    plan = desk.plan()
    known = {job.run for job in plan.jobs} | {run_of(id) for id in plan.same}
    _known(desk, a, known)
    if b == ITS_START:
        b = _start_of(desk, plan, a)
    _known(desk, b, known)
    study = desk.study
    for metric in metrics:
        if metric not in study.metrics:
            raise UserError(f"--metric {metric!r} is not declared.{_hint(metric, list(study.metrics), 'Metrics')}")
    if study.aliases.get(a, a) == study.aliases.get(b, b):
        raise UserError(f"{a} and {b} are the same run: there is nothing to compare. Give two runs of one start")
    refused = refusal(study, plan.its_start, a, b)
    if refused:
        raise UserError(f"{refused}: their difference would have several causes. Compare runs of one start")
    results = job_results(desk, plan)
    names = [study.aliases.get(run, run) for run in (a, b)]
    jobs = [job for run in names for job in results.get(run, ())]
    open_ = tuple(f"{job.run}@{job.seed} is {job.state}" for job in jobs if job.state not in ENDED)
    ended = {run: [job for job in of_run if job.state in ENDED] for run, of_run in results.items()}
    if not all(ended.get(run) for run in names):
        return Pair(a, b, (), {}, open_, {})
    measured = [name for name in study.metrics if all(any(name in job.values for job in ended[run]) for run in names)]
    asked = tuple(metrics) or tuple(measured) or tuple(study.metrics)[:1]
    made = compare_pair(study, ended, plan.its_start, a, b, asked, level, undeclared_looks(desk), edits_since_frozen(desk))
    notes = tuple(f"not in it yet: {text}" for text in open_)
    compared = tuple(replace(one, labels=(BY_HAND, *one.labels), notes=(*one.notes, *notes)) for one in made)
    found = {metric: evidence for metric in asked if (evidence := sample_evidence(desk, plan, names[0], names[1], metric))}
    return Pair(a, b, compared, found, open_, {metric: _resting(desk, names, metric) for metric in asked})


def sample_evidence(desk: Desk, plan: Plan, a: str, b: str, metric: str) -> SampleEvidence | None:
    """The losses by sample of two runs' jobs that are done, paired; None where they were not kept."""
    return paired(*(_losses(desk, plan, run, metric) for run in (a, b)))


def _losses(desk: Desk, plan: Plan, run: str, metric: str) -> dict[int, SampleLosses]:
    """Seed -> losses at the end."""
    found = {}
    for job in plan.of_run(run):
        if job.key and job.state == "done":
            folders = [desk.folders.attempt(job.key, number) for number in desk.folders.attempt_numbers(job.key)]
            losses = last_losses(folders, metric)
            if losses is not None:
                found[job.seed] = losses
    return found


def _resting(desk: Desk, runs: Sequence[str], metric: str) -> tuple[str, ...]:
    pair, aliases = set(runs), desk.study.aliases
    return tuple(
        dict.fromkeys(
            f"{record.name} (level {one['level']:.3g})"
            for record in desk.store.decisions().values()
            if not is_search(record)
            for one in record.comparisons
            if one["metric"] == metric and {aliases.get(one["a"], one["a"]), aliases.get(one["b"], one["b"])} == pair
        )
    )


def _start_of(desk: Desk, plan: Plan, run: str) -> str:
    name = desk.study.aliases.get(run, run)
    if name == desk.study.baseline:
        raise UserError(f"{run} is the baseline: it has no start to be compared with")
    if name not in plan.its_start:
        raise UserError(f"the start of {run} is not known yet; `ablate plan` says which decisions it waits for")
    return plan.its_start[name]


def _known(desk: Desk, run: str, known: set[str]) -> None:
    if run not in known and run not in desk.study.aliases:
        raise UserError(f"there is no run {run!r}.{_hint(run, [*desk.study.runs, *desk.study.aliases], 'Runs')}")


def _hint(name: str, known: list[str], what: str) -> str:
    guesses = near(name, known)
    return f" Did you mean {quoted(guesses)}?" if guesses else f" {what}: {', '.join(known) or 'none'}"
