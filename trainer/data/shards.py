"""Shards: webdataset tar files, read in place.

A sample is the run of members that share a key, KEY.json with KEY.000.jpg, KEY.001.jpg … (video), KEY.jpg or KEY.png (image) or
no picture (text). Its bytes in the tar are themselves a tar: (offset, length) is all that is needed to read it again.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

Kind = Literal["video", "image", "text"]
KINDS: tuple[Kind, ...] = ("video", "image", "text")
PICTURES = (".jpg", ".jpeg", ".png")
MOST_PICTURE_BYTES = 32 * 2**20
MOST_JSON_BYTES = 4 * 2**20
BLOCK = 512
ANSWERS = ("assistant", "caption", "token_ids", "chosen_assistant")
"""A sample's JSON has one of these: a chat, an old caption, an old tokenised text, or preference data (the chosen one counts)."""


class DataError(ValueError):
    """Data that cannot be used, or settings that ask for data that is not there; the message says where and what to do."""


@dataclass(frozen=True)
class Sample:
    key: str
    kind: Kind
    meta: Mapping[str, Any]
    pictures: tuple[bytes, ...]
    """Encoded, in the order of their names."""


@dataclass(frozen=True)
class Entry:
    """Where a sample is and what it is, without its contents."""

    source: str
    shard: str
    offset: int
    length: int
    key: str
    kind: Kind
    frames: int
    content: str
    """Hash of the pictures and the text; the key and the place do not count."""
    first_frame: int
    """Pictures that stand before it in its shard."""


def read_sample(path: Path, offset: int, length: int) -> Sample:
    """The sample at these bytes of a shard. Raises DataError when it is not whole or not bounded."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            piece = file.read(length)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); was the shard moved after its manifest was drawn?"
        ) from error
    if len(piece) != length:
        raise DataError(f"{path}: has no {length} bytes at {offset}; the shard is shorter than when its manifest was drawn")
    samples = list(_samples(path, io.BytesIO(piece)))
    if len(samples) != 1:
        raise DataError(
            f"{path}: {len(samples)} samples at byte {offset} instead of one; the shard has changed since it was indexed"
        )
    return samples[0][0]


def index(path: Path) -> Iterator[Entry]:
    """Every sample of a shard, in its order. Raises DataError naming shard and key for one that cannot be used."""
    seen: set[str] = set()
    first_frame = 0
    with path.open("rb") as file:
        for sample, offset, length in _samples(path, file):
            if sample.key in seen:
                raise DataError(f"{path}: the members of {sample.key!r} do not stand together, or two samples have this key")
            seen.add(sample.key)
            source = sample.meta.get("source") or path.stem.rstrip("0123456789").rstrip("-_")
            if not isinstance(source, str):
                raise DataError(f"{path}: {sample.key}: source is {source!r}, not a name")
            yield Entry(
                source, path.name, offset, length, sample.key, sample.kind, len(sample.pictures), _content(sample), first_frame
            )
            first_frame += len(sample.pictures)


def samples(path: Path) -> Iterator[Sample]:
    """The samples of a shard, in its order, with their contents."""
    with path.open("rb") as file:
        for sample, _offset, _length in _samples(path, file):
            yield sample


def _samples(path: Path, file: io.BufferedReader | io.BytesIO) -> Iterator[tuple[Sample, int, int]]:
    """(sample, offset, length) for each run of members with one key."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            group: list[tarfile.TarInfo] = []
            for member in tar:
                if not member.isfile():
                    continue
                if group and _key(member) != _key(group[0]):
                    yield _sample(path, tar, group)
                    group = []
                group.append(member)
            if group:
                yield _sample(path, tar, group)
    except tarfile.TarError as error:
        raise DataError(f"{path}: not a readable tar file ({error}); write the shard again") from error


def _sample(path: Path, tar: tarfile.TarFile, group: list[tarfile.TarInfo]) -> tuple[Sample, int, int]:
    key = _key(group[0])
    pictures, names, meta = [], [], None
    for member in sorted(group, key=lambda member: member.name):
        suffix = PurePosixPath(member.name).suffix.lower()
        if suffix not in (*PICTURES, ".json"):
            continue
        most = MOST_JSON_BYTES if suffix == ".json" else MOST_PICTURE_BYTES
        if member.size > most:
            raise DataError(f"{path}: {key}: {member.name} has {member.size} bytes; at most {most} are read")
        file = tar.extractfile(member)
        assert file is not None, member.name  # a regular file always opens
        content = file.read()
        if suffix == ".json":
            meta = _meta(path, key, content)
        else:
            pictures.append(content)
            names.append(member.name)
    if meta is None:
        raise DataError(f"{path}: {key}: has no {key}.json; every sample needs one")
    if "frame_count" in meta and pictures and meta["frame_count"] != len(pictures):
        raise DataError(
            f"{path}: {key}: frame_count is {meta['frame_count']!r}, but the shard has {len(pictures)} pictures of it"
        )
    last = group[-1]
    end = last.offset_data + -(-last.size // BLOCK) * BLOCK
    return Sample(key, _kind(key, names), meta, tuple(pictures)), group[0].offset, end - group[0].offset


def _kind(key: str, pictures: list[str]) -> Kind:
    """By the pictures' names: a numbered one is a frame of a video, be it the only one."""
    if not pictures:
        return "text"
    return "image" if len(pictures) == 1 and PurePosixPath(pictures[0]).stem == PurePosixPath(key).name else "video"


def _meta(path: Path, key: str, content: bytes) -> Mapping[str, Any]:
    try:
        meta = json.loads(content)
    except ValueError as error:
        raise DataError(f"{path}: {key}: {key}.json is not JSON ({error})") from error
    if not isinstance(meta, dict):
        raise DataError(f"{path}: {key}: {key}.json is a {type(meta).__name__}, not an object")
    if not any(name in meta for name in ANSWERS):
        raise DataError(f"{path}: {key}: {key}.json has none of {', '.join(ANSWERS)}; it has {', '.join(meta) or 'nothing'}")
    return meta


def _key(member: tarfile.TarInfo) -> str:
    """webdataset's rule: the name up to the first dot after the last slash."""
    name = PurePosixPath(member.name)
    return str(name.parent / name.name.split(".", 1)[0]) if str(name.parent) != "." else name.name.split(".", 1)[0]


def _content(sample: Sample) -> str:
    digest = hashlib.sha256()
    said = {name: sample.meta[name] for name in ("user", "loss_mask", *ANSWERS) if name in sample.meta}
    digest.update(json.dumps(said, sort_keys=True).encode())
    for picture in sample.pictures:
        digest.update(hashlib.sha256(picture).digest())
    return digest.hexdigest()[:32]


def write_shard(path: Path, samples: Iterator[tuple[Sample, str]] | list[tuple[Sample, str]]) -> None:
    """Write samples in order; each comes with its pictures' suffix (".jpg"). The same samples give the same bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample, suffix in samples:
            _add(tar, f"{sample.key}.json", json.dumps(sample.meta).encode())
            for number, picture in enumerate(sample.pictures):
                _add(tar, f"{sample.key}{suffix}" if sample.kind == "image" else f"{sample.key}.{number:03d}{suffix}", picture)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
