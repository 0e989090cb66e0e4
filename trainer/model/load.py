"""A model to train: backbones from folders, a connector from the job's seed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from torch import nn
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from trainer.config import ConfigError, ModelConfig
from trainer.data.batches import stream_seed
from trainer.data.tiny import Backbone, tiny_backbone
from trainer.model.foveated import Foveated
from trainer.model.multi_token import MultiToken
from trainer.model.vision_language import VisionLanguageModel
from trainer.weights import found_folder

QUERY_STD = 1.0
"""Initial scale of the learned queries; 0.02 kills the mechanism (all looks stay uniform)."""


def build_model(config: ModelConfig, cache: Path, seed: int) -> VisionLanguageModel:
    """Backbones as they were pretrained, the connector as `seed` says, frozen where `config` says so; on the CPU, float32.

    cache: where "tiny/…" backbones are kept. Raises ConfigError when weights are missing or of another architecture.
    """
    dino = _load_dino(weights_folder("model.vision", config.vision, cache))
    llm = _load_llm(weights_folder("model.language", config.language, cache))
    return assemble(config, dino, llm, seed)


def assemble(config: ModelConfig, dino: Dinov2Model, llm: LlamaForCausalLM, seed: int) -> VisionLanguageModel:
    connector = connector_of(config, dino.config.hidden_size, llm.config.hidden_size)
    initialise(connector, seed)
    dino.requires_grad_(not config.freeze_dino)
    llm.requires_grad_(not config.freeze_llm)
    if dino.embeddings.mask_token is not None:
        dino.embeddings.mask_token.requires_grad_(False)  # of DINO's own pretraining; nothing here ever shows it
    return VisionLanguageModel(dino, llm, connector)


def connector_of(config: ModelConfig, dino_width: int, llm_width: int) -> Foveated | MultiToken:
    """Its queries are not set yet: `initialise` sets them, or who loads a trained one."""
    if config.encoder == "multi_token":
        return MultiToken(dino_width, llm_width, tokens_per_frame=config.tokens_per_frame, visual_scale=config.visual_scale)
    return Foveated(
        dino_width, llm_width, deep_query=config.deep_query, coarse_only=config.coarse_only, visual_scale=config.visual_scale
    )


@torch.no_grad()
def initialise(connector: nn.Module, seed: int) -> None:
    """Every parameter from a stream of its own name: variants that have it start with the same values.

    Maps get torch's own default for `nn.Linear` (uniform within 1/sqrt(inputs)), queries a normal with std 1.
    """
    for name, module in connector.named_modules():
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            for kind, parameter in module.named_parameters():
                parameter.uniform_(-bound, bound, generator=_stream(seed, f"{name}.{kind}"))
    for name, parameter in connector.named_parameters(recurse=False):
        parameter.normal_(0.0, QUERY_STD, generator=_stream(seed, name))


def _stream(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{stream_seed(seed, 'init')}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def weights_folder(place: str, name: str, cache: Path) -> Path:
    """Where the weights called `name` lie: built here, a folder, weights/NAME, the Hugging Face cache. Nothing is downloaded."""
    if name.startswith("tiny/"):
        kinds: dict[str, Backbone] = {f"tiny/{kind}": kind for kind in get_args(Backbone)}
        if name not in kinds:
            raise ConfigError(f"{place} = {name!r}: there is no such tiny model; there are {', '.join(kinds)}")
        return tiny_backbone(kinds[name], cache)
    return found_folder(f"{place} = {name!r}", name, "config.json", "*.safetensors")


def find_weights(configs: Iterable[ModelConfig], cache: Path) -> None:
    """Say at once what is missing, and make what is made here: before ranks meet, for then only rank 0 can save a model.

    (`save_pretrained` writes nothing on the others, without a word.)
    """
    for config in configs:
        weights_folder("model.vision", config.vision, cache)
        weights_folder("model.language", config.language, cache)


def _load_dino(folder: Path) -> Dinov2Model:
    _check_type("model.vision", folder, "dinov2")
    dino = _from_pretrained(Dinov2Model, folder)
    config = dino.config
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
        if getattr(config, name) != 0:
            raise ConfigError(f"model.vision: {folder}/config.json has {name} = {getattr(config, name)}; only 0 is supported")
    return dino


def _load_llm(folder: Path) -> LlamaForCausalLM:
    _check_type("model.language", folder, "llama")
    return _from_pretrained(LlamaForCausalLM, folder)


def _from_pretrained(kind: Any, folder: Path) -> Any:
    transformers_logging.disable_progress_bar()
    # float32 whatever the file holds: these are the master weights.
    return read_weights(kind.from_pretrained, folder, dtype=torch.float32, attn_implementation="sdpa")


def read_weights(from_pretrained: Callable[..., Any], folder: Path, *arguments: Any, **options: Any) -> Any:
    """The model in `folder`, of which every weight was there and none was unpickled; `transformers` draws missing ones at random.

    Raises ConfigError for weights that cannot be read or do not fit the config.
    """
    ours = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    try:
        model, told = from_pretrained(folder, *arguments, **{**options, **ours})
    except (OSError, RuntimeError, SafetensorError) as error:
        said = str(error).strip().splitlines()[0]
        raise ConfigError(f"{folder}: its weights cannot be read ({said}); get them again") from error
    missing = sorted(str(name) for name in told["missing_keys"])
    if missing:
        raise ConfigError(f"{folder}: its weights do not fit its config.json: there is no {', '.join(missing[:5])}")
    return model


def _check_type(place: str, folder: Path, wanted: str) -> None:
    found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if found != wanted:
        raise ConfigError(f"{place}: {folder}/config.json is of model_type {found!r}; only {wanted!r} is supported")


def initial_weights_hash(model: VisionLanguageModel) -> str:
    """Over what every variant starts with: both backbones and the connector's way into the language model."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if name.startswith(("dino.", "llm.", "connector.query_out.", "connector.to_llm.")):
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
