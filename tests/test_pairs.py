"""Any two runs compared by hand: in Python, on the command line, as a figure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ablate
from ablate import cli
from ablate.answers.compare import FORMULAS, compare, says
from ablate.desk import Desk
from ablate.forest import forest as figure_of
from ablate.pairs import compare_two
from ablate.screens import drawing
from ablate.screens.compare import FOREST, forest
from ablate.study import UserError
from tests.written_study import FINAL, written_desk


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return written_desk(tmp_path_factory.mktemp("pairs"), without=("B1",))


@pytest.fixture
def typed(desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(desk.study.path.parent)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ablate", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def test_two_runs_are_compared_from_python(desk: Desk) -> None:
    (one,) = ablate.compare_runs("F1", "F3", study=desk.study.path)
    assert one.holds == ("worse",)
    assert one.delta == pytest.approx(0.3)
    assert (one.n_a, one.n_b, one.source) == (3, 3, "measured")
    assert one.labels[0].startswith("exploratory: asked by hand")


def test_importing_ablate_stays_light() -> None:
    script = "import sys, ablate; print(sorted({'scipy', 'numpy', 'pandas', 'ray', 'sqlalchemy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_pair_of_a_decision_names_the_decision_and_its_level(desk: Desk) -> None:
    pair = compare_two(desk, "F3", "F1")
    assert pair.rests["val_loss"] == ("freeze (level 0.025)",)
    assert compare_two(desk, "LR2", "LR1").rests["val_loss"] == ("lr (level 0.025)",)


def test_the_validation_samples_are_shown_beside_the_difference_and_make_no_verdict(desk: Desk) -> None:
    pair = compare_two(desk, "F1", "F3")
    found = pair.samples["val_loss"]
    assert (found.seeds, found.samples, found.by) == ((42, 43, 44), 6, "sample")
    assert pair.comparisons[0].holds == ("worse",)


def test_a_run_without_results_is_waited_for(typed: Any) -> None:
    code, out, _ = typed("compare", "B1", "F3")
    assert code == 3
    assert "B1@42 is ready: not in it yet" in out


def test_a_comparison_says_what_holds_beside_its_interval_and_what_was_equal(typed: Any) -> None:
    code, out, _ = typed("compare", "A6", "F3")
    assert code == 0
    assert "holds    A6 is worse than F3 on val_loss" in out
    assert "exploratory: asked by hand" in out
    assert "n 1/3 seeds · sd" in out
    assert "budget 960 samples" in out
    assert "shown, never a verdict" in " ".join(out.split())
    assert "better ←" in out
    assert max(map(len, out.splitlines())) <= drawing.WIDTH


def test_explained_it_shows_seeds_pool_ledger_and_the_source_of_each_formula(typed: Any) -> None:
    _, out, _ = typed("compare", "F1", "F3", "--explain")
    for text in (
        "42: 1.31",
        "pool     F3, F1, F2",
        "✓",
        "manifest",
        "Welch" if "welch" in out else "Fisher 1925",
        "Schuirmann 1987",
    ):
        assert text in out


def test_the_document_holds_what_the_screen_shows(typed: Any) -> None:
    code, out, _ = typed("compare", "F1", "F3", "--json")
    document = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    (one,) = document["comparisons"]
    assert code == 0
    assert one["says"] == "F1 is worse than F3 on val_loss"
    assert one["diverged"] == [[0, 3], [0, 3]]
    assert one["budget"] == {"a": "960", "b": "960"}
    assert one["pool"]["runs"] == ["F3", "F1", "F2"]
    assert next(each["name"] for each in document["formulas"]) in FORMULAS


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_forest_plot_is_written_as_a_picture(typed: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"forest{suffix}"
    assert typed("compare", "F1", "F3", "--plot", str(path))[0] == 0
    assert path.read_bytes()[:4] in (b"\x89PNG", b"<?xm")


def test_a_forest_of_one_metric_is_in_its_unit_and_of_several_in_margins(desk: Desk) -> None:
    one = compare(desk, "F1", "F3", ())["comparisons"][0]
    assert "[nats per token]" in figure_of([one], "t").axes[0].get_xlabel()
    assert "in margins" in figure_of([one, {**one, "metric": "other"}], "t").axes[0].get_xlabel()


def test_the_forest_in_the_terminal_puts_better_to_the_left_whatever_the_metric_prefers() -> None:
    one = {"a": "A", "b": "B", "metric": "m", "better": "lower", "margin": 1.0, "holds": [], "reason": ""}
    one |= {"delta": -1.5, "low": -1.8, "high": -1.2, "tost_low": -1.7, "tost_high": -1.3, "level": 0.05, "tost_level": 0.05}
    mirrored = {**one, "better": "higher", "delta": 1.5, "low": 1.2, "high": 1.8, "tost_low": 1.3, "tost_high": 1.7}
    for each in (one, mirrored):
        row = forest([each])[0]
        assert 0 < row.index("●") - 3 < FOREST // 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("F9", "F3"), "there is no run 'F9'. Runs: F3, F1"),
        (("F3", "LR1"), "F3 and LR1 are the same run"),
        (("F1", "F3", "--metric", "val_los"), "--metric 'val_los' is not declared. Did you mean \"val_loss\"?"),
        (("F3", "its start"), "F3 is the baseline: it has no start"),
        (("F1", "F3", "--plot", "x.txt"), "the name must end in .png, .svg or .pdf"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_exit_code_2(typed: Any, words: tuple[str, ...], message: str) -> None:
    code, _, err = typed("compare", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_its_start_means_the_run_a_row_was_changed_from(desk: Desk) -> None:
    assert compare_two(desk, "A6", "its start").b == "F3"


def test_what_is_not_shown_says_what_would_have_been_seen(desk: Desk) -> None:
    one = compare(desk, "LR2", "F3", ())["comparisons"][0]
    assert FINAL["LR2"] > FINAL["F3"]
    text = says({**one, "holds": [], "reason": ""})
    assert text.startswith("not shown on val_loss: neither a difference nor its absence; a true difference of ")


def test_an_unknown_run_is_refused_in_python_too(desk: Desk) -> None:
    with pytest.raises(UserError, match="there is no run 'X'"):
        ablate.compare_runs("X", "F3", study=desk.study.path)
