"""What a sweep's lines may ask: how jobs ended, what decisions took, how two runs compare. Pure.

Where looks are declared, two runs are compared by the seeds of the look that both have reached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ablate.conditions import ITS_START, Answer, Atom, Compared, Ended, Took, Within, atoms
from ablate.deciding.compare import compare, within
from ablate.deciding.comparison import Comparison
from ablate.deciding.fairness import LAST_STEP, Check, imported, ledger, ledger_of_one
from ablate.deciding.looks import level_at, reached
from ablate.deciding.noise import Pool, noise_pool
from ablate.deciding.scores import Scores, scores
from ablate.planning.search import tuned
from ablate.study import ENDED, REFERENCE, JobResult, Study, Sweep, Tree
from db.records import DecisionRecord

EQUIVALENCE_LEVEL = 0.05
"""Of `no worse` and `same`."""

LEARN_LEVEL = 0.05
"""Of a learn line's `better` and `worse`: they change nothing, so they spend nothing of the budget."""

OF_ALL = ("wrong_adoptions ", "looks ", "spending ", "mix_imported ", "mix_steps ")
"""What of the frozen file touches every verdict."""


@dataclass(frozen=True)
class Missing:
    """A fact that is not known yet, and why."""

    reason: str


@dataclass(frozen=True)
class Facts:
    """What a sweep's lines may ask."""

    study: Study
    sweep: Sweep
    results: Mapping[str, Sequence[JobResult]]
    earlier: Mapping[str, DecisionRecord]
    its_start: Mapping[str, str]
    undeclared: Mapping[str, str] = field(default_factory=dict)
    """Run -> why a verdict on it is exploratory."""
    edits: Mapping[str, str] = field(default_factory=dict)
    """What was changed since it was frozen -> why."""
    pools: dict[tuple[str, Any, Any, Any], Pool] = field(default_factory=dict)
    """Metric -> its pool, filled as it is asked for."""

    def look(self, *runs: str) -> int:
        """The look that all of these runs have reached."""
        declared = {run: len(self.study.seeds.get(self.name(run).removesuffix(REFERENCE), ())) for run in runs}
        return min(reached(self.study.looks, len(self.jobs(run)), declared[run]) for run in runs)

    def nominal(self, alpha: float, look: int) -> float:
        """The two-sided level at a look, when all looks together may spend `alpha`."""
        return level_at(alpha, look, self.study.looks, self.study.spending)

    def jobs_at(self, run: str, look: int) -> Sequence[JobResult]:
        """The jobs of a run that this look sees."""
        if len(self.study.looks) < 2:
            return self.jobs(run)
        seen = self.study.seeds[self.name(run).removesuffix(REFERENCE)][: self.study.looks[look - 1]]
        return [job for job in self.jobs(run) if job.seed in seen]

    def labels(self, metric: str, *runs: str) -> tuple[str, ...]:
        """What a reader must know of a comparison of these runs."""
        looks = self.study.looks
        at = self.look(*runs)
        look = (f"look {at} of {len(looks)} (up to {looks[at - 1]} seeds per run)",) if len(looks) > 1 else ()
        names = [self.name(run) for run in runs]
        of_runs = [f"{what}.{run}{end}" for run in names for what, end in (("seeds", " "), ("searches", "."), ("searches", " "))]
        touching = (f"metrics.{metric}.", f"sweeps.{self.sweep.name}.", *OF_ALL, *of_runs)
        deviates = [f"deviates: {edit} (reason: {why})" for edit, why in self.edits.items() if edit.startswith(touching)]
        origin = [text] if (text := self.imported(runs)) else []
        return (*look, *origin, *(f"exploratory: {self.undeclared[run]}" for run in names if run in self.undeclared), *deviates)

    def imported(self, runs: Collection[str]) -> str:
        """What a reader must know of these runs' jobs because of where they are from; "" if all were trained here."""
        return imported([job for run in runs for job in self.jobs(run) if job.state in ENDED], self.study.mix_imported)

    def name(self, run: str) -> str:
        return self.study.aliases.get(run, run)

    def jobs(self, run: str) -> Sequence[JobResult]:
        return self.results.get(self.name(run), ())

    def pool(self, metric: str, *runs: str) -> Pool:
        """The noise among jobs like those of `runs`: at their budget, judged on their validation set."""
        origins = {job.imported for run in runs for job in self.jobs(run) if job.state == "done"}
        origin = origins.pop() if len(origins) == 1 else None
        like = (metric, self._usual("samples", runs), self._usual("eval_hash", runs), origin)
        if like not in self.pools:
            self.pools[like] = noise_pool(self.study.metrics[metric], self.results, *like[1:])
        return self.pools[like]

    def _usual(self, fact: str, runs: Sequence[str]) -> Any:
        """What the jobs of `runs` report; where they differ, what more jobs of the study report. None: nothing."""
        counted = Counter(
            job.facts[fact] for jobs in self.results.values() for job in jobs if job.state == "done" and fact in job.facts
        )
        theirs = {job.facts[fact] for run in runs for job in self.jobs(run) if job.state == "done" and fact in job.facts}
        return max(theirs, key=lambda value: (counted[value], str(value)), default=None)

    def scores(self, run: str, metric: str, look: int = 0) -> Scores:
        """look: only what this look sees; 0: every job there is."""
        jobs = self.jobs_at(run, look) if look else self.jobs(run)
        return scores(self.study.metrics[metric], run, jobs, self.name(run))

    def unended(self, run: str) -> str:
        """Why the jobs of a run are not all there yet; "" if they are."""
        jobs = self.jobs(run)
        if not jobs:
            return f"{run} is not planned yet"
        states = [f"{run}@{job.seed} {'has failed' if job.state == 'failed' else f'is {job.state}'}" for job in jobs]
        return ", ".join(text for job, text in zip(jobs, states, strict=True) if job.state not in ENDED)

    def took(self, atom: Atom) -> Answer:
        assert isinstance(atom, Took), f"a skip rule may only ask what a decision took, not {atom}"
        record = self.earlier.get(atom.decision)
        if record is None or record.status == "waiting":
            return None
        return bool(record.took) and self.name(record.took) == self.name(atom.run)

    def ended(self, atom: Ended) -> tuple[Answer, str]:
        """Whether it ended like this, and the numbers; or the reason why that is not known."""
        if reason := self.unended(atom.run):
            return None, reason
        metrics = [self.sweep.on] if self.sweep.on else self._uninformed(atom.run)
        found = [self.scores(atom.run, metric) for metric in metrics or list(self.study.metrics)[:1]]
        holds = bool(found) and all(of_run.outcome == atom.outcome for of_run in found)
        return holds, found[0].outcome_text if holds else ""

    def _uninformed(self, run: str) -> list[str]:
        """Metrics for which the trainer says what an answer without information scores."""
        said = {name for job in self.jobs(run) for name in job.facts.get("uninformed", {})}
        return [name for name in self.study.metrics if name in said]

    def comparison(self, atom: Compared | Within, alpha: float) -> Comparison | Missing:
        runs = [atom.run] if isinstance(atom, Within) else [atom.a, self.other(atom)]
        if "" in runs:
            return Missing(f"the start of {runs[0]} is not known yet")
        if reasons := [reason for run in runs if (reason := self.unended(run))]:
            return Missing(", ".join(reasons))
        return self.alone(atom) if isinstance(atom, Within) else self.pair(runs[0], runs[1], atom.metric, alpha)

    def alone(self, atom: Within) -> Comparison:
        """A run held against a number, with the jobs that have ended."""
        run, metric, look, study = atom.run, atom.metric, self.look(atom.run), self.study
        checks = ledger_of_one(self.jobs_at(run, look), self._declared(run), metric, study.mix_imported, study.mix_steps)
        seen, pool = self.scores(run, metric, look), self.pool(metric, run)
        made = within(study.metrics[metric], seen, atom.distance, atom.of, pool, self.equivalence(look), checks)
        return replace(made, labels=(*self.labels(metric, run), *_mixed_steps(study, checks)))

    def pair(self, a: str, b: str, metric: str, alpha: float) -> Comparison:
        """Two runs, with the jobs that have ended; `alpha` is what all looks together may spend."""
        look = self.look(a, b)
        study, declared = self.study, self._declared(a) | self._declared(b)
        both = self._tuned(a, look), self._tuned(b, look)
        checks = ledger(*both, declared, study.stateful, metric, study.mix_imported, study.mix_steps)
        refused = refusal(self.study, self.its_start, a, b) or self._one_config(a, b)
        left, right = self.scores(a, metric, look), self.scores(b, metric, look)
        level, pool = self.nominal(alpha, look), self.pool(metric, a, b)
        made = compare(self.study.metrics[metric], left, right, pool, level, self.equivalence(look), checks, refused)
        return replace(made, labels=(*self.labels(metric, a, b), *_mixed_steps(study, checks)))

    def _tuned(self, run: str, look: int) -> list[JobResult]:
        """The jobs of a run that this look sees, with what was spent on its settings until today: a search may go on."""
        spent = tuned(self.study, self.name(run), self.earlier)
        jobs = self.jobs_at(run, look)
        return [job if job.imported else replace(job, facts={**job.facts, **spent}) for job in jobs]

    def _one_config(self, a: str, b: str) -> str:
        """Why two rows cannot differ: decisions made them the same config, trained once; "" if they can."""
        keys = [[job.key for job in self.jobs(run)] for run in (a, b)]
        return f"{a} and {b} came out as the same config, which is trained once" if keys[0] == keys[1] else ""

    def equivalence(self, look: int) -> float:
        """Of each one-sided bound of `no worse` and `same`, at a look."""
        return self.nominal(2 * EQUIVALENCE_LEVEL, look) / 2

    def other(self, atom: Compared) -> str:
        """Name of the run that `atom.a` is compared with; "" while its start is not known."""
        return self.its_start.get(self.name(atom.a), "") if atom.b == ITS_START else atom.b

    def _declared(self, run: str) -> set[str]:
        row = self.study.runs.get(self.name(run))
        return set(row.changes) if row else set()


def _mixed_steps(study: Study, checks: Sequence[Check]) -> tuple[str, ...]:
    """What a reader must know of values that were taken at different steps, where the file says why they may be."""
    found = [check for check in checks if check.name == LAST_STEP and check.ok is False and study.mix_steps]
    return tuple(f"last steps differ ({' / '.join(filter(None, (check.a, check.b)))}): {study.mix_steps}" for check in found)


def start_of_tree(study: Study, tree: Tree, its_start: Mapping[str, str]) -> str:
    """The run meant by `its start` in this tree; "" while it is not known."""
    rows = [atom.a for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared) and atom.b == ITS_START]
    return next((its_start.get(study.aliases.get(row, row), "") for row in rows), "")


# ---------------------------------------------------------------- who is compared with whom


def compare_pair(
    study: Study,
    results: Mapping[str, Sequence[JobResult]],
    its_start: Mapping[str, str],
    a: str,
    b: str,
    metrics: Sequence[str],
    alpha: float = LEARN_LEVEL,
    undeclared: Mapping[str, str] | None = None,
    edits: Mapping[str, str] | None = None,
) -> tuple[Comparison, ...]:
    """Two runs on these metrics, asked by hand: each at `alpha` by itself, with the jobs that have ended.

    results, undeclared, edits: as for `decide_sweep`. Runs of different starts are refused: the comparison says why, and nothing
    holds.
    """
    facts = Facts(study, Sweep("", "", (), ""), results, {}, its_start, undeclared or {}, edits or {})
    return tuple(facts.pair(a, b, metric, alpha) for metric in metrics)


def refusal(study: Study, its_start: Mapping[str, str], a: str, b: str) -> str:
    """Why these two may not be compared; "" if they may: rows are compared within one start, and with their start."""
    if study.aliases.get(a, a) == study.aliases.get(b, b):
        return f"{a} and {b} are the same run"
    if _grounds(study, its_start, a) & _grounds(study, its_start, b):
        return ""
    return f"{a} and {b} start from different configs ({_ground(study, a)}; {_ground(study, b)})"


def _grounds(study: Study, its_start: Mapping[str, str], run: str) -> set[str]:
    name = study.aliases.get(run, run)
    reference = its_start.get(name)
    return {_ground(study, name), f"run {name}", *([f"run {reference}"] if reference else [])}


def _ground(study: Study, run: str) -> str:
    row = study.runs.get(study.aliases.get(run, run))
    if row is None:
        return f"run {run}"
    names = ", ".join(row.start.names)
    return {"baseline": "the baseline", "named": f"start {names!r}", "winners": f"what {names} took"}[row.start.kind]
