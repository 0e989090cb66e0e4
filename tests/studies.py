"""A small study put together by hand, and results for it: for the tests of functions from values to values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any
from zlib import crc32

from ablate.conditions import Condition
from ablate.deciding.noise import Pool, noise_pool
from ablate.deciding.scores import Scores, scores
from ablate.study import (
    Block,
    JobResult,
    Learn,
    Line,
    Metric,
    NamedStart,
    Run,
    Settings,
    Skip,
    Start,
    Study,
    Sweep,
    Take,
    Trainer,
    Tree,
)

SETTINGS: Settings = {
    "model.freeze_dino": False,
    "model.freeze_llm": False,
    "optim.lr": 1e-5,
    "optim.connector_ratio": 10,
    "train.samples": 9600,
    "data.mix": {"video": 0.6, "image": 0.4},
    "data.replicate_image_frames": 1,
    "log.every": 10,
}

RUNS = (
    Run("F3"),
    Run("F1", {"model.freeze_dino": True, "model.freeze_llm": True}),
    Run("F2", {"model.freeze_llm": True}),
    Run("LR2", {"optim.connector_ratio": 100}),
    Run("LR3", {"optim.connector_ratio": 3}),
    Run("LR4", {"optim.connector_ratio": 1}),
    Run("A8a", {"data.replicate_image_frames": 1}, Start("named", ("image stage",))),
    Run("A8b", {"data.replicate_image_frames": 16}, Start("named", ("image stage",))),
    Run("D1", {"data.mix": {"video": 0.9, "image": 0.1}}, Start("winners", ("freeze", "lr"))),
    Run("B1", {"train.samples": 4800}),
)

LOSS = Metric("val_loss", "lower", margin=0.08, unit="nats per token")
VQA = Metric("image_vqa", "higher", margin=0.02, noise=0.01, unit="accuracy")


def tree(name: str, sweep: str, *lines: tuple[str, Condition, str | Take, str]) -> Tree:
    """Lines as (text, condition, take, because); a take that is a name takes that run."""
    return Tree(
        name,
        sweep,
        tuple(
            Line(text, condition, Take("run", (take,)) if isinstance(take, str) else take, because)
            for text, condition, take, because in lines
        ),
    )


def sweep(name: str, *trees: Tree, learn: Sequence[Learn] = (), skip: Skip | None = None, on: str = "val_loss") -> Sweep:
    return Sweep(name, "?", (), on, trees, tuple(learn), skip)


def study(*sweeps: Sweep, **changes: Any) -> Study:
    made = Study(
        name="small",
        profile="full",
        asks="?",
        baseline="F3",
        trainer=Trainer(module="trainer.train"),
        settings=SETTINGS,
        stateful=frozenset(SETTINGS) - {"log.every"},
        runs={run.name: run for run in RUNS},
        aliases={"LR1": "F3"},
        starts={"image stage": NamedStart("image stage", {"data.mix": {"image": 1.0}})},
        seeds={run.name: (42,) for run in RUNS},
        metrics={metric.name: metric for metric in (LOSS, VQA)},
        sweeps={of_sweep.name: of_sweep for of_sweep in sweeps},
        blocks=(Block("1", ("F1", "F2", "F3")), Block("2", ("LR2", "LR3", "LR4"))),
        lock_after="2",
        wrong_adoptions=0.05,
        gpus_per_run=2,
        ranks_per_run=1,
        hours_per_run=4.5,
        usd_per_gpu_hour=0.5,
        max_attempts=3,
        not_swept={},
        figures={},
        wandb=False,
        path=Path("runs.toml"),
        text_hash="",
    )
    return replace(made, **changes)


def settings_of(run: str) -> Settings:
    """Of a row that starts from the baseline or the image stage; of any other name, the baseline's."""
    row = {run.name: run for run in RUNS}.get(run, Run(run))
    start = {**SETTINGS, "data.mix": {"image": 1.0}} if row.start.kind == "named" else SETTINGS
    return {**start, **row.changes}


def jobs(
    run: str,
    values: Sequence[float | str],
    metric: str = "val_loss",
    facts: Mapping[str, Any] | None = None,
    **changes: Any,
) -> list[JobResult]:
    """One job per value, seeds from 42; a word instead of a number is a state without a value."""
    return [
        replace(
            JobResult(
                key=f"{run}-s{42 + place}-{crc32(f'{run} {42 + place}'.encode()):08x}",
                run=run,
                seed=42 + place,
                state=value if isinstance(value, str) else "done",  # type: ignore[arg-type]  # tests give words of JobState
                values={} if isinstance(value, str) else {metric: value},
                settings=settings_of(run),
                facts=facts or {},
                code_hash="c0de",
            ),
            **changes,
        )
        for place, value in enumerate(values)
    ]


KNOWN = Pool("val_loss", 0.05, inf, "declared")


def scores_of(run: str, values: Sequence[float | str], metric: Metric = LOSS) -> Scores:
    """A job per value, as `jobs` makes them."""
    return scores(metric, run, jobs(run, values, metric.name))


def pool_of(metric: Metric, **runs: Sequence[float | str]) -> Pool:
    """The noise of runs with these values."""
    return noise_pool(metric, {run: jobs(run, values, metric.name) for run, values in runs.items()})
