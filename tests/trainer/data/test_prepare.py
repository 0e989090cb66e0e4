"""Preparing from the command line."""

from pathlib import Path

import pytest

from trainer.data.prepare import main


def test_small_data_and_untrained_backbones_are_made_in_one_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, cache = tmp_path / "data", tmp_path / "cache"
    assert main(["--root", str(root), "--cache", str(cache), "--small"]) == 0
    assert capsys.readouterr().out == f"small data in {root}; the backbones are tiny/dino-untrained and tiny/llama-untrained\n"
    assert (root / "recipe.json").exists()
    assert {folder.name.rsplit("-", 1)[0] for folder in (cache / "tiny").glob("[!.]*")} == {"dino-untrained", "llama-untrained"}


def test_a_folder_that_holds_something_else_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "mine.tar").write_bytes(b"")
    assert main(["--root", str(tmp_path), "--cache", str(tmp_path / "cache"), "--small"]) == 2
    assert capsys.readouterr().err == (
        f"Error: {tmp_path}: holds data of another recipe or origin; remove it or give another folder, nothing was changed\n"
    )
