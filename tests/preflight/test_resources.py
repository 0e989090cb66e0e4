"""What is said of this machine, against folders and variables made for it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ablate.folders import Folders
from ablate.preflight import resources as module
from ablate.preflight.resources import Resource, hub_cache, nvidia_gpus, resources, weights_folder
from ablate.study import Settings, Study
from tests import studies

SETTINGS: Settings = {
    "model.vision": "tiny/dino",
    "model.language": "org/model",
    "data.root": "data",
    "eval.set": "val",
    "train.keep_checkpoints": 2,
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return studies.study(settings=SETTINGS, path=tmp_path / "runs.toml", wandb=True)


def said(study: Study, what: str, jobs: int = 3) -> list[Resource]:
    folders = Folders(study.path.parent / "outputs", study.name, study.profile)
    return [one for one in resources(study, folders, jobs) if one.what == what]


def model(folder: Path, size: int = 1000) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"0" * (size - 2))
    return folder


def test_gpus_that_are_not_here_are_said_and_no_error(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvidia_gpus("libnot-there.so.1") is None
    monkeypatch.setattr(module, "nvidia_gpus", lambda: None)
    assert said(study, "gpus")[0].level == "note"
    assert "NVML is not here" in said(study, "gpus")[0].says
    monkeypatch.setattr(module, "nvidia_gpus", lambda: (80.0,))
    assert said(study, "gpus") == [Resource("gpus", "", "flag", "a job takes 2, this machine has 1 (80 GiB)")]
    monkeypatch.setattr(module, "nvidia_gpus", lambda: (80.0, 80.0))
    assert said(study, "gpus")[0].level == ""


def test_weights_are_looked_for_where_a_trainer_looks(study: Study) -> None:
    root = study.path.parent
    cache = root / "outputs" / ".cache"
    assert [(one.name, one.level) for one in said(study, "weights")] == [("tiny/dino", "note"), ("org/model", "flag")]
    assert "hf download org/model --local-dir weights/org/model" in said(study, "weights")[1].says
    model(cache / "tiny" / "dino-untrained-0123456789ab")
    assert weights_folder(study, "tiny/dino", cache) is None, "untrained ones are others"
    tiny = model(cache / "tiny" / "dino-0123456789ab")
    assert weights_folder(study, "tiny/dino", cache) == tiny
    hub = model(root / "hf" / "hub" / "models--org--model" / "snapshots" / "abc")
    assert weights_folder(study, "org/model", cache) == hub
    local = model(root / "weights" / "org" / "model")
    assert weights_folder(study, "org/model", cache) == local
    assert [one.level for one in said(study, "weights")] == ["", ""]
    for file in local.glob("*.safetensors"):
        file.unlink()
    assert [one.level for one in said(study, "weights")] == ["", "flag"]
    assert "a download broken off?" in said(study, "weights")[1].says


def test_the_hubs_cache_is_where_its_variables_say() -> None:
    assert hub_cache({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}) == Path("/a")
    assert hub_cache({"HF_HOME": "/b"}) == Path("/b/hub")
    assert hub_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert hub_cache({}) == Path.home() / ".cache/huggingface/hub"


def manifest(path: Path, *contents: str, root: Path | None = None) -> None:
    """root: the data folder it says it was drawn from, seen from the cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"content": list(contents)})
    pq.write_table(table.replace_schema_metadata({"root": os.path.relpath(root, path.parents[1])}) if root else table, path)


def test_held_out_samples_that_were_drawn_for_training_are_flagged(study: Study) -> None:
    root = study.path.parent
    assert said(study, "data")[0].level == "flag"
    (root / "data" / "shards").mkdir(parents=True)
    (root / "data" / "shards" / "a.tar").write_bytes(b"0" * 2048)
    data, held_out = said(study, "data")
    assert (data.level, data.says) == ("", "data.root: 1 shard (2.0 KiB)")
    assert (held_out.level, held_out.says.endswith("sets there: none")) == ("flag", True)
    manifest(root / "data" / "manifests" / "val.parquet", "x", "y")
    assert said(study, "data")[1].says == "eval.set: 2 contents held out; no training manifest is drawn yet"
    drawn = root / "outputs" / ".cache" / "manifests"
    manifest(drawn / "1.parquet", "a", "b", root=root / "data")
    manifest(drawn / "2.parquet", "x", root=root / "outputs" / ".cache" / "fingerprint" / "toy")
    manifest(drawn / "2b.parquet", "x")
    assert said(study, "data")[1].says == "eval.set: 2 contents held out; none is in the 1 training manifests drawn so far"
    manifest(drawn / "3.parquet", "a", "x", root=root / "data")
    assert said(study, "data")[1] == Resource(
        "data",
        "val",
        "flag",
        f"eval.set: 1 of 2 held-out contents are in {drawn / '3.parquet'} too, drawn before this set was: a job that trained on "
        "it and is judged by this set has seen the answers",
    )


def test_every_set_that_a_row_is_judged_on_is_looked_at(study: Study) -> None:
    root, row = study.path.parent / "data", next(iter(study.runs.values()))
    study = replace(study, runs={**study.runs, "other": replace(row, name="other", changes={"eval.set": "images"})})
    (root / "shards").mkdir(parents=True)
    manifest(root / "manifests" / "val.parquet", "x")
    manifest(root / "manifests" / "images.parquet", "y")
    manifest(root / "manifests" / "unused.parquet", "z")
    manifest(root.parent / "outputs" / ".cache" / "manifests" / "1.parquet", "y", "z", root=root)
    assert [(one.name, one.level) for one in said(study, "data")[1:]] == [("val", ""), ("images", "flag")]


def test_disk_is_measured_by_jobs_that_ended_else_guessed_from_the_weights(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    root = study.path.parent
    assert said(study, "disk")[0].says.endswith("what a job needs is not known before one has ended")
    model(root / "weights" / "org" / "model", 2048)
    model(root / "outputs" / ".cache" / "tiny" / "dino-0123456789ab", 1024)
    assert said(study, "disk")[0].says.endswith("3 jobs to come need about 54.0 KiB (2 checkpoints of 3 × the weights each)")
    job = root / "outputs" / "small" / "full" / "F3-s42-00000000"
    (job / "1").mkdir(parents=True)
    (job / "job.json").write_text("{}")
    (job / "1" / "result.json").write_text("0" * 1022)
    assert said(study, "disk")[0].says.endswith("3 jobs to come need about 3.0 KiB (as the 1 that ended)")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _place: type("Usage", (), {"free": 3100})())
    assert said(study, "disk")[0].level == "flag"


def test_wandb_is_online_with_a_key_and_offline_without(study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert said(study, "wandb")[0].says.startswith("no key")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert said(study, "wandb")[0].says == "a key is here: runs are mirrored while they train"
    (tmp_path / "netrc").write_text("machine\n")
    assert said(study, "wandb")[0].level == "note"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert said(study, "wandb")[0].level == ""
    assert "secret" not in said(study, "wandb")[0].says
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert said(study, "wandb")[0].says.startswith("offline")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert said(study, "wandb")[0].level == "note"
    assert not said(replace(study, wandb=False), "wandb")
