"""Jobs run from the code of the first launch, whatever is edited meanwhile, until a person says otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablate import answers
from ablate.desk import Desk
from ablate.provenance import code_hash
from ablate.snapshot import code_for, command_from, import_first, snapshots
from ablate.study import UserError
from tests.test_disk import STUDY, TRAINER, copy_study, desk_in
from tests.test_launch import Witness, train_here

NOW = "2026-11-22T12:00:00Z"
PACKAGED = TRAINER.replace('job["settings"]["x"]', 'loss_of(job["settings"]["x"])').replace(
    "import json, os, pathlib, sys", "import json, os, pathlib, sys\nfrom lab.losses import loss_of"
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study whose trainer is a module of a package, beside runs.toml."""
    (tmp_path / "runs.toml").write_text(STUDY.replace('"fit"', '"lab.fit"'))
    lab = tmp_path / "lab"
    lab.mkdir()
    (lab / "__init__.py").touch()
    (lab / "fit.py").write_text(PACKAGED)
    (lab / "losses.py").write_text("def loss_of(x):\n    return x\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(desk: Desk, run: str, witness: Witness | None = None) -> float:
    """Train one job for real; the loss it ended with."""
    job = next(job for job in desk.plan().jobs if job.run == run)
    record = train_here(desk, job, witness or Witness())
    assert record.state == "done", record.reason
    return desk.store.curve(job.key or "", "val_loss")[-1][1]


def test_an_edit_after_the_first_launch_does_not_reach_the_jobs(package: Path) -> None:
    assert train(desk_in(package), "A") == pytest.approx(1.0 / 3)
    (package / "lab" / "losses.py").write_text("def loss_of(x):\n    return 100 * x\n")
    witness, desk = Witness(), desk_in(package)
    assert train(desk, "B", witness) == pytest.approx(2.0 / 3)
    assert [note for note in witness.of("note") if "jobs go on with the code of then" in note]
    hashes = {attempt.code_hash for tries in desk.store.attempts().values() for attempt in tries}
    assert hashes == {snapshots(desk)[0].hash}
    answer = answers.plan(desk)
    assert {job["code_hash"] for job in answer["jobs"]} == hashes
    assert answer["notes"][0].startswith("the trainer has changed since ")


def test_new_code_is_taken_when_a_person_says_why(package: Path) -> None:
    desk = desk_in(package)
    first = code_for(desk, NOW)
    (package / "lab" / "losses.py").write_text("def loss_of(x):\n    return 100 * x\n")
    with pytest.raises(UserError, match="--new-code needs a reason"):
        code_for(desk, NOW, new=True)
    second = code_for(desk, NOW, new=True, because="a bug in the loss")
    assert [code.because for code in snapshots(desk)] == ["first launch", "a bug in the loss"]
    assert second.hash == code_hash(desk.study) != first.hash
    assert train(desk, "A") == pytest.approx(100.0 / 3)
    assert code_for(desk, NOW, new=True, because="again") == second, "the same code is not taken twice"


def test_a_copy_that_is_gone_is_made_again_only_from_the_same_code(package: Path) -> None:
    desk = desk_in(package)
    code = code_for(desk, NOW)
    (code.folder(desk)).rename(package / "elsewhere")
    assert code_for(desk, NOW).folder(desk).is_dir()
    (code.folder(desk)).rename(package / "elsewhere too")
    (package / "lab" / "losses.py").write_text("def loss_of(x):\n    return -x\n")
    with pytest.raises(UserError, match="the code this study runs from is gone, and the trainer has changed since"):
        code_for(desk, NOW)


def test_a_command_runs_the_copies_of_the_files_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    copy = tmp_path / "in" / "study"
    (tmp_path / "runs.toml").write_text(
        STUDY.replace('"fit"', '{ command = "{python} fit.py {folder}", metrics = { file = "log.jsonl" } }')
    )
    (tmp_path / "fit.py").write_text("import sys, losses\nopen(sys.argv[1] + '/log.jsonl', 'w').write(losses.TEXT)\n")
    copy_study(tmp_path, copy)
    (copy / "losses.py").write_text('TEXT = \'{"step": 1, "val_loss": 1.0}\\n\'\n')
    monkeypatch.chdir(copy)
    desk = desk_in(copy)
    code = code_for(desk, NOW)
    assert command_from(desk, code).split()[1] == str(code.folder(desk) / "fit.py")
    (copy / "losses.py").write_text("raise RuntimeError('edited')\n")
    assert train(desk, "A") == 1.0
    config = next(desk.folders.base.glob("A-*/1/config.json"))
    assert json.loads(config.read_text())["trainer"]["command"] == command_from(desk, code)


def test_our_own_trainer_is_copied_whole_and_nothing_else_is(package: Path) -> None:
    (package / "lab" / "__pycache__").mkdir()
    (package / "lab" / "__pycache__" / "fit.pyc").touch()
    (package / "lab" / "words.txt").write_text("data of the package")
    desk = desk_in(package)
    code = code_for(desk, NOW)
    copied = sorted(path.relative_to(code.folder(desk)).as_posix() for path in code.folder(desk).rglob("*") if path.is_file())
    assert copied == ["lab/__init__.py", "lab/fit.py", "lab/losses.py", "lab/words.txt"]
    assert import_first(desk, code) == (str(code.folder(desk).resolve()),)
