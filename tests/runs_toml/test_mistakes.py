"""How every mistake in runs.toml is told."""
# ruff: noqa: E501 (a message stands on one line, as the user sees it)

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.runs_toml import read_study
from ablate.study import UserError
from tests.runs_toml.small import SMALL, read
from tests.shared_study import STUDY as SHARED

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
    *(
        ('trainer       = "trainer.train"', f"trainer = {{ command = '{command}', metrics = {{ file = 'log' }} }}", "4", said)
        for command, said in (
            ("", 'study.trainer.command is empty; write for example "{python} train.py {--key=value} --seed={seed}"'),
            ('x "y', "study.trainer.command cannot be split into words: No closing quotation"),
            (
                "x | tee y",
                "study.trainer.command says |, and no shell reads it: write a script that does this, and call that",
            ),
        )
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


def test_a_date_among_the_settings_is_told_in_words(here: Path) -> None:
    with pytest.raises(UserError, match=r"m\.w must not be a date or a time; write it as a string"):
        read(here, SHARED.replace("m.w = 0.0", "m.w = 2026-11-22"))


BARE = """\
[study]
name          = "bare"
baseline      = "a"
trainer       = "t"
gpus_per_run  = 1
hours_per_run = 1
[runs]
a = {}
b = { search = { x = { log = [1.0, 2.0] } }, trials = 3 }
[seeds]
every = [0]
"""
"""No section but those that every study has."""


def test_what_is_missing_from_a_section_that_is_not_there_is_told_of_the_file(here: Path) -> None:
    with pytest.raises(UserError) as told:
        read(here, BARE + "[settings]\nx = 1.0\n")
    assert str(told.value) == "runs.toml: [search] needs a metric to choose by: declare one in [metrics]"
    with pytest.raises(UserError) as told:
        read(here, BARE + "[settings]\nx = 1.0\n[profile.tiny.search]\nby = 'random'\n", "tiny")
    line = "[profile.tiny.search]"
    assert str(told.value) == f"runs.toml:14: [search] needs a metric to choose by: declare one in [metrics]\n    {line}"


def test_a_setting_where_there_are_none_is_told_where_they_are_given(here: Path) -> None:
    with pytest.raises(UserError) as told:
        read(here, BARE)
    message = 'there is no setting "x". There are none: each needs its value at the baseline in [settings]'
    assert str(told.value).startswith(f"runs.toml:9: {message}\n")


def test_of_many_stateless_settings_that_are_none_the_first_is_told(here: Path) -> None:
    names = [f"zz{letter}" for letter in "hgfedcba"]
    with pytest.raises(UserError, match=r'^runs\.toml:2: there is no setting "zzh"'):
        read(here, SMALL.replace("[study]", f"[study]\nstateless = {names}", 1))


def test_true_is_no_longer_than_false(here: Path) -> None:
    text = BARE.replace("trials = 3", "trials = 3, deep.steps = false")
    text += "[settings]\nx = 1.0\ndeep.steps = true\n[metrics]\nm = { better = 'lower', margin = 1 }\n[search]\nshort.deep.steps = true\n"
    search = read(here, text).runs["b"].search
    assert search is not None
    assert search.short == {"deep.steps": True}
