"""Chat templates, prompts and the forms a sample's text may have."""

import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Fast
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from tests.trainer.data.conftest import CHATML
from trainer.data.relay_texts import RELAY
from trainer.data.shards import DataError, Sample
from trainer.data.tokenizer import Tokenizer, load_tokenizer


def read(tokenizer: Tokenizer, ids: list[int]) -> str:
    return " ".join(tokenizer._loaded.convert_ids_to_tokens(ids))


def test_a_tiny_chat_is_question_and_answer(tiny: Tokenizer) -> None:
    ids, answer = tiny.chat(RELAY, "1 2 3")
    assert read(tiny, ids) == "<bos> <user> what digits do cues point at ? <assistant> 1 2 3 <eos>"
    assert answer == [False] * 10 + [True] * 4
    assert tiny.decode(ids) == "what digits do cues point at ? 1 2 3"
    assert (tiny.size, tiny.pad_id, tiny.eos_id) == (83, 0, 4)


def test_a_real_template_gets_our_system_prompt_and_ends_with_the_end_of_the_turn(chatml: Tokenizer) -> None:
    ids, answer = chatml.chat("hello", "a cat")
    told = read(chatml, ids)
    assert told.startswith("<start> system You are a helpful AI assistant. <end> <start> user hello <end> <start> assistant")
    assert told.endswith("a cat <end>")
    assert read(chatml, [token for token, its in zip(ids, answer, strict=True) if its]) == "a cat <end>"
    assert chatml.pad_id == chatml.eos_id


def test_an_answer_may_begin_with_line_breaks(tmp_path: Path) -> None:
    """Which a byte-level tokenizer makes one token of, with the one that ends the prompt."""
    template = CHATML.replace("{{ m['role'] }} ", "{{ m['role'] }}\n").replace("assistant {%", "assistant\n{%")
    fast = Fast(BPE())
    fast.pre_tokenizer, fast.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    trained = BpeTrainer(show_progress=False, special_tokens=["<start>", "<end>"], initial_alphabet=ByteLevel.alphabet())
    fast.train_from_iterator(["a\n\n\n\n\n\nb"] * 9, trained)
    PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<end>", chat_template=template).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), tmp_path)
    assert len(tokenizer.encode("\n\n\nb")) < len("\n\n\nb")
    for answer in ("a", "\na", "\n\na", "\n\n\na"):
        ids, mask = tokenizer.chat("hello", answer)
        assert ids[: mask.index(True)] == tokenizer.prompt("hello")
        assert tokenizer._loaded.decode([token for token, its in zip(ids, mask, strict=True) if its]) == f"{answer} <end>"


@pytest.mark.parametrize(
    ("meta", "source", "question"),
    [
        ({"user": "hello", "assistant": "a cat"}, "openvid", "hello"),
        ({"user": "", "assistant": "a cat"}, "openvid", "Describe this video."),
        ({"caption": "a cat"}, "cauldron", "Describe this image."),
        ({"caption": "a cat"}, "unheard of", "Describe this video."),
        ({"user": "hello", "chosen_assistant": "a cat", "rejected_assistant": "a"}, "rlaif", "hello"),
    ],
)
def test_every_form_of_text_becomes_a_chat(chatml: Tokenizer, meta: dict[str, Any], source: str, question: str) -> None:
    ids, answer = chatml.sample(Sample("k", "text", meta, ()), source, "video")
    assert f"user {question} <end>" in read(chatml, ids)
    assert sum(answer) == 3


def test_ready_tokens_are_taken_as_they_are(tiny: Tokenizer) -> None:
    meta = {"token_ids": [5, 6, 7], "loss_mask": [0, 1, 1]}
    assert tiny.sample(Sample("k", "text", meta, ()), "words", "text") == ([5, 6, 7], [False, True, True])


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"token_ids": [5, 6], "loss_mask": [1]}, "k: token_ids and loss_mask must be lists of one length, at least 1"),
        (
            {"token_ids": [83], "loss_mask": [1]},
            "k: token_ids are not all in 0..82: made for another tokenizer than 'tiny/llama'",
        ),
        ({"user": "?", "assistant": ""}, "k: user '?' and answer '' must be texts, and the answer not empty"),
    ],
)
def test_a_text_that_cannot_be_used_is_told_by_key(tiny: Tokenizer, meta: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        tiny.sample(Sample("k", "text", meta, ()), "words", "text")


def test_a_missing_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"model.language = '.*nowhere': no tokenizer there .*; download the model and give its folder"
    ):
        load_tokenizer(str(tmp_path / "nowhere"), tmp_path)
