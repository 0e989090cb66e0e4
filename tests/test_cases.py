"""What the trainer is timed on: batches in parts are the whole, and the benchmark runs from end to end."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.cases import cases, model_of, part_of, random_batch, shapes_called
from benchmarks.trainer import main
from trainer.model.packing import pack

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["F3, mixture", "A8b, images"])
def test_the_losses_of_parts_are_those_of_the_whole(name: str) -> None:
    shapes = shapes_called("tiny")
    case = next(case for case in cases(shapes, 8) if case.name == name)
    model, batch = model_of(case, shapes), random_batch(case, shapes)
    whole = model(pack(batch, 1, CPU)).losses
    parts = [model(pack(part_of(batch, rows), 1, CPU)).losses for rows in ([0, 1, 2], [3, 4, 5, 6], [7])]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_full_shapes_have_the_studys_mean_of_frames() -> None:
    mixture = next(case for case in cases(shapes_called("full"), 128) if case.name == "F3, mixture")
    assert sum(mixture.frames) / len(mixture.frames) == pytest.approx(7, abs=0.3)


def test_rows_and_parts_are_told_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    assert main(["--tables", "rows,parts", "--cases", "A8a", "--samples", "4", "--repeat", "1", "--json"]) == 0
    torch.set_num_threads(threads)
    told = json.loads(capsys.readouterr().out)
    (row,) = told["rows"]
    assert row["ratio"] == row["samples_per_s"] / row["plain_samples_per_s"]
    assert row["plain_work"] > 1.5
    assert [part["name"] for part in told["parts"]["A8a, images"]] == [
        "data",
        "encode",
        "queries",
        "lm",
        "loss",
        "optimizer",
        "rest",
    ]
    assert all(part["forward_ms"] >= 0 for part in told["parts"]["A8a, images"])


def test_a_table_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tables", "columns"]) == 2
    assert "there are rows, parts, options and loop" in capsys.readouterr().err
