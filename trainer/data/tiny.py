"""The tiny study's backbones: a DINOv2 and a Llama of 190 k and 150 k parameters, pretrained here once and cached.

They make the tiny study a positive control: the vision model is taught to answer prompts that walk through its layers exactly as
a query will, the language model to read words that stand where visual tokens will stand. So the mechanism *can* work on them;
that it works on real models is no result of theirs.

C images, N = 16 patches, D width, S tokens, V words.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.utils import logging

from trainer.data import relay
from trainer.data.frames import RELAY
from trainer.data.once import built_once
from trainer.data.relay import CELLS, COLORS, DIGITS
from trainer.data.relay_texts import BOS, EOS, NUMBER, PAD, TEXT_KINDS, WORDS, Text, text
from trainer.data.tokenizer import write_tiny_tokenizer
from trainer.model.encoder import Kept, attention_parts, look_deep

Backbone = Literal["dino", "llama", "dino-untrained", "llama-untrained"]
"""The untrained ones are the same models with random weights: made in a moment, for tests of mechanics."""
Say = Callable[[str], None]
Model = TypeVar("Model", Dinov2Model, LlamaForCausalLM)
VERSION = 1
TRIES = 3
MOST_TILES = 8


@dataclass(frozen=True)
class Pretraining:
    """One backbone's recipe; `gate` is what its own check must reach, else it is trained again with the next seed."""

    steps: int
    lr: float
    batch: int = 64
    warmup_steps: int = 50
    gate: float = 0.9
    seed: int = 0

    def rate(self, step: int) -> float:
        """Warm-up, then cosine down to 2 %."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.lr * min(1.0, (step + 1) / self.warmup_steps) * (0.02 + 0.98 * cosine)


DINO = Pretraining(steps=700, lr=2e-3)
"""Gate: share of the tiles on fresh images whose digit the prompt for their colour names."""
LLAMA = Pretraining(steps=800, lr=4e-3, gate=0.88)
"""Gate: share of the answers' tokens predicted on fresh texts."""


def tiny_backbone(kind: Backbone, cache: Path, say: Say = print) -> Path:
    """Folder of a backbone in `from_pretrained` layout, built on the first call (about 40 seconds on one core), else at once.

    Raises RuntimeError when no seed passes its gate, ValueError for an unknown kind.
    """
    if kind not in get_args(Backbone):
        raise ValueError(
            f'there is no tiny model "tiny/{kind}"; there are {", ".join(f"tiny/{name}" for name in get_args(Backbone))}'
        )
    recipe, build = (DINO, _build_dino) if kind.startswith("dino") else (LLAMA, _build_llama)
    trained = not kind.endswith("-untrained")
    return built_once(cache / "tiny" / f"{kind}-{_hash(kind, recipe)}", lambda folder: build(folder, trained, say))


def dino_config() -> Dinov2Config:
    return Dinov2Config(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        mlp_ratio=4,
        image_size=relay.IMAGE_SIZE,
        patch_size=relay.CELL,
        layerscale_value=1.0,
        initializer_range=0.1,  # 0.02 leaves attention uniform at this width
    )


def llama_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=168,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=NUMBER[PAD],
        bos_token_id=NUMBER[BOS],
        eos_token_id=NUMBER[EOS],
    )


def _hash(kind: Backbone, recipe: Pretraining) -> str:
    world = [VERSION, asdict(recipe), WORDS, relay.MEAN, relay.STD, relay.TINT, relay.NOISE]
    configs = dino_config().to_diff_dict() if kind.startswith("dino") else llama_config().to_diff_dict()
    configs.pop("transformers_version", None)
    return hashlib.sha256(json.dumps([world, configs], sort_keys=True, default=str).encode()).hexdigest()[:12]


def _build_dino(folder: Path, trained: bool, say: Say) -> None:
    dino, facts = _passing("dino", DINO, _pretrained_dino, say) if trained else (_fresh_dino(DINO.seed), {})
    _save(dino, folder, DINO, facts)
    side = {"height": RELAY.size, "width": RELAY.size}
    said = {"size": side, "image_mean": RELAY.mean, "image_std": RELAY.std}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def _build_llama(folder: Path, trained: bool, say: Say) -> None:
    llama, facts = _passing("llama", LLAMA, _pretrained_llama, say) if trained else (_fresh_llama(LLAMA.seed), {})
    write_tiny_tokenizer(folder)
    _save(llama, folder, LLAMA, facts)


def _save(model: PreTrainedModel, folder: Path, recipe: Pretraining, facts: Mapping[str, float]) -> None:
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    (folder / "pretraining.json").write_text(json.dumps({"version": VERSION, **asdict(recipe), **facts}, indent=1))


def _fresh_dino(seed: int) -> Dinov2Model:
    torch.manual_seed(seed)
    return Dinov2Model(dino_config())


def _fresh_llama(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(llama_config())


def _passing(
    kind: str, recipe: Pretraining, train: Callable[[Pretraining, int, Say], tuple[Model, float]], say: Say
) -> tuple[Model, dict[str, float]]:
    """The first seed's model that passes the gate."""
    scores = []
    for seed in range(recipe.seed, recipe.seed + TRIES):
        started = time.perf_counter()
        model, score = train(recipe, seed, lambda line: say(f"tiny/{kind}: {line}"))
        scores.append(score)
        verdict = "passed" if score >= recipe.gate else "not passed, next seed"
        say(f"tiny/{kind}: seed {seed}, check {score:.3f} (gate {recipe.gate}): {verdict}, {time.perf_counter() - started:.0f} s")
        if score >= recipe.gate:
            return model, {"passed_seed": seed, "check": score}
    raise RuntimeError(
        f"tiny/{kind}: none of {TRIES} seeds reached {recipe.gate} ({', '.join(f'{score:.3f}' for score in scores)})"
    )


# ---------------------------------------------------------------- vision


@dataclass(frozen=True)
class _Seen:
    """Images [C, 3, 56, 56] and what is to be known of them; class 0 is always "none"."""

    frames: Tensor
    color: Tensor  # [C, N] 0..8
    digit: Tensor  # [C, N] 0..10
    tint: Tensor  # [C] 0..8
    tiles: Tensor  # [C]


class _Tasks(nn.Module):
    """What DINO is taught: to label patches, to sum up the image, and to answer prompts by looking where they say."""

    def __init__(self, width: int) -> None:
        super().__init__()
        colors, digits = len(COLORS) + 1, DIGITS + 1
        self.patch = nn.ModuleList([nn.Linear(width, size) for size in (colors, digits, colors, CELLS)])
        self.whole = nn.ModuleList([nn.Linear(width, size) for size in (colors, MOST_TILES + 2, len(COLORS), digits)])
        self.prompt = nn.Embedding(len(COLORS) + 1 + CELLS, width)  # a colour, the cue, a place
        nn.init.normal_(self.prompt.weight, std=0.6)
        self.says_digit, self.says_tint, self.says_color = (nn.Linear(width, size) for size in (digits, colors, colors))

    def loss(self, dino: Dinov2Model, seen: _Seen, places: Tensor) -> Tensor:
        """places: [C, P] cells to ask about."""
        features, kept = walked(dino, seen.frames)
        named = self._labels(features[:, 1:], seen) + self._summary(features[:, 0], seen)
        return named + self._prompts(dino, kept, seen, places)

    def answers(self, dino: Dinov2Model, kept: Kept) -> Tensor:
        """The digit each colour's tile shows: logits [C, 8, 11]."""
        prompts = self.prompt.weight[: len(COLORS)].expand(len(kept.keys[0]), -1, -1)
        logits: Tensor = self.says_digit(look_deep(dino, prompts, kept)[0])
        return logits

    def _labels(self, patches: Tensor, seen: _Seen) -> Tensor:
        cells = torch.arange(CELLS).expand(len(patches), -1)
        targets = (seen.color, seen.digit, seen.tint[:, None].expand(-1, CELLS), cells)
        return sum_of(cross_entropy(head(patches), target) for head, target in zip(self.patch, targets, strict=True))

    def _summary(self, cls: Tensor, seen: _Seen) -> Tensor:
        tint, number, colors, digits = (head(cls) for head in self.whole)
        present = F.one_hot(seen.color, len(COLORS) + 1).sum(1)[:, 1:].float()  # [C, 8]
        histogram = F.one_hot(seen.digit, DIGITS + 1).sum(1).float()  # [C, 11]
        histogram[:, 0] = 0
        counted = F.mse_loss(colors, present) + F.mse_loss(digits, histogram)
        return cross_entropy(tint, seen.tint) + cross_entropy(number, seen.tiles) + 3 * counted

    def _prompts(self, dino: Dinov2Model, kept: Kept, seen: _Seen, places: Tensor) -> Tensor:
        named = torch.arange(len(COLORS) + 1).expand(len(places), -1)
        told, _ = look_deep(dino, self.prompt(torch.cat([named, places + len(COLORS) + 1], 1)), kept)
        by_color, by_cue, by_place = told[:, : len(COLORS)], told[:, len(COLORS)], told[:, len(COLORS) + 1 :]
        return (
            2 * cross_entropy(self.says_digit(by_color), digit_of_color(seen))
            + cross_entropy(self.says_digit(by_place), seen.digit.gather(1, places))
            + cross_entropy(self.says_tint(by_cue), seen.tint)
            + cross_entropy(self.says_color(by_place), seen.color.gather(1, places))
        )


def walked(dino: Dinov2Model, frames: Tensor) -> tuple[Tensor, Kept]:
    """Final features [C, 1+N, D] and what queries look at, from one walk over the images."""
    out = dino(frames, output_hidden_states=True)
    heads, keys, values = dino.config.num_attention_heads, [], []
    for layer, hidden in zip(dino.encoder.layer, out.hidden_states[:-1], strict=True):
        parts, normed = attention_parts(layer), layer.norm1(hidden)
        key, value = (project(normed).unflatten(-1, (heads, -1)).transpose(1, 2) for project in (parts.key, parts.value))
        keys.append(key)
        values.append(value)
    return out.last_hidden_state, Kept(tuple(keys), tuple(values))


def digit_of_color(seen: _Seen) -> Tensor:
    """[C, 8]: 0 where no tile has the colour, else 1 + its digit."""
    is_color = seen.color[:, None] == torch.arange(1, len(COLORS) + 1)[None, :, None]
    return (is_color * seen.digit[:, None]).sum(-1)


def _seen(rng: np.random.Generator, count: int) -> _Seen:
    """Images with 1-8 tiles; four in ten have no cue."""
    scenes = relay.images(rng, count, (1, MOST_TILES))
    scenes.tint[rng.random(count) < 0.4] = -1
    frames = RELAY.normalised(torch.from_numpy(relay.render(scenes)[:, 0].transpose(0, 3, 1, 2)))
    color, digit, tint = (torch.from_numpy(scene[:, 0] + 1) for scene in (scenes.color, scenes.digit, scenes.tint))
    return _Seen(frames, color, digit, tint, torch.from_numpy(scenes.tiles))


def _pretrained_dino(recipe: Pretraining, seed: int, say: Say) -> tuple[Dinov2Model, float]:
    dino = _fresh_dino(seed)
    rng = np.random.default_rng([10_000, seed])
    tasks = _Tasks(dino.config.hidden_size)
    parameters = [*dino.parameters(), *tasks.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.01)
    for step in range(recipe.steps):
        places = torch.from_numpy(rng.integers(0, CELLS, (recipe.batch, 3)))
        loss = tasks.loss(dino, _seen(rng, recipe.batch), places)
        _update(optimizer, parameters, loss, recipe.rate(step))
        if step % 100 == 0:
            say(f"step {step} of {recipe.steps}, loss {loss.item():.2f}")
    with torch.no_grad():
        fresh = _seen(rng, 500)
        wanted = digit_of_color(fresh)
        right = tasks.answers(dino, walked(dino, fresh.frames)[1]).argmax(-1) == wanted
    return dino, float(right[wanted > 0].float().mean())


# ---------------------------------------------------------------- language

_KINDS = (*TEXT_KINDS, "caption", "caption")
"""Captions three times as often as each other kind."""


def _texts(rng: np.random.Generator, count: int) -> list[Text]:
    return [text(rng, _KINDS[rng.integers(0, len(_KINDS))], frames=6) for _ in range(count)]


def _padded(texts: list[Text]) -> tuple[Tensor, Tensor]:
    """(ids [C, S], answers [C, S]): what each position must predict of the answers, -100 elsewhere."""
    tokens = [text.tokens for text in texts]
    length = max(len(ids) for ids, _ in tokens)
    ids, targets = torch.full((len(texts), length), NUMBER[PAD]), torch.full((len(texts), length), -100)
    for i, (its, mask) in enumerate(tokens):
        ids[i, : len(its)] = torch.tensor(its)
        wanted = torch.tensor(its[1:])
        targets[i, : len(wanted)] = wanted.where(torch.tensor(mask[1:]) > 0, -100)
    return ids, targets


def _corrupted(words: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Embeddings [C, S, L] with all before <bos> scaled by 0..1.2 and noised, as soft tokens will not be exact."""
    before = (torch.cumsum(ids == NUMBER[BOS], 1) == 0)[..., None]
    scale, spread = (torch.rand(*ids.shape, 1, generator=generator) for _ in range(2))
    noise = torch.randn(words.shape, generator=generator) * words.detach().std()
    return torch.where(before, words * 1.2 * scale + noise * spread, words)


def _pretrained_llama(recipe: Pretraining, seed: int, say: Say) -> tuple[LlamaForCausalLM, float]:
    llama = _fresh_llama(seed)
    rng, generator = np.random.default_rng([20_000, seed]), torch.Generator().manual_seed(seed)
    parameters = list(llama.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.01, betas=(0.9, 0.98))
    for step in range(recipe.steps):
        ids, answers = _padded(_texts(rng, recipe.batch))
        words = _corrupted(llama.model.embed_tokens(ids), ids, generator)
        logits = llama.lm_head(llama.model(inputs_embeds=words, use_cache=False).last_hidden_state)
        following = F.pad(ids[:, 1:], (0, 1), value=NUMBER[PAD])
        everything = following.masked_fill(following == NUMBER[PAD], -100)
        loss = cross_entropy(logits, answers) + 0.3 * cross_entropy(logits, everything)
        _update(optimizer, parameters, loss, recipe.rate(step))
        if step % 100 == 0:
            say(f"step {step} of {recipe.steps}, loss {loss.item():.2f}")
    with torch.no_grad():
        ids, answers = _padded(_texts(rng, 500))
        right = llama(ids, use_cache=False).logits.argmax(-1) == answers
    return llama, float(right[answers >= 0].float().mean())


# ---------------------------------------------------------------- both


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """[..., classes] against [...]; -100 does not count."""
    return F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=-100)


def sum_of(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()


def _update(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], loss: Tensor, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
