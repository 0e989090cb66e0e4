"""Encoded pictures → pixels: JPEG and PNG, within bounds, the same bits on every machine.

JPEGs are decoded by simplejpeg where it is installed: measured 1.4 times as fast as Pillow, with the same bits, because both are
libjpeg-turbo (benchmarks/RESULTS.md, "Data"; a test compares them). Pillow decodes the rest.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from trainer.data.shards import DataError

Pixels = npt.NDArray[np.uint8]
DECODER = "pillow" if importlib.util.find_spec("simplejpeg") is None else "simplejpeg"
_simplejpeg: Any = None if DECODER == "pillow" else importlib.import_module("simplejpeg")
MOST_SIDE = 8192
MOST_SCANS = 200
"""Of a progressive JPEG; encoders write about ten, and each one may cost as much time as a whole picture."""
SCAN = b"\xff\xda"
JPEG = b"\xff\xd8\xff"
BROKEN = (
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # where warnings are errors
    OSError,
    ValueError,  # simplejpeg on anything it warns of; Pillow on text chunks that swell
    SyntaxError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
)
"""What decoders raise on bytes made wrong by accident or by hand."""


def decode(picture: bytes, size: int, named: str) -> Pixels:
    """An encoded picture -> [3, size, size]; `named` says whose it is when it cannot be decoded (DataError)."""
    out = np.empty((3, size, size), np.uint8)
    decode_into(out, picture, named)
    return out


def decode_into(out: Pixels, picture: bytes, named: str) -> None:
    """The same into its place in a batch [3, size, size]: pixels are copied once, channels first as models take them."""
    out[...] = fitted(rgb(picture, named), out.shape[1])


def fitted(pixels: Pixels, size: int) -> Pixels:
    """[H, W, 3] -> [3, size, size], resampled where it has another size."""
    if pixels.shape[:2] != (size, size):
        pixels = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    return pixels.transpose(2, 0, 1)


def rgb(picture: bytes, named: str) -> Pixels:
    """An encoded picture -> [H, W, 3]. Raises DataError for what is broken, too big, or neither JPEG nor PNG."""
    try:
        if not picture.startswith(JPEG):
            return _by_pillow(picture, named)
        scans = picture.count(SCAN)
        if scans > MOST_SCANS:
            raise DataError(f"{named}: a JPEG of {scans} scans; at most {MOST_SCANS} are decoded")
        return _by_pillow(picture, named) if _simplejpeg is None else _by_simplejpeg(picture, named)
    except DataError:
        raise
    except UnidentifiedImageError as error:  # whose own message holds an address, another one in each process
        raise DataError(f"{named}: a picture cannot be decoded (it is no whole JPEG or PNG)") from error
    except BROKEN as error:
        raise DataError(f"{named}: a picture cannot be decoded ({error})") from error


def _by_simplejpeg(picture: bytes, named: str) -> Pixels:
    try:
        height, width, colours, _ = _simplejpeg.decode_jpeg_header(picture)
    except ValueError:
        return _by_pillow(picture, named)  # a rare subsampling; what is broken, Pillow says
    if colours not in ("YCbCr", "Gray"):
        return _by_pillow(picture, named)  # CMYK and its kin
    _bounded(width, height, named)
    pixels: Pixels = _simplejpeg.decode_jpeg(picture, "RGB")
    return pixels


def _by_pillow(picture: bytes, named: str) -> Pixels:
    with Image.open(io.BytesIO(picture), formats=("JPEG", "PNG")) as opened:
        _bounded(*opened.size, named)
        return as_rgb(opened)


def as_rgb(picture: Image.Image) -> Pixels:
    """[H, W, 3]. Of 16 bits the upper 8 count, in grey as in colours; Pillow alone would cut grey off at 255, and leave white."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return np.asarray(picture.convert("RGB"))


def _bounded(width: int, height: int, named: str) -> None:
    if max(width, height) > MOST_SIDE:
        raise DataError(f"{named}: a picture of {width}x{height} pixels; at most {MOST_SIDE} a side are decoded")
