"""What the jobs of one run scored, and what that makes of the run."""

import pytest

from ablate.deciding.scores import scores
from tests.studies import LOSS, VQA, jobs


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        (["diverged", "diverged", 0.1], "diverged"),
        (["diverged", 0.1], None),
        ([1.0, 1.81, 1.92], "did not learn"),  # 5 % below 1.9 is 1.805
        ([1.0, 1.80, 1.92], None),
        ([1.0, 1.9], None),
    ],
)
def test_an_outcome_is_what_more_than_half_of_the_seeds_did(values, outcome):
    assert scores(LOSS, "A", jobs("A", values, facts={"uninformed": {"val_loss": 1.9}})).outcome == outcome


def test_learning_means_being_above_the_floor_where_higher_is_better():
    floor = {"uninformed": {"image_vqa": 0.5}}
    assert scores(VQA, "A", jobs("A", [0.52], "image_vqa", floor)).outcome == "did not learn"
    assert scores(VQA, "A", jobs("A", [0.53], "image_vqa", floor)).outcome is None
