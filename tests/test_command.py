"""Scripts that know nothing of ablate, run for real through their command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ablate import command as door
from ablate.command import flat, render
from ablate.desk import Desk, open_desk
from ablate.launching import crew
from ablate.launching.launch import train_here
from ablate.measured import Metrics
from ablate.planning.failures import classify
from ablate.runs_toml import read_study
from ablate.study import UserError, nested
from db.records import AttemptRecord
from tests.conftest import REPOSITORY, alive, repository_environment, until
from tests.launching.test_launch import Witness

SETTINGS = {
    "optim": {"lr": 1e-4},
    "model": {"deep": True, "name": "two words; $HOME"},
    "data": {"mix": {"video": 0.5, "image": 0.5}},
}
JOB = {"settings": SETTINGS, "seed": 42, "resume_from": ""}


def folder_of(place: Path, command: str, stdout: str = "", file: str = "", **job: Any) -> Path:
    folder = place / "attempt of a job"
    folder.mkdir()
    trainer = {"command": command, "stdout": stdout, "metrics_file": file, "metrics": ["loss", "val_loss/video", "accuracy"]}
    (folder / "config.json").write_text(json.dumps({**JOB, "attempt": 2, "trainer": trainer, **job}))
    return folder


def script(place: Path, code: str) -> None:
    (place / "train.py").write_text(code)


def start(folder: Path, rank: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ablate.command", str(folder)],
        cwd=folder.parent,
        env={**repository_environment(), "RANK": str(rank), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, rank: int = 0) -> tuple[int, str]:
    """Exit code and everything written."""
    process = start(folder, rank)
    output, _ = process.communicate(timeout=30)
    return process.returncode, output


def measured(folder: Path) -> list[tuple[int, dict[str, float]]]:
    points = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(point["attempt"] == 2 for point in points)
    return [(point["step"], point["metrics"]) for point in points]


def result(folder: Path) -> dict[str, Any] | None:
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.exists() else None


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("train --lr {optim.lr}", ["train", "--lr", "0.0001"]),
        ("train --deep={model.deep} --mix={data.mix}", ["train", "--deep=true", '--mix={"video": 0.5, "image": 0.5}']),
        ("train {model.name}", ["train", "two words; $HOME"]),
        ("train '--note=a b' --seed={seed}", ["train", "--note=a b", "--seed=42"]),
        ("{python} {folder}/x", [sys.executable, "/f/x"]),
        ("train --from={resume_from} now", ["train", "now"]),
        (
            "train {--key=value}",
            [
                "train",
                "--optim.lr=0.0001",
                "--model.deep=true",
                "--model.name=two words; $HOME",
                "--data.mix.video=0.5",
                "--data.mix.image=0.5",
            ],
        ),
    ],
)
def test_a_template_becomes_words_and_no_shell_reads_them(template: str, words: list[str]) -> None:
    assert render(template, JOB, Path("/f")) == words


def test_a_checkpoint_to_resume_from_is_named_once_there_is_one() -> None:
    assert render("train --from={resume_from}", {**JOB, "resume_from": "/c p/8"}, Path("/f")) == ["train", "--from=/c p/8"]


def test_a_template_that_names_what_is_not_there_is_a_users_mistake() -> None:
    with pytest.raises(UserError, match=r"^trainer\.command: there is no \{optim\.lrr\}; did you mean \{optim\.lr\}\?$"):
        render("train {optim.lrr}", JOB, Path("/f"))
    with pytest.raises(UserError, match="cannot be split into words: No closing quotation"):
        render("train 'x", JOB, Path("/f"))
    with pytest.raises(UserError, match=r"^trainer\.command is empty; write for example"):
        render(" ", JOB, Path("/f"))


def test_tables_and_their_leaves_have_dotted_names() -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": [2]}) == ({"a.b.c": 1, "d": [2]}, {"a": {"b": {"c": 1}}, "a.b": {"c": 1}})


def test_numbers_in_the_output_become_metrics_and_the_output_is_kept(tmp_path: Path) -> None:
    script(tmp_path, "import sys\nprint(sys.argv[1])\nprint('step 10: loss 0.1 val nan')\nprint('step 20: loss 0.05')")
    folder = folder_of(
        tmp_path, "{python} train.py {model.name}", r"step (?P<step>\d+): loss (?P<loss>\S+)(?: val (?P<val_loss__video>\S+))?"
    )
    code_, output = run(folder)
    assert (code_, output) == (0, "two words; $HOME\nstep 10: loss 0.1 val nan\nstep 20: loss 0.05\n")
    (first, values), second = measured(folder)
    assert (first, values["loss"], str(values["val_loss/video"])) == (10, 0.1, "nan")
    assert second == (20, {"loss": 0.05})
    ended = result(folder)
    assert ended is not None
    assert (ended["outcome"], ended["reason"]) == ("diverged", "val_loss/video was nan at step 10")


def test_a_command_that_ends_well_is_done(tmp_path: Path) -> None:
    script(tmp_path, "print('accuracy 0.25')\nprint('accuracy 0.5')")
    folder = folder_of(tmp_path, "{python} train.py", r"accuracy (?P<accuracy>\S+)")
    assert run(folder)[0] == 0
    assert measured(folder) == [(1, {"accuracy": 0.25}), (2, {"accuracy": 0.5})]
    ended = result(folder)
    assert ended is not None
    assert (ended["outcome"], ended["reason"]) == ("done", "")


def test_metrics_can_come_from_a_json_lines_file(tmp_path: Path) -> None:
    script(
        tmp_path,
        "import sys, json, time\n"
        "log = open(sys.argv[1], 'a')\n"
        "log.write(json.dumps({'step': 5, 'loss': float('inf'), 'note': 'x', 'ok': True}) + '\\n')\n"
        "log.write('garbage\\n')\n"
        "log.write(json.dumps({'step': 6, 'loss': 0.5}))",
    )
    folder = folder_of(tmp_path, "{python} train.py {folder}/log.jsonl", file="log.jsonl")
    assert run(folder) == (0, "ablate: a line: not read here, because it is no JSON object, in 'garbage'\n")
    assert measured(folder) == [(5, {"loss": float("inf")}), (6, {"loss": 0.5})]
    ended = result(folder) or {}
    assert (ended["outcome"], ended["facts"]["exit_code"]) == ("done", 0)
    assert ended["reason"] == "a line: not read once, first because it is no JSON object, in 'garbage'"


def test_a_metric_that_ends_as_nan_has_diverged(tmp_path: Path) -> None:
    script(tmp_path, "print('step 1: val loss 0.5')\nprint('step 2: val loss nan')")
    folder = folder_of(tmp_path, "{python} train.py", r"step (?P<step>\d+): val loss (?P<loss>\S+)")
    assert run(folder)[0] == 0
    ended = result(folder) or {}
    assert (ended["outcome"], ended["reason"]) == ("diverged", "loss was nan at step 2")


def test_a_command_whose_last_word_on_a_metric_cannot_be_read_has_failed_and_is_not_tried_again(tmp_path: Path) -> None:
    script(tmp_path, "print('loss 0.5')\nprint('loss 0.25e-3', end='')")
    folder = folder_of(tmp_path, "{python} train.py", r"loss (?P<loss>.+?)")
    code, output = run(folder)
    why = "'0' is a part of what stands there; have the pattern take it whole, with \\S+, in 'loss 0.25e-3'"
    assert output.splitlines()[-1] == f"ablate: the command ended well, but the last loss cannot be read: {why}"
    assert classify("rank failed", (code,), output) == "code error"
    assert result(folder) is None


def test_what_a_script_measures_after_it_closed_its_output_counts(tmp_path: Path) -> None:
    script(
        tmp_path,
        "import os, sys, time\n"
        "os.close(1); os.close(2); time.sleep(0.3)\n"
        "open(sys.argv[1], 'w').write('{\"step\": 9, \"loss\": 2}')",
    )
    folder = folder_of(tmp_path, "{python} train.py {folder}/log.jsonl", file="log.jsonl")
    assert run(folder) == (0, "")
    assert measured(folder) == [(9, {"loss": 2.0})]


def test_a_progress_bar_that_rewrites_its_line_is_read_and_kept_as_it_is(tmp_path: Path) -> None:
    text = "".join(f"loss {n}\r" for n in range(1, 4)) + "x" * 200_000 + "\nloss 4\r\n"
    script(tmp_path, f"import sys\nsys.stdout.buffer.write({text!r}.encode())")
    folder = folder_of(tmp_path, "{python} train.py", r"loss (?P<loss>\S+)")
    process = start(folder)
    process.communicate(timeout=30)
    assert [values["loss"] for _, values in measured(folder)] == [1, 2, 3, 4]


def test_a_disk_that_takes_no_metrics_ends_the_command_and_fails_the_attempt(tmp_path: Path) -> None:
    script(tmp_path, "import time\nprint('loss 1', flush=True)\ntime.sleep(60)")
    folder = folder_of(tmp_path, "{python} train.py", r"loss (?P<loss>\S+)")
    (folder / "metrics.jsonl").symlink_to("/dev/full")
    code, output = run(folder)
    assert output.splitlines()[1].startswith(f"ablate: {folder}/metrics.jsonl: cannot be written: No space left on device.")
    assert classify("rank failed", (code,), output) == "disk error"


def test_metrics_in_a_file_are_seen_while_the_command_runs(tmp_path: Path) -> None:
    script(tmp_path, "import sys, time\nopen(sys.argv[1], 'w').write('{\"step\": 1, \"loss\": 2}\\n')\ntime.sleep(60)")
    folder = folder_of(tmp_path, "{python} train.py {folder}/log.jsonl", file="log.jsonl")
    process = start(folder)
    until(lambda: (folder / "metrics.jsonl").exists() and measured(folder) == [(1, {"loss": 2.0})])
    process.terminate()
    assert process.wait() == 143


def test_a_command_that_fails_has_no_result_and_its_exit_code_is_kept(tmp_path: Path) -> None:
    script(tmp_path, "print('loss 1')\nraise SystemExit(3)")
    folder = folder_of(tmp_path, "{python} train.py", r"loss (?P<loss>\S+)")
    assert run(folder) == (3, "loss 1\nablate: the command exited with code 3\n")
    assert result(folder) is None


def test_a_command_that_died_of_a_signal_says_which(tmp_path: Path) -> None:
    script(tmp_path, "import os\nprint('loss 1', flush=True)\nos.kill(os.getpid(), 11)")
    folder = folder_of(tmp_path, "{python} train.py", r"loss (?P<loss>\S+)")
    assert run(folder) == (139, "loss 1\nablate: the command exited on SIGSEGV\n")


@pytest.mark.parametrize("code", [0, 1])
def test_a_result_that_the_script_wrote_itself_counts_for_nothing(tmp_path: Path, code: int) -> None:
    own = {"outcome": "done", "reason": "mine", "facts": {"samples": 1}}
    script(tmp_path, f"import sys\nopen(sys.argv[1], 'w').write({json.dumps(own)!r})\nprint('loss 1')\nsys.exit({code})")
    folder = folder_of(tmp_path, "{python} train.py {folder}/result.json", r"loss (?P<loss>\S+)")
    assert run(folder)[0] == code
    assert (result(folder) is None) == bool(code)
    assert "mine" not in str(result(folder))


def test_a_command_that_measures_nothing_has_failed(tmp_path: Path) -> None:
    script(tmp_path, "print('done')")
    folder = folder_of(tmp_path, "{python} train.py", r"loss (?P<loss>\S+)")
    assert run(folder) == (2, "done\nablate: the command ended well, but no line of its output matches 'loss (?P<loss>\\\\S+)'\n")
    assert result(folder) is None


def test_a_command_that_is_not_there_has_failed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "no-such-trainer", r"loss (?P<loss>\S+)")
    words = "cannot run 'no-such-trainer': No such file or directory\nablate: the command exited with code 127\n"
    assert run(folder) == (127, words)


def test_a_stopped_command_may_save_and_has_not_ended_even_if_it_leaves_with_zero(tmp_path: Path) -> None:
    script(
        tmp_path,
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open('saved', 'w').close(), sys.exit(0)))\n"
        "print('loss 1', flush=True)\n"
        "time.sleep(60)",
    )
    folder = folder_of(tmp_path, "{python} train.py", r"loss (?P<loss>\S+)")
    process = start(folder)
    until(lambda: (folder / "metrics.jsonl").exists() and measured(folder))
    process.terminate()
    assert process.wait(10) == 143
    assert (tmp_path / "saved").exists()
    assert result(folder) is None


def test_a_command_does_not_outlive_its_rank(tmp_path: Path) -> None:
    script(tmp_path, "import os, time\nprint('pid', os.getpid(), flush=True)\ntime.sleep(60)")
    folder = folder_of(tmp_path, "{python} train.py", r"pid (?P<pid>\d+)")
    process = start(folder)
    until(lambda: (folder / "metrics.jsonl").exists() and measured(folder))
    pid = int(measured(folder)[0][1]["pid"])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert until(lambda: not alive(pid)) < 1.0


def test_only_the_first_rank_keeps_the_folder(tmp_path: Path) -> None:
    script(tmp_path, "print('loss 1')")
    folder = folder_of(tmp_path, "{python} train.py", r"loss (?P<loss>\S+)")
    assert run(folder, rank=1) == (0, "loss 1\n")
    assert not (folder / "metrics.jsonl").exists()
    assert result(folder) is None


def test_a_number_that_is_none_was_not_measured(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 2, ["rate"])
    metrics.read_json('{"step": 3, "loss": "n/a", "flag": true, "rate": "1e-3"}')
    assert measured(tmp_path) == [(3, {"rate": 0.001})]


def test_the_unrelated_example_runs_by_its_own_command_line(tmp_path: Path) -> None:
    study = read_study(REPOSITORY / "examples/unrelated/runs.toml")
    folder = folder_of(tmp_path, study.trainer.command, study.trainer.stdout, settings=nested(study.settings))
    (tmp_path / "fit.py").symlink_to(REPOSITORY / "examples/unrelated/fit.py")
    code, output = run(folder)
    assert code == 0, output
    assert output.startswith("two rings: 20 trees of depth 2\n")
    assert [step for step, _ in measured(folder)] == list(range(1, 21))
    assert 0.5 < measured(folder)[-1][1]["accuracy"] < 1.0


STUDY = """
[study]
name          = "scripts"
baseline      = "A"
trainer       = { command = "{python} train.py {folder} {seed}", metrics = { file = "log.jsonl" } }
gpus_per_run  = 1
hours_per_run = 1.0
[settings]
rate = 1.0
[runs]
A = {}
[seeds]
every = [1]
[metrics]
loss = { better = "lower", margin = 0.1 }
[sweep1]
on = "loss"
compare = ["A"]
decide.rate = [["otherwise", "A", "the only one"]]
[blocks]
1 = ["A"]
[lock]
after = 1
"""
LOGS = 'import os, sys\nlog = open(sys.argv[1] + "/log.jsonl", "w")\n'


def trained(place: Path, code: str) -> tuple[AttemptRecord, Witness, Desk]:
    """The one job of a study whose script is `code`, trained for real."""
    (place / "runs.toml").write_text(STUDY)
    script(place, LOGS + code)
    desk, witness = open_desk(read_study(place / "runs.toml")), Witness()
    return train_here(desk, desk.plan().jobs[0], witness), witness, desk


def test_of_two_values_at_one_step_the_later_is_the_result(tmp_path: Path) -> None:
    record, _, desk = trained(tmp_path, r"""log.write('{"step": 100, "loss": 9.0}\n{"step": 100, "loss": 1.0}\n')""")
    assert (record.state, record.reason) == ("done", "")
    assert desk.store.final_values([record.job], {"loss": 1}) == {record.job: {"loss": 1.0}}


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("print('no data'); sys.exit(3)", "the command exited with code 3; its log ends:\nno data"),
        ("os.kill(os.getppid(), 9)", "rank failed, without a result.json"),
    ],
)
def test_a_result_of_the_scripts_own_does_not_make_a_failed_attempt_done(tmp_path: Path, ending: str, reason: str) -> None:
    own = """open(sys.argv[1] + "/result.json", "w").write('{"outcome": "done", "reason": "mine"}')"""
    record, _, _ = trained(tmp_path, f"""log.write('{{"step": 1, "loss": 1.0}}')\n{own}\n{ending}""")
    assert (record.state, record.reason) == ("failed", reason)


def test_a_large_log_is_kept_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "LARGE_LOG", 3 * 2**20)
    record, witness, desk = trained(tmp_path, f"""log.write('{{"step": 1, "loss": 1.0}}')\nprint("x" * {3 * 2**20})""")
    log = desk.folders.log(record.job, 1)
    assert (record.state, log.stat().st_size) == ("done", 3 * 2**20 + 1)
    assert witness.of("note") == [f"{record.job}: its log has 3 MiB, and all of it is kept: {log}"]


def test_what_a_script_leaves_behind_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_LEFT_BEHIND_S", 0.2)
    leaves = "import subprocess; print('loss 1', flush=True); subprocess.Popen(['sleep', '60'])"
    script = subprocess.Popen([sys.executable, "-c", leaves], stdout=subprocess.PIPE, start_new_session=True)
    read: list[str] = []
    try:
        door._attend(script, read.append, lambda _: None)
        assert read == ["loss 1"]
        assert script.poll() == 0
    finally:
        os.killpg(script.pid, signal.SIGKILL)
