"""A person decides: what may be taken, and what is kept beside."""

import pytest

from ablate.deciding.overrule import overrule
from ablate.study import UserError
from tests.small_trees import MIX, NOW, STUDY, TINY, one, results
from tests.studies import study, sweep


def test_a_person_overrules_with_a_reason_and_the_evidence_stays():
    rule = one(results(**TINY))
    made = overrule(STUDY, "freeze", "F2", " cheaper ", NOW, {}, rule)
    assert (made.status, made.by, made.took, made.because) == ("overruled", "person", "F2", "cheaper")
    assert made.sets == {"model.freeze_llm": True}
    assert (made.comparisons, made.jobs) == (rule.comparisons, rule.jobs)


@pytest.mark.parametrize(
    ("name", "take", "because", "message"),
    [
        ("freese", "F2", "x", "there is no decision 'freese'. Did you mean 'freeze'? Decisions: freeze, lr"),
        ("freeze", "LR2", "x", "freeze cannot take 'LR2'. It can take F1, F2, F3, stop"),
        ("freeze", "F2", "  ", '--take F2 overrules freeze without a reason. Give one: --because "…"'),
    ],
)
def test_an_overruling_that_makes_no_sense_is_refused(name, take, because, message):
    with pytest.raises(UserError) as error:
        overrule(STUDY, name, take, because, NOW, {})
    assert str(error.value) == message


def test_a_person_may_keep_the_start_by_its_name():
    of_study = study(sweep("sweep4", MIX))
    assert overrule(of_study, "mix", "its start", "why", NOW, {"D1": "D1-start"}).took == "D1-start"
    with pytest.raises(UserError, match="cannot take 'its start' yet"):
        overrule(of_study, "mix", "its start", "why", NOW, {})


def test_what_a_person_decided_stands():
    made = overrule(STUDY, "freeze", "F2", "cheaper", NOW, {})
    assert one(results(**TINY), earlier={"freeze": made}) is made
