"""Pictures and a question → what a model takes: the pixels and tokens that training would have made of them.

B samples, U distinct frames, T frames shown, S text tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.feature_extraction_utils import BatchFeature

from trainer.data.frames import Look, shown
from trainer.data.pictures import Pixels, as_rgb, decode, fitted
from trainer.data.shards import DataError, Kind
from trainer.data.tokenizer import KIND_PROMPTS, Tokenizer, open_tokenizer
from trainer.weights import found_folder

FILE = "processor_config.json"

Frame = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]
"""The path or the bytes of a JPEG or PNG, a PIL image, or an array [H, W, 3]."""
Pictures = Frame | Sequence[Frame] | None
"""Of one sample: an image, or the frames of a clip in a list (or array [T, H, W, 3]), or none."""


class FoveatedProcessor:
    """Used and saved like a processor of `transformers`; there is one in a trained model's folder.

    max_frames: of a longer clip, so many are shown, evenly spaced. image_frames: an image is shown as so many frames.
    """

    def __init__(self, tokenizer: Tokenizer, look: Look, max_frames: int = 64, image_frames: int = 1) -> None:
        self.tokenizer, self.look = tokenizer, look
        self.max_frames, self.image_frames = max_frames, image_frames

    def __call__(
        self,
        images: Pictures | Sequence[Pictures] = None,
        text: str | Sequence[str | None] | None = None,
        return_tensors: Literal["pt"] = "pt",
    ) -> BatchFeature:
        """One sample, or a batch of them when `text` is a list; then `images` is a list of as many.

        text: what the user says; nothing asks for a description. Frames are taken as they come: training had one per second.

        Returns pixel_values [U, 3, H, W] float32, frame_of [B, T] (which of them is shown when; -1: none), input_ids [B, S] and
        attention_mask [B, S], padded right. Raises DataError for a picture that cannot be used.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors = {return_tensors!r}: only 'pt' (torch) is made here")
        if text is None or isinstance(text, str):
            return self._batch([_sample(images)], [text])
        if not text:
            raise DataError("a batch without a text: give one text, or None, per sample")
        samples: Any = [None] * len(text) if images is None else images
        if len(samples) != len(text):
            raise DataError(f"{len(text)} texts for {len(samples)} samples of images; a batch has one of each, None for no image")
        return self._batch([_sample(pictures) for pictures in samples], text)

    def _batch(self, samples: Sequence[tuple[Kind, list[Frame]]], texts: Sequence[str | None]) -> BatchFeature:
        pixels: list[Pixels] = []
        frame_of: list[Tensor] = []
        for i, (kind, frames) in enumerate(samples):
            which = shown(len(frames), self.max_frames)
            places = torch.arange(len(pixels), len(pixels) + len(which))
            frame_of.append(places.repeat_interleave(self.image_frames if kind == "image" else 1))
            pixels += [self._pixels(frames[place], f"frame {place} of sample {i}") for place in which]
        prompts = [torch.tensor(self.tokenizer.prompt(t or KIND_PROMPTS[k])) for (k, _), t in zip(samples, texts, strict=True)]
        stacked = np.stack(pixels) if pixels else np.empty((0, 3, self.look.size, self.look.size), np.uint8)
        return BatchFeature(
            {
                "pixel_values": self.look.normalised(torch.from_numpy(stacked)),
                "frame_of": pad_sequence(frame_of, batch_first=True, padding_value=-1),
                "input_ids": pad_sequence(prompts, batch_first=True, padding_value=self.tokenizer.pad_id),
                "attention_mask": pad_sequence([torch.ones_like(ids) for ids in prompts], batch_first=True),
            }
        )

    def _pixels(self, frame: Frame, named: str) -> Pixels:
        """[3, size, size]"""
        if isinstance(frame, str | Path):
            if not Path(frame).is_file():
                raise DataError(f"{named}: there is no file {str(frame)!r}")
            return decode(Path(frame).read_bytes(), self.look.size, str(frame))
        if isinstance(frame, bytes):
            return decode(frame, self.look.size, named)
        array: Pixels = as_rgb(frame) if isinstance(frame, Image.Image) else np.asarray(frame)
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
            raise DataError(f"{named}: an array of shape {array.shape} and type {array.dtype}; it must be [H, W, 3] of uint8")
        return fitted(array, self.look.size)

    def pixels(self, pixel_values: Tensor) -> Tensor:
        """The uint8 pixels that `pixel_values` [..., 3, H, W] were made of."""
        mean, std = (torch.tensor(its, device=pixel_values.device)[:, None, None] for its in (self.look.mean, self.look.std))
        return ((pixel_values * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Words only: special tokens are left out."""
        return self.tokenizer.decode([int(token) for token in ids])

    def batch_decode(self, ids: Sequence[Sequence[int]] | Tensor) -> list[str]:
        return [self.decode(row) for row in ids]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write processor_config.json and the tokenizer's files into `folder`, which is there then."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder)
        its = {"max_frames": self.max_frames, "image_frames": self.image_frames}
        said = {"processor_class": type(self).__name__, "look": asdict(self.look), **its}
        (folder / FILE).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, name: str | Path, **_ours_needs_none: object) -> FoveatedProcessor:
        """From a folder that `save_pretrained` wrote, found as the weights are; other arguments are AutoProcessor's.

        Raises ConfigError when there is none or a file of it is missing.
        """
        folder = found_folder(f"processor {str(name)!r}", str(name), FILE, "tokenizer.json", "tokenizer_config.json")
        said = json.loads((folder / FILE).read_text(encoding="utf-8"))
        look = Look(said["look"]["size"], tuple(said["look"]["mean"]), tuple(said["look"]["std"]))
        return cls(open_tokenizer(str(name), str(folder)), look, said["max_frames"], said["image_frames"])


def _sample(pictures: Any) -> tuple[Kind, list[Frame]]:
    """(kind, frames): an image and a clip of one frame are two things, as they were in training."""
    if pictures is None:
        return "text", []
    if _one(pictures):
        return "image", [pictures]
    frames = list(pictures) if isinstance(pictures, Iterable) else []
    if not frames or not all(_one(frame) for frame in frames):
        raise DataError(
            f"a clip must be a list of pictures, at least one, not {type(pictures).__name__} of {len(frames)}; "
            "for a batch, give `text` as a list as well"
        )
    return "video", frames


def _one(value: object) -> TypeGuard[Frame]:
    if isinstance(value, np.ndarray):
        return value.ndim != 4
    return isinstance(value, str | Path | bytes | Image.Image)
