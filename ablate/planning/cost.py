"""What a study costs: hours, GPU-hours, money, and the days it takes on the GPUs given. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from ablate.planning.search import share
from ablate.study import TRIAL, Study, UserError

Source = Literal["measured", "declared"]


@dataclass(frozen=True)
class Task:
    """One job as the clock sees it."""

    key: str
    gpus: int
    hours: float
    """Of wall time, from start to end."""
    needs: tuple[str, ...] = ()
    """Keys of tasks that must end first; a key that is not among the tasks has ended already."""


@dataclass(frozen=True)
class Totals:
    """What a list of tasks costs."""

    jobs: int
    gpu_hours: float
    cost: float
    wall_hours: float
    """On the GPUs given, each task as early as it fits, in the order of the list."""
    critical_path_hours: float
    """The same with any number of GPUs."""
    critical_path: tuple[str, ...]
    """Keys of the longest chain of needs, first to last."""


def hours_of(study: Study, run: str, finished: Mapping[str, Sequence[float]]) -> tuple[float, Source]:
    """Hours one job of `run` takes.

    finished: run -> wall hours of its finished jobs. The run's own mean counts; if it has none, the mean over the other runs
    (each weighs the same, however many seeds it has); if nothing has finished, what the file declares. Trials of a search and
    whole jobs tell nothing of each other but by the share of the budget that a trial has.
    """
    return Hours(study, finished).of(run)


class Hours:
    """`hours_of` for a whole study: neither asking nor adding costs more the more runs there are."""

    def __init__(self, study: Study, finished: Mapping[str, Sequence[float]]) -> None:
        self._study = study
        self._finished: dict[str, list[float]] = {}
        self._runs = {True: 0, False: 0}  # how many have finished jobs: searches' trials, and whole ones
        self._sum_of_means = {True: 0.0, False: 0.0}
        for run, hours in finished.items():
            if hours:
                self.add(run, *hours)

    def of(self, run: str) -> tuple[float, Source]:
        trial = run.endswith(TRIAL)
        if run in self._finished:
            return fmean(self._finished[run]), "measured"
        if self._runs[trial]:
            return self._sum_of_means[trial] / self._runs[trial], "measured"
        if trial:
            row = self._study.runs[run.removesuffix(TRIAL)]
            hours, source = self.of(row.name)
            return hours * share(self._study, row), source
        return self._study.hours_per_run, "declared"

    def add(self, run: str, *hours: float) -> None:
        """Jobs of a run that have finished."""
        mine, trial = self._finished.setdefault(run, []), run.endswith(TRIAL)
        before = fmean(mine) if mine else 0.0
        self._runs[trial] += not mine
        mine += hours
        self._sum_of_means[trial] += fmean(mine) - before


def gpu_hours(gpus: int, hours: float) -> float:
    return gpus * hours


def cost(gpus: int, hours: float, usd_per_gpu_hour: float) -> float:
    """US dollars for one job."""
    return gpu_hours(gpus, hours) * usd_per_gpu_hour


def totals(tasks: Sequence[Task], gpus: int, usd_per_gpu_hour: float) -> Totals:
    """Add up `tasks` and lay them out on `gpus` GPUs. UserError if a task needs more than there are."""
    chain, length = critical_path(tasks)
    booked = sum(gpu_hours(task.gpus, task.hours) for task in tasks)
    starts = schedule(tasks, gpus)
    wall = max((starts[task.key] + task.hours for task in tasks), default=0.0)
    return Totals(len(tasks), booked, booked * usd_per_gpu_hour, wall, length, chain)


def schedule(tasks: Sequence[Task], gpus: int) -> dict[str, float]:
    """Hour at which each task starts: list scheduling in the order of `tasks`.

    Whenever GPUs are free, the first task in the list whose needs have ended and that fits is started. UserError if a task
    needs more GPUs than there are; ValueError if tasks need each other in a circle.
    """
    for task in tasks:
        if task.gpus > gpus:
            raise UserError(f"--gpus {gpus}: {task.key} needs {task.gpus}. Give at least {task.gpus}, or lower gpus_per_run")
    place = {task.key: number for number, task in enumerate(tasks)}
    needed_by, open_needs = _needs(tasks)
    ready: dict[int, list[int]] = {}  # GPUs wanted -> places in the list, a heap
    for task in tasks:
        if not open_needs[task.key]:
            heapq.heappush(ready.setdefault(task.gpus, []), place[task.key])
    running: list[tuple[float, int]] = []  # (hour of its end, place in the list), a heap
    starts: dict[str, float] = {}
    now, free = 0.0, gpus
    while True:
        while fitting := [queue for wanted, queue in ready.items() if queue and wanted <= free]:
            task = tasks[heapq.heappop(min(fitting, key=lambda queue: queue[0]))]
            starts[task.key] = now
            free -= task.gpus
            heapq.heappush(running, (now + task.hours, place[task.key]))
        if not running:
            break
        now = running[0][0]
        while running and running[0][0] <= now:
            ended = tasks[heapq.heappop(running)[1]]
            free += ended.gpus
            for key in needed_by.get(ended.key, ()):
                open_needs[key] -= 1
                if not open_needs[key]:
                    heapq.heappush(ready.setdefault(tasks[place[key]].gpus, []), place[key])
    _refuse_circle(tasks, starts)
    return starts


def critical_path(tasks: Sequence[Task]) -> tuple[tuple[str, ...], float]:
    """The longest chain of needs (keys, first to last) and its hours. ValueError if tasks need each other in a circle."""
    by_key = {task.key: task for task in tasks}
    needed_by, open_needs = _needs(tasks)
    ready = [task.key for task in tasks if not open_needs[task.key]]
    ends: dict[str, float] = {}
    before: dict[str, str] = {}
    for key in ready:  # grows while it is read: tasks in an order in which needs come first
        ends[key] = ends.get(before.get(key, ""), 0.0) + by_key[key].hours
        for later in needed_by.get(key, ()):
            if later not in before or ends[key] > ends[before[later]]:
                before[later] = key
            open_needs[later] -= 1
            if not open_needs[later]:
                ready.append(later)
    _refuse_circle(tasks, ends)
    if not ends:
        return (), 0.0
    chain = [max(ends, key=lambda key: ends[key])]
    while chain[-1] in before:
        chain.append(before[chain[-1]])
    return tuple(reversed(chain)), ends[chain[0]]


def _needs(tasks: Sequence[Task]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Who waits for a task, and for how many each task waits."""
    keys = {task.key for task in tasks}
    if len(keys) < len(tasks):
        raise ValueError(f"a key stands twice among {len(tasks)} tasks")
    needed_by: dict[str, list[str]] = {}
    open_needs: dict[str, int] = {}
    for task in tasks:
        needs = keys & set(task.needs)
        open_needs[task.key] = len(needs)
        for need in needs:
            needed_by.setdefault(need, []).append(task.key)
    return needed_by, open_needs


def _refuse_circle(tasks: Sequence[Task], reached: Mapping[str, float]) -> None:
    left = [task.key for task in tasks if task.key not in reached]
    if left:
        raise ValueError(f"these need each other in a circle: {', '.join(left)}")
