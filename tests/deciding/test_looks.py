"""Looks: spending against published figures, the error they keep against simulation, and the seeds that settling asks for."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ablate import cli, evidence
from ablate.answers import decide as decide_answers
from ablate.deciding.compare import compare, holm_levels
from ablate.deciding.looks import chance_in_the_end, level_at, look_of, reached, spent
from ablate.deciding.noise import Pool
from ablate.deciding.scores import Scores
from ablate.desk import Desk, open_desk
from ablate.evidence import freeze, settle, to_settle
from ablate.runs_toml import read_study
from ablate.screens import decide as decide_screens
from ablate.study import Metric, UserError
from tests.deciding.test_confirm import NOW, end

# ---------------------------------------------------------------- levels


@pytest.mark.parametrize(
    ("spending", "published"),
    [
        ("obrien-fleming", (0.00000, 0.00079, 0.00762, 0.02442, 0.05000)),
        ("pocock", (0.01477, 0.02616, 0.03543, 0.04324, 0.05000)),
    ],
)
def test_what_is_spent_is_what_the_published_programs_spend(spending: Any, published: tuple[float, ...]) -> None:
    """Five equal looks, two-sided 0.05: cumulative error of WinLD (Reboussin, DeMets, Kim & Lan 2000) and of R's ldbounds."""
    assert [spent(0.05, share, spending) for share in (0.2, 0.4, 0.6, 0.8, 1.0)] == pytest.approx(published, abs=6e-6)


@pytest.mark.parametrize("spending", ["obrien-fleming", "pocock"])
def test_the_levels_of_all_looks_add_up_to_the_whole(spending: Any) -> None:
    assert sum(level_at(0.05, look, (2, 3, 5, 8), spending) for look in (1, 2, 3, 4)) == pytest.approx(0.05)


@pytest.mark.parametrize("spending", ["obrien-fleming", "pocock"])
def test_with_few_seeds_and_students_t_the_error_is_kept(spending: Any) -> None:
    """Two runs, 3 and then 5 seeds each, nothing true, noise of these two runs alone: 200 000 studies that always look twice."""
    random = np.random.default_rng(2)
    a, b = random.normal(size=(2, 200_000, 5))
    wrong = np.zeros(200_000, dtype=bool)
    for look, seeds in enumerate((3, 5), 1):
        p = stats.ttest_ind(a[:, :seeds], b[:, :seeds], axis=1).pvalue
        wrong |= p < level_at(0.05, look, (3, 5), spending)
    assert wrong.mean() <= 0.05
    twice = np.zeros(200_000, dtype=bool)
    for seeds in (3, 5):
        twice |= stats.ttest_ind(a[:, :seeds], b[:, :seeds], axis=1).pvalue < 0.05
    assert twice.mean() > 0.07, "what undeclared looks do"


def test_the_first_looks_leave_nearly_all_to_the_last_or_share_alike() -> None:
    early, last = (level_at(0.05, look, (3, 5), "obrien-fleming") for look in (1, 2))
    assert early == pytest.approx(0.0076, abs=1e-4)
    assert last == pytest.approx(0.0424, abs=1e-4)
    assert level_at(0.05, 1, (3, 5), "pocock") > level_at(0.05, 2, (3, 5), "pocock") > 0.01
    assert level_at(0.05, 1, (3,), "pocock") == level_at(0.05, 1, (), "pocock") == 0.05


def test_holm_steps_down_on_nominal_levels() -> None:
    levels = holm_levels([0.001, 0.5], 0.05, lambda _, alpha: level_at(alpha, 1, (3, 5), "obrien-fleming"))
    assert levels == [level_at(0.025, 1, (3, 5), "obrien-fleming"), level_at(0.05, 1, (3, 5), "obrien-fleming")]


def test_a_run_is_at_the_look_its_seeds_have_reached() -> None:
    assert [look_of((3, 5), seeds) for seeds in (1, 3, 4, 5)] == [1, 1, 2, 2]
    assert look_of((), 7) == 1


def test_a_run_with_no_seeds_left_is_at_the_last_look() -> None:
    assert reached((3, 5), 1, 1) == 2
    assert reached((3, 5), 3, 5) == 1
    assert reached((), 3, 3) == 1


@pytest.mark.parametrize("verdict", ["better", "worse", "no worse", "same"])
@pytest.mark.parametrize("delta", [-0.09, -0.03, 0.0, 0.04, 0.08])
def test_the_chance_in_the_end_is_that_of_simulated_seeds(verdict: Any, delta: float) -> None:
    """Truths from what the first 3 seeds leave open (flat prior), the later seeds drawn from each, noise known: 100 000 times."""
    metric, pool = Metric("loss", "lower", margin=0.05), Pool("loss", 0.04, math.inf, "declared")
    sides = [Scores(run, "loss", 3, dict.fromkeys((1, 2, 3), value)) for run, value in (("A", delta), ("B", 0.0))]
    one = compare(metric, sides[0], sides[1], pool, 0.01)
    random = np.random.default_rng(3)
    truth = delta + one.error * random.standard_normal(100_000)
    later = (3 * delta + 4 * truth + 4 * (0.04 * math.sqrt(2 / 4)) * random.standard_normal(100_000)) / 7
    error = 0.04 * math.sqrt(2 / 7)
    z, half = stats.norm.ppf(1 - 0.02 / 2) * error, stats.norm.ppf(0.96) * error
    shown = {
        "better": (later < -z) & (later <= -0.05),
        "worse": (later > z) & (later >= 0.05),
        "no worse": later + half < 0.05,
        "same": (later + half < 0.05) & (later - half > -0.05),
    }
    assert chance_in_the_end(one, verdict, (7, 7), 0.02, 0.04) == pytest.approx(shown[verdict].mean(), abs=0.006)


# ---------------------------------------------------------------- a study with looks

STUDY = """
[study]
name             = "small"
baseline         = "F3"
trainer          = { command = "true", metrics = { file = "log.jsonl" } }
gpus_per_run     = 2
hours_per_run    = 0.5
usd_per_gpu_hour = 2.0

[settings]
model.frozen = false
model.llm    = false
optim.ratio  = 10.0

[runs]
F3  = {}
F1  = { model.frozen = true }
F2  = { model.llm = true }
LR2 = { optim.ratio = 100.0 }

[seeds]
every = [42, 43, 44]
extra = { F3 = [45, 46], F1 = [45, 46], F2 = [45, 46] }

[evidence]
looks = [3, 5]

[metrics]
val_loss = { better = "lower", margin = 0.05, unit = "nats" }

[sweep1]
on = "val_loss"
decide.freeze = [
  ["F2 better than F3",   "F2", "harmful"],
  ["F1 better than F3",   "F1", "frozen is better"],
  ["otherwise",           "F3", "stay"],
]

[sweep2]
on = "val_loss"
decide.lr = [["LR2 better than F3", "LR2", "another ratio"], ["otherwise", "F3", "stay"]]

[blocks]
1 = ["F3", "F1", "F2", "LR2"]

[lock]
after = 1
"""
FINAL = {"F3": 1.0, "F1": 0.94, "F2": 1.2, "LR2": 1.0}


def desk_of(folder: Path, text: str = STUDY) -> Desk:
    (folder / "runs.toml").write_text(text)
    return open_desk(read_study(folder / "runs.toml"))


def train(desk: Desk) -> None:
    """End every job that may start; seeds differ by up to 0.05."""
    for job in desk.plan().startable():
        wobble = {42: 0.0, 43: 0.04, 44: -0.04, 45: 0.012, 46: -0.008}[job.seed]
        sign = 1 if job.run in ("F3", "F2") else -1
        end_at(desk, job, FINAL[job.run] + sign * wobble)


def end_at(desk: Desk, job: Any, value: float) -> None:
    from tests.deciding import test_confirm

    end(desk, job, value - test_confirm.SHIFT[job.seed])


def states(desk: Desk) -> dict[str, str]:
    return {job.id: job.state for job in desk.plan().jobs}


@pytest.fixture
def first_look(tmp_path: Path) -> Desk:
    desk = desk_of(tmp_path)
    freeze(desk, NOW, "")
    train(desk)
    evidence.decide(desk, NOW)
    return desk


def test_seeds_of_a_later_look_are_held_back_and_cost_nothing(tmp_path: Path) -> None:
    plan = desk_of(tmp_path).plan()
    held = [job for job in plan.jobs if job.held_for_look]
    assert {job.id for job in held} == {f"{run}-s{seed}" for run in ("F1", "F2", "F3") for seed in (45, 46)}
    assert {job.state for job in held} == {"skipped"}
    assert held[0].reason == "held back for look 2 (5 seeds), until `ablate launch --settle sweep1` asks for it"
    assert len(plan.startable()) == 12


def test_the_first_look_is_judged_at_its_share_and_says_so(first_look: Desk) -> None:
    record = first_look.store.decisions()["freeze"]
    assert record.took == "F3"
    first = next(one for one in record.comparisons if one["a"] == "F1")
    assert first["level"] in [level_at(alpha, 1, (3, 5), "obrien-fleming") for alpha in (0.025, 0.0125)]
    assert first["labels"] == ["look 1 of 2 (up to 3 seeds per run)"]
    assert first["tost_level"] == level_at(0.1, 1, (3, 5), "obrien-fleming") / 2


def test_settling_asks_for_exactly_the_seeds_that_could_decide_a_line(first_look: Desk) -> None:
    """F2 is so much worse that "F2 better than F3" is ruled out; F1 is not."""
    found = to_settle(first_look, first_look.study.sweeps["sweep1"])
    assert found.text == "F1 better than F3"
    assert sorted(job.id for job in found.jobs) == ["F1-s45", "F1-s46", "F3-s45", "F3-s46"]
    assert found.gpu_hours == pytest.approx(4 * 2 * 0.5)
    before = first_look.store.all_decisions()
    assert to_settle(first_look, first_look.study.sweeps["sweep1"]) == found
    assert first_look.store.all_decisions() == before, "asking what it would cost records nothing"


def test_asked_for_they_may_start_and_the_decision_is_judged_at_the_second_look(first_look: Desk) -> None:
    settle(first_look, first_look.study.sweeps["sweep1"], NOW)
    assert states(first_look)["F1-s45"] == "ready"
    assert states(first_look)["F2-s45"] == "skipped"
    evidence.decide(first_look, NOW)
    assert first_look.store.decisions()["freeze"].comparisons[0]["n_b"] == 3, "stands while the second look is under way"
    train(first_look)
    evidence.decide(first_look, NOW)
    record = first_look.store.decisions()["freeze"]
    one = next(one for one in record.comparisons if one["a"] == "F1")
    assert (one["n_a"], one["n_b"]) == (5, 5)
    assert one["labels"] == ["look 2 of 2 (up to 5 seeds per run)"]


def test_a_pair_that_was_not_settled_is_not_judged_again_because_one_of_its_runs_was(first_look: Desk) -> None:
    settle(first_look, first_look.study.sweeps["sweep1"], NOW)
    train(first_look)
    evidence.decide(first_look, NOW)
    of_f2 = next(one for one in first_look.store.decisions()["freeze"].comparisons if one["a"] == "F2")
    assert (of_f2["n_a"], of_f2["n_b"]) == (3, 3), "F3 has five seeds by now; this pair is at its first look"
    assert of_f2["labels"] == ["look 1 of 2 (up to 3 seeds per run)"]


def test_a_line_about_a_constant_asks_for_seeds_of_its_own_run_alone(tmp_path: Path) -> None:
    learn = 'learn = [["F1 within 0.06 of 0.95", "where it should be"]]\n\n[sweep2]'
    desk = desk_of(tmp_path, STUDY.replace('"F1 better than F3"', '"F2 better than F3"').replace("\n[sweep2]", f"{learn}", 1))
    freeze(desk, NOW, "")
    train(desk)
    evidence.decide(desk, NOW)
    found = to_settle(desk, desk.study.sweeps["sweep1"])
    assert found.text == "F1 within 0.06 of 0.95"
    assert sorted(job.id for job in found.jobs) == ["F1-s45", "F1-s46"]


def test_another_sweep_does_not_look_again_because_this_one_did(first_look: Desk) -> None:
    before = first_look.store.decisions()["lr"]
    settle(first_look, first_look.study.sweeps["sweep1"], NOW)
    train(first_look)
    evidence.decide(first_look, NOW)
    after = first_look.store.decisions()["lr"]
    assert after == before
    assert after.comparisons[0]["n_b"] == 3


def test_when_nothing_is_left_to_look_at_settling_says_so(first_look: Desk) -> None:
    settle(first_look, first_look.study.sweeps["sweep1"], NOW)
    train(first_look)
    evidence.decide(first_look, NOW)
    with pytest.raises(UserError, match="no seeds of the next look could still decide a line of sweep1"):
        to_settle(first_look, first_look.study.sweeps["sweep1"])


def test_without_declared_looks_settling_is_refused(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, STUDY.replace("looks = [3, 5]", "wrong_adoptions = 0.05"))
    with pytest.raises(UserError, match="declares no looks; more seeds would be an undeclared look, and exploratory"):
        to_settle(desk, desk.study.sweeps["sweep1"])


def test_an_undecided_sweep_is_not_settled(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    with pytest.raises(UserError, match="sweep1 is not decided yet"):
        to_settle(desk, desk.study.sweeps["sweep1"])


def test_seeds_that_were_not_declared_make_every_verdict_on_them_exploratory(tmp_path: Path) -> None:
    without = STUDY.replace("looks = [3, 5]", "wrong_adoptions = 0.05").replace(", F2 = [45, 46]", "")
    desk = desk_of(tmp_path, without.replace("extra = { F3 = [45, 46], F1 = [45, 46] }", ""))
    freeze(desk, NOW, "")
    train(desk)
    evidence.decide(desk, NOW)
    assert "exploratory" not in desk.store.decisions()["freeze"].because
    later = desk_of(tmp_path, without)
    train(later)
    evidence.decide(later, NOW)
    record = later.store.decisions()["freeze"]
    assert record.because.startswith("exploratory: ")
    assert "F3 has seeds 45, 46 that were not declared before the first launch" in record.because
    assert any(label.startswith("exploratory: F1 has seeds 45, 46") for one in record.comparisons for label in one["labels"])


def test_the_command_says_the_price_before_it_asks(
    first_look: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(first_look.study.path.parent)

    def typed(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ablate", "launch", "--settle", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), *capsys.readouterr()

    code, out, _ = typed("sweep1", "--dry-run", "--json")
    document = json.loads(out)
    assert (code, document["look"], document["line"], document["cost"]) == (0, 2, "F1 better than F3", 8.0)
    _, out, _ = typed("sweep1", "--dry-run")
    assert "to settle sweep1: look 2 of 2" in out
    assert "train    F1-s45: model.frozen = true" in out
    assert "look of sweep1" not in first_look.store.decisions()
    code, _, err = typed("sweep1", "--run", "F1")
    assert code == 2
    assert "--settle chooses the jobs itself" in err


def test_an_edit_of_what_was_frozen_stands_beside_every_verdict_it_touches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = desk_of(tmp_path)
    freeze(desk, NOW, "")
    train(desk)
    later = desk_of(tmp_path, STUDY.replace("margin = 0.05", "margin = 0.06"))
    freeze(later, NOW, "0.05 was below the noise")
    decide_screens.decide(decide_answers.decide(later, ("sweep1",)))
    label = "deviates: metrics.val_loss.margin 0.05 → 0.06 (reason: 0.05 was below the noise)"
    assert label in capsys.readouterr().out
    assert all(label in one["labels"] for one in later.store.decisions()["freeze"].comparisons)


def test_an_edit_of_another_sweep_or_metric_does_not(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    freeze(desk, NOW, "")
    train(desk)
    later = desk_of(tmp_path, STUDY.replace('"another ratio"', '"a better ratio"'))
    freeze(later, NOW, "wording")
    evidence.decide(later, NOW)
    touched = {name: [one["labels"] for one in record.comparisons] for name, record in later.store.decisions().items()}
    assert not any("deviates" in str(labels) for labels in touched["freeze"])
    assert all("deviates: sweeps.sweep2" in str(labels) for labels in touched["lr"])
