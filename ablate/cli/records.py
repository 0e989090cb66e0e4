"""Commands that fill the database from elsewhere: rebuild, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ablate.cli.arguments import HERE, Json, Profile, StudyFile, a_reason, looking, read
from ablate.cli.output import out


def rebuild(study: StudyFile = HERE, profile: Profile = "", as_json: Json = False) -> None:
    """Make the database again from the folders under outputs/; the old one stays beside it.

    Example: [bold]ablate rebuild[/bold]
    """
    from ablate.answers import rebuild as answers
    from ablate.screens import rebuild as screens

    out(answers.rebuild(read(study, profile)), as_json, screens.rebuild)


def import_results(
    file: Annotated[
        Path, typer.Argument(help="CSV, Parquet, JSON, an offline W&B run or folder of runs, or an ablate database.")
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="Which column is what: run, seed, step, metric, value, state, a metric, a setting.",
            metavar="NAME=COLUMN,…",
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--as", help="Which row (F3) or job (F3@42) a run of the file is; - for none.", metavar="NAME=ROW"),
    ] = None,
    place: Annotated[
        str, typer.Option("--from", help="Which study of an ablate database, where it holds several.", metavar="STUDY/PROFILE")
    ] = "",
    because: Annotated[
        str, typer.Option("--because", help="Reason for an edit of what was frozen before.", callback=a_reason)
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be imported, write nothing.")] = False,
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """Bring in past results: runs and curves become results of the study's jobs, marked as imported; nobody trains them again.

    All of a file comes in or nothing; twice is harmless. Exit code: 0 · 2 your mistake · 3 some wait for a decision.

    Example: [bold]ablate import past.csv --dry-run[/bold]
    Example: [bold]ablate import past.csv --map run=name,step=_step,val_loss=eval/loss --as baseline-v2=F3[/bold]
    Example: [bold]ablate import wandb/ --as fancy-sun-7=F3@42 --as test-run=-[/bold]
    """
    from ablate.past import importing
    from ablate.screens.past import imported

    options = importing.Options(columns or (), names or (), place, because, dry_run)
    answer = importing.bring_in(looking(study, profile), file, options)
    out(answer, as_json, imported)
    if answer["waits"]:
        raise typer.Exit(3)
