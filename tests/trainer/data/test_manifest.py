"""What is drawn is the study's: the same for every run, disjoint from validation."""

import re
from pathlib import Path

import pytest

from trainer.data.manifest import Manifest, entries, index_root, table_of, validation, write_manifest
from trainer.data.manifest import draw as draw_table
from trainer.data.shards import DataError, Entry, Sample, write_shard


def entry(source: str, key: str, content: str = "", kind: str = "image") -> Entry:
    return Entry(source, "s.tar", 0, 512, key, kind, 1, content or f"{source}/{key}", 0)  # type: ignore[arg-type]  # a str of ours


POOL = [entry("a", str(i)) for i in range(50)] + [entry("b", str(i)) for i in range(30)]


def draw(
    pool: list[Entry], held_out: list[Entry], mix: dict[str, float], samples: int, seed: int, repeat: bool = False
) -> list[Entry]:
    return entries(draw_table(table_of(pool), table_of(held_out), mix, samples, seed, repeat))


def keys(drawn: list[Entry]) -> list[tuple[str, str]]:
    return [(each.source, each.key) for each in drawn]


def test_the_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    first = draw(POOL, [], {"image": 1.0}, 40, seed=1)
    assert keys(first) == keys(draw(list(reversed(POOL)), [], {"image": 1.0}, 40, seed=1))
    assert keys(first) != keys(draw(POOL, [], {"image": 1.0}, 40, seed=2))
    assert len(set(keys(first))) == 40


def test_fewer_samples_are_the_first_of_more() -> None:
    few, many = (draw(POOL, [], {"image/a": 1.0}, count, seed=1) for count in (10, 40))
    assert keys(few) == keys(many)[:10]


def test_a_kind_draws_from_all_its_sources_and_a_source_from_itself() -> None:
    assert {each.source for each in draw(POOL, [], {"image": 1.0}, 60, seed=1)} == {"a", "b"}
    assert {each.source for each in draw(POOL, [], {"image/b": 1.0}, 20, seed=1)} == {"b"}


def test_nothing_held_out_is_drawn_neither_by_key_nor_by_content() -> None:
    twin = entry("a", "twin of b/3", content="b/3")
    held_out = [entry("a", "7"), entry("b", "3")]
    drawn = draw([*POOL, twin], held_out, {"image": 1.0}, 78, seed=1)
    assert set(keys(drawn)) == set(keys(POOL)) - {("a", "7"), ("b", "3")}


def test_a_pool_that_is_too_small_is_told_unless_repetition_is_said() -> None:
    message = (
        "data.mix asks for 60 samples of 'image/a', and there are 50 outside the validation sets; sources: image/a, image/b. "
        "Lower train.samples or this share, add shards, or set data.repeat = true"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        draw(POOL, [], {"image/a": 1.0}, 60, seed=1)
    repeated = draw(POOL, [], {"image/a": 1.0}, 120, seed=1, repeat=True)
    counts = [keys(repeated).count(("a", str(i))) for i in range(50)]
    assert set(counts) == {2, 3}


def test_the_hash_is_of_what_is_seen_and_in_which_order() -> None:
    moved = [Entry(e.source, "other.tar", 99, e.length, e.key, e.kind, e.frames, e.content, 5) for e in POOL]
    assert Manifest(table_of(POOL)).hash == Manifest(table_of(moved)).hash
    assert Manifest(table_of(POOL)).hash != Manifest(table_of(POOL[::-1])).hash


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifests" / "val_x.parquet", POOL)
    assert validation(tmp_path, "val_x").entries() == POOL
    with pytest.raises(DataError, match=r"eval.set = 'val_y': .*val_y.parquet does not exist; validation sets there: val_x"):
        validation(tmp_path, "val_y")


def test_a_folder_without_shards_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there are no shards .* `python -m trainer.data.prepare --root"):
        index_root(tmp_path, tmp_path / "cache")


def test_one_key_in_two_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for shard in ("a.tar", "b.tar"):
        write_shard(tmp_path / "shards" / shard, [(Sample("k", "text", {"assistant": "x", "source": "s"}, ()), ".jpg")])
    with pytest.raises(DataError, match=r"s/k is in two shards, a.tar and b.tar; keys name samples, rename one"):
        index_root(tmp_path, tmp_path / "cache")


def test_a_shard_that_changes_is_indexed_again(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    path = tmp_path / "shards" / "a.tar"
    for answers in (["x"], ["x", "longer"]):
        samples = [Sample(str(i), "text", {"assistant": answer}, ()) for i, answer in enumerate(answers)]
        write_shard(path, [(sample, ".jpg") for sample in samples])
        assert len(index_root(tmp_path, tmp_path / "cache")) == len(answers)
