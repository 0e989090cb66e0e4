"""The trainer's code as it was at the first launch, kept with the study, so that an edit cannot move what is half trained.

outputs/<study>/<profile>/code.json            which code, since when, taken by whom and why: a list, the last one holds
outputs/<study>/<profile>/.code/<hash>/…       the copy that jobs run from

Of a module the copy is its whole top-level package (or, for a single file, the Python files beside it); of a command, the files
that it names, with the Python files and packages beside them; of both, what they import from the same checkout. What is installed
(site-packages) is not copied: its version is recorded. Data is not code: relative paths still mean the folder of runs.toml.
"""

from __future__ import annotations

import getpass
import importlib.machinery
import os
import shlex
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ablate.desk import Desk
from ablate.folders import BrokenFileError, DiskError, read_json, write_json
from ablate.launching.imports import NO_CODE
from ablate.launching.provenance import code_hash, import_places, siblings
from ablate.study import Study, UserError

_LEFT_OUT = shutil.ignore_patterns(*NO_CODE, "*.pyc", ".*", "*.sqlite*")


@dataclass(frozen=True)
class Code:
    """The code that jobs run from now on."""

    hash: str
    at: str
    by: str
    because: str

    def folder(self, desk: Desk) -> Path:
        return desk.folders.code / self.hash


def snapshots(desk: Desk) -> tuple[Code, ...]:
    """Every code that the study was trained with, oldest first."""
    path = desk.folders.code_record
    if not path.exists():
        return ()
    entries = read_json(path)
    try:
        return tuple(Code(**entry) for entry in entries)
    except TypeError as error:
        raise BrokenFileError(f"{path}: a list of objects with hash, at, by and because is expected ({error})") from error


def code_for(desk: Desk, at: str, *, new: bool = False, because: str = "") -> Code:
    """The code to run: the one taken at the first launch, or today's if that is asked for (`new`, with a reason).

    UserError: `new` without a reason, or the copy is gone and the code has changed since.
    """
    taken = snapshots(desk)
    today = code_hash(desk.study)
    if new and not because.strip():
        raise UserError('--new-code needs a reason that can be read later: ablate launch --new-code --because "…"')
    if taken and (not new or taken[-1].hash == today):
        if taken[-1].hash != today and not taken[-1].folder(desk).is_dir():
            raise UserError(
                f"{taken[-1].folder(desk)}: the code this study runs from is gone, and the trainer has changed since. Put it "
                'back, or take the code of today: ablate launch --new-code --because "…"'
            )
        _copy(desk, taken[-1])
        return taken[-1]
    code = Code(today, at, getpass.getuser(), because.strip() if new else "first launch")
    _copy(desk, code)
    write_json(desk.folders.code_record, [asdict(one) for one in (*taken, code)])
    return code


def import_first(desk: Desk, code: Code) -> tuple[str, ...]:
    """Where the ranks look for modules before anywhere else; () when nothing was copied."""
    return (str(code.folder(desk).resolve()),) if code.folder(desk).is_dir() else ()


def command_from(desk: Desk, code: Code) -> str:
    """The study's command with the files it names replaced by their copies; "" for a module."""
    command, folder = desk.study.trainer.command, code.folder(desk).resolve()
    copied = {word: folder / word for word in _named_files(desk.study)}
    words = [str(copied[word]) if word in copied and copied[word].exists() else word for word in shlex.split(command)]
    return shlex.join(words) if copied else command


def _copy(desk: Desk, code: Code) -> None:
    """Make the copy; it has its name only once it is whole."""
    folder = code.folder(desk)
    sources = list(_sources(desk.study))
    if folder.is_dir() or not sources:
        return
    unfinished = folder.with_name(f".{code.hash}.{os.getpid()}")
    try:
        for source, place in sources:
            (unfinished / place).parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, unfinished / place, ignore=_LEFT_OUT, dirs_exist_ok=True)
            else:
                shutil.copy2(source, unfinished / place)
        unfinished.rename(folder)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not folder.is_dir():  # else another launch made it meanwhile
            raise DiskError(folder, error if isinstance(error, OSError) else OSError(str(error))) from error


def _sources(study: Study) -> Iterator[tuple[Path, str]]:
    """What to copy: (file or folder, its place in the copy)."""
    yield from _own_sources(study)
    root = study.path.parent.resolve()
    for path in siblings(study).values():
        if path.parent in import_places(study):
            yield path, path.name
        elif path.is_relative_to(root):  # beside a script of the command
            yield path, path.relative_to(root).as_posix()


def _own_sources(study: Study) -> Iterator[tuple[Path, str]]:
    if study.trainer.command:
        root = study.path.parent
        for word in _named_files(study):
            folder = (root / word).parent
            yield from _beside(folder, folder.relative_to(root).as_posix() if folder != root else "")
            yield root / word, word
        return
    top = study.trainer.module.partition(".")[0]
    found = importlib.machinery.PathFinder.find_spec(top, [str(place) for place in import_places(study)])
    if found is None:
        return
    if found.submodule_search_locations:
        package = Path(next(iter(found.submodule_search_locations)))
        if not _installed(package):
            yield package, top
    elif found.origin and not _installed(Path(found.origin)):
        yield from _beside(Path(found.origin).parent, "")


def _beside(folder: Path, place: str) -> Iterator[tuple[Path, str]]:
    """Python files of a folder, and the packages in it."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py" or (path / "__init__.py").is_file():
            yield path, f"{place}/{path.name}" if place else path.name


def _named_files(study: Study) -> tuple[str, ...]:
    """Words of the command that are files below runs.toml's folder; absolute paths and paths that leave it are not."""
    root = study.path.parent
    words = [word for word in shlex.split(study.trainer.command) if not word.startswith(("{", "/", "-"))]
    return tuple(word for word in words if ".." not in Path(word).parts and (root / word).is_file())


def _installed(path: Path) -> bool:
    return any(path.is_relative_to(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib"))
