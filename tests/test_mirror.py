"""The mirror to wandb: what a page says, offline folders read back, a server that answers or does not, a launcher that dies."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ablate import evidence
from ablate.desk import Desk
from ablate.mirror import Mirror, finish, folder_of, page, pages, rows, start_mirror
from db.records import AttemptRecord, DecisionRecord, JobRecord, LockRecord, Point
from tests.conftest import alive, repository_environment, until
from tests.written_study import NOW, STEPS, small_desk, write_job

JOB = JobRecord("F1-s42-c16774a1", "F1", 42, {"model.freeze_dino": True}, 2, NOW)
LAST = AttemptRecord(JOB.key, 2, "done", NOW, code_hash="c0de", facts={"samples": 9600})
FREEZE = DecisionRecord("freeze", "sweep1", "decided", "F1", "", {}, "as good", "rule", NOW, jobs={JOB.key: "c0de"})
LOCK = LockRecord({}, {}, {"freeze": 1}, (), "F1", True, "abc123", NOW)


@pytest.fixture(autouse=True)
def no_wandb_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No key, no settings, and an empty home that must stay empty. Returns it."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("NETRC", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return home


def started(desk: Desk) -> Mirror:
    mirror = start_mirror(desk)
    assert mirror is not None
    return mirror


def once(desk: Desk) -> subprocess.CompletedProcess[str]:
    """By hand, as a person would."""
    command = [sys.executable, "-m", "ablate.mirror", str(desk.study.path), "--once"]
    return subprocess.run(command, env=repository_environment(), capture_output=True, text=True, timeout=60, check=False)


def command_lines() -> Iterator[bytes]:
    """Of every process there is."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes()


def job_of(desk: Desk, run: str) -> str:
    key = desk.plan().of_run(run)[0].key
    assert key is not None
    return key


# ---------------------------------------------------------------- pages


def test_a_page_says_what_rests_on_the_job() -> None:
    shown = page("tiny", JOB, LAST, None, {"freeze": FREEZE}, LOCK, {"val_loss": 1.3})
    assert shown.tags == ("tiny", "no longer planned", "done", "taken by freeze", "locked config")
    assert shown.summary["decision/freeze"] == "F1"
    assert shown.summary["decision/freeze/because"] == "as good"
    assert shown.summary["final/val_loss"] == 1.3
    assert shown.summary["lock"] == "abc123"
    assert shown.config["model"] == {"freeze_dino": True}
    assert shown.config["job"]["seed"] == 42
    assert (shown.name, shown.ended, shown.ok) == ("F1-s42", "2 done", True)


def test_a_job_that_no_decision_rests_on_shows_none() -> None:
    shown = page("tiny", replace(JOB, key="A1-s42-00000000", run="A1"), LAST, None, {"freeze": FREEZE}, LOCK, {})
    assert not [name for name in shown.summary if name.startswith(("decision", "lock"))]


def test_a_new_verdict_changes_the_mark_and_nothing_else_does() -> None:
    before = page("tiny", JOB, LAST, None, {}, None, {"val_loss": 1.3})
    assert before.mark == page("tiny", JOB, LAST, None, {}, None, {"val_loss": 1.3}).mark
    assert before.mark != page("tiny", JOB, LAST, None, {"freeze": FREEZE}, None, {"val_loss": 1.3}).mark


def test_tags_are_short_enough_for_wandb() -> None:
    long = replace(FREEZE, name="f" * 100)
    assert max(len(tag) for tag in page("tiny", JOB, LAST, None, {"f" * 100: long}, None, {}).tags) == 64


def test_rows_go_step_by_step_and_the_newest_of_a_running_job_waits(tmp_path: Path) -> None:
    desk = small_desk(tmp_path)
    key = write_job(desk, desk.plan().of_run("F3")[0], ends=False)
    assert [step for step, _ in rows(desk.store, key, 36, hold_back=True)] == [37, 38, 39]
    assert [step for step, _ in rows(desk.store, key, 36, hold_back=False)] == [37, 38, 39, 40]
    assert next(iter(rows(desk.store, key, 9, hold_back=False)))[1].keys() > {"loss", "val_loss", "loss_ratio"}


def test_launching_does_not_import_wandb() -> None:
    program = "import sys, ablate.mirror; print([m for m in ('wandb', 'pandas', 'scipy', 'torch') if m in sys.modules])"
    told = subprocess.run(
        [sys.executable, "-c", program], env=repository_environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.strip() == "[]"


def test_a_mirror_that_cannot_start_is_told_and_the_launcher_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk = small_desk(tmp_path)
    (tmp_path / "outputs").write_text("a file where the folder should be")
    assert start_mirror(desk) is None
    assert "nothing is mirrored to wandb: " in caplog.text


@pytest.mark.parametrize(("wandb", "mode"), [(False, ""), (True, "disabled")])
def test_no_mirror_when_the_study_or_the_environment_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb: bool, mode: str
) -> None:
    desk = small_desk(tmp_path)
    monkeypatch.setenv("WANDB_MODE", mode)
    assert start_mirror(replace(desk, study=replace(desk.study, wandb=wandb))) is None


def test_the_log_of_a_mirror_is_in_its_folder(tmp_path: Path) -> None:
    desk = small_desk(tmp_path)
    mirror = started(desk)
    assert finish(mirror, 60) == ""
    assert mirror.log == folder_of(desk) / "mirror.log"
    assert re.search(r"mirror: wrote 0 jobs; \d+\.\d+ s of CPU", mirror.log.read_text())


# ---------------------------------------------------------------- without a key


def test_offline_each_job_is_one_folder_and_verdicts_come_later(tmp_path: Path, no_wandb_of_this_machine: Path) -> None:
    desk = small_desk(tmp_path)
    for job in desk.plan().jobs:
        write_job(desk, job)
    nan = job_of(desk, "A6")
    desk.store.add_points(nan, 1, [Point(nan, 1, STEPS + 1, "loss", math.nan)], 1)

    first = once(desk)
    assert first.returncode == 0, first.stderr
    assert "wrote 13 jobs" in first.stderr
    assert "wrote 0 jobs" in once(desk).stderr
    evidence.decide(desk, NOW)
    evidence.lock(desk, NOW)
    assert finish(started(desk), 60) == ""

    folders = list((folder_of(desk) / "wandb").glob("offline-run-*"))
    assert len(folders) == len(desk.store.jobs())
    told = Offline.read(folder_of(desk), job_of(desk, "F3"))
    assert told.project == "small"
    assert told.name == "F3-s42"
    assert told.group == "sweep1"
    assert set(told.tags) == {"full", "sweep1", "sweep2", "sweep3", "done", "taken by freeze", "taken by lr", "locked config"}
    assert told.config["model"]["tokens_per_frame"] == 1
    assert told.config["job"]["seed"] == 42
    assert told.summary["decision/freeze"] == "F3"
    held = desk.store.lock()
    assert held is not None
    assert told.summary["lock"] == held.hash
    assert [step for step, _ in told.history] == list(range(STEPS + 1))
    assert dict(told.history)[10]["val_loss"] == dict(desk.store.curve(job_of(desk, "F3"), "val_loss"))[10]
    assert math.isnan(dict(Offline.read(folder_of(desk), nan).history)[STEPS + 1]["loss"])
    assert [path for path in no_wandb_of_this_machine.rglob("*") if path.is_file()] == []
    assert {path.name for path in tmp_path.iterdir()} == {"db", "home", "outputs", "runs.toml"}


def test_a_running_job_waits_and_a_second_attempt_replaces_the_first(tmp_path: Path) -> None:
    desk = small_desk(tmp_path)
    key, running = (write_job(desk, desk.plan().of_run(run)[0], ends=False) for run in ("F3", "F1"))
    desk.store.end_attempt(key, 1, "interrupted", "stopped", NOW)
    assert "wrote 1 jobs" in once(desk).stderr
    assert desk.store.claim(key, started_at=NOW) == 2
    desk.store.add_points(key, 2, [Point(key, 2, step, "loss", 0.5) for step in range(STEPS, STEPS + 3)], 1)
    desk.store.end_attempt(key, 2, "done", "", NOW)
    assert "wrote 1 jobs" in once(desk).stderr
    told = Offline.read(folder_of(desk), key)
    assert [step for step, _ in told.history] == list(range(STEPS + 3))
    assert dict(told.history)[STEPS]["loss"] == 0.5
    assert not list((folder_of(desk) / "wandb").glob(f"*{running}"))


def test_a_mirror_whose_launcher_is_killed_ends_too(tmp_path: Path) -> None:
    desk = small_desk(tmp_path)
    program = (
        "import sys, time; from pathlib import Path; from ablate.desk import open_desk; from ablate.mirror import start_mirror;"
        "from ablate.runs_toml import read_study;"
        "print(start_mirror(open_desk(read_study(Path(sys.argv[1])))).process.pid, flush=True); time.sleep(600)"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", program, str(desk.study.path)], env=repository_environment(), stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    assert alive(pid)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    launcher.stdout.close()
    until(lambda: not alive(pid))


def test_without_wandb_one_line_says_so_and_the_launcher_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = small_desk(tmp_path)
    write_job(desk, desk.plan().jobs[0])
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "wandb.py").write_text("raise ImportError('no wandb here')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    assert finish(started(desk), 60) == (
        "the wandb mirror failed, and nothing else with it: ImportError: no wandb here. "
        "Again: python -m ablate.mirror runs.toml --profile full --once"
    )


def test_by_hand_without_a_database_none_is_made(tmp_path: Path) -> None:
    desk = small_desk(tmp_path)
    desk.store.close()
    for path in (tmp_path / "db").iterdir():
        path.unlink()
    told = once(desk)
    assert told.returncode == 1
    assert "there is no database yet" in told.stderr
    assert len(told.stderr.splitlines()) == 1
    assert list((tmp_path / "db").iterdir()) == []


# ---------------------------------------------------------------- with a key


def test_a_server_that_is_not_there_costs_a_line_and_no_more_than_the_time_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = small_desk(tmp_path)
    write_job(desk, desk.plan().jobs[0])
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    mirror = started(desk)
    told = finish(mirror, 3)
    assert told == (
        "the wandb mirror did not get through in 3 s; the rest: python -m ablate.mirror runs.toml --profile full --once"
    )
    assert not alive(mirror.process.pid)
    until(lambda: not any(b"wandb-core" in line and str(mirror.process.pid).encode() in line for line in command_lines()))
    assert "0" * 40 not in "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())


def test_online_a_running_job_is_followed_and_goes_on_where_the_server_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = small_desk(tmp_path)
    key = write_job(desk, desk.plan().of_run("F3")[0], ends=False)
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        assert finish(started(desk), 60) == ""
        assert server.steps(key) == list(range(STEPS))
        desk.store.end_attempt(key, 1, "done", "", NOW)
        assert finish(started(desk), 60) == ""
        assert server.steps(key) == list(range(STEPS + 1))
        assert pages(desk)[0].tags[-1] == "done"
        assert "done" in server.tags[key]


@dataclass
class Server:
    """The few answers of wandb's server that a run needs; what it was sent."""

    address: str = ""
    history: dict[str, list[str]] = field(default_factory=dict)
    tags: dict[str, list[str]] = field(default_factory=dict)

    def steps(self, key: str) -> list[int]:
        return [json.loads(line)["_step"] for line in self.history[key]]

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "small", "entity": {"id": "e", "name": "me"}}
        key = variables.get("name", "")
        bucket = {"id": key, "name": key, "displayName": key, "sweepName": None, "config": "{}", "project": project}
        if "upsertBucket" in query:
            new = key not in self.history
            lines = self.history.setdefault(key, [])
            self.tags[key] = variables["tags"] or self.tags.get(key, [])
            return {"upsertBucket": {"inserted": new, "bucket": {**bucket, "historyLineCount": len(lines)}}}
        if "historyTail" in query:
            known = self.history.get(key)
            counts = {"historyLineCount": len(known or ()), "eventsLineCount": 0, "logLineCount": 0}
            tails = {"historyTail": json.dumps((known or [])[-1:]), "eventsTail": "[]", "summaryMetrics": "{}"}
            last = {**counts, **tails, "tags": self.tags.get(key, []), "wandbConfig": '{"t": 1}'}
            return {"model": {**project, "bucket": None if known is None else {**bucket, **last}}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.address}/upload"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def stream(self, path: str, files: dict[str, Any]) -> None:
        sent = files.get("wandb-history.jsonl")
        if sent:
            key = path.split("/")[-2]
            self.history[key] = self.history[key][: sent["offset"]] + sent["content"]


class wandb_server:  # noqa: N801 - reads as a with-statement
    def __enter__(self) -> Server:
        server = Server()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
                sent = json.loads(body) if body[:1] == b"{" else {}
                answer: dict[str, Any] = {}
                if self.path == "/graphql":
                    answer = {"data": server.answer(sent["query"], sent.get("variables") or {})}
                elif self.path.endswith("file_stream"):
                    server.stream(self.path, sent.get("files") or {})
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            do_PUT = do_POST  # noqa: N815 - http.server's spelling

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()
        return server

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


# ---------------------------------------------------------------- reading wandb's offline files back


@dataclass
class Offline:
    """A run as its one offline folder has it."""

    project: str = ""
    name: str = ""
    group: str = ""
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, key: str) -> Offline:
        from wandb.proto import wandb_internal_pb2  # here: half a second that the other tests need not pay

        (path,) = (folder / "wandb").glob(f"offline-run-*-{key}/run-{key}.wandb")
        told = cls()
        for data in _records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            told._add(record)
        return told

    def _add(self, record: Any) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            self.project, self.name, self.group, self.tags = run.project, run.display_name, run.run_group, tuple(run.tags)
            self.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "summary":
            self.summary |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.summary.update}
        elif kind == "history":
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            numbers = {name: float(value) for name, value in row.items() if not name.startswith("_")}
            self.history.append((record.history.step.num, numbers))


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log: blocks of 32 KiB, chunks with checksum, length and type (whole, first, middle, last)."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""
