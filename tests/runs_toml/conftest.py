"""A folder to write studies into."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files are named without it, as a user names them."""
    monkeypatch.chdir(tmp_path)
    return Path()
