"""Power against statsmodels, against simulation through compare.py itself, and the lines of a study."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from ablate.conditions import Took, Verdict, parse
from ablate.deciding.compare import compare
from ablate.deciding.looks import level_at
from ablate.deciding.noise import Pool
from ablate.deciding.scores import Scores
from ablate.preflight.power import (
    POWER,
    Design,
    LineSight,
    later,
    lines_of,
    power_of,
    resolving_power,
    seeds_for,
    unanswered,
    visible,
)
from ablate.study import Learn, Metric, Skip, Study, Tree, likeness
from tests import studies

DESIGN = Design(sd=0.05, df=6, n_a=3, n_b=2, margin=0.08, level=0.0125)


@pytest.mark.parametrize("n", [2, 3, 5, 12])
@pytest.mark.parametrize("effect", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("level", [0.05, 0.0125])
def test_two_runs_alone_have_the_power_that_statsmodels_gives(n: int, effect: float, level: float) -> None:
    design = Design(sd=1.0, df=2 * n - 2, n_a=n, n_b=n, margin=0.0, level=level)
    expected = TTestIndPower().power(effect, n, level / 2, alternative="larger")
    assert power_of(design, "better", effect) == pytest.approx(expected, abs=2e-5)
    assert power_of(design, "worse", -effect) == pytest.approx(expected, abs=2e-5)


def simulated(design: Design, verdict: Verdict, gain: float, studies_: int = 1500) -> float:
    """Share of made-up comparisons in which compare.py shows the verdict."""
    draw = np.random.default_rng(7)
    metric = Metric("score", "higher", margin=design.margin)
    sds = (
        design.sd * np.sqrt(draw.chisquare(design.df, studies_) / design.df)
        if math.isfinite(design.df)
        else np.full(studies_, design.sd)
    )
    shown = 0
    for sd, gap in zip(sds, gain + design.se * draw.standard_normal(studies_), strict=True):
        pool = Pool("score", float(sd), design.df, "measured")
        a = Scores("A", "score", design.n_a, dict.fromkeys(range(design.n_a), float(gap)))
        b = Scores("B", "score", design.n_b, dict.fromkeys(range(100, 100 + design.n_b), 0.0))
        shown += verdict in compare(metric, a, b, pool, design.level).holds
    return shown / studies_


@pytest.mark.parametrize("df", [3.0, math.inf])
@pytest.mark.parametrize(
    ("verdict", "gain"),
    [("better", 0.1), ("better", 0.2), ("worse", -0.15), ("no worse", 0.0), ("no worse", 0.05), ("same", 0.0)],
)
def test_power_is_that_of_simulated_comparisons(df: float, verdict: Verdict, gain: float) -> None:
    design = replace(DESIGN, df=df)
    assert power_of(design, verdict, gain) == pytest.approx(simulated(design, verdict, gain), abs=0.04)


def test_the_visible_effect_is_shown_four_times_of_five_with_all_that_the_verdict_asks() -> None:
    seen = visible(DESIGN, "better")
    assert power_of(DESIGN, "better", seen) == pytest.approx(POWER, abs=1e-3)
    assert simulated(DESIGN, "better", seen) == pytest.approx(POWER, abs=0.04)
    for verdict in ("no worse", "same"):
        wide = replace(DESIGN, margin=visible(DESIGN, verdict))
        assert simulated(wide, verdict, 0.0) == pytest.approx(POWER, abs=0.04)


def test_a_difference_of_the_margin_is_shown_at_most_half_of_the_time() -> None:
    precise = replace(DESIGN, sd=1e-4)
    assert power_of(precise, "better", DESIGN.margin) == pytest.approx(0.5, abs=1e-6)
    assert resolving_power(precise, "better") == pytest.approx(1.0)


@pytest.mark.parametrize(("df", "sigmas"), [(2, 6.5), (6, 2.7)])
def test_the_figures_that_shaped_the_rules_come_out_again(df: int, sigmas: float) -> None:
    """F3 with 3 seeds and all else with 1; F1, F2 and F3 with 3: what one test at 0.05 sees, in standard deviations."""
    ns = (3, 1) if df == 2 else (3, 3)
    assert visible(Design(1.0, df, *ns, margin=0.0, level=0.05), "better") == pytest.approx(sigmas, rel=0.02)


@pytest.mark.parametrize("verdict", ["better", "no worse", "same"])
def test_the_price_of_knowing_is_the_fewest_seeds_that_give_the_power(verdict: Verdict) -> None:
    design = Design(sd=0.1, df=3, n_a=1, n_b=2, margin=0.08, level=0.025)
    seeds = seeds_for(design, verdict)
    assert seeds is not None
    df = 3 + (seeds - 1) + (seeds - 2)
    enough, fewer = replace(design, n_a=seeds, n_b=seeds, df=df), replace(design, n_a=seeds - 1, n_b=seeds - 1, df=df - 2)
    assert resolving_power(enough, verdict) >= POWER > resolving_power(fewer, verdict)


def test_what_a_thousand_seeds_cannot_show_is_out_of_reach() -> None:
    assert seeds_for(replace(DESIGN, margin=1e-4), "better") is None


# ---------------------------------------------------------------- a study


NOISE = {"val_loss": 0.04, "image_vqa": None}


def condition_of(text: str, study: Study) -> object:
    names = {**{run: run for run in study.runs}, **study.aliases}
    return parse(text, on="val_loss", runs=names, metrics=study.metrics, decisions=())


def lines(*texts: str, learn: str = "", **changes: object) -> tuple[LineSight, ...]:
    bare = studies.study(**changes)
    tree = studies.tree("t", "s", *[(text, condition_of(text, bare), "F1", "") for text in (*texts, "otherwise")])
    learned = [Learn(learn, condition_of(learn, bare), "so")] if learn else []
    sweep = studies.sweep("s", tree, learn=learned)
    study = studies.study(sweep, **changes)
    return lines_of(study, sweep, NOISE, {"F1": "F3"}, lambda _run: 4.5)


def test_every_comparison_of_a_tree_is_judged_at_the_strictest_level_holm_may_ask_for() -> None:
    found = lines(
        "F1 better than F3",
        "any of LR2, LR3 better than LR1",
        "F3 worse than F1",
        "LR4 no worse than F3",
        learn="F1 worse than F3",
    )
    levels = {line.text: [sight.level for sight in line.sights] for line in found}
    assert levels["F1 better than F3"] == levels["F3 worse than F1"] == [pytest.approx(0.05 / 3)]
    assert levels["any of LR2, LR3 better than LR1"] == [pytest.approx(0.05 / 3)] * 2
    assert levels["F1 worse than F3"] == [0.05]


def test_planned_degrees_of_freedom_are_those_of_all_runs_with_two_seeds_and_more() -> None:
    seeds = dict.fromkeys(studies.study().runs, (42,)) | {"F1": (42, 43, 44), "F2": (42, 43)}
    (sight,) = lines("F1 better than its start", seeds=seeds)[0].sights
    assert (sight.b, sight.n_a, sight.n_b, sight.df) == ("F3", 3, 1, 3)
    (alone,) = lines("F1 better than F3")[0].sights
    assert math.isinf(alone.df), "one seed each: the declared noise is taken as known"


def test_a_question_out_of_this_budgets_reach_comes_with_seeds_hours_and_money() -> None:
    found = lines("F1 better than F3")
    (sight,) = found[0].sights
    assert not sight.answerable
    assert sight.visible > sight.margin
    assert [line.text for line in unanswered(found)] == ["F1 better than F3"]
    assert sight.price is not None
    assert sight.price.seeds is not None
    assert sight.price.jobs == 2 * (sight.price.seeds - 1)
    assert sight.price.gpu_hours == pytest.approx(sight.price.jobs * 4.5 * 2)
    assert sight.price.usd == pytest.approx(sight.price.gpu_hours * 0.5)


def test_a_window_is_seen_with_the_seeds_of_one_run() -> None:
    (sight,) = lines("F1 within 0.2 of 1")[0].sights
    assert (sight.verdict, sight.b, sight.n_b, sight.margin) == ("same", "1", 0, 0.2)
    assert sight.answerable


def test_without_any_noise_nothing_can_be_said() -> None:
    (sight,) = lines("F1 better than F3 on image_vqa")[0].sights
    assert math.isnan(sight.visible)
    assert (sight.answerable, sight.price) == (False, None)


@pytest.mark.parametrize("spending", ["obrien-fleming", "pocock"])
@pytest.mark.parametrize("verdict", ["better", "no worse"])
def test_each_declared_look_is_told_at_what_it_may_spend(spending: str, verdict: Verdict) -> None:
    """Against simulated looks: seeds of the first, then of all, judged by the definitions at levels that add up to the whole."""
    seeds = dict.fromkeys(studies.study().runs, (42, 43, 44, 45, 46))
    (sight,) = lines(f"F1 {verdict} than F3", seeds=seeds, looks=(3, 5), spending=spending)[0].sights
    first, last = sight.looks
    runs = sum(likeness(studies.study(), run) == likeness(studies.study(), "F3") for run in seeds)
    assert [(at.n_a, at.n_b, at.df) for at in (first, last)] == [(3, 3, 2 * runs), (5, 5, 4 * runs)]
    assert first.level + last.level == pytest.approx(0.05)
    assert (sight.n_a, sight.level, sight.visible, sight.power) == (5, last.level, last.visible, last.power)
    assert first.visible > last.visible
    random, sd, studied = np.random.default_rng(0), NOISE["val_loss"], 4000
    assert sd is not None
    for at in (first, last):
        gain = at.visible if verdict == "better" else 0.0
        values = random.normal(0.0, sd, (studied, runs, at.n_a))
        difference = gain + values[:, 0].mean(1) - values[:, 1].mean(1)
        error = np.sqrt(values.var(axis=2, ddof=1).mean(1) * 2 / at.n_a)
        if verdict == "better":
            shown = (difference > stats.t.ppf(1 - at.level / 2, at.df) * error) & (difference >= sight.margin)
        else:
            one_sided = level_at(0.1, 1 + (at is last), (3, 5), spending) / 2
            shown = difference - stats.t.ppf(1 - one_sided, at.df) * error > -at.visible
        assert shown.mean() == pytest.approx(0.8, abs=0.02)


def test_a_single_look_is_all_there_is() -> None:
    (sight,) = lines("F1 better than F3")[0].sights
    assert sight.looks == ()


def test_rows_that_wait_for_a_decision_lend_it_no_noise() -> None:
    """D1 starts from what freeze takes, and LR2 to LR4 are skipped by it; mix, which compares D1, has all of them."""
    bare = studies.study()

    def asks(name: str, sweep: str, text: str) -> Tree:
        return studies.tree(name, sweep, (text, condition_of(text, bare), "F1", ""))

    freeze = asks("freeze", "s1", "F1 better than F3")
    lr, mix = asks("lr", "s2", "LR2 better than F3"), asks("mix", "s3", "D1 better than its start")
    skip = Skip("freeze took F1", Took("freeze", "F1"), "")
    sweeps = (studies.sweep("s1", freeze), studies.sweep("s2", lr, skip=skip), studies.sweep("s3", mix))
    of = studies.study(*sweeps, seeds=dict.fromkeys(studies.study().runs, (42, 43)))
    assert later(of, "freeze") == {"LR2", "D1"}
    assert later(of, "lr") == {"D1"}, "studies.py: D1 starts from freeze and lr"
    assert later(of, "mix") == frozenset()
    alike = sum(likeness(of, run) == likeness(of, "F3") for run in of.runs)
    (at_first,) = lines_of(of, sweeps[0], NOISE, {}, lambda _: 1.0)[0].sights
    assert at_first.df == alike - 2


@pytest.mark.parametrize("verdict", ["better", "no worse", "same"])
def test_measured_noise_of_nothing_shows_everything(verdict: Verdict) -> None:
    design = replace(DESIGN, sd=0.0)
    assert resolving_power(design, verdict) == 1.0
    assert visible(design, verdict) == (design.margin if verdict == "better" else 0.0)
    assert power_of(design, "better", 0.0) == 0.0
