"""Do the statistics keep their word on real seeds? Noise, pairing, coverage and verdicts on 12 extra seeds of the tiny study.

    python -m benchmarks.calibration [--draws 2000] [--json]         from the numbers kept in benchmarks/measured/tiny_seeds.csv
    python -m benchmarks.calibration --train FOLDER [--seeds 12]     train such seeds (F3, F1, LR4): 36 jobs, 12 minutes
    python -m benchmarks.calibration --collect FOLDER                keep what was trained there

Small studies are drawn from the many seeds, k of each run, and judged as `ablate decide` would. What the intervals should
cover: for two halves of one run's seeds, 0; for two runs, the difference of the seeds that were not drawn. The latter is itself
an estimate, from n − k seeds, so those intervals are widened by √(1 + k / (n − k)): prediction intervals, exact for normal seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table
from scipy import stats

from ablate.deciding.compare import compare
from ablate.deciding.comparison import Comparison
from ablate.deciding.noise import noise_pool
from ablate.deciding.scores import scores
from ablate.desk import existing_desk
from ablate.runs_toml import read_study
from ablate.study import JobResult, Metric

ROOT = Path(__file__).parent.parent
KEPT = Path(__file__).parent / "measured" / "tiny_seeds.csv"
FIGURE = Path(__file__).parent / "out" / "calibration.png"
RUNS = ("F3", "F1", "LR4")
FIRST_SEED = 100
METRIC = "val_loss"
SIZES = (2, 3, 5)
"""Seeds per run of the small studies drawn."""
LEVEL = 0.05

Seeds = Mapping[int, float]
"""Seed -> final value."""


@dataclass(frozen=True)
class Noise:
    """Between the seeds of one run."""

    run: str
    n: int
    mean: float
    sd: float
    sd_low: float
    sd_high: float
    """95 % interval (chi-squared)."""
    normal_p: float
    """Shapiro & Wilk (1965): small means not normal."""
    farthest: float
    """The most extreme seed, in sd from the mean."""


@dataclass(frozen=True)
class Pairing:
    """How much two runs of one seed move together."""

    a: str
    b: str
    n: int
    correlation: float
    low: float
    high: float
    """95 % interval (Fisher's z)."""
    used: float
    """Share of drawn studies of five seeds in which the pairing rule pairs."""


@dataclass(frozen=True)
class Coverage:
    """Studies of k seeds per run."""

    a: str
    b: str
    seeds: int
    draws: int
    covered: float
    """Share of 95 % intervals that hold what they should."""
    verdicts: Mapping[str, float]
    """Share of studies in which it held; "none" where nothing did."""


def kept() -> dict[str, Seeds]:
    """Run -> seed -> final value."""
    final: dict[str, dict[int, tuple[int, float]]] = {}
    with KEPT.open(newline="") as file:
        for row in csv.DictReader(file):
            of_run = final.setdefault(row["run"], {})
            step = int(row["step"])
            if step >= of_run.get(int(row["seed"]), (-1, 0.0))[0]:
                of_run[int(row["seed"])] = step, float(row[METRIC])
    return {run: {seed: value for seed, (_, value) in of_run.items()} for run, of_run in final.items()}


# ---------------------------------------------------------------- measures


def noise(run: str, seeds: Seeds) -> Noise:
    values = list(seeds.values())
    n, sd = len(values), stdev(values)
    low, high = (sd * math.sqrt((n - 1) / stats.chi2.ppf(p, n - 1)) for p in (0.975, 0.025))
    farthest = max(((value - fmean(values)) / sd for value in values), key=abs)
    return Noise(run, n, fmean(values), sd, low, high, float(stats.shapiro(values).pvalue), farthest)


def pairing(a: str, b: str, seeds: Mapping[str, Seeds], metric: Metric, draws: int, rng: np.random.Generator) -> Pairing:
    common = sorted(seeds[a].keys() & seeds[b].keys())
    r = float(np.corrcoef([seeds[a][seed] for seed in common], [seeds[b][seed] for seed in common])[0, 1])
    half = 1.96 / math.sqrt(len(common) - 3)
    low, high = math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
    used = [judged(metric, seeds, a, b, drawn, drawn).paired for drawn in _draws(common, 5, draws, rng)]
    return Pairing(a, b, len(common), r, low, high, fmean(used))


def null_coverage(run: str, seeds: Mapping[str, Seeds], metric: Metric, k: int, draws: int, rng: np.random.Generator) -> Coverage:
    """Two halves of one run: nothing is true, the interval should hold 0."""
    halves = ((drawn[:k], drawn[k:]) for drawn in _draws(sorted(seeds[run]), 2 * k, draws, rng))
    made = [judged(metric, seeds, run, run, one, other) for one, other in halves]
    return Coverage(run, run, k, draws, fmean(one.low <= 0 <= one.high for one in made), _verdicts(made))


def pair_coverage(
    a: str, b: str, seeds: Mapping[str, Seeds], metric: Metric, k: int, draws: int, rng: np.random.Generator
) -> Coverage:
    """Two runs on the same seeds, as a study trains them; the interval should hold the difference of the seeds left out."""
    common = sorted(seeds[a].keys() & seeds[b].keys())
    made, covered = [], []
    for drawn in _draws(common, k, draws, rng):
        rest = [seed for seed in common if seed not in drawn]
        truth = fmean(seeds[a][seed] - seeds[b][seed] for seed in rest)
        one = judged(metric, seeds, a, b, drawn, drawn)
        widened = (one.high - one.low) / 2 * math.sqrt(1 + k / len(rest))
        made.append(one)
        covered.append(abs(one.delta - truth) <= widened)
    return Coverage(a, b, k, draws, fmean(covered), _verdicts(made))


def judged(
    metric: Metric, seeds: Mapping[str, Seeds], a: str, b: str, seeds_a: Sequence[int], seeds_b: Sequence[int]
) -> Comparison:
    """These seeds of `a` against those of `b`, with the noise of just them."""
    one, other = _results(f"{a}", seeds[a], seeds_a), _results(f"{b}'" if a == b else b, seeds[b], seeds_b)
    pool = noise_pool(metric, {one[0].run: one, other[0].run: other})
    return compare(metric, scores(metric, one[0].run, one), scores(metric, other[0].run, other), pool, LEVEL)


def _results(run: str, values: Seeds, seeds: Sequence[int]) -> list[JobResult]:
    return [JobResult(f"{run}-s{seed}", run, seed, "done", {METRIC: values[seed]}, {}) for seed in seeds]


def _draws(seeds: Sequence[int], k: int, draws: int, rng: np.random.Generator) -> Iterator[list[int]]:
    return (list(map(int, rng.choice(seeds, k, replace=False))) for _ in range(draws))


def _verdicts(made: Sequence[Comparison]) -> dict[str, float]:
    names = ("better", "worse", "no worse", "same")
    return {name: fmean(name in one.holds for one in made) for name in names} | {"none": fmean(not one.holds for one in made)}


# ---------------------------------------------------------------- training and keeping


def train(folder: Path, seeds: int) -> None:
    """The tiny study with these seeds and nothing else, in a folder of its own; called again it goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "runs.toml").write_text(_with_seeds((ROOT / "runs.toml").read_text(), range(FIRST_SEED, FIRST_SEED + seeds)))
    for name in ("ablate", "trainer", "db"):
        if not (folder / name).exists():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite*"))
    for words in (
        ["trainer.data.prepare"],
        ["ablate.cli", "launch", "--profile", "tiny", "--gpus", "4", *(word for run in RUNS for word in ("--run", run))],
    ):
        subprocess.run([sys.executable, "-m", *words], cwd=folder, check=False)


def _with_seeds(text: str, seeds: Sequence[int]) -> str:
    """The study's file with these seeds for RUNS, and no sweep that could skip one of them."""
    extra = "".join(f"{run} = {list(seeds)}\n" for run in RUNS)
    text = re.sub(r"(?ms)^\[profile\.tiny\.seeds\.extra\]\n.*?^\n", f"[profile.tiny.seeds.extra]\n{extra}\n", text)
    return re.sub(r"(?m)^skip .*\n", "", text)


def collect(folder: Path) -> str:
    """Keep the curves of the extra seeds trained in `folder`, and how they came to be."""
    desk = existing_desk(read_study(folder / "runs.toml", "tiny"))
    done = [job for run in RUNS for job in desk.plan().of_run(run) if job.state == "done" and job.seed >= FIRST_SEED]
    names = sorted(name for name in desk.study.metrics if name.startswith(METRIC))
    rows = []
    for job in done:
        curves = {name: dict(desk.store.curve(job.key or "", name)) for name in names}
        rows += [
            {"run": job.run, "seed": job.seed, "step": step, **{name: f"{curves[name][step]:.6g}" for name in names}}
            for step in curves[METRIC]
        ]
    KEPT.parent.mkdir(exist_ok=True)
    with KEPT.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["run", "seed", "step", *names], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    last = desk.store.attempts()[done[-1].key or ""][-1]
    about = {
        "command": "python -m benchmarks.calibration --train FOLDER; python -m benchmarks.calibration --collect FOLDER",
        "kept_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": last.git_commit,
        "code_hash": last.code_hash,
        "versions": dict(last.versions),
        "jobs": len(done),
    }
    KEPT.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
    return f"{len(done)} jobs, {len(rows)} rows -> {KEPT}"


# ---------------------------------------------------------------- shown


def draw(seeds: Mapping[str, Seeds], found: Sequence[Coverage], path: Path) -> None:
    """Every seed of every run; and how often each study size covers what it should."""
    mpl.use("Agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for place, values in enumerate(seeds.values()):
        left.plot(list(values.values()), [place] * len(values), "o", ms=4, alpha=0.6)
    left.set_yticks(range(len(seeds)), list(seeds))
    left.set_xlabel(f"{METRIC}, one dot per seed")
    for a, b in dict.fromkeys((one.a, one.b) for one in found):
        of_pair = [one for one in found if (one.a, one.b) == (a, b)]
        label = f"{a}, two halves" if a == b else f"{a} − {b}"
        right.plot([one.seeds for one in of_pair], [100 * one.covered for one in of_pair], "o-", ms=4, label=label)
    right.axhspan(93, 97, alpha=0.15)
    right.set_ylim(80, 101)
    right.set_xlabel("seeds per run")
    right.set_ylabel("95 % intervals that cover, %")
    right.legend(frameon=False, fontsize=8)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    arguments = _arguments()
    if arguments.train:
        train(arguments.train, arguments.seeds)
        return
    if arguments.collect:
        print(collect(arguments.collect))
        return
    study = read_study(ROOT / "runs.toml", "tiny")
    metric, seeds = study.metrics[METRIC], kept()
    rng, draws = np.random.default_rng(0), arguments.draws
    noises = [noise(run, values) for run, values in seeds.items()]
    others = [run for run in seeds if run != study.baseline]
    pairings = [pairing(run, study.baseline, seeds, metric, draws, rng) for run in others]
    found = [null_coverage(run, seeds, metric, k, draws, rng) for run in seeds for k in SIZES]
    found += [pair_coverage(run, study.baseline, seeds, metric, k, draws, rng) for run in others for k in SIZES]
    draw(seeds, found, FIGURE)
    if arguments.json:
        print(json.dumps({"noise": _plain(noises), "pairing": _plain(pairings), "coverage": _plain(found)}, indent=1))
        return
    _screen(metric, noises, pairings, found)


def _plain(rows: Sequence[Noise | Pairing | Coverage]) -> list[dict[str, object]]:
    return [asdict(row) for row in rows]


def _screen(metric: Metric, noises: Sequence[Noise], pairings: Sequence[Pairing], found: Sequence[Coverage]) -> None:
    console = Console(width=110)
    table = Table("run", "seeds", "mean", "sd", "95 %", "normal? p", "farthest seed", title=f"noise of {metric.name}")
    for one in noises:
        spread = f"{one.sd_low:.3g}–{one.sd_high:.3g}"
        table.add_row(
            one.run, f"{one.n}", f"{one.mean:.4g}", f"{one.sd:.3g}", spread, f"{one.normal_p:.2g}", f"{one.farthest:+.1f} sd"
        )
    console.print(table)
    table = Table("runs", "seeds", "correlation", "95 %", "studies of 5 seeds that pair", title="pairing by seed")
    for pair in pairings:
        interval = f"{pair.low:+.2f} … {pair.high:+.2f}"
        table.add_row(f"{pair.a}, {pair.b}", f"{pair.n}", f"{pair.correlation:+.2f}", interval, f"{100 * pair.used:.1f} %")
    console.print(table)
    verdicts = ("better", "worse", "no worse", "same", "none")
    title = f"studies drawn from the seeds; margin {metric.margin:g}, level {LEVEL:g}"
    table = Table("runs", "seeds each", "covered", *verdicts, title=title)
    for row, following in zip(found, [*found[1:], None], strict=True):
        name = f"{row.a}, two halves" if row.a == row.b else f"{row.a} − {row.b}"
        shares = (f"{100 * row.verdicts[verdict]:.1f} %" for verdict in verdicts)
        end = following is None or (following.a, following.b) != (row.a, row.b)
        table.add_row(name, str(row.seeds), f"{100 * row.covered:.1f} %", *shares, end_section=end)
    console.print(table)
    console.print(f"{found[0].draws:,} studies per row; figure: {FIGURE}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=2_000)
    parser.add_argument("--train", type=Path, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--collect", type=Path, metavar="FOLDER")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
