"""What config.json may say."""

from __future__ import annotations

import json
import math
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


def test_what_makes_a_run_another_is_told_by_name(tmp_path: Path) -> None:
    changes = {"settings": {"data": {"workers": 0}}, "references": {"F3": {"train": {"samples": 7, "compile": True}}}}
    (tmp_path / "config.json").write_text(json.dumps(WHOLE | changes))
    its = read_job(tmp_path).identity
    assert (its["seed"], its["optim.lr"], its["F3's train.samples"]) == (42, 1e-5, 7)
    assert not {"data.workers", "F3's train.compile"} & its.keys()


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
        (json.dumps({**WHOLE, "seed": "42"}), "config.json: seed is '42'; it must be a whole number"),
        (json.dumps({**WHOLE, "references": []}), "config.json: references is []; it must be an object"),
        (json.dumps({**WHOLE, "settings": {"train": 5}}), "settings: settings are an object of objects, such as"),
        *[
            (json.dumps({**WHOLE, "settings": {name.split(".")[0]: {name.split(".")[1]: value}}}), f"settings: {name} = {said}")
            for name, value, said in [
                ("train.precision", "fp16", """'fp16': it must be "float32" or "bfloat16" or "float64\""""),
                ("model.encoder", "multitoken", "'multitoken': it must be \"foveated\" or"),
                ("train.batch_samples", "8", "'8': it must be a whole number at least 1"),
                ("train.micro_batch_samples", "all", "'all': it must be a whole number at least 1 or \"auto\""),
                ("data.max_frames", 0, "0: it must be a whole number at least 1 and at most 1024"),
                ("optim.lr", -1, "-1: it must be a number above 0 and at most 1"),
                ("optim.lr", math.nan, "nan: it must be a number"),
                ("model.deep_query", 1, "1: it must be true or false"),
                ("data.mix", ["video"], "['video']: it must be an object of numbers"),
                ("optim.lr", 10**400, f"{10**400}: it must be a number above 0 and at most 1"),
                ("optim.beta2", 1, "1, which AdamW needs below 1"),
            ]
        ],
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
