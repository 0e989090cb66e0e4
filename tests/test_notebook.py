"""The notebook: committed without output, free of SQL and thresholds, and it runs on a study of which something is missing."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import REPOSITORY
from tests.written_study import written_desk

NOTEBOOK = REPOSITORY / "notebooks" / "01_study.ipynb"
DRAWN = {"freeze", "architecture", "ratio", "efficiency", "attention", "entropy"}
"""Cells that end in a figure."""


def cells() -> dict[str, str]:
    return {cell.id: cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"}


def test_it_is_committed_without_output() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_it_reads_through_the_tables_only() -> None:
    code = "\n".join(cells().values())
    assert re.findall(r"^(?:from|import) (\S+)", code, re.MULTILINE) == ["os", "pandas", "ablate", "ablate.tables"]
    assert not re.search(r"select |sqlite|margin|alpha|[<>]=? *0\.\d", code, re.IGNORECASE)


def test_it_runs_on_a_study_of_which_something_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = written_desk(tmp_path, without=("A6", "LR2"))
    monkeypatch.setenv("ABLATE_STUDY", str(desk.study.path))
    monkeypatch.setenv("ABLATE_PROFILE", "full")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, kernel_name="python3", timeout=60, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()

    shown = {cell.id: [output.get("data", {}) for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"}
    printed = {cell.id: "".join(o.get("text", "") for o in cell.outputs) for cell in notebook.cells if cell.cell_type == "code"}
    assert {id for id, outputs in shown.items() if any("image/png" in data for data in outputs)} == DRAWN
    assert "small, profile full: Which recipe?" in printed["open"]
    assert "sweep2: lr: " in printed["decisions"]
    assert "full unfreeze is justified" in _plain(shown["decisions"])
    assert "deep query is essential" in _plain(shown["learned"])
    assert "A1" in _plain(shown["evidence"])
    assert "LR2" in _plain(shown["rates"])
    assert "video" in _plain(shown["losses"])


def _plain(outputs: list[dict[str, str]]) -> str:
    return "".join(data.get("text/plain", "") for data in outputs)
