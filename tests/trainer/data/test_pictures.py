"""Pictures decode to the same bits whoever decodes them, and bombs do not go off."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from trainer.data import pictures
from trainer.data.frames import DINOV2
from trainer.data.pictures import MOST_SCANS, SCAN, decode, rgb
from trainer.data.shards import DataError

NOISE = np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8)


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def png(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.skipif(pictures.DECODER == "pillow", reason="simplejpeg is not installed")
@pytest.mark.parametrize(
    "encoded",
    [jpeg(), jpeg(quality=95, subsampling=0), jpeg(subsampling=1), jpeg(progressive=True), jpeg("L"), jpeg("CMYK")],
    ids=["4:2:0", "4:4:4", "4:2:2", "progressive", "grey", "cmyk"],
)
def test_both_decoders_give_the_same_bits(encoded: bytes) -> None:
    assert (pictures._by_simplejpeg(encoded, "") == pictures._by_pillow(encoded, "")).all()


@pytest.mark.parametrize("shape", [(180, 320, 3), (448, 448, 3), (100, 90, 3)], ids=["wide", "twice as large", "small"])
def test_a_picture_of_another_size_becomes_what_dinov2s_image_processor_makes_of_it(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    square = {"height": DINOV2.size, "width": DINOV2.size}
    processor = BitImageProcessorPil(size=square, do_center_crop=False, image_mean=DINOV2.mean, image_std=DINOV2.std)
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    pixels = torch.from_numpy(decode(png(Image.fromarray(image)), DINOV2.size, "").copy())
    torch.testing.assert_close(DINOV2.normalised(pixels[None]), theirs, atol=1e-6, rtol=0)


def test_a_png_keeps_its_pixels_and_loses_its_transparency() -> None:
    image = Image.fromarray(NOISE)
    assert (rgb(png(image), "") == NOISE).all()
    image.putalpha(7)
    assert (rgb(png(image), "") == NOISE).all()


def test_sixteen_bits_of_grey_become_eight() -> None:
    grey = np.arange(60 * 50, dtype=np.uint16).reshape(60, 50) * 20
    assert (rgb(png(Image.fromarray(grey)), "") == (grey >> 8)[..., None]).all()


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is this big; a few bytes long."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def swelling_text() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 2**21, zip=True)
    return png(Image.new("RGB", (8, 8)), pnginfo=info)


def gif() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "GIF")
    return file.getvalue()


BAD = {
    "nothing": (b"", "a picture cannot be decoded"),
    "text": (b"not a picture", "a picture cannot be decoded"),
    "a jpeg that was cut": (jpeg()[:-300], "a picture cannot be decoded"),
    "a jpeg's first bytes": (jpeg()[:30], "a picture cannot be decoded"),
    "a png that was cut": (png(Image.fromarray(NOISE))[:-3000], "a picture cannot be decoded"),
    "a bomb": (png_of(100_000, 100_000), "a picture cannot be decoded (Image size (10000000000 pixels) exceeds limit"),
    "a wide one": (png_of(9_000, 1), "a picture of 9000x1 pixels; at most 8192 a side are decoded"),
    "text that swells": (swelling_text(), "a picture cannot be decoded"),
    "a format of old": (gif(), "a picture cannot be decoded"),
    "thousands of scans": (jpeg() + SCAN * (MOST_SCANS + 1), f"a JPEG of {MOST_SCANS + 2} scans; at most {MOST_SCANS}"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("error")
def test_a_bad_picture_is_told_by_place(case: str) -> None:
    content, message = BAD[case]
    with pytest.raises(DataError, match="^s.tar: k: " + re.escape(message)):
        decode(content, 56, "s.tar: k")


def test_a_picture_changed_in_one_byte_decodes_or_is_told() -> None:
    encoded, random = bytearray(jpeg()), np.random.default_rng(1)
    outcomes: set[object] = set()
    for _ in range(200):
        changed = bytearray(encoded)
        changed[random.integers(2, len(changed))] = random.integers(0, 256)
        try:
            outcomes.add(decode(bytes(changed), 56, "here").shape)
        except DataError:
            outcomes.add(None)
    assert outcomes <= {(3, 56, 56), None}
