"""Offline W&B logs: written by wandb itself, by our mirror, and broken on purpose."""

from __future__ import annotations

import math
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from ablate.desk import Desk
from ablate.past.runs import PastRun
from ablate.past.wandb_files import BLOCK, FRAME, FULL, HEADER, log_files, read_logs
from ablate.study import UserError
from tests.conftest import repository_environment
from tests.past.conftest import Bring, finals

WRITING = """
import sys, wandb
for name, seed, values in (("F3", 42, [1.5, 1.25]), ("fancy-sun-7", None, [2.0, float("nan")]), ("crashed", 43, [9.0])):
    config = {"optim": {"lr": 0.01}, **({"seed": seed} if seed else {})}
    run = wandb.init(project="past", name=name, mode="offline", dir=sys.argv[1], config=config)
    for step, value in enumerate(values):
        run.log({"eval/loss": value, "text": "x" * 40_000, "picture": wandb.Html("a page")}, step=10 * step)
    run.finish(exit_code=1 if name == "crashed" else 0)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which wandb wrote three runs offline."""
    folder = tmp_path_factory.mktemp("wandb_runs")
    quiet = {name: str(folder / "cache") for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR", "HOME")}
    environment = {name: value for name, value in repository_environment().items() if not name.startswith("WANDB_")}
    command = [sys.executable, "-c", WRITING, str(folder)]
    subprocess.run(command, env={**environment, **quiet}, check=True, capture_output=True, timeout=120)
    return folder


def read(desk: Desk, path: Path, **told: str) -> dict[str, PastRun]:
    return {run.name: run for run in read_logs(path, desk.study, {"val_loss": "eval/loss", **told}).runs}


def test_what_wandb_wrote_is_read_back(desk: Desk, written: Path) -> None:
    runs = read(desk, written)
    assert runs["F3"].seed == 42
    assert runs["F3"].curves == {"val_loss": {0: 1.5, 10: 1.25}}
    assert runs["F3"].settings == {"optim.lr": 0.01}
    assert (runs["F3"].ended[0], runs["F3"].unfinished) == ("done", "")
    assert runs["fancy-sun-7"].seed is None
    assert runs["fancy-sun-7"].ended == ("diverged", "val_loss was nan at step 10")
    assert math.isnan(runs["fancy-sun-7"].curves["val_loss"][10])
    assert runs["crashed"].unfinished == "it ended with exit code 1"


def test_a_folder_a_run_s_folder_and_a_log_are_all_accepted(desk: Desk, written: Path) -> None:
    folders = [written, written / "wandb"]
    assert [len(log_files(folder)) for folder in folders] == [3, 3]
    log = log_files(written)[0]
    assert log_files(log) == log_files(log.parent) == [log]
    assert read(desk, log) == read(desk, log.parent)


def test_runs_of_wandb_are_imported(desk: Desk, written: Path, bring: Bring) -> None:
    answer = bring(written, columns=["val_loss=eval/loss"], names=["fancy-sun-7=F3@44", "crashed=F1"])
    assert [(row["run"], row["seed"], row["state"]) for row in answer["imported"]] == [("F3", 42, "done"), ("F3", 44, "diverged")]
    assert [one["why"] for one in answer["left_out"]] == ["it did not end: it ended with exit code 1"]
    assert finals(desk)["F3-s42"] == 1.25
    assert bring(written, columns=["val_loss=eval/loss"], names=["fancy-sun-7=F3@44", "crashed=F1"])["imported"] == []


def test_a_log_that_breaks_off_is_read_up_to_there_and_is_no_result(desk: Desk, written: Path, tmp_path: Path) -> None:
    log = next(path for path in log_files(written) if next(iter(read(desk, path).values())).name == "F3")
    content = log.read_bytes()
    assert len(content) > 2 * BLOCK, "records span blocks"
    (tmp_path / "torn.wandb").write_bytes(content[: len(content) - 100])
    assert read(desk, tmp_path / "torn.wandb")["F3"].unfinished == "its log breaks off"
    middle = len(content) // 2
    (tmp_path / "bad.wandb").write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    for run in read(desk, tmp_path / "bad.wandb").values():
        assert run.unfinished == "its log breaks off"


def test_a_record_that_is_none_of_wandb_s_is_told_with_its_place(desk: Desk, tmp_path: Path) -> None:
    data = b"\xff\xff\xff"
    frame = FRAME.pack(zlib.crc32(bytes([FULL]) + data), len(data), FULL)
    (tmp_path / "odd.wandb").write_bytes(HEADER + frame + data)
    with pytest.raises(UserError, match=r"odd\.wandb: record 1: not as W&B writes it"):
        read_logs(tmp_path / "odd.wandb", desk.study, {})


def test_what_is_no_log_is_refused(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "no.wandb").write_bytes(b"{}" + bytes(range(100)))
    with pytest.raises(UserError, match=r"^\S+/no\.wandb: begins with b'\{\}.*a W&B log is expected"):
        read_logs(tmp_path / "no.wandb", desk.study, {})
