"""The language of decision trees: what it accepts, what it says of what it does not, and what a condition means."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.conditions import (
    ITS_START,
    RESERVED,
    AllOf,
    Answer,
    AnyOf,
    Atom,
    Compared,
    Condition,
    ConditionError,
    Ended,
    Otherwise,
    Outcome,
    Took,
    Within,
    atoms,
    evaluate,
    in_words,
    near,
    parse,
    parse_take,
    unparse,
)

RUNS = {"F1": "F1", "F2": "F2", "F3": "F3", "LR1": "F3", "LR2": "LR2", "D1": "D1"}
METRICS = ("loss", "loss/video", "vqa")
DECISIONS = ("freeze", "lr")
NO_BRACKETS = 'no brackets here: a line joins its clauses by "and" alone or by "or" alone; give other cases their own line'


def parsed(text: str, on: str = "loss") -> Condition:
    return parse(text, on=on, runs=RUNS, metrics=METRICS, decisions=DECISIONS)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("otherwise", Otherwise()),
        ("F2 better than F3", Compared("F2", "better", "F3", "loss")),
        ("F2 no worse than LR1 on vqa", Compared("F2", "no worse", "F3", "vqa")),
        ("F2 same as F3", Compared("F2", "same", "F3", "loss")),
        ("F3 diverged", Ended("F3", "diverged")),
        ("F1, F2 and F3 diverged", AllOf((Ended("F1", "diverged"), Ended("F2", "diverged"), Ended("F3", "diverged")))),
        ("all of F1, F2 diverged", AllOf((Ended("F1", "diverged"), Ended("F2", "diverged")))),
        ("any of F1 or F2 did not learn", AnyOf((Ended("F1", "did not learn"), Ended("F2", "did not learn")))),
        ("LR2 diverged or did not learn", AnyOf((Ended("LR2", "diverged"), Ended("LR2", "did not learn")))),
        ("F1 diverged or F2 diverged", AnyOf((Ended("F1", "diverged"), Ended("F2", "diverged")))),
        (
            "any of F1, F2 better than F3",
            AnyOf((Compared("F1", "better", "F3", "loss"), Compared("F2", "better", "F3", "loss"))),
        ),
        (
            "D1 better than its start on loss/video and no worse on vqa",
            AllOf((Compared("D1", "better", ITS_START, "loss/video"), Compared("D1", "no worse", ITS_START, "vqa"))),
        ),
        ("F1 within 0.02 of 1 on vqa", Within("F1", 0.02, 1.0, "vqa")),
        ("freeze took LR1", Took("freeze", "F3")),
        (
            "F1 diverged or did not learn and freeze took F2",
            AllOf((AnyOf((Ended("F1", "diverged"), Ended("F1", "did not learn"))), Took("freeze", "F2"))),
        ),
    ],
)
def test_a_text_means_its_condition(text: str, condition: Condition) -> None:
    assert parsed(text) == condition
    assert parsed(unparse(condition), on="") == condition


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", 1, "the condition is empty"),
        ("(F1 diverged) or F2 diverged", 1, NO_BRACKETS),
        ("F1 diverged or (F2 diverged)", 16, NO_BRACKETS),
        (" or ".join(["F1 diverged"] * 200), 2503, "more than 500 words: say it in several lines"),
        ("F4 diverged", 1, 'there is no run "F4"; runs: F1, F2, F3, LR1, LR2, D1'),
        ("nothing diverged", 1, 'there is no run "nothing"; runs: F1, F2, F3, LR1, LR2, D1'),
        ("F1 better F3", 11, 'expected "than" after "better", not "F3"'),
        ("F1 better then F3", 11, 'expected "than" after "better", not "then". Did you mean "than"?'),
        ("F1 better than", 15, "expected the name of a run, but the text ends here"),
        ("F1 better than F1", 16, "F1 is compared with itself"),
        ("F3 better than LR1", 16, "F3 is compared with itself (LR1 is another name for it)"),
        ("F1 no better than F3", 7, 'expected "worse" after "no", not "better"'),
        ("F1 better than F3 on los", 22, 'there is no metric "los". Did you mean "loss"?'),
        ("F1 diverged and F2 diverged or F3 diverged", 29, 'one line joins its clauses by "and" alone or by "or" alone'),
        ("F1 diverged F2", 13, 'expected the end of the condition, not "F2"'),
        ("F1, F1 diverged", 5, '"F1" stands twice in one list'),
        ("no worse on vqa", 1, 'which run is "no worse"? Only after a comparison of two runs may they be left out'),
        (
            "any of F1, F2 better than F3 and no worse on vqa",
            34,
            'which run is "no worse"? Only after a comparison of two runs may they be left out',
        ),
        ("its start better than D1", 1, '"its start" stands after "than" or "as": D1 better than its start'),
        ("F1 within -1 of 1", 11, "the distance must be above 0, not -1"),
        ("F1 within nan of 1", 11, 'expected a distance after "within", not "nan"'),
        ("F1 within 1e999 of 1", 11, 'expected a distance after "within", not "1e999"'),
        ("frees took F1", 1, 'there is no decision "frees". Did you mean "freeze"?'),
        ("freeze took D9", 13, 'there is no run "D9"; runs: F1, F2, F3, LR1, LR2, D1'),
        ("otherwise F1", 11, 'expected the end of otherwise, not "F1"'),
        ("not F1 diverged", 1, 'there is no run "not"; runs: F1, F2, F3, LR1, LR2, D1'),
        ("F1 did learn", 8, 'expected "not" after "did", not "learn"'),
        (
            "F1 beter than F3",
            4,
            "expected what the run did: better than, worse than, no worse than, same as, within, diverged or did not learn, "
            'not "beter". Did you mean "better"?',
        ),
    ],
)
def test_a_text_that_is_no_condition_is_told_with_its_column(text: str, column: int, message: str) -> None:
    with pytest.raises(ConditionError) as told:
        parsed(text)
    assert (told.value.column, str(told.value)) == (column, message)


def test_a_sweep_without_a_metric_needs_one_in_each_comparison() -> None:
    with pytest.raises(ConditionError) as told:
        parsed("F1 diverged and F2 better than F3", on="")
    assert told.value.column == 17
    assert str(told.value) == "which metric? The sweep names none: say `on METRIC` here, or give the sweep `on = ...`"


@pytest.mark.parametrize(
    ("text", "take"),
    [
        ("F2", ("run", ("F2",))),
        ("LR1", ("run", ("F3",))),
        ("better of F1, F2", ("best", ("F1", "F2"))),
        ("best of F1, F2 and LR1", ("best", ("F1", "F2", "F3"))),
        ("its start", ("its start", ())),
        ("stop", ("stop", ())),
    ],
)
def test_a_text_means_what_is_taken(text: str, take: tuple[str, tuple[str, ...]]) -> None:
    assert parse_take(text, runs=RUNS) == take


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("F9", 1, 'there is no run "F9"; runs: F1, F2, F3, LR1, LR2, D1'),
        ("best of F1", 9, "best of one run? Name the run alone, or two or more"),
        ("F1 or F2", 4, 'expected the end of what is taken, not "or"'),
        ("", 1, "expected the name of a run, but the text ends here"),
    ],
)
def test_what_cannot_be_taken_is_told(text: str, column: int, message: str) -> None:
    with pytest.raises(ConditionError) as told:
        parse_take(text, runs=RUNS)
    assert (told.value.column, str(told.value)) == (column, message)


@dataclass(frozen=True)
class Loss:
    better: Literal["lower", "higher"]
    margin: float = 0.08
    unit: str = "nats per token"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("F1 no worse than F3", "F1's loss is shown not to be more than 0.08 nats per token above F3's"),
        ("F1 better than F3", "F1's loss is shown to be below F3's, by 0.08 nats per token or more"),
        ("F1 worse than F3", "F1's loss is shown to be above F3's, by 0.08 nats per token or more"),
        ("F1 better than F3 on vqa", "F1's vqa is shown to be above F3's, by 0.01 or more"),
        ("D1 same as its start", "D1's loss is shown to lie within 0.08 nats per token of its start's, on either side"),
        ("F1 within 0.02 of 1 on vqa", "F1's vqa is shown to lie within 0.02 of 1"),
        ("F1 diverged", "F1 diverged (more than half of its seeds did)"),
        ("freeze took F1", "the decision freeze took F1"),
        ("otherwise", "none of the lines above holds"),
        (
            "F1 and F2 diverged",
            "F1 diverged (more than half of its seeds did), and F2 diverged (more than half of its seeds did)",
        ),
        (
            "LR2 diverged or did not learn",
            "LR2 diverged (more than half of its seeds did), or "
            "LR2 did not learn (it ends within 5 % of what an answer without information scores)",
        ),
    ],
)
def test_a_condition_in_plain_words(text: str, words: str) -> None:
    metrics = {"loss": Loss("lower"), "vqa": Loss("higher", 0.01, "")}
    assert in_words(parsed(text), metrics) == words


def test_near_ignores_letter_case() -> None:
    assert near("f3", ["F3", "A1"]) == ("F3",)


# ---------------------------------------------------------------- properties

RUN = st.sampled_from(["F1", "F2", "F3", "LR2", "D1"])
METRIC = st.sampled_from(METRICS)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
OUTCOME: st.SearchStrategy[Outcome] = st.sampled_from(["diverged", "did not learn"])
PREDICATES = st.one_of(
    st.builds(
        lambda verdict, b, metric: lambda run: Compared(run, verdict, b, metric),
        st.sampled_from(["better", "worse", "no worse", "same"]),
        st.sampled_from(["B1", ITS_START]),
        METRIC,
    ),
    st.builds(
        lambda distance, of, metric: lambda run: Within(run, distance, of, metric),
        st.floats(min_value=0, exclude_min=True, allow_infinity=False),
        FINITE,
        METRIC,
    ),
    st.builds(lambda outcome: lambda run: Ended(run, outcome), OUTCOME),
)
SINGLE = st.builds(lambda said, run: said(run), PREDICATES, RUN) | st.builds(Took, st.sampled_from(DECISIONS), RUN)
SEVERAL = st.lists(RUN, min_size=2, max_size=4, unique=True)
GROUP_OF = st.builds(lambda said, runs: tuple(said(run) for run in runs), PREDICATES, SEVERAL)
TWO_ENDS = RUN.map(lambda run: AnyOf((Ended(run, "diverged"), Ended(run, "did not learn"))))
ALL = st.lists(SINGLE | GROUP_OF.map(AnyOf) | TWO_ENDS, min_size=2, max_size=4).map(lambda parts: AllOf(tuple(parts)))
ANY = st.lists(SINGLE | GROUP_OF.map(AllOf), min_size=2, max_size=4).map(lambda parts: AnyOf(tuple(parts)))
CONDITIONS: st.SearchStrategy[Condition] = st.one_of(
    SINGLE, GROUP_OF.map(AllOf), GROUP_OF.map(AnyOf), TWO_ENDS, ALL, ANY, st.just(Otherwise())
)


@given(CONDITIONS)
def test_every_condition_survives_unparse_and_parse(condition: Condition) -> None:
    runs = {name: name for name in ("F1", "F2", "F3", "LR2", "D1", "B1")}
    assert parse(unparse(condition), on="", runs=runs, metrics=METRICS, decisions=DECISIONS) == condition


WORDS = [*sorted(RESERVED), *RUNS, *METRICS, *DECISIONS, ",", "0.5", "start", "learn", "nonsense"]


def read_or_column(text: str) -> Condition | int:
    """The condition, or the column of the mistake."""
    try:
        return parsed(text)
    except ConditionError as told:
        return told.column


@given(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(max_size=30))
def test_any_text_is_read_or_told_with_a_column_inside_it(text: str) -> None:
    found = read_or_column(text)
    if isinstance(found, int):
        assert 1 <= found <= len(text) + 1
    else:
        assert parsed(unparse(found), on="") == found


ANSWERS: tuple[Answer, ...] = (True, False, None)


def by_all_completions(condition: Condition, known: dict[Atom, Answer]) -> Answer:
    """Two-valued logic over every way the missing facts may still come out. Missing, unless all ways agree."""

    def holds(part: Condition, world: dict[Atom, bool]) -> bool:
        if isinstance(part, AllOf):
            return all(holds(one, world) for one in part.parts)
        if isinstance(part, AnyOf):
            return any(holds(one, world) for one in part.parts)
        return True if isinstance(part, Otherwise) else world[part]

    missing = [atom for atom, answer in known.items() if answer is None]
    settled = {atom: answer for atom, answer in known.items() if answer is not None}
    ways = {
        holds(condition, settled | dict(zip(missing, way, strict=True))) for way in product([True, False], repeat=len(missing))
    }
    return ways.pop() if len(ways) == 1 else None


@given(CONDITIONS, st.data())
def test_evaluate_agrees_with_trying_every_way_the_missing_may_come_out(condition: Condition, data: st.DataObject) -> None:
    facts = list(dict.fromkeys(atoms(condition)))[:8]
    known = {atom: data.draw(st.sampled_from(ANSWERS)) for atom in facts}
    known |= dict.fromkeys(atoms(condition), False) | known
    expected = by_all_completions(condition, known)
    answer = evaluate(condition, known.__getitem__)
    if len(set(atoms(condition))) == len(list(atoms(condition))):
        assert answer == expected
    else:  # a fact that stands twice may settle what Kleene's logic leaves open, never the other way round
        assert answer in (expected, None)
