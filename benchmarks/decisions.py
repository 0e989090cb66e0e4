"""What the trees decide beside what people do: wrong adoptions, misses and regret over noise levels, seeds, effects and rules.

    python -m benchmarks.decisions [--study runs.toml] [--profile tiny] [--studies 500] [--noise normal ...] [--json]

Each cell plays the whole study `--studies` times. Noise is the sd between seeds as a share of each metric's margin, and declared
as it is. Seeds are those of every run: at once (3), or as looks of which the later ones are taken only where they could decide
(3, 5). Where nothing is true, every rule's wrong adoptions are counted. Where every row that a tree may adopt truly differs by so
many margins, up or down, on every metric its tree compares, regret is compared at equal GPU-hours: what the trees saved by
skipping and settling is given to the other rules as seeds. A figure is written to benchmarks/out/.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import matplotlib as mpl
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

from ablate.rehearsal.equal_hours import EqualHours, at_equal_hours
from ablate.rehearsal.rehearse import rehearse
from ablate.rehearsal.rules import RULES, Rule
from ablate.rehearsal.targets import rows_differ
from ablate.rehearsal.worlds import NoiseKind, World
from ablate.runs_toml import read_study
from ablate.study import Study

OUT = Path(__file__).parent / "out"
NOISES = (0.2, 0.4, 0.6, 1.0)
"""sd between seeds, in margins; the tiny study's loss has 0.2."""
PLANS = ((1,), (3,), (3, 5), (3, 6, 12))
"""Seeds per run; several: looks."""
EFFECTS = (1.0, 1.5, 2.0, 3.0, 5.0)
"""In margins."""
PEOPLE: tuple[Rule, ...] = ("lowest of all seeds", "lowest mean")
LIMIT_S = 300.0


@dataclass(frozen=True)
class Null:
    """Nothing is true."""

    kind: NoiseKind
    sd_in_margins: float
    plan: tuple[int, ...]
    rule: Rule
    wrong: float
    """Share of studies with a wrong adoption."""
    gpu_hours: float


@dataclass(frozen=True)
class Differing:
    """Rows truly differ, and every rule has the trees' GPU-hours."""

    kind: NoiseKind
    sd_in_margins: float
    plan: tuple[int, ...]
    effect: float
    """In margins."""
    rule: Rule
    seeds: float
    """Of every run; 0 for the trees, which ask where they need."""
    wrong: float
    missed: float
    regret: float
    """In margins."""
    net_regret: float
    gpu_hours: float


def planned(study: Study, plan: tuple[int, ...], kind: NoiseKind, noise: float) -> tuple[Study, World]:
    sd = {name: noise * metric.margin for name, metric in study.metrics.items()}
    made = replace(
        study,
        seeds={run: tuple(range(plan[-1])) for run in study.seeds},
        looks=plan if len(plan) > 1 else (),
        metrics={name: replace(metric, noise=sd[name]) for name, metric in study.metrics.items()},
    )
    return made, World("benchmark", sd, noise=kind)


def cells(study: Study, kinds: Sequence[NoiseKind], studies: int, limit_s: float) -> Iterator[Null | Differing]:
    """Every cell that is begun within the time given."""
    begun = time.perf_counter()
    for kind in kinds:
        for noise in NOISES:
            for plan in PLANS:
                if time.perf_counter() - begun > limit_s:
                    return
                of, world = planned(study, plan, kind, noise)
                for rule, found in rehearse(of, world, studies=studies).outcomes.items():
                    yield Null(kind, noise, plan, rule, found.wrong, found.gpu_hours)
                for effect in EFFECTS:
                    yield from _differing(of, replace(world, either=rows_differ(of, effect)), plan, noise, effect, studies)


def _differing(of: Study, world: World, plan: tuple[int, ...], noise: float, effect: float, studies: int) -> Iterator[Differing]:
    ours = rehearse(of, world, studies=studies, rules=("trees",)).outcomes["trees"]
    trees = EqualHours("trees", 0.0, ours.gpu_hours, ours.wrong, ours.missed, ours.regret, ours.net_regret)
    for one in (trees, *(at_equal_hours(of, world, rule, ours.gpu_hours, studies=studies) for rule in PEOPLE)):
        numbers = (one.seeds, one.wrong, one.missed, one.regret, one.net_regret, one.gpu_hours)
        yield Differing(world.noise, noise, plan, effect, one.rule, *numbers)


# ---------------------------------------------------------------- shown


def words(plan: tuple[int, ...]) -> str:
    return f"{plan[0]} seed{'s' * (plan[0] > 1)}" if len(plan) == 1 else f"looks {', '.join(map(str, plan))}"


def draw(found: Sequence[Differing], kind: NoiseKind, path: Path) -> None:
    """Regret against the true effect; a row of panels per plan, a column per noise."""
    mpl.use("Agg")
    mine = [cell for cell in found if cell.kind == kind]
    plans, noises = (tuple(dict.fromkeys(getattr(cell, name) for cell in mine)) for name in ("plan", "sd_in_margins"))
    figure, axes = plt.subplots(
        len(plans), len(noises), figsize=(2.6 * len(noises), 1.9 * len(plans)), squeeze=False, sharex=True
    )
    for row, plan in zip(axes, plans, strict=True):
        for panel, noise in zip(row, noises, strict=True):
            for rule in ("trees", *PEOPLE):
                line = [cell for cell in mine if (cell.plan, cell.sd_in_margins, cell.rule) == (plan, noise, rule)]
                panel.plot([cell.effect for cell in line], [cell.regret for cell in line], "o-", ms=3, label=rule)
            panel.set_title(f"{words(plan)}; sd {noise:g} margins", fontsize=8)
            panel.spines[["top", "right"]].set_visible(False)
            panel.set_ylim(bottom=-0.02)
            panel.tick_params(labelsize=7)
        row[0].set_ylabel("regret (margins)", fontsize=8)
    for panel in axes[-1]:
        panel.set_xlabel("rows truly differ by ± margins", fontsize=8)
    axes[0][0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def tables(nulls: Sequence[Null], differing: Sequence[Differing], studies: int) -> Iterator[Table]:
    each = f"{studies:,} rehearsed studies per cell"
    wrong = Table("noise", "sd / margin", "seeds", *RULES, title=f"Nothing is true: wrong adoptions ({each})")
    for key in dict.fromkeys((cell.kind, cell.sd_in_margins, cell.plan) for cell in nulls):
        of_key = {cell.rule: cell.wrong for cell in nulls if (cell.kind, cell.sd_in_margins, cell.plan) == key}
        wrong.add_row(key[0], f"{key[1]:g}", words(key[2]), *(f"{100 * of_key[rule]:.1f} %" for rule in RULES))
    yield wrong
    title = f"Rows differ: regret in margins, trees / lowest seed / mean, at equal GPU-hours ({each})\n* the trees regret least"
    regret = Table("noise", "sd / margin", "seeds", *(f"± {effect:g}" for effect in EFFECTS), title=title)
    for key in dict.fromkeys((cell.kind, cell.sd_in_margins, cell.plan) for cell in differing):
        mine = [cell for cell in differing if (cell.kind, cell.sd_in_margins, cell.plan) == key]
        regret.add_row(key[0], f"{key[1]:g}", words(key[2]), *(_regrets(mine, effect) for effect in EFFECTS))
    yield regret


def _regrets(cells: Sequence[Differing], effect: float) -> str:
    ours, *people = (cell.regret for cell in cells if cell.effect == effect)
    return " / ".join(f"{one:.2f}" for one in (ours, *people)) + (" *" if ours < min(people) else "")


def main() -> None:
    arguments = _arguments()
    study = read_study(arguments.study, arguments.profile)
    found = list(cells(study, arguments.noise, arguments.studies, arguments.limit))
    nulls = [cell for cell in found if isinstance(cell, Null)]
    differing = [cell for cell in found if isinstance(cell, Differing)]
    paths = [
        OUT / ("decisions.png" if kind == "normal" else f"decisions_{kind}.png")
        for kind in dict.fromkeys(c.kind for c in differing)
    ]
    for kind, path in zip(dict.fromkeys(cell.kind for cell in differing), paths, strict=True):
        draw(differing, kind, path)
    if arguments.json:
        document = {"nothing": [asdict(cell) for cell in nulls], "differ": [asdict(cell) for cell in differing]}
        print(json.dumps(document, indent=1))
        return
    console = Console(width=150)
    for table in tables(nulls, differing, arguments.studies):
        console.print(table)
    console.print(f"figures: {', '.join(map(str, paths))}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--study", type=Path, default=Path(__file__).parent.parent / "runs.toml")
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--studies", type=int, default=500)
    kinds = [kind for kind in get_args(NoiseKind) if kind != "past"]
    parser.add_argument("--noise", nargs="+", choices=kinds, default=["normal"])
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds; no plan of seeds is begun after them")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
