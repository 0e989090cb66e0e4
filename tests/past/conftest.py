"""A small study without results, and a file of past ones to bring into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from ablate.answers.document import Answer
from ablate.desk import Desk, open_desk
from ablate.past.importing import Options, bring_in
from ablate.runs_toml import read_study
from tests import small_study
from tests.small_study import FINAL, OFF, TRAINER

STUDY = small_study.STUDY.replace("[sweep1]", 'image_vqa = { better = "higher", margin = 0.02 }\n\n[sweep1]', 1)


def rows(runs: Iterable[str] = ("F3", "F1", "LR2"), seeds: Iterable[int] = (42, 43, 44)) -> list[str]:
    """Wide rows: run, seed, step, val_loss."""
    wanted = tuple(seeds)
    return [
        f"{run},{seed},{step},{FINAL[run] + OFF[seed] + 1 / step:.6f}" for run in runs for seed in wanted for step in (10, 1000)
    ]


Write = Callable[..., Path]
Bring = Callable[..., Answer]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    (tmp_path / "runs.toml").write_text(STUDY)
    (tmp_path / "train.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)
    return open_desk(read_study(tmp_path / "runs.toml"))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lines as past.csv (or another name)."""

    def written(*lines: str, header: str = "run,seed,step,val_loss", name: str = "past.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join((header, *lines)) + "\n")
        return path.relative_to(tmp_path)

    return written


@pytest.fixture
def bring(desk: Desk) -> Bring:
    """Imports a file: `bring(path, columns=[...], names=[...])`."""
    return lambda path, **options: bring_in(desk, path, Options(**options))


def finals(desk: Desk, metric: str = "val_loss") -> dict[str, float]:
    """ "F3-s42" -> its last value."""
    values = desk.store.final_values(None, {metric: 1})
    return {key.rpartition("-")[0]: found[metric] for key, found in values.items() if metric in found}
