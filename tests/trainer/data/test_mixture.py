"""A mix becomes whole numbers of samples."""

import pytest

from trainer.data.mixture import counts
from trainer.data.shards import DataError


@pytest.mark.parametrize(
    ("mix", "samples", "expected"),
    [
        ({"video": 0.6, "image/sparse": 0.26, "text": 0.14}, 9_600, {"image/sparse": 2_496, "text": 1_344, "video": 5_760}),
        ({"video": 0.40, "image": 0.46, "text": 0.14}, 1_000_000, {"image": 460_000, "text": 140_000, "video": 400_000}),
        ({"video": 1 / 3, "image": 1 / 3, "text": 1 / 3}, 10, {"image": 4, "text": 3, "video": 3}),
        ({"text": 1.0}, 7, {"text": 7}),
    ],
)
def test_counts_sum_to_the_samples(mix: dict[str, float], samples: int, expected: dict[str, int]) -> None:
    assert counts(mix, samples) == expected


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(DataError, match=r"data.mix: 'audio' is no kind; kinds: video, image, text, or a source of one as in"):
        counts({"audio": 1.0}, 10)


def test_a_kind_beside_its_own_source_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"data.mix: 'image/crowded' is a part of 'image', which is in the mix too; keep one of them"
    ):
        counts({"image": 0.5, "image/crowded": 0.5}, 10)
