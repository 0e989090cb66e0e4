"""`ablate check` on our own trainer: faults planted in a copy of it are named, and settings that work raise no alarm."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch

from ablate.planning.starts import start_settings
from ablate.preflight.effects import Effect, Observe, effects
from ablate.preflight.fingerprints import Config, Failed, Fingerprint, of_document
from ablate.preflight.short_runs import OwnFingerprints, observer
from ablate.runs_toml import read_study
from ablate.study import Study, nested
from tests.conftest import REPOSITORY
from trainer.config import TrainConfig
from trainer.data.batches import SampleStream
from trainer.fingerprint import fingerprints

STUDY = """
[study]
name          = "own"
asks          = "Is every setting read?"
baseline      = "F3"
trainer       = "trainer.train"
config        = "trainer.config:TrainConfig"
gpus_per_run  = 1
hours_per_run = 1.0

[settings]
optim.lr              = 5e-4
train.samples         = 9_600
train.batch_samples   = 24
train.precision       = "float32"
data.mix              = { video = 0.60, image = 0.26, text = 0.14 }
eval.every_samples    = 2_400

[runs]
F3 = {}
ROWS

[seeds]
every = [42]

[metrics]
val_loss = { better = "lower", margin = 0.05, noise = 0.05, unit = "nats" }
"""


def written(folder: Path, rows: Mapping[str, str]) -> Path:
    path = folder / "runs.toml"
    path.write_text(STUDY.replace("ROWS", "\n".join(f"{name} = {{ {row} }}" for name, row in rows.items())))
    return path


# ---------------------------------------------------------------- planted faults

FAULTS = {
    "a setting that nobody reads": ("optim.py", "decay = optim.weight_decay if decays", "decay = 0.01 if decays"),
    "deep_query is ignored": ("model/load.py", "deep_query=config.deep_query", "deep_query=True"),
    "a parameter in the wrong group": (
        "optim.py",
        "    grouped = {part:",
        '    part_of[parts["connector"].get_submodule("to_llm").weight] = "dino"\n    grouped = {part:',
    ),
    "a freeze that leaves one layer": (
        "model/load.py",
        "    llm.requires_grad_(not config.freeze_llm)\n",
        "    llm.requires_grad_(not config.freeze_llm)\n    llm.model.layers[0].requires_grad_(True)\n",
    ),
    "replication is not applied": (
        "data/batches.py",
        "self._replicate = config.data.replicate_image_frames",
        "self._replicate = 1",
    ),
    "the loss mask is ignored": (
        "data/batches.py",
        "self._answer_only = loss_named(config.train.loss).answer_only",
        "self._answer_only = False",
    ),
    "two rows are equal after what is made of them": ("optim.py", "betas=(optim.beta1,", "betas=(max(optim.beta1, 0.5),"),
    "a row changes the batch size too": (
        "data/open.py",
        "config.train.batch_samples, seed)",
        "config.train.batch_samples // (1 if config.model.visual_scale == 0.14 else 2), seed)",
    ),
}
ROWS = {
    "WD": "optim.weight_decay = 0.5",
    "A1": "model.deep_query = false",
    "LR2": "optim.connector_ratio = 100",
    "F2": "model.freeze_llm = true",
    "A8b": "data.replicate_image_frames = 16",
    "QA": 'train.loss = "text_ce_answer_only"',
    "B3": "optim.beta1 = 0.3",
    "B1": "optim.beta1 = 0.1",
    "VS": "model.visual_scale = 0.3",
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Effect]:
    """What is said of each row when a copy of the trainer with all faults at once makes the fingerprints."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copytree(REPOSITORY / "trainer", folder / "trainer", ignore=shutil.ignore_patterns("__pycache__"))
    for name, (file, old, new) in FAULTS.items():
        path = folder / "trainer" / file
        source = path.read_text()
        assert source.count(old) == 1, f"{name} cannot be planted: {file} has {source.count(old)} times {old!r}"
        path.write_text(source.replace(old, new))
    study = read_study(written(folder, ROWS))
    observe = observer(study, folder)
    assert isinstance(observe, OwnFingerprints)
    found = looked_at(study, replace(observe, deadline=time.monotonic() + 500.0))  # a busy machine is no fault of the study
    return {effect.run: effect for effect in found}


def looked_at(study: Study, observe: Observe) -> tuple[Effect, ...]:
    starts = {name: start_settings(study, run, {}) for name, run in study.runs.items()}
    found = effects(study, starts, observe, study.late)
    assert not isinstance(found, Failed), found
    return found


@pytest.mark.parametrize(
    ("run", "verdict", "level", "says"),
    [
        ("WD", "never_read", "error", "nothing changed, nor with optim.weight_decay = 15.0"),
        ("A1", "never_read", "error", "nothing changed"),
        (
            "F3",
            "baseline",
            "error",
            "optim.connector_ratio = 10.0: connector.to_llm.weight learns at 0.0005 in step 1, not at 0.005",
        ),
        (
            "LR2",
            "never_read",
            "error",
            "optim.connector_ratio = 100.0: connector.to_llm.weight learns at 0.0005 in step 1, not at",
        ),
        ("F2", "never_read", "error", "model.freeze_llm = true: 9 of 29 parameters of llm still train, llm.model.layers.0."),
        ("A8b", "never_read", "error", "data.replicate_image_frames = 16: step 1 showed "),
        ("QA", "never_read", "error", 'train.loss = "text_ce_answer_only": step 1 was scored on '),
        ("B3", "takes_effect", "", ""),
        ("B1", "never_read", "error", "acts exactly as B3 does: the trainer makes the same of both"),
        ("VS", "also_changes", "flag", "train.batch_samples = 24: step 1 had 4 samples, not 8"),
        ("VS", "also_changes", "flag", "batch/samples: 8 → 4"),
    ],
)
def test_each_fault_is_named_at_its_row(planted: dict[str, Effect], run: str, verdict: str, level: str, says: str) -> None:
    row = planted[run]
    assert (row.verdict, row.level) == (verdict, level), row
    assert any(said.startswith(says) for said in row.differences), row


# ---------------------------------------------------------------- in this process


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the toy's world and backbones already."""
    folder = tmp_path_factory.mktemp("files")
    list(fingerprints([{"seed": 42, "settings": {}, "files": str(folder)}]))
    return folder


def seen(folder: Path, files: Path, settings: Mapping[str, str]) -> dict[str, Effect]:
    """Setting -> what a row that changes it was seen to do; F3 too."""
    study = read_study(
        written(folder, {f"R{number}": f"{name} = {value}" for number, (name, value) in enumerate(settings.items())})
    )
    references = {"F3": nested(study.settings)}

    def observe(configs: Sequence[Config]) -> list[Fingerprint | Failed]:
        shared = {"seed": 42, "references": references, "files": str(files)}
        told = fingerprints([{"run": one.name, "settings": nested(one.settings), **shared} for one in configs])
        return [Failed(one["error"]) if "error" in one else of_document(json.loads(json.dumps(one))) for one in told]

    return dict(zip(("F3", *settings), looked_at(study, observe), strict=True))


def test_an_order_drawn_from_the_dropout_stream_is_an_error_and_shows_in_rows_that_draw_more(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(stream: SampleStream, epoch: int) -> Any:
        return stream._orders.setdefault(epoch, torch.randperm(len(stream.samples)).numpy())

    monkeypatch.setattr(SampleStream, "_order", drawn)
    found = seen(tmp_path, files, {"model.coarse_only": "true"})
    assert (found["F3"].verdict, found["F3"].level) == ("baseline", "error")
    assert found["F3"].differences == ("seed: the order of samples hangs on what else has drawn random numbers before",)
    row = found["model.coarse_only"]
    assert (row.verdict, row.level, row.notes) == ("also_changes", "flag", row.notes)
    assert row.notes[0].startswith("nobody declared that it changes ")


# ---------------------------------------------------------------- settings that work

LATE = {
    "optim.min_lr_fraction": "0.05",
    "optim.warmup_fraction": "0.1",
    "train.nonfinite_steps": "3",
    "train.diverged_ratio": "2.0",
    "train.precision": '"float64"',
    "data.repeat": "true",
    "data.max_frames": "32",
    "data.max_text_tokens": "256",
    "eval.every_samples": "1_200",
    "eval.set": '"val_other"',
}
"""What acts late, rarely, or not at all at toy size."""
PLAIN = {
    "model.vision": '"facebook/dinov2-base"',
    "model.language": '"HuggingFaceTB/SmolLM2-360M-Instruct"',
    "model.encoder": '"multi_token"',
    "model.tokens_per_frame": '16, model.encoder = "multi_token"',
    "model.deep_query": "false",
    "model.coarse_only": "true",
    "model.freeze_dino": "true",
    "model.freeze_llm": "true",
    "model.visual_scale": "0.15",
    "optim.lr": "4e-4",
    "optim.connector_ratio": "3",
    "optim.weight_decay": "0.02",
    "optim.beta1": "0.91",
    "optim.beta2": "0.95",
    "optim.clip_norm": "0.5",
    "train.samples": "12_000",
    "train.flops": '"as F3", model.deep_query = false, optim.beta1 = 0.8',
    "train.batch_samples": "48",
    "train.loss": '"text_ce_answer_only"',
    "train.lambda_coarse": "0.1",
    "data.mix": "{ video = 0.5, image = 0.36, text = 0.14 }",
    "data.replicate_image_frames": "2",
    "data.manifest_seed": "2",
}
NOTED = {"train.precision", "data.max_frames", "data.max_text_tokens", "model.vision", "model.language"}
"""What a toy cannot show, or only with other values."""


def no_alarm(found: Mapping[str, Effect]) -> None:
    assert found["F3"] == Effect("F3", "baseline", "", "F3", ()), "two fingerprints of it are equal, and nothing is broken"
    assert {name: effect for name, effect in found.items() if effect.level not in ("", "note")} == {}
    assert {name for name, effect in found.items() if effect.verdict == "not_seen"} == NOTED & found.keys()
    assert {effect.verdict for name, effect in found.items() if name not in {*NOTED, "F3"}} == {"takes_effect"}


def test_settings_that_act_late_raise_no_alarm(tmp_path: Path, files: Path) -> None:
    found = seen(tmp_path, files, LATE)
    no_alarm(found)
    assert found["train.precision"].notes == ("train.precision is one that the trainer's fingerprints do not show",)
    assert found["data.max_frames"].notes[0].startswith("too small or too late to be seen; seen in R")


@pytest.mark.slow
def test_no_setting_that_works_raises_an_alarm(tmp_path: Path, files: Path) -> None:
    no_alarm(seen(tmp_path, files, PLAIN))


def test_every_setting_that_can_change_a_result_is_among_them() -> None:
    parts = {name: part for name, part in get_type_hints(TrainConfig).items() if is_dataclass(part)}
    stateful = {
        f"{name}.{field.name}" for name, part in parts.items() for field in fields(part) if field.metadata.get("stateful", True)
    }
    assert LATE.keys() | PLAIN.keys() == stateful
    assert len(stateful) > 30
