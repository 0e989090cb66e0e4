"""What is said of a file that was edited, and of decisions that are old, while a lock holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ablate import evidence
from ablate.answers import launch as launch_answers
from ablate.answers import lock as lock_answers
from ablate.answers import plan as plan_answers
from ablate.answers import status as status_answers
from ablate.desk import Desk, open_desk
from ablate.launching.watch import Options, Outcome
from ablate.runs_toml import read_study
from ablate.screens import launch as launch_screens
from ablate.screens import lock as lock_screens
from ablate.screens import plan as plan_screens
from ablate.screens import status as status_screens
from tests.written_study import STUDY, written_desk

BEFORE, LATER = "2026-11-22T11:00:00Z", "2026-11-22T13:00:00Z"
MARGIN = ("margin = 0.05", "margin = 0.10")
TREE = ('["F3 better than F1",   "F3"', '["F3 better than F1",   "F2"')


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A study that is frozen, ended and locked."""
    monkeypatch.chdir(tmp_path)
    made = written_desk(tmp_path)
    evidence.freeze(made, BEFORE, "")
    return made


def edited(desk: Desk, old: str, new: str) -> Desk:
    text = desk.study.path.read_text()
    assert old in text
    desk.study.path.write_text(text.replace(old, new))
    desk.store.close()
    return open_desk(read_study(desk.study.path))


@pytest.mark.parametrize(("edit", "told"), [(MARGIN, "metrics.val_loss.margin 0.05 → 0.1"), (TREE, "trees.freeze line 2")])
def test_an_edit_of_what_is_frozen_is_told_wherever_the_lock_is_shown_with_what_takes_it_up(
    desk: Desk, edit: tuple[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = edited(desk, *edit)
    end = launch_answers.outcome(desk, Outcome(desk.plan(), desk.store.lock(), (), Options()))
    document = {"plan": plan_answers.plan(desk), "status": status_answers.status(desk), "lock": lock_answers.lock(desk)}
    for notes in (*(one["notes"] for one in document.values()), end["lock"]["notes"]):
        (note,) = [one for one in notes if "has moved" in one]
        assert note.startswith("runs.toml has moved from what the lock was made with: ")
        assert told in note
        assert note.endswith("Only `ablate lock --lift --because '…'` takes it up")
    plan_screens.plan(document["plan"])
    status_screens.status(document["status"])
    lock_screens.lock(document["lock"])
    launch_screens.outcome(end)
    assert " ".join(capsys.readouterr().out.split()).count("runs.toml has moved") == 4


def test_a_file_that_is_as_it_was_locked_or_a_lock_that_was_lifted_has_no_such_note(desk: Desk) -> None:
    assert lock_answers.lock(desk)["notes"] == []
    desk = edited(desk, *MARGIN)
    assert lock_answers.lift(desk, "another margin")["notes"] == []
    assert not any("has moved" in note for note in status_answers.status(desk)["notes"])


def test_an_edit_that_was_taken_up_before_the_lock_is_no_move_and_the_next_one_is_told_alone(desk: Desk) -> None:
    desk = edited(desk, *MARGIN)
    evidence.freeze(desk, BEFORE, "the margin was a guess")
    assert lock_answers.lock(desk)["notes"] == []
    desk = edited(desk, *TREE)
    (note,) = lock_answers.lock(desk)["notes"]
    assert "trees.freeze line 2" in note
    assert "margin" not in note


def test_under_a_lock_the_diff_of_two_files_promises_no_launch_that_takes_the_edit_up(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.toml").write_text(STUDY)
    desk = edited(desk, *MARGIN)
    plan_screens.changes(plan_answers.changes(desk, read_study(tmp_path / "old.toml")))
    assert "not taken up while the study is locked" in " ".join(capsys.readouterr().out.split())
    lock_answers.lift(desk, "another margin")
    plan_screens.changes(plan_answers.changes(desk, read_study(tmp_path / "old.toml")))
    assert "`ablate launch` wants --because" in " ".join(capsys.readouterr().out.split())


def test_status_points_to_the_audit_where_noise_is_known_better_since_what_the_lock_rests_on(desk: Desk) -> None:
    def pointing() -> list[str]:
        return [note for note in status_answers.status(desk)["notes"] if "ablate audit" in note]

    assert pointing() == []
    (last,) = desk.store.attempts()[desk.plan().of_run("A6")[0].key or ""]
    desk.store.save_attempt(replace(last, ended_at=LATER))
    assert pointing() == [], "a run of one seed tells nothing of noise"
    (last,) = desk.store.attempts()[desk.plan().of_run("F2")[0].key or ""]
    desk.store.save_attempt(replace(last, ended_at=LATER))
    (note,) = pointing()
    assert note.startswith("freeze and lr were taken before seeds had ended from which noise is known better now")
