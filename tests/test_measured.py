"""Numbers read from lines: whole or not at all, and never an older one in place of the last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ablate.folders import DiskError
from ablate.measured import Metrics, NoNumber, Pattern, Tail
from ablate.runs_toml import read_study
from ablate.study import UserError
from tests.conftest import REPOSITORY

LOSS = r"step (?P<step>\d+): loss (?P<loss>\S+)"
ONLY_NUMBERS = r"loss (?P<loss>(?:nan|inf|[-+\d.e])+)"


def loss(pattern: str, line: str) -> str:
    """What the pattern reads there as loss; why it is none; "" for a line that does not speak of it."""
    assert Pattern(pattern).too_narrow == ""
    found = Pattern(pattern).read(line)
    if found is None:
        return ""
    value = found[1]["loss"]
    return value.why.partition(";")[0] if isinstance(value, NoNumber) else repr(value)


@pytest.mark.parametrize(
    ("pattern", "line", "read"),
    [
        (LOSS, "step 1: loss 0.25", "0.25"),
        (LOSS, "step 1: loss nan", "nan"),
        (LOSS, "step 1: loss -inf", "-inf"),
        (LOSS, "step 1: loss -0.5", "-0.5"),
        (LOSS, "step 1: loss 0.25.", "0.25"),
        (LOSS, "step 1: loss 0.25, acc 3", "0.25"),
        (LOSS, "step 1: loss 0.25e-3", "0.00025"),
        (LOSS, "step 1: loss 1,234", "'1,234' is no number"),
        (LOSS, "step 1: loss 1.2M", "'1.2M' is no number"),
        (LOSS, "step 1: loss n/a", "'n/a' is no number"),
        (LOSS, "step 1: loss tensor(0.25)", "'tensor(0.25' is no number"),
        (LOSS, "epoch 1: loss 0.25", ""),
        (r"loss (?P<loss>\S+)(?: val (?P<val>\S+))?", "loss 0.1", "0.1"),
        (r"loss (?P<loss>[-+\w.]+)", "loss 0.25-103", "'0.25-103' is no number"),
        (r"loss (?P<loss>[-+\w.]+)", "loss 1,234", "'1' is a part of what stands there"),
        (r"loss (?P<loss>[-+\w.]+)%", "loss 45%", "45.0"),
        (r"loss (?P<loss>.+?)", "loss 0.25", "'0' is a part of what stands there"),
        (r"loss.*(?P<loss>\S+)", "loss 12.5", "'5' is a part of what stands there"),
        (r"loss.*(?P<loss>\S+)", "loss -5", "'5' is a part of what stands there"),
        (r"loss\D+(?P<loss>\S+)", "loss -5", "'5' is a part of what stands there"),
        (r"loss\D+(?P<loss>\S+)", "loss 5", "5.0"),
        (r"loss\W*(?P<loss>\S+)", "loss = -0.5", "'0.5' is a part of what stands there"),
        (r"loss (?P<loss>\S+) nats", "loss 1e-05 nats", "1e-05"),
        (r"loss (?P<loss>\S+?)(?:s|nats)", "loss 0.25nats", "0.25"),
        (r"(?:(?P<loss>\S+) nats)", "is nan nats", "nan"),
        (r"loss[(](?P<loss>[^)]+)[)]", "loss(nan)", "nan"),
        (r"[(\]]\((?P<loss>[^)]+)\)(?#a ( comment)", "((inf)", "inf"),
        (r"^(?P<step>\d+),(?P<loss>[^,]+),", "3,0.25,0.8", "0.25"),
        (r"(?i)LOSS (?P<loss>(?:NAN|INF|[-+\dE.])+)", "loss NaN", "nan"),
        (ONLY_NUMBERS, "loss -inf", "-inf"),
        (ONLY_NUMBERS, "loss 2.5e-05", "2.5e-05"),
        (ONLY_NUMBERS, "loss improved", ""),
        (ONLY_NUMBERS, "loss 1.2M", "'1.2' is a part of what stands there"),
    ],
)
def test_a_number_counts_whole_or_not_at_all(pattern: str, line: str, read: str) -> None:
    assert loss(pattern, line) == read


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"loss (?P<loss>[\d.]+)", r"its group loss passes nan, -inf, -1.5, 2.5e-05 by; write (?P<loss>\S+)"),
        (r"loss (?P<loss>-?[\d.]+(?:e-?\d+)?)", r"its group loss passes nan, -inf by; write (?P<loss>\S+)"),
        (r"loss (?P<loss>\w+)", r"its group loss passes -inf, -1.5, 2.5e-05 by; write (?P<loss>\S+)"),
        (r"loss (?P<loss>\S{,5})", r"its group loss passes 2.5e-05 by; write (?P<loss>\S+)"),
        (r"(?P<a>\S+) (?P<val__b>\d+)", r"its group val__b passes nan, -inf, -1.5, 2.5e-05 by; write (?P<val__b>\S+)"),
        (r"(?P<step>\d+) (x)(?P<loss>(?(2)y|z))", r"its group loss passes nan, -inf, -1.5, 2.5e-05 by; write (?P<loss>\S+)"),
        (r"(?P<step>\d+): (?P<loss>[^,]+),", ""),
    ],
)
def test_a_group_that_would_pass_some_numbers_by_is_told_and_what_to_write(pattern: str, why: str) -> None:
    assert Pattern(pattern).too_narrow == why


def test_a_study_whose_pattern_would_pass_nan_by_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "runs.toml"
    path.write_text(
        (REPOSITORY / "ablate/runs_toml/init.toml").read_text().replace(r"(?P<val_loss>\S+)", r"(?P<val_loss>[\d.]+)")
    )
    with pytest.raises(UserError) as refused:
        read_study(path)
    told = "study.trainer.metrics.stdout: its group val_loss passes nan, -inf, -1.5, 2.5e-05 by; write (?P<val_loss>\\S+)"
    assert told in str(refused.value).splitlines()[0]


def test_a_metric_that_no_group_reads_is_refused_when_the_study_is_read(tmp_path: Path) -> None:
    path, first = tmp_path / "runs.toml", (REPOSITORY / "ablate/runs_toml/init.toml").read_text()
    path.write_text(first.replace("val_loss = { better", "val_acc = { better = 'higher', margin = 0.01 }\nval_loss = { better"))
    with pytest.raises(UserError) as refused:
        read_study(path)
    told = r"metric val_acc is not read: study.trainer.metrics.stdout has groups for val_loss; write (?P<val_acc>\S+)"
    assert told in str(refused.value).splitlines()[0]


@pytest.mark.parametrize(
    ("file", "line"), [("ablate/runs_toml/init.toml", "step 1: val loss"), ("examples/unrelated/runs.toml", "tree 1: accuracy")]
)
@pytest.mark.parametrize("text", ["0.25", "-1.5", "2e-05", "nan", "-inf"])
def test_what_we_recommend_takes_every_number_whole(file: str, line: str, text: str) -> None:
    found = Pattern(read_study(REPOSITORY / file).trainer.stdout).read(f"{line} {text}")
    assert found is not None
    assert [str(value) for value in found[1].values()] == [str(float(text))]


class Written:
    """Metrics of a study about `loss`, read from lines, and what became of them."""

    def __init__(self, folder: Path, *lines: object, pattern: str = "") -> None:
        self.folder, self.metrics = folder, Metrics(folder, 2, ["loss"])
        for line in lines:
            if pattern:
                self.metrics.read_line(Pattern(pattern), str(line))
            else:
                self.metrics.read_json(line if isinstance(line, str) else json.dumps(line))

    @property
    def points(self) -> list[tuple[int, dict[str, Any]]]:
        path = self.folder / "metrics.jsonl"
        points = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [(point["step"], point["metrics"]) for point in points]


GOOD = {"step": 1, "loss": 5.0}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"step": 2, "loss": 10**400}, "1000000000000000000000000000000000000000 is no number"),
        ({"step": 2, "loss": None}, "null is no number"),
        ({"step": 2, "loss": "n/a"}, '"n/a" is no number'),
        ({"step": 2, "loss": [1.0]}, "a list is no number"),
        ({"step": 2, "loss": True}, "true is no number"),
        ({"step": "abc", "loss": 4.0}, 'step "abc" is no whole number below 2**63'),
        ({"step": True, "loss": 4.0}, "step true is no whole number below 2**63"),
        ({"step": None, "loss": 4.0}, "step null is no whole number below 2**63"),
        ({"step": 2**63, "loss": 4.0}, "step 9223372036854775808 is no whole number below 2**63"),
        ({"step": 0.5, "loss": 4.0}, "step 0.5 is no whole number below 2**63"),
        ({"step": float("inf"), "loss": 4.0}, "step Infinity is no whole number below 2**63"),
    ],
)
def test_a_metric_whose_last_word_is_no_number_has_no_result_and_one_in_between_is_told(
    bad: object, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = Written(tmp_path, GOOD, bad)
    assert ended.metrics.unreadable().startswith(f"the last loss cannot be read: {why}, in '{{")
    assert capsys.readouterr().out.startswith(f"ablate: loss: not read here, because {why}, in '{{")
    (tmp_path / "other").mkdir()
    between = Written(tmp_path / "other", GOOD, bad, {"step": 3, "loss": 4.0})
    assert between.metrics.unreadable() == ""
    assert between.metrics.last == {"loss": (3, 4.0)}
    assert between.metrics.remarks().startswith(f"loss: not read once, first because {why}")


@pytest.mark.parametrize("line", ["[" * 200_000, '{"step": 3, "los', "1" * 10_000, "[1, 2]", '"x"', "trained."])
def test_a_line_that_is_no_object_is_counted_and_told_and_may_not_be_the_last(line: str, tmp_path: Path) -> None:
    read = Written(tmp_path, GOOD, line, line)
    assert read.metrics.unreadable().startswith("the last line cannot be read: it is no JSON object, in '")
    read.metrics.read_json(json.dumps({"step": 2, "loss": 4.0}))
    assert (read.metrics.unreadable(), read.points) == ("", [(1, {"loss": 5.0}), (2, {"loss": 4.0})])
    assert read.metrics.remarks().startswith("a line: not read 2 times, first because it is no JSON object")
    assert len(read.metrics.remarks()) < 300


def test_fields_that_the_study_is_not_about_need_not_be_numbers(tmp_path: Path) -> None:
    read = Written(tmp_path, {"step": "7", "loss": "1e-3", "phase": "eval", "best": True, "lr": None, "n": 3})
    assert read.points == [(7, {"loss": 0.001, "n": 3.0})]
    assert (read.metrics.unreadable(), read.metrics.remarks()) == ("", "")


def test_a_number_that_no_float_holds_is_told_whatever_it_is(tmp_path: Path) -> None:
    read = Written(tmp_path, {**GOOD, "big": 10**400})
    assert (read.points, read.metrics.unreadable()) == ([(1, {"loss": 5.0})], "")
    assert read.metrics.remarks().startswith("big: not read once, first because 1000")


def test_what_is_no_number_where_one_should_stand_is_told_and_is_no_value(tmp_path: Path) -> None:
    lines = ("loss 0.5", "loss falls", "loss 0.25")
    read = Written(tmp_path, *lines, pattern=r"loss (?P<loss>\S+)")
    assert read.points == [(1, {"loss": 0.5}), (3, {"loss": 0.25})]
    assert read.metrics.unreadable() == ""
    assert read.metrics.remarks() == "loss: not read once, first because 'falls' is no number, in 'loss falls'"
    (tmp_path / "only").mkdir()
    only = Written(tmp_path / "only", *lines, "loss is low", pattern=ONLY_NUMBERS)
    assert only.points == [(1, {"loss": 0.5}), (2, {"loss": 0.25})]
    assert (only.metrics.unreadable(), only.metrics.remarks()) == ("", "")


def test_steps_that_go_back_are_told_when_what_counts_is_not_what_was_measured_last(tmp_path: Path) -> None:
    read = Written(tmp_path, {"step": 100, "loss": 5.0}, {"step": 20, "loss": 4.0})
    assert read.metrics.remarks() == "loss: last measured at step 20, but what counts is step 100, measured before"
    assert Written(tmp_path, {"step": 100, "loss": 5.0}, {"step": 100, "loss": 4.0}).metrics.remarks() == ""


def test_a_disk_that_takes_no_metrics_is_no_silence(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"metrics\.jsonl: cannot be written: No such file or directory"):
        Written(tmp_path / "gone", GOOD)


def test_a_file_that_cannot_be_read_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{tmp_path} cannot be read: Is a directory$"):
        Tail(tmp_path).lines()


def test_a_file_that_is_begun_anew_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    tail = Tail(path)
    assert tail.lines() == []
    path.write_text("one\ntwo\nthr")
    assert tail.lines() == ["one", "two"]
    path.write_text("1\n")
    assert tail.lines() == ["1"]
