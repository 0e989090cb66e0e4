"""The jobs that noise was looked for in are kept once, whatever the decisions, and every record still says all of its own."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ablate.deciding.pooled import brief, looked_in
from db.records import DecisionRecord

KEYS = [f"R{at}-s42-{at:08x}" for at in range(6)]


def decided(*pools: list[str] | None) -> DecisionRecord:
    """A decision of so many comparisons; None: one without a pool."""
    comparisons = tuple({"a": "F1", "pool": {"sd": 0.1, "jobs": keys} if keys is not None else None} for keys in pools)
    return DecisionRecord("freeze", "sweep1", "decided", "F3", "", {}, "", "rule", "", comparisons=comparisons)


def kept(*records: DecisionRecord) -> list[DecisionRecord]:
    history: list[DecisionRecord] = []
    for record in records:
        history.append(replace(brief(record, history), number=len(history) + 1))
    return history


@given(st.lists(st.sets(st.sampled_from(KEYS)), max_size=6))
def test_every_record_says_the_jobs_it_was_taken_with(pools: list[set[str]]) -> None:
    history = kept(*(decided(None, [*keys], [*keys]) for keys in pools))
    assert [looked_in(record, history) for record in history] == pools


def test_a_record_keeps_only_what_is_new() -> None:
    first, second, third = kept(decided(KEYS[:3], KEYS[:3]), decided(KEYS[:5]), decided(KEYS[1:5]))
    assert first.comparisons[0]["pool"] == {"sd": 0.1, "jobs": {"like": 0, "more": KEYS[:3], "gone": []}}
    assert first.comparisons[1]["pool"] == {"sd": 0.1}
    assert second.comparisons[0]["pool"]["jobs"] == {"like": 1, "more": KEYS[3:5], "gone": []}
    assert third.comparisons[0]["pool"]["jobs"] == {"like": 2, "more": [], "gone": KEYS[:1]}


def test_a_record_that_repeats_an_earlier_ones_evidence_says_the_same_jobs() -> None:
    history = kept(decided(KEYS[:2]), decided(KEYS[:5]))
    overruled = replace(history[0], status="overruled", number=0)
    history.append(replace(brief(overruled, history), number=3))
    assert looked_in(history[2], history) == set(KEYS[:2])


def test_records_with_whole_lists_are_read_and_built_upon() -> None:
    old = replace(decided(KEYS[:3], KEYS[:4]), number=1)
    assert looked_in(old, [old]) == set(KEYS[:4])
    new = brief(decided(KEYS[:5]), [old])
    assert new.comparisons[0]["pool"]["jobs"] == {"like": 1, "more": [KEYS[4]], "gone": []}
    assert looked_in(new, [old]) == set(KEYS[:5])


def test_a_record_without_a_pool_is_left_as_it_is() -> None:
    trials = DecisionRecord("search of LR2", "", "decided", "", "", {}, "", "rule", "", comparisons=({"trial": 1},))
    for record in (trials, decided(), decided(None)):
        assert brief(record, [replace(decided(KEYS), number=1)]) == record
        assert looked_in(record, []) == frozenset()
