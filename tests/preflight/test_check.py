"""`ablate check` as it is typed: the document, the screen, exit codes; on a planted study and on the shipped ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ablate import cli
from ablate.desk import open_desk
from ablate.preflight.check import PARTS, check, parts
from ablate.runs_toml import read_study
from ablate.study import UserError
from db.records import JobRecord, Point
from tests.conftest import REPOSITORY, repository_environment

NOW = "2026-11-22T12:00:00Z"

PLANTED = """
[study]
name             = "planted"
asks             = "Does check see it?"
baseline         = "F3"
trainer          = { command = "{python} train.py {--key=value}", metrics = { stdout = 'loss (?P<val_loss>\\S+)' } }
gpus_per_run     = 2
hours_per_run    = 0.5
usd_per_gpu_hour = 2.0

[settings]
model.width   = 4
model.dropout = 0.1
train.steps   = 100

[runs]
F3 = {}
F1 = { model.width = 8 }
F2 = { model.dropout = 0.5 }

[seeds]
every = [42]

[metrics]
val_loss = { better = "lower", margin = 0.05, noise = 0.05, unit = "nats" }

[sweep1]
asks    = "Which?"
compare = ["F1", "F2", "F3"]
on      = "val_loss"
decide.width = [
  ["F1 no worse than F3",                      "F1", "as good"],
  ["F1 better than F3",                        "F1", "better"],
  ["F2 better than F3 and F3 no worse than F2", "F2", "cannot be"],
  ["otherwise",                                "F3", "stay"],
]

[blocks]
1 = ["F3", "F1", "F2"]

[lock]
after = 1

[check]
short = { train.steps = 3 }
"""

TRAINER = """
import sys
said = dict(word[2:].split("=", 1) for word in sys.argv[1:])
for step in range(int(said["train.steps"])):
    print("step", step, "loss", float(said["model.width"]) / (step + 1))
"""


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """The file of a study with a row that nobody reads, a line that never fires and one in a shadow."""
    (tmp_path / "runs.toml").write_text(PLANTED)
    (tmp_path / "train.py").write_text(TRAINER)
    return tmp_path / "runs.toml"


def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["ablate", "check", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def document(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    return found


def test_planted_faults_are_errors_and_end_with_code_1(
    planted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = typed(monkeypatch, capsys, "--study", str(planted), "--json")
    said = document(out)
    assert code == 1
    assert [(row["run"], row["verdict"], row["level"]) for row in said["effects"]] == [
        ("F3", "baseline", ""),
        ("F1", "takes_effect", ""),
        ("F2", "never_read", "error"),
    ]
    (tree,) = said["trees"]
    assert [(line["verdict"], line["level"]) for line in tree["lines"]] == [
        ("fires", ""),
        ("shadowed", "flag"),
        ("never", "error"),
        ("fires", ""),
    ]
    assert said["counts"]["error"] == 2
    assert said["next"] == ""
    assert not (planted.parent / "outputs").exists(), "looking leaves nothing behind"


def test_the_document_has_what_the_specification_names(
    planted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = typed(monkeypatch, capsys, "--study", str(planted), "--json")
    said = document(out)
    assert {"effects", "trees", "power", "resources"} <= said.keys()
    assert all({"run", "verdict", "differences"} <= row.keys() for row in said["effects"])
    sight = said["power"][0]["sights"][0]
    assert (sight["a"], sight["b"], sight["answerable"]) == ("F1", "F3", False)
    assert sight["price"]["usd"] == pytest.approx(sight["price"]["jobs"] * 0.5 * 2 * 2.0)
    assert [one["what"] for one in said["resources"]] == ["gpus", "disk", "wandb"]
    assert said["noise"] == {"val_loss": {"sd": 0.05, "source": "declared"}}


def test_only_the_parts_asked_for_are_looked_at(
    planted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = typed(monkeypatch, capsys, "--study", str(planted), "--only", "power", "--only", "resources", "--json")
    said = document(out)
    assert (code, said["asked"], said["effects"], said["trees"]) == (0, ["power", "resources"], [], [])
    code, _, err = typed(monkeypatch, capsys, "--study", str(planted), "--only", "tree")
    assert (code, err) == (2, "Error: --only tree: `ablate check` has no part 'tree'. Did you mean \"trees\"?\n")


def test_the_screen_names_every_error_within_its_width(
    planted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = typed(monkeypatch, capsys, "--study", str(planted))
    assert code == 1
    assert max(map(len, out.splitlines())) <= 100
    said = " ".join(out.split())
    for text in (
        "planted · full · check",
        "error F2 never read",
        "error “F2 better than F3 and F3 no worse than F2” can never fire",
        "“F2 better than F3 on val_loss” and “F3 no worse than F2 on val_loss” cannot hold together",
        "flag “F1 better than F3” is never reached: whenever it holds, “F1 no worse than F3” is taken first",
        "e.g. F1 better than F3 on val_loss (F1 − F3 = -0.075 ± 0.0375 on val_loss (margin 0.05))",
        "2 errors",
    ):
        assert text in said, (text, said)


def test_a_baseline_that_does_not_train_is_an_error(planted: Path) -> None:
    (planted.parent / "train.py").write_text("raise SystemExit('no data here')")
    said = check(open_desk(read_study(planted)), ("effects",))
    assert said["effects"][0]["notes"] == ["the baseline does not train: no data here"]
    assert said["counts"]["error"] == 1


def test_parts_are_asked_in_their_order() -> None:
    assert parts(["resources", "trees"]) == ("trees", "resources")
    assert parts(PARTS) == PARTS
    with pytest.raises(UserError, match="parts: effects, trees, power, resources"):
        parts(["xyz"])


def test_the_noise_is_that_of_runs_like_those_compared(tmp_path: Path) -> None:
    """Two runs at other budgets with wide seeds: together they hide from the outlier test."""
    rows = "F4 = { train.steps = 50 }\nF5 = { train.steps = 60 }\n\n[seeds]\nevery = [42, 43]"
    (tmp_path / "runs.toml").write_text(PLANTED.replace("[seeds]\nevery = [42]", rows))
    desk = open_desk(read_study(tmp_path / "runs.toml"))
    final = {"F3": (1.0, 1.02), "F1": (1.1, 1.12), "F2": (1.2, 1.22), "F4": (1.0, 5.0), "F5": (1.0, 4.0)}
    for job in desk.plan().jobs:
        key, value = job.key or "", final[job.run][job.seed - 42]
        desk.store.save_job(JobRecord(key, job.run, job.seed, job.settings or {}, 2, NOW))
        number = desk.store.claim(key, started_at=NOW, gpus=2) or 0
        desk.store.add_points(key, number, [Point(key, number, 100, "val_loss", value)], 0)
        desk.store.end_attempt(key, number, "done", "", NOW, 60.0, {})
    noise = check(desk, ("power",))["noise"]["val_loss"]
    assert (noise["source"], noise["sd"]) == ("measured", pytest.approx(0.02 / 2**0.5))


@pytest.mark.parametrize("profile", ["", "tiny", "smoke"])
def test_the_trees_of_the_shipped_study_hold_no_error(profile: str, tmp_path: Path) -> None:
    for name in ("runs.toml",):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    said = check(open_desk(read_study(tmp_path / "runs.toml", profile)), ("trees", "power"))
    assert said["counts"]["error"] == 0
    assert [line["verdict"] for report in said["trees"] for line in report["lines"]] == ["fires"] * 24


def test_every_row_of_the_quick_study_takes_effect(tmp_path: Path) -> None:
    text = (REPOSITORY / "examples/quick/runs.toml").read_text()
    (tmp_path / "runs.toml").write_text(text)
    said = check(open_desk(read_study(tmp_path / "runs.toml")), ("effects",))
    verdicts = {row["run"]: row["verdict"] for row in said["effects"]}
    assert verdicts.pop("F3") == verdicts.pop("A8a") == "baseline"
    assert set(verdicts.values()) == {"takes_effect"}


def test_neither_torch_nor_ray_is_imported(planted: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ablate.preflight import check; from ablate.screens import check as screens; "
        "from ablate.desk import open_desk; from ablate.runs_toml import read_study; "
        "screens.check(check.check(open_desk(read_study(Path(sys.argv[1]))))); "
        "print(sorted({'torch', 'ray', 'transformers', 'wandb', 'pandas'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", code, str(planted)]
    ended = subprocess.run(words, env=repository_environment(), capture_output=True, text=True, timeout=60, check=True)
    assert re.search(r"\[\]\Z", ended.stdout.strip())


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ('"no.such_trainer"', "the trainer 'no.such_trainer' cannot be found: it is not in "),
        (
            '{ command = "{python} fitt.py {folder}", metrics = { file = "m.jsonl" } }',
            "the trainer's command names 'fitt.py', and there is no such file beside ",
        ),
    ],
)
def test_a_trainer_that_is_not_there_is_an_error(
    planted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trainer: str, message: str
) -> None:
    text = planted.read_text()
    head, _, rest = text.partition("trainer          = ")
    planted.write_text(f"{head}trainer = {trainer}\n" + rest.partition("\n")[2])
    code, out, _ = typed(monkeypatch, capsys, "--study", str(planted), "--only", "effects", "--json")
    (row,) = document(out)["effects"]
    assert (code, row["run"], row["verdict"], row["level"]) == (1, "F3", "not_seen", "error")
    assert row["notes"][0].startswith(message)


def test_declared_looks_and_what_this_budget_does_not_answer_are_on_the_screen(
    planted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = planted.read_text().replace("every = [42]", "every = [42, 43, 44, 45]\n\n[evidence]\nlooks = [2, 4]")
    planted.write_text(text)
    code, out, _ = typed(monkeypatch, capsys, "--study", str(planted), "--only", "power")
    said = " ".join(out.split())
    assert code == 0
    assert re.search(r"F1 better F3 val_loss 2/2 → 4/4 0\.05 [\d.]+ → [\d.]+ \d+% → \d+% ", said), said
    assert "a → b: at the first look, at the next, each by itself" in said
    assert re.search(
        r"flag this budget does not answer “F1 better than F3” \(sweep1\); \d+ seeds per run would: \d+ jobs more, ", said
    )
