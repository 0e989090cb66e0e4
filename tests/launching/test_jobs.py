"""Attempts on a real Ray of four made-up GPUs: placed, ended, killed, stopped, found again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablate.launching.gang import log_tail, read_gang
from ablate.launching.jobs import Attempt, AttemptEnd, Cluster
from ablate.study import UserError
from tests.conftest import alive, repository_environment, until

BEATS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
while True:
    print(time.time(), flush=True)
    time.sleep(0.05)
"""
CONTINUES_UNTIL_TOLD = """
import pathlib, time
number = 0
while not pathlib.Path('enough').exists():
    print(number, flush=True)
    number += 1
    time.sleep(0.02)
"""


@pytest.fixture
def gpus(cluster: Cluster) -> Iterator[Cluster]:
    """The shared cluster, given back empty."""
    yield cluster
    cluster.stop_all(0)
    until(lambda: cluster.poll(0.5) is not None and not cluster.watched, 20)


def attempt(folder: Path, key: str, code: str = BEATS, number: int = 1, gpus: int = 2, ranks: int = 2) -> Attempt:
    place = folder / key / str(number)
    place.mkdir(parents=True)
    command = (sys.executable, "-I", "-S", "-c", code)
    return Attempt(f"study-{folder.name}", "full", key, number, place, command, gpus, ranks, cwd=str(place))


def poll_one(cluster: Cluster, seconds: float = 10) -> AttemptEnd:
    (end,) = cluster.poll(seconds)
    return end


def wait_for_beats(*attempts: Attempt) -> None:
    until(lambda: all(log_tail(one.folder, rank) for one in attempts for rank in range(one.ranks)), 20)


def pids(attempt: Attempt) -> list[int]:
    found: list[int] = read_gang(attempt.folder)["pids"]
    return found


def still_beats(attempt: Attempt) -> bool:
    asked = time.time()
    until(lambda: float(log_tail(attempt.folder, lines=1) or 0) > asked, 2)
    return True


def test_three_jobs_of_two_gpus_never_run_all_at_once_on_four(gpus: Cluster, tmp_path: Path) -> None:
    jobs = [attempt(tmp_path, key, "import time; time.sleep(0.7)") for key in "abc"]
    for job in jobs:
        gpus.start(job)
    ends: list[AttemptEnd] = []
    while gpus.watched:
        ends += gpus.poll(10)
        assert len(gpus.placed()) <= 2
    assert sorted((end.key, end.cause, end.exit_codes) for end in ends) == [(key, "ended", (0, 0)) for key in "abc"]
    first, second, third = sorted((read_gang(job.folder) for job in jobs), key=lambda about: about["started_at"])
    assert set(first["gpus"]) | set(second["gpus"]) == {"0", "1", "2", "3"}
    free_at = min(first["ended_at"], second["ended_at"])
    assert free_at < third["started_at"] < free_at + 5.0, "the next one starts as soon as there is room"


def test_placed_tells_who_runs_and_who_still_waits(gpus: Cluster, tmp_path: Path) -> None:
    big, small = attempt(tmp_path, "big", gpus=4), attempt(tmp_path, "small", gpus=1, ranks=1)
    gpus.start(big)
    wait_for_beats(big)
    gpus.start(small)
    place = gpus.placed()
    assert place[big.id].gpus == ("0", "1", "2", "3")
    assert place[big.id].supervisor == read_gang(big.folder)["owner"]
    assert small.id not in place
    assert set(gpus.watched) == {big.id, small.id}
    assert gpus.poll(0) == []
    assert gpus.node_gpus() == [4]


def test_a_killed_rank_ends_its_gang_within_a_second_and_no_other(gpus: Cluster, tmp_path: Path) -> None:
    hurt, other = attempt(tmp_path, "hurt"), attempt(tmp_path, "other")
    gpus.start(hurt)
    gpus.start(other)
    wait_for_beats(hurt, other)
    ranks = pids(hurt)
    os.kill(ranks[1], signal.SIGKILL)
    assert until(lambda: not any(map(alive, ranks))) < 1.0
    end = poll_one(gpus)
    assert (end.key, end.number, end.cause, end.exit_codes) == ("hurt", 1, "rank failed", (143, -9))
    assert still_beats(other)


def test_no_rank_survives_a_killed_supervisor_and_its_gpus_are_free_again(gpus: Cluster, tmp_path: Path) -> None:
    hurt, other = attempt(tmp_path, "hurt"), attempt(tmp_path, "other")
    gpus.start(hurt)
    gpus.start(other)
    wait_for_beats(hurt, other)
    os.kill(gpus.placed()[hurt.id].supervisor, signal.SIGKILL)
    assert until(lambda: not any(map(alive, pids(hurt)))) < 1.0
    end = poll_one(gpus)
    assert (end.key, end.cause, end.exit_codes) == ("hurt", "lost", ())
    again = attempt(tmp_path, "hurt", number=2)
    gpus.start(again)
    wait_for_beats(again)
    assert still_beats(other)


def test_a_stopped_attempt_can_save_and_one_that_waits_never_starts(gpus: Cluster, tmp_path: Path) -> None:
    runs, waits = attempt(tmp_path, "runs", gpus=4), attempt(tmp_path, "waits")
    gpus.start(runs)
    wait_for_beats(runs)
    gpus.start(waits)
    gpus.stop(*waits.id, grace_s=20)
    assert poll_one(gpus) == AttemptEnd("waits", 1, "stopped", (), "")
    gpus.stop(*runs.id, grace_s=20)
    end = poll_one(gpus)
    assert (end.key, end.cause, end.exit_codes) == ("runs", "stopped", (143, 143))
    assert read_gang(waits.folder) == {}
    gpus.stop("nobody", 1, grace_s=0)


def test_starting_an_attempt_twice_starts_it_once(gpus: Cluster, tmp_path: Path) -> None:
    one = attempt(tmp_path, "one")
    gpus.start(one)
    wait_for_beats(one)
    ranks = pids(one)
    gpus.start(one)
    time.sleep(0.3)
    assert pids(one) == ranks
    assert len(gpus.watched) == 1


def test_ranks_that_cannot_start_are_a_failure_not_a_hang(gpus: Cluster, tmp_path: Path) -> None:
    one = attempt(tmp_path, "one")
    one.folder.rmdir()
    gpus.start(one)
    end = poll_one(gpus)
    assert (end.cause, end.exit_codes) == ("rank failed", ())
    assert "the ranks could not be started" in end.log_tail


def start_driver(attempt: Attempt, connect: str) -> subprocess.Popen[bytes]:
    """Another process that starts one attempt and waits; returns once its ranks have written something."""
    program = f"""
from pathlib import Path, PosixPath
from ablate.launching.jobs import Attempt, Cluster
cluster = Cluster.connect({connect})
cluster.start({attempt!r})
cluster.poll(60)
"""
    log = (attempt.folder / "driver.log").open("wb")
    driver = subprocess.Popen([sys.executable, "-c", program], env=repository_environment(), stdout=log, stderr=log)
    until(lambda: log_tail(attempt.folder) or driver.poll() is not None, 40)
    assert driver.poll() is None, (attempt.folder / "driver.log").read_text()
    return driver


def descendants(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            child = int(stat.parent.name)
            found += [child, *descendants(child)]
    return found


def test_nothing_is_left_of_embedded_ray_when_its_launch_is_killed(tmp_path: Path) -> None:
    one = attempt(tmp_path, "one")
    driver = start_driver(one, "gpus=2")
    family = descendants(driver.pid)
    assert set(pids(one)) < set(family), "the ranks are among them"
    driver.kill()
    driver.wait()
    until(lambda: not any(map(alive, pids(one))), 5)
    until(lambda: not any(map(alive, family)), 10)


def test_ray_does_not_take_over_the_signals_that_a_launch_listens_to() -> None:
    program = """
import os, signal, time
heard = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, _: heard.append(number))
from ablate.launching.jobs import Cluster
with Cluster.connect(gpus=1) as cluster:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(os.getpid(), number)
        cluster.poll(0.1)
print(sorted(heard) == [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=repository_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, ["True"]), done.stderr


def test_on_a_cluster_training_goes_on_when_its_launch_is_killed_and_is_found_again(gpus: Cluster, tmp_path: Path) -> None:
    one = attempt(tmp_path, "one", CONTINUES_UNTIL_TOLD, ranks=1)
    driver = start_driver(one, repr(gpus.address))
    driver.kill()
    driver.wait()
    time.sleep(0.3)
    before = read_gang(one.folder)
    assert gpus.reattach(one.study, one.profile, [one.id, ("someone", 1)]) == [one.id]
    (one.folder / "enough").touch()
    end = poll_one(gpus)
    assert (end.key, end.number, end.cause, end.exit_codes) == ("one", 1, "ended", (0,))
    assert read_gang(one.folder)["pids"] == before["pids"]
    numbers = [int(line) for line in log_tail(one.folder, lines=10_000).splitlines()]
    assert numbers == list(range(len(numbers))), "no line is missing and none is there twice"
    until(lambda: gpus.reattach(one.study, one.profile, [one.id]) == [], 10)


def test_an_address_where_nobody_answers_is_a_users_mistake() -> None:
    with pytest.raises(UserError, match=r"^--address '127\.0\.0\.1:1': no Ray cluster answers there .*`ray status`"):
        Cluster.connect("127.0.0.1:1")
    with pytest.raises(UserError, match="Ray's client port is not enough; give host:port"):
        Cluster.connect("ray://127.0.0.1:10001")


def test_a_cluster_that_wants_another_token_says_which_variables_to_set(cluster: Cluster) -> None:
    program = f"""
from ablate.launching.jobs import Cluster
from ablate.study import UserError
try:
    Cluster.connect({cluster.address!r})
except UserError as error:
    print(error)
"""
    environment = {
        **repository_environment(),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "f" * 64,
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=15, check=False
    )  # Ray alone would try for 20 s
    assert done.stdout.splitlines()[-1:] == [
        f"--address {cluster.address!r}: the cluster wants a token and ours is missing or another one; "
        "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the one it was started with"
    ], done.stderr
