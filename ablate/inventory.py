"""`ablate data …`: what data a study has and needs, asked of our trainer in a process of its own: torch stays out of here.

The questions and their answers are the trainer's (trainer.index, trainer.data.manifests, trainer.data.inventory); here they are
put for a study: its data folders, its runs' settings, its tokenizer. They run beside the study's file, as jobs do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.study import Run, Settings, Study, UserError, nested

CACHE = Path("outputs") / ".cache"
UNMET = 3


@dataclass(frozen=True)
class Question:
    """A call of the trainer's module."""

    module: str
    arguments: tuple[str, ...]
    runs: Mapping[str, Any] | None = None
    """Nested settings by run, on the process's standard input."""


def index(study: Study, shards: Sequence[Path], workers: int | None) -> list[Question]:
    """Index these shards, or without any all shards of the study's data folders."""
    questions = []
    for root, runs in by_root(study).items():
        its = [str(path.resolve()) for path in shards] or [root]
        tokenizer = str(next(iter(runs.values()))["model.language"])
        wished = ("--workers", str(workers)) if workers else ()
        questions.append(Question("trainer.index", (*its, "--tokenizer", tokenizer, "--cache", str(CACHE), *wished)))
        if shards:  # they say themselves which folder's they are
            break
    return questions


def status(study: Study) -> list[Question]:
    """The inventory of each data folder, and whether the needs of the runs that read it are met."""
    return [
        Question("trainer.data.inventory", ("--root", root, "--cache", str(CACHE), "--runs"), _nested(runs))
        for root, runs in by_root(study).items()
    ]


def manifests(study: Study) -> list[Question]:
    """Draw and tokenise the training manifests of all runs."""
    every = {run: settings for runs in by_root(study).values() for run, settings in runs.items()}
    return [Question("trainer.data.manifests", ("--cache", str(CACHE), "training"), _nested(every))]


def validation_set(study: Study, name: str, samples: int, seed: int, mix: str) -> list[Question]:
    """Draw a validation set for the runs that are measured on it; without `mix` in the proportions of the first of them."""
    found = {
        root: settings
        for root, runs in reversed(by_root(study).items())
        for settings in reversed(runs.values())
        if settings["eval.set"] == name
    }
    if not found:
        sets = sorted({str(settings["eval.set"]) for runs in by_root(study).values() for settings in runs.values()})
        raise UserError(f"no run is measured on a validation set {name!r}; eval.set is {', '.join(sets)}")
    return [_draw(root, settings, name, samples, seed, mix) for root, settings in reversed(found.items())]


def _draw(root: str, settings: Settings, name: str, samples: int, seed: int, mix: str) -> Question:
    shares = settings["data.mix"]
    assert isinstance(shares, dict), shares  # the trainer's config types it
    said = mix or ",".join(f"{kind}={share}" for kind, share in shares.items())
    told = {
        "--root": root,
        "--samples": samples,
        "--seed": seed,
        "--mix": said,
        "--tokenizer": settings["model.language"],
        "--max-text-tokens": settings["data.max_text_tokens"],
    }
    words = tuple(str(word) for pair in told.items() for word in pair)
    return Question("trainer.data.manifests", ("--cache", str(CACHE), "validation", name, *words))


def by_root(study: Study) -> dict[str, dict[str, Settings]]:
    """Data folder → its runs' settings, in the file's order. UserError for a study that another trainer trains.

    A run that starts from winners is taken as if nothing had been decided: decisions about data are settings of its own row.
    """
    if study.trainer.module != "trainer.train":
        trained = study.trainer.module or study.trainer.command
        raise UserError(
            f"`ablate data` knows the data of trainer.train; this study is trained by {trained!r}, which reads its own"
        )
    roots: dict[str, dict[str, Settings]] = {}
    for name, run in study.runs.items():
        settings = _settings(study, run)
        roots.setdefault(str(settings["data.root"]), {})[name] = settings
    return roots


def _settings(study: Study, run: Run) -> Settings:
    start = study.starts[run.start.names[0]].changes if run.start.kind == "named" else {}
    return {**study.settings, **start, **run.changes}


def _nested(runs: Mapping[str, Settings]) -> dict[str, Any]:
    return {run: nested(settings) for run, settings in runs.items()}


def ask(study: Study, question: Question) -> tuple[dict[str, Any], int]:
    """(document, exit code). What the process says while it works goes to our standard error. UserError for its mistakes."""
    said = "" if question.runs is None else json.dumps(question.runs)
    command = [sys.executable, "-m", question.module, *question.arguments, "--json"]
    if question.module == "trainer.data.manifests":  # its options stand before what is drawn
        command = [sys.executable, "-m", question.module, "--json", *question.arguments]
    folder = study.path.parent.resolve()
    paths = os.pathsep.join(filter(None, [str(folder), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    with subprocess.Popen(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": paths}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            answer, _ = process.communicate(said)
        except KeyboardInterrupt:
            answer, _ = process.communicate()  # the terminal told it too; it keeps what it has and ends
    if process.returncode not in (0, UNMET):
        raise UserError(f"{question.module} did not finish (exit code {process.returncode}); why, it says above")
    document: dict[str, Any] = json.loads(answer)
    return document, process.returncode
