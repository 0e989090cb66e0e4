"""How fast the trainer is: where a step's time goes, how it compares with the same model written plainly, how far the limit is.

    python -m benchmarks.trainer [--device cpu|cuda] [--shapes tiny|full] [--steps 100] [--repeat 6] [--json]

The split runs the real loop (`trainer.train`) at tiny shapes with cached frames; the model's own time is told by the phases that
its code names (`trainer/phases.py`). The table times whole steps (packing, forward, loss, backward, clipping, optimiser) of this
trainer and of the plain model in turn, on the same batches of random pixels and words, beside the roofline of the products that
training takes. On a CPU all times are processor time of one thread: other people's processes change them least. GPU times are
wall time; the full shapes have DINOv2-small and SmolLM2-135M with random weights.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from benchmarks.ceilings import Ceilings, measure, roofline_s, seconds
from benchmarks.plain_model import PlainModel
from trainer.config import ModelConfig, OptimConfig, TrainConfig
from trainer.data.batches import Batch
from trainer.data.frames import RELAY, Frames
from trainer.data.open import open_data
from trainer.data.prepare import prepare_small
from trainer.data.tiny import dino_config, llama_config
from trainer.flops import Shape, operations, sizes
from trainer.job import Job, read_job
from trainer.model.load import assemble
from trainer.model.vision_language import VisionLanguageModel
from trainer.optim import build_optimizer, scale_and_clip, step_if_finite
from trainer.phases import watching
from trainer.ranks import Ranks, start_ranks
from trainer.step import Clock, StepPlan, accumulate
from trainer.train import StopSignal, train

PHASES = ("data", "encode", "queries", "lm", "loss", "forward, rest", "backward", "optimizer", "sync", "logging", "other")
AROUND = ("data", "sync", "logging", "other")
"""What is neither forward nor backward nor optimiser; other: the loop itself, its plans, rates and counters."""
MOST_OVERHEAD = 0.05
"""Share of a step outside forward, backward and optimiser."""
BATCH = 24
Settings = dict[str, dict[str, Any]]
TINY: Settings = {
    "model": {"vision": "tiny/dino-untrained", "language": "tiny/llama-untrained"},
    "optim": {"lr": 5e-4},
    "train": {"batch_samples": BATCH, "micro_batch_samples": BATCH, "precision": "float32"},
    "data": {"mix": {"video": 0.60, "image": 0.26, "text": 0.14}, "workers": 0, "repeat": True},
    "eval": {"set": "val_tiny", "every_samples": 10**9},
}
"""The tiny profile of runs.toml, without pretrained backbones: no number here depends on them."""


@dataclass(frozen=True)
class Split:
    """A step of the real loop, in milliseconds of processor time by phase."""

    steps: int
    samples_per_s: float
    step_ms: float
    phases_ms: Mapping[str, float]

    @property
    def overhead(self) -> float:
        """The share of a step outside forward, backward and optimiser."""
        return sum(self.phases_ms[name] for name in AROUND) / self.step_ms


def split(folder: Path, steps: int) -> Split:
    """Run the loop for `steps` steps on small data made in `folder`."""
    prepare_small(folder / "data", folder / "files")
    job = new_job(folder, "split", {"train.samples": steps * BATCH})
    data = open_data(job.config, job.seed, job.cache)
    decode_all(folder / "data" / "shards", folder / "files")
    with watching(clock=time.process_time) as watch, contextlib.redirect_stdout(io.StringIO()):
        train(job, data, start_ranks(), StopSignal())
    named = {"step": "other", "forward": "forward, rest"}
    spent: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    for path, its_s in watch.seconds.items():
        if path.split("/")[0] == "step" and "evaluate" not in path:
            spent[named.get(last := path.split("/")[-1], last)] += 1000 * its_s / steps
    whole = sum(spent.values())
    return Split(steps, 1000 * BATCH / whole, whole, spent)


def decode_all(shards: Path, cache: Path) -> None:
    frames = Frames(shards, RELAY.size, cache)
    for shard in sorted(shards.glob("*.tar")):
        frames.prepare(shard.name)


def new_job(folder: Path, name: str, changes: Mapping[str, Any]) -> Job:
    settings: Settings = {part: dict(values) for part, values in TINY.items()}
    settings["data"]["root"] = str(folder / "data")
    for setting, value in changes.items():
        part, field = setting.split(".")
        settings[part][field] = value
    attempt = folder / name
    attempt.mkdir()
    said = {"job": name, "run": name, "seed": 42, "attempt": 1, "settings": settings, "files": str(folder / "files")}
    (attempt / "config.json").write_text(json.dumps(said))
    return read_job(attempt)


def split_table(its: Split) -> Table:
    table = Table(title=f"A step of the loop, F3 at tiny shapes, {its.steps} steps: {its.samples_per_s:.0f} samples/s")
    for column in ("phase", "ms", "share"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for name, ms in its.phases_ms.items():
        table.add_row(name, f"{ms:.2f}", f"{ms / its.step_ms:.1%}")
    verdict = "ok" if its.overhead < MOST_OVERHEAD else f"above {MOST_OVERHEAD:.0%}"
    table.add_section()
    table.add_row("step", f"{its.step_ms:.2f}", "100%")
    table.add_row("outside forward, backward, optimizer", "", f"{its.overhead:.1%} ({verdict})")
    return table


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Case:
    name: str
    frames: tuple[int, ...]
    """Of the samples of a micro-batch; a mixture, or all the same."""
    replicate: int = 1
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shapes:
    dino: Dinov2Config
    llm: LlamaConfig
    side: int
    samples: int
    """Of a micro-batch of the mixture."""
    words: tuple[int, int]
    """Text tokens, least and most."""
    most_frames: int
    """Distinct frames of a micro-batch."""


def shapes_called(name: str) -> Shapes:
    if name == "tiny":
        return Shapes(dino_config(), llama_config(), RELAY.size, BATCH, (8, 21), 192)
    dino = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=14, image_size=224)
    llm = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return Shapes(dino, llm, 224, 32, (32, 224), 512)


def cases(shapes: Shapes) -> list[Case]:
    """Fixed clips for F3; the mixture (60 % clips, 26 % images, 14 % text; mean 4 or 7 frames) for the variants."""
    longest = 6 if shapes.side == RELAY.size else 23
    random = torch.Generator().manual_seed(0)
    clips = [int(torch.randint(longest // 2, longest + 1, (1,), generator=random)) for _ in range(shapes.samples)]
    kinds = [i / shapes.samples for i in range(shapes.samples)]
    mixture = tuple(clip if kind < 0.60 else 1 if kind < 0.86 else 0 for clip, kind in zip(clips, kinds, strict=True))
    images = tuple(1 if kind < 0.86 else 0 for kind in kinds)
    fixed = [Case(f"F3, {n} frames", (n,) * max(2, min(shapes.samples, shapes.most_frames // n))) for n in (1, 7, 16, 64)]
    return [
        *fixed,
        Case("F3, mixture", mixture),
        Case("F1, mixture", mixture, changes={"freeze_dino": True, "freeze_llm": True}),
        Case("A6, mixture", mixture, changes={"coarse_only": True}),
        Case("B1, mixture", mixture, changes={"encoder": "multi_token", "tokens_per_frame": 16}),
        Case("A8a, images", images),
        Case("A8b, images", images, replicate=16),
    ]


@dataclass(frozen=True)
class Row:
    case: str
    samples: int
    samples_per_s: float
    plain_samples_per_s: float
    roofline_samples_per_s: float
    matrix_share: float
    """Of the rate of a large matrix product."""
    memory_gib: float | None
    """Peak of our step, on a GPU."""

    @property
    def ratio(self) -> float:
        return self.samples_per_s / self.plain_samples_per_s

    @property
    def roofline_share(self) -> float:
        return self.samples_per_s / self.roofline_samples_per_s


def measured(case: Case, shapes: Shapes, ceilings: Ceilings, device: torch.device, repeat: int) -> Row:
    """Our step and the plain one in turn, on the same batches; the least time of each."""
    settings = ModelConfig(**case.changes)
    torch.manual_seed(0)
    model = assemble(settings, Dinov2Model(shapes.dino), LlamaForCausalLM(shapes.llm), seed=0).to(device)
    batch = random_batch(case, shapes)
    optimizer, trainable = (
        build_optimizer(model.parts(), model, OptimConfig()),
        [p for p in model.parameters() if p.requires_grad],
    )
    ours, plain = our_step(model, optimizer, trainable, device), plain_step(model, trainable, device)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    memory = None
    for turn in range(repeat + 2):
        for name, step in (("ours", ours), ("plain", plain)):
            if device.type == "cuda" and name == "ours":
                torch.cuda.reset_peak_memory_stats(device)
            spent = seconds(lambda step=step: step(batch), device)  # type: ignore[misc]  # bound here
            if device.type == "cuda" and name == "ours":
                memory = torch.cuda.max_memory_allocated(device) / 2**30
            if turn >= 2:  # the first two warm up
                times[name].append(spent)
    samples = len(case.frames)
    work = [
        op for i in range(samples) for op in operations(settings, sizes(shapes.dino, shapes.llm, shapes.side), shape_of(batch, i))
    ]
    flops = sum(op.flops for op in work)
    return Row(
        case.name,
        samples,
        samples / min(times["ours"]),
        samples / min(times["plain"]),
        samples / roofline_s(work, ceilings, samples),
        flops / min(times["ours"]) / ceilings.flops_per_s,
        memory,
    )


def random_batch(case: Case, shapes: Shapes) -> Batch:
    """Random pixels and words; all text is supervised."""
    random, samples = torch.Generator().manual_seed(1), len(case.frames)
    lengths = torch.randint(shapes.words[0], shapes.words[1] + 1, (samples,), generator=random)
    is_text = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    ids = torch.randint(1, shapes.llm.vocab_size, is_text.shape, generator=random).where(is_text, 0)
    frame_of = torch.full((samples, max(case.frames) * case.replicate), -1)
    used = 0
    for i, count in enumerate(case.frames):
        frame_of[i, : count * case.replicate] = torch.arange(used, used + count).repeat_interleave(case.replicate)
        used += count
    frames = torch.randn(used, 3, shapes.side, shapes.side, generator=random)
    return Batch(frames, frame_of, ids, is_text, is_text.clone(), tuple(range(samples)), ("",) * samples)


def shape_of(batch: Batch, sample: int) -> Shape:
    shown = batch.frame_of[sample][batch.frame_of[sample] >= 0]
    words = int(batch.is_text[sample].sum())
    return Shape(len(torch.unique(shown)), len(shown), words, words - (len(shown) == 0))


Step = Callable[[Batch], None]


def our_step(
    model: VisionLanguageModel, optimizer: torch.optim.Optimizer, trainable: list[nn.Parameter], device: torch.device
) -> Step:
    config, ranks = TrainConfig(), Ranks(0, 1, device)

    def step(batch: Batch) -> None:
        # Micro-batch 1 of a run: F3 measures its coarse loss on one in eight, which is no part of training.
        totals = accumulate(model, model, iter([batch]), StepPlan((batch.rows,), 1, False), config, ranks, Clock()).over(ranks)
        norm = scale_and_clip(trainable, 1 / totals.targets, 1.0)
        step_if_finite(optimizer, totals.loss, norm)
        optimizer.zero_grad(set_to_none=True)
        totals.read(norm)

    return step


def plain_step(model: VisionLanguageModel, trainable: list[nn.Parameter], device: torch.device) -> Step:
    plain, optimizer = PlainModel(model), torch.optim.AdamW(trainable, lr=1e-5)

    def step(batch: Batch) -> None:
        tensors: dict[str, Any] = {name: x.to(device) for name, x in vars(batch).items() if isinstance(x, torch.Tensor)}
        moved = replace(batch, **tensors)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss = plain(moved) / moved.supervised.sum()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def comparison(rows: Sequence[Row], ceilings: Ceilings, usd_per_hour: float) -> Table:
    rate, copied = ceilings.flops_per_s / 1e9, ceilings.bytes_per_s / 1e9
    title = f"Whole steps; ceilings {rate:,.0f} GFLOP/s (product), {copied:,.0f} GB/s (copy)"
    table = Table(title=title)
    for column in (
        "case",
        "batch",
        "samples/s",
        "plain",
        "ratio",
        "roofline",
        "of it",
        "of matrix rate",
        "GiB",
        "h per 1 M",
        "USD",
    ):
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in rows:
        hours = 1e6 / row.samples_per_s / 3600
        table.add_row(
            row.case,
            str(row.samples),
            f"{row.samples_per_s:,.0f}",
            f"{row.plain_samples_per_s:,.0f}",
            f"{row.ratio:.2f}",
            f"{row.roofline_samples_per_s:,.0f}",
            f"{row.roofline_share:.0%}",
            f"{row.matrix_share:.0%}",
            "" if row.memory_gib is None else f"{row.memory_gib:.1f}",
            f"{hours:.2f}",
            f"{hours * usd_per_hour:.2f}",
        )
    return table


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainer", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--steps", type=int, default=100, help="of the loop, for the split")
    parser.add_argument("--repeat", type=int, default=6, help="timed steps of each case")
    parser.add_argument("--usd-per-hour", type=float, default=0.0, help="of one GPU")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("Error: --device cuda, and torch sees no GPU here", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    device, shapes = torch.device(asked.device), shapes_called(asked.shapes)
    ceilings = measure(device)
    rows = [measured(case, shapes, ceilings, device, asked.repeat) for case in cases(shapes)]
    loop = None
    if asked.shapes == "tiny" and asked.device == "cpu":
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            loop = split(Path(folder), asked.steps)
    if asked.json:
        told = [asdict(row) | {"ratio": row.ratio, "roofline_share": row.roofline_share} for row in rows]
        document: dict[str, Any] = {"device": asked.device, "shapes": asked.shapes, "ceilings": asdict(ceilings), "rows": told}
        print(json.dumps(document | ({"split": asdict(loop) | {"overhead": loop.overhead}} if loop else {})))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(comparison(rows, ceilings, asked.usd_per_hour))
    if loop:
        console.print(split_table(loop))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
