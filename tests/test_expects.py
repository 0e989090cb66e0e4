"""What a row's author expects: read from the file, shown, used to plan and to rehearse; it changes no job and no verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ablate.planning.freeze import content_hash, frozen_content
from ablate.preflight.power import POWER, lines_of
from ablate.rehearsal.worlds import expected_effects
from ablate.runs_toml import read_study
from ablate.study import Study, UserError, job_key
from tests.deciding import test_confirm
from tests.deciding.test_confirm import STUDY

typed = test_confirm.typed  # the fixture

EXPECTS = STUDY.replace("F1  = { model.frozen = true }", "F1  = { model.frozen = true, expects = { val_loss = -0.1 } }").replace(
    "LR2 = { optim.ratio = 100.0 }", 'LR2 = { optim.ratio = 100.0, expects = { val_loss = "no worse" } }'
)


def study_of(folder: Path, text: str = EXPECTS) -> Study:
    (folder / "runs.toml").write_text(text)
    return read_study(folder / "runs.toml")


def test_a_row_says_by_how_much_its_author_expects_it_to_shift_a_metric(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    assert study.runs["F1"].expects == {"val_loss": -0.1}
    assert study.runs["LR2"].expects == {"val_loss": "no worse"}
    assert study.runs["F1"].changes == {"model.frozen": True}
    assert expected_effects(study) == {("F1", "val_loss"): -0.1, ("LR2", "val_loss"): 0.0}


def test_expecting_something_changes_neither_jobs_nor_what_is_frozen(tmp_path: Path) -> None:
    silent, expects = study_of(tmp_path, STUDY), study_of(tmp_path)
    settings = {**silent.settings, **silent.runs["F1"].changes}
    assert job_key(silent, "F1", 42, settings) == job_key(expects, "F1", 42, settings)
    assert content_hash(frozen_content(silent)) == content_hash(frozen_content(expects))


def test_a_profile_may_expect_something_else(tmp_path: Path) -> None:
    (tmp_path / "runs.toml").write_text(f"{EXPECTS}\n[profile.small]\nruns.F1.expects = {{ val_loss = 0.3 }}\n")
    assert read_study(tmp_path / "runs.toml", "small").runs["F1"].expects == {"val_loss": 0.3}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("expects = { val_los = -0.1 }", 'there is no metric "val_los". Did you mean "val_loss"?'),
        ("expects = { val_loss = true }", 'what F1 is expected to shift val_loss by is a number, or "no worse"; not true'),
        ('expects = { val_loss = "much" }', 'what F1 is expected to shift val_loss by is a number, or "no worse"; not "much"'),
        ("expects = 0.1", "`expects` must be a table, not 0.1"),
        ("expect = { val_loss = -0.1 }", 'there is no key "expect" in a row. Did you mean "expects"?'),
    ],
)
def test_an_expectation_that_cannot_be_read_says_what_is_wrong(tmp_path: Path, written: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        study_of(tmp_path, EXPECTS.replace("expects = { val_loss = -0.1 }", written))
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path / 'runs.toml'}:")


def test_the_baseline_has_no_start_to_differ_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="F3 is the baseline: it has no start that it could be expected to differ from"):
        study_of(tmp_path, EXPECTS.replace("F3  = {}", "F3  = { expects = { val_loss = -0.1 } }"))


def test_planning_says_whether_the_expected_effect_would_be_seen(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    (line,) = lines_of(study, study.sweeps["sweep1"], {"val_loss": 0.02}, {}, lambda _: 0.5)[:1]
    (sight,) = line.sights
    assert sight.expected == -0.1
    assert sight.chance == pytest.approx(1, abs=0.02)
    study = study_of(tmp_path, EXPECTS.replace("-0.1", "-0.06"))
    (sight,) = lines_of(study, study.sweeps["sweep1"], {"val_loss": 0.02}, {}, lambda _: 0.5)[0].sights
    assert sight.chance is not None
    assert 0.1 < sight.chance < POWER


def test_plan_shows_what_is_expected(tmp_path: Path, typed: Any) -> None:
    study_of(tmp_path)
    assert "expected: F1 against its start: val_loss -0.1" in typed("plan")
    jobs = json.loads(typed("plan", "--json"))["jobs"]
    assert {job["run"]: job["expects"] for job in jobs if not job["run"].startswith("lock")}["LR2"] == {"val_loss": "no worse"}


def test_what_rows_expect_is_a_world_to_rehearse(tmp_path: Path, typed: Any) -> None:
    study_of(tmp_path)
    answer = json.loads(typed("rehearse", "--world", "expected", "--studies", "200", "--json"))
    assert answer["effects"] == [
        {"run": "F1", "metric": "val_loss", "effect": -0.1},
        {"run": "LR2", "metric": "val_loss", "effect": 0.0},
    ]
    assert max(answer["rules"][0]["locks"].items(), key=lambda item: item[1])[0] == "F1 + LR2"
    assert {target["studies"] for target in answer["targets"]} <= {40, *range(41)}
