"""Comparisons against published worked examples, other implementations, and brute force."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_ind

from ablate.compare import (
    PAIRING_LEVEL,
    Pool,
    Scores,
    as_json,
    at_level,
    compare,
    holm_levels,
    noise_pool,
    number_text,
    scores,
    seeds_to_see,
    within,
)
from ablate.fairness import ledger, unfair
from ablate.study import Metric
from tests.studies import LOSS, VQA, jobs, settings_of

HOURS = Metric("hours", "higher", margin=0.5)
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
"""Student (1908), extra hours of sleep; the results below are those of `t.test` in R's manual."""

KNOWN = Pool("val_loss", 0.05, math.inf, "declared")


def of(run, values, metric=LOSS):
    return scores(metric, run, jobs(run, values, metric.name))


def pool_of(metric, **runs):
    return noise_pool(metric, {run: jobs(run, values, metric.name) for run, values in runs.items()})


def test_two_runs_alone_give_students_pooled_test():
    pool = pool_of(HOURS, A=DRUG_1, B=DRUG_2)
    found = compare(HOURS, of("A", DRUG_1, HOURS), of("B", DRUG_2, HOURS), pool, 0.05)
    assert (found.delta, found.df, found.method) == (pytest.approx(-1.58), 18, "pooled")
    assert found.p == pytest.approx(0.07919, abs=5e-6)
    assert (found.low, found.high) == (pytest.approx(-3.363874, abs=1e-6), pytest.approx(0.203874, abs=1e-6))
    assert found.holds == ()


def test_a_run_with_its_own_spread_gets_welchs_test():
    pool = Pool("hours", 1, 4, "measured", (), {"A": "stands out", "B": "stands out"}, frozenset("AB"))
    found = compare(HOURS, of("A", DRUG_1, HOURS), of("B", DRUG_2, HOURS), pool, 0.05)
    assert (found.method, found.df) == ("welch", pytest.approx(17.776, abs=5e-4))
    assert found.p == pytest.approx(0.07939, abs=5e-6)
    assert (found.low, found.high) == (pytest.approx(-3.3654832, abs=1e-7), pytest.approx(0.2054832, abs=1e-7))


def test_a_run_with_its_own_spread_needs_three_seeds():
    pool = Pool("val_loss", 0.05, 4, "measured", (), {"A": "its spread stands out"}, frozenset("A"))
    found = compare(LOSS, of("A", [1.0, 9.0]), of("B", [0.1]), pool, 0.05)
    assert (found.holds, found.reason) == ((), "A needs 3 seeds, has 2: its spread stands out")


def test_runs_are_paired_when_their_correlation_over_seeds_is_shown():
    rng = np.random.default_rng(0)
    seed_effect = rng.normal(0, 1, 8)
    a, b = (list(seed_effect + rng.normal(0, 0.05, 8) + shift) for shift in (0.3, 0))
    found = compare(LOSS, of("A", a), of("B", b), pool_of(LOSS, A=a, B=b), 0.05)
    reference = stats.ttest_rel(a, b)
    assert (found.paired, found.df) == (True, 7)
    assert found.p == pytest.approx(reference.pvalue)
    assert found.correlation == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert found.low == pytest.approx(reference.confidence_interval(0.95).low)


def test_a_high_correlation_over_few_seeds_is_shown_but_does_not_pair():
    found = compare(HOURS, of("A", DRUG_1, HOURS), of("B", DRUG_2, HOURS), pool_of(HOURS, A=DRUG_1, B=DRUG_2), 0.05)
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
        found = compare(LOSS, of("A", a), of("B", b), pool_of(LOSS, A=a, B=b), 0.05)
        if found.paired or found.method != "pooled":
            continue
        p_same, (_, _, _), (_, p_upper, _) = ttost_ind(a, b, -0.08, 0.08)
        assert ("same" in found.holds) == (p_same < 0.05)
        assert ("no worse" in found.holds) == (p_upper < 0.05)  # a loss: worse is above


def test_a_declared_noise_is_treated_as_known():
    found = compare(LOSS, of("A", [0.30]), of("B", [0.50]), KNOWN, 0.05)
    half = stats.norm.ppf(0.975) * 0.05 * math.sqrt(2)
    assert (found.low, found.high) == (pytest.approx(-0.2 - half), pytest.approx(-0.2 + half))
    assert found.holds == ("better", "no worse")
    assert as_json(found)["noise"] == {"sd": 0.05, "df": None, "source": "declared"}


def test_without_any_noise_nothing_holds():
    found = compare(LOSS, of("A", [0.1]), of("B", [0.9]), pool_of(LOSS, A=[0.1], B=[0.9]), 0.05)
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
    assert compare(metric, of("A", [a], metric), of("B", [b], metric), pool, 0.05).holds == holds


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0.01, 2), min_size=1, max_size=4),
    st.lists(st.floats(0.01, 2), min_size=1, max_size=4),
    st.floats(0.001, 0.5),
    st.integers(1, 30),
)
def test_turning_a_comparison_around_mirrors_it(a, b, sd, df):
    pool = Pool("val_loss", sd, df, "measured")
    one, other = compare(LOSS, of("A", a), of("B", b), pool, 0.05), compare(LOSS, of("B", b), of("A", a), pool, 0.05)
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
    found = compare(LOSS, of("A", [0.5] * n_a), of("B", [0.5] * n_b), Pool("val_loss", 1, df, "measured"), 0.05)
    assert found.visible == pytest.approx(sigmas, abs=0.05)


def test_the_visible_effect_is_seen_in_four_of_five_simulations():
    found = compare(LOSS, of("A", [0] * 3), of("B", [0] * 3), Pool("val_loss", 1, 6, "measured"), 0.05)
    rng = np.random.default_rng(1)
    delta = rng.normal(found.visible, math.sqrt(2 / 3), 40_000)
    sd = np.sqrt(rng.chisquare(6, 40_000) / 6)
    assert np.mean(np.abs(delta) / (sd * math.sqrt(2 / 3)) > stats.t.ppf(0.975, 6)) == pytest.approx(0.8, abs=0.008)


def test_the_price_is_the_smallest_number_of_seeds_that_shows_the_effect():
    found = compare(LOSS, of("A", [0.5] * 3), of("B", [0.5] * 3), Pool("val_loss", 0.049, 6, "measured"), 0.05)
    seeds = seeds_to_see(found, 0.08)

    def power(n):
        df, error = 6 + 2 * (n - 3), 0.049 * math.sqrt(2 / n)
        return stats.nct.sf(stats.t.ppf(0.975, df), df, 0.08 / error)

    assert power(seeds) >= 0.8 > power(seeds - 1)
    assert seeds_to_see(found, 1e-5) is None


def test_the_pool_is_the_mean_variance_weighted_by_degrees_of_freedom():
    pool = pool_of(LOSS, A=[0.1, 0.2], B=[0.3, 0.35, 0.5], C=[0.9])
    expected = (np.var([0.1, 0.2], ddof=1) + 2 * np.var([0.3, 0.35, 0.5], ddof=1)) / 3
    assert (pool.sd, pool.df, pool.runs) == (pytest.approx(math.sqrt(expected)), 3, ("A", "B"))


def test_a_run_whose_spread_stands_out_is_left_out_of_the_pool_and_named():
    calm = {"A": [0.10, 0.12, 0.11], "B": [0.20, 0.21, 0.23], "C": [0.15, 0.17, 0.16], "D": [0.3, 0.32, 0.31]}
    pool = pool_of(LOSS, **calm, W=[0.1, 0.5, 0.9])
    others = np.mean([np.var(values, ddof=1) for values in calm.values()])
    p = stats.f.sf(np.var([0.1, 0.5, 0.9], ddof=1) / others, 2, 8)
    assert p < 0.01 / 5
    assert (pool.runs, pool.own, pool.df) == (("A", "B", "C", "D"), {"W"}, 8)
    assert pool.left_out["W"] == f"its spread stands out: sd 0.4 against {math.sqrt(others):.3g} (F test, p = {p:.2g})"


def test_equal_spreads_are_rarely_said_to_stand_out():
    rng = np.random.default_rng(5)
    flagged = 0
    for _ in range(1000):
        results = {run: jobs(run, list(rng.normal(0, 1, 3))) for run in "ABCDE"}
        flagged += bool(noise_pool(LOSS, results).own)
    assert flagged / 1000 <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 1000)


def test_who_is_left_out_of_the_pool_is_told_with_the_reason():
    floor = {"uninformed": {"val_loss": 1.9}, "samples": 9600}
    pool = noise_pool(
        LOSS,
        {
            "ok": jobs("ok", [0.1, 0.2], facts=floor),
            "gone": jobs("gone", ["diverged", "diverged", 0.3], facts=floor),
            "stuck": jobs("stuck", [1.90, 1.85], facts=floor),
            "half": jobs("half", [0.1, 0.2, 1.9], facts=floor),
            "short": jobs("short", [0.1, 0.2], facts={**floor, "samples": 4800}),
            "single": jobs("single", [0.1], facts=floor),
        },
        9600,
    )
    assert pool.runs == ("ok",)
    assert pool.left_out == {
        "gone": "diverged (2 of 3 seeds)",
        "stuck": "did not learn val_loss (2 of 2 seeds)",
        "half": "1 of 3 seeds did not learn",
        "short": "another budget: 4,800 samples, not 9,600",
    }
    assert pool.own == {"half"}


def test_declared_noise_is_used_only_when_nothing_is_measured():
    declared = replace(LOSS, noise=0.03)
    assert pool_of(declared, A=[0.1], B=[0.2]).source == "declared"
    assert pool_of(declared, A=[0.1, 0.2], B=[0.2]).source == "measured"


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        (["diverged", "diverged", 0.1], "diverged"),
        (["diverged", 0.1], None),
        ([1.0, 1.81, 1.92], "did not learn"),  # 5 % below 1.9 is 1.805
        ([1.0, 1.80, 1.92], None),
        ([1.0, 1.9], None),
    ],
)
def test_an_outcome_is_what_more_than_half_of_the_seeds_did(values, outcome):
    assert scores(LOSS, "A", jobs("A", values, facts={"uninformed": {"val_loss": 1.9}})).outcome == outcome


def test_learning_means_being_above_the_floor_where_higher_is_better():
    floor = {"uninformed": {"image_vqa": 0.5}}
    assert scores(VQA, "A", jobs("A", [0.52], "image_vqa", floor)).outcome == "did not learn"
    assert scores(VQA, "A", jobs("A", [0.53], "image_vqa", floor)).outcome is None


def test_nobody_wins_against_a_strawman():
    lost = scores(LOSS, "LR2", jobs("LR2", [1.92, 1.93], facts={"uninformed": {"val_loss": 1.9}}))
    found = compare(LOSS, of("F3", [0.1, 0.1]), lost, KNOWN, 0.05)
    assert (found.holds, found.reason) == ((), "LR2 did not learn val_loss (2 of 2 seeds)")
    gone = scores(LOSS, "LR2", jobs("LR2", ["diverged"]))
    found = compare(LOSS, of("F3", [0.1]), gone, KNOWN, 0.05)
    assert (found.holds, found.reason) == ((), "LR2 diverged (1 of 1 seeds)")
    assert as_json(found)["delta"] is None


def test_a_minority_of_diverged_seeds_is_said_beside_the_difference():
    some = scores(LOSS, "A", jobs("A", ["diverged", 0.1, 0.1]))
    found = compare(LOSS, some, of("B", [0.5]), KNOWN, 0.05)
    assert found.notes == ("1 of 3 seeds of A diverged: the difference is that of the others",)
    assert "better" in found.holds


def test_a_run_that_did_not_measure_the_metric_shows_nothing():
    found = compare(LOSS, Scores("A", "val_loss", 1), of("B", [0.5]), KNOWN, 0.05)
    assert (found.holds, found.reason) == ((), "A has no val_loss")


def test_seeds_without_any_spread_give_an_exact_answer():
    pool = Pool("val_loss", 0.0, 2, "measured")
    found = compare(LOSS, of("A", [0.1, 0.1]), of("B", [0.5, 0.5]), pool, 0.05)
    assert (found.low, found.high, found.p, found.holds) == (-0.4, -0.4, 0, ("better", "no worse"))


@pytest.mark.parametrize(("value", "holds"), [(1.0, ("same",)), (1.015, ()), (0.5, ())])
def test_within_asks_whether_the_interval_lies_around_a_constant(value, holds):
    metric = Metric("loss_ratio", "lower", 0.02, noise=0.005)
    pool = Pool("loss_ratio", 0.005, math.inf, "declared")
    found = within(metric, of("A1", [value], metric), 0.02, 1.0, pool)
    assert (found.holds, found.b, found.margin) == (holds, "1", 0.02)
    assert found.tost_high - found.delta == pytest.approx(stats.norm.ppf(0.95) * 0.005)


def test_the_numbers_read_as_in_the_design_page():
    pool = Pool("val_loss", 0.049, 6, "measured")
    found = compare(LOSS, of("F1", [0.40, 0.44, 0.39]), of("F3", [0.24, 0.23, 0.26]), pool, 0.05)
    half = stats.t.ppf(0.975, 6) * 0.049 * math.sqrt(2 / 3)
    interval = f"[{0.5 / 3 - half:.3g}, {0.5 / 3 + half:.3g}]"
    assert number_text(found) == f"F1 − F3 = +0.167 {interval} nats per token, margin 0.08, n 3/3, sd 0.049 (6 df, measured)"


# ---------------------------------------------------------------- fairness


def checks(a, b, declared=(), **reasons):
    found = ledger(a, b, declared, frozenset(settings_of("F3")) - {"log.every"}, "val_loss", **reasons)
    return {check.name: check for check in found}


FACTS = {"manifest_hash": "m1", "eval_hash": "e1", "samples": 9600, "device": "cpu", "versions": {"torch": "2.11"}}


def test_only_declared_differences_of_settings_are_fair():
    a, b = jobs("F1", [0.1], facts=FACTS), jobs("F3", [0.1], facts=FACTS)
    assert not any(check.unfair for check in checks(a, b, {"model.freeze_dino", "model.freeze_llm"}).values())
    check = checks(a, b, {"model.freeze_dino"})["settings"]
    assert check.unfair
    assert (check.a, check.b) == ("model.freeze_llm = True", "model.freeze_llm = False")


def test_settings_that_cannot_change_a_result_may_differ():
    a, b = jobs("F3", [0.1]), jobs("F3", [0.1], settings={**settings_of("F3"), "log.every": 99})
    assert checks(a, b)["settings"].ok


@pytest.mark.parametrize(
    ("fact", "value", "check", "excuse"),
    [
        ("manifest_hash", "m2", "manifest", "data.mix"),
        ("manifest_hash", "m2", "manifest", "train.flops"),
        ("samples", 4800, "samples", "train.samples"),
        ("eval_hash", "e2", "evaluation", "eval.set"),
    ],
)
def test_a_differing_fact_blocks_unless_it_is_declared(fact, value, check, excuse):
    a, b = jobs("A", [0.1], facts=FACTS), jobs("B", [0.2], facts={**FACTS, fact: value})
    assert checks(a, b)[check].unfair
    found = checks(a, b, {excuse})[check]
    assert (found.ok, found.unfair, found.declared) == (False, False, True)
    blocked = compare(LOSS, of("A", [0.1]), of("B", [0.9]), KNOWN, 0.05, checks=tuple(checks(a, b).values()))
    assert blocked.holds == ()
    assert blocked.reason.startswith(f"not fair: {check} differs: ")


def test_other_code_blocks_and_other_hardware_is_only_shown():
    a = jobs("A", [0.1], facts=FACTS)
    b = jobs("B", [0.1], facts={**FACTS, "device": "H200", "versions": {"torch": "2.12"}}, code_hash="other")
    found = checks(a, b)
    assert found["trainer's code"].unfair
    assert (found["device"].ok, found["versions"].ok) == (False, False)
    assert not found["device"].unfair
    assert not found["versions"].unfair
    assert (found["versions"].a, found["versions"].b) == ("torch 2.11", "torch 2.12")


def test_what_a_trainer_does_not_report_blocks_nothing():
    found = checks(jobs("A", [0.1]), jobs("B", [0.1], facts=FACTS))
    assert {found[name].ok for name in ("manifest", "samples", "evaluation", "device", "versions")} == {None}
    assert not any(check.unfair for check in found.values())


def test_manifests_are_compared_seed_by_seed():
    def per_seed(run, hashes):
        return [replace(job, facts={"manifest_hash": h}) for job, h in zip(jobs(run, [0.1] * len(hashes)), hashes, strict=True)]

    assert checks(per_seed("A", ["m42", "m43"]), per_seed("B", ["m42", "m43"]))["manifest"].ok
    assert checks(per_seed("A", ["m42"]), per_seed("B", ["m42", "m43"]))["manifest"].ok
    found = checks(per_seed("A", ["m42", "m43"]), per_seed("B", ["m42", "x"]))["manifest"]
    assert (found.ok, found.a, found.b) == (False, "m43", "x")


def test_every_plain_value_of_a_comparison_is_json():
    for a, b in itertools.product(([0.1], ["diverged"], [0.1, 0.2]), repeat=2):
        found = compare(LOSS, of("A", a), of("B", b), pool_of(LOSS, A=a, B=b), 0.05)
        json.dumps(as_json(found), allow_nan=False)


@pytest.mark.parametrize(("flops", "ok"), [(1.00e12, True), (1.01e12, True), (1.10e12, False)])
def test_compute_is_equal_within_what_a_last_step_can_make(flops, ok):
    left, right = jobs("F3", [0.1], facts={"flops": 1.00e12}), jobs("B1", [0.1], facts={"flops": flops})
    (check,) = [one for one in ledger(left, right, {"train.flops"}, set()) if one.name == "FLOPs"]
    assert (check.ok, check.declared, check.unfair) == (ok, True, False)
    assert check.a == "1e+12"


def test_the_interval_of_no_worse_says_what_it_covers():
    """At the first of the looks [3, 5] each bound spends 0.0114 of its 0.05."""
    a, b, pool = of("A", [0.5, 0.51]), of("B", [0.5, 0.52]), Pool("val_loss", 0.01, 6, "measured")
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


def stepped(run, *steps):
    return [replace(job, steps={"val_loss": step}) for job, step in zip(jobs(run, [0.1, 0.2, 0.3]), steps, strict=True)]


@pytest.mark.parametrize(
    ("a", "b", "ok", "told"),
    [
        ((300, 300, 300), (300, 300, 300), True, ("300", "300")),
        ((300, 300, 300), (1000, 1000, 1000), False, ("300", "1,000")),
        ((300, 100, 300), (300, 300, 300), False, ("100, 300", "300")),
    ],
)
def test_values_taken_at_different_steps_block_the_verdict(a, b, ok, told):
    check = checks(stepped("A", *a), stepped("B", *b))["last step"]
    assert (check.ok, check.unfair, (check.a, check.b)) == (ok, not ok, told)
    if not ok:
        assert unfair([check]) == f"not fair: last step differs: {told[0]} / {told[1]}"


@pytest.mark.parametrize("setting", ["train.samples", "train.flops", "train.batch_samples"])
def test_a_declared_budget_or_batch_declares_other_steps(setting):
    a, b = stepped("A", 300, 300, 300), stepped("B", 150, 150, 150)
    assert not checks(a, b, {setting})["last step"].unfair
    assert checks(a, b, {"optim.lr"})["last step"].unfair
    assert not checks(a, b, {"optim.lr"}, mix_steps="runs stop when they converge")["last step"].unfair


def test_where_no_steps_are_known_nothing_is_said_of_them():
    assert checks(jobs("A", [0.1]), jobs("B", [0.2]))["last step"].ok is None


def test_a_run_that_is_the_same_whatever_its_seed_blocks_the_verdict():
    a, b = jobs("A", [0.5, 0.5, 0.5]), jobs("B", [0.4, 0.41, 0.42])
    check = checks(a, b)["seeds"]
    assert (check.ok, check.a, check.b) == (False, "all 3 gave 0.5", "they differ")
    assert unfair([check]) == "not fair: the trainer does not use its seed: all 3 gave 0.5"
    assert checks(b, b)["seeds"].ok
    assert "seeds" not in checks(a[:1], b[:1])


def test_a_run_that_is_the_same_whatever_its_seed_lends_no_noise():
    pool = pool_of(LOSS, A=[0.5, 0.5, 0.5], B=[0.4, 0.41, 0.42])
    assert (pool.runs, pool.sd, pool.df) == (("B",), pytest.approx(0.01), 2)
    assert pool.left_out == {"A": "seeds made no difference: all 3 gave 0.5"}


def test_another_metric_or_fact_tells_seeds_apart_where_a_coarse_one_does_not():
    coarse = [replace(job, values={"val_loss": 0.5, "image_vqa": 0.1 * job.seed}) for job in jobs("A", [0.5, 0.5])]
    weighed = [replace(job, facts={"initial_weights_hash": f"w{job.seed}"}) for job in jobs("A", [0.5, 0.5])]
    assert checks(coarse, weighed)["seeds"].ok
