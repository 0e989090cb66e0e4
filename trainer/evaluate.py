"""A validation set through a model: losses per sample, what the looks say, answers to image questions.

n samples of the set, B of a batch, P supervised tokens, M frames shown, N patches, C columns, L language-model width.
Ranks share the batches; sums over ranks give every rank the same numbers.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from trainer import attention
from trainer.config import TrainConfig
from trainer.data.batches import Batch
from trainer.data.open import Data
from trainer.data.texts import right_without_looking
from trainer.losses import sample_losses
from trainer.metrics import KINDS
from trainer.model.generate import generate
from trainer.model.packing import Packed, pack
from trainer.model.vision_language import Prediction, VisionLanguageModel
from trainer.ranks import Ranks

MOST_ANSWER_WORDS = 5
"""Image questions with a longer gold answer are descriptions, which exact match says nothing about."""


@dataclass
class _Sums:
    """What the batches add up to; `values` is one flat list so that ranks meet once."""

    losses: Tensor
    """[n] mean loss per supervised token of each sample, float64; 0 where another rank has it."""
    tokens: Tensor
    """[n] supervised tokens of each sample."""
    coarse: Tensor
    """[n] the same loss from the coarse tokens; 0 where there is none."""
    entropy: float = 0.0
    looks: int = 0
    hits: int = 0
    aimed: int = 0
    """Looks that have a target."""
    right: int = 0
    asked: int = 0
    maps: dict[str, Tensor] = field(default_factory=dict)

    def over(self, ranks: Ranks) -> _Sums:
        counted = [self.entropy, self.looks, self.hits, self.aimed, self.right, self.asked]
        n = len(self.losses)
        summed = ranks.sum([*self.losses.tolist(), *self.tokens.tolist(), *self.coarse.tolist(), *counted])
        vectors = [torch.tensor(summed[i * n : (i + 1) * n], dtype=torch.float64) for i in range(3)]
        entropy, *counts = summed[3 * n :]
        looks, hits, aimed, right, asked = (int(c) for c in counts)
        return _Sums(vectors[0], vectors[1], vectors[2], entropy, looks, hits, aimed, right, asked, self.maps)


class Evaluator:
    """The validation set of a run, ready to be gone through again and again."""

    def __init__(self, data: Data, config: TrainConfig, ranks: Ranks, folder: Path) -> None:
        self._data, self._config, self._ranks, self._folder = data, config, ranks, folder
        self._kinds: list[str] = data.val.samples.manifest.kinds
        self._clips = data.val.rows("video")[: config.eval.attention_clips]
        self._cells = {row: cells for row in data.val.rows("video") if (cells := data.target_cells(row)) is not None}
        self._questions = _short_answers(data)

    def of_kind(self, kind: str) -> int:
        """Samples of a kind."""
        return self._kinds.count(kind)

    def guessed(self) -> dict[str, float]:
        """`image_vqa` of one who knows the questions, and what training answers to each most often, and never looks."""
        train, val = self._data.train.samples, self._data.val.samples
        right = right_without_looking(train.manifest, train.texts, val.manifest, val.texts, list(self._questions))
        return {} if right is None else {"image_vqa": right}

    def batches(self) -> list[Sequence[int]]:
        """This rank's part of the set. Clips whose maps are kept fall to rank 0, which writes them."""
        every = chunks(range(len(self._kinds)), self._config.eval.batch_samples)
        mapped = [rows for rows in every if not set(rows).isdisjoint(self._clips)]
        others = [rows for rows in every if rows not in mapped]
        dealt = others[self._ranks.world - 1 - self._ranks.rank :: self._ranks.world]
        return [*mapped, *dealt] if self._ranks.first else dealt

    @torch.no_grad()
    def evaluate(self, wrapped: nn.Module, model: VisionLanguageModel, step: int) -> dict[str, float]:
        """All metrics of the set; writes eval/STEP.parquet and eval/STEP_attention.safetensors. All ranks call it together.

        wrapped: what to call; model: the same one without its wrapper.
        """
        wrapped.eval()
        n, gpu = len(self._kinds), self._ranks.device.type == "cuda"
        losses, tokens, coarse = torch.zeros(3, n, dtype=torch.float64)
        sums = _Sums(losses, tokens, coarse)
        for batch in self._data.val.samples.loaded(self.batches(), self._config.data.workers, pin=gpu):
            packed = pack(batch, model.connector.tokens_per_frame, self._ranks.device)
            with autocast(self._config, self._ranks):
                prediction = wrapped(packed, coarse="measured", attention=True)
            _add_losses(sums, batch, packed, prediction)
            self._add_looks(sums, batch, packed, prediction)
        questions = chunks(list(self._questions), self._config.eval.batch_samples)
        for rows in questions[self._ranks.rank :: self._ranks.world]:
            self._add_answers(sums, model, rows)
        wrapped.train()
        total = sums.over(self._ranks)
        self._write(total, step)
        return self._metrics(total, model)

    def _add_looks(self, sums: _Sums, batch: Batch, packed: Packed, prediction: Prediction) -> None:
        final, coarse = prediction.views.final.looks, prediction.views.coarse
        if final is None or len(final) == 0:
            return
        sums.entropy += float(attention.entropy(final).sum())
        sums.looks += len(final)
        targets = self._targets(batch, packed)  # [M]
        aimed = targets >= 0
        sums.hits += int(attention.hits(final, targets)[aimed].sum())
        sums.aimed += int(aimed.sum())
        name = "coarse" if coarse is None else "fine"
        for passes, looks in ((name, final), ("coarse", None if coarse is None else coarse.looks)):
            for place, row in enumerate(batch.rows):
                if row in self._clips and looks is not None:
                    mine = packed.sample == place
                    sums.maps[f"{row}/{passes}"] = looks[mine].permute(1, 2, 0, 3)

    def _targets(self, batch: Batch, packed: Packed) -> Tensor:
        """[M] patch each look must find; -1 where there is none, and in the first frame: nothing was seen before it."""
        cells = [self._cells.get(row) for row in batch.rows]
        places = zip(packed.sample.tolist(), packed.time.tolist(), strict=True)
        wanted = [
            its[time] if time > 0 and (its := cells[sample]) is not None and time < len(its) else -1 for sample, time in places
        ]
        return torch.tensor(wanted, device=packed.frame.device)

    def _add_answers(self, sums: _Sums, model: VisionLanguageModel, rows: Sequence[int]) -> None:
        tokenizer, prompts = self._data.tokenizer, [self._data.val.prompt(row) for row in rows]
        packed = pack(prompted(self._data.val.load(rows), prompts), model.connector.tokens_per_frame, self._ranks.device)
        with autocast(self._config, self._ranks):
            answers = generate(model, packed, most=self._longest(), stops=[tokenizer.eos_id], pad=tokenizer.pad_id)
        told = [tokenizer.decode(ids) for ids in answers.tolist()]
        sums.right += sum(normalised(a) == normalised(self._questions[row]) for a, row in zip(told, rows, strict=True))
        sums.asked += len(rows)

    def _longest(self) -> int:
        """Tokens to generate: the longest gold answer and its end."""
        return max(len(self._data.tokenizer.encode(answer)) for answer in self._questions.values()) + 1

    def _metrics(self, sums: _Sums, model: VisionLanguageModel) -> dict[str, float]:
        kinds = [kind if tokens > 0 else "" for kind, tokens in zip(self._kinds, sums.tokens.tolist(), strict=True)]
        metrics = {"val_loss": _mean(sums.losses, [bool(kind) for kind in kinds])}
        for kind in KINDS:
            if kind in kinds:
                metrics[f"val_loss/{kind}"] = _mean(sums.losses, [k == kind for k in kinds])
        visual = [kind in ("video", "image") for kind in kinds]
        if any(visual) and model.two_passes:
            metrics["loss_fine"] = _mean(sums.losses, visual)
            metrics["loss_coarse"] = _mean(sums.coarse, visual)
            metrics["loss_ratio"] = metrics["loss_fine"] / metrics["loss_coarse"]
        if sums.looks:
            metrics["attention_entropy"] = sums.entropy / sums.looks
        if sums.aimed:
            metrics["target_hit"] = sums.hits / sums.aimed
        if sums.asked:
            metrics["image_vqa"] = sums.right / sums.asked
        return metrics

    def _write(self, sums: _Sums, step: int) -> None:
        """By rank 0: losses of all samples with what they are about, and the attention maps of the first clips."""
        if not self._ranks.first:
            return
        folder = self._folder / "eval"
        folder.mkdir(exist_ok=True)
        table = pa.table(
            {
                "row": pa.array(range(len(self._kinds)), pa.int64()),
                "kind": pa.array(self._kinds).dictionary_encode(),
                "clip": self._about("video"),
                "image": self._about("image"),
                "loss": pa.array(
                    [x if t else None for x, t in zip(sums.losses.tolist(), sums.tokens.tolist(), strict=True)], pa.float64()
                ),
                "tokens": pa.array([int(t) for t in sums.tokens.tolist()], pa.int64()),
            }
        )
        partial = folder / f".{step:08d}.parquet.partial"
        pq.write_table(table, partial)
        partial.replace(folder / f"{step:08d}.parquet")
        if sums.maps:
            attention.write_maps(folder / f"{step:08d}_attention.safetensors", sums.maps)

    def _about(self, kind: str) -> pa.Array:
        scenes = zip(self._data.scenes, self._kinds, strict=True)
        return pa.array([scene if of_kind == kind else None for scene, of_kind in scenes], pa.string())


def _add_losses(sums: _Sums, batch: Batch, packed: Packed, prediction: Prediction) -> None:
    rows = torch.tensor(batch.rows)
    losses, tokens = sample_losses(prediction.losses, packed.target_row, packed.samples)
    sums.losses[rows] = torch.where(tokens > 0, losses, 0.0).cpu()
    sums.tokens[rows] = tokens.double().cpu()
    if prediction.coarse_losses is not None:
        coarse, _ = sample_losses(prediction.coarse_losses, packed.target_row, packed.samples)
        sums.coarse[rows] = torch.where(tokens > 0, coarse, 0.0).cpu()


def _mean(values: Tensor, chosen: Sequence[bool]) -> float:
    return float(values[torch.tensor(chosen)].mean())


def _short_answers(data: Data) -> dict[int, str]:
    """Image rows that ask a question, and their gold answers."""
    rows = data.val.rows("image")
    return {row: gold for row, gold in zip(rows, data.answers(rows), strict=True) if 0 < len(gold.split()) <= MOST_ANSWER_WORDS}


def chunks(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def autocast(config: TrainConfig, ranks: Ranks) -> torch.autocast:
    """bfloat16 on a GPU where the config asks for it; a CPU always computes in float32."""
    wanted = config.train.precision == "bfloat16" and ranks.device.type == "cuda"
    return torch.autocast(ranks.device.type, dtype=torch.bfloat16, enabled=wanted)


def normalised(answer: str) -> str:
    """Lower case, without articles and punctuation, single spaces: as exact match is usually scored."""
    words = answer.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", words).split())


def uninformed(untrained: dict[str, float], without_looking: dict[str, float], count: dict[str, int]) -> dict[str, float]:
    """What an answer without information scores, per kind and over the set: the better of the untrained model and of word counts.

    untrained: metrics before the first step; without_looking: by kind; count: samples by kind.
    """
    best = {}
    for kind in count:
        told = [x for x in (untrained.get(f"val_loss/{kind}"), without_looking.get(kind)) if x is not None and math.isfinite(x)]
        if told and count[kind]:
            best[kind] = min(told)
    if not best:
        return {}
    samples = sum(count[kind] for kind in best)
    whole = sum(loss * count[kind] for kind, loss in best.items()) / samples
    return {"val_loss": whole} | {f"val_loss/{kind}": loss for kind, loss in best.items()}


def prompted(batch: Batch, prompts: Sequence[Sequence[int]]) -> Batch:
    """The same frames with other texts, none of which is supervised."""
    length = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[*prompt, *[0] * (length - len(prompt))] for prompt in prompts])
    is_text = torch.tensor([[place < len(prompt) for place in range(length)] for prompt in prompts])
    return replace(batch, ids=ids, is_text=is_text, supervised=torch.zeros_like(is_text))
