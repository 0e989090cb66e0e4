"""runs.toml: what it may say, and how every mistake in it is told."""
# ruff: noqa: E501 (a message stands on one line, as the user sees it)

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
from ablate.positions import scan
from ablate.runs_toml import first_study, read_study
from ablate.study import Run, Start, Study, UserError, job_key
from tests.shared_study import STUDY as SHARED

SHIPPED = Path(__file__).parents[1] / "runs.toml"

SMALL = """\
[study]
name          = "small"
baseline      = "F3"
trainer       = "trainer.train"
config        = "trainer.config:TrainConfig"
gpus_per_run  = 2
hours_per_run = 1.0

[settings]
model.deep_query = true
data.mix         = { video = 0.6, image = 0.4 }

[runs]
F3  = {}
F1  = { model.freeze_dino = true }
LR1 = "F3"
LR2 = { optim.connector_ratio = 100 }
B1  = { model.encoder = "multi_token", model.tokens_per_frame = 16, train.flops = "as F3" }
A8  = { from = "images", data.replicate_image_frames = 16 }
D1  = { from = ["freeze"], data.mix = { video = 1.0 } }

[start.images]
data.mix = { image = 1.0 }

[seeds]
every = [42]
extra = { F1 = [43] }

[metrics]
val_loss = { better = "lower", margin = 0.01, noise = 0.005 }
vqa      = { better = "higher", margin = 0.01 }

[sweep1]
compare = ["F1", "F3"]
on      = "val_loss"
decide.freeze = [
  ["F1 no worse than F3", "F1", "as good"],
  ["otherwise",           "F3", "not shown"],
]

[sweep2]
compare = ["LR1", "LR2"]
skip    = { if = "freeze took F1", because = "only the connector is left" }
learn = [
  ["LR2 better than LR1 on val_loss", "higher is better"],
]

[sweep3]
decide.mix = [
  ["D1 better than its start on val_loss", "D1",        "pays"],
  ["otherwise",                            "its start", "stays"],
]

[blocks]
1 = ["F1", "F3"]
2 = ["LR2", "D1"]

[lock]
after = 2

[figures]
one = ["F3", "F1"]

[not_swept]
visual_scale = "second order"

[profile.tiny]
settings.train.samples = 100
runs.F1.model.freeze_llm = true

[profile.smoke]
like = "tiny"
seeds.extra = {}
"""

MISTAKES = [  # in SMALL, this … replaced by this … is told at line[:column] … as
    (
        "F1  = { model.freeze_dino",
        "F1  = { model.freeze_dnio",
        "15",
        'there is no setting "model.freeze_dnio". Did you mean "model.freeze_dino"?',
    ),
    (
        "model.deep_query = true",
        "model.deep_qeury = true",
        "10",
        'there is no setting "model.deep_qeury". Did you mean "model.deep_query"?',
    ),
    (
        "model.deep_query = true",
        "zzz = true",
        "10",
        'there is no setting "zzz". There are: model.*, optim.*, train.*, data.*, eval.*, log.*',
    ),
    (
        "model.deep_query = true",
        "model = { deep_query = true }",
        "10",
        '"model" is a group of settings; write each on its own: model.vision = ...',
    ),
    (
        "model.deep_query = true",
        "model.deep_query = true\ndata.mixx.video = 1",
        "11",
        'there is no setting "data.mixx.video". Did you mean "data.mix"?',
    ),
    ("connector_ratio = 100", "lr = 0.0", "17", "optim.lr must be above 0 and at most 1, not 0.0"),
    ("connector_ratio = 100", "lr = 'fast'", "17", 'optim.lr must be a number, not "fast"'),
    ("connector_ratio = 100", "lr = nan", "17", "optim.lr must be a finite number, not nan"),
    ("connector_ratio = 100", "lr = inf", "17", "optim.lr must be a finite number, not inf"),
    ("connector_ratio = 100", "lr = true", "17", "optim.lr must be a number, not true"),
    ("mix = { video = 1.0 }", "mix = { video = nan }", "20", "data.mix.video must be a finite number, not nan"),
    (
        "mix = { image = 1.0 }",
        "mix = { image = 0.9 }",
        "22",
        "the start \"images\": data.mix = {'image': 0.9}: shares must be above 0 and sum to 1 (they sum to 0.9)",
    ),
    ("mix = { video = 1.0 }", "mix.video = 1.0", "20", '"data.mix" is one setting and is given whole: data.mix = { ... }'),
    (
        '"multi_token"',
        '"multi_tokens"',
        "18",
        'model.encoder must be "foveated" or "multi_token", not "multi_tokens". Did you mean "multi_token"?',
    ),
    (
        "= 16, train",
        "= 15, train",
        "18",
        'B1: model.tokens_per_frame = 15 with model.encoder = "multi_token", and no square (4, 9 …)',
    ),
    (
        "F1  = { model.freeze_dino = true }\n",
        'F1  = { model.encoder = "multi_token", model.tokens_per_frame = 4 }\nD2  = { from = ["freeze"], model.coarse_only = true }\n',
        "16",
        'D2, if freeze takes F1 (model.encoder = "multi_token", model.tokens_per_frame = 4): model.coarse_only = true with '
        'model.encoder = "multi_token", which has no coarse pass. To leave D2 out then: skip = { if = "freeze took F1", because = … } '
        "in its sweep",
    ),
    ("= 16, train", "= 1.5, train", "18", "model.tokens_per_frame must be a whole number, not 1.5"),
    (
        '"as F3"',
        '"own", train.micro_batch_samples = "most"',
        "18",
        'train.micro_batch_samples must be a whole number or "auto", not "most"',
    ),
    ('"as F3"', '"as F9"', "18", 'there is no run "F9"; runs: F3, F1, LR1, LR2, B1, A8, D1'),
    ('"as F3"', '"F3"', "18", 'train.flops must be "own" or "as RUN", such as "as F3", not \'F3\''),
    ('"as F3"', '"as B1"', "18", 'a cycle: B1 has train.flops = "as B1", which is B1 itself'),
    ('"as F3"', '"as A8"', "18", 'train.flops = "as A8": A8 does not start from the baseline; name a run that does'),
    ('LR1 = "F3"', "F3 = {}", "16", '"F3" is defined twice, first in line 14'),
    ('LR1 = "F3"', 'LR1 = "F33"', "16", 'there is no run "F33". Did you mean "F3"?'),
    ('LR1 = "F3"', "LR1 = 3", "16", "a row is { setting = value, ... } or the name of another row, not 3"),
    (
        'LR1 = "F3"\n',
        "LR1 = {}\n",
        "16",
        'LR1 and F3 (line 14) are the same job; one of them is enough, and a second name for it is written LR1 = "F3"',
    ),
    (
        "connector_ratio = 100",
        "connector_ratio = 10",
        "17",
        'LR2 and F3 (line 14) are the same job; one of them is enough, and a second name for it is written LR2 = "F3"',
    ),
    ("[start.images]", "[runs]\n[start.images]", "22", "[runs] is there twice; put both into one"),
    ('better = "lower", margin = 0.01', 'better = "lower", margin = 0', "30", "metrics.val_loss.margin must be above 0, not 0"),
    ('better = "lower", margin = 0.01, ', "margin = 0.01, ", "30", "[metrics.val_loss] must say `better`"),
    ('better = "lower"', 'better = "less"', "30", 'metrics.val_loss.better must be "lower" or "higher", not "less"'),
    ("noise = 0.005", "nosie = 0.005", "30", 'there is no key "nosie" in [metrics.val_loss]. Did you mean "noise"?'),
    ("every = [42]", "every = []", "26", "seeds.every must name at least one seed, such as [42]"),
    ("every = [42]", "every = [42, 42]", "26", "seeds.every repeats the seed 42"),
    ("F1 = [43]", "F1 = [42]", "27", "seeds.extra.F1 repeats the seed 42"),
    ("F1 = [43]", "F9 = [43]", "27", 'there is no run "F9"; runs: F3, F1, LR1, LR2, B1, A8, D1'),
    ("F1 = [43]", "F1 = [-1]", "27", "a seed must be at least 0 and at most 4294967295, not -1"),
    ("F1 = [43]", "F1 = [1.5]", "27", "a seed must be a whole number, not 1.5"),
    ("F1 no worse than F3", "F9 no worse than F3", "37:5", 'there is no run "F9"; runs: F3, F1, LR1, LR2, B1, A8, D1'),
    ("F1 no worse than F3", "F1 no worse then F3", "37:17", 'expected "than" after "no worse", not "then". Did you mean "than"?'),
    ("F1 no worse than F3", "F1 no worse than F3 on val_los", "37:28", 'there is no metric "val_los". Did you mean "val_loss"?'),
    (
        "F1 no worse than F3",
        "F1 is fine",
        "37:8",
        'expected what the run did: better than, worse than, no worse than, same as, within, diverged or did not learn, not "is"',
    ),
    ("F1 no worse than F3", "F3 better than LR1", "37:20", "F3 is compared with itself (LR1 is another name for it)"),
    (
        "F1 no worse than F3",
        "F1 better than F3 and F1 diverged or F3 diverged",
        "37:39",
        'one line joins its clauses by "and" alone or by "or" alone',
    ),
    (
        "F1 no worse than F3",
        "F1 better than A8",
        "37",
        'F1 and A8 do not share a start (F1 starts from F3; A8 from "images"), so their difference has several causes; compare with a run of the same start, or with "its start"',
    ),
    ("F1 no worse than F3", "A8 within x of 1", "37:15", 'expected a distance after "within", not "x"'),
    (
        '  ["otherwise",           "F3", "not shown"],\n',
        "",
        "37",
        'the tree freeze does not end in a line ["otherwise", "RUN", "why"]: nothing would be taken when no line holds',
    ),
    (
        '  ["F1 no worse than F3"',
        '  ["otherwise", "F3", "x"],\n  ["F1 no worse than F3"',
        "37",
        '"otherwise" must be the last line of its tree: no line below it is ever reached',
    ),
    ('"F1", "as good"', '"F4", "as good"', "37:28", 'there is no run "F4"; runs: F3, F1, LR1, LR2, B1, A8, D1'),
    ('"F1", "as good"', '"best of F1", "as good"', "37:36", "best of one run? Name the run alone, or two or more"),
    ('"F1", "as good"', '"F1"', "37", 'a line of sweep1.decide.freeze is ["condition", "take", "because"]'),
    (
        "LR2 better than LR1 on val_loss",
        "LR2 better than LR1",
        "45:5",
        "which metric? The sweep names none: say `on METRIC` here, or give the sweep `on = ...`",
    ),
    (
        "LR2 better than LR1 on val_loss",
        "otherwise",
        "45",
        '"otherwise" has no place in `learn`: its lines do not exclude each other',
    ),
    (
        "freeze took F1",
        "F1 diverged",
        "43",
        'a sweep is skipped by what a decision took ("freeze took F1"), not by "F1 diverged"',
    ),
    ("freeze took F1", "freeze took LR2", "43", "freeze never takes LR2; it can take F1 or F3"),
    ("freeze took F1", "freze took F1", "43:19", 'there is no decision "freze". Did you mean "freeze"?'),
    ('["freeze"]', '["freezer"]', "20", 'there is no decision "freezer". Did you mean "freeze"?'),
    ('["freeze"]', '["mix"]', "20", "a cycle: D1 needs mix, which needs D1"),
    ('["freeze"]', "[]", "20", "`from` must name decisions, each once, not []"),
    ('"images", data', '"F1", data', "19", "F1 is a row; a row starts from the baseline, a named start or [decisions]"),
    ('"images", data', '"image", data', "19", 'there is no start "image". Did you mean "images"?'),
    (
        '1 = ["F1", "F3"]\n2 = ["LR2", "D1"]',
        '1 = ["D1"]\n2 = ["F1", "F3"]',
        "55",
        "D1 is in block 1 but needs freeze, which needs F1 of block 2, written below: blocks count in the order they are written. "
        "Write block 2 above block 1, or put D1 into a block below it",
    ),
    ('1 = ["F1", "F3"]', '1 = ["F1", "F9"]', "55", 'there is no run "F9"; runs: F3, F1, LR1, LR2, B1, A8, D1'),
    ('["LR2", "D1"]', '["LR2", "LR1"]', "56", "LR1 is F3, which is in block 1 already; a run has one block"),
    ("after = 2", "after = 7", "59", 'there is no block "7"; blocks: 1, 2'),
    ("after = 2", "after = 2\nconfirm = {}", "60", "lock.confirm must say `against` and `seeds`, such as seeds = [45, 46, 47]"),
    (
        "after = 2",
        'after = 2\nconfirm = { against = "F3", seeds = [42] }',
        "60",
        "lock.confirm.seeds must be fresh: D1 has been trained with seed 42",
    ),
    (
        "after = 2",
        'after = 2\nconfirm = { against = "F1", seeds = [45] }',
        "60",
        "lock.confirm.against must be the baseline F3: the lock is that and what was decided",
    ),
    ("[lock]", "[evidence]\nlooks = 2\n[lock]", "59", "evidence.looks must be a list, not 2"),
    (
        "[lock]",
        "[evidence]\nlooks = [5, 3]\n[lock]",
        "59",
        "evidence.looks are seeds per run, growing, such as [3, 5]; not [5, 3]",
    ),
    ('one = ["F3"', 'one = ["F5"', "62", 'there is no run "F5"; runs: F3, F1, LR1, LR2, B1, A8, D1'),
    (
        "connector_ratio = 100",
        "connector_ratio = 100, model.visual_scale = 0.2",
        "17",
        "LR2 changes model.visual_scale, which [not_swept] leaves alone: second order",
    ),
    (
        'name          = "small"',
        'name          = "../small"',
        "2",
        '"../small" cannot name a study; a name is made of letters, digits, ".", "_" and "-", at most 64, a letter or digit first, no ".."',
    ),
    (
        'name          = "small"',
        'name          = "a..b"',
        "2",
        '"a..b" cannot name a study; a name is made of letters, digits, ".", "_" and "-", at most 64, a letter or digit first, no ".."',
    ),
    (
        "F1  = {",
        '"a/b" = {}\nF1  = {',
        "15",
        '"a/b" cannot name a run; a name is made of letters, digits, ".", "_" and "-", at most 64, a letter or digit first, no ".."',
    ),
    ("F1  = {", "better = {}\nF1  = {", "15", '"better" cannot name a run: it is a word of the conditions'),
    ('baseline      = "F3"', 'baseline      = "F1"', "15", "F1 is the baseline: its row must be {}, its settings are [settings]"),
    ('baseline      = "F3"', 'baseline      = "F2"', "3", 'there is no run "F2"; runs: F3, F1, LR2, B1, A8, D1'),
    (
        "F3  = {}",
        "F3  = { model.freeze_llm = true }",
        "14",
        "F3 is the baseline: its row must be {}, its settings are [settings]",
    ),
    (
        "gpus_per_run  = 2",
        "gpu_per_run  = 2",
        "6",
        'there is no key "gpu_per_run" in [study]. Did you mean "gpus_per_run" or "hours_per_run"?',
    ),
    ("gpus_per_run  = 2", "gpus_per_run  = 0", "6", "study.gpus_per_run must be at least 1 and at most 4096, not 0"),
    ("gpus_per_run  = 2\n", "", "1", "[study] must say `gpus_per_run`"),
    ("[lock]", "[locks]", "58", 'there is no section [locks]. Did you mean "blocks" or "lock"?'),
    ("[runs]", "[runs", "13:6", "not TOML: Expected ']' at the end of a table declaration"),
    ('name          = "small"', "name          = small", "2:17", "not TOML: Invalid value"),
    (
        "settings.train.samples = 100",
        "settings.train.sample = 100",
        "68",
        'there is no setting "train.sample". Did you mean "train.samples"?',
    ),
    (
        "settings.train.samples = 100",
        "sweep1.on = 'x'",
        "68",
        'there is no key "sweep1" in [profile.tiny]. There are: like, study, settings, runs, start, search, seeds, evidence, metrics, lock',
    ),
    ('like = "tiny"', 'like = "tny"', "72", 'there is no profile "tny". Did you mean "tiny"?'),
    ('like = "tiny"', 'like = "smoke"', "72", "a cycle of profiles: smoke is like smoke"),
    (
        "settings.train.samples = 100",
        "study.name = 'x'",
        "68",
        "study.name is the same in every profile; take it out of [profile.tiny]",
    ),
    ("settings.train.samples = 100", "metrics.loss.margin = 1", "68", 'there is no metric "loss". Did you mean "val_loss"?'),
    (
        "trainer.config:TrainConfig",
        "trainer.confg:TrainConfig",
        "5",
        "config module \"trainer.confg\" cannot be imported: No module named 'trainer.confg'",
    ),
    (
        "trainer.config:TrainConfig",
        "trainer.config:TrainConf",
        "5",
        'module trainer.config has no "TrainConf". Did you mean "TrainConfig"?',
    ),
    (
        'trainer       = "trainer.train"',
        "trainer = { command = 'x {modl}', metrics = { file = '../x' } }",
        "4",
        'there is no setting "modl"; settings: model.vision, model.language, model.encoder, model.tokens_per_frame, model.deep_query, model.coarse_only, model.freeze_dino, model.freeze_llm, model.visual_scale, optim.lr, optim.connector_ratio, optim.weight_decay, ...',
    ),
    (
        'trainer       = "trainer.train"',
        "trainer = { command = 'x', metrics = { file = '../x' } }",
        "4",
        'study.trainer.metrics.file must stay in the attempt\'s folder, not "../x"',
    ),
    *(
        (
            'trainer       = "trainer.train"',
            f"trainer = {{ command = 'x', metrics = {{ file = '{ours}' }} }}",
            "4",
            f'study.trainer.metrics.file must be a file of the script\'s own, not "{ours}", which is a file of ours there; '
            "name another, such as log.jsonl",
        )
        for ours in ("metrics.jsonl", "./result.json", "checkpoints/log.jsonl", "rank0.log", ".")
    ),
    (
        'trainer       = "trainer.train"',
        "trainer = { command = 'x', metrics = { stdout = '(' } }",
        "4",
        "study.trainer.metrics.stdout is no regular expression: missing ), unterminated subpattern at position 0",
    ),
    (
        "[figures]",
        "[sweep4]\ndecide.freeze = [['otherwise','F3','']]\n[figures]",
        "62",
        'there are two decisions "freeze", the first in line 36',
    ),
    (
        "[figures]",
        "[sweep4]\ndecide.F1 = [['otherwise','F3','']]\n[figures]",
        "62",
        '"F1" is a run already; give the decision another name',
    ),
    ("[figures]", "[sweep4]\nasks = 'x'\n[figures]", "61", "[sweep4] has no `decide` tree and no `learn` lines: it asks nothing"),
    ("F1 no worse than F3", "mix took D1", "20", "a cycle: D1 needs freeze, which needs mix, which needs D1"),
    ('"images", data', '"images", frm = 1, data', "19", 'there is no key "frm" in a row. Did you mean "from"?'),
    ('baseline      = "F3"', 'baseline      = "LR1"', "3", 'LR1 is another name for F3; write baseline = "F3"'),
    ("hours_per_run = 1.0", "hours_per_run = inf", "7", "study.hours_per_run must be a finite number, not inf"),
    ("[start.images]", "[start.freeze]", "22", '"freeze" is a decision already; give the start another name'),
    ('LR1 = "F3"', 'LR1 = "F3"\nLR5 = "LR1"', "17", "LR1 is itself another name for F3; name the row itself"),
    ("gpus_per_run  = 2", "gpus_per_run  = 2\ngpus_per_run  = 2", "7", '"gpus_per_run" is defined twice, first in line 6'),
    (
        "connector_ratio = 100 }",
        "connector_ratio = 100, optim.connector_ratio = 3 }",
        "17",
        '"connector_ratio" is defined twice, first in line 17',
    ),
    ("after = 2", "after = ", "59:9", "not TOML: Invalid value"),
    ("connector_ratio = 100", "lr = 2026-11-22", "17", "optim.lr must be a number, not 2026-11-22"),
    ("F1 no worse than F3", "F3 better than its start", "37", "F3 is the baseline: it has no start to be compared with"),
    ("F1 no worse than F3", "", "37:5", "the condition is empty"),
    ("F1 no worse than F3", "F1 and F1 diverged", "37:12", '"F1" stands twice in one list'),
    ("F1 no worse than F3", "F1 no worse than F3 on", "37:27", "expected the name of a metric, but the text ends here"),
    (
        "[blocks]",
        '[blocks]\n".." = ["B1"]',
        "55",
        '".." cannot name a block; a name is made of letters, digits, ".", "_" and "-", at most 64, a letter or digit first, no ".."',
    ),
    ("[profile.tiny]", "[profile.full]", "67", "[profile.full] cannot be: `full` is the file as it stands"),
    (
        "[profile.tiny]",
        '[profile."../x"]',
        "67",
        '"../x" cannot name a profile; a name is made of letters, digits, ".", "_" and "-", at most 64, a letter or digit first, no ".."',
    ),
    (
        "runs.F1.model.freeze_llm",
        "runs.LR1.model.freeze_llm",
        "69",
        "a profile changes single settings of a row: runs.F3.SETTING = ...",
    ),
    ("runs.F1.model.freeze_llm", "runs.F9.model.freeze_llm", "69", 'there is no run "F9"; runs: F3, F1, LR1, LR2, B1, A8, D1'),
    ("settings.train.samples = 100", "settings.train.samples = 0", "68", "train.samples must be at least 1, not 0"),
    ("hours_per_run = 1.0", "hours_per_run = 1e308", "7", "study.hours_per_run must be above 0 and at most 100000, not 1e+308"),
    (
        '["otherwise",                            "its start", "stays"]',
        '["otherwise", "F3", "stays"]',
        "51",
        "F3 cannot be taken here: D1 starts from what freeze took, and F3 does not. Taking it would set what F3 changes and leave "
        'what freeze took as it is; to stay there, write "its start"',
    ),
    ("[runs]", "[runs]\nD1-start = {}", "14", '"D1-start" cannot name a run: what D1 is compared with is called D1-start'),
]


def read(folder: Path, text: str, profile: str = "") -> Study:
    path = folder / "runs.toml"
    path.write_text(text, encoding="utf-8")
    return read_study(path, profile)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files are named without it, as a user names them."""
    monkeypatch.chdir(tmp_path)
    return Path()


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(("old", "new", "place", "message"), MISTAKES)
def test_a_mistake_is_told_by_its_line(here: Path, old: str, new: str, place: str, message: str) -> None:
    assert old in SMALL
    text = SMALL.replace(old, new, 1)
    line, _, column = place.partition(":")
    source = text.split("\n")[int(line) - 1]
    expected = f"runs.toml:{place}: {message}\n    {source.strip()}"
    if column:
        expected += "\n" + " " * (4 + int(column) - 1 - (len(source) - len(source.lstrip()))) + "^"
    with pytest.raises(UserError) as told:
        read(here, text)
    assert str(told.value) == expected


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("tinny", 'runs.toml: there is no profile "tinny". Did you mean "tiny"?'),
        ("large", 'runs.toml: there is no profile "large"; profiles: full, tiny, smoke'),
    ],
)
def test_an_unknown_profile_is_refused(here: Path, profile: str, message: str) -> None:
    with pytest.raises(UserError) as told:
        read(here, SMALL, profile)
    assert str(told.value) == message


def test_a_file_that_cannot_be_read_is_told(here: Path) -> None:
    (here / "folder").mkdir()
    (here / "file").write_text("")
    for path, message in {
        "runs.toml": "runs.toml: there is no such file. `ablate init` writes a first one",
        "folder": "folder: is a folder; name the file in it: folder/runs.toml",
        "file/runs.toml": "file/runs.toml: cannot be read: Not a directory",
    }.items():
        with pytest.raises(UserError) as told:
            read_study(Path(path))
        assert str(told.value) == message


def test_a_file_that_is_not_utf8_is_told_by_line(here: Path) -> None:
    (here / "runs.toml").write_bytes(SMALL.encode().replace(b"as good", b"as g\xf6od"))
    with pytest.raises(UserError) as told:
        read_study(here / "runs.toml")
    assert str(told.value) == "runs.toml:37: not UTF-8 (byte 0xf6); save the file as UTF-8"


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_empty_file_is_told(here: Path, text: str) -> None:
    with pytest.raises(UserError) as told:
        read(here, text)
    assert str(told.value) == "runs.toml: there is no [study]; `ablate init` shows what a study needs"


def test_a_study_without_rows_is_refused(here: Path) -> None:
    start = SMALL.index("F3  = {}")
    text = SMALL[:start] + SMALL[SMALL.index("[start.images]") :]
    with pytest.raises(UserError) as told:
        read(here, text)
    assert str(told.value) == "runs.toml:13: [runs] has no rows: nothing to study\n    [runs]"


def test_a_file_that_ends_too_early_is_told(here: Path) -> None:
    with pytest.raises(UserError) as told:
        read(here, SMALL + "x = [1,\n")
    assert str(told.value).startswith("runs.toml:74: not TOML: ")


def test_a_mistake_in_a_profile_nobody_asked_for_is_told_too(here: Path) -> None:
    with pytest.raises(UserError, match=r'^runs\.toml:68: there is no setting "train.sampels"'):
        read(here, SMALL.replace("train.samples", "train.sampels"), "full")


def test_a_profile_that_makes_two_rows_the_same_job_is_refused(here: Path) -> None:
    text = SMALL + "settings.optim.connector_ratio = 100\n"
    read(here, text)
    with pytest.raises(UserError, match=r"^runs\.toml:17: LR2 and F3 \(line 14\) are the same job"):
        read(here, text, "smoke")


def test_windows_line_ends_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "runs.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert read_study(path).runs["F1"].line == 15


# ---------------------------------------------------------------- values


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
        "    def __post_init__(self):\n        if self.low > self.high:\n            raise ValueError('rates.low above rates.high')\n"
        "@dataclass(frozen=True)\nclass Config:\n    rates: Rates = Rates()\n    wide: bool = False\n"
    )
    text = (
        '[study]\nname = "n"\nbaseline = "a"\ntrainer = "t"\nconfig = "checking_config_of_a_test:Config"\ngpus_per_run = 1\n'
        'hours_per_run = 1\n[runs]\na = {}\nb = { rates.high = 1.5 }\nc = { from = ["d"], rates.low = 1.4 }\n[seeds]\nevery = [0]\n'
        '[metrics]\nx = { better = "lower", margin = 1 }\n[sweep1]\non = "x"\n'
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
        "hours_per_run = 1\n[settings]\nouter.inner.depth = 3\n[runs]\na = {}\nb = { lr = 2, outer.wide = true }\n[seeds]\nevery = [0]\n"
    )
    study = read(tmp_path, text)
    assert study.settings == {"outer.inner.depth": 3, "outer.inner.names": [], "outer.wide": False, "lr": 1.0}
    with pytest.raises(UserError, match=r"runs\.toml:12: b: too deep"):
        read(tmp_path, text.replace("outer.wide = true", "outer.inner.depth = 4"))
    with pytest.raises(UserError, match=r"\[settings\] must give outer\.inner\.depth"):
        read(tmp_path, text.replace("outer.inner.depth = 3", ""))


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
SCALAR = st.one_of(
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8).filter(lambda t: not t.startswith("as ")),
)


def toml(value: object) -> str:
    """A value as TOML; strings as basic strings with everything odd escaped."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        odd = '"\\'
        return '"' + "".join(c if 32 <= ord(c) < 127 and c not in odd else f"\\U{ord(c):08X}" for c in value) + '"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml(key)} = {toml(one)}" for key, one in value.items()) + " }"
    return repr(value)


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


TREES = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=5), TREES, max_size=4),
    st.sampled_from(["\n", " # }]\"'\n\n"]),
)
def test_every_key_of_any_toml_text_is_found_where_it_stands(values: dict[str, object], end: str) -> None:
    def told(value: object) -> str:
        if isinstance(value, list):
            return "[" + ", ".join(map(told, value)) + ",\n]" if value else "[ ]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{toml(key)}={told(one)}" for key, one in value.items()).replace("\n", "") + "}"
        return toml(value)

    text = "".join(f"{toml(key)} = {told(value)}{end}" for key, value in values.items())
    read_back = tomllib.loads(text)
    root = scan(text, read_back)
    assert list(root.keys) == list(read_back)
    for key, node in root.keys.items():
        assert text[node.at :].startswith(toml(key))
        assert node.value == read_back[key]


def test_places_of_all_forms_of_toml() -> None:
    text = """# first
[a . "b.c"]
'q' . r = '''x "'' ]''' # note
s = \"\"\"
 y \\"\"\" ""\"\"\"
t = 1979-05-27 07:32:00
[[list]]
n = 1
[[list]]
n = [ [1, 2], [ # inner
  "three" ] ]
[list.below]
m = {}
"""
    root = scan(text, tomllib.loads(text))
    table = root.keys["a"].keys["b.c"]
    assert not table.whole
    assert table.keys["q"].keys["r"].whole
    assert table.keys["q"].keys["r"].value == "x \"'' ]"
    assert text[table.keys["t"].at :].startswith("t = 1979")
    second = (root.keys["list"].items or [])[1]
    nested = (second.keys["n"].items or [])[1]
    assert text[(nested.items or [])[0].value_at :].startswith('"three"')
    assert second.keys["below"].keys["m"].keys == {}


def test_its_start_may_be_taken_where_all_rows_of_a_tree_start_from_the_same(tmp_path: Path) -> None:
    text = SMALL.replace("D1  = {", 'D2  = { from = ["freeze"], data.mix = { image = 1.0 } }\nD1  = {')
    line = '["D1 better than its start on val_loss", "D1", '
    text = text.replace(line, '["any of D1, D2 better than its start on val_loss", "best of D1, D2", ')
    assert line not in text
    take = read(tmp_path, text).trees["mix"].lines[-1].take
    assert take.kind == "its start"


def test_a_date_among_the_settings_is_told_in_words(here: Path) -> None:
    with pytest.raises(UserError, match=r"m\.w must not be a date or a time; write it as a string"):
        read(here, SHARED.replace("m.w = 0.0", "m.w = 2026-11-22"))
