"""A data folder is indexed once: in parallel as in turn, going on where it stopped, and every run believes the result."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.trainer.data.hostile import BAD, chat, images, mixed_members, picture, write_tar
from trainer import index as index_file
from trainer.config import TrainConfig
from trainer.data import indexed
from trainer.data.examine import Stopped
from trainer.data.indexed import content_hash, index_path, part_path, read_index, stale_shards
from trainer.data.manifest import validation, write_manifest
from trainer.data.manifests import draw_training, draw_validation
from trainer.data.open import open_data
from trainer.data.shards import DataError
from trainer.data.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer("tiny/llama", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three shards of 12 images each, and one of bad and good samples in turn; two images are there twice."""
    folder = tmp_path / "data"
    for number in range(3):
        write_tar(folder / "shards" / f"images-{number:02d}.tar", images(12 * number, 12))
    again = [("again-1.json", chat("5")), ("again-1.jpg", picture(5)), ("i005.json", chat("1 2")), ("i005.jpg", picture(5))]
    write_tar(folder / "shards" / "mixed-00.tar", [*mixed_members(), *again])
    return folder


def shards(root: Path) -> list[Path]:
    return sorted((root / "shards").glob("*.tar"))


def index(root: Path, tokenizer: Tokenizer, workers: int = 1) -> tuple[dict[str, object], list[str]]:
    """(report, what was said)"""
    said: list[str] = []
    return index_file.index(shards(root), tokenizer, workers, said.append), said


def test_the_report_counts_sources_kinds_duplicates_and_bad_samples(root: Path, tokenizer: Tokenizer) -> None:
    report, _ = index(root, tokenizer)
    good = 36 + len(BAD) + 4 + 1
    assert (report["samples"], report["bad"], report["duplicates"]) == (good, len(BAD) + 1, 1)
    sources = report["sources"]
    assert isinstance(sources, dict)
    assert set(sources) == {"cauldron", "mixed", "openvid", "rlaif_v", "smoltalk"}
    assert sources["smoltalk"]["kinds"] == {"text": 2}
    assert sources["smoltalk"]["forms"] == {"chat": 1, "tokens": 1}
    assert sources["rlaif_v"]["forms"] == {"preference": 1}
    assert sources["mixed"]["bad"] == len(BAD)
    bad = pq.read_table(root / "index" / "bad.parquet").to_pylist()
    assert {row["key"] for row in bad} == {*BAD, "i005"}
    assert next(row["reason"] for row in bad if row["key"] == "i005").startswith(
        "another shard or source has a sample of this name"
    )
    assert json.loads((root / "index" / "report.json").read_text()) == report
    lines = index_file.told(report)
    assert any(line.startswith("cauldron ") for line in lines)
    assert any("a picture cannot be decoded" in line for line in lines)


def test_many_processes_write_the_same_index_as_one(root: Path, tokenizer: Tokenizer) -> None:
    alone, _ = index(root, tokenizer)
    table = read_index(root)
    shutil.rmtree(root / "index")
    together, _ = index(root, tokenizer, workers=2)
    assert together == alone
    assert read_index(root).equals(table)


def test_what_was_done_before_a_stop_is_not_done_again(root: Path, tokenizer: Tokenizer) -> None:
    calls = iter([False] * 13 + [True] * 99)  # in the middle of the second shard
    with pytest.raises(Stopped):
        index_file.index(shards(root), tokenizer, 1, lambda _: None, lambda: next(calls))
    assert [path.exists() for path in (part_path(root, "images-00.tar"), index_path(root))] == [True, False]
    _, said = index(root, tokenizer)
    assert said[0].startswith(f"{root}: 4 shards, 1 of them known; 1 processes")


def test_a_shard_that_is_still_being_written_is_read_again(root: Path, tokenizer: Tokenizer) -> None:
    growing = root / "shards" / "images-01.tar"
    whole = growing.read_bytes()
    growing.write_bytes(whole[: len(whole) // 2])

    def goes_on() -> bool:
        growing.write_bytes(whole)
        return False

    first = index_file.index([growing], tokenizer, 1, lambda _: None, goes_on)
    assert stale_shards(root)["images-01.tar"] == "changed since"
    assert index_file.index([growing], tokenizer, 1, lambda _: None)["samples"] == 12 > first["samples"]


def test_calls_on_one_folder_take_turns(root: Path, tokenizer: Tokenizer) -> None:
    (root / "index").mkdir()
    said: list[str] = []
    with (root / "index" / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Stopped):
            index_file.index(shards(root), tokenizer, 1, said.append, lambda: bool(said))
    assert said == [f"{root}: another call is indexing it; waiting for that to end"]
    assert index(root, tokenizer)[0]["shards"] == 4


def test_half_a_file_of_an_index_is_made_again_or_told(root: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    whole, _ = index(root, tokenizer)
    held_out(root, tmp_path)
    part_path(root, "images-01.tar").write_bytes(b"PAR1")
    assert "4 shards, 3 of them known" in index(root, tokenizer)[1][0]
    index_path(root).write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"index.parquet: is no file of an index; remove it and run"):
        open_data(settings(root), 42, tmp_path)
    assert index(root, tokenizer)[0]["hash"] == whole["hash"]
    (root / "manifests" / "val_few.parquet").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match=r"val_few.parquet: is no Parquet file"):
        open_data(settings(root), 42, tmp_path)


def test_only_a_shard_that_changed_is_read_again(root: Path, tokenizer: Tokenizer) -> None:
    before, _ = index(root, tokenizer)
    os.utime(shards(root)[0], (1, 1))  # as a copy to another disk leaves it
    assert stale_shards(root) == {"images-00.tar": "changed since"}
    again, said = index(root, tokenizer)
    assert again == before
    assert said[0].startswith(f"{root}: 4 shards, 4 of them known")
    assert stale_shards(root) == {}
    write_tar(shards(root)[0], images(0, 11))
    changed, said = index(root, tokenizer)
    assert said[0].startswith(f"{root}: 4 shards, 3 of them known")
    assert changed["hash"] != before["hash"]


def test_the_hash_is_of_the_samples_and_not_of_where_they_lie(root: Path, tokenizer: Tokenizer) -> None:
    write_tar(root / "shards" / "mixed-00.tar", images(90, 2))
    before, _ = index(root, tokenizer)
    first, *_ = shards(root)
    first.rename(first.with_name("renamed.tar"))
    after, _ = index(root, tokenizer)
    assert after["hash"] == before["hash"] == content_hash(read_index(root))


def test_a_killed_call_is_taken_up_by_the_next(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainer.index", str(root), "--tokenizer", "tiny/llama", "--cache", str(tmp_path / "cache")]
    with subprocess.Popen([*command, "--workers", "1"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()  # it has begun
        process.send_signal(signal.SIGKILL)
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["shards"] == 4
    assert stale_shards(root) == {}


def test_shards_of_no_data_folder_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "a.tar", images(0, 1))
    arguments = [str(tmp_path / "a.tar"), "--tokenizer", "tiny/llama", "--cache", str(tmp_path)]
    assert index_file.main(arguments) == 2
    said = capsys.readouterr().err
    assert (
        said == f"Error: {tmp_path}/a.tar: is no shard of a data folder; shards are ROOT/shards/NAME.tar, and ROOT is data.root\n"
    )


def settings(root: Path, samples: int = 20, **mix: float) -> TrainConfig:
    start = TrainConfig()
    return replace(
        start,
        model=replace(start.model, vision="tiny/dino", language="tiny/llama"),
        train=replace(start.train, samples=samples, batch_samples=4, precision="float32"),
        data=replace(start.data, root=str(root), mix=mix or {"image": 1.0}, workers=0),
        eval=replace(start.eval, set="val_few"),
    )


def held_out(root: Path, cache: Path) -> None:
    draw_validation(root, "val_few", {"image": 0.8, "text": 0.2}, 5, 0, "tiny/llama", cache, 512)


def test_a_run_draws_from_the_index_and_never_meets_a_bad_sample(root: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    index(root, tokenizer)
    held_out(root, tmp_path)
    data = open_data(settings(root, 36 + len(BAD) - 4), 42, tmp_path)
    drawn = data.train.samples.manifest.entries()
    assert not {entry.key for entry in drawn} & {*BAD, "g-pair"}
    assert "again-1" not in {entry.key for entry in drawn}
    batches = list(data.train.loaded([data.train.global_batch(step) for step in range(len(drawn) // 4)]))
    assert sum(batch.frames.shape[0] for batch in batches) == len(drawn) // 4 * 4
    assert len(data.val) == 5


def test_an_index_that_does_not_fit_its_shards_is_refused(root: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    index(root, tokenizer)
    held_out(root, tmp_path)
    write_tar(root / "shards" / "new-00.tar", images(80, 2))
    message = f"{root}: the index does not fit its shards: new-00.tar not indexed, 1 in all; run `python -m trainer.index {root}`"
    with pytest.raises(DataError) as error:
        open_data(settings(root), 42, tmp_path)
    assert str(error.value) == message


def test_an_index_of_other_rules_is_made_anew(root: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    index(root, tokenizer)
    monkeypatch.setattr(indexed, "VERSION", indexed.VERSION + 1)
    assert stale_shards(root) == dict.fromkeys((path.name for path in shards(root)), "was judged by other rules")
    assert "4 shards, 0 of them known" in index(root, tokenizer)[1][0]
    assert stale_shards(root) == {}


def test_a_text_whose_answer_lies_behind_the_cut_is_not_drawn(root: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    late = {"loss_mask": [0] * 20 + [1] * 10, "source": "late"}
    texts = [(f"t{i}.json", json.dumps(late | {"token_ids": [5, i] * 15}).encode()) for i in range(9)]
    write_tar(root / "shards" / "late-00.tar", texts)
    index(root, tokenizer)
    held_out(root, tmp_path)
    config = settings(root, 4, **{"text/late": 1.0})
    assert len(open_data(config, 42, tmp_path).train.samples) == 4
    short = replace(config, data=replace(config.data, max_text_tokens=20))
    with pytest.raises(DataError, match="asks for 4 samples of 'text/late', and there are 0 outside"):
        open_data(short, 42, tmp_path)


def test_the_overlap_with_validation_is_reported(root: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    index(root, tokenizer)
    held_out(root, tmp_path)
    twin = next(entry for entry in validation(root, "val_few").entries() if entry.kind == "image")
    write_manifest(root / "manifests" / "val_twin.parquet", [replace(twin, key="another name")])
    report, _ = index(root, tokenizer)
    assert report["held_out"] == {
        "val_few": {"samples": 5, "same_name": 5, "same_content_only": 0},
        "val_twin": {"samples": 1, "same_name": 0, "same_content_only": 1},
    }


def test_a_validation_set_is_drawn_once_and_never_overwritten(root: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    index(root, tokenizer)
    arguments = (root, "val_few", {"image": 0.6, "text": 0.1, "video": 0.3}, 3, 0, "tiny/llama", tmp_path, 512)
    first = draw_validation(*arguments)
    assert first["kinds"] == {"video": 1, "image": 2}
    assert draw_validation(*arguments) == first
    with pytest.raises(DataError, match=r"val_few.parquet holds other samples than this draw \(hash "):
        draw_validation(*arguments[:4], 1, *arguments[5:])
    assert validation(root, "val_few").hash == first["hash"]


def test_training_manifests_say_who_shares_them_and_what_stands_in_them_again(
    root: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    index(root, tokenizer)
    held_out(root, tmp_path)
    plain = settings(root, 20, image=0.95, text=0.05)
    often = replace(plain, train=replace(plain.train, samples=200), data=replace(plain.data, repeat=True))
    shown = replace(plain, data=replace(plain.data, replicate_image_frames=4))
    told = draw_training({"F3": plain, "A8b": shown, "R": often}, tmp_path)
    assert [(one["runs"], one["samples"], one["again"] > 0) for one in told] == [(["F3", "A8b"], 20, False), (["R"], 200, True)]
    assert told[0]["hash"] == open_data(plain, 7, tmp_path).manifest_hash
    assert told[1]["kinds"] == {"image": 190, "text": 10}
