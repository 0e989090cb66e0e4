"""A small relay world on disk, made once for all tests of the data."""

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Fast
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from trainer.config import TrainConfig
from trainer.data.synthetic import Recipe, make
from trainer.data.tokenizer import Tokenizer, load_tokenizer

CHATML = (
    "{% for m in messages %}<start> {{ m['role'] }} {{ m['content'] }} <end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start> assistant {% endif %}"
)
SENTENCE = "<unk> <start> <end> \n system user assistant You are a helpful AI assistant. Describe this video. image. hello a cat"
TEST_RECIPE = Recipe(relay=40, sparse=30, crowded=20, words=40, val_tiny=(6, 5, 4), val_images=(5, 2), per_shard=16)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(data folder, cache folder)"""
    base = tmp_path_factory.mktemp("world")
    assert make(base / "data", TEST_RECIPE, base / "cache", lambda _line: None)
    return base / "data", base / "cache"


@pytest.fixture
def config(world: tuple[Path, Path]) -> TrainConfig:
    start = TrainConfig()
    return replace(
        start,
        model=replace(start.model, vision="tiny/dino", language="tiny/llama"),
        train=replace(start.train, samples=40, batch_samples=8, loss="text_ce_answer_only", precision="float32"),
        data=replace(start.data, root=str(world[0]), mix={"video": 0.5, "image/sparse": 0.3, "text": 0.2}, workers=0),
        eval=replace(start.eval, set="val_tiny", batch_samples=4),
    )


@pytest.fixture(scope="session")
def tiny(world: tuple[Path, Path]) -> Tokenizer:
    return load_tokenizer("tiny/llama", world[1])


@pytest.fixture(scope="session")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer whose template, like SmolLM2's, says the system prompt and ends with a line break."""
    words = {word: i for i, word in enumerate(SENTENCE.split(" "))}
    fast = Fast(WordLevel(vocab=words, unk_token="<unk>"))
    fast.pre_tokenizer = WhitespaceSplit()
    folder = tmp_path_factory.mktemp("chatml")
    PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<end>", unk_token="<unk>", chat_template=CHATML).save_pretrained(
        folder
    )
    return load_tokenizer(str(folder), folder)
