"""The README's tree against the files, and its commands against the command line."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from typer.main import get_command

from ablate.cli import app
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
TREE = README.split("## What is where")[1].split("```")[1]
UNLISTED = {"__init__.py", "env.py", "0001_first.py", "0002_changes.py"}
"""Files whose folder's caption speaks for them."""


def listed() -> dict[str, str]:
    """Path -> caption, from the indented tree."""
    found: dict[str, str] = {}
    folders: list[tuple[int, str]] = []
    for line in TREE.splitlines():
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        name, _, caption = line.strip().partition("  ")
        while folders and folders[-1][0] >= indent:
            folders.pop()
        path = "".join(folder for _, folder in folders) + name
        if name.endswith("/"):
            folders.append((indent, name))
        found[path] = caption.strip()
    return found


def committed() -> list[Path]:
    output = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return [Path(line) for line in output.splitlines() if (REPOSITORY / line).exists()]


def test_everything_in_the_tree_is_there_and_has_a_caption() -> None:
    for path, caption in listed().items():
        assert (REPOSITORY / path).exists(), f"{path} is in the README's tree and not on disk"
        assert caption, f"{path} has no caption"


def test_every_source_file_is_in_the_tree() -> None:
    packages = ("ablate", "trainer", "db", "benchmarks")
    sources = [path for path in committed() if path.suffix == ".py" and path.parts[0] in packages and path.name not in UNLISTED]
    tree, commands = listed(), set(get_command(app).commands)  # type: ignore[attr-defined]  # a group
    missing = [str(path) for path in sources if str(path) not in tree]
    named = [folder for folder, caption in tree.items() if "a file per command" in caption]
    missing = [path for path in missing if Path(path).stem not in commands or f"{Path(path).parent}/" not in named]
    assert not missing, f"not in the README's tree: {', '.join(missing)}"


def test_every_command_of_the_command_line_is_in_the_readme_and_every_one_named_there_exists() -> None:
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]  # a group
    named = set(re.findall(r"`ablate ([a-z]+)", README))
    assert named <= commands, named - commands
    assert commands <= named, commands - named


def test_every_file_the_documents_link_to_exists() -> None:
    for document in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "examples" / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
