"""Commands that look: plan, explain, status, show, logs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ablate.cli import completion
from ablate.cli.arguments import (
    HERE,
    BlockOption,
    Gpus,
    JobName,
    Json,
    Profile,
    StudyFile,
    asked_again,
    block_named,
    jobs_named,
    looking,
    read,
    sweep_named,
)
from ablate.cli.output import out
from ablate.study import UserError


def plan(
    study: StudyFile = HERE,
    profile: Profile = "",
    block: BlockOption = "",
    gpus: Gpus = None,
    diff: Annotated[
        Path | None,
        typer.Option("--diff", help="Say what changed since this older file: jobs kept, new, stale, orphaned; money."),
    ] = None,
    as_json: Json = False,
) -> None:
    """The graph as it stands: each job's state and why, what it changes, hours and money.

    Example: [bold]ablate plan --profile tiny --block 2[/bold]
    Example: [bold]ablate plan --diff runs.before.toml[/bold]
    """
    from ablate.answers import plan as answers
    from ablate.screens import plan as screens

    desk = looking(study, profile)
    if diff is not None:
        if not diff.exists():
            raise UserError(f"--diff {diff}: there is no such file; name an older one: git show HEAD~1:runs.toml > old.toml")
        out(answers.changes(desk, read(diff, profile)), as_json, screens.changes)
        return
    answer = answers.plan(desk, block_named(desk.study, block), gpus)
    out(answer, as_json, screens.plan)


def explain(
    sweep: Annotated[str, typer.Argument(help="A sweep of the study.", autocompletion=completion.sweep)],
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """What each line of a sweep means, in plain words.

    Example: [bold]ablate explain sweep1[/bold]
    """
    from ablate.answers import explain as answers
    from ablate.screens import explain as screens

    loaded = read(study, profile)
    out(answers.explain(loaded, loaded.sweeps[sweep_named(loaded, sweep)]), as_json, screens.explain)


def status(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay, and show it anew every two seconds (--json: one document per line).")
    ] = False,
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """Where the study stands, from the database alone: jobs, progress, time, money, decisions.

    Example: [bold]ablate status --follow[/bold]
    """
    from ablate.answers import status as answers
    from ablate.screens import status as screens

    ask = asked_again(study, profile, answers.status)
    if not follow:
        out(ask(), as_json, screens.status)
        return
    if not as_json:
        screens.follow(ask)
    while as_json:
        sys.stdout.write(json.dumps(ask(), ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()
        time.sleep(2.0)


def show(
    job: JobName,
    metric: Annotated[str, typer.Option("--metric", help="The curve to draw; without it the study's first metric.")] = "",
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """One run's config with the resolved rates, its curve, its attempts, and the decisions that rest on it.

    Example: [bold]ablate show F3 --metric val_loss/video[/bold]
    """
    from ablate.answers import show as answers
    from ablate.screens import show as screens

    desk = looking(study, profile)
    drawn = metric or next(iter(desk.study.metrics), "")
    out(answers.show(desk, jobs_named(desk, job), drawn, whole=as_json), as_json, screens.show)


def logs(
    job: JobName,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines from the end.", min=1)] = 40,
    rank: Annotated[int, typer.Option("--rank", help="Whose log.", min=0)] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and print what is added.")] = False,
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """The end of the log of a job's last attempt.

    Example: [bold]ablate logs F3@42 -f[/bold]
    """
    from ablate.answers import logs as answers
    from ablate.screens import logs as screens

    ask = asked_again(study, profile, lambda desk: answers.logs(desk, jobs_named(desk, job), lines, rank))
    if follow and not as_json:
        screens.follow(ask)
    else:
        out(ask(), as_json, screens.logs)
