"""Trees and what jobs scored -> decisions: tables, a brute-force reading of a tree, and a simulation of the error budget."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from ablate.conditions import AnyOf, Compared, Ended, Otherwise, Within
from ablate.study import IMPORTED, Learn, Take
from db.records import DecisionRecord
from tests.small_trees import FREEZE, LR, MIX, NOW, STUDY, TINY, beats, decide, one, results
from tests.studies import LOSS, jobs, settings_of, study, sweep, tree

# ---------------------------------------------------------------- which line is taken


@pytest.mark.parametrize(
    ("values", "took", "line"),
    [
        (TINY, "F3", "F3 better than F1"),
        ({**TINY, "F2": [0.01, 0.02, 0.03]}, "F2", "F2 better than F3"),
        ({**TINY, "F1": [0.150, 0.160, 0.180]}, "F1", "F1 no worse than F3"),
        ({**TINY, "F3": ["diverged", "diverged", 0.1]}, "F2", "F3 diverged"),
        ({run: ["diverged"] * 3 for run in TINY}, "stop", "F1, F2 and F3 diverged"),
        ({"F1": [0.2, 0.4], "F2": [0.2, 0.4], "F3": [0.2, 0.4]}, "F3", "otherwise"),
    ],
)
def test_the_first_line_that_holds_is_taken(values, took, line):
    record = one(results(**values))
    assert (record.status, record.took, record.line, record.by, record.at) == ("decided", took, line, "rule", NOW)


def test_a_decision_carries_its_numbers_its_jobs_and_what_it_sets():
    record = one(results(**{**TINY, "F2": [0.01, 0.02, 0.03]}))
    assert record.sets == {"model.freeze_llm": True}
    assert record.because.startswith("unfreezing the LLM is harmful: F2 − F3 = -0.145 [-0.1")
    assert record.because.endswith("] nats per token, margin 0.08, n 3/3, sd 0.019 (6 df, measured)")
    assert set(record.jobs) == {job.key for run in TINY for job in jobs(run, TINY[run])}
    assert set(record.jobs.values()) == {"c0de"}
    assert len(record.tree_hash) == 64
    shown = {(item["a"], item["b"]): item for item in record.comparisons}
    assert set(shown) == {("F2", "F3"), ("F1", "F3"), ("F3", "F1")}
    first = shown["F2", "F3"]
    assert {"a", "b", "metric", "holds", "delta", "low", "high", "margin", "n_a", "n_b", "noise"} <= set(first)
    assert first["holds"] == ["better", "no worse"]
    assert set(first["noise"]) == {"sd", "df", "source"}
    json.dumps(record.comparisons, allow_nan=False)


def test_seeds_that_diverged_are_told_where_it_is_decided():
    shown = one(results(**{**TINY, "F1": [0.38, "diverged", 0.34]}))
    assert (shown.took, shown.because.rpartition("; ")[2]) == ("F3", "1 of 3 seeds of F1 diverged")
    kept = one(results(**{**TINY, "F1": ["diverged", 0.15, 0.25]}))
    assert (kept.line, kept.because) == ("otherwise", "not shown either way; 1 of 3 seeds of F1 diverged")


def test_values_taken_at_different_steps_decide_nothing_until_the_file_says_why():
    def stepped(run, step):
        return [replace(job, steps={"val_loss": step}) for job in jobs(run, TINY[run])]

    found = {"F1": stepped("F1", 100), "F2": stepped("F2", 300), "F3": stepped("F3", 300)}
    record = one(found)
    assert record.line == "otherwise"
    assert "F3 and F1 on val_loss: not fair: last step differs: 300 / 100" in record.because
    (meant,) = decide(replace(STUDY, mix_steps="they converge"), "sweep1", found).decisions
    assert meant.line == "F3 better than F1"
    assert "last steps differ (300 / 100): they converge" in meant.comparisons[-1]["labels"]


def test_a_run_that_diverged_loses_by_that_and_not_by_a_comparison():
    record = one(results(**{**TINY, "F3": ["diverged", "diverged", 0.1]}))
    assert record.because == "full unfreezing is unstable: F3 diverged (2 of 3 seeds)"
    assert all(item["holds"] == [] for item in record.comparisons)
    assert all(item["reason"] == "F3 diverged (2 of 3 seeds)" for item in record.comparisons)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"F1": TINY["F1"], "F2": TINY["F2"]}, "F3 is not planned yet"),
        ({**TINY, "F3": [0.1, "running", "ready"]}, "F3@43 is running, F3@44 is ready"),
        ({**TINY, "F3": [0.1, 0.2, "failed"]}, "F3@44 has failed"),
    ],
)
def test_a_tree_waits_for_jobs_that_have_not_ended_and_says_which(values, reason):
    answer = decide(STUDY, "sweep1", results(**values))
    (record,) = answer.decisions
    assert (record.status, record.took, record.comparisons) == ("waiting", "", ())
    assert record.because == reason
    assert answer.open == (f"freeze: {reason}",)


def test_a_line_further_down_does_not_make_a_line_that_holds_wait():
    values = {"F3": [0.30, 0.31, 0.32], "F2": [0.01, 0.02, 0.03], "F1": [0.3, "running", "running"]}
    short = study(sweep("s", replace(FREEZE, sweep="s", lines=FREEZE.lines[2:])))
    (record,) = decide(short, "s", results(**values)).decisions
    assert (record.status, record.took) == ("decided", "F2")


def test_a_verdict_that_hangs_on_an_unmeasured_comparison_is_missing():
    """p = 0.034: not shown at 0.05 / 3, shown at 0.05. Which level it gets is known when all three are measured."""
    noisy = replace(LOSS, noise=0.1, margin=0.01)
    of_study = replace(study(sweep("sweep2", LR)), metrics={"val_loss": noisy})
    base = {"F3": [0.5], "LR2": [0.2], "LR3": ["running"], "LR4": ["running"]}
    (record,) = decide(of_study, "sweep2", results(**base)).decisions
    assert record.status == "waiting"
    assert "LR2 − LR1 depends on comparisons of this tree that are not measured yet" in record.because
    (record,) = decide(of_study, "sweep2", results(**{**base, "LR3": [-0.5], "LR4": [-0.5]})).decisions
    assert record.took == "LR3"
    assert record.comparisons[0]["holds"] == ["better", "no worse"]
    (record,) = decide(of_study, "sweep2", results(**{**base, "LR3": [0.5], "LR4": [0.5]})).decisions
    assert (record.took, record.sets) == ("LR1", {})


def test_the_best_is_sought_among_those_that_beat_the_baseline():
    """LR3 has the better mean but too few seeds to show it; LR4 is shown."""
    near = [-0.01, 0.0, 0.0, 0.01]
    spread = {run: [mean + off for off in near] for run, mean in (("F3", 0.9), ("LR2", 1.0), ("LR4", 0.5))}
    spread["LR3"] = [0.1, 0.9, -0.6]
    found = results(**spread)
    noise = {f"N{i}": jobs(f"N{i}", [0, 0.05, 0.1]) for i in range(4)}
    (record,) = decide(study(sweep("sweep2", LR)), "sweep2", {**found, **noise}).decisions
    means = {run: np.mean(values) for run, values in spread.items()}
    assert min(means, key=means.get) == "LR3"
    assert (record.took, record.sets) == ("LR4", {"optim.connector_ratio": 1})


def test_any_of_takes_the_best_mean_of_those_shown():
    noise = {f"N{i}": jobs(f"N{i}", [0, 0.05, 0.1]) for i in range(4)}
    means = {"F3": 0.9, "LR2": 0.5, "LR3": 0.3, "LR4": 0.9}
    found = results(**{run: [mean, mean + 0.01, mean + 0.02] for run, mean in means.items()}) | noise
    (record,) = decide(study(sweep("sweep2", LR)), "sweep2", found).decisions
    assert record.took == "LR3"


def test_with_nothing_left_to_choose_from_the_best_is_stop():
    unstable = ("F3 diverged", Ended("F3", "diverged"), Take("best", ("F1", "F2")), "unstable")
    lines = tree("t", "s", unstable, ("otherwise", Otherwise(), "F3", "stay"))
    values = {run: ["diverged"] for run in ("F1", "F2", "F3")}
    (record,) = decide(study(sweep("s", lines)), "s", results(**values)).decisions
    assert (record.took, record.sets) == ("stop", {})


# ---------------------------------------------------------------- levels


def test_wrong_adoptions_are_split_over_the_trees_and_holm_orders_a_tree():
    of_study = study(sweep("sweep1", FREEZE), sweep("sweep2", LR))  # two trees: 0.025 each
    levels = {(c["a"], c["b"]): c["level"] for c in one_of(of_study, "sweep1", results(**TINY)).comparisons}
    assert levels["F1", "F3"] == levels["F3", "F1"] == pytest.approx(0.025 / 2)  # the smaller p of two pairs
    assert levels["F2", "F3"] == pytest.approx(0.025)


def one_of(of_study, name, found):
    (record,) = decide(of_study, name, found).decisions
    return record


def test_a_blocked_comparison_still_counts_among_those_a_tree_asks():
    found = results(F3=[0.5, 0.51], LR2=["diverged"], LR3=[0.5, 0.52], LR4=[0.49, 0.5])
    record = one_of(study(sweep("sweep2", LR)), "sweep2", found)
    assert [c["level"] for c in record.comparisons] == pytest.approx([0.05 / 3] * 3)


def test_with_nothing_true_a_tree_adopts_something_in_at_most_one_study_in_twenty():
    """Four runs of three seeds, one truth, a margin of nothing; 2 000 studies. Any verdict better or worse would be wrong."""
    of_study = replace(study(sweep("sweep2", LR)), metrics={"val_loss": replace(LOSS, margin=0.0)})
    rng = np.random.default_rng(2026)
    adopted = shown = 0
    for values in rng.normal(0.5, 0.05, (2000, 4, 3)):
        found = {run: jobs(run, row) for run, row in zip(("F3", "LR2", "LR3", "LR4"), values.tolist(), strict=True)}
        record = one_of(of_study, "sweep2", found)
        adopted += record.took != "LR1"
        shown += any({"better", "worse"} & set(item["holds"]) for item in record.comparisons)
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert adopted / 2000 <= allowed
    assert 0.02 <= shown / 2000 <= allowed  # and the budget is used, not hoarded


# ---------------------------------------------------------------- skips, other decisions, learn lines


def record_of(name, took, status="decided"):
    return DecisionRecord(name, "sweep1", status, took, "", {}, "", "rule", NOW, number=1)


def test_a_sweep_is_skipped_by_what_an_earlier_decision_took():
    answer = decide(STUDY, "sweep2", {}, {"freeze": record_of("freeze", "F1")})
    (record,) = answer.decisions
    assert (record.status, record.took, record.line) == ("skipped", "", "freeze took F1")
    assert record.because == "only one rate is left (freeze took F1)"
    assert (answer.skipped_because, answer.open) == ("freeze took F1: only one rate is left", ())


@pytest.mark.parametrize("earlier", [{}, {"freeze": record_of("freeze", "", "waiting")}])
def test_a_sweep_that_may_be_skipped_waits_for_that(earlier):
    answer = decide(STUDY, "sweep2", results(F3=[1], LR2=[1], LR3=[1], LR4=[1]), earlier)
    assert answer.decisions[0].status == "waiting"
    assert answer.open == ("sweep2: whether it is skipped is not known yet (freeze took F1)",)


def test_a_decision_that_was_skipped_took_nothing():
    answer = decide(
        STUDY, "sweep2", results(F3=[1, 1], LR2=[1], LR3=[1], LR4=[1]), {"freeze": record_of("freeze", "", "skipped")}
    )
    assert answer.decisions[0].took == "LR1"


def test_learn_lines_that_hold_are_reported_with_their_numbers():
    learn = [
        Learn("F1 worse than F3", Compared("F1", "worse", "F3", "val_loss"), "freezing costs"),
        Learn("F1 no worse than F3", Compared("F1", "no worse", "F3", "val_loss"), "freezing is free"),
        Learn("F2 within 0.1 of 0.2", Within("F2", 0.1, 0.2, "val_loss"), "F2 lies at 0.2"),
        Learn("LR2 diverged or did not learn", AnyOf((Ended("LR2", "diverged"), Ended("LR2", "did not learn"))), "too fast"),
        Learn("LR4 worse than F3", Compared("LR4", "worse", "F3", "val_loss"), "load-bearing"),
    ]
    of_study = study(sweep("sweep3", learn=learn))
    found = results(**TINY, LR4=["running"]) | {"LR2": jobs("LR2", [1.92], facts={"uninformed": {"val_loss": 1.919}})}
    answer = decide(of_study, "sweep3", found)
    assert [item.say for item in answer.learned] == ["freezing costs", "F2 lies at 0.2", "too fast"]
    assert answer.learned[0].because.startswith("F1 − F3 = +0.195 [")
    assert answer.learned[0].comparisons[0]["level"] == 0.05
    assert answer.learned[2].because == "LR2 did not learn val_loss (1 of 1 seeds)"
    assert answer.open == ("LR4 worse than F3: LR4@42 is running",)
    assert answer.decisions == ()


# ---------------------------------------------------------------- a run held against a number

HELD = tree(
    "held",
    "s",
    ("F2 within 0.1 of 0.2", Within("F2", 0.1, 0.2, "val_loss"), "F2", "F2 lies at 0.2"),
    ("otherwise", Otherwise(), "F3", "not shown"),
)


def held(last=None, **of_study):
    """The tree's decision where the last of three seeds of F2 differs from the others in this."""
    alike = {"steps": {"val_loss": 300}, "facts": {"samples": 9600, "eval_hash": "e1"}}
    found = jobs("F2", TINY["F2"], **alike)
    found[-1] = replace(found[-1], **(last or {}))
    return one_of(replace(study(sweep("s", HELD)), **of_study), "s", {"F2": found})


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ({"steps": {"val_loss": 100}}, "last step differs between its seeds: 100, 300"),
        ({"facts": {"samples": 4800, "eval_hash": "e1"}}, "samples differs between its seeds: 4,800, 9,600"),
        ({"facts": {"samples": 9600, "eval_hash": "e2"}}, "evaluation differs between its seeds: e1, e2"),
        ({"facts": {"samples": 9600, IMPORTED: {"source": "x"}}}, "origin differs between its seeds: imported, trained here"),
        ({"code_hash": "c1de"}, "trainer's code differs between its seeds: c0de, c1de"),
    ],
)
def test_a_run_whose_own_seeds_are_unlike_shows_nothing_against_a_number(last, why):
    assert held().took == "F2"
    record = held(last)
    assert record.line == "otherwise"
    assert record.because.endswith(f"not shown: F2 and 0.2 on val_loss: not fair: {why}")
    assert [check["ok"] for check in record.comparisons[0]["fairness"] if check["check"] == why.partition(" differs")[0]] == [
        False
    ]


def test_a_run_that_is_the_same_whatever_its_seed_shows_nothing_against_a_number():
    record = one_of(study(sweep("s", HELD)), "s", {"F2": jobs("F2", [0.2, 0.2]), "F3": jobs("F3", [0.2, 0.21])})
    assert record.because == "not shown: F2 and 0.2 on val_loss: not fair: the trainer does not use its seed: all 2 gave 0.2"


def test_what_the_file_declares_of_steps_and_origins_counts_for_a_run_held_against_a_number_too():
    meant = held({"steps": {"val_loss": 100}}, mix_steps="they converge")
    assert meant.took == "F2"
    assert meant.comparisons[0]["labels"] == ["last steps differ (100, 300): they converge"]
    assert held({"facts": {IMPORTED: {"source": "x"}}}, mix_imported="the same code").took == "F2"


# ---------------------------------------------------------------- who is compared with whom


@pytest.mark.parametrize(("start", "values", "took", "sets"), [
    ("D1-start", [0.5, 0.51], "D1", {"data.mix": {"video": 0.9, "image": 0.1}}),
    ("F2", [0.5, 0.51], "D1", {"data.mix": {"video": 0.9, "image": 0.1}}),
    ("D1-start", [0.1, 0.1], "D1-start", {}),
])  # fmt: skip
def test_a_row_from_winners_is_compared_with_the_run_that_is_its_start(start, values, took, sets):
    base = settings_of(start)
    found = {
        start: jobs(start, values, settings=base),
        "D1": jobs("D1", [0.1, 0.11], settings={**base, "data.mix": {"video": 0.9, "image": 0.1}}),
        "N": jobs("N", [0.1, 0.12, 0.11]),
    }
    (record,) = decide(study(sweep("sweep4", MIX)), "sweep4", found, its_start={"D1": start}).decisions
    assert (record.took, record.sets) == (took, sets)
    assert record.comparisons[0]["b"] == start


def test_while_the_start_is_not_known_the_tree_waits():
    (record,) = decide(study(sweep("sweep4", MIX)), "sweep4", results(D1=["waiting"])).decisions
    assert (record.status, record.because) == ("waiting", "the start of D1 is not known yet")


def test_rows_of_different_starts_are_not_compared():
    lines = tree("t", "s", ("A8b better than F3", beats("A8b", "F3"), "A8b", "pays"), ("otherwise", Otherwise(), "A8a", "no"))
    record = one_of(study(sweep("s", lines)), "s", results(A8b=[0.1, 0.1], F3=[0.9, 0.9]))
    assert record.took == "A8a"
    assert record.comparisons[0]["reason"] == "A8b and F3 start from different configs (start 'image stage'; the baseline)"


def test_rows_of_one_named_start_are_compared():
    lines = tree("t", "s", ("A8b better than A8a", beats("A8b", "A8a"), "A8b", "pays"), ("otherwise", Otherwise(), "A8a", "no"))
    record = one_of(study(sweep("s", lines)), "s", results(A8b=[0.1, 0.12], A8a=[0.9, 0.91]))
    assert (record.took, record.sets) == ("A8b", {"data.replicate_image_frames": 16})


@pytest.mark.parametrize(
    ("facts", "took"),
    [
        ({"manifest_hash": "other"}, "F3"),
        ({"eval_hash": "other"}, "F3"),
        ({"samples": 1}, "F3"),
        ({"device": "another"}, "F2"),
    ],
)
def test_an_unfair_comparison_decides_nothing(facts, took):
    same = {"manifest_hash": "m", "eval_hash": "e", "samples": 9600, "device": "cpu"}
    lines = tree("t", "s", ("F2 better than F3", beats("F2", "F3"), "F2", "pays"), ("otherwise", Otherwise(), "F3", "no"))
    found = {"F2": jobs("F2", [0.1, 0.12], facts=same), "F3": jobs("F3", [0.9, 0.91], facts={**same, **facts})}
    record = one_of(study(sweep("s", lines)), "s", found)
    assert record.took == took
    if took == "F3":
        assert record.because.startswith("no: F2 and F3 on val_loss: not fair: ")


def test_another_budget_is_fair_where_the_row_declares_it():
    lines = tree("t", "s", ("B1 better than F3", beats("B1", "F3"), "B1", "pays"), ("otherwise", Otherwise(), "F3", "no"))
    found = {"B1": jobs("B1", [0.1], facts={"samples": 4800}), "F3": jobs("F3", [0.9, 0.91, 0.92], facts={"samples": 9600})}
    record = one_of(study(sweep("s", lines)), "s", found)
    assert record.took == "B1"
    check = next(check for check in record.comparisons[0]["fairness"] if check["check"] == "samples")
    assert (check["ok"], check["declared"], check["a"], check["b"]) == (False, True, "4,800", "9,600")


def test_two_calls_with_the_same_values_give_the_same_answer():
    assert decide(STUDY, "sweep1", results(**TINY)) == decide(STUDY, "sweep1", results(**TINY))
