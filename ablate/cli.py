"""The command `ablate`: arguments in, one call, an answer out, as a screen or (--json) as a document.

What a command needs is imported when it runs: `plan` and `status` must not pay for Ray, torch, pandas or scipy.
"""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from ablate import completion
from ablate.study import Study, UserError
from db.records import StoreError

if TYPE_CHECKING:  # types only: these modules are imported by the commands that need them
    from ablate.desk import Desk
    from ablate.plan import PlannedJob

app = typer.Typer(
    name="ablate",
    help="Ablation studies as programs: plan → launch → decide → lock.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

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


@app.command()
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
    from ablate import answers, screens

    desk = _looking(study, profile)
    if diff is not None:
        if not diff.exists():
            raise UserError(f"--diff {diff}: there is no such file; name an older one: git show HEAD~1:runs.toml > old.toml")
        _out(answers.plan_changes(desk, _read(diff, profile)), as_json, screens.plan_changes)
        return
    answer = answers.plan(desk, _block(desk.study, block), gpus)
    _out(answer, as_json, screens.plan)


@app.command()
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
    because: Annotated[str, typer.Option("--because", help="Reason for an edit of what was frozen at the first launch.")] = "",
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
    from ablate import answers, screens

    desk = replace((_looking if dry_run else _desk)(study, profile), redo_stale=redo_stale)
    jobs = tuple(dict.fromkeys(job.id for name in run or () for job in _jobs_to_launch(desk, name)))
    wanted_block = _block(desk.study, block)
    if settle:
        jobs = _settle(desk, _sweep(desk.study, settle), bool(jobs or wanted_block or here), dry_run, as_json)
        if dry_run:
            return
    estimate = answers.dry_run(desk, wanted_block, jobs, gpus)
    if dry_run:
        _out(estimate, as_json, screens.dry_run)
        return
    from ablate import launch as launching

    if here:
        if new_code:
            raise UserError("--here trains one job with the code the study runs from; give --new-code to a launch without --here")
        _launch_here(desk, jobs, as_json)
        return
    options = launching.Options(
        block=wanted_block,
        runs=jobs,
        address=address,
        gpus=gpus,
        max_cost=max_cost,
        because=because,
        new_code=new_code,
        once=once,
        abandon=abandon,
    )
    with screens.launch_watcher(desk, estimate, quiet=as_json) as watcher, _signals(watcher.ask_to_stop):
        outcome = launching.launch(desk, options, watcher)
    _out(answers.outcome(desk, outcome), as_json, screens.outcome)
    raise typer.Exit(outcome.exit_code)


@app.command()
def decide(
    sweep: Annotated[
        list[str] | None, typer.Argument(help="Sweeps to decide; all without it.", autocompletion=completion.sweep)
    ] = None,
    take: Annotated[
        str, typer.Option("--take", help="Overrule the tree: the run to take.", metavar="RUN", autocompletion=completion.run)
    ] = "",
    tree: Annotated[str, typer.Option("--tree", help="Which tree to overrule, where the sweep has several.")] = "",
    because: Annotated[str, typer.Option("--because", help="Your reason, kept with the decision.")] = "",
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
    from ablate import answers, screens

    desk = (_looking if explain else _desk)(study, profile)
    names = tuple(_sweep(desk.study, name) for name in sweep or ())
    if explain:
        from ablate import evidence_answers, evidence_screens

        if take:
            raise UserError("--explain records nothing and --take does; give one of them")
        _out(evidence_answers.explained(desk, names), as_json, evidence_screens.explained)
        return
    if take:
        answers.overrule(desk, names, tree, take, because)
    answer = answers.decide(desk, names, because, anew)
    _out(answer, as_json, screens.decide)
    if any(one["open"] for one in answers.sweeps_in(answer)):
        raise typer.Exit(3)


@app.command()
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
    from ablate import evidence_answers, evidence_screens

    answer = evidence_answers.compare(_looking(study, profile), a, b, metric or ())
    if plot is not None:
        evidence_answers.draw(answer, plot)
    _out(answer, as_json, lambda document: evidence_screens.compare(document, explain))
    if not answer["comparisons"]:
        raise typer.Exit(3)


@app.command()
def audit(study: StudyFile = HERE, profile: Profile = "", as_json: Json = False) -> None:
    """Take every decision and the lock again from the rows in the database, and name what no longer follows, and why.

    Exit code: 0 all follow · 1 something does not.

    Example: [bold]ablate audit[/bold]
    """
    from ablate import evidence_answers, evidence_screens

    answer = evidence_answers.audited(_looking(study, profile))
    _out(answer, as_json, evidence_screens.audit)
    if not answer["ok"]:
        raise typer.Exit(1)


@app.command()
def explain(
    sweep: Annotated[str, typer.Argument(help="A sweep of the study.", autocompletion=completion.sweep)],
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """What each line of a sweep means, in plain words.

    Example: [bold]ablate explain sweep1[/bold]
    """
    from ablate import answers, screens

    loaded = _read(study, profile)
    _out(answers.explain(loaded, loaded.sweeps[_sweep(loaded, sweep)]), as_json, screens.explain)


@app.command()
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
    from ablate import answers, screens

    ask = _asked_again(study, profile, answers.status)
    if not follow:
        _out(ask(), as_json, screens.status)
        return
    if not as_json:
        screens.follow(ask)
    while as_json:
        sys.stdout.write(json.dumps(ask(), ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()
        time.sleep(2.0)


@app.command()
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
    from ablate import answers, screens

    desk = _looking(study, profile)
    _out(answers.show(desk, _jobs_named(desk, job), metric or next(iter(desk.study.metrics), "")), as_json, screens.show)


@app.command()
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
    from ablate import answers, screens

    ask = _asked_again(study, profile, lambda desk: answers.logs(desk, _jobs_named(desk, job), lines, rank))
    if follow and not as_json:
        screens.follow_logs(ask)
    else:
        _out(ask(), as_json, screens.logs)


@app.command()
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
    from ablate import answers, screens

    desk = _desk(study, profile)
    _out(answers.stop(desk, _jobs_named(desk, job) if job else None), as_json, screens.stop)


@app.command()
def retry(job: JobName, study: StudyFile = HERE, profile: Profile = "", as_json: Json = False) -> None:
    """Let a job that failed for good, or was stopped, be tried again from its last checkpoint.

    Example: [bold]ablate retry F3@42[/bold]
    """
    from ablate import answers, screens

    desk = _desk(study, profile)
    _out(answers.retry(desk, _jobs_named(desk, job)), as_json, screens.retry)


@app.command()
def lock(
    lift: Annotated[bool, typer.Option("--lift", help="Unlock, so that the study may go on.")] = False,
    because: Annotated[str, typer.Option("--because", help="Your reason, kept with the lock.")] = "",
    study: StudyFile = HERE,
    profile: Profile = "",
    as_json: Json = False,
) -> None:
    """The final config, with the decision that each key came from; locks it when all is decided.

    Example: [bold]ablate lock[/bold]
    Example: [bold]ablate lock --lift --because "a bug in A6"[/bold]
    """
    from ablate import answers, screens

    desk = _desk(study, profile)
    answer = answers.lift(desk, because) if lift else answers.lock(desk)
    _out(answer, as_json, screens.lock)
    if not lift and not answer["locked"]:
        raise typer.Exit(3)


@app.command()
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
    _out(
        {"written": str(file)},
        as_json,
        lambda answer: typer.echo(f"{answer['written']} written. Next: ablate plan --study {answer['written']}"),
    )


@app.command()
def rebuild(study: StudyFile = HERE, profile: Profile = "", as_json: Json = False) -> None:
    """Make the database again from the folders under outputs/; the old one stays beside it.

    Example: [bold]ablate rebuild[/bold]
    """
    from ablate import answers, screens

    _out(answers.rebuild(_read(study, profile)), as_json, screens.rebuild)


@app.command("import")
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
    because: Annotated[str, typer.Option("--because", help="Reason for an edit of what was frozen before.")] = "",
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
    from ablate.past import importing, screen

    options = importing.Options(columns or (), names or (), place, because, dry_run)
    answer = importing.bring_in((_looking if dry_run else _desk)(study, profile), file, options)
    _out(answer, as_json, screen.imported)
    if answer["waits"]:
        raise typer.Exit(3)


@app.command()
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
    from ablate.preflight import screen as check_screen

    answer = checking.check(_looking(study, profile), checking.parts(only or ()))
    _out(answer, as_json, check_screen.check)
    raise typer.Exit(checking.exit_code(answer))


@app.command()
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
    from ablate import answers, screens

    desk = _looking(study, profile)
    with screens.rehearsal_progress(quiet=as_json) as progress:
        answer = answers.rehearse(desk, world, noise, studies, seed, effect or (), sd or (), diverge, budget, progress)
    _out(answer, as_json, screens.rehearse)


data_app = typer.Typer(name="data", help="What data the study has, and what it needs.", no_args_is_help=True)
app.add_typer(data_app)


@data_app.command("index")
def data_index(
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
    from ablate import inventory, inventory_screen

    loaded = _read(study, profile)
    reports = [inventory.ask(loaded, question)[0] for question in inventory.index(loaded, shards or (), workers)]
    _out({"folders": reports}, as_json, lambda answer: inventory_screen.index(answer["folders"]))


@data_app.command("status")
def data_status(study: StudyFile = HERE, profile: Profile = "", as_json: Json = False) -> None:
    """The inventory: datasets, samples, share of video, validation sets, and whether the study's needs are met.

    Exit code: 0 all needs are met · 2 your mistake · 3 something is missing.

    Example: [bold]ablate data status --profile tiny[/bold]
    """
    from ablate import inventory, inventory_screen

    loaded = _read(study, profile)
    asked = [inventory.ask(loaded, question) for question in inventory.status(loaded)]
    _out({"folders": [one for one, _ in asked]}, as_json, lambda answer: inventory_screen.status(answer["folders"]))
    raise typer.Exit(max(code for _, code in asked))


@data_app.command("manifest")
def data_manifest(
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
    from ablate import inventory, inventory_screen

    loaded = _read(study, profile)
    questions = inventory.validation_set(loaded, name, samples, seed, mix) if name else inventory.manifests(loaded)
    answers = [inventory.ask(loaded, question)[0] for question in questions]
    _out({"folders": answers}, as_json, lambda answer: inventory_screen.manifests(answer["folders"]))


def main() -> None:
    """Entry point: a person's mistake is one line and exit code 2, never a traceback."""
    as_json = "--json" in sys.argv
    sys.stdout, sys.stderr = _usable(sys.stdout, "utf-8" if as_json else None), _usable(sys.stderr)
    gc.disable()  # until all is imported (`_read`): what imports make stays, and looking through it is a tenth of the start
    try:
        raise SystemExit(app(standalone_mode=not as_json))  # else typer draws itself what is wrong with the arguments
    except (UserError, StoreError, typer.TyperException) as error:
        told = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        if as_json:  # a program that asked for a document gets one, whatever happens
            _write(sys.stdout, json.dumps({"error": told}, ensure_ascii=False) + "\n")
        _write(sys.stderr, f"Error: {told}\n")
        raise SystemExit(2) from None
    finally:
        gc.enable()


def _usable(stream: TextIO | None, encoding: str | None = None) -> TextIO:
    """A stream that takes every text: nowhere if whoever called us closed it; a character that its encoding lacks is a "?"."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding=encoding, errors="replace")
    return stream or Path(os.devnull).open("w", encoding="utf-8")


def _write(stream: TextIO, text: str) -> None:
    """As far as anybody reads it and there is room; the exit code says the rest."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        _drop_the_rest(stream)


def _drop_the_rest(stream: TextIO) -> None:
    """What could not be written: Python would try again when it ends, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _read(path: Path, profile: str) -> Study:
    from ablate.runs_toml import read_study

    gc.freeze()
    gc.enable()
    return read_study(path, profile)


def _desk(path: Path, profile: str) -> Desk:
    from ablate.desk import open_desk

    return open_desk(_read(path, profile))


def _looking(path: Path, profile: str) -> Desk:
    """The desk of a command that only looks: it makes no database."""
    from ablate.desk import looking_desk

    return looking_desk(_read(path, profile))


def _asked_again(path: Path, profile: str, answer: Callable[[Desk], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """A question that may be asked again and again: a first launch may make the database meanwhile."""
    desk = _looking(path, profile)

    def ask() -> dict[str, Any]:
        nonlocal desk
        if not desk.recorded:
            desk = _looking(path, profile)
        return answer(desk)

    return ask


def _block(study: Study, name: str) -> str:
    from ablate.plan import CONFIRMS

    names = [block.name for block in study.blocks] + ([CONFIRMS] if study.confirm else [])
    if name and name not in names:
        raise UserError(f"there is no block {name!r}; blocks: {', '.join(names) or 'none'}")
    return name


def _sweep(study: Study, name: str) -> str:
    if name not in study.sweeps:
        raise UserError(f"there is no sweep {name!r}.{_hint(name, list(study.sweeps), 'Sweeps')}")
    return name


def _jobs_named(desk: Desk, name: str) -> tuple[PlannedJob, ...]:
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


def _jobs_to_launch(desk: Desk, name: str) -> list[PlannedJob]:
    """The jobs that a name means; of a row that is tuned, its trials too."""
    from ablate.study import TRIAL

    named = _jobs_named(desk, name)
    return [*(job for job in desk.plan().jobs if job.trial and job.run.removesuffix(TRIAL) == name), *named]


def _settle(desk: Desk, sweep: str, narrowed: bool, dry_run: bool, as_json: bool) -> tuple[str, ...]:
    """Ask for the seeds that could decide the sweep; their ids. dry_run: only say which."""
    from ablate import evidence, evidence_answers, evidence_screens
    from ablate.clock import utc_now

    if narrowed:
        raise UserError("--settle chooses the jobs itself: give it without --run, --block and --here")
    if dry_run:
        _out(evidence_answers.to_settle(desk, sweep), as_json, evidence_screens.settling)
        return ()
    evidence.refuse_when_locked(desk)
    return tuple(job.id for job in evidence.settle(desk, desk.study.sweeps[sweep], utc_now()).jobs)


def _launch_here(desk: Desk, ids: tuple[str, ...], as_json: bool) -> None:
    from ablate import answers, screens
    from ablate import launch as launching
    from ablate.plan import STARTABLE

    found = [job for job in desk.plan().jobs if job.id in ids]
    if len(found) != 1:
        named = ", ".join(answers.at(job) for job in found[:6]) or "none is named"
        raise UserError(f"--here trains exactly one job; name it with --run RUN@SEED ({named})")
    if found[0].state not in STARTABLE:
        raise UserError(f"{found[0].id} is {found[0].state}: {found[0].reason or 'it has its result'}")
    with screens.watcher(desk, quiet=as_json) as watcher, _signals(watcher.ask_to_stop):
        record = launching.train_here(desk, found[0], watcher)
    _out(answers.attempt(record), as_json, screens.attempt)
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


def _out(answer: dict[str, Any], as_json: bool, screen: Callable[[dict[str, Any]], None]) -> None:
    try:
        if as_json:
            sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n")
        else:
            screen(answer)
        sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:  # who read it has enough: typer ends us without a word
            raise
        _drop_the_rest(sys.stdout)
        raise UserError(f"the answer could not be written: {error.strerror}") from error


if __name__ == "__main__":
    main()
