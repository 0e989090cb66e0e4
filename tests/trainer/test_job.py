"""What config.json may say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from trainer.config import ConfigError
from trainer.job import read_job

WHOLE: dict[str, Any] = {"job": "F3-s42", "run": "F3", "seed": 42, "attempt": 1, "settings": {}, "files": "cache"}


def test_a_job_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(WHOLE | {"settings": {"optim": {"lr": 0.5}}, "references": {"F3": {}}}))
    job = read_job(tmp_path)
    assert (job.key, job.seed, job.config.optim.lr, job.references["F3"].optim.lr, job.resume_from) == (
        "F3-s42",
        42,
        0.5,
        1e-5,
        "",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no config.json; give the folder of an attempt: python -m trainer.train FOLDER"),
        ("{", "config.json: not JSON (Expecting property name"),
        ("[]", "config.json: has no job, run, seed, attempt, settings, files; it needs"),
        (json.dumps({**WHOLE, "settings": {"modle": {}}}), "settings: there is no part 'modle' of settings; parts: model, optim"),
        (
            json.dumps({**WHOLE, "settings": {"model": {"deep_qeury": 1}}}),
            "settings: there is no setting model.'deep_qeury'; settings of model:",
        ),
        (
            json.dumps({**WHOLE, "settings": {"data": {"mix": {"video": 0.5}}}}),
            "shares must be above 0 and sum to 1 (they sum to 0.5)",
        ),
    ],
)
def test_a_wrong_config_is_told_in_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_job(tmp_path)
