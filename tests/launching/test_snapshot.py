"""Jobs run from the code of the first launch, whatever is edited meanwhile, until a person says otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablate.answers import plan as plan_answers
from ablate.desk import Desk
from ablate.launching.imports import beside
from ablate.launching.launch import train_here
from ablate.launching.provenance import code_hash
from ablate.launching.snapshot import code_for, command_from, import_first, snapshots
from ablate.study import UserError
from tests.launching.test_launch import Witness
from tests.test_disk import STUDY, TRAINER, copy_study, desk_in

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
    answer = plan_answers.plan(desk)
    assert {job["code_hash"] for job in answer["jobs"]} == hashes
    assert answer["notes"][0].startswith("the trainer has changed since ")


def test_results_inside_the_package_are_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    (lab / "runs.toml").write_text(STUDY.replace('"fit"', '"lab.fit"'))
    (lab / "__init__.py").touch()
    (lab / "fit.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)
    desk = desk_in(lab)
    before, code = code_hash(desk.study), code_for(desk, NOW)
    assert list(code.folder(desk).rglob("*.py")), "the copy lies in outputs/, inside the package"
    assert code_hash(desk.study) == before
    assert not list(code.folder(desk).rglob("*.sqlite*"))


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


def test_what_the_trainer_imports_from_the_same_checkout_is_copied_too(package: Path) -> None:
    (package / "lab" / "losses.py").write_text(
        "import json, shared.scale as scale\n\ndef loss_of(x):\n    return scale.scaled(x)\n"
    )
    (package / "shared").mkdir()
    (package / "shared" / "__init__.py").touch()
    (package / "shared" / "scale.py").write_text("def scaled(x):\n    from factor import FACTOR\n    return FACTOR * x\n")
    (package / "factor.py").write_text("FACTOR = 2\n")
    (package / "unrelated.py").write_text("FACTOR = 7\n")
    desk = desk_in(package)
    before = code_hash(desk.study)
    assert train(desk, "A") == pytest.approx(2.0 / 3)
    code = snapshots(desk)[0].folder(desk)
    assert sorted(path.name for path in code.iterdir()) == ["factor.py", "lab", "shared"]
    (package / "factor.py").write_text("FACTOR = 3\n")
    assert train(desk_in(package), "B") == pytest.approx(4.0 / 3), "the edit does not reach the jobs"
    assert code_hash(desk.study) != before, "but it is seen, and --new-code takes it"
    (package / "unrelated.py").write_text("FACTOR = 8\n")
    (package / "factor.py").write_text("FACTOR = 2\n")
    assert code_hash(desk.study) == before


def test_a_script_in_a_folder_brings_what_it_imports_from_there_and_from_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs.toml").write_text(
        STUDY.replace('"fit"', '{ command = "{python} scripts/fit.py {folder}", metrics = { file = "log.jsonl" } }')
    )
    (tmp_path / "scripts").mkdir()
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "__init__.py").write_text("LOSS = 1.0\n")
    (tmp_path / "scripts" / "text.py").write_text('import library\nTEXT = f\'{{"step": 1, "val_loss": {library.LOSS}}}\\n\'\n')
    (tmp_path / "scripts" / "fit.py").write_text("import sys, text\nopen(sys.argv[1] + '/log.jsonl', 'w').write(text.TEXT)\n")
    monkeypatch.chdir(tmp_path)
    desk = desk_in(tmp_path)
    assert train(desk, "A") == 1.0
    (tmp_path / "library" / "__init__.py").write_text("LOSS = 9.0\n")
    (tmp_path / "scripts" / "text.py").write_text("raise RuntimeError('edited')\n")
    assert train(desk_in(tmp_path), "B") == 1.0


def test_prose_and_what_is_installed_are_no_imports_of_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "fit.py").write_text('"""\nfrom shards we read\nimport of data\n"""\nimport pytest, os.path\nfrom . import x\n')
    (tmp_path / "of").mkdir()
    (tmp_path / "pytest").mkdir()
    assert beside([tmp_path / "fit.py"], [tmp_path]) == {}, "folders without code, one of them named like a package"
    (tmp_path / "shards.py").touch()
    assert beside([tmp_path / "fit.py"], [tmp_path]) == {"shards": tmp_path / "shards.py"}, "better one too many than one too few"
