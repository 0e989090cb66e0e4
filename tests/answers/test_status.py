"""What `status` says of logs that grow large while their jobs run."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.answers.status import LARGE_LOG_GIB, status
from ablate.desk import Desk, open_desk
from ablate.runs_toml import read_study
from tests.small_study import STUDY, TRAINER, write


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """F3's jobs run and F1's have ended, each with a log of 1.5 GiB; only F3's at seed 44 is small. Sparse: nothing on disk."""
    (tmp_path / "runs.toml").write_text(STUDY)
    (tmp_path / "train.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)
    made = open_desk(read_study(tmp_path / "runs.toml"))
    write(made, "F3", state="running")
    write(made, "F1")
    for job in (*made.plan().of_run("F3"), *made.plan().of_run("F1")):
        path = made.folders.log(job.key or "", 1)
        path.parent.mkdir(parents=True)
        with path.open("w") as log:
            log.truncate(2**20 if job.id == "F3-s44" else 3 * 2**29)
    return made


def test_a_running_job_whose_log_grows_large_is_named_with_the_path_and_one_that_has_ended_is_not(desk: Desk) -> None:
    assert LARGE_LOG_GIB == 1.0
    told = [note for note in status(desk)["notes"] if "GiB" in note]
    assert [note.split(" ")[0] for note in told] == ["F3-s42", "F3-s43"]
    path = desk.folders.log(desk.plan().of_run("F3")[0].key or "", 1)
    assert told[0] == (
        f"F3-s42 runs and its log has 1.5 GiB already: {path}. Have it print less (ablate stop F3@42 ends it well)"
    )
