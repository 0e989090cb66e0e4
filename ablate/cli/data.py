"""Commands on data: data index, data status, data manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ablate.cli.arguments import HERE, Json, Profile, StudyFile, read
from ablate.cli.output import out

app = typer.Typer(name="data", help="What data the study has, and what it needs.", no_args_is_help=True)


@app.command()
def index(
    shards: Annotated[
        list[Path] | None, typer.Argument(help="Shards of one data folder; without them all that the study reads.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes that read; all cores without it.", min=1)] = None,
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """Read every sample once, leave out what cannot be used, and write the index. Safe to stop and to call again: it goes on.

    Example: [bold]ablate data index data/full/shards/*.tar[/bold]
    """
    from ablate import inventory
    from ablate.screens import data as screens

    loaded = read(study, profile)
    reports = [inventory.ask(loaded, question)[0] for question in inventory.index(loaded, shards or (), workers)]
    out({"folders": reports}, as_json, lambda answer: screens.index(answer["folders"]))


@app.command()
def status(study: StudyFile = HERE, profile: Profile = "", as_json: Json = False) -> None:
    """The inventory: datasets, samples, share of video, validation sets, and whether the study's needs are met.

    Exit code: 0 all needs are met · 2 your mistake · 3 something is missing.

    Example: [bold]ablate data status --profile tiny[/bold]
    """
    from ablate import inventory
    from ablate.screens import data as screens

    loaded = read(study, profile)
    asked = [inventory.ask(loaded, question) for question in inventory.status(loaded)]
    out({"folders": [one for one, _ in asked]}, as_json, lambda answer: screens.status(answer["folders"]))
    raise typer.Exit(max(code for _, code in asked))


@app.command()
def manifest(
    name: Annotated[str, typer.Argument(help="A validation set to draw; without it every run's training manifest.")] = "",
    samples: Annotated[int, typer.Option("--samples", help="Of the validation set.", min=1)] = 10_000,
    seed: Annotated[int, typer.Option("--seed", help="Of its draw.", min=0)] = 0,
    mix: Annotated[str, typer.Option("--mix", help="video=0.40,image=0.46,text=0.14; without it the study's.")] = "",
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """Draw a validation set (once: it is never overwritten), or draw and tokenise what the runs train on, before GPUs are booked.

    Example: [bold]ablate data manifest val_10k[/bold]
    """
    from ablate import inventory
    from ablate.screens import data as screens

    loaded = read(study, profile)
    questions = inventory.validation_set(loaded, name, samples, seed, mix) if name else inventory.manifests(loaded)
    answers = [inventory.ask(loaded, question)[0] for question in questions]
    out({"folders": answers}, as_json, lambda answer: screens.manifests(answer["folders"]))
