"""A trained model in the hands of others: saved, loaded, asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoProcessor

from tests.trainer.conftest import NewJob, metrics_of, small_batch, small_dino, small_llm, small_model
from tests.trainer.runs import trained
from trainer.config import ConfigError, ModelConfig
from trainer.data.frames import RELAY
from trainer.data.open import open_data
from trainer.data.shards import read_entry
from trainer.data.tokenizer import load_tokenizer
from trainer.evaluate import normalised
from trainer.model.foveated import Mode
from trainer.model.load import assemble
from trainer.model.packing import pack
from trainer.model.vision_language import VisionLanguageModel
from trainer.pretrained import FoveatedConfig, FoveatedProcessor, FoveatedVLM, save

CPU = torch.device("cpu")
VARIANTS: dict[str, dict[str, Any]] = {
    "F3": {},
    "A1": {"deep_query": False},
    "A6": {"coarse_only": True},
    "B1": {"encoder": "multi_token", "tokens_per_frame": 4},
}


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> FoveatedProcessor:
    return FoveatedProcessor(load_tokenizer("tiny/llama", tmp_path_factory.mktemp("cache")), RELAY)


def saved(model: VisionLanguageModel, settings: Mapping[str, Any], processor: FoveatedProcessor, folder: Path) -> Path:
    save(folder / "model", model, ModelConfig(**settings), processor)
    return folder / "model"


def inputs_of(frames: list[int], words: list[int]) -> dict[str, torch.Tensor]:
    batch = small_batch(frames, words)
    return {
        "pixel_values": batch.frames,
        "frame_of": batch.frame_of,
        "input_ids": batch.ids,
        "attention_mask": batch.is_text.long(),
    }


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_a_saved_model_comes_back_the_same(tmp_path: Path, processor: FoveatedProcessor, settings: dict[str, Any]) -> None:
    model = small_model(seed=3, **settings)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folder = saved(model, settings, processor, tmp_path)
    again = FoveatedVLM.from_pretrained(folder)
    assert not again.training
    for found in (model.state_dict(), again.model.state_dict()):
        assert found.keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in found.items())
    packed = pack(small_batch([2, 0], [3, 4]), model.connector.tokens_per_frame, CPU)
    torch.testing.assert_close(model(packed).losses, again.model(packed).losses)
    assert not (tmp_path / ".model.partial").exists()


def test_a_head_that_is_the_embedding_still_is_when_it_comes_back(tmp_path: Path, processor: FoveatedProcessor) -> None:
    llm = small_llm()
    llm.config.tie_word_embeddings = True
    llm.tie_weights()
    folder = saved(assemble(ModelConfig(), small_dino(), llm, seed=0), {}, processor, tmp_path)
    again = FoveatedVLM.from_pretrained(folder).model.llm
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again.lm_head.weight, llm.lm_head.weight)
    assert sum("lm_head" in name or "embed_tokens" in name for name in load_file(folder / "model.safetensors")) == 1


def test_the_auto_classes_know_it(tmp_path: Path, processor: FoveatedProcessor) -> None:
    folder = saved(small_model(), {}, processor, tmp_path)
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, FoveatedConfig)
    assert (config.vision_config.hidden_size, config.text_config.num_key_value_heads) == (32, 2)
    assert isinstance(AutoModel.from_pretrained(folder), FoveatedVLM)
    assert isinstance(AutoProcessor.from_pretrained(folder), FoveatedProcessor)


def test_a_model_saved_again_in_the_style_of_transformers_is_the_same(tmp_path: Path, processor: FoveatedProcessor) -> None:
    model = FoveatedVLM.from_pretrained(saved(small_model(), {}, processor, tmp_path), dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    again = FoveatedVLM.from_pretrained(tmp_path / "again")
    assert again.dtype == torch.bfloat16
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_run_leaves_a_model_that_answers_as_it_was_evaluated(new_job: NewJob) -> None:
    images = {"train.loss": "text_ce_answer_only", "data.mix": {"image": 0.75, "text": 0.25}, "data.repeat": True}
    job = trained(new_job("F3", images | {"train.samples": 160, "optim.lr": 3e-3, "eval.every_samples": 160}))
    folder = job.folder / "model"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors", ".jinja"}
    model, processor = FoveatedVLM.from_pretrained(folder), FoveatedProcessor.from_pretrained(folder)
    data = open_data(job.config, job.seed, job.cache)
    rows = data.val.rows("image")
    samples = [read_entry(data.shards, data.val.samples.manifest.entry(row)) for row in rows]
    inputs = processor([sample.pictures[0] for sample in samples], [sample.meta["user"] for sample in samples])
    told = processor.batch_decode(model.generate(**inputs, max_new_tokens=4))
    right = [normalised(answer) == normalised(sample.meta["assistant"]) for answer, sample in zip(told, samples, strict=True)]
    assert 0 < sum(right) / len(right) == metrics_of(job)[-1]["metrics"]["image_vqa"]


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_generating_follows_the_logits_of_the_whole_model(
    tmp_path: Path, processor: FoveatedProcessor, settings: dict[str, Any], mode: Mode
) -> None:
    model = FoveatedVLM.from_pretrained(saved(small_model(**settings), settings, processor, tmp_path))
    inputs = inputs_of([3, 1], [4, 4])
    told = model.generate(**inputs, max_new_tokens=4, mode=mode, eos_token_id=[])
    for place in range(4):
        logits = model(**inputs, mode=mode).logits
        assert torch.equal(logits[:, -1].argmax(-1), told[:, place])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], told[:, place : place + 1]], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])


def test_a_loss_is_the_mean_over_the_labels(tmp_path: Path, processor: FoveatedProcessor) -> None:
    model = FoveatedVLM.from_pretrained(saved(small_model(), {}, processor, tmp_path))
    inputs = inputs_of([2, 0], [3, 5])
    labels = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], -100)
    output = model(**inputs, labels=labels, output_attentions=True)
    trained = model.model(pack(small_batch([2, 0], [3, 5]), 1, CPU))
    torch.testing.assert_close(output.loss, trained.losses.mean())
    expected = torch.nn.functional.cross_entropy(output.logits[1, :-1], labels[1, 1:])
    torch.testing.assert_close(expected, trained.losses[3:].mean())
    assert (output.logits[0, 3:] == 0).all()
    assert output.looks.shape == output.coarse_looks.shape == (2, 3, 4, 5)
    output.loss.backward()
    assert model.model.connector.q_init.grad is not None


def test_labels_that_are_not_the_inputs_are_refused(tmp_path: Path, processor: FoveatedProcessor) -> None:
    model = FoveatedVLM.from_pretrained(saved(small_model(), {}, processor, tmp_path))
    inputs = inputs_of([2], [3])
    for labels in (inputs["input_ids"] + 1, inputs["input_ids"][:, :2]):
        with pytest.raises(ConfigError, match="labels are input_ids, with -100 where nothing is to be learned"):
            model(**inputs, labels=labels)


def test_a_saved_model_does_not_say_where_its_backbones_lay(tmp_path: Path, processor: FoveatedProcessor) -> None:
    model = small_model()
    model.dino.config._name_or_path = "/home/ada/secret"
    folder = saved(model, {}, processor, tmp_path)
    assert "ada" not in (folder / "config.json").read_text()


def test_an_answer_ends_where_the_tokenizer_ends_a_turn(tmp_path: Path, processor: FoveatedProcessor) -> None:
    model = FoveatedVLM.from_pretrained(saved(small_model(), {}, processor, tmp_path))
    assert model.config.eos_token_id == processor.tokenizer.eos_id != model.config.text_config.eos_token_id
    free = model.generate(**inputs_of([2], [3]), max_new_tokens=5, eos_token_id=[])[0].tolist()
    model.config.eos_token_id = free[2]
    assert model.generate(**inputs_of([2], [3]), max_new_tokens=5)[0].tolist() == free[: free.index(free[2]) + 1]


def test_sampling_hangs_on_its_generator_alone(tmp_path: Path, processor: FoveatedProcessor) -> None:
    model = FoveatedVLM.from_pretrained(saved(small_model(), {}, processor, tmp_path))
    options = {"max_new_tokens": 8, "do_sample": True, "temperature": 2.0, "top_p": 0.95, "eos_token_id": []}
    one, two = (model.generate(**inputs_of([2], [3]), **options, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, model.generate(**inputs_of([2], [3]), max_new_tokens=8, eos_token_id=[]))


def test_what_cannot_be_generated_is_told(tmp_path: Path, processor: FoveatedProcessor) -> None:
    model = FoveatedVLM.from_pretrained(saved(small_model(), {}, processor, tmp_path))
    with pytest.raises(
        ConfigError, match="mode = 'fine': there is no such mode; modes: coarse_only, coarse_fine, autoregressive"
    ):
        model.generate(**inputs_of([2], [3]), mode="fine")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigError, match="max_new_tokens = 0 must be at least 1"):
        model.generate(**inputs_of([2], [3]), max_new_tokens=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("some/where/else", "model 'some/where/else': no such model; looked for config.json in some/where/else/. Give a folder"),
        (
            "lab/foveated",
            "weights/lab/foveated/ and in the Hugging Face cache. Download it where there is a network: hf download",
        ),
    ],
)
def test_a_model_that_is_not_there_says_what_to_download_and_where_to_put_it(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        FoveatedVLM.from_pretrained(name)


def test_a_folder_in_the_layout_of_before_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"q_static": torch.zeros(1)}, tmp_path / "connector.safetensors")
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path} has an earlier layout (vision/, language/, connector.saf")):
        FoveatedVLM.from_pretrained(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path, processor: FoveatedProcessor) -> None:
    folder = saved(small_model(), {}, processor, tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=re.escape("has no *.safetensors (weights in other files are not read)")):
        FoveatedVLM.from_pretrained(folder)


def test_weights_that_lack_something_are_refused(tmp_path: Path, processor: FoveatedProcessor) -> None:
    folder = saved(small_model(), {}, processor, tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.connector.q_static"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=re.escape("do not fit its config.json: there is no model.connector.q_static")):
        FoveatedVLM.from_pretrained(folder)


def test_half_a_file_of_weights_is_told(tmp_path: Path, processor: FoveatedProcessor) -> None:
    folder = saved(small_model(), {}, processor, tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=re.escape(f"{folder}: its weights cannot be read (")):
        FoveatedVLM.from_pretrained(folder)


def test_a_picture_and_a_question_go_in_and_words_come_out(new_job: NewJob) -> None:
    """Every kind of sample in one batch."""
    job = trained(new_job("B1", {"model.encoder": "multi_token", "model.tokens_per_frame": 16, "train.samples": 8}))
    model, processor = (its.from_pretrained(job.folder / "model") for its in (FoveatedVLM, FoveatedProcessor))
    picture = np.zeros((80, 60, 3), np.uint8)
    inputs = processor([[picture] * 2, picture, None], ["what digits do cues point at ?", None, "repeat : 1 2"])
    told = processor.batch_decode(model.generate(**inputs, max_new_tokens=3))
    assert len(told) == 3
    assert all(isinstance(answer, str) for answer in told)
