"""A manifest's texts as tokens: tokenised once, kept in three memory-mapped arrays, shared by all jobs."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trainer.data.manifest import Manifest, entries
from trainer.data.once import built_once
from trainer.data.shards import DataError, read_entry
from trainer.data.tokenizer import Tokenizer, open_tokenizer


class Texts:
    """Tokens of every row."""

    def __init__(self, folder: Path) -> None:
        self._ids: npt.NDArray[np.int32] = np.asarray(np.load(folder / "ids.npy", mmap_mode="r"))
        self._answer: npt.NDArray[np.bool_] = np.asarray(np.load(folder / "answer.npy", mmap_mode="r"))
        self._starts: npt.NDArray[np.int64] = np.load(folder / "starts.npy")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def of(self, row: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """(ids, which of them are the answer)"""
        part = slice(self._starts[row], self._starts[row + 1])
        return self._ids[part], self._answer[part]

    def length(self, row: int) -> int:
        return int(self._starts[row + 1] - self._starts[row])

    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self._starts)


def tokenised(manifest: Manifest, shards: Path, tokenizer: Tokenizer, most: int, target: Path) -> Texts:
    """The texts of a manifest, read from its shards on the first call. Longer ones are cut after `most` tokens.

    Raises DataError naming shard and key for a text whose answer would be cut away whole.
    """
    return Texts(built_once(target, lambda temporary: _write(manifest, shards, tokenizer, most, temporary)))


def _write(manifest: Manifest, shards: Path, tokenizer: Tokenizer, most: int, folder: Path) -> None:
    """Rows are read in the order of the shards, many of them in several processes: the files do not depend on how many."""
    order = manifest.places()
    parts = [order[first : first + PART_ROWS] for first in range(0, len(order), PART_ROWS)]
    work = [Work(manifest.table.take(part), shards, tokenizer.name, tokenizer.folder, most) for part in parts]
    workers = min(len(os.sched_getaffinity(0)), len(work))
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            done = list(pool.map(_elsewhere, work))
    else:
        done = [_tokenised(piece, tokenizer) for piece in work]
    lengths = np.zeros(len(manifest), np.int64)
    lengths[order] = np.concatenate([its for its, _, _ in done])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids, answer = np.zeros(starts[-1], np.int32), np.zeros(starts[-1], bool)
    for part, (its, its_ids, its_answer) in zip(parts, done, strict=True):
        ends = np.cumsum(its)
        for row, length, end in zip(part, its, ends, strict=True):
            ids[starts[row] : starts[row + 1]] = its_ids[end - length : end]
            answer[starts[row] : starts[row + 1]] = its_answer[end - length : end]
    folder.mkdir()
    np.save(folder / "starts.npy", starts)
    np.save(folder / "ids.npy", ids)
    np.save(folder / "answer.npy", answer)


PART_ROWS = 20_000
"""Rows that one process tokenises at a time: about a quarter of a minute."""
Tokenised = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.bool_]]
"""(tokens of each row, ids of all, which of them are answers)"""


@dataclass(frozen=True)
class Work:
    """Rows to tokenise, as they travel to another process."""

    rows: pa.Table
    shards: Path
    name: str
    folder: str
    most: int


def _elsewhere(work: Work) -> Tokenised:
    return _tokenised(work, open_tokenizer(work.name, work.folder))


def _tokenised(work: Work, tokenizer: Tokenizer) -> Tokenised:
    ids: list[npt.NDArray[np.int32]] = []
    answers: list[npt.NDArray[np.bool_]] = []
    for entry in entries(work.rows):
        path = work.shards / entry.shard
        sample = read_entry(work.shards, entry, with_pictures=False)
        try:
            tokens, answer = tokenizer.sample(sample, entry.source, entry.kind)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        if not any(answer[: work.most]):
            raise DataError(
                f"{path}: {entry.key}: no token of its answer is among the first {work.most}; raise data.max_text_tokens"
            )
        ids.append(np.array(tokens[: work.most], np.int32))
        answers.append(np.array(answer[: work.most], bool))
    return np.array([len(its) for its in ids], np.int64), np.concatenate(ids), np.concatenate(answers)


def loss_without_looking(
    train: Manifest, train_texts: Texts, val: Manifest, val_texts: Texts, answer_only: bool, most_rows: int = 20_000
) -> dict[str, float]:
    """Per visual kind: the validation loss of one who knows the question and how answers are made, and never looks.

    Predicts each token from its question and its position alone, by their counts in the training texts; a position seen n times
    has weight n against 1 for the kind's token frequencies. Same mean as `val_loss`: of the means per sample.
    Text has no such number: what it leaves open is in the text itself.
    """
    return {
        kind: _without_looking(
            _turns(train_texts, _of_kind(train, kind)[:most_rows]),
            _turns(val_texts, _of_kind(val, kind)[:most_rows]),
            answer_only,
        )
        for kind in ("video", "image")
        if kind in train.kinds and kind in val.kinds
    }


def right_without_looking(
    train: Manifest, train_texts: Texts, val: Manifest, val_texts: Texts, rows: Sequence[int], most_rows: int = 20_000
) -> float | None:
    """Share of the validation rows, all of one kind, that the most common answer in training to each question gets right.

    A question that training never asks gets the most common answer of all. None without rows, or without any like them in
    training.
    """
    kind = val.kinds[rows[0]] if rows else ""
    answers: dict[object, Counter[tuple[int, ...]]] = {}
    for question, answer in _turns(train_texts, _of_kind(train, kind)[:most_rows]):
        for context in (question, None):
            answers.setdefault(context, Counter())[answer] += 1
    if not answers or not rows:
        return None
    told = {context: counted.most_common(1)[0][0] for context, counted in answers.items()}
    return sum(told.get(question, told[None]) == answer for question, answer in _turns(val_texts, rows)) / len(rows)


Turn = tuple[tuple[int, ...], tuple[int, ...]]
"""(question, answer) as tokens."""


def _of_kind(manifest: Manifest, kind: str) -> list[int]:
    return [row for row, its in enumerate(manifest.kinds) if its == kind]


def _turns(texts: Texts, rows: Sequence[int]) -> list[Turn]:
    turns = []
    for row in rows:
        ids, answer = texts.of(row)
        cut = int(np.argmax(answer))
        turns.append((tuple(ids[:cut].tolist()), tuple(ids[cut:].tolist())))
    return turns


def _without_looking(train: Sequence[Turn], val: Sequence[Turn], answer_only: bool) -> float:
    overall: Counter[int] = Counter()
    at: dict[tuple[object, int], Counter[int]] = {}
    for question, answer in train:
        for context, position, token in _predictions(question, answer, answer_only):
            overall[token] += 1
            at.setdefault((context, position), Counter())[token] += 1
    total, words = sum(overall.values()), len(overall) + 1
    losses = []
    for question, answer in val:
        told = []
        for context, position, token in _predictions(question, answer, answer_only):
            seen = at.get((context, position), Counter())
            frequency = (overall[token] + 1) / (total + words)
            told.append(-math.log((seen[token] + frequency) / (seen.total() + 1)))
        losses.append(sum(told) / len(told))
    return sum(losses) / len(losses)


def _predictions(question: tuple[int, ...], answer: tuple[int, ...], answer_only: bool) -> list[tuple[object, int, int]]:
    """(what is known, position, token) of every supervised token; a question's own tokens are known from the one before."""
    asked = [(question[max(0, i - 1) : i], i, token) for i, token in enumerate(question)]
    told: list[tuple[object, int, int]] = [(question, i, token) for i, token in enumerate(answer)]
    return told if answer_only else [*asked, *told]
