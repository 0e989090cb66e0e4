"""Which code trains, how it is called, in which versions: recorded with every attempt, so that results can be compared fairly."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ablate.conditions import listed
from ablate.launching.imports import beside, place_of, python_files
from ablate.study import Study, UserError

PACKAGES = ("torch", "transformers", "numpy", "ray")


SCRIPTS = (".py", ".sh", ".pl", ".r", ".R", ".jl", ".lua")
"""A word of a command that ends so is a script, to be found from where runs.toml lies."""


@dataclass(frozen=True)
class Provenance:
    """Taken once per launch: the code does not change under it."""

    code_hash: str
    """Of the trainer's own source files."""
    git_commit: str
    git_dirty: bool
    versions: Mapping[str, str]

    @staticmethod
    def of(study: Study) -> Provenance:
        root = study.path.parent
        return Provenance(code_hash(study), *git_state(root), versions())


def import_places(study: Study) -> tuple[Path, ...]:
    """Where modules that a study names are looked for, before the installed packages."""
    return tuple(dict.fromkeys([study.path.parent.resolve(), Path.cwd()]))


def trainer_command(study: Study, folder: Path) -> tuple[str, ...]:
    """What a rank runs. A command template has its own runner, which speaks the folder contract for it.

    -P: what lies in the working folder must not come before the snapshot.
    """
    return (sys.executable, "-P", "-m", study.trainer.module or "ablate.command", str(folder))


def rank_environment(study: Study, first: tuple[str, ...] = ()) -> dict[str, str]:
    """Modules beside runs.toml, or below where ablate was called, can be imported by the ranks; `first` before them."""
    places = [*first, *map(str, import_places(study)), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, places))}


def code_hash(study: Study) -> str:
    """Hash of the trainer's own source files: 16 hex digits.

    A module's: every *.py of its package. A command's: the files that the template names. And what those import from beside them.
    Raises UserError when the trainer cannot be found.
    """
    digest = hashlib.sha256()
    for path, name in sorted(_sources(study), key=lambda pair: pair[1]):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def seed_note(study: Study) -> str:
    """What to know where the jobs of a run have seeds, and a command that is not told which; "" where that is in order.

    It may read it itself: config.json in {folder} has `seed`.
    """
    command, most = study.trainer.command, max(map(len, study.seeds.values()))
    if not command or most < 2 or "{seed}" in command:
        return ""
    if _reads_config(study):
        return ""
    return (
        f"the trainer's command does not say {{seed}}: nothing tells the {most} jobs of a run apart. Add --seed={{seed}}, or "
        "have the script read `seed` in {folder}/config.json"
    )


def settings_note(study: Study) -> str:
    """Settings that rows change and the command hands on in no form: nothing tells such rows apart; "" if there are none.

    The script may read them itself: config.json in {folder} has `settings`.
    """
    command = study.trainer.command
    if not command or "{--key=value}" in command or _reads_config(study):
        return ""
    changes = [*(run.changes for run in study.runs.values()), *(start.changes for start in study.starts.values())]
    spaces = [run.search.space for run in study.runs.values() if run.search]
    swept = dict.fromkeys(name for names in (*changes, *spaces) for name in names)
    said = set(re.findall(r"\{([^{}\s]+)\}", command))
    lost = [name for name in swept if name not in said and not any(name.startswith(f"{table}.") for table in said)]
    if not lost:
        return ""
    return (
        f"the trainer's command does not hand on {listed(lost)}, which rows change: what changes nothing else trains the same. "
        f"Add {{--key=value}}, or --{lost[0]}={{{lost[0]}}}, or have the script read `settings` in {{folder}}/config.json"
    )


def _reads_config(study: Study) -> bool:
    return "{folder}" in study.trainer.command and any(b"config.json" in path.read_bytes() for path, _ in _sources(study))


def siblings(study: Study) -> dict[str, Path]:
    """What the trainer imports from beside runs.toml or where ablate was called, by name; its own package is not among it."""
    own = study.trainer.module.partition(".")[0]
    if study.trainer.command:
        start = [path.resolve() for path in _named_files(study) if path.suffix == ".py"]
        places = [*(path.parent for path in start), *import_places(study)]
    else:
        places = list(import_places(study))
        start = [path for path in [place_of(own, places)] if path is not None]
    found = beside(start, places)
    return {name: path for name, path in found.items() if name != own and path not in start}


def _sources(study: Study) -> Iterator[tuple[Path, str]]:
    """(file, its name within the trainer, or within what it imports)."""
    yield from _own_sources(study)
    for path in siblings(study).values():
        yield from ((file, file.relative_to(path.parent).as_posix()) for file in python_files(path))


def _own_sources(study: Study) -> Iterator[tuple[Path, str]]:
    """(file, its name within the trainer)."""
    trainer = study.trainer
    if trainer.command:
        scripts = [word for word in shlex.split(trainer.command) if Path(word).suffix in SCRIPTS and "{" not in word]
        here = [word for word in scripts if (study.path.parent / word).is_file() or shutil.which(word)]
        if missing := next((word for word in scripts if word not in here), None):
            raise UserError(f"the trainer's command names {missing!r}, and there is no such file beside {study.path.name}")
        yield from ((path, path.name) for path in _named_files(study))
        return
    *packages, module = trainer.module.split(".")
    places = [str(place) for place in import_places(study)] + sys.path
    for package in packages:
        spec = importlib.machinery.PathFinder.find_spec(package, places)
        places = list(spec.submodule_search_locations or []) if spec else []
    found = importlib.machinery.PathFinder.find_spec(module, places)
    if found is None or found.origin is None:
        looked = ", ".join(map(str, import_places(study)))
        raise UserError(
            f"the trainer {trainer.module!r} cannot be found: it is not in {looked}, nor among the installed packages"
        )
    folders = [Path(place) for place in places] if packages else []
    yield from ((path, path.relative_to(folder).as_posix()) for folder in folders for path in python_files(folder))
    if not packages:
        yield Path(found.origin), Path(found.origin).name


def _named_files(study: Study) -> list[Path]:
    """Words of the command that are files, from where runs.toml lies."""
    words = [study.path.parent / word for word in shlex.split(study.trainer.command) if not word.startswith("{")]
    return [path for path in words if path.is_file()]


def git_state(root: Path) -> tuple[str, bool]:
    """(commit, dirty) of the checkout around `root`; ("", False) where there is none."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "", False
    return commit.stdout.strip(), bool(status.stdout.strip())


def versions() -> dict[str, str]:
    """Of Python and the packages a result can depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
