"""Shards: webdataset tar files, read in place.

A sample is the run of members that share a key, KEY.json with KEY.000.jpg, KEY.001.jpg … (video), KEY.jpg or KEY.png (image) or
no picture (text). Its bytes in the tar are themselves a tar: (offset, length) is all that is needed to read it again.

A shard is taken for hostile: sizes, counts and the depth of JSON are bounded before anything is read, and no name in it becomes
a path.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

from trainer.data.tar import Member, TarError, contents, members

Kind = Literal["video", "image", "text"]
KINDS: tuple[Kind, ...] = ("video", "image", "text")
Form = Literal["chat", "caption", "tokens", "preference"]
FORMS: Mapping[str, Form] = {"token_ids": "tokens", "assistant": "chat", "caption": "caption", "chosen_assistant": "preference"}
"""What a sample's JSON is, by the first of these names that it has."""
PICTURES = (".jpg", ".jpeg", ".png")
UNREAD = frozenset([".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jp2", ".mp4", ".webm", ".mkv", ".avi", ".mov"])
"""Pictures and videos too, which nothing here decodes: a sample that has one would be another without it."""
MOST_PICTURE_BYTES = 32 * 2**20
MOST_JSON_BYTES = 4 * 2**20
MOST_JSON_DEPTH = 32
MOST_MEMBERS = 1100
MOST_SAMPLE_BYTES = 512 * 2**20
MOST_NAME = 1000
"""Characters of a key or source."""
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

    @property
    def form(self) -> Form:
        return next(form for name, form in FORMS.items() if name in self.meta)


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


@dataclass(frozen=True)
class Group:
    """The members of one sample, not read yet."""

    key: str
    members: tuple[Member, ...]
    """At most MOST_MEMBERS + 1."""
    end: int

    @property
    def offset(self) -> int:
        return self.members[0].start

    @property
    def length(self) -> int:
        return self.end - self.offset

    @property
    def pictures(self) -> int:
        return sum(_suffix(member) in PICTURES for member in self.members)

    @property
    def said(self) -> bool:
        """Its JSON is there."""
        return any(_suffix(member) == ".json" for member in self.members)


def read_sample(path: Path, offset: int, length: int) -> Sample:
    """The sample at these bytes of a shard. Raises DataError when it is not whole or not bounded."""
    with _opened(path) as file:
        return load(path, *_only_group(path, file, offset, length))


def read_meta(path: Path, offset: int, length: int) -> Sample:
    """Like `read_sample`, without its pictures: their bytes are not read."""
    with _opened(path, buffering=0) as file:
        _, group = _only_group(path, file, offset, length)
        return load(path, file, group, with_pictures=False)


def read_entry(shards: Path, entry: Entry, with_pictures: bool = True) -> Sample:
    """A manifest's sample from its shard. Raises DataError naming shard and key when it is not there as the manifest says."""
    path = shards / entry.shard
    sample = (read_sample if with_pictures else read_meta)(path, entry.offset, entry.length)
    if sample.key != entry.key or len(sample.pictures) != entry.frames:
        raise DataError(
            f"{path}: {entry.key}: {short(sample.key)} with {len(sample.pictures)} pictures stands in its place; the shard has "
            "changed since its manifest was drawn"
        )
    return sample


def index(path: Path) -> Iterator[Entry]:
    """Every sample of a shard, in its order. Raises DataError naming shard and key for one that cannot be used."""
    seen: set[str] = set()
    first_frame = 0
    with path.open("rb") as file:
        for group in groups(path, file):
            sample = load(path, file, group)
            yield entry_of(path, group, sample, first_frame, seen)
            first_frame += len(sample.pictures)


def entry_of(path: Path, group: Group, sample: Sample, first_frame: int, seen: set[str]) -> Entry:
    """seen: keys of the shard's samples so far; this one's is added. Raises DataError for a key or source that cannot stand."""
    key = group.key
    if key in seen:
        raise DataError(f"{path}: the members of {key!r} do not stand together, or two samples have this key")
    seen.add(key)
    source = sample.meta.get("source") or source_of(path)
    if not isinstance(source, str) or not _is_name(source):
        raise DataError(f"{path}: {key}: source is {short(source)}, not a name")
    return Entry(
        source, path.name, group.offset, group.length, key, sample.kind, len(sample.pictures), content_of(sample), first_frame
    )


def source_of(path: Path) -> str:
    """The source of a shard's samples where they do not say: the shard's name without its number."""
    return path.stem.rstrip("0123456789").rstrip("-_")


def groups(path: Path, file: BinaryIO, start: int = 0, length: int | None = None) -> Iterator[Group]:
    """The samples between two bytes of a shard, in order, unread.

    Raises DataError from where on it is no tar; the sample before the break is not given, for it may be half.
    """
    found = members(file, start, length)
    try:
        for key, run in groupby(found, _key):
            kept: list[Member] = []
            end = 0
            for member in run:
                if len(kept) <= MOST_MEMBERS:  # of more than can be used it is enough to know that they are there
                    kept.append(member)
                end = member.end
            yield Group(key, tuple(kept), end)
    except TarError as error:
        raise DataError(f"{path}: not a readable tar file ({error}); write the shard again") from error


def load(path: Path, file: BinaryIO, group: Group, with_pictures: bool = True) -> Sample:
    """A group's sample. Raises DataError naming shard and key when it is not whole or not bounded."""
    key = group.key
    _bounded(path, group)
    pictures, names, meta = [], [], None
    for member in sorted(group.members, key=_in_time):
        suffix = _suffix(member)
        if suffix in UNREAD:
            raise DataError(f"{path}: {key}: {short(member.name)} is of a form that is not read; pictures are JPEG or PNG")
        if suffix == ".json":
            meta = _meta(path, key, contents(file, member))
        elif suffix in PICTURES:
            pictures.append(contents(file, member) if with_pictures else b"")
            names.append(member.name)
    if meta is None:
        raise DataError(f"{path}: {key}: has no {key}.json; every sample needs one")
    if meta.get("frame_count", len(pictures)) != len(pictures):
        raise DataError(
            f"{path}: {key}: frame_count is {short(meta['frame_count'])}, but the shard has {len(pictures)} pictures of it"
        )
    return Sample(key, _kind(key, names), meta, tuple(pictures))


def _bounded(path: Path, group: Group) -> None:
    if not _is_name(group.key):
        raise DataError(f"{path}: {short(group.key)} at byte {group.offset} is no key: UTF-8 of 1 to {MOST_NAME} characters is")
    if len(group.members) > MOST_MEMBERS or group.length > MOST_SAMPLE_BYTES:
        raise DataError(
            f"{path}: {group.key}: {group.length} bytes and {len(group.members)} files or more; "
            f"at most {MOST_SAMPLE_BYTES} and {MOST_MEMBERS} are read"
        )
    names: set[str] = set()
    for member in group.members:
        most = {".json": MOST_JSON_BYTES}.get(_suffix(member), MOST_PICTURE_BYTES)
        if member.size > most:
            raise DataError(f"{path}: {group.key}: {member.name} has {member.size} bytes; at most {most} are read")
        if member.name in names:
            raise DataError(f"{path}: {group.key}: {member.name} is there twice")
        names.add(member.name)


def _opened(path: Path, buffering: int = -1) -> BinaryIO:
    try:
        file: BinaryIO = path.open("rb", buffering=buffering)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); was the shard moved after its manifest was drawn?"
        ) from error
    return file


def _only_group(path: Path, file: BinaryIO, offset: int, length: int) -> tuple[BinaryIO, Group]:
    """(the bytes as a file, the one sample in them); an unbuffered file is walked instead of read whole."""
    file.seek(0, io.SEEK_END)
    if length > MOST_SAMPLE_BYTES or file.tell() < offset + length:
        raise DataError(f"{path}: has no {length} bytes at {offset}; the shard is shorter than when its manifest was drawn")
    if isinstance(file, io.FileIO):
        found = list(groups(path, file, offset, length))
    else:
        file.seek(offset)
        file = io.BytesIO(file.read(length))
        found = list(groups(path, file, 0, length))
    if len(found) != 1:
        raise DataError(
            f"{path}: {len(found)} samples at byte {offset} instead of one; the shard has changed since it was indexed"
        )
    return file, found[0]


def _kind(key: str, pictures: list[str]) -> Kind:
    """By the pictures' names: a numbered one is a frame of a video, be it the only one."""
    if not pictures:
        return "text"
    return "image" if len(pictures) == 1 and PurePosixPath(pictures[0]).stem == PurePosixPath(key).name else "video"


def _meta(path: Path, key: str, content: bytes) -> Mapping[str, Any]:
    if _depth_exceeds(content, MOST_JSON_DEPTH):
        raise DataError(f"{path}: {key}: {key}.json is nested deeper than {MOST_JSON_DEPTH}")
    try:
        meta = json.loads(content.decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: {key}: {key}.json is not JSON ({error})") from error
    if not isinstance(meta, dict):
        raise DataError(f"{path}: {key}: {key}.json is a {type(meta).__name__}, not an object")
    if not any(name in meta for name in ANSWERS):
        has = ", ".join(meta)[:200] or "nothing"
        raise DataError(f"{path}: {key}: {key}.json has none of {', '.join(ANSWERS)}; it has {has}")
    return meta


def _depth_exceeds(content: bytes, most: int) -> bool:
    """Whether brackets outside of strings are nested deeper: Python's JSON reader would go as deep as it is led."""
    if content.count(b"{") + content.count(b"[") <= most:
        return False
    depth = 0
    for found in re.finditer(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]', content, re.DOTALL):
        bracket = found.group()
        depth += (bracket in b"[{") - (bracket in b"]}")
        if depth > most:
            return True
    return False


def _key(member: Member) -> str:
    """webdataset's rule: the name up to the first dot after the last slash."""
    name = PurePosixPath(member.name)
    return str(name.parent / name.name.split(".", 1)[0]) if str(name.parent) != "." else name.name.split(".", 1)[0]


def _in_time(member: Member) -> tuple[tuple[str, int], ...]:
    """Orders frames by the numbers in their names, also where these have no zeros in front: 2 before 10."""
    return tuple((letters, int(digits or 0)) for letters, digits in re.findall(r"(\D*)(\d{0,18})", member.name))


def _suffix(member: Member) -> str:
    return PurePosixPath(member.name).suffix.lower()


def _is_name(text: str) -> bool:
    """Fits a column of text: not empty, bounded, and real characters (a name that is no UTF-8 comes with surrogates)."""
    return 0 < len(text) <= MOST_NAME and not any(0xD800 <= ord(letter) <= 0xDFFF or letter == "\0" for letter in text)


def short(value: object) -> str:
    """A value for a message: a hostile one may be megabytes long."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def content_of(sample: Sample) -> str:
    """Hash of what is seen and said: 32 hex digits."""
    digest = hashlib.sha256()
    said = {name: sample.meta[name] for name in ("user", "loss_mask", "rejected_assistant", *ANSWERS) if name in sample.meta}
    digest.update(json.dumps(said, sort_keys=True).encode())
    for picture in sample.pictures:
        digest.update(hashlib.sha256(picture).digest())
    return digest.hexdigest()[:32]


def fingerprint(path: Path) -> str:
    """A file's name in the cache: changes when the file does."""
    stat = path.stat()
    return f"{path.stem}-{stat.st_size:x}-{stat.st_mtime_ns:x}"


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
