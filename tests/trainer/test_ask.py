"""Asking a trained model from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainer.conftest import small_dino, small_llm
from trainer.ask import main
from trainer.config import ModelConfig
from trainer.data.frames import Look
from trainer.data.relay_texts import NUMBER
from trainer.data.tokenizer import load_tokenizer
from trainer.model.load import assemble
from trainer.pretrained import FoveatedProcessor, save

MULTI_TOKEN = ModelConfig(encoder="multi_token", tokens_per_frame=4)


def model_of(folder: Path, settings: ModelConfig) -> str:
    llm = small_llm()
    llm.resize_token_embeddings(len(NUMBER))
    processor = FoveatedProcessor(load_tokenizer("tiny/llama", folder / "cache"), Look(28, (0.5,) * 3, (0.5,) * 3))
    save(folder / "model", assemble(settings, small_dino(), llm, seed=0), settings, processor)
    return str(folder / "model")


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (56, 56, 3), np.uint8)).save(path)
    return [str(path) for path in paths]


def test_an_answer_is_printed_and_the_looks_are_drawn(
    tmp_path: Path, pictures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model, drawing = model_of(tmp_path, ModelConfig()), tmp_path / "looks.png"
    assert main([model, *pictures, "--question", "what digits do cues point at ?", "--most", "4", "--draw", str(drawing)]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1
    assert said.err == ""
    with Image.open(drawing) as opened:
        assert opened.size[1] > opened.size[0] * 0.7  # frames, coarse and fine: three rows of three
    assert main([model, pictures[0], "--mode", "autoregressive", "--most", "1"]) == 0


def test_a_mistake_is_one_line(tmp_path: Path, pictures: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(tmp_path, MULTI_TOKEN)
    for arguments, message in (
        (["nowhere", *pictures], "model 'nowhere': no such model; looked for config.json in nowhere/. Give a folder"),
        ([model, "nowhere.jpg"], "frame 0 of sample 0: there is no file 'nowhere.jpg'"),
        ([model, *pictures, "--draw", str(tmp_path / "no" / "x.png")], f"there is no folder '{tmp_path}/no'"),
        ([model, *pictures, "--draw", "x.xyz"], "--draw 'x.xyz': '.xyz' is no form of a picture; give .png or .jpg"),
        ([model, *pictures, "--draw", str(tmp_path / "x.png")], "a multi_token model has no queries, and looks nowhere"),
    ):
        assert main([*arguments, "--most", "1"]) == 2
        said = capsys.readouterr()
        assert said.err.startswith("Error: ")
        assert message in said.err
        assert len(said.err.splitlines()) == 1
