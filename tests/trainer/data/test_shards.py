"""Shards are read in place, and what is wrong in one is told by shard and key."""

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from trainer.data.shards import (
    MOST_JSON_DEPTH,
    MOST_MEMBERS,
    DataError,
    Sample,
    index,
    read_entry,
    read_meta,
    read_sample,
    write_shard,
)

JPEG = b"not really a picture"
CHAT = {"user": "what ?", "assistant": "this", "source": "made"}


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def said(meta: dict[str, Any]) -> bytes:
    return json.dumps(meta).encode()


def test_what_was_written_is_read_back_by_offset(tmp_path: Path) -> None:
    samples = [
        Sample("v-1", "video", CHAT | {"frame_count": 2}, (JPEG, JPEG + b"2")),
        Sample("i-1", "image", CHAT | {"frame_count": 1}, (JPEG,)),
        Sample("v-2", "video", CHAT | {"frame_count": 1}, (JPEG,)),
        Sample("t-1", "text", CHAT, ()),
    ]
    path = tmp_path / "made-00.tar"
    write_shard(path, [(sample, ".jpg") for sample in samples])
    found = list(index(path))
    assert [(entry.key, entry.kind, entry.frames, entry.first_frame) for entry in found] == [
        ("v-1", "video", 2, 0),
        ("i-1", "image", 1, 2),
        ("v-2", "video", 1, 3),
        ("t-1", "text", 0, 4),
    ]
    assert [read_sample(path, entry.offset, entry.length) for entry in found] == samples


def test_a_real_webdataset_tar_with_folders_and_long_names_is_read(tmp_path: Path) -> None:
    key = "part/" + "k" * 120
    path = tar_of(tmp_path / "cauldron-000.tar", [(f"./{key}.json", said({"caption": "a cat"})), (f"./{key}.png", JPEG)])
    (entry,) = index(path)
    assert (entry.key, entry.kind, entry.source) == (key, "image", "cauldron")
    assert read_sample(path, entry.offset, entry.length).pictures == (JPEG,)


def test_the_content_hash_ignores_key_and_place_but_not_text_or_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    changed = CHAT | {"assistant": "that"}
    write_shard(path, [(Sample(key, "image", meta, (picture,)), ".jpg") for key, meta, picture in [
        ("a", CHAT, JPEG), ("b", CHAT, JPEG), ("c", changed, JPEG), ("d", CHAT, JPEG + b"!"),
    ]])  # fmt: skip
    a, b, c, d = (entry.content for entry in index(path))
    assert a == b
    assert len({a, c, d}) == 3


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("x.jpg", JPEG)], "x: has no x.json; every sample needs one"),
        ([("x.json", b"{")], "x: x.json is not JSON"),
        ([("x.json", b"[]")], "x: x.json is a list, not an object"),
        ([("x.json", b'{"user": "?"}')], "x: x.json has none of assistant, caption, token_ids, chosen_assistant; it has user"),
        (
            [("x.json", said(CHAT | {"frame_count": 3})), ("x.000.jpg", JPEG)],
            "x: frame_count is 3, but the shard has 1 pictures of it",
        ),
        ([("x.json", said(CHAT | {"source": 3}))], "x: source is 3, not a name"),
        (
            [("x.json", said(CHAT)), ("y.json", said(CHAT)), ("x.jpg", JPEG)],
            "x: has no x.json; every sample needs one",
        ),
        ([("x.json", b" " * (4 * 2**20 + 1))], "x: x.json has 4194305 bytes; at most 4194304 are read"),
        ([("x.json", b" "), ("x.jpg", b" " * (32 * 2**20 + 1))], "x: x.jpg has 33554433 bytes; at most 33554432 are read"),
        ([("x.json", b"[" * 100_000)], f"x: x.json is nested deeper than {MOST_JSON_DEPTH}"),
        ([("x.json", b'{"assistant": ' * 40 + b"1" + b"}" * 40)], f"x: x.json is nested deeper than {MOST_JSON_DEPTH}"),
        ([("x.json", b'{"assistant": ' + b"9" * 5000 + b"}")], "x: x.json is not JSON (Exceeds the limit"),
        ([("x.json", said(CHAT).decode().encode("utf-16"))], "x: x.json is not JSON ('utf-8' codec can't decode"),
        ([("x.json", said(CHAT)), ("x.json", said(CHAT))], "x: x.json is there twice"),
        ([("x.json", said(CHAT | {"frame_count": 7}))], "x: frame_count is 7, but the shard has 0 pictures of it"),
        ([("x.json", said(CHAT | {"source": "s" * 2000}))], "x: source is 'sss"),
        ([("k" * 1001 + ".json", said(CHAT))], "'kkk"),
        (
            [("x.json", said(CHAT)), ("x.webp", JPEG)],
            "x: 'x.webp' is of a form that is not read; pictures are JPEG or PNG",
        ),
        ([("x.MP4", b""), ("x.json", said(CHAT))], "x: 'x.MP4' is of a form that is not read"),
        ([(".json", said(CHAT))], "'' at byte 0 is no key: UTF-8 of 1 to 1000 characters is"),
        ([(f"x.{i}.txt", b"") for i in range(MOST_MEMBERS + 5)], f"x: {(MOST_MEMBERS + 5) * 512} bytes and 1101 files or more"),
    ],
)
def test_a_bad_sample_is_told_by_shard_and_key(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    path = tar_of(tmp_path / "bad.tar", members)
    with pytest.raises(DataError, match="^" + re.escape(f"{path}: {message}")):
        list(index(path))


@pytest.mark.parametrize("digits", [1, 3])
def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path, digits: int) -> None:
    frames = [(f"x.{number:0{digits}d}.jpg", JPEG + bytes([number])) for number in (0, 10, 2, 11, 1)]
    path = tar_of(tmp_path / "a.tar", [("x.json", said(CHAT)), *frames])
    (entry,) = index(path)
    assert [picture[-1] for picture in read_sample(path, entry.offset, entry.length).pictures] == [0, 1, 2, 10, 11]


def test_two_samples_of_one_key_are_refused(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "bad.tar", [(f"{key}.json", said(CHAT)) for key in ("x", "y", "x")])
    with pytest.raises(DataError, match="the members of 'x' do not stand together, or two samples have this key"):
        list(index(path))


def test_a_file_that_is_no_tar_is_told(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    path.write_bytes(b"hello" * 300)
    with pytest.raises(DataError, match=r"bad.tar: not a readable tar file"):
        list(index(path))


def test_a_shard_that_was_cut_is_told(tmp_path: Path) -> None:
    path = tmp_path / "cut.tar"
    write_shard(path, [(Sample("a", "image", CHAT, (JPEG * 100,)), ".jpg")])
    (entry,) = index(path)
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(
        DataError, match=f"has no {entry.length} bytes at 0; the shard is shorter than when its manifest was drawn"
    ):
        read_sample(path, entry.offset, entry.length)


def test_brackets_in_texts_are_not_depth(tmp_path: Path) -> None:
    chat = CHAT | {"assistant": "[" * 500 + '\\" { ' * 500}
    path = tar_of(tmp_path / "a.tar", [("x.json", said(chat))])
    (entry,) = index(path)
    assert read_sample(path, entry.offset, entry.length).meta == chat


def test_a_key_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    write_shard(path, [(Sample("kkk", "text", CHAT, ()), ".jpg")])
    content = bytearray(path.read_bytes())
    content[0:3] = b"\xff\xfe\xfd"
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad.tar: '\\udcff\\udcfe\\udcfd' at byte 0 is no key"):
        list(index(path))


def test_a_samples_text_is_read_without_its_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, [(Sample(key, "video", CHAT | {"frame_count": 2}, (JPEG, JPEG)), ".jpg") for key in ("a", "b")])
    _, entry = index(path)
    whole, text = read_sample(path, entry.offset, entry.length), read_meta(path, entry.offset, entry.length)
    assert (text.key, text.kind, text.meta) == (whole.key, whole.kind, whole.meta)
    assert text.pictures == (b"", b"")


@pytest.mark.parametrize(
    ("meta", "form"),
    [
        (CHAT, "chat"),
        ({"caption": "a cat"}, "caption"),
        ({"token_ids": [1], "loss_mask": [1], "caption": "a cat"}, "tokens"),
        ({"user": "?", "chosen_assistant": "yes", "rejected_assistant": "no"}, "preference"),
    ],
)
def test_a_sample_says_its_form(tmp_path: Path, meta: dict[str, Any], form: str) -> None:
    path = tar_of(tmp_path / "a.tar", [("x.json", said(meta))])
    (entry,) = index(path)
    assert read_sample(path, entry.offset, entry.length).form == form


def test_a_shard_written_anew_under_its_manifest_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, [(Sample("a", "image", CHAT, (JPEG,)), ".jpg")])
    (entry,) = index(path)
    assert read_entry(tmp_path, entry).pictures == (JPEG,)
    write_shard(path, [(Sample("b", "image", CHAT, (JPEG,)), ".jpg")])
    with pytest.raises(DataError, match=r"a.tar: a: 'b' with 1 pictures stands in its place; the shard has changed since its"):
        read_entry(tmp_path, entry)
