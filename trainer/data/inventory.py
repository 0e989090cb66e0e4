"""What data there is, and whether it is enough: `python -m trainer.data.inventory --root data/full [--runs < settings.json]`.

Reads the index, not the shards, and does without torch. A small folder without an index is read through instead.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trainer.config import ConfigError, DataConfig, TrainConfig
from trainer.data.indexed import bad_of_sources, counted_by, index_path, read_known, stale_shards, usable
from trainer.data.manifest import SCHEMA, Manifest, index_root, names_of, of_entry, outside, sources, table_of, validation
from trainer.data.mixture import counts
from trainer.data.shards import KINDS, DataError, source_of
from trainer.job import read_settings

VIDEO_TARGET = (0.40, 0.50)
"""The share of video among all samples that the study's data is collected towards."""
MOST_READ_BYTES = 512 * 2**20
"""A folder of this size is read through when it has no index."""


@dataclass(frozen=True)
class Dataset:
    """A collection the study's world knows, by how its sources' names begin."""

    name: str
    begins: tuple[str, ...]
    """Letters and digits only, lower case."""
    type: str
    stage: str


DATASETS = (
    Dataset("Cauldron", ("cauldron",), "Image QA", "1, 2, 3"),
    Dataset("OpenVid-1M", ("openvid",), "Video caption", "1"),
    Dataset("LLaVA-Video", ("llavavideo",), "Video QA", "2"),
    Dataset("Vript", ("vript",), "Video caption", "1, 3"),
    Dataset("VISTA-400K", ("vista",), "Video temporal QA", "2, 3"),
    Dataset("ShareGPT4Video", ("sharegpt4v",), "Video caption", "1"),
    Dataset("SmolTalk", ("smoltalk",), "Text-only", "all"),
    Dataset("RLAIF-V", ("rlaifv",), "Image DPO", "3 (optional)"),
    Dataset("Others", ("webvid", "yt", "youtube", "stage3"), "Mixed", "various"),
)


@dataclass(frozen=True)
class Held:
    """A row of the inventory."""

    dataset: str
    samples: int
    type: str
    stage: str
    status: str
    frames: int = 0
    duplicates: int = 0
    bad: int = 0


@dataclass(frozen=True)
class Need:
    """What runs ask of the data."""

    runs: tuple[str, ...]
    what: str
    met: bool
    why: str
    """What there is, or what is missing and what to do."""


@dataclass(frozen=True)
class Inventory:
    root: str
    indexed: bool
    held: tuple[Held, ...]
    samples: int
    video_share: float
    """Of all samples; 0 where there are none."""
    video_target: tuple[float, float]
    validation: Mapping[str, Mapping[str, Any]]
    """Per set: samples, hash, kinds, and how many of its samples are not among the good ones."""
    needs: tuple[Need, ...] = field(default=())

    @property
    def met(self) -> bool:
        return all(need.met for need in self.needs)


def take(root: Path, runs: Mapping[str, TrainConfig], cache: Path) -> Inventory:
    """The inventory of a data folder, and whether it is enough for those of `runs` that read it.

    A folder that is empty, or an index that does not fit its shards, is told, not raised.
    """
    shards = sorted((root / "shards").glob("*.tar"))
    indexed, stale = index_path(root).exists(), stale_shards(root)
    known = _known(root, shards, cache)
    sets = {path.stem: validation(root, path.stem) for path in sorted((root / "manifests").glob("*.parquet"))}
    video = pc.sum(pc.equal(known["kind"], "video")).as_py() or 0
    return Inventory(
        str(root),
        indexed,
        tuple(_held(root, known, shards, stale if indexed or known.num_rows == 0 else {})),
        known.num_rows,
        video / known.num_rows if known.num_rows else 0.0,
        VIDEO_TARGET,
        {name: _of_set(manifest, known) for name, manifest in sets.items()},
        tuple(_needs(root, known, sets, runs, stale if indexed else {})),
    )


def _known(root: Path, shards: Sequence[Path], cache: Path) -> pa.Table:
    """The good samples that are known: of the index, or of a small folder's shards, or none."""
    if index_path(root).exists():
        return read_known(root)
    small = sum(path.stat().st_size for path in shards) <= MOST_READ_BYTES
    table = table_of(index_root(root, cache)) if shards and small else SCHEMA.empty_table()
    plain = {"form": "chat", "duplicate": False, "answer_at": 0}
    for name, value in plain.items():
        table = table.append_column(name, pa.array([value] * table.num_rows, pa.array([value]).type))
    return table


def _held(root: Path, known: pa.Table, shards: Sequence[Path], stale: Mapping[str, str]) -> list[Held]:
    bad = bad_of_sources(root)
    unread: dict[str, list[str]] = {}
    for path in shards:
        if path.name in stale:
            unread.setdefault(source_of(path), []).append(stale[path.name])
    names = sorted({*pc.unique(known["source"]).to_pylist(), *unread, *bad})
    rows = [_of_source(known, name, bad.get(name, 0), unread.get(name, [])) for name in names]
    held = sorted(_by_dataset(rows), key=lambda row: (-row.samples, row.dataset))
    there = {row.dataset for row in held}
    absent = [Held(one.name, 0, one.type, one.stage, "absent") for one in DATASETS if one.name not in there]
    return [*held, *absent] if len(absent) < len(DATASETS) or not held else held


def _of_source(known: pa.Table, source: str, bad: int, unread: Sequence[str]) -> Held:
    its = known.filter(pc.equal(known["source"], source))
    kinds = [kind for kind in KINDS if pc.any(pc.equal(its["kind"], kind)).as_py()]
    return Held(
        source,
        its.num_rows,
        " and ".join(kinds).capitalize() or "–",
        "–",
        f"{len(unread)} shards {unread[0]}" if unread else "ready",
        pc.sum(its["frames"]).as_py() or 0,
        pc.sum(its["duplicate"]).as_py() or 0,
        bad,
    )


def _by_dataset(rows: Sequence[Held]) -> list[Held]:
    """Sources of a dataset that is known put together under its name."""
    together: dict[str, list[Held]] = {}
    for row in rows:
        plain = re.sub(r"[^a-z0-9]", "", row.dataset.lower())
        known = next((one for one in DATASETS if plain.startswith(one.begins)), None)
        named = Held(known.name, row.samples, known.type, known.stage, row.status) if known else row
        together.setdefault(named.dataset, []).append(
            Held(**{**asdict(named), "frames": row.frames, "duplicates": row.duplicates, "bad": row.bad})
        )
    return [_sum(of) for of in together.values()]


def _sum(rows: Sequence[Held]) -> Held:
    first, status = rows[0], [row.status for row in rows if row.status != "ready"]
    sums = {name: sum(getattr(row, name) for row in rows) for name in ("samples", "frames", "duplicates", "bad")}
    return Held(**{**asdict(first), **sums, "status": "; ".join(status) or "ready"})


def _of_set(manifest: Manifest, known: pa.Table) -> dict[str, Any]:
    kinds = {kind: manifest.kinds.count(kind) for kind in KINDS if kind in manifest.kinds}
    return {"samples": len(manifest), "hash": manifest.hash, "kinds": kinds, "lost": _lost(manifest, known)}


def _lost(manifest: Manifest, known: pa.Table) -> int:
    """Samples of a validation set that are not where it says, or bad; 0 while nothing is known."""
    if not known.num_rows:
        return 0
    places = [pc.binary_join_element_wise(names_of(table), _place(table), LINE) for table in (manifest.table, known)]
    return len(manifest) - int(pc.sum(pc.is_in(places[0], value_set=places[1])).as_py() or 0)


LINE = pa.scalar("\n", pa.large_string())


def _place(table: pa.Table) -> pa.ChunkedArray:
    """Shard, byte and content, as one text."""
    columns = [pc.cast(table[name], pa.large_string()) for name in ("shard", "offset", "content")]
    return pc.binary_join_element_wise(*columns, LINE)


def _needs(
    root: Path, known: pa.Table, sets: Mapping[str, Manifest], runs: Mapping[str, TrainConfig], stale: Mapping[str, str]
) -> list[Need]:
    """Each thing that is asked for once, with the runs that ask."""
    asked: dict[tuple[Any, ...], list[str]] = {}
    for run, config in runs.items():
        if Path(config.data.root) != root:
            continue
        asked.setdefault(("set", config.eval.set), []).append(run)
        drawn = (tuple(sorted(config.data.mix.items())), config.train.samples, config.data.repeat, config.data.max_text_tokens)
        asked.setdefault(("mix", *drawn), []).append(run)
    needs = []
    if stale and asked:
        name, why = next(iter(stale.items()))
        told = f"{name} {why}, {len(stale)} in all: run `python -m trainer.index {root}`"
        needs.append(Need(tuple(runs), "an index of all shards", False, told))
    held_out = pa.concat_tables([one.table.select(SCHEMA.names) for one in sets.values()]) if sets else SCHEMA.empty_table()
    for what, names in asked.items():
        if what[0] == "set":
            needs.append(_set_need(names, what[1], sets, known))
        else:
            needs += _mix_needs(root, known, held_out, names, *what[1:])
    return needs


def _set_need(runs: Sequence[str], name: str, sets: Mapping[str, Manifest], known: pa.Table) -> Need:
    lost = _lost(sets[name], known) if name in sets else 0
    if lost:
        why = f"{lost} of its {len(sets[name])} samples are bad, changed or gone; restore their shards, or draw another set"
        return Need(tuple(runs), f"validation set {name}", False, why)
    if name in sets:
        return Need(tuple(runs), f"validation set {name}", True, f"{len(sets[name])} samples, hash {sets[name].hash}")
    why = f"there is none of this name ({', '.join(sets) or 'none at all'}); draw it: `ablate data manifest {name}`"
    return Need(tuple(runs), f"validation set {name}", False, why)


def _mix_needs(
    root: Path,
    known: pa.Table,
    held_out: pa.Table,
    runs: Sequence[str],
    mix: tuple[tuple[str, float], ...],
    samples: int,
    repeat: bool,
    most_tokens: int,
) -> list[Need]:
    counter = counted_by(root) if index_path(root).exists() else ""
    free = outside(usable(known, counter, counter, most_tokens), held_out)
    needs = []
    for name, count in counts(dict(mix), samples).items():
        there = of_entry(free, name).num_rows
        what = f"{count} of {name}{', repeated where needed' if repeat else ''}"
        met = there >= count or (repeat and there > 0)
        why = (
            f"{there} are free"
            if met
            else f"{there} are free, {count - there} are missing; there are {', '.join(sources(known)) or 'none'}"
        )
        needs.append(Need(tuple(runs), what, met, why))
    return needs


def configs(said: Mapping[str, Mapping[str, Any]]) -> dict[str, TrainConfig]:
    """Runs' nested settings → their configs. Raises ConfigError naming the run for what cannot be."""
    return {run: read_settings(run, settings) for run, settings in said.items()}


def lines(told: Inventory) -> list[str]:
    """The inventory as a table."""
    text = [f"{'dataset':16} {'samples':>9}  {'type':18} {'stage':13} {'twice':>7} {'bad':>6}  status"]
    for row in told.held:
        text.append(
            f"{row.dataset:16} {row.samples:9}  {row.type:18} {row.stage:13} {row.duplicates:7} {row.bad:6}  {row.status}"
        )
    low, high = told.video_target
    text.append(f"{'total':16} {told.samples:9}  video {told.video_share:.1%} (target {low:.0%} to {high:.0%})")
    text += [f"validation {name}: {of['samples']} samples, hash {of['hash']}" for name, of in told.validation.items()]
    for need in told.needs:
        text.append(f"{'met    ' if need.met else 'NOT MET'} {need.what} for {', '.join(need.runs)}: {need.why}")
    return text


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer.data.inventory")
    parser.add_argument("--root", type=Path, default=Path(DataConfig.root), help="the data folder")
    parser.add_argument("--cache", type=Path, default=Path("outputs/.cache"), help="folder shared by all jobs of a checkout")
    parser.add_argument("--runs", action="store_true", help="read runs' settings from stdin and say whether their needs are met")
    parser.add_argument("--json", action="store_true", help="print a document")
    asked = parser.parse_args(arguments)
    try:
        told = take(asked.root, configs(json.load(sys.stdin)) if asked.runs else {}, asked.cache)
    except (DataError, ConfigError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(asdict(told) | {"met": told.met}, indent=1, ensure_ascii=False) if asked.json else "\n".join(lines(told)))
    return 0 if told.met else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
