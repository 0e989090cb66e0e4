"""The index of a data folder: which samples are good, drawn up once by `python -m trainer.index`, believed by every run.

    ROOT/index/parts/SHARD.parquet   one per shard, written when the shard has been read to its end: what a stopped call keeps
    ROOT/index/index.parquet         the good samples of all shards: a manifest's columns, form, tokens, answer_at, duplicate
    ROOT/index/bad.parquet           the others: shard, offset, key and reason
    ROOT/index/report.json           what is told of them

A shard is known by its size and time, and when only the time has changed by the hash of its bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainer.data.manifest import names_of, read_table
from trainer.data.shards import DataError

VERSION = 2
"""Of how samples are judged: with another one every shard is examined anew."""
ABOUT = b"about"
Bools = npt.NDArray[np.bool_]
Stat = list[int]
"""A file's size and time, as JSON holds them."""


@dataclass(frozen=True)
class Part:
    """What a shard's part was made from."""

    shard: str
    size: int
    mtime_ns: int
    sha256: str
    tokenizer: str
    """Hash of the tokenizer that counted."""
    version: int = VERSION


def index_path(root: Path) -> Path:
    return root / "index" / "index.parquet"


def part_path(root: Path, shard: str) -> Path:
    return root / "index" / "parts" / f"{shard.removesuffix('.tar')}.parquet"


def write_part(root: Path, shard: Path, table: pa.Table, tokenizer: str, before: Stat) -> None:
    """Keep what was found in a shard, which has been read to its end.

    before: of the shard before that. One that has changed meanwhile, as it does while it is written, is read again next time.
    """
    with shard.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if stat_of(shard) == before:
        _write(part_path(root, shard.name), table, asdict(Part(shard.name, before[0], before[1], digest, tokenizer)))


def read_part(root: Path, shard: Path, tokenizer: str) -> pa.Table | None:
    """What was found in a shard, or None when it must be examined: never was, has changed, or with another tokenizer."""
    path = part_path(root, shard.name)
    if not path.exists():
        return None
    try:
        part, table = Part(**_about(path)), read_table(path)
    except DataError:  # half a file, as a power cut leaves it
        return None
    stat = shard.stat()
    if (part.version, part.tokenizer, part.size) != (VERSION, tokenizer, stat.st_size):
        return None
    if part.mtime_ns != stat.st_mtime_ns:
        with shard.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != part.sha256:
                return None
        _write(path, table, asdict(part) | {"mtime_ns": stat.st_mtime_ns})
    return table


def merge(root: Path, tables: Mapping[str, pa.Table], stats: Mapping[str, Stat], tokenizer: str, decoder: str) -> dict[str, Any]:
    """Write index, bad samples and report from the tables of the shards, in the order of their names; gives the report.

    stats: of the shards before they were read.

    Of samples with one content the first stays, the others are marked as duplicates; of samples with one name the others are bad.
    """
    every = pa.concat_tables([tables[name] for name in sorted(tables)]).combine_chunks()
    good = every.filter(pc.equal(every["reason"], ""))
    bad = every.filter(pc.not_equal(every["reason"], ""))
    again = _seen_before(names_of(good))
    if again.any():
        reason = pa.array(["another shard or source has a sample of this name, and it stands first"] * int(again.sum()))
        named = good.filter(pa.array(again))
        bad = pa.concat_tables([bad, named.set_column(named.column_names.index("reason"), "reason", reason)])
        good = good.filter(pa.array(~again))
    good = good.drop_columns(["reason"]).append_column("duplicate", pa.array(_seen_before(good["content"])))
    about = {"version": VERSION, "tokenizer": tokenizer, "shards": {name: stats[name] for name in sorted(tables)}}
    report = {"root": str(root), "tokenizer": tokenizer, "decoder": decoder, **_report(root, good, bad, len(tables))}
    _write(root / "index" / "bad.parquet", bad.select(["shard", "offset", "length", "key", "source", "reason"]), {})
    _write(index_path(root), good, about)
    temporary = root / "index" / ".report.json"
    temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False))
    temporary.replace(root / "index" / "report.json")
    return report


def stale_shards(root: Path) -> dict[str, str]:
    """Shard -> why the index does not stand for it; empty when it stands for all that are there. No shard is read."""
    about: dict[str, Any] = _about(index_path(root)) if index_path(root).exists() else {"version": VERSION, "shards": {}}
    known: dict[str, list[int]] = about["shards"]
    there = {path.name: path for path in sorted((root / "shards").glob("*.tar"))}
    told = {name: "not indexed" for name in there if name not in known}
    told |= {name: "changed since" for name, path in there.items() if name in known and known[name] != stat_of(path)}
    told |= {name: "gone" for name in known if name not in there}
    return told if about["version"] == VERSION else dict.fromkeys(known, "was judged by other rules") | told


def read_index(root: Path) -> pa.Table:
    """The index, whole. Raises DataError when it does not stand for the shards as they are."""
    stale = stale_shards(root)
    if stale:
        name, why = next(iter(stale.items()))
        raise DataError(
            f"{root}: the index does not fit its shards: {name} {why}, {len(stale)} in all; run `python -m trainer.index {root}`"
        )
    return read_table(index_path(root))


def read_known(root: Path) -> pa.Table:
    """The index as it is, whether it fits its shards or not."""
    return read_table(index_path(root))


def bad_of_sources(root: Path) -> dict[str, int]:
    """Source -> samples that the index leaves out, as far as their shard's name tells the source."""
    path = root / "index" / "bad.parquet"
    return _counted(pq.read_table(path, columns=["source"])["source"]) if path.exists() else {}


def usable(table: pa.Table, tokenizer: str, counted_by: str, most_tokens: int) -> pa.Table:
    """The rows of an index that manifests are drawn from: no duplicates, nothing kept for preference training, and no text whose
    answer starts behind the cut, as far as the same tokenizer has counted."""
    kept = pc.and_(pc.invert(table["duplicate"]), pc.not_equal(table["form"], "preference"))
    if tokenizer == counted_by:
        kept = pc.and_(kept, pc.less(table["answer_at"], most_tokens))
    return table.filter(kept)


def counted_by(root: Path) -> str:
    """Hash of the tokenizer that counted an index's tokens."""
    told: str = _about(index_path(root))["tokenizer"]
    return told


def _report(root: Path, good: pa.Table, bad: pa.Table, shards: int) -> dict[str, Any]:
    sources = {source: _of_source(good, bad, source) for source in sorted({*_values(good["source"]), *_values(bad["source"])})}
    totals = {name: sum(of[name] for of in sources.values()) for name in ("samples", "frames", "tokens", "duplicates", "bad")}
    return {
        "shards": shards,
        **totals,
        "hash": content_hash(good),
        "sources": sources,
        "reasons": _reasons(bad),
        "held_out": {path.stem: _overlap(good, read_table(path)) for path in sorted((root / "manifests").glob("*.parquet"))},
    }


def content_hash(table: pa.Table) -> str:
    """Of the samples by name and content, whatever shards they lie in: 16 hex digits."""
    said = pc.binary_join_element_wise(
        names_of(table), pc.cast(table["content"], pa.large_string()), pa.scalar("\0", pa.large_string())
    )
    lines = said.take(pc.sort_indices(said)).to_pylist()
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _of_source(good: pa.Table, bad: pa.Table, source: str) -> dict[str, Any]:
    its = good.filter(pc.equal(good["source"], source))
    return {
        "samples": its.num_rows,
        "frames": pc.sum(its["frames"]).as_py() or 0,
        "tokens": pc.sum(its["tokens"]).as_py() or 0,
        "duplicates": pc.sum(its["duplicate"]).as_py() or 0,
        "bad": pc.sum(pc.equal(bad["source"], source)).as_py() or 0,
        "kinds": _counted(its["kind"]),
        "forms": _counted(its["form"]),
    }


def _reasons(bad: pa.Table, most: int = 20) -> list[dict[str, Any]]:
    """Reasons that differ only in numbers and quoted values told once, the frequent ones first."""
    alike = pc.replace_substring_regex(bad["reason"], r"'[^']*'|\(.*\)|\d+", "…")
    examples: dict[str, tuple[str, str, str]] = {}
    counts: dict[str, int] = {}
    for told, *example in zip(*(column.to_pylist() for column in (alike, bad["shard"], bad["key"], bad["reason"])), strict=True):
        counts[told] = counts.get(told, 0) + 1
        examples.setdefault(told, (example[0], example[1], example[2]))
    frequent = sorted(counts, key=lambda told: -counts[told])[:most]
    return [{"samples": counts[told], **dict(zip(("shard", "key", "reason"), examples[told], strict=True))} for told in frequent]


def _overlap(good: pa.Table, held_out: pa.Table) -> dict[str, int]:
    """How many samples of the index no training manifest will have because of a validation set."""
    by_key = pc.is_in(names_of(good), value_set=names_of(held_out))
    by_content = pc.and_(pc.invert(by_key), pc.is_in(good["content"], value_set=held_out["content"].combine_chunks()))
    return {
        "samples": held_out.num_rows,
        "same_name": pc.sum(by_key).as_py() or 0,
        "same_content_only": pc.sum(by_content).as_py() or 0,
    }


def _seen_before(column: pa.ChunkedArray | pa.Array) -> Bools:
    """Whether a value stands further up too."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not len(whole):
        return np.zeros(0, bool)
    again = np.ones(len(whole), bool)
    again[np.unique(whole.dictionary_encode().indices.to_numpy(), return_index=True)[1]] = False
    return again


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    pairs = zip(*(pc.value_counts(column).flatten()), strict=True)
    return dict(sorted((value.as_py(), count.as_py()) for value, count in pairs))


def _values(column: pa.ChunkedArray) -> Iterable[str]:
    values: list[str] = pc.unique(column).to_pylist()
    return values


def stat_of(path: Path) -> Stat:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _about(path: Path) -> dict[str, Any]:
    """Raises DataError when the file is none of an index."""
    try:
        told: dict[str, Any] = json.loads(pq.read_schema(path).metadata[ABOUT])
    except (pa.ArrowInvalid, KeyError, TypeError) as error:  # without metadata it is None
        raise DataError(f"{path}: is no file of an index; remove it and run `python -m trainer.index` again") from error
    return told


def _write(path: Path, table: pa.Table, about: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.building")
    pq.write_table(table.replace_schema_metadata({ABOUT: json.dumps(about).encode()}), temporary, compression="zstd")
    temporary.replace(path)
