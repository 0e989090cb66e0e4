"""Reads runs.toml into a Study; every mistake in it is told by line, with what is allowed or near.

read_study below is the order of reading: the text and its tree (file.py), the profile (profiles.py), then the sections as they
rest on each other, each in the file named by it; last what concerns several of them (takes.py, order.py). The first mistake
found is raised.
"""

from __future__ import annotations

from pathlib import Path

from ablate.runs_toml.blocks import read_blocks, read_figures
from ablate.runs_toml.file import open_file
from ablate.runs_toml.lock import read_confirm, read_lock
from ablate.runs_toml.metrics import check_measured, read_metrics, with_expected
from ablate.runs_toml.names import read_names
from ablate.runs_toml.order import check_order
from ablate.runs_toml.profiles import FULL, in_profile
from ablate.runs_toml.rows import check_baseline, check_rows, read_not_swept, read_rows
from ablate.runs_toml.searches import check_search_seeds, with_searches
from ablate.runs_toml.seeds import read_evidence, read_looks, read_seeds
from ablate.runs_toml.settings import check_configs, read_late, read_settings, read_short
from ablate.runs_toml.study_section import read_keys, read_trainer
from ablate.runs_toml.sweeps import read_sweeps
from ablate.runs_toml.takes import check_takes
from ablate.study import Study

__all__ = ["FULL", "first_study", "read_study"]


def read_study(path: Path, profile: str = "") -> Study:
    """The study that the file at `path` declares, in one profile; "" and "full" mean the file as it stands.

    Raises UserError for the first mistake found: its place, what is wrong, what is allowed or near; below it the line itself.
    """
    file = in_profile(open_file(path), profile or FULL)
    of_study = read_keys(file)
    names = read_names(file)
    baseline = read_settings(file, names, of_study)
    trainer = read_trainer(file, of_study["config"], baseline.settings)

    rows = read_rows(file, names, baseline)
    check_baseline(file, names, baseline.row, rows.runs)
    not_swept = read_not_swept(file)
    check_rows(file, names, baseline, rows, not_swept)
    metrics = read_metrics(file)
    check_measured(file, trainer, metrics)
    rows = with_expected(file, rows, baseline.row, metrics)
    sweeps = read_sweeps(file, names, metrics)
    rows = with_searches(file, rows, baseline, metrics, sweeps)

    blocks = read_blocks(file, names)
    seeds = read_seeds(file, names, rows.runs)
    evidence = read_evidence(file)
    lock_after = read_lock(file, blocks)
    figures = read_figures(file, names, rows.runs)
    short, late = read_short(file, baseline.types), read_late(file, baseline.types)
    confirm = read_confirm(file, names, baseline.row, seeds, metrics, sweeps)
    study = Study(
        name=of_study["name"],
        profile=profile or FULL,
        asks=of_study["asks"],
        baseline=baseline.row,
        trainer=trainer,
        settings=baseline.settings,
        stateful=baseline.stateful,
        runs=rows.runs,
        aliases=names.aliases,
        starts=rows.starts,
        seeds=seeds,
        metrics=metrics,
        sweeps=sweeps,
        blocks=blocks,
        lock_after=lock_after,
        wrong_adoptions=evidence["wrong_adoptions"],
        gpus_per_run=of_study["gpus_per_run"],
        ranks_per_run=of_study["ranks_per_run"],
        hours_per_run=of_study["hours_per_run"],
        usd_per_gpu_hour=of_study["usd_per_gpu_hour"],
        max_attempts=of_study["max_attempts"],
        not_swept=not_swept,
        figures=figures,
        wandb=of_study["wandb"],
        path=path.resolve(),
        text_hash=file.text_hash,
        on_event=of_study["on_event"],
        short=short,
        late=late,
        confirm=confirm,
        looks=read_looks(file, tuple(evidence["looks"]), seeds),
        spending=evidence["spending"],
        mix_imported=evidence["mix_imported"],
        mix_steps=evidence["mix_steps"],
        conflict=baseline.types.schema.conflict,
    )
    check_takes(file, names, study)
    check_order(file, names, study)
    check_search_seeds(file, study)
    check_configs(file, study)
    return study


def first_study() -> str:
    """A commented runs.toml to start from, for `ablate init`."""
    return Path(__file__).with_name("init.toml").read_text(encoding="utf-8")
