"""The command `ablate`: arguments in, one call, an answer out, as a screen or (--json) as a document.

A command is a function in the file of its group (COMMANDS, below). It asks answers/<command>.py, draws with screens/<command>.py,
and imports what it needs when it runs: `plan` and `status` must not pay for Ray, torch, pandas or scipy.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable

import typer

from ablate.cli import data, judge, launch, look, prepare, records
from ablate.cli.output import usable, write
from ablate.study import UserError
from db.records import StoreError

app = typer.Typer(
    name="ablate",
    help="Ablation studies as programs: plan → launch → decide → lock.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "plan": look.plan,
    "launch": launch.launch,
    "decide": judge.decide,
    "compare": judge.compare,
    "audit": judge.audit,
    "explain": look.explain,
    "status": look.status,
    "show": look.show,
    "logs": look.logs,
    "stop": launch.stop,
    "retry": launch.retry,
    "lock": judge.lock,
    "init": prepare.init,
    "rebuild": records.rebuild,
    "import": records.import_results,
    "check": prepare.check,
    "rehearse": prepare.rehearse,
}
"""In the order of `ablate --help`."""
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(data.app)


def main() -> None:
    """Entry point: a person's mistake is one line and exit code 2, never a traceback."""
    as_json = "--json" in sys.argv
    sys.stdout, sys.stderr = usable(sys.stdout, "utf-8" if as_json else None), usable(sys.stderr)
    gc.disable()  # until all is imported (arguments.read): what imports make stays; looking through it is a tenth of the start
    try:
        raise SystemExit(app(standalone_mode=not as_json))  # else typer draws itself what is wrong with the arguments
    except (UserError, StoreError, PermissionError, typer.TyperException) as error:
        told = _told(error)
        if not told:
            raise
        if as_json:  # a program that asked for a document gets one, whatever happens
            write(sys.stdout, json.dumps({"error": told}, ensure_ascii=False) + "\n")
        write(sys.stderr, f"Error: {told}\n")
        raise SystemExit(2) from None
    finally:
        gc.enable()


def _told(error: Exception) -> str:
    """What a person should read; "" where it is not for a person."""
    match error:
        case typer.TyperException():
            return error.format_message()
        case PermissionError():
            return f"{error.filename}: this user may not read or write it ({error.strerror})" if error.filename else ""
        case _:
            return str(error)
