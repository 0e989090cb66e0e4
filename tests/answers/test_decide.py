"""What `decide` answers beside what was recorded: a decision that turned, one that stands, one under a lock."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ablate import evidence
from ablate.answers import decide as decide_answers
from ablate.answers import lock as lock_answers
from ablate.desk import Desk, open_desk
from ablate.runs_toml import read_study
from ablate.screens import decide as decide_screens
from tests.written_study import NOW, written_desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Freeze took F1, no worse than F3; the noise that said so is three times as much now, for F2 lends another."""
    made = written_desk(tmp_path)
    score(made, F1=(1.02, 1.01, 1.03), F3=(1.0, 1.01, 0.99), F2=(1.1, 1.11, 1.09))
    evidence.decide(made, NOW)
    score(made, F2=(1.1, 1.145, 1.055))
    made.store.close()
    return open_desk(read_study(tmp_path / "runs.toml"))


def score(desk: Desk, **runs: tuple[float, ...]) -> None:
    """Make the last values of runs these, by seed."""
    connection = sqlite3.connect(desk.store.path)
    with connection:
        for run, values in runs.items():
            for seed, value in zip((42, 43, 44), values, strict=True):
                statement = "UPDATE points SET value = ? WHERE job LIKE ? AND name = 'val_loss' AND step = 40"
                connection.execute(statement, (value, f"{run}-s{seed}-%"))
    connection.close()


def test_a_decision_of_which_only_the_noise_is_known_otherwise_stands_and_says_what_today_would(desk: Desk) -> None:
    lock_answers.lift(desk, "go on")
    document = decide_answers.decide(desk, ("sweep1",))
    (made,) = document["decisions"]
    assert (made["took"], made["was"], document["turned"]) == ("F1", "", [])
    assert made["today"]["took"] == "F3"
    assert made["today"]["record"].startswith("ablate decide sweep1 --anew")
    assert made["today"]["why"].startswith("noise between seeds is known otherwise: sd 0.0")
    assert desk.store.decisions()["freeze"].took == "F1"


def test_judged_anew_it_turns_and_says_so_first(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    lock_answers.lift(desk, "go on")
    document = decide_answers.decide(desk, ("sweep1",), anew=True)
    (made,) = document["decisions"]
    assert (made["took"], made["was"], made["today"], document["turned"]) == ("F3", "F1", None, ["freeze"])
    decide_screens.decide(document)
    assert "freeze took F3  (decided)  was F1 → now F3" in capsys.readouterr().out
    assert desk.store.decisions()["freeze"].took == "F3"


def test_under_a_lock_what_is_recorded_is_shown_and_nothing_else_headlined(desk: Desk) -> None:
    document = decide_answers.decide(desk, ("sweep1",), anew=True)
    (made,) = document["decisions"]
    assert (made["took"], made["today"]["took"], document["turned"]) == ("F1", "F3", [])
    assert document["note"].endswith("nothing was recorded")
    assert desk.store.decisions()["freeze"].took == "F1"


def test_a_decision_of_which_a_number_is_another_turns_as_it_does_while_launching(desk: Desk) -> None:
    lock_answers.lift(desk, "go on")
    score(desk, F1=(1.3, 1.31, 1.32))
    (made,) = decide_answers.decide(desk, ("sweep1",))["decisions"]
    assert (made["took"], made["was"]) == ("F3", "F1")
    assert made["why"].startswith("F1 − F3 on val_loss is 0.31, was 0.02")
