"""The walk over a tar finds what Python's tarfile finds, and stops at what it cannot trust."""

import gzip
import io
import re
import tarfile
from pathlib import Path

import pytest

from trainer.data.tar import BLOCK, MOST_NAME_BYTES, TarError, contents, members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}


def tar_of(names: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def with_header(content: bytes, **fields: tuple[int, bytes]) -> bytes:
    """The tar with bytes of its first header replaced, and the header's own sum put right."""
    header = bytearray(content[:BLOCK])
    for place, value in fields.values():
        header[place : place + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content[BLOCK:]


def names(content: bytes) -> list[str]:
    return [member.name for member in members(io.BytesIO(content))]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_member_lies_where_tarfile_says(kind: str) -> None:
    long = {"plain.json": b"{}", "folder/" * 12 + "x.jpg": b"p" * 700, "empty.json": b""}
    wide = {"é" * 90 + ".json": b"wide"} if kind != "ustar" else {}
    content = tar_of(long | wide, FORMATS[kind])
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(member.name, member.offset, member.offset_data, member.size) for member in tar]
    found = list(members(io.BytesIO(content)))
    assert [(member.name, member.start, member.data, member.size) for member in found] == expected
    assert [contents(io.BytesIO(content), member) for member in found] == list((long | wide).values())


def test_a_part_of_a_tar_is_walked_alone() -> None:
    content = tar_of({"a.json": b"1", "b.json": b"2", "c.json": b"3"})
    _, b, _ = members(io.BytesIO(content))
    assert [member.name for member in members(io.BytesIO(content), b.start, b.end - b.start)] == ["b.json"]


def test_links_devices_and_folders_are_passed_over() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("passwd")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("real.json"))
    assert names(file.getvalue()) == ["real.json"]


X = tar_of({"x.json": b"{}"})
BIG = (124, b"\x80" + (2**40).to_bytes(11, "big"))
HOSTILE = {
    "no tar at all": (b"hello" * 300, "at byte 0 is no tar header"),
    "a header that was changed": (b"y" + X[1:], "at byte 0 is no tar header (its checksum is wrong)"),
    "a tar that was packed": (gzip.compress(X) + bytes(BLOCK), "it is compressed with gzip, and shards are read in place"),
    "a size of a terabyte": (with_header(X, size=BIG), "at byte 0 'x.json' is cut: 1099511627776 bytes"),
    "a size below nothing": (with_header(X, size=(124, b"\xff" * 12)), "at byte 0 is no tar header (its size"),
    "a size that is no number": (with_header(X, size=(124, b"-0000000077")), "at byte 0 is no tar header (its size"),
    "an endless name": (
        with_header(X, kind=(156, b"L"), size=BIG),
        f"at byte 0 is a name of 1099511627776 bytes; at most {MOST_NAME_BYTES} are read",
    ),
    "a sparse file": (with_header(X, kind=(156, b"S")), "at byte 0 is a member of type b'S'"),
    "a pax header of nonsense": (
        with_header(tar_of({"x.json": b"99999 path=y\n"}), kind=(156, b"x")),
        "at byte 0 is a pax header that cannot be read (b'99999 path=y",
    ),
    "a pax size below nothing": (
        with_header(tar_of({"x.json": b"11 size=-5\n"}), kind=(156, b"x")),
        "at byte 0 is a pax header with a size of b'-5'",
    ),
    "a header that was cut": (X[:300], "at byte 0 it ends in the middle: 512 bytes are needed, 300 are"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_trusted_is_told_by_its_byte(case: str) -> None:
    content, message = HOSTILE[case]
    with pytest.raises(TarError, match="^" + re.escape(message)):
        names(content)


def test_members_before_a_break_are_found() -> None:
    content = tar_of({"a.json": b"1" * 600, "b.json": b"2" * 600})
    walk = members(io.BytesIO(content[: 1536 + BLOCK + 100]))
    assert next(walk).name == "a.json"
    with pytest.raises(TarError, match=r"at byte 1536 'b.json' is cut: 600 bytes are told, 100 are there"):
        next(walk)


def test_a_name_that_leads_out_of_the_folder_is_only_a_name(tmp_path: Path) -> None:
    content = tar_of({"../../outside.json": b"{}"})
    assert names(content) == ["../../outside.json"]
    assert not list(tmp_path.parent.glob("outside*"))
