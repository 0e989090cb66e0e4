"""`ablate data …` asks the trainer about a study's data, in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ablate import inventory
from ablate.cli import app
from ablate.runs_toml import read_study
from ablate.screens import data
from ablate.study import UserError

SHIPPED = Path(__file__).parents[1] / "runs.toml"


def test_every_run_of_the_shipped_study_asks_for_its_own_mix() -> None:
    roots = inventory.by_root(read_study(SHIPPED))
    assert list(roots) == ["data/full"]
    runs = roots["data/full"]
    assert len(runs) == 12
    assert runs["D1"]["data.mix"] == {"video": 0.55, "image": 0.30, "text": 0.15}
    assert runs["A8b"]["data.mix"] == {"image": 0.86, "text": 0.14}
    assert runs["F3"]["eval.set"] == "val_10k"


def test_a_validation_set_is_drawn_in_the_studys_mix_with_its_tokenizer() -> None:
    (question,) = inventory.validation_set(read_study(SHIPPED), "val_10k", 10_000, 0, "")
    assert question.module == "trainer.data.manifests"
    said = " ".join(question.arguments)
    assert said.endswith(
        "validation val_10k --root data/full --samples 10000 --seed 0 --mix video=0.4,image=0.46,text=0.14 "
        "--tokenizer HuggingFaceTB/SmolLM2-135M-Instruct --max-text-tokens 512"
    )
    with pytest.raises(UserError, match=r"^no run is measured on a validation set 'val_1k'; eval.set is val_10k$"):
        inventory.validation_set(read_study(SHIPPED), "val_1k", 10, 0, "")


def test_a_study_with_a_trainer_of_its_own_is_told(tmp_path: Path) -> None:
    quick = SHIPPED.parent / "examples" / "quick" / "runs.toml"
    with pytest.raises(UserError, match=r"^`ablate data` knows the data of trainer.train; this study is trained by "):
        inventory.by_root(read_study(quick))
    assert tmp_path.exists()


def test_screens_import_nothing_heavy() -> None:
    code = (
        "import sys; from ablate import inventory; from ablate.screens import data; "
        "print({'torch', 'transformers', 'pyarrow', 'numpy', 'trainer.data'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The shipped study in a profile of its own, its data a small relay world."""
    from tests.trainer.data.conftest import TEST_RECIPE
    from trainer.data.synthetic import make

    make(tmp_path / "data", TEST_RECIPE, tmp_path / "outputs" / ".cache", lambda _line: None)
    here = '\n[profile.here]\nlike = "tiny"\nsettings.data.root = "data"\nsettings.train.samples = 20\n'
    here += 'start."image stage".train.samples = 15\n'
    (tmp_path / "runs.toml").write_text(SHIPPED.read_text() + here)
    return tmp_path / "runs.toml"


def test_index_then_manifests_then_status(study: Path) -> None:
    runner, told = CliRunner(), ["--study", str(study), "--profile", "here"]
    shard = sorted((study.parent / "data" / "shards").glob("*.tar"))
    indexed = runner.invoke(app, ["data", "index", *map(str, shard), "--workers", "1", *told, "--json"])
    assert json.loads(indexed.stdout)["folders"][0]["samples"] == 130
    drawn = runner.invoke(app, ["data", "manifest", *told])
    assert "F3, F1, F2" in drawn.stdout
    status = runner.invoke(app, ["data", "status", *told])
    assert status.exit_code == 0, status.output
    assert "video 30.8% of all samples; target 40% to 50%: below it" in status.stdout
    shutil.rmtree(study.parent / "data" / "manifests")
    unmet = runner.invoke(app, ["data", "status", *told, "--json"])
    assert unmet.exit_code == 3
    document = json.loads(unmet.stdout)
    runs = inventory.by_root(read_study(study, "here"))["data"].values()
    unmet_needs = {need["what"] for need in document["folders"][0]["needs"] if not need["met"]}
    assert unmet_needs == {f"validation set {settings['eval.set']}" for settings in runs}
    data.status(document["folders"])
