"""What a rule that people use would do with as many GPU-hours as the trees took. Pure.

The trees skip rows and ask for more seeds only where those could decide; a rule that takes the lowest number trains the same
seeds of every run. So it is played with c seeds of every run and with c + 1, such that its GPU-hours embrace the trees', and what
lies between is taken on the straight line: c seeds in some studies, c + 1 in the others. Where one seed of every run costs more
than the trees took, it gets one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ablate.rehearsal.rehearse import Outcome, rehearse
from ablate.rehearsal.rules import Rule
from ablate.rehearsal.worlds import World
from ablate.study import Study

MOST_SEEDS = 64
"""Of every run; more GPU-hours than that leaves the rule with fewer than the trees had."""


@dataclass(frozen=True)
class EqualHours:
    """A rule at the trees' GPU-hours; each a mean over studies."""

    rule: Rule
    seeds: float
    """Of every run."""
    gpu_hours: float
    wrong: float
    missed: float
    regret: float
    net_regret: float


def at_equal_hours(
    study: Study,
    world: World,
    rule: Rule,
    gpu_hours: float,
    *,
    studies: int,
    rng_seed: int = 0,
    hours_of: Callable[[str], float] | None = None,
) -> EqualHours:
    """Play `rule` in this world with `gpu_hours` per study. Deterministic."""

    def play(seeds: int) -> EqualHours:
        every = {run: tuple(range(seeds)) for run in study.seeds}
        alike = replace(study, seeds=every, looks=())
        found = rehearse(alike, world, studies=studies, rng_seed=rng_seed, rules=(rule,), hours_of=hours_of).outcomes[rule]
        return _numbers(found, seeds)

    below = play(1)
    if below.gpu_hours >= gpu_hours:
        return below
    guess = min(max(int(gpu_hours / below.gpu_hours), 1), MOST_SEEDS)
    below = play(guess)
    while below.gpu_hours > gpu_hours and below.seeds > 1:
        below = play(int(below.seeds) - 1)
    above = play(int(below.seeds) + 1)
    while above.gpu_hours < gpu_hours and above.seeds < MOST_SEEDS:
        below, above = above, play(int(above.seeds) + 1)
    share = min((gpu_hours - below.gpu_hours) / (above.gpu_hours - below.gpu_hours), 1.0)
    return _between(below, above, share)


def _numbers(found: Outcome, seeds: int) -> EqualHours:
    return EqualHours(found.rule, seeds, found.gpu_hours, found.wrong, found.missed, found.regret, found.net_regret)


def _between(below: EqualHours, above: EqualHours, share: float) -> EqualHours:
    def mixed(name: str) -> float:
        low, high = float(getattr(below, name)), float(getattr(above, name))
        return low + share * (high - low)

    return EqualHours(below.rule, *(mixed(name) for name in ("seeds", "gpu_hours", "wrong", "missed", "regret", "net_regret")))
