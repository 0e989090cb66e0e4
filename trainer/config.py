"""Every setting of a training run, typed: what runs.toml may say, and what it means.

Standard library only: `ablate` reads this file to check a study without torch.

A field's comment below it gives unit, range and what it interacts with. `check` holds the range; `stateful=False` marks settings
that cannot change a result (workers, logging): they are left out of a job's key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """A mistake in a job's config.json or in what it names: place, what is wrong, what is allowed, what to do."""


def setting(
    default: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    stateful: bool = True,
    reference: bool = False,
) -> Any:
    """A field with its range: `least` <= value, `above` < value, value <= `most`; numbers are always finite.

    reference: the default, or "as RUN" for a run of the study, and nothing else.
    """
    meta = {"least": least, "above": above, "most": most, "stateful": stateful, "reference": reference}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=meta)
    return field(default=default, metadata=meta)


LOSSES: Mapping[str, str] = {
    "text_ce_all": "trainer.losses:TEXT_CE_ALL",  # every text token
    "text_ce_answer_only": "trainer.losses:TEXT_CE_ANSWER_ONLY",  # tokens of the assistant's turn only
}
"""What `train.loss` may name, and where it is written."""


@dataclass(frozen=True)
class ModelConfig:
    vision: str = setting("facebook/dinov2-small")
    """A DINOv2 model: hub name, local folder in `from_pretrained` layout, or "tiny/dino" (built and pretrained here, cached)."""
    language: str = setting("HuggingFaceTB/SmolLM2-135M-Instruct")
    """A Llama-architecture model: hub name, local folder, or "tiny/llama"."""
    encoder: Literal["foveated", "multi_token"] = setting("foveated")
    """foveated: a query looks at each frame, one token comes out. multi_token (B1): pooled patch grid, no query, one pass."""
    tokens_per_frame: int = setting(1, least=1, most=256)
    """Visual tokens per frame. foveated: 1. multi_token: a square number (16 = 4x4 pooled patches)."""
    deep_query: bool = setting(True)
    """The query walks through all DINO layers on kept K/V; false (A1): one cross-attention on DINO's final features."""
    coarse_only: bool = setting(False)
    """Train with q_static alone, one pass (A6)."""
    freeze_dino: bool = setting(False)
    freeze_llm: bool = setting(False)
    visual_scale: float = setting(0.14, above=0.0)
    """Visual tokens are multiplied by it; 0.14 is the std of SmolLM2's embeddings."""


@dataclass(frozen=True)
class OptimConfig:
    lr: float = setting(1e-5, above=0.0, most=1.0)
    """Peak learning rate of both backbones."""
    connector_ratio: float = setting(10.0, above=0.0)
    """The connector's peak rate is `lr` times this."""
    weight_decay: float = setting(0.01, least=0.0)
    """Not on norms, biases and queries."""
    warmup_fraction: float = setting(0.05, least=0.0, most=1.0)
    """Linear warm-up over this share of the steps, then cosine."""
    min_lr_fraction: float = setting(0.0, least=0.0, most=1.0)
    """The cosine ends at this share of the peak."""
    beta1: float = setting(0.9, least=0.0, most=1.0)
    beta2: float = setting(0.98, least=0.0, most=1.0)
    clip_norm: float = setting(1.0, above=0.0)
    """Global gradient norm is clipped to this."""

    @property
    def connector_lr(self) -> float:
        """The connector's peak rate."""
        return self.lr * self.connector_ratio


@dataclass(frozen=True)
class TrainingConfig:
    samples: int = setting(1_000_000, least=1)
    """Samples seen in the whole run, over all ranks; the last batch may be smaller."""
    flops: str = setting("own", reference=True)
    """"own": stop at `samples`. "as F3": stop at the compute of run F3's settings, counted, if that comes before or after."""
    batch_samples: int = setting(128, least=1)
    """Samples per optimiser step, over all ranks and micro-batches."""
    micro_batch_samples: int | Literal["auto"] = setting(32, least=1, stateful=False)
    """Samples per forward pass on one rank; changes speed and memory, not the result (up to float rounding).
    "auto": the most that fit, found on the device before the first step and kept by checkpoints; facts.json says how many."""
    activation_checkpointing: bool = setting(False, stateful=False)
    """Keep only what goes into each layer of the backbones and compute the rest again in the backward: less memory, more time."""
    compile: bool = setting(False, stateful=False)
    """Run the layers of the backbones through torch.compile: a minute before the first step, then less each; rounds otherwise."""
    loss: str = setting("text_ce_all")
    """A name in LOSSES, or MODULE:NAME of a `trainer.losses.Loss`. Stage 1: text_ce_all. Stages 2-3: text_ce_answer_only."""
    lambda_coarse: float = setting(0.0, least=0.0)
    """Weight of the coarse pass's loss in training; 0 measures it without training it."""
    precision: Literal["float32", "bfloat16", "float64"] = setting("bfloat16")
    """bfloat16: autocast over float32 master weights, on a GPU. float64: to tell rounding from a mistake; slow."""
    nonfinite_steps: int = setting(5, least=1)
    """Diverged after this many consecutive steps with a non-finite loss or gradient."""
    diverged_ratio: float = setting(1.5, above=1.0)
    """Diverged when val_loss exceeds its own best after warm-up by this factor."""
    checkpoint_every_minutes: float = setting(10.0, above=0.0, stateful=False)
    keep_checkpoints: int = setting(2, least=1, stateful=False)


@dataclass(frozen=True)
class DataConfig:
    root: str = setting("data/full", stateful=False)
    """Folder with shards/*.tar; the manifest's hash, not this path, says what was read."""
    mix: Mapping[str, float] = setting({"video": 0.40, "image": 0.46, "text": 0.14})
    """Share of samples per kind ("image") or source ("image/crowded"); positive, sums to 1."""
    replicate_image_frames: int = setting(1, least=1, most=64)
    """An image is shown as this many frames (A8); encoded once."""
    manifest_seed: int = setting(1, least=0)
    """Draws the study's samples from the mix: the same for every run."""
    repeat: bool = setting(False)
    """Go through a pool again when the mix asks for more samples than it has; false: that is an error."""
    max_frames: int = setting(64, least=1, most=1024)
    max_text_tokens: int = setting(512, least=2)
    workers: int = setting(2, least=0, stateful=False)
    """Data-loading processes per rank; 0 loads in the training process."""


@dataclass(frozen=True)
class EvalConfig:
    set: str = setting("val_10k")
    """Name of a validation manifest."""
    every_samples: int = setting(50_000, least=1)
    batch_samples: int = setting(64, least=1, stateful=False)
    attention_clips: int = setting(10, least=0, stateful=False)
    """Clips of the validation set whose raw attention maps are saved."""


@dataclass(frozen=True)
class LogConfig:
    every_steps: int = setting(1, least=1, stateful=False)
    """Write per-step metrics every so many optimiser steps."""


@dataclass(frozen=True)
class TrainConfig:
    """All of it. `[settings]` and a row's changes name fields as "part.field"."""

    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    log: LogConfig = field(default_factory=LogConfig)

    @staticmethod
    def from_dict(settings: Mapping[str, Mapping[str, Any]]) -> TrainConfig:
        """From the nested settings of a job's config.json. Raises KeyError for a part or field that does not exist."""
        parts: dict[str, Any] = {}
        hints = get_type_hints(TrainConfig)
        for part, values in settings.items():
            if part not in hints:
                raise KeyError(f"there is no part {part!r} of settings; parts: {', '.join(hints)}")
            known = {f.name for f in fields(hints[part])}
            for name in values:
                if name not in known:
                    raise KeyError(f"there is no setting {part}.{name!r}; settings of {part}: {', '.join(sorted(known))}")
            parts[part] = hints[part](**values)
        return TrainConfig(**parts)


def stateful(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """The settings that can change a result, nested."""
    copied = asdict(config)
    for part in fields(config):
        for each in fields(getattr(config, part.name)):
            if not each.metadata["stateful"]:
                del copied[part.name][each.name]
    return copied


def misfit(config: TrainConfig) -> str | None:
    """The first value that its setting cannot have, in one line; None when there is none."""
    for part in fields(config):
        values = getattr(config, part.name)
        hints = get_type_hints(type(values))
        for each in fields(values):
            value, (wanted, fits) = getattr(values, each.name), _wanted(hints[each.name], each.metadata)
            if not fits(value):
                return f"{part.name}.{each.name} = {value!r}: it must be {wanted}"
    return None


def _wanted(hint: Any, its: Mapping[str, Any]) -> tuple[str, Callable[[Any], bool]]:
    """What a setting's value must be, in words and as a test. its: its field's range."""
    choices = [_wanted(one, its) for one in get_args(hint)] if get_origin(hint) in (Union, UnionType) else []
    if choices:
        return " or ".join(words for words, _ in choices), lambda value: any(fits(value) for _, fits in choices)
    if get_origin(hint) is Literal:
        named = get_args(hint)
        return " or ".join(f'"{one}"' for one in named), lambda value: value in named
    if hint in (int, float):
        limits = {"at least": its["least"], "above": its["above"], "at most": its["most"]}
        said = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)
        return f"{'a whole number' if hint is int else 'a number'} {said}".strip(), lambda value: _is_number(value, hint, its)
    if get_origin(hint) is Mapping:
        return "an object of numbers", lambda value: isinstance(value, dict) and all(_is_number(x, float) for x in value.values())
    return {bool: "true or false", str: "a text"}[hint], lambda value: isinstance(value, hint)


def _is_number(value: Any, kind: type[int] | type[float], its: Mapping[str, Any] = MappingProxyType({})) -> bool:
    """Of the kind (a whole one is a float too), finite and in its range."""
    if isinstance(value, bool) or not isinstance(value, int | kind) or (isinstance(value, float) and not math.isfinite(value)):
        return False
    least, above, most = its.get("least"), its.get("above"), its.get("most")
    return (least is None or value >= least) and (above is None or value > above) and (most is None or value <= most)


def conflict(config: TrainConfig) -> str | None:
    """What is impossible about settings that are each fine alone, in one line; None when nothing is."""
    model = config.model
    if model.encoder == "foveated" and model.tokens_per_frame != 1:
        return f'model.tokens_per_frame = {model.tokens_per_frame} with model.encoder = "foveated", which makes 1 token per frame'
    if model.encoder == "multi_token" and round(model.tokens_per_frame**0.5) ** 2 != model.tokens_per_frame:
        return f'model.tokens_per_frame = {model.tokens_per_frame} with model.encoder = "multi_token", and no square (4, 9 …)'
    if model.encoder == "multi_token" and model.coarse_only:
        return 'model.coarse_only = true with model.encoder = "multi_token", which has no coarse pass'
    for name in ("beta1", "beta2"):
        if getattr(config.optim, name) >= 1:
            return f"optim.{name} = {getattr(config.optim, name):g}, which AdamW needs below 1"
    loss = config.train.loss
    if loss not in LOSSES and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", loss):
        return f'train.loss = "{loss}": there is no such loss; there are {", ".join(LOSSES)}, and MODULE:NAME for one of your own'
    shares = config.data.mix
    if not shares or any(share <= 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        return f"data.mix = {dict(shares)}: shares must be above 0 and sum to 1 (they sum to {sum(shares.values()):g})"
    return None


assert all(is_dataclass(part) for part in get_type_hints(TrainConfig).values())
