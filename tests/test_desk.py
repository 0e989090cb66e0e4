"""Looking at a study that may be read and not written: real files with such modes, a real process that has to mind them."""

from __future__ import annotations

import ctypes
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ablate.desk import open_desk
from ablate.evidence import decide
from ablate.runs_toml import read_study
from db import schema
from tests.conftest import repository_environment
from tests.small_study import NOW, STUDY, TRAINER, write

PR_CAPBSET_DROP = 24
TYPE = """
import sys
from ablate.cli import main
sys.stderr = sys.stdout
for command in sys.argv[1:]:
    sys.argv = ["ablate", *command.split()]
    try: main()
    except SystemExit as end: print("exit code", end.code or 0)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A study with results, in a folder that may be read and not written."""
    made = tmp_path / "study"
    made.mkdir()
    (made / "runs.toml").write_text(STUDY)
    (made / "train.py").write_text(TRAINER)
    desk = open_desk(read_study(made / "runs.toml"))
    write(desk, "F3", "F1")
    decide(desk, NOW)
    desk.store.close()
    read_only(made)
    yield made
    writable(made)


def read_only(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


def writable(folder: Path) -> None:
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def ablate(folder: Path, *commands: str) -> list[tuple[int, str]]:
    """What each command answers to one who may do with files what their modes say, which root need not mind."""
    done = subprocess.run(
        [sys.executable, "-c", TYPE, *commands],
        cwd=folder,
        env=repository_environment(),
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=_mind_modes if os.geteuid() == 0 else None,
    )
    said = re.findall(r"(.*?)exit code (\d)\n", done.stdout, re.DOTALL)
    assert len(said) == len(commands)
    return [(int(code), text) for text, code in said]


def _mind_modes() -> None:
    """Root without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, from the next exec on."""
    for capability in (1, 2):
        if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability) != 0:
            raise OSError("this root cannot give its rights up")


def test_who_may_only_read_the_database_sees_what_everybody_sees(folder: Path) -> None:
    there = sorted(folder.rglob("*"))
    for code, text in ablate(
        folder, "status", "show F3", "plan", "launch --dry-run", "audit", "decide --explain", "compare F1 F3"
    ):
        assert code == 0
        assert "small" in text
    assert sorted(folder.rglob("*")) == there


def test_what_somebody_who_has_it_open_wrote_is_seen(folder: Path) -> None:
    writable(folder)
    writer = sqlite3.connect(folder / "db" / "ablate.sqlite")
    writer.execute("UPDATE attempts SET state = 'failed' WHERE id = 1")
    writer.commit()
    read_only(folder)
    assert (folder / "db" / "ablate.sqlite-wal").stat().st_size
    ((_, text),) = ablate(folder, "status")
    assert "5 done" in text
    writer.close()


def test_what_would_be_written_is_refused_in_one_line(folder: Path) -> None:
    for code, text in ablate(folder, "decide", "lock", "decide sweep1 --take F1 --because x", "retry F3"):
        assert (code, text.count("\n")) == (2, 1)
        assert "the database or its folder is read-only; make both writable, or copy it elsewhere" in text


def test_an_older_database_that_may_only_be_read_is_told_who_brings_it_up_to_date(folder: Path) -> None:
    writable(folder)
    with closing(sqlite3.connect(folder / "db" / "ablate.sqlite")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (schema.KNOWN_VERSIONS[0],))
    read_only(folder)
    ((code, text),) = ablate(folder, "status")
    assert code == 2
    assert "written by an older ablate" in text
    assert text.endswith("read-only for you; `ablate status`, typed by somebody who may write it, brings it up to date\n")


def test_a_file_that_may_not_be_read_is_told_in_one_line(folder: Path) -> None:
    (folder / "outputs").chmod(0o000)
    ((code, text),) = ablate(folder, "status")
    assert code == 2
    assert text.startswith(f"Error: {folder}/outputs/small/full")
    assert text.endswith(": this user may not read or write it (Permission denied)\n")


def test_a_database_folder_that_may_not_be_looked_into_is_named(folder: Path) -> None:
    (folder / "db").chmod(0o000)
    ((code, text),) = ablate(folder, "status")
    assert code == 2
    assert text.endswith("db/ablate.sqlite: its folder is not yours to look into; ask its owner for that right\n")
