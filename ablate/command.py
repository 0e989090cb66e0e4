"""The second door for trainers: a command line, for scripts that know nothing of us. Standard library only.

    command = "{python} train.py {--key=value} --seed={seed}"
    metrics = { stdout = 'step (?P<step>\\d+): train loss (?P<loss>\\S+)' }        or { file = "log.jsonl" }

The template is split into words as a shell would, but no shell ever sees it. In each word:

    {--key=value}   alone: every setting as --name=value; of a setting that is a table, every entry: --data.mix.video=0.4
    {optim.lr}      that setting's value: true/false, numbers and text as they are, lists and tables as JSON
    {seed}  {python}  {folder}, the attempt's
    {resume_from}   the folder of the checkpoint to go on from; the word is left out while there is none

`python -m ablate.command FOLDER` is then the rank: it runs the script and keeps the folder contract in its place. The script
starts where runs.toml lies. Asked to stop (SIGTERM), it may save into {folder}/checkpoints/STEP. measured.py reads its numbers.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ablate.folders import CONFIG, EXIT_CODE, RESULT, DiskError, write_json
from ablate.launching.gang import tied
from ablate.measured import Metrics, Pattern, Tail
from ablate.planning.failures import EXITED, VERDICT
from ablate.study import Study, UserError

_ALL_SETTINGS = "{--key=value}"
_PLACEHOLDER = re.compile(r"\{([^{}\s]+)\}")
_LINE_END = re.compile(rb"[\r\n]")
_STOPPED, _NOT_READ = 143, 2
_LOOK_S = 0.5
_AT_ONCE = 65536
_LEFT_BEHIND_S = 10.0
"""How long what a script left behind may be silent, once it has ended, before nobody waits for it."""


def said_of(study: Study) -> dict[str, Any]:
    """What config.json says of a command: the template, where its numbers come from, and which of them the study is about."""
    trainer = study.trainer
    about = {"command": trainer.command, "stdout": trainer.stdout, "metrics_file": trainer.metrics_file}
    return about | {"metrics": list(study.metrics)}


def render(template: str, job: Mapping[str, Any], folder: Path) -> list[str]:
    """The words to run. job: what config.json says. UserError if the template names what is not there."""
    leaves, tables = flat(job["settings"])
    values = {name: _text(value) for name, value in {**leaves, **tables}.items()}
    values |= {"seed": str(job["seed"]), "folder": str(folder), "python": sys.executable, "resume_from": job["resume_from"]}
    words = []
    for word in _words(template):
        if word == _ALL_SETTINGS:
            words += [f"--{name}={values[name]}" for name in leaves]
        elif "{resume_from}" not in word or job["resume_from"]:
            words.append(_PLACEHOLDER.sub(lambda found: _value(found[1], values), word))
    return words


def flat(tree: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """{"optim": {"lr": 0.1}} -> {"optim.lr": 0.1} and {"optim": {"lr": 0.1}}: leaves and tables, by their dotted names."""
    leaves: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            below, among = flat(value, f"{prefix}{name}.")
            leaves |= below
            tables |= {prefix + name: value, **among}
        else:
            leaves[prefix + name] = value
    return leaves, tables


def run(folder: Path) -> int:
    """Run the script of one attempt, keep its folder as a trainer would, and return the exit code of the rank.

    Ended well means: exit code 0, something measured, the last word on each metric of the study a number, nobody asked it to
    stop. Only then is there a result.json, whatever the script itself wrote there. Ranks but the first only run the script.
    """
    job = json.loads((folder / CONFIG).read_text())
    trainer = job["trainer"]
    began = time.monotonic()
    script = subprocess.Popen(tied(render(trainer["command"], job, folder)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    stop = _StopSign(script)
    if os.environ.get("RANK", "0") != "0":
        _attend(script, lambda _: None, lambda _: None)
        return _exit_code(script, stop)
    metrics = Metrics(folder, job["attempt"], trainer["metrics"])
    if trainer["stdout"]:
        pattern = Pattern(trainer["stdout"])
        _attend(script, lambda line: metrics.read_line(pattern, line), lambda _: None)
        missing = f"no line of its output matches {trainer['stdout']!r}"
    else:
        tail = Tail(folder / trainer["metrics_file"])

        def look(last: bool) -> None:
            for line in tail.lines(last):
                metrics.read_json(line)

        _attend(script, lambda _: None, look)
        missing = f"it wrote no metric to {folder / trainer['metrics_file']}"
    code = _exit_code(script, stop)
    wrong = "" if metrics.diverged() else metrics.unreadable() or ("" if metrics.last else missing)
    if not code and not wrong:
        _write_result(folder, metrics, time.monotonic() - began)
        return 0
    (folder / RESULT).unlink(missing_ok=True)  # the script may have written one itself
    if not code:
        _say(f"the command ended well, but {wrong}")
    return code or _NOT_READ


class _StopSign:
    """Hands SIGTERM on to the script and remembers that it came."""

    def __init__(self, script: subprocess.Popen[bytes]) -> None:
        self.seen = False
        self._script = script
        signal.signal(signal.SIGTERM, self._hand_on)

    def _hand_on(self, *_: object) -> None:
        self.seen = True
        self._script.terminate()


def _exit_code(script: subprocess.Popen[bytes], stop: _StopSign) -> int:
    """As a shell reports it. Who was asked to stop has not ended, even if it left with 0."""
    code = script.wait()
    if stop.seen:
        return _STOPPED
    if code:
        _say(f"{EXITED} with code {code}" if code > 0 else f"{EXITED} on {_signal_name(-code)}")
    return code if code >= 0 else 128 - code


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _say(how_it_ended: str) -> None:
    """Our last line in the log: it becomes the attempt's reason."""
    print(f"{VERDICT}{how_it_ended}", flush=True)


def _attend(script: subprocess.Popen[bytes], read: Callable[[str], None], look: Callable[[bool], None]) -> None:
    """Until the script has ended: what it writes goes on to our own output, each line of it to `read`.

    look: is called now and then meanwhile, and with True at the end. What `read` or `look` raise ends us, and so the script.
    """
    assert script.stdout is not None
    output, rest, look_at = script.stdout.fileno(), bytearray(), 0.0
    is_open, heard_at = True, time.monotonic()
    while is_open or script.poll() is None:
        if script.poll() is None:
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at > _LEFT_BEHIND_S:
            print(f"the script has ended; a process that it left behind holds its output and was silent for {_LEFT_BEHIND_S:g} s")
            break
        if not is_open:
            time.sleep(_LOOK_S)
        elif select.select([output], [], [], _LOOK_S)[0]:
            fresh = os.read(output, _AT_ONCE)
            is_open, heard_at = bool(fresh), time.monotonic()
            sys.stdout.buffer.write(fresh)
            sys.stdout.buffer.flush()
            rest += fresh
            *lines, unfinished = _LINE_END.split(fresh)
            if lines:
                lines[0] = bytes(rest[: len(rest) - len(fresh) + len(lines[0])])
                rest = bytearray(unfinished)
            for line in lines:
                read(line.decode(errors="replace"))
        if time.monotonic() >= look_at:
            look(False)
            look_at = time.monotonic() + _LOOK_S
    if rest:
        sys.stdout.write("\n")
        read(rest.decode(errors="replace"))
    look(True)


def _write_result(folder: Path, metrics: Metrics, wall_s: float) -> None:
    """A metric whose last value is no number any more means that the training diverged."""
    diverged = metrics.diverged()
    reason = "; ".join(filter(None, [diverged, metrics.remarks()]))
    facts = {"wall_s": wall_s, EXIT_CODE: 0}
    write_json(folder / RESULT, {"outcome": "diverged" if diverged else "done", "reason": reason, "facts": facts})


def _words(template: str) -> list[str]:
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise UserError(f"trainer.command: {template!r} cannot be split into words: {error}") from error
    if not words:
        raise UserError('trainer.command is empty; write for example "{python} train.py {--key=value} --seed={seed}"')
    return words


def _value(name: str, values: Mapping[str, str]) -> str:
    if name not in values:
        raise UserError(f"trainer.command: there is no {{{name}}}; {_near(name, list(values))}")
    return values[name]


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return (
        f"did you mean {{{close[0]}}}?"
        if close
        else f"there are {_ALL_SETTINGS} and {', '.join(f'{{{name}}}' for name in known)}"
    )


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m ablate.command FOLDER")
    try:
        sys.exit(run(Path(sys.argv[1])))
    except DiskError as error:
        _say(str(error))
        sys.exit(os.EX_IOERR)
    except UserError as error:
        _say(str(error))
        sys.exit(_NOT_READ)
