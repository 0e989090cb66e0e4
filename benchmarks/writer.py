"""Points per second into durable storage: our one writer against other ways to keep metrics, side by side in one run.

    python benchmarks/writer.py [--points 300000] [--jobs 4] [--per-line 15] [--batch 15000] [--seed 0] [--limit-s 8] [--json]

Each way writes the same points; one that would need longer than --limit-s stops there, and its rate is that of what it wrote.
The clock runs until the points are where they stay: committed with fsync (SQLite), or the run finished, its file closed (wandb).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ablate.folders import Folders
from ablate.launching.collect import collect_points
from db.records import JobRecord, Point
from db.store import Store

NOW = "2026-01-01T00:00:00Z"


@dataclass(frozen=True)
class Load:
    """What is written: the steps of `jobs` jobs in turn, `per_line` metrics each."""

    points: int
    jobs: int
    per_line: int
    batch: int
    """Points per commit."""
    seed: int
    limit_s: float

    def lines(self) -> Iterator[tuple[str, int, dict[str, float]]]:
        """(job, step, metrics)"""
        draw = random.Random(self.seed)
        for number in range(self.points // self.per_line):
            step, job = divmod(number, self.jobs)
            yield f"R{job}-s42-{job:08x}", step, {f"metric/{n}": draw.random() for n in range(self.per_line)}

    def batches(self) -> list[list[Point]]:
        """All lines as points, cut into commits."""
        points = [Point(job, 1, step, name, value) for job, step, metrics in self.lines() for name, value in metrics.items()]
        return [points[at : at + self.batch] for at in range(0, len(points), self.batch)]


@dataclass(frozen=True)
class Measured:
    way: str
    points: int = 0
    seconds: float = 0.0
    per_s: float = 0.0
    note: str = ""


def _until(load: Load) -> Callable[[], bool]:
    """True while there is time."""
    end = time.perf_counter() + load.limit_s
    return lambda: time.perf_counter() < end


def store_batches(load: Load, folder: Path) -> tuple[int, float]:
    """Points in memory -> store.add_batches."""
    store, _ = _study(load, folder)
    batches, begun, more = load.batches(), time.perf_counter(), _until(load)
    written = 0
    for number, batch in enumerate(batches):
        if not more():
            break
        of_job: dict[str, list[Point]] = {}
        for point in batch:
            of_job.setdefault(point.job, []).append(point)
        written += store.add_batches([(job, 1, points, number + 1) for job, points in of_job.items()])
    return written, time.perf_counter() - begun


def whole_path(load: Load, folder: Path) -> tuple[int, float]:
    """metrics.jsonl on disk -> collect -> store."""
    store, folders = _study(load, folder)
    texts: dict[str, list[str]] = {}
    for job, step, metrics in load.lines():
        texts.setdefault(job, []).append(json.dumps({"attempt": 1, "step": step, "metrics": metrics}) + "\n")
    for job, lines in texts.items():
        folders.attempt(job, 1).mkdir(parents=True)
        folders.metrics(job, 1).write_text("".join(lines))
    begun, more, offsets, written = time.perf_counter(), _until(load), store.offsets(), 0
    before: dict[tuple[str, int], int] | None = None
    while offsets != before and more():
        before = dict(offsets)
        written += collect_points(store, folders, list(offsets), offsets).points
    return written, time.perf_counter() - begun


def _study(load: Load, folder: Path) -> tuple[Store, Folders]:
    store = Store.open(folder / "study.sqlite", "bench", "full")
    keys = dict.fromkeys(job for job, _, _ in load.lines())
    store.save_jobs(JobRecord(key, key, 42, {}, 1, NOW) for key in keys)
    for key in keys:
        store.claim(key, started_at=NOW)
    return store, Folders(folder / "outputs", "bench", "full")


def sqlite_batches(load: Load, folder: Path) -> tuple[int, float]:
    """The sqlite3 module alone, same commits, a table without any key: what ours can at most reach."""
    return _sqlite(load, folder, load.batches())


def sqlite_lines(load: Load, folder: Path) -> tuple[int, float]:
    """The sqlite3 module alone, a commit per line: a trainer that writes the database itself."""
    cut = [Point(job, 1, step, name, value) for job, step, metrics in load.lines() for name, value in metrics.items()]
    return _sqlite(load, folder, [cut[at : at + load.per_line] for at in range(0, len(cut), load.per_line)])


def _sqlite(load: Load, folder: Path, batches: list[list[Point]]) -> tuple[int, float]:
    shell = sqlite3.connect(folder / "raw.sqlite", isolation_level=None)
    shell.execute("PRAGMA journal_mode = WAL")
    shell.execute("PRAGMA synchronous = FULL")
    shell.execute("CREATE TABLE metrics (job, attempt, step, name, value)")
    begun, more, written = time.perf_counter(), _until(load), 0
    for batch in batches:
        if not more():
            break
        shell.execute("BEGIN")
        rows = [(point.job, point.attempt, point.step, point.name, point.value) for point in batch]
        written += shell.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?)", rows).rowcount
        shell.execute("COMMIT")
    seconds = time.perf_counter() - begun
    shell.close()
    return written, seconds


def wandb_offline(load: Load, folder: Path) -> tuple[int, float]:
    """One offline run, a log call per line; stops logging at half the time, for finish() has to write it all."""
    os.environ |= {"WANDB_SILENT": "true", "WANDB_MODE": "offline", "WANDB_DATA_DIR": str(folder), "WANDB_CACHE_DIR": str(folder)}
    import wandb

    run = wandb.init(
        project="bench", dir=str(folder), mode="offline", settings=wandb.Settings(x_disable_stats=True, console="off")
    )
    begun, written = time.perf_counter(), 0
    for _, _, metrics in load.lines():
        if time.perf_counter() - begun > load.limit_s / 2:
            break
        run.log(metrics)
        written += len(metrics)
    run.finish()
    return written, time.perf_counter() - begun


def mlflow_batches(load: Load, folder: Path) -> tuple[int, float]:
    """MLflow's client on its SQLite store, 1000 metrics (its most) per log_batch."""
    mlflow = importlib.import_module("mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.sqlite'}")
    run = client.create_run(client.create_experiment("bench")).info.run_id
    metric = mlflow.entities.Metric
    rows = [metric(f"{job}/{name}", value, 0, step) for job, step, metrics in load.lines() for name, value in metrics.items()]
    begun, more, written = time.perf_counter(), _until(load), 0
    while written < len(rows) and more():
        client.log_batch(run, metrics=rows[written : written + 1000])
        written = min(written + 1000, len(rows))
    return written, time.perf_counter() - begun


def trackio_lines(load: Load, folder: Path) -> tuple[int, float]:
    """Trackio, a log call per line."""
    os.environ["TRACKIO_DIR"] = str(folder)
    trackio = importlib.import_module("trackio")
    trackio.init(project="bench")
    begun, written = time.perf_counter(), 0
    for _, _, metrics in load.lines():
        if time.perf_counter() - begun > load.limit_s / 2:
            break
        trackio.log(metrics)
        written += len(metrics)
    trackio.finish()
    return written, time.perf_counter() - begun


WAYS: dict[str, tuple[Callable[[Load, Path], tuple[int, float]], str]] = {
    "ablate: add_batches": (store_batches, ""),
    "ablate: JSON lines → collect → store": (whole_path, ""),
    "sqlite3, same commits, no key": (sqlite_batches, ""),
    "sqlite3, a commit per line": (sqlite_lines, ""),
    "wandb offline": (wandb_offline, "wandb"),
    "MLflow, SQLite": (mlflow_batches, "mlflow"),
    "Trackio": (trackio_lines, "trackio"),
}
"""Name -> how, and the package it needs ("" for none but ours)."""


def measure(way: str, load: Load) -> Measured:
    write, package = WAYS[way]
    if package and importlib.util.find_spec(package) is None:
        return Measured(way, note="not installed")
    with tempfile.TemporaryDirectory(prefix="writer-") as folder, redirect_stdout(sys.stderr):  # some print; --json is ours alone
        points, seconds = write(load, Path(folder))
    return Measured(
        way, points, round(seconds, 3), round(points / seconds), "" if points == load.points else "stopped by --limit-s"
    )


def table_of(found: list[Measured]) -> Table:
    ours = found[0].per_s
    table = Table("way", "points", "seconds", "points/s", "of ours", "note", title="metrics into durable storage")
    for each in found:
        numbers = (
            (f"{each.points:,}", f"{each.seconds:.2f}", f"{each.per_s:,.0f}", f"{each.per_s / ours:.3f}")
            if each.points
            else ("",) * 4
        )
        table.add_row(each.way, *numbers, each.note)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Points per second into durable storage.")
    parser.add_argument("--points", type=int, default=300_000)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--per-line", type=int, default=15, help="metrics per step")
    parser.add_argument("--batch", type=int, default=15_000, help="points per commit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=8.0, help="seconds per way")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    whole_lines = asked.points // (asked.per_line * asked.jobs) * asked.per_line * asked.jobs
    load = Load(whole_lines, asked.jobs, asked.per_line, asked.batch, asked.seed, asked.limit_s)
    found = [measure(way, load) for way in WAYS]
    if asked.json:
        print(json.dumps({"load": asdict(load), "ways": [asdict(each) for each in found]}, indent=1))
    else:
        Console().print(table_of(found))


if __name__ == "__main__":
    main()
