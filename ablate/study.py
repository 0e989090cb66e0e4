"""The words of a study as values: run, job, sweep, tree, block, lock; and a job's key. No files, no clock, no database."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ablate.conditions import ITS_START, Compared, Condition, Ended, Took, Within, atoms

Value = bool | int | float | str | list["Value"] | dict[str, "Value"]
Settings = Mapping[str, Value]
"""Dotted name of a setting -> its value, whole: {"model.deep_query": True, "data.mix": {"video": 0.4, ...}}."""

JobState = Literal["waiting", "ready", "running", "done", "diverged", "failed", "interrupted", "skipped", "stopped"]
"""stopped: a trial that its search gave up for being worse than others at the same point; never tried again."""
ENDED: frozenset[str] = frozenset({"done", "diverged"})
"""States that are results."""

KEY_RECIPE = 1
"""Version of the recipe below; an upgrade never changes a recipe, or every finished job would look new."""

LOCKED = "lock-confirm"
"""Name of the run that trains the locked config on fresh seeds."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What may name a study, profile or run: it becomes a folder's name."""


class UserError(Exception):
    """A mistake of the person at the keyboard: printed as one line, without a traceback; exit code 2."""


@dataclass(frozen=True)
class Trainer:
    """How one job is trained. Exactly one of `module` and `command` is set."""

    module: str = ""
    """Run as `python -m MODULE FOLDER`; reads config.json, appends metrics.jsonl, writes result.json."""
    command: str = ""
    """Template for scripts that know nothing of us: {--key=value} every setting, {name} one setting, {seed}, {folder}."""
    stdout: str = ""
    """With `command`: a regular expression whose named groups are metrics; a group `step` is the step."""
    metrics_file: str = ""
    """With `command`: a JSON-lines file, relative to the attempt's folder, that the script appends to."""
    config: str = ""
    """"package.module:Dataclass" that types the settings; without it, [settings] does."""


@dataclass(frozen=True)
class Start:
    """What a row changes: the baseline, a named start, or what earlier decisions took."""

    kind: Literal["baseline", "named", "winners"] = "baseline"
    names: tuple[str, ...] = ()
    """The start's name, or the decisions'."""


@dataclass(frozen=True)
class Range:
    """Where a search may look for the value of one setting."""

    kind: Literal["log", "uniform", "int", "choice"]
    values: tuple[Value, ...]
    """Lowest and highest, both included; of a choice: all there are."""


@dataclass(frozen=True)
class Search:
    """A row that is tuned before it is trained: where to look, and what may be spent on looking."""

    space: Mapping[str, Range]
    """Setting -> where its value may lie."""
    trials: int
    on: str
    """The metric by which a trial is chosen."""
    short: Settings
    """What a trial changes in the row, to be cheap."""
    by: Literal["tpe", "random"]
    """How points are chosen: by what earlier trials scored, or at random."""
    halving: int
    """A trial that is not among the best 1/halving at a rung is stopped; rungs are `halving` times apart; 0: none is stopped."""
    grace: int
    """Evaluations before the first rung."""
    first_seed: int
    """Trial k draws its point, and trains, with this seed + k - 1, so that every row's k-th trial does with the same."""

    def seed(self, trial: int) -> int:
        """trial: 1, 2, …"""
        return self.first_seed + trial - 1


@dataclass(frozen=True)
class Run:
    """A row of runs.toml."""

    name: str
    changes: Settings = field(default_factory=dict)
    """What a search chose is among them as soon as it has: see search.with_chosen."""
    start: Start = Start()
    line: int = 0
    search: Search | None = None
    chosen: str = ""
    """How the search came to its choice; "" while it has not."""
    expects: Mapping[str, float | Literal["no worse"]] = field(default_factory=dict)
    """Metric -> what its author believes it shifts that by, against its start; changes no job and no verdict."""

    def expected(self, metric: str) -> float | None:
        """The shift believed in; 0 for "no worse", None where nothing is said."""
        said = self.expects.get(metric)
        return 0.0 if isinstance(said, str) else said


@dataclass(frozen=True)
class NamedStart:
    """A common ground of several rows: the baseline plus these changes."""

    name: str
    changes: Settings
    line: int = 0


@dataclass(frozen=True)
class Metric:
    """A named number with a direction, and the smallest difference one would act on."""

    name: str
    better: Literal["lower", "higher"]
    margin: float
    noise: float | None = None
    """Standard deviation between seeds, declared; used (as known) until it is measured."""
    unit: str = ""
    last: int = 1
    """A job's value is the mean of its last `last` measurements."""
    line: int = 0


@dataclass(frozen=True)
class Take:
    """What a line of a tree does. run: take it. best: the best of `runs`. its start: the row's start. stop: nothing trains."""

    kind: Literal["run", "best", "its start", "stop"]
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line of a tree: if · take · because."""

    text: str
    condition: Condition
    take: Take
    because: str
    line: int = 0


@dataclass(frozen=True)
class Tree:
    """Read from the top; the first line that holds is taken. The last is `otherwise`."""

    name: str
    sweep: str
    lines: tuple[Line, ...]
    line: int = 0


@dataclass(frozen=True)
class Learn:
    """Reported when it holds; changes nothing."""

    text: str
    condition: Condition
    say: str
    line: int = 0


@dataclass(frozen=True)
class Skip:
    """The sweep's own runs and trees are skipped when this holds."""

    text: str
    condition: Condition
    because: str


@dataclass(frozen=True)
class Sweep:
    name: str
    asks: str
    compare: tuple[str, ...]
    """Runs as the file names them (aliases kept); empty when the trees say it all."""
    on: str
    """The metric meant where a condition names none."""
    trees: tuple[Tree, ...] = ()
    learn: tuple[Learn, ...] = ()
    skip: Skip | None = None
    line: int = 0


@dataclass(frozen=True)
class Block:
    """What a person launches together; a preferred order, not a barrier."""

    name: str
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Confirm:
    """The locked config against the baseline on seeds that nobody has used."""

    against: str
    """The baseline."""
    seeds: tuple[int, ...]
    on: str
    """The metric."""
    line: int = 0


@dataclass(frozen=True)
class Study:
    """The whole of runs.toml in one profile."""

    name: str
    profile: str
    asks: str
    baseline: str
    trainer: Trainer
    settings: Settings
    """The baseline's, in full."""
    stateful: frozenset[str]
    """Names of the settings that can change a result: what a job's key is made of."""
    runs: Mapping[str, Run]
    """In the file's order; aliases are not in it."""
    aliases: Mapping[str, str]
    """LR1 -> F3."""
    starts: Mapping[str, NamedStart]
    seeds: Mapping[str, tuple[int, ...]]
    """Of every run."""
    metrics: Mapping[str, Metric]
    sweeps: Mapping[str, Sweep]
    blocks: tuple[Block, ...]
    lock_after: str
    """Name of the block after which the config is locked; "" for never."""
    wrong_adoptions: float
    """Chance of adopting anything worthless over the whole study."""
    gpus_per_run: int
    ranks_per_run: int
    hours_per_run: float
    usd_per_gpu_hour: float
    max_attempts: int
    not_swept: Mapping[str, str]
    figures: Mapping[str, tuple[str, ...]]
    wandb: bool
    path: Path
    """The file it was read from."""
    text_hash: str
    """Of the file's bytes."""
    on_event: str = ""
    """A command that hears of what happens while launching; "" for none."""
    short: Settings = field(default_factory=dict)
    """[check] Settings of a short run, to see whether rows take effect; empty: none is declared."""
    late: tuple[str, ...] = ()
    """[check] Settings that act later than a short run shows."""
    confirm: Confirm | None = None
    """[lock] How the lock is confirmed; None: it stays provisional."""
    looks: tuple[int, ...] = ()
    """[evidence] Seeds per run at each declared look, growing; (): one look, at all the seeds there are."""
    spending: Literal["obrien-fleming", "pocock"] = "obrien-fleming"
    """[evidence] How the looks share the error budget."""
    mix_imported: str = ""
    """[evidence] Why imported results may be compared with those trained here; "" if they may not."""
    mix_steps: str = ""
    """[evidence] Why values taken at different steps may be compared; "" if they may not."""
    conflict: Callable[[Settings, Settings], str | None] | None = field(default=None, compare=False, repr=False)
    """What the trainer finds impossible about full settings plus changes, each fine alone; None: it has no such rules."""

    def run_named(self, name: str) -> Run:
        """The run behind a name or alias. KeyError if there is none."""
        return self.runs[self.aliases.get(name, name)]

    def block_of(self, run: str) -> str:
        return self._blocks.get(run, "")

    @cached_property
    def _blocks(self) -> Mapping[str, str]:
        """Run -> its block. Kept, like `_places`, so that 10 000 rows stay quick."""
        return {run: block.name for block in reversed(self.blocks) for run in block.runs}

    @cached_property
    def _places(self) -> Mapping[str, int]:
        """Run -> its place in the file."""
        return {name: place for place, name in enumerate(self.runs)}

    def in_file_order(self, runs: Collection[str]) -> tuple[str, ...]:
        """Those of `runs` that are rows, as the file orders them."""
        return tuple(sorted((name for name in runs if name in self._places), key=self._places.__getitem__))

    @cached_property
    def searching(self) -> tuple[Run, ...]:
        """The rows that are tuned."""
        return tuple(run for run in self.runs.values() if run.search)

    @property
    def trees(self) -> Mapping[str, Tree]:
        return {tree.name: tree for sweep in self.sweeps.values() for tree in sweep.trees}


def runs_of_sweep(study: Study, sweep: Sweep) -> tuple[str, ...]:
    """The runs a sweep needs, aliases resolved, in the order of the file. `its start` is not among them: see plan.py."""
    named = set(sweep.compare)
    for tree in sweep.trees:
        named |= runs_of_tree(tree)
    for learn in sweep.learn:
        named |= runs_of(learn.condition)
    resolved = {study.aliases.get(name, name) for name in named - {ITS_START}}
    return study.in_file_order(resolved)


def sweeps_of_runs(study: Study) -> dict[str, tuple[str, ...]]:
    """Run -> the sweeps that need it."""
    out: dict[str, tuple[str, ...]] = {}
    for sweep in study.sweeps.values():
        for run in runs_of_sweep(study, sweep):
            out[run] = (*out.get(run, ()), sweep.name)
    return out


def own_runs(study: Study, sweep: str, sweeps_of: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Runs that only this sweep asks for."""
    return (run for run, sweeps in sweeps_of.items() if sweeps == (sweep,) and run != study.baseline)


def conditions_of(sweep: Sweep) -> tuple[Condition, ...]:
    """Of every line of its trees, then of its learn lines."""
    of_trees = [line.condition for tree in sweep.trees for line in tree.lines]
    return (*of_trees, *(learn.condition for learn in sweep.learn))


def runs_of_tree(tree: Tree) -> set[str]:
    """Every run a tree's lines compare or take; may contain "its start"."""
    named = {run for line in tree.lines for run in line.take.runs}
    for line in tree.lines:
        named |= runs_of(line.condition)
    return named


def runs_of(condition: Condition) -> set[str]:
    """Every run a condition speaks of; may contain "its start"."""
    named: set[str] = set()
    for atom in atoms(condition):
        match atom:
            case Compared(a=a, b=b):
                named |= {a, b}
            case Within(run=run) | Ended(run=run):
                named.add(run)
            case Took():
                pass
    return named


TRIAL = "-trial"
"""The trials of a search for row LR2 are jobs of a run called "LR2-trial", a seed each."""
REFERENCE = "-start"
"""The reference run of row D1, its start that no row trains, is called "D1-start"."""
BUDGET = ("samples", "flops", "steps", "epochs")
"""Last words of settings that say how long a run is."""


def likeness(study: Study, run: str) -> tuple[tuple[str, str], ...]:
    """A run's budget and validation set, as declared: seeds of runs that differ in it tell nothing of each other's noise."""
    row = study.runs.get(run) or study.runs[run.removesuffix(REFERENCE)]
    start = study.starts[row.start.names[0]].changes if row.start.kind == "named" else {}
    settings = {**study.settings, **start, **row.changes}
    return tuple(
        (name, repr(value)) for name, value in settings.items() if name.rsplit(".", 1)[-1] in BUDGET or name == "eval.set"
    )


def most_alike(study: Study, runs: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The likeness of `runs`; where they differ, that of more of the study's jobs."""
    counted = Counter(likeness(study, run) for run in study.runs for _ in study.seeds[run])
    return max((likeness(study, run) for run in runs), key=lambda like: (counted[like], str(like)))


def nested(settings: Settings) -> dict[str, Any]:
    """{"model.deep_query": True} -> {"model": {"deep_query": True}}: the shape a trainer reads."""
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *parts, leaf = name.split(".")
        at = tree
        for part in parts:
            at = at.setdefault(part, {})
        at[leaf] = value
    return tree


def references(study: Study, settings: Settings) -> dict[str, Settings]:
    """Settings of the runs that a value "as RUN" names: {"F3": {...}}."""
    found: dict[str, Settings] = {}
    for value in settings.values():
        if isinstance(value, str) and value.startswith("as ") and value[3:] in (*study.runs, *study.aliases):
            run = study.run_named(value[3:])
            found[value[3:]] = {**study.settings, **run.changes}
    return found


def job_key(study: Study, run: str, seed: int, settings: Settings) -> str:
    """A job's name everywhere: `A1-s42-c16774a1`, run, seed and a hash of what can change its result."""
    return job_keys(study, run, (seed,), settings)[0]


def job_keys(study: Study, run: str, seeds: Iterable[int], settings: Settings) -> list[str]:
    """The same for many seeds of a run. The hash is that of one JSON object with sorted keys, "seed" in its place among them."""
    stateful = {
        name: {key: value for key, value in values.items() if key in study.stateful}
        for name, values in references(study, settings).items()
    }
    before = _json({"recipe": KEY_RECIPE, "references": stateful})
    after = _json(
        {
            "settings": {name: value for name, value in settings.items() if name in study.stateful},
            "trainer": study.trainer.module or study.trainer.command,
        }
    )
    texts = [(seed, f'{before[:-1]},"seed":{seed},{after[1:]}') for seed in seeds]
    return [f"{run}-s{seed}-{hashlib.sha256(text.encode()).hexdigest()[:8]}" for seed, text in texts]


def run_of(key: str) -> str:
    """The run that a job's key, or its id, names."""
    return key.rsplit("-s", 1)[0]


def hash_of(key: str) -> str:
    """What a job's key ends in: one text for jobs that train the same with the same seed, whichever run they are of."""
    return key.rsplit("-", 1)[-1]


def seed_place(study: Study, run: str, seed: int) -> int:
    """A seed's place among those of a run, or of the row whose start it trains."""
    seeds = study.seeds[run if run in study.runs else run.removesuffix(REFERENCE)]
    return seeds.index(seed)


_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


IMPORTED = "imported"
"""Fact of an attempt that was not made here: its source, who brought it in and when. A job has such an attempt alone, or none."""


@dataclass(frozen=True)
class JobResult:
    """What one job scored, as the database has it today."""

    key: str
    run: str
    seed: int
    state: JobState
    values: Mapping[str, float]
    """Metric -> value at the full budget (mean of the metric's last k measurements). Not measured: absent."""
    settings: Settings
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the trainer said of itself: hashes, samples, flops, versions, `uninformed`."""
    code_hash: str = ""
    steps: Mapping[str, int] = field(default_factory=dict)
    """Metric -> step at which its value was taken. Not known: absent."""

    @property
    def imported(self) -> bool:
        return IMPORTED in self.facts

    @property
    def has_ledger(self) -> bool:
        """Whether it is known with which settings it was trained; not so for most that was imported."""
        stamp = self.facts.get(IMPORTED)
        return stamp is None or (isinstance(stamp, Mapping) and bool(stamp.get("ledger")))


def with_shared(study: Study, results: Mapping[str, Sequence[JobResult]], same: Mapping[str, str]) -> dict[str, list[JobResult]]:
    """Results by run, where a run has those too that another one's jobs have for it. same: see Plan."""
    found = {run: [*jobs] for run, jobs in results.items()}
    known = {f"{job.run}-s{job.seed}": job for jobs in results.values() for job in jobs} if same else {}
    for id, owner in same.items():
        if owner in known:
            found.setdefault(run_of(id), []).append(known[owner])
    for run in {run_of(id) for id in same} & found.keys():
        found[run].sort(key=lambda job: seed_place(study, run, job.seed))
    return found
