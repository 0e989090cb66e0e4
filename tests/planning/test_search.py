"""Rows with a search space: how they are declared, planned, priced, chosen from; and that no trial is ever evidence."""
# ruff: noqa: E501 (a message stands on one line, as the user sees it)

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ablate.cli import app
from ablate.deciding.facts import compare_pair
from ablate.deciding.fairness import ledger
from ablate.deciding.lock import NotYet, make_lock
from ablate.desk import open_desk
from ablate.evidence import job_results
from ablate.planning.cost import hours_of
from ablate.planning.freeze import changes, frozen_content
from ablate.planning.needs import needed_jobs
from ablate.planning.plan import Plan, PlannedJob, make_plan
from ablate.planning.search import (
    GIVEN_UP,
    SEARCH_OF,
    TUNED,
    Tried,
    adopted_searches,
    choose,
    declaration,
    drawn,
    searched,
    share,
    trial_settings,
    tuned,
    with_chosen,
    with_examples,
)
from ablate.runs_toml import read_study
from ablate.study import JobResult, Range, Run, Search, Study, UserError, job_key
from db.records import AttemptRecord, AttemptState, DecisionRecord, JobRecord
from tests.conftest import REPOSITORY
from tests.searched_study import TOML, write

NOW = "2026-11-22T12:00:00Z"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return read_study(write(tmp_path))


def of(tmp_path: Path, old: str, new: str) -> Study:
    assert old in TOML
    return read_study(write(tmp_path, TOML.replace(old, new)))


def told(tmp_path: Path, old: str, new: str) -> str:
    """What is wrong with the study after this edit, without its place and the line itself."""
    with pytest.raises(UserError) as error:
        of(tmp_path, old, new)
    place, _, rest = str(error.value).partition(": ")
    assert place.startswith(str(tmp_path / "runs.toml:"))
    return rest.split("\n")[0]


def begun(study: Study, row: str, number: int, x: float) -> JobRecord:
    """A trial that was begun at this point."""
    run = study.runs[row]
    settings = trial_settings(run, study.settings, {"bowl.x": x})
    seed = searched(run).seed(number)
    return JobRecord(job_key(study, f"{row}-trial", seed, settings), f"{row}-trial", seed, settings, 1, NOW)


def ended(job: JobRecord, state: AttemptState = "done", **facts: Any) -> dict[str, tuple[AttemptRecord, ...]]:
    return {job.key: (AttemptRecord(job.key, 1, state, NOW, NOW, gpus=1, gpu_s=36.0, code_hash="c0de", facts=facts),)}


def tries(*scores: float | str) -> list[Tried]:
    """Trials with these scores; a word is a state without one."""
    return [
        Tried(n, f"tuned-trial-s{1000 + n}-00000000", "c0de", {"bowl.x": 10.0 * n}, "done", one)
        if isinstance(one, float)
        else Tried(n, f"tuned-trial-s{1000 + n}-00000000", "c0de", {"bowl.x": 10.0 * n}, one, None)  # type: ignore[arg-type]  # tests give words of JobState
        for n, one in enumerate(scores, 1)
    ]


def record_of(study: Study, row: str = "tuned", *scores: float | str, number: int = 1) -> DecisionRecord:
    run = study.runs[row]
    made = choose(
        study, run, tries(*(scores or (0.3, 0.1, 0.2, "stopped", "stopped", "failed"))), declaration(study, run, {}), NOW
    )
    assert made is not None
    return replace(made, number=number)


def of_run(plan: Plan, run: str) -> list[PlannedJob]:
    return [job for job in plan.jobs if job.run == run]


# ---------------------------------------------------------------- the file


def test_a_row_that_searches_gets_the_budget_that_all_such_rows_share(study: Study) -> None:
    expected = Search({"bowl.x": Range("log", (1.0, 300.0))}, 6, "val_loss", {"bowl.evals": 2}, "tpe", 3, 1, 1001)
    assert study.runs["tuned"] == Run("tuned", {}, line=study.runs["tuned"].line, search=expected)
    assert study.runs["steep"].search == expected
    assert study.runs["plain"].search is None
    assert [row.name for row in study.searching] == ["tuned", "steep"]


def test_the_example_tunes_both_arms_of_its_comparison_with_one_budget() -> None:
    example = read_study(REPOSITORY / "examples" / "quick" / "search.toml")
    curved, plane = example.searching
    assert (curved.name, plane.name) == ("curved", "plane")
    assert curved.search == plane.search
    assert set(example.sweeps["sweep1"].compare) == {"curved", "plane"}


def test_a_row_may_have_more_trials_than_the_others(tmp_path: Path) -> None:
    found = of(tmp_path, "log = [1, 300] } } }\nsteep", "log = [1, 300] } }, trials = 9 }\nsteep")
    assert [searched(row).trials for row in found.searching] == [9, 6]


def test_a_profile_may_search_with_less(tmp_path: Path) -> None:
    path = write(tmp_path, TOML + "\n[profile.smoke]\nsearch = { trials = 2, halving = 0 }\n")
    found = read_study(path, "smoke").searching[0].search
    assert found is not None
    assert (found.trials, found.halving, found.short) == (2, 0, {"bowl.evals": 2})


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("{ log = [1, 300] }", Range("log", (1.0, 300.0))),
        ("{ uniform = [-1, 2.5] }", Range("uniform", (-1.0, 2.5))),
        ("{ choice = [1, 2.5] }", Range("choice", (1.0, 2.5))),
    ],
)
def test_a_range_has_the_type_of_its_setting(tmp_path: Path, said: str, found: Range) -> None:
    assert searched(of(tmp_path, "{ log = [1, 300] } } }\nsteep", f"{said} }} }}\nsteep").runs["tuned"]).space == {
        "bowl.x": found
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("plain = {}", "plain = { search = { bowl.x = { log = [1, 2] } } }", "plain is the baseline: its settings are [settings]. To compare with a tuned one, add a row with this search, such as plain-tuned"),
        ("tuned = { search = { bowl.x = {", "tuned = { search = { bowl.y = {", 'there is no setting "bowl.y". Did you mean "bowl.x"?'),
        ("log = [1, 300] } } }\nsteep", "lag = [1, 300] } } }\nsteep", 'bowl.x: there is no range "lag". Did you mean "log"?'),
        ("log = [1, 300] } } }\nsteep", "log = [300, 1] } } }\nsteep", "bowl.x: `log` must be two numbers, the lower first, not [300, 1]"),
        ("log = [1, 300] } } }\nsteep", "log = [0, 300] } } }\nsteep", "bowl.x: `log` must begin above 0, not [0, 300]"),
        ("log = [1, 300] } } }\nsteep", "int = [1, 300] } } }\nsteep", "bowl.x: `int` is for settings that are whole numbers; write `uniform` or `log`, not [1, 300]"),
        ("bowl.x = { log = [1, 300] } } }\nsteep", "bowl.evals = { uniform = [1, 3] } } }\nsteep", "bowl.evals: `uniform` is for settings that are no whole numbers; write `int`, not [1, 3]"),
        ("log = [1, 300] } } }\nsteep", "choice = [1] } } }\nsteep", "bowl.x: a choice must name at least two values, each once, not [1]"),
        ("log = [1, 300] } } }\nsteep", 'log = ["a", 300] } } }\nsteep', 'bowl.x must be a number, not "a"'),
        ("steep = { bowl.steep = 2.0, search", "steep = { bowl.x = 2.0, search", "steep gives bowl.x a value and searches it; take one of them out"),
        ("wandb         = false", 'wandb = false\nstateless = ["bowl.x"]', "tuned searches bowl.x, which cannot change a result (it is stateless)"),
        ("trials = 6\n", "", "tuned searches and has no budget: give [search] trials = 12, for all rows that do"),
        ("trials = 6\n", "trials = 0\n", "search.trials must be at least 1 and at most 10000, not 0"),
        ("short  = { bowl.evals = 2 }", "short = { bowl.x = 2 }", "tuned searches bowl.x, which [search] short sets; take it out of one"),
        ("trials = 6\n", "trials = 6\nhalving = 1\n", "search.halving must be 0, for no trial to be stopped, or at least 2, not 1: the best 1/1 of the trials is all of them"),
        ("trials = 6\n", 'trials = 6\nby = "grid"\n', 'search.by must be "tpe" or "random", not "grid"'),
        ("trials = 6\n", "trials = 6\nfirst_seed = 40\n", "the trials of tuned train with seeds 40 to 45, and plain is compared on 42; no value may be chosen on a seed it is judged by: give [search] another first_seed"),
        ("after = 1\n", 'after = 1\nconfirm = { against = "plain", seeds = [1003] }\n', "the trials of tuned train with seeds 1001 to 1006, and lock.confirm is compared on 1003; no value may be chosen on a seed it is judged by: give [search] another first_seed"),
        ("steep = {", "tuned-trial = {", '"tuned-trial" cannot name a run: the trials of a search for LR2 are called LR2-trial'),
        ("plain = {}", "plain = {}\nother = { trials = 3 }", "`trials` in a row needs `search = { SETTING = { log = [1, 300] } }`"),
        ("steep = { bowl.steep = 2.0, search", "steep = { bowl.steep = 2.0, serach", 'there is no key "serach" in a row. Did you mean "search"?'),
        ("steep = { bowl.steep = 2.0, search", "steep = { search", "steep and tuned (line 17) are the same job; one of them is enough, and a second name for it is written steep = \"tuned\""),
    ],
)  # fmt: skip
def test_a_mistake_in_a_search_is_told(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert told(tmp_path, old, new) == message


def test_a_trial_is_not_longer_than_its_row(tmp_path: Path) -> None:
    text = TOML.replace("bowl.evals", "bowl.steps").replace("steep = { bowl.steep", "steep = { bowl.steps = 3, bowl.steep")
    write(tmp_path, text.replace("short  = { bowl.steps = 2 }", "short = { bowl.steps = 3 }"))
    assert searched(read_study(tmp_path / "runs.toml").runs["steep"]).short == {"bowl.steps": 3}
    write(tmp_path, text.replace("short  = { bowl.steps = 2 }", "short = { bowl.steps = 4 }"))
    with pytest.raises(UserError) as error:
        read_study(tmp_path / "runs.toml")
    assert str(error.value).split("\n")[0] == (
        f"{tmp_path / 'runs.toml'}:22: [search] short has trials train with bowl.steps = 4, and steep has 3: a trial that is "
        "longer than its row saves nothing; lower it, or leave it out"
    )


def test_an_edit_of_the_budget_deviates_from_what_was_frozen(study: Study, tmp_path: Path) -> None:
    more = of(tmp_path, "trials = 6", "trials = 8")
    found = changes(frozen_content(study), frozen_content(more))
    assert found == ("searches.tuned.trials 6 → 8", "searches.steep.trials 6 → 8")
    assert "searches" not in frozen_content(replace(study, runs={"plain": study.runs["plain"]}))


# ---------------------------------------------------------------- the plan


def test_a_row_waits_for_its_trials_and_they_for_nothing(study: Study) -> None:
    plan = make_plan(study, {}, {})
    trials = of_run(plan, "tuned-trial")
    assert [job.id for job in trials] == [f"tuned-trial-s{seed}" for seed in range(1001, 1007)]
    assert {(job.state, job.key, job.settings) for job in trials} == {("ready", None, None)}
    assert trials[2].change == "trial 3 of 6 for tuned: its point is not drawn yet"
    assert [job.trial for job in trials] == [1, 2, 3, 4, 5, 6]
    (reason,) = {(job.state, job.reason) for job in of_run(plan, "tuned")}
    assert reason == ("waiting", "its search among 6 trials has not chosen yet")
    assert of_run(plan, "tuned")[0].change == "bowl.x = 1 … 300 (log), to be selected by 6 trials"
    assert {job.state for job in of_run(plan, "plain")} == {"ready"}
    assert [job.trial > 0 for job in plan.jobs] == [True] * 12 + [False] * 9, "what others wait for goes first"
    needs = needed_jobs(study, plan)
    assert set(needs["tuned-s42"]) == {job.id for job in trials}
    assert needs["tuned-trial-s1001"] == ()


def test_to_launch_a_row_is_to_launch_its_trials_too(tmp_path: Path) -> None:
    command = ["launch", "--run", "tuned", "--dry-run", "--json", "--study", str(write(tmp_path))]
    answer = json.loads(CliRunner().invoke(app, command).stdout)
    assert [job["id"] for job in answer["starts"]] == [f"tuned-trial-s{seed}" for seed in range(1001, 1007)]
    assert [job["id"] for job in answer["waits"]] == ["tuned-s42", "tuned-s43", "tuned-s44"]


def test_a_trial_that_was_begun_keeps_its_point(study: Study) -> None:
    job = begun(study, "tuned", 2, 17.5)
    plan = make_plan(study, ended(job), {}, trials=[job])
    first, second = of_run(plan, "tuned-trial")[:2]
    assert first.key is None
    assert (second.key, second.state, second.settings) == (job.key, "done", job.settings)
    assert second.change == "trial 2 of 6 for tuned: bowl.x = 17.5"
    assert job.settings == {"bowl.x": 17.5, "bowl.evals": 2, "bowl.pause": 0.0, "bowl.steep": 1.0}
    assert not plan.orphans


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("log = [1, 300] } } }\nsteep", "log = [1, 10] } } }\nsteep"),
        ("bowl.evals = 2", "bowl.evals = 3"),
        ("bowl.steep = 1.0", "bowl.steep = 1.5"),
        ("trials = 6", "trials = 1"),
    ],
)
def test_a_trial_of_another_space_or_budget_is_kept_and_not_used(study: Study, tmp_path: Path, old: str, new: str) -> None:
    job = begun(study, "tuned", 2, 17.5)
    plan = make_plan(of(tmp_path, old, new), ended(job), {}, trials=[job])
    assert {trial.key for trial in of_run(plan, "tuned-trial")} == {None}
    assert plan.orphans == (job.key,)


def test_a_row_whose_trials_all_came_to_nothing_says_so(study: Study) -> None:
    jobs = [begun(study, "tuned", number, 10.0 * number) for number in range(1, 7)]
    attempts = {key: tries for job in jobs for key, tries in ended(job, "diverged").items()}
    (reason,) = {(job.state, job.reason) for job in of_run(make_plan(study, attempts, {}, trials=jobs), "tuned")}
    assert reason == (
        "waiting",
        "none of the 6 trials of its search came to its end: search elsewhere, or mend what failed",
    )


def test_a_trial_given_up_by_its_search_is_stopped_for_good(study: Study) -> None:
    job = begun(study, "tuned", 1, 250.0)
    plan = make_plan(study, ended(job, "interrupted", **{GIVEN_UP: "stopped by the search: too bad"}), {}, trials=[job])
    assert (of_run(plan, "tuned-trial")[0].state, of_run(plan, "tuned-trial")[0].reason) == (
        "stopped",
        "stopped by the search: too bad",
    )
    assert of_run(plan, "tuned-trial")[0] not in plan.startable()


def test_the_chosen_point_becomes_a_change_of_the_row(study: Study) -> None:
    decisions = {f"{SEARCH_OF}tuned": record_of(study)}
    plan = make_plan(study, {}, decisions)
    (job, *_) = of_run(plan, "tuned")
    assert job.state == "ready"
    assert job.settings == {**study.settings, "bowl.x": 20.0}, "at the full budget"
    assert job.change == "bowl.x = 20 (selected by 6 trials)"
    assert {other.state for other in of_run(plan, "steep")} == {"waiting"}
    chosen = with_chosen(study, decisions)
    assert chosen.runs["tuned"].changes == {"bowl.x": 20.0}
    assert with_chosen(chosen, decisions) == chosen
    assert with_chosen(chosen, {}) == study


def test_a_choice_made_for_another_search_is_void(study: Study, tmp_path: Path) -> None:
    decisions = {f"{SEARCH_OF}tuned": record_of(study)}
    for old, new in (
        ("trials = 6", "trials = 8"),
        ("bowl.steep = 1.0", "bowl.steep = 1.5"),
        ("1, 300] } } }\nst", "1, 99] } } }\nst"),
    ):
        other = of(tmp_path, old, new)
        assert with_chosen(other, decisions) == other


def test_a_row_that_is_skipped_has_its_trials_skipped(tmp_path: Path) -> None:
    skip = 'skip  = { if = "x took plain", because = "no need" }\nlearn = [["steep worse than tuned"'
    found = of(tmp_path, 'learn = [["steep worse than tuned"', skip)
    took = DecisionRecord("x", "sweep1", "decided", "plain", "otherwise", {}, "", "rule", NOW, number=1)
    assert {job.state for job in of_run(make_plan(found, {}, {"x": took}), "steep-trial")} == {"skipped"}
    assert {job.state for job in of_run(make_plan(found, {}, {}), "steep-trial")} == {"waiting"}


def test_a_trial_is_priced_by_its_share_of_the_budget_until_trials_are_measured(study: Study) -> None:
    row = replace(study.runs["tuned"], search=replace(searched(study.runs["tuned"]), short={"train.samples": 100}))
    study = replace(study, settings={**study.settings, "train.samples": 1000}, runs={**study.runs, "tuned": row})
    assert share(study, study.runs["tuned"]) == 0.1
    assert hours_of(study, "tuned-trial", {}) == (pytest.approx(0.001), "declared")
    assert hours_of(study, "tuned-trial", {"plain": [3.0]}) == (pytest.approx(0.3), "measured")
    assert hours_of(study, "tuned-trial", {"plain": [3.0], "steep-trial": [0.2]}) == (0.2, "measured")
    assert hours_of(study, "tuned", {"tuned-trial": [0.2]}) == (0.01, "declared"), "a trial tells nothing of a whole job"


# ---------------------------------------------------------------- the choice


def test_the_best_trial_that_came_to_its_end_is_chosen_and_called_selected(study: Study) -> None:
    made = record_of(study)
    assert (made.name, made.took, made.sets) == ("search of tuned", "tuned-trial-s1002", {"bowl.x": 20.0})
    assert made.line == "the lowest val_loss of 6 trials"
    assert (
        made.because == "selected, not evidence: trial 2 of 6 scored 0.1 on val_loss (3 came to their end, 2 stopped, 1 failed)"
    )
    assert [(one["trial"], one["score"], one["state"]) for one in made.comparisons][1::2] == [
        (2, 0.1, "done"),
        (4, None, "stopped"),
        (6, None, "failed"),
    ]
    assert set(made.jobs) == {f"tuned-trial-s{seed}-00000000" for seed in range(1001, 1007)}
    higher = replace(study, metrics={"val_loss": replace(study.metrics["val_loss"], better="higher")})
    assert record_of(higher).sets == {"bowl.x": 10.0}


def test_nothing_is_chosen_where_no_trial_has_a_score(study: Study) -> None:
    assert choose(study, study.runs["tuned"], tries("stopped", "diverged", "failed"), "", NOW) is None


def test_no_comparison_sees_a_trial(tmp_path: Path) -> None:
    desk = open_desk(read_study(write(tmp_path)))
    for number in (1, 2, 3):
        job = begun(desk.study, "tuned", number, 10.0 * number)
        desk.store.save_job(job)
        desk.store.save_attempt(ended(job)[job.key][0])
    plan = desk.plan()
    assert [job.state for job in of_run(plan, "tuned-trial")[:3]] == ["done"] * 3
    results = job_results(desk, plan)
    assert set(results) == {"plain", "tuned", "steep"}
    assert {job.state for job in results["tuned"]} == {"waiting"}


def results(run: str, values: Sequence[float], **facts: Any) -> list[JobResult]:
    return [
        JobResult(f"{run}-s{seed}-0", run, seed, "done", {"val_loss": value}, {"bowl.x": 2.0}, facts, "c0de")
        for seed, value in zip((42, 43, 44), values, strict=True)
    ]


def test_the_ledger_says_when_one_arm_was_tuned_and_the_other_not() -> None:
    a, b = results("tuned", (0.1, 0.1, 0.1), **{TUNED: "6 trials"}), results("plain", (0.3, 0.3, 0.3))
    (check,) = [check for check in ledger(a, b, (), ()) if check.name == "tuning"]
    assert (check.ok, check.a, check.b, check.unfair) == (False, "tuned with 6 trials", "not tuned", False)
    (check,) = [check for check in ledger(a, a, (), ()) if check.name == "tuning"]
    assert check.ok
    assert not [check for check in ledger(b, b, (), ()) if check.name == "tuning"]


def test_a_search_that_went_on_is_told_with_all_its_trials_and_as_a_deviation(study: Study) -> None:
    found = {"tuned": results("tuned", (0.1, 0.11, 0.12), **{TUNED: "3 trials"}), "plain": results("plain", (0.3, 0.32, 0.31))}
    edits = {"searches.tuned.trials 3 → 6": "more", "searches.steep.trials 3 → 6": "more"}
    (one,) = compare_pair(study, found, {}, "tuned", "plain", ["val_loss"], edits=edits)
    (check,) = [check for check in one.checks if check.name == "tuning"]
    assert check.a == "tuned with 6 trials at bowl.evals = 2"
    assert one.labels == ("deviates: searches.tuned.trials 3 → 6 (reason: more)",)


def test_the_budget_of_a_run_is_told_and_that_of_a_lock_by_what_it_took(study: Study) -> None:
    assert tuned(study, "tuned", {}) == {TUNED: "6 trials at bowl.evals = 2"}
    assert tuned(study, "plain", {}) == {} == tuned(study, "tuned-trial", {})
    took = DecisionRecord("x", "sweep1", "decided", "tuned", "", {"bowl.x": 20.0}, "", "rule", NOW, number=2)
    decisions = {"x": took, f"{SEARCH_OF}tuned": record_of(study)}
    assert adopted_searches(study, decisions) == ("search of tuned",)
    assert tuned(study, "lock-confirm", decisions) == {TUNED: "6 trials at bowl.evals = 2"}


def test_the_lock_names_the_search_that_its_value_came_from(study: Study) -> None:
    decisions = {
        f"{SEARCH_OF}tuned": record_of(study),
        "x": DecisionRecord("x", "sweep1", "decided", "tuned", "", {"bowl.x": 20.0}, "", "rule", NOW, number=2),
    }
    locked = make_lock(study, decisions, {}, Plan((), {}, {}, ()), NOW)
    assert not isinstance(locked, NotYet)
    assert locked.settings["bowl.x"] == 20.0
    assert locked.sources["bowl.x"] == "x"
    assert locked.decisions == {"x": 2, "search of tuned": 1}


def test_who_looks_before_anything_ran_sees_a_point_of_the_space(study: Study) -> None:
    assert with_examples(study).runs["steep"].changes == {"bowl.steep": 2.0, "bowl.x": 17.3205}
    same = replace(study, settings={**study.settings, "bowl.x": 17.3205})
    assert with_examples(same).runs["steep"].changes == {"bowl.steep": 2.0, "bowl.x": 300.0}, "else it would change nothing"
    chosen = with_chosen(study, {f"{SEARCH_OF}tuned": record_of(study)})
    assert with_examples(chosen).runs["tuned"].changes == {"bowl.x": 20.0}


def test_jobs_of_other_runs_and_keys_are_no_trials(study: Study) -> None:
    good, row = begun(study, "tuned", 2, 17.5), study.runs["tuned"]
    stray = replace(good, key="tuned-trial-s1002-00000000")
    assert drawn(study, row, study.settings, [stray, replace(good, run="steep-trial"), good]) == {2: good}
    assert drawn(study, row, study.settings, [replace(good, settings={"bowl.evals": 2})]) == {}
