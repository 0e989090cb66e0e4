"""Effects of rows: planted faults are caught on a real trainer, rows that work raise no alarm, and scatter is not mistaken."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from ablate.planning.starts import start_settings
from ablate.preflight.effects import Effect, effects, may_change
from ablate.preflight.fingerprints import Config, Failed, Fingerprint, of_document, of_short_run
from ablate.preflight.short_runs import OwnFingerprints, ShortRuns, module_exists, observer, shortened
from ablate.runs_toml import read_study
from ablate.study import Run, Study, UserError
from tests import studies
from tests.conftest import REPOSITORY

QUICK = REPOSITORY / "examples/quick"
SHORT = "\n[check]\nshort = { train.samples = 200 }\n"


def quick(folder: Path, rows: str, *edits: tuple[str, str], settings: str = "", check: str = SHORT) -> Study:
    """A study of the quick trainer with these rows and nothing else; `edits` plant faults in a copy of the trainer."""
    source = (QUICK / "train.py").read_text()
    for old, new in edits:
        assert source.count(old) >= 1, old
        source = source.replace(old, new)
    (folder / "planted.py").write_text(source)
    text = (QUICK / "runs.toml").read_text()
    head, _, rest = text.partition("[runs]")
    start = re.search(r'\[start\."steps stage"\]\n.*\n', rest)
    metrics = re.search(r"\[metrics\]\n(.+\n)+", rest)
    assert start
    assert metrics
    head = head.replace('"examples.quick.train"', '"planted"')
    head = head.replace("model.units          = 12\n", f"model.units          = 12\n{settings}")
    parts = (head, f"[runs]\nF3 = {{}}\n{rows}\n", start[0], "[seeds]\nevery = [42]\n", metrics[0], check)
    (folder / "runs.toml").write_text("\n".join(parts))
    return read_study(folder / "runs.toml")


def looked_at(study: Study, cache: Path) -> dict[str, Effect]:
    observe = observer(study, cache)
    assert isinstance(observe, ShortRuns)
    observe = replace(observe, deadline=time.monotonic() + 240.0)  # a busy machine is no fault of the study
    found = effects(study, {name: start_settings(study, run, {}) for name, run in study.runs.items()}, observe, study.late)
    assert not isinstance(found, Failed), found
    return {effect.run: effect for effect in found}


WORKING = {
    "units": "model.units = 6, data.repeat_steps = 2",
    "plane": "model.curved = false",
    "rounded": "model.rounded_inputs = true",
    "frozen": "model.freeze_hidden = true",
    "biases": "model.freeze_bias = true",
    "slow": "optim.lr = 0.001",
    "fast": "optim.lr = 0.05",
    "ratio1": "optim.readout_ratio = 1.0",
    "ratio3": "optim.readout_ratio = 3.0",
    "wild": "optim.readout_ratio = 1000.0",
    "heavy": "optim.momentum = 0.99",
    "light": "optim.momentum = 0.0",
    "longer": "train.samples = 48_000",
    "shorter": "train.samples = 12_000",
    "batch10": "train.batch = 10",
    "batch40": "train.batch = 40",
    "waves": "data.mix = { waves = 0.9, steps = 0.1 }",
    "steps": "data.mix = { waves = 0.2, steps = 0.8 }",
    "twice": "data.repeat_steps = 2",
    "wide": 'model.units = 24, train.flops = "as F3"',
    "two": "model.freeze_bias = true, optim.lr = 0.05",
    "staged": 'from = "steps stage", data.repeat_steps = 16',
    "slower": "optim.lr = 0.005",
    "ratio20": "optim.readout_ratio = 20.0",
    "half": "optim.momentum = 0.5",
    "batch5": "train.batch = 5",
    "even": "data.mix = { waves = 0.5, steps = 0.5 }",
    "often": "data.repeat_steps = 8",
    "both": "model.freeze_hidden = true, optim.readout_ratio = 3.0",
    "stage": 'from = "steps stage"',
}


def test_rows_that_work_raise_no_alarm(tmp_path: Path) -> None:
    rows = "\n".join(f"{name} = {{ {row} }}" for name, row in WORKING.items())
    found = looked_at(quick(tmp_path, rows), tmp_path)
    alarms = {name: effect for name, effect in found.items() if effect.level}
    assert not alarms
    assert {name for name, effect in found.items() if effect.verdict == "baseline"} == {"F3", "stage"}
    assert found["staged"].against == "start steps stage"
    assert found["wild"].notes == ("it diverged already",)


def test_a_setting_that_nobody_reads_is_an_error(tmp_path: Path) -> None:
    planted = ("    units: int\n", "    units: int\n    dropout: float\n    ema: bool\n")
    rows = "D = { model.dropout = 0.5 }\nE = { model.ema = true }\nboth = { model.dropout = 0.1, optim.lr = 0.05 }"
    found = looked_at(quick(tmp_path, rows, planted, settings="model.dropout = 0.0\nmodel.ema = false\n"), tmp_path)
    assert [(found[run].verdict, found[run].level) for run in ("D", "E", "both")] == [("never_read", "error")] * 3
    assert found["D"].differences == ("nothing changed, nor with model.dropout = 15.0, model.dropout = 0.016666666666666666",)
    assert found["E"].differences == ("nothing changed",)
    assert found["both"].differences == ("model.dropout = 0.1: nothing changes with or without it",)


def test_a_flag_that_is_ignored_is_an_error(tmp_path: Path) -> None:
    planted = ("        if not model.freeze_bias:\n            descend(", "        if True:\n            descend(")
    found = looked_at(quick(tmp_path, "F2 = { model.freeze_bias = true }", planted), tmp_path)
    assert found["F2"].verdict == "never_read"


def test_replication_that_is_not_applied_is_an_error(tmp_path: Path) -> None:
    planted = ('(data.repeat_steps if kind == "steps" else 1)', "1")
    found = looked_at(quick(tmp_path, 'A8b = { from = "steps stage", data.repeat_steps = 16 }', planted), tmp_path)
    assert found["A8b"].verdict == "never_read"
    assert found["A8b"].against == "start steps stage"


def test_a_row_that_quietly_changes_the_batch_size_too_is_flagged(tmp_path: Path) -> None:
    planted = ("config.train.batch, order)", "config.train.batch // (1 if config.model.curved else 2), order)")
    counted = ("step * config.train.batch)}", "step * config.train.batch // (1 if config.model.curved else 2))}")
    found = looked_at(quick(tmp_path, "A1 = { model.curved = false }", planted, counted), tmp_path)
    assert (found["A1"].verdict, found["A1"].level) == ("also_changes", "flag")
    assert {"batch/samples: 20 → 10", "budget/steps: 10 → 20"} <= set(found["A1"].differences)


def test_an_order_of_data_that_hangs_on_the_model_is_flagged(tmp_path: Path) -> None:
    """The quick trainer draws weights and order from one stream: another width is another order."""
    found = looked_at(quick(tmp_path, "W = { model.units = 6 }"), tmp_path)
    assert found["W"].verdict == "also_changes"
    assert found["W"].notes == ("nobody declared that it changes data",)


def test_rows_that_are_equal_after_what_the_trainer_makes_of_them_are_an_error(tmp_path: Path) -> None:
    clamped = ("fast = lr * config.optim.readout_ratio", "fast = lr * min(config.optim.readout_ratio, 20.0)")
    rows = "LR2 = { optim.readout_ratio = 30.0 }\nLR3 = { optim.readout_ratio = 100.0 }\nLR4 = { optim.readout_ratio = 1.0 }"
    found = looked_at(quick(tmp_path, rows, clamped), tmp_path)
    assert [found[run].verdict for run in ("LR2", "LR3", "LR4")] == ["takes_effect", "never_read", "takes_effect"]
    assert found["LR3"].differences == ("acts exactly as LR2 does: the trainer makes the same of both",)


def test_rows_that_are_the_same_job_do_not_get_past_the_reader(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are the same job"):
        quick(tmp_path, "X = { model.curved = true }")


def test_a_late_setting_is_a_note_and_not_an_error(tmp_path: Path) -> None:
    late = ("lr, momentum = config.optim.lr * rate,", "lr, momentum = config.optim.lr * max(rate, config.optim.floor),")
    planted = ("    momentum: float\n", "    momentum: float\n    floor: float\n    swa: bool\n")
    rows = "M = { optim.floor = 0.1 }\nT = { optim.floor = 1e-9 }\nS = { optim.swa = true }"
    settings = "optim.floor = 0.0\noptim.swa = false\n"
    check = '\n[check]\nshort = { train.samples = 200 }\nlate = ["optim.swa"]\n'
    found = looked_at(quick(tmp_path, rows, planted, late, settings=settings, check=check), tmp_path)
    assert found["M"].verdict == "takes_effect", "the schedule is compressed: its end is seen"
    assert (found["T"].verdict, found["T"].level) == ("not_seen", "note")
    assert found["T"].notes[0].startswith("too small or too late to be seen; seen in T with optim.floor = ")
    assert found["S"].notes == ("optim.swa is declared to act late",)


def test_a_row_that_does_not_train_says_so(tmp_path: Path) -> None:
    found = looked_at(
        quick(tmp_path, "N = { data.mix = { waves = 0.0, steps = 0.0 } }\nC = { faults.crash_at_step = 3, optim.lr = 0.05 }"),
        tmp_path,
    )
    assert (found["C"].verdict, found["C"].level) == ("not_seen", "error")
    assert found["C"].differences == ("C does not train: RuntimeError: asked to crash at step 3 (faults.crash_at_step)",)
    assert found["N"].verdict == "takes_effect"


def test_a_baseline_that_does_not_train_leaves_nothing_to_look_at(tmp_path: Path) -> None:
    study = quick(
        tmp_path,
        "W = { model.units = 6 }",
        ("def train(folder: Path) -> int:\n", "def train(folder: Path) -> int:\n    sys.exit('no')\n"),
    )
    observe = observer(study, tmp_path)
    assert not isinstance(observe, str)
    assert effects(study, {}, observe) == Failed("the baseline does not train: no")


def test_a_short_run_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    study = quick(tmp_path, "W = { model.units = 6 }")
    slow = {**study.settings, "faults.seconds": 60.0}
    began = time.monotonic()
    found = ShortRuns(study, tmp_path, deadline=began + 2.0, at_once=1)([Config("F3", slow), Config("W", slow)])
    late = [Failed("it had not ended in time", looked=False), Failed("there was no time left for it", looked=False)]
    assert found == late
    assert time.monotonic() - began < 10


def test_a_trainer_that_never_repeats_itself_is_told_and_what_it_cannot_show_is_no_error(tmp_path: Path) -> None:
    """Its baseline trains twice with one seed, and differs; an effect beyond that is seen, silence proves nothing."""
    planted = ("    units: int\n", "    units: int\n    ema: bool\n")
    noisy = ("import random\n", "import random\nimport secrets\n")
    rate = ("rate=0.5 * (1", "rate=(1 + secrets.randbelow(1000) / 1e5) * 0.5 * (1")
    rows = "E = { model.ema = true }\nfast = { optim.lr = 0.05 }\nbatch = { train.batch = 40 }"
    found = looked_at(quick(tmp_path, rows, planted, noisy, rate, settings="model.ema = false\n"), tmp_path)
    assert (found["F3"].verdict, found["F3"].level) == ("baseline", "note")
    assert found["F3"].notes[0].startswith("trainings of it with one seed differ in learning/")
    assert (found["E"].verdict, found["E"].level) == ("not_seen", "note")
    assert (found["fast"].verdict, found["batch"].verdict) == ("takes_effect", "takes_effect")


def test_files_that_break_the_folder_contract_are_told(tmp_path: Path) -> None:
    study = quick(tmp_path, "W = { model.units = 6 }", ('"metrics": metrics}', '"metric": metrics}'))
    (found,) = ShortRuns(study, tmp_path, time.monotonic() + 60, at_once=1)([Config("F3", study.settings)])
    assert found == Failed("its files do not keep the folder contract: KeyError('metrics')")


def test_without_a_short_budget_it_says_how_to_give_one(tmp_path: Path) -> None:
    said = observer(quick(tmp_path, "W = { model.units = 6 }", check=""), tmp_path)
    assert isinstance(said, str)
    assert said.endswith("[check] short = { train.samples = 200 }")


def test_a_script_that_knows_nothing_of_us_is_looked_at_by_its_metrics(tmp_path: Path) -> None:
    text = (REPOSITORY / "examples/unrelated/runs.toml").read_text()
    (tmp_path / "fit.py").write_text((REPOSITORY / "examples/unrelated/fit.py").read_text())
    (tmp_path / "runs.toml").write_text(text + "\n[check]\nshort = { forest.trees = 4 }\n")
    found = looked_at(read_study(tmp_path / "runs.toml"), tmp_path)
    assert {name: effect.verdict for name, effect in found.items()} == {"plain": "baseline"} | dict.fromkeys(
        ("trees", "deep", "points", "squared"), "takes_effect"
    )


def test_a_short_budget_keeps_the_proportions_of_rows_that_change_it(tmp_path: Path) -> None:
    study = quick(tmp_path, "W = { train.samples = 12_000 }")
    assert shortened(study, study.settings)["train.samples"] == 200
    assert shortened(study, {**study.settings, "train.samples": 12_000})["train.samples"] == 100


# ---------------------------------------------------------------- [check]


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("shrt = {}", 'there is no key "shrt" in [check]. Did you mean "short"?'),
        ("short = { train.sample = 4 }", 'there is no setting "train.sample". Did you mean "train.samples"?'),
        ('late = ["optim.momentun"]', 'there is no setting "optim.momentun". Did you mean "optim.momentum"?'),
        ("short = 3", "check.short must be a table, not 3"),
    ],
)
def test_mistakes_in_the_file_are_told_by_line(tmp_path: Path, check: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        quick(tmp_path, "W = { model.units = 6 }", check=f"[check]\n{check}\n")


# ---------------------------------------------------------------- judgement


def seen(*prints: Fingerprint | Failed, on_43: Fingerprint | Failed | None = None) -> Sequence[Effect]:
    """F1 of the small study against F3: fingerprints of F3, F3 again, F1; any other config shows what F1 does.

    on_43: that of F3 on its other seed; None: it has one seed.
    """
    study = studies.study(runs={"F3": Run("F3"), "F2": Run("F2", {"model.freeze_llm": True})})
    study = study if on_43 is None else replace(study, seeds={**study.seeds, "F3": (42, 43)})
    first, again, row = prints

    def observe(configs: Sequence[Config]) -> Sequence[Fingerprint | Failed]:
        known = {"F3": first, "F3 again": again, "F3 on seed 43": on_43 or row}
        return [known.get(config.name, row) for config in configs]

    found = effects(study, {}, observe)
    assert not isinstance(found, Failed)
    return found


def test_a_trainer_to_which_another_seed_makes_no_difference_is_flagged() -> None:
    base, row = {"learning/loss": (1.0, 0.9)}, {"learning/loss": (1.0, 0.5)}
    same, *_ = seen(base, base, row, on_43=base)
    assert (same.level, same.notes[0].partition(":")[0]) == ("flag", "another seed made no difference")
    for other in ({"learning/loss": (1.0, 0.91)}, Failed("it crashed")):
        fine, *_ = seen(base, base, row, on_43=other)
        assert (fine.level, fine.notes) == ("", ())
    assert not seen(base, {"learning/loss": (1.0, 0.89)}, row, on_43=base)[0].level.startswith("flag"), "it is not known"


def test_the_scatter_of_the_baseline_is_not_taken_for_an_effect() -> None:
    base = {"learning/loss": (1.0, 0.9, 0.8, 0.7)}
    again = {"learning/loss": (1.0, 0.91, 0.79, 0.71)}
    inside = seen(base, again, {"learning/loss": (1.0, 0.905, 0.81, 0.69)})[1]
    assert (inside.verdict, inside.level) == ("not_seen", "note"), "what scatters may hide an effect: no error"
    assert inside.notes == ("nothing beyond what trainings of the baseline differ in",)
    assert seen(base, again, {"learning/loss": (1.0, 0.6, 0.5, 0.4)})[1].verdict == "takes_effect"
    assert seen(base, again, {"learning/loss": (1.0, 0.91, 0.78, 0.7)})[1].verdict == "not_seen"


def test_what_two_trainings_of_the_baseline_differ_in_is_told() -> None:
    base = {"learning/loss": (1.0, 0.9), "learning/val_loss": (2.0,)}
    assert seen(base, base, {"learning/loss": (1.0, 0.6)})[0] == Effect("F3", "baseline", "", "F3", ())
    scattered = seen(base, {"learning/loss": (1.0, 0.87), "learning/val_loss": (2.5,)}, base)[0]
    assert (scattered.verdict, scattered.level) == ("baseline", "note")
    assert scattered.notes == (
        "trainings of it with one seed differ in learning/val_loss by up to 0.5, learning/loss by up to 0.03; "
        "less than 3 times that is not seen",
    )
    reordered = seen({**base, "data/first_batches": "a"}, {**base, "data/first_batches": "b"}, base)[0]
    assert (reordered.level, reordered.notes) == (
        "flag",
        ("trainings of it with one seed differ in data/first_batches: runs with one seed do not share that",),
    )


def test_noise_alone_is_rarely_taken_for_an_effect() -> None:
    """Normal noise in one number: the rule says 1 case of 330 (a row against the baseline itself), of 600 at most 9."""
    draw, taken = Random(5), 0
    study = studies.study(runs={"F3": Run("F3"), "F2": Run("F2", {"model.freeze_llm": True})})
    for _ in range(600):
        found = effects(study, {}, lambda configs: [{"learning/loss": (draw.gauss(1.0, 0.1),)} for _ in configs])
        assert not isinstance(found, Failed)
        taken += found[1].verdict == "takes_effect"
    assert taken <= 9


def test_what_clocks_say_is_no_effect() -> None:
    base = {"learning/loss": (1.0,), "learning/samples_per_s": (5.0,), "facts/wall_s": 3.0, "learning/memory_gib": (1.0,)}
    faster = {**base, "learning/samples_per_s": (500.0,), "facts/wall_s": 0.1, "learning/memory_gib": (9.0,)}
    assert seen(base, base, faster)[1].verdict == "never_read"


def test_what_the_baseline_does_not_repeat_is_no_effect() -> None:
    base, again = {"data/order": "a", "learning/loss": (1.0,)}, {"data/order": "b", "learning/loss": (1.0,)}
    assert seen(base, again, {"data/order": "c", "learning/loss": (1.0,)})[1].verdict == "not_seen"
    assert seen(base, base, {"data/order": "c", "learning/loss": (1.0,)})[1].verdict == "also_changes"


def test_numbers_that_are_none_are_equal_to_themselves() -> None:
    base = {"learning/loss": (1.0, math.nan, math.inf)}
    assert seen(base, base, base)[1].verdict == "never_read"
    assert seen(base, base, {"learning/loss": (1.0, 2.0, math.inf)})[1].differences == ("learning/loss (2 of 3): nan → 2",)


@pytest.mark.parametrize(
    ("setting", "group", "allowed"),
    [
        ("model.deep_query", "weights", True),
        ("model.deep_query", "data", False),
        ("model.freeze_llm", "batch", False),
        ("optim.lr", "rates", True),
        ("optim.lr", "weights", False),
        ("data.mix", "data", True),
        ("data.mix", "batch", False),
        ("train.batch_samples", "batch", True),
        ("train.loss", "tokens", True),
        ("train.loss", "data", False),
        ("train.flops", "budget", True),
        ("train.lambda_coarse", "budget", False),
        ("eval.set", "evaluation", True),
    ],
)
def test_the_table_says_what_a_setting_may_change(setting: str, group: str, allowed: bool) -> None:
    groups = may_change({setting: 1})
    assert groups is not None
    assert (group in groups) == allowed


def test_settings_of_other_trainers_may_change_anything() -> None:
    assert may_change({"forest.depth": 3}) is None


def test_fingerprints_of_short_runs_and_of_trainers_speak_of_the_same_groups() -> None:
    points = [{"step": step, "metrics": {"loss": 1.0 / step, "lr/head": 0.1, "samples": 8 * step}} for step in (1, 2)]
    short = of_short_run(
        points, {"manifest_hash": "m", "versions": {}, "parameters": {"head": 7}}, {"outcome": "done", "facts": {"wall_s": 1.0}}
    )
    assert short == {
        "learning/loss": (1.0, 0.5),
        "rates/lr/head": (0.1, 0.1),
        "budget/steps": 2.0,
        "batch/samples": 8.0,
        "data/manifest": "m",
        "model/parameters/head": 7.0,
        "facts/wall_s": 1.0,
        "learning/outcome": "done",
    }
    own = of_document(
        {
            "parameters": {"head": {"count": 7, "trainable": 0}},
            "lr": {"head": [0.1, 0.0]},
            "batch": {"samples": 8, "supervised_tokens": 20, "first_batches_hash": "b"},
            "losses": [1.0],
            "grad_norm": {"head": [0.5]},
            "shapes": {"logits": [2, 3]},
        }
    )
    assert own == {
        "model/parameters/head/count": 7.0,
        "model/parameters/head/trainable": 0.0,
        "rates/head": (0.1, 0.0),
        "batch/samples": 8.0,
        "tokens/supervised_tokens": 20.0,
        "data/first_batches_hash": "b",
        "learning/losses": (1.0,),
        "learning/grad_norm/head": (0.5,),
        "model/shapes/logits": (2.0, 3.0),
    }


FINGERPRINT = """
import json, sys
for config in json.load(sys.stdin):
    model = config["settings"]["model"]
    lr = config["settings"]["optim"]["lr"]
    if model["units"] > 99:
        print(json.dumps({"error": "too wide"}))
        continue
    trainable = 0 if model["freeze_hidden"] else model["units"]
    print(json.dumps({"parameters": {"hidden": {"count": model["units"], "trainable": trainable}},
                      "lr": {"hidden": [lr, lr / 2, 0.0]}, "losses": [1.0 * config["seed"]]}))
"""


def test_a_trainers_own_fingerprints_are_asked_for_where_it_makes_them(tmp_path: Path) -> None:
    rows = "F1 = { model.freeze_hidden = true }\nF2 = { model.freeze_bias = true }\nLR2 = { optim.lr = 0.05 }\n"
    rows += "W = { model.units = 100 }"
    study = quick(tmp_path, rows, check="")
    package = tmp_path / "planted_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('looking must not import')")
    (package / "train.py").write_text("")
    text = (tmp_path / "runs.toml").read_text().replace('"planted"', '"planted_package.train"')
    (tmp_path / "runs.toml").write_text(text)
    study = read_study(tmp_path / "runs.toml")
    assert isinstance(observer(study, tmp_path), str)
    (package / "fingerprint.py").write_text(FINGERPRINT)
    assert module_exists(study, "planted_package.fingerprint")
    (package / "__init__.py").write_text("")
    observe = observer(study, tmp_path)
    assert isinstance(observe, OwnFingerprints)
    found = effects(study, {}, observe)
    assert not isinstance(found, Failed)
    assert {effect.run: effect.verdict for effect in found} == {
        "F3": "baseline",
        "F1": "takes_effect",
        "F2": "never_read",
        "LR2": "takes_effect",
        "W": "not_seen",
    }
    assert found[1].differences == ("model/parameters/hidden/trainable: 12 → 0",)
    assert found[4].differences == ("W does not train: too wide",)
    (package / "fingerprint.py").write_text("print('{')\nprint('{')")
    (broken,) = {one.reason for one in observe([Config("F3", {}), Config("F1", {})]) if isinstance(one, Failed)}
    assert broken.startswith("planted_package.fingerprint: an answer is no JSON: ")
    (package / "fingerprint.py").write_text("raise SystemExit('no weights')")
    assert effects(study, {}, observe) == Failed("the baseline does not train: planted_package.fingerprint: no weights")
