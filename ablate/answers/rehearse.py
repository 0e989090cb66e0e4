"""What `ablate rehearse` answers: how often the study's rules would conclude wrongly, on simulated results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

from ablate.answers.document import Answer, command, head, plain
from ablate.desk import Desk, measured_hours
from ablate.evidence import job_results
from ablate.planning.cost import hours_of
from ablate.planning.search import with_examples
from ablate.rehearsal import worlds
from ablate.rehearsal.equal_hours import at_equal_hours
from ablate.rehearsal.rehearse import Rehearsal
from ablate.rehearsal.rehearse import rehearse as play
from ablate.rehearsal.targets import measure_targets, played
from ablate.study import Study, UserError


def rehearse(
    desk: Desk,
    world: str,
    noise: str,
    studies: int,
    rng_seed: int,
    effects: Sequence[str] = (),
    spreads: Sequence[str] = (),
    diverge: float = 0.0,
    budget: float = 1.0,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Answer:
    """The study played `studies` times on simulated results, and each promise of its rules held against a fifth as many.

    effects:  "F1=0.167" or "A8b:image_vqa=0.03": true shift against the row's start, in the metric's unit.
    spreads:  "val_loss=0.05": true sd between seeds; else what was measured, declared, or half the margin.
    budget:   share of each past curve at which it is read; of past results alone.
    progress: called with the studies played so far and how many there will be.
    """
    study = with_examples(desk.study)
    made, sd = _imagined(desk, study, world, noise, effects, spreads, budget)
    made = replace(made, diverge={**made.diverge, "": diverge}) if diverge else made
    each = max(studies // 5, 1)
    advance = _counted(progress, studies + played(study, each))
    measured = measured_hours(desk)

    def hours(run: str) -> float:
        return budget * hours_of(study, run, measured)[0]

    found = play(study, made, studies=studies, rng_seed=rng_seed, hours_of=hours, progress=advance)
    spent = found.outcomes["trees"].gpu_hours
    equal = [
        at_equal_hours(study, made, rule, spent, studies=each, rng_seed=rng_seed, hours_of=hours)
        for rule in ("lowest of all seeds", "lowest mean")
    ]
    targets = measure_targets(study, made, studies=each, rng_seed=rng_seed, progress=advance)
    return plain(
        {
            **head(desk),
            "world": made.name,
            "noise": made.noise,
            "studies": studies,
            "seed": rng_seed,
            "looks": study.looks,
            "budget": budget,
            **_of_world(made, sd),
            **_of_rules(found),
            "equal_hours": [asdict(one) for one in equal],
            "targets": [{**asdict(target), "passed": target.passed} for target in targets],
            "next": command(desk, "launch" if all(target.passed for target in targets) else "check"),
        }
    )


def _counted(progress: Callable[[int, int], None], of: int) -> Callable[[int], None]:
    """Takes how many studies more were played, and tells `progress` how many are."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, of)

    return advance


def _of_world(made: worlds.World, sd: Mapping[str, tuple[float, str]]) -> Answer:
    """What is true in it, and how far seeds spread."""
    return {
        "past_jobs": max((len(jobs) for jobs in made.residuals.values()), default=0) if made.noise == "past" else 0,
        "sd": {name: {"sd": size, "source": source} for name, (size, source) in sd.items()},
        "effects": [{"run": run, "metric": metric, "effect": effect} for (run, metric), effect in made.effects.items()],
    }


def _of_rules(found: Rehearsal) -> Answer:
    """What those did that take the decisions, the trees and what people use; of the trees, line by line."""
    names = ("rule", "wrong", "missed", "regret", "net_regret", "gpu_hours", "wrong_in", "missed_in", "locks")
    ours = found.outcomes["trees"]
    return {
        "rules": [{name: getattr(outcome, name) for name in names} for outcome in found.outcomes.values()],
        "lines": [asdict(line) for line in ours.fired],
        "never_fired": [{"where": line.where, "text": line.text} for line in ours.fired if line.asked and not line.fired],
        "comparisons": [asdict(shown) for shown in ours.shown],
    }


def _imagined(
    desk: Desk, study: Study, world: str, noise: str, effects: Sequence[str], spreads: Sequence[str], budget: float
) -> tuple[worlds.World, Mapping[str, tuple[float, str]]]:
    """The world a rehearsal is played in, and the noise of each metric with where it is known from."""
    results = job_results(desk, desk.plan())
    if world == "past" or noise == "past":
        curves = {name: desk.store.curves(name, [job.key for jobs in results.values() for job in jobs]) for name in study.metrics}
        results = worlds.read_at(study, results, curves, budget)
    elif budget < 1:
        raise UserError(f"--budget {budget:g} is a share of past curves: give it with --world past or --noise past")
    sd = worlds.known_sd(study, results, dict(worlds.read_spread(study, text) for text in spreads))
    given = dict(worlds.read_effect(study, text) for text in effects)
    return worlds.named_world(world, noise, study, results, {name: size for name, (size, _) in sd.items()}, given), sd
