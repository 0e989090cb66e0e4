"""Comparisons on terminals of any width: numbers, interval, seeds and verdict stay whole; the drawing gives way first."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ablate.screens.compare import forest, grounds
from ablate.screens.comparisons import BAR, bar_columns, comparison_table, legend


def one(a: str, b: str, delta: float | None, holds: tuple[str, ...], metric: str = "val_loss", **more: Any) -> dict[str, Any]:
    half = 0.0292
    ends: dict[str, float | None] = dict.fromkeys(("low", "high", "tost_low", "tost_high"))
    if delta is not None:
        ends = {"low": delta - half, "high": delta + half, "tost_low": delta - half / 2, "tost_high": delta + half / 2}
    numbers = {"delta": delta, **ends, "margin": 0.08, "n_a": 3, "n_b": 12, "level": 0.006, "tost_level": 0.05}
    return {"a": a, "b": b, "metric": metric, "better": "lower", "holds": list(holds), "reason": "", **numbers, **more}


USUAL = (
    one("F2", "F3", 0.0469, ("no worse", "same")),
    one("F1", "F3", 0.251, ("worse",)),
    one("LR4", "LR1", -0.000251, ("better", "no worse")),
    one("A6", "F3", 0.1, ()),
    one("B1", "F3", None, (), reason="diverged"),
    one("A8a", "F3", 0.2, (), reason="unfair: another budget, 12,000 samples, not 9,600"),
)
OF_SEVERAL = (*USUAL, one("LR_warm", "baseline_long", -0.436, ("better", "no worse"), "image_vqa/all_questions"))


def drawn(comparisons: Any, width: int) -> tuple[str, list[list[str]]]:
    """The screen, and of each comparison what it says: numbers as they are to be read, and the words of its verdict."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    comparison_table(console, comparisons, bar_columns(console, comparisons))
    said = []
    for each in comparisons:
        numbers = [
            f"{each['n_a']}/{each['n_b']}",
            *(each["holds"] or ([each["reason"]] if 0 < len(each["reason"]) <= 24 else ["not shown"])),
        ]
        if each["delta"] is not None:
            narrow = set(each["holds"]) in ({"no worse", "same"}, {"same"}, {"no worse"})
            low, high = (each["tost_low"], each["tost_high"]) if narrow else (each["low"], each["high"])
            numbers += [f"{each['delta']:+.3g}", f"[{low:+.3g}, {high:+.3g}]{'*' if narrow else ''}"]
        said.append(numbers)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), said


@pytest.mark.parametrize("width", [60, 72, 80, 100])
@pytest.mark.parametrize("comparisons", [USUAL, OF_SEVERAL], ids=["one metric", "several, with long names"])
def test_every_number_interval_n_and_verdict_is_on_the_screen_whole(comparisons: Any, width: int) -> None:
    out, said = drawn(comparisons, width)
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    starts = [at for at, line in enumerate(lines) if "/12" in line]
    assert len(starts) == len(comparisons)
    for words, start, end in zip(said, starts, [*starts[1:], len(lines)], strict=True):
        rows = " ".join(lines[start:end])
        assert [word for word in words if word not in rows] == []
    assert out.count("*") == 1
    assert "…" not in out
    assert "A8a − F3: unfair: another budget, 12,000 samples, not 9,600" in " ".join(out.split())


def test_a_bar_is_as_wide_as_the_numbers_let_it_and_goes_where_they_leave_too_little() -> None:
    widths = [bar_columns(Console(file=io.StringIO(), width=width), USUAL[:3]) for width in (60, 80, 96, 120)]
    assert widths[:2] == [0, 0]
    assert 0 < widths[2] < BAR
    assert widths[2] % 2 == 1
    assert widths[3] == BAR


def test_the_legend_tells_of_bars_only_where_there_are_any() -> None:
    assert "● the estimate (val_loss ±0.08, better is left)" in legend(USUAL, BAR)
    without = legend(USUAL, 0)
    assert without.startswith("margin: val_loss ±0.08, better is lower\n")
    assert "●" not in without


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_forest_takes_what_its_numbers_leave(width: int) -> None:
    lines = forest([one("F1", "F3", 0.251, ("worse",)), one("F1", "F3", -0.4, ("better",), "val_loss/image")], width)
    assert max(map(len, lines)) <= width
    for line, numbers in zip(lines, ("+0.251 [+0.222, +0.28] 99.4 % ±0.08", "-0.4 [-0.429, -0.371] 99.4 % ±0.08"), strict=False):
        assert line.endswith(numbers)
    assert ("●" in lines[0]) == (width > 60)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_ledger_of_fairness_folds_and_cuts_nothing(width: int) -> None:
    check = {"check": "initial weights", "a": "16bc717e5d05a69b16bc717e5d05", "b": "a69b16bc717e5d0516bc717e5d05"}
    ledger = [{**check, "ok": False, "declared": False, "blocks": True}]
    found = one("LR_warm", "F3", 0.251, (), fairness=ledger, labels=[], notes=[], visible=None, method="pooled", p=0.01)
    noise = {"sd": 0.01, "df": 12, "source": "measured"}
    found |= {"values_a": {}, "values_b": {}, "noise": noise, "correlation": None, "diverged": [[0, 3], [0, 12]], "unit": "nats"}
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(grounds(found))
    assert isinstance(console.file, io.StringIO)
    out = console.file.getvalue()
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= width
