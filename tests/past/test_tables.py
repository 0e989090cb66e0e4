"""Tables of past results: both forms, every kind of file, and the words of mistakes."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ablate.desk import Desk
from ablate.past.runs import Past, assignments
from ablate.past.tables import read_table
from ablate.study import UserError
from tests.past.conftest import Write

LONG = "run,seed,step,metric,value"


@pytest.fixture
def told(desk: Desk) -> Any:
    """What a table says, or the words it is refused with."""

    def read(path: Path, **columns: str) -> Past:
        return read_table(path, desk.study, columns)

    return read


def refused(read: Any, *arguments: Any, **columns: str) -> str:
    with pytest.raises(UserError) as caught:
        read(*arguments, **columns)
    return str(caught.value)


def test_the_wide_form_and_the_long_form_say_the_same(write: Write, told: Any) -> None:
    wide = told(write("F3,42,10,1.5,0.5", "F3,42,20,1.25,", "F1,42,10,2,0.25", header="run,seed,step,val_loss,image_vqa"))
    long = told(
        write(
            "F3,42,10,val_loss,1.5",
            "F3,42,10,image_vqa,0.5",
            "F3,42,20,val_loss,1.25",
            "F1,42,10,val_loss,2",
            "F1,42,10,image_vqa,0.25",
            header=LONG,
        )
    )
    assert [(run.name, run.seed, run.curves) for run in wide.runs] == [(run.name, run.seed, run.curves) for run in long.runs]
    assert wide.runs[0].curves == {"val_loss": {10: 1.5, 20: 1.25}, "image_vqa": {10: 0.5}}


def test_parquet_and_json_say_what_csv_says(write: Write, told: Any, tmp_path: Path) -> None:
    expected = told(write("F3,42,10,1.5", "F3,43,10,nan")).runs
    frame = pd.DataFrame({"run": ["F3", "F3"], "seed": [42, 43], "step": [10, 10], "val_loss": [1.5, math.nan]})
    frame["val_loss"] = pd.array([1.5, math.nan], dtype="float64")
    frame.to_parquet(tmp_path / "nulls.parquet")
    assert "row 3: the last one of 'F3' has no value" in refused(told, tmp_path / "nulls.parquet"), "pandas writes null for nan"
    entries = [
        {"run": "F3", "seed": 42, "step": 10, "val_loss": 1.5},
        {"run": "F3", "seed": 43, "step": 10, "val_loss": math.nan},
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, entries)))
    for name in ("list.json", "lines.jsonl"):
        assert str([run.curves for run in told(tmp_path / name).runs]) == str([run.curves for run in expected])


def test_a_run_whose_last_row_is_empty_is_no_winner_by_its_earlier_ones(write: Write, told: Any) -> None:
    rows = ("F3,42,10,0.5", "F3,42,20,", "F1,42,20,1")
    assert "row 3: the last one of 'F3' has no value. Where a training diverged write nan" in refused(told, write(*rows))
    late = told(write("F3,42,10,0.5,", "F3,42,20,,0.1", header="run,seed,step,val_loss,train/loss"))
    assert late.runs[0].curves == {"val_loss": {10: 0.5}}, "what is not asked for was measured there"
    said = told(write("F3,42,10,0.5,", "F3,42,20,,diverged", header="run,seed,step,val_loss,state"))
    assert said.runs[0].ended[0] == "diverged"


def test_columns_are_found_by_their_names_or_told(write: Write, told: Any) -> None:
    past = told(write("F3,42,10,1.5,x", header="Name,config.seed,_step,val_loss,notes"))
    assert past.runs[0].curves == {"val_loss": {10: 1.5}}
    assert past.unread == ("notes",)
    mapped = told(write("F3,42,10,1.5", header="a,b,c,d"), run="a", seed="b", step="c", val_loss="d")
    assert mapped.runs == told(write("F3,42,10,1.5")).runs
    long = told(write("F3,42,10,eval/loss,1.5", header=LONG), val_loss="eval/loss")
    assert long.runs == mapped.runs


def test_semicolons_tabs_a_byte_order_mark_and_quotes_are_read(told: Any, tmp_path: Path) -> None:
    (tmp_path / "semi.csv").write_text('run;seed;step;val_loss\n"F3";42;10;1.5\n\n')
    (tmp_path / "tabs.tsv").write_bytes(b"\xef\xbb\xbfrun\tseed\tstep\tval_loss\r\nF3\t42\t10\t1.5\r\n")
    assert told(tmp_path / "semi.csv").runs == told(tmp_path / "tabs.tsv").runs


def test_without_a_step_each_run_has_one_row_its_end(write: Write, told: Any) -> None:
    assert told(write("F3,42,1.5", header="run,seed,val_loss")).runs[0].curves == {"val_loss": {0: 1.5}}
    assert "an earlier row says 1.5" in refused(told, write("F3,42,1.5", "F3,42,1.4", header="run,seed,val_loss"))


def test_a_chart_exported_from_wandb_is_read(write: Write, told: Any) -> None:
    header = '"Step","F3-s42 - val_loss","F3-s42 - val_loss__MIN","F3-s42 - val_loss__MAX","wide - net - val_loss"'
    past = told(write("10,1.5,1.5,1.5,2.5", "20,1.25,1,2,", header=header))
    assert {run.name: run.curves for run in past.runs} == {
        "F3-s42": {"val_loss": {10: 1.5, 20: 1.25}},
        "wide - net": {"val_loss": {10: 2.5}},
    }


def test_a_state_other_than_finished_means_no_result(write: Write, told: Any) -> None:
    past = told(write("F3,42,1.5,finished", "F3,43,1.5,crashed", "F3,44,9,diverged", header="run,seed,val_loss,State"))
    assert [(run.unfinished, run.ended[0]) for run in past.runs] == [
        ("", "done"),
        ("its state is 'crashed'", "done"),
        ("", "diverged"),
    ]


@pytest.mark.parametrize(
    ("last", "outcome"), [("nan", "diverged"), ("inf", "diverged"), ("-Infinity", "diverged"), ("2", "done")]
)
def test_a_run_whose_last_value_is_no_number_diverged(write: Write, told: Any, last: str, outcome: str) -> None:
    run = told(write("F3,42,10,nan", f"F3,42,20,{last}")).runs[0]
    assert run.ended[0] == outcome
    assert math.isnan(run.curves["val_loss"][10]), "kept"


def test_equal_rows_twice_are_one(write: Write, told: Any) -> None:
    assert told(write("F3,42,10,1.5", "F3,42,10,1.50", "F3,42,20,nan", "F3,42,20,NaN")).runs[0].curves["val_loss"][10] == 1.5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("F3,42,10,1.4x", "past.csv: row 3, column 'val_loss': '1.4x'; a number is expected. Nothing was imported"),
        ("F3,42,10,1_4", "past.csv: row 3, column 'val_loss': '1_4'; a number is expected. Nothing was imported"),
        ("F3,4.5,10,1", "past.csv: row 3, column 'seed': '4.5'; a whole number from 0 on is expected. Nothing was imported"),
        ("F3,42,ten,1", "past.csv: row 3, column 'step': 'ten'; a whole number from 0 on is expected. Nothing was imported"),
        ("F3,42,,1", "past.csv: row 3, column 'step': ''; a whole number from 0 on is expected. Nothing was imported"),
        ("F3,42,-1,1", "past.csv: row 3, column 'step': '-1'; a whole number from 0 on is expected. Nothing was imported"),
        (
            ",42,10,1",
            "past.csv: row 3, column 'run': ''; a name of up to 200 printable characters is expected. Nothing was imported",
        ),
        ("F3,42,10", "past.csv: row 3: 3 cells; 4 are expected, as in the header. Nothing was imported"),
        (
            "F3,42,5,1.4",
            "past.csv: row 3, column 'val_loss': '1.4'; an earlier row says 1.5 for val_loss of 'F3' seed 42 at step 5. "
            "Nothing was imported",
        ),
    ],
)
def test_a_malformed_row_is_told_by_row_and_column(write: Write, told: Any, row: str, message: str) -> None:
    assert refused(told, write("F3,42,5,1.5", row)) == message


def test_in_the_long_form_an_empty_value_is_a_mistake(write: Write, told: Any) -> None:
    assert refused(told, write("F3,42,10,val_loss,", header=LONG)).startswith("past.csv: row 2, column 'value': ''; a number")


def test_mistakes_are_told_together_ten_at_most(write: Write, told: Any) -> None:
    message = refused(told, write(*(f"F3,42,{step},x" for step in range(25))))
    assert message.startswith("past.csv: 25 mistakes, nothing was imported:\n  row 2, column 'val_loss': 'x'; a number")
    assert message.count("\n") == 11
    assert message.endswith("\n  and 15 more")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("a,seed,val_loss", "past.csv: row 1: no column for run among 'a', 'seed', 'val_loss'; say which: --map run=COLUMN"),
        (
            "run,seed,valloss",
            "past.csv: row 1: no column of a metric the study declares (val_loss, image_vqa) among 'run', 'seed', 'valloss'; "
            "say which: --map METRIC=COLUMN",
        ),
        ("run,run,val_loss", "past.csv: row 1: 'run' heads more than one column; each needs a name of its own"),
        (",,", "past.csv: row 1: empty; the names of the columns are expected, such as run,seed,step,val_loss"),
    ],
)
def test_a_header_that_does_not_say_enough_is_refused(write: Write, told: Any, header: str, message: str) -> None:
    assert refused(told, write("F3,42,1", header=header)) == message


def test_a_column_told_that_is_not_there_is_refused_with_near_names(write: Write, told: Any) -> None:
    message = refused(told, write("F3,42,10,1"), val_loss="val_los")
    assert message == 'past.csv: --map val_loss=val_los: there is no such column. Did you mean "val_loss"?'


def test_a_huge_field_is_refused_and_its_text_is_not_repeated(write: Write, told: Any) -> None:
    message = refused(told, write(f"{'x' * 300_000},42,10,1"))
    assert "row 2: field larger than field limit (100000)" in message
    assert len(message) < 300
    assert len(refused(told, write(f"F3,42,10,{'9x' * 20_000}"))) < 300


def test_bytes_that_are_no_text_and_files_that_are_no_table_are_refused(told: Any, tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"run,seed,step,val_loss\nF\xe9,42,10,1\n")
    assert "not UTF-8 text" in refused(told, tmp_path / "latin.csv")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 nothing")
    assert "not a Parquet file" in refused(told, tmp_path / "no.parquet")
    (tmp_path / "no.jsonl").write_text('{"run": "F3"}\n{"run"')
    assert "row 2: not JSON" in refused(told, tmp_path / "no.jsonl")
    (tmp_path / "empty.csv").write_text("")
    assert "row 1: empty" in refused(told, tmp_path / "empty.csv")
    (tmp_path / "quote.csv").write_text('run,seed,step,val_loss\n"F3,42,10,1\n')
    assert "row 2: unexpected end of data" in refused(told, tmp_path / "quote.csv")


def test_a_hundred_thousand_rows_take_less_than_three_seconds(write: Write, told: Any) -> None:
    path = write(*(f"F3,42,{step},{1 / (step + 1)}" for step in range(100_000)))
    began = time.process_time()
    assert len(told(path).runs[0].curves["val_loss"]) == 100_000
    assert time.process_time() - began < 3.0


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["run=a,seed=b"], {"run": "a", "seed": "b"}),
        (["run=a", "val_loss=eval, mean"], {"run": "a", "val_loss": "eval, mean"}),
    ],
)
def test_assignments_are_split_at_commas_only_where_each_part_is_one(texts: list[str], found: dict[str, str]) -> None:
    assert assignments("--map", texts) == found


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["run"], "--map run: 'run' is not NAME=VALUE"),
        (["run=a,seed=b,step"], "--map run=a,seed=b,step: 'step' is not NAME=VALUE"),
        (["run=a", "run=b"], "--map: 'run' is given twice, as 'a' and 'b'"),
    ],
)
def test_what_is_no_assignment_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        assignments("--map", texts)
    assert str(caught.value) == message
