"""The final config: what is in it, where it came from, and why it waits."""

from dataclasses import replace

from ablate.conditions import Otherwise
from ablate.deciding.lock import NotYet, make_lock, same_lock
from ablate.planning.plan import Plan, make_plan
from ablate.study import Take
from db.records import DecisionRecord
from tests.studies import SETTINGS, settings_of, study, sweep, tree

NOW = "2026-11-22T10:00:00Z"


def last(name, of_sweep):
    return tree(name, of_sweep, ("otherwise", Otherwise(), Take("run", ("F3",)), "stay"))


STUDY = study(sweep("sweep1", last("freeze", "sweep1")), sweep("sweep2", last("lr", "sweep2")))
ENDED = Plan((), {}, {}, ())


def decided(name, took, sets, number=1, status="decided"):
    return DecisionRecord(name, "sweep1", status, took, "", sets, "so it is", "rule", NOW, number=number)


FREEZE = decided("freeze", "F2", {"model.freeze_llm": True}, 3)
LR = decided("lr", "LR4", {"optim.connector_ratio": 1}, 4)


def lock(decisions, trained=None, plan=ENDED, of_study=STUDY):
    return make_lock(of_study, {record.name: record for record in decisions}, trained or {}, plan, NOW)


def test_the_lock_is_the_baseline_plus_what_each_decision_took():
    made = lock([FREEZE, LR])
    assert made.settings == {**SETTINGS, "model.freeze_llm": True, "optim.connector_ratio": 1}
    assert (made.sources["model.freeze_llm"], made.sources["optim.connector_ratio"]) == ("freeze", "lr")
    assert made.sources["optim.lr"] == "baseline"
    assert made.decisions == {"freeze": 3, "lr": 4}
    assert (made.conflicts, made.trained_as, made.provisional, made.at) == ((), "", True, NOW)


def test_a_combination_that_a_run_trained_is_named():
    made = lock([FREEZE, decided("lr", "LR1", {})], {"F3": settings_of("F3"), "F2": settings_of("F2")})
    assert made.trained_as == "F2"


def test_settings_that_change_no_result_do_not_make_it_untrained():
    made = lock([decided("freeze", "F3", {}), decided("lr", "LR1", {})], {"F3": {**SETTINGS, "log.every": 1}})
    assert made.trained_as == "F3"


def test_a_skipped_tree_sets_nothing():
    made = lock([FREEZE, decided("lr", "", {"optim.connector_ratio": 99}, status="skipped")])
    assert made.settings["optim.connector_ratio"] == 10


def test_decisions_that_contradict_each_other_are_listed_and_not_guessed():
    made = lock([FREEZE, decided("lr", "X", {"model.freeze_llm": False, "optim.lr": 1e-4})])
    assert made.conflicts == ("model.freeze_llm: freeze says True, lr says False; overrule one",)
    assert (made.settings["model.freeze_llm"], made.sources["model.freeze_llm"]) == (False, "conflict")
    assert made.settings["optim.lr"] == 1e-4


def test_decisions_that_agree_are_no_conflict():
    made = lock([FREEZE, decided("lr", "X", {"model.freeze_llm": True})])
    assert (made.conflicts, made.sources["model.freeze_llm"]) == ((), "freeze")


def test_a_lock_waits_for_every_tree_and_says_which():
    waiting = replace(LR, status="waiting", because="LR4@42 is running")
    assert lock([FREEZE, waiting]) == NotYet(("decision 'lr' (sweep2) waits: LR4@42 is running",))
    assert lock([LR]) == NotYet(("decision 'freeze' (sweep1) is open",))


def test_a_tree_that_says_stop_cannot_be_locked():
    stop = decided("freeze", "stop", {})
    assert lock([stop, LR]) == NotYet(
        ("decision 'freeze' (sweep1) took `stop`: so it is. Overrule it or change the study",),
    )


def test_a_study_without_a_last_block_is_never_locked():
    found = lock([FREEZE, LR], of_study=replace(STUDY, lock_after=""))
    assert found == NotYet(("the file asks for no lock; give [lock] after = the last block",))


def test_the_lock_waits_for_the_jobs_of_its_blocks():
    found = lock([FREEZE, LR], plan=make_plan(replace(STUDY, lock_after="1"), {}, {}), of_study=replace(STUDY, lock_after="1"))
    assert found == NotYet(tuple(f"{run}-s42 (block 1) is ready" for run in ("F3", "F1", "F2")))


def test_two_locks_are_the_same_whenever_they_were_made():
    one = lock([FREEZE, LR])
    other = replace(lock([replace(FREEZE, number=9), LR]), at="2026-11-23T10:00:00Z")
    assert same_lock(one, other)
    assert not same_lock(one, lock([decided("freeze", "F3", {}), LR]))
