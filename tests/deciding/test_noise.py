"""Noise between seeds: what is pooled, who is left out, and what is lent once."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ablate.deciding.compare import compare
from ablate.deciding.noise import noise_pool
from ablate.deciding.scores import scores
from tests.studies import LOSS, jobs, pool_of


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


def test_a_run_that_is_the_same_whatever_its_seed_lends_no_noise():
    pool = pool_of(LOSS, A=[0.5, 0.5, 0.5], B=[0.4, 0.41, 0.42])
    assert (pool.runs, pool.sd, pool.df) == (("B",), pytest.approx(0.01), 2)
    assert pool.left_out == {"A": "seeds made no difference: all 3 gave 0.5"}


def test_declared_noise_is_used_only_when_nothing_is_measured():
    declared = replace(LOSS, noise=0.03)
    assert pool_of(declared, A=[0.1], B=[0.2]).source == "declared"
    assert pool_of(declared, A=[0.1, 0.2], B=[0.2]).source == "measured"


def copied(run, of):
    """The jobs of another run, as a row has them that came out as the same config and was trained for itself."""
    return [replace(job, run=run, key=job.key.replace(f"{job.run}-s", f"{run}-s")) for job in of]


def test_a_config_that_two_rows_were_trained_as_lends_its_noise_once():
    base, b = jobs("base", [1.0, 1.1, 1.2]), jobs("b", [2.0, 2.01, 2.02])
    again = [replace(job, values={"val_loss": job.values["val_loss"] + 0.01}) for job in copied("keep", base)]
    alone, both = (noise_pool(LOSS, found) for found in ({"base": base, "b": b}, {"base": base, "keep": again, "b": b}))
    assert (both.runs, both.sd, both.df) == (alone.runs, alone.sd, alone.df) == (("base", "b"), pytest.approx(0.0710634), 4)
    assert [job.key for job in again] == [key for key in both.jobs if key not in alone.jobs]
    less = noise_pool(LOSS, {"base": base[:1], "keep": again, "b": b})
    assert (less.runs, less.df) == (("keep", "b"), 3)


def test_a_result_that_never_came_lends_nothing_in_place_of_its_copy():
    base = jobs("base", [1.0, 1.1, "failed"])
    again = copied("keep", jobs("base", [1.0, 1.1, 1.2]))
    assert noise_pool(LOSS, {"base": base, "keep": again}).runs == ("base",)
    assert noise_pool(LOSS, {"base": [replace(job, state="failed", values={}) for job in base], "keep": again}).runs == ("keep",)


@pytest.mark.parametrize("own_jobs", [False, True])
def test_a_row_that_came_out_as_one_whose_spread_stands_out_is_judged_with_its_own_too(own_jobs):
    calm = {f"N{n}": jobs(f"N{n}", [0.5, 0.5 + 0.001 * (n + 1), 0.501]) for n in range(8)}
    wild = jobs("base", [0.1, 0.5, 0.9])
    found = {**calm, "base": wild, "keep": copied("keep", wild) if own_jobs else wild}
    pool = noise_pool(LOSS, found)
    assert pool.own == {"base", "keep"}
    assert pool.left_out["keep"] == pool.left_out["base"]
    one = compare(LOSS, scores(LOSS, "N1", found["N1"]), scores(LOSS, "keep", found["keep"]), pool, 0.05)
    assert one.method == "welch"
