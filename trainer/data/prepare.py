"""Make the tiny study's data and backbones: `python -m trainer.data.prepare --root data/tiny --cache outputs/.cache`.

Says what it does; what is there already is kept, what an interrupted call left half is made again.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from trainer.data.frames import RELAY, Frames
from trainer.data.shards import DataError
from trainer.data.synthetic import SMALL, Recipe, make
from trainer.data.tiny import tiny_backbone
from trainer.data.tokenizer import tiny_tokenizer

STEPS = ("data", "frames", "dino", "llama")


def prepare_small(root: Path, cache: Path) -> None:
    """Little data and untrained backbones, in seconds: for tests of mechanics, where nothing is learned."""
    make(root, SMALL, cache, lambda _line: None)
    tiny_backbone("dino-untrained", cache, _say)
    tiny_backbone("llama-untrained", cache, _say)
    _say(f"small data in {root}; the backbones are tiny/dino-untrained and tiny/llama-untrained")


def prepare_tiny(root: Path, cache: Path) -> None:
    """Everything, the two backbones' pretraining beside the data: about a minute on two cores, nothing the second time."""
    _say(f"data in {root}, backbones and decoded frames in {cache}")
    llama = subprocess.Popen(_command("llama", root, cache))
    try:
        for step in ("data", "frames"):
            _do(step, root, cache)
        _do("dino", root, cache)
        if llama.wait() != 0:
            raise RuntimeError(f"pretraining tiny/llama ended with exit code {llama.returncode}; its messages are above")
    finally:
        if llama.poll() is None:
            llama.terminate()
            llama.wait()
    _say("all there")


def _command(step: str, root: Path, cache: Path) -> list[str]:
    return [sys.executable, "-m", "trainer.data.prepare", "--root", str(root), "--cache", str(cache), "--only", step]


def _do(step: str, root: Path, cache: Path) -> None:
    started = time.perf_counter()
    if step == "data":
        made = make(root, Recipe(), cache, _say)
    elif step == "frames":
        tiny_tokenizer(cache)
        frames = Frames(root / "shards", RELAY.size, cache)
        for shard in sorted((root / "shards").glob("*.tar")):
            frames.prepare(shard.name)
        made = True
    else:
        made = tiny_backbone("dino" if step == "dino" else "llama", cache, _say).exists()
    _say(f"{step}: {'ready' if made else 'was there'} ({time.perf_counter() - started:.0f} s)")


def _say(line: str) -> None:
    print(line, flush=True)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer.data.prepare", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("data/tiny"), help="where the shards go")
    parser.add_argument("--cache", type=Path, default=Path("outputs/.cache"), help="where backbones and decoded frames go")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", choices=STEPS, help="one step instead of all")
    which.add_argument("--small", action="store_true", help="a little data and untrained backbones, for tests of mechanics")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        if asked.small:
            prepare_small(asked.root, asked.cache)
        elif asked.only:
            _do(asked.only, asked.root, asked.cache)
        else:
            prepare_tiny(asked.root, asked.cache)
    except (DataError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the pretraining beside us ends with us
    sys.exit(main(sys.argv[1:]))
