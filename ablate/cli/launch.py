"""Commands that train, or stop training: launch, stop, retry."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

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
    a_reason,
    block_named,
    changing,
    jobs_named,
    looking,
    sweep_named,
)
from ablate.cli.output import out
from ablate.study import UserError

if TYPE_CHECKING:  # types only: these modules are imported by the commands that need them
    from ablate.desk import Desk
    from ablate.launching.watch import Options
    from ablate.planning.plan import PlannedJob


def launch(
    study: StudyFile = HERE,
    profile: Profile = "",
    block: BlockOption = "",
    run: Annotated[
        list[str] | None,
        typer.Option("--run", help="Only this run, or run@seed; may be given several times.", autocompletion=completion.run),
    ] = None,
    gpus: Gpus = None,
    address: Annotated[str, typer.Option("--address", help="Join this Ray cluster instead of starting Ray here.")] = "",
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", help="Start nothing that would bring the study above this many USD.", min=0)
    ] = None,
    because: Annotated[
        str, typer.Option("--because", help="Reason for an edit of what was frozen at the first launch.", callback=a_reason)
    ] = "",
    abandon: Annotated[bool, typer.Option("--abandon", help="Give up attempts on a cluster that is gone for good.")] = False,
    redo_stale: Annotated[
        bool, typer.Option("--redo-stale", help="Train anew what rests on a decision that says something else now.")
    ] = False,
    new_code: Annotated[
        bool, typer.Option("--new-code", help="Run jobs from the trainer's code of today, not that of the first launch.")
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="One round, then leave; the jobs run on. For cron; needs --address.")
    ] = False,
    settle: Annotated[
        str,
        typer.Option(
            "--settle", help="Train the cheapest seeds of the next look that could decide it.", autocompletion=completion.sweep
        ),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be started, start nothing.")] = False,
    here: Annotated[bool, typer.Option("--here", help="Train one job (--run F3@42) in the foreground, without Ray.")] = False,
    as_json: Json = False,
) -> None:
    """Run what may run, decide sweeps as they complete, skip, lock. Safe to call again at any time: it goes on.

    Exit code: 0 all ended · 1 a job failed · 2 your mistake · 3 something still waits.

    Example: [bold]ablate launch --profile tiny --gpus 4[/bold]
    Example: [bold]ablate launch --run F3@42 --here[/bold]
    Example: [bold]ablate launch --settle sweep1 --dry-run[/bold]
    """
    from ablate.answers import launch as answers
    from ablate.screens import launch as screens

    desk = replace(looking(study, profile), redo_stale=redo_stale)
    jobs = tuple(dict.fromkeys(job.id for name in run or () for job in _jobs_to_launch(desk, name)))
    wanted_block = block_named(desk.study, block)
    if settle:
        sweep = sweep_named(desk.study, settle)
        if jobs or wanted_block or here:
            raise UserError("--settle chooses the jobs itself: give it without --run, --block and --here")
        if dry_run:
            out(answers.to_settle(desk, sweep), as_json, screens.settling)
            return
        desk, jobs = _settle(desk, sweep)
    estimate = answers.dry_run(desk, wanted_block, jobs, gpus)
    if dry_run:
        out(estimate, as_json, screens.dry_run)
        return
    if here:
        _launch_here(desk, jobs, new_code, as_json)
    from ablate.launching.watch import Options

    options = Options(
        wanted_block, jobs, address, gpus=gpus, max_cost=max_cost, because=because, new_code=new_code, once=once, abandon=abandon
    )
    _launch(desk, options, estimate, as_json)


def _jobs_to_launch(desk: Desk, name: str) -> list[PlannedJob]:
    """The jobs that a name means; of a row that is tuned, its trials too."""
    from ablate.study import TRIAL

    named = jobs_named(desk, name)
    return [*(job for job in desk.plan().jobs if job.trial and job.run.removesuffix(TRIAL) == name), *named]


def _settle(desk: Desk, sweep: str) -> tuple[Desk, tuple[str, ...]]:
    """Ask for the seeds that could decide the sweep; their ids, and the desk that knows of it."""
    from ablate import evidence
    from ablate.clock import utc_now
    from ablate.desk import writing_desk

    evidence.refuse_when_locked(desk)
    evidence.to_settle(desk, desk.study.sweeps[sweep])  # where it cannot be settled, nothing is made
    desk = writing_desk(desk)
    return desk, tuple(job.id for job in evidence.settle(desk, desk.study.sweeps[sweep], utc_now()).jobs)


def _launch(desk: Desk, options: Options, estimate: dict[str, Any], as_json: bool) -> NoReturn:
    """Launch, watched from here to its end."""
    from ablate.answers import launch as answers
    from ablate.desk import writing_desk
    from ablate.launching.launch import launch
    from ablate.screens import launch as screens
    from ablate.screens.watcher import launch_watcher

    desk = writing_desk(desk)
    with launch_watcher(desk, estimate, quiet=as_json) as watcher, _signals(watcher.ask_to_stop):
        outcome = launch(desk, options, watcher)
    out(answers.outcome(desk, outcome), as_json, screens.outcome)
    raise typer.Exit(outcome.exit_code)


def _launch_here(desk: Desk, ids: tuple[str, ...], new_code: bool, as_json: bool) -> NoReturn:
    """Train one job in the foreground."""
    from ablate.answers import launch as answers
    from ablate.answers.document import at
    from ablate.desk import writing_desk
    from ablate.launching.launch import train_here
    from ablate.planning.states import STARTABLE
    from ablate.screens import launch as screens
    from ablate.screens.watcher import watcher

    if new_code:
        raise UserError("--here trains one job with the code the study runs from; give --new-code to a launch without --here")
    found = [job for job in desk.plan().jobs if job.id in ids]
    if len(found) != 1:
        named = ", ".join(at(job) for job in found[:6]) or "none is named"
        raise UserError(f"--here trains exactly one job; name it with --run RUN@SEED ({named})")
    if found[0].state not in STARTABLE:
        raise UserError(f"{found[0].id} is {found[0].state}: {found[0].reason or 'it has its result'}")
    desk = writing_desk(desk)
    with watcher(desk, quiet=as_json) as watching, _signals(watching.ask_to_stop):
        record = train_here(desk, found[0], watching)
    out(answers.attempt(record), as_json, screens.attempt)
    raise typer.Exit({"done": 0, "diverged": 0, "interrupted": 3}.get(record.state, 1))


class _signals:  # noqa: N801 - reads as a with-statement
    """Ctrl-C, SIGTERM and a closed terminal ask the launch to stop: the first time with checkpoints, the second time at once."""

    def __init__(self, ask: Callable[[Literal["stop", "kill"]], None]) -> None:
        self._ask, self._asked = ask, 0

    def __enter__(self) -> None:
        self._old = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _on_signal(self, *_: object) -> None:
        self._asked += 1
        self._ask("stop" if self._asked == 1 else "kill")


def stop(
    job: Annotated[str, typer.Argument(help="A run, a job or a key; without it everything.", autocompletion=completion.run)] = "",
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """Have a job write a checkpoint and stop; without a name all jobs, and the launch with them. Works from any machine.

    A job stopped by name stays stopped until [bold]ablate retry[/bold]; after stopping all, the next launch goes on.

    Example: [bold]ablate stop F3@42[/bold]
    """
    from ablate.answers import launch as answers
    from ablate.screens import launch as screens

    desk = looking(study, profile)
    out(answers.stop(desk, jobs_named(desk, job) if job else None), as_json, screens.stop)


def retry(job: JobName, study: StudyFile = HERE, profile: Profile = "", as_json: Json = False) -> None:
    """Let a job that failed for good, or was stopped, be tried again from its last checkpoint.

    Example: [bold]ablate retry F3@42[/bold]
    """
    from ablate.answers import launch as answers
    from ablate.screens import launch as screens

    desk = changing(study, profile)
    out(answers.retry(desk, jobs_named(desk, job)), as_json, screens.retry)
