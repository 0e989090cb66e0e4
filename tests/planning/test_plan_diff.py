"""An edit of the file, told by its jobs and its money before it costs either."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablate import cli, evidence
from ablate.answers import plan as plan_answers
from ablate.desk import open_desk
from ablate.runs_toml import read_study
from ablate.screens import plan as plan_screens
from tests import small_study
from tests.written_study import STUDY, written_desk


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diff")
    written_desk(folder, without=("LR2", "A6")).store.close()
    return folder


@pytest.fixture
def diff(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The document (or screen) of `ablate plan --diff` from STUDY to an edit of it."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def edited(*edits: tuple[str, str], screen: bool = False) -> Any:
        (tmp_path / "old.toml").write_text(STUDY)
        text = STUDY
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "runs.toml").write_text(text)
        monkeypatch.setattr(sys, "argv", ["ablate", "plan", "--diff", "old.toml", *(() if screen else ("--json",))])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        out = capsys.readouterr().out
        return out if screen else json.loads(out)

    return edited


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def test_the_same_file_keeps_every_job(diff: Any) -> None:
    document = diff()
    assert len(document["kept"]) == 13
    assert not any(document[name] for name in ("new", "stale", "orphaned", "dropped", "edits"))
    assert document["left_cost"] == document["left_cost_before"] > 0


def test_a_row_edited_after_it_was_trained_is_stale_and_costs_again(diff: Any) -> None:
    document = diff(("A1  = { model.deep_query = false }", "A1  = { model.deep_query = false, optim.lr = 2e-5 }"))
    assert ids(document["stale"]) == ["A1-s42"]
    assert document["stale"][0]["old_key"].startswith("A1-s42-")
    assert document["lost_gpu_hours"] == pytest.approx(60 / 3600)
    assert document["left_gpu_hours"] > document["left_gpu_hours_before"]
    assert ids(document["new"]) == []


def test_a_row_edited_before_it_was_trained_is_only_another_job(diff: Any) -> None:
    document = diff(("A6  = { model.coarse_only = true }", "A6  = { model.coarse_only = true, optim.lr = 2e-5 }"))
    assert (ids(document["new"]), ids(document["dropped"]), document["stale"]) == (["A6-s42"], ["A6-s42"], [])


def test_a_row_taken_out_leaves_orphans(diff: Any) -> None:
    document = diff(
        ("F2  = { model.freeze_llm = true }\n", ""),
        ('"F2", ', ""),
        ("F2 = [43, 44], ", ""),
    )
    assert ids(document["orphaned"]) == ["F2-s42", "F2-s43", "F2-s44"]
    assert document["lost_gpu_hours"] == pytest.approx(3 * 60 / 3600)


def test_more_seeds_are_new_jobs_and_an_edit_of_what_is_frozen(diff: Any) -> None:
    document = diff(("F3 = [43, 44]", "F3 = [43, 44, 45]"))
    assert ids(document["new"]) == ["F3-s45"]
    assert document["edits"] == ["seeds.F3 [42, 43, 44] → [42, 43, 44, 45]"]
    assert document["deviates"] is False, "nothing was launched, so nothing is frozen"


def test_on_the_screen_each_kind_says_what_it_means(diff: Any) -> None:
    out = diff(
        ("F3 = [43, 44]", "F3 = [43, 44, 45]"), ("A1  = { model.deep_query = false }", "A1  = { optim.lr = 2e-5 }"), screen=True
    )
    for text in (
        "kept     12 jobs",
        "new      1 job",
        "F3 45: the baseline",
        "stale    1 job",
        "edit     seeds.F3",
        "lost     0.017 GPU-hours",
    ):
        assert text in out


def test_a_row_that_was_not_edited_is_not_stale_for_its_settings_when_only_its_decision_is_open_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = small_study.STUDY.replace('"freeze", "lr"', '"freeze"')
    (tmp_path / "old.toml").write_text(text)
    (tmp_path / "runs.toml").write_text(text)
    (tmp_path / "train.py").write_text(small_study.TRAINER)
    desk = open_desk(read_study(tmp_path / "runs.toml"))
    small_study.write(desk, "F3", "F1", "LR2")
    evidence.decide(desk, small_study.NOW)
    small_study.write(desk, "D1")
    (tmp_path / "runs.toml").write_text(re.sub(r"\bF1\b", "G1", text))
    document = plan_answers.changes(replace(desk, study=read_study(tmp_path / "runs.toml")), read_study(tmp_path / "old.toml"))
    assert ids(document["reopened"]) == ["D1-s42", "D1-s43", "D1-s44"]
    assert document["stale"] == []
    plan_screens.changes(document)
    out = " ".join(capsys.readouterr().out.split())
    assert "reopened 3 jobs: trained, and what they start from is open again" in out
    assert "other settings" not in out
