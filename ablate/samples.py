"""What the validation set says of two runs' checkpoints, sample by sample: shown beside a comparison, never a verdict by itself.

A trainer may leave eval/STEP.parquet in an attempt's folder, a row per validation sample: `row` (its place in the set), `kind`,
the loss as `loss` (or a column named as the metric), and the `clip` or `image` it is about, null where there is none.

Losses of a run are averaged over the seeds that both runs have; the differences by sample are clustered by clip or image, because
questions about one picture are not independent of each other: Var(mean) = G/(G−1) · Σ_g (Σ_{i∈g} (d_i − d̄))² / n², t with G − 1
degrees of freedom (Liang & Zeger 1986; Cameron & Miller 2015, sections II.B and VI.A; Miller 2024, arXiv:2411.00640, section 2).
It tells whether these *checkpoints* differ. Whether the *recipes* do, only other seeds can tell.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
from scipy import special

LEVEL = 0.05
CLUSTERS = ("cluster", "clip", "image")
"""Columns that say what a sample is about, the first that says something."""


@dataclass(frozen=True)
class SampleLosses:
    """One job's last evaluation."""

    losses: Mapping[int, float]
    """Row of the validation set -> loss."""
    clusters: Mapping[int, Hashable]
    """Row -> what it is about; the row itself where the file does not say."""
    by: str
    """What rows are clustered by: "clip", "image", "clip or image", or "sample"."""


@dataclass(frozen=True)
class SampleEvidence:
    """Run a − run b over the samples of the validation set."""

    seeds: tuple[int, ...]
    """Seeds both have; their losses were averaged."""
    samples: int
    clusters: int
    by: str
    delta: float
    low: float
    high: float
    """[low, high] covers the difference of these checkpoints over such samples with probability 1 − LEVEL."""
    error: float


def read_losses(path: Path, metric: str) -> SampleLosses | None:
    """The losses behind `metric` in a STEP.parquet; None if the file does not have them by sample.

    `val_loss` and `val_loss/KIND` mean the column `loss`, of that kind; any other metric, the column of its name.
    """
    file = parquet.read_table(path)
    names = set(file.column_names)
    whole, _, kind = metric.partition("/")
    column = metric if metric in names else "loss" if whole == "val_loss" else ""
    if column not in names or "row" not in names or (kind and column == "loss" and "kind" not in names):
        return None
    columns = [file.column(name).to_pylist() for name in ("row", column)]
    kinds: Sequence[object] = file.column("kind").to_pylist() if kind and column == "loss" else [kind] * file.num_rows
    kept = [
        (int(row), float(loss), about)
        for row, loss, about, of_kind in zip(*columns, _about(file), kinds, strict=True)
        if loss is not None and math.isfinite(loss) and of_kind == kind
    ]
    if not kept:
        return None
    by = [name for name in CLUSTERS if any(about[0] == name for _, _, about in kept)]
    return SampleLosses({row: loss for row, loss, _ in kept}, {row: about for row, _, about in kept}, " or ".join(by) or "sample")


def _about(file: pa.Table) -> list[tuple[str, object]]:
    """Per row (column, value) of the clip or image it is about; the row itself where none is told."""
    told = {name: file.column(name).to_pylist() for name in CLUSTERS if name in file.column_names}
    return [
        next(((name, values[at]) for name, values in told.items() if values[at] is not None), ("row", row))
        for at, row in enumerate(file.column("row").to_pylist())
    ]


def last_losses(folders: Iterable[Path], metric: str) -> SampleLosses | None:
    """Of a job's attempts, oldest first: the last evaluation of the latest that left one."""
    files = [max(found, key=lambda path: int(path.stem)) for folder in folders if (found := _evaluations(folder))]
    return read_losses(files[-1], metric) if files else None


def paired(a: Mapping[int, SampleLosses], b: Mapping[int, SampleLosses]) -> SampleEvidence | None:
    """a − b over the samples that every job measured; a, b: seed -> losses. None without a common seed or with one cluster."""
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        return None
    jobs = [of_run[seed] for of_run in (a, b) for seed in seeds]
    rows = sorted(set.intersection(*(set(job.losses) for job in jobs)))
    differences = [math.fsum(a[seed].losses[row] - b[seed].losses[row] for seed in seeds) / len(seeds) for row in rows]
    about = [jobs[0].clusters[row] for row in rows]
    if len(set(about)) < 2:
        return None
    delta, error, clusters = clustered_mean(differences, about)
    half = float(special.stdtrit(clusters - 1, 1 - LEVEL / 2)) * error
    return SampleEvidence(seeds, len(rows), clusters, jobs[0].by, delta, delta - half, delta + half, error)


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, float, int]:
    """Mean, its standard error with dependence inside clusters allowed, and the number of clusters (two or more)."""
    mean = math.fsum(values) / len(values)
    sums: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    groups = len(sums)
    variance = groups / (groups - 1) * math.fsum(total**2 for total in sums.values()) / len(values) ** 2
    return mean, math.sqrt(variance), groups


def _evaluations(folder: Path) -> list[Path]:
    return [path for path in (folder / "eval").glob("*.parquet") if path.stem.isdecimal()]
