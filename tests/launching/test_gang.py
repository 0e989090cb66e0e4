"""Gangs are real processes here: started, watched, killed; told apart by their ids."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ablate.launching.gang import Gang, GangEnd, Stop, end_left_behind, log_tail, read_gang, run_gang
from tests.conftest import alive, repository_environment, until
from tests.failing_disk import FailingDisk

SLEEP = "import time; time.sleep(60)"
IGNORES_SIGTERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
SAVES_ON_SIGTERM = """
import signal, sys, time
def save(*_):
    open('saved', 'a').write('x')
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print('ready', flush=True)
time.sleep(60)
"""
HAS_A_CHILD = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(60)']).pid, flush=True)
time.sleep(60)
"""


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code)


def by_rank(*codes: str) -> tuple[str, ...]:
    """A command that does something else in every rank."""
    return python(f"import os; exec({list(codes)!r}[int(os.environ['RANK'])])")


@contextmanager
def running(gang: Gang, stop: Stop) -> Iterator[list[GangEnd]]:
    """The gang in a thread of its own; the list gets its end when the block is left."""
    ends: list[GangEnd] = []
    up = threading.Event()
    thread = threading.Thread(target=lambda: ends.append(run_gang(gang, stop, up.set)))
    thread.start()
    try:
        assert up.wait(10)
        yield ends
    finally:
        stop.ask(0 if sys.exc_info()[0] else 20)
        thread.join()


def test_each_rank_knows_its_place_and_all_meet_at_one_port(tmp_path: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES", "OURS")
    command = python(f"import os, json; print(json.dumps([os.environ.get(n) for n in {names!r}]))")
    end = run_gang(Gang(tmp_path, command, ranks=2, gpus=("98", "99"), env={"OURS": "yes"}), Stop())
    told = [json.loads(log_tail(tmp_path, rank)) for rank in (0, 1)]
    port = told[0][4]
    assert told == [[str(r), str(r), "2", "127.0.0.1", port, "", "yes"] for r in (0, 1)]  # GPUs 98 and 99 are not in this machine
    assert int(port) > 1023
    assert (end.cause, end.exit_codes) == ("ended", (0, 0))


def test_gang_json_says_which_processes_run_and_later_how_they_ended(tmp_path: Path) -> None:
    assert read_gang(tmp_path) == {}
    stop = Stop()
    with running(Gang(tmp_path, python(SLEEP), ranks=2), stop):
        about = read_gang(tmp_path)
        assert len(about["pids"]) == 2
        assert all(map(alive, about["pids"]))
        assert about["owner"] == os.getpid()
        assert "cause" not in about
    about = read_gang(tmp_path)
    assert about["cause"] == "stopped"
    assert about["exit_codes"] == [-15, -15]
    assert about["started_at"] < about["ended_at"] <= time.time()
    assert not any(map(alive, [*about["pids"], about["keeper"]]))


def test_a_rank_that_fails_ends_the_gang_within_a_second_and_its_log_is_quoted(tmp_path: Path) -> None:
    began = time.monotonic()
    end = run_gang(
        Gang(tmp_path, by_rank(IGNORES_SIGTERM, "import time; time.sleep(.3); raise SystemExit('no data')"), ranks=2), Stop()
    )
    assert time.monotonic() - began < 0.3 + 1.0 + 0.5
    assert end == GangEnd("rank failed", (-9, 1), "no data")


def test_a_rank_that_is_killed_ends_the_gang_within_a_second(tmp_path: Path) -> None:
    with running(Gang(tmp_path, python(SLEEP), ranks=2), Stop()) as ends:
        os.kill(read_gang(tmp_path)["pids"][1], signal.SIGKILL)
        assert until(lambda: ends) < 1.0
    assert (ends[0].cause, ends[0].exit_codes) == ("rank failed", (-15, -9))


def test_ranks_that_are_asked_to_stop_can_save_first(tmp_path: Path) -> None:
    stop = Stop()
    with running(Gang(tmp_path, python(SAVES_ON_SIGTERM), ranks=2, cwd=str(tmp_path)), stop) as ends:
        until(lambda: log_tail(tmp_path, 0) == log_tail(tmp_path, 1) == "ready")
        stop.ask(20)
    assert ends == [GangEnd("stopped", (143, 143), "ready")]
    assert (tmp_path / "saved").read_text() == "xx"


def test_ranks_that_do_not_stop_are_killed_when_the_grace_is_over(tmp_path: Path) -> None:
    stop = Stop()
    with running(Gang(tmp_path, python(IGNORES_SIGTERM)), stop) as ends:
        until(lambda: log_tail(tmp_path))
        stop.ask(30)
        stop.ask(0.1)  # asked again, more urgently
        assert until(lambda: ends) < 1.0
    assert ends == [GangEnd("killed", (-9,), "deaf")]


@pytest.mark.parametrize("how", ["rank killed", "stopped", "owner killed"])
def test_what_a_rank_started_does_not_survive_it(tmp_path: Path, how: str) -> None:
    if how == "owner killed":
        owner = start_owner(tmp_path, HAS_A_CHILD)
        rank, child = read_gang(tmp_path)["pids"][0], int(log_tail(tmp_path))
        owner.kill()
        owner.wait()
    else:
        stop = Stop()
        with running(Gang(tmp_path, python(HAS_A_CHILD)), stop):
            until(lambda: log_tail(tmp_path))
            rank, child = read_gang(tmp_path)["pids"][0], int(log_tail(tmp_path))
            assert alive(child)
            if how == "rank killed":
                os.kill(rank, signal.SIGKILL)
    assert until(lambda: not alive(rank) and not alive(child)) < 2.0


def test_no_rank_outlives_an_owner_that_is_killed_even_with_its_keeper(tmp_path: Path) -> None:
    owner = start_owner(tmp_path, HAS_A_CHILD)
    about = read_gang(tmp_path)
    os.kill(about["keeper"], signal.SIGKILL)
    owner.kill()
    owner.wait()
    assert until(lambda: not any(map(alive, about["pids"]))) < 2.0
    os.kill(int(log_tail(tmp_path)), signal.SIGKILL)


def start_owner(folder: Path, code: str) -> subprocess.Popen[bytes]:
    """Another process that owns a gang of one rank running `code`; returns once the rank has written something."""
    program = f"""
from pathlib import Path
from ablate.launching.gang import Gang, Stop, run_gang
run_gang(Gang(Path({str(folder)!r}), {python(code)!r}), Stop())
"""
    owner = subprocess.Popen([sys.executable, "-c", program], env=repository_environment())
    until(lambda: log_tail(folder))
    return owner


def test_ranks_whose_supervisor_is_frozen_can_be_ended_from_outside(tmp_path: Path) -> None:
    gang = f"Gang(Path({str(tmp_path)!r}), {python(SLEEP)!r}, 2)"
    code = f"from pathlib import Path; from ablate.launching.gang import *; run_gang({gang}, Stop())"
    with subprocess.Popen([sys.executable, "-c", code], env=repository_environment()) as supervisor:
        until(lambda: read_gang(tmp_path).get("pids"))
        supervisor.send_signal(signal.SIGSTOP)
        pids = read_gang(tmp_path)["pids"]
        assert all(map(alive, pids))
        end_left_behind(tmp_path)
        until(lambda: not any(map(alive, pids)))
        supervisor.kill()
    about = read_gang(tmp_path)
    with subprocess.Popen(python(SLEEP), start_new_session=True) as stranger:
        (tmp_path / "gang.json").write_text(json.dumps(about | {"pids": [stranger.pid, stranger.pid]}))
        end_left_behind(tmp_path)
        assert stranger.poll() is None, "a process that has got the id of a rank is left alone"
        stranger.kill()


def test_a_command_that_does_not_exist_is_a_failed_gang(tmp_path: Path) -> None:
    assert run_gang(Gang(tmp_path, ("no-such-program",)), Stop()) == GangEnd(
        "rank failed", (127,), "cannot run 'no-such-program': No such file or directory"
    )


def test_a_folder_that_is_not_there_is_a_failed_gang(tmp_path: Path) -> None:
    end = run_gang(Gang(tmp_path, python(SLEEP), cwd=str(tmp_path / "gone")), Stop())
    assert (end.cause, end.exit_codes) == ("rank failed", ())
    assert "the ranks could not be started" in end.log_tail
    assert str(tmp_path / "gone") in end.log_tail


def test_only_the_end_of_a_long_log_is_quoted(tmp_path: Path) -> None:
    end = run_gang(Gang(tmp_path, python("[print('line', n) for n in range(5000)]; print('\\xff')")), Stop())
    assert end.log_tail.splitlines()[-3:] == ["line 4998", "line 4999", "ÿ"]
    assert len(end.log_tail.splitlines()) == 20


def test_what_a_terminal_would_obey_is_not_quoted(tmp_path: Path) -> None:
    said = "\x1b[31mred\x1b[2J \x1b]8;;file:///etc/passwd\x07link\x1b]8;;\x1b\\ \x07\x1bc\x9b5A\u202eleft\ttab\x00 \x1b]0;open"
    end = run_gang(Gang(tmp_path, python(f"import sys; sys.stdout.buffer.write({said!r}.encode())")), Stop())
    assert end.log_tail == "red link 5Aleft\ttab "
    assert (tmp_path / "rank0.log").read_text() == said


def gang_of(arguments: list[str]) -> int:
    """Run by FailingDisk: a gang of two ranks in the folder given, as a supervisor would."""
    end = run_gang(Gang(Path(arguments[0]), python("print('trained')"), ranks=2), Stop())
    print(end.cause, end.log_tail.replace("\n", " "))
    return ["ended", "rank failed"].index(end.cause)


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_whichever_write_of_a_supervisor_fails_the_gang_ends_and_is_told(tmp_path: Path) -> None:
    with FailingDisk(tmp_path, f"{__name__}:gang_of") as disk:
        for at in itertools.count(1):
            folder = tmp_path / str(at)
            folder.mkdir()
            (folder / "rank0.log").symlink_to(tmp_path / f"{at}.log")  # what the supervisor says; also the first rank's log
            ran = disk.run(folder, at, errno.ENOSPC)
            said = (tmp_path / f"{at}.log").read_text().splitlines()[-1]
            assert not any(map(alive, read_gang(folder).get("pids", []))), "gang.json is whole, or not there, and nobody is left"
            if ran.writes < at:
                break
            assert said == "ended trained" or said.startswith(
                "rank failed the ranks could not be started: [Errno 28] No space left"
            )
            assert (ran.code, read_gang(folder).get("cause")) in ((0, None), (1, None)), "how it ended could not be written"
    assert said == "ended trained"
    assert read_gang(folder)["cause"] == "ended"
    assert at > 5
