"""Ask a trained model about pictures, and draw where it looked: python -m trainer.ask MODEL PICTURE… [--question "…"]

MODEL is the `model/` folder of a finished run (or a name below weights/). One picture is an image, several are the frames of a
clip, in time. Without a question a description is asked for. --draw FILE.png draws where each pass looked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from PIL import Image
from transformers.utils import logging as transformers_logging

from trainer.config import ConfigError
from trainer.data.shards import DataError
from trainer.drawing import drawn
from trainer.pretrained import FoveatedProcessor, FoveatedVLM, Mode


def main(arguments: Sequence[str]) -> int:
    asked = _parser().parse_args(arguments)
    transformers_logging.disable_progress_bar()
    try:
        print(ask(asked.model, asked.pictures, asked.question, asked.mode, asked.most, asked.draw))
    except (ConfigError, DataError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.ask", description="ask a trained model about pictures")
    parser.add_argument("model", help="the model/ folder of a finished run")
    parser.add_argument("pictures", nargs="+", type=Path, help="JPEG or PNG: one image, or the frames of a clip in time")
    parser.add_argument("--question", help="what to ask; without it, for a description")
    parser.add_argument("--mode", choices=get_args(Mode), help="how to look; default: as it was trained")
    parser.add_argument("--most", type=int, default=64, help="tokens of an answer, at most (default 64)")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw where each pass looked, as a picture")
    return parser


@torch.no_grad()
def ask(
    name: str, pictures: Sequence[Path], question: str | None, mode: Mode | None = None, most: int = 64, draw: Path | None = None
) -> str:
    """The answer; with `draw` also a picture of the looks. Raises ConfigError, and DataError for a picture."""
    if draw is not None:
        _check_drawable(draw)
    model, processor = FoveatedVLM.from_pretrained(name), FoveatedProcessor.from_pretrained(name)
    inputs = processor(list(pictures) if len(pictures) > 1 else pictures[0], question)
    answer = processor.decode(model.generate(**inputs, mode=mode, max_new_tokens=most)[0])
    if draw is not None:
        seen = model(**inputs, mode=mode, output_attentions=True)
        passes = {"coarse": seen.coarse_looks, "fine": seen.looks} if seen.coarse_looks is not None else {"looks": seen.looks}
        if seen.looks is None:
            raise ConfigError(f"model {name!r}: a {model.config.encoder} model has no queries, and looks nowhere in particular")
        frames = processor.pixels(inputs["pixel_values"])[inputs["frame_of"][0]]
        drawn(frames.numpy(), passes).save(draw, optimize=True)
    return answer


def _check_drawable(file: Path) -> None:
    """Before anything is computed for it."""
    if not file.parent.is_dir():
        raise ConfigError(f"--draw {str(file)!r}: there is no folder {str(file.parent)!r}")
    if file.suffix.lower() not in Image.registered_extensions():
        raise ConfigError(f"--draw {str(file)!r}: {file.suffix!r} is no form of a picture; give .png or .jpg")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
