"""The page on the study's file: its blocks are one study, and every key that is read is on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ablate.conditions import RESERVED
from ablate.runs_toml import metrics, read_study, searches, seeds, study_section
from ablate.runs_toml.file import SECTIONS
from ablate.runs_toml.profiles import IN_PROFILE
from ablate.runs_toml.rows import IN_ROW
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "study_file.md").read_text()
SEARCH = (REPOSITORY / "docs" / "search.md").read_text()
QUOTED = " ".join(re.findall(r"`([^`\n]+)`", PAGE))


@pytest.mark.parametrize("profile", ["", "quick", "quicker"])
def test_its_blocks_are_one_study(tmp_path: Path, profile: str) -> None:
    file = tmp_path / "runs.toml"
    file.write_text("\n".join(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)))
    study = read_study(file, profile)
    assert set(study.trees) == {"size", "speed", "augment"}
    assert study.runs["aug"].start.names == ("size",)
    assert study.settings["epochs"] == {"": 20, "quick": 2, "quicker": 1}[profile]


@pytest.mark.parametrize(
    "keys",
    [study_section.KEYS, metrics.KEYS, seeds.EVIDENCE, IN_ROW, SECTIONS, IN_PROFILE],
)
def test_every_key_is_on_it(keys: tuple[str, ...]) -> None:
    assert [key for key in keys if not re.search(rf"\b{key}\b", QUOTED)] == []


def test_the_keys_of_a_search_are_on_its_own_page() -> None:
    assert [key for key in searches.KEYS if f"`{key}`" not in SEARCH] == []


def test_every_word_of_the_conditions_is_on_it() -> None:
    known_elsewhere = {"as"}  # in `same as`, and in values
    assert [word for word in RESERVED - known_elsewhere if not re.search(rf"\b{word}\b", QUOTED)] == []
