"""The shipped study as it stands (`full`): real-size models of random weights, saved locally, are built and trained a step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from ablate.runs_toml import read_study
from ablate.study import Settings, Value, nested
from tests.trainer.runs import trained
from trainer.data.tokenizer import write_tiny_tokenizer
from trainer.job import Job, read_job
from trainer.pretrained import FoveatedProcessor, FoveatedVLM

SHIPPED = Path(__file__).parents[2] / "runs.toml"
VISION = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=14, image_size=518)
"""facebook/dinov2-small."""
LANGUAGE = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=2048,
    rope_theta=100000.0,
    tie_word_embeddings=True,
    pad_token_id=2,
    bos_token_id=1,
    eos_token_id=2,
)
"""HuggingFaceTB/SmolLM2-135M-Instruct."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("run", ["F3", "B1"])
def test_real_sizes_load_and_train_through_the_shipped_file(
    run: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = read_study(SHIPPED)
    settings = {**study.settings, **study.runs[run].changes}
    Dinov2Model(VISION).save_pretrained(tmp_path / "weights" / str(settings["model.vision"]))
    language = tmp_path / "weights" / str(settings["model.language"])
    LlamaForCausalLM(LANGUAGE).save_pretrained(language)
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
