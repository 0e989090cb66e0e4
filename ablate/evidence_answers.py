"""What the commands that defend a verdict answer (compare, decide --explain, audit, plan --diff), as documents of plain values.

Like answers.py, which they belong to; apart from it, because they import statistics.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablate import evidence
from ablate.answers import Answer, command, plain
from ablate.audit import Finding, audit, examine
from ablate.compare import PAIRING_LEVEL, as_json
from ablate.desk import Desk
from ablate.pairs import BY_HAND, compare_two, sample_evidence
from ablate.plan import Plan
from ablate.samples import SampleEvidence
from db.records import DecisionRecord, LockRecord

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


# ---------------------------------------------------------------- compare


def compare(desk: Desk, a: str, b: str, metrics: Sequence[str]) -> Answer:
    """Two runs of one start: intervals, what holds, ledger, the validation samples; nothing is recorded."""
    pair = compare_two(desk, a, b, metrics)
    comparisons = [
        {
            **as_json(one),
            "says": says(as_json(one)),
            "samples": _samples(pair.samples.get(one.metric)),
            "decisions": list(pair.rests.get(one.metric, ())),
        }
        for one in pair.comparisons
    ]
    return plain(
        {
            "study": desk.study.name,
            "profile": desk.study.profile,
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


# ---------------------------------------------------------------- decide --explain, audit


def explained(desk: Desk, sweeps: Sequence[str]) -> Answer:
    """The decisions of these sweeps (none named: all) taken again from the rows, with all behind each; nothing is recorded."""
    trees = [name for name, tree in desk.study.trees.items() if not sweeps or tree.sweep in sweeps]
    plan, taken = desk.plan(), desk.store.decisions()
    found = [examine(desk, plan, taken[name]) for name in trees if name in taken]
    shown = [_finding(one) | {"comparisons": _behind(desk, plan, one)} for one in found]
    used = [comparison for one in shown for comparison in one["comparisons"]]
    return plain(
        {
            "study": desk.study.name,
            "profile": desk.study.profile,
            "decisions": shown,
            "open": [f"{name} is open: `ablate decide {desk.study.trees[name].sweep}`" for name in trees if name not in taken],
            "formulas": formulas(used),
            "deviations": _deviations(desk),
            "next": command(desk, "audit"),
        }
    )


def audited(desk: Desk) -> Answer:
    """Every standing decision and the lock, taken again; `fell` names what does not follow any more."""
    found = audit(desk)
    decisions = [_finding(one) for one in found if isinstance(one.record, DecisionRecord)]
    locks = [_finding(one) for one in found if isinstance(one.record, LockRecord)]
    off = [one.name for one in found if one.verdict != "follows"]
    return plain(
        {
            "study": desk.study.name,
            "profile": desk.study.profile,
            "decisions": decisions,
            "lock": locks[0] if locks else None,
            "fell": [one.name for one in found if one.verdict == "fell"],
            "moved": [one.name for one in found if one.verdict == "moved"],
            "ok": not off,
            "deviations": _deviations(desk),
            "next": command(desk, "decide", "--explain") if off else "",
        }
    )


def _finding(one: Finding) -> Answer:
    """What was taken, what follows from the rows, what is off."""
    record, again = one.record, one.again
    shared = {"name": one.name, "verdict": one.verdict, "problems": list(one.problems), "at": record.at}
    if isinstance(record, LockRecord):
        return shared | {"hash": record.hash}
    return shared | {
        "sweep": record.sweep,
        "number": record.number,
        "status": record.status,
        "by": record.by,
        "took": record.took,
        "line": record.line,
        "because": record.because,
        "sets": dict(record.sets),
        "jobs": dict(record.jobs),
        "labels": sorted({label for of in record.comparisons for label in of.get("labels", ())}),
        "tree_hash": record.tree_hash,
        "again": {"took": again.took, "line": again.line} if isinstance(again, DecisionRecord) else None,
        "today": {"took": one.today.took, "line": one.today.line, "status": one.today.status} if one.today else None,
    }


def _behind(desk: Desk, plan: Plan, one: Finding) -> list[Answer]:
    """The comparisons as the rows give them; a person's decision keeps those of the rule it overruled."""
    source = one.again if isinstance(one.again, DecisionRecord) else one.record
    assert isinstance(source, DecisionRecord), "trees make decisions"
    aliases = desk.study.aliases

    def samples(of: Mapping[str, Any]) -> Answer | None:
        pair = (aliases.get(of["a"], of["a"]), aliases.get(of["b"], of["b"]))
        return _samples(sample_evidence(desk, plan, *pair, of["metric"])) if of["values_b"] else None

    return [{**of, "says": says(of), "samples": samples(of)} for of in source.comparisons]


def _deviations(desk: Desk) -> list[Answer]:
    """Edits of what was frozen at the first launch, with their reasons."""
    return [asdict(deviation) for deviation in desk.store.deviations()]


# ---------------------------------------------------------------- looks


def to_settle(desk: Desk, sweep: str) -> Answer:
    """Which seeds `launch --settle` would train, for which line, and what they cost; nothing is recorded."""
    found = evidence.to_settle(desk, desk.study.sweeps[sweep])
    looks = desk.study.looks
    return plain(
        {
            "study": desk.study.name,
            "profile": desk.study.profile,
            "sweep": sweep,
            "line": found.text,
            "look": found.look,
            "looks": looks,
            "jobs": [{"id": job.id, "run": job.run, "seed": job.seed, "change": job.change} for job in found.jobs],
            "gpu_hours": found.gpu_hours,
            "cost": found.gpu_hours * desk.study.usd_per_gpu_hour,
            "next": command(desk, "launch", "--settle", sweep),
        }
    )


# ---------------------------------------------------------------- words


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


def _samples(found: SampleEvidence | None) -> Answer | None:
    return asdict(found) if found else None
