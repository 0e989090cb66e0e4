"""Pictures and a question, as a model takes them."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.config import ConfigError, TrainConfig
from trainer.data.frames import RELAY
from trainer.data.open import Data, open_data
from trainer.data.processor import FoveatedProcessor, Frame, Pictures
from trainer.data.shards import DataError, Kind, read_entry
from trainer.data.tokenizer import SYSTEM_PROMPT, Tokenizer
from trainer.model.packing import pack

CPU = torch.device("cpu")


def processor_of(data: Data, config: TrainConfig) -> FoveatedProcessor:
    return FoveatedProcessor(data.tokenizer, data.look, config.data.max_frames, config.data.replicate_image_frames)


def asked(data: Data, row: int) -> tuple[Kind, tuple[bytes, ...], str | None]:
    """(kind, encoded pictures, question) of a validation sample, as its shard has them."""
    entry = data.val.samples.manifest.entry(row)
    sample = read_entry(data.shards, entry)
    return entry.kind, sample.pictures, sample.meta.get("user")


@pytest.mark.parametrize(("most", "times"), [(64, 1), (4, 3)])
def test_a_sample_is_made_of_the_bits_that_training_makes_of_it(
    world: tuple[Path, Path], config: TrainConfig, most: int, times: int
) -> None:
    config = replace(config, data=replace(config.data, max_frames=most, replicate_image_frames=times))
    data = open_data(config, 42, world[1])
    processor = processor_of(data, config)
    compared: set[Kind] = set()
    for row in range(len(data.val)):
        kind, pictures, user = asked(data, row)
        if user is None:
            continue  # token ids: the shard does not say what was asked
        inputs = processor(None if kind == "text" else pictures[0] if kind == "image" else list(pictures), user)
        trained = pack(data.val.load([row]), 1, CPU)
        assert torch.equal(inputs["pixel_values"], trained.frames)
        assert inputs["frame_of"].tolist() == [trained.frame.tolist()]
        assert inputs["input_ids"].tolist() == [data.val.prompt(row)]
        compared.add(kind)
    assert compared == {"video", "image", "text"}


def test_a_batch_is_its_samples_side_by_side(world: tuple[Path, Path], config: TrainConfig) -> None:
    data = open_data(config, 42, world[1])
    processor = processor_of(data, config)
    rows = [data.val.rows("video")[0], data.val.rows("image")[0], data.val.rows("text")[0]]
    said = [asked(data, row) for row in rows]
    samples: list[Pictures] = [list(said[0][1]), said[1][1][0], None]
    texts = [said[0][2], said[1][2], "repeat : 1 2"]
    inputs = processor(samples, texts)
    assert inputs["frame_of"].tolist() == [[0, 1, 2, 3, 4, 5], [6, *[-1] * 5], [-1] * 6]
    alone = [processor(pictures, text) for pictures, text in zip(samples, texts, strict=True)]
    assert torch.equal(inputs["pixel_values"], torch.cat([its["pixel_values"] for its in alone]))
    for i, its in enumerate(alone):
        words = inputs["attention_mask"][i].bool()
        assert inputs["input_ids"][i][words].tolist() == its["input_ids"][0].tolist()
        assert not its["attention_mask"].eq(0).any()


def test_a_picture_is_the_same_however_it_is_given(tmp_path: Path, tiny: Tokenizer) -> None:
    array = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    image, file = Image.fromarray(array), io.BytesIO()
    image.save(file, "PNG")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    forms: list[Frame] = [array, image, file.getvalue(), tmp_path / "a.png", str(tmp_path / "a.png")]
    processor = FoveatedProcessor(tiny, RELAY)
    made = [processor(form, "how many ?")["pixel_values"] for form in forms]
    assert made[0].shape == (1, 3, RELAY.size, RELAY.size)
    assert all(torch.equal(its, made[0]) for its in made[1:])
    clip = processor(np.stack([array, array]), "how many ?")
    assert clip["frame_of"].tolist() == [[0, 1]]


def test_an_image_is_shown_as_often_as_in_training_and_a_clip_of_one_frame_is_not(tiny: Tokenizer) -> None:
    processor, picture = FoveatedProcessor(tiny, RELAY, image_frames=3), np.zeros((56, 56, 3), np.uint8)
    assert processor(picture, "how many ?")["frame_of"].tolist() == [[0, 0, 0]]
    assert processor([picture], "how many ?")["frame_of"].tolist() == [[0]]


def test_a_chat_begins_with_our_system_prompt_and_ends_where_the_answer_begins(chatml: Tokenizer) -> None:
    ids = FoveatedProcessor(chatml, RELAY)(None, "hello")["input_ids"][0].tolist()
    said = chatml.encode(f"<start> system {SYSTEM_PROMPT} <end> <start> user hello <end> <start> assistant")
    assert ids == said


def test_without_a_question_a_description_is_asked_for(chatml: Tokenizer) -> None:
    processor, picture = FoveatedProcessor(chatml, RELAY), np.zeros((56, 56, 3), np.uint8)
    inputs = processor([picture, [picture]], [None, ""])
    assert processor.batch_decode(inputs["input_ids"])[0].endswith("user Describe this image. <start> assistant")
    assert processor.batch_decode(inputs["input_ids"])[1].endswith("user Describe this video. <start> assistant")


@pytest.mark.parametrize(
    ("images", "text", "message"),
    [
        ("nowhere.jpg", "hello", "frame 0 of sample 0: there is no file 'nowhere.jpg'"),
        (b"no picture", "hello", "frame 0 of sample 0: a picture cannot be decoded (it is no whole JPEG or PNG)"),
        (np.zeros((8, 8)), "hello", "an array of shape (8, 8) and type float64; it must be [H, W, 3] of uint8"),
        (np.zeros((0, 8, 3), np.uint8), "hello", "an array of shape (0, 8, 3) and type uint8; it must be [H, W, 3]"),
        (5, "hello", "a clip must be a list of pictures, at least one, not int"),
        ([], "hello", "a clip must be a list of pictures, at least one, not list of 0"),
        ([[b""], [b""]], "hello", "for a batch, give `text` as a list as well"),
        ([None], ["hello", "a"], "2 texts for 1 samples of images"),
    ],
)
def test_what_cannot_be_used_is_told(tiny: Tokenizer, images: Pictures, text: str | list[str | None], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        FoveatedProcessor(tiny, RELAY)(images, text)


def test_only_torch_tensors_are_made(tiny: Tokenizer) -> None:
    with pytest.raises(ValueError, match="return_tensors = 'np': only 'pt'"):
        FoveatedProcessor(tiny, RELAY)(None, "hello", return_tensors="np")  # type: ignore[arg-type]  # on purpose


def test_a_saved_processor_makes_the_same(tmp_path: Path, chatml: Tokenizer) -> None:
    one = FoveatedProcessor(chatml, replace(RELAY, size=28), max_frames=2, image_frames=3)
    one.save_pretrained(tmp_path / "saved")
    two = FoveatedProcessor.from_pretrained(tmp_path / "saved")
    assert (two.look, two.max_frames, two.image_frames) == (one.look, 2, 3)
    assert two.tokenizer.hash == chatml.hash
    picture = np.full((56, 56, 3), 7, np.uint8)
    made = [processor([picture] * 3, "hello a cat") for processor in (one, two)]
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_a_folder_without_a_file_is_told(tmp_path: Path, chatml: Tokenizer) -> None:
    FoveatedProcessor(chatml, RELAY).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=re.escape(f"processor {str(tmp_path)!r}: {tmp_path} has no tokenizer.json")):
        FoveatedProcessor.from_pretrained(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(
        ConfigError, match=re.escape(f"processor {str(tmp_path)!r}: no such model; looked for processor_config.json")
    ):
        FoveatedProcessor.from_pretrained(tmp_path)
