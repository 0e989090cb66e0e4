"""Which job a past run is: names, seeds, settings; and which runs are no job's result."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ablate.desk import Desk
from ablate.past.matching import matched
from ablate.past.tables import read_table
from ablate.study import Confirm, UserError
from tests.past.conftest import Write

HEADER = "run,seed,val_loss"


def match(desk: Desk, write: Write, *lines: str, header: str = HEADER, **names: str) -> list[str]:
    """Ids of the jobs that these rows are."""
    past = read_table(write(*lines, header=header), desk.study, {})
    found = matched(desk.study, desk.plan().jobs, {}, past, names, {})
    return [one.job.id for one in found.found]


@pytest.mark.parametrize("name", ["F3", "LR1", "F3@42", "F3-s42", "LR1@42"])
def test_a_run_is_named_as_the_command_line_names_it(desk: Desk, write: Write, name: str) -> None:
    assert match(desk, write, f"{name},42,1") == ["F3-s42"]


def test_a_key_names_its_job_without_a_seed(desk: Desk, write: Write) -> None:
    key = desk.plan().of_run("F1")[1].key
    assert match(desk, write, f"{key},1", header="run,val_loss") == ["F1-s43"]


def test_as_says_which_row_or_which_job_a_run_is(desk: Desk, write: Write) -> None:
    assert match(desk, write, "old,42,1", "old,43,1", old="F3") == ["F3-s42", "F3-s43"]
    assert match(desk, write, "a-7,1", "test,5", header="run,val_loss", **{"a-7": "F1@44", "test": "-"}) == ["F1-s44"]


def test_of_two_rows_that_came_out_as_one_config_the_first_run_counts(desk: Desk, write: Write) -> None:
    jobs, same = [job for job in desk.plan().jobs if job.run != "A1"], {"A1-s42": "F3-s42"}
    alone = read_table(write("A1,42,1", header=HEADER), desk.study, {})
    assert [one.job.id for one in matched(desk.study, jobs, {}, alone, {}, same).found] == ["F3-s42"]
    both = matched(desk.study, jobs, {}, read_table(write("F3,42,1", "A1,42,2", header=HEADER), desk.study, {}), {}, same)
    assert [(one.job.id, one.run.name) for one in both.found] == [("F3-s42", "F3")]
    assert [(one.name, one.why) for one in both.left_out] == [
        ("A1", "F3@42 is the same config with the same seed: run 'F3' counts")
    ]


@pytest.mark.parametrize(
    ("line", "names", "message"),
    [
        (
            "F33,42,1",
            {},
            "past.csv: row 2: run 'F33' is no row of runs.toml. Did you mean \"F3\"? Say which it is: --as F33=ROW, or - for "
            "none. Nothing was imported",
        ),
        (
            "../../etc/passwd,42,1",
            {},
            "past.csv: row 2: run '../../etc/passwd' is no row of runs.toml. Say which it is: --as ../../etc/passwd=ROW, or - "
            "for none. Nothing was imported",
        ),
        (
            "F3,7,1",
            {},
            "past.csv: row 2: F3 has no seed 7; it has 42, 43, 44. Declare it under [seeds] of runs.toml. Nothing was imported",
        ),
        (
            "F3,,1",
            {},
            "past.csv: row 2: run 'F3' has no seed; say where it is, or which job this is: --map seed=COLUMN, or --as F3=F3@SEED"
            ". Nothing was imported",
        ),
        (
            "F3@43,42,1",
            {},
            "past.csv: row 2: run 'F3@43' is called seed 43, and its column says 42. Nothing was imported",
        ),
        (
            "F3,42,1",
            {"F33": "F3"},
            "past.csv: --as F33=F3: there is no run 'F33' in it. Did you mean \"F3\"? Nothing was imported",
        ),
    ],
)
def test_a_run_that_is_no_job_is_refused(desk: Desk, write: Write, line: str, names: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        match(desk, write, line, **names)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"old": "F33"},
            "past.csv: row 2 and 2 more: --as old=F33: 'F33' is no row of runs.toml. Did you mean \"F3\"? Say which it is: "
            "--as old=ROW, or - for none. Nothing was imported",
        ),
        (
            {"odl": "F3"},
            "past.csv: --as odl=F3: there is no run 'odl' in it. Did you mean \"old\"? Nothing was imported",
        ),
        (
            {},
            "past.csv: row 2 and 2 more: run 'old' is no row of runs.toml. Say which it is: --as old=ROW, or - for none. "
            "Nothing was imported",
        ),
    ],
)
def test_one_wrong_name_is_one_mistake_however_many_runs_have_it(
    desk: Desk, write: Write, names: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        match(desk, write, "old,42,1", "old,43,1", "old,44,1", **names)
    assert str(caught.value) == message


def test_two_runs_cannot_be_one_job(desk: Desk, write: Write) -> None:
    with pytest.raises(UserError) as caught:
        match(desk, write, "F3,42,1", "old,42,2", old="F3")
    assert "row 3: run 'old' is F3@42, and so is run 'F3' of row 2" in str(caught.value)


@pytest.mark.parametrize(("lr", "frozen"), [("0.01", "False"), ("1e-2", "false"), ("", "")])
def test_settings_that_are_the_row_s_are_accepted(desk: Desk, write: Write, lr: str, frozen: str) -> None:
    header = "run,seed,val_loss,optim.lr,model.frozen"
    assert match(desk, write, f"F3,42,1,{lr},{frozen}", header=header) == ["F3-s42"]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("F3,42,1,0.02,false", "optim.lr = '0.02', and F3@42 has 0.01 in the study: another config"),
        ("F1,42,1,0.01,false", "model.frozen = 'false', and F1@42 has true in the study: another config"),
        ("F3,42,1,0.01,0", "model.frozen = '0', and F3@42 has false in the study: another config"),
        ("F3,42,1,fast,false", "optim.lr = 'fast', and F3@42 has 0.01 in the study: another config"),
    ],
)
def test_settings_that_are_not_the_row_s_are_a_mistake(desk: Desk, write: Write, row: str, what: str) -> None:
    with pytest.raises(UserError) as caught:
        match(desk, write, row, header="run,seed,val_loss,optim.lr,model.frozen")
    assert what in str(caught.value)


def test_past_results_cannot_confirm_a_lock(desk: Desk, write: Write) -> None:
    study = replace(desk.study, confirm=Confirm("F3", (45,), "val_loss"))
    jobs = replace(desk, study=study).plan().jobs
    past = read_table(write("F3,45,1", "lock-confirm,45,1", "F3,42,1", header=HEADER), study, {})
    found = matched(study, jobs, {}, past, {}, {})
    assert [one.job.id for one in found.found] == ["F3-s42"]
    assert {one.why for one in found.left_out} == {"it would confirm the lock, which only a fresh training can"}


def test_what_is_no_result_is_left_out_and_says_why(desk: Desk, write: Write) -> None:
    past = read_table(write("F3,42,1,crashed", "F1,42,1,done", "D1,42,1,done", header="run,seed,val_loss,state"), desk.study, {})
    found = matched(desk.study, desk.plan().jobs, {}, past, {}, {})
    assert [one.job.id for one in found.found] == ["F1-s42"]
    assert [(one.name, one.why, one.waits) for one in found.left_out] == [
        ("F3@42", "it did not end: its state is 'crashed'", ""),
        ("D1@42", "settings not known yet: decision freeze and lr are open", "decide"),
    ]
