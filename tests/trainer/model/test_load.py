"""Weights in and out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trainer.conftest import small_batch, small_dino, small_llm, small_model
from trainer.config import ConfigError, ModelConfig
from trainer.model.load import build_model, initial_weights_hash, weights_folder
from trainer.model.packing import pack


def test_variants_share_all_the_initial_weights_they_can() -> None:
    models = [
        small_model(seed=5),
        small_model(seed=5, coarse_only=True),
        small_model(seed=5, encoder="multi_token", tokens_per_frame=4),
    ]
    weights = [dict(model.connector.named_parameters()) for model in models]
    for name in weights[1]:
        assert torch.equal(weights[0][name], weights[1][name])
    assert torch.equal(weights[0]["to_llm.weight"], weights[2]["to_llm.weight"])
    assert len({initial_weights_hash(model) for model in models}) == 1


def test_another_seed_starts_with_other_weights() -> None:
    assert initial_weights_hash(small_model(seed=5)) != initial_weights_hash(small_model(seed=6))


def test_queries_start_with_a_standard_deviation_of_1() -> None:
    queries = torch.cat([small_model(seed=seed).connector.get_parameter("q_static") for seed in range(30)])
    assert abs(queries.std() - 1) < 0.1


def test_missing_weights_say_what_to_download_and_where_to_put_it(tmp_path: Path) -> None:
    expected = (
        "model.vision = 'facebook/dinov2-none': no such model; looked for config.json in facebook/dinov2-none/, in "
        "weights/facebook/dinov2-none/ and in the Hugging Face cache. Download it where there is a network: "
        "hf download facebook/dinov2-none --local-dir weights/facebook/dinov2-none"
    )
    with pytest.raises(ConfigError, match=re.escape(expected)):
        weights_folder("model.vision", "facebook/dinov2-none", tmp_path)


def test_a_tiny_model_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    expected = "model.vision = 'tiny/dyno': there is no such tiny model; there are tiny/dino, tiny/llama"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        weights_folder("model.vision", "tiny/dyno", tmp_path)


def test_a_local_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    small_dino().save_pretrained(tmp_path)
    assert weights_folder("model.vision", str(tmp_path), tmp_path / "cache") == tmp_path


def test_a_hub_name_is_found_in_the_hugging_face_cache_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name, model in (("some/dino", small_dino()), ("some/llama", small_llm())):
        cached = tmp_path / f"models--{name.replace('/', '--')}"
        model.save_pretrained(cached / "snapshots" / "0f0f")
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0f0f")
    config = ModelConfig(vision="some/dino", language="some/llama")
    model = build_model(config, tmp_path / "cache", seed=0)
    assert torch.equal(model.dino.layernorm.weight, small_dino().layernorm.weight)
    batch = pack(small_batch([2], [3]), 1, torch.device("cpu"))
    assert torch.equal(model(batch).losses, small_model()(batch).losses)


def test_a_folder_without_weights_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    expected = (
        f"model.vision = {str(tmp_path)!r}: {tmp_path} has no *.safetensors (weights in other files are not read); a download"
    )
    with pytest.raises(ConfigError, match=re.escape(expected)):
        weights_folder("model.vision", str(tmp_path), tmp_path / "cache")


def test_a_backbone_that_lacks_weights_is_refused_and_not_filled_with_random_ones(tmp_path: Path) -> None:
    for name, model in (("dino", small_dino()), ("llama", small_llm())):
        model.save_pretrained(tmp_path / name)
    weights = load_file(tmp_path / "dino" / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, tmp_path / "dino" / "model.safetensors", metadata={"format": "pt"})
    config = ModelConfig(vision=str(tmp_path / "dino"), language=str(tmp_path / "llama"))
    with pytest.raises(
        ConfigError, match=re.escape(f"{tmp_path}/dino: its weights do not fit its config.json: there is no layernorm.w")
    ):
        build_model(config, tmp_path / "cache", seed=0)


def test_a_wrong_size_is_told(tmp_path: Path) -> None:
    small_dino().save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(said | {"hidden_size": 64}))
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}: its weights cannot be read (")):
        build_model(ModelConfig(vision=str(tmp_path)), tmp_path / "cache", seed=0)
