"""What a trainer imports from beside it, modules and packages of its own checkout: found by reading the code, not by running it.

Modules whose name is put together while the code runs (importlib.import_module) are not found.
"""

from __future__ import annotations

import importlib.machinery
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

NO_CODE = ("__pycache__", "outputs", "node_modules")
"""Folders in a package that hold no code of it: `outputs/` has copies of the code as it once was."""
_IMPORT = re.compile(rb"^[ \t]*(?:from[ \t]+([A-Za-z_]\w*)|import[ \t]+([^\n#;]+))", re.MULTILINE)
"""An absolute import. Prose that happens to begin so names nothing that exists."""


def beside(start: Iterable[Path], places: Sequence[Path]) -> dict[str, Path]:
    """Top-level modules and packages that lie in one of `places` and are imported from `start`, directly or through each other.

    start: Python files, or packages. places: where modules are looked for first. Name -> file or folder, by name.
    """
    found: dict[str, Path] = {}
    known: set[str] = set(sys.stdlib_module_names)
    unread = [file for path in start for file in python_files(path)]
    while unread:
        for name in _imported(unread.pop().read_bytes()) - known:
            known.add(name)
            if (path := place_of(name, places)) is not None:
                found[name] = path
                unread += python_files(path)
    return dict(sorted(found.items()))


def python_files(path: Path) -> list[Path]:
    """Of a package or folder, every one below it but what is no code of it (results, hidden folders); of a file, itself."""
    if not path.is_dir():
        return [path]
    found = (file for file in path.rglob("*.py") if not any(_no_code(part) for part in file.relative_to(path).parts[:-1]))
    return sorted(found)


def _no_code(folder: str) -> bool:
    return folder.startswith(".") or folder in NO_CODE


def _imported(code: bytes) -> set[str]:
    """Top-level names."""
    return {name.decode() for name in _names(code)}


def _names(code: bytes) -> Iterator[bytes]:
    for one, several in _IMPORT.findall(code):
        yield from [one] if one else [each.split()[0].partition(b".")[0] for each in several.split(b",") if each.split()]


def place_of(name: str, places: Sequence[Path]) -> Path | None:
    """Where Python would find it, if that is directly in one of `places`: what is installed elsewhere is not ours."""
    try:
        spec = importlib.machinery.PathFinder.find_spec(name, [*map(str, places), *sys.path])
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    where = [Path(place) for place in spec.submodule_search_locations or ()] or [Path(spec.origin or "")]
    ours = [path for path in where if path.parent in places]
    return ours[0] if ours and python_files(ours[0]) else None
