"""A checkpoint: a folder that holds all a run needs to go on with the same bits.

checkpoints/00000120/: model.safetensors (every parameter), optimizer.pt, rng_0.pt … (one per rank), progress.json.
It is written under another name and moved: under its own name it is complete.

What stays on disk: the newest `train.keep_checkpoints` of an attempt while it runs or when it broke off; none once it has ended
(result.json is there then). What a killed save left half is removed by whoever resumes from beside it or saves there again.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer import disk
from trainer.config import ConfigError
from trainer.ranks import Ranks


@dataclass
class Progress:
    """How far a run has come; everything that later steps or the final metrics depend on."""

    of: dict[str, Any] = field(default_factory=dict)
    """What trains, as far as it can change a result: settings by their dotted names, and the seed."""
    step: int = 0
    """Optimiser steps done, skipped ones included."""
    samples: int = 0
    nonfinite: int = 0
    """Consecutive non-finite steps up to now."""
    best_val_loss: float = float("inf")
    """After warm-up."""
    untrained: dict[str, float] = field(default_factory=dict)
    """val_loss and val_loss/KIND before the first step."""
    evals: list[tuple[int, float]] = field(default_factory=list)
    """(steps done, val_loss)."""
    grad_norms: list[float] = field(default_factory=list)
    """Before clipping, of every step."""
    wall_s: float = 0.0
    """Time of the process, earlier attempts included."""
    step_s: float = 0.0
    """Time of the steps, evaluation and saving left out."""
    compute_s: float = 0.0
    """Of that, forward, backward and optimiser."""
    micro_batch: int = 0
    """Samples of a forward pass; 0 before it is known."""

    def count(self, samples: int, grad_norm: float, step_s: float, compute_s: float) -> None:
        """One more step."""
        self.step += 1
        self.samples += samples
        self.grad_norms.append(grad_norm)
        self.step_s += step_s
        self.compute_s += compute_s


def save(attempt: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, ranks: Ranks, keep: int) -> None:
    """Write checkpoints/<step> and remove all but the newest `keep`. All ranks call it together; a step saved before is left."""
    folder = attempt / "checkpoints" / f"{progress.step:08d}"
    partial = folder.with_name(f".{folder.name}.partial")
    if folder.exists():
        return
    if ranks.first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file({n: p.detach().cpu().contiguous() for n, p in model.named_parameters()}, partial / "model.safetensors")
        disk.save(optimizer.state_dict(), partial / "optimizer.pt")
        (partial / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
    ranks.barrier()
    disk.save(_random_states(), partial / f"rng_{ranks.rank}.pt")
    ranks.barrier()
    if ranks.first:
        for file in partial.iterdir():
            disk.sync(file)
        partial.replace(folder)
        disk.sync(folder.parent)
        for old in complete_checkpoints(attempt)[:-keep]:
            shutil.rmtree(old)
    ranks.barrier()


def remove_all(attempt: Path) -> None:
    """When a run has ended: nobody resumes it."""
    shutil.rmtree(attempt / "checkpoints", ignore_errors=True)


def complete_checkpoints(attempt: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path for path in (attempt / "checkpoints").glob("[0-9]*") if path.is_dir())


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks, of: Mapping[str, Any] = MappingProxyType({})
) -> Progress:
    """Put everything back as it was saved. A rank that was not there then keeps its fresh random streams.

    of: what is to go on. Raises ConfigError for a checkpoint of something else, or one that cannot be read.
    """
    if not (folder / "progress.json").is_file():
        raise ConfigError(
            f"resume_from = {str(folder)!r}: no checkpoint there (progress.json is missing); leave it empty to start anew"
        )
    if ranks.first:
        for half in folder.parent.glob(".*.partial"):
            shutil.rmtree(half, ignore_errors=True)
    progress, weights, moments, random_states = _read(folder, ranks.rank)
    _of_the_same(folder, progress.of, of)
    parameters = dict(model.named_parameters())
    if weights.keys() != parameters.keys():
        other = sorted(weights.keys() ^ parameters.keys())
        raise ConfigError(f"resume_from = {str(folder)!r}: a checkpoint of another model; it differs in {', '.join(other[:5])}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    optimizer.load_state_dict(moments)  # onto the device of each parameter
    if random_states is not None:
        _set_random_states(random_states)
    return replace(progress, of=dict(of) or progress.of)


Read = tuple[Progress, dict[str, Tensor], dict[str, Any], dict[str, Any] | None]


def _read(folder: Path, rank: int) -> Read:
    """(progress, weights, the optimiser's state, random states of the rank or None), all on the CPU."""
    states = folder / f"rng_{rank}.pt"
    try:
        values = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        values["evals"] = [(int(step), float(loss)) for step, loss in values["evals"]]
        return (
            Progress(**values),
            load_file(folder / "model.safetensors"),
            torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True),
            torch.load(states, map_location="cpu", weights_only=True) if states.is_file() else None,
        )
    except UNREADABLE as error:
        if disk.trouble(error, folder):
            raise
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"resume_from = {str(folder)!r}: the checkpoint cannot be read ({said}); remove it, and go on from the one before"
        ) from error


UNREADABLE = (FileNotFoundError, EOFError, KeyError, TypeError, ValueError, RuntimeError, UnpicklingError, SafetensorError)
"""What comes of files that are missing, cut, or of other fields."""


def _of_the_same(folder: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Going on with other settings would be neither run. A checkpoint that does not say what it is of is believed."""
    other = [f"{name} = {now.get(name)!r}, there {was.get(name)!r}" for name in {**was, **now} if was.get(name) != now.get(name)]
    if was and now and other:
        raise ConfigError(
            f"resume_from = {str(folder)!r}: a checkpoint of another run: {'; '.join(other[:5])}; leave it empty to start anew"
        )


def _random_states() -> dict[str, Any]:
    """Of every process-wide generator the training draws from (dropout; nothing here uses NumPy's)."""
    version, numbers, gauss = random.getstate()
    states: dict[str, Any] = {"torch": torch.get_rng_state(), "python": [version, list(numbers), gauss]}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: dict[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
