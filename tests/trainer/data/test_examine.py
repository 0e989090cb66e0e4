"""A shard is examined to its end: what is good stays, and each bad sample has its reason."""

from pathlib import Path

import pytest

from tests.trainer.data.hostile import BAD, GOOD, images, mixed_members, write_tar
from trainer.data.examine import Stopped, examine
from trainer.data.frames import Frames
from trainer.data.manifest import entries
from trainer.data.shards import read_sample
from trainer.data.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer("tiny/llama", tmp_path_factory.mktemp("cache"))


def test_each_bad_sample_has_its_reason_and_the_good_ones_stay(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "mixed-000.tar"
    write_tar(path, mixed_members())
    rows = examine(path, tokenizer).to_pylist()
    reasons = {row["key"]: row["reason"] for row in rows if row["reason"]}
    assert set(reasons) == set(BAD)
    for key, (_, begins) in BAD.items():
        assert reasons[key].startswith(begins), (key, reasons[key])
    good = {row["key"]: row for row in rows if not row["reason"]}
    assert len(good) == len(BAD) + 4
    told = {key: (row["source"], row["kind"], row["form"], row["frames"]) for key, row in good.items() if key.startswith("g")}
    assert told == {
        "g-caption": ("openvid", "video", "caption", 2),
        "g-ids": ("smoltalk", "text", "tokens", 0),
        "g-pair": ("rlaif_v", "text", "preference", 0),
        "g-chat": ("smoltalk", "text", "chat", 0),
    }
    assert (good["g-ids"]["tokens"], good["g-ids"]["answer_at"]) == (3, 1)
    assert good["g-chat"]["answer_at"] < good["g-chat"]["tokens"]


def test_good_samples_are_read_again_where_the_rows_say(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "shards" / "mixed-000.tar"
    write_tar(path, mixed_members())
    table = examine(path, tokenizer)
    good = [entry for entry, reason in zip(entries(table), table["reason"].to_pylist(), strict=True) if not reason]
    pixels = Frames(path.parent, 56, tmp_path / "cache", left_out=True)
    from_shard = Frames(path.parent, 56, tmp_path / "other")
    from_shard._keeps = False
    for entry in good:
        assert read_sample(path, entry.offset, entry.length).key == entry.key
        if entry.frames:
            assert (pixels.of(entry, range(entry.frames)) == from_shard.of(entry, range(entry.frames))).all()


def test_a_shard_that_breaks_off_keeps_what_stands_before(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "cut.tar"
    write_tar(path, images(0, 4))
    content, third = path.read_bytes(), examine(path, tokenizer)["offset"][2].as_py()
    for end, reason in (
        (third + 520, f"at byte {third} 'i002.json' is cut"),
        (third, f"it ends at byte {third} without the empty"),
    ):
        path.write_bytes(content[:end])
        *good, rest = examine(path, tokenizer).to_pylist()
        assert [(row["key"], row["reason"]) for row in good] == [("i000", "")]  # the one at the break may be half
        assert rest["key"] == ""
        assert rest["reason"].startswith(f"not a readable tar file ({reason}")


def test_a_file_that_is_no_tar_is_one_bad_row(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "cauldron-000.tar"
    path.write_bytes(b"hello" * 300)
    (row,) = examine(path, tokenizer).to_pylist()
    assert (row["source"], row["key"]) == ("cauldron", "")
    assert (
        row["reason"]
        == "not a readable tar file (at byte 0 is no tar header (its checksum is b'lohelloh')); write the shard again"
    )


def test_one_key_twice_in_a_shard_is_bad_the_second_time(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, [*images(0, 2), *images(0, 1)])
    assert [bool(row["reason"]) for row in examine(path, tokenizer).to_pylist()] == [False, False, True]


@pytest.mark.parametrize("first", [".json", ".jpg"])
def test_a_sample_whose_members_are_scattered_is_no_text(tmp_path: Path, tokenizer: Tokenizer, first: str) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, sorted(images(0, 3), key=lambda member: not member[0].endswith(first)))
    rows = examine(path, tokenizer).to_pylist()
    said = "the members of 'i000' do not stand together; write those of a sample one after another"
    assert [row["reason"] for row in rows if row["key"] == "i000"].count(said) == 1
    assert all(row["reason"] for row in rows)


def test_it_stops_when_asked(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, GOOD)
    with pytest.raises(Stopped):
        examine(path, tokenizer, lambda: True)
