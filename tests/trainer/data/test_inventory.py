"""The inventory is the seed's table: datasets with their samples, the share of video, and what is missing."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainer.data.hostile import BAD, chat, images, picture, write_tar
from trainer import index as index_file
from trainer.config import ConfigError, TrainConfig
from trainer.data import inventory
from trainer.data.inventory import configs, lines, take
from trainer.data.manifests import draw_validation, read_mix
from trainer.data.tokenizer import load_tokenizer


def run(root: Path, samples: int, **mix: float) -> TrainConfig:
    start = TrainConfig()
    return replace(
        start,
        train=replace(start.train, samples=samples),
        data=replace(start.data, root=str(root), mix=mix),
        eval=replace(start.eval, set="val_few"),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """20 images of Cauldron, 12 clips of two sources of Vript, 8 texts of SmolTalk, 6 of nobody's; one bad image."""
    folder = tmp_path / "data" / "shards"
    write_tar(folder / "cauldron-000.tar", [*images(0, 20), *BAD["b-picture"][0]])
    for source, count, first in (("vript_short", 8, 300), ("vript_long", 4, 320)):
        clips = [
            pair
            for i in range(count)
            for pair in (
                (f"{source}{i}.json", json.dumps({"caption": f"{i}", "source": source, "frame_count": 2}).encode()),
                (f"{source}{i}.000.jpg", picture(first + i)),
                (f"{source}{i}.001.jpg", picture(first + i)),
            )
        ]
        write_tar(folder / f"{source}-000.tar", clips)
    texts = [("smoltalk", i) for i in range(8)] + [("own", 10 + i) for i in range(6)]
    write_tar(folder / "texts-000.tar", [(f"{source}{i}.json", chat(f"{i}", source=source)) for source, i in texts])
    return folder.parent


def index(root: Path, tmp_path: Path) -> None:
    index_file.index(sorted((root / "shards").glob("*.tar")), load_tokenizer("tiny/llama", tmp_path), 1, lambda _: None)


def test_datasets_that_are_known_stand_with_type_and_stage(root: Path, tmp_path: Path) -> None:
    index(root, tmp_path)
    told = take(root, {}, tmp_path)
    there = {row.dataset: (row.samples, row.type, row.stage, row.status, row.bad) for row in told.held if row.samples}
    assert there == {
        "Cauldron": (20, "Image QA", "1, 2, 3", "ready", 1),
        "Vript": (12, "Video caption", "1, 3", "ready", 0),
        "SmolTalk": (8, "Text-only", "all", "ready", 0),
        "own": (6, "Text", "–", "ready", 0),
    }
    assert "RLAIF-V" in {row.dataset for row in told.held if row.status == "absent"}
    assert (told.samples, told.video_share, told.met) == (46, 12 / 46, True)
    assert lines(told)[0].split() == ["dataset", "samples", "type", "stage", "twice", "bad", "status"]
    assert any(line.split()[:4] == ["total", "46", "video", "26.1%"] for line in lines(told))


def test_needs_are_met_or_it_is_said_what_is_missing(root: Path, tmp_path: Path) -> None:
    index(root, tmp_path)
    missing_set = take(root, {"F3": run(root, 20, video=0.3, image=0.5, text=0.2)}, tmp_path)
    (need, *others) = missing_set.needs
    assert (need.what, need.met) == ("validation set val_few", False)
    assert need.why == "there is none of this name (none at all); draw it: `ablate data manifest val_few`"
    assert all(one.met for one in others)
    draw_validation(root, "val_few", {"video": 0.5, "image": 0.5}, 4, 0, "tiny/llama", tmp_path, 512)
    runs = {
        "F3": run(root, 20, video=0.3, image=0.5, text=0.2),
        "D1": run(root, 20, video=0.55, image=0.3, text=0.15),
        "elsewhere": run(tmp_path, 1000, video=1.0),
    }
    told = take(root, runs, tmp_path)
    assert [(need.runs, need.what) for need in told.needs if not need.met] == [(("D1",), "11 of video")]
    assert next(need.why for need in told.needs if not need.met).startswith(
        "10 are free, 1 are missing; there are image/cauldron"
    )
    again = replace(runs["D1"], data=replace(runs["D1"].data, repeat=True))
    assert take(root, {"D1": again}, tmp_path).met


def test_a_shard_that_came_later_is_told_and_is_a_need(root: Path, tmp_path: Path) -> None:
    index(root, tmp_path)
    write_tar(root / "shards" / "openvid-000.tar", images(90, 2))
    told = take(root, {"F3": run(root, 4, image=1.0)}, tmp_path)
    assert next(row.status for row in told.held if row.dataset == "OpenVid-1M") == "1 shards not indexed"
    need = next(need for need in told.needs if need.what == "an index of all shards")
    assert need.why == f"openvid-000.tar not indexed, 1 in all: run `python -m trainer.index {root}`"


def test_a_validation_set_whose_samples_have_changed_is_no_longer_met(root: Path, tmp_path: Path) -> None:
    index(root, tmp_path)
    draw_validation(root, "val_few", {"image": 1.0}, 4, 0, "tiny/llama", tmp_path, 512)
    assert take(root, {"F3": run(root, 4, image=1.0)}, tmp_path).met
    write_tar(root / "shards" / "cauldron-000.tar", images(500, 20))
    index(root, tmp_path)
    need, _ = take(root, {"F3": run(root, 4, image=1.0)}, tmp_path).needs
    assert (need.what, need.met) == ("validation set val_few", False)
    assert need.why.startswith("4 of its 4 samples are bad, changed or gone; restore their shards")


def test_a_small_folder_without_an_index_is_read_through(world: tuple[Path, Path]) -> None:
    told = take(world[0], {}, world[1])
    assert (told.indexed, told.samples) == (False, 130)
    assert {row.dataset: row.samples for row in told.held} == {"relay": 40, "words": 40, "sparse": 30, "crowded": 20}
    assert set(told.validation) == {"val_tiny", "val_images"}


def test_a_big_folder_without_an_index_is_not_read(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "MOST_READ_BYTES", 1)
    told = take(world[0], {}, tmp_path)
    assert told.samples == 0
    assert {row.dataset: row.status for row in told.held if row.status != "absent"} == {
        "relay": "3 shards not indexed",
        "words": "3 shards not indexed",
        "sparse": "2 shards not indexed",
        "crowded": "2 shards not indexed",
    }


def test_an_empty_folder_lacks_everything(tmp_path: Path) -> None:
    told = take(tmp_path, {"F3": run(tmp_path, 10, video=1.0)}, tmp_path)
    assert {row.status for row in told.held} == {"absent"}
    assert [need.met for need in told.needs] == [False, False]


def test_the_command_prints_a_document_and_says_3_for_unmet_needs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"F3": {"data": {"root": str(root), "mix": {"video": 1.0}}, "train": {"samples": 99}}}
    index(root, tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(settings)))
    assert inventory.main(["--root", str(root), "--cache", str(tmp_path), "--runs", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["met"] is False


def test_it_does_without_torch() -> None:
    code = "import sys; from trainer.data import inventory; print({'torch', 'transformers', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_settings_that_cannot_be_are_told_by_run() -> None:
    with pytest.raises(ConfigError, match=r"^F3: there is no setting data.'mixx'"):
        configs({"F3": {"data": {"mixx": {}}}})
    with pytest.raises(ConfigError, match=r"^F3: data.mix = .*: shares must be above 0 and sum to 1"):
        configs({"F3": {"data": {"mix": {"video": 0.5}}}})


def test_a_mix_is_read_from_the_command_line() -> None:
    assert read_mix("video=0.55, image/cauldron=0.31,text=0.14") == {"video": 0.55, "image/cauldron": 0.31, "text": 0.14}
    with pytest.raises(ConfigError, match=r"^--mix 'video=half': 'video=half' is not NAME=SHARE"):
        read_mix("video=half")
    with pytest.raises(ConfigError, match=r"must be above 0 and sum to 1 \(they sum to 0.9\)"):
        read_mix("video=0.5,text=0.4")
