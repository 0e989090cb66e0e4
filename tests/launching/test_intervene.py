"""A person stops jobs and has failed ones tried again; seen in the database, in the folders and after a rebuild."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.clock import utc_now
from ablate.desk import Desk
from ablate.folders import write_json
from ablate.launching import collect, intervene
from ablate.launching.claim import claim
from ablate.launching.gang import Gang, Stop, run_gang
from ablate.launching.intervene import launch_is_asked_to_stop, retry, stop_all, stop_jobs
from ablate.launching.jobs import Cluster
from ablate.launching.provenance import Provenance
from ablate.planning.plan import PlannedJob
from ablate.planning.states import FAILURE
from ablate.study import UserError
from db.records import AttemptState
from db.store import Store
from tests.launching.test_gang import SAVES_ON_SIGTERM, python
from tests.launching.test_launch import SMALL, Event, Tick, Witness, desk_of, run

NOW = "2026-11-22T12:00:00Z"
SLOW = SMALL.replace("faults.seconds       = 0.0", "faults.seconds       = 4.0")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return desk_of(tmp_path)


def job(desk: Desk, run: str = "A1") -> PlannedJob:
    return next(job for job in desk.plan().jobs if job.id == f"{run}-s42")


def begin(desk: Desk, run: str = "A1") -> Path:
    """An attempt under way, by the database."""
    claimed = claim(desk, job(desk, run), Provenance("c0de", "", False, {}))
    assert claimed is not None
    return claimed[1]


def end(desk: Desk, state: AttemptState, run: str = "A1", **facts: str) -> None:
    begin(desk, run)
    last = desk.store.attempts()[job(desk, run).key or ""][-1]
    ended = collect.end_attempt(desk.store, desk.folders, last, state, "it broke", NOW, 5.0)
    collect.amend_attempt(desk.store, desk.folders, ended, facts)


def test_a_job_with_a_code_error_is_not_tried_again_until_a_person_asks(desk: Desk) -> None:
    end(desk, "failed", **{FAILURE: "code error"})
    assert (job(desk).state, job(desk).reason) == (
        "failed",
        "1 attempt failed, a code error is not tried again (`ablate retry` does), the last one: it broke",
    )
    assert retry(desk, [job(desk)], NOW) == ["A1-s42"]
    assert job(desk).state == "ready"
    assert job(desk).reason.startswith("tried again as ")
    end(desk, "failed", **{FAILURE: "code error"})
    assert job(desk).state == "failed", "forgiven once is not forgiven for ever"


def test_what_a_person_asked_survives_a_rebuild_of_the_database(desk: Desk, tmp_path: Path) -> None:
    for _ in range(3):
        end(desk, "failed", **{FAILURE: "crash"})
    assert job(desk).state == "failed"
    retry(desk, [job(desk)], NOW)
    fresh = Desk(desk.study, Store.open(tmp_path / "fresh.sqlite", desk.study.name, desk.study.profile), desk.folders)
    collect.collect(fresh.store, fresh.folders)
    assert job(fresh).state == "ready"
    assert fresh.store.attempts() == desk.store.attempts()


def test_out_of_memory_is_tried_once_more(desk: Desk) -> None:
    end(desk, "failed", **{FAILURE: "out of memory"})
    assert (job(desk).state, job(desk).reason) == ("ready", "attempt 1 failed (out of memory): it broke; 1 try left")
    end(desk, "failed", **{FAILURE: "out of memory"})
    assert job(desk).reason == (
        "2 attempts failed, out of memory twice is not tried again (`ablate retry` does), the last one: it broke"
    )


def test_only_what_runs_can_be_stopped_and_only_what_failed_be_retried(desk: Desk) -> None:
    with pytest.raises(UserError, match="nothing to stop: A1-s42 is ready"):
        stop_jobs(desk, [job(desk)], NOW)
    with pytest.raises(UserError, match="nothing to stop: no job runs and nobody is launching"):
        stop_all(desk, NOW)
    with pytest.raises(UserError, match="nothing to try again: A1-s42 is ready"):
        retry(desk, [job(desk)], NOW)
    end(desk, "done")
    with pytest.raises(UserError, match="nothing to try again: A1-s42 is done"):
        retry(desk, [job(desk)], NOW)


def test_a_wish_to_stop_is_meant_for_the_launch_that_ran_then(desk: Desk) -> None:
    lease = desk.store.acquire_lease("ada@here:1", NOW, 60.0)
    assert not launch_is_asked_to_stop(desk.folders, lease)
    assert stop_all(desk, NOW) == ([], "ada@here:1")
    assert launch_is_asked_to_stop(desk.folders, lease)
    desk.store.release_lease("ada@here:1")
    later = desk.store.acquire_lease("ada@here:1", "2026-11-22T13:00:00Z", 60.0)
    assert not launch_is_asked_to_stop(desk.folders, later)


def test_stopping_everything_does_not_undo_that_a_job_was_stopped_for_good(desk: Desk) -> None:
    folder = begin(desk)
    stop_jobs(desk, [job(desk)], NOW)
    assert stop_all(desk, NOW) == (["A1-s42"], "")
    assert intervene.held_by(folder)


def test_a_gang_stops_when_its_folder_says_so(desk: Desk) -> None:
    folder = begin(desk)
    asked: list[str] = []
    gang = Gang(folder, python(SAVES_ON_SIGTERM), cwd=str(folder))
    ended = run_gang(gang, Stop(), lambda: asked.extend(stop_jobs(desk, [job(desk)], NOW)))
    assert (ended.cause, len(ended.exit_codes), asked) == ("stopped", 1, ["A1-s42"])
    assert intervene.held_by(folder)


def test_a_gang_that_is_stopped_before_its_ranks_start_starts_none(desk: Desk) -> None:
    folder = begin(desk)
    assert stop_jobs(desk, [job(desk)], NOW) == ["A1-s42"]
    ended = run_gang(Gang(folder, python("open('ran', 'w')"), cwd=str(folder)), Stop())
    assert (ended.cause, ended.exit_codes) == ("stopped", ())
    assert not (folder / "ran").exists()
    assert not (folder / "rank0.log").exists()


def test_a_job_that_fails_while_it_is_stopped_stays_stopped(desk: Desk, cluster: Cluster) -> None:
    folder = begin(desk)
    stop_jobs(desk, [job(desk)], NOW)
    (folder / "rank0.log").write_text("Killed\n")
    write_json(folder / "gang.json", {"cause": "rank failed", "exit_codes": [-9], "log_tail": "Killed"})
    run(desk, cluster, runs=("A1",))
    assert [attempt.state for attempt in desk.store.attempts()[job(desk).key or ""]] == ["failed"]
    assert job(desk).state == "waiting"
    assert "`ablate retry` lets it go on" in job(desk).reason
    retry(desk, [job(desk)], NOW)
    assert job(desk).state == "ready"


def test_an_attempt_that_was_given_up_dies_when_it_wakes_and_writes_in_vain(desk: Desk) -> None:
    folder = begin(desk)
    key = folder.parent.name
    line = '{"attempt": 1, "step": %d, "metrics": {"loss": 1.0}}\n'
    (folder / "metrics.jsonl").write_text(line % 1)
    gang = Gang(folder, python(SAVES_ON_SIGTERM), cwd=str(folder))
    ended = run_gang(gang, Stop(), lambda: collect.fence(folder, NOW, len(line % 1)))
    assert ended.cause == "killed"
    with (folder / "metrics.jsonl").open("a") as late:
        late.write(line % 2)
    collect.collect(desk.store, desk.folders)
    assert desk.store.curve(key, "loss") == [(1, 1.0)]
    assert not intervene.held_by(folder)


def test_a_job_stopped_by_name_stays_stopped_while_the_others_go_on(cluster: Cluster, tmp_path: Path) -> None:
    desk = desk_of(tmp_path, SLOW)

    class Stops(Witness):
        asked = False

        def tick(self, tick: Tick) -> None:
            super().tick(tick)
            if not self.asked and any(item.job == "A1-s42" and (item.fraction or 0) > 0.1 for item in tick.progress):
                self.asked = bool(stop_jobs(desk, [job(desk)], utc_now()))

    outcome = run(desk, cluster, Stops(), runs=("A1", "F3@42"))
    assert job(desk, "F3").state == "done"
    assert job(desk).state == "waiting"
    assert "`ablate retry` lets it go on from its last checkpoint" in job(desk).reason
    assert outcome.exit_code == 3
    retry(desk, [job(desk)], utc_now())
    assert run(desk, cluster, runs=("A1",)).exit_code == 0
    assert [attempt.state for attempt in desk.store.attempts()[job(desk).key or ""]] == ["interrupted", "done"]


def test_a_launch_that_is_asked_to_end_stops_its_jobs_and_the_next_one_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    desk = desk_of(tmp_path, SLOW)

    class Ends(Witness):
        asked = False

        def tick(self, tick: Tick) -> None:
            super().tick(tick)
            if not self.asked and any((item.fraction or 0) > 0.1 for item in tick.progress):
                self.asked = bool(stop_all(desk, utc_now()))

    outcome = run(desk, cluster, Ends(), runs=("A1",))
    assert outcome.interrupted
    assert job(desk).state == "interrupted"
    assert run(desk, cluster, runs=("A1",)).exit_code == 0


def test_a_launch_that_is_asked_to_end_before_it_starts_anything_starts_nothing(cluster: Cluster, tmp_path: Path) -> None:
    desk = desk_of(tmp_path)

    class Ends(Witness):
        def event(self, event: Event) -> None:
            super().event(event)
            if event.kind == "cluster":
                stop_all(desk, utc_now())

    assert run(desk, cluster, Ends()).interrupted
    assert desk.store.attempts() == {}


def test_a_launch_that_is_asked_to_end_among_its_starts_starts_no_more(cluster: Cluster, tmp_path: Path) -> None:
    desk = desk_of(tmp_path)

    class Ends(Witness):
        def event(self, event: Event) -> None:
            super().event(event)
            if event.kind == "started" and len(self.of("started")) == 1:
                stop_all(desk, utc_now())

    witness = Ends()
    assert run(desk, cluster, witness).interrupted
    assert len(witness.of("started")) == 1
