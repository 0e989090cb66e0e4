"""Which samples a run sees: a Parquet file drawn once from the mix, the same for every run, and hashed.

Columns: source, shard, offset, length, key, kind, frames, content, first_frame (see `shards.Entry`), and tokens when the text has
been counted. A validation manifest is a file of the same form under manifests/, disjoint from training by key and by content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainer.data.mixture import counts
from trainer.data.once import built_once
from trainer.data.shards import DataError, Entry, fingerprint, index

SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("key", pa.string()),
        ("kind", pa.string()),
        ("frames", pa.int32()),
        ("content", pa.string()),
        ("first_frame", pa.int64()),
    ]
)


class Manifest:
    """Samples in a fixed order; the row number is a sample's name inside a run."""

    def __init__(self, table: pa.Table) -> None:
        self._columns = {name: table[name].combine_chunks() for name in SCHEMA.names}
        self.table = table
        self.kinds: list[str] = table["kind"].to_pylist()
        self.frames: npt.NDArray[np.int64] = np.asarray(table["frames"], np.int64)
        self.tokens: npt.NDArray[np.int64] | None = (
            np.asarray(table["tokens"], np.int64) if "tokens" in table.column_names else None
        )

    def __len__(self) -> int:
        return len(self.kinds)

    def entry(self, row: int) -> Entry:
        return Entry(*(self._columns[name][row].as_py() for name in SCHEMA.names))

    def entries(self) -> list[Entry]:
        return entries(self.table)

    def places(self) -> npt.NDArray[np.int64]:
        """[rows] row numbers in the order in which the samples lie in their shards."""
        order = pc.sort_indices(self.table, [("shard", "ascending"), ("offset", "ascending")])
        return np.asarray(order, np.int64)

    def with_tokens(self, lengths: npt.NDArray[np.int64]) -> Manifest:
        """The same samples, the tokens of their texts told."""
        counted = Manifest(self.table.append_column("tokens", pa.array(lengths)))
        counted.hash = self.hash  # a million rows take seconds to hash
        return counted

    @cached_property
    def hash(self) -> str:
        """Of what is seen, in order: source, key, kind, number of frames and content; where the shards lie does not count."""
        digest = hashlib.sha256()
        columns = [self.table[name].to_pylist() for name in ("source", "key", "kind", "frames", "content")]
        for row in zip(*columns, strict=True):
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()[:16]


def entries(table: pa.Table) -> list[Entry]:
    return [Entry(*row) for row in zip(*(table[name].to_pylist() for name in SCHEMA.names), strict=True)]


def table_of(rows: Iterable[Entry]) -> pa.Table:
    return pa.Table.from_pylist([{name: getattr(row, name) for name in SCHEMA.names} for row in rows], schema=SCHEMA)


def names_of(table: pa.Table) -> pa.ChunkedArray:
    """What names a sample: its source and key, as one text."""
    source, key = (pc.cast(table[column], pa.large_string()) for column in ("source", "key"))
    return pc.binary_join_element_wise(source, key, pa.scalar("\0", pa.large_string()))


def index_root(root: Path, cache: Path) -> list[Entry]:
    """Every sample of a data folder, by shard and place; each shard is read once and its index kept in the cache.

    Raises DataError for a key that two shards have.
    """
    found = [entry for shard in shards_of(root) for entry in entries(index_shard(shard, cache))]
    shard_of: dict[tuple[str, str], str] = {}
    for entry in found:
        other = shard_of.setdefault((entry.source, entry.key), entry.shard)
        if other != entry.shard:
            raise DataError(
                f"{root}: {entry.source}/{entry.key} is in two shards, {other} and {entry.shard}; keys name samples, rename one"
            )
    return found


def shards_of(root: Path) -> list[Path]:
    """The shards of a data folder, by name. Raises DataError when there are none."""
    shards = sorted((root / "shards").glob("*.tar"))
    if not shards:
        raise DataError(
            f"data.root = {str(root)!r}: there are no shards ({root / 'shards'}/*.tar); for the tiny study make them with "
            f"`python -m trainer.data.prepare --root {root}`"
        )
    return shards


def read_table(path: Path) -> pa.Table:
    """A Parquet file. Raises DataError naming it when it is none: half a copy, or a pointer to the file in its place."""
    try:
        return pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: is no Parquet file ({str(error).splitlines()[0]}); get or make it again") from error


def index_shard(shard: Path, cache: Path) -> pa.Table:
    target = cache / "index" / f"{fingerprint(shard)}.parquet"
    built_once(target, lambda temporary: pq.write_table(table_of(index(shard)), temporary))
    return read_table(target)


def validation(root: Path, name: str) -> Manifest:
    """A named validation manifest. Raises DataError naming those there are."""
    path = root / "manifests" / f"{name}.parquet"
    if not path.exists():
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.parquet"))) or "none"
        raise DataError(f"eval.set = {name!r}: {path} does not exist; validation sets there: {there}")
    table = read_table(path)
    missing = [column for column in SCHEMA.names if column not in table.column_names]
    if missing:
        raise DataError(f"{path}: has no column {', '.join(missing)}; a manifest has {', '.join(SCHEMA.names)}")
    return Manifest(table)


def write_manifest(path: Path, rows: Iterable[Entry]) -> None:
    write_table(path, table_of(rows))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a manifest under its name once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".building")
    pq.write_table(table, temporary)
    temporary.replace(path)


def draw(pool: pa.Table, held_out: pa.Table, mix: Mapping[str, float], samples: int, seed: int, repeat: bool = False) -> pa.Table:
    """The study's samples: per entry of the mix a random pick from its pool, the same pick for every run.

    held_out: validation samples; nothing with their key or their content is drawn.
    Fewer samples of an entry are the first of more samples of it, so runs with different mixes share what they can.
    Raises DataError when the pool is too small, unless `repeat` (then it is gone through again, reshuffled).
    """
    free = outside(pool, held_out)
    drawn = []
    for name, count in counts(mix, samples).items():
        its = of_entry(free, name)
        if not its.num_rows or (count > its.num_rows and not repeat):
            raise DataError(
                f"data.mix asks for {count} samples of {name!r}, and there are {its.num_rows} outside the validation sets; "
                f"sources: {', '.join(sources(pool))}. Lower train.samples or this share, add shards, or set data.repeat = true"
            )
        its = its.take(pc.sort_indices(its, [("source", "ascending"), ("key", "ascending")]))
        drawn.append(its.take(_pick(its.num_rows, count, seed, name)))
    return pa.concat_tables(drawn).combine_chunks()


def outside(pool: pa.Table, held_out: pa.Table) -> pa.Table:
    """The samples whose name and whose content no validation sample has."""
    taken = pc.or_(
        pc.is_in(names_of(pool), value_set=names_of(held_out).combine_chunks()),
        pc.is_in(pool["content"], value_set=held_out["content"].combine_chunks()),
    )
    return pool.filter(pc.invert(taken))


def of_entry(pool: pa.Table, name: str) -> pa.Table:
    """The samples of a mix's entry: a kind, or a source of it."""
    kind, _, source = name.partition("/")
    wanted = pc.equal(pool["kind"], kind)
    return pool.filter(pc.and_(wanted, pc.equal(pool["source"], source)) if source else wanted)


def sources(pool: pa.Table) -> list[str]:
    """What a mix may name, each as "kind/source"."""
    pairs = pool.group_by(["kind", "source"]).aggregate([])
    return sorted(f"{kind}/{source}" for kind, source in zip(*(pairs[n].to_pylist() for n in ("kind", "source")), strict=True))


def _pick(free: int, count: int, seed: int, name: str) -> npt.NDArray[np.int64]:
    """[count] places among `free`."""
    rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")])
    picked = []
    while count > 0:
        picked.append(rng.permutation(free)[:count])
        count -= free
    return np.concatenate(picked) if picked else np.zeros(0, np.int64)
