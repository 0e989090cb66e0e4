"""The relay world's language."""

import numpy as np
import pytest

from trainer.data.relay_texts import BOS, EOS, NUMBER, TEXT_KINDS, WORDS, TextKind, text


def test_there_are_83_words() -> None:
    assert len(WORDS) == len(set(WORDS)) == 83


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_every_text_is_made_of_known_words_and_answers_from_what_it_says(kind: TextKind) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        said = text(rng, kind, frames=6)
        ids, mask = said.tokens
        assert ids[-1] == NUMBER[EOS]
        assert len(ids) == len(mask)
        assert sum(mask) == len(said.assistant.split()) + 1
        assert set(said.assistant.split()) <= {*said.before.split(), *said.user.split(), ":"}


def test_only_captions_have_words_before_the_chat() -> None:
    rng = np.random.default_rng(0)
    for kind in TEXT_KINDS:
        ids, _ = text(rng, kind, frames=6).tokens
        assert (ids[0] != NUMBER[BOS]) == (kind == "caption")
