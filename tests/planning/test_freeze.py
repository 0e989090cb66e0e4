"""What is frozen, and how an edit is told."""

from dataclasses import replace

import pytest

from ablate.conditions import Compared, Otherwise
from ablate.planning.freeze import changes, content_hash, frozen_content, take_text, tree_hash
from ablate.study import Confirm, Learn, Line, Take
from tests.studies import LOSS, VQA, study, sweep, tree

FREEZE = tree(
    "freeze",
    "sweep1",
    ("F2 better than F3", Compared("F2", "better", "F3", "val_loss"), "F2", "unfreezing is harmful"),
    ("otherwise", Otherwise(), "F3", "stay"),
)
LEARN = Learn("LR4 worse than F3", Compared("LR4", "worse", "F3", "val_loss"), "it is load-bearing")
STUDY = study(sweep("sweep1", FREEZE, learn=[LEARN]))


def edited(**changed):
    return changes(frozen_content(STUDY), frozen_content(replace(STUDY, **changed)))


def with_tree(changed):
    return edited(sweeps={"sweep1": sweep("sweep1", changed, learn=[LEARN])})


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"metrics": {"val_loss": replace(LOSS, margin=0.05), "image_vqa": VQA}}, ("metrics.val_loss.margin 0.08 → 0.05",)),
        ({"seeds": {**STUDY.seeds, "F1": (42, 43)}}, ("seeds.F1 [42] → [42, 43]",)),
        ({"seeds": {**STUDY.seeds, "Z": (42,)}}, ("seeds.Z added: [42]",)),
        ({"wrong_adoptions": 0.1}, ("wrong_adoptions 0.05 → 0.1",)),
        (
            {"sweeps": {"sweep1": sweep("sweep1", FREEZE, learn=[LEARN], on="image_vqa")}},
            ("sweeps.sweep1.on val_loss → image_vqa",),
        ),
        ({"hours_per_run": 1.0, "usd_per_gpu_hour": 9.0, "text_hash": "other", "blocks": ()}, ()),
    ],
)
def test_an_edit_is_told_in_one_line_with_both_values(changed, told):
    assert edited(**changed) == told


def test_an_edited_line_of_a_tree_is_told_by_its_number():
    (line, last) = FREEZE.lines
    assert with_tree(replace(FREEZE, lines=(replace(line, because="too costly"), last))) == (
        'sweeps.sweep1.trees.freeze line 1 ["F2 better than F3", "F2", "unfreezing is harmful"]'
        ' → ["F2 better than F3", "F2", "too costly"]',
    )
    (told,) = with_tree(replace(FREEZE, lines=(last,)))
    assert told.startswith("sweeps.sweep1.trees.freeze [[")


def test_a_tree_that_is_gone_is_told_as_one_thing():
    (told,) = edited(sweeps={"sweep1": sweep("sweep1", learn=[LEARN])})
    assert told.startswith("sweeps.sweep1.trees.freeze removed (was [[")


def test_where_a_line_stands_in_the_file_does_not_count():
    moved = replace(FREEZE, line=99, lines=tuple(replace(line, line=7) for line in FREEZE.lines))
    assert with_tree(moved) == ()
    assert tree_hash(STUDY, moved) == tree_hash(STUDY, FREEZE)


def test_every_part_of_a_line_counts_in_a_trees_hash():
    (line, last) = FREEZE.lines
    others = [
        replace(FREEZE, lines=(replace(line, **change), last))
        for change in ({"text": "F1 better than F3"}, {"because": "no"}, {"take": Take("stop")}, {"take": Take("best", ("F2",))})
    ]
    hashes = {tree_hash(STUDY, each) for each in (FREEZE, *others, replace(FREEZE, lines=(line, line, last)))}
    assert len(hashes) == 6


def test_the_hash_does_not_depend_on_the_order_of_keys():
    assert content_hash({"a": 1, "b": [1.5]}) == content_hash({"b": [1.5], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert len(content_hash({})) == 64


@pytest.mark.parametrize(
    ("take", "text"),
    [
        (Take("run", ("F2",)), "F2"),
        (Take("best", ("F1", "F2")), "best of F1, F2"),
        (Take("its start"), "its start"),
        (Take("stop"), "stop"),
    ],
)
def test_a_take_reads_as_in_the_file(take, text):
    assert take_text(take) == text


def test_a_tree_line_is_kept_as_it_is_written():
    assert isinstance(FREEZE.lines[0], Line)
    assert frozen_content(STUDY)["sweeps"]["sweep1"]["trees"]["freeze"][1] == ["otherwise", "F3", "stay"]


def test_looks_and_the_seeds_of_the_confirmation_are_frozen_where_they_are_declared():
    plain = study()
    assert {"looks", "spending", "confirm"}.isdisjoint(frozen_content(plain))
    declared = replace(plain, looks=(3, 5), confirm=Confirm("F3", (45, 46), "val_loss"))
    assert changes(frozen_content(declared), frozen_content(replace(declared, looks=(3, 8)))) == ("looks [3, 5] → [3, 8]",)
    later = replace(declared, confirm=Confirm("F3", (45,), "val_loss"))
    assert changes(frozen_content(declared), frozen_content(later)) == ("confirm.seeds [45, 46] → [45]",)
