"""START HERE: one training run, from its folder's config.json to result.json.

    python -m trainer.train outputs/foveated-vlm-ablations/tiny/F3-s42-c16774a1/1

Build, then one flat loop: step, now and then evaluate, now and then save. Exit code 0: ended, result.json says how (done or
diverged); 143: told to stop by SIGTERM, a checkpoint is written; 2: the config, or what it names, is wrong; 74: the disk failed.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import torch
from safetensors import SafetensorError

from trainer import checkpoint, disk, pretrained
from trainer.checkpoint import Progress
from trainer.config import ConfigError
from trainer.data.batches import stream_seed
from trainer.data.open import Data, open_data
from trainer.data.processor import FoveatedProcessor
from trainer.data.shards import DataError
from trainer.evaluate import Evaluator, uninformed
from trainer.facts import facts, final_metrics, write_json
from trainer.feed import Feed
from trainer.horizon import Horizon, horizon
from trainer.job import Job, read_job
from trainer.metrics import KINDS, MetricsWriter
from trainer.micro_batch import micro_batch
from trainer.model.load import build_model, find_weights, initial_weights_hash
from trainer.model.vision_language import VisionLanguageModel
from trainer.optim import (
    DivergenceWatch,
    build_optimizer,
    parameters_of,
    rate_factor,
    set_rates,
    warmup_steps,
)
from trainer.phases import each, phase
from trainer.ranks import Ranks, start_ranks, stop_ranks
from trainer.step import Clock, accumulate, plan_step, update

STOPPED = 143
"""Exit code after SIGTERM, as a shell reports it."""


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m trainer.train FOLDER   (an attempt's folder, with its config.json)", file=sys.stderr)
        return 2
    stop = StopSignal()
    stop.listen()
    try:
        job = read_job(Path(arguments[0]))
        find_weights([its.model for its in (job.config, *job.references.values())], job.cache)
        ranks = start_ranks()
        ended = train(job, open_data(job.config, job.seed, job.cache), ranks, stop)
    except (ConfigError, DataError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError, SafetensorError) as error:
        if not (told := disk.trouble(error, Path(arguments[0]))):
            raise
        with contextlib.suppress(OSError):  # the log may be on that disk
            print(f"Error: {told}", file=sys.stderr)
        return disk.FAILED
    stop_ranks(ranks)
    return 0 if ended else STOPPED


class StopSignal:
    """SIGTERM asks the loop to save and end; before the loop there is nothing to save, and the process ends at once."""

    def __init__(self) -> None:
        self.asked = False
        self.looping = False

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        if not self.looping:
            raise SystemExit(STOPPED)


def train(job: Job, data: Data, ranks: Ranks, stop: StopSignal) -> bool:
    """Train one attempt on `data`; all ranks call it together. False when it was stopped before its end."""
    config, began = job.config, time.monotonic()

    # Build: a model, an optimiser, the validation set, how far to go, where to go on.
    torch.manual_seed(stream_seed(job.seed, "dropout") + ranks.rank)
    model = build_model(config.model, job.cache, job.seed)
    weights_hash = initial_weights_hash(model)
    model.to(ranks.device, torch.float64 if config.train.precision == "float64" else torch.float32)
    optimizer = build_optimizer(model.parts(), model, config.optim)
    trained = parameters_of(model.parts(), model)
    trainable = [p for parameters in trained.values() for p in parameters]
    evaluator = Evaluator(data, config, ranks, job.folder)
    end = horizon(job, data.train.samples)
    progress = Progress(of=job.identity)
    if job.resume_from:
        progress = checkpoint.load(Path(job.resume_from), model, optimizer, ranks, progress.of)
    watch = DivergenceWatch(config.train, warmup_steps(end.steps, config.optim), progress)
    progress.micro_batch = progress.micro_batch or micro_batch(model, optimizer, data, config, ranks)
    wrapped = ranks.wrap(model)
    plans = [
        plan_step(data.train.global_batch(step)[: end.samples_of(step)], step, config, ranks, progress.micro_batch)
        for step in range(progress.step, end.steps)
    ]
    batches = data.train.loaded(
        [rows for plan in plans for rows in plan.micro], config.data.workers, pin=ranks.device.type == "cuda"
    )
    feed = Feed(batches, model.connector.tokens_per_frame, ranks.device)
    sizes = {part: sum(p.numel() for p in parameters) for part, parameters in trained.items()}
    earlier_s, saved_at, diverged = progress.wall_s, time.monotonic(), None

    with MetricsWriter(job.folder / "metrics.jsonl", job.attempt, on=ranks.first) as writer:
        if not progress.evals:
            with phase("evaluate"):
                untrained = evaluator.evaluate(wrapped, model, 0)
            progress.untrained = {name: value for name, value in untrained.items() if name.startswith("val_loss")}
            progress.evals.append((0, untrained["val_loss"]))
            writer.write(0, untrained | {"samples": 0, "progress": 0.0})
        counts = {kind: evaluator.of_kind(kind) for kind in KINDS}
        told = uninformed(progress.untrained, data.uninformed, counts) | evaluator.guessed()
        if ranks.first:
            write_json(job.folder / "facts.json", facts(data, end, ranks, weights_hash, sizes, told, progress))
            print(start_told(job, end, ranks, sizes), flush=True)

        # Train: one step, now and then an evaluation, now and then a checkpoint.
        stop.looping = True
        for plan in each("step", plans):
            clock = Clock()
            rates = set_rates(optimizer, rate_factor(progress.step, end.steps, config.optim))
            sums = accumulate(wrapped, model, feed, plan, config, ranks, clock)
            sums.counted["stop"] = int(stop.asked)
            sums.counted["save"] = int(ranks.first and time.monotonic() - saved_at > 60 * config.train.checkpoint_every_minutes)
            with phase("sync"):
                totals = sums.over(ranks)  # from here on every rank has the same numbers, and decides the same
            with clock.computing(), phase("optimizer"):
                told, grad_norm = update(totals, optimizer, trainable, config, ranks)
            samples = end.samples_of(progress.step)
            progress.count(samples, grad_norm, clock.step_s, clock.compute_s)
            diverged = watch.after_step(told["loss"], grad_norm)
            metrics = step_metrics(told, rates, progress, end, ranks) | {"loss": told["loss"], "grad_norm": grad_norm}
            metrics |= {"samples_per_s": samples / clock.step_s, "tokens_per_s": told["tokens"] / clock.step_s}

            last = progress.step == end.steps or diverged is not None
            if last or crosses(config.eval.every_samples, progress.samples - samples, progress.samples):
                with phase("evaluate"):
                    measured = evaluator.evaluate(wrapped, model, progress.step)
                progress.evals.append((progress.step, measured["val_loss"]))
                diverged = diverged or watch.after_eval(progress.step, measured["val_loss"])
                last = last or diverged is not None
                metrics |= measured
                if ranks.first:
                    print(eval_told(progress, end, measured), flush=True)
            progress.wall_s = earlier_s + time.monotonic() - began
            if last:
                metrics |= final_metrics(progress, end, ranks, config.optim)
            if last or progress.step % config.log.every_steps == 0 or "val_loss" in metrics:
                with phase("logging"):
                    writer.write(progress.step, metrics)
            if last:
                break
            if told["save"] or told["stop"]:
                with phase("save"):
                    checkpoint.save(job.folder, model, optimizer, progress, ranks, config.train.keep_checkpoints)
                saved_at = time.monotonic()
            if told["stop"]:
                return False

    if ranks.first:
        end_run(job, data, model, progress, end, diverged)
    ranks.barrier()
    return True


def crosses(every: int, before: int, after: int) -> bool:
    """Does counting from `before` to `after` pass a multiple of `every`?"""
    return after // every > before // every


def step_metrics(
    told: Mapping[str, float], rates: dict[str, float], progress: Progress, end: Horizon, ranks: Ranks
) -> dict[str, float]:
    """What a step is told by, but its loss and speed; `told` are the sums over all ranks."""
    metrics = {f"lr/{part}": rate for part, rate in rates.items()}
    metrics |= {"samples": progress.samples, "memory_gib": ranks.memory_gib(), "progress": progress.step / end.steps}
    if told["compared"]:
        metrics |= {"loss_fine": told["fine"] / told["compared"], "loss_coarse": told["coarse"] / told["compared"]}
    return metrics


def start_told(job: Job, end: Horizon, ranks: Ranks, sizes: dict[str, int]) -> str:
    trains = ", ".join(f"{part} {count:,}" for part, count in sizes.items())
    return (
        f"{job.key} attempt {job.attempt}: {end.samples:,} samples in {end.steps:,} steps of {end.batch_samples} samples, "
        f"{end.flops_per_sample / 1e9:.3g} GFLOP each, on {ranks.world} x {ranks.device.type}; parameters that train: {trains}"
    )


def eval_told(progress: Progress, end: Horizon, measured: dict[str, float]) -> str:
    told = "  ".join(f"{name} {value:.4g}" for name, value in measured.items())
    return f"step {progress.step}/{end.steps}  {told}"


def end_run(job: Job, data: Data, model: VisionLanguageModel, progress: Progress, end: Horizon, diverged: str | None) -> None:
    """Rank 0: the trained model (a diverged one is not kept), then result.json: the only sign that the run ended."""
    if diverged is None and not (job.folder / "model").exists():
        its = job.config.data
        processor = FoveatedProcessor(data.tokenizer, data.look, its.max_frames, its.replicate_image_frames)
        pretrained.save(job.folder / "model", model, job.config.model, processor)
    told = {"samples": progress.samples, "flops": end.flops_per_sample * progress.samples, "wall_s": progress.wall_s}
    outcome = "done" if diverged is None else "diverged"
    write_json(job.folder / "result.json", {"outcome": outcome, "reason": diverged or "", "facts": told})
    checkpoint.remove_all(job.folder)  # only now: whoever is killed before this line can still go on from one
    print(f"{outcome}: {diverged or f'{progress.samples:,} samples in {progress.wall_s:.1f} s'}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
