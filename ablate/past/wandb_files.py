"""Offline W&B runs → past runs: `wandb/offline-run-*/run-*.wandb`, read without a server.

Such a file is a log in LevelDB's framing (blocks of 32 KiB; a record in whole or as first, middle and last part, each with its
CRC-32) of wandb's own protobuf records. wandb 0.31 reads it in its Go core only, so the framing is read here, and the records by
wandb's generated classes. A log that breaks off is read up to there: its run did not end.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ablate.past.runs import LONGEST_NAME, SHOWN, Mistakes, Past, PastRun, shown
from ablate.study import Study, UserError

SUFFIX = ".wandb"
HEADER = b":W&B\xe1\xbe\x00"
BLOCK, FRAME = 32 * 1024, struct.Struct("<IHB")
"""Bytes of a block; CRC-32, length and kind of a part."""
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
TYPE = "._type"
"""Ends the name of what a picture, a table or the like says of itself in a history; the rest of it is no metric either."""


def log_files(path: Path) -> list[Path]:
    """The logs that a path means: itself, or all in a run's folder or in a folder of runs."""
    if path.is_file():
        return [path] if path.suffix == SUFFIX else []
    return sorted({*path.glob(f"*{SUFFIX}"), *path.glob(f"*run-*/*{SUFFIX}"), *path.glob(f"wandb/*run-*/*{SUFFIX}")})


def read_logs(path: Path, study: Study, told: Mapping[str, str]) -> Past:
    """The runs of every log.

    told: "seed" or a metric -> the name that the run's config or history has for it.
    """
    files = log_files(path)
    mistakes, runs, digest = Mistakes(path), list[PastRun](), hashlib.sha256()
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UserError(f"{file}: cannot be read: {error.strerror or error}") from error
        digest.update(content)
        if content.startswith(HEADER):
            runs.append(_run(file, content, study, told, mistakes))
        else:
            mistakes.add(str(file), f"begins with {shown(content[:8])}; a W&B log is expected")
    mistakes.refuse()
    return Past(path, "W&B, offline", digest.hexdigest(), tuple(run for run in runs if run.curves))


def _run(file: Path, content: bytes, study: Study, told: Mapping[str, str], mistakes: Mistakes) -> PastRun:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # reading a file is no reason to report anything to anybody
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2 as proto  # half a second, which other imports shall not pay

    named = {theirs: ours for ours, theirs in told.items()}
    config: dict[str, Any] = {}
    curves: dict[str, dict[int, float]] = {}
    name, exit_code = file.stem.removeprefix("run-"), None
    for number, data in enumerate(_records(content), 1):
        place = f"{file}: record {number}"
        try:
            record = proto.Record.FromString(data)
            match record.WhichOneof("record_type"):
                case "run":
                    name = record.run.display_name or record.run.run_id
                    config |= _values(record.run.config.update)
                case "config":
                    config |= _values(record.config.update)
                case "exit":
                    exit_code = record.exit.exit_code
                case "history":
                    _history(_values(record.history.item), record.history.step.num, named, curves, mistakes, place)
        except (DecodeError, ValueError, RecursionError) as error:
            mistakes.add(place, f"not as W&B writes it ({str(error)[:SHOWN]})")
    flat = _flat(config)
    seed = flat.get(told.get("seed", "seed"), flat.get("job.seed"))
    return PastRun(
        _name(name, flat),
        seed if type(seed) is int else None,
        curves,
        {setting: value for setting, value in flat.items() if setting in study.settings},
        str(file),
        unfinished="" if exit_code == 0 else f"it ended with exit code {exit_code}" if exit_code else "its log breaks off",
    )


def _name(name: str, config: Mapping[str, Any]) -> str:
    """Of a run that ablate mirrored, its row; else what W&B shows."""
    row = config.get("job.run")
    text = row if isinstance(row, str) and "job.seed" in config else name
    return text[:LONGEST_NAME]


def _records(content: bytes) -> Iterator[bytes]:
    """Whole records, until the log ends or breaks off."""
    at, parts = len(HEADER), b""
    while at + FRAME.size <= len(content):
        left = BLOCK - at % BLOCK
        if left < FRAME.size:
            at += left
            continue
        crc, length, kind = FRAME.unpack_from(content, at)
        data = content[at + FRAME.size : at + FRAME.size + length]
        if len(data) < length or zlib.crc32(bytes([kind]) + data) != crc:
            return
        at += FRAME.size + length
        parts = data if kind in (FULL, FIRST) else parts + data
        if kind in (FULL, LAST):
            yield parts


def _values(items: Iterable[Any]) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _history(
    values: Mapping[str, Any],
    step: Any,
    named: Mapping[str, str],
    curves: dict[str, dict[int, float]],
    mistakes: Mistakes,
    place: str,
) -> None:
    """Keep the numbers of one step; "_step" and the like are W&B's own. Pictures and tables are no numbers."""
    step = values.get("_step", step)
    if type(step) is not int or not 0 <= step < 2**63:
        mistakes.add(place, f"step {shown(step)}; a whole number is expected")
        return
    media = tuple(f"{name.removesuffix(TYPE)}." for name in values if name.endswith(TYPE))
    for name, value in values.items():
        number = _number(value)
        named_so = 0 < len(name) <= LONGEST_NAME and name.isprintable() and not name.startswith(("_", *media))
        if number is not None and named_so:
            curves.setdefault(named.get(name, name), {})[step] = number


def _number(value: Any) -> float | None:
    """W&B writes what is no number as the text "NaN", "Infinity" or "-Infinity"."""
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(value)
    return float(value) if type(value) is float or (type(value) is int and abs(value) < 2**1000) else None


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{"model": {"deep": True}} -> {"model": {"deep": True}, "model.deep": True}: a setting may be a table itself."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found[f"{before}{name}"] = value
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{name}.")
    return found
