"""Rehearsed studies conclude what real ones would; what is counted about them is counted right."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ablate.conditions import ITS_START, AllOf, AnyOf, Compared, Condition, Ended, Otherwise, Took, Within
from ablate.deciding.compare import holm_levels
from ablate.deciding.decide import asked_by, decide_sweep
from ablate.deciding.lock import NotYet, make_lock
from ablate.deciding.looks import level_at, settling
from ablate.deciding.turned import rests_on_the_same
from ablate.planning.plan import make_plan
from ablate.rehearsal.compare_many import holm_levels_many
from ablate.rehearsal.equal_hours import at_equal_hours
from ablate.rehearsal.rehearse import Books, metrics_asked, play, rehearse
from ablate.rehearsal.targets import Rehearsals, measure_targets, played, promises, rows_differ
from ablate.rehearsal.view import Stage
from ablate.rehearsal.worlds import (
    UNLEARNED_SD,
    Drawn,
    World,
    draw,
    known_sd,
    named_world,
    past_world,
    read_at,
    read_effect,
    read_spread,
)
from ablate.runs_toml import read_study
from ablate.study import REFERENCE, JobResult, Skip, Study, Sweep, Take, UserError
from db.records import DecisionRecord
from tests.studies import LOSS, jobs, study, sweep, tree

SHIPPED = Path(__file__).parent.parent.parent / "runs.toml"
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
        drawn.metrics,
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
    of: Study, world: World, drawn: Drawn, decisions: Mapping[str, DecisionRecord], blocks: set[str], asked: frozenset[str]
) -> dict[str, list[JobResult]]:
    """What `evidence.job_results` would say once these blocks have ended, with the seeds asked for to settle a sweep."""
    out: dict[str, list[JobResult]] = {}
    for job in make_plan(of, {}, decisions, once=False).jobs:
        if job.held_for_look and job.key not in asked:
            continue
        ended = (job.state == "ready" or job.held_for_look) and job.block in blocks
        place = of.seeds[job.run.removesuffix(REFERENCE)].index(job.seed)
        values, floors = {}, {}
        for metric in metrics_asked(of) if ended else ():
            worse = -1 if of.metrics[metric].better == "higher" else 1
            value = truth(of, drawn, job.run, metric, decisions) + float(drawn.noise[job.run, metric][0, place])
            if drawn.unlearned[job.run][0, place]:
                value += worse * UNLEARNED_SD * world.sd[metric]
                floors[metric] = value
            values[metric] = value
        state = (
            ("waiting" if job.held_for_look else job.state)
            if not ended
            else "diverged"
            if drawn.diverged[job.run][0, place]
            else "done"
        )
        budget = job.settings.get("train.samples") if job.settings else None
        facts = {"uninformed": floors, **({"samples": budget} if isinstance(budget, int) else {})}
        values = values if state == "done" else {}
        out.setdefault(job.run, []).append(
            JobResult(job.key or job.id, job.run, job.seed, state, values, job.settings or {}, facts)
        )
    return out


def replayed(of: Study, world: World, drawn: Drawn) -> tuple[dict[str, DecisionRecord], str]:
    """One study as `launch` would take it: after every block all sweeps are decided; what stands, stands. And its lock."""
    decisions: dict[str, DecisionRecord] = {}
    asked, closed = dict.fromkeys(of.sweeps, frozenset[str]()), set[str]()
    names = [block.name for block in of.blocks]
    for count in range(1, len(names) + 2):
        blocks = {*names[:count], *([""] if count > len(names) else [])}
        before: object = None
        while before != decisions:  # a decision may open rows of the same block
            before = dict(decisions)
            for of_sweep in of.sweeps.values():
                more = True
                while more:
                    plan = make_plan(of, {}, decisions, once=False)
                    found = results(of, world, drawn, decisions, blocks, asked[of_sweep.name])
                    answer = decide_sweep(of, of_sweep, found, decisions, plan.its_start, now="", hours_of=lambda _: 1.0)
                    for made in answer.decisions:
                        old = decisions.get(made.name)
                        if made.status != "waiting" and not (old and rests_on_the_same(made, old)):
                            decisions[made.name] = made
                    more = of_sweep.name not in closed and settled(of, of_sweep, found, decisions, asked)
                if all(each.name in decisions for each in of_sweep.trees):
                    closed.add(of_sweep.name)
    plan, found = make_plan(of, {}, decisions, once=False), results(of, world, drawn, decisions, {*names, ""}, frozenset())
    ended = {run for run, of_run in found.items() if of_run[0].state in ("done", "diverged")}
    lock = make_lock(
        of, decisions, {}, replace(plan, jobs=tuple(replace(j, state="done") if j.run in ended else j for j in plan.jobs)), ""
    )
    return decisions, "" if isinstance(lock, NotYet) else str(dict(sorted(lock.settings.items())))


def settled(
    of: Study,
    of_sweep: Sweep,
    found: Mapping[str, list[JobResult]],
    decisions: Mapping[str, DecisionRecord],
    asked: dict[str, frozenset[str]],
) -> bool:
    """Ask for the seeds that `launch --settle` would, of trees alone; whether there are any."""
    trees = [decisions.get(each.name) for each in of_sweep.trees]
    if len(of.looks) < 2 or any(record is None or record.status != "decided" for record in trees):
        return False
    ever = frozenset().union(*asked.values())
    plan = make_plan(of, {}, decisions, once=False)
    jobs = tuple(replace(job, held_for_look=job.held_for_look and job.key not in ever) for job in plan.jobs)
    lines = [each for each in asked_by(of, of_sweep, found, decisions, plan.its_start) if each.tree]
    what = settling(of, of_sweep.name, replace(plan, jobs=jobs), lines, asked[of_sweep.name], lambda _: 1.0)
    if isinstance(what, str):
        return False
    asked[of_sweep.name] |= {job.key for job in what.jobs if job.key}
    return True


def agree(of: Study, world: World, studies: int, seed: int) -> set[tuple[str, str]]:
    """Play `studies` both ways; returns what the trees took at least once."""
    drawn = draw(of, world, metrics_asked(of), studies, np.random.default_rng(seed))
    stage = Stage(of, 0.1, lambda _: 1.0, settle=True)
    together, summed, seen = Books(), Books(), set()
    play(stage, world, drawn, "trees", together)
    for at in range(studies):
        one, books = one_of(drawn, at), Books()
        play(stage, world, one, "trees", books)
        took = {(key[1], key[2]) for key, count in books.counts.items() if key[0] == "took" and count}
        decisions, lock = replayed(of, world, one)
        expected = {(name, made.took) for name, made in decisions.items() if made.status == "decided"}
        assert took == expected, f"study {at} of seed {seed}"
        lines = {
            (key[1], of.trees[key[1]].lines[int(key[2])].text)
            for key, count in books.counts.items()
            if key[0] == "line" and count
        }
        assert lines == {(name, made.line) for name, made in decisions.items() if made.status == "decided"}
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
    more = dict.fromkeys(("A8a", "A8b", "D1", "LR4"), (42, 43, 44))
    of = replace(of, seeds={**of.seeds, **more})
    world = noisy(of, **WORLDS[name])
    if ("A8b", "image_vqa") in world.either:
        world = replace(world, sd={**world.sd, "val_loss/image": 0.02})
    seen = agree(of, world, 6, 3)
    assert len(seen) >= 4


@pytest.mark.parametrize("seed", range(12))
def test_random_small_studies_are_decided_as_the_real_rules_decide_them(seed):
    of, world = random_study(seed)
    agree(of, world, 4, seed)


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
            return Compared(
                a, chance.choice(["better", "worse", "no worse", "same"]), b, chance.choice(["val_loss", "image_vqa"])
            )

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
    table = np.array([[0.05 / (4 - step) for step in range(4)]])
    many = holm_levels_many(p, table, np.ones((300, 4), dtype=np.intp))
    assert many == pytest.approx(np.array([holm_levels(row, 0.05) for row in p.tolist()]))


def test_holm_for_many_is_holm_for_each_where_pairs_are_at_different_looks():
    chance = np.random.default_rng(1)
    p, looks = chance.random((300, 3)) ** 4, chance.integers(1, 3, (300, 3))

    def nominal(look: int, share: float) -> float:
        return level_at(share, look, (3, 5), "pocock")

    table = np.array([[nominal(look, 0.05 / (3 - step)) for step in range(3)] for look in (1, 2)])
    each = [
        holm_levels(row, 0.05, lambda place, share, at=at: nominal(at[place], share))
        for row, at in zip(p.tolist(), looks.tolist(), strict=True)
    ]
    assert holm_levels_many(p, table, looks) == pytest.approx(np.array(each))


@pytest.mark.parametrize("seed", range(12))
def test_random_small_studies_are_settled_as_the_real_rules_settle_them(seed):
    of, world = random_study(seed)
    of = replace(of, looks=(2, 3, 5), spending="pocock", seeds={run: tuple(range(42, 42 + 5 - len(run) % 2)) for run in of.seeds})
    agree(of, world, 4, seed)


# ---------------------------------------------------------------- what is counted


BETTER = Compared("F2", "better", "F3", "val_loss")


def one_tree(*lines: tuple[str, Condition, str | Take, str], seeds: int = 3) -> Study:
    made = tree("freeze", "s1", *lines, ("otherwise", Otherwise(), "F3", ""))
    return study(sweep("s1", made), seeds={run: tuple(range(42, 42 + seeds)) for run in study().runs})


def test_a_row_that_is_truly_better_and_clearly_so_is_always_taken_and_is_what_the_oracle_takes():
    of = one_tree(("F2 better", BETTER, "F2", ""))
    ours = rehearse(of, World("clear", {"val_loss": 0.01}, {("F2", "val_loss"): -0.4}), studies=200).outcomes["trees"]
    assert (ours.wrong, ours.missed, ours.regret) == (0, 0, 0)
    assert ours.locks == {"F2": 1.0}


def test_a_row_that_cannot_be_told_from_its_start_is_missed_and_costs_its_gain():
    of = one_tree(("F2 better", BETTER, "F2", ""))
    ours = rehearse(of, World("noisy", {"val_loss": 10.0}, {("F2", "val_loss"): -0.4}), studies=2000).outcomes["trees"]
    assert ours.missed == pytest.approx(1, abs=0.06)
    assert ours.regret == pytest.approx(0.4 / 0.08 * ours.missed)


def test_adopting_what_is_only_no_worse_is_wrong_when_it_loses_a_margin_and_right_when_it_does_not():
    of = one_tree(("F2 no worse", Compared("F2", "no worse", "F3", "val_loss"), "F2", ""))
    equal = rehearse(of, World("equal", {"val_loss": 0.01}), studies=300).outcomes["trees"]
    assert (equal.locks["F2"], equal.wrong) == (1.0, 0)
    losing = rehearse(of, World("losing", {"val_loss": 0.03}, {("F2", "val_loss"): 0.08}), studies=4000).outcomes["trees"]
    assert losing.wrong == losing.locks["F2"] == pytest.approx(0.05, abs=0.015)


def test_the_lowest_seed_adopts_something_worthless_in_five_of_six_studies_of_two_trees():
    """The baseline stays only when its one value, the same in both trees, is the lowest of all six runs'."""
    freeze = tree("freeze", "s1", ("F1", BETTER, "F1", ""), ("F2", BETTER, "F2", ""), ("otherwise", Otherwise(), "F3", ""))
    rows = [(run, Compared(run, "better", "F3", "val_loss"), run, "") for run in ("LR2", "LR3", "LR4")]
    of = study(sweep("s1", freeze), sweep("s2", tree("lr", "s2", *rows, ("otherwise", Otherwise(), "LR1", ""))))
    naive = rehearse(of, World("nothing", {"val_loss": 0.05}), studies=4000).outcomes["lowest first seed"]
    assert naive.wrong == pytest.approx(1 - 1 / 6, abs=0.02)


def test_rules_that_look_at_one_seed_train_one_seed():
    of = one_tree(("F2 better", BETTER, "F2", ""))
    found = rehearse(of, World("nothing", {"val_loss": 0.05}), studies=50).outcomes
    assert found["trees"].gpu_hours == found["lowest of all seeds"].gpu_hours
    assert found["lowest first seed"].gpu_hours < found["trees"].gpu_hours / 2.9


def test_the_same_seed_rehearses_the_same_studies():
    of, world = tiny(), noisy(tiny())
    assert rehearse(of, world, studies=60, rng_seed=5) == rehearse(of, world, studies=60, rng_seed=5)
    assert rehearse(of, world, studies=60, rng_seed=5) != rehearse(of, world, studies=60, rng_seed=6)


@pytest.mark.parametrize("share_of_margin", [0.05, 0.2, 0.6])
def test_the_shipped_study_keeps_what_its_rules_promise(share_of_margin):
    """At a small noise the margin, not the test, limits what is called better: the visible effect has to count it."""
    of = tiny()
    found = list(promises(Rehearsals(of, noisy(of, share_of_margin), 1000)))
    broken = [target for target in found if target.measured < target.low - 4 * target.error]
    broken += [target for target in found if target.measured > target.high + 4 * target.error]
    assert not broken


def test_how_many_studies_are_played_is_known_beforehand():
    seen: list[int] = []
    measure_targets(tiny(), noisy(tiny()), studies=5, progress=seen.append)
    assert sum(seen) == played(tiny(), 5)


# ---------------------------------------------------------------- worlds


def test_noise_has_the_spread_asked_for():
    of = one_tree(("F2 better", BETTER, "F2", ""))
    for kind, sd in (("normal", 0.05), ("heavy", 0.05), ("unequal", 0.05 * (1 + 8 / 11) ** 0.5)):
        drawn = draw(of, World("", {"val_loss": 0.05}, noise=kind), ["val_loss"], 4000, np.random.default_rng(0))
        assert np.std(np.stack(list(drawn.noise.values()))) == pytest.approx(sd, rel=0.06)


def test_past_effects_are_drawn_around_what_was_measured():
    of = one_tree(("F2 better", BETTER, "F2", ""))
    past = {"F3": jobs("F3", [0.50, 0.56, 0.53]), "F2": jobs("F2", [0.62, 0.68, 0.65]), "F1": jobs("F1", [0.6, "diverged"])}
    sd = known_sd(of, past, {"image_vqa": 0.02})
    assert sd["val_loss"] == (pytest.approx(0.03), "measured")
    assert sd["image_vqa"] == (0.02, "given")
    world = past_world(of, past, {name: size for name, (size, _) in sd.items()}, "past")
    drawn = draw(of, world, ["val_loss"], 4000, np.random.default_rng(0))
    effect = drawn.effects["F2", "val_loss"]
    assert effect.mean() == pytest.approx(0.12, abs=0.003)
    assert effect.std() == pytest.approx(0.03 * (2 / 3) ** 0.5, rel=0.1)
    assert world.diverge["F1"] == 0.5


def past_curves() -> tuple[dict[str, list[JobResult]], dict[str, dict[str, list[tuple[int, float]]]]]:
    """F3 and F2 with four seeds each: two metrics that go together, on curves of four points."""
    chance = np.random.default_rng(4)
    results, curves = {}, {"val_loss": {}, "image_vqa": {}}
    for run, level in (("F3", 0.5), ("F2", 0.6)):
        results[run] = jobs(run, [level] * 4)
        for job in results[run]:
            off = float(chance.normal()) * 0.05
            curves["val_loss"][job.key] = [(step, level + 1 / step + off) for step in (1, 2, 3, 4)]
            curves["image_vqa"][job.key] = [(step, 0.1 * step - off) for step in (1, 2, 3, 4)]
    return results, curves


def test_past_curves_are_read_where_the_budget_ends_or_at_a_share_of_it():
    of = one_tree(("F2 better", BETTER, "F2", ""))
    of = replace(of, metrics={**of.metrics, "val_loss": replace(LOSS, last=2)})
    results, curves = past_curves()
    key = results["F3"][0].key
    at_end, half = (read_at(of, results, curves, share)["F3"][0].values["val_loss"] for share in (1.0, 0.5))
    assert at_end == pytest.approx((curves["val_loss"][key][2][1] + curves["val_loss"][key][3][1]) / 2)
    assert half == pytest.approx((curves["val_loss"][key][0][1] + curves["val_loss"][key][1][1]) / 2)
    assert read_at(of, results, curves, 0.1)["F3"][0].values == {}, "nothing was measured so early"


def test_resampled_metrics_of_a_job_are_those_of_one_past_job():
    """In these curves what a seed adds to the loss it takes from the accuracy; drawn apart they would not be correlated."""
    of = one_tree(("F2 better", BETTER, "F2", ""))
    results, curves = past_curves()
    read = read_at(of, results, curves, 1.0)
    world = past_world(of, read, {"val_loss": 0.05, "image_vqa": 0.05}, "past")
    drawn = draw(of, world, ["val_loss", "image_vqa"], 500, np.random.default_rng(0))
    for run in ("F3", "LR2"):
        loss, accuracy = drawn.noise[run, "val_loss"].ravel(), drawn.noise[run, "image_vqa"].ravel()
        assert np.corrcoef(loss, accuracy)[0, 1] == pytest.approx(-1)
        assert loss.std() == pytest.approx(0.05, rel=0.15)


# ---------------------------------------------------------------- looks, and equal hours


def with_looks(of: Study, *looks: int) -> Study:
    return replace(of, looks=looks, seeds={run: tuple(range(looks[-1])) for run in of.seeds})


def test_settling_trains_more_only_where_it_could_decide():
    of = with_looks(one_tree(("F2 better", BETTER, "F2", "")), 3, 8)
    world = World("clear", {"val_loss": 0.02}, {("F2", "val_loss"): 0.5})
    clear = rehearse(of, world, studies=100, rules=("trees",)).outcomes["trees"]
    first = rehearse(of, world, studies=100, rules=("trees",), settle=False).outcomes["trees"]
    assert clear.gpu_hours == first.gpu_hours, "F2 is so much worse that no seed could change it"
    near = replace(world, sd={"val_loss": 0.08}, effects={("F2", "val_loss"): -0.16})
    open_ = rehearse(of, near, studies=300, rules=("trees",)).outcomes["trees"]
    assert first.gpu_hours < open_.gpu_hours < first.gpu_hours * 8 / 3
    assert open_.missed < rehearse(of, near, studies=300, rules=("trees",), settle=False).outcomes["trees"].missed - 0.2


@pytest.mark.parametrize("spending", ["pocock", "obrien-fleming"])
def test_looking_again_and_again_adopts_nothing_worthless_more_often_than_declared(spending):
    """One tree, 0.05 two-sided, half of it on the side that adopts; a margin that never binds; six looks, each settled."""
    of = with_looks(one_tree(("F2 better", BETTER, "F2", "")), 2, 3, 4, 6, 8, 12)
    tiny_margin = {**of.metrics, "val_loss": replace(LOSS, margin=1e-6)}
    of = replace(of, spending=spending, metrics=tiny_margin)
    found = rehearse(of, World("nothing", {"val_loss": 0.05}), studies=4000, rules=("trees",)).outcomes["trees"]
    assert 0.01 < found.wrong < 0.025 + 3 * (0.025 * 0.975 / 4000) ** 0.5


def test_at_equal_hours_the_naive_rule_gets_the_seeds_those_hours_pay():
    of = one_tree(("F2 better", BETTER, "F2", ""))
    world = World("differ", {"val_loss": 0.05}, either={("F2", "val_loss"): 0.1})
    of_two, of_three = (
        rehearse(
            replace(of, seeds={run: tuple(range(count)) for run in of.seeds}), world, studies=400, rules=("lowest of all seeds",)
        ).outcomes["lowest of all seeds"]
        for count in (2, 3)
    )
    between = at_equal_hours(of, world, "lowest of all seeds", (of_two.gpu_hours + of_three.gpu_hours) / 2, studies=400)
    assert between.seeds == pytest.approx(2.5)
    assert between.gpu_hours == pytest.approx((of_two.gpu_hours + of_three.gpu_hours) / 2)
    assert between.regret == pytest.approx((of_two.regret + of_three.regret) / 2)
    assert at_equal_hours(of, world, "lowest of all seeds", 0.0, studies=50).seeds == 1


@pytest.mark.parametrize("margins", [2.0, 3.0])
def test_settled_trees_regret_less_than_the_lowest_seed_at_equal_hours(margins):
    """The shipped study's questions with looks [3, 5] and a noise of 0.4 margins."""
    of = with_looks(tiny(), 3, 5)
    world = replace(noisy(of, 0.4), either=rows_differ(of, margins))
    ours = rehearse(of, world, studies=600, rules=("trees",)).outcomes["trees"]
    naive = at_equal_hours(of, world, "lowest of all seeds", ours.gpu_hours, studies=600)
    assert ours.regret < 0.3 * naive.regret


def test_a_net_regret_counts_what_was_adopted_for_nothing():
    """Two rules that differ in nothing but adoptions of an equal row: one margin each."""
    of = one_tree(("F2 better", BETTER, "F2", ""))
    found = rehearse(of, World("nothing", {"val_loss": 0.05}), studies=400).outcomes
    naive = found["lowest mean"]
    assert naive.regret == 0
    assert naive.net_regret == pytest.approx(naive.wrong)
    assert found["trees"].net_regret == pytest.approx(found["trees"].wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("F9=0.1", "--effect F9=0.1: there is no run 'F9'"),
        ("F1=much", "--effect F1=much: write NAME=NUMBER"),
        ("F1:val_los=0.1", "there is no metric 'val_los'"),
        ("A8b=0.03", "no sweep of A8b says on which metric; name it: --effect A8b:METRIC=0.03"),
    ],
)
def test_an_effect_that_cannot_be_read_says_what_is_wrong(text, message):
    with pytest.raises(UserError, match=message):
        read_effect(tiny(), text)


def test_effects_and_spreads_are_read_as_they_are_typed():
    assert read_effect(tiny(), "LR4=0.167") == (("LR4", "val_loss"), 0.167)
    assert read_effect(tiny(), "A8b:image_vqa=-0.03") == (("A8b", "image_vqa"), -0.03)
    assert read_spread(tiny(), "val_loss/video=0.05") == ("val_loss/video", 0.05)


@pytest.mark.parametrize(
    ("world", "noise", "message"),
    [
        ("past", "normal", "no job of this study has ended"),
        ("expected", "normal", "no row of runs.toml says what it expects"),
        ("no", "normal", "no such world"),
        ("nothing", "loud", "it is one of normal, heavy, unequal, outliers, past"),
    ],
)
def test_a_world_that_cannot_be_made_says_why(world, noise, message):
    with pytest.raises(UserError, match=message):
        named_world(world, noise, tiny(), {}, {}, {})
