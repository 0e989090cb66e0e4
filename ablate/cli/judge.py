"""Commands that conclude from numbers, and look at conclusions: decide, compare, audit, lock."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ablate.cli import completion
from ablate.cli.arguments import HERE, Json, Profile, StudyFile, a_reason, changing, looking, sweep_named
from ablate.cli.output import out
from ablate.study import UserError


def decide(
    sweep: Annotated[
        list[str] | None, typer.Argument(help="Sweeps to decide; all without it.", autocompletion=completion.sweep)
    ] = None,
    take: Annotated[
        str, typer.Option("--take", help="Overrule the tree: the run to take.", metavar="RUN", autocompletion=completion.run)
    ] = "",
    tree: Annotated[str, typer.Option("--tree", help="Which tree to overrule, where the sweep has several.")] = "",
    because: Annotated[str, typer.Option("--because", help="Your reason, kept with the decision.", callback=a_reason)] = "",
    explain: Annotated[
        bool, typer.Option("--explain", help="Take what was decided again from the rows, and show all behind it; record nothing.")
    ] = False,
    anew: Annotated[
        bool,
        typer.Option("--anew", help="Also turn what was decided where only the noise between seeds is known otherwise since."),
    ] = False,
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """Check the trees against the numbers in the database, and record what follows.

    A decision whose own numbers are as they were stands, as it does while launching; what today would say is told beside it.

    Example: [bold]ablate decide sweep1[/bold]
    Example: [bold]ablate decide sweep1 --take F2 --because "F3's rate was set by hand"[/bold]
    """
    from ablate.answers import decide as answers
    from ablate.desk import writing_desk
    from ablate.screens import decide as screens

    desk = looking(study, profile)
    names = tuple(sweep_named(desk.study, name) for name in sweep or ())
    if explain:
        from ablate.answers.audit import explained
        from ablate.screens.audit import explained as drawn

        if take:
            raise UserError("--explain records nothing and --take does; give one of them")
        out(explained(desk, names), as_json, drawn)
        return
    if take:
        answers.overrule(desk, names, tree, take, because)
    answer = answers.decide(writing_desk(desk), names, because, anew)
    out(answer, as_json, screens.decide)
    if any(one["open"] for one in answers.sweeps_in(answer)):
        raise typer.Exit(3)


def compare(
    a: Annotated[str, typer.Argument(help="A run.", autocompletion=completion.run)],
    b: Annotated[str, typer.Argument(help='The run it is compared with; "its start" for the one it was changed from.')],
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="On this metric; may be given several times. Without it: all measured.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw the forest plot into this .png or .svg.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Everything behind it: seeds, pool, ledger, formulas.")] = False,
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """Any two runs of one start: the interval, what holds, and what was equal. It is recorded nowhere and decides nothing.

    Example: [bold]ablate compare A6 F3 --metric val_loss --plot a6.svg[/bold]
    """
    from ablate.answers import compare as answers
    from ablate.screens import compare as screens

    answer = answers.compare(looking(study, profile), a, b, metric or ())
    if plot is not None:
        answers.draw(answer, plot)
    out(answer, as_json, lambda document: screens.compare(document, explain))
    if not answer["comparisons"]:
        raise typer.Exit(3)


def audit(study: StudyFile = HERE, profile: Profile = "", as_json: Json = False) -> None:
    """Take every decision and the lock again from the rows in the database, and name what no longer follows, and why.

    Exit code: 0 all follow · 1 something does not.

    Example: [bold]ablate audit[/bold]
    """
    from ablate.answers import audit as answers
    from ablate.screens import audit as screens

    answer = answers.audited(looking(study, profile))
    out(answer, as_json, screens.audit)
    if not answer["ok"]:
        raise typer.Exit(1)


def lock(
    lift: Annotated[bool, typer.Option("--lift", help="Unlock, so that the study may go on.")] = False,
    because: Annotated[str, typer.Option("--because", help="Your reason, kept with the lock.", callback=a_reason)] = "",
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """The final config, with the decision that each key came from; locks it when all is decided.

    Example: [bold]ablate lock[/bold]
    Example: [bold]ablate lock --lift --because "a bug in A6"[/bold]
    """
    from ablate.answers import lock as answers
    from ablate.screens import lock as screens

    desk = changing(study, profile)
    answer = answers.lift(desk, because) if lift else answers.lock(desk)
    out(answer, as_json, screens.lock)
    if not lift and not answer["locked"]:
        raise typer.Exit(3)
