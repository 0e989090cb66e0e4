"""Comparisons against published worked examples, other implementations, and brute force."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_ind

from ablate.deciding.compare import PAIRING_LEVEL, at_level, compare, holm_levels, within
from ablate.deciding.comparison import as_json, number_text
from ablate.deciding.noise import Pool, noise_pool
from ablate.deciding.scores import Scores, scores
from ablate.study import Metric
from tests.studies import KNOWN, LOSS, VQA, jobs, pool_of, scores_of

HOURS = Metric("hours", "higher", margin=0.5)
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
"""Student (1908), extra hours of sleep; the results below are those of `t.test` in R's manual."""


def test_two_runs_alone_give_students_pooled_test():
    pool = pool_of(HOURS, A=DRUG_1, B=DRUG_2)
    found = compare(HOURS, scores_of("A", DRUG_1, HOURS), scores_of("B", DRUG_2, HOURS), pool, 0.05)
    assert (found.delta, found.df, found.method) == (pytest.approx(-1.58), 18, "pooled")
    assert found.p == pytest.approx(0.07919, abs=5e-6)
    assert (found.low, found.high) == (pytest.approx(-3.363874, abs=1e-6), pytest.approx(0.203874, abs=1e-6))
    assert found.holds == ()


def test_a_run_with_its_own_spread_gets_welchs_test():
    pool = Pool("hours", 1, 4, "measured", (), {"A": "stands out", "B": "stands out"}, frozenset("AB"))
    found = compare(HOURS, scores_of("A", DRUG_1, HOURS), scores_of("B", DRUG_2, HOURS), pool, 0.05)
    assert (found.method, found.df) == ("welch", pytest.approx(17.776, abs=5e-4))
    assert found.p == pytest.approx(0.07939, abs=5e-6)
    assert (found.low, found.high) == (pytest.approx(-3.3654832, abs=1e-7), pytest.approx(0.2054832, abs=1e-7))


def test_a_run_with_its_own_spread_needs_three_seeds():
    pool = Pool("val_loss", 0.05, 4, "measured", (), {"A": "its spread stands out"}, frozenset("A"))
    found = compare(LOSS, scores_of("A", [1.0, 9.0]), scores_of("B", [0.1]), pool, 0.05)
    assert (found.holds, found.reason) == ((), "A needs 3 seeds, has 2: its spread stands out")


def test_runs_are_paired_when_their_correlation_over_seeds_is_shown():
    rng = np.random.default_rng(0)
    seed_effect = rng.normal(0, 1, 8)
    a, b = (list(seed_effect + rng.normal(0, 0.05, 8) + shift) for shift in (0.3, 0))
    found = compare(LOSS, scores_of("A", a), scores_of("B", b), pool_of(LOSS, A=a, B=b), 0.05)
    reference = stats.ttest_rel(a, b)
    assert (found.paired, found.df) == (True, 7)
    assert found.p == pytest.approx(reference.pvalue)
    assert found.correlation == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert found.low == pytest.approx(reference.confidence_interval(0.95).low)


def test_a_high_correlation_over_few_seeds_is_shown_but_does_not_pair():
    found = compare(HOURS, scores_of("A", DRUG_1, HOURS), scores_of("B", DRUG_2, HOURS), pool_of(HOURS, A=DRUG_1, B=DRUG_2), 0.05)
    assert found.correlation == pytest.approx(0.7951702, abs=1e-7)
    assert not found.paired


@pytest.mark.parametrize("n", [3, 5, 10])
def test_seeds_that_mean_nothing_pair_about_once_in_a_thousand(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(2, 100_000, n))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    r = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
    t = r * np.sqrt((n - 2) / (1 - r**2))
    assert np.mean(stats.t.sf(t, n - 2) < PAIRING_LEVEL) == pytest.approx(PAIRING_LEVEL, abs=4e-4)


def test_no_worse_and_same_agree_with_statsmodels_tost():
    rng = np.random.default_rng(3)
    for _ in range(50):
        a, b = list(rng.normal(1.0, 0.05, 4)), list(rng.normal(1.03, 0.05, 3))
        found = compare(LOSS, scores_of("A", a), scores_of("B", b), pool_of(LOSS, A=a, B=b), 0.05)
        if found.paired or found.method != "pooled":
            continue
        p_same, (_, _, _), (_, p_upper, _) = ttost_ind(a, b, -0.08, 0.08)
        assert ("same" in found.holds) == (p_same < 0.05)
        assert ("no worse" in found.holds) == (p_upper < 0.05)  # a loss: worse is above


def test_a_declared_noise_is_treated_as_known():
    found = compare(LOSS, scores_of("A", [0.30]), scores_of("B", [0.50]), KNOWN, 0.05)
    half = stats.norm.ppf(0.975) * 0.05 * math.sqrt(2)
    assert (found.low, found.high) == (pytest.approx(-0.2 - half), pytest.approx(-0.2 + half))
    assert found.holds == ("better", "no worse")
    assert as_json(found)["noise"] == {"sd": 0.05, "df": None, "source": "declared"}


def test_without_any_noise_nothing_holds():
    found = compare(LOSS, scores_of("A", [0.1]), scores_of("B", [0.9]), pool_of(LOSS, A=[0.1], B=[0.9]), 0.05)
    assert found.holds == ()
    assert found.reason == "the noise of val_loss is not known: no run has two seeds, none is declared"
    assert as_json(found)["low"] is None


@pytest.mark.parametrize(
    ("metric", "a", "b", "sd", "holds"),
    [
        (LOSS, 0.10, 0.30, 0.01, ("better", "no worse")),
        (LOSS, 0.30, 0.10, 0.01, ("worse",)),
        (LOSS, 0.10, 0.15, 0.01, ("no worse", "same")),  # the interval leaves out 0, the margin is not reached
        (LOSS, 0.15, 0.10, 0.01, ("no worse", "same")),
        (LOSS, 0.20, 0.20, 0.01, ("no worse", "same")),
        (LOSS, 0.10, 0.20, 0.06, ("no worse",)),
        (LOSS, 0.20, 0.10, 0.06, ()),
        (LOSS, 0.20, 0.20, 0.50, ()),
        (VQA, 0.90, 0.80, 0.01, ("better", "no worse")),
        (VQA, 0.80, 0.90, 0.01, ("worse",)),
        (VQA, 0.90, 0.89, 0.002, ("no worse", "same")),
    ],
)
def test_verdicts_follow_the_metrics_direction_and_margin(metric, a, b, sd, holds):
    pool = Pool(metric.name, sd, math.inf, "declared")
    assert compare(metric, scores_of("A", [a], metric), scores_of("B", [b], metric), pool, 0.05).holds == holds


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0.01, 2), min_size=1, max_size=4),
    st.lists(st.floats(0.01, 2), min_size=1, max_size=4),
    st.floats(0.001, 0.5),
    st.integers(1, 30),
)
def test_turning_a_comparison_around_mirrors_it(a, b, sd, df):
    pool = Pool("val_loss", sd, df, "measured")
    one, other = (
        compare(LOSS, scores_of("A", a), scores_of("B", b), pool, 0.05),
        compare(LOSS, scores_of("B", b), scores_of("A", a), pool, 0.05),
    )
    assert one.delta == pytest.approx(-other.delta)
    assert ("better" in one.holds, "worse" in one.holds, "same" in one.holds) == (
        "worse" in other.holds,
        "better" in other.holds,
        "same" in other.holds,
    )
    assert not {"better", "worse"} <= set(one.holds)
    assert "same" not in one.holds or "no worse" in one.holds
    assert at_level(one, 0.05) == one or math.isnan(one.correlation)


def test_holms_worked_example():
    """The example of the article on Holm's method in Wikipedia: H4 and H1 are rejected, H3 and H2 are not."""
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm_levels(p, 0.05) == [pytest.approx(level) for level in (0.05 / 3, 0.025, 0.025, 0.0125)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_is_the_closed_test_of_bonferroni(p, alpha):
    """Brute force: a hypothesis is rejected when every set of hypotheses with it in has a p below alpha / its size."""
    levels = holm_levels(p, alpha)
    places = range(len(p))
    sets = [chosen for size in range(1, len(p) + 1) for chosen in itertools.combinations(places, size)]
    rejected = {chosen: min(p[place] for place in chosen) < alpha / len(chosen) for chosen in sets}
    assert [p[place] < levels[place] for place in places] == [
        all(rejected[chosen] for chosen in sets if place in chosen) for place in places
    ]


def test_holm_rejects_what_statsmodels_rejects():
    p = [0.001, 0.012, 0.04, 0.013, 0.8]
    rejected = multipletests(p, 0.05, method="holm")[0]
    assert [value < level for value, level in zip(p, holm_levels(p, 0.05), strict=True)] == list(rejected)


@pytest.mark.parametrize(("n_a", "n_b", "df", "sigmas"), [(1, 3, 2, 6.5), (3, 3, 6, 2.7), (3, 3, 24, 2.4)])
def test_the_visible_effect_is_the_one_of_the_design_page(n_a, n_b, df, sigmas):
    found = compare(LOSS, scores_of("A", [0.5] * n_a), scores_of("B", [0.5] * n_b), Pool("val_loss", 1, df, "measured"), 0.05)
    assert found.visible == pytest.approx(sigmas, abs=0.05)


def test_the_visible_effect_is_seen_in_four_of_five_simulations():
    found = compare(LOSS, scores_of("A", [0] * 3), scores_of("B", [0] * 3), Pool("val_loss", 1, 6, "measured"), 0.05)
    rng = np.random.default_rng(1)
    delta = rng.normal(found.visible, math.sqrt(2 / 3), 40_000)
    sd = np.sqrt(rng.chisquare(6, 40_000) / 6)
    assert np.mean(np.abs(delta) / (sd * math.sqrt(2 / 3)) > stats.t.ppf(0.975, 6)) == pytest.approx(0.8, abs=0.008)


def test_nobody_wins_against_a_strawman():
    lost = scores(LOSS, "LR2", jobs("LR2", [1.92, 1.93], facts={"uninformed": {"val_loss": 1.9}}))
    found = compare(LOSS, scores_of("F3", [0.1, 0.1]), lost, KNOWN, 0.05)
    assert (found.holds, found.reason) == ((), "LR2 did not learn val_loss (2 of 2 seeds)")
    gone = scores(LOSS, "LR2", jobs("LR2", ["diverged"]))
    found = compare(LOSS, scores_of("F3", [0.1]), gone, KNOWN, 0.05)
    assert (found.holds, found.reason) == ((), "LR2 diverged (1 of 1 seeds)")
    assert as_json(found)["delta"] is None


def test_a_minority_of_diverged_seeds_is_said_beside_the_difference():
    some = scores(LOSS, "A", jobs("A", ["diverged", 0.1, 0.1]))
    found = compare(LOSS, some, scores_of("B", [0.5]), KNOWN, 0.05)
    assert found.notes == ("1 of 3 seeds of A diverged: the difference is that of the others",)
    assert "better" in found.holds


def test_a_run_that_did_not_measure_the_metric_shows_nothing():
    found = compare(LOSS, Scores("A", "val_loss", 1), scores_of("B", [0.5]), KNOWN, 0.05)
    assert (found.holds, found.reason) == ((), "A has no val_loss")


def test_seeds_without_any_spread_give_an_exact_answer():
    pool = Pool("val_loss", 0.0, 2, "measured")
    found = compare(LOSS, scores_of("A", [0.1, 0.1]), scores_of("B", [0.5, 0.5]), pool, 0.05)
    assert (found.low, found.high, found.p, found.holds) == (-0.4, -0.4, 0, ("better", "no worse"))


@pytest.mark.parametrize(("value", "holds"), [(1.0, ("same",)), (1.015, ()), (0.5, ())])
def test_within_asks_whether_the_interval_lies_around_a_constant(value, holds):
    metric = Metric("loss_ratio", "lower", 0.02, noise=0.005)
    pool = Pool("loss_ratio", 0.005, math.inf, "declared")
    found = within(metric, scores_of("A1", [value], metric), 0.02, 1.0, pool)
    assert (found.holds, found.b, found.margin) == (holds, "1", 0.02)
    assert found.tost_high - found.delta == pytest.approx(stats.norm.ppf(0.95) * 0.005)


def test_the_numbers_read_as_in_the_design_page():
    pool = Pool("val_loss", 0.049, 6, "measured")
    found = compare(LOSS, scores_of("F1", [0.40, 0.44, 0.39]), scores_of("F3", [0.24, 0.23, 0.26]), pool, 0.05)
    half = stats.t.ppf(0.975, 6) * 0.049 * math.sqrt(2 / 3)
    interval = f"[{0.5 / 3 - half:.3g}, {0.5 / 3 + half:.3g}]"
    assert number_text(found) == f"F1 − F3 = +0.167 {interval} nats per token, margin 0.08, n 3/3, sd 0.049 (6 df, measured)"


def test_every_plain_value_of_a_comparison_is_json():
    for a, b in itertools.product(([0.1], ["diverged"], [0.1, 0.2]), repeat=2):
        found = compare(LOSS, scores_of("A", a), scores_of("B", b), pool_of(LOSS, A=a, B=b), 0.05)
        json.dumps(as_json(found), allow_nan=False)


def test_the_interval_of_no_worse_says_what_it_covers():
    """At the first of the looks [3, 5] each bound spends 0.0114 of its 0.05."""
    a, b, pool = scores_of("A", [0.5, 0.51]), scores_of("B", [0.5, 0.52]), Pool("val_loss", 0.01, 6, "measured")
    assert " (90 %) " in number_text(compare(LOSS, a, b, pool, 0.05))
    assert " (97.7 %) " in number_text(compare(LOSS, a, b, pool, 0.05, 0.0114))


def test_a_comparison_says_how_many_seeds_of_each_run_diverged_and_what_its_noise_was_looked_for_in():
    found = {"F3": jobs("F3", [0.5, 0.52, 0.51]), "F1": jobs("F1", [0.4, "diverged", 0.41])}
    pool = noise_pool(LOSS, found)
    one = compare(LOSS, scores(LOSS, "F1", found["F1"]), scores(LOSS, "F3", found["F3"]), pool, 0.05)
    assert one.diverged == ((1, 3), (0, 3))
    told = as_json(one)
    assert told["diverged"] == [[1, 3], [0, 3]]
    assert len(told["pool"]["jobs"]) == 6
    assert told["pool"]["runs"] == ["F3", "F1"]
