"""Chat in, tokens out: a tokenizer from disk or hub, the system prompt, and the prompt of a source that has none.

The tiny study's word-level tokenizer is written in the same layout as a real one and loaded through the same code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from trainer.data.once import built_once
from trainer.data.relay_texts import BOS, CHAT_TEMPLATE, EOS, NUMBER, PAD, SPECIAL
from trainer.data.shards import DataError, Kind, Sample, short
from trainer.weights import local_folder

SYSTEM_PROMPT = "You are a helpful AI assistant."
PROMPTS: Mapping[str, str] = {
    "openvid": "Describe this video.",
    "vript": "Describe this video in detail.",
    "sharegpt4video": "Describe this video in detail.",
    "webvid": "Describe this video briefly.",
    "cauldron": "Describe this image.",
}
"""What is asked where a sample has a caption and no question, by source."""
KIND_PROMPTS: Mapping[Kind, str] = {"video": "Describe this video.", "image": "Describe this image.", "text": "Continue."}
TINY = "tiny/llama"


class Tokenizer:
    """A Hugging Face tokenizer with a chat template."""

    def __init__(self, name: str, folder: str, loaded: Any) -> None:
        self.name, self.folder = name, folder
        self._loaded = loaded
        self.eos_id: int = loaded.eos_token_id
        self.pad_id: int = loaded.pad_token_id if loaded.pad_token_id is not None else loaded.eos_token_id
        self.size: int = len(loaded)
        self.marks: tuple[str, ...] = tuple(loaded.all_special_tokens)
        """Words that mean something to the chat template; text that holds one would be misread."""

    @cached_property
    def hash(self) -> str:
        """Of its vocabulary and chat template: 16 hex digits, the same for a folder and a hub name."""
        said = [sorted(self._loaded.get_vocab().items()), self._loaded.chat_template, SYSTEM_PROMPT]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._loaded.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Words only: special tokens are left out."""
        text: str = self._loaded.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    def chat(self, user: str, assistant: str) -> tuple[list[int], list[bool]]:
        """(ids, which of them are the assistant's turn); the turn ends with the end-of-turn token."""
        asked, told = self._text(user), self._text(user, assistant)
        head, whole = self.encode(asked), self.encode(told)
        if whole[: len(head)] != head:  # line breaks that begin an answer can make one token with the prompt's last
            whole = [*head, *self.encode(told.removeprefix(asked))]
            if not told.startswith(asked):
                raise DataError(
                    f"tokenizer {self.name!r}: its chat template does not start a finished chat as it starts an open one"
                )
        while len(whole) > len(head) and whole[-1] != self.eos_id and self.eos_id in whole[len(head) :]:
            whole.pop()  # templates like to end with a line break, which is nobody's to predict
        return whole, [False] * len(head) + [True] * (len(whole) - len(head))

    def prompt(self, user: str) -> list[int]:
        """The ids of a chat up to where the assistant's turn begins."""
        return self.encode(self._text(user))

    def sample(self, sample: Sample, source: str, kind: Kind) -> tuple[list[int], list[bool]]:
        """(ids, answer mask) of a sample's text, in any of the forms its JSON may have. Raises DataError naming the key."""
        meta = sample.meta
        if "token_ids" in meta:
            return self._ready(sample)
        answer = next(meta[name] for name in ("assistant", "caption", "chosen_assistant") if name in meta)
        user = meta.get("user") or PROMPTS.get(source, KIND_PROMPTS[kind])
        if not is_text(user) or not is_text(answer) or not answer:
            raise DataError(
                f"{sample.key}: user {short(user)} and answer {short(answer)} must be texts, and the answer not empty"
            )
        return self.chat(user, answer)

    def save(self, folder: Path) -> None:
        """Its files in `from_pretrained` layout, chat template included."""
        self._loaded.save_pretrained(folder)

    def _ready(self, sample: Sample) -> tuple[list[int], list[bool]]:
        ids, mask = sample.meta["token_ids"], sample.meta.get("loss_mask")
        if not isinstance(ids, list) or not isinstance(mask, list) or len(ids) != len(mask) or not ids:
            raise DataError(f"{sample.key}: token_ids and loss_mask must be lists of one length, at least 1")
        if not all(isinstance(value, int | float) and value in (0, 1) for value in mask):
            raise DataError(f"{sample.key}: loss_mask has to say 0 or 1 of each token")
        if not all(isinstance(token, int) and 0 <= token < self.size for token in ids):
            raise DataError(
                f"{sample.key}: token_ids are not all in 0..{self.size - 1}: made for another tokenizer than {self.name!r}"
            )
        return ids, [bool(value) for value in mask]

    def _text(self, user: str, assistant: str | None = None) -> str:
        """A chat in the template's words; without an answer up to where it begins."""
        said = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": user}]
        said += [] if assistant is None else [{"role": "assistant", "content": assistant}]
        text: str = self._loaded.apply_chat_template(said, tokenize=False, add_generation_prompt=assistant is None)
        return text


def is_text(value: object) -> bool:
    """Half a surrogate pair is a character in JSON and none in UTF-8."""
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def load_tokenizer(language: str, cache: Path) -> Tokenizer:
    """The tokenizer of a language model: "tiny/llama…" (made here), a folder, or a hub name.

    Raises DataError when it cannot be had or has no chat template.
    """
    folder = tiny_tokenizer(cache) if language.startswith(TINY) else local_folder(language) or Path(language)
    return open_tokenizer(language, str(folder))


def open_tokenizer(language: str, folder: str) -> Tokenizer:
    """The tokenizer of a language model from its folder; `load_tokenizer` says what it raises."""
    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(
            f"model.language = {language!r}: no tokenizer there ({str(error).splitlines()[0]}); "
            "download the model and give its folder"
        ) from error
    if not loaded.chat_template:
        raise DataError(f"model.language = {language!r}: its tokenizer has no chat template; use an instruction-tuned model's")
    return Tokenizer(language, folder, loaded)


def tiny_tokenizer(cache: Path) -> Path:
    """Folder of the relay world's tokenizer, written on the first call."""
    recipe = hashlib.sha256(repr((tuple(NUMBER), CHAT_TEMPLATE)).encode()).hexdigest()[:12]
    return built_once(cache / "tiny" / f"tokenizer-{recipe}", write_tiny_tokenizer)


def write_tiny_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer as Fast
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    fast = Fast(WordLevel(vocab=dict(NUMBER), unk_token=PAD))
    fast.pre_tokenizer = WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[word for word in SPECIAL if word not in (BOS, EOS, PAD)],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    wrapped.save_pretrained(folder)
