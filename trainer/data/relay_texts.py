"""The relay world's language: 83 words, the questions about pictures, and six kinds of short texts.

`caption` texts have words where a picture's tokens would stand, before the chat begins: no user/assistant pair can say that, so
they are written as token ids with a loss mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainer.data.relay import COLORS

PAD, BOS, USER, ASSISTANT, EOS = "<pad>", "<bos>", "<user>", "<assistant>", "<eos>"
SPECIAL = (PAD, BOS, USER, ASSISTANT, EOS)
_PLAIN = (
    "what which digits digit does do the target ring tile tiles show match matches is on color how many are there ? : , . ; "
    "repeat say follow and has after before first last same as cue cues point at list then a moved left right up down not"
)
WORDS = (*SPECIAL, *COLORS, *(str(number) for number in range(20)), *_PLAIN.split())
NUMBER = {word: index for index, word in enumerate(WORDS)}
CHAT_TEMPLATE = (
    "<bos>{% for message in messages %}{% if message['role'] == 'user' %} <user> {{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %} <assistant> {{ message['content'] }} <eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)
"""A system message is left out: a model of 83 words has no use for one, and every token costs."""

RELAY = "what digits do cues point at ?"
MATCH = "what digit matches the cue ?"
_ASKS_COLOR, _ASKS_NUMBER = "what color is the cue ?", "how many tiles ?"

TextKind = Literal["repeat", "copy", "follow", "lookup", "compare", "caption"]
TEXT_KINDS: tuple[TextKind, ...] = ("repeat", "copy", "follow", "lookup", "compare", "caption")


@dataclass(frozen=True)
class Text:
    before: str
    """Words before the chat: only `caption` has any."""
    user: str
    assistant: str

    @property
    def tokens(self) -> tuple[list[int], list[int]]:
        """(ids, loss mask): the mask is 1 on the answer and its end."""
        head = f"{self.before} {BOS} {USER} {self.user} {ASSISTANT}".split()
        tail = f"{self.assistant} {EOS}".split()
        return [NUMBER[word] for word in (*head, *tail)], [0] * len(head) + [1] * len(tail)


def text(rng: np.random.Generator, kind: TextKind, frames: int) -> Text:
    """A random text of one kind; `frames` bounds its lists, so that they resemble a clip's answer."""
    match kind:
        case "repeat":
            listed = " ".join(_digits(rng, int(rng.integers(2, frames + 1))))
            return Text("", f"repeat : {listed}", listed)
        case "copy":
            color, listed = _colors(rng, 1)[0], " ".join(_digits(rng, frames - 1))
            return Text("", f"{color} {listed} what digits does the target show ?", f"{color} : {listed}")
        case "follow":
            return _follow(rng)
        case "lookup":
            colors = _colors(rng, int(rng.integers(2, 5)))
            digits = _digits(rng, len(colors))
            pairs = list(zip(colors, digits, strict=True))
            color, digit = pairs[rng.integers(0, len(pairs))]
            return Text("", f"{_listed(pairs)} . what digit is on the {color} tile ?", digit)
        case "compare":
            digits = _digits(rng, int(rng.integers(3, 7)))
            last = bool(rng.integers(0, 2))
            return Text("", f"list {' '.join(digits)} . what digit is {'last' if last else 'first'} ?", digits[-1 if last else 0])
        case "caption":
            return _caption(rng, frames)


def _follow(rng: np.random.Generator) -> Text:
    colors = _colors(rng, 3)
    pairs = [(colors[rng.integers(0, 3)], _digits(rng, 1)[0]) for _ in range(rng.integers(3, 7))]
    chosen = pairs[rng.integers(0, len(pairs))][0]
    return Text("", f"{_listed(pairs)} . follow {chosen} ?", " ".join(digit for color, digit in pairs if color == chosen))


def _caption(rng: np.random.Generator, frames: int) -> Text:
    color, digits, number = _colors(rng, 1)[0], " ".join(_digits(rng, frames - 1)), str(rng.integers(1, 9))
    which = int(rng.integers(0, 6))
    if which < 2:
        return Text(f"{color} {digits}", "what digits does the target show ?", f"{color} : {digits}")
    if which == 2:
        return Text(f"{color} {digits}", RELAY, digits)
    question, answer = [(_ASKS_COLOR, color), (MATCH, digits.split()[0]), (_ASKS_NUMBER, number)][which - 3]
    times = int(rng.choice([1, 1, 1, frames, 16]))
    return Text(" ".join([answer] * times), question, answer)


def _listed(pairs: list[tuple[str, str]]) -> str:
    return " , ".join(f"{color} {digit}" for color, digit in pairs)


def _digits(rng: np.random.Generator, count: int) -> list[str]:
    return [str(digit) for digit in rng.integers(0, 10, count)]


def _colors(rng: np.random.Generator, count: int) -> list[str]:
    return [COLORS[index] for index in rng.permutation(len(COLORS))[:count]]
