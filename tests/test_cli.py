"""Every command on a small study whose results lie in the database: documents, screens, exit codes, the words of mistakes."""

from __future__ import annotations

import io
import json
import math
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ablate import cli
from ablate.answers import decide as decide_answers
from ablate.answers import document as document_answers
from ablate.answers import launch as launch_answers
from ablate.answers import logs as logs_answers
from ablate.answers import show as show_answers
from ablate.answers import status as status_answers
from ablate.cli.completion import block, profile, run, sweep
from ablate.clock import utc_now
from ablate.desk import Desk, open_desk
from ablate.launching.launch import Event, Outcome, Progress, Tick
from ablate.runs_toml import read_study
from ablate.screens import comparisons as comparisons_screens
from ablate.screens import drawing
from ablate.screens import launch as launch_screens
from ablate.screens import logs as logs_screens
from ablate.screens import status as status_screens
from ablate.screens import watcher as watcher_screens
from ablate.study import UserError
from ablate.tables import load
from benchmarks.plan import study_of
from db.records import AttemptRecord, DecisionRecord, JobRecord, Point
from tests.conftest import repository_environment
from tests.shared_study import STUDY as SHARED
from tests.small_study import NOW, STUDY, TRAINER, write, write_job


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the study's file, which is also where commands are typed."""
    (tmp_path / "runs.toml").write_text(STUDY)
    (tmp_path / "train.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def desk(folder: Path) -> Desk:
    return open_desk(read_study(folder / "runs.toml"))


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
        return found


@pytest.fixture
def ablate(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Types a command in the study's folder."""
    assert Path.cwd() == folder

    def typed(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["ablate", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback (most" not in err
        return Said(int(end.value.code or 0), out, err)

    return typed


# ---------------------------------------------------------------- plan


def test_plan_lists_every_job_with_what_the_specification_names(ablate: Any) -> None:
    said = ablate("plan", "--json")
    assert said.code == 0
    document = said.document
    assert (document["study"], document["profile"]) == ("small", "full")
    assert {job["id"] for job in document["jobs"]} >= {"F3-s42", "F1-s44", "LR2-s43", "D1-s42"}
    first = document["jobs"][0]
    wanted = ["key", "id", "run", "seed", "sweep", "block", "state", "reason", "change", "gpus", "gpu_hours", "cost"]
    assert set(wanted) <= set(first)
    assert first["key"].startswith("F3-s42-")
    assert (first["sweep"], first["block"], first["state"], first["gpu_hours"], first["cost"]) == (
        "sweep1",
        "1",
        "ready",
        1.0,
        2.0,
    )
    assert next(job for job in document["jobs"] if job["id"] == "D1-s42")["key"] is None


def test_totals_add_up_and_the_chain_goes_through_the_decisions(ablate: Any) -> None:
    document = ablate("plan", "--json", "--gpus", "4").document
    totals = document["totals"]
    assert totals["gpu_hours"] == sum(job["gpu_hours"] for job in document["jobs"]) == 12.0
    assert totals["cost"] == 24.0
    assert totals["wall_hours"] == 3.5
    assert totals["critical_path_hours"] == 1.5
    assert [id.split("-")[0] for id in totals["critical_path"]] == ["F3", "LR2", "D1"]
    assert totals["hours_source"] == "declared"


def test_plan_of_one_block_has_only_its_jobs(ablate: Any) -> None:
    assert {job["run"] for job in ablate("plan", "--json", "--block", "1").document["jobs"]} == {"F3", "F1"}


def test_finished_jobs_count_as_booked_and_give_their_hours_to_the_others(desk: Desk, ablate: Any) -> None:
    write(desk, "F3")
    document = ablate("plan", "--json").document
    hours = {job["run"]: (job["hours"], job["hours_source"]) for job in document["jobs"]}
    assert hours["F3"] == (0.5, "booked")
    assert hours["F1"] == (0.5, "measured")
    assert document["totals"]["spent_gpu_hours"] == 3.0


def test_plan_groups_seeds_says_what_is_waited_for_and_ends_with_the_next_step(ablate: Any) -> None:
    out = ablate("plan", "--profile", "tiny").out
    assert "small · tiny · 12 jobs, 2 GPUs each" in out
    assert "F1   42 43 44  ready" in out
    assert "waiting: LR2-s42, LR2-s43, LR2-s44: decision freeze is open: it may skip sweep2" in out
    assert "chain    18 min at least" in out
    assert out.endswith("Next: ablate launch --profile tiny\n")
    assert max(map(len, out.splitlines())) <= drawing.WIDTH


@pytest.mark.usefixtures("folder")
def test_plan_imports_neither_ray_nor_torch_nor_statistics() -> None:
    script = (
        "import sys; from ablate import cli\n"
        "sys.argv = ['ablate', 'plan']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'ray', 'torch', 'transformers', 'wandb', 'pandas', 'scipy', 'statsmodels', 'alembic', 'plotext', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Next: ablate launch" in done.stdout
    assert done.stderr == "[]\n"


# ---------------------------------------------------------------- decide, explain


def test_decide_takes_a_line_for_its_numbers_and_records_it(desk: Desk, ablate: Any) -> None:
    write(desk, "F3", "F1")
    said = ablate("decide", "sweep1", "--json")
    assert said.code == 0
    document = said.document
    assert document["sweep"] == "sweep1"
    (made,) = document["decisions"]
    assert (made["name"], made["status"], made["took"], made["by"]) == ("freeze", "decided", "F3", "rule")
    compared = made["comparisons"][0]
    assert {"a", "b", "metric", "holds", "delta", "low", "high", "margin", "n_a", "n_b", "noise"} <= set(compared)
    assert set(compared["noise"]) == {"sd", "df", "source"}
    assert desk.store.decisions()["freeze"].took == "F3"


def test_decide_draws_one_line_per_comparison_with_its_margin_bar(desk: Desk, ablate: Any) -> None:
    write(desk, "F3", "F1")
    out = ablate("decide", "sweep1").out
    assert "freeze took F3" in out
    assert "full unfreeze is justified" in out
    line = next(line for line in out.splitlines() if line.strip().startswith("F3 − F1") or line.strip().startswith("F1 − F3"))
    assert "●" in line
    assert "3/3" in line
    assert "val_loss ±0.05, better is left" in out
    assert max(map(len, out.splitlines())) <= drawing.WIDTH


def test_decide_without_results_says_what_it_waits_for_and_exits_3(ablate: Any) -> None:
    said = ablate("decide", "sweep1")
    assert said.code == 3
    assert "freeze is open" in said.out
    assert "F1@42 is ready" in said.out
    assert said.out.endswith("Next: ablate launch\n")


def test_decide_of_all_sweeps_lists_them(desk: Desk, ablate: Any) -> None:
    write(desk, "F3", "F1")
    document = ablate("decide", "--json").document
    assert [one["sweep"] for one in document["sweeps"]] == ["sweep1", "sweep2"]


def test_a_learn_line_that_holds_is_reported(desk: Desk, ablate: Any) -> None:
    write(desk, "F3", "F1")
    ablate("decide", "sweep1")
    write(desk, "LR2")
    said = ablate("decide", "sweep2", "--json")
    assert said.code == 0
    assert [one["say"] for one in said.document["learned"]] == ["100:1 is too much"]
    out = ablate("decide", "sweep2").out
    assert "learned: 100:1 is too much" in out
    assert "1 of 2 learn lines not shown" in out


def test_a_person_overrules_with_a_reason(desk: Desk, ablate: Any) -> None:
    write(desk, "F3", "F1")
    said = ablate("decide", "sweep1", "--take", "F1", "--because", "we have no memory for more", "--json")
    assert said.code == 0
    (made,) = said.document["decisions"]
    assert (made["status"], made["took"], made["by"], made["because"]) == (
        "overruled",
        "F1",
        "person",
        "we have no memory for more",
    )
    assert "decided by a person" in ablate("decide", "sweep1").out
    states = {job["run"]: job["state"] for job in ablate("plan", "--json").document["jobs"]}
    assert states["LR2"] == "skipped"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep1", "--take", "F1"], "without a reason. Give one: --because"),
        (["sweep1", "--take", "F9", "--because", "x"], "freeze cannot take 'F9'"),
        (["--take", "F1", "--because", "x"], "name the sweep: ablate decide SWEEP --take F1"),
        (["sweep1", "--tree", "lr", "--take", "F1", "--because", "x"], "sweep1 has no tree 'lr'; its trees: freeze"),
        (["sweep7"], "there is no sweep 'sweep7'. Did you mean"),
    ],
)
def test_what_cannot_be_decided_is_one_line_and_exit_code_2(ablate: Any, words: list[str], message: str) -> None:
    said = ablate("decide", *words)
    assert said.code == 2
    assert said.err.startswith("Error: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_explain_says_each_line_in_plain_words(ablate: Any) -> None:
    out = " ".join(ablate("explain", "sweep2").out.split())
    assert "skipped when the decision freeze took F1: only the connector learns" in out
    assert "when LR2's val_loss is shown to be below F3's, by 0.05 nats or more" in out
    assert "→ take F3, the baseline: 10:1 stays" in out
    lines = ablate("explain", "sweep2", "--json").document["trees"][0]["lines"]
    assert [line["take"] for line in lines] == ["LR2", "F3"]


# ---------------------------------------------------------------- status, show, logs


def test_status_shows_running_jobs_from_the_database(desk: Desk, ablate: Any) -> None:
    write(desk, "F3")
    write(desk, "F1", state="running")
    document = ablate("status", "--json").document
    assert document["states"] == {"done": 3, "running": 3, "waiting": 6}
    assert next((job["id"], job["progress"], job["samples"]) for job in document["running"]) == ("F1-s42", 0.25, 960)
    out = ablate("status").out
    assert "3 done · 3 running · 6 waiting" in out
    assert "F1-s42" in out
    assert "████░░░░░░░░░░░░" in out
    assert "42: 1   43: 1.01   44: 0.99" in out


def test_what_was_spent_stays_spent_when_a_row_is_taken_out(desk: Desk, folder: Path, ablate: Any) -> None:
    write(desk, "F3", "F1", "LR2")
    before = ablate("status", "--json").document
    assert (before["gpu_hours"], before["cost"], before["orphan_gpu_hours"]) == (9.0, 18.0, 0.0)
    text = (folder / "runs.toml").read_text().replace("optim.ratio = 100.0", "optim.ratio = 50.0")
    (folder / "runs.toml").write_text(text)
    after = ablate("status", "--json").document
    assert (after["gpu_hours"], after["cost"], after["orphan_gpu_hours"]) == (9.0, 18.0, 3.0)
    assert "spent    9.00 GPU-hours · $18.00 (3.00 of them on jobs no longer asked for)" in ablate("status").out
    plan = ablate("plan").out
    assert "spent    9.00 GPU-hours · $18.00 (3.00 of them on jobs no longer asked for)" in plan
    assert "no longer ask for; kept, not used" in " ".join(plan.split())


def test_what_status_costs_grows_with_the_jobs_not_with_their_square(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "runs.toml").write_text(study_of(2_000))
    desk = open_desk(read_study(tmp_path / "runs.toml"))
    desk.store.take_over(
        (
            JobRecord(str(job.key), job.run, job.seed, job.settings or {}, 2, NOW),
            AttemptRecord(str(job.key), 1, "done", NOW, NOW, gpus=2, gpu_s=7200.0),
            [],
        )
        for job in desk.plan().jobs[::2]
    )
    began = time.process_time()
    status_screens.status(status_answers.status(desk))
    assert time.process_time() - began < 1.5, "it was twice that, when it grew with the square"
    assert "and 800 more runs: ask for --json" in capsys.readouterr().out


def test_following_status_says_a_line_whenever_it_changes(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    asked = 0

    def ask() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked == 3:
            write(desk, "F3", state="running")
        if asked == 4:
            raise KeyboardInterrupt
        return status_answers.status(desk)

    status_screens.follow(ask, every_s=0.0)
    lines = capsys.readouterr().out.splitlines()
    assert [line[10:].split(" · F3-s42")[0] for line in lines] == ["6 ready · 6 waiting", "3 running · 3 ready · 6 waiting"]


def test_show_has_what_differs_the_attempts_the_curve_and_the_decisions(desk: Desk, ablate: Any) -> None:
    write(desk, "F3", "F1")
    ablate("decide", "sweep1")
    document = ablate("show", "F1", "--json").document
    assert document["differs"] == [{"setting": "model.frozen", "baseline": False, "value": True}]
    assert len(document["attempts"]) == 3
    assert document["curve"]["jobs"]["F1-s42"][-1] == [1000, 1.3]
    assert [made["name"] for made in document["decisions"]] == ["freeze"]
    out = ablate("show", "F1@42").out
    assert "model.frozen  true" in out
    assert "val_loss [nats] over steps   • F1-s42" in out
    assert "┤" in out
    assert "freeze took F3" in out
    assert max(map(len, out.splitlines())) <= drawing.WIDTH


def test_show_without_a_metric_draws_the_study_s_first(folder: Path, ablate: Any) -> None:
    (folder / "runs.toml").write_text(STUDY.replace("val_loss", "accuracy"))
    other = open_desk(read_study(folder / "runs.toml"))
    job = next(job for job in other.plan().jobs if job.run == "F3")
    other.store.save_job(JobRecord(job.key or "", job.run, job.seed, job.settings or {}, 2, NOW))
    number = other.store.claim(job.key or "", started_at=NOW, host="here", gpus=2, code_hash="")
    other.store.add_points(job.key or "", number or 1, [Point(job.key or "", number or 1, 1, "accuracy", 0.5)], 0)
    assert ablate("show", "F3@42", "--json").document["curve"]["metric"] == "accuracy"


def test_show_of_an_alias_is_the_run(ablate: Any) -> None:
    assert "F3 (also LR1): the baseline" in ablate("show", "LR1").out


def test_a_config_s_computed_rates_are_shown(tmp_path: Path) -> None:
    (tmp_path / "runs.toml").write_text(STUDY)
    study = read_study(Path(__file__).parents[1] / "runs.toml")
    rates = show_answers.derived(study, {**study.settings, "optim.lr": 2e-5, "optim.connector_ratio": 100.0})
    assert rates["optim.connector_lr"] == pytest.approx(2e-3)


def test_a_metric_nobody_measured_is_refused_with_those_there_are(desk: Desk, ablate: Any) -> None:
    write(desk, "F3")
    said = ablate("show", "F3", "--metric", "val_los")
    assert said.code == 2
    assert said.err == "Error: --metric 'val_los' was never measured here. Did you mean \"val_loss\"?\n"


def test_logs_print_the_end_of_the_last_attempt_s_log(desk: Desk, ablate: Any) -> None:
    write(desk, "F3")
    key = next(job.key for job in desk.plan().jobs if job.id == "F3-s42")
    log = desk.folders.log(str(key), 1)
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert ablate("logs", "F3@42", "-n", "2").out.splitlines()[1:] == ["line 98", "line 99"]
    assert ablate("logs", key, "-n", "1", "--json").document["logs"][0]["lines"] == ["line 99"]


def test_logs_of_what_has_not_run_say_so(ablate: Any) -> None:
    said = ablate("logs", "LR2@42")
    assert said.code == 2
    assert said.err.startswith("Error: there is no log yet: LR2-s42 is waiting (decision freeze is open")


def test_following_a_log_waits_for_it_and_says_so_once(desk: Desk, folder: Path) -> None:
    job = desk.plan().of_run("F3")[0]
    log = desk.folders.log(job.key or "", 1)
    words = [sys.executable, "-m", "ablate.cli", "logs", "F3@42", "-f"]
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # whoever started the tests may ignore it
    follower = subprocess.Popen(
        words, cwd=folder, env=repository_environment(), stdout=subprocess.PIPE, text=True, preexec_fn=listens
    )
    assert follower.stdout is not None
    try:
        said = "there is no log yet: F3-s42 is ready (nothing is missing). It is shown as soon as it is there; Ctrl-C leaves\n"
        assert follower.stdout.readline() == said
        write_job(desk, job, "running")
        log.parent.mkdir(parents=True)
        log.write_text("line 1\n")
        assert follower.stdout.readline().startswith("F3-s42 attempt 1 (running)")
        assert follower.stdout.readline() == "line 1\n"
        follower.send_signal(signal.SIGINT)
        assert (follower.stdout.read(), follower.wait(10)) == ("", 0)
    finally:
        follower.kill()
        follower.wait()


@pytest.mark.parametrize(
    ("state", "rank", "message"),
    [
        ("failed", 0, "there is no log: F3-s42 is failed"),
        ("running", 2, "there is no log of rank 2: ranks count from 0, and there are 2"),
    ],
)
def test_a_log_that_never_comes_is_not_waited_for(desk: Desk, state: str, rank: int, message: str) -> None:
    job = desk.plan().of_run("F3")[0]
    for _ in range(3 if state == "failed" else 1):
        write_job(desk, job, state)
    jobs = [one for one in desk.plan().jobs if one.id == job.id]
    with pytest.raises(UserError) as caught:
        logs_screens.follow(lambda: logs_answers.logs(desk, jobs, 40, rank))
    assert message in str(caught.value)


SEEDLESS = "the trainer's command does not say {seed}: nothing tells the 3 jobs of a run apart. "


@pytest.mark.parametrize(
    ("command", "script", "told"),
    [
        ("{python} train.py {folder}", "", True),
        ("{python} train.py {--key=value}", "config.json", True),
        ("{python} train.py {folder}", "json.load(open(sys.argv[1] + '/config.json'))['seed']", False),
        ("{python} train.py --seed={seed}", "", False),
    ],
)
def test_a_command_that_is_not_told_its_seed_is_noted(folder: Path, ablate: Any, command: str, script: str, told: bool) -> None:
    (folder / "runs.toml").write_text(STUDY.replace("{python} train.py {folder}", command))
    (folder / "train.py").write_text(f"# {script}")
    notes, checked = ablate("plan", "--json").document["notes"], ablate("check", "--only", "power", "--json").document
    assert [note for note in notes if note.startswith(SEEDLESS)] == notes[-1:] * told
    assert checked["seeds_note"] == (notes[-1] if told else "")
    flags = [line for line in checked["power"] if line["level"] == "flag"]
    assert checked["counts"]["flag"] == len(flags) + told


UNSAID = "the trainer's command does not hand on "


@pytest.mark.parametrize(
    ("command", "script", "told"),
    [
        ("{python} train.py --seed={seed}", "", True),
        ("{python} train.py {folder} --seed={seed}", "", True),
        ("{python} train.py {--key=value} --seed={seed}", "", False),
        ("{python} train.py {folder} --seed={seed}", "json.load(open(sys.argv[1] + '/config.json'))['settings']", False),
    ],
)
def test_a_command_that_hands_no_settings_on_is_noted(folder: Path, ablate: Any, command: str, script: str, told: bool) -> None:
    (folder / "runs.toml").write_text(STUDY.replace("{python} train.py {folder}", command))
    (folder / "train.py").write_text(f"# {script}")
    notes = ablate("plan", "--json").document["notes"]
    assert [note.startswith(UNSAID) for note in notes].count(True) == told


@pytest.mark.parametrize("words", [("lock", "--lift"), ("decide", "sweep1", "--take", "F2"), ("launch",)])
def test_the_dots_of_a_hint_are_no_reason(ablate: Any, words: tuple[str, ...]) -> None:
    said = ablate(*words, "--because", "…")
    assert (said.code, "in place of the …" in said.err) == (2, True)


# ---------------------------------------------------------------- launch


def test_a_dry_run_starts_nothing_and_says_the_order(ablate: Any) -> None:
    said = ablate("launch", "--dry-run", "--json", "--block", "1")
    assert said.code == 0
    assert [job["id"] for job in said.document["starts"]] == ["F3-s42", "F1-s42", "F3-s43", "F1-s43", "F3-s44", "F1-s44"]
    out = ablate("launch", "--dry-run").out
    assert "would start, in this order" in out
    assert "later    LR2-s42, LR2-s43, LR2-s44: decision freeze is open" in out


def test_launch_here_wants_exactly_one_job_that_may_start(ablate: Any) -> None:
    said = ablate("launch", "--here", "--run", "F3")
    assert (said.code, said.err) == (
        2,
        "Error: --here trains exactly one job; name it with --run RUN@SEED (F3@42, F3@43, F3@44)\n",
    )
    said = ablate("launch", "--here", "--run", "LR2@42")
    assert said.err == "Error: LR2-s42 is waiting: decision freeze is open: it may skip sweep2\n"


def test_launch_here_trains_one_job_and_its_numbers_are_in_the_database(desk: Desk, ablate: Any) -> None:
    said = ablate("launch", "--here", "--run", "F3@42", "--json")
    assert said.code == 0, said.err
    assert said.document["state"] == "done"
    shown = ablate("show", "F3@42", "--json").document
    assert shown["curve"]["jobs"]["F3-s42"] == [[1, 1.0], [2, 0.5], [3, pytest.approx(1 / 3)]]
    assert ablate("logs", "F3").out.splitlines()[-1] == "trained"
    assert {job.id for job in desk.plan().jobs if job.state == "done"} == {"F3-s42"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launch", "--run", "F33"], "there is no run or job 'F33'. Did you mean \"F3\"?"),
        (["show", "F3@7"], "F3 has no seed '7'; it has 42, 43, 44"),
        (["plan", "--block", "9"], "there is no block '9'; blocks: 1, 2"),
        (["plan", "--study", "nowhere.toml"], "nowhere.toml"),
        (["plan", "--profile", "tny"], "tiny"),
        (["plan", "--gpus", "1"], "--gpus 1: F3-s42 needs 2."),
        (["lock", "--lift", "--because", "x"], "nothing is locked (profile full)"),
        (["init", "runs.toml"], "runs.toml exists already"),
        (["plan", "--nonsense"], "No such option: --nonsense"),
    ],
)
def test_a_mistake_is_told_without_a_traceback_and_exits_2(ablate: Any, words: list[str], message: str) -> None:
    said = ablate(*words)
    assert said.code == 2
    assert message in said.err
    assert said.out == ""


def test_a_program_that_asked_for_a_document_gets_its_error_as_one(ablate: Any) -> None:
    said = ablate("plan", "--block", "9", "--json")
    assert said.code == 2
    assert said.document == {"error": "there is no block '9'; blocks: 1, 2"}
    assert said.err == "Error: there is no block '9'; blocks: 1, 2\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status", "--json", "--gpus"], "No such option: --gpus"),
        (["plann", "--json"], "No such command 'plann'"),
        (["data", "statsu", "--json"], "No such command 'statsu'"),
        (["show", "--json"], "Missing argument"),
        (["plan", "--gpus", "0", "--json"], "Invalid value for '--gpus'"),
        (["plan", "--json", "F3"], "Got unexpected extra argument"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_what_is_wrong_with_the_arguments_is_a_document_too(ablate: Any, words: list[str], message: str) -> None:
    said = ablate(*words)
    assert said.code == 2
    assert list(said.document) == ["error"]
    assert said.document["error"].startswith(message)
    assert said.err == f"Error: {said.document['error']}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["plan"],
        ["status"],
        ["show", "F3"],
        ["logs", "F3"],
        ["decide", "--explain"],
        ["compare", "F1", "F3"],
        ["audit"],
        ["check", "--only", "trees"],
        ["launch", "--dry-run"],
        ["rehearse", "--studies", "5"],
    ],
    ids=" ".join,
)
def test_who_only_looks_leaves_nothing_behind(folder: Path, ablate: Any, words: list[str]) -> None:
    before = sorted(folder.rglob("*"))
    ablate(*words)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        ["decide", "NOSUCH"],
        ["decide", "sweep1", "--take", "NOSUCH", "--because", "x"],
        ["decide", "sweep1", "--take", "F1"],
        ["launch", "--run", "NOSUCH"],
        ["launch", "--block", "NOSUCH"],
        ["launch", "--settle", "NOSUCH"],
        ["launch", "--settle", "sweep1"],
        ["launch", "--here"],
        ["launch", "--gpus", "1"],
        ["stop", "NOSUCH"],
        ["stop", "F3"],
        ["stop"],
        ["retry", "NOSUCH"],
        ["retry", "F3"],
        ["lock"],
        ["lock", "--lift", "--because", "x"],
        ["import", "NOSUCH.csv"],
        ["import", "past.csv", "--as", "x=F3"],
        ["import", "past.csv", "--map", "run=nosuch"],
    ],
    ids=" ".join,
)
def test_a_mistake_makes_no_database(folder: Path, ablate: Any, words: list[str]) -> None:
    (folder / "past.csv").write_text("run,seed,step,val_loss\nF9,42,1,1.0\n")
    before = sorted(folder.rglob("*"))
    assert ablate(*words).code == (3 if words == ["lock"] else 2)
    assert sorted(folder.rglob("*")) == before


def test_a_person_may_decide_before_anything_was_launched(folder: Path, ablate: Any) -> None:
    assert ablate("decide", "sweep1", "--take", "F1", "--because", "memory", "--json").document["decisions"][0]["took"] == "F1"
    assert open_desk(read_study(folder / "runs.toml")).store.decisions()["freeze"].by == "person"


def test_status_says_when_folders_and_database_know_different_jobs(desk: Desk, ablate: Any) -> None:
    write(desk, "F3", last=1.0)
    assert "F3-s42" in ablate("status", "--json").document["notes"][0]
    for job in desk.plan().of_run("F3"):
        desk.folders.job_record(job.key or "").parent.mkdir(parents=True)
        desk.folders.job_record(job.key or "").write_text("{}")
    assert ablate("status", "--json").document["notes"] == []
    Path(desk.store.path).unlink()
    (note,) = ablate("status", "--json").document["notes"]
    assert "not in the database; take them in with ablate rebuild" in note


def test_a_launch_that_was_killed_is_said_to_be_gone_and_its_jobs_cost_no_more(desk: Desk, ablate: Any) -> None:
    write(desk, "F3", state="running")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    holder = f"somebody@{socket.gethostname()}:{dead.pid}"
    assert desk.store.acquire_lease(holder, utc_now(), 60.0) is not None
    beat = datetime.now(UTC) + timedelta(hours=1)
    assert desk.store.renew_lease(holder, beat.isoformat(timespec="seconds"))
    found = ablate("status", "--json").document
    assert found["launching"]["gone"] is True
    assert found["next"] == "ablate launch"
    assert found["gpu_hours"] == pytest.approx(3 * 2 * 1.0, abs=0.05), "three jobs of two GPUs, until the last beat"
    assert "is gone, last heard of at" in " ".join(ablate("status").out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["init", "nowhere/at/all/runs.toml"], "there is no folder 'nowhere/at'"),
        (["launch", "--here", "--run", "F3@42", "--new-code", "--because", "x"], "give --new-code to a launch without --here"),
        (["compare", "F3", "F3"], "the same run: there is nothing to compare"),
        (["compare", "F3", "LR1"], "the same run: there is nothing to compare"),
        (["plan", "--diff", "nowhere.toml"], "--diff nowhere.toml: there is no such file"),
    ],
)
def test_a_place_that_is_not_there_is_named_and_not_made(folder: Path, ablate: Any, words: list[str], message: str) -> None:
    said = ablate(*words)
    assert said.code == 2
    assert message in said.err
    assert not (folder / "nowhere").exists()


def test_away_from_a_terminal_a_launch_is_told_line_by_line(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(watcher_screens, "LINE_EVERY_S", 0.0)
    write(desk, "F3", state="running")
    with watcher_screens.launch_watcher(desk, launch_answers.dry_run(desk, "", (), 4), quiet=False) as watcher:
        watcher.event(Event("started", "F3-s42: the baseline"))
        watcher.tick(Tick(desk.plan(), (Progress("F3-s42", 0.5, 4800, 1.25, 30.0, 30.0),), 60.0, 0.03))
        watcher.ask_to_stop("stop")
        assert watcher.stop_asked() == "stop"
    out = capsys.readouterr().out
    assert "to come  12 jobs · 12.0 GPU-hours · $24.00 · 3.5 h on 4 GPUs (hours as declared)" in out
    assert "started  F3-s42: the baseline" in out
    assert "progress 3 running · 3 ready · 6 waiting · 0.017 GPU-hours · $0.03 · about 3.5 h left" in out
    assert "F3-s42: 50%, 4,800 samples, loss 1.25, since 30 s, 30 s left" in out


def test_a_launch_ends_with_states_decisions_and_what_waits(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        write(desk, "F3", state="failed")
    document = launch_answers.outcome(desk, Outcome(desk.plan(), None, ("decision 'freeze' (sweep1) is open",)))
    assert document["exit_code"] == 1
    launch_screens.outcome(document)
    out = capsys.readouterr().out
    assert "3 ready · 6 waiting · 3 failed" in out
    assert "failed   F3-s42: 3 attempts failed, the last one: Traceback …\nRuntimeError: no space left" in out
    assert "waits    decision 'freeze' (sweep1) is open" in out
    assert out.endswith("Next: ablate logs F3@42\n")


def test_jobs_that_failed_alike_are_told_once(desk: Desk, ablate: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for job in desk.plan().jobs:
        for _ in range(3 if job.run in ("F3", "F1") else 0):
            write_job(desk, job, "running")
            log = f"step {job.seed}\nits loss {job.seed / 7}\n{'boom' if job.run == 'F1' else f'RuntimeError: {job.seed}'}"
            number = desk.store.attempts()[job.key or ""][-1].number
            desk.store.end_attempt(job.key or "", number, "failed", f"the command exited with code 3; its log ends:\n{log}", NOW)
    launch_screens.outcome(launch_answers.outcome(desk, Outcome(desk.plan(), None, ())))
    for out in (capsys.readouterr().out, ablate("status").out):
        assert out.count("the command exited with code 3") == out.count("failed   F") == 2
        assert "RuntimeError: 42\n         so did F3-s43, F3-s44\n" in out
        assert "boom\n         so did F1-s43, F1-s44\n" in out
        assert "RuntimeError: 43" not in out


# ---------------------------------------------------------------- lock, init, rebuild, help


def all_decided(desk: Desk, ablate: Any) -> None:
    write(desk, "F3", "F1")
    ablate("decide", "sweep1")
    write(desk, "LR2")
    ablate("decide", "sweep2")
    write(desk, "D1", last=0.9)


def test_the_lock_says_where_each_key_came_from_and_can_be_lifted(desk: Desk, ablate: Any) -> None:
    said = ablate("lock")
    assert said.code == 3
    assert "not locked yet" in said.out
    all_decided(desk, ablate)
    said = ablate("lock", "--json")
    assert said.code == 0
    document = said.document
    assert document["locked"]
    assert document["settings"]["model.frozen"] is False
    assert set(document["settings"]) == set(document["sources"])
    assert "provisional until it is confirmed" in " ".join(ablate("lock").out.split())
    assert "nothing else starts until the lock is lifted" in " ".join(ablate("plan").out.split())
    refused = ablate("decide", "sweep1", "--take", "F1", "--because", "x")
    assert refused.code == 2
    assert "the study is locked since" in refused.err
    assert (
        ablate("lock", "--lift").err
        == 'Error: lifting a lock needs a reason that can be read later: ablate lock --lift --because "…"\n'
    )
    lifted = ablate("lock", "--lift", "--because", "a bug in D1")
    assert lifted.code == 0
    assert "lifted   a bug in D1" in lifted.out
    assert desk.store.lock() is None


def test_init_writes_a_first_study_that_can_be_planned(folder: Path, ablate: Any) -> None:
    said = ablate("init", "new/runs.toml")
    assert said.code == 0
    assert said.out == "new/runs.toml written. Next: ablate plan --study new/runs.toml\n"
    assert read_study(folder / "new" / "runs.toml").runs


def test_rebuild_without_outputs_says_so(ablate: Any) -> None:
    said = ablate("rebuild")
    assert said.code == 2
    assert "nothing to rebuild" in said.err


@pytest.mark.parametrize("command", ["plan", "launch", "decide", "explain", "status", "show", "logs", "lock", "init", "rebuild"])
def test_help_has_an_example(ablate: Any, command: str) -> None:
    said = ablate(command, "--help")
    assert said.code == 0
    assert f"Example: ablate {command}" in " ".join(said.out.split())


@pytest.mark.usefixtures("folder")
def test_names_of_the_study_are_completed() -> None:
    class Context:
        def __init__(self, **params: Any) -> None:
            self.params = params

    here: Any = Context()
    assert [word for word, _ in run(here, "LR")] == ["LR2", "LR1", "LR2@42", "LR2@43", "LR2@44"]
    assert sweep(here, "sweep2") == [("sweep2", "Which ratio?")]
    assert block(here, "") == [("1", "F3, F1"), ("2", "LR2, D1")]
    assert [word for word, _ in profile(here, "")] == ["full", "tiny"]
    nowhere: Any = Context(study=Path("nowhere.toml"))
    assert run(nowhere, "") == []


# ---------------------------------------------------------------- drawing


def compared(delta: float | None, low: float | None, high: float | None, holds: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"delta": delta, "low": low, "high": high, "margin": 0.1, "holds": list(holds), "tost_low": None, "tost_high": None}


@pytest.mark.parametrize(
    ("comparison", "bar"),
    [
        (compared(0.0, -0.05, 0.05), "     ┊  ──●──  ┊     "),
        (compared(0.15, 0.05, 0.25), "      ┊   │ ──┼─●────"),
        (compared(-0.1, None, None), "     ●    │    ┊     "),
        (compared(2.0, -1.0, 9.0), "‹───────┼─┼─┼───────●"),
        (compared(None, None, None), ""),
    ],
)
def test_a_margin_bar_has_zero_in_its_middle_and_the_margin_on_both_sides(comparison: dict[str, Any], bar: str) -> None:
    assert comparisons_screens.margin_bar(comparison) == bar


def test_a_cell_that_a_narrow_terminal_cuts_says_so() -> None:
    table = drawing.table("state", ">hours")
    table.add_row("waiting", "12,345")
    out = io.StringIO()
    Console(file=out, width=12).print(table)
    assert all(cell.endswith("…") for cell in out.getvalue().splitlines()[1].split())


@pytest.mark.parametrize(
    ("words", "to", "code", "said"),
    [
        ("show X9 --json", "| true", 2, "there is no run or job 'X9'"),
        ("plan --json", ">&-", 0, ""),
        ("plan", ">/dev/full", 2, "the answer could not be written: No space left on device"),
        ("plan", "| grep small >&2", 0, "small ? full ? 12 jobs"),
    ],
    ids=["a pipe that nobody reads", "a closed stdout", "a full disk", "a terminal without our characters"],
)
def test_wherever_a_command_speaks_to_it_ends_without_a_traceback(
    folder: Path, words: str, to: str, code: int, said: str
) -> None:
    line = f"{sys.executable} -m ablate.cli {words} {to}; exit ${{PIPESTATUS[0]}}"
    environment = {**repository_environment(), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert not {"Traceback", "ignored"} & set(done.stderr.split())


def test_numbers_that_are_not_finite_become_null() -> None:
    made = DecisionRecord("t", "s", "decided", "F3", "", {}, "", "rule", NOW, comparisons=({"low": -math.inf, "p": math.nan},))
    assert document_answers.plain(decide_answers.decision(made))["comparisons"] == [{"low": None, "p": None}]


# ---------------------------------------------------------------- what to do next


def after_a_launch(desk: Desk) -> str:
    found: str = launch_answers.outcome(desk, Outcome(desk.plan(), None, ()))["next"]
    return found


def test_a_block_that_has_ended_is_followed_by_the_launch_of_what_may_start_now(desk: Desk, ablate: Any) -> None:
    write(desk, "F3", "F1")
    assert ablate("show", "D1", "--json").document["next"] == "ablate launch", "D1 waits: to launch it alone would start nothing"
    assert ablate("decide", "sweep1", "--json").document["next"] == "ablate launch"
    assert after_a_launch(desk) == "ablate launch"
    write(desk, "LR2")
    ablate("decide")
    write(desk, "D1")
    assert ablate("decide", "--json").document["next"] == after_a_launch(desk) == "ablate lock"


def test_what_waits_to_be_trained_anew_is_launched_with_redo_stale(desk: Desk, ablate: Any) -> None:
    write(desk, "F3", "F1", "LR2")
    ablate("decide")
    write(desk, "D1")
    ablate("decide", "sweep1", "--take", "F1", "--because", "no memory")
    ablate("decide", "sweep2")
    for words in (("launch", "--dry-run"), ("status",), ("plan",), ("decide",)):
        assert ablate(*words, "--json").document["next"] == "ablate launch --redo-stale"
    assert after_a_launch(desk) == "ablate launch --redo-stale"
    assert ablate("launch", "--dry-run", "--redo-stale", "--json").document["next"] == "ablate launch --redo-stale"


def test_a_decision_that_waits_for_a_job_out_of_attempts_says_retry(desk: Desk, ablate: Any) -> None:
    write(desk, "F3")
    for _ in range(3):
        write(desk, "F1", state="failed")
    assert ablate("decide", "sweep1", "--json").document["next"] == "ablate retry F1@42"


def _once_then_leave(answers: Iterator[dict[str, Any]]) -> dict[str, Any]:
    for answer in answers:
        return answer
    raise KeyboardInterrupt


def test_one_of_a_thing_is_told_in_the_singular(folder: Path, ablate: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "runs.toml").write_text(STUDY.replace("gpus_per_run     = 2", "gpus_per_run     = 1"))
    assert "12 jobs, 1 GPU each" in ablate("plan").out
    desk = open_desk(read_study(folder / "runs.toml"))
    write(desk, "F3", "F1")
    ablate("decide", "sweep1")
    assert "audit: the only one follows" in ablate("audit").out
    job = desk.plan().of_run("F3")[0].key or ""
    desk.store.add_points(job, 1, [Point(job, 1, 1000, "val_loss", 1.02)], 0)
    assert "audit: 1 of 1 does not follow from the database" in ablate("audit").out
    ablate("decide", "sweep1", "--take", "F3", "--because", "x")
    write(desk, "LR2", state="running")
    for job in desk.plan().of_run("LR2"):
        desk.store.add_points(job.key or "", 1, [Point(job.key or "", 1, 1000, "samples", 1.0)], 0)
    status_screens.follow(partial(_once_then_leave, iter([status_answers.status(desk)])), every_s=0.0)
    assert "LR2-s42 25%, 1 sample, " in capsys.readouterr().out


# ---------------------------------------------------------------- what is trained once


def test_a_row_that_another_one_trains_is_found_by_its_own_name_and_counted_once(folder: Path, ablate: Any) -> None:
    (folder / "runs.toml").write_text(SHARED.replace("[1, 2, 3]", "[42, 43, 44]"))
    desk = open_desk(read_study(folder / "runs.toml"))
    for job in (*desk.plan().of_run("base"), *desk.plan().of_run("b")):
        write_job(desk, job, "done", 1.0)
    ablate("decide")
    shown = ablate("show", "keep", "--json").document
    assert (shown["run"], shown["aliases"]) == ("base", ["keep"])
    assert [job["id"] for job in ablate("show", "keep@43", "--json").document["jobs"]] == ["base-s43"]
    plan = ablate("plan", "--json").document
    assert "keep is the same config as base, and trained once for both" in plan["notes"]
    assert plan["totals"]["jobs"] == sum(ablate("status", "--json").document["states"].values()) == 15
    assert "keep and base came out as the same config" in ablate("compare", "keep", "base").out
    finals = load(folder / "runs.toml").finals("val_loss", ["base", "keep"])
    assert list(zip(finals["run"], finals["n"], strict=True)) == [("base", 3), ("keep", 3)]
