"""[search]: what every row that searches may spend on it, and with which seeds its trials train."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal

from ablate.runs_toml.file import EMPTY, File, Flat, by_name, flat, is_number
from ablate.runs_toml.positions import Node
from ablate.runs_toml.rows import Rows
from ablate.runs_toml.settings import Baseline
from ablate.runs_toml.sweeps import metric_of
from ablate.settings import Setting, as_toml
from ablate.study import BUDGET, Run, Search, Settings, Study, Sweep

KEYS = by_name(
    Setting("trials", int, 0, least=1, most=10_000),
    Setting("on", str, ""),
    Setting("by", Literal["tpe", "random"], "tpe"),
    Setting("halving", int, 3, least=0, most=100),
    Setting("grace", int, 1, least=1, most=10_000),
    Setting("first_seed", int, 1001, least=0, most=2**32 - 20_000),
)


def with_searches(file: File, rows: Rows, baseline: Baseline, metrics: Collection[str], sweeps: Mapping[str, Sweep]) -> Rows:
    """Every row with a space gets its budget: that of [search], for all arms the same, unless the row says otherwise."""
    node = file.section("search")
    of_all = file.filled(node, KEYS, "search", besides=("short",))
    if of_all["halving"] == 1:
        allowed = "0, for no trial to be stopped, or at least 2, not 1: the best 1/1 of the trials is all of them"
        raise file.wrong(node.keys["halving"], f"search.halving must be {allowed}")
    file.table(node.keys.get("short", EMPTY), "search.short")
    short_at = flat(node, "short")
    short = baseline.types.cast(short_at)
    runs = dict(rows.runs)
    for name, space in rows.spaces.items():
        row = file.section("runs").keys[name]
        trials = _trials(file, name, row, of_all["trials"])
        for setting in space:
            if setting in short:
                raise file.wrong(row, f"{name} searches {setting}, which [search] short sets; take it out of one")
        _check_short(file, runs[name], _length(rows, runs[name], baseline.settings), short, short_at)
        on = metric_of(file, node, "search", "[search] needs a metric to choose by", metrics, sweeps)
        rest = {key: of_all[key] for key in ("by", "halving", "grace", "first_seed")}
        runs[name] = replace(runs[name], search=Search(space, trials, on, short, **rest))
    return replace(rows, runs=runs)


def _trials(file: File, name: str, row: Node, of_all: int) -> int:
    if "trials" in row.keys:
        return int(file.cast(row.keys["trials"], replace(KEYS["trials"], name=f"runs.{name}.trials")))
    if not of_all:
        raise file.wrong(row, f"{name} searches and has no budget: give [search] trials = 12, for all rows that do")
    return of_all


def _length(rows: Rows, run: Run, settings: Settings) -> Settings:
    """What says how long a row is, as far as that does not hang on decisions."""
    return run.changes if run.start.kind == "winners" else {**settings, **rows.differences(run)}


def _check_short(file: File, run: Run, mine: Settings, short: Settings, short_at: Flat) -> None:
    """No trial is longer than its row."""
    for name, value in short.items():
        whole = mine.get(name)
        if name.rsplit(".", 1)[-1] in BUDGET and is_number(value) and is_number(whole) and value > whole:
            raise file.wrong(
                short_at[name],
                f"[search] short has trials train with {name} = {as_toml(value)}, and {run.name} has {as_toml(whole)}: "
                "a trial that is longer than its row saves nothing; lower it, or leave it out",
            )


def check_search_seeds(file: File, study: Study) -> None:
    """No seed of a trial is one that a comparison uses."""
    used = {seed: run for run, of_run in reversed([*study.seeds.items()]) for seed in of_run}
    used |= dict.fromkeys(study.confirm.seeds, "lock.confirm") if study.confirm else {}
    for row in study.searching:
        assert row.search is not None, "see searching"
        mine = range(row.search.first_seed, row.search.seed(row.search.trials) + 1)
        taken = next((seed for seed in used if seed in mine), None)
        if taken is not None:
            raise file.wrong(
                file.section("runs").keys[row.name],
                f"the trials of {row.name} train with seeds {mine[0]} to {mine[-1]}, and {used[taken]} is compared on "
                f"{taken}; no value may be chosen on a seed it is judged by: give [search] another first_seed",
            )
