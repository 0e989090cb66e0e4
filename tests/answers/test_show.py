"""A run with long curves: what its screen shows is what it would show of every point, from few of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ablate.answers.show import COLUMNS, show
from ablate.desk import Desk, open_desk
from ablate.runs_toml import read_study
from ablate.screens.show import curve_plot
from db.records import Point
from tests.small_study import STUDY, TRAINER, write

STEPS = 8_000


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """F1's jobs have long curves with a spike of one step."""
    (tmp_path / "runs.toml").write_text(STUDY)
    (tmp_path / "train.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)
    made = open_desk(read_study(tmp_path / "runs.toml"))
    write(made, "F1")
    for job in made.plan().of_run("F1"):
        values = {step: 1 + 1000 / (step + 500) + math.sin(step) / 10 for step in range(STEPS)} | {7777: 5.0}
        points = [Point(job.key or "", 1, step, "val_loss", value) for step, value in values.items()]
        made.store.add_points(job.key or "", 1, points, 0)
    return made


def test_what_a_screen_shows_of_a_long_curve_is_what_it_would_show_of_every_point(desk: Desk) -> None:
    jobs = desk.plan().of_run("F1")
    whole, thinned = (show(desk, jobs, "val_loss", whole=whole)["curve"] for whole in (True, False))
    assert all(len(points) == STEPS for points in whole["jobs"].values())
    assert all(len(points) <= 2 * COLUMNS + 4 for points in thinned["jobs"].values())
    drawn = zip(curve_plot(thinned), curve_plot(whole), strict=True)
    assert sum(one != other for one, other in drawn) <= 3, "but for a cell or two of the line up to the spike"
