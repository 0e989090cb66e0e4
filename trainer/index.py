"""Index a data folder: `python -m trainer.index data/full/shards/*.tar` reads every sample once and says which are good.

Decodes every picture, reads every text with the study's tokenizer, and leaves out for all runs alike what cannot be used. Shards
are read by several processes; what is done is kept, so a stopped call goes on where it was, and a second one reads only what has
changed. The files it writes are told in data/indexed.py; training and `python -m trainer.data.inventory` read them.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from trainer.config import ModelConfig
from trainer.data.examine import Stopped, examine
from trainer.data.indexed import merge, read_part, stat_of, write_part
from trainer.data.pictures import DECODER
from trainer.data.shards import DataError
from trainer.data.tokenizer import Tokenizer, load_tokenizer, open_tokenizer

Say = Callable[[str], None]
Stop = Callable[[], bool]
SAY_EVERY_S = 10.0
MOST_REASONS = 10


def index(shards: Sequence[Path], tokenizer: Tokenizer, workers: int, say: Say, stop: Stop = lambda: False) -> dict[str, Any]:
    """Examine the shards that are new or have changed, and write the index of their folder; gives the report.

    What earlier calls found in other shards of the folder stays in the index. Raises DataError for shards that are no data
    folder's, and Stopped when `stop` says so: what is done by then is kept.
    """
    root = _root_of(shards)
    with _alone(root, say, stop):
        return _index(root, shards, tokenizer, workers, say, stop)


@contextlib.contextmanager
def _alone(root: Path, say: Say, stop: Stop) -> Iterator[None]:
    """Calls on one folder take turns: who comes later finds known what the other has read."""
    (root / "index").mkdir(exist_ok=True)
    with (root / "index" / ".lock").open("w") as lock:  # released when the file closes, also when the process dies
        waits = False
        while not _locked(lock):
            if not waits:
                say(f"{root}: another call is indexing it; waiting for that to end")
            waits = True
            time.sleep(0.2)
            if stop():
                raise Stopped
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _index(root: Path, shards: Sequence[Path], tokenizer: Tokenizer, workers: int, say: Say, stop: Stop) -> dict[str, Any]:
    stats = {path.name: stat_of(path) for path in sorted((root / "shards").glob("*.tar"))}
    found = {path.name: read_part(root, path, tokenizer.hash) for path in sorted((root / "shards").glob("*.tar"))}
    todo = [path for path in dict.fromkeys(shards) if found[path.name] is None]
    say(f"{root}: {len(set(shards))} shards, {len(set(shards)) - len(todo)} of them known; {workers} processes, {DECODER}")
    progress = _Progress([path.stat().st_size for path in todo], say)
    for path, table in _examined(todo, tokenizer, workers, stop):
        write_part(root, path, table, tokenizer.hash, stats[path.name])
        found[path.name] = table
        progress.add(path, table)
    return merge(root, {name: table for name, table in found.items() if table is not None}, stats, tokenizer.hash, DECODER)


def _root_of(shards: Sequence[Path]) -> Path:
    for path in shards:
        if path.suffix != ".tar" or path.parent.name != "shards" or not path.is_file():
            raise DataError(f"{path}: is no shard of a data folder; shards are ROOT/shards/NAME.tar, and ROOT is data.root")
    roots = sorted({path.parent.parent for path in shards})
    if len(roots) != 1:
        told = ", ".join(map(str, roots)) or "none"
        raise DataError(f"shards of one data folder are indexed together; given are {told}")
    return roots[0]


def _examined(shards: Sequence[Path], tokenizer: Tokenizer, workers: int, stop: Stop) -> Iterator[tuple[Path, pa.Table]]:
    """(shard, what is in it), in the order in which they are done."""
    if workers == 1 or len(shards) <= 1:
        yield from ((path, examine(path, tokenizer, stop)) for path in shards)
        return
    context = multiprocessing.get_context("spawn")  # threads of torch and Arrow do not survive a fork
    asked = context.Event()
    start = (tokenizer.name, tokenizer.folder, asked)
    with ProcessPoolExecutor(min(workers, len(shards)), context, _begin, start) as pool:
        begun = {pool.submit(_examine_here, path): path for path in shards}
        try:
            yield from _as_done(begun, stop)
        except BaseException:
            asked.set()
            pool.shutdown(cancel_futures=True)
            raise


def _as_done(begun: dict[Future[pa.Table], Path], stop: Stop) -> Iterator[tuple[Path, pa.Table]]:
    left = set(begun)
    while left:
        done, left = wait(left, timeout=0.5, return_when=FIRST_COMPLETED)
        for one in sorted(done, key=lambda future: begun[future].name):
            try:
                yield begun[one], one.result()
            except BrokenProcessPool as error:
                names = sorted(begun[future].name for future in left | done)
                raise DataError(
                    f"a process died while it read a shard (out of memory, or a decoder crashed): one of {', '.join(names[:8])}. "
                    "What is done is kept; the same command goes on, with --workers 1 one shard at a time"
                ) from error
        if stop():
            raise Stopped


class _Here:
    """What a process of the pool works with."""

    tokenizer: Tokenizer
    stop: Stop


def _begin(name: str, folder: str, asked: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of us; the first process says when to stop
    _Here.tokenizer, _Here.stop = open_tokenizer(name, folder), asked.is_set


def _examine_here(path: Path) -> pa.Table:
    return examine(path, _Here.tokenizer, _Here.stop)


@dataclass
class _Progress:
    """Says now and then how far it is, how fast, and how long it will be."""

    sizes: Sequence[int]
    say: Say
    began: float = field(default_factory=time.monotonic)
    shards: int = 0
    size: int = 0
    samples: int = 0
    frames: int = 0
    bad: int = 0
    said: float = 0.0

    def add(self, path: Path, table: pa.Table) -> None:
        self.shards += 1
        self.size += path.stat().st_size
        self.samples += table.num_rows
        self.frames += pc.sum(table["frames"]).as_py() or 0
        self.bad += pc.sum(pc.not_equal(table["reason"], "")).as_py() or 0
        now = time.monotonic()
        if now - self.said >= SAY_EVERY_S or self.shards == len(self.sizes):
            self.said = now
            self.say(self._line(now - self.began))

    def _line(self, spent_s: float) -> str:
        left_s = spent_s * (sum(self.sizes) / max(self.size, 1) - 1)
        return (
            f"{self.shards}/{len(self.sizes)} shards, {self.samples} samples ({self.samples / spent_s:.0f}/s, "
            f"{self.frames / spent_s:.0f} frames/s), {self.bad} bad, {left_s / 60:.0f} min left"
        )


def told(report: dict[str, Any]) -> list[str]:
    """A report as lines."""
    lines = [
        f"{'source':24} {'samples':>9} {'video':>9} {'image':>9} {'text':>9} {'frames':>9} {'tokens':>10} {'twice':>7} {'bad':>6}"
    ]
    for source, of in report["sources"].items():
        kinds = " ".join(f"{of['kinds'].get(kind, 0):9}" for kind in ("video", "image", "text"))
        lines.append(
            f"{source:24} {of['samples']:9} {kinds} {of['frames']:9} {of['tokens']:10} {of['duplicates']:7} {of['bad']:6}"
        )
    lines.append(
        f"{report['samples']} good samples in {report['shards']} shards, hash {report['hash']}; {report['bad']} bad, left out"
    )
    for reason in report["reasons"][:MOST_REASONS]:
        lines.append(f"  {reason['samples']:6} x {reason['reason']} (as {reason['shard']}: {reason['key'] or 'the rest of it'})")
    for name, of in report["held_out"].items():
        lines.append(
            f"{name}: {of['samples']} samples; training leaves out {of['same_name']} of that name "
            f"and {of['same_content_only']} more of that content"
        )
    return lines


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Stop]:
    """Whether Ctrl-C or SIGTERM came."""
    came: list[int] = []
    old = {
        number: signal.signal(number, lambda number, _frame: came.append(number)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _shards_in(asked: Sequence[Path]) -> list[Path]:
    """Shards and data folders → shards."""
    return [shard for path in asked for shard in (sorted((path / "shards").glob("*.tar")) if path.is_dir() else [path])]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer.index", description=__doc__.split("\n")[0])
    parser.add_argument("shards", type=Path, nargs="+", help="ROOT/shards/*.tar, or ROOT for all of them")
    parser.add_argument("--tokenizer", default=ModelConfig.language, help="whose counts: model.language of the study")
    parser.add_argument("--cache", type=Path, default=Path("outputs/.cache"), help="where a tiny tokenizer is kept")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes that read shards")
    parser.add_argument("--json", action="store_true", help="print the report as a document")
    asked = parser.parse_args(arguments)
    try:
        with _asked_to_stop() as stop:
            report = index(
                _shards_in(asked.shards), load_tokenizer(asked.tokenizer, asked.cache), max(asked.workers, 1), _say, stop
            )
    except Stopped:
        _say("stopped; shards read to their end are kept, and the same command goes on from there")
        return 130
    except DataError as error:
        _say(f"Error: {error}")
        return 2
    except OSError as error:
        _say(f"Error: {error.filename or asked.shards[0]}: {error.strerror}; what is done is kept")
        return os.EX_IOERR
    print(json.dumps(report, indent=1, ensure_ascii=False) if asked.json else "\n".join(told(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
