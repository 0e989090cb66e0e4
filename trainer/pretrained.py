"""START HERE to use a trained model: `from_pretrained`, a processor, `generate`, in the style of `transformers`.

    from trainer.pretrained import FoveatedProcessor, FoveatedVLM

    model, processor = FoveatedVLM.from_pretrained(folder), FoveatedProcessor.from_pretrained(folder)
    inputs = processor(["0.jpg", "1.jpg"], "what happens?")
    print(processor.batch_decode(model.generate(**inputs, max_new_tokens=20)))

A folder is the `model/` of a finished run: config.json, model.safetensors, processor_config.json and the tokenizer's files.
After `import trainer.pretrained`, AutoConfig, AutoModel and AutoProcessor know it too. Nothing in it is unpickled.

B samples, U distinct frames, T frames shown, M frames shown in all samples, S text tokens, V vocabulary, N patches, H heads.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoProcessor, Dinov2Config, LlamaConfig, PretrainedConfig, PreTrainedModel
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.utils import ModelOutput
from transformers.utils import logging as transformers_logging

from trainer.config import ConfigError, ModelConfig
from trainer.data.batches import Batch
from trainer.data.processor import FoveatedProcessor
from trainer.losses import head_losses
from trainer.model.foveated import Mode
from trainer.model.generate import generate, most_likely, sampled
from trainer.model.language import read
from trainer.model.load import connector_of, read_weights
from trainer.model.packing import Packed, pack
from trainer.model.vision_language import VisionLanguageModel
from trainer.weights import found_folder, local_folder

__all__ = ["FoveatedConfig", "FoveatedOutput", "FoveatedProcessor", "FoveatedVLM", "Mode", "save"]


class FoveatedConfig(PretrainedConfig):  # type: ignore[misc]  # transformers is not typed
    """What is needed to build the model: both backbones' configs, and of the connector what `ModelConfig` says of it."""

    model_type = "foveated_vlm"

    def __init__(
        self,
        vision_config: Dinov2Config | dict[str, Any] | None = None,
        text_config: LlamaConfig | dict[str, Any] | None = None,
        encoder: str = "foveated",
        tokens_per_frame: int = 1,
        deep_query: bool = True,
        coarse_only: bool = False,
        visual_scale: float = 0.14,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        **others: Any,
    ) -> None:
        """eos_token_id: the tokenizer's, which ends a turn of its chats; the language model's own may be another."""
        self.vision_config = vision_config if isinstance(vision_config, Dinov2Config) else Dinov2Config(**vision_config or {})
        self.text_config = text_config if isinstance(text_config, LlamaConfig) else LlamaConfig(**text_config or {})
        self.encoder, self.tokens_per_frame = encoder, tokens_per_frame
        self.deep_query, self.coarse_only, self.visual_scale = deep_query, coarse_only, visual_scale
        self.eos_token_id, self.pad_token_id = eos_token_id, pad_token_id
        super().__init__(**{**others, "tie_word_embeddings": self.text_config.tie_word_embeddings})

    def get_text_config(self, *_which: Any, **_how: Any) -> LlamaConfig:
        return self.text_config


@dataclass
class FoveatedOutput(ModelOutput):  # type: ignore[misc]  # transformers is not typed
    loss: Tensor | None = None
    """Mean over the tokens that `labels` names, in nats; None without labels."""
    logits: Tensor | None = None
    """[B, S, V] of the token after each; 0 in the padding."""
    looks: Tensor | None = None
    """[M, layers, H, 1+N] where each frame was looked at, CLS first, sample by sample; None unless asked, or without queries."""
    coarse_looks: Tensor | None = None
    """The same of the coarse pass; None when there is one pass only."""


class FoveatedVLM(PreTrainedModel):  # type: ignore[misc]  # transformers is not typed
    """A trained model of any variant. `modes` are the ways it can look; variants with one pass look the same in all of them."""

    config_class = FoveatedConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    _supports_sdpa = True
    _tied_weights_keys = {"model.llm.lm_head.weight": "model.llm.model.embed_tokens.weight"}  # noqa: RUF012  # where the config says
    modes: tuple[Mode, ...] = get_args(Mode)

    def __init__(self, config: FoveatedConfig, model: VisionLanguageModel | None = None) -> None:
        """model: a trained one; None builds one that is still to be loaded."""
        super().__init__(config)
        self.model = model or _unloaded(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, name: str | Path, *arguments: Any, **options: Any) -> FoveatedVLM:
        """From the `model/` folder of a run, or its name below weights/ or in the Hugging Face cache; nothing is downloaded.

        options: as for any PreTrainedModel (dtype; device_map, with accelerate). Raises ConfigError for a folder that is
        missing, incomplete or of another layout.
        """
        loaded: FoveatedVLM = read_weights(super().from_pretrained, _whole_folder(str(name)), *arguments, **options)
        return loaded

    def forward(
        self,
        pixel_values: Tensor,
        frame_of: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        mode: Mode | None = None,
        output_attentions: bool = False,
    ) -> FoveatedOutput:
        """What a processor returns; labels: [B, S] as input_ids, -100 where nothing is to be learned."""
        packed = self._packed(pixel_values, frame_of, input_ids, attention_mask, labels)
        views = self.model.see(packed, self._mode(mode), output_attentions)
        hidden = read(self.model.llm, self.model.tokens(views.final.tokens, packed), packed.places)  # [M*K+W, L]
        words = self.model.llm.lm_head(hidden[packed.order >= len(views.final.tokens)])  # [W, V]
        logits = words.new_zeros(*input_ids.shape, words.shape[-1])
        logits[attention_mask.bool().to(words.device)] = words
        losses = head_losses(hidden[packed.target_from], self.model.llm.lm_head.weight, packed.targets)
        return FoveatedOutput(
            loss=None if labels is None else losses.mean(),
            logits=logits,
            looks=views.final.looks,
            coarse_looks=None if views.coarse is None else views.coarse.looks,
        )

    def generate(
        self,
        pixel_values: Tensor,
        frame_of: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        max_new_tokens: int = 128,
        mode: Mode | None = None,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        eos_token_id: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """What a processor returns -> new tokens [B, n], n <= max_new_tokens, padded after each sample's end.

        Greedy unless `do_sample`; see `trainer.model.generate` for the rest. eos_token_id: instead of the tokenizer's.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens = {max_new_tokens!r} must be at least 1")
        stops = self.config.eos_token_id if eos_token_id is None else eos_token_id
        return generate(
            self.model,
            self._packed(pixel_values, frame_of, input_ids, attention_mask, None),
            most=max_new_tokens,
            stops=[stops] if isinstance(stops, int) else stops or [],
            pad=self.config.pad_token_id or 0,
            mode=self._mode(mode),
            choose=sampled(temperature, top_p, generator) if do_sample else most_likely,
        )

    def _packed(
        self, pixel_values: Tensor, frame_of: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None
    ) -> Packed:
        is_text, labels = attention_mask.bool().cpu(), None if labels is None else labels.cpu()
        supervised = torch.zeros_like(is_text) if labels is None else labels != -100
        if labels is not None and (labels.shape != input_ids.shape or (labels != input_ids.cpu())[supervised].any()):
            raise ConfigError("labels are input_ids, with -100 where nothing is to be learned; these are neither somewhere")
        batch = Batch(pixel_values, frame_of.cpu(), input_ids.cpu(), is_text, supervised, (), ())
        return pack(batch, self.model.connector.tokens_per_frame, self.device)

    def _mode(self, mode: Mode | None) -> Mode | None:
        if mode is not None and mode not in self.modes:
            raise ConfigError(f"mode = {mode!r}: there is no such mode; modes: {', '.join(self.modes)}")
        return mode

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: weights are trained or loaded; `from_pretrained` refuses what lacks any."""


def save(folder: Path, model: VisionLanguageModel, settings: ModelConfig, processor: FoveatedProcessor) -> None:
    """Write a trained model and its processor; `folder` must not exist yet, and appears only when it is complete."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    transformers_logging.disable_progress_bar()
    said = {name: getattr(settings, name) for name in _CONNECTOR}
    said |= {"eos_token_id": processor.tokenizer.eos_id, "pad_token_id": processor.tokenizer.pad_id}
    for its in (model.dino.config, model.llm.config):
        its._name_or_path = ""  # where they lay on this machine is nobody else's
    FoveatedVLM(FoveatedConfig(model.dino.config, model.llm.config, **said), model).save_pretrained(partial)
    processor.save_pretrained(partial)
    partial.replace(folder)


_CONNECTOR = ("encoder", "tokens_per_frame", "deep_query", "coarse_only", "visual_scale")
"""What of `ModelConfig` says how the connector is built."""


def _unloaded(config: FoveatedConfig) -> VisionLanguageModel:
    dino, llm = Dinov2Model(config.vision_config), LlamaForCausalLM(config.text_config)
    settings = ModelConfig(**{name: getattr(config, name) for name in _CONNECTOR})
    return VisionLanguageModel(dino, llm, connector_of(settings, dino.config.hidden_size, llm.config.hidden_size))


def _whole_folder(name: str) -> Path:
    old = local_folder(name)
    if old is not None and (old / "connector.safetensors").is_file():
        raise ConfigError(
            f"model {name!r}: {old} has an earlier layout (vision/, language/, connector.safetensors), without tokenizer and "
            "processor, which is not read any more; train the run again to have one with model.safetensors"
        )
    return found_folder(f"model {name!r}", name, "config.json", "*.safetensors")


AutoConfig.register(FoveatedConfig.model_type, FoveatedConfig)
AutoModel.register(FoveatedConfig, FoveatedVLM)
AutoProcessor.register(FoveatedConfig, FoveatedProcessor)
