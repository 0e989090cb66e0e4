"""The shipped study as it stands (`full`): real-size models of random weights, saved locally, are built and trained a step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from ablate.runs_toml import read_study
from ablate.study import Settings, Value, nested
from benchmarks.cases import DINOV2_SMALL, SMOLLM2_135M
from tests.trainer.runs import trained
from trainer.data.tokenizer import write_tiny_tokenizer
from trainer.job import Job, read_job
from trainer.pretrained import FoveatedProcessor, FoveatedVLM

SHIPPED = Path(__file__).parents[2] / "runs.toml"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("run", ["F3", "B1"])
def test_real_sizes_load_and_train_through_the_shipped_file(
    run: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = read_study(SHIPPED)
    settings = {**study.settings, **study.runs[run].changes}
    Dinov2Model(DINOV2_SMALL).save_pretrained(tmp_path / "weights" / str(settings["model.vision"]))
    language = tmp_path / "weights" / str(settings["model.language"])
    LlamaForCausalLM(SMOLLM2_135M).save_pretrained(language)
    write_tiny_tokenizer(language)
    small: dict[str, Value] = {"train.samples": 2, "train.batch_samples": 2, "data.root": str(small_data / "data")}
    small |= {"data.workers": 0, "eval.set": "few", "data.mix": {"video": 0.5, "image": 0.5}, "train.flops": "own"}
    job = _job(tmp_path, run, settings | small)
    trained(job)
    told = json.loads((job.folder / "facts.json").read_text())
    assert sum(told["parameters"].values()) == pytest.approx(157e6, rel=0.02)
    assert json.loads((job.folder / "result.json").read_text())["outcome"] == "done"
    model, processor = (its.from_pretrained(job.folder / "model") for its in (FoveatedVLM, FoveatedProcessor))
    inputs = processor([np.zeros((360, 640, 3), np.uint8)] * 2, "what digits do cues point at ?")
    assert inputs["pixel_values"].shape == (2, 3, 224, 224)
    assert model.generate(**inputs, max_new_tokens=2, eos_token_id=[]).shape == (1, 2)


def _job(folder: Path, run: str, settings: Settings) -> Job:
    attempt = folder / "attempt"
    attempt.mkdir()
    said = {"job": run, "run": run, "seed": 42, "attempt": 1, "settings": nested(settings), "files": str(folder / "files")}
    (attempt / "config.json").write_text(json.dumps(said))
    return read_job(attempt)
