"""Trees analysed: against a brute force over numbers, against compare.py itself, and on faults planted by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import combinations, pairwise, product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ablate.conditions import AllOf, AnyOf, Atom, Compared, Condition, Ended, Otherwise, Took, Within, evaluate, parse
from ablate.deciding.compare import compare
from ablate.deciding.noise import Pool
from ablate.deciding.scores import Scores
from ablate.preflight.trees import TreeReport, analyse, analyse_learn, pair_outcomes
from ablate.study import Metric, Skip, Study, Sweep, Take, Tree
from tests import studies
from tests.studies import LOSS, VQA

RUNS = ("A", "B", "C", "D")
NAMES = {**{name: name for name in RUNS}, "A2": "A"}
METRICS = {metric.name: metric for metric in (LOSS, VQA)}


def condition_of(text: str) -> Condition:
    return parse(text, on="val_loss", runs=NAMES, metrics=METRICS, decisions=("freeze",))


def small_study(tree: Tree, sweep: Sweep | None = None, wrong_adoptions: float = 0.05) -> tuple[Study, Sweep]:
    sweep = sweep or studies.sweep("sweep1", tree)
    return studies.study(sweep, wrong_adoptions=wrong_adoptions, aliases={"A2": "A"}), sweep


def tree_of(*lines: tuple[str, str]) -> Tree:
    """(if, take), with `otherwise` taking A added."""
    every = [
        (text, condition_of(text), Take("stop") if take == "stop" else take, "") for text, take in (*lines, ("otherwise", "A"))
    ]
    return studies.tree("t", "sweep1", *every)


def report_of(*lines: tuple[str, str], wrong_adoptions: float = 0.05) -> TreeReport:
    tree = tree_of(*lines)
    study, sweep = small_study(tree, wrong_adoptions=wrong_adoptions)
    return analyse(study, sweep, tree, {})


def verdicts(report: TreeReport) -> list[str]:
    return [line.verdict for line in report.lines]


# ---------------------------------------------------------------- faults planted by hand


def test_a_line_whose_parts_exclude_each_other_never_fires_and_says_which_parts() -> None:
    report = report_of(("B better than A and C better than A and A no worse than C", "B"))
    assert verdicts(report) == ["never", "fires"]
    assert report.lines[0].because == "“C better than A on val_loss” and “A no worse than C on val_loss” cannot hold together"


def test_three_runs_cannot_each_be_better_than_the_next() -> None:
    assert verdicts(report_of(("A better than B and B better than C and C better than A", "A"))) == ["never", "fires"]
    assert verdicts(report_of(("A better than B and B better than C and C no worse than A", "A"))) == ["never", "fires"]
    assert verdicts(report_of(("A better than B and B better than C and A better than C", "A"))) == ["fires", "fires"]


def test_what_holds_on_two_metrics_does_not_exclude_each_other() -> None:
    assert verdicts(report_of(("A better than B and worse on image_vqa", "A"))) == ["fires", "fires"]


def test_a_line_below_one_that_holds_whenever_it_does_is_in_its_shadow() -> None:
    report = report_of(("B no worse than A", "B"), ("B better than A", "B"))
    assert verdicts(report) == ["fires", "shadowed", "fires"]
    assert report.lines[1].because == "whenever it holds, “B no worse than A” is taken first"
    example = report.lines[1].example
    assert example is not None
    assert example.outcome == "B better than A on val_loss"


def test_two_lines_together_can_hide_a_third() -> None:
    report = report_of(
        ("B no worse than A and C better than A", "B"),
        ("B no worse than A and C no worse than A", "C"),
        ("B better than A and C better than A", "B"),
    )
    assert verdicts(report) == ["fires", "fires", "shadowed", "fires"]
    assert report.lines[2].because.count("“") == 1, "one line is enough to hide it"
    report = report_of(("B diverged", "C"), ("C better than A", "C"), ("B diverged or C better than A", "C"))
    assert report.lines[2].because == "whenever it holds, “B diverged” or “C better than A” is taken first"


def test_same_never_holds_with_better_and_a_diverged_run_has_no_verdicts() -> None:
    report = report_of(
        ("B same as A and B better than A", "B"),
        ("B diverged and B no worse than A", "B"),
        ("B did not learn and B better than A on image_vqa", "B"),
    )
    assert verdicts(report) == ["never", "never", "fires", "fires"]


def test_windows_nest_and_exclude_each_other() -> None:
    report = report_of(
        ("A within 0.1 of 1 and A within 0.1 of 2", "B"),
        ("A within 0.2 of 1", "B"),
        ("A within 0.1 of 1", "C"),
        ("A within 0.01 of 5 and B within 0.01 of 9 and B no worse than A", "C"),
    )
    assert verdicts(report) == ["never", "fires", "shadowed", "never", "fires"], "a lower loss is better: 9 is worse than 5"


def test_an_alias_is_the_run_itself() -> None:
    assert verdicts(report_of(("B better than A2", "B"), ("A worse than B", "C"))) == ["fires", "shadowed", "fires"]


def test_a_decision_takes_one_run_and_a_skipped_sweep_is_not_asked() -> None:
    assert verdicts(report_of(("freeze took B and freeze took C", "B"))) == ["never", "fires"]
    tree = tree_of(("freeze took B", "B"), ("freeze took C", "C"))
    skip = Skip("freeze took B", condition_of("freeze took B"), "")
    study, sweep = small_study(tree, studies.sweep("sweep1", tree, skip=skip))
    report = analyse(study, sweep, tree, {})
    assert verdicts(report) == ["never", "fires", "fires"]
    assert report.lines[0].because == "the sweep is skipped whenever it would hold"


def test_its_start_is_the_run_it_is_known_to_be() -> None:
    tree = tree_of(("B better than its start", "B"), ("A worse than B", "C"))
    study, sweep = small_study(tree)
    assert verdicts(analyse(study, sweep, tree, {"B": "A"})) == ["fires", "shadowed", "fires"]
    assert verdicts(analyse(study, sweep, tree, {})) == ["fires", "fires", "fires"]


def test_outcomes_left_to_otherwise_are_told_with_numbers_that_make_them_so() -> None:
    report = report_of(("B better than A", "B"), ("A better than B", "A"))
    (case,) = report.only_otherwise
    assert case.outcome == "not shown: B better than A or A better than B on val_loss (even if the same)"
    assert case.example == "B − A = +0 ± 0.12 on val_loss (margin 0.08)"
    assert report.notes == ("if A diverged or did not learn, “otherwise” may take it all the same",)


def test_a_tree_that_covers_everything_leaves_nothing_to_otherwise() -> None:
    report = report_of(("A diverged", "B"), ("B no worse than A or B diverged", "B"), ("A diverged or B better than A", "C"))
    assert report.lines[2].verdict == "shadowed"
    assert report.lines[-1].verdict == "fires", "no line asks what happens when nothing is shown"


def test_better_without_no_worse_is_possible_only_above_a_level_of_a_tenth() -> None:
    lines = (("B no worse than A", "B"), ("B better than A", "B"))
    assert verdicts(report_of(*lines))[1] == "shadowed"
    assert verdicts(report_of(*lines, wrong_adoptions=0.3))[1] == "fires"


def test_learn_lines_stand_alone() -> None:
    lines = ("B better than A", "B better than A", "B better than A and A better than B")
    learn = [studies.Learn(text, condition_of(text), "so") for text in lines]
    study, sweep = small_study(tree_of(), studies.sweep("sweep1", learn=learn))
    assert verdicts(analyse_learn(study, sweep, {})) == ["fires", "fires", "never"]


def test_a_wide_tree_is_analysed_at_once() -> None:
    names = {f"R{number}": f"R{number}" for number in range(12)}
    listed = ", ".join(list(names)[1:])
    texts = (
        f"any of {listed} better than R0",
        f"all of {listed} no worse than R0",
        f"any of {listed} diverged",
        f"any of {listed} worse than R0",
    )
    every = [(text, parse(text, on="val_loss", runs=names, metrics=METRICS, decisions=()), "R0", "") for text in texts]
    tree = studies.tree("t", "sweep1", *every, ("otherwise", Otherwise(), "R0", ""))
    study, sweep = small_study(tree)
    report = analyse(study, sweep, tree, {})
    assert verdicts(report) == ["fires", "fires", "fires", "fires", "fires"]
    assert (len(report.only_otherwise), report.not_told) == (24, 176), "there are 2^11"


# ---------------------------------------------------------------- against compare.py


@settings(max_examples=150, deadline=None)
@given(
    difference=st.one_of(st.floats(-0.3, 0.3), st.sampled_from([0.0, LOSS.margin, -LOSS.margin])),
    sd=st.floats(0, 0.3),
    n=st.integers(1, 5),
    df=st.sampled_from([2.0, 6.0, math.inf]),
    level=st.sampled_from([0.001, 0.0125, 0.05, 0.1, 0.3, 0.5]),
    metric=st.sampled_from([LOSS, Metric("score", "higher", margin=0.08)]),
)
def test_no_comparison_shows_what_is_called_impossible(
    difference: float, sd: float, n: int, df: float, level: float, metric: Metric
) -> None:
    pool = Pool(metric.name, sd, df, "measured")
    a, b = Scores("A", metric.name, n, dict.fromkeys(range(n), difference)), Scores("B", metric.name, 1, {9: 0.0})
    forth, back = compare(metric, a, b, pool, level), compare(metric, b, a, pool, level)
    facts = {(verdict, False) for verdict in forth.holds} | {(verdict, True) for verdict in back.holds}
    assert ("worse" in forth.holds, "worse" in back.holds) == (("better", True) in facts, ("better", False) in facts)
    seen = {(verdict, mirrored and verdict != "same") for verdict, mirrored in facts if verdict != "worse"}
    gain = difference if metric.better == "higher" else -difference
    assert [gain in gains for holds, gains in pair_outcomes(metric.margin, level) if holds == seen] == [True]


# ---------------------------------------------------------------- against brute force


def shown(gain: float, half: float, wide: float, margin: float = 8.0) -> frozenset[tuple[str, bool]]:
    """What holds between two runs, by the definitions; in eighths of a margin."""
    facts = set()
    for mirrored, g in ((False, gain), (True, -gain)):
        if g > wide and g >= margin:
            facts.add(("better", mirrored))
        if g - half > -margin:
            facts.add(("no worse", mirrored))
    if {("no worse", False), ("no worse", True)} <= facts:
        facts.add(("same", False))
    return frozenset(facts)


@cache
def shown_for(gain: int) -> frozenset[frozenset[tuple[str, bool]]]:
    return frozenset(shown(gain, half / 2, 1.5 * half / 2) for half in range(0, 200)) | {frozenset()}


@cache
def worlds() -> tuple[tuple[frozenset[frozenset[tuple[str, bool]]], ...], ...]:
    """For means on a grid of eighths of a margin: what each pair of the four runs may show. Each once.

    The first mean is 0; the others reach far enough for four runs each better than the next, three margins and a little more.
    """
    grid = range(-26, 27)
    found = set()
    for b, c in product(grid, repeat=2):
        for d in grid:
            means = (0, b, c, d)
            found.add(tuple(shown_for(means[x] - means[y]) for x, y in combinations(range(4), 2)))
    return tuple(found)


def facts_of(atom: Compared) -> tuple[str, str, tuple[str, bool]]:
    x, y = sorted((atom.a, atom.b))
    mirrored = atom.a > atom.b
    if atom.verdict == "worse":
        return x, y, ("better", not mirrored)
    return x, y, (atom.verdict, mirrored and atom.verdict != "same")


def brute_force(tree: Tree) -> tuple[set[int], set[int]]:
    """Places of lines that may hold, and of lines that may be taken; one metric, comparisons and divergence only."""
    pairs = list(combinations(RUNS, 2))
    every = [atom for line in tree.lines for atom in _atoms(line.condition)]
    asked = sorted({pairs.index(facts_of(atom)[:2]) for atom in every if isinstance(atom, Compared)})
    ended = sorted({atom.run for atom in every if isinstance(atom, Ended)})
    hold, taken = set(), set()
    outcomes = {tuple(world[pair] for pair in asked) for world in worlds()}
    states = {state for possible in outcomes for state in product(*possible)}
    for fates in product((None, "diverged", "did not learn"), repeat=len(ended)):
        fate = dict(zip(ended, fates, strict=True))
        for state in states:
            seen = dict(zip((pairs[pair] for pair in asked), state, strict=True))
            if any(facts and (fate.get(x) or fate.get(y)) for (x, y), facts in seen.items()):
                continue
            holds = [evaluate(line.condition, lambda atom: _fact(atom, seen, fate)) for line in tree.lines]  # noqa: B023
            hold |= {place for place, answer in enumerate(holds) if answer}
            taken.add(holds.index(True))
    return hold, taken


def _fact(atom: Atom, seen: Mapping[tuple[str, str], frozenset[tuple[str, bool]]], fate: Mapping[str, str | None]) -> bool:
    if isinstance(atom, Ended):
        return fate[atom.run] == atom.outcome
    assert isinstance(atom, Compared)
    x, y, fact = facts_of(atom)
    return fact in seen[x, y]


def _atoms(condition: Condition) -> Iterator[Atom]:
    if isinstance(condition, AllOf | AnyOf):
        for part in condition.parts:
            yield from _atoms(part)
    elif not isinstance(condition, Otherwise | Within | Took):
        yield condition


two_runs = st.permutations(RUNS).map(lambda names: names[:2])
compared = st.builds(
    lambda two, verdict: Compared(two[0], verdict, two[1], "val_loss"),
    two_runs,
    st.sampled_from(["better", "worse", "no worse", "same"]),
)
ended = st.builds(Ended, st.sampled_from(RUNS), st.sampled_from(["diverged", "did not learn"]))
atom = st.one_of(compared, compared, compared, ended)
clause = st.one_of(
    atom,
    st.lists(atom, min_size=2, max_size=3, unique=True).map(lambda parts: AllOf(tuple(parts))),
    st.lists(atom, min_size=2, max_size=3, unique=True).map(lambda parts: AnyOf(tuple(parts))),
)


IN_A_ROW = AllOf(tuple(Compared(a, "better", b, "val_loss") for a, b in pairwise("ADBC")))
"""Each of the four better than the next."""


@settings(max_examples=100, deadline=None)
@given(st.lists(clause, min_size=1, max_size=4))
@example([IN_A_ROW])
def test_every_verdict_on_a_line_is_that_of_a_brute_force_over_numbers(conditions: list[Condition]) -> None:
    tree = studies.tree("t", "sweep1", *[(f"line {at}", one, "A", "") for at, one in enumerate([*conditions, Otherwise()])])
    study, sweep = small_study(tree)
    report = analyse(study, sweep, tree, {})
    hold, taken = brute_force(tree)
    expected = ["fires" if at in taken else "shadowed" if at in hold else "never" for at in range(len(tree.lines))]
    assert verdicts(report) == expected
    assert bool(report.only_otherwise) == (len(conditions) in taken)


def test_the_brute_force_knows_a_circle_when_it_sees_one() -> None:
    circle = AllOf(tuple(Compared(x, "better", y, "val_loss") for x, y in ("AB", "BC", "CA")))
    tree = studies.tree("t", "sweep1", ("circle", circle, "A", ""), ("otherwise", Otherwise(), "A", ""))
    assert brute_force(tree) == ({1}, {1})


@pytest.mark.parametrize(
    "text", ["B better than A", "B no worse than A", "B same as A", "B worse than A", "B better than A and C better than B"]
)
def test_the_numbers_of_an_example_show_what_they_are_an_example_of(text: str) -> None:
    report = report_of((text, "B"))
    example = report.lines[0].example
    assert example is not None
    for one in example.example.split("; "):
        names, _, rest = one.partition(" = ")
        delta, half = (float(part) for part in rest.partition(" on ")[0].split(" ± "))
        verdict = "same" if "same" in text else "no worse" if "no worse" in text else "better"
        mirrored = "worse than" in text and "no worse" not in text
        gains = shown(-delta / LOSS.margin * 8, half / LOSS.margin * 8, half / LOSS.margin * 8)
        assert (verdict, mirrored) in gains, (names, delta, half)
