"""The one writer under load: many jobs that each write many points a second, and a person who looks on.

    python -m benchmarks.load [--jobs 64] [--per-s 100] [--seconds 60] [--json]

Another process plays the trainers: each job appends a line of ten metrics to its metrics.jsonl and flushes it, so often that it
makes `per-s` points a second; how long a line took is what a trainer waits for. This process collects as the launch loop does.
A third one asks the database, as `ablate status` does, for the newest point of every job; its age is what a person sees late.
Lost: points that were written and are not in the database when all is collected.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ablate.folders import Folders
from ablate.launching.collect import collect_points
from ablate.launching.crew import POLL_S
from db.records import JobRecord
from db.store import Store

NOW = "2026-11-22T00:00:00Z"
PER_LINE = 10
TRAINERS = """
import json, sys, time
folders, pause, seconds, per_line = json.loads(sys.argv[1])
logs = [open(f"{folder}/metrics.jsonl", "a") for folder in folders]
began, step, longest = time.time(), 0, 0.0
while time.time() - began < seconds:
    step += 1
    for log in logs:
        before = time.perf_counter()
        metrics = {f"m{n}": step + n / 10 for n in range(per_line - 1)}
        log.write(json.dumps({"attempt": 1, "step": step, "metrics": {**metrics, "at": time.time()}}) + "\\n")
        log.flush()
        longest = max(longest, time.perf_counter() - before)
    time.sleep(max(0.0, began + step * pause - time.time()))
print(json.dumps({"steps": step, "longest_s": longest, "seconds": time.time() - began}))
"""
LOOKER = """
import json, sys, time
from db.store import Store
path, seconds = json.loads(sys.argv[1])
store, began, ages, asked = Store.open(path, "bench", "full"), time.time(), [], []
while time.time() - began < seconds:
    time.sleep(0.5)
    before = time.time()
    newest = store.latest(None, ("at",))
    asked.append(time.time() - before)
    if newest and before - began > 3.0:
        ages.append(max(time.time() - values["at"][1] for values in newest.values()))
print(json.dumps({"oldest_s": max(ages, default=0.0), "median_s": sorted(ages)[len(ages) // 2] if ages else 0.0,
                  "longest_answer_s": max(asked)}))
"""


def measure(jobs: int, per_s: float, seconds: float, root: Path) -> dict[str, Any]:
    """per_s: points per second and job."""
    store, folders = Store.open(root / "study.sqlite", "bench", "full"), Folders(root / "outputs", "bench", "full")
    keys = [f"R{number}-s42-{number:08x}" for number in range(jobs)]
    store.save_jobs(JobRecord(key, key, 42, {}, 1, NOW) for key in keys)
    for key in keys:
        store.claim(key, started_at=NOW)
        folders.attempt(key, 1).mkdir(parents=True)
    places = [str(folders.attempt(key, 1)) for key in keys]
    trainers = _start(TRAINERS, [places, PER_LINE / per_s, seconds, PER_LINE])
    looker = _start(LOOKER, [store.path, seconds])
    offsets, busy_s, longest_s = store.offsets(), 0.0, 0.0
    running = [(key, 1) for key in keys]
    while trainers.poll() is None:
        began = time.perf_counter()
        collect_points(store, folders, running, offsets)
        took = time.perf_counter() - began
        busy_s, longest_s = busy_s + took, max(longest_s, took)
        time.sleep(POLL_S)
    wrote, saw = json.loads(trainers.communicate()[0]), json.loads(looker.communicate()[0])
    before: dict[tuple[str, int], int] | None = None
    while offsets != before:
        before = dict(offsets)
        collect_points(store, folders, running, offsets)
    kept = sum(len(curve) for name in [*(f"m{n}" for n in range(PER_LINE - 1)), "at"] for curve in store.curves(name).values())
    points = wrote["steps"] * PER_LINE * jobs
    return {
        "jobs": jobs,
        "points": points,
        "points_per_s": round(points / wrote["seconds"]),
        "lost": points - kept,
        "trainer_waits_at_most_s": round(wrote["longest_s"], 4),
        "visible_after_at_most_s": round(saw["oldest_s"], 3),
        "visible_after_median_s": round(saw["median_s"], 3),
        "status_answers_within_s": round(saw["longest_answer_s"], 3),
        "writer_busy": round(busy_s / wrote["seconds"], 3),
        "longest_collect_s": round(longest_s, 3),
    }


def _start(program: str, arguments: list[Any]) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", program, json.dumps(arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--per-s", type=float, default=100.0, help="points per second and job")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="load-") as root:
        found = measure(asked.jobs, asked.per_s, asked.seconds, Path(root))
    print(json.dumps(found, indent=1) if asked.json else "\n".join(f"{name:<26} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
