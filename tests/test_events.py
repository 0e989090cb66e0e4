"""Every event that design pages promise to survive, and the test that tries it. Here: those that need a cluster of their own.

a rank raises
    a_rank_that_fails_ends_the_gang_within_a_second_and_its_log_is_quoted, a_job_that_crashes_is_tried_again_from_its_checkpoint,
    a_job_that_always_crashes_fails_for_good_and_the_rest_goes_on
a rank is killed
    a_rank_that_is_killed_ends_the_gang_within_a_second, a_killed_rank_ends_its_gang_within_a_second_and_no_other
divergence
    a_job_that_diverges_is_a_result_and_is_never_tried_again
supervisor killed
    no_rank_survives_a_killed_supervisor_and_its_gpus_are_free_again, killing_a_supervisor_restarts_only_its_attempt,
    no_rank_outlives_an_owner_that_is_killed_even_with_its_keeper
supervisor gets SIGTERM (preemption)
    a_supervisor_that_gets_sigterm_saves_first_and_its_job_goes_on
launch killed -9, embedded Ray
    nothing_is_left_of_embedded_ray_when_its_launch_is_killed,
    a_launch_killed_in_the_middle_and_called_again_ends_like_an_undisturbed_one
launch killed -9, --address
    on_a_cluster_a_killed_launch_is_taken_up_again_and_no_metric_is_lost
Ctrl-C, embedded
    asked_to_stop_jobs_write_a_checkpoint_and_go_on_the_next_time
a terminal is closed, or `timeout` ends a launch: the whole process group is signalled
    a_signal_to_the_whole_group_lets_the_jobs_save_first
Ctrl-C on a cluster, once and twice
    ctrl_c_leaves_the_jobs_on_a_cluster_alone_and_twice_stops_them
node lost
    a_job_whose_node_dies_goes_on_elsewhere_from_its_checkpoint
node frozen (slow)
    a_frozen_node_is_given_up_and_cannot_spoil_anything_when_it_wakes
two launches on one database
    a_second_launch_is_told_who_launches, a_launch_that_lost_its_lease_ends_what_it_runs
GPUs that can never fit
    gpus_that_can_never_fit_are_refused_before_anything_starts
cluster with a token
    a_missing_token_is_explained, a_cluster_that_wants_another_token_says_which_variables_to_set
three witnesses disagree
    test_collect.py, the table of settle
disk full or failing: files of the launch, transactions, files of the supervisor, files of the trainer
    whichever_file_cannot_be_written_the_next_launch_ends_like_an_undisturbed_one,
    whichever_transaction_fails_the_next_launch_ends_like_an_undisturbed_one,
    whichever_write_of_a_supervisor_fails_the_gang_ends_and_is_told,
    whichever_write_of_a_run_fails_the_next_attempt_ends_like_an_undisturbed_one, the_disk_is_told_in_one_line_whoever_noticed
torn last line
    a_torn_last_line_is_left_for_the_next_reading
database locked, read-only, damaged, deleted, on a network file system
    a_locked_database_says_so, a_read_only_database_says_so, a_read_only_database_says_so_to_another_user,
    a_damaged_database_says_so, a_database_that_was_deleted_is_made_again_from_the_folders, a_network_disk_is_recognised
clock stepped by a day
    a_clock_that_is_set_by_a_day_between_two_launches_changes_nothing
a GPU's memory is held by a process that died, or by somebody else
    a_gang_waits_until_its_gpus_are_free_and_says_for_whom,
    gpus_that_stay_busy_interrupt_the_attempt_and_cost_the_job_no_try
everything above at random
    a_block_disturbed_six_times_ends_like_one_left_alone, a_study_disturbed_at_random_ends_like_one_left_alone (slow)
writing under load
    sixty_four_jobs_lose_no_point_and_are_seen_within_two_seconds
classes of failure and their three policies; retry, stop, logs
    test_failures.py, test_intervene.py, a_job_with_a_code_error_is_not_tried_again_until_a_person_asks,
    a_job_stopped_by_name_stays_stopped_while_the_others_go_on, logs_print_the_end_of_the_last_attempt_s_log
the code is edited while a study is under way
    an_edit_after_the_first_launch_does_not_reach_the_jobs, new_code_is_taken_when_a_person_says_why,
    what_the_trainer_imports_from_the_same_checkout_is_copied_too
one round at a time; an allocation of SLURM ends (slow)
    a_study_gets_on_by_single_rounds_while_nothing_of_ours_lives_between_them,
    a_study_goes_on_in_the_next_allocation_until_it_is_done
handing over to another person
    a_launch_that_is_asked_to_end_stops_its_jobs_and_the_next_one_goes_on
money, and telling a program
    a_budget_stops_starting_jobs_and_says_which, each_kind_of_event_is_told_once_with_what_a_program_needs
secrets, and who may connect
    key_and_token_are_in_no_log_row_folder_wandb_file_or_process_list, credentials_in_an_address_are_refused_and_not_repeated,
    only_sqlite_is_understood, nothing_listens_beyond_loopback
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ablate.clock import utc_now
from ablate.desk import Desk
from ablate.launching import collect
from ablate.launching.gang import read_gang
from ablate.launching.jobs import Cluster
from ablate.launching.launch import launch as launch_study
from ablate.study import UserError
from db.store import Store
from tests.clusters import OwnCluster, ablate
from tests.conftest import alive, repository_environment, until
from tests.launching.test_launch import SMALL, Options, Tick, Witness, desk_of, nullcontext, run


def lasting(seconds: float, save_every: str = "15") -> str:
    """A study whose jobs take so long, and save every so many steps."""
    changes = {"faults.seconds       = 0.0": f"faults.seconds       = {seconds}"}
    changes["train.save_every     = 100 "] = f"train.save_every     = {save_every} "
    text = SMALL
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


SLOW = lasting(15.0)
NEVER = "10_000"


@pytest.fixture(scope="module")
def own() -> Iterator[OwnCluster]:
    with OwnCluster(2, 2) as cluster:
        yield cluster


def study_in(folder: Path, text: str = SLOW) -> Desk:
    return desk_of(folder, text)


def start(own: OwnCluster, folder: Path, *words: str) -> subprocess.Popen[str]:
    return ablate("launch", "--study", str(folder / "runs.toml"), "--address", own.address, *words, environment=own.environment)


def finished(launch: subprocess.Popen[str], seconds: float = 90) -> str:
    """What it said, once it ended."""
    return launch.communicate(timeout=seconds)[0]


def folders(desk: Desk, run: str) -> list[Path]:
    """The attempts of a run's only job, oldest first."""
    return sorted(path.parent for path in desk.folders.base.glob(f"{run}-s*/*/config.json"))


def lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_steps(desk: Desk, run: str, steps: int, launch: subprocess.Popen[str]) -> Path:
    """The folder of the run's latest attempt once it has so many steps."""
    until(lambda: launch.poll() is not None or (folders(desk, run) and len(lines(folders(desk, run)[-1])) >= steps), 60)
    assert launch.poll() is None, finished(launch)
    return folders(desk, run)[-1]


def attempts(desk: Desk, run: str) -> list[str]:
    return [attempt.state for key, tries in desk.store.attempts().items() for attempt in tries if key.startswith(f"{run}-")]


def test_on_a_cluster_a_killed_launch_is_taken_up_again_and_no_metric_is_lost(own: OwnCluster, tmp_path: Path) -> None:
    desk = study_in(tmp_path)
    words = ("--run", "A1", "--run", "F3@42")
    first = start(own, tmp_path, *words)
    places = [wait_for_steps(desk, name, 10, first) for name in ("A1", "F3")]
    pids = [pid for place in places for pid in read_gang(place)["pids"]]
    first.kill()
    finished(first)
    until(lambda: len(lines(places[0])) > 30, 20)
    assert all(map(alive, pids)), "training goes on"
    second = start(own, tmp_path, *words)
    said = finished(second)
    assert second.returncode == 0, said
    assert said.count("runs on; watching it again") == 2, said
    for run_name, place in zip(("A1", "F3"), places, strict=True):
        assert attempts(desk, run_name) == ["done"]
        curve = desk.store.curve(place.parent.name, "loss")
        assert curve == [(line["step"], line["metrics"]["loss"]) for line in lines(place)]
        assert [step for step, _ in curve] == list(range(1, len(curve) + 1))


def test_ctrl_c_leaves_the_jobs_on_a_cluster_alone_and_twice_stops_them(own: OwnCluster, tmp_path: Path) -> None:
    desk = study_in(tmp_path)
    first = start(own, tmp_path, "--run", "A1")
    place = wait_for_steps(desk, "A1", 5, first)
    first.send_signal(signal.SIGINT)
    said = finished(first)
    assert first.returncode == 3
    assert "detached: the jobs run on in the cluster" in said
    assert all(map(alive, read_gang(place)["pids"]))
    seen = len(lines(place))
    second = start(own, tmp_path, "--run", "A1")
    until(lambda: second.poll() is not None or desk.store.curve(place.parent.name, "loss")[-1:] > [(seen, 0.0)], 40)
    second.send_signal(signal.SIGINT)
    time.sleep(0.3)  # a person is not faster; two signals at once may be one
    second.send_signal(signal.SIGINT)
    said = finished(second)
    assert not any(map(alive, read_gang(place)["pids"])), said
    assert attempts(desk, "A1") == ["interrupted"], said


def test_a_job_whose_node_dies_goes_on_elsewhere_from_its_checkpoint(own: OwnCluster, tmp_path: Path) -> None:
    desk = study_in(tmp_path, lasting(8.0))
    first = start(own, tmp_path, "--run", "A1")
    place = wait_for_steps(desk, "A1", 40, first)
    own.node_of(read_gang(place)["owner"]).kill()
    own.add(2)
    said = finished(first, 180)
    assert first.returncode == 0, said
    assert attempts(desk, "A1") == ["lost", "done"]
    (lost, _) = next(iter(desk.store.attempts().values()))
    assert lost.facts["failure"] == "node lost"
    assert 0 < lost.facts["lost_gpu_s"] < lost.gpu_s
    resumed = json.loads((folders(desk, "A1")[1] / "config.json").read_text())["resume_from"]
    assert resumed.startswith(str(place))
    steps = [step for step, _ in desk.store.curve(place.parent.name, "loss")]
    assert steps == list(range(1, len(steps) + 1)), "no step is missing and none is there twice"


def test_a_study_gets_on_by_single_rounds_while_nothing_of_ours_lives_between_them(own: OwnCluster, tmp_path: Path) -> None:
    desk = study_in(tmp_path, lasting(2.0))
    codes = []
    while codes[-1:] != [0]:
        tick = start(own, tmp_path, "--once", "--run", "A1", "--run", "F3@42")
        said = finished(tick)
        assert tick.returncode in (0, 3), said
        codes.append(tick.returncode)
        assert len(codes) < 20, said
        assert desk.store.lease() is None
        time.sleep(0.5)
    assert codes[0] == 3
    assert attempts(desk, "A1") == attempts(desk, "F3") == ["done"]
    for place in (*folders(desk, "A1"), *folders(desk, "F3")):
        curve = desk.store.curve(place.parent.name, "loss")
        assert [step for step, _ in curve] == list(range(1, len(curve) + 1))
        assert len(curve) == len(lines(place))


def test_single_rounds_need_a_cluster_that_lives_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--once leaves after one round.*give --address"):
        launch_study(study_in(tmp_path), Options(once=True), Witness())


def test_a_missing_token_is_explained(own: OwnCluster, tmp_path: Path) -> None:
    study_in(tmp_path)
    bare = {name: value for name, value in own.environment.items() if not name.startswith("RAY_AUTH")}
    words = ("launch", "--study", str(tmp_path / "runs.toml"), "--address", own.address)
    said = finished(ablate(*words, environment=bare), seconds=15)  # Ray alone would try for 20
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH)" in said
    assert own.token not in said


@pytest.mark.slow
def test_a_frozen_node_is_given_up_and_cannot_spoil_anything_when_it_wakes(tmp_path: Path) -> None:
    with OwnCluster(2, 2) as own:
        desk = study_in(tmp_path, lasting(20.0))
        first = start(own, tmp_path, "--run", "A1")
        place = wait_for_steps(desk, "A1", 40, first)
        before, pids = lines(place), read_gang(place)["pids"]
        node = own.node_of(read_gang(place)["owner"])
        node.signal(signal.SIGSTOP)
        until(lambda: len(folders(desk, "A1")) == 2, 150)
        until(lambda: len(lines(folders(desk, "A1")[1])) > 5, 60)
        node.signal(signal.SIGCONT)
        until(lambda: not any(map(alive, pids)), 60)
        said = finished(first, 120)
        assert first.returncode == 0, said
        assert attempts(desk, "A1") == ["lost", "done"]
        second = folders(desk, "A1")[1]
        curve = dict(desk.store.curve(place.parent.name, "loss"))
        assert {line["step"]: line["metrics"]["loss"] for line in lines(second)}.items() <= curve.items()
        assert len(before) >= 40
        assert sorted(curve) == list(range(1, len(curve) + 1))
        (fenced,) = [json.loads(path.read_text()) for path in place.glob("stop.json")]
        counted = (place / "metrics.jsonl").read_bytes()[: fenced["metrics_bytes"]].count(b"\n")
        collected = Store.open(tmp_path / "fresh.sqlite", desk.study.name, desk.study.profile)
        collect.collect(collected, desk.folders)
        assert collected.offsets()[place.parent.name, 1] == fenced["metrics_bytes"]
        assert counted <= len(lines(place)), "what the old ranks wrote on waking up counts for nothing"


@pytest.mark.parametrize("number", [signal.SIGHUP, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_to_the_whole_group_lets_the_jobs_save_first(tmp_path: Path, number: signal.Signals) -> None:
    desk = study_in(tmp_path, lasting(15.0, NEVER))
    words = ("launch", "--study", str(tmp_path / "runs.toml"), "--gpus", "2", "--run", "A1")
    launch = ablate(*words, environment={**repository_environment(), "OMP_NUM_THREADS": "1"}, group=True)
    place = wait_for_steps(desk, "A1", 10, launch)
    os.killpg(launch.pid, number)
    said = finished(launch, 30)  # without Ray it would hang for a minute
    assert launch.returncode == 3, said
    assert attempts(desk, "A1") == ["interrupted"]
    assert list(place.glob("checkpoints/[0-9]*")), said


# ------------------------------------------------------------ on the shared embedded Ray


def test_a_job_that_diverges_is_a_result_and_is_never_tried_again(cluster: Cluster, tmp_path: Path) -> None:
    desk = desk_of(tmp_path, SMALL.replace("A1  = { model.curved = false }", "A1  = { model.curved = false, optim.lr = 50.0 }"))
    outcome = run(desk, cluster, runs=("A1",))
    assert attempts(desk, "A1") == ["diverged"]
    assert outcome.exit_code == 0
    run(desk, cluster, runs=("A1",))
    assert attempts(desk, "A1") == ["diverged"]


def test_a_supervisor_that_gets_sigterm_saves_first_and_its_job_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    desk = study_in(tmp_path, lasting(7.0, NEVER))

    class Preempts(Witness):
        victim = 0

        def tick(self, tick: Tick) -> None:
            super().tick(tick)
            if not self.victim and any((item.fraction or 0) > 0.3 for item in tick.progress):
                self.victim = next(iter(cluster.placed().values())).supervisor
                os.kill(self.victim, signal.SIGTERM)

    witness = Preempts()
    run(desk, cluster, witness, runs=("A1",))
    assert attempts(desk, "A1") == ["interrupted", "done"]
    first = next(iter(desk.store.attempts().values()))[0]
    assert first.facts["lost_gpu_s"] < 2.0, "it saved before it went"
    resumed = json.loads((folders(desk, "A1")[1] / "config.json").read_text())["resume_from"]
    assert resumed.startswith(str(folders(desk, "A1")[0]))


def test_a_launch_that_lost_its_lease_ends_what_it_runs(cluster: Cluster, tmp_path: Path) -> None:
    desk = study_in(tmp_path, lasting(7.0))

    class Robbed(Witness):
        def tick(self, tick: Tick) -> None:
            super().tick(tick)
            held = desk.store.lease()
            if any((item.fraction or 0) > 0.1 for item in tick.progress) and held and "thief" not in held.holder:
                desk.store.release_lease(held.holder)
                assert desk.store.acquire_lease("thief@elsewhere:1", utc_now(), 60.0)

    with pytest.raises(UserError, match=r"thief@elsewhere:1 has taken over since .*status --follow"):
        launch_study(desk, Options(gpus=4, runs=("A1",)), Robbed(), lambda *_: nullcontext(cluster))
    (place,) = folders(desk, "A1")
    assert not any(map(alive, read_gang(place)["pids"]))
    assert attempts(desk, "A1") == ["running"], "who took over settles it"
    desk.store.release_lease("thief@elsewhere:1")
    assert run(desk, cluster, runs=("A1",)).exit_code == 0
    assert attempts(desk, "A1") == ["interrupted", "done"]


def test_the_table_above_names_tests_that_exist() -> None:
    here = Path(__file__).parent
    named = [name for line in (__doc__ or "").splitlines() for name in _tests_in(line)]
    written = "\n".join(path.read_text() for path in here.rglob("test_*.py"))
    assert len(named) > 15
    assert [name for name in named if f"def test_{name}" not in written] == []


def _tests_in(line: str) -> list[str]:
    words = line.replace(",", " ").split()
    return [word for word in words if word.count("_") > 3]
