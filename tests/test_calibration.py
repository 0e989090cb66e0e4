"""The calibration measures what it says: on seeds that are normal, intervals cover as often as they promise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ablate.runs_toml import read_study
from benchmarks import calibration
from tests.conftest import REPOSITORY

METRIC = read_study(REPOSITORY / "runs.toml", "tiny").metrics["val_loss"]


@pytest.fixture
def seeds() -> dict[str, dict[int, float]]:
    """Two runs of 400 seeds each, 1.0 margin apart, sd 0.5 margins, no pairing."""
    draw = np.random.default_rng(7).normal(0, 0.5 * METRIC.margin, (2, 400))
    return {
        run: {100 + i: float(value) + place * METRIC.margin for i, value in enumerate(draw[place])}
        for place, run in enumerate(("F3", "F1"))
    }


@pytest.mark.parametrize("k", [3, 5])
def test_on_normal_seeds_intervals_cover_what_they_should(seeds: dict[str, dict[int, float]], k: int) -> None:
    rng = np.random.default_rng(1)
    null = calibration.null_coverage("F3", seeds, METRIC, k, 600, rng)
    pair = calibration.pair_coverage("F1", "F3", seeds, METRIC, k, 600, rng)
    for found in (null, pair):
        assert abs(found.covered - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / 600)
    assert null.verdicts["better"] + null.verdicts["worse"] <= 0.05
    assert pair.verdicts["better"] == 0


def test_noise_that_is_too_small_is_seen_as_lost_coverage(seeds: dict[str, dict[int, float]]) -> None:
    drifting = {"F3": {seed: value * (1 if seed % 2 else 40) for seed, value in seeds["F3"].items()}}
    found = calibration.null_coverage("F3", drifting, METRIC, 2, 600, np.random.default_rng(1))
    assert found.covered < 0.93


def test_the_noise_of_a_run_has_the_interval_of_its_spread(seeds: dict[str, dict[int, float]]) -> None:
    found = calibration.noise("F3", seeds["F3"])
    assert found.sd == pytest.approx(np.std(list(seeds["F3"].values()), ddof=1))
    half = 1.96 / math.sqrt(2 * 400)  # of many normal seeds, the log of the spread is normal
    assert math.log(found.sd_high / found.sd) == pytest.approx(half, rel=0.05)
    assert math.log(found.sd / found.sd_low) == pytest.approx(half, rel=0.05)


def test_the_numbers_kept_are_whole() -> None:
    kept = calibration.kept()
    assert set(kept) == set(calibration.RUNS)
    assert len({frozenset(seeds) for seeds in kept.values()}) == 1, "every run on the same seeds"


def test_the_study_that_is_trained_asks_for_the_seeds_and_skips_nothing(tmp_path: Path) -> None:
    text = calibration._with_seeds((REPOSITORY / "runs.toml").read_text(), range(100, 103))
    path = tmp_path / "runs.toml"
    path.write_text(text)
    study = read_study(path, "tiny")
    assert all(study.seeds[run] == (42, 100, 101, 102) for run in calibration.RUNS)
    assert study.seeds["F2"] == (42,)
    assert not any(sweep.skip for sweep in study.sweeps.values())
