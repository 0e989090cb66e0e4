"""docs/import.md, typed as it stands."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from ablate import cli
from tests.conftest import REPOSITORY

DOCUMENT = (REPOSITORY / "docs" / "import.md").read_text()


def blocks(kind: str) -> list[str]:
    return [text for of, text in re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE) if of == kind]


def test_the_commands_of_the_page_do_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "examples" / "unrelated"
    to.mkdir(parents=True)
    for name in ("runs.toml", "fit.py", "past.csv"):
        shutil.copy(REPOSITORY / "examples" / "unrelated" / name, to / name)
    monkeypatch.chdir(tmp_path)
    (commands,) = blocks("sh")
    for line in commands.splitlines():
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code in (0, None), capsys.readouterr().err
    said = " ".join(capsys.readouterr().out.split())
    (shown,) = blocks("")
    for line in shown.splitlines():
        assert " ".join(line.rstrip("…").split()) in said


def test_the_rows_the_page_quotes_are_in_the_file() -> None:
    rows = (REPOSITORY / "examples" / "unrelated" / "past.csv").read_text().splitlines()
    assert f"    {rows[0]}\n    {rows[1]}\n" in DOCUMENT
    assert len({tuple(row.split(",")[:2]) for row in rows[1:]}) == 15
