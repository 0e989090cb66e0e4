"""One shard examined: every sample read, decoded and tokenised; what is good, and what is not with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from trainer.data.manifest import SCHEMA
from trainer.data.pictures import rgb
from trainer.data.shards import DataError, Group, Sample, entry_of, groups, load, source_of
from trainer.data.tokenizer import Tokenizer, is_text

EXAMINED = pa.schema(
    [
        *SCHEMA,
        ("form", pa.string()),
        ("tokens", pa.int32()),
        ("answer_at", pa.int32()),
        ("reason", pa.string()),
    ]
)
"""A manifest's columns, and
form        "chat", "caption", "tokens" or "preference"
tokens      of the whole text, before any cut
answer_at   tokens before the first one of the answer
reason      why the sample is left out; "" for a good one. A bad sample has what could be told of it; key "": the rest of a shard.
"""
Row = dict[str, Any]
MOST_REASON = 300
"""Characters kept of a reason."""


class Stopped(Exception):  # noqa: N818 - no error: somebody asked for it
    """Asked to stop in the middle of a shard."""


def examine(path: Path, tokenizer: Tokenizer, stop: Callable[[], bool] = lambda: False) -> pa.Table:
    """[samples] EXAMINED, in the shard's order. Raises Stopped when `stop` says so, and nothing for what is in the shard."""
    scattered = Scattered()
    rows = list(_rows(path, tokenizer, stop, scattered))
    return pa.Table.from_pylist([_if_whole(path, row, scattered) for row in rows], schema=EXAMINED)


class Scattered:
    """Keys whose members stand apart, as when all texts come first and all pictures behind: a part could look like a sample."""

    def __init__(self) -> None:
        self._met: set[str] = set()
        self._half: set[str] = set()
        self._again: set[str] = set()

    def note(self, group: Group) -> None:
        (self._again if group.key in self._met else self._met).add(group.key)
        if not group.said:
            self._half.add(group.key)

    def __contains__(self, key: str) -> bool:
        return key in self._again and key in self._half


def _rows(path: Path, tokenizer: Tokenizer, stop: Callable[[], bool], scattered: Scattered) -> Iterator[Row]:
    seen: set[str] = set()
    first_frame = 0
    with path.open("rb") as file:
        try:
            for group in groups(path, file):
                if stop():
                    raise Stopped(path.name)
                scattered.note(group)
                yield _row(path, file, group, first_frame, seen, tokenizer)
                first_frame += group.pictures
        except DataError as error:
            yield _bad(path, "", 0, 0, str(error))


def _row(path: Path, file: BinaryIO, group: Group, first_frame: int, seen: set[str], tokenizer: Tokenizer) -> Row:
    try:
        sample = load(path, file, group)
        entry = entry_of(path, group, sample, first_frame, seen)
        for picture in sample.pictures:
            rgb(picture, entry.key)
        ids, answer = tokenizer.sample(sample, entry.source, entry.kind)
        if not any(answer):
            raise DataError(f"{entry.key}: none of its {len(ids)} tokens is the answer's")
        _whole(sample, tokenizer)
    except DataError as error:
        return _bad(path, group.key, group.offset, group.length, str(error))
    return asdict(entry) | {"form": sample.form, "tokens": len(ids), "answer_at": answer.index(True), "reason": ""}


def _if_whole(path: Path, row: Row, scattered: Scattered) -> Row:
    """The row, or why it is left out after all."""
    if row["reason"] or row["key"] not in scattered:
        return row
    reason = f"the members of {row['key']!r} do not stand together; write those of a sample one after another"
    return _bad(path, row["key"], row["offset"], row["length"], reason)


def _whole(sample: Sample, tokenizer: Tokenizer) -> None:
    """What training on this sample would not notice and would do wrong."""
    if sample.form == "preference":
        rejected = sample.meta.get("rejected_assistant")
        if not is_text(rejected) or not rejected:
            raise DataError(f"{sample.key}: chosen_assistant without a rejected_assistant that is a text")
    if sample.form != "tokens":
        said = [sample.meta.get(name) for name in ("user", "assistant", "caption", "chosen_assistant", "rejected_assistant")]
        for mark in tokenizer.marks:
            if any(isinstance(text, str) and mark in text for text in said):
                raise DataError(f"{sample.key}: its text holds {mark!r}, which the tokenizer takes for a mark of its own")


def _bad(path: Path, key: str, offset: int, length: int, reason: str) -> Row:
    for prefix in (f"{path}: ", f"{key}: "):
        reason = reason.removeprefix(prefix)
    told = {"source": source_of(path), "shard": path.name, "offset": offset, "length": length, "key": _readable(key)}
    return (
        told
        | {"kind": "", "frames": 0, "content": "", "first_frame": 0, "form": "", "tokens": 0, "answer_at": 0}
        | {"reason": _readable(reason)[:MOST_REASON] or "unknown"}
    )


def _readable(text: str) -> str:
    """Fit for a column of text."""
    return text[:MOST_REASON].encode("utf-8", "backslashreplace").decode()
