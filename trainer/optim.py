"""AdamW with a learning rate per part of the model, warm-up and cosine, and what "diverged" means.

Parts are modules: connector, dino, llm. Every trainable parameter is in exactly one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trainer.checkpoint import Progress
from trainer.config import OptimConfig, TrainingConfig


def build_optimizer(parts: Mapping[str, nn.Module], model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """One or two groups per part that trains: with weight decay, and without (norms, biases, queries: what has one dimension)."""
    groups = []
    for part, parameters in parameters_of(parts, model).items():
        for decays in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == decays]
            if chosen:
                decay = optim.weight_decay if decays else 0.0
                groups.append({"params": chosen, "part": part, "peak": peak_rate(part, optim), "weight_decay": decay})
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), fused=True)


def peak_rate(part: str, optim: OptimConfig) -> float:
    return optim.lr * optim.connector_ratio if part == "connector" else optim.lr


def parameters_of(parts: Mapping[str, nn.Module], model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters of each part that has any. Raises ValueError when one is in no part or in two."""
    part_of: dict[nn.Parameter, str] = {}
    for part, module in parts.items():
        for name, parameter in module.named_parameters():
            if parameter in part_of:
                raise ValueError(f"{part}.{name} is in two learning-rate parts: {part_of[parameter]} and {part}")
            part_of[parameter] = part
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    lost = [name for name, p in trainable.items() if p not in part_of]
    if lost:
        raise ValueError(f"in no learning-rate part: {', '.join(lost)}; parts: {', '.join(parts)}")
    if not trainable:
        raise ValueError("nothing to train: every parameter is frozen")
    grouped = {part: [p for p in trainable.values() if part_of[p] == part] for part in parts}
    return {part: parameters for part, parameters in grouped.items() if parameters}


def rate_factor(step: int, steps: int, optim: OptimConfig) -> float:
    """The share of the peak rate at `step` (0-based) of `steps`: linear warm-up, then cosine down to `min_lr_fraction`."""
    warmup = warmup_steps(steps, optim)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return optim.min_lr_fraction + (1 - optim.min_lr_fraction) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_steps(steps: int, optim: OptimConfig) -> int:
    return math.ceil(steps * optim.warmup_fraction)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Set every group's rate and return the rate of each part."""
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
        rates[str(group["part"])] = float(group["lr"])
    return rates


def scale_and_clip(parameters: Sequence[nn.Parameter], scale: float | Tensor, clip_norm: float) -> Tensor:
    """Multiply all gradients by `scale`, clip their global norm, and return the norm before clipping: 0-dim, on their device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if isinstance(scale, Tensor) and scale.device.type == "cpu":
        scale = scale.item()  # nothing to wait for, and a number is several times faster here
    elif isinstance(scale, Tensor) and gradients:
        scale = scale.to(gradients[0].dtype)  # of another type, a GPU would take one gradient after the other
    torch._foreach_mul_(gradients, scale)
    norm: Tensor = nn.utils.clip_grad_norm_(parameters, clip_norm)
    return norm


def step_if_finite(optimizer: torch.optim.Optimizer, loss: Tensor, norm: Tensor) -> None:
    """One step of the optimiser, or none where loss or norm is not finite; decided on the device, without waiting for it.

    The fused AdamW leaves weights, moments and its count of steps as they are where `found_inf` is 1 (what gradient scalers use).
    """
    optimizer.found_inf = (~(loss.isfinite() & norm.isfinite())).float()  # type: ignore[attr-defined]  # read by fused AdamW
    optimizer.step()


class DivergenceWatch:
    """Tells when a run has diverged: a result, not a crash. What it counts is kept in the run's progress."""

    def __init__(self, limits: TrainingConfig, warmup: int, progress: Progress) -> None:
        """warmup: steps whose evaluations are not judged."""
        self._limits, self._warmup, self._progress = limits, warmup, progress

    def after_step(self, loss: float, grad_norm: float) -> str | None:
        """Why the run has diverged, or None."""
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self._progress.nonfinite = 0
            return None
        self._progress.nonfinite += 1
        if self._progress.nonfinite < self._limits.nonfinite_steps:
            return None
        steps = self._progress.nonfinite
        return f"loss or gradient not finite in {steps} consecutive steps (loss {loss:g}, gradient norm {grad_norm:g})"

    def after_eval(self, step: int, val_loss: float) -> str | None:
        """step: optimiser steps done."""
        if step <= self._warmup:
            return None
        if not math.isfinite(val_loss):
            return f"val_loss is {val_loss:g} after {step} steps"
        best = self._progress.best_val_loss = min(self._progress.best_val_loss, val_loss)
        if val_loss > self._limits.diverged_ratio * best:
            return (
                f"val_loss {val_loss:.4g} is above {self._limits.diverged_ratio:g} times its best, {best:.4g}, after {step} steps"
            )
        return None
