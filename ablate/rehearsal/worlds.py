"""What a rehearsed study would have measured: true effects of its rows, and the noise of its seeds.

A world says what is true: by how much each row shifts each metric against its start. Effects add up: a row that starts from what
two decisions took has theirs and its own. A job's value is the truth of its run plus the noise of its seed; metrics of one job
are drawn independently.

    n   rehearsed studies          s   seeds of a run
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

import numpy as np

from ablate.compare import noise_pool, scores
from ablate.rehearsal.compare_many import Bools, Floats
from ablate.study import REFERENCE, JobResult, Metric, Study, UserError, runs_of_sweep

NoiseKind = Literal["normal", "heavy", "unequal", "outliers", "past"]
"""normal. heavy: Student's t with 3 degrees of freedom, scaled to the same sd. unequal: one run, another in every study, has
three times the sd. outliers: 5 % of the seeds end 5 sd worse. past: what the seeds of past results were off their run's mean."""
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
    """Metric -> residuals of past seeds, scaled to sd 1; what the noise "past" draws from."""
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
    for place, (run, of_run) in enumerate(seeds.items()):
        for metric in metrics:
            own = _standard_noise(world, study.metrics[metric], (n, len(of_run)), rng)
            if world.correlation:
                common = np.stack([shared[metric, seed] for seed in of_run], axis=1)
                own = math.sqrt(world.correlation) * common + math.sqrt(1 - world.correlation) * own
            noise[run, metric] = own * world.sd[metric] * np.where(wide == place, SPREAD_FACTOR, 1.0)[:, None]
    diverged = {run: _happens(world.diverge, run, (n, len(of_run)), rng) for run, of_run in seeds.items()}
    return Drawn(
        n,
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


def _standard_noise(world: World, metric: Metric, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Of mean 0 and sd 1; `outliers` adds its own on top."""
    match world.noise:
        case "heavy":
            return rng.standard_t(3, shape) / math.sqrt(3)
        case "past" if len(world.residuals.get(metric.name, ())) >= FEWEST_RESIDUALS:
            return rng.choice(np.array(world.residuals[metric.name]), shape)
        case "outliers":
            worse = -1.0 if metric.better == "higher" else 1.0
            return rng.standard_normal(shape) + worse * OUTLIER_SD * (rng.random(shape) < OUTLIER_SHARE)
        case _:
            return rng.standard_normal(shape)


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
        off = _standard_noise(World("", world.sd, noise="past", residuals=world.residuals), study.metrics[metric], (n, 1), rng)
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
        case "expected" if effects:
            return World("expected", sd, effects, noise=kind, residuals=_all_residuals(study, results))
        case "expected":
            raise UserError("--world expected: say what you expect, as --effect F1=0.167 (the row's shift against its start)")
        case "past":
            return replace(past_world(study, results, sd, kind), effects=effects)
        case _:
            raise UserError(f"--world {name}: there is no such world; it is one of nothing, expected, past")


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
        pool = noise_pool(metric, results)
        if name in given:
            found[name] = given[name], "given"
        elif pool.source != "none" and pool.sd > 0:
            found[name] = pool.sd, str(pool.source)
        else:
            found[name] = metric.margin / 2, "assumed: half the margin"
    return found


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
    return {name: _residuals(metric, results) for name, metric in study.metrics.items()}


def _residuals(metric: Metric, results: Mapping[str, Sequence[JobResult]]) -> tuple[float, ...]:
    """What seeds were off their run's mean, inflated for the mean's own error, scaled to mean square 1; runs in the pool only."""
    pool = noise_pool(metric, results)
    off: list[float] = []
    for run in pool.runs:
        of_run = scores(metric, run, results[run])
        inflate = math.sqrt(len(of_run.values) / (len(of_run.values) - 1))
        off += [(value - of_run.mean) * inflate for value in of_run.values.values()]
    size = math.sqrt(fmean(value**2 for value in off)) if off else 0.0
    return tuple(value / size for value in off) if size else ()


def _share(jobs: Sequence[JobResult], state: str) -> float:
    return fmean(job.state == state for job in jobs)


def _unlearned(study: Study, job: JobResult) -> bool:
    """Whether a job learned none of the metrics for which the trainer says what an answer without information scores."""
    said = [name for name in job.facts.get("uninformed", {}) if name in study.metrics and name in job.values]
    return bool(said) and all(scores(study.metrics[name], job.run, [job]).unlearned for name in said)
