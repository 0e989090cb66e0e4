"""Fingerprints tell configs apart by what they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.fingerprint import MOST_STEPS, POINTS, STEPS, fingerprints

BASE: dict[str, dict[str, Any]] = {"train": {"samples": 9600, "batch_samples": 24}, "optim": {"lr": 5e-4}}
ROWS: dict[str, dict[str, Any]] = {
    "F3": {},
    "F1": {"model.freeze_dino": True, "model.freeze_llm": True},
    "LR4": {"optim.connector_ratio": 1.0},
    "A1": {"model.deep_query": False},
    "A6": {"model.coarse_only": True},
    "B1": {"model.encoder": "multi_token", "model.tokens_per_frame": 16, "train.flops": "as F3"},
    "A8b": {"data.replicate_image_frames": 16},
    "D1": {"data.mix": {"video": 0.55, "image": 0.30, "text": 0.15}},
    "answers": {"train.loss": "text_ce_answer_only"},
    "batch": {"train.batch_samples": 48},
    "long": {"train.samples": 19_200},
    "decay": {"optim.weight_decay": 0.5},
    "beta": {"optim.beta2": 0.9},
    "coarse": {"train.lambda_coarse": 0.5},
    "scale": {"model.visual_scale": 0.3},
    "vision": {"model.vision": "some/other"},
}


LEARNING = {"losses"} | {f"grad_norm.{name}" for name in ("connector", "dino", "llm")}
LEARNING |= {f"grad_norm.connector.{name}" for name in ("query_in", "query_out", "to_llm", "to_query")}


def asked(name: str, files: Path, changes: dict[str, Any]) -> dict[str, Any]:
    settings = {part: dict(values) for part, values in BASE.items()}
    for setting, value in changes.items():
        part, field = setting.split(".")
        settings.setdefault(part, {})[field] = value
    return {"run": name, "seed": 42, "settings": settings, "references": {"F3": BASE}, "files": str(files)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def seen(files: Path) -> dict[str, dict[str, Any]]:
    return dict(zip(ROWS, fingerprints([asked(name, files, changes) for name, changes in ROWS.items()]), strict=True))


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return set(_differing(one, other, "")) - {"run"}


def _differing(one: dict[str, Any], other: dict[str, Any], place: str) -> Iterator[str]:
    for name in one.keys() | other.keys():
        a, b = one.get(name), other.get(name)
        if isinstance(a, dict) and isinstance(b, dict) and not place:
            yield from _differing(a, b, f"{name}.")
        elif a != b:
            yield f"{place}{name}"


def test_a_fingerprint_holds_what_a_few_steps_do(seen: dict[str, dict[str, Any]]) -> None:
    base = seen["F3"]
    parts = (
        "run",
        "parameters",
        "lr",
        "lr_taken",
        "batch",
        "shapes",
        "grad_norm",
        "moved",
        "limits",
        "facts",
        "losses",
        "val_loss",
    )
    assert list(base) == [*parts, "evaluated_at", "outcome", "broken", "unseen"]
    assert base["broken"] == {}
    assert base["outcome"] == "done"
    assert base["evaluated_at"] == [0, STEPS // 2, STEPS]
    assert base["lr_taken"]["connector"][0] == pytest.approx(10 * base["lr_taken"]["dino"][0])
    assert base["limits"] == {"nonfinite_steps": 5.0, "diverged_ratio": pytest.approx(1.5, rel=2e-3)}
    assert base["parameters"]["connector"]["count"] == base["parameters"]["connector"]["trainable"] > 0
    assert len(base["losses"]) == len(base["grad_norm"]["dino"]) == STEPS
    assert len(base["lr"]["llm"]) == POINTS
    assert max(base["lr"]["llm"]) == 5e-4
    assert base["lr"]["connector"][-1] < 1e-5
    assert base["batch"]["samples"] == 8
    assert base["shapes"]["visual"] == [1, 64]


@pytest.mark.parametrize(
    ("row", "also"),
    [
        ("F1", {"parameters.dino", "parameters.llm", "lr.dino", "lr.llm"}),
        ("LR4", {"lr.connector"}),
        ("A1", {"shapes.looks"}),
        ("A6", {"parameters.connector"}),
        ("B1", {"parameters.connector", "shapes.visual", "shapes.looks", "lr.llm"}),
        ("A8b", {"batch.frames_shown"}),
        ("D1", {"facts.manifest_hash", "batch.frames"}),
        ("answers", {"batch.supervised_tokens"}),
        ("batch", {"batch.samples", "batch.order_hash"}),
        ("long", {"lr.connector", "lr.dino", "lr.llm", "facts.manifest_hash"}),
        ("decay", set()),
        ("beta", set()),
        ("coarse", set()),
        ("scale", set()),
    ],
)
def test_a_row_shows_in_what_it_declares(seen: dict[str, dict[str, Any]], row: str, also: set[str]) -> None:
    changed = differing(seen["F3"], seen[row])
    assert also | {"losses"} <= changed
    if not row.startswith(("batch", "long", "D1")):
        assert {name for name in changed if name.startswith("batch.")} == {name for name in also if name.startswith("batch.")}


def test_what_the_toy_replaces_is_told_as_unseen(seen: dict[str, dict[str, Any]]) -> None:
    assert differing(seen["F3"], seen["vision"]) == set()
    assert "model.vision" in seen["F3"]["unseen"]


def test_a_run_that_goes_on_is_stopped(files: Path) -> None:
    (base, long) = fingerprints([asked("F3", files, {}), asked("long", files, {"train.samples": 38_400})])
    assert len(base["losses"]) == STEPS
    assert len(long["losses"]) == MOST_STEPS + 1
    assert long["outcome"] == ""
    assert long["facts"]["steps_planned"] == 4 * STEPS


def test_another_process_gives_the_same(seen: dict[str, dict[str, Any]], files: Path) -> None:
    stdin = json.dumps([asked(name, files, ROWS[name]) for name in ("F3", "A1")])
    known = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "trainer.fingerprint"]
    done = subprocess.run(command, input=stdin, env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line, name in zip(done.stdout.splitlines(), ("F3", "A1"), strict=True):
        told = json.loads(line)
        assert differing(told, json.loads(json.dumps(seen[name]))) <= LEARNING  # another thread pool may round otherwise
        assert told["losses"] == pytest.approx(seen[name]["losses"], rel=1e-5)


def test_a_config_that_cannot_be_built_says_why_and_the_others_go_on(files: Path) -> None:
    rows: list[dict[str, Any]] = [{"model.deep_qeury": True}, {"model.tokens_per_frame": 4}, {"train.flops": "as X"}, {}]
    told = list(fingerprints([asked(str(i), files, changes) for i, changes in enumerate(rows)]))
    assert told[0]["error"].startswith("0: settings: there is no setting model.'deep_qeury'")
    assert told[1]["error"].startswith('1: settings: model.tokens_per_frame = 4 with model.encoder = "foveated"')
    assert "train.flops = 'as X'" in told[2]["error"]
    assert "error" not in told[3]


def test_no_list_is_a_mistake() -> None:
    done = subprocess.run([sys.executable, "-m", "trainer.fingerprint"], input="{}", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, 'Error: stdin must be a list of {"settings": …, "seed": …, "files": …}\n')
