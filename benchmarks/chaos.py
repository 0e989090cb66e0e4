"""A study disturbed at random must end like one that was left alone.

    python -m benchmarks.chaos N [--cluster] [--seed 0] [--json]

Launches a study (some thirty short jobs with dependencies, trees, a skip and a lock; one of them two ranks of torch) and, at
random moments, kills, freezes for a while, or sends SIGTERM to the launch, a supervisor, a rank or (--cluster) a whole node;
launches again whenever the launch has ended, until the study is done; and so on with fresh studies until N events have
happened. Every study is compared with an undisturbed one: job states, decisions, the lock, every point of every curve; each
job has one attempt that counts; no two gangs of a job live at once; the database rebuilt from the folders says the same; no
process is left. What is done to whom and after what pause follows from --seed; what the processes were doing then does not.

With --json one document: events, kills (of them), differences, orphans, seed, and the differences in words.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ablate.desk import Desk, open_desk
from ablate.launching import collect
from ablate.launching.gang import read_gang
from ablate.runs_toml import read_study
from db.store import Store
from tests.clusters import OwnCluster

REPOSITORY = Path(__file__).parent.parent
EXAMPLE = (REPOSITORY / "examples" / "quick" / "runs.toml").read_text()
METRICS = ("loss", "val_loss", "hits")
EVENTS_PER_STUDY = 25
"""Then it is left alone until it is done."""
LAUNCH_S, STUDY_S = 240.0, 1200.0
"""A launch that takes longer, left alone, hangs; so does a study."""


def study_text(samples: int) -> str:
    """The example study, made smaller, sturdier and with a torch job."""
    text = EXAMPLE
    for old, new in (
        ("train.samples        = 24_000", f"train.samples        = {samples:_}"),
        ('"examples.quick.train"', '"benchmarks.chaos_train"'),
        ("max_attempts     = 3", "max_attempts     = 99"),
        ("train.save_every     = 100", "train.save_every     = 20 "),
        ("faults.seconds       = 0.0", "faults.seconds       = 0.7\nchaos.torch          = false"),
        ("A6  = {", "T1  = { chaos.torch = true }\nA6  = {"),
        ('4 = ["A6", "B1"]', '4 = ["A6", "B1", "T1"]'),
        ("A6 = [43]", "A6 = [43, 44], A1 = [43, 44], LR2 = [43], LR3 = [43], B1 = [43]"),
    ):
        assert old in text, f"the example study has no {old!r} any more"
        text = text.replace(old, new, 1)
    return text


@dataclass(frozen=True)
class Picture:
    """All that must not depend on what happened on the way."""

    states: dict[str, str]
    decisions: dict[str, tuple[str, str]]
    lock: str
    curves: dict[str, dict[str, list[tuple[int, float]]]]

    @staticmethod
    def of(desk: Desk) -> Picture:
        held = desk.store.lock()
        return Picture(
            {job.id: job.state for job in desk.plan().jobs},
            {name: (one.status, one.took) for name, one in desk.store.decisions().items()},
            held.hash if held else "",
            {name: desk.store.curves(name) for name in METRICS},
        )

    def differences(self, other: Picture) -> Iterator[str]:
        """In words, what `other` has differently."""
        for what in ("states", "decisions"):
            ours, theirs = getattr(self, what), getattr(other, what)
            for name in sorted({*ours, *theirs}):
                if ours.get(name) != theirs.get(name):
                    yield f"{what} of {name}: {theirs.get(name)} instead of {ours.get(name)}"
        if self.lock != other.lock:
            yield f"lock {other.lock[:12]} instead of {self.lock[:12]}"
        for metric, curves in self.curves.items():
            for job in sorted({*curves, *other.curves[metric]}):
                ours, theirs = curves.get(job, []), other.curves[metric].get(job, [])
                if ours != theirs:
                    apart = next((a for a, b in zip(ours, theirs, strict=False) if a != b), None)
                    yield f"{metric} of {job}: {len(theirs)} points instead of {len(ours)}, first apart at {apart}"


@dataclass
class Chaos:
    """One study under attack."""

    folder: Path
    draw: random.Random
    cluster: OwnCluster | None
    environment: dict[str, str]
    victims: tuple[str, ...] = ("launch", "supervisor", "rank", "rank")
    """Who may be drawn; on a cluster a node too."""
    done: Counter[str] = field(default_factory=Counter)
    """What was done, by kind: "kill launch"."""
    found: list[str] = field(default_factory=list)
    """Differences, in words."""
    frozen: list[tuple[float, psutil.Process]] = field(default_factory=list)
    """To be woken, and when."""

    def desk(self) -> Desk:
        return open_desk(read_study(self.folder / "runs.toml"))

    def launch(self) -> subprocess.Popen[bytes]:
        where = ["--address", self.cluster.address] if self.cluster else ["--gpus", "4"]
        words = [sys.executable, "-m", "ablate.cli", "launch", "--study", str(self.folder / "runs.toml"), *where]
        with (self.folder / "launch.log").open("ab") as log:
            return subprocess.Popen(words, cwd=REPOSITORY, env=self.environment, stdout=log, stderr=log, start_new_session=True)

    def until_done(self, events: int) -> None:
        """Launch and disturb, again and again; after `events` events leave it alone."""
        began, running, alone_since = time.monotonic(), self.launch(), time.monotonic()
        while True:
            pause_until = time.monotonic() + self.draw.uniform(0.1, 3.0)
            while running.poll() is None and (time.monotonic() < pause_until or sum(self.done.values()) >= events):
                self.wake()
                self.look()
                time.sleep(0.1)
                if time.monotonic() - max(alone_since, began) > LAUNCH_S and sum(self.done.values()) >= events:
                    self.found.append(f"a launch left alone hung for {LAUNCH_S:.0f} s")
                    running.kill()
            self.wake(at_once=running.poll() is not None)
            if running.poll() is not None:
                if running.returncode == 0:
                    return
                if running.returncode == 1 or time.monotonic() - began > STUDY_S:
                    self.found.append(f"the launch ended with {running.returncode}: {self.last_words()}")
                    return
                running, alone_since = self.launch(), time.monotonic()
            elif sum(self.done.values()) < events:
                self.disturb(running.pid)
                alone_since = time.monotonic()

    def disturb(self, launch: int) -> None:
        """One event: somebody is killed, frozen for a while, or told to end. launch: its process id."""
        kinds = [*self.victims, *(["node"] if self.cluster else [])]
        victim, action = self.draw.choice(kinds), self.draw.choice(["kill", "freeze", "term"])
        place, nap = self.draw.random(), self.draw.uniform(0.3, 4.0)
        if victim == "node":
            assert self.cluster is not None
            nodes = [node for node in self.cluster.nodes[1:] if node.process.poll() is None]
            nodes[int(place * len(nodes))].kill()
            self.cluster.add(2)
            self.done["kill node"] += 1
            return
        pids = [launch] if victim == "launch" else self.gang_pids(supervisors=victim == "supervisor")
        if not pids:
            return
        try:
            process = psutil.Process(pids[int(place * len(pids))])
            if action == "freeze":
                process.suspend()
                self.frozen.append((time.monotonic() + nap, process))
            else:
                process.send_signal(signal.SIGKILL if action == "kill" else signal.SIGTERM)
        except psutil.NoSuchProcess:
            return
        self.done[f"{action} {victim}"] += 1

    def gangs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Job and gang.json of every attempt under way."""
        for path in sorted(self.folder.glob("outputs/*/*/*/*/gang.json")):
            about = read_gang(path.parent)
            if "cause" not in about:
                yield path.parent.parent.name, about

    def gang_pids(self, *, supervisors: bool) -> list[int]:
        return [
            pid
            for _, about in self.gangs()
            for pid in ([about["owner"]] if supervisors else about["pids"])
            if lives(pid, about["started_at"])
        ]

    def look(self) -> None:
        """No job may have two gangs alive."""
        alive = Counter(job for job, about in self.gangs() if any(lives(pid, about["started_at"]) for pid in about["pids"]))
        self.found += [f"{job} has {number} gangs alive at once" for job, number in alive.items() if number > 1]

    def wake(self, *, at_once: bool = False) -> None:
        for when, process in list(self.frozen):
            if at_once or time.monotonic() >= when:
                self.frozen.remove((when, process))
                try:
                    process.resume()
                except psutil.NoSuchProcess:
                    continue

    def last_words(self) -> str:
        return " / ".join((self.folder / "launch.log").read_text(errors="replace").splitlines()[-3:])

    def judge(self, undisturbed: Picture) -> None:
        """Compare with the undisturbed study; and the database with itself, rebuilt."""
        desk = self.desk()
        picture = Picture.of(desk)
        self.found += undisturbed.differences(picture)
        for key, tries in desk.store.attempts().items():
            counted = [attempt.number for attempt in tries if attempt.state in ("done", "diverged")]
            if len(counted) != 1:
                self.found.append(f"{key} has {len(counted)} attempts that count: {[attempt.state for attempt in tries]}")
        fresh = Store.open(self.folder / "rebuilt.sqlite", desk.study.name, desk.study.profile)
        collect.collect(fresh, desk.folders)
        rebuilt = Picture.of(Desk(desk.study, fresh, desk.folders))
        self.found += [f"rebuilt: {difference}" for difference in picture.differences(rebuilt)]

    def orphans(self) -> list[str]:
        """Processes of this study that are left, a while after it ended."""
        until = time.monotonic() + 25.0  # a supervisor keeps its answer for 20 s
        while (left := self._left()) and time.monotonic() < until:
            time.sleep(0.5)
        return left

    def _left(self) -> list[str]:
        left = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            words = process.info["cmdline"] or []
            if process.pid != os.getpid() and any(str(self.folder) in word for word in words):
                left.append(f"{process.pid}: {' '.join(words)[:120]}")
        for path in self.folder.glob("outputs/*/*/*/*/gang.json"):
            about = read_gang(path.parent)
            left += [f"{pid}: of {path.parent}" for pid in [*about["pids"], about["keeper"]] if lives(pid, about["started_at"])]
        return left


def lives(pid: int, since: float) -> bool:
    """Whether the process that had this id then still runs: a younger one of the same id is somebody else."""
    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() < since + 1.0)
    except psutil.NoSuchProcess:
        return False


def undisturbed(folder: Path, text: str, environment: dict[str, str]) -> Picture:
    folder.mkdir()
    (folder / "runs.toml").write_text(text)
    calm = Chaos(folder, random.Random(0), None, environment)
    launch = calm.launch()
    code = launch.wait(STUDY_S)
    assert code == 0, f"the undisturbed study ended with {code}: {calm.last_words()}"
    return Picture.of(calm.desk())


def measure(events: int, seed: int, samples: int, on_cluster: bool, root: Path, limit_s: float) -> dict[str, Any]:
    """Studies under attack until `events` have happened, or the time is up."""
    text, draw, began = study_text(samples), random.Random(seed), time.monotonic()
    plain = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done: Counter[str] = Counter()
    found: list[str] = []
    left: list[str] = []
    studies = 0
    calm = undisturbed(root / "calm", text, plain)
    while sum(done.values()) < events and time.monotonic() - began < limit_s:
        folder = root / f"study{studies}"
        folder.mkdir()
        (folder / "runs.toml").write_text(text)
        with OwnCluster(2, 2) if on_cluster else nullcontext() as cluster:
            chaos = Chaos(folder, draw, cluster, cluster.environment if cluster else plain)
            chaos.until_done(min(EVENTS_PER_STUDY, events - sum(done.values())))
            chaos.judge(calm)
            left += chaos.orphans()
        done += chaos.done
        found += [f"study {studies}: {difference}" for difference in chaos.found]
        studies += 1
        sys.stderr.write(f"{sum(done.values())} events, {len(found)} differences, {len(left)} orphans\n")
        sys.stderr.writelines(f"  study {studies - 1}: {difference}\n" for difference in chaos.found)
    return {
        "events": sum(done.values()),
        "kills": sum(number for name, number in done.items() if name.startswith("kill")),
        "differences": len(found),
        "orphans": len(left),
        "seed": seed,
        "studies": studies,
        "jobs": len(calm.states),
        "seconds": round(time.monotonic() - began, 1),
        "by_kind": dict(sorted(done.items())),
        "found": [*found, *left],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cluster", action="store_true", help="on a Ray cluster of its own, whose nodes die too")
    parser.add_argument("--samples", type=int, default=1_000, help="length of a job")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="begin no further study after so long")
    parser.add_argument("--keep", type=Path, help="write the studies here, and keep them")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.keep:
        asked.keep.mkdir(parents=True)
    with nullcontext(str(asked.keep)) if asked.keep else tempfile.TemporaryDirectory(prefix="chaos-") as root:
        found = measure(asked.events, asked.seed, asked.samples, asked.cluster, Path(root), asked.limit_s)
    if asked.json:
        print(json.dumps(found, indent=1))
    else:
        print(
            f"{found['events']} events ({found['kills']} kills) in {found['studies']} studies of {found['jobs']} jobs: "
            f"{found['differences']} differences, {found['orphans']} processes left (seed {found['seed']})"
        )
        print("\n".join(found["found"]))
    return 1 if found["differences"] or found["orphans"] else 0


if __name__ == "__main__":
    sys.exit(main())
