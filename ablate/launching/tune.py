"""Ray Tune's part in a search: its searcher draws the next point, its ASHA says which trials to give up.

Nothing here remembers anything: each question makes a new searcher, or scheduler, and tells it all that has ended so far. So
there is no state to save and none to restore; the database is it. The trials themselves are our jobs: Tune starts nothing.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.schedulers.trial_scheduler import TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from ablate.planning.search import Tried, bounds, rounded
from ablate.study import Range, Search, Settings, Value

AT_RANDOM = 4
"""Trials before TPE begins to follow what it has seen; Optuna's own 10 would leave little of a dozen."""
RUNGS = 10
"""More than any curve has: evaluations up to grace × halving ** 9."""
SCORE, AT = "score", "training_iteration"

logging.getLogger("ray.tune").setLevel(logging.ERROR)
optuna.logging.set_verbosity(optuna.logging.ERROR)


def ask(search: Search, lower: bool, number: int, ended: Sequence[Tried]) -> Settings:
    """The point of trial `number`: a function of its seed, and with `by = "tpe"` of what has ended when it is asked for.

    lower: whether lower scores are better.
    """
    sampler: BaseSampler = RandomSampler(search.seed(number))
    if search.by == "tpe":
        sampler = TPESampler(n_startup_trials=AT_RANDOM, seed=search.seed(number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optuna calls options that have been there for years experimental
        searcher = OptunaSearch(sampler=sampler)
        places = {f"p{place}": one for place, one in enumerate(search.space.values())}  # a name with a dot would be nested
        searcher.set_search_properties(SCORE, "min" if lower else "max", {key: _domain(one) for key, one in places.items()})
        for one in ended:
            told = {key: _told(search.space[name], one.point[name]) for key, name in zip(places, search.space, strict=True)}
            if one.score is not None:
                searcher.add_evaluated_point(told, one.score)
            elif one.state in ("stopped", "diverged"):  # worse than all that came to their end; failing is no word on a point
                curve = [value for value in one.curve if math.isfinite(value)] if one.state == "stopped" else []
                searcher.add_evaluated_point(told, None, pruned=True, intermediate_values=curve)
        drawn = searcher.suggest(str(number))
    assert drawn is not None, "Optuna's spaces are never used up"
    return {name: _value(search.space[name], drawn[key]) for key, name in zip(places, search.space, strict=True)}


def _domain(one: Range) -> Any:
    if one.kind == "choice":
        return tune.choice(list(range(len(one.values))))  # by place: a choice may be a table
    low, high = bounds(one)
    if isinstance(low, int) and isinstance(high, int):
        return (tune.lograndint if one.kind == "log" else tune.randint)(low, high + 1)
    return (tune.loguniform if one.kind == "log" else tune.uniform)(low, high)


def _told(one: Range, value: Value) -> Any:
    return one.values.index(value) if one.kind == "choice" else value


def _value(one: Range, drawn: Any) -> Value:
    if one.kind == "choice":
        return one.values[int(drawn)]
    return rounded(one, drawn) if isinstance(drawn, float) else int(drawn)


def given_up(search: Search, lower: bool, curves: Mapping[int, Sequence[float]]) -> dict[int, int]:
    """Trial -> the evaluation (1, 2, …) at which ASHA stops it, of those it stops.

    curves: trial -> what it scored at each evaluation so far, also of those that have ended or were stopped.

    ASHA judges who reaches a rung against those who came there before. Here trials come in the order of their numbers, so that
    who is given up hangs on the curves and not on which GPU was quicker; that the best at a rung goes on holds either way.
    """
    if not search.halving:
        return {}
    furthest = search.grace * search.halving ** (RUNGS - 1)
    mode = "min" if lower else "max"
    scheduler = AsyncHyperBandScheduler(AT, SCORE, mode, furthest, search.grace, search.halving)
    trials = {number: Trial("trial", trial_id=str(number), stub=True) for number in sorted(curves)}
    for trial in trials.values():
        scheduler.on_trial_add(None, trial)
    stopped: dict[int, int] = {}
    for at in range(1, 1 + max(map(len, curves.values()), default=0)):
        for number, trial in trials.items():
            if number in stopped or len(curves[number]) < at or not math.isfinite(curves[number][at - 1]):
                continue
            told = {AT: at, SCORE: curves[number][at - 1]}
            if scheduler.on_trial_result(None, trial, told) == TrialScheduler.STOP:
                stopped[number] = at
    return stopped
