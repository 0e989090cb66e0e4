"""Past results brought in: what the study makes of them, what never happens twice, and what a crash leaves."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ablate import cli, evidence
from ablate.answers import audit as audit_answers
from ablate.answers import compare as compare_answers
from ablate.answers import decide as decide_answers
from ablate.answers import launch as launch_answers
from ablate.answers import lock as lock_answers
from ablate.answers import plan as plan_answers
from ablate.answers import rebuild as rebuild_answers
from ablate.answers import rehearse as rehearse_answers
from ablate.answers import status as status_answers
from ablate.clock import utc_now
from ablate.desk import Desk, open_desk
from ablate.evidence import job_results
from ablate.launching import collect
from ablate.past.importing import Options, bring_in
from ablate.runs_toml import read_study
from ablate.study import IMPORTED, UserError
from ablate.tables import Tables
from db.records import JobRecord, Point
from tests.conftest import repository_environment
from tests.past.conftest import FINAL, OFF, STUDY, Bring, Write, finals, rows

LABEL = "imported: no fairness ledger"
NOW = "2026-11-22T12:00:00Z"


def train(desk: Desk, *runs: str) -> None:
    """These runs as if trained here."""
    for job in desk.plan().jobs:
        if job.run in runs and job.state == "ready" and job.key and job.settings is not None:
            collect.record_job(desk.store, desk.folders, JobRecord(job.key, job.run, job.seed, job.settings, 1, NOW))
            record = collect.claim_attempt(desk.store, desk.folders, job.key, NOW, gpus=1)
            assert record is not None
            desk.store.add_points(job.key, 1, [Point(job.key, 1, 1000, "val_loss", FINAL[job.run] + OFF[job.seed])], 0)
            collect.end_attempt(desk.store, desk.folders, record, "done", "", NOW, 3600.0)


# ---------------------------------------------------------------- what the study makes of them


def test_imported_runs_are_decided_on_and_every_word_of_it_says_so(desk: Desk, write: Write, bring: Bring) -> None:
    answer = bring(write(*rows()))
    assert [(row["run"], row["seed"]) for row in answer["imported"]] == [(run, s) for run in ("F3", "F1", "LR2") for s in OFF]
    judged = decide_answers.decide(desk, ())["sweeps"]
    freeze = judged[0]["decisions"][0]
    assert freeze["took"] == "F3"
    assert freeze["because"].startswith(f"{LABEL}; full unfreeze is justified: F3 − F1 = -0.3")
    assert all(LABEL in one["labels"] for one in freeze["comparisons"])
    assert judged[1]["learned"][0]["because"].startswith(f"{LABEL}; LR2 − F3")
    compared = compare_answers.compare(desk, "F1", "F3", ())["comparisons"][0]
    assert LABEL in compared["labels"]
    assert {check["check"]: check["ok"] for check in compared["fairness"]}["settings"] is None, "nobody knows its settings"
    audited = audit_answers.audited(desk)
    assert audited["ok"]
    assert LABEL in audited["decisions"][0]["labels"]
    tables = Tables(desk)
    assert LABEL in tables.comparisons()["labels"][0]
    assert tables.jobs()["reason"][0] == "imported from past.csv"
    assert tables.finals("val_loss", ["F3"])["n"][0] == 3


def test_imported_jobs_are_done_cost_nothing_and_give_nobody_their_hours(desk: Desk, write: Write, bring: Bring) -> None:
    bring(write(*rows(seeds=[42, 43])))
    plan = plan_answers.plan(desk)
    done = [job for job in plan["jobs"] if job["state"] == "done"]
    assert len(done) == 6
    assert all(job["imported"] and job["hours"] == 0 for job in done)
    ready = next(job for job in plan["jobs"] if job["id"] == "F3-s44")
    assert (ready["state"], ready["hours"], ready["hours_source"], ready["imported"]) == ("ready", 0.5, "declared", False)
    assert {job["id"] for job in launch_answers.dry_run(desk, "", (), None)["starts"]} == {"F3-s44", "F1-s44"}
    assert all(job["imported"] for job in status_answers.status(desk)["ended"])


def test_past_results_can_be_rehearsed(desk: Desk, write: Write, bring: Bring) -> None:
    bring(write(*rows()))
    found = rehearse_answers.rehearse(desk, "past", "past", 50, 0)
    assert found["sd"]["val_loss"]["source"] == "measured"
    assert found["rules"][0]["missed"] == 0.0


def test_a_diverged_run_is_a_result_with_its_last_numbers(desk: Desk, write: Write, bring: Bring) -> None:
    bring(write("LR2,42,10,3.5", "LR2,42,20,nan", "LR2,43,20,inf", "LR2,44,20,1"))
    states = [job.state for job in desk.plan().of_run("LR2")]
    assert states == ["diverged", "diverged", "done"]
    key = desk.plan().of_run("LR2")[0].key or ""
    assert math.isnan(desk.store.curve(key, "val_loss")[-1][1])
    assert desk.store.attempts()[key][0].reason == "imported from past.csv; val_loss was nan at step 20"


def test_a_row_that_starts_from_decisions_comes_in_once_they_are_made(desk: Desk, write: Write, bring: Bring) -> None:
    path = write(*rows(("F3", "F1", "LR2", "D1")))
    first = bring(path)
    assert (len(first["imported"]), first["waits"]) == (9, ["D1@42", "D1@43", "D1@44"])
    evidence.decide(desk, NOW)
    again = bring(path)
    assert ([row["run"] for row in again["imported"]], len(again["known"]), again["waits"]) == (["D1"] * 3, 9, [])


@pytest.mark.usefixtures("desk")
def test_a_row_that_is_tuned_waits_for_a_launch_not_for_a_decision(write: Write, tmp_path: Path) -> None:
    text = STUDY.replace("LR2 = { optim.ratio = 100.0 }", "LR2 = { search = { optim.ratio = { log = [1, 300] } }, trials = 4 }")
    assert text != STUDY
    (tmp_path / "runs.toml").write_text(text)
    tuned = open_desk(read_study(tmp_path / "runs.toml"))
    answer = bring_in(tuned, write(*rows(("F3", "LR2"))), Options())
    assert ([row["run"] for row in answer["imported"]], answer["waits"]) == (["F3"] * 3, ["LR2@42", "LR2@43", "LR2@44"])
    assert answer["next"] == "ablate launch"
    assert bring_in(tuned, write(*rows(("F3", "D1"))), Options())["next"] == "ablate decide"


def test_past_values_taken_at_different_steps_are_not_fair_to_compare(desk: Desk, write: Write, bring: Bring) -> None:
    blank_end = [f"F1,{seed},{step},{value}" for seed in OFF for step, value in ((400, 1.3 + OFF[seed]), (1000, ""))]
    lines = [f"{line},{place / 100}" for place, line in enumerate([*rows(("F3",)), *blank_end])]
    bring(write(*lines, header="run,seed,step,val_loss,image_vqa"))
    one = compare_answers.compare(desk, "F1", "F3", ["val_loss"])["comparisons"][0]
    assert (one["holds"], one["reason"]) == ([], "not fair: last step differs: 400 / 1,000")
    meant = replace(desk, study=replace(desk.study, mix_steps="F1 needs less"))
    one = compare_answers.compare(meant, "F1", "F3", ["val_loss"])["comparisons"][0]
    assert "worse" in one["holds"]
    assert "last steps differ (400 / 1,000): F1 needs less" in one["labels"]


def test_of_past_results_without_steps_none_is_known(desk: Desk, write: Write, bring: Bring) -> None:
    ends = [f"{run},{seed},{FINAL[run] + OFF[seed]}" for run in ("F3", "F1") for seed in OFF]
    bring(write(*ends, header="run,seed,val_loss"))
    one = compare_answers.compare(desk, "F1", "F3", ())["comparisons"][0]
    assert {check["check"]: check["ok"] for check in one["fairness"]}["last step"] is None
    assert "worse" in one["holds"]


# ---------------------------------------------------------------- never mixed silently


def test_imported_against_trained_here_is_not_fair_unless_declared(desk: Desk, write: Write, bring: Bring) -> None:
    train(desk, "F3")
    bring(write(*rows(("F1", "LR2"))))
    one = compare_answers.compare(desk, "F1", "F3", ())["comparisons"][0]
    assert one["holds"] == []
    assert one["reason"] == "not fair: origin differs: imported / trained here"
    assert f"{LABEL}; beside results trained here (not declared)" in one["labels"]
    declared = replace(desk, study=replace(desk.study, mix_imported="same code, checked by hand"))
    one = compare_answers.compare(declared, "F1", "F3", ())["comparisons"][0]
    assert "worse" in one["holds"]
    assert f"{LABEL}; beside results trained here (same code, checked by hand)" in one["labels"]


def test_one_imported_seed_among_those_trained_here_blocks_too(desk: Desk, write: Write, bring: Bring) -> None:
    bring(write(*rows(("F3",), [42])))
    train(desk, "F1", "F3")
    assert [job.imported for job in job_results(desk, desk.plan())["F3"]] == [True, False, False]
    one = compare_answers.compare(desk, "F1", "F3", ())["comparisons"][0]
    assert one["reason"].startswith("not fair: origin differs")


def test_noise_is_pooled_among_runs_of_one_origin(desk: Desk, write: Write, bring: Bring) -> None:
    train(desk, "F3", "F1")
    bring(write(*rows(("LR2",))))
    pool = compare_answers.compare(desk, "F1", "F3", ())["comparisons"][0]["pool"]
    assert pool["runs"] == ["F3", "F1"]
    assert pool["left_out"] == {"LR2": "imported"}


def test_what_was_trained_here_stays(desk: Desk, write: Write, bring: Bring) -> None:
    train(desk, "F3")
    before = finals(desk)
    answer = bring(write("F3,42,1000,5", "F1,42,1000,5"))
    assert [row["run"] for row in answer["imported"]] == ["F1"]
    assert answer["left_out"] == [
        {"name": "F3@42", "why": "it was trained here (done); what is trained here stays", "waits": False}
    ]
    assert finals(desk) == {**before, "F1-s42": 5.0}


def test_the_declaration_in_the_file_is_frozen_with_the_rest(tmp_path: Path, write: Write, bring: Bring) -> None:
    bring(write(*rows()))
    text = STUDY + '\n[evidence]\nmix_imported = "same code"\n'
    (tmp_path / "runs.toml").write_text(text)
    edited = open_desk(read_study(tmp_path / "runs.toml"))
    assert edited.study.mix_imported == "same code"
    with pytest.raises(UserError, match="mix_imported added: same code"):
        evidence.freeze(edited, NOW, "")


# ---------------------------------------------------------------- twice, and under a lock


def test_twice_is_nothing_new(desk: Desk, write: Write, bring: Bring) -> None:
    path = write(*rows())
    bring(path)
    before = {path: path.read_bytes() for path in sorted(desk.folders.base.rglob("*")) if path.is_file()}
    again = bring(path)
    assert (again["imported"], len(again["known"])) == ([], 9)
    shuffled = bring(write(*reversed(rows()), name="other.csv"))
    assert (shuffled["imported"], len(shuffled["known"])) == ([], 9), "the same numbers from another file"
    assert {path: path.read_bytes() for path in sorted(desk.folders.base.rglob("*")) if path.is_file()} == before


def test_other_numbers_for_an_imported_job_are_refused_until_its_folder_is_gone(desk: Desk, write: Write, bring: Bring) -> None:
    bring(write(*rows()))
    changed = write("F3,42,1000,7.5", name="new.csv")
    with pytest.raises(UserError) as caught:
        bring(changed)
    assert str(caught.value).startswith("new.csv: row 2: F3@42 was imported with other numbers (past.csv, 20")
    shutil.rmtree(desk.folders.job(desk.plan().of_run("F3")[0].key or ""))
    desk.store.close()
    rebuild_answers.rebuild(desk.study)
    reopened = open_desk(desk.study)
    assert "F3-s42" not in finals(reopened)
    assert len(finals(reopened)) == 8


def test_an_edit_of_what_the_first_import_froze_needs_a_reason(tmp_path: Path, desk: Desk, write: Write, bring: Bring) -> None:
    bring(write(*rows(("F3",))))
    assert desk.store.frozen() is not None
    (tmp_path / "runs.toml").write_text(STUDY.replace("margin = 0.05", "margin = 0.5"))
    edited = open_desk(read_study(tmp_path / "runs.toml"))
    more = write(*rows(("F1",)))
    with pytest.raises(UserError, match=r"changed since it was frozen .* metrics.val_loss.margin 0.05 → 0.5"):
        bring_in(edited, more, Options())
    assert "F1-s42" not in finals(edited)
    bring_in(edited, more, Options(because="0.05 was a slip"))
    assert "F1-s42" in finals(edited)


def test_a_dry_run_writes_nothing(desk: Desk, write: Write, bring: Bring) -> None:
    answer = bring(write(*rows()), dry_run=True)
    assert len(answer["imported"]) == 9
    assert not desk.folders.base.exists()
    assert desk.store.frozen() is None
    assert finals(desk) == {}


def test_a_locked_study_takes_nothing_new(desk: Desk, write: Write, bring: Bring) -> None:
    names = {"F3": "F1", "F1": "F3"}  # F1 is taken, and sweep 2 skipped: LR2 is not needed for a lock
    path = write(*(re.sub(r"^F\d", lambda found: names[found[0]], row) for row in rows(("F3", "F1", "D1"))))
    bring(path)
    evidence.decide(desk, NOW)
    bring(path)
    says = lock_answers.lock(desk)["confirmation"]["says"]
    assert says.endswith("; rests on imported results: freeze")
    assert bring(path)["imported"] == [], "what is known already is no change"
    with pytest.raises(UserError, match="the study is locked"):
        bring(write(*rows(("LR2",))))
    assert "LR2-s42" not in finals(desk)


# ---------------------------------------------------------------- folders are the truth


def test_an_import_is_attempts_in_the_folder_contract(desk: Desk, write: Write, bring: Bring) -> None:
    bring(write(*rows()))
    key = desk.plan().of_run("F1")[0].key or ""
    folder = desk.folders.attempt(key, 1)
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"] == {"model": {"frozen": True}, "optim": {"lr": 0.01, "ratio": 10.0}}
    stamp = config["imported"]
    assert {"source", "sha256", "at", "by"} <= stamp.keys()
    assert json.loads((folder / "facts.json").read_text()) == {"imported": stamp}
    assert json.loads((folder / "result.json").read_text())["outcome"] == "done"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1] == {"attempt": 1, "step": 1000, "metrics": {"val_loss": 1.301}}
    assert all(tried[-1].facts[IMPORTED]["sha256"] == stamp["sha256"] for tried in desk.store.attempts().values())
    assert not list(desk.folders.base.glob(".import*/*"))


def test_rebuild_keeps_what_was_imported(desk: Desk, write: Write, bring: Bring) -> None:
    bring(write(*rows(), "LR2,42,2000,nan"))
    evidence.decide(desk, NOW)
    before, attempts = finals(desk), desk.store.attempts()
    desk.store.close()
    rebuild_answers.rebuild(desk.study)
    rebuilt = open_desk(desk.study)
    assert str(finals(rebuilt)) == str(before)
    assert rebuilt.store.attempts() == attempts
    assert audit_answers.audited(rebuilt)["ok"]


CRASHES = {  # a rename each: the files of 9 jobs use Path.replace
    "before the rename that makes it count": "Path.rename = dying(Path.rename, 1)",
    "after that rename": "collect.take_imports = dying(collect.take_imports, 2)",
    "while jobs are brought to their places": "Path.rename = dying(Path.rename, 4)",
    "while rows are written": "Store._put_batches = dying(Store._put_batches, 3)",
}
NOTHING = "before the rename that makes it count"
CRASHING = """
import os, signal, sys
from pathlib import Path
from ablate.launching import collect
from ablate.desk import open_desk
from ablate.past import importing
from ablate.runs_toml import read_study
from db.store import Store

def dying(what, nth):
    left = [nth]
    def called(*arguments, **named):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return what(*arguments, **named)
    return called

{crash}
importing.bring_in(open_desk(read_study(Path("runs.toml"))), Path(sys.argv[1]), importing.Options())
"""


@pytest.mark.parametrize("when", CRASHES)
def test_killed_anywhere_nothing_counts_or_all_of_it(desk: Desk, write: Write, bring: Bring, when: str) -> None:
    path = write(*rows())
    script = CRASHING.replace("{crash}", CRASHES[when])
    ended = subprocess.run([sys.executable, "-c", script, path], env=repository_environment(), capture_output=True, timeout=60)
    assert ended.returncode == -9, ended.stderr.decode()
    assert finals(desk) == {}, "nothing counts by itself"
    assert all(job.state in ("ready", "waiting") for job in desk.plan().jobs)
    collected = collect.collect(desk.store, desk.folders)
    assert len(finals(desk)) == (0 if when == NOTHING else 9)
    assert collected.complaints == ()
    bring(path)
    assert len(finals(desk)) == 9
    assert all(len(tried) == 1 for tried in desk.store.attempts().values())
    assert not list(desk.folders.base.glob(".import*/*"))


def test_a_disk_that_is_full_leaves_nothing(desk: Desk, write: Write, bring: Bring) -> None:
    desk.folders.base.parent.mkdir(parents=True)
    desk.folders.base.write_text("a file where the folder should be")
    with pytest.raises((UserError, OSError)):
        bring(write(*rows()))
    assert finals(desk) == {}


# ---------------------------------------------------------------- the command


def typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["ablate", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), said.out, said.err


@pytest.mark.usefixtures("desk")
def test_the_command_draws_what_came_in_and_says_what_is_next(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write(*(row.replace("F3", "old") for row in rows(("F3", "D1"))), header="run,seed,step,loss"))
    words = ("import", path, "--map", "val_loss=loss", "--as", "old=F3")
    code, out, _ = typed(capsys, monkeypatch, *words, "--dry-run")
    assert code == 3
    assert "Next: ablate import past.csv --map val_loss=loss --as old=F3" in out
    code, out, _ = typed(capsys, monkeypatch, *words)
    assert code == 3
    assert "new      3 jobs, 6 points" in out
    assert "left out D1@42, D1@43, D1@44: settings not known yet: decision freeze and lr are open" in out
    assert "every verdict on them says so" in out
    code, out, _ = typed(capsys, monkeypatch, *words, "--json")
    assert [row["run"] for row in json.loads(out)["known"]] == ["F3"] * 3
    _, out, _ = typed(capsys, monkeypatch, "plan")
    assert "done (imported)" in out
    _, out, _ = typed(capsys, monkeypatch, "status")
    assert "42: 1.001 (imported)" in out


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.csv"], "Error: nowhere.csv: there is no such file or folder\n"),
        (["."], "Error: .: a folder without a W&B log (*.wandb) in it; give a CSV, Parquet or JSON file, or such a folder\n"),
        (["past.csv", "--map", "run"], "Error: --map run: 'run' is not NAME=VALUE\n"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    code, out, err = typed(capsys, monkeypatch, "import", *words)
    assert (code, out, err) == (2, "", message)


def test_what_somebody_is_launching_is_not_imported_into(desk: Desk, write: Write, bring: Bring) -> None:
    desk.store.acquire_lease("other@elsewhere:1", utc_now(), 60.0)
    with pytest.raises(UserError, match="other@elsewhere:1 is launching this study"):
        bring(write(*rows()))
    assert finals(desk) == {}
