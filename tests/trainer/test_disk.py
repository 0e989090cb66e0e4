"""A disk that fills up or fails at any write of a run: one line, nothing half-written counts, the next attempt goes on."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ablate.folders import newest_checkpoint
from ablate.launching.collect import read_points, read_result
from ablate.launching.gang import log_tail
from ablate.planning.failures import classify
from tests.failing_disk import FailingDisk
from tests.trainer.conftest import NewJob, metrics_of
from trainer.disk import FAILED, trouble

SHORT = {
    "train.samples": 16,
    "train.batch_samples": 4,
    "train.checkpoint_every_minutes": 1e-9,
    "train.keep_checkpoints": 1,
    "eval.every_samples": 100,
}
"""Four steps, each with a checkpoint."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FailingDisk]:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    with FailingDisk(tmp_path_factory.mktemp("disk"), "trainer.train:main") as disk:
        yield disk


@pytest.mark.parametrize(("stride", "error"), [(289, errno.ENOSPC), pytest.param(5, errno.EIO, marks=pytest.mark.slow)])
def test_whichever_write_of_a_run_fails_the_next_attempt_ends_like_an_undisturbed_one(
    disk: FailingDisk, new_job: NewJob, stride: int, error: int
) -> None:
    calm = new_job("calm", SHORT)
    ran = disk.run(calm.folder)
    assert ran.code == 0
    assert ran.writes > 50
    for at in range(1, ran.writes + 1, stride):
        job = new_job(f"at{at}", SHORT)
        broken = disk.run(job.folder, at, error)
        assert broken.writes >= at
        assert classify("rank failed", (broken.code,), log_tail(job.folder)) == "disk error", at
        result = read_result(job.folder)
        assert result is None or result.outcome == "done", "whole, or not there"
        assert read_points(job.folder, job.key, 1).malformed == 0, "only the last line can be torn, and is not read"
        if result is None:
            saved = newest_checkpoint(job.folder)
            job = new_job(f"after{at}", SHORT, resume_from=str(saved or ""))
            assert disk.run(job.folder).code == 0
        assert metrics_of(job)[-1]["metrics"]["val_loss"] == metrics_of(calm)[-1]["metrics"]["val_loss"]


def test_the_disk_is_told_in_one_line_whoever_noticed(disk: FailingDisk, new_job: NewJob) -> None:
    """The log lies elsewhere here, so that it can be written."""
    job = new_job("F3", SHORT)
    (job.folder / "rank0.log").symlink_to(job.folder.with_name("elsewhere.log"))
    broken = disk.run(job.folder, 60, errno.ENOSPC)
    assert broken.code == FAILED
    last = log_tail(job.folder, lines=1)
    assert last.startswith(f"Error: {job.folder}")
    assert last.endswith(": No space left on device. Nothing half-written counts; the next attempt goes on")
    assert "Traceback" not in log_tail(job.folder)


def test_what_torch_and_safetensors_raise_on_a_full_disk_is_understood(tmp_path: Path) -> None:
    folder = tmp_path / "attempt"
    with pytest.raises((OSError, RuntimeError)) as of_torch, Path("/dev/full").open("wb") as full:
        torch.save(torch.zeros(100_000), full)
    assert trouble(of_torch.value, folder).startswith(f"{folder}: No space left on device. ")
    save_file({"w": torch.zeros(2)}, tmp_path / "fits")
    assert trouble(RuntimeError("CUDA error"), folder) == ""
    assert trouble(FileNotFoundError(errno.ENOENT, "no such file", "x"), folder) == ""
    said = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert trouble(said, folder).startswith(f"{folder}: No space left on device. ")
