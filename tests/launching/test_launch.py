"""The launch loop on real Ray (4 logical GPUs), with a trainer without torch: from a row to the lock, and through crashes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from ablate import evidence
from ablate.clock import utc_now
from ablate.deciding.lock import NotYet
from ablate.desk import Desk, open_desk
from ablate.launching.jobs import Cluster
from ablate.launching.launch import Event, Options, Outcome, Tick, launch, train_here
from ablate.runs_toml import read_study
from ablate.study import UserError
from tests.conftest import REPOSITORY, alive, repository_environment, until

QUICK = (REPOSITORY / "examples" / "quick" / "runs.toml").read_text()
SMALL = QUICK.replace("train.samples        = 24_000", "train.samples        = 3_000")
assert SMALL != QUICK


@dataclass
class Witness:
    """A watcher that remembers."""

    events: list[Event] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)

    def event(self, event: Event) -> None:
        self.events.append(event)

    def tick(self, tick: Tick) -> None:
        self.ticks.append(tick)

    def stop_asked(self) -> Literal["", "stop", "kill"]:
        return ""

    def of(self, kind: str) -> list[str]:
        return [event.text for event in self.events if event.kind == kind]


def desk_of(folder: Path, text: str = SMALL) -> Desk:
    (folder / "runs.toml").write_text(text)
    return open_desk(read_study(folder / "runs.toml"))


def run(desk: Desk, cluster: Cluster, witness: Witness | None = None, **options: Any) -> Outcome:
    return launch(desk, Options(gpus=4, **options), witness or Witness(), lambda *_: nullcontext(cluster))


def test_a_trainer_that_is_not_there_is_refused_before_anything_is_frozen(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, SMALL.replace('"examples.quick.train"', '"examples.quick.trian"', 1))

    def connect(*_: Any) -> Any:
        raise AssertionError("nothing may be booked")

    with pytest.raises(UserError, match=r"the trainer 'examples\.quick\.trian' cannot be found"):
        launch(desk, Options(gpus=4), Witness(), connect)
    assert desk.store.frozen() is None


def states(desk: Desk) -> dict[str, str]:
    return {job.id: job.state for job in desk.plan().jobs}


def finals(desk: Desk) -> dict[str, dict[str, float]]:
    return desk.store.final_values(None, {"val_loss": 1})


def decided(desk: Desk) -> dict[str, tuple[str, str]]:
    return {name: (record.status, record.took) for name, record in desk.store.decisions().items()}


@pytest.fixture(scope="module")
def finished(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, Witness, Outcome]:
    """The whole example study, undisturbed. Read only: copy it before changing anything."""
    desk, witness = desk_of(tmp_path_factory.mktemp("finished")), Witness()
    return desk, witness, run(desk, cluster, witness)


def copied(desk: Desk, folder: Path) -> Desk:
    shutil.copytree(desk.study.path.parent, folder, dirs_exist_ok=True)
    return open_desk(read_study(folder / "runs.toml"))


def test_a_run_is_followed_from_its_row_to_the_locked_config(finished: tuple[Desk, Witness, Outcome]) -> None:
    desk, witness, outcome = finished
    assert outcome.exit_code == 0, outcome.waiting_for
    job = next(job for job in desk.plan().jobs if job.id == "A6-s42")
    assert job.state == "done"
    assert job.key is not None
    config = json.loads(desk.folders.config(job.key, 1).read_text())
    assert config["settings"]["model"]["rounded_inputs"] is True
    assert desk.store.jobs()[job.key].settings["model.rounded_inputs"] is True
    attempt = desk.store.attempts()[job.key][0]
    assert attempt.state == "done"
    assert attempt.code_hash
    assert attempt.gpu_s > 0
    written = [json.loads(line) for line in desk.folders.metrics(job.key, 1).read_text().splitlines()]
    curve = desk.store.curve(job.key, "val_loss")
    assert curve == [(line["step"], line["metrics"]["val_loss"]) for line in written if "val_loss" in line["metrics"]]
    assert set(desk.store.decisions()) == {"freeze", "lr", "shown", "mix"}
    lock = desk.store.lock()
    assert lock is not None
    assert lock == outcome.lock
    assert lock.provisional
    assert set(lock.sources.values()) <= {"baseline", "freeze", "lr", "shown", "mix"}
    assert any(event.kind == "locked" for event in witness.events)


def test_every_job_of_an_undisturbed_study_has_one_attempt_and_two_run_at_a_time(finished: tuple[Desk, Witness, Outcome]) -> None:
    desk, witness, _ = finished
    assert {len(tries) for tries in desk.store.attempts().values()} == {1}
    assert max(len(tick.progress) for tick in witness.ticks) == 2


def test_a_finished_study_trains_nothing_when_launched_again(
    finished: tuple[Desk, Witness, Outcome], cluster: Cluster, tmp_path: Path
) -> None:
    desk, witness = copied(finished[0], tmp_path), Witness()
    outcome = run(desk, cluster, witness)
    assert outcome.exit_code == 0
    assert not witness.of("started")
    assert desk.store.attempts() == finished[0].store.attempts()


def test_a_metric_changed_in_the_database_changes_decision_skip_and_lock(
    finished: tuple[Desk, Witness, Outcome], tmp_path: Path
) -> None:
    desk = copied(finished[0], tmp_path)
    assert desk.store.decisions()["freeze"].took == "F3"
    assert states(desk)["LR3-s42"] == "done"
    frozen = [job.key for job in desk.plan().jobs if job.run == "F1"]
    with sqlite3.connect(tmp_path / "db" / "ablate.sqlite") as database:
        for key in frozen:
            database.execute(
                "UPDATE metrics SET value = 0.0001 WHERE name = 'val_loss' AND attempt_id IN "
                "(SELECT a.id FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE j.key = ?)",
                [key],
            )
    database.close()
    answers = evidence.decide(desk, "2026-11-22T12:00:00Z")
    assert answers["sweep1"].decisions[0].took == "F1"
    assert decided(desk)["freeze"] == ("decided", "F1")
    assert decided(desk)["lr"][0] == "skipped"
    plan = desk.plan()
    assert "sweep2" in plan.skipped_sweeps
    assert states(desk)["LR3-s42"] == "done", "what has ended stays ended"
    (d1,) = [job for job in plan.jobs if job.id == "D1-s42"]
    assert (d1.state, d1.stale) == ("waiting", True), "D1 starts from other winners now; training it anew is a person's call"
    assert [job.state for job in replace(desk, redo_stale=True).plan().jobs if job.id == "D1-s42"] == ["ready"]
    assert any(key.startswith("D1-s42") for key in plan.orphans), "the old D1 is kept, and stale"
    assert isinstance(evidence.lock(desk, "2026-11-22T12:00:00Z"), NotYet), "the lock waits for the new D1"


def test_a_launch_killed_in_the_middle_and_called_again_ends_like_an_undisturbed_one(
    finished: tuple[Desk, Witness, Outcome], tmp_path: Path
) -> None:
    (tmp_path / "runs.toml").write_text(SMALL)
    command = [sys.executable, "-m", "ablate.cli", "launch", "--study", str(tmp_path / "runs.toml"), "--gpus", "4"]
    environment = repository_environment()
    first = subprocess.Popen(
        command, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    gangs = lambda: list(tmp_path.glob("outputs/quick-surfaces/full/*/*/gang.json"))  # noqa: E731
    until(lambda: len(gangs()) >= 4 or first.poll() is not None, 60)
    assert first.poll() is None, first.communicate()[1]
    pids = [pid for path in gangs() for pid in json.loads(path.read_text())["pids"]]
    first.kill()
    first.communicate()
    until(lambda: not any(map(alive, pids)), 15)
    second = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    desk = open_desk(read_study(tmp_path / "runs.toml"))
    assert states(desk) == states(finished[0])
    assert decided(desk) == decided(finished[0])
    assert finals(desk) == finals(finished[0])
    held, undisturbed = desk.store.lock(), finished[0].store.lock()
    assert held is not None
    assert undisturbed is not None
    assert held.hash == undisturbed.hash
    ended = [attempt for tries in desk.store.attempts().values() for attempt in tries if attempt.state in ("done", "diverged")]
    assert len(ended) == len(desk.store.attempts()), "every job has exactly one attempt that counts"
    pids = [pid for path in gangs() for pid in json.loads(path.read_text())["pids"]]
    until(lambda: not any(map(alive, pids)), 10)


CRASH = SMALL.replace("faults.crash_at_step = 0 ", "faults.crash_at_step = 120 ")
ONE_BLOCK: dict[str, Any] = {"runs": ("A1", "A6")}


def test_a_job_that_crashes_is_tried_again_from_its_checkpoint(
    cluster: Cluster, tmp_path: Path, finished: tuple[Desk, Witness, Outcome]
) -> None:
    desk = desk_of(tmp_path, CRASH)
    run(desk, cluster, runs=("A6",))
    job = next(job for job in desk.plan().jobs if job.run == "A6")
    first, second = desk.store.attempts()[job.key or ""]
    assert (first.state, second.state) == ("failed", "done")
    assert "rank failed" in first.reason
    assert json.loads(desk.folders.config(job.key or "", 2).read_text())["resume_from"].endswith("1/checkpoints/00000100")
    whole = next(job for job in finished[0].plan().jobs if job.run == "A6")
    assert desk.store.curve(job.key or "", "val_loss") == finished[0].store.curve(whole.key or "", "val_loss")


def test_a_job_that_always_crashes_fails_for_good_and_the_rest_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    text = CRASH.replace("faults.crash_attempts = 1", "faults.crash_attempts = 99").replace(
        "A6  = { model.rounded_inputs = true }",
        "A6  = { model.rounded_inputs = true, faults.crash_at_step = 0, train.batch = 25 }",
    )
    desk = desk_of(tmp_path, text)
    outcome = run(desk, cluster, **ONE_BLOCK)
    assert (states(desk)["A1-s42"], states(desk)["A6-s42"]) == ("failed", "done")
    assert outcome.exit_code == 1
    job = next(job for job in desk.plan().jobs if job.run == "A1")
    assert len(desk.store.attempts()[job.key or ""]) == 3
    assert job.reason.startswith("3 attempts failed, the last one: rank failed")


def test_asked_to_stop_jobs_write_a_checkpoint_and_go_on_the_next_time(
    cluster: Cluster, tmp_path: Path, finished: tuple[Desk, Witness, Outcome]
) -> None:
    desk = desk_of(tmp_path, SMALL.replace("faults.seconds       = 0.0", "faults.seconds       = 3.0"))

    class Slow(Witness):
        def stop_asked(self) -> Literal["", "stop", "kill"]:
            return "stop" if any((item.fraction or 0) > 0.2 for tick in self.ticks for item in tick.progress) else ""

    witness = Slow()
    outcome = run(desk, cluster, witness, runs=("A6",))
    assert outcome.interrupted
    assert outcome.exit_code == 3
    assert states(desk)["A6-s42"] == "interrupted"
    outcome = run(desk, cluster, runs=("A6",))
    job = next(job for job in desk.plan().jobs if job.run == "A6")
    assert job.state == "done"
    first, second = desk.store.attempts()[job.key or ""]
    assert (first.state, first.reason) == ("interrupted", "stopped on request")
    assert json.loads(desk.folders.config(job.key or "", 2).read_text())["resume_from"]
    whole = next(job for job in finished[0].plan().jobs if job.run == "A6")
    assert desk.store.curve(job.key or "", "val_loss") == finished[0].store.curve(whole.key or "", "val_loss")
    assert second.state == "done"


def test_killing_a_supervisor_restarts_only_its_attempt(cluster: Cluster, tmp_path: Path) -> None:
    desk = desk_of(tmp_path, SMALL.replace("faults.seconds       = 0.0", "faults.seconds       = 2.0"))

    class Assassin(Witness):
        victim = 0

        def tick(self, tick: Tick) -> None:
            super().tick(tick)
            placed = {key[0]: place for key, place in cluster.placed().items()}
            if not self.victim and len(placed) == 2:
                self.victim = next(place.supervisor for key, place in placed.items() if key.startswith("A1-"))
                os.kill(self.victim, signal.SIGKILL)

    witness = Assassin()
    run(desk, cluster, witness, runs=("A1", "A6"))
    tries = {key.partition("-")[0]: [attempt.state for attempt in tries] for key, tries in desk.store.attempts().items()}
    assert witness.victim
    assert tries == {"A1": ["lost", "done"], "A6": ["done"]}


def test_a_second_launch_is_told_who_launches(tmp_path: Path, cluster: Cluster) -> None:
    desk = desk_of(tmp_path)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        holder = f"ada@{socket.gethostname()}:{sleeper.pid}"
        assert desk.store.acquire_lease(holder, utc_now(), 60.0)
        with pytest.raises(UserError, match=f"ada@.*:{sleeper.pid} is launching this study since .*status --follow"):
            run(desk, cluster)
    finally:
        os.kill(sleeper.pid, signal.SIGKILL)
        sleeper.wait()
    assert run(desk, cluster, runs=("A1",)).exit_code == 0, "a dead holder's lease is free at once"


def test_gpus_that_can_never_fit_are_refused_before_anything_starts(tmp_path: Path, cluster: Cluster) -> None:
    desk = desk_of(tmp_path, SMALL.replace("gpus_per_run     = 2", "gpus_per_run     = 8"))
    with pytest.raises(UserError, match=r"needs 8 GPUs on one machine; the largest here has 4\. Lower gpus_per_run"):
        run(desk, cluster)
    assert not desk.store.attempts()


def test_a_budget_stops_starting_jobs_and_says_which(tmp_path: Path, cluster: Cluster) -> None:
    desk, witness = desk_of(tmp_path), Witness()
    outcome = run(desk, cluster, witness, max_cost=0.0001, runs=("A1", "A6"))
    assert not desk.store.attempts()
    assert set(outcome.over_budget) == {job.id for job in desk.plan().jobs if job.run in ("A1", "A6")}
    assert "A1-s42 is not started: the study would cost $0.00, above --max-cost 0.0001" in witness.of("budget")[0]
    assert outcome.exit_code == 3


def test_an_edit_of_what_is_frozen_needs_a_reason(
    finished: tuple[Desk, Witness, Outcome], cluster: Cluster, tmp_path: Path
) -> None:
    desk = copied(finished[0], tmp_path)
    desk.store.lift_lock("2026-11-22T12:00:00Z", "to try")
    path = tmp_path / "runs.toml"
    path.write_text(path.read_text().replace("margin = 0.02, noise = 0.004", "margin = 0.01, noise = 0.004"))
    changed = open_desk(read_study(path))
    with pytest.raises(UserError, match=r"metrics\.val_loss\.margin 0\.02 → 0\.01.*--because"):
        run(changed, cluster)
    witness = Witness()
    run(changed, cluster, witness, because="0.02 was a slip")
    assert [deviation.because for deviation in changed.store.deviations()] == ["0.02 was a slip"]
    assert any("metrics.val_loss.margin" in text for text in witness.of("note"))


def test_a_locked_study_refuses_new_work_until_it_is_lifted(
    finished: tuple[Desk, Witness, Outcome], cluster: Cluster, tmp_path: Path
) -> None:
    desk = copied(finished[0], tmp_path)
    path = tmp_path / "runs.toml"
    path.write_text(path.read_text().replace("every = [42]", "every = [42, 45]"))
    changed = open_desk(read_study(path))
    with pytest.raises(UserError, match=r"the study is locked since .*ablate lock --lift"):
        run(changed, cluster)
    assert desk.store.attempts() == changed.store.attempts()


def test_one_job_trains_in_the_foreground_without_ray(tmp_path: Path, finished: tuple[Desk, Witness, Outcome]) -> None:
    desk = desk_of(tmp_path)
    job = next(job for job in desk.plan().jobs if job.id == "F3-s42")
    record = train_here(desk, job, Witness())
    assert record.state == "done"
    whole = next(job for job in finished[0].plan().jobs if job.id == "F3-s42")
    assert desk.store.curve(job.key or "", "val_loss") == finished[0].store.curve(whole.key or "", "val_loss")


def test_only_the_jobs_of_the_block_asked_for_are_started(tmp_path: Path, cluster: Cluster) -> None:
    desk = desk_of(tmp_path)
    outcome = run(desk, cluster, block="3")
    assert [job for job, state in states(desk).items() if state == "done"] == ["A1-s42"]
    assert outcome.exit_code == 0, "all that was asked for has ended"
