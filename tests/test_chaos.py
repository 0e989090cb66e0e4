"""A short version of benchmarks/chaos.py: a smaller study, killed, frozen and told to end at random, ends like one left alone."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ablate.launching.jobs import Cluster
from ablate.launching.watch import Tick
from benchmarks import chaos
from benchmarks.chaos import EXAMPLE, Chaos, study_text, undisturbed
from tests.conftest import repository_environment
from tests.launching.test_launch import Witness, desk_of, run

SMALL_STUDY = (
    study_text(samples=600)
    .replace("faults.seconds       = 0.7", "faults.seconds       = 0.3")
    .replace("T1  = { chaos.torch = true }\n", "")
    .replace(', "T1"', "")
)
"""Without the torch job, which takes seconds to start."""
FEWER_SEEDS = SMALL_STUDY[: SMALL_STUDY.index("extra = ")] + "extra = {}" + SMALL_STUDY[SMALL_STUDY.index("\n\n[evidence]") :]


@dataclass
class Disturbs(Witness):
    """Six times, as soon as there is somebody to disturb; the launch itself is left alone: it is this process."""

    chaos: Chaos = field(kw_only=True)
    after: float = 0.0

    def tick(self, tick: Tick) -> None:
        super().tick(tick)
        self.chaos.wake()
        self.chaos.look()
        if time.monotonic() > self.after and sum(self.chaos.done.values()) < 6:
            self.after = time.monotonic() + self.chaos.draw.uniform(0.1, 1.5)
            self.chaos.disturb(0)


@pytest.mark.slow
def test_a_block_disturbed_six_times_ends_like_one_left_alone(cluster: Cluster, tmp_path: Path) -> None:
    text = SMALL_STUDY.replace("faults.seconds       = 0.3", "faults.seconds       = 1.5")
    for name in ("calm", "wild"):
        (tmp_path / name).mkdir()
    calm, wild = desk_of(tmp_path / "calm", text), desk_of(tmp_path / "wild", text)
    assert run(calm, cluster, block="1").exit_code == 0
    attack = Chaos(tmp_path / "wild", random.Random(2), None, {}, victims=("supervisor", "rank", "rank"))
    assert run(wild, cluster, Disturbs(chaos=attack), block="1").exit_code == 0
    attack.wake(at_once=True)
    attack.judge(chaos.Picture.of(calm))
    assert attack.found == []
    assert attack.orphans() == []
    assert sum(attack.done.values()) == 6


@pytest.mark.slow
def test_a_study_disturbed_at_random_ends_like_one_left_alone(tmp_path: Path) -> None:
    environment = {**repository_environment(), "OMP_NUM_THREADS": "1"}
    calm = undisturbed(tmp_path / "calm", FEWER_SEEDS, environment)
    assert calm.lock
    (tmp_path / "wild").mkdir()
    (tmp_path / "wild" / "runs.toml").write_text(FEWER_SEEDS)
    wild = Chaos(tmp_path / "wild", random.Random(7), None, environment)
    wild.until_done(events=5)
    wild.judge(calm)
    assert sum(wild.done.values()) > 0
    assert wild.found == []
    assert wild.orphans() == []


def test_a_difference_is_seen_and_named() -> None:
    one = chaos.Picture({"A": "done"}, {"t": ("decided", "A")}, "aa", {"loss": {"A": [(1, 2.0), (2, 1.0)]}})
    other = chaos.Picture({"A": "failed"}, {"t": ("decided", "B")}, "bb", {"loss": {"A": [(1, 2.0)]}})
    assert list(one.differences(one)) == []
    assert list(one.differences(other)) == [
        "states of A: failed instead of done",
        "decisions of t: ('decided', 'B') instead of ('decided', 'A')",
        "lock bb instead of aa",
        "loss of A: 1 points instead of 2, first apart at None",
    ]


def test_the_torch_job_is_part_of_the_long_version() -> None:
    assert "T1  = { chaos.torch = true }" in study_text(1_000)
    assert "T1" not in EXAMPLE
