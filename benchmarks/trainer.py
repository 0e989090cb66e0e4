"""How fast the trainer is: against the same model written plainly, against the roofline, part by part, and the loop around it.

    python -m benchmarks.trainer [--device cpu|cuda] [--shapes tiny|full] [--tables rows,parts,options,loop] [--json]

Four tables. Rows: whole steps (packing, transfer, forward, loss, backward, clipping, optimiser) of this trainer and of the plain
model in turn, on the same random batches (`cases.py`), beside the roofline of the products that training takes; "work" is the
plain model's arithmetic against ours, what the ratio would be were every FLOP as fast as any other. Parts: such a step part by
part, forward and backward, each against its own roofline. Options: one setting or habit changed at a time, F3's mixture. Loop:
the real loop (`trainer.train`) on small data with decoded frames cached.

On a CPU all times are processor time of one thread: other people's processes change them least. GPU times are wall time; rows are
of compiled layers there (`--compile on|off|tuned`). Whoever does not fit into the memory takes its batch in more micro-batches.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import itertools
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import Case, Shapes, cases, model_of, part_of, random_batch, shapes_called, work_of
from benchmarks.ceilings import Ceilings, measure, roofline_s, seconds
from benchmarks.plain_model import PlainModel
from trainer.config import OptimConfig, TrainConfig, TrainingConfig
from trainer.data.batches import Batch
from trainer.data.frames import Frames
from trainer.data.open import open_data
from trainer.data.prepare import prepare_small
from trainer.data.tokenizer import write_tiny_tokenizer
from trainer.evaluate import chunks
from trainer.feed import Feed
from trainer.flops import Operation
from trainer.job import Job, read_job
from trainer.model.vision_language import VisionLanguageModel
from trainer.optim import build_optimizer
from trainer.phases import phase, watching
from trainer.ranks import Ranks, start_ranks
from trainer.step import Clock, StepPlan, accumulate, update
from trainer.train import StopSignal, train

WARM_UP = 2
"""Steps before the timed ones; the first compiles, where layers are compiled."""
PARTS = {"encode": ("dino",), "queries": ("queries",), "lm": ("coarse_lm", "fine_lm"), "loss": ("head",)}
"""A part of the step (`trainer/phases.py`) -> parts of the count (`trainer/flops.py`)."""
ADAM_BYTES = 4 * (7 + 3)
"""Per parameter: AdamW reads weight, gradient, two moments and writes three of them; scaling and clipping pass over gradients."""
Step = Callable[[], None]


@dataclass(frozen=True)
class Bench:
    """On what, how long and how everything is timed."""

    device: torch.device
    shapes: Shapes
    ceilings: Ceilings
    samples: int
    repeat: int
    settings: TrainingConfig
    """How the trainer's own steps are run."""

    @property
    def ranks(self) -> Ranks:
        return Ranks(0, 1, self.device)


# ---------------------------------------------------------------- steps


@dataclass(frozen=True)
class Timed:
    seconds: float
    """The least of the repeated steps."""
    micro_batches: int
    memory_gib: float | None
    """Peak of a step, on a GPU."""


def our_step(model: VisionLanguageModel, parts: Sequence[Batch], bench: Bench, fused: bool = True) -> Step:
    """One step after another on the same micro-batches, as the loop takes them."""
    config, ranks = TrainConfig(train=bench.settings), bench.ranks
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = build_optimizer(model.parts(), model, OptimConfig())
    plain_optimizer = torch.optim.AdamW(optimizer.param_groups, foreach=True) if not fused else None
    ready = [part.pin_memory() for part in parts] if bench.device.type == "cuda" else parts
    feed = Feed(itertools.chain.from_iterable(itertools.repeat(ready)), model.connector.tokens_per_frame, bench.device)
    # Counted from micro-batch 1 of a run on: F3 measures its coarse loss on one in eight, which is no part of training.
    plan = StepPlan(tuple(part.rows for part in parts), 1, False)

    def step() -> None:
        totals = accumulate(model, model, feed, plan, config, ranks, Clock()).over(ranks)
        if plain_optimizer is None:
            with phase("optimizer"):
                update(totals, optimizer, trainable, config, ranks)
            return
        for p in trainable:
            p.grad = None if p.grad is None else p.grad / totals.targets
        norm = nn.utils.clip_grad_norm_(trainable, 1.0)
        plain_optimizer.step()
        plain_optimizer.zero_grad()
        totals.read(norm)

    return step


def plain_step(model: VisionLanguageModel, parts: Sequence[Batch], bench: Bench) -> Step:
    """As one would write it first: floats from the loader, moved and waited for, a wait in every step, AdamW as it comes."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    plain, optimizer = PlainModel(model), torch.optim.AdamW(trainable, lr=1e-5)
    ready = [replace(part, frames=part.look.normalised(part.frames), look=None) for part in parts if part.look is not None]
    supervised = sum(int(part.supervised.sum()) for part in parts)

    def step() -> None:
        for part in ready:
            tensors: dict[str, Any] = {name: x.to(bench.device) for name, x in vars(part).items() if isinstance(x, torch.Tensor)}
            with torch.autocast(bench.device.type, dtype=torch.bfloat16, enabled=bench.device.type == "cuda"):
                loss = plain(replace(part, **tensors)) / supervised
            if loss.requires_grad:  # texts alone, where the backbones are frozen, train nothing
                torch.autograd.backward(loss)
            loss.item()
        nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def in_turn(makers: Sequence[Callable[[int], Step]], bench: Bench) -> list[Timed]:
    """Time the steps that these make, each for a number of micro-batches: one step of each after the other on a CPU.

    On a GPU, which nobody shares, one maker after the other: what one has cached is not in the other's way.
    """
    if bench.device.type == "cpu":
        return _timed([_that_fits(make, bench) for make in makers], bench)
    found = []
    for make in makers:
        found += _timed([_that_fits(make, bench)], bench)
        gc.collect()
        torch.cuda.empty_cache()
    return found


def _timed(steps: Sequence[tuple[Step, int]], bench: Bench) -> list[Timed]:
    """steps: and the micro-batches of each."""
    times: list[list[float]] = [[] for _ in steps]
    memory: list[float | None] = [None for _ in steps]
    for _ in range(bench.repeat):
        for i, (step, _count) in enumerate(steps):
            if bench.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(bench.device)
            times[i].append(seconds(step, bench.device))
            if bench.device.type == "cuda":
                memory[i] = torch.cuda.max_memory_allocated(bench.device) / 2**30
    return [Timed(min(its), count, gib) for its, gib, (_, count) in zip(times, memory, steps, strict=True)]


def _that_fits(make: Callable[[int], Step], bench: Bench) -> tuple[Step, int]:
    """A warm step and its number of micro-batches: twice as many, as long as memory does not suffice."""
    count = 1
    while True:
        step = make(count)
        try:
            for _ in range(WARM_UP):
                step()
        except torch.OutOfMemoryError:
            if count >= bench.samples:
                raise
        else:
            return step, count
        del step
        gc.collect()
        torch.cuda.empty_cache()
        count *= 2


def cut(batch: Batch, count: int) -> list[Batch]:
    rows = list(range(len(batch.rows)))
    return [batch] if count == 1 else [part_of(batch, some) for some in chunks(rows, -(-len(rows) // count))]


# ---------------------------------------------------------------- rows


@dataclass(frozen=True)
class Row:
    case: str
    samples: int
    samples_per_s: float
    plain_samples_per_s: float
    plain_work: float
    """FLOPs of the plain model's step against ours, counted."""
    roofline_samples_per_s: float
    matrix_share: float
    """Of the rate of a large matrix product."""
    memory_gib: float | None
    plain_memory_gib: float | None
    micro_batches: int
    plain_micro_batches: int

    @property
    def ratio(self) -> float:
        return self.samples_per_s / self.plain_samples_per_s

    @property
    def roofline_share(self) -> float:
        return self.samples_per_s / self.roofline_samples_per_s


def measured(case: Case, bench: Bench) -> Row:
    """Our step and the plain one, on the same batch and weights of the same model."""
    model, batch = model_of(case, bench.shapes).to(bench.device), random_batch(case, bench.shapes)
    ours, plain = in_turn(
        [lambda n: our_step(model, cut(batch, n), bench), lambda n: plain_step(model, cut(batch, n), bench)], bench
    )
    work, samples = work_of(case, bench.shapes, batch), len(case.frames)
    flops = sum(op.flops for op in work)
    return Row(
        case.name,
        samples,
        samples / ours.seconds,
        samples / plain.seconds,
        counted_flops(plain_step(model, cut(batch, plain.micro_batches), bench), bench) / flops,
        samples / roofline_s(work, bench.ceilings, samples / ours.micro_batches),
        flops / ours.seconds / bench.ceilings.flops_per_s,
        ours.memory_gib,
        plain.memory_gib,
        ours.micro_batches,
        plain.micro_batches,
    )


def counted_flops(step: Step, bench: Bench) -> float:
    """By torch's counter, which does not see into the attention that a CPU would take."""
    plainly = sdpa_kernel(SDPBackend.MATH) if bench.device.type == "cpu" else contextlib.nullcontext()
    with plainly, FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def rows_table(rows: Sequence[Row], bench: Bench, usd_per_hour: float) -> Table:
    rate, copied = bench.ceilings.flops_per_s / 1e9, bench.ceilings.bytes_per_s / 1e9
    how = ", layers compiled" if bench.settings.compile else ""
    table = _table(
        f"Whole steps{how}; ceilings {rate:,.0f} GFLOP/s (product), {copied:,.0f} GB/s (copy)",
        (
            "case",
            "batch",
            "samples/s",
            "plain",
            "ratio",
            "work",
            "roofline",
            "of it",
            "of matrix rate",
            "GiB",
            "plain GiB",
            "s per 1 M",
            "USD",
        ),
    )
    for row in rows:
        per_million = 1e6 / row.samples_per_s
        table.add_row(
            row.case,
            f"{row.samples}" + (f" / {row.micro_batches}" if row.micro_batches > 1 else ""),
            _rate(row.samples_per_s),
            _rate(row.plain_samples_per_s),
            f"{row.ratio:.2f}",
            f"{row.plain_work:.2f}",
            _rate(row.roofline_samples_per_s),
            f"{row.roofline_share:.0%}",
            f"{row.matrix_share:.0%}",
            _gib(row.memory_gib),
            _gib(row.plain_memory_gib),
            f"{per_million:,.0f}",
            f"{per_million / 3600 * usd_per_hour:.2f}",
        )
    return table


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"


def _gib(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


# ---------------------------------------------------------------- parts


@dataclass(frozen=True)
class Part:
    """Milliseconds of a step; what is neither forward nor backward stands under forward."""

    name: str
    forward_ms: float
    backward_ms: float
    roofline_ms: float | None

    @property
    def ms(self) -> float:
        return self.forward_ms + self.backward_ms


def parts_of(case: Case, bench: Bench) -> list[Part]:
    """The fastest of the repeated steps, each waited for at the boundaries of its parts."""
    model, batch = model_of(case, bench.shapes).to(bench.device), random_batch(case, bench.shapes)
    clock = time.process_time if bench.device.type == "cpu" else time.perf_counter
    watches = []
    step, count = _that_fits(lambda n: our_step(model, cut(batch, n), bench), bench)
    for _ in range(bench.repeat):
        with watching(bench.device, clock=clock) as watch:
            step()
        watches.append(dict(watch.seconds))
    best = min(watches, key=lambda its: sum(its.values()))
    work = work_of(case, bench.shapes, batch)
    parts = [_part(name, best, work, bench, len(case.frames) / count) for name in PARTS]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    adam_ms = 1000 * ADAM_BYTES * trained / bench.ceilings.bytes_per_s
    known = sum(part.ms for part in parts)
    data_ms = 1000 * best["data"]
    update_ms = 1000 * best["optimizer"]
    rest_ms = 1000 * sum(best.values()) - known - data_ms - update_ms
    return [
        Part("data", data_ms, 0.0, None),
        *parts,
        Part("optimizer", update_ms, 0.0, adam_ms),
        Part("rest", rest_ms, 0.0, None),
    ]


def _part(name: str, spent: Mapping[str, float], work: Sequence[Operation], bench: Bench, samples: float) -> Part:
    def ms(way: str) -> float:
        return 1000 * sum(s for path, s in spent.items() if path.startswith(way) and path.endswith(f"/{name}"))

    mine = [op for op in work if op.part in PARTS[name]]
    return Part(name, ms("forward"), ms("backward"), 1000 * roofline_s(mine, bench.ceilings, samples))


def parts_table(case: str, parts: Sequence[Part]) -> Table:
    table = _table(f"A step part by part: {case}", ("part", "forward ms", "backward ms", "share", "roofline ms", "of it"))
    whole = sum(part.ms for part in parts)
    for part in parts:
        limit = part.roofline_ms
        table.add_row(
            part.name,
            f"{part.forward_ms:.2f}",
            f"{part.backward_ms:.2f}" if part.backward_ms else "",
            f"{part.ms / whole:.1%}",
            "" if limit is None else f"{limit:.2f}",
            "" if not limit or not part.ms else f"{limit / part.ms:.0%}",
        )
    return table


# ---------------------------------------------------------------- options


@dataclass(frozen=True)
class Option:
    name: str
    samples_per_s: float
    gain: float
    """Against the trainer as it is by default."""
    gradient: float
    """The norm of what its gradient differs by, against that of the default's, at the same weights: rounding, or a mistake."""
    memory_gib: float | None
    micro_batches: int


def options(bench: Bench) -> Iterator[Option]:
    """F3's mixture, each thing alone against the defaults, in turn with them."""
    case = next(case for case in cases(bench.shapes, bench.samples) if case.name == "F3, mixture")
    model, batch = model_of(case, bench.shapes).to(bench.device), random_batch(case, bench.shapes)

    def whole(n: int) -> list[Batch]:
        return cut(batch, n)

    def ours(parts: Callable[[int], Sequence[Batch]], fused: bool = True, **settings: Any) -> Way:
        return Way(parts, replace(bench, settings=TrainingConfig(**settings)), fused)

    by_length = sorted(range(bench.samples), key=lambda row: (case.frames[row], int(batch.is_text[row].sum())))
    tried = {
        "layers compiled": ours(whole, compile=True),
        "activations checkpointed": ours(whole, activation_checkpointing=True),
        "both": ours(whole, compile=True, activation_checkpointing=True),
        "frames carried as floats": ours(lambda n: [_floats(part) for part in cut(batch, n)]),
        "AdamW not fused": ours(whole, fused=False),
        "4 micro-batches": ours(lambda n: cut(batch, 4 * n)),
        "4 micro-batches of like lengths": ours(
            lambda n: [part_of(batch, some) for some in chunks(by_length, -(-len(by_length) // (4 * n)))]
        ),
    }
    usual = ours(whole)
    for i, (name, way) in enumerate(tried.items()):
        default, other = in_turn([partial(usual.step, model), partial(way.step, model)], bench)
        if i == 0:
            yield Option("defaults", bench.samples / default.seconds, 1.0, 0.0, default.memory_gib, default.micro_batches)
        exact, its = usual.gradient(model, default.micro_batches), way.gradient(model, other.micro_batches)
        away = float(nn.utils.get_total_norm([a - b for a, b in zip(exact, its, strict=True)]) / nn.utils.get_total_norm(exact))
        gain = default.seconds / other.seconds
        yield Option(name, bench.samples / other.seconds, gain, away, other.memory_gib, other.micro_batches)


@dataclass(frozen=True)
class Way:
    """How a batch is trained on."""

    parts: Callable[[int], Sequence[Batch]]
    """Its micro-batches, when they are as many times the usual."""
    bench: Bench
    fused: bool

    def step(self, model: VisionLanguageModel, times: int) -> Step:
        return our_step(model, self.parts(times), self.bench, self.fused)

    def gradient(self, model: VisionLanguageModel, times: int) -> list[Tensor]:
        """Summed over the batch's tokens, of the weights as they are."""
        parts = self.parts(times)
        feed = Feed(iter(parts), model.connector.tokens_per_frame, self.bench.device)
        plan = StepPlan(tuple(part.rows for part in parts), 1, False)
        accumulate(model, model, feed, plan, TrainConfig(train=self.bench.settings), self.bench.ranks, Clock())
        found = [p.grad for p in model.parameters() if p.grad is not None]
        model.zero_grad(set_to_none=True)
        return found


def _floats(batch: Batch) -> Batch:
    assert batch.look is not None
    return replace(batch, frames=batch.look.normalised(batch.frames), look=None)


def options_table(found: Sequence[Option]) -> Table:
    table = _table("F3's mixture, one thing changed at a time", ("", "samples/s", "against defaults", "gradient off by", "GiB"))
    for option in found:
        cells = (_rate(option.samples_per_s), f"{option.gain:.2f}", f"{option.gradient:.0e}", _gib(option.memory_gib))
        table.add_row(option.name + (f" ({option.micro_batches} micro-batches)" if option.micro_batches > 1 else ""), *cells)
    return table


# ---------------------------------------------------------------- the loop


PHASES = ("data", "encode", "queries", "lm", "loss", "forward, rest", "backward", "optimizer", "sync", "logging", "other")
AROUND = ("data", "sync", "logging", "other")
"""What is neither forward nor backward nor optimiser; other: the loop itself, its plans, rates and counters."""
MOST_OVERHEAD = 0.05
"""Share of a step outside forward, backward and optimiser."""


@dataclass(frozen=True)
class Split:
    """A step of the real loop, in milliseconds by phase."""

    steps: int
    samples_per_s: float
    step_ms: float
    phases_ms: Mapping[str, float]

    @property
    def overhead(self) -> float:
        """The share of a step outside forward, backward and optimiser."""
        return sum(self.phases_ms[name] for name in AROUND) / self.step_ms


def split(folder: Path, bench: Bench, steps: int) -> Split:
    """Run the loop for `steps` steps on small data made in `folder`."""
    prepare_small(folder / "data", folder / "files")
    batch = bench.samples
    job = _job(folder, bench, {"batch_samples": batch, "micro_batch_samples": batch, "samples": steps * batch})
    data = open_data(job.config, job.seed, job.cache)
    frames = Frames(folder / "data" / "shards", bench.shapes.look.size, folder / "files")
    for shard in sorted((folder / "data" / "shards").glob("*.tar")):
        frames.prepare(shard.name)
    clock = time.process_time if bench.device.type == "cpu" else time.perf_counter
    with watching(bench.device, clock=clock) as watch, contextlib.redirect_stdout(io.StringIO()):
        train(job, data, replace(start_ranks(), device=bench.device), StopSignal())
    named = {"step": "other", "forward": "forward, rest"}
    spent: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    for path, its_s in watch.seconds.items():
        if path.split("/")[0] == "step" and "evaluate" not in path:
            last = "backward" if "/backward" in path else path.split("/")[-1]
            spent[named.get(last, last)] += 1000 * its_s / steps
    whole = sum(spent.values())
    return Split(steps, 1000 * batch / whole, whole, spent)


def _job(folder: Path, bench: Bench, budget: Mapping[str, Any]) -> Job:
    """The tiny profile of runs.toml on untrained backbones, or with full shapes on real-size ones: no number is of weights."""
    model = {"vision": "tiny/dino-untrained", "language": "tiny/llama-untrained"}
    if bench.shapes.name == "full":
        model = {name: str(folder / name) for name in model}
        whole = model_of(Case("F3", (1,)), bench.shapes)
        whole.dino.save_pretrained(folder / "vision")
        whole.llm.save_pretrained(folder / "language")
        write_tiny_tokenizer(folder / "language")
    settings = {
        "model": model,
        "optim": {"lr": 5e-4},
        "train": {**budget, "precision": "bfloat16" if bench.device.type == "cuda" else "float32"},
        "data": {
            "mix": {"video": 0.60, "image": 0.26, "text": 0.14},
            "workers": 4 if bench.device.type == "cuda" else 0,
            "repeat": True,
            "root": str(folder / "data"),
        },
        "eval": {"set": "val_tiny", "every_samples": 10**9},
    }
    attempt = folder / "split"
    attempt.mkdir()
    said = {"job": "split", "run": "split", "seed": 42, "attempt": 1, "settings": settings, "files": str(folder / "files")}
    (attempt / "config.json").write_text(json.dumps(said))
    return read_job(attempt)


def loop_table(its: Split, bench: Bench) -> Table:
    title = f"A step of the loop, F3 at {bench.shapes.name} shapes, {its.steps} steps: {its.samples_per_s:.0f} samples/s"
    table = _table(title, ("phase", "ms", "share"))
    for name, ms in its.phases_ms.items():
        table.add_row(name, f"{ms:.2f}", f"{ms / its.step_ms:.1%}")
    verdict = "ok" if its.overhead < MOST_OVERHEAD else f"above {MOST_OVERHEAD:.0%}"
    table.add_section()
    table.add_row("step", f"{its.step_ms:.2f}", "100%")
    table.add_row("outside forward, backward, optimizer", "", f"{its.overhead:.1%} ({verdict})")
    return table


# ---------------------------------------------------------------- all of it


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def asked_for(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trainer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--samples", type=int, default=0, help="of a batch; 24 for tiny shapes, 128 for full ones")
    parser.add_argument("--repeat", type=int, default=6, help="timed steps of each case")
    parser.add_argument("--steps", type=int, default=100, help="of the loop")
    parser.add_argument("--tables", default="rows,parts,options,loop", help="some of rows,parts,options,loop")
    parser.add_argument("--cases", default="", help="only those whose name begins like this: F3")
    parser.add_argument(
        "--compile",
        choices=("on", "off", "tuned"),
        help="layers compiled in rows, parts; by default on a GPU; tuned: products chosen by trial",
    )
    parser.add_argument("--usd-per-hour", type=float, default=0.0, help="of one GPU")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    asked = asked_for(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("Error: --device cuda, and torch sees no GPU here", file=sys.stderr)
        return 2
    tables = asked.tables.split(",")
    if set(tables) - {"rows", "parts", "options", "loop"}:
        print(f"Error: --tables {asked.tables!r}; there are rows, parts, options and loop", file=sys.stderr)
        return 2
    if asked.repeat < 1 or asked.steps < 1 or asked.samples < 0:
        print("Error: --repeat and --steps are at least 1, --samples at least 0 (the usual batch)", file=sys.stderr)
        return 2
    named = [case.name for case in cases(shapes_called(asked.shapes), 1)]
    if not any(name.startswith(asked.cases) for name in named):
        print(f"Error: --cases {asked.cases!r}: no case begins so; cases: {'; '.join(named)}", file=sys.stderr)
        return 2
    if asked.device == "cpu":
        torch.set_num_threads(1)
    shapes, device = shapes_called(asked.shapes), torch.device(asked.device)
    compiles = asked.compile or ("on" if asked.device == "cuda" else "off")
    settings = TrainingConfig(compile=compiles != "off")
    if compiles == "tuned":
        from torch._inductor import config as inductor  # seconds, which only those pay who ask for it

        inductor.max_autotune_gemm = True
    samples = asked.samples or {"tiny": 24, "full": 128}[asked.shapes]
    bench = Bench(device, shapes, measure(device), samples, asked.repeat, settings)
    show = Shown(Console(width=None if sys.stdout.isatty() else 150, quiet=asked.json), bench, compiles)
    chosen = [case for case in cases(shapes, samples) if case.name.startswith(asked.cases)]
    try:
        if "rows" in tables:
            show.rows((measured(case, bench) for case in chosen), asked.usd_per_hour)
        if "parts" in tables:
            for case in chosen:
                show.parts(case, parts_of(case, bench))
        if "options" in tables:
            show.options(options(bench))
        if "loop" in tables:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                loop = split(Path(folder), bench, asked.steps)
            show.loop(loop)
    finally:  # a GPU's minutes are dear: what was measured before something failed is told
        if asked.json:
            print(json.dumps(show.document))
    return 0


class Shown:
    """What was measured, drawn as soon as it is there and kept for --json."""

    def __init__(self, console: Console, bench: Bench, compiles: str) -> None:
        self._console, self._bench = console, bench
        name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else platform.processor() or "cpu"
        self.document: dict[str, Any] = {
            "device": name,
            "shapes": bench.shapes.name,
            "samples": bench.samples,
            "compile": compiles,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "ceilings": asdict(bench.ceilings),
        }

    def rows(self, rows: Iterable[Row], usd_per_hour: float) -> None:
        found: list[Row] = []
        told = self.document.setdefault("rows", [])
        for row in rows:
            found.append(row)
            told.append(asdict(row) | {"ratio": row.ratio, "roofline_share": row.roofline_share})
            _progress(
                f"{row.case}: {_rate(row.samples_per_s)} samples/s, {row.ratio:.2f} x plain, {row.roofline_share:.0%} of roofline"
            )
        self._console.print(rows_table(found, self._bench, usd_per_hour))

    def parts(self, case: Case, parts: Sequence[Part]) -> None:
        self.document.setdefault("parts", {})[case.name] = [asdict(part) for part in parts]
        self._console.print(parts_table(case.name, parts))

    def options(self, options: Iterable[Option]) -> None:
        found: list[Option] = []
        told = self.document.setdefault("options", [])
        for option in options:
            found.append(option)
            told.append(asdict(option))
            _progress(f"{option.name}: {option.gain:.2f} x the defaults, gradient off by {option.gradient:.0e}")
        self._console.print(options_table(found))

    def loop(self, its: Split) -> None:
        self.document["loop"] = asdict(its) | {"overhead": its.overhead}
        self._console.print(loop_table(its, self._bench))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
