"""Rehearsed studies conclude what real ones would; what is counted about them is counted right."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ablate.compare import holm_levels
from ablate.compare_many import holm_levels_many
from ablate.conditions import ITS_START, AllOf, AnyOf, Compared, Condition, Ended, Otherwise, Took, Within
from ablate.decide import decide_sweep, rests_on_the_same
from ablate.lock import NotYet, make_lock
from ablate.oracle import best_reachable
from ablate.plan import REFERENCE, make_plan
from ablate.rehearse import Books, Stage, metrics_asked, play, rehearse
from ablate.runs_toml import read_study
from ablate.study import JobResult, Skip, Study, Take
from ablate.worlds import UNLEARNED_SD, Drawn, World, draw, known_sd, past_world
from db.records import DecisionRecord
from tests.studies import LOSS, jobs, study, sweep, tree

SHIPPED = Path(__file__).parent.parent / "runs.toml"
OURS = ("F1", "F2", "LR2", "LR3", "LR4")


def tiny() -> Study:
    return read_study(SHIPPED, "tiny")


def noisy(of: Study, share_of_margin: float = 0.6, **changes: object) -> World:
    sd = {name: share_of_margin * metric.margin for name, metric in of.metrics.items()}
    return replace(World("test", sd), **changes)  # type: ignore[arg-type]  # fields of World, given by name


# ---------------------------------------------------------------- one study the slow way: with decide.py, plan.py and lock.py


def one_of(drawn: Drawn, at: int) -> Drawn:
    pick = slice(at, at + 1)
    return Drawn(
        1,
        *({key: array[pick] for key, array in part.items()} for part in (drawn.effects, drawn.noise, drawn.diverged)),
        {key: array[pick] for key, array in drawn.unlearned.items()},
        {key: array[pick] for key, array in drawn.sample_noise.items()},
    )


def truth(of: Study, drawn: Drawn, run: str, metric: str, decisions: Mapping[str, DecisionRecord]) -> float:
    def own(name: str) -> float:
        return float(drawn.effects.get((name, metric), np.zeros(1))[0])

    row = of.runs[run.removesuffix(REFERENCE)]
    value = own(of.baseline) + (own(run) if run != of.baseline else 0.0)
    for name in row.start.names:
        took = decisions[name] if row.start.kind == "winners" else None
        value += own(name) if took is None else own(took.took) if took.sets and took.took != of.baseline else 0.0
    return value


def results(
    of: Study, world: World, drawn: Drawn, decisions: Mapping[str, DecisionRecord], blocks: set[str]
) -> dict[str, list[JobResult]]:
    """What `evidence.job_results` would say once these blocks have ended."""
    out: dict[str, list[JobResult]] = {}
    for job in make_plan(of, {}, decisions).jobs:
        ended = job.state == "ready" and job.block in blocks
        place = of.seeds[job.run.removesuffix(REFERENCE)].index(job.seed)
        values, floors = {}, {}
        for metric in metrics_asked(of) if ended else ():
            worse = -1 if of.metrics[metric].better == "higher" else 1
            value = truth(of, drawn, job.run, metric, decisions) + float(drawn.noise[job.run, metric][0, place])
            if drawn.unlearned[job.run][0, place]:
                value += worse * UNLEARNED_SD * world.sd[metric]
                floors[metric] = value
            values[metric] = value
        state = job.state if not ended else "diverged" if drawn.diverged[job.run][0, place] else "done"
        budget = job.settings.get("train.samples") if job.settings else None
        facts = {"uninformed": floors, **({"samples": budget} if isinstance(budget, int) else {})}
        done = JobResult(job.id, job.run, job.seed, state, values if state == "done" else {}, job.settings or {}, facts)
        out.setdefault(job.run, []).append(done)
    return out


def replayed(of: Study, world: World, drawn: Drawn) -> tuple[dict[str, DecisionRecord], str]:
    """One study as `launch` would take it: after every block all sweeps are decided; what stands, stands. And its lock."""
    decisions: dict[str, DecisionRecord] = {}
    names = [block.name for block in of.blocks]
    for count in range(1, len(names) + 2):
        blocks = {*names[:count], *([""] if count > len(names) else [])}
        for _ in range(4):  # a decision may open rows of the same block
            for of_sweep in of.sweeps.values():
                plan, found = make_plan(of, {}, decisions), results(of, world, drawn, decisions, blocks)
                answer = decide_sweep(of, of_sweep, found, decisions, plan.its_start, now="", hours_of=lambda _: 1.0)
                for made in answer.decisions:
                    old = decisions.get(made.name)
                    if made.status != "waiting" and not (old and rests_on_the_same(made, old)):
                        decisions[made.name] = made
    plan, found = make_plan(of, {}, decisions), results(of, world, drawn, decisions, {*names, ""})
    ended = {run for run, of_run in found.items() if of_run[0].state in ("done", "diverged")}
    lock = make_lock(
        of, decisions, {}, replace(plan, jobs=tuple(replace(j, state="done") if j.run in ended else j for j in plan.jobs)), ""
    )
    return decisions, "" if isinstance(lock, NotYet) else str(dict(sorted(lock.settings.items())))


def agree(of: Study, world: World, studies: int, seed: int) -> set[tuple[str, str]]:
    """Play `studies` both ways; returns what the trees took at least once."""
    drawn = draw(of, world, metrics_asked(of), studies, np.random.default_rng(seed))
    stage = Stage(of, 0.1, lambda _: 1.0)
    together, summed, seen = Books(), Books(), set()
    play(stage, world, drawn, "trees", best_reachable(of, drawn), together)
    for at in range(studies):
        one, books = one_of(drawn, at), Books()
        play(stage, world, one, "trees", best_reachable(of, one), books)
        took = {(key[1], key[2]) for key, count in books.counts.items() if key[0] == "took" and count}
        decisions, lock = replayed(of, world, one)
        expected = {(name, made.took) for name, made in decisions.items() if made.status == "decided"}
        assert took == expected, f"study {at} of seed {seed}"
        locked = next(key[1] for key in books.counts if key[0] == "lock")
        assert bool(lock) == (not locked.startswith("no lock")), locked
        seen |= took
        for key, count in books.counts.items():
            summed.counts[key] += count
    assert {k: pytest.approx(v) for k, v in summed.counts.items() if v} == {k: v for k, v in together.counts.items() if v}
    return seen


WORLDS = {
    "nothing is true": {},
    "rows differ": {"either": {(run, "val_loss"): 0.25 for run in ("F1", "F2", "LR2", "LR3", "LR4", "A1")}},
    "one run is noisier": {"noise": "unequal", "correlation": 0.9},
    "jobs diverge and fail to learn": {"diverge": {"": 0.3, "F1": 0.1}, "fail_to_learn": {"": 0.15}},
    "seeds matter more than rows": {"correlation": 0.999, "either": {("D1", "val_loss/video"): 0.3, ("A8b", "image_vqa"): 0.05}},
}


@pytest.mark.parametrize("name", WORLDS)
def test_the_shipped_study_is_decided_as_the_real_rules_decide_it(name):
    of = tiny()
    more = {run: (42, 43, 44) for run in ("A8a", "A8b", "D1", "LR4")}
    of = replace(of, seeds={**of.seeds, **more})
    world = noisy(of, **WORLDS[name])
    if ("A8b", "image_vqa") in world.either:
        world = replace(world, sd={**world.sd, "val_loss/image": 0.02})
    seen = agree(of, world, 25, 3)
    assert len(seen) >= 5


@pytest.mark.parametrize("seed", range(12))
def test_random_small_studies_are_decided_as_the_real_rules_decide_them(seed):
    of, world = random_study(seed)
    agree(of, world, 12, seed)


def random_study(seed: int) -> tuple[Study, World]:
    """Trees, skips, seeds and blocks by chance, from the rows of tests/studies.py."""
    chance = random.Random(seed)
    rows = ["F1", "F2", "F3", "LR2", "LR3", "LR4"]

    def condition(among: list[str]) -> Condition:
        def atom() -> Condition:
            a, b = chance.sample(among, 2)
            kind = chance.random()
            if kind < 0.1:
                return Ended(a, chance.choice(["diverged", "did not learn"]))
            if kind < 0.2:
                return Within(a, chance.choice([0.1, 0.3]), 0.0, "val_loss")
            return Compared(a, chance.choice(["better", "worse", "no worse", "same"]), b, chance.choice(["val_loss", "image_vqa"]))

        joint = chance.choice([None, AllOf, AnyOf])
        return joint((atom(), atom())) if joint else atom()

    def lines(among: list[str]) -> list[tuple[str, Condition, str | Take, str]]:
        takes: list[str | Take] = [*among, Take("best", tuple(chance.sample(among, 2))), Take("stop")]
        made = [(f"line {i}", condition(among), chance.choice(takes), "") for i in range(chance.randint(1, 4))]
        return [*made, ("otherwise", Otherwise(), "F3", "")]

    first, second = tree("freeze", "s1", *lines(rows[:3])), tree("lr", "s2", *lines(rows[2:]))
    d1 = Compared("D1", "better", ITS_START, "val_loss")
    third = tree("mix", "s3", ("D1", d1, "D1", ""), ("otherwise", Otherwise(), Take("its start"), ""))
    skip = Skip("freeze took F1", Took("freeze", "F1"), "") if chance.random() < 0.5 else None
    seeds = {row: tuple(range(42, 42 + chance.randint(1, 4))) for row in (*OURS, "F3", "D1", "A8a", "A8b", "B1")}
    of = study(
        sweep("s1", first),
        sweep("s2", second, skip=skip),
        sweep("s3", third),
        seeds=seeds,
        metrics={"val_loss": replace(LOSS, noise=chance.choice([None, 0.05])), "image_vqa": study().metrics["image_vqa"]},
    )
    effects = {(row, metric): chance.choice([0.0, 0.1, -0.2]) for row in (*OURS, "D1") for metric in ("val_loss", "image_vqa")}
    diverge = {"": chance.choice([0.0, 0.0, 0.3])}
    world = World("test", {"val_loss": 0.05, "image_vqa": 0.03}, effects, correlation=chance.choice([0.0, 0.99]), diverge=diverge)
    return of, replace(world, fail_to_learn={"": chance.choice([0.0, 0.2])}, noise=chance.choice(["normal", "heavy", "unequal"]))


def test_holm_for_many_is_holm_for_each():
    p = np.random.default_rng(0).random((300, 4)) ** 3
    p[:50, 1] = p[:50, 2]
    many = holm_levels_many(p, 0.05)
    assert many == pytest.approx(np.array([holm_levels(row, 0.05) for row in p.tolist()]))
