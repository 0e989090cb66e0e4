"""A tar file walked header by header: where its regular members lie. Nothing is extracted, and nothing in it is believed.

Reads what GNU tar, Python's tarfile and webdataset write: ustar, pax and GNU long names. Links, devices and folders are passed
over. Own code because Python's tarfile keeps every member it has met, reads a long name of any length into memory, and in older
versions can be led in circles by a negative size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512
MOST_NAME_BYTES = 64 * 2**10
"""Of a long name or a pax header."""
REGULAR = (b"0", b"\0", b"7")
PASSED_OVER = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices, folders, pipes: without data of their own."""
POSIX = b"ustar\x0000"
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""How files begin that only sound like a tar."""


class TarError(ValueError):
    """Not a tar from here on, or one that is not read; the message says at which byte and why."""


@dataclass(frozen=True)
class Member:
    """A regular file inside a tar."""

    name: str
    start: int
    """Byte of its first header, that of a long name included."""
    data: int
    """Byte where its contents begin."""
    size: int

    @property
    def end(self) -> int:
        """Byte where the next header begins."""
        return self.data + _padded(self.size)


def members(file: BinaryIO, start: int = 0, length: int | None = None) -> Iterator[Member]:
    """The regular members between two bytes of a file (without `length`: to its end), in order, reading headers only.

    Raises TarError at the first byte that cannot be understood, after giving every member before it; a whole file must be closed.
    """
    at = start
    stop = file.seek(0, os.SEEK_END) if length is None else start + length
    name, size, first = "", -1, -1
    while at < stop:
        header = _read(file, at, BLOCK)
        if not header.strip(b"\0"):
            return
        kind, its_size = header[156:157], _checked_size(header, at)
        first = at if first < 0 else first
        if kind in (b"x", b"g", b"L", b"K"):
            told = _long(file, at, its_size)
            if kind == b"L":
                name = told.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif kind == b"x":
                name, size = _pax(told, at, name, size)
            at += BLOCK + _padded(its_size)
            continue
        if kind not in (*REGULAR, *PASSED_OVER):
            raise TarError(f"at byte {at} is a member of type {kind!r}, which no shard needs")
        member = Member(name or _short_name(header), first, at + BLOCK, its_size if size < 0 else size)
        if kind in PASSED_OVER:
            at += BLOCK
        elif member.data + member.size > stop:
            raise TarError(f"at byte {at} {member.name!r} is cut: {member.size} bytes are told, {stop - member.data} are there")
        else:
            at = member.end
            if not member.name.endswith("/"):  # how the oldest tars spell a folder
                yield member
        name, size, first = "", -1, -1
    if length is None:
        raise TarError(f"it ends at byte {stop} without the empty block that closes a tar; it may be cut")


def contents(file: BinaryIO, member: Member) -> bytes:
    """A member's bytes; the caller has looked at its size."""
    return _read(file, member.data, member.size)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    found = file.read(count)
    if len(found) != count:
        raise TarError(f"at byte {at} it ends in the middle: {count} bytes are needed, {len(found)} are there")
    return found


def _checked_size(header: bytes, at: int) -> int:
    """The size field, after the header's own sum was found right."""
    packed = next((how for magic, how in COMPRESSED.items() if at == 0 and header.startswith(magic)), "")
    if packed:
        raise TarError(f"it is compressed with {packed}, and shards are read in place: unpack it")
    told = _number(header[148:156], at, "checksum")
    if told != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
        raise TarError(f"at byte {at} is no tar header (its checksum is wrong)")
    return _number(header[124:136], at, "size")


def _number(field: bytes, at: int, what: str) -> int:
    """Octal digits, or for sizes above 8 GiB a big-endian number after a byte 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits and not all(digit in b"01234567" for digit in digits):
        raise TarError(f"at byte {at} is no tar header (its {what} is {field!r})")
    return int(digits or b"0", 8)


def _long(file: BinaryIO, at: int, size: int) -> bytes:
    if size > MOST_NAME_BYTES:
        raise TarError(f"at byte {at} is a name of {size} bytes; at most {MOST_NAME_BYTES} are read")
    return _read(file, at + BLOCK, size)


def _pax(told: bytes, at: int, name: str, size: int) -> tuple[str, int]:
    """(name, size) where the records, each "LENGTH key=value\\n", say so; -1: no size."""
    while told:
        digits, _, _rest = told.partition(b" ")
        if not digits.isdigit() or len(digits) > 6 or not len(digits) + 1 < int(digits) <= len(told):
            raise TarError(f"at byte {at} is a pax header that cannot be read ({told[:20]!r})")
        key, _, value = told[len(digits) + 1 : int(digits)].removesuffix(b"\n").partition(b"=")
        if key == b"path":
            name = value.decode("utf-8", "surrogateescape")
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise TarError(f"at byte {at} is a pax header with a size of {value[:20]!r}")
            size = int(value)
        told = told[int(digits) :]
    return name, size


def _short_name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:265] == POSIX else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")
