"""When a decision is another than the one before, and what made it turn."""

import json
from dataclasses import replace

from ablate.deciding.turned import rests_on_the_same, superseded, turned_because
from tests.small_trees import TINY, one, results
from tests.studies import jobs


def test_a_decision_whose_ledger_is_another_now_does_not_rest_on_the_same():
    def at(step):
        return one({run: [replace(job, steps={"val_loss": step[run]}) for job in jobs(run, TINY[run])] for run in TINY})

    fair, unfair = at({"F1": 300, "F2": 300, "F3": 300}), at({"F1": 100, "F2": 300, "F3": 300})
    assert rests_on_the_same(fair, fair)
    assert not rests_on_the_same(unfair, fair)
    assert turned_because(unfair, fair) == "F1 − F3 on val_loss: last step is not equal now"


def test_a_new_record_is_needed_only_when_something_changed():
    first = one(results(**TINY))
    assert superseded(first, None)
    assert not superseded(replace(first, at="2026-11-23T00:00:00Z", number=7), first)
    changed = one(results(**{**TINY, "F2": [0.01, 0.02, 0.03]}))
    assert superseded(changed, first)
    waiting = one(results(F1=["running"], F2=[1], F3=[1]))
    assert not superseded(one(results(F1=["ready"], F2=[1], F3=[1])), waiting)
    assert superseded(first, waiting)


def test_a_record_that_came_back_from_json_is_not_a_change():
    first = one(results(**TINY))
    assert not superseded(first, replace(first, comparisons=tuple(json.loads(json.dumps(first.comparisons)))))
