"""What a study is when its file is read: small ones, the shipped ones, any."""

from __future__ import annotations

import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.conditions import ITS_START, Compared
from ablate.runs_toml import first_study, read_study
from ablate.study import Run, Start, Study, UserError, job_key
from tests.conftest import REPOSITORY
from tests.runs_toml.small import SMALL, read
from tests.toml_texts import SCALAR, toml

SHIPPED = REPOSITORY / "runs.toml"


def test_what_stands_right_of_the_sign_is_the_whole_value(tmp_path: Path) -> None:
    study = read(tmp_path, SMALL)
    assert study.runs["D1"].changes == {"data.mix": {"video": 1.0}}
    assert study.starts["images"].changes == {"data.mix": {"image": 1.0}}
    assert study.settings["data.mix"] == {"video": 0.6, "image": 0.4}


def test_a_table_of_settings_is_the_same_as_dotted_names(tmp_path: Path) -> None:
    dotted = read(tmp_path, SMALL)
    table = SMALL.replace("model.deep_query = true\n", "").replace("[runs]", "[settings.model]\ndeep_query = true\n\n[runs]")
    assert read(tmp_path, table).settings == dotted.settings
    row = SMALL.replace("F1  = { model.freeze_dino = true }\n", "").replace(
        "[start", "[runs.F1.model]\nfreeze_dino = true\n[start"
    )
    assert read(tmp_path, row).runs["F1"].changes == dotted.runs["F1"].changes


def test_settings_left_out_have_their_default_and_spelling_does_not_matter(tmp_path: Path) -> None:
    study = read(tmp_path, SMALL)
    assert study.settings["optim.lr"] == 1e-5
    assert study.runs["LR2"].changes == {"optim.connector_ratio": 100.0}
    other = read(tmp_path, SMALL.replace("ratio = 100", "ratio = 1e2"))
    keys = [job_key(one, "LR2", 42, {**one.settings, **one.runs["LR2"].changes}) for one in (study, other)]
    assert keys[0] == keys[1]


def test_rows_aliases_starts_and_seeds(tmp_path: Path) -> None:
    study = read(tmp_path, SMALL)
    assert list(study.runs) == ["F3", "F1", "LR2", "B1", "A8", "D1"]
    assert study.aliases == {"LR1": "F3"}
    assert study.runs["A8"] == Run("A8", {"data.replicate_image_frames": 16}, Start("named", ("images",)), 19)
    assert study.runs["D1"].start == Start("winners", ("freeze",))
    assert study.seeds["F1"] == (42, 43)
    assert study.sweeps["sweep2"].learn[0].condition == Compared("LR2", "better", "F3", "val_loss")
    assert study.sweeps["sweep3"].trees[0].lines[0].condition == Compared("D1", "better", ITS_START, "val_loss")
    assert study.ranks_per_run == 2


def test_more_ranks_than_gpus_are_refused(tmp_path: Path) -> None:
    text = SMALL.replace("gpus_per_run", "ranks_per_run = 3\ngpus_per_run", 1)
    message = r"study\.ranks_per_run = 3 is more than gpus_per_run = 2: each rank takes a GPU of its own"
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_settings_that_cannot_change_a_result_are_left_out_of_the_key(tmp_path: Path) -> None:
    study = read(tmp_path, SMALL.replace("[settings]", 'stateless = ["model.vision"]\n\n[settings]'))
    assert "data.workers" not in study.stateful
    assert "model.vision" not in study.stateful
    assert "optim.lr" in study.stateful


def test_a_profile_says_only_what_it_changes(tmp_path: Path) -> None:
    full, tiny, smoke = (read(tmp_path, SMALL, profile) for profile in ("", "tiny", "smoke"))
    assert full.profile == "full"
    assert full == read(tmp_path, SMALL, "full")
    assert tiny.settings == {**full.settings, "train.samples": 100}
    assert tiny.runs["F1"].changes == {"model.freeze_dino": True, "model.freeze_llm": True}
    assert (tiny.seeds["F1"], smoke.seeds["F1"]) == ((42, 43), (42,))
    assert smoke.settings == tiny.settings
    assert tiny.sweeps == full.sweeps


def test_without_a_config_the_settings_are_the_schema(here: Path) -> None:
    text = SMALL.replace('config        = "trainer.config:TrainConfig"\n', "").replace("[settings]", SETTINGS_IN_FULL)
    study = read(here, text)
    assert study.settings["optim.connector_ratio"] == 10.0
    assert study.stateful == frozenset(study.settings)
    with pytest.raises(UserError, match=r"optim.connector_ratio must be a number, not \"x\""):
        read(here, text.replace("connector_ratio = 100", 'connector_ratio = "x"'))


SETTINGS_IN_FULL = """[settings]
model.freeze_dino = false
model.freeze_llm = false
model.encoder = "foveated"
model.tokens_per_frame = 1
optim.connector_ratio = 10.0
train.flops = "own"
train.samples = 1000
data.replicate_image_frames = 1
"""


def test_a_dataclass_that_looks_at_its_own_fields_is_asked_too(tmp_path: Path) -> None:
    (tmp_path / "checking_config_of_a_test.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Rates:\n    low: float = 1.0\n    high: float = 2.0\n"
        "    def __post_init__(self):\n"
        "        if self.low > self.high:\n            raise ValueError('rates.low above rates.high')\n"
        "@dataclass(frozen=True)\nclass Config:\n    rates: Rates = Rates()\n    wide: bool = False\n"
    )
    text = (
        '[study]\nname = "n"\nbaseline = "a"\ntrainer = "t"\nconfig = "checking_config_of_a_test:Config"\ngpus_per_run = 1\n'
        'hours_per_run = 1\n[runs]\na = {}\nb = { rates.high = 1.5 }\nc = { from = ["d"], rates.low = 1.4 }\n'
        '[seeds]\nevery = [0]\n[metrics]\nx = { better = "lower", margin = 1 }\n[sweep1]\non = "x"\n'
        'decide.d = [["b better than a", "b", "better"], ["otherwise", "a", "not shown"]]\n'
    )
    assert read(tmp_path, text).runs["c"].changes == {"rates.low": 1.4}
    with pytest.raises(UserError, match=r"runs\.toml:10: b: rates\.low above rates\.high"):
        read(tmp_path, text.replace("high = 1.5", "high = 0.5"))
    with pytest.raises(UserError, match=r"runs\.toml:11: c, if d takes b \(rates\.high = 1\.5\): rates\.low above rates\.high"):
        read(tmp_path, text.replace("low = 1.4", "low = 1.6"))


def test_a_config_beside_the_file_is_found_and_its_nested_parts_are_settings(tmp_path: Path) -> None:
    (tmp_path / "nested_config_of_a_test.py").write_text(
        "from dataclasses import dataclass, field\n"
        "@dataclass(frozen=True)\nclass Inner:\n    depth: int\n    names: list[str] = field(default_factory=list)\n"
        "@dataclass(frozen=True)\nclass Outer:\n    inner: Inner\n    wide: bool = False\n"
        "@dataclass(frozen=True)\nclass Config:\n    outer: Outer\n    lr: float = 1.0\n"
        "def conflict(config):\n    return 'too deep' if config.outer.inner.depth > 3 and config.lr > 1 else None\n"
    )
    text = (
        '[study]\nname = "n"\nbaseline = "a"\ntrainer = "t"\nconfig = "nested_config_of_a_test:Config"\ngpus_per_run = 1\n'
        "hours_per_run = 1\n[settings]\nouter.inner.depth = 3\n[runs]\na = {}\nb = { lr = 2, outer.wide = true }\n"
        "[seeds]\nevery = [0]\n"
    )
    study = read(tmp_path, text)
    assert study.settings == {"outer.inner.depth": 3, "outer.inner.names": [], "outer.wide": False, "lr": 1.0}
    with pytest.raises(UserError, match=r"runs\.toml:12: b: too deep"):
        read(tmp_path, text.replace("outer.wide = true", "outer.inner.depth = 4"))
    with pytest.raises(UserError, match=r"\[settings\] must give outer\.inner\.depth"):
        read(tmp_path, text.replace("outer.inner.depth = 3", ""))


def test_its_start_may_be_taken_where_all_rows_of_a_tree_start_from_the_same(tmp_path: Path) -> None:
    text = SMALL.replace("D1  = {", 'D2  = { from = ["freeze"], data.mix = { image = 1.0 } }\nD1  = {')
    line = '["D1 better than its start on val_loss", "D1", '
    text = text.replace(line, '["any of D1, D2 better than its start on val_loss", "best of D1, D2", ')
    assert line not in text
    take = read(tmp_path, text).trees["mix"].lines[-1].take
    assert take.kind == "its start"


# ---------------------------------------------------------------- the shipped files


@pytest.mark.parametrize("profile", ["", "full", "tiny", "smoke"])
def test_the_shipped_study_reads_in_every_profile(profile: str) -> None:
    study = read_study(SHIPPED, profile)
    assert list(study.runs) == ["F3", "F1", "F2", "LR2", "LR3", "LR4", "A1", "A6", "B1", "A8a", "A8b", "D1"]
    assert study.aliases == {"LR1": "F3"}
    assert list(study.sweeps) == ["sweep1", "sweep2", "sweep3", "sweep4", "sweep5"]
    assert list(study.trees) == ["freeze", "lr", "images", "mix"]
    assert [block.runs for block in study.blocks] == [
        ("F1", "F2", "F3"),
        ("LR2", "LR3", "LR4"),
        ("A1",),
        ("A6", "B1"),
        ("A8a", "A8b", "D1"),
    ]
    assert study.lock_after == "5"
    assert study.runs["D1"].start == Start("winners", ("freeze", "lr"))
    assert study.settings["train.samples"] == {"tiny": 9_600, "smoke": 240}.get(profile, 1_000_000)


def test_the_first_study_of_init_reads_in_every_profile(tmp_path: Path) -> None:
    study = read(tmp_path, first_study())
    assert study.runs["deep"].start == Start("winners", ("rate",))
    assert read(tmp_path, first_study(), "smoke").seeds["base"] == (1,)


def test_reading_a_study_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from ablate.runs_toml import read_study; read_study(Path(sys.argv[1]));"
        "print(*{name.split('.')[0] for name in sys.modules} & {'torch', 'ray', 'pandas', 'numpy', 'sqlalchemy', 'scipy'})"
    )
    done = subprocess.run([sys.executable, "-c", code, str(SHIPPED)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_ten_thousand_rows_take_a_few_times_what_tomllib_takes(tmp_path: Path) -> None:
    rows = "".join(f"R{n} = {{ model.freeze_dino = true, optim.lr = {2 * n + 1}e-9 }}\n" for n in range(10_000))
    text = SMALL.replace("[start.images]", rows + "[start.images]")
    start = time.process_time()
    tomllib.loads(text)
    plain = time.process_time() - start
    assert len(read(tmp_path, text).runs) == 10_006
    assert time.process_time() - start - plain < 12 * plain


# ---------------------------------------------------------------- properties

WORD = st.from_regex(r"[a-z][a-z0-9_-]{0,5}", fullmatch=True).filter(lambda word: word not in ("from", "as"))


def written(study: Study) -> str:
    """A study of rows, seeds and blocks as a file."""
    rows = {run.name: dict(run.changes) for run in study.runs.values()} | dict(study.aliases)
    sections = {
        "study": {
            "name": study.name,
            "asks": study.asks,
            "baseline": study.baseline,
            "trainer": study.trainer.module,
            "gpus_per_run": study.gpus_per_run,
            "hours_per_run": study.hours_per_run,
        },
        "settings": study.settings,
        "runs": rows,
        "seeds": {"every": list(study.seeds[study.baseline])},
        "blocks": {block.name: list(block.runs) for block in study.blocks},
    }
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{toml(key)} = {toml(value)}" for key, value in values.items()]
    return "\n".join(lines)


@st.composite
def small_files(draw: st.DrawFn) -> str:
    values = draw(st.dictionaries(WORD, SCALAR, min_size=1, max_size=4))
    rows = {"base": "{}", "other": '"base"'}
    for number, name in enumerate(draw(st.lists(st.sampled_from(sorted(values)), unique=True, max_size=4))):
        changed = values[name]
        new = not changed if isinstance(changed, bool) else changed + "x" if isinstance(changed, str) else changed / 2 + 1
        if isinstance(changed, int) and not isinstance(changed, bool):
            new = changed + 1
        if new != changed:
            rows[f"run{number}"] = f"{{ {name} = {toml(new)} }}"
    seeds = draw(st.lists(st.integers(0, 99), unique=True, min_size=1, max_size=3))
    body = [
        f'[study]\nname = "n"\nbaseline = "base"\ntrainer = "t"\ngpus_per_run = {draw(st.integers(1, 8))}\nhours_per_run = 1.5'
    ]
    body += ["[settings]", *(f"{name} = {toml(value)}" for name, value in values.items())]
    body += ["[runs]", *(f"{name} = {row}" for name, row in rows.items()), f"[seeds]\nevery = {seeds}", "[blocks]"]
    return "\n".join([*body, f"1 = {toml('base')}".replace('"base"', '["base"]')])


def substance(study: Study) -> dict[str, object]:
    """All but where it stood."""
    told = {name: value for name, value in vars(study).items() if name not in ("path", "text_hash", "runs")}
    return told | {"runs": {run.name: (dict(run.changes), run.start) for run in study.runs.values()}}


@settings(max_examples=60, deadline=None)
@given(small_files())
def test_a_small_study_survives_read_write_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    once = read(folder, text)
    assert substance(read(folder, written(once))) == substance(once)
