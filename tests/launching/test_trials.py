"""Searches for real: trials on Ray with a trainer whose best setting is known, through kills, to a row that may be compared."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ablate.answers import lock as lock_answers
from ablate.answers import plan as plan_answers
from ablate.answers import show as show_answers
from ablate.answers import status as status_answers
from ablate.audit import audit
from ablate.cli import app
from ablate.desk import Desk, open_desk
from ablate.launching import trials
from ablate.launching.jobs import Cluster
from ablate.launching.launch import Options, Outcome, launch
from ablate.runs_toml import read_study
from ablate.tables import Tables
from tests.conftest import REPOSITORY, alive, repository_environment, until
from tests.launching.test_launch import Witness
from tests.searched_study import TOML, write

SMALL = (
    TOML.replace("trials = 6", "trials = 4")
    .replace("every = [42, 43, 44]", "every = [42, 43]")
    .replace("steep = { bowl.steep = 2.0, search = { bowl.x = { log = [1, 300] } } }\n", "")
    .replace(', "steep"]', "]")
)
SMALL = SMALL[: SMALL.index("[sweep2]")] + SMALL[SMALL.index("[blocks]") :]


def run(desk: Desk, cluster: Cluster, witness: Witness | None = None, **options: Any) -> Outcome:
    return launch(desk, Options(gpus=4, **options), witness or Witness(), lambda *_: nullcontext(cluster))


def points(desk: Desk, row: str = "tuned") -> dict[int, Any]:
    """Trial -> the value it tried."""
    jobs = desk.store.jobs([f"{row}-trial"]).values()
    return {job.seed - 1000: job.settings["bowl.x"] for job in jobs}


@pytest.fixture(scope="module")
def finished(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Witness, Outcome]:
    """The whole study, undisturbed. Read only."""
    path, witness = write(tmp_path_factory.mktemp("searched"), SMALL), Witness()
    return path, witness, run(open_desk(read_study(path)), cluster, witness)


@pytest.fixture
def desk(finished: tuple[Path, Witness, Outcome]) -> Desk:
    return open_desk(read_study(finished[0]))


def test_the_chosen_point_is_near_the_best_and_trained_anew_at_full_budget_on_fresh_seeds(
    desk: Desk, finished: tuple[Path, Witness, Outcome]
) -> None:
    _, witness, outcome = finished
    assert outcome.exit_code == 0, outcome.waiting_for
    record = desk.store.decisions()["search of tuned"]
    assert 5 < record.sets["bowl.x"] < 180, points(desk)
    assert record.sets["bowl.x"] in points(desk).values()
    jobs = desk.plan().of_run("tuned")
    assert [(job.seed, job.state) for job in jobs] == [(42, "done"), (43, "done")]
    assert all(job.settings == {**desk.study.settings, **record.sets} for job in jobs)
    assert desk.store.decisions()["x"].took == "tuned"
    assert any(text.startswith("search of tuned: took tuned-trial-s100") for text in witness.of("decided"))


def test_no_decision_rests_on_a_trial_and_the_ledger_tells_who_was_tuned(desk: Desk) -> None:
    record = desk.store.decisions()["x"]
    assert {key.split("-s")[0] for key in record.jobs} == {"tuned", "plain"}
    tuning = [check for one in record.comparisons for check in one["fairness"] if check["check"] == "tuning"]
    assert [(check["ok"], check["a"], check["b"]) for check in tuning] == [
        (False, "tuned with 4 trials at bowl.evals = 2", "not tuned")
    ]
    assert all(finding.verdict == "follows" for finding in audit(desk)), audit(desk)


def test_the_lock_rests_on_the_search_and_says_so(desk: Desk) -> None:
    lock = desk.store.lock()
    assert lock is not None
    search = desk.store.decisions()["search of tuned"]
    assert lock.settings["bowl.x"] == search.sets["bowl.x"]
    assert lock.decisions["search of tuned"] == search.number
    assert lock_answers.lock(desk)["searches"] == {"search of tuned": search.because}


def test_a_score_of_a_trial_is_called_selected_wherever_it_is_shown(desk: Desk) -> None:
    plan = plan_answers.plan(desk)
    assert {job["selected"] for job in plan["jobs"] if job["trial"]} == {True}
    assert {one["selected"] for one in status_answers.status(desk)["ended"] if "-trial" in one["run"]} == {True}
    shown = show_answers.show(desk, desk.plan().of_run("tuned"), "val_loss")
    assert shown["search"]["chosen"].startswith("selected, not evidence: trial ")
    assert [one["trial"] for one in shown["search"]["trials"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("command", [["plan"], ["status"], ["show", "tuned"], ["lock"], ["audit"]])
def test_every_screen_that_shows_a_trial_or_its_choice_says_selected(desk: Desk, command: list[str]) -> None:
    drawn = CliRunner().invoke(app, [*command, "--study", str(desk.study.path)])
    assert drawn.exit_code == 0, drawn.exception
    assert ("search of tuned" if command == ["audit"] else "selected") in drawn.stdout


def test_tables_keep_trials_apart_from_what_is_compared(desk: Desk) -> None:
    tables = Tables(desk)
    trials = tables.trials()
    assert list(trials["trial"]) == [1, 2, 3, 4]
    assert set(trials["evidence"]) == {"selected"}
    assert {"tuned-trial"} == set(tables.jobs()[tables.jobs()["selected"]]["run"])
    assert set(tables.comparisons()["for"]) == {"x"}
    assert set(tables.finals("val_loss")["run"]) == set(tables.curve("val_loss")["run"]) == {"plain", "tuned"}


def test_a_score_changed_in_the_database_lets_the_choice_fall(desk: Desk, tmp_path: Path) -> None:
    shutil.copytree(desk.study.path.parent, tmp_path, dirs_exist_ok=True)
    desk = open_desk(read_study(tmp_path / "runs.toml"))
    best = desk.store.decisions()["search of tuned"].took
    with sqlite3.connect(tmp_path / "db" / "ablate.sqlite") as database:
        database.execute("UPDATE points SET value = 9.9 WHERE name = 'val_loss' AND job LIKE ?", [f"{best}-%"])
    database.close()
    (fell,) = [finding for finding in audit(desk) if finding.name == "search of tuned"]
    assert fell.verdict == "fell"
    assert fell.problems[0].startswith(f"it took {best}: selected, not evidence: ")


def test_trials_that_fall_behind_are_stopped_with_their_ranks(cluster: Cluster, tmp_path: Path) -> None:
    """Trials long enough that only being stopped can end them early."""
    slow = SMALL.replace("bowl.evals = 2", "bowl.evals = 12, bowl.pause = 0.25").replace(
        "trials = 4", 'trials = 4\nby = "random"'
    )
    desk, witness = open_desk(read_study(write(tmp_path, slow))), Witness()
    run(desk, cluster, witness, runs=("tuned",))
    states = {job.trial: (job.state, job.reason) for job in desk.plan().jobs if job.run == "tuned-trial"}
    stopped = [number for number, (state, _) in states.items() if state == "stopped"]
    assert stopped, states
    assert all(states[number][1].startswith("stopped by the search: val_loss ") for number in stopped)
    for job in desk.plan().jobs:
        if job.trial in stopped and job.run == "tuned-trial":
            (attempt,) = desk.store.attempts()[job.key or ""]
            assert attempt.state == "interrupted"
            assert len(desk.store.curve(job.key or "", "val_loss")) < 12
            gang = json.loads(desk.folders.gang(job.key or "", 1).read_text())
            assert not any(map(alive, gang["pids"]))
    kept = [number for number, (state, _) in states.items() if state == "done"]
    best = desk.store.decisions()["search of tuned"].sets["bowl.x"]
    assert best in {points(desk)[number] for number in kept}
    assert any(event.text.split()[1] == "stopped" for event in witness.events if event.kind == "ended")


@pytest.mark.slow
def test_a_launch_killed_among_its_trials_goes_on_with_the_same_points(tmp_path: Path) -> None:
    text = SMALL.replace("trials = 4", "trials = 2\nhalving = 0").replace("bowl.evals = 2", "bowl.pause = 0.3")
    text = text.replace("every = [42, 43]", "every = [42]")
    path = write(tmp_path, text)
    command = [sys.executable, "-m", "ablate.cli", "launch", "--study", str(path), "--gpus", "2", "--run", "tuned"]
    environment = repository_environment()
    first = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    begun = lambda: list(tmp_path.glob("outputs/bowls/full/tuned-trial-*/1/gang.json"))  # noqa: E731
    until(lambda: len(begun()) >= 2 or first.poll() is not None, 60)
    pids = [pid for gang in begun() for pid in json.loads(gang.read_text())["pids"]]
    first.kill()
    first.communicate()
    until(lambda: not any(map(alive, pids)), 15)
    before = points(open_desk(read_study(path)))
    assert before
    second = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=240)
    assert second.returncode == 0, second.stderr + second.stdout
    desk = open_desk(read_study(path))
    assert len(desk.store.jobs(["tuned-trial"])) == 2, "no trial was begun twice at two points"
    after = points(desk)
    assert {number: after[number] for number in before} == before
    assert desk.store.decisions()["search of tuned"].sets["bowl.x"] in after.values()
    assert {job.id: job.state for job in desk.plan().jobs if job.run != "plain"} == {
        **dict.fromkeys((f"tuned-trial-s{seed}" for seed in (1001, 1002)), "done"),
        "tuned-s42": "done",
    }


def test_a_point_that_was_drawn_and_not_used_is_drawn_again(desk: Desk) -> None:
    fresh = replace(desk, study=read_study(desk.study.path))
    plan = fresh.plan()
    first = next(job for job in plan.jobs if job.trial == 1)
    drawn = trials.with_point(fresh, plan, replace(first, key=None, settings=None))
    assert drawn == trials.with_point(fresh, plan, replace(first, key=None, settings=None))
    assert drawn.key is not None
