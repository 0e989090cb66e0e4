"""Commands before the first launch: init, check, rehearse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ablate.cli.arguments import HERE, Json, Profile, StudyFile, looking
from ablate.cli.output import out
from ablate.study import UserError


def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = HERE,
    as_json: Json = False,
) -> None:
    """Write a commented first study file.

    Example: [bold]ablate init my_study/runs.toml[/bold]
    """
    from ablate.folders import write_text
    from ablate.runs_toml import first_study

    if file.exists():
        raise UserError(f"{file} exists already; it is yours, so nothing was written. Give another name: ablate init other.toml")
    if not file.parent.parent.is_dir():
        raise UserError(f"there is no folder {str(file.parent.parent)!r}; make it, or name another place")
    write_text(file, first_study())
    out(
        {"written": str(file)},
        as_json,
        lambda answer: typer.echo(f"{answer['written']} written. Next: ablate plan --study {answer['written']}"),
    )


def check(
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", help="Only this part: effects, trees, power, resources; may be given several times.", metavar="PART"
        ),
    ] = None,
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """Before anything is launched: do rows take effect, can trees answer, can the seeds show it, is everything here.

    Exit code: 0 nothing wrong (flags and notes are told) · 1 an error · 2 your mistake.

    Example: [bold]ablate check --profile tiny --only trees --only power[/bold]
    """
    from ablate.preflight import check as checking
    from ablate.screens import check as screens

    answer = checking.check(looking(study, profile), checking.parts(only or ()))
    out(answer, as_json, screens.check)
    raise typer.Exit(checking.exit_code(answer))


def rehearse(
    studies: Annotated[int, typer.Option("--studies", help="How many studies to play.", min=1)] = 10_000,
    world: Annotated[
        str,
        typer.Option("--world", help="What is true: nothing, expected (by rows, or --effect), or past (curves in the database)."),
    ] = "nothing",
    noise: Annotated[
        str, typer.Option("--noise", help="Between seeds: normal, heavy, unequal, outliers, or past (resampled).")
    ] = "normal",
    effect: Annotated[
        list[str] | None,
        typer.Option("--effect", help="A row's true shift against its start.", metavar="F1=0.167 | A8b:image_vqa=0.03"),
    ] = None,
    sd: Annotated[list[str] | None, typer.Option("--sd", help="True spread between seeds.", metavar="val_loss=0.05")] = None,
    diverge: Annotated[float, typer.Option("--diverge", help="Chance of each job to diverge.", min=0, max=1)] = 0.0,
    budget: Annotated[
        float, typer.Option("--budget", help="Read past curves at this share of their length.", min=0.01, max=1)
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the simulation: the same seed gives the same numbers.", min=0)] = 0,
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """Play the whole study on simulated results: what would be locked, how often wrongly, what would be missed.

    Example: [bold]ablate rehearse --profile tiny --sd val_loss=0.05[/bold]
    Example: [bold]ablate rehearse --world expected --effect F1=0.167 --noise heavy[/bold]
    """
    from ablate.answers import rehearse as answers
    from ablate.screens import rehearse as screens

    desk = looking(study, profile)
    with screens.progress(quiet=as_json) as progress:
        answer = answers.rehearse(desk, world, noise, studies, seed, effect or (), sd or (), diverge, budget, progress)
    out(answer, as_json, screens.rehearse)
