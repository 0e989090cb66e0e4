"""Fingerprints made here: short runs of a study's own trainer in a temporary folder, or the trainer's own `fingerprint` module.

A short run is the real command with the real folder contract, one rank, the baseline's first seed, and the budget that the file
gives for it:

    [check]
    short = { train.samples = 400 }                    # settings of every short run; a row that changes one keeps its proportion
    late  = ["optim.ema"]                              # settings that act later than so little training can show

The study's folders and database are not touched.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.command import said_of
from ablate.folders import CONFIG, FACTS, METRICS, RESULT, write_json
from ablate.launching.gang import Gang, Stop, run_gang
from ablate.launching.provenance import import_places, rank_environment, trainer_command
from ablate.planning.failures import in_words
from ablate.preflight.fingerprints import Config, Failed, Fingerprint, of_document, of_short_run
from ablate.study import Settings, Study, Value, nested, references

LIMIT_S = 50.0
"""For everything that one `Observe` of a study is asked; what has not ended by then is stopped and counts as failed."""
GRACE_S = 1.0


@dataclass(frozen=True)
class ShortRuns:
    """An `effects.Observe` that trains each config a little."""

    study: Study
    cache: Path
    """Folder for what jobs share, as in the folder contract."""
    deadline: float
    """On the monotonic clock."""
    at_once: int

    def __call__(self, configs: Sequence[Config]) -> Sequence[Fingerprint | Failed]:
        stop = Stop()
        timer = threading.Timer(max(self.deadline - time.monotonic(), 0.0), stop.ask, (GRACE_S,))
        timer.start()
        with tempfile.TemporaryDirectory(prefix="ablate-check-") as place, ThreadPoolExecutor(self.at_once) as pool:
            folders = [Path(place) / str(number) for number in range(len(configs))]
            try:
                return list(pool.map(lambda config, folder: self._observed(config, folder, stop), configs, folders))
            finally:  # also when a person has had enough
                timer.cancel()
                stop.ask(0.0)

    def _observed(self, config: Config, folder: Path, stop: Stop) -> Fingerprint | Failed:
        """Train one config in `folder` and read what it left."""
        if stop.asked:
            return Failed("there was no time left for it", looked=False)
        folder.mkdir()
        write_json(folder / CONFIG, self._job(config))
        command = trainer_command(self.study, folder)
        end = run_gang(Gang(folder, command, env=rank_environment(self.study), cwd=str(self.study.path.parent)), stop)
        if not (folder / RESULT).exists():
            why = in_words(end.cause, end.log_tail).splitlines()[-1]
            return Failed("it had not ended in time", looked=False) if stop.asked else Failed(why)
        try:
            facts = _json(folder / FACTS) if (folder / FACTS).exists() else {}
            return of_short_run(_points(folder / METRICS), facts, _json(folder / RESULT))
        except (ValueError, KeyError) as error:
            return Failed(f"its files do not keep the folder contract: {error!r}")

    def _job(self, config: Config) -> dict[str, Any]:
        study = self.study
        named = references(study, config.settings)
        return {
            "study": study.name,
            "profile": study.profile,
            "job": "check",
            "run": config.name,
            "seed": study.seeds[study.baseline][0] if config.seed is None else config.seed,
            "attempt": 1,
            "resume_from": "",
            "settings": nested(shortened(study, config.settings)),
            "references": {name: nested(shortened(study, settings)) for name, settings in named.items()},
            "files": str(self.cache),
            "trainer": said_of(study),
            "cwd": str(study.path.parent),
        }


@dataclass(frozen=True)
class OwnFingerprints:
    """An `effects.Observe` that asks the trainer's own module, which sees more than metrics: protocol in fingerprints.py."""

    study: Study
    module: str
    cache: Path
    deadline: float

    def __call__(self, configs: Sequence[Config]) -> Sequence[Fingerprint | Failed]:
        asked = [
            {
                "run": config.name,
                "seed": self.study.seeds[self.study.baseline][0] if config.seed is None else config.seed,
                "settings": nested(config.settings),
                "references": {name: nested(one) for name, one in references(self.study, config.settings).items()},
                "files": str(self.cache),
            }
            for config in configs
        ]
        left = max(self.deadline - time.monotonic(), 1.0)
        try:
            ended = subprocess.run(
                [sys.executable, "-m", self.module],
                input=json.dumps(asked),
                capture_output=True,
                text=True,
                env={**os.environ, **rank_environment(self.study)},
                cwd=self.study.path.parent,
                timeout=left,
                check=False,
            )
        except subprocess.TimeoutExpired as late:  # what was answered by then is known
            told = _answers((late.stdout or b"").decode(errors="replace"))
            return [
                *map(_seen, told),
                *[Failed(f"{self.module} had not answered in time", looked=False)] * (len(configs) - len(told)),
            ]
        lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
        if ended.returncode or len(lines) != len(configs):
            last = ended.stderr.strip().splitlines()[-1:] or [f"{len(lines)} answers to {len(configs)} configs"]
            return [Failed(f"{self.module}: {last[0]}")] * len(configs)
        try:
            return [_seen(json.loads(line)) for line in lines]
        except ValueError as error:
            return [Failed(f"{self.module}: an answer is no JSON: {error}")] * len(configs)


def _answers(text: str) -> list[dict[str, Any]]:
    """Whole answers, up to one that was broken off."""
    found = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                break
    return found


def _seen(answer: Mapping[str, Any]) -> Fingerprint | Failed:
    return Failed(str(answer["error"])) if "error" in answer else of_document(answer)


def observer(study: Study, cache: Path) -> ShortRuns | OwnFingerprints | str:
    """How the effects of a study's rows can be seen; as text: why they cannot."""
    deadline = time.monotonic() + LIMIT_S
    package = study.trainer.module.rpartition(".")[0]
    if package and module_exists(study, f"{package}.fingerprint"):
        return OwnFingerprints(study, f"{package}.fingerprint", cache, deadline)
    if study.short:
        return ShortRuns(study, cache, deadline, at_once=len(os.sched_getaffinity(0)))
    return (
        "not available: the trainer makes no fingerprints, and the file does not say what a short run is; "
        "give one, of seconds: [check] short = { train.samples = 200 }"
    )


def shortened(study: Study, settings: Settings) -> dict[str, Value]:
    """`settings` with the budget of a short run; what a row changes in it stays in proportion to the baseline's."""
    return {**settings, **{name: _scaled(short, settings[name], study.settings[name]) for name, short in study.short.items()}}


def _scaled(short: Value, own: Value, base: Value) -> Value:
    if own == base:
        return short
    if all(isinstance(one, int | float) and not isinstance(one, bool) for one in (short, own, base)) and base:
        scaled = float(short) * float(own) / float(base)  # type: ignore[arg-type]  # numbers, as just checked
        return max(round(scaled), 1) if isinstance(short, int) else scaled
    return own


def module_exists(study: Study, name: str) -> bool:
    """Whether a module can be found; none is imported."""
    places: list[str] = [*map(str, import_places(study)), *sys.path]
    *packages, module = name.split(".")
    for package in packages:
        spec = importlib.machinery.PathFinder.find_spec(package, places)
        places = list(spec.submodule_search_locations or []) if spec else []
    return importlib.machinery.PathFinder.find_spec(module, places) is not None


def _points(path: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
