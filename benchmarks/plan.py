"""What `ablate plan` and `ablate status` cost: over an empty Python, with 10 000 rows, on a database with 10 million points.

    python -m benchmarks.plan [--rows 10000] [--points 10000000] [--repeat 5] [--json]

Every number is the wall time of a whole process. The empty Python runs in turn with the commands, so that a busy machine slows
both; a command's cost is the least of its times minus the least of the empty Python's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ablate.desk import open_desk
from ablate.runs_toml import read_study
from db.records import JobRecord, Point

HEAVY = ("ray", "torch", "transformers", "wandb", "pandas", "scipy", "statsmodels")
"""What `plan` and `status` must not import."""
SHIPPED = Path(__file__).parents[1] / "runs.toml"
COMMAND = """
import sys
from ablate.cli import main
sys.argv[0] = "ablate"
try:
    main()
finally:
    print(*(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""
NOW = "2026-01-01T00:00:00Z"
JOBS, NAMES, BATCH = 100, 10, 100_000


@dataclass(frozen=True)
class Measured:
    what: str
    seconds: float
    """Of wall time, above an empty Python."""
    cpu_s: float
    """Of processor time, above an empty Python: what a quiet machine comes near to."""
    target_s: float
    imports: str = ""
    """Heavy packages found imported; none is wanted."""

    @property
    def ok(self) -> bool:
        return self.seconds <= self.target_s and not self.imports


def measure(what: str, folder: Path, words: list[str], repeat: int, target_s: float) -> Measured:
    """Least of `repeat` runs of a command typed in `folder`, above the least of as many empty ones."""
    script = COMMAND.format(heavy=HEAVY)
    empty, full = [], []
    for _ in range(repeat):
        empty.append(_timed([sys.executable, "-c", "pass"], folder))
        full.append(_timed([sys.executable, "-c", script, *words], folder))
    wall = min(run[0] for run in full) - min(run[0] for run in empty)
    cpu = min(run[1] for run in full) - min(run[1] for run in empty)
    return Measured(what, wall, cpu, target_s, full[-1][2].strip())


def _timed(argv: list[str], folder: Path) -> tuple[float, float, str]:
    """Wall seconds, processor seconds, and what it wrote to stderr."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv[3:])} ended with {done.returncode}: {done.stderr}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stderr


def study_of(rows: int) -> str:
    """A study with this many rows, in blocks of 100 and a sweep for every tenth row."""
    runs = "\n".join(f"R{n} = {{ optim.lr = {1e-3 + n * 1e-7:.7f} }}" for n in range(1, rows))
    sweeps = "\n".join(
        f'[sweep{n}]\nasks = "?"\ncompare = ["R0", "R{n}"]\non = "val_loss"\nlearn = [["R{n} better than R0", "it is"]]'
        for n in range(10, rows, 10)
    )
    names = [f"R{n}" for n in range(rows)]
    blocks = "\n".join(f"{at // 100 + 1} = {json.dumps(names[at : at + 100])}" for at in range(0, rows, 100))
    return f"""
[study]
name = "rows"
asks = "How many rows?"
baseline = "R0"
trainer = {{ command = "true", metrics = {{ file = "log.jsonl" }} }}
gpus_per_run = 2
hours_per_run = 1.0
usd_per_gpu_hour = 1.0
[settings]
optim.lr = 1e-3
[runs]
R0 = {{}}
{runs}
[seeds]
every = [42]
[metrics]
val_loss = {{ better = "lower", margin = 0.01, noise = 0.005 }}
{sweeps}
[blocks]
{blocks}
"""


def fill(folder: Path, points: int) -> None:
    """A database with this many points: every fourth job is running, the others are done."""
    desk = open_desk(read_study(folder / "runs.toml"))
    keys = []
    for number, job in enumerate(desk.plan().jobs):
        assert job.key is not None
        assert job.settings is not None
        desk.store.save_job(JobRecord(job.key, job.run, job.seed, job.settings, 2, NOW))
        desk.store.claim(job.key, started_at=NOW, gpus=2)
        keys.append((job.key, number % 4 == 0))
    for key, _ in keys:
        found = _points(key, points // len(keys))
        while batch := [point for point, _ in zip(found, range(BATCH), strict=False)]:
            desk.store.add_points(key, 1, batch, 0)
    for key, running in keys:
        if not running:
            desk.store.end_attempt(key, 1, "done", "", NOW, 7200.0)
    desk.store.close()


def _points(key: str, count: int) -> Iterator[Point]:
    names = ("loss", "progress", "samples", "val_loss", *(f"metric{n}" for n in range(NAMES - 4)))
    steps = count // NAMES
    for step in range(steps):
        for name in names:
            yield Point(key, 1, step, name, (step + 1) / steps)


def benchmark(rows: int, points: int, repeat: int) -> list[Measured]:
    with tempfile.TemporaryDirectory() as root:
        shipped, many, full = (Path(root) / name for name in ("shipped", "many", "full"))
        for folder, text in ((shipped, SHIPPED.read_text("utf-8")), (many, study_of(rows)), (full, study_of(JOBS))):
            folder.mkdir()
            (folder / "runs.toml").write_text(text, encoding="utf-8")
        measured = [
            measure("plan of the shipped study", shipped, ["plan"], repeat, 0.6),
            measure("plan --json of it", shipped, ["plan", "--json"], repeat, 0.6),
            measure(f"plan of {rows:,} rows", many, ["plan"], max(repeat // 2, 1), 3.0),
        ]
        fill(full, points)
        return [*measured, measure(f"status on {points:,} points", full, ["status"], repeat, 0.5)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=10_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = benchmark(asked.rows, asked.points, asked.repeat)
    if asked.json:
        sys.stdout.write(json.dumps([asdict(one) | {"ok": one.ok} for one in found], indent=2) + "\n")
        return
    table = Table("command", "wall s", "CPU s", "target", "heavy imports", title="Start and work, above an empty Python")
    for one in found:
        table.add_row(one.what, f"{one.seconds:.2f}", f"{one.cpu_s:.2f}", f"≤ {one.target_s:g}", one.imports or "none")
    Console().print(table)


if __name__ == "__main__":
    main()
