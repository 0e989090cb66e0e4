"""Text from a model: after each sample's frames and prompt, token after token, with a KV cache.

B samples, C columns (the longest of [visual tokens, prompt]), L language-model width, V vocabulary, n new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from trainer.losses import at_least_float32
from trainer.model.foveated import Mode
from trainer.model.packing import Packed
from trainer.model.vision_language import VisionLanguageModel

Choose = Callable[[Tensor], Tensor]
"""From logits [B, V] to the next token of each sample [B]."""


def most_likely(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


def sampled(temperature: float = 1.0, top_p: float = 1.0, generator: torch.Generator | None = None) -> Choose:
    """Drawn from softmax(logits / temperature), cut to the fewest most likely tokens that have `top_p` of it together.

    (Holtzman et al. 2020, nucleus sampling.) generator: on the model's device; None: torch's own.
    """
    if temperature <= 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature = {temperature!r} must be above 0 and top_p = {top_p!r} above 0 and at most 1")

    def choose(logits: Tensor) -> Tensor:
        chances, tokens = torch.softmax(at_least_float32(logits) / temperature, -1).sort(-1, descending=True)  # [B, V] each
        before = chances.cumsum(-1) - chances  # of all that are more likely
        drawn = torch.multinomial(chances.masked_fill(before >= top_p, 0.0), 1, generator=generator)  # [B, 1]
        return tokens.gather(-1, drawn)[:, 0]

    return choose


@torch.no_grad()
def generate(
    model: VisionLanguageModel,
    packed: Packed,
    *,
    most: int,
    stops: Sequence[int],
    pad: int,
    mode: Mode | None = None,
    choose: Choose = most_likely,
) -> Tensor:
    """Up to `most` new tokens of each sample [B, n]; a stop token is a sample's last, and what follows it is `pad`.

    packed: frames and prompts; its targets do not matter. mode: the trained one unless another is asked for. The frames are
    looked at once, before the first token, in every mode: queries are made from frames, never from text.
    """
    tokens, (samples, columns) = model.tokens(model.see(packed, mode).final.tokens, packed), packed.places.shape
    embeds = tokens.new_zeros(samples * columns, tokens.shape[1]).index_copy(0, packed.places.flat, tokens)
    embeds = embeds.view(samples, columns, -1)  # [B, C, L]
    lengths = torch.bincount(packed.places.flat // columns, minlength=samples)  # [B]
    # New tokens go behind the longest sequence: the mask hides the padding between, positions count on from each sample's end.
    mask = (torch.arange(columns, device=embeds.device) < lengths[:, None]).long()  # [B, C]
    cache = DynamicCache()
    output = model.llm.model(inputs_embeds=embeds, attention_mask=mask, past_key_values=cache, use_cache=True)
    hidden = output.last_hidden_state[torch.arange(samples, device=embeds.device), lengths - 1]  # [B, L]
    told: list[Tensor] = []
    ended, ends = mask.new_zeros(samples, dtype=torch.bool), torch.tensor(list(stops), device=embeds.device)
    for position in range(most):
        token = choose(model.llm.lm_head(hidden)).masked_fill(ended, pad)  # [B]
        told.append(token)
        ended = ended | torch.isin(token, ends)
        if position == most - 1 or bool(ended.all()):
            break
        mask = torch.cat([mask, mask.new_ones(samples, 1)], 1)
        words = model.llm.model.embed_tokens(token)[:, None]  # [B, 1, L]
        places = (lengths + position)[:, None]
        output = model.llm.model(
            inputs_embeds=words, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
        )
        hidden = output.last_hidden_state[:, 0]
    return torch.stack(told, 1)
