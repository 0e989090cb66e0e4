"""One attempt at a job, as its folder's config.json says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import ConfigError, TrainConfig, conflict, misfit, stateful


@dataclass(frozen=True)
class Job:
    folder: Path
    """The attempt's: everything it writes goes there."""
    key: str
    run: str
    seed: int
    attempt: int
    resume_from: str
    """Folder of an earlier attempt's checkpoint, or empty."""
    config: TrainConfig
    references: Mapping[str, TrainConfig]
    """Settings of runs that a setting names ("as F3")."""
    cache: Path
    """Folder for files that all jobs of a checkout share."""

    @property
    def identity(self) -> dict[str, Any]:
        """What can change its result: the seed, and settings by their dotted names, those of runs it names too."""
        configs = {"": self.config} | {f"{run}'s ": its for run, its in self.references.items()}
        return {"seed": self.seed} | {
            f"{whose}{part}.{name}": value
            for whose, config in configs.items()
            for part, its in stateful(config).items()
            for name, value in its.items()
        }


def read_job(folder: Path) -> Job:
    """Raises ConfigError when config.json is missing, no JSON, incomplete, or says something impossible."""
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"{folder}: there is no config.json; give the folder of an attempt: python -m trainer.train FOLDER")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from error
    wanted = ("job", "run", "seed", "attempt", "settings", "files")
    missing = [name for name in wanted if not isinstance(said, dict) or name not in said]
    if missing:
        raise ConfigError(f"{path}: has no {', '.join(missing)}; it needs {', '.join(wanted)}")
    for name, kind in KINDS.items():
        if name in said and (not isinstance(said[name], kind) or isinstance(said[name], bool)):
            raise ConfigError(f"{path}: {name} is {said[name]!r}; it must be {NAMES[kind]}")
    return Job(
        folder=folder,
        key=said["job"],
        run=said["run"],
        seed=said["seed"],
        attempt=said["attempt"],
        resume_from=said.get("resume_from", ""),
        config=read_settings(f"{path}: settings", said["settings"]),
        references={run: read_settings(f"{path}: references.{run}", its) for run, its in said.get("references", {}).items()},
        cache=Path(said["files"]),
    )


KINDS = {"job": str, "run": str, "seed": int, "attempt": int, "resume_from": str, "references": dict, "files": str}
"""What config.json holds beside settings."""
NAMES = {str: "a text", int: "a whole number", dict: "an object"}


def read_settings(place: str, said: Any) -> TrainConfig:
    """Nested settings as a config. Raises ConfigError for what does not exist, cannot be, or cannot be together."""
    if not isinstance(said, dict) or not all(isinstance(part, dict) for part in said.values()):
        raise ConfigError(f'{place}: settings are an object of objects, such as {{"train": {{"samples": 1000}}}}')
    try:
        config = TrainConfig.from_dict(said)
    except KeyError as error:
        raise ConfigError(f"{place}: {error.args[0]}") from error
    impossible = misfit(config) or conflict(config)
    if impossible:
        raise ConfigError(f"{place}: {impossible}")
    return config
