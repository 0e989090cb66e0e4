"""Trees over the study put together by hand, and what they say of results."""

from ablate.conditions import ITS_START, AllOf, AnyOf, Compared, Ended, Otherwise, Took
from ablate.deciding.decide import decide_sweep
from ablate.study import Skip, Take
from tests.studies import jobs, study, sweep, tree

NOW = "2026-11-22T10:00:00Z"


def beats(a, b, metric="val_loss"):
    return Compared(a, "better", b, metric)


FREEZE = tree(
    "freeze",
    "sweep1",
    (
        "F1, F2 and F3 diverged",
        AllOf(tuple(Ended(run, "diverged") for run in ("F1", "F2", "F3"))),
        Take("stop"),
        "nothing trains",
    ),
    ("F3 diverged", Ended("F3", "diverged"), Take("best", ("F1", "F2")), "full unfreezing is unstable"),
    ("F2 better than F3", beats("F2", "F3"), "F2", "unfreezing the LLM is harmful"),
    ("F1 no worse than F3", Compared("F1", "no worse", "F3", "val_loss"), "F1", "as good, and cheaper"),
    ("F3 better than F1", beats("F3", "F1"), "F3", "full unfreeze is justified"),
    ("otherwise", Otherwise(), "F3", "not shown either way"),
)
LR = tree(
    "lr",
    "sweep2",
    (
        "any of LR2, LR3, LR4 better than LR1",
        AnyOf(tuple(beats(run, "LR1") for run in ("LR2", "LR3", "LR4"))),
        Take("best", ("LR2", "LR3", "LR4")),
        "another ratio beats 10:1",
    ),
    ("otherwise", Otherwise(), "LR1", "10:1 stays"),
)
SKIP = Skip("freeze took F1", Took("freeze", "F1"), "only one rate is left")
MIX = tree(
    "mix",
    "sweep4",
    ("D1 better than its start", beats("D1", ITS_START), "D1", "video-heavy pays"),
    ("otherwise", Otherwise(), Take("its start"), "the default mix stays"),
)
STUDY = study(sweep("sweep1", FREEZE), sweep("sweep2", LR, skip=SKIP))
TINY = {"F1": [0.38, 0.36, 0.34], "F2": [0.229, 0.207, 0.194], "F3": [0.147, 0.157, 0.191]}


def results(**values):
    return {run: jobs(run, of_run) for run, of_run in values.items()}


def decide(of_study, name, of_results, earlier=None, its_start=None):
    hours = {"F1": 1.0, "F2": 2.0, "F3": 3.0}
    return decide_sweep(
        of_study,
        of_study.sweeps[name],
        of_results,
        earlier or {},
        its_start or {},
        now=NOW,
        hours_of=lambda run: hours.get(run, 1.0),
    )


def one(of_results, **more):
    (record,) = decide(STUDY, "sweep1", of_results, **more).decisions
    return record
