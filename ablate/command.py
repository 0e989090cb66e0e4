"""The second door for trainers: a command line, for scripts that know nothing of us. Standard library only.

    command = "{python} train.py {--key=value} --seed={seed}"
    metrics = { stdout = 'step (?P<step>\\d+): train loss (?P<loss>\\S+)' }        or { file = "log.jsonl" }

The template is split into words as a shell would, but no shell ever sees it. In each word:

    {--key=value}   alone: every setting as --name=value; of a setting that is a table, every entry: --data.mix.video=0.4
    {optim.lr}      that setting's value: true/false, numbers and text as they are, lists and tables as JSON
    {seed}  {python}  {folder}, the attempt's
    {resume_from}   the folder of the checkpoint to go on from; the word is left out while there is none

`python -m ablate.command FOLDER` is then the rank: it runs the script and keeps the folder contract in its place. The script
starts where runs.toml lies. Asked to stop (SIGTERM), it may save into {folder}/checkpoints/STEP.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ablate.gang import tied
from ablate.study import UserError

_ALL_SETTINGS = "{--key=value}"
_PLACEHOLDER = re.compile(r"\{([^{}\s]+)\}")
_STOPPED = 143
_LOOK_AT_FILE_S = 0.5


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


class Metrics:
    """Appends what the script measured to metrics.jsonl, from its output or from a file of its own."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self._log = (folder / "metrics.jsonl").open("a")
        self._attempt = attempt
        self._step = 0
        self.last: dict[str, tuple[int, float]] = {}
        """Metric -> step and value of its last measurement."""

    def read_line(self, pattern: re.Pattern[str], line: str) -> None:
        """A line of output. Without a group `step` every match is the next step; __ in a group's name stands for /."""
        found = pattern.search(line)
        if found is None:
            return
        texts = {name: text for name, text in found.groupdict().items() if text is not None}
        if "step" not in pattern.groupindex:
            self._step += 1
        self._add(texts.pop("step", None), {name.replace("__", "/"): text for name, text in texts.items()})

    def read_json(self, line: str) -> None:
        """A line of a JSON-lines file: an object of numbers, `step` among them."""
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            values = None
        if not isinstance(values, dict):
            print(f"ablate: not a JSON object, skipped: {line!r}", flush=True)
            return
        if "step" not in values:
            self._step += 1
        self._add(values.pop("step", None), values)

    def _add(self, step: object, values: Mapping[str, object]) -> None:
        self._step = int(_number(step) or 0) if step is not None else self._step
        measured = {name: number for name, value in values.items() if (number := _number(value)) is not None}
        if not measured:
            return
        self.last |= {name: (self._step, number) for name, number in measured.items()}
        self._log.write(json.dumps({"attempt": self._attempt, "step": self._step, "metrics": measured}) + "\n")
        self._log.flush()


class _Tail:
    """The complete lines a growing file has gained."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def lines(self, last: bool = False) -> list[str]:
        """last: nothing will follow, so that a line without its end counts too."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            fresh = file.read()
        complete = fresh if last else fresh[: fresh.rfind(b"\n") + 1]
        self._at += len(complete)
        return [line for line in complete.decode(errors="replace").splitlines() if line.strip()]


def run(folder: Path) -> int:
    """Run the script of one attempt, keep its folder as a trainer would, and return the exit code of the rank.

    Ended well means: exit code 0, at least one metric measured, nobody asked it to stop. Ranks but the first only run the script.
    """
    job = json.loads((folder / "config.json").read_text())
    trainer = job["trainer"]
    began = time.monotonic()
    script = subprocess.Popen(
        tied(render(trainer["command"], job, folder)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    stop = _StopSign(script)
    if os.environ.get("RANK", "0") != "0":
        _pass_on(script, lambda _: None)
        return _exit_code(script, stop)
    metrics = Metrics(folder, job["attempt"])
    if trainer["stdout"]:
        pattern = re.compile(trainer["stdout"])
        _pass_on(script, lambda line: metrics.read_line(pattern, line))
        missing = f"no line of its output matches {trainer['stdout']!r}"
    else:
        with _following(folder / trainer["metrics_file"], metrics.read_json):
            _pass_on(script, lambda _: None)
        missing = f"it wrote no metric to {folder / trainer['metrics_file']}"
    code = _exit_code(script, stop)
    if code == 0 and not metrics.last:
        print(f"ablate: the command ended well, but {missing}", flush=True)
        return 1
    if code == 0:
        _write_result(folder, metrics, time.monotonic() - began)
    return code


class _StopSign:
    """Hands SIGTERM on to the script and remembers that it came."""

    def __init__(self, script: subprocess.Popen[str]) -> None:
        self.seen = False
        self._script = script
        signal.signal(signal.SIGTERM, self._hand_on)

    def _hand_on(self, *_: object) -> None:
        self.seen = True
        self._script.terminate()


def _exit_code(script: subprocess.Popen[str], stop: _StopSign) -> int:
    """As a shell reports it. Who was asked to stop has not ended, even if it left with 0."""
    code = script.wait()
    return _STOPPED if stop.seen else code if code >= 0 else 128 - code


def _pass_on(script: subprocess.Popen[str], read: Callable[[str], None]) -> None:
    """Each line the script writes to our own output and to `read`, until there are no more."""
    assert script.stdout is not None
    for line in script.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        read(line)


@contextmanager
def _following(path: Path, read: Callable[[str], None]) -> Iterator[None]:
    """Each complete line that a file gains goes to `read`, soon, and the last one at the end even if it is not complete."""
    tail = _Tail(path)
    over = threading.Event()

    def follow() -> None:
        last = False
        while not last:
            last = over.wait(_LOOK_AT_FILE_S)
            for line in tail.lines(last):
                read(line)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _write_result(folder: Path, metrics: Metrics, wall_s: float) -> None:
    """A metric whose last value is no number any more means that the training diverged."""
    lost = [f"{name} was {value} at step {step}" for name, (step, value) in metrics.last.items() if not math.isfinite(value)]
    result = {"outcome": "diverged" if lost else "done", "reason": "; ".join(lost), "facts": {"wall_s": wall_s}}
    new = folder / "result.json.new"
    new.write_text(json.dumps(result))
    new.replace(folder / "result.json")


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


def _number(value: object) -> float | None:
    """None for what is none: not measured. "nan" and "inf" are numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ablate.command FOLDER")
    try:
        sys.exit(run(Path(sys.argv[1])))
    except UserError as error:
        sys.exit(str(error))
