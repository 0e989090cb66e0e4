"""Preparing from the command line."""

import subprocess
import sys
from pathlib import Path


def prepare(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "trainer.data.prepare", *arguments], capture_output=True, text=True, check=False)


def test_small_data_and_untrained_backbones_are_made_in_one_call(tmp_path: Path) -> None:
    root, cache = tmp_path / "data", tmp_path / "cache"
    ended = prepare("--root", str(root), "--cache", str(cache), "--small")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"small data in {root}; the backbones are tiny/dino-untrained and tiny/llama-untrained\n"
    assert (root / "recipe.json").exists()
    assert {folder.name.rsplit("-", 1)[0] for folder in (cache / "tiny").glob("[!.]*")} == {"dino-untrained", "llama-untrained"}


def test_a_folder_that_holds_something_else_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "mine.tar").write_bytes(b"")
    ended = prepare("--root", str(tmp_path), "--cache", str(tmp_path / "cache"), "--small")
    assert ended.returncode == 2
    assert ended.stderr == (
        f"Error: {tmp_path}: holds data of another recipe or origin; remove it or give another folder, nothing was changed\n"
    )
