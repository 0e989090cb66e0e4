"""A data folder with good and bad samples, for the tests of the index."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WORDS = ("what digit matches the cue ?", "red", "green", "blue", "7")


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (56, 56, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def chat(answer: str, **more: Any) -> bytes:
    return json.dumps({"user": WORDS[0], "assistant": answer, "source": "cauldron"} | more).encode()


def images(first: int, count: int) -> list[tuple[str, bytes]]:
    """Good images with their own contents."""
    return [
        pair
        for i in range(first, first + count)
        for pair in ((f"i{i:03d}.json", chat(f"{i % 20}")), (f"i{i:03d}.jpg", picture(i)))
    ]


BAD: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "b-picture": ([("b-picture.json", chat("1")), ("b-picture.jpg", b"\xff\xd8\xff nothing")], "a picture cannot be decoded"),
    "b-cut": ([("b-cut.json", chat("1")), ("b-cut.jpg", picture(1)[:-400])], "a picture cannot be decoded"),
    "b-json": ([("b-json.json", b"{'user': 1}")], "b-json.json is not JSON"),
    "b-alone": ([("b-alone.jpg", picture(2))], "has no b-alone.json; every sample needs one"),
    "b-deep": ([("b-deep.json", b"[" * 9999)], "b-deep.json is nested deeper than 32"),
    "b-frames": (
        [("b-frames.json", chat("1", frame_count=3)), ("b-frames.000.jpg", picture(3)), ("b-frames.001.jpg", picture(4))],
        "frame_count is 3, but the shard has 2 pictures of it",
    ),
    "b-empty": ([("b-empty.json", chat(""))], "user 'what digit matches the cue ?' and answer '' must be texts"),
    "b-number": ([("b-number.json", chat("1", assistant=5))], "user 'what digit matches the cue ?' and answer 5 must be texts"),
    "b-half": ([("b-half.json", b'{"assistant": "\\ud83d"}')], "user 'Continue.' and answer '\\ud83d' must be texts"),
    "b-mask": ([("b-mask.json", b'{"token_ids": [1, 2], "loss_mask": [1]}')], "token_ids and loss_mask must be lists of"),
    "b-weights": ([("b-weights.json", b'{"token_ids": [1, 2], "loss_mask": [1, 0.5]}')], "loss_mask has to say 0 or 1 of each"),
    "b-ids": ([("b-ids.json", b'{"token_ids": [9999], "loss_mask": [1]}')], "token_ids are not all in 0..82"),
    "b-silent": ([("b-silent.json", b'{"token_ids": [5], "loss_mask": [0]}')], "none of its 1 tokens is the answer's"),
    "b-one-sided": ([("b-one-sided.json", b'{"chosen_assistant": "red"}')], "chosen_assistant without a rejected_assistant"),
    "b-mark": ([("b-mark.json", chat("1 <eos> 2"))], "its text holds '<eos>', which the tokenizer takes for a mark of its own"),
}  # fmt: skip
"""Key → members, and how its reason begins."""
GOOD: list[tuple[str, bytes]] = [
    ("g-caption.json", b'{"caption": "red", "source": "openvid"}'),
    ("g-caption.000.jpg", picture(100)),
    ("g-caption.001.jpg", picture(101)),
    ("g-ids.json", b'{"token_ids": [5, 6, 7], "loss_mask": [0, 1, 1], "source": "smoltalk"}'),
    ("g-pair.json", b'{"user": "what ?", "chosen_assistant": "red", "rejected_assistant": "blue", "source": "rlaif_v"}'),
    ("g-chat.json", b'{"user": "what ?", "assistant": "green", "source": "smoltalk"}'),
]


def mixed_members() -> list[tuple[str, bytes]]:
    """Every bad sample with a good one behind it, then the good forms."""
    bad = [member for i, (members, _) in enumerate(BAD.values()) for piece in (members, images(200 + i, 1)) for member in piece]
    return [*bad, *GOOD]
