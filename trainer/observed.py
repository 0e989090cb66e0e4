"""A run seen from outside: what its model was given and what its optimiser did, step by step, while nobody in it knows.

    with observing() as seen:
        train(...)
    seen.steps[0].samples, seen.steps[0].rates["connector.to_llm.weight"]

Torch calls back before every forward and before every step of an optimiser; nothing of the training loop is repeated here, so
what is seen is what trains.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from trainer.model.packing import Packed
from trainer.model.vision_language import VisionLanguageModel


@dataclass(frozen=True)
class Step:
    """What one optimiser step was made of, over its micro-batches, and what the optimiser was about to do."""

    samples: int
    supervised: int
    """Tokens that the loss sums over."""
    distinct: int
    """Frames encoded."""
    shown: int
    """Frames shown; a replicated one counts each time."""
    rates: Mapping[str, float]
    """Parameter -> learning rate, of every parameter that the optimiser holds."""
    norms: Mapping[str, float]
    """Module -> norm of the gradient that the optimiser takes (after clipping)."""


class Observed:
    """Filled while the run goes on."""

    def __init__(self, on_step: Callable[[int], None]) -> None:
        self.model: VisionLanguageModel | None = None
        self.first: dict[str, Tensor] = {}
        """The weights before the first step."""
        self.steps: list[Step] = []
        self._given: Counter[str] = Counter()
        self._on_step = on_step

    def moved(self) -> set[str]:
        """Parameters that are not what they were at the start."""
        assert self.model is not None, "nothing has run yet"
        return {name for name, p in self.model.named_parameters() if not torch.equal(p.detach(), self.first[name])}

    def before_forward(self, module: nn.Module, arguments: Any) -> None:
        if not isinstance(module, VisionLanguageModel):
            return
        if self.model is None:
            self.model = module
            self.first = {name: p.detach().clone() for name, p in module.named_parameters()}
        if module.training:
            packed: Packed = arguments[0]
            self._given.update(samples=packed.samples, supervised=packed.supervised)
            self._given.update(distinct=len(packed.frames), shown=len(packed.frame))

    def before_step(self, optimizer: torch.optim.Optimizer, _arguments: Any, _named: Any) -> None:
        assert self.model is not None, "no step without a forward"
        rate_of = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
        rates = {name: rate_of[id(p)] for name, p in self.model.named_parameters() if id(p) in rate_of}
        given = {name: self._given[name] for name in ("samples", "supervised", "distinct", "shown")}
        self._given.clear()
        self.steps.append(Step(**given, rates=rates, norms=_norms(self.model)))
        self._on_step(len(self.steps))


@contextlib.contextmanager
def observing(on_step: Callable[[int], None] = lambda _steps: None) -> Iterator[Observed]:
    """See the runs of this process until the block ends; `on_step` is told how many steps there were."""
    seen = Observed(on_step)
    hooks = [register_module_forward_pre_hook(seen.before_forward), register_optimizer_step_pre_hook(seen.before_step)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def modules(model: VisionLanguageModel) -> dict[str, nn.Module]:
    """The parts, and what the connector is made of."""
    return model.parts() | {f"connector.{name}": child for name, child in model.connector.named_children()}


def _norms(model: VisionLanguageModel) -> dict[str, float]:
    found = {}
    for name, module in modules(model).items():
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        if gradients:
            found[name] = float(nn.utils.get_total_norm(gradients))
    return found
