"""The paths of outputs/, and files that are never half-written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ablate.folders import (
    BrokenFileError,
    Folders,
    newest_checkpoint,
    read_json,
    read_json_table,
    studies_under,
    write_json,
    write_new_json,
)
from ablate.study import UserError

KEY = "F3-s42-c16774a1"


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "outputs", "foveated", "tiny")


def test_an_attempt_has_its_folder_under_study_profile_and_job(folders: Folders) -> None:
    attempt = folders.root / "foveated" / "tiny" / KEY / "2"
    assert folders.attempt(KEY, 2) == attempt
    assert folders.metrics(KEY, 2) == attempt / "metrics.jsonl"
    assert folders.result(KEY, 2) == attempt / "result.json"
    assert folders.log(KEY, 2, rank=1) == attempt / "rank1.log"
    assert folders.decision(7, "freeze DINO / LLM?") == folders.base / "decisions" / "0007-freeze-DINO-LLM-.json"


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "/etc", "../x", "a\n", "a\x00", "-rf", "x" * 65, "ü"])
def test_no_name_leaves_the_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"study .* cannot name a folder"):
        Folders(tmp_path, name, "tiny")
    with pytest.raises(UserError, match=r"profile .* cannot name a folder"):
        Folders(tmp_path, "study", name)


@pytest.mark.parametrize("key", ["", "..", "../../x", "a/../../b", "x" * 129])
def test_no_job_leaves_its_study(folders: Folders, key: str) -> None:
    with pytest.raises(UserError, match=r"job .* cannot name a folder"):
        folders.attempt(key, 1)
    with pytest.raises(UserError, match="attempts count from 1, not 0"):
        folders.attempt(KEY, 0)


def test_json_is_written_whole_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config.json"
    write_json(path, {"lr": 1e-4, "name": "≈\udc80"})
    write_json(path, {"lr": math.inf, "name": "≈\udc80"})
    assert read_json(path) == {"lr": math.inf, "name": "≈\udc80"}
    assert [each.name for each in path.parent.iterdir()] == ["config.json"]


def test_a_value_that_is_not_json_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, {"kept": True})
    with pytest.raises(TypeError, match="a set is not a JSON value"):
        write_json(path, {"kept": {1, 2}})
    assert read_json(path) == {"kept": True}


def test_of_two_writers_of_a_new_file_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "frozen.json"
    write_new_json(path, {"by": 1})
    with pytest.raises(FileExistsError):
        write_new_json(path, {"by": 2})
    assert read_json(path) == {"by": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["frozen.json"]


@pytest.mark.parametrize(
    ("text", "why"), [(b"{", "not JSON"), (b"\xff\xfe{}x", "not JSON"), (b"[1]", "a list; a JSON object"), (b"", "not JSON")]
)
def test_a_broken_file_is_named(tmp_path: Path, text: bytes, why: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(text)
    with pytest.raises(BrokenFileError, match=why) as caught:
        read_json_table(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_newest_checkpoint_is_the_highest_complete_step(folders: Folders) -> None:
    assert newest_checkpoint(folders.attempt(KEY, 1)) is None
    for name in ("00000099", "00000100", ".00000200.tmp", "00000300.part", "123456789"):
        (folders.checkpoints(KEY, 1) / name).mkdir(parents=True)
    (folders.checkpoints(KEY, 1) / "00000400").touch()
    assert newest_checkpoint(folders.attempt(KEY, 1)) == folders.checkpoints(KEY, 1) / "123456789"


def test_a_job_resumes_from_the_latest_attempt_that_wrote_a_checkpoint(folders: Folders) -> None:
    assert folders.resume_from(KEY) is None
    for number, step in ((1, "00000100"), (2, "00000050"), (10, "")):
        (folders.checkpoints(KEY, number) / step).mkdir(parents=True)
    assert folders.attempt_numbers(KEY) == (1, 2, 10)
    assert folders.resume_from(KEY) == folders.checkpoints(KEY, 2) / "00000050"


def test_studies_are_found_by_their_folders(folders: Folders) -> None:
    assert studies_under(folders.root) == ()
    for path in (folders.base, folders.root / "foveated" / "full", folders.root / ".cache" / "shards"):
        path.mkdir(parents=True)
    assert studies_under(folders.root) == (Folders(folders.root, "foveated", "full"), folders)


def test_decision_files_come_in_the_order_of_their_numbers(folders: Folders) -> None:
    for number in (2, 10000, 1):
        write_json(folders.decision(number, "freeze"), {})
    assert [path.name for path in folders.decision_files()] == ["0001-freeze.json", "0002-freeze.json", "10000-freeze.json"]
    assert json.loads(folders.decision_files()[0].read_text()) == {}
