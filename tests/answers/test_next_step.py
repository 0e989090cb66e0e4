"""What a person is told to type next, where only a person can go on: a decision took `stop`, or two do not go together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ablate.answers.decide import overrule
from ablate.answers.launch import outcome
from ablate.answers.lock import lock
from ablate.answers.plan import plan
from ablate.answers.show import show
from ablate.answers.status import status
from ablate.desk import Desk, open_desk
from ablate.evidence import decide
from ablate.launching.launch import Outcome
from ablate.runs_toml import read_study
from tests.small_study import NOW, STUDY, TRAINER, write

OVERRULE = "ablate decide sweep1 --take '…' --because '…'"
WITH_STOP = STUDY.replace(
    '["F3 better than F1",   "F3", "full unfreeze is justified"]', '["F3 better than F1", "stop", "nothing trains"]'
)


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Freeze took `stop`, everything else has ended: only D1 waits, which starts from what freeze takes."""
    assert WITH_STOP != STUDY
    (tmp_path / "runs.toml").write_text(WITH_STOP)
    (tmp_path / "train.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)
    desk = open_desk(read_study(tmp_path / "runs.toml"))
    write(desk, "F3", "F1", "LR2")
    decide(desk, NOW)
    assert desk.store.decisions()["freeze"].took == "stop"
    return desk


def nexts(desk: Desk) -> dict[str, Any]:
    planned = desk.plan()
    answers = {
        "plan": plan(desk),
        "status": status(desk),
        "show": show(desk, planned.of_run("D1"), "val_loss"),
        "outcome": outcome(desk, Outcome(planned, None, ())),
        "lock": lock(desk),
    }
    return {name: answer["next"] for name, answer in answers.items()}


def test_who_waits_on_a_decision_that_says_stop_is_told_how_to_overrule_it_and_not_to_launch(stopped: Desk) -> None:
    assert set(nexts(stopped).values()) == {OVERRULE}


def test_what_stopped_a_row_is_said_with_what_a_person_may_do(stopped: Desk) -> None:
    for answer in (plan(stopped), status(stopped)):
        note = answer["notes"][0]
        assert note == (
            "D1-s42, D1-s43 and D1-s44 wait for a person: decision freeze (sweep1) took `stop`. "
            f"Launching cannot help; overrule freeze: {OVERRULE}"
        )


@pytest.mark.usefixtures("stopped")
def test_while_something_may_be_trained_or_judged_beside_a_stop_launching_is_next(tmp_path: Path) -> None:
    (tmp_path / "runs.toml").write_text(WITH_STOP.replace("F1  = {", "A1  = { optim.lr = 0.5 }\nF1  = {"))
    assert status(open_desk(read_study(tmp_path / "runs.toml")))["next"] == "ablate launch"
    judged = WITH_STOP.replace(
        "[blocks]",
        '[sweep3]\nasks = "?"\ncompare = ["F3", "LR2"]\non = "val_loss"\n'
        'decide.more = [["LR2 better than F3", "LR2", "a"], ["otherwise", "F3", "b"]]\n\n[blocks]',
    )
    (tmp_path / "runs.toml").write_text(judged)
    found = nexts(open_desk(read_study(tmp_path / "runs.toml")))
    assert found.pop("outcome") == "ablate decide"
    assert set(found.values()) == {"ablate launch"}


@pytest.mark.usefixtures("stopped")
def test_decisions_that_do_not_go_together_wait_for_a_person_too(tmp_path: Path) -> None:
    free = re.sub(r"skip += .*\n", "", STUDY).replace("model.frozen = true }", "model.frozen = true, optim.lr = 0.5 }")
    (tmp_path / "runs.toml").write_text(free.replace("optim.ratio = 100.0", "optim.ratio = 100.0, optim.lr = 0.3"))
    desk = open_desk(read_study(tmp_path / "runs.toml"))
    write(desk, "F1", "LR2")
    overrule(desk, ["sweep1"], "", "F1", "memory")
    overrule(desk, ["sweep2"], "", "LR2", "liked")
    note = status(desk)["notes"][0]
    assert "wait for a person: decisions freeze and lr both set optim.lr: overrule one of them. Launching cannot help" in note
    assert status(desk)["next"] == "ablate decide sweep2 --take '…' --because '…'"
