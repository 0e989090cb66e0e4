"""What the trees decide beside what people do: wrong adoptions, misses and regret over noise levels, seed counts and rules.

    python -m benchmarks.decisions [--study runs.toml] [--profile tiny] [--studies 1000] [--noise normal ...] [--json]

Each cell plays the whole study `--studies` times. Noise is the sd between seeds as a share of each metric's margin; seeds are
those of every run. Two worlds: nothing is true (wrong adoptions), and every row that a tree may adopt truly differs by `--effect`
margins, up or down (misses, regret). The rule "lowest of all seeds" trains the same jobs as the trees: their regrets are at equal
GPU-hours. A figure with all cells is written to benchmarks/out/decisions.png.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import matplotlib as mpl
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

from ablate.rehearsal.rehearse import RULES, Rule, rehearse
from ablate.rehearsal.targets import rows_differ
from ablate.rehearsal.worlds import NoiseKind, World
from ablate.runs_toml import read_study
from ablate.study import Study

OUT = Path(__file__).parent / "out"
NOISES = (0.1, 0.2, 0.4, 0.6, 1.0)
"""sd between seeds, in margins; the tiny study has 0.6 on its loss."""
SEEDS = (1, 2, 3, 5, 10)
LIMIT_S = 150.0


@dataclass(frozen=True)
class Cell:
    kind: NoiseKind
    sd_in_margins: float
    seeds: int
    rule: Rule
    wrong: float
    """Nothing is true: share of studies with a wrong adoption."""
    wrong_when_rows_differ: float
    missed: float
    regret: float
    """In margins."""
    gpu_hours: float


def cells(study: Study, kinds: Sequence[NoiseKind], studies: int, effect: float, limit_s: float) -> list[Cell]:
    """Every cell that fits into the time given."""
    found: list[Cell] = []
    begun = time.perf_counter()
    for kind in kinds:
        for noise in NOISES:
            for seeds in SEEDS:
                if time.perf_counter() - begun > limit_s:
                    return found
                found += _cell(study, kind, noise, seeds, studies, effect)
    return found


def _cell(study: Study, kind: NoiseKind, noise: float, seeds: int, studies: int, effect: float) -> list[Cell]:
    """One seed count at one noise, all rules. The declared noise is true: with one seed nothing else is known."""
    sd = {name: noise * metric.margin for name, metric in study.metrics.items()}
    planned = replace(
        study,
        seeds={run: tuple(range(42, 42 + seeds)) for run in study.seeds},
        metrics={name: replace(metric, noise=sd[name]) for name, metric in study.metrics.items()},
    )
    world = World("benchmark", sd, noise=kind)
    null = rehearse(planned, world, studies=studies).outcomes
    differ = rehearse(planned, replace(world, either=rows_differ(planned, effect)), studies=studies).outcomes
    return [
        Cell(
            kind,
            noise,
            seeds,
            rule,
            null[rule].wrong,
            differ[rule].wrong,
            differ[rule].missed,
            differ[rule].regret,
            differ[rule].gpu_hours,
        )
        for rule in RULES
    ]


def draw(found: Sequence[Cell], kind: NoiseKind, effect: float, path: Path) -> None:
    """Wrong adoptions (nothing true), misses and regret against the noise; a row of panels per seed count."""
    mpl.use("Agg")
    shown = [
        ("wrong", "wrong adoptions, nothing true"),
        ("missed", f"misses, rows ± {effect:g} margins"),
        ("regret", "regret (margins)"),
    ]
    seeds = sorted({cell.seeds for cell in found if cell.kind == kind})
    figure, axes = plt.subplots(len(seeds), len(shown), figsize=(11, 2.3 * len(seeds)), squeeze=False, sharex=True)
    for row, count in zip(axes, seeds, strict=True):
        for panel, (name, title) in zip(row, shown, strict=True):
            for rule in RULES:
                of_rule = [cell for cell in found if (cell.kind, cell.seeds, cell.rule) == (kind, count, rule)]
                panel.plot(
                    [cell.sd_in_margins for cell in of_rule], [getattr(cell, name) for cell in of_rule], "o-", ms=3, label=rule
                )
            panel.set_title(f"{title}; {count} seed{'s' * (count > 1)}", fontsize=8)
            panel.spines[["top", "right"]].set_visible(False)
            panel.set_ylim(bottom=-0.02)
            panel.tick_params(labelsize=7)
    for panel in axes[-1]:
        panel.set_xlabel("sd between seeds, in margins", fontsize=8)
    axes[0][0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    arguments = _arguments()
    study = read_study(arguments.study, arguments.profile)
    found = cells(study, arguments.noise, arguments.studies, arguments.effect, arguments.limit)
    for kind in dict.fromkeys(cell.kind for cell in found):
        path = OUT / ("decisions.png" if kind == "normal" else f"decisions_{kind}.png")
        draw(found, kind, arguments.effect, path)
    if arguments.json:
        print(json.dumps([asdict(cell) for cell in found], indent=1))
        return
    console = Console(width=110)
    title = f"{arguments.studies:,} rehearsed studies per cell; rows differ by ± {arguments.effect:g} margins"
    table = Table("noise", "sd / margin", "seeds", "rule", "wrong (nothing true)", "misses", "regret", "GPU-hours", title=title)
    for cell in found:
        numbers = (f"{100 * cell.wrong:.1f} %", f"{100 * cell.missed:.1f} %", f"{cell.regret:.2f}", f"{cell.gpu_hours:.2f}")
        end = cell.rule == RULES[-1]
        table.add_row(cell.kind, f"{cell.sd_in_margins:g}", str(cell.seeds), cell.rule, *numbers, end_section=end)
    console.print(table)
    console.print(f"figure: {OUT / 'decisions.png'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--study", type=Path, default=Path(__file__).parent.parent / "runs.toml")
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--studies", type=int, default=1_000)
    parser.add_argument("--effect", type=float, default=2.0, help="in margins")
    kinds = [kind for kind in get_args(NoiseKind) if kind != "past"]
    parser.add_argument("--noise", nargs="+", choices=kinds, default=["normal", "heavy"])
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds; no cell is begun after them")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
