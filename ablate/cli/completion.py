"""What the shell completes on the command line: names of runs, sweeps, blocks and profiles, read from the study's file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from ablate.study import Study, UserError

Offer = tuple[str, str]
"""A word, and what it means."""


def _completing(offers: Callable[[Study], list[Offer]]) -> Callable[[typer.Context, str], list[Offer]]:
    """Offers from the study that the command line names so far; none when it cannot be read."""

    def complete(context: typer.Context, incomplete: str) -> list[Offer]:
        from ablate.runs_toml import read_study

        try:
            study = read_study(Path(context.params.get("study") or "runs.toml"), context.params.get("profile") or "")
        except UserError:
            return []
        return [(word, what) for word, what in offers(study) if word.startswith(incomplete)]

    return complete


def _runs(study: Study) -> list[Offer]:
    """Rows, aliases, and each row's jobs."""
    changed = {name: (*run.changes, *(run.search.space if run.search else ())) for name, run in study.runs.items()}
    rows = [(name, ", ".join(dict.fromkeys(settings)) or "the baseline") for name, settings in changed.items()]
    aliases = [(alias, f"another name of {name}") for alias, name in study.aliases.items()]
    return [*rows, *aliases, *((f"{name}@{seed}", "one job") for name in study.runs for seed in study.seeds[name])]


def _sweeps(study: Study) -> list[Offer]:
    return [(name, sweep.asks) for name, sweep in study.sweeps.items()]


def _blocks(study: Study) -> list[Offer]:
    return [(block.name, ", ".join(block.runs)) for block in study.blocks]


def _profiles(study: Study) -> list[Offer]:
    import tomllib  # every command imports this file, and few complete

    named = tomllib.loads(study.path.read_text(encoding="utf-8")).get("profile", {})
    return [("full", "the file as it stands"), *((name, "a profile of the file") for name in named)]


run, sweep, block, profile = _completing(_runs), _completing(_sweeps), _completing(_blocks), _completing(_profiles)
