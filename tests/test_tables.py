"""Tables and figures of a small study: every row against what was written, and what is said when there is nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.numpy import load_file

from ablate import figures, tables
from ablate.desk import open_desk
from ablate.runs_toml import read_study
from ablate.study import UserError, job_key
from ablate.tables import Tables, load, rate_table
from db.records import JobRecord, Point
from tests.conftest import REPOSITORY
from tests.written_study import BATCH, EVAL_EVERY, FINAL, NOW, SEED_SHIFT, STEPS, small_desk, write_job, written_desk
from trainer.attention import write_maps


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return Tables(written_desk(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return Tables(small_desk(tmp_path_factory.mktemp("empty")))


def texts(figure: Figure) -> str:
    """Every word a figure shows."""
    found = [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label)]
    found += [axes.get_title(loc="left") for axes in figure.axes] + [figure.get_suptitle(), figure.get_supxlabel()]
    return "\n".join(found)


# ---------------------------------------------------------------- verdicts


def test_decisions_are_the_records_that_stand(whole: Tables) -> None:
    made = whole.decisions().set_index("name")
    assert list(made.index) == ["freeze", "lr"]
    assert made.loc["freeze", "took"] == "F3"
    assert str(made.loc["freeze", "because"]).startswith("full unfreeze is justified: ")


def test_comparisons_carry_the_numbers_of_decisions_and_of_what_was_learned(whole: Tables) -> None:
    evidence = whole.comparisons()
    assert set(evidence["for"]) == {"freeze", "lr", "two passes beat one", "deep query is essential"}
    one = evidence[(evidence["for"] == "two passes beat one")].iloc[0]
    assert (one["a"], one["b"], one["holds"], one["n_a"], one["n_b"]) == ("A6", "F3", "worse", 1, 3)
    assert one["delta"] == pytest.approx(FINAL["A6"] - FINAL["F3"])
    assert one["low"] < one["delta"] < one["high"]
    assert list(evidence[evidence["for"] == "lr"]["holds"]) == ["nothing shown"]


def test_learned_lines_are_those_that_hold_today_and_asking_records_nothing(whole: Tables) -> None:
    before = whole.desk.store.all_decisions()
    assert list(whole.learned()["says"]) == ["two passes beat one", "deep query is essential"]
    assert whole.open() == ()
    assert whole.desk.store.all_decisions() == before


def test_the_lock_says_where_each_setting_came_from(whole: Tables) -> None:
    lock = whole.lock().set_index("setting")
    assert lock.loc["model.deep_query", "value"] is True
    assert set(lock["source"]) == {"baseline"}


# ---------------------------------------------------------------- measurements


def test_a_band_is_mean_and_range_over_seeds_in_the_order_asked_for(whole: Tables) -> None:
    band = whole.band("val_loss", ("F1", "F3"))
    assert list(band["run"].unique()) == ["F1", "F3"]
    assert list(band[band["run"] == "F3"]["step"]) == list(range(0, STEPS + 1, EVAL_EVERY))
    last = band[band["run"] == "F3"].iloc[-1]
    settled = 2.0 * np.exp(-STEPS / 5)
    assert last["n"] == 3
    assert last["mean"] == pytest.approx(FINAL["F3"] + settled)
    assert last["high"] - last["low"] == pytest.approx(max(SEED_SHIFT["F3"]) - min(SEED_SHIFT["F3"]))
    assert last["samples"] == BATCH * STEPS
    assert last["flops"] == pytest.approx(1e9 * BATCH * STEPS)


def test_final_values_follow_the_database(tmp_path: Path) -> None:
    desk = small_desk(tmp_path)
    key = write_job(desk, desk.plan().of_run("A1")[0])
    shown = Tables(desk)
    assert shown.finals("val_loss", ("A1",))["mean"].item() == pytest.approx(FINAL["A1"], abs=1e-3)
    with closing(sqlite3.connect(desk.store.path, isolation_level=None)) as shell:
        shell.execute("UPDATE points SET value = 9.0 WHERE job = ? AND name = 'val_loss'", (key,))
    assert Tables(desk).finals("val_loss", ("A1",))["mean"].item() == 9.0


def test_a_job_of_yesterdays_wording_is_not_drawn(tmp_path: Path) -> None:
    desk = small_desk(tmp_path)
    settings = {**desk.study.settings, "optim.lr": 1.0}
    key = job_key(desk.study, "F3", 42, settings)
    desk.store.save_job(JobRecord(key, "F3", 42, settings, 1, NOW))
    desk.store.claim(key, started_at=NOW)
    desk.store.add_points(key, 1, [Point(key, 1, 1, "val_loss", 0.0)], 1)
    assert Tables(desk).curve("val_loss").empty


def test_the_rates_table_has_the_runs_that_change_only_rates(whole: Tables) -> None:
    rates = whole.rates().set_index("run")
    assert list(rates.index) == ["F3", "LR2"]
    assert rates.loc["LR2", "connector"] == pytest.approx(1e-3)
    assert rates.loc["LR2", "dino"] == pytest.approx(1e-5)
    assert rates.loc["F3", "states"] == "3 done"


def test_a_frozen_part_has_no_rate() -> None:
    row = tables.rate_table({"F1": {"optim.lr": 1e-5, "optim.connector_ratio": 10.0, "model.freeze_dino": True}}).iloc[0]
    assert np.isnan(row["dino"])
    assert row["llm"] == 1e-5


def test_efficiency_has_tokens_and_compute_as_the_trainer_reported_them(whole: Tables) -> None:
    points = whole.efficiency("val_loss", whole.runs_of("Fig 3")).set_index("run")
    assert dict(points["tokens_per_frame"]) == {"F3": 1.0, "B1": 16.0}
    assert points.loc["B1", "flops"] == pytest.approx(9.6e11)


def test_sample_losses_come_from_the_last_evaluation(whole: Tables) -> None:
    losses = whole.sample_losses(("F3", "B1"))
    assert list(losses.columns) == list(tables.LOSSES)
    assert len(losses) == 6 * 4
    assert set(losses["kind"]) == {"video", "image"}
    assert set(losses["step"]) == {STEPS}


def test_looks_leave_cls_out_and_average_to_a_grid(whole: Tables) -> None:
    looks = whole.looks("F3", clips=2)
    assert [(look.clip, look.passes) for look in looks] == [(0, "coarse"), (0, "fine"), (1, "coarse"), (1, "fine")]
    assert looks[0].maps.shape == (3, 4, 6, 16)
    assert looks[0].grid.shape == (6, 4, 4)
    assert looks[0].grid[2, 1, 3] == pytest.approx(looks[0].maps[:, :, 2, 7].mean())
    assert whole.looks("B1") == []


def test_looks_are_read_as_the_trainer_writes_them(whole: Tables, tmp_path: Path) -> None:
    maps = torch.rand(3, 4, 6, 17)
    write_maps(tmp_path / "00000040_attention.safetensors", {name: maps.clone() for name in ("12/fine", "12/coarse", "3/fine")})
    read = tables.looks_of(whole.plan.of_run("F3")[0], 40, load_file(tmp_path / "00000040_attention.safetensors"), clips=5)
    assert [(look.clip, look.passes) for look in read] == [(3, "fine"), (12, "coarse"), (12, "fine")]
    assert np.array_equal(read[0].maps, maps[..., 1:].numpy())


def test_figures_name_runs_and_a_study_without_the_figure_has_none(whole: Tables) -> None:
    assert whole.runs_of("Fig 5") == ("F1", "F2", "F3")
    assert whole.runs_of("Fig") == ("F3", "A6", "A1", "B1")
    assert whole.runs_of("Fig 55") == ()


# ---------------------------------------------------------------- what is not there


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("decisions", tables.DECISIONS),
        ("comparisons", tables.COMPARISONS),
        ("learned", tables.LEARNED),
        ("lock", tables.LOCK),
        ("sample_losses", tables.LOSSES),
    ],
)
def test_a_table_without_rows_has_its_columns(empty: Tables, table: str, columns: tuple[str, ...]) -> None:
    frame: pd.DataFrame = getattr(empty, table)()
    assert frame.empty
    assert list(frame.columns) == list(columns)


def test_what_is_missing_is_told_with_its_reason(empty: Tables, whole: Tables) -> None:
    assert empty.missing("val_loss", ("F1",)) == {"F1": "ready: nothing is missing"}
    assert whole.missing("loss_ratio", ("F3", "B1")) == {"B1": "does not measure loss_ratio"}
    assert empty.band("val_loss").columns.tolist() == list(tables.BAND)
    assert len(empty.open()) == 4


def test_a_run_that_the_study_does_not_have_is_refused(whole: Tables) -> None:
    with pytest.raises(UserError, match=r"runs\.toml: there is no run 'F9'; runs: F3, F1, F2, LR2, A1, A6, B1"):
        whole.curve("val_loss", ("F9",))


def test_reading_a_study_without_a_database_makes_none(tmp_path: Path) -> None:
    desk = small_desk(tmp_path)
    desk.store.close()
    for path in (tmp_path / "db").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"ablate\.sqlite: there is no database yet; `ablate launch --profile full` makes it"):
        load(tmp_path / "runs.toml")
    assert list((tmp_path / "db").iterdir()) == []


# ---------------------------------------------------------------- figures


def test_lines_are_named_where_they_end_with_their_seeds(whole: Tables) -> None:
    figure = figures.curves(whole, "val_loss", ("F1", "A1", "F3"), "How much?")
    told = texts(figure)
    assert {"F1  (3 seeds)", "A1  (1 seed)", "F3  (3 seeds)", "How much?", "val_loss (nats per token)", "samples seen"} <= set(
        told.splitlines()
    )
    figure.canvas.draw()


def test_the_loss_axis_leaves_out_the_fall_from_the_untrained_loss(whole: Tables) -> None:
    low, high = figures.curves(whole, "val_loss", ("F3",), "?").axes[0].get_ylim()
    assert low < FINAL["F3"] < high < FINAL["F3"] + 1.0


def test_a_run_has_the_same_colour_in_every_figure(whole: Tables) -> None:
    colour = figures.colours(whole)
    for runs in (("F1", "F2", "F3"), ("F3", "A1", "F1")):
        lines = figures.curves(whole, "val_loss", runs, "?").axes[0].lines
        assert [line.get_color() for line in lines] == [colour[run] for run in runs]
    assert len(set(colour.values())) == len(colour)


def test_a_start_that_no_row_trains_has_a_colour_too(tmp_path: Path) -> None:
    (tmp_path / "runs.toml").write_bytes((REPOSITORY / "runs.toml").read_bytes())
    shown = Tables(open_desk(read_study(tmp_path / "runs.toml", "tiny")))
    assert {"F3", "D1", "D1-start"} <= figures.colours(shown).keys()


def test_there_is_no_table_of_rates_where_the_settings_have_none() -> None:
    assert list(rate_table({"F3": {"optim.lr": 1e-5}})["dino"]) == [1e-5]
    assert rate_table({"F3": {"width": 4}}).empty


def test_runs_that_measured_nothing_are_named_below(tmp_path: Path) -> None:
    shown = Tables(written_desk(tmp_path, without=("A6",)))
    told = texts(figures.curves(shown, "val_loss", ("F3", "A6"), "?"))
    assert "not there yet, or not to the end: A6 (ready: nothing is missing)" in told


def test_a_figure_of_nothing_says_so(empty: Tables) -> None:
    for figure in (
        figures.curves(empty, "val_loss", ("F3",), "?"),
        figures.efficiency(empty, "val_loss", ("F3",), "?"),
        figures.attention(empty, "F3", "?"),
    ):
        assert "F3: ready: nothing is missing" in texts(figure)
        figure.canvas.draw()
    assert "the study names no runs for this figure" in texts(figures.curves(empty, "val_loss", (), "?"))
    assert "the study names no runs for this figure" in texts(figures.attention(empty, "", "?"))


def test_attention_shows_every_frame_of_each_clip_and_pass(whole: Tables) -> None:
    figure = figures.attention(whole, "F3", "Where?", clips=2)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == 4 * 6
    assert len({image.get_clim() for image in images}) == 1
    assert "clip 1\nfine" in texts(figure)


@pytest.mark.parametrize(
    ("wanted", "heights"),
    [
        ({"a": 0.1, "b": 0.5}, {"a": 0.1, "b": 0.5}),
        ({"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.6}),
        ({"a": 1.0, "b": 0.98, "c": 3.0}, {"b": 0.8, "a": 0.9, "c": 1.0}),
        ({}, {}),
    ],
)
def test_labels_that_would_meet_are_moved_apart(wanted: dict[str, float], heights: dict[str, float]) -> None:
    assert figures.spread(wanted, 0.1) == pytest.approx(heights)
