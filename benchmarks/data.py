"""Does reading keep up: frames per second and core, decoder against decoder, and what a whole study's manifest costs.

    python -m benchmarks.data [--frames 400] [--pool 1000000] [--device-samples-s 900] [--json]

Everything on one thread unless it says otherwise; the best of several rounds, in processor time where other work may disturb the
clock. Pictures are 224x224 JPEGs of smoothed noise at quality 90, 4:2:0, about 16 kB each, as video frames are.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from trainer.config import TrainConfig
from trainer.data import frames as frames_file
from trainer.data import pictures
from trainer.data.batches import SampleStream
from trainer.data.examine import examine
from trainer.data.manifest import SCHEMA, Manifest, draw, index_root, write_manifest
from trainer.data.open import Data, open_data
from trainer.data.shards import Sample, write_shard
from trainer.data.tokenizer import load_tokenizer

SIDE = 224
CLIP = 7
ROUNDS = 3
VISUAL = 0.86
"""Share of the study's samples that have pictures."""


@dataclass(frozen=True)
class Row:
    what: str
    per_s: float
    unit: str
    note: str = ""


def picture(random: np.random.Generator) -> bytes:
    """A JPEG with the detail of a video frame: noise at every scale, the fine ones faint."""
    shown = np.zeros((SIDE, SIDE, 3))
    for scale in (4, 8, 16, 32, 64, SIDE):
        noise = np.clip(random.normal(size=(scale, scale, 3)) * 40 / np.sqrt(scale / 4) + 128, 0, 255).astype(np.uint8)
        shown += np.asarray(Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC), float) - 128
    file = io.BytesIO()
    Image.fromarray(np.clip(shown + 128, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def best(work: Callable[[], int], clock: Callable[[], float] = time.process_time) -> float:
    """Things per second, of the best round."""
    rates = []
    for _ in range(ROUNDS):
        began = clock()
        done = work()
        rates.append(done / (clock() - began))
    return max(rates)


def decoders(encoded: Sequence[bytes]) -> list[Row]:
    """Each decoder there is, to [3, 224, 224] uint8."""

    def one(name: str) -> float:
        decode = pictures._by_pillow if name == "pillow" else pictures._by_simplejpeg
        return best(lambda: sum(np.ascontiguousarray(decode(each, name).transpose(2, 0, 1)).shape[0] for each in encoded) // 3)

    rows = [Row("decode, Pillow", one("pillow"), "frames/s")]
    if pictures.DECODER == "simplejpeg":
        same = all((pictures._by_pillow(each, "") == pictures._by_simplejpeg(each, "")).all() for each in encoded)
        note = f"{one('simplejpeg') / rows[0].per_s:.2f} x Pillow, {'same bits' if same else 'OTHER BITS'}"
        rows.append(Row("decode, simplejpeg", one("simplejpeg"), "frames/s", note))
    else:
        rows.append(Row("decode, simplejpeg", 0.0, "frames/s", "not installed"))
    return rows


def opened(folder: Path, encoded: Sequence[bytes]) -> Data:
    """A study of clips of 7 frames made of these pictures, decoded as they are read."""
    frames_file.MOST_CACHED_BYTES = 0  # as if the folder were big
    config = TrainConfig()
    config = replace(
        config,
        model=replace(config.model, language="tiny/llama"),
        train=replace(config.train, samples=len(encoded) // CLIP, batch_samples=16),
        data=replace(config.data, root=str(folder / "data"), mix={"video": 1.0}),
        eval=replace(config.eval, set="val_two"),
    )
    return open_data(config, 42, folder / "cache")


def write_clips(folder: Path, encoded: Sequence[bytes]) -> Path:
    shard = folder / "data" / "shards" / "clips-00.tar"
    shard.parent.mkdir(parents=True)
    meta = {"user": "what digits do cues point at ?", "source": "clips"}
    clips = [encoded[first : first + CLIP] for first in range(0, len(encoded) - CLIP + 1, CLIP)]
    clips += [encoded[::-1][:CLIP], encoded[::-1][1 : CLIP + 1]]
    told = [meta | {"assistant": f"{i % 10} {i // 10 % 10}"} for i in range(len(clips))]
    write_shard(shard, [(Sample(f"c{i:05d}", "video", told[i], tuple(clip)), ".jpg") for i, clip in enumerate(clips)])
    held_out = index_root(folder / "data", folder / "cache")[-2:]
    write_manifest(folder / "data" / "manifests" / "val_two.parquet", held_out)
    return shard


def reading(folder: Path, encoded: Sequence[bytes]) -> list[Row]:
    """Shard to batch, as the trainer does it."""
    shard = write_clips(folder, encoded)
    rows = []
    stream = opened(folder, encoded).train
    for floats, what in ((False, "uint8"), (True, "float32")):
        rows.append(Row(f"shard to batch, {what}", best(partial(_read, stream, 1, 0, floats)), "frames/s"))
    rate = best(partial(_read, opened(folder, encoded).train, 8, 2), time.monotonic)
    rows.append(Row("shard to batch, uint8, 2 workers", rate, "frames/s", "clock time, start of the workers included"))
    tokenizer = load_tokenizer("tiny/llama", folder / "cache")
    rows.append(Row("index one shard", best(lambda: int(np.asarray(examine(shard, tokenizer)["frames"]).sum())), "frames/s"))
    return rows


def _read(stream: SampleStream, passes: int, workers: int, floats: bool = False) -> int:
    """Frames read. floats: and normalised here, as is done on the device otherwise."""
    plan, frames = [stream.global_batch(step) for step in range(len(stream.samples) // 16)] * passes, 0
    for batch in stream.loaded(plan, workers):
        frames += CLIP * len(batch.rows)
        if floats and batch.look is not None:
            batch.look.normalised(batch.frames)
    return frames


def drawing(pool: int) -> list[Row]:
    """A manifest of a quarter of the pool, drawn and hashed."""
    random = np.random.default_rng(0)
    kinds = np.array(["video", "image", "text"])[random.choice(3, pool, p=[0.4, 0.46, 0.14])]
    number = np.arange(pool)
    columns = {
        "source": np.char.add("source", (number % 9).astype(str)),
        "shard": np.char.add("shard", (number // 1000).astype(str)),
        "offset": number * 10_240,
        "length": np.full(pool, 10_240),
        "key": np.char.add("key", number.astype(str)),
        "kind": kinds,
        "frames": np.where(kinds == "video", 7, kinds == "image").astype(np.int32),
        "content": np.char.add("content", number.astype(str)),
        "first_frame": number * 0,
    }
    table = pa.table({name: pa.array(columns[name].tolist(), SCHEMA.field(name).type) for name in SCHEMA.names})
    began = time.process_time()
    drawn = draw(table, SCHEMA.empty_table(), {"video": 0.4, "image": 0.46, "text": 0.14}, pool // 4, seed=1)
    drew = time.process_time() - began
    began = time.process_time()
    assert Manifest(drawn).hash
    hashed = time.process_time() - began
    note = f"{pool // 4} of {pool} in {drew:.1f} s, hashed in {hashed:.1f} s"
    return [Row("draw a manifest", pool // 4 / (drew + hashed), "samples/s", note)]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--frames", type=int, default=420, help="pictures to decode and read")
    parser.add_argument("--pool", type=int, default=1_000_000, help="samples of the index that a manifest is drawn from")
    parser.add_argument(
        "--device-samples-s", type=float, default=900.0, help="what one GPU trains, to say how many cores it needs"
    )
    parser.add_argument("--json", action="store_true", help="print a document")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    encoded = [picture(random) for _ in range(asked.frames)]
    with tempfile.TemporaryDirectory() as folder:
        rows = [*decoders(encoded), *reading(Path(folder), encoded), *drawing(asked.pool)]
    needed = asked.device_samples_s * VISUAL * CLIP
    read = next(row.per_s for row in rows if row.what == "shard to batch, uint8")
    told = {
        "rows": [asdict(row) for row in rows],
        "picture_bytes": round(float(np.mean([len(each) for each in encoded]))),
        "cores_per_gpu": needed / read,
        "machine": f"{platform.machine()}, {platform.processor() or 'processor not named'}",
    }
    if asked.json:
        print(json.dumps(told, indent=1))
        return 0
    table = Table("", "per second", "unit", "", box=None)
    for row in rows:
        table.add_row(row.what, f"{row.per_s:,.0f}", row.unit, row.note)
    console = Console()
    console.print(table)
    console.print(
        f"{asked.device_samples_s:.0f} samples/s on a GPU are {needed:.0f} frames/s: {told['cores_per_gpu']:.1f} cores per GPU"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
