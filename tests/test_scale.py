"""A small version of benchmarks/scale.py: what a launch does per job does not grow with the study."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from ablate.launching import crew
from benchmarks.scale import Measured, Shape, simulate

SHAPE = Shape(layers=2, width=2, seeds=2)
TREES = SHAPE.sweeps


def counted(folder: Path, jobs: int, **cluster: int) -> tuple[Measured, Counter[str]]:
    """A simulated study, and the statements that its database was asked, by their first word."""
    asked: Counter[str] = Counter()

    def count(_: Any, __: Any, statement: str, *___: Any) -> None:
        asked[statement.split()[0]] += 1

    folder.mkdir()
    event.listen(Engine, "before_cursor_execute", count)
    try:
        return simulate(folder, jobs, **cluster, shape=SHAPE), asked
    finally:
        event.remove(Engine, "before_cursor_execute", count)


def test_twice_the_jobs_take_no_more_plans_and_no_more_questions_per_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "POLL_S", 1e9)  # looking around goes by the clock, not by jobs
    small, asked = counted(tmp_path / "small", 40, gpus=20, gang=2)
    large, asked_more = counted(tmp_path / "large", 80, gpus=20, gang=2)
    assert large.jobs == small.jobs + 40
    for one in (small, large):
        assert one.plans == TREES + 2, "one to begin with, one per decision, one for the lock"
        assert one.judged <= 2 * TREES + 6 * TREES, "every tree twice in full; else when one of the runs it rests on has ended"
    for word in ("SELECT", "BEGIN", "INSERT", "UPDATE"):
        more = asked_more[word] - asked[word]
        assert more / 40 <= 1.2 * asked[word] / small.jobs, word


def test_every_place_is_used_on_nodes_of_odd_sizes(tmp_path: Path) -> None:
    one, _ = counted(tmp_path / "study", 40, gpus=20, gang=3)
    assert one.unusable_gpus == 5, "of nodes of 7, 7, 1 and 5: 1, 1, 1 and 2"
    assert one.over_bound < 1.35, "and never more were started than fit: the simulation would have said so"
