"""What a rehearsed study would have measured: true effects of its rows, and the noise of its seeds.

A world says what is true: by how much each row shifts each metric against its start. Effects add up: a row that starts from what
two decisions took has theirs and its own. A job's value is the truth of its run plus the noise of its seed. Metrics of one job
are drawn independently; resampled, they are those of one past job, so that what belonged together stays together.

Past results are whole curves: read where the study's budget ends, or at a share of it, to see what shorter runs would decide.

    n   rehearsed studies          s   seeds of a run
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ablate.conditions import ITS_START, Compared, Within, atoms
from ablate.deciding.noise import noise_pool
from ablate.deciding.scores import scores
from ablate.rehearsal.compare_many import Bools, Floats
from ablate.study import (
    REFERENCE,
    JobResult,
    Metric,
    Study,
    UserError,
    conditions_of,
    likeness,
    most_alike,
    runs_of_sweep,
)

NoiseKind = Literal["normal", "heavy", "unequal", "outliers", "past"]
"""normal. heavy: Student's t with 3 degrees of freedom, scaled to the same sd. unequal: one run, another in every study, has
three times the sd. outliers: 5 % of the seeds end 5 sd worse. past: what some past job was off its run's mean."""
NOISE_KINDS: tuple[NoiseKind, ...] = ("normal", "heavy", "unequal", "outliers", "past")
SPREAD_FACTOR = 3.0
OUTLIER_SHARE, OUTLIER_SD = 0.05, 5.0
UNLEARNED_SD = 10.0
"""How much worse a job ends that does not learn."""
FEWEST_RESIDUALS = 6
"""With fewer seeds' residuals, resampled noise would be a handful of numbers over and over."""

Effects = Mapping[tuple[str, str], float]
"""(run, metric) -> the true shift against the run's start, in the metric's unit and with its sign. The baseline's own "effect" is
its level, which matters only to lines that speak of a constant. Absent: 0."""


@dataclass(frozen=True)
class PastEffect:
    """What past results say of one row on one metric."""

    delta: float
    """Its mean less that of its start."""
    error_sd: float
    """Standard error of that, in residuals' sd: √(1/n + 1/n of the start)."""


@dataclass(frozen=True)
class World:
    """What is true, and how noisy it is."""

    name: str
    sd: Mapping[str, float]
    """Metric -> true standard deviation between seeds."""
    effects: Effects = field(default_factory=dict)
    either: Effects = field(default_factory=dict)
    """Effects whose sign is drawn anew for every study; added to `effects`."""
    uncertain: Mapping[tuple[str, str], PastEffect] = field(default_factory=dict)
    """Effects drawn anew for every study, around what past results say; added to `effects`."""
    noise: NoiseKind = "normal"
    residuals: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Metric -> residuals of past jobs, scaled to sd 1; what the noise "past" draws from. The same jobs in every metric; nan
    where one has none."""
    correlation: float = 0.0
    """Between two runs' values at the same seed."""
    diverge: Mapping[str, float] = field(default_factory=dict)
    """Run -> chance of each job to diverge; "" for every other run."""
    fail_to_learn: Mapping[str, float] = field(default_factory=dict)
    """Run -> chance of each job to end no better than the answer without information."""


@dataclass(frozen=True)
class Drawn:
    """Everything chance decides in n studies, before anyone decides anything."""

    n: int
    metrics: tuple[str, ...]
    """Those drawn."""
    effects: Mapping[tuple[str, str], Floats]
    """[n] per (run, metric) that is not 0."""
    noise: Mapping[tuple[str, str], Floats]
    """[n, s] per (run, metric), references included."""
    diverged: Mapping[str, Bools]
    """[n, s] per run."""
    unlearned: Mapping[str, Bools]
    """[n, s] per run."""
    sample_noise: Mapping[tuple[str, str], Floats]
    """[n] per (run, metric): standard normal; what a finite validation set adds to one job's value, in its standard errors."""


def draw(study: Study, world: World, metrics: Sequence[str], n: int, rng: np.random.Generator) -> Drawn:
    """Let chance decide n studies on these metrics."""
    seeds = seeds_of(study)
    wide = rng.integers(len(seeds), size=n) if world.noise == "unequal" else np.full(n, -1)
    shared = {
        (metric, seed): rng.standard_normal(n)
        for metric in metrics
        for seed in sorted({seed for of_run in seeds.values() for seed in of_run})
        if world.correlation
    }
    noise = {}
    past = max((len(of_metric) for of_metric in world.residuals.values()), default=0)
    for place, (run, of_run) in enumerate(seeds.items()):
        job = rng.integers(max(past, 1), size=(n, len(of_run)))
        for metric in metrics:
            own = _standard_noise(world, study.metrics[metric], (n, len(of_run)), rng, job)
            if world.correlation:
                common = np.stack([shared[metric, seed] for seed in of_run], axis=1)
                own = math.sqrt(world.correlation) * common + math.sqrt(1 - world.correlation) * own
            noise[run, metric] = own * world.sd[metric] * np.where(wide == place, SPREAD_FACTOR, 1.0)[:, None]
    diverged = {run: _happens(world.diverge, run, (n, len(of_run)), rng) for run, of_run in seeds.items()}
    return Drawn(
        n,
        tuple(metrics),
        _effects(study, world, metrics, n, rng),
        noise,
        diverged,
        {run: _happens(world.fail_to_learn, run, (n, len(of_run)), rng) & ~diverged[run] for run, of_run in seeds.items()},
        {(run, metric): rng.standard_normal(n) for run in seeds for metric in metrics},
    )


def seeds_of(study: Study) -> dict[str, tuple[int, ...]]:
    """The seeds of every run, and of the reference run that a row on winners may need."""
    seeds: dict[str, tuple[int, ...]] = {}
    for run in study.runs.values():
        seeds[run.name] = study.seeds[run.name]
        if run.start.kind == "winners":
            seeds[run.name + REFERENCE] = study.seeds[run.name]
    return seeds


def _standard_noise(
    world: World, metric: Metric, shape: tuple[int, int], rng: np.random.Generator, job: NDArray[np.int64]
) -> Floats:
    """Of mean 0 and sd 1; `outliers` adds its own on top. job: which past job each is, where those are resampled."""
    match world.noise:
        case "heavy":
            return rng.standard_t(3, shape) / math.sqrt(3)
        case "past" if resampled(world, metric.name):
            drawn = np.array(world.residuals[metric.name])[job]
            return np.where(np.isnan(drawn), rng.standard_normal(shape), drawn)
        case "outliers":
            worse = -1.0 if metric.better == "higher" else 1.0
            return rng.standard_normal(shape) + worse * OUTLIER_SD * (rng.random(shape) < OUTLIER_SHARE)
        case _:
            return rng.standard_normal(shape)


def resampled(world: World, metric: str) -> bool:
    """Whether there are enough past jobs to draw the noise of a metric from; else it is normal."""
    return sum(not math.isnan(value) for value in world.residuals.get(metric, ())) >= FEWEST_RESIDUALS


def _happens(chances: Mapping[str, float], run: str, shape: tuple[int, int], rng: np.random.Generator) -> Bools:
    chance = chances.get(run, chances.get("", 0.0))
    return rng.random(shape) < chance if chance else np.zeros(shape, dtype=np.bool_)


def _effects(
    study: Study, world: World, metrics: Sequence[str], n: int, rng: np.random.Generator
) -> dict[tuple[str, str], Floats]:
    drawn = {key: np.full(n, float(effect)) for key, effect in world.effects.items() if key[1] in metrics and effect}
    for (run, metric), size in world.either.items():
        if metric in metrics:
            drawn[run, metric] = drawn.get((run, metric), 0.0) + size * rng.choice(np.array([-1.0, 1.0]), n)
    for (run, metric), past in world.uncertain.items():
        if metric not in metrics:
            continue
        of_past = World("", world.sd, noise="past", residuals=world.residuals)
        job = rng.integers(max(len(world.residuals.get(metric, ())), 1), size=(n, 1))
        off = _standard_noise(of_past, study.metrics[metric], (n, 1), rng, job)
        drawn[run, metric] = drawn.get((run, metric), 0.0) + past.delta + off[:, 0] * world.sd[metric] * past.error_sd
    return drawn


# ---------------------------------------------------------------- worlds a rehearsal is played in


def named_world(
    name: str,
    noise: str,
    study: Study,
    results: Mapping[str, Sequence[JobResult]],
    sd: Mapping[str, float],
    effects: Effects,
) -> World:
    """The world a person asks for: nothing, expected or past. UserError when it cannot be made."""
    kind = next((kind for kind in NOISE_KINDS if kind == noise), None)
    if kind is None:
        raise UserError(f"--noise {noise}: there is no such noise; it is one of {', '.join(NOISE_KINDS)}")
    measured = any(job.state == "done" for jobs in results.values() for job in jobs)
    if (name == "past" or kind == "past") and not measured:
        flag = "--world past" if name == "past" else "--noise past"
        raise UserError(f"{flag}: no job of this study has ended in profile {study.profile}. Launch some, or take another")
    match name:
        case "nothing" if not effects:
            return World("nothing", sd, noise=kind, residuals=_all_residuals(study, results))
        case "nothing":
            raise UserError("--world nothing: nothing is true there, so --effect says nothing. Give --world expected")
        case "expected" if expected := {**expected_effects(study), **effects}:
            return World("expected", sd, expected, noise=kind, residuals=_all_residuals(study, results))
        case "expected":
            raise UserError(
                f"--world expected: no row of {study.path.name} says what it expects. Add it there, as "
                "F1 = { …, expects = { val_loss = -0.05 } }, or give --effect F1=-0.05 (the row's shift against its start)"
            )
        case "past":
            return replace(past_world(study, results, sd, kind), effects=effects)
        case _:
            raise UserError(f"--world {name}: there is no such world; it is one of nothing, expected, past")


def expected_effects(study: Study) -> dict[tuple[str, str], float]:
    """What the rows of the file `expects`; "no worse" is no shift at all."""
    return {(run.name, metric): run.expected(metric) or 0.0 for run in study.runs.values() for metric in run.expects}


Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
"""Metric -> job key -> (step, value), in order."""


def read_at(study: Study, results: Mapping[str, Sequence[JobResult]], curves: Curves, share: float) -> dict[str, list[JobResult]]:
    """The results as they were at a share of each job's curve: the mean of a metric's last k measurements up to there.

    A job without a measurement so early has none of that metric.
    """

    def at_share(job: JobResult) -> JobResult:
        values = {}
        for name, metric in study.metrics.items():
            curve = curves.get(name, {}).get(job.key, ())
            seen = [value for step, value in curve if step <= share * curve[-1][0]][-metric.last :]
            if seen and job.state == "done":
                values[name] = fmean(seen)
        return replace(job, values=values)

    return {run: [at_share(job) for job in jobs] for run, jobs in results.items()}


def read_effect(study: Study, text: str) -> tuple[tuple[str, str], float]:
    """ "F1=0.167", on the metric its sweep is about, or "A8b:image_vqa=0.03" -> ((run, metric), effect). UserError."""
    name, size = _assignment("--effect", text)
    run, _, metric = name.partition(":")
    run = study.aliases.get(run, run)
    if run not in study.runs:
        raise UserError(f"--effect {text}: there is no run {run!r}; runs: {', '.join(study.runs)}")
    metric = metric or next((sweep.on for sweep in study.sweeps.values() if sweep.on and run in runs_of_sweep(study, sweep)), "")
    if not metric:
        raise UserError(f"--effect {text}: no sweep of {run} says on which metric; name it: --effect {run}:METRIC={size:g}")
    _known_metric(study, "--effect", text, metric)
    return (run, metric), size


def read_spread(study: Study, text: str) -> tuple[str, float]:
    """ "val_loss=0.05" -> (metric, sd). UserError."""
    metric, size = _assignment("--sd", text)
    _known_metric(study, "--sd", text, metric)
    if not size > 0:
        raise UserError(f"--sd {text}: a spread is above 0")
    return metric, size


def _assignment(flag: str, text: str) -> tuple[str, float]:
    name, _, size = text.rpartition("=")
    try:
        value = float(size)
    except ValueError:
        value = math.nan
    if not name or not math.isfinite(value):
        raise UserError(f"{flag} {text}: write NAME=NUMBER")
    return name, value


def _known_metric(study: Study, flag: str, text: str, metric: str) -> None:
    if metric not in study.metrics:
        raise UserError(f"{flag} {text}: there is no metric {metric!r}; metrics: {', '.join(study.metrics)}")


def known_sd(
    study: Study, results: Mapping[str, Sequence[JobResult]], given: Mapping[str, float]
) -> dict[str, tuple[float, str]]:
    """Metric -> sd between seeds, and where it is from: given, measured in `results`, declared, or half the margin (assumed)."""
    found = {}
    for name, metric in study.metrics.items():
        pool = noise_pool(metric, alike(study, name, results))
        if name in given:
            found[name] = given[name], "given"
        elif pool.source != "none" and pool.sd > 0:
            found[name] = pool.sd, str(pool.source)
        else:
            found[name] = metric.margin / 2, "assumed: half the margin"
    return found


def alike(study: Study, metric: str, results: Mapping[str, Sequence[JobResult]]) -> dict[str, Sequence[JobResult]]:
    """The runs whose seeds tell the noise of a metric: of one budget and validation set, that of most runs compared on it."""
    asked = [
        study.aliases.get(run, run)
        for sweep in study.sweeps.values()
        for condition in conditions_of(sweep)
        for atom in atoms(condition)
        if isinstance(atom, Compared | Within) and atom.metric == metric
        for run in ([atom.run] if isinstance(atom, Within) else [atom.a, atom.b])
        if run != ITS_START
    ]
    like = most_alike(study, asked or [study.baseline])
    known = {run: jobs for run, jobs in results.items() if run.removesuffix(REFERENCE) in study.runs}
    return {run: jobs for run, jobs in known.items() if likeness(study, run) == like}


def past_world(study: Study, results: Mapping[str, Sequence[JobResult]], sd: Mapping[str, float], noise: NoiseKind) -> World:
    """Effects as past results have them, resampled with their uncertainty; jobs diverge and fail to learn as often as they did.

    Each study draws its effects anew: a row's measured difference to its start, less a residual of past seeds times the
    difference's standard error. Rows without results have no effect.
    """
    uncertain: dict[tuple[str, str], PastEffect] = {}
    residuals = _all_residuals(study, results)
    for run in study.runs.values():
        for name, metric in study.metrics.items():
            of_run = scores(metric, run.name, results.get(run.name, ()))
            start = scores(metric, study.baseline, results.get(start_in(study, run.name, results), ()))
            if run.name == study.baseline and of_run.values:
                uncertain[run.name, name] = PastEffect(of_run.mean, 0.0)
            elif of_run.outcome is None and start.outcome is None and of_run.values and start.values:
                error = math.sqrt(1 / len(of_run.values) + 1 / len(start.values))
                uncertain[run.name, name] = PastEffect(of_run.mean - start.mean, error)
    return World(
        "past",
        sd,
        uncertain=uncertain,
        noise=noise,
        residuals=residuals,
        diverge={run: _share(jobs, "diverged") for run, jobs in results.items() if jobs},
        fail_to_learn={
            run: fmean(_unlearned(study, job) for job in jobs if job.state == "done")
            for run, jobs in results.items()
            if any(job.state == "done" for job in jobs)
        },
    )


def start_in(study: Study, run: str, results: Mapping[str, Sequence[JobResult]]) -> str:
    """The run whose results stand for the start of `run`: its reference, the run that trains its named start, or the baseline."""
    row = study.runs[run]
    if row.start.kind == "winners":
        return run + REFERENCE if results.get(run + REFERENCE) else study.baseline
    if row.start.kind == "named":
        start = study.starts[row.start.names[0]].changes
        same = (
            other.name
            for other in study.runs.values()
            if other.start == row.start and {**study.settings, **start, **other.changes} == {**study.settings, **start}
        )
        return next(same, run)
    return study.baseline


def _all_residuals(study: Study, results: Mapping[str, Sequence[JobResult]]) -> dict[str, tuple[float, ...]]:
    """See World.residuals: every job of a run that lends its noise to some metric."""
    pools = {name: noise_pool(metric, alike(study, name, results)).runs for name, metric in study.metrics.items()}
    jobs = [(run, job) for run, of_run in results.items() if any(run in pool for pool in pools.values()) for job in of_run]
    found = {name: _residuals(study.metrics[name], results, pool, jobs) for name, pool in pools.items()}
    return {name: of_metric for name, of_metric in found.items() if not all(map(math.isnan, of_metric))}


def _residuals(
    metric: Metric, results: Mapping[str, Sequence[JobResult]], pool: Sequence[str], jobs: Sequence[tuple[str, JobResult]]
) -> tuple[float, ...]:
    """What jobs were off their run's mean, inflated for the mean's own error, scaled to mean square 1; nan: not in the pool."""
    off = []
    for run, job in jobs:
        of_run = scores(metric, run, results[run])
        known = run in pool and job.seed in of_run.values
        inflate = math.sqrt(len(of_run.values) / (len(of_run.values) - 1)) if known else math.nan
        off.append((of_run.values[job.seed] - of_run.mean) * inflate if known else math.nan)
    known_ones = [value for value in off if not math.isnan(value)]
    size = math.sqrt(fmean(value**2 for value in known_ones)) if known_ones else 0.0
    return tuple(value / size if size else math.nan for value in off)


def _share(jobs: Sequence[JobResult], state: str) -> float:
    return fmean(job.state == state for job in jobs)


def _unlearned(study: Study, job: JobResult) -> bool:
    """Whether a job learned none of the metrics for which the trainer says what an answer without information scores."""
    said = [name for name in job.facts.get("uninformed", {}) if name in study.metrics and name in job.values]
    return bool(said) and all(scores(study.metrics[name], job.run, [job]).unlearned for name in said)
