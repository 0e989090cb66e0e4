"""What decisions may take together, and what the trainer would refuse of it: told when the study is read, never trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from ablate.deciding.lock import LockRecord, make_lock
from ablate.planning.outcomes import MOST, configs, contradiction, outcomes
from ablate.planning.plan import PlannedJob, make_plan
from ablate.runs_toml import read_study
from ablate.study import Study, UserError
from db.records import DecisionRecord
from tests.conftest import REPOSITORY

NOW = "2026-11-22T12:00:00Z"

STUDY = """\
[study]
name          = "tokens"
baseline      = "F3"
trainer       = "trainer.train"
config        = "trainer.config:TrainConfig"
gpus_per_run  = 1
hours_per_run = 1.0
[runs]
F3 = {}
F2 = { model.freeze_llm = true }
B1 = { model.encoder = "multi_token", model.tokens_per_frame = 4 }
B4 = { model.encoder = "multi_token", model.tokens_per_frame = 16 }
LR = { optim.connector_ratio = 3 }
D1 = { from = ["encoder", "lr"], train.samples = 500_000 }
[seeds]
every = [42]
[metrics]
val_loss = { better = "lower", margin = 0.01, noise = 0.005 }
[sweep1]
compare = ["F3", "F2", "B1", "B4"]
on      = "val_loss"
decide.encoder = [
  ["any of B1, B4 better than F3", "best of B1, B4", "more tokens"],
  ["otherwise",                    "F3",             "not shown"],
]
[sweep2]
on        = "val_loss"
decide.lr = [["LR better than F3", "LR", "slower"], ["otherwise", "F3", "not shown"]]
[sweep3]
on         = "val_loss"
decide.end = [["D1 better than its start", "D1", "longer"], ["otherwise", "its start", "not shown"]]
[blocks]
1 = ["F3", "F2", "B1", "B4", "LR", "D1"]
[lock]
after = 1
"""
SHALLOW = ("train.samples = 500_000", "model.coarse_only = true")
"""D1 as it cannot be with B1 or B4."""


def read(folder: Path, *edits: tuple[str, str]) -> Study:
    text = STUDY
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    (folder / "runs.toml").write_text(text, encoding="utf-8")
    return read_study(folder / "runs.toml")


def refused(folder: Path, *edits: tuple[str, str]) -> str:
    with pytest.raises(UserError) as told:
        read(folder, *edits)
    return str(told.value).partition("\n")[0].removeprefix(f"{folder}/")


def together(study: Study, *decisions: str) -> set[tuple[str, ...]]:
    found = [tuple(taken[name] for name in decisions) for taken in outcomes(study, decisions)]
    assert len(set(found)) == len(found), "each combination comes once"
    return set(found)


# ---------------------------------------------------------------- what is told


def test_a_row_names_the_decision_that_would_make_it_impossible_and_the_two_settings(tmp_path: Path) -> None:
    assert refused(tmp_path, SHALLOW) == (
        'runs.toml:14: D1, if encoder takes B1 (model.encoder = "multi_token", model.tokens_per_frame = 4): '
        'model.coarse_only = true with model.encoder = "multi_token", which has no coarse pass. '
        'To leave D1 out then: skip = { if = "encoder took B1", because = … } in its sweep'
    )


def test_two_decisions_that_contradict_each_other_are_both_named(tmp_path: Path) -> None:
    clash = ("optim.connector_ratio = 3", "model.coarse_only = true")
    assert refused(tmp_path, clash).startswith(
        'runs.toml:14: the start of D1, if encoder takes B1 (model.encoder = "multi_token", model.tokens_per_frame = 4) '
        "and lr takes LR (model.coarse_only = true): model.coarse_only = true with"
    )


def test_a_row_that_is_skipped_then_is_no_contradiction(tmp_path: Path) -> None:
    skip = '[sweep3]\nskip = {{ if = "{}", because = "no coarse pass" }}\n'
    read(tmp_path, SHALLOW, ("[sweep3]\n", skip.format("encoder took B1 or encoder took B4")))
    assert "D1, if encoder takes B4 (" in refused(tmp_path, SHALLOW, ("[sweep3]\n", skip.format("encoder took B1")))


def test_a_row_that_goes_against_its_start_whatever_is_decided_blames_no_decision(tmp_path: Path) -> None:
    own = ("train.samples = 500_000", 'model.encoder = "foveated", model.tokens_per_frame = 4')
    assert refused(tmp_path, own) == (
        'runs.toml:14: D1: model.tokens_per_frame = 4 with model.encoder = "foveated", which makes 1 token per frame'
    )


def test_a_lock_that_is_to_be_confirmed_is_looked_at_too(tmp_path: Path) -> None:
    tree = '[sweep4]\non = "val_loss"\ndecide.pass = [["A6 better than F3", "A6", ""], ["otherwise", "F3", ""]]\n'
    clash = (("[sweep2]", f"{tree}[sweep2]"), ("D1 = {", "A6 = { model.coarse_only = true }\nD1 = {"))
    read(tmp_path, *clash)
    told = refused(tmp_path, *clash, ("after = 1", 'after = 1\nconfirm = { against = "F3", seeds = [50] }'))
    assert ": the lock, if encoder takes B1 (" in told
    assert "and pass takes A6 (model.coarse_only = true): model.coarse_only = true with" in told


@pytest.mark.parametrize(
    ("space", "told"),
    [
        (
            '{ model.encoder = { choice = ["foveated", "multi_token"] } }',
            "D1 at an end of its search: model.coarse_only = true with",
        ),
        ("{ optim.lr = { log = [1e-5, 1e-4] } }", ""),
    ],
)
def test_every_choice_of_a_search_is_looked_at(tmp_path: Path, space: str, told: str) -> None:
    tree = STUDY[STUDY.index("decide.end") : STUDY.index("[blocks]")]
    edits = (
        (tree, 'learn = [["D1 better than F3", "it is"]]\n'),
        ('D1 = { from = ["encoder", "lr"], train.samples = 500_000', f"D1 = {{ model.coarse_only = true, search = {space}"),
        ("[seeds]", "[search]\ntrials = 2\n[seeds]"),
    )
    if told:
        assert told in refused(tmp_path, *edits)
    else:
        assert [config.what for config in configs(read(tmp_path, *edits)) if config.row == "D1"] == [
            "D1 at an end of its search",
            "a trial of D1 at an end of its search",
        ] * 2


@pytest.mark.parametrize("profile", ["full", "tiny", "smoke"])
def test_the_shipped_study_has_no_contradiction(profile: str) -> None:
    study = read_study(REPOSITORY / "runs.toml", profile)
    assert contradiction(study) is None
    starts = {tuple(config.taken.items()) for config in configs(study) if config.what == "D1"}
    assert len(starts) == 9, "F3 and F2 with four rates each, F1 with none"


# ---------------------------------------------------------------- what may come together


def test_decisions_take_what_their_rules_allow_together() -> None:
    study = read_study(REPOSITORY / "runs.toml")
    assert together(study, "freeze") == {("stop",), ("F1",), ("F2",), ("F3",)}
    found = together(study, "freeze", "lr")
    assert {lr for freeze, lr in found if freeze == "F1"} == {""}, "sweep 2 is skipped"
    assert {lr for freeze, lr in found if freeze == "F2"} == {"F3", "LR2", "LR3", "LR4"}


def test_a_line_that_asks_what_was_taken_holds_only_then(tmp_path: Path) -> None:
    study = read(tmp_path, ('["LR better than F3"', '["encoder took B1 and LR better than F3"'))
    assert together(study, "encoder", "lr") == {("F3", "F3"), ("B4", "F3"), ("B1", "F3"), ("B1", "LR")}


def test_of_many_decisions_those_come_first_in_which_few_leave_otherwise(tmp_path: Path) -> None:
    trees = "".join(
        f'[sweep1{at}]\non = "val_loss"\ndecide.e{at} = [["F2 better than F3", "F2", ""], ["LR better than F3", "LR", ""], '
        '["otherwise", "F3", ""]]\n'
        for at in range(12)
    )
    study = read(tmp_path, ("[blocks]", f"{trees}[blocks]"))
    names = [f"e{at}" for at in range(12)]
    left = [sum(took != "F3" for took in taken.values()) for taken in islice(outcomes(study, names), MOST)]
    assert left == sorted(left)
    assert [left.count(few) for few in (0, 1, 2)] == [1, 24, 264]


# ---------------------------------------------------------------- what a person brings about


def decision(name: str, took: str, sets: Mapping[str, object]) -> DecisionRecord:
    return DecisionRecord(name, "sweep1", "overruled", took, "", sets, "", "person", NOW)


def test_a_row_that_an_overruled_decision_makes_impossible_waits_and_says_why(tmp_path: Path) -> None:
    study = read(tmp_path)
    plain = {"model.encoder": "multi_token", "model.tokens_per_frame": 4}
    taken = {"encoder": decision("encoder", "B1", plain), "lr": decision("lr", "A6", {"model.coarse_only": True})}

    def jobs(decisions: Mapping[str, DecisionRecord], of: Study) -> dict[str, PlannedJob]:
        return {job.run: job for job in make_plan(of, {}, decisions).jobs if job.run in ("D1", "D1-start")}

    said = (
        'cannot be trained on what encoder and lr took: model.coarse_only = true with model.encoder = "multi_token", '
        "which has no coarse pass; overrule one of them"
    )
    found = jobs(taken, study)
    assert {run: (job.state, job.reason, job.key) for run, job in found.items()} == {"D1": ("waiting", said, None)}
    assert {job.state for job in jobs(taken, replace(study, conflict=None)).values()} == {"ready"}
    fine = {**taken, "lr": decision("lr", "F3", {})}
    assert jobs(fine, study)["D1"].state == "ready"


def test_a_lock_that_cannot_be_trained_has_a_conflict(tmp_path: Path) -> None:
    study = read(tmp_path)
    taken = {
        "encoder": decision("encoder", "B1", {"model.encoder": "multi_token", "model.tokens_per_frame": 4}),
        "lr": decision("lr", "X", {"model.coarse_only": True}),
        "end": decision("end", "F3", {}),
    }
    plan = replace(make_plan(study, {}, {}), jobs=())
    made = make_lock(study, taken, {}, plan, NOW)
    assert isinstance(made, LockRecord)
    assert made.conflicts == (
        'model.coarse_only = true with model.encoder = "multi_token", which has no coarse pass; overrule one of the decisions',
    )
