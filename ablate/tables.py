"""From the records of a study to the rows that notebooks and figures draw. No SQL and no thresholds of its own.

    tables = load("runs.toml", profile="tiny")
    tables.decisions()                                   one row per decision
    tables.band("val_loss", tables.runs_of("Fig 5"))     mean and range over seeds, by run and step

`Tables` asks the database and the folders; the functions below it turn what they answer into frames. What was not measured is
absent, and a frame without rows has its columns all the same. Only jobs of today's plan count, not yesterday's wording of a run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors.numpy import load_file

from ablate.deciding.decide import Learned, SweepAnswer, decide_sweep
from ablate.desk import Desk, existing_desk, measured_hours
from ablate.evidence import edits_since_frozen, job_results, undeclared_looks
from ablate.launching.trials import trials_of
from ablate.planning.cost import hours_of
from ablate.planning.plan import Plan, PlannedJob
from ablate.planning.search import is_search
from ablate.planning.stale import find_stale
from ablate.runs_toml import read_study
from ablate.study import ENDED, Study, UserError
from db.records import AttemptRecord, DecisionRecord, LockRecord
from trainer.metrics import METRICS

Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Job key -> (step, value), by step."""

DECISIONS = ("number", "name", "sweep", "status", "took", "because", "by", "at", "price")
EFFECT = ("delta", "low", "high", "margin", "unit")
NOISE = ("noise_sd", "noise_df", "noise_source")
COMPARISONS = ("for", "a", "b", "metric", *EFFECT, "holds", "n_a", "n_b", *NOISE, "reason", "labels")
LEARNED = ("sweep", "line", "says", "because")
STALE = ("kind", "name", "because")
LOCK = ("setting", "value", "source")
TOLD = ("samples", "flops", "tokens_per_frame", "device")
JOBS = ("job", "run", "seed", "selected", "state", "reason", "attempts", "hours", *TOLD)
TRIALS = ("run", "trial", "job", "state", "setting", "value", "score", "evidence")
CURVE = ("run", "seed", "job", "step", "samples", "flops", "value")
BAND = ("run", "step", "samples", "flops", "mean", "low", "high", "n")
FINALS = ("run", "n", "mean", "low", "high", "sd", "states")
RATES = ("run", "connector", "dino", "llm")
LOSSES = ("run", "seed", "job", "step", "row", "kind", "loss", "tokens")


@dataclass(frozen=True)
class Looks:
    """Where one clip's queries looked, at one evaluation."""

    run: str
    seed: int
    step: int
    clip: int
    """Row of the validation set."""
    passes: str
    """"coarse" (the static query) or "fine"."""
    maps: npt.NDArray[np.float32]
    """[layers, heads, frames, patches]; CLS is left out, so they sum to at most 1 over the last."""

    @property
    def grid(self) -> npt.NDArray[np.float32]:
        """[frames, rows, columns], mean over layers and heads."""
        mean: npt.NDArray[np.float32] = self.maps.mean((0, 1))  # [frames, patches]
        side = round(mean.shape[-1] ** 0.5)
        return mean.reshape(len(mean), side, -1)


def load(path: str | Path = "runs.toml", profile: str = "") -> Tables:
    """The tables of a study as its database stands now. UserError if the file is wrong or there is no database yet."""
    return Tables(existing_desk(read_study(Path(path), profile)))


@dataclass(frozen=True)
class Tables:
    """What a study has to show. Every call reads the database anew, but for the plan."""

    desk: Desk

    @property
    def study(self) -> Study:
        return self.desk.study

    @cached_property
    def plan(self) -> Plan:
        return self.desk.plan()

    # ---------------------------------------------------------------- verdicts

    def decisions(self) -> pd.DataFrame:
        """The record that stands of each decision."""
        return decision_table(self.plan.decisions.values())

    def comparisons(self) -> pd.DataFrame:
        """The evidence: every comparison that a decision, or a learn line that holds, rests on."""
        answers = self.answers().values()
        return comparison_table(self.plan.decisions.values(), [line for answer in answers for line in answer.learned])

    def learned(self) -> pd.DataFrame:
        """Every learn line that holds today."""
        return learned_table(self.answers().values())

    def open(self) -> tuple[str, ...]:
        """What the sweeps still wait for, in words."""
        return tuple(f"{answer.sweep}: {text}" for answer in self.answers().values() for text in answer.open)

    def stale(self) -> pd.DataFrame:
        """What rests on a decision that says something else now; no rows where nothing does."""
        store = self.desk.store
        found = find_stale(self.study, self.plan, store.all_decisions(), store.lock())
        return pd.DataFrame([(one.kind, one.name, one.because) for one in found], columns=list(STALE))

    def answers(self) -> dict[str, SweepAnswer]:
        """What each sweep says today; nothing is recorded."""
        hours, decided = measured_hours(self.desk), self.plan.decisions
        return {
            name: decide_sweep(
                self.study,
                sweep,
                job_results(self.desk, self.plan, name),
                decided,
                self.plan.its_start,
                now="",
                hours_of=lambda run: hours_of(self.study, run, hours)[0],
                undeclared=undeclared_looks(self.desk),
                edits=edits_since_frozen(self.desk),
            )
            for name, sweep in self.study.sweeps.items()
        }

    def lock(self) -> pd.DataFrame:
        """The final config, with where each setting came from; no rows while nothing is locked."""
        return lock_table(self.desk.store.lock())

    # ---------------------------------------------------------------- jobs and runs

    def jobs(self) -> pd.DataFrame:
        """Every planned job, in the order of the plan."""
        return job_table(self.plan.jobs, self.desk.store.attempts())

    def trials(self) -> pd.DataFrame:
        """Every trial that was begun for a row that is tuned: its point and, if it came to its end, its score. Scores were
        selected among many and are no evidence."""
        return trial_table(self.desk, self.plan)

    def runs_of(self, figure: str) -> tuple[str, ...]:
        """The runs of the figure whose name begins so ("Fig 5"), aliases resolved; none if the study has no such figure."""
        named = re.compile(rf"{re.escape(figure)}\b")
        runs = next((runs for name, runs in self.study.figures.items() if named.match(name)), ())
        return tuple(dict.fromkeys(self.study.aliases.get(run, run) for run in runs))

    def missing(self, metric: str, runs: Sequence[str]) -> dict[str, str]:
        """Run -> why it has not measured the metric to its end."""
        jobs = {run: self.plan.of_run(run) for run in runs}
        measured = self.desk.store.final_values([job.key for run in runs for job in jobs[run] if job.key], {metric: 1})
        told = {}
        for run in runs:
            ended = [job for job in jobs[run] if job.state in ENDED]
            if not ended:
                told[run] = f"{jobs[run][0].state}: {jobs[run][0].reason}" if jobs[run] else "not in the study"
            elif not any(job.key in measured for job in ended):
                told[run] = f"does not measure {metric}"
        return told

    def finals(self, metric: str, runs: Sequence[str] = ()) -> pd.DataFrame:
        """The metric at the full budget, by run: mean and range over the seeds that ended."""
        jobs = [job for job in self._jobs(runs) if job.state in ENDED]
        declared = self.study.metrics.get(metric)
        values = self.desk.store.final_values([job.key for job in jobs if job.key], {metric: declared.last if declared else 1})
        return final_table(jobs, {key: found[metric] for key, found in values.items()})

    def rates(self, metric: str = "val_loss") -> pd.DataFrame:
        """The learning-rate table: the baseline and every run that changes only rates, with what it scored."""
        runs = runs_with_other_rates(self.study)
        rates = rate_table({run: {**self.study.settings, **self.study.runs[run].changes} for run in runs})
        scored = rates.merge(self.finals(metric, runs), on="run", how="left")
        stability = self.finals("grad_norm_p95_over_median", runs)[["run", "mean"]]
        return scored.merge(stability.rename(columns={"mean": "grad_norm_p95_over_median"}), on="run", how="left")

    def efficiency(self, metric: str, runs: Sequence[str]) -> pd.DataFrame:
        """finals() of the runs with visual tokens per frame and the compute spent, means over the jobs that reported them."""
        told = self.jobs()
        spent = told[told["state"].isin(list(ENDED))].groupby("run", as_index=False)[["tokens_per_frame", "flops"]].mean()
        return self.finals(metric, runs).merge(spent, on="run", how="left")

    def unit(self, metric: str) -> str:
        """As the study declares it, else as our trainer knows it; "" for a metric of neither."""
        declared = self.study.metrics.get(metric) or METRICS.get(metric)
        return declared.unit if declared else ""

    # ---------------------------------------------------------------- measurements

    def curve(self, metric: str, runs: Sequence[str] = ()) -> pd.DataFrame:
        """Every measurement of the metric, of jobs under way too. runs: all when empty."""
        jobs = [job for job in self._jobs(runs) if job.key]
        keys = [job.key for job in jobs if job.key]
        per_sample = {key: tried[-1].facts.get("flops_per_sample") for key, tried in self.desk.store.attempts().items()}
        return curve_table(jobs, self.desk.store.curves(metric, keys), self.desk.store.curves("samples", keys), per_sample)

    def band(self, metric: str, runs: Sequence[str] = ()) -> pd.DataFrame:
        """curve() over seeds: mean, lowest and highest at each step, in the order of `runs`."""
        return band_table(self.curve(metric, runs), runs)

    def sample_losses(self, runs: Sequence[str] = ()) -> pd.DataFrame:
        """The loss of every validation sample at each job's last evaluation."""
        frames = []
        for job, number in self._attempts(runs):
            files = self._evaluations(job, number, "[0-9]*.parquet")
            if files:
                frame = pd.read_parquet(files[-1]).astype({"kind": "str"})
                frames.append(frame.assign(run=job.run, seed=job.seed, job=job.key, step=_step(files[-1])))
        return pd.concat(frames, ignore_index=True)[list(LOSSES)] if frames else _frame(LOSSES, [])

    def looks(self, run: str, clips: int = 10) -> list[Looks]:
        """Attention of the run's first seed that saved any, at its last evaluation: `clips` clips, coarse before fine."""
        for job, number in self._attempts((run,)):
            files = self._evaluations(job, number, "[0-9]*_attention.safetensors")
            if files:
                return looks_of(job, _step(files[-1]), load_file(files[-1]), clips)
        return []

    # ---------------------------------------------------------------- inside

    def _jobs(self, runs: Sequence[str]) -> list[PlannedJob]:
        """Planned jobs of the runs, in the order given; all when empty. UserError for a run that the study does not have."""
        known = {job.run for job in self.plan.jobs} | self.study.runs.keys()
        for run in runs:
            if run not in known:
                raise UserError(f"{self.study.path.name}: there is no run {run!r}; runs: {', '.join(self.study.runs)}")
        return (
            [replace(job, run=run) for run in runs for job in self.plan.of_run(run)]
            if runs
            else [job for job in self.plan.jobs if not (job.confirms or job.trial)]
        )

    def _attempts(self, runs: Sequence[str]) -> Iterable[tuple[PlannedJob, int]]:
        for job in self._jobs(runs):
            if job.key:
                for number in self.desk.folders.attempt_numbers(job.key)[-1:]:
                    yield job, number

    def _evaluations(self, job: PlannedJob, number: int, pattern: str) -> list[Path]:
        assert job.key is not None, "jobs with attempts have keys"
        return sorted((self.desk.folders.attempt(job.key, number) / "eval").glob(pattern), key=_step)


# ---------------------------------------------------------------- records -> rows


def decision_table(records: Iterable[DecisionRecord]) -> pd.DataFrame:
    return _frame(DECISIONS, [{name: getattr(record, name) for name in DECISIONS} for record in records])


def comparison_table(records: Iterable[DecisionRecord], learned: Iterable[Learned]) -> pd.DataFrame:
    """delta = a - b in the metric's unit, between low and high. for: the decision, or what is learned."""
    judged = [record for record in records if not is_search(record)]
    sources = [(record.name, record.comparisons) for record in judged] + [(line.say, line.comparisons) for line in learned]
    rows = []
    for name, comparisons in sources:
        for one in comparisons:
            noise = one.get("noise", {})
            rows.append(
                {
                    **{column: one.get(column) for column in COMPARISONS},
                    "for": name,
                    "holds": ", ".join(one["holds"]) or "nothing shown",
                    "noise_sd": noise.get("sd"),
                    "noise_df": noise.get("df"),
                    "noise_source": noise.get("source"),
                    "labels": "; ".join(one.get("labels", ())),
                }
            )
    return _frame(COMPARISONS, rows)


def learned_table(answers: Iterable[SweepAnswer]) -> pd.DataFrame:
    return _frame(
        LEARNED,
        [
            {"sweep": answer.sweep, "line": line.text, "says": line.say, "because": line.because}
            for answer in answers
            for line in answer.learned
        ],
    )


def lock_table(lock: LockRecord | None) -> pd.DataFrame:
    settings = lock.settings.items() if lock else ()
    sources = lock.sources if lock else {}
    return _frame(LOCK, [{"setting": name, "value": value, "source": sources.get(name, "")} for name, value in settings])


def job_table(jobs: Iterable[PlannedJob], attempts: Mapping[str, Sequence[AttemptRecord]]) -> pd.DataFrame:
    """selected: a trial, whose score is no evidence. hours: of wall time, all attempts together. TOLD: what the trainer said."""
    rows = []
    for job in jobs:
        tried = attempts.get(job.key or "", ())
        facts = tried[-1].facts if tried else {}
        told = {name: facts.get(name) for name in TOLD}
        hours = sum(attempt.gpu_s / attempt.gpus for attempt in tried if attempt.gpus) / 3600
        own = {"job": job.key, "run": job.run, "seed": job.seed, "state": job.state, "reason": job.reason}
        rows.append({**own, "selected": job.trial > 0, "attempts": len(tried), "hours": hours, **told})
    return _frame(JOBS, rows).astype(dict.fromkeys(("samples", "flops", "tokens_per_frame"), "float64"))


def trial_table(desk: Desk, plan: Plan) -> pd.DataFrame:
    """value: of the setting at the trial, a row per setting searched. evidence: always "selected"."""
    rows = []
    for row in desk.study.searching:
        for trial in trials_of(desk, plan, row):
            own = {"run": row.name, "trial": trial.number, "job": trial.key, "state": trial.state, "score": trial.score}
            rows += [{**own, "setting": name, "value": value, "evidence": "selected"} for name, value in trial.point.items()]
    return _frame(TRIALS, rows).astype({"score": "float64"})


def curve_table(
    jobs: Iterable[PlannedJob], curves: Curves, samples: Curves, flops_per_sample: Mapping[str, float | None]
) -> pd.DataFrame:
    """One row per measurement. samples, flops: seen and spent by then; nan where the trainer does not count them."""
    rows: list[dict[str, Any]] = []
    for job in jobs:
        key = job.key or ""
        seen, price = dict(samples.get(key, ())), flops_per_sample.get(key)
        for step, value in curves.get(key, ()):
            so_far = seen.get(step, float("nan"))
            spent = so_far * price if price is not None else float("nan")
            rows.append(
                {"run": job.run, "seed": job.seed, "job": key, "step": step, "samples": so_far, "flops": spent, "value": value}
            )
    return _frame(CURVE, rows)


def band_table(curve: pd.DataFrame, runs: Sequence[str] = ()) -> pd.DataFrame:
    """Mean, lowest and highest value over seeds, by run and step; n seeds measured that step."""
    if curve.empty:
        return _frame(BAND, [])
    grouped = curve.groupby(["run", "step"], sort=False)
    band = grouped.agg(
        samples=("samples", "mean"),
        flops=("flops", "mean"),
        mean=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        n=("value", "count"),
    ).reset_index()
    order = {run: place for place, run in enumerate(runs or dict.fromkeys(curve["run"]))}
    by_place = band.assign(place=band["run"].map(order)).sort_values(["place", "step"], ignore_index=True)
    return by_place[list(BAND)]


def final_table(jobs: Iterable[PlannedJob], values: Mapping[str, float]) -> pd.DataFrame:
    """values: job key -> value. sd: of the seeds, nan for one. states: "2 done, 1 diverged"."""
    by_run: dict[str, list[PlannedJob]] = {}
    for job in jobs:
        if job.key in values:
            by_run.setdefault(job.run, []).append(job)
    rows = []
    for run, group in by_run.items():
        found = np.array([values[job.key or ""] for job in group])
        states = [job.state for job in group]
        rows.append(
            {
                "run": run,
                "n": len(found),
                "mean": found.mean(),
                "low": found.min(),
                "high": found.max(),
                "sd": found.std(ddof=1) if len(found) > 1 else float("nan"),
                "states": ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)),
            }
        )
    return _frame(FINALS, rows).astype(dict.fromkeys(("mean", "low", "high", "sd"), "float64"))


def runs_with_other_rates(study: Study) -> tuple[str, ...]:
    """The baseline and the runs that start from it and change nothing but settings of the optimiser."""
    return tuple(
        run.name
        for run in study.runs.values()
        if run.start.kind == "baseline"
        and (run.name == study.baseline or (run.changes and all(name.startswith("optim.") for name in run.changes)))
    )


def rate_table(settings: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Peak rate of each part of the model, by run; a part that is frozen has none (nan). Empty where nothing sets `optim.lr`."""
    rows = []
    for run, values in settings.items():
        if "optim.lr" not in values:
            continue
        lr, ratio = values["optim.lr"], values.get("optim.connector_ratio", float("nan"))
        frozen = {part: values.get(f"model.freeze_{part}", False) for part in ("dino", "llm")}
        rows.append({"run": run, "connector": lr * ratio, **{part: float("nan") if off else lr for part, off in frozen.items()}})
    return _frame(RATES, rows)


def looks_of(job: PlannedJob, step: int, maps: Mapping[str, npt.NDArray[np.float32]], clips: int) -> list[Looks]:
    """maps: "CLIP/coarse" or "CLIP/fine" -> [layers, heads, frames, 1 + patches], CLS first, as the trainer writes them."""
    named = sorted((int(name.partition("/")[0]), name.partition("/")[2], name) for name in maps)
    chosen = sorted({clip for clip, _, _ in named})[:clips]
    return [Looks(job.run, job.seed, step, clip, passes, maps[name][..., 1:]) for clip, passes, name in named if clip in chosen]


def _step(file: Path) -> int:
    """Of eval/00000400.parquet or eval/00000400_attention.safetensors."""
    return int(re.split(r"[._]", file.name)[0])


def _frame(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=pd.Index(columns))
