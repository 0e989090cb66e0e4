"""What `decide` answers beside what was recorded: a decision that turned, one that stands, one under a lock."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ablate import evidence
from ablate.answers import audit as audit_answers
from ablate.answers import decide as decide_answers
from ablate.answers import launch as launch_answers
from ablate.answers import lock as lock_answers
from ablate.desk import Desk, open_desk
from ablate.launching.watch import Options, Outcome
from ablate.runs_toml import read_study
from ablate.screens import audit as audit_screens
from ablate.screens import decide as decide_screens
from ablate.screens import launch as launch_screens
from ablate.screens import lock as lock_screens
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


def test_the_end_of_a_launch_and_the_lock_say_what_a_decision_that_stands_would_take_today_and_what_to_do(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    end = launch_answers.outcome(desk, Outcome(desk.plan(), desk.store.lock(), (), Options()))
    locked = lock_answers.lock(desk)
    for document in (end, locked):
        (said,) = document["today"]
        assert said.startswith(f"freeze took F1 (F1 no worse than F3), at {NOW}; with all that is known today it would take F3 (")
        assert "because noise between seeds is known otherwise" in said
        assert "ablate lock --lift --because '…'" in said
        assert said.index("lock --lift") < said.index("ablate decide sweep1 --anew")
    launch_screens.outcome(end)
    assert "today    freeze took F1" in capsys.readouterr().out
    lock_screens.lock(locked)
    assert "today    freeze took F1" in capsys.readouterr().out
    assert desk.store.decisions()["freeze"].took == "F1"


def test_unlocked_what_would_be_taken_today_needs_no_lift_and_taken_anew_nothing_is_said(desk: Desk) -> None:
    lock_answers.lift(desk, "go on")
    (said,) = decide_answers.otherwise_today(desk)
    assert "lift" not in said
    decide_answers.decide(desk, ("sweep1",), anew=True)
    assert decide_answers.otherwise_today(desk) == []


def test_under_a_lock_the_audit_names_the_lift_before_what_turns_a_decision(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence.lock(desk, NOW)
    audit_screens.audit(audit_answers.audited(desk))
    out = " ".join(capsys.readouterr().out.split())
    assert out.index("it would take F3") < out.index("ablate lock --lift --because") < out.index("ablate decide sweep1 --anew")
    lock_answers.lift(desk, "go on")
    audit_screens.audit(audit_answers.audited(desk))
    out = " ".join(capsys.readouterr().out.split())
    assert "ablate decide sweep1 --anew" in out
    assert "--lift" not in out
