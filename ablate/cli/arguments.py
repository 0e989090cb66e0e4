"""What several commands take: options, and the names of blocks, sweeps and jobs, found in the study that is meant."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.cli import completion
from ablate.study import Study, UserError

if TYPE_CHECKING:  # types only: these modules are imported by the commands that need them
    from ablate.desk import Desk
    from ablate.planning.plan import PlannedJob

StudyFile = Annotated[Path, typer.Option("--study", help="The study's file.", metavar="FILE", envvar="ABLATE_STUDY")]
Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        help="A scale declared in the file; without it the file as it stands.",
        envvar="ABLATE_PROFILE",
        autocompletion=completion.profile,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print a document instead of a screen.")]
BlockOption = Annotated[
    str, typer.Option("--block", help="Only the jobs of this block.", metavar="N", autocompletion=completion.block)
]
Gpus = Annotated[int | None, typer.Option("--gpus", help="GPUs to plan for or, logical, to run on.", min=1)]
JobName = Annotated[str, typer.Argument(help="A run (F3), a job (F3@42) or a job's key.", autocompletion=completion.run)]
HERE = Path("runs.toml")


def read(path: Path, profile: str) -> Study:
    from ablate.runs_toml import read_study

    gc.freeze()
    gc.enable()
    return read_study(path, profile)


def looking(path: Path, profile: str) -> Desk:
    """The desk of a command that looks, be it before it writes: it makes no database."""
    from ablate.desk import looking_desk

    return looking_desk(read(path, profile))


def changing(path: Path, profile: str) -> Desk:
    """The desk of a command that changes what is recorded: where nothing is, it makes no database either."""
    from ablate.desk import writing_desk

    desk = looking(path, profile)
    return writing_desk(desk) if desk.recorded else desk


def asked_again(path: Path, profile: str, answer: Callable[[Desk], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """A question that may be asked again and again: a first launch may make the database meanwhile, another user write it."""
    desk = looking(path, profile)

    def ask() -> dict[str, Any]:
        nonlocal desk
        if not desk.recorded or desk.store.read_only:
            desk = looking(path, profile)
        return answer(desk)

    return ask


def block_named(study: Study, name: str) -> str:
    from ablate.planning.plan import CONFIRMS

    names = [block.name for block in study.blocks] + ([CONFIRMS] if study.confirm else [])
    if name and name not in names:
        raise UserError(f"there is no block {name!r}; blocks: {', '.join(names) or 'none'}")
    return name


def sweep_named(study: Study, name: str) -> str:
    if name not in study.sweeps:
        raise UserError(f"there is no sweep {name!r}.{_hint(name, list(study.sweeps), 'Sweeps')}")
    return name


def jobs_named(desk: Desk, name: str) -> tuple[PlannedJob, ...]:
    """The jobs that `F3`, `F3@43` or a key means."""
    run, _, seed = name.partition("@")
    run = desk.study.aliases.get(run, run)
    plan = desk.plan()
    jobs, shared = plan.jobs, {job.id for job in plan.of_run(run)}
    of_run = (job for job in jobs if (job.run == run or job.id in shared) and seed in ("", str(job.seed)))
    found = (*of_run, *(job for job in jobs if name in (job.key, job.id) or plan.same.get(name) == job.id))
    if found:
        return found
    seeds = [str(job.seed) for job in jobs if job.run == run or job.id in shared]
    if seeds:
        raise UserError(f"{run} has no seed {seed!r}; it has {', '.join(seeds)}")
    raise UserError(f"there is no run or job {name!r}.{_hint(name, [*desk.study.runs, *desk.study.aliases], 'Runs')}")


def _hint(name: str, known: list[str], what: str) -> str:
    from ablate.conditions import near, quoted

    guesses = near(name, known)
    return f" Did you mean {quoted(guesses)}?" if guesses else f" {what}: {', '.join(known) or 'none'}"


def a_reason(said: str) -> str:
    """What --because says: words that mean something when they are read later."""
    if said.strip() in ("…", "..."):
        raise UserError("--because takes your reason, in place of the …: it is kept, and read by who asks why")
    return said
