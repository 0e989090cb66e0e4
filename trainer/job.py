"""One attempt at a job, as its folder's config.json says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import ConfigError, TrainConfig, conflict


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
    return Job(
        folder=folder,
        key=said["job"],
        run=said["run"],
        seed=int(said["seed"]),
        attempt=int(said["attempt"]),
        resume_from=said.get("resume_from", ""),
        config=read_settings(f"{path}: settings", said["settings"]),
        references={run: read_settings(f"{path}: references.{run}", its) for run, its in said.get("references", {}).items()},
        cache=Path(said["files"]),
    )


def read_settings(place: str, said: Mapping[str, Mapping[str, Any]]) -> TrainConfig:
    try:
        config = TrainConfig.from_dict(said)
    except KeyError as error:
        raise ConfigError(f"{place}: {error.args[0]}") from error
    impossible = conflict(config)
    if impossible:
        raise ConfigError(f"{place}: {impossible}")
    return config
