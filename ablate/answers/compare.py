"""What `ablate compare` answers: two runs of one start, what holds between them, and by which formulas."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablate.answers.document import Answer, command, head, plain
from ablate.deciding.compare import PAIRING_LEVEL
from ablate.deciding.comparison import as_json
from ablate.desk import Desk
from ablate.pairs import BY_HAND, compare_two
from ablate.samples import SampleEvidence

FORMULAS = {
    "pooled": (
        "Δ ± t(1 − level/2, df) · sd · √(1/n_a + 1/n_b); sd² = Σ df_r · s_r² / Σ df_r over the runs of the pool",
        "the within-group mean square of a one-way analysis of variance (Fisher 1925)",
    ),
    "welch": (
        "Δ ± t(1 − level/2, df) · √(s_a²/n_a + s_b²/n_b); df = (Σ v)² / Σ v²/df, v a run's share of the variance",
        "Welch 1947; degrees of freedom: Satterthwaite 1946",
    ),
    "paired": (
        "Δ ± t(1 − level/2, n − 1) · s_d / √n over the n common seeds, s_d of the differences by seed",
        f"Student 1908; paired only where the seeds' correlation is shown to be positive (one-sided t, p < {PAIRING_LEVEL:g})",
    ),
    "declared": (
        "Δ ± z(1 − level/2) · noise · √(1/n_a + 1/n_b), the declared noise taken as known",
        "the normal distribution; no run has two seeds yet",
    ),
    "none": ("no interval: the noise is not known, or nothing was measured", ""),
}
"""Method -> formula of the interval, and where it comes from."""
ALWAYS = {
    "level": "wrong_adoptions / number of trees, Holm's procedure over the pairs a tree asks better or worse about (Holm 1979)",
    "pool": "a run whose variance exceeds the others' (F test, p < 0.01 / runs) is left out and compared with its own",
    "visible": "difference shown with probability 0.8: noncentral t (Cohen 1988, section 2.5)",
    "by sample": "paired by validation sample, clustered by clip or image (Liang & Zeger 1986); never a verdict by itself",
}
"""What holds for every comparison, and its sources."""


def compare(desk: Desk, a: str, b: str, metrics: Sequence[str]) -> Answer:
    """Two runs of one start: intervals, what holds, ledger, the validation samples; nothing is recorded."""
    pair = compare_two(desk, a, b, metrics)
    comparisons = [
        {
            **as_json(one),
            "says": says(as_json(one)),
            "samples": samples_of(pair.samples.get(one.metric)),
            "decisions": list(pair.rests.get(one.metric, ())),
        }
        for one in pair.comparisons
    ]
    return plain(
        {
            **head(desk),
            "a": a,
            "b": pair.b,
            "label": BY_HAND,
            "comparisons": comparisons,
            "open": pair.open,
            "formulas": formulas(comparisons),
            "next": command(desk, "compare", a, b, "--explain") if comparisons else command(desk, "launch"),
        }
    )


def draw(answer: Answer, path: Path) -> None:
    """The forest plot of a `compare` document as a file. UserError where it cannot be written."""
    from ablate.forest import forest, save

    origin = {label for one in answer["comparisons"] for label in one["labels"] if label.startswith("imported")}
    title = f"{answer['study']} ({answer['profile']}): {answer['a']} against {answer['b']}"
    save(forest(answer["comparisons"], "\n".join((title, *sorted(origin)))), path)


def says(one: Mapping[str, Any]) -> str:
    """What holds, as a sentence."""
    a, b, metric = one["a"], one["b"], one["metric"]
    if one["reason"]:
        return f"no verdict on {metric}: {one['reason']}"
    if not one["holds"]:
        visible = f"; a true difference of {one['visible']:.2g} would show with probability 0.8" if one["visible"] else ""
        return f"not shown on {metric}: neither a difference nor its absence{visible}"
    words = {"same": f"the same as {b}"}
    told = [words.get(verdict, f"{verdict} than {b}") for verdict in one["holds"]]
    return f"{a} is {' and '.join(told)} on {metric}"


def formulas(comparisons: Collection[Mapping[str, Any]]) -> list[Answer]:
    """The formulas behind these comparisons, each with its source."""
    methods = dict.fromkeys(str(one["method"]) for one in comparisons)
    own = [{"name": method, "formula": FORMULAS[method][0], "source": FORMULAS[method][1]} for method in methods]
    always = {"no worse, same": _equivalence(comparisons), **ALWAYS}
    return [*own, *({"name": name, "formula": text, "source": ""} for name, text in always.items())] if own else []


def _equivalence(comparisons: Collection[Mapping[str, Any]]) -> str:
    """How `no worse` and `same` are judged, at the levels that were used: others than 0.05 where looks share it."""
    levels = sorted({float(one["tost_level"]) for one in comparisons})
    sides = " or ".join(f"{level:.3g}" for level in levels)
    covers = " or ".join(f"{100 * (1 - 2 * level):.3g} %" for level in levels)
    shared = "; the declared looks share 0.05 (Lan & DeMets 1983)" if levels != [0.05] else ""
    return f"each bound one-sided at {sides}: the {covers} interval above −margin, or inside ±margin (Schuirmann 1987){shared}"


def samples_of(found: SampleEvidence | None) -> Answer | None:
    return asdict(found) if found else None
