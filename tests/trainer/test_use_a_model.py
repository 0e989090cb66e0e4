"""The page on using a trained model: its commands and its Python, as they stand, with a model that was hardly trained."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import NewJob
from tests.trainer.runs import trained
from trainer.ask import main
from trainer.data.synthetic import Recipe, make

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "use_a_model.md").read_text()
COMMANDS = re.findall(r"^    \$ (.+)$", PAGE, re.MULTILINE)
PYTHON = PAGE.split("```python\n")[1].split("```")[0]
ASK = ["python", "-m", "trainer.ask"]


def matched(words: Sequence[str]) -> list[str]:
    """As a shell hands over words with a star."""
    found = [sorted(map(str, Path().glob(word))) if "*" in word else [word] for word in words]
    assert all(found)
    return [word for its in found for word in its]


def test_the_page_holds(
    new_job: NewJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = trained(new_job("F3", {"train.samples": 8}))
    recipe = Recipe(relay=8, sparse=6, crowded=4, words=8, val_tiny=(3, 2, 2), val_images=(2, 2))
    make(tmp_path / "data" / "tiny", recipe, job.cache, lambda _line: None)
    shutil.copytree(job.folder / "model", tmp_path / "outputs/foveated-vlm-ablations/tiny/F3-s42-0a0a0a0a/1/model")
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        words = shlex.split(command)
        if words[:3] == ASK:
            assert main(matched(words[3:])) == 0
        else:
            subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    assert len(capsys.readouterr().out.splitlines()) == sum(shlex.split(command)[:3] == ASK for command in COMMANDS)
    (tmp_path / "page.py").write_text(PYTHON)
    its = runpy.run_path("page.py")
    assert isinstance(its["looks"], torch.Tensor)
    assert its["looks"].shape == (7, 3, 4, 17)
    assert str(tuple(its["looks"].shape)) in PAGE.replace("[", "(").replace("]", ")")


def test_the_picture_is_small() -> None:
    assert (DOCS / "use_a_model.png").stat().st_size < 60_000
