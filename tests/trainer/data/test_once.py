"""A cached thing is built once, whole."""

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.data.once import built_once


def test_the_second_call_does_not_build(tmp_path: Path) -> None:
    calls = []

    def build(temporary: Path) -> None:
        calls.append(temporary)
        temporary.write_text("made")

    target = tmp_path / "folder" / "thing"
    assert built_once(target, build) == built_once(target, build) == target
    assert target.read_text() == "made"
    assert len(calls) == 1


def test_a_build_that_fails_leaves_nothing_and_the_next_one_starts_clean(tmp_path: Path) -> None:
    def breaks(temporary: Path) -> None:
        temporary.mkdir()
        (temporary / "half").write_text("")
        raise OSError("disk full")

    def works(temporary: Path) -> None:
        temporary.mkdir()
        (temporary / "whole").write_text("")

    target = tmp_path / "thing"
    with pytest.raises(OSError, match="disk full"):
        built_once(target, breaks)
    assert not target.exists()
    built_once(target, works)
    assert [file.name for file in target.iterdir()] == ["whole"]


def test_processes_that_come_together_build_one(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from trainer.data.once import built_once\n"
        "def build(p):\n    open(sys.argv[2], 'a').write('built\\n'); time.sleep(0.3); p.write_text('made')\n"
        "print(built_once(Path(sys.argv[1]), build).read_text())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "thing"), str(tmp_path / "log")]
    together = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in together] == ["made\n"] * 3
    assert (tmp_path / "log").read_text() == "built\n"
